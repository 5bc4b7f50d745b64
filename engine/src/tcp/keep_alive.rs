//! Keep-alive (RFC 9293 §3.8.4): idle connections are probed, and given up if nobody answers.
//!
//! An idle connection has no timer: a sweep over all of them, a piece in each pass, compares when each was last heard
//! with the time of this sweep and of the one before. A probe is due if one of its moments lies between the two, so
//! that nothing need be kept but the time and one bit.
//!
//! The sweep notes of each page of connections when the first of them will be due if none is heard: until then it passes
//! the page by. So connections of which nothing is due cost next to nothing, and of all others only their own page.

use core::time::Duration;

use crate::app::{App, End};

use super::Tcp;
use super::block::{NONE, busy, flag};
use super::state::State;

/// A sweep begins at most this often, milliseconds: how late a probe may be.
const SWEEP_MS: u32 = 1_000;
/// Connections looked at in one pass of the loop.
const LOOKED_AT_MAX: usize = 1_024;
/// Idle time before the first probe of a connection that asked for probes where none are configured (RFC 9293 §3.8.4: two
/// hours or more).
//= RFC 9293 MUST-28
const IDLE_DEFAULT: Duration = Duration::from_secs(7_200);
/// Probes sent in one pass: their answers fit in one burst.
const PROBES_MAX: usize = 64;
/// Connections with something to send beyond which no probe is added: the device is short of room.
const WAITING_MAX: usize = 1_024;
/// A page takes as long as so many connections to look at, even if there is none in it.
const PAGE_COSTS: usize = 64;
/// Pages passed by in one pass of the loop.
const PASSED_BY_MAX: usize = 4_096;
/// What a sweep noted is good for so long, milliseconds: far less than half the clock's range.
const NOTED_MS_MAX: u32 = 1 << 30;

/// Where the sweep is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// Whether one is under way.
    running: bool,
    /// When it began, and the one before it, milliseconds.
    began_ms: u32,
    before_ms: u32,
    /// The page it has come to, and the connection in it.
    page: u32,
    next: u32,
    /// From the beginning of this sweep to when the first connection of this page is due, as far as it has been looked at.
    ahead_ms: u32,
    /// When each page is to be looked at again. Room for all of them is made at the start.
    look_at_ms: Vec<u32>,
}

impl Sweep {
    /// For so many pages of connections at most.
    pub(crate) fn over(pages: usize) -> Self {
        Self { look_at_ms: Vec::with_capacity(pages), ..Self::default() }
    }

    /// Begins at the first page. Pages that are new, or were noted too long ago, are looked at.
    fn begin(&mut self, now_ms: u32, pages: u32) {
        if now_ms.wrapping_sub(self.began_ms) > NOTED_MS_MAX {
            self.look_at_ms.clear();
        }
        let pages = (pages as usize).min(self.look_at_ms.capacity());
        self.look_at_ms.resize(pages, now_ms);
        (self.before_ms, self.began_ms) = (self.began_ms, now_ms);
        (self.running, self.page, self.next, self.ahead_ms) = (true, 0, 0, NOTED_MS_MAX);
    }

    /// Whether nothing of the page can be due yet.
    fn passes_by(&self) -> bool {
        let at = self.look_at_ms.get(self.page as usize);
        at.is_some_and(|&at| (self.began_ms.wrapping_sub(at) as i32) < 0)
    }

    /// Goes to the next page.
    fn turn_page(&mut self) {
        (self.page, self.next, self.ahead_ms) = (self.page + 1, 0, NOTED_MS_MAX);
    }

    /// Notes when to look at this page again.
    fn note(&mut self) {
        if let Some(at) = self.look_at_ms.get_mut(self.page as usize) {
            *at = self.began_ms.wrapping_add(self.ahead_ms);
        }
    }
}

/// When probes are due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Idle time before the first.
    first_ms: u32,
    /// Time between two.
    interval_ms: u32,
}

impl Pace {
    /// How many probes a connection last heard at `heard_ms` is to have been sent by `at_ms`.
    fn due(self, heard_ms: u32, at_ms: u32) -> u32 {
        let idle_ms = at_ms.wrapping_sub(heard_ms);
        if (idle_ms as i32) < 0 || idle_ms < self.first_ms {
            return 0;
        }
        1 + (idle_ms - self.first_ms) / self.interval_ms
    }

    /// How long after the sweep that began at `began_ms` the next probe of a connection last heard at `heard_ms` is due.
    fn next_ms(self, heard_ms: u32, began_ms: u32) -> u32 {
        let idle_ms = began_ms.wrapping_sub(heard_ms);
        if (idle_ms as i32) < 0 {
            return self.first_ms;
        }
        match idle_ms.checked_sub(self.first_ms) {
            None => self.first_ms - idle_ms,
            Some(since_first) => self.interval_ms - since_first % self.interval_ms,
        }
    }
}

impl Tcp {
    /// Step 7 of the loop for idle connections. Returns how many were probed or given up.
    pub(crate) fn keep_alive<A: App>(&mut self, app: &mut A) -> usize {
        if !self.probes_idle() || self.conns.is_empty() || self.dirty.len() > WAITING_MAX {
            return 0;
        }
        if !self.keep_alive.running {
            if self.now_ms.wrapping_sub(self.keep_alive.began_ms) < SWEEP_MS {
                return 0;
            }
            self.keep_alive.begin(self.now_ms, self.conns.page_count());
        }
        let mut due = [(0, false); PROBES_MAX];
        let count = self.sweep(&mut due);
        for &(id, over) in &due[..count] {
            if over {
                self.remove(app, id, End::Timeout);
            } else if let Some(slot) = self.attach(id) {
                self.conns[id].flags |= flag::PROBED;
                self.busies[slot].flags |= busy::KEEP_ALIVE;
                self.stats.keepalive_probes.increment();
                self.mark_dirty(id);
            }
        }
        count
    }

    /// Whether any connection may be one to be probed.
    fn probes_idle(&self) -> bool {
        self.config.keepalive.is_some() || self.keep_alive_asked
    }

    /// Goes on with the sweep; the connections found are put into `due`, with whether their time is over.
    fn sweep(&mut self, due: &mut [(u32, bool); PROBES_MAX]) -> usize {
        let (mut count, mut looked_at, mut passed_by) = (0, 0, 0);
        let pace = self.pace();
        while self.keep_alive.page < self.conns.page_count() {
            if passed_by == PASSED_BY_MAX || looked_at >= LOOKED_AT_MAX {
                return count;
            }
            if self.keep_alive.passes_by() {
                passed_by += 1;
                self.keep_alive.turn_page();
                continue;
            }
            looked_at += PAGE_COSTS;
            // What begins now is due no earlier
            let mut ahead_ms = self.keep_alive.ahead_ms.min(pace.first_ms);
            for id in self.conns.live_in_page(self.keep_alive.page) {
                if id < self.keep_alive.next {
                    continue;
                }
                if count == PROBES_MAX || looked_at >= LOOKED_AT_MAX {
                    (self.keep_alive.next, self.keep_alive.ahead_ms) = (id, ahead_ms);
                    return count;
                }
                looked_at += 1;
                ahead_ms = ahead_ms.min(pace.next_ms(self.conns[id].heard_ms, self.keep_alive.began_ms));
                if let Some(over) = self.probe_due(id, pace) {
                    due[count] = (id, over);
                    count += 1;
                }
            }
            self.keep_alive.ahead_ms = ahead_ms;
            self.keep_alive.note();
            self.keep_alive.turn_page();
        }
        self.keep_alive.running = false;
        count
    }

    /// Whether a probe is due, and whether it is one more than there may be.
    fn probe_due(&self, id: u32, pace: Pace) -> Option<bool> {
        let c = &self.conns[id];
        //= RFC 9293 MAY-5, MUST-24, MUST-26
        let configured = self.config.keepalive.is_some();
        let (on, idle) = match self.busies.get(c.busy).filter(|_| c.busy != NONE) {
            None => (configured, true),
            Some(b) => (
                configured != (b.flags & busy::KEEP_ALIVE_OTHER != 0),
                b.flight.is_empty() && b.flags & busy::PERSIST == 0,
            ),
        };
        if !on || !idle || !matches!(c.state, State::Established | State::CloseWait) {
            return None;
        }
        let (now, before) = (pace.due(c.heard_ms, self.keep_alive.began_ms), {
            // A connection that was heard after the last sweep had none due then
            let last = self.keep_alive.before_ms;
            if (last.wrapping_sub(c.heard_ms) as i32) < 0 { 0 } else { pace.due(c.heard_ms, last) }
        });
        //= RFC 9293 MUST-29
        (now > before).then(|| now > u32::from(self.config.keepalive_probes) && c.has(flag::PROBED))
    }

    /// When probes are due by the configuration.
    fn pace(&self) -> Pace {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        //= RFC 9293 MUST-27
        let first_ms = millis(self.config.keepalive.unwrap_or(IDLE_DEFAULT));
        Pace { first_ms, interval_ms: millis(self.config.keepalive_interval).max(1) }
    }

    /// When the sweep goes on, milliseconds from now.
    pub(crate) fn next_keep_alive_ms(&self) -> Option<u32> {
        if !self.probes_idle() || self.conns.is_empty() {
            return None;
        }
        if self.keep_alive.running {
            return Some(0);
        }
        Some(SWEEP_MS.saturating_sub(self.now_ms.wrapping_sub(self.keep_alive.began_ms)))
    }
}
