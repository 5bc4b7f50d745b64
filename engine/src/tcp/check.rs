//! Whether a worker's connections are consistent: what must hold between two passes, and what is held.
//!
//! Called by simulations and tests, never by the loop.

use std::collections::BTreeSet;

use crate::wire::Seq;

use super::block::{Busy, Connection, NONE, busy, sent};
use super::state::State;
use super::{Connections, Tcp, pacing};

/// Records in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections.
    pub connections: u32,
    /// Busy blocks.
    pub busy_blocks: u32,
    /// Nodes of flight chains.
    pub flight_nodes: u32,
    /// Chunks of buffered payload.
    pub chunks: u32,
    /// SYN-RECEIVED records.
    pub syn_received: u32,
    /// TIME-WAIT records.
    pub time_waits: u32,
    /// Entries of the index.
    pub indexed: u32,
    /// Addresses of IPv6 peers.
    pub remotes: u32,
}

/// What is counted over all connections and compared with the pools.
#[derive(Default)]
struct Sums {
    busy_blocks: u32,
    flight_nodes: u32,
    chunks: u32,
    ahead_chunks: u32,
}

macro_rules! hold {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

impl Tcp {
    /// What is in use now.
    pub(crate) fn held(&self) -> Held {
        Held {
            connections: self.conns.len(),
            busy_blocks: self.busies.len(),
            flight_nodes: self.flights.len(),
            chunks: self.buffers.len(),
            syn_received: self.syns.len(),
            time_waits: self.time_waits.len(),
            indexed: self.table.len() as u32,
            remotes: self.remotes.len(),
        }
    }

    /// Checks every connection and the sums over all of them. Takes time in proportion to what is held.
    ///
    /// # Errors
    /// The first thing that is not as it must be, with the connection's ports and state.
    pub(crate) fn check_invariants(&self) -> Result<(), String> {
        let dirty: BTreeSet<u32> = self.dirty.iter().copied().collect();
        let mut sums = Sums::default();
        for id in live(&self.conns) {
            let c = &self.conns[id];
            let checked = match c.busy {
                NONE => check_idle(c),
                slot => {
                    sums.busy_blocks += 1;
                    self.check_busy(id, slot, dirty.contains(&id), &mut sums)
                }
            };
            checked.map_err(|what| {
                format!("{what} (local port {}, remote port {}, {:?})", c.local_port, c.remote_port, c.state)
            })?;
        }
        let held = self.held();
        let counted = (sums.busy_blocks, sums.flight_nodes, sums.chunks);
        let pools = (held.busy_blocks, held.flight_nodes, held.chunks);
        hold!(counted == pools, "busy blocks, flight nodes, chunks: connections hold {counted:?}, pools say {pools:?}");
        let (ahead, counted) = (self.buffers.ahead, sums.ahead_chunks);
        hold!(ahead == counted, "{counted} chunks lie ahead of holes, the pool says {ahead}");
        let half_open = self.syn_guard.held();
        hold!(half_open == u64::from(held.syn_received), "{half_open} half-open connections by prefix, {held:?}");
        let records = held.connections + held.syn_received + held.time_waits;
        hold!(held.indexed == records, "{} index entries for {records} records", held.indexed);
        Ok(())
    }

    fn check_busy(&self, id: u32, slot: u32, listed: bool, sums: &mut Sums) -> Result<(), String> {
        let (c, b) = (&self.conns[id], &self.busies[slot]);
        hold!(b.conn == id, "its busy block belongs to connection {}", b.conn);
        hold!(c.rcv_adv.at_or_after(c.rcv_nxt), "RCV.NXT is beyond the advertised edge");
        self.check_flight(c, b, sums)?;
        self.check_queue(c, b, sums)?;
        self.check_received(c, b, sums)?;
        self.check_timers(c, b, listed)
    }

    /// The flight chain tiles SND.UNA to SND.NXT, and the octets of its segments add up.
    fn check_flight(&self, c: &Connection, b: &Busy, sums: &mut Sums) -> Result<(), String> {
        let (mut pipe, mut lost, mut sacked) = (0, 0, 0);
        let mut at = c.snd_una;
        let mut cursor = self.flights.front(b);
        while let Some(here) = cursor {
            let record = self.flights.get(b, here);
            hold!(record.start == at, "the flight has a gap at {:?}, next is {:?}", at, record.start);
            hold!(record.len > 0, "an empty segment is in flight");
            let len = u32::from(record.len);
            match (record.has(sent::SACKED), record.has(sent::LOST)) {
                (true, true) => return Err("a segment is both acknowledged and lost".into()),
                (true, false) => sacked += len,
                (false, true) => lost += len,
                (false, false) => pipe += len,
            }
            at = record.end();
            cursor = self.flights.next(here);
        }
        hold!(at == c.snd_nxt, "the flight ends at {:?}, SND.NXT is {:?}", at, c.snd_nxt);
        //= RFC 6675 4-MUST-1
        let (counted, kept) = ((pipe, lost, sacked), (b.pipe, b.lost, b.sacked));
        hold!(counted == kept, "pipe, lost, sacked: the flight has {counted:?}, the block says {kept:?}");
        let nodes = self.flights.nodes_of(b);
        hold!(nodes == u32::from(b.flight.nodes()), "{nodes} nodes of flight, the block says {}", b.flight.nodes());
        sums.flight_nodes += nodes;
        Ok(())
    }

    /// What is queued begins no later than SND.UNA and reaches to its end.
    fn check_queue(&self, c: &Connection, b: &Busy, sums: &mut Sums) -> Result<(), String> {
        hold!(c.snd_nxt.at_or_before(b.snd_end + 1), "SND.NXT is beyond what was queued and a FIN");
        let spans = &b.span[..usize::from(b.spans)];
        let mut ends = spans.iter().skip(1).map(|span| span.start).chain([b.snd_end]);
        hold!(spans.iter().all(|span| ends.next().is_some_and(|end| span.start.at_or_before(end))), "messages overlap");
        // A SYN of ours may be out while we close already: both ends opened at once
        let first = self.flights.front(b).map(|at| self.flights.get(b, at));
        let syn = c.state == State::SynSent || first.is_some_and(|first| first.has(sent::SYN));
        let una = c.snd_una + u32::from(syn);
        let unacked = b.snd_end.after(una);
        let buffered = b.flags & busy::BUFFERED != 0;
        hold!(!unacked || buffered || !spans.is_empty(), "octets are queued that nothing can write");
        if !unacked {
            return self.check_chain("written", b.write_head, None, sums).map(|_| ());
        }
        if buffered {
            let end = self.check_chain("written", b.write_head, None, sums)?;
            hold!(self.buffers.get(b.write_head).seq.at_or_before(una), "written octets are gone before their ACK");
            hold!(end == Some(b.snd_end), "written octets end at {:?}, not {:?}", end, b.snd_end);
        } else {
            hold!(spans[0].start.at_or_before(una), "a message is gone before its ACK");
        }
        Ok(())
    }

    /// Unread text ends at RCV.NXT; text ahead of a hole lies beyond it, in order and within the window.
    fn check_received(&self, c: &Connection, b: &Busy, sums: &mut Sums) -> Result<(), String> {
        let (mut ahead, mut pieces) = (0, 0);
        let mut at = b.ahead_head;
        let mut end: Option<Seq> = None;
        while at != NONE {
            let chunk = self.buffers.get(at);
            hold!(
                chunk.seq.after(c.rcv_nxt),
                "text ahead of a hole begins at {:?}, RCV.NXT is {:?}",
                chunk.seq,
                c.rcv_nxt
            );
            hold!(end.is_none_or(|end| end.at_or_before(chunk.seq)), "text ahead of a hole overlaps");
            hold!(chunk.len() > 0, "an empty chunk is ahead of a hole");
            hold!(chunk.end_seq().at_or_before(c.rcv_adv), "text is kept beyond the window");
            ahead += chunk.len() as u32;
            end = Some(chunk.end_seq());
            sums.chunks += 1;
            pieces += 1;
            at = chunk.next;
        }
        hold!(ahead == b.ahead_bytes, "{ahead} octets lie ahead of a hole, the block says {}", b.ahead_bytes);
        hold!(pieces == b.ahead_chunks, "{pieces} chunks lie ahead of a hole, the block says {}", b.ahead_chunks);
        sums.ahead_chunks += u32::from(pieces);
        let first = (b.read_head != NONE).then(|| self.buffers.get(b.read_head).seq);
        let end = self.check_chain("unread", b.read_head, Some(b.read_bytes), sums)?;
        if let (Some(first), Some(end)) = (first, end) {
            let fin = u32::from(!c.state.takes_text());
            hold!(end + fin == c.rcv_nxt, "unread text {first:?} to {end:?} does not end at RCV.NXT {:?}", c.rcv_nxt);
        }
        Ok(())
    }

    /// A chain without holes, and how much is in it. Returns where it ends.
    fn check_chain(&self, what: &str, head: u32, octets: Option<u32>, sums: &mut Sums) -> Result<Option<Seq>, String> {
        let (mut at, mut held, mut end) = (head, 0, None);
        while at != NONE {
            let chunk = self.buffers.get(at);
            hold!(end.is_none_or(|end| end == chunk.seq), "{what} octets have a gap before {:?}", chunk.seq);
            held += chunk.len() as u32;
            end = Some(chunk.end_seq());
            sums.chunks += 1;
            at = chunk.next;
        }
        hold!(octets.is_none_or(|octets| octets == held), "{held} {what} octets are held, the block says {octets:?}");
        Ok(end)
    }

    /// Whatever waits for an answer has a timer, and the wheel knows the earliest.
    fn check_timers(&self, c: &Connection, b: &Busy, listed: bool) -> Result<(), String> {
        hold!((b.flags & busy::DIRTY == 0) || listed, "marked as having something to say, and not on the list");
        if listed && b.flags & busy::DIRTY != 0 {
            return Ok(());
        }
        let fin_due = b.flags & busy::FIN_QUEUED != 0 && !c.snd_nxt.after(b.snd_end);
        let waits = !b.flight.is_empty() || b.snd_end.after(c.snd_nxt) || fin_due;
        hold!(!waits || b.timers & 1 != 0, "something is in flight or queued, and no timer runs");
        hold!(b.unacked_segments == 0 || b.timers & 2 != 0, "an acknowledgement is put off for ever");
        hold!(c.state != State::FinWait2 || b.timers & 4 != 0, "FIN-WAIT-2 has no end");
        let on_wheel = b.link.deadline_ms();
        hold!(b.timers & pacing::TIMER == 0 || on_wheel.is_some(), "paced data waits for no timer");
        for (bit, deadline) in [(1, b.rtx_at), (2, b.ack_at), (4, b.misc_at)] {
            let known = on_wheel.is_some_and(|at| at.wrapping_sub(deadline) as i32 <= 0);
            hold!(b.timers & bit == 0 || known, "timer {bit} is due at {deadline} ms, the wheel knows {on_wheel:?}");
        }
        Ok(())
    }
}

fn check_idle(c: &Connection) -> Result<(), String> {
    hold!(c.snd_una == c.snd_nxt, "idle with octets in flight");
    hold!(matches!(c.state, State::Established | State::CloseWait), "idle in a state that waits for something");
    Ok(())
}

pub(super) fn live(conns: &Connections) -> impl Iterator<Item = u32> + '_ {
    (0..conns.page_count()).flat_map(|page| conns.live_in_page(page)).take(conns.len() as usize)
}
