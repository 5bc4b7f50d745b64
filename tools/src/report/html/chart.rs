//! Charts as SVG that stretches with the page, with its labels as text beside it and its values in a table below.

use std::fmt::Write as _;

use maud::{Markup, html};

/// How far an axis goes, and where it has marks.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    log: bool,
    /// Marks and their labels.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to a round number at or above `most`, with marks at round numbers.
    pub(super) fn from_zero(most: f64, label: impl Fn(f64) -> String) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let step = round_step(most / 3.5);
        let count = (most / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|i| (f64::from(i) * step, label(f64::from(i) * step)));
        Self { from: 0.0, to: count * step, log: false, ticks: ticks.collect() }
    }

    /// The decades that hold `least` and `most`; where that is one or two, 2 and 5 are marked as well.
    pub(super) fn logarithmic(least: f64, most: f64, label: impl Fn(f64) -> String) -> Self {
        let least = least.max(1.0);
        let (first, last) = (least.log10().floor(), (most.max(least * 1.01)).log10().ceil());
        let factors: &[f64] = if last - first <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let marks: Vec<f64> = (first as i32..=last as i32)
            .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
            .collect();
        // As near as the marks allow.
        let from = marks.iter().copied().filter(|mark| *mark <= least).fold(marks[0], f64::max);
        let to = marks.iter().copied().filter(|mark| *mark >= most).fold(f64::MAX, f64::min);
        let to = if to == f64::MAX { 10f64.powf(last) } else { to };
        let shown = marks.into_iter().filter(|mark| (from..=to).contains(mark));
        Self { from, to, log: true, ticks: shown.map(|mark| (mark, label(mark))).collect() }
    }

    /// With marks of one's own.
    pub(super) fn with_ticks(from: f64, to: f64, ticks: Vec<(f64, String)>) -> Self {
        Self { from, to, log: false, ticks }
    }

    /// Of a run's time: round numbers of seconds, not too many.
    pub(super) fn seconds(from: f64, to: f64) -> Self {
        let step = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0]
            .into_iter()
            .find(|step| (to - from) / step <= 6.0)
            .unwrap_or(((to - from) / 6.0 / 3600.0).ceil() * 3600.0);
        let first = (from / step).ceil() as u64;
        let ticks = (first..=(to / step) as u64).map(|i| {
            let at = i as f64 * step;
            (at, if step < 60.0 { format!("{at} s") } else { format!("{} min", at / 60.0) })
        });
        Self::with_ticks(from, to, ticks.collect())
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(self.from).log10() } else { value };
        let span = scale(self.to) - scale(self.from);
        if span > 0.0 { ((scale(value) - scale(self.from)) / span).clamp(0.0, 1.0) } else { 0.5 }
    }
}

fn round_step(about: f64) -> f64 {
    let decade = 10f64.powf(about.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * decade >= about).unwrap_or(10.0);
    factor * decade
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pen {
    Full,
    Dashed,
}

/// A line; `None` is a gap.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// A colour of the style sheet.
    pub(super) colour: &'static str,
    pub(super) pen: Pen,
    pub(super) points: Vec<Option<(f64, f64)>>,
}

/// Bars of one kind: from, to, bottom, top.
#[derive(Clone, Debug)]
pub(super) struct Bars {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) bars: Vec<[f64; 4]>,
}

/// An area between two values: from, to, bottom, top.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) colour: &'static str,
    pub(super) parts: Vec<[f64; 4]>,
}

/// A row of the table below a chart, and the place it has in the chart.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) x: f64,
    pub(super) cells: Vec<String>,
}

/// A chart.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// A line of explanation.
    pub(super) sub: String,
    /// What it shows, for who cannot see it.
    pub(super) spoken: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) bars: Vec<Bars>,
    pub(super) bands: Vec<Band>,
    /// Spans of time that are shaded.
    pub(super) shaded: Vec<(f64, f64)>,
    pub(super) heads: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) wide: bool,
}

/// Units of the drawing: it is stretched to the page.
const UNITS: f64 = 1000.0;

impl Chart {
    pub(super) fn render(&self) -> Markup {
        let legend = self.lines.len() + self.bars.len() > 1;
        html! {
            figure.card.wide[self.wide] {
                h3 { (self.title) }
                p.sub { (self.sub) }
                @if legend {
                    ul.legend {
                        @for bars in &self.bars { li { i style={ "--c:var(--" (bars.colour) ")" } {} (bars.name) } }
                        @for line in &self.lines { li { i style={ "--c:var(--" (line.colour) ")" } {} (line.name) } }
                    }
                }
                div.plot tabindex="0" role="group" aria-label={ (self.title) ": arrow keys show values" } {
                    (self.drawing())
                    @for (value, label) in &self.y.ticks {
                        span.y style={ "top:" (percent(1.0 - self.y.place(*value))) } { (label) }
                    }
                    @for (value, label) in &self.x.ticks {
                        @let place = self.x.place(*value);
                        span.x.first[place < 0.04].last[place > 0.96] style={ "left:" (percent(place)) } { (label) }
                    }
                }
                (self.table())
            }
        }
    }

    fn drawing(&self) -> Markup {
        let (x, y) = (|value: f64| self.x.place(value) * UNITS, |value: f64| (1.0 - self.y.place(value)) * UNITS);
        html! {
            svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label=(self.spoken) {
                @for (from, to) in &self.shaded {
                    path.phase d=(rectangle(x(*from), x(*to), 0.0, UNITS)) {}
                }
                @for (value, _) in &self.y.ticks {
                    line.grid x1="0" x2="1000" y1=(short(y(*value))) y2=(short(y(*value))) {}
                }
                @for band in &self.bands {
                    path.band style={ "--c:var(--" (band.colour) ")" } d=(rectangles(&band.parts, x, y)) {}
                }
                @for bars in &self.bars {
                    path.bar style={ "--c:var(--" (bars.colour) ")" } d=(rectangles(&bars.bars, x, y)) {}
                }
                line.base x1="0" x2="1000" y1="1000" y2="1000" {}
                @for line in &self.lines {
                    path.line.dash[line.pen == Pen::Dashed] style={ "--c:var(--" (line.colour) ")" }
                        d=(path(&line.points, x, y)) {}
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            details {
                summary { "Values" }
                div.scroll tabindex="0" role="group" aria-label={ (self.title) ": values" } {
                    table {
                        thead { tr { @for head in &self.heads { th scope="col" { (head) } } } }
                        tbody {
                            @for row in &self.rows {
                                tr data-x=(format!("{:.4}", self.x.place(row.x))) {
                                    @for (column, cell) in row.cells.iter().enumerate() {
                                        @if column == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

fn short(value: f64) -> String {
    format!("{value:.1}")
}

fn rectangle(x0: f64, x1: f64, y0: f64, y1: f64) -> String {
    format!("M{x0:.1} {y0:.1}H{x1:.1}V{y1:.1}H{x0:.1}Z")
}

fn rectangles(parts: &[[f64; 4]], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    parts.iter().map(|[from, to, bottom, top]| rectangle(x(*from), x(*to), y(*top), y(*bottom))).collect()
}

fn path(points: &[Option<(f64, f64)>], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut pen_down = false;
    for (index, point) in points.iter().enumerate() {
        let Some((at, value)) = point else {
            pen_down = false;
            continue;
        };
        let _ = write!(path, "{}{:.1} {:.1}", if pen_down { 'L' } else { 'M' }, x(*at), y(*value));
        // A point without a neighbour is a dot: a line of no length with round ends.
        if !pen_down && points.get(index + 1).is_none_or(Option::is_none) {
            path.push_str("h0.1");
        }
        pen_down = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let labels = |axis: &Axis| axis.ticks.iter().map(|(_, label)| label.clone()).collect::<Vec<_>>().join(" ");
        let plain = |value: f64| value.to_string();
        for (most, expected) in [(97.0, "0 50 100"), (0.0, "0 0.5 1"), (12_340.0, "0 5000 10000 15000")] {
            assert_eq!(labels(&Axis::from_zero(most, plain)), expected);
        }
        assert_eq!(labels(&Axis::logarithmic(3.0, 4_000.0, plain)), "1 10 100 1000 10000");
        assert_eq!(labels(&Axis::logarithmic(130.0, 480.0, plain)), "100 200 500");
        assert_eq!(labels(&Axis::seconds(0.0, 30.0)), "0 s 5 s 10 s 15 s 20 s 25 s 30 s");
        assert_eq!(labels(&Axis::seconds(0.0, 3_600.0)), "0 min 10 min 20 min 30 min 40 min 50 min 60 min");
        assert_eq!(Axis::logarithmic(100.0, 1_000.0, plain).place(1_000.0), 1.0);
        assert_eq!(Axis::from_zero(1.0, plain).place(9.0), 1.0, "what lies outside is drawn at the edge");
    }

    #[test]
    fn gaps_and_lonely_points_are_drawn() {
        let drawn = path(&[Some((0.0, 1.0)), None, Some((2.0, 3.0)), Some((3.0, 4.0))], |x| x, |y| y);
        assert_eq!(drawn, "M0.0 1.0h0.1M2.0 3.0L3.0 4.0");
    }
}
