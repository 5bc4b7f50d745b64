//! What a run came to, as a report.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::plan::LoadPlan;
use crate::live::{Facts, Pace, SoFar};
use crate::load::{Load, Transfer};
use crate::report::blocks::{Detail, Span};
use crate::report::criteria;
use crate::report::model::{Blocks, Report, StageReport, TargetReport, TransferReport};
use crate::report::verdict::{self, Context};
use crate::run::Collector;
use crate::run::collect::Collected;

/// The report of what was collected.
pub(super) fn report(collected: Collected, plan: &LoadPlan, partial: bool, started_at: SystemTime) -> Report {
    let sustain = &collected.sustain;
    let mut report = Report::new(plan.command);
    report.started_at = Some(humantime::format_rfc3339_millis(started_at).to_string());
    report.seed = Some(plan.seed.value());
    report.blocks = sustain.blocks(Detail::Full);
    report.targets = targets(plan, &collected);
    report.transfers = transfers(plan, &collected);
    let context = Context {
        maximum_asked: plan.maximum_asked,
        partial,
        traffic: sustain.traffic.clone(),
        sustain_seconds: sustain.length.as_secs_f64(),
        held_back: collected.held_back,
        ..Context::default()
    };
    report.requests = Some(sustain.measures.tally.requests);
    report.requests_due = Some(collected.requests_due).filter(|_| plan.plan.request_rate.is_some());
    report.stages = stages(plan, &collected.stages);
    report.phases = collected.phases;
    report.intervals = collected.intervals;
    report.held_back = Some(collected.held_back);
    report.blocks.rate.burst_max = Some(collected.burst_max);
    if collected.held_back > 0 {
        let why = "launches or requests waited for a connection to end or to be free; their wait counts from schedule";
        report.reasons.push(format!("{} {why}", collected.held_back));
    }
    if collected.cut_short > 0 {
        let why = "after the last connection had ended, which counts neither as completed nor as failed";
        let (count, patience) = (collected.cut_short, plan.plan.drain_timeout.as_secs());
        report.reasons.push(format!("{count} connections were cut short: their answers still came {patience} s {why}"));
    }
    report.criteria = criteria::evaluate(&plan.criteria, &report);
    verdict::judge(&mut report, &plan.thresholds, &context);
    report
}

/// What a view shows of the plan.
pub(super) fn facts(plan: &LoadPlan) -> Facts {
    let load = &plan.plan;
    let pace = match (load.load, load.hold.or(load.duration)) {
        (Load::Held { connections, .. }, length) => Pace::Held(connections, length.unwrap_or_default()),
        (_, Some(length)) => Pace::Time(load.ramp + length),
        (_, None) => load.count.map_or(Pace::Endless, Pace::Count),
    };
    let stages = load.stages.iter().map(|(length, rate)| (length.as_secs_f64(), *rate)).collect();
    Facts { title: plan.title.clone(), pace, timed: true, start_cps: load.start_cps(), stages }
}

/// What would be said if the run ended now.
pub(super) fn so_far(collector: &Collector, plan: &LoadPlan) -> Option<SoFar> {
    let (span, workers) = collector.sustain()?;
    let mut report = Report::new(plan.command);
    report.blocks = Blocks { workers, ..span.blocks(Detail::Summary) };
    let context = Context {
        maximum_asked: plan.maximum_asked,
        traffic: span.traffic.clone(),
        // What stages ask for is known of the whole only.
        sustain_seconds: if plan.plan.stages.is_empty() { span.length.as_secs_f64() } else { 0.0 },
        held_back: collector.held_back(),
        ..Context::default()
    };
    verdict::judge(&mut report, &plan.thresholds, &context);
    let Report { verdict, reasons, thresholds, .. } = report;
    Some(SoFar { verdict, reasons, thresholds, held_back: collector.held_back() })
}

fn stages(plan: &LoadPlan, spans: &[Span]) -> Vec<StageReport> {
    let stages = &plan.plan.stages;
    let starts = [plan.plan.start_cps()].into_iter().chain(stages.iter().map(|(_, rate)| *rate));
    let report = |(index, ((span, from), (_, to))): (usize, ((&Span, f64), &(_, f64)))| StageReport {
        stage: index as u32 + 1,
        seconds: span.length.as_secs_f64(),
        from_cps: from,
        to_cps: *to,
        blocks: span.blocks(Detail::Full),
    };
    spans.iter().zip(starts).zip(stages).enumerate().map(report).collect()
}

fn targets(plan: &LoadPlan, collected: &Collected) -> Vec<TargetReport> {
    let whole = [collected.sustain.measures.tally];
    let tallies = if collected.targets.is_empty() { &whole[..] } else { &collected.targets };
    let part = |index: usize| {
        let part = plan.plan.mix.iter().position(|flow| (flow.targets.0..flow.targets.1).contains(&(index as u32)));
        part.map_or_else(String::new, |part| format!("mix {}: ", part + 1))
    };
    let report = |(index, (target, tally)): (usize, (&SocketAddr, _))| {
        TargetReport::new(format!("{}{target}", part(index)), tally)
    };
    plan.plan.targets.iter().zip(tallies).enumerate().map(report).collect()
}

fn transfers(plan: &LoadPlan, collected: &Collected) -> Vec<TransferReport> {
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect();
    let report = |transfer: &Transfer| TransferReport {
        target: plan.plan.targets.get(transfer.target as usize).map(SocketAddr::to_string).unwrap_or_default(),
        octets: transfer.octets,
        sha256: hex(&transfer.sha256),
    };
    collected.transfers.iter().map(report).collect()
}
