//! Limits on what others can make us send.

use crate::time::Instant;

/// At most so many a second, with a burst of a tenth of that (a token bucket).
#[derive(Clone, Debug)]
pub(crate) struct RateLimit {
    per_second: u32,
    tokens: u32,
    refilled: Instant,
}

impl RateLimit {
    /// `per_second` events a second.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, tokens: Self::burst(per_second), refilled: Instant::ZERO }
    }

    fn burst(per_second: u32) -> u32 {
        (per_second / 10).max(1)
    }

    /// Whether one more may happen now.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        if self.tokens == 0 {
            let elapsed_us = now.since(self.refilled).as_micros().min(1_000_000) as u64;
            let earned = (elapsed_us * u64::from(self.per_second) / 1_000_000) as u32;
            if earned == 0 {
                return false;
            }
            self.tokens = earned.min(Self::burst(self.per_second));
            self.refilled = now;
        }
        self.tokens -= 1;
        true
    }
}

/// Challenge ACKs that one connection sends in [`CHALLENGE_SPAN_MS`] (RFC 5961 §10 suggests 10 in 5 seconds).
const CHALLENGES_EACH: u32 = 10;
const CHALLENGE_SPAN_MS: u32 = 5_000;
/// Connections whose challenges are counted at a time.
const CHALLENGED: usize = 1024;

/// The challenge ACKs of each connection (RFC 5961 §10), counted beside the connections: few are ever challenged.
/// Two whose numbers share a place forget each other's count; the limit of all holds nevertheless.
#[derive(Clone, Debug)]
pub(crate) struct EachLimit(Vec<Challenged>);

#[derive(Clone, Copy, Debug, Default)]
struct Challenged {
    id: u32,
    since_ms: u32,
    count: u32,
}

impl EachLimit {
    /// Nobody was challenged yet.
    pub(crate) fn new() -> Self {
        Self(vec![Challenged::default(); CHALLENGED])
    }

    /// Whether connection `id` may send one more now.
    pub(crate) fn allow(&mut self, id: u32, now_ms: u32) -> bool {
        let place = &mut self.0[id as usize % CHALLENGED];
        if place.id != id || now_ms.wrapping_sub(place.since_ms) >= CHALLENGE_SPAN_MS {
            *place = Challenged { id, since_ms: now_ms, count: 0 };
        }
        place.count += 1;
        place.count <= CHALLENGES_EACH
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
}
