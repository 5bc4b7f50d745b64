//! `syncline serve`.

use std::sync::Arc;
use std::time::{Duration, Instant as SystemInstant, SystemTime};

use syncline_engine::config::{Config, Listener, SynCookies as CookieMode};
use syncline_engine::stats::Stats;
use syncline_engine::worker::Worker;

use super::ladders;
use super::output::Output;
use super::print;
use super::sampler::{self, Sampler};
use super::watch::Watch;
use crate::apps::{Delay, ServeApp, Server, ServerCounters};
use crate::cli::ServeArgs;
use crate::cli::serve::{ServerApp, SynCookieMode};
use crate::error::{Error, Exit, Result};
use crate::live::{Facts, Pace};
use crate::report::blocks::{Detail, Levels, Span, Traffic};
use crate::report::model::{Report, SynCache, SynCookies, Verdict};
use crate::run::aside::step_aside;
use crate::run::collect::{self, traffic, worker_report_since_start};
use crate::run::{Crew, Idling, Member, MonotonicClock, Waitable};
use crate::say::say;
use crate::setup::{Pages, Seed};
use crate::signals::{Stop, StopFlag};
use crate::watch::account::Teller;
use crate::watch::{self as single, Book, Ledger, SharedWatch};
use crate::{host, privilege, setup};

/// What a server needs to know beside its device.
pub(super) struct ServerPlan {
    /// The engine's configuration, listeners included.
    pub(super) config: Config,
    /// What answers on each listener.
    pub(super) apps: Vec<ServeApp>,
    /// How long the answers of `respond` are put off.
    pub(super) delay: Option<Delay>,
    /// Seed of the keys.
    pub(super) seed: Seed,
    /// What a worker does without work.
    pub(super) idling: Idling,
}

/// Serves until interrupted, or for `--duration`.
///
/// # Errors
/// Exit 2 or 3 before the start, 3 if the device fails.
pub(super) fn run(args: &ServeArgs) -> Result<Exit> {
    args.check()?;
    let stop = StopFlag::on_signals()?;
    let clock = MonotonicClock::start();
    let cores = setup::cores(&args.device);
    let plan = plan(args, cores.len())?;
    let connections = args.max_connections.map_or(0, |limit| limit.0);
    setup::check_memory(cores.len(), connections)?;
    if connections > 0 {
        let mib = setup::memory_bytes(cores.len(), connections) >> 20;
        say(format_args!("up to {connections} connections, in at most {mib} MiB"));
    }
    let output = Output::open(&args.output)?;
    let mut watch = Watch::new(&args.output, &cores, "serve")?.lines_if_asked(&args.output);
    let (interface, devices) = setup::open(&args.device, cores.len(), false)?;
    let host_facts = setup::host_facts(Some(&interface), interface.name(), &cores);

    let trace = args.device.trace as usize;
    let single = |_| {
        let ledger = args.server_report.is_some().then(Ledger::default);
        SharedWatch::new(single::Watch::new((trace > 0).then(|| Book::new(trace)), None, ledger))
    };
    let watching = trace > 0 || args.server_report.is_some();
    let watches: Vec<_> = (0..if watching { cores.len() } else { 0 }).map(single).collect();
    let teller = args.server_report.as_deref().map(|path| Teller::open(path, watches.clone())).transpose()?;
    let mut report = if watching || args.device.pcap.is_some() {
        let devices = setup::watch(devices, args.device.pcap.as_deref(), &watches, clock)?;
        serve(devices, &plan, &cores, clock, &stop, args, &mut watch)?
    } else {
        serve(devices, &plan, &cores, clock, &stop, args, &mut watch)?
    };
    drop(watch);
    teller.map(Teller::finish).transpose()?;
    ladders::show(&watches, trace);
    report.host = host_facts;
    report.seed = Some(plan.seed.value());
    report.config = serde_json::to_value(args).unwrap_or_default();
    output.publish(&report)
}

fn plan(args: &ServeArgs, workers: usize) -> Result<ServerPlan> {
    let listeners = args.listeners()?;
    let syn_cookies = match args.syn_cookies {
        SynCookieMode::Auto => CookieMode::Auto,
        SynCookieMode::Always => CookieMode::Always,
        SynCookieMode::Never => CookieMode::Never,
    };
    let mut config = setup::engine_config(&args.device);
    config.listeners = listeners
        .iter()
        .map(|(ports, _)| Listener { first_port: ports.first(), last_port: ports.last(), syn_cookies })
        .collect();
    config.tcp.stall_timeout = Some(args.stall_timeout.0).filter(|limit| !limit.is_zero());
    if let Some(limit) = args.max_connections {
        let each = limit.0.div_ceil(workers as u64);
        config.max_connections = u32::try_from(each).unwrap_or(u32::MAX);
    }
    let app = |app: ServerApp| match app {
        ServerApp::Echo => ServeApp::Echo,
        ServerApp::Discard => ServeApp::Discard,
        ServerApp::Daytime => ServeApp::Daytime,
        ServerApp::Chargen => ServeApp::Chargen,
        ServerApp::Respond => {
            ServeApp::Respond { request_bytes: args.request_bytes.0, response_bytes: args.response_bytes.0 }
        }
        ServerApp::Http => ServeApp::Http { response_bytes: args.response_bytes.0 },
    };
    let apps = listeners.into_iter().map(|(_, name)| app(name)).collect();
    let delay = args.delay.map(|range| Delay { from: range.from.0, to: range.to.0 });
    let (seed, idling) = (Seed::new(args.device.seed), setup::idling(&args.device));
    Ok(ServerPlan { config, apps, delay, seed, idling })
}

/// Running servers.
pub(super) struct Serving<D: Waitable> {
    crew: Crew<D, Server, Pages>,
    members: Vec<Member>,
    counters: Vec<Arc<ServerCounters>>,
    since: SystemInstant,
    started_at: SystemTime,
    /// The most SYN-RECEIVED records of a worker.
    half_open_max: u64,
}

impl<D: Waitable + Send + 'static> Serving<D>
where
    Worker<D, Server, Pages>: Send,
{
    /// Starts a server on each device.
    ///
    /// # Errors
    /// Exit 2 if the configuration cannot be.
    pub(super) fn start(
        devices: Vec<D>,
        plan: &ServerPlan,
        cores: &[Option<usize>],
        clock: MonotonicClock,
        stop: &StopFlag,
    ) -> Result<Self> {
        let secrets = plan.seed.secrets(clock);
        let (mut workers, mut counters) = (Vec::new(), Vec::new());
        for (device, core) in devices.into_iter().zip(cores) {
            let refused = |error: &dyn std::fmt::Display| Error::usage("cannot serve", error, "");
            let mut server = Server::new(&plan.apps, clock.wall_at_origin()).map_err(|error| refused(&error))?;
            if let Some(delay) = plan.delay {
                server = server.with_delay(delay, plan.seed.value() ^ counters.len() as u64);
            }
            counters.push(server.counters());
            let worker = Worker::new(&plan.config, &secrets, device, server, Pages::with_thread());
            workers.push((worker.map_err(|error| refused(&error))?, *core));
        }
        setup::join(&mut workers);
        let crew = Crew::start(workers, clock, stop, plan.idling)?;
        let members = crew.members().to_vec();
        let half_open_max = plan.config.max_syn_received.into();
        let (since, started_at) = (SystemInstant::now(), SystemTime::now());
        Ok(Self { crew, members, counters, since, started_at, half_open_max })
    }

    /// Waits at most `timeout` for the servers' end. True when it has come.
    pub(super) fn wait(&mut self, timeout: Duration) -> bool {
        self.crew.wait(timeout)
    }

    /// Waits for the end, and reports.
    ///
    /// # Errors
    /// Those of the workers.
    pub(super) fn finish(self, command: &str) -> Result<Report> {
        let Self { crew, members, counters, since, started_at, half_open_max } = self;
        let rss = host::rss_bytes();
        let levels_before = levels(&members, rss);
        crew.finish()?;
        let mut report = Report::new(command);
        report.started_at = Some(humantime::format_rfc3339_millis(started_at).to_string());
        let span = span(&members, &counters, since.elapsed(), levels_before);
        report.blocks = span.blocks(Detail::Full);
        report.verdict = Verdict::Valid;
        let sum = |count: fn(&Stats) -> u64| Some(members.iter().map(|member| count(&member.stats)).sum());
        report.syn_cookies = Some(SynCookies {
            sent: sum(|stats| stats.syn_cookies_sent.get()),
            accepted: sum(|stats| stats.syn_cookies_accepted.get()),
            rejected: sum(|stats| stats.syn_cookies_rejected.get()),
        });
        report.syn_cache = Some(SynCache {
            entries: sum(|stats| stats.syn_received_now.get()),
            limit: Some(half_open_max * members.len() as u64),
            evicted: sum(|stats| stats.syn_received_evicted.get()),
            expired: sum(|stats| stats.syn_received_expired.get()),
        });
        report.counters = collect::counters(&members);
        Ok(report)
    }
}

fn levels(members: &[Member], rss_bytes: Option<u64>) -> Levels {
    let sum = |count: fn(&Stats) -> u64| members.iter().map(|member| count(&member.stats)).sum();
    Levels {
        open: sum(|stats| stats.connections.get()),
        time_wait: sum(|stats| stats.time_wait_now.get()),
        flow_table_bytes: members.iter().map(|member| member.gauges.table_bytes()).sum(),
        rss_bytes,
        ..Levels::default()
    }
}

fn span(members: &[Member], counters: &[Arc<ServerCounters>], length: Duration, before: Levels) -> Span {
    let mut span = Span { length, ..Span::default() };
    for member in members {
        let moved: Traffic = traffic(&member.stats, &member.gauges.read());
        span.traffic.add(&moved);
        span.workers.push(worker_report_since_start(member, length));
    }
    span.measures.tally = sampler::tally(members, counters);
    let now = levels(members, before.rss_bytes);
    span.levels = Levels { flow_table_bytes: before.flow_table_bytes, ..now };
    span
}

/// How often the end, the clock and the keys are looked for.
const TURN: Duration = Duration::from_millis(100);

/// What a view is headed with.
fn facts(args: &ServeArgs) -> Facts {
    let apps: Vec<_> = args.listeners().unwrap_or_default();
    let apps: Vec<_> = apps.iter().map(|(ports, app)| format!("{app:?} on {ports}").to_lowercase()).collect();
    let pace = args.device.duration.map_or(Pace::Endless, |span| Pace::Time(span.0));
    Facts { title: format!("serve {}", apps.join(", ")), pace, ..Facts::default() }
}

fn serve<D: Waitable + Send + 'static>(
    devices: Vec<D>,
    plan: &ServerPlan,
    cores: &[Option<usize>],
    clock: MonotonicClock,
    stop: &StopFlag,
    args: &ServeArgs,
    watch: &mut Watch,
) -> Result<Report>
where
    Worker<D, Server, Pages>: Send,
{
    privilege::give_up()?;
    let mut serving = Serving::start(devices, plan, cores, clock, stop)?;
    if args.output.stdout_is_taken() {
        say("ready");
    } else {
        print("ready\n")?;
    }
    let end = args.device.duration.map(|span| SystemInstant::now() + span.0);
    let mut partial = true;
    if let Some(metrics) = watch.metrics() {
        metrics.follow(&serving.members);
        metrics.follow_servers(&serving.counters);
    }
    watch.begin(facts(args));
    step_aside(watch.cores());
    let (begun, mut sampler) = (SystemInstant::now(), Sampler::new(&serving.members, &serving.counters));
    while !serving.wait(Duration::ZERO) {
        if let Some(interval) = sampler.interval() {
            watch.interval(&interval);
        }
        watch.turn(Some(begun.elapsed()), stop, TURN);
        if stop.get() == Stop::No && end.is_some_and(|end| SystemInstant::now() >= end) {
            partial = false;
            stop.raise(Stop::Drain);
        }
    }
    Ok(Report { partial, ..serving.finish("serve")? })
}
