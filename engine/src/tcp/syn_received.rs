//! SYN-RECEIVED of connections that a peer opens (RFC 9293 §3.10.7.4): a record of 32 octets in the
//! [SYN cache](super::syn_cache), until the handshake is complete and a block is made, or the record expires.

use std::net::IpAddr;

use crate::app::App;
use crate::device::Device;
use crate::flow::{Full, Kind, Place};
use crate::neighbor::Resolution;
use crate::wire::{DropReason, Flags, MacAddr, TcpOptions, TcpSegment, Timestamps};

use super::block::{Busy, Connection, NONE, SynReceived, flag};
use super::listen::remote_port_name;
use super::output::{Reply, Tx};
use super::state::{Event, State};
use super::{Lookup, Tcp, fresh_busy, rtt, syn_cache};

/// SYN-ACKs sent again in one pass of the loop.
const EXPIRE_MAX: usize = 64;

impl Tcp {
    /// The same, once more: what it says follows from the record alone.
    fn syn_ack_again<D: Device>(&mut self, tx: &mut Tx<'_, D>, record: &SynReceived, mac: Option<MacAddr>) {
        let addresses = (self.locals.address(record.local), self.remote(record.remote, record.flags));
        self.syn_ack(tx, *record, addresses, None, mac);
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
            window: self.config.syn_window.div_ceil(1 << self.rcv_scale_of(record.flags)),
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
        lookup: &Lookup,
        handle: u32,
    ) -> Option<u32> {
        let record = *self.syn_record(handle)?;
        let rcv_nxt = record.irs + 1;
        let window = u32::from(self.config.syn_window);
        let in_window = seg.seq.in_window(rcv_nxt, window);
        if seg.flags.rst() {
            // RFC 5961 §3.2: exactly the next one, or a challenge
            //= RFC 9293 MUST-11
            if seg.seq == rcv_nxt {
                self.forget_syn(lookup.hash, handle);
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
        let place = lookup.candidate.map(|candidate| candidate.place());
        self.complete(app, seg, lookup.hash, Some((handle, place.unwrap_or_default())), &record)
    }

    /// Makes a connection of a half-open one whose SYN-ACK was acknowledged: of the one with this handle, which the index
    /// probably has at this place, or of a cookie.
    pub(super) fn complete<A: App>(
        &mut self,
        app: &mut A,
        seg: &TcpSegment,
        hash: u64,
        half_open: Option<(u32, Place)>,
        record: &SynReceived,
    ) -> Option<u32> {
        if self.conns.len() >= self.max_connections {
            return self.refuse_handshake();
        }
        let Some(id) = self.conns.alloc() else { return self.refuse_handshake() };
        let place = match half_open {
            Some((handle, place)) => {
                let (old, new) = ((Kind::SynReceived, handle), (Kind::Connection, id));
                self.syns.kill(handle);
                self.syn_guard.give_back(seg.source);
                self.refer(record, place, old, new)
            }
            None => match self.table.insert(hash, Kind::Connection, id) {
                Ok(place) => place,
                Err(Full) => {
                    self.conns.free(id);
                    return self.refuse_handshake();
                }
            },
        };
        let Self { conns, busies, config, stats, neighbors, dirty, .. } = self;
        stats.established.increment();
        self.syn_guard.completed();
        let on_link = self.locals.on_link(seg.source);
        let neighbor = on_link.then(|| neighbors.learn_from_handshake(seg.source, seg.source_mac, self.now));
        let scaled = record.flags & flag::SCALING != 0;
        let rcv_nxt = record.irs + 1;
        let slot = busies.alloc();
        let c = Connection {
            remote: record.remote,
            remote_port: record.remote_port,
            local_port: record.local_port,
            local: record.local,
            mss: record.mss,
            state: State::SynReceived.after(Event::ReceiveAckOfSyn),
            flags: record.flags | flag::FRESH | if record.resent > 0 { flag::SYN_RESENT } else { 0 },
            scales: if scaled { record.scales | config.receive_scale << 4 } else { 0 },
            listener: record.listener,
            snd_una: record.iss + 1,
            snd_nxt: record.iss + 1,
            rcv_nxt,
            rcv_adv: rcv_nxt + u32::from(config.syn_window),
            snd_wnd: seg.window,
            ssthresh: 0,
            srtt: 0,
            rttvar: 0,
            ts_recent: record.ts_recent,
            heard_ms: self.now_ms,
            snd_wl1: seg.seq,
            busy: slot.unwrap_or(NONE),
            word: 0,
        };
        conns[id] = c;
        if let Some(slot) = slot {
            let b = &mut busies[slot];
            let (fresh, snd_wnd_max) = (fresh_busy(id, &c, config), u32::from(seg.window) << record.scales);
            *b = Busy { link: b.link, neighbor: neighbor.flatten(), snd_wnd_max, place, ..fresh };
            if half_open.is_none() {
                // a cookie does not tell when it was sent
            } else if record.resent == 0 {
                let took_us = self.now_us.wrapping_sub(record.sent_us);
                rtt::first(b, took_us.saturating_sub(self.age_us));
            } else {
                // RFC 5681 §3.1: a lost SYN-ACK leaves one segment of initial window
                //= RFC 5681 3.1-MUST-1
                //= RFC 6928 2-MUST-1
                b.cwnd = c.payload_max();
            }
            b.list(dirty);
        }
        app.accepted(&mut super::Conn { tcp: self, id }, usize::from(record.listener));
        Some(id)
    }

    /// There is no room for the connection of a handshake.
    #[cold]
    fn refuse_handshake(&self) -> Option<u32> {
        self.stats.refused_table_full.increment();
        self.stats.dropped.count(DropReason::TableFull);
        None
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
        if self.listeners.is_empty() {
            return 0;
        }
        let mut done = self.wake_syns(tx);
        for class in self.syns.classes() {
            let patience = self.config.rto_initial_us << class;
            while done < EXPIRE_MAX {
                let Some((handle, record)) = self.syns.oldest(class) else { break };
                if self.now_us.wrapping_sub(record.sent_us) < patience {
                    break;
                }
                let record = *record;
                done += 1;
                let flow = self.flow_of(&record);
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
                            // there is no room for it among those sent as often
                            self.stats.syn_received_evicted.increment();
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
        let (now, initial, classes) = (self.now_us, self.config.rto_initial_us, self.syns.classes());
        let due = |class| {
            let (_, record) = self.syns.oldest(class)?;
            Some((initial << class).saturating_sub(now.wrapping_sub(record.sent_us)))
        };
        classes.filter_map(due).min()
    }
}
