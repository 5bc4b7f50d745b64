//! The application of a serving worker: one of the contract's servers for each listener.

use std::sync::Arc;
use std::time::SystemTime;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::stats::Counter;
use syncline_engine::time::Instant;

use super::daytime::Daytime;
use super::delay::{Delay, Delays};
use super::http::Http;
use super::{chargen, payload};

/// What a listener's connections talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeApp {
    /// RFC 862: sends back what it reads, stops reading while it cannot write, closes when the peer's FIN came and all
    /// is sent back.
    Echo,
    /// RFC 863: reads and says nothing.
    Discard,
    /// RFC 867: greets with a line, closes its own side at once, reads until the peer's FIN.
    Daytime,
    /// RFC 864: sends text until the peer's FIN.
    Chargen,
    /// Reads `request_bytes`, sends `response_bytes` of [`payload`] with FIN on the last segment.
    Respond {
        /// Octets of a request; 0 answers without one.
        request_bytes: u64,
        /// Octets of the answer.
        response_bytes: u64,
    },
    /// HTTP/1.1: `GET /bytes/N` answers `N` octets of [`payload`], any other path `response_bytes` of them; `POST` and
    /// `PUT` answer how many octets arrived, and their SHA-256.
    Http {
        /// Octets of the default body.
        response_bytes: u64,
    },
}

/// What a server counts beyond its worker: one writer, readable by anyone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServerCounters {
    /// Requests answered, or connections greeted.
    pub requests: Counter,
    /// HTTP requests answered with an error.
    pub errors: Counter,
    /// Connections that were closed cleanly.
    pub completed: Counter,
    /// Connections that ended any other way.
    pub broken: Counter,
}

/// Messages of [`Conn::send`] say by their highest bits who regenerates them.
pub(super) mod tag {
    /// Which part of a tag names the source.
    pub(crate) const SOURCE: u32 = 3 << 30;
    /// [`payload`](crate::apps::payload), from chunk `tag` on.
    pub(crate) const PAYLOAD: u32 = 0;
    /// [`chargen`](super::chargen).
    pub(crate) const CHARGEN: u32 = 1 << 30;
    /// A fixed HTTP answer.
    pub(crate) const HTTP_FIXED: u32 = 2 << 30;
    /// An HTTP answer of its own.
    pub(crate) const HTTP_OWN: u32 = 3 << 30;
}

/// Octets of one message of a long answer.
const CHUNK: u64 = 1 << 26;

/// Bits of a connection's word that hold its listener; the application's state is above them.
const LISTENER_BITS: u32 = 8;

/// The most listeners a [`Server`] can serve.
pub const LISTENERS_MAX: usize = 1 << LISTENER_BITS;

/// The longest answer of `respond` and `http`, octets: 64 GiB.
pub const RESPONSE_MAX: u64 = 1 << 36;

/// Servers that cannot be: what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeError(pub String);

impl core::fmt::Display for ServeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ServeError {}

/// The application's part of a connection's word.
#[inline]
pub(super) fn state(conn: &Conn<'_>) -> u64 {
    conn.word() >> LISTENER_BITS
}

/// Replaces the application's part of a connection's word.
#[inline]
pub(super) fn set_state(conn: &mut Conn<'_>, state: u64) {
    conn.set_word(conn.word() & ((1 << LISTENER_BITS) - 1) | state << LISTENER_BITS);
}

/// The application of a serving worker.
#[derive(Debug)]
pub struct Server {
    apps: Box<[ServeApp]>,
    http: Http,
    daytime: Daytime,
    /// Answers of `respond` that have to wait.
    delays: Option<Delays>,
    counters: Arc<ServerCounters>,
}

impl Server {
    /// A server with one application per listener, in the order of the engine's configuration. `wall_at_origin` is
    /// the wall clock at the worker's [`Instant::ZERO`].
    ///
    /// # Errors
    /// If there are more than [`LISTENERS_MAX`] listeners, or an answer is longer than [`RESPONSE_MAX`].
    pub fn new(apps: &[ServeApp], wall_at_origin: SystemTime) -> Result<Self, ServeError> {
        if apps.len() > LISTENERS_MAX {
            return Err(ServeError(format!("{} listeners are more than {LISTENERS_MAX}", apps.len())));
        }
        for app in apps {
            if let ServeApp::Respond { response_bytes, .. } | ServeApp::Http { response_bytes } = *app
                && response_bytes > RESPONSE_MAX
            {
                return Err(ServeError(format!("an answer of {response_bytes} octets is longer than {RESPONSE_MAX}")));
            }
        }
        let counters = Arc::new(ServerCounters::default());
        Ok(Self {
            apps: apps.into(),
            http: Http::new(apps, Arc::clone(&counters)),
            daytime: Daytime::new(wall_at_origin),
            delays: None,
            counters,
        })
    }

    /// The server with the answers of `respond` put off, by times drawn from `seed`.
    #[must_use]
    pub fn with_delay(self, delay: Delay, seed: u64) -> Self {
        Self { delays: Some(Delays::new(delay, seed)), ..self }
    }

    /// The counters, for whoever reports.
    pub fn counters(&self) -> Arc<ServerCounters> {
        Arc::clone(&self.counters)
    }

    /// A request of `respond` has been read.
    #[inline]
    fn answer(&mut self, conn: &mut Conn<'_>, response_bytes: u64) {
        self.counters.requests.increment();
        match &mut self.delays {
            None => respond(conn, response_bytes),
            Some(delays) => Respond::Waiting(delays.put_off(conn.id(), conn.now())).keep(conn),
        }
    }

    #[inline]
    fn app(&self, word: u64) -> ServeApp {
        self.apps[word as usize & (LISTENERS_MAX - 1)]
    }

    /// An application that says something as soon as its peer is there does so.
    #[inline(never)]
    fn greet(&mut self, conn: &mut Conn<'_>, app: ServeApp) {
        match app {
            ServeApp::Daytime => {
                conn.write(self.daytime.line(conn.now()));
                conn.close();
                self.counters.requests.increment();
            }
            ServeApp::Chargen => {
                generate(conn);
                self.counters.requests.increment();
            }
            ServeApp::Respond { response_bytes, .. } => self.answer(conn, response_bytes),
            ServeApp::Echo | ServeApp::Discard | ServeApp::Http { .. } => {}
        }
    }
}

impl App for Server {
    #[inline]
    fn accepted(&mut self, conn: &mut Conn<'_>, listener: usize) {
        conn.set_word(listener as u64);
        let app = self.apps[listener];
        if matches!(app, ServeApp::Daytime | ServeApp::Chargen | ServeApp::Respond { request_bytes: 0, .. }) {
            self.greet(conn, app);
        }
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        // A server opens nothing.
        conn.abort();
    }

    #[inline]
    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        match self.app(conn.word()) {
            ServeApp::Respond { request_bytes, response_bytes } => {
                if let Respond::Reading(read) = Respond::of(conn) {
                    let read = read + data.len() as u64;
                    if read < request_bytes {
                        Respond::Reading(read).keep(conn);
                    } else {
                        self.answer(conn, response_bytes);
                    }
                }
                data.len()
            }
            ServeApp::Echo => echo(conn, data),
            ServeApp::Http { .. } => self.http.received(conn, data),
            ServeApp::Discard | ServeApp::Daytime | ServeApp::Chargen => data.len(),
        }
    }

    #[inline]
    fn finished(&mut self, conn: &mut Conn<'_>) {
        match self.app(conn.word()) {
            ServeApp::Http { .. } => self.http.finished(conn),
            ServeApp::Respond { .. } if !matches!(Respond::of(conn), Respond::Reading(_)) => {}
            _ => conn.close(),
        }
    }

    #[inline]
    fn sent(&mut self, conn: &mut Conn<'_>) {
        match self.app(conn.word()) {
            ServeApp::Echo if state(conn) == BLOCKED => {
                set_state(conn, 0);
                conn.resume();
            }
            ServeApp::Chargen => generate(conn),
            ServeApp::Respond { response_bytes, .. } => {
                if let Respond::Sending(next) = Respond::of(conn) {
                    respond_from(conn, next, response_bytes);
                }
            }
            ServeApp::Http { .. } => self.http.sent(conn),
            ServeApp::Echo | ServeApp::Discard | ServeApp::Daytime => {}
        }
    }

    #[inline]
    fn closed(&mut self, _: ConnId, word: u64, end: End, _: Instant) {
        if let ServeApp::Http { .. } = self.app(word) {
            self.http.closed(word >> LISTENER_BITS);
        }
        match end {
            End::Closed => self.counters.completed.increment(),
            _ => self.counters.broken.increment(),
        }
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let Some(delays) = &mut self.delays else { return };
        let now = net.now();
        while let Some((id, serial)) = delays.pop(now) {
            let Some(mut conn) = net.conn(id) else { continue };
            if let ServeApp::Respond { response_bytes, .. } = self.apps[conn.word() as usize & (LISTENERS_MAX - 1)]
                && Respond::of(&conn) == Respond::Waiting(serial)
            {
                respond(&mut conn, response_bytes);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.delays.as_ref().and_then(Delays::next)
    }

    #[inline]
    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        match tag & tag::SOURCE {
            tag::PAYLOAD => payload::fill(u64::from(tag) * CHUNK + u64::from(offset), out),
            tag::CHARGEN => chargen::fill(offset, out),
            _ => self.http.fill(tag, offset, out),
        }
    }
}

/// State of an echo connection that did not take all it was offered.
const BLOCKED: u64 = 1;

fn echo(conn: &mut Conn<'_>, data: &[u8]) -> usize {
    let taken = conn.write(data);
    if taken < data.len() {
        if conn.queued() == 0 {
            // Without memory for a single octet nothing would ever wake this connection.
            conn.abort();
        }
        set_state(conn, BLOCKED);
    }
    taken
}

fn generate(conn: &mut Conn<'_>) {
    while conn.send(tag::CHARGEN, chargen::MESSAGE) {}
}

/// Where a `respond` connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Respond {
    /// Has read so many octets.
    Reading(u64),
    /// Has yet to queue this chunk of the answer.
    Sending(u64),
    /// Has queued everything.
    Done,
    /// Has read its request, and this answer is put off.
    Waiting(u64),
}

impl Respond {
    #[inline]
    fn of(conn: &Conn<'_>) -> Self {
        let state = state(conn);
        match state & 3 {
            0 => Self::Reading(state >> 2),
            1 => Self::Sending(state >> 2),
            2 => Self::Done,
            _ => Self::Waiting(state >> 2),
        }
    }

    #[inline]
    fn keep(self, conn: &mut Conn<'_>) {
        set_state(
            conn,
            match self {
                Self::Reading(octets) => octets << 2,
                Self::Sending(chunk) => chunk << 2 | 1,
                Self::Done => 2,
                Self::Waiting(serial) => serial << 2 | 3,
            },
        );
    }
}

/// Queues the answer, and the FIN behind it.
#[inline]
fn respond(conn: &mut Conn<'_>, response_bytes: u64) {
    // Most answers are one message
    if (1..=CHUNK).contains(&response_bytes) && conn.send(tag::PAYLOAD, response_bytes as u32) {
        Respond::Done.keep(conn);
        return conn.close();
    }
    respond_from(conn, 0, response_bytes);
}

/// Queues the answer from chunk `next` on, as far as there is room, and the FIN behind it.
#[inline(never)]
fn respond_from(conn: &mut Conn<'_>, mut next: u64, response_bytes: u64) {
    while next * CHUNK < response_bytes {
        let len = (response_bytes - next * CHUNK).min(CHUNK);
        if !conn.send(tag::PAYLOAD | next as u32, len as u32) {
            if conn.queued() == 0 {
                conn.abort();
            }
            return Respond::Sending(next).keep(conn);
        }
        next += 1;
    }
    Respond::Done.keep(conn);
    conn.close();
}
