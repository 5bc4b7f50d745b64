//! The engine as a shared library that packetdrill loads with `--so_filename`: scripts written for Linux' TCP run
//! against ours.
//!
//! ```text
//!  packetdrill ──socket calls──▶ Stack ──▶ Sockets (an App) ─┐
//!      │                                                     ├─ Worker, under one lock
//!      └──netdev_send / _receive──▶ Stack ──▶ Tap (a Device) ┘
//! ```
//!
//! Whoever calls drives the worker himself, under the lock; a thread of the library does so when a timer is due. Calls
//! that must wait do it on a condition variable: packetdrill looks into `/proc` to see that they sleep.
#![deny(unsafe_code)]

pub mod address;
mod calls;
mod device;
#[allow(unsafe_code)]
pub mod ffi;
mod options;
mod settings;
mod socket;
mod stack;

pub use calls::{How, Message};
pub use settings::Settings;
pub use stack::Stack;
