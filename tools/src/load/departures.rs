//! When what is timed leaves.
//!
//! A pass of the loop has one time, read when its burst was received. What it launches or asks for goes to the device at its
//! end: some microseconds later, more where caches are cold, and none of them the target's. So the clock is read once more
//! there, and the difference is kept for the stamp that all of the pass have in common.

use syncline_engine::time::Instant;

/// Stamps remembered; a later one may take the place of one before. What is forgotten counts from the beginning of its pass.
const SLOTS: usize = 4_096;

/// Frames of a pass at most for which this is done. More may go to the device in several parts, the first before the end.
const FRAMES_MAX: u64 = 16;

#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    stamp: u32,
    delay: u32,
}

/// What passed between a stamp and the leaving of what was stamped.
#[derive(Debug)]
pub(super) struct Departures {
    passes: Box<[Pass; SLOTS]>,
    /// The stamp of what this pass has to time.
    timed: Option<u32>,
}

impl Departures {
    pub(super) fn new() -> Self {
        Self { passes: Box::new([Pass::default(); SLOTS]), timed: None }
    }

    fn slot(stamp: u32) -> usize {
        (stamp.wrapping_mul(0x9e37_79b1) >> 20) as usize % SLOTS
    }

    /// Something stamped `stamp` leaves with this pass.
    #[inline]
    pub(super) fn expect(&mut self, stamp: u32) {
        self.timed = Some(stamp);
    }

    /// `frames` leave with a pass; the clock is read only if something is timed.
    #[inline]
    pub(super) fn leave(&mut self, frames: u64, now: impl FnOnce() -> Instant) {
        let Some(stamp) = self.timed.take() else { return };
        if (1..=FRAMES_MAX).contains(&frames) {
            let delay = (now().micros() as u32).wrapping_sub(stamp);
            self.passes[Self::slot(stamp)] = Pass { stamp, delay };
        }
    }

    /// Microseconds from `stamp` until what was stamped left.
    #[inline]
    pub(super) fn delay(&self, stamp: u32) -> u32 {
        let pass = self.passes[Self::slot(stamp)];
        if pass.stamp == stamp { pass.delay } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_late_is_known_by_its_stamp() {
        let mut departures = Departures::new();
        departures.leave(1, || panic!("nothing is timed"));
        departures.expect(1_000);
        departures.leave(2, || Instant::from_micros(1_007));
        departures.expect(2_000);
        departures.leave(FRAMES_MAX + 1, || panic!("too many"));
        departures.leave(1, || panic!("nothing more is timed"));
        departures.expect(3_000);
        departures.leave(0, || panic!("it did not leave"));
        assert_eq!([1_000, 2_000, 3_000].map(|stamp| departures.delay(stamp)), [7, 0, 0]);
        // Stamps are modulo 2³².
        departures.expect(u32::MAX);
        departures.leave(1, || Instant::from_micros(u64::from(u32::MAX) + 4));
        assert_eq!(departures.delay(u32::MAX), 4);
    }
}
