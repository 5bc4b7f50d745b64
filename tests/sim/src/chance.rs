//! Decisions from a seed.

use core::time::Duration;

use syncline_engine::device::fault::SplitMix64;

/// A stream of decisions.
pub(crate) struct Chance(SplitMix64);

impl Chance {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(SplitMix64::new(seed, stream))
    }

    /// True `percent` times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.0.below(100) < percent
    }

    /// A number from `low` to `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high.saturating_sub(low) + 1)
    }

    /// A number from `low` to `high`, each order of magnitude as likely as the next. `low` is at least 1.
    pub(crate) fn scale(&mut self, low: u64, high: u64) -> u64 {
        let octaves = (high / low.max(1)).max(1).ilog2() as u64;
        let floor = low << self.0.below(octaves + 1);
        self.between(floor, (2 * floor).min(high).max(floor))
    }

    /// As [`scale`](Self::scale), in microseconds.
    pub(crate) fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.scale(low, high))
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.0.below(among.len() as u64) as usize]
    }
}
