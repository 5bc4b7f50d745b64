//! Syncline's tools: the load tester, the servers and everything around them.
//!
//! A command reads its settings ([`units`], [`net`]), opens devices, drives one worker per core, adds up what the
//! workers measured ([`measure`]) and says what it is worth ([`report`]).
#![forbid(unsafe_code)]

pub mod apps;
pub mod bed;
pub mod cli;
pub mod command;
pub mod commands;
pub mod doctor;
pub mod error;
pub mod flood;
pub mod host;
pub mod live;
pub mod load;
pub mod measure;
pub mod metrics;
pub mod net;
pub mod netns;
pub mod privilege;
pub mod report;
pub mod run;
pub mod say;
pub mod setup;
pub mod signals;
mod sync;
pub mod target;
pub mod trace;
pub mod units;
pub mod watch;

pub use error::{Error, Exit, Result};
