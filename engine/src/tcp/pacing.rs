//! Pacing: a window that is full is spread over the round trip, in place of leaving as one burst.
//!
//! The timer wheel ticks once in a millisecond: what a tick's worth of the rate comes to leaves at once, and on paths
//! shorter than two ticks nothing is paced. A connection's first window, and the first after a rest, is not paced either:
//! nothing is known of the path then, and short exchanges have no more.

use crate::config::TcpConfig;

use super::block::Busy;

/// The least round trip that is paced, microseconds.
const RTT_MIN_US: u32 = 2 * TICK_US;

/// A tick of the timer wheel, microseconds: what is due within it may go now, as the timer comes no sooner.
const TICK_US: u32 = 1_000;

/// The bit of [`Busy::timers`] that says that new data waits for its time.
pub(crate) const TIMER: u8 = 8;

/// The window is in use to its full: from now on it is spread.
#[inline]
pub(super) fn begin(b: &mut Busy, now_us: u32, config: &TcpConfig) {
    if b.pace_us == 0 && b.rtt_min >= RTT_MIN_US && config.pacing {
        b.pace_us = now_us.max(1);
    }
}

/// How far ahead of now the next segment's time is, microseconds. A time further off than a round trip is one of an age ago.
#[inline]
fn ahead_us(b: &Busy, now_us: u32) -> u32 {
    let ahead = b.pace_us.wrapping_sub(now_us);
    if ahead <= b.srtt.saturating_add(TICK_US) { ahead } else { 0 }
}

/// Whether new data has to wait. What is in flight alone brings ACKs: with nothing out there is nothing to wait for.
#[inline]
pub(super) fn holds_back(b: &Busy, now_us: u32) -> bool {
    b.pace_us != 0 && !b.flight.is_empty() && ahead_us(b, now_us) > TICK_US
}

/// When what waits may go, milliseconds from now.
pub(super) fn wait_ms(b: &Busy, now_us: u32) -> u32 {
    ahead_us(b, now_us).saturating_sub(TICK_US).div_ceil(1000).max(1)
}

/// A segment of `len` octets has left: the next one's time. The rate is a window in a round trip, twice that in slow
/// start and 1.2 times after, as in Linux: the window grows, and what is late catches up.
#[inline(always)]
pub(super) fn sent(b: &mut Busy, len: u32, now_us: u32) {
    if b.pace_us != 0 {
        space(b, len, now_us);
    }
}

#[inline(never)]
fn space(b: &mut Busy, len: u32, now_us: u32) {
    let window = u64::from(b.cwnd.max(b.pipe).max(len));
    let (num, den) = if b.cwnd < b.ssthresh / 2 { (1, 2) } else { (5, 6) };
    let takes = (u64::from(len) * u64::from(b.srtt) * num / (window * den)) as u32;
    let base = match ahead_us(b, now_us) {
        // a loop that came late makes up for a tick
        0 => -i64::from(now_us.wrapping_sub(b.pace_us).min(TICK_US)),
        ahead => i64::from(ahead),
    };
    let next = (base + i64::from(takes)).min(i64::from(b.srtt) + i64::from(TICK_US));
    b.pace_us = now_us.wrapping_add(next as u32).max(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::block::{Busy, Sent};
    use crate::tcp::flight::Flight;

    /// A window of 100 segments on a path of 10 ms, after slow start: 83 µs each.
    fn paced() -> Busy {
        let flight = Flight::one(Sent { len: 1_000, ..Sent::default() });
        let mut b = Busy { flight, cwnd: 100_000, ssthresh: 100_000, srtt: 10_000, rtt_min: 10_000, ..Busy::default() };
        begin(&mut b, 1_000_000, &TcpConfig::default());
        b
    }

    /// How many segments go at `now_us`.
    fn go(b: &mut Busy, now_us: u32) -> u32 {
        let mut n = 0;
        while !holds_back(b, now_us) {
            sent(b, 1_000, now_us);
            n += 1;
            assert!(n < 1_000, "nothing holds them back");
        }
        n
    }

    #[test]
    fn a_tick_brings_a_ticks_worth() {
        let mut b = paced();
        assert_eq!(go(&mut b, 1_000_000), 13, "a tick's worth ahead of time");
        assert_eq!(wait_ms(&b, 1_000_000), 1);
        for tick in 1..100 {
            let n = go(&mut b, 1_000_000 + tick * 1_000);
            assert!((12..=13).contains(&n), "{n} segments in tick {tick}");
        }
        // late by ten ticks: two ticks' worth, no more
        let n = go(&mut b, 1_110_000);
        assert!((24..=26).contains(&n), "{n} segments after a pause");
    }

    #[test]
    fn slow_start_goes_at_twice_the_window() {
        let mut b = Busy { ssthresh: u32::MAX, ..paced() };
        go(&mut b, 1_000_000);
        assert!((19..=21).contains(&go(&mut b, 1_001_000)));
    }

    #[test]
    fn short_paths_and_times_long_ago_hold_nothing_back() {
        let mut b = Busy { srtt: 1_900, rtt_min: 1_900, ..Busy::default() };
        begin(&mut b, 5, &TcpConfig::default());
        assert_eq!(b.pace_us, 0);
        let mut b = paced();
        go(&mut b, 1_000_000);
        // as far back as the clock of 32 bits can tell, and further
        for now_us in [1_000_000 + (1 << 30), 1_000_000u32.wrapping_add(3 << 30), 900_000] {
            assert!(!holds_back(&b, now_us), "held back at {now_us}");
        }
        b.flight = Flight::NOTHING;
        assert!(!holds_back(&b, 1_000_000), "nothing is out that could bring an ACK");
    }

    #[test]
    fn a_slow_path_sends_one_by_one() {
        let flight = Flight::one(Sent { len: 1_000, ..Sent::default() });
        let mut b = Busy { flight, cwnd: 10_000, ssthresh: 10_000, srtt: 300_000, rtt_min: 300_000, ..Busy::default() };
        begin(&mut b, 1_000, &TcpConfig::default());
        assert_eq!(go(&mut b, 1_000), 1);
        // a window of ten in 250 ms
        assert_eq!(wait_ms(&b, 1_000), 24);
        assert_eq!(go(&mut b, 25_000), 1);
    }
}
