//! A line a second on stderr, for whoever watches.

use std::io::{self, IsTerminal as _};

use crate::cli::OutputArgs;
use crate::report::model::IntervalReport;
use crate::report::text::si;
use crate::report::verdict::causes;

/// Prints intervals as they are completed, if anybody is there to see them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    wanted: bool,
}

impl Progress {
    /// On a terminal, or because it was asked for.
    pub(super) fn new(output: &OutputArgs) -> Self {
        Self { wanted: output.progress || io::stderr().is_terminal() }
    }

    /// Prints a line.
    pub(super) fn interval(self, interval: &IntervalReport) {
        if !self.wanted {
            return;
        }
        let blocks = &interval.blocks;
        let failed: u64 = causes(&blocks.connections.failed).iter().map(|(_, count)| count).sum();
        eprintln!(
            "{:>4.0} s {:8} {:>10} conn/s {:>10} req/s {:>9} open {:>7} failed  connect p99 {} µs",
            interval.at_s + interval.seconds,
            interval.phase,
            si(blocks.rate.achieved_cps),
            si(blocks.rate.requests_per_s),
            blocks.connections.open_at_end.unwrap_or(0),
            failed,
            blocks.latency_us.connect.p99.map_or_else(|| "-".into(), |p99| p99.to_string()),
        );
    }
}
