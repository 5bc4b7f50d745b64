use serde_json::json;

use super::*;
use crate::report::model::{Blocks, IntervalReport, WorkerReport};

/// Runs of a made-up target on a made-up machine. Run after run differs by some percent, and a second resembles the
/// one before it.
struct World {
    rng: fastrand::Rng,
}

/// Standard deviations of the logarithms.
#[derive(Clone, Copy)]
struct Noise {
    /// Of runs.
    run: f64,
    /// Of the seconds of a run, which are an autoregressive series.
    second: f64,
}

const RATE: Noise = Noise { run: 0.01, second: 0.03 };
const MEDIAN: Noise = Noise { run: 0.015, second: 0.04 };
const TAIL: Noise = Noise { run: 0.03, second: 0.12 };

/// How much of a second's deviation is that of the second before.
const MEMORY: f64 = 0.6;

impl World {
    fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed) }
    }

    /// A normal deviate, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0
    }

    fn series(&mut self, typical: f64, noise: Noise, seconds: usize) -> Vec<f64> {
        let centre = typical.ln() + noise.run * self.normal();
        let mut deviation = noise.second * self.normal();
        let fresh = noise.second * (1.0 - MEMORY * MEMORY).sqrt();
        (0..seconds)
            .map(|_| {
                deviation = MEMORY * deviation + fresh * self.normal();
                (centre + deviation).exp()
            })
            .collect()
    }

    /// A run of 30 s on a target that is `slower` by this factor.
    fn run(&mut self, slower: f64) -> Report {
        let rates = self.series(50_000.0 / slower, RATE, 30);
        let medians = self.series(800.0 * slower, MEDIAN, 30);
        let tails = self.series(2_500.0 * slower, TAIL, 30);
        let blocks = |rate: f64, p50: f64, p99: f64| {
            let mut blocks = Blocks::default();
            (blocks.rate.achieved_cps, blocks.rate.requests_per_s) = (Some(rate), Some(rate));
            blocks.connections.failed_ratio = Some(0.0);
            let connect = &mut blocks.latency_us.connect_from_schedule;
            (connect.p50, connect.p99) = (Some(p50 as u64), Some(p99 as u64));
            (blocks.packets.tx_per_connection, blocks.packets.rx_per_connection) = (Some(4.0), Some(3.0));
            blocks.workers = vec![WorkerReport::default()];
            blocks
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let mut report = Report::new("load");
        report.config = json!({"profile": "crr", "concurrency": 500});
        report.verdict = Verdict::Valid;
        report.blocks = blocks(mean(&rates), stats::median(&medians).unwrap(), mean(&tails));
        report.intervals = rates
            .iter()
            .zip(medians.iter().zip(&tails))
            .enumerate()
            .map(|(second, (rate, (p50, p99)))| IntervalReport {
                at_s: second as f64,
                seconds: 1.0,
                phase: "sustain".into(),
                blocks: blocks(*rate, *p50, *p99),
                spread: None,
            })
            .collect();
        report
    }

    fn runs(&mut self, count: usize, slower: f64) -> Vec<(String, Report)> {
        (0..count).map(|index| (format!("run-{index}.json"), self.run(slower))).collect()
    }
}

fn found(before: &[(String, Report)], after: &[(String, Report)]) -> Finding {
    compare(before, after, &Options::default()).unwrap().finding
}

#[test]
fn five_percent_are_found_in_ten_noisy_repeats() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let (before, after) = (world.runs(10, 1.0), world.runs(10, 1.05));
        let comparison = compare(&before, &after, &Options::default()).unwrap();
        assert_eq!(comparison.finding, Finding::Worse, "seed {seed}: {}", render(&comparison));
        assert_eq!(found(&after, &before), Finding::Better, "seed {seed}, turned around");
    }
}

#[test]
fn equal_runs_are_no_regression() {
    for repeats in [1, 3, 10] {
        let wolf = (0..20).filter(|pair| {
            let mut world = World::new(1_000 + pair);
            let (before, after) = (world.runs(repeats, 1.0), world.runs(repeats, 1.0));
            matches!(found(&before, &after), Finding::Worse | Finding::Better)
        });
        assert_eq!(wolf.count(), 0, "{repeats} repeats");
    }
}

/// What the confidence promises, over many pairs: the share of false alarms and of regressions found.
#[test]
fn alarms_are_as_rare_as_promised() {
    for (repeats, slower, least) in [(10, 1.05, 0.95), (5, 1.10, 0.9), (3, 1.20, 0.8), (1, 1.25, 0.8)] {
        let share = |slower: f64, seed: u64| {
            let worse = (0..100).filter(|pair| {
                let mut world = World::new(seed + pair);
                let (before, after) = (world.runs(repeats, 1.0), world.runs(repeats, slower));
                found(&before, &after) == Finding::Worse
            });
            worse.count() as f64 / 100.0
        };
        let (false_alarms, detected) = (share(1.0, 10_000), share(slower, 20_000));
        println!("{repeats} repeats: {false_alarms} false alarms, {detected} of regressions by {slower} found");
        assert!(false_alarms <= 0.05, "{repeats} repeats: {false_alarms} false alarms");
        assert!(detected >= least, "{repeats} repeats: {detected} of regressions by {slower} found");
    }
}

#[test]
fn what_is_within_the_tolerance_is_the_same() {
    let mut world = World::new(5);
    let before = world.runs(10, 1.0);
    let loose = Options { tolerance: 0.1, ..Options::default() };
    let comparison = compare(&before, &before, &loose).unwrap();
    assert_eq!(comparison.finding, Finding::Same, "{}", render(&comparison));
    let strict = Options { tolerance: 0.001, ..Options::default() };
    assert_eq!(compare(&before, &before, &strict).unwrap().finding, Finding::Unclear);
}

#[test]
fn one_measure_is_enough_and_only_those_named_count() {
    let mut world = World::new(6);
    let (before, mut after) = (world.runs(5, 1.0), world.runs(5, 1.0));
    for (_, report) in &mut after {
        report.blocks.connections.failed_ratio = Some(0.02);
        report.blocks.packets.tx_per_connection = Some(4.02);
    }
    let comparison = compare(&before, &after, &Options::default()).unwrap();
    let finding = |path: &str| comparison.measures.iter().find(|measure| measure.measure == path).unwrap().finding;
    assert_eq!(comparison.finding, Finding::Worse);
    assert_eq!(finding("connections.failed_ratio"), Finding::Worse);
    assert_eq!(finding("packets.tx_per_connection"), Finding::Same, "certain, but half a percent");
    let text = render(&comparison);
    assert!(text.starts_with("comparison   REGRESSION\n             - connections.failed_ratio +1900.0%"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let named = Options { measures: vec!["packets.tx_per_connection".into()], ..Options::default() };
    assert_eq!(compare(&before, &after, &named).unwrap().finding, Finding::Same);
    let unknown = Options { measures: vec!["packets.x".into()], ..Options::default() };
    assert!(compare(&before, &after, &unknown).unwrap_err().contains("not compared"));
}

#[test]
fn other_settings_are_not_compared() {
    let mut world = World::new(8);
    let (before, mut after) = (world.runs(2, 1.0), world.runs(2, 1.0));
    after[1].1.config["concurrency"] = json!(400);
    let error = compare(&before, &after, &Options::default()).unwrap_err();
    assert!(error.contains("run-1.json were asked for different things: concurrency: 500, 400"), "{error}");
    let allowed = Options { allow_different: true, ..Options::default() };
    assert!(compare(&before, &after, &allowed).is_ok());
    after[1].1.config["concurrency"] = json!(500);
    after[0].1.verdict = Verdict::GeneratorLimited;
    let notes = compare(&before, &after, &Options::default()).unwrap().notes;
    assert!(notes[0].contains("generator_limited"), "{notes:?}");
}

#[test]
fn a_short_single_run_says_nothing() {
    let mut world = World::new(9);
    let (mut before, after) = (world.runs(1, 1.0), world.runs(1, 2.0));
    before[0].1.intervals.truncate(2);
    assert_eq!(found(&before, &after), Finding::Unclear);
}
