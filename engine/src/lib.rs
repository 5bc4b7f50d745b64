//! Syncline's engine: TCP without I/O.
//!
//! The engine owns no socket, reads no clock and starts no thread. A [`Worker`](worker::Worker) is handed a
//! [`Device`](device::Device) that carries bursts of frames, an [`App`](app::App) that is called inline, and the time;
//! everything between the two is here. Read [`worker`] first: it is the only loop, in the order a frame meets it.
//!
//! Terms are those of RFC 9293 (`SND.UNA` is `snd_una`, and so on).
#![deny(unsafe_code)]

pub mod app;
pub mod config;
mod control;
pub mod device;
pub mod flow;
pub mod handover;
pub mod neighbor;
pub mod page;
pub mod prefetch;
mod reassembly;
pub mod schedule;
pub mod stats;
mod sync;
pub mod tcp;
pub mod time;
pub mod timer_wheel;
pub mod wire;
pub mod worker;
