//! Two workers joined by the in-process ring, stepped in turns on one thread. Time is virtual, a fixed piece for each
//! step, and every secret is fixed: the same exchange takes the same instructions every time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::ring::{self, RingDevice};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::Instant;
use syncline_engine::worker::Worker;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
const SECRETS: Secrets = Secrets::new([1, 2], [3, 4], [5, 6]);

/// Frames of each end, and octets of the largest: IP packets of 1,500.
const FRAMES: usize = 8192;
const FRAME_BYTES: u16 = 1522;

/// Octets of payload in a full segment with timestamps.
pub const SEGMENT_BYTES: u64 = 1448;

/// Virtual time of one step: what 60 packets take at three million a second.
const STEP: Duration = Duration::from_micros(20);

/// Octets of a request and of a response.
const MESSAGE_BYTES: u32 = 64;

/// A worker on its side of the ring.
pub type Side<A> = Worker<RingDevice, A, HeapPages>;

/// Two ends and the time they live in.
pub struct Pair<C: App, S: App> {
    /// The end that opens connections.
    pub client: Side<C>,
    /// The end that listens.
    pub server: Side<S>,
    now: Instant,
}

impl<C: App, S: App> Pair<C, S> {
    /// `client` on 2,303 addresses, `server` on one; all of TCP that the defaults turn on, TIME-WAIT of 60 s.
    ///
    /// # Panics
    /// If the configuration is refused: it is fixed.
    pub fn new(client: C, server: S) -> Self {
        let (a, b) = ring::pair(FRAMES, FRAME_BYTES).expect("a ring of a usual size");
        let mut listening = config([10, 0, 0, 1], [10, 0, 0, 1]);
        listening.listeners = vec![Listener { first_port: 80, last_port: 80, syn_cookies: SynCookies::Never }];
        let opening = config([10, 1, 0, 1], [10, 1, 8, 255]);
        Self {
            client: Worker::new(&opening, &SECRETS, b, client, HeapPages::new()).expect("the client's configuration"),
            server: Worker::new(&listening, &SECRETS, a, server, HeapPages::new()).expect("the server's configuration"),
            now: Instant::from_millis(1),
        }
    }

    /// One pass of either end.
    pub fn step(&mut self) {
        self.client.poll(&self.now);
        self.server.poll(&self.now);
        self.now = self.now + STEP;
    }
}

fn config(first: [u8; 4], last: [u8; 4]) -> Config {
    let mut config = Config {
        addresses: vec![AddressRange { first: first.into(), last: last.into(), prefix_len: 8 }],
        ..Config::default()
    };
    config.tcp.piggyback = true;
    config
}

/// Opens, sends a request, reads the response up to the FIN, closes; always so many connections at once.
pub struct Requester {
    in_flight_max: u32,
    in_flight: u32,
    /// Connections that both FINs ended.
    pub done: u64,
    /// Connections that ended otherwise.
    pub failed: u64,
}

/// Answers a request and closes, with the FIN on the response.
pub struct Responder;

/// Connection, request, response: three packets each way.
pub fn connections(in_flight: u32) -> Pair<Requester, Responder> {
    Pair::new(Requester { in_flight_max: in_flight, in_flight: 0, done: 0, failed: 0 }, Responder)
}

impl App for Requester {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        conn.send(1, MESSAGE_BYTES);
    }

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        conn.close();
    }

    fn closed(&mut self, _: ConnId, _: u64, end: End, _: Instant) {
        self.in_flight -= 1;
        match end {
            End::Closed => self.done += 1,
            _ => self.failed += 1,
        }
    }

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'q');
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let mut wanted = 64.min(self.in_flight_max - self.in_flight);
        while wanted > 0 && net.room() > 0 && net.connect(SERVER, 0).is_ok() {
            self.in_flight += 1;
            wanted -= 1;
        }
    }
}

impl App for Responder {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        conn.send(1, MESSAGE_BYTES);
        conn.close();
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'x');
    }
}

/// Opens one connection and sends without end.
pub struct Source {
    opened: bool,
}

/// Reads and forgets.
pub struct Sink;

/// One connection with full segments in one direction.
pub fn bulk() -> Pair<Source, Sink> {
    Pair::new(Source { opened: false }, Sink)
}

impl Source {
    /// Octets queued at a time: far more than the window, so that it is never the source that holds back.
    const CHUNK: u32 = 64 << 20;
}

impl App for Source {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, conn: &mut Conn<'_>) {
        conn.send(1, Self::CHUNK);
    }

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn sent(&mut self, conn: &mut Conn<'_>) {
        if conn.queued() < Self::CHUNK {
            conn.send(1, Self::CHUNK);
        }
    }

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'b');
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        if !self.opened {
            self.opened = net.connect(SERVER, 0).is_ok();
        }
    }
}

impl App for Sink {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}

    fn fill(&self, _: u32, _: u32, _: &mut [u8]) {}
}

/// Steps until so many connections are done.
///
/// # Panics
/// If one fails: the link loses nothing.
pub fn run_connections(pair: &mut Pair<Requester, Responder>, count: u64) {
    let until = pair.client.app().done + count;
    while pair.client.app().done < until {
        pair.step();
        assert_eq!(pair.client.app().failed, 0, "a connection failed on a link that loses nothing");
    }
}

/// Steps until so many full segments' worth of payload has arrived.
pub fn run_segments(pair: &mut Pair<Source, Sink>, count: u64) {
    let until = pair.server.stats().payload_received.get() + count * SEGMENT_BYTES;
    while pair.server.stats().payload_received.get() < until {
        pair.step();
    }
}
