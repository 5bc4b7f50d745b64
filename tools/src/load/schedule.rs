//! When launches are due: a function of the start alone, which never waits for an answer.

use core::time::Duration;

use syncline_engine::time::Instant;

/// How the rate develops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// `per_second` from the start on.
    Steady { per_second: f64 },
    /// From nothing to `per_second` in a straight line over `ramp_s` seconds, then steady.
    Ramp { per_second: f64, ramp_s: f64 },
}

impl Shape {
    /// Seconds from the start to event number `index`.
    fn seconds_to(self, index: f64) -> f64 {
        match self {
            Self::Steady { per_second } => index / per_second,
            Self::Ramp { per_second, ramp_s } => {
                let during = per_second * ramp_s / 2.0;
                if index <= during {
                    (2.0 * ramp_s * index / per_second).sqrt()
                } else {
                    ramp_s + (index - during) / per_second
                }
            }
        }
    }

    /// Events due within the first `seconds`.
    fn events_in(self, seconds: f64) -> f64 {
        match self {
            Self::Steady { per_second } => seconds * per_second,
            Self::Ramp { per_second, ramp_s } if seconds < ramp_s => per_second * seconds * seconds / (2.0 * ramp_s),
            Self::Ramp { per_second, ramp_s } => per_second * (seconds - ramp_s / 2.0),
        }
    }
}

/// One worker's share of a schedule. Workers take the events in turn, so that together they are as evenly spread as
/// one would be.
#[derive(Clone, Debug)]
pub struct Schedule {
    shape: Shape,
    start: Instant,
    worker: u64,
    workers: u64,
    taken: u64,
    next: Instant,
}

impl Schedule {
    /// The share of worker `worker` of `workers` in `per_second` events each second, reached after `ramp`.
    ///
    /// # Panics
    /// If `per_second` is not a positive number or there are no workers: whoever reads the options refuses that.
    pub fn new(per_second: f64, ramp: Duration, worker: u32, workers: u32) -> Self {
        assert!(per_second > 0.0 && per_second.is_finite() && workers > 0);
        let ramp_s = ramp.as_secs_f64();
        let shape = if ramp_s > 0.0 { Shape::Ramp { per_second, ramp_s } } else { Shape::Steady { per_second } };
        let (worker, workers) = (u64::from(worker), u64::from(workers));
        let mut schedule = Self { shape, start: Instant::ZERO, worker, workers, taken: 0, next: Instant::ZERO };
        schedule.begin(Instant::ZERO);
        schedule
    }

    /// Counts from `start` on.
    pub fn begin(&mut self, start: Instant) {
        (self.start, self.taken) = (start, 0);
        self.next = self.time_of(0);
    }

    fn time_of(&self, taken: u64) -> Instant {
        let index = (taken * self.workers + self.worker) as f64;
        self.start + Duration::from_nanos((self.shape.seconds_to(index) * 1e9) as u64)
    }

    /// When the next event is due.
    #[inline]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Events taken so far.
    #[inline]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the next event.
    #[inline]
    pub fn take(&mut self) {
        self.taken += 1;
        self.next = self.time_of(self.taken);
    }

    /// Events due at `now` that have not been taken.
    pub fn backlog(&self, now: Instant) -> u64 {
        if now < self.next {
            return 0;
        }
        let events = self.shape.events_in(now.since(self.start).as_secs_f64());
        // Event 0 is due at once, so `n` whole events in that span make `n + 1` of them due.
        let due = (events as u64 + self.workers).saturating_sub(self.worker) / self.workers;
        due.saturating_sub(self.taken).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(7_000);

    fn events(mut schedule: Schedule, until: Instant) -> Vec<Instant> {
        schedule.begin(START);
        let mut out = Vec::new();
        while schedule.next() < until {
            out.push(schedule.next());
            schedule.take();
        }
        out
    }

    #[test]
    fn a_steady_rate_is_evenly_spaced_and_does_not_drift() {
        let out = events(Schedule::new(200_000.0, Duration::ZERO, 0, 1), START + Duration::from_secs(60));
        assert_eq!(out.len(), 12_000_000);
        assert_eq!(out[0], START);
        let gaps = out.windows(2).map(|pair| pair[1].since(pair[0]).as_nanos());
        assert!(gaps.into_iter().all(|gap| (4_998..=5_002).contains(&gap)));
    }

    #[test]
    fn workers_interleave_to_the_whole() {
        for ramp in [Duration::ZERO, Duration::from_secs(2)] {
            let until = START + Duration::from_secs(4);
            let whole = events(Schedule::new(999.0, ramp, 0, 1), until);
            let mut parts: Vec<_> =
                (0..3).flat_map(|worker| events(Schedule::new(999.0, ramp, worker, 3), until)).collect();
            parts.sort();
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn a_ramp_is_linear_then_steady() {
        let out = events(Schedule::new(1_000.0, Duration::from_secs(10), 0, 1), START + Duration::from_secs(20));
        let within = |from: u64, to: u64| {
            let span = START + Duration::from_secs(from)..START + Duration::from_secs(to);
            out.iter().filter(|at| span.contains(at)).count() as i64
        };
        assert!((within(0, 10) - 5_000).abs() <= 1);
        assert!((within(0, 5) - 1_250).abs() <= 1);
        assert!((within(10, 20) - 10_000).abs() <= 1);
    }

    #[test]
    fn the_backlog_is_what_a_late_worker_still_owes() {
        for (worker, workers, ramp_s) in [(0, 1, 0), (1, 3, 0), (2, 3, 4), (0, 2, 4)] {
            let mut schedule = Schedule::new(1_000.0, Duration::from_secs(ramp_s), worker, workers);
            schedule.begin(START);
            for millis in [0, 1, 2, 3, 10, 500, 3_999, 4_000, 4_001, 9_000] {
                let now = START + Duration::from_micros(millis * 1_000 + 500);
                let backlog = schedule.backlog(now);
                let mut owed = 0;
                while schedule.next() <= now {
                    schedule.take();
                    owed += 1;
                }
                assert_eq!(backlog, owed, "worker {worker} of {workers} after {millis} ms");
            }
        }
    }
}
