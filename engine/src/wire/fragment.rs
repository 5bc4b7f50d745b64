//! Fragments of IP packets (RFC 791 §3.1, RFC 8200 §4.5): read one by one, and sent where an echo reply needs them.

use std::net::IpAddr;

use super::addr::MacAddr;
use super::checksum::Sum;
use super::emit::{self, EmitError};
use super::ethernet::{EtherType, EthernetHeader, Link};
use super::ip::{Ecn, header_len};
use super::ipv4::{self, Ipv4Packet};
use super::ipv6::{self, Ipv6Packet};

/// Octets of IPv6's fragment header.
const HEADER_LEN: usize = 8;

/// What makes fragments those of one packet: RFC 791 §3.2; RFC 8200 §4.5 leaves the protocol out, which is the same in all
/// of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The number that its sender gave the packet.
    pub identification: u32,
    /// What the packet carries: the protocol, or the extension header that follows.
    pub protocol: u8,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'f> {
    /// Which packet.
    pub key: FragmentKey,
    /// Where in the packet's payload it lies, octets.
    pub offset: u16,
    /// Whether another one follows.
    pub more: bool,
    /// The station that sent the frame.
    pub source_mac: MacAddr,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// What it carries.
    pub octets: &'f [u8],
    /// The IP packet that it came as.
    pub packet: &'f [u8],
}

impl<'f> Fragment<'f> {
    /// The fragment in a frame that [`parse`](super::frame::parse) dropped as one. `None` if it is of no use: to a group, from
    /// or to no host.
    pub fn read(frame: &'f [u8]) -> Option<Self> {
        let ethernet = EthernetHeader::parse(frame).ok()?;
        let packet = frame.get(ethernet.payload_offset..)?;
        match ethernet.ethertype {
            _ if ethernet.destination.is_group() => None,
            EtherType::IPV4 => Self::read_v4(ethernet.source, packet),
            EtherType::IPV6 => Self::read_v6(ethernet.source, packet),
            _ => None,
        }
    }

    fn read_v4(source_mac: MacAddr, octets: &'f [u8]) -> Option<Self> {
        let packet = Ipv4Packet::parse(octets).ok()?;
        let (identification, position) = packet.fragment();
        let key = FragmentKey {
            source: IpAddr::V4(packet.source()),
            destination: IpAddr::V4(packet.destination()),
            identification: u32::from(identification),
            protocol: packet.protocol(),
        };
        Some(Self {
            key,
            offset: (position & 0x1fff) << 3,
            more: position & ipv4::MORE_FRAGMENTS != 0,
            source_mac,
            hop_limit: packet.ttl(),
            traffic_class: packet.traffic_class(),
            octets: packet.payload(),
            packet: packet.octets(),
        })
    }

    fn read_v6(source_mac: MacAddr, octets: &'f [u8]) -> Option<Self> {
        let packet = Ipv6Packet::parse(octets).ok()?;
        let (source, destination) = (packet.source(), packet.destination());
        if !ipv6::is_valid_source(source) || !ipv6::is_valid_destination(destination) {
            return None;
        }
        let rest = packet.from_offset(packet.fragment_header()?);
        let (&[protocol, _, p0, p1, i0, i1, i2, i3], octets) = rest.split_first_chunk::<HEADER_LEN>()?;
        let position = u16::from_be_bytes([p0, p1]);
        let key = FragmentKey {
            source: IpAddr::V6(source),
            destination: IpAddr::V6(destination),
            identification: u32::from_be_bytes([i0, i1, i2, i3]),
            protocol,
        };
        Some(Self {
            key,
            offset: position & !7,
            more: position & 1 != 0,
            source_mac,
            hop_limit: packet.hop_limit(),
            traffic_class: packet.traffic_class(),
            octets,
            packet: packet.octets(),
        })
    }

    /// What is wrong with a fragment of IPv6 by itself, so that its sender is to be told: code and pointer of a parameter
    /// problem (RFC 8200 §4.5).
    //= RFC 8200 4.5-SHOULD-2
    pub fn problem(&self) -> Option<(u8, u32)> {
        const PAYLOAD_LENGTH_AT: u32 = 4;
        const NO_UPPER_LAYER: u8 = 3;
        if !self.key.source.is_ipv6() {
            return None;
        }
        if self.more && !self.octets.len().is_multiple_of(8) {
            return Some((0, PAYLOAD_LENGTH_AT));
        }
        if usize::from(self.offset) + self.octets.len() > usize::from(u16::MAX) {
            // the offset is the third octet of the fragment header
            return Some((0, (self.packet.len() - self.octets.len() - HEADER_LEN + 2) as u32));
        }
        let first = self.more && self.offset == 0;
        (first && !ipv6::reaches_upper_layer(self.key.protocol, self.octets)).then_some((NO_UPPER_LAYER, 0))
    }

    /// The ECN field.
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.traffic_class)
    }
}

/// A part of a packet to send.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'m> {
    /// Our address.
    pub source: IpAddr,
    /// The peer's.
    pub destination: IpAddr,
    /// The number of the packet.
    pub identification: u32,
    /// Its protocol.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Where in the packet's payload the piece begins, octets: a multiple of eight.
    pub offset: usize,
    /// Whether another one follows; then the piece is a multiple of eight octets, too.
    pub more: bool,
    /// The piece.
    pub octets: &'m [u8],
}

impl Piece<'_> {
    /// Builds the frame and returns its length.
    ///
    /// # Errors
    /// [`EmitError`].
    pub fn emit(&self, frame: &mut [u8], link: &Link) -> Result<usize, EmitError> {
        let len = self.octets.len();
        let position = u16::try_from(self.offset).map_err(|_| EmitError::NoRoom)?;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                emit::put_ipv4(frame, link, source, destination, self.protocol, self.hop_limit, 0, len)?;
                let header = frame.get_mut(link.header_len()..).and_then(|rest| rest.first_chunk_mut());
                let header: &mut [u8; ipv4::HEADER_LEN] = header.ok_or(EmitError::NoRoom)?;
                let word = position >> 3 | if self.more { ipv4::MORE_FRAGMENTS } else { 0 };
                header[4..6].copy_from_slice(&(self.identification as u16).to_be_bytes());
                header[6..8].copy_from_slice(&word.to_be_bytes());
                header[10..12].fill(0);
                let checksum = Sum::of(header).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let all = HEADER_LEN + len;
                let rest = emit::put_ipv6(frame, link, source, destination, ipv6::FRAGMENT, self.hop_limit, 0, all)?;
                let header = rest.first_chunk_mut::<HEADER_LEN>().ok_or(EmitError::NoRoom)?;
                header[..2].copy_from_slice(&[self.protocol, 0]);
                header[2..4].copy_from_slice(&(position | u16::from(self.more)).to_be_bytes());
                header[4..].copy_from_slice(&self.identification.to_be_bytes());
            }
            _ => return Err(EmitError::MixedFamilies),
        }
        let start = link.header_len() + self.headers_len();
        frame.get_mut(start..start + len).ok_or(EmitError::NoRoom)?.copy_from_slice(self.octets);
        Ok(start + len)
    }

    /// Octets of IP headers before the piece.
    pub const fn headers_len(&self) -> usize {
        header_len(self.source) + if self.source.is_ipv6() { HEADER_LEN } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples::{self, LINK};
    use crate::wire::{DropReason, ParseRules, parse};

    #[test]
    fn what_is_sent_is_read() {
        for (segment, protocol) in [(samples::segment_v4(), 1), (samples::segment_v6(), 58)] {
            for (offset, more) in [(0, true), (1480, true), (2960, false)] {
                let piece = Piece {
                    source: segment.source,
                    destination: segment.destination,
                    identification: 0xabcd,
                    protocol,
                    hop_limit: 61,
                    offset,
                    more,
                    octets: &[7; 64],
                };
                let mut frame = [0; 256];
                let len = piece.emit(&mut frame, &LINK).unwrap();
                assert_eq!(len, LINK.header_len() + piece.headers_len() + 64);
                assert_eq!(parse(&frame[..len], &ParseRules::default()), Err(DropReason::Fragment));
                let read = Fragment::read(&frame[..len]).unwrap();
                let key = FragmentKey {
                    source: segment.source,
                    destination: segment.destination,
                    identification: 0xabcd,
                    protocol,
                };
                assert_eq!((read.key, usize::from(read.offset), read.more), (key, offset, more));
                assert_eq!((read.octets, read.hop_limit, read.source_mac), (&[7; 64][..], 61, LINK.source));
                for short in 0..len {
                    assert_eq!(piece.emit(&mut frame[..short], &LINK), Err(EmitError::NoRoom));
                }
            }
        }
    }

    #[test]
    fn a_group_gets_no_fragment() {
        let mut frame = samples::tcp_v4();
        frame[20] = 0x20;
        assert!(Fragment::read(&frame).is_some());
        frame[0] = 0xff;
        assert_eq!(Fragment::read(&frame), None);
    }
}
