//! What threads share, by one name, so that `tests/loom` can put its own in the place of each and walk through every order
//! of their steps.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, OnceLock};

pub(crate) use crossbeam::queue::ArrayQueue;
