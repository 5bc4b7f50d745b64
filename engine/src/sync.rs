//! What threads share, by one name, so that `tests/loom` can put its own in the place of each and walk through every order
//! of their steps.

pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::Arc;

pub(crate) use crossbeam::queue::ArrayQueue;
