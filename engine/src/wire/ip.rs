//! What IPv4 and IPv6 have in common.

use std::net::IpAddr;

use super::{ipv4, ipv6};

/// The upper-layer protocol numbers that the engine knows.
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
}

/// The ECN field of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand ECN.
    #[default]
    NotCapable = 0b00,
    /// The transport does, codepoint ECT(1).
    Capable1 = 0b01,
    /// The transport does, codepoint ECT(0): the one to send.
    Capable0 = 0b10,
    /// A router on the path is congested.
    CongestionExperienced = 0b11,
}

impl Ecn {
    /// The codepoint in the low two bits of a type-of-service or traffic-class octet.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotCapable,
            0b01 => Self::Capable1,
            0b10 => Self::Capable0,
            _ => Self::CongestionExperienced,
        }
    }

    /// The two bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self as u8
    }
}

/// Type of service, or traffic class: code point and ECN.
#[inline(always)]
//= RFC 9293 MUST-48, SHLD-22
//= RFC 1122 3.2.1.6-MUST-1
pub(crate) const fn tos(dscp: u8, ecn: Ecn) -> u8 {
    dscp << 2 | ecn.bits()
}

/// Octets of the header of a packet to or from `address`, without options or extensions.
#[inline]
pub const fn header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN }
}
