//! Valid frames of every kind, and noise, for the tests of this room.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::addr::MacAddr;
use super::arp::{ArpOperation, ArpPacket};
use super::checksum::Sum;
use super::emit::{self, OutSegment};
use super::ethernet::Link;
use super::ip::Ecn;
use super::ndp::{NeighborAdvertisement, NeighborSolicitation};
use super::seq::Seq;
use super::tcp::Flags;
use super::tcp_options::{SackBlock, TcpOptions, Timestamps};
use super::vlan::VlanId;

pub(crate) const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const LINK: Link = Link { source: THEM, destination: US, vlan: None };
pub(crate) const PAYLOAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n!";

const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Marsaglia's generator: enough noise for a test, the same on every machine.
pub(crate) struct XorShift(u64);

impl XorShift {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}

/// Words of noise, with more zeroes and ones among them than chance brings: there sums have two zeroes.
pub(crate) fn words(random: &mut XorShift) -> impl FnMut() -> u32 {
    || {
        let word = random.next() as u32;
        [word, word, word, 0, u32::MAX][random.next() as usize % 5]
    }
}

/// A segment over IPv4 with these options, and with whatever `word` gives in all the other fields that vary.
pub(crate) fn any_segment_v4(word: &mut impl FnMut() -> u32, options: TcpOptions) -> OutSegment {
    OutSegment {
        source: IpAddr::V4(Ipv4Addr::from_bits(word())),
        destination: IpAddr::V4(Ipv4Addr::from_bits(word())),
        source_port: word() as u16,
        destination_port: word() as u16,
        seq: Seq(word()),
        ack: Seq(word()),
        flags: Flags::from_bits(word() as u8),
        window: word() as u16,
        hop_limit: word() as u8,
        dscp: word() as u8 & 0x3f,
        ecn: Ecn::NotCapable,
        options,
        ..segment_v4()
    }
}

pub(crate) fn segment_v4() -> OutSegment {
    OutSegment {
        link: LINK,
        source: IpAddr::V4(V4.0),
        destination: IpAddr::V4(V4.1),
        source_port: 49152,
        destination_port: 80,
        seq: Seq(0xfffffff0),
        ack: Seq(0x01020304),
        flags: Flags::PSH_ACK,
        window: 502,
        urgent_pointer: 0,
        hop_limit: 64,
        dscp: 0,
        ecn: Ecn::Capable0,
        options: TcpOptions::with_timestamps(Timestamps { value: 7, echo: 9 }),
    }
}

pub(crate) fn segment_v6() -> OutSegment {
    OutSegment { source: IpAddr::V6(V6.0), destination: IpAddr::V6(V6.1), ..segment_v4() }
}

pub(crate) fn syn_options() -> TcpOptions {
    TcpOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true, ..segment_v4().options }
}

pub(crate) fn build(segment: &OutSegment, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; 2048];
    let len = segment.emit_with(&mut frame, payload.len(), |octets| octets.copy_from_slice(payload)).unwrap();
    frame.truncate(len);
    frame
}

pub(crate) fn tcp_v4() -> Vec<u8> {
    build(&segment_v4(), PAYLOAD)
}

pub(crate) fn tcp_v6() -> Vec<u8> {
    build(&segment_v6(), PAYLOAD)
}

/// An ICMP message of IPv4 as a frame.
pub(crate) fn icmp_v4(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 2048];
    let len = emit::echo_reply(&mut frame, &LINK, IpAddr::V4(V4.0), IpAddr::V4(V4.1), 64, message).unwrap();
    frame.truncate(len);
    frame[34] = message[0];
    frame[36..38].fill(0);
    let checksum = Sum::of(&frame[34..]).checksum();
    frame[36..38].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// An ICMPv6 message as a frame.
pub(crate) fn icmp_v6(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 2048];
    let len = emit::echo_reply(&mut frame, &LINK, IpAddr::V6(V6.0), IpAddr::V6(V6.1), 64, message).unwrap();
    frame.truncate(len);
    frame[54] = message[0];
    frame[56..58].fill(0);
    let checksum = Sum::pseudo_v6(V6.0, V6.1, 58, message.len() as u32).add_octets(&frame[54..]).checksum();
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

pub(crate) fn arp_request() -> ArpPacket {
    ArpPacket {
        operation: ArpOperation::Request,
        sender_mac: THEM,
        sender: V4.0,
        target_mac: MacAddr::ZERO,
        target: V4.1,
    }
}

pub(crate) fn solicitation() -> NeighborSolicitation {
    NeighborSolicitation { source_mac: THEM, source: V6.0, target: V6.1, source_link_layer: Some(THEM) }
}

pub(crate) fn advertisement() -> NeighborAdvertisement {
    NeighborAdvertisement {
        source: V6.0,
        target: V6.0,
        target_link_layer: Some(THEM),
        router: true,
        solicited: true,
        overrides: true,
    }
}

/// One valid frame of every kind that the parser knows.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let syn = OutSegment { flags: Flags::SYN, options: syn_options(), ..segment_v4() };
    let mut sacks = TcpOptions { timestamps: Some(Timestamps { value: 1, echo: 2 }), ..TcpOptions::NONE };
    for start in [10, 30, 50] {
        sacks.sack.push(SackBlock { start: Seq(start), end: Seq(start + 5) });
    }
    let tagged = Link { vlan: VlanId::new(7), ..LINK };
    let mut frames = vec![
        tcp_v4(),
        tcp_v6(),
        build(&syn, b""),
        build(&OutSegment { options: sacks, ..segment_v4() }, b""),
        build(&OutSegment { options: TcpOptions::NONE, ..segment_v6() }, &[0xa5; 1401]),
        build(&OutSegment { link: tagged, ..segment_v4() }, PAYLOAD),
        icmp_v4(&[&[8, 0, 0, 0, 0, 1, 0, 2][..], PAYLOAD].concat()),
        icmp_v4(&[&[3, 4, 0, 0, 0, 0, 5, 0][..], &tcp_v4()[14..]].concat()),
        icmp_v6(&[&[128, 0, 0, 0, 0, 1, 0, 2][..], PAYLOAD].concat()),
        icmp_v6(&[&[2, 0, 0, 0, 0, 0, 5, 0][..], &tcp_v6()[14..]].concat()),
    ];
    let mut frame = [0; 128];
    let len = emit::arp(&mut frame, &LINK, &arp_request()).unwrap();
    frames.push(frame[..len].to_vec());
    let len = emit::neighbor_solicitation(&mut frame, &LINK, V6.1, &solicitation()).unwrap();
    frames.push(frame[..len].to_vec());
    let len = emit::neighbor_advertisement(&mut frame, &LINK, V6.1, &advertisement()).unwrap();
    frames.push(frame[..len].to_vec());
    frames
}
