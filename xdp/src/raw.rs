//! What the bare device path carries: two devices, one thread each, frames as fast as they go, counted where they
//! arrive. The ceiling for everything that runs on top.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use syncline_engine::device::{BURST, Device, DeviceCounters, DeviceError, Frame};

/// Bursts taken in per loop at most: a receiver that only keeps pace with its own sending loses what came meanwhile.
const RECEIVE_BURSTS_MAX: usize = 4;
/// Ethernet and IPv4 headers.
const HEADERS_BYTES: usize = 34;
/// How long frames of a former run may take to arrive.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a running thread asks whether its device is still there.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// Who sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directions {
    /// Both ends at once.
    #[default]
    Both,
    /// The first end only.
    OneWay,
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct RawOptions {
    /// How long frames are counted.
    pub duration: Duration,
    /// Octets per frame, without FCS; at least 60.
    pub frame_bytes: u16,
    /// Who sends.
    pub directions: Directions,
    /// The addresses the two ends own: what the XDP program lets through.
    pub addresses: [Ipv4Addr; 2],
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RawReport {
    /// How long frames were counted, seconds.
    pub seconds: f64,
    /// Frames per second that arrived, all directions together.
    pub frames_per_s: f64,
    /// Frames per second that arrived at the second end, and at the first.
    pub one_way_frames_per_s: [f64; 2],
    /// Bits of frames per second that arrived, without FCS, preamble and gap.
    pub bits_per_s: f64,
    /// Octets per frame.
    pub frame_bytes: u16,
    /// Frames sent.
    pub sent: u64,
    /// Frames that had come for an end and found no room.
    pub dropped: u64,
    /// Calls to have frames moved, both ends.
    pub doorbells: u64,
}

/// Drives both devices, each on a thread of its own that calls `pin` with its number first, for the duration.
///
/// # Errors
/// The first device that stops working ends the run.
pub fn run<D: Device + Send>(
    ends: [&mut D; 2],
    options: &RawOptions,
    pin: impl Fn(usize) + Sync,
) -> Result<RawReport, DeviceError> {
    let frame_bytes = options.frame_bytes.max(60);
    let [first, second] = ends;
    let macs = [first.capabilities().mac, second.capabilities().mac];
    let smallest = first.capabilities().frame_bytes_max.min(second.capabilities().frame_bytes_max);
    if frame_bytes > smallest {
        return Err(DeviceError(format!("frames of {frame_bytes} octets do not fit buffers of {smallest}: use less")));
    }
    let template = |from: usize| {
        let to = 1 - from;
        template(macs[from], macs[to], options.addresses[from], options.addresses[to], frame_bytes)
    };
    let sends = [true, options.directions == Directions::Both];
    let templates = [template(0), template(1)];
    let shared = Shared { start: Barrier::new(2), stop: AtomicBool::new(false), failure: RwLock::new(None) };

    let tallies = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, device) in [&mut *first, &mut *second].into_iter().enumerate() {
            let (shared, pin) = (&shared, &pin);
            let template = sends[index].then_some(templates[index].as_slice());
            threads.push(scope.spawn(move || {
                pin(index);
                settle(device);
                shared.start.wait();
                drive(device, template, options.duration, shared)
            }));
        }
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(report(&tallies, frame_bytes))
}

/// What one end saw.
#[derive(Default)]
struct Tally {
    before: DeviceCounters,
    after: DeviceCounters,
    seconds: f64,
}

struct Shared {
    start: Barrier,
    stop: AtomicBool,
    failure: RwLock<Option<DeviceError>>,
}

/// Takes in what a former run left on its way.
fn settle<D: Device>(device: &mut D) {
    let start = Instant::now();
    let mut burst = Vec::with_capacity(BURST);
    while start.elapsed() < SETTLE {
        device.reap();
        device.receive(&mut burst);
        burst.drain(..).for_each(|frame| device.release(frame));
        device.doorbell();
    }
}

/// Sends and receives until the time is up.
fn drive<D: Device>(device: &mut D, template: Option<&[u8]>, duration: Duration, shared: &Shared) -> Tally {
    let before = device.counters();
    let start = Instant::now();
    let mut checked = start;
    let mut burst = Vec::with_capacity(BURST);
    loop {
        device.reap();
        for _ in 0..RECEIVE_BURSTS_MAX {
            let count = device.receive(&mut burst);
            burst.drain(..).for_each(|frame| device.release(frame));
            if count < BURST {
                break;
            }
        }
        if let Some(template) = template {
            send_burst(device, template);
        }
        device.doorbell();
        let now = Instant::now();
        if now - checked > HEALTH_INTERVAL {
            checked = now;
            if let Err(error) = device.health() {
                shared.failure.write().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
        if now - start >= duration || shared.stop.load(Ordering::Relaxed) {
            return Tally { before, after: device.counters(), seconds: (now - start).as_secs_f64() };
        }
    }
}

fn send_burst<D: Device>(device: &mut D, template: &[u8]) {
    for _ in 0..BURST {
        let Some(mut frame) = device.allocate() else { return };
        frame.resize(template.len()).copy_from_slice(template);
        if let Err(frame) = device.transmit(frame) {
            device.release(frame);
            return;
        }
    }
}

fn report(tallies: &[Tally], frame_bytes: u16) -> RawReport {
    let sum = |field: fn(&DeviceCounters) -> u64| -> u64 {
        tallies.iter().map(|tally| field(&tally.after).saturating_sub(field(&tally.before))).sum()
    };
    let arrived = |end: usize| {
        tallies.get(end).map_or(0.0, |tally| {
            (tally.after.rx_frames - tally.before.rx_frames) as f64 / tally.seconds.max(f64::MIN_POSITIVE)
        })
    };
    let seconds = tallies.iter().map(|tally| tally.seconds).fold(0.0, f64::max);
    let frames_per_s = arrived(0) + arrived(1);
    RawReport {
        seconds,
        frames_per_s,
        one_way_frames_per_s: [arrived(1), arrived(0)],
        bits_per_s: frames_per_s * f64::from(frame_bytes) * 8.0,
        frame_bytes,
        sent: sum(|counters| counters.tx_frames),
        dropped: sum(|counters| counters.rx_dropped),
        doorbells: sum(|counters| counters.doorbells),
    }
}

/// An IPv4 packet of protocol 253, kept for experiments (RFC 3692, RFC 4727), in an Ethernet frame.
fn template(from_mac: [u8; 6], to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, frame_bytes: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(frame_bytes.into());
    frame.extend_from_slice(&to_mac);
    frame.extend_from_slice(&from_mac);
    frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame.extend_from_slice(&(frame_bytes - 14).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 253, 0, 0]);
    frame.extend_from_slice(&from.octets());
    frame.extend_from_slice(&to.octets());
    let sum: u32 =
        frame[14..HEADERS_BYTES].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.resize(frame_bytes.into(), 0);
    frame
}
