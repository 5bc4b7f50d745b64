//! What the sources under test share between threads, by loom.

use std::collections::VecDeque;

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
pub(crate) use loom::sync::{Arc, Mutex};
/// Set at once or not at all: there is no step within for another thread to come between.
pub(crate) use std::sync::OnceLock;

/// What crossbeam's bounded queue promises: values come out in the order they went in, each once.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    values: Mutex<VecDeque<T>>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    /// A queue for `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self { values: Mutex::new(VecDeque::with_capacity(capacity)), capacity }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value, if there is no room.
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut values = self.values();
        if values.len() == self.capacity {
            return Err(value);
        }
        values.push_back(value);
        Ok(())
    }

    /// The oldest value.
    pub fn pop(&self) -> Option<T> {
        self.values().pop_front()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room for another.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    fn values(&self) -> loom::sync::MutexGuard<'_, VecDeque<T>> {
        self.values.lock().expect("no thread panics with the lock held")
    }
}
