//! Waiting for a device when there is nothing to do.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use syncline_engine::app::Endpoints;
use syncline_engine::device::Device;
use syncline_engine::tcp::State;

/// A device that may be able to wake whoever waits for it.
pub trait Waitable: Device {
    /// What becomes readable when a frame has arrived; `None` if the device cannot tell.
    fn readable(&self) -> Option<BorrowedFd<'_>>;

    /// The connections whose state whoever stands around the device wants to know, asked after each pass.
    #[inline]
    fn asks_for_states(&mut self) -> &[Endpoints] {
        &[]
    }

    /// The state of connection `number` of those.
    fn tell_state(&mut self, number: usize, state: State) {
        let _ = (number, state);
    }

    /// Sleeps until a frame arrives or `timeout` has passed, whichever is first. May return early.
    fn wait(&self, timeout: Duration) {
        match self.readable() {
            Some(fd) => {
                let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
                // An error is a signal, or a socket that is gone: the first is a reason to look around, and the
                // second is found by the device's health.
                let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
            }
            None => thread::sleep(timeout.min(BLIND_SLEEP)),
        }
    }
}

/// How long to sleep when nothing can wake us: what a frame may wait at most.
const BLIND_SLEEP: Duration = Duration::from_micros(100);

impl Waitable for syncline_xdp::XdpDevice {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Waitable for syncline_engine::device::ring::RingDevice {
    fn readable(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
