//! The monotonic clock, as the engine takes it.

use std::time::{Instant as SystemInstant, SystemTime};

use syncline_engine::time::{Clock, Instant};

/// Time since an origin that all workers of a run share.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: SystemInstant,
    wall_at_origin: SystemTime,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self { origin: SystemInstant::now(), wall_at_origin: SystemTime::now() }
    }

    /// The wall clock at the origin.
    pub fn wall_at_origin(&self) -> SystemTime {
        self.wall_at_origin
    }
}

impl Clock for MonotonicClock {
    #[inline]
    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }
}
