//! Due times in microseconds and less: pacing and launches.
//!
//! The [timer wheel](crate::timer_wheel) ticks in milliseconds, which is right for timeouts and far too coarse for the
//! gap between two paced segments or two launches.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;

/// The schedule holds as many entries as it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleFull;

/// A queue of `u32` identities by due time, of fixed capacity; allocates only when created.
///
/// Entries due at the same time come out in the order they went in. An entry cannot be withdrawn: who changes its mind
/// ignores the identity when it comes.
#[derive(Debug)]
pub struct Schedule {
    heap: BinaryHeap<Reverse<Entry>>,
    capacity: usize,
    pushed: u32,
}

/// Ordered by due time, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due: Instant,
    order: u32,
    id: u32,
}

const _: () = assert!(size_of::<Entry>() == 16);

impl Schedule {
    /// A schedule for up to `capacity` entries of 16 octets.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { heap: BinaryHeap::with_capacity(capacity), capacity, pushed: 0 }
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Lets `id` become due at `due`. The same identity may wait more than once.
    ///
    /// # Errors
    /// [`ScheduleFull`] if `capacity` entries wait.
    pub fn push(&mut self, due: Instant, id: u32) -> Result<(), ScheduleFull> {
        if self.heap.len() == self.capacity {
            return Err(ScheduleFull);
        }
        self.heap.push(Reverse(Entry { due, order: self.pushed, id }));
        self.pushed = self.pushed.wrapping_add(1);
        Ok(())
    }

    /// When the next entry is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.0.due)
    }

    /// Takes the earliest entry that is due by `now`, with the time it was due: what lateness is measured from.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Instant, u32)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.due, entry.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::table::tests::Random;

    #[test]
    fn entries_come_out_by_time_then_arrival() {
        let mut random = Random(3);
        let mut schedule = Schedule::with_capacity(1_000);
        let mut expected: Vec<(Instant, u32)> =
            (0..1_000).map(|id| (Instant::from_micros(random.below(200)), id)).collect();
        for &(due, id) in &expected {
            schedule.push(due, id).unwrap();
        }
        assert_eq!(schedule.push(Instant::ZERO, 0), Err(ScheduleFull));
        expected.sort();
        assert_eq!(schedule.next(), Some(expected[0].0));

        let mut popped = Vec::new();
        for micros in 0..200 {
            while let Some((due, id)) = schedule.pop_due(Instant::from_micros(micros)) {
                assert_eq!(due, Instant::from_micros(micros));
                popped.push((due, id));
            }
        }
        assert_eq!(popped, expected);
        assert!(schedule.is_empty() && schedule.next().is_none());
    }

    #[test]
    fn nothing_is_due_early() {
        let mut schedule = Schedule::with_capacity(1);
        schedule.push(Instant::from_nanos(1_500), 9).unwrap();
        assert_eq!(schedule.pop_due(Instant::from_nanos(1_499)), None);
        assert_eq!(schedule.pop_due(Instant::from_nanos(1_500)), Some((Instant::from_nanos(1_500), 9)));
    }

    #[test]
    fn a_full_cycle_allocates_nothing() {
        let mut schedule = Schedule::with_capacity(100);
        let capacity = schedule.heap.capacity();
        for round in 0..1_000u64 {
            while schedule.push(Instant::from_micros(round), 1).is_ok() {}
            while schedule.pop_due(Instant::from_micros(round)).is_some() {}
        }
        assert_eq!(schedule.heap.capacity(), capacity);
    }
}
