//! An account of every connection that passed a device: what was sent and what came, by kind, and who it was.
//!
//! Both ends keep one and hold them against each other afterwards. They must agree on who is who through a device that
//! translates addresses, so a generator puts a token into each request, and both ends read it off the wire. Connections
//! without one are known by their addresses.
//!
//! **Bounded.** Up to [`ENTRIES_MAX`] connections are kept, each. When they are full, those that ended well are thinned
//! out by a hash of the token (or the addresses), which both ends compute alike: one in 2, in 4, … stays. What went wrong
//! is never thinned out; what finds no room is counted.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use syncline_engine::app::Endpoints;
use syncline_engine::device::DeviceCounters;
use syncline_engine::wire::{Flags, Seq};

use super::Passing;
use super::account::now_us;
use crate::measure::Failure;

/// Connections of one worker that are accounted for one by one.
pub const ENTRIES_MAX: usize = 1 << 17;

/// One in 2 to this power is the smallest sample.
const THINNED_MAX: u32 = 32;

/// Hardware addresses that are remembered.
const MACS_MAX: usize = 1_024;

/// What a token begins with in a request.
pub const TOKEN_MARK: &[u8; 4] = b"SYN~";

/// Octets of a token: the mark and 16 hexadecimal digits.
pub const TOKEN_BYTES: usize = 20;

/// How far into the first text of a connection a token is looked for.
const TOKEN_WITHIN: usize = 512;

/// Kinds of segments that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "named as on the wire")]
pub enum Kind {
    Syn,
    SynAck,
    Data,
    Ack,
    Fin,
    Rst,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// All of them, in order.
    pub const ALL: [Self; Self::COUNT] = [Self::Syn, Self::SynAck, Self::Data, Self::Ack, Self::Fin, Self::Rst];

    fn of(flags: Flags, len: u32) -> Self {
        match () {
            () if flags.rst() => Self::Rst,
            () if flags.contains(Flags::SYN_ACK) => Self::SynAck,
            () if flags.syn() => Self::Syn,
            () if flags.fin() => Self::Fin,
            () if len > 0 => Self::Data,
            () => Self::Ack,
        }
    }
}

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Segments, by [`Kind`].
    pub segments: [u16; Kind::COUNT],
    /// Where the text ends, octets after the SYN; a hole in it does not show.
    pub text_end: u32,
    /// Octets of text, those sent again included.
    pub text: u32,
}

impl Passed {
    /// Segments of a kind.
    pub fn count(&self, kind: Kind) -> u16 {
        self.segments[kind as usize]
    }

    /// All segments.
    pub fn total(&self) -> u64 {
        self.segments.iter().map(|count| u64::from(*count)).sum()
    }
}

/// One connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The two ends, seen from here.
    pub ends: Endpoints,
    /// The token of its first request; 0 if it had none.
    pub token: u64,
    /// The opener's ISS.
    pub iss: u32,
    /// What was sent from here.
    pub sent: Passed,
    /// What came here.
    pub came: Passed,
    /// When its first and its last segment passed, Unix microseconds.
    pub first_us: u64,
    /// See `first_us`.
    pub last_us: u64,
    /// Why it failed, as its own end counts it: the number of a [`Failure`], plus 1; 0 if it did not.
    pub failure: u8,
    /// ISS of either direction, for relative numbers.
    pub(super) bases: [Option<Seq>; 2],
}

impl Entry {
    /// An entry for a segment between `ends` at a time.
    pub(super) fn begin(ends: Endpoints, at_us: u64) -> Self {
        let (sent, came) = (Passed::default(), Passed::default());
        Self { ends, token: 0, iss: 0, sent, came, first_us: at_us, last_us: at_us, failure: 0, bases: [None; 2] }
    }

    /// Whether it came to a regular end: both FINs, and no reset or failure.
    pub fn is_clean(&self) -> bool {
        let [sent, came] = [self.sent, self.came];
        self.failure == 0
            && sent.count(Kind::Fin) > 0
            && came.count(Kind::Fin) > 0
            && sent.count(Kind::Rst) + came.count(Kind::Rst) == 0
    }

    /// What decides whether it stays when connections are thinned out: the same at both ends.
    pub fn lot(&self) -> u64 {
        if self.token != 0 {
            return mix(self.token);
        }
        let (a, b) = (self.ends.local, self.ends.remote);
        addresses_hash(a.min(b), a.max(b))
    }
}

/// Finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn addresses_hash(a: SocketAddr, b: SocketAddr) -> u64 {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    [a, b].iter().fold(0, |hash, end| {
        let bits = bits(end.ip());
        mix(mix(mix(hash ^ bits as u64) ^ (bits >> 64) as u64) ^ u64::from(end.port()))
    })
}

/// The account of one worker.
#[derive(Debug)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// The last entry between two ends.
    places: HashMap<Endpoints, u32>,
    /// One in 2 to this power of the connections that ended well is kept.
    thinned: u32,
    /// Connections seen.
    pub seen: u64,
    /// Connections that found no room.
    pub untracked: u64,
    /// Connections that failed here of which nothing ever left.
    pub failed_unseen: u64,
    /// What the device counted.
    pub device: DeviceCounters,
    /// Hardware addresses that frames were sent from, some of them.
    pub own_macs: HashSet<[u8; 6]>,
    /// Hardware addresses that frames were sent to, some of them.
    pub next_hops: HashSet<[u8; 6]>,
    entries_max: usize,
    /// Not before so many connections have been seen.
    thin_again_at: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::with_room_for(ENTRIES_MAX)
    }
}

impl Ledger {
    /// An empty ledger of at most `entries_max` connections.
    pub fn with_room_for(entries_max: usize) -> Self {
        Self {
            entries: Vec::with_capacity(entries_max),
            places: HashMap::with_capacity(entries_max),
            thinned: 0,
            seen: 0,
            untracked: 0,
            failed_unseen: 0,
            device: DeviceCounters::default(),
            own_macs: HashSet::new(),
            next_hops: HashSet::new(),
            entries_max,
            thin_again_at: 0,
        }
    }

    /// The connections.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One in 2 to this power of the connections that ended well is kept.
    pub fn thinned(&self) -> u32 {
        self.thinned
    }

    pub(super) fn frame(&mut self, passing: &Passing<'_>) {
        let segment = passing.segment;
        let bare_syn = segment.flags.syn() && !segment.flags.ack();
        let place = match self.places.get(&passing.ends) {
            Some(&place) if !(bare_syn && self.entries[place as usize].iss != segment.seq.0) => place,
            // What belongs to no connection that began here is none of ours.
            _ if !bare_syn => return,
            _ => match self.open(passing) {
                Some(place) => place,
                None => return,
            },
        };
        if passing.out && segment.flags.syn() {
            self.meet(passing.octets);
        }
        let entry = &mut self.entries[place as usize];
        entry.last_us = passing.at_ns / 1_000;
        let base = &mut entry.bases[usize::from(passing.out)];
        if segment.flags.syn() {
            *base = Some(segment.seq);
        }
        let base = *base.get_or_insert(segment.seq - 1);
        let passed = if passing.out { &mut entry.sent } else { &mut entry.came };
        let count = &mut passed.segments[Kind::of(segment.flags, segment.len) as usize];
        *count = count.saturating_add(1);
        if segment.len > 0 {
            let end = segment.seq + segment.len - base - 1;
            if passed.text == 0 && entry.token == 0 {
                entry.token = token(passing.octets, segment.len as usize).unwrap_or(0);
            }
            passed.text_end = passed.text_end.max(end);
            passed.text = passed.text.saturating_add(segment.len);
        }
    }

    /// Remembers whom a frame goes to, and from whom.
    fn meet(&mut self, octets: &[u8]) {
        for (known, at) in [(&mut self.next_hops, 0), (&mut self.own_macs, 6)] {
            if let Some(mac) = octets.get(at..).and_then(|rest| rest.first_chunk())
                && known.len() < MACS_MAX
            {
                known.insert(*mac);
            }
        }
    }

    fn open(&mut self, passing: &Passing<'_>) -> Option<u32> {
        self.seen += 1;
        if self.entries.len() >= self.entries_max {
            self.thin_out();
        }
        if self.entries.len() >= self.entries_max {
            self.untracked += 1;
            return None;
        }
        let place = self.entries.len() as u32;
        let entry = Entry { iss: passing.segment.seq.0, ..Entry::begin(passing.ends, passing.at_ns / 1_000) };
        self.entries.push(entry);
        self.places.insert(passing.ends, place);
        Some(place)
    }

    /// Drops every other connection that ended well, once or more often, until there is room again.
    fn thin_out(&mut self) {
        if self.seen < self.thin_again_at {
            return;
        }
        // Walking over all of them is not for every SYN of a flood.
        self.thin_again_at = self.seen + self.entries_max as u64 / 8;
        let before = self.entries.len();
        while self.entries.len() > self.entries_max / 4 * 3 && self.thinned < THINNED_MAX {
            let (length, mask) = (self.entries.len(), (2 << self.thinned) - 1);
            self.entries.retain(|entry| !entry.is_clean() || entry.lot() & mask == 0);
            if self.entries.len() == length {
                break;
            }
            self.thinned += 1;
        }
        if self.entries.len() == before {
            return;
        }
        self.places.clear();
        self.places.extend(self.entries.iter().enumerate().map(|(place, entry)| (entry.ends, place as u32)));
    }

    pub(super) fn failed(&mut self, ends: Endpoints, cause: Failure) {
        match self.places.get(&ends) {
            Some(&place) => {
                let entry = &mut self.entries[place as usize];
                // It waited until now, whenever its last segment passed.
                (entry.failure, entry.last_us) = (cause as u8 + 1, entry.last_us.max(now_us()));
            }
            None if self.untracked == 0 => self.failed_unseen += 1,
            None => {}
        }
    }
}

/// The token in the text of a frame, which is its last `len` octets.
fn token(frame: &[u8], len: usize) -> Option<u64> {
    let text = &frame[frame.len().saturating_sub(len)..];
    let text = &text[..text.len().min(TOKEN_WITHIN)];
    let at = text.windows(TOKEN_MARK.len()).position(|window| window == TOKEN_MARK)?;
    let digits = text.get(at + TOKEN_MARK.len()..at + TOKEN_BYTES)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A token as it stands in a request.
pub fn write_token(token: u64) -> [u8; TOKEN_BYTES] {
    let mut out = [0; TOKEN_BYTES];
    out[..4].copy_from_slice(TOKEN_MARK);
    for (digit, octet) in out[4..].iter_mut().enumerate() {
        *octet = b"0123456789abcdef"[(token >> (60 - 4 * digit)) as usize & 15];
    }
    out
}

#[cfg(test)]
mod tests {
    use syncline_engine::wire::TcpOptions;

    use super::*;
    use crate::trace::Segment;

    fn pass(ledger: &mut Ledger, out: bool, port: u16, flags: Flags, seq: u32, text: &[u8]) {
        let [local, remote] = [([10, 0, 0, 1], port), ([10, 0, 0, 2], 80)].map(SocketAddr::from);
        let (from, to) = if out { (local, remote) } else { (remote, local) };
        let segment = Segment {
            at_ns: 5_000,
            from,
            to,
            seq: Seq(seq),
            ack: Seq(0),
            flags,
            window: 0,
            len: text.len() as u32,
            options: TcpOptions::NONE,
        };
        let octets = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0][..], text].concat();
        let ends = Endpoints { local, remote };
        ledger.frame(&Passing { at_ns: 5_000, out, ends, segment: &segment, octets: &octets });
    }

    fn converse(ledger: &mut Ledger, port: u16, token: u64) {
        let request = [&b"GET / "[..], &write_token(token), b" and more"].concat();
        pass(ledger, true, port, Flags::SYN, u32::MAX, b"");
        pass(ledger, false, port, Flags::SYN_ACK, 7, b"");
        pass(ledger, true, port, Flags::PSH_ACK, 0, &request);
        pass(ledger, true, port, Flags::PSH_ACK, 0, &request);
        pass(ledger, false, port, Flags::FIN_ACK, 8, b"answer");
        pass(ledger, true, port, Flags::FIN_ACK, request.len() as u32, b"");
    }

    #[test]
    fn a_connection_is_counted_by_kind_and_known_by_its_token() {
        let mut ledger = Ledger::with_room_for(10);
        converse(&mut ledger, 5, 0xfeed_0000_0000_0001);
        let entry = ledger.entries()[0];
        assert_eq!((entry.token, entry.iss), (0xfeed_0000_0000_0001, u32::MAX));
        assert_eq!((entry.sent.segments, entry.sent.text_end, entry.sent.text), ([1, 0, 2, 0, 1, 0], 35, 70));
        assert_eq!((entry.came.segments, entry.came.text_end), ([0, 1, 0, 0, 1, 0], 6));
        assert!(entry.is_clean());
        assert_eq!((ledger.next_hops.len(), ledger.own_macs.contains(&[2, 0, 0, 0, 0, 8])), (1, true));
        // Text that nobody opened a connection for is none of ours.
        pass(&mut ledger, false, 6, Flags::ACK, 9, b"x");
        assert_eq!(ledger.entries().len(), 1);
    }

    #[test]
    fn a_full_ledger_thins_out_what_ended_well_and_nothing_else() {
        let mut ledger = Ledger::with_room_for(1_000);
        for port in 1..=100 {
            pass(&mut ledger, true, port, Flags::SYN, 1, b"");
        }
        for port in 101..=20_000 {
            converse(&mut ledger, port, u64::from(port) * 77);
        }
        assert!(ledger.thinned() >= 4 && ledger.entries().len() <= 1_000);
        assert_eq!((ledger.seen, ledger.untracked), (20_000, 0));
        let mask = (1u64 << ledger.thinned()) - 1;
        let unfinished = ledger.entries().iter().filter(|entry| !entry.is_clean());
        assert_eq!(unfinished.count(), 100);
        let drawn = ledger.entries().iter().filter(|entry| entry.is_clean() && entry.lot() & mask == 0).count();
        let all = (101..=20_000u64).filter(|port| mix(port * 77) & mask == 0).count();
        assert_eq!(drawn, all, "every one that is drawn is there");
        // Nothing to be thinned out: what finds no room is counted.
        let mut full = Ledger::with_room_for(10);
        (1..=20).for_each(|port| pass(&mut full, true, port, Flags::SYN, 1, b""));
        assert_eq!((full.entries().len(), full.untracked), (10, 10));
    }
}
