//! A line a second on stderr, for whoever watches.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crate::cli::OutputArgs;
use crate::report::blocks::Span;
use crate::report::model::{IntervalReport, SearchStep};
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

    /// Prints a line about a flood.
    pub(super) fn flood(self, at: Duration, span: &Span) {
        if !self.wanted {
            return;
        }
        let per_second = |count: u64| si(Some(count as f64 / span.length.as_secs_f64()));
        let (sent, received) = (per_second(span.traffic.tx_frames), per_second(span.traffic.rx_frames));
        eprintln!("{:>4.0} s {sent:>10} frames/s sent {received:>10} received", at.as_secs_f64());
    }

    /// Prints the outcome of a step of a search.
    pub(super) fn step(self, step: &SearchStep) {
        if self.wanted {
            let state = if step.pass { "holds" } else { step.verdict.name() };
            let repeat = if step.repeat { ", again" } else { "" };
            eprintln!("search{repeat}: {} {state} ({} conn/s)", step.value, si(step.achieved_cps));
        }
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
