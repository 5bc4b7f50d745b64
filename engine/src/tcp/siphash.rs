//! SipHash-2-4 (Aumasson, Bernstein 2012) of a few words whose number is known when this is compiled.
//!
//! What every SYN is hashed with: without a loop over octets, and inlined, it takes two thirds of the instructions of a
//! hasher that octets of any number are fed to. The values are the same.

/// A key, mixed into the state that every hash begins with; or what words have made of it, for all hashes that begin with
/// those.
#[derive(Clone, Copy, Debug)]
pub(super) struct SipKey([u64; 4]);

impl SipKey {
    pub(super) const fn new(first: u64, second: u64) -> Self {
        Self([
            first ^ 0x736f_6d65_7073_6575,
            second ^ 0x646f_7261_6e64_6f6d,
            first ^ 0x6c79_6765_6e65_7261,
            second ^ 0x7465_6462_7974_6573,
        ])
    }

    /// The hash of `words` and then four octets, all of them little-endian.
    #[inline(always)]
    pub(super) fn hash<const N: usize>(self, words: [u64; N], last: u32) -> u64 {
        words.into_iter().fold(self, Self::absorb).finish(8 * N + 4, u64::from(last))
    }

    /// What one word more makes of it.
    #[inline(always)]
    pub(super) fn absorb(self, word: u64) -> Self {
        let mut state = self.0;
        state[3] ^= word;
        round(&mut state);
        round(&mut state);
        state[0] ^= word;
        Self(state)
    }

    /// The hash of the words absorbed and then the octets in `last`, fewer than eight, little-endian. `len`: how many octets
    /// there were in all.
    #[inline(always)]
    pub(super) fn finish(self, len: usize, last: u64) -> u64 {
        let Self(mut state) = self.absorb((len as u64) << 56 | last);
        state[2] ^= 0xff;
        for _ in 0..4 {
            round(&mut state);
        }
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

#[inline(always)]
fn round(state: &mut [u64; 4]) {
    let [a, b, c, d] = *state;
    let (a, c) = (a.wrapping_add(b), c.wrapping_add(d));
    let (b, d) = (b.rotate_left(13) ^ a, d.rotate_left(16) ^ c);
    let (a, c) = (a.rotate_left(32).wrapping_add(d), c.wrapping_add(b));
    let (b, d) = (b.rotate_left(17) ^ c, d.rotate_left(21) ^ a);
    *state = [a, b, c.rotate_left(32), d];
}

#[cfg(test)]
mod tests {
    use siphasher::sip::SipHasher24;

    use super::*;

    #[test]
    fn values_are_those_of_siphash() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        for _ in 0..1000 {
            let (first, second, last) = (next(), next(), next() as u32);
            let words = [next(), next(), next(), next(), next()];
            let mut octets: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            octets.extend(last.to_le_bytes());
            let oracle = SipHasher24::new_with_keys(first, second);
            let key = SipKey::new(first, second);
            assert_eq!(key.hash(words, last), oracle.hash(&octets));
            assert_eq!(key.hash([words[3], words[4]], last), oracle.hash(&octets[24..]));
            assert_eq!(key.hash([], last), oracle.hash(&octets[40..]));
            let (word, rest) = (words[0], words[1] & 0xffff_ffff_ffff);
            assert_eq!(key.absorb(word).finish(14, rest), oracle.hash(&octets[..14]));
        }
    }
}
