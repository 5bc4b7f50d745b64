//! Reports: the JSON form, its figures, conditions on them, what they are worth, and their reading by people.

pub mod blocks;
pub mod criteria;
pub mod latency;
pub mod model;
pub mod text;
pub mod threshold;
pub mod verdict;

pub use criteria::Criterion;
pub use model::{Report, SCHEMA, Verdict};
pub use threshold::Threshold;
