//! The end of a run: nothing new, what is open is closed, what does not close is given up.

use core::time::Duration;

use syncline_engine::app::{Conn, ConnId, Net};
use syncline_engine::time::Instant;

use super::client::{BURST, Client, DOZE};
use super::session::{ALL_SENT, Stage};
use super::snapshot::Phase;
use crate::measure::Failure;

impl Client {
    pub(super) fn enter_drain(&mut self, net: &mut Net<'_>, now: Instant) {
        if let Some(launches) = &self.launches
            && !self.control.stopped()
        {
            let end = self.sustain_end.unwrap_or(now).min(now) - Duration::from_nanos(1);
            let owed = launches.backlog(end).min(self.quota - self.launched);
            if self.full() {
                self.recorder.current.held_back += owed;
            } else {
                let tally = &mut self.measures(true).tally;
                tally.attempted += owed;
                tally.failed[Failure::LaunchDropped as usize] += owed;
            }
        }
        if let Some(requests) = self.requests.as_ref().filter(|_| self.requests_begun && self.plan.bitrate.is_none()) {
            let owed = if self.control.stopped() { 0 } else { requests.backlog(now) };
            self.recorder.current.held_back += owed;
            self.recorder.current.requests_due += requests.taken() + owed;
        }
        (self.phase, self.brief) = (Phase::Drain, None);
        self.ask_of_fresh(net, self.fresh.len());
        (self.cursor, self.progress_at) = (0, now);
        self.send_snapshot(net, now, Phase::Drain);
        self.drain(net, now);
    }

    pub(super) fn drain(&mut self, net: &mut Net<'_>, now: Instant) {
        if self.in_flight() == 0 {
            self.phase = Phase::Done;
            return self.leave(net, now);
        }
        if !self.giving_up && now < self.progress_at + self.plan.drain_timeout {
            self.walk(net, now, Self::wind_up);
            return self.wake_at(self.progress_at + self.plan.drain_timeout);
        }
        // None has come to its end for so long: what is left is given up.
        if !self.giving_up {
            (self.giving_up, self.cursor) = (true, 0);
        }
        let mut room = BURST;
        while room > 0 && self.cursor < self.slots {
            if let Some(mut conn) = net.conn(ConnId(self.cursor)) {
                self.give_up(&mut conn);
                room -= 1;
            }
            self.cursor += 1;
        }
        if self.cursor == self.slots {
            self.phase = Phase::Done;
        }
        self.wake_at(now);
    }

    /// The last pass: sends the last snapshot, as soon as there is a box for it.
    pub(super) fn leave(&mut self, net: &mut Net<'_>, now: Instant) {
        if self.recorder.current.last {
            return;
        }
        if self.send_snapshot(net, now, Phase::Done) {
            self.recorder.current.last = true;
            self.control.leave();
        } else {
            self.wake_at(now + DOZE);
        }
    }

    /// The run is over: ends a connection unless it has an answer to come.
    fn wind_up(&mut self, conn: &mut Conn<'_>) {
        let mut session = self.sessions.load(conn.word());
        let ends = match session.stage {
            Stage::Idle | Stage::Thinking => true,
            Stage::Waiting => self.endless() || self.plan.bitrate.is_some() && session.sent != ALL_SENT,
            _ => false,
        };
        if ends {
            self.finish(conn, &mut session);
            self.keep(conn, &mut session);
        }
    }

    /// The drain took too long: ends a connection at once. An answer that has begun and goes on until the peer closes is
    /// cut short, which is nobody's fault; whatever else a connection still waits for comes too late.
    fn give_up(&mut self, conn: &mut Conn<'_>) {
        let mut session = self.sessions.load(conn.word());
        let endless = session.stage == Stage::Waiting && session.received > 0 && self.ends_with_fin(&session);
        match session.stage {
            Stage::Waiting if endless => {
                self.recorder.current.cut_short += 1;
                self.enter(conn, &mut session, Stage::Failed);
            }
            Stage::Failed => {}
            Stage::Connecting => self.fail(conn, &mut session, Failure::SynTimeout),
            _ => self.fail(conn, &mut session, Failure::DataTimeout),
        }
        self.keep(conn, &mut session);
        conn.abort();
    }
}
