//! How the applications are brought to an end.

use std::time::Duration;

use syncline_engine::app::{ConnId, Net};
use syncline_engine::time::Instant;

use super::Lane;
use crate::apps::Server;
use crate::load::Client;
use crate::signals::Stop;

/// How far the closing of all connections has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainWalk {
    began: Option<Instant>,
    next: u32,
}

/// Slots visited at a time: some tens of microseconds.
const SLOTS_AT_ONCE: u32 = 16_384;

/// How long a server waits for its peers to close, too.
const SERVER_DRAIN: Duration = Duration::from_secs(3);

impl DrainWalk {
    /// Asks some of the open connections to close, each once in a while. True when none is left or `patience` is over.
    fn step(&mut self, net: &mut Net<'_>, patience: Duration) -> bool {
        let began = *self.began.get_or_insert(net.now());
        if net.connections() == 0 || net.now().since(began) >= patience {
            return true;
        }
        let end = self.next.saturating_add(SLOTS_AT_ONCE).min(net.connections_max());
        for slot in self.next..end {
            if let Some(mut conn) = net.conn(ConnId(slot)) {
                conn.close();
            }
        }
        self.next = if end == net.connections_max() { 0 } else { end };
        false
    }
}

impl Lane for Server {
    fn look_around(&mut self, net: &mut Net<'_>, stop: Stop, drain: &mut DrainWalk) -> bool {
        stop != Stop::No && drain.step(net, SERVER_DRAIN)
    }
}

impl Lane for Client {
    fn look_around(&mut self, _net: &mut Net<'_>, stop: Stop, _drain: &mut DrainWalk) -> bool {
        if stop != Stop::No {
            self.control().stop();
        }
        self.is_done()
    }

    fn times_an_answer(&self) -> bool {
        self.answers_to_come() > 0
    }

    fn next_due(&self) -> Option<Instant> {
        self.due()
    }
}
