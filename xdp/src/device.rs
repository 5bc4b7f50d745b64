//! One queue of an interface as the engine's device: an AF_XDP socket, its four rings and its frame buffers.
//!
//! ```text
//!             allocate                transmit              doorbell
//!   free ─────────────▶ the engine ─────────────▶ TX ring ───────────▶ kernel
//!    ▲ │                  ▲     │                                        │
//!    │ │ reap             │     │ release                                │
//!    │ ▼                  │     ▼                                        │
//!    │ fill ring ▶ kernel ▶ RX ring          reap ◀── completion ring ◀──┘
//!    └──────────────────────────┴──────────────┘
//! ```
//!
//! A chunk of the UMEM is in exactly one of these places. A frame is that right for one chunk: it is neither `Copy`
//! nor `Clone`, so what has been handed to a ring cannot be written to any more. Bursts may leave by the XDP program
//! instead ([`live`](crate::live)): it has a copy then, and the chunk is free at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use syncline_engine::device::{Capabilities, Device, DeviceCounters, DeviceError, Frame};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use crate::live::{LIVE_FRAMES, LiveQueue};
use crate::lock::QueueLock;
use crate::program::Program;
use crate::sys::{self, InterfaceQuery};

/// Descriptors moved between a ring and us at once.
const BATCH: usize = 64;
/// Chunks the fill ring leaves for replies when the engine holds many frames.
const TRANSMIT_RESERVE: usize = 2 * BATCH;
/// Frames that are worth a call of the XDP program: the call alone costs about as much as twenty of them on the ring.
const LIVE_LEAST: usize = 24;
/// While more than a burst has arrived, frames wait for others until there are this many: one call serves all.
const LIVE_HOLD: usize = LIVE_FRAMES - BATCH;

/// A frame in a chunk of its device's UMEM.
#[derive(Debug)]
pub struct XdpFrame {
    desc: FrameDesc,
    data: NonNull<u8>,
    len: u32,
    capacity: u32,
    /// When it arrived, nanoseconds of CLOCK_MONOTONIC; 0: nobody knows.
    stamp: u64,
}

// SAFETY: a frame is the only way to its chunk's octets while it exists, and the octets belong to no thread.
unsafe impl Send for XdpFrame {}

impl Frame for XdpFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points at `capacity` octets, at least `len`, of a mapping that outlives the frame (the device
        // unmaps it only when no frame is out), zeroed when mapped and therefore initialised. This frame is the only
        // access to them (see the module).
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity as usize
    }

    #[inline]
    fn resize(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.capacity as usize, "a frame of {len} octets in a buffer of {}", self.capacity);
        self.len = len as u32;
        self.bytes_mut()
    }

    #[inline]
    fn stamp(&self) -> Option<u64> {
        (self.stamp != 0).then_some(self.stamp)
    }
}

/// `struct stamp` of the program, which it puts before a frame: a key, and the time.
type Stamp = [[u8; 8]; 2];

/// The time of a stamp, 0 if it is none. It is none then, lest it is taken for that of the next frame in the chunk.
#[inline]
fn take(stamp: &mut Stamp, key: u64) -> u64 {
    let [beside, at] = stamp.map(u64::from_ne_bytes);
    if beside != key {
        return 0;
    }
    *stamp = Stamp::default();
    at
}

/// The four rings of a queue, and the socket they belong to.
pub(crate) struct Rings {
    pub(crate) rx: RxQueue,
    pub(crate) tx: TxQueue,
    pub(crate) fill: FillQueue,
    pub(crate) completion: CompQueue,
}

/// What a queue is made of.
pub(crate) struct Parts {
    pub(crate) rings: Rings,
    pub(crate) umem: Umem,
    pub(crate) chunks: Vec<FrameDesc>,
    pub(crate) chunk_bytes: u32,
    pub(crate) stamp_key: u64,
    pub(crate) transmit_ring: u32,
    pub(crate) capabilities: Capabilities,
    pub(crate) zerocopy: bool,
    pub(crate) interface: String,
    pub(crate) interface_index: u32,
    pub(crate) query: InterfaceQuery,
    pub(crate) live: Option<LiveQueue>,
    pub(crate) program: Arc<Program>,
    pub(crate) lock: QueueLock,
}

/// One queue of an interface.
pub struct XdpDevice {
    rings: Rings,
    free: Vec<FrameDesc>,
    /// Accepted for transmission, not yet on the ring.
    pending: Vec<FrameDesc>,
    /// The other way out, for bursts.
    live: Option<LiveQueue>,
    /// The last burst that came was a full one: there is more to be done before anything has to leave.
    more_arrived: bool,
    /// Room on the TX ring beyond `pending`, a lower bound.
    tx_room: u32,
    scratch: [FrameDesc; BATCH],
    /// Frames the engine has.
    frames_out: usize,
    counters: DeviceCounters,
    capabilities: Capabilities,
    zerocopy: bool,
    transmit_ring: u32,
    umem_bytes: usize,
    chunk_bytes: u32,
    /// What tells a stamp before a frame; 0: there are none.
    stamp_key: u64,
    failure: Option<io::Error>,
    interface: String,
    interface_index: u32,
    query: InterfaceQuery,
    umem: Umem,
    /// Closed after the rings, where the UMEM does not do it itself.
    orphan: Option<OwnedFd>,
    _program: Arc<Program>,
    _lock: QueueLock,
}

impl XdpDevice {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut device = Self {
            umem_bytes: parts.chunks.len() * parts.chunk_bytes as usize,
            rings: parts.rings,
            free: parts.chunks,
            pending: Vec::with_capacity(LIVE_FRAMES),
            live: parts.live,
            more_arrived: false,
            tx_room: 0,
            scratch: [FrameDesc::default(); BATCH],
            frames_out: 0,
            counters: DeviceCounters::default(),
            capabilities: parts.capabilities,
            zerocopy: parts.zerocopy,
            transmit_ring: parts.transmit_ring,
            chunk_bytes: parts.chunk_bytes,
            stamp_key: parts.stamp_key,
            failure: None,
            interface: parts.interface,
            interface_index: parts.interface_index,
            query: parts.query,
            umem: parts.umem,
            orphan: None,
            _program: parts.program,
            _lock: parts.lock,
        };
        device.refill();
        device
    }

    /// Whether frames move between device and buffers without a copy.
    pub fn zerocopy(&self) -> bool {
        self.zerocopy
    }

    /// Whether bursts now leave by the XDP program instead of the ring: [`TransmitChoice`](crate::TransmitChoice). Looked
    /// into by [`health`](Device::health), on the thread that sends.
    pub fn sends_live(&self) -> bool {
        self.live.as_ref().is_some_and(LiveQueue::is_ready)
    }

    /// Takes the right to a chunk that came out of a ring or the free list, and makes a frame of it.
    #[inline]
    fn frame(&mut self, desc: FrameDesc) -> XdpFrame {
        let mut whole = desc;
        let capacity = {
            // SAFETY: `desc` came from this UMEM, and whoever calls this has the only right to its chunk.
            let mut data = unsafe { self.umem.data_mut(&mut whole) };
            let mut cursor = data.cursor();
            let capacity = cursor.buf_len();
            cursor.set_pos(capacity);
            capacity
        };
        // SAFETY: as above.
        let mut data = unsafe { self.umem.data_mut(&mut whole) };
        let data = NonNull::from(data.contents_mut()).cast();
        self.frames_out += 1;
        XdpFrame { desc, data, len: desc.lengths().data() as u32, capacity: capacity as u32, stamp: 0 }
    }

    /// When a received frame arrived, if the program stamped it; 0: nobody knows.
    #[inline]
    fn take_stamp(&self, frame: &XdpFrame) -> u64 {
        // The kernel leaves room before a frame; a program that moved the frame there would take it
        if self.stamp_key == 0 || frame.desc.addr() & (self.chunk_bytes as usize - 1) < size_of::<Stamp>() {
            return 0;
        }
        let before = frame.data.as_ptr().addr() - size_of::<Stamp>();
        // The room belongs to the chunk, but not to the slice that the pointer to the data was made from
        let place = std::ptr::with_exposed_provenance_mut::<Stamp>(before);
        // SAFETY: within the frame's chunk, which is mapped, was zeroed then and is ours alone while the frame is out; no
        // slice reaches there. Octets have no alignment.
        take(unsafe { &mut *place }, self.stamp_key)
    }

    /// Whether `frame` is a chunk of this device, not of another one.
    #[inline]
    fn owns(&self, frame: &XdpFrame) -> bool {
        if frame.desc.addr() >= self.umem_bytes {
            return false;
        }
        // SAFETY: the address lies within this UMEM, so its pointer can be computed; the slice is not read.
        let here = unsafe { self.umem.data(&frame.desc) };
        std::ptr::eq(here.contents().as_ptr(), frame.data.as_ptr())
    }

    /// Gives free chunks to the kernel for frames to come.
    fn refill(&mut self) {
        loop {
            let spare = self.free.len().saturating_sub(TRANSMIT_RESERVE);
            let count = (self.rings.fill.nb_free(BATCH as u32) as usize).min(BATCH).min(spare);
            if count == 0 {
                return;
            }
            let from = self.free.len() - count;
            // SAFETY: free chunks of this UMEM; they leave the free list below, so nothing else has them.
            let given = unsafe { self.rings.fill.produce(&self.free[from..]) };
            if given != count {
                return;
            }
            self.free.truncate(from);
        }
    }

    /// Whether what is pending leaves by the XDP program. Frames that are on the ring still go first: with the program the ring
    /// holds few, and those that stayed there would have all that follow take the slow way behind them.
    #[inline]
    fn leaves_live(&mut self) -> bool {
        self.pending.len() >= LIVE_LEAST && self.sends_live() && (self.ring_is_empty() || self.drain_ring())
    }

    #[inline]
    fn ring_is_empty(&mut self) -> bool {
        self.rings.tx.nb_free_exact() == self.transmit_ring
    }

    /// Has the kernel take what is on the TX ring, however many calls that needs. False if it leaves something.
    #[cold]
    fn drain_ring(&mut self) -> bool {
        let mut free = self.rings.tx.nb_free_exact();
        while free < self.transmit_ring {
            self.wake(Wakeup::Transmit);
            let before = core::mem::replace(&mut free, self.rings.tx.nb_free_exact());
            if free == before {
                return false;
            }
        }
        true
    }

    /// Sends what is pending by the XDP program. What it did not take stays pending.
    fn flush_live(&mut self) {
        let Some(live) = &mut self.live else { return };
        let mut longest = 0;
        for (at, desc) in self.pending.iter().enumerate() {
            // SAFETY: chunks of this UMEM whose frames `transmit` consumed, so nothing else writes to them.
            let data = unsafe { self.umem.data(desc) };
            let octets = data.contents();
            longest = longest.max(octets.len());
            live.put(at, octets);
        }
        let sent = live.send(self.pending.len(), longest);
        self.counters.doorbells += 1;
        self.free.extend(self.pending.drain(..sent));
    }

    /// Gets what is pending on its way: at once, or onto the TX ring.
    fn flush(&mut self) {
        if self.leaves_live() {
            self.flush_live();
        }
        if self.pending.is_empty() {
            return;
        }
        // SAFETY: chunks of this UMEM whose frames `transmit` consumed, so nothing else has them.
        let sent = unsafe { self.rings.tx.produce(&self.pending) };
        if sent == self.pending.len() {
            self.pending.clear();
            return;
        }
        // `tx_room` is a lower bound, so this does not happen; were it to, no chunk is lost.
        self.counters.tx_dropped += self.pending.len() as u64;
        self.free.append(&mut self.pending);
    }

    /// Whether the kernel must be called to move what is on the rings, and for which of them.
    fn wanted_wakeup(&mut self) -> Option<Wakeup> {
        // In copy mode the kernel always asks for wake-ups on the TX ring and never on the fill ring.
        if self.zerocopy && self.rings.fill.needs_wakeup() {
            return Some(Wakeup::Both);
        }
        (!self.ring_is_empty() && self.rings.tx.needs_wakeup()).then_some(Wakeup::Transmit)
    }

    /// Calls the kernel.
    fn wake(&mut self, wakeup: Wakeup) {
        self.counters.doorbells += 1;
        let result = match wakeup {
            Wakeup::Transmit => self.rings.tx.wakeup(),
            // One `poll` wakes both directions.
            Wakeup::Both => self.rings.rx.poll(0).map(drop),
        };
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }
}

enum Wakeup {
    Transmit,
    Both,
}

impl Device for XdpDevice {
    type Frame = XdpFrame;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {
        loop {
            // SAFETY: the completion ring of the socket bound to this UMEM.
            let count = unsafe { self.rings.completion.consume(&mut self.scratch) };
            self.free.extend_from_slice(&self.scratch[..count]);
            if count < BATCH {
                break;
            }
        }
        self.refill();
    }

    fn receive(&mut self, burst: &mut Vec<XdpFrame>) -> usize {
        let room = (burst.capacity() - burst.len()).min(BATCH);
        // SAFETY: the RX ring of the socket bound to this UMEM.
        let count = unsafe { self.rings.rx.consume(&mut self.scratch[..room]) };
        let mut octets = 0;
        for index in 0..count {
            let mut frame = self.frame(self.scratch[index]);
            frame.stamp = self.take_stamp(&frame);
            octets += u64::from(frame.len);
            burst.push(frame);
        }
        self.counters.rx_frames += count as u64;
        self.counters.rx_bytes += octets;
        self.more_arrived = count == BATCH;
        count
    }

    fn allocate(&mut self) -> Option<XdpFrame> {
        match self.free.pop() {
            Some(desc) => {
                let mut frame = self.frame(desc);
                frame.len = 0;
                Some(frame)
            }
            None => {
                self.counters.tx_full += 1;
                None
            }
        }
    }

    fn transmit(&mut self, mut frame: XdpFrame) -> Result<(), XdpFrame> {
        if self.tx_room == 0 {
            let free = self.rings.tx.nb_free((BATCH + self.pending.len()) as u32);
            self.tx_room = free.saturating_sub(self.pending.len() as u32);
        }
        if self.tx_room == 0 || !self.owns(&frame) {
            self.counters.tx_full += 1;
            return Err(frame);
        }
        let together = if self.sends_live() { LIVE_FRAMES } else { BATCH };
        if self.pending.len() >= together {
            self.flush();
        }
        frame.desc.set_options(0);
        // SAFETY: a chunk of this UMEM (`owns`), and `frame` is the only right to it.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        data.cursor().set_pos(frame.len as usize);
        self.pending.push(frame.desc);
        self.tx_room -= 1;
        self.frames_out -= 1;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += u64::from(frame.len);
        Ok(())
    }

    fn release(&mut self, frame: XdpFrame) {
        if self.owns(&frame) {
            self.frames_out -= 1;
            self.free.push(frame.desc);
        }
    }

    fn doorbell(&mut self) {
        if self.more_arrived && self.pending.len() < LIVE_HOLD && self.sends_live() {
            return;
        }
        self.flush();
        if let Some(wakeup) = self.wanted_wakeup() {
            self.wake(wakeup);
        }
    }

    /// The queue's counters. Asks the kernel for its own, a system call: not for the data path.
    fn counters(&self) -> DeviceCounters {
        let mut counters = self.counters;
        if let Ok(statistics) = self.rings.rx.fd().xdp_statistics() {
            // An empty fill ring and a frame larger than a chunk both count as `rx_dropped` in copy mode.
            counters.rx_dropped = statistics.rx_dropped() + statistics.rx_ring_full();
            counters.tx_dropped += statistics.tx_invalid_descs();
        }
        counters
    }

    fn health(&mut self) -> Result<(), DeviceError> {
        if let Some(live) = &mut self.live {
            live.check();
        }
        let interface = &self.interface;
        match self.query.is_up(self.interface_index) {
            Ok(true) => {}
            Ok(false) => {
                return Err(DeviceError(format!(
                    "{interface} went down while in use: `ip link set {interface} up`, then start again"
                )));
            }
            Err(_) => {
                return Err(DeviceError(format!(
                    "{interface} was removed while in use: create it again, then start again"
                )));
            }
        }
        match &self.failure {
            Some(error) => Err(DeviceError(format!(
                "the AF_XDP socket on {interface} does not send any more ({error}): start again"
            ))),
            None => Ok(()),
        }
    }
}

/// The socket, to wait on: readable when frames have arrived.
impl AsFd for XdpDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket stays open as long as the rings do, and these as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.rings.rx.fd().as_raw_fd()) }
    }
}

impl Drop for XdpDevice {
    fn drop(&mut self) {
        if self.frames_out == 0 {
            return;
        }
        // Frames that are still out point into the UMEM, so its mapping stays. The UMEM would close the socket when it
        // is deleted; it is not, so that falls to us, to let go of the queue.
        std::mem::forget(self.umem.clone());
        let socket = self.rings.rx.fd().as_raw_fd();
        // SAFETY: the only socket of its UMEM, which is that UMEM's descriptor and closed with it alone; the UMEM is
        // now never deleted. The rings, which use the descriptor, are dropped before `orphan`.
        self.orphan = Some(unsafe { sys::adopt(socket) });
    }
}

const _: () = assert!(size_of::<XdpFrame>() <= 56);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_once_and_by_its_key_alone() {
        let mut stamp: Stamp = [7u64.to_ne_bytes(), 1_000u64.to_ne_bytes()];
        assert_eq!([take(&mut stamp, 9), take(&mut stamp, 7), take(&mut stamp, 7)], [0, 1_000, 0]);
    }
}
