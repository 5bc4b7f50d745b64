//! Answers that come after a while: a target whose times are known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use syncline_engine::app::ConnId;
use syncline_engine::time::Instant;

/// How long a request waits for its answer: evenly distributed between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The shortest wait.
    pub from: Duration,
    /// The longest.
    pub to: Duration,
}

/// A connection whose answer is due, and which of the requests it is to: connections' names are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    due: Instant,
    serial: u64,
    id: ConnId,
}

/// The answers that are still to be given, the first first.
#[derive(Debug)]
pub(super) struct Delays {
    delay: Delay,
    random: Rng,
    waiting: BinaryHeap<Reverse<Answer>>,
    serial: u64,
}

impl Delays {
    pub(super) fn new(delay: Delay, seed: u64) -> Self {
        Self { delay, random: Rng::with_seed(seed), waiting: BinaryHeap::new(), serial: 0 }
    }

    /// Puts an answer off. Returns its serial number.
    pub(super) fn put_off(&mut self, id: ConnId, now: Instant) -> u64 {
        let (from, to) = (self.delay.from.as_nanos() as u64, self.delay.to.as_nanos() as u64);
        let due = now + Duration::from_nanos(self.random.u64(from..=to));
        self.serial += 1;
        self.waiting.push(Reverse(Answer { due, serial: self.serial, id }));
        self.serial
    }

    /// The next answer that is due: whose, and its serial number.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(ConnId, u64)> {
        let Reverse(first) = self.waiting.peek()?;
        if first.due > now {
            return None;
        }
        self.waiting.pop().map(|Reverse(answer)| (answer.id, answer.serial))
    }

    /// When the next answer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(answer)| answer.due)
    }
}
