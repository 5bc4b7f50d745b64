//! How long things took, from the median to the slowest: percentiles on a scale that shows the tail.

use hdrhistogram::Histogram;
use maud::Markup;

use super::chart::{Axis, Chart, Line, Pen, Row};
use super::{count, micros};
use crate::report::model::Report;

/// Points of a line.
const POINTS: usize = 160;

/// Shown by name: a share of the events, and its label.
const NAMED: [(f64, &str); 9] = [
    (0.0, "fastest"),
    (0.5, "50%"),
    (0.75, "75%"),
    (0.9, "90%"),
    (0.99, "99%"),
    (0.999, "99.9%"),
    (0.9999, "99.99%"),
    (0.999_99, "99.999%"),
    (0.999_999, "99.9999%"),
];

const LATENESS: &str = "schedule delay";

const COLOURS: [&str; 7] = ["s6", "s1", "s7", "s3", "s4", "s2", "s5"];

/// `None` if no histogram came with the report.
pub(super) fn render(report: &Report) -> Option<Markup> {
    let stages = report.blocks.latency_us.by_stage();
    let stages: Vec<(String, &'static str, Histogram<u64>)> = stages
        .iter()
        .zip(COLOURS)
        .filter_map(|((name, summary), colour)| Some((name.replace('_', " "), colour, summary.histogram()?)))
        .filter(|(_, _, histogram)| !histogram.is_empty())
        .collect();
    // The few fastest, and our own lateness, which is nothing most of the time, would leave little room for the rest.
    let lateness = |name: &str| name == LATENESS && stages.len() > 1;
    let least = stages.iter().filter(|(name, ..)| !lateness(name)).map(|(.., times)| times.value_at_quantile(0.05));
    let least = least.min()?.max(1) as f64;
    let most = stages.iter().map(|(.., times)| times.max()).max()? as f64;
    let events = stages.iter().map(|(_, _, histogram)| histogram.len()).max()?;
    let reach = (events as f64).log10().max(1.0);
    let lines = stages.iter().map(|(name, colour, histogram)| Line {
        name: name.clone(),
        colour,
        pen: if name == LATENESS { Pen::Dashed } else { Pen::Full },
        points: curve(histogram),
    });
    let named: Vec<_> = NAMED.into_iter().filter(|(share, _)| depth(*share) <= reach).collect();
    // Marks too near each other for their labels are left out.
    let ticks = named
        .iter()
        .filter(|(share, _)| ![0.0, 0.75].contains(share))
        .map(|(share, label)| (depth(*share), (*label).into()));
    let rows = named.iter().map(|(share, label)| Row {
        x: depth(*share),
        cells: [(*label).to_owned()]
            .into_iter()
            .chain(stages.iter().map(|(_, _, histogram)| {
                // Of fewer events than that there is no such one.
                let known = depth(*share) <= (histogram.len() as f64).log10().max(depth(0.5));
                if known { micros(histogram.value_at_quantile(*share) as f64) } else { "–".into() }
            }))
            .collect(),
    });
    let spoken: Vec<_> = stages
        .iter()
        .map(|(name, _, histogram)| {
            let at = |share| micros(histogram.value_at_quantile(share) as f64);
            format!("{name}: median {}, 99% within {}, slowest {}", at(0.5), at(0.99), micros(histogram.max() as f64))
        })
        .collect();
    let chart = Chart {
        title: "How long it took",
        sub: format!("So many of up to {} events took at most so long. Both scales are logarithmic.", count(events)),
        spoken: spoken.join("; "),
        x: Axis::with_ticks(0.0, reach, ticks.collect()),
        y: Axis::logarithmic(least, most, micros_short),
        lines: lines.collect(),
        bars: Vec::new(),
        bands: Vec::new(),
        shaded: Vec::new(),
        heads: ["Share".to_owned()].into_iter().chain(stages.iter().map(|(name, ..)| name.clone())).collect(),
        rows: rows.collect(),
        wide: true,
    };
    Some(chart.render())
}

/// How many nines: 0 of the fastest, 1 of 90%, 2 of 99%.
fn depth(share: f64) -> f64 {
    -(1.0 - share).log10()
}

fn curve(histogram: &Histogram<u64>) -> Vec<Option<(f64, f64)>> {
    let reach = (histogram.len() as f64).log10().max(0.3);
    let point = |index: usize| {
        let depth = reach * index as f64 / POINTS as f64;
        let share = if index == POINTS { 1.0 } else { 1.0 - 10f64.powf(-depth) };
        Some((depth, histogram.value_at_quantile(share).max(1) as f64))
    };
    (0..=POINTS).map(point).collect()
}

/// Round times without digits that say nothing.
pub(super) fn micros_short(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{} ms", us / 1e3),
        us => format!("{} s", us / 1e6),
    }
}
