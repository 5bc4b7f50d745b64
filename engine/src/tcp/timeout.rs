//! What happens when nothing comes: retransmission, zero-window probes, delayed acknowledgements, giving up
//! (RFC 9293 §3.10.8, §3.8.3, RFC 6298 §5).

use super::block::busy;
use super::segment::set_reordering_timer;
use super::state::{Event, State};
use super::{Tcp, pacing, probe, recovery, rtt};
use crate::app::{App, End, Report};

/// Timeouts in a row after which full-sized segments are taken to vanish for their size (RFC 4821 §7.7).
const BLACK_HOLE_TIMEOUTS: u8 = 3;

/// Timeouts in a row after which the application and the next hop's resolution are told (RFC 9293 §3.8.3, R1).
//= RFC 9293 MUST-20, SHLD-10
const R1: u8 = 3;

/// Steps of the wheel in one pass of the loop: timers fired, moved down or put off.
const WHEEL_BUDGET: u32 = 256;

impl Tcp {
    /// Step 7 of the loop: what is due. Returns how many timers fired.
    pub(crate) fn expire<A: App>(&mut self, app: &mut A) -> usize {
        let mut fired = 0;
        let mut budget = WHEEL_BUDGET;
        while let Some(slot) = self.wheel.pop_expired(&mut self.busies, self.now_ms, &mut budget) {
            fired += 1;
            self.fire(app, slot);
        }
        fired
    }

    /// When the next timer is due at the earliest, milliseconds from now.
    pub(crate) fn next_timer_ms(&self) -> Option<u32> {
        self.wheel.next_deadline_ms().map(|at| (at.wrapping_sub(self.now_ms) as i32).max(0) as u32)
    }

    fn is_due(&self, slot: u32, bit: u8, at: u32) -> bool {
        self.busies[slot].timers & bit != 0 && (self.now_ms.wrapping_sub(at) as i32) >= 0
    }

    fn fire<A: App>(&mut self, app: &mut A, slot: u32) {
        let b = &self.busies[slot];
        let (id, rtx_at, ack_at, misc_at) = (b.conn, b.rtx_at, b.ack_at, b.misc_at);
        if b.timers & pacing::TIMER != 0 {
            // if it is another timer that came, this one starts again
            self.busies[slot].timers &= !pacing::TIMER;
            self.mark_dirty(id);
        }
        if self.is_due(slot, 2, ack_at) {
            let b = &mut self.busies[slot];
            b.timers &= !2;
            b.flags |= busy::ACK_NOW;
            self.mark_dirty(id);
        }
        if self.is_due(slot, 4, misc_at) {
            self.busies[slot].timers &= !4;
            if self.misc_timer(app, id, slot) {
                return;
            }
        }
        if self.is_due(slot, 1, rtx_at) {
            self.busies[slot].timers &= !1;
            if self.retransmission_timer(app, id, slot) {
                return;
            }
        }
        self.schedule(slot);
    }

    /// FIN-WAIT-2's, RACK's or the idle timer. True if the connection is gone.
    fn misc_timer<A: App>(&mut self, app: &mut A, id: u32, slot: u32) -> bool {
        if self.conns[id].state == State::FinWait2 {
            let silent_ms = self.now_ms.wrapping_sub(self.conns[id].heard_ms);
            let patience_ms = self.config.fin_wait_2_ms;
            if silent_ms < patience_ms {
                // the peer still has something to say
                let b = &mut self.busies[slot];
                b.misc_at = self.now_ms.wrapping_add(patience_ms - silent_ms);
                b.timers |= 4;
                return false;
            }
            debug_assert_eq!(self.conns[id].state.after(Event::Expire), State::Closed);
            self.remove(app, id, End::Timeout);
            return true;
        }
        let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
        let env = recovery::Env { now_us, now_ms, age_us, config: &self.config, stats: &self.stats };
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        if !b.flight.is_empty() {
            let acked = recovery::Acked::default();
            let pipe = recovery::pipe(c, b);
            let wait = recovery::after_ack(&mut self.flights, c, b, &acked, pipe, &env);
            set_reordering_timer(c, b, wait, self.now_ms);
        } else if b.cwnd > 0 {
            // RFC 5681 §4.1: after one RTO of silence the window is the initial one again
            //= RFC 5681 4.1-SHOULD-1
            //= RFC 6928 2-MAY-2
            super::congestion::rest(b, c.payload_max(), &self.config);
        }
        self.mark_dirty(id);
        false
    }

    /// The retransmission, persist or SYN timer. True if the connection is gone.
    fn retransmission_timer<A: App>(&mut self, app: &mut A, id: u32, slot: u32) -> bool {
        let state = self.conns[id].state;
        let b = &self.busies[slot];
        let opening = state.is_opening();
        if state == State::SynSent && b.lost > 0 && b.timeouts == 0 {
            // no timeout: an old connection had answered our SYN, and is gone by now
            self.mark_dirty(id);
            return false;
        }
        let waited_ms = self.now_ms.wrapping_sub(b.oldest_ms);
        //= RFC 9293 MUST-21
        let (limit, patience) = if b.flags & busy::USER_TIMEOUT != 0 {
            // however often that is
            (u16::MAX, waited_ms >= b.user_timeout_ms)
        } else {
            let limit = if opening { self.config.syn_retries } else { self.config.data_retries };
            (u16::from(limit), self.config.user_timeout.is_some_and(|limit| u128::from(waited_ms) >= limit.as_millis()))
        };
        //= RFC 9293 MUST-37
        if b.flags & busy::PERSIST != 0 {
            // A shut window is not a dead peer: probing goes on for as long as it answers (RFC 9293 §3.8.6.1)
            if u16::from(b.probes) >= limit || (patience && b.probes > 0) {
                self.remove(app, id, End::Timeout);
                return true;
            }
            if self.ends_if_stalled(app, id, slot) {
                return true;
            }
            self.probe_window(id, slot);
            return false;
        }
        if b.flags & busy::PROBE_TIMER != 0 {
            self.tail_probe_timer(id, slot);
            return false;
        }
        // A peer that has shut its window under what is in flight, and answers, is not dead either (MUST-37)
        //= RFC 9293 SHLD-17, MUST-35, MUST-37
        let shut = !opening && self.conns[id].send_window() == 0;
        let unanswered = if shut { b.probes } else { b.timeouts };
        if shut && self.ends_if_stalled(app, id, slot) {
            return true;
        }
        let b = &self.busies[slot];
        //= RFC 9293 MUST-20, MUST-22, SHLD-11
        if u16::from(unanswered) >= limit || (patience && unanswered > 0) {
            self.remove(app, id, if opening { End::SynTimeout } else { End::Timeout });
            return true;
        }
        if b.flight.is_empty() {
            // our SYN has not even left: no next hop, or no room in the device
            let b = &mut self.busies[slot];
            (b.backoff, b.timeouts) = (b.backoff + 1, b.timeouts + 1);
            self.mark_dirty(id);
            return false;
        }
        //= RFC 4821 7.7-SHOULD-1
        if b.timeouts >= BLACK_HOLE_TIMEOUTS && !opening {
            // RFC 4821 §7.7: nothing of this size gets through, and nobody says why; small segments are not touched
            let front = self.flights.front(b).map_or(0, |at| u32::from(self.flights.get(b, at).len));
            if front >= self.conns[id].payload_max() {
                self.packet_too_big(id, 0);
            }
        }
        let b = &mut self.busies[slot];
        b.probes = b.probes.saturating_add(u8::from(shut));
        let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
        let env = recovery::Env { now_us, now_ms, age_us, config: &self.config, stats: &self.stats };
        recovery::on_timeout(&mut self.flights, &self.conns[id], &mut self.busies[slot], &env);
        self.mark_dirty(id);
        //= RFC 9293 SHLD-9, MUST-20, MUST-47
        if self.busies[slot].timeouts == R1 {
            if let Some(hop) = self.busies[slot].neighbor {
                self.neighbors.suspect(hop, self.now);
            }
            self.report(app, id, Report::Retransmitting);
        }
        false
    }

    /// Ends a connection whose peer stalls. True if the connection is gone.
    pub(super) fn ends_if_stalled<A: App>(&mut self, app: &mut A, id: u32, slot: u32) -> bool {
        let stalls = self.stalls(id, slot);
        if stalls {
            self.stats.stalled.increment();
            self.remove(app, id, End::Timeout);
        }
        stalls
    }

    /// Whether the peer has kept its window shut, or so small that not even a segment went, for longer than it may (RFC
    /// 6429). Asked when the persist timer fires and when an ACK leaves a window smaller than a segment, so that the clock
    /// runs from the first time.
    fn stalls(&mut self, id: u32, slot: u32) -> bool {
        let pressed = self.buffers.is_short() || self.conns.len() >= self.max_connections / 8 * 7;
        let Some(limit) = self.stall_limit_ms(pressed) else {
            self.busies[slot].stalled_ms = 0;
            return false;
        };
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        let moved = c.snd_una - b.stalled_una;
        if b.stalled_ms == 0 || moved >= c.payload_max() {
            (b.stalled_ms, b.stalled_una) = (self.now_ms.max(1), c.snd_una);
        }
        self.now_ms.wrapping_sub(b.stalled_ms) >= limit
    }

    fn stall_limit_ms(&self, pressed: bool) -> Option<u32> {
        let under_pressure = pressed.then_some(self.config.stall_timeout_under_pressure);
        let limit = self.config.stall_timeout.into_iter().chain(under_pressure).min()?;
        Some(limit.as_millis().clamp(1, 1 << 31) as u32)
    }

    /// The tail loss probe's timer (RFC 8985 §7.3), which may have been set before the newest segment was sent.
    //= RFC 8985 7.3-MUST-3
    fn tail_probe_timer(&mut self, id: u32, slot: u32) {
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        b.flags &= !busy::PROBE_TIMER;
        let newest = self.flights.back(b).map(|at| self.now_us.wrapping_sub(self.flights.get(b, at).sent_us) / 1000);
        match (probe::timeout_ms(c, b, &self.config, |b| self.flights.is_single(b)), newest) {
            (Some(timeout), Some(age)) if age + 1 < timeout => {
                b.flags |= busy::PROBE_TIMER;
                b.rtx_at = self.now_ms.wrapping_add(timeout - age);
                b.timers |= 1;
                return;
            }
            (Some(_), Some(_)) => b.flags |= busy::PROBE_TAIL,
            _ => {}
        }
        self.mark_dirty(id);
    }

    /// A zero-window probe (RFC 9293 §3.8.6.1): an old sequence number draws an ACK, with the window as it is now. A
    /// window too small for a segment is used instead, after waiting this long (§3.8.6.2.1).
    //= RFC 9293 MUST-35, MUST-36, SHLD-30
    fn probe_window(&mut self, id: u32, slot: u32) {
        let c = &self.conns[id];
        let edge = c.snd_una + c.send_window();
        let open = edge.after(c.snd_nxt);
        let b = &mut self.busies[slot];
        b.flags |= if open { busy::OVERRIDE } else { busy::PROBE_WINDOW };
        b.backoff = b.backoff.saturating_add(1);
        b.probes = b.probes.saturating_add(1);
        if !open {
            self.stats.window_probes.increment();
        }
        let mut wait = rtt::rto_ms(b, &self.config).max(1);
        if let Some(limit) = self.config.stall_timeout {
            let stalled = self.now_ms.wrapping_sub(b.stalled_ms);
            wait = wait.min((limit.as_millis() as u32).saturating_sub(stalled).max(1));
        }
        b.rtx_at = self.now_ms.wrapping_add(wait);
        b.timers |= 1;
        self.mark_dirty(id);
    }
}
