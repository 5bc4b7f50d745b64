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
    if rules.verify_ip && !packet.checksum_is_valid() {
        return Err(DropReason::BadIpChecksum);
    }
    let (source, destination) = (packet.source(), packet.destination());
    if !ipv4::is_valid_source(source) || source == rules.broadcast {
        return Err(DropReason::InvalidSource);
    }
    if !ipv4::is_valid_destination(destination) || destination == rules.broadcast {
        return Err(DropReason::InvalidDestination);
    }
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

#[inline]
fn parse_ipv6(ethernet: EthernetHeader, octets: &[u8], rules: &ParseRules) -> Result<Parsed, DropReason> {
    let packet = Ipv6Packet::parse(octets)?;
    let (source, destination) = (packet.source(), packet.destination());
    let (upper, offset) = packet.upper_layer()?;
    let message = packet.from_offset(offset);
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
    if !ipv6::is_valid_source(source) {
        return Err(DropReason::InvalidSource);
    }
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

#[inline]
fn parse_tcp(carrier: &Carrier, octets: &[u8], pseudo: Sum, rules: &ParseRules) -> Result<Parsed, DropReason> {
    let header = TcpHeader::parse(octets)?;
    let mut partial_checksum = false;
    if rules.verify_tcp {
        // The cheap test goes first: on a link to a kernel it spares the sum over the payload.
        partial_checksum = rules.accept_partial_checksum && header.checksum() == pseudo.folded();
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
