//! The services of the engine under test: small, and under the test's control where it matters.

use std::collections::HashMap;
use std::net::SocketAddr;

use syncline_engine::app::{App, Conn, ConnId, End, Net, Report};
use syncline_engine::time::Instant;

/// The port of a service that sends back what it reads and closes after the peer's FIN.
pub const ECHO: u16 = 7;
/// The port of a service that greets, closes its side at once, and reads until the peer's FIN.
pub const BYE: u16 = 13;
/// The port of a service that reads, and for the rest does what the test tells it.
pub const SINK: u16 = 9;
/// The port of a service that reads nothing until it is told to.
pub const STUCK: u16 = 19;
/// The port of a service that closes its side as soon as it has read something.
pub const CURT: u16 = 23;
/// A port where nobody listens.
pub const SHUT: u16 = 4;

/// The listeners, in the order of the configuration.
pub const PORTS: [u16; 5] = [ECHO, BYE, SINK, STUCK, CURT];

/// What [`BYE`] greets with.
pub const GREETING: &[u8] = b"goodbye\r\n";

/// How much an opened connection sends at once.
pub const REQUEST_BYTES: u32 = 2000;

/// Tag of the request.
const REQUEST: u32 = 1;
/// Tag of the greeting.
const GREET: u32 = 2;
/// Tag of what [`Services::tell_to_send`] sends.
const TOLD: u32 = 3;

/// The octet at `offset` of what a connection sends of its own accord.
pub fn octet(offset: u32) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9) >> 24) as u8
}

/// `len` octets as [`octet`] has them.
pub fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(octet).collect()
}

/// Who is at the other end of a connection: the peer's socket and our port.
pub type Key = (SocketAddr, u16);

/// The services, and what they saw.
#[derive(Debug, Default)]
pub struct Services {
    /// Live connections.
    pub live: HashMap<Key, ConnId>,
    /// How connections ended.
    pub ended: Vec<(ConnId, End)>,
    /// Connections that we opened and that became open.
    pub connected: Vec<ConnId>,
    /// What [`SINK`] and opened connections read.
    pub read: Vec<u8>,
    /// Peers' FINs seen.
    pub finished: u32,
    /// What was reported of connections that went on.
    pub reports: Vec<(ConnId, Report)>,
}

impl Services {
    /// Has a connection send `len` octets of the [`pattern`].
    pub fn tell_to_send(conn: &mut Conn<'_>, len: u32) -> bool {
        conn.send(TOLD, len)
    }
}

fn key(conn: &Conn<'_>) -> Key {
    let ends = conn.endpoints();
    (ends.remote, ends.local.port())
}

impl App for Services {
    fn accepted(&mut self, conn: &mut Conn<'_>, listener: usize) {
        self.live.insert(key(conn), conn.id());
        // a listener that a test began echoes
        let port = PORTS.get(listener).copied().unwrap_or(ECHO);
        conn.set_word(u64::from(port));
        if port == BYE {
            conn.send(GREET, GREETING.len() as u32);
            conn.close();
        }
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.live.insert(key(conn), conn.id());
        self.connected.push(conn.id());
        conn.send(REQUEST, REQUEST_BYTES);
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        match conn.word() as u16 {
            ECHO => conn.write(data),
            STUCK => 0,
            BYE => data.len(),
            CURT => {
                conn.close();
                data.len()
            }
            _ => {
                self.read.extend_from_slice(data);
                data.len()
            }
        }
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        self.finished += 1;
        if !matches!(conn.word() as u16, SINK | STUCK) {
            conn.close();
        }
    }

    fn sent(&mut self, conn: &mut Conn<'_>) {
        if conn.word() as u16 == ECHO {
            conn.resume();
        }
    }

    fn report(&mut self, conn: &mut Conn<'_>, report: Report) {
        self.reports.push((conn.id(), report));
    }

    fn closed(&mut self, id: ConnId, _: u64, end: End, _: Instant) {
        self.live.retain(|_, live| *live != id);
        self.ended.push((id, end));
    }

    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        for (at, octet_out) in (offset..).zip(out) {
            *octet_out = if tag == GREET { GREETING[at as usize] } else { octet(at) };
        }
    }
}

/// Opens a connection to `remote`.
pub fn open(net: &mut Net<'_>, remote: SocketAddr) -> ConnId {
    net.connect(remote, 0).expect("a connection to open")
}
