//! `syncline load --profile syn-flood`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use core_affinity::CoreId;
use syncline_engine::device::Device;
use syncline_engine::stats::{Counter, Stats};
use syncline_engine::wire::{MacAddr, VlanId};
use syncline_xdp::{AddressRange, Interface};

use super::output::Output;
use super::watch::Watch;
use crate::cli::LoadArgs;
use crate::error::{Error, Exit, Result};
use crate::flood::hops::{self, Station};
use crate::flood::{Answers, Flooder, Order, Sources, Template, guard};
use crate::net::Cidr;
use crate::report::blocks::{Detail, Levels, Span, Traffic, ratio};
use crate::report::model::{Blocks, Connections, IntervalReport, Latencies, PhaseReport, Report, SynFlood};
use crate::report::series::Series;
use crate::report::verdict::{self, Context};
use crate::run::aside::step_aside;
use crate::run::collect::{Mark, worker_report};
use crate::run::drive::check_cores;
use crate::run::{Member, MonotonicClock, Waitable};
use crate::setup::Seed;
use crate::signals::{Stop, StopFlag};
use crate::units::OfferedRate;
use crate::{host, netns, privilege, setup};

/// Floods the targets and says what came of it.
///
/// # Errors
/// Exit 2 or 3 before the start, 3 if the device fails.
pub(super) fn run(args: &LoadArgs, targets: &[SocketAddr]) -> Result<Exit> {
    let stop = StopFlag::on_signals()?;
    let clock = MonotonicClock::start();
    let cores = setup::cores(&args.device);
    check_cores(cores.iter().flatten().copied())?;
    let output = Output::open(&args.output)?;
    let watch = Watch::new(&args.output, &cores, "load")?.without_view();
    if let Some(netns) = &args.device.netns {
        netns::enter(netns)?;
    }
    let mut spoof: Vec<Cidr> = targets.iter().filter_map(|target| args.spoof_for(target.ip())).collect();
    spoof.dedup();
    guard::check_not_the_kernels(&spoof)?;
    let claimed: Vec<_> = spoof.iter().map(|range| whole(*range)).collect();
    let (interface, devices) = setup::open_with(&args.device, cores.len(), false, &claimed)?;
    let seed = Seed::new(args.device.seed).value();
    let flood = Flood { args, targets, interface: &interface, cores: &cores, seed, stop: &stop, watch };
    let mut report = match &args.device.pcap {
        Some(file) => flood.run(setup::watch(devices, Some(file), &[], clock)?)?,
        None => flood.run(devices)?,
    };
    report.host = setup::host_facts(Some(&interface), interface.name(), &cores);
    report.config = serde_json::to_value(args).unwrap_or_default();
    output.publish(&report)
}

/// The addresses of a range, for the XDP program: what comes for them is ours to count.
fn whole(range: Cidr) -> AddressRange {
    match range.network() {
        ipnet::IpNet::V4(net) => AddressRange::V4(net.network(), net.broadcast()),
        ipnet::IpNet::V6(net) => AddressRange::V6(net.network(), net.broadcast()),
    }
}

/// A flood about to begin.
struct Flood<'a> {
    args: &'a LoadArgs,
    targets: &'a [SocketAddr],
    interface: &'a Interface,
    cores: &'a [Option<usize>],
    seed: u64,
    stop: &'a StopFlag,
    watch: Watch,
}

/// One worker, seen from outside.
struct Followed {
    member: Member,
    answers: Arc<Answers>,
}

impl Flood<'_> {
    fn run<D: Waitable + Send>(&self, mut devices: Vec<D>) -> Result<Report>
    where
        D::Frame: Send,
    {
        privilege::give_up()?;
        let station = Station {
            mac: MacAddr(self.interface.mac()),
            vlan: self.args.device.vlan.and_then(VlanId::new),
            own: self.args.device.addr.clone(),
        };
        let (macs, asking) = self.find_hops(&mut devices, &station)?;
        let started_at = SystemTime::now();
        let (mut followed, mut flooders) = (Vec::new(), Vec::new());
        for (index, (device, core)) in devices.into_iter().zip(self.cores).enumerate() {
            let order = self.order(index as u64, &station, &macs, device.capabilities().mtu);
            let flooder = Flooder::new(device, order, station.clone());
            let (stats, gauges) = (Arc::clone(flooder.stats()), Arc::clone(flooder.gauges()));
            let member = Member { core: *core, stats, gauges };
            followed.push(Followed { member, answers: Arc::clone(flooder.answers()) });
            flooders.push((flooder, *core));
        }
        if let Some(metrics) = self.watch.metrics() {
            metrics.follow(&followed.iter().map(|followed| followed.member.clone()).collect::<Vec<_>>());
        }
        let mut log = Log::new(followed, self.offered(), asking);
        thread::scope(|scope| {
            let (tell, ended) = mpsc::channel();
            for (flooder, core) in flooders {
                let tell = tell.clone();
                let work = move || {
                    if let Some(id) = core {
                        core_affinity::set_for_current(CoreId { id });
                    }
                    // A sleep is to end when the next SYN is due, not 50 µs later; where that is refused, it does.
                    let _ = nix::sys::prctl::set_timerslack(1);
                    let end = flooder.run(self.stop);
                    if end.is_err() {
                        self.stop.raise(Stop::Now);
                    }
                    // The receiver outlives the threads; it is gone only if the run is.
                    let _ = tell.send(end.map(drop));
                };
                let failed = |error| Error::environment("cannot start a worker's thread", error, "raise `ulimit -u`");
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, work) {
                    self.stop.raise(Stop::Now);
                    return Err(failed(error));
                }
            }
            drop(tell);
            step_aside(self.cores.iter().flatten().copied());
            log.follow(&ended, &self.watch)
        })?;
        Ok(self.report(log, started_at))
    }

    /// The stations that the targets are reached by, and how many frames asking for them took.
    fn find_hops<D: Device>(&self, devices: &mut [D], station: &Station) -> Result<(Vec<MacAddr>, Stats)> {
        let device = &self.args.device;
        let hop = |target: std::net::IpAddr| match device.on_link(target) {
            true => target,
            false => device.gateway.iter().copied().find(|hop| hop.is_ipv4() == target.is_ipv4()).unwrap_or(target),
        };
        let hops: Vec<_> = self.targets.iter().map(|target| hop(target.ip())).collect();
        let stats = Stats::default();
        let macs = hops::resolve(devices, station, &stats, &hops)?;
        Ok((macs, stats))
    }

    fn offered(&self) -> Option<f64> {
        match self.args.rate {
            Some(OfferedRate::PerSecond(rate)) => Some(rate.as_f64()),
            Some(OfferedRate::Max) | None => None,
        }
    }

    /// The share of the worker `index`.
    fn order(&self, index: u64, station: &Station, macs: &[MacAddr], mtu: u16) -> Order {
        let workers = self.cores.len() as u64;
        let share = |count: u64| count / workers + u64::from(index < count % workers);
        let targets = self.targets.iter().zip(macs).filter_map(|(target, mac)| {
            let range = self.args.spoof_for(target.ip())?;
            Some((*target, Template::new(station.link(*mac), *target, mtu), range))
        });
        Order {
            targets: targets.collect(),
            per_second: self.offered().map(|rate| rate / workers as f64),
            count: self.args.count.map(|count| share(count.0)),
            duration: self.args.device.duration.map(|span| span.0),
            seed: self.seed.wrapping_add(index << 48),
        }
    }

    fn report(&self, log: Log, started_at: SystemTime) -> Report {
        let mut report = Report::new("load");
        report.started_at = Some(humantime::format_rfc3339_millis(started_at).to_string());
        report.seed = Some(self.seed);
        let span = log.span();
        let sum = |count: fn(&Answers) -> &Counter| log.workers.iter().map(|worker| count(&worker.answers).get()).sum();
        let syns: u64 = sum(|answers| &answers.syns);
        let (syn_acks, resets): (u64, u64) = (sum(|answers| &answers.syn_acks), sum(|answers| &answers.resets));
        let seconds = span.length.as_secs_f64();
        report.syn_flood = SynFlood {
            offered_per_s: log.offered,
            sent_per_s: (seconds > 0.0).then(|| syns as f64 / seconds),
            syns: Some(syns),
            sources: Some(self.sources()),
            syn_acks: Some(syn_acks),
            resets: Some(resets),
            icmp_errors: Some(sum(|answers| &answers.icmp_errors)),
            others: Some(sum(|answers| &answers.others)),
            answered_ratio: ratio(syn_acks + resets, syns),
        };
        report.blocks = figures(&span, Detail::Full);
        let blocks = report.blocks.clone();
        report.phases = vec![PhaseReport { name: "sustain".into(), seconds, blocks }];
        let context = Context {
            maximum_asked: log.offered.is_none(),
            partial: self.stop.get() != Stop::No,
            traffic: span.traffic.clone(),
            sustain_seconds: seconds,
            ..Context::default()
        };
        report.intervals = log.series.finish();
        verdict::judge_flood(&mut report, &self.args.threshold, &context);
        report
    }

    fn sources(&self) -> u64 {
        let mut ranges: Vec<_> = self.targets.iter().filter_map(|target| self.args.spoof_for(target.ip())).collect();
        ranges.sort_by_key(|range| range.addr());
        ranges.dedup();
        let count: u128 = ranges.iter().map(|range| Sources::new(*range, 0).count()).sum();
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// What is left of a span's figures where there are no connections: the rest was not measured.
fn figures(span: &Span, detail: Detail) -> Blocks {
    let mut blocks = span.blocks(detail);
    blocks.connections = Connections::default();
    blocks.latency_us = Latencies::default();
    blocks.rate.achieved_cps = None;
    blocks.rate.requests_per_s = None;
    blocks.memory.flow_table_bytes = None;
    blocks
}

/// What the workers do, second by second.
struct Log {
    workers: Vec<Followed>,
    offered: Option<f64>,
    began: Instant,
    first: Vec<Mark>,
    last: Vec<Mark>,
    last_at: Duration,
    series: Series,
    /// Frames sent before the start, to find the next hops.
    asking: Traffic,
}

impl Log {
    fn new(workers: Vec<Followed>, offered: Option<f64>, asking: Stats) -> Self {
        let first: Vec<_> = workers.iter().map(|worker| Mark::of(&worker.member)).collect();
        let asking =
            Traffic { tx_frames: asking.tx_frames.get(), tx_bytes: asking.tx_bytes.get(), ..Traffic::default() };
        let last = first.clone();
        let (began, last_at) = (Instant::now(), Duration::ZERO);
        Self { workers, offered, began, first, last, last_at, series: Series::default(), asking }
    }

    /// Waits for the end of all workers, and notes every second.
    fn follow(&mut self, ended: &mpsc::Receiver<Result<()>>, watch: &Watch) -> Result<()> {
        let mut failure = Ok(());
        loop {
            let next = self.last_at + Duration::from_secs(1);
            match ended.recv_timeout(next.saturating_sub(self.began.elapsed())) {
                Ok(end) => failure = failure.and(end),
                Err(mpsc::RecvTimeoutError::Timeout) => self.note(watch),
                Err(mpsc::RecvTimeoutError::Disconnected) => return failure,
            }
        }
    }

    fn note(&mut self, watch: &Watch) {
        let at = self.began.elapsed();
        let length = at - self.last_at;
        let marks: Vec<_> = self.workers.iter().map(|worker| Mark::of(&worker.member)).collect();
        let span = self.between(&self.last, &marks, length);
        watch.flood(at, &span);
        self.series.push(IntervalReport {
            at_s: self.last_at.as_secs_f64(),
            seconds: length.as_secs_f64(),
            phase: "sustain".into(),
            blocks: figures(&span, Detail::Full),
            spread: None,
        });
        (self.last, self.last_at) = (marks, at);
    }

    fn between(&self, from: &[Mark], to: &[Mark], length: Duration) -> Span {
        let levels = Levels { rss_bytes: host::rss_bytes(), ..Levels::default() };
        let mut span = Span { length, offered_cps: self.offered, levels, ..Span::default() };
        for ((worker, from), to) in self.workers.iter().zip(from).zip(to) {
            span.traffic.add(&to.traffic.since(&from.traffic));
            span.workers.push(worker_report(&worker.member, from, to, length));
        }
        span
    }

    /// From the first SYN to the last; what came back a little later counts, too.
    fn span(&self) -> Span {
        let longest = self.workers.iter().map(|worker| worker.answers.sending_us.get()).max();
        let marks: Vec<_> = self.workers.iter().map(|worker| Mark::of(&worker.member)).collect();
        let mut span = self.between(&self.first, &marks, Duration::from_micros(longest.unwrap_or(0)));
        span.after.clone_from(&self.asking);
        span
    }
}
