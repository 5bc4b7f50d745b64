//! Packets put together from fragments (RFC 791 §3.2, RFC 815, RFC 8200 §4.5), within bounds.
//!
//! A worker has room for a few packets at a time, taken at the start. Of what exceeds it the packet that has waited longest
//! gives way, so that a flood of fragments that never become whole delays those that do by nothing. Fragments that overlap
//! spoil their packet (RFC 5722, and RFC 1858 for what they are good for); one that comes twice does not.

use core::time::Duration;
use std::net::IpAddr;

use crate::time::Instant;
use crate::wire::emit;
use crate::wire::ethernet::Link;
use crate::wire::fragment::{Fragment, FragmentKey};
use crate::wire::ip::header_len;
use crate::wire::objection::QUOTE_V6_MAX;
use crate::wire::{Ecn, MacAddr, VlanId};

/// Packets that may be in pieces at a time.
const PACKETS: usize = 32;

/// Largest payload of a packet that is put together, octets: EMTU_R of RFC 1122 §3.3.2, without the IP header.
pub(crate) const PAYLOAD_MAX: usize = 16_384;

/// Room before the payload for Ethernet's header, a tag and IPv6's header.
const HEADROOM: usize = 14 + 4 + 40;

const STRIDE: usize = HEADROOM + PAYLOAD_MAX;

/// Units of eight octets in a payload, in words of 64.
const WORDS: usize = PAYLOAD_MAX / 8 / 64;

/// How long fragments wait for the others: RFC 8200 §4.5 says 60 s, RFC 1122 §3.3.2 60 to 120 s.
//= RFC 1122 3.3.2-SHOULD-1
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    /// Fragments are missing.
    Partial,
    /// Fragments contradicted each other, or were too many: those that still come are dropped as well.
    Spoilt,
    /// All is there, and waits to be worked on.
    Whole,
}

/// A packet in pieces. Its octets lie beside it.
#[derive(Clone, Copy, Debug)]
struct Packet {
    state: State,
    key: FragmentKey,
    since: Instant,
    /// Which units of eight octets are there.
    units: [u64; WORDS],
    /// Octets that are there.
    held: usize,
    /// Octets of the payload, once its last fragment has come.
    len: Option<usize>,
    /// ECN codepoints seen: a bit for each.
    marks: u8,
    /// Of the first fragment.
    source_mac: MacAddr,
    hop_limit: u8,
    traffic_class: u8,
    /// Octets kept of the IP packet that it came as, to be quoted; 0 if it has not come.
    quote_len: u16,
}

const NO_KEY: FragmentKey = FragmentKey {
    source: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    destination: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    identification: 0,
    protocol: 0,
};

const FREE: Packet = Packet {
    state: State::Free,
    key: NO_KEY,
    since: Instant::ZERO,
    units: [0; WORDS],
    held: 0,
    len: None,
    marks: 0,
    source_mac: MacAddr::ZERO,
    hop_limit: 0,
    traffic_class: 0,
    quote_len: 0,
};

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is kept, or was there already.
    Kept,
    /// It made a packet whole: [`Reassembly::whole`] has it.
    Whole,
    /// It is of no use, and neither are the others of its packet.
    Refused,
}

/// A packet whose fragments did not all come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue<'p> {
    pub(crate) key: FragmentKey,
    /// The station that sent the first fragment.
    pub(crate) station: MacAddr,
    /// The head of the first fragment, as it came; empty if it has not.
    pub(crate) first: &'p [u8],
}

/// The packets of one worker that are in pieces.
pub(crate) struct Reassembly {
    packets: Vec<Packet>,
    octets: Box<[u8]>,
    quotes: Box<[u8]>,
    whole: usize,
    /// When to look for what has waited too long; [`NEVER`] if nothing waits.
    due: Instant,
}

const NEVER: Instant = Instant::from_nanos(u64::MAX);

impl Reassembly {
    /// Nothing in pieces. Takes all the memory it will ever need.
    pub(crate) fn new() -> Self {
        let octets = vec![0; PACKETS * STRIDE].into_boxed_slice();
        let quotes = vec![0; PACKETS * QUOTE_V6_MAX].into_boxed_slice();
        Self { packets: vec![FREE; PACKETS], octets, quotes, whole: 0, due: NEVER }
    }

    /// When there may be something [`overdue`](Self::overdue).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.due != NEVER).then_some(self.due)
    }

    /// Whether it is time to ask what is overdue.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// The next packet whose fragments have waited long enough for the others; to be called until there is none.
    #[cold]
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<Overdue<'_>> {
        let waits = |packet: &Packet| matches!(packet.state, State::Partial | State::Spoilt);
        loop {
            let oldest = (0..self.packets.len()).filter(|&slot| waits(&self.packets[slot]));
            let Some(slot) = oldest.min_by_key(|&slot| self.packets[slot].since) else {
                self.due = NEVER;
                return None;
            };
            let packet = &mut self.packets[slot];
            if now.since(packet.since) < PATIENCE {
                self.due = packet.since + PATIENCE;
                return None;
            }
            let spoilt = packet.state == State::Spoilt;
            packet.state = State::Free;
            if !spoilt {
                let start = slot * QUOTE_V6_MAX;
                let first = &self.quotes[start..start + usize::from(packet.quote_len)];
                return Some(Overdue { key: packet.key, station: packet.source_mac, first });
            }
        }
    }

    /// Takes a fragment in. `given_up` packets gave way to it.
    //= RFC 1122 3.3.2-MUST-1
    //= RFC 8200 4.5-MUST-1
    pub(crate) fn take(&mut self, fragment: &Fragment<'_>, now: Instant, given_up: &mut u64) -> Taken {
        let (at, end) = (usize::from(fragment.offset), usize::from(fragment.offset) + fragment.octets.len());
        let slot = self.slot(fragment, now, given_up);
        let Some(packet) = self.packets.get_mut(slot).filter(|packet| packet.state == State::Partial) else {
            return Taken::Refused;
        };
        let whole_units = !fragment.more || fragment.octets.len().is_multiple_of(8);
        let agrees = match packet.len {
            Some(len) if fragment.more => end < len,
            Some(len) => end == len,
            None => fragment.more || packet.reaches() <= end,
        };
        //= RFC 8200 4.5-MUST-4
        if fragment.octets.is_empty() || !whole_units || !agrees || end > PAYLOAD_MAX {
            packet.state = State::Spoilt;
            return Taken::Refused;
        }
        let start = slot * STRIDE + HEADROOM + at;
        let Some(place) = self.octets.get_mut(start..start + fragment.octets.len()) else { return Taken::Refused };
        let units = at / 8..end.div_ceil(8);
        let there = units.clone().filter(|&unit| packet.has(unit)).count();
        if there > 0 {
            if there == units.len() && place == fragment.octets {
                return Taken::Kept;
            }
            //= RFC 8200 4.5-MUST-2
            packet.state = State::Spoilt;
            return Taken::Refused;
        }
        place.copy_from_slice(fragment.octets);
        units.for_each(|unit| packet.units[unit / 64] |= 1 << (unit % 64));
        packet.held += fragment.octets.len();
        packet.marks |= 1 << fragment.ecn().bits();
        if !fragment.more {
            packet.len = Some(end);
        }
        if at == 0 {
            packet.source_mac = fragment.source_mac;
            (packet.hop_limit, packet.traffic_class) = (fragment.hop_limit, fragment.traffic_class);
            let quote = &fragment.packet[..fragment.packet.len().min(QUOTE_V6_MAX)];
            let start = slot * QUOTE_V6_MAX;
            self.quotes[start..start + quote.len()].copy_from_slice(quote);
            packet.quote_len = quote.len() as u16;
        }
        if packet.len != Some(packet.held) {
            return Taken::Kept;
        }
        if !packet.merge_marks() {
            packet.state = State::Free;
            return Taken::Refused;
        }
        packet.state = State::Whole;
        self.whole += 1;
        Taken::Whole
    }

    /// The place of a fragment's packet: the one it has, a free one, or that of the packet that has waited longest.
    fn slot(&mut self, fragment: &Fragment<'_>, now: Instant, given_up: &mut u64) -> usize {
        //= RFC 8200 4.5-MUST-3
        let atomic = fragment.offset == 0 && !fragment.more && fragment.key.source.is_ipv6();
        let known = |packet: &Packet| {
            packet.key == fragment.key && matches!(packet.state, State::Partial | State::Spoilt) && !atomic
        };
        if let Some(slot) = self.packets.iter().position(known) {
            return slot;
        }
        let oldest = (0..self.packets.len()).min_by_key(|&slot| {
            let packet = &self.packets[slot];
            (packet.state == State::Whole, packet.state != State::Free, packet.since)
        });
        let slot = oldest.unwrap_or_default();
        match self.packets[slot].state {
            // all of them became whole in this very pass
            State::Whole => return PACKETS,
            State::Partial => *given_up += 1,
            State::Spoilt | State::Free => {}
        }
        self.packets[slot] = Packet { state: State::Partial, key: fragment.key, since: now, ..FREE };
        self.due = self.due.min(now + PATIENCE);
        slot
    }

    /// A packet that is whole, as a frame to the station `mac`. Its place is given back with the next call.
    pub(crate) fn whole(&mut self, mac: MacAddr, vlan: Option<VlanId>) -> Option<&[u8]> {
        if self.whole == 0 {
            return None;
        }
        let slot = self.packets.iter().position(|packet| packet.state == State::Whole)?;
        self.whole -= 1;
        let packet = &mut self.packets[slot];
        packet.state = State::Free;
        let link = Link { source: packet.source_mac, destination: mac, vlan };
        let (key, len) = (packet.key, packet.held);
        let ip_header = header_len(key.source);
        let start = slot * STRIDE + HEADROOM - link.header_len() - ip_header;
        let frame = self.octets.get_mut(start..start + link.header_len() + ip_header + len)?;
        let (hops, class) = (packet.hop_limit, packet.traffic_class);
        emit::put_ip(frame, &link, (key.source, key.destination), key.protocol, hops, class, len).ok()?;
        Some(frame)
    }
}

impl Packet {
    fn has(&self, unit: usize) -> bool {
        self.units.get(unit / 64).is_some_and(|word| word >> (unit % 64) & 1 != 0)
    }

    /// How far its fragments reach, octets.
    fn reaches(&self) -> usize {
        let last = self.units.iter().rposition(|&word| word != 0);
        last.map_or(0, |word| (word * 64 + 64 - self.units[word].leading_zeros() as usize) * 8)
    }

    /// The ECN field of the whole (RFC 3168 §5.3): congestion that a fragment met is congestion. False if fragments
    /// contradict each other.
    //= RFC 3168 5.3-MUST-1
    fn merge_marks(&mut self) -> bool {
        let seen = |ecn: Ecn| self.marks >> ecn.bits() & 1 != 0;
        if !seen(Ecn::CongestionExperienced) {
            return true;
        }
        let mixed = seen(Ecn::NotCapable);
        self.traffic_class |= Ecn::CongestionExperienced.bits();
        !mixed
    }
}

#[cfg(test)]
#[path = "reassembly_tests.rs"]
mod tests;
