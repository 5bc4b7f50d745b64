//! Two engines on a simulated link, in virtual time, from a seed.
//!
//! A seed decides everything: the link ([`plan`]), what goes wrong on it and when, which host starts again, and what
//! each end of each connection does ([`script`]). [`run`] plays it and checks after every step that nothing is broken:
//! octets in order and unchanged ([`side`]), windows kept ([`wire`]), engines consistent
//! ([`Worker::check_invariants`](syncline_engine::worker::Worker::check_invariants)), every connection ended and all
//! memory back when it is over. Same seed, same run: [`Outcome::digest`] covers every octet on the wire.

pub mod attack;
mod chance;
pub mod plan;
mod script;
mod side;
mod wire;
mod world;

pub use plan::{Plan, Size};
pub use world::{Failure, Outcome, run};
