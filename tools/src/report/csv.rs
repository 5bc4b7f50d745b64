//! The course of a run as a table, for spreadsheets and plotting: a row for each interval.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::model::{IntervalReport, Report};
use super::verdict::causes;

/// Figures of an interval, by their paths in the report.
const FIGURES: [&str; 30] = [
    "rate.offered_cps",
    "rate.achieved_cps",
    "rate.requests_per_s",
    "rate.tx_bits_per_s",
    "rate.rx_bits_per_s",
    "connections.attempted",
    "connections.established",
    "connections.completed",
    "connections.open_at_end",
    "connections.held_max",
    "connections.time_wait_at_end",
    "connections.syn_retransmitted",
    "connections.failed_ratio",
    "connections.failed.refused",
    "connections.failed.reset",
    "connections.failed.syn_timeout",
    "connections.failed.data_timeout",
    "connections.failed.icmp",
    "connections.failed.early_fin",
    "connections.failed.bad_response",
    "connections.failed.local_ports",
    "connections.failed.local_memory",
    "connections.failed.launch_dropped",
    "connections.failed.other",
    "packets.tx",
    "packets.rx",
    "packets.retransmitted",
    "syscalls.doorbells",
    "memory.flow_table_bytes",
    "memory.rss_bytes",
];

/// Of each stage.
const PERCENTILES: [&str; 7] = ["count", "p50", "p90", "p95", "p99", "p99_9", "max"];

/// The intervals with a line of names before them (RFC 4180). What was not measured is empty.
pub fn render(report: &Report) -> String {
    let start = report.started_at.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
    let latencies = report.blocks.latency_us.by_stage();
    let stages =
        latencies.iter().flat_map(|(stage, _)| PERCENTILES.map(|figure| format!("latency_us.{stage}.{figure}")));
    let paths: Vec<String> = FIGURES.map(str::to_owned).into_iter().chain(stages).collect();
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let fixed = ["time", "at_s", "seconds", "phase", "connections.failed.total", "workers.busy_ratio.max"];
    let names = fixed.iter().copied().chain(paths.iter().map(String::as_str));
    // A vector takes everything that is written.
    let _ = writer.write_record(names);
    for interval in &report.intervals {
        let _ = writer.write_record(row(interval, start, &paths));
    }
    writer.into_inner().ok().and_then(|octets| String::from_utf8(octets).ok()).unwrap_or_default()
}

fn row(interval: &IntervalReport, start: Option<SystemTime>, paths: &[String]) -> Vec<String> {
    let at = Duration::try_from_secs_f64(interval.at_s).unwrap_or_default();
    let time = start.map(|start| humantime::format_rfc3339_millis(start + at).to_string()).unwrap_or_default();
    let failed: u64 = causes(&interval.blocks.connections.failed).iter().map(|(_, count)| count).sum();
    let busiest = interval.blocks.workers.iter().filter_map(|worker| worker.busy_ratio).reduce(f64::max);
    let mut row = vec![
        time,
        interval.at_s.to_string(),
        interval.seconds.to_string(),
        interval.phase.clone(),
        failed.to_string(),
        busiest.map(|busy| busy.to_string()).unwrap_or_default(),
    ];
    let blocks = serde_json::to_value(&interval.blocks).unwrap_or_default();
    row.extend(paths.iter().map(|path| match path.split('.').try_fold(&blocks, |value, key| value.get(key)) {
        None | Some(Value::Null) => String::new(),
        Some(value) => value.to_string(),
    }));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Failure, Stage};
    use crate::report::blocks::{Detail, Span};

    #[test]
    fn a_row_an_interval_with_the_names_of_the_report() {
        let mut span = Span { length: Duration::from_secs(1), ..Span::default() };
        span.measures.tally.attempted = 5;
        span.measures.tally.fail(Failure::Icmp);
        span.measures.record(Stage::Connect, Duration::from_micros(70));
        let mut report = Report::new("load");
        report.started_at = Some("2026-01-01T00:00:59.500Z".into());
        report.intervals = vec![IntervalReport {
            at_s: 3.0,
            seconds: 1.0,
            phase: "a, \"b\"".into(),
            blocks: span.blocks(Detail::Full),
            spread: None,
        }];
        let text = render(&report);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let names = reader.headers().unwrap().clone();
        let record = reader.records().next().unwrap().unwrap();
        let cell = |name: &str| &record[names.iter().position(|known| known == name).unwrap()];
        assert_eq!((cell("time"), cell("phase")), ("2026-01-01T00:01:02.500Z", "a, \"b\""));
        assert_eq!((cell("connections.failed.icmp"), cell("connections.failed.total")), ("1", "1"));
        assert_eq!((cell("latency_us.connect.p99"), cell("latency_us.close.p99")), ("70", ""));
        assert_eq!(cell("rate.offered_cps"), "");
        let blocks = serde_json::to_value(&report.blocks).unwrap();
        for name in names.iter().skip(6) {
            assert!(name.split('.').try_fold(&blocks, |value, key| value.get(key)).is_some(), "{name}");
        }
    }
}
