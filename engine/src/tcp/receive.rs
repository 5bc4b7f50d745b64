//! Text: put in order, given to the application, acknowledged (RFC 9293 §3.10.7.4 seventh and eighth step, §3.8.6).

use crate::app::App;
use crate::config::TcpConfig;
use crate::wire::{Flags, SackBlock, SackBlocks, Seq, TcpSegment};

use super::Tcp;
use super::block::{Busy, Connection, NONE, busy, flag};
use super::buffer::{Buffers, CHUNK, Chain};
use super::conn::Conn;
use super::segment::text_end;
use super::state::Event;

impl Tcp {
    /// Takes the text of an acceptable segment, and its FIN. True if the segment is to be acknowledged by itself.
    #[inline]
    pub(crate) fn text<A: App>(&mut self, app: &mut A, id: u32, seq: Seq, payload: &[u8], fin: bool) -> bool {
        let Some(slot) = self.attach(id) else { return false };
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        let (rcv_nxt, edge) = (c.rcv_nxt, c.rcv_adv);
        let (mut seq, mut payload, mut fin) = (seq, payload, fin);
        if seq.before(rcv_nxt) {
            // the front has been received: keep the rest, and report the duplicate (RFC 2883 §4)
            let old = ((rcv_nxt - seq) as usize).min(payload.len());
            if old > 0 && c.has(flag::SACK) {
                (b.duplicate, b.duplicate_start, b.duplicate_end) = (true, seq, seq + old as u32);
            }
            payload = &payload[old..];
            seq += old as u32;
            b.flags |= busy::ACK_NOW;
        }
        if text_end(seq, payload).after(edge) {
            let room = if edge.after(seq) { (edge - seq) as usize } else { 0 };
            payload = &payload[..payload.len().min(room)];
            fin = false;
            b.flags |= busy::ACK_NOW;
        }
        if fin {
            b.flags |= busy::FIN_AHEAD;
            b.fin_at = text_end(seq, payload);
            if b.fin_at != rcv_nxt {
                // out of order, even without text (RFC 5681 §4.2); in order it is acknowledged anyway
                b.flags |= busy::ACK_NOW;
            }
        }
        if !payload.is_empty() {
            if seq == rcv_nxt {
                self.in_order(app, id, slot, payload);
            } else {
                self.out_of_order(slot, seq, payload);
            }
        }
        // An application may end its connection from a callback, but only at the end of the pass
        let b = &mut self.busies[slot];
        b.list(&mut self.dirty);
        let acknowledged_alone = b.flags & busy::ACK_EACH != 0;
        if b.flags & busy::FIN_AHEAD != 0 {
            self.take_fin(app, id, slot);
        }
        acknowledged_alone
    }

    /// Text that is next, in front of nothing, for an application that reads; the peer's FIN, if `fin`, is right behind it.
    /// What [`text`](Self::text) comes to then; RCV.NXT is behind the text, and the connection is on the list of those that
    /// take a turn already.
    #[inline(always)]
    pub(super) fn next_text<A: App>(&mut self, app: &mut A, id: u32, slot: u32, payload: &[u8], fin: bool) {
        if fin {
            // the application may close while it reads, and the FIN was here first
            let b = &mut self.busies[slot];
            b.flags |= busy::FIN_AHEAD;
            b.fin_at = self.conns[id].rcv_nxt;
        }
        self.stats.payload_received.add(payload.len() as u64);
        let taken = app.received(&mut Conn { tcp: self, id }, payload);
        if taken < payload.len() {
            self.keep(id, slot, &payload[taken..]);
        }
        let Tcp { conns, busies, config, .. } = self;
        let b = &mut busies[slot];
        count_segment(b, config.ack_every);
        if !fin {
            return;
        }
        let c = &mut conns[id];
        // else there was no memory for what the application did not take
        if b.fin_at == c.rcv_nxt && move_past_fin(c, b) {
            app.finished(&mut Conn { tcp: self, id });
        }
    }

    /// The peer's FIN that is next, without text.
    #[inline(never)]
    pub(super) fn next_fin<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        b.fin_at = c.rcv_nxt;
        if move_past_fin(c, b) {
            app.finished(&mut Conn { tcp: self, id });
        }
    }

    /// Text that continues what has been received.
    #[inline]
    fn in_order<A: App>(&mut self, app: &mut A, id: u32, slot: u32, payload: &[u8]) {
        self.offer(app, id, slot, payload);
        let b = &mut self.busies[slot];
        count_segment(b, self.config.ack_every);
        if b.ahead_head != NONE {
            // RFC 5681 §4.2: a segment that fills a hole, even in part, is acknowledged at once
            b.flags |= busy::ACK_NOW;
            //= RFC 5681 3.2-SHOULD-2
            self.take_ahead(app, id, slot);
        }
    }

    /// Offers text to the application; what it does not take is kept. RCV.NXT moves by what was taken or kept.
    fn offer<A: App>(&mut self, app: &mut A, id: u32, slot: u32, payload: &[u8]) {
        let (c, b) = (&mut self.conns[id], &self.busies[slot]);
        c.rcv_nxt += payload.len() as u32;
        self.stats.payload_received.add(payload.len() as u64);
        let mut taken = 0;
        if b.flags & busy::PAUSED == 0 && b.read_head == NONE {
            taken = app.received(&mut Conn { tcp: self, id }, payload).min(payload.len());
        }
        if taken < payload.len() {
            self.keep(id, slot, &payload[taken..]);
        }
    }

    /// Keeps the end of what has been received, which the application did not take.
    #[cold]
    fn keep(&mut self, id: u32, slot: u32, rest: &[u8]) {
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        b.flags |= busy::PAUSED;
        let mut chain = Chain { head: b.read_head, tail: b.read_tail };
        let kept = self.buffers.append(&mut chain, c.rcv_nxt - rest.len() as u32, rest);
        (b.read_head, b.read_tail) = (chain.head, chain.tail);
        b.read_bytes += kept as u32;
        if kept < rest.len() {
            // no memory: the peer will send it again
            c.rcv_nxt -= (rest.len() - kept) as u32;
            if b.flags & busy::FIN_QUEUED != 0 && c.state.may_send() {
                // it closed when the peer's FIN seemed to be next
                c.state = c.state.after(Event::Close);
            }
            b.flags |= busy::ACK_NOW;
            self.stats.refused_memory.increment();
        }
    }

    /// Text beyond a hole: kept in order of sequence numbers, each octet once.
    fn out_of_order(&mut self, slot: u32, seq: Seq, payload: &[u8]) {
        self.stats.out_of_order.increment();
        let limit = self.config.receive_buffer;
        let b = &mut self.busies[slot];
        //= RFC 9293 MAY-13, SHLD-31
        //= RFC 5681 3.2-SHOULD-1
        //= RFC 2018 4-SHOULD-2
        b.flags |= busy::ACK_NOW | busy::ACK_EACH;
        if b.ahead_head == NONE {
            b.recent = [seq; 3];
        }
        b.recent.copy_within(..2, 1);
        b.recent[0] = seq;
        if b.ahead_bytes.saturating_add(payload.len() as u32) > limit {
            return self.stats.out_of_order_refused.increment();
        }
        let held = b.ahead_bytes;
        if !insert_ahead(&mut self.buffers, b, self.config.out_of_order_pieces, seq, payload) {
            self.stats.out_of_order_refused.increment();
        } else if b.ahead_bytes == held {
            // all of it was held already: a duplicate beyond the hole (RFC 2883 §4.2)
            //= RFC 2883 4-SHOULD-2
            (b.duplicate, b.duplicate_start, b.duplicate_end) = (true, seq, text_end(seq, payload));
        }
    }

    /// Moves what is no longer beyond a hole to the application.
    fn take_ahead<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        loop {
            let b = &mut self.busies[slot];
            let head = b.ahead_head;
            if head == NONE {
                return;
            }
            let rcv_nxt = self.conns[id].rcv_nxt;
            let chunk = self.buffers.get_mut(head);
            if chunk.seq.after(rcv_nxt) {
                return;
            }
            let len = chunk.len() as u32;
            let stale = ((rcv_nxt - chunk.seq) as usize).min(chunk.len());
            if stale > 0 {
                // what filled the hole had come before, in part: the first such block is reported (RFC 2883 §4.2)
                let (start, end) = (chunk.seq, chunk.seq + stale as u32);
                if !b.duplicate && self.conns[id].has(flag::SACK) {
                    (b.duplicate, b.duplicate_start, b.duplicate_end) = (true, start, end);
                } else if b.duplicate && b.duplicate_end == start {
                    b.duplicate_end = end;
                }
            }
            chunk.advance(stale);
            b.ahead_head = chunk.next;
            if b.ahead_head == NONE {
                b.ahead_tail = NONE;
            }
            b.ahead_bytes -= len;
            b.ahead_chunks -= 1;
            // The application reads from a copy: the pool may be needed while it does.
            let mut copy = [0; CHUNK];
            let n = chunk.len();
            copy[..n].copy_from_slice(chunk.bytes());
            self.buffers.free(head);
            self.buffers.ahead -= 1;
            if n > 0 {
                self.offer(app, id, slot, &copy[..n]);
            }
        }
    }

    /// The FIN, once all before it has been received (eighth step).
    fn take_fin<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        if !b.fin_is_next(c.rcv_nxt) || !c.state.takes_text() {
            return;
        }
        if b.ahead_head != NONE {
            drop_ahead(&mut self.buffers, b);
        }
        if move_past_fin(c, b) {
            app.finished(&mut Conn { tcp: self, id });
        }
    }

    /// Whether octets wait for the application. Its connection stays, even when both ends have nothing more to say.
    #[inline]
    pub(crate) fn has_unread(&self, id: u32) -> bool {
        let slot = self.conns[id].busy;
        slot != NONE && self.busies[slot].read_head != NONE
    }

    /// Offers again what the application had not taken, after it asked.
    pub(crate) fn deliver_unread<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        self.busies[slot].flags &= !(busy::RESUME | busy::PAUSED);
        loop {
            let b = &self.busies[slot];
            let head = b.read_head;
            if head == NONE || b.flags & busy::PAUSED != 0 {
                break;
            }
            let mut copy = [0; CHUNK];
            let n = self.buffers.get(head).len();
            copy[..n].copy_from_slice(self.buffers.get(head).bytes());
            let taken = app.received(&mut Conn { tcp: self, id }, &copy[..n]).min(n);
            let b = &mut self.busies[slot];
            b.read_bytes -= taken as u32;
            if taken < n {
                self.buffers.get_mut(head).advance(taken);
                b.flags |= busy::PAUSED;
                break;
            }
            b.read_head = self.buffers.get(head).next;
            if b.read_head == NONE {
                b.read_tail = NONE;
            }
            self.buffers.free(head);
        }
        let b = &mut self.busies[slot];
        if b.read_head == NONE && b.flags & busy::FIN_UNREAD != 0 {
            b.flags &= !busy::FIN_UNREAD;
            app.finished(&mut Conn { tcp: self, id });
        }
    }

    /// ECN at the receiver (RFC 3168 §6.1.3): a CE mark is echoed until CWR comes.
    //= RFC 3168 6.1.3-MUST-1
    pub(crate) fn take_congestion_mark(&mut self, id: u32, seg: &TcpSegment) {
        let Some(slot) = self.attach(id) else { return };
        let b = &mut self.busies[slot];
        if seg.flags.contains(Flags::CWR) {
            b.flags &= !busy::ECE;
        }
        if seg.ecn == crate::wire::Ecn::CongestionExperienced {
            b.flags |= busy::ECE | busy::ACK_NOW;
        }
    }

    /// Whether the window has opened by so much that the peer should hear of it without asking (§3.8.6.2.2). One that has
    /// sent its FIN has no use for it.
    pub(crate) fn window_opened(&self, id: u32, slot: u32) -> bool {
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        let window = self.config.receive_window.min(0xffff << c.rcv_scale()).saturating_sub(b.read_bytes);
        let edge = c.rcv_nxt + window;
        c.state.takes_text()
            && edge.after(c.rcv_adv)
            && edge - c.rcv_adv >= (2 * u32::from(c.mss)).min(self.config.receive_window / 2)
    }
}

/// Another segment is to be acknowledged: at once, or with the next.
#[inline]
fn count_segment(b: &mut Busy, ack_every: u8) {
    b.unacked_segments = b.unacked_segments.saturating_add(1);
    //= RFC 9293 SHLD-19
    //= RFC 5681 4.2-SHOULD-1
    if b.unacked_segments >= ack_every {
        b.flags |= busy::ACK_NOW;
    }
}

/// The peer's FIN, which is next, is received: RCV.NXT and the state. Whether the application is to hear of it now: it has
/// read all there is.
#[inline(always)]
pub(super) fn move_past_fin(c: &mut Connection, b: &mut Busy) -> bool {
    b.flags = b.flags & !busy::FIN_AHEAD | busy::ACK_NOW;
    c.rcv_nxt += 1;
    c.rcv_adv = c.rcv_adv.latest(c.rcv_nxt);
    c.state = c.state.after(Event::ReceiveFin);
    if b.flags & busy::FIN_QUEUED != 0 && c.state.may_send() {
        // the application closed when it was given the text before
        c.state = c.state.after(Event::Close);
    }
    let heard = b.read_head == NONE;
    if !heard {
        b.flags |= busy::FIN_UNREAD;
    }
    heard
}

/// Moves the right edge of the window as far as it may go (§3.8.6.2.2) and returns the window field.
#[inline(always)]
pub(super) fn advertise(c: &mut Connection, b: &mut Busy, config: &TcpConfig) -> u16 {
    let scale = c.rcv_scale();
    b.ack_sent = c.rcv_nxt;
    //= RFC 9293 MAY-8
    let window = config.receive_window.min(0xffff << scale).saturating_sub(b.read_bytes);
    // Silly window avoidance: the edge moves by a segment or half the buffer, or not at all. It never moves back.
    let step = u32::from(c.mss).min(config.receive_window / 2);
    let open = c.rcv_adv - c.rcv_nxt;
    //= RFC 9293 SHLD-14, MUST-39
    let grows = window.wrapping_sub(open) as i32 >= step as i32;
    let open = if grows { window } else { open };
    // Rounded up: rounding down would move the edge back. It fits, as no window that is opened is beyond the field.
    //= RFC 7323 2.3-MUST-2, 2.4-MUST-1, 2.4-SHOULD-1
    let field = (open + ((1 << scale) - 1)) >> scale;
    debug_assert!(field <= 0xffff, "a window of {open} octets with a shift of {scale}");
    c.rcv_adv = c.rcv_nxt + (field << scale);
    field as u16
}

/// SACK blocks for an acknowledgement (RFC 2018 §4, RFC 2883 §4): a duplicate first, then the block that holds the
/// newest segment, then those reported before it, then the others. The chain is walked once.
//= RFC 2018 4-MUST-2, 4-SHOULD-3, 4-SHOULD-4
pub(super) fn sack_blocks(buffers: &Buffers, b: &mut Busy, room: usize) -> SackBlocks {
    let mut blocks = SackBlocks::NONE;
    //= RFC 2883 4-SHOULD-1
    if core::mem::take(&mut b.duplicate) {
        blocks.push(SackBlock { start: b.duplicate_start, end: b.duplicate_end });
    }
    let first = blocks.as_slice().len();
    let mut recent = [None; 3];
    let mut others = [None; 4];
    let mut next_other = others.iter_mut();
    for block in ranges(buffers, b.ahead_head) {
        let mut reported = false;
        for (holder, seq) in recent.iter_mut().zip(b.recent) {
            if seq.at_or_after(block.start) && seq.before(block.end) {
                *holder = Some(block);
                reported = true;
            }
        }
        if !reported && let Some(other) = next_other.next() {
            *other = Some(block);
        }
    }
    //= RFC 2883 4-SHOULD-3
    for block in recent.into_iter().chain(others).flatten() {
        if blocks.as_slice().len() < room && !blocks.as_slice()[first..].contains(&block) {
            blocks.push(block);
        }
    }
    blocks
}

/// Lets go of text beyond the peer's FIN: there should be none, and nothing will ever come of it.
#[cold]
fn drop_ahead(buffers: &mut Buffers, b: &mut Busy) {
    buffers.clear(&mut Chain { head: b.ahead_head, tail: b.ahead_tail });
    buffers.ahead -= u32::from(b.ahead_chunks);
    (b.ahead_head, b.ahead_tail, b.ahead_bytes, b.ahead_chunks) = (NONE, NONE, 0, 0);
}

/// The contiguous ranges of a chain that is in order.
fn ranges(buffers: &Buffers, head: u32) -> impl Iterator<Item = SackBlock> + '_ {
    let mut at = head;
    core::iter::from_fn(move || {
        if at == NONE {
            return None;
        }
        let chunk = buffers.get(at);
        let (start, mut end) = (chunk.seq, chunk.end_seq());
        at = chunk.next;
        while at != NONE && buffers.get(at).seq == end {
            end = buffers.get(at).end_seq();
            at = buffers.get(at).next;
        }
        Some(SackBlock { start, end })
    })
}

/// Puts octets into the chain of those ahead of a hole: sorted, without overlap. `pieces` of it may be small. False if
/// there was no chunk for all.
fn insert_ahead(buffers: &mut Buffers, b: &mut Busy, pieces: u16, seq: Seq, payload: &[u8]) -> bool {
    let (mut seq, mut payload) = (seq, payload);
    // Where it goes: after the last chunk that begins before it. In order at the end is the common case.
    let mut before = NONE;
    if b.ahead_tail != NONE && buffers.get(b.ahead_tail).seq.at_or_before(seq) {
        before = b.ahead_tail;
    } else {
        let mut at = b.ahead_head;
        while at != NONE && buffers.get(at).seq.at_or_before(seq) {
            before = at;
            at = buffers.get(at).next;
        }
    }
    loop {
        if before != NONE {
            // skip what the chunk before holds
            let end = buffers.get(before).end_seq();
            if end.after(seq) {
                let skip = ((end - seq) as usize).min(payload.len());
                payload = &payload[skip..];
                seq += skip as u32;
            }
        }
        if payload.is_empty() {
            return true;
        }
        let after = if before == NONE { b.ahead_head } else { buffers.get(before).next };
        let gap =
            if after == NONE { payload.len() } else { ((buffers.get(after).seq - seq) as usize).min(payload.len()) };
        let (piece, rest) = payload.split_at(gap);
        if !piece.is_empty() && append_after(buffers, b, pieces, before, seq, piece).is_none() {
            return false;
        }
        if rest.is_empty() {
            return true;
        }
        seq += gap as u32;
        payload = rest;
        before = after;
    }
}

/// Adds a piece behind the chunk `before` (in it, if it continues it), and returns the chunk it ends in.
fn append_after(buffers: &mut Buffers, b: &mut Busy, pieces: u16, before: u32, seq: Seq, piece: &[u8]) -> Option<u32> {
    let (mut last, mut seq, mut piece) = (before, seq, piece);
    if last != NONE && buffers.get(last).end_seq() == seq {
        let n = buffers.get_mut(last).append(piece);
        b.ahead_bytes += n as u32;
        piece = &piece[n..];
        seq += n as u32;
    }
    while !piece.is_empty() {
        // What a peer sends in small pieces takes a chunk for each, and each is looked at when another comes: beyond some
        // of them, chunks must be half full
        let filled = b.ahead_bytes / (CHUNK as u32 / 2);
        if u32::from(b.ahead_chunks) >= filled + u32::from(pieces) || !buffers.room_ahead() {
            return None;
        }
        let fresh = buffers.take(seq)?;
        b.ahead_chunks += 1;
        buffers.ahead += 1;
        let next = if last == NONE { b.ahead_head } else { buffers.get(last).next };
        let chunk = buffers.get_mut(fresh);
        chunk.next = next;
        let n = chunk.append(piece);
        if last == NONE {
            b.ahead_head = fresh;
        } else {
            buffers.get_mut(last).next = fresh;
        }
        if next == NONE {
            b.ahead_tail = fresh;
        }
        b.ahead_bytes += n as u32;
        piece = &piece[n..];
        seq += n as u32;
        last = fresh;
    }
    Some(last)
}
