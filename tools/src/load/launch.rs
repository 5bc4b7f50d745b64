//! A worker's launches: how many may be made now, the making of one, and the first request of what has opened.

use core::time::Duration;
use std::net::SocketAddr;

use syncline_engine::app::{Conn, ConnId, ConnectError, Net};
use syncline_engine::time::Instant;

use super::client::{Client, FRESH_MAX};
use super::session::{ALL_SENT, Session, Stage, UNSCHEDULED};
use super::snapshot::Phase;
use crate::measure::{Failure, Stage as Measured};

/// Handshakes under way at most while connections are opened without a rate.
const HANDSHAKES_MAX: u32 = 1_024;

/// Handshakes under way at most while connections that stay are opened at a rate.
const HELD_HANDSHAKES_MAX: u32 = 4_096;

/// How long launches wait after one found no free port or no memory, when no schedule says when the next is due.
const RETRY_AFTER: Duration = Duration::from_millis(1);

impl Client {
    pub(super) fn exhausted(&self) -> bool {
        self.launched >= self.quota
    }

    pub(super) fn full(&self) -> bool {
        // Connections that stay are in flight for as long as their handshakes last.
        if self.plan.keeps() {
            return self.population[Stage::Connecting as usize] >= HELD_HANDSHAKES_MAX;
        }
        self.in_flight() >= self.in_flight_max
    }

    /// Connections that a closed loop may have open at `now`.
    fn limit(&self, now: Instant) -> u32 {
        if self.in_flight_max == u32::MAX || now >= self.ramp_end {
            return self.in_flight_max;
        }
        let part = now.since(self.start).as_secs_f64() / self.plan.ramp.as_secs_f64();
        ((f64::from(self.in_flight_max) * part) as u32).max(1)
    }

    pub(super) fn launch(&mut self, net: &mut Net<'_>, now: Instant) {
        let room = self.room(net, now);
        let made = if self.launches.is_some() {
            self.launch_what_is_due(net, now, room)
        } else {
            self.launch_what_is_free(net, now, room)
        };
        let burst_max = &mut self.recorder.current.burst_max;
        *burst_max = (*burst_max).max(made as u32);
    }

    /// Open loop: what the schedule has due. How many it made, `room` at most.
    fn launch_what_is_due(&mut self, net: &mut Net<'_>, now: Instant, room: usize) -> usize {
        let mut made = 0;
        while !self.exhausted()
            && let Some(launches) = &mut self.launches
        {
            let due = launches.next();
            if due > now {
                self.due_at(due);
                break;
            }
            if self.sustain_end.is_some_and(|end| due >= end) {
                break;
            }
            if self.full() {
                self.held_through = now;
                break;
            }
            if made == room {
                self.wake_at(now);
                break;
            }
            if let Some(launches) = &mut self.launches {
                launches.take();
            }
            self.open(net, now, Some(now.since(due)), due <= self.held_through);
            made += 1;
        }
        made
    }

    /// Closed loop: as many as may be open. How many it made, `room` at most.
    fn launch_what_is_free(&mut self, net: &mut Net<'_>, now: Instant, room: usize) -> usize {
        // Handshakes are all that grows here.
        let handshakes = self.population[Stage::Connecting as usize];
        let free = self.limit(now).saturating_sub(self.in_flight());
        let handshakes_max = handshakes.saturating_add(free).min(HANDSHAKES_MAX);
        let mut made = 0;
        while !self.exhausted() {
            if self.population[Stage::Connecting as usize] >= handshakes_max {
                if now < self.ramp_end {
                    self.wake_at(now + Duration::from_millis(1));
                }
                break;
            }
            if now < self.retry_at {
                self.wake_at(self.retry_at);
                break;
            }
            if made == room {
                self.wake_at(now);
                break;
            }
            self.open(net, now, None, false);
            made += 1;
        }
        made
    }

    #[inline]
    fn open(&mut self, net: &mut Net<'_>, now: Instant, behind: Option<Duration>, held: bool) {
        let target = self.turns.next();
        let requests = self.flows[self.flow_of.get(target as usize).map_or(0, |flow| usize::from(*flow))].requests;
        let remote: SocketAddr = self.plan.targets[target as usize];
        self.launched += 1;
        let mut session = Session {
            stage: Stage::Connecting,
            measured: self.phase == Phase::Sustain || self.plan.keeps() || self.plan.requests.is_none(),
            target,
            stamp: now.micros() as u32,
            behind: behind.map_or(UNSCHEDULED, |behind| behind.as_micros().min(u128::from(UNSCHEDULED - 1)) as u32),
            left: requests,
            sent: ALL_SENT,
            ..Session::default()
        };
        self.tally(session.account(), |tally| tally.attempted += 1);
        if held {
            self.recorder.current.held_back += 1;
        } else if let Some(behind) = behind {
            self.measures(session.measured).record(Measured::ScheduleDelay, behind);
        }
        let Some(word) = session.pack().or_else(|| self.sessions.spill(&mut session)) else {
            self.watched(|watch| watch.local_failures += 1);
            return self.count_failure(&session, Failure::LocalMemory);
        };
        match net.connect(remote, word) {
            Ok(id) => {
                self.population[Stage::Connecting as usize] += 1;
                self.connects.begin(id, session.stamp);
                self.departures.expect(session.stamp);
                self.slots = self.slots.max(id.0 + 1);
                if let Some(watch) = &self.watch
                    && let Some(conn) = net.conn(id)
                {
                    watch.lock().opened(id.0, conn.endpoints());
                }
            }
            Err(error) => {
                self.watched(|watch| watch.local_failures += 1);
                self.sessions.release(&mut session);
                self.retry_at = now + RETRY_AFTER;
                self.count_failure(
                    &session,
                    match error {
                        ConnectError::NoPort => Failure::LocalPorts,
                        ConnectError::NoMemory => Failure::LocalMemory,
                        ConnectError::NoRoute | ConnectError::InvalidAddress => Failure::Other,
                    },
                );
            }
        }
    }

    /// Whether the first request of a connection that has just opened waits for the next pass. Sent with the handshake's ACK in
    /// one call it would leave only when that has been carried to the peer, which takes the kernel long enough to be seen.
    pub(super) fn asks_alone(&self, conn: &Conn<'_>, session: &Session) -> bool {
        session.left > 0
            && !self.draining()
            && !conn.handshake_ack_waits()
            && self.plan.bitrate.is_none()
            && self.fresh.len() < FRESH_MAX
            && self.templates[self.template(session)].total() > 0
    }

    /// Has the first `count` of those that have opened make their first request.
    pub(super) fn ask_of_fresh(&mut self, net: &mut Net<'_>, count: usize) {
        for _ in 0..count {
            let Some(id) = self.fresh.pop_front() else { return };
            let Some(mut conn) = net.conn(ConnId(id)) else { continue };
            let mut session = self.sessions.load(conn.word());
            if session.stage == Stage::Idle {
                self.ask_first(&mut conn, &mut session);
                self.keep(&mut conn, &mut session);
            }
        }
    }

    /// A peer that speaks first speaks to a request that is under way.
    #[inline]
    pub(super) fn ask_if_fresh(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        if session.stage == Stage::Idle && self.fresh.contains(&conn.id().0) {
            self.ask_first(conn, session);
        }
    }

    fn ask_first(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        if session.behind != UNSCHEDULED {
            let waited = self.elapsed(conn, session);
            session.behind = session.behind.saturating_add(waited).min(UNSCHEDULED - 1);
        }
        self.next_step(conn, session);
    }
}
