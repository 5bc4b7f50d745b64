//! What several threads share, walked through every order of their steps by [loom](https://docs.rs/loom).
//!
//! The sources under test are those of the engine and the tools, taken in here once more: they name what they share with
//! others through their crate's `sync`, and here that is loom's. So it needs no flag for the whole build, and the models
//! run with all other tests.
//!
//! | structure | file | model |
//! |---|---|---|
//! | counters and levels of a worker | `engine/src/stats.rs` | [`model::counters`] |
//! | frames from worker to worker | `engine/src/handover.rs` | [`model::parcels`], [`model::parcels_run_out`] |
//! | bursts between the ends of a ring | `engine/src/device/ring.rs` | [`model::ring`], [`model::ring_end_is_missed`] |
//! | start, stop and end of a run | `tools/src/load/snapshot.rs` | [`model::start_of_a_run`], [`model::end_of_a_run`] |
//! | snapshots of a worker | `tools/src/load/snapshot.rs` | [`model::snapshots`] |
//! | the wish to stop | `tools/src/signals/flag.rs` | [`model::stop`] |
//!
//! Taken at their word, and so not walked through: crossbeam's `ArrayQueue`, in whose place stands [`sync::ArrayQueue`], a
//! queue behind a lock, and the locks of the standard library (free pages in `engine/src/page.rs`, sockets in
//! `xdp/src/program.rs`). Keys of SYN cookies are not shared: each worker derives them from the same secret and the time.

#![allow(dead_code, unreachable_pub, reason = "of the sources that are taken in a model needs a part")]

pub mod model;
pub mod sync;

#[path = "../../../tools/src/signals/flag.rs"]
mod flag;
#[path = "../../../engine/src/handover.rs"]
mod handover;
#[path = "../../../engine/src/prefetch.rs"]
mod prefetch;
#[path = "../../../engine/src/device/ring.rs"]
mod ring;
#[path = "../../../tools/src/load/snapshot.rs"]
mod snapshot;
#[path = "../../../engine/src/stats.rs"]
mod stats;

// By the names that the sources have for them.
use syncline_engine::device::{BURST, Capabilities, Device, DeviceCounters, DeviceError, Frame};
use syncline_engine::{device, flow, wire};

/// What a snapshot carries, without its histograms: loom makes them anew for every order of steps.
mod measure {
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Tally {
        pub attempted: u64,
    }

    #[derive(Debug, Default)]
    pub struct Measures {
        pub tally: Tally,
    }

    impl Measures {
        pub fn clear(&mut self) {
            *self = Self::default();
        }

        /// There are no times that could have been put off.
        pub fn settle(&mut self) {}
    }
}
