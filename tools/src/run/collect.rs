//! From the workers' snapshots to the phases and intervals of a report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use syncline_engine::stats::Stats;
use syncline_engine::time::Instant;

use super::aside::make_way;
use super::drive::Member;
use super::gauges::Reading;
use crate::host::{self, CoreTimes};
use crate::load::{Mailbox, Phase, Snapshot, Transfer};
use crate::measure::Tally;
use crate::metrics::Metrics;
use crate::report::blocks::{Detail, Levels, Span, Traffic};
use crate::report::model::{IntervalReport, PhaseReport, WorkerReport};
use crate::report::series::Series;

/// Everything counted of a worker at some time.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// What its engine and device counted.
    pub traffic: Traffic,
    reading: Reading,
    core: Option<CoreTimes>,
    handed_over: u64,
    wrong_core: u64,
}

impl Mark {
    /// Of now.
    pub fn of(member: &Member) -> Self {
        let (stats, reading) = (&member.stats, member.gauges.read());
        Self {
            traffic: traffic(stats, &reading),
            core: member.core.and_then(CoreTimes::read),
            reading,
            handed_over: stats.handed_over.get(),
            wrong_core: stats.wrong_core.get(),
        }
    }
}

/// What a worker's engine and device have counted since their start.
pub fn traffic(stats: &Stats, reading: &Reading) -> Traffic {
    let device = &reading.device;
    Traffic {
        tx_frames: stats.tx_frames.get(),
        rx_frames: stats.rx_frames.get(),
        tx_bytes: stats.tx_bytes.get(),
        rx_bytes: stats.rx_bytes.get(),
        retransmitted: stats.segments_retransmitted.get(),
        syn_met_old: stats.syn_met_old.get(),
        partial_checksum: stats.partial_checksum.get(),
        doorbells: device.doorbells,
        dropped: stats.dropped.nonzero().map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
        tx_full: stats.tx_full.get(),
        rx_dropped: device.rx_dropped,
    }
}

/// Every counter of the workers' engines by its name, summed: totals since the start, and levels as they are now.
pub fn counters(members: &[Member]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for member in members {
        for (name, _, count) in member.stats.entries() {
            *sums.entry(name.to_owned()).or_default() += count;
        }
    }
    sums
}

/// The figures of one worker between two marks that lie `length` apart.
pub fn worker_report(member: &Member, from: &Mark, to: &Mark, length: Duration) -> WorkerReport {
    let moved = to.traffic.since(&from.traffic);
    let micros = |length: Option<Duration>| length.map(|length| length.as_secs_f64() * 1e6);
    let seconds = length.as_secs_f64();
    WorkerReport {
        core: member.core.and_then(|core| u32::try_from(core).ok()),
        busy_ratio: (seconds > 0.0).then(|| to.reading.busy_since(&from.reading).as_secs_f64() / seconds),
        softirq_ratio: to.core.zip(from.core).and_then(|(to, from)| to.softirq_ratio_since(from)),
        poll_p99_9_us: micros(to.reading.loop_quantile_since(&from.reading, 0.999)),
        poll_max_us: micros(to.reading.loop_max()),
        rx: Some(moved.rx_frames),
        tx: Some(moved.tx_frames),
        handed_over: Some(to.handed_over - from.handed_over),
        wrong_core: Some(to.wrong_core - from.wrong_core),
    }
}

/// The figures of a worker that has run for `length`.
pub fn worker_report_since_start(member: &Member, length: Duration) -> WorkerReport {
    worker_report(member, &Mark::default(), &Mark::of(member), length)
}

/// One worker as the collector follows it.
struct Followed {
    member: Member,
    mailbox: Arc<Mailbox>,
    mark: Mark,
    /// The mark at the beginning of each phase, and the phase's length so far.
    phases: BTreeMap<Phase, (Mark, Mark, Duration)>,
    reported_to: Instant,
    last: bool,
    open: u64,
    open_max: u64,
    cut_short: u64,
    targets: Vec<Tally>,
}

/// A second of a phase that is not complete yet.
#[derive(Default)]
struct Second {
    span: Span,
    /// The marks of each worker at its beginning and so far, and how much of it the worker has reported: a stage that
    /// ends cuts it in two.
    workers: BTreeMap<usize, (Mark, Mark, Duration)>,
}

/// With fewer connections than this, what a table has at least outweighs what a connection takes.
const HELD_TO_JUDGE: u64 = 10_000;

/// Adds up what the workers of a load generator report.
pub struct Collector {
    workers: Vec<Followed>,
    offered_cps: Option<f64>,
    rss_bytes_before: Option<u64>,
    /// Of the moment when most were open.
    bytes_per_idle_connection: Option<f64>,
    bytes_per_connection_rss: Option<f64>,
    held_max: u64,
    start: Option<Instant>,
    phases: BTreeMap<Phase, Span>,
    pending: BTreeMap<(u64, Phase), Second>,
    series: Series,
    /// The intervals that were complete when last asked.
    fresh: Vec<IntervalReport>,
    held_back: u64,
    requests_due: u64,
    burst_max: u32,
    transfers: Vec<Transfer>,
    /// What happened while each stage lasted, if there are stages, and each worker's length of it.
    stages: BTreeMap<u16, (Span, BTreeMap<usize, Duration>)>,
    metrics: Option<Metrics>,
}

impl Collector {
    /// Follows `members`, each with its mailbox. `offered_cps` is the rate of the sustain phase, if there is one.
    pub fn new(members: &[Member], mailboxes: Vec<Arc<Mailbox>>, offered_cps: Option<f64>) -> Self {
        let workers = members.iter().zip(mailboxes).map(|(member, mailbox)| Followed {
            mark: Mark::of(member),
            member: member.clone(),
            mailbox,
            phases: BTreeMap::new(),
            reported_to: Instant::ZERO,
            last: false,
            open: 0,
            open_max: 0,
            cut_short: 0,
            targets: Vec::new(),
        });
        Self {
            workers: workers.collect(),
            offered_cps,
            rss_bytes_before: host::rss_bytes(),
            bytes_per_idle_connection: None,
            bytes_per_connection_rss: None,
            held_max: 0,
            start: None,
            phases: BTreeMap::new(),
            pending: BTreeMap::new(),
            series: Series::default(),
            fresh: Vec::new(),
            held_back: 0,
            requests_due: 0,
            burst_max: 0,
            transfers: Vec::new(),
            stages: BTreeMap::new(),
            metrics: None,
        }
    }

    /// Tells `metrics` of every snapshot, too.
    pub fn tell(&mut self, metrics: Metrics) {
        self.metrics = Some(metrics);
    }

    /// Reads what has arrived, and returns the intervals that are complete since the last time.
    pub fn gather(&mut self) -> &[IntervalReport] {
        for index in 0..self.workers.len() {
            let mailbox = Arc::clone(&self.workers[index].mailbox);
            while mailbox.read(|snapshot| self.add(index, snapshot)) {}
        }
        self.fresh.clear();
        let reported_to = self.workers.iter().filter(|worker| !worker.last).map(|worker| worker.reported_to).min();
        let second = reported_to.map_or(u64::MAX, |at| self.second(at));
        while let Some(entry) = self.pending.first_entry().filter(|entry| entry.key().0 < second) {
            let ((second, phase), Second { mut span, workers }) = entry.remove_entry();
            let reports = workers
                .iter()
                .map(|(index, (from, to, length))| worker_report(&self.workers[*index].member, from, to, *length));
            span.workers = reports.collect();
            let interval = IntervalReport {
                at_s: second as f64,
                seconds: span.length.as_secs_f64(),
                phase: phase.name().into(),
                blocks: span.blocks(Detail::Full),
                spread: None,
            };
            self.series.push(interval.clone());
            self.fresh.push(interval);
        }
        &self.fresh
    }

    fn second(&self, at: Instant) -> u64 {
        self.start.map_or(0, |start| at.since(start).as_secs())
    }

    fn add(&mut self, index: usize, snapshot: &Snapshot) {
        self.start = Some(self.start.map_or(snapshot.from, |start| start.min(snapshot.from)));
        if let Some(metrics) = &self.metrics {
            metrics.add(index, snapshot);
        }
        let worker = &mut self.workers[index];
        let mark = Mark::of(&worker.member);
        let length = snapshot.to.since(snapshot.from);
        let before = std::mem::replace(&mut worker.mark, mark.clone());
        let entry = worker.phases.entry(snapshot.phase);
        let (_, to, in_phase) = entry.or_insert_with(|| (before.clone(), before.clone(), Duration::ZERO));
        (*to, *in_phase) = (mark.clone(), *in_phase + length);
        let in_phase = *in_phase;
        worker.reported_to = snapshot.to;
        worker.last |= snapshot.last;
        (worker.open, worker.open_max) = (snapshot.open.into(), snapshot.open_max.into());
        worker.cut_short = snapshot.cut_short;
        worker.targets.clone_from(&snapshot.targets);
        self.transfers.extend_from_slice(&snapshot.transfers);
        let moved = mark.traffic.since(&before.traffic);

        let levels = self.levels();
        if levels.open >= HELD_TO_JUDGE && levels.open >= self.held_max {
            self.held_max = levels.open;
            self.bytes_per_idle_connection = Some(levels.flow_table_bytes as f64 / levels.open as f64);
            // Later it would not do: tables give their pages back as connections close.
            let growth = levels.rss_bytes.zip(self.rss_bytes_before).map(|(now, before)| now.saturating_sub(before));
            self.bytes_per_connection_rss = growth.map(|growth| growth as f64 / levels.open as f64);
        }
        let offered = self.offered_cps.filter(|_| snapshot.phase == Phase::Sustain);
        self.phases.entry(Phase::Ramp).or_default().measures.add(&snapshot.ramp);
        make_way();
        self.phases.entry(Phase::Sustain).or_default().measures.add(&snapshot.sustain);
        make_way();
        let phase = self.phases.entry(snapshot.phase).or_default();
        phase.length = phase.length.max(in_phase);
        phase.traffic.add(&moved);
        phase.levels = levels;
        phase.offered_cps = offered;

        if snapshot.phase == Phase::Sustain {
            let (stage, lengths) = self.stages.entry(snapshot.stage).or_default();
            *lengths.entry(index).or_default() += length;
            stage.length = lengths.values().max().copied().unwrap_or_default();
            stage.measures.add(&snapshot.sustain);
            make_way();
            stage.traffic.add(&moved);
            stage.levels = levels;
        }
        let key = (self.second(snapshot.from), snapshot.phase);
        let Second { span: interval, workers } = self.pending.entry(key).or_default();
        let (_, to, in_second) = workers.entry(index).or_insert_with(|| (before.clone(), before, Duration::ZERO));
        (*to, *in_second) = (mark, *in_second + length);
        interval.length = interval.length.max(*in_second);
        interval.measures.add(&snapshot.ramp);
        make_way();
        interval.measures.add(&snapshot.sustain);
        make_way();
        interval.traffic.add(&moved);
        interval.levels = levels;
        interval.offered_cps = offered;
        self.held_back += snapshot.held_back;
        self.requests_due += snapshot.requests_due;
        self.burst_max = self.burst_max.max(snapshot.burst_max);
    }

    fn levels(&self) -> Levels {
        let stats = || self.workers.iter().map(|worker| &worker.member.stats);
        Levels {
            open: self.workers.iter().map(|worker| worker.open).sum(),
            held_max: self.workers.iter().map(|worker| worker.open_max).sum(),
            time_wait: stats().map(|stats| stats.time_wait_now.get()).sum(),
            flow_table_bytes: self.workers.iter().map(|worker| worker.member.gauges.table_bytes()).sum(),
            bytes_per_idle_connection: self.bytes_per_idle_connection,
            rss_bytes: host::rss_bytes(),
            bytes_per_connection_rss: self.bytes_per_connection_rss,
        }
    }

    /// The sustain phase as far as it has come, with its workers apart.
    pub fn sustain(&self) -> Option<(&Span, Vec<WorkerReport>)> {
        let span = self.phases.get(&Phase::Sustain).filter(|span| !span.length.is_zero())?;
        let workers = self.workers.iter().filter_map(|worker| {
            let (from, to, length) = worker.phases.get(&Phase::Sustain)?;
            Some(worker_report(&worker.member, from, to, *length))
        });
        Some((span, workers.collect()))
    }

    /// Launches and requests held back so far.
    pub fn held_back(&self) -> u64 {
        self.held_back
    }

    /// Everything, after the workers have ended.
    pub fn finish(mut self) -> Collected {
        for worker in &mut self.workers {
            worker.last = true;
        }
        self.gather();
        self.settle();
        let levels = self.levels();
        let mut phases = std::mem::take(&mut self.phases);
        phases.retain(|_, span| !span.length.is_zero() || span.measures.tally != Tally::default());
        for (phase, span) in &mut phases {
            let marks = self.workers.iter().filter_map(|worker| {
                let (from, to, length) = worker.phases.get(phase)?;
                Some(worker_report(&worker.member, from, to, *length))
            });
            span.workers = marks.collect();
        }
        let reports = phases.iter().map(|(phase, span)| PhaseReport {
            name: phase.name().into(),
            seconds: span.length.as_secs_f64(),
            blocks: span.blocks(Detail::Full),
        });
        let reports = reports.collect();
        let mut sustain = phases.remove(&Phase::Sustain).unwrap_or_default();
        if let Some(drain) = phases.get(&Phase::Drain).filter(|_| !phases.contains_key(&Phase::Ramp)) {
            sustain.after.clone_from(&drain.traffic);
        }
        let held_max = sustain.levels.held_max;
        sustain.levels = Levels { held_max, ..levels };
        let mut targets: Vec<Tally> = Vec::new();
        for worker in &self.workers {
            targets.resize(targets.len().max(worker.targets.len()), Tally::default());
            targets.iter_mut().zip(&worker.targets).for_each(|(sum, tally)| sum.add(tally));
        }
        Collected {
            sustain,
            phases: reports,
            intervals: self.series.finish(),
            targets,
            held_back: self.held_back,
            requests_due: self.requests_due,
            stages: self.stages.into_values().map(|(span, _)| span).collect(),
            burst_max: self.burst_max,
            cut_short: self.workers.iter().map(|worker| worker.cut_short).sum(),
            transfers: self.transfers,
        }
    }

    /// What was published after the last snapshot belongs to the phase that it closed.
    fn settle(&mut self) {
        for worker in &mut self.workers {
            let mark = Mark::of(&worker.member);
            let moved = mark.traffic.since(&worker.mark.traffic);
            if let Some((phase, (_, to, _))) = worker.phases.iter_mut().next_back() {
                self.phases.entry(*phase).or_default().traffic.add(&moved);
                *to = mark.clone();
            }
            worker.mark = mark;
        }
    }
}

/// What a run of a load generator came to.
pub struct Collected {
    /// The sustain phase; its levels are those at the end of the run.
    pub sustain: Span,
    /// The phases, in order.
    pub phases: Vec<PhaseReport>,
    /// The seconds, in order; wider spans of a long run.
    pub intervals: Vec<IntervalReport>,
    /// By target, of the whole run; empty if there is but one.
    pub targets: Vec<Tally>,
    /// Launches and requests held back by the limit on connections in flight.
    pub held_back: u64,
    /// Requests that came due by their schedule.
    pub requests_due: u64,
    /// What happened while each stage lasted; one if there are none.
    pub stages: Vec<Span>,
    /// Largest number of launches in one pass of the loop.
    pub burst_max: u32,
    /// Connections whose answer had not ended at the end of the drain.
    pub cut_short: u64,
    /// Answers that were hashed.
    pub transfers: Vec<Transfer>,
}
