//! Frames that the engine has no writer for, because it never sends them.

use std::net::IpAddr;

use syncline_engine::device::link::End;

/// The sum of RFC 1071 over words, complemented.
fn checksum(octets: &[u8]) -> [u8; 2] {
    let mut sum = 0u32;
    for pair in octets.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An IP packet of `protocol`.
fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u16;
    let mut packet;
    if from.is_ipv4() {
        packet = [&[0x45, 0][..], &(20 + len).to_be_bytes(), &[0, 1, 0x40, 0, 64, protocol, 0, 0]].concat();
        packet.extend(octets(from));
        packet.extend(octets(to));
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum);
    } else {
        packet = [&[0x60, 0, 0, 0][..], &len.to_be_bytes(), &[protocol, 64]].concat();
        packet.extend(octets(from));
        packet.extend(octets(to));
    }
    packet.extend(payload);
    packet
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&End::A.mac()[..], &End::B.mac(), &kind, packet].concat()
}

/// An ICMP or ICMPv6 message in a frame.
pub(super) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, word: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &word, body].concat();
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    let summed = if from.is_ipv4() {
        message.clone()
    } else {
        let len = (message.len() as u32).to_be_bytes();
        [&octets(from)[..], &octets(to), &len, &[0, 0, 0, 58], &message].concat()
    };
    message[2..4].copy_from_slice(&checksum(&summed));
    ethernet(&ip(from, to, protocol, &message))
}

/// The beginning of a segment, as an ICMP error quotes it.
pub(super) fn quote(from: (IpAddr, u16), to: (IpAddr, u16), seq: u32) -> Vec<u8> {
    let mut tcp = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    tcp.extend(seq.to_be_bytes());
    tcp.extend([0; 12]);
    tcp[12] = 0x50;
    ip(from.0, to.0, 6, &tcp)
}
