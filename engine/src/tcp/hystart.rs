//! HyStart++ (RFC 9406): slow start ends when the round trip grows, before the queue at the bottleneck overflows.
//!
//! Only the first slow start of a connection, or the first after a rest, does not know its threshold; later ones end where
//! the first one did.

use crate::wire::Seq;

use super::block::{Busy, Connection};

/// Bounds on the growth of the round trip that ends slow start, microseconds (RFC 9406 §4.3).
//= RFC 9406 4.3-SHOULD-1
const RTT_THRESH_US: (u32, u32) = (4_000, 16_000);

/// The part of the round trip that it has to grow by (MIN_RTT_DIVISOR).
const RTT_DIVISOR: u32 = 8;

/// Measurements that a round must have (N_RTT_SAMPLE).
const SAMPLES: u8 = 8;

/// How much slower conservative slow start grows (CSS_GROWTH_DIVISOR).
//= RFC 9406 4.3-MUST-1
const CSS_DIVISOR: u32 = 4;

/// Rounds of conservative slow start (CSS_ROUNDS).
const CSS_ROUNDS: u8 = 5;

/// What slow start remembers. Round-trip times are in microseconds, 0 for none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HyStart {
    /// The round ends when this is acknowledged (windowEnd).
    end: Seq,
    /// Least round-trip times of this round and of the one before.
    least: u32,
    least_before: u32,
    /// The least when conservative slow start began (cssBaselineMinRtt).
    baseline: u32,
    /// Measurements of this round.
    samples: u8,
    /// Rounds of conservative slow start, the present one included; 0 outside of it.
    css_rounds: u8,
    /// The first round has begun.
    begun: bool,
}

//= RFC 9438 4.10-SHOULD-1
/// `acked` octets were acknowledged in a slow start whose threshold is not known. Returns how many of them the window may
/// grow by, and sets the threshold where slow start is over.
pub(super) fn on_ack(b: &mut Busy, c: &Connection, acked: u32, rtt_us: Option<u32>) -> u32 {
    let h = &mut b.hystart;
    //= RFC 9406 4.2-MUST-1
    if !h.begun || c.snd_una.at_or_after(h.end) {
        (h.least_before, h.least, h.samples) = (h.least, 0, 0);
        (h.end, h.begun) = (c.snd_nxt, true);
        if h.css_rounds > 0 {
            h.css_rounds += 1;
        }
        if h.css_rounds > CSS_ROUNDS {
            //= RFC 9406 4.2-MUST-4
            b.ssthresh = b.cwnd;
            return acked;
        }
    }
    if let Some(rtt) = rtt_us {
        h.least = if h.least == 0 { rtt } else { h.least.min(rtt) };
        h.samples = h.samples.saturating_add(1);
    }
    if h.samples >= SAMPLES {
        let thresh = (h.least_before / RTT_DIVISOR).clamp(RTT_THRESH_US.0, RTT_THRESH_US.1);
        if h.css_rounds > 0 {
            //= RFC 9406 4.2-MUST-3
            if h.least < h.baseline {
                h.css_rounds = 0;
            }
        } else if h.least_before > 0 && h.least >= h.least_before.saturating_add(thresh) {
            //= RFC 9406 4.2-MUST-2
            (h.baseline, h.css_rounds) = (h.least, 1);
        }
    }
    if h.css_rounds > 0 { acked / CSS_DIVISOR } else { acked }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    struct Sender {
        c: Connection,
        b: Busy,
    }

    impl Sender {
        fn new() -> Self {
            Self { c: Connection::default(), b: Busy { cwnd: 10 * MSS, ssthresh: u32::MAX, ..Busy::default() } }
        }

        /// A round of ten segments, each acknowledged after `rtt_us`. What the window may grow by.
        fn round(&mut self, rtt_us: u32) -> u32 {
            self.c.snd_nxt = self.c.snd_una + 10 * MSS;
            let mut grown = 0;
            for _ in 0..10 {
                self.c.snd_una += MSS;
                // each ACK lets another one go
                self.c.snd_nxt += MSS;
                grown += on_ack(&mut self.b, &self.c, MSS, Some(rtt_us));
            }
            self.c.snd_nxt = self.c.snd_una;
            grown
        }
    }

    #[test]
    //= RFC 9406 4.2-MUST-1, 4.2-MUST-2, 4.3-SHOULD-1, 4.3-MUST-1
    fn a_longer_round_trip_makes_growth_a_quarter() {
        // an eighth of the round trip, at least 4 ms and at most 16 ms
        for (before, after, css) in [
            (10_000, 13_900, false),
            (10_000, 14_000, true),
            (80_000, 89_900, false),
            (80_000, 90_000, true),
            (400_000, 415_900, false),
            (400_000, 416_000, true),
        ] {
            let mut s = Sender::new();
            assert_eq!(s.round(before), 10 * MSS);
            let grown = s.round(after);
            assert_eq!(grown < 10 * MSS, css, "{before} then {after}: {grown}");
            assert_eq!(s.b.ssthresh, u32::MAX);
        }
    }

    #[test]
    //= RFC 9406 4.2-MUST-4
    fn after_five_rounds_slow_start_is_over() {
        let mut s = Sender::new();
        s.round(20_000);
        for _ in 0..5 {
            s.round(30_000);
            assert_eq!(s.b.ssthresh, u32::MAX);
        }
        s.round(30_000);
        assert_eq!(s.b.ssthresh, s.b.cwnd);
    }

    #[test]
    //= RFC 9406 4.2-MUST-3
    fn a_round_trip_that_shrinks_again_resumes_slow_start() {
        let mut s = Sender::new();
        s.round(20_000);
        s.round(30_000);
        assert_eq!(s.round(31_000), 10 * MSS / 4);
        s.round(21_000);
        assert_eq!(s.round(21_000), 10 * MSS);
        assert_eq!(s.b.ssthresh, u32::MAX);
    }

    #[test]
    //= RFC 9406 4.2-MUST-2
    fn a_round_of_few_measurements_says_nothing() {
        let mut s = Sender::new();
        s.round(20_000);
        s.c.snd_nxt = s.c.snd_una + 10 * MSS;
        for _ in 0..7 {
            s.c.snd_una += MSS;
            assert_eq!(on_ack(&mut s.b, &s.c, MSS, Some(60_000)), MSS);
        }
    }
}
