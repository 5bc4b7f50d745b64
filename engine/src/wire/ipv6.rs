//! IPv6 headers and extension headers (RFC 8200).

use std::net::Ipv6Addr;

use super::drop_reason::DropReason;
use super::ip::{Ecn, protocol};

/// Every node on the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The MTU that every link has at least, octets (RFC 8200 §5).
pub const MTU_MIN: u32 = 1280;

/// Octets of the header.
pub const HEADER_LEN: usize = 40;

/// A packet with more extension headers than this is dropped: nobody sends them, and each costs a step.
const EXTENSION_HEADERS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const UDP: u8 = 17;

/// A whole packet: its length agrees with the octets that are there.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    octets: &'a [u8],
}

impl<'a> Ipv6Packet<'a> {
    /// The packet at the start of `octets`. What follows its payload length is the frame's padding and is left out.
    ///
    /// # Errors
    /// [`TruncatedIp`](DropReason::TruncatedIp), [`BadIpVersion`](DropReason::BadIpVersion),
    /// [`BadIpTotalLength`](DropReason::BadIpTotalLength).
    #[inline]
    //= RFC 8200 3-SHOULD-1
    pub fn parse(octets: &'a [u8]) -> Result<Self, DropReason> {
        let header = octets.first_chunk::<HEADER_LEN>().ok_or(DropReason::TruncatedIp)?;
        if header[0] >> 4 != 6 {
            return Err(DropReason::BadIpVersion);
        }
        let total_len = HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let octets = octets.get(..total_len).ok_or(DropReason::BadIpTotalLength)?;
        Ok(Self { header, octets })
    }

    /// The packet's octets.
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// Octets of the packet.
    #[inline]
    pub const fn total_len(&self) -> usize {
        self.octets.len()
    }

    /// The source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| self.header[8 + i]))
    }

    /// The destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| self.header[24 + i]))
    }

    /// The hop limit.
    #[inline]
    pub const fn hop_limit(&self) -> u8 {
        self.header[7]
    }

    /// The ECN codepoint.
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.header[1] >> 4)
    }

    /// The upper-layer protocol, and where in the packet it begins.
    ///
    /// # Errors
    /// [`Fragment`](DropReason::Fragment) if a fragment header comes first,
    /// [`BadIpExtension`](DropReason::BadIpExtension).
    #[inline]
    pub fn upper_layer(&self) -> Result<(u8, usize), DropReason> {
        match self.header[6] {
            next @ (HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) => match self.skip_extensions(next)? {
                (FRAGMENT, _) => Err(DropReason::Fragment),
                upper => Ok(upper),
            },
            next => Ok((next, HEADER_LEN)),
        }
    }

    /// Where in the packet a fragment header begins, if the headers lead to one.
    pub fn fragment_header(&self) -> Option<usize> {
        match self.skip_extensions(self.header[6]) {
            Ok((FRAGMENT, offset)) => Some(offset),
            _ => None,
        }
    }

    /// The traffic class.
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// The first header that is no extension or announces a fragment, and where it begins.
    #[cold]
    //= RFC 8200 4.1-MUST-1
    fn skip_extensions(&self, first: u8) -> Result<(u8, usize), DropReason> {
        let mut next = first;
        let mut offset = HEADER_LEN;
        for _ in 0..EXTENSION_HEADERS_MAX {
            match next {
                // RFC 8200 §4.1: directly after the IPv6 header, or nowhere.
                HOP_BY_HOP if offset != HEADER_LEN => return Err(DropReason::BadIpExtension),
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
                protocol => return Ok((protocol, offset)),
            }
            let rest = self.octets.get(offset..).unwrap_or_default();
            let [following, units, ..] = *rest else { return Err(DropReason::BadIpExtension) };
            let len = (usize::from(units) + 1) * 8;
            let extension = rest.get(..len).ok_or(DropReason::BadIpExtension)?;
            // RFC 8200 §4.4: a routing header with no segments left is ignored, whatever its type.
            //= RFC 8200 4.4-MUST-1
            let passes = if next == ROUTING { extension[3] == 0 } else { options_pass(&extension[2..]) };
            if !passes {
                return Err(DropReason::BadIpExtension);
            }
            next = following;
            offset += len;
        }
        Err(DropReason::BadIpExtension)
    }

    /// Why the packet cannot be worked on, if its sender is to be told: code and pointer of a parameter problem (RFC 8200 §4,
    /// §4.2, §4.4; RFC 4443 §3.4).
    #[cold]
    pub fn problem(&self) -> Option<(u8, u32)> {
        const NONE: u8 = 59;
        // where the next header was named
        let (mut named, mut next, mut offset) = (6, self.header[6], HEADER_LEN);
        for _ in 0..EXTENSION_HEADERS_MAX {
            match next {
                HOP_BY_HOP if offset == HEADER_LEN => {}
                ROUTING | DESTINATION_OPTIONS => {}
                NONE | FRAGMENT => return None,
                _ => return Some((1, named as u32)),
            }
            let rest = self.from_offset(offset);
            let &[following, units, ..] = rest else { return None };
            let len = (usize::from(units) + 1) * 8;
            let extension = rest.get(..len)?;
            if next == ROUTING {
                if extension[3] != 0 {
                    return Some((0, offset as u32 + 2));
                }
            } else if let Some(at) = option_objected_to(extension) {
                return (extension[at] >> 6 > 1).then_some((2, (offset + at) as u32));
            }
            (named, next, offset) = (offset, following, offset + len);
        }
        None
    }

    /// The octets from `offset` on.
    #[inline]
    pub fn from_offset(&self, offset: usize) -> &'a [u8] {
        self.octets.get(offset..).unwrap_or_default()
    }
}

/// Whether a header's options let the packet pass: they are within bounds, and none that is unknown here has the bits
/// that say to discard it (RFC 8200 §4.2).
//= RFC 8200 4.2-MUST-1
fn options_pass(mut options: &[u8]) -> bool {
    const PAD1: u8 = 0;
    loop {
        match *options {
            [] => return true,
            [PAD1, ref rest @ ..] => options = rest,
            [kind, len, ref rest @ ..] if kind >> 6 == 0 => match rest.get(usize::from(len)..) {
                Some(rest) => options = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

/// Whether what follows a fragment header, of which `next` is the first header, has all headers and that of the upper layer
/// (RFC 8200 §4.5, RFC 7112). Of protocols that are unknown here no header is expected.
pub(crate) fn reaches_upper_layer(mut next: u8, mut octets: &[u8]) -> bool {
    while let HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS = next {
        let &[following, units, ..] = octets else { return false };
        let Some(rest) = octets.get((usize::from(units) + 1) * 8..) else { return false };
        (next, octets) = (following, rest);
    }
    let header_len = match next {
        protocol::TCP => 20,
        protocol::ICMPV6 | UDP => 8,
        _ => 0,
    };
    octets.len() >= header_len
}

/// Where in a header of options the first is that has the packet discarded.
fn option_objected_to(extension: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        match *extension.get(at..)? {
            [0, ..] => at += 1,
            [kind, ..] if kind >> 6 != 0 => return Some(at),
            [_, len, ..] => at += 2 + usize::from(len),
            _ => return None,
        }
    }
}

/// Whether a packet can come from `source`: the address of one host other than this one. An IPv4-mapped address is
/// none that belongs on a wire. The unspecified address speaks in neighbour discovery only.
#[inline]
pub const fn is_valid_source(source: Ipv6Addr) -> bool {
    is_one_host(source)
}

/// Whether a packet can be meant for one host: `destination` is no group, no loopback, not unspecified.
#[inline]
pub const fn is_valid_destination(destination: Ipv6Addr) -> bool {
    is_one_host(destination)
}

#[inline]
const fn is_one_host(address: Ipv6Addr) -> bool {
    // Unspecified is 0, loopback is 1, mapped is 0xffff in the third word: all have a zero high half.
    let bits = address.to_bits();
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    let special = high == 0 && (low <= 1 || low >> 32 == 0xffff);
    !special && high >> 56 != 0xff
}

/// The group that whoever has `address` listens to (RFC 4291 §2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a as u16, u16::from_be_bytes([b, c]))
}

/// A header to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv6Header {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    /// Octets after the header.
    pub(crate) payload_len: u16,
}

impl Ipv6Header {
    #[inline]
    pub(crate) fn emit(&self, header: &mut [u8; HEADER_LEN]) {
        header[..4].copy_from_slice(&[0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0]);
        header[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        header[6] = self.next_header;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..].copy_from_slice(&self.destination.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![0; HEADER_LEN];
        let header = Ipv6Header {
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
            next_header,
            hop_limit: 64,
            traffic_class: Ecn::CongestionExperienced.bits(),
            payload_len: payload.len() as u16,
        };
        header.emit(octets.first_chunk_mut().unwrap());
        octets.extend(payload);
        octets
    }

    fn upper(next_header: u8, payload: &[u8]) -> Result<(u8, usize), DropReason> {
        let octets = packet(next_header, payload);
        Ipv6Packet::parse(&octets).unwrap().upper_layer()
    }

    #[test]
    fn what_is_sent_is_read() {
        let mut octets = packet(6, &[7; 8]);
        octets.extend([0; 3]);
        let view = Ipv6Packet::parse(&octets).unwrap();
        assert_eq!(view.total_len(), 48);
        assert_eq!(view.upper_layer(), Ok((6, 40)));
        assert_eq!(view.from_offset(40), [7; 8]);
        assert_eq!((view.hop_limit(), view.ecn()), (64, Ecn::CongestionExperienced));
        assert_eq!(view.source(), "2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(view.destination(), "2001:db8::2".parse::<Ipv6Addr>().unwrap());
        for len in 0..48 {
            let want = if len < HEADER_LEN { DropReason::TruncatedIp } else { DropReason::BadIpTotalLength };
            assert_eq!(Ipv6Packet::parse(&octets[..len]).err(), Some(want));
        }
        octets[0] = 0x45;
        assert_eq!(Ipv6Packet::parse(&octets).err(), Some(DropReason::BadIpVersion));
    }

    #[test]
    //= RFC 8200 4.1-MUST-1, 4.2-MUST-1, 4.4-MUST-1
    fn extension_headers_are_stepped_over() {
        let hop = [ROUTING, 0, 1, 4, 0, 0, 0, 0];
        let routing = [DESTINATION_OPTIONS, 0, 9, 0, 0, 0, 0, 0];
        let options = [6, 1, 0x1e, 2, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0];
        let all = [&hop[..], &routing, &options, &[7; 20]].concat();
        assert_eq!(upper(HOP_BY_HOP, &all), Ok((6, 72)));
        assert_eq!(upper(FRAGMENT, &[6, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::Fragment));
        for len in 0..32 {
            assert_eq!(upper(HOP_BY_HOP, &all[..len]).is_err(), len < 32, "{len}");
        }
    }

    #[test]
    //= RFC 8200 4.1-MUST-1, 4.2-MUST-1, 4.4-MUST-1
    fn bad_extension_headers_are_dropped() {
        let bad = |next, payload: &[u8]| assert_eq!(upper(next, payload), Err(DropReason::BadIpExtension));
        bad(ROUTING, &[6, 0, 0, 1, 0, 0, 0, 0]);
        bad(DESTINATION_OPTIONS, &[6, 0, 0x5e, 4, 0, 0, 0, 0]);
        bad(DESTINATION_OPTIONS, &[6, 0, 1, 5, 0, 0, 0, 0]);
        bad(DESTINATION_OPTIONS, &[6, 1, 1, 4, 0, 0, 0, 0]);
        bad(DESTINATION_OPTIONS, &[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]);
        bad(DESTINATION_OPTIONS, &[DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(EXTENSION_HEADERS_MAX + 1));
    }

    #[test]
    fn only_hosts_speak() {
        for bad in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
            assert!(!is_valid_source(bad.parse().unwrap()), "{bad}");
        }
        for good in ["fe80::1", "2001:db8::1", "fd00::1", "::2:0:0:1"] {
            assert!(is_valid_source(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn solicited_node_groups_take_the_last_three_octets() {
        let group: Ipv6Addr = "ff02::1:ff34:5678".parse().unwrap();
        assert_eq!(solicited_node("2001:db8::1234:5678".parse().unwrap()), group);
    }
}
