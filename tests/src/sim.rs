//! Two hosts on a simulated link, in virtual time.
//!
//! The time jumps from event to event: the next frame that arrives, the next deadline of a host. A day of keepalives
//! takes as long as the work in it, and a seed gives the same run every time.

use core::fmt;
use core::time::Duration;
use syncline_engine::device::link::Link;
use syncline_engine::time::Instant;

/// What takes part in a simulation: a worker, or a hand-written peer.
pub trait Node {
    /// Does what is to be done at `now`.
    fn poll(&mut self, now: &Instant);

    /// When it wants to be polled again if no frame comes; `None` if not at all.
    fn next_deadline(&mut self) -> Option<Instant>;
}

/// How much the time moves at least when a host asks to be polled again at once: the loop of a real worker takes time,
/// too.
const LOOP_TIME: Duration = Duration::from_micros(1);

/// Why a simulation stopped before its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Nothing is on the way and no host waits for anything.
    Silent {
        /// When it fell silent.
        at: Instant,
    },
    /// The step limit was reached: most likely hosts that keep each other busy without getting anywhere.
    TooManySteps {
        /// How far the time had come.
        at: Instant,
    },
    /// The time limit was reached.
    TooLate {
        /// The next event beyond the limit.
        at: Instant,
    },
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, at) = match self {
            Self::Silent { at } => ("nothing more happens", at),
            Self::TooManySteps { at } => ("the step limit is reached", at),
            Self::TooLate { at } => ("the time limit is reached", at),
        };
        write!(f, "{what} at {} µs, and the goal is not met", at.micros())
    }
}

impl std::error::Error for Stuck {}

/// A simulation: the link, its time and its limits.
pub struct Sim {
    link: Link,
    now: Instant,
    steps: u64,
    steps_max: u64,
    until: Instant,
}

impl Sim {
    /// A simulation on `link`, from the origin of time, of at most `steps_max` steps and `span` of virtual time.
    pub fn new(link: Link, steps_max: u64, span: Duration) -> Self {
        Self { link, now: Instant::ZERO, steps: 0, steps_max, until: Instant::ZERO + span }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Steps taken so far; each polls every host once.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The link.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Lets `a` and `b` work until `goal` holds, asked after each step.
    ///
    /// # Errors
    /// If nothing more happens, or a limit is reached, before that.
    pub fn run<A: Node, B: Node>(
        &mut self,
        a: &mut A,
        b: &mut B,
        mut goal: impl FnMut(&mut A, &mut B) -> bool,
    ) -> Result<(), Stuck> {
        loop {
            self.step(a, b);
            if goal(a, b) {
                return Ok(());
            }
            if self.steps >= self.steps_max {
                return Err(Stuck::TooManySteps { at: self.now });
            }
            let next = self.next_event(a, b).ok_or(Stuck::Silent { at: self.now })?;
            if next > self.until {
                return Err(Stuck::TooLate { at: next });
            }
            self.now = next;
        }
    }

    fn step(&mut self, a: &mut impl Node, b: &mut impl Node) {
        self.steps += 1;
        self.link.set_now(self.now);
        a.poll(&self.now);
        b.poll(&self.now);
    }

    /// When to go on: at the same time while frames are waiting to be taken, else later.
    fn next_event(&self, a: &mut impl Node, b: &mut impl Node) -> Option<Instant> {
        let frame = self.link.next_event();
        if frame.is_some_and(|at| at <= self.now) {
            return Some(self.now);
        }
        let deadline = [a.next_deadline(), b.next_deadline()].into_iter().flatten().min();
        let deadline = deadline.map(|at| at.max(self.now + LOOP_TIME));
        [frame, deadline].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_engine::device::fault::{Faults, Probability};
    use syncline_engine::device::link::{LinkConfig, LinkDevice, LinkFrame};
    use syncline_engine::device::path::PathConfig;
    use syncline_engine::device::{Device, Frame};

    /// Stop-and-wait: sends a number until it is acknowledged, then the next.
    struct Sender {
        device: LinkDevice,
        next: u8,
        last: u8,
        resend_at: Instant,
    }

    /// Sends every number back.
    struct Mirror(LinkDevice);

    const RESEND: Duration = Duration::from_millis(200);

    fn receive(device: &mut LinkDevice) -> Vec<LinkFrame> {
        let mut burst = Vec::with_capacity(4);
        device.receive(&mut burst);
        burst
    }

    impl Node for Sender {
        fn poll(&mut self, now: &Instant) {
            for frame in receive(&mut self.device) {
                if frame.bytes() == [self.next; 60] {
                    self.next += 1;
                    self.resend_at = *now;
                }
                self.device.release(frame);
            }
            if self.next <= self.last && self.resend_at <= *now {
                let mut frame = self.device.allocate().unwrap();
                frame.resize(60).fill(self.next);
                self.device.transmit(frame).unwrap();
                self.resend_at = *now + RESEND;
            }
        }

        fn next_deadline(&mut self) -> Option<Instant> {
            (self.next <= self.last).then_some(self.resend_at)
        }
    }

    impl Node for Mirror {
        fn poll(&mut self, _now: &Instant) {
            for frame in receive(&mut self.0) {
                self.0.transmit(frame).unwrap();
            }
        }

        fn next_deadline(&mut self) -> Option<Instant> {
            None
        }
    }

    fn bed(faults: Faults, seed: u64) -> (Sim, Sender, Mirror) {
        let path = PathConfig { delay: Duration::from_millis(10), faults, ..PathConfig::default() };
        let (link, a, b) = Link::pair(LinkConfig::symmetric(path), seed);
        let sender = Sender { device: a, next: 1, last: 100, resend_at: Instant::ZERO };
        (Sim::new(link, 10_000, Duration::from_secs(600)), sender, Mirror(b))
    }

    #[test]
    fn time_jumps_from_event_to_event() {
        let (mut sim, mut a, mut b) = bed(Faults::default(), 1);
        sim.run(&mut a, &mut b, |a, _| a.next > a.last).unwrap();
        assert_eq!(sim.now(), Instant::from_millis(100 * 20));
        assert_eq!(sim.steps(), 1 + 2 * 100);
    }

    #[test]
    fn lost_frames_cost_virtual_time_and_a_seed_gives_one_run() {
        let run = |seed| {
            let (mut sim, mut a, mut b) = bed(Faults::lossy(20), seed);
            sim.run(&mut a, &mut b, |a, _| a.next > a.last).unwrap();
            (sim.now(), sim.steps())
        };
        assert!(run(5).0 > Instant::from_millis(100 * 20) + 10 * RESEND);
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }

    #[test]
    fn what_never_ends_is_stopped_and_says_why() {
        let nothing_arrives = Faults { loss: Probability::ALWAYS, ..Faults::default() };
        let (mut sim, mut a, mut b) = bed(nothing_arrives, 1);
        let stuck = sim.run(&mut a, &mut b, |a, _| a.next > a.last).unwrap_err();
        assert_eq!(stuck, Stuck::TooLate { at: Instant::from_millis(600_200) });

        let (mut sim, mut a, mut b) = bed(Faults::default(), 1);
        let stuck = sim.run(&mut a, &mut b, |_, _| false).unwrap_err();
        assert_eq!(stuck, Stuck::Silent { at: Instant::from_millis(100 * 20) });
        assert!(stuck.to_string().contains("2000000 µs"));

        let (link, ..) = Link::pair(LinkConfig::default(), 1);
        let mut sim = Sim::new(link, 50, Duration::from_secs(1));
        struct Restless;
        impl Node for Restless {
            fn poll(&mut self, _now: &Instant) {}
            fn next_deadline(&mut self) -> Option<Instant> {
                Some(Instant::ZERO)
            }
        }
        let stuck = sim.run(&mut Restless, &mut Restless, |_, _| false).unwrap_err();
        assert_eq!(stuck, Stuck::TooManySteps { at: Instant::from_micros(49) });
    }
}
