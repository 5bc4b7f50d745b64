//! Segments sorted by connection, within bounds.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::str::FromStr;

use syncline_engine::wire::{Flags, Seq, TcpOptions};

use super::decode::Segment;

/// Segments of one connection that are kept.
const SEGMENTS_MAX: usize = 100_000;

/// Connections beyond those asked for that are told apart; more are counted at most as this many.
const OTHERS_MAX: usize = 1 << 20;

/// The two ends whose connections are wanted: `10.0.0.1:40000-10.0.0.2:80`, in either order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFilter(SocketAddr, SocketAddr);

impl FromStr for FlowFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (a, b) = text.split_once('-').ok_or("write for example 10.0.0.1:40000-10.0.0.2:80")?;
        let end = |text: &str| text.parse().map_err(|_| format!("`{text}` is no address with a port"));
        Ok(Self(end(a)?, end(b)?))
    }
}

impl FlowFilter {
    fn lets(self, segment: &Segment) -> bool {
        (segment.from, segment.to) == (self.0, self.1) || (segment.from, segment.to) == (self.1, self.0)
    }
}

/// A segment of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Unix time, nanoseconds.
    pub at_ns: u64,
    /// Whether the left end sent it.
    pub from_left: bool,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as it is in the header.
    pub window: u16,
    /// Octets of text.
    pub len: u32,
    /// The options.
    pub options: TcpOptions,
}

impl Passed {
    /// The sequence number after the last octet of text or FIN.
    pub fn end(&self) -> Seq {
        self.seq + self.len.wrapping_add(self.flags.seq_len())
    }

    /// Whether it is a SYN that answers nothing.
    pub fn is_bare_syn(&self) -> bool {
        self.flags.syn() && !self.flags.ack() && !self.flags.rst()
    }
}

/// A connection and its segments.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who opened it, if that was captured; else who spoke first.
    pub left: SocketAddr,
    /// The other end.
    pub right: SocketAddr,
    /// The segments, in the order of the capture.
    pub segments: Vec<Passed>,
    /// Segments beyond those that are kept.
    pub left_out: u64,
    iss: [Option<Seq>; 2],
    spoke: [bool; 2],
    fin: [bool; 2],
    reset: bool,
}

impl Connection {
    /// A connection of which nothing has passed yet.
    pub fn new(left: SocketAddr, right: SocketAddr) -> Self {
        let (iss, spoke, fin) = ([None; 2], [false; 2], [false; 2]);
        Self { left, right, segments: Vec::new(), left_out: 0, iss, spoke, fin, reset: false }
    }

    /// Whether a SYN of `segment` begins another connection between the same ends: this one is over, or nobody answered.
    pub fn gives_way_to(&self, segment: &Segment) -> bool {
        let side = usize::from(segment.from != self.left);
        let bare = segment.flags.syn() && !segment.flags.ack();
        let over = self.reset || self.fin == [true; 2] || !self.spoke[1 - side] && self.iss[side].is_some();
        bare && over && self.iss[side] != Some(segment.seq)
    }

    /// Adds a segment between the two ends.
    pub fn push(&mut self, segment: &Segment) {
        let from_left = segment.from == self.left;
        let side = usize::from(!from_left);
        self.spoke[side] = true;
        self.fin[side] |= segment.flags.fin();
        self.reset |= segment.flags.rst();
        if segment.flags.syn() {
            self.iss[side] = Some(segment.seq);
        }
        if self.segments.len() == SEGMENTS_MAX {
            self.left_out += 1;
            return;
        }
        let Segment { at_ns, seq, ack, flags, window, len, options, .. } = *segment;
        self.segments.push(Passed { at_ns, from_left, seq, ack, flags, window, len, options });
    }
}

type Ends = (SocketAddr, SocketAddr);

/// The connections of a capture.
#[derive(Debug, Default)]
pub struct Flows {
    filter: Option<FlowFilter>,
    connections_max: usize,
    connections: Vec<Connection>,
    /// The last connection between two ends.
    last: HashMap<Ends, usize>,
    others: HashSet<Ends>,
}

impl Flows {
    /// No connections yet; at most `connections_max` of those that `filter` lets through will be kept.
    pub fn new(filter: Option<FlowFilter>, connections_max: usize) -> Self {
        Self { filter, connections_max, ..Self::default() }
    }

    /// Adds a segment to its connection.
    pub fn add(&mut self, segment: &Segment) {
        if self.filter.is_some_and(|filter| !filter.lets(segment)) {
            return;
        }
        let ends = if segment.from <= segment.to { (segment.from, segment.to) } else { (segment.to, segment.from) };
        if let Some(&index) = self.last.get(&ends)
            && !self.connections[index].gives_way_to(segment)
        {
            return self.connections[index].push(segment);
        }
        if self.connections.len() >= self.connections_max {
            if self.others.len() < OTHERS_MAX {
                self.others.insert(ends);
            }
            return;
        }
        // A SYN+ACK answers somebody.
        let answers = segment.flags.contains(Flags::SYN_ACK);
        let (left, right) = if answers { (segment.to, segment.from) } else { (segment.from, segment.to) };
        let mut connection = Connection::new(left, right);
        connection.push(segment);
        self.last.insert(ends, self.connections.len());
        self.connections.push(connection);
    }

    /// The connections kept, in the order of their first segments.
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// Pairs of ends with connections that are not kept.
    pub fn left_out(&self) -> u64 {
        self.others.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(from: u16, to: u16, flags: Flags, seq: u32) -> Segment {
        let end = |port| SocketAddr::from(([10, 0, 0, 1], port));
        Segment {
            at_ns: 0,
            from: end(from),
            to: end(to),
            seq: Seq(seq),
            ack: Seq(0),
            flags,
            window: 0,
            len: 0,
            options: TcpOptions::NONE,
        }
    }

    #[test]
    fn a_port_used_again_is_another_connection() {
        let mut flows = Flows::new(None, 10);
        flows.add(&segment(1, 2, Flags::SYN, 5));
        flows.add(&segment(1, 2, Flags::SYN, 5));
        flows.add(&segment(2, 1, Flags::SYN_ACK, 9));
        flows.add(&segment(1, 2, Flags::FIN_ACK, 6));
        // An open connection is not replaced: its peer has begun anew.
        flows.add(&segment(1, 2, Flags::SYN, 77));
        flows.add(&segment(2, 1, Flags::FIN_ACK, 10));
        flows.add(&segment(1, 2, Flags::SYN, 99));
        let lengths: Vec<_> = flows.connections().iter().map(|c| c.segments.len()).collect();
        assert_eq!(lengths, [6, 1]);
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let mut flows = Flows::new(Some("10.0.0.1:2-10.0.0.1:1".parse().unwrap()), 1);
        flows.add(&segment(3, 4, Flags::SYN, 5));
        flows.add(&segment(2, 1, Flags::SYN_ACK, 5));
        assert_eq!((flows.connections().len(), flows.left_out()), (1, 0));
        assert_eq!(flows.connections()[0].left.port(), 1);
        let mut flows = Flows::new(None, 1);
        for port in 1..5 {
            flows.add(&segment(port, 9, Flags::SYN, 5));
            flows.add(&segment(port, 9, Flags::SYN, 5));
        }
        assert_eq!((flows.connections().len(), flows.left_out()), (1, 3));
        assert!("1.2.3.4-5".parse::<FlowFilter>().is_err() && "x".parse::<FlowFilter>().is_err());
    }
}
