//! LISTEN and SYN-RECEIVED of connections that a peer opens (RFC 9293 §3.10.7.2, §3.10.7.4).
//!
//! A SYN becomes a record of 32 octets in the [SYN cache](super::syn_cache), not a block: a block is made when the
//! handshake is complete.

use std::net::IpAddr;

use crate::app::App;
use crate::config::{Ecn, SynCookies, TcpConfig};
use crate::device::Device;
use crate::flow::Kind;
use crate::neighbor::Resolution;
use crate::wire::{DropReason, Ecn as IpEcn, Flags, MacAddr, OutSegment, Seq, TcpOptions, TcpSegment, Timestamps};

use super::block::{Connection, NONE, SynReceived, flag};
use super::connect::mss_of;
use super::output::{Reply, Tx};
use super::state::{Event, State};
use super::syn_cookie::Cookie;
use super::{FlowId, Tcp, rtt, syn_cache, syn_cookie};

/// SYN-ACKs sent again in one pass of the loop.
const EXPIRE_MAX: usize = 64;

/// What a SYN says about its sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) mss: u16,
    pub(crate) flags: u8,
    pub(crate) snd_scale: u8,
    pub(crate) ts_recent: u32,
}

impl Tcp {
    /// What is agreed to of the options of a SYN: those that the peer sent and we are configured for.
    //= RFC 7323 2.2-MUST-2
    pub(crate) fn agree(&self, seg: &TcpSegment) -> Offer {
        let v6 = seg.source.is_ipv6();
        let options = &seg.options;
        if options.mss.is_some_and(|mss| mss < self.config.mss_min) {
            self.stats.mss_raised.increment();
        }
        // less than the smallest believed makes us send more headers than data
        //= RFC 9293 MUST-14, MUST-15, MUST-16
        let mss = options.mss.unwrap_or(self.mss_default(v6)).max(self.config.mss_min).min(self.mss_of_link(v6));
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
        receive_scale(&self.config)
    }

    pub(crate) fn syn_options(&self, v6: bool, flags: u8, timestamps: Option<Timestamps>) -> TcpOptions {
        syn_options(&self.config, self.mtu, v6, flags, timestamps)
    }

    pub(crate) fn syn_window(&self) -> u16 {
        syn_window(&self.config)
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
        if self.conns.len() >= self.max_connections {
            // it could not be opened: the peer tries again, and may find room then
            self.stats.refused_table_full.increment();
            return self.stats.dropped.count(DropReason::TableFull);
        }
        let mode = self.listeners[usize::from(listener)].syn_cookies;
        let mut offer = self.agree(seg);
        //= RFC 3168 6.1.1-MUST-1, 6.1.1-MUST-4, 6.1.1-SHOULD-1
        if self.config.ecn != Ecn::Off && seg.flags.contains(Flags::ECE | Flags::CWR) {
            offer.flags |= flag::ECN;
        }
        let local = seg.destination;
        // In `auto` every ISN is a cookie, so that a half-open connection that finds no room, or loses it, completes
        // all the same
        let Cookie { iss, ts_bits } = match mode {
            SynCookies::Never => {
                let micros = self.now.micros();
                let iss = self.isn_key.iss(local, flow.local_port, flow.remote, flow.remote_port, micros);
                Cookie { iss, ts_bits: None }
            }
            SynCookies::Auto | SynCookies::Always => self.cookies.bake(local, flow, seg.seq, &offer, self.now),
        };
        let record = SynReceived {
            remote: 0,
            remote_port: flow.remote_port,
            local_port: flow.local_port,
            local: flow.local,
            mss: offer.mss,
            flags: offer.flags | if flow.remote.is_ipv6() { flag::IPV6 } else { 0 },
            scales: offer.snd_scale,
            listener,
            resent: 0,
            iss: after.filter(|&floor| !iss.after(floor)).unwrap_or(iss),
            irs: seg.seq,
            ts_recent: offer.ts_recent,
            sent_us: self.now_us,
        };
        // a number that had to be above another one is no cookie: there must be a record
        let is_cookie = mode != SynCookies::Never && record.iss == iss;
        let kept = if mode == SynCookies::Always && is_cookie {
            Err(DropReason::TableFull)
        } else {
            self.keep_syn(flow, hash, &record, mode)
        };
        match kept {
            Ok(()) => self.stats.passive_opens.increment(),
            Err(_) if is_cookie => {
                self.cookies.rely(self.now);
                self.stats.syn_cookies_sent.increment();
            }
            Err(reason) => {
                self.stats.refused_table_full.increment();
                return self.stats.dropped.count(reason);
            }
        }
        self.syn_ack(tx, &record, (local, flow.remote), ts_bits, Some(seg.source_mac));
    }

    /// Whether too many connections are half open, or too many SYNs lead to nothing: a flood then costs no memory and no
    /// table. Above three quarters of the limit this is so until half of it is reached again.
    fn sheds(&mut self, mode: SynCookies) -> bool {
        let held = self.syns.len();
        let mark = if self.shedding { self.max_syn_received / 2 } else { self.max_syn_received / 4 * 3 };
        self.shedding = held >= mark.max(1);
        // who cannot send cookies has to take the SYNs as they come
        let flood = self.syn_guard.syn(self.now_ms) && mode == SynCookies::Auto;
        let sheds = self.shedding || flood;
        if sheds && self.stats.syn_flood_now.get() == 0 {
            self.stats.syn_floods.increment();
        }
        self.stats.syn_flood_now.set(u64::from(sheds));
        sheds
    }

    /// Keeps a half-open connection, if there are not too many.
    fn keep_syn(&mut self, flow: &FlowId, hash: u64, record: &SynReceived, mode: SynCookies) -> Result<(), DropReason> {
        let full = Err(DropReason::TableFull);
        if self.sheds(mode) {
            return full;
        }
        if !self.syn_guard.has_room(flow.remote) {
            self.stats.syn_prefix_limited.increment();
            return Err(DropReason::PrefixLimited);
        }
        let Some((remote, family)) = self.intern(flow.remote) else { return full };
        let Some(handle) = self.syns.push(SynReceived { remote, ..*record }) else {
            self.forget_remote(remote, family);
            return full;
        };
        if self.table.insert(hash, Kind::SynReceived, handle).is_err() {
            self.syns.kill(handle);
            self.forget_remote(remote, family);
            return full;
        }
        self.syn_guard.take(flow.remote);
        Ok(())
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

    /// Sends a SYN-ACK: to the station the SYN came from, or else to the next hop. `ts_bits` are the cookie's, if they are
    /// known already.
    #[inline]
    fn syn_ack<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        record: &SynReceived,
        (local, remote): (IpAddr, IpAddr),
        ts_bits: Option<u32>,
        mac: Option<MacAddr>,
    ) {
        let Some(mac) = self.station(mac, remote) else { return };
        let timestamps = (record.flags & flag::TIMESTAMPS != 0).then(|| {
            let offset = self.isn_key.timestamp_offset(local, remote);
            let clock = match self.listeners[usize::from(record.listener)].syn_cookies {
                SynCookies::Never => self.now_ms,
                SynCookies::Auto | SynCookies::Always => {
                    let bits = ts_bits.unwrap_or_else(|| syn_cookie::pack_wide(&record.offer()));
                    syn_cookie::timestamp_with(bits, self.now_ms)
                }
            };
            Timestamps { value: clock.wrapping_add(offset), echo: record.ts_recent }
        });
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
            window: self.syn_window(),
            urgent_pointer: 0,
            hop_limit: self.config.hop_limit,
            dscp: self.config.dscp,
            ecn: IpEcn::NotCapable,
            options: self.syn_options(remote.is_ipv6(), record.flags, timestamps),
        };
        self.send_alone(tx, &segment);
    }

    /// The same, once more: what it says follows from the record alone.
    fn syn_ack_again<D: Device>(&mut self, tx: &mut Tx<'_, D>, record: &SynReceived, mac: Option<MacAddr>) {
        let addresses = (self.locals.address(record.local), self.remote(record.remote, record.flags));
        self.syn_ack(tx, record, addresses, None, mac);
    }

    /// An ACK that says where a half-open connection stands (RFC 9293 §3.10.7.4, RFC 5961 §4).
    fn syn_received_ack<D: Device>(&mut self, tx: &mut Tx<'_, D>, record: &SynReceived, mac: MacAddr) {
        let remote = self.remote(record.remote, record.flags);
        let name = remote_port_name(record.remote, record.remote_port);
        if !(self.challenges_each.allow(name, self.now_ms) && self.challenges.allow(self.now)) {
            return self.stats.challenge_acks_limited.increment();
        }
        self.stats.challenge_acks.increment();
        let timestamps = (record.flags & flag::TIMESTAMPS != 0)
            .then(|| Timestamps { value: self.timestamp(record.local, remote), echo: record.ts_recent });
        let reply = Reply {
            mac: Some(mac),
            local: record.local,
            remote,
            ports: (record.local_port, record.remote_port),
            seq: record.iss + 1,
            ack: record.irs + 1,
            flags: Flags::ACK,
            // rounded up: rounding down would move the edge of the SYN-ACK's window back
            //= RFC 7323 2.4-MUST-1
            window: self.syn_window().div_ceil(1 << self.rcv_scale_of(record.flags)),
            options: TcpOptions { timestamps, ..TcpOptions::NONE },
        };
        self.reply(tx, &reply);
    }

    fn rcv_scale_of(&self, flags: u8) -> u8 {
        if flags & flag::SCALING != 0 { self.receive_scale() } else { 0 }
    }

    /// A segment for a half-open connection, in the order of §3.10.7.4. Returns the new connection if the segment
    /// completes the handshake; it is then to be worked on as a segment of that.
    pub(crate) fn syn_received_segment<A: App, D: Device>(
        &mut self,
        app: &mut A,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        hash: u64,
        handle: u32,
    ) -> Option<u32> {
        let record = *self.syn_record(handle)?;
        let rcv_nxt = record.irs + 1;
        let window = u32::from(self.syn_window());
        let in_window = seg.seq.in_window(rcv_nxt, window);
        if seg.flags.rst() {
            // RFC 5961 §3.2: exactly the next one, or a challenge
            //= RFC 9293 MUST-11
            if seg.seq == rcv_nxt {
                self.forget_syn(hash, handle);
            } else if in_window {
                self.syn_received_ack(tx, &record, seg.source_mac);
            }
            return None;
        }
        if seg.flags.syn() {
            if seg.seq == record.irs && !seg.flags.ack() {
                self.stats.duplicates.increment();
                self.syn_ack_again(tx, &record, Some(seg.source_mac));
            } else {
                self.syn_received_ack(tx, &record, seg.source_mac);
            }
            return None;
        }
        if !seg.flags.ack() {
            self.stats.dropped.count(DropReason::NoAck);
            return None;
        }
        let stale = seg.options.timestamps.is_some_and(|ts| {
            record.flags & flag::TIMESTAMPS != 0 && (ts.value.wrapping_sub(record.ts_recent) as i32) < 0
        });
        if !in_window || stale {
            self.syn_received_ack(tx, &record, seg.source_mac);
            return None;
        }
        if seg.ack != record.iss + 1 {
            self.reset(tx, seg);
            return None;
        }
        self.complete(app, seg, hash, Some(handle), &record)
    }

    /// Makes a connection of a half-open one whose SYN-ACK was acknowledged: of the one at `handle`, or of a cookie.
    fn complete<A: App>(
        &mut self,
        app: &mut A,
        seg: &TcpSegment,
        hash: u64,
        handle: Option<u32>,
        record: &SynReceived,
    ) -> Option<u32> {
        if self.conns.len() >= self.max_connections {
            self.stats.refused_table_full.increment();
            self.stats.dropped.count(DropReason::TableFull);
            return None;
        }
        let scaled = record.flags & flag::SCALING != 0;
        let rcv_nxt = record.irs + 1;
        let id = self.conns.insert(Connection {
            remote: record.remote,
            remote_port: record.remote_port,
            local_port: record.local_port,
            local: record.local,
            mss: record.mss,
            state: State::SynReceived.after(Event::ReceiveAckOfSyn),
            flags: record.flags | flag::FRESH | if record.resent > 0 { flag::SYN_RESENT } else { 0 },
            scales: if scaled { record.scales | self.receive_scale() << 4 } else { 0 },
            listener: record.listener,
            snd_una: record.iss + 1,
            snd_nxt: record.iss + 1,
            rcv_nxt,
            rcv_adv: rcv_nxt + u32::from(self.syn_window()),
            snd_wnd: seg.window,
            ssthresh: 0,
            srtt: 0,
            rttvar: 0,
            ts_recent: record.ts_recent,
            heard_ms: self.now_ms,
            snd_wl1: seg.seq,
            busy: NONE,
            word: 0,
        });
        let Some(id) = id else {
            self.stats.refused_table_full.increment();
            self.stats.dropped.count(DropReason::TableFull);
            return None;
        };
        match handle {
            Some(handle) => {
                self.table.replace(hash, (Kind::SynReceived, handle), (Kind::Connection, id));
                self.syns.kill(handle);
                self.syn_guard.give_back(seg.source);
            }
            None if self.table.insert(hash, Kind::Connection, id).is_err() => {
                self.conns.free(id);
                self.stats.refused_table_full.increment();
                self.stats.dropped.count(DropReason::TableFull);
                return None;
            }
            None => {}
        }
        self.stats.established.increment();
        self.syn_guard.completed();
        let on_link = self.locals.on_link(seg.source);
        let neighbor = on_link.then(|| self.neighbors.learn_from_handshake(seg.source, seg.source_mac, self.now));
        if let Some(slot) = self.attach(id) {
            let b = &mut self.busies[slot];
            b.neighbor = neighbor.flatten();
            if handle.is_none() {
                // a cookie does not tell when it was sent
            } else if record.resent == 0 {
                rtt::sample(b, self.now_us.wrapping_sub(record.sent_us));
            } else {
                // RFC 5681 §3.1: a lost SYN-ACK leaves one segment of initial window
                //= RFC 5681 3.1-MUST-1
                //= RFC 6928 2-MUST-1
                b.cwnd = self.conns[id].payload_max();
            }
            b.snd_wnd_max = u32::from(seg.window) << record.scales;
            self.mark_dirty(id);
        }
        app.accepted(&mut super::Conn { tcp: self, id }, usize::from(record.listener));
        Some(id)
    }

    pub(super) fn syn_record(&self, handle: u32) -> Option<&SynReceived> {
        self.syns.get(handle)
    }

    /// Removes a half-open connection.
    fn forget_syn(&mut self, hash: u64, handle: u32) {
        if let Some(record) = self.syns.get(handle) {
            let (remote, flags) = (record.remote, record.flags);
            self.syn_guard.give_back(self.remote(remote, flags));
            self.forget_remote(remote, flags);
        }
        self.table.remove(hash, Kind::SynReceived, handle);
        self.syns.kill(handle);
    }

    /// Sends SYN-ACKs again whose time has come, and forgets those that were sent often enough. Bounded.
    pub(crate) fn expire_syns<D: Device>(&mut self, tx: &mut Tx<'_, D>) -> usize {
        let mut done = self.wake_syns(tx);
        for class in 0..syn_cache::CLASSES {
            let patience = rtt::micros(self.config.rto_initial) << class;
            while done < EXPIRE_MAX {
                let Some((handle, record)) = self.syns.oldest(class) else { break };
                if self.now_us.wrapping_sub(record.sent_us) < patience {
                    break;
                }
                let record = *record;
                done += 1;
                let flow = FlowId {
                    remote: self.remote(record.remote, record.flags),
                    local: record.local,
                    remote_port: record.remote_port,
                    local_port: record.local_port,
                };
                let hash = self.hash(&flow);
                let again = SynReceived { resent: record.resent + 1, sent_us: self.now_us, ..record };
                let more = class + 1 < syn_cache::CLASSES && record.resent < self.config.syn_ack_retries;
                match if more { self.syns.again(handle, again) } else { None } {
                    Some(fresh) => {
                        self.table.replace(hash, (Kind::SynReceived, handle), (Kind::SynReceived, fresh));
                        self.stats.syn_ack_retransmitted.increment();
                        self.stats.segments_retransmitted.increment();
                        if self.await_hop(flow.remote, fresh) {
                            continue;
                        }
                        self.syn_ack_again(tx, &again, None);
                    }
                    None => {
                        if more {
                            // there is no room for it among those sent as often; its number may still be a cookie
                            self.stats.syn_received_evicted.increment();
                            self.cookies.rely(self.now);
                        } else {
                            self.stats.syn_received_expired.increment();
                        }
                        self.forget_syn(hash, handle);
                    }
                }
            }
        }
        done
    }

    /// Whether a SYN-ACK must wait until its next hop is known; it then goes as soon as that is.
    fn await_hop(&mut self, remote: IpAddr, handle: u32) -> bool {
        let hop = self.next_hop(remote).and_then(|hop| self.neighbors.resolve(hop, self.now));
        let waits = matches!(hop, Some((_, Resolution::Pending)));
        if waits && self.unresolved_syns.len() < self.unresolved_syns.capacity() {
            self.unresolved_syns.push(handle);
        }
        waits
    }

    /// Sends the SYN-ACKs that waited for a next hop. Returns how many.
    fn wake_syns<D: Device>(&mut self, tx: &mut Tx<'_, D>) -> usize {
        if !core::mem::take(&mut self.syns_woken) {
            return 0;
        }
        let mut woken = 0;
        while let Some(handle) = self.unresolved_syns.pop() {
            if let Some(&record) = self.syn_record(handle) {
                self.syn_ack_again(tx, &record, None);
                woken += 1;
            }
        }
        woken
    }

    /// When the next SYN-ACK is due to be sent again, microseconds from now.
    pub(crate) fn next_syn_us(&mut self) -> Option<u32> {
        let (now, initial) = (self.now_us, rtt::micros(self.config.rto_initial));
        let due = |class| {
            let (_, record) = self.syns.oldest(class)?;
            Some((initial << class).saturating_sub(now.wrapping_sub(record.sent_us)))
        };
        (0..syn_cache::CLASSES).filter_map(due).min()
    }
}

/// Shift of the windows we send: as configured, or the least that lets the window field hold the largest window (RFC
/// 7323 §2.3).
#[inline]
fn receive_scale(config: &TcpConfig) -> u8 {
    let bits = 32 - config.receive_window.leading_zeros();
    config.window_scale.unwrap_or(bits.saturating_sub(16) as u8)
}

/// Options of our SYN or SYN-ACK.
#[inline]
pub(super) fn syn_options(
    config: &TcpConfig,
    mtu: u16,
    v6: bool,
    flags: u8,
    timestamps: Option<Timestamps>,
) -> TcpOptions {
    TcpOptions {
        //= RFC 9293 MUST-14, SHLD-5, MAY-3
        mss: Some(mss_of(mtu, v6)),
        window_scale: (flags & flag::SCALING != 0).then(|| receive_scale(config)),
        //= RFC 2018 2-MUST-1
        sack_permitted: flags & flag::SACK != 0,
        timestamps,
        ..TcpOptions::NONE
    }
}

/// The window in a SYN or SYN-ACK, which is never scaled (RFC 7323 §2.2).
#[inline]
//= RFC 7323 2.2-MUST-3
pub(super) fn syn_window(config: &TcpConfig) -> u16 {
    config.receive_window.min(65_535) as u16
}

/// A number for who is answered before there is a connection, apart from those of connections.
pub(super) fn remote_port_name(remote: u32, port: u16) -> u32 {
    remote.wrapping_mul(0x9e37_79b1) ^ u32::from(port).wrapping_mul(0x85eb_ca6b) | 1 << 31
}

impl SynReceived {
    /// What its SYN had offered.
    fn offer(&self) -> Offer {
        Offer { mss: self.mss, flags: self.flags, snd_scale: self.scales, ts_recent: self.ts_recent }
    }
}
