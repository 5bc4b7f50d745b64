//! Flights beside lists, by random operations.

use std::collections::VecDeque;

use super::*;
use crate::flow::table::tests::Random;
use crate::page::HeapPages;
use crate::tcp::block::sent;

/// One connection's flight, and the same as a list.
struct Pair {
    flights: Flights,
    b: Busy,
    model: VecDeque<(Seq, u16, u8)>,
    next: Seq,
}

impl Pair {
    fn new() -> Self {
        let mut flights = Flights::new(64, 256);
        flights.reserve(&mut HeapPages::new(), 64).expect("memory");
        Self { flights, b: Busy::default(), model: VecDeque::new(), next: Seq(u32::MAX - 5_000) }
    }

    fn push(&mut self, len: u16, flags: u8) {
        let sent = Sent { start: self.next, len, flags, resent: 0, sent_us: self.next.0 };
        assert!(self.flights.push(&mut self.b, sent));
        self.model.push_back((self.next, len, flags));
        self.next += u32::from(len);
    }

    fn pop_back(&mut self) {
        self.flights.pop_back(&mut self.b);
        if let Some((start, ..)) = self.model.pop_back() {
            self.next = start;
        }
    }

    /// The end of the segment of this number, or the octet before.
    fn edge(&self, nth: usize, whole: bool) -> Seq {
        self.model.get(nth).map_or(self.next, |&(start, len, _)| start + u32::from(len) - u32::from(!whole))
    }

    fn pop_acked(&mut self, ack: Seq) {
        while let Some(record) = self.flights.pop_acked(&mut self.b, ack) {
            let (start, len, flags) = self.model.pop_front().expect("a segment that was sent");
            assert_eq!((record.start, record.len, record.flags), (start, len, flags));
        }
        assert!(self.model.front().is_none_or(|&(start, len, _)| (start + u32::from(len)).after(ack)));
    }

    fn take_up_to(&mut self, ack: Seq) {
        let covered =
            self.model.iter().take_while(|(start, len, _)| (*start + u32::from(*len)).at_or_before(ack)).count();
        let whole = covered > 0 && self.edge(covered - 1, true) == ack;
        let plain = self.model.iter().take(covered).all(|(.., flags)| flags & !sent::FIN == 0);
        let taken = self.flights.take_up_to(&mut self.b, ack, sent::FIN);
        assert_eq!(taken.is_some(), whole && plain, "{covered} segments up to {ack:?}");
        if let Some(newest) = taken {
            let last = self.model.drain(..covered).next_back().expect("one at least");
            assert_eq!((newest.start, newest.len, newest.flags), last);
        }
    }

    fn split(&mut self, nth: usize) {
        let Some(&(start, len, flags)) = self.model.get(nth).filter(|(_, len, _)| *len > 1) else { return };
        let mut cursor = self.flights.front(&self.b).expect("it is not empty");
        for _ in 0..nth {
            cursor = self.flights.next(cursor).expect("as many as in the list");
        }
        let at = self.flights.split(&mut self.b, cursor, len / 2).expect("a node");
        assert_eq!(self.flights.get(&self.b, at).len, len / 2);
        self.model[nth] = (start, len / 2, flags & !sent::FIN);
        self.model.insert(nth + 1, (start + u32::from(len / 2), len - len / 2, flags & !sent::SYN));
    }

    fn check(&self) {
        let mut cursor = self.flights.front(&self.b);
        for &(start, len, flags) in &self.model {
            let at = cursor.expect("as many as in the list");
            let record = self.flights.get(&self.b, at);
            assert_eq!((record.start, record.len, record.flags), (start, len, flags));
            cursor = self.flights.next(at);
            assert_eq!(cursor.is_none(), self.flights.back(&self.b) == Some(at), "the newest is the last");
        }
        assert_eq!(cursor, None);
        assert_eq!(self.b.flight.is_empty(), self.model.is_empty());
        assert_eq!(self.flights.is_single(&self.b), self.model.len() <= 1);
        assert_eq!(self.flights.nodes_of(&self.b), u32::from(self.b.flight.nodes()));
        assert_eq!(self.flights.len(), u32::from(self.b.flight.nodes()), "nodes in use are those of the one flight");
        assert!(self.model.len() > 1 || self.b.flight.nodes() <= 1);
    }
}

#[test]
fn random_operations_agree_with_a_list() {
    let mut random = Random(3);
    let mut pair = Pair::new();
    for step in 0..200_000 {
        let nth = random.below(1 + pair.model.len() as u64) as usize;
        // short flights are as frequent as long ones
        let few = step / 1_000 % 2 == 0 && pair.model.len() > 2;
        match random.below(8) {
            0..4 if !few && pair.model.len() < 100 => {
                let flags = [0, 0, 0, sent::FIN, sent::RESENT, sent::LOST][random.below(6) as usize];
                pair.push(1 + random.below(1_400) as u16, flags);
            }
            4 => pair.pop_acked(pair.edge(nth, random.below(4) > 0)),
            5 => pair.take_up_to(pair.edge(nth, random.below(4) > 0)),
            6 if random.below(4) == 0 => pair.split(nth),
            7 if random.below(4) == 0 => pair.pop_back(),
            _ if random.below(200) == 0 => {
                pair.flights.clear(&mut pair.b);
                pair.model.clear();
            }
            _ => {}
        }
        pair.check();
    }
}

#[test]
fn one_segment_takes_no_node() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.push(64, 0);
        assert_eq!(pair.flights.len(), 0);
        pair.push(64, sent::FIN);
        assert_eq!(pair.flights.len(), 1);
        pair.take_up_to(pair.next);
        assert_eq!((pair.flights.len(), pair.model.len()), (0, 0));
    }
}
