//! When launches are due: a function of the start alone, which never waits for an answer.

use core::time::Duration;

use fastrand::Rng;
use syncline_engine::time::Instant;

/// How events follow each other at a given rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly spaced.
    #[default]
    Constant,
    /// As independent users come: a Poisson process, its gaps exponentially distributed.
    Poisson,
}

/// A part of a [`Shape`] in which the rate moves in a straight line.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    begin_s: f64,
    length_s: f64,
    from: f64,
    to: f64,
    /// Events before it.
    before: f64,
}

impl Part {
    fn events_in(&self, seconds: f64) -> f64 {
        self.from * seconds + (self.to - self.from) / self.length_s * seconds * seconds / 2.0
    }

    fn seconds_to(&self, events: f64) -> f64 {
        if events <= 0.0 {
            return 0.0;
        }
        let slope = (self.to - self.from) / self.length_s;
        let discriminant = (self.from * self.from + 2.0 * slope * events).max(0.0);
        // The form of the quadratic's root that does not cancel; it holds for a slope of 0, too.
        2.0 * events / (self.from + discriminant.sqrt())
    }
}

/// How the rate develops: in straight lines from one rate to the next, and steady after the last.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    parts: Vec<Part>,
    end_s: f64,
    events: f64,
    last: f64,
}

impl Shape {
    /// `per_second` from the start on.
    pub fn steady(per_second: f64) -> Self {
        Self { parts: Vec::new(), end_s: 0.0, events: 0.0, last: per_second }
    }

    /// From nothing to `per_second` over `ramp`, then steady.
    pub fn ramp(per_second: f64, ramp: Duration) -> Self {
        Self::stages(0.0, &[(ramp, per_second)])
    }

    /// From `per_second` in a straight line to the rate of each stage within its time, one after the other. A stage
    /// that takes no time is a jump.
    pub fn stages(per_second: f64, stages: &[(Duration, f64)]) -> Self {
        let mut shape = Self::steady(per_second);
        for (length, to) in stages {
            let length_s = length.as_secs_f64();
            if length_s > 0.0 {
                let part = Part { begin_s: shape.end_s, length_s, from: shape.last, to: *to, before: shape.events };
                shape.end_s += length_s;
                shape.events += part.events_in(length_s);
                shape.parts.push(part);
            }
            shape.last = *to;
        }
        shape
    }

    /// Seconds from the start to event number `index`; infinite if it never comes.
    fn seconds_to(&self, index: f64) -> f64 {
        if index >= self.events {
            let more = index - self.events;
            return if more > 0.0 || self.last > 0.0 { self.end_s + more / self.last } else { f64::INFINITY };
        }
        let part = &self.parts[self.parts.partition_point(|part| part.before <= index).saturating_sub(1)];
        part.begin_s + part.seconds_to(index - part.before).min(part.length_s)
    }

    /// Events due within the first `seconds`.
    pub fn events_in(&self, seconds: f64) -> f64 {
        if seconds >= self.end_s {
            return self.events + (seconds - self.end_s) * self.last;
        }
        let part = &self.parts[self.parts.partition_point(|part| part.begin_s <= seconds).saturating_sub(1)];
        part.before + part.events_in((seconds - part.begin_s).max(0.0))
    }

    /// Most events within any span of `window_s` seconds of the first `run_s`.
    pub fn most_within(&self, window_s: f64, run_s: f64) -> f64 {
        let within = |end: f64| self.events_in(end) - self.events_in((end - window_s).max(0.0));
        // The sum over a window is smooth between the ends of the parts: a thousand looks miss next to nothing.
        let ends = (0..=1_000).map(|step| run_s * f64::from(step) / 1_000.0);
        let parts = self.parts.iter().flat_map(|part| [part.begin_s + part.length_s, part.begin_s + window_s]);
        ends.chain(parts.filter(|end| *end <= run_s)).map(within).fold(0.0, f64::max)
    }
}

/// Later than any run lasts, and still a time that can be added to another: about thirty years.
const NEVER_NS: f64 = 1e18;

/// One worker's share of a schedule. Workers take the events in turn, so that together they are as evenly spread as
/// one would be; of a Poisson process each takes an independent part.
#[derive(Clone, Debug)]
pub struct Schedule {
    shape: Shape,
    start: Instant,
    worker: u64,
    workers: u64,
    taken: u64,
    next: Instant,
    /// The source of chance of a Poisson process, as it was at the start and as it is, and the next event's number.
    poisson: Option<(Rng, Rng, f64)>,
}

impl Schedule {
    /// The share of worker `worker` of `workers` in the events of `shape`. `seed` decides a Poisson process.
    ///
    /// # Panics
    /// If there are no workers.
    pub fn new(shape: Shape, arrivals: Arrivals, seed: u64, worker: u32, workers: u32) -> Self {
        assert!(workers > 0);
        let (worker, workers) = (u64::from(worker), u64::from(workers));
        let poisson = (arrivals == Arrivals::Poisson).then(|| {
            let rng = Rng::with_seed(seed.wrapping_add(worker.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            (rng.clone(), rng, 0.0)
        });
        let mut schedule =
            Self { shape, start: Instant::ZERO, worker, workers, taken: 0, next: Instant::ZERO, poisson };
        schedule.begin(Instant::ZERO);
        schedule
    }

    /// Counts from `start` on.
    pub fn begin(&mut self, start: Instant) {
        (self.start, self.taken) = (start, 0);
        if let Some((origin, rng, index)) = &mut self.poisson {
            (*rng, *index) = (origin.clone(), 0.0);
        }
        self.aim();
    }

    /// Finds out when the next event is due.
    #[inline]
    fn aim(&mut self) {
        let index = match &mut self.poisson {
            None => (self.taken * self.workers + self.worker) as f64,
            Some((_, rng, index)) => {
                // A process of varying rate is one of unit rate on a clock that counts expected events.
                *index -= (1.0 - rng.f64()).ln() * self.workers as f64;
                *index
            }
        };
        self.next = self.start + Duration::from_nanos((self.shape.seconds_to(index) * 1e9).min(NEVER_NS) as u64);
    }

    /// How the rate develops.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// When the next event is due.
    #[inline]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Events taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the next event.
    #[inline]
    pub fn take(&mut self) {
        self.taken += 1;
        self.aim();
    }

    /// Events due at `now` that have not been taken. Takes as long as there are such events of a Poisson process.
    pub fn backlog(&self, now: Instant) -> u64 {
        if now < self.next {
            return 0;
        }
        if self.poisson.is_some() {
            let mut ahead = self.clone();
            while ahead.next <= now {
                ahead.take();
            }
            return ahead.taken - self.taken;
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

    fn constant(shape: Shape, worker: u32, workers: u32) -> Schedule {
        Schedule::new(shape, Arrivals::Constant, 0, worker, workers)
    }

    fn within(out: &[Instant], from: u64, to: u64) -> i64 {
        let span = START + Duration::from_secs(from)..START + Duration::from_secs(to);
        out.iter().filter(|at| span.contains(at)).count() as i64
    }

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
        let out = events(constant(Shape::steady(200_000.0), 0, 1), START + Duration::from_secs(60));
        assert_eq!(out.len(), 12_000_000);
        assert_eq!(out[0], START);
        let gaps = out.windows(2).map(|pair| pair[1].since(pair[0]).as_nanos());
        assert!(gaps.into_iter().all(|gap| (4_998..=5_002).contains(&gap)));
    }

    #[test]
    fn workers_interleave_to_the_whole() {
        for shape in [Shape::steady(999.0), Shape::ramp(999.0, Duration::from_secs(2))] {
            let until = START + Duration::from_secs(4);
            let whole = events(constant(shape.clone(), 0, 1), until);
            let mut parts: Vec<_> =
                (0..3).flat_map(|worker| events(constant(shape.clone(), worker, 3), until)).collect();
            parts.sort();
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn a_ramp_is_linear_then_steady() {
        let out =
            events(constant(Shape::ramp(1_000.0, Duration::from_secs(10)), 0, 1), START + Duration::from_secs(20));
        assert!((within(&out, 0, 10) - 5_000).abs() <= 1);
        assert!((within(&out, 0, 5) - 1_250).abs() <= 1);
        assert!((within(&out, 10, 20) - 10_000).abs() <= 1);
    }

    #[test]
    fn stages_go_up_stay_jump_and_come_down() {
        let second = Duration::from_secs(1);
        // 1000 → 2000 in 2 s, 2000 for 2 s, at once 500 for 2 s, down to nothing in 2 s.
        let stages = [
            (2 * second, 2_000.0),
            (2 * second, 2_000.0),
            (Duration::ZERO, 500.0),
            (2 * second, 500.0),
            (2 * second, 0.0),
        ];
        let shape = Shape::stages(1_000.0, &stages);
        let out = events(constant(shape.clone(), 0, 1), START + 60 * second);
        for (from, to, count) in [(0, 2, 3_000), (2, 4, 4_000), (4, 6, 1_000), (6, 8, 500), (8, 60, 0)] {
            assert!((within(&out, from, to) - count).abs() <= 1, "{from} to {to}: {}", within(&out, from, to));
        }
        assert!(out.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!((shape.most_within(2.0, 8.0), shape.most_within(4.0, 8.0)), (4_000.0, 7_000.0));
        assert_eq!(shape.most_within(60.0, 8.0), 8_500.0);
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_its_variance() {
        let poisson = |worker, workers| Schedule::new(Shape::steady(10_000.0), Arrivals::Poisson, 42, worker, workers);
        let until = START + Duration::from_secs(100);
        let whole = events(poisson(0, 1), until);
        assert_eq!(whole, events(poisson(0, 1), until), "the seed decides");
        let mut shares: Vec<_> = (0..2).flat_map(|worker| events(poisson(worker, 2), until)).collect();
        shares.sort();
        for out in [whole, shares] {
            // A million events: the count is within four standard deviations of 1000.
            assert!((out.len() as f64 - 1e6).abs() < 4_000.0, "{}", out.len());
            let mut counts = vec![0.0f64; 10_000];
            out.iter().for_each(|at| counts[(at.since(START).as_millis() / 10) as usize] += 1.0);
            let variance = counts.iter().map(|count| (count - 100.0).powi(2)).sum::<f64>() / counts.len() as f64;
            // Of a Poisson distribution the variance is the mean; evenly spaced events would have none.
            assert!((variance - 100.0).abs() < 8.0, "{variance}");
        }
    }

    #[test]
    fn the_backlog_is_what_a_late_worker_still_owes() {
        for (worker, workers, ramp_s) in [(0, 1, 0), (1, 3, 0), (2, 3, 4), (0, 2, 4)] {
            for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
                let shape = Shape::ramp(1_000.0, Duration::from_secs(ramp_s));
                let mut schedule = Schedule::new(shape, arrivals, 7, worker, workers);
                schedule.begin(START);
                for millis in [0, 1, 2, 3, 10, 500, 3_999, 4_000, 4_001, 9_000] {
                    let now = START + Duration::from_micros(millis * 1_000 + 500);
                    let backlog = schedule.backlog(now);
                    let mut owed = 0;
                    while schedule.next() <= now {
                        schedule.take();
                        owed += 1;
                    }
                    assert_eq!(backlog, owed, "worker {worker} of {workers} after {millis} ms, {arrivals:?}");
                }
            }
        }
    }
}
