//! Points in time, handed to the engine from outside.
//!
//! The engine never reads a clock. Whoever drives it implements [`Clock`] over the monotonic clock, or over a
//! counter in a simulation.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point in time: nanoseconds since an origin that the driver chooses. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros * 1_000)
    }

    /// `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds since the origin.
    pub const fn micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole milliseconds since the origin, modulo 2³²: the unit of the timer wheel and of the timestamp option.
    /// Compare two of them with wrapping arithmetic.
    pub const fn millis32(self) -> u32 {
        (self.0 / 1_000_000) as u32
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs.as_nanos() as u64))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(rhs.as_nanos() as u64))
    }
}

/// Where the driver's time comes from. Called once per burst, after it has been dequeued, so that round-trip times
/// are taken at arrival, or near it: a frame may carry a [`stamp`](crate::device::Frame::stamp) of its own.
pub trait Clock {
    /// The present time.
    fn now(&self) -> Instant;

    /// When the system's monotonic clock said `nanos`; `None` if this clock does not go by that one.
    #[inline]
    fn at(&self, nanos: u64) -> Option<Instant> {
        let _ = nanos;
        None
    }
}

/// A clock that stands still: the time of one step of a simulation.
impl Clock for Instant {
    fn now(&self) -> Instant {
        *self
    }
}
