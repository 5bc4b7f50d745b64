//! The turns that nearly all are: a single segment of the usual kind says all there is to say, or our SYN does.
//!
//! What [`Sender::take_turn`] does for it step by step comes to what is done here; assertions and a test compare. The
//! former is part of the loop over the connections that speak, and needs no call.

use crate::app::App;
use crate::device::Device;
use crate::wire::Flags;

use super::block::{Sent, busy, flag, sent};
use super::flight::Flight;
use super::output::{deadline, start_retransmission_timer};
use super::send::{AFTER_DATA, BEFORE_DATA, Outcome, Sender, Turn};
use super::state::State;

/// Octets of options that the usual segment has: timestamps.
const OPTIONS: u32 = 12;

impl<A: App, D: Device> Sender<'_, '_, A, D> {
    /// The one segment that is all there is to say, if it is: its octets of text, and whether it bears our FIN. One with
    /// neither is an acknowledgement. Text or FIN go alone: nothing is in flight.
    #[inline(always)]
    pub(super) fn short_turn(&self) -> Option<(u32, bool)> {
        const UNUSUAL: u32 = busy::PROBE_TAIL | busy::PROBE_WINDOW | busy::KEEP_ALIVE | busy::PERSIST | busy::CORK;
        let (c, b) = (&*self.c, &*self.b);
        if !self.is_usual() || b.flags & UNUSUAL != 0 || c.state.is_opening() {
            return None;
        }
        #[cfg(test)]
        if !super::prediction::may_be_short() {
            return None;
        }
        // FIN counts as one more than what is queued
        let fin = b.flags & busy::FIN_QUEUED;
        if b.snd_end + fin == c.snd_nxt {
            let owed = b.flags & (busy::HANDSHAKE | busy::ACK_NOW) == busy::ACK_NOW && b.lost == 0;
            return owed.then_some((0, false));
        }
        let unsent = b.snd_end - c.snd_nxt;
        if !b.flight.is_empty() || unsent >= c.send_window() || unsent + OPTIONS > u32::from(c.mss) {
            return None;
        }
        let rides_along = b.flags & busy::HANDSHAKE == 0 || self.config.piggyback && unsent > 0;
        rides_along.then_some((unsent, fin != 0))
    }

    /// Takes that turn.
    #[inline(always)]
    pub(super) fn take_short_turn(&mut self, (payload, fin): (u32, bool), dirty: &mut Vec<u32>) -> Outcome {
        debug_assert_eq!(self.next_new().unwrap_or_default(), (payload, fin), "the long way would send something else");
        let seq = self.c.snd_nxt;
        let mut flags = Flags::ACK;
        if fin {
            flags |= Flags::FIN;
        }
        //= RFC 9293 MUST-61
        if payload > 0 {
            flags |= Flags::PSH;
        }
        let sent = self.build_usual(seq, payload, flags);
        // the handshake's ACK rides along
        self.b.flags &= !busy::HANDSHAKE;
        if sent {
            self.tx.stats.segments_sent.increment();
            if payload > 0 || fin {
                self.note_sent(payload, fin);
                return Outcome::Stay(deadline(self.b, self.now_us, self.now_ms));
            }
            self.tx.stats.acks_sent.increment();
        }
        self.end_turn(if sent { Turn::Done } else { Turn::Blocked }, dirty)
    }

    /// Whether our SYN is all there is to say, and was not said before.
    #[inline(always)]
    pub(super) fn begins(&self) -> bool {
        #[cfg(test)]
        if !super::prediction::may_be_short() {
            return false;
        }
        let (c, b) = (&*self.c, &*self.b);
        c.state == State::SynSent && c.snd_nxt == c.snd_una && b.flags & (BEFORE_DATA | AFTER_DATA) == 0
    }

    /// Takes the turn in which it is.
    #[inline(always)]
    pub(super) fn take_first_turn(&mut self, dirty: &mut Vec<u32>) -> Outcome {
        if !self.send_syn() {
            return self.end_turn(Turn::Blocked, dirty);
        }
        // it runs already if the SYN had to wait
        if self.b.timers & 1 == 0 {
            start_retransmission_timer(self.c, self.b, self.config, self.now_ms, |_| true);
        }
        debug_assert!(self.timers_are_set(), "there is nothing to do besides");
        Outcome::Stay(self.first_look())
    }

    /// Text or FIN has left, and nothing else is in flight.
    #[inline(always)]
    fn note_sent(&mut self, payload: u32, fin: bool) {
        let len = payload + u32::from(fin);
        let carries = if fin { sent::FIN } else { 0 };
        debug_assert!(self.b.flight.is_empty(), "it is the only one");
        let start = self.c.snd_nxt;
        self.b.flight = Flight::one(Sent { start, len: len as u16, flags: carries, resent: 0, sent_us: self.now_us });
        self.count_new(payload, len);
        if self.b.timers & 1 == 0 {
            start_retransmission_timer(self.c, self.b, self.config, self.now_ms, |_| true);
        }
        debug_assert!(self.timers_are_set(), "there is nothing to do besides");
    }

    /// Whether segments are over IPv4 on a link without VLAN, with timestamps and nothing else.
    #[inline(always)]
    pub(super) fn is_usual(&self) -> bool {
        const OF_INTEREST: u8 = flag::IPV6 | flag::TIMESTAMPS | flag::ECN;
        self.c.flags & OF_INTEREST == flag::TIMESTAMPS && self.tx.vlan.is_none() && !self.has_blocks()
    }
}
