//! Congestion control: NewReno (RFC 5681) and CUBIC (RFC 9438), in octets.
//!
//! The window limits what is in flight ([`Busy::pipe`]), not what a call may send. It grows only while it is the
//! window that holds the sender back (RFC 9438 §5.8).

use crate::config::{CongestionControl, TcpConfig};

use super::block::Busy;
use super::hystart::HyStart;

/// β of RFC 9438 §4.6, in tenths.
const CUBIC_BETA_TENTHS: u64 = 7;

/// Half of a silence that no round trip and no delayed acknowledgement explains, milliseconds.
const QUIET_MS: u32 = 50;

/// IW of RFC 6928 §2: `segments` segments, and no more than 14,600 octets unless two segments are more.
//= RFC 6928 2-MAY-1
pub(crate) fn initial_window(mss: u32, config: &TcpConfig) -> u32 {
    let segments = u32::from(config.initial_window_segments);
    (segments * mss).min((segments * 1460).max(2 * mss))
}

/// Starts afresh, or again after idle time (RFC 5681 §4.1), with the threshold that was kept (0: none).
pub(crate) fn restart(busy: &mut Busy, mss: u32, ssthresh: u32, config: &TcpConfig) {
    //= RFC 5681 3.1-SHOULD-1
    busy.ssthresh = if ssthresh == 0 { u32::MAX } else { ssthresh };
    //= RFC 5681 4.1-SHOULD-1, 3.1-MUST-7
    busy.cwnd = initial_window(mss, config).min(busy.ssthresh.max(mss));
    busy.cwnd_count = 0;
    busy.cubic_epoch_ms = 0;
    busy.cubic_w_max = 0;
}

/// The threshold that a connection without a busy block keeps, 0 for none: with it [`restart`] gives the smaller of the
/// window now and the initial one (RW of RFC 5681 §4.1).
pub(crate) fn kept(busy: &Busy, mss: u32, config: &TcpConfig) -> u32 {
    let initial = initial_window(mss, config);
    match busy.ssthresh {
        u32::MAX => 0,
        _ if busy.cwnd < initial => busy.cwnd,
        ssthresh => ssthresh.max(initial),
    }
}

/// The connection has rested for an RTO: its window is the initial one again (RFC 5681 §4.1), and is not paced before it
/// has been filled.
pub(crate) fn rest(busy: &mut Busy, mss: u32, config: &TcpConfig) {
    let (window, threshold) = (busy.cwnd.min(initial_window(mss, config)), busy.ssthresh);
    restart(busy, mss, 0, config);
    (busy.cwnd, busy.ssthresh) = (window, threshold);
    busy.hystart = HyStart::default();
    busy.pace_us = 0;
}

/// `acked` octets were newly acknowledged outside fast recovery, and the window had been full before.
//= RFC 9293 MUST-19
pub(crate) fn on_ack(busy: &mut Busy, mss: u32, acked: u32, now_ms: u32, config: &TcpConfig) {
    let mut acked = acked;
    if busy.cwnd < busy.ssthresh {
        //= RFC 5681 3.1-SHOULD-2
        //= RFC 9438 4.10-MUST-1
        let step = acked.min(busy.ssthresh - busy.cwnd);
        busy.cwnd = busy.cwnd.saturating_add(step).min(1 << 30);
        acked -= step;
        if acked == 0 {
            return;
        }
    }
    let target = match config.congestion {
        CongestionControl::NewReno => busy.cwnd,
        CongestionControl::Cubic => cubic_count(busy, mss, acked, now_ms),
    };
    // One segment for each `target` octets acknowledged: Reno's one a window, or as many as CUBIC's curve asks for.
    busy.cwnd_count = busy.cwnd_count.saturating_add(acked);
    let target = target.max(mss);
    //= RFC 5681 3.1-MUST-2, 3.1-SHOULD-4
    if busy.cwnd_count >= target {
        let segments = busy.cwnd_count / target;
        busy.cwnd_count -= segments * target;
        busy.cwnd = busy.cwnd.saturating_add(segments.saturating_mul(mss)).min(1 << 30);
    }
}

/// New octets were acknowledged, and it was not the window that had held the sender back: the time does not count for the
/// curve (RFC 9438 §5.8).
//= RFC 9438 4.2-MUST-3
#[inline]
pub(crate) fn not_limited(busy: &mut Busy, now_ms: u32) {
    if busy.cubic_epoch_ms != 0 {
        move_epoch(busy, now_ms.wrapping_sub(busy.cubic_seen_ms));
        busy.cubic_seen_ms = now_ms;
    }
}

fn move_epoch(busy: &mut Busy, by_ms: u32) {
    busy.cubic_epoch_ms = busy.cubic_epoch_ms.wrapping_add(by_ms).max(1);
}

/// How many octets must be acknowledged for one more segment of window (RFC 9438 §4.2 to §4.5).
//= RFC 9293 MAY-18
fn cubic_count(busy: &mut Busy, mss: u32, acked: u32, now_ms: u32) -> u32 {
    let cwnd = u64::from(busy.cwnd);
    let rtt_ms = busy.srtt / 1000;
    // A window that is full is acknowledged within a round trip, and what delays an ACK: a longer silence was a rest.
    let silent_ms = now_ms.wrapping_sub(busy.cubic_seen_ms);
    if busy.cubic_epoch_ms != 0 && silent_ms / 2 > rtt_ms + QUIET_MS {
        move_epoch(busy, silent_ms - rtt_ms);
    }
    busy.cubic_seen_ms = now_ms;
    if busy.cubic_epoch_ms == 0 {
        busy.cubic_epoch_ms = now_ms.max(1);
        busy.cubic_w_est = busy.cwnd;
        busy.cubic_k_ms = 0;
        if busy.cubic_w_max > busy.cwnd {
            // K = cbrt((W_max - cwnd_epoch) / C), C = 0.4, windows in segments
            let segments = f64::from(busy.cubic_w_max - busy.cwnd) / f64::from(mss);
            busy.cubic_k_ms = ((segments / 0.4).cbrt() * 1000.0) as u32;
        } else {
            busy.cubic_w_max = busy.cwnd;
        }
    }
    // W_est grows by alpha = 3 (1 - beta) / (1 + beta) = 9/17 segment a window, then by one above W_max.
    //= RFC 9438 4.3-SHOULD-1
    let (num, den) = if busy.cubic_w_est < busy.cubic_w_max { (9, 17) } else { (1, 1) };
    let growth = u64::from(acked) * u64::from(mss) * num / (cwnd.max(1) * den);
    busy.cubic_w_est = busy.cubic_w_est.saturating_add(growth.min(u64::from(u32::MAX)) as u32);

    let elapsed_ms = i64::from(now_ms.wrapping_sub(busy.cubic_epoch_ms)) + i64::from(rtt_ms);
    let t = (elapsed_ms - i64::from(busy.cubic_k_ms)) as f64 / 1000.0;
    //= RFC 9438 4.2-MUST-1
    let curve = f64::from(busy.cubic_w_max) + 0.4 * t * t * t * f64::from(mss);
    //= RFC 9438 4.2-MUST-2
    let target = (curve.max(0.0) as u64).clamp(cwnd, cwnd * 3 / 2).max(u64::from(busy.cubic_w_est));
    if target <= cwnd {
        // on the plateau: one segment in a hundred windows
        return busy.cwnd.saturating_mul(100);
    }
    (u64::from(mss) * cwnd / (target - cwnd)).clamp(u64::from(mss) / 2, u64::from(u32::MAX)) as u32
}

/// A loss was found: the new threshold (RFC 5681 §3.1 (4), RFC 9438 §4.6). `flight` octets were out.
pub(crate) fn on_loss(busy: &mut Busy, mss: u32, flight: u32, config: &TcpConfig) {
    busy.cwnd_count = 0;
    busy.ssthresh = match config.congestion {
        //= RFC 5681 3.1-MUST-3, 3.2-MUST-1
        CongestionControl::NewReno => (flight / 2).max(2 * mss),
        CongestionControl::Cubic => {
            busy.cubic_epoch_ms = 0;
            // fast convergence (§4.7): a flow that lost before it got back to its last maximum releases more
            let cwnd = busy.cwnd;
            busy.cubic_w_max =
                //= RFC 9438 4.7-SHOULD-1
                if cwnd < busy.cubic_w_max { (u64::from(cwnd) * (10 + CUBIC_BETA_TENTHS) / 20) as u32 } else { cwnd };
            //= RFC 9438 4.6-SHOULD-1
            ((u64::from(flight.min(cwnd).max(flight / 2)) * CUBIC_BETA_TENTHS / 10) as u32).max(2 * mss)
        }
    };
}

/// As [`on_loss`], for a loss that the retransmission timer found: the curve then begins on its plateau, at the window that
/// slow start ends with (RFC 9438 §4.8).
//= RFC 9438 4.8-MUST-2
pub(crate) fn on_timeout(busy: &mut Busy, mss: u32, flight: u32, config: &TcpConfig) {
    on_loss(busy, mss, flight, config);
    busy.cubic_w_max = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1448;

    fn fresh(config: &TcpConfig) -> Busy {
        let mut busy = Busy::default();
        restart(&mut busy, MSS, 0, config);
        busy
    }

    #[test]
    //= RFC 6928 2-MAY-1
    fn initial_window_is_ten_segments_and_bounded() {
        let config = TcpConfig::default();
        assert_eq!(initial_window(536, &config), 5360);
        assert_eq!(initial_window(1460, &config), 14_600);
        assert_eq!(initial_window(8960, &config), 17_920);
    }

    #[test]
    fn slow_start_doubles_a_window() {
        let config = TcpConfig::default();
        let mut busy = fresh(&config);
        let before = busy.cwnd;
        for _ in 0..10 {
            on_ack(&mut busy, MSS, MSS, 1, &config);
        }
        assert_eq!(busy.cwnd, before + 10 * MSS);
    }

    #[test]
    //= RFC 9293 MUST-19
    //= RFC 5681 3.1-MUST-2, 3.1-SHOULD-4
    fn reno_adds_one_segment_a_window() {
        let config = TcpConfig { congestion: CongestionControl::NewReno, ..TcpConfig::default() };
        let mut busy = fresh(&config);
        busy.ssthresh = busy.cwnd;
        let before = busy.cwnd;
        let mut acked = 0;
        while acked < before {
            on_ack(&mut busy, MSS, MSS, 1, &config);
            acked += MSS;
        }
        assert_eq!(busy.cwnd, before + MSS);
    }

    #[test]
    //= RFC 9293 MAY-18
    //= RFC 9438 4.2-MUST-1, 4.2-MUST-2, 4.6-SHOULD-1
    fn cubic_comes_back_to_its_maximum_after_k() {
        let config = TcpConfig::default();
        let mut busy = fresh(&config);
        busy.cwnd = 200 * MSS;
        busy.srtt = 50_000;
        let flight = busy.cwnd;
        on_loss(&mut busy, MSS, flight, &config);
        assert_eq!(busy.ssthresh, 140 * MSS);
        busy.cwnd = busy.ssthresh;
        // K = cbrt(60 / 0.4) = 5.31 s
        let mut now = 1000;
        while now < 1000 + 5_310 {
            let window = busy.cwnd;
            for _ in 0..window / MSS {
                on_ack(&mut busy, MSS, MSS, now, &config);
            }
            now += 50;
        }
        assert!(busy.cwnd.abs_diff(200 * MSS) < 8 * MSS, "{} segments", busy.cwnd / MSS);
    }

    /// Round trips of 50 ms from `now_ms` on, whole windows acknowledged in each.
    fn run(busy: &mut Busy, now_ms: &mut u32, round_trips: u32, config: &TcpConfig) {
        for _ in 0..round_trips {
            for _ in 0..busy.cwnd / MSS {
                on_ack(busy, MSS, MSS, *now_ms, config);
            }
            *now_ms += 50;
        }
    }

    #[test]
    //= RFC 9438 4.2-MUST-3
    fn time_without_a_full_window_is_no_time_of_the_curve() {
        let config = TcpConfig::default();
        let windows = [0, 1, 2].map(|rest| {
            let mut busy = fresh(&config);
            (busy.cwnd, busy.srtt) = (200 * MSS, 50_000);
            on_loss(&mut busy, MSS, 200 * MSS, &config);
            busy.cwnd = busy.ssthresh;
            let mut now = 1000;
            run(&mut busy, &mut now, 20, &config);
            match rest {
                0 => {}
                // little is sent for four seconds
                1 => (0..80).for_each(|_| {
                    not_limited(&mut busy, now);
                    now += 50;
                }),
                // nothing is
                _ => now += 4_000,
            }
            run(&mut busy, &mut now, 20, &config);
            busy.cwnd / MSS
        });
        assert!(windows[0] < 200, "before the maximum: {windows:?}");
        assert!(windows.iter().all(|window| window.abs_diff(windows[0]) <= 1), "{windows:?}");
    }

    #[test]
    //= RFC 9438 4.8-MUST-2
    fn after_a_timeout_the_curve_begins_on_its_plateau() {
        let config = TcpConfig::default();
        let mut busy = fresh(&config);
        (busy.cwnd, busy.srtt) = (200 * MSS, 50_000);
        on_timeout(&mut busy, MSS, 200 * MSS, &config);
        assert_eq!(busy.ssthresh, 140 * MSS);
        busy.cwnd = busy.ssthresh;
        let mut now = 1000;
        run(&mut busy, &mut now, 1, &config);
        assert_eq!((busy.cubic_k_ms, busy.cubic_w_max), (0, 140 * MSS));
        run(&mut busy, &mut now, 20, &config);
        // not the 168 of a curve towards 200, but a segment in a round trip, as Reno
        assert!((140 * MSS..162 * MSS).contains(&busy.cwnd), "{} segments after a second", busy.cwnd / MSS);
    }

    #[test]
    //= RFC 9438 4.7-SHOULD-1
    fn a_flow_that_lost_before_its_last_maximum_makes_room() {
        let config = TcpConfig::default();
        let mut busy = fresh(&config);
        busy.cwnd = 200 * MSS;
        on_loss(&mut busy, MSS, 200 * MSS, &config);
        assert_eq!(busy.cubic_w_max, 200 * MSS);
        busy.cwnd = 160 * MSS;
        on_loss(&mut busy, MSS, 160 * MSS, &config);
        assert_eq!(busy.cubic_w_max, 136 * MSS, "(1 + beta) / 2 of 160");
    }
}
