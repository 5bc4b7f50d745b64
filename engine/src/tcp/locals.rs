//! The addresses the engine owns, each with a number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::AddressRange;
use crate::wire::{Hosts, ipv4};

/// A range of owned addresses and the number of its first one.
#[derive(Clone, Copy, Debug)]
struct Owned {
    first: u128,
    count: u32,
    base: u32,
    v6: bool,
    prefix_len: u8,
}

/// What every segment over IPv4 asks of a range, in words of its own width.
#[derive(Clone, Copy, Debug)]
struct OwnedV4 {
    first: u32,
    count: u32,
    base: u32,
    /// What the addresses on its link have in common.
    prefix: u32,
    mask: u32,
    /// The directed broadcast address of the prefix; beyond all addresses if it has none.
    broadcast: u64,
}

/// Owned addresses.
#[derive(Clone, Debug)]
pub(crate) struct Locals {
    ranges: Vec<Owned>,
    /// Those of IPv4 once more: the first of them, which for most is the only one, and the others.
    first_v4: OwnedV4,
    further_v4: Vec<OwnedV4>,
}

impl Owned {
    fn v4(&self) -> OwnedV4 {
        let first = self.first as u32;
        let broadcast = match self.prefix_len {
            // a link of two has none (RFC 3021 §2.1)
            31.. => u64::MAX,
            len => u64::from(first) | u64::from(u32::MAX) >> len,
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0);
        OwnedV4 { first, count: self.count, base: self.base, prefix: first & mask, mask, broadcast }
    }
}

impl OwnedV4 {
    /// No address, and none on its link.
    const NONE: Self = Self { first: 0, count: 0, base: 0, prefix: 1, mask: 0, broadcast: u64::MAX };

    #[inline(always)]
    fn number(&self, address: Ipv4Addr) -> Option<u16> {
        let offset = address.to_bits().wrapping_sub(self.first);
        (offset < self.count).then_some((self.base + offset) as u16)
    }

    /// Whether the first and the last of the range can be a host's.
    fn ends_in_hosts(&self) -> bool {
        let last = self.first.wrapping_add(self.count.wrapping_sub(1));
        [self.first, last].into_iter().all(|end| ipv4::is_valid_destination(Ipv4Addr::from_bits(end)))
    }

    #[inline(always)]
    fn address(&self, number: u16) -> Option<Ipv4Addr> {
        let offset = u32::from(number).wrapping_sub(self.base);
        (offset < self.count).then(|| Ipv4Addr::from_bits(self.first + offset))
    }

    #[inline(always)]
    fn has_on_link(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask == self.prefix
    }
}

/// The most owned addresses: their numbers have 16 bits.
pub(crate) const ADDRESSES_MAX: u32 = 1 << 16;

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Locals {
    /// Numbers the addresses of `ranges` in order; what exceeds [`ADDRESSES_MAX`] is left out.
    pub(crate) fn new(ranges: &[AddressRange]) -> Self {
        let mut owned = Vec::with_capacity(ranges.len());
        let mut base = 0;
        for range in ranges {
            let span = bits(range.last).saturating_sub(bits(range.first)).saturating_add(1);
            let count = span.min(u128::from(ADDRESSES_MAX - base)) as u32;
            if count == 0 {
                continue;
            }
            owned.push(Owned {
                first: bits(range.first),
                count,
                base,
                v6: range.first.is_ipv6(),
                prefix_len: range.prefix_len,
            });
            base += count;
        }
        let mut v4 = owned.iter().filter(|range| !range.v6).map(Owned::v4);
        let first_v4 = v4.next().unwrap_or(OwnedV4::NONE);
        let further_v4 = v4.collect();
        Self { ranges: owned, first_v4, further_v4 }
    }

    /// Whether any of them is IPv6.
    pub(crate) fn has_v6(&self) -> bool {
        self.ranges.iter().any(|range| range.v6)
    }

    /// The number of an owned address.
    #[inline]
    pub(crate) fn number(&self, address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(address) => match self.first_v4.number(address) {
                Some(number) => Some(number),
                None if self.further_v4.is_empty() => None,
                None => self.further_number(address),
            },
            IpAddr::V6(address) => self.number_v6(address),
        }
    }

    /// The first range of IPv4 addresses, if they are hosts'.
    pub(crate) fn first_hosts(&self) -> Hosts {
        let OwnedV4 { first, count, base, .. } = self.first_v4;
        // no range is so wide that there are others between hosts'
        if self.first_v4.ends_in_hosts() { Hosts { first, count, base: base as u16 } } else { Hosts::NONE }
    }

    /// The number of an owned address, if it is a host's.
    #[inline(never)]
    pub(crate) fn number_of_host(&self, address: Ipv4Addr) -> Option<u16> {
        if ipv4::is_valid_destination(address) { self.number(IpAddr::V4(address)) } else { None }
    }

    #[inline(never)]
    fn further_number(&self, address: Ipv4Addr) -> Option<u16> {
        self.further_v4.iter().find_map(|range| range.number(address))
    }

    #[inline(never)]
    fn number_v6(&self, address: Ipv6Addr) -> Option<u16> {
        self.ranges.iter().find_map(|range| {
            let offset = address.to_bits().wrapping_sub(range.first);
            (range.v6 && offset < u128::from(range.count)).then(|| (range.base + offset as u32) as u16)
        })
    }

    /// The address of a number.
    #[inline]
    pub(crate) fn address(&self, number: u16) -> IpAddr {
        match self.first_v4.address(number) {
            Some(address) => IpAddr::V4(address),
            None => self.further_address(number),
        }
    }

    #[inline(never)]
    fn further_address(&self, number: u16) -> IpAddr {
        let number = u32::from(number);
        let found = self.ranges.iter().find(|range| number.wrapping_sub(range.base) < range.count);
        let Some(range) = found else { return IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let bits = range.first + u128::from(number - range.base);
        if range.v6 { IpAddr::V6(Ipv6Addr::from_bits(bits)) } else { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) }
    }

    /// The address of a number, if it is one of IPv4.
    #[inline]
    pub(crate) fn address_v4(&self, number: u16) -> Option<Ipv4Addr> {
        match self.first_v4.address(number) {
            Some(address) => Some(address),
            None => self.further_address_v4(number),
        }
    }

    #[inline(never)]
    fn further_address_v4(&self, number: u16) -> Option<Ipv4Addr> {
        self.further_v4.iter().find_map(|range| range.address(number))
    }

    /// The address of a number that is known to be one of a family.
    #[inline(always)]
    pub(crate) fn address_of(&self, number: u16, v6: bool) -> IpAddr {
        if v6 { self.address(number) } else { self.address_v4(number).unwrap_or(Ipv4Addr::UNSPECIFIED).into() }
    }

    /// Numbers of the addresses of a family: first and count of each range.
    pub(crate) fn family(&self, v6: bool) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().filter(move |range| range.v6 == v6).map(|range| (range.base, range.count))
    }

    /// Whether a destination is on the link: inside the prefix of one of our addresses.
    #[inline]
    pub(crate) fn on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.first_v4.has_on_link(address) || self.further_v4.iter().any(|range| range.has_on_link(address))
            }
            IpAddr::V6(address) => self.on_link_v6(address),
        }
    }

    fn on_link_v6(&self, address: Ipv6Addr) -> bool {
        self.ranges.iter().filter(|range| range.v6).any(|range| {
            let host_bits = 128 - u32::from(range.prefix_len).min(128);
            (address.to_bits() ^ range.first).checked_shr(host_bits).unwrap_or(0) == 0
        })
    }

    /// An address of ours to ask for a neighbour from: one on its prefix, or any of its family.
    pub(crate) fn source_for(&self, neighbor: IpAddr) -> Option<IpAddr> {
        let v6 = neighbor.is_ipv6();
        let width: u32 = if v6 { 128 } else { 32 };
        let near = |range: &&Owned| {
            let host_bits = width - u32::from(range.prefix_len).min(width);
            (bits(neighbor) ^ range.first).checked_shr(host_bits).unwrap_or(0) == 0
        };
        let mut family = self.ranges.iter().filter(|range| range.v6 == v6);
        let range = family.clone().find(near).or_else(|| family.next())?;
        Some(self.address(range.base as u16))
    }

    /// Whether an address is the directed broadcast address of one of our prefixes (RFC 1122 §3.2.1.3), which no
    /// segment may come from.
    #[inline]
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let value = u64::from(address.to_bits());
        self.first_v4.broadcast == value || self.further_v4.iter().any(|range| range.broadcast == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str, prefix_len: u8) -> AddressRange {
        AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap(), prefix_len }
    }

    #[test]
    fn numbers_and_addresses_agree() {
        let locals = Locals::new(&[
            range("10.66.0.1", "10.66.1.0", 16),
            range("fd66::1", "fd66::1", 64),
            range("192.0.2.9", "192.0.2.9", 32),
        ]);
        assert_eq!(locals.address(257), "192.0.2.9".parse::<IpAddr>().unwrap());
        for number in 0..258 {
            assert_eq!(locals.number(locals.address(number)), Some(number));
        }
        assert_eq!(locals.number("10.66.1.1".parse().unwrap()), None);
        assert_eq!(locals.address_of(257, false), locals.address(257));
        assert_eq!(locals.address_of(256, true), locals.address(256));
        assert_eq!((locals.address_v4(256), locals.address_v4(258)), (None, None));
        assert!(locals.on_link("192.0.2.9".parse().unwrap()) && !locals.on_link("192.0.2.8".parse().unwrap()));
        assert!(locals.on_link("10.66.200.1".parse().unwrap()));
        assert!(!locals.on_link("10.67.0.1".parse().unwrap()));
        assert!(locals.on_link("fd66::ffff".parse().unwrap()) && !locals.on_link("fd67::1".parse().unwrap()));
        assert!(locals.is_broadcast("10.66.255.255".parse().unwrap()));
        assert!(!locals.is_broadcast("192.0.2.9".parse().unwrap()));
    }

    #[test]
    fn hosts_have_their_numbers_and_others_none() {
        let ranges = [
            range("10.66.0.1", "10.66.0.9", 16),
            range("127.0.0.1", "127.0.0.2", 8),
            range("fd66::1", "fd66::1", 64),
            range("223.255.255.254", "224.0.0.1", 32),
            range("240.0.0.1", "240.0.0.1", 32),
            range("255.255.255.254", "255.255.255.255", 32),
        ];
        for rotated in 0..ranges.len() {
            let mut ranges = ranges;
            ranges.rotate_left(rotated);
            let locals = Locals::new(&ranges);
            let owned = (0..19).map(|number| locals.address(number));
            for address in owned.chain(["10.66.0.10", "192.0.2.1", "224.0.0.1"].map(|other| other.parse().unwrap())) {
                let IpAddr::V4(host) = address else { continue };
                let number = locals.number(address).filter(|_| ipv4::is_valid_destination(host));
                assert_eq!(locals.number_of_host(host), number, "{address}");
                let first = locals.first_hosts();
                let offset = host.to_bits().wrapping_sub(first.first);
                if offset < first.count {
                    assert_eq!(Some(first.base + offset as u16), number, "{address}");
                }
            }
        }
    }
}
