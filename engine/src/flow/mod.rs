//! Flows: from the addresses and ports of a segment to the record that holds its state.
//!
//! ```text
//!  FlowKey ──hash──▶ FlowTable ──(kind, handle)──▶ Slab   connections
//!                     8 octets a flow         ├──▶ Log    TIME-WAIT, one for each class
//!                                             └──▶ Slab or Log   SYN-RECEIVED
//! ```
//!
//! The table knows tags and handles only; the caller compares keys in its own records. Everything here has one writer
//! and grows only in `reserve` and `maintain`, between polls, by a bounded piece.

mod bucket;
pub mod key;
pub mod log;
pub mod slab;
pub mod table;

pub use key::{FlowKey, HashKey};
pub use log::Log;
pub use slab::Slab;
pub use table::{Candidate, FlowTable, Full, Home, Kind, Place};
