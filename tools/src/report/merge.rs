//! One report of several generators that ran at the same time: shards of one load, on one machine or on many.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::blocks::ratio;
use super::combine::{Relation, combine};
use super::criteria::{self, Criterion};
use super::insight::{FlightReport, Reconciliation};
use super::model::{
    Blocks, Host, IntervalReport, PhaseReport, Report, Shard, StageReport, SupplyReport, SynCache, SynCookies,
    SynFlood, TargetReport, Verdict,
};
use super::series;
use super::settings::{self, Purpose};
use super::threshold::Threshold;
use super::verdict;

/// A report and the name of its file.
pub type Named = (String, Report);

/// Why reports cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub why: String,
    /// Whether asking for it all the same helps.
    pub can_be_allowed: bool,
}

impl Refusal {
    fn fatal(why: impl Into<String>) -> Self {
        Self { why: why.into(), can_be_allowed: false }
    }

    fn other(why: impl Into<String>) -> Self {
        Self { why: why.into(), can_be_allowed: true }
    }
}

/// The sum of `shards`: counts and histograms exactly, seconds by the wall clock. Unless `allow_different`, they must
/// have been asked for the same kind of load, at the same time.
///
/// # Errors
/// What cannot be added, or should not be.
pub fn merge(shards: &[Named], allow_different: bool) -> Result<Report, Refusal> {
    let [(first_name, first), others @ ..] = shards else { return Err(Refusal::fatal("there is no report")) };
    for (name, report) in shards {
        check(name, report)?;
    }
    for (name, other) in others {
        let differences = settings::differences(first, other, Purpose::Add);
        if !differences.is_empty() && !allow_different {
            let why = format!("{first_name} and {name} differ in {}", differences.join("; "));
            return Err(Refusal::other(why));
        }
    }
    let starts = shards.iter().map(|(name, report)| start(name, report)).collect::<Result<Vec<_>, _>>()?;
    let begin = starts.iter().copied().min().unwrap_or(SystemTime::UNIX_EPOCH);
    let offsets: Vec<_> =
        starts.iter().map(|start| start.duration_since(begin).unwrap_or_default().as_secs_f64()).collect();
    let reports: Vec<_> = shards.iter().map(|(_, report)| report).collect();
    let overlap = overlap(&reports, &offsets);
    if overlap.is_some_and(|share| share <= 0.0) && !allow_different {
        return Err(Refusal::other("they were not measured at the same time: their rates cannot be added"));
    }

    let mut merged = figures(&reports, &offsets);
    merged.started_at = Some(humantime::format_rfc3339_millis(begin).to_string());
    merged.merged_from = shards.iter().map(|(name, report)| shard(name, report)).collect();
    if let Some(share) = overlap.filter(|share| *share < 0.9) {
        let why = "rates are added although not all of them were reached at the same time";
        merged.reasons.push(format!("the sustain phases overlap by {:.0}% only: {why}", share.max(0.0) * 100.0));
    }
    judge(&mut merged, shards);
    Ok(merged)
}

fn check(name: &str, report: &Report) -> Result<(), Refusal> {
    if report.search.is_some() || report.raw.is_some() {
        return Err(Refusal::fatal(format!("{name} is of a search or of `bench raw`, which cannot be added")));
    }
    let latencies = &report.blocks.latency_us;
    match latencies.by_stage().iter().find(|(_, summary)| summary.is_opaque()) {
        Some((stage, _)) => Err(Refusal::fatal(format!("{name} has no histogram of {stage}, or a damaged one"))),
        None => Ok(()),
    }
}

fn start(name: &str, report: &Report) -> Result<SystemTime, Refusal> {
    let parsed = report.started_at.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
    parsed.ok_or_else(|| Refusal::fatal(format!("{name} does not say when it was started")))
}

/// The share of the longest sustain phase in which all were in theirs.
fn overlap(reports: &[&Report], offsets: &[f64]) -> Option<f64> {
    let spans = reports.iter().zip(offsets).map(|(report, offset)| {
        let at = report.phases.iter().position(|phase| phase.name == "sustain")?;
        let before: f64 = report.phases[..at].iter().map(|phase| phase.seconds).sum();
        Some((offset + before, offset + before + report.phases[at].seconds))
    });
    let spans = spans.collect::<Option<Vec<_>>>()?;
    let from = spans.iter().map(|(from, _)| *from).fold(f64::MIN, f64::max);
    let to = spans.iter().map(|(_, to)| *to).fold(f64::MAX, f64::min);
    let longest = spans.iter().map(|(from, to)| to - from).fold(0.0, f64::max);
    (longest > 0.0).then(|| (to - from) / longest)
}

fn beside<'a>(parts: impl Iterator<Item = &'a Blocks>) -> Blocks {
    combine(Relation::Beside, &parts.map(|blocks| (1.0, blocks)).collect::<Vec<_>>())
}

fn figures(reports: &[&Report], offsets: &[f64]) -> Report {
    let sum =
        |figure: fn(&Report) -> Option<u64>| reports.iter().filter_map(|report| figure(report)).reduce(|a, b| a + b);
    let mut counters = BTreeMap::new();
    for (name, count) in reports.iter().flat_map(|report| &report.counters) {
        *counters.entry(name.clone()).or_default() += count;
    }
    let servers: Vec<_> = reports.iter().filter_map(|report| report.server.as_deref()).collect();
    let server_offsets = vec![0.0; servers.len()];
    let seeds: Vec<_> = reports.iter().map(|report| report.seed).collect();
    Report {
        config: config(reports),
        seed: seeds[0].filter(|_| seeds.iter().all(|seed| *seed == seeds[0])),
        partial: reports.iter().any(|report| report.partial),
        host: host(reports),
        blocks: beside(reports.iter().map(|report| &report.blocks)),
        syn_cookies: cookies(reports),
        syn_cache: cache(reports),
        phases: phases(reports),
        intervals: intervals(reports, offsets),
        targets: targets(reports),
        held_back: sum(|report| report.held_back),
        requests: sum(|report| report.requests),
        requests_due: sum(|report| report.requests_due),
        stages: stages(reports),
        supply: supply(reports),
        transfers: reports.iter().flat_map(|report| report.transfers.iter().cloned()).collect(),
        server: (!servers.is_empty()).then(|| Box::new(figures(&servers, &server_offsets))),
        counters,
        flight: FlightReport::sum(reports.iter().filter_map(|report| report.flight.as_ref())),
        reconciliation: Reconciliation::sum(reports.iter().filter_map(|report| report.reconciliation.as_ref())),
        syn_flood: flood(reports),
        ..Report::new(reports[0].command.clone())
    }
}

/// Settings that all have; where they differ, the list of them.
fn config(reports: &[&Report]) -> Value {
    let mut config = Map::new();
    for (key, value) in reports.iter().filter_map(|report| report.config.as_object()).flatten() {
        if config.contains_key(key) {
            continue;
        }
        let all: Vec<_> = reports.iter().map(|report| report.config.get(key).cloned().unwrap_or_default()).collect();
        let one = if all.iter().all(|other| other == value) { value.clone() } else { Value::Array(all) };
        config.insert(key.clone(), one);
    }
    if config.is_empty() { Value::Null } else { Value::Object(config) }
}

/// What all hosts have in common.
fn host(reports: &[&Report]) -> Host {
    fn common<T: PartialEq + Clone>(reports: &[&Report], fact: impl Fn(&Host) -> &Option<T>) -> Option<T> {
        let first = fact(&reports[0].host);
        first.clone().filter(|_| reports.iter().all(|report| fact(&report.host) == first))
    }
    Host {
        kernel: common(reports, |host| &host.kernel),
        cpu_model: common(reports, |host| &host.cpu_model),
        cores: common(reports, |host| &host.cores),
        device: common(reports, |host| &host.device),
        driver: common(reports, |host| &host.driver),
        xdp_mode: common(reports, |host| &host.xdp_mode),
        zerocopy: common(reports, |host| &host.zerocopy),
        placement: common(reports, |host| &host.placement),
    }
}

fn phases(reports: &[&Report]) -> Vec<PhaseReport> {
    let mut names: Vec<&str> = Vec::new();
    for phase in reports.iter().flat_map(|report| &report.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let order = |name: &&str| ["init", "ramp", "sustain", "drain"].iter().position(|known| known == name);
    names.sort_by_key(order);
    let merged = |name: &str| {
        let all = || reports.iter().flat_map(|report| &report.phases).filter(|phase| phase.name == name);
        PhaseReport {
            name: name.into(),
            seconds: all().map(|phase| phase.seconds).fold(0.0, f64::max),
            blocks: beside(all().map(|phase| &phase.blocks)),
        }
    };
    names.into_iter().map(merged).collect()
}

/// Intervals by the wall clock: each falls where its middle lies. They are as wide as the widest of any shard.
fn intervals(reports: &[&Report], offsets: &[f64]) -> Vec<IntervalReport> {
    let all = || reports.iter().flat_map(|report| &report.intervals);
    let width = all().map(|interval| interval.seconds).fold(1.0, f64::max).round();
    let mut slots: BTreeMap<(u64, usize), BTreeMap<usize, IntervalReport>> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    for (shard, (report, offset)) in reports.iter().zip(offsets).enumerate() {
        for interval in &report.intervals {
            let phase = names.iter().position(|name| *name == interval.phase).unwrap_or_else(|| {
                names.push(interval.phase.clone());
                names.len() - 1
            });
            let middle = offset + interval.at_s + interval.seconds / 2.0;
            let slot = slots.entry(((middle / width) as u64, phase)).or_default();
            let joined = match slot.get(&shard) {
                Some(earlier) => series::join(earlier, interval),
                None => interval.clone(),
            };
            slot.insert(shard, joined);
        }
    }
    let merged = slots.into_iter().map(|((slot, phase), parts)| IntervalReport {
        at_s: slot as f64 * width,
        seconds: parts.values().map(|part| part.seconds).fold(0.0, f64::max),
        phase: names[phase].clone(),
        blocks: beside(parts.values().map(|part| &part.blocks)),
        spread: None,
    });
    merged.collect()
}

fn targets(reports: &[&Report]) -> Vec<TargetReport> {
    let mut merged: BTreeMap<&str, Vec<Blocks>> = BTreeMap::new();
    for target in reports.iter().flat_map(|report| &report.targets) {
        let blocks = Blocks { connections: target.connections.clone(), ..Blocks::default() };
        merged.entry(&target.target).or_default().push(blocks);
    }
    let sums = merged.into_iter();
    sums.map(|(target, parts)| TargetReport { target: target.into(), connections: beside(parts.iter()).connections })
        .collect()
}

fn stages(reports: &[&Report]) -> Vec<StageReport> {
    let most = reports.iter().map(|report| report.stages.len()).max().unwrap_or(0);
    let merged = |index: usize| {
        let all = || reports.iter().filter_map(|report| report.stages.get(index));
        StageReport {
            stage: index as u32 + 1,
            seconds: all().map(|stage| stage.seconds).fold(0.0, f64::max),
            from_cps: all().map(|stage| stage.from_cps).sum(),
            to_cps: all().map(|stage| stage.to_cps).sum(),
            blocks: beside(all().map(|stage| &stage.blocks)),
        }
    };
    (0..most).map(merged).collect()
}

fn supply(reports: &[&Report]) -> Option<SupplyReport> {
    let all = || reports.iter().filter_map(|report| report.supply.as_ref());
    all().next()?;
    Some(SupplyReport {
        connections_max: all().map(|supply| supply.connections_max).sum(),
        time_wait_s: all().map(|supply| supply.time_wait_s).fold(0.0, f64::max),
        rate_max_cps: all().map(|supply| supply.rate_max_cps).sum(),
    })
}

fn total(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(|a, b| a.saturating_add(b))
}

fn cookies(reports: &[&Report]) -> Option<SynCookies> {
    let all = || reports.iter().filter_map(|report| report.syn_cookies);
    all().next()?;
    Some(SynCookies {
        sent: total(all().map(|cookies| cookies.sent)),
        accepted: total(all().map(|cookies| cookies.accepted)),
        rejected: total(all().map(|cookies| cookies.rejected)),
    })
}

fn cache(reports: &[&Report]) -> Option<SynCache> {
    let all = || reports.iter().filter_map(|report| report.syn_cache);
    all().next()?;
    Some(SynCache {
        entries: total(all().map(|cache| cache.entries)),
        limit: total(all().map(|cache| cache.limit)),
        evicted: total(all().map(|cache| cache.evicted)),
        expired: total(all().map(|cache| cache.expired)),
    })
}

fn flood(reports: &[&Report]) -> SynFlood {
    let all = || reports.iter().map(|report| report.syn_flood);
    let rate = |figure: fn(SynFlood) -> Option<f64>| all().filter_map(figure).reduce(|a, b| a + b);
    let (syns, syn_acks, resets) = (
        total(all().map(|flood| flood.syns)),
        total(all().map(|flood| flood.syn_acks)),
        total(all().map(|flood| flood.resets)),
    );
    SynFlood {
        offered_per_s: rate(|flood| flood.offered_per_s),
        sent_per_s: rate(|flood| flood.sent_per_s),
        syns,
        sources: all().filter_map(|flood| flood.sources).max(),
        syn_acks,
        resets,
        icmp_errors: total(all().map(|flood| flood.icmp_errors)),
        others: total(all().map(|flood| flood.others)),
        answered_ratio: syns.and_then(|syns| ratio(syn_acks.unwrap_or(0) + resets.unwrap_or(0), syns)),
    }
}

fn shard(name: &str, report: &Report) -> Shard {
    Shard {
        file: name.into(),
        started_at: report.started_at.clone(),
        verdict: report.verdict,
        seed: report.seed,
        host: report.host.clone(),
        achieved_cps: report.blocks.rate.achieved_cps,
    }
}

/// Thresholds and criteria are looked at anew, of the sum. What made a shard say less than that about its target
/// holds of the sum, too.
fn judge(merged: &mut Report, shards: &[Named]) {
    let mut seen: Vec<&str> = Vec::new();
    for result in shards.iter().flat_map(|(_, report)| &report.thresholds) {
        if !seen.contains(&result.expr.as_str()) {
            seen.push(&result.expr);
        }
    }
    let json = serde_json::to_value(&*merged).unwrap_or_default();
    let thresholds: Vec<Threshold> = seen.iter().filter_map(|expr| expr.parse().ok()).collect();
    merged.thresholds = thresholds.iter().map(|threshold| threshold.evaluate(&json)).collect();
    let mut asked: Vec<Criterion> = Vec::new();
    for result in shards.iter().flat_map(|(_, report)| &report.criteria) {
        let parsed = format!("{}<{}", result.name, result.limit).parse().ok();
        asked.extend(parsed.filter(|criterion| !asked.contains(criterion)));
    }
    merged.criteria = criteria::evaluate(&asked, merged);

    let broken: Vec<_> =
        merged.thresholds.iter().filter(|result| result.pass == Some(false)).map(verdict::broken).collect();
    let unfulfilled =
        merged.criteria.iter().filter(|criterion| criterion.pass == Some(false)).map(verdict::unfulfilled);
    let broken: Vec<_> = broken.into_iter().chain(unfulfilled).collect();
    // A shard's own thresholds are about a part of the load: what failed for another reason stays failed.
    let failed = |report: &Report| {
        let by_threshold = report.thresholds.iter().any(|result| result.pass == Some(false))
            || report.criteria.iter().any(|criterion| criterion.pass == Some(false));
        report.verdict == Verdict::Failed && !by_threshold
    };
    let any = |verdict: Verdict| shards.iter().any(|(_, report)| report.verdict == verdict);
    merged.verdict = if any(Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else if any(Verdict::GeneratorLimited) {
        Verdict::GeneratorLimited
    } else if !broken.is_empty() || shards.iter().any(|(_, report)| failed(report)) {
        Verdict::Failed
    } else if any(Verdict::Ceiling) {
        Verdict::Ceiling
    } else {
        Verdict::Valid
    };
    let of_thresholds = |reason: &str| reason.starts_with("threshold ") || reason.starts_with("criterion ");
    for (name, report) in shards {
        let kept = report.reasons.iter().filter(|reason| !of_thresholds(reason));
        merged.reasons.extend(kept.map(|reason| format!("{name}: {reason}")));
    }
    merged.reasons.extend(broken);
    for (name, report) in shards {
        merged.advice.extend(report.advice.iter().map(|advice| format!("{name}: {advice}")));
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
