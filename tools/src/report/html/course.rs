//! The course of a run: rate, connections open, latency, failures, workers.

use maud::Markup;

use super::chart::{Axis, Band, Bars, Chart, Line, Pen, Row};
use super::percentiles::micros_short;
use super::{count, count_f64, micros};
use crate::report::latency::LatencySummary;
use crate::report::model::{Blocks, IntervalReport, Report};
use crate::report::text::si;
use crate::report::verdict::causes;

/// Colours of failures, by cause, in their order in the report.
const CAUSES: [&str; 11] = ["s4", "s3", "s1", "s2", "s5", "s7", "s6", "q4", "q2", "q1", "s6"];

/// The charts for which there are figures.
pub(super) fn render(report: &Report) -> Vec<Markup> {
    if report.intervals.is_empty() {
        return Vec::new();
    }
    let course = Course { report, intervals: &report.intervals };
    let charts = [course.rate(), course.open(), course.latency(), course.failures(), course.traffic(), course.busy()];
    let mut charts: Vec<Chart> = charts.into_iter().flatten().collect();
    // An odd one would leave a hole.
    if charts.len() % 2 == 1
        && let Some(last) = charts.last_mut()
    {
        last.wide = true;
    }
    charts.iter().map(Chart::render).collect()
}

/// What a line shows of an interval.
type Figure<'a> = &'a dyn Fn(&Blocks) -> Option<f64>;

struct Course<'a> {
    report: &'a Report,
    intervals: &'a [IntervalReport],
}

/// A line of a chart and how its values are written.
struct Series<'a> {
    name: &'a str,
    colour: &'static str,
    pen: Pen,
    figure: Figure<'a>,
}

impl Course<'_> {
    fn middle(interval: &IntervalReport) -> f64 {
        interval.at_s + interval.seconds / 2.0
    }

    fn x(&self) -> Axis {
        let from = self.intervals.first().map_or(0.0, |first| first.at_s);
        let to = self.intervals.iter().map(|interval| interval.at_s + interval.seconds).fold(from, f64::max);
        Axis::seconds(from, to)
    }

    /// Spans that are not measured: before and after the sustain phase.
    fn shaded(&self) -> Vec<(f64, f64)> {
        let mut spans: Vec<(f64, f64)> = Vec::new();
        for interval in self.intervals.iter().filter(|interval| interval.phase != "sustain") {
            let (from, to) = (interval.at_s, interval.at_s + interval.seconds);
            match spans.last_mut() {
                Some(last) if (last.1 - from).abs() < 0.5 => last.1 = to,
                _ => spans.push((from, to)),
            }
        }
        spans
    }

    /// A part of a second that a phase cut in two says little as a rate; it is left out of lines.
    fn whole(&self, interval: &IntervalReport) -> bool {
        interval.seconds >= 0.5 || self.intervals.len() < 3
    }

    fn values<'b>(&'b self, figure: Figure<'b>) -> impl Iterator<Item = f64> + 'b {
        self.intervals
            .iter()
            .filter(|interval| self.whole(interval))
            .filter_map(move |interval| figure(&interval.blocks))
    }

    fn line(&self, series: &Series<'_>) -> Line {
        let point = |interval: &IntervalReport| {
            let value = (series.figure)(&interval.blocks).filter(|_| self.whole(interval))?;
            Some((Self::middle(interval), value))
        };
        Line {
            name: series.name.into(),
            colour: series.colour,
            pen: series.pen,
            points: self.intervals.iter().map(point).collect(),
        }
    }

    /// A chart of lines; `None` if nothing of it was measured.
    fn lines(
        &self,
        title: &'static str,
        sub: &str,
        y: Axis,
        series: &[Series<'_>],
        written: &dyn Fn(f64) -> String,
    ) -> Option<Chart> {
        let known = |series: &&Series<'_>| self.values(series.figure).next().is_some();
        let series: Vec<_> = series.iter().filter(known).collect();
        let first = series.first()?;
        let rows = self.intervals.iter().map(|interval| Row {
            x: Self::middle(interval),
            cells: [self.when(interval)]
                .into_iter()
                .chain(
                    series.iter().map(|series| (series.figure)(&interval.blocks).map_or_else(|| "–".into(), written)),
                )
                .collect(),
        });
        let mut sorted: Vec<_> = self.values(first.figure).collect();
        sorted.sort_by(f64::total_cmp);
        let spoken = format!(
            "{title}, {}: lowest {}, median {}, highest {}",
            first.name,
            written(sorted[0]),
            written(sorted[sorted.len() / 2]),
            written(sorted[sorted.len() - 1])
        );
        Some(Chart {
            title,
            sub: sub.into(),
            spoken,
            x: self.x(),
            y,
            lines: series.iter().map(|series| self.line(series)).collect(),
            bars: Vec::new(),
            bands: Vec::new(),
            shaded: self.shaded(),
            heads: ["Second".to_owned()].into_iter().chain(series.iter().map(|series| series.name.into())).collect(),
            rows: rows.collect(),
            wide: false,
        })
    }

    fn when(&self, interval: &IntervalReport) -> String {
        let phase = if interval.phase == "sustain" { String::new() } else { format!(" {}", interval.phase) };
        format!("{:.0}–{:.0} s{phase}", interval.at_s, interval.at_s + interval.seconds)
    }

    fn most(&self, figures: &[Figure<'_>]) -> f64 {
        figures.iter().flat_map(|figure| self.values(*figure)).fold(0.0, f64::max)
    }

    fn rate(&self) -> Option<Chart> {
        let achieved = |blocks: &Blocks| blocks.rate.achieved_cps;
        let offered = |blocks: &Blocks| blocks.rate.offered_cps;
        let requests = |blocks: &Blocks| blocks.rate.requests_per_s;
        // Of connections with one request each, the lines would lie on each other.
        let rate = &self.report.blocks.rate;
        let many = rate.requests_per_s.unwrap_or(0.0) > 1.05 * rate.achieved_cps.unwrap_or(0.0);
        let nothing = |_: &Blocks| None;
        // What stages ask for changes within an interval: it is drawn from the stages themselves.
        let stages = self.stages();
        let offered: Figure<'_> = if stages.is_empty() { &offered } else { &nothing };
        let requests: Figure<'_> = if many { &requests } else { &nothing };
        let asked = stages.iter().flatten().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let top = self.most(&[&achieved, offered, requests]).max(asked);
        let series = [
            Series { name: "connections completed", colour: "s1", pen: Pen::Full, figure: &achieved },
            Series { name: "asked for", colour: "s6", pen: Pen::Dashed, figure: offered },
            Series { name: "requests answered", colour: "s2", pen: Pen::Full, figure: requests },
        ];
        let y = Axis::from_zero(top, axis_count);
        let mut chart = self.lines("Rate", "per second; shaded: ramp and drain", y, &series, &count_f64_rounded)?;
        if !stages.is_empty() {
            chart.lines.push(Line { name: "asked for".into(), colour: "s6", pen: Pen::Dashed, points: stages });
        }
        let part = |interval: &IntervalReport| {
            let spread = interval.spread.as_ref()?;
            Some([interval.at_s, interval.at_s + interval.seconds, spread.achieved_cps_min?, spread.achieved_cps_max?])
        };
        let parts: Vec<_> = self.intervals.iter().filter_map(part).collect();
        chart.bands.extend((!parts.is_empty()).then_some(Band { colour: "s1", parts }));
        Some(chart)
    }

    /// The rate that the stages ask for, as a line.
    fn stages(&self) -> Vec<Option<(f64, f64)>> {
        let sustain = self.intervals.iter().find(|interval| interval.phase == "sustain");
        let mut at = sustain.map_or(0.0, |first| first.at_s);
        let mut points = Vec::new();
        for stage in &self.report.stages {
            points.push(Some((at, stage.from_cps)));
            at += stage.seconds;
            points.push(Some((at, stage.to_cps)));
        }
        points
    }

    fn open(&self) -> Option<Chart> {
        let open = |blocks: &Blocks| blocks.connections.open_at_end.map(|open| open as f64);
        let waiting = |blocks: &Blocks| {
            blocks.connections.time_wait_at_end.filter(|waiting| *waiting > 0).map(|waiting| waiting as f64)
        };
        let most = self.most(&[&open]);
        let series = [
            Series { name: "open", colour: "s2", pen: Pen::Full, figure: &open },
            // TIME-WAIT would flatten the rest: it is in the table where it is much more.
            Series { name: "in TIME-WAIT", colour: "s6", pen: Pen::Dashed, figure: &waiting },
        ];
        let shown = if self.most(&[&waiting]) > 3.0 * most { &series[..1] } else { &series[..] };
        let top = if shown.len() == 1 { most } else { self.most(&[&open, &waiting]) };
        let y = Axis::from_zero(top, axis_count);
        self.lines("Connections held", "at the end of each interval", y, shown, &count_f64_rounded)
    }

    fn latency(&self) -> Option<Chart> {
        let latency = &self.report.blocks.latency_us;
        let has = |summary: &LatencySummary| summary.count.unwrap_or(0) > 0;
        type Stage = fn(&Blocks) -> &LatencySummary;
        // The figure to quote: from the schedule where there is one, of the whole exchange where there is one.
        let stages: [(bool, &str, Stage); 4] = [
            (has(&latency.transaction_from_schedule), "from when a request was due to the answer's end", |blocks| {
                &blocks.latency_us.transaction_from_schedule
            }),
            (has(&latency.connect_from_schedule), "from when a connection was due to its SYN-ACK", |blocks| {
                &blocks.latency_us.connect_from_schedule
            }),
            (has(&latency.transaction), "from a request to the answer's end", |blocks| &blocks.latency_us.transaction),
            (true, "from SYN to SYN-ACK", |blocks| &blocks.latency_us.connect),
        ];
        let (_, sub, stage) = stages.into_iter().find(|(there, ..)| *there)?;
        let at = |figure: fn(&LatencySummary) -> Option<u64>| {
            move |blocks: &Blocks| figure(stage(blocks)).map(|us| us.max(1) as f64)
        };
        let (p50, p90) = (at(|summary| summary.p50), at(|summary| summary.p90));
        let (p99, p99_9) = (at(|summary| summary.p99), at(|summary| summary.p99_9));
        let most = self.most(&[&p50, &p99_9]);
        let least = self.values(&p50).fold(f64::MAX, f64::min);
        let series = [
            Series { name: "p50", colour: "q1", pen: Pen::Full, figure: &p50 },
            Series { name: "p90", colour: "q2", pen: Pen::Full, figure: &p90 },
            Series { name: "p99", colour: "q3", pen: Pen::Full, figure: &p99 },
            Series { name: "p99.9", colour: "q4", pen: Pen::Full, figure: &p99_9 },
        ];
        let y = Axis::logarithmic(if least == f64::MAX { 1.0 } else { least }, most, micros_short);
        self.lines("Latency", sub, y, &series, &micros)
    }

    fn failures(&self) -> Option<Chart> {
        let names = causes(&self.report.blocks.connections.failed);
        let of = |interval: &IntervalReport| causes(&interval.blocks.connections.failed);
        let total = |interval: &IntervalReport| of(interval).iter().map(|(_, count)| count).sum::<u64>();
        let worst = self.intervals.iter().map(|interval| total(interval) as f64 / interval.seconds.max(1e-9));
        let worst = worst.fold(0.0, f64::max);
        if worst == 0.0 {
            return None;
        }
        let there: Vec<usize> =
            (0..names.len()).filter(|cause| self.intervals.iter().any(|interval| of(interval)[*cause].1 > 0)).collect();
        let mut bars: Vec<Bars> = there
            .iter()
            .map(|cause| Bars { name: names[*cause].0.into(), colour: CAUSES[*cause], bars: Vec::new() })
            .collect();
        for interval in self.intervals {
            let (counts, seconds) = (of(interval), interval.seconds.max(1e-9));
            let gap = interval.seconds * 0.08;
            let mut bottom = 0.0;
            for (bars, cause) in bars.iter_mut().zip(&there) {
                let height = counts[*cause].1 as f64 / seconds;
                if height > 0.0 {
                    let (from, to) = (interval.at_s + gap, interval.at_s + interval.seconds - gap);
                    bars.bars.push([from, to, bottom, bottom + height]);
                }
                bottom += height;
            }
        }
        let rows = self.intervals.iter().filter(|interval| total(interval) > 0).map(|interval| Row {
            x: Self::middle(interval),
            cells: [self.when(interval)]
                .into_iter()
                .chain(there.iter().map(|cause| count(of(interval)[*cause].1)))
                .collect(),
        });
        let sum: u64 = self.intervals.iter().map(total).sum();
        Some(Chart {
            title: "Failures",
            sub: "connections per second, by cause".into(),
            spoken: format!("{} failures, at most {} in a second", count(sum), count_f64_rounded(worst)),
            x: self.x(),
            y: Axis::from_zero(worst, axis_count),
            lines: Vec::new(),
            heads: ["Second".to_owned()].into_iter().chain(bars.iter().map(|bars| bars.name.clone())).collect(),
            bars,
            bands: Vec::new(),
            shaded: self.shaded(),
            rows: rows.collect(),
            wide: false,
        })
    }

    fn traffic(&self) -> Option<Chart> {
        let (tx, rx) = (|blocks: &Blocks| blocks.rate.tx_bits_per_s, |blocks: &Blocks| blocks.rate.rx_bits_per_s);
        let series = [
            Series { name: "sent", colour: "s5", pen: Pen::Full, figure: &tx },
            Series { name: "received", colour: "s3", pen: Pen::Full, figure: &rx },
        ];
        let bits = |value: f64| format!("{}bit/s", si(Some(value)));
        let y = Axis::from_zero(self.most(&[&tx, &rx]), axis_bits);
        self.lines("Traffic", "bits of frames per second", y, &series, &bits)
    }

    fn busy(&self) -> Option<Chart> {
        let workers = self.intervals.iter().map(|interval| interval.blocks.workers.len()).max().unwrap_or(0);
        if workers == 0 {
            return None;
        }
        let percent = |value: f64| format!("{:.0}%", value * 100.0);
        let axis = Axis::with_ticks(0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0].map(|at| (at, percent(at))).to_vec());
        // Beyond some, lines tell nothing apart: then the busiest and the idlest.
        const APART: usize = 4;
        let busy = move |blocks: &Blocks, worker: usize| {
            blocks.workers.get(worker).and_then(|worker| worker.busy_ratio).map(|busy| busy.min(1.0))
        };
        let sub = "share of the time that a worker had something to do";
        if workers > APART {
            let most = move |blocks: &Blocks| (0..workers).filter_map(|worker| busy(blocks, worker)).reduce(f64::max);
            let least = move |blocks: &Blocks| (0..workers).filter_map(|worker| busy(blocks, worker)).reduce(f64::min);
            let series = [
                Series { name: "busiest worker", colour: "s4", pen: Pen::Full, figure: &most },
                Series { name: "idlest worker", colour: "s2", pen: Pen::Full, figure: &least },
            ];
            return self.lines("Workers", sub, axis, &series, &percent);
        }
        let names: Vec<_> = (0..workers).map(|worker| format!("worker {worker}")).collect();
        let figures: Vec<_> = (0..workers).map(|worker| move |blocks: &Blocks| busy(blocks, worker)).collect();
        let series: Vec<_> = names
            .iter()
            .zip(&figures)
            .zip(["s1", "s3", "s2", "s5"])
            .map(|((name, figure), colour)| Series { name, colour, pen: Pen::Full, figure })
            .collect();
        self.lines("Workers", sub, axis, &series, &percent)
    }
}

fn count_f64_rounded(value: f64) -> String {
    count_f64(value.round())
}

fn axis_count(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => count_f64(value),
    }
}

fn axis_bits(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{} Gb", value / 1e9),
        value if value >= 1e6 => format!("{} Mb", value / 1e6),
        value if value >= 1e3 => format!("{} kb", value / 1e3),
        value => format!("{value} b"),
    }
}
