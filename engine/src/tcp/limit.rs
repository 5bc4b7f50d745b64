//! Limits on what others can make us send, and on the half-open connections they can make us hold.

use std::net::IpAddr;

use crate::time::Instant;

/// At most so many a second, with a burst of a tenth of that (a token bucket).
#[derive(Clone, Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    tokens: u32,
    refilled: Instant,
    /// State of the generator that makes refills uneven, 0 for even ones.
    noise: u64,
}

impl RateLimit {
    /// `per_second` events a second.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, tokens: Self::burst(per_second), refilled: Instant::ZERO, noise: 0 }
    }

    /// About `per_second` events a second: each refill is between half and all of what is due. Where an outsider can see
    /// how much of a limit is left, an exact one tells him whether others have used it (the side channel of RFC 5961's
    /// limit, CVE-2016-5696).
    pub(crate) fn uneven(per_second: u32, secret: u64) -> Self {
        Self { noise: secret | 1, ..Self::new(per_second) }
    }

    fn burst(per_second: u32) -> u32 {
        (per_second / 10).max(1)
    }

    /// Whether one more may happen now. Nothing is taken yet.
    #[inline]
    pub(crate) fn ready(&mut self, now: Instant) -> bool {
        self.tokens > 0 || self.refill(now)
    }

    fn refill(&mut self, now: Instant) -> bool {
        let elapsed_us = now.since(self.refilled).as_micros().min(1_000_000) as u64;
        let earned = (elapsed_us * u64::from(self.per_second) / 1_000_000) as u32;
        if earned == 0 {
            return false;
        }
        self.tokens = earned.min(Self::burst(self.per_second));
        if self.noise != 0 {
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            let half = self.tokens / 2;
            self.tokens -= (self.noise >> 32) as u32 % (half + 1);
        }
        self.refilled = now;
        true
    }

    /// Whether one more may happen now; if so, it has.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let ready = self.ready(now);
        self.tokens -= u32::from(ready);
        ready
    }
}

/// The span of an [`EachLimit`], milliseconds (RFC 5961 §10 suggests 10 in 5 seconds).
const EACH_SPAN_MS: u32 = 5_000;
/// Connections counted at a time.
const COUNTED: usize = 1024;

/// What each connection was answered (RFC 5961 §10), counted beside the connections: few are ever answered like this.
/// Two whose numbers share a place forget each other's count; the limit of all holds nevertheless.
#[derive(Clone, Debug)]
pub(crate) struct EachLimit {
    most: u32,
    counts: Vec<Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    id: u32,
    since_ms: u32,
    count: u32,
}

impl EachLimit {
    /// `most` answers for each in five seconds.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, counts: vec![Count::default(); COUNTED] }
    }

    /// Whether `id` may be answered once more.
    pub(crate) fn allow(&mut self, id: u32, now_ms: u32) -> bool {
        let place = &mut self.counts[id as usize % COUNTED];
        if place.id != id || now_ms.wrapping_sub(place.since_ms) >= EACH_SPAN_MS {
            *place = Count { id, since_ms: now_ms, count: 0 };
        }
        place.count = place.count.saturating_add(1);
        place.count <= self.most
    }
}

/// Prefixes of sources counted apart, a power of two. Two that share a place share the limit.
const PREFIXES: usize = 4096;
/// The span over which SYNs are counted, milliseconds.
const RATE_SPAN_MS: u32 = 100;

/// When no more SYN-RECEIVED records are made: of one prefix, or of all because SYNs come that lead to nothing.
#[derive(Clone, Debug)]
pub(crate) struct SynGuard {
    /// Records of each prefix, by its hash.
    held: Box<[u32; PREFIXES]>,
    held_max: u32,
    key: [u64; 2],
    /// SYNs a second beyond the handshakes completed, and as many as are too many in one span.
    rate: u32,
    excess_max: i64,
    since_ms: u32,
    /// SYNs of this span without the handshakes that completed in it.
    excess: i64,
    flood: bool,
}

impl SynGuard {
    /// Nothing is held. `key` keeps others from choosing prefixes that share a place.
    pub(crate) fn new(held_max: u32, rate: u32, key: [u64; 2]) -> Self {
        Self {
            held: Box::new([0; PREFIXES]),
            held_max,
            key: [key[0] | 1, key[1]],
            rate,
            excess_max: i64::from((rate / (1000 / RATE_SPAN_MS)).max(1)),
            since_ms: 0,
            excess: 0,
            flood: false,
        }
    }

    /// The place of a source's prefix: 24 bits of IPv4, 56 of IPv6. A multiply-shift hash: SYNs are many.
    #[inline]
    pub(crate) fn place(&self, source: IpAddr) -> usize {
        let prefix = match source {
            IpAddr::V4(source) => u64::from(source.to_bits() >> 8),
            IpAddr::V6(source) => 1 << 63 | (source.to_bits() >> 72) as u64,
        };
        let mixed = prefix.wrapping_mul(self.key[0]).wrapping_add(self.key[1]);
        (mixed >> (64 - PREFIXES.trailing_zeros())) as usize
    }

    /// Whether the prefix of a place may have one more record.
    #[inline]
    pub(crate) fn has_room(&self, place: usize) -> bool {
        self.held[place % PREFIXES] < self.held_max
    }

    /// A record was made for a source whose prefix is counted at a place.
    #[inline]
    pub(crate) fn take(&mut self, place: usize) {
        self.held[place % PREFIXES] += 1;
    }

    /// A record of a source is gone.
    #[inline]
    pub(crate) fn give_back(&mut self, source: IpAddr) {
        let held = &mut self.held[self.place(source) % PREFIXES];
        *held = held.saturating_sub(1);
    }

    /// Records counted, all prefixes together.
    pub(crate) fn held(&self) -> u64 {
        self.held.iter().map(|&held| u64::from(held)).sum()
    }

    /// A SYN came. Returns whether too many lead to nothing: more than the rate beyond those that completed, and until they
    /// are half as many.
    #[inline]
    pub(crate) fn syn(&mut self, now_ms: u32) -> bool {
        let elapsed_ms = now_ms.wrapping_sub(self.since_ms);
        if elapsed_ms >= RATE_SPAN_MS {
            let excess = self.excess.max(0) * 1000 / i64::from(elapsed_ms);
            self.flood = self.flood && excess >= i64::from(self.rate / 2);
            (self.since_ms, self.excess) = (now_ms, 0);
        }
        self.excess += 1;
        self.flood |= self.excess >= self.excess_max;
        self.flood
    }

    /// A handshake completed.
    #[inline]
    pub(crate) fn completed(&mut self) {
        self.excess -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_allows_the_rate_and_a_burst() {
        let mut limit = RateLimit::new(1000);
        let allowed = (0..1_000_000).filter(|&us| limit.allow(Instant::from_micros(us))).count();
        assert!((1000..=1100).contains(&allowed), "{allowed}");
    }

    #[test]
    fn an_uneven_limit_is_no_yardstick() {
        let counts = |seed| {
            let mut limit = RateLimit::uneven(1000, seed);
            // bursts that use up what there is, a tenth of a second apart
            let mut burst = |second: u64| {
                let now = Instant::from_millis(second * 100);
                (0..1000).filter(|_| limit.allow(now)).count()
            };
            (1..50).map(&mut burst).collect::<Vec<_>>()
        };
        let bursts = counts(7);
        assert!(bursts.iter().skip(1).all(|count| (50..=100).contains(count)), "{bursts:?}");
        assert!(bursts.windows(2).any(|pair| pair[0] != pair[1]), "every refill is the same: {bursts:?}");
        assert_ne!(bursts, counts(8));
    }

    #[test]
    //= RFC 5961 7-SHOULD-2
    fn each_connection_has_its_own_count() {
        let mut limit = EachLimit::new(10);
        let allowed = |limit: &mut EachLimit, id, now_ms| (0..100).filter(|_| limit.allow(id, now_ms)).count();
        assert_eq!(allowed(&mut limit, 1, 0), 10);
        assert_eq!(allowed(&mut limit, 2, 0), 10);
        assert_eq!(allowed(&mut limit, 1, 4_999), 0);
        assert_eq!(allowed(&mut limit, 1, 5_000), 10);
    }

    #[test]
    fn prefixes_are_counted_apart() {
        let mut guard = SynGuard::new(100, 1, [0x1234_5678_9abc_def1, 99]);
        let host = |text: &str| text.parse::<IpAddr>().unwrap();
        for (one, same, other) in [
            ("192.0.2.1", "192.0.2.254", "192.0.3.1"),
            ("2001:db8:0:aa00::1", "2001:db8:0:aaff:9::7", "2001:db8:0:ab00::1"),
        ] {
            let (own, others) = (guard.place(host(one)), guard.place(host(other)));
            for _ in 0..100 {
                assert!(guard.has_room(own));
                guard.take(own);
            }
            assert!(!guard.has_room(guard.place(host(same))), "{same} is of the prefix of {one}");
            assert!(guard.has_room(others), "{other} is not");
            guard.give_back(host(same));
            assert!(guard.has_room(own));
        }
        assert_eq!(guard.held(), 198);
    }

    #[test]
    fn a_flood_is_syns_that_lead_to_nothing() {
        let mut guard = SynGuard::new(1, 10_000, [1, 2]);
        // twice the rate, and every handshake completes
        for us in 0..1_000_000u32 {
            if us % 50 == 0 {
                assert!(!guard.syn(us / 1000), "at {us} µs");
                guard.completed();
            }
        }
        // the same, and none does: within a tenth of a second
        let began = (0..100).find(|ms| (0..20).any(|_| guard.syn(1000 + ms)));
        assert!(began.is_some_and(|ms| ms <= 60), "{began:?}");
        // three quarters of the rate is still one, a quarter is not
        assert!((1100..2000).all(|ms| (0..8).all(|_| guard.syn(ms))));
        (2000..2300).for_each(|ms| (0..2).for_each(|_| _ = guard.syn(ms)));
        assert!(!guard.syn(2300));
    }
}
