//! What a hostile host has in its hands: the wire, invented addresses, and what it overhears.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use syncline_engine::device::fault::SplitMix64;
use syncline_engine::device::link::{End, LinkDevice};
use syncline_engine::device::{Device, Frame};
use syncline_engine::time::Instant;
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::{Ecn, Flags, MacAddr, OutSegment, Seq, TcpOptions, TcpSegment};

use super::Noted;

/// Time between two turns of a hostile host.
pub(super) const TURN: Duration = Duration::from_millis(1);

/// A hostile host.
pub(super) trait Hostile {
    /// What it does in its turn, a thousand times a second.
    fn turn(&mut self, field: &mut Field);

    /// What it does about a segment of the server to one of its addresses, of which `text` octets are data.
    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let _ = (field, seg);
    }
}

/// Where the server is with an honest connection: what a perfect spy would know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// The client's port.
    pub(super) port: u16,
    /// SND.NXT and RCV.NXT of the server, at least.
    pub(super) snd_nxt: Seq,
    pub(super) rcv_nxt: Seq,
    /// The client's timestamp that the server echoed.
    pub(super) stamp: u32,
}

/// The hostile host's means.
pub(super) struct Field {
    pub(super) device: LinkDevice,
    pub(super) chance: SplitMix64,
    pub(super) now: Instant,
    pub(super) server: IpAddr,
    pub(super) honest: IpAddr,
    pub(super) sent: u64,
    pub(super) noted: Noted,
    pub(super) victims: Vec<Victim>,
}

/// A segment to be forged.
#[derive(Clone, Copy)]
pub(super) struct Forged<'a> {
    pub(super) from: (IpAddr, u16),
    pub(super) port: u16,
    pub(super) flags: Flags,
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    pub(super) window: u16,
    pub(super) options: TcpOptions,
    pub(super) text: &'a [u8],
}

impl Forged<'_> {
    pub(super) fn new(from: (IpAddr, u16), port: u16, flags: Flags) -> Self {
        let (seq, ack) = (Seq(0), Seq(0));
        Self { from, port, flags, seq, ack, window: 60_000, options: TcpOptions::NONE, text: &[] }
    }
}

/// The station of everybody but the server.
pub(super) const STATION: MacAddr = MacAddr(End::B.mac());

impl Field {
    pub(super) fn random32(&mut self) -> u32 {
        self.chance.next_u64() as u32
    }

    /// An ephemeral port.
    pub(super) fn port(&mut self) -> u16 {
        1024 + self.chance.below(60_000) as u16
    }

    /// Address number `number` of a network of `2^20` behind the router.
    pub(super) fn remote(&self, number: u32) -> IpAddr {
        let number = number & 0xf_ffff;
        if self.server.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from_bits(0xac10_0000 | number))
        } else {
            let prefix = 0x2001_0db8 << 96 | u128::from(number >> 8) << 72;
            IpAddr::V6(Ipv6Addr::from_bits(prefix | (u128::from(number & 0xff) + 1)))
        }
    }

    /// A random address behind the router, of `2^20` or of 250 of one prefix.
    pub(super) fn any_remote(&mut self) -> IpAddr {
        let number = self.chance.below(1 << 20) as u32;
        self.remote(number)
    }

    /// See [`any_remote`](Self::any_remote).
    pub(super) fn any_of_one_prefix(&mut self) -> IpAddr {
        let number = 0x4_2000 + self.chance.below(250) as u32;
        self.remote(number)
    }

    /// A random invented neighbour.
    pub(super) fn any_neighbor(&mut self) -> IpAddr {
        let number = self.chance.below(1 << 15) as u32;
        self.neighbor(number)
    }

    /// Invented neighbour number `number`, of 32,768.
    pub(super) fn neighbor(&self, number: u32) -> IpAddr {
        let number = number & 0x7fff;
        if self.server.is_ipv4() {
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_8000 | number))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | 1 << 32 | u128::from(number)))
        }
    }

    pub(super) fn link(&self) -> Link {
        Link { source: STATION, destination: MacAddr(End::A.mac()), vlan: None }
    }

    /// Puts octets on the wire.
    pub(super) fn frame(&mut self, octets: &[u8]) {
        if let Some(mut frame) = self.device.allocate() {
            frame.resize(octets.len()).copy_from_slice(octets);
            if let Err(frame) = self.device.transmit(frame) {
                return self.device.release(frame);
            }
            self.sent += 1;
        }
    }

    /// The octets of a segment.
    pub(super) fn octets(&self, forged: &Forged<'_>) -> Vec<u8> {
        let segment = OutSegment {
            link: self.link(),
            source: forged.from.0,
            destination: self.server,
            source_port: forged.from.1,
            destination_port: forged.port,
            seq: forged.seq,
            ack: forged.ack,
            flags: forged.flags,
            window: forged.window,
            urgent_pointer: 0,
            hop_limit: 64,
            dscp: 0,
            ecn: Ecn::NotCapable,
            options: forged.options,
        };
        let mut octets = vec![0; segment.header_len() + forged.text.len()];
        let written = segment.emit_with(&mut octets, forged.text.len(), |out| out.copy_from_slice(forged.text));
        octets.truncate(written.unwrap_or(0));
        octets
    }

    /// Sends a segment.
    pub(super) fn send(&mut self, forged: &Forged<'_>) {
        let octets = self.octets(forged);
        self.frame(&octets);
    }

    /// One of the honest connections.
    pub(super) fn victim(&mut self) -> Option<Victim> {
        let count = self.victims.len() as u64;
        let at = if count > 0 { self.chance.below(count) as usize } else { return None };
        self.victims.get(at).copied()
    }
}
