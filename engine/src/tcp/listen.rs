//! CLOSED and LISTEN (RFC 9293 §3.10.7.1, §3.10.7.2): what a SYN agrees on and becomes.
//!
//! It becomes a record of 32 octets in the [SYN cache](super::syn_cache), or nothing but a
//! [cookie](super::syn_cookie); [`syn_received`](super::syn_received) goes on from there.

use std::net::IpAddr;

use crate::app::App;
use crate::config::{Ecn, SynCookies};
use crate::device::Device;
use crate::flow::Kind;
use crate::wire::usual_syn::SynFields;
use crate::wire::{DropReason, Ecn as IpEcn, Flags, MacAddr, OutSegment, Seq, TcpOptions, TcpSegment, Timestamps};

use super::block::{SynReceived, flag};
use super::connect::mss_of;
use super::output::Tx;
use super::syn_cookie::Cookie;
use super::tunables::Tunables;
use super::{FlowId, Tcp, syn_cookie};

/// What a SYN says about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) mss: u16,
    pub(crate) flags: u8,
    pub(crate) snd_scale: u8,
    pub(crate) ts_recent: u32,
}

impl Tcp {
    /// What is agreed to of the options of a SYN: those that the peer sent and we are configured for. Where that is
    /// everything, as it mostly is, no option is looked at by itself. `v6`: it came over IPv6.
    #[inline]
    pub(crate) fn agree(&self, seg: &TcpSegment, v6: bool) -> Offer {
        let TcpOptions { mss, window_scale, sack_permitted, timestamps, .. } = seg.options;
        if let (Some(mss), Some(snd_scale), true, Some(timestamps)) = (mss, window_scale, sack_permitted, timestamps)
            && mss >= self.config.mss_min
            && self.config.takes_offer
        {
            let mss = mss.min(self.mss_of_link(v6));
            let offer = Offer { mss, flags: flag::OFFERED, snd_scale, ts_recent: timestamps.value };
            debug_assert_eq!(offer, self.agree_on_each(seg, v6));
            return offer;
        }
        self.agree_on_each(seg, v6)
    }

    /// [`agree`](Self::agree), one option at a time.
    //= RFC 7323 2.2-MUST-2
    #[inline(never)]
    fn agree_on_each(&self, seg: &TcpSegment, v6: bool) -> Offer {
        let options = &seg.options;
        if options.mss.is_some_and(|mss| mss < self.config.mss_min) {
            self.stats.mss_raised.increment();
        }
        // less than the smallest believed makes us send more headers than data
        //= RFC 9293 MUST-14, MUST-15, MUST-16
        //= RFC 1191 6.4-MUST-2
        //= RFC 6691 7.2-MUST-1
        //= RFC 8201 5.4-MUST-2
        let mss =
            options.mss.unwrap_or_else(|| self.mss_default(v6)).max(self.config.mss_min).min(self.mss_of_link(v6));
        let mut offer = Offer { mss, flags: 0, snd_scale: 0, ts_recent: 0 };
        //= RFC 7323 2.2-MUST-1
        if let (Some(scale), true) = (options.window_scale, self.config.window_scaling) {
            offer.flags |= flag::SCALING;
            offer.snd_scale = scale;
        }
        //= RFC 7323 3.2-MUST-1
        if let (Some(timestamps), true) = (options.timestamps, self.config.timestamps) {
            offer.flags |= flag::TIMESTAMPS;
            offer.ts_recent = timestamps.value;
        }
        if options.sack_permitted && self.config.sack {
            offer.flags |= flag::SACK;
        }
        offer
    }

    pub(crate) fn receive_scale(&self) -> u8 {
        self.config.receive_scale
    }

    pub(crate) fn syn_options(&self, v6: bool, flags: u8, timestamps: Option<Timestamps>) -> TcpOptions {
        syn_options(&self.config, self.mtu, v6, flags, timestamps)
    }

    /// A segment for which there is no flow: RFC 9293 §3.10.7.1 (CLOSED) or §3.10.7.2 (LISTEN). Returns the connection
    /// that it opens, if it brings a SYN cookie back; it is then to be worked on as a segment of that.
    pub(crate) fn no_flow<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        flow: &FlowId,
        hash: u64,
    ) -> Option<u32> {
        let Some(listener) = self.listener(flow.local_port) else {
            self.stats.dropped.count(DropReason::NoListener);
            self.reset(tx, seg);
            return None;
        };
        if seg.flags.rst() {
            self.stats.dropped.count(DropReason::NoFlow);
            return None;
        }
        if seg.flags.ack() {
            let opened = self.take_cookie(app, seg, flow, hash, listener);
            if opened.is_none() {
                self.stats.dropped.count(DropReason::NoFlow);
                self.reset(tx, seg);
            }
            return opened;
        }
        if seg.flags.syn() && !seg.flags.fin() {
            if self.locals.number(seg.source).is_some() {
                // it claims to come from here
                self.stats.dropped.count(DropReason::InvalidSource);
                return None;
            }
            self.syn(tx, seg, flow, hash, listener, None);
        } else {
            self.stats.dropped.count(DropReason::NoFlow);
        }
        None
    }

    /// A SYN for a listener. `after`: the sequence number that the new connection must begin above.
    pub(crate) fn syn<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        flow: &FlowId,
        hash: u64,
        listener: u8,
        after: Option<Seq>,
    ) {
        // Two copies: in the one for IPv4 no address is asked for its family again
        match (seg.destination, seg.source) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                self.syn_between(tx, seg, (local.into(), remote.into()), (flow, listener), hash, after);
            }
            _ => self.syn_v6(tx, seg, (flow, listener), hash, after),
        }
    }

    #[inline(never)]
    fn syn_v6<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        to: (&FlowId, u8),
        hash: u64,
        after: Option<Seq>,
    ) {
        self.syn_between(tx, seg, (seg.destination, seg.source), to, hash, after);
    }

    /// [`syn`](Self::syn), between two addresses: ours and the peer's.
    #[inline(always)]
    fn syn_between<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        ends: (IpAddr, IpAddr),
        (flow, listener): (&FlowId, u8),
        hash: u64,
        after: Option<Seq>,
    ) {
        if self.conns.len() >= self.max_connections {
            // it could not be opened: the peer tries again, and may find room then
            self.stats.refused_table_full.increment();
            return self.stats.dropped.count(DropReason::TableFull);
        }
        let mode = self.listeners[usize::from(listener)].syn_cookies;
        let keeps = mode != SynCookies::Always && !self.sheds(mode);
        let mut offer = self.agree(seg, ends.1.is_ipv6());
        //= RFC 3168 6.1.1-MUST-1, 6.1.1-MUST-4, 6.1.1-SHOULD-1
        if self.config.ecn != Ecn::Off && seg.flags.contains(Flags::ECE | Flags::CWR) {
            offer.flags |= flag::ECN;
        }
        let mut refusal = DropReason::TableFull;
        if keeps {
            match self.keep_syn(seg, ends, hash, (flow.local, listener), offer, after) {
                Ok(record) => return self.syn_ack(tx, record, ends, None, Some(seg.source_mac)),
                Err(reason) => refusal = reason,
            }
        }
        self.syn_by_cookie(tx, seg, (flow, listener), hash, offer, after, (mode, refusal));
    }

    /// What is kept of a SYN, or would be: at our address of number `local`, of the remote in the word `remote`, of a family.
    #[inline(always)]
    fn record_of(
        &self,
        seg: &TcpSegment,
        (local, listener): (u16, u8),
        offer: Offer,
        (remote, family, iss): (u32, u8, Seq),
    ) -> SynReceived {
        SynReceived {
            remote,
            remote_port: seg.source_port,
            local_port: seg.destination_port,
            local,
            mss: offer.mss,
            flags: offer.flags | family,
            scales: offer.snd_scale,
            listener,
            resent: 0,
            iss,
            irs: seg.seq,
            ts_recent: offer.ts_recent,
            sent_us: self.now_us,
        }
    }

    /// A SYN of which no record was kept, by the mode of its listener or for a reason to refuse it: it is answered by a
    /// cookie, or not at all.
    #[inline(never)]
    #[expect(clippy::too_many_arguments)]
    fn syn_by_cookie<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        (flow, listener): (&FlowId, u8),
        hash: u64,
        offer: Offer,
        after: Option<Seq>,
        (mode, refusal): (SynCookies, DropReason),
    ) {
        let ends = (seg.destination, flow.remote);
        if mode != SynCookies::Never {
            let Cookie { iss, ts_bits } = self.cookies.bake(seg.destination, flow, seg.seq, &offer, self.now);
            if after.is_none_or(|floor| iss.after(floor)) {
                let family = if flow.remote.is_ipv6() { flag::IPV6 } else { 0 };
                let record = self.record_of(seg, (flow.local, listener), offer, (0, family, iss));
                self.cookies.rely(self.now);
                self.stats.syn_cookies_sent.increment();
                return self.syn_ack(tx, record, ends, ts_bits, Some(seg.source_mac));
            }
            // a cookie is what it is: a number that has to be above another one needs a record
            if mode == SynCookies::Always
                && !self.sheds(mode)
                && let Ok(record) = self.keep_syn(seg, ends, hash, (flow.local, listener), offer, after)
            {
                return self.syn_ack(tx, record, ends, None, Some(seg.source_mac));
            }
        }
        self.stats.refused_table_full.increment();
        self.stats.dropped.count(refusal);
    }

    /// Whether too many connections are half open, or too many SYNs lead to nothing: a flood then costs no memory and no
    /// table. Above three quarters of the limit this is so until half of it is reached again.
    #[inline]
    fn sheds(&mut self, mode: SynCookies) -> bool {
        // who cannot send cookies has to take the SYNs as they come
        let flood = self.syn_guard.syn(self.now_ms) && mode == SynCookies::Auto;
        let was_shedding = self.stats.syn_flood_now.get() != 0;
        if flood || was_shedding || self.syns.len() >= self.shed_from { self.sheds_now(flood) } else { false }
    }

    #[inline(never)]
    fn sheds_now(&mut self, flood: bool) -> bool {
        let mark = if self.shedding { self.shed_until } else { self.shed_from };
        self.shedding = self.syns.len() >= mark;
        let sheds = self.shedding || flood;
        if sheds != (self.stats.syn_flood_now.get() != 0) {
            self.stats.syn_floods.add(u64::from(sheds));
            self.stats.syn_flood_now.set(u64::from(sheds));
        }
        sheds
    }

    /// Keeps a half-open connection, if there is room for it, with a number that the clock drives and above `after`.
    #[inline(always)]
    fn keep_syn(
        &mut self,
        seg: &TcpSegment,
        (local, remote): (IpAddr, IpAddr),
        hash: u64,
        at: (u16, u8),
        offer: Offer,
        after: Option<Seq>,
    ) -> Result<SynReceived, DropReason> {
        let full = Err(DropReason::TableFull);
        let prefix = self.syn_guard.place(remote);
        if !self.syn_guard.has_room(prefix) {
            self.stats.syn_prefix_limited.increment();
            return Err(DropReason::PrefixLimited);
        }
        let Some((word, family)) = self.intern(remote) else { return full };
        let part = self.isn_key.part(local, seg.destination_port, remote, seg.source_port);
        let iss = self.isn_key.iss(part);
        let iss = after.filter(|&floor| !iss.after(floor)).unwrap_or(iss);
        let record = self.record_of(seg, at, offer, (word, family, iss));
        let Some(handle) = self.syns.push(record) else {
            self.forget_remote(word, family);
            return full;
        };
        if self.table.insert(hash, Kind::SynReceived, handle).is_err() {
            self.syns.kill(handle);
            self.forget_remote(word, family);
            return full;
        }
        self.syn_guard.take(prefix);
        self.stats.passive_opens.increment();
        Ok(record)
    }

    /// An ACK at a listener without a half-open connection: a SYN cookie that comes back, or nothing.
    fn take_cookie<A: App>(
        &mut self,
        app: &mut A,
        seg: &TcpSegment,
        flow: &FlowId,
        hash: u64,
        listener: u8,
    ) -> Option<u32> {
        let mode = self.listeners[usize::from(listener)].syn_cookies;
        if mode == SynCookies::Never || seg.flags.syn() || !self.cookies.outstanding(self.now) {
            return None;
        }
        let local = self.locals.address(flow.local);
        let (irs, iss) = (seg.seq - 1, seg.ack - 1);
        let echo = seg.options.timestamps.filter(|_| self.config.timestamps).map(|ts| ts.echo);
        let echo = echo.map(|echo| echo.wrapping_sub(self.timestamp_offset(flow.local, flow.remote)));
        let Some(offer) = self.cookies.open(local, flow, (irs, iss), echo, self.now) else {
            self.stats.syn_cookies_rejected.increment();
            return None;
        };
        let (remote, family) = self.intern(flow.remote)?;
        let record = SynReceived {
            remote,
            remote_port: flow.remote_port,
            local_port: flow.local_port,
            local: flow.local,
            mss: offer.mss.min(self.mss_of_link(flow.remote.is_ipv6())),
            flags: offer.flags | family,
            scales: offer.snd_scale,
            listener,
            resent: 0,
            iss,
            irs,
            ts_recent: seg.options.timestamps.map_or(0, |ts| ts.value),
            sent_us: self.now_us,
        };
        let opened = self.complete(app, seg, hash, None, &record);
        match opened {
            Some(_) => self.stats.syn_cookies_accepted.increment(),
            None => self.forget_remote(remote, family),
        }
        opened
    }

    /// Sends a SYN-ACK: to the station the SYN came from, or else to the next hop. `ts_bits` are the cookie's, if it is one.
    #[inline(always)]
    pub(super) fn syn_ack<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        record: SynReceived,
        (local, remote): (IpAddr, IpAddr),
        ts_bits: Option<u32>,
        mac: Option<MacAddr>,
    ) {
        let usual = record.flags & (flag::OFFERED | flag::IPV6 | flag::ECN) == flag::OFFERED && tx.vlan.is_none();
        let (true, Some(mac), IpAddr::V4(source), IpAddr::V4(destination)) = (usual, mac, local, remote) else {
            return self.whole_syn_ack(tx, record, (local, remote), ts_bits, mac);
        };
        let fields = SynFields {
            station: mac,
            source,
            destination,
            source_port: record.local_port,
            destination_port: record.remote_port,
            seq: record.iss,
            ack: record.irs + 1,
            flags: Flags::SYN_ACK,
            timestamps: self.syn_timestamps(&record, (local, remote), ts_bits),
        };
        if tx.usual_syn(&fields) {
            self.stats.segments_sent.increment();
        }
    }

    /// A SYN-ACK with whatever was agreed to, which only the usual one has all of.
    #[inline(never)]
    fn whole_syn_ack<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        record: SynReceived,
        (local, remote): (IpAddr, IpAddr),
        ts_bits: Option<u32>,
        mac: Option<MacAddr>,
    ) {
        let Some(mac) = self.station(mac, remote) else { return };
        let timestamps =
            (record.flags & flag::TIMESTAMPS != 0).then(|| self.syn_timestamps(&record, (local, remote), ts_bits));
        let mut flags = Flags::SYN_ACK;
        if record.flags & flag::ECN != 0 {
            flags |= Flags::ECE;
        }
        let segment = OutSegment {
            link: tx.link(mac),
            source: local,
            destination: remote,
            source_port: record.local_port,
            destination_port: record.remote_port,
            seq: record.iss,
            ack: record.irs + 1,
            flags,
            window: self.config.syn_window,
            urgent_pointer: 0,
            hop_limit: self.config.hop_limit,
            dscp: self.config.dscp,
            ecn: IpEcn::NotCapable,
            options: self.syn_options(remote.is_ipv6(), record.flags, timestamps),
        };
        self.send_alone(tx, &segment);
    }

    #[inline(always)]
    fn syn_timestamps(
        &self,
        record: &SynReceived,
        (local, remote): (IpAddr, IpAddr),
        ts_bits: Option<u32>,
    ) -> Timestamps {
        let value = match ts_bits {
            None => self.isn_key.timestamp(local, remote),
            Some(bits) => {
                let clock = syn_cookie::timestamp_with(bits, self.now_ms);
                clock.wrapping_add(self.isn_key.timestamp_offset(local, remote))
            }
        };
        Timestamps { value, echo: record.ts_recent }
    }
}

/// Options of our SYN or SYN-ACK.
#[inline]
pub(super) fn syn_options(
    config: &Tunables,
    mtu: u16,
    v6: bool,
    flags: u8,
    timestamps: Option<Timestamps>,
) -> TcpOptions {
    TcpOptions {
        //= RFC 9293 MUST-14, SHLD-5, MAY-3
        mss: Some(mss_of(mtu, v6)),
        //= RFC 7323 2.2-SHOULD-1
        window_scale: (flags & flag::SCALING != 0).then_some(config.receive_scale),
        //= RFC 2018 2-MUST-1
        sack_permitted: flags & flag::SACK != 0,
        timestamps,
        ..TcpOptions::NONE
    }
}

/// A number for who is answered before there is a connection, apart from those of connections.
pub(super) fn remote_port_name(remote: u32, port: u16) -> u32 {
    remote.wrapping_mul(0x9e37_79b1) ^ u32::from(port).wrapping_mul(0x85eb_ca6b) | 1 << 31
}
