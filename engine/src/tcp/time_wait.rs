//! TIME-WAIT (RFC 9293 §3.4.2, §3.6.1): a record of 32 octets that answers for a finished connection for 2 MSL.
//!
//! At a million connections a second there are more of these than of the living. All live equally long, so they lie
//! in one log and expire in its order; a duplicate FIN, which starts the time anew, moves its record to the end.

use crate::app::{App, End};
use crate::device::Device;
use crate::flow::Kind;
use crate::wire::{Flags, TcpOptions, TcpSegment, Timestamps};

use super::block::{OfFlow, TimeWait, flag};
use super::output::{Reply, Tx};
use super::{FlowId, Tcp};

/// Records that expire in one pass of the loop.
const EXPIRE_MAX: usize = 64;

/// How far above the old connection's numbers a new one on the same pair of sockets begins (RFC 6191, as Linux).
const ISS_STEP: u32 = 65_535 + 2;

impl Tcp {
    /// The connection has sent all it had to say: a record takes its place in the table. The application hears that
    /// it is closed.
    //= RFC 9293 MUST-13
    pub(crate) fn enter_time_wait<A: App>(&mut self, app: &mut A, id: u32) {
        let c = self.conns[id];
        let record = TimeWait {
            remote: c.remote,
            remote_port: c.remote_port,
            local_port: c.local_port,
            local: c.local,
            flags: c.flags,
            scales: c.scales,
            snd_nxt: c.snd_nxt,
            rcv_nxt: c.rcv_nxt,
            ts_recent: c.ts_recent,
            since_ms: self.now_ms,
            place: self.place_of(&c),
        };
        let Some(handle) = self.time_waits.push(record) else {
            if !self.config.time_wait.is_zero() {
                self.stats.time_waits_skipped.increment();
            }
            return self.remove(app, id, End::Closed);
        };
        let (old, new) = ((Kind::Connection, id), (Kind::TimeWait, handle));
        self.refer(&record, record.place, old, new);
        self.stats.time_waits.increment();
        self.discard(app, id, End::Closed);
    }

    /// A segment for a connection in TIME-WAIT.
    pub(crate) fn time_wait_segment<D: Device>(
        &mut self,
        tx: &mut Tx<'_, D>,
        seg: &TcpSegment,
        flow: &FlowId,
        hash: u64,
        handle: u32,
    ) {
        let Some(&record) = self.time_waits.get(handle) else { return };
        if seg.flags.rst() {
            // RFC 1337 would have every reset ignored, to be safe from old ones. One at exactly the next number is no
            // accident: it is how a host that opens these sockets anew, and was answered from here, asks to be let in.
            // Without it that host waits for 2 MSL.
            //= RFC 1337 3-SHOULD-1
            if seg.seq == record.rcv_nxt {
                self.forget_time_wait(handle, &record);
            }
            return;
        }
        let stamped = record.flags & flag::TIMESTAMPS != 0;
        let newer = seg.options.timestamps.filter(|_| stamped).map(|ts| ts.value.wrapping_sub(record.ts_recent) as i32);
        if seg.flags.syn() && !seg.flags.ack() {
            // RFC 6191, RFC 9293 §3.6.1 MAY-2: a SYN that cannot be old begins a new connection
            //= RFC 9293 MAY-2, SHLD-4
            //= RFC 6191 2-SHOULD-1
            let fresh = seg.seq.after(record.rcv_nxt) || newer.is_some_and(|age| age > 0);
            if let (true, Some(listener)) = (fresh && newer.is_none_or(|age| age >= 0), self.listener(flow.local_port))
            {
                self.forget_time_wait(handle, &record);
                self.stats.time_waits_reused.increment();
                return self.syn(tx, seg, flow, hash, listener, Some(record.snd_nxt + ISS_STEP));
            }
            //= RFC 6191 2-SHOULD-2
            return self.time_wait_ack(tx, seg, &record);
        }
        if newer.is_some_and(|age| age < 0) {
            return self.time_wait_ack(tx, seg, &record);
        }
        if seg.flags.fin() && seg.seq + seg.seq_len() == record.rcv_nxt {
            // the peer missed our ACK: it comes again, and 2 MSL begin anew. It is owed to as many as ask for it: only
            // who knows the sequence number can, and an ACK is answered by nothing, so that there is no loop to limit
            let again = TimeWait { since_ms: self.now_ms, ..record };
            if let Some(fresh) = self.time_waits.push(again) {
                let (old, new) = ((Kind::TimeWait, handle), (Kind::TimeWait, fresh));
                self.refer(&record, record.place, old, new);
                self.time_waits.kill(handle);
            }
            return self.time_wait_ack(tx, seg, &record);
        }
        // Nothing more is expected: whatever is not the peer's last ACK again is answered by where things stand
        if seg.seq != record.rcv_nxt || seg.seq_len() > 0 {
            let name = super::listen::remote_port_name(record.remote, record.remote_port);
            if !(self.challenges_each.allow(name, self.now_ms) && self.challenges.allow(self.now)) {
                return self.stats.challenge_acks_limited.increment();
            }
            self.time_wait_ack(tx, seg, &record);
        }
    }

    fn time_wait_ack<D: Device>(&mut self, tx: &mut Tx<'_, D>, seg: &TcpSegment, record: &TimeWait) {
        let timestamps = (record.flags & flag::TIMESTAMPS != 0)
            .then(|| Timestamps { value: self.timestamp(record.local, seg.source), echo: record.ts_recent });
        let reply = Reply {
            mac: Some(seg.source_mac),
            local: record.local,
            remote: seg.source,
            ports: (record.local_port, record.remote_port),
            seq: record.snd_nxt,
            ack: record.rcv_nxt,
            flags: Flags::ACK,
            // rounded up, as before: the edge never moves back
            window: self.config.receive_window.div_ceil(1 << (record.scales >> 4)).min(0xffff) as u16,
            options: TcpOptions { timestamps, ..TcpOptions::NONE },
        };
        self.stats.acks_sent.increment();
        self.reply(tx, &reply);
    }

    fn forget_time_wait(&mut self, handle: u32, record: &TimeWait) {
        self.forget_flow(record.sockets(), record.place, Kind::TimeWait, handle);
        self.time_waits.kill(handle);
    }

    /// Ends what has been in TIME-WAIT long enough. Bounded; the lines of a batch are asked for first, so that the index's
    /// misses wait together.
    pub(crate) fn expire_time_waits(&mut self) -> usize {
        let patience = self.config.time_wait.as_millis() as u32;
        match self.time_waits.front() {
            Some((_, record)) if self.now_ms.wrapping_sub(record.since_ms) >= patience => {}
            _ => return 0,
        }
        let mut batch = [0; EXPIRE_MAX];
        let mut count = 0;
        while count < EXPIRE_MAX {
            match self.time_waits.front() {
                Some((_, record)) if self.now_ms.wrapping_sub(record.since_ms) >= patience => {}
                _ => break,
            }
            let Some((handle, record)) = self.time_waits.pop_front() else { break };
            self.table.prefetch_at(record.place);
            batch[count] = handle;
            count += 1;
        }
        // Their pages stay until the end of the pass
        for &handle in &batch[..count] {
            if let Some(record) = self.time_waits.get(handle)
                && !self.table.is_at(record.place, Kind::TimeWait, handle)
            {
                self.table.prefetch(self.hash(&self.flow_of(record)));
            }
        }
        for &handle in &batch[..count] {
            if let Some(record) = self.time_waits.get(handle) {
                self.forget_flow(record.sockets(), record.place, Kind::TimeWait, handle);
            }
        }
        count
    }

    /// When the next TIME-WAIT ends, milliseconds from now.
    pub(crate) fn next_time_wait_ms(&mut self) -> Option<u32> {
        let patience = self.config.time_wait.as_millis() as u32;
        let now = self.now_ms;
        let (_, record) = self.time_waits.front()?;
        Some(patience.saturating_sub(now.wrapping_sub(record.since_ms)))
    }
}
