//! A simulated link between two hosts, in virtual time, on one thread.
//!
//! Everything follows from the configuration, the seed and the calls made: the same run gives the same octets at the
//! same nanoseconds. An end may have several queues; a frame then arrives on the queue that receive-side scaling picks.

use super::fault::Loss;
use super::path::{Passage, Path, PathConfig, PathCounters};
use super::toeplitz::Rss;
use super::{Capabilities, Device, DeviceCounters, Frame};
use crate::time::{Clock, Instant};
use core::cell::{RefCell, RefMut};
use core::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::sync::Arc;

/// Octets of an Ethernet header with two VLAN tags.
const HEADER_BYTES: u16 = 22;

/// One of the two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The first.
    A,
    /// The second.
    B,
}

impl End {
    /// The other one.
    pub const fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The hardware address of this end: locally administered, the same on all its queues.
    pub const fn mac(self) -> [u8; 6] {
        match self {
            Self::A => [0x02, 0, 0, 0, 0, 0x0a],
            Self::B => [0x02, 0, 0, 0, 0, 0x0b],
        }
    }
}

/// What a link is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Largest IP packet, octets.
    pub mtu: u16,
    /// Frame buffers, shared by both ends: those in flight and those the engines hold. All are made at the start.
    pub frames: usize,
    /// The path from A to B.
    pub a_to_b: PathConfig,
    /// The path from B to A.
    pub b_to_a: PathConfig,
}

impl Default for LinkConfig {
    /// A perfect link for packets of 1500 octets, with 4096 frames.
    fn default() -> Self {
        Self { mtu: 1500, frames: 4096, a_to_b: PathConfig::default(), b_to_a: PathConfig::default() }
    }
}

impl LinkConfig {
    /// A link whose two directions are alike.
    pub fn symmetric(path: PathConfig) -> Self {
        Self { a_to_b: path.clone(), b_to_a: path, ..Self::default() }
    }
}

/// What happened to a frame on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireEvent {
    /// The sending end put it on the wire; the octets are those that were sent.
    Sent,
    /// It will not arrive.
    Lost(Loss),
    /// The receiving end took it; the octets are those that arrived.
    Arrived,
}

/// Someone who watches the wire. Called in the midst of a transfer: it must not call the link.
pub trait WireTap {
    /// `event` happened at `at` to `frame`, which was sent by `from`. An arrival is stamped with the time it was due.
    fn observe(&mut self, at: Instant, from: End, event: WireEvent, frame: &[u8]);
}

impl<F: FnMut(Instant, End, WireEvent, &[u8])> WireTap for F {
    fn observe(&mut self, at: Instant, from: End, event: WireEvent, frame: &[u8]) {
        self(at, from, event, frame);
    }
}

/// A frame of a simulated link.
#[derive(Debug)]
pub struct LinkFrame {
    octets: Box<[u8]>,
    len: usize,
}

impl Frame for LinkFrame {
    fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..self.len]
    }

    fn capacity(&self) -> usize {
        self.octets.len()
    }

    fn resize(&mut self, len: usize) -> &mut [u8] {
        let frame = &mut self.octets[..len];
        self.len = len;
        frame
    }
}

/// A frame on the way; the heap's greatest is the one that arrives first.
struct InFlight {
    at: Instant,
    /// Breaks ties, so that frames due at the same time arrive in the order they were sent.
    number: u64,
    frame: LinkFrame,
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InFlight {}

/// The receiving side of an end, and the path that leads to it.
struct Receiver {
    path: Path,
    rss: Arc<Rss>,
    queues: Vec<BinaryHeap<InFlight>>,
}

struct Shared {
    mtu: u16,
    now: Instant,
    sent: u64,
    pool: Vec<LinkFrame>,
    at_a: Receiver,
    at_b: Receiver,
    tap: Option<Box<dyn WireTap>>,
}

impl Shared {
    fn receiver(&mut self, end: End) -> &mut Receiver {
        match end {
            End::A => &mut self.at_a,
            End::B => &mut self.at_b,
        }
    }

    fn observe(&mut self, at: Instant, from: End, event: WireEvent, frame: &[u8]) {
        if let Some(tap) = &mut self.tap {
            tap.observe(at, from, event, frame);
        }
    }

    /// Puts a frame on the wire and says what becomes of it.
    fn send(&mut self, from: End, mut frame: LinkFrame) -> Result<(), Loss> {
        let now = self.now;
        self.observe(now, from, WireEvent::Sent, frame.bytes());
        let passage = self.receiver(from.peer()).path.send(now, frame.bytes_mut());
        let (at, twice) = match passage {
            Passage::Lost(loss) => {
                self.observe(now, from, WireEvent::Lost(loss), frame.bytes());
                self.pool.push(frame);
                return Err(loss);
            }
            Passage::Arrives { at, twice } => (at, twice),
        };
        let copy = if twice { self.pool.pop() } else { None };
        if let Some(mut copy) = copy {
            copy.resize(frame.len).copy_from_slice(frame.bytes());
            self.receiver(from.peer()).path.count_duplicate();
            self.deliver_later(from.peer(), at, copy);
        }
        self.deliver_later(from.peer(), at, frame);
        Ok(())
    }

    fn deliver_later(&mut self, to: End, at: Instant, frame: LinkFrame) {
        self.sent += 1;
        let number = self.sent;
        let Receiver { rss, queues, .. } = self.receiver(to);
        let queue = if queues.len() > 1 { usize::from(rss.queue_of_frame(frame.bytes())) } else { 0 };
        queues[queue].push(InFlight { at, number, frame });
    }

    /// The next frame for a queue that is due by now.
    fn arrive(&mut self, at: End, queue: usize) -> Option<LinkFrame> {
        let now = self.now;
        let receiver = self.receiver(at);
        let due = receiver.queues[queue].peek()?.at;
        if due > now {
            return None;
        }
        let frame = receiver.queues[queue].pop()?.frame;
        receiver.path.count_arrival();
        self.observe(due, at.peer(), WireEvent::Arrived, frame.bytes());
        Some(frame)
    }
}

/// The link itself, in the hands of whoever drives the simulation: it sets the time and looks at the wire.
/// Clones are the same link. As a [`Clock`] it tells the virtual time.
#[derive(Clone)]
pub struct Link(Rc<RefCell<Shared>>);

impl Link {
    /// A link with one queue at each end. The devices are those of A and of B.
    pub fn pair(config: LinkConfig, seed: u64) -> (Self, LinkDevice, LinkDevice) {
        let link = Self::bare(config, seed, Rss::new(1), Rss::new(1));
        let (a, b) = (link.device(End::A, 0), link.device(End::B, 0));
        (link, a, b)
    }

    /// A link with as many queues at each end as its indirection table names. A device per queue, those of A and
    /// those of B.
    pub fn with_queues(config: LinkConfig, seed: u64, a: Rss, b: Rss) -> (Self, Vec<LinkDevice>, Vec<LinkDevice>) {
        let link = Self::bare(config, seed, a, b);
        let devices = |end| {
            let queues = link.shared().receiver(end).queues.len();
            (0..queues).map(|queue| link.device(end, queue)).collect()
        };
        let (a, b) = (devices(End::A), devices(End::B));
        (link, a, b)
    }

    fn bare(config: LinkConfig, seed: u64, a: Rss, b: Rss) -> Self {
        let LinkConfig { mtu, frames, a_to_b, b_to_a } = config;
        let capacity = usize::from(mtu.saturating_add(HEADER_BYTES));
        let frame = || LinkFrame { octets: vec![0; capacity].into_boxed_slice(), len: 0 };
        let receiver = |path, rss: Rss, direction| {
            let queues = 1 + usize::from(rss.table().iter().copied().max().unwrap_or(0));
            Receiver {
                path: Path::new(path, seed, direction),
                rss: Arc::new(rss),
                queues: (0..queues).map(|_| BinaryHeap::with_capacity(frames)).collect(),
            }
        };
        Self(Rc::new(RefCell::new(Shared {
            mtu,
            now: Instant::ZERO,
            sent: 0,
            pool: (0..frames).map(|_| frame()).collect(),
            at_a: receiver(b_to_a, a, 1),
            at_b: receiver(a_to_b, b, 0),
            tap: None,
        })))
    }

    /// A device on a queue: for a host that starts again after the one before it is gone. Two devices on one queue take
    /// each other's frames.
    pub fn device(&self, end: End, queue: usize) -> LinkDevice {
        let mtu = self.0.borrow().mtu;
        let rss = {
            let mut shared = self.shared();
            let receiver = shared.receiver(end);
            (receiver.queues.len() > 1).then(|| Arc::clone(&receiver.rss))
        };
        LinkDevice {
            shared: Rc::clone(&self.0),
            end,
            queue,
            capabilities: Capabilities {
                mac: end.mac(),
                mtu,
                frame_bytes_max: mtu.saturating_add(HEADER_BYTES),
                partial_checksum: false,
                rss,
            },
            counters: DeviceCounters::default(),
        }
    }

    fn shared(&self) -> RefMut<'_, Shared> {
        self.0.borrow_mut()
    }

    /// Moves the time on. It never goes back: an earlier time changes nothing.
    pub fn set_now(&self, now: Instant) {
        let mut shared = self.shared();
        shared.now = shared.now.max(now);
    }

    /// When the next frame arrives at either end, or `None` if none is on the way. May lie in the past, if a device has
    /// not taken what has arrived.
    pub fn next_event(&self) -> Option<Instant> {
        let shared = self.0.borrow();
        let queues = shared.at_a.queues.iter().chain(&shared.at_b.queues);
        queues.filter_map(|queue| queue.peek()).map(|frame| frame.at).min()
    }

    /// Changes the path that starts at `from`: for frames sent from now on.
    pub fn set_path(&self, from: End, config: PathConfig) {
        self.shared().receiver(from.peer()).path.reconfigure(config);
    }

    /// Has every frame shown to `tap` from now on; the last one set is the one that sees them.
    pub fn set_tap(&self, tap: impl WireTap + 'static) {
        self.shared().tap = Some(Box::new(tap));
    }

    /// What the path that starts at `from` has done.
    pub fn path_counters(&self, from: End) -> PathCounters {
        self.shared().receiver(from.peer()).path.counters()
    }

    /// Frames that nobody holds and that are not on the way.
    pub fn free_frames(&self) -> usize {
        self.0.borrow().pool.len()
    }
}

impl Clock for Link {
    fn now(&self) -> Instant {
        self.0.borrow().now
    }
}

/// One queue of one end of a simulated link.
///
/// A frame leaves as soon as it is transmitted; the doorbell has nothing to do. Transmission is never refused, but there
/// may be no frame to allocate. Frames lost at the bottleneck's queue count as `tx_dropped` here; what else the path
/// does to them is in [`PathCounters`].
pub struct LinkDevice {
    shared: Rc<RefCell<Shared>>,
    end: End,
    queue: usize,
    capabilities: Capabilities,
    counters: DeviceCounters,
}

impl LinkDevice {
    /// The end this queue belongs to.
    pub fn end(&self) -> End {
        self.end
    }
}

impl Device for LinkDevice {
    type Frame = LinkFrame;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {}

    fn receive(&mut self, burst: &mut Vec<LinkFrame>) -> usize {
        let mut shared = self.shared.borrow_mut();
        let before = burst.len();
        while burst.len() < burst.capacity() {
            let Some(frame) = shared.arrive(self.end, self.queue) else { break };
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += frame.len as u64;
            burst.push(frame);
        }
        burst.len() - before
    }

    fn allocate(&mut self) -> Option<LinkFrame> {
        let frame = self.shared.borrow_mut().pool.pop();
        match frame {
            Some(mut frame) => {
                frame.len = 0;
                Some(frame)
            }
            None => {
                self.counters.tx_full += 1;
                None
            }
        }
    }

    fn transmit(&mut self, frame: LinkFrame) -> Result<(), LinkFrame> {
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += frame.len as u64;
        if self.shared.borrow_mut().send(self.end, frame) == Err(Loss::QueueFull) {
            self.counters.tx_dropped += 1;
        }
        Ok(())
    }

    fn release(&mut self, frame: LinkFrame) {
        self.shared.borrow_mut().pool.push(frame);
    }

    fn doorbell(&mut self) {}

    fn counters(&self) -> DeviceCounters {
        self.counters
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
