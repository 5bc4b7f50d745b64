//! From meanings to frames.
//!
//! A frame is built in place. For a segment with data the caller asks [`OutSegment::header_len`] where the payload
//! goes, writes it there, and has the headers put before it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::addr::MacAddr;
use super::arp::{self, ArpPacket};
use super::checksum::Sum;
use super::ethernet::{EtherType, Link};
use super::icmp;
use super::ip::{Ecn, header_len, protocol, tos};
use super::ipv4::{self, Ipv4Header};
use super::ipv6::{self, Ipv6Header};
use super::ndp::{self, NeighborAdvertisement, NeighborSolicitation};
use super::seq::Seq;
use super::tcp::{self, Flags, TcpSegment};
use super::tcp_options::{TIMESTAMPS_LEN, TcpOptions, Timestamps};
use super::usual::{USUAL_IP, USUAL_LEN, USUAL_TCP};

/// Why a frame was not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// The buffer, or the length field of an IP header, is too small for the frame.
    NoRoom,
    /// Source and destination are not addresses of one family.
    MixedFamilies,
}

impl core::fmt::Display for EmitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoRoom => "the frame does not fit its buffer: send less payload or configure a larger frame",
            Self::MixedFamilies => "source and destination are not of one family: use two IPv4 or two IPv6 addresses",
        })
    }
}

impl core::error::Error for EmitError {}

/// A segment to be sent.
#[derive(Clone, Copy, Debug)]
pub struct OutSegment {
    /// The stations, and the VLAN.
    pub link: Link,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK; sent as it is also if ACK is not set.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND, scaled.
    pub window: u16,
    /// SEG.UP.
    pub urgent_pointer: u16,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Differentiated services code point of the IP header, six bits.
    pub dscp: u8,
    /// ECN codepoint of the IP header.
    pub ecn: Ecn,
    /// The options.
    pub options: TcpOptions,
}

/// The fields of a TCP header, but for its length and checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpFields {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) urgent_pointer: u16,
}

impl TcpFields {
    /// Writes the fixed part of the header. Its sum is taken over the fields: reading back octets just written would
    /// stall.
    #[inline(always)]
    fn emit(&self, header: &mut [u8; tcp::HEADER_LEN], options_len: usize, sum: Sum) {
        let data_offset = ((tcp::HEADER_LEN + options_len) as u8 / 4) << 4;
        let ports = u32::from(self.source_port) << 16 | u32::from(self.destination_port);
        let flags_and_window =
            u32::from(data_offset) << 24 | u32::from(self.flags.bits()) << 16 | u32::from(self.window);
        //= RFC 9293 MUST-2
        let checksum = sum
            .add_u32(ports)
            .add_u32(self.seq.0)
            .add_u32(self.ack.0)
            .add_u32(flags_and_window)
            .add_u16(self.urgent_pointer)
            .checksum();
        header[..4].copy_from_slice(&ports.to_be_bytes());
        header[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        header[12..16].copy_from_slice(&flags_and_window.to_be_bytes());
        header[16..18].copy_from_slice(&checksum.to_be_bytes());
        header[18..].copy_from_slice(&self.urgent_pointer.to_be_bytes());
    }
}

/// How every frame of a worker begins that holds a usual segment: Ethernet and IPv4 without options, on a link without VLAN.
/// What differs from frame to frame is zero in it. Made once, copied for each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsualHead {
    /// All but half of the destination address: two words of the widest kind.
    octets: [u8; 32],
    /// The sum of the IPv4 header in it.
    sum: Sum,
}

impl UsualHead {
    pub(crate) fn new(source: MacAddr, hop_limit: u8, tos: u8) -> Self {
        let mut octets = [0; 32];
        let header = [0x45, tos, 0, 0, 0, 0, 0x40, 0, hop_limit, protocol::TCP];
        octets[6..12].copy_from_slice(&source.0);
        octets[12..USUAL_IP].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        octets[USUAL_IP..USUAL_IP + header.len()].copy_from_slice(&header);
        Self { octets, sum: Sum::of(&header) }
    }
}

/// A segment over IPv4 with timestamps alone: what nearly all traffic consists of. The link has no VLAN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsualSegment {
    /// The station it goes to.
    pub(crate) station: MacAddr,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) tcp: TcpFields,
}

impl UsualSegment {
    /// Octets of the headers with timestamps.
    pub(crate) const STAMPED_LEN: usize = USUAL_LEN + TIMESTAMPS_LEN;

    /// Writes the headers of the segment, with timestamps as its only option, before a payload of so many octets and with this
    /// sum.
    #[inline(always)]
    pub(crate) fn emit_stamped(
        &self,
        headers: &mut [u8; Self::STAMPED_LEN],
        head: &UsualHead,
        timestamps: Timestamps,
        (payload_len, payload_sum): (u16, Sum),
    ) {
        let (rest, options) = headers.split_last_chunk_mut().expect("the options end the headers");
        let sum = timestamps.emit_summed(options).plus(payload_sum);
        self.emit(rest, head, TIMESTAMPS_LEN as u16, payload_len, sum);
    }

    /// Writes everything before the options. `sum` is that of the options and the payload.
    #[inline(always)]
    fn emit(&self, headers: &mut [u8], head: &UsualHead, options_len: u16, payload_len: u16, sum: Sum) {
        const HEADERS_LEN: u16 = (ipv4::HEADER_LEN + tcp::HEADER_LEN) as u16;
        let total_len = HEADERS_LEN + options_len + payload_len;
        let addresses = Sum::ZERO.add_u32(self.source.to_bits()).add_u32(self.destination.to_bits());
        let checksum = head.sum.plus(addresses).add_u16(total_len).checksum();
        headers[..32].copy_from_slice(&head.octets);
        headers[..6].copy_from_slice(&self.station.0);
        headers[USUAL_IP + 2..USUAL_IP + 4].copy_from_slice(&total_len.to_be_bytes());
        headers[USUAL_IP + 10..USUAL_IP + 12].copy_from_slice(&checksum.to_be_bytes());
        headers[USUAL_IP + 12..USUAL_IP + 16].copy_from_slice(&self.source.octets());
        headers[USUAL_IP + 16..USUAL_TCP].copy_from_slice(&self.destination.octets());
        // The segment's length is the packet's without the IP header: in such sums, plus the complement of that one's
        let pseudo = addresses.add_u16(u16::from(protocol::TCP)).add_u16(total_len).add_u16(!(ipv4::HEADER_LEN as u16));
        let header = headers[USUAL_TCP..].first_chunk_mut().expect("the options come after it");
        self.tcp.emit(header, usize::from(options_len), pseudo.plus(sum));
    }
}

impl OutSegment {
    /// Octets of the frame before the payload.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.link.header_len() + header_len(self.destination) + tcp::HEADER_LEN + self.options.emitted_len()
    }

    /// Writes the headers before the `payload_len` octets that are already at [`header_len`](Self::header_len), and
    /// returns the length of the frame.
    ///
    /// # Errors
    /// [`EmitError`]; then what is in `frame` is unspecified.
    pub fn emit(&self, frame: &mut [u8], payload_len: usize) -> Result<usize, EmitError> {
        let start = self.header_len();
        let payload = frame.get(start..start + payload_len).ok_or(EmitError::NoRoom)?;
        let sum = Sum::of(payload);
        self.emit_with_payload_sum(frame, payload_len, sum)
    }

    /// [`emit`](Self::emit) for a payload that `write` is to write, all of it.
    ///
    /// # Errors
    /// [`EmitError`]; `write` may have been called or not.
    #[inline]
    pub fn emit_with(
        &self,
        frame: &mut [u8],
        payload_len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<usize, EmitError> {
        let start = self.header_len();
        write(frame.get_mut(start..start + payload_len).ok_or(EmitError::NoRoom)?);
        self.emit(frame, payload_len)
    }

    /// [`emit`](Self::emit) for a payload whose sum is known, which is then not read.
    ///
    /// # Errors
    /// [`EmitError`]; then what is in `frame` is unspecified.
    #[inline]
    pub fn emit_with_payload_sum(
        &self,
        frame: &mut [u8],
        payload_len: usize,
        payload_sum: Sum,
    ) -> Result<usize, EmitError> {
        let options_len = self.options.emitted_len();
        let segment_len = tcp::HEADER_LEN + options_len + payload_len;
        let (pseudo, rest, ip_len) = self.emit_ip(frame, segment_len)?;
        let (header, rest) = rest.split_first_chunk_mut::<{ tcp::HEADER_LEN }>().ok_or(EmitError::NoRoom)?;
        if rest.len() < options_len + payload_len {
            return Err(EmitError::NoRoom);
        }
        let (_, options_sum) = self.options.emit_summed(rest).ok_or(EmitError::NoRoom)?;
        self.tcp_fields().emit(header, options_len, pseudo.plus(options_sum).plus(payload_sum));
        Ok(self.link.header_len() + ip_len + segment_len)
    }

    /// Writes everything before the TCP header. Returns the pseudo-header's sum, the rest of the frame, and the octets
    /// of the IP header.
    #[inline]
    fn emit_ip<'f>(&self, frame: &'f mut [u8], len: usize) -> Result<(Sum, &'f mut [u8], usize), EmitError> {
        let addresses = (self.source, self.destination);
        let tos = tos(self.dscp, self.ecn);
        let rest = put_ip(frame, &self.link, addresses, protocol::TCP, self.hop_limit, tos, len)?;
        let pseudo = match addresses {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Sum::pseudo_v4(source, destination, protocol::TCP, len as u32)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Sum::pseudo_v6(source, destination, protocol::TCP, len as u32)
            }
            _ => return Err(EmitError::MixedFamilies),
        };
        Ok((pseudo, rest, header_len(self.source)))
    }

    #[inline(always)]
    fn tcp_fields(&self) -> TcpFields {
        TcpFields {
            source_port: self.source_port,
            destination_port: self.destination_port,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            urgent_pointer: self.urgent_pointer,
        }
    }

    /// The reset that answers `segment` where there is no connection (RFC 9293 §3.10.7.1), or `None` if it is a reset
    /// itself.
    pub fn reset_for(segment: &TcpSegment, link: Link, hop_limit: u8) -> Option<Self> {
        let (seq, ack, flags) = match segment.flags {
            flags if flags.rst() => return None,
            flags if flags.ack() => (segment.ack, Seq(0), Flags::RST),
            _ => (Seq(0), segment.seq + segment.seq_len(), Flags::RST_ACK),
        };
        Some(Self {
            link,
            source: segment.destination,
            destination: segment.source,
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            seq,
            ack,
            flags,
            window: 0,
            urgent_pointer: 0,
            hop_limit,
            dscp: 0,
            ecn: Ecn::NotCapable,
            options: TcpOptions::NONE,
        })
    }
}

/// Builds an ARP frame and returns its length. The station that the frame goes to is `link`'s.
///
/// # Errors
/// [`EmitError::NoRoom`].
pub fn arp(frame: &mut [u8], link: &Link, packet: &ArpPacket) -> Result<usize, EmitError> {
    let rest = link.emit(frame, EtherType::ARP).ok_or(EmitError::NoRoom)?;
    *rest.first_chunk_mut().ok_or(EmitError::NoRoom)? = packet.to_octets();
    Ok(link.header_len() + arp::PACKET_LEN)
}

/// Builds the reply to an echo request, whose ICMP `message` is handed back with its type and checksum changed.
/// Returns the frame's length. `source` is the address that was asked.
///
/// # Errors
/// [`EmitError`].
pub fn echo_reply(
    frame: &mut [u8],
    link: &Link,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    message: &[u8],
) -> Result<usize, EmitError> {
    let (len, upper) = (message.len(), icmp::icmp_protocol(source));
    let kind = if source.is_ipv6() { icmp::V6_ECHO_REPLY } else { icmp::ECHO_REPLY };
    let rest = put_ip(frame, link, (source, destination), upper, hop_limit, 0, len)?;
    put_icmp(rest, message, Some(kind), icmp::pseudo_header(source, destination, len))?;
    Ok(link.header_len() + header_len(source) + len)
}

/// Builds a neighbour solicitation from `solicitation.source` to `destination`: the neighbour itself, or its
/// [`solicited_node`](ipv6::solicited_node) group. Returns the frame's length.
///
/// # Errors
/// [`EmitError::NoRoom`].
pub fn neighbor_solicitation(
    frame: &mut [u8],
    link: &Link,
    destination: Ipv6Addr,
    solicitation: &NeighborSolicitation,
) -> Result<usize, EmitError> {
    let mut message = [0; ndp::MESSAGE_LEN];
    let message = solicitation.emit(&mut message);
    icmpv6(frame, link, solicitation.source, destination, message)
}

/// Builds a neighbour advertisement from `advertisement.source` to `destination`: who asked, or all nodes. Returns the
/// frame's length.
///
/// # Errors
/// [`EmitError::NoRoom`].
pub fn neighbor_advertisement(
    frame: &mut [u8],
    link: &Link,
    destination: Ipv6Addr,
    advertisement: &NeighborAdvertisement,
) -> Result<usize, EmitError> {
    let mut message = [0; ndp::MESSAGE_LEN];
    let message = advertisement.emit(&mut message);
    icmpv6(frame, link, advertisement.source, destination, message)
}

/// A message of neighbour discovery.
fn icmpv6(
    frame: &mut [u8],
    link: &Link,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> Result<usize, EmitError> {
    let len = message.len();
    let rest = put_ipv6(frame, link, source, destination, protocol::ICMPV6, ndp::HOP_LIMIT, 0, len)?;
    put_icmp(rest, message, None, Sum::pseudo_v6(source, destination, protocol::ICMPV6, len as u32))?;
    Ok(link.header_len() + ipv6::HEADER_LEN + len)
}

/// Writes `message` with its type replaced by `kind`, if given, and its checksum computed.
fn put_icmp(octets: &mut [u8], message: &[u8], kind: Option<u8>, pseudo: Sum) -> Result<(), EmitError> {
    let octets = octets.get_mut(..message.len()).ok_or(EmitError::NoRoom)?;
    octets.copy_from_slice(message);
    let header = octets.first_chunk_mut::<4>().ok_or(EmitError::NoRoom)?;
    header[0] = kind.unwrap_or(header[0]);
    header[2..].fill(0);
    let checksum = pseudo.add_octets(octets).checksum();
    if let Some(header) = octets.first_chunk_mut::<4>() {
        header[2..].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(())
}

/// Writes the Ethernet header and the IP header of the addresses' family before `len` octets and returns what follows
/// them.
#[inline]
pub(crate) fn put_ip<'f>(
    frame: &'f mut [u8],
    link: &Link,
    addresses: (IpAddr, IpAddr),
    protocol: u8,
    hop_limit: u8,
    tos: u8,
    len: usize,
) -> Result<&'f mut [u8], EmitError> {
    match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put_ipv4(frame, link, source, destination, protocol, hop_limit, tos, len)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            put_ipv6(frame, link, source, destination, protocol, hop_limit, tos, len)
        }
        _ => Err(EmitError::MixedFamilies),
    }
}

/// Writes the Ethernet and IPv4 headers before `len` octets and returns what follows them.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the fields of two headers, each from another place")]
pub(crate) fn put_ipv4<'f>(
    frame: &'f mut [u8],
    link: &Link,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    tos: u8,
    len: usize,
) -> Result<&'f mut [u8], EmitError> {
    let total_len = u16::try_from(ipv4::HEADER_LEN + len).map_err(|_| EmitError::NoRoom)?;
    let rest = link.emit(frame, EtherType::IPV4).ok_or(EmitError::NoRoom)?;
    let (header, rest) = rest.split_first_chunk_mut().ok_or(EmitError::NoRoom)?;
    Ipv4Header { source, destination, protocol, ttl, tos, total_len }.emit(header);
    Ok(rest)
}

/// Writes the Ethernet and IPv6 headers before `len` octets and returns what follows them.
#[inline]
#[expect(clippy::too_many_arguments, reason = "the fields of two headers, each from another place")]
pub(crate) fn put_ipv6<'f>(
    frame: &'f mut [u8],
    link: &Link,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    traffic_class: u8,
    len: usize,
) -> Result<&'f mut [u8], EmitError> {
    let payload_len = u16::try_from(len).map_err(|_| EmitError::NoRoom)?;
    let rest = link.emit(frame, EtherType::IPV6).ok_or(EmitError::NoRoom)?;
    let (header, rest) = rest.split_first_chunk_mut().ok_or(EmitError::NoRoom)?;
    Ipv6Header { source, destination, next_header, hop_limit, traffic_class, payload_len }.emit(header);
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{ParseRules, Parsed, parse};
    use crate::wire::samples::{self, LINK, PAYLOAD, XorShift};

    fn received(flags: Flags, payload: &[u8]) -> TcpSegment {
        let frame = samples::build(&OutSegment { flags, ..samples::segment_v4() }, payload);
        match parse(&frame, &ParseRules::default()) {
            Ok(Parsed::Tcp(segment)) => segment,
            other => panic!("no segment: {other:?}"),
        }
    }

    #[test]
    fn a_frame_octet_by_octet() {
        let syn =
            OutSegment { flags: Flags::SYN, ack: Seq(0), options: samples::syn_options(), ..samples::segment_v4() };
        let frame = samples::build(&syn, b"");
        let want = [
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..],
            &[0x45, 2, 0, 60, 0, 0, 0x40, 0, 64, 6, 0xb6, 0xb6, 192, 0, 2, 2, 192, 0, 2, 1],
            &[0xc0, 0, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 0xa0, 2, 0x01, 0xf6],
        ];
        assert_eq!(frame[..50], want.concat());
        assert_eq!(frame[52..], [&[0, 0, 2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 3, 3, 7][..]].concat());
    }

    /// The usual road writes what the road of all segments writes.
    #[test]
    fn a_usual_segment_is_octet_for_octet_that_of_the_general_road() {
        let mut random = XorShift::new(9293);
        let mut word = samples::words(&mut random);
        for _ in 0..20_000 {
            let timestamps = Timestamps { value: word(), echo: word() };
            let payload: Vec<u8> = (0..word() % 200).map(|_| word() as u8).collect();
            let segment = samples::any_segment_v4(&mut word, TcpOptions::with_timestamps(timestamps));
            let want = samples::build(&segment, &payload);
            let (IpAddr::V4(source), IpAddr::V4(destination)) = (segment.source, segment.destination) else { panic!() };
            let head = UsualHead::new(LINK.source, segment.hop_limit, tos(segment.dscp, segment.ecn));
            let usual = UsualSegment { station: LINK.destination, source, destination, tcp: segment.tcp_fields() };
            let mut frame = vec![0xee; want.len()];
            let (headers, rest) = frame.split_first_chunk_mut().unwrap();
            rest.copy_from_slice(&payload);
            usual.emit_stamped(headers, &head, timestamps, (payload.len() as u16, Sum::of(&payload)));
            assert_eq!(frame, want, "{segment:?}");
        }
    }

    #[test]
    fn a_known_payload_sum_gives_the_same_frame() {
        for segment in [samples::segment_v4(), samples::segment_v6()] {
            let want = samples::build(&segment, PAYLOAD);
            let mut frame = vec![0; want.len()];
            let start = segment.header_len();
            frame[start..].copy_from_slice(PAYLOAD);
            let len = segment.emit_with_payload_sum(&mut frame, PAYLOAD.len(), Sum::of(PAYLOAD));
            assert_eq!(len, Ok(want.len()));
            assert_eq!(frame, want);
        }
    }

    #[test]
    fn a_short_buffer_is_told() {
        for segment in [samples::segment_v4(), samples::segment_v6()] {
            let whole = samples::build(&segment, PAYLOAD).len();
            for len in 0..whole {
                assert_eq!(segment.emit(&mut vec![0; len], PAYLOAD.len()), Err(EmitError::NoRoom));
                assert_eq!(segment.emit_with_payload_sum(&mut vec![0; len], 19, Sum::ZERO), Err(EmitError::NoRoom));
            }
            assert_eq!(segment.emit(&mut vec![0; 70_000], 65_535), Err(EmitError::NoRoom));
        }
        for len in 0..42 {
            assert_eq!(arp(&mut vec![0; len], &LINK, &samples::arp_request()), Err(EmitError::NoRoom));
        }
        let (source, destination) = (samples::segment_v4().source, samples::segment_v6().destination);
        assert_eq!(echo_reply(&mut [0; 128], &LINK, source, destination, 64, &[0; 8]), Err(EmitError::MixedFamilies));
        assert_eq!(echo_reply(&mut [0; 128], &LINK, source, source, 64, &[0; 3]), Err(EmitError::NoRoom));
        let mixed = OutSegment { destination, ..samples::segment_v4() };
        assert_eq!(mixed.emit(&mut [0; 256], 0), Err(EmitError::MixedFamilies));
    }

    #[test]
    fn resets_are_those_of_the_rfc() {
        let ack = received(Flags::PSH_ACK, PAYLOAD);
        let reset = OutSegment::reset_for(&ack, LINK, 64).unwrap();
        assert_eq!((reset.seq, reset.flags), (ack.ack, Flags::RST));
        assert_eq!((reset.source, reset.destination_port), (ack.destination, ack.source_port));
        let syn = received(Flags::SYN | Flags::FIN, PAYLOAD);
        let reset = OutSegment::reset_for(&syn, LINK, 64).unwrap();
        assert_eq!((reset.seq, reset.flags), (Seq(0), Flags::RST_ACK));
        assert_eq!(reset.ack, syn.seq + PAYLOAD.len() as u32 + 2);
        assert!(OutSegment::reset_for(&received(Flags::RST, b""), LINK, 64).is_none());
        assert!(OutSegment::reset_for(&received(Flags::RST_ACK, b""), LINK, 64).is_none());
    }
}
