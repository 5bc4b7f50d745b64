//! A report as one page that needs nothing else: no network, no other file. The verdict comes first.

mod chart;
mod course;
mod ladder;
mod percentiles;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::model::{Blocks, Report, Verdict};
use super::text::{octets, si, thousands};
use super::verdict::causes;

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// Nothing is loaded from anywhere: a browser is told to refuse it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// The page, ending with a line feed.
pub fn render(report: &Report) -> String {
    let title = format!("{} – syncline {}", word(report.verdict), report.command);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="generator" content={ "syncline " (report.version) };
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (mark(report))
                    (verdict(report))
                    (tiles(report))
                    (body(report))
                    footer { "Written by syncline " (report.version) ". Figures cover the sustain phase unless they say otherwise." }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string() + "\n"
}

fn body(report: &Report) -> Markup {
    let course = course::render(report);
    let ladder = ladder::render(report);
    html! {
        @if !course.is_empty() {
            section aria-labelledby="course" {
                h2 #course { "Over time" }
                div.charts { @for chart in &course { (chart) } }
            }
        }
        section aria-labelledby="latency" {
            @let distribution = percentiles::render(report);
            @let table = latency_table(&report.blocks);
            @if distribution.is_some() || table.is_some() {
                h2 #latency { "Latency" }
                div.charts { (distribution.unwrap_or_default()) (table.unwrap_or_default()) }
            }
        }
        section aria-labelledby="connections" {
            h2 #connections { "Connections" }
            div.charts {
                (ladder.clone().unwrap_or_default())
                div.stack.wide[ladder.is_none()] { (failures(report)) (targets(report)) (stages(report)) (search(report)) }
            }
        }
        section aria-labelledby="setup" {
            h2 #setup { "Settings and machine" }
            div.charts { (settings(report)) (machine(report)) (shards(report)) (counters(report)) }
        }
    }
}

/// The verdict as a heading.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "Valid",
        Verdict::Ceiling => "Ceiling",
        Verdict::Failed => "Failed",
        Verdict::GeneratorLimited => "Generator limited",
        Verdict::Inconclusive => "Inconclusive",
    }
}

fn mark(report: &Report) -> Markup {
    html! {
        p.mark {
            b { "syncline " (report.command) }
            @if let Some(started) = &report.started_at { time datetime=(started) { (started.replace('T', " ").replace('Z', " UTC")) } }
            @if let Some(seed) = report.seed { span { "seed " (seed) } }
        }
    }
}

fn verdict(report: &Report) -> Markup {
    let (tone, meaning) = match report.verdict {
        Verdict::Valid => ("good", "The figures tell about the target, and every threshold holds."),
        Verdict::Ceiling => ("good", "As much as possible was asked for, and this is what went through."),
        Verdict::Failed => ("bad", "The target did not do what was asked of it."),
        Verdict::GeneratorLimited => {
            ("warn", "The generator was the limit: the figures tell about this machine, not about the target.")
        }
        Verdict::Inconclusive => ("warn", "The run does not allow a statement about the target."),
    };
    html! {
        header.verdict.(tone) {
            h1 { (word(report.verdict)) @if report.partial { " (interrupted)" } }
            p { (meaning) }
            @if let Some(subject) = subject(report) { p.subject { (subject) } }
            @if !report.reasons.is_empty() { ul { @for reason in &report.reasons { li { (reason) } } } }
            @if !report.thresholds.is_empty() || !report.criteria.is_empty() {
                div.chips role="list" aria-label="Thresholds" {
                    @for threshold in &report.thresholds {
                        (chip(&threshold.expr, threshold.value, threshold.pass))
                    }
                    @for criterion in &report.criteria {
                        (chip(&format!("{}<{}", criterion.name, criterion.limit), criterion.value, criterion.pass))
                    }
                }
            }
        }
    }
}

fn chip(expr: &str, value: Option<f64>, pass: Option<bool>) -> Markup {
    let (tone, word) = match pass {
        Some(true) => ("good", "holds"),
        Some(false) => ("bad", "broken"),
        None => ("warn", "not measured"),
    };
    html! {
        span.chip.(tone) role="listitem" {
            (expr) " " b { (word) } @if let Some(value) = value { ": " (number(value)) }
        }
    }
}

/// What was asked for, in a sentence.
fn subject(report: &Report) -> Option<String> {
    let config = report.config.as_object()?;
    let text = |key: &str| config.get(key).map(plain).filter(|text| !text.is_empty());
    let profile = text("profile")?;
    let load = match (text("rate"), text("concurrency"), text("connections")) {
        (_, _, Some(held)) => format!(", {} connections held", grouped(&held)),
        (Some(rate), ..) if rate == "max" => ", as many connections as go".into(),
        (Some(rate), ..) => format!(", {} connections a second", grouped(&rate)),
        (_, Some(at_once), _) => format!(", {} connections at a time", grouped(&at_once)),
        _ if !report.stages.is_empty() => format!(", {} stages", report.stages.len()),
        _ => String::new(),
    };
    let sustain = report.phases.iter().find(|phase| phase.name == "sustain");
    let length = sustain.map_or_else(String::new, |phase| format!(", for {}", seconds(phase.seconds)));
    let target = text("target").map_or_else(String::new, |target| format!(", towards {target}"));
    Some(format!("Profile {profile}{load}{length}{target}."))
}

fn grouped(text: &str) -> String {
    text.parse::<f64>().map_or_else(|_| text.to_owned(), count_f64)
}

struct Tile {
    name: String,
    value: Markup,
    more: String,
}

fn tile(name: &str, value: Markup, more: impl Into<String>) -> Tile {
    Tile { name: name.into(), value, more: more.into() }
}

/// A figure with its unit in small.
fn with_unit(text: &str) -> Markup {
    match text.rsplit_once(' ') {
        Some((figure, unit)) => html! { (figure) " " small { (unit) } },
        None => html! { (text) },
    }
}

fn tiles(report: &Report) -> Markup {
    let tiles = if report.raw.is_some() {
        raw_tiles(report)
    } else if report.syn_flood.syns.is_some() {
        flood_tiles(report)
    } else {
        load_tiles(report)
    };
    html! {
        dl.tiles {
            @for tile in tiles {
                div.tile { dt { (tile.name) } dd { (tile.value) } @if !tile.more.is_empty() { p { (tile.more) } } }
            }
        }
    }
}

fn load_tiles(report: &Report) -> Vec<Tile> {
    let Blocks { connections, rate, latency_us, packets, .. } = &report.blocks;
    let mut tiles = Vec::new();
    let offered = rate.offered_cps.map_or_else(String::new, |offered| format!("of {} asked for", count_f64(offered)));
    tiles.push(tile("Connections/s", html! { (rate_of(rate.achieved_cps)) }, offered));
    if rate.requests_per_s.unwrap_or(0.0) > 1.05 * rate.achieved_cps.unwrap_or(0.0) {
        let total = report.requests.map_or_else(String::new, |total| format!("{} answered", count(total)));
        tiles.push(tile("Requests/s", html! { (rate_of(rate.requests_per_s)) }, total));
    }
    let connect = (&latency_us.connect_from_schedule, &latency_us.connect);
    let transaction = (&latency_us.transaction_from_schedule, &latency_us.transaction);
    for (name, (schedule, wire)) in [("Connect", connect), ("Answer", transaction)] {
        let from_schedule = schedule.count.unwrap_or(0) > 0;
        let summary = if from_schedule { schedule } else { wire };
        if let (Some(p50), Some(p99)) = (summary.p50, summary.p99) {
            let since = if from_schedule { ", from schedule" } else { "" };
            let more = format!("half within {}{since}", micros(p50 as f64));
            tiles.push(tile(&format!("{name}, p99"), with_unit(&micros(p99 as f64)), more));
        }
    }
    let failed: u64 = causes(&connections.failed).iter().map(|(_, count)| count).sum();
    if let Some(ratio) = connections.failed_ratio {
        let of = connections.attempted.map_or_else(String::new, count);
        tiles.push(tile("Failed", html! { (share(ratio)) }, format!("{} of {of}", count(failed))));
    }
    if let Some(held) = connections.held_max {
        tiles.push(tile("Held at most", html! { (count(held)) }, "connections at once"));
    }
    if let (Some(tx), Some(rx)) = (packets.tx_per_connection, packets.rx_per_connection) {
        let value = html! { (format!("{tx:.2}")) " + " (format!("{rx:.2}")) };
        tiles.push(tile("Packets/connection", value, "sent + received"));
    }
    tiles
}

fn flood_tiles(report: &Report) -> Vec<Tile> {
    let flood = &report.syn_flood;
    let offered =
        flood.offered_per_s.map_or_else(|| "as many as go".into(), |rate| format!("of {} asked for", count_f64(rate)));
    let number = |value: Option<u64>| html! { (value.map_or_else(|| "–".into(), count)) };
    vec![
        tile("SYNs/s", html! { (rate_of(flood.sent_per_s)) }, offered),
        tile("SYNs", number(flood.syns), format!("from {} addresses", flood.sources.map_or_else(|| "–".into(), count))),
        tile("SYN-ACKs", number(flood.syn_acks), "came back"),
        tile("RSTs", number(flood.resets), "came back"),
        tile("Answered", html! { (flood.answered_ratio.map_or_else(|| "–".into(), share)) }, "of the SYNs"),
    ]
}

fn raw_tiles(report: &Report) -> Vec<Tile> {
    let Some(raw) = &report.raw else { return Vec::new() };
    let size = raw.frame_bytes.map_or_else(String::new, |octets| format!("of {octets} octets"));
    vec![
        tile("Frames/s", html! { (rate_of(raw.frames_per_s)) }, "both directions together"),
        tile("Frames/s", html! { (rate_of(raw.one_way_frames_per_s)) }, format!("each way, {size}")),
        tile("Bits/s", html! { (si(raw.bits_per_s)) }, raw.mode.clone().unwrap_or_default()),
    ]
}

fn latency_table(blocks: &Blocks) -> Option<Markup> {
    let stages = blocks.latency_us.by_stage();
    let rows: Vec<_> = stages.iter().filter(|(_, summary)| summary.count.unwrap_or(0) > 0).collect();
    if rows.is_empty() {
        return None;
    }
    let cell = |value: Option<u64>| value.map_or_else(|| "–".into(), |us| micros(us as f64));
    Some(html! {
        div.card.wide {
            h3 { "Times by stage" }
            p.sub { "From schedule: counted from when the event was due, so that a stall shows in full." }
            div.scroll tabindex="0" role="group" aria-label="Times by stage" {
                table {
                    thead { tr {
                        th scope="col" { "Stage" } th scope="col" { "p50" } th scope="col" { "p90" } th scope="col" { "p99" }
                        th scope="col" { "p99.9" } th scope="col" { "max" } th scope="col" { "count" }
                    } }
                    tbody {
                        @for (stage, summary) in rows {
                            tr {
                                th scope="row" { (stage.replace('_', " ")) }
                                @for value in [summary.p50, summary.p90, summary.p99, summary.p99_9, summary.max] { td { (cell(value)) } }
                                td { (summary.count.map_or_else(|| "–".into(), count)) }
                            }
                        }
                    }
                }
            }
        }
    })
}

fn failures(report: &Report) -> Markup {
    let connections = &report.blocks.connections;
    let mut failed: Vec<_> = causes(&connections.failed).into_iter().filter(|(_, count)| *count > 0).collect();
    failed.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let most = failed.first().map_or(1, |(_, count)| *count);
    let dash = |value: Option<u64>| value.map_or_else(|| "–".into(), count);
    html! {
        div.card {
            h3 { "What became of them" }
            p.sub {
                (dash(connections.attempted)) " attempted, " (dash(connections.established)) " established, "
                (dash(connections.completed)) " completed, " (dash(connections.open_at_end)) " left open; "
                (dash(connections.syn_retransmitted)) " needed their SYN again, "
                (dash(connections.time_wait_at_end)) " in TIME-WAIT at the end."
            }
            @if failed.is_empty() {
                p style="margin:10px 0 6px" { "None failed." }
            } @else {
                table style="margin-top:8px" {
                    thead { tr { th scope="col" { "Failed by" } th scope="col" { "Connections" } th scope="col" { span hidden { "Share" } } } }
                    tbody {
                        @for (cause, failures) in failed {
                            tr {
                                th scope="row" { (explained(cause)) }
                                td { (count(failures)) }
                                td style="width:34%" {
                                    div.meter aria-hidden="true" { i style={ "width:" (format!("{:.1}%", failures as f64 / most as f64 * 100.0)) } {} }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A cause in words; its name in the report stands beside it.
fn explained(cause: &str) -> String {
    let words = match cause {
        "refused" => "RST in answer to the SYN",
        "reset" => "RST later on",
        "syn_timeout" => "no SYN-ACK in time",
        "data_timeout" => "no answer in time",
        "icmp" => "ICMP said it cannot be",
        "early_fin" => "FIN before the answer was complete",
        "bad_response" => "not the answer that was asked for",
        "local_ports" => "no free port here",
        "local_memory" => "no memory here",
        "launch_dropped" => "launched too late to count, here",
        _ => "anything else",
    };
    format!("{cause}: {words}")
}

fn targets(report: &Report) -> Markup {
    if report.targets.len() < 2 {
        return Markup::default();
    }
    table_card(
        "Targets",
        &["Target", "attempted", "completed", "failed"],
        report.targets.iter().map(|target| {
            let connections = &target.connections;
            let dash = |value: Option<u64>| value.map_or_else(|| "–".into(), count);
            let failed = connections.failed_ratio.map_or_else(|| "–".into(), share);
            vec![target.target.clone(), dash(connections.attempted), dash(connections.completed), failed]
        }),
    )
}

fn stages(report: &Report) -> Markup {
    table_card(
        "Stages",
        &["Stage", "from", "to", "seconds", "connections/s", "connect p99"],
        report.stages.iter().map(|stage| {
            let p99 = stage.blocks.latency_us.connect_from_schedule.p99;
            vec![
                stage.stage.to_string(),
                count_f64(stage.from_cps),
                count_f64(stage.to_cps),
                format!("{:.1}", stage.seconds),
                rate_of(stage.blocks.rate.achieved_cps),
                p99.map_or_else(|| "–".into(), |us| micros(us as f64)),
            ]
        }),
    )
}

fn search(report: &Report) -> Markup {
    let Some(search) = &report.search else { return Markup::default() };
    table_card(
        "Search",
        &["Value", "outcome", "connections/s", "connect p99"],
        search.steps.iter().map(|step| {
            let outcome = if step.pass { "holds" } else { step.verdict.name() };
            let again = if step.repeat { ", again" } else { "" };
            vec![
                count(step.value),
                format!("{outcome}{again}"),
                rate_of(step.achieved_cps),
                step.connect_p99_us.map_or_else(|| "–".into(), |us| micros(us as f64)),
            ]
        }),
    )
}

fn shards(report: &Report) -> Markup {
    table_card(
        "Added up from",
        &["Report", "verdict", "connections/s", "device"],
        report.merged_from.iter().map(|shard| {
            let device = shard.host.device.clone().unwrap_or_default();
            vec![shard.file.clone(), shard.verdict.name().into(), rate_of(shard.achieved_cps), device]
        }),
    )
}

fn table_card(title: &str, heads: &[&str], rows: impl ExactSizeIterator<Item = Vec<String>>) -> Markup {
    if rows.len() == 0 {
        return Markup::default();
    }
    html! {
        div.card {
            h3 { (title) }
            div.scroll tabindex="0" role="group" aria-label=(title) {
                table {
                    thead { tr { @for head in heads { th scope="col" { (head) } } } }
                    tbody {
                        @for row in rows {
                            tr { @for (column, cell) in row.iter().enumerate() { @if column == 0 { th scope="row" { (cell) } } @else { td { (cell) } } } }
                        }
                    }
                }
            }
        }
    }
}

fn settings(report: &Report) -> Markup {
    let config = report.config.as_object();
    let given: Vec<_> = config.into_iter().flatten().map(|(key, value)| (key, plain(value))).collect();
    let given: Vec<_> = given.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    if given.is_empty() {
        return Markup::default();
    }
    html! {
        div.card {
            h3 { "Settings" }
            dl.facts style="margin-top:8px" { @for (key, value) in given { dt { (key.replace('_', " ")) } dd { (value) } } }
        }
    }
}

/// A setting in words; empty if it is not set.
fn plain(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(false) => String::new(),
        Value::Bool(true) => "yes".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), self::number),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let set = fields.iter().map(|(key, value)| (key, plain(value))).filter(|(_, value)| !value.is_empty());
            set.map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(" ")
        }
    }
}

fn machine(report: &Report) -> Markup {
    let (host, memory) = (&report.host, &report.blocks.memory);
    let text = |value: Option<u64>| value.map(|value| octets(Some(value)));
    let per_packet = report.blocks.syscalls.per_packet.map(|ratio| format!("{ratio:.3}"));
    let facts = [
        ("kernel", host.kernel.as_ref().map(|kernel| format!("Linux {kernel}"))),
        ("processor", host.cpu_model.clone()),
        ("cores", host.cores.map(|cores| cores.to_string())),
        ("device", host.device.clone()),
        ("driver", host.driver.clone()),
        ("XDP mode", host.xdp_mode.clone()),
        ("zero-copy", host.zerocopy.map(|zerocopy| if zerocopy { "yes".into() } else { "no".into() })),
        ("placement", host.placement.clone()),
        ("system calls per packet", per_packet),
        ("resident memory", text(memory.rss_bytes)),
        ("flow tables", text(memory.flow_table_bytes)),
        ("octets per idle connection", memory.bytes_per_idle_connection.map(|bytes| format!("{bytes:.0}"))),
    ];
    html! {
        div.card {
            h3 { "Machine" }
            dl.facts style="margin-top:8px" {
                @for (name, fact) in facts { @if let Some(fact) = fact { dt { (name) } dd { (fact) } } }
                @for (index, worker) in report.blocks.workers.iter().enumerate() {
                    dt { "worker " (index) }
                    dd { (worker_words(worker)) }
                }
            }
            @for advice in &report.advice { p.sub style="margin-top:8px" { (advice) } }
        }
    }
}

fn worker_words(worker: &super::model::WorkerReport) -> String {
    let words = [
        worker.core.map(|core| format!("core {core}")),
        worker.busy_ratio.map(|busy| format!("busy {:.0}%", busy * 100.0)),
        worker.softirq_ratio.map(|softirq| format!("softirq {:.0}%", softirq * 100.0)),
        worker.poll_max_us.map(|us| format!("longest loop {}", micros(us))),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn counters(report: &Report) -> Markup {
    let packets = &report.blocks.packets;
    let nonzero: Vec<_> = report.counters.iter().filter(|(_, count)| **count > 0).collect();
    if nonzero.is_empty() && packets.dropped.is_empty() {
        return Markup::default();
    }
    html! {
        div.card.wide {
            h3 { "Counters" }
            @if !packets.dropped.is_empty() {
                p.sub {
                    "Frames dropped: "
                    @for (index, (reason, dropped)) in packets.dropped.iter().enumerate() {
                        @if index > 0 { ", " } (reason) " " (count(*dropped))
                    }
                    "."
                }
            }
            details {
                summary { "Every counter of the engine that is not 0" }
                dl.facts { @for (name, value) in nonzero { dt { code { (name) } } dd { (count(*value)) } } }
            }
        }
    }
}

/// A count, its digits in groups of three.
fn count(value: u64) -> String {
    thousands(value)
}

fn count_f64(value: f64) -> String {
    if value >= 1_000.0 { thousands(value.round() as u64) } else { number(value) }
}

/// A number with as many digits as it needs.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        if value >= 1_000.0 { thousands(value as u64) } else { format!("{value:.0}") }
    } else if value.abs() >= 100.0 {
        format!("{value:.1}")
    } else {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn rate_of(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| if value >= 1e6 { si(Some(value)) } else { count_f64(value.round()) })
}

fn share(ratio: f64) -> String {
    match ratio * 100.0 {
        0.0 => "0%".into(),
        percent if percent < 0.01 => "<0.01%".into(),
        percent if percent < 1.0 => format!("{percent:.2}%"),
        percent => format!("{percent:.1}%"),
    }
}

/// A time in the unit that suits it.
fn micros(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn seconds(value: f64) -> String {
    if value >= 120.0 { format!("{:.1} min", value / 60.0) } else { format!("{value:.1} s") }
}

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
