//! The octets of an answer: whether they are what was asked for, and whether that is all of them.

use sha2::Digest;
use syncline_engine::app::Conn;

use super::client::Client;
use super::plan::{Exchange, Response};
use super::response::{Expected, Progress, Reader};
use super::session::Session;
use crate::apps::payload;
use crate::measure::Failure;

impl Client {
    /// Octets of the answer.
    pub(super) fn read(&mut self, conn: &mut Conn<'_>, session: &mut Session, data: &[u8]) {
        if self.flow(session).checks.pattern
            && !matches!(self.flow(session).exchange, Exchange::Http(_))
            && !payload::matches(session.received, data)
        {
            self.fail(conn, session, Failure::BadResponse);
            return conn.abort();
        }
        let expected = match &self.flow(session).exchange {
            Exchange::Http(request) => {
                let head_only = request.method == "HEAD";
                return self.read_http(conn, session, data, head_only);
            }
            Exchange::Octets { response, .. } => *response,
        };
        session.received = session.received.saturating_add(data.len() as u64);
        if session.hashing {
            self.sessions.sides[session.slot - 1].hash.update(data);
        }
        match expected {
            Response::None | Response::Octets(u64::MAX) | Response::UntilFin => {}
            Response::Octets(octets) if session.received < octets => {}
            Response::Octets(octets) if session.received == octets => self.complete(conn, session),
            Response::Octets(_) => {
                self.fail(conn, session, Failure::BadResponse);
                conn.abort();
            }
        }
    }

    fn read_http(&mut self, conn: &mut Conn<'_>, session: &mut Session, data: &[u8], head_only: bool) {
        let (mut octets, mut wrong) = (0, false);
        let flow = &self.flows[self.flow_of.get(session.target as usize).map_or(0, |flow| usize::from(*flow))];
        let (expected, pattern, before) =
            (Expected { head_only, statuses: &flow.checks.statuses }, flow.checks.pattern, session.received);
        let progress = if session.reading || session.hashing {
            let side = &mut self.sessions.sides[session.slot - 1];
            if !session.reading {
                side.reader.reset();
                session.reading = true;
            }
            let (hashing, hash) = (session.hashing, &mut side.hash);
            side.reader.feed(data, expected, |part| {
                wrong |= pattern && !payload::matches(before + octets, part);
                octets += part.len() as u64;
                if hashing {
                    hash.update(part);
                }
            })
        } else {
            let mut reader = Reader::default();
            let progress = reader.feed(data, expected, |part| {
                wrong |= pattern && !payload::matches(before + octets, part);
                octets += part.len() as u64;
            });
            if progress == Progress::More {
                session.reading = true;
                if let Some(slot) = self.sessions.side(session) {
                    self.sessions.sides[slot].reader = reader;
                }
            }
            progress
        };
        session.received += octets;
        match progress {
            Progress::More | Progress::Whole { .. } if wrong => {
                self.fail(conn, session, Failure::BadResponse);
                conn.abort();
            }
            Progress::More => {}
            Progress::Whole { taken, keep_alive } if taken == data.len() => {
                if !keep_alive {
                    session.left = session.left.min(1);
                }
                self.complete(conn, session);
            }
            Progress::Whole { .. } | Progress::Bad => {
                self.fail(conn, session, Failure::BadResponse);
                conn.abort();
            }
        }
    }

    pub(super) fn ends_with_fin(&self, session: &Session) -> bool {
        match &self.flow(session).exchange {
            Exchange::Octets { response: Response::UntilFin, .. } => true,
            Exchange::Octets { .. } => false,
            Exchange::Http(_) => session.reading && self.sessions.sides[session.slot - 1].reader.ends_with_fin(),
        }
    }
}
