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
use std::sync::Arc;

use syncline_engine::device::{BURST, Capabilities, Device, DeviceCounters, DeviceError, Frame};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use crate::chunks::{Chunks, Extent, XdpFrame};
use crate::live::{LIVE_FRAMES, LiveQueue};
use crate::lock::QueueLock;
use crate::program::Program;
use crate::sys::{self, InterfaceQuery};

/// Chunks the fill ring leaves for replies when the engine holds many frames.
const TRANSMIT_RESERVE: usize = 2 * BURST;
/// Frames that are worth a call of the XDP program: the call alone costs about as much as twenty of them on the ring.
const LIVE_LEAST: usize = 24;
/// While more than a burst has arrived, frames wait for others until there are this many: one call serves all.
const LIVE_HOLD: usize = LIVE_FRAMES - BURST;

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
    pub(crate) chunks: Chunks,
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
    /// Where frames in free chunks begin.
    free: Vec<usize>,
    /// Accepted for transmission, not yet on the ring.
    pending: Vec<Extent>,
    /// The other way out, for bursts.
    live: Option<LiveQueue>,
    /// The last burst that came was a full one: there is more to be done before anything has to leave.
    more_arrived: bool,
    /// Room on the TX ring beyond `pending`, a lower bound.
    tx_room: u32,
    scratch: [FrameDesc; BURST],
    /// Frames the engine has.
    frames_out: usize,
    counters: DeviceCounters,
    capabilities: Capabilities,
    zerocopy: bool,
    transmit_ring: u32,
    failure: Option<io::Error>,
    interface: String,
    interface_index: u32,
    query: InterfaceQuery,
    chunks: Chunks,
    /// Closed after the rings, where the UMEM does not do it itself.
    orphan: Option<OwnedFd>,
    _program: Arc<Program>,
    _lock: QueueLock,
}

impl XdpDevice {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut device = Self {
            rings: parts.rings,
            free: parts.chunks.addrs().collect(),
            pending: Vec::with_capacity(LIVE_FRAMES),
            live: parts.live,
            more_arrived: false,
            tx_room: 0,
            scratch: [FrameDesc::default(); BURST],
            frames_out: 0,
            counters: DeviceCounters::default(),
            capabilities: parts.capabilities,
            zerocopy: parts.zerocopy,
            transmit_ring: parts.transmit_ring,
            failure: None,
            interface: parts.interface,
            interface_index: parts.interface_index,
            query: parts.query,
            chunks: parts.chunks,
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

    /// Gives free chunks to the kernel for frames to come.
    fn refill(&mut self) {
        loop {
            let spare = self.free.len().saturating_sub(TRANSMIT_RESERVE);
            let count = (self.rings.fill.nb_free(BURST as u32) as usize).min(BURST).min(spare);
            if count == 0 {
                return;
            }
            let from = self.free.len() - count;
            for (desc, &addr) in self.scratch.iter_mut().zip(&self.free[from..]) {
                *desc = self.chunks.chunk(addr);
            }
            // SAFETY: free chunks of this UMEM; they leave the free list below, so nothing else has them.
            let given = unsafe { self.rings.fill.produce(&self.scratch[..count]) };
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
        for (at, &extent) in self.pending.iter().enumerate() {
            // SAFETY: frames of this UMEM that `transmit` consumed, so nothing else has a right to their chunks.
            let octets = unsafe { self.chunks.octets(extent) };
            longest = longest.max(octets.len());
            live.put(at, octets);
        }
        let sent = live.send(self.pending.len(), longest);
        self.counters.doorbells += 1;
        self.free.extend(self.pending.drain(..sent).map(|extent| extent.addr));
    }

    /// Gets what is pending on its way: at once, or onto the TX ring.
    fn flush(&mut self) {
        if self.leaves_live() {
            self.flush_live();
        }
        for together in self.pending.chunks(BURST) {
            let descs = &mut self.scratch[..together.len()];
            for (desc, &extent) in descs.iter_mut().zip(together) {
                // SAFETY: a frame of this UMEM that `transmit` consumed, so nothing else has a right to its chunk.
                *desc = unsafe { self.chunks.describe(extent) };
            }
            // SAFETY: frames of this UMEM that `transmit` consumed, so nothing else has a right to their chunks.
            let sent = unsafe { self.rings.tx.produce(descs) };
            if sent < together.len() {
                // `tx_room` is a lower bound, so this does not happen; were it to, no chunk is lost.
                self.counters.tx_dropped += together.len() as u64;
                self.free.extend(together.iter().map(|extent| extent.addr));
            }
        }
        self.pending.clear();
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
            self.free.extend(self.scratch[..count].iter().map(FrameDesc::addr));
            if count < BURST {
                break;
            }
        }
        self.refill();
    }

    fn receive(&mut self, burst: &mut Vec<XdpFrame>) -> usize {
        let room = (burst.capacity() - burst.len()).min(BURST);
        // SAFETY: the RX ring of the socket bound to this UMEM.
        let count = unsafe { self.rings.rx.consume(&mut self.scratch[..room]) };
        let mut octets = 0;
        for desc in &self.scratch[..count] {
            // SAFETY: off the RX ring of this UMEM's socket just now.
            let frame = unsafe { self.chunks.received(desc) };
            octets += frame.bytes().len() as u64;
            burst.push(frame);
        }
        self.frames_out += count;
        self.counters.rx_frames += count as u64;
        self.counters.rx_bytes += octets;
        self.more_arrived = count == BURST;
        count
    }

    fn allocate(&mut self) -> Option<XdpFrame> {
        let Some(addr) = self.free.pop() else {
            self.counters.tx_full += 1;
            return None;
        };
        self.frames_out += 1;
        // SAFETY: off the free list, where a chunk of this UMEM is while nothing else has a right to it.
        Some(unsafe { self.chunks.frame(addr) })
    }

    fn transmit(&mut self, frame: XdpFrame) -> Result<(), XdpFrame> {
        if self.tx_room == 0 {
            let free = self.rings.tx.nb_free((BURST + self.pending.len()) as u32);
            self.tx_room = free.saturating_sub(self.pending.len() as u32);
        }
        let Some(extent) = self.chunks.extent(&frame).filter(|_| self.tx_room > 0) else {
            self.counters.tx_full += 1;
            return Err(frame);
        };
        let together = if self.sends_live() { LIVE_FRAMES } else { BURST };
        if self.pending.len() >= together {
            self.flush();
        }
        self.pending.push(extent);
        self.tx_room -= 1;
        self.frames_out -= 1;
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += u64::from(extent.len);
        Ok(())
    }

    fn release(&mut self, frame: XdpFrame) {
        if let Some(extent) = self.chunks.extent(&frame) {
            self.frames_out -= 1;
            self.free.push(extent.addr);
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
        self.chunks.leak();
        let socket = self.rings.rx.fd().as_raw_fd();
        // SAFETY: the only socket of its UMEM, which is that UMEM's descriptor and closed with it alone; the UMEM is
        // now never deleted. The rings, which use the descriptor, are dropped before `orphan`.
        self.orphan = Some(unsafe { sys::adopt(socket) });
    }
}
