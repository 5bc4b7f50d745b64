//! The view of a run while it runs: what a terminal shows.
//!
//! [`Model`] is fed with the intervals of the report, a second each, and knows nothing of terminals; [`draw`] puts it
//! into a frame of any size; [`Screen`] is the terminal, from when it is taken until it is given back.

mod chart;
mod draw;
mod model;
mod screen;
mod theme;

pub use draw::draw;
pub use model::{Facts, Model, Pace, Point, SoFar};
pub use screen::{Key, Screen};
pub use theme::Theme;
