//! What a seed decides about the link, its faults and the hosts.

use core::fmt;
use core::time::Duration;

use syncline_engine::config::{CongestionControl, Ecn, TcpConfig};
use syncline_engine::device::fault::{Faults, GilbertElliott, Probability};
use syncline_engine::device::link::End;
use syncline_engine::device::path::{Bottleneck, PathConfig};
use syncline_engine::time::Instant;

use crate::chance::Chance;

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Most connections.
    pub connections: u32,
    /// Time in which they are opened and the link misbehaves.
    pub seconds: u32,
}

impl Default for Size {
    /// Some tens of milliseconds of work: for thousands of seeds.
    fn default() -> Self {
        Self { connections: 24, seconds: 10 }
    }
}

/// A part of the run with faults of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// When it begins.
    pub from: Instant,
    /// The path from A to B, and the one back.
    pub paths: [PathConfig; 2],
}

/// Everything but the connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// How large it was to be.
    pub size: Size,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Largest IP packet.
    pub mtu: u16,
    /// Frame buffers of the link.
    pub frames: usize,
    /// Connections.
    pub connections: u32,
    /// Time in which they are opened and the link misbehaves.
    pub span: Duration,
    /// The last phase is a link without faults.
    pub phases: Vec<Phase>,
    /// Who starts again, and when.
    pub restarts: Vec<(Instant, End)>,
    /// The tunables of both hosts.
    pub tcp: [TcpConfig; 2],
    /// Octets each host may buffer.
    pub buffer_bytes: u64,
    /// Scripts may abort connections.
    pub aborts: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, size: Size) -> Self {
        let mut chance = Chance::new(seed, 100);
        let span = Duration::from_millis(chance.scale(200, u64::from(size.seconds.max(1)) * 1000));
        let base = base_path(&mut chance);
        let quiet = chance.percent(10);
        let phases = phases(&mut chance, &base, span, quiet);
        let restarts = (0..if chance.percent(25) { chance.between(1, 3) } else { 0 })
            .map(|_| {
                (Instant::ZERO + span.mul_f64(chance.between(5, 100) as f64 / 100.0), chance.pick(&[End::A, End::B]))
            })
            .collect();
        let mut tcp = [tcp(&mut chance), tcp(&mut chance)];
        if chance.percent(5) {
            // old stacks: no options at all
            for tcp in &mut tcp {
                (tcp.sack, tcp.timestamps, tcp.window_scaling) = (false, false, false);
            }
        }
        Self {
            seed,
            size,
            v6: chance.percent(40),
            mtu: chance.pick(&[1500, 1500, 1500, 1280, 9000]),
            frames: chance.pick(&[64, 256, 512, 1024]),
            connections: chance.scale(1, u64::from(size.connections)) as u32,
            span,
            phases,
            restarts,
            tcp,
            buffer_bytes: chance.pick(&[512 << 10, 4 << 20, 64 << 20]),
            aborts: chance.percent(50),
        }
    }

    /// When the link stops to misbehave.
    pub fn calm(&self) -> Instant {
        self.phases.last().map_or(Instant::ZERO, |phase| phase.from)
    }
}

/// The link when nothing is wrong with it.
fn base_path(chance: &mut Chance) -> [PathConfig; 2] {
    let delay = chance.micros(10, 150_000);
    let jitter = if chance.percent(50) { delay / 2 } else { Duration::ZERO };
    let bottleneck = chance.percent(50).then(|| {
        let bits_per_s = chance.scale(1_000_000, 1_000_000_000);
        let product = (bits_per_s as f64 / 8.0 * 2.0 * delay.as_secs_f64()) as u64;
        let queue_bytes = (product * chance.between(25, 400) / 100).max(20_000);
        Bottleneck { bits_per_s, queue_bytes, ecn_mark_bytes: chance.percent(30).then_some(queue_bytes / 3) }
    });
    let path = PathConfig { bottleneck, delay, jitter, ..PathConfig::default() };
    let back = PathConfig { delay: if chance.percent(20) { delay * 2 } else { delay }, ..path.clone() };
    [path, back]
}

fn phases(chance: &mut Chance, base: &[PathConfig; 2], span: Duration, quiet: bool) -> Vec<Phase> {
    let mut phases = Vec::new();
    let count = if quiet { 0 } else { chance.between(1, 6) as u32 };
    for n in 0..count {
        let from = Instant::ZERO + span * n / count;
        let mut paths = base.clone();
        let shared = faults(chance, &base[0]);
        for (path, own) in paths.iter_mut().zip([shared.clone(), shared]) {
            // both ways alike, or each its own
            *path = if chance.percent(50) { own.over(path) } else { faults(chance, path).over(path) };
            if chance.percent(10) {
                let start = from + span / count * chance.between(0, 100) as u32 / 100;
                path.black_holes.push(start..start + chance.micros(10_000, 20_000_000));
            }
        }
        phases.push(Phase { from, paths });
    }
    let last =
        phases.iter().flat_map(|phase| &phase.paths).flat_map(|path| &path.black_holes).map(|hole| hole.end).max();
    let calm = last.unwrap_or(Instant::ZERO).max(Instant::ZERO + span);
    phases.push(Phase { from: if quiet { Instant::ZERO } else { calm }, paths: base.clone() });
    phases
}

/// What a phase changes of a path.
#[derive(Clone)]
struct Changes {
    faults: Faults,
    reorder_delay: Duration,
    delay: Option<Duration>,
}

impl Changes {
    fn over(self, path: &PathConfig) -> PathConfig {
        PathConfig {
            faults: self.faults,
            reorder_delay: self.reorder_delay,
            delay: self.delay.unwrap_or(path.delay),
            ..path.clone()
        }
    }
}

fn faults(chance: &mut Chance, base: &PathConfig) -> Changes {
    let mut often = |percent: u64, tenths: u64| {
        if chance.percent(percent) {
            Probability::ppm(chance.scale(1, tenths) as u32 * 1000)
        } else {
            Probability::NEVER
        }
    };
    let (loss, reorder, duplicate, corrupt) = (often(50, 200), often(40, 250), often(30, 100), often(25, 60));
    let burst_loss = chance.percent(25).then(|| GilbertElliott {
        enter: Probability::ppm(chance.scale(1_000, 50_000) as u32),
        leave: Probability::percent(chance.between(5, 60) as u32),
        loss_good: Probability::NEVER,
        loss_bad: Probability::percent(chance.between(30, 100) as u32),
    });
    let frame_bytes_max = chance.percent(5).then(|| chance.between(600, 1400) as usize);
    Changes {
        faults: Faults { loss, burst_loss, duplicate, corrupt, reorder, frame_bytes_max },
        reorder_delay: chance.micros(10, 2 * base.delay.as_micros() as u64 + 100),
        delay: chance.percent(25).then(|| chance.micros(10, 200_000)),
    }
}

fn tcp(chance: &mut Chance) -> TcpConfig {
    let receive_window = chance.scale(4096, 1 << 20) as u32;
    TcpConfig {
        receive_window,
        receive_buffer: receive_window,
        send_buffer: chance.scale(2048, 256 << 10) as u32,
        window_scaling: chance.percent(90),
        timestamps: chance.percent(80),
        sack: chance.percent(80),
        ecn: chance.pick(&[Ecn::Off, Ecn::Accept, Ecn::On]),
        ack_delay: Duration::from_millis(chance.pick(&[0, 40, 40, 200])),
        nagle: chance.percent(30),
        piggyback: chance.percent(30),
        initial_window_segments: chance.pick(&[1, 3, 10, 10]),
        congestion: chance.pick(&[CongestionControl::Cubic, CongestionControl::Cubic, CongestionControl::NewReno]),
        time_wait: Duration::from_secs(chance.pick(&[0, 1, 5, 60])),
        ..TcpConfig::default()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        writeln!(
            f,
            "seed {}: {family}, MTU {}, {} frames, {} connections in {:?}, buffers {} KiB, aborts {}",
            self.seed,
            self.mtu,
            self.frames,
            self.connections,
            self.span,
            self.buffer_bytes >> 10,
            self.aborts
        )?;
        for (name, tcp) in ["A", "B"].iter().zip(&self.tcp) {
            writeln!(
                f,
                "  {name}: window {}, send buffer {}, scaling {}, timestamps {}, SACK {}, ECN {:?}, ACK delay {:?}, \
                 Nagle {}, {:?}, TIME-WAIT {:?}",
                tcp.receive_window,
                tcp.send_buffer,
                tcp.window_scaling,
                tcp.timestamps,
                tcp.sack,
                tcp.ecn,
                tcp.ack_delay,
                tcp.nagle,
                tcp.congestion,
                tcp.time_wait
            )?;
        }
        for phase in &self.phases {
            for (way, path) in ["A to B", "B to A"].iter().zip(&phase.paths) {
                writeln!(f, "  {:>9} µs {way}: {path:?}", phase.from.micros())?;
            }
        }
        for (at, end) in &self.restarts {
            writeln!(f, "  {:>9} µs: {end:?} starts again", at.micros())?;
        }
        Ok(())
    }
}
