//! Ladders of a run's first connections, with the engine's own states.

use std::net::SocketAddr;

use syncline_engine::app::Endpoints;
use syncline_engine::tcp::State;

use super::Passing;
use crate::trace::follow::Side;
use crate::trace::{Connection, Ladder};

/// Segments kept of one connection: a ladder is to be read.
const SEGMENTS_MAX: usize = 2_000;

#[derive(Debug)]
struct Page {
    ends: Endpoints,
    connection: Connection,
    /// How many segments had passed at the end of a pass of the loop, and the state then.
    states: Vec<(usize, State)>,
    /// Something has passed since the engine's state was last asked for.
    stale: bool,
}

/// The first connections of a worker.
#[derive(Debug)]
pub struct Book {
    pages: Vec<Page>,
    pages_max: usize,
    stale: bool,
}

impl Book {
    /// For the first `connections_max` connections.
    pub fn new(connections_max: usize) -> Self {
        Self { pages: Vec::new(), pages_max: connections_max, stale: false }
    }

    pub(super) fn frame(&mut self, passing: &Passing<'_>) {
        let syn = passing.segment.flags.syn() && !passing.segment.flags.ack();
        let known = self.pages.iter().rposition(|page| page.ends == passing.ends);
        let known = known.filter(|&at| !self.pages[at].connection.gives_way_to(passing.segment));
        let at = match known {
            Some(at) => at,
            // What began before is not among the first.
            None if !syn || self.pages.len() >= self.pages_max => return,
            None => {
                let connection = Connection::new(passing.segment.from, passing.segment.to);
                self.pages.push(Page { ends: passing.ends, connection, states: Vec::new(), stale: false });
                self.pages.len() - 1
            }
        };
        let page = &mut self.pages[at];
        if page.connection.segments.len() >= SEGMENTS_MAX {
            page.connection.left_out += 1;
            return;
        }
        page.connection.push(passing.segment);
        page.stale = true;
        self.stale = true;
    }

    /// Adds the connections whose state is wanted now.
    pub(super) fn asks(&mut self, wanted: &mut Vec<Endpoints>) {
        if std::mem::take(&mut self.stale) {
            wanted.extend(self.pages.iter_mut().filter(|page| page.stale).map(|page| {
                page.stale = false;
                page.ends
            }));
        }
    }

    /// The engine's state of a connection, at the end of a pass.
    pub(super) fn tell(&mut self, ends: Endpoints, state: State) {
        if let Some(page) = self.pages.iter_mut().rev().find(|page| page.ends == ends) {
            page.states.push((page.connection.segments.len(), state));
        }
    }

    /// The ladders, in the order of the connections' first segments.
    pub fn ladders(&self) -> Vec<Ladder> {
        self.pages.iter().map(Page::ladder).collect()
    }
}

impl Page {
    fn ladder(&self) -> Ladder {
        let mut ladder = Ladder::of(&self.connection);
        let own = |end: SocketAddr| end == self.ends.local;
        let side = if own(self.connection.left) { Side::Left } else { Side::Right };
        ladder.engine_side = Some(side);
        for &(passed, state) in &self.states {
            if let Some(row) = passed.checked_sub(1).and_then(|at| ladder.rows.get_mut(at)) {
                *if side == Side::Left { &mut row.left } else { &mut row.right } = Some(state);
            }
        }
        ladder
    }
}
