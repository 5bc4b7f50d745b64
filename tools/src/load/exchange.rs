//! What happens on a connection: requests out, answers in, the close, and how each is counted.

use core::time::Duration;

use sha2::{Digest, Sha256};
use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::time::Instant;

use super::brief::since;
use super::client::Client;
use super::plan::{Close, FirstCloser, Flow};
use super::session::{ALL_SENT, Account, Session, Stage, UNLIMITED, UNSCHEDULED, Word};
use super::snapshot::{TRANSFERS_MAX, Transfer};
use crate::apps::payload;
use crate::measure::{Failure, Measures, Stage as Measured, Tally};

/// Octets of one queued message of a long request.
pub(super) const CHUNK: u64 = 1 << 26;

/// A tag names a template and the number of a chunk.
const CHUNK_BITS: u32 = 20;

impl App for Client {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        // A generator listens on nothing.
        conn.abort();
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        if !self.connected_in_brief(conn) {
            self.connected_at_length(conn);
        }
    }

    #[inline]
    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        if !self.received_in_brief(conn, data) {
            self.received_at_length(conn, data);
        }
        data.len()
    }

    #[inline]
    fn finished(&mut self, conn: &mut Conn<'_>) {
        // We have closed already: this is the peer's part of it
        if Word::in_stage(conn.word(), Stage::Closing).is_none() {
            self.finished_at_length(conn);
        }
    }

    #[inline]
    fn sent(&mut self, conn: &mut Conn<'_>) {
        // A session in its word alone has queued all of its request
        if self.sessions.is_spilled(conn.word()) || self.unanswered {
            self.sent_at_length(conn);
        }
    }

    #[inline]
    fn closed(&mut self, id: ConnId, word: u64, end: End, at: Instant) {
        if !self.closed_in_brief(word, end, at) {
            self.closed_at_length(id, word, end, at);
        }
    }

    #[inline]
    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        if self.patterned {
            return payload::fill(u64::from(tag) * self.chunk + u64::from(offset), out);
        }
        self.fill_from_template(tag, offset, out);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        self.pass(net);
    }

    #[inline]
    fn leaving(&mut self, frames: u64, now: impl FnOnce() -> Instant) {
        self.departures.leave(frames, now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.wake()
    }
}

/// Why a connection ended that should not have.
fn cause(stage: Stage, end: End) -> Failure {
    match end {
        End::Refused => Failure::Refused,
        End::Reset => Failure::Reset,
        End::SynTimeout => Failure::SynTimeout,
        End::Timeout if stage == Stage::Connecting => Failure::SynTimeout,
        End::Timeout => Failure::DataTimeout,
        End::Unreachable => Failure::Icmp,
        End::Memory => Failure::LocalMemory,
        End::Closed | End::Aborted => Failure::Other,
    }
}

impl Client {
    #[inline(never)]
    fn connected_at_length(&mut self, conn: &mut Conn<'_>) {
        let mut session = self.sessions.load(conn.word());
        if session.stage != Stage::Connecting {
            return;
        }
        let elapsed = self.answered_after(conn, &session);
        let resent = conn.syn_retransmitted();
        self.tally(session.account(), |tally| {
            tally.established += 1;
            tally.syn_retransmitted += u64::from(resent);
        });
        let of_target = self.since_it_left(elapsed, session.stamp);
        self.watched(|watch| watch.took(conn.id().0, "connect", of_target));
        let measures = self.measures(session.measured);
        measures.record_micros(Measured::Connect, of_target);
        if session.behind != UNSCHEDULED {
            measures.record_micros(Measured::ConnectFromSchedule, session.behind.saturating_add(elapsed));
            // What the answer waits for us is the schedule's to bear, too.
            session.behind = session.behind.saturating_add(self.elapsed(conn, &session)).min(UNSCHEDULED - 1);
        }
        self.open += 1;
        let open_max = &mut self.recorder.current.open_max;
        *open_max = self.open.max(*open_max);
        let behind = session.behind;
        self.enter(conn, &mut session, Stage::Idle);
        session.behind = behind;
        let waits = self.plan.hold.is_some() && session.left <= 1 || self.plan.request_rate.is_some();
        if self.draining() && (self.plan.keeps() || session.left == UNLIMITED) {
            self.finish(conn, &mut session);
        } else if !waits || session.left == 0 && self.plan.hold.is_none() {
            if self.asks_alone(conn, &session) {
                self.fresh.push_back(conn.id().0);
            } else {
                self.next_step(conn, &mut session);
            }
        } else {
            self.rest(conn);
        }
        self.keep(conn, &mut session);
    }

    #[inline(never)]
    fn received_at_length(&mut self, conn: &mut Conn<'_>, data: &[u8]) {
        let mut session = self.sessions.load(conn.word());
        self.ask_if_fresh(conn, &mut session);
        match session.stage {
            Stage::Waiting => {
                if session.received == 0 && !session.reading {
                    let elapsed = self.answered_after(conn, &session);
                    let of_target = self.since_it_left(elapsed, session.stamp);
                    self.measures(session.measured).record_micros(Measured::FirstByte, of_target);
                }
                self.read(conn, &mut session, data);
                self.keep(conn, &mut session);
            }
            // What nobody asked for. While the end is awaited it does no harm.
            Stage::Idle | Stage::Thinking => {
                self.fail(conn, &mut session, Failure::BadResponse);
                self.keep(conn, &mut session);
                conn.abort();
            }
            _ => {}
        }
    }

    #[inline(never)]
    fn finished_at_length(&mut self, conn: &mut Conn<'_>) {
        let mut session = self.sessions.load(conn.word());
        self.ask_if_fresh(conn, &mut session);
        match session.stage {
            Stage::Waiting if self.ends_with_fin(&session) => {
                // The peer has closed: there will be no further request.
                session.left = session.left.min(1);
                self.complete(conn, &mut session);
            }
            Stage::AwaitingFin => self.finish(conn, &mut session),
            Stage::Idle | Stage::Thinking if self.draining() => self.finish(conn, &mut session),
            Stage::Waiting if self.draining() && self.endless() => self.finish(conn, &mut session),
            Stage::Waiting | Stage::Idle | Stage::Thinking => {
                self.fail(conn, &mut session, Failure::EarlyFin);
                conn.close();
            }
            _ => return,
        }
        self.keep(conn, &mut session);
    }

    #[inline(never)]
    fn sent_at_length(&mut self, conn: &mut Conn<'_>) {
        let mut session = self.sessions.load(conn.word());
        if session.stage != Stage::Waiting {
            return;
        }
        let unanswered = self.flow(&session).is_unanswered();
        if session.sent != ALL_SENT {
            if self.plan.bitrate.is_none() {
                self.push(conn, &mut session);
                self.keep(conn, &mut session);
            }
        } else if unanswered && conn.queued() == 0 {
            self.complete(conn, &mut session);
            self.keep(conn, &mut session);
        }
    }

    #[inline(never)]
    fn closed_at_length(&mut self, id: ConnId, word: u64, end: End, at: Instant) {
        let mut session = self.sessions.load(word);
        let stage = session.stage;
        let elapsed = since(session.stamp, at);
        self.progress_at = at;
        self.leave_stage(&session);
        if stage != Stage::Connecting {
            self.open = self.open.saturating_sub(1);
        }
        match (stage, end) {
            (Stage::Failed, _) => {}
            (Stage::Closing, End::Closed) => {
                self.tally(session.account(), |tally| tally.completed += 1);
                self.measures(session.measured).record_micros(Measured::Close, elapsed);
                self.watched(|watch| watch.took(id.0, "close", elapsed));
            }
            (Stage::Resetting, End::Aborted | End::Closed) => {
                self.tally(session.account(), |tally| tally.completed += 1)
            }
            (stage, end) => {
                let cause = cause(stage, end);
                self.count_failure(&session, cause);
                self.watched(|watch| watch.failed(id.0, cause));
            }
        }
        self.watched(|watch| watch.ended(id.0));
        self.sessions.release(&mut session);
    }

    fn fill_from_template(&self, tag: u32, offset: u32, out: &mut [u8]) {
        let with_token = self.tokens.as_ref().and_then(|tokens| tokens.template(tag));
        let template = &self.templates[with_token.unwrap_or((tag >> CHUNK_BITS) as usize)];
        let chunk = if with_token.is_some() { 0 } else { tag & ((1 << CHUNK_BITS) - 1) };
        let head = &template.head;
        let at = u64::from(chunk) * self.chunk + u64::from(offset);
        let from = at.min(head.len() as u64) as usize;
        let (of_head, of_body) = out.split_at_mut(out.len().min(head.len() - from));
        of_head.copy_from_slice(&head[from..from + of_head.len()]);
        if !of_body.is_empty() {
            payload::fill(at + of_head.len() as u64 - head.len() as u64, of_body);
        }
        if let (Some(_), Some(tokens), Some(token_at)) = (with_token, &self.tokens, template.token_at) {
            tokens.write(tag, token_at, at, out);
        }
    }

    /// Where what becomes of a connection is counted: apart, if it was launched in the measured window.
    #[inline]
    pub(super) fn measures(&mut self, measured: bool) -> &mut Measures {
        let current = &mut *self.recorder.current;
        if measured { &mut current.sustain } else { &mut current.ramp }
    }

    /// Counts something about a connection, also under its target.
    #[inline]
    pub(super) fn tally(&mut self, Account { measured, target }: Account, count: impl Fn(&mut Tally)) {
        count(&mut self.measures(measured).tally);
        if let Some(tally) = self.by_target.get_mut(target as usize) {
            count(tally);
        }
    }

    /// What kind of connection this is.
    #[inline]
    pub(super) fn flow(&self, session: &Session) -> &Flow {
        match self.flow_of.get(session.target as usize) {
            None => &self.flows[0],
            Some(flow) => &self.flows[usize::from(*flow)],
        }
    }

    pub(super) fn count_failure(&mut self, session: &Session, cause: Failure) {
        self.tally(session.account(), |tally| tally.fail(cause));
    }

    /// Counts a failure; the connection only has to come to its end.
    pub(super) fn fail(&mut self, conn: &Conn<'_>, session: &mut Session, cause: Failure) {
        self.count_failure(session, cause);
        self.watched(|watch| watch.failed(conn.id().0, cause));
        self.enter(conn, session, Stage::Failed);
    }

    /// Microseconds since the stage began.
    #[inline]
    pub(super) fn elapsed(&self, conn: &Conn<'_>, session: &Session) -> u32 {
        (conn.now().micros() as u32).wrapping_sub(session.stamp)
    }

    /// Microseconds from the begin of the stage to the arrival of what is being worked on.
    #[inline]
    fn answered_after(&self, conn: &Conn<'_>, session: &Session) -> u32 {
        let since_us = conn.now().micros() - conn.arrived().micros();
        self.elapsed(conn, session).saturating_sub(since_us as u32)
    }

    /// What of `elapsed`, the time since the stage began at `stamp`, passed after the SYN or the request had gone to the device.
    #[inline]
    pub(super) fn since_it_left(&self, elapsed: u32, stamp: u32) -> u32 {
        elapsed.saturating_sub(self.departures.delay(stamp))
    }

    /// Writes the session back into the connection's word.
    #[inline]
    pub(super) fn keep(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        if let Some(word) = self.sessions.store(session) {
            return conn.set_word(word);
        }
        if session.stage != Stage::Failed {
            self.fail(conn, session, Failure::LocalMemory);
        }
        // A failed session with nothing in progress fits any word.
        *session = Session { stage: Stage::Failed, measured: session.measured, ..Session::default() };
        conn.set_word(self.sessions.store(session).unwrap_or_default());
        conn.abort();
    }

    #[inline]
    fn leave_stage(&mut self, session: &Session) {
        self.population[session.stage as usize] -= 1;
        match session.stage {
            Stage::Connecting => self.connects.end(session.stamp),
            Stage::Waiting | Stage::AwaitingFin | Stage::Closing => {
                if let Some(answers) = &mut self.answers {
                    answers.end(session.stamp);
                }
            }
            Stage::Thinking => {
                if let Some(thoughts) = &mut self.thoughts {
                    thoughts.end(session.stamp);
                }
            }
            _ => {}
        }
    }

    /// Moves a connection on to another stage, which begins now.
    #[inline]
    pub(super) fn enter(&mut self, conn: &Conn<'_>, session: &mut Session, stage: Stage) {
        self.leave_stage(session);
        session.stage = stage;
        session.stamp = conn.now().micros() as u32;
        session.behind = UNSCHEDULED;
        self.population[stage as usize] += 1;
        match stage {
            Stage::Waiting | Stage::AwaitingFin | Stage::Closing => {
                if let Some(answers) = &mut self.answers {
                    answers.begin(conn.id(), session.stamp);
                }
            }
            Stage::Thinking => {
                if let Some(thoughts) = &mut self.thoughts {
                    thoughts.begin(conn.id(), session.stamp);
                }
            }
            Stage::Failed => {
                (session.received, session.sent) = (0, ALL_SENT);
                (session.reading, session.hashing) = (false, false);
                session.left = session.left.min(1);
            }
            _ => {}
        }
    }

    /// Leaves a connection alone until the schedule, or the end of the hold, wants something of it.
    fn rest(&mut self, conn: &Conn<'_>) {
        if self.requests.is_some() {
            self.ready.push_back(conn.id().0);
        }
    }

    /// The next request of an idle connection, or its close if there is none left.
    pub(super) fn next_step(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        if session.left == 0 {
            return self.finish(conn, session);
        }
        let behind = session.behind;
        self.enter(conn, session, Stage::Waiting);
        self.departures.expect(session.stamp);
        session.behind = behind;
        (session.received, session.sent, session.reading) = (0, 0, false);
        if (self.plan.digest || self.flow(session).checks.sha256.is_some())
            && let Some(slot) = self.sessions.side(session)
        {
            session.hashing = true;
            self.sessions.sides[slot].hash = Sha256::new();
        }
        if self.plan.bitrate.is_some() {
            self.rest(conn);
        } else {
            self.push(conn, session);
        }
    }

    pub(super) fn template(&self, session: &Session) -> usize {
        if self.templates.len() == 1 {
            return 0;
        }
        let last = self.flow(session).first_closer == FirstCloser::Server && session.left == 1;
        session.target as usize * 2 + usize::from(last)
    }

    /// Queues what there is room for of the request.
    fn push(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        while session.sent != ALL_SENT {
            if !self.push_chunk(conn, session) {
                if conn.queued() == 0 {
                    self.fail(conn, session, Failure::LocalMemory);
                    conn.abort();
                }
                return;
            }
        }
    }

    /// Queues the next chunk of the request. False if there is no room for it now.
    fn push_chunk(&mut self, conn: &mut Conn<'_>, session: &mut Session) -> bool {
        let template = self.template(session);
        let total = self.templates[template].total();
        let len = (total - session.sent).min(self.chunk);
        let number = (session.sent / self.chunk) as u32 & ((1 << CHUNK_BITS) - 1);
        let mut tag = (template as u32) << CHUNK_BITS | number;
        if session.sent == 0
            && self.templates[template].token_at.is_some()
            && let Some(tokens) = &mut self.tokens
        {
            tag = tokens.issue(template);
        }
        if len > 0 && !conn.send(tag, len as u32) {
            return false;
        }
        session.sent += len;
        if session.sent == total {
            session.sent = ALL_SENT;
        }
        true
    }

    /// The schedule has something due, `late` by now, and this connection is next. Returns whether it took it.
    pub(super) fn serve_schedule(&mut self, conn: &mut Conn<'_>, late: Duration) -> bool {
        let mut session = self.sessions.load(conn.word());
        if self.plan.bitrate.is_some() {
            let sending = session.stage == Stage::Waiting && session.sent != ALL_SENT;
            if sending {
                // A connection that has no room loses its turn, and the bit rate falls short: that is what is measured.
                self.push_chunk(conn, &mut session);
                if session.sent != ALL_SENT {
                    self.rest(conn);
                }
                self.keep(conn, &mut session);
            }
            return sending;
        }
        if session.stage != Stage::Idle {
            return false;
        }
        if session.stamp_is_after(conn.now(), late) {
            // It was busy when the request came due: not the generator's lateness.
            self.recorder.current.held_back += 1;
        } else {
            self.measures(session.measured).record(Measured::ScheduleDelay, late);
        }
        session.behind = late.as_micros().min(u128::from(UNSCHEDULED - 1)) as u32;
        self.next_step(conn, &mut session);
        self.keep(conn, &mut session);
        true
    }

    /// The answer is complete, or was never wanted and the request is acknowledged.
    pub(super) fn complete(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        let elapsed = self.answered_after(conn, session);
        let behind = session.behind;
        let sha256 = session.hashing.then(|| self.sessions.sides[session.slot - 1].hash.clone().finalize().into());
        let checks = &self.flow(session).checks;
        if checks.octets.is_some_and(|octets| octets != session.received)
            || checks.sha256.is_some() && checks.sha256 != sha256
        {
            self.fail(conn, session, Failure::BadResponse);
            return conn.abort();
        }
        self.tally(session.account(), |tally| tally.requests += 1);
        let of_target = self.since_it_left(elapsed, session.stamp);
        self.watched(|watch| watch.took(conn.id().0, "transaction", of_target));
        let measures = self.measures(session.measured);
        measures.record_micros(Measured::Transaction, of_target);
        if behind != UNSCHEDULED {
            measures.record_micros(Measured::TransactionFromSchedule, behind.saturating_add(elapsed));
        }
        if let Some(sha256) = sha256.filter(|_| self.plan.digest) {
            let transfers = &mut self.recorder.current.transfers;
            if transfers.len() < TRANSFERS_MAX {
                transfers.push(Transfer { target: session.target, octets: session.received, sha256 });
            }
        }
        if session.left != UNLIMITED {
            session.left -= 1;
        }
        (session.received, session.sent) = (0, ALL_SENT);
        (session.reading, session.hashing) = (false, false);
        let kept_for_the_end = self.plan.hold.is_some() && session.left == 1 && !self.finale;
        if session.left == 0 || self.draining() {
            self.finish(conn, session);
        } else if kept_for_the_end || self.plan.request_rate.is_some() {
            self.enter(conn, session, Stage::Idle);
            self.rest(conn);
        } else if self.thoughts.is_some() {
            self.enter(conn, session, Stage::Thinking);
        } else {
            self.enter(conn, session, Stage::Idle);
            self.next_step(conn, session);
        }
    }

    /// All is said: closes the connection, or waits for the peer to do so.
    pub(super) fn finish(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        (session.received, session.sent) = (0, ALL_SENT);
        (session.reading, session.hashing) = (false, false);
        session.left = 0;
        if self.flow(session).close == Close::Rst {
            self.enter(conn, session, Stage::Resetting);
            return conn.abort();
        }
        let server_first = self.flow(session).first_closer == FirstCloser::Server && !self.draining();
        if server_first && !conn.peer_finished() && session.stage != Stage::AwaitingFin {
            return self.enter(conn, session, Stage::AwaitingFin);
        }
        self.enter(conn, session, Stage::Closing);
        conn.close();
    }
}
