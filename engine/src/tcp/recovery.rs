//! Loss recovery: what an acknowledgement says about the segments in flight, and what to send again.
//!
//! Losses are found by RACK (RFC 8985) where the peer sends SACK, by duplicate ACKs (RFC 5681, RFC 6582) where it does
//! not, and by timeout (RFC 6298). What may be sent during fast recovery follows PRR (RFC 9937). A recovery that
//! proves spurious is undone: [`undo`].

use crate::stats::Stats;

use super::block::{Busy, Connection, Phase, busy, flag, sent};
use super::flight::Flights;
use super::rtt;
use super::scoreboard::{forget_sacked, mark_first_lost, mark_lost, note_walked, sent_after};
use super::tunables::Tunables;
use super::undo::{self, save_for_undo};
use super::{congestion, hystart, pacing, probe};

/// Duplicate ACKs, or segments selectively acknowledged above a hole, that mean loss (RFC 5681 §3.2, RFC 6675 §2).
pub(crate) const DUP_THRESH: u16 = 3;

/// What recovery needs besides the connection: the time of the burst and the tunables.
pub(crate) struct Env<'a> {
    pub(crate) now_us: u32,
    pub(crate) now_ms: u32,
    /// How long ago the acknowledgement arrived.
    pub(crate) age_us: u32,
    pub(crate) config: &'a Tunables,
    pub(crate) stats: &'a Stats,
}

impl Env<'_> {
    /// Microseconds from `sent_us` until what is worked on arrived; 0 if it came before.
    #[inline]
    pub(super) fn since_us(&self, sent_us: u32) -> u32 {
        self.now_us.wrapping_sub(sent_us).saturating_sub(self.age_us)
    }
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acked {
    /// Octets of sequence space newly acknowledged, cumulatively.
    pub(crate) octets: u32,
    /// Octets newly known to be delivered, cumulatively or selectively.
    pub(crate) delivered: u32,
    /// SYN or FIN of ours is among them.
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    /// Round-trip time of the newest segment that was sent once, microseconds.
    pub(crate) rtt_us: Option<u32>,
    /// Among it, while F-RTO waits for that, is something that was out before the timeout and not sent again.
    pub(crate) original: bool,
    /// A block below the acknowledgement or inside another: a duplicate arrived (RFC 2883).
    pub(crate) dsack: bool,
    /// ECE was set, on a connection that agreed on ECN (RFC 3168 §6.1.2).
    pub(crate) congestion: bool,
}

/// What the congestion window grows by: `octets` and `delivered` are those of [`Acked`], the latter without what duplicate
/// ACKs stood for.
#[derive(Clone, Copy)]
pub(crate) struct Arrived {
    pub(crate) octets: u32,
    pub(crate) delivered: u32,
    pub(crate) rtt_us: Option<u32>,
}

/// Marks lost what RACK (RFC 8985 §6.2 step 5) or the duplicate ACKs give up. Returns when to look again, in
/// microseconds from now, if a segment may yet turn out to be reordered.
pub(crate) fn detect_losses(flights: &mut Flights, c: &Connection, b: &mut Busy, env: &Env<'_>) -> Option<u32> {
    if !c.has(flag::SACK) {
        //= RFC 5681 3.2-SHOULD-3
        if b.dup_acks >= DUP_THRESH && b.phase == Phase::Open {
            mark_first_lost(flights, b);
        }
        return None;
    }
    if b.sacked == 0 && b.phase == Phase::Open {
        return None;
    }
    if flights.walked >= env.config.scoreboard_per_pass {
        // enough for this pass: the reordering timer looks again
        return Some(1);
    }
    let mut walked = 0;
    //= RFC 6675 2-MUST-1
    let window = if b.flags & busy::REORDERING == 0 && segments_sacked(flights, b, &mut walked) >= DUP_THRESH {
        0
    } else {
        reordering_window(b, c)
    };
    let mut wait = None;
    let mut cursor = flights.front(b);
    while let Some(at) = cursor {
        let record = *flights.get(b, at);
        walked += 1;
        if !record.has(sent::SACKED | sent::LOST)
            && sent_after(b.rack_sent_us, b.rack_end, record.sent_us, record.end())
        {
            let age = env.since_us(record.sent_us);
            let patience = b.rack_rtt.saturating_add(window);
            //= RFC 8985 6.2-MUST-3
            if age >= patience {
                mark_lost(flights, b, at);
            } else {
                //= RFC 8985 6.2-SHOULD-5
                wait = wait.max(Some(patience - age));
            }
        }
        cursor = flights.next(at);
    }
    note_walked(flights, walked, env);
    wait
}

/// Segments selectively acknowledged, as far as it matters.
fn segments_sacked(flights: &Flights, b: &Busy, walked: &mut u32) -> u16 {
    let (mut count, mut cursor) = (0, flights.front(b));
    while let Some(at) = cursor
        && count < DUP_THRESH
    {
        count += u16::from(flights.get(b, at).has(sent::SACKED));
        *walked += 1;
        cursor = flights.next(at);
    }
    count
}

/// The reordering window of RFC 8985 §6.2 step 4: quarters of the smallest RTT, one more for each round trip in which
/// a DSACK told of a needless retransmission; nothing as long as no reordering has been seen and the classic threshold
/// is met.
//= RFC 8985 6.2-MUST-2, 6.2-SHOULD-2, 6.2-SHOULD-3
fn reordering_window(b: &Busy, c: &Connection) -> u32 {
    if b.flags & busy::REORDERING == 0
        && (b.phase != Phase::Open || b.sacked >= u32::from(DUP_THRESH) * c.payload_max())
    {
        return 0;
    }
    (b.rtt_min / 4).saturating_mul(u32::from(b.reo_quarters.max(1))).min(b.srtt)
}

/// Recoveries for which a reordering window that a DSACK widened stays wide (RFC 8985 §6.2 step 4).
//= RFC 8985 6.2-SHOULD-4
const REO_PERSIST: u8 = 16;

/// RACK_update_reo_wnd() of RFC 8985 §6.2 step 4: a DSACK widens the window, once in a round trip.
//= RFC 8985 6.2-SHOULD-3
fn widen_reordering_window(c: &Connection, b: &mut Busy) {
    if b.reo_persist == REO_PERSIST && c.snd_una.before(b.dsack_round) {
        return;
    }
    b.dsack_round = c.snd_nxt;
    b.reo_quarters = b.reo_quarters.max(1).saturating_add(1);
    b.reo_persist = REO_PERSIST;
}

/// A window that was shut under what is in flight has opened: the oldest segment goes again without waiting for its timer.
pub(crate) fn window_opened(flights: &mut Flights, b: &mut Busy) {
    mark_first_lost(flights, b);
    (b.backoff, b.timeouts) = (0, 0);
    b.flags &= !(busy::FRTO | busy::FRTO_NEW);
    b.timers &= !1;
}

/// Octets taken to be in flight: without SACK each duplicate ACK means that one segment has left.
//= RFC 3042 2-SHOULD-1, 2-MUST-1, 2-MUST-2
//= RFC 5681 3.2-SHOULD-4, 3.2-MUST-3, 3.2-MUST-4
pub(crate) fn pipe(c: &Connection, b: &Busy) -> u32 {
    if c.has(flag::SACK) { b.pipe } else { b.pipe.saturating_sub(u32::from(b.dup_acks) * c.payload_max()) }
}

/// Enters fast recovery (RFC 6675 §5, RFC 6582 §3.2 step 2, RFC 9937 §6) on an ACK that delivered some octets.
//= RFC 2018 5.1-MUST-1
fn enter_recovery(c: &Connection, b: &mut Busy, delivered: u32, env: &Env<'_>) {
    let mss = c.payload_max();
    let flight = c.snd_nxt - c.snd_una;
    save_for_undo(b, env);
    // without what the first duplicate ACKs let out beyond the window
    //= RFC 5681 3.2-MUST-5
    //= RFC 6675 5-MUST-3
    //= RFC 9438 4.6-MUST-1
    congestion::on_loss(b, mss, flight.min(b.cwnd), env.config);
    b.phase = Phase::Recovery;
    //= RFC 6582 3.2-MUST-1
    b.recover = c.snd_nxt;
    if c.has(flag::ECN) {
        b.flags |= busy::CWR;
    }
    // what had been delivered before counts for nothing in this recovery
    let before = if c.has(flag::SACK) { delivered } else { 0 };
    b.prr_flight = (flight + before).saturating_sub(b.sacked).max(1);
    (b.prr_delivered, b.prr_out) = (0, 0);
    if b.flags & busy::PROBE_TIMER != 0 {
        // the retransmission timer takes its place, from now on
        b.timers &= !1;
    }
    b.flags &= !(busy::PROBE_TIMER | busy::PROBE_OUT | busy::PROBE_RESENT);
    env.stats.fast_retransmits.increment();
}

/// Updates the window after an acknowledgement. Returns when to look for losses again, in microseconds from now.
#[inline(always)]
pub(crate) fn after_ack(
    flights: &mut Flights,
    c: &Connection,
    b: &mut Busy,
    acked: &Acked,
    pipe_before: u32,
    env: &Env<'_>,
) -> Option<u32> {
    //= RFC 6298 3-MUST-2
    if let Some(rtt_us) = acked.rtt_us {
        rtt::sample(b, rtt_us);
        //= RFC 6298 5-SHOULD-2
        b.backoff = 0;
    }
    // Asked once, for nearly every ACK: whether nothing is missing, and nothing waits to hear of a time-out or a probe
    let calm = b.phase == Phase::Open
        && (b.lost, b.sacked, b.dup_acks) == (0, 0, 0)
        && b.flags & (busy::FRTO | busy::PROBE_OUT) == 0
        && !(acked.dsack || acked.congestion);
    if !calm {
        return after_ack_amid_losses(flights, c, b, acked, pipe_before, env);
    }
    if acked.octets > 0 {
        b.timeouts = 0;
        let &Acked { octets, delivered, rtt_us, .. } = acked;
        grow_if_used(c, b, Arrived { octets, delivered, rtt_us }, pipe_before, env);
    }
    None
}

/// [`after_ack`] where something is missing, or may be.
#[inline(never)]
fn after_ack_amid_losses(
    flights: &mut Flights,
    c: &Connection,
    b: &mut Busy,
    acked: &Acked,
    pipe_before: u32,
    env: &Env<'_>,
) -> Option<u32> {
    let mss = c.payload_max();
    if acked.dsack {
        widen_reordering_window(c, b);
        undo::duplicate_reported(flights, b, env);
    }
    let probing = b.flags & busy::FRTO != 0 && undo::frto(flights, c, b, acked, env);
    probe::end(c, b, acked, env);
    let (lost_before, delivered) = (b.lost, delivered_by(c, b, acked, mss));
    if acked.octets > 0 {
        b.timeouts = 0;
        //= RFC 6675 5-MUST-2
        if b.phase != Phase::Open && c.snd_una.at_or_after(b.recover) {
            leave(b, mss);
        } else if b.phase == Phase::Recovery && !c.has(flag::SACK) {
            // RFC 6582 §3.2 step 3, partial acknowledgement: the next hole is lost as well
            //= RFC 6582 3.2-MUST-2
            let segments = (acked.octets / mss).min(u32::from(u16::MAX)) as u16;
            b.dup_acks = b.dup_acks.saturating_sub(segments);
            mark_first_lost(flights, b);
        }
        if b.phase == Phase::Open {
            b.dup_acks = 0;
        }
    }
    if acked.congestion {
        on_congestion_echo(c, b, env);
    }
    let wait = detect_losses(flights, c, b, env);
    //= RFC 5681 4.3-MUST-1
    if b.lost > 0 && b.phase == Phase::Open {
        enter_recovery(c, b, delivered, env);
    }
    match b.phase {
        Phase::Recovery => prr(c, b, delivered, acked.octets > 0 && b.lost <= lost_before, mss),
        Phase::Open | Phase::Loss => {
            if acked.octets > 0 {
                let arrived = Arrived { octets: acked.octets, delivered, rtt_us: acked.rtt_us };
                grow_if_used(c, b, arrived, pipe_before, env);
            }
            if probing {
                b.cwnd = b.pipe + 2 * mss;
            }
        }
    }
    wait
}

/// An ACK of something new, outside fast recovery: the window grows if it is in use. It is if it held us back within the
/// last round trip, or would have if there had been another segment; in slow start, if half of it was in use. ACKs that
/// came in one burst count alike: that the first of them made room is no sign of rest.
#[inline(always)]
pub(crate) fn grow_if_used(c: &Connection, b: &mut Busy, arrived: Arrived, pipe_before: u32, env: &Env<'_>) {
    let (used, cwnd) = (u64::from(pipe_before) + u64::from(c.payload_max()), u64::from(b.cwnd));
    let was_full = (c.snd_una - arrived.octets).before(b.full_until);
    if !was_full {
        // kept near, as numbers half the circle away compare the wrong way
        b.full_until = c.snd_una;
    }
    if was_full || used >= cwnd || (b.cwnd < b.ssthresh && used * 2 >= cwnd) {
        grow(c, b, arrived, (env.now_us, env.now_ms), env.config);
    } else {
        congestion::not_limited(b, env.now_ms);
    }
}

/// An ACK of what had filled the window.
//= RFC 9293 MUST-19
//= RFC 9438 5.8-MUST-1
#[inline(always)]
fn grow(c: &Connection, b: &mut Busy, arrived: Arrived, (now_us, now_ms): (u32, u32), config: &Tunables) {
    pacing::begin(b, now_us, config);
    // not by what was selectively acknowledged before: that would be a burst
    let mut octets = arrived.octets.min(arrived.delivered);
    //= RFC 9406 4.3-SHOULD-2
    if b.ssthresh == u32::MAX && config.hystart {
        octets = hystart::on_ack(b, c, octets, arrived.rtt_us);
    }
    congestion::on_ack(b, c.payload_max(), octets, now_ms, config);
}

/// ECN at the sender (RFC 3168 §6.1.2): an echoed mark reduces the window as a loss does, once in a round trip, and
/// nothing is sent again. CWR tells the peer.
//= RFC 3168 5-MUST-1, 6.1.2-SHOULD-1
fn on_congestion_echo(c: &Connection, b: &mut Busy, env: &Env<'_>) {
    let reduced = b.flags & busy::ECN_REDUCED != 0 && c.snd_una.at_or_before(b.ecn_until);
    if reduced || b.phase != Phase::Open {
        return;
    }
    congestion::on_loss(b, c.payload_max(), c.snd_nxt - c.snd_una, env.config);
    b.cwnd = b.ssthresh;
    b.ecn_until = c.snd_nxt;
    b.flags |= busy::CWR | busy::ECN_REDUCED;
}

fn leave(b: &mut Busy, mss: u32) {
    if b.phase == Phase::Recovery {
        //= RFC 5681 3.2-MUST-2
        //= RFC 6582 3.2-MUST-3
        b.cwnd = b.ssthresh.max(2 * mss);
    }
    b.phase = Phase::Open;
    b.dup_acks = 0;
    b.flags &= !(busy::UNDO | busy::FRTO | busy::FRTO_NEW);
    b.reo_persist = b.reo_persist.saturating_sub(1);
    if b.reo_persist == 0 {
        b.reo_quarters = 1;
    }
}

/// DeliveredData of RFC 9937 §6, octets. Without SACK a duplicate ACK stands for a segment, and what it stood for is not
/// counted again when it is acknowledged.
fn delivered_by(c: &Connection, b: &Busy, acked: &Acked, mss: u32) -> u32 {
    let counted = u32::from(b.dup_acks) * mss;
    match acked.octets {
        _ if c.has(flag::SACK) => acked.delivered,
        0 => counted.min(mss),
        octets => octets.saturating_sub(counted),
    }
}

/// Proportional rate reduction (RFC 9937 §6). `safe`: the ACK advances SND.UNA and tells of no further loss; only then may
/// more leave than arrives.
fn prr(c: &Connection, b: &mut Busy, delivered: u32, safe: bool, mss: u32) {
    b.prr_delivered = b.prr_delivered.saturating_add(delivered);
    let pipe = pipe(c, b);
    //= RFC 9937 6-SHOULD-1, 6-MUST-1
    //= RFC 8985 9.3-SHOULD-1
    let send = if pipe > b.ssthresh {
        let allowed = (u64::from(b.prr_delivered) * u64::from(b.ssthresh)).div_ceil(u64::from(b.prr_flight)) as u32;
        allowed.saturating_sub(b.prr_out)
    } else {
        let limit = b.prr_delivered.saturating_sub(b.prr_out).max(delivered) + if safe { mss } else { 0 };
        limit.min(b.ssthresh - pipe)
    };
    // fast retransmit itself is never held back
    //= RFC 9937 6-MUST-2
    let send = if b.prr_out == 0 { send.max(mss) } else { send };
    b.cwnd = pipe + send;
}

/// The retransmission timer fired (RFC 6298 §5.4, RFC 5681 §3.1). Lost is the oldest segment, and each that has been
/// out for longer than a round trip and the reordering window (RFC 8985 §6.3); without SACK, all.
//= RFC 6298 5-SHOULD-3, 5-MUST-3
pub(crate) fn on_timeout(flights: &mut Flights, c: &Connection, b: &mut Busy, env: &Env<'_>) {
    let mss = c.payload_max();
    if flights.front(b).is_some_and(|at| flights.get(b, at).has(sent::SACKED)) {
        //= RFC 2018 5.1-SHOULD-1, 5-MUST-1, 5.1-MUST-2
        forget_sacked(flights, b);
    }
    let (again, flight) = (b.phase == Phase::Loss, c.snd_nxt - c.snd_una);
    //= RFC 5681 3.1-MUST-4
    //= RFC 4015 3.2-MUST-1
    undo::begin_frto(c, b);
    if !again {
        save_for_undo(b, env);
        congestion::on_timeout(b, mss, flight, env.config);
    }
    b.phase = Phase::Loss;
    let patience = if c.has(flag::SACK) { b.rack_rtt.saturating_add(reordering_window(b, c)) } else { 0 };
    let mut cursor = flights.front(b);
    while let Some(at) = cursor {
        let record = flights.get(b, at);
        //= RFC 8985 6.3-SHOULD-1
        let old = Some(at) == flights.front(b) || env.now_us.wrapping_sub(record.sent_us) >= patience;
        //= RFC 6675 5.1-SHOULD-1
        if old && !record.has(sent::SACKED | sent::LOST) {
            mark_lost(flights, b, at);
        }
        cursor = flights.next(at);
    }
    //= RFC 6675 5.1-MUST-1
    b.recover = c.snd_nxt;
    // room for one segment beside those that may still arrive
    //= RFC 5681 3.1-MUST-5
    //= RFC 9438 4.8-MUST-1
    b.cwnd = b.pipe + mss;
    b.dup_acks = 0;
    b.backoff = b.backoff.saturating_add(1);
    b.timeouts = b.timeouts.saturating_add(1);
    b.flags &= !(busy::PROBE_TIMER | busy::PROBE_OUT | busy::PROBE_RESENT);
    env.stats.retransmission_timeouts.increment();
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
