//! Ethernet II headers, with at most one 802.1Q tag.

use super::addr::MacAddr;
use super::drop_reason::DropReason;
use super::vlan::{self, VlanId};

/// Octets of a header without a tag.
pub const HEADER_LEN: usize = 14;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// The station or group that the frame is for.
    pub destination: MacAddr,
    /// The station that sent it.
    pub source: MacAddr,
    /// The identifier in the tag, if there is a tag; zero in one that carries only a priority.
    pub vlan: Option<u16>,
    /// What follows the header and the tag.
    pub ethertype: EtherType,
    /// Where it begins, octets.
    pub payload_offset: usize,
}

impl EthernetHeader {
    /// Reads the header and a tag, if there is one. A second tag is an EtherType that nobody knows.
    ///
    /// # Errors
    /// [`DropReason::TruncatedEthernet`].
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let header = frame.first_chunk::<HEADER_LEN>().ok_or(DropReason::TruncatedEthernet)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        let source = MacAddr([s0, s1, s2, s3, s4, s5]);
        let ethertype = EtherType(u16::from_be_bytes([t0, t1]));
        if ethertype != EtherType::VLAN {
            return Ok(Self { destination, source, vlan: None, ethertype, payload_offset: HEADER_LEN });
        }
        let tag = frame[HEADER_LEN..].first_chunk::<{ vlan::TAG_LEN }>().ok_or(DropReason::TruncatedEthernet)?;
        Ok(Self {
            destination,
            source,
            vlan: Some(vlan::id_of(u16::from_be_bytes([tag[0], tag[1]]))),
            ethertype: EtherType(u16::from_be_bytes([tag[2], tag[3]])),
            payload_offset: HEADER_LEN + vlan::TAG_LEN,
        })
    }

    /// Whether the frame belongs to the link that the engine is on: that of VLAN `expected`, or the untagged one. A tag
    /// with a priority and no identifier counts as no tag (802.1Q).
    #[inline]
    pub fn is_on(&self, expected: Option<VlanId>) -> bool {
        self.vlan.unwrap_or(0) == expected.map_or(0, VlanId::get)
    }
}

/// The stations of a frame to be sent, and the VLAN they are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The engine's own address.
    pub source: MacAddr,
    /// The next hop, or a group.
    pub destination: MacAddr,
    /// The VLAN to tag the frame with.
    pub vlan: Option<VlanId>,
}

impl Link {
    /// Octets before the frame's payload.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + if self.vlan.is_some() { vlan::TAG_LEN } else { 0 }
    }

    /// Writes the header and hands back what follows it, or `None` if it does not fit.
    #[inline(always)]
    pub(crate) fn emit<'f>(&self, frame: &'f mut [u8], ethertype: EtherType) -> Option<&'f mut [u8]> {
        let (header, rest) = frame.split_first_chunk_mut::<HEADER_LEN>()?;
        header[..6].copy_from_slice(&self.destination.0);
        header[6..12].copy_from_slice(&self.source.0);
        let Some(vlan) = self.vlan else {
            header[12..].copy_from_slice(&ethertype.0.to_be_bytes());
            return Some(rest);
        };
        header[12..].copy_from_slice(&EtherType::VLAN.0.to_be_bytes());
        let (tag, rest) = rest.split_first_chunk_mut::<{ vlan::TAG_LEN }>()?;
        tag[..2].copy_from_slice(&vlan.get().to_be_bytes());
        tag[2..].copy_from_slice(&ethertype.0.to_be_bytes());
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link =
        Link { source: MacAddr([2, 0, 0, 0, 0, 1]), destination: MacAddr([2, 0, 0, 0, 0, 2]), vlan: None };

    #[test]
    fn header_round_trip_with_and_without_a_tag() {
        for vlan in [None, VlanId::new(7)] {
            let link = Link { vlan, ..LINK };
            let mut frame = [0xaa; 64];
            let rest = link.emit(&mut frame, EtherType::ARP).map(|rest| rest.len());
            assert_eq!(rest, Some(64 - link.header_len()));
            let header = EthernetHeader::parse(&frame).unwrap();
            assert_eq!((header.source, header.destination), (LINK.source, LINK.destination));
            assert_eq!(header.ethertype, EtherType::ARP);
            assert_eq!(header.payload_offset, link.header_len());
            assert!(header.is_on(vlan));
            assert!(!header.is_on(VlanId::new(8)));
            for len in 0..link.header_len() {
                assert_eq!(EthernetHeader::parse(&frame[..len]), Err(DropReason::TruncatedEthernet));
                assert!(link.emit(&mut [0; 64][..len], EtherType::ARP).is_none());
            }
        }
    }

    #[test]
    fn a_priority_tag_is_no_vlan() {
        let mut frame = [0; 18];
        frame[12..].copy_from_slice(&[0x81, 0x00, 0xa0, 0x00, 0x08, 0x00]);
        let header = EthernetHeader::parse(&frame).unwrap();
        assert!(header.is_on(None) && !header.is_on(VlanId::new(1)));
    }
}
