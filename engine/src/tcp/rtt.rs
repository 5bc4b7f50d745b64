//! Round-trip time and retransmission timeout (RFC 6298).

use super::block::{Busy, Connection, busy as flags, compact};
use super::tunables::Tunables;

/// Clock granularity G, microseconds: a tick of the timer wheel.
const GRANULARITY_US: u32 = 1_000;

/// RTO of the first data after a SYN that was lost, until there is a measurement (§5.7), microseconds.
//= RFC 6298 5-MUST-4
const RTO_AFTER_LOST_SYN_US: u32 = 3_000_000;

/// Takes the first measurement of a connection, of its handshake: `rtt_us` microseconds.
#[inline(always)]
pub(crate) fn first(busy: &mut Busy, rtt_us: u32) {
    debug_assert!(busy.srtt == 0 && busy.flags & (flags::PROBE_OUT | flags::PROBE_RESENT) == 0);
    let r = rtt_us.max(1);
    // (2.2)
    //= RFC 6298 2-MUST-1
    (busy.srtt, busy.rttvar, busy.rtt_min) = (r, r / 2, r);
}

/// Takes a measurement of `rtt_us` microseconds, from a segment that was sent once (Karn's algorithm).
#[inline(always)]
pub(crate) fn sample(busy: &mut Busy, rtt_us: u32) {
    if busy.flags & flags::PROBE_OUT == 0 {
        busy.flags &= !flags::PROBE_RESENT;
    }
    if busy.srtt == 0 {
        return first(busy, rtt_us);
    }
    let r = rtt_us.max(1);
    busy.rtt_min = r.min(busy.rtt_min);
    // (2.3) RTTVAR before SRTT, alpha = 1/8, beta = 1/4
    //= RFC 6298 2-MUST-2
    let deviation = busy.srtt.abs_diff(r);
    busy.rttvar = (u64::from(busy.rttvar) * 3 / 4 + u64::from(deviation) / 4) as u32;
    busy.srtt = ((u64::from(busy.srtt) * 7 + u64::from(r)) / 8).max(1) as u32;
}

/// RTO before back-off, microseconds.
///
/// The variance term is at least the smallest RTO, as in Linux: the timeout then stays clear of a peer's delayed
/// acknowledgement whatever the round-trip time. It is never below what RFC 6298 §2.3 computes.
//= RFC 9293 MUST-18
#[inline(always)]
pub(crate) fn rto_us(busy: &Busy, config: &Tunables) -> u32 {
    let (min, max) = (config.rto_min_us, config.rto_max_us);
    if busy.srtt == 0 {
        //= RFC 6298 2-SHOULD-1
        let initial = config.rto_initial_us;
        let lost = busy.flags & flags::SYN_LOST != 0;
        return if lost { initial.max(RTO_AFTER_LOST_SYN_US) } else { initial }.min(max);
    }
    //= RFC 6298 2-MUST-1, 2-SHOULD-2, 4-MUST-1
    let variance = (u64::from(busy.rttvar) * 4).max(u64::from(GRANULARITY_US.max(min)));
    (u64::from(busy.srtt) + variance).min(u64::from(max)) as u32
}

/// RTO with back-off (§5.5), milliseconds, rounded up.
//= RFC 9293 MUST-19
pub(crate) fn rto_ms(busy: &Busy, config: &Tunables) -> u32 {
    let us = u64::from(rto_us(busy, config)) << busy.backoff.min(16);
    //= RFC 6298 2-MAY-1, 5-MUST-3
    us.min(u64::from(config.rto_max_us)).div_ceil(1_000) as u32
}

/// Keeps the estimate in the idle block.
pub(crate) fn store(connection: &mut Connection, busy: &Busy) {
    connection.srtt = compact::pack(busy.srtt);
    connection.rttvar = compact::pack(busy.rttvar);
}

/// Takes the estimate up again.
pub(crate) fn load(connection: &Connection, busy: &mut Busy) {
    busy.srtt = compact::unpack(connection.srtt);
    busy.rttvar = compact::unpack(connection.rttvar);
    busy.rtt_min = busy.srtt;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TcpConfig;

    #[test]
    //= RFC 9293 MUST-18
    //= RFC 6298 2-MUST-1, 2-SHOULD-2
    fn first_sample_sets_both_estimates() {
        let mut busy = Busy::default();
        sample(&mut busy, 80_000);
        assert_eq!((busy.srtt, busy.rttvar), (80_000, 40_000));
        assert_eq!(rto_us(&busy, &Tunables::from(TcpConfig::default())), 80_000 + 200_000);
    }

    #[test]
    //= RFC 6298 2-MUST-2, 2-SHOULD-2, 4-MUST-1
    fn steady_samples_converge_and_the_floor_holds() {
        let mut busy = Busy::default();
        for _ in 0..200 {
            sample(&mut busy, 50_000);
        }
        assert!(busy.srtt.abs_diff(50_000) < 10 && busy.rttvar < 100, "{} {}", busy.srtt, busy.rttvar);
        assert!(rto_us(&busy, &Tunables::from(TcpConfig::default())) >= 200_000);
    }

    #[test]
    //= RFC 9293 MUST-19
    //= RFC 6298 2-SHOULD-1, 2-MAY-1, 5-MUST-3
    fn back_off_doubles_up_to_the_limit() {
        let mut busy = Busy::default();
        let config = Tunables::from(TcpConfig::default());
        let gaps: Vec<u32> = (0..10)
            .map(|n| {
                busy.backoff = n;
                rto_ms(&busy, &config)
            })
            .collect();
        assert_eq!(gaps, [1000, 2000, 4000, 8000, 16000, 32000, 64000, 120_000, 120_000, 120_000]);
    }
}
