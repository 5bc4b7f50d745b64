//! Segments in flight, oldest first: one lies in the busy block, more of them in a chain of nodes.
//!
//! No payload is kept, only what loss recovery must know of each segment ([`Sent`]). Short exchanges have no more than one
//! segment out, and ask nothing of the pool of nodes. A chain keeps its nodes until the last of its segments is acknowledged.

use crate::flow::Slab;
use crate::page::{OutOfMemory, PageSource};
use crate::wire::Seq;

use super::block::{Busy, FLIGHT_NODE, FlightNode, NONE, Sent};

/// Nodes in a page.
const PAGE: usize = 1024;

/// The pool of nodes of all connections of a worker.
pub(crate) struct Flights {
    nodes: Slab<FlightNode, PAGE>,
    /// The most nodes of one chain.
    nodes_each: u16,
    /// Segments looked at in this pass of the loop, to find what is acknowledged selectively or lost.
    pub(crate) walked: u32,
}

/// A connection's flight, in the room of one record: nothing (no length), one segment, or the chain that holds them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight(Sent);

/// The flag of a [`Flight`] that is a chain: its first node in the place of `start`, its last in that of `sent_us`, how many
/// there are in that of `len`. No segment bears it.
const CHAIN: u8 = 1 << 7;

impl Flight {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self(Sent { start: Seq(0), len: 0, flags: 0, resent: 0, sent_us: 0 });

    #[inline(always)]
    fn chain(head: u32, tail: u32, nodes: u16) -> Self {
        Self(Sent { start: Seq(head), len: nodes, flags: CHAIN, resent: 0, sent_us: tail })
    }

    /// One segment.
    #[inline(always)]
    pub(crate) fn one(sent: Sent) -> Self {
        debug_assert!(sent.len > 0 && !sent.has(CHAIN));
        Self(sent)
    }

    /// Whether nothing is in flight.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    #[inline(always)]
    fn is_chain(&self) -> bool {
        self.0.has(CHAIN)
    }

    /// The nodes of the chain; none if it is no chain.
    #[inline(always)]
    pub(crate) fn nodes(&self) -> u16 {
        if self.is_chain() { self.0.len } else { 0 }
    }

    /// The first node of the chain that it is.
    #[inline(always)]
    fn head(&self) -> u32 {
        self.0.start.0
    }

    /// The last one.
    #[inline(always)]
    fn tail(&self) -> u32 {
        self.0.sent_us
    }
}

/// A place in a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// [`NONE`]: the segment lies in the busy block.
    node: u32,
    slot: u8,
}

/// The place of the only segment.
const ALONE: Cursor = Cursor { node: NONE, slot: 0 };

impl Flights {
    /// An empty pool for as many busy connections and some long flights.
    pub(crate) fn new(busies: u32, segments_max: u16) -> Self {
        Self {
            nodes: Slab::with_limit(busies.saturating_mul(2).clamp(1 << 16, 1 << 26)),
            nodes_each: segments_max.div_ceil(FLIGHT_NODE as u16),
            walked: 0,
        }
    }

    /// Whether a flight is as long as one may be: new segments wait until some of it is acknowledged.
    #[inline]
    pub(crate) fn is_long(&self, busy: &Busy) -> bool {
        busy.flight.nodes() >= self.nodes_each
    }

    /// Makes sure that `n` nodes can be taken without another page.
    pub(crate) fn reserve<P: PageSource>(&mut self, pages: &mut P, n: u32) -> Result<(), OutOfMemory> {
        self.nodes.reserve(pages, n)
    }

    /// Nodes in use.
    pub(crate) fn len(&self) -> u32 {
        self.nodes.len()
    }

    /// Nodes of one flight, counted.
    pub(crate) fn nodes_of(&self, busy: &Busy) -> u32 {
        let mut count = 0;
        let mut at = if busy.flight.is_chain() { busy.flight.head() } else { NONE };
        while at != NONE {
            count += 1;
            at = self.nodes[at].next;
        }
        count
    }

    /// Octets held.
    pub(crate) fn bytes(&self) -> u64 {
        self.nodes.bytes()
    }

    /// Gives every page back.
    pub(crate) fn release<P: PageSource>(&mut self, pages: &mut P) {
        self.nodes.release(pages);
    }

    /// Appends a segment. False if there is no node for it.
    #[inline(always)]
    pub(crate) fn push(&mut self, busy: &mut Busy, sent: Sent) -> bool {
        if busy.flight.is_empty() {
            busy.flight = Flight::one(sent);
            return true;
        }
        if busy.flight.is_chain() {
            let node = &mut self.nodes[busy.flight.tail()];
            if let Some(slot) = node.slots.get_mut(usize::from(node.end)) {
                *slot = sent;
                node.end += 1;
                return true;
            }
        }
        self.push_in_fresh_node(busy, sent)
    }

    /// Appends a segment to others, in a fresh node: the last one is full, or there is none yet.
    #[inline(never)]
    fn push_in_fresh_node(&mut self, busy: &mut Busy, sent: Sent) -> bool {
        let flight = busy.flight;
        let Some(fresh) = self.nodes.alloc() else { return false };
        let node = &mut self.nodes[fresh];
        (node.next, node.first) = (NONE, 0);
        if flight.is_chain() {
            (node.slots[0], node.end) = (sent, 1);
            self.nodes[flight.tail()].next = fresh;
            busy.flight = Flight::chain(flight.head(), fresh, flight.nodes() + 1);
        } else {
            (node.slots[0], node.slots[1], node.end) = (flight.0, sent, 2);
            busy.flight = Flight::chain(fresh, fresh, 1);
        }
        true
    }

    /// The oldest segment.
    #[inline]
    pub(crate) fn front(&self, busy: &Busy) -> Option<Cursor> {
        if busy.flight.is_chain() {
            let node = busy.flight.head();
            return Some(Cursor { node, slot: self.nodes[node].first });
        }
        (!busy.flight.is_empty()).then_some(ALONE)
    }

    /// The newest segment.
    #[inline]
    pub(crate) fn back(&self, busy: &Busy) -> Option<Cursor> {
        if busy.flight.is_chain() {
            let node = busy.flight.tail();
            return Some(Cursor { node, slot: self.nodes[node].end - 1 });
        }
        (!busy.flight.is_empty()).then_some(ALONE)
    }

    /// Whether no more than one segment is in flight.
    #[inline]
    pub(crate) fn is_single(&self, busy: &Busy) -> bool {
        !busy.flight.is_chain()
            || busy.flight.nodes() == 1 && {
                let node = &self.nodes[busy.flight.head()];
                node.end - node.first == 1
            }
    }

    /// The segment after `cursor`.
    #[inline]
    pub(crate) fn next(&self, cursor: Cursor) -> Option<Cursor> {
        if cursor == ALONE {
            return None;
        }
        let node = &self.nodes[cursor.node];
        if cursor.slot + 1 < node.end {
            return Some(Cursor { node: cursor.node, slot: cursor.slot + 1 });
        }
        (node.next != NONE).then(|| Cursor { node: node.next, slot: self.nodes[node.next].first })
    }

    /// The segment at `cursor`, a place in this connection's flight.
    #[inline]
    pub(crate) fn get<'a>(&'a self, busy: &'a Busy, cursor: Cursor) -> &'a Sent {
        if cursor == ALONE { &busy.flight.0 } else { &self.nodes[cursor.node].slots[cursor.slot as usize] }
    }

    /// The segment at `cursor`, to be changed.
    #[inline]
    pub(crate) fn get_mut<'a>(&'a mut self, busy: &'a mut Busy, cursor: Cursor) -> &'a mut Sent {
        if cursor == ALONE { &mut busy.flight.0 } else { &mut self.nodes[cursor.node].slots[cursor.slot as usize] }
    }

    /// Takes the oldest segment, if all of it is acknowledged by `ack`.
    #[inline(always)]
    pub(crate) fn pop_acked(&mut self, busy: &mut Busy, ack: Seq) -> Option<Sent> {
        let Flight(only) = busy.flight;
        if only.has(CHAIN) {
            return self.pop_acked_of_chain(busy, ack);
        }
        if only.len == 0 || !only.end().at_or_before(ack) {
            return None;
        }
        busy.flight = Flight::NOTHING;
        Some(only)
    }

    #[inline(never)]
    fn pop_acked_of_chain(&mut self, busy: &mut Busy, ack: Seq) -> Option<Sent> {
        let node = &mut self.nodes[busy.flight.head()];
        let record = *node.slots.get(usize::from(node.first))?;
        if !record.end().at_or_before(ack) {
            return None;
        }
        node.first += 1;
        if node.first == node.end {
            self.leave_front_node(busy);
        }
        Some(record)
    }

    /// Takes the segments up to `ack`, if they are whole ones and bear none but the `expected` marks. Returns the newest.
    #[inline(always)]
    pub(crate) fn take_up_to(&mut self, busy: &mut Busy, ack: Seq, expected: u8) -> Option<Sent> {
        let Flight(only) = busy.flight;
        if only.has(!expected) || only.end() != ack || only.len == 0 {
            return self.take_chain_up_to(busy, ack, expected);
        }
        busy.flight = Flight::NOTHING;
        Some(only)
    }

    /// The same where it is no single segment.
    #[inline(never)]
    fn take_chain_up_to(&mut self, busy: &mut Busy, ack: Seq, expected: u8) -> Option<Sent> {
        if !busy.flight.is_chain() {
            return None;
        }
        let node = &mut self.nodes[busy.flight.head()];
        let mut at = node.first;
        let newest = loop {
            let record = *node.slots.get(usize::from(at))?;
            at += 1;
            if record.has(!expected) {
                return None;
            }
            if record.end() == ack {
                break record;
            }
            if at == node.end {
                return self.take_nodes_up_to(busy, ack, expected);
            }
        };
        node.first = at;
        if at == node.end {
            self.leave_front_node(busy);
        }
        Some(newest)
    }

    /// The same where they lie in more than one node: all are looked at before any is taken.
    #[inline(never)]
    fn take_nodes_up_to(&mut self, busy: &mut Busy, ack: Seq, expected: u8) -> Option<Sent> {
        let mut last = busy.flight.head();
        let (newest, end) = 'found: loop {
            let node = self.nodes.get(last)?;
            let (first, end) = (usize::from(node.first), usize::from(node.end));
            for (record, end) in node.slots.get(first..end)?.iter().zip(node.first + 1..) {
                if record.has(!expected) || record.end().after(ack) {
                    return None;
                }
                if record.end() == ack {
                    break 'found (*record, end);
                }
            }
            last = node.next;
        };
        while busy.flight.head() != last {
            self.leave_front_node(busy);
        }
        let node = &mut self.nodes[last];
        node.first = end;
        if node.first == node.end {
            self.leave_front_node(busy);
        }
        Some(newest)
    }

    /// The first node of the chain has nothing left in flight: it goes back.
    #[inline]
    fn leave_front_node(&mut self, busy: &mut Busy) {
        let flight = busy.flight;
        let next = self.nodes[flight.head()].next;
        self.nodes.free(flight.head());
        busy.flight =
            if next == NONE { Flight::NOTHING } else { Flight::chain(next, flight.tail(), flight.nodes() - 1) };
    }

    /// Takes back the newest segment, which could not be sent after all.
    pub(crate) fn pop_back(&mut self, busy: &mut Busy) {
        let flight = busy.flight;
        if !flight.is_chain() {
            busy.flight = Flight::NOTHING;
            return;
        }
        let (head, tail) = (flight.head(), flight.tail());
        let node = &mut self.nodes[tail];
        node.end -= 1;
        if node.end > node.first {
            return;
        }
        if head == tail {
            return self.leave_front_node(busy);
        }
        let mut at = head;
        while self.nodes[at].next != tail {
            at = self.nodes[at].next;
        }
        self.nodes[at].next = NONE;
        self.nodes.free(tail);
        busy.flight = Flight::chain(head, at, flight.nodes() - 1);
    }

    /// Splits the segment at `cursor` in two, the first of `len` octets of sequence space. Returns where that is now; `None`
    /// if there is no node.
    pub(crate) fn split(&mut self, busy: &mut Busy, cursor: Cursor, len: u16) -> Option<Cursor> {
        let whole = *self.get(busy, cursor);
        let mut rest = Sent { start: whole.start + u32::from(len), len: whole.len - len, ..whole };
        let mut first = Sent { len, ..whole };
        first.flags &= !super::block::sent::FIN;
        rest.flags &= !super::block::sent::SYN;
        let flight = busy.flight;
        if !flight.is_chain() {
            busy.flight = Flight(first);
            if !self.push_in_fresh_node(busy, rest) {
                busy.flight = flight;
                return None;
            }
            return self.front(busy);
        }
        // The rest of the node moves to a node of its own, so that the new segment has a slot.
        let fresh = self.nodes.alloc()?;
        let node = &mut self.nodes[cursor.node];
        let keep = cursor.slot as usize + 1;
        let tail = node.slots;
        let (end, next) = (node.end as usize, node.next);
        node.slots[cursor.slot as usize] = first;
        node.end = keep as u8;
        node.next = fresh;
        let node = &mut self.nodes[fresh];
        (node.next, node.first) = (next, 0);
        node.slots[0] = rest;
        node.slots[1..=end - keep].copy_from_slice(&tail[keep..end]);
        node.end = (1 + end - keep) as u8;
        let tail = if flight.tail() == cursor.node { fresh } else { flight.tail() };
        busy.flight = Flight::chain(flight.head(), tail, flight.nodes() + 1);
        Some(cursor)
    }

    /// Removes every segment.
    #[inline(always)]
    pub(crate) fn clear(&mut self, busy: &mut Busy) {
        if busy.flight.is_chain() {
            self.free_chain(busy.flight.head());
        }
        busy.flight = Flight::NOTHING;
    }

    #[inline(never)]
    fn free_chain(&mut self, mut at: u32) {
        while at != NONE {
            let next = self.nodes[at].next;
            self.nodes.free(at);
            at = next;
        }
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
