//! `syncline bench raw`: frames through a test bed with no TCP above them.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use syncline_engine::device::{BURST, Device, DeviceCounters, Frame};
use syncline_xdp::{AddressRange, Claim, Interface, Options, XdpDevice};

use super::demo;
use super::output::Output;
use crate::bed::{Bed, BedInCare, BedName, BedSpec};
use crate::cli::bench::RawArgs;
use crate::error::{Error, Exit, Result};
use crate::report::blocks::{Traffic, ratio};
use crate::report::model::{Packets, Raw, Report, Syscalls, Verdict};
use crate::signals::{Stop, StopFlag};
use crate::{netns, privilege, setup};

/// The ends' addresses.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

/// Ethernet and IPv4 headers.
const HEADERS: usize = 14 + 20;

/// The largest frame of a link with an MTU of 1500.
const FRAME_BYTES_MAX: usize = 1_514;

/// Passes between two looks at the clock.
const LOOK_EVERY: u32 = 64;

/// Sends as many frames both ways as go through, counted where they arrive.
///
/// # Errors
/// Exit 2 for arguments that cannot be, 3 if the host lacks something.
pub(super) fn run(args: &RawArgs) -> Result<Exit> {
    let frame_bytes = usize::try_from(args.frame_bytes.0).unwrap_or(usize::MAX);
    if !(HEADERS..=FRAME_BYTES_MAX).contains(&frame_bytes) {
        let why = format!("is not {HEADERS} to {FRAME_BYTES_MAX}");
        return Err(Error::usage("--frame-bytes", why, "the smallest of Ethernet is 60 without its checksum"));
    }
    let stop = StopFlag::on_signals()?;
    let output = Output::open(&args.output)?;
    let (name, _bed) = bed(&args.name)?;
    let (a, device_a) = open(&name.netns_a(), &name.dev_a(), ENDS[0], args)?;
    let (b, device_b) = open(&name.netns_b(), &name.dev_b(), ENDS[1], args)?;
    let frame = |from: usize| template(a.mac(), b.mac(), from, frame_bytes);
    let (to_b, to_a) = (frame(0), frame(1));

    let [core_a, core_b] = demo::cores();
    let duration = args.duration.0;
    // Each end on a thread in its own namespace: what leaves by the XDP program leaves from there
    let moved = thread::scope(|scope| {
        let start = |netns: String, device, frame, core| {
            let stop = &stop;
            scope.spawn(move || {
                netns::enter(&netns)?;
                privilege::give_up()?;
                End { device, frame, core, duration, stop }.run()
            })
        };
        let ends = [start(name.netns_a(), device_a, to_b, core_a), start(name.netns_b(), device_b, to_a, core_b)];
        let powerless = privilege::give_up();
        let moved = ends.map(|end| end.join().map_err(|_| Error::unexpected("the thread of an end", "panicked")));
        powerless.map(|()| moved)
    });
    let [moved_a, moved_b] = moved?;

    let mut report = report([moved_a??, moved_b??], args, a.mode().name());
    report.partial = stop.get() != Stop::No;
    report.host = setup::host_facts(Some(&a), a.name(), &[core_a, core_b]);
    output.publish(&report)
}

/// The bed of that name, or a fresh one for the time of the measurement.
fn bed(name: &BedName) -> Result<(BedName, Option<BedInCare>)> {
    if netns::exists(&name.netns_dut()) {
        let mend = "use a bed without --via";
        return Err(Error::usage(format!("bed {name}"), "has something between its ends", mend));
    }
    if netns::exists(&name.netns_a()) {
        return Ok((name.clone(), None));
    }
    let bed = Bed::fresh(&BedSpec::default())?.in_care()?;
    Ok((bed.name().clone(), Some(bed)))
}

fn open(netns: &str, dev: &str, own: Ipv4Addr, args: &RawArgs) -> Result<(Interface, XdpDevice)> {
    let claim = Claim::Owned(vec![AddressRange::V4(own, own)]);
    let (mode, transmit) = (args.mode.into(), args.transmit.into());
    setup::open_within(netns, Options { mode, transmit, peer_is_engine: true, ..Options::new(dev, claim) })
}

/// A frame from one end to the other: IPv4 with a protocol for experiments (RFC 3692), so that no stack answers.
fn template(a: [u8; 6], b: [u8; 6], from: usize, frame_bytes: usize) -> Vec<u8> {
    let (source, destination) = if from == 0 { (a, b) } else { (b, a) };
    let mut frame = vec![0; frame_bytes];
    frame[0..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
    let total = (frame_bytes - 14) as u16;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[22] = 64;
    frame[23] = 253;
    frame[26..30].copy_from_slice(&ENDS[from].octets());
    frame[30..34].copy_from_slice(&ENDS[1 - from].octets());
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&folded.to_be_bytes());
    frame
}

/// What one end moved, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    counters: DeviceCounters,
    length: Duration,
}

struct End<'a> {
    device: XdpDevice,
    frame: Vec<u8>,
    core: Option<usize>,
    duration: Duration,
    stop: &'a StopFlag,
}

impl End<'_> {
    fn run(mut self) -> Result<Moved> {
        if let Some(id) = self.core {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        let mut burst = Vec::with_capacity(BURST);
        self.check()?;
        let began = Instant::now();
        loop {
            for _ in 0..LOOK_EVERY {
                self.device.reap();
                self.device.receive(&mut burst);
                burst.drain(..).for_each(|frame| self.device.release(frame));
                self.send();
                self.device.doorbell();
            }
            let length = began.elapsed();
            if length >= self.duration || self.stop.get() != Stop::No {
                self.check()?;
                return Ok(Moved { counters: self.device.counters(), length });
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        self.device.health().map_err(|error| Error::environment("the device failed", error, ""))
    }

    fn send(&mut self) {
        for _ in 0..BURST {
            let Some(mut frame) = self.device.allocate() else { return };
            frame.resize(self.frame.len()).copy_from_slice(&self.frame);
            if let Err(frame) = self.device.transmit(frame) {
                self.device.release(frame);
                return;
            }
        }
    }
}

fn report(moved: [Moved; 2], args: &RawArgs, mode: &str) -> Report {
    let frames_per_s: f64 =
        moved.iter().map(|moved| moved.counters.rx_frames as f64 / moved.length.as_secs_f64()).sum();
    let sum = |count: fn(&DeviceCounters) -> u64| moved.iter().map(|moved| count(&moved.counters)).sum::<u64>();
    let traffic = Traffic {
        tx_frames: sum(|counters| counters.tx_frames),
        rx_frames: sum(|counters| counters.rx_frames),
        doorbells: sum(|counters| counters.doorbells),
        ..Traffic::default()
    };
    let mut report = Report::new("bench raw");
    report.verdict = if traffic.rx_frames > 0 { Verdict::Ceiling } else { Verdict::Inconclusive };
    if traffic.rx_frames == 0 {
        report.reasons.push("no frame arrived".into());
    }
    report.raw = Some(Raw {
        frames_per_s: Some(frames_per_s),
        one_way_frames_per_s: Some(frames_per_s / 2.0),
        bits_per_s: Some(frames_per_s * args.frame_bytes.0 as f64 * 8.0),
        frame_bytes: u32::try_from(args.frame_bytes.0).ok(),
        mode: Some(mode.to_owned()),
        doorbells: Some(traffic.doorbells),
    });
    report.blocks.packets = Packets { tx: Some(traffic.tx_frames), rx: Some(traffic.rx_frames), ..Packets::default() };
    report.blocks.syscalls = Syscalls {
        doorbells: Some(traffic.doorbells),
        per_packet: ratio(traffic.doorbells, traffic.tx_frames + traffic.rx_frames),
    };
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_good_ipv4() {
        let frame = template([1; 6], [2; 6], 1, 64);
        assert_eq!((frame.len(), &frame[0..6], &frame[6..12]), (64, &[1; 6][..], &[2; 6][..]));
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!((&frame[26..30], &frame[30..34]), (&ENDS[1].octets()[..], &ENDS[0].octets()[..]));
    }
}
