//! What the connections of a run do, packet by packet, with the median times between.

use maud::{Markup, html};
use serde_json::Value;

use super::{count, micros};
use crate::report::model::Report;

/// One row: what is sent, by whom, and the time since the row that it answers.
struct Step {
    from_client: bool,
    words: String,
    /// Median since an earlier row: that row's index, the time, what it is.
    since: Option<(usize, u64, &'static str)>,
}

fn step(from_client: bool, words: impl Into<String>) -> Step {
    Step { from_client, words: words.into(), since: None }
}

const LEFT: f64 = 150.0;
const RIGHT: f64 = 410.0;
const ROW: f64 = 46.0;
const TOP: f64 = 46.0;

/// The ladder, `None` where there were no connections.
pub(super) fn render(report: &Report) -> Option<Markup> {
    let steps = steps(report)?;
    let height = TOP + ROW * steps.len() as f64 + 12.0;
    let at = |index: usize| TOP + ROW * index as f64 + 18.0;
    let spoken: Vec<_> = steps
        .iter()
        .map(|step| {
            let who = if step.from_client { "client" } else { "server" };
            let time = step.since.map_or_else(String::new, |(_, us, what)| format!(", {what} {}", micros(us as f64)));
            format!("{who}: {}{time}", step.words)
        })
        .collect();
    let packets = &report.blocks.packets;
    let per = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| format!("{value:.2}"));
    Some(html! {
        figure.card {
            h3 { "A connection, packet by packet" }
            p.sub {
                "What a connection of this kind does; times are medians. Measured per connection completed: "
                b { (per(packets.tx_per_connection)) } " packets sent, " b { (per(packets.rx_per_connection)) } " received"
                @if let Some(again) = packets.retransmitted.filter(|again| *again > 0) { ", " (count(again)) " sent again" }
                "."
            }
            svg.ladder viewBox={ "0 0 560 " (height) } role="img" aria-label=(spoken.join("; ")) {
                line.life x1=(LEFT) x2=(LEFT) y1=(TOP - 12.0) y2=(height) {}
                line.life x1=(RIGHT) x2=(RIGHT) y1=(TOP - 12.0) y2=(height) {}
                text x=(LEFT) y="22" text-anchor="middle" font-weight="600" { "load generator" }
                text x=(RIGHT) y="22" text-anchor="middle" font-weight="600" { "target" }
                @for (index, step) in steps.iter().enumerate() {
                    @let (y, slope) = (at(index), 10.0);
                    @let (x0, x1) = if step.from_client { (LEFT, RIGHT) } else { (RIGHT, LEFT) };
                    @let tip = if step.from_client { -1.0 } else { 1.0 };
                    g.back[!step.from_client] {
                        line.arrow x1=(x0) x2=(x1 + tip * 7.0) y1=(y) y2=(y + slope) {}
                        path.head d={
                            "M" (x1) " " (y + slope) "l" (tip * 9.0) " -5v9z"
                        } {}
                        text x=((LEFT + RIGHT) / 2.0) y=(y - 3.0) text-anchor="middle" { (step.words) }
                    }
                    @if let Some((since, us, what)) = step.since {
                        // A client's wait stands on its side, from the packet that began it.
                        @let begin = at(since);
                        @let x = LEFT - 12.0;
                        path.time d={ "M" (x + 5.0) " " (begin) "H" (x) "V" (y + slope) "h5" } {}
                        text x=(x - 6.0) y=((begin + y + slope) / 2.0) text-anchor="end" { (micros(us as f64)) }
                        text.soft x=(x - 6.0) y=((begin + y + slope) / 2.0 + 15.0) text-anchor="end" { (what) }
                    }
                }
            }
        }
    })
}

fn steps(report: &Report) -> Option<Vec<Step>> {
    let config = &report.config;
    let profile = config.get("profile").and_then(Value::as_str)?;
    if profile == "syn-flood" || report.blocks.connections.attempted.unwrap_or(0) == 0 {
        return None;
    }
    let latency = &report.blocks.latency_us;
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let piggyback = config.get("piggyback").and_then(Value::as_bool).unwrap_or(false);
    let asks = report.requests.unwrap_or(0) > 0 || profile == "bulk";
    let mut steps = vec![step(true, "SYN"), step(false, "SYN+ACK")];
    steps[1].since = latency.connect.p50.map(|us| (0, us, "connect"));
    if !asks {
        steps.push(step(true, "ACK"));
    } else {
        let request = size("request", config.get("request_bytes"));
        if piggyback {
            steps.push(step(true, format!("ACK + {request}")));
        } else {
            steps.push(step(true, "ACK"));
            steps.push(step(true, request));
        }
        let asked = steps.len() - 1;
        let mut answer = step(false, size("answer", config.get("response_bytes")));
        answer.since = latency.first_byte.p50.map(|us| (asked, us, "first octet"));
        if text("close") != "rst" && fin_with_answer(report, piggyback) {
            answer.words.push_str(" + FIN");
            let begin = steps.len();
            steps.push(answer);
            steps.push(step(true, "FIN, ACK of FIN"));
            let mut last = step(false, "ACK of FIN");
            last.since = latency.close.p50.map(|us| (begin + 1, us, "close"));
            steps.push(last);
            return Some(steps);
        }
        steps.push(answer);
    }
    if text("close") == "rst" {
        steps.push(step(true, "RST"));
        return Some(steps);
    }
    let client_first = text("first_close") != "server";
    let begin = steps.len();
    steps.push(step(client_first, "FIN"));
    steps.push(step(!client_first, "FIN, ACK of FIN"));
    let mut last = step(client_first, "ACK of FIN");
    // The time counts until both FINs are acknowledged: the client knows when the target's packet has come.
    let known = if client_first { begin + 1 } else { begin + 2 };
    let time = latency.close.p50.map(|us| (begin, us, "close"));
    if known == begin + 2 {
        last.since = time;
    } else {
        steps[known].since = time;
    }
    steps.push(last);
    Some(steps)
}

/// Whether the target closes with its answer, as the count of packets shows: one less is sent than with a FIN apart.
fn fin_with_answer(report: &Report, piggyback: bool) -> bool {
    let packets = &report.blocks.packets;
    let sent = if piggyback { 3.0 } else { 4.0 };
    let near = |measured: Option<f64>, count: f64| measured.is_some_and(|measured| (measured - count).abs() < 0.25);
    near(packets.tx_per_connection, sent) && near(packets.rx_per_connection, 3.0)
}

fn size(what: &str, octets: Option<&Value>) -> String {
    match octets.and_then(Value::as_u64) {
        Some(octets) if octets > 0 => format!("{what}, {} octets", count(octets)),
        _ => what.to_owned(),
    }
}
