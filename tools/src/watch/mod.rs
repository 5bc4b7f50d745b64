//! What a run remembers of single connections beside its sums: ladders of the first ones, frames of the failed and the
//! slow ones, an account of every one to be held against the other end's.
//!
//! A [`Watched`] device shows every frame to its worker's [`Watch`]; the load generator tells the same watch which
//! connection failed or was slow. Both run on the worker's thread: the lock between them is never waited for, except by
//! who reads the account while the worker runs. A run that watches nothing has no such device and pays nothing.

pub mod account;
pub mod book;
pub mod flight;
pub mod ledger;
pub mod reconcile;

use std::fmt;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use syncline_engine::app::Endpoints;
use syncline_engine::device::pcap::PcapWriter;
use syncline_engine::device::{Capabilities, Device, DeviceCounters, DeviceError, Frame};
use syncline_engine::tcp::State;
use syncline_engine::time::{Clock as _, Instant};

use crate::measure::Failure;
use crate::run::{MonotonicClock, Waitable};
use crate::trace::capture::Packet;
use crate::trace::decode::{Segment, decode};

pub use account::Account;
pub use book::Book;
pub use flight::Flight;
pub use ledger::Ledger;

/// LINKTYPE_ETHERNET.
const ETHERNET: i32 = 1;

/// A frame that passes a watched device.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// Unix time, nanoseconds.
    pub at_ns: u64,
    /// Whether the engine sent it.
    pub out: bool,
    /// The ends, seen from here.
    pub ends: Endpoints,
    /// The segment.
    pub segment: &'a Segment,
    /// The whole frame.
    pub octets: &'a [u8],
}

/// What one worker watches.
#[derive(Debug, Default)]
pub struct Watch {
    /// Ladders of the first connections.
    pub book: Option<Book>,
    /// Frames of failed and slow connections.
    pub flight: Option<Flight>,
    /// An account of every connection.
    pub ledger: Option<Ledger>,
    /// Connections that the generator could not open.
    pub local_failures: u64,
    /// The ends of the generator's connections, by slot.
    ends: Vec<Option<Endpoints>>,
}

impl Watch {
    /// With what is given; nothing else is watched.
    pub fn new(book: Option<Book>, flight: Option<Flight>, ledger: Option<Ledger>) -> Self {
        Self { book, flight, ledger, ..Self::default() }
    }

    fn frame(&mut self, at_ns: u64, out: bool, octets: &[u8]) {
        let Ok(segment) = decode(Packet { at_ns, link_type: ETHERNET, octets, len: octets.len() as u32 }) else {
            return;
        };
        let (local, remote) = if out { (segment.from, segment.to) } else { (segment.to, segment.from) };
        let passing = Passing { at_ns, out, ends: Endpoints { local, remote }, segment: &segment, octets };
        if let Some(book) = &mut self.book {
            book.frame(&passing);
        }
        if let Some(flight) = &mut self.flight {
            flight.frame(&passing);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.frame(&passing);
        }
    }

    /// The generator opened a connection, whose SYN is still to leave.
    pub fn opened(&mut self, slot: u32, ends: Endpoints) {
        let slot = slot as usize;
        if self.ends.len() <= slot {
            self.ends.resize(slot + 1, None);
        }
        self.ends[slot] = Some(ends);
        if let Some(flight) = &mut self.flight {
            flight.opened(ends);
        }
    }

    fn ends(&self, slot: u32) -> Option<Endpoints> {
        self.ends.get(slot as usize).copied().flatten()
    }

    /// A stage of a connection took so long.
    pub fn took(&mut self, slot: u32, stage: &'static str, micros: u32) {
        if let (Some(ends), Some(flight)) = (self.ends(slot), &mut self.flight) {
            flight.took(ends, stage, micros);
        }
    }

    /// A connection failed, as the report counts it.
    pub fn failed(&mut self, slot: u32, cause: Failure) {
        let Some(ends) = self.ends(slot) else { return };
        if let Some(flight) = &mut self.flight {
            flight.failed(ends, cause);
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.failed(ends, cause);
        }
    }

    /// A connection is over.
    pub fn ended(&mut self, slot: u32) {
        let Some(ends) = self.ends.get_mut(slot as usize).and_then(Option::take) else { return };
        if let Some(flight) = &mut self.flight {
            flight.ended(ends);
        }
    }
}

/// A [`Watch`] and those who share it.
#[derive(Clone, Debug, Default)]
pub struct SharedWatch(Arc<Mutex<Watch>>);

impl SharedWatch {
    /// To be shared by a device, an application and whoever reports.
    pub fn new(watch: Watch) -> Self {
        Self(Arc::new(Mutex::new(watch)))
    }

    /// The watch. Whoever holds it keeps its worker waiting.
    pub fn lock(&self) -> MutexGuard<'_, Watch> {
        // What a thread that panicked has left is still an account.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device whose frames are captured to a file, or shown to a [`Watch`], or both.
pub struct Watched<D: Device> {
    device: D,
    clock: MonotonicClock,
    /// Unix time of the clock's origin, nanoseconds.
    origin_ns: u64,
    pcap: Option<PcapWriter<File>>,
    watch: Option<SharedWatch>,
    /// The watch keeps a book.
    book: bool,
    /// When the frame that was recorded last passed.
    recorded: Instant,
    /// A frame on its way out: the device takes it away before it is known whether it leaves.
    leaving: Vec<u8>,
    asked: Vec<Endpoints>,
}

impl<D: Device> fmt::Debug for Watched<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl<D: Device> Watched<D> {
    /// Shows what passes `device` to `pcap` and `watch`, stamped by `clock`.
    pub fn new(device: D, clock: MonotonicClock, pcap: Option<PcapWriter<File>>, watch: Option<SharedWatch>) -> Self {
        let origin = clock.wall_at_origin().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let leaving = Vec::with_capacity(usize::from(device.capabilities().frame_bytes_max));
        let book = watch.as_ref().is_some_and(|watch| watch.lock().book.is_some());
        let (origin_ns, recorded, asked) = (origin.as_nanos() as u64, Instant::ZERO, Vec::new());
        Self { device, clock, origin_ns, pcap, watch, book, recorded, leaving, asked }
    }
}

impl<D: Device> Device for Watched<D> {
    type Frame = D::Frame;

    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn reap(&mut self) {
        self.device.reap();
    }

    fn receive(&mut self, burst: &mut Vec<D::Frame>) -> usize {
        let before = burst.len();
        let count = self.device.receive(burst);
        if count > 0 {
            let now = self.clock.now();
            let mut watch = self.watch.as_ref().map(SharedWatch::lock);
            for frame in &burst[before..] {
                // As it arrived, but in the order of what is recorded.
                let at = frame.stamp().and_then(|nanos| self.clock.at(nanos)).unwrap_or(now);
                self.recorded = at.max(self.recorded).min(now);
                if let Some(pcap) = &mut self.pcap {
                    pcap.record(self.recorded, frame.bytes());
                }
                if let Some(watch) = &mut watch {
                    watch.frame(self.origin_ns + self.recorded.nanos(), false, frame.bytes());
                }
            }
        }
        count
    }

    fn allocate(&mut self) -> Option<D::Frame> {
        self.device.allocate()
    }

    fn transmit(&mut self, frame: D::Frame) -> Result<(), D::Frame> {
        self.leaving.clear();
        self.leaving.extend_from_slice(frame.bytes());
        self.device.transmit(frame)?;
        let now = self.clock.now();
        self.recorded = now;
        if let Some(pcap) = &mut self.pcap {
            pcap.record(now, &self.leaving);
        }
        if let Some(watch) = &self.watch {
            watch.lock().frame(self.origin_ns + now.nanos(), true, &self.leaving);
        }
        Ok(())
    }

    fn release(&mut self, frame: D::Frame) {
        self.device.release(frame);
    }

    fn doorbell(&mut self) {
        self.device.doorbell();
    }

    fn counters(&self) -> DeviceCounters {
        self.device.counters()
    }

    /// Also brings the capture up to date: this is not the data path.
    fn health(&mut self) -> Result<(), DeviceError> {
        if let Some(pcap) = &mut self.pcap {
            pcap.flush();
        }
        if let Some(watch) = &self.watch
            && let Some(ledger) = &mut watch.lock().ledger
        {
            ledger.device = self.device.counters();
        }
        self.device.health()
    }
}

impl<D: Waitable> Waitable for Watched<D> {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.device.readable()
    }

    fn asks_for_states(&mut self) -> &[Endpoints] {
        self.asked.clear();
        if let Some(watch) = self.watch.as_ref().filter(|_| self.book)
            && let Some(book) = &mut watch.lock().book
        {
            book.asks(&mut self.asked);
        }
        &self.asked
    }

    fn tell_state(&mut self, number: usize, state: State) {
        if let Some(watch) = &self.watch
            && let Some(book) = &mut watch.lock().book
        {
            book.tell(self.asked[number], state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use syncline_engine::device::pcap::PcapConfig;
    use syncline_engine::device::ring;

    use super::*;

    #[test]
    fn a_capture_holds_what_left_and_what_came_and_nothing_that_was_refused() {
        let file = std::env::temp_dir().join(format!("watched-{}.pcap", std::process::id()));
        let writer = PcapWriter::new(File::create(&file).unwrap(), PcapConfig::default());
        let (a, mut b) = ring::pair(256, 1522).unwrap();
        let mut watched = Watched::new(a, MonotonicClock::start(), Some(writer), None);
        let mut refused = 0;
        while let Some(mut frame) = watched.allocate() {
            frame.resize(60);
            if let Err(frame) = watched.transmit(frame) {
                watched.release(frame);
                refused += 1;
                if refused == 3 {
                    break;
                }
            }
            watched.doorbell();
        }
        assert_eq!(refused, 3);
        let mut burst = Vec::with_capacity(64);
        assert!(b.receive(&mut burst) > 0);
        b.transmit(burst.pop().unwrap()).ok().unwrap();
        b.doorbell();
        let mut back = Vec::with_capacity(64);
        assert_eq!(watched.receive(&mut back), 1);
        watched.health().unwrap();
        let records = (fs::metadata(&file).unwrap().len() - 24) / (16 + 60);
        fs::remove_file(&file).unwrap();
        assert_eq!(records, watched.counters().tx_frames + 1);
    }
}
