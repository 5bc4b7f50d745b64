//! The scoreboard: what is known of each segment in flight, whether it arrived, is lost, or is still under way (RFC 6675 §4).

use crate::wire::{SackBlock, Seq};

use super::block::{Busy, Sent, busy, sent};
use super::flight::{Cursor, Flights};
use super::recovery::{Acked, Env};

/// Removes from the flight what `ack` covers.
#[inline(always)]
pub(crate) fn take_cumulative(flights: &mut Flights, b: &mut Busy, ack: Seq, env: &Env<'_>, out: &mut Acked) {
    while let Some(record) = flights.pop_acked(b, ack) {
        let len = u32::from(record.len);
        out.octets += len;
        out.syn |= record.has(sent::SYN);
        out.fin |= record.has(sent::FIN);
        if record.has(sent::SACKED) {
            b.sacked -= len;
        } else {
            out.delivered += len;
            leave_pipe(b, record.flags, len);
            delivered(b, &record, env, out);
            //= RFC 8985 6.2-SHOULD-1
            if b.sacked > 0 && !record.has(sent::RESENT) {
                // what was sent after it had arrived before it
                b.flags |= busy::REORDERING;
            }
        }
    }
    match flights.front(b) {
        None => (b.pipe, b.lost, b.sacked) = (0, 0, 0),
        Some(front) if flights.get(b, front).start.before(ack) => trim_front(flights, b, front, ack, out),
        Some(_) => {}
    }
}

/// [`take_cumulative`] where nothing is missing or beyond a hole, and `ack` covers whole segments that were sent once. The
/// newest of them, marked with nothing but what is `expected`; `None`, and nothing is done, if it is otherwise.
#[inline(always)]
pub(crate) fn take_whole(flights: &mut Flights, b: &mut Busy, (una, ack): (Seq, Seq), expected: u8) -> Option<Sent> {
    let newest = flights.take_up_to(b, ack, expected)?;
    b.pipe -= ack - una;
    Some(newest)
}

/// Takes off what `ack` covers of the oldest segment, which lies at `front`.
fn trim_front(flights: &mut Flights, b: &mut Busy, front: Cursor, ack: Seq, out: &mut Acked) {
    let record = flights.get_mut(b, front);
    let n = ack - record.start;
    record.start = ack;
    record.len -= n as u16;
    out.octets += n;
    out.syn |= record.has(sent::SYN);
    record.flags &= !sent::SYN;
    let flags = record.flags;
    if flags & sent::SACKED != 0 {
        b.sacked -= n;
    } else {
        out.delivered += n;
        leave_pipe(b, flags, n);
    }
}

#[inline]
//= RFC 6675 4-MUST-1
fn leave_pipe(b: &mut Busy, flags: u8, len: u32) {
    if flags & sent::LOST != 0 {
        b.lost -= len;
    } else {
        b.pipe -= len;
    }
}

/// A segment is known to have arrived: RTT sample and RACK's reference (RFC 8985 §6.2 step 2).
#[inline]
fn delivered(b: &mut Busy, record: &Sent, env: &Env<'_>, out: &mut Acked) {
    let rtt = env.since_us(record.sent_us);
    if record.has(sent::RESENT) {
        // may be the answer to an earlier transmission
        //= RFC 8985 6.2-MUST-1
        if rtt < b.rtt_min {
            return;
        }
    } else {
        //= RFC 9293 MUST-18
        //= RFC 6298 3-MUST-1
        out.rtt_us = Some(rtt);
        if b.flags & busy::FRTO_NEW != 0 {
            out.original |= record.end().at_or_before(b.recover);
        }
    }
    note_delivered(b, record, rtt);
}

/// RACK_update() of RFC 8985 §6.2 step 2.
#[inline(always)]
pub(crate) fn note_delivered(b: &mut Busy, record: &Sent, rtt_us: u32) {
    if sent_after(record.sent_us, record.end(), b.rack_sent_us, b.rack_end) || b.rack_rtt == 0 {
        b.rack_sent_us = record.sent_us;
        b.rack_end = record.end();
        b.rack_rtt = rtt_us.max(1);
    }
}

/// RACK_sent_after() of RFC 8985 §6.2.
#[inline]
pub(super) fn sent_after(t1: u32, end1: Seq, t2: u32, end2: Seq) -> bool {
    (t1.wrapping_sub(t2) as i32) > 0 || (t1 == t2 && end1.after(end2))
}

/// Marks what SACK blocks cover (RFC 2018 §5, RFC 6675 §4). Blocks outside what is in flight are ignored. A duplicate is
/// told by the segment's own `ack`, which may be older than `una` (RFC 2883 §5).
//= RFC 6675 3-MUST-1
//= RFC 8985 4-MUST-1
pub(crate) fn take_sack(
    flights: &mut Flights,
    b: &mut Busy,
    (ack, una, nxt): (Seq, Seq, Seq),
    blocks: &[SackBlock],
    env: &Env<'_>,
    out: &mut Acked,
) {
    let mut valid = [(Seq(0), Seq(0)); 4];
    let mut count = 0;
    for (i, block) in blocks.iter().enumerate() {
        let (left, right) = (block.start, block.end);
        let inside_other =
            i == 0 && blocks.get(1).is_some_and(|o| left.at_or_after(o.start) && right.at_or_before(o.end));
        //= RFC 2883 5-MUST-1
        if i == 0 && left.before(right) && (right.at_or_before(ack) || inside_other) {
            out.dsack = true;
        }
        // a block that begins below the ACK is older than it, and still true above
        let left = left.latest(una);
        if left.before(right) && right.at_or_before(nxt) && count < valid.len() {
            valid[count] = (left, right);
            count += 1;
        }
    }
    let valid = &valid[..count];
    let Some(highest) = valid.iter().map(|v| v.1).reduce(Seq::latest) else { return };
    if flights.walked >= env.config.scoreboard_per_pass {
        return env.stats.sack_limited.increment();
    }
    let mut walked = 0;
    let mut cursor = flights.front(b);
    // Octets that earlier ACKs reported and that lie above the segment looked at
    let mut reported_above = b.sacked;
    while let Some(at) = cursor {
        let record = *flights.get(b, at);
        if !record.start.before(highest) {
            break;
        }
        walked += 1;
        if record.has(sent::SACKED) {
            reported_above -= u32::from(record.len);
        } else if valid.iter().any(|v| record.start.at_or_after(v.0) && record.end().at_or_before(v.1)) {
            let len = u32::from(record.len);
            leave_pipe(b, record.flags, len);
            b.sacked += len;
            out.delivered += len;
            delivered(b, &record, env, out);
            let record = flights.get_mut(b, at);
            //= RFC 2018 5-SHOULD-1
            record.flags = record.flags & !sent::LOST | sent::SACKED;
            //= RFC 8985 6.2-SHOULD-1
            if reported_above > 0 && !record.has(sent::RESENT) {
                b.flags |= busy::REORDERING;
            }
        }
        cursor = flights.next(at);
    }
    note_walked(flights, walked, env);
}

/// Counts segments looked at, for the limit on them (`scoreboard_per_pass`).
pub(super) fn note_walked(flights: &mut Flights, walked: u32, env: &Env<'_>) {
    flights.walked += walked;
    env.stats.scoreboard_steps.add(u64::from(walked));
}

pub(super) fn mark_lost(flights: &mut Flights, b: &mut Busy, at: Cursor) {
    let record = flights.get_mut(b, at);
    record.flags |= sent::LOST;
    let len = u32::from(record.len);
    b.pipe -= len;
    b.lost += len;
}

pub(super) fn mark_first_lost(flights: &mut Flights, b: &mut Busy) {
    if let Some(at) = flights.front(b)
        && !flights.get(b, at).has(sent::LOST | sent::SACKED)
    {
        mark_lost(flights, b, at);
    }
}

/// Marks lost what exceeds the path's new MTU: it was dropped for its size, not for congestion (RFC 1191 §6.4).
//= RFC 1191 6.4-SHOULD-1, 6.4-SHOULD-2
//= RFC 8201 5.4-SHOULD-1
pub(crate) fn mark_oversized(flights: &mut Flights, b: &mut Busy, limit: u32) {
    let mut cursor = flights.front(b);
    while let Some(at) = cursor {
        let record = flights.get(b, at);
        if u32::from(record.len) > limit && !record.has(sent::LOST | sent::SACKED) {
            mark_lost(flights, b, at);
        }
        cursor = flights.next(at);
    }
}

/// The peer dropped what it had reported (RFC 2018 §8): it is out again.
pub(super) fn forget_sacked(flights: &mut Flights, b: &mut Busy) {
    let mut cursor = flights.front(b);
    while let Some(at) = cursor {
        let record = flights.get_mut(b, at);
        if record.has(sent::SACKED) {
            record.flags &= !sent::SACKED;
            let len = u32::from(record.len);
            b.sacked -= len;
            b.pipe += len;
        }
        cursor = flights.next(at);
    }
}
