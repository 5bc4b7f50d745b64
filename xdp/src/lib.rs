//! The fence around AF_XDP: sockets, rings and buffers, the XDP program that feeds them, and what has to be known about
//! an interface before it can be used.
//!
//! [`Interface::open`] checks, locks and attaches; [`Interface::queue`] makes an [`XdpDevice`] per receive queue, which
//! is the engine's [`Device`](syncline_engine::device::Device). Nothing outlives the process: program, maps, sockets
//! and locks all hang on its file descriptors.
//!
//! Linux 5.15 is the oldest kernel this is made for: the program hangs on a `bpf_link` (5.9), its maps are charged to
//! the control group instead of `RLIMIT_MEMLOCK` (5.11). What came later is tried, and done without if it fails.
//!
//! Unsafe code lives in this crate, and not in the engine: one operation per block, with its proof above it.

mod chunks;
mod device;
mod error;
mod interface;
mod live;
mod lock;
pub mod netlink;
pub mod netns;
mod options;
pub mod pages;
mod program;
pub mod raw;
mod sys;

pub use chunks::XdpFrame;
pub use device::XdpDevice;
pub use error::OpenError;
pub use interface::{Interface, Mode};
pub use options::{AddressRange, Claim, ModeChoice, Options, TransmitChoice, ZerocopyChoice};
pub use program::ProgramCounters;
