//! Frames that arrive on a worker that does not own their flow.
//!
//! With several workers each flow has one owner. Where the device's hash is known ([`Rss`]) that is the worker on whose
//! queue the flow arrives, and active opens choose their ports so that the answers arrive at home. Where it is not (veth
//! delivers by the sender's queue or core) the owner follows from what both ends of the flow have in common:
//! two engines with as many workers agree, and each worker hears from its like. From others a segment may reach the wrong
//! worker. That one copies the frame into a parcel and puts it on the owner's bounded queue; what finds no room
//! there is dropped and counted, as on a full ring. Answers to ARP and neighbour discovery go to everyone: each worker
//! has its own table.
//!
//! Parcels are made at the start and go round between the workers; nothing is allocated on the way.

use std::net::{IpAddr, SocketAddr};

use crate::device::toeplitz::Rss;
use crate::flow::FlowKey;
use crate::sync::{Arc, ArrayQueue};

/// A frame on its way from one worker to another.
struct Parcel {
    octets: Box<[u8]>,
    len: usize,
}

/// Which queues' flows a worker owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steering {
    queue: u32,
    workers: u32,
}

impl Steering {
    pub(crate) fn owns(self, queue: u16) -> bool {
        u32::from(queue) % self.workers == self.queue
    }
}

/// Which flows a worker owns where nobody knows how the device spreads them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    index: u32,
    workers: u32,
}

impl Share {
    #[inline]
    pub(crate) fn owns(self, flow: &FlowKey) -> bool {
        owner_in_common(flow, self.workers) == self.index
    }
}

/// One worker's place among several: where its parcels arrive, and where it sends those of others.
pub struct Exchange {
    index: u32,
    inboxes: Vec<Arc<ArrayQueue<Parcel>>>,
    /// Empty parcels, shared by all.
    empties: Arc<ArrayQueue<Parcel>>,
    rss: Option<Arc<Rss>>,
}

impl Exchange {
    /// Places for `workers` workers with room for `parcels` frames of up to `frame_bytes` octets on the way to each.
    /// Worker `n` is on queue `n` of a device that spreads flows by `rss`, if that is known.
    pub fn among(workers: usize, parcels: usize, frame_bytes: usize, rss: Option<&Arc<Rss>>) -> Vec<Self> {
        let inboxes: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(parcels.max(1)))).collect();
        let empties = Arc::new(ArrayQueue::new((workers * parcels).max(1)));
        for _ in 0..workers * parcels {
            let parcel = Parcel { octets: vec![0; frame_bytes].into_boxed_slice(), len: 0 };
            // There is room for all of them.
            let _ = empties.push(parcel);
        }
        (0..workers)
            .map(|index| Self {
                index: index as u32,
                inboxes: inboxes.clone(),
                empties: Arc::clone(&empties),
                rss: rss.cloned(),
            })
            .collect()
    }

    /// The worker that owns a flow: all workers say the same.
    #[inline]
    pub(crate) fn owner(&self, flow: &FlowKey) -> u32 {
        let workers = self.inboxes.len() as u32;
        match &self.rss {
            // Of a queue that no worker is on nothing arrives; someone has to own its flows all the same.
            Some(rss) => {
                let local = SocketAddr::new(flow.local, flow.local_port);
                u32::from(rss.queue_of_flow(local, SocketAddr::new(flow.remote, flow.remote_port))) % workers
            }
            None => owner_in_common(flow, workers),
        }
    }

    /// Whether this worker owns an IPv4 flow, in words: addresses and ports, each with the peer's in the high half. False if it
    /// takes more to know.
    #[inline(always)]
    pub(crate) fn surely_owns(&self, addresses: u64, ports: u32) -> bool {
        let in_common = in_common(addresses >> 32 ^ addresses & 0xffff_ffff, ports >> 16 ^ ports & 0xffff);
        self.rss.is_none() && one_of(in_common, self.inboxes.len() as u32) == self.index
    }

    /// Number of this worker.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// How the device spreads flows, and the queues whose flows are this worker's: every so many from its own on.
    pub(crate) fn steering(&self) -> Option<(&Arc<Rss>, Steering)> {
        let steering = Steering { queue: self.index, workers: self.inboxes.len() as u32 };
        self.rss.as_ref().map(|rss| (rss, steering))
    }

    /// The flows that are this worker's, if the device's way to spread them is not known.
    pub(crate) fn share(&self) -> Option<Share> {
        self.rss.is_none().then_some(Share { index: self.index, workers: self.inboxes.len() as u32 })
    }

    /// Hands a frame to `worker`. False if it has no room: the frame is lost.
    pub(crate) fn hand_over(&self, worker: u32, frame: &[u8]) -> bool {
        let (Some(inbox), Some(mut parcel)) = (self.inboxes.get(worker as usize), self.empties.pop()) else {
            return false;
        };
        let fits = frame.len() <= parcel.octets.len();
        if fits {
            parcel.octets[..frame.len()].copy_from_slice(frame);
            parcel.len = frame.len();
        }
        let refused = if fits { inbox.push(parcel).err() } else { Some(parcel) };
        match refused {
            Some(parcel) => {
                let _ = self.empties.push(parcel);
                false
            }
            None => true,
        }
    }

    /// Hands a copy of a frame to every other worker. Returns how many had no room for it.
    pub(crate) fn hand_to_all(&self, frame: &[u8]) -> usize {
        let others = (0..self.inboxes.len() as u32).filter(|&worker| worker != self.index);
        others.filter(|&worker| !self.hand_over(worker, frame)).count()
    }

    /// The next frame that was handed to this worker, copied into `frame`. Its length, or `None` if there is none.
    pub(crate) fn take(&self, frame: &mut [u8]) -> Option<usize> {
        let parcel = self.inboxes.get(self.index as usize)?.pop()?;
        let len = parcel.len.min(frame.len());
        frame[..len].copy_from_slice(&parcel.octets[..len]);
        let _ = self.empties.push(parcel);
        Some(len)
    }
}

/// The worker of a flow by a hash that both ends of it compute alike. It has no key, as the devices' hashes have a known one:
/// whoever aims at one worker can do so anyway.
#[inline]
fn owner_in_common(flow: &FlowKey, workers: u32) -> u32 {
    let addresses = match (flow.local, flow.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => u64::from(local.to_bits() ^ remote.to_bits()),
        (local, remote) => {
            let bits = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            };
            let both = bits(local) ^ bits(remote);
            (both >> 64) as u64 ^ both as u64
        }
    };
    one_of(in_common(addresses, u32::from(flow.local_port ^ flow.remote_port)), workers)
}

/// The hash of what the two addresses have in common, and what the two ports have.
#[inline(always)]
fn in_common(addresses: u64, ports: u32) -> u64 {
    // Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3, §6.4.
    (addresses.rotate_left(16) ^ u64::from(ports)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The worker that a hash falls to.
#[inline(always)]
fn one_of(hash: u64, workers: u32) -> u32 {
    // A multiplication spreads the high half over the workers
    (((hash >> 32) * u64::from(workers)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_whole_and_go_round() {
        let places = Exchange::among(3, 4, 64, None);
        for round in 0..100u8 {
            assert!(places[0].hand_over(2, &[round; 60]));
            let mut frame = [0; 64];
            assert_eq!(places[1].take(&mut frame), None);
            assert_eq!(places[2].take(&mut frame), Some(60));
            assert_eq!(frame[..60], [round; 60]);
        }
    }

    #[test]
    fn a_full_inbox_refuses_and_loses_no_parcel() {
        let places = Exchange::among(2, 4, 64, None);
        let accepted = (0..10).filter(|_| places[0].hand_over(1, &[1; 10])).count();
        assert_eq!(accepted, 4);
        assert!(!places[0].hand_over(0, &[1; 65]), "too long");
        let mut frame = [0; 64];
        assert_eq!((0..10).filter(|_| places[1].take(&mut frame).is_some()).count(), 4);
        assert_eq!(places[0].empties.len(), 8);
    }

    #[test]
    fn every_flow_has_one_owner_and_each_worker_its_share() {
        for rss in [None, Some(Arc::new(Rss::new(3)))] {
            let places = Exchange::among(3, 1, 64, rss.as_ref());
            let mut share = [0; 3];
            for n in 0..3000u64 {
                let flow = FlowKey {
                    local: [10, 0, 0, 1].into(),
                    remote: [10, 9, (n >> 8) as u8, n as u8].into(),
                    local_port: 80,
                    remote_port: 1024 + n as u16,
                };
                let owner = places[0].owner(&flow);
                assert!(places.iter().all(|place| place.owner(&flow) == owner));
                let addresses = 0x0a09_0000_0a00_0001 | n << 32;
                let ports = u32::from(flow.remote_port) << 16 | 80;
                for place in &places {
                    let sure = place.surely_owns(addresses, ports);
                    assert_eq!(sure, rss.is_none() && place.index() == owner);
                }
                share[owner as usize] += 1;
            }
            assert!(share.iter().all(|&n| (800..1200).contains(&n)), "{share:?}");
        }
    }

    #[test]
    fn both_ends_of_a_flow_name_the_same_worker() {
        let places = Exchange::among(4, 1, 64, None);
        let ends = [("10.66.0.1", "10.66.1.7"), ("fd66::1", "fd66::1:7")];
        for (local, remote) in
            ends.map(|(one, other)| (one.parse::<IpAddr>().unwrap(), other.parse::<IpAddr>().unwrap()))
        {
            let mut share = [0; 4];
            // Linux opens towards one peer from ports of one parity.
            for remote_port in (32_768..60_000).step_by(2) {
                let here = FlowKey { local, remote, local_port: 80, remote_port };
                let there = FlowKey { local: remote, remote: local, local_port: remote_port, remote_port: 80 };
                assert_eq!(places[0].owner(&here), places[0].owner(&there));
                share[places[0].owner(&here) as usize] += 1;
            }
            assert!(share.iter().all(|&n| (3_000..3_800).contains(&n)), "{share:?}");
        }
    }
}
