//! What names a flow, and its keyed hash.

use core::hash::Hasher;
use core::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::bucket::TAG_SHIFT;

/// The pair of sockets that identifies a connection (RFC 9293 §3.3.1), seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
}

/// The secret of the flow hash.
///
/// Independent of the hash that spreads flows over queues: that one is XOR-linear with a known key, so its output can
/// be steered by whoever picks addresses and ports.
#[derive(Clone)]
pub struct HashKey {
    v4: [u64; 4],
    v6: [u64; 6],
}

impl core::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

impl HashKey {
    /// A hash keyed with 128 bits that no peer may know or influence.
    pub fn new(secret: [u64; 2]) -> Self {
        let word = |index: usize| {
            let mut hasher = SipHasher24::new_with_keys(secret[0], secret[1]);
            hasher.write_usize(index);
            hasher.finish()
        };
        Self { v4: core::array::from_fn(word), v6: core::array::from_fn(|index| word(index + 4)) }
    }

    /// The hash of `key`; all 64 bits are usable.
    ///
    /// Two rounds of a folded multiplication: the full 128-bit product, its halves XORed, with a secret word on either
    /// operand. For an IPv4 key 2 ns in a burst, against 7 for SipHash-1-3 and 11 for SipHash-2-4 over the same words
    /// (`bench/benches/flow_table.rs`): a short connection hashes six to eight times, so SipHash would cost a sixth of
    /// its 250 ns.
    ///
    /// Flooding: to aim at a bucket one needs the hash of one's own packets. It never leaves the worker; all that
    /// shows is time, and a table operation looks at a bounded number of cache lines whatever the hash, so collisions
    /// buy a full bucket (counted, refused) and no work. An operand that cancels its secret word, which makes the
    /// product constant, is a guess of 64 bits. What must stand against forgery (initial sequence numbers, cookies)
    /// uses SipHash instead.
    pub fn hash(&self, key: &FlowKey) -> u64 {
        match words(key) {
            Words::V4(addresses, ports) => self.hash_v4(addresses, ports),
            Words::V6(local, remote, ports) => self.hash_v6(local, remote, ports),
        }
    }

    /// The hash by which the [index](super::table) has `key`: that of the first of its neighbours, with what tells them
    /// apart XORed into the number of the bucket.
    ///
    /// Neighbours are flows whose peers' addresses differ in the last two bits at most, and our addresses likewise. Who opens
    /// connections from many addresses goes from each to the next, and the buckets of four lie on one page: its address is
    /// translated once for all of them, where each would wait for a walk of its own. None is at home in another's bucket, so
    /// there is no more to aim at than with [`hash`](Self::hash).
    #[inline]
    pub fn index_hash(&self, key: &FlowKey) -> u64 {
        match words(key) {
            Words::V4(addresses, ports) => self.index_hash_v4(addresses, ports),
            Words::V6(local, remote, ports) => {
                let last = (remote as u64 & LAST) << 32 | local as u64 & LAST;
                self.hash_v6(local & !u128::from(LAST), remote & !u128::from(LAST), ports) ^ among_neighbours(last)
            }
        }
    }

    /// [`index_hash`](Self::index_hash) of an IPv4 key, in words as a segment that arrives has them: address and port of the
    /// peer in the high halves.
    #[inline(always)]
    pub(crate) fn index_hash_v4(&self, addresses: u64, ports: u32) -> u64 {
        let last = addresses & (LAST << 32 | LAST);
        self.hash_v4(addresses ^ last, ports) ^ among_neighbours(last)
    }

    /// The hash of one address, of the same kind.
    #[inline]
    pub fn hash_address(&self, address: IpAddr) -> u64 {
        let ([k0, k1, k2, k3], bits) = match address {
            IpAddr::V4(address) => (self.v4, u128::from(address.to_bits())),
            IpAddr::V6(address) => ([self.v6[0], self.v6[1], self.v6[2], self.v6[3]], address.to_bits()),
        };
        fold(fold((bits >> 64) as u64 ^ k0, bits as u64 ^ k1) ^ k2, k3)
    }

    #[inline(always)]
    fn hash_v4(&self, addresses: u64, ports: u32) -> u64 {
        let [k0, k1, k2, k3] = self.v4;
        fold(fold(addresses ^ k0, u64::from(ports) ^ k1) ^ k2, k3)
    }

    // Apart, so that who asks for few or none over IPv6 does not carry it along
    #[inline(never)]
    fn hash_v6(&self, local: u128, remote: u128, ports: u32) -> u64 {
        let [k0, k1, k2, k3, k4, k5] = self.v6;
        let local = fold((local >> 64) as u64 ^ k0, local as u64 ^ k1);
        let remote = fold((remote >> 64) as u64 ^ k2, remote as u64 ^ k3);
        fold(fold(local ^ k4, remote.rotate_left(32) ^ u64::from(ports) ^ k5) ^ k2, k0)
    }
}

/// The bits of an address in which neighbours differ.
const LAST: u64 = 3;

/// Where a flow lies among its neighbours, from the last bits of the peer's address (high half) and of ours: they change bits
/// 1 and 2, 3 and 4 of the number of its bucket. Bit 0 tells the lines of a pair apart, of which an entry tries both, and ways
/// on from there ([`probe`](super::bucket::probe)) do not lead from one neighbour's bucket to another's.
#[inline(always)]
fn among_neighbours(last: u64) -> u64 {
    // The peer's bits are where they belong: bit 32 of the hash is bit 1 of its tag. Ours are in bits that no tag has, too
    const _: () = assert!(TAG_SHIFT == 31);
    last ^ (last << 34)
}

/// A key as the hash takes it. Ports: the peer's in the high half.
enum Words {
    /// Addresses, the peer's in the high half.
    V4(u64, u32),
    /// Our address and the peer's.
    V6(u128, u128, u32),
}

#[inline(always)]
fn words(key: &FlowKey) -> Words {
    let ports = u32::from(key.remote_port) << 16 | u32::from(key.local_port);
    match (key.local, key.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            Words::V4(u64::from(remote.to_bits()) << 32 | u64::from(local.to_bits()), ports)
        }
        (local, remote) => Words::V6(v6_bits(local), v6_bits(remote), ports),
    }
}

fn v6_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
