//! One connection's turn to speak: retransmissions, probes, new data, FIN, acknowledgements (RFC 9293 §3.8, §3.10.2).

use crate::app::App;
use crate::device::Device;
use crate::wire::{Flags, MacAddr};

use super::block::{Busy, Connection, NONE, Phase, Sent, busy, flag, sent};
use super::buffer::Buffers;
use super::build::Next;
use super::flight::{Cursor, Flights};
use super::isn::IsnKey;
use super::locals::Locals;
use super::output::{Tx, deadline, set_timers};
use super::state::State;
use super::tunables::Tunables;
use super::{Remotes, congestion, pacing, recovery, rtt};

/// Segments one connection sends in one pass: bounds the pass, and shares the device among connections.
const SEGMENTS_MAX: usize = 64;

/// What is said before new data, and what after it.
pub(super) const BEFORE_DATA: u32 = busy::HANDSHAKE | busy::PROBE_TAIL;
pub(super) const AFTER_DATA: u32 = busy::PROBE_WINDOW | busy::KEEP_ALIVE | busy::ACK_NOW;
const _: () = assert!(busy::FIN_QUEUED == 1, "it is added to sequence numbers");

/// What became of a connection's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has said all it could.
    Done,
    /// It has more to say than one pass allows.
    More,
    /// The device had no room, or there was no memory: the rest has to wait.
    Blocked,
}

/// What becomes of a connection after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on; the wheel has to wake it at this time, milliseconds, and does not know yet.
    Stay(Option<u32>),
    /// It has nothing to do: it rests without a busy block.
    Rest,
    /// TIME-WAIT.
    TimeWait,
    /// The end.
    Closed,
}

/// A connection that has something to say, and what its segments are made of.
pub(super) struct Sender<'a, 'd, A: App, D: Device> {
    pub(super) c: &'a mut Connection,
    pub(super) b: &'a mut Busy,
    pub(super) flights: &'a mut Flights,
    pub(super) buffers: &'a Buffers,
    pub(super) remotes: &'a Remotes,
    pub(super) config: &'a Tunables,
    pub(super) locals: &'a Locals,
    pub(super) isn_key: &'a IsnKey,
    pub(super) mtu: u16,
    pub(super) now_us: u32,
    pub(super) now_ms: u32,
    pub(super) app: &'a A,
    pub(super) tx: &'a mut Tx<'d, D>,
    /// The station that the segments go to.
    pub(super) mac: MacAddr,
}

impl<A: App, D: Device> Sender<'_, '_, A, D> {
    /// Everything that the connection wants to say and may.
    #[inline(never)]
    fn speak(&mut self) -> Turn {
        if (self.b.flags & BEFORE_DATA != 0 || self.b.lost > 0) && !self.speak_first() {
            return Turn::Blocked;
        }
        let turn = self.send_new();
        if turn == Turn::Blocked || self.b.flags & AFTER_DATA != 0 && !self.speak_last() {
            return Turn::Blocked;
        }
        turn
    }

    /// What goes before new data: the handshake's ACK, unless it rides on data, retransmissions, a tail loss probe. False if
    /// the device has no room.
    #[inline]
    fn speak_first(&mut self) -> bool {
        if self.b.flags & busy::HANDSHAKE != 0 {
            self.b.flags &= !busy::HANDSHAKE;
            let rides_along = self.config.piggyback && self.b.snd_end.after(self.c.snd_nxt);
            if !rides_along && !self.send_ack() {
                return false;
            }
        }
        if self.b.lost > 0 && self.b.flags & busy::FRTO_NEW == 0 && !self.retransmit() {
            return false;
        }
        self.b.flags & busy::PROBE_TAIL == 0 || self.probe_tail()
    }

    /// What goes after it: probes, and an acknowledgement if no segment has carried it. False if the device has no room.
    #[inline]
    fn speak_last(&mut self) -> bool {
        if self.b.flags & (busy::PROBE_WINDOW | busy::KEEP_ALIVE) != 0 && !self.send_probe() {
            return false;
        }
        self.b.flags & busy::ACK_NOW == 0 || self.send_ack()
    }

    /// Whether [`set_timers`] has nothing to do.
    pub(super) fn timers_are_set(&self) -> bool {
        let mut b = *self.b;
        set_timers(self.c, &mut b, self.flights, self.config, self.tx.stats, self.now_ms);
        (b.timers, b.flags, b.rtx_at) == (self.b.timers, self.b.flags, self.b.rtx_at)
    }

    /// The whole turn, and what becomes of the connection after it. One that has more to say goes back on the list.
    #[inline(never)]
    pub(super) fn take_turn(&mut self, dirty: &mut Vec<u32>) -> Outcome {
        let turn = if self.owes_only_an_ack() {
            debug_assert_eq!(self.next_new(), None, "the short way keeps back what the long one would");
            if self.send_ack() { Turn::Done } else { Turn::Blocked }
        } else {
            self.speak()
        };
        self.end_turn(turn, dirty)
    }

    /// Whether an acknowledgement is all there is to say, and nothing is queued.
    #[inline]
    fn owes_only_an_ack(&self) -> bool {
        let (c, b) = (&*self.c, &*self.b);
        let opening = c.state.is_opening();
        // FIN counts as one more than what is queued
        let end = b.snd_end + (b.flags & busy::FIN_QUEUED);
        let only = b.flags & (BEFORE_DATA | AFTER_DATA) == busy::ACK_NOW;
        only && end == c.snd_nxt && b.lost == 0 && !opening
    }

    /// What becomes of a connection after its turn.
    #[inline(always)]
    pub(super) fn end_turn(&mut self, turn: Turn, dirty: &mut Vec<u32>) -> Outcome {
        if turn != Turn::Done {
            self.b.list(dirty);
        } else if self.b.read_head == NONE {
            match self.c.state {
                State::TimeWait => return Outcome::TimeWait,
                State::Closed => return Outcome::Closed,
                _ => {}
            }
        }
        set_timers(self.c, self.b, self.flights, self.config, self.tx.stats, self.now_ms);
        if turn == Turn::Done && matches!(self.c.state, State::Established | State::CloseWait) && self.rests() {
            return Outcome::Rest;
        }
        if self.c.state == State::SynSent {
            return Outcome::Stay(self.first_look());
        }
        Outcome::Stay(deadline(self.b, self.now_us, self.now_ms))
    }

    /// When the wheel looks at a connection whose SYN is out, unless it does so already, or earlier. The first data will want
    /// a timer well before that of the SYN: the one is then put off in its place, in place of being moved.
    #[inline]
    pub(super) fn first_look(&mut self) -> Option<u32> {
        // that one waits for longer than the least there is
        let soon = self.now_ms.wrapping_add(self.config.rto_min_us / 1_000 + 1);
        let at = self.b.rtx_at;
        let at = if (at.wrapping_sub(soon) as i32) < 0 { at } else { soon };
        Some(at).filter(|&at| !self.b.link.put_off(at))
    }

    /// Whether a synchronized connection that has said all it had to has no use for its busy block.
    #[inline]
    fn rests(&mut self) -> bool {
        let (c, b) = (&*self.c, &mut *self.b);
        // a back-off has to outlive the rest (RFC 6298 §5)
        let quiet = b.flight.is_empty()
            && !b.snd_end.after(c.snd_nxt)
            && b.read_head == NONE
            && b.ahead_head == NONE
            && b.unacked_segments == 0
            && b.phase == Phase::Open
            && b.backoff == 0
            && b.flags & !(busy::FORGETTABLE | busy::SETTINGS) == 0;
        if !quiet {
            return false;
        }
        // A window that has grown is kept for as long as RFC 5681 §4.1 lets it be used: one RTO.
        if b.cwnd > congestion::initial_window(c.payload_max(), self.config) {
            if b.timers & 4 == 0 {
                b.misc_at = self.now_ms.wrapping_add(rtt::rto_ms(b, self.config).max(1));
                b.timers |= 4;
            }
            return false;
        }
        b.flags & busy::SETTINGS == 0
    }

    /// Sends again what is marked lost, as far as the window allows. False if the device has no room.
    //= RFC 9293 SHLD-16, MAY-7
    //= RFC 6675 4-MUST-3
    fn retransmit(&mut self) -> bool {
        let mut cursor = self.flights.front(self.b);
        let mut budget = SEGMENTS_MAX;
        while let Some(at) = cursor {
            if self.b.lost == 0 || budget == 0 {
                break;
            }
            if !self.flights.get(self.b, at).has(sent::LOST) {
                cursor = self.flights.next(at);
                continue;
            }
            let pipe = recovery::pipe(self.c, self.b);
            //= RFC 6675 5-MUST-1
            //= RFC 8985 9.3-MUST-1
            if pipe > 0 && pipe + u32::from(self.flights.get(self.b, at).len) > self.b.cwnd {
                break;
            }
            let at = self.fit(at);
            if !self.resend(at) {
                return false;
            }
            budget -= 1;
            cursor = self.flights.next(at);
        }
        true
    }

    /// Splits a segment of the flight that is too large by now: the path's MTU has shrunk since. Returns where it lies, or the
    /// first part of it.
    pub(super) fn fit(&mut self, at: Cursor) -> Cursor {
        let limit = self.c.payload_max();
        let record = *self.flights.get(self.b, at);
        if record.payload() <= limit {
            return at;
        }
        let first = limit + u32::from(record.has(sent::SYN));
        self.flights.split(self.b, at, first as u16).unwrap_or(at)
    }

    /// Sends one segment of the flight again, which [fits](Self::fit).
    pub(super) fn resend(&mut self, at: Cursor) -> bool {
        let record = *self.flights.get(self.b, at);
        let payload = record.payload();
        let last = record.end() == self.b.snd_end || record.has(sent::FIN);
        let flags = self.flags_of(&record, last && payload > 0);
        if !self.build(Next { seq: record.start, payload, flags, data: false }) {
            return false;
        }
        let len = u32::from(record.len);
        if record.has(sent::LOST) {
            self.b.lost -= len;
            self.b.pipe += len;
        }
        *self.flights.get_mut(self.b, at) = Sent {
            flags: record.flags & !sent::LOST | sent::RESENT,
            //= RFC 8985 4-MUST-2
            sent_us: self.now_us,
            resent: record.resent.saturating_add(1),
            ..record
        };
        self.b.prr_out = self.b.prr_out.saturating_add(len);
        pacing::sent(self.b, len, self.now_us);
        if self.b.phase != Phase::Open {
            self.b.undo_resent = self.b.undo_resent.saturating_add(1);
        }
        self.tx.stats.segments_retransmitted.increment();
        if record.has(sent::SYN) && self.c.state == State::SynSent {
            self.tx.stats.syn_retransmitted.increment();
            self.c.flags |= flag::SYN_RESENT;
        }
        true
    }

    fn flags_of(&self, record: &Sent, push: bool) -> Flags {
        let mut flags = if record.has(sent::SYN) { Flags::SYN } else { Flags::ACK };
        if record.has(sent::SYN) && self.c.state != State::SynSent {
            flags |= Flags::ACK;
        }
        if record.has(sent::FIN) {
            flags |= Flags::FIN;
        }
        if push {
            flags |= Flags::PSH;
        }
        flags
    }

    /// Sends new data and FIN, as far as both windows allow.
    #[inline]
    fn send_new(&mut self) -> Turn {
        let done = |sent: bool| if sent { Turn::Done } else { Turn::Blocked };
        match self.c.state {
            State::SynSent => return done(self.c.snd_nxt != self.c.snd_una || self.send_syn()),
            // our SYN is out and comes again, with an ACK now
            State::SynReceived => return done(self.b.flags & busy::ACK_NOW == 0 || self.send_ack()),
            _ => {}
        }
        for nth in 0..SEGMENTS_MAX {
            let Some((payload, fin)) = self.next_new() else { return Turn::Done };
            if payload > 0 && pacing::holds_back(self.b, self.now_us) {
                self.b.timers |= pacing::TIMER;
                self.b.full_until = self.c.snd_nxt;
                return Turn::Done;
            }
            let push = self.config.push_bursts && nth > 0 && !self.more_may_follow(payload);
            if !self.send_one(payload, fin, push) {
                return Turn::Blocked;
            }
        }
        Turn::More
    }

    /// Whether the windows have room for another full segment after one of `payload` octets.
    fn more_may_follow(&self, payload: u32) -> bool {
        let (c, mss) = (&*self.c, self.c.payload_max());
        let both = payload + mss;
        let edge = c.snd_una + c.send_window();
        edge.at_or_after(c.snd_nxt + both) && recovery::pipe(c, self.b) + both <= self.b.cwnd
    }

    /// Sends one segment of new data, FIN or both; with PSH if asked, or if nothing is queued after it. False if the
    /// device has no room.
    #[inline(always)]
    pub(super) fn send_one(&mut self, payload: u32, fin: bool, push: bool) -> bool {
        let seq = self.c.snd_nxt;
        let mut flags = Flags::ACK;
        if fin {
            flags |= Flags::FIN;
        }
        //= RFC 9293 MUST-61
        if payload > 0 && (push || fin || seq + payload == self.b.snd_end) {
            flags |= Flags::PSH;
        }
        //= RFC 3168 6.1.2-SHOULD-2
        if self.b.flags & busy::CWR != 0 && payload > 0 {
            flags |= Flags::CWR;
        }
        let len = payload + u32::from(fin);
        let carries = if fin { sent::FIN } else { 0 };
        let record = Sent { start: seq, len: len as u16, flags: carries, resent: 0, sent_us: self.now_us };
        if !self.flights.push(self.b, record) {
            return false;
        }
        if !self.build(Next { seq, payload, flags, data: true }) {
            self.flights.pop_back(self.b);
            return false;
        }
        self.count_new(payload, len);
        true
    }

    /// A segment of new data, FIN or both has left: so many octets of payload, and as long as this in sequence space.
    #[inline(always)]
    pub(super) fn count_new(&mut self, payload: u32, len: u32) {
        let (c, b) = (&mut *self.c, &mut *self.b);
        b.pipe += len;
        if b.phase != Phase::Open {
            b.prr_out = b.prr_out.saturating_add(len);
        }
        pacing::sent(b, len, self.now_us);
        b.flags &= !(busy::CWR | busy::OVERRIDE);
        if b.timers & 1 == 0 {
            b.oldest_ms = self.now_ms;
        }
        c.snd_nxt += len;
        if payload > 0 {
            self.tx.stats.payload_sent.add(u64::from(payload));
        }
    }

    /// How much new data may go now, and whether the FIN goes with it. `None`: nothing.
    #[inline(always)]
    pub(super) fn next_new(&mut self) -> Option<(u32, bool)> {
        let (c, b) = (&*self.c, &mut *self.b);
        let fin_sent = c.snd_nxt.after(b.snd_end);
        let fin_due = b.flags & busy::FIN_QUEUED != 0 && !fin_sent;
        let unsent = if fin_sent { 0 } else { b.snd_end - c.snd_nxt };
        if unsent == 0 && !fin_due || self.flights.is_long(b) {
            return None;
        }
        let edge = c.snd_una + c.send_window();
        //= RFC 9293 MUST-34, SHLD-15
        let window = if edge.after(c.snd_nxt) { edge - c.snd_nxt } else { 0 };
        let mss = c.payload_max();
        //= RFC 9293 SHLD-27, SHLD-28
        //= RFC 7323 2.4-MUST-3
        let payload = unsent.min(mss).min(window);
        let fin = fin_due && payload == unsent && window > payload;
        if payload == 0 && !fin {
            return None;
        }
        let pipe = recovery::pipe(c, b);
        // a FIN is no octet that could congest the path
        //= RFC 5681 3-MUST-1, 3.2-SHOULD-5
        if pipe > 0 && payload > 0 && pipe + payload > b.cwnd {
            b.full_until = c.snd_nxt;
            return None;
        }
        // Sender's silly window avoidance (§3.8.6.2.1), and Nagle's algorithm (§3.7.4)
        //= RFC 9293 MUST-38, MUST-60, MAY-16
        if payload < mss && payload > 0 && !fin {
            let all = payload == unsent;
            let idle = c.snd_nxt == c.snd_una;
            //= RFC 9293 SHLD-7, MUST-17
            let nagle_holds = !idle && self.config.nagle != (b.flags & busy::NAGLE_OTHER != 0);
            let forced = b.flags & busy::OVERRIDE != 0;
            let corked = b.flags & busy::CORK != 0;
            if !(forced || all && !nagle_holds && !corked || payload >= b.snd_wnd_max / 2) {
                return None;
            }
        }
        Some((payload, fin))
    }

    /// Sends an acknowledgement without data.
    pub(super) fn send_ack(&mut self) -> bool {
        // In SYN-RECEIVED after SYNs crossed, what acknowledges is our SYN again (RFC 9293 figure 7)
        let (seq, flags) = match self.c.state {
            State::SynReceived => (self.c.snd_una, Flags::SYN_ACK),
            _ => (self.c.snd_nxt, Flags::ACK),
        };
        let sent = self.build(Next { seq, payload: 0, flags, data: false });
        if sent {
            self.tx.stats.acks_sent.increment();
        }
        sent
    }

    /// Sends a zero-window probe (RFC 9293 §3.8.6.1) or a keep-alive probe (§3.8.4): a sequence number the peer has
    /// acknowledged draws an ACK, which tells the window.
    fn send_probe(&mut self) -> bool {
        //= RFC 9293 SHLD-12
        let sent = self.build(Next { seq: self.c.snd_una - 1, payload: 0, flags: Flags::ACK, data: false });
        if sent {
            self.b.flags &= !(busy::PROBE_WINDOW | busy::KEEP_ALIVE);
        }
        sent
    }
}

impl Sent {
    /// Octets of payload.
    #[inline]
    fn payload(&self) -> u32 {
        u32::from(self.len) - u32::from(self.has(sent::SYN)) - u32::from(self.has(sent::FIN))
    }
}
