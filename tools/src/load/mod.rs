//! The load generator: the client's side of the connections, as an application on a worker.
//!
//! A [`Plan`] says what to do, the same for all workers; a [`Client`] is one worker's part in it. The workers agree on
//! a start through a [`Control`] and hand what they measure, once a second, to whoever drives them.
//!
//! **The schedule never waits.** With a rate, launches are due at times that follow from the start alone; a launch
//! that is late is made late, and its latency counts from when it was due.
//!
//! **A connection needs no memory here** beyond its 64-bit word, unless an answer arrives in pieces or it has many
//! requests to make. Deadlines are kept in bounded queues, not in timers.
//!
//! **What all connections do alike is decided once**, from the plan: exchanges of one message and an answer in one piece go
//! in brief (`brief.rs`), and leave that for the long way where one turns out otherwise.
//!
//! **Where a connection is counted.** In the phase that it was launched in, with all that becomes of it, so that what
//! was attempted is what completed, failed or is still open. Connections that stay (`hold`, `rr`, `bulk`) are counted
//! under sustain even if a ramp opened them: they are what sustain is about. Requests count where their connection
//! does.

mod answer;
mod brief;
mod client;
mod deadlines;
mod departures;
mod drain;
mod exchange;
mod launch;
mod plan;
mod response;
mod schedule;
mod session;
mod snapshot;
mod supply;
mod template;
mod tokens;
mod turns;

pub use client::Client;
pub use plan::{
    Checks, Close, Exchange, FirstCloser, Flow, HttpRequest, Load, Plan, PlanError, Profile, Response, Site,
};
pub use schedule::{Arrivals, Schedule, Shape};
pub use snapshot::{Control, EngineCounts, Mailbox, Phase, Snapshot, Transfer};
pub use supply::{Shortage, Supply};
