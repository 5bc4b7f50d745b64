//! The Internet checksum (RFC 1071): a ones' complement sum of 16-bit words.
//!
//! The sum is taken in the machine's byte order and turned once at the end (RFC 1071 §2(B)). As 2¹⁶ ≡ 1 modulo
//! 2¹⁶ − 1, words of 32 bits may be added as they are, and the carries folded in at the end.

use std::net::{Ipv4Addr, Ipv6Addr};

/// This many octets or fewer are summed without vectors: setting those up would cost more than it saves.
const SHORT: usize = 128;

/// A partial sum, to be added to, combined and folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `octets`. An odd last octet counts as the high half of a word whose low half is zero.
    #[inline]
    pub fn of(octets: &[u8]) -> Self {
        if octets.len() <= SHORT { Self(sum_short(octets)) } else { Self(sum_long(octets)) }
    }

    /// The sum of the pseudo-header of RFC 9293 §3.1 for IPv4. `len` is that of the segment in octets.
    #[inline]
    pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u32) -> Self {
        Self::ZERO.add_u32(u32::from(source)).add_u32(u32::from(destination)).add_u16(u16::from(protocol)).add_u32(len)
    }

    /// The sum of the pseudo-header of RFC 8200 §8.1 for IPv6. `len` is that of the upper-layer packet in octets.
    #[inline]
    pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Self {
        Self(sum_short(&source.octets()) + sum_short(&destination.octets())).add_u16(u16::from(protocol)).add_u32(len)
    }

    /// Adds one word.
    #[inline]
    pub const fn add_u16(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// Adds two words, the first in the high half.
    #[inline]
    pub const fn add_u32(self, words: u32) -> Self {
        Self(self.0 + words.to_be() as u64)
    }

    /// Adds two words as they lie in memory.
    #[inline]
    pub(super) const fn add_half(self, octets: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(octets) as u64)
    }

    /// Adds a sum whose octets begin at an even offset from where `self` began.
    #[inline]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds octets that begin at an even offset from where `self` began.
    #[inline]
    pub fn add_octets(self, octets: &[u8]) -> Self {
        self.plus(Self::of(octets))
    }

    /// Adds a sum whose octets begin `offset` octets from where `self` began: an odd offset swaps every word's halves
    /// (RFC 1071 §2(B)).
    #[inline]
    pub const fn combine(self, other: Self, offset: usize) -> Self {
        let word = other.fold_native();
        Self(self.0 + if offset & 1 == 0 { word } else { word.swap_bytes() } as u64)
    }

    /// The sum as 16 bits, not complemented: what a kernel leaves in a checksum field for hardware to finish.
    #[inline]
    pub const fn folded(self) -> u16 {
        u16::from_be(self.fold_native())
    }

    /// The value of the checksum field: the complement of the sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Whether a sum taken over data that includes its checksum field says that the data are intact.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.fold_native() == 0xffff
    }

    #[inline]
    const fn fold_native(self) -> u16 {
        // A word plus itself with its halves swapped has in its high half the sum of both, the carry added in
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }
}

/// A sum over words of 64 bits, whose carries are words to come: an addition each, where [`Sum`] would take them apart.
/// Good for a few words at known places, and to be asked whether they are intact.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WideSum {
    sum: u64,
    carry: bool,
}

impl WideSum {
    /// Adds four words as they lie in memory.
    #[inline(always)]
    pub(super) fn add(self, octets: [u8; 8]) -> Self {
        self.carrying_add(u64::from_ne_bytes(octets))
    }

    // Processors have an instruction for this, and compilers see it here
    #[inline(always)]
    fn carrying_add(self, word: u64) -> Self {
        let (sum, first) = self.sum.overflowing_add(word);
        let (sum, second) = sum.overflowing_add(u64::from(self.carry));
        Self { sum, carry: first | second }
    }

    /// Whether it says, the `rest` added, that data are intact which are not all zero: as [`Sum::is_valid`].
    #[inline(always)]
    pub(super) fn is_valid_with(self, rest: Sum) -> bool {
        // If there is a carry, what it leaves is no more than `rest`, whose words of 32 bits and less leave room for it
        let Self { sum, carry } = self.carrying_add(rest.0);
        // 2¹⁶ ≡ 1 modulo 2¹⁶ − 1, and the test for a multiple is a multiplication
        (sum + u64::from(carry)).is_multiple_of(0xffff)
    }
}

/// The checksum after one word under it changed from `old` to `new` (RFC 1624 eqn. 3).
#[inline]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(0).add_u16(!checksum).add_u16(!old).add_u16(new).checksum()
}

/// The checksum after two adjacent words under it changed (RFC 1624 eqn. 3).
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    Sum(0).add_u16(!checksum).add_u32(!old).add_u32(new).checksum()
}

#[inline]
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

#[inline]
fn sum_short(octets: &[u8]) -> u64 {
    // An addition for each word, and one for the carry of each four
    let (blocks, rest) = octets.as_chunks::<32>();
    let (mut sum, mut carries) = (0, 0);
    for block in blocks {
        let four = block.as_chunks().0.iter().fold(WideSum { sum, carry: false }, |sum, &word| sum.add(word));
        (sum, carries) = (four.sum, carries + u64::from(four.carry));
    }
    let (words, rest) = rest.as_chunks();
    for &word in words {
        let one = WideSum { sum, carry: false }.add(word);
        (sum, carries) = (one.sum, carries + u64::from(one.carry));
    }
    let sum = halves(sum) + carries;
    if rest.is_empty() { sum } else { sum + sum_rest(rest) }
}

/// Of fewer than eight octets.
#[inline]
fn sum_rest(mut rest: &[u8]) -> u64 {
    let mut sum = 0;
    if let Some((&word, after)) = rest.split_first_chunk() {
        sum += u64::from(u32::from_ne_bytes(word));
        rest = after;
    }
    if let Some((&word, after)) = rest.split_first_chunk() {
        sum += u64::from(u16::from_ne_bytes(word));
        rest = after;
    }
    if let [last] = *rest {
        sum += u64::from(u16::from_ne_bytes([last, 0]));
    }
    sum
}

/// Eight accumulators, each of 32-bit halves, so that the loop becomes vector additions without carries.
fn sum_long(octets: &[u8]) -> u64 {
    let (blocks, rest) = octets.as_chunks::<64>();
    let mut low = [0u64; 8];
    let mut high = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (i, &word) in words.iter().enumerate().take(8) {
            let word = u64::from_ne_bytes(word);
            low[i] += word & 0xffff_ffff;
            high[i] += word >> 32;
        }
    }
    let total = low.iter().chain(&high).fold(0, |sum, &lane| sum + halves(lane));
    halves(total) + sum_short(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples::XorShift;

    /// RFC 1071 §4.1, read literally.
    fn naive(octets: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in octets.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn noise(random: &mut XorShift, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.next() as u8).collect()
    }

    #[test]
    fn wide_sums_agree_with_narrow_ones() {
        let mut random = XorShift::new(1624);
        let mut valid = 0;
        for round in 0..200_000u32 {
            // the more ones, the more carries, up to nothing but ones
            let mut octets = [0u8; 28];
            octets.fill_with(|| (random.next() | [0, random.next(), u64::MAX][round as usize % 3]) as u8);
            if !random.next().is_multiple_of(4) {
                octets[20..22].fill(0);
                let checksum = Sum::of(&octets).checksum();
                octets[20..22].copy_from_slice(&checksum.to_be_bytes());
            }
            let (words, rest) = octets.as_chunks();
            let wide = words.iter().fold(WideSum::default(), |sum, &word| sum.add(word));
            assert_eq!(wide.is_valid_with(Sum::of(rest)), Sum::of(&octets).is_valid(), "{octets:02x?}");
            valid += u32::from(Sum::of(&octets).is_valid());
        }
        assert!((100_000..200_000).contains(&valid), "{valid}");
    }

    #[test]
    fn agrees_with_the_naive_sum_at_every_length() {
        let mut random = XorShift::new(1071);
        for len in 0..2000 {
            let octets = noise(&mut random, len);
            assert_eq!(Sum::of(&octets).folded(), naive(&octets), "{len} octets");
            assert_eq!(Sum::of(&vec![0xff; len]).folded(), naive(&vec![0xff; len]), "{len} octets of ones");
        }
        let long = noise(&mut random, 1 << 20);
        assert_eq!(Sum::of(&long).folded(), naive(&long));
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&octets).folded(), 0xddf2);
        assert_eq!(Sum::of(&octets).checksum(), !0xddf2);
    }

    #[test]
    fn parts_combine_at_even_and_odd_offsets() {
        let mut random = XorShift::new(2);
        let octets = noise(&mut random, 301);
        for cut in 0..=octets.len() {
            let (head, tail) = octets.split_at(cut);
            assert_eq!(Sum::of(head).combine(Sum::of(tail), cut).folded(), naive(&octets), "cut at {cut}");
        }
    }

    #[test]
    fn updating_equals_computing_anew() {
        let mut random = XorShift::new(1624);
        for _ in 0..10_000 {
            let mut octets = noise(&mut random, 40);
            let before = Sum::of(&octets).checksum();
            let old = u16::from_be_bytes([octets[8], octets[9]]);
            let new = random.next() as u16;
            octets[8..10].copy_from_slice(&new.to_be_bytes());
            let between = Sum::of(&octets).checksum();
            assert_eq!(update_u16(before, old, new), between);
            let old = u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]);
            let new = random.next() as u32;
            octets[12..16].copy_from_slice(&new.to_be_bytes());
            assert_eq!(update_u32(between, old, new), Sum::of(&octets).checksum());
        }
    }

    #[test]
    fn pseudo_headers_are_those_of_the_rfcs() {
        let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 254));
        let mut octets = [a.octets(), b.octets()].concat();
        octets.extend([0, 6, 0x05, 0xb4]);
        assert_eq!(Sum::pseudo_v4(a, b, 6, 0x05b4).folded(), naive(&octets));
        let (a, b): (Ipv6Addr, Ipv6Addr) = ("2001:db8::1".parse().unwrap(), "2001:db8:ffff::ab".parse().unwrap());
        let mut octets = [a.octets(), b.octets()].concat();
        octets.extend([0, 1, 0x05, 0xb4, 0, 0, 0, 58]);
        assert_eq!(Sum::pseudo_v6(a, b, 58, 0x0001_05b4).folded(), naive(&octets));
    }

    #[test]
    fn intact_data_sum_to_ones() {
        let mut octets = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let checksum = Sum::of(&octets).checksum();
        octets[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert!(Sum::of(&octets).is_valid());
        octets[0] ^= 1;
        assert!(!Sum::of(&octets).is_valid());
    }
}
