//! A report for people: the verdict first, then the figures, in as few lines as they need.

use std::fmt::Write as _;

use super::insight;
use super::latency::LatencySummary;
use super::model::{Blocks, Report, Verdict};
use super::verdict::causes;

/// The report as plain text of at most 100 columns, ending with a line feed.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    verdict(&mut out, report);
    if let Some(raw) = &report.raw {
        let (both, one_way) = (si(raw.frames_per_s), si(raw.one_way_frames_per_s));
        let size = raw.frame_bytes.unwrap_or(0);
        let mode = raw.mode.as_deref().unwrap_or("-");
        line(&mut out, "raw", &format!("{both} frames/s both ways, {one_way} each way, {size} octets, mode {mode}"));
        line(&mut out, "", &format!("{}, {} doorbells", bits(raw.bits_per_s), si(raw.doorbells.map(|n| n as f64))));
    } else if report.syn_flood.syns.is_some() {
        syn_flood(&mut out, report);
    } else {
        blocks(&mut out, &report.blocks);
    }
    for (name, lines) in [
        ("reconciled", report.reconciliation.as_ref().map(insight::reconciliation_lines)),
        ("recorded", report.flight.as_ref().map(insight::flight_lines)),
    ] {
        for (number, text) in lines.iter().flatten().enumerate() {
            line(&mut out, if number == 0 { name } else { "" }, text);
        }
    }
    host(&mut out, report);
    if let Some(server) = &report.server {
        out.push_str("\nserver\n");
        blocks(&mut out, &server.blocks);
        cookies(&mut out, server);
    }
    cookies(&mut out, report);
    out
}

fn verdict(out: &mut String, report: &Report) {
    let name = match report.verdict {
        Verdict::GeneratorLimited => "generator limited",
        other => other.name(),
    };
    let partial = if report.partial { " (interrupted)" } else { "" };
    line(out, "verdict", &format!("{}{partial}", name.to_uppercase()));
    for reason in &report.reasons {
        line(out, "", &format!("- {reason}"));
    }
    for threshold in &report.thresholds {
        let state = match threshold.pass {
            Some(true) => "holds",
            Some(false) => "broken",
            None => "not measured",
        };
        let value = threshold.value.map_or_else(|| "-".into(), |value| format!("{value}"));
        line(out, "threshold", &format!("{} {state} ({value})", threshold.expr));
    }
    for criterion in &report.criteria {
        let state = match criterion.pass {
            Some(true) => "passed",
            Some(false) => "failed",
            None => "not measured",
        };
        let value = criterion.value.map_or_else(|| "-".into(), |value| format!("{value:.6}"));
        line(out, "criterion", &format!("{}<{} {state} ({value})", criterion.name, criterion.limit));
    }
    search(out, report);
    stages(out, report);
}

fn search(out: &mut String, report: &Report) {
    let Some(search) = &report.search else { return };
    let number = |value: Option<u64>| value.map_or_else(|| "none".into(), thousands);
    let (best, above) = (number(search.best), number(search.above));
    line(
        out,
        "search",
        &format!("{}: {best} held, {above} above it did not; ended by {}", search.what, search.ended_by),
    );
    for step in &search.steps {
        let state = if step.pass { "holds" } else { step.verdict.name() };
        let repeat = if step.repeat { " (again)" } else { "" };
        let p99 = number(step.connect_p99_us);
        let cps = si(step.achieved_cps);
        line(
            out,
            "",
            &format!("{:>12}{repeat:8} {state:18} {cps} connections/s, connect p99 {p99} µs", thousands(step.value)),
        );
    }
}

fn stages(out: &mut String, report: &Report) {
    for stage in &report.stages {
        let (from, to) = (si(Some(stage.from_cps)), si(Some(stage.to_cps)));
        let connect = &stage.blocks.latency_us.connect_from_schedule;
        let p99 = connect.p99.map_or_else(|| "-".into(), thousands);
        let achieved = si(stage.blocks.rate.achieved_cps);
        let text = format!(
            "{}: {from} to {to} in {:.1} s, {achieved} connections/s, connect from schedule p99 {p99} µs",
            stage.stage, stage.seconds
        );
        line(out, "stage", &text);
    }
}

fn syn_flood(out: &mut String, report: &Report) {
    let flood = &report.syn_flood;
    let count = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
    let offered = flood.offered_per_s.map_or_else(String::new, |rate| format!(" of {} offered", si(Some(rate))));
    line(out, "rate", &format!("{} SYNs/s{offered}", si(flood.sent_per_s)));
    let rate = &report.blocks.rate;
    line(out, "", &format!("{} sent, {} received", bits(rate.tx_bits_per_s), bits(rate.rx_bits_per_s)));
    line(out, "SYNs", &format!("{} sent, from {} addresses", count(flood.syns), count(flood.sources)));
    line(
        out,
        "answers",
        &format!(
            "{} SYN-ACK, {} RST, {} ICMP errors, {} others: {} of the SYNs answered",
            count(flood.syn_acks),
            count(flood.resets),
            count(flood.icmp_errors),
            count(flood.others),
            flood.answered_ratio.map_or_else(|| "-".into(), |ratio| format!("{:.1}%", ratio * 100.0)),
        ),
    );
    let packets = &report.blocks.packets;
    let per_packet = report.blocks.syscalls.per_packet.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"));
    let (tx, rx, doorbells) = (count(packets.tx), count(packets.rx), count(report.blocks.syscalls.doorbells));
    line(out, "packets", &format!("{tx} sent, {rx} received, {doorbells} doorbells, {per_packet} per packet"));
    dropped(out, &report.blocks);
    workers(out, &report.blocks);
}

fn blocks(out: &mut String, blocks: &Blocks) {
    rates(out, blocks);
    connections(out, blocks);
    latency_table(out, blocks);
    packets(out, blocks);
    let memory = &blocks.memory;
    line(
        out,
        "memory",
        &format!(
            "resident {}, flow tables {}, {} octets per idle connection",
            octets(memory.rss_bytes),
            octets(memory.flow_table_bytes),
            memory.bytes_per_idle_connection.map_or_else(|| "-".into(), |bytes| format!("{bytes:.0}")),
        ),
    );
    workers(out, blocks);
}

fn workers(out: &mut String, blocks: &Blocks) {
    for worker in &blocks.workers {
        let percent = |share: Option<f64>| share.map_or_else(|| "-".into(), |share| format!("{:.0}%", share * 100.0));
        let (busy, softirq) = (percent(worker.busy_ratio), percent(worker.softirq_ratio));
        let core = worker.core.map_or_else(|| "-".into(), |core| core.to_string());
        let longest = worker.poll_max_us.map_or_else(|| "-".into(), |us| format!("{us:.0} µs"));
        line(
            out,
            "worker",
            &format!("core {core}: busy {busy}, softirq of its core {softirq}, longest loop {longest}"),
        );
    }
}

fn rates(out: &mut String, blocks: &Blocks) {
    let rate = &blocks.rate;
    let offered = rate.offered_cps.map_or_else(String::new, |cps| format!(" of {} offered", si(Some(cps))));
    line(
        out,
        "rate",
        &format!("{} connections/s{offered}, {} requests/s", si(rate.achieved_cps), si(rate.requests_per_s)),
    );
    line(out, "", &format!("{} sent, {} received", bits(rate.tx_bits_per_s), bits(rate.rx_bits_per_s)));
}

fn connections(out: &mut String, blocks: &Blocks) {
    let connections = &blocks.connections;
    let count = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
    line(
        out,
        "connections",
        &format!(
            "{} attempted, {} established, {} completed, {} left open",
            count(connections.attempted),
            count(connections.established),
            count(connections.completed),
            count(connections.open_at_end)
        ),
    );
    line(
        out,
        "",
        &format!(
            "{} held at most, {} in TIME-WAIT, {} with their SYN sent again",
            count(connections.held_max),
            count(connections.time_wait_at_end),
            count(connections.syn_retransmitted)
        ),
    );
    let failed: Vec<_> = causes(&connections.failed).into_iter().filter(|(_, count)| *count > 0).collect();
    if !failed.is_empty() {
        let failed: Vec<_> = failed.into_iter().map(|(cause, count)| format!("{cause} {}", thousands(count))).collect();
        line(out, "failed", &failed.join(", "));
    }
}

fn latency_table(out: &mut String, blocks: &Blocks) {
    let latency = &blocks.latency_us;
    let rows: Vec<(&str, &LatencySummary)> = [
        ("schedule delay", &latency.schedule_delay),
        ("connect from schedule", &latency.connect_from_schedule),
        ("connect", &latency.connect),
        ("first byte", &latency.first_byte),
        ("transaction from schedule", &latency.transaction_from_schedule),
        ("transaction", &latency.transaction),
        ("close", &latency.close),
    ]
    .into_iter()
    .filter(|(_, summary)| summary.count.unwrap_or(0) > 0)
    .collect();
    if rows.is_empty() {
        return;
    }
    // A terminal of 80 columns takes the table as it is.
    let mut row = |name: &str, cells: [&str; 5]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>9}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:27}{cells}");
    };
    row("latency, µs", ["p50", "p90", "p99", "p99.9", "max"]);
    let cell = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
    for (name, summary) in rows {
        let cells = [summary.p50, summary.p90, summary.p99, summary.p99_9, summary.max].map(cell);
        row(&format!("  {name}"), cells.each_ref().map(String::as_str));
    }
}

fn packets(out: &mut String, blocks: &Blocks) {
    let packets = &blocks.packets;
    let per = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    let count = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
    line(
        out,
        "packets",
        &format!(
            "{} sent ({} per connection), {} received ({}), {} sent again",
            count(packets.tx),
            per(packets.tx_per_connection),
            count(packets.rx),
            per(packets.rx_per_connection),
            count(packets.retransmitted)
        ),
    );
    let per_packet = blocks.syscalls.per_packet.map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"));
    line(out, "", &format!("{} doorbells, {per_packet} per packet", count(blocks.syscalls.doorbells)));
    dropped(out, blocks);
}

fn dropped(out: &mut String, blocks: &Blocks) {
    let packets = &blocks.packets;
    if !packets.dropped.is_empty() {
        let dropped: Vec<_> = packets.dropped.iter().map(|(why, n)| format!("{why} {}", thousands(*n))).collect();
        line(out, "dropped", &dropped.join(", "));
    }
}

fn host(out: &mut String, report: &Report) {
    let host = &report.host;
    let words = [
        host.device.clone(),
        host.driver.as_ref().map(|driver| format!("driver {driver}")),
        host.xdp_mode.as_ref().map(|mode| format!("XDP {mode}")),
        host.zerocopy.map(|zerocopy| if zerocopy { "zero-copy".into() } else { "copy".into() }),
        host.placement.clone(),
        host.kernel.as_ref().map(|kernel| format!("Linux {kernel}")),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    if !words.is_empty() {
        line(out, "on", &words.join(", "));
    }
    for advice in &report.advice {
        line(out, "advice", advice);
    }
}

fn cookies(out: &mut String, report: &Report) {
    if let Some(cookies) = &report.syn_cookies {
        let count = |value: Option<u64>| value.map_or_else(|| "-".into(), thousands);
        let (sent, accepted, rejected) = (count(cookies.sent), count(cookies.accepted), count(cookies.rejected));
        line(out, "SYN cookies", &format!("{sent} sent, {accepted} accepted, {rejected} rejected"));
    }
}

fn line(out: &mut String, label: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{label:12} {text}");
}

/// `12345678` as `12,345,678`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate of bits with its unit: `1.23 Mbit/s`, `42 bit/s`.
pub fn bits(per_s: Option<f64>) -> String {
    let number = si(per_s);
    let space = if number.ends_with(char::is_alphabetic) { "" } else { " " };
    format!("{number}{space}bit/s")
}

/// With a decimal prefix and three or four digits: `1.23 M`. `-` for what was not measured.
pub fn si(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".into() };
    for (limit, suffix) in [(1e9, "G"), (1e6, "M"), (1e4, "k")] {
        if value >= limit {
            let unit = if suffix == "k" { 1e3 } else { limit };
            return format!("{:.2} {suffix}", value / unit);
        }
    }
    if value.fract() == 0.0 { format!("{value:.0} ") } else { format!("{value:.1} ") }.trim_end().to_owned()
}

/// With a binary prefix.
pub fn octets(value: Option<u64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value >= 1 << 30 => format!("{:.2} GiB", value as f64 / (1u64 << 30) as f64),
        Some(value) if value >= 1 << 20 => format!("{:.1} MiB", value as f64 / (1u64 << 20) as f64),
        Some(value) => format!("{:.1} KiB", value as f64 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Failure, Stage};
    use crate::report::blocks::{Detail, Span};
    use std::time::Duration;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(12_345_678), "12,345,678");
        assert_eq!(
            (si(Some(1_234_567.0)), si(Some(150_000.0)), si(Some(42.0)), si(None)),
            ("1.23 M".into(), "150.00 k".into(), "42".into(), "-".into())
        );
        assert_eq!(octets(Some(3 << 20)), "3.0 MiB");
        assert_eq!([None, Some(335.2), Some(2e6)].map(bits), ["- bit/s", "335.2 bit/s", "2.00 Mbit/s"]);
    }

    #[test]
    fn the_verdict_comes_first_and_failures_are_named() {
        let mut report = Report::new("test");
        let mut span = Span { length: Duration::from_secs(1), ..Span::default() };
        span.measures.tally.attempted = 12_345;
        span.measures.tally.fail(Failure::SynTimeout);
        span.measures.record(Stage::Connect, Duration::from_micros(1_500));
        report.blocks = span.blocks(Detail::Full);
        report.verdict = Verdict::Failed;
        report.reasons.push("a reason".into());
        let text = render(&report);
        assert!(text.starts_with("verdict      FAILED\n             - a reason\n"), "{text}");
        assert!(text.contains("12,345 attempted") && text.contains("syn_timeout 1"), "{text}");
        assert!(text.contains("connect                       1,500"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
