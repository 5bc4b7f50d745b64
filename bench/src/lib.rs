//! What the benchmarks have in common: exchanges between two engines in one thread and in virtual time, a device with
//! peers that do not exist, and what the machine does by itself.

pub mod control;
pub mod exchange;
pub mod generated;
