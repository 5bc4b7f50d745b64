//! ICMP errors about packets that cannot be worked on: no such protocol or port, an extension header that asks to be told
//! (RFC 1122 §3.2.2.1, RFC 8200 §4, RFC 4443 §3).

use std::net::IpAddr;

use super::addr::MacAddr;
use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::emit::{self, EmitError};
use super::ethernet::{EtherType, EthernetHeader, Link};
use super::fragment::{Fragment, FragmentKey};
use super::frame::ParseRules;
use super::icmp;
use super::ip::header_len;
use super::ipv4::{self, Ipv4Packet};
use super::ipv6::{self, Ipv6Packet};

const UDP: u8 = 17;
const UDP_HEADER_LEN: usize = 8;

/// Octets of an IPv4 packet that are quoted: RFC 1812 §4.3.2.3 lets the error have 576.
const QUOTE_V4_MAX: usize = 576 - ipv4::HEADER_LEN - icmp::HEADER_LEN;

/// Octets of an IPv6 packet that are quoted: as many as fit the smallest MTU (RFC 4443 §2.4).
pub(crate) const QUOTE_V6_MAX: usize = ipv6::MTU_MIN as usize - ipv6::HEADER_LEN - icmp::HEADER_LEN;

/// What is to be told about a packet, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objection<'f> {
    /// The station that the frame came from.
    pub station: MacAddr,
    /// The address that the packet was for, which answers.
    pub source: IpAddr,
    /// Where it came from.
    pub destination: IpAddr,
    /// Type and code of the ICMP message.
    pub kind: (u8, u8),
    /// The word after its checksum: where in the packet the problem is.
    pub pointer: u32,
    /// As much of the packet as is quoted.
    pub quote: &'f [u8],
}

impl<'f> Objection<'f> {
    /// What is to be told about a frame that [`parse`](super::frame::parse) dropped for `reason` by these `rules`. `None`:
    /// nothing, because nobody is to be told of it, or it came from or went to more or less than one host (RFC 1122
    /// §3.2.2), or it is a UDP datagram that is not as it was sent.
    pub fn to(frame: &'f [u8], reason: DropReason, rules: &ParseRules) -> Option<Self> {
        if !matches!(reason, DropReason::UnknownProtocol | DropReason::BadIpExtension) {
            return None;
        }
        let ethernet = EthernetHeader::parse(frame).ok()?;
        let octets = frame.get(ethernet.payload_offset..)?;
        if ethernet.destination.is_group() {
            return None;
        }
        match ethernet.ethertype {
            EtherType::IPV4 => Self::to_v4(ethernet.source, octets, rules),
            EtherType::IPV6 => Self::to_v6(ethernet.source, octets, reason, rules),
            _ => None,
        }
    }

    /// What is to be told about a fragment that is wrong by itself: see [`Fragment::problem`].
    pub fn to_fragment(fragment: &Fragment<'f>) -> Option<Self> {
        let (code, pointer) = fragment.problem()?;
        let kind = (icmp::V6_PARAMETER_PROBLEM, code);
        Some(Self::about(&fragment.key, fragment.source_mac, fragment.packet, kind, pointer))
    }

    /// The fragments of a packet did not all come in time (RFC 792, RFC 4443 §3.3): `quote` is of the first.
    pub fn overdue(key: &FragmentKey, station: MacAddr, quote: &'f [u8]) -> Self {
        let kind = if key.source.is_ipv6() { icmp::V6_TIME_EXCEEDED } else { icmp::TIME_EXCEEDED };
        Self::about(key, station, quote, (kind, 1), 0)
    }

    fn about(key: &FragmentKey, station: MacAddr, packet: &'f [u8], kind: (u8, u8), pointer: u32) -> Self {
        let most = if key.source.is_ipv6() { QUOTE_V6_MAX } else { QUOTE_V4_MAX };
        let quote = &packet[..packet.len().min(most)];
        Self { station, source: key.destination, destination: key.source, kind, pointer, quote }
    }

    //= RFC 1122 3.2.2.1-SHOULD-1
    fn to_v4(station: MacAddr, octets: &'f [u8], rules: &ParseRules) -> Option<Self> {
        let packet = Ipv4Packet::parse(octets).ok()?;
        let port = packet.protocol() == UDP;
        let pseudo = |len| Sum::pseudo_v4(packet.source(), packet.destination(), UDP, len);
        if port && !is_as_sent(packet.payload(), pseudo, true, rules) {
            return None;
        }
        Some(Self {
            station,
            source: IpAddr::V4(packet.destination()),
            destination: IpAddr::V4(packet.source()),
            kind: (icmp::UNREACHABLE, if port { 3 } else { 2 }),
            pointer: 0,
            quote: octets.get(..packet.total_len().min(QUOTE_V4_MAX))?,
        })
    }

    //= RFC 8200 4-SHOULD-1, 4.2-MUST-2, 4.4-MUST-2
    fn to_v6(station: MacAddr, octets: &'f [u8], reason: DropReason, rules: &ParseRules) -> Option<Self> {
        let packet = Ipv6Packet::parse(octets).ok()?;
        let (source, destination) = (packet.source(), packet.destination());
        if !ipv6::is_valid_source(source) || !ipv6::is_valid_destination(destination) {
            return None;
        }
        let upper = packet.upper_layer().ok().filter(|_| reason == DropReason::UnknownProtocol);
        let (kind, pointer) = if let Some((UDP, offset)) = upper {
            let pseudo = |len| Sum::pseudo_v6(source, destination, UDP, len);
            if !is_as_sent(packet.from_offset(offset), pseudo, false, rules) {
                return None;
            }
            ((icmp::V6_UNREACHABLE, 4), 0)
        } else {
            let (code, pointer) = packet.problem()?;
            ((icmp::V6_PARAMETER_PROBLEM, code), pointer)
        };
        Some(Self {
            station,
            source: IpAddr::V6(destination),
            destination: IpAddr::V6(source),
            kind,
            pointer,
            quote: octets.get(..packet.total_len().min(QUOTE_V6_MAX))?,
        })
    }

    /// Octets of the frame, at most.
    pub fn frame_len(&self, link: &Link) -> usize {
        link.header_len() + ipv6::HEADER_LEN + icmp::HEADER_LEN + self.quote.len()
    }

    /// Builds the frame and returns its length.
    ///
    /// # Errors
    /// [`EmitError`].
    pub fn emit(&self, frame: &mut [u8], link: &Link, hop_limit: u8) -> Result<usize, EmitError> {
        let len = icmp::HEADER_LEN + self.quote.len();
        let addresses = (self.source, self.destination);
        let rest = emit::put_ip(frame, link, addresses, icmp::icmp_protocol(self.source), hop_limit, 0, len)?;
        let message = rest.get_mut(..len).ok_or(EmitError::NoRoom)?;
        message[..4].copy_from_slice(&[self.kind.0, self.kind.1, 0, 0]);
        message[4..8].copy_from_slice(&self.pointer.to_be_bytes());
        message[8..].copy_from_slice(self.quote);
        let checksum = icmp::pseudo_header(self.source, self.destination, len).add_octets(message).checksum();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        Ok(link.header_len() + header_len(self.source) + len)
    }
}

/// Whether a UDP datagram is as it was sent, as far as its checksum tells; `bare`: it may have none, as over IPv4.
/// `pseudo` gives the sum of the pseudo-header for so many octets.
//= RFC 1122 4.1.3.4-MUST-1
fn is_as_sent(octets: &[u8], pseudo: impl FnOnce(u32) -> Sum, bare: bool, rules: &ParseRules) -> bool {
    let Some(&[_, _, _, _, len0, len1, sum0, sum1]) = octets.first_chunk() else { return false };
    let (len, checksum) = (u16::from_be_bytes([len0, len1]), u16::from_be_bytes([sum0, sum1]));
    let Some(datagram) = octets.get(..usize::from(len)).filter(|datagram| datagram.len() >= UDP_HEADER_LEN) else {
        return false;
    };
    if checksum == 0 {
        return bare;
    }
    let pseudo = pseudo(u32::from(len));
    rules.accept_partial_checksum && checksum == pseudo.folded() || pseudo.add_octets(datagram).is_valid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::Sum;
    use crate::wire::samples::{self, LINK};
    use crate::wire::{ParseRules, parse};

    fn objection(frame: &[u8]) -> Option<Objection<'_>> {
        objection_by(frame, &ParseRules::default())
    }

    fn objection_by<'f>(frame: &'f [u8], rules: &ParseRules) -> Option<Objection<'f>> {
        Objection::to(frame, parse(frame, rules).err()?, rules)
    }

    /// Makes the sample segment, which begins at `at`, a UDP datagram with this checksum.
    fn make_udp(frame: &mut [u8], at: usize, checksum: u16) {
        let len = (frame.len() - at) as u16;
        frame[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
        frame[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The sample segment behind other headers.
    fn behind(next: u8, headers: &[u8]) -> Vec<u8> {
        let mut frame = samples::tcp_v6();
        let tcp = frame.split_off(54);
        frame[20] = next;
        frame[18..20].copy_from_slice(&((headers.len() + tcp.len()) as u16).to_be_bytes());
        [&frame[..], headers, &tcp].concat()
    }

    #[test]
    //= RFC 8200 4-SHOULD-1, 4.2-MUST-2, 4.4-MUST-2
    fn a_problem_is_where_its_octet_is() {
        for (next, headers, want) in [
            (60, &[6, 0, 0x9e, 4, 0, 0, 0, 0][..], Some((2, 42))),
            (60, &[6, 0, 1, 1, 0, 0xde, 0, 0], Some((2, 45))),
            (60, &[6, 0, 0x5e, 4, 0, 0, 0, 0], None),
            (43, &[6, 0, 9, 1, 0, 0, 0, 0], Some((0, 42))),
            (60, &[43, 0, 1, 4, 0, 0, 0, 0, 6, 0, 9, 1, 0, 0, 0, 0], Some((0, 50))),
            (60, &[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0], Some((1, 40))),
            (253, &[], Some((1, 6))),
            (60, &[253, 0, 1, 4, 0, 0, 0, 0], Some((1, 40))),
            (59, &[], None),
            (60, &[6, 200, 1, 4, 0, 0, 0, 0], None),
        ] {
            let frame = behind(next, headers);
            let told = objection(&frame);
            assert_eq!(told.map(|told| (told.kind.1, told.pointer)), want, "{next} {headers:?}");
            let Some(told) = told else { continue };
            assert_eq!(told.kind.0, 4);
            let mut out = [0; 1500];
            let len = told.emit(&mut out, &LINK, 64).unwrap();
            assert!(len <= told.frame_len(&LINK));
            assert_eq!(out[62..len], frame[14..], "the packet is quoted");
            let (IpAddr::V6(source), IpAddr::V6(to)) = (told.source, told.destination) else { panic!("{told:?}") };
            assert!(Sum::pseudo_v6(source, to, 58, (len - 54) as u32).add_octets(&out[54..len]).is_valid());
        }
    }

    #[test]
    //= RFC 1122 3.2.2.1-SHOULD-1
    fn no_such_protocol_or_port() {
        for (protocol, code) in [(17, 3), (253, 2), (47, 2)] {
            let mut frame = samples::tcp_v4();
            frame[23] = protocol;
            frame[24..26].fill(0);
            let checksum = Sum::of(&frame[14..34]).checksum();
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            make_udp(&mut frame, 34, 0);
            let told = objection(&frame).unwrap();
            assert_eq!((told.kind, told.station), ((3, code), LINK.source));
            let mut out = [0; 1500];
            let len = told.emit(&mut out, &LINK, 64).unwrap();
            assert!(Sum::of(&out[34..len]).is_valid());
            assert_eq!(out[42..len], frame[14..]);
            frame[0] = 1;
            assert_eq!(Objection::to(&frame, DropReason::UnknownProtocol, &ParseRules::default()), None, "to a group");
        }
        assert_eq!(objection(&samples::tcp_v4()), None);
    }

    #[test]
    //= RFC 1122 4.1.3.4-MUST-1
    fn a_datagram_with_a_wrong_checksum_is_not_answered() {
        let partial = ParseRules { accept_partial_checksum: true, ..ParseRules::default() };
        for (mut frame, at) in [(samples::tcp_v4(), 34), (behind(UDP, &[]), 54)] {
            let v4 = at == 34;
            if v4 {
                frame[23] = UDP;
                frame[24..26].fill(0);
                let checksum = Sum::of(&frame[14..34]).checksum();
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            make_udp(&mut frame, at, 0);
            let kind = if v4 { (3, 3) } else { (1, 4) };
            let told = |frame: &[u8], rules: &ParseRules| objection_by(frame, rules).map(|told| told.kind);
            assert_eq!(told(&frame, &partial), v4.then_some(kind), "no checksum");

            let addresses = &frame[if v4 { 26..34 } else { 22..54 }];
            let pseudo = Sum::of(addresses).add_u16(UDP.into()).add_u16((frame.len() - at) as u16);
            make_udp(&mut frame, at, pseudo.folded());
            assert_eq!(told(&frame, &partial), Some(kind), "left for hardware to finish");
            assert_eq!(told(&frame, &ParseRules::default()), None, "not finished");

            make_udp(&mut frame, at, 0);
            let whole = pseudo.add_octets(&frame[at..]).checksum();
            make_udp(&mut frame, at, whole);
            assert_eq!(told(&frame, &ParseRules::default()), Some(kind));
            make_udp(&mut frame, at, whole ^ 0x0100);
            assert_eq!(told(&frame, &partial), None, "wrong");
            make_udp(&mut frame, at, whole);
            for len in [7, (frame.len() - at + 1) as u16] {
                frame[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
                assert_eq!(told(&frame, &partial), None, "{len} octets");
            }
        }
    }
}
