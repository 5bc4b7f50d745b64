//! The wish to stop, shared by all threads of a run.

use crate::sync::{Arc, AtomicU8, Ordering};

/// How urgently a run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stop {
    /// Not at all.
    No = 0,
    /// Stop launching, close what is open, then report.
    Drain = 1,
    /// Report what there is, now.
    Now = 2,
}

/// The wish to stop, shared by all threads of a run.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicU8>);

impl StopFlag {
    /// A flag that nobody has raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// The present wish.
    pub fn get(&self) -> Stop {
        match self.0.load(Ordering::Relaxed) {
            0 => Stop::No,
            1 => Stop::Drain,
            _ => Stop::Now,
        }
    }

    /// Raises the wish to `stop`; never lowers it.
    pub fn raise(&self, stop: Stop) {
        self.0.fetch_max(stop as u8, Ordering::Relaxed);
    }

    /// Whether there is a wish to stop.
    pub fn is_raised(&self) -> bool {
        self.get() != Stop::No
    }

    /// Raises the wish by a step.
    pub(crate) fn escalate(&self) {
        let next = if self.get() == Stop::No { Stop::Drain } else { Stop::Now };
        self.raise(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_only_grows() {
        let flag = StopFlag::new();
        assert_eq!(flag.get(), Stop::No);
        flag.escalate();
        assert_eq!(flag.get(), Stop::Drain);
        flag.escalate();
        flag.raise(Stop::Drain);
        assert_eq!(flag.get(), Stop::Now);
    }
}
