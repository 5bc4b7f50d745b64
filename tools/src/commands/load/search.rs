//! `--search`: run after run, until the highest value is known whose thresholds hold.
//!
//! The value doubles until it does not hold or the range ends; then the gap is halved until it is small enough. The
//! best is repeated, and if it does not hold again, the search goes on below it: what holds once may be luck.

use syncline_engine::worker::Worker;

use super::{Generating, Generator, LoadPlan};
use crate::cli::LoadArgs;
use crate::cli::load::SearchFor;
use crate::error::{Error, Result};
use crate::load::{Client, Load, Supply};
use crate::privilege;
use crate::report::model::{Report, SearchReport, SearchStep, Verdict};
use crate::report::{Threshold, verdict};
use crate::run::Waitable;
use crate::setup::Pages;
use crate::signals::Stop;

/// The highest value that is tried if nothing else limits it.
const VALUE_MAX: u64 = 1 << 24;

/// Runs at most: doubling and halving need about 40 from 1 to [`VALUE_MAX`].
const RUNS_MAX: usize = 64;

/// What to search for, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Search {
    what: SearchFor,
    from: u64,
    to: u64,
    /// The gap at which the search ends, as a share of the value.
    precision: f64,
}

impl Search {
    pub(super) fn new(args: &LoadArgs, what: SearchFor, supply: &Supply) -> Self {
        let (start, most) = match what {
            SearchFor::Rate => (1_000, supply.rate_max_cps().map_or(VALUE_MAX, |cps| cps as u64)),
            SearchFor::Connections => (100, supply.connections_max),
        };
        let to = args.search_to.map_or(VALUE_MAX, |to| to.0).min(most).max(1);
        let from = args.search_from.map_or(start, |from| from.0).min(to);
        Self { what, from, to, precision: f64::from(args.search_percent) / 100.0 }
    }

    /// `plan` with `value` in its place.
    fn apply(&self, plan: &LoadPlan, value: u64) -> LoadPlan {
        let mut plan = plan.clone();
        plan.plan.load = match (self.what, plan.plan.load) {
            (SearchFor::Rate, Load::Rate { in_flight_max, .. }) => {
                Load::Rate { per_second: value as f64, in_flight_max }
            }
            (SearchFor::Connections, Load::Held { per_second, .. }) => Load::Held { connections: value, per_second },
            (SearchFor::Connections, _) => Load::Concurrency(u32::try_from(value).unwrap_or(u32::MAX)),
            (SearchFor::Rate, load) => load,
        };
        plan.thresholds.retain(|threshold| !about_search(threshold));
        plan
    }
}

fn about_search(threshold: &Threshold) -> bool {
    threshold.path().starts_with("search.")
}

/// Where a search stands.
#[derive(Debug, Default)]
struct Bounds {
    /// The values that held, lowest first.
    held: Vec<u64>,
    /// The lowest value that did not.
    above: Option<u64>,
}

/// What to try next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Try(u64),
    Repeat(u64),
    Nothing,
}

impl Bounds {
    fn next(&self, search: &Search) -> Next {
        let best = self.held.last().copied();
        match (best, self.above) {
            (None, None) => Next::Try(search.from),
            (Some(best), None) if best >= search.to => Next::Repeat(best),
            (Some(best), None) => Next::Try(best.saturating_mul(2).min(search.to)),
            (None, Some(1)) => Next::Nothing,
            (None, Some(above)) => Next::Try((above / 2).max(1)),
            (Some(best), Some(above)) if (above - best) as f64 <= (best as f64 * search.precision).max(1.0) => {
                Next::Repeat(best)
            }
            (Some(best), Some(above)) => Next::Try(best + (above - best) / 2),
        }
    }

    fn note(&mut self, value: u64, pass: bool) {
        if pass {
            self.held.push(value);
        } else {
            self.held.retain(|held| *held < value);
            self.above = Some(self.above.map_or(value, |above| above.min(value)));
        }
    }
}

/// Runs the search to its end; the report is that of the best run, repeated.
///
/// # Errors
/// Those of a run.
pub(super) fn run<D: Waitable + Send + 'static>(
    devices: Vec<D>,
    generator: &mut Generator<'_>,
    search: Search,
) -> Result<Report>
where
    Worker<D, Client, Pages>: Send,
{
    let (mut bounds, mut steps, mut last) = (Bounds::default(), Vec::new(), Report::new("load"));
    let mut ended_by = "range";
    privilege::give_up()?;
    let mut devices = Some(devices);
    let mut workers = Vec::new();
    while steps.len() < RUNS_MAX && generator.stop.get() == Stop::No {
        let (value, repeat) = match bounds.next(&search) {
            Next::Try(value) => (value, false),
            Next::Repeat(value) => (value, true),
            Next::Nothing => break,
        };
        let plan = search.apply(generator.plan, value);
        let run = match devices.take() {
            Some(devices) => {
                let Generator { cores, clock, stop, watches, .. } = *generator;
                Generating::start(devices, &plan, cores, clock, stop, watches)?
            }
            None => Generating::again(workers, generator, &plan)?,
        };
        let report;
        (report, workers) = run.finish(&plan, generator.stop, &mut generator.watch)?.into_parts();
        let pass = matches!(report.verdict, Verdict::Valid | Verdict::Ceiling) && !report.partial;
        let step = step(value, repeat, pass, &report);
        generator.watch.step(&step);
        steps.push(step);
        if !pass {
            ended_by = if report.verdict == Verdict::Failed { "target" } else { "generator" };
        }
        last = report;
        if repeat && pass {
            break;
        }
        bounds.note(value, pass);
        if workers.iter_mut().any(|worker| worker.net().connections() > 0) {
            let why = "connections of one run did not end before the next was to begin";
            return Err(Error::environment("the search cannot go on", why, "give the target more time: --timeout"));
        }
    }
    Ok(conclude(last, generator, search, bounds, steps, ended_by))
}

fn step(value: u64, repeat: bool, pass: bool, report: &Report) -> SearchStep {
    let latency = &report.blocks.latency_us;
    SearchStep {
        value,
        pass,
        repeat,
        verdict: report.verdict,
        reasons: report.reasons.clone(),
        achieved_cps: report.blocks.rate.achieved_cps,
        held_max: report.blocks.connections.held_max,
        connect_p99_us: latency.connect_from_schedule.p99.or(latency.connect.p99),
    }
}

fn conclude(
    mut report: Report,
    generator: &mut Generator<'_>,
    search: Search,
    bounds: Bounds,
    steps: Vec<SearchStep>,
    ended_by: &str,
) -> Report {
    let interrupted = generator.stop.get() != Stop::No;
    let repeated = steps.last().is_some_and(|step| step.repeat && step.pass);
    let best = bounds.held.last().copied().filter(|_| repeated);
    let ended_by = match (interrupted, bounds.above) {
        (true, _) => "interrupted",
        (false, None) => "range",
        (false, Some(_)) => ended_by,
    };
    report.search = Some(SearchReport {
        what: search.what.to_string(),
        best,
        above: bounds.above,
        ended_by: ended_by.into(),
        steps,
    });
    report.partial = interrupted;
    match best {
        None if interrupted => report.verdict = Verdict::Inconclusive,
        None => {
            let lowest = bounds.above.unwrap_or(search.from);
            report.reasons.push(format!("not even {lowest} held: {} has no value whose thresholds hold", search.what));
            if report.verdict != Verdict::GeneratorLimited {
                report.verdict = Verdict::Failed;
            }
        }
        // The thresholds of the best run hold. What ended the search says whose limit that value is.
        Some(best) if ended_by == "target" => {
            report.verdict = Verdict::Valid;
            report.reasons.push(format!("{best} is the highest {} whose thresholds hold", search.what));
        }
        Some(best) => {
            report.verdict = Verdict::Ceiling;
            let why = if ended_by == "generator" { "this generator can do no more" } else { "the range ends there" };
            report.reasons.push(format!("{best} held, and the target may be able to do more: {why}"));
        }
    }
    let json = serde_json::to_value(&report).unwrap_or_default();
    for threshold in generator.plan.thresholds.iter().filter(|threshold| about_search(threshold)) {
        let result = threshold.evaluate(&json);
        if result.pass != Some(true) && !interrupted {
            report.reasons.push(verdict::broken(&result));
            report.verdict = Verdict::Failed;
        }
        report.thresholds.push(result);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where everything up to `limit` holds; returns the best and the values tried.
    fn search(limit: u64, from: u64, to: u64) -> (Option<u64>, Vec<u64>) {
        let search = Search { what: SearchFor::Rate, from, to, precision: 0.05 };
        let (mut bounds, mut tried) = (Bounds::default(), Vec::new());
        loop {
            match bounds.next(&search) {
                Next::Try(value) => {
                    tried.push(value);
                    bounds.note(value, value <= limit);
                }
                Next::Repeat(value) => return (Some(value), tried),
                Next::Nothing => return (None, tried),
            }
            assert!(tried.len() < RUNS_MAX);
        }
    }

    #[test]
    fn the_limit_is_found_to_the_precision() {
        for limit in [1, 2, 7, 100, 999, 1_000, 1_001, 54_321, 9_999_999] {
            let (best, tried) = search(limit, 1_000, VALUE_MAX);
            let best = best.unwrap();
            assert!(best <= limit && limit as f64 <= best as f64 * 1.05 + 1.0, "{limit}: {best} by {tried:?}");
        }
        assert_eq!(search(0, 1_000, VALUE_MAX).0, None);
        assert_eq!(search(u64::MAX, 1_000, 5_000), (Some(5_000), vec![1_000, 2_000, 4_000, 5_000]));
    }

    #[test]
    fn luck_does_not_repeat() {
        let search = Search { what: SearchFor::Rate, from: 100, to: 100, precision: 0.05 };
        let mut bounds = Bounds::default();
        bounds.note(100, true);
        assert_eq!(bounds.next(&search), Next::Repeat(100));
        bounds.note(100, false);
        assert_eq!(bounds.next(&search), Next::Try(50));
        bounds.note(50, true);
        assert_eq!(bounds.next(&search), Next::Try(75));
    }
}
