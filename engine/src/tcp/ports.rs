//! Local addresses and ports for active opens (RFC 6056 §3.3.4, the double-hash algorithm).
//!
//! The pairs of owned address and port towards one remote are walked in order from a secret start, so that the next
//! one tried is always the one that was used longest ago: with TIME-WAIT a FIFO, it is free if any is.

use std::net::SocketAddr;

use crate::config::{PortRange, TcpConfig};
use crate::flow::{FlowKey, HashKey};

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
}

impl Ports {
    /// Ports of the configured range, or of the range that is ours on an address shared with the kernel.
    pub(crate) fn new(tcp: &TcpConfig, shared: Option<PortRange>, secret: [u64; 2]) -> Self {
        Self { range: shared.unwrap_or(tcp.local_ports), key: HashKey::new(secret), counters: [0; TABLE] }
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
        let pairs = addresses * (u64::from(self.range.last - self.range.first) + 1);
        Walk {
            v6: ip.is_ipv6(),
            local,
            addresses,
            pairs,
            counter,
            start: (hash >> 8).wrapping_add(self.counters[counter]),
        }
    }

    /// Moves the walk on by `steps`.
    #[inline]
    pub(crate) fn advance(&mut self, walk: &Walk, steps: u64) {
        self.counters[walk.counter] += steps;
    }

    /// The pair so many steps on: number of the address, port.
    #[inline]
    pub(crate) fn at(&self, locals: &Locals, walk: &Walk, step: u64) -> Option<(u16, u16)> {
        let at = walk.start.wrapping_add(step).checked_rem(walk.pairs)?;
        let port = self.range.first + (at / walk.addresses) as u16;
        if let Some(local) = walk.local {
            return Some((local, port));
        }
        let mut index = (at % walk.addresses) as u32;
        let number = locals.family(walk.v6).find_map(|(base, count)| {
            if index < count {
                return Some((base + index) as u16);
            }
            index -= count;
            None
        })?;
        Some((number, port))
    }
}

/// A walk over the pairs of owned address and port towards one remote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    v6: bool,
    /// The only address, if it is given.
    local: Option<u16>,
    addresses: u64,
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
}
