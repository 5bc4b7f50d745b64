//! What a connection has to say: retransmissions, new data, FIN, acknowledgements (RFC 9293 §3.8, §3.10.2).
//!
//! Nothing is sent while segments are worked on, except replies without a connection. Connections with something to
//! say are put on a list, which is walked once at the end of the pass: several segments of a burst that need an
//! acknowledgement get one.

use std::net::IpAddr;

use crate::app::{App, End};
use crate::device::{Device, Frame};
use crate::neighbor::Resolution;
use crate::stats::Stats;
use crate::wire::ethernet::Link;
use crate::wire::{DropReason, Ecn, Flags, MacAddr, OutSegment, Seq, TcpOptions, TcpSegment, Timestamps, VlanId};

use super::block::{NONE, Phase, Sent, busy, flag, sent};
use super::buffer::Chain;
use super::state::State;
use super::{Tcp, congestion, recovery, rtt};

/// Hop limit of what we send (RFC 9293 MUST-49: configurable; RFC 1700's default).
pub(crate) const HOP_LIMIT: u8 = 64;

/// Segments one connection sends in one pass: bounds the pass, and shares the device among connections.
const SEGMENTS_MAX: usize = 64;

/// The way out: the device, and what every frame begins with.
pub(crate) struct Tx<'a, D: Device> {
    pub(crate) device: &'a mut D,
    pub(crate) mac: MacAddr,
    pub(crate) vlan: Option<VlanId>,
    pub(crate) stats: &'a Stats,
    /// The frame that is being worked on, if its reply may be built in it.
    pub(crate) spare: Option<D::Frame>,
}

impl<D: Device> Tx<'_, D> {
    /// The Ethernet addresses of a frame to `destination`.
    #[inline]
    pub(crate) fn link(&self, destination: MacAddr) -> Link {
        Link { source: self.mac, destination, vlan: self.vlan }
    }

    /// Sends a frame of at most `len` octets that `build` writes, returning its true length. False if there was no
    /// buffer, no room, or nothing to send.
    #[inline]
    pub(crate) fn frame(&mut self, len: usize, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let frame = self.spare.take().or_else(|| self.device.allocate());
        let Some(mut frame) = frame else {
            self.stats.tx_full.increment();
            return false;
        };
        if len > frame.capacity() {
            self.device.release(frame);
            self.stats.dropped.count(DropReason::TxFull);
            return false;
        }
        let Some(len) = build(frame.resize(len)) else {
            self.device.release(frame);
            return false;
        };
        frame.resize(len);
        match self.device.transmit(frame) {
            Ok(()) => {
                self.stats.tx_frames.increment();
                self.stats.tx_bytes.add(len as u64);
                true
            }
            Err(frame) => {
                self.device.release(frame);
                self.stats.tx_full.increment();
                false
            }
        }
    }
}

/// A segment that belongs to no block: of a half-open or finished connection.
pub(crate) struct Reply {
    /// The station the segment came from that this answers; `None`: the next hop.
    pub(crate) mac: Option<MacAddr>,
    pub(crate) local: u16,
    pub(crate) remote: IpAddr,
    /// Ours and the peer's.
    pub(crate) ports: (u16, u16),
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) options: TcpOptions,
}

/// A segment of a connection that is about to be built.
#[derive(Clone, Copy)]
struct Next {
    seq: Seq,
    payload: u32,
    flags: Flags,
    /// New data or a retransmission of it: ECN-capable, and to be described in the flight.
    data: bool,
}

impl Tcp {
    /// Sends a segment without a block.
    pub(crate) fn reply<D: Device>(&mut self, tx: &mut Tx<'_, D>, reply: &Reply) {
        let mac = match reply.mac {
            Some(mac) => mac,
            None => {
                let hop = self.next_hop(reply.remote);
                match hop.and_then(|hop| self.neighbors.resolve(hop, self.now)) {
                    Some((_, Resolution::Ready(mac))) => mac,
                    _ => return self.stats.dropped.count(DropReason::NeighborUnresolved),
                }
            }
        };
        let segment = OutSegment {
            link: tx.link(mac),
            source: self.locals.address(reply.local),
            destination: reply.remote,
            source_port: reply.ports.0,
            destination_port: reply.ports.1,
            seq: reply.seq,
            ack: reply.ack,
            flags: reply.flags,
            window: reply.window,
            urgent_pointer: 0,
            hop_limit: HOP_LIMIT,
            ecn: Ecn::NotCapable,
            options: reply.options,
        };
        if tx.frame(segment.header_len(), |out| segment.emit(out, 0).ok()) {
            self.stats.segments_sent.increment();
        }
    }

    /// Answers a segment that belongs to no connection by a RST (RFC 9293 §3.10.7.1), within the limit.
    pub(crate) fn reset<D: Device>(&mut self, tx: &mut Tx<'_, D>, seg: &TcpSegment) {
        if seg.flags.rst() || self.shared {
            return;
        }
        if !self.resets.allow(self.now) {
            self.stats.resets_limited.increment();
            return self.stats.dropped.count(DropReason::RstRateLimited);
        }
        let Some(segment) = OutSegment::reset_for(seg, tx.link(seg.source_mac), HOP_LIMIT) else { return };
        if tx.frame(segment.header_len(), |out| segment.emit(out, 0).ok()) {
            self.stats.resets_sent.increment();
            self.stats.segments_sent.increment();
        }
    }

    /// Step 8 of the loop: everything that the connections on the list want to say.
    pub(crate) fn flush<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>) {
        let mut at = 0;
        // What an application does from a callback here may add to the list; the walk ends with the pass.
        let end = self.dirty.len();
        while at < end {
            let id = self.dirty[at];
            at += 1;
            let Some(c) = self.conns.get(id) else { continue };
            let slot = c.busy;
            if slot == NONE || self.busies[slot].flags & busy::DIRTY == 0 {
                continue;
            }
            self.busies[slot].flags &= !busy::DIRTY;
            self.output(app, tx, id, slot);
        }
        self.dirty.copy_within(end.., 0);
        let left = self.dirty.len() - end;
        self.dirty.truncate(left);
    }

    fn output<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>, id: u32, slot: u32) {
        if self.busies[slot].flags & busy::RESUME != 0 {
            self.deliver_unread(app, id, slot);
            if self.window_opened(id, slot) {
                self.busies[slot].flags |= busy::ACK_NOW;
            }
        }
        if self.busies[slot].flags & busy::ABORT != 0 {
            return self.abort(app, tx, id);
        }
        let Some(mac) = self.hop(app, id, slot) else { return };
        let mut blocked = false;
        if self.busies[slot].flags & busy::HANDSHAKE != 0 {
            self.busies[slot].flags &= !busy::HANDSHAKE;
            if !(self.config.piggyback && self.has_unsent(id, slot)) {
                blocked = !self.send_ack(tx, id, slot, mac);
            }
        }
        blocked = blocked || !self.retransmit(app, tx, id, slot, mac);
        blocked = blocked || !self.probe_tail(app, tx, id, slot, mac) || !self.send_new(app, tx, id, slot, mac);
        if !blocked && self.busies[slot].flags & (busy::PROBE_WINDOW | busy::KEEP_ALIVE) != 0 {
            blocked = !self.send_probe(tx, id, slot, mac);
        }
        if !blocked && self.busies[slot].flags & busy::ACK_NOW != 0 {
            blocked = !self.send_ack(tx, id, slot, mac);
        }
        self.set_timers(id, slot);
        if blocked {
            return self.mark_dirty(id);
        }
        self.settle(app, id, slot);
    }

    /// The station the connection's frames go to. `None` if that is not known yet, or never will be.
    #[inline]
    fn hop<A: App>(&mut self, app: &mut A, id: u32, slot: u32) -> Option<MacAddr> {
        let now = self.now;
        let known = self.busies[slot].neighbor.and_then(|index| self.neighbors.resolution(index, now));
        let resolution = match known {
            Some(resolution) => resolution,
            None => {
                let c = &self.conns[id];
                let hop = self.next_hop(self.remote(c.remote, c.flags))?;
                let (index, resolution) = self.neighbors.resolve(hop, now)?;
                self.busies[slot].neighbor = Some(index);
                resolution
            }
        };
        match resolution {
            Resolution::Ready(mac) => return Some(mac),
            Resolution::Pending => {
                if self.unresolved.len() < self.unresolved.capacity() {
                    self.unresolved.push(id);
                }
            }
            Resolution::Failed => {
                self.stats.dropped.count(DropReason::NeighborUnresolved);
                if self.conns[id].state == State::SynSent {
                    self.remove(app, id, End::Unreachable);
                    return None;
                }
            }
        }
        self.set_timers(id, slot);
        None
    }

    /// Puts those that waited for a next hop back on the list.
    pub(crate) fn wake_unresolved(&mut self) {
        while let Some(id) = self.unresolved.pop() {
            if self.conns.get(id).is_some() {
                self.mark_dirty(id);
            }
        }
        self.syns_woken = !self.unresolved_syns.is_empty();
    }

    #[inline]
    fn has_unsent(&self, id: u32, slot: u32) -> bool {
        self.busies[slot].snd_end.after(self.conns[id].snd_nxt)
    }

    /// Sends again what is marked lost, as far as the window allows. False if the device has no room.
    #[inline]
    fn retransmit<A: App, D: Device>(&mut self, app: &A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        if self.busies[slot].lost == 0 {
            return true;
        }
        let mut cursor = self.flights.front(&self.busies[slot]);
        let mut budget = SEGMENTS_MAX;
        while let Some(at) = cursor {
            if self.busies[slot].lost == 0 || budget == 0 {
                break;
            }
            if !self.flights.get(at).has(sent::LOST) {
                cursor = self.flights.next(at);
                continue;
            }
            let (c, b) = (&self.conns[id], &self.busies[slot]);
            let pipe = recovery::pipe(c, b);
            if pipe > 0 && pipe + u32::from(self.flights.get(at).len) > b.cwnd {
                break;
            }
            if !self.resend(app, tx, id, slot, mac, at) {
                return false;
            }
            budget -= 1;
            cursor = self.flights.next(at);
        }
        true
    }

    /// Sends one segment of the flight again.
    fn resend<A: App, D: Device>(
        &mut self,
        app: &A,
        tx: &mut Tx<'_, D>,
        id: u32,
        slot: u32,
        mac: MacAddr,
        at: super::flight::Cursor,
    ) -> bool {
        let c = &self.conns[id];
        let limit = c.payload_max();
        let record = *self.flights.get(at);
        let payload = record.payload();
        if payload > limit {
            // the path's MTU has shrunk since
            let first = limit + u32::from(record.has(sent::SYN));
            self.flights.split(&mut self.busies[slot], at, first as u16);
        }
        let record = *self.flights.get(at);
        let payload = record.payload();
        let last = record.end() == self.busies[slot].snd_end || record.has(sent::FIN);
        let flags = self.segment_flags(id, &record, last && payload > 0);
        let next = Next { seq: record.start, payload, flags, data: false };
        if !self.build(app, tx, id, slot, mac, next) {
            return false;
        }
        let now_us = self.now_us;
        let b = &mut self.busies[slot];
        let record = self.flights.get_mut(at);
        let len = u32::from(record.len);
        if record.has(sent::LOST) {
            b.lost -= len;
            b.pipe += len;
        }
        record.flags = record.flags & !sent::LOST | sent::RESENT;
        record.sent_us = now_us;
        record.resent = record.resent.saturating_add(1);
        b.prr_out = b.prr_out.saturating_add(len);
        if b.phase != Phase::Open {
            b.undo_resent = b.undo_resent.saturating_add(1);
        }
        self.stats.segments_retransmitted.increment();
        if record.has(sent::SYN) && self.conns[id].state == State::SynSent {
            self.stats.syn_retransmitted.increment();
            self.conns[id].flags |= flag::SYN_RESENT;
        }
        true
    }

    /// Sends a tail loss probe if one is due (TLP_send_probe(), RFC 8985 §7.3): new data if there is any and the peer's
    /// window takes it, or else the newest segment again. False if the device has no room.
    fn probe_tail<A: App, D: Device>(&mut self, app: &A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        let b = &mut self.busies[slot];
        if b.flags & busy::PROBE_TAIL == 0 {
            return true;
        }
        b.flags &= !busy::PROBE_TAIL;
        let Some(newest) = self.flights.back(b).filter(|_| b.phase == Phase::Open && b.flags & busy::PROBE_OUT == 0)
        else {
            return true;
        };
        // The congestion window does not hold a probe back
        let window = core::mem::replace(&mut b.cwnd, u32::MAX);
        let new = self.next_new(id, slot);
        self.busies[slot].cwnd = window;
        let sent = match new {
            Some((payload, fin)) => self.send_one(app, tx, id, slot, mac, payload, fin),
            None => self.resend(app, tx, id, slot, mac, newest),
        };
        let b = &mut self.busies[slot];
        if !sent {
            b.flags |= busy::PROBE_TAIL;
            return false;
        }
        b.flags |= busy::PROBE_OUT | if new.is_none() { busy::PROBE_RESENT } else { 0 };
        b.recover = self.conns[id].snd_nxt;
        self.stats.tail_loss_probes.increment();
        true
    }

    fn segment_flags(&self, id: u32, record: &Sent, push: bool) -> Flags {
        let mut flags = if record.has(sent::SYN) { Flags::SYN } else { Flags::ACK };
        if record.has(sent::SYN) && self.conns[id].state != State::SynSent {
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

    /// Sends new data and FIN, as far as both windows allow. False if the device has no room.
    #[inline]
    fn send_new<A: App, D: Device>(&mut self, app: &A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        if self.conns[id].state == State::SynSent {
            return self.conns[id].snd_nxt != self.conns[id].snd_una || self.send_syn(app, tx, id, slot, mac);
        }
        if self.conns[id].state == State::SynReceived {
            // our SYN is out and comes again, with an ACK now
            return self.busies[slot].flags & busy::ACK_NOW == 0 || self.send_ack(tx, id, slot, mac);
        }
        for _ in 0..SEGMENTS_MAX {
            let Some((payload, fin)) = self.next_new(id, slot) else { return true };
            if !self.send_one(app, tx, id, slot, mac, payload, fin) {
                return false;
            }
        }
        // more to send than one pass allows: go on in the next
        self.mark_dirty(id);
        true
    }

    /// Sends one segment of new data, FIN or both. False if the device has no room.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    fn send_one<A: App, D: Device>(
        &mut self,
        app: &A,
        tx: &mut Tx<'_, D>,
        id: u32,
        slot: u32,
        mac: MacAddr,
        payload: u32,
        fin: bool,
    ) -> bool {
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        let seq = c.snd_nxt;
        let mut flags = Flags::ACK;
        if fin {
            flags |= Flags::FIN;
        }
        if payload > 0 && (fin || seq + payload == b.snd_end) {
            flags |= Flags::PSH;
        }
        if b.flags & busy::CWR != 0 && payload > 0 {
            flags |= Flags::CWR;
        }
        let len = payload + u32::from(fin);
        let record = Sent {
            start: seq,
            len: len as u16,
            flags: if fin { sent::FIN } else { 0 },
            resent: 0,
            sent_us: self.now_us,
        };
        if !self.flights.push(&mut self.busies[slot], record) {
            return false;
        }
        if !self.build(app, tx, id, slot, mac, Next { seq, payload, flags, data: true }) {
            self.flights.pop_back(&mut self.busies[slot]);
            return false;
        }
        let b = &mut self.busies[slot];
        b.pipe += len;
        b.prr_out = b.prr_out.saturating_add(len);
        b.flags &= !(busy::CWR | busy::OVERRIDE);
        if b.timers & 1 == 0 {
            b.oldest_ms = self.now_ms;
        }
        self.conns[id].snd_nxt += len;
        self.stats.payload_sent.add(u64::from(payload));
        true
    }

    /// How much new data may go now, and whether the FIN goes with it. `None`: nothing.
    #[inline]
    fn next_new(&self, id: u32, slot: u32) -> Option<(u32, bool)> {
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        let fin_sent = c.snd_nxt.after(b.snd_end);
        let fin_due = b.flags & busy::FIN_QUEUED != 0 && !fin_sent;
        let unsent = if fin_sent { 0 } else { b.snd_end - c.snd_nxt };
        if unsent == 0 && !fin_due {
            return None;
        }
        let edge = c.snd_una + c.send_window();
        let window = if edge.after(c.snd_nxt) { edge - c.snd_nxt } else { 0 };
        let mss = c.payload_max();
        let payload = unsent.min(mss).min(window);
        let fin = fin_due && payload == unsent && window > payload;
        if payload == 0 && !fin {
            return None;
        }
        let pipe = recovery::pipe(c, b);
        if pipe > 0 && pipe + payload + u32::from(fin) > b.cwnd {
            return None;
        }
        // Sender's silly window avoidance (§3.8.6.2.1), and Nagle's algorithm (§3.7.4)
        if payload < mss && payload > 0 && !fin {
            let all = payload == unsent;
            let idle = c.snd_nxt == c.snd_una;
            let nagle_holds = self.config.nagle && !idle;
            let forced = b.flags & busy::OVERRIDE != 0;
            if !(forced || all && !nagle_holds || payload >= b.snd_wnd_max / 2) {
                return None;
            }
        }
        Some((payload, fin))
    }

    /// Sends our SYN for the first time.
    fn send_syn<A: App, D: Device>(&mut self, app: &A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        let iss = self.conns[id].snd_nxt;
        let record = Sent { start: iss, len: 1, flags: sent::SYN, resent: 0, sent_us: self.now_us };
        if !self.flights.push(&mut self.busies[slot], record) {
            return false;
        }
        if !self.build(app, tx, id, slot, mac, Next { seq: iss, payload: 0, flags: Flags::SYN, data: false }) {
            self.flights.pop_back(&mut self.busies[slot]);
            return false;
        }
        self.conns[id].snd_nxt = iss + 1;
        let b = &mut self.busies[slot];
        b.pipe = 1;
        b.oldest_ms = self.now_ms;
        true
    }

    /// Sends an acknowledgement without data.
    pub(crate) fn send_ack<D: Device>(&mut self, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        let c = &self.conns[id];
        // In SYN-RECEIVED after SYNs crossed, what acknowledges is our SYN again (RFC 9293 figure 7)
        let (seq, flags) = match c.state {
            State::SynReceived => (c.snd_una, Flags::SYN_ACK),
            _ => (c.snd_nxt, Flags::ACK),
        };
        let sent = self.build(&NoPayload, tx, id, slot, mac, Next { seq, payload: 0, flags, data: false });
        if sent {
            self.stats.acks_sent.increment();
        }
        sent
    }

    /// Sends a zero-window probe (RFC 9293 §3.8.6.1) or a keep-alive probe (§3.8.4): a sequence number the peer has acknowledged draws an ACK, which
    /// tells the window.
    fn send_probe<D: Device>(&mut self, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) -> bool {
        let seq = self.conns[id].snd_una - 1;
        let next = Next { seq, payload: 0, flags: Flags::ACK, data: false };
        let sent = self.build(&NoPayload, tx, id, slot, mac, next);
        if sent {
            self.busies[slot].flags &= !(busy::PROBE_WINDOW | busy::KEEP_ALIVE);
        }
        sent
    }

    /// Acknowledges at once if the segment just worked on has to be acknowledged by itself.
    #[inline]
    pub(crate) fn ack_each<D: Device>(&mut self, tx: &mut Tx<'_, D>, id: u32) {
        let Some(c) = self.conns.get(id) else { return };
        let slot = c.busy;
        if slot == NONE || self.busies[slot].flags & busy::ACK_EACH == 0 {
            return;
        }
        let now = self.now;
        let b = &mut self.busies[slot];
        b.flags &= !busy::ACK_EACH;
        let known = b.neighbor.and_then(|index| self.neighbors.resolution(index, now));
        let resolution = known.or_else(|| {
            let c = &self.conns[id];
            let hop = self.next_hop(self.remote(c.remote, c.flags))?;
            self.neighbors.resolve(hop, now).map(|(_, resolution)| resolution)
        });
        if let Some(Resolution::Ready(mac)) = resolution {
            self.send_ack(tx, id, slot, mac);
        }
    }

    /// Builds a segment of a connection and hands it to the device. Every segment acknowledges.
    fn build<A: App, D: Device>(
        &mut self,
        app: &A,
        tx: &mut Tx<'_, D>,
        id: u32,
        slot: u32,
        mac: MacAddr,
        next: Next,
    ) -> bool {
        let syn = next.flags.syn();
        let remote = {
            let c = &self.conns[id];
            self.remote(c.remote, c.flags)
        };
        let ack_due = self.busies[slot].flags & busy::ACK_NOW != 0 || self.busies[slot].unacked_segments > 0;
        let window = if syn { self.syn_window() } else { self.advertise(id) };
        let options =
            if syn { self.own_syn_options(id, remote) } else { self.segment_options(id, slot, remote, &next) };
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        let mut flags = next.flags;
        let mut ecn = Ecn::NotCapable;
        if c.has(flag::ECN) && !syn {
            if b.flags & busy::ECE != 0 {
                flags |= Flags::ECE;
            }
            if next.data && next.payload > 0 {
                ecn = Ecn::Capable0;
            }
        } else if syn {
            flags |= self.ecn_setup(id, flags);
        }
        let segment = OutSegment {
            link: tx.link(mac),
            source: self.locals.address(c.local),
            destination: remote,
            source_port: c.local_port,
            destination_port: c.remote_port,
            seq: next.seq,
            ack: if flags.ack() { c.rcv_nxt } else { Seq(0) },
            flags,
            window,
            urgent_pointer: 0,
            hop_limit: HOP_LIMIT,
            ecn,
            options,
        };
        let len = segment.header_len() + next.payload as usize;
        let built = tx.frame(len, |out| {
            segment.emit_with(out, next.payload as usize, |payload| self.fill(app, slot, next.seq, payload)).ok()
        });
        if built {
            self.stats.segments_sent.increment();
            if ack_due && flags.ack() {
                let b = &mut self.busies[slot];
                b.flags &= !busy::ACK_NOW;
                b.unacked_segments = 0;
                b.timers &= !2;
            }
        }
        built
    }

    fn own_syn_options(&self, id: u32, remote: IpAddr) -> TcpOptions {
        let c = &self.conns[id];
        let first = c.state == State::SynSent;
        let mut offer = c.flags & (flag::TIMESTAMPS | flag::SACK | flag::SCALING);
        if first {
            offer = 0;
            for (wanted, bit) in [
                (self.config.timestamps, flag::TIMESTAMPS),
                (self.config.sack, flag::SACK),
                (self.config.window_scaling, flag::SCALING),
            ] {
                offer |= if wanted { bit } else { 0 };
            }
        }
        let timestamps = (offer & flag::TIMESTAMPS != 0)
            .then(|| Timestamps { value: self.timestamp(c.local, remote), echo: c.ts_recent });
        self.syn_options(remote.is_ipv6(), offer, timestamps)
    }

    #[inline]
    fn segment_options(&mut self, id: u32, slot: u32, remote: IpAddr, next: &Next) -> TcpOptions {
        let c = &self.conns[id];
        let mut options = TcpOptions::NONE;
        if c.has(flag::TIMESTAMPS) {
            options.timestamps = Some(Timestamps { value: self.timestamp(c.local, remote), echo: c.ts_recent });
        }
        let b = &self.busies[slot];
        if c.has(flag::SACK) && (b.ahead_head != NONE || b.duplicate) && next.payload == 0 {
            let room = if options.timestamps.is_some() { 3 } else { 4 };
            options.sack = self.sack_blocks(slot, room);
        }
        options
    }

    /// ECN-setup SYN and SYN-ACK (RFC 3168 §6.1.1).
    fn ecn_setup(&self, id: u32, flags: Flags) -> Flags {
        match (flags.ack(), self.config.ecn) {
            (false, crate::config::Ecn::On) => Flags::ECE | Flags::CWR,
            (true, _) if self.conns[id].has(flag::ECN) => Flags::ECE,
            _ => Flags::NONE,
        }
    }

    /// Writes the payload from `seq` on: what was written by the application, or what it writes again.
    #[inline]
    fn fill<A: App>(&self, app: &A, slot: u32, seq: Seq, out: &mut [u8]) {
        let b = &self.busies[slot];
        if b.flags & busy::BUFFERED != 0 {
            let chain = Chain { head: b.write_head, tail: b.write_tail };
            return self.buffers.copy(&chain, seq, out);
        }
        let spans = &b.span[..usize::from(b.spans)];
        let (mut seq, mut out) = (seq, out);
        for (i, span) in spans.iter().enumerate() {
            let end = spans.get(i + 1).map_or(b.snd_end, |next| next.start);
            if seq.before(end) && !out.is_empty() {
                let n = ((end - seq) as usize).min(out.len());
                let (piece, rest) = out.split_at_mut(n);
                app.fill(span.tag, seq - span.start, piece);
                out = rest;
                seq += n as u32;
            }
        }
    }

    /// RST to the peer, and the end (RFC 9293 §3.10.5).
    fn abort<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>, id: u32) {
        let c = &self.conns[id];
        // Before SYN is answered the peer knows nothing of it, and after both FINs it has nothing to say
        let told = !matches!(c.state, State::SynSent | State::Closing | State::LastAck | State::TimeWait);
        let remote = self.remote(c.remote, c.flags);
        if told {
            let timestamps = c
                .has(flag::TIMESTAMPS)
                .then(|| Timestamps { value: self.timestamp(c.local, remote), echo: c.ts_recent });
            let reply = Reply {
                mac: None,
                local: c.local,
                remote,
                ports: (c.local_port, c.remote_port),
                seq: c.snd_nxt,
                ack: c.rcv_nxt,
                flags: Flags::RST_ACK,
                window: 0,
                options: TcpOptions { timestamps, ..TcpOptions::NONE },
            };
            self.reply(tx, &reply);
            self.stats.resets_sent.increment();
        }
        self.remove(app, id, End::Aborted);
    }

    /// Starts and stops the timers by what is in flight and queued (RFC 6298 §5, RFC 9293 §3.8.6.1).
    #[inline]
    pub(crate) fn set_timers(&mut self, id: u32, slot: u32) {
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        if b.flight_head != NONE || c.state == State::SynSent {
            if b.timers & 1 == 0 {
                b.flags &= !(busy::PERSIST | busy::PROBE_TIMER);
                let timeout = match recovery::probe_timeout_ms(&self.flights, c, b, &self.config) {
                    Some(timeout) => {
                        b.flags |= busy::PROBE_TIMER;
                        timeout
                    }
                    None => rtt::rto_ms(b, &self.config),
                };
                b.rtx_at = self.now_ms.wrapping_add(timeout.max(1));
                b.timers |= 1;
            }
        } else {
            let fin_due = b.flags & busy::FIN_QUEUED != 0 && !c.snd_nxt.after(b.snd_end);
            let waiting = (b.snd_end.after(c.snd_nxt) || fin_due) && c.state != State::SynReceived;
            if !waiting {
                b.timers &= !1;
                b.flags &= !busy::PERSIST;
            } else if b.timers & 1 == 0 {
                // the peer's window is shut, or too small to be worth a segment
                b.flags |= busy::PERSIST;
                b.rtx_at = self.now_ms.wrapping_add(rtt::rto_ms(b, &self.config).max(1));
                b.timers |= 1;
            }
        }
        if b.unacked_segments > 0 && b.timers & 2 == 0 {
            b.ack_at = self.now_ms.wrapping_add(self.config.ack_delay.as_millis().max(1) as u32);
            b.timers |= 2;
            self.stats.acks_delayed.increment();
        }
        if c.state == State::FinWait2 && b.timers & 4 == 0 {
            b.misc_at = self.now_ms.wrapping_add(self.config.fin_wait_2.as_millis().max(1) as u32);
            b.timers |= 4;
        }
        self.schedule(slot);
    }

    /// Puts the busy block on the wheel at the earliest of its deadlines.
    pub(crate) fn schedule(&mut self, slot: u32) {
        let b = &self.busies[slot];
        let mut earliest: Option<u32> = None;
        for (bit, at) in [(1, b.rtx_at), (2, b.ack_at), (4, b.misc_at)] {
            if b.timers & bit != 0 && earliest.is_none_or(|e| (at.wrapping_sub(e) as i32) < 0) {
                earliest = Some(at);
            }
        }
        match earliest {
            Some(at) => self.wheel.schedule(&mut self.busies, slot, at),
            None => self.wheel.cancel(&mut self.busies, slot),
        }
    }

    /// What becomes of a connection that has said all it had to: TIME-WAIT, the end, or rest without a busy block.
    #[inline]
    fn settle<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        match c.state {
            State::TimeWait | State::Closed if b.read_head != NONE => return,
            State::TimeWait => return self.enter_time_wait(app, id),
            State::Closed => return self.remove(app, id, End::Closed),
            State::Established | State::CloseWait => {}
            _ => return,
        }
        let quiet = b.flight_head == NONE
            && !b.snd_end.after(c.snd_nxt)
            && b.read_head == NONE
            && b.ahead_head == NONE
            && b.unacked_segments == 0
            && b.phase == Phase::Open
            && b.flags & !busy::FORGETTABLE == 0;
        if !quiet {
            return;
        }
        // A window that has grown is kept for as long as RFC 5681 §4.1 lets it be used: one RTO.
        if b.cwnd > congestion::initial_window(c.payload_max(), &self.config) {
            if b.timers & 4 == 0 {
                let at = self.now_ms.wrapping_add(rtt::rto_ms(b, &self.config).max(1));
                let b = &mut self.busies[slot];
                b.misc_at = at;
                b.timers |= 4;
                self.schedule(slot);
            }
            return;
        }
        self.detach(id);
    }
}

impl Sent {
    /// Octets of payload.
    #[inline]
    fn payload(&self) -> u32 {
        u32::from(self.len) - u32::from(self.has(sent::SYN)) - u32::from(self.has(sent::FIN))
    }
}

/// Stands where an application is asked for payload, for segments that have none.
struct NoPayload;

impl App for NoPayload {
    fn accepted(&mut self, _: &mut super::Conn<'_>, _: usize) {}

    fn connected(&mut self, _: &mut super::Conn<'_>) {}

    fn received(&mut self, _: &mut super::Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }

    fn finished(&mut self, _: &mut super::Conn<'_>) {}

    fn closed(&mut self, _: crate::app::ConnId, _: u64, _: End, _: crate::time::Instant) {}

    fn fill(&self, _: u32, _: u32, _: &mut [u8]) {}
}
