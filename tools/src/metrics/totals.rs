//! What load generators have measured since the start of the process.

use crate::load::{Phase, Snapshot};
use crate::measure::{Latency, Stage, Tally};

/// Upper bounds of the buckets of times, seconds: three a decade, from 10 µs.
pub(super) const BOUNDS_S: [f64; 21] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Times of one kind, in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets {
    /// Each bucket for itself; the last is for what is above all bounds.
    pub(super) counts: [u64; BOUNDS_S.len() + 1],
    pub(super) count: u64,
    pub(super) sum_s: f64,
}

impl Buckets {
    fn add(&mut self, latency: &Latency) {
        let histogram = latency.histogram();
        for value in histogram.iter_recorded() {
            // A cell of the histogram spans a thousandth: its lower end is the one that does not cross a bound.
            let seconds = histogram.lowest_equivalent(value.value_iterated_to()) as f64 / 1e6;
            let count = value.count_since_last_iteration();
            let bucket = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
            self.counts[bucket] += count;
            self.count += count;
            self.sum_s += seconds * count as f64;
        }
    }
}

/// Sums over the snapshots.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LoadTotals {
    pub(super) offered_cps: Option<f64>,
    pub(super) tally: Tally,
    pub(super) held_back: u64,
    pub(super) latency: [Buckets; Stage::COUNT],
    pub(super) phase: Phase,
    /// By worker.
    open: Vec<u64>,
}

impl LoadTotals {
    pub(super) fn add(&mut self, index: usize, snapshot: &Snapshot) {
        for measures in [&snapshot.ramp, &snapshot.sustain] {
            self.tally.add(&measures.tally);
            let stages = self.latency.iter_mut().zip(&measures.latency);
            stages.filter(|(_, latency)| !latency.histogram().is_empty()).for_each(|(sum, latency)| sum.add(latency));
        }
        self.held_back += snapshot.held_back;
        self.phase = if snapshot.last { Phase::Done } else { snapshot.phase };
        if self.open.len() <= index {
            self.open.resize(index + 1, 0);
        }
        self.open[index] = snapshot.open.into();
    }

    /// Connections open at the end of the last snapshots.
    pub(super) fn open(&self) -> u64 {
        self.open.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_go_into_the_bucket_whose_bound_they_do_not_exceed() {
        let mut snapshot = Snapshot { open: 7, ..Snapshot::default() };
        for micros in [1, 10, 11, 1_000_000, 61_000_000] {
            snapshot.sustain.record(Stage::Connect, Duration::from_micros(micros));
        }
        snapshot.ramp.record(Stage::Connect, Duration::from_micros(25));
        let mut totals = LoadTotals::default();
        totals.add(1, &snapshot);
        let connect = &totals.latency[Stage::Connect as usize];
        assert_eq!((connect.counts[0], connect.counts[1], connect.counts[15], connect.counts[21]), (2, 2, 1, 1));
        assert_eq!(connect.count, 6);
        assert!((connect.sum_s - 62.0).abs() < 0.1, "{connect:?}");
        totals.add(0, &snapshot);
        assert_eq!((totals.open(), totals.latency[Stage::Connect as usize].count), (14, 12));
        assert!(BOUNDS_S.is_sorted());
    }
}
