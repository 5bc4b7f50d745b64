//! Ctrl-C and SIGTERM: the first asks for a drain, the second for an end at once.

mod flag;

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};
use crate::privilege;

pub use flag::{Stop, StopFlag};

impl StopFlag {
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
}
