//! Numbers that an outsider must not guess: initial sequence numbers (RFC 6528), timestamp offsets (RFC 7323 §5.4).

use std::net::IpAddr;

use crate::wire::Seq;

use super::TimestampClock;
use super::siphash::SipKey;

/// The secret keys.
#[derive(Clone, Debug)]
pub(crate) struct IsnKey {
    isn: SipKey,
    timestamps: TimestampClock,
    /// The origin of timestamps and this pass's time together, milliseconds.
    clock_ms: u32,
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
        Self { isn: SipKey::new(isn[0], isn[1]), timestamps, clock_ms: timestamps.origin_ms }
    }

    /// ISN = M + F(4-tuple, secret) (RFC 6528 §3), M one every 4 µs (RFC 9293 §3.4.1).
    #[inline(always)]
    pub(crate) fn iss(&self, local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16, now_us: u64) -> Seq {
        let ports = u32::from(local_port.swap_bytes()) | u32::from(remote_port.swap_bytes()) << 16;
        let hash = match (local, remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let (local, remote) = (local.to_bits().swap_bytes(), remote.to_bits().swap_bytes());
                self.isn.hash([u64::from(local) | u64::from(remote) << 32], ports)
            }
            _ => self.hash_v6(local, remote, ports),
        };
        //= RFC 9293 MUST-8, MUST-9, SHLD-1
        //= RFC 6528 3-SHOULD-1, 3-MUST-1
        Seq((hash as u32).wrapping_add((now_us / 4) as u32))
    }

    #[inline(never)]
    fn hash_v6(&self, local: IpAddr, remote: IpAddr, ports: u32) -> u64 {
        let (local, remote) = (fold(local).swap_bytes(), fold(remote).swap_bytes());
        let words = [local as u64, (local >> 64) as u64, remote as u64, (remote >> 64) as u64];
        self.isn.hash(words, ports)
    }

    /// The time of a pass of the loop.
    #[inline]
    pub(crate) fn set_now(&mut self, now_ms: u32) {
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
    #[inline]
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
