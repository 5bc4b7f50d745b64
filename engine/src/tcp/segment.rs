//! SEGMENT ARRIVES (RFC 9293 §3.10.7.4), its steps in its order.

use crate::app::{App, End, Report};
use crate::device::Device;
use crate::flow::Kind;
use crate::wire::{DropReason, Flags, Seq, TcpSegment, Timestamps};

use super::block::{Busy, Connection, NONE, Phase, busy, flag};
use super::buffer::{Buffers, Chain};
use super::conn::Conn;
use super::lookup::remote_of;
use super::output::Tx;
use super::prediction::{Predicted, has_usual_flags};
use super::recovery::{self, Acked, Env};
use super::state::{Event, State};
use super::{FlowId, Lookup, Tcp, scoreboard, undo};

/// TS.Recent older than this is no longer believed (RFC 7323 §5.5): 24 days, milliseconds.
const TS_RECENT_MS_MAX: u32 = 24 * 24 * 3600 * 1000;

impl Tcp {
    /// The number of the address of ours that a segment is for. `None`, and counted, if it is for none, or claims to come
    /// from the same.
    #[inline]
    pub(crate) fn admit(&self, seg: &TcpSegment) -> Option<u16> {
        let local = self.locals.number(seg.destination);
        //= RFC 1122 3.2.1.3-MUST-1
        if local.is_none() {
            self.stats.dropped.count(DropReason::NotOurAddress);
        }
        //= RFC 9293 MUST-63
        if local.is_some() && seg.source == seg.destination {
            self.stats.dropped.count(DropReason::InvalidSource);
            return None;
        }
        local
    }

    /// Works on one TCP segment to our address `local`. `lookup` is what is known of its flow, `payload` where its text is.
    // Into the loop over a burst: what a call costs is more than finding the flow does
    #[inline(always)]
    pub(crate) fn segment_arrives<'f, A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        (local, lookup): (u16, &Lookup),
        payload: impl Fn() -> &'f [u8],
    ) {
        let id = match self.find_from(lookup, seg, local) {
            Some((Kind::Connection, id)) => {
                self.count_segment(seg);
                Some(id)
            }
            found => self.other_segment(app, tx, seg, local, lookup, found),
        };
        if let Some(id) = id {
            self.connection_segment(app, tx, id, seg, payload);
        }
    }

    /// [`segment_arrives`](Self::segment_arrives), where it is rare.
    #[inline(never)]
    pub(crate) fn segment_arrives_alone<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        payload: &[u8],
    ) {
        let Some(local) = self.admit(seg) else { return };
        let mut lookup = Lookup::of(self.hash_segment(seg));
        self.look_up(&mut lookup);
        self.segment_arrives(app, tx, seg, (local, &lookup), || payload);
    }

    /// What a segment does that is none of a connection's. Returns the connection that it became one of.
    #[inline]
    fn other_segment<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        local: u16,
        lookup: &Lookup,
        found: Option<(Kind, u32)>,
    ) -> Option<u32> {
        // what is found has been asked for its source when it began
        //= RFC 9293 MUST-63
        if found.is_none() && self.locals.is_broadcast(seg.source) {
            self.stats.dropped.count(DropReason::InvalidSource);
            return None;
        }
        self.count_segment(seg);
        match found {
            Some((Kind::Connection, id)) => Some(id),
            Some((Kind::SynReceived, handle)) => self.syn_received_segment(app, tx, seg, lookup, handle),
            Some((Kind::TimeWait, handle)) => {
                self.time_wait_segment(tx, seg, &FlowId::of(seg, local), lookup.hash, handle);
                None
            }
            None => self.no_flow(app, tx, seg, &FlowId::of(seg, local), lookup.hash),
        }
    }

    #[inline(always)]
    fn count_segment(&self, seg: &TcpSegment) {
        self.stats.segments_received.increment();
        if seg.partial_checksum {
            self.stats.partial_checksum.increment();
        }
    }

    #[inline(always)]
    fn connection_segment<'f, A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        seg: &TcpSegment,
        payload: impl Fn() -> &'f [u8],
    ) {
        let fin = seg.flags.fin();
        let predicted = if has_usual_flags(seg) { self.predict(id, seg) } else { Predicted::No };
        let (slot, rest) = match predicted {
            Predicted::No => return self.step_by_step(app, tx, id, seg, payload()),
            // LAST-ACK and its ACK: nothing is left to say
            Predicted::Closed => return self.remove(app, id, End::Closed),
            Predicted::Finished => return app.finished(&mut Conn { tcp: self, id }),
            Predicted::Acknowledged(slot) => {
                app.sent(&mut Conn { tcp: self, id });
                (slot, fin)
            }
            Predicted::Yes(slot) => (slot, false),
        };
        if seg.payload_len > 0 {
            self.next_text(app, id, slot, payload(), fin);
        } else if rest {
            self.next_fin(app, id, slot);
        }
    }

    /// A segment that is not as nearly every one is.
    #[inline(never)]
    fn step_by_step<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        seg: &TcpSegment,
        payload: &[u8],
    ) {
        if self.conns[id].state == State::SynSent {
            if self.syn_sent_segment(app, tx, id, seg) && (!payload.is_empty() || seg.flags.fin()) {
                self.text(app, id, seg.seq + 1, payload, seg.flags.fin());
            }
            return;
        }
        let crossed;
        let mut seg = seg;
        if !passes(&self.conns[id], seg, self.now_ms) {
            match self.each_step(app, tx, id, seg) {
                Checked::Over => return,
                Checked::Good => {}
                Checked::Crossed(without_syn) => {
                    crossed = without_syn;
                    seg = &crossed;
                }
            }
        }
        if self.acknowledged(app, id, seg) && (!payload.is_empty() || seg.flags.fin()) {
            self.text_and_fin(app, tx, id, seg, payload);
        }
    }

    /// The first five steps one at a time, and what there is besides in SYN-RECEIVED.
    #[inline(never)]
    fn each_step<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>, id: u32, seg: &TcpSegment) -> Checked {
        if self.conns[id].state == State::Closed {
            self.stats.dropped.count(DropReason::NoFlow);
            return Checked::Over;
        }
        let (mut seg, mut good) = (seg, Checked::Good);
        let without_syn;
        if self.conns[id].state == State::SynReceived && seg.flags.syn() && seg.flags.ack() {
            // Both ends opened at once: the peer's SYN-ACK repeats the SYN that has been taken already (figure 7)
            if seg.seq + 1 == self.conns[id].rcv_nxt {
                // its window is not scaled (RFC 7323 §2.2), later ones are
                let window = seg.window >> self.conns[id].snd_scale();
                let flags = seg.flags.without(Flags::SYN);
                without_syn = TcpSegment { seq: seg.seq + 1, flags, window, ..*seg };
                (seg, good) = (&without_syn, Checked::Crossed(without_syn));
            }
        }
        //= RFC 9293 MUST-66
        if seg.flags.contains(Flags::URG) {
            self.urgent(app, id, seg);
        }
        let passes = self.check_sequence(id, seg)
            && self.check_reset(app, id, seg)
            && self.check_syn(id, seg)
            && self.check_ack(tx, id, seg);
        if passes { good } else { Checked::Over }
    }

    /// The urgent pointer: the application hears how much there is up to it, also while the window is shut (RFC 9293 §3.4).
    /// It is told with every segment that has one, whether the pointer moved or not. RFC 9293 §3.8.5 has it point behind
    /// the urgent data.
    #[cold]
    //= RFC 9293 MUST-30, MUST-31, MUST-32, MUST-33, MUST-62
    fn urgent<A: App>(&mut self, app: &mut A, id: u32, seg: &TcpSegment) {
        let c = &self.conns[id];
        let near = seg.flags.ack() && seg.seq.in_window(c.rcv_nxt, c.receive_window() + 1);
        if !near || seg.flags.intersects(Flags::SYN | Flags::RST) || !c.state.takes_text() {
            return;
        }
        let unread = if c.busy == NONE { 0 } else { self.busies[c.busy].read_bytes };
        let (read, end) = (c.rcv_nxt - unread, seg.seq + u32::from(seg.urgent_pointer));
        if end.after(read) {
            self.report(app, id, Report::Urgent(end - read));
        }
    }

    /// First step: is the segment in the window (§3.10.7.4), and not from before (PAWS, RFC 7323 §5.3)?
    #[inline]
    fn check_sequence(&mut self, id: u32, seg: &TcpSegment) -> bool {
        let c = &self.conns[id];
        let (rst, timestamps) = (seg.flags.rst(), c.has(flag::TIMESTAMPS));
        //= RFC 7323 5.2-MUST-1, 3.2-MUST-5
        if timestamps && !rst {
            match seg.options.timestamps {
                Some(ts) if is_old(c, ts, self.now_ms) => {
                    self.stats.paws_dropped.increment();
                    self.acknowledge_unacceptable(id, seg);
                    return false;
                }
                // RFC 7323 §3.2 wants it dropped. The handshake's ACK may lack it: some peers leave it out there.
                // A SYN may lack it as well: RFC 5961 §4.2 has it answered.
                //= RFC 7323 3.2-SHOULD-2, 3.2-MUST-3
                None if !c.has(flag::FRESH) && !seg.flags.syn() => {
                    self.stats.dropped.count(DropReason::NoTimestamp);
                    return false;
                }
                _ => {}
            }
        }
        if !acceptable(c, seg) {
            //= RFC 5961 3.2-MUST-1
            if !rst {
                self.unacceptable(id, seg);
            }
            return false;
        }
        true
    }

    /// A segment outside the window is answered by an ACK, and a duplicate is reported in it (RFC 2883 §4).
    fn unacceptable(&mut self, id: u32, seg: &TcpSegment) {
        let c = &self.conns[id];
        if seg.payload_len > 0 && c.has(flag::SACK) && seg.seq.before(c.rcv_nxt) {
            let (start, end) = (seg.seq, (seg.seq + u32::from(seg.payload_len)).earliest(c.rcv_nxt));
            if let Some(slot) = self.attach(id) {
                let b = &mut self.busies[slot];
                (b.duplicate, b.duplicate_start, b.duplicate_end) = (true, start, end);
            }
        }
        self.stats.duplicates.increment();
        self.acknowledge_unacceptable(id, seg);
    }

    /// Empty segments outside the window are answered within limits, so that two ends that disagree do not loop; data
    /// and keep-alive probes always are.
    fn acknowledge_unacceptable(&mut self, id: u32, seg: &TcpSegment) {
        let keep_alive = seg.seq + 1 == self.conns[id].rcv_nxt;
        if seg.seq_len() == 0 && !keep_alive && !self.may_challenge(id) {
            return self.stats.challenge_acks_limited.increment();
        }
        self.ack_now(id);
    }

    /// Second step: RST (§3.10.7.4, RFC 5961 §3.2).
    #[inline]
    fn check_reset<A: App>(&mut self, app: &mut A, id: u32, seg: &TcpSegment) -> bool {
        if !seg.flags.rst() {
            return true;
        }
        let c = &self.conns[id];
        //= RFC 5961 3.2-MUST-2, 3.2-MUST-3
        if seg.seq == c.rcv_nxt {
            //= RFC 9293 MUST-11
            let end = if c.state == State::SynReceived { End::Refused } else { End::Reset };
            self.remove(app, id, end);
        } else {
            self.challenge(id);
        }
        false
    }

    /// Fourth step: a SYN on a synchronized connection draws a challenge (RFC 5961 §4.2).
    #[inline]
    //= RFC 5961 4.2-MUST-1
    fn check_syn(&mut self, id: u32, seg: &TcpSegment) -> bool {
        if !seg.flags.syn() {
            return true;
        }
        self.challenge(id);
        false
    }

    /// An ACK that a peer which sent this in earnest will answer by the RST it should have sent (RFC 5961).
    pub(crate) fn challenge(&mut self, id: u32) {
        if self.may_challenge(id) {
            self.stats.challenge_acks.increment();
            self.ack_now(id);
        } else {
            self.stats.challenge_acks_limited.increment();
        }
    }

    /// The limits of RFC 5961 §7: the connection's, and that of all.
    //= RFC 5961 7-SHOULD-1
    fn may_challenge(&mut self, id: u32) -> bool {
        self.challenges_each.allow(id, self.now_ms) && self.challenges.allow(self.now)
    }

    /// Sends an ACK at the end of this pass.
    #[inline]
    pub(crate) fn ack_now(&mut self, id: u32) {
        if let Some(slot) = self.attach(id) {
            self.busies[slot].flags |= busy::ACK_NOW;
            self.mark_dirty(id);
        }
    }

    /// Fifth step: is the ACK field acceptable?
    #[inline]
    fn check_ack<D: Device>(&mut self, tx: &mut Tx<'_, D>, id: u32, seg: &TcpSegment) -> bool {
        if !seg.flags.ack() {
            self.stats.dropped.count(DropReason::NoAck);
            return false;
        }
        let c = &self.conns[id];
        let (una, nxt) = (c.snd_una, c.snd_nxt);
        if c.state == State::SynReceived {
            if !(seg.ack.after(una) && seg.ack.at_or_before(nxt)) {
                self.reset(tx, seg);
                return false;
            }
        } else if !ack_is_near(c, seg) {
            self.challenge(id);
            return false;
        }
        true
    }

    /// What a segment with an acceptable ACK does to the connection, its text and FIN apart. False if the connection is
    /// gone.
    #[inline]
    fn acknowledged<A: App>(&mut self, app: &mut A, id: u32, seg: &TcpSegment) -> bool {
        let c = &mut self.conns[id];
        let slot = c.busy;
        if slot == NONE {
            heard(c, c.rcv_nxt, seg, self.now_ms);
            update_window(c, seg, false);
            return true;
        }
        let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
        let env = Env { now_us, now_ms, age_us, config: &self.config, stats: &self.stats };
        let b = &mut self.busies[slot];
        heard(c, b.ack_sent, seg, env.now_ms);
        let window_changed = seg.window != c.snd_wnd;
        let pipe_before = recovery::pipe(c, b);
        let congestion = c.has(flag::ECN) && seg.flags.contains(Flags::ECE);
        let mut acked = Acked { congestion, ..Acked::default() };
        if seg.ack.after(c.snd_una) {
            scoreboard::take_cumulative(&mut self.flights, b, seg.ack, &env, &mut acked);
            c.snd_una = seg.ack;
        } else if seg.ack == c.snd_una
            && !c.has(flag::SACK)
            && seg.seq_len() == 0
            && !window_changed
            && !b.flight.is_empty()
            && may_count_duplicate(c, b)
        {
            b.dup_acks = b.dup_acks.saturating_add(1);
        }
        if c.has(flag::SACK) && !seg.options.sack.is_empty() {
            let edges = (seg.ack, c.snd_una, c.snd_nxt);
            scoreboard::take_sack(&mut self.flights, b, edges, seg.options.sack.as_slice(), &env, &mut acked);
        }
        let was_shut = c.send_window() == 0;
        update_window(c, seg, acked.octets > 0);
        if was_shut && c.send_window() > 0 && b.phase == Phase::Loss {
            // what was sent into the shut window goes again at once: it was no congestion that kept it out
            recovery::window_opened(&mut self.flights, b);
        }
        b.snd_wnd_max = b.snd_wnd_max.max(c.send_window());
        b.probes = 0;
        if b.flags & busy::PERSIST != 0 && (c.snd_una + c.send_window()).after(c.snd_nxt) {
            // the window has opened
            b.flags &= !busy::PERSIST;
            b.timers &= !1;
            b.backoff = 0;
        }
        if congestion {
            // RFC 4015 §3.4: what ECN confirms is not undone
            //= RFC 4015 3.2-MUST-3
            b.flags &= !busy::DOUBTS;
        }
        if acked.octets > 0
            && (b.flags & busy::UNDO != 0 || b.backoff > 0)
            && let Some(ts) = seg.options.timestamps.filter(|_| c.has(flag::TIMESTAMPS))
        {
            let remote = remote_of(&self.remotes, c.remote, c.flags);
            let offset = self.isn_key.timestamp_offset(self.locals.address(c.local), remote);
            undo::take_echo(&mut self.flights, b, ts.echo.wrapping_sub(offset), &mut acked, &env);
        }
        let wait = recovery::after_ack(&mut self.flights, c, b, &acked, pipe_before, &env);
        if acked.fin {
            c.state = c.state.after(Event::ReceiveAckOfFin);
            // nothing is in flight any more: the timer's place is FIN-WAIT-2's
            b.timers &= !4;
        }
        set_reordering_timer(c, b, wait, self.now_ms);
        if acked.octets > 0 {
            release_acked(&mut self.buffers, c.snd_una, b, self.now_ms);
        }
        let state = c.state;
        let narrow = c.send_window() < c.payload_max() && b.snd_end.after(c.snd_una);
        b.list(&mut self.dirty);
        if narrow && self.ends_if_stalled(app, id, slot) {
            return false;
        }
        if state == State::SynReceived && acked.syn {
            self.simultaneous_open(app, id);
        } else if acked.octets > 0 && state.may_send() {
            app.sent(&mut Conn { tcp: self, id });
        }
        if state == State::Closed && !self.has_unread(id) {
            // LAST-ACK and its ACK: nothing is left to say
            self.remove(app, id, End::Closed);
            return false;
        }
        true
    }

    /// Sixth to eighth step: urgent data is data (RFC 9293 §3.8.5, RFC 6093), text, FIN.
    #[inline(always)]
    fn text_and_fin<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        seg: &TcpSegment,
        payload: &[u8],
    ) {
        let c = &self.conns[id];
        let takes_text = c.state.takes_text();
        if c.has(flag::ECN) {
            //= RFC 3168 6.1.5-SHOULD-1
            self.take_congestion_mark(id, seg);
        }
        if takes_text {
            let acknowledged_alone = self.text(app, id, seg.seq, payload, seg.flags.fin());
            if acknowledged_alone {
                self.ack_each(app, tx, id);
            }
        } else {
            // After the peer's FIN: it is the FIN again, or text that should not be (§3.10.7.4)
            self.ack_now(id);
        }
    }
}

/// What the first five steps say of a segment.
enum Checked {
    /// Nothing is left to be done with it.
    Over,
    /// It is to be worked on further.
    Good,
    /// It is the SYN-ACK of a peer that opened at the same time: to be worked on further without its SYN.
    Crossed(TcpSegment),
}

/// Whether a segment passes the first five steps (§3.10.7.4) without drawing an answer, as nearly every segment does: none
/// but ACK, PSH, FIN and ECN's bits are set, and [`check_sequence`](Tcp::check_sequence) and
/// [`check_ack`](Tcp::check_ack) would find nothing wrong.
#[inline]
fn passes(c: &Connection, seg: &TcpSegment, now_ms: u32) -> bool {
    let fresh = match seg.options.timestamps {
        Some(ts) => !c.has(flag::TIMESTAMPS) || !is_old(c, ts, now_ms),
        None => !c.has(flag::TIMESTAMPS),
    };
    c.state.synchronized()
        && seg.flags.ack()
        && !seg.flags.intersects(Flags::SYN | Flags::RST | Flags::URG)
        && fresh
        && acceptable(c, seg)
        && ack_is_near(c, seg)
}

/// Whether a segment is from before (PAWS, RFC 7323 §5.3).
#[inline]
//= RFC 7323 5.3-MUST-1, 5.5-MUST-1
fn is_old(c: &Connection, ts: Timestamps, now_ms: u32) -> bool {
    (ts.value.wrapping_sub(c.ts_recent) as i32) < 0 && now_ms.wrapping_sub(c.heard_ms) < TS_RECENT_MS_MAX
}

/// RFC 5961 §5.2: SND.UNA - MAX.SND.WND =< SEG.ACK =< SND.NXT
#[inline]
//= RFC 9293 MAY-12
//= RFC 5961 5.2-MUST-1
fn ack_is_near(c: &Connection, seg: &TcpSegment) -> bool {
    let oldest = c.snd_una - (0xffff << c.snd_scale());
    !seg.ack.after(c.snd_nxt) && !seg.ack.before(oldest)
}

/// The segment is the peer's beyond doubt: TS.Recent (RFC 7323 §4.3), and the time it was heard. Not before its ACK
/// field has been found good: a forged TSval would make PAWS discard what the peer sends.
#[inline]
fn heard(c: &mut Connection, ack_sent: Seq, seg: &TcpSegment, now_ms: u32) {
    if c.has(flag::TIMESTAMPS)
        && let Some(ts) = seg.options.timestamps
    {
        c.flags &= !flag::FRESH;
        //= RFC 7323 4.3-MUST-1, 4.3-SHOULD-1, 4.3-SHOULD-2, 4.3-MUST-2
        if seg.seq.at_or_before(ack_sent) && (ts.value.wrapping_sub(c.ts_recent) as i32) >= 0 {
            c.ts_recent = ts.value;
        }
    }
    c.heard_ms = now_ms;
    c.flags &= !flag::PROBED;
}

/// Lets go of what need not be sent again, and restarts the retransmission timer (RFC 6298 §5.3).
#[inline(always)]
//= RFC 6298 5-SHOULD-1
//= RFC 6928 9-MUST-1
pub(super) fn release_acked(buffers: &mut Buffers, una: Seq, b: &mut Busy, now_ms: u32) {
    b.timers &= !1;
    b.oldest_ms = now_ms;
    b.flags &= !(busy::PERSIST | busy::PROBE_TIMER);
    if una.before(b.snd_end) || b.flags & busy::BUFFERED != 0 {
        release_some(buffers, una, b);
    } else {
        b.spans = 0;
    }
}

#[inline(never)]
fn release_some(buffers: &mut Buffers, una: Seq, b: &mut Busy) {
    while b.spans > 0 {
        let end = if b.spans > 1 { b.span[1].start } else { b.snd_end };
        if end.after(una) {
            break;
        }
        b.span.copy_within(1.., 0);
        b.spans -= 1;
    }
    if b.flags & busy::BUFFERED != 0 {
        let mut chain = Chain { head: b.write_head, tail: b.write_tail };
        //= RFC 2018 8-MUST-1
        //= RFC 6675 4-MUST-2
        buffers.drop_before(&mut chain, una);
        (b.write_head, b.write_tail) = (chain.head, chain.tail);
        if chain.head == NONE {
            b.flags &= !busy::BUFFERED;
        }
    }
}

/// The four cases of §3.10.7.4. An empty segment exactly at the right edge is let in: a peer that has filled the
/// window says so from there.
#[inline]
fn acceptable(c: &Connection, seg: &TcpSegment) -> bool {
    // A RST goes by its number alone, whatever text it brings (RFC 5961 §3.2): it is heard at a shut window, too
    //= RFC 9293 MUST-66, SHLD-2
    let len = if seg.flags.rst() { 0 } else { seg.seq_len() };
    let window = c.receive_window();
    if len == 0 {
        return seg.seq.in_window(c.rcv_nxt, window + 1);
    }
    if window == 0 {
        // No text fits, but the ACK that comes with it is heard: a probe may be all that the peer sends
        return seg.seq == c.rcv_nxt && !seg.flags.intersects(Flags::SYN | Flags::FIN);
    }
    seg.seq.in_window(c.rcv_nxt, window) || (seg.seq + (len - 1)).in_window(c.rcv_nxt, window)
}

/// Whether another duplicate ACK can mean that a segment has left: in recovery no more than were out at its beginning,
/// however many are sent (RFC 5681 §3.2, last paragraph).
#[inline]
//= RFC 5681 3.2-MAY-1
fn may_count_duplicate(c: &Connection, b: &Busy) -> bool {
    let counted = u32::from(b.dup_acks) * c.payload_max();
    match b.phase {
        Phase::Open => true,
        Phase::Recovery => b.recover.after(c.snd_una) && counted < b.recover - c.snd_una,
        // after a timeout only what is acknowledged lets more out
        //= RFC 6582 3.2-MUST-4
        Phase::Loss => false,
    }
}

/// SND.WND, SND.WL1 (§3.10.7.4, fifth step). Called after SND.UNA has moved. What moves it is newer than what set the
/// window, whatever its sequence number: a retransmission may carry it, and the old window would reach too far.
#[inline]
fn update_window(c: &mut Connection, seg: &TcpSegment, advanced: bool) {
    if seg.ack.at_or_after(c.snd_una) && (advanced || c.snd_wl1.at_or_before(seg.seq)) {
        c.snd_wnd = seg.window;
        c.snd_wl1 = seg.seq;
    }
}

/// RACK's reordering timer (RFC 8985 §6.2 step 5) shares its place with others that cannot run at the same time.
pub(crate) fn set_reordering_timer(c: &Connection, b: &mut Busy, wait_us: Option<u32>, now_ms: u32) {
    match wait_us {
        Some(wait) => {
            b.misc_at = now_ms.wrapping_add(wait.div_ceil(1000).max(1));
            b.timers |= 4;
        }
        None if c.state != State::FinWait2 => b.timers &= !4,
        None => {}
    }
}

/// The sequence number after the last octet of text in a segment.
#[inline]
pub(crate) fn text_end(seq: Seq, payload: &[u8]) -> Seq {
    seq + payload.len() as u32
}
