//! The servers: what listens on a worker.
//!
//! [`Server`] is the one [`App`](syncline_engine::app::App) of a serving worker; it hands each connection to the
//! application of the listener that it came in on. Connections have no memory here but their 64-bit word, unless they
//! are in the midst of an HTTP request that does not fit one segment or asks for a reply of its own.

mod chargen;
mod daytime;
mod delay;
pub(crate) mod http;
pub mod payload;
mod server;
pub(crate) mod slab;

pub use delay::Delay;
pub use server::{LISTENERS_MAX, RESPONSE_MAX, ServeApp, ServeError, Server, ServerCounters};
