//! One worker's part of a run: its phases, its requests, and the walks over what is open.
//!
//! Connections are opened in [`launch`](super::launch); what happens on one is in [`exchange`](super::exchange), the end of the
//! run in [`drain`](super::drain).

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use syncline_engine::app::{Conn, ConnId, Net};
use syncline_engine::tcp::NextHop;
use syncline_engine::time::Instant;

use super::brief::Brief;
use super::deadlines::Deadlines;
use super::departures::Departures;
use super::exchange::CHUNK;
use super::plan::{Exchange, Flow, Load, Plan, PlanError, Response};
use super::schedule::{Schedule, Shape};
use super::session::{Sessions, Stage};
use super::snapshot::{Control, EngineCounts, Mailbox, Phase, Recorder};
use super::template::Template;
use super::tokens::Tokens;
use super::turns::{Turns, flow_of};
use crate::measure::{Failure, Tally};
use crate::watch::{SharedWatch, Watch};

/// Launches, requests or closes in one pass of the loop at most.
pub(super) const BURST: usize = 64;

/// Connections that opened in one pass and whose first request waits for the next, at most. Among more the handshake's ACK of one
/// holds up the request of another whatever is done.
pub(super) const FRESH_MAX: usize = 4;

/// Slots looked at in one pass of a walk at most.
const STRIDE: u32 = 1_024;

/// Requests or closes under way at most during a walk: each brings some frames, and all of them have a place on a ring.
const WALK_WINDOW: u32 = 512;

/// Side records at most on a worker: 64 Mi connections with many requests each.
const SIDES_MAX: u32 = 1 << 26;

/// Octets of one message of a request that goes on until the end: what is queued then is still sent before the FIN.
const CHUNK_ENDLESS: u64 = 128 << 10;

/// How long a target's neighbour is asked for before it counts as unreachable: the target may be starting, too.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(10);

/// How long the engine may have no room for anything new before it is taken to have no memory for it: what it lacks comes with
/// the next passes.
const ROOM_PATIENCE: Duration = Duration::from_millis(100);

/// How long after the end of the sustain phase launches that were due in it may still be made.
const LATE_MAX: Duration = Duration::from_millis(10);

/// How long a worker may sleep while it waits for deadlines.
pub(super) const DOZE: Duration = Duration::from_millis(10);

/// The load generator on one worker.
#[derive(Debug)]
pub struct Client {
    pub(super) plan: Plan,
    pub(super) templates: Vec<Template>,
    /// Tokens for requests, if there are to be any.
    pub(super) tokens: Option<Tokens>,
    /// Who wants to know of single connections, if anybody.
    pub(super) watch: Option<SharedWatch>,
    /// Octets of one queued message.
    pub(super) chunk: u64,
    /// Every request is [`payload`](crate::apps::payload) from its first octet to its last.
    pub(super) patterned: bool,
    /// What connections do in brief, as long as they may.
    pub(super) brief: Option<Brief>,
    pub(super) control: Arc<Control>,
    pub(super) recorder: Recorder,
    pub(super) sessions: Sessions,
    pub(super) connects: Deadlines,
    pub(super) answers: Option<Deadlines>,
    /// Times to think.
    pub(super) thoughts: Option<Deadlines>,
    pub(super) departures: Departures,
    /// Connections that opened in this pass or the one before, and make their first request in the next.
    pub(super) fresh: VecDeque<u32>,
    /// How many of them did so before this pass.
    fresh_before: usize,
    /// The kinds of connections.
    pub(super) flows: Vec<Flow>,
    /// Some of them make requests that nobody answers: what is acknowledged is all.
    pub(super) unanswered: bool,
    /// The kind that each target belongs to; empty if there is but one.
    pub(super) flow_of: Vec<u16>,
    pub(super) turns: Turns,
    /// Connections by stage.
    pub(super) population: [u32; Stage::COUNT],
    /// Established and not over.
    pub(super) open: u32,
    /// Counts since the start, if there are several targets.
    pub(super) by_target: Vec<Tally>,
    pub(super) phase: Phase,
    /// Connections that may take a request or octets when the schedule says so.
    pub(super) ready: VecDeque<u32>,
    /// The schedule of requests or, with a bit rate, of chunks.
    pub(super) requests: Option<Schedule>,
    /// When connections last came or went.
    pub(super) progress_at: Instant,
    /// The held connections are to make their last request.
    pub(super) finale: bool,
    /// The drain took too long.
    pub(super) giving_up: bool,
    pub(super) launches: Option<Schedule>,
    /// Open at once at most; for open loops only if it was asked for.
    pub(super) in_flight_max: u32,
    /// Launches that came due by then were held back.
    pub(super) held_through: Instant,
    pub(super) launched: u64,
    pub(super) quota: u64,
    pub(super) retry_at: Instant,
    /// Since when the engine has had no room.
    no_room_since: Option<Instant>,
    pub(super) start: Instant,
    pub(super) ramp_end: Instant,
    pub(super) sustain_end: Option<Instant>,
    /// When the present stage ends, if there are stages.
    stage_end: Option<Instant>,
    hold_since: Option<Instant>,
    pub(super) requests_begun: bool,
    arrived: bool,
    /// When the targets' neighbours were first asked for.
    asked: Option<Instant>,
    /// One beyond the highest slot ever used.
    pub(super) slots: u32,
    pub(super) cursor: u32,
    wake: Option<Instant>,
    /// When the next launch or request is due.
    due: Option<Instant>,
}

/// Worker `worker`'s part of `total` that is dealt out in turn to `workers`.
fn share(total: u64, worker: u32, workers: u32) -> u64 {
    let (worker, workers) = (u64::from(worker), u64::from(workers));
    total / workers + u64::from(worker < total % workers)
}

fn endless(plan: &Plan) -> bool {
    matches!(
        plan.exchange,
        Exchange::Octets { request: u64::MAX, .. } | Exchange::Octets { response: Response::Octets(u64::MAX), .. }
    )
}

impl Client {
    /// Worker `worker`'s part in `plan`, agreed on through `control`.
    ///
    /// # Errors
    /// If [`Plan::check`] finds fault.
    pub fn new(plan: Plan, worker: u32, control: Arc<Control>) -> Result<Self, PlanError> {
        let workers = control.workers();
        plan.check(workers)?;
        let split = |total: u64| share(total, worker, workers);
        let (in_flight_max, held) = match plan.load {
            Load::Rate { in_flight_max, .. } => {
                (in_flight_max.map_or(u32::MAX, |limit| split(u64::from(limit)) as u32), None)
            }
            Load::Concurrency(limit) => (split(u64::from(limit)) as u32, None),
            Load::Held { connections, .. } => (u32::MAX, Some(connections)),
        };
        let flows = plan.flows();
        let launches = plan.shape().map(|shape| Schedule::new(shape, plan.arrivals, plan.seed, worker, workers));
        let quota = held.into_iter().chain(plan.count).min().map_or(u64::MAX, split);
        let chunk = match plan.bitrate {
            Some(bits) => (bits / 8 / 1_000).clamp(1_448, 65_536),
            None if endless(&plan) => CHUNK_ENDLESS,
            None => CHUNK,
        };
        let paced = plan.bitrate.map(|bits| bits as f64 / 8.0 / chunk as f64).or(plan.request_rate);
        let queue = if paced.is_some() { quota.min(u64::from(in_flight_max)).min(1 << 20) } else { 0 };
        let templates = Template::all(&plan);
        Ok(Self {
            tokens: plan.tokens.then(|| Tokens::new(plan.seed, worker, templates.len())).flatten(),
            watch: None,
            patterned: matches!(&templates[..], [template] if template.is_pattern()),
            brief: Brief::of(&plan, &flows, &templates, chunk),
            templates,
            chunk,
            recorder: Recorder::new(worker, plan.targets.len()),
            sessions: Sessions::new(SIDES_MAX),
            connects: Deadlines::new(plan.connect_timeout),
            answers: plan.timeout.map(Deadlines::new),
            thoughts: plan.think.map(Deadlines::new),
            departures: Departures::new(),
            fresh: VecDeque::with_capacity(FRESH_MAX),
            fresh_before: 0,
            flow_of: flow_of(&flows),
            turns: Turns::new(&flows),
            unanswered: flows.iter().any(Flow::is_unanswered),
            flows,
            population: [0; Stage::COUNT],
            open: 0,
            by_target: vec![Tally::default(); if plan.targets.len() > 1 { plan.targets.len() } else { 0 }],
            phase: Phase::Init,
            ready: VecDeque::with_capacity(queue as usize),
            requests: paced.map(|rate| {
                Schedule::new(Shape::steady(rate), plan.arrivals, plan.seed.wrapping_add(1), worker, workers)
            }),
            progress_at: Instant::ZERO,
            finale: false,
            giving_up: false,
            launches,
            in_flight_max,
            held_through: Instant::ZERO,
            launched: 0,
            quota,
            retry_at: Instant::ZERO,
            no_room_since: None,
            start: Instant::ZERO,
            ramp_end: Instant::ZERO,
            sustain_end: None,
            stage_end: None,
            hold_since: None,
            requests_begun: false,
            arrived: false,
            asked: None,
            slots: 0,
            cursor: 0,
            wake: Some(Instant::ZERO),
            due: None,
            control,
            plan,
        })
    }

    /// Where this worker's snapshots can be read.
    pub fn mailbox(&self) -> Arc<Mailbox> {
        self.recorder.mailbox()
    }

    /// Tells `watch` what becomes of each connection.
    pub fn set_watch(&mut self, watch: SharedWatch) {
        (self.watch, self.brief) = (Some(watch), None);
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether this worker is through and its last snapshot is on its way.
    pub fn is_done(&self) -> bool {
        self.recorder.current.last
    }

    /// What this worker has in common with the others.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Connections of this worker that are not over.
    pub fn in_flight(&self) -> u32 {
        self.population.iter().sum()
    }

    /// When the next launch or request of this worker is due.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Connections of this worker that wait for the peer and are timed meanwhile.
    pub fn answers_to_come(&self) -> u32 {
        let timed = [Stage::Connecting, Stage::Waiting, Stage::Closing];
        timed.iter().map(|stage| self.population[*stage as usize]).sum()
    }

    pub(super) fn draining(&self) -> bool {
        self.phase >= Phase::Drain
    }

    /// When the next pass has something to do that no frame announces.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// One pass.
    pub(super) fn pass(&mut self, net: &mut Net<'_>) {
        let now = net.now();
        (self.wake, self.due) = (None, None);
        // What has opened in this pass asks in the next.
        self.ask_of_fresh(net, self.fresh_before);
        self.fresh_before = self.fresh.len();
        if self.fresh_before > 0 {
            self.wake_at(now);
        }
        match self.phase {
            Phase::Init => self.init(net, now),
            Phase::Ramp | Phase::Sustain => self.work(net, now),
            Phase::Drain => self.drain(net, now),
            Phase::Done => return self.leave(net, now),
        }
        if self.phase > Phase::Init && self.phase < Phase::Done {
            self.expire(net, now);
            if now >= self.recorder.due() {
                self.send_snapshot(net, now, self.phase);
            }
            self.wake_at(self.recorder.due());
            if self.in_flight() > 0 {
                self.wake_at(now + DOZE);
            }
        }
    }

    pub(super) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |before| before.min(at)));
    }

    pub(super) fn due_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |before| before.min(at)));
        self.wake_at(at);
    }

    fn init(&mut self, net: &mut Net<'_>, now: Instant) {
        self.wake_at(now + Duration::from_millis(1));
        if self.control.stopped() {
            self.phase = Phase::Done;
            return self.wake_at(now);
        }
        if !self.arrived {
            let patience = *self.asked.get_or_insert(now) + RESOLVE_PATIENCE;
            let mut pending = false;
            for target in &self.plan.targets {
                match net.resolve(target.ip()) {
                    NextHop::Ready => {}
                    NextHop::Pending => pending = true,
                    NextHop::Unreachable if now < patience => pending = true,
                    NextHop::Unreachable => return self.control.lost(target.ip()),
                }
            }
            if !pending {
                self.arrived = true;
                self.control.arrive(now);
            }
        }
        if let Some(start) = self.control.started_at() {
            if now < start {
                return self.wake_at(start);
            }
            self.begin(start);
            self.work(net, now);
        }
    }

    fn begin(&mut self, start: Instant) {
        self.start = start;
        self.ramp_end = start + self.plan.ramp;
        self.sustain_end = self.plan.duration.map(|duration| self.ramp_end + duration);
        self.stage_end = self.plan.stages.first().map(|(length, _)| start + *length);
        self.progress_at = start;
        self.phase = if self.plan.ramp.is_zero() { Phase::Sustain } else { Phase::Ramp };
        if let Some(launches) = &mut self.launches {
            launches.begin(start);
        }
        self.recorder.begin(start, self.phase);
    }

    fn work(&mut self, net: &mut Net<'_>, now: Instant) {
        if self.control.stopped() {
            return self.enter_drain(net, now);
        }
        if self.phase == Phase::Ramp && now >= self.ramp_end {
            self.phase = Phase::Sustain;
            self.send_snapshot(net, now, Phase::Sustain);
        }
        while let Some(end) = self.stage_end.filter(|end| now >= *end) {
            self.send_snapshot(net, now, Phase::Sustain);
            self.recorder.current.stage += 1;
            let next = self.plan.stages.get(usize::from(self.recorder.current.stage));
            self.stage_end = next.map(|(length, _)| end + *length);
        }
        self.launch(net, now);
        self.request(net, now);
        self.hold(net, now);
        if let Some(end) = self.sustain_end {
            let all_made = self.launches.as_ref().is_none_or(|launches| launches.next() >= end);
            if now >= end && (all_made || self.full() || self.exhausted() || now >= end + LATE_MAX) {
                return self.enter_drain(net, now);
            }
            self.wake_at(end.max(now));
        }
        if self.exhausted() && self.in_flight() == 0 {
            self.enter_drain(net, now);
        }
    }

    /// How many connections may be opened or set to work in this pass. One at a time where there has been no room for long:
    /// then it fails, and is counted.
    pub(super) fn room(&mut self, net: &Net<'_>, now: Instant) -> usize {
        let room = net.room().min(BURST);
        if room > 0 {
            self.no_room_since = None;
            return room;
        }
        let since = *self.no_room_since.get_or_insert(now);
        usize::from(now.since(since) >= ROOM_PATIENCE)
    }

    /// Tells whoever watches.
    #[inline]
    pub(super) fn watched(&self, tell: impl FnOnce(&mut Watch)) {
        if let Some(watch) = &self.watch {
            tell(&mut watch.lock());
        }
    }

    /// Hands out what the schedule of requests has due to connections that are ready for it.
    fn request(&mut self, net: &mut Net<'_>, now: Instant) {
        if self.requests.is_none() {
            return;
        }
        if !self.requests_begun {
            let opening = self.plan.keeps() && !(self.exhausted() && self.population[Stage::Connecting as usize] == 0);
            if opening || self.ready.is_empty() {
                return;
            }
            self.requests_begun = true;
            self.requests.iter_mut().for_each(|requests| requests.begin(now));
        }
        for _ in 0..self.room(net, now) {
            let Some(requests) = &mut self.requests else { return };
            let due = requests.next();
            if due > now {
                return self.due_at(due);
            }
            let Some(id) = self.ready.pop_front() else { return };
            let Some(mut conn) = net.conn(ConnId(id)) else { continue };
            if self.serve_schedule(&mut conn, now.since(due))
                && let Some(requests) = &mut self.requests
            {
                requests.take();
            }
        }
        self.wake_at(now);
    }

    /// Waits until all are open, lets them idle for the time that was asked for, then has them make their last request.
    fn hold(&mut self, net: &mut Net<'_>, now: Instant) {
        let Some(hold) = self.plan.hold else { return };
        if self.finale {
            return self.walk(net, now, |client, conn| {
                let mut session = client.sessions.load(conn.word());
                if session.stage == Stage::Idle {
                    client.next_step(conn, &mut session);
                    client.keep(conn, &mut session);
                }
            });
        }
        // While connections think, some are always waiting for an answer.
        let waiting = self.population[Stage::Waiting as usize] + self.fresh.len() as u32;
        let asking = if self.thoughts.is_some() { 0 } else { waiting };
        let settled = self.population[Stage::Connecting as usize] + asking == 0;
        if self.hold_since.is_none() && self.exhausted() && settled {
            self.hold_since = Some(now);
        }
        if let Some(since) = self.hold_since {
            self.finale = now >= since + hold;
            self.wake_at((since + hold).max(now));
        }
    }

    /// Visits open connections, slot by slot, some in each pass, and no faster than what it sets off comes to an end.
    pub(super) fn walk(&mut self, net: &mut Net<'_>, now: Instant, mut visit: impl FnMut(&mut Self, &mut Conn<'_>)) {
        let busy = |client: &Self| {
            let population = &client.population;
            population[Stage::Waiting as usize]
                + population[Stage::Closing as usize]
                + population[Stage::AwaitingFin as usize]
        };
        let (mut room, until) = (self.room(net, now), self.slots.min(self.cursor.saturating_add(STRIDE)));
        let before = self.cursor;
        while self.cursor < until && room > 0 && (busy(self) < WALK_WINDOW || self.phase == Phase::Drain) {
            if let Some(mut conn) = net.conn(ConnId(self.cursor)) {
                visit(self, &mut conn);
                room -= 1;
            }
            self.cursor += 1;
            if self.phase == Phase::Drain && self.population[Stage::Closing as usize] >= WALK_WINDOW {
                break;
            }
        }
        if self.cursor < self.slots && self.cursor > before {
            self.wake_at(now);
        }
    }

    pub(super) fn send_snapshot(&mut self, net: &Net<'_>, now: Instant, next: Phase) -> bool {
        let current = &mut self.recorder.current;
        current.engine = EngineCounts::of(net.stats());
        current.open = self.open;
        current.targets.clear();
        current.targets.extend_from_slice(&self.by_target);
        self.recorder.send(now, next)
    }

    fn expire(&mut self, net: &mut Net<'_>, now: Instant) {
        let now_us = now.micros() as u32;
        for _ in 0..BURST {
            let Some(wait) = self.connects.expired(now_us) else { break };
            self.time_out(net, wait.id, wait.stamp, &[Stage::Connecting], Failure::SynTimeout);
        }
        self.think(net, now_us);
        for _ in 0..BURST {
            let Some(wait) = self.answers.as_mut().and_then(|answers| answers.expired(now_us)) else { break };
            let stages = [Stage::Waiting, Stage::AwaitingFin, Stage::Closing];
            self.time_out(net, wait.id, wait.stamp, &stages, Failure::DataTimeout);
        }
    }

    /// Has connections whose time to think is over make their next request.
    fn think(&mut self, net: &mut Net<'_>, now_us: u32) {
        if self.thoughts.is_none() {
            return;
        }
        for _ in 0..self.room(net, net.now()) {
            let Some(wait) = self.thoughts.as_mut().and_then(|thoughts| thoughts.expired(now_us)) else { break };
            let Some(mut conn) = net.conn(ConnId(wait.id)) else { continue };
            let mut session = self.sessions.load(conn.word());
            if session.stamp == wait.stamp && session.stage == Stage::Thinking {
                self.next_step(&mut conn, &mut session);
                self.keep(&mut conn, &mut session);
            }
        }
        if let Some(micros) = self.thoughts.as_ref().and_then(|thoughts| thoughts.next_in(now_us)) {
            self.due_at(net.now() + Duration::from_micros(micros.into()));
        }
    }

    fn time_out(&mut self, net: &mut Net<'_>, id: u32, stamp: u32, stages: &[Stage], cause: Failure) {
        let Some(mut conn) = net.conn(ConnId(id)) else { return };
        let mut session = self.sessions.load(conn.word());
        if session.stamp == stamp && stages.contains(&session.stage) {
            self.fail(&conn, &mut session, cause);
            self.keep(&mut conn, &mut session);
            conn.abort();
        }
    }

    /// Whether a request goes on until the run ends.
    pub(super) fn endless(&self) -> bool {
        endless(&self.plan)
    }
}
