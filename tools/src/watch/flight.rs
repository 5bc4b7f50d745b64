//! The flight recorder: frames of the connections that failed first and of those that were slowest, and of no others.
//!
//! Which connection will fail is known when it has. So the frames of every connection that is open are kept, cut to
//! their headers, in a pool of fixed size; a connection that ends well gives its place back. A connection that finds no
//! place, and frames in the midst of a long one, are not recorded, and are counted.

use std::collections::{HashMap, VecDeque};

use syncline_engine::app::Endpoints;

use super::Passing;
use crate::measure::Failure;

/// Connections recorded at a time, by one worker.
const RECORDINGS: usize = 8_192;

/// Frames kept from a connection's beginning, and as many from its end.
const HALF: usize = 12;

/// Octets kept of a frame: Ethernet with a VLAN tag, IPv6 and TCP with all options come to 118.
const SNAP: usize = 128;

/// A frame, cut.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Unix time, nanoseconds.
    pub at_ns: u64,
    /// Octets on the wire.
    pub len: u32,
    snapped: u8,
    octets: [u8; SNAP],
}

impl Kept {
    /// What was kept of the frame.
    pub fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.snapped)]
    }
}

/// Why a recording is in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The connection failed.
    Failed(Failure),
    /// This stage of it took so many microseconds.
    Slow(&'static str, u32),
}

/// What is known of one connection.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The two ends.
    pub ends: Endpoints,
    /// Why it was kept.
    pub why: Option<Why>,
    /// Frames that fell out between the first and the last ones.
    pub missed: u64,
    /// Whether the connection is still there.
    live: bool,
    first: Vec<Kept>,
    last: VecDeque<Kept>,
}

impl Recording {
    /// The frames, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = &Kept> {
        self.first.iter().chain(&self.last)
    }

    fn add(&mut self, passing: &Passing<'_>) {
        let mut kept = Kept { at_ns: passing.at_ns, len: passing.octets.len() as u32, snapped: 0, octets: [0; SNAP] };
        let snapped = passing.octets.len().min(SNAP);
        kept.snapped = snapped as u8;
        kept.octets[..snapped].copy_from_slice(&passing.octets[..snapped]);
        if self.first.len() < HALF {
            return self.first.push(kept);
        }
        if self.last.len() == HALF {
            self.last.pop_front();
            self.missed += 1;
        }
        self.last.push_back(kept);
    }

    fn begin(&mut self, ends: Endpoints) {
        (self.ends, self.why, self.missed, self.live) = (ends, None, 0, true);
        self.first.clear();
        self.last.clear();
    }
}

/// The recorder of one worker.
#[derive(Debug)]
pub struct Flight {
    wanted: usize,
    pool: Vec<Recording>,
    places: HashMap<Endpoints, u32>,
    /// Recordings of connections that are over, oldest first: their last frames may still come.
    over: VecDeque<u32>,
    failed: Vec<u32>,
    /// Slowest last.
    slow: Vec<(u32, u32)>,
    /// Connections that failed.
    pub failed_seen: u64,
    /// Connections that were not recorded for want of a place.
    pub unrecorded: u64,
    /// Of these, those that failed while there was room for another failed one.
    pub failed_unrecorded: u64,
}

impl Flight {
    /// For the first `wanted` failed connections and the `wanted` slowest.
    pub fn new(wanted: usize) -> Self {
        Self {
            wanted,
            pool: Vec::new(),
            places: HashMap::with_capacity(RECORDINGS),
            over: VecDeque::with_capacity(RECORDINGS),
            failed: Vec::new(),
            slow: Vec::new(),
            failed_seen: 0,
            unrecorded: 0,
            failed_unrecorded: 0,
        }
    }

    pub(super) fn frame(&mut self, passing: &Passing<'_>) {
        if let Some(&place) = self.places.get(&passing.ends) {
            self.pool[place as usize].add(passing);
        }
    }

    pub(super) fn opened(&mut self, ends: Endpoints) {
        if let Some(&place) = self.places.get(&ends) {
            let recording = &mut self.pool[place as usize];
            if recording.why.is_none() {
                // The last connection between these ends is over, or its end would have been told.
                return recording.begin(ends);
            }
            // That one is kept; this one has a place of its own.
            self.places.remove(&ends);
        }
        let Some(place) = self.place() else {
            self.unrecorded += 1;
            return;
        };
        self.pool[place as usize].begin(ends);
        self.places.insert(ends, place);
    }

    /// A place for another recording.
    fn place(&mut self) -> Option<u32> {
        // What is kept is beyond the pool's size, so that it takes no room away.
        if self.pool.len() < RECORDINGS + 2 * self.wanted + 1 {
            self.pool.push(Recording {
                ends: Endpoints { local: ([0, 0, 0, 0], 0).into(), remote: ([0, 0, 0, 0], 0).into() },
                why: None,
                missed: 0,
                live: false,
                first: Vec::with_capacity(HALF),
                last: VecDeque::new(),
            });
            return Some(self.pool.len() as u32 - 1);
        }
        while let Some(place) = self.over.pop_front() {
            let recording = &self.pool[place as usize];
            if recording.why.is_none() && !recording.live {
                if self.places.get(&recording.ends) == Some(&place) {
                    self.places.remove(&recording.ends);
                }
                return Some(place);
            }
        }
        None
    }

    pub(super) fn failed(&mut self, ends: Endpoints, cause: Failure) {
        self.failed_seen += 1;
        if self.failed.len() == self.wanted {
            return;
        }
        let Some(&place) = self.places.get(&ends) else {
            self.failed_unrecorded += 1;
            return;
        };
        self.slow.retain(|(_, slow)| *slow != place);
        self.pool[place as usize].why = Some(Why::Failed(cause));
        self.failed.push(place);
    }

    pub(super) fn took(&mut self, ends: Endpoints, stage: &'static str, micros: u32) {
        if self.slow.len() == self.wanted && self.slow.first().is_none_or(|(least, _)| micros <= *least) {
            return;
        }
        let Some(&place) = self.places.get(&ends) else { return };
        if self.slow.iter().any(|(longest, slow)| *slow == place && *longest >= micros) || self.failed.contains(&place)
        {
            return;
        }
        self.slow.retain(|(_, slow)| *slow != place);
        if self.slow.len() == self.wanted {
            let (_, displaced) = self.slow.remove(0);
            self.pool[displaced as usize].why = None;
            if !self.pool[displaced as usize].live {
                self.over.push_back(displaced);
            }
        }
        self.pool[place as usize].why = Some(Why::Slow(stage, micros));
        let at = self.slow.partition_point(|(longest, _)| *longest < micros);
        self.slow.insert(at, (micros, place));
    }

    pub(super) fn ended(&mut self, ends: Endpoints) {
        let Some(&place) = self.places.get(&ends) else { return };
        let recording = &mut self.pool[place as usize];
        recording.live = false;
        if recording.why.is_none() {
            self.over.push_back(place);
        }
    }

    /// The failed ones, first to fail first, then the slow ones, slowest first.
    pub fn recordings(&self) -> impl Iterator<Item = &Recording> {
        let slow = self.slow.iter().rev().map(|(_, place)| place);
        self.failed.iter().chain(slow).map(|place| &self.pool[*place as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use syncline_engine::wire::{Flags, Seq, TcpOptions};

    use super::*;
    use crate::trace::Segment;

    fn ends(port: u32) -> Endpoints {
        let local = SocketAddr::from(([10, 0, (port >> 16) as u8, 1], port as u16));
        Endpoints { local, remote: SocketAddr::from(([10, 0, 0, 2], 80)) }
    }

    fn frames(flight: &mut Flight, ends: Endpoints, count: u64) {
        for at_ns in 0..count {
            let segment = Segment {
                at_ns,
                from: ends.local,
                to: ends.remote,
                seq: Seq(0),
                ack: Seq(0),
                flags: Flags::ACK,
                window: 0,
                len: 0,
                options: TcpOptions::NONE,
            };
            flight.frame(&Passing { at_ns, out: true, ends, segment: &segment, octets: &[7; 200] });
        }
    }

    #[test]
    fn the_first_failed_and_the_slowest_stay() {
        let mut flight = Flight::new(2);
        for port in 1..=6 {
            flight.opened(ends(port));
            frames(&mut flight, ends(port), 3);
            flight.took(ends(port), "connect", port);
            flight.took(ends(port), "transaction", 10 - port);
            if port >= 4 {
                flight.failed(ends(port), Failure::Reset);
            }
            flight.ended(ends(port));
        }
        let kept: Vec<_> = flight.recordings().map(|kept| (kept.ends.local.port(), kept.why.unwrap())).collect();
        let failed = Why::Failed(Failure::Reset);
        assert_eq!(kept[..2], [(4, failed), (5, failed)]);
        assert_eq!(kept[2..], [(1, Why::Slow("transaction", 9)), (2, Why::Slow("transaction", 8))]);
        assert_eq!(flight.failed_seen, 3);
        assert!(flight.recordings().all(|kept| kept.frames().count() == 3 && kept.missed == 0));
    }

    #[test]
    fn memory_is_bounded_and_what_is_missed_is_counted() {
        let mut flight = Flight::new(1);
        let many = RECORDINGS as u32 + 100;
        for port in 0..many {
            flight.opened(ends(port));
            frames(&mut flight, ends(port), 1);
        }
        assert_eq!(flight.pool.len(), RECORDINGS + 3);
        assert_eq!(flight.unrecorded, 97);
        flight.failed(ends(many - 1), Failure::SynTimeout);
        assert_eq!((flight.failed_unrecorded, flight.recordings().count()), (1, 0));
        // A connection that is over makes room, and a long one loses its middle.
        flight.ended(ends(0));
        flight.opened(ends(many));
        frames(&mut flight, ends(many), 100);
        flight.failed(ends(many), Failure::DataTimeout);
        let kept = flight.recordings().next().unwrap();
        let times: Vec<_> = kept.frames().map(|frame| frame.at_ns).collect();
        assert_eq!((times.len(), times[0], times[23], kept.missed), (24, 0, 99, 76));
        assert!(kept.frames().all(|frame| frame.octets().len() == SNAP && frame.len == 200));
    }
}
