//! What the figures are worth, and why.
//!
//! Where several findings hold, "all failed" comes first, then what makes the figures tell about the generator rather
//! than the target, then broken thresholds.

use serde_json::Value;

use super::blocks::Traffic;
use super::model::{Blocks, Failures, Report, ThresholdResult, Verdict};
use super::threshold::{self, Threshold};

/// From where on the generator is taken to be the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Launches later than this at the 99th percentile, microseconds. Default 1000: the schedule's own grain.
    pub schedule_delay_p99_us: u64,
    /// A worker busier than this. Default 0.98.
    pub busy_ratio: f64,
    /// Launches fewer than this share of those asked for. Default 0.95, the deviation RFC 9411 §4.3.4 allows.
    pub achieved_ratio: f64,
    /// Frames lost in our own rings, of all. Default 0.0001.
    pub ring_loss_ratio: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { schedule_delay_p99_us: 1_000, busy_ratio: 0.98, achieved_ratio: 0.95, ring_loss_ratio: 1e-4 }
    }
}

/// What the verdict needs beside the report's figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Whether as much as possible was asked for: then the generator's own limit is the answer, not a flaw.
    pub maximum_asked: bool,
    /// Whether the run was cut short.
    pub partial: bool,
    /// Frames of the sustain phase.
    pub traffic: Traffic,
    /// Length of the sustain phase, seconds.
    pub sustain_seconds: f64,
    /// When the generator is taken to be the limit.
    pub limits: Limits,
}

/// Fills in `thresholds`, `verdict`, `reasons` and `partial` of a report whose figures are complete.
pub fn judge(report: &mut Report, thresholds: &[Threshold], context: &Context) {
    report.partial = context.partial;
    report.thresholds = evaluate(report, thresholds);
    let (broken, unmeasured) = threshold_findings(&report.thresholds);
    let limits = limit_findings(&report.blocks, context);
    let total_failure = total_failure(&report.blocks);
    let nothing_done = report.blocks.connections.attempted.unwrap_or(0) == 0;

    report.verdict = if total_failure.is_some() {
        Verdict::Failed
    } else if nothing_done || !unmeasured.is_empty() {
        Verdict::Inconclusive
    } else if !limits.is_empty() && !context.maximum_asked {
        Verdict::GeneratorLimited
    } else if !broken.is_empty() {
        Verdict::Failed
    } else if context.maximum_asked {
        Verdict::Ceiling
    } else {
        Verdict::Valid
    };
    report.reasons.extend(total_failure);
    if nothing_done {
        report.reasons.push("no connection was attempted in the measured phase".into());
    }
    report.reasons.extend(limits.into_iter().chain(broken).chain(unmeasured));
    if context.partial {
        report.reasons.push("interrupted before the end".into());
    }
}

fn evaluate(report: &Report, thresholds: &[Threshold]) -> Vec<ThresholdResult> {
    let json = serde_json::to_value(report).unwrap_or(Value::Null);
    let default: Option<Threshold> = threshold::DEFAULT.parse().ok();
    let default = default.filter(|default| thresholds.iter().all(|threshold| threshold.path() != default.path()));
    thresholds.iter().chain(&default).map(|threshold| threshold.evaluate(&json)).collect()
}

fn threshold_findings(results: &[ThresholdResult]) -> (Vec<String>, Vec<String>) {
    let (mut broken, mut unmeasured) = (Vec::new(), Vec::new());
    for result in results {
        match (result.pass, result.value) {
            (Some(false), Some(value)) => broken.push(format!("threshold {} broken: it is {value}", result.expr)),
            // Without a single attempt there is no ratio to look at, which is said already.
            (None, _) if result.expr != threshold::DEFAULT => {
                unmeasured.push(format!("threshold {}: not measured", result.expr));
            }
            _ => {}
        }
    }
    (broken, unmeasured)
}

fn total_failure(blocks: &Blocks) -> Option<String> {
    let attempted = blocks.connections.attempted.unwrap_or(0);
    let failed = causes(&blocks.connections.failed);
    let total: u64 = failed.iter().map(|(_, count)| count).sum();
    let (worst, count) = failed.into_iter().max_by_key(|(_, count)| *count)?;
    let all = attempted > 0 && total >= attempted && blocks.connections.completed.unwrap_or(0) == 0;
    all.then(|| format!("every one of {attempted} connections failed, {count} of them: {worst}"))
}

/// Failures by name.
pub fn causes(failed: &Failures) -> Vec<(&'static str, u64)> {
    let count = |value: Option<u64>| value.unwrap_or(0);
    vec![
        ("refused", count(failed.refused)),
        ("reset", count(failed.reset)),
        ("syn_timeout", count(failed.syn_timeout)),
        ("data_timeout", count(failed.data_timeout)),
        ("icmp", count(failed.icmp)),
        ("early_fin", count(failed.early_fin)),
        ("bad_response", count(failed.bad_response)),
        ("local_ports", count(failed.local_ports)),
        ("local_memory", count(failed.local_memory)),
        ("launch_dropped", count(failed.launch_dropped)),
        ("other", count(failed.other)),
    ]
}

fn limit_findings(blocks: &Blocks, context: &Context) -> Vec<String> {
    let limits = &context.limits;
    let mut found = Vec::new();
    let failed = &blocks.connections.failed;
    for (count, what) in [
        (failed.local_ports, "launches found no free local port; add addresses with --addr or shorten --time-wait"),
        (failed.local_memory, "launches found no memory; hold fewer connections"),
        (failed.launch_dropped, "launches were dropped because --max-in-flight connections were open"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            found.push(format!("{count} {what}"));
        }
    }
    if let Some(p99) = blocks.latency_us.schedule_delay.p99.filter(|p99| *p99 > limits.schedule_delay_p99_us) {
        found.push(format!(
            "launches were late: {p99} µs at the 99th percentile, more than {}",
            limits.schedule_delay_p99_us
        ));
    }
    if let (Some(offered), Some(attempted)) = (blocks.rate.offered_cps, blocks.connections.attempted) {
        let achieved = attempted as f64 / context.sustain_seconds;
        if context.sustain_seconds >= 1.0 && achieved < offered * limits.achieved_ratio {
            found.push(format!("{achieved:.0} connections/s were launched of {offered:.0} asked for"));
        }
    }
    for (index, worker) in blocks.workers.iter().enumerate() {
        if let Some(busy) = worker.busy_ratio.filter(|busy| *busy > limits.busy_ratio) {
            found.push(format!("worker {index} was busy {:.1}% of the time; give it more --cores", busy * 100.0));
        }
    }
    found.extend(ring_findings(&context.traffic, limits));
    found
}

fn ring_findings(traffic: &Traffic, limits: &Limits) -> Vec<String> {
    let mut found = Vec::new();
    let above = |lost: u64, of: u64| lost as f64 > limits.ring_loss_ratio * (of + lost) as f64;
    if above(traffic.tx_full, traffic.tx_frames) {
        found.push(format!("{} frames found the transmit ring full", traffic.tx_full));
    }
    if above(traffic.rx_dropped, traffic.rx_frames) {
        found.push(format!("{} frames were lost before they reached the engine", traffic.rx_dropped));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::report::model::WorkerReport;

    fn good() -> Report {
        let mut report = Report::new("test");
        let connections = &mut report.blocks.connections;
        (connections.attempted, connections.completed, connections.failed_ratio) =
            (Some(1_000), Some(1_000), Some(0.0));
        report.blocks.rate.offered_cps = Some(100.0);
        report.blocks.latency_us.schedule_delay.p99 = Some(20);
        report.blocks.workers = vec![WorkerReport { busy_ratio: Some(0.4), ..WorkerReport::default() }];
        report
    }

    fn judged(mut report: Report, thresholds: &[&str], change: impl FnOnce(&mut Context)) -> Report {
        let thresholds: Vec<_> = thresholds.iter().map(|expr| expr.parse().unwrap()).collect();
        let mut context = Context { sustain_seconds: 10.0, ..Context::default() };
        context.traffic.tx_frames = 3_000;
        context.traffic.rx_frames = 3_000;
        change(&mut context);
        judge(&mut report, &thresholds, &context);
        report
    }

    #[test]
    fn a_clean_run_is_valid() {
        let report = judged(good(), &[], |_| ());
        assert_eq!((report.verdict, report.exit()), (Verdict::Valid, Exit::Success));
        assert!(report.reasons.is_empty(), "{:?}", report.reasons);
        assert_eq!(report.thresholds.len(), 1);
    }

    #[test]
    fn a_maximum_is_a_ceiling_whatever_limited_it() {
        let mut report = good();
        report.blocks.workers[0].busy_ratio = Some(1.0);
        let report = judged(report, &[], |context| context.maximum_asked = true);
        assert_eq!((report.verdict, report.exit()), (Verdict::Ceiling, Exit::Success));
        assert!(report.reasons[0].contains("busy"));
    }

    #[test]
    fn each_limit_of_the_generator_is_found() {
        type Change = fn(&mut Report, &mut Context);
        let changes: [(&str, Change); 8] = [
            ("late", |report, _| report.blocks.latency_us.schedule_delay.p99 = Some(5_000)),
            ("busy", |report, _| report.blocks.workers[0].busy_ratio = Some(0.99)),
            ("asked for", |report, _| report.blocks.rate.offered_cps = Some(200.0)),
            ("no free local port", |report, _| report.blocks.connections.failed.local_ports = Some(1)),
            ("no memory", |report, _| report.blocks.connections.failed.local_memory = Some(1)),
            ("--max-in-flight", |report, _| report.blocks.connections.failed.launch_dropped = Some(1)),
            ("transmit ring", |_, context| context.traffic.tx_full = 10),
            ("before they reached", |_, context| context.traffic.rx_dropped = 10),
        ];
        for (why, change) in changes {
            let mut report = good();
            let mut context = Context { sustain_seconds: 10.0, ..Context::default() };
            change(&mut report, &mut context);
            judge(&mut report, &[], &context);
            assert_eq!((report.verdict, report.exit()), (Verdict::GeneratorLimited, Exit::Limited), "{why}");
            assert!(report.reasons.iter().any(|reason| reason.contains(why)), "{why}: {:?}", report.reasons);
        }
    }

    #[test]
    fn a_broken_threshold_fails_unless_the_generator_was_the_limit() {
        let report = judged(good(), &["connections.completed>1001"], |_| ());
        assert_eq!((report.verdict, report.exit()), (Verdict::Failed, Exit::Failed));
        let report = judged(good(), &["connections.completed>1001"], |context| context.traffic.tx_full = 99);
        assert_eq!(report.exit(), Exit::Limited);
    }

    #[test]
    fn one_in_a_hundred_failed_is_too_many_unless_told_otherwise() {
        let mut report = good();
        report.blocks.connections.failed_ratio = Some(0.01);
        assert_eq!(judged(report.clone(), &[], |_| ()).verdict, Verdict::Failed);
        assert_eq!(judged(report, &["connections.failed_ratio<0.5"], |_| ()).verdict, Verdict::Valid);
    }

    #[test]
    fn all_failed_is_always_failed() {
        let mut report = good();
        report.blocks.connections.completed = Some(0);
        report.blocks.connections.failed.refused = Some(1_000);
        report.blocks.connections.failed_ratio = Some(1.0);
        report.blocks.workers[0].busy_ratio = Some(1.0);
        let report = judged(report, &["connections.failed_ratio<=1"], |context| context.partial = true);
        assert_eq!((report.verdict, report.exit()), (Verdict::Failed, Exit::Failed));
        assert!(report.reasons[0].contains("refused"));
    }

    #[test]
    fn what_was_not_measured_is_inconclusive() {
        assert_eq!(judged(Report::new("test"), &[], |_| ()).verdict, Verdict::Inconclusive);
        let report = judged(good(), &["latency_us.first_byte.p99<1000"], |_| ());
        assert_eq!((report.verdict, report.exit()), (Verdict::Inconclusive, Exit::Limited));
    }

    #[test]
    fn an_interrupted_run_says_so_when_nothing_worse_holds() {
        let report = judged(good(), &[], |context| context.partial = true);
        assert_eq!((report.verdict, report.exit(), report.partial), (Verdict::Valid, Exit::Interrupted, true));
        let report = judged(good(), &["connections.completed>1001"], |context| context.partial = true);
        assert_eq!(report.exit(), Exit::Failed);
    }
}
