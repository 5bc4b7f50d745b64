//! What happened on the wire, connection by connection: every segment as an arrow between two columns, with the states
//! of RFC 9293 that both sides were in after it.
//!
//! ```text
//! octets of a file ─▶ capture ─▶ decode ─▶ flows ─▶ follow ─▶ ladder (text) or JSON
//! ```
//!
//! The states follow from what the wire shows, by the engine's own table
//! ([`State::after`](syncline_engine::tcp::State::after)). A capture is taken at one place: whether a segment arrived at
//! the other end is told by what that end said next, see [`follow`].

pub mod capture;
pub mod decode;
pub mod flows;
pub mod follow;
pub mod ladder;

use serde::Serialize;

pub use decode::{Decoded, Segment};
pub use flows::{Connection, FlowFilter, Flows};
pub use follow::{Row, follow};

/// The value of [`Trace::schema`].
pub const SCHEMA: &str = "syncline.trace/1";

/// Everything found in a capture.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The file, or the run, that it was found in.
    pub source: String,
    /// Frames read.
    pub frames: u64,
    /// Frames without a TCP segment that could be followed, by reason.
    pub skipped: decode::Skipped,
    /// What is wrong with the file, if anything; what came before it is here.
    pub damage: Option<String>,
    /// The connections asked for, in the order of their first segments.
    pub connections: Vec<Ladder>,
    /// Connections that were seen beyond those.
    pub connections_left_out: u64,
}

/// A connection and all that passed between its ends.
#[derive(Clone, Debug, Serialize)]
pub struct Ladder {
    /// Who opened it, if that was captured; else who spoke first.
    pub left: String,
    /// The other end.
    pub right: String,
    /// Unix time of the first segment, nanoseconds.
    pub began_ns: u64,
    /// How it stands at the end of the capture.
    pub outcome: &'static str,
    /// Which side's states are the engine's own, as it had them after the pass that a segment belongs to.
    pub engine_side: Option<follow::Side>,
    /// The segments.
    pub rows: Vec<Row>,
    /// Segments beyond those that are kept of one connection.
    pub segments_left_out: u64,
}

impl Ladder {
    /// What became of `connection`.
    pub fn of(connection: &Connection) -> Self {
        let (rows, outcome) = follow(connection);
        Self {
            left: connection.left.to_string(),
            right: connection.right.to_string(),
            began_ns: connection.segments.first().map_or(0, |first| first.at_ns),
            outcome,
            engine_side: None,
            rows,
            segments_left_out: connection.left_out,
        }
    }
}

/// Reads a capture of at most `connections_max` connections that `filter` lets through.
///
/// # Errors
/// What keeps it from being read at all. A file that is damaged further on is no error: see [`Trace::damage`].
pub fn read(
    source: &str,
    file: impl std::io::Read + Send,
    filter: Option<FlowFilter>,
    connections_max: usize,
) -> Result<Trace, capture::CaptureError> {
    let mut flows = Flows::new(filter, connections_max);
    let mut skipped = decode::Skipped::default();
    let mut frames = 0;
    let damage = capture::read(file, |packet| {
        frames += 1;
        match decode::decode(packet) {
            Ok(segment) => flows.add(&segment),
            Err(why) => skipped.count(why),
        }
    })?;
    Ok(Trace {
        schema: SCHEMA,
        source: source.to_owned(),
        frames,
        skipped,
        damage,
        connections: flows.connections().iter().map(Ladder::of).collect(),
        connections_left_out: flows.left_out(),
    })
}
