//! The stations that frames go to: asked for once before the start, and answers for our own addresses meanwhile.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use syncline_engine::device::{BURST, Device, Frame};
use syncline_engine::stats::Stats;
use syncline_engine::wire::arp::{ArpOperation, ArpPacket};
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::ndp::{NeighborAdvertisement, NeighborSolicitation};
use syncline_engine::wire::{MacAddr, ParseRules, Parsed, VlanId, emit, ipv6, parse};

use crate::error::{Error, Result};
use crate::net::OwnedAddrs;

/// How often a next hop is asked for, and how far apart (RFC 4861 §10: three times, a second apart).
const ATTEMPTS: u32 = 3;
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);

/// Octets of the longest of these frames, tag included.
const FRAME_MAX: usize = 128;

/// Who we are on the link.
#[derive(Clone, Debug)]
pub struct Station {
    /// The device's hardware address.
    pub mac: MacAddr,
    /// The VLAN of all frames.
    pub vlan: Option<VlanId>,
    /// The addresses that are answered for.
    pub own: Vec<OwnedAddrs>,
}

impl Station {
    /// What a received frame must be like.
    pub fn rules(&self, partial_checksum: bool) -> ParseRules {
        let mac = Some(self.mac);
        ParseRules { vlan: self.vlan, mac, accept_partial_checksum: partial_checksum, ..ParseRules::default() }
    }

    /// The addresses of a frame to `destination`.
    pub fn link(&self, destination: MacAddr) -> Link {
        Link { source: self.mac, destination, vlan: self.vlan }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.own.iter().any(|own| own.contains(address))
    }

    /// Sends what `build` writes.
    fn send<D: Device>(&self, device: &mut D, stats: &Stats, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(mut frame) = device.allocate() else { return false };
        let Some(len) = build(frame.resize(FRAME_MAX)) else {
            device.release(frame);
            return false;
        };
        frame.resize(len);
        match device.transmit(frame) {
            Ok(()) => {
                stats.tx_frames.increment();
                stats.tx_bytes.add(len as u64);
                true
            }
            Err(frame) => {
                device.release(frame);
                false
            }
        }
    }

    /// Answers who asks for one of our own addresses.
    pub fn answer<D: Device>(&self, device: &mut D, stats: &Stats, parsed: &Parsed) {
        let sent = match parsed {
            Parsed::Arp(asked) if asked.operation == ArpOperation::Request && self.has(IpAddr::V4(asked.target)) => {
                let reply = ArpPacket {
                    operation: ArpOperation::Reply,
                    sender_mac: self.mac,
                    sender: asked.target,
                    target_mac: asked.sender_mac,
                    target: asked.sender,
                };
                let link = self.link(asked.sender_mac);
                self.send(device, stats, |out| emit::arp(out, &link, &reply).ok())
            }
            // Detection of duplicates, whose source is unspecified, is left to find none: nothing is owned for long.
            Parsed::NeighborSolicitation(asked)
                if self.has(IpAddr::V6(asked.target)) && !asked.source.is_unspecified() =>
            {
                let answer = NeighborAdvertisement {
                    source: asked.target,
                    target: asked.target,
                    router: false,
                    solicited: true,
                    overrides: true,
                    target_link_layer: Some(self.mac),
                };
                let link = self.link(asked.source_link_layer.unwrap_or(asked.source_mac));
                self.send(device, stats, |out| emit::neighbor_advertisement(out, &link, asked.source, &answer).ok())
            }
            _ => false,
        };
        if sent {
            stats.neighbor_replies.increment();
        }
    }

    /// Asks for the station of `hop`.
    fn ask<D: Device>(&self, device: &mut D, stats: &Stats, hop: IpAddr) {
        let own = self.own.iter().find(|own| own.on_link(hop)).map(OwnedAddrs::first);
        let sent = match (hop, own) {
            (IpAddr::V4(target), Some(IpAddr::V4(sender))) => {
                let request = ArpPacket {
                    operation: ArpOperation::Request,
                    sender_mac: self.mac,
                    sender,
                    target_mac: MacAddr::ZERO,
                    target,
                };
                let link = self.link(MacAddr::BROADCAST);
                self.send(device, stats, |out| emit::arp(out, &link, &request).ok())
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                let asked =
                    NeighborSolicitation { source_mac: self.mac, source, target, source_link_layer: Some(self.mac) };
                let group = ipv6::solicited_node(target);
                let [.., a, b, c, d] = group.octets();
                let link = self.link(MacAddr([0x33, 0x33, a, b, c, d]));
                self.send(device, stats, |out| emit::neighbor_solicitation(out, &link, group, &asked).ok())
            }
            _ => false,
        };
        if sent {
            stats.neighbor_requests.increment();
        }
    }
}

/// Whose station `parsed` tells, and where it is.
fn told(parsed: &Parsed) -> Option<(IpAddr, MacAddr)> {
    match parsed {
        Parsed::Arp(packet) => Some((IpAddr::V4(packet.sender), packet.sender_mac)),
        Parsed::NeighborAdvertisement(told) => Some((IpAddr::V6(told.target), told.target_link_layer?)),
        _ => None,
    }
}

/// The station of each of `hops`. An answer may come on any of `devices`, the queues of one interface.
///
/// # Errors
/// Exit 3 if one of them does not answer.
pub fn resolve<D: Device>(
    devices: &mut [D],
    station: &Station,
    stats: &Stats,
    hops: &[IpAddr],
) -> Result<Vec<MacAddr>> {
    let mut found: Vec<Option<MacAddr>> = vec![None; hops.len()];
    let mut burst = Vec::with_capacity(BURST);
    for _ in 0..ATTEMPTS {
        let asked = Instant::now();
        if let Some(device) = devices.first_mut() {
            let missing = hops.iter().zip(&found).filter(|(_, found)| found.is_none());
            missing.for_each(|(&hop, _)| station.ask(device, stats, hop));
        }
        while asked.elapsed() < ATTEMPT_INTERVAL && found.iter().any(Option::is_none) {
            for device in devices.iter_mut() {
                let rules = station.rules(device.capabilities().partial_checksum);
                device.doorbell();
                device.reap();
                device.receive(&mut burst);
                for frame in burst.drain(..) {
                    let parsed = parse(frame.bytes(), &rules);
                    device.release(frame);
                    let Ok(parsed) = parsed else { continue };
                    if let Some((address, mac)) = told(&parsed) {
                        let places = hops.iter().zip(&mut found).filter(|(hop, _)| **hop == address);
                        places.for_each(|(_, place)| *place = Some(mac));
                    }
                    station.answer(device, stats, &parsed);
                }
            }
            std::thread::yield_now();
        }
    }
    let unknown = |hop: &IpAddr| {
        let mend = "check that it is up and on this link, and --gateway";
        Error::environment(format!("cannot reach {hop}"), "no neighbour answered for it", mend)
    };
    hops.iter().zip(found).map(|(hop, found)| found.ok_or_else(|| unknown(hop))).collect()
}
