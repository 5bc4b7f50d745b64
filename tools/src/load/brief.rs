//! Exchanges in brief: a request that is one message, an answer that comes in one piece, a close; in the connection's word from
//! the launch to the end.
//!
//! What a plan asks of all connections is decided once, so that most runs have few questions left for each of them. Whatever is
//! not as usual (an answer in pieces, a failure, no room for a request) is left alone here and goes the long way of
//! [`exchange`](super::exchange), which does the same for what is.

use syncline_engine::app::{Conn, End};
use syncline_engine::time::Instant;

use super::client::{Client, FRESH_MAX};
use super::plan::{Checks, Close, Exchange, FirstCloser, Flow, Plan, Response};
use super::session::{Stage, UNSCHEDULED, Word};
use super::template::Template;
use crate::measure::Stage as Measured;

/// The tag of a message that is the first chunk of the only template.
const TAG: u32 = 0;

/// What all exchanges of a plan have in common if they can be made in brief.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brief {
    /// Octets of a request.
    request: u32,
    /// Octets of an answer.
    answer: u64,
}

impl Brief {
    /// `None` if what the plan asks for takes more than a word, or more than a look at the octets' number.
    pub(super) fn of(plan: &Plan, flows: &[Flow], templates: &[Template], chunk: u64) -> Option<Self> {
        let ([flow], [template]) = (flows, templates) else { return None };
        let Exchange::Octets { response: Response::Octets(answer), .. } = flow.exchange else { return None };
        let request = template.total();
        let we_close = flow.close == Close::Fin && flow.first_closer == FirstCloser::Client;
        let unchecked = flow.checks == Checks::default() && !plan.digest && template.token_at.is_none();
        let unpaced = plan.request_rate.is_none() && plan.bitrate.is_none() && plan.think.is_none();
        let sized = (1..=chunk).contains(&request) && (1..u64::MAX).contains(&answer);
        (we_close && unchecked && unpaced && plan.hold.is_none() && sized)
            .then_some(Self { request: request as u32, answer })
    }
}

impl Client {
    /// A connection that was asked for is open, and makes its first request or is closed. False, and nothing is done, if it takes
    /// more than that.
    #[inline]
    pub(super) fn connected_in_brief(&mut self, conn: &mut Conn<'_>) -> bool {
        let Some(brief) = self.brief else { return false };
        let Some(word) = Word::in_stage(conn.word(), Stage::Connecting) else { return false };
        let asks = word.has_requests();
        let asks_alone = asks && !conn.handshake_ack_waits() && self.fresh.len() < FRESH_MAX;
        if asks_alone || asks && !conn.send(TAG, brief.request) {
            return false;
        }
        let (now_us, elapsed) = times(conn, word);
        let resent = conn.syn_retransmitted();
        self.connects.end(word.stamp());
        let of_target = self.since_it_left(elapsed, word.stamp());
        let mut behind = word.behind();
        self.tally(word.account(), |tally| {
            tally.established += 1;
            tally.syn_retransmitted += u64::from(resent);
        });
        let measures = self.measures(word.measured());
        measures.record_micros(Measured::Connect, of_target);
        if behind != UNSCHEDULED {
            measures.record_micros(Measured::ConnectFromSchedule, behind.saturating_add(elapsed));
            behind = behind.saturating_add(now_us.wrapping_sub(word.stamp())).min(UNSCHEDULED - 1);
        }
        self.open += 1;
        let open_max = &mut self.recorder.current.open_max;
        *open_max = self.open.max(*open_max);
        self.population[Stage::Connecting as usize] -= 1;
        if asks {
            self.departures.expect(now_us);
            self.await_in_brief(conn, word, Stage::Waiting, now_us, behind);
        } else {
            self.await_in_brief(conn, word, Stage::Closing, now_us, UNSCHEDULED);
            conn.close();
        }
        true
    }

    /// An answer has come, and the next request is made or the connection closed. False, and nothing is done, if it takes more than
    /// that.
    #[inline]
    pub(super) fn received_in_brief(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> bool {
        let Some(brief) = self.brief else { return false };
        let Some(word) = Word::in_stage(conn.word(), Stage::Waiting) else { return false };
        if data.len() as u64 != brief.answer || !word.has_requests() {
            return false;
        }
        let answered = word.answered();
        let asks = answered.has_requests();
        if asks && !conn.send(TAG, brief.request) {
            return false;
        }
        let (now_us, elapsed) = times(conn, word);
        if let Some(answers) = &mut self.answers {
            answers.end(word.stamp());
        }
        let of_target = self.since_it_left(elapsed, word.stamp());
        let behind = word.behind();
        self.tally(word.account(), |tally| tally.requests += 1);
        let measures = self.measures(word.measured());
        measures.record_micros(Measured::FirstByte, of_target);
        measures.record_micros(Measured::Transaction, of_target);
        if behind != UNSCHEDULED {
            measures.record_micros(Measured::TransactionFromSchedule, behind.saturating_add(elapsed));
        }
        self.population[Stage::Waiting as usize] -= 1;
        if asks {
            self.departures.expect(now_us);
            self.await_in_brief(conn, answered, Stage::Waiting, now_us, UNSCHEDULED);
        } else {
            self.await_in_brief(conn, answered, Stage::Closing, now_us, UNSCHEDULED);
            conn.close();
        }
        true
    }

    /// A connection that we closed is closed by both. False, and nothing is done, if that is not what came of it.
    #[inline]
    pub(super) fn closed_in_brief(&mut self, word: u64, end: End, at: Instant) -> bool {
        let Some(word) = Word::in_stage(word, Stage::Closing) else { return false };
        if self.brief.is_none() || end != End::Closed {
            return false;
        }
        let elapsed = since(word.stamp(), at);
        self.progress_at = at;
        self.population[Stage::Closing as usize] -= 1;
        if let Some(answers) = &mut self.answers {
            answers.end(word.stamp());
        }
        self.open = self.open.saturating_sub(1);
        self.tally(word.account(), |tally| tally.completed += 1);
        self.measures(word.measured()).record_micros(Measured::Close, elapsed);
        true
    }

    /// The connection waits for the peer, in a stage that begins now.
    #[inline]
    fn await_in_brief(&mut self, conn: &mut Conn<'_>, word: Word, stage: Stage, now_us: u32, behind: u32) {
        self.population[stage as usize] += 1;
        if let Some(answers) = &mut self.answers {
            answers.begin(conn.id(), now_us);
        }
        conn.set_word(word.enter(stage, now_us, behind).bits());
    }
}

/// The time of this pass, and from the begin of the stage to the arrival of what is being worked on; microseconds.
#[inline]
fn times(conn: &Conn<'_>, word: Word) -> (u32, u32) {
    let (now, arrived) = (conn.now(), conn.arrived());
    let now_us = now.micros() as u32;
    let elapsed = now_us.wrapping_sub(word.stamp());
    if arrived == now {
        return (now_us, elapsed);
    }
    (now_us, elapsed.saturating_sub(now_us.wrapping_sub(arrived.micros() as u32)))
}

/// Microseconds from the begin of a stage at `stamp` until `at`. Nothing ends before its last stage begins, but a frame may have
/// arrived before it.
#[inline]
pub(super) fn since(stamp: u32, at: Instant) -> u32 {
    ((at.micros() as u32).wrapping_sub(stamp) as i32).max(0) as u32
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::sync::Arc;
    use std::time::SystemTime;

    use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
    use syncline_engine::device::fault::{Faults, Faulty, Probability};
    use syncline_engine::device::ring;
    use syncline_engine::page::HeapPages;
    use syncline_engine::tcp::Secrets;
    use syncline_engine::worker::Worker;

    use super::super::plan::{Load, Profile};
    use super::super::snapshot::{Control, EngineCounts};
    use super::*;
    use crate::apps::{Delay, ServeApp, Server};
    use crate::measure::Measures;

    /// What is in the way of exchanges being as usual.
    #[derive(Clone, Copy, Debug)]
    enum World {
        Plain,
        Piggyback,
        Late,
        Lossy,
    }

    /// What a run comes to.
    #[derive(Debug, Default, PartialEq)]
    struct Account {
        ramp: Measures,
        sustain: Measures,
        engine: EngineCounts,
        held_back: u64,
        open_max: u32,
        cut_short: u64,
        targets: Vec<crate::measure::Tally>,
        ended: Instant,
    }

    fn config(address: [u8; 4], piggyback: bool) -> Config {
        let first = address.into();
        let listener = |port| Listener { first_port: port, last_port: port, syn_cookies: SynCookies::Never };
        let mut config = Config {
            addresses: vec![AddressRange { first, last: first, prefix_len: 8 }],
            listeners: vec![listener(80), listener(81)],
            ..Config::default()
        };
        config.tcp.piggyback = piggyback;
        config
    }

    fn run(plan: &Plan, app: ServeApp, world: World, brief: bool) -> Account {
        let secrets = Secrets::new([1, 2], [3, 4], [5, 6]);
        let (a, b) = ring::pair(4_096, 1_522).unwrap();
        let faults = match world {
            World::Lossy => Faults { duplicate: Probability::percent(2), ..Faults::lossy(2) },
            _ => Faults::default(),
        };
        let mut client = Client::new(plan.clone(), 0, Arc::new(Control::new(1))).unwrap();
        assert!(client.brief.is_some(), "{plan:?} is to go in brief");
        client.brief = client.brief.filter(|_| brief);
        let mailbox = client.mailbox();
        let mut server = Server::new(&[app; 2], SystemTime::UNIX_EPOCH).unwrap();
        if let World::Late = world {
            server = server.with_delay(Delay { from: Duration::from_micros(10), to: Duration::from_millis(2) }, 3);
        }
        let piggyback = matches!(world, World::Piggyback);
        let device = Faulty::new(a, faults, faults, 9);
        let mut a = Worker::new(&config([10, 0, 0, 2], piggyback), &secrets, device, client, HeapPages::new()).unwrap();
        let mut b = Worker::new(&config([10, 0, 0, 1], false), &secrets, b, server, HeapPages::new()).unwrap();
        let (mut now, mut account) = (Instant::from_millis(1), Account::default());
        while !a.app().is_done() {
            let idle = a.poll(&now).is_idle() & b.poll(&now).is_idle();
            while mailbox.read(|snapshot| {
                account.ramp.add(&snapshot.ramp);
                account.sustain.add(&snapshot.sustain);
                account.engine = snapshot.engine;
                account.held_back += snapshot.held_back;
                (account.open_max, account.cut_short) = (snapshot.open_max, snapshot.cut_short);
                account.targets.clone_from(&snapshot.targets);
            }) {}
            let step = now + Duration::from_micros(17);
            let next = a.next_deadline().into_iter().chain(b.next_deadline()).min();
            now = next.filter(|_| idle).map_or(step, |next| next.max(step));
            assert!(
                now < Instant::from_millis(600_000),
                "{:?} with {} in flight",
                a.app().phase(),
                a.app().in_flight()
            );
        }
        account.ended = now;
        account
    }

    /// Every plan that may go in brief comes to the same, in the last of its counts and times, as it does at length.
    #[test]
    fn in_brief_and_at_length_come_to_the_same() {
        let respond = |request_bytes, response_bytes| ServeApp::Respond { request_bytes, response_bytes };
        let targets = |count: u16| (80..80 + count).map(|port| ([10, 0, 0, 1], port).into()).collect();
        let some = |profile| Plan { load: Load::Concurrency(20), count: Some(300), ..Plan::new(profile, targets(1)) };
        let rate = |per_second| Load::Rate { per_second, in_flight_max: Some(40) };
        let stays = Load::Held { connections: 30, per_second: None };
        let duration = Some(Duration::from_millis(40));
        let ramp = Duration::from_millis(10);
        let plans = [
            (some(Profile::Connect), respond(64, 64)),
            (some(Profile::Crr), respond(64, 64)),
            (Plan { requests: Some(3), targets: targets(2), ..some(Profile::Crr) }, ServeApp::Echo),
            (Plan { requests: Some(33), timeout: None, count: Some(40), ..some(Profile::Crr) }, ServeApp::Echo),
            (Plan { load: rate(20_000.0), duration, ramp, ..some(Profile::Crr) }, respond(64, 64)),
            (Plan { load: stays, duration, requests: None, count: None, ..some(Profile::Rr) }, ServeApp::Echo),
            // Answers in several pieces, too long ones, short ones, and one that never comes
            (Plan { exchange: exchange(64, 5_000), ..some(Profile::Crr) }, respond(64, 5_000)),
            (Plan { exchange: exchange(5_000, 70), ..some(Profile::Crr) }, respond(5_000, 71)),
            (Plan { requests: Some(2), ..some(Profile::Crr) }, respond(64, 63)),
            (Plan { timeout: Some(Duration::from_millis(5)), ..some(Profile::Crr) }, ServeApp::Discard),
            (Plan { targets: vec![([10, 0, 0, 1], 9).into()], ..some(Profile::Crr) }, respond(64, 64)),
        ];
        let mut completed = 0;
        for (plan, app) in &plans {
            for world in [World::Plain, World::Piggyback, World::Late, World::Lossy] {
                let (short, long) = (run(plan, *app, world, true), run(plan, *app, world, false));
                assert!(short == long, "{world:?} {plan:?}\n{:?}\n{:?}", short.sustain.tally, long.sustain.tally);
                completed += short.ramp.tally.completed + short.sustain.tally.completed;
            }
        }
        assert!(completed > 4 * 1_500, "{completed}");
    }

    fn exchange(request: u64, answer: u64) -> Exchange {
        Exchange::Octets { request, response: Response::Octets(answer), content: None }
    }

    #[test]
    fn what_takes_more_than_a_look_is_not_done_in_brief() {
        type Change = fn(&mut Plan);
        let brief = |change: Change| {
            let mut plan = Plan::new(Profile::Crr, vec![([10, 0, 0, 1], 80).into()]);
            change(&mut plan);
            Client::new(plan, 0, Arc::new(Control::new(1))).unwrap().brief.is_some()
        };
        let changes: [Change; 13] = [
            |plan| plan.exchange = Plan::new(Profile::Http, Vec::new()).exchange,
            |plan| plan.exchange = exchange(0, 1),
            |plan| plan.exchange = exchange(1, 0),
            |plan| plan.exchange = exchange(u64::MAX, 1),
            |plan| plan.exchange = exchange(1, u64::MAX),
            |plan| plan.close = Close::Rst,
            |plan| plan.first_closer = FirstCloser::Server,
            |plan| plan.checks.pattern = true,
            |plan| plan.digest = true,
            |plan| plan.tokens = true,
            |plan| plan.request_rate = Some(1.0),
            |plan| plan.think = Some(Duration::from_millis(1)),
            |plan| plan.hold = Some(Duration::ZERO),
        ];
        assert!(brief(|_| ()));
        for (number, change) in changes.into_iter().enumerate() {
            assert!(!brief(change), "{number}");
        }
    }
}
