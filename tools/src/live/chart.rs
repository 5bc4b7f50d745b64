//! Charts over time.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType};

/// Seconds that a chart shows at least, so that the first ones do not fill it.
const SECONDS_MIN: f64 = 30.0;

/// One line of a chart: points of seconds and values.
pub(super) struct Series {
    pub(super) points: Vec<(f64, f64)>,
    pub(super) style: Style,
}

/// The scale of values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0 to a round number above the highest value.
    Linear,
    /// Powers of ten around the values.
    Logarithmic,
}

/// The smallest round number that is not below `value`.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0];
    steps.map(|step| step * power).into_iter().find(|round| *round >= value).unwrap_or(10.0 * power)
}

fn bounds(scale: Scale, series: &[Series]) -> [f64; 2] {
    let values = || series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
    let max = values().fold(0.0, f64::max);
    match scale {
        Scale::Linear => [0.0, round_up(max)],
        Scale::Logarithmic => {
            let low = values().fold(f64::INFINITY, f64::min).max(1.0).min(max.max(1.0));
            let bottom = low.log10().floor();
            [bottom, max.max(1.0).log10().ceil().max(bottom + 1.0)]
        }
    }
}

/// Draws `series` into `area`, within `block`. `label` writes a value.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    block: Block<'_>,
    mut series: Vec<Series>,
    scale: Scale,
    quiet: Style,
    label: fn(f64) -> String,
) {
    let [bottom, top] = bounds(scale, &series);
    if scale == Scale::Logarithmic {
        let logarithm = |value: &mut f64| *value = value.max(1.0).log10();
        series.iter_mut().flat_map(|series| &mut series.points).for_each(|(_, value)| logarithm(value));
    }
    let value_of = |height: f64| if scale == Scale::Logarithmic { 10f64.powf(height) } else { height };
    let seconds = || series.iter().flat_map(|series| series.points.iter().map(|(second, _)| *second));
    let first = seconds().fold(f64::INFINITY, f64::min);
    let first = if first.is_finite() { first } else { 0.0 };
    let last = seconds().fold(first, f64::max).max(first + SECONDS_MIN);
    let middle = f64::midpoint(bottom, top);
    let heights = if area.height >= 7 { vec![bottom, middle, top] } else { vec![bottom, top] };
    let labels: Vec<Line<'_>> = heights.iter().map(|height| Line::styled(label(value_of(*height)), quiet)).collect();
    let at = |second: f64| Span::styled(format!("{second:.0} s"), quiet);
    let datasets = series.iter().map(|series| {
        let line = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(series.style);
        line.data(&series.points)
    });
    let chart = Chart::new(datasets.collect())
        .block(block)
        .legend_position(None)
        .x_axis(Axis::default().bounds([first, last]).labels([at(first), at(last)]).style(quiet))
        .y_axis(Axis::default().bounds([bottom, top]).labels(labels).style(quiet));
    frame.render_widget(chart, area);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Vec<Series> {
        vec![Series { points: values.iter().map(|value| (0.0, *value)).collect(), style: Style::new() }]
    }

    #[test]
    fn scales_end_at_round_numbers_around_the_values() {
        for (values, linear, logarithmic) in [
            (&[][..], [0.0, 1.0], [0.0, 1.0]),
            (&[0.0], [0.0, 1.0], [0.0, 1.0]),
            (&[12.0, 480.0], [0.0, 500.0], [1.0, 3.0]),
            (&[1_000.0], [0.0, 1_000.0], [3.0, 4.0]),
            (&[51_000.0, 3.0], [0.0, 60_000.0], [0.0, 5.0]),
        ] {
            assert_eq!(bounds(Scale::Linear, &series(values)), linear, "{values:?}");
            assert_eq!(bounds(Scale::Logarithmic, &series(values)), logarithmic, "{values:?}");
        }
    }
}
