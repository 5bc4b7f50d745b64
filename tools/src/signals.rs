//! Ctrl-C and SIGTERM: the first asks for a drain, the second for an end at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};
use crate::privilege;

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

    /// A flag that Ctrl-C, SIGTERM and SIGHUP raise, a step each time.
    ///
    /// # Errors
    /// Exit 1 if the handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let failed = |error: io::Error| Error::unexpected("cannot watch for signals", error);
        let flag = Self::new();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let raised = flag.clone();
        let watch = move || {
            // Waiting for a signal takes no privilege. Where it cannot be given up, the threads at work say so.
            let _ = privilege::give_up();
            signals.forever().for_each(|_| raised.escalate());
        };
        thread::Builder::new().name("signals".into()).spawn(watch).map_err(failed)?;
        Ok(flag)
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

    fn escalate(&self) {
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
