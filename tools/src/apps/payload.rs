//! The octets that servers and generators send: a pattern that anyone can regenerate.
//!
//! Octet number `i` of a transfer, counted from 0, is made of `p = i mod 65537` as the low eight bits of `p ^ (p >> 8)`.
//! In Python: `bytes((i % 65537 ^ i % 65537 >> 8) & 255 for i in range(n))`. The period is a prime above 64 KiB, so that
//! octets that arrive shifted by a power of two do not look right by accident.

/// Octets after which the pattern repeats.
pub const PERIOD: usize = 65_537;

static PATTERN: [u8; PERIOD] = pattern();

const fn pattern() -> [u8; PERIOD] {
    let mut octets = [0; PERIOD];
    let mut p = 0;
    while p < PERIOD {
        octets[p] = (p ^ (p >> 8)) as u8;
        p += 1;
    }
    octets
}

/// Writes the octets of the pattern from `offset` on.
#[inline]
pub fn fill(offset: u64, out: &mut [u8]) {
    let mut at = (offset % PERIOD as u64) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let len = rest.len().min(PERIOD - at);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&PATTERN[at..at + len]);
        (rest, at) = (later, 0);
    }
}

/// Whether `data` are the octets of the pattern from `offset` on.
pub fn matches(offset: u64, data: &[u8]) -> bool {
    let mut at = (offset % PERIOD as u64) as usize;
    let mut rest = data;
    while !rest.is_empty() {
        let len = rest.len().min(PERIOD - at);
        let (now, later) = rest.split_at(len);
        if now != &PATTERN[at..at + len] {
            return false;
        }
        (rest, at) = (later, 0);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_window_follows_the_definition() {
        for (offset, len) in [(0, 70_000), (65_530, 20), (65_536, 1), (u64::from(u32::MAX) * 1_000, 200_000)] {
            let mut out = vec![0; len];
            fill(offset, &mut out);
            for (i, octet) in out.iter().enumerate() {
                let p = (offset + i as u64) % 65_537;
                assert_eq!(*octet, ((p ^ (p >> 8)) & 255) as u8);
            }
            assert!(matches(offset, &out));
        }
    }

    #[test]
    fn a_shift_is_noticed() {
        let mut out = [0; 1_460];
        fill(4_096, &mut out);
        for shift in [1, 2, 64, 256, 1_024, 1_448, 1_460, 4_096, 65_536] {
            assert!(!matches(4_096 + shift, &out), "{shift}");
        }
    }
}
