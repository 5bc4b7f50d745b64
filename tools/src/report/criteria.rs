//! What RFC 9411 asks of a run before its figures count (§7.2.3.3 and its like in the other tests).

use std::fmt;
use std::str::FromStr;

use super::model::{CriterionResult, IntervalReport, Report};
use crate::cli::load::Preset;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Failed application transactions ÷ attempted ones.
    FailedTransactions,
    /// Connections ended by an RST that nobody asked for ÷ attempted ones.
    UnexpectedResets,
    /// Greatest deviation of a second's rate from the mean of the sustain phase, as a share of it.
    RateDeviation,
    /// Greatest deviation of the number of open connections, in the same way.
    HeldDeviation,
}

const MEASURES: [(&str, Measure, f64); 4] = [
    ("failed_transactions", Measure::FailedTransactions, 1e-5),
    ("unexpected_resets", Measure::UnexpectedResets, 1e-5),
    ("rate_deviation", Measure::RateDeviation, 0.05),
    ("held_deviation", Measure::HeldDeviation, 0.1),
];

/// A criterion and its limit: `rate_deviation<0.05`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Criterion {
    measure: Measure,
    limit: f64,
}

impl FromStr for Criterion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = MEASURES.map(|(name, ..)| name).join(" ");
        let (name, limit) = text.split_once('<').ok_or("no `<`; write for example rate_deviation<0.05")?;
        let found = MEASURES.iter().find(|(known, ..)| *known == name.trim());
        let (_, measure, _) = found.ok_or_else(|| format!("there is no criterion `{}`, only {names}", name.trim()))?;
        let limit = limit.trim();
        let (number, unit) = limit.strip_suffix('%').map_or((limit, 1.0), |number| (number, 100.0));
        match number.parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(Self { measure: *measure, limit: value / unit }),
            _ => Err(format!("`{limit}` is not a positive share; write for example 0.05 or 5%")),
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}", name(self.measure), self.limit)
    }
}

fn name(measure: Measure) -> &'static str {
    MEASURES.iter().find(|(_, known, _)| *known == measure).map_or("", |(name, ..)| name)
}

/// The criteria of a run: those of its preset, with the limits that were given, and others that were given.
pub fn of(preset: Option<Preset>, given: &[Criterion]) -> Vec<Criterion> {
    let asked = |measure: Measure| match preset {
        None => false,
        Some(Preset::ConnectionsPerSecond) => true,
        // Connections that are held make few requests; their number is what must be constant.
        Some(Preset::ConcurrentConnections) => measure != Measure::RateDeviation,
    };
    let limit = |measure: Measure, default: f64| {
        let given = given.iter().rev().find(|criterion| criterion.measure == measure);
        given.map(|criterion| criterion.limit).or(asked(measure).then_some(default))
    };
    let all = MEASURES.iter().filter_map(|(_, measure, default)| {
        limit(*measure, *default).map(|limit| Criterion { measure: *measure, limit })
    });
    all.collect()
}

/// Looks at the figures of a report whose intervals are complete.
pub fn evaluate(criteria: &[Criterion], report: &Report) -> Vec<CriterionResult> {
    let result = |criterion: &Criterion| {
        let value = value(criterion.measure, report);
        CriterionResult {
            name: name(criterion.measure).into(),
            limit: criterion.limit,
            value,
            pass: value.map(|value| value < criterion.limit),
        }
    };
    criteria.iter().map(result).collect()
}

fn value(measure: Measure, report: &Report) -> Option<f64> {
    let connections = &report.blocks.connections;
    let attempted = connections.attempted.filter(|attempted| *attempted > 0)?;
    let failed: u64 = super::verdict::causes(&connections.failed).iter().map(|(_, count)| count).sum();
    match measure {
        Measure::FailedTransactions => {
            // A connection fails with the one transaction that it was about; without any, the connection is it.
            let done = report.requests.filter(|requests| *requests > 0).unwrap_or(attempted.saturating_sub(failed));
            Some(failed as f64 / (done + failed).max(1) as f64)
        }
        Measure::UnexpectedResets => {
            let resets = connections.failed.reset.unwrap_or(0) + connections.failed.refused.unwrap_or(0);
            Some(resets as f64 / attempted as f64)
        }
        Measure::RateDeviation => deviation(&report.intervals, |interval| {
            let mean = interval.blocks.rate.achieved_cps;
            let extremes = interval.spread.as_ref().map(|spread| [spread.achieved_cps_min, spread.achieved_cps_max]);
            (mean, extremes)
        }),
        Measure::HeldDeviation => deviation(&report.intervals, |interval| {
            let as_f64 = |open: Option<u64>| open.map(|open| open as f64);
            let open = as_f64(interval.blocks.connections.open_at_end);
            let extremes = interval.spread.as_ref().map(|spread| [as_f64(spread.open_min), as_f64(spread.open_max)]);
            (open, extremes)
        }),
    }
}

/// Shorter spans than this are the rest of a second that a phase cut in two.
const WHOLE_SECOND: f64 = 0.99;

/// Of the whole seconds of the sustain phase. `figure` is an interval's value, and the extremes of its seconds if it has
/// several.
fn deviation(
    intervals: &[IntervalReport],
    figure: impl Fn(&IntervalReport) -> (Option<f64>, Option<[Option<f64>; 2]>),
) -> Option<f64> {
    let whole = intervals.iter().filter(|interval| interval.phase == "sustain" && interval.seconds >= WHOLE_SECOND);
    let (mut seconds, mut total, mut values) = (0.0, 0.0, Vec::new());
    for interval in whole {
        let (value, extremes) = figure(interval);
        let Some(value) = value else { continue };
        seconds += interval.seconds;
        total += value * interval.seconds;
        values.extend(extremes.unwrap_or([Some(value), None]).into_iter().flatten());
    }
    let mean = total / seconds;
    (values.len() > 1 && mean > 0.0).then(|| values.iter().map(|value| (value - mean).abs() / mean).fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Blocks;

    fn second(phase: &str, cps: f64, open: u64) -> IntervalReport {
        let mut blocks = Blocks::default();
        (blocks.rate.achieved_cps, blocks.connections.open_at_end) = (Some(cps), Some(open));
        IntervalReport { seconds: 1.0, phase: phase.into(), blocks, ..IntervalReport::default() }
    }

    fn report() -> Report {
        let mut report = Report::new("test");
        let connections = &mut report.blocks.connections;
        (connections.attempted, connections.completed, connections.failed.reset) =
            (Some(1_000_000), Some(999_991), Some(9));
        report.requests = Some(999_991);
        report.intervals = vec![
            second("ramp", 1.0, 1),
            second("sustain", 96.0, 10),
            second("sustain", 104.0, 10),
            IntervalReport { seconds: 0.5, ..second("sustain", 1.0, 1) },
            second("drain", 0.0, 0),
        ];
        report
    }

    #[test]
    fn a_good_run_fulfils_them() {
        let results = evaluate(&of(Some(Preset::ConnectionsPerSecond), &[]), &report());
        assert_eq!(results.len(), 4);
        assert!(results.iter().all(|result| result.pass == Some(true)), "{results:?}");
        assert!((results[2].value.unwrap() - 0.04).abs() < 1e-9, "{results:?}");
        assert_eq!(of(Some(Preset::ConcurrentConnections), &[]).len(), 3);
        assert!(of(None, &[]).is_empty());
    }

    #[test]
    fn each_can_be_broken_and_its_limit_moved() {
        type Change = fn(&mut Report);
        let changes: [(usize, Change); 4] = [
            (0, |report| report.blocks.connections.failed.bad_response = Some(2)),
            (1, |report| report.blocks.connections.failed.reset = Some(10)),
            (2, |report| report.intervals[1].blocks.rate.achieved_cps = Some(90.0)),
            (3, |report| report.intervals[1].blocks.connections.open_at_end = Some(20)),
        ];
        for (index, change) in changes {
            let mut report = report();
            change(&mut report);
            let results = evaluate(&of(Some(Preset::ConnectionsPerSecond), &[]), &report);
            assert_eq!(results[index].pass, Some(false), "{results:?}");
        }
        let given = ["rate_deviation<3%".parse().unwrap()];
        let results = evaluate(&of(None, &given), &report());
        assert_eq!((results.len(), results[0].pass, results[0].limit), (1, Some(false), 0.03));
    }

    #[test]
    fn what_is_no_criterion() {
        for text in ["", "rate_deviation", "rate<1", "rate_deviation<x", "rate_deviation<0", "rate_deviation<-1%"] {
            assert!(text.parse::<Criterion>().is_err(), "{text}");
        }
        assert_eq!("held_deviation < 10%".parse::<Criterion>().unwrap().to_string(), "held_deviation<0.1");
    }
}
