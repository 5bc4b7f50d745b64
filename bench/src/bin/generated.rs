//! One or more workers against peers that do not exist (`syncline_bench::generated`): opens connections as fast as they
//! go, holds them, lets some of them exchange a request, then opens and closes others beside them. Every answer passes the
//! engine's parser. How long each pass of the loop took is measured from the first connection on.
//!
//! ```text
//!  generated --connections 20000000 --churn 5 [--workers 2]
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
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
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

/// Passes of the loop, by their length in nanoseconds.
struct Passes {
    wall: Histogram<u64>,
    processor: Histogram<u64>,
}

impl Passes {
    fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Ok(Self { wall: histogram()?, processor: histogram()? })
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
        let secrets = Secrets { table: [11, 12], isn: [13, 14], ports: [15, 16] };
        let worker = Worker::new(&config, &secrets, Generated::new(false), app, MappedPages::with_thread())?;
        Ok(Self { worker, clock })
    }

    /// Passes until `done`; each is timed if there is somewhere to put the times. Returns how long it took.
    fn run(&mut self, mut passes: Option<&mut Passes>, done: impl Fn(&Generator) -> bool) -> anyhow::Result<Duration> {
        let start = SystemInstant::now();
        let mut moved = start;
        while !done(self.worker.app()) {
            let (wall, processor) = (SystemInstant::now(), thread_nanos());
            let activity = self.worker.poll(&self.clock);
            let wall_end = SystemInstant::now();
            if let Some(passes) = &mut passes {
                passes.processor.saturating_record(thread_nanos() - processor);
                passes.wall.saturating_record((wall_end - wall).as_nanos() as u64);
            }
            if !activity.is_idle() {
                moved = wall_end;
            }
            ensure!(wall_end - moved < PATIENCE, "nothing happened for {PATIENCE:?}");
        }
        Ok(start.elapsed())
    }

    /// Opens, asks, churns.
    fn all(mut self, arguments: &Arguments, together: &Barrier) -> anyhow::Result<Outcome> {
        let mut passes = Passes::new()?;
        together.wait();
        let opening = self.run(Some(&mut passes), |app| app.established == app.wanted)?;
        self.worker.app_mut().task = Task::Ask;
        self.run(None, |app| u64::from(app.slot) >= app.wanted && app.answered == app.asked)?;
        let table_bytes = self.worker.table_bytes();

        let end = SystemInstant::now() + Duration::from_secs_f64(arguments.churn);
        self.worker.app_mut().task = Task::Churn;
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
            opened: app.wanted,
            opening,
            asked: app.asked,
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
    opened: u64,
    opening: Duration,
    asked: u64,
    passed: u64,
    churning: Duration,
    table_bytes: u64,
    rss_bytes: Option<u64>,
    wrong_core: u64,
}

/// The line that is written. Times are in microseconds.
#[derive(Serialize)]
struct Report {
    workers: usize,
    connections: u64,
    open_seconds: f64,
    open_cps: f64,
    requests_answered: u64,
    churn_cps: f64,
    table_bytes_per_connection: f64,
    rss_bytes: Option<u64>,
    wrong_core: u64,
    poll_wall_us: Quantiles,
    poll_processor_us: Quantiles,
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

/// Octets of memory this process has.
fn rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.workers > 0, "--workers 0: give at least one");
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
        all.wall.add(&outcome.passes.wall)?;
        all.processor.add(&outcome.passes.processor)?;
    }
    let sum = |what: fn(&Outcome) -> f64| outcomes.iter().map(what).sum::<f64>();
    let connections = sum(|outcome| outcome.opened as f64);
    let report = Report {
        workers: arguments.workers,
        connections: connections as u64,
        open_seconds: outcomes.iter().map(|outcome| outcome.opening.as_secs_f64()).fold(0.0, f64::max),
        open_cps: sum(|outcome| outcome.opened as f64 / outcome.opening.as_secs_f64()),
        requests_answered: sum(|outcome| outcome.asked as f64) as u64,
        churn_cps: sum(|outcome| outcome.passed as f64 / outcome.churning.as_secs_f64()),
        table_bytes_per_connection: sum(|outcome| outcome.table_bytes as f64) / connections.max(1.0),
        rss_bytes,
        wrong_core: sum(|outcome| outcome.wrong_core as f64) as u64,
        poll_wall_us: Quantiles::of(&all.wall),
        poll_processor_us: Quantiles::of(&all.processor),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
