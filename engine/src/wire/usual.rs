//! The usual frame, read in one piece.

use std::net::{IpAddr, Ipv4Addr};

use super::addr::MacAddr;
use super::checksum::{Sum, WideSum};
use super::ethernet;
use super::frame::ParseRules;
use super::ip::{Ecn, protocol};
use super::ipv4;
use super::seq::Seq;
use super::tcp::{self, Flags, TcpSegment};
use super::tcp_options::{OFFER_LEN, Offer, TIMESTAMPS_LEN, TcpOptions, Timestamps};

/// What [`ParseRules`] leave to be asked of a frame of the usual kind: see [`parse_usual`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsualRules {
    /// How the frames begin that are for this station, by [`STATIONS`].
    to_us: u64,
    hosts: Hosts,
    accept_partial_checksum: bool,
}

/// A range of IPv4 addresses of ours that are hosts', and the number of the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hosts {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) base: u16,
}

impl Hosts {
    /// No address.
    pub(crate) const NONE: Self = Self { first: 0, count: 0, base: 0 };

    #[inline(always)]
    fn number(&self, address: Ipv4Addr) -> Option<u16> {
        let offset = address.to_bits().wrapping_sub(self.first);
        (offset < self.count).then_some(self.base.wrapping_add(offset as u16))
    }
}

impl ParseRules {
    /// The rules of the usual link: without tags, to a station of its own, with all checksums verified and no broadcast
    /// address but the one of all links; `hosts` are addresses of ours. `None`: frames are to be looked at one layer at a
    /// time.
    #[inline]
    pub(crate) fn usual(&self, hosts: Hosts) -> Option<UsualRules> {
        let mac = self.mac.filter(|mac| !mac.is_group())?;
        let usual = self.vlan.is_none() && self.broadcast.is_broadcast() && self.verify_ip && self.verify_tcp;
        let MacAddr([a, b, c, d, e, f]) = mac;
        let to_us = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
        usual.then_some(UsualRules { to_us, hosts, accept_partial_checksum: self.accept_partial_checksum })
    }
}

/// Octets before the options of a usual frame: Ethernet, IPv4, TCP.
pub(super) const USUAL_LEN: usize = USUAL_TCP + tcp::HEADER_LEN;
/// Where its IPv4 header begins.
pub(super) const USUAL_IP: usize = ethernet::HEADER_LEN;
/// Where its TCP header begins.
pub(super) const USUAL_TCP: usize = USUAL_IP + ipv4::HEADER_LEN;

/// As much of a header as says whether the frame is to one station and from one.
const STATIONS: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0]);
/// EtherType, version and header length, and what they are; the octet after them is the type of service.
const KIND: [u32; 2] = [u32::from_ne_bytes([0xff, 0xff, 0xff, 0]), u32::from_ne_bytes([0x08, 0x00, 0x45, 0])];
/// Fragment offset with the flag of more to come, and protocol, and what they are; between them is the time to live.
const WHOLE_TCP: [u32; 2] = {
    let [upper, lower] = ipv4::FRAGMENT.to_be_bytes();
    [u32::from_ne_bytes([upper, lower, 0, 0xff]), u32::from_ne_bytes([0, 0, 0, protocol::TCP])]
};

/// The addresses of a flow, the peer's in the high half, and its ports, the peer's in the high half; and our address once
/// more, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) addresses: u64,
    pub(crate) ports: u32,
    pub(crate) local: u16,
}

/// The segment in nearly every frame: in a whole IPv4 packet without options, in a frame without tag, from a station to this
/// one, with the options that nearly all segments have. It is put into `segment`; what is returned names its flow once more.
/// `None` if it is another kind of frame, or anything is wrong with it: then [`parse_each`](super::frame::parse_each) says
/// what, and nothing in `segment` means anything.
///
/// `further` gives the number of a host's address that is none of the `rules`, if it is one of ours. A frame to another is
/// not of this kind, nor one that claims to come from where it goes.
///
/// Octets are loaded in words, from places that are known when this is compiled.
#[inline(always)]
pub(crate) fn parse_usual(
    frame: &[u8],
    rules: &UsualRules,
    further: impl FnOnce(Ipv4Addr) -> Option<u16>,
    segment: &mut TcpSegment,
) -> Option<Ends> {
    let head = frame.first_chunk::<USUAL_LEN>()?;
    let is = |octets, [mask, value]: [u32; 2]| u32::from_ne_bytes(octets) & mask == value;
    let stations = u64::from_ne_bytes(octets::<0, 8>(head)) & STATIONS;
    let kind = octets::<{ USUAL_IP - 2 }, 4>(head);
    let fragment_to_protocol = octets::<{ USUAL_IP + 6 }, 4>(head);
    if !(stations == rules.to_us && is(kind, KIND) && is(fragment_to_protocol, WHOLE_TCP)) {
        return None;
    }
    let (source, destination) = (octets::<{ USUAL_IP + 12 }, 4>(head), octets::<{ USUAL_IP + 16 }, 4>(head));
    if !USUAL_HOST[usize::from(head[USUAL_IP + 12])] || u32::from_ne_bytes(source) == u32::from_ne_bytes(destination) {
        return None;
    }
    //= RFC 1122 3.2.1.3-MUST-1
    let local = match rules.hosts.number(destination.into()) {
        Some(number) => number,
        None => further(destination.into())?,
    };
    let total_len = u16::from_be_bytes(octets::<{ USUAL_IP + 2 }, 2>(head));
    let packet = frame.get(..USUAL_IP + usize::from(total_len))?;
    // The addresses are in both sums
    let addresses = WideSum::default().add(octets::<{ USUAL_IP + 12 }, 8>(head));
    let life_to_checksum = Sum::ZERO.add_half(octets::<{ USUAL_IP + 8 }, 4>(head));
    if !addresses.add(octets::<USUAL_IP, 8>(head)).is_valid_with(life_to_checksum) {
        return None;
    }
    segment.options = TcpOptions::NONE;
    // A way of its own for each length: what is at known places is added up at once
    let words = head[USUAL_TCP + 12] >> 4;
    match packet.split_first_chunk::<{ USUAL_LEN + TIMESTAMPS_LEN }>() {
        Some((headers, payload)) if words == 8 => {
            segment.options.timestamps = Some(Timestamps::parse_alone(headers.last_chunk()?)?);
            segment.take_text(headers, payload, rules, total_len)?;
        }
        _ if words == 10 => {
            let (headers, payload) = packet.split_first_chunk::<{ USUAL_LEN + OFFER_LEN }>()?;
            segment.options.take_offer(Offer::parse(headers.last_chunk()?)?);
            segment.take_text(headers, payload, rules, total_len)?;
        }
        _ if words == 5 => {
            let (headers, payload) = packet.split_first_chunk::<USUAL_LEN>()?;
            segment.take_text(headers, payload, rules, total_len)?;
        }
        _ => return None,
    }
    let addresses = u64::from_be_bytes(octets::<{ USUAL_IP + 12 }, 8>(head));
    let ports = u32::from_be_bytes(octets::<USUAL_TCP, 4>(head));
    let numbers = u64::from_be_bytes(octets::<{ USUAL_TCP + 4 }, 8>(head));
    segment.source = IpAddr::V4(Ipv4Addr::from(source));
    segment.destination = IpAddr::V4(Ipv4Addr::from(destination));
    (segment.source_port, segment.destination_port) = ((ports >> 16) as u16, ports as u16);
    (segment.seq, segment.ack) = (Seq((numbers >> 32) as u32), Seq(numbers as u32));
    let rest = u64::from_be_bytes(octets::<{ USUAL_TCP + 12 }, 8>(head));
    (segment.window, segment.urgent_pointer) = ((rest >> 32) as u16, rest as u16);
    segment.flags = Flags::from_bits((rest >> 48) as u8);
    segment.ecn = Ecn::from_bits(head[USUAL_IP + 1]);
    segment.source_mac = MacAddr(octets::<6, 6>(head));
    Some(Ends { addresses, ports, local })
}

impl TcpSegment {
    /// Takes the place of the text behind `headers`. `None` if the checksum is wrong.
    #[inline(always)]
    fn take_text<const LEN: usize>(
        &mut self,
        headers: &[u8; LEN],
        payload: &[u8],
        rules: &UsualRules,
        total_len: u16,
    ) -> Option<()> {
        (self.payload_offset, self.payload_len) = (LEN as u16, payload.len() as u16);
        // The length of the message is that of the packet without the header, modulo 2¹⁶ − 1
        let rest = Sum::ZERO.add_u16(total_len).add_u16(u16::MAX - ipv4::HEADER_LEN as u16 + u16::from(protocol::TCP));
        // The cheap test goes first: on a link to a kernel it spares the sum over the payload.
        self.partial_checksum = rules.accept_partial_checksum && is_partial(headers.first_chunk()?, rest);
        if self.partial_checksum {
            return Some(());
        }
        let rest = if payload.is_empty() { rest } else { add_payload(rest, payload) };
        let (words, half) = headers.get(USUAL_IP + 12..)?.as_chunks();
        let rest = half.first_chunk().map_or(rest, |&half| rest.add_half(half));
        words.iter().fold(WideSum::default(), |sum, &word| sum.add(word)).is_valid_with(rest).then_some(())
    }
}

// Apart, so that what is around it keeps its registers
#[inline(never)]
fn add_payload(sum: Sum, payload: &[u8]) -> Sum {
    sum.add_octets(payload)
}

/// Whether the checksum field holds the sum of the addresses and of the `rest` of the pseudo-header.
#[inline]
fn is_partial(head: &[u8; USUAL_LEN], rest: Sum) -> bool {
    let pseudo = rest.add_octets(&head[USUAL_IP + 12..USUAL_TCP]);
    pseudo.folded() == u16::from_be_bytes(octets::<{ USUAL_TCP + 16 }, 2>(head))
}

/// `N` octets of a head from `AT` on, which are there: that is known when this is compiled.
#[inline(always)]
fn octets<const AT: usize, const N: usize>(head: &[u8; USUAL_LEN]) -> [u8; N] {
    const { assert!(AT + N <= USUAL_LEN) };
    head[AT..].first_chunk().copied().unwrap_or([0; N])
}

/// Whether an address is a host's by its first octet alone. There are a few more, in 240/4: see [`ipv4::is_valid_source`].
static USUAL_HOST: [bool; 256] = {
    let mut usual = [false; 256];
    let mut first = 1;
    // 0/8, 127/8, 224/4 and 240/4 are not
    while first < 224 {
        usual[first] = first != 127;
        first += 1;
    }
    usual
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;
    use crate::wire::frame::{Parsed, parse, parse_each};
    use crate::wire::samples::{self, XorShift};

    /// Sets the checksums of an IPv4 header without options and, if its length is right, of a TCP segment after it.
    fn put_sums_right(frame: &mut [u8]) {
        let end = USUAL_IP + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        frame[24..26].fill(0);
        let checksum = Sum::of(&frame[USUAL_IP..USUAL_TCP]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        if (USUAL_LEN..=frame.len()).contains(&end) {
            frame[50..52].fill(0);
            let len = (end - USUAL_TCP) as u32;
            let pseudo = Sum::of(&frame[26..34]).add_u16(u16::from(protocol::TCP)).add_u32(len);
            let checksum = pseudo.add_octets(&frame[USUAL_TCP..end]).checksum();
            frame[50..52].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    #[test]
    fn the_short_way_agrees_with_the_long_one() {
        let key = HashKey::new([1, 2]);
        let offer = TcpSegment { options: samples::syn_options(), ..TcpSegment::NONE };
        let mut random = XorShift::new(9293);
        let (mut short, mut long) = (0, 0);
        for frame in samples::all() {
            for _ in 0..20_000 {
                let mut frame = frame.clone();
                for _ in 0..random.next() % 3 {
                    let at = random.next() as usize % frame.len().min(64);
                    frame[at] = random.next() as u8;
                }
                // an address of ours as it comes, so that what was changed elsewhere is looked at
                let mac = MacAddr(frame[..6].try_into().unwrap());
                // and mostly with the sums put right: a wrong one ends the short way
                if !random.next().is_multiple_of(4) {
                    put_sums_right(&mut frame);
                }
                let strict = !random.next().is_multiple_of(8);
                let rules = ParseRules {
                    mac: Some(mac),
                    verify_ip: strict,
                    verify_tcp: strict,
                    accept_partial_checksum: random.next().is_multiple_of(2),
                    ..ParseRules::default()
                };
                frame.truncate(frame.len() - (random.next() % 3) as usize);
                // What was in its place before must not be seen
                let mut segment = TcpSegment { partial_checksum: true, payload_len: 7, ..offer };
                let number = |address: Ipv4Addr| address.to_bits() as u16;
                let further = |address| ipv4::is_valid_destination(address).then_some(number(address));
                // half of them are the only ones, half one of many
                let first = Ipv4Addr::from([frame[30], frame[31], frame[32], frame[33]]);
                let mut hosts = Hosts::NONE;
                if ipv4::is_valid_destination(first) && random.next().is_multiple_of(2) {
                    hosts = Hosts { first: first.to_bits(), count: 1, base: number(first) };
                }
                match rules.usual(hosts).and_then(|usual| parse_usual(&frame, &usual, further, &mut segment)) {
                    Some(ends) => {
                        short += 1;
                        assert_eq!(ends.local, ends.addresses as u16);
                        assert_ne!(segment.source, segment.destination);
                        assert_eq!(key.index_hash_v4(ends.addresses, ends.ports), key.index_hash(&segment.flow_key()));
                        assert_eq!(Ok(Parsed::Tcp(segment)), parse_each(&frame, &rules), "{frame:02x?}");
                    }
                    None => long += 1,
                }
                assert_eq!(parse(&frame, &rules), parse_each(&frame, &rules), "{frame:02x?}");
            }
        }
        assert!(short > 5_000 && long > 10_000, "{short} the short way, {long} the long one");
    }
}
