//! Driving workers: a thread per worker, pinned to its core, and what it tells about itself while it runs.

pub mod clock;
pub mod drive;
pub mod gauges;
pub mod wait;

pub use clock::MonotonicClock;
pub use drive::{Crew, Lane, Outcome};
pub use gauges::{Gauges, Reading};
pub use wait::Waitable;
