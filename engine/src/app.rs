//! What runs on top of a worker.
//!
//! An [`App`] is called inline from the loop, monomorphised into it: there is no queue between the two. It must
//! return quickly and must not call the operating system. It speaks through the [`Conn`] it is handed; what it asks
//! for there is sent at the end of the burst.
//!
//! **Payload need not be stored.** [`Conn::send`] queues octets by name only: a tag and a length. The engine asks for
//! them through [`App::fill`] when it builds a segment, and again should the segment be lost. An application that
//! cannot regenerate what it sent uses [`Conn::write`], which copies into a bounded buffer of the connection.

use std::net::SocketAddr;

pub use crate::tcp::{Conn, Net};
use crate::time::Instant;
use crate::wire::icmp::IcmpErrorKind;

/// Names a connection while it lives: a slot number, reused after [`App::closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
//= RFC 9293 MUST-12
pub enum End {
    /// Both FINs were sent and acknowledged.
    Closed,
    /// The peer answered our SYN with a RST.
    Refused,
    /// The peer reset an open connection.
    Reset,
    /// No answer to our SYN within the limit (RFC 9293 §3.8.3, R2 of a SYN).
    SynTimeout,
    /// Data or FIN not acknowledged within the limit (RFC 9293 §3.8.3, R2), or the peer was gone when probed.
    Timeout,
    /// An ICMP error made the attempt pointless (RFC 5461), or the next hop did not answer.
    Unreachable,
    /// We aborted it ([`Conn::abort`]).
    Aborted,
    /// This end had no memory or buffer for it.
    Memory,
}

/// What an application may want to know of a connection that goes on (RFC 9293 §3.9.1.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
//= RFC 9293 MUST-47
pub enum Report {
    /// Somebody on the path reports trouble with a segment in flight, which is not believed so far as to end the
    /// connection (RFC 9293 §3.9.2.2, RFC 5927 §5.2).
    Icmp(IcmpErrorKind),
    /// The same segment, or SYN, has been sent again three times without an answer (RFC 9293 §3.8.3, R1).
    Retransmitting,
    /// A segment came with an urgent pointer, and so many octets up to it are still to be read (RFC 9293 §3.8.5). They
    /// are data like any other (RFC 6093).
    Urgent(u32),
}

/// Why a connection could not be opened just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectError {
    /// Every local address and port towards this remote is in use (RFC 6056).
    NoPort,
    /// The connection table is full or memory has run out.
    NoMemory,
    /// No owned address can reach the remote: other address family, or no route to it.
    NoRoute,
    /// The remote is no other host (a broadcast or multicast address, loopback, unspecified, an owned address, port 0), or
    /// the local address asked for is not owned or of another family (RFC 9293 §3.9.1.1).
    InvalidAddress,
}

impl core::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoPort => "every local address and port towards this remote is in use",
            Self::NoMemory => "the connection table is full",
            Self::NoRoute => "no owned address of this family, or no gateway to this remote",
            Self::InvalidAddress => {
                "the remote is not another host's address and port, or the local address is not owned"
            }
        })
    }
}

impl core::error::Error for ConnectError {}

/// An application on a worker.
///
/// For each connection the calls come in this order: [`accepted`](App::accepted) or [`connected`](App::connected),
/// then [`received`](App::received) and [`sent`](App::sent) as often as it takes, [`finished`](App::finished) once if
/// the peer sends FIN, and [`closed`](App::closed) once at the end. A failed open has `closed` alone.
pub trait App {
    /// A peer opened a connection to listener number `listener` (its index in the configuration).
    fn accepted(&mut self, conn: &mut Conn<'_>, listener: usize);

    /// A connection asked for with [`Net::connect`] is open.
    fn connected(&mut self, conn: &mut Conn<'_>);

    /// Octets arrived, in order. Returns how many of them the application takes. If fewer than `data.len()`, the
    /// engine keeps the rest, lets the window close, and offers it again after [`Conn::resume`].
    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize;

    /// The peer has sent its last octet, and all before it were taken. The other direction stays open until
    /// [`Conn::close`].
    fn finished(&mut self, conn: &mut Conn<'_>);

    /// Some of what was queued has been acknowledged: [`Conn::queued`] has fallen.
    fn sent(&mut self, conn: &mut Conn<'_>) {
        let _ = conn;
    }

    /// Something happened that does not end the connection. Nothing need be done about it.
    //= RFC 9293 MUST-47, SHLD-20
    fn report(&mut self, conn: &mut Conn<'_>, report: Report) {
        let _ = (conn, report);
    }

    /// The connection is over and `id` may be reused. `word` is what [`Conn::set_word`] left there. Called as soon as
    /// both FINs are acknowledged: TIME-WAIT goes on without the application. `at` is when the segment that ended it
    /// arrived ([`Conn::arrived`]), or now.
    fn closed(&mut self, id: ConnId, word: u64, end: End, at: Instant);

    /// Writes the octets of the message `tag` from `offset` on into `out`. Must give the same octets for the same
    /// arguments for as long as the message may be retransmitted.
    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]);

    /// Called once in every pass of the loop, after the burst: the place to open connections and to act on a schedule.
    fn poll(&mut self, net: &mut Net<'_>) {
        let _ = net;
    }

    /// All that this pass says is built and goes to the device now, if it is not on its way already: so many `frames`, or
    /// none. Whoever times what it asked for in this pass may look at the clock once more.
    #[inline]
    fn leaving(&mut self, frames: u64, now: impl FnOnce() -> Instant) {
        let _ = (frames, now);
    }

    /// When [`poll`](App::poll) next has something to do of its own accord: the worker may sleep until then.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

/// One end of a connection and the other, for logs and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
}
