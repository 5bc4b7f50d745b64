//! From a frame's first octet to what it means: step 3 of the loop.

use std::net::{IpAddr, Ipv4Addr};

use super::addr::MacAddr;
use super::arp::ArpPacket;
use super::checksum::Sum;
use super::drop_reason::DropReason;
use super::ethernet::{EtherType, EthernetHeader};
use super::icmp::{self, EchoRequest, IcmpError, IcmpMessage};
use super::ip::{Ecn, protocol};
use super::ipv4::{self, Ipv4Packet};
use super::ipv6::{self, Ipv6Packet};
use super::ndp::{
    Envelope, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NeighborAdvertisement, NeighborSolicitation,
};
use super::tcp::{TcpHeader, TcpSegment};
use super::tcp_options::TcpOptions;
use super::usual::{Hosts, parse_usual};
use super::vlan::VlanId;

/// What the device behind a frame promises, and what is left to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseRules {
    /// The VLAN the engine is on, or none: then only untagged frames are taken.
    pub vlan: Option<VlanId>,
    /// The engine's own station, if the device hands over frames to other ones as well.
    pub mac: Option<MacAddr>,
    /// The link's directed broadcast address, which no packet may come from or go to.
    pub broadcast: Ipv4Addr,
    /// Whether a TCP checksum field may hold just the sum of the pseudo-header, as a kernel leaves it for hardware to
    /// finish. True of veth, tap and virtio only.
    pub accept_partial_checksum: bool,
    /// Whether to verify IPv4 header checksums.
    pub verify_ip: bool,
    /// Whether to verify TCP checksums.
    pub verify_tcp: bool,
    /// Whether to verify ICMP and ICMPv6 checksums.
    pub verify_icmp: bool,
}

impl Default for ParseRules {
    /// Untagged frames to any station, everything verified, no partial checksums.
    fn default() -> Self {
        Self {
            vlan: None,
            mac: None,
            broadcast: Ipv4Addr::BROADCAST,
            accept_partial_checksum: false,
            verify_ip: true,
            verify_tcp: true,
            verify_icmp: true,
        }
    }
}

/// What a frame means. Borrows nothing: where something stays in the frame, the meaning says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment to one host.
    Tcp(TcpSegment),
    /// An echo request to one host.
    Echo(EchoRequest),
    /// A report about a segment that somebody sent.
    IcmpError(IcmpError),
    /// An ARP packet.
    Arp(ArpPacket),
    /// A neighbour solicitation.
    NeighborSolicitation(NeighborSolicitation),
    /// A neighbour advertisement.
    NeighborAdvertisement(NeighborAdvertisement),
}

/// What the headers before the TCP or ICMP message say.
struct Carrier {
    ethernet: EthernetHeader,
    source: IpAddr,
    destination: IpAddr,
    ecn: Ecn,
    /// Where in the frame the message begins.
    offset: usize,
}

/// Reads a frame. Addresses are checked to be those of hosts, not to be the engine's own.
///
/// # Errors
/// Why the frame is dropped, by the first check that fails, from the outside in.
#[inline]
pub fn parse(frame: &[u8], rules: &ParseRules) -> Result<Parsed, DropReason> {
    let mut segment = TcpSegment::NONE;
    let any = |address| ipv4::is_valid_destination(address).then_some(0);
    match rules.usual(Hosts::NONE).and_then(|usual| parse_usual(frame, &usual, any, &mut segment)) {
        Some(_) => Ok(Parsed::Tcp(segment)),
        None => parse_each(frame, rules),
    }
}

/// [`parse`], one layer at a time.
#[inline(never)]
pub(crate) fn parse_each(frame: &[u8], rules: &ParseRules) -> Result<Parsed, DropReason> {
    let ethernet = EthernetHeader::parse(frame)?;
    if !ethernet.is_on(rules.vlan) {
        return Err(DropReason::BadVlan);
    }
    if let Some(mac) = rules.mac
        && mac != ethernet.destination
        && !ethernet.destination.is_group()
    {
        return Err(DropReason::NotForUsMac);
    }
    if ethernet.source.is_group() {
        // no station sends from a group, and none may be answered there
        return Err(DropReason::GroupMac);
    }
    let packet = frame.get(ethernet.payload_offset..).unwrap_or_default();
    match ethernet.ethertype {
        EtherType::IPV4 => parse_ipv4(ethernet, packet, rules),
        EtherType::IPV6 => parse_ipv6(ethernet, packet, rules),
        EtherType::ARP => ArpPacket::parse(packet).map(Parsed::Arp),
        _ => Err(DropReason::UnknownEthertype),
    }
}

#[inline]
fn parse_ipv4(ethernet: EthernetHeader, octets: &[u8], rules: &ParseRules) -> Result<Parsed, DropReason> {
    let packet = Ipv4Packet::parse(octets)?;
    //= RFC 1122 3.2.1.2-MUST-1
    if rules.verify_ip && !packet.checksum_is_valid() {
        return Err(DropReason::BadIpChecksum);
    }
    let (source, destination) = (packet.source(), packet.destination());
    //= RFC 9293 MUST-63
    //= RFC 1122 3.2.1.3-MUST-2
    if !ipv4::is_valid_source(source) || source == rules.broadcast {
        return Err(DropReason::InvalidSource);
    }
    //= RFC 9293 MUST-57
    if !ipv4::is_valid_destination(destination) || destination == rules.broadcast {
        return Err(DropReason::InvalidDestination);
    }
    //= RFC 1122 3.3.6-SHOULD-1
    if ethernet.destination.is_group() {
        return Err(DropReason::GroupMac);
    }
    if packet.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let message = packet.payload();
    let carrier = Carrier {
        ethernet,
        source: IpAddr::V4(source),
        destination: IpAddr::V4(destination),
        ecn: packet.ecn(),
        offset: ethernet.payload_offset + packet.header_len(),
    };
    match packet.protocol() {
        protocol::TCP => {
            let pseudo = Sum::pseudo_v4(source, destination, protocol::TCP, message.len() as u32);
            parse_tcp(&carrier, message, pseudo, rules)
        }
        protocol::ICMP => {
            if rules.verify_icmp && !Sum::of(message).is_valid() {
                return Err(bad_icmp(message));
            }
            Ok(carrier.icmp(icmp::parse_v4(message)?, message))
        }
        _ => Err(DropReason::UnknownProtocol),
    }
}

#[inline(never)]
fn parse_ipv6(ethernet: EthernetHeader, octets: &[u8], rules: &ParseRules) -> Result<Parsed, DropReason> {
    let packet = Ipv6Packet::parse(octets)?;
    let (source, destination) = (packet.source(), packet.destination());
    let (upper, offset) = packet.upper_layer()?;
    let message = packet.from_offset(offset);
    //= RFC 8200 8.1-MUST-1
    let pseudo = Sum::pseudo_v6(source, destination, upper, message.len() as u32);
    if upper == protocol::ICMPV6 {
        if rules.verify_icmp && !pseudo.add_octets(message).is_valid() {
            return Err(bad_icmp(message));
        }
        let hop_limit = packet.hop_limit();
        let envelope = Envelope { source_mac: ethernet.source, source, destination, hop_limit };
        match message.first() {
            Some(&NEIGHBOR_SOLICITATION) => {
                return NeighborSolicitation::parse(message, &envelope).map(Parsed::NeighborSolicitation);
            }
            Some(&NEIGHBOR_ADVERTISEMENT) => {
                return NeighborAdvertisement::parse(message, &envelope).map(Parsed::NeighborAdvertisement);
            }
            _ => {}
        }
    }
    //= RFC 9293 MUST-63
    if !ipv6::is_valid_source(source) {
        return Err(DropReason::InvalidSource);
    }
    //= RFC 9293 MUST-57
    if !ipv6::is_valid_destination(destination) {
        return Err(DropReason::InvalidDestination);
    }
    if ethernet.destination.is_group() {
        return Err(DropReason::GroupMac);
    }
    let carrier = Carrier {
        ethernet,
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        ecn: packet.ecn(),
        offset: ethernet.payload_offset + offset,
    };
    match upper {
        protocol::TCP => parse_tcp(&carrier, message, pseudo, rules),
        protocol::ICMPV6 => Ok(carrier.icmp(icmp::parse_v6(message)?, message)),
        _ => Err(DropReason::UnknownProtocol),
    }
}

#[inline(always)]
fn parse_tcp(carrier: &Carrier, octets: &[u8], pseudo: Sum, rules: &ParseRules) -> Result<Parsed, DropReason> {
    let header = TcpHeader::parse(octets)?;
    let mut partial_checksum = false;
    if rules.verify_tcp {
        // The cheap test goes first: on a link to a kernel it spares the sum over the payload.
        partial_checksum = rules.accept_partial_checksum && header.checksum() == pseudo.folded();
        //= RFC 9293 MUST-3
        if !partial_checksum && !pseudo.add_octets(octets).is_valid() {
            return Err(DropReason::BadTcpChecksum);
        }
    }
    let header_len = header.len();
    Ok(Parsed::Tcp(TcpSegment {
        source: carrier.source,
        destination: carrier.destination,
        source_port: header.source_port(),
        destination_port: header.destination_port(),
        seq: header.seq(),
        ack: header.ack(),
        window: header.window(),
        urgent_pointer: header.urgent_pointer(),
        flags: header.flags(),
        ecn: carrier.ecn,
        partial_checksum,
        source_mac: carrier.ethernet.source,
        payload_offset: (carrier.offset + header_len) as u16,
        payload_len: (octets.len() - header_len) as u16,
        //= RFC 9293 MUST-5
        options: TcpOptions::parse(header.options()),
    }))
}

impl Carrier {
    fn icmp(&self, meaning: IcmpMessage, message: &[u8]) -> Parsed {
        let &Self { source, destination, .. } = self;
        match meaning {
            IcmpMessage::Echo => Parsed::Echo(EchoRequest {
                source_mac: self.ethernet.source,
                source,
                destination,
                message_offset: self.offset as u16,
                message_len: message.len() as u16,
            }),
            IcmpMessage::Error(kind, quoted) => Parsed::IcmpError(IcmpError { source, destination, kind, quoted }),
        }
    }
}

/// What is wrong with an ICMP message whose sum is.
#[cold]
fn bad_icmp(message: &[u8]) -> DropReason {
    if message.len() < icmp::HEADER_LEN { DropReason::TruncatedIcmp } else { DropReason::BadIcmpChecksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::emit::{self, OutSegment};
    use crate::wire::ethernet::Link;
    use crate::wire::icmp::IcmpErrorKind;
    use crate::wire::samples::{self, PAYLOAD, XorShift};
    use crate::wire::tcp::Flags;

    fn lenient() -> ParseRules {
        ParseRules { verify_ip: false, verify_tcp: false, verify_icmp: false, ..ParseRules::default() }
    }

    fn tcp(frame: &[u8], rules: &ParseRules) -> TcpSegment {
        match parse(frame, rules) {
            Ok(Parsed::Tcp(segment)) => segment,
            other => panic!("no segment: {other:?}"),
        }
    }

    fn drop_of(frame: &[u8]) -> Option<DropReason> {
        parse(frame, &ParseRules::default()).err()
    }

    /// The frame with one octet changed, and its IPv4 checksum put right.
    fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        frame[at] = value;
        frame[24..26].fill(0);
        let checksum = Sum::of(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    #[test]
    fn a_segment_is_read_as_it_was_sent() {
        let tagged = Link { vlan: VlanId::new(7), ..samples::LINK };
        for sent in [
            samples::segment_v4(),
            samples::segment_v6(),
            OutSegment { link: tagged, ..samples::segment_v4() },
            OutSegment { flags: Flags::SYN, options: samples::syn_options(), ..samples::segment_v4() },
            OutSegment { flags: Flags::PSH_ACK | Flags::URG, urgent_pointer: 5, ..samples::segment_v6() },
        ] {
            for payload in [PAYLOAD, b"", b"x"] {
                let frame = samples::build(&sent, payload);
                let read = tcp(&frame, &ParseRules { vlan: sent.link.vlan, ..ParseRules::default() });
                assert_eq!((read.source, read.destination), (sent.source, sent.destination));
                assert_eq!((read.source_port, read.destination_port), (sent.source_port, sent.destination_port));
                assert_eq!((read.seq, read.ack, read.flags), (sent.seq, sent.ack, sent.flags));
                assert_eq!((read.window, read.urgent_pointer), (sent.window, sent.urgent_pointer));
                assert_eq!((read.ecn, read.options, read.source_mac), (sent.ecn, sent.options, sent.link.source));
                assert_eq!(usize::from(read.payload_offset), sent.header_len());
                assert_eq!(read.payload(&frame), payload);
                assert_eq!(read.seq_len(), payload.len() as u32 + u32::from(sent.flags.syn()));
                assert!(!read.partial_checksum);
            }
        }
    }

    #[test]
    fn padding_is_not_payload() {
        let mut frame = samples::build(&samples::segment_v4(), b"x");
        frame.extend([0xff; 20]);
        assert_eq!(tcp(&frame, &ParseRules::default()).payload(&frame), b"x");
    }

    #[test]
    fn every_valid_frame_parses_and_no_prefix_of_it_does() {
        for frame in samples::all() {
            let tag = frame[12..14] == [0x81, 0];
            let rules = |base: ParseRules| ParseRules { vlan: VlanId::new(7).filter(|_| tag), ..base };
            assert!(parse(&frame, &rules(ParseRules::default())).is_ok(), "{frame:02x?}");
            for len in 0..frame.len() {
                assert!(parse(&frame[..len], &rules(ParseRules::default())).is_err());
                assert!(parse(&frame[..len], &rules(lenient())).is_err());
            }
        }
    }

    #[test]
    fn a_million_mutated_frames_are_survived() {
        let frames = samples::all();
        let mut random = XorShift::new(2024);
        let (mut taken, mut dropped) = (0, 0);
        let mut frame = Vec::with_capacity(2048);
        for _ in 0..1_000_000 {
            frame.clear();
            frame.extend(&frames[random.next() as usize % frames.len()]);
            for _ in 0..1 + random.next() % 4 {
                let at = random.next() as usize % frame.len().min(96);
                frame[at] = random.next() as u8;
            }
            if random.next().is_multiple_of(8) {
                frame.truncate(random.next() as usize % frame.len());
            }
            match parse(&frame, &lenient()) {
                Ok(Parsed::Tcp(segment)) => {
                    assert_eq!(segment.payload(&frame).len(), usize::from(segment.payload_len));
                    taken += 1;
                }
                Ok(_) => taken += 1,
                Err(_) => dropped += 1,
            }
        }
        assert!(taken > 100_000 && dropped > 100_000, "{taken} taken, {dropped} dropped");
    }

    #[test]
    //= RFC 9293 MUST-3
    fn a_flipped_bit_is_never_a_segment_with_other_content() {
        for frame in [samples::tcp_v4(), samples::tcp_v6()] {
            let good = tcp(&frame, &ParseRules::default());
            for bit in 0..frame.len() * 8 {
                let mut frame = frame.clone();
                frame[bit / 8] ^= 1 << (bit % 8);
                if let Ok(Parsed::Tcp(read)) = parse(&frame, &ParseRules::default()) {
                    // The sums do not cover the Ethernet header, nor IPv6's traffic class, flow label and hop limit.
                    let same = TcpSegment { source_mac: good.source_mac, ecn: good.ecn, ..read };
                    assert_eq!(same, good, "bit {bit}");
                    assert_eq!(read.payload(&frame), PAYLOAD);
                }
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_taken_where_the_rules_say_so() {
        let partial = ParseRules { accept_partial_checksum: true, ..ParseRules::default() };
        for (mut frame, at) in [(samples::tcp_v4(), 50), (samples::tcp_v6(), 70)] {
            assert!(!tcp(&frame, &partial).partial_checksum, "a whole checksum is not partial");
            let segment = tcp(&frame, &partial);
            let len = (frame.len() - at + 16) as u32;
            let pseudo = match (segment.source, segment.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => Sum::pseudo_v4(source, destination, 6, len),
                (IpAddr::V6(source), IpAddr::V6(destination)) => Sum::pseudo_v6(source, destination, 6, len),
                mixed => panic!("{mixed:?}"),
            };
            frame[at..at + 2].copy_from_slice(&pseudo.folded().to_be_bytes());
            assert!(tcp(&frame, &partial).partial_checksum);
            assert_eq!(drop_of(&frame), Some(DropReason::BadTcpChecksum));
            for wrong in [0, pseudo.checksum(), pseudo.folded() ^ 1] {
                frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
                assert_eq!(parse(&frame, &partial), Err(DropReason::BadTcpChecksum));
            }
        }
    }

    #[test]
    //= RFC 1122 3.2.1.1-MUST-1, 3.2.1.2-MUST-1, 3.2.1.3-MUST-2, 3.3.6-SHOULD-1
    fn each_layer_drops_for_its_own_reasons() {
        use DropReason as Drop;
        let frame = samples::tcp_v4;
        assert_eq!(drop_of(&[0; 13]), Some(Drop::TruncatedEthernet));
        assert_eq!(drop_of(&samples::all()[5]), Some(Drop::BadVlan));
        assert_eq!(parse(&frame(), &ParseRules { vlan: VlanId::new(7), ..lenient() }), Err(Drop::BadVlan));
        assert_eq!(parse(&frame(), &ParseRules { mac: Some(samples::THEM), ..lenient() }), Err(Drop::NotForUsMac));
        assert!(parse(&frame(), &ParseRules { mac: Some(samples::US), ..lenient() }).is_ok());
        for (at, value, reason) in [
            (0, 0xff, Drop::GroupMac),
            (12, 0x88, Drop::UnknownEthertype),
            (14, 0x65, Drop::BadIpVersion),
            (14, 0x44, Drop::BadIpHeaderLength),
            (16, 0x10, Drop::BadIpTotalLength),
            (20, 0x20, Drop::Fragment),
            (21, 0x01, Drop::Fragment),
            (23, 17, Drop::UnknownProtocol),
            (26, 127, Drop::InvalidSource),
            (26, 0, Drop::InvalidSource),
            (26, 224, Drop::InvalidSource),
            (30, 239, Drop::InvalidDestination),
            (30, 127, Drop::InvalidDestination),
            (46, 0x40, Drop::BadTcpDataOffset),
            (46, 0xf0, Drop::BadTcpDataOffset),
            (50, 0, Drop::BadTcpChecksum),
            (60, 0xaa, Drop::BadTcpChecksum),
        ] {
            assert_eq!(drop_of(&with(frame(), at, value)), Some(reason), "octet {at}");
        }
        let mut bad = frame();
        bad[24] ^= 1;
        assert_eq!(drop_of(&bad), Some(Drop::BadIpChecksum));
        let directed = ParseRules { broadcast: Ipv4Addr::new(192, 0, 2, 2), ..ParseRules::default() };
        assert_eq!(parse(&frame(), &directed), Err(Drop::InvalidSource));
    }

    #[test]
    fn a_segment_cut_short_by_its_packet_is_truncated() {
        assert_eq!(drop_of(&with(samples::tcp_v4(), 17, 20 + 19)), Some(DropReason::TruncatedTcp));
    }

    #[test]
    //= RFC 9293 MUST-57, MUST-63
    fn addresses_of_no_host_are_dropped_over_ipv6_too() {
        let rules = lenient();
        for (at, reason) in [(22, DropReason::InvalidSource), (38, DropReason::InvalidDestination)] {
            for address in ["::", "::1", "ff02::1", "::ffff:192.0.2.9"] {
                let mut frame = samples::tcp_v6();
                frame[at..at + 16].copy_from_slice(&address.parse::<std::net::Ipv6Addr>().unwrap().octets());
                assert_eq!(parse(&frame, &rules), Err(reason), "{address}");
            }
        }
    }

    #[test]
    fn the_other_kinds_are_told_apart() {
        let frames = samples::all();
        let parsed: Vec<_> = frames.iter().map(|frame| parse(frame, &ParseRules::default())).collect();
        for (i, offset) in [(6, 34), (8, 54)] {
            let Ok(Parsed::Echo(echo)) = parsed[i] else { panic!("{:?}", parsed[i]) };
            assert_eq!(echo.message(&frames[i]), &frames[i][offset..]);
        }
        for i in [7, 9] {
            let Ok(Parsed::IcmpError(error)) = parsed[i] else { panic!("{:?}", parsed[i]) };
            assert_eq!(error.kind, IcmpErrorKind::PacketTooBig { mtu: 1280 });
            assert_eq!(error.quoted.source_port, 49152);
        }
        assert_eq!(parsed[10], Ok(Parsed::Arp(samples::arp_request())));
        assert_eq!(parsed[11], Ok(Parsed::NeighborSolicitation(samples::solicitation())));
        assert_eq!(parsed[12], Ok(Parsed::NeighborAdvertisement(samples::advertisement())));
        for i in [6, 7, 8, 9, 11, 12] {
            let mut frame = frames[i].clone();
            *frame.last_mut().unwrap() ^= 1;
            assert_eq!(drop_of(&frame), Some(DropReason::BadIcmpChecksum), "frame {i}");
        }
    }

    #[test]
    fn an_echo_reply_returns_what_was_asked() {
        for (i, kind, at) in [(6, 0, 34), (8, 129, 54)] {
            let frame = &samples::all()[i];
            let Ok(Parsed::Echo(echo)) = parse(frame, &ParseRules::default()) else { panic!("no echo") };
            let mut reply = [0; 256];
            let (source, destination) = (echo.destination, echo.source);
            let len =
                emit::echo_reply(&mut reply, &samples::LINK, source, destination, 64, echo.message(frame)).unwrap();
            assert_eq!(len, frame.len());
            assert_eq!(reply[at], kind);
            assert_eq!(reply[at + 4..len], frame[at + 4..]);
            // Well formed in every sum; but nobody here waits for a reply.
            assert_eq!(drop_of(&reply[..len]), Some(DropReason::IgnoredIcmp));
        }
    }
}
