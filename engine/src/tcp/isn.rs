//! Numbers that an outsider must not guess: initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 §5.4).

use std::net::{IpAddr, Ipv4Addr};

use crate::wire::Seq;

use super::TimestampClock;
use super::siphash::SipKey;

/// The secret keys.
#[derive(Clone, Debug)]
pub(crate) struct IsnKey {
    isn: SipKey,
    /// The hash that was asked for last, over IPv4.
    last: PairHash,
    /// This pass's time, one every 4 µs (RFC 9293 §3.4.1).
    clock_4us: u32,
    timestamps: TimestampClock,
    /// The origin of timestamps and this pass's time together, milliseconds.
    clock_ms: u32,
}

/// The hash of two flows over IPv4 whose clients are neighbours: their addresses differ in the last bit. Each has a half of
/// it for its own. The halves of what a keyed hash gives tell no more of each other than two hashes would, so that who sees
/// one of the two numbers knows nothing of the other.
#[derive(Clone, Copy, Debug)]
struct PairHash {
    /// The end that is taken for the server, and what absorbing it makes of the key.
    server: u64,
    begun: SipKey,
    /// The other end, the last bit of its address zero.
    clients: u64,
    hash: u64,
}

/// One number for an address of either family.
#[inline]
fn fold(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl IsnKey {
    pub(crate) fn new(isn: [u64; 2], timestamps: TimestampClock) -> Self {
        let isn = SipKey::new(isn[0], isn[1]);
        // no end is what all bits say
        let last = PairHash { server: u64::MAX, begun: isn, clients: u64::MAX, hash: 0 };
        Self { isn, last, clock_4us: 0, timestamps, clock_ms: timestamps.origin_ms }
    }

    /// ISN = M + F(4-tuple, secret) (RFC 6528 §3), M one every 4 µs (RFC 9293 §3.4.1). `part` is F.
    #[inline(always)]
    pub(crate) fn iss(&self, part: u32) -> Seq {
        //= RFC 9293 MUST-8, MUST-9, SHLD-1
        //= RFC 6528 3-SHOULD-1, 3-MUST-1
        Seq(part.wrapping_add(self.clock_4us))
    }

    /// What the flow between two ends contributes to its initial sequence numbers: F.
    #[inline(always)]
    pub(crate) fn part(&mut self, local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> u32 {
        match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => self.hash_v4((local, local_port), (remote, remote_port)),
            _ => self.hash_v6((local, local_port), (remote, remote_port)),
        }
    }

    /// SipHash-2-4 of one end and then of the other with its neighbour, whichever of the two opens. The end of the lower port
    /// comes first: mostly a server's, the same from one connection to the next, whose clients often come in order.
    #[inline(always)]
    fn hash_v4(&mut self, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> u32 {
        /// Above address and port of an end: it is ours.
        const LOCAL: u64 = 1 << 48;
        const LAST_BIT: u64 = 1 << 16;
        let word = |(address, port): (Ipv4Addr, u16)| u64::from(address.to_bits()) << 16 | u64::from(port);
        let (server, client) =
            if local.1 < remote.1 { (word(local) | LOCAL, word(remote)) } else { (word(remote), word(local)) };
        let clients = client & !LAST_BIT;
        if (self.last.server ^ server) | (self.last.clients ^ clients) != 0 {
            self.hash_pair(server, clients);
        }
        let upper_half = client & LAST_BIT != 0;
        (self.last.hash >> if upper_half { 32 } else { 0 }) as u32
    }

    #[inline(never)]
    fn hash_pair(&mut self, server: u64, clients: u64) {
        let last = &mut self.last;
        if last.server != server {
            (last.server, last.begun) = (server, self.isn.absorb(server));
        }
        last.clients = clients;
        last.hash = last.begun.finish(14, clients);
    }

    #[inline(never)]
    fn hash_v6(&self, local: (IpAddr, u16), remote: (IpAddr, u16)) -> u32 {
        let [here, there] = [local.0, remote.0].map(|address| fold(address).swap_bytes());
        let words = [here as u64, (here >> 64) as u64, there as u64, (there >> 64) as u64];
        let ports = u32::from(local.1.swap_bytes()) | u32::from(remote.1.swap_bytes()) << 16;
        self.isn.hash(words, ports) as u32
    }

    /// The time of a pass of the loop.
    #[inline]
    pub(crate) fn set_now(&mut self, now_us: u64, now_ms: u32) {
        self.clock_4us = (now_us / 4) as u32;
        self.clock_ms = now_ms.wrapping_add(self.timestamps.origin_ms);
    }

    /// TSval towards a pair of addresses, milliseconds.
    #[inline]
    pub(crate) fn timestamp(&self, local: IpAddr, remote: IpAddr) -> u32 {
        self.clock_ms.wrapping_add(self.keyed(local, remote))
    }

    /// What is added to the engine's time for a pair of addresses.
    #[inline]
    pub(crate) fn timestamp_offset(&self, local: IpAddr, remote: IpAddr) -> u32 {
        self.timestamps.origin_ms.wrapping_add(self.keyed(local, remote))
    }

    /// The offset of a pair of addresses. Keyed, so that uptime does not show; the same for every connection of the pair, so
    /// that TSval never goes back from one incarnation to the next. A multiplication does: the number protects no connection,
    /// sequence numbers do.
    #[inline(always)]
    //= RFC 7323 7.1-SHOULD-1
    //= RFC 6191 2-SHOULD-3
    fn keyed(&self, local: IpAddr, remote: IpAddr) -> u32 {
        let mix = |address: IpAddr| {
            let bits = fold(address);
            (bits >> 64) as u64 ^ bits as u64
        };
        let product = u128::from(mix(local) ^ self.timestamps.key[0])
            .wrapping_mul(u128::from(mix(remote).rotate_left(32) ^ self.timestamps.key[1] | 1));
        ((product >> 64) as u64 ^ product as u64) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key() -> IsnKey {
        IsnKey::new([1, 2], TimestampClock { key: [3, 4], origin_ms: 0 })
    }

    fn iss(key: &mut IsnKey, [local, remote]: [(IpAddr, u16); 2]) -> Seq {
        let part = key.part(local.0, local.1, remote.0, remote.1);
        key.iss(part)
    }

    /// A server and clients side by side, on ports above, below and like its own, each seen from either end.
    fn flows() -> Vec<[(IpAddr, u16); 2]> {
        let end = |last, port| (IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), port);
        let (server, mut flows) = (end(1, 80), Vec::new());
        for port in [40_000, 40_001, 80, 79] {
            let clients = (0..=255).map(|last| end(last, port)).filter(|&client| client != server);
            flows.extend(clients.flat_map(|client| [[client, server], [server, client]]));
        }
        flows
    }

    #[test]
    fn a_flow_has_a_number_of_its_own_whatever_was_asked_before() {
        let (mut key, mut numbers) = (key(), HashSet::new());
        for flow in flows() {
            let number = iss(&mut key, flow);
            assert_eq!(number, iss(&mut self::key(), flow), "{flow:?}");
            assert!(numbers.insert(number.0), "{flow:?} has the number of another flow");
        }
    }

    #[test]
    fn numbers_grow_by_one_every_four_microseconds() {
        let mut key = key();
        for flow in flows() {
            key.set_now(4_000_000, 4_000);
            let before = iss(&mut key, flow);
            key.set_now(4_000_403, 4_000);
            assert_eq!(iss(&mut key, flow), before + 100);
        }
    }
}
