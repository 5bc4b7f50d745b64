//! Hostile hosts that complete handshakes, and then do as they like.

use std::collections::BTreeMap;
use std::net::IpAddr;

use syncline_engine::wire::{Flags, SackBlock, Seq, TcpOptions, TcpSegment, Timestamps};

use super::field::{Field, Forged, Hostile};
use super::floods::offer;
use super::honest::{COPIES, SINK, STREAM};

/// One hostile end of a connection.
#[derive(Clone, Copy)]
struct Conn {
    from: (IpAddr, u16),
    port: u16,
    /// The next octet to send, and the first of all.
    snd_nxt: Seq,
    /// The next octet expected in order, the server's first, and the highest it has sent.
    rcv_nxt: Seq,
    base: Seq,
    high: Seq,
    /// What was acknowledged last.
    acked: Seq,
    window: u16,
    timestamps: bool,
    /// The timestamp to echo.
    echo: u32,
    open: bool,
}

type Key = (IpAddr, u16);

/// The connections of a hostile host.
#[derive(Default)]
struct Conns(BTreeMap<Key, Conn>);

impl Conns {
    /// Sends a SYN to `port` from address number `number`.
    fn dial(&mut self, field: &mut Field, number: u32, port: u16, window: u16, options: TcpOptions) {
        let from = (field.remote(number), field.port());
        let iss = Seq(field.random32());
        let zero = Seq(0);
        let timestamps = options.timestamps.is_some();
        let conn = Conn {
            from,
            port,
            snd_nxt: iss + 1,
            rcv_nxt: zero,
            base: zero,
            high: zero,
            acked: zero,
            window,
            timestamps,
            echo: 0,
            open: false,
        };
        self.0.insert(from, conn);
        field.send(&Forged { seq: iss, window, options, ..Forged::new(from, port, Flags::SYN) });
    }

    /// Takes in a segment. Returns the connection if it is open, and whether the segment had text or probed.
    fn hear(&mut self, field: &mut Field, seg: &TcpSegment) -> Option<(&mut Conn, bool)> {
        let key = (seg.destination, seg.destination_port);
        if seg.flags.rst() {
            self.0.remove(&key);
            return None;
        }
        let conn = self.0.get_mut(&key)?;
        if let Some(ts) = seg.options.timestamps {
            conn.echo = ts.value;
        }
        if seg.flags.syn() {
            (conn.rcv_nxt, conn.base, conn.high, conn.acked) = (seg.seq + 1, seg.seq + 1, seg.seq + 1, seg.seq + 1);
            if !conn.open {
                field.noted.opened += 1;
                conn.open = true;
            }
            conn.ack(field, conn.rcv_nxt, conn.window);
            return None;
        }
        let end = seg.seq + u32::from(seg.payload_len);
        conn.high = conn.high.latest(end);
        if seg.seq.at_or_before(conn.rcv_nxt) {
            conn.rcv_nxt = conn.rcv_nxt.latest(end);
        }
        field.noted.received += u64::from(seg.payload_len);
        if seg.payload_len > 0 && !seg.flags.contains(Flags::PSH) {
            let text = u64::from(seg.payload_len);
            field.noted.least_text = if field.noted.least_text == 0 { text } else { field.noted.least_text.min(text) };
        }
        let excess = i64::from(conn.high - conn.base) - 2 * i64::from(conn.acked - conn.base);
        field.noted.excess = field.noted.excess.max(excess);
        let asks = seg.payload_len > 0 || seg.seq.before(conn.rcv_nxt);
        Some((conn, asks))
    }
}

impl Conn {
    fn options(&self, field: &Field) -> TcpOptions {
        let value = field.now.millis32().wrapping_add(7);
        let timestamps = self.timestamps.then_some(Timestamps { value, echo: self.echo });
        TcpOptions { timestamps, ..TcpOptions::NONE }
    }

    fn ack(&mut self, field: &mut Field, ack: Seq, window: u16) {
        let options = self.options(field);
        if ack.after(self.acked) && ack.at_or_before(self.rcv_nxt) {
            field.noted.acknowledged += u64::from(ack - self.acked);
            self.acked = ack;
        }
        let seq = self.snd_nxt;
        field.send(&Forged { seq, ack, window, options, ..Forged::new(self.from, self.port, Flags::ACK) });
    }
}

/// Connections that ask for much and do not read it.
pub(super) struct Sockstress {
    conns: Conns,
    /// The window: zero, a few octets again and again, or so many once.
    window: u16,
    turns: u32,
}

impl Sockstress {
    pub(super) fn new(window: u16) -> Self {
        Self { conns: Conns::default(), window, turns: 0 }
    }

    /// Whether the window opens again after each acknowledgement.
    fn again(&self) -> bool {
        self.window < 100
    }
}

/// The turn after which no more connections are opened: what is left at the end was not given back.
const DIALS_UNTIL: u32 = 4_000;
/// Turns between two acknowledgements of who reads slowly.
const SLOWLY: u32 = 100;

impl Hostile for Sockstress {
    fn turn(&mut self, field: &mut Field) {
        self.turns += 1;
        if self.turns % 20 == 1 && self.turns < DIALS_UNTIL {
            let options = TcpOptions { window_scale: None, ..offer(1460, 1) };
            self.conns.dial(field, self.turns * 7, COPIES, self.window, options);
        }
        if self.turns.is_multiple_of(SLOWLY) && self.again() {
            for conn in self.conns.0.values_mut().filter(|conn| conn.open && conn.rcv_nxt.after(conn.acked)) {
                conn.ack(field, conn.rcv_nxt, self.window);
            }
        }
    }

    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let (window, again) = (u32::from(self.window), self.again());
        let Some((conn, asks)) = self.conns.hear(field, seg) else { return };
        if asks && !(again && seg.payload_len > 0 && window > 0) {
            let left = if again { window } else { window.saturating_sub(conn.rcv_nxt - conn.base) };
            conn.ack(field, conn.rcv_nxt, left as u16);
        }
    }
}

/// How a receiver tries to make the sender faster, or costlier, than it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trick {
    Optimistic,
    Division,
    Duplicates,
    SmallMss,
}

/// Turns between two honest acknowledgements, and octets after which there are none.
const ROUND: u32 = 10;
const ENOUGH: u32 = 200_000;
/// Connections of a trickster.
const TRICKSTERS: u32 = 4;

/// A receiver of a stream who plays a trick.
pub(super) struct Acker {
    trick: Trick,
    conns: Conns,
    turns: u32,
}

impl Acker {
    pub(super) fn new(trick: Trick) -> Self {
        Self { trick, conns: Conns::default(), turns: 0 }
    }
}

impl Hostile for Acker {
    fn turn(&mut self, field: &mut Field) {
        self.turns += 1;
        if self.turns <= TRICKSTERS {
            let mut options = offer(if self.trick == Trick::SmallMss { 1 } else { 1460 }, 1);
            options.sack_permitted = self.trick != Trick::Duplicates;
            self.conns.dial(field, self.turns * 300, STREAM, 60_000, options);
        }
        for conn in self.conns.0.values_mut().filter(|conn| conn.open) {
            let honest = self.turns.is_multiple_of(ROUND) && conn.acked - conn.base < ENOUGH;
            match self.trick {
                Trick::Division if honest => {
                    let step = ((conn.rcv_nxt - conn.acked) / 200).max(1);
                    while conn.acked.before(conn.rcv_nxt) {
                        let next = (conn.acked + step).earliest(conn.rcv_nxt);
                        conn.ack(field, next, conn.window);
                    }
                }
                Trick::SmallMss => {}
                _ if honest => conn.ack(field, conn.rcv_nxt, conn.window),
                _ => {}
            }
            match self.trick {
                Trick::Optimistic => {
                    for n in 1..=5 {
                        conn.ack(field, conn.high + 10_000 * n, conn.window);
                    }
                }
                Trick::Duplicates => (0..20).for_each(|_| conn.ack(field, conn.acked, conn.window)),
                Trick::Division | Trick::SmallMss => {}
            }
        }
    }

    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let each = self.trick == Trick::SmallMss;
        if let Some((conn, asks)) = self.conns.hear(field, seg)
            && each
            && asks
            && conn.acked - conn.base < ENOUGH
        {
            conn.ack(field, conn.rcv_nxt, conn.window);
        }
    }
}

/// A receiver that lets the flight grow, and then reports pieces of it in every order, but never its front.
#[derive(Default)]
pub(super) struct SackBomb {
    conns: Conns,
    turns: u32,
    /// The flight is long enough.
    armed: bool,
}

/// Octets in flight from which on the bomb goes off.
const LONG_FLIGHT: u32 = 6_000 * 1_448;

impl Hostile for SackBomb {
    fn turn(&mut self, field: &mut Field) {
        self.turns += 1;
        if self.turns == 1 {
            let options = TcpOptions { window_scale: Some(12), ..offer(1460, 1) };
            self.conns.dial(field, 77, STREAM, 60_000, options);
        }
        for conn in self.conns.0.values_mut().filter(|conn| conn.open) {
            self.armed |= conn.high - conn.acked >= LONG_FLIGHT;
            if !self.armed {
                conn.ack(field, conn.rcv_nxt, conn.window);
                continue;
            }
            let segments = (conn.high - conn.acked) / 1_448;
            for _ in 0..64 {
                let mut options = conn.options(field);
                for _ in 0..3 {
                    let start = conn.acked + 1_448 * (1 + field.chance.below(u64::from(segments) - 1) as u32);
                    options.sack.push(SackBlock { start, end: start + 1_448 });
                }
                let forged = Forged::new(conn.from, conn.port, Flags::ACK);
                field.send(&Forged { seq: conn.snd_nxt, ack: conn.acked, window: conn.window, options, ..forged });
            }
        }
    }

    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let _ = self.conns.hear(field, seg);
    }
}

/// Connections that send single octets with gaps between them.
#[derive(Default)]
pub(super) struct Gaps {
    conns: Conns,
    turns: u32,
}

impl Hostile for Gaps {
    fn turn(&mut self, field: &mut Field) {
        self.turns += 1;
        if self.turns <= 40 {
            self.conns.dial(field, self.turns * 300, SINK, 60_000, offer(1460, 1));
        }
        for conn in self.conns.0.values_mut().filter(|conn| conn.open) {
            for _ in 0..2 {
                let seq = conn.snd_nxt + 1 + 2 * field.chance.below(30_000) as u32;
                let options = conn.options(field);
                let forged = Forged::new(conn.from, conn.port, Flags::ACK | Flags::PSH);
                field.send(&Forged { seq, ack: conn.rcv_nxt, options, text: b"x", ..forged });
            }
        }
    }

    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let _ = self.conns.hear(field, seg);
    }
}

/// Connections that are opened and left alone.
#[derive(Default)]
pub(super) struct Squatters {
    conns: Conns,
    turns: u32,
}

impl Hostile for Squatters {
    fn turn(&mut self, field: &mut Field) {
        self.turns += 1;
        for n in 0..4 {
            self.conns.dial(field, self.turns * 4 + n, SINK, 60_000, offer(1460, 1));
        }
    }

    fn heard(&mut self, field: &mut Field, seg: &TcpSegment) {
        let _ = self.conns.hear(field, seg);
    }
}
