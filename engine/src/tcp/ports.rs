//! Local addresses and ports for active opens (RFC 6056 §3.3.4, the double-hash algorithm).
//!
//! The pairs of owned address and port towards one remote are walked in order from a secret start, so that the next
//! one tried is always the one that was used longest ago: with TIME-WAIT a FIFO, it is free if any is.
//!
//! Several workers of a device that spreads flows over its queues by a known hash each walk the pairs whose answers
//! arrive on their own queue, and no others. The hash is XOR-linear: the ports are sorted once by what they contribute to
//! the entry of the card's table, and what the rest of the four-tuple contributes turns one group into another. So the
//! next pair is found without trying ports, however many workers there are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{PortRange, TcpConfig};
use crate::device::toeplitz::Rss;
use crate::flow::{FlowKey, HashKey};
use crate::handover::Steering;

use super::locals::Locals;

/// Counters, so that traffic to one remote tells little of that to another.
const TABLE: usize = 256;

/// Pairs tried for one open before it is given up for now: bounds the work of a pass.
const TRIES: u64 = 256;

/// Chooses local addresses and ports.
pub(crate) struct Ports {
    range: PortRange,
    key: HashKey,
    counters: [u64; TABLE],
    /// For IPv4 and IPv6, where a port contributes from another place.
    groups: Option<[Groups; 2]>,
}

/// The ports of the range, sorted by what they contribute to the entry of the card's table.
struct Groups {
    rss: Arc<Rss>,
    /// Entries of the card's table that name our queue.
    mine: Vec<u16>,
    /// Ports, group by group.
    ports: Vec<u16>,
    /// Where each group begins, and the end of the last.
    starts: Vec<u32>,
    /// Ports of the largest group.
    largest: u32,
}

impl Groups {
    fn new(rss: &Arc<Rss>, steering: Steering, range: PortRange, v6: bool) -> Self {
        let group_of = |port: &u16| rss.entry(rss.port_part(v6, *port));
        let mut ports: Vec<_> = (range.first..=range.last).collect();
        ports.sort_by_key(group_of);
        let mut starts = vec![0; rss.table().len() + 1];
        for port in &ports {
            starts[group_of(port) + 1] += 1;
        }
        let largest = starts.iter().copied().max().unwrap_or(0);
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mine = (0..).zip(rss.table()).filter(|&(_, &queue)| steering.owns(queue)).map(|(entry, _)| entry).collect();
        Self { rss: Arc::clone(rss), mine, ports, starts, largest }
    }

    /// Places for ports on the walk from one address. Not each has one: groups are not quite alike.
    fn places(&self) -> u64 {
        self.mine.len() as u64 * u64::from(self.largest)
    }

    /// The port at a place, when the rest of the four-tuple contributes `rest`.
    #[inline]
    fn at(&self, place: u64, rest: u32) -> Option<u16> {
        let entries = self.mine.len() as u64;
        let entry = self.mine[(place % entries) as usize];
        let group = usize::from(entry) ^ self.rss.entry(rest);
        let port = u64::from(self.starts[group]) + place / entries;
        (port < u64::from(self.starts[group + 1])).then(|| self.ports[port as usize])
    }
}

impl Ports {
    /// Ports of the configured range, or of the range that is ours on an address shared with the kernel.
    pub(crate) fn new(tcp: &TcpConfig, shared: Option<PortRange>, secret: [u64; 2]) -> Self {
        Self { range: shared.unwrap_or(tcp.local_ports), key: HashKey::new(secret), counters: [0; TABLE], groups: None }
    }

    /// From now on only pairs whose answers arrive on the queues that `steering` names.
    pub(crate) fn steer(&mut self, rss: &Arc<Rss>, steering: Steering) {
        self.groups = Some([false, true].map(|v6| Groups::new(rss, steering, self.range, v6)));
    }

    /// The walk towards `remote`, where the last one stopped: from the address of number `local`, or from all of them.
    #[inline]
    //= RFC 6056 3.3-SHOULD-1
    pub(crate) fn walk(&self, locals: &Locals, local: Option<u16>, remote: SocketAddr) -> Walk {
        let ip = remote.ip();
        let from = local.map_or(ip, |number| locals.address(number));
        let hash = self.key.hash(&FlowKey { local: from, remote: ip, local_port: 0, remote_port: remote.port() });
        let counter = hash as usize % TABLE;
        let addresses = match local {
            Some(_) => 1,
            None => locals.family(ip.is_ipv6()).map(|(_, count)| u64::from(count)).sum::<u64>(),
        };
        let groups = self.groups(ip);
        let places = groups.map_or(u64::from(self.range.last - self.range.first) + 1, Groups::places);
        Walk {
            v6: ip.is_ipv6(),
            local,
            remote_part: groups.map_or(0, |groups| groups.rss.remote_part(ip, remote.port())),
            addresses,
            pairs: addresses * places,
            counter,
            start: (hash >> 8).wrapping_add(self.counters[counter]),
        }
    }

    #[inline]
    fn groups(&self, ip: IpAddr) -> Option<&Groups> {
        self.groups.as_ref().map(|groups| &groups[usize::from(ip.is_ipv6())])
    }

    /// Moves the walk on by `steps`.
    #[inline]
    pub(crate) fn advance(&mut self, walk: &Walk, steps: u64) {
        self.counters[walk.counter] += steps;
    }

    /// The pair so many steps on: number of the address, port. `None` if there is none at this step of the walk.
    #[inline]
    pub(crate) fn at(&self, locals: &Locals, walk: &Walk, step: u64) -> Option<(u16, u16)> {
        let at = walk.start.wrapping_add(step).checked_rem(walk.pairs)?;
        let (place, mut index) = (at / walk.addresses, (at % walk.addresses) as u32);
        let number = match walk.local {
            Some(local) => local,
            None => locals.family(walk.v6).find_map(|(base, count)| {
                if index < count {
                    return Some((base + index) as u16);
                }
                index -= count;
                None
            })?,
        };
        let port = match &self.groups {
            None => self.range.first + place as u16,
            Some(groups) => {
                let groups = &groups[usize::from(walk.v6)];
                groups.at(place, walk.remote_part ^ groups.rss.local_part(locals.address(number)))?
            }
        };
        Some((number, port))
    }
}

/// A walk over the pairs of owned address and port towards one remote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    v6: bool,
    /// The only address, if it is given.
    local: Option<u16>,
    /// What the remote end contributes to the card's hash.
    remote_part: u32,
    addresses: u64,
    /// Steps until the walk comes round.
    pairs: u64,
    /// Which of the counters is its own.
    counter: usize,
    start: u64,
}

impl Walk {
    /// How many pairs may be tried for one open.
    pub(crate) fn tries(&self) -> u64 {
        TRIES.min(self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::AddressRange;
    use crate::handover::Exchange;

    #[test]
    //= RFC 6056 3.3-SHOULD-1
    fn every_pair_is_met_once_before_any_comes_again() {
        let config = TcpConfig { local_ports: PortRange { first: 1000, last: 1099 }, ..TcpConfig::default() };
        let mut ports = Ports::new(&config, None, [1, 2]);
        let range = |first: &str, last: &str| AddressRange {
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            prefix_len: 24,
        };
        let locals = Locals::new(&[range("10.0.0.1", "10.0.0.3"), range("10.0.0.9", "10.0.0.10")]);
        let remote = "10.0.0.200:80".parse().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..500 {
            let walk = ports.walk(&locals, None, remote);
            let pair = ports.at(&locals, &walk, 0).unwrap();
            ports.advance(&walk, 1);
            assert!((1000..=1099).contains(&pair.1) && pair.0 < 5);
            assert!(seen.insert(pair), "{pair:?} came twice");
        }
        let again = ports.at(&locals, &ports.walk(&locals, None, remote), 0).unwrap();
        assert!(seen.contains(&again));
    }
    /// Every worker's walk meets exactly the pairs whose answers arrive on its queue, each once: for port ranges and
    /// tables of all shapes, keys of all kinds, both families.
    #[test]
    fn the_workers_of_a_hashing_card_share_the_pairs_out_by_queue() {
        let mut state = 7u64;
        let mut octet = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        let ranges = [(1024, 65_535), (40_000, 40_999), (50_000, 50_000), (32_768, 33_023)];
        for (round, (first, last)) in ranges.into_iter().cycle().take(24).enumerate() {
            let workers = 1 + round as u32 % 5;
            let table: Vec<_> = (0..1 << (round % 9)).map(|_| u16::from(octet()) % workers as u16).collect();
            let rss = Arc::new(Rss::with(core::array::from_fn(|_| octet()), &table).unwrap());
            let (local, remote) = match round % 2 {
                0 => ("10.0.0.1 10.0.0.3", "10.0.7.7:80"),
                _ => ("fd00::1 fd00::3", "[fd00::77]:443"),
            };
            let (from, to) = local.split_once(' ').unwrap();
            let addresses = AddressRange { first: from.parse().unwrap(), last: to.parse().unwrap(), prefix_len: 24 };
            let locals = Locals::new(&[addresses]);
            let remote = remote.parse().unwrap();
            let config = TcpConfig { local_ports: PortRange { first, last }, ..TcpConfig::default() };
            let mut seen = HashSet::new();
            for place in Exchange::among(workers as usize, 1, 64, Some(&rss)) {
                let mut ports = Ports::new(&config, None, [1, 2]);
                let (rss, steering) = place.steering().unwrap();
                ports.steer(rss, steering);
                let walk = ports.walk(&locals, None, remote);
                for step in 0..walk.pairs {
                    let Some((number, port)) = ports.at(&locals, &walk, step) else { continue };
                    let local = SocketAddr::new(locals.address(number), port);
                    assert_eq!(u32::from(rss.queue_of_flow(local, remote)), place.index());
                    assert!((first..=last).contains(&port) && seen.insert(local), "{local} came twice");
                }
            }
            assert_eq!(seen.len(), 3 * (usize::from(last - first) + 1), "every pair is somebody's");
        }
    }

    /// Few steps of the walk are without a pair: the usual range does not divide into equal groups, but nearly so.
    #[test]
    fn hardly_a_step_is_in_vain() {
        let config = TcpConfig::default();
        let rss = Arc::new(Rss::new(16));
        let locals = Locals::new(&[AddressRange {
            first: "10.0.0.1".parse().unwrap(),
            last: "10.0.0.1".parse().unwrap(),
            prefix_len: 24,
        }]);
        for place in Exchange::among(16, 1, 64, Some(&rss)) {
            let mut ports = Ports::new(&config, None, [1, 2]);
            let (rss, steering) = place.steering().unwrap();
            ports.steer(rss, steering);
            let walk = ports.walk(&locals, None, "10.0.0.9:80".parse().unwrap());
            let found = (0..walk.pairs).filter(|&step| ports.at(&locals, &walk, step).is_some()).count();
            assert!(found as f64 > 0.98 * walk.pairs as f64, "{found} of {}", walk.pairs);
        }
    }
}
