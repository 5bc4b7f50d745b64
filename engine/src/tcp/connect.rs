//! Active opens (RFC 9293 §3.10.1) and what else an application may ask of its worker.

use std::net::{IpAddr, SocketAddr};

use crate::app::{ConnId, ConnectError, Endpoints};
use crate::config::Listener;
use crate::flow::Kind;
use crate::handover::Exchange;
use crate::neighbor::Resolution;
use crate::stats::Stats;
use crate::time::Instant;
use crate::wire::{ipv4, ipv6};

use super::block::{ACTIVE, Busy, Connection, flag};
use super::conn::Conn;
use super::ports::{Naming, Pair};
use super::state::{Event, State};
use super::{DIRTY_MAX, FlowId, Tcp, fresh_busy};

/// Whether a remote can be reached on the link, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Its hardware address, or the gateway's, is known.
    Ready,
    /// It has been asked for.
    Pending,
    /// It did not answer, or there is no way to it.
    Unreachable,
}

/// The worker, as an [`App`](crate::app::App) sees it between two bursts.
pub struct Net<'a> {
    pub(crate) tcp: &'a mut Tcp,
}

impl Net<'_> {
    /// The time of this pass.
    #[inline]
    pub fn now(&self) -> Instant {
        self.tcp.now
    }

    /// Opens a connection to `remote`. The local address and port are chosen by RFC 6056 among those that are free
    /// towards it; `word` becomes the connection's word. The SYN leaves at the end of this pass.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent.
    pub fn connect(&mut self, remote: SocketAddr, word: u64) -> Result<ConnId, ConnectError> {
        self.tcp.connect(None, remote, word).map(ConnId)
    }

    /// [`connect`](Self::connect) from `local`, one of the owned addresses (RFC 9293 §3.9.1.1).
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent.
    //= RFC 9293 MUST-43
    pub fn connect_from(&mut self, local: IpAddr, remote: SocketAddr, word: u64) -> Result<ConnId, ConnectError> {
        let number = self.tcp.locals.number(local).filter(|_| local.is_ipv4() == remote.is_ipv4());
        let number = number.ok_or(ConnectError::InvalidAddress)?;
        self.tcp.connect(Some(number), remote, word).map(ConnId)
    }

    /// An open connection, to act on it. `None` if there is none of that name.
    #[inline]
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_>> {
        if self.tcp.conns.get(id.0)?.state == State::Closed && !self.tcp.has_unread(id.0) {
            return None;
        }
        Some(Conn { tcp: self.tcp, id: id.0 })
    }

    /// The state of the connection between two ends, whatever record it is in by now; CLOSED if there is none.
    pub fn state_of(&self, ends: &Endpoints) -> State {
        let (local, remote) = (ends.local, ends.remote);
        let Some(number) = self.tcp.locals.number(local.ip()) else { return State::Closed };
        let flow = FlowId { remote: remote.ip(), local: number, remote_port: remote.port(), local_port: local.port() };
        match self.tcp.find(self.tcp.hash(&flow), &flow) {
            Some((Kind::Connection, id)) => self.tcp.conns[id].state,
            Some((Kind::SynReceived, _)) => State::SynReceived,
            Some((Kind::TimeWait, _)) => State::TimeWait,
            None => State::Closed,
        }
    }

    /// Listens on more ports. Returns the number that [`App::accepted`](crate::app::App::accepted) will name, or `None`
    /// if there are 254 listeners already or one of the ports is taken.
    pub fn listen(&mut self, listener: Listener) -> Option<usize> {
        self.tcp.listen(listener)
    }

    /// Ends a listener: SYNs to its ports are answered by RST from now on. Connections that it accepted stay, and a
    /// handshake that is under way may still end in [`App::accepted`](crate::app::App::accepted).
    pub fn stop_listening(&mut self, listener: usize) {
        self.tcp.stop_listening(listener);
    }

    /// Changes the user timeout (RFC 9293 §3.9.1) of all connections of this worker.
    pub fn set_user_timeout(&mut self, limit: Option<core::time::Duration>) {
        self.tcp.config.set_user_timeout(limit);
    }

    /// Whether the next hop to `remote` is known. Asks for it if it is not.
    pub fn resolve(&mut self, remote: IpAddr) -> NextHop {
        let Some(hop) = self.tcp.next_hop(remote) else { return NextHop::Unreachable };
        let now = self.tcp.now;
        match self.tcp.neighbors.resolve(hop, now) {
            Some((_, Resolution::Ready(_))) => NextHop::Ready,
            Some((_, Resolution::Pending)) => NextHop::Pending,
            Some((_, Resolution::Failed)) | None => NextHop::Unreachable,
        }
    }

    /// How many connections may be opened in this pass.
    #[inline]
    pub fn room(&self) -> usize {
        let blocks = self.tcp.conns.room().min(self.tcp.busies.room()).min(super::RESERVE / 2) as usize;
        blocks.min(DIRTY_MAX / 2 - self.tcp.dirty.len().min(DIRTY_MAX / 2))
    }

    /// Connections in the table.
    #[inline]
    pub fn connections(&self) -> u32 {
        self.tcp.conns.len()
    }

    /// The most connections there may be.
    pub fn connections_max(&self) -> u32 {
        self.tcp.max_connections
    }

    /// The worker's counters.
    pub fn stats(&self) -> &Stats {
        &self.tcp.stats
    }
}

impl Tcp {
    //= RFC 9293 MUST-41, MUST-42
    fn listen(&mut self, listener: Listener) -> Option<usize> {
        let ports = usize::from(listener.first_port)..=usize::from(listener.last_port);
        let index = self.listeners.len();
        let free = self.listening[ports.clone()].iter().all(|&taken| taken == 0);
        // the last number means a connection that we opened
        if index + 1 >= usize::from(ACTIVE) || ports.is_empty() || !free {
            return None;
        }
        self.listening[ports].fill(index as u8 + 1);
        self.listeners.push(listener);
        Some(index)
    }

    fn stop_listening(&mut self, listener: usize) {
        for port in &mut self.listening {
            if usize::from(*port) == listener + 1 {
                *port = 0;
            }
        }
    }

    /// Where packets to `remote` go first: the remote itself if it is on the link, else the gateway.
    #[inline]
    //= RFC 1122 3.3.1.1-MUST-1
    pub(crate) fn next_hop(&self, remote: IpAddr) -> Option<IpAddr> {
        if self.locals.on_link(remote) {
            return Some(remote);
        }
        if remote.is_ipv4() { self.gateway_v4 } else { self.gateway_v6 }
    }

    fn connect(&mut self, local: Option<u16>, remote: SocketAddr, word: u64) -> Result<u32, ConnectError> {
        // Two copies: in the one for IPv4 no address is asked for its family again
        match remote {
            SocketAddr::V4(remote) => self.open(local, remote.into(), word),
            SocketAddr::V6(_) => self.open_v6(local, remote, word),
        }
    }

    #[inline(never)]
    fn open_v6(&mut self, local: Option<u16>, remote: SocketAddr, word: u64) -> Result<u32, ConnectError> {
        self.open(local, remote, word)
    }

    #[inline(always)]
    fn open(&mut self, local: Option<u16>, remote: SocketAddr, word: u64) -> Result<u32, ConnectError> {
        let run = match self.ports.run(local, remote) {
            Some(run) => run,
            None => self.begin_run(local, remote)?,
        };
        if self.conns.len() >= self.max_connections || self.dirty.len() >= DIRTY_MAX {
            return Err(ConnectError::NoMemory);
        }
        let Pair { local, local_port, isn_part, hash } = self.pick_pair(run, remote).ok_or(ConnectError::NoPort)?;
        let (word_of_remote, family) = self.intern(remote.ip()).ok_or(ConnectError::NoMemory)?;
        let iss = self.isn_key.iss(isn_part);
        let (mss, now_ms) = (self.mss_default(remote.is_ipv6()), self.now_ms);
        let Self { conns, busies, wheel, config, table, stats, dirty, .. } = self;
        let blocks = (conns.alloc(), busies.alloc());
        if let (Some(id), Some(slot)) = blocks
            && let Ok(place) = table.insert(hash, Kind::Connection, id)
        {
            let c = Connection {
                remote: word_of_remote,
                remote_port: remote.port(),
                local_port,
                local,
                mss,
                state: State::Closed.after(Event::ActiveOpen),
                flags: family | flag::FRESH,
                listener: ACTIVE,
                snd_una: iss,
                snd_nxt: iss,
                heard_ms: now_ms,
                busy: slot,
                word,
                ..Connection::default()
            };
            conns[id] = c;
            let b = &mut busies[slot];
            *b = Busy { link: b.link, snd_end: iss + 1, place, ..fresh_busy(id, &c, config) };
            b.list(dirty);
            stats.active_opens.increment();
            return Ok(id);
        }
        // something of it was not to be had
        if let Some(id) = blocks.0 {
            conns.free(id);
        }
        if let Some(slot) = blocks.1 {
            busies.free(slot, wheel);
        }
        self.forget_remote(word_of_remote, family);
        Err(ConnectError::NoMemory)
    }

    /// The first open towards `remote`, or one after others have come in between.
    #[cold]
    fn begin_run(&mut self, local: Option<u16>, remote: SocketAddr) -> Result<usize, ConnectError> {
        if !self.is_host(remote) {
            return Err(ConnectError::InvalidAddress);
        }
        if self.next_hop(remote.ip()).is_none() || self.locals.family(remote.is_ipv6()).next().is_none() {
            return Err(ConnectError::NoRoute);
        }
        let Self { ports, locals, hash_key, isn_key, .. } = self;
        Ok(ports.begin(&mut Naming { locals, key: hash_key, isn_key }, local, remote))
    }

    /// Whether a remote can be another host's: a segment from there would be taken.
    #[inline]
    //= RFC 9293 MUST-46
    fn is_host(&self, remote: SocketAddr) -> bool {
        let one_host = match remote.ip() {
            IpAddr::V4(address) => ipv4::is_valid_destination(address),
            IpAddr::V6(address) => ipv6::is_valid_destination(address),
        };
        let owned = self.locals.number(remote.ip()).is_some();
        one_host && remote.port() != 0 && !owned && !self.locals.is_broadcast(remote.ip())
    }

    /// Takes this worker's place among several: from now on ports are chosen such that the flows are its own.
    pub(crate) fn join(&mut self, exchange: Exchange) {
        match exchange.steering() {
            Some((rss, steering)) => self.ports.steer(rss, steering),
            None => self.ports.share(exchange.share()),
        }
        self.exchange = Some(exchange);
    }

    /// A free pair of local address and port of a run towards `remote`: where the index alone says that nothing has the one it
    /// is at, that one.
    #[inline(always)]
    //= RFC 9293 MUST-44
    fn pick_pair(&mut self, run: usize, remote: SocketAddr) -> Option<Pair> {
        if let Some(pair) = self.ports.pair(run)
            && self.table.is_absent(pair.hash)
        {
            self.pass_pair(run);
            return Some(pair);
        }
        self.search_pair(run, remote)
    }

    #[inline(never)]
    fn search_pair(&mut self, run: usize, remote: SocketAddr) -> Option<Pair> {
        let tries = self.ports.tries(run);
        for _ in 0..tries {
            let pair = self.ports.pair(run);
            self.pass_pair(run);
            let Some(Pair { local, local_port, hash, .. }) = pair else { continue };
            let flow = FlowId { remote: remote.ip(), local, remote_port: remote.port(), local_port };
            if self.find(hash, &flow).is_none() {
                return pair;
            }
        }
        self.ports.give_up(run, tries);
        None
    }

    /// Goes on by one pair. Opens come in rows, and nothing has asked for the next one's place in the index yet.
    #[inline]
    fn pass_pair(&mut self, run: usize) {
        let Self { ports, locals, hash_key, isn_key, table, .. } = self;
        ports.pass(run, &mut Naming { locals, key: hash_key, isn_key }, |ahead| {
            table.prefetch(ahead);
        });
    }

    /// The MSS assumed without an option, no more than the link carries (RFC 9293 §3.7.1).
    //= RFC 9293 MUST-15
    pub(crate) fn mss_default(&self, v6: bool) -> u16 {
        (if v6 { 1220 } else { 536 }).min(self.mss_of_link(v6))
    }

    /// The MSS that the link's MTU allows: what we announce (RFC 6691).
    pub(crate) fn mss_of_link(&self, v6: bool) -> u16 {
        mss_of(self.mtu, v6)
    }
}

/// The MSS that an MTU allows.
#[inline]
//= RFC 9293 MUST-67
//= RFC 6691 2-SHOULD-1
//= RFC 1191 3.1-SHOULD-1
//= RFC 8200 8.3-MUST-1
pub(super) fn mss_of(mtu: u16, v6: bool) -> u16 {
    mtu - if v6 { 60 } else { 40 }
}
