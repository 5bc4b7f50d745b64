//! TCP: one room per topic, in the words of RFC 9293.
//!
//! [`Tcp`] is everything a worker knows of its connections. The rooms add to it: [`listen`] and [`connect`] begin
//! connections, [`lookup`] finds them, [`segment`] is RFC 9293 §3.10.7 in its own order and [`prediction`] its short road,
//! [`receive`] puts text in order, [`scoreboard`] knows what of the flight arrived, [`recovery`] and [`congestion`] decide
//! what may be sent, [`output`] gives turns, [`send`] takes one, [`build`] makes its segments, [`timeout`] acts when nothing
//! comes.

mod block;
mod buffer;
mod build;
mod busies;
mod check;
mod congestion;
mod conn;
mod connect;
mod digest;
mod flight;
mod hystart;
mod isn;
mod keep_alive;
mod limit;
mod listen;
mod locals;
mod lookup;
mod output;
mod pacing;
mod path_mtu;
mod ports;
mod prediction;
mod probe;
mod receive;
mod recovery;
mod rtt;
mod scoreboard;
mod segment;
mod send;
mod short;
mod siphash;
mod state;
mod syn_cache;
mod syn_cookie;
mod syn_received;
mod syn_sent;
mod time_wait;
mod timeout;
mod tunables;
mod undo;

use core::time::Duration;
use std::net::IpAddr;
use std::sync::Arc;

use crate::app::{App, ConnId, End};
use crate::config::{Config, ConfigError, Listener};
use crate::flow::{FlowTable, HashKey, Kind, Log, Slab};
use crate::handover::Exchange;
use crate::neighbor::{NeighborConfig, NeighborIndex, NeighborTable};
use crate::page::{OutOfMemory, PageSource};
use crate::stats::Stats;
use crate::time::Instant;
use crate::timer_wheel::TimerWheel;

pub use check::Held;
pub use conn::Conn;
pub use connect::{Net, NextHop};
pub(crate) use lookup::{FlowId, Lookup};
pub(crate) use output::{Origin, Tx};
pub use state::{EVENTS, Event, STATES, State, TRANSITIONS, mermaid};

use block::{Busy, Connection, NONE, OfFlow, SynReceived, TimeWait, busy, flag};
use buffer::Buffers;
use busies::Busies;
use flight::Flights;
use limit::{EachLimit, RateLimit, SynGuard};
use locals::Locals;
use ports::Ports;
use syn_cache::SynCache;
use tunables::Tunables;

/// Octets of an idle IPv4 connection without its index entry.
pub const CONNECTION_BYTES: usize = size_of::<Connection>();
/// Octets of a TIME-WAIT record without its index entry.
pub const TIME_WAIT_BYTES: usize = size_of::<TimeWait>();
/// Octets of a SYN-RECEIVED record without its index entry.
pub const SYN_RECEIVED_BYTES: usize = size_of::<SynReceived>();

/// Records that one pass of the loop may begin, of each kind: a burst, and what the application opens.
pub(crate) const RESERVE: u32 = 512;
/// Connections that may have something to send at the end of a pass.
const DIRTY_MAX: usize = 1 << 16;

/// Connections in a page: writing a fresh one takes no longer than the rest of a pass of the loop.
const PAGE: usize = 1_024;

type Connections = Slab<Connection, PAGE>;
type Remotes = Slab<[u8; 16], 4096>;

/// Secrets of a worker: from the operating system's random source, or from a simulation's seed.
#[derive(Clone, Copy, Debug)]
pub struct Secrets {
    /// Keys the flow table.
    pub table: [u64; 2],
    /// Keys initial sequence numbers (RFC 6528).
    pub isn: [u64; 2],
    /// Keys ports (RFC 6056).
    pub ports: [u64; 2],
    /// Where timestamps are counted from (RFC 7323 §5.4).
    pub timestamps: TimestampClock,
}

impl Secrets {
    /// Secrets of a worker that has a world for itself: its timestamps are keyed as its ports are, and begin where its time
    /// does.
    pub const fn new(table: [u64; 2], isn: [u64; 2], ports: [u64; 2]) -> Self {
        Self { table, isn, ports, timestamps: TimestampClock { key: ports, origin_ms: 0 } }
    }
}

/// Where timestamps are counted from. A host that goes on from one process to the next takes both from the machine: then a
/// connection's timestamps are later than those of any before it on the same addresses, which is what lets its SYN in where
/// the peer still has an old one in TIME-WAIT (RFC 6191).
#[derive(Clone, Copy, Debug)]
pub struct TimestampClock {
    /// Keys the offset of each pair of addresses.
    pub key: [u64; 2],
    /// What the machine's clock said at the origin of the engine's time, milliseconds modulo 2³².
    pub origin_ms: u32,
}

/// Everything a worker knows of its connections.
pub struct Tcp {
    pub(crate) config: Tunables,
    pub(crate) listeners: Vec<Listener>,
    /// Listener of each port, plus one; 0 = none.
    listening: Vec<u8>,
    pub(crate) shared: bool,
    pub(crate) locals: Locals,
    pub(crate) gateway_v4: Option<IpAddr>,
    pub(crate) gateway_v6: Option<IpAddr>,
    pub(crate) mtu: u16,
    hash_key: HashKey,
    isn_key: isn::IsnKey,
    pub(crate) table: FlowTable,
    pub(crate) conns: Connections,
    pub(crate) busies: Busies,
    remotes: Remotes,
    pub(crate) flights: Flights,
    pub(crate) buffers: Buffers,
    syns: SynCache,
    time_waits: Log<TimeWait, 2048>,
    wheel: TimerWheel,
    /// Connections with something to send or to settle at the end of the pass.
    pub(crate) dirty: Vec<u32>,
    /// The list that takes its place while it is walked.
    listed: Vec<u32>,
    ports: Ports,
    pub(crate) neighbors: NeighborTable,
    /// A peer over IPv4 and its next hop: those that were looked up last.
    recent_hop: Option<(u32, NeighborIndex)>,
    /// Connections that wait for their next hop.
    pub(crate) unresolved: Vec<u32>,
    /// SYN-RECEIVED records whose SYN-ACK waits for its next hop.
    unresolved_syns: Vec<u32>,
    /// A next hop was found or given up, so that they may try again.
    syns_woken: bool,
    keep_alive: keep_alive::Sweep,
    /// Some connection asked to be probed although none is by the configuration.
    keep_alive_asked: bool,
    pub(crate) resets: RateLimit,
    pub(crate) icmp: RateLimit,
    pub(crate) challenges: RateLimit,
    pub(crate) challenges_each: EachLimit,
    resets_each: EachLimit,
    syn_guard: SynGuard,
    pub(crate) stats: Arc<Stats>,
    pub(crate) now: Instant,
    pub(crate) now_us: u32,
    pub(crate) now_ms: u32,
    /// How long before `now` the frame that is being worked on arrived, microseconds; 0 where nobody knows.
    pub(crate) age_us: u32,
    max_connections: u32,
    /// Half-open connections from which on no more are kept, and until when.
    shed_from: u32,
    shed_until: u32,
    /// The other workers, if there are several.
    pub(crate) exchange: Option<Exchange>,
    /// Too many half-open connections: none is kept for now.
    shedding: bool,
    cookies: syn_cookie::CookieJar,
}

impl Tcp {
    /// An empty worker's state. The configuration has been checked.
    ///
    /// # Errors
    /// If there is no memory for the index at the size asked for.
    pub(crate) fn new<P: PageSource>(
        config: &Config,
        secrets: &Secrets,
        mtu: u16,
        stats: Arc<Stats>,
        pages: &mut P,
    ) -> Result<Self, ConfigError> {
        let mut listening = vec![0; 1 << 16];
        for (index, listener) in config.listeners.iter().enumerate() {
            for port in listener.first_port..=listener.last_port {
                listening[usize::from(port)] = index as u8 + 1;
            }
        }
        let connections = config.max_connections;
        let records = connections
            .saturating_add(config.max_syn_received)
            .saturating_add(config.max_time_wait)
            .min(Config::ENTRIES_MAX);
        let time_waits = if config.tcp.time_wait.is_zero() { 0 } else { config.max_time_wait };
        // Blocks are busy for a round trip or so; only a worker that is all at work has as many busy ones as others.
        let busies = connections.max(RESERVE * 2);
        // A flood of SYNs is to find the memory for what of it is kept, in the index as well
        let half_open = if config.listeners.is_empty() { 0 } else { config.max_syn_received };
        let expected = config.expected_connections.saturating_add(half_open);
        let mut table = FlowTable::with_capacity(pages, expected as usize)
            .map_err(|_| ConfigError(format!("no memory for an index of {expected} connections")))?;
        let mut syns = SynCache::new(config.max_syn_received);
        if half_open > 0 && syns.prepare(pages).is_err() {
            syns.release(pages);
            table.release(pages);
            return Err(ConfigError(format!("no memory for {half_open} half-open connections (max_syn_received)")));
        }
        Ok(Self {
            config: Tunables::from(config.tcp.clone()),
            listeners: config.listeners.clone(),
            listening,
            shared: config.shared.is_some(),
            locals: Locals::new(&config.addresses),
            gateway_v4: config.gateway_v4,
            gateway_v6: config.gateway_v6,
            mtu,
            hash_key: HashKey::new(secrets.table),
            isn_key: isn::IsnKey::new(secrets.isn, secrets.timestamps),
            table,
            conns: Slab::with_limit(connections),
            busies: Busies::with_limit(busies),
            remotes: Slab::with_limit(records),
            flights: Flights::new(busies, config.tcp.flight_segments_max),
            buffers: Buffers::new(config.buffer_bytes, config.out_of_order_bytes),
            syns,
            time_waits: Log::with_limit(time_waits),
            wheel: TimerWheel::new(0),
            dirty: Vec::with_capacity(DIRTY_MAX),
            listed: Vec::with_capacity(DIRTY_MAX),
            ports: Ports::new(&config.tcp, config.shared, secrets.ports),
            neighbors: NeighborTable::new(
                NeighborConfig { capacity: config.max_neighbors as usize, ..NeighborConfig::default() },
                secrets.ports,
            ),
            recent_hop: None,
            unresolved: Vec::with_capacity(4096),
            resets: RateLimit::new(config.resets_per_second),
            icmp: RateLimit::new(config.icmp_per_second),
            challenges: RateLimit::uneven(config.challenge_acks_per_second, secrets.ports[0].rotate_left(29)),
            challenges_each: EachLimit::new(config.tcp.challenge_acks_per_connection),
            resets_each: EachLimit::new(config.tcp.resets_per_connection),
            syn_guard: SynGuard::new(
                config.max_syn_received_per_prefix,
                config.syn_flood_per_second,
                [secrets.table[0].rotate_left(11), secrets.table[1].rotate_left(23)],
            ),
            unresolved_syns: Vec::with_capacity(1024),
            syns_woken: false,
            keep_alive: keep_alive::Sweep::over((connections as usize).div_ceil(PAGE)),
            keep_alive_asked: false,
            stats,
            now: Instant::ZERO,
            now_us: 0,
            now_ms: 0,
            age_us: 0,
            max_connections: connections,
            shed_from: (config.max_syn_received / 4 * 3).max(1),
            shed_until: (config.max_syn_received / 2).max(1),
            exchange: None,
            shedding: false,
            cookies: syn_cookie::CookieJar::new([secrets.isn[1].rotate_left(17), secrets.isn[0].rotate_left(41)]),
        })
    }

    /// The time of this pass.
    #[inline]
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        let now_us = now.micros();
        self.now_us = now_us as u32;
        self.now_ms = now.millis32();
        self.isn_key.set_now(now_us, self.now_ms);
        self.flights.walked = 0;
    }

    /// When the frame that is worked on next arrived; `None`: now, or there is none. Never later than now.
    #[inline]
    pub(crate) fn set_arrived(&mut self, at: Option<Instant>) {
        self.age_us =
            at.map_or(0, |at| (self.now.nanos().saturating_sub(at.nanos()) / 1_000).min(u32::MAX.into()) as u32);
    }

    /// When the frame that is being worked on arrived.
    #[inline]
    pub(crate) fn arrived(&self) -> Instant {
        Instant::from_nanos(self.now.nanos() - u64::from(self.age_us) * 1_000)
    }

    /// Grows what is short and gives back what is empty, a bounded amount: called between two bursts.
    pub(crate) fn maintain<P: PageSource>(&mut self, pages: &mut P) {
        let grown = self.reserve(pages);
        if grown.is_err() {
            // Out of memory is not an error here: what finds no room is refused where it happens, and counted.
            self.stats.refused_memory.increment();
        }
        self.table.maintain(pages);
        self.conns.maintain(pages);
        self.busies.settle(&mut self.wheel);
        self.busies.maintain(pages);
        self.time_waits.maintain(pages);
        if !self.listeners.is_empty() {
            self.syns.maintain(pages);
        }
        self.stats.connections.set(u64::from(self.conns.len()));
        self.stats.time_wait_now.set(u64::from(self.time_waits.len()));
        let neighbors = self.neighbors.counters();
        self.stats.neighbors_now.set(self.neighbors.len() as u64);
        self.stats.neighbors_evicted.set(neighbors.evicted);
        self.stats.neighbors_refused.set(neighbors.refused);
        self.stats.neighbor_unsolicited.set(neighbors.unsolicited);
        self.stats.syn_received_now.set(u64::from(self.syns.len()));
    }

    fn reserve<P: PageSource>(&mut self, pages: &mut P) -> Result<(), OutOfMemory> {
        // Each for itself: that one finds no page must not keep the others from theirs
        let mut grown = self.conns.reserve(pages, RESERVE);
        grown = grown.and(self.busies.reserve(pages, RESERVE));
        grown = grown.and(self.flights.reserve(pages, RESERVE));
        grown = grown.and(self.buffers.reserve(pages, 128));
        if self.locals.has_v6() {
            grown = grown.and(self.remotes.reserve(pages, RESERVE));
        }
        if !self.config.time_wait.is_zero() {
            grown = grown.and(self.time_waits.reserve(pages, RESERVE));
        }
        if !self.listeners.is_empty() {
            grown = grown.and(self.syns.reserve(pages));
        }
        grown
    }

    /// Octets of index, blocks and records.
    pub fn bytes(&self) -> u64 {
        self.table.bytes()
            + self.conns.bytes()
            + self.busies.bytes()
            + self.remotes.bytes()
            + self.flights.bytes()
            + self.buffers.bytes()
            + self.time_waits.bytes()
            + self.syns.bytes()
    }

    /// Gives every page back.
    pub(crate) fn release<P: PageSource>(&mut self, pages: &mut P) {
        self.table.release(pages);
        self.conns.release(pages);
        self.busies.release(pages);
        self.remotes.release(pages);
        self.flights.release(pages);
        self.buffers.release(pages);
        self.time_waits.release(pages);
        self.syns.release(pages);
    }

    /// When there will next be something to do if no segment comes.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        if !self.dirty.is_empty() {
            return Some(self.now);
        }
        let now = self.now;
        let after = |ms: u32| now + Duration::from_millis(u64::from(ms));
        let waiting = (!self.unresolved.is_empty() || self.neighbors.is_waiting()).then(|| after(100));
        let syn = self.next_syn_us().map(|us| now + Duration::from_micros(u64::from(us)));
        let time_wait = self.next_time_wait_ms().map(after);
        let keep_alive = self.next_keep_alive_ms().map(after);
        [self.next_timer_ms().map(after), waiting, syn, time_wait, keep_alive].into_iter().flatten().min()
    }

    /// The listener of a port.
    #[inline]
    pub(crate) fn listener(&self, port: u16) -> Option<u8> {
        self.listening.get(usize::from(port)).and_then(|&index| index.checked_sub(1))
    }

    // ---- busy blocks

    /// The connection's busy block, taken from the pool if it has none. `None` if the pool is empty.
    #[inline(always)]
    pub(crate) fn attach(&mut self, id: u32) -> Option<u32> {
        let slot = self.conns[id].busy;
        if slot != NONE { Some(slot) } else { self.take_busy(id) }
    }

    #[inline(never)]
    fn take_busy(&mut self, id: u32) -> Option<u32> {
        let Self { conns, busies, config, .. } = self;
        let c = &mut conns[id];
        take_busy(busies, config, id, c)?;
        Some(c.busy)
    }

    /// Gives the busy block back, keeping what an idle connection keeps.
    pub(crate) fn detach(&mut self, id: u32) {
        let c = &mut self.conns[id];
        if c.busy == NONE {
            return;
        }
        let slot = core::mem::replace(&mut c.busy, NONE);
        let b = &self.busies[slot];
        rtt::store(c, b);
        c.ssthresh = block::compact::pack(congestion::kept(b, c.payload_max(), &self.config));
        self.free_busy(slot);
    }

    /// Gives a busy block back, and what hangs on it.
    #[inline(always)]
    fn free_busy(&mut self, slot: u32) {
        let Self { busies, wheel, flights, buffers, .. } = self;
        let b = &mut busies[slot];
        flights.clear(b);
        // no chain is what all bits say
        if b.write_head & b.read_head & b.ahead_head != NONE {
            buffers.clear_all(b);
        }
        busies.free(slot, wheel);
    }

    /// Puts the connection on the list of those with something to send or to settle at the end of this pass.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, id: u32) {
        let slot = self.conns[id].busy;
        if slot == NONE {
            return;
        }
        self.busies[slot].list(&mut self.dirty);
    }

    // ---- the end of a connection

    /// Removes a connection from the table and tells the application.
    pub(crate) fn remove<A: App>(&mut self, app: &mut A, id: u32, end: End) {
        let c = &self.conns[id];
        let (sockets, place) = (c.sockets(), self.place_of(c));
        self.forget_flow(sockets, place, Kind::Connection, id);
        self.discard(app, id, end);
    }

    /// Frees the block of a connection that the table no longer knows, and tells the application.
    fn discard<A: App>(&mut self, app: &mut A, id: u32, end: End) {
        let c = &mut self.conns[id];
        let (word, slot) = (c.word, core::mem::replace(&mut c.busy, NONE));
        c.state = State::Closed;
        if slot != NONE {
            self.free_busy(slot);
        }
        self.conns.free(id);
        match end {
            End::Closed => self.stats.closed.increment(),
            End::Reset => self.stats.resets_received.increment(),
            End::SynTimeout | End::Timeout => self.stats.timed_out.increment(),
            _ => {}
        }
        //= RFC 9293 MUST-12
        app.closed(ConnId(id), word, end, self.arrived());
    }

    /// The timestamp clock of a connection (RFC 7323 §5.4): milliseconds, from an offset that depends on the pair of
    /// addresses alone, so that it goes on over incarnations.
    #[inline]
    pub(crate) fn timestamp(&self, local: u16, remote: IpAddr) -> u32 {
        self.isn_key.timestamp(self.locals.address(local), remote)
    }

    #[inline]
    pub(crate) fn timestamp_offset(&self, local: u16, remote: IpAddr) -> u32 {
        self.isn_key.timestamp_offset(self.locals.address(local), remote)
    }
}

/// The busy block of the connection `c`, of number `id`, if nothing is known of its path. Its link is not that of the block
/// whose place it takes.
#[inline(always)]
fn fresh_busy(id: u32, c: &Connection, config: &Tunables) -> Busy {
    Busy {
        conn: id,
        flags: if c.has(flag::SYN_RESENT) { busy::SYN_LOST } else { 0 },
        snd_end: c.snd_nxt,
        ack_sent: c.rcv_nxt,
        snd_wnd_max: c.send_window(),
        full_until: c.snd_una,
        cwnd: congestion::initial_window(c.payload_max(), config),
        ssthresh: u32::MAX,
        ..Busy::default().without_chains()
    }
}

/// Gives the connection `c`, of number `id`, a busy block. `None` if the pool is empty.
#[inline(always)]
fn take_busy<'a>(busies: &'a mut Busies, config: &Tunables, id: u32, c: &mut Connection) -> Option<&'a mut Busy> {
    let slot = busies.alloc()?;
    let b = busies.get_mut(slot)?;
    *b = Busy { link: b.link, ..fresh_busy(id, c, config) };
    if c.srtt | c.rttvar | c.ssthresh != 0 {
        take_up(c, b, config);
    }
    c.busy = slot;
    Some(b)
}

/// Takes up what an idle connection has kept of its path.
#[inline(never)]
fn take_up(c: &Connection, b: &mut Busy, config: &Tunables) {
    rtt::load(c, b);
    congestion::restart(b, c.payload_max(), block::compact::unpack(c.ssthresh), config);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TcpConfig;
    use crate::page::HeapPages;

    #[test]
    fn a_block_begins_as_if_nothing_kept_had_been_taken_up() {
        let config = Tunables::from(TcpConfig::default());
        let mut busies = Busies::with_limit(64);
        busies.reserve(&mut HeapPages::new(), 64).unwrap();
        for (mss, flags) in
            [(1, 0), (536, 0), (1220, flag::TIMESTAMPS), (1460, flag::SYN_RESENT), (8960, flag::TIMESTAMPS)]
        {
            let mut c = Connection { mss, flags, busy: NONE, ..Connection::default() };
            let begun = *take_busy(&mut busies, &config, 7, &mut c).unwrap();
            let mut whole = begun;
            take_up(&c, &mut whole, &config);
            assert_eq!(format!("{begun:?}"), format!("{whole:?}"));
        }
    }
}
