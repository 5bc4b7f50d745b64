//! Frames written octet by octet, right or wrong as a test wants them.
//!
//! Shares no code with the engine: what both ends got wrong in the same way would not show.

use std::net::{IpAddr, Ipv6Addr};

/// A hardware address.
pub type Mac = [u8; 6];

/// The sum of RFC 1071, not complemented, continued from `sum`.
fn add(mut sum: u32, octets: &[u8]) -> u32 {
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// The checksum of `octets` (RFC 1071) after the pseudo-header of `protocol` between two addresses, if given.
pub fn checksum(pseudo: Option<(IpAddr, IpAddr, u8)>, octets: &[u8]) -> u16 {
    let mut sum = 0;
    if let Some((source, destination, protocol)) = pseudo {
        sum = add(sum, &address(source));
        sum = add(sum, &address(destination));
        sum = add(sum, &(octets.len() as u32).to_be_bytes());
        sum = add(sum, &[0, protocol]);
    }
    !(add(sum, octets) as u16)
}

/// The octets of an address.
pub fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An Ethernet frame around `payload`.
pub fn ethernet(destination: Mac, source: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ether_type.to_be_bytes(), payload].concat()
}

/// What an IP header may say besides the addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Time to live or hop limit.
    pub ttl: u8,
    /// The ECN field.
    pub ecn: u8,
    /// IPv4: the flags and the fragment offset.
    pub fragment: u16,
    /// IPv4: whether the header checksum is wrong.
    pub bad_checksum: bool,
}

impl Default for Ip {
    fn default() -> Self {
        Self { ttl: 64, ecn: 0, fragment: 0x4000, bad_checksum: false }
    }
}

/// An IP packet of the family of its addresses.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, ip: Ip, payload: &[u8]) -> Vec<u8> {
    let mut header = if source.is_ipv4() {
        let mut header = vec![0x45, ip.ecn];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(ip.fragment.to_be_bytes());
        header.extend([ip.ttl, protocol, 0, 0]);
        header
    } else {
        let mut header = vec![0x60, ip.ecn << 4, 0, 0];
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend([protocol, ip.ttl]);
        header
    };
    header.extend(address(source));
    header.extend(address(destination));
    if source.is_ipv4() {
        let sum = checksum(None, &header) ^ u16::from(ip.bad_checksum);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header.extend(payload);
    header
}

/// A fragment of an IP packet: its identification, where it begins in octets, and whether another follows.
pub fn fragment(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    (identification, offset, more): (u32, u16, bool),
    octets: &[u8],
) -> Vec<u8> {
    if source.is_ipv6() {
        let word = (offset & !7) | u16::from(more);
        let head = [&[protocol, 0][..], &word.to_be_bytes(), &identification.to_be_bytes()].concat();
        return ip(source, destination, 44, Ip::default(), &[&head, octets].concat());
    }
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    let mut packet = ip(source, destination, protocol, Ip { fragment: word, ..Ip::default() }, octets);
    packet[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(None, &packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Ethernet type of an address's family.
pub fn ether_type(address: IpAddr) -> u16 {
    if address.is_ipv4() { 0x0800 } else { 0x86dd }
}

/// How a segment's TCP header is to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The checksum is off by one bit.
    Checksum,
    /// The checksum field is zero.
    ZeroChecksum,
    /// The data offset, in words.
    DataOffset(u8),
    /// Only the first octets of the segment are sent; the checksum is right for them.
    Cut(usize),
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp<'a> {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// The control bits.
    pub flags: u8,
    /// The reserved bits.
    pub reserved: u8,
    /// SEG.WND.
    pub window: u16,
    /// SEG.UP.
    pub urgent: u16,
    /// The options, padded here to whole words.
    pub options: &'a [u8],
    /// The text.
    pub data: &'a [u8],
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// The octets of a segment between two addresses.
pub fn tcp(source: IpAddr, destination: IpAddr, segment: &Tcp<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    octets.extend(segment.ports.0.to_be_bytes());
    octets.extend(segment.ports.1.to_be_bytes());
    octets.extend(segment.seq.to_be_bytes());
    octets.extend(segment.ack.to_be_bytes());
    let words = 5 + segment.options.len().div_ceil(4) as u8;
    let words = if let Some(Flaw::DataOffset(words)) = segment.flaw { words } else { words };
    octets.extend([words << 4 | segment.reserved & 15, segment.flags]);
    octets.extend(segment.window.to_be_bytes());
    octets.extend([0, 0]);
    octets.extend(segment.urgent.to_be_bytes());
    octets.extend(segment.options);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets.extend(segment.data);
    if let Some(Flaw::Cut(len)) = segment.flaw {
        octets.truncate(len);
    }
    if octets.len() >= 18 && segment.flaw != Some(Flaw::ZeroChecksum) {
        let sum = checksum(Some((source, destination, 6)), &octets) ^ u16::from(segment.flaw == Some(Flaw::Checksum));
        octets[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    octets
}

/// An ICMP or ICMPv6 message, by the family of its addresses.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, word: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut octets = [&[kind, code, 0, 0][..], &word, body].concat();
    let pseudo = source.is_ipv6().then_some((source, destination, 58));
    let sum = checksum(pseudo, &octets);
    octets[2..4].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// The protocol number of ICMP for an address's family.
pub fn icmp_protocol(address: IpAddr) -> u8 {
    if address.is_ipv4() { 1 } else { 58 }
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u8, sender_mac: Mac, sender: IpAddr, target_mac: Mac, target: IpAddr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender_mac, &address(sender), &target_mac, &address(target)].concat()
}

/// The group that a neighbour solicitation for `target` goes to, and its hardware address (RFC 4291 §2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> (IpAddr, Mac) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    (IpAddr::V6(group), [0x33, 0x33, 0xff, a, b, c])
}

/// Options for a header.
pub mod option {
    /// Maximum segment size.
    pub fn mss(mss: u16) -> Vec<u8> {
        [&[2, 4][..], &mss.to_be_bytes()].concat()
    }

    /// Window scale.
    pub fn window_scale(shift: u8) -> Vec<u8> {
        vec![1, 3, 3, shift]
    }

    /// SACK permitted.
    pub fn sack_permitted() -> Vec<u8> {
        vec![1, 1, 4, 2]
    }

    /// Timestamps.
    pub fn timestamps(value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    /// SACK blocks.
    pub fn sack(blocks: &[(u32, u32)]) -> Vec<u8> {
        let mut octets = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        for (start, end) in blocks {
            octets.extend(start.to_be_bytes());
            octets.extend(end.to_be_bytes());
        }
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_rfc_1071_section_3() {
        assert_eq!(!checksum(None, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }
}
