//! The monotonic clock, as the engine takes it.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};
use syncline_engine::time::{Clock, Instant};

/// Time since an origin that all workers of a run share.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    /// What the system's clock said at the origin, nanoseconds.
    origin_ns: u64,
    wall_at_origin: SystemTime,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self { origin_ns: monotonic_ns(), wall_at_origin: SystemTime::now() }
    }

    /// The system's clock at the origin, whole milliseconds modulo 2³²: what timestamps go on from.
    pub fn origin_ms(&self) -> u32 {
        (self.origin_ns / 1_000_000) as u32
    }

    /// The wall clock at the origin.
    pub fn wall_at_origin(&self) -> SystemTime {
        self.wall_at_origin
    }
}

impl Clock for MonotonicClock {
    #[inline]
    fn now(&self) -> Instant {
        Instant::from_nanos(monotonic_ns() - self.origin_ns)
    }

    #[inline]
    fn at(&self, nanos: u64) -> Option<Instant> {
        nanos.checked_sub(self.origin_ns).map(Instant::from_nanos)
    }
}

/// CLOCK_MONOTONIC, which whoever stamps frames in the kernel reads as well.
#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
