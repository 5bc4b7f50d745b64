//! What the benchmarks have in common: exchanges between two engines in one thread and in virtual time, and a device with
//! peers that do not exist.

pub mod exchange;
pub mod generated;
