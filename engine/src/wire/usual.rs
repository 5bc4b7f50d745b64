//! The usual frame, read in one piece.

use std::net::{IpAddr, Ipv4Addr};

use super::addr::MacAddr;
use super::checksum::Sum;
use super::ethernet::{self, EtherType};
use super::frame::ParseRules;
use super::ip::{Ecn, protocol};
use super::ipv4;
use super::seq::Seq;
use super::tcp::{self, Flags, TcpSegment};
use super::tcp_options::TcpOptions;

/// What [`ParseRules`] leave to be asked of a frame of the usual kind: see [`parse_usual`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsualRules {
    mac: MacAddr,
    accept_partial_checksum: bool,
}

impl ParseRules {
    /// The rules of the usual link: without tags, to a station of its own, with all checksums verified and no broadcast
    /// address but the one of all links. `None`: frames are to be looked at one layer at a time.
    #[inline]
    pub(crate) fn usual(&self) -> Option<UsualRules> {
        let mac = self.mac.filter(|mac| !mac.is_group())?;
        let usual = self.vlan.is_none() && self.broadcast.is_broadcast() && self.verify_ip && self.verify_tcp;
        usual.then_some(UsualRules { mac, accept_partial_checksum: self.accept_partial_checksum })
    }
}

/// Octets before the options of a usual frame: Ethernet, IPv4, TCP.
const USUAL_LEN: usize = USUAL_TCP + tcp::HEADER_LEN;
/// Where its IPv4 header begins.
const USUAL_IP: usize = ethernet::HEADER_LEN;
/// Where its TCP header begins.
const USUAL_TCP: usize = USUAL_IP + ipv4::HEADER_LEN;

/// The segment in nearly every frame: in a whole IPv4 packet without options, in a frame without tag, from a station to this
/// one, with the options that nearly all segments have. `None` if it is another kind of frame, or anything is wrong with
/// it: then [`parse_each`](super::frame::parse_each) says what.
///
/// Each octet is loaded once, in words, from places that are known when this is compiled.
// Inlined, and without a second way to the segment, so that the loop's descriptor is built where it will lie.
#[inline(always)]
pub(crate) fn parse_usual(frame: &[u8], rules: &UsualRules) -> Option<TcpSegment> {
    let head = frame.first_chunk::<USUAL_LEN>()?;
    let source_mac = MacAddr(octets::<6, 6>(head));
    let to_us = octets::<0, 6>(head) == rules.mac.0 && !source_mac.is_group();
    // EtherType, version and header length: the octet after them is the type of service
    let is_ipv4 = octets::<12, 2>(head) == EtherType::IPV4.0.to_be_bytes() && head[USUAL_IP] == 0x45;
    let [flags_and_offset @ .., _, upper] = octets::<{ USUAL_IP + 6 }, 4>(head);
    let is_whole_tcp = upper == protocol::TCP && u16::from_be_bytes(flags_and_offset) & ipv4::FRAGMENT == 0;
    let (source, destination) = (octets::<{ USUAL_IP + 12 }, 4>(head), octets::<{ USUAL_IP + 16 }, 4>(head));
    if !(to_us && is_ipv4 && is_whole_tcp && is_usual_host(source) && is_usual_host(destination)) {
        return None;
    }
    // The addresses are in both sums, and are added up for both at once
    let addresses = Sum::ZERO.add_word(octets::<{ USUAL_IP + 12 }, 8>(head));
    let ip = addresses.add_word(octets::<USUAL_IP, 8>(head)).add_half(octets::<{ USUAL_IP + 8 }, 4>(head));
    let total_len = usize::from(u16::from_be_bytes(octets::<{ USUAL_IP + 2 }, 2>(head)));
    let message = frame.get(USUAL_TCP..USUAL_IP + total_len)?;
    let header_len = usize::from(head[USUAL_TCP + 12] >> 4) * 4;
    let options = TcpOptions::parse_usual(message.get(tcp::HEADER_LEN..header_len)?)?;
    if !ip.is_valid() {
        return None;
    }
    let pseudo = addresses.add_u16(u16::from(protocol::TCP)).add_u32(message.len() as u32);
    let checksum = u16::from_be_bytes(octets::<{ USUAL_TCP + 16 }, 2>(head));
    // The cheap test goes first: on a link to a kernel it spares the sum over the payload.
    let partial_checksum = rules.accept_partial_checksum && checksum == pseudo.folded();
    if !partial_checksum && !pseudo.add_octets(message).is_valid() {
        return None;
    }
    Some(TcpSegment {
        source: IpAddr::V4(Ipv4Addr::from(source)),
        destination: IpAddr::V4(Ipv4Addr::from(destination)),
        source_port: u16::from_be_bytes(octets::<USUAL_TCP, 2>(head)),
        destination_port: u16::from_be_bytes(octets::<{ USUAL_TCP + 2 }, 2>(head)),
        seq: Seq(u32::from_be_bytes(octets::<{ USUAL_TCP + 4 }, 4>(head))),
        ack: Seq(u32::from_be_bytes(octets::<{ USUAL_TCP + 8 }, 4>(head))),
        window: u16::from_be_bytes(octets::<{ USUAL_TCP + 14 }, 2>(head)),
        urgent_pointer: u16::from_be_bytes(octets::<{ USUAL_TCP + 18 }, 2>(head)),
        flags: Flags::from_bits(head[USUAL_TCP + 13]),
        ecn: Ecn::from_bits(head[USUAL_IP + 1]),
        partial_checksum,
        source_mac,
        payload_offset: (USUAL_TCP + header_len) as u16,
        payload_len: (message.len() - header_len) as u16,
        options,
    })
}

/// `N` octets of a head from `AT` on, which are there: that is known when this is compiled.
#[inline(always)]
fn octets<const AT: usize, const N: usize>(head: &[u8; USUAL_LEN]) -> [u8; N] {
    const { assert!(AT + N <= USUAL_LEN) };
    head[AT..].first_chunk().copied().unwrap_or([0; N])
}

/// Whether an address is a host's by its first octet alone. There are a few more, in 240/4: see [`ipv4::is_valid_source`].
#[inline(always)]
fn is_usual_host([first, ..]: [u8; 4]) -> bool {
    // 0/8, 127/8, 224/4 and 240/4 are not
    first.wrapping_sub(1) < 223 && first != 127
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{parse, parse_each};
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
                if rules.usual().is_some_and(|usual| parse_usual(&frame, &usual).is_some()) {
                    short += 1;
                } else {
                    long += 1;
                }
                assert_eq!(parse(&frame, &rules), parse_each(&frame, &rules), "{frame:02x?}");
            }
        }
        assert!(short > 5_000 && long > 10_000, "{short} the short way, {long} the long one");
    }
}
