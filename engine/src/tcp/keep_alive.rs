//! Keep-alive (RFC 9293 §3.8.4): idle connections are probed, and given up if nobody answers.
//!
//! An idle connection has no timer: a sweep over all of them, a piece in each pass, compares when each was last heard
//! with the time of this sweep and of the one before. A probe is due if one of its moments lies between the two, so
//! that nothing need be kept but the time and one bit.

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
/// Probes sent in one pass.
const PROBES_MAX: usize = 128;

/// Where the sweep is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// Whether one is under way.
    running: bool,
    /// When it began, and the one before it, milliseconds.
    began_ms: u32,
    before_ms: u32,
    /// The page it has come to, and the connection in it.
    page: u32,
    next: u32,
}

impl Tcp {
    /// Step 7 of the loop for idle connections. Returns how many were probed or given up.
    pub(crate) fn keep_alive<A: App>(&mut self, app: &mut A) -> usize {
        if !self.probes_idle() || self.conns.is_empty() {
            return 0;
        }
        if !self.keep_alive.running {
            if self.now_ms.wrapping_sub(self.keep_alive.began_ms) < SWEEP_MS {
                return 0;
            }
            let before_ms = self.keep_alive.began_ms;
            self.keep_alive = Sweep { running: true, began_ms: self.now_ms, before_ms, page: 0, next: 0 };
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
        let Sweep { mut page, mut next, .. } = self.keep_alive;
        let (mut count, mut looked_at) = (0, 0);
        'pages: while page < self.conns.page_count() {
            for id in self.conns.live_in_page(page) {
                if id < next {
                    continue;
                }
                if count == PROBES_MAX || looked_at == LOOKED_AT_MAX {
                    next = id;
                    break 'pages;
                }
                looked_at += 1;
                if let Some(over) = self.probe_due(id) {
                    due[count] = (id, over);
                    count += 1;
                }
            }
            page += 1;
            next = 0;
        }
        (self.keep_alive.page, self.keep_alive.next) = (page, next);
        self.keep_alive.running = page < self.conns.page_count();
        count
    }

    /// Whether a probe is due, and whether it is one more than there may be.
    fn probe_due(&self, id: u32) -> Option<bool> {
        let c = &self.conns[id];
        //= RFC 9293 MAY-5, MUST-24, MUST-26
        let configured = self.config.keepalive.is_some();
        let (on, idle) = match self.busies.get(c.busy).filter(|_| c.busy != NONE) {
            None => (configured, true),
            Some(b) => (
                configured != (b.flags & busy::KEEP_ALIVE_OTHER != 0),
                b.flight_head == NONE && b.flags & busy::PERSIST == 0,
            ),
        };
        if !on || !idle || !matches!(c.state, State::Established | State::CloseWait) {
            return None;
        }
        let (now, before) = (self.probes_due(c.heard_ms, self.keep_alive.began_ms), {
            // A connection that was heard after the last sweep had none due then
            let last = self.keep_alive.before_ms;
            if (last.wrapping_sub(c.heard_ms) as i32) < 0 { 0 } else { self.probes_due(c.heard_ms, last) }
        });
        //= RFC 9293 MUST-29
        (now > before).then(|| now > u32::from(self.config.keepalive_probes) && c.has(flag::PROBED))
    }

    /// How many probes a connection last heard at `heard_ms` is to have been sent by `at_ms`.
    fn probes_due(&self, heard_ms: u32, at_ms: u32) -> u32 {
        let idle_ms = at_ms.wrapping_sub(heard_ms);
        //= RFC 9293 MUST-27
        let first = self.config.keepalive.unwrap_or(IDLE_DEFAULT);
        if (idle_ms as i32) < 0 || u128::from(idle_ms) < first.as_millis() {
            return 0;
        }
        let interval = self.config.keepalive_interval.as_millis().max(1) as u32;
        1 + (idle_ms - first.as_millis() as u32) / interval
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
