//! SYN-SENT (RFC 9293 §3.10.7.3): our SYN, the answer to it, or a SYN that crosses it.

use std::net::{IpAddr, Ipv4Addr};

use crate::app::{App, End};
use crate::config::Ecn;
use crate::device::Device;
use crate::wire::usual_syn::SynFields;
use crate::wire::{DropReason, Flags, Seq, TcpOptions, TcpSegment};

use super::block::{Connection, Phase, Sent, busy, flag, sent};
use super::build::Next;
use super::conn::Conn;
use super::flight::Flight;
use super::listen::{self, Offer};
use super::output::Tx;
use super::recovery::{Acked, Env};
use super::send::Sender;
use super::state::{Event, State};
use super::tunables::Tunables;
use super::{Tcp, congestion, rtt, scoreboard};

/// From a RST to the peer's old connection to our SYN, ticks of the wheel: one at least passes. As in Linux.
const SYN_AGAIN_MS: u32 = 2;

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
            // The connection is ours, also where the address is not
            if !seg.flags.rst() && self.reset_known(tx, seg) {
                self.syn_again_soon(id);
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
        if seg.flags.ack() {
            self.take_syn_ack(id, seg);
            app.connected(&mut Conn { tcp: self, id });
            true
        } else {
            let offer = self.agree_as_opener(seg);
            let c = &mut self.conns[id];
            take_syn(c, seg, offer, &self.config, self.now_ms);
            //= RFC 9293 MUST-10
            c.state = c.state.after(Event::ReceiveSyn);
            if let Some(slot) = self.attach(id) {
                self.busies[slot].flags |= busy::ACK_NOW;
                self.mark_dirty(id);
            }
            false
        }
    }

    /// The peer has an old connection between these ends, in TIME-WAIT or half-open, and answers for it; our RST ends it.
    /// Nothing is lost that an RTO would have to wait for: the first SYN goes again as soon as the RST has had time to be
    /// there before it. Once, so that a stranger's guess draws no more than one.
    #[cold]
    fn syn_again_soon(&mut self, id: u32) {
        let slot = self.conns[id].busy;
        let Some(b) = self.busies.get_mut(slot) else { return };
        let first = self.flights.front(b).filter(|&at| self.flights.get(b, at).resent == 0);
        let Some(at) = first.filter(|_| b.timeouts == 0 && b.lost == 0) else { return };
        scoreboard::mark_lost(&mut self.flights, b, at);
        b.rtx_at = self.now_ms.wrapping_add(SYN_AGAIN_MS);
        b.timers |= 1;
        self.schedule(slot);
        self.stats.syn_met_old.increment();
    }

    /// What is agreed on with the peer's SYN, ECN included.
    #[inline(always)]
    fn agree_as_opener(&self, seg: &TcpSegment) -> Offer {
        let mut offer = self.agree(seg, seg.source.is_ipv6());
        //= RFC 3168 6.1.1-MUST-2, 6.1.1-MUST-4
        let accepts_ecn = match (self.config.ecn, seg.flags.ack()) {
            (Ecn::On, true) => seg.flags.contains(Flags::ECE) && !seg.flags.contains(Flags::CWR),
            (Ecn::Off, _) | (_, true) => false,
            (_, false) => seg.flags.contains(Flags::ECE | Flags::CWR),
        };
        if accepts_ecn {
            offer.flags |= flag::ECN;
        }
        offer
    }

    /// Our SYN is acknowledged: ESTABLISHED.
    #[inline(never)]
    fn take_syn_ack(&mut self, id: u32, seg: &TcpSegment) {
        let offer = self.agree_as_opener(seg);
        let Tcp { conns, busies, flights, dirty, config, stats, .. } = self;
        let c = &mut conns[id];
        take_syn(c, seg, offer, config, self.now_ms);
        // there since our SYN was queued
        let b = &mut busies[c.busy];
        let (now_us, now_ms, age_us) = (self.now_us, self.now_ms, self.age_us);
        let rtt_us = match scoreboard::take_whole(flights, b, (c.snd_una, seg.ack), sent::SYN) {
            Some(syn) => {
                let rtt_us = now_us.wrapping_sub(syn.sent_us).saturating_sub(age_us);
                scoreboard::note_delivered(b, &syn, rtt_us);
                Some(rtt_us)
            }
            None => {
                let (env, mut acked) = (Env { now_us, now_ms, age_us, config, stats }, Acked::default());
                scoreboard::take_cumulative(flights, b, seg.ack, &env, &mut acked);
                acked.rtt_us
            }
        };
        c.snd_una = seg.ack;
        c.state = c.state.after(Event::ReceiveSynAck);
        if let Some(rtt_us) = rtt_us {
            rtt::first(b, rtt_us);
        }
        (b.phase, b.backoff, b.timeouts, b.timers) = (Phase::Open, 0, 0, 0);
        congestion::restart(b, c.payload_max(), 0, config);
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
        b.list(dirty);
        stats.established.increment();
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

/// IRS, RCV.NXT and the options of the peer's SYN.
#[inline(always)]
fn take_syn(c: &mut Connection, seg: &TcpSegment, offer: Offer, config: &Tunables, now_ms: u32) {
    c.rcv_nxt = seg.seq + 1;
    c.rcv_adv = c.rcv_nxt + u32::from(config.syn_window);
    c.mss = offer.mss;
    c.flags |= offer.flags;
    c.scales = if c.has(flag::SCALING) { offer.snd_scale | config.receive_scale << 4 } else { 0 };
    c.ts_recent = offer.ts_recent;
    c.heard_ms = now_ms;
    // a window on a SYN is not scaled; what is kept is, rounded down
    //= RFC 7323 2.2-MUST-3
    c.snd_wnd = (u32::from(seg.window) >> c.snd_scale()) as u16;
    c.snd_wl1 = seg.seq;
}

impl<A: App, D: Device> Sender<'_, '_, A, D> {
    /// Sends our SYN for the first time.
    #[inline]
    pub(super) fn send_syn(&mut self) -> bool {
        let iss = self.c.snd_nxt;
        let built = if self.is_usual_syn() {
            self.build_usual_syn(iss)
        } else {
            self.build_other(Next { seq: iss, payload: 0, flags: Flags::SYN, data: false })
        };
        if !built {
            return false;
        }
        debug_assert!(self.b.flight.is_empty(), "nothing goes before it");
        self.b.flight = Flight::one(Sent { start: iss, len: 1, flags: sent::SYN, resent: 0, sent_us: self.now_us });
        self.tx.stats.segments_sent.increment();
        self.c.snd_nxt = iss + 1;
        self.b.pipe = 1;
        self.b.oldest_ms = self.now_ms;
        true
    }

    /// Whether what is to be sent is our SYN, with everything on offer, over IPv4 on a link without VLAN.
    #[inline]
    pub(super) fn is_usual_syn(&self) -> bool {
        self.c.state == State::SynSent && self.config.usual_offer && !self.c.has(flag::IPV6) && self.tx.vlan.is_none()
    }

    /// Builds such a SYN.
    #[inline(always)]
    pub(super) fn build_usual_syn(&mut self, iss: Seq) -> bool {
        let Some(source) = self.locals.address_v4(self.c.local) else { return false };
        let destination = Ipv4Addr::from_bits(self.c.remote);
        let fields = SynFields {
            station: self.mac,
            source,
            destination,
            source_port: self.c.local_port,
            destination_port: self.c.remote_port,
            seq: iss,
            ack: Seq(0),
            flags: Flags::SYN,
            timestamps: self.timestamps(IpAddr::V4(source), IpAddr::V4(destination)),
        };
        self.tx.usual_syn(&fields)
    }

    /// Options of our SYN: what we are configured for. Of our SYN-ACK, after SYNs crossed: what was agreed on.
    pub(super) fn syn_options(&self, source: IpAddr, destination: IpAddr) -> TcpOptions {
        let mut offer = self.c.flags & (flag::TIMESTAMPS | flag::SACK | flag::SCALING);
        if self.c.state == State::SynSent {
            let wanted = |wanted: bool, bit| if wanted { bit } else { 0 };
            offer = wanted(self.config.timestamps, flag::TIMESTAMPS)
                | wanted(self.config.sack, flag::SACK)
                | wanted(self.config.window_scaling, flag::SCALING);
        }
        let timestamps = (offer & flag::TIMESTAMPS != 0).then(|| self.timestamps(source, destination));
        listen::syn_options(self.config, self.mtu, destination.is_ipv6(), offer, timestamps)
    }

    /// ECN-setup SYN and SYN-ACK (RFC 3168 §6.1.1).
    //= RFC 9293 SHLD-8
    pub(super) fn ecn_setup(&self, flags: Flags) -> Flags {
        match (flags.ack(), self.config.ecn) {
            (false, Ecn::On) => Flags::ECE | Flags::CWR,
            (true, _) if self.c.has(flag::ECN) => Flags::ECE,
            _ => Flags::NONE,
        }
    }
}
