//! What is kept for a connection, and how much of it there is.
//!
//! Memory is the product: an idle connection is a [`Connection`] of 64 octets and its entry in the index. Only while
//! something is in flight, queued, out of order or timed does it have a [`Busy`] block, from a pool. Handshakes that a
//! peer began are [`SynReceived`] records, finished connections [`TimeWait`] records, 32 octets each.

use crate::flow::Place;
use crate::neighbor::NeighborIndex;
use crate::timer_wheel::Link;
use crate::wire::Seq;

use super::flight::Flight;
use super::hystart::HyStart;
use super::state::State;

/// No block, no chunk, no record.
pub(crate) const NONE: u32 = u32::MAX;

/// A connection, as far as it must be known while nothing happens on it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Connection {
    /// The peer's IPv4 address, or the record that holds its IPv6 address ([`flag::IPV6`]).
    pub(crate) remote: u32,
    /// The peer's port.
    pub(crate) remote_port: u16,
    /// Our port.
    pub(crate) local_port: u16,
    /// Our address, by its number among the owned ones.
    pub(crate) local: u16,
    /// Most octets of options and payload in a segment to the peer: its MSS option and the path's MTU.
    pub(crate) mss: u16,
    /// State of RFC 9293.
    pub(crate) state: State,
    /// Bits of [`flag`].
    pub(crate) flags: u8,
    /// Shift of the windows we receive (low half) and of those we send (high half), RFC 7323 §2.
    pub(crate) scales: u8,
    /// Listener that accepted it, or [`ACTIVE`].
    pub(crate) listener: u8,
    /// Oldest octet not acknowledged.
    pub(crate) snd_una: Seq,
    /// Next octet to be sent. Equals `snd_una` while idle.
    pub(crate) snd_nxt: Seq,
    /// Next octet expected.
    pub(crate) rcv_nxt: Seq,
    /// Right edge of the window that we advertised.
    pub(crate) rcv_adv: Seq,
    /// The peer's window as it came, unscaled.
    pub(crate) snd_wnd: u16,
    /// Slow start threshold kept over idle time, compact octets ([`compact`]); 0 = none yet.
    pub(crate) ssthresh: u16,
    /// Smoothed round-trip time, compact microseconds; 0 = not measured (RFC 6298).
    pub(crate) srtt: u16,
    /// Its variation, compact microseconds.
    pub(crate) rttvar: u16,
    /// TS.Recent (RFC 7323 §4.3).
    pub(crate) ts_recent: u32,
    /// When the peer was last heard, milliseconds: the age of TS.Recent, and the keep-alive clock.
    pub(crate) heard_ms: u32,
    /// Sequence number of the segment that last changed `snd_wnd`. SND.WL2 is not needed: only segments with
    /// SEG.ACK ≥ SND.UNA change the window, and SND.WL2 ≤ SND.UNA.
    pub(crate) snd_wl1: Seq,
    /// The busy block, or [`NONE`].
    pub(crate) busy: u32,
    /// The application's.
    pub(crate) word: u64,
}

/// [`Connection::listener`] of a connection that we opened.
pub(crate) const ACTIVE: u8 = u8::MAX;

/// Bits of [`Connection::flags`], [`SynReceived::flags`] and [`TimeWait::flags`].
pub(crate) mod flag {
    /// The addresses are IPv6.
    pub(crate) const IPV6: u8 = 1 << 0;
    /// Timestamps on every segment (RFC 7323 §3).
    pub(crate) const TIMESTAMPS: u8 = 1 << 1;
    /// Selective acknowledgements (RFC 2018).
    pub(crate) const SACK: u8 = 1 << 2;
    /// Window scaling (RFC 7323 §2).
    pub(crate) const SCALING: u8 = 1 << 3;
    /// Explicit congestion notification (RFC 3168).
    pub(crate) const ECN: u8 = 1 << 4;
    /// What nearly every SYN offers.
    pub(crate) const OFFERED: u8 = TIMESTAMPS | SACK | SCALING;
    /// Our SYN was sent more than once.
    pub(crate) const SYN_RESENT: u8 = 1 << 5;
    /// The peer has not sent a timestamp since the handshake yet: its ACK may come without one.
    pub(crate) const FRESH: u8 = 1 << 6;
    /// A keep-alive probe is out.
    pub(crate) const PROBED: u8 = 1 << 7;
}

impl Connection {
    #[inline]
    pub(crate) fn has(&self, bit: u8) -> bool {
        self.flags & bit != 0
    }

    /// Shift of the windows the peer sends.
    #[inline]
    pub(crate) fn snd_scale(&self) -> u32 {
        u32::from(self.scales & 15)
    }

    /// Shift of the windows we send.
    #[inline]
    pub(crate) fn rcv_scale(&self) -> u32 {
        u32::from(self.scales >> 4)
    }

    /// SND.WND, octets.
    #[inline]
    //= RFC 9293 MUST-1, REC-1
    //= RFC 7323 2.3-MUST-1
    pub(crate) fn send_window(&self) -> u32 {
        u32::from(self.snd_wnd) << self.snd_scale()
    }

    /// RCV.WND, octets: what is left of the window that we advertised.
    #[inline]
    //= RFC 7323 2.4-MUST-2
    pub(crate) fn receive_window(&self) -> u32 {
        self.rcv_adv - self.rcv_nxt
    }

    /// Octets of options on every segment without SACK blocks.
    #[inline]
    pub(crate) fn option_bytes(&self) -> u16 {
        if self.has(flag::TIMESTAMPS) { 12 } else { 0 }
    }

    /// Most octets of payload in a segment.
    #[inline]
    //= RFC 6691 2-MUST-1
    //= RFC 4821 7.1-SHOULD-1
    //= RFC 8201 5.4-MUST-1
    pub(crate) fn payload_max(&self) -> u32 {
        u32::from(self.mss.saturating_sub(self.option_bytes()).max(1))
    }
}

/// Messages an application may have queued and unacknowledged on one connection.
pub(crate) const SPANS: usize = 4;

/// A message queued by name: its tag, and where in the sequence space it begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) start: Seq,
    pub(crate) tag: u32,
}

/// How far loss recovery has gone (RFC 5681, RFC 6675, RFC 8985).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Nothing is known to be missing.
    #[default]
    Open,
    /// Fast recovery: until `recover` is acknowledged, the window follows RFC 6937.
    Recovery,
    /// After a retransmission timeout: slow start again.
    Loss,
}

/// Bits of [`Busy::flags`].
pub(crate) mod busy {
    /// Close was called: a FIN follows the queued data.
    pub(crate) const FIN_QUEUED: u32 = 1 << 0;
    /// An acknowledgement is due at the end of this burst.
    pub(crate) const ACK_NOW: u32 = 1 << 1;
    /// The connection is on the list of those with something to send.
    pub(crate) const DIRTY: u32 = 1 << 2;
    /// The payload queued is in the buffer chain and not regenerated.
    pub(crate) const BUFFERED: u32 = 1 << 3;
    /// The application did not take all it was offered: nothing more is offered until it asks.
    pub(crate) const PAUSED: u32 = 1 << 4;
    /// The peer's FIN lies beyond unread or missing octets, at `fin_at`.
    pub(crate) const FIN_AHEAD: u32 = 1 << 5;
    /// The retransmission timer is a zero-window probe timer.
    pub(crate) const PERSIST: u32 = 1 << 6;
    /// The retransmission timer is a tail loss probe timer.
    pub(crate) const PROBE_TIMER: u32 = 1 << 7;
    /// A tail loss probe is out and its episode not over.
    pub(crate) const PROBE_OUT: u32 = 1 << 8;
    /// The first retransmission of this recovery can still prove spurious.
    pub(crate) const UNDO: u32 = 1 << 9;
    /// Reordering has been seen on this path (RFC 8985 §6.2).
    pub(crate) const REORDERING: u32 = 1 << 10;
    /// ECE is set on everything until the peer answers with CWR (RFC 3168 §6.1.3).
    pub(crate) const ECE: u32 = 1 << 11;
    /// CWR goes on the next new data (RFC 3168 §6.1.2).
    pub(crate) const CWR: u32 = 1 << 12;
    /// The application asked for the octets it had not taken.
    pub(crate) const RESUME: u32 = 1 << 13;
    /// The application aborts: a RST is due.
    pub(crate) const ABORT: u32 = 1 << 14;
    /// The timeout may yet prove spurious by what is acknowledged next (F-RTO, RFC 5682).
    pub(crate) const FRTO: u32 = 1 << 15;
    /// The peer's FIN was taken, but the application has unread octets before it.
    pub(crate) const FIN_UNREAD: u32 = 1 << 16;
    /// The handshake's ACK has not gone out yet.
    pub(crate) const HANDSHAKE: u32 = 1 << 17;
    /// Each segment of this burst is to be acknowledged by itself: duplicate ACKs are counted by the peer.
    pub(crate) const ACK_EACH: u32 = 1 << 18;
    /// A window too small for a full segment may be used all the same (RFC 9293 §3.8.6.2.1, override timeout).
    pub(crate) const OVERRIDE: u32 = 1 << 19;
    /// A zero-window probe is due.
    pub(crate) const PROBE_WINDOW: u32 = 1 << 20;
    /// A tail loss probe is due.
    pub(crate) const PROBE_TAIL: u32 = 1 << 21;
    /// The tail loss probe that is out is a retransmission (TLP.is_retrans, RFC 8985 §7.1); or the last one was, and there
    /// has been no RTT measurement since.
    pub(crate) const PROBE_RESENT: u32 = 1 << 22;
    /// The window was reduced for an ECN echo, and `ecn_until` is not acknowledged yet.
    pub(crate) const ECN_REDUCED: u32 = 1 << 23;
    /// The last recovery can still prove spurious by the duplicates that the peer reports (RFC 3708).
    pub(crate) const UNDO_DSACK: u32 = 1 << 24;
    /// A keep-alive probe is due.
    pub(crate) const KEEP_ALIVE: u32 = 1 << 25;
    /// Nagle's algorithm is on where the configuration has it off, or off where it has it on.
    pub(crate) const NAGLE_OTHER: u32 = 1 << 26;
    /// Only full segments are sent.
    pub(crate) const CORK: u32 = 1 << 27;
    /// Keep-alive is on where the configuration has it off, or off where it has it on.
    pub(crate) const KEEP_ALIVE_OTHER: u32 = 1 << 28;
    /// The connection has a user timeout of its own.
    pub(crate) const USER_TIMEOUT: u32 = 1 << 29;
    /// Our SYN was sent more than once, so that it gave no measurement (RFC 6298 §5.7).
    pub(crate) const SYN_LOST: u32 = 1 << 30;
    /// F-RTO sends new data in place of what the timeout gave up, and waits for the next ACK (RFC 5682 §2.1 step 2b).
    pub(crate) const FRTO_NEW: u32 = 1 << 31;
    /// All that can still show a recovery to be spurious.
    pub(crate) const DOUBTS: u32 = UNDO | UNDO_DSACK | FRTO | FRTO_NEW;
    /// What the application has set for this connection: its busy block stays.
    pub(crate) const SETTINGS: u32 = NAGLE_OTHER | CORK | KEEP_ALIVE_OTHER | USER_TIMEOUT;
    /// Flags that an idle connection may lose with its busy block.
    pub(crate) const FORGETTABLE: u32 = REORDERING | DOUBTS | PROBE_OUT | PROBE_RESENT | ECN_REDUCED | SYN_LOST;
}

/// What a connection needs only while it is busy.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Busy {
    /// Its place in the timer wheel, at the earliest of the deadlines below.
    pub(crate) link: Link,
    /// Its connection.
    pub(crate) conn: u32,
    /// Where the index probably has it.
    pub(crate) place: Place,
    /// Bits of [`busy`].
    pub(crate) flags: u32,
    /// Recovery phase.
    pub(crate) phase: Phase,
    /// How often the RTO is doubled (RFC 6298 §5.5), until something is measured again.
    pub(crate) backoff: u8,
    /// Duplicate acknowledgements in a row.
    pub(crate) dup_acks: u16,
    /// Retransmission, persist or probe timer, milliseconds; valid if `timers` says so.
    pub(crate) rtx_at: u32,
    /// Delayed acknowledgement timer, milliseconds.
    pub(crate) ack_at: u32,
    /// FIN-WAIT-2, reordering (RFC 8985 §6.3) or idle timer, milliseconds.
    pub(crate) misc_at: u32,
    /// Which of the three timers run: bits 0, 1, 2. Bit 3: new data waits for `pace_us`.
    pub(crate) timers: u8,
    /// Segments that arrived since the last acknowledgement.
    pub(crate) unacked_segments: u8,
    /// Messages queued.
    pub(crate) spans: u8,
    /// Whether `duplicate_*` is still to be reported (RFC 2883 §4).
    pub(crate) duplicate: bool,
    /// After the last octet that the application has queued.
    pub(crate) snd_end: Seq,
    /// The last acknowledgement that went out (Last.ACK.sent, RFC 7323).
    pub(crate) ack_sent: Seq,
    /// Next hop.
    pub(crate) neighbor: Option<NeighborIndex>,
    /// Largest window the peer ever offered, octets (RFC 9293 §3.8.6.2.1).
    pub(crate) snd_wnd_max: u32,
    /// Messages, oldest first.
    pub(crate) span: [Span; SPANS],
    /// Buffered payload to send: first and last chunk.
    pub(crate) write_head: u32,
    pub(crate) write_tail: u32,
    /// The connection's own user timeout, milliseconds, if [`busy::USER_TIMEOUT`].
    pub(crate) user_timeout_ms: u32,
    /// Received in order and not yet taken: first and last chunk, octets.
    pub(crate) read_head: u32,
    pub(crate) read_tail: u32,
    pub(crate) read_bytes: u32,
    /// Received ahead of a hole, by sequence number: first and last chunk, octets held.
    pub(crate) ahead_head: u32,
    pub(crate) ahead_tail: u32,
    pub(crate) ahead_bytes: u32,
    /// The peer's FIN, if [`busy::FIN_AHEAD`].
    pub(crate) fin_at: Seq,
    /// The duplicate that arrived last.
    pub(crate) duplicate_start: Seq,
    pub(crate) duplicate_end: Seq,
    /// Where the segments that arrived ahead of a hole begin, the latest first: the order that their blocks are
    /// reported in (RFC 2018 §4).
    pub(crate) recent: [Seq; 3],
    /// Segments in flight.
    pub(crate) flight: Flight,
    /// Octets in flight that are neither lost nor selectively acknowledged (pipe, RFC 6675).
    pub(crate) pipe: u32,
    /// Octets marked lost and not sent again yet.
    pub(crate) lost: u32,
    /// Octets selectively acknowledged.
    pub(crate) sacked: u32,
    /// RTT estimator, microseconds (RFC 6298); 0 = not measured.
    pub(crate) srtt: u32,
    pub(crate) rttvar: u32,
    /// Smallest RTT seen, microseconds.
    pub(crate) rtt_min: u32,
    /// RACK (RFC 8985 §5.2): send time and end of the most recently sent segment that was delivered.
    pub(crate) rack_sent_us: u32,
    pub(crate) rack_end: Seq,
    pub(crate) rack_rtt: u32,
    /// Congestion window, octets.
    pub(crate) cwnd: u32,
    /// Slow start threshold, octets.
    pub(crate) ssthresh: u32,
    /// Octets acknowledged towards the next increase of the window.
    pub(crate) cwnd_count: u32,
    /// SND.NXT when the congestion window, or pacing, last held new data back: until this is acknowledged the window
    /// counts as full (RFC 9438 §5.8).
    pub(crate) full_until: Seq,
    /// CUBIC (RFC 9438): window before the last reduction, octets.
    pub(crate) cubic_w_max: u32,
    /// Start of the congestion avoidance stage, milliseconds, moved on by the time in which the window held nothing back.
    pub(crate) cubic_epoch_ms: u32,
    /// When the curve was last asked, or moved on, milliseconds.
    pub(crate) cubic_seen_ms: u32,
    /// When the next segment of new data may leave, microseconds; 0 if the window is not paced.
    pub(crate) pace_us: u32,
    /// Time to grow back to `cubic_w_max`, milliseconds.
    pub(crate) cubic_k_ms: u32,
    /// The window Reno would have, octets.
    pub(crate) cubic_w_est: u32,
    /// Recovery ends when this is acknowledged (RFC 6582, RFC 6675); a probe's episode, too (TLP.end_seq, RFC 8985).
    pub(crate) recover: Seq,
    /// PRR (RFC 9937): flight at its start, delivered and sent since.
    pub(crate) prr_flight: u32,
    pub(crate) prr_delivered: u32,
    pub(crate) prr_out: u32,
    /// What to restore should the recovery prove spurious.
    pub(crate) undo_cwnd: u32,
    pub(crate) undo_ssthresh: u32,
    /// TSval of the first retransmission of this recovery (RFC 4015).
    pub(crate) undo_ts: u32,
    /// Segments sent again in the last recovery that were not reported to be duplicates.
    pub(crate) undo_resent: u16,
    /// Chunks of the chain of octets ahead of a hole.
    pub(crate) ahead_chunks: u16,
    /// The window is not reduced again for ECN before this is acknowledged.
    pub(crate) ecn_until: Seq,
    /// Reordering window, quarters of the smallest RTT (RFC 8985 §6.2).
    pub(crate) reo_quarters: u8,
    /// Recoveries for which a widened reordering window persists (RFC 8985 §6.2).
    pub(crate) reo_persist: u8,
    /// Zero-window probes in a row without an answer.
    pub(crate) probes: u8,
    /// Timeouts in a row without an ACK of anything new.
    pub(crate) timeouts: u8,
    /// The reordering window may widen again when this is acknowledged (RACK.dsack_round).
    pub(crate) dsack_round: Seq,
    /// When the oldest octet in flight was first sent, milliseconds: the user timeout's clock.
    pub(crate) oldest_ms: u32,
    /// Since when the peer's window has been in the way of what is queued, milliseconds, 0 if it is not; and SND.UNA then.
    pub(crate) stalled_ms: u32,
    pub(crate) stalled_una: Seq,
    /// The slow start whose threshold is not known yet.
    pub(crate) hystart: HyStart,
}

impl Busy {
    /// The block with no chain of chunks, and no segment.
    pub(crate) const fn without_chains(self) -> Self {
        Self {
            write_head: NONE,
            write_tail: NONE,
            read_head: NONE,
            read_tail: NONE,
            ahead_head: NONE,
            ahead_tail: NONE,
            flight: Flight::NOTHING,
            ..self
        }
    }

    /// Puts the connection on the list of those with something to send or to settle at the end of the pass.
    #[inline]
    pub(crate) fn list(&mut self, dirty: &mut Vec<u32>) {
        if self.flags & busy::DIRTY == 0 {
            self.flags |= busy::DIRTY;
            dirty.push(self.conn);
        }
    }

    /// Whether the peer's FIN is here, and all before it.
    #[inline]
    pub(crate) fn fin_is_next(&self, rcv_nxt: Seq) -> bool {
        self.flags & busy::FIN_AHEAD != 0 && self.fin_at == rcv_nxt
    }
}

/// Segments described by one node of a flight chain.
pub(crate) const FLIGHT_NODE: usize = 15;

/// A segment that is out: what loss recovery must know of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// First sequence number.
    pub(crate) start: Seq,
    /// Length in sequence space (SEG.LEN).
    pub(crate) len: u16,
    /// Bits of [`sent`].
    pub(crate) flags: u8,
    /// Times sent again.
    pub(crate) resent: u8,
    /// When it was last sent, microseconds.
    pub(crate) sent_us: u32,
}

/// Bits of [`Sent::flags`].
pub(crate) mod sent {
    /// Selectively acknowledged.
    pub(crate) const SACKED: u8 = 1 << 0;
    /// Taken for lost and not sent again since.
    pub(crate) const LOST: u8 = 1 << 1;
    /// Sent more than once (Karn's algorithm takes no sample from it).
    pub(crate) const RESENT: u8 = 1 << 2;
    /// Carries our SYN.
    pub(crate) const SYN: u8 = 1 << 3;
    /// Carries our FIN.
    pub(crate) const FIN: u8 = 1 << 4;
}

impl Sent {
    #[inline]
    pub(crate) fn end(&self) -> Seq {
        self.start + u32::from(self.len)
    }

    #[inline]
    pub(crate) fn has(&self, bit: u8) -> bool {
        self.flags & bit != 0
    }
}

/// A node of a flight chain.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct FlightNode {
    pub(crate) next: u32,
    /// First and one past the last used slot.
    pub(crate) first: u8,
    pub(crate) end: u8,
    pub(crate) slots: [Sent; FLIGHT_NODE],
}

/// A handshake that a peer began and has not completed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(crate) struct SynReceived {
    pub(crate) remote: u32,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) local: u16,
    /// The peer's MSS option, or the default.
    pub(crate) mss: u16,
    pub(crate) flags: u8,
    /// As [`Connection::scales`].
    pub(crate) scales: u8,
    pub(crate) listener: u8,
    /// SYN-ACKs sent again.
    pub(crate) resent: u8,
    pub(crate) iss: Seq,
    pub(crate) irs: Seq,
    pub(crate) ts_recent: u32,
    /// When the SYN-ACK was last sent, microseconds.
    pub(crate) sent_us: u32,
}

/// A connection whose FINs are both acknowledged (RFC 9293 §3.6.1).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(crate) struct TimeWait {
    pub(crate) remote: u32,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) local: u16,
    pub(crate) flags: u8,
    pub(crate) scales: u8,
    pub(crate) snd_nxt: Seq,
    pub(crate) rcv_nxt: Seq,
    pub(crate) ts_recent: u32,
    /// When 2 MSL began, milliseconds.
    pub(crate) since_ms: u32,
    /// Where the index probably has it.
    pub(crate) place: Place,
}

/// The pair of sockets that a record belongs to, as records hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sockets {
    pub(crate) remote: u32,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) local: u16,
    pub(crate) flags: u8,
}

/// A record of a flow, whichever it is.
pub(crate) trait OfFlow {
    /// Whose it is.
    fn sockets(&self) -> Sockets;
}

macro_rules! of_flow {
    ($($record:ty),+) => {$(
        impl OfFlow for $record {
            #[inline(always)]
            fn sockets(&self) -> Sockets {
                let &Self { remote, remote_port, local_port, local, flags, .. } = self;
                Sockets { remote, remote_port, local_port, local, flags }
            }
        }
    )+};
}

of_flow!(Connection, SynReceived, TimeWait);

impl OfFlow for Sockets {
    #[inline(always)]
    fn sockets(&self) -> Sockets {
        *self
    }
}

const _: () = {
    assert!(size_of::<Connection>() == 64);
    assert!(size_of::<SynReceived>() == 32);
    assert!(size_of::<TimeWait>() == 32);
    assert!(size_of::<Busy>() <= 320);
    assert!(size_of::<FlightNode>() <= 192);
};

/// Numbers of 32 bits in 16: five bits of exponent, eleven of mantissa; within 0.05% and never larger than it was.
pub(crate) mod compact {
    /// Packs `value`.
    #[inline]
    pub(crate) fn pack(value: u32) -> u16 {
        let shift = (32 - value.leading_zeros()).saturating_sub(11);
        (shift as u16) << 11 | (value >> shift) as u16
    }

    /// What [`pack`] kept.
    #[inline]
    pub(crate) fn unpack(packed: u16) -> u32 {
        u32::from(packed & 0x7ff) << (packed >> 11)
    }
}

#[cfg(test)]
mod tests {
    use super::compact::{pack, unpack};

    #[test]
    fn compact_numbers_keep_eleven_bits() {
        for value in (0..2048).chain((0..1000).map(|i| i * 4_294_967)).chain([u32::MAX, 1 << 31]) {
            let kept = unpack(pack(value));
            assert!(kept <= value && value - kept <= value >> 10, "{value} became {kept}");
        }
    }
}
