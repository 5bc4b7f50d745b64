//! The server under attack, and its honest clients.

use core::cell::RefCell;
use core::time::Duration;
use std::net::SocketAddr;
use std::rc::Rc;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::time::Instant;

/// Answers each request with a page; the client closes.
pub(super) const PAGES: u16 = 80;
/// Reads all it is sent.
pub(super) const SINK: u16 = 81;
/// Sends copies of octets until its buffer is full.
pub(super) const COPIES: u16 = 82;
/// Sends very much that it can write again.
pub(super) const STREAM: u16 = 83;
/// The ports of the server, in the order of its listeners.
pub(super) const PORTS: [u16; 4] = [PAGES, SINK, COPIES, STREAM];

/// Octets of a request, and of a page.
const REQUEST: u32 = 100;
const PAGE: u32 = 3_000;
/// Octets of a stream.
const VERY_MUCH: u32 = 1 << 29;
/// Long connections of the honest clients.
const LONG: u64 = 8;
/// Time between two requests on a connection, and between two new connections.
const THINK: Duration = Duration::from_millis(5);

/// The server.
#[derive(Debug, Default)]
pub(super) struct Service;

/// The octet at `offset` of a page.
fn octet(offset: u32) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9) >> 24) as u8
}

impl App for Service {
    fn accepted(&mut self, conn: &mut Conn<'_>, listener: usize) {
        let port = PORTS[listener];
        conn.set_word(u64::from(port) << 32);
        match port {
            COPIES => _ = conn.write(&[7; 256 << 10]),
            STREAM => _ = conn.send(1, VERY_MUCH),
            _ => {}
        }
    }

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let word = conn.word();
        if word >> 32 != u64::from(PAGES) {
            return data.len();
        }
        let asked = (word as u32).wrapping_add(data.len() as u32);
        conn.set_word(word & !0xffff_ffff | u64::from(asked % REQUEST));
        for _ in 0..asked / REQUEST {
            conn.send(1, PAGE);
        }
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        conn.close();
    }

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}

    fn fill(&self, _: u32, offset: u32, out: &mut [u8]) {
        for (at, out) in (offset..).zip(out) {
            *out = octet(at);
        }
    }
}

/// What the honest clients got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Got {
    pub(super) answers: u64,
    pub(super) pages: u64,
    pub(super) failed: u64,
}

/// The honest clients: long connections with a request now and then, and a new connection now and then.
#[derive(Debug)]
pub(super) struct Clients {
    server: SocketAddr,
    got: Rc<RefCell<Got>>,
    /// Long connections, and when each asks next.
    long: Vec<(Option<ConnId>, Instant)>,
    opens_at: Instant,
    now: Instant,
}

/// Words of connections: the octets of the page received so far, below the number of a long one plus one.
const NUMBER: u32 = 32;

impl Clients {
    pub(super) fn new(server: SocketAddr, got: Rc<RefCell<Got>>) -> Self {
        Self { server, got, long: Vec::new(), opens_at: Instant::ZERO, now: Instant::ZERO }
    }
}

impl App for Clients {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        let number = (conn.word() >> NUMBER) as usize;
        if number > 0 {
            self.long[number - 1] = (Some(conn.id()), conn.now());
        } else {
            conn.send(1, REQUEST);
        }
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let word = conn.word();
        let at = word as u32;
        let right = (at..).zip(data).all(|(at, &octet_in)| octet_in == octet(at % PAGE));
        if !right {
            self.got.borrow_mut().failed += 1;
        }
        let at = at + data.len() as u32;
        conn.set_word(word >> NUMBER << NUMBER | u64::from(at % PAGE));
        if at >= PAGE {
            let number = (word >> NUMBER) as usize;
            if number > 0 {
                self.got.borrow_mut().answers += 1;
                self.long[number - 1].1 = conn.now() + THINK;
            } else {
                conn.close();
            }
        }
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        conn.close();
    }

    fn closed(&mut self, _: ConnId, word: u64, end: End, now: Instant) {
        let mut got = self.got.borrow_mut();
        let number = (word >> NUMBER) as usize;
        match end {
            End::Closed if number == 0 => got.pages += 1,
            _ => got.failed += 1,
        }
        if number > 0 {
            self.long[number - 1] = (None, now + THINK);
        }
    }

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'?');
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        self.now = net.now();
        while (self.long.len() as u64) < LONG {
            self.long.push((None, self.now));
            let number = self.long.len() as u64;
            let _ = net.connect(self.server, number << NUMBER);
        }
        for (id, due) in &mut self.long {
            if *due <= self.now
                && let Some(mut conn) = id.and_then(|id| net.conn(id))
                && conn.send(1, REQUEST)
            {
                // until the answer has come
                *due = self.now + Duration::from_secs(3600);
            }
        }
        if self.opens_at <= self.now && net.connect(self.server, 0).is_ok() {
            self.opens_at = self.now + THINK;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let asks = self.long.iter().filter(|long| long.0.is_some()).map(|long| long.1);
        asks.chain([self.opens_at]).min().map(|at| at.max(self.now))
    }
}
