//! SYN-SENT (RFC 9293 §3.10.7.3): the answer to our SYN, or a SYN that crosses it.

use crate::app::{App, End};
use crate::config::Ecn;
use crate::device::Device;
use crate::wire::{DropReason, Flags, TcpSegment};

use super::block::{Phase, busy, flag};
use super::conn::Conn;
use super::output::Tx;
use super::recovery::{self, Acked};
use super::state::{Event, State};
use super::{Tcp, congestion, rtt};

impl Tcp {
    /// A segment for a connection in SYN-SENT. True if it may carry text to be worked on further.
    pub(crate) fn syn_sent_segment<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        id: u32,
        seg: &TcpSegment,
    ) -> bool {
        let c = &self.conns[id];
        // first, the ACK
        let acceptable = seg.ack.after(c.snd_una) && seg.ack.at_or_before(c.snd_nxt);
        if seg.flags.ack() && !acceptable {
            if !seg.flags.rst() {
                self.reset(tx, seg);
            }
            return false;
        }
        // second, RST
        //= RFC 5961 3.2-MUST-4
        if seg.flags.rst() {
            if seg.flags.ack() {
                self.remove(app, id, End::Refused);
            } else {
                self.stats.dropped.count(DropReason::NoAck);
            }
            return false;
        }
        // fourth, SYN
        if !seg.flags.syn() {
            self.stats.dropped.count(DropReason::NoFlow);
            return false;
        }
        self.take_syn(id, seg);
        if seg.flags.ack() {
            self.take_syn_ack(app, id, seg);
            true
        } else {
            let c = &mut self.conns[id];
            //= RFC 9293 MUST-10
            c.state = c.state.after(Event::ReceiveSyn);
            if let Some(slot) = self.attach(id) {
                self.busies[slot].flags |= busy::ACK_NOW;
                self.mark_dirty(id);
            }
            false
        }
    }

    /// IRS, RCV.NXT and the options of the peer's SYN.
    fn take_syn(&mut self, id: u32, seg: &TcpSegment) {
        let offer = self.agree(seg);
        let (scale, window, now_ms) = (self.receive_scale(), self.syn_window(), self.now_ms);
        //= RFC 3168 6.1.1-MUST-2, 6.1.1-MUST-4
        let accepts_ecn = match (self.config.ecn, seg.flags.ack()) {
            (Ecn::On, true) => seg.flags.contains(Flags::ECE) && !seg.flags.contains(Flags::CWR),
            (Ecn::Off, _) | (_, true) => false,
            (_, false) => seg.flags.contains(Flags::ECE | Flags::CWR),
        };
        let c = &mut self.conns[id];
        c.rcv_nxt = seg.seq + 1;
        c.rcv_adv = c.rcv_nxt + u32::from(window);
        c.mss = offer.mss;
        c.flags |= offer.flags | if accepts_ecn { flag::ECN } else { 0 };
        c.scales = if c.has(flag::SCALING) { offer.snd_scale | scale << 4 } else { 0 };
        c.ts_recent = offer.ts_recent;
        c.heard_ms = now_ms;
        // a window on a SYN is not scaled; what is kept is, rounded down
        //= RFC 7323 2.2-MUST-3
        c.snd_wnd = (u32::from(seg.window) >> c.snd_scale()) as u16;
        c.snd_wl1 = seg.seq;
    }

    /// Our SYN is acknowledged: ESTABLISHED.
    fn take_syn_ack<A: App>(&mut self, app: &mut A, id: u32, seg: &TcpSegment) {
        let Some(slot) = self.attach(id) else { return };
        let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
        let env = recovery::Env { now_us, now_ms, age_us, config: &self.config, stats: &self.stats };
        let (c, b) = (&mut self.conns[id], &mut self.busies[slot]);
        let mut acked = Acked::default();
        recovery::take_cumulative(&mut self.flights, b, seg.ack, &env, &mut acked);
        c.snd_una = seg.ack;
        c.state = c.state.after(Event::ReceiveSynAck);
        if let Some(rtt_us) = acked.rtt_us {
            rtt::sample(b, rtt_us);
        }
        (b.phase, b.backoff, b.timeouts, b.timers) = (Phase::Open, 0, 0, 0);
        congestion::restart(b, c.payload_max(), 0, &self.config);
        if c.has(flag::SYN_RESENT) {
            // RFC 5681 §3.1: a lost SYN leaves one segment of initial window
            //= RFC 5681 3.1-MUST-1
            //= RFC 6928 2-MUST-1
            b.cwnd = c.payload_max();
            b.flags |= busy::SYN_LOST;
        }
        b.snd_wnd_max = u32::from(seg.window);
        b.ack_sent = c.rcv_nxt;
        b.flags |= busy::ACK_NOW | busy::HANDSHAKE;
        if seg.window > 0 && c.snd_wnd == 0 {
            // Less than a unit of the peer's scale, so that only its next window can be kept: it is asked for without
            // waiting for an RTO, if there is something to send by then
            b.flags |= busy::PERSIST;
            b.timers |= 1;
            b.rtx_at = self.now_ms.wrapping_add(1);
        }
        self.mark_dirty(id);
        self.stats.established.increment();
        app.connected(&mut Conn { tcp: self, id });
    }

    /// The ACK of our SYN in SYN-RECEIVED, after SYNs crossed: ESTABLISHED.
    pub(crate) fn simultaneous_open<A: App>(&mut self, app: &mut A, id: u32) {
        let c = &mut self.conns[id];
        debug_assert_eq!(c.state, State::SynReceived);
        c.state = c.state.after(Event::ReceiveAckOfSyn);
        if let Some(slot) = self.attach(id) {
            let (c, b) = (&self.conns[id], &mut self.busies[slot]);
            congestion::restart(b, c.payload_max(), 0, &self.config);
            self.mark_dirty(id);
        }
        self.stats.established.increment();
        app.connected(&mut Conn { tcp: self, id });
    }
}
