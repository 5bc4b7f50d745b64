//! What the machine itself makes of a second core, and how long it pauses a thread that does nothing but count: the
//! engine's own figures can be no better.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use serde::Serialize;

/// Rounds between two looks at the clock: some microseconds.
const ROUNDS: u64 = 2_048;
/// Numbers that do not wait for each other: enough to keep the multipliers of a core busy, so that two threads on one
/// core show.
const LANES: usize = 8;
/// Words that random reads go to: 128 MiB, more than caches hold.
const WORDS: usize = 1 << 24;

/// Words that are watched for pauses: 512 MiB.
const WATCHED_WORDS: usize = 1 << 26;

/// Several threads beside one, each on a core of its own.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Control {
    /// Arithmetic in registers: what all threads did a second, over what one did alone.
    pub arithmetic_ratio: f64,
    /// Random reads of main memory, likewise.
    pub memory_ratio: f64,
}

/// What held up a thread that did nothing but read and write memory, all of which it had written before: on a virtual
/// machine the host may make it wait, and nothing in the machine tells.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pauses {
    /// How long it was watched, seconds.
    pub seconds: f64,
    /// The longest that a batch of some microseconds took, microseconds.
    pub longest_us: f64,
    /// Batches that took 100 µs and more.
    pub over_100_us: u64,
    /// Batches that took 1 ms and more.
    pub over_1_ms: u64,
}

impl Pauses {
    /// Watches this thread for `duration`; `now` is the clock that is looked at, in nanoseconds.
    pub fn watch(duration: Duration, now: impl Fn() -> u64) -> Self {
        let watched = if duration.is_zero() { 1 } else { WATCHED_WORDS };
        let mut words: Vec<u64> = (0..watched as u64).map(step).collect();
        let began = Instant::now();
        let mut lanes: [u64; LANES] = core::array::from_fn(|lane| lane as u64 + 1);
        let mut pauses = Self { seconds: duration.as_secs_f64(), longest_us: 0.0, over_100_us: 0, over_1_ms: 0 };
        let mut before = now();
        while began.elapsed() < duration {
            for _ in 0..ROUNDS / 64 {
                lanes = lanes.map(|lane| {
                    let word = &mut words[lane as usize % watched];
                    *word = step(lane ^ *word);
                    *word
                });
            }
            black_box(lanes);
            let after = now();
            let took_us = (after - before) as f64 / 1e3;
            pauses.longest_us = pauses.longest_us.max(took_us);
            pauses.over_100_us += u64::from(took_us >= 100.0);
            pauses.over_1_ms += u64::from(took_us >= 1_000.0);
            before = after;
        }
        pauses
    }
}

impl Control {
    /// Measures for `each` four times.
    pub fn measure(threads: usize, each: Duration) -> Self {
        let ratio = |work: fn(Duration, &Barrier) -> f64| together(threads, each, work) / together(1, each, work);
        Self { arithmetic_ratio: ratio(arithmetic), memory_ratio: ratio(memory) }
    }
}

/// Rounds a second of `threads` threads on the first cores.
fn together(threads: usize, each: Duration, work: fn(Duration, &Barrier) -> f64) -> f64 {
    let start = &Barrier::new(threads);
    thread::scope(|scope| {
        let run = |id| {
            scope.spawn(move || {
                core_affinity::set_for_current(CoreId { id });
                work(each, start)
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("plain arithmetic does not panic")).sum()
    })
}

/// Repeats `batch` for `each`; batches a second.
fn repeat(each: Duration, start: &Barrier, mut batch: impl FnMut()) -> f64 {
    start.wait();
    let began = Instant::now();
    let mut batches = 0u64;
    while began.elapsed() < each {
        batch();
        batches += 1;
    }
    batches as f64 / began.elapsed().as_secs_f64()
}

fn step(x: u64) -> u64 {
    (x ^ x >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn arithmetic(each: Duration, start: &Barrier) -> f64 {
    let mut lanes: [u64; LANES] = core::array::from_fn(|lane| lane as u64 + 1);
    repeat(each, start, || {
        for _ in 0..ROUNDS {
            lanes = lanes.map(step);
        }
        black_box(lanes);
    })
}

fn memory(each: Duration, start: &Barrier) -> f64 {
    let words: Vec<u64> = (0..WORDS as u64).map(step).collect();
    let mut lanes: [u64; LANES] = core::array::from_fn(|lane| lane as u64 + 1);
    repeat(each, start, || {
        for _ in 0..ROUNDS / 64 {
            lanes = lanes.map(|lane| step(lane ^ words[lane as usize % WORDS]));
        }
        black_box(lanes);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_seen() {
        // A clock that goes on by 10 µs each time, and jumps once
        let looks = std::cell::Cell::new(0u64);
        let pauses = Pauses::watch(Duration::from_millis(50), || {
            looks.set(looks.get() + 1);
            looks.get() * 10_000 + if looks.get() > 2 { 3_000_000 } else { 0 }
        });
        assert!(pauses.longest_us == 3_010.0 && pauses.over_1_ms == 1 && pauses.over_100_us == 1, "{pauses:?}");
    }

    #[test]
    fn one_thread_is_as_fast_as_itself() {
        let control = Control::measure(1, Duration::from_millis(100));
        for ratio in [control.arithmetic_ratio, control.memory_ratio] {
            assert!((0.2..5.0).contains(&ratio), "{control:?}");
        }
    }
}
