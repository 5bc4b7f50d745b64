//! The frame of a SYN, and what is different in the next one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use syncline_engine::wire::checksum::Sum;
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::ip::protocol;
use syncline_engine::wire::{Ecn, Flags, OutSegment, Seq, TcpOptions, Timestamps};

use crate::net::Cidr;

/// Time to live or hop limit.
const HOP_LIMIT: u8 = 64;

/// The window, the scale and the first clock of a usual host's SYN.
const WINDOW: u16 = 64_240;
const WINDOW_SCALE: u8 = 7;
const CLOCK: u32 = 1;

/// Octets of IPv6 or IPv4 and TCP headers: the MTU less these is the MSS (RFC 6691).
const fn mss(mtu: u16, v4: bool) -> u16 {
    mtu.saturating_sub(if v4 { 40 } else { 60 })
}

/// A SYN to one target with everything in it but source address, source port and sequence number.
///
/// Both checksums are sums (RFC 1071), so those of the whole are those of the template plus what is put in.
#[derive(Clone, Debug)]
pub struct Template {
    octets: Vec<u8>,
    /// Where in the frame the IP and the TCP header begin.
    ip: usize,
    tcp: usize,
    v4: bool,
    /// Of the IPv4 header without source.
    ip_sum: Sum,
    /// Of pseudo-header and segment without source, port and sequence number.
    tcp_sum: Sum,
}

impl Template {
    /// The SYN of a usual host to `target` over `link`, with all options that a SYN has.
    pub fn new(link: Link, target: SocketAddr, mtu: u16) -> Self {
        let v4 = target.is_ipv4();
        let source = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let segment = OutSegment {
            link,
            source,
            destination: target.ip(),
            source_port: 0,
            destination_port: target.port(),
            seq: Seq(0),
            ack: Seq(0),
            flags: Flags::SYN,
            window: WINDOW,
            urgent_pointer: 0,
            hop_limit: HOP_LIMIT,
            dscp: 0,
            ecn: Ecn::NotCapable,
            options: TcpOptions {
                mss: Some(mss(mtu, v4)),
                window_scale: Some(WINDOW_SCALE),
                sack_permitted: true,
                timestamps: Some(Timestamps { value: CLOCK, echo: 0 }),
                ..TcpOptions::NONE
            },
        };
        let mut octets = vec![0; segment.header_len()];
        segment.emit(&mut octets, 0).expect("source and target are of one family, and the buffer is as long as needed");
        let ip = link.header_len();
        let tcp = ip + if v4 { 20 } else { 40 };
        octets[tcp + 16..tcp + 18].fill(0);
        let segment_len = (octets.len() - tcp) as u32;
        let pseudo = match (source, target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                octets[ip + 10..ip + 12].fill(0);
                Sum::pseudo_v4(source, target, protocol::TCP, segment_len)
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => Sum::pseudo_v6(source, target, protocol::TCP, segment_len),
            _ => Sum::ZERO,
        };
        let (ip_sum, tcp_sum) = (Sum::of(&octets[ip..tcp]), pseudo.add_octets(&octets[tcp..]));
        Self { octets, ip, tcp, v4, ip_sum, tcp_sum }
    }

    /// Octets of the frame.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Writes the SYN of `source`, of which an IPv4 address is the low 32 bits, into a frame of [`len`](Self::len) octets.
    #[inline]
    pub fn write(&self, frame: &mut [u8], source: u128, port: u16, seq: u32) {
        frame.copy_from_slice(&self.octets);
        let changed = Sum::ZERO.add_u16(port).add_u32(seq);
        let (ip, tcp) = (self.ip, self.tcp);
        let changed = if self.v4 {
            let source = source as u32;
            frame[ip + 12..ip + 16].copy_from_slice(&source.to_be_bytes());
            frame[ip + 10..ip + 12].copy_from_slice(&self.ip_sum.add_u32(source).checksum().to_be_bytes());
            changed.add_u32(source)
        } else {
            let source = source.to_be_bytes();
            frame[ip + 8..ip + 24].copy_from_slice(&source);
            changed.add_octets(&source)
        };
        frame[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
        frame[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        frame[tcp + 16..tcp + 18].copy_from_slice(&self.tcp_sum.plus(changed).checksum().to_be_bytes());
    }
}

/// Lowest port of a client.
const PORT_FIRST: u64 = 1_024;

/// Addresses, ports and sequence numbers of clients that are not there, drawn at random from a range and a seed.
#[derive(Clone, Debug)]
pub struct Sources {
    network: u128,
    host_mask: u128,
    state: u64,
}

impl Sources {
    /// From `range`, every address of it being as likely as any other; of an IPv6 range its lowest 64 bits vary.
    pub fn new(range: Cidr, seed: u64) -> Self {
        let (network, bits) = match range.network().network() {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let host_bits = (bits - u32::from(range.prefix_len())).min(64);
        Self { network, host_mask: (1u128 << host_bits) - 1, state: seed }
    }

    /// How many addresses there are.
    pub fn count(&self) -> u128 {
        self.host_mask + 1
    }

    /// The next client: its address, port and sequence number.
    #[inline]
    pub fn draw(&mut self) -> (u128, u16, u32) {
        let (host, rest) = (self.next(), self.next());
        let port = PORT_FIRST + (((rest >> 32) * (65_536 - PORT_FIRST)) >> 32);
        (self.network | u128::from(host) & self.host_mask, port as u16, rest as u32)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    #[inline]
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = self.state;
        let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use syncline_engine::wire::{MacAddr, ParseRules, Parsed, VlanId, parse};

    use super::*;

    #[test]
    fn every_frame_is_a_good_syn_of_its_source() {
        let vlan = VlanId::new(7);
        for (target, range, vlan) in [
            ("10.9.0.2:80", "10.0.0.0/8", None),
            ("10.9.0.2:65535", "198.18.0.0/15", vlan),
            ("[fd00::2]:80", "2001:2::/48", None),
            ("[fd00::2]:1", "fd77::/120", vlan),
        ] {
            let (target, range): (SocketAddr, Cidr) = (target.parse().unwrap(), range.parse().unwrap());
            let mac = MacAddr([2, 0, 0, 0, 0, 9]);
            let link = Link { source: MacAddr([2, 0, 0, 0, 0, 1]), destination: mac, vlan };
            let template = Template::new(link, target, 1_500);
            let mut sources = Sources::new(range, 42);
            let rules = ParseRules { vlan, mac: Some(mac), ..ParseRules::default() };
            let mut seen = HashSet::new();
            let mut frame = vec![0xff; template.len()];
            for _ in 0..10_000 {
                let (source, port, seq) = sources.draw();
                template.write(&mut frame, source, port, seq);
                let Ok(Parsed::Tcp(segment)) = parse(&frame, &rules) else {
                    panic!("{:?}", parse(&frame, &rules));
                };
                assert!(range.contains(segment.source) && port >= 1_024, "{segment:?}");
                assert_eq!((segment.source_port, segment.seq, segment.flags), (port, Seq(seq), Flags::SYN));
                assert_eq!(SocketAddr::new(segment.destination, segment.destination_port), target);
                assert!(segment.options.sack_permitted && segment.options.timestamps.is_some());
                assert_eq!(segment.options.mss, Some(if target.is_ipv4() { 1_460 } else { 1_440 }));
                assert!(!segment.partial_checksum);
                seen.insert(segment.source);
            }
            let few = sources.count().min(9_000) as usize;
            assert!(seen.len() >= few, "{} sources of {range}", seen.len());
        }
    }

    #[test]
    fn a_range_of_one_is_that_one() {
        let mut sources = Sources::new("198.18.0.7/32".parse().unwrap(), 1);
        assert_eq!((sources.count(), sources.draw().0), (1, u128::from(u32::from_be_bytes([198, 18, 0, 7]))));
        assert_eq!(Sources::new("10.1.2.3/8".parse().unwrap(), 1).count(), 1 << 24);
        assert_eq!(Sources::new("::/0".parse::<Cidr>().unwrap_or("2001:2::/48".parse().unwrap()), 1).count(), 1 << 64);
    }
}
