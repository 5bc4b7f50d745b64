//! The course of a run in bounded memory: seconds that become pairs of seconds, and so on, as the run grows long.

use super::combine::{Relation, combine};
use super::model::{IntervalReport, Spread};

/// Intervals kept at most, with their histograms some 7 KB each. A run of up to five minutes keeps every second; an hour has
/// intervals of 16 s.
pub const INTERVALS_MAX: usize = 300;

/// Intervals in order. What is added costs the same at any time: one pair at most is made one.
#[derive(Debug)]
pub struct Series {
    intervals: Vec<IntervalReport>,
    /// What pairs are made of: a power of two, seconds.
    width_s: u64,
    /// What lies before it is of twice the width.
    next: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self { intervals: Vec::new(), width_s: 1, next: 0 }
    }
}

impl Series {
    /// Adds an interval of a second or less.
    pub fn push(&mut self, interval: IntervalReport) {
        self.intervals.push(interval);
        if self.intervals.len() > INTERVALS_MAX {
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        // Phases end within a pair, so that some have nobody to go with. There are four phases and several hundred
        // intervals: the second walk at the latest finds a pair.
        let mut walks = 0;
        while walks < 2 {
            if self.next + 1 >= self.intervals.len() {
                (self.next, self.width_s) = (0, self.width_s * 2);
                walks += 1;
            } else if self.fold(self.next, self.width_s * 2) {
                return;
            } else {
                self.next += 1;
            }
        }
    }

    /// Makes one of the intervals `at` and `at + 1` if they lie in the same `width_s` and the same phase.
    fn fold(&mut self, at: usize, width_s: u64) -> bool {
        let (first, second) = (&self.intervals[at], &self.intervals[at + 1]);
        let slot = |interval: &IntervalReport| interval.at_s as u64 / width_s;
        if first.phase != second.phase || slot(first) != slot(second) {
            return false;
        }
        let one = join(first, second);
        self.intervals[at] = one;
        self.intervals.remove(at + 1);
        true
    }

    /// The intervals, in order and of one width.
    pub fn finish(mut self) -> Vec<IntervalReport> {
        let width_s = if self.next > 0 { self.width_s * 2 } else { self.width_s };
        let mut at = 0;
        while at + 1 < self.intervals.len() {
            if !self.fold(at, width_s) {
                at += 1;
            }
        }
        self.intervals
    }
}

/// Two intervals that follow each other as one.
pub fn join(first: &IntervalReport, second: &IntervalReport) -> IntervalReport {
    let parts = [(first.seconds, &first.blocks), (second.seconds, &second.blocks)];
    IntervalReport {
        at_s: first.at_s,
        seconds: first.seconds + second.seconds,
        phase: first.phase.clone(),
        blocks: combine(Relation::Then, &parts),
        spread: Some(spread(first).with(&spread(second))),
    }
}

fn spread(interval: &IntervalReport) -> Spread {
    interval.spread.clone().unwrap_or_else(|| {
        let (cps, open) = (interval.blocks.rate.achieved_cps, interval.blocks.connections.open_at_end);
        Spread { achieved_cps_min: cps, achieved_cps_max: cps, open_min: open, open_max: open }
    })
}

impl Spread {
    fn with(&self, other: &Self) -> Self {
        let rate = |a: Option<f64>, b: Option<f64>, which: fn(f64, f64) -> f64| match (a, b) {
            (Some(a), Some(b)) => Some(which(a, b)),
            (a, b) => a.or(b),
        };
        Self {
            achieved_cps_min: rate(self.achieved_cps_min, other.achieved_cps_min, f64::min),
            achieved_cps_max: rate(self.achieved_cps_max, other.achieved_cps_max, f64::max),
            open_min: [self.open_min, other.open_min].into_iter().flatten().min(),
            open_max: self.open_max.max(other.open_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::{Latency, Stage};
    use crate::report::blocks::{Detail, Span};
    use crate::report::latency::LatencySummary;

    fn second(at: u64, phase: &str, whole: &mut Latency) -> IntervalReport {
        let mut span = Span { length: Duration::from_secs(1), ..Span::default() };
        for i in 0..20 {
            let micros = Duration::from_micros((at * 7_919 + i * 104_729) % 50_000);
            span.measures.record(Stage::Connect, micros);
            whole.record(micros);
        }
        span.measures.tally.completed = 100 + at % 10;
        span.levels.open = at;
        let blocks = span.blocks(Detail::Full);
        IntervalReport { at_s: at as f64, seconds: 1.0, phase: phase.into(), blocks, spread: None }
    }

    #[test]
    fn an_hour_stays_within_bounds_and_loses_no_count() {
        let (mut series, mut whole) = (Series::default(), Latency::new());
        let mut completed = 0;
        for at in 0..3_700 {
            let phase = if at < 33 { "ramp" } else { "sustain" };
            let interval = second(at, phase, &mut whole);
            completed += interval.blocks.connections.completed.unwrap();
            series.push(interval);
            assert!(series.intervals.len() <= INTERVALS_MAX);
        }
        let intervals = series.finish();
        assert!((INTERVALS_MAX / 2..=INTERVALS_MAX).contains(&intervals.len()), "{}", intervals.len());
        assert_eq!(
            intervals.iter().filter_map(|interval| interval.blocks.connections.completed).sum::<u64>(),
            completed
        );
        let stages = intervals.iter().map(|interval| &interval.blocks.latency_us.connect);
        assert_eq!(LatencySummary::merged(stages), LatencySummary::encode(&whole));
        let mut at = 0.0;
        for interval in &intervals {
            assert_eq!(interval.at_s, at, "no gap");
            at += interval.seconds;
        }
        assert_eq!(at, 3_700.0);
        let full = intervals.iter().filter(|interval| interval.seconds == 16.0).count();
        assert!(full + 4 >= intervals.len(), "one width but at the ends of phases: {full} of {}", intervals.len());
        let spread = intervals[50].spread.clone().unwrap();
        assert_eq!(spread.open_max.unwrap() - spread.open_min.unwrap(), 15);
        assert!(spread.achieved_cps_min < spread.achieved_cps_max);
    }

    #[test]
    fn five_minutes_keep_every_second() {
        let (mut series, mut whole) = (Series::default(), Latency::new());
        (0..INTERVALS_MAX as u64).for_each(|at| series.push(second(at, "sustain", &mut whole)));
        let intervals = series.finish();
        assert_eq!(intervals.len(), INTERVALS_MAX);
        assert!(intervals.iter().all(|interval| interval.spread.is_none()));
    }
}
