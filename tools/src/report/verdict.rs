//! What the figures are worth, and why.
//!
//! Where several findings hold, "all failed" comes first, then what makes the figures tell about the generator rather
//! than the target, then broken thresholds.

use serde_json::Value;

use super::blocks::Traffic;
use super::model::{Blocks, CriterionResult, Failures, Report, ThresholdResult, Verdict};
use super::threshold::{self, Threshold};

/// From where on the generator is taken to be the limit.
///
/// Lateness has three bounds. A machine with other work takes a core away for some milliseconds now and then, which
/// one launch in a hundred may meet. A generator that cannot keep its rate falls behind further and further: then half
/// of all launches are late. And where a threshold on times is broken, our own share in them must be small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Half of all launches later than this, microseconds. Default 1000.
    pub schedule_delay_p50_us: u64,
    /// One launch in a hundred later than this, microseconds. Default 20,000: several time slices of a kernel.
    pub schedule_delay_p99_us: u64,
    /// The same where a threshold on a latency is broken. Default 1000.
    pub schedule_delay_p99_if_broken_us: u64,
    /// A worker busier than this. Default 0.98. Of an open loop whose launches are on time, it is no finding.
    pub busy_ratio: f64,
    /// With a worker busier than this, launches that were held back are the generator's fault. Default 0.9.
    pub busy_ratio_if_held_back: f64,
    /// Launches or requests fewer than this share of those asked for. Default 0.95, the deviation that RFC 9411
    /// allows in the sustain phase (§7.2.3.3 and others).
    pub achieved_ratio: f64,
    /// Frames lost in our own rings, of all. Default 0.0001.
    pub ring_loss_ratio: f64,
    /// SYNs that old connections answered, of all connections, from where on they explain a shortfall. Default 0.01.
    pub met_old_ratio: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            schedule_delay_p50_us: 1_000,
            schedule_delay_p99_us: 20_000,
            schedule_delay_p99_if_broken_us: 1_000,
            busy_ratio: 0.98,
            busy_ratio_if_held_back: 0.9,
            achieved_ratio: 0.95,
            ring_loss_ratio: 1e-4,
            met_old_ratio: 0.01,
        }
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
    /// Launches and requests that waited for a place among the connections in flight, or for a free connection.
    pub held_back: u64,
    /// When the generator is taken to be the limit.
    pub limits: Limits,
}

/// What comes first of what may be wrong.
fn ranked(unknown: bool, limited: bool, broken: bool, context: &Context) -> Verdict {
    if unknown {
        Verdict::Inconclusive
    } else if limited {
        Verdict::GeneratorLimited
    } else if broken {
        Verdict::Failed
    } else if context.maximum_asked {
        Verdict::Ceiling
    } else {
        Verdict::Valid
    }
}

/// Fills in `thresholds`, `verdict`, `reasons` and `partial` of a report whose figures are complete.
pub fn judge(report: &mut Report, thresholds: &[Threshold], context: &Context) {
    report.partial = context.partial;
    report.thresholds = evaluate(report, thresholds);
    let (broken, unmeasured) = threshold_findings(&report.thresholds);
    let mut limits = limit_findings(report, context);
    let mut broken = broken;
    let failing = report.criteria.iter().filter(|criterion| criterion.pass == Some(false));
    broken.extend(failing.map(unfulfilled));
    if let Some(shortfall) = shortfall(report, context) {
        // Whoever was late or lost frames is to blame; otherwise it is the target that had no room for more.
        let ours = !limits.is_empty()
            || context.held_back == 0
            || busiest(&report.blocks) > context.limits.busy_ratio_if_held_back;
        match met_old(report, context) {
            _ if ours => limits.push(shortfall),
            // what an earlier run left behind tells nothing of what the target can do
            Some(why) => limits.push(format!("{shortfall}: {why}")),
            None => broken.push(format!("{shortfall}: the target did not keep up")),
        }
    } else if report.thresholds.iter().any(is_slow) {
        broken.extend(met_old(report, context));
    }
    let total_failure = total_failure(&report.blocks);
    let nothing_done = report.blocks.connections.attempted.unwrap_or(0) == 0;

    report.verdict = if total_failure.is_some() {
        Verdict::Failed
    } else {
        ranked(
            nothing_done || !unmeasured.is_empty(),
            !limits.is_empty() && !context.maximum_asked,
            !broken.is_empty(),
            context,
        )
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

/// The same for a SYN flood: its rate, its rings, its thresholds. What the target answers is for thresholds to judge.
pub fn judge_flood(report: &mut Report, thresholds: &[Threshold], context: &Context) {
    report.partial = context.partial;
    report.thresholds = evaluate(report, thresholds);
    report.thresholds.retain(|result| thresholds.iter().any(|threshold| threshold.to_string() == result.expr));
    let (broken, unmeasured) = threshold_findings(&report.thresholds);
    let flood = &report.syn_flood;
    let nothing_sent = flood.syns.unwrap_or(0) == 0;
    let mut limits = Vec::new();
    if let (Some(offered), Some(sent)) = (flood.offered_per_s, flood.sent_per_s)
        && context.sustain_seconds >= 1.0
        && sent < offered * context.limits.achieved_ratio
    {
        limits.push(format!("{sent:.0} SYNs/s were sent of {offered:.0} asked for"));
    }
    report.verdict = ranked(nothing_sent || !unmeasured.is_empty(), !limits.is_empty(), !broken.is_empty(), context);
    if nothing_sent {
        report.reasons.push("no SYN was sent".into());
    }
    report.reasons.extend(limits.into_iter().chain(broken).chain(unmeasured));
    if context.traffic.rx_dropped > 0 {
        report.reasons.push(format!("{} answers were lost before they were counted", context.traffic.rx_dropped));
    }
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
            (Some(false), Some(_)) => broken.push(self::broken(result)),
            // Without a single attempt there is no ratio to look at, which is said already.
            (None, _) if result.expr != threshold::DEFAULT => {
                unmeasured.push(format!("threshold {}: not measured", result.expr));
            }
            _ => {}
        }
    }
    (broken, unmeasured)
}

/// A broken threshold as a sentence.
pub fn broken(result: &ThresholdResult) -> String {
    let value = result.value.map_or_else(|| "not measured".into(), |value| value.to_string());
    format!("threshold {} broken: it is {value}", result.expr)
}

/// A criterion that is not fulfilled, as a sentence.
pub fn unfulfilled(criterion: &CriterionResult) -> String {
    let value = criterion.value.unwrap_or_default();
    format!("criterion {}<{} not fulfilled: it is {value:.6}", criterion.name, criterion.limit)
}

fn total_failure(blocks: &Blocks) -> Option<String> {
    let attempted = blocks.connections.attempted.unwrap_or(0);
    let failed = causes(&blocks.connections.failed);
    let total: u64 = failed.iter().map(|(_, count)| count).sum();
    let (worst, count) = failed.into_iter().max_by_key(|(_, count)| *count)?;
    let all = attempted > 0 && total >= attempted && blocks.connections.completed.unwrap_or(0) == 0;
    all.then(|| match count < total {
        true => format!("every one of {attempted} connections failed, {count} of them: {worst}"),
        false => format!("every one of {attempted} connections failed: {worst}"),
    })
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

fn busiest(blocks: &Blocks) -> f64 {
    blocks.workers.iter().filter_map(|worker| worker.busy_ratio).fold(0.0, f64::max)
}

/// Fewer launches or requests than the schedule had.
fn shortfall(report: &Report, context: &Context) -> Option<String> {
    let blocks = &report.blocks;
    if context.sustain_seconds < 1.0 {
        return None;
    }
    let made = |count: Option<u64>| count.map(|count| count as f64 / context.sustain_seconds);
    let failed = &blocks.connections.failed;
    let never = failed.launch_dropped.unwrap_or(0);
    let launched = blocks.connections.attempted.map(|attempted| attempted.saturating_sub(never));
    let missed = |made: f64, offered: f64| made < offered * context.limits.achieved_ratio;
    let held_back = match context.held_back {
        0 => String::new(),
        count => format!(", {count} were held back by the limit on connections in flight"),
    };
    if let (Some(offered), Some(made)) = (blocks.rate.offered_cps, made(launched))
        && missed(made, offered)
    {
        return Some(format!("{made:.0} connections/s were launched of {offered:.0} asked for{held_back}"));
    }
    let (made, due) = (report.requests?, report.requests_due?);
    missed(made as f64, due as f64).then(|| format!("{made} requests were answered of {due} that came due{held_back}"))
}

/// Whether enough SYNs were answered out of old connections to say so.
fn met_old(report: &Report, context: &Context) -> Option<String> {
    let (met, attempted) = (context.traffic.syn_met_old, report.blocks.connections.attempted?);
    (met as f64 > attempted as f64 * context.limits.met_old_ratio).then(|| {
        format!(
            "{met} SYNs met connections of before, as an earlier run leaves them in the server's TIME-WAIT; wait until it is \
             over (60 s on Linux), or use other or more addresses"
        )
    })
}

/// Whether it is a threshold on times that is broken.
fn is_slow(result: &ThresholdResult) -> bool {
    result.pass == Some(false) && result.expr.starts_with("latency_us.")
}

/// Whether launches were late enough to say so.
fn lateness(report: &Report, limits: &Limits) -> Option<String> {
    let delay = &report.blocks.latency_us.schedule_delay;
    let (p50, p99) = (delay.p50?, delay.p99?);
    let p99_max = if report.thresholds.iter().any(is_slow) {
        limits.schedule_delay_p99_if_broken_us
    } else {
        limits.schedule_delay_p99_us
    };
    if p50 > limits.schedule_delay_p50_us {
        return Some(format!(
            "launches were late: half of them by more than {p50} µs, {} are allowed",
            limits.schedule_delay_p50_us
        ));
    }
    (p99 > p99_max).then(|| format!("launches were late: {p99} µs at the 99th percentile, {p99_max} are allowed"))
}

fn limit_findings(report: &Report, context: &Context) -> Vec<String> {
    let (limits, blocks) = (&context.limits, &report.blocks);
    let mut found = Vec::new();
    let failed = &blocks.connections.failed;
    for (count, what) in [
        (failed.local_ports, "launches found no free local port; add addresses with --addr or shorten --time-wait"),
        (failed.local_memory, "launches found no memory; hold fewer connections"),
        (failed.launch_dropped, "launches were due before the end and came too late to be made"),
    ] {
        if let Some(count) = count.filter(|count| *count > 0) {
            found.push(format!("{count} {what}"));
        }
    }
    found.extend(lateness(report, limits));
    // Of a closed loop it is the workers that set the pace, unless they have time left.
    let open_loop = blocks.rate.offered_cps.is_some();
    for (index, worker) in blocks.workers.iter().enumerate().filter(|_| !open_loop) {
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
        (report.blocks.latency_us.schedule_delay.p50, report.blocks.latency_us.schedule_delay.p99) =
            (Some(3), Some(20));
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
        report.blocks.rate.offered_cps = None;
        let report = judged(report, &[], |context| context.maximum_asked = true);
        assert_eq!((report.verdict, report.exit()), (Verdict::Ceiling, Exit::Success));
        assert!(report.reasons[0].contains("busy"));
    }

    #[test]
    fn each_limit_of_the_generator_is_found() {
        type Change = fn(&mut Report, &mut Context);
        let changes: [(&str, Change); 10] = [
            ("late", |report, _| report.blocks.latency_us.schedule_delay.p99 = Some(50_000)),
            ("late", |report, _| report.blocks.latency_us.schedule_delay.p50 = Some(1_001)),
            ("busy", |report, _| {
                report.blocks.workers[0].busy_ratio = Some(0.99);
                report.blocks.rate.offered_cps = None;
            }),
            ("asked for", |report, _| report.blocks.rate.offered_cps = Some(200.0)),
            ("no free local port", |report, _| report.blocks.connections.failed.local_ports = Some(1)),
            ("no memory", |report, _| report.blocks.connections.failed.local_memory = Some(1)),
            ("too late", |report, _| report.blocks.connections.failed.launch_dropped = Some(1)),
            ("held back", |report, context| {
                report.blocks.rate.offered_cps = Some(200.0);
                report.blocks.workers[0].busy_ratio = Some(0.95);
                context.held_back = 1_000;
            }),
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
    fn what_a_busy_machine_does_now_and_then_is_no_limit() {
        let mut report = good();
        report.blocks.latency_us.schedule_delay.p99 = Some(6_000);
        report.blocks.workers[0].busy_ratio = Some(0.99);
        report.blocks.latency_us.connect_from_schedule.p99 = Some(7_000);
        assert_eq!(judged(report.clone(), &[], |_| ()).verdict, Verdict::Valid);
        // Where a latency is too long, our own share in it counts.
        let report = judged(report, &["latency_us.connect_from_schedule.p99<2000"], |_| ());
        assert_eq!(report.verdict, Verdict::GeneratorLimited, "{:?}", report.reasons);
    }

    #[test]
    fn a_target_that_does_not_keep_up_has_failed() {
        let mut report = good();
        report.blocks.rate.offered_cps = Some(200.0);
        let report = judged(report, &[], |context| context.held_back = 1_000);
        assert_eq!((report.verdict, report.exit()), (Verdict::Failed, Exit::Failed));
        assert!(report.reasons[0].contains("did not keep up"), "{:?}", report.reasons);
    }

    #[test]
    fn what_an_earlier_run_left_behind_is_not_the_targets_fault() {
        let mut report = good();
        report.blocks.rate.offered_cps = Some(200.0);
        let held_back =
            |met| move |context: &mut Context| (context.held_back, context.traffic.syn_met_old) = (1_000, met);
        let met = judged(report.clone(), &[], held_back(11));
        assert_eq!((met.verdict, met.exit()), (Verdict::GeneratorLimited, Exit::Limited));
        assert!(met.reasons[0].contains("11 SYNs met") && !met.reasons[0].contains("keep up"), "{:?}", met.reasons);
        assert_eq!(judged(report, &[], held_back(10)).verdict, Verdict::Failed, "too few to be the cause");

        let mut report = good();
        report.blocks.latency_us.connect.p99 = Some(3_000);
        let says = |threshold: &str| {
            let report = judged(report.clone(), &[threshold], held_back(11));
            assert_eq!(report.verdict, Verdict::Failed);
            report.reasons.iter().any(|reason| reason.contains("11 SYNs met"))
        };
        assert!(says("latency_us.connect.p99<2000") && !says("connections.completed>1001"));
        assert!(judged(report.clone(), &[], held_back(11)).reasons.is_empty(), "nothing is wrong");
    }

    #[test]
    fn requests_that_were_not_made_are_missed() {
        let mut report = good();
        (report.requests, report.requests_due) = (Some(900), Some(1_000));
        let report = judged(report, &[], |context| context.held_back = 100);
        assert_eq!(report.verdict, Verdict::Failed);
        assert!(report.reasons[0].contains("900 requests"), "{:?}", report.reasons);
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
