//! One or more workers against peers that do not exist (`syncline_bench::generated`): opens connections as fast as they
//! go, holds them, lets some of them exchange a request, leaves them idle for a while, then opens and closes others beside
//! them. Every answer passes the engine's parser. How long each pass of the loop took is measured from the first connection
//! on.
//!
//! ```text
//!  generated --connections 20000000 --churn 5 [--workers 2] [--keepalive 60 --idle 61]
//! ```
//!
//! Writes one line of JSON.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant as SystemInstant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use core_affinity::CoreId;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use syncline_bench::control::{Control, Pauses};
use syncline_bench::generated::{Generated, THEIRS};
use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{AddressRange, Config};
use syncline_engine::handover::Exchange;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::{Clock, Instant};
use syncline_engine::worker::Worker;
use syncline_xdp::pages::MappedPages;

/// Where held connections go, and where those that come and go do.
const HELD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 80);
const PASSING: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1)), 81);
/// The first of our addresses.
const FIRST: u32 = u32::from_be_bytes([10, 0, 0, 1]);
/// Ports that one address has towards one remote.
const PORTS: u64 = 64_512;
/// Octets of a request and of its answer.
const OCTETS: u32 = 64;
/// Of the held connections one in so many exchanges a request, when it opens and once all are open.
const SAMPLE: u64 = 100;
/// Connections that come and go, at a time, on each worker.
const AT_ONCE: u32 = 256;
/// Handshakes and requests under way at a time: their answers wait in a device's buffers until a burst has room for them.
const UNDER_WAY: u64 = 512;
/// Parcels on the way between two workers.
const PARCELS: usize = 4_096;
/// Passes of each worker that are told of one by one.
const LONGEST: usize = 10;
/// How long each part of the control takes.
const CONTROL: Duration = Duration::from_secs(1);
/// Acknowledgements that were put off have been sent by then.
const SETTLE: Duration = Duration::from_millis(500);
/// The longest sleep of an idle worker.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// So long nothing may come of a pass before the run is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens, holds and lets pass connections, with peers that do not exist.
#[derive(Parser)]
struct Arguments {
    /// Connections to hold, all workers together.
    #[arg(long, default_value_t = 1_000_000)]
    connections: u64,
    /// Seconds of opening and closing others beside them.
    #[arg(long, default_value_t = 5.0)]
    churn: f64,
    /// Workers, one to a core.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Connections opened in one pass of the loop, at most. What a pass takes grows with it.
    #[arg(long, default_value_t = 16)]
    burst: u32,
    /// The same, of those that come and go.
    #[arg(long, default_value_t = 64)]
    churn_burst: u32,
    /// Seconds in which nothing is asked of those that are held.
    #[arg(long, default_value_t = 0.0)]
    idle: f64,
    /// Seconds of silence after which an idle connection is probed; 0: never.
    #[arg(long, default_value_t = 0.0)]
    keepalive: f64,
    /// Seconds for which each worker's thread is watched before it begins: what holds it up when all it does is to read and
    /// write memory.
    #[arg(long, default_value_t = 0.0)]
    pauses: f64,
    /// Seconds of TIME-WAIT of those that come and go.
    #[arg(long, default_value_t = 1.0)]
    time_wait: f64,
}

/// What the application is about.
#[derive(Clone, Copy, PartialEq)]
enum Task {
    Open,
    Ask,
    Churn,
    Rest,
}

/// Keeps what it opened, or opens and closes.
struct Generator {
    task: Task,
    burst: u32,
    wanted: u64,
    opened: u64,
    established: u64,
    asked: u64,
    answered: u64,
    in_flight: u32,
    passed: u64,
    failed: u64,
    /// The next slot to be asked.
    slot: u32,
}

/// Words of connections.
const KEPT: u64 = 0;
const PASSES: u64 = 1;

impl App for Generator {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        if conn.word() == PASSES {
            conn.send(0, OCTETS);
            return;
        }
        self.established += 1;
        if self.established.is_multiple_of(SAMPLE) {
            self.asked += u64::from(conn.send(0, OCTETS));
        }
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let good = data.len() == OCTETS as usize && data.iter().all(|&octet| octet == b'x');
        self.failed += u64::from(!good);
        if conn.word() == PASSES {
            conn.close();
        } else {
            self.answered += u64::from(good);
        }
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, word: u64, end: End, _: Instant) {
        if word == PASSES && end == End::Closed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        self.in_flight -= u32::from(word == PASSES);
    }

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'q');
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        match self.task {
            Task::Open => {
                let under_way = self.opened - self.established;
                let room = (UNDER_WAY - under_way).min(self.burst.into()).min(net.room() as u64);
                let wanted = (self.wanted - self.opened).min(room);
                for _ in 0..wanted {
                    if net.connect(HELD, KEPT).is_err() {
                        break;
                    }
                    self.opened += 1;
                }
            }
            Task::Ask => {
                let mut left = u64::from(self.burst).min(UNDER_WAY.saturating_sub(self.asked - self.answered));
                while left > 0 && u64::from(self.slot) < self.wanted {
                    if let Some(mut conn) = net.conn(ConnId(self.slot)) {
                        self.asked += u64::from(conn.send(0, OCTETS));
                        left -= 1;
                    }
                    self.slot += SAMPLE as u32;
                }
            }
            Task::Churn => {
                let mut wanted = self.burst.min(AT_ONCE - self.in_flight).min(net.room() as u32);
                while wanted > 0 && net.connect(PASSING, PASSES).is_ok() {
                    self.in_flight += 1;
                    wanted -= 1;
                }
            }
            Task::Rest => {}
        }
    }
}

/// The host's monotonic time.
#[derive(Clone, Copy)]
struct SystemClock(SystemInstant);

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

fn thread_nanos() -> u64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as u64 * 1_000_000_000 + spent.tv_nsec as u64
}

/// What a thread has used so far.
#[derive(Clone, Copy)]
struct Used {
    processor_nanos: u64,
    page_faults: u64,
    preempted: u64,
}

impl Used {
    fn now() -> anyhow::Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        Ok(Self {
            processor_nanos: thread_nanos(),
            page_faults: (usage.minor_page_faults() + usage.major_page_faults()) as u64,
            preempted: usage.involuntary_context_switches() as u64,
        })
    }
}

/// A pass of the loop that took long, and what happened meanwhile.
#[derive(Clone, Copy, Serialize)]
struct Pass {
    processor_us: f64,
    wall_us: f64,
    /// Connections open after it.
    connections: u64,
    received: usize,
    /// Octets that tables and records took more after it than before.
    grown_bytes: i64,
    page_faults: u64,
    preempted: u64,
}

/// Passes of the loop, by their length in nanoseconds.
struct Passes {
    wall: Histogram<u64>,
    processor: Histogram<u64>,
    /// Those that took most of the processor's time, the longest first.
    longest: Vec<Pass>,
}

impl Passes {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Self { wall: histogram()?, processor: histogram()?, longest: Vec::with_capacity(LONGEST + 1) })
    }

    fn record(&mut self, pass: Pass) {
        self.wall.saturating_record((pass.wall_us * 1e3) as u64);
        self.processor.saturating_record((pass.processor_us * 1e3) as u64);
        self.keep(pass);
    }

    fn keep(&mut self, pass: Pass) {
        let at = self.longest.partition_point(|other| other.processor_us >= pass.processor_us);
        if at < LONGEST {
            self.longest.insert(at, pass);
            self.longest.truncate(LONGEST);
        }
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.wall.add(&other.wall)?;
        self.processor.add(&other.processor)?;
        other.longest.iter().for_each(|&pass| self.keep(pass));
        Ok(())
    }
}

/// A worker and the time its passes take.
struct Bench {
    worker: Worker<Generated, Generator, MappedPages>,
    clock: SystemClock,
}

impl Bench {
    fn new(arguments: &Arguments, clock: SystemClock) -> anyhow::Result<Self> {
        let wanted = arguments.connections / arguments.workers as u64;
        // Those that pass need pairs of their own until TIME-WAIT is over, towards their own remote.
        let addresses = (arguments.connections.div_ceil(PORTS) + 64).min(65_536);
        let range = |address: u32| IpAddr::V4(Ipv4Addr::from_bits(address));
        let mut config = Config {
            addresses: vec![AddressRange {
                first: range(FIRST),
                last: range(FIRST + addresses as u32 - 1),
                prefix_len: 8,
            }],
            neighbors: vec![(HELD.ip(), THEIRS)],
            max_connections: u32::try_from(wanted + 100_000).context("too many connections for a worker")?,
            ..Config::default()
        };
        config.tcp.time_wait = Duration::from_secs_f64(arguments.time_wait);
        config.tcp.piggyback = true;
        config.tcp.keepalive = (arguments.keepalive > 0.0).then(|| Duration::from_secs_f64(arguments.keepalive));
        let app = Generator {
            task: Task::Open,
            burst: arguments.burst,
            wanted,
            opened: 0,
            established: 0,
            asked: 0,
            answered: 0,
            in_flight: 0,
            passed: 0,
            failed: 0,
            slot: 0,
        };
        let secrets = Secrets::new([11, 12], [13, 14], [15, 16]);
        let worker = Worker::new(&config, &secrets, Generated::new(false), app, MappedPages::with_thread())?;
        Ok(Self { worker, clock })
    }

    /// Passes until `done`; each is timed if there is somewhere to put the times. Returns how long it took.
    fn run(&mut self, mut passes: Option<&mut Passes>, done: impl Fn(&Generator) -> bool) -> anyhow::Result<Duration> {
        let start = SystemInstant::now();
        let mut moved = start;
        let (mut before, mut bytes) = (Used::now()?, self.worker.table_bytes());
        while !done(self.worker.app()) {
            let wall = SystemInstant::now();
            let activity = self.worker.poll(&self.clock);
            let wall_end = SystemInstant::now();
            if let Some(passes) = &mut passes {
                let (after, grown) = (Used::now()?, self.worker.table_bytes());
                passes.record(Pass {
                    processor_us: (after.processor_nanos - before.processor_nanos) as f64 / 1e3,
                    wall_us: (wall_end - wall).as_nanos() as f64 / 1e3,
                    connections: self.worker.app().established,
                    received: activity.received,
                    grown_bytes: grown as i64 - bytes as i64,
                    page_faults: after.page_faults - before.page_faults,
                    preempted: after.preempted - before.preempted,
                });
                (before, bytes) = (after, grown);
            }
            if !activity.is_idle() {
                moved = wall_end;
            }
            ensure!(wall_end - moved < PATIENCE, "nothing happened for {PATIENCE:?}");
        }
        Ok(start.elapsed())
    }

    /// Lets the connections be for `seconds`, and sleeps while nothing is due, as a driver does.
    fn idle(&mut self, seconds: f64) -> anyhow::Result<Option<Idle>> {
        if seconds <= 0.0 {
            return Ok(None);
        }
        self.worker.app_mut().task = Task::Rest;
        let settled = SystemInstant::now() + SETTLE;
        self.run(None, |_| SystemInstant::now() >= settled)?;
        self.worker.device_mut().answer_probes(true);
        let (start, before) = (SystemInstant::now(), thread_nanos());
        let (mut second, mut second_nanos, mut busiest) = (start, before, 0.0f64);
        while start.elapsed().as_secs_f64() < seconds {
            if self.worker.poll(&self.clock).is_idle() {
                let until = self.worker.next_deadline().map_or(SLEEP_MAX, |deadline| deadline.since(self.clock.now()));
                if !until.is_zero() {
                    thread::sleep(until.min(SLEEP_MAX));
                }
            }
            if second.elapsed() >= Duration::from_secs(1) {
                busiest = busiest.max((thread_nanos() - second_nanos) as f64 / second.elapsed().as_nanos() as f64);
                (second, second_nanos) = (SystemInstant::now(), thread_nanos());
            }
        }
        let busy_ratio = (thread_nanos() - before) as f64 / start.elapsed().as_nanos() as f64;
        self.worker.device_mut().answer_probes(false);
        Ok(Some(Idle { busy_ratio, busiest_second_ratio: busiest, probes: self.worker.stats().keepalive_probes.get() }))
    }

    /// Opens, asks, is idle, churns.
    fn all(mut self, arguments: &Arguments, together: &Barrier) -> anyhow::Result<Outcome> {
        let mut passes = Passes::new()?;
        let pauses = Pauses::watch(Duration::from_secs_f64(arguments.pauses), thread_nanos);
        together.wait();
        let opening = self.run(Some(&mut passes), |app| app.established == app.wanted)?;
        self.worker.app_mut().task = Task::Ask;
        self.run(None, |app| u64::from(app.slot) >= app.wanted && app.answered == app.asked)?;
        let table_bytes = self.worker.table_bytes();
        let idle = self.idle(arguments.idle)?;

        let end = SystemInstant::now() + Duration::from_secs_f64(arguments.churn);
        self.worker.app_mut().task = Task::Churn;
        self.worker.app_mut().burst = arguments.churn_burst;
        together.wait();
        let churning = self.run(None, |_| SystemInstant::now() >= end)?;
        let passed = self.worker.app().passed;
        self.worker.app_mut().task = Task::Rest;
        self.run(None, |app| app.in_flight == 0)?;
        let stats = self.worker.stats();
        let app = self.worker.app();
        if app.failed > 0 || stats.segments_retransmitted.get() > 0 {
            bail!("{} connections failed, {} segments sent again", app.failed, stats.segments_retransmitted.get());
        }
        ensure!(self.worker.held().connections as u64 == app.wanted, "some of the held connections are gone");
        Ok(Outcome {
            passes,
            pauses,
            opened: app.wanted,
            opening,
            asked: app.asked,
            idle,
            passed,
            churning,
            table_bytes,
            // While everything is still held.
            rss_bytes: rss_bytes(),
            wrong_core: stats.wrong_core.get(),
        })
    }
}

/// What came of one worker.
struct Outcome {
    passes: Passes,
    pauses: Pauses,
    opened: u64,
    opening: Duration,
    asked: u64,
    idle: Option<Idle>,
    passed: u64,
    churning: Duration,
    table_bytes: u64,
    rss_bytes: Option<u64>,
    wrong_core: u64,
}

/// What connections cost that nobody talks on.
#[derive(Clone, Copy, Serialize)]
struct Idle {
    /// The thread's time, as a share of the time that passed.
    busy_ratio: f64,
    busiest_second_ratio: f64,
    /// Keep-alive probes sent, all of them answered.
    probes: u64,
}

/// The line that is written. Times are in microseconds.
#[derive(Serialize)]
struct Report {
    workers: usize,
    connections: u64,
    open_seconds: f64,
    open_cps: f64,
    requests_answered: u64,
    idle: Vec<Idle>,
    churn_cps: f64,
    table_bytes_per_connection: f64,
    rss_bytes: Option<u64>,
    wrong_core: u64,
    poll_wall_us: Quantiles,
    poll_processor_us: Quantiles,
    /// The passes that took most of the processor's time.
    longest: Vec<Pass>,
    /// How long the same threads were held up, by the same clock, when all they did was to read and write memory.
    pauses: Vec<Pauses>,
    /// What this machine makes of as many threads that share nothing.
    control: Option<Control>,
}

#[derive(Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    count: u64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: us(0.5),
            p99: us(0.99),
            p99_9: us(0.999),
            max: histogram.max() as f64 / 1e3,
            count: histogram.len(),
        }
    }
}

/// Octets of memory this process has. The kernel counts reserved huge pages apart; here they belong to it.
fn rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let octets = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some(octets("VmRSS:")? + octets("HugetlbPages:").unwrap_or(0))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.workers > 0, "--workers 0: give at least one");
    let control = (arguments.workers > 1).then(|| Control::measure(arguments.workers, CONTROL));
    let clock = SystemClock(SystemInstant::now());
    let mut benches =
        (0..arguments.workers).map(|_| Bench::new(&arguments, clock)).collect::<anyhow::Result<Vec<_>>>()?;
    if benches.len() > 1 {
        let places = Exchange::among(benches.len(), PARCELS, 1_522, None);
        benches.iter_mut().zip(places).for_each(|(bench, place)| bench.worker.join(place));
    }
    let together = Barrier::new(benches.len());
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = benches
            .into_iter()
            .enumerate()
            .map(|(id, bench)| {
                let (arguments, together) = (&arguments, &together);
                scope.spawn(move || {
                    core_affinity::set_for_current(CoreId { id });
                    let outcome = bench.all(arguments, together);
                    if let Err(error) = &outcome {
                        // The others would wait for this one for ever.
                        eprintln!("generated: worker {id}: {error:#}");
                        std::process::exit(1);
                    }
                    outcome
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker panicked")).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let rss_bytes = outcomes.iter().filter_map(|outcome| outcome.rss_bytes).max();
    let mut all = Passes::new()?;
    for outcome in &outcomes {
        all.add(&outcome.passes)?;
    }
    let sum = |what: fn(&Outcome) -> f64| outcomes.iter().map(what).sum::<f64>();
    let connections = sum(|outcome| outcome.opened as f64);
    let report = Report {
        workers: arguments.workers,
        connections: connections as u64,
        open_seconds: outcomes.iter().map(|outcome| outcome.opening.as_secs_f64()).fold(0.0, f64::max),
        open_cps: sum(|outcome| outcome.opened as f64 / outcome.opening.as_secs_f64()),
        requests_answered: sum(|outcome| outcome.asked as f64) as u64,
        idle: outcomes.iter().filter_map(|outcome| outcome.idle).collect(),
        churn_cps: sum(|outcome| outcome.passed as f64 / outcome.churning.as_secs_f64()),
        table_bytes_per_connection: sum(|outcome| outcome.table_bytes as f64) / connections.max(1.0),
        rss_bytes,
        wrong_core: sum(|outcome| outcome.wrong_core as f64) as u64,
        poll_wall_us: Quantiles::of(&all.wall),
        poll_processor_us: Quantiles::of(&all.processor),
        longest: all.longest,
        pauses: outcomes.iter().map(|outcome| outcome.pauses).collect(),
        control,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
