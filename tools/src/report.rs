//! Reports: the JSON form, its figures, conditions on them, what they are worth, and their reading by people.

pub mod blocks;
pub mod latency;
pub mod model;
pub mod text;
pub mod threshold;
pub mod verdict;

pub use model::{Report, SCHEMA, Verdict};
pub use threshold::Threshold;
