//! The application of one host: plays its end of every connection's script, and checks what arrives.

use core::cell::RefCell;
use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;

use syncline_engine::app::{App, Conn, ConnId, End as Ended, Net};
use syncline_engine::device::link::End;
use syncline_engine::time::Instant;

use crate::chance::Chance;
use crate::plan::Plan;
use crate::script::{self, MESSAGE_BITS, Role, Script};

/// The port both hosts listen on.
pub(crate) const PORT: u16 = 7;

/// When an application tries again for which there was no buffer.
const RETRY: Duration = Duration::from_millis(50);

/// Who opens a connection.
pub(crate) fn opener(number: u32) -> End {
    if number % 3 == 2 { End::B } else { End::A }
}

fn role(number: u32, end: End) -> Role {
    usize::from(opener(number) != end)
}

/// What is known of one end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Half {
    /// It became open.
    pub(crate) begun: bool,
    /// Octets that arrived.
    pub(crate) received: u32,
    /// The peer's FIN came.
    pub(crate) finished: bool,
    /// How it ended; its host may have gone instead.
    pub(crate) ended: Option<Ended>,
    /// Its host started again under it.
    pub(crate) gone: bool,
    /// It aborted.
    pub(crate) aborted: bool,
}

/// What both hosts and the observer share.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Connection of each opener's port that is open or being closed.
    openers: BTreeMap<SocketAddr, u32>,
    /// Both ends of every connection, by role.
    pub(crate) halves: Vec<[Half; 2]>,
    /// The opener's port.
    pub(crate) ports: Vec<u16>,
    /// The first thing that was wrong, and with which connection.
    pub(crate) fault: Option<(Option<u32>, String)>,
    /// Everything applications saw, folded.
    pub(crate) digest: u64,
}

impl Book {
    pub(crate) fn new(connections: u32) -> Self {
        Self {
            halves: vec![Default::default(); connections as usize],
            ports: vec![0; connections as usize],
            ..Self::default()
        }
    }

    fn blame(&mut self, number: u32, what: String) {
        self.fault.get_or_insert((Some(number), what));
    }

    fn note(&mut self, words: [u64; 3]) {
        for word in words {
            self.digest = (self.digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
}

/// A connection that this host has open.
#[derive(Clone, Copy, Debug)]
struct Live {
    number: u32,
    script: Script,
    queued: u32,
    messages: u32,
    thinking: bool,
    pauses_left: u32,
    paused: bool,
    closed: bool,
}

/// What is to be done at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Open(u32),
    Think(u32, u32),
    Resume(u32, u32),
}

/// One host's application.
pub(crate) struct Side {
    plan: Rc<Plan>,
    end: End,
    remote: SocketAddr,
    pub(crate) book: Rc<RefCell<Book>>,
    live: Vec<Option<Live>>,
    pub(crate) open: u32,
    due: BinaryHeap<Reverse<(Instant, Act)>>,
    scratch: Vec<u8>,
    abort_all: bool,
}

impl Side {
    pub(crate) fn new(plan: Rc<Plan>, end: End, remote: SocketAddr, book: Rc<RefCell<Book>>) -> Self {
        let mut due = BinaryHeap::new();
        for number in (0..plan.connections).filter(|&number| opener(number) == end) {
            let at = Chance::new(plan.seed, 500 + u64::from(number) * 7919).between(0, plan.span.as_nanos() as u64);
            due.push(Reverse((Instant::from_nanos(at), Act::Open(number))));
        }
        Self { plan, end, remote, book, live: Vec::new(), open: 0, due, scratch: vec![0; 4096], abort_all: false }
    }

    /// The application of the same host after it started again: its connections are gone, those it has yet to open are
    /// not.
    pub(crate) fn again(&self) -> Self {
        let mut book = self.book.borrow_mut();
        for live in self.live.iter().flatten() {
            book.halves[live.number as usize][role(live.number, self.end)].gone = true;
        }
        drop(book);
        let due = self.due.iter().filter(|due| matches!(due.0.1, Act::Open(_))).copied().collect();
        Self {
            plan: Rc::clone(&self.plan),
            end: self.end,
            remote: self.remote,
            book: Rc::clone(&self.book),
            live: Vec::new(),
            open: 0,
            due,
            scratch: vec![0; 4096],
            abort_all: false,
        }
    }

    /// Whether every connection has been opened, and is over.
    pub(crate) fn is_done(&self) -> bool {
        self.open == 0 && !self.due.iter().any(|due| matches!(due.0.1, Act::Open(_)))
    }

    /// Ends what is left: peers of a host that started again may wait for ever.
    pub(crate) fn abort_all(&mut self) {
        self.abort_all = true;
    }

    /// Numbers of the connections that are open here.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (u32, ConnId)> + '_ {
        self.live.iter().zip(0..).filter_map(|(live, id)| live.as_ref().map(|live| (live.number, ConnId(id))))
    }

    fn begin(&mut self, conn: &mut Conn<'_>, number: u32) {
        let role = role(number, self.end);
        let script = Script::new(self.plan.seed, self.plan.aborts, number, role);
        let mut book = self.book.borrow_mut();
        book.note([1, u64::from(number), conn.now().nanos()]);
        let half = &mut book.halves[number as usize][role];
        if half.begun {
            book.blame(number, format!("{:?} got it a second time", self.end));
        } else {
            half.begun = true;
        }
        drop(book);
        let slot = conn.id().0 as usize;
        if self.live.len() <= slot {
            self.live.resize(slot + 1, None);
        }
        let pauses_left = script.reader.map_or(0, |reader| reader.times);
        self.live[slot] = Some(Live {
            number,
            script,
            queued: 0,
            messages: 0,
            thinking: false,
            pauses_left,
            paused: false,
            closed: false,
        });
        self.open += 1;
        conn.set_word(u64::from(number) + 1);
        self.pump(conn);
    }

    fn live(&mut self, conn: &Conn<'_>) -> Option<&mut Live> {
        let number = (conn.word() as u32).wrapping_sub(1);
        self.live.get_mut(conn.id().0 as usize)?.as_mut().filter(|live| live.number == number)
    }

    /// Queues what the script says and there is room for; closes or aborts when its time has come.
    fn pump(&mut self, conn: &mut Conn<'_>) {
        let (end, mut scratch) = (self.end, core::mem::take(&mut self.scratch));
        let Some(live) = self.live(conn) else {
            self.scratch = scratch;
            return;
        };
        let (number, script) = (live.number, live.script);
        let mut think = None;
        while live.queued < script.total && !live.thinking && !live.closed {
            let boundary = (live.queued / script.chunk + 1) * script.chunk;
            let len = boundary.min(script.total) - live.queued;
            let queued = if script.generated {
                let tag = number << MESSAGE_BITS | live.messages;
                if conn.send(tag, len) { len } else { 0 }
            } else {
                let piece = &mut scratch[..(len as usize).min(4096)];
                script::octets(number, role(number, end), live.queued, piece);
                conn.write(piece) as u32
            };
            if queued == 0 {
                if conn.queued() == 0 {
                    // the host's buffers are full, and no callback will say when they are not
                    live.thinking = true;
                    think = Some(conn.now() + RETRY);
                }
                break;
            }
            live.queued += queued;
            if live.queued % script.chunk == 0 {
                live.messages += 1;
                if let Some(pause) = script.think.filter(|_| live.queued < script.total) {
                    live.thinking = true;
                    think = Some(conn.now() + pause);
                }
            }
        }
        let all = live.queued == script.total;
        let (queued, was_closed) = (live.queued, live.closed);
        self.scratch = scratch;
        if let Some(at) = think {
            self.due.push(Reverse((at, Act::Think(number, conn.id().0))));
        }
        let half = self.book.borrow().halves[number as usize][role(number, self.end)];
        if script.abort_at.is_some_and(|at| half.received + queued >= at) {
            self.book.borrow_mut().halves[number as usize][role(number, self.end)].aborted = true;
            return conn.abort();
        }
        if all && !was_closed && (!script.waits_for_peer || half.finished) {
            if let Some(live) = self.live(conn) {
                live.closed = true;
            }
            conn.close();
        }
    }

    fn connect(&mut self, net: &mut Net<'_>, number: u32) {
        if let Err(error) = net.connect(self.remote, u64::from(number) + 1) {
            self.book.borrow_mut().blame(number, format!("{:?} cannot open it: {error}", self.end));
        }
        // counted from here on: a failed open has `closed` alone
        self.open += 1;
    }
}

impl App for Side {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        let remote = conn.endpoints().remote;
        let number = self.book.borrow().openers.get(&remote).copied();
        match number {
            Some(number) if opener(number) != self.end => self.begin(conn, number),
            _ => {
                let what = format!("{:?} accepted a connection from {remote} that nobody has open", self.end);
                self.book.borrow_mut().fault.get_or_insert((None, what));
            }
        }
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        let number = (conn.word() as u32).wrapping_sub(1);
        let local = conn.endpoints().local;
        let mut book = self.book.borrow_mut();
        book.openers.insert(local, number);
        book.ports[number as usize] = local.port();
        drop(book);
        self.open -= 1;
        self.begin(conn, number);
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let (now, end, id) = (conn.now(), self.end, conn.id().0);
        let book = Rc::clone(&self.book);
        let mut book = book.borrow_mut();
        let Some(live) = self.live(conn) else {
            book.fault.get_or_insert((None, format!("{end:?} received octets for a connection that it does not have")));
            return data.len();
        };
        let (number, script) = (live.number, live.script);
        let take = match script.reader {
            Some(reader) if live.pauses_left > 0 => data.len().min(reader.takes as usize),
            _ => data.len(),
        };
        let pause = take < data.len();
        if pause {
            live.pauses_left -= 1;
            live.paused = true;
        }
        let from = 1 - role(number, end);
        let half = &mut book.halves[number as usize][1 - from];
        let offset = half.received;
        let mut expected = [0; 2048];
        let mut at = 0;
        while at < data.len() {
            let n = (data.len() - at).min(expected.len());
            script::octets(number, from, offset + at as u32, &mut expected[..n]);
            if expected[..n] != data[at..at + n] {
                book.blame(number, format!("{end:?} received wrong octets at {}", offset + at as u32));
                break;
            }
            at += n;
        }
        let half = &mut book.halves[number as usize][1 - from];
        half.received += take as u32;
        let (got, finished) = (half.received, half.finished);
        let total = Script::new(self.plan.seed, self.plan.aborts, number, from).total;
        if got > total || finished {
            book.blame(number, format!("{end:?} received {got} octets of {total}, finished before: {finished}"));
        }
        book.note([2, u64::from(number) << 32 | u64::from(got), now.nanos()]);
        drop(book);
        if pause && let Some(reader) = script.reader {
            self.due.push(Reverse((now + reader.pause, Act::Resume(number, id))));
        }
        if script.abort_at.is_some() {
            self.pump(conn);
        }
        take
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        let end = self.end;
        let Some(number) = self.live(conn).map(|live| live.number) else { return };
        let from = 1 - role(number, end);
        let total = Script::new(self.plan.seed, self.plan.aborts, number, from).total;
        let mut book = self.book.borrow_mut();
        book.note([3, u64::from(number), conn.now().nanos()]);
        let half = &mut book.halves[number as usize][1 - from];
        if half.finished || half.received != total {
            let what =
                format!("{end:?} got a FIN after {} of {total} octets, before: {}", half.received, half.finished);
            book.blame(number, what);
        } else {
            half.finished = true;
        }
        drop(book);
        self.pump(conn);
    }

    fn sent(&mut self, conn: &mut Conn<'_>) {
        self.pump(conn);
    }

    fn closed(&mut self, id: ConnId, word: u64, ended: Ended, now: Instant) {
        let number = (word as u32).wrapping_sub(1);
        self.open -= 1;
        let mut book = self.book.borrow_mut();
        book.note([4, u64::from(number) << 8 | ended as u64, now.nanos()]);
        let live = self.live.get_mut(id.0 as usize).and_then(Option::take);
        if live.is_some_and(|live| live.number != number) {
            book.blame(number, format!("{:?} closed connection {id:?} under a wrong name", self.end));
        }
        let half = &mut book.halves[number as usize][role(number, self.end)];
        let again = half.ended.replace(ended).is_some();
        let short = ended == Ended::Closed && !half.finished;
        if again || short {
            let what =
                format!("{:?} closed it with {ended:?}: again {again}, without the peer's FIN {short}", self.end);
            book.blame(number, what);
        }
    }

    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        let (number, message) = (tag >> MESSAGE_BITS, tag & ((1 << MESSAGE_BITS) - 1));
        let role = role(number, self.end);
        let script = Script::new(self.plan.seed, self.plan.aborts, number, role);
        script::octets(number, role, message * script.chunk + offset, out);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        if core::mem::take(&mut self.abort_all) {
            let left: Vec<_> = self.numbers().collect();
            for (number, id) in left {
                if let Some(mut conn) = net.conn(id) {
                    self.book.borrow_mut().halves[number as usize][role(number, self.end)].aborted = true;
                    conn.abort();
                }
            }
        }
        while let Some(&Reverse((at, act))) = self.due.peek() {
            if at > net.now() {
                return;
            }
            if matches!(act, Act::Open(_)) && net.room() == 0 {
                return;
            }
            self.due.pop();
            let (number, id) = match act {
                Act::Open(number) => {
                    self.connect(net, number);
                    continue;
                }
                Act::Think(number, id) | Act::Resume(number, id) => (number, id),
            };
            let Some(Some(live)) = self.live.get_mut(id as usize) else { continue };
            if live.number != number {
                continue;
            }
            let Some(mut conn) = net.conn(ConnId(id)) else { continue };
            if matches!(act, Act::Think(..)) {
                live.thinking = false;
                self.pump(&mut conn);
            } else {
                live.paused = false;
                conn.resume();
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.due.peek().map(|due| due.0.0)
    }
}
