//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests, and errors about TCP segments.
//!
//! What an error means is the same in both families, so it is told in one vocabulary.

use std::net::IpAddr;

use super::addr::MacAddr;
use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::ip::protocol;
use super::ipv4;
use super::ipv6;
use super::seq::Seq;

/// Octets of the header: type, code, checksum and a word that depends on the type.
pub const HEADER_LEN: usize = 8;

/// Octets of a quoted segment that an error must carry: ports and sequence number (RFC 792).
const QUOTED_SEGMENT_LEN: usize = 8;

pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const UNREACHABLE: u8 = 3;
pub(crate) const ECHO: u8 = 8;
pub(crate) const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

pub(crate) const V6_ECHO: u8 = 128;
pub(crate) const V6_ECHO_REPLY: u8 = 129;
pub(crate) const V6_UNREACHABLE: u8 = 1;
const V6_PACKET_TOO_BIG: u8 = 2;
pub(crate) const V6_TIME_EXCEEDED: u8 = 3;
pub(crate) const V6_PARAMETER_PROBLEM: u8 = 4;

/// The protocol number of ICMP in the family of `address`.
pub const fn icmp_protocol(address: IpAddr) -> u8 {
    if address.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP }
}

/// What goes into the checksum of a message of `len` octets besides the message: ICMPv6 has a pseudo-header (RFC 4443 §2.3).
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, len: usize) -> Sum {
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Sum::pseudo_v6(source, destination, protocol::ICMPV6, len as u32)
        }
        _ => Sum::ZERO,
    }
}

/// An echo request to one host, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// The station that sent the frame.
    pub source_mac: MacAddr,
    /// Who asks.
    pub source: IpAddr,
    /// Who is asked.
    pub destination: IpAddr,
    /// Where in the frame the ICMP message begins, octets.
    pub message_offset: u16,
    /// Octets of the message, header included.
    pub message_len: u16,
}

impl EchoRequest {
    /// The ICMP message, in the frame that the request was parsed from.
    #[inline]
    pub fn message<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        let start = usize::from(self.message_offset);
        frame.get(start..start + usize::from(self.message_len)).unwrap_or_default()
    }
}

/// An error that somebody on the path reports about a segment that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who reports.
    pub source: IpAddr,
    /// To whom: the address the report came to.
    pub destination: IpAddr,
    /// What happened.
    pub kind: IcmpErrorKind,
    /// The segment it happened to.
    pub quoted: QuotedSegment,
}

/// What happened to a packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErrorKind {
    /// It could not be delivered.
    Unreachable(Unreachable),
    /// It was larger than the next link carries and may not be fragmented.
    PacketTooBig {
        /// MTU of that link, octets; zero if the router does not tell (before RFC 1191).
        mtu: u32,
    },
    /// It ran out of hops or of time for reassembly.
    TimeExceeded,
    /// A field of its header was not understood.
    ParameterProblem,
}

/// What could not be reached (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The network: no route.
    Network,
    /// The host.
    Host,
    /// The protocol: the host has no TCP.
    Protocol,
    /// The port.
    Port,
    /// Somebody forbids it.
    Prohibited,
    /// Something else.
    Other,
}

impl Unreachable {
    /// Whether it may pass, so that no connection is given up for it (RFC 9293 §3.9.2.2, MUST-56).
    pub const fn is_soft(self) -> bool {
        matches!(self, Self::Network | Self::Host)
    }
}

/// What an ICMP error quotes of the segment it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedSegment {
    /// Source address: ours, if the segment was.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// SEG.SEQ, to be checked against what is in flight (RFC 5927 §4.1).
    pub seq: Seq,
}

/// What an ICMP message is to a host that speaks TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpMessage {
    Echo,
    Error(IcmpErrorKind, QuotedSegment),
}

/// Reads an ICMP message for IPv4 whose checksum is right.
pub(crate) fn parse_v4(message: &[u8]) -> Result<IcmpMessage, DropReason> {
    let &[kind, code, _, _, _, _, mtu_high, mtu_low] = message.first_chunk().ok_or(DropReason::TruncatedIcmp)?;
    let error = match (kind, code) {
        (ECHO, 0) => return Ok(IcmpMessage::Echo),
        // RFC 1191 §4: the next-hop MTU is the low half of the word.
        (UNREACHABLE, 4) => IcmpErrorKind::PacketTooBig { mtu: u32::from(u16::from_be_bytes([mtu_high, mtu_low])) },
        (UNREACHABLE, code) => IcmpErrorKind::Unreachable(match code {
            0 | 5 | 6 | 11 => Unreachable::Network,
            1 | 7 | 8 | 12 => Unreachable::Host,
            2 => Unreachable::Protocol,
            3 => Unreachable::Port,
            9 | 10 | 13 => Unreachable::Prohibited,
            _ => Unreachable::Other,
        }),
        //= RFC 9293 MUST-55
        //= RFC 5927 6-SHOULD-1
        (TIME_EXCEEDED, _) => IcmpErrorKind::TimeExceeded,
        (PARAMETER_PROBLEM, _) => IcmpErrorKind::ParameterProblem,
        //= RFC 1122 3.2.2-MUST-1
        _ => return Err(DropReason::IgnoredIcmp),
    };
    Ok(IcmpMessage::Error(error, quoted_v4(&message[HEADER_LEN..])?))
}

/// Reads an ICMPv6 message, other than neighbour discovery, whose checksum is right.
pub(crate) fn parse_v6(message: &[u8]) -> Result<IcmpMessage, DropReason> {
    let &[kind, code, _, _, m0, m1, m2, m3] = message.first_chunk().ok_or(DropReason::TruncatedIcmp)?;
    let error = match (kind, code) {
        (V6_ECHO, 0) => return Ok(IcmpMessage::Echo),
        (V6_PACKET_TOO_BIG, _) => IcmpErrorKind::PacketTooBig { mtu: u32::from_be_bytes([m0, m1, m2, m3]) },
        (V6_UNREACHABLE, code) => IcmpErrorKind::Unreachable(match code {
            0 | 2 => Unreachable::Network,
            1 | 5 | 6 => Unreachable::Prohibited,
            3 => Unreachable::Host,
            4 => Unreachable::Port,
            _ => Unreachable::Other,
        }),
        (V6_TIME_EXCEEDED, _) => IcmpErrorKind::TimeExceeded,
        (V6_PARAMETER_PROBLEM, _) => IcmpErrorKind::ParameterProblem,
        _ => return Err(DropReason::IgnoredIcmp),
    };
    Ok(IcmpMessage::Error(error, quoted_v6(&message[HEADER_LEN..])?))
}

/// The quote of an IPv4 packet. It is cut short, so its lengths tell nothing and its checksums cannot be verified.
fn quoted_v4(quote: &[u8]) -> Result<QuotedSegment, DropReason> {
    let header = quote.first_chunk::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::BadIcmpQuote)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let understood = header[0] >> 4 == 4 && header_len >= ipv4::HEADER_LEN && header[9] == protocol::TCP;
    if !understood || fragment_offset != 0 {
        return Err(DropReason::BadIcmpQuote);
    }
    let address = |at: usize| IpAddr::from(core::array::from_fn::<u8, 4, _>(|i| header[at + i]));
    quoted_segment(address(12), address(16), quote.get(header_len..).unwrap_or_default())
}

/// The quote of an IPv6 packet. The engine sends no extension headers, so a quote with one is not of its making.
fn quoted_v6(quote: &[u8]) -> Result<QuotedSegment, DropReason> {
    let (header, rest) = quote.split_first_chunk::<{ ipv6::HEADER_LEN }>().ok_or(DropReason::BadIcmpQuote)?;
    if header[0] >> 4 != 6 || header[6] != protocol::TCP {
        return Err(DropReason::BadIcmpQuote);
    }
    let address = |at: usize| IpAddr::from(core::array::from_fn::<u8, 16, _>(|i| header[at + i]));
    quoted_segment(address(8), address(24), rest)
}

fn quoted_segment(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Result<QuotedSegment, DropReason> {
    let &[a, b, c, d, s0, s1, s2, s3] = segment.first_chunk::<QUOTED_SEGMENT_LEN>().ok_or(DropReason::BadIcmpQuote)?;
    Ok(QuotedSegment {
        source,
        destination,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        seq: Seq(u32::from_be_bytes([s0, s1, s2, s3])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples;

    fn error_v4(kind: u8, code: u8, word: [u8; 4]) -> Vec<u8> {
        [&[kind, code, 0, 0][..], &word, &samples::tcp_v4()[14..14 + 28]].concat()
    }

    fn error_v6(kind: u8, code: u8, word: [u8; 4]) -> Vec<u8> {
        [&[kind, code, 0, 0][..], &word, &samples::tcp_v6()[14..14 + 48]].concat()
    }

    fn kind_of(message: Result<IcmpMessage, DropReason>) -> IcmpErrorKind {
        match message {
            Ok(IcmpMessage::Error(kind, _)) => kind,
            other => panic!("no error: {other:?}"),
        }
    }

    #[test]
    fn errors_name_the_segment_they_are_about() {
        for (message, segment) in [
            (parse_v4(&error_v4(3, 3, [0; 4])), samples::segment_v4()),
            (parse_v6(&error_v6(1, 4, [0; 4])), samples::segment_v6()),
        ] {
            let quoted = QuotedSegment {
                source: segment.source,
                destination: segment.destination,
                source_port: segment.source_port,
                destination_port: segment.destination_port,
                seq: segment.seq,
            };
            assert_eq!(message, Ok(IcmpMessage::Error(IcmpErrorKind::Unreachable(Unreachable::Port), quoted)));
        }
    }

    #[test]
    fn types_and_codes_have_their_meanings() {
        use IcmpErrorKind as Kind;
        let v4 = |kind, code, word| kind_of(parse_v4(&error_v4(kind, code, word)));
        assert_eq!(v4(3, 4, [0, 0, 0x05, 0x78]), Kind::PacketTooBig { mtu: 1400 });
        assert_eq!(v4(3, 0, [0; 4]), Kind::Unreachable(Unreachable::Network));
        assert_eq!(v4(3, 1, [0; 4]), Kind::Unreachable(Unreachable::Host));
        assert_eq!(v4(3, 2, [0; 4]), Kind::Unreachable(Unreachable::Protocol));
        assert_eq!(v4(3, 13, [0; 4]), Kind::Unreachable(Unreachable::Prohibited));
        assert_eq!(v4(3, 99, [0; 4]), Kind::Unreachable(Unreachable::Other));
        assert_eq!(v4(11, 0, [0; 4]), Kind::TimeExceeded);
        assert_eq!(v4(12, 0, [0; 4]), Kind::ParameterProblem);
        let v6 = |kind, code, word| kind_of(parse_v6(&error_v6(kind, code, word)));
        assert_eq!(v6(2, 0, [0, 0, 0x05, 0x00]), Kind::PacketTooBig { mtu: 1280 });
        assert_eq!(v6(1, 0, [0; 4]), Kind::Unreachable(Unreachable::Network));
        assert_eq!(v6(1, 1, [0; 4]), Kind::Unreachable(Unreachable::Prohibited));
        assert_eq!(v6(1, 3, [0; 4]), Kind::Unreachable(Unreachable::Host));
        assert_eq!(v6(3, 0, [0; 4]), Kind::TimeExceeded);
        assert_eq!(v6(4, 1, [0; 4]), Kind::ParameterProblem);
        assert_eq!(v6(4, 0, [0; 4]), Kind::ParameterProblem);
        assert_eq!(parse_v4(&[8, 0, 0, 0, 0, 0, 0, 0]), Ok(IcmpMessage::Echo));
        assert_eq!(parse_v6(&[128, 0, 0, 0, 0, 0, 0, 0]), Ok(IcmpMessage::Echo));
        assert_eq!(parse_v4(&[0, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::IgnoredIcmp));
        assert_eq!(parse_v6(&[129, 0, 0, 0, 0, 0, 0, 0]), Err(DropReason::IgnoredIcmp));
    }

    #[test]
    fn every_prefix_is_refused() {
        let (v4, v6) = (error_v4(3, 3, [0; 4]), error_v6(1, 4, [0; 4]));
        for len in 0..v4.len() {
            let want = if len < HEADER_LEN { DropReason::TruncatedIcmp } else { DropReason::BadIcmpQuote };
            assert_eq!(parse_v4(&v4[..len]), Err(want));
        }
        for len in 0..v6.len() {
            let want = if len < HEADER_LEN { DropReason::TruncatedIcmp } else { DropReason::BadIcmpQuote };
            assert_eq!(parse_v6(&v6[..len]), Err(want));
        }
    }

    #[test]
    fn quotes_of_anything_but_a_segments_head_are_refused() {
        for (at, value) in [(8, 0x55), (8, 0x44), (8 + 9, 17), (8 + 7, 1)] {
            let mut message = error_v4(3, 3, [0; 4]);
            message[at] = value;
            assert_eq!(parse_v4(&message), Err(DropReason::BadIcmpQuote), "octet {at}");
        }
    }
}
