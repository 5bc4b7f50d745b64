//! Sockets: what stands between a file descriptor and a connection of the engine.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use syncline_engine::app::{App, Conn, ConnId, End, Endpoints, Net};
use syncline_engine::tcp::State;
use syncline_engine::time::Instant;

use crate::options::Options;
use crate::settings::Settings;

/// What is said so soon after the peer has spoken is an answer.
const ANSWER_TIME: Duration = Duration::from_millis(40);

/// What a socket is.
#[derive(Debug)]
pub(crate) enum Role {
    /// Neither connected nor listening.
    Fresh,
    /// Listening: the engine's number of the listener, connections not accepted yet, and how many there may be.
    Listening { listener: usize, queue: VecDeque<usize>, backlog: usize },
    /// A connection, or what is left of one.
    Connection(Link),
}

/// A socket's connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Its name while it lives.
    pub(crate) id: Option<ConnId>,
    pub(crate) endpoints: Option<Endpoints>,
    /// The handshake is complete.
    pub(crate) open: bool,
    /// How it ended.
    pub(crate) end: Option<End>,
    /// Octets taken from the engine and not read yet.
    pub(crate) inbox: VecDeque<u8>,
    /// How many octets a reader wants in the inbox.
    pub(crate) wanted: usize,
    /// Octets that wait in the engine.
    pub(crate) unread: u32,
    /// The peer has sent its last octet, and it is in the inbox.
    pub(crate) finished: bool,
    /// shutdown() was called for this direction.
    pub(crate) read_shut: bool,
    pub(crate) write_shut: bool,
    /// Segments that are still acknowledged at once.
    quick_acks: u8,
    /// When octets last came.
    heard: Option<Instant>,
    /// MSG_MORE holds a segment back until the next acknowledgement.
    pub(crate) more: bool,
}

impl Link {
    fn new(id: ConnId, endpoints: Endpoints, quick_acks: u8) -> Self {
        Self { id: Some(id), endpoints: Some(endpoints), quick_acks, ..Self::default() }
    }

    /// Whether a read would not wait.
    pub(crate) fn readable(&self) -> bool {
        !self.inbox.is_empty() || self.unread > 0 || self.finished || self.read_shut || self.end.is_some()
    }

    /// Octets that may be read.
    pub(crate) fn available(&self) -> usize {
        self.inbox.len() + self.unread as usize
    }
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// AF_INET or AF_INET6.
    pub(crate) domain: i32,
    pub(crate) nonblocking: bool,
    pub(crate) bound: Option<SocketAddr>,
    pub(crate) options: Options,
    /// What SO_ERROR and the next call report.
    pub(crate) error: Option<Errno>,
    pub(crate) role: Role,
    /// The file descriptor, until it is closed; none before accept().
    fd: Option<OwnedFd>,
    closed: bool,
}

impl Socket {
    /// The connection.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.role {
            Role::Connection(link) => Some(link),
            _ => None,
        }
    }

    /// What the next call reports, once.
    pub(crate) fn take_error(&mut self) -> Result<(), Errno> {
        self.error.take().map_or(Ok(()), Err)
    }
}

/// All sockets. A connection's word is the number of its socket plus one.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    slots: Vec<Option<Socket>>,
    by_fd: HashMap<RawFd, usize>,
    nagle: bool,
    quick_acks: u8,
}

impl Sockets {
    /// Takes over what the first sockets were told before there was an engine to tell.
    pub(crate) fn configure(&mut self, settings: &mut Settings) {
        (self.nagle, self.quick_acks) = (settings.nagle, settings.quick_acks);
        for socket in self.slots.iter().flatten() {
            socket.options.configure(settings);
        }
        settings.tcp.nagle = settings.nagle;
    }

    /// Whether Nagle's algorithm is on where a socket does not turn it off.
    pub(crate) fn nagle(&self) -> bool {
        self.nagle
    }

    /// A new socket.
    pub(crate) fn open(&mut self, fd: OwnedFd, domain: i32, nonblocking: bool) -> RawFd {
        let index = self.insert(Socket {
            domain,
            nonblocking,
            bound: None,
            options: Options::default(),
            error: None,
            role: Role::Fresh,
            fd: None,
            closed: false,
        });
        self.give_fd(index, fd)
    }

    fn insert(&mut self, socket: Socket) -> usize {
        match self.slots.iter().position(Option::is_none) {
            Some(index) => {
                self.slots[index] = Some(socket);
                index
            }
            None => {
                self.slots.push(Some(socket));
                self.slots.len() - 1
            }
        }
    }

    /// Gives a socket its file descriptor.
    pub(crate) fn give_fd(&mut self, index: usize, fd: OwnedFd) -> RawFd {
        let raw = fd.as_raw_fd();
        self.by_fd.insert(raw, index);
        if let Some(socket) = self.get(index) {
            socket.fd = Some(fd);
        }
        raw
    }

    /// The socket of a file descriptor.
    pub(crate) fn index(&self, fd: RawFd) -> Result<usize, Errno> {
        self.by_fd.get(&fd).copied().ok_or(Errno::BADF)
    }

    /// A socket by its number.
    pub(crate) fn get(&mut self, index: usize) -> Option<&mut Socket> {
        self.slots.get_mut(index)?.as_mut()
    }

    /// A socket by its file descriptor.
    pub(crate) fn by_fd(&mut self, fd: RawFd) -> Result<&mut Socket, Errno> {
        let index = self.index(fd)?;
        self.get(index).ok_or(Errno::BADF)
    }

    /// Whether somebody listens on a port.
    pub(crate) fn listens_on(&self, port: u16) -> bool {
        self.slots.iter().flatten().any(|socket| {
            matches!(socket.role, Role::Listening { .. }) && socket.bound.is_some_and(|bound| bound.port() == port)
        })
    }

    /// Closes a file descriptor. The socket stays as long as its connection lives.
    pub(crate) fn close(&mut self, fd: RawFd) {
        let Some(index) = self.by_fd.remove(&fd) else { return };
        self.orphan(index);
    }

    /// Nobody will ask for this socket any more.
    pub(crate) fn orphan(&mut self, index: usize) {
        let Some(socket) = self.get(index) else { return };
        socket.closed = true;
        socket.fd = None;
        if socket.link().is_none_or(|link| link.id.is_none()) {
            self.slots[index] = None;
        }
    }

    /// Lets go of the descriptors that were not closed: packetdrill closes them itself, behind our back, before it frees
    /// the stack.
    pub(crate) fn abandon(&mut self) {
        for fd in self.slots.iter_mut().flatten().filter_map(|socket| socket.fd.take()) {
            let _ = fd.into_raw_fd();
        }
    }

    fn of_word(&mut self, word: u64) -> Option<&mut Socket> {
        self.get((word as usize).checked_sub(1)?)
    }

    fn link_of_word(&mut self, word: u64) -> Option<&mut Link> {
        self.of_word(word)?.link()
    }

    /// Begins an active open on the socket numbered `index`.
    pub(crate) fn connecting(&mut self, index: usize, id: ConnId, endpoints: Endpoints) {
        let quick_acks = self.quick_acks;
        if let Some(socket) = self.get(index) {
            socket.role = Role::Connection(Link::new(id, endpoints, quick_acks));
        }
    }

    /// Looks at what a pass brought. Says whether the engine was asked for something.
    pub(crate) fn after_pass(&mut self, net: &mut Net<'_>) -> bool {
        let mut asked = false;
        for socket in self.slots.iter_mut().flatten() {
            let closed = socket.closed;
            let Some(link) = socket.link() else { continue };
            let Some(mut conn) = link.id.and_then(|id| net.conn(id)) else {
                link.unread = 0;
                continue;
            };
            let unread = conn.unread();
            if unread > link.unread {
                asked |= link.arrived(&mut conn, unread);
            }
            link.unread = unread;
            let shut = closed || link.read_shut && link.write_shut;
            if shut && unread > 0 && !matches!(conn.state(), State::Closed | State::SynReceived) {
                // RFC 1122 §4.2.2.13: text that nobody will read any more is answered by a RST
                conn.abort();
                asked = true;
            }
        }
        asked
    }
}

impl Link {
    /// More octets wait. The first segments of a conversation are acknowledged at once.
    fn arrived(&mut self, conn: &mut Conn<'_>, unread: u32) -> bool {
        self.heard = Some(conn.now());
        let large = unread - self.unread > 1460;
        if self.quick_acks == 0 && !large {
            return false;
        }
        self.quick_acks = self.quick_acks.saturating_sub(1);
        conn.acknowledge()
    }

    /// Whether acknowledgements do not wait for an answer to ride on.
    pub(crate) fn in_a_hurry(&self) -> bool {
        self.quick_acks > 0
    }

    /// The application says something. If that is an answer, acknowledgements may ride on answers from now on.
    pub(crate) fn converses(&mut self, now: Instant) {
        if self.heard.is_some_and(|heard| now.since(heard) < ANSWER_TIME) {
            self.quick_acks = 0;
        }
    }
}

impl App for Sockets {
    fn accepted(&mut self, conn: &mut Conn<'_>, listener: usize) {
        let (id, endpoints, quick_acks) = (conn.id(), conn.endpoints(), self.quick_acks);
        let of = |socket: &Socket| matches!(socket.role, Role::Listening { listener: l, .. } if l == listener);
        let Some(parent) = self.slots.iter().position(|slot| slot.as_ref().is_some_and(of)) else {
            return conn.abort();
        };
        let Some(socket) = self.get(parent) else { return conn.abort() };
        let Role::Listening { queue, backlog, .. } = &socket.role else { return conn.abort() };
        if queue.len() > *backlog {
            return conn.abort();
        }
        let child = Socket {
            domain: socket.domain,
            nonblocking: false,
            bound: Some(endpoints.local),
            options: socket.options.clone(),
            error: None,
            role: Role::Connection(Link { open: true, ..Link::new(id, endpoints, quick_acks) }),
            fd: None,
            closed: false,
        };
        child.options.apply(conn, self.nagle);
        let index = self.insert(child);
        conn.set_word(index as u64 + 1);
        if let Some(Socket { role: Role::Listening { queue, .. }, .. }) = self.get(parent) {
            queue.push_back(index);
        }
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        let nagle = self.nagle;
        if let Some(socket) = self.of_word(conn.word()) {
            socket.options.apply(conn, nagle);
            if let Some(link) = socket.link() {
                link.open = true;
            }
        }
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let Some(link) = self.link_of_word(conn.word()) else { return data.len() };
        let n = link.wanted.saturating_sub(link.inbox.len()).min(data.len());
        link.inbox.extend(&data[..n]);
        n
    }

    fn sent(&mut self, conn: &mut Conn<'_>) {
        let Some(socket) = self.of_word(conn.word()) else { return };
        let corked = socket.options.cork;
        if let Some(link) = socket.link()
            && core::mem::take(&mut link.more)
        {
            conn.set_cork(corked);
        }
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        if let Some(link) = self.link_of_word(conn.word()) {
            link.finished = true;
        }
    }

    fn closed(&mut self, _id: ConnId, word: u64, end: End, _now: Instant) {
        let Some(socket) = self.of_word(word) else { return };
        let closed = socket.closed;
        let Some(link) = socket.link() else { return };
        (link.id, link.end, link.unread) = (None, Some(end), 0);
        let error = match end {
            End::Closed | End::Aborted => None,
            End::Refused => Some(Errno::CONNREFUSED),
            // Linux: a peer that had finished and then resets leaves a broken pipe
            End::Reset if link.finished => Some(Errno::PIPE),
            End::Reset => Some(Errno::CONNRESET),
            End::SynTimeout | End::Timeout => Some(Errno::TIMEDOUT),
            End::Unreachable => Some(Errno::HOSTUNREACH),
            End::Memory => Some(Errno::NOBUFS),
        };
        socket.error = error;
        if closed && let Some(index) = (word as usize).checked_sub(1) {
            self.slots[index] = None;
        }
    }

    /// Everything is written with [`Conn::write`]: nothing is asked for again.
    fn fill(&self, _tag: u32, _offset: u32, out: &mut [u8]) {
        out.fill(0);
    }
}
