use std::time::Duration;

use serde_json::json;

use super::*;
use crate::measure::{Failure, Stage};
use crate::report::blocks::{Detail, Levels, Span, Traffic};
use crate::report::insight::{FlightConnection, LostSegments, Places};

const SECONDS: u64 = 6;

/// What happens in second `second` to the connections of shard `shard` of `of`.
fn span(shard: u64, of: u64, seconds: std::ops::Range<u64>) -> Span {
    let mut span = Span { length: Duration::from_secs(seconds.end - seconds.start), ..Span::default() };
    for second in seconds {
        for i in (shard..4_000).step_by(of as usize) {
            let draw = (second * 4_000 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            span.measures.tally.attempted += 1;
            span.measures.record(Stage::ConnectFromSchedule, Duration::from_micros(100 + draw % 3_000));
            span.measures.record(Stage::Transaction, Duration::from_micros(draw * draw % 1_200_000));
            if draw % 100 == 0 {
                span.measures.tally.fail(Failure::Reset);
            } else {
                span.measures.tally.completed += 1;
                span.traffic.add(&Traffic { tx_frames: 4, rx_frames: 3, doorbells: 1, ..Traffic::default() });
            }
        }
    }
    span.levels = Levels { open: 25 * 4 / of, held_max: 50 * 4 / of, ..Levels::default() };
    span
}

fn report(shard: u64, of: u64) -> Report {
    let mut report = Report::new("load");
    report.started_at = Some(format!("2026-01-01T00:00:00.{}00Z", shard));
    report.config = json!({"profile": "crr", "rate": 4_000.0 / of as f64, "seed": shard});
    let whole = span(shard, of, 0..SECONDS).blocks(Detail::Full);
    report.phases = vec![PhaseReport { name: "sustain".into(), seconds: SECONDS as f64, blocks: whole.clone() }];
    report.intervals = (0..SECONDS)
        .map(|second| IntervalReport {
            at_s: second as f64,
            seconds: 1.0,
            phase: "sustain".into(),
            blocks: span(shard, of, second..second + 1).blocks(Detail::Full),
            spread: None,
        })
        .collect();
    report.requests = whole.connections.completed;
    report.counters = [("tx_frames".to_owned(), whole.packets.tx.unwrap())].into();
    report.blocks = whole;
    report.verdict = Verdict::Valid;
    report
}

fn shards(of: u64) -> Vec<Named> {
    (0..of).map(|shard| (format!("shard-{shard}.json"), report(shard, of))).collect()
}

#[test]
fn four_shards_are_the_whole_exactly() {
    let (merged, whole) = (merge(&shards(4), false).unwrap(), report(0, 1));
    for ((stage, merged), (_, whole)) in
        merged.blocks.latency_us.by_stage().iter().zip(whole.blocks.latency_us.by_stage())
    {
        assert_eq!(merged.histogram(), whole.histogram(), "{stage}");
        assert_eq!(**merged, *whole, "{stage}");
    }
    assert!(merged.blocks.latency_us.transaction.count.unwrap() == 4_000 * SECONDS);
    assert_eq!(merged.blocks.connections, whole.blocks.connections);
    assert_eq!(merged.blocks.packets, whole.blocks.packets);
    assert_eq!(merged.blocks.syscalls, whole.blocks.syscalls);
    assert_eq!((merged.requests, &merged.counters), (whole.requests, &whole.counters));
    assert!((merged.blocks.rate.achieved_cps.unwrap() - whole.blocks.rate.achieved_cps.unwrap()).abs() < 1e-6);
    assert_eq!(merged.intervals.len(), whole.intervals.len());
    for (merged, whole) in merged.intervals.iter().zip(&whole.intervals) {
        assert_eq!((merged.at_s, merged.seconds), (whole.at_s, whole.seconds));
        assert_eq!(merged.blocks.latency_us, whole.blocks.latency_us);
        assert_eq!(merged.blocks.connections, whole.blocks.connections);
    }
    assert_eq!(merged.verdict, Verdict::Valid);
    assert_eq!(merged.merged_from.len(), 4);
    assert_eq!((merged.seed, &merged.config["profile"]), (None, &json!("crr")));
    assert_eq!(merged.config["rate"], json!(1_000.0));
}

#[test]
fn a_merged_report_can_be_merged_again() {
    let mut shards = shards(4);
    let rest = shards.split_off(2);
    let halves = [shards, rest].map(|half| merge(&half, false).unwrap());
    let merged = merge(&halves.map(|half| ("half".to_owned(), half)), false).unwrap();
    assert_eq!(merged.blocks.latency_us, report(0, 1).blocks.latency_us);
}

#[test]
fn seconds_are_those_of_the_wall_clock() {
    let mut shards = shards(2);
    shards[1].1.started_at = Some("2026-01-01T00:00:02Z".into());
    let merged = merge(&shards, false).unwrap();
    assert_eq!(merged.started_at.as_deref(), Some("2026-01-01T00:00:00.000Z"));
    let open: Vec<_> = merged.intervals.iter().filter_map(|interval| interval.blocks.connections.open_at_end).collect();
    assert_eq!(open, [50, 50, 100, 100, 100, 100, 50, 50]);
    assert!(merged.reasons[0].contains("overlap by 67%"), "{:?}", merged.reasons);
}

#[test]
fn wider_intervals_take_narrower_ones_in() {
    let mut shards = shards(2);
    let pairs = &mut shards[0].1.intervals;
    *pairs = pairs.chunks(2).map(|pair| series::join(&pair[0], &pair[1])).collect();
    let merged = merge(&shards, false).unwrap();
    assert_eq!(merged.intervals.len(), 3);
    assert!(merged.intervals.iter().all(|interval| interval.seconds == 2.0));
    let attempted: u64 = merged.intervals.iter().filter_map(|interval| interval.blocks.connections.attempted).sum();
    assert_eq!(attempted, 4_000 * SECONDS);
}

#[test]
fn what_cannot_be_added_is_refused() {
    let refused = |change: fn(&mut Report), why: &str| {
        let mut shards = shards(2);
        change(&mut shards[1].1);
        let refusal = merge(&shards, false).unwrap_err();
        assert!(refusal.why.contains(why), "{}", refusal.why);
        assert_eq!(refusal.can_be_allowed, merge(&shards, true).is_ok(), "{why}");
    };
    refused(|report| report.config["profile"] = "http".into(), "profile: crr, http");
    refused(|report| report.started_at = Some("2026-01-02T00:00:00Z".into()), "same time");
    refused(|report| report.started_at = None, "when it was started");
    refused(|report| report.blocks.latency_us.transaction.hdr = None, "no histogram of transaction");
    refused(|report| report.search = Some(crate::report::model::SearchReport::default()), "of a search");
    assert!(merge(&[], false).is_err());
}

#[test]
fn the_verdict_is_of_the_sum() {
    let mut shards = shards(2);
    for (_, report) in &mut shards {
        let threshold: Threshold = "rate.achieved_cps>3000".parse().unwrap();
        report.thresholds = vec![threshold.evaluate(&serde_json::to_value(&*report).unwrap())];
        report.verdict = Verdict::Failed;
        report.reasons = vec![verdict::broken(&report.thresholds[0])];
    }
    let merged = merge(&shards, false).unwrap();
    assert_eq!((merged.verdict, merged.thresholds[0].pass), (Verdict::Valid, Some(true)));
    assert!(merged.reasons.is_empty(), "{:?}", merged.reasons);
    shards[1].1.verdict = Verdict::GeneratorLimited;
    shards[1].1.reasons = vec!["launches were late".into()];
    let merged = merge(&shards, false).unwrap();
    assert_eq!(merged.verdict, Verdict::GeneratorLimited);
    assert_eq!(merged.reasons, ["shard-1.json: launches were late"]);
}

#[test]
fn single_connections_and_accounts_go_with_the_sum() {
    let mut shards = shards(2);
    for (number, (_, report)) in shards.iter_mut().enumerate() {
        let number = number as u64;
        let kept = FlightConnection { local: format!("10.0.0.{number}:1"), ..FlightConnection::default() };
        report.flight = Some(FlightReport {
            file: format!("{number}.pcap"),
            failed: 3 + number,
            unrecorded: 10,
            failed_unrecorded: 1,
            connections: vec![kept],
        });
        report.reconciliation = Some(Reconciliation {
            connections_here: 12_000,
            connections_there: Some(24_000),
            sampled_one_in: 1 + number,
            matched: 11_990,
            matched_by_token: 11_990,
            only_here: 10,
            only_there: Some(12_000),
            untracked_there: 7,
            server_gone: number == 1,
            failed: Places { server: 4, bed: number, ..Places::default() },
            lost: Places { device_under_test: 9, ..Places::default() },
            lost_out: LostSegments { syn: 9, ..LostSegments::default() },
            ..Reconciliation::default()
        });
    }
    let merged = merge(&shards, false).unwrap();
    let flight = merged.flight.unwrap();
    assert_eq!((flight.file.as_str(), flight.failed, flight.unrecorded), ("0.pcap, 1.pcap", 7, 20));
    let ends: Vec<_> = flight.connections.iter().map(|connection| connection.local.as_str()).collect();
    assert_eq!(ends, ["10.0.0.0:1", "10.0.0.1:1"], "in the order of the captures");
    let account = merged.reconciliation.unwrap();
    assert_eq!((account.connections_here, account.matched, account.only_here), (24_000, 23_980, 20));
    assert_eq!((account.failed.server, account.failed.bed, account.lost_out.syn), (8, 1, 18));
    assert_eq!((account.sampled_one_in, account.server_gone), (2, true));
    // The server may be one and the same: its 24,000 are not 48,000, and the other's connections are not unknown.
    assert_eq!((account.connections_there, account.only_there, account.untracked_there), (None, None, 7));

    let one = Reconciliation::sum(shards[..1].iter().filter_map(|(_, report)| report.reconciliation.as_ref()));
    assert_eq!(one.unwrap().connections_there, Some(24_000), "one account is told whole");
    assert_eq!(Reconciliation::sum([].into_iter()), None);
}
