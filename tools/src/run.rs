//! Driving workers: a thread per worker, pinned to its core, and what it tells about itself while it runs.

pub mod aside;
pub mod clock;
pub mod collect;
pub mod drive;
pub mod gauges;
pub mod lanes;
pub mod wait;

pub use clock::MonotonicClock;
pub use collect::Collector;
pub use drive::{Crew, Idling, Lane, Member, Outcome};
pub use gauges::{Gauges, Reading};
pub use wait::Waitable;
