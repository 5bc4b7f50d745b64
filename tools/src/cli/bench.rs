//! `syncline demo` and `syncline bench`.

use clap::{Args, Subcommand};

use super::OutputArgs;
use super::device::{Mode, Transmit};
use crate::bed::BedName;
use crate::net::Cores;
use crate::units::{Octets, Rate, Span};

/// `syncline demo`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  syncline demo                                 as root: it makes namespaces, and removes them
  syncline demo --seconds 60 --json demo.json")]
pub struct DemoArgs {
    /// How long the load lasts
    #[arg(long, value_name = "S", default_value = "10s")]
    pub seconds: Span,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `syncline bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  syncline bench ring --cores 0,1 --profile crr --duration 5
  syncline bench raw --duration 5")]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Both ends in one process, joined by a ring: the engine with no kernel in the way
    Ring(RingArgs),
    /// The bare device path of a test bed, both directions at once, one core each end: the ceiling
    Raw(RawArgs),
}

/// `syncline bench ring`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  syncline bench ring --cores 0,1 --concurrency 1000 --piggyback")]
pub struct RingArgs {
    /// Cores of the server and of the load
    #[arg(long, value_name = "A,B")]
    pub cores: Option<Cores>,
    /// `connect`: open and close; `crr`: with a request and its response
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub profile: RingProfile,
    /// How long
    #[arg(long, value_name = "S", default_value = "10s")]
    pub duration: Span,
    /// New connections per second, instead of --concurrency
    #[arg(long, value_name = "N", conflicts_with = "concurrency")]
    pub rate: Option<Rate>,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub concurrency: u32,
    /// Put the request on the handshake's ACK
    #[arg(long)]
    pub piggyback: bool,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The profiles that make sense on a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RingProfile {
    /// Open, close
    Connect,
    /// Open, one request, one response, close
    #[default]
    Crr,
}

/// `syncline bench raw`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  syncline bench raw --frame-bytes 64 --duration 5s")]
pub struct RawArgs {
    /// The bed; if there is none of that name, one is made for the time being
    #[arg(long, value_name = "NAME", default_value = "syn")]
    pub name: BedName,
    /// Octets of a frame
    #[arg(long, value_name = "N", default_value = "64")]
    pub frame_bytes: Octets,
    /// How the XDP program is attached: `auto`, `native` or `skb`
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub mode: Mode,
    /// How frames leave: `auto` or `ring`
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub transmit: Transmit,
    /// How long
    #[arg(long, value_name = "S", default_value = "10s")]
    pub duration: Span,
    /// Where results go.
    #[command(flatten)]
    pub output: OutputArgs,
}
