//! Reports: the JSON form, its figures, conditions on them, what they are worth, and their reading by people.

pub mod blocks;
pub mod combine;
pub mod criteria;
pub mod csv;
pub mod diff;
pub mod html;
pub mod insight;
pub mod junit;
pub mod latency;
pub mod merge;
pub mod model;
pub mod placement;
pub mod schema;
pub mod series;
pub mod settings;
pub mod stats;
pub mod text;
pub mod threshold;
pub mod verdict;

pub use criteria::Criterion;
pub use model::{Report, SCHEMA, Verdict};
pub use threshold::Threshold;
