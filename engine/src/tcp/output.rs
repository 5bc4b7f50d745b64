//! When connections speak, to whom, and what becomes of them afterwards; [`send`](super::send) is what they say.
//!
//! Nothing is sent while segments are worked on, except replies without a connection. Connections with something to
//! say are put on a list, which is walked once at the end of the pass: several segments of a burst that need an
//! acknowledgement get one.

use std::net::IpAddr;

use crate::app::{App, End};
use crate::device::{Device, Frame};
use crate::neighbor::{NeighborIndex, Resolution};
use crate::stats::Stats;
use crate::wire::emit::UsualHead;
use crate::wire::ethernet::Link;
use crate::wire::usual_syn::{SynFields, UsualSyn};
use crate::wire::{DropReason, Ecn, Flags, MacAddr, OutSegment, Seq, TcpOptions, TcpSegment, Timestamps, VlanId};

use super::block::{Busy, Connection, NONE, busy, flag};
use super::flight::Flights;
use super::send::{Outcome, Sender};
use super::state::State;
use super::tunables::Tunables;
use super::{Tcp, pacing, probe, rtt};

/// What every frame of a worker begins with.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) mac: MacAddr,
    pub(crate) vlan: Option<VlanId>,
    /// The same for what most frames are, with more of it.
    pub(crate) head: UsualHead,
    /// What most SYNs and SYN-ACKs are.
    pub(crate) syn: UsualSyn,
}

/// The way out: the device, and what every frame begins with.
pub(crate) struct Tx<'a, D: Device> {
    pub(crate) device: &'a mut D,
    pub(crate) mac: MacAddr,
    pub(crate) vlan: Option<VlanId>,
    /// The same for what most frames are, with more of it.
    pub(crate) head: &'a UsualHead,
    /// What most SYNs and SYN-ACKs are.
    pub(crate) syn: &'a UsualSyn,
    pub(crate) stats: &'a Stats,
    /// The frame that is being worked on, if its reply may be built in it.
    pub(crate) spare: Option<D::Frame>,
}

impl<'a, D: Device> Tx<'a, D> {
    /// The way out of a worker by its device, with no frame being worked on.
    #[inline]
    pub(crate) fn new(device: &'a mut D, origin: &'a Origin, stats: &'a Stats) -> Self {
        let Origin { mac, vlan, head, syn } = origin;
        Self { device, mac: *mac, vlan: *vlan, head, syn, stats, spare: None }
    }

    /// The Ethernet addresses of a frame to `destination`.
    #[inline]
    pub(crate) fn link(&self, destination: MacAddr) -> Link {
        Link { source: self.mac, destination, vlan: self.vlan }
    }

    /// Sends a frame of at most `len` octets that `build` writes, returning its true length. False if there was no
    /// buffer, no room, or nothing to send.
    #[inline]
    pub(crate) fn frame(&mut self, len: usize, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let Some(mut frame) = self.reply_blank(len) else { return false };
        let Some(len) = build(frame.resize(len)) else {
            self.device.release(frame);
            return false;
        };
        frame.resize(len);
        self.send_other(frame, len)
    }

    /// [`send`](Self::send) of what is not most frequent.
    #[inline(never)]
    fn send_other(&mut self, frame: D::Frame, len: usize) -> bool {
        self.send(frame, len)
    }

    /// Takes a frame that arrived, so that an answer is built in it: its lines are in the cache. A fresh one takes its place.
    #[inline(always)]
    pub(crate) fn answer_in(&mut self, frame: &mut D::Frame) {
        self.spare = self.device.allocate().map(|fresh| core::mem::replace(frame, fresh));
    }

    /// Gives the frame back if no answer was built in it.
    #[inline(always)]
    pub(crate) fn answered(&mut self) {
        if let Some(frame) = self.spare.take() {
            self.device.release(frame);
        }
    }

    /// A frame that holds `len` octets: the one that is being worked on, if it may be had, or a fresh one. `None`, and
    /// counted, if there is none.
    #[inline(always)]
    fn reply_blank(&mut self, len: usize) -> Option<D::Frame> {
        let Some(frame) = self.spare.take() else { return self.blank(len) };
        if len > frame.capacity() {
            return self.too_small(frame);
        }
        Some(frame)
    }

    /// A fresh frame that holds `len` octets. `None`, and counted, if there is none.
    #[inline(always)]
    pub(crate) fn blank(&mut self, len: usize) -> Option<D::Frame> {
        let Some(frame) = self.device.allocate() else {
            self.stats.tx_full.increment();
            return None;
        };
        if len > frame.capacity() {
            return self.too_small(frame);
        }
        Some(frame)
    }

    #[cold]
    fn too_small(&mut self, frame: D::Frame) -> Option<D::Frame> {
        self.device.release(frame);
        self.stats.dropped.count(DropReason::TxFull);
        None
    }

    /// Hands a frame of `len` octets to the device. False if that has no room.
    #[inline(always)]
    pub(crate) fn send(&mut self, frame: D::Frame, len: usize) -> bool {
        match self.device.transmit(frame) {
            Ok(()) => {
                self.stats.tx_frames.increment();
                self.stats.tx_bytes.add(len as u64);
                true
            }
            Err(frame) => self.refused(frame),
        }
    }

    #[cold]
    fn refused(&mut self, frame: D::Frame) -> bool {
        self.device.release(frame);
        self.stats.tx_full.increment();
        false
    }

    /// Sends a SYN or SYN-ACK that offers everything over IPv4, on a link without VLAN: as nearly all do, and what an
    /// [`OutSegment`] comes to for them.
    #[inline(always)]
    pub(crate) fn usual_syn(&mut self, fields: &SynFields) -> bool {
        const LEN: usize = UsualSyn::LEN;
        let Some(mut frame) = self.reply_blank(LEN) else { return false };
        let octets = frame.resize(LEN).first_chunk_mut().expect("a frame is as long as it was made");
        self.syn.emit(octets, fields);
        self.send(frame, LEN)
    }
}

/// The turn of the connection whose blocks are `$c` and `$b` to speak to the station `$mac`. A method of [`Tcp`] would have to
/// look the blocks up again.
macro_rules! sender {
    ($tcp:ident, $c:expr, $b:expr, $app:expr, $tx:expr, $mac:expr) => {
        Sender {
            c: $c,
            b: $b,
            flights: &mut $tcp.flights,
            buffers: &$tcp.buffers,
            remotes: &$tcp.remotes,
            config: &$tcp.config,
            locals: &$tcp.locals,
            isn_key: &$tcp.isn_key,
            mtu: $tcp.mtu,
            now_us: $tcp.now_us,
            now_ms: $tcp.now_ms,
            app: $app,
            tx: $tx,
            mac: $mac,
        }
    };
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

impl Tcp {
    /// Sends a segment without a block.
    pub(crate) fn reply<D: Device>(&mut self, tx: &mut Tx<'_, D>, reply: &Reply) {
        let Some(mac) = self.station(reply.mac, reply.remote) else { return };
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
            hop_limit: self.config.hop_limit,
            dscp: self.config.dscp,
            ecn: Ecn::NotCapable,
            options: reply.options,
        };
        self.send_alone(tx, &segment);
    }

    /// The station of a segment without a block: the one that is answered, or else the next hop to `remote`. What cannot
    /// be sent is counted.
    #[inline]
    pub(crate) fn station(&mut self, answered: Option<MacAddr>, remote: IpAddr) -> Option<MacAddr> {
        if answered.is_some() {
            return answered;
        }
        let hop = self.next_hop(remote);
        match hop.and_then(|hop| self.neighbors.resolve(hop, self.now)) {
            Some((_, Resolution::Ready(mac))) => Some(mac),
            _ => {
                self.stats.dropped.count(DropReason::NeighborUnresolved);
                None
            }
        }
    }

    /// Sends a segment without a block and without data.
    #[inline(always)]
    pub(crate) fn send_alone<D: Device>(&mut self, tx: &mut Tx<'_, D>, segment: &OutSegment) {
        if tx.frame(segment.header_len(), |out| segment.emit_with(out, 0, |_| {}).ok()) {
            self.stats.segments_sent.increment();
        }
    }

    /// Answers a segment that belongs to no connection by a RST (RFC 9293 §3.10.7.1), within the limit.
    pub(crate) fn reset<D: Device>(&mut self, tx: &mut Tx<'_, D>, seg: &TcpSegment) {
        if !seg.flags.rst() && !self.shared {
            self.reset_known(tx, seg);
        }
    }

    /// Answers a segment, which is no RST, between ends that are known to be ours by RST. True if it went out.
    pub(crate) fn reset_known<D: Device>(&mut self, tx: &mut Tx<'_, D>, seg: &TcpSegment) -> bool {
        if !self.may_reset(seg) {
            self.stats.resets_limited.increment();
            self.stats.dropped.count(DropReason::RstRateLimited);
            return false;
        }
        let (link, hop_limit) = (tx.link(seg.source_mac), self.config.hop_limit);
        let Some(segment) = OutSegment::reset_for(seg, link, hop_limit) else { return false };
        let segment = OutSegment { dscp: self.config.dscp, ..segment };
        let sent = tx.frame(segment.header_len(), |out| segment.emit(out, 0).ok());
        if sent {
            self.stats.resets_sent.increment();
            self.stats.segments_sent.increment();
        }
        sent
    }

    /// The limit of all, and that of one pair of sockets: what a window full of segments draws after its connection is
    /// gone is one answer, said often.
    fn may_reset(&mut self, seg: &TcpSegment) -> bool {
        if !self.resets.ready(self.now) {
            return false;
        }
        self.resets_each.allow((self.hash_key(&seg.flow_key()) >> 32) as u32, self.now_ms)
            && self.resets.allow(self.now)
    }

    /// Step 8 of the loop: everything that the connections on the list want to say.
    //= RFC 9293 MUST-58
    // Apart from the loop's other steps: it has use for every register
    #[inline(never)]
    pub(crate) fn flush<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>) {
        // What an application does from a callback here goes on the next pass's list
        let listed = core::mem::replace(&mut self.dirty, core::mem::take(&mut self.listed));
        let mut station = None;
        for &id in &listed {
            self.output(app, tx, id, &mut station);
        }
        self.listed = listed;
        self.listed.clear();
    }

    /// Lets one connection of the list speak, if it is there still. `station`: the next hop of the one before it, and where
    /// frames go to it, which does not change within a pass unless other hops are looked up.
    #[inline(always)]
    fn output<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        station: &mut Option<(NeighborIndex, MacAddr)>,
    ) {
        let Some(c) = self.conns.get_mut(id) else { return };
        let slot = c.busy;
        let Some(b) = self.busies.get_mut(slot) else { return };
        if b.flags & busy::DIRTY == 0 {
            return;
        }
        b.flags &= !busy::DIRTY;
        // One that begins mostly goes where the one before it went
        let same = |&(remote, _): &(u32, _)| remote == c.remote && !c.has(flag::IPV6);
        let hop = b.neighbor.or_else(|| self.recent_hop.filter(same).map(|(_, index)| index));
        let known = station.filter(|&(index, _)| hop == Some(index)).or_else(|| {
            let index = hop?;
            let Resolution::Ready(mac) = self.neighbors.resolution(index, self.now)? else { return None };
            Some((index, mac))
        });
        *station = known;
        let Some((_, mac)) = known.filter(|_| b.flags & (busy::RESUME | busy::ABORT) == 0) else {
            *station = None;
            if let Some(mac) = self.before_turn(app, tx, id, slot) {
                self.long_turn(app, tx, id, slot, mac);
            }
            return;
        };
        b.neighbor = hop;
        let mut sender = sender!(self, c, b, app, tx, mac);
        match sender.short_turn() {
            Some(segment) => {
                let outcome = sender.take_short_turn(segment, &mut self.dirty);
                self.settle(app, id, slot, outcome);
            }
            None if sender.begins() => self.first_turn(app, tx, id, slot, mac),
            None => self.long_turn(app, tx, id, slot, mac),
        }
    }

    /// The turn of a connection that sends its SYN for the first time.
    #[inline(never)]
    fn first_turn<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) {
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        let outcome = sender!(self, c, b, app, tx, mac).take_first_turn(&mut self.dirty);
        self.settle(app, id, slot, outcome);
    }

    /// The turn of a connection with more to say than one segment of the usual kind.
    #[inline(never)]
    fn long_turn<A: App, D: Device>(&mut self, app: &mut A, tx: &mut Tx<'_, D>, id: u32, slot: u32, mac: MacAddr) {
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        let outcome = sender!(self, c, b, app, tx, mac).take_turn(&mut self.dirty);
        self.settle(app, id, slot, outcome);
    }

    /// Does what a turn has led to.
    #[inline(always)]
    fn settle<A: App>(&mut self, app: &mut A, id: u32, slot: u32, outcome: Outcome) {
        match outcome {
            Outcome::Stay(None) => {}
            Outcome::Stay(Some(at)) => self.wheel.start(&mut self.busies, slot, at),
            // what rests or ends has no use for the wheel
            Outcome::Rest => self.detach(id),
            Outcome::TimeWait => self.enter_time_wait(app, id),
            Outcome::Closed => self.remove(app, id, End::Closed),
        }
    }

    /// What there may be to do before a connection's turn, and the station that its frames go to. `None`: it has no turn now.
    #[inline(never)]
    fn before_turn<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        slot: u32,
    ) -> Option<MacAddr> {
        if self.busies[slot].flags & busy::RESUME != 0 {
            self.resume(app, id, slot);
        }
        if self.busies[slot].flags & busy::ABORT != 0 {
            self.abort(app, tx, id);
            return None;
        }
        self.hop(app, id, slot)
    }

    /// Offers the application again what it had not taken, as it asked.
    #[cold]
    fn resume<A: App>(&mut self, app: &mut A, id: u32, slot: u32) {
        self.deliver_unread(app, id, slot);
        if self.window_opened(id, slot) {
            self.busies[slot].flags |= busy::ACK_NOW;
        }
    }

    /// The station the connection's frames go to. `None` if that is not known yet, or never will be.
    fn hop<A: App>(&mut self, app: &mut A, id: u32, slot: u32) -> Option<MacAddr> {
        let now = self.now;
        let known = self.busies[slot].neighbor.and_then(|index| self.neighbors.resolution(index, now));
        let resolution = match known {
            Some(resolution) => resolution,
            None => {
                let (word, flags) = (self.conns[id].remote, self.conns[id].flags);
                let hop = self.next_hop(self.remote(word, flags))?;
                match self.neighbors.resolve(hop, now) {
                    Some((index, resolution)) => {
                        self.busies[slot].neighbor = Some(index);
                        if flags & flag::IPV6 == 0 {
                            self.recent_hop = Some((word, index));
                        }
                        resolution
                    }
                    None => {
                        // too many are asked for already: the retransmission timer tries again
                        self.stats.dropped.count(DropReason::NeighborUnresolved);
                        self.set_timers(id, slot);
                        return None;
                    }
                }
            }
        };
        match resolution {
            Resolution::Ready(mac) => return Some(mac),
            //= RFC 1122 2.3.2.2-SHOULD-1
            //= RFC 4861 7.2.2-MUST-3
            Resolution::Pending => {
                if self.unresolved.len() < self.unresolved.capacity() {
                    self.unresolved.push(id);
                }
            }
            //= RFC 4861 7.2.2-MUST-2
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

    /// Acknowledges at once: the segment just worked on has to be acknowledged by itself.
    #[cold]
    //= RFC 9293 MUST-59
    pub(crate) fn ack_each<A: App, D: Device>(&mut self, app: &A, tx: &mut Tx<'_, D>, id: u32) {
        let (slot, now) = (self.conns[id].busy, self.now);
        if slot == NONE {
            return;
        }
        let b = &mut self.busies[slot];
        //= RFC 5681 4.2-MUST-2
        b.flags &= !busy::ACK_EACH;
        let known = b.neighbor.and_then(|index| self.neighbors.resolution(index, now));
        let resolution = known.or_else(|| {
            let c = &self.conns[id];
            let hop = self.next_hop(self.remote(c.remote, c.flags))?;
            self.neighbors.resolve(hop, now).map(|(_, resolution)| resolution)
        });
        if let Some(Resolution::Ready(mac)) = resolution {
            let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
            sender!(self, c, b, app, tx, mac).send_ack();
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
                //= RFC 7323 3.2-SHOULD-1
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

    /// Starts and stops the timers of a connection that says nothing now.
    #[cold]
    fn set_timers(&mut self, id: u32, slot: u32) {
        let (c, b) = (&self.conns[id], &mut self.busies[slot]);
        set_timers(c, b, &self.flights, &self.config, &self.stats, self.now_ms);
        self.schedule(slot);
    }

    /// Puts the busy block on the wheel at the earliest of its deadlines.
    #[inline]
    pub(crate) fn schedule(&mut self, slot: u32) {
        if let Some(at) = deadline(&mut self.busies[slot], self.now_us, self.now_ms) {
            self.wheel.start(&mut self.busies, slot, at);
        }
    }
}

/// Starts and stops the timers by what is in flight and queued (RFC 6298 §5, RFC 9293 §3.8.6.1).
#[inline(always)]
pub(super) fn set_timers(
    c: &Connection,
    b: &mut Busy,
    flights: &Flights,
    config: &Tunables,
    stats: &Stats,
    now_ms: u32,
) {
    if !b.flight.is_empty() || c.state == State::SynSent {
        // what a full device had held back may have gone since: then a timer that waits for a window is the wrong one
        if b.timers & 1 == 0 || b.flags & busy::PERSIST != 0 {
            start_retransmission_timer(c, b, config, now_ms, |b| flights.is_single(b));
        }
    } else {
        let fin_due = b.flags & busy::FIN_QUEUED != 0 && !c.snd_nxt.after(b.snd_end);
        let waiting = (b.snd_end.after(c.snd_nxt) || fin_due) && c.state != State::SynReceived;
        if !waiting {
            b.timers &= !1;
            b.flags &= !busy::PERSIST;
            b.stalled_ms = 0;
        } else if b.timers & 1 == 0 {
            // the peer's window is shut, or too small to be worth a segment
            //= RFC 9293 MUST-36, SHLD-29
            b.flags |= busy::PERSIST;
            b.rtx_at = now_ms.wrapping_add(rtt::rto_ms(b, config).max(1));
            b.timers |= 1;
        }
    }
    //= RFC 9293 SHLD-18
    //= RFC 5681 4.2-MUST-1
    if b.unacked_segments > 0 && b.timers & 2 == 0 {
        b.ack_at = now_ms.wrapping_add(config.ack_delay_ms);
        b.timers |= 2;
        stats.acks_delayed.increment();
    }
    if c.state == State::FinWait2 && b.timers & 4 == 0 {
        b.misc_at = now_ms.wrapping_add(config.fin_wait_2_ms);
        b.timers |= 4;
    }
}

/// Starts the retransmission timer, or the one of the tail loss probe in its place. `alone`: whether no more than one segment
/// is in flight.
#[inline(always)]
pub(super) fn start_retransmission_timer(
    c: &Connection,
    b: &mut Busy,
    config: &Tunables,
    now_ms: u32,
    alone: impl FnOnce(&Busy) -> bool,
) {
    b.flags &= !(busy::PERSIST | busy::PROBE_TIMER);
    let timeout = match probe::timeout_ms(c, b, config, alone) {
        Some(timeout) => {
            b.flags |= busy::PROBE_TIMER;
            timeout
        }
        None => rtt::rto_ms(b, config),
    };
    //= RFC 6298 5-MUST-1, 5-SHOULD-1, 1-MUST-1
    b.rtx_at = now_ms.wrapping_add(timeout.max(1));
    b.timers |= 1;
}

/// The earliest of a connection's deadlines, unless the wheel has it already, or an earlier one.
#[inline]
pub(super) fn deadline(b: &mut Busy, now_us: u32, now_ms: u32) -> Option<u32> {
    if b.timers == 0 {
        // A timer that is not needed any more stays where it is until it comes or is needed again
        return None;
    }
    if b.timers == 1 {
        // as nearly always
        return Some(b.rtx_at).filter(|&at| !b.link.put_off(at));
    }
    let mut earliest: Option<u32> = None;
    for (bit, at) in [(1, b.rtx_at), (2, b.ack_at), (4, b.misc_at)] {
        if b.timers & bit != 0 && earliest.is_none_or(|e| (at.wrapping_sub(e) as i32) < 0) {
            earliest = Some(at);
        }
    }
    if b.timers & pacing::TIMER != 0 {
        let at = now_ms.wrapping_add(pacing::wait_ms(b, now_us));
        if earliest.is_none_or(|e| (at.wrapping_sub(e) as i32) < 0) {
            earliest = Some(at);
        }
    }
    earliest.filter(|&at| !b.link.put_off(at))
}
