//! Local addresses and ports for active opens (RFC 6056 §3.3.4, the double-hash algorithm).
//!
//! The pairs of owned address and port towards one remote are walked in order from a secret start, so that the next
//! one tried is always the one that was used longest ago: with TIME-WAIT a FIFO, it is free if any is.
//!
//! Several workers of a device that spreads flows over its queues by a known hash each walk the pairs whose answers
//! arrive on their own queue, and no others. The hash is XOR-linear: the ports are sorted once by what they contribute to
//! the entry of the card's table, and what the rest of the four-tuple contributes turns one group into another. So the
//! next pair is found without trying ports, however many workers there are. Where the hash is not known, the workers walk all
//! pairs and pass by those whose flows are the others'.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::config::{PortRange, TcpConfig};
use crate::device::toeplitz::Rss;
use crate::flow::{FlowKey, HashKey};
use crate::handover::{Share, Steering};

use super::isn::IsnKey;
use super::locals::Locals;

/// Counters, so that traffic to one remote tells little of that to another.
const TABLE: usize = 256;

/// Pairs tried for one open before it is given up for now: bounds the work of a pass.
const TRIES: u64 = 256;

/// How many opens ahead the index is asked for at most. It is asked for half as many at a time: misses that wait together
/// take little longer than one.
const AHEAD: usize = 16;

/// Walks that are remembered, a power of two.
const RUNS: usize = 32;

/// Chooses local addresses and ports.
pub(crate) struct Ports {
    range: PortRange,
    key: HashKey,
    counters: [u64; TABLE],
    /// For IPv4 and IPv6, where a port contributes from another place.
    groups: Option<[Groups; 2]>,
    /// The flows that are ours, if others have the rest and there are no groups.
    share: Option<Share>,
    /// The last walks, each in a place that its remote names.
    runs: [Run; RUNS],
}

/// The ports of the range, sorted by what they contribute to the entry of the card's table.
struct Groups {
    rss: Arc<Rss>,
    /// Entries of the card's table that name our queue.
    mine: Vec<u16>,
    /// Ports, group by group.
    ports: Vec<u16>,
    /// Where each group begins, and the end of the last.
    starts: Vec<u32>,
    /// Ports of the largest group.
    largest: u32,
}

impl Groups {
    fn new(rss: &Arc<Rss>, steering: Steering, range: PortRange, v6: bool) -> Self {
        let group_of = |port: &u16| rss.entry(rss.port_part(v6, *port));
        let mut ports: Vec<_> = (range.first..=range.last).collect();
        ports.sort_by_key(group_of);
        let mut starts = vec![0; rss.table().len() + 1];
        for port in &ports {
            starts[group_of(port) + 1] += 1;
        }
        let largest = starts.iter().copied().max().unwrap_or(0);
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mine = (0..).zip(rss.table()).filter(|&(_, &queue)| steering.owns(queue)).map(|(entry, _)| entry).collect();
        Self { rss: Arc::clone(rss), mine, ports, starts, largest }
    }

    /// Places for ports on the walk from one address. Not each has one: groups are not quite alike.
    fn places(&self) -> u64 {
        self.mine.len() as u64 * u64::from(self.largest)
    }

    /// The port at a place, when the rest of the four-tuple contributes `rest`.
    #[inline]
    fn at(&self, place: u64, rest: u32) -> Option<u16> {
        let entries = self.mine.len() as u64;
        let entry = self.mine[(place % entries) as usize];
        let group = usize::from(entry) ^ self.rss.entry(rest);
        let port = u64::from(self.starts[group]) + place / entries;
        (port < u64::from(self.starts[group + 1])).then(|| self.ports[port as usize])
    }
}

impl Ports {
    /// Ports of the configured range, or of the range that is ours on an address shared with the kernel.
    pub(crate) fn new(tcp: &TcpConfig, shared: Option<PortRange>, secret: [u64; 2]) -> Self {
        Self {
            range: shared.unwrap_or(tcp.local_ports),
            key: HashKey::new(secret),
            counters: [0; TABLE],
            groups: None,
            share: None,
            runs: [Run::NOWHERE; RUNS],
        }
    }

    /// From now on only pairs whose flows are in `share`.
    pub(crate) fn share(&mut self, share: Option<Share>) {
        self.share = share;
        self.runs = [Run::NOWHERE; RUNS];
    }

    /// From now on only pairs whose answers arrive on the queues that `steering` names.
    pub(crate) fn steer(&mut self, rss: &Arc<Rss>, steering: Steering) {
        self.groups = Some([false, true].map(|v6| Groups::new(rss, steering, self.range, v6)));
        self.runs = [Run::NOWHERE; RUNS];
    }

    /// The place of the run that an open of the same kind began, if nothing has come in its way. What was found of the
    /// remote then still holds.
    #[inline]
    pub(crate) fn run(&self, local: Option<u16>, remote: SocketAddr) -> Option<usize> {
        let place = run_place(remote);
        let run = &self.runs[place];
        let known = run.remote == remote && run.local == local && run.count == self.counters[run.walk.counter % TABLE];
        known.then_some(place)
    }

    /// Begins a run towards `remote`, where the last walk stopped: from the address of number `local`, or from all of them.
    #[inline(never)]
    pub(crate) fn begin(&mut self, naming: &mut Naming<'_>, local: Option<u16>, remote: SocketAddr) -> usize {
        let walk = self.walk(naming.locals, local, remote);
        let step = walk.step(naming.locals, 0).unwrap_or_default();
        let place = run_place(remote);
        let count = self.counters[walk.counter % TABLE];
        self.runs[place] = Run { remote, local, walk, count, step, ..Run::NOWHERE };
        if walk.pairs > 0 {
            self.look_ahead(place, naming, 1, |_| {});
        }
        place
    }

    /// How many pairs of a run may be tried for one open.
    pub(crate) fn tries(&self, run: usize) -> u64 {
        TRIES.min(self.runs[run % RUNS].walk.pairs)
    }

    /// The pair at which a run is. `None` if there is none at this step of its walk.
    #[inline]
    pub(crate) fn pair(&self, run: usize) -> Option<Pair> {
        let run = &self.runs[run % RUNS];
        run.ahead[usize::from(run.first) % AHEAD]
    }

    /// Goes on by one step, and now and then looks at some pairs that later opens will come upon. `ask` gets their hashes.
    #[inline]
    pub(crate) fn pass(&mut self, run: usize, naming: &mut Naming<'_>, ask: impl FnMut(u64)) {
        let place = run % RUNS;
        let run = &mut self.runs[place];
        run.count += 1;
        self.counters[run.walk.counter % TABLE] = run.count;
        run.first = run.first.wrapping_add(1);
        run.ahead_len -= 1;
        if usize::from(run.ahead_len) <= AHEAD / 2 {
            // no more than opens there were: a run that others break off is to cost no more than its opens do
            let opens = usize::from(run.first);
            self.look_ahead(place, naming, opens.clamp(1, AHEAD / 2), ask);
        }
    }

    /// All pairs that an open may try were taken, `passed` of them: the next one tries from one step further on.
    #[cold]
    pub(crate) fn give_up(&mut self, run: usize, passed: u64) {
        let run = &mut self.runs[run % RUNS];
        self.counters[run.walk.counter % TABLE] = run.count - passed + 1;
        *run = Run::NOWHERE;
    }

    /// Adds the `count` pairs that the walk comes upon next to those ahead of a run, of which so many are missing.
    #[inline(never)]
    fn look_ahead(&mut self, run: usize, naming: &mut Naming<'_>, count: usize, ask: impl FnMut(u64)) {
        let Self { runs, range, groups, share, .. } = self;
        let (run, choice) = (&mut runs[run % RUNS], (*range, groups.as_ref(), *share));
        // Two copies: in the one for IPv4 no address is asked for its family again
        match run.remote.ip() {
            IpAddr::V4(remote) => run.look_ahead(naming, choice, remote.into(), count, ask),
            remote => run.look_ahead(naming, choice, remote, count, ask),
        }
    }

    /// The walk towards `remote`, where the last one stopped.
    //= RFC 6056 3.3-SHOULD-1
    fn walk(&self, locals: &Locals, local: Option<u16>, remote: SocketAddr) -> Walk {
        let ip = remote.ip();
        let from = local.map_or(ip, |number| locals.address(number));
        let hash = self.key.hash(&FlowKey { local: from, remote: ip, local_port: 0, remote_port: remote.port() });
        let counter = hash as usize % TABLE;
        let addresses = match local {
            Some(_) => 1,
            None => locals.family(ip.is_ipv6()).map(|(_, count)| count).sum::<u32>(),
        };
        let groups = self.groups(ip);
        let places = groups.map_or(u64::from(self.range.last - self.range.first) + 1, Groups::places);
        Walk {
            v6: ip.is_ipv6(),
            local,
            remote_part: groups.map_or(0, |groups| groups.rss.remote_part(ip, remote.port())),
            addresses,
            pairs: u64::from(addresses) * places,
            counter,
            start: (hash >> 8).wrapping_add(self.counters[counter]),
        }
    }

    #[inline]
    fn groups(&self, ip: IpAddr) -> Option<&Groups> {
        self.groups.as_ref().map(|groups| &groups[usize::from(ip.is_ipv6())])
    }
}

/// What names a flow between a pair and a remote.
pub(crate) struct Naming<'a> {
    pub(crate) locals: &'a Locals,
    pub(crate) key: &'a HashKey,
    pub(crate) isn_key: &'a mut IsnKey,
}

/// The port at a step of a walk, among those that groups name. `None` if there is none.
#[inline(never)]
fn steered_port(groups: &[Groups; 2], locals: &Locals, walk: &Walk, step: &Step) -> Option<u16> {
    let groups = &groups[usize::from(walk.v6)];
    groups.at(step.place, walk.remote_part ^ groups.rss.local_part(locals.address(step.number)))
}

/// A free pair of local address and port, or one that may be, the flow's part of its initial sequence number, and its hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) local: u16,
    pub(crate) local_port: u16,
    pub(crate) isn_part: u32,
    pub(crate) hash: u64,
}

/// A walk that one open after another goes on with: each looks at pairs that come later, so that the index has answered
/// by the time that they are due.
#[derive(Clone, Copy, Debug)]
struct Run {
    remote: SocketAddr,
    local: Option<u16>,
    walk: Walk,
    /// Where its last open left the counter, which another walk may share.
    count: u64,
    /// The step after the pairs ahead.
    step: Step,
    ahead: [Option<Pair>; AHEAD],
    /// Of `ahead`, modulo its length.
    first: u8,
    ahead_len: u8,
}

impl Run {
    /// To no remote: no host has port 0.
    const NOWHERE: Self = Self {
        remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: None,
        walk: Walk { v6: false, local: None, remote_part: 0, addresses: 0, pairs: 0, counter: 0, start: 0 },
        count: 0,
        step: Step { place: 0, index: 0, number: 0, left: 0 },
        ahead: [None; AHEAD],
        first: 0,
        ahead_len: 0,
    };

    /// Adds `count` pairs, towards the address `remote` of the run's remote. `ask` gets their hashes.
    #[inline(always)]
    fn look_ahead(
        &mut self,
        naming: &mut Naming<'_>,
        (range, groups, share): (PortRange, Option<&[Groups; 2]>, Option<Share>),
        remote: IpAddr,
        count: usize,
        mut ask: impl FnMut(u64),
    ) {
        let (remote_port, mut step) = (self.remote.port(), self.step);
        for _ in 0..count {
            let local_port = match groups {
                None => Some(range.first + step.place as u16),
                Some(groups) => steered_port(groups, naming.locals, &self.walk, &step),
            };
            let mut pair = None;
            if let Some(local_port) = local_port {
                let local = naming.locals.address_of(step.number, remote.is_ipv6());
                let flow = FlowKey { local, remote, local_port, remote_port };
                if share.is_none_or(|share| share.owns(&flow)) {
                    let isn_part = naming.isn_key.part(local, local_port, remote, remote_port);
                    let hash = naming.key.index_hash(&flow);
                    pair = Some(Pair { local: step.number, local_port, isn_part, hash });
                    ask(hash);
                }
            }
            self.ahead[usize::from(self.first.wrapping_add(self.ahead_len)) % AHEAD] = pair;
            self.ahead_len += 1;
            step = step.next(naming.locals, &self.walk);
        }
        self.step = step;
    }
}

/// Where the run towards a remote is kept.
#[inline]
fn run_place(remote: SocketAddr) -> usize {
    let low = match remote.ip() {
        IpAddr::V4(address) => address.to_bits() as usize,
        IpAddr::V6(address) => address.to_bits() as usize,
    };
    (low ^ usize::from(remote.port())) % RUNS
}

/// A walk over the pairs of owned address and port towards one remote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    v6: bool,
    /// The only address, if it is given.
    local: Option<u16>,
    /// What the remote end contributes to the card's hash.
    remote_part: u32,
    addresses: u32,
    /// Steps until the walk comes round.
    pairs: u64,
    /// Which of the counters is its own.
    counter: usize,
    start: u64,
}

/// A step of a walk: all addresses with one port, then all with the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Step {
    /// Which of the ports.
    place: u64,
    /// Which of the addresses, its number, and how many of its range come from here on.
    index: u32,
    number: u16,
    left: u32,
}

impl Walk {
    /// The step so many steps on. `None` if there is none at all.
    fn step(&self, locals: &Locals, steps: u64) -> Option<Step> {
        let at = self.start.wrapping_add(steps).checked_rem(self.pairs)?;
        let addresses = u64::from(self.addresses);
        self.step_at(locals, at / addresses, (at % addresses) as u32)
    }

    fn step_at(&self, locals: &Locals, place: u64, index: u32) -> Option<Step> {
        if let Some(number) = self.local {
            return Some(Step { place, index, number, left: 1 });
        }
        let mut rest = index;
        locals.family(self.v6).find_map(|(base, count)| {
            if rest < count {
                return Some(Step { place, index, number: (base + rest) as u16, left: count - rest });
            }
            rest -= count;
            None
        })
    }
}

impl Step {
    /// The step after this one: without a division in the middle of a range.
    #[inline]
    fn next(self, locals: &Locals, walk: &Walk) -> Self {
        if self.left > 1 {
            Self { index: self.index + 1, number: self.number + 1, left: self.left - 1, ..self }
        } else {
            self.next_range(locals, walk)
        }
    }

    fn next_range(self, locals: &Locals, walk: &Walk) -> Self {
        let (mut place, mut index) = (self.place, self.index + 1);
        if index >= walk.addresses {
            (place, index) = (place + 1, 0);
            if place * u64::from(walk.addresses) >= walk.pairs {
                place = 0;
            }
        }
        walk.step_at(locals, place, index).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::config::AddressRange;
    use crate::handover::Exchange;
    use crate::tcp::TimestampClock;

    /// The pair at a step of a walk, by division.
    fn at(ports: &Ports, locals: &Locals, walk: &Walk, step: u64) -> Option<(u16, u16)> {
        let step = walk.step(locals, step).unwrap();
        let port = match &ports.groups {
            None => Some(ports.range.first + step.place as u16),
            Some(groups) => steered_port(groups, locals, walk, &step),
        };
        port.map(|port| (step.number, port))
    }

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange { first: first.parse().unwrap(), last: last.parse().unwrap(), prefix_len: 24 }
    }

    #[test]
    //= RFC 6056 3.3-SHOULD-1
    fn every_pair_is_met_once_before_any_comes_again() {
        let config = TcpConfig { local_ports: PortRange { first: 1000, last: 1099 }, ..TcpConfig::default() };
        let mut ports = Ports::new(&config, None, [1, 2]);
        let (key, mut isn_key) =
            (HashKey::new([3, 4]), IsnKey::new([5, 6], TimestampClock { key: [7, 8], origin_ms: 0 }));
        let locals = Locals::new(&[range("10.0.0.1", "10.0.0.3"), range("10.0.0.9", "10.0.0.10")]);
        let remote = "10.0.0.200:80".parse().unwrap();
        let mut seen = HashSet::new();
        let mut open = || {
            let naming = &mut Naming { locals: &locals, key: &key, isn_key: &mut isn_key };
            let run = ports.run(None, remote).unwrap_or_else(|| ports.begin(naming, None, remote));
            let pair = ports.pair(run).unwrap();
            ports.pass(run, naming, |_| {});
            (pair.local, pair.local_port)
        };
        for _ in 0..500 {
            let pair = open();
            assert!((1000..=1099).contains(&pair.1) && pair.0 < 5);
            assert!(seen.insert(pair), "{pair:?} came twice");
        }
        assert!(seen.contains(&open()));
    }

    /// Opens to many remotes in turns, from all addresses or from one, some of which try several pairs: whichever runs are
    /// remembered, each open is given what the division of its walk's start says.
    #[test]
    fn runs_are_what_their_walks_say() {
        let config = TcpConfig { local_ports: PortRange { first: 1000, last: 1006 }, ..TcpConfig::default() };
        let mut ports = Ports::new(&config, None, [1, 2]);
        let (key, mut isn_key) =
            (HashKey::new([3, 4]), IsnKey::new([5, 6], TimestampClock { key: [7, 8], origin_ms: 0 }));
        let locals =
            Locals::new(&[range("10.0.0.1", "10.0.0.3"), range("fd00::1", "fd00::2"), range("10.0.0.9", "10.0.0.9")]);
        let mut random = crate::flow::table::tests::Random(7);
        for _ in 0..20_000 {
            let remote = match random.below(40) {
                low @ 0..30 => SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0080 | low as u32).into(), 80),
                30 => "[fd00::77]:443".parse().unwrap(),
                _ => "10.0.0.200:80".parse().unwrap(),
            };
            let local = (random.below(4) == 0 && remote.is_ipv4()).then(|| random.below(3) as u16);
            let walk = ports.walk(&locals, local, remote);
            let naming = &mut Naming { locals: &locals, key: &key, isn_key: &mut isn_key };
            let run = ports.run(local, remote).unwrap_or_else(|| ports.begin(naming, local, remote));
            let tried = 1 + random.below(4) / 3 * random.below(20);
            for step in 0..tried {
                let said = at(&ports, &locals, &walk, step);
                let pair = ports.pair(run);
                ports.pass(run, naming, |_| {});
                assert_eq!(pair.map(|pair| (pair.local, pair.local_port)), said);
                let Some(Pair { local, local_port, isn_part, hash }) = pair else { continue };
                let (local, remote, remote_port) = (locals.address(local), remote.ip(), remote.port());
                assert_eq!(isn_part, naming.isn_key.part(local, local_port, remote, remote_port));
                assert_eq!(hash, key.index_hash(&FlowKey { local, remote, local_port, remote_port }));
            }
            if random.below(50) == 0 {
                ports.give_up(run, tried);
                assert_eq!(ports.walk(&locals, local, remote).start, walk.start + 1);
            }
        }
    }

    /// Every worker's walk meets exactly the pairs whose answers arrive on its queue, each once: for port ranges and
    /// tables of all shapes, keys of all kinds, both families.
    #[test]
    fn the_workers_of_a_hashing_card_share_the_pairs_out_by_queue() {
        let mut state = 7u64;
        let mut octet = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        let ranges = [(1024, 65_535), (40_000, 40_999), (50_000, 50_000), (32_768, 33_023)];
        for (round, (first, last)) in ranges.into_iter().cycle().take(24).enumerate() {
            let workers = 1 + round as u32 % 5;
            let table: Vec<_> = (0..1 << (round % 9)).map(|_| u16::from(octet()) % workers as u16).collect();
            let rss = Arc::new(Rss::with(core::array::from_fn(|_| octet()), &table).unwrap());
            let (local, remote) = match round % 2 {
                0 => ("10.0.0.1 10.0.0.3", "10.0.7.7:80"),
                _ => ("fd00::1 fd00::3", "[fd00::77]:443"),
            };
            let (from, to) = local.split_once(' ').unwrap();
            let addresses = AddressRange { first: from.parse().unwrap(), last: to.parse().unwrap(), prefix_len: 24 };
            let locals = Locals::new(&[addresses]);
            let remote = remote.parse().unwrap();
            let config = TcpConfig { local_ports: PortRange { first, last }, ..TcpConfig::default() };
            let mut seen = HashSet::new();
            for place in Exchange::among(workers as usize, 1, 64, Some(&rss)) {
                let mut ports = Ports::new(&config, None, [1, 2]);
                let (rss, steering) = place.steering().unwrap();
                ports.steer(rss, steering);
                let walk = ports.walk(&locals, None, remote);
                for step in 0..walk.pairs {
                    let Some((number, port)) = at(&ports, &locals, &walk, step) else { continue };
                    let local = SocketAddr::new(locals.address(number), port);
                    assert_eq!(u32::from(rss.queue_of_flow(local, remote)), place.index());
                    assert!((first..=last).contains(&port) && seen.insert(local), "{local} came twice");
                }
            }
            assert_eq!(seen.len(), 3 * (usize::from(last - first) + 1), "every pair is somebody's");
        }
    }

    /// Workers of a device whose hash nobody knows share the pairs out among them: each pair is met by one, once.
    #[test]
    fn workers_share_the_pairs_out_by_what_both_ends_have_in_common() {
        let config = TcpConfig { local_ports: PortRange { first: 1000, last: 1499 }, ..TcpConfig::default() };
        let locals = Locals::new(&[range("10.0.0.1", "10.0.0.3")]);
        let (key, remote) = (HashKey::new([3, 4]), "10.0.0.200:80".parse().unwrap());
        let mut isn_key = IsnKey::new([5, 6], TimestampClock { key: [7, 8], origin_ms: 0 });
        let naming = &mut Naming { locals: &locals, key: &key, isn_key: &mut isn_key };
        let mut seen = HashSet::new();
        for place in Exchange::among(3, 1, 64, None) {
            let mut ports = Ports::new(&config, None, [1, 2]);
            ports.share(place.share());
            let run = ports.begin(naming, None, remote);
            let before = seen.len();
            for _ in 0..1500 {
                if let Some(Pair { local, local_port, hash, .. }) = ports.pair(run) {
                    let local = locals.address(local);
                    let flow = FlowKey { local, remote: remote.ip(), local_port, remote_port: remote.port() };
                    assert_eq!((place.owner(&flow), hash), (place.index(), key.index_hash(&flow)));
                    assert!(seen.insert((local, local_port)), "{local}:{local_port} came twice");
                }
                ports.pass(run, naming, |_| {});
            }
            assert!((400..600).contains(&(seen.len() - before)), "{}", seen.len() - before);
        }
        assert_eq!(seen.len(), 1500, "every pair is somebody's");
    }

    /// Few steps of the walk are without a pair: the usual range does not divide into equal groups, but nearly so.
    #[test]
    fn hardly_a_step_is_in_vain() {
        let config = TcpConfig::default();
        let rss = Arc::new(Rss::new(16));
        let locals = Locals::new(&[AddressRange {
            first: "10.0.0.1".parse().unwrap(),
            last: "10.0.0.1".parse().unwrap(),
            prefix_len: 24,
        }]);
        for place in Exchange::among(16, 1, 64, Some(&rss)) {
            let mut ports = Ports::new(&config, None, [1, 2]);
            let (rss, steering) = place.steering().unwrap();
            ports.steer(rss, steering);
            let walk = ports.walk(&locals, None, "10.0.0.9:80".parse().unwrap());
            let found = (0..walk.pairs).filter(|&step| at(&ports, &locals, &walk, step).is_some()).count();
            assert!(found as f64 > 0.98 * walk.pairs as f64, "{found} of {}", walk.pairs);
        }
    }
}
