//! What the benchmarks have in common: exchanges between two engines in one thread and in virtual time.

pub mod exchange;
