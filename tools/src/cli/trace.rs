//! `syncline trace`.

use std::path::PathBuf;

use clap::Args;

use crate::trace::FlowFilter;
use crate::units::Count;

/// `syncline trace`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  syncline trace run.pcap --count 3
  syncline trace run.pcap --flow 10.9.0.1:40000-10.9.0.2:80
  tcpdump -i eth0 -w - tcp | syncline trace -
States are those of RFC 9293, as they follow from what passed:
docs/insight.md tells how.")]
pub struct TraceArgs {
    /// Capture to read, pcap or pcapng; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only connections between these two ends, in either direction
    #[arg(long, value_name = "A:P-B:Q")]
    pub flow: Option<FlowFilter>,
    /// Show so many connections
    #[arg(long, value_name = "N", default_value = "20")]
    pub count: Count,
    /// Show so many segments of each, from its beginning and its end
    #[arg(long, value_name = "N", default_value = "200")]
    pub segments: Count,
    /// Keep to ASCII; so it is, too, where the locale is not UTF-8
    #[arg(long)]
    pub ascii: bool,
    /// Write all of it as JSON there; `-` is stdout, and then nothing else goes there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
