//! A connection as text: an arrow for each segment between two columns.

use std::fmt::Write as _;

use syncline_engine::tcp::State;
use syncline_engine::wire::Flags;

use super::follow::{Note, Row, Side};
use super::{Ladder, Trace};

/// Columns of the longest state's name.
const STATE_WIDTH: usize = 12;

/// Columns of an arrow at least and at most.
const ARROW_WIDTH: (usize, usize) = (36, 76);

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether to keep to ASCII.
    pub ascii: bool,
    /// Segments shown of one connection, from its beginning and its end.
    pub segments_max: usize,
}

impl Style {
    /// Whether this process' locale has the characters for arrows (POSIX: `LC_ALL`, then `LC_CTYPE`, then `LANG`).
    pub fn locale_is_utf8() -> bool {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    }
}

/// The whole of a trace.
pub fn render(trace: &Trace, style: Style) -> String {
    let mut out = String::new();
    for (index, ladder) in trace.connections.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(&connection(ladder, index + 1, style));
    }
    // Writing to a String cannot fail.
    if trace.connections.is_empty() {
        let _ = writeln!(out, "no TCP connection among {} frames", trace.frames);
    }
    if trace.connections_left_out > 0 {
        let count = trace.connections_left_out;
        let _ = writeln!(out, "\nconnections between {count} more pairs of ends are not shown; see --count");
    }
    let skipped = &trace.skipped;
    for (count, what) in [
        (skipped.fragments, "fragments without a TCP header"),
        (skipped.cut_short, "frames without a whole TCP header"),
        (skipped.link_type, "frames of a link type that is not known here"),
    ] {
        if count > 0 {
            let _ = writeln!(out, "left out: {count} {what}");
        }
    }
    out
}

/// One connection.
pub fn connection(ladder: &Ladder, number: usize, style: Style) -> String {
    let rows = &ladder.rows;
    let (first, last) = match style.segments_max {
        max if rows.len() > max => (max.div_ceil(2), max / 2),
        _ => (rows.len(), 0),
    };
    let shown = || rows[..first].iter().chain(&rows[rows.len() - last..]);
    let longest = shown().map(|row| label(row).chars().count() + 8).max().unwrap_or(0);
    let arrow_width = longest.clamp(ARROW_WIDTH.0, ARROW_WIDTH.1);
    let fractions = shown().any(|row| row.at_us.fract() != 0.0);
    let time_width = if fractions { 13 } else { 10 };
    let mut out = String::new();
    let octets =
        |side| rows.iter().filter(|row| row.from == side && !row.again()).map(|row| u64::from(row.len)).sum::<u64>();
    let both = if style.ascii { "<->" } else { "⇄" };
    let again = rows.iter().filter(|row| row.again()).count();
    let again = if again > 0 { format!(", {again} sent again") } else { String::new() };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "connection {number}: {} {both} {}, {}: {} segments{again}, {} octets out, {} back",
        ladder.left,
        ladder.right,
        ladder.outcome,
        rows.len() as u64 + ladder.segments_left_out,
        octets(Side::Left),
        octets(Side::Right),
    );
    let unit = if style.ascii { "us" } else { "µs" };
    let (left, right) = (&ladder.left, &ladder.right);
    let gap = (STATE_WIDTH + 2 + arrow_width + 2).saturating_sub(left.chars().count());
    let _ = writeln!(out, "{unit:>time_width$}  {left}{:gap$}{right}", "");
    for (index, row) in shown().enumerate() {
        if index == first {
            let dots = if style.ascii { ":" } else { "⋮" };
            let _ = writeln!(out, "{dots:>time_width$}  {} more segments", rows.len() - first - last);
        }
        let decimals = if fractions { 3 } else { 0 };
        let name = |state: Option<State>| state.map_or("?", State::name);
        let arrow = arrow(row, arrow_width, style.ascii);
        let line = format!(
            "{:>time_width$.decimals$}  {:<STATE_WIDTH$}  {arrow}  {:<STATE_WIDTH$}  {}",
            row.at_us,
            name(row.left),
            name(row.right),
            row.notes.iter().map(|note| note.text()).collect::<Vec<_>>().join(", "),
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    if ladder.segments_left_out > 0 {
        let _ = writeln!(out, "{} more segments were not kept", ladder.segments_left_out);
    }
    if let Some(side) = ladder.engine_side {
        let side = if side == Side::Left { left } else { right };
        let _ = writeln!(out, "states of {side} are the engine's own, as it had them after each of its passes");
    }
    out
}

impl Row {
    fn again(&self) -> bool {
        self.notes.iter().any(|note| matches!(note, Note::SentAgain | Note::KeepAlive))
    }
}

/// What is written into the arrow.
fn label(row: &Row) -> String {
    let flags = if row.flags == Flags::NONE { "none".into() } else { row.flags.to_string().replace('|', ",") };
    let mut out = format!("{flags} seq={}", row.seq);
    // Writing to a String cannot fail.
    if let Some(ack) = row.ack {
        let _ = write!(out, " ack={ack}");
    }
    if row.len > 0 {
        let _ = write!(out, " len={}", row.len);
    }
    if !row.flags.rst() {
        let _ = write!(out, " win={}", row.window);
    }
    if let Some(options) = &row.options {
        let numbers = [("mss", options.mss.map(u32::from)), ("ws", options.window_scale.map(u32::from))];
        for (name, value) in numbers {
            if let Some(value) = value {
                let _ = write!(out, " {name}={value}");
            }
        }
        for (name, there) in [("sack", options.sack_permitted), ("ts", options.timestamps)] {
            if there {
                let _ = write!(out, " {name}");
            }
        }
    }
    if !row.sack.is_empty() {
        let blocks: Vec<_> = row.sack.iter().map(|(from, to)| format!("{from}-{to}")).collect();
        let _ = write!(out, " sack={}", blocks.join(","));
    }
    out
}

fn arrow(row: &Row, width: usize, ascii: bool) -> String {
    let (shaft, tips) = match (ascii, row.again()) {
        (true, false) => ("-", ["<", ">"]),
        (true, true) => (".", ["<", ">"]),
        (false, false) => ("─", ["◀", "▶"]),
        (false, true) => ("┄", ["◀", "▶"]),
    };
    let label: String = label(row).chars().take(width.saturating_sub(8)).collect();
    let rest = width.saturating_sub(label.chars().count() + 5);
    match row.from {
        Side::Left => format!("{0}{0} {label} {1}{2}", shaft, shaft.repeat(rest), tips[1]),
        Side::Right => format!("{2}{1} {label} {0}{0}", shaft, shaft.repeat(rest), tips[0]),
    }
}
