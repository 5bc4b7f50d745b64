//! The view, drawn into whatever room there is.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, BorderType, LineGauge, Paragraph};

use super::chart::{self, Scale, Series};
use super::model::{Model, Pace, Point, headline};
use super::theme::Theme;
use crate::report::model::Verdict;
use crate::report::text::{bits, si, thousands};

/// The room that charts and panels ask for; with less, there are lines only.
const FULL: (u16, u16) = (72, 20);

/// Lines of the panels, borders included.
const PANELS: u16 = 8;

/// A busy worker, and a very busy one.
const BUSY: [f64; 2] = [0.7, 0.9];

/// Draws `model` into the whole frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let area = frame.area();
    if area.width < FULL.0 || area.height < FULL.1 {
        return compact(frame, area, model, theme);
    }
    let judged = verdict_lines(model, theme);
    let verdict_height = u16::try_from(judged.len()).unwrap_or(u16::MAX).clamp(1, area.height / 6);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(PANELS),
        Constraint::Length(verdict_height),
        Constraint::Length(1),
    ];
    let [head, gauge, charts, panels, judgement, foot] = Layout::vertical(rows).areas(area);
    header(frame, head, model, theme);
    progress(frame, gauge, model, theme);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(charts);
    rate_chart(frame, left, model, theme);
    if model.facts.timed {
        latency_chart(frame, right, model, theme)
    } else {
        traffic_chart(frame, right, model, theme)
    }
    let thirds = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)];
    let [now, failures, workers] = Layout::horizontal(thirds).areas(panels);
    panel(frame, now, "now", now_lines(model), theme);
    if model.facts.timed {
        panel(frame, failures, "failures", failure_lines(model, theme), theme);
    } else {
        // What became of a client's connection is the client's to know.
        panel(frame, failures, "connections", connection_lines(model), theme);
    }
    panel(frame, workers, "workers", worker_lines(model, workers.width.saturating_sub(2), theme), theme);
    frame.render_widget(Paragraph::new(judged), judgement);
    frame.render_widget(keys(model, theme), foot);
}

/// One line after the other, the most important first, as many as there is room for.
fn compact(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let (name, latency) = headline(&model.last);
    let micros = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
    let figures = [latency.p50, latency.p99, latency.p99_9].map(micros).join(" ");
    let failed = match model.failed() {
        0 => Span::styled("none", theme.good()),
        _ => Span::styled(causes(model), theme.bad()),
    };
    let busy: Vec<_> = model.last.workers.iter().map(|worker| percent(worker.busy_ratio)).collect();
    let mut lines = vec![
        Line::styled(model.facts.title.clone(), theme.strong()),
        Line::from(format!("{}  {}", phase(model), clock(model))),
        Line::from(rate_text(model)),
    ];
    if model.facts.timed {
        lines.push(Line::from(format!("µs p50 p99 p99.9: {figures}")));
        lines.push(Line::styled(format!("  ({name})"), theme.quiet()));
    }
    lines.push(Line::from(vec![Span::raw("failed: "), failed]));
    lines.push(Line::from(open_text(model)));
    lines.push(Line::from(format!("busy: {}", busy.join(" "))));
    lines.extend(verdict_lines(model, theme));
    let room = usize::from(area.height);
    if lines.len() >= room && room > 4 {
        lines.truncate(room - 1);
    }
    lines.push(keys(model, theme));
    frame.render_widget(Paragraph::new(lines), area);
}

fn header(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let right = format!("{}  {}", phase(model), clock(model));
    let width = u16::try_from(right.chars().count()).unwrap_or(u16::MAX);
    let [title, state] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
    frame.render_widget(Line::styled(model.facts.title.clone(), theme.strong()), title);
    frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), state);
}

fn phase(model: &Model) -> String {
    let name = match model.phase.as_str() {
        _ if model.stopping => "ending",
        "init" if model.elapsed.is_some() => "begun",
        "init" => "looking for the targets",
        "ramp" if matches!(model.facts.pace, Pace::Held(..)) => "opening",
        "ramp" => "ramp",
        "sustain" => "measuring",
        "drain" => "draining",
        other => other,
    };
    let mut text = name.to_owned();
    if let Some((stage, stages)) = model.stage() {
        text += &format!("  stage {stage} of {stages}");
    }
    if let Some(step) = model.steps.last() {
        let state = if step.pass { "held" } else { "did not hold" };
        text += &format!("  step {}: {} {state}", model.steps.len() + 1, si(Some(step.value as f64)));
    }
    text
}

fn time(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn clock(model: &Model) -> String {
    let elapsed = time(model.elapsed.unwrap_or_default());
    match model.facts.pace {
        Pace::Time(whole) => format!("{elapsed} of {}", time(whole)),
        _ => elapsed,
    }
}

fn progress(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let (share, rest) = model.progress();
    let Some(share) = share else {
        let text = if model.facts.pace == Pace::Endless { "until it is stopped" } else { "" };
        return frame.render_widget(Line::styled(text, theme.quiet()), area);
    };
    let rest = rest.filter(|_| !model.stopping).map_or_else(String::new, |rest| format!("  {} left", time(rest)));
    let gauge = LineGauge::default()
        .ratio(share)
        .filled_symbol("━")
        .unfilled_symbol("─")
        .label(format!("{:3.0} %{rest} ", share * 100.0))
        .filled_style(theme.good())
        .unfilled_style(theme.quiet());
    frame.render_widget(gauge, area);
}

/// What the first chart is about.
#[derive(Clone, Copy)]
enum Subject {
    Connections,
    Requests,
    Open,
}

fn subject(model: &Model) -> Subject {
    if matches!(model.facts.pace, Pace::Held(..)) {
        return Subject::Open;
    }
    let sum = |of: fn(&Point) -> f64| model.points.iter().map(of).sum::<f64>();
    let (connections, requests) = (sum(|point| point.cps), sum(|point| point.requests_per_s));
    if requests > connections * 1.5 { Subject::Requests } else { Subject::Connections }
}

fn rate_text(model: &Model) -> String {
    let rate = &model.last.rate;
    match subject(model) {
        Subject::Open => open_text(model),
        Subject::Requests => format!("{} requests/s", whole(rate.requests_per_s)),
        Subject::Connections => {
            let offered = rate.offered_cps.map_or_else(String::new, |offered| format!(" of {}", whole(Some(offered))));
            format!("{}{offered} connections/s", whole(rate.achieved_cps))
        }
    }
}

/// A rate without the tenths that a second's count does not have.
fn whole(rate: Option<f64>) -> String {
    si(rate.map(f64::round))
}

fn open_text(model: &Model) -> String {
    let open = thousands(model.last.connections.open_at_end.unwrap_or(0));
    match model.facts.pace {
        Pace::Held(connections, _) => format!("{open} of {} open", thousands(connections)),
        _ => format!("{open} open"),
    }
}

fn framed<'a>(title: Line<'a>, theme: Theme) -> Block<'a> {
    Block::bordered().border_type(BorderType::Rounded).border_style(theme.quiet()).title(title)
}

/// As many of the last seconds as the dots of a chart of this width can tell apart.
fn window(model: &Model, width: u16) -> impl Iterator<Item = &Point> {
    let dots = usize::from(width.max(15)) * 2;
    model.points.iter().skip(model.points.len().saturating_sub(dots))
}

fn series(model: &Model, width: u16, style: Style, value: impl Fn(&Point) -> Option<f64>) -> Series {
    let point = |point: &Point| value(point).map(|value| (point.at_s, value));
    Series { points: window(model, width).filter_map(point).collect(), style }
}

fn rate_chart(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let [first, second, _] = theme.lines();
    let mut lines = Vec::new();
    match subject(model) {
        Subject::Open => lines.push(series(model, area.width, first, |point| Some(point.open as f64))),
        Subject::Requests => lines.push(series(model, area.width, first, |point| Some(point.requests_per_s))),
        Subject::Connections => {
            lines.push(series(model, area.width, second, |point| point.offered_cps));
            lines.push(series(model, area.width, first, |point| Some(point.cps)));
        }
    }
    let title = Line::from(format!(" {} ", rate_text(model)));
    chart::draw(frame, area, framed(title, theme), lines, Scale::Linear, theme.quiet(), short);
}

fn latency_chart(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let styles = theme.lines();
    let lines = (0..3).map(|index| {
        series(model, area.width, styles[index], |point| point.latency_us[index].map(|micros| micros as f64))
    });
    let (name, latency) = headline(&model.last);
    let mut title = vec![Span::raw(" µs ")];
    let named = [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p99_9)];
    for ((name, value), style) in named.into_iter().zip(styles) {
        let value = value.map_or_else(|| "-".into(), |micros| short(micros as f64));
        title.extend([Span::styled(name, style), Span::raw(format!(" {value} "))]);
    }
    let block = framed(title.into(), theme).title_bottom(Line::from(format!(" {name} ")).right_aligned());
    chart::draw(frame, area, block, lines.collect(), Scale::Logarithmic, theme.quiet(), short);
}

fn traffic_chart(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let [first, second, _] = theme.lines();
    let rate = |bits: Option<f64>| bits.map_or_else(|| "-".into(), short);
    let (received, sent) = (rate(model.last.rate.rx_bits_per_s), rate(model.last.rate.tx_bits_per_s));
    let lines = vec![
        series(model, area.width, first, |point| Some(point.rx_bits_per_s)),
        series(model, area.width, second, |point| Some(point.tx_bits_per_s)),
    ];
    let title = Line::from(vec![
        Span::styled(" received", first),
        Span::raw(format!(" {received}  ")),
        Span::styled("sent", second),
        Span::raw(format!(" {sent} bit/s ")),
    ]);
    chart::draw(frame, area, framed(title, theme), lines, Scale::Linear, theme.quiet(), short);
}

/// A number in at most six characters: `950`, `12.5k`, `1.2M`.
fn short(value: f64) -> String {
    for (limit, suffix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= limit {
            let scaled = value / limit;
            let digits = usize::from(scaled < 100.0 && scaled.fract() > 0.05);
            return format!("{scaled:.digits$}{suffix}");
        }
    }
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$}")
}

fn panel(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>, theme: Theme) {
    let block = framed(Line::from(format!(" {title} ")), theme);
    frame.render_widget(Paragraph::new(Text::from(lines)).block(block), area);
}

fn now_lines(model: &Model) -> Vec<Line<'static>> {
    let (rate, totals) = (&model.last.rate, &model.totals);
    let row = |name: &str, value: String| Line::from(format!("{name:10}{value}"));
    let mut lines = vec![
        row("completed", thousands(totals.completed)),
        row("open", thousands(model.last.connections.open_at_end.unwrap_or(0))),
        row("requests", format!("{}/s", whole(rate.requests_per_s))),
        row("sent", bits(rate.tx_bits_per_s)),
        row("received", bits(rate.rx_bits_per_s)),
    ];
    let lost = format!("{} sent, {} dropped", short(totals.retransmitted as f64), short(totals.dropped as f64));
    if totals.retransmitted + totals.dropped > 0 {
        lines.push(row("again", lost));
    }
    lines
}

fn causes(model: &Model) -> String {
    let cause = |(cause, count): &(&str, u64)| format!("{cause} {}", thousands(*count));
    model.totals.failed.iter().map(cause).collect::<Vec<_>>().join(", ")
}

fn failure_lines(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let failed = model.failed();
    if failed == 0 {
        return vec![Line::styled("none", theme.good())];
    }
    let ratio = failed as f64 / model.totals.attempted.max(1) as f64;
    let sum = format!("{}, {:.2} %", thousands(failed), ratio * 100.0);
    let mut lines = vec![Line::styled(sum, theme.bad())];
    let row = |(cause, count): &(&str, u64)| Line::from(format!("{cause:15}{}", thousands(*count)));
    lines.extend(model.totals.failed.iter().map(row));
    lines
}

fn connection_lines(model: &Model) -> Vec<Line<'static>> {
    let row = |name: &str, count: u64| Line::from(format!("{name:14}{}", thousands(count)));
    let connections = &model.last.connections;
    vec![
        row("begun", model.totals.attempted),
        row("open", connections.open_at_end.unwrap_or(0)),
        row("in TIME-WAIT", connections.time_wait_at_end.unwrap_or(0)),
        row("completed", model.totals.completed),
    ]
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "  - ".into(), |ratio| format!("{:3.0}%", ratio * 100.0))
}

fn worker_lines(model: &Model, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let rows = usize::from(PANELS) - 2;
    let workers = &model.last.workers;
    let line = |(index, worker): (usize, &crate::report::model::WorkerReport)| {
        let busy = worker.busy_ratio.unwrap_or(0.0).clamp(0.0, 1.0);
        let style = match busy {
            busy if busy >= BUSY[1] => theme.bad(),
            busy if busy >= BUSY[0] => theme.warn(),
            _ => theme.good(),
        };
        let name = worker.core.map_or_else(|| format!("worker {index}"), |core| format!("core {core}"));
        let room = usize::from(width).saturating_sub(15);
        let filled = (busy * room as f64).round() as usize;
        Line::from(vec![
            Span::raw(format!("{name:9}")),
            Span::styled("━".repeat(filled), style),
            Span::styled("─".repeat(room - filled), theme.quiet()),
            Span::raw(format!(" {}", percent(worker.busy_ratio))),
        ])
    };
    let delay = &model.last.latency_us.schedule_delay;
    let late = delay.p99.map(|p99| Line::from(format!("late p99  {} µs", thousands(p99))));
    let room = rows - usize::from(late.is_some());
    let mut lines: Vec<_> = if workers.len() <= room {
        workers.iter().enumerate().map(line).collect()
    } else {
        // The busiest are the ones to look at.
        let mut order: Vec<_> = workers.iter().enumerate().collect();
        order.sort_by(|a, b| b.1.busy_ratio.unwrap_or(0.0).total_cmp(&a.1.busy_ratio.unwrap_or(0.0)));
        let rest = Line::styled(format!("and {} less busy", workers.len() + 1 - room), theme.quiet());
        order.into_iter().take(room - 1).map(line).chain([rest]).collect()
    };
    lines.extend(late);
    lines
}

fn verdict_lines(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let Some(so_far) = &model.so_far else {
        let text = if model.facts.timed { "verdict: nothing has been measured yet" } else { "" };
        return vec![Line::styled(text, theme.quiet())];
    };
    let style = match so_far.verdict {
        Verdict::Valid | Verdict::Ceiling => theme.good(),
        Verdict::Failed => theme.bad(),
        Verdict::GeneratorLimited | Verdict::Inconclusive => theme.warn(),
    };
    let name = so_far.verdict.name().replace('_', " ").to_uppercase();
    let mut first = vec![Span::raw("so far "), Span::styled(name, style)];
    let mut lines = Vec::new();
    for result in so_far.thresholds.iter().filter(|result| result.pass == Some(true)) {
        let value = result.value.map_or_else(|| "-".into(), short);
        first.push(Span::styled(format!("  {} ✓ {value}", result.expr), theme.quiet()));
    }
    lines.push(Line::from(first));
    lines.extend(so_far.reasons.iter().map(|reason| Line::styled(format!("  - {reason}"), theme.warn())));
    lines
}

fn keys(model: &Model, theme: Theme) -> Line<'static> {
    let text =
        if model.stopping { "closing what is open; q again ends at once" } else { "q ends the run, with its report" };
    Line::styled(text, theme.quiet())
}

#[cfg(test)]
mod tests;
