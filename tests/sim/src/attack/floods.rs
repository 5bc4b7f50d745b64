//! Hostile hosts that remember nothing of what they send.

use std::net::{IpAddr, Ipv6Addr};

use syncline_engine::device::fault::flip_bit;
use syncline_engine::wire::arp::{ArpOperation, ArpPacket};
use syncline_engine::wire::ndp::{NeighborAdvertisement, NeighborSolicitation};
use syncline_engine::wire::{Flags, MacAddr, Seq, TcpOptions, Timestamps, emit, ipv6};

use super::craft;
use super::field::{Field, Forged, Hostile};
use super::honest::PAGES;

/// SYNs whose answers nobody waits for.
pub(super) struct Syns {
    each_turn: u32,
    source: fn(&mut Field) -> IpAddr,
}

impl Syns {
    /// From the whole network behind the router.
    pub(super) fn spread(each_turn: u32) -> Self {
        Self { each_turn, source: Field::any_remote }
    }

    /// From 250 hosts of one prefix.
    pub(super) fn one_prefix(each_turn: u32) -> Self {
        Self { each_turn, source: Field::any_of_one_prefix }
    }

    /// From invented neighbours.
    pub(super) fn on_link(each_turn: u32) -> Self {
        Self { each_turn, source: Field::any_neighbor }
    }
}

/// What an ordinary SYN offers.
pub(super) fn offer(mss: u16, value: u32) -> TcpOptions {
    TcpOptions {
        mss: Some(mss),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value, echo: 0 }),
        ..TcpOptions::NONE
    }
}

fn syn(field: &mut Field, source: IpAddr) {
    let (port, seq) = (field.port(), Seq(field.random32()));
    let mut options = offer(1460, field.random32());
    if field.chance.below(2) == 0 {
        options.timestamps = None;
    }
    field.send(&Forged { seq, options, ..Forged::new((source, port), PAGES, Flags::SYN) });
}

impl Hostile for Syns {
    fn turn(&mut self, field: &mut Field) {
        for _ in 0..self.each_turn {
            let source = (self.source)(field);
            syn(field, source);
        }
    }
}

/// ACKs with invented numbers; and SYNs, so that cookies are outstanding.
pub(super) struct Acks;

impl Hostile for Acks {
    fn turn(&mut self, field: &mut Field) {
        for n in 0..75 {
            let source = field.any_remote();
            if n % 3 == 0 {
                syn(field, source);
                continue;
            }
            let (port, seq, ack) = (field.port(), Seq(field.random32()), Seq(field.random32()));
            field.send(&Forged { seq, ack, ..Forged::new((source, port), PAGES, Flags::ACK) });
        }
    }
}

/// RSTs with invented numbers.
pub(super) struct Resets;

impl Hostile for Resets {
    fn turn(&mut self, field: &mut Field) {
        for n in 0..60 {
            let seq = Seq(field.random32());
            let from = match field.victim().filter(|_| n % 2 == 0) {
                Some(victim) => (field.honest, victim.port),
                None => (field.any_remote(), field.port()),
            };
            field.send(&Forged { seq, ..Forged::new(from, PAGES, Flags::RST) });
        }
    }
}

/// Noise, and honest frames with a bit wrong.
pub(super) struct Junk;

impl Hostile for Junk {
    fn turn(&mut self, field: &mut Field) {
        for n in 0..60 {
            if n % 2 == 0 {
                let len = 14 + field.chance.below(1500) as usize;
                let mut octets: Vec<u8> = (0..len).map(|_| field.chance.next_u64() as u8).collect();
                let mut head = [0; 54];
                let link = field.link();
                head[..6].copy_from_slice(&link.destination.0);
                head[12..14].copy_from_slice(if field.server.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] });
                octets[..14].copy_from_slice(&head[..14]);
                field.frame(&octets);
            } else if let Some(victim) = field.victim() {
                let from = (field.honest, victim.port);
                let (seq, ack) = (victim.rcv_nxt, victim.snd_nxt);
                let flags = Flags::ACK | Flags::PSH;
                let mut octets = field.octets(&Forged { seq, ack, text: b"junk", ..Forged::new(from, PAGES, flags) });
                // beyond the Ethernet header, where a checksum sees it
                let bit = field.chance.below((octets.len() as u64 - 40) * 8) as usize + 40 * 8;
                flip_bit(&mut octets, bit);
                field.frame(&octets);
            }
        }
    }
}

/// Segments for honest connections from who knows all about them but cannot be quite on time (RFC 5961).
pub(super) enum Blind {
    /// RSTs in the window, not at its edge.
    Reset,
    /// SYNs in the window.
    Syn,
    /// Text in the window, with an acknowledgement of what was never sent.
    Data,
}

impl Hostile for Blind {
    fn turn(&mut self, field: &mut Field) {
        for _ in 0..20 {
            let Some(victim) = field.victim() else { return };
            // clear of what the client may have sent meanwhile
            let seq = victim.rcv_nxt + 1_000 + field.chance.below(50_000) as u32;
            let from = (field.honest, victim.port);
            match self {
                Self::Reset => field.send(&Forged { seq, ..Forged::new(from, PAGES, Flags::RST) }),
                Self::Syn => field.send(&Forged { seq, ..Forged::new(from, PAGES, Flags::SYN) }),
                Self::Data => {
                    let ack = victim.snd_nxt + 1_000_000 + field.chance.below(1 << 30) as u32;
                    let forged = Forged::new(from, PAGES, Flags::ACK | Flags::PSH);
                    // a timestamp that passes PAWS
                    let timestamps = Some(Timestamps { value: victim.stamp.wrapping_add(1_000), echo: 0 });
                    let options = TcpOptions { timestamps, ..TcpOptions::NONE };
                    field.send(&Forged { seq, ack, options, text: b"injected", ..forged });
                }
            }
        }
    }
}

/// Errors about segments that were never sent, and echo requests.
pub(super) struct Icmp;

impl Hostile for Icmp {
    fn turn(&mut self, field: &mut Field) {
        let v4 = field.server.is_ipv4();
        let router = field.remote(1);
        for n in 0..20 {
            let Some(victim) = field.victim() else { return };
            let seq = field.random32();
            let quoted = craft::quote((field.server, PAGES), (field.honest, victim.port), seq);
            let (kind, code, word) = match (v4, n % 2) {
                (true, 0) => (3, 1, [0; 4]),
                (true, _) => (3, 4, [0, 0, 0, 68]),
                (false, 0) => (1, 0, [0; 4]),
                (false, _) => (2, 0, [0, 0, 5, 0]),
            };
            let octets = craft::icmp(router, field.server, kind, code, word, &quoted);
            field.frame(&octets);
            let asks = craft::icmp(router, field.server, if v4 { 8 } else { 128 }, 0, [0, 1, 0, n], &[7; 56]);
            field.frame(&asks);
        }
    }
}

/// Requests from invented neighbours, answers that nobody asked for, and claims to be the honest host.
pub(super) struct Neighbors;

impl Neighbors {
    fn v4(field: &mut Field, n: u32) {
        let (IpAddr::V4(server), IpAddr::V4(honest)) = (field.server, field.honest) else { return };
        let mac = MacAddr([2, 9, 9, 9, n as u8, field.chance.next_u64() as u8]);
        let invented = field.any_neighbor();
        let (operation, sender) = match n % 4 {
            0 | 1 => (ArpOperation::Request, invented),
            2 => (ArpOperation::Request, IpAddr::V4(honest)),
            _ => (ArpOperation::Reply, IpAddr::V4(honest)),
        };
        let IpAddr::V4(sender) = sender else { return };
        let packet = ArpPacket { operation, sender_mac: mac, sender, target_mac: MacAddr::ZERO, target: server };
        let mut octets = [0; 128];
        let len = emit::arp(&mut octets, &field.link(), &packet).unwrap_or(0);
        field.frame(&octets[..len]);
    }

    fn v6(field: &mut Field, n: u32) {
        let (IpAddr::V6(server), IpAddr::V6(honest)) = (field.server, field.honest) else { return };
        let mac = MacAddr([2, 9, 9, 9, n as u8, field.chance.next_u64() as u8]);
        let IpAddr::V6(invented) = field.any_neighbor() else { return };
        let mut octets = [0; 128];
        let link = field.link();
        let asks = |source: Ipv6Addr| NeighborSolicitation {
            source_mac: mac,
            source,
            target: server,
            source_link_layer: Some(mac),
        };
        let group = ipv6::solicited_node(server);
        let len = match n % 4 {
            0 | 1 => emit::neighbor_solicitation(&mut octets, &link, group, &asks(invented)),
            2 => emit::neighbor_solicitation(&mut octets, &link, group, &asks(honest)),
            _ => {
                let claim = NeighborAdvertisement {
                    source: honest,
                    target: honest,
                    target_link_layer: Some(mac),
                    router: false,
                    solicited: n % 8 == 3,
                    overrides: true,
                };
                emit::neighbor_advertisement(&mut octets, &link, server, &claim)
            }
        };
        field.frame(&octets[..len.unwrap_or(0)]);
    }
}

impl Hostile for Neighbors {
    fn turn(&mut self, field: &mut Field) {
        for n in 0..20 {
            if field.server.is_ipv4() { Self::v4(field, n) } else { Self::v6(field, n) }
        }
    }
}
