//! Two sides of one or more runs each: what became better or worse, and what cannot be told.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::model::{Report, Verdict};
use super::settings::{self, Purpose};
use super::stats::{self, Ratio};
use super::text::thousands;

/// The value of [`Comparison::schema`].
pub const SCHEMA: &str = "syncline.diff/1";

/// With so many runs on each side they are compared by their ranks.
const RANKS_FROM: usize = 6;

/// Seconds of the sustain phase that a single run must have.
const SERIES_FROM: usize = 4;

/// Which way a measure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// What is compared: a path of the report, as in a threshold.
#[derive(Clone, Copy, Debug)]
struct Measure {
    path: &'static str,
    /// Smaller values count as this: below it a ratio means nothing.
    floor: f64,
    /// Whether it is judged unless others are named; or only shown.
    judged: bool,
}

const fn judged(path: &'static str) -> Measure {
    Measure { path, floor: 1e-9, judged: true }
}

const fn shown(path: &'static str) -> Measure {
    Measure { path, floor: 1e-9, judged: false }
}

/// A latency: it is known to the microsecond.
const fn latency(path: &'static str, judged: bool) -> Measure {
    Measure { path, floor: 1.0, judged }
}

/// In the order they are shown in. What neither side has is left out.
const MEASURES: [Measure; 25] = [
    judged("rate.achieved_cps"),
    judged("rate.requests_per_s"),
    shown("rate.tx_bits_per_s"),
    shown("rate.rx_bits_per_s"),
    // One connection in a thousand is where a failure ratio begins to matter.
    Measure { path: "connections.failed_ratio", floor: 1e-3, judged: true },
    shown("connections.held_max"),
    latency("latency_us.connect_from_schedule.p50", true),
    latency("latency_us.connect_from_schedule.p99", true),
    latency("latency_us.connect_from_schedule.p99_9", false),
    latency("latency_us.connect.p50", true),
    latency("latency_us.connect.p99", true),
    latency("latency_us.first_byte.p50", false),
    latency("latency_us.first_byte.p99", false),
    latency("latency_us.transaction_from_schedule.p50", true),
    latency("latency_us.transaction_from_schedule.p99", true),
    latency("latency_us.transaction.p50", true),
    latency("latency_us.transaction.p99", true),
    latency("latency_us.transaction.p99_9", false),
    latency("latency_us.close.p50", false),
    latency("latency_us.close.p99", false),
    judged("packets.tx_per_connection"),
    judged("packets.rx_per_connection"),
    shown("syscalls.per_packet"),
    shown("memory.bytes_per_idle_connection"),
    shown("memory.rss_bytes"),
];

/// A latency from the schedule tells all that the one from the wire does, and more: where there is one, it is judged.
const FROM_SCHEDULE: [(&str, &str); 2] = [
    ("latency_us.connect.", "latency_us.connect_from_schedule."),
    ("latency_us.transaction.", "latency_us.transaction_from_schedule."),
];

/// How two sides are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The share by which a figure may become worse.
    pub tolerance: f64,
    /// How sure all intervals together are.
    pub confidence: f64,
    /// The paths that are judged instead of the usual ones.
    pub measures: Vec<String>,
    /// Whether runs that were asked for different things are compared, too.
    pub allow_different: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { tolerance: 0.05, confidence: 0.95, measures: Vec::new(), allow_different: false }
    }
}

/// What is said of a measure, and of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The whole interval is on the bad side of 1, and reaches the tolerance.
    Worse,
    /// The whole interval is on the good side of 1, and reaches the tolerance.
    Better,
    /// The whole interval is within the tolerance.
    Same,
    /// The interval has both 1 and the tolerance in it.
    Unclear,
}

impl Finding {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::Better => "better",
            Self::Same => "same",
            Self::Unclear => "unclear",
        }
    }

    fn of(ratio: &Ratio, better: Better, tolerance: f64) -> Self {
        // Turned so that above 1 is worse.
        let (low, high) = match better {
            Better::Lower => (ratio.low, ratio.high),
            Better::Higher => (1.0 / ratio.high, 1.0 / ratio.low),
        };
        let limit = 1.0 + tolerance;
        // The estimate of equal figures may differ from 1 in its last bits.
        const SLACK: f64 = 1e-9;
        if low > 1.0 + SLACK && high >= limit - SLACK {
            Self::Worse
        } else if high < 1.0 - SLACK && low <= 1.0 / limit + SLACK {
            Self::Better
        } else if high < limit && low > 1.0 / limit {
            Self::Same
        } else {
            Self::Unclear
        }
    }
}

/// How the interval of a measure was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Five runs or more on each side: ranks (Mann–Whitney, Hodges–Lehmann).
    Ranks,
    /// Two to four: means of logarithms (Welch).
    Means,
    /// A single run on a side: its seconds, and an assumed spread between runs.
    Series,
}

/// One measure of both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Its path in the report.
    pub measure: String,
    /// Which way it is good.
    pub better: Better,
    /// The median before.
    pub before: f64,
    /// The median after.
    pub after: f64,
    /// After ÷ before.
    pub ratio: f64,
    /// The lowest ratio that fits, `null` if there is no telling.
    pub ratio_low: Option<f64>,
    /// The highest.
    pub ratio_high: Option<f64>,
    /// Whether it counts for the finding of the whole.
    pub judged: bool,
    /// What is said of it.
    pub finding: Finding,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`].
    pub schema: String,
    /// Worse if any measure judged is; else better if any is; else unclear if any is; else the same.
    pub finding: Finding,
    /// The share by which a figure may become worse.
    pub tolerance: f64,
    /// How sure all intervals of judged measures are together.
    pub confidence: f64,
    /// How sure each of them is.
    pub confidence_each: f64,
    /// How the intervals were found.
    pub method: Method,
    /// Runs on each side.
    pub runs: [usize; 2],
    /// What should make a reader careful.
    pub notes: Vec<String>,
    /// Measure by measure.
    pub measures: Vec<Compared>,
}

/// Compares the runs `before` with those `after`.
///
/// # Errors
/// A sentence: nothing to compare, or what the runs differ in that matters.
pub fn compare(
    before: &[(String, Report)],
    after: &[(String, Report)],
    options: &Options,
) -> Result<Comparison, String> {
    let [(first_name, first), ..] = before else { return Err("there is no run before".into()) };
    if after.is_empty() {
        return Err("there is no run after".into());
    }
    for (name, other) in before.iter().chain(after) {
        let differences = settings::differences(first, other, Purpose::Compare);
        if !differences.is_empty() && !options.allow_different {
            return Err(format!("{first_name} and {name} were asked for different things: {}", differences.join("; ")));
        }
    }
    let method = match before.len().min(after.len()) {
        1 => Method::Series,
        count if count < RANKS_FROM => Method::Means,
        _ => Method::Ranks,
    };
    let sides = [before, after].map(|reports| Side::new(reports, method));
    let chosen = choose(&sides, options)?;
    let judged_count = chosen.iter().filter(|(_, judged)| *judged).count().max(1);
    // Bonferroni: whatever measures have to do with each other.
    let confidence_each = 1.0 - (1.0 - options.confidence) / judged_count as f64;
    let compared = chosen.iter().filter_map(|(measure, judged)| {
        measure_of(&sides, measure, *judged, method, confidence_each, options.tolerance)
    });
    let measures: Vec<_> = compared.collect();
    let any = |finding| measures.iter().any(|measure| measure.judged && measure.finding == finding);
    let finding = [Finding::Worse, Finding::Better, Finding::Unclear].into_iter().find(|finding| any(*finding));
    Ok(Comparison {
        schema: SCHEMA.into(),
        finding: finding.unwrap_or(Finding::Same),
        tolerance: options.tolerance,
        confidence: options.confidence,
        confidence_each,
        method,
        runs: [before.len(), after.len()],
        notes: notes(before, after, method),
        measures,
    })
}

fn notes(before: &[(String, Report)], after: &[(String, Report)], method: Method) -> Vec<String> {
    let mut notes = Vec::new();
    let places = settings::places(&before[0].1, &after[0].1);
    if !places.is_empty() {
        notes.push(format!("the machines differ: {}", places.join("; ")));
    }
    for (name, report) in before.iter().chain(after) {
        if matches!(report.verdict, Verdict::GeneratorLimited | Verdict::Inconclusive) {
            notes.push(format!("{name} is {}: its figures tell about the generator", report.verdict.name()));
        }
        if report.partial {
            notes.push(format!("{name} was interrupted"));
        }
    }
    if method == Method::Series {
        let spread = stats::RUN_SPREAD * 100.0;
        notes.push(format!(
            "a single run does not tell how much runs differ; {spread:.0}% is assumed. {RANKS_FROM} on each side tell more"
        ));
    }
    notes
}

/// One side's reports as JSON, as thresholds see them.
struct Side {
    whole: Vec<Value>,
    /// Of each run, the whole seconds of its sustain phase, if they are to be compared.
    seconds: Vec<Vec<Value>>,
}

impl Side {
    fn new(reports: &[(String, Report)], method: Method) -> Self {
        let whole = reports.iter().map(|(_, report)| serde_json::to_value(&report.blocks).unwrap_or_default());
        let compared = reports.iter().filter(|_| method == Method::Series);
        let seconds = compared.map(|(_, report)| {
            let sustained = report.intervals.iter().filter(|interval| interval.phase == "sustain");
            let whole = sustained.filter(|interval| interval.seconds >= 0.99);
            whole.map(|interval| serde_json::to_value(&interval.blocks).unwrap_or_default()).collect()
        });
        Self { whole: whole.collect(), seconds: seconds.collect() }
    }

    fn values(&self, path: &str) -> Option<Vec<f64>> {
        self.whole.iter().map(|report| look_up(report, path)).collect()
    }

    fn series(&self, path: &str) -> Option<Vec<Vec<f64>>> {
        let of = |run: &Vec<Value>| run.iter().map(|second| look_up(second, path)).collect::<Option<Vec<f64>>>();
        self.seconds.iter().map(of).collect()
    }

    fn has(&self, path: &str) -> bool {
        self.values(path).is_some_and(|values| values.iter().any(|value| *value > 0.0))
    }
}

fn look_up(value: &Value, path: &str) -> Option<f64> {
    path.split('.').try_fold(value, |value, key| value.get(key)).and_then(Value::as_f64)
}

/// The measures that both sides have, and whether each is judged.
fn choose(sides: &[Side; 2], options: &Options) -> Result<Vec<(Measure, bool)>, String> {
    let both = |path: &str| sides.iter().all(|side| side.values(path).is_some());
    for path in &options.measures {
        if !MEASURES.iter().any(|measure| measure.path == path) {
            let known: Vec<_> = MEASURES.iter().map(|measure| measure.path).collect();
            return Err(format!("`{path}` is not compared, only {}", known.join(" ")));
        }
        if !both(path) {
            return Err(format!("`{path}` was not measured by every run"));
        }
    }
    let any = |path: &str| sides.iter().any(|side| side.has(path));
    // Of connections with one request each, the two rates are the same thing twice.
    let median = |path: &str| sides[0].values(path).and_then(|values| stats::median(&values)).unwrap_or(0.0);
    let one_request = median("rate.requests_per_s") <= 1.05 * median("rate.achieved_cps");
    let bulk = median("rate.requests_per_s") == 0.0 && median("packets.tx_per_connection") > 100.0;
    let judged = |measure: &Measure| {
        if !options.measures.is_empty() {
            return options.measures.iter().any(|path| path == measure.path);
        }
        let shadowed = FROM_SCHEDULE.iter().any(|(wire, schedule)| {
            measure.path.strip_prefix(wire).is_some_and(|percentile| any(&format!("{schedule}{percentile}")))
        });
        let twice = measure.path == "rate.requests_per_s" && one_request;
        let bits = bulk && measure.path.ends_with("_bits_per_s");
        (measure.judged || bits) && !shadowed && !twice
    };
    let always = |measure: &Measure| measure.path == "connections.failed_ratio";
    let found = MEASURES.iter().filter(|measure| both(measure.path) && (any(measure.path) || always(measure)));
    Ok(found.map(|measure| (*measure, judged(measure))).collect())
}

fn measure_of(
    sides: &[Side; 2],
    measure: &Measure,
    judged: bool,
    method: Method,
    confidence: f64,
    tolerance: f64,
) -> Option<Compared> {
    let floored = |values: Vec<f64>| values.into_iter().map(|value| value.max(measure.floor)).collect::<Vec<_>>();
    let wholes = [sides[0].values(measure.path)?, sides[1].values(measure.path)?];
    let mut shown = wholes.clone();
    let [before, after] = wholes.map(floored);
    let ratio = match method {
        Method::Ranks => stats::by_ranks(&before, &after, confidence),
        Method::Means => stats::by_means(&before, &after, confidence),
        Method::Series => {
            let long = |runs: &Vec<Vec<f64>>| runs.iter().all(|series| series.len() >= SERIES_FROM);
            match (sides[0].series(measure.path).filter(long), sides[1].series(measure.path).filter(long)) {
                (Some(before), Some(after)) => {
                    shown = [before.concat(), after.concat()];
                    let [before, after] = [before, after].map(|runs| runs.into_iter().map(floored).collect::<Vec<_>>());
                    stats::by_series(&before, &after, confidence)
                }
                // Without seconds there is a ratio, but nothing that says how good it is.
                _ => {
                    Ratio { estimate: stats::median(&after)? / stats::median(&before)?, low: 0.0, high: f64::INFINITY }
                }
            }
        }
    };
    let higher = measure.path.starts_with("rate.") || measure.path == "connections.held_max";
    let better = if higher { Better::Higher } else { Better::Lower };
    Some(Compared {
        measure: measure.path.into(),
        better,
        before: stats::median(&shown[0])?,
        after: stats::median(&shown[1])?,
        ratio: ratio.estimate,
        ratio_low: (ratio.low > 0.0).then_some(ratio.low),
        ratio_high: ratio.high.is_finite().then_some(ratio.high),
        judged,
        finding: Finding::of(&ratio, better, tolerance),
    })
}

/// The comparison as plain text of at most 100 columns.
pub fn render(comparison: &Comparison) -> String {
    let mut out = String::new();
    let word = match comparison.finding {
        Finding::Worse => "REGRESSION",
        Finding::Better => "BETTER",
        Finding::Same => "SAME",
        Finding::Unclear => "UNCLEAR",
    };
    let tolerance = comparison.tolerance * 100.0;
    let _ = writeln!(out, "comparison   {word}");
    for measure in comparison.measures.iter().filter(|measure| measure.judged && measure.finding == Finding::Worse) {
        let change = (measure.ratio - 1.0) * 100.0;
        let _ = writeln!(out, "             - {} {change:+.1}%, {tolerance}% are tolerated", measure.measure);
    }
    if comparison.finding == Finding::Unclear {
        let _ =
            writeln!(out, "             - {tolerance}% worse can neither be seen nor ruled out; more runs tell more");
    }
    for note in &comparison.notes {
        let _ = writeln!(out, "             - {note}");
    }
    let how = match comparison.method {
        Method::Ranks => "ranks of runs",
        Method::Means => "means of runs",
        Method::Series => "seconds of single runs",
    };
    let [before, after] = comparison.runs;
    let _ = writeln!(
        out,
        "method       {how}, {before} before and {after} after; all intervals judged hold at {}%",
        comparison.confidence * 100.0
    );
    let _ = writeln!(out, "\n{:41}{:>11}{:>11}{:>8}{:>17}", "", "before", "after", "ratio", "interval");
    for measure in &comparison.measures {
        let interval = match (measure.ratio_low, measure.ratio_high) {
            (Some(low), Some(high)) => format!("{low:.3} … {high:.3}"),
            _ => "?".into(),
        };
        let finding = if measure.judged { measure.finding.name() } else { "" };
        let (before, after) = (figure(measure.before), figure(measure.after));
        let _ = writeln!(
            out,
            "{:41}{before:>11}{after:>11}{:>8.3}{interval:>17}  {finding}",
            measure.measure, measure.ratio
        );
    }
    out
}

fn figure(value: f64) -> String {
    match value {
        value if value >= 1e7 => super::text::si(Some(value)),
        value if value >= 1e3 => thousands(value.round() as u64),
        value if value.fract() == 0.0 => format!("{value}"),
        value if value < 0.1 => format!("{value:.5}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
