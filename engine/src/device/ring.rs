//! A link between two workers on two threads of one process, with no kernel in the way.
//!
//! What crosses is bursts, not frames: a synchronised step costs the same for one frame as for [`BURST`].
//!
//! ```text
//!            crates of 1..=128 full frames                        each end owns, unshared:
//!   end A ──────────── bounded queue ────────────► end B            pool    free frames, last in first out
//!         ◄─────────── bounded queue ────────────                   crates  free crates, last in first out
//!                  crates of 0..=128 free frames: the surplus of the end that mostly receives
//! ```
//!
//! Frames and crates are made at the start and only ever move: through a queue, into a pool, to the engine and back.

use super::{BURST, Capabilities, Device, DeviceCounters, DeviceError, Frame};
use crate::prefetch::prefetch_write;
use crate::sync::{Arc, ArrayQueue};
use crossbeam::utils::CachePadded;

/// Largest frame, octets. An Ethernet frame of 1500 octets with two VLAN tags fits.
pub const FRAME_BYTES_MAX: u16 = 2048;

/// Octets of an Ethernet header with two VLAN tags.
const HEADER_BYTES: u16 = 22;

/// Shortest Ethernet frame, without FCS.
const FRAME_BYTES_MIN: u16 = 60;

/// Aligned to a cache line, and not a power of two apart: else the headers of all frames would compete for a few
/// cache sets.
#[repr(C, align(64))]
struct Buffer {
    octets: [u8; FRAME_BYTES_MAX as usize],
    _spacing: [u8; 64],
}

/// A frame of a ring. Two words, so that it moves in two registers: of three fields it would go by memory, stored in parts and
/// loaded as one, which waits for the stores.
pub struct RingFrame {
    buffer: Box<Buffer>,
    lengths: Lengths,
}

const _: () = assert!(size_of::<RingFrame>() == 16, "four handles to a cache line when a burst crosses");

impl RingFrame {
    fn new(capacity: u16) -> Self {
        let buffer = Box::new(Buffer { octets: [0; FRAME_BYTES_MAX as usize], _spacing: [0; 64] });
        Self { buffer, lengths: Lengths::empty(capacity) }
    }
}

/// How many octets a frame has, below, and how many it may have, above.
#[derive(Clone, Copy)]
struct Lengths(u64);

impl Lengths {
    fn empty(capacity: u16) -> Self {
        Self(u64::from(capacity) << 32)
    }

    #[inline(always)]
    fn len(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn capacity(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// `len` is at most the capacity.
    #[inline(always)]
    fn with_len(self, len: usize) -> Self {
        Self(self.0 >> 32 << 32 | len as u64)
    }
}

impl Frame for RingFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer.octets[..self.lengths.len()]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.octets[..self.lengths.len()]
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.lengths.capacity()
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> &mut [u8] {
        if len > self.capacity() {
            too_long(len, self.capacity());
        }
        self.lengths = self.lengths.with_len(len);
        &mut self.buffer.octets[..len]
    }
}

/// By value and apart, so that nothing of a frame has to lie in memory for the message.
#[cold]
fn too_long(len: usize, capacity: usize) -> ! {
    panic!("a frame of {len} octets in a buffer of {capacity}");
}

/// A container for a burst on its way: always of capacity [`BURST`].
type Crate = Vec<RingFrame>;

/// Cache lines of its contents.
const CRATE_LINES: usize = BURST * size_of::<RingFrame>() / 64;

/// One direction. Queue slots have cache lines of their own, or the sender filling one would take the line from the
/// receiver emptying its neighbour.
struct Lane {
    full: ArrayQueue<CachePadded<Crate>>,
    surplus: ArrayQueue<CachePadded<Crate>>,
}

/// Why a ring could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// Fewer frames than one burst at each end.
    TooFewFrames {
        /// What was asked for.
        frames: usize,
    },
    /// A frame size outside of 60 to [`FRAME_BYTES_MAX`] octets.
    FrameBytes {
        /// What was asked for.
        frame_bytes: u16,
    },
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooFewFrames { frames } => {
                write!(f, "a ring with {frames} frames at each end: give it at least {BURST}, a burst's worth")
            }
            Self::FrameBytes { frame_bytes } => write!(
                f,
                "a ring for frames of {frame_bytes} octets: choose between {FRAME_BYTES_MIN} and {FRAME_BYTES_MAX}"
            ),
        }
    }
}

impl core::error::Error for RingError {}

/// A ring with `frames` buffers at each end, for Ethernet frames of up to `frame_bytes` octets without FCS.
/// Two VLAN tags included, so that 1522 carries IP packets of 1500.
///
/// # Errors
/// If there would be less than a burst of frames, or the frame size is out of range.
pub fn pair(frames: usize, frame_bytes: u16) -> Result<(RingDevice, RingDevice), RingError> {
    if frames < BURST {
        return Err(RingError::TooFewFrames { frames });
    }
    if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes) {
        return Err(RingError::FrameBytes { frame_bytes });
    }
    // Room for all of an end's frames in half-full crates, and for a few crates however few frames there are.
    let slots = (2 * frames / BURST).max(16);
    // Beside those in the queue an end fills one and may hold one that is half emptied.
    let crates = slots + 2;
    let lane = || Arc::new(Lane { full: ArrayQueue::new(slots), surplus: ArrayQueue::new(2 * crates) });
    let (a_to_b, b_to_a) = (lane(), lane());
    let end = |last_octet, out: &Arc<Lane>, into: &Arc<Lane>| {
        let mut pool = Vec::with_capacity(2 * frames);
        pool.extend((0..frames).map(|_| RingFrame::new(frame_bytes)));
        let mut spare = Vec::with_capacity(2 * crates);
        spare.extend((0..crates).map(|_| Vec::with_capacity(BURST)));
        RingDevice {
            capabilities: Capabilities {
                mac: [0x02, 0, 0, 0, 0, last_octet],
                mtu: frame_bytes - HEADER_BYTES,
                frame_bytes_max: frame_bytes,
                partial_checksum: false,
                rss: None,
            },
            counters: DeviceCounters::default(),
            out: Arc::clone(out),
            into: Arc::clone(into),
            home_frames: frames,
            home_crates: crates,
            pool,
            spare,
            outgoing: Vec::with_capacity(BURST),
            incoming: Vec::with_capacity(BURST),
        }
    };
    Ok((end(0x0a, &a_to_b, &b_to_a), end(0x0b, &b_to_a, &a_to_b)))
}

/// One end of a ring. To be moved to the thread that polls it.
///
/// No system call is ever made: `doorbells` stays 0. Nothing is ever dropped: when the other end does not keep up,
/// [`transmit`](Device::transmit) refuses and `tx_full` counts.
pub struct RingDevice {
    capabilities: Capabilities,
    counters: DeviceCounters,
    out: Arc<Lane>,
    into: Arc<Lane>,
    /// Frames and crates this end started with; what it has beyond that is the other end's.
    home_frames: usize,
    home_crates: usize,
    pool: Vec<RingFrame>,
    spare: Vec<Crate>,
    /// The burst being collected.
    outgoing: Crate,
    /// What the engine had no room for, newest first.
    incoming: Crate,
}

impl RingDevice {
    /// Frames in this end's pool: neither on the way nor with the engine.
    pub fn free_frames(&self) -> usize {
        self.pool.len()
    }

    /// Hands the collected burst over, if there is room; else it stays.
    #[inline(never)]
    fn hand_over(&mut self) -> bool {
        if self.out.full.is_full() {
            return false;
        }
        let Some(empty) = self.spare.pop() else { return false };
        let burst = core::mem::replace(&mut self.outgoing, empty);
        // This end alone pushes, so the room just seen is still there.
        if let Err(back) = self.out.full.push(CachePadded::new(burst)) {
            let empty = core::mem::replace(&mut self.outgoing, back.into_inner());
            self.spare.push(empty);
            return false;
        }
        true
    }

    /// Sends free frames and crates home while this end has more than its own.
    fn return_surplus(&mut self) {
        loop {
            let frames = self.pool.len() >= self.home_frames + BURST;
            if !frames && self.spare.len() <= self.home_crates {
                return;
            }
            let Some(mut load) = self.spare.pop() else { return };
            if frames {
                load.extend(self.pool.drain(self.pool.len() - BURST..));
            }
            if let Err(back) = self.out.surplus.push(CachePadded::new(load)) {
                return self.unload(back.into_inner());
            }
        }
    }

    fn unload(&mut self, mut load: Crate) {
        self.pool.append(&mut load);
        self.spare.push(load);
    }
}

impl Device for RingDevice {
    type Frame = RingFrame;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {
        while let Some(load) = self.into.surplus.pop() {
            self.unload(load.into_inner());
        }
        self.return_surplus();
    }

    fn receive(&mut self, burst: &mut Vec<RingFrame>) -> usize {
        let before = burst.len();
        loop {
            let room = burst.capacity() - burst.len();
            if room >= self.incoming.len() {
                burst.extend(self.incoming.drain(..).rev());
            } else {
                let keep = self.incoming.len() - room;
                burst.extend(self.incoming.drain(keep..).rev());
            }
            if burst.len() == burst.capacity() {
                break;
            }
            let Some(arrived) = self.into.full.pop() else { break };
            let mut arrived = arrived.into_inner();
            // What it holds is read now, and soon it is filled anew
            prefetch_write::<CRATE_LINES, _>(arrived.as_ptr());
            if arrived.len() <= burst.capacity() - burst.len() {
                burst.append(&mut arrived);
            } else {
                arrived.reverse();
                core::mem::swap(&mut self.incoming, &mut arrived);
            }
            self.spare.push(arrived);
        }
        let count = burst.len() - before;
        self.counters.rx_frames += count as u64;
        self.counters.rx_bytes += burst[before..].iter().map(|frame| frame.lengths.len() as u64).sum::<u64>();
        count
    }

    #[inline(always)]
    fn allocate(&mut self) -> Option<RingFrame> {
        match self.pool.pop() {
            Some(mut frame) => {
                frame.lengths = frame.lengths.with_len(0);
                Some(frame)
            }
            None => {
                self.counters.tx_full += 1;
                None
            }
        }
    }

    #[inline(always)]
    fn transmit(&mut self, frame: RingFrame) -> Result<(), RingFrame> {
        if self.outgoing.len() == BURST && !self.hand_over() {
            self.counters.tx_full += 1;
            return Err(frame);
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += frame.lengths.len() as u64;
        self.outgoing.push(frame);
        Ok(())
    }

    #[inline]
    fn release(&mut self, frame: RingFrame) {
        self.pool.push(frame);
    }

    #[inline]
    fn release_all(&mut self, burst: &mut Vec<RingFrame>) {
        self.pool.append(burst);
    }

    fn doorbell(&mut self) {
        if !self.outgoing.is_empty() {
            self.hand_over();
        }
    }

    fn counters(&self) -> DeviceCounters {
        self.counters
    }

    fn health(&mut self) -> Result<(), DeviceError> {
        if Arc::strong_count(&self.out) < 2 {
            return Err(DeviceError("ring: the other end is gone; stop this worker too, and start both again".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
