//! What the view knows of a run.

use std::collections::VecDeque;
use std::time::Duration;

use crate::report::latency::LatencySummary;
use crate::report::model::{Blocks, IntervalReport, SearchStep, ThresholdResult, Verdict};
use crate::report::verdict::causes;

/// Seconds that are kept for the charts: more than a wide terminal shows.
const POINTS_MAX: usize = 1_024;

/// An interval shorter than this has no rate worth a point in a chart.
const POINT_MIN_S: f64 = 0.25;

/// How far a run goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// For so long, the ramp included.
    Time(Duration),
    /// For so many connections.
    Count(u64),
    /// Until so many connections are open, and then for so long.
    Held(u64, Duration),
    /// Until it is told to stop.
    #[default]
    Endless,
}

/// What is known before the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// What runs: `load crr → 10.9.0.2:80`.
    pub title: String,
    /// How far it goes.
    pub pace: Pace,
    /// Whether connections, not only frames, are timed: a server's are not.
    pub timed: bool,
    /// Connections per second before the first stage.
    pub start_cps: f64,
    /// The stages: how many seconds each takes, and the rate at its end.
    pub stages: Vec<(f64, f64)>,
}

impl Facts {
    /// The number of the stage that the run is in `second` seconds after its start, from 0, and the rate then; `None`
    /// without stages. A run that is over is in its last stage.
    fn stage_at(&self, second: f64) -> Option<(usize, f64)> {
        let (mut begin, mut from) = (0.0, self.start_cps);
        for (index, &(length, to)) in self.stages.iter().enumerate() {
            if second < begin + length {
                return Some((index, from + (to - from) * (second - begin) / length));
            }
            (begin, from) = (begin + length, to);
        }
        self.stages.len().checked_sub(1).map(|last| (last, from))
    }
}

/// One second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// When it began, seconds from the start of the run.
    pub at_s: f64,
    /// Connections per second: completed, and asked for.
    pub cps: f64,
    /// Of an open loop.
    pub offered_cps: Option<f64>,
    /// Requests per second.
    pub requests_per_s: f64,
    /// Connections open at its end.
    pub open: u64,
    /// Failures within it.
    pub failed: u64,
    /// Bits of frames sent per second.
    pub tx_bits_per_s: f64,
    /// Bits of frames received per second.
    pub rx_bits_per_s: f64,
    /// The latency that is shown, µs: p50, p99, p99.9.
    pub latency_us: [Option<u64>; 3],
}

/// What could be said if the run ended now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SoFar {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// The thresholds.
    pub thresholds: Vec<ThresholdResult>,
    /// Launches that waited for room.
    pub held_back: u64,
}

/// Counts since the start of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections launched.
    pub attempted: u64,
    /// Connections that did all they were to do.
    pub completed: u64,
    /// Failures by cause.
    pub failed: Vec<(&'static str, u64)>,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Frames received and not used.
    pub dropped: u64,
}

/// Everything the view shows.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What was known before.
    pub facts: Facts,
    /// The phase.
    pub phase: String,
    /// Since the start of the run; `None` before it.
    pub elapsed: Option<Duration>,
    /// The seconds, oldest first.
    pub points: VecDeque<Point>,
    /// The figures of the last second.
    pub last: Blocks,
    /// Sums.
    pub totals: Totals,
    /// The verdict so far.
    pub so_far: Option<SoFar>,
    /// When the run passed from its ramp, or its opening, to what is measured.
    pub sustain_at_s: Option<f64>,
    /// The steps of a search.
    pub steps: Vec<SearchStep>,
    /// Whether the end was asked for.
    pub stopping: bool,
}

impl Model {
    /// Of a run that has not begun.
    pub fn new(facts: Facts) -> Self {
        Self { facts, phase: "init".into(), ..Self::default() }
    }

    /// Takes in a second, or the part of one that belongs to a phase.
    pub fn add(&mut self, interval: &IntervalReport) {
        let blocks = &interval.blocks;
        self.phase.clone_from(&interval.phase);
        if interval.phase == "sustain" && self.sustain_at_s.is_none() {
            self.sustain_at_s = Some(interval.at_s);
        }
        let failed = causes(&blocks.connections.failed);
        let totals = &mut self.totals;
        totals.attempted += blocks.connections.attempted.unwrap_or(0);
        totals.completed += blocks.connections.completed.unwrap_or(0);
        totals.retransmitted += blocks.packets.retransmitted.unwrap_or(0);
        totals.dropped += blocks.packets.dropped.values().sum::<u64>();
        for (cause, count) in failed.iter().filter(|(_, count)| *count > 0) {
            match totals.failed.iter_mut().find(|(name, _)| name == cause) {
                Some((_, sum)) => *sum += count,
                None => totals.failed.push((cause, *count)),
            }
        }
        totals.failed.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if interval.seconds < POINT_MIN_S {
            return;
        }
        let (_, latency) = headline(blocks);
        let middle = interval.at_s + interval.seconds / 2.0;
        let offered_cps = self.facts.stage_at(middle).map(|(_, rate)| rate).or(blocks.rate.offered_cps);
        self.points.push_back(Point {
            at_s: interval.at_s,
            cps: blocks.rate.achieved_cps.unwrap_or(0.0),
            offered_cps,
            requests_per_s: blocks.rate.requests_per_s.unwrap_or(0.0),
            open: blocks.connections.open_at_end.unwrap_or(0),
            failed: failed.iter().map(|(_, count)| count).sum(),
            tx_bits_per_s: blocks.rate.tx_bits_per_s.unwrap_or(0.0),
            rx_bits_per_s: blocks.rate.rx_bits_per_s.unwrap_or(0.0),
            latency_us: [latency.p50, latency.p99, latency.p99_9],
        });
        if self.points.len() > POINTS_MAX {
            self.points.pop_front();
        }
        self.last = blocks.clone();
        self.last.rate.offered_cps = offered_cps;
    }

    /// Failures of all causes.
    pub fn failed(&self) -> u64 {
        self.totals.failed.iter().map(|(_, count)| count).sum()
    }

    /// How much of the run is done, 0 to 1, and how long the rest takes, as far as either can be told.
    pub fn progress(&self) -> (Option<f64>, Option<Duration>) {
        let elapsed = self.elapsed.unwrap_or_default();
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| (part / whole).clamp(0.0, 1.0));
        match self.facts.pace {
            Pace::Time(whole) => {
                (share(elapsed.as_secs_f64(), whole.as_secs_f64()), Some(whole.saturating_sub(elapsed)))
            }
            Pace::Count(count) => {
                let ended = self.totals.completed + self.failed();
                let share = share(ended as f64, count as f64);
                let rest = share.filter(|share| *share > 0.01).map(|share| elapsed.mul_f64((1.0 - share) / share));
                (share, rest)
            }
            Pace::Held(connections, hold) => match self.sustain_at_s {
                Some(at) => {
                    let held = elapsed.saturating_sub(Duration::from_secs_f64(at));
                    (share(held.as_secs_f64(), hold.as_secs_f64()), Some(hold.saturating_sub(held)))
                }
                None => (share(self.last.connections.open_at_end.unwrap_or(0) as f64, connections as f64), None),
            },
            Pace::Endless => (None, None),
        }
    }

    /// The stage it is in, from 1, and how many there are.
    pub fn stage(&self) -> Option<(usize, usize)> {
        let (stage, _) = self.facts.stage_at(self.elapsed?.as_secs_f64())?;
        Some((stage + 1, self.facts.stages.len()))
    }
}

/// The latency that tells most of what a run measures: of requests if there were any, else of connecting; from when
/// it was due, if there is a schedule.
pub(super) fn headline(blocks: &Blocks) -> (&'static str, &LatencySummary) {
    let latencies = &blocks.latency_us;
    let candidates = [
        ("request, from schedule", &latencies.transaction_from_schedule),
        ("request", &latencies.transaction),
        ("connect, from schedule", &latencies.connect_from_schedule),
        ("connect", &latencies.connect),
    ];
    let measured = |summary: &LatencySummary| summary.count.is_some_and(|count| count > 0);
    candidates.into_iter().find(|(_, summary)| measured(summary)).unwrap_or(("connect", &latencies.connect))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(at_s: f64, seconds: f64, phase: &str) -> IntervalReport {
        let mut interval = IntervalReport { at_s, seconds, phase: phase.into(), ..IntervalReport::default() };
        let connections = &mut interval.blocks.connections;
        (connections.attempted, connections.completed, connections.failed.reset) = (Some(100), Some(90), Some(10));
        interval
    }

    #[test]
    fn sums_take_every_interval_and_charts_only_the_long_ones() {
        let mut model = Model::new(Facts::default());
        model.add(&interval(0.0, 1.0, "ramp"));
        model.add(&interval(1.0, 0.1, "sustain"));
        assert_eq!((model.totals.attempted, model.totals.completed, model.failed()), (200, 180, 20));
        assert_eq!((model.points.len(), model.sustain_at_s, model.phase.as_str()), (1, Some(1.0), "sustain"));
        (0..2_000).for_each(|second| model.add(&interval(f64::from(second), 1.0, "sustain")));
        assert_eq!(model.points.len(), POINTS_MAX, "a long run takes no more memory than a short one");
    }

    #[test]
    fn progress_follows_what_ends_the_run() {
        let seconds = Duration::from_secs;
        let mut model = Model::new(Facts { pace: Pace::Time(seconds(40)), ..Facts::default() });
        model.elapsed = Some(seconds(10));
        assert_eq!(model.progress(), (Some(0.25), Some(seconds(30))));
        model.elapsed = Some(seconds(50));
        assert_eq!(model.progress(), (Some(1.0), Some(seconds(0))));
        model.facts.pace = Pace::Count(400);
        model.add(&interval(0.0, 1.0, "sustain"));
        assert_eq!(model.progress(), (Some(0.25), Some(seconds(150))), "failed ones count: they are not tried again");
        model.facts.pace = Pace::Held(100, seconds(60));
        (model.sustain_at_s, model.last.connections.open_at_end) = (None, Some(50));
        assert_eq!(model.progress(), (Some(0.5), None));
        model.sustain_at_s = Some(20.0);
        assert_eq!(model.progress(), (Some(0.5), Some(seconds(30))));
        model.facts.pace = Pace::Endless;
        assert_eq!(model.progress(), (None, None));
    }

    #[test]
    fn stages_are_counted_from_one() {
        let stages = vec![(5.0, 1_000.0), (5.0, 3_000.0)];
        let mut model = Model::new(Facts { stages, ..Facts::default() });
        assert_eq!(model.stage(), None);
        for (second, rate) in [(0.0, 0.0), (2.5, 500.0), (5.0, 1_000.0), (7.5, 2_000.0), (99.0, 3_000.0)] {
            assert_eq!(model.facts.stage_at(second).unwrap().1, rate);
        }
        // What is asked for is the rate of now, not the mean of the run.
        model.add(&interval(7.0, 1.0, "sustain"));
        assert_eq!((model.points[0].offered_cps, model.last.rate.offered_cps), (Some(2_000.0), Some(2_000.0)));
        assert_eq!(Facts::default().stage_at(1.0), None);
        for (elapsed, stage) in [(0, 1), (5, 2), (60, 2)] {
            model.elapsed = Some(Duration::from_secs(elapsed));
            assert_eq!(model.stage(), Some((stage, 2)));
        }
    }
}
