//! An HTTP/1.1 server (RFC 9110, RFC 9112) that keeps nothing for a request that fits one segment.
//!
//! The usual request is parsed where it lies in the frame and answered by a fixed message, of which the engine
//! regenerates what it needs. An [`Exchange`] is taken for the rest: a head or a body that spans segments, an answer
//! with its own length or text, an answer that found no room. Requests are answered in order; while an exchange has
//! an answer to send, what follows it is left with the engine, which closes the window.

pub(crate) mod chunked;
mod request;

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use syncline_engine::app::Conn;

use self::chunked::ChunkReader;
use self::request::{Asked, Framing, HEAD_MAX, Parsed, Request, Status};
use super::payload;
use super::server::{ServeApp, ServerCounters, set_state, state, tag};
use super::slab::Slab;

/// Exchanges that may be open at once on a worker.
const EXCHANGES_MAX: u32 = 1 << SLOT_BITS;

/// A tag of an own answer: source, exchange, chunk.
const SLOT_BITS: u32 = 20;
const CHUNK_BITS: u32 = 10;

/// Octets of one message of an own answer.
const CHUNK: u64 = 1 << 27;

const _: () = assert!(2 + SLOT_BITS + CHUNK_BITS == 32);
const _: () = assert!(request::BODY_MAX + (HEAD_MAX as u64) < CHUNK << CHUNK_BITS);

/// An answer that is the same every time: head, then `body` octets of [`payload`].
#[derive(Debug)]
struct Fixed {
    head: Box<[u8]>,
    body: u64,
    /// The connection ends with it.
    last: bool,
}

/// The fixed answers of one listener, from `Fixed` number `first` on.
#[derive(Clone, Copy, Debug, Default)]
struct Defaults {
    first: u32,
    body: u64,
}

/// A request in progress that did not fit the fast path.
#[derive(Debug, Default)]
struct Exchange {
    phase: Phase,
    /// The request's head as far as it came; later the answer's.
    head: Vec<u8>,
    request: Option<Request>,
    left: Left,
    hash: Sha256,
    count: u64,
    /// Octets of [`payload`] that follow the answer's head.
    body: u64,
    /// The chunk of the answer to be queued next.
    next: u32,
    reply: Reply,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Collecting the head.
    #[default]
    Head,
    /// Reading the body.
    Body,
    /// Has an answer to queue, or to see acknowledged.
    Reply,
}

/// What is left of a request's body.
#[derive(Clone, Copy, Debug)]
enum Left {
    Octets(u64),
    Chunks(ChunkReader),
}

impl Default for Left {
    fn default() -> Self {
        Self::Octets(0)
    }
}

/// An answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reply {
    /// Fixed answer number so and so.
    Fixed(u32),
    /// What the exchange's head and body say; `true` if the connection ends with it.
    Own(bool),
    #[default]
    None,
}

/// The application's part of a connection's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const SLOT: u64 = 0xffff_ffff;
    /// Octets are waiting in the engine.
    const BLOCKED: u64 = 1 << 32;
    /// We have closed: what still comes is thrown away.
    const OVER: u64 = 1 << 33;
    /// The peer has closed.
    const FINISHED: u64 = 1 << 34;

    fn slot(self) -> Option<u32> {
        ((self.0 & Self::SLOT) as u32).checked_sub(1)
    }

    fn set_slot(&mut self, slot: Option<u32>) {
        self.0 = self.0 & !Self::SLOT | slot.map_or(0, |slot| u64::from(slot) + 1);
    }

    fn is(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
}

/// The HTTP servers of a worker.
#[derive(Debug)]
pub(super) struct Http {
    /// First the errors in the order of [`Status::ALL`], then `100 Continue`, then four for each listener.
    fixed: Vec<Fixed>,
    /// By listener.
    defaults: Vec<Defaults>,
    exchanges: Slab<Exchange>,
    counters: Arc<ServerCounters>,
}

const CONTINUE: u32 = Status::ALL.len() as u32;

fn head(last: bool, media: &str, length: u64) -> String {
    let connection = if last { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 200 OK\r\nServer: syncline\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    )
}

fn error(status: Status) -> Fixed {
    let line = status.line();
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD, POST, PUT\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {line}\r\nServer: syncline\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{allow}\
         Connection: close\r\n\r\n{line}\n",
        line.len() + 1
    );
    Fixed { head: head.into_bytes().into(), body: 0, last: true }
}

impl Http {
    pub(super) fn new(apps: &[ServeApp], counters: Arc<ServerCounters>) -> Self {
        let mut fixed: Vec<_> = Status::ALL.into_iter().map(error).collect();
        fixed.push(Fixed { head: (*b"HTTP/1.1 100 Continue\r\n\r\n").into(), body: 0, last: false });
        let mut defaults = vec![Defaults::default(); apps.len()];
        for (app, defaults) in apps.iter().zip(&mut defaults) {
            let ServeApp::Http { response_bytes } = *app else { continue };
            *defaults = Defaults { first: fixed.len() as u32, body: response_bytes };
            for (last, body) in [(false, response_bytes), (true, response_bytes), (false, 0), (true, 0)] {
                let head = head(last, "application/octet-stream", response_bytes).into_bytes().into();
                fixed.push(Fixed { head, body, last });
            }
        }
        Self { fixed, defaults, exchanges: Slab::new(EXCHANGES_MAX), counters }
    }

    #[inline]
    pub(super) fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let mut word = Word(state(conn));
        let mut pos = 0;
        while pos < data.len() && !word.is(Word::OVER) {
            match word.slot() {
                None => pos += self.begin(conn, &mut word, &data[pos..]),
                Some(slot) => match self.exchanges[slot].phase {
                    Phase::Head => pos += self.collect(conn, &mut word, slot, &data[pos..]),
                    Phase::Body => pos += self.upload(conn, &mut word, slot, &data[pos..]),
                    Phase::Reply => {
                        word.0 |= Word::BLOCKED;
                        set_state(conn, word.0);
                        return pos;
                    }
                },
            }
        }
        set_state(conn, word.0);
        data.len()
    }

    /// A request at the start of `data`, on a connection without an exchange. Returns the octets taken.
    fn begin(&mut self, conn: &mut Conn<'_>, word: &mut Word, data: &[u8]) -> usize {
        match request::parse(data) {
            Parsed::Whole(request, len) => {
                if request.framing == Framing::Length(0) && !matches!(request.asked, Asked::Digest) {
                    self.answer(conn, word, &request);
                } else if let Some(slot) = self.exchange(conn, word) {
                    self.expect_body(conn, slot, &request);
                    self.upload(conn, word, slot, &[]);
                }
                len
            }
            Parsed::Part => {
                if let Some(slot) = self.exchange(conn, word) {
                    self.exchanges[slot].head.extend_from_slice(data);
                }
                data.len()
            }
            Parsed::Bad(status) => {
                self.reply(conn, word, Reply::Fixed(status as u32));
                data.len()
            }
        }
    }

    /// More of a head that came in pieces. Returns the octets taken.
    fn collect(&mut self, conn: &mut Conn<'_>, word: &mut Word, slot: u32, data: &[u8]) -> usize {
        let head = &mut self.exchanges[slot].head;
        let before = head.len();
        head.extend_from_slice(&data[..data.len().min(HEAD_MAX - before)]);
        match request::parse(head) {
            Parsed::Whole(request, len) => {
                self.expect_body(conn, slot, &request);
                self.upload(conn, word, slot, &[]);
                len - before
            }
            Parsed::Part => head.len() - before,
            Parsed::Bad(status) => {
                self.reply(conn, word, Reply::Fixed(status as u32));
                data.len()
            }
        }
    }

    /// Gives the connection an exchange, or an error if there is none to be had.
    fn exchange(&mut self, conn: &mut Conn<'_>, word: &mut Word) -> Option<u32> {
        let slot = self.exchanges.take();
        match slot {
            Some(slot) => {
                let exchange = &mut self.exchanges[slot];
                exchange.head.clear();
                exchange.head.reserve(HEAD_MAX.min(1 << 10));
                *exchange = Exchange { head: core::mem::take(&mut exchange.head), ..Exchange::default() };
                word.set_slot(Some(slot));
            }
            None => self.reply(conn, word, Reply::Fixed(Status::Unavailable as u32)),
        }
        slot
    }

    fn expect_body(&mut self, conn: &mut Conn<'_>, slot: u32, request: &Request) {
        if request.expects && request.framing != Framing::Length(0) {
            let len = self.fixed[CONTINUE as usize].head.len() as u32;
            // Without room the client goes on by itself after a while (RFC 9110 §10.1.1).
            conn.send(tag::HTTP_FIXED | CONTINUE, len);
        }
        let exchange = &mut self.exchanges[slot];
        exchange.phase = Phase::Body;
        exchange.request = Some(*request);
        exchange.left = match request.framing {
            Framing::Length(octets) => Left::Octets(octets),
            Framing::Chunked => Left::Chunks(ChunkReader::default()),
        };
    }

    /// More of a request's body; answers when it is complete. Returns the octets taken.
    fn upload(&mut self, conn: &mut Conn<'_>, word: &mut Word, slot: u32, data: &[u8]) -> usize {
        let Exchange { left, hash, count, request, .. } = &mut self.exchanges[slot];
        let mut body = |octets: &[u8]| {
            hash.update(octets);
            *count += octets.len() as u64;
        };
        let read = match left {
            Left::Octets(left) => {
                let len = (*left).min(data.len() as u64) as usize;
                body(&data[..len]);
                *left -= len as u64;
                Ok((len, *left == 0))
            }
            Left::Chunks(reader) => reader.feed(data, body),
        };
        match read {
            Ok((len, false)) => len,
            Ok((len, true)) => {
                if let Some(request) = *request {
                    self.answer(conn, word, &request);
                }
                len
            }
            Err(_) => {
                self.reply(conn, word, Reply::Fixed(Status::BadRequest as u32));
                data.len()
            }
        }
    }

    /// Answers a request whose body has been read.
    fn answer(&mut self, conn: &mut Conn<'_>, word: &mut Word, request: &Request) {
        let listener = self.defaults[(conn.word() & 0xff) as usize];
        let last = !request.keep_alive;
        let own = match request.asked {
            Asked::Nothing(status) => return self.reply(conn, word, Reply::Fixed(status as u32)),
            Asked::Default if listener.body < CHUNK => {
                let which = u32::from(last) + 2 * u32::from(request.head_only);
                return self.reply(conn, word, Reply::Fixed(listener.first + which));
            }
            Asked::Default => Some(listener.body),
            Asked::Bytes(octets) => Some(octets),
            Asked::Digest => None,
        };
        let Some(slot) = word.slot().or_else(|| self.exchange(conn, word)) else { return };
        let exchange = &mut self.exchanges[slot];
        exchange.head.clear();
        exchange.body = match own {
            Some(length) => {
                exchange.head.extend_from_slice(head(last, "application/octet-stream", length).as_bytes());
                if request.head_only { 0 } else { length }
            }
            None => {
                let text = digest(exchange.count, &exchange.hash);
                exchange.head.extend_from_slice(head(last, "text/plain", text.len() as u64).as_bytes());
                exchange.head.extend_from_slice(text.as_bytes());
                0
            }
        };
        self.reply(conn, word, Reply::Own(last));
    }

    /// Queues an answer, or keeps it until there is room.
    fn reply(&mut self, conn: &mut Conn<'_>, word: &mut Word, reply: Reply) {
        match reply {
            Reply::Fixed(number) if number < CONTINUE => self.counters.errors.increment(),
            _ => self.counters.requests.increment(),
        }
        if let Reply::Fixed(number) = reply {
            if self.send_fixed(conn, word, number) {
                return self.release(word);
            }
            if word.slot().is_none() && self.exchanges.take().map(|slot| word.set_slot(Some(slot))).is_none() {
                return conn.abort();
            }
        }
        let Some(slot) = word.slot() else { return };
        let exchange = &mut self.exchanges[slot];
        (exchange.phase, exchange.reply, exchange.next) = (Phase::Reply, reply, 0);
        self.send_own(conn, word, slot);
    }

    #[inline]
    fn send_fixed(&self, conn: &mut Conn<'_>, word: &mut Word, number: u32) -> bool {
        let fixed = &self.fixed[number as usize];
        let sent = conn.send(tag::HTTP_FIXED | number, (fixed.head.len() as u64 + fixed.body) as u32);
        if sent && fixed.last {
            word.0 |= Word::OVER;
            conn.close();
        }
        sent
    }

    /// Queues what there is room for of an exchange's own answer.
    fn send_own(&mut self, conn: &mut Conn<'_>, word: &mut Word, slot: u32) {
        let exchange = &mut self.exchanges[slot];
        let Reply::Own(last) = exchange.reply else { return };
        let total = exchange.head.len() as u64 + exchange.body;
        while u64::from(exchange.next) * CHUNK < total {
            let len = (total - u64::from(exchange.next) * CHUNK).min(CHUNK);
            if !conn.send(tag::HTTP_OWN | slot << CHUNK_BITS | exchange.next, len as u32) {
                if conn.queued() == 0 {
                    conn.abort();
                }
                return;
            }
            exchange.next += 1;
        }
        if last && !word.is(Word::OVER) {
            word.0 |= Word::OVER;
            conn.close();
        }
    }

    pub(super) fn sent(&mut self, conn: &mut Conn<'_>) {
        let mut word = Word(state(conn));
        let Some(slot) = word.slot() else { return };
        if self.exchanges[slot].phase != Phase::Reply {
            return;
        }
        match self.exchanges[slot].reply {
            Reply::Fixed(number) if self.send_fixed(conn, &mut word, number) => self.release(&mut word),
            Reply::Own(_) => {
                self.send_own(conn, &mut word, slot);
                if conn.queued() == 0 {
                    self.release(&mut word);
                }
            }
            _ => {}
        }
        if word.slot().is_none() {
            if word.is(Word::FINISHED) {
                conn.close();
            } else if word.is(Word::BLOCKED) {
                word.0 &= !Word::BLOCKED;
                conn.resume();
            }
        }
        set_state(conn, word.0);
    }

    /// The peer has closed: so do we, after the answer that is under way.
    pub(super) fn finished(&mut self, conn: &mut Conn<'_>) {
        let mut word = Word(state(conn));
        word.0 |= Word::FINISHED;
        set_state(conn, word.0);
        match word.slot() {
            Some(slot) if self.exchanges[slot].phase == Phase::Reply => {}
            _ => conn.close(),
        }
    }

    pub(super) fn closed(&mut self, state: u64) {
        self.release(&mut Word(state));
    }

    fn release(&mut self, word: &mut Word) {
        if let Some(slot) = word.slot() {
            self.exchanges.give_back(slot);
            word.set_slot(None);
        }
    }

    pub(super) fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        let (head, at) = if tag & tag::SOURCE == tag::HTTP_FIXED {
            (&*self.fixed[(tag & !tag::SOURCE) as usize].head, u64::from(offset))
        } else {
            let exchange = &self.exchanges[(tag & !tag::SOURCE) >> CHUNK_BITS];
            let chunk = u64::from(tag & ((1 << CHUNK_BITS) - 1));
            (&*exchange.head, chunk * CHUNK + u64::from(offset))
        };
        let from = at.min(head.len() as u64) as usize;
        let (of_head, of_body) = out.split_at_mut(out.len().min(head.len() - from));
        of_head.copy_from_slice(&head[from..from + of_head.len()]);
        if !of_body.is_empty() {
            payload::fill(at + of_head.len() as u64 - head.len() as u64, of_body);
        }
    }
}

/// The answer to an upload: the count of octets and their SHA-256, as `sha256sum` prints it.
fn digest(count: u64, hash: &Sha256) -> String {
    let mut text = format!("{count} ");
    for octet in hash.clone().finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
    }
    text.push('\n');
    text
}
