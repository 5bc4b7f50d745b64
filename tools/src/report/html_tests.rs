use std::time::Duration;

use serde_json::json;

use super::*;
use crate::measure::{Failure, Stage};
use crate::report::Threshold;
use crate::report::blocks::{Detail, Span};
use crate::report::model::{IntervalReport, PhaseReport};

/// A run with something in every part of the page.
fn report(seconds: u64) -> Report {
    let mut report = Report::new("load");
    let mut whole = Span { length: Duration::from_secs(seconds), offered_cps: Some(100.0), ..Span::default() };
    for second in 0..seconds {
        let mut span = Span { length: Duration::from_secs(1), ..Span::default() };
        for i in 0..100 {
            span.measures.tally.attempted += 1;
            span.measures.record(Stage::ConnectFromSchedule, Duration::from_micros(90 + second * 10 + i * i));
            if i == 99 { span.measures.tally.fail(Failure::SynTimeout) } else { span.measures.tally.completed += 1 }
        }
        span.levels.open = 10 + second;
        span.workers = vec![crate::report::model::WorkerReport { busy_ratio: Some(0.4), ..Default::default() }];
        whole.measures.add(&span.measures);
        report.intervals.push(IntervalReport {
            at_s: second as f64,
            seconds: 1.0,
            phase: if second == 0 { "ramp" } else { "sustain" }.into(),
            blocks: span.blocks(Detail::Full),
            spread: None,
        });
    }
    report.blocks = whole.blocks(Detail::Full);
    report.phases =
        vec![PhaseReport { name: "sustain".into(), seconds: seconds as f64, blocks: report.blocks.clone() }];
    report.config = json!({"profile": "crr", "rate": 100.0, "target": ["10.0.0.1:80"], "close": "fin", "vlan": null});
    report.requests = report.blocks.connections.completed;
    report.started_at = Some("2026-01-01T00:00:00.000Z".into());
    report.verdict = Verdict::Failed;
    report.reasons = vec!["<script>alert(1)</script> & more".into()];
    let json = serde_json::to_value(&report).unwrap();
    report.thresholds = vec!["connections.failed_ratio<0.01".parse::<Threshold>().unwrap().evaluate(&json)];
    report
}

#[test]
fn the_page_has_every_part_and_asks_nothing_of_a_network() {
    let page = render(&report(20));
    for part in [
        "<title>Failed – syncline load</title>",
        "Profile crr, 100 connections a second, for 20.0 s, towards 10.0.0.1:80.",
        "connections.failed_ratio&lt;0.01",
        "SYN+ACK",
        "Over time",
        "How long it took",
        "syn_timeout: no SYN-ACK in time",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["http://", "https://", "src=", "@import", "url(", "<script>alert"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; more"));
}

#[test]
fn every_report_makes_a_page() {
    let mut raw = Report::new("bench");
    raw.raw = Some(crate::report::model::Raw { frames_per_s: Some(2e6), ..Default::default() });
    let mut flood = Report::new("load");
    flood.syn_flood.syns = Some(5);
    let mut single = report(1);
    single.intervals[0].seconds = 0.3;
    for report in [Report::new("load"), raw, flood, single, report(700)] {
        let page = render(&report);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "a figure that is none is not drawn");
    }
}

#[test]
fn figures_are_written_for_people() {
    assert_eq!(
        [0.0, 999.4, 1_234.0, 45_600.0, 999_000.0, 2_500_000.0].map(micros).join(" "),
        "0 µs 999 µs 1.23 ms 45.6 ms 999 ms 2.50 s"
    );
    assert_eq!([0.0, 0.00001, 0.005, 0.5].map(share).join(" "), "0% <0.01% 0.50% 50.0%");
    assert_eq!([1.0, 0.05, 12_345.0, 123.456].map(number).join(" "), "1 0.05 12,345 123.5");
}
