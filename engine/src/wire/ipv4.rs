//! IPv4 headers (RFC 791). Options are stepped over and never sent; fragments are told.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::ip::Ecn;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

/// Don't fragment, in the word of flags and fragment offset.
//= RFC 1191 3-MUST-3
//= RFC 4821 3-SHOULD-1
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, in the same word.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// More fragments, and the offset of this one.
pub(super) const FRAGMENT: u16 = 0x3fff;

/// A whole packet: its lengths agree with each other and with the octets that are there.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Packet<'a> {
    header: &'a [u8; HEADER_LEN],
    octets: &'a [u8],
}

impl<'a> Ipv4Packet<'a> {
    /// The packet at the start of `octets`. What follows its total length is the frame's padding and is left out.
    ///
    /// # Errors
    /// [`TruncatedIp`](DropReason::TruncatedIp), [`BadIpVersion`](DropReason::BadIpVersion),
    /// [`BadIpHeaderLength`](DropReason::BadIpHeaderLength), [`BadIpTotalLength`](DropReason::BadIpTotalLength).
    #[inline]
    pub fn parse(octets: &'a [u8]) -> Result<Self, DropReason> {
        let header = octets.first_chunk::<HEADER_LEN>().ok_or(DropReason::TruncatedIp)?;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] != 0x45 {
            Self::check_unusual(header[0], octets.len(), total_len)?;
        }
        match octets.get(..total_len) {
            Some(octets) if total_len >= HEADER_LEN => Ok(Self { header, octets }),
            _ => Err(DropReason::BadIpTotalLength),
        }
    }

    /// The first octet is not that of version 4 without options.
    #[cold]
    //= RFC 9293 MUST-50
    fn check_unusual(first: u8, octets_len: usize, total_len: usize) -> Result<(), DropReason> {
        let header_len = usize::from(first & 0x0f) * 4;
        //= RFC 1122 3.2.1.1-MUST-1
        if first >> 4 != 4 {
            Err(DropReason::BadIpVersion)
        } else if header_len < HEADER_LEN {
            Err(DropReason::BadIpHeaderLength)
        } else if header_len > octets_len {
            Err(DropReason::TruncatedIp)
        } else if header_len > total_len {
            Err(DropReason::BadIpHeaderLength)
        } else {
            Ok(())
        }
    }

    /// Octets of the header with its options.
    #[inline]
    //= RFC 1122 3.2.1.8-MUST-1
    pub const fn header_len(&self) -> usize {
        (self.header[0] & 0x0f) as usize * 4
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
    pub const fn source(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// The destination address.
    #[inline]
    pub const fn destination(&self) -> Ipv4Addr {
        let h = self.header;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// The upper-layer protocol.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// The time to live, hops.
    #[inline]
    //= RFC 1122 3.2.1.7-MUST-2
    pub const fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// The ECN codepoint.
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.header[1])
    }

    /// Whether this is but a part of a packet.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.header[6], self.header[7]]) & FRAGMENT != 0
    }

    /// The identification, and the word of flags and fragment offset in units of eight octets.
    pub const fn fragment(&self) -> (u16, u16) {
        let h = self.header;
        (u16::from_be_bytes([h[4], h[5]]), u16::from_be_bytes([h[6], h[7]]) & FRAGMENT)
    }

    /// The type of service.
    pub const fn traffic_class(&self) -> u8 {
        self.header[1]
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_is_valid(&self) -> bool {
        let sum = Sum::of(self.header);
        match self.octets.get(HEADER_LEN..self.header_len()) {
            Some(options) if !options.is_empty() => sum.add_octets(options).is_valid(),
            _ => sum.is_valid(),
        }
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.octets.get(self.header_len()..).unwrap_or_default()
    }
}

/// Whether a packet can come from `source`: the address of one host, on no group, not this host itself, known.
#[inline]
pub const fn is_valid_source(source: Ipv4Addr) -> bool {
    is_one_host(source)
}

/// Whether a packet can be meant for one host: `destination` is no group, no loopback, not unspecified.
#[inline]
pub const fn is_valid_destination(destination: Ipv4Addr) -> bool {
    is_one_host(destination)
}

/// Neither 0/8 (RFC 1122 §3.2.1.3), 127/8, 224/4 nor the limited broadcast.
#[inline]
const fn is_one_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first & 0xf0 != 0xe0 && !address.is_broadcast()
}

/// A header to send: without options, not to be fragmented, and therefore with identification 0 (RFC 6864 §4.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4Header {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// Type of service: differentiated services and ECN.
    pub(crate) tos: u8,
    /// Octets of the packet, header included.
    pub(crate) total_len: u16,
}

impl Ipv4Header {
    /// The header's octets. The checksum is taken over the fields: reading back octets just written would stall.
    #[inline(always)]
    pub(crate) fn emit(&self, header: &mut [u8; HEADER_LEN]) {
        let version_and_len = 0x45 << 24 | u32::from(self.tos) << 16 | u32::from(self.total_len);
        let ttl_and_protocol = u16::from_be_bytes([self.ttl, self.protocol]);
        let checksum = Sum::ZERO
            .add_u32(version_and_len)
            .add_u16(DONT_FRAGMENT)
            .add_u16(ttl_and_protocol)
            .add_u32(u32::from(self.source))
            .add_u32(u32::from(self.destination))
            .checksum();
        header[..4].copy_from_slice(&version_and_len.to_be_bytes());
        // identification 0
        header[4..8].copy_from_slice(&u32::from(DONT_FRAGMENT).to_be_bytes());
        header[8..10].copy_from_slice(&ttl_and_protocol.to_be_bytes());
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..].copy_from_slice(&self.destination.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload_len: usize) -> Vec<u8> {
        let mut octets = vec![7; HEADER_LEN + payload_len];
        let header = Ipv4Header {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(198, 51, 100, 2),
            protocol: 6,
            ttl: 64,
            tos: 46 << 2 | Ecn::Capable0.bits(),
            total_len: octets.len() as u16,
        };
        header.emit(octets.first_chunk_mut().unwrap());
        octets
    }

    #[test]
    fn what_is_sent_is_read() {
        let mut octets = packet(8);
        octets.extend([0; 18]);
        let view = Ipv4Packet::parse(&octets).unwrap();
        assert_eq!(view.total_len(), 28);
        assert_eq!(view.payload(), [7; 8]);
        assert_eq!((view.protocol(), view.ttl(), view.ecn()), (6, 64, Ecn::Capable0));
        assert_eq!(view.source(), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(view.destination(), Ipv4Addr::new(198, 51, 100, 2));
        assert!(view.checksum_is_valid() && !view.is_fragment());
        assert_eq!(octets[1] >> 2, 46, "code point");
        assert_eq!(octets[6] & 0x40, 0x40, "don't fragment");
    }

    #[test]
    fn lengths_must_agree() {
        let octets = packet(8);
        for len in 0..octets.len() {
            let want = if len < HEADER_LEN { DropReason::TruncatedIp } else { DropReason::BadIpTotalLength };
            assert_eq!(Ipv4Packet::parse(&octets[..len]).err(), Some(want), "{len}");
        }
        let with = |at: usize, value: u8| {
            let mut octets = packet(8);
            octets[at] = value;
            Ipv4Packet::parse(&octets).map(|view| view.payload().len())
        };
        assert_eq!(with(0, 0x65), Err(DropReason::BadIpVersion));
        assert_eq!(with(0, 0x44), Err(DropReason::BadIpHeaderLength));
        assert_eq!(with(0, 0x4f), Err(DropReason::TruncatedIp));
        assert_eq!(with(0, 0x47), Ok(0));
        assert_eq!(with(3, 19), Err(DropReason::BadIpTotalLength));
        assert_eq!(with(3, 20), Ok(0));
        assert_eq!(with(3, 29), Err(DropReason::BadIpTotalLength));
    }

    #[test]
    //= RFC 9293 MUST-50
    //= RFC 1122 3.2.1.8-MUST-1
    fn options_are_summed_and_stepped_over() {
        let mut octets = packet(8);
        octets[0] = 0x46;
        octets[10..12].fill(0);
        let checksum = Sum::of(&octets[..24]).checksum();
        octets[10..12].copy_from_slice(&checksum.to_be_bytes());
        let view = Ipv4Packet::parse(&octets).unwrap();
        assert!(view.checksum_is_valid());
        assert_eq!(view.payload(), [7; 4]);
        octets[21] ^= 1;
        assert!(!Ipv4Packet::parse(&octets).unwrap().checksum_is_valid());
    }

    #[test]
    fn fragments_are_told() {
        for (at, value) in [(6, 0x20), (6, 0x01), (7, 0x01)] {
            let mut octets = packet(0);
            octets[at] = value;
            assert!(Ipv4Packet::parse(&octets).unwrap().is_fragment());
        }
    }

    #[test]
    fn only_hosts_speak() {
        for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"] {
            assert!(!is_valid_source(bad.parse().unwrap()), "{bad}");
        }
        for good in ["1.0.0.1", "10.0.0.255", "126.0.0.1", "128.0.0.1", "223.1.1.1", "240.0.0.1", "255.255.255.254"] {
            assert!(is_valid_source(good.parse().unwrap()), "{good}");
        }
    }
}
