//! Header prediction: the segment that nearly every one is, known by one test and worked on in a straight line.
//!
//! It is the next one in order, acknowledges whole segments of what is in flight or nothing new, and comes to a connection
//! on which nothing is missing. What [`segment`](super::segment) does for it step by step comes to what is done here;
//! tests let both work on the same segments and compare.

use crate::wire::{Flags, TcpSegment, Timestamps};

use super::Tcp;
use super::block::{Busy, Connection, NONE, Phase, busy, flag, sent};
use super::receive::move_past_fin;
use super::recovery::{Arrived, Env, grow_if_used};
use super::segment::release_acked;
use super::state::{Event, State};
use super::{rtt, scoreboard};

/// What a segment turned out to be, and what it leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predicted {
    /// It is not as nearly every one is, and nothing has been done.
    No,
    /// Its text is left, which the connection with this busy block has moved past; and the FIN behind it.
    Yes(u32),
    /// The application is to hear that something was acknowledged. The same is left, and a FIN without text.
    Acknowledged(u32),
    /// The application is to hear that the peer has finished.
    Finished,
    /// It acknowledged our FIN in LAST-ACK: the connection is to be removed.
    Closed,
}

/// Whether a segment may be as nearly every one is, by its control bits.
#[inline(always)]
pub(super) fn has_usual_flags(seg: &TcpSegment) -> bool {
    seg.flags.without(Flags::PSH.union(Flags::FIN)) == Flags::ACK
}

impl Tcp {
    /// Works on a segment of the [usual control bits](has_usual_flags) that is as nearly every one is, but for what the
    /// application is to hear of it.
    // Not inlined: it would have to share the registers with all that comes before it
    #[inline(never)]
    pub(super) fn predict(&mut self, id: u32, seg: &TcpSegment) -> Predicted {
        let Tcp { conns, busies, flights, buffers, dirty, .. } = self;
        let c = &mut conns[id];
        if !c.state.synchronized() {
            return Predicted::No;
        }
        let Some(timestamps) = seg.options.timestamps else { return Predicted::No };
        let Some(b) = busies.get_mut(c.busy) else { return Predicted::No };
        if !is_next(c, seg, timestamps) || !is_calm(b) || may_stall(c, b, seg) {
            return Predicted::No;
        }
        #[cfg(test)]
        if !tests::may_be_predicted() {
            return Predicted::No;
        }
        let octets = seg.ack - c.snd_una;
        if octets > 0 {
            let (pipe_before, edges) = (b.pipe, (c.snd_una, seg.ack));
            let Some(newest) = scoreboard::take_whole(flights, b, edges, sent::FIN) else { return Predicted::No };
            let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
            let env = Env { now_us, now_ms, age_us, config: &self.config, stats: &self.stats };
            let rtt_us = env.since_us(newest.sent_us);
            scoreboard::note_delivered(b, &newest, rtt_us);
            c.snd_una = seg.ack;
            //= RFC 6298 3-MUST-2
            rtt::sample(b, rtt_us);
            b.timeouts = 0;
            grow_if_used(c, b, Arrived { octets, delivered: octets, rtt_us: Some(rtt_us) }, pipe_before, &env);
            release_acked(buffers, seg.ack, b, now_ms);
            if newest.has(sent::FIN) {
                c.state = c.state.after(Event::ReceiveAckOfFin);
                b.timers &= !4;
            }
        }
        //= RFC 7323 4.3-MUST-1, 4.3-SHOULD-1, 4.3-SHOULD-2, 4.3-MUST-2
        if seg.seq.at_or_before(b.ack_sent) {
            c.ts_recent = timestamps.value;
        }
        c.heard_ms = self.now_ms;
        c.flags &= !(flag::FRESH | flag::PROBED);
        if octets > 0 || c.snd_wl1.at_or_before(seg.seq) {
            (c.snd_wnd, c.snd_wl1) = (seg.window, seg.seq);
        }
        b.snd_wnd_max = b.snd_wnd_max.max(c.send_window());
        b.probes = 0;
        if c.state != State::FinWait2 {
            b.timers &= !4;
        }
        if c.state == State::Closed {
            return Predicted::Closed;
        }
        b.list(dirty);
        c.rcv_nxt += u32::from(seg.payload_len);
        // those of the states that follow SYN-RECEIVED in which the user may send
        if octets > 0 && matches!(c.state, State::Established | State::CloseWait) {
            return Predicted::Acknowledged(c.busy);
        }
        if seg.payload_len == 0 && seg.flags.fin() {
            b.fin_at = c.rcv_nxt;
            if move_past_fin(c, b) {
                return Predicted::Finished;
            }
        }
        Predicted::Yes(c.busy)
    }
}

/// Whether a segment is the next one in order, not from before, and its ACK is of what is out or of what was acknowledged
/// last; and there are timestamps alone.
#[inline(always)]
fn is_next(c: &Connection, seg: &TcpSegment, timestamps: Timestamps) -> bool {
    const AGREED: u8 = flag::TIMESTAMPS | flag::SACK | flag::ECN;
    // no SYN is among the bits
    let len = u32::from(seg.payload_len) + u32::from(seg.flags.fin());
    c.flags & AGREED == flag::TIMESTAMPS | flag::SACK
        && seg.options.sack.is_empty()
        && seg.seq == c.rcv_nxt
        && len <= c.receive_window()
        && (len == 0 || c.state.takes_text())
        //= RFC 5961 5.2-MUST-1
        && seg.ack - c.snd_una <= c.snd_nxt - c.snd_una
        //= RFC 7323 5.3-MUST-1
        && timestamps.value.wrapping_sub(c.ts_recent) as i32 >= 0
}

/// Whether a window smaller than a segment may be left in the way of what is queued.
#[inline(always)]
fn may_stall(c: &Connection, b: &Busy, seg: &TcpSegment) -> bool {
    b.snd_end.after(seg.ack) && u32::from(seg.window.min(c.snd_wnd)) << c.snd_scale() < c.payload_max()
}

/// Whether nothing is missing in either direction, and nothing waits to hear of a time-out, a probe or a window; and the
/// application reads what comes.
#[inline(always)]
fn is_calm(b: &Busy) -> bool {
    const OTHERWISE: u32 =
        busy::PERSIST | busy::PAUSED | busy::FIN_AHEAD | busy::FRTO | busy::FRTO_NEW | busy::PROBE_OUT | busy::ACK_EACH;
    const { assert!(Phase::Open as u32 == 0 && NONE == !0) };
    let missing = b.lost | b.sacked | u32::from(b.dup_acks) | !b.ahead_head;
    missing | b.phase as u32 | u32::from(b.backoff) | (b.flags & OTHERWISE) == 0
}

#[cfg(test)]
pub(super) use tests::may_be_short;

#[cfg(test)]
#[path = "prediction_tests.rs"]
mod tests;
