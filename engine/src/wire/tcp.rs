//! TCP headers (RFC 9293 §3.1), and the segment as the rest of the engine sees it.

use core::fmt;
use core::ops::{BitOr, BitOrAssign};
use std::net::{IpAddr, Ipv4Addr};

use super::addr::MacAddr;
use super::drop_reason::DropReason;
use super::ip::Ecn;
use super::seq::Seq;
use super::tcp_options::TcpOptions;
use crate::flow::FlowKey;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;

/// The control bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Flags(u8);

impl Flags {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// No more data from sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer field is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168 §6.1).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168 §6.1).
    pub const CWR: Self = Self(0x80);
    /// SYN and ACK.
    pub const SYN_ACK: Self = Self(0x12);
    /// FIN and ACK.
    pub const FIN_ACK: Self = Self(0x11);
    /// RST and ACK.
    pub const RST_ACK: Self = Self(0x14);
    /// PSH and ACK.
    pub const PSH_ACK: Self = Self(0x18);

    const NAMES: [&'static str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// The bits as they are in the header.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bits as they are in the header.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of either: `|` for constants.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits without those of `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether FIN is set.
    #[inline]
    pub const fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    /// Whether SYN is set.
    #[inline]
    pub const fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    /// Whether RST is set.
    #[inline]
    pub const fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    /// Whether ACK is set.
    #[inline]
    pub const fn ack(self) -> bool {
        self.contains(Self::ACK)
    }

    /// Octets of sequence space that the bits take up: one for SYN, one for FIN.
    #[inline]
    pub const fn seq_len(self) -> u32 {
        (self.0 & 1) as u32 + ((self.0 >> 1) & 1) as u32
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, rhs: Self) -> Self {
        self.union(rhs)
    }
}

impl BitOrAssign for Flags {
    #[inline]
    fn bitor_assign(&mut self, rhs: Self) {
        self.0 |= rhs.0;
    }
}

/// `SYN|ACK`, or `-` if no bit is set.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name) in Self::NAMES.iter().enumerate() {
            if self.0 >> bit & 1 != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if separator.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A header whose data offset lies within its segment.
#[derive(Clone, Copy, Debug)]
pub struct TcpHeader<'a> {
    fixed: &'a [u8; HEADER_LEN],
    options: &'a [u8],
}

impl<'a> TcpHeader<'a> {
    /// The header at the start of `segment`.
    ///
    /// # Errors
    /// [`TruncatedTcp`](DropReason::TruncatedTcp), [`BadTcpDataOffset`](DropReason::BadTcpDataOffset).
    #[inline]
    pub fn parse(segment: &'a [u8]) -> Result<Self, DropReason> {
        let fixed = segment.first_chunk::<HEADER_LEN>().ok_or(DropReason::TruncatedTcp)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        // The range check also refuses an offset below 20.
        let options = segment.get(HEADER_LEN..header_len).ok_or(DropReason::BadTcpDataOffset)?;
        Ok(Self { fixed, options })
    }

    #[inline]
    const fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.fixed[at], self.fixed[at + 1]])
    }

    #[inline]
    const fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.fixed[at], self.fixed[at + 1], self.fixed[at + 2], self.fixed[at + 3]])
    }

    /// Octets of the header with its options.
    #[inline]
    pub const fn len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// A header is never empty.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The source port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        self.u16_at(0)
    }

    /// The destination port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        self.u16_at(2)
    }

    /// SEG.SEQ.
    #[inline]
    pub const fn seq(&self) -> Seq {
        Seq(self.u32_at(4))
    }

    /// SEG.ACK; means something only if ACK is set.
    #[inline]
    pub const fn ack(&self) -> Seq {
        Seq(self.u32_at(8))
    }

    /// The control bits.
    #[inline]
    pub const fn flags(&self) -> Flags {
        Flags(self.fixed[13])
    }

    /// SEG.WND as it is in the header, not scaled.
    #[inline]
    //= RFC 9293 MUST-1
    pub const fn window(&self) -> u16 {
        self.u16_at(14)
    }

    /// The checksum field.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        self.u16_at(16)
    }

    /// SEG.UP; means something only if URG is set.
    #[inline]
    pub const fn urgent_pointer(&self) -> u16 {
        self.u16_at(18)
    }

    /// The options' octets.
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }
}

/// A segment that passed every check a parser can make.
///
/// Borrows nothing: a burst is parsed into these first and acted upon later, when its frames may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSegment {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    // Neighbours of the header, the other way round: then they are turned and stored in one piece
    /// Destination port.
    pub destination_port: u16,
    /// Source port.
    pub source_port: u16,
    /// SEG.ACK; means something only if ACK is set.
    pub ack: Seq,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.WND as it is in the header, not scaled.
    pub window: u16,
    /// SEG.UP; means something only if URG is set.
    pub urgent_pointer: u16,
    /// The control bits.
    pub flags: Flags,
    /// The ECN field of the IP header.
    pub ecn: Ecn,
    /// Whether the checksum field held just the pseudo-header's sum, and the segment was accepted all the same.
    pub partial_checksum: bool,
    /// The station that sent the frame.
    pub source_mac: MacAddr,
    /// Where in the frame the payload begins, octets.
    pub payload_offset: u16,
    /// Octets of payload.
    pub payload_len: u16,
    /// The options.
    pub options: TcpOptions,
}

impl TcpSegment {
    /// What a parser writes over.
    pub(crate) const NONE: Self = Self {
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        source_port: 0,
        destination_port: 0,
        seq: Seq(0),
        ack: Seq(0),
        window: 0,
        urgent_pointer: 0,
        flags: Flags::NONE,
        ecn: Ecn::NotCapable,
        partial_checksum: false,
        source_mac: MacAddr::ZERO,
        payload_offset: 0,
        payload_len: 0,
        options: TcpOptions::NONE,
    };

    /// SEG.LEN: octets of sequence space that the segment takes up, SYN and FIN included.
    #[inline]
    pub const fn seq_len(&self) -> u32 {
        self.payload_len as u32 + self.flags.seq_len()
    }

    /// The key of its flow, seen from the end that it arrived at.
    #[inline]
    pub(crate) fn flow_key(&self) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            local_port: self.destination_port,
            remote_port: self.source_port,
        }
    }

    /// The payload, in the frame that the segment was parsed from.
    #[inline]
    pub fn payload<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        let start = usize::from(self.payload_offset);
        frame.get(start..start + usize::from(self.payload_len)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_offset_must_lie_within_the_segment() {
        let mut segment = [0; 40];
        for offset in 0..16 {
            segment[12] = offset << 4;
            for len in 0..=segment.len() {
                let want = match (usize::from(offset) * 4, len) {
                    (_, ..HEADER_LEN) => Err(DropReason::TruncatedTcp),
                    (header_len, _) if header_len < HEADER_LEN || header_len > len => Err(DropReason::BadTcpDataOffset),
                    (header_len, _) => Ok(header_len),
                };
                assert_eq!(TcpHeader::parse(&segment[..len]).map(|header| header.len()), want);
            }
        }
    }

    #[test]
    fn flags_speak_their_names() {
        assert_eq!((Flags::SYN | Flags::ACK).to_string(), "SYN|ACK");
        assert_eq!((Flags::SYN | Flags::ECE | Flags::CWR).to_string(), "SYN|ECE|CWR");
        assert_eq!(Flags::NONE.to_string(), "-");
        assert_eq!(Flags::SYN_ACK, Flags::SYN | Flags::ACK);
        assert_eq!(Flags::FIN_ACK, Flags::FIN | Flags::ACK);
        assert_eq!(Flags::RST_ACK, Flags::RST | Flags::ACK);
        assert_eq!(Flags::PSH_ACK, Flags::PSH | Flags::ACK);
        assert_eq!(Flags::SYN_ACK.without(Flags::SYN), Flags::ACK);
        assert_eq!((Flags::SYN | Flags::FIN).seq_len(), 2);
        assert_eq!(Flags::PSH_ACK.seq_len(), 0);
        assert!(
            Flags::SYN_ACK.intersects(Flags::SYN | Flags::RST) && !Flags::SYN_ACK.contains(Flags::SYN | Flags::RST)
        );
    }
}
