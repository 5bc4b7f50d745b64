//! Counters of a worker: one writer, readable by anyone at any time.
//!
//! Each counter is a relaxed atomic that only its worker writes, so an increment is a plain load, add and store.
//! The whole set lies in cache lines of its own; readers on other cores never make the writer wait.

use crate::sync::{AtomicU64, Ordering};
use crate::wire::DropReason;

/// A count that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: it is not a read-modify-write.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Replaces the value: for levels rather than totals.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What a worker counts. Field names are the documented names of reports and metrics.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// Frames dropped, by reason.
            pub dropped: Drops,
        }

        impl Stats {
            /// Every counter but the drops: name, what it counts, value.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
                [$((stringify!($name), concat!($($doc, "\n"),+).trim_ascii(), self.$name.get())),+].into_iter()
            }
        }
    };
}

counters! {
    /// Passes of the loop.
    polls,
    /// Passes of the loop that moved a frame or fired a timer.
    polls_busy,
    /// Frames received.
    rx_frames,
    /// Octets received.
    rx_bytes,
    /// Frames sent.
    tx_frames,
    /// Octets sent.
    tx_bytes,
    /// TCP segments received with a correct checksum.
    segments_received,
    /// TCP segments sent.
    segments_sent,
    /// Received segments whose checksum field held just the pseudo-header sum (a kernel on the same machine).
    partial_checksum,
    /// Segments sent again: SYN, data and FIN (RFC 6298, RFC 5681).
    segments_retransmitted,
    /// SYNs of our own sent again.
    syn_retransmitted,
    /// SYNs of our own that an old connection of the peer's answered: it was reset, and the SYN sent again at once.
    syn_met_old,
    /// SYN-ACKs sent again.
    syn_ack_retransmitted,
    /// Retransmission timeouts (RFC 6298 §5).
    retransmission_timeouts,
    /// Fast retransmits (RFC 5681 §3.2).
    fast_retransmits,
    /// Tail loss probes sent (RFC 8985 §7).
    tail_loss_probes,
    /// Recoveries undone because the retransmission turned out to be spurious (RFC 5682, RFC 4015).
    spurious_recoveries,
    /// Zero-window probes sent (RFC 9293 §3.8.6.1).
    window_probes,
    /// Keep-alive probes sent (RFC 9293 §3.8.4).
    keepalive_probes,
    /// Segments that arrived ahead of a hole.
    out_of_order,
    /// Segments that held nothing new.
    duplicates,
    /// Pure acknowledgements sent.
    acks_sent,
    /// Acknowledgements put off (RFC 9293 §3.8.6.3).
    acks_delayed,
    /// Challenge ACKs sent (RFC 5961).
    challenge_acks,
    /// Challenge ACKs not sent because of the rate limit (RFC 5961 §10).
    challenge_acks_limited,
    /// Segments dropped by the timestamp test (RFC 7323 §5).
    paws_dropped,
    /// Connections that this end began to open.
    active_opens,
    /// SYNs for a listener that were answered.
    passive_opens,
    /// Connections that became ESTABLISHED, either opener.
    established,
    /// Connections closed in order: both FINs acknowledged.
    closed,
    /// Connections ended by the peer's RST.
    resets_received,
    /// RSTs sent.
    resets_sent,
    /// RSTs not sent because of the rate limit.
    resets_limited,
    /// Times a table or a buffer could not grow: what needed it was refused.
    refused_memory,
    /// Segments beyond a hole that were not kept, in all or in part, because of the limits on such text.
    out_of_order_refused,
    /// Acknowledgements whose SACK blocks were not looked at because too many segments had been in this pass.
    sack_limited,
    /// Segments in flight that were looked at for SACK blocks and losses.
    scoreboard_steps,
    /// Connections ended because the peer kept its window shut, or nearly so, for too long (RFC 6429).
    stalled,
    /// Connections given up because nothing was acknowledged in time.
    timed_out,
    /// Connections that ended in TIME-WAIT.
    time_waits,
    /// TIME-WAITs cut short by a new SYN (RFC 6191).
    time_waits_reused,
    /// Connections that found no room for a TIME-WAIT record.
    time_waits_skipped,
    /// SYNs refused because a table was full.
    refused_table_full,
    /// SYN cookies sent.
    syn_cookies_sent,
    /// Connections made from a SYN cookie.
    syn_cookies_accepted,
    /// Acknowledgements that were no valid SYN cookie.
    syn_cookies_rejected,
    /// Times that the SYN rate or the number of half-open connections passed its mark, so that no more records were made.
    syn_floods,
    /// Whether that was so when the last SYN came.
    syn_flood_now,
    /// SYNs that got no record because their prefix of sources had too many.
    syn_prefix_limited,
    /// SYN-RECEIVED records that no ACK came for in time.
    syn_received_expired,
    /// SYN-RECEIVED records given up for lack of room before their time.
    syn_received_evicted,
    /// SYNs whose MSS option was below the smallest believed.
    mss_raised,
    /// Packets put together from fragments.
    packets_reassembled,
    /// ICMP echo requests answered.
    echo_replies,
    /// ICMP errors sent: no such protocol or port, a parameter problem.
    icmp_errors_sent,
    /// ICMP errors that matched a connection.
    icmp_errors,
    /// ICMP messages not sent because of the rate limit.
    icmp_limited,
    /// Neighbours now known or asked for.
    neighbors_now,
    /// Neighbours that gave way to others.
    neighbors_evicted,
    /// Neighbours not taken in or not asked for because there were too many.
    neighbors_refused,
    /// Answers of neighbours that nobody had asked for.
    neighbor_unsolicited,
    /// ARP and neighbour requests answered.
    neighbor_replies,
    /// ARP and neighbour requests sent.
    neighbor_requests,
    /// Frames that could not be built because the device had no buffer or no room.
    tx_full,
    /// Segments handed to the worker that owns their flow.
    handed_over,
    /// Segments that arrived on a worker that does not own their flow.
    wrong_core,
    /// Connections now in the table, TIME-WAIT and SYN-RECEIVED not included.
    connections,
    /// SYN-RECEIVED records now held.
    syn_received_now,
    /// TIME-WAIT records now held.
    time_wait_now,
    /// Octets of flow table, blocks and records now held.
    table_bytes,
    /// Pages taken since the start.
    pages_taken,
    /// Octets of payload delivered to the application.
    payload_received,
    /// Octets of payload sent, retransmissions not included.
    payload_sent,
}

/// Dropped frames by reason.
#[derive(Debug)]
pub struct Drops([Counter; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Counter::default()))
    }
}

impl Drops {
    /// Counts a frame dropped for `reason`.
    #[inline]
    pub fn count(&self, reason: DropReason) {
        self.0[reason as usize].increment();
    }

    /// Frames dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].get()
    }

    /// Reasons that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, n)| n > 0)
    }
}
