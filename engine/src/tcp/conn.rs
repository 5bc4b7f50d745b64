//! The application's side of a connection.

use core::time::Duration;

use crate::app::{App, ConnId, Endpoints, Report};
use crate::time::Instant;

use super::block::{Span, busy, flag};
use super::buffer::Chain;
use super::state::{Event, State};
use super::{NONE, Tcp};

/// Most octets queued on one connection: well within half the sequence space.
const QUEUE_MAX: u32 = 1 << 30;

/// A connection, as an [`App`] sees it during a callback.
///
/// What is asked for here is sent at the end of the burst.
pub struct Conn<'a> {
    pub(super) tcp: &'a mut Tcp,
    pub(super) id: u32,
}

impl Conn<'_> {
    /// The connection's name.
    #[inline]
    pub fn id(&self) -> ConnId {
        ConnId(self.id)
    }

    /// The application's word; 0, or what [`Net::connect`](super::Net::connect) was given, at first.
    #[inline]
    pub fn word(&self) -> u64 {
        self.tcp.conns[self.id].word
    }

    /// Replaces the application's word.
    #[inline]
    pub fn set_word(&mut self, word: u64) {
        self.tcp.conns[self.id].word = word;
    }

    /// When the burst that is being worked on was received: the time of this pass.
    #[inline]
    pub fn now(&self) -> Instant {
        self.tcp.now
    }

    /// When the segment that is being worked on arrived, where the device stamps frames; else, and outside of a burst,
    /// [`now`](Self::now).
    #[inline]
    pub fn arrived(&self) -> Instant {
        self.tcp.arrived()
    }

    /// The state of RFC 9293.
    #[inline]
    pub fn state(&self) -> State {
        self.tcp.conns[self.id].state
    }

    /// Addresses and ports of both ends.
    pub fn endpoints(&self) -> Endpoints {
        self.tcp.endpoints(self.id)
    }

    /// Whether our SYN had to be sent more than once.
    #[inline]
    pub fn syn_retransmitted(&self) -> bool {
        self.tcp.conns[self.id].has(flag::SYN_RESENT)
    }

    /// Whether the ACK that ends our handshake waits for data that it can ride on ([`TcpConfig::piggyback`]).
    ///
    /// [`TcpConfig::piggyback`]: crate::config::TcpConfig::piggyback
    #[inline]
    pub fn handshake_ack_waits(&self) -> bool {
        self.tcp.config.piggyback
    }

    /// Whether the peer's FIN has arrived, with all before it.
    #[inline]
    pub fn peer_finished(&self) -> bool {
        matches!(self.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed)
    }

    /// Octets queued and not yet acknowledged.
    #[inline]
    pub fn queued(&self) -> u32 {
        let c = &self.tcp.conns[self.id];
        if c.busy == NONE {
            return 0;
        }
        let b = &self.tcp.busies[c.busy];
        if b.snd_end.after(c.snd_una) { b.snd_end - c.snd_una } else { 0 }
    }

    /// Most octets of payload in a segment to the peer, now: its MSS option, the path's MTU and our options bound it.
    pub fn payload_max(&self) -> u16 {
        self.tcp.conns[self.id].payload_max() as u16
    }

    /// Octets received in order that the application has not taken yet.
    pub fn unread(&self) -> u32 {
        let slot = self.tcp.conns[self.id].busy;
        if slot == NONE { 0 } else { self.tcp.busies[slot].read_bytes }
    }

    /// Queues a message of `len` octets that [`App::fill`] can write as often as needed.
    ///
    /// False, and nothing is queued, if four messages are unacknowledged already, if [`write`](Conn::write) has
    /// octets unacknowledged, if 2³⁰ octets are queued, or after [`close`](Conn::close).
    #[inline]
    pub fn send(&mut self, tag: u32, len: u32) -> bool {
        let Tcp { conns, busies, dirty, .. } = &mut *self.tcp;
        let c = &conns[self.id];
        if !c.state.may_send() {
            return false;
        }
        let Some(b) = busies.get_mut(c.busy) else { return self.send_idle(tag, len) };
        // before our FIN is queued, SND.UNA is not beyond the end
        let queued = b.snd_end - c.snd_una;
        let refused = b.flags & (busy::FIN_QUEUED | busy::ABORT | busy::BUFFERED) != 0;
        if refused || queued.saturating_add(len) > QUEUE_MAX {
            return false;
        }
        let Some(span) = b.span.get_mut(usize::from(b.spans)) else { return false };
        *span = Span { start: b.snd_end, tag };
        b.spans += 1;
        b.snd_end += len;
        b.list(dirty);
        true
    }

    /// [`send`](Self::send) on a connection that has no busy block yet. By itself: a call that comes back would cost every
    /// other one the registers that it has to save.
    #[cold]
    #[inline(never)]
    fn send_idle(&mut self, tag: u32, len: u32) -> bool {
        self.tcp.attach(self.id).is_some() && self.send(tag, len)
    }

    /// Queues a copy of `data`. Returns how many octets found room: the connection's send buffer and the worker's
    /// memory are bounded. Zero while messages of [`send`](Conn::send) are unacknowledged, and after
    /// [`close`](Conn::close). If the worker's memory is out while nothing is queued, no callback tells when to try again.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let queued = self.queued();
        let room = self.tcp.config.send_buffer.saturating_sub(queued) as usize;
        let data = &data[..data.len().min(room)];
        if !self.state().may_send() {
            return 0;
        }
        let Some(slot) = self.tcp.attach(self.id) else { return 0 };
        let b = &self.tcp.busies[slot];
        if b.flags & (busy::FIN_QUEUED | busy::ABORT) != 0 || b.spans > 0 || data.is_empty() {
            return 0;
        }
        let mut chain = Chain { head: b.write_head, tail: b.write_tail };
        let seq = b.snd_end;
        let written = self.tcp.buffers.append(&mut chain, seq, data);
        let b = &mut self.tcp.busies[slot];
        (b.write_head, b.write_tail) = (chain.head, chain.tail);
        if written > 0 {
            b.flags |= busy::BUFFERED;
            b.snd_end += written as u32;
            self.tcp.mark_dirty(self.id);
        }
        written
    }

    /// Octets that [`write`](Conn::write) would take now.
    pub fn write_room(&self) -> usize {
        self.tcp.config.send_buffer.saturating_sub(self.queued()) as usize
    }

    /// Turns Nagle's algorithm (RFC 9293 §3.7.4) on or off for this connection; it begins as configured.
    //= RFC 9293 MUST-17
    pub fn set_nagle(&mut self, on: bool) {
        self.set_policy(busy::NAGLE_OTHER, on != self.tcp.config.nagle);
    }

    /// While on, only full segments are sent; what is left goes when it is turned off, or with the FIN.
    pub fn set_cork(&mut self, on: bool) {
        self.set_policy(busy::CORK, on);
    }

    /// Has this connection probed when it is idle (RFC 9293 §3.8.4), or not; it begins as configured. Probes go after the
    /// idle time that is configured, or after two hours. While this differs from the configuration the connection keeps
    /// the memory of a busy one.
    //= RFC 9293 MUST-24
    pub fn set_keep_alive(&mut self, on: bool) {
        self.set_policy(busy::KEEP_ALIVE_OTHER, on != self.tcp.config.keepalive.is_some());
        self.tcp.keep_alive_asked |= on;
    }

    /// Sets how long data, or the SYN, may stay unacknowledged before this connection is given up (RFC 9293 §3.8.3, R2),
    /// in place of the limits configured, however often that makes it be sent again; `None` goes back to those. Rounded
    /// up to milliseconds, at most 24 days. While it is set the connection keeps the memory of a busy one.
    //= RFC 9293 MUST-21
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>) {
        self.set_policy(busy::USER_TIMEOUT, timeout.is_some());
        let slot = self.tcp.conns[self.id].busy;
        if let (Some(timeout), true) = (timeout, slot != NONE) {
            self.tcp.busies[slot].user_timeout_ms = timeout.as_micros().div_ceil(1000).clamp(1, 1 << 31) as u32;
        }
    }

    fn set_policy(&mut self, bit: u32, on: bool) {
        let slot = self.tcp.conns[self.id].busy;
        if slot == NONE && !on {
            return;
        }
        let Some(slot) = self.tcp.attach(self.id) else { return };
        let b = &mut self.tcp.busies[slot];
        b.flags = if on { b.flags | bit } else { b.flags & !bit };
        self.tcp.mark_dirty(self.id);
    }

    /// Closes our direction (RFC 9293 §3.10.4): a FIN follows the last queued octet, on its segment if it fits. The
    /// peer may go on sending.
    #[inline]
    pub fn close(&mut self) {
        let Tcp { conns, busies, dirty, .. } = &mut *self.tcp;
        let c = &mut conns[self.id];
        if !c.state.may_send() {
            return;
        }
        if c.state == State::SynSent {
            return self.abort();
        }
        let Some(b) = busies.get_mut(c.busy) else { return self.close_idle() };
        b.flags |= busy::FIN_QUEUED;
        // Called for text that the peer's FIN came with: that FIN was here first, and the state follows it.
        if !b.fin_is_next(c.rcv_nxt) {
            c.state = c.state.after(Event::Close);
        }
        b.list(dirty);
    }

    /// [`close`](Self::close) on a connection that has no busy block yet.
    #[cold]
    #[inline(never)]
    fn close_idle(&mut self) {
        if self.tcp.attach(self.id).is_some() {
            self.close();
        }
    }

    /// Ends the connection at once: RST to the peer (RFC 9293 §3.10.5), then
    /// [`App::closed`], at the end of this pass.
    pub fn abort(&mut self) {
        let Some(slot) = self.tcp.attach(self.id) else { return };
        self.tcp.busies[slot].flags |= busy::ABORT;
        self.tcp.mark_dirty(self.id);
    }

    /// Acknowledges at the end of this pass what has been received and not yet acknowledged: without the delay of RFC
    /// 9293 §3.8.6.3. False if all of it has been acknowledged.
    pub fn acknowledge(&mut self) -> bool {
        let slot = self.tcp.conns[self.id].busy;
        let due = slot != NONE && self.tcp.busies[slot].unacked_segments > 0;
        if due {
            self.tcp.ack_now(self.id);
        }
        due
    }

    /// Asks for the octets that [`App::received`] did not take: they are offered again at
    /// the end of this pass.
    pub fn resume(&mut self) {
        let slot = self.tcp.conns[self.id].busy;
        if slot == NONE {
            return;
        }
        let b = &mut self.tcp.busies[slot];
        if b.flags & busy::PAUSED != 0 {
            b.flags |= busy::RESUME;
            self.tcp.mark_dirty(self.id);
        }
    }
}

impl Tcp {
    /// Tells the application of what does not end the connection.
    pub(crate) fn report<A: App>(&mut self, app: &mut A, id: u32, report: Report) {
        app.report(&mut Conn { tcp: self, id }, report);
    }
}
