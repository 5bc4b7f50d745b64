//! What servers did within the last second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_engine::stats::Stats;

use crate::apps::ServerCounters;
use crate::measure::Tally;
use crate::report::blocks::{Detail, Levels, Span};
use crate::report::model::IntervalReport;
use crate::run::Member;
use crate::run::collect::{Mark, worker_report};

/// How long an interval is.
const SECOND: Duration = Duration::from_secs(1);

/// Reads counters once a second.
pub(super) struct Sampler {
    members: Vec<Member>,
    counters: Vec<Arc<ServerCounters>>,
    start: Instant,
    at: Instant,
    marks: Vec<Mark>,
    tally: Tally,
}

impl Sampler {
    pub(super) fn new(members: &[Member], counters: &[Arc<ServerCounters>]) -> Self {
        let now = Instant::now();
        Self {
            marks: members.iter().map(Mark::of).collect(),
            tally: tally(members, counters),
            members: members.to_vec(),
            counters: counters.to_vec(),
            start: now,
            at: now,
        }
    }

    /// The figures since the last ones, if a second has passed.
    pub(super) fn interval(&mut self) -> Option<IntervalReport> {
        let length = self.at.elapsed();
        if length < SECOND {
            return None;
        }
        let at_s = self.at.duration_since(self.start).as_secs_f64();
        self.at += length;
        let mut span = Span { length, ..Span::default() };
        for (member, mark) in self.members.iter().zip(&mut self.marks) {
            let now = Mark::of(member);
            span.traffic.add(&now.traffic.since(&mark.traffic));
            span.workers.push(worker_report(member, mark, &now, length));
            *mark = now;
        }
        let now = tally(&self.members, &self.counters);
        let before = std::mem::replace(&mut self.tally, now);
        span.measures.tally = Tally {
            attempted: now.attempted - before.attempted,
            established: now.established - before.established,
            completed: now.completed - before.completed,
            requests: now.requests - before.requests,
            ..Tally::default()
        };
        let sum = |level: fn(&Stats) -> u64| self.members.iter().map(|member| level(&member.stats)).sum();
        let (open, time_wait) = (sum(|stats| stats.connections.get()), sum(|stats| stats.time_wait_now.get()));
        span.levels = Levels { open, time_wait, ..Levels::default() };
        let blocks = span.blocks(Detail::Summary);
        Some(IntervalReport { at_s, seconds: length.as_secs_f64(), phase: "sustain".into(), blocks, spread: None })
    }
}

/// What servers have counted since their start.
pub(super) fn tally(members: &[Member], counters: &[Arc<ServerCounters>]) -> Tally {
    let mut tally = Tally::default();
    for member in members {
        // A SYN that is answered with a cookie leaves no record: it is counted when its cookie comes back.
        tally.attempted += member.stats.passive_opens.get() + member.stats.syn_cookies_accepted.get();
        tally.established += member.stats.established.get();
    }
    for counters in counters {
        tally.completed += counters.completed.get();
        tally.requests += counters.requests.get();
    }
    tally
}
