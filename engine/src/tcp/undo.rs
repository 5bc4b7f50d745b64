//! What shows that a recovery was needless, and its undoing (RFC 4015): timestamps (RFC 3522), duplicates that the peer
//! reports (RFC 3708), and F-RTO (RFC 5682), which needs neither.

use super::block::{Busy, Connection, Phase, busy, flag, sent};
use super::flight::Flights;
use super::recovery::{Acked, Env};

/// The longest round trip that an echoed timestamp is believed to have taken, milliseconds.
const ECHO_MS_MAX: u32 = 120_000;

/// Keeps what a recovery is about to take.
pub(super) fn save_for_undo(b: &mut Busy, env: &Env<'_>) {
    b.flags |= busy::UNDO | busy::UNDO_DSACK;
    b.undo_resent = 0;
    b.undo_cwnd = b.cwnd;
    b.undo_ssthresh = b.ssthresh;
    b.undo_ts = env.now_ms;
}

/// The timestamp that an ACK of something new echoes, as the engine's clock had it: a measurement where Karn's algorithm
/// leaves none (RFC 6298 §3), and word of which transmission was answered.
#[cold]
pub(crate) fn take_echo(flights: &mut Flights, b: &mut Busy, echo_ms: u32, acked: &mut Acked, env: &Env<'_>) {
    let took_ms = env.now_ms.wrapping_sub(echo_ms);
    // What answers a duplicate echoes the original that came long before: the ACKs in between were lost
    if b.backoff > 0 && acked.rtt_us.is_none() && !acked.dsack && took_ms <= ECHO_MS_MAX {
        //= RFC 6298 3-MUST-1, 5-SHOULD-2
        //= RFC 7323 4.1-MAY-1
        acked.rtt_us = Some(took_ms.max(1) * 1000);
    }
    undo_if_spurious(flights, b, echo_ms, env);
}

/// The first acknowledgement after a retransmission echoes a timestamp older than it: the original had arrived
/// (RFC 4015 §3.2, RFC 3522).
//= RFC 4015 2-MUST-1, 3.2-MAY-1
fn undo_if_spurious(flights: &mut Flights, b: &mut Busy, echo_ms: u32, env: &Env<'_>) {
    if b.flags & busy::UNDO == 0 || b.phase == Phase::Open {
        return;
    }
    b.flags &= !busy::UNDO;
    if (echo_ms.wrapping_sub(b.undo_ts) as i32) >= 0 {
        return;
    }
    undo(flights, b, env);
}

/// RFC 3708 §2: once every retransmission of a recovery has been reported to be a duplicate, nothing was lost.
pub(super) fn duplicate_reported(flights: &mut Flights, b: &mut Busy, env: &Env<'_>) {
    if b.flags & busy::UNDO_DSACK != 0 && b.undo_resent > 0 {
        b.undo_resent -= 1;
        if b.undo_resent == 0 {
            undo(flights, b, env);
        }
    }
}

/// A timeout is about to be answered: F-RTO watches it, unless what is out has been sent again before for another reason
/// (RFC 5682 §2.1 step 1).
//= RFC 5682 2.1-MUST-1, 2.1-MUST-5
pub(super) fn begin_frto(c: &Connection, b: &mut Busy) {
    let opening = c.state.is_opening();
    let again = b.phase == Phase::Loss && b.flags & (busy::FRTO | busy::FRTO_NEW) == busy::FRTO;
    b.flags &= !(busy::FRTO | busy::FRTO_NEW);
    if !opening && (b.phase == Phase::Open || again) {
        b.flags |= busy::FRTO;
    }
}

/// F-RTO (RFC 5682 §2.1, with SACK §3.1): the first ACK after the timeout lets two new segments go in place of what was
/// given up; if the next one is for something that was out before and not sent again, nothing had been lost. True if
/// those two may go now.
//= RFC 5682 2-SHOULD-1
pub(super) fn frto(flights: &mut Flights, c: &Connection, b: &mut Busy, acked: &Acked, env: &Env<'_>) -> bool {
    let (advances, sack) = (acked.octets > 0, c.has(flag::SACK));
    let answered = b.flags & busy::FRTO_NEW != 0;
    if c.snd_una.at_or_after(b.recover) {
        // all that was out: the retransmission may have filled the only hole (step 2a)
        //= RFC 5682 2.1-MUST-2
        b.flags &= !(busy::FRTO | busy::FRTO_NEW);
    } else if answered && acked.original {
        //= RFC 5682 2.1-MUST-4
        undo(flights, b, env);
    } else if !answered && advances && full_segment_may_go(c, b) {
        //= RFC 5682 2.1-MUST-3
        b.flags |= busy::FRTO_NEW;
        return true;
    } else if advances || !sack || answered && acked.delivered > 0 {
        // a duplicate, or nothing new to send: recovery as ever; with SACK duplicates tell nothing before step 3
        //= RFC 5682 2.1-MUST-2
        b.flags &= !(busy::FRTO | busy::FRTO_NEW);
        if answered {
            // no more than three segments: the new ones, and one again (step 3a)
            b.cwnd = b.pipe + c.payload_max();
        }
    }
    false
}

/// Whether a full segment is queued, and the peer's window takes it.
fn full_segment_may_go(c: &Connection, b: &Busy) -> bool {
    let end = c.snd_nxt + c.payload_max();
    b.snd_end.at_or_after(end) && (c.snd_una + c.send_window()).at_or_after(end)
}

/// Gives back what a recovery took.
//= RFC 4015 3.2-MUST-2
fn undo(flights: &mut Flights, b: &mut Busy, env: &Env<'_>) {
    b.flags &= !busy::DOUBTS;
    let mut cursor = flights.front(b);
    while let Some(at) = cursor {
        let record = flights.get_mut(b, at);
        if record.has(sent::LOST) {
            record.flags &= !sent::LOST;
            let len = u32::from(record.len);
            b.lost -= len;
            b.pipe += len;
        }
        cursor = flights.next(at);
    }
    b.phase = Phase::Open;
    //= RFC 9438 4.9-MAY-1
    b.cwnd = b.cwnd.max(b.undo_cwnd);
    b.ssthresh = b.undo_ssthresh;
    b.backoff = 0;
    if b.flags & busy::REORDERING == 0 && b.sacked > 0 {
        b.flags |= busy::REORDERING;
    }
    env.stats.spurious_recoveries.increment();
}
