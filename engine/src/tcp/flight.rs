//! Segments in flight: a chain of nodes per connection, oldest first.
//!
//! No payload is kept, only what loss recovery must know of each segment ([`Sent`]). Nodes come from one pool and go
//! back as they empty, but for the last one: it stays with the busy block, its `flight_tail`, as the spare for the next
//! segment. A short exchange so asks the pool once, and uses one node that is warm in the cache.

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

/// A place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    node: u32,
    slot: u8,
}

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
        busy.flight_nodes >= self.nodes_each && busy.flight_head != NONE
    }

    /// Makes sure that `n` nodes can be taken without another page.
    pub(crate) fn reserve<P: PageSource>(&mut self, pages: &mut P, n: u32) -> Result<(), OutOfMemory> {
        self.nodes.reserve(pages, n)
    }

    /// Nodes in use.
    pub(crate) fn len(&self) -> u32 {
        self.nodes.len()
    }

    /// Nodes of one chain, its spare one included.
    pub(crate) fn nodes_of(&self, busy: &Busy) -> u32 {
        let mut count = 0;
        let mut at = first_node(busy);
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
    #[inline]
    pub(crate) fn push(&mut self, busy: &mut Busy, sent: Sent) -> bool {
        if busy.flight_tail != NONE {
            let node = &mut self.nodes[busy.flight_tail];
            if let Some(slot) = node.slots.get_mut(usize::from(node.end)) {
                *slot = sent;
                node.end += 1;
                if busy.flight_head == NONE {
                    // it was the spare one
                    busy.flight_head = busy.flight_tail;
                }
                return true;
            }
        }
        self.push_in_fresh_node(busy, sent)
    }

    #[inline(never)]
    fn push_in_fresh_node(&mut self, busy: &mut Busy, sent: Sent) -> bool {
        let Some(fresh) = self.nodes.alloc() else { return false };
        busy.flight_nodes += 1;
        let node = &mut self.nodes[fresh];
        (node.next, node.first, node.end) = (NONE, 0, 1);
        node.slots[0] = sent;
        if busy.flight_tail == NONE {
            busy.flight_head = fresh;
        } else {
            self.nodes[busy.flight_tail].next = fresh;
        }
        busy.flight_tail = fresh;
        true
    }

    /// The oldest segment.
    #[inline]
    pub(crate) fn front(&self, busy: &Busy) -> Option<Cursor> {
        (busy.flight_head != NONE).then(|| Cursor { node: busy.flight_head, slot: self.nodes[busy.flight_head].first })
    }

    /// The newest segment.
    #[inline]
    pub(crate) fn back(&self, busy: &Busy) -> Option<Cursor> {
        (busy.flight_head != NONE)
            .then(|| Cursor { node: busy.flight_tail, slot: self.nodes[busy.flight_tail].end - 1 })
    }

    /// Whether no more than one segment is in flight.
    #[inline]
    pub(crate) fn is_single(&self, busy: &Busy) -> bool {
        busy.flight_head == NONE
            || busy.flight_head == busy.flight_tail && {
                let node = &self.nodes[busy.flight_head];
                node.end - node.first == 1
            }
    }

    /// The segment after `cursor`.
    #[inline]
    pub(crate) fn next(&self, cursor: Cursor) -> Option<Cursor> {
        let node = &self.nodes[cursor.node];
        if cursor.slot + 1 < node.end {
            return Some(Cursor { node: cursor.node, slot: cursor.slot + 1 });
        }
        (node.next != NONE).then(|| Cursor { node: node.next, slot: self.nodes[node.next].first })
    }

    /// The segment at `cursor`.
    #[inline]
    pub(crate) fn get(&self, cursor: Cursor) -> &Sent {
        &self.nodes[cursor.node].slots[cursor.slot as usize]
    }

    /// The segment at `cursor`, to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self, cursor: Cursor) -> &mut Sent {
        &mut self.nodes[cursor.node].slots[cursor.slot as usize]
    }

    /// Takes the oldest segment, if all of it is acknowledged by `ack`.
    #[inline(always)]
    pub(crate) fn pop_acked(&mut self, busy: &mut Busy, ack: Seq) -> Option<Sent> {
        let node = self.nodes.get_mut(busy.flight_head)?;
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
        let node = self.nodes.get_mut(busy.flight_head)?;
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
            (node.first, node.end) = (0, 0);
            let next = node.next;
            self.drop_front_node(busy, next);
        }
        Some(newest)
    }

    /// The same where they lie in more than one node: all are looked at before any is taken.
    #[inline(never)]
    fn take_nodes_up_to(&mut self, busy: &mut Busy, ack: Seq, expected: u8) -> Option<Sent> {
        let mut last = busy.flight_head;
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
        while busy.flight_head != last {
            self.leave_front_node(busy);
        }
        let node = &mut self.nodes[last];
        node.first = end;
        if node.first == node.end {
            self.leave_front_node(busy);
        }
        Some(newest)
    }

    /// The first node of the chain has nothing left in flight: it goes back, or stays as the spare.
    #[inline]
    fn leave_front_node(&mut self, busy: &mut Busy) {
        let node = &mut self.nodes[busy.flight_head];
        (node.first, node.end) = (0, 0);
        let next = node.next;
        self.drop_front_node(busy, next);
    }

    #[inline]
    fn drop_front_node(&mut self, busy: &mut Busy, next: u32) {
        let head = core::mem::replace(&mut busy.flight_head, next);
        if next != NONE {
            busy.flight_nodes -= 1;
            self.nodes.free(head);
        }
    }

    /// Takes back the newest segment, which could not be sent after all.
    pub(crate) fn pop_back(&mut self, busy: &mut Busy) {
        if busy.flight_head == NONE {
            return;
        }
        let tail = busy.flight_tail;
        let node = &mut self.nodes[tail];
        node.end -= 1;
        if node.end > node.first {
            return;
        }
        let mut at = busy.flight_head;
        if at == tail {
            return self.leave_front_node(busy);
        }
        while self.nodes[at].next != tail {
            at = self.nodes[at].next;
        }
        self.nodes[at].next = NONE;
        busy.flight_tail = at;
        busy.flight_nodes -= 1;
        self.nodes.free(tail);
    }

    /// Splits the segment at `cursor` in two, the first of `len` octets of sequence space. False if there is no node.
    pub(crate) fn split(&mut self, busy: &mut Busy, cursor: Cursor, len: u16) -> bool {
        let whole = *self.get(cursor);
        let mut rest = Sent { start: whole.start + u32::from(len), len: whole.len - len, ..whole };
        let mut first = Sent { len, ..whole };
        first.flags &= !super::block::sent::FIN;
        rest.flags &= !super::block::sent::SYN;
        // The rest of the node moves to a node of its own, so that the new segment has a slot.
        let Some(fresh) = self.nodes.alloc() else { return false };
        busy.flight_nodes += 1;
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
        if busy.flight_tail == cursor.node {
            busy.flight_tail = fresh;
        }
        true
    }

    /// Removes every segment, and the spare node.
    #[inline]
    pub(crate) fn clear(&mut self, busy: &mut Busy) {
        match busy.flight_nodes {
            0 => {}
            1 => _ = self.nodes.free(busy.flight_tail),
            _ => self.free_chain(first_node(busy)),
        }
        (busy.flight_head, busy.flight_tail) = (NONE, NONE);
        busy.flight_nodes = 0;
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

/// The first node of a chain, or its spare one.
#[inline]
fn first_node(busy: &Busy) -> u32 {
    if busy.flight_head == NONE { busy.flight_tail } else { busy.flight_head }
}
