//! `syncline load`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use syncline_engine::config::Config;
use syncline_engine::worker::Worker;

use super::flood;
use super::output::Output;
use super::progress::Progress;
use crate::cli::LoadArgs;
use crate::cli::load::{CloseMode, FirstClose, Profile as ProfileName, ResponseLength};
use crate::error::{Error, Exit, Result};
use crate::load::{self, Client, Control, Exchange, FirstCloser, Load, Plan, Profile, Response, Supply, Transfer};
use crate::privilege;
use crate::report::Threshold;
use crate::report::blocks::Detail;
use crate::report::model::{Report, SupplyReport, TargetReport, TransferReport};
use crate::report::verdict::{self, Context};
use crate::run::collect::{self, Collected};
use crate::run::{Collector, Crew, MonotonicClock, Outcome, Waitable};
use crate::setup::{self, Pages};
use crate::signals::{Stop, StopFlag};
use crate::units::{Octets, OfferedRate};

/// Connections of a closed loop that was given no size.
const CONCURRENCY_DEFAULT: u64 = 64;

/// Connections in flight on each worker when as many as possible are asked for: more only fill the device's rings.
const IN_FLIGHT_AT_MAX: u64 = 1_024;

/// Connections in flight on each worker of an open loop that was given no limit: about as many as the device's rings
/// have places. Beyond that a path that is too slow for the rate loses frames, and what it carries collapses.
const IN_FLIGHT_DEFAULT: u64 = 4_096;

/// What a load generator needs to know beside its devices.
#[derive(Clone, Debug)]
pub(super) struct LoadPlan {
    /// The engine's configuration.
    pub(super) config: Config,
    /// What to do.
    pub(super) plan: Plan,
    /// Conditions on the report.
    pub(super) thresholds: Vec<Threshold>,
    /// Whether as much as possible is asked for.
    pub(super) maximum_asked: bool,
    /// Seed of the keys.
    pub(super) seed: u64,
    /// The command, as the report names it.
    pub(super) command: &'static str,
}

/// Loads the targets and says what came of it.
///
/// # Errors
/// Exit 2 or 3 before the start, 3 if the device fails.
pub(super) fn run(args: &LoadArgs) -> Result<Exit> {
    args.check()?;
    if args.profile == ProfileName::SynFlood {
        return flood::run(args);
    }
    let stop = StopFlag::on_signals()?;
    let clock = MonotonicClock::start();
    let cores = setup::cores(&args.device);
    let mut plan = plan(args, cores.len() as u64)?;
    let supply = supply(args, &plan)?;
    setup::check_memory(cores.len(), args.connections.map_or(0, |held| held.0))?;
    let output = Output::open(&args.output)?;
    let (interface, devices) = setup::open(&args.device, cores.len(), false)?;
    if args.device.shared_addr.is_some() {
        let remotes: HashSet<_> = args.target.iter().map(|target| target.0.ip()).collect();
        plan.config.neighbors = setup::kernel_neighbors(&interface, &Vec::from_iter(remotes))?;
    }
    let progress = Progress::new(&args.output);
    let mut report = match &args.device.pcap {
        Some(file) => generate(setup::tap(devices, file, clock)?, &plan, &cores, clock, &stop, progress)?,
        None => generate(devices, &plan, &cores, clock, &stop, progress)?,
    };
    report.host = setup::host_facts(Some(&interface), interface.name(), &cores);
    report.config = serde_json::to_value(args).unwrap_or_default();
    report.supply = Some(SupplyReport {
        connections_max: supply.connections_max,
        time_wait_s: supply.rest.as_secs_f64(),
        rate_max_cps: supply.rate_max_cps(),
    });
    output.publish(&report)
}

fn plan(args: &LoadArgs, workers: u64) -> Result<LoadPlan> {
    let profile = match args.profile {
        ProfileName::Connect => Profile::Connect,
        ProfileName::Crr => Profile::Crr,
        ProfileName::Rr => Profile::Rr,
        ProfileName::Hold => Profile::Hold,
        ProfileName::Bulk => Profile::Bulk,
        ProfileName::Http => Profile::Http,
        ProfileName::SynFlood => return Err(Error::unexpected("a SYN flood", "makes no connections")),
    };
    let mut plan = Plan::new(profile, args.target.iter().map(|target| target.0).collect());
    plan.load = shape(args, &plan, workers);
    plan.count = args.count.map(|count| count.0);
    plan.ramp = args.ramp.unwrap_or_default().0;
    plan.duration = args.device.duration.map(|span| span.0);
    plan.hold = args.hold.map(|span| span.0).or(plan.hold);
    if args.profile == ProfileName::Hold && args.path.is_some() {
        plan.exchange = Plan::new(Profile::Http, Vec::new()).exchange;
    }
    plan.exchange = exchange(args, plan.exchange);
    if let Some(requests) = args.requests_per_connection {
        plan.requests = Some(u32::try_from(requests.0).unwrap_or(u32::MAX));
    } else if args.profile == ProfileName::Bulk && args.request_bytes.is_some() | args.response_bytes.is_some() {
        plan.requests = Some(1);
    }
    plan.request_rate = args.request_rate.map(|rate| rate.as_f64());
    plan.bitrate = args.bitrate.map(|rate| rate.0);
    plan.close = match args.close {
        CloseMode::Fin => load::Close::Fin,
        CloseMode::Rst => load::Close::Rst,
    };
    plan.first_closer = match args.first_close {
        Some(FirstClose::Server) => FirstCloser::Server,
        Some(FirstClose::Client) | None => FirstCloser::Client,
    };
    plan.digest = args.digest;
    plan.connect_timeout = args.connect_timeout.0;
    if args.profile != ProfileName::Bulk {
        plan.timeout = Some(args.timeout.0);
    }
    plan.check(workers as u32).map_err(|error| Error::usage("cannot generate this load", error, ""))?;

    let mut config = setup::engine_config(&args.device);
    config.tcp.piggyback = args.piggyback;
    let expected = args.connections.map_or(0, |held| held.0.div_ceil(workers));
    config.expected_connections = u32::try_from(expected).unwrap_or(u32::MAX).min(config.max_connections);
    Ok(LoadPlan {
        config,
        plan,
        thresholds: args.threshold.clone(),
        maximum_asked: args.rate == Some(OfferedRate::Max),
        seed: setup::seed(args.device.seed),
        command: "load",
    })
}

fn shape(args: &LoadArgs, plan: &Plan, workers: u64) -> Load {
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let per_second = match args.rate {
        Some(OfferedRate::PerSecond(rate)) => Some(rate.as_f64()),
        Some(OfferedRate::Max) | None => None,
    };
    let in_flight_max = args.max_in_flight.map(|limit| small(limit.0));
    let stays = plan.keeps() && args.requests_per_connection.is_none();
    if stays && !(args.profile == ProfileName::Bulk && args.count.is_some()) {
        let connections = args.connections.or(args.concurrency).map_or(1, |count| count.0);
        return Load::Held { connections, per_second };
    }
    match (args.rate, per_second) {
        (_, Some(per_second)) => {
            let limit = in_flight_max.unwrap_or_else(|| small(IN_FLIGHT_DEFAULT * workers));
            Load::Rate { per_second, in_flight_max: Some(limit) }
        }
        (Some(OfferedRate::Max), _) => {
            Load::Concurrency(in_flight_max.unwrap_or_else(|| small(IN_FLIGHT_AT_MAX * workers)))
        }
        _ => {
            let at_once = args.concurrency.map_or(CONCURRENCY_DEFAULT.max(workers), |count| count.0);
            Load::Concurrency(small(at_once.min(args.count.map_or(u64::MAX, |count| count.0.max(workers)))))
        }
    }
}

fn exchange(args: &LoadArgs, default: Exchange) -> Exchange {
    let response = args.response_bytes.map(|length| match length {
        ResponseLength::Octets(0) => Response::None,
        ResponseLength::Octets(octets) => Response::Octets(octets),
        ResponseLength::UntilFin => Response::UntilFin,
    });
    let request = args.request_bytes.map(|Octets(octets)| octets);
    match default {
        Exchange::Http(mut http) => {
            if let Some(path) = &args.path {
                http.path.clone_from(path);
            }
            if let Some(body) = request.filter(|octets| *octets > 0) {
                (http.method, http.body) = ("POST".into(), body);
            }
            Exchange::Http(http)
        }
        Exchange::Octets { .. } if args.profile == ProfileName::Bulk => match (request, response) {
            (None, None) => Exchange::Octets { request: u64::MAX, response: Response::None },
            (request, response) => {
                Exchange::Octets { request: request.unwrap_or(0), response: response.unwrap_or(Response::None) }
            }
        },
        Exchange::Octets { request: octets, response: length } => {
            Exchange::Octets { request: request.unwrap_or(octets), response: response.unwrap_or(length) }
        }
    }
}

/// The names of connections that the addresses and ports given make.
///
/// # Errors
/// Exit 2 if they cannot suffice.
fn supply(args: &LoadArgs, plan: &LoadPlan) -> Result<Supply> {
    let ports = &plan.config.tcp.local_ports;
    let ports = u64::from(ports.last) - u64::from(ports.first) + 1;
    let own = args.device.addr.iter().map(|addrs| (addrs.first(), addrs.count()));
    let own: Vec<_> = own.chain(args.device.shared_addr.map(|cidr| (cidr.addr(), 1))).collect();
    let first_close_given = args.first_close == Some(FirstClose::Client);
    let supply = Supply::new(&own, ports, args.device.time_wait.0, &plan.plan, first_close_given);
    let refused = |shortage: load::Shortage| Error::usage(shortage.what, shortage.why, shortage.mend);
    supply.check(&plan.plan, ports).map_err(refused)?;
    Ok(supply)
}

/// A running load generator.
pub(super) struct Generating<D: Waitable> {
    crew: Crew<D, Client, Pages>,
    collector: Collector,
    control: Arc<Control>,
    started_at: SystemTime,
}

impl<D: Waitable + Send + 'static> Generating<D>
where
    Worker<D, Client, Pages>: Send,
{
    /// Starts a client on each device.
    ///
    /// # Errors
    /// Exit 2 if the plan or the configuration cannot be.
    pub(super) fn start(
        devices: Vec<D>,
        plan: &LoadPlan,
        cores: &[Option<usize>],
        clock: MonotonicClock,
        stop: &StopFlag,
    ) -> Result<Self> {
        let refused = |error: &dyn std::fmt::Display| Error::usage("cannot generate this load", error, "");
        let secrets = setup::secrets(plan.seed);
        let control = Arc::new(Control::new(devices.len() as u32));
        let (mut workers, mut mailboxes) = (Vec::new(), Vec::new());
        for (index, (device, core)) in devices.into_iter().zip(cores).enumerate() {
            let client = Client::new(plan.plan.clone(), index as u32, Arc::clone(&control));
            let client = client.map_err(|error| refused(&error))?;
            mailboxes.push(client.mailbox());
            let worker = Worker::new(&plan.config, &secrets, device, client, Pages::new());
            workers.push((worker.map_err(|error| refused(&error))?, *core));
        }
        let offered = plan.plan.offered_cps();
        let started_at = SystemTime::now();
        setup::join(&mut workers);
        let crew = Crew::start(workers, clock, stop)?;
        let collector = Collector::new(crew.members(), mailboxes, offered);
        Ok(Self { crew, collector, control, started_at })
    }

    /// Follows the run to its end, and reports.
    ///
    /// # Errors
    /// Exit 3 if a device fails or a target's neighbour does not answer.
    pub(super) fn finish(mut self, plan: &LoadPlan, stop: &StopFlag, progress: Progress) -> Result<Generated<D>> {
        while !self.crew.wait(Duration::from_millis(50)) {
            self.collector.gather().iter().for_each(|interval| progress.interval(interval));
        }
        let partial = stop.get() != Stop::No;
        let members = self.crew.members().to_vec();
        let workers = self.crew.finish()?;
        if let Some(remote) = self.control.unreachable() {
            let mend = "check that it is up and on this link, and --gateway";
            return Err(Error::environment(format!("cannot reach {remote}"), "no neighbour answered for it", mend));
        }
        let mut report = report(self.collector.finish(), plan, partial, self.started_at);
        report.counters = collect::counters(&members);
        Ok(Generated { report, _workers: workers })
    }
}

/// What came of a load generator. Its devices stay open until this is dropped: the other end of a ring needs them.
pub(super) struct Generated<D: Waitable> {
    /// The report.
    pub(super) report: Report,
    _workers: Outcome<D, Client, Pages>,
}

fn report(collected: Collected, plan: &LoadPlan, partial: bool, started_at: SystemTime) -> Report {
    let sustain = &collected.sustain;
    let mut report = Report::new(plan.command);
    report.started_at = Some(humantime::format_rfc3339_seconds(started_at).to_string());
    report.seed = Some(plan.seed);
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
    report.phases = collected.phases;
    report.intervals = collected.intervals;
    report.held_back = Some(collected.held_back);
    report.blocks.rate.burst_max = Some(collected.burst_max);
    if collected.held_back > 0 {
        let why = "launches or requests waited for a connection to end or to be free; their wait counts from schedule";
        report.reasons.push(format!("{} {why}", collected.held_back));
    }
    if collected.left_open > 0 {
        report.reasons.push(format!("{} connections did not close in time and were given up", collected.left_open));
    }
    verdict::judge(&mut report, &plan.thresholds, &context);
    report
}

fn targets(plan: &LoadPlan, collected: &Collected) -> Vec<TargetReport> {
    let whole = [collected.sustain.measures.tally];
    let tallies = if collected.targets.is_empty() { &whole[..] } else { &collected.targets };
    let report = |(target, tally): (&SocketAddr, _)| TargetReport::new(target.to_string(), tally);
    plan.plan.targets.iter().zip(tallies).map(report).collect()
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

fn generate<D: Waitable + Send + 'static>(
    devices: Vec<D>,
    plan: &LoadPlan,
    cores: &[Option<usize>],
    clock: MonotonicClock,
    stop: &StopFlag,
    progress: Progress,
) -> Result<Report>
where
    Worker<D, Client, Pages>: Send,
{
    privilege::give_up()?;
    let generated = Generating::start(devices, plan, cores, clock, stop)?.finish(plan, stop, progress)?;
    Ok(generated.report)
}
