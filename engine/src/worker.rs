//! The loop. Everything the engine does happens in [`Worker::poll`], in the order a frame meets it:
//!
//! ```text
//!   1 reap      completed transmissions go back to the frame pool
//!   2 receive   up to a burst of frames
//!   3 parse     each frame to its meaning, or to the reason it is dropped
//!   4 look up   hash all, prefetch the index, then the blocks
//!   5 segment   RFC 9293 §3.10.7; ARP, ICMP
//!   6 app       callbacks, inline in 5; then its own turn
//!   7 timers    what is due
//!   8 transmit  what all of these want to say, built in frames
//!   9 doorbell  at most once
//! ```
//!
//! A pass is bounded in work, calls no operating system but for the doorbell, allocates nothing and takes no lock.
//! Tables grow at its end, a page at a time.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::device::{Device, Frame};
use crate::flow::Home;
use crate::handover::Exchange;
use crate::page::PageSource;
use crate::prefetch::prefetch_read;
use crate::reassembly::{Reassembly, Taken};
use crate::stats::Stats;
use crate::tcp::{Held, Lookup, Net, Secrets, Tcp, Tx};
use crate::time::{Clock, Instant};
use crate::wire::emit::UsualHead;
use crate::wire::fragment::Fragment;
use crate::wire::ip::tos;
use crate::wire::objection::Objection;
use crate::wire::{DropReason, Ecn, MacAddr, ParseRules, Parsed, VlanId, parse, parse_usual};

/// Frames in a burst.
pub const BURST: usize = 64;

/// Frames whose headers are asked for ahead of the one that is being parsed: about as many lines as a core can wait for
/// at a time.
const FRAMES_AHEAD: usize = 6;

/// Octets of headers and options that a frame may need besides its payload: Ethernet, tag, IPv6, TCP.
const HEADERS_MAX: u16 = 14 + 4;

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Frames received.
    pub received: usize,
    /// Timers and records that came due.
    pub timers: usize,
    /// Frames sent.
    pub sent: u64,
}

impl Activity {
    /// Whether there was nothing to do.
    pub fn is_idle(&self) -> bool {
        self.received == 0 && self.timers == 0 && self.sent == 0
    }
}

/// What a frame of the burst is, between the steps of the loop.
#[derive(Clone, Copy)]
struct Arrival {
    /// What it means; `None`: nothing is left to be done.
    parsed: Option<Parsed>,
    /// Where the index may have its flow, if it is a segment.
    lookup: Lookup,
    home: Option<Home>,
}

impl Arrival {
    const NOTHING: Self = Self { parsed: None, lookup: Lookup { hash: 0, candidate: None }, home: None };
}

/// One engine on one core: a device queue, a shard of the flow table, a timer wheel, an application.
pub struct Worker<D: Device, A: App, P: PageSource> {
    device: D,
    app: A,
    pages: P,
    tcp: Tcp,
    stats: Arc<Stats>,
    rules: ParseRules,
    mac: MacAddr,
    vlan: Option<VlanId>,
    /// What most frames that leave begin with.
    head: UsualHead,
    burst: Vec<D::Frame>,
    /// What the frames of the burst are, one for each that it has room for: written over, not pushed.
    arrivals: Vec<Arrival>,
    /// Where a frame that another worker handed over is worked on.
    parcel: Box<[u8]>,
    /// Packets that came in fragments.
    reassembly: Reassembly,
}

impl<D: Device, A: App, P: PageSource> Worker<D, A, P> {
    /// A worker on `device`, running `app`, with memory from `pages`.
    ///
    /// # Errors
    /// [`ConfigError`] for a tunable out of its range, or a link that cannot carry what the engine sends.
    pub fn new(config: &Config, secrets: &Secrets, device: D, app: A, mut pages: P) -> Result<Self, ConfigError> {
        config.check()?;
        let capabilities = device.capabilities();
        if capabilities.mtu < 576 {
            return Err(ConfigError(format!("MTU {} is below 576: no TCP segment of use fits", capabilities.mtu)));
        }
        let mtu = capabilities.mtu.min(capabilities.frame_bytes_max.saturating_sub(HEADERS_MAX));
        let frame_bytes = usize::from(capabilities.frame_bytes_max);
        let mac = MacAddr(capabilities.mac);
        let vlan = match config.vlan {
            None => None,
            Some(id) => Some(VlanId::new(id).ok_or_else(|| ConfigError(format!("{id} is no VLAN")))?),
        };
        let rules = ParseRules {
            vlan,
            mac: Some(mac),
            broadcast: Ipv4Addr::BROADCAST,
            accept_partial_checksum: capabilities.partial_checksum,
            ..ParseRules::default()
        };
        let stats = Arc::new(Stats::default());
        let mut tcp = Tcp::new(config, secrets, mtu, Arc::clone(&stats), &mut pages)?;
        for &(address, mac) in &config.neighbors {
            tcp.neighbors.set_permanent(address, mac, Instant::ZERO);
        }
        tcp.maintain(&mut pages);
        let burst = Vec::with_capacity(BURST);
        Ok(Self {
            device,
            app,
            pages,
            tcp,
            stats,
            rules,
            mac,
            vlan,
            //= RFC 9293 MUST-48, MUST-49
            head: UsualHead::new(mac, config.tcp.hop_limit, tos(config.tcp.dscp, Ecn::NotCapable)),
            // a device may fill a burst to its capacity
            arrivals: vec![Arrival::NOTHING; burst.capacity()],
            burst,
            parcel: vec![0; frame_bytes].into_boxed_slice(),
            reassembly: Reassembly::new(),
        })
    }

    /// Makes this worker one of several that share the device's flows: each flow has one owner among them, and what
    /// arrives elsewhere is handed over. All of them must have been built with the same secrets. To be called before any
    /// connection is there.
    pub fn join(&mut self, exchange: Exchange) {
        self.tcp.join(exchange);
    }

    /// One pass of the loop. The clock is read once, after the burst has been received.
    pub fn poll(&mut self, clock: &impl Clock) -> Activity {
        self.device.reap();
        let mut burst = core::mem::take(&mut self.burst);
        let received = self.device.receive(&mut burst);
        self.tcp.set_now(clock.now());
        let sent_before = self.stats.tx_frames.get();
        if self.reassembly.is_due(self.tcp.now) {
            self.give_up_fragments();
        }

        let mut arrivals = core::mem::take(&mut self.arrivals);
        self.parse_and_prefetch(&burst, &mut arrivals);
        let mut tx = Tx {
            device: &mut self.device,
            mac: self.mac,
            vlan: self.vlan,
            head: &self.head,
            stats: &self.stats,
            spare: None,
        };
        for (frame, arrival) in burst.drain(..).zip(&arrivals) {
            match &arrival.parsed {
                Some(parsed) => {
                    self.tcp.set_arrived(frame.stamp().and_then(|nanos| clock.at(nanos)));
                    dispatch(&mut self.tcp, &mut self.app, &mut tx, frame, parsed, &arrival.lookup);
                }
                None => tx.device.release(frame),
            }
        }
        self.tcp.set_arrived(None);
        self.arrivals = arrivals;
        let taken = take_parcels(&mut self.tcp, &mut self.app, &mut tx, &self.rules, &mut self.parcel)
            + take_whole(&mut self.tcp, &mut self.app, &mut tx, &self.rules, &mut self.reassembly);
        self.app.poll(&mut Net { tcp: &mut self.tcp });
        let timers = self.tcp.expire(&mut self.app)
            + self.tcp.expire_syns(&mut tx)
            + self.tcp.expire_time_waits()
            + self.tcp.keep_alive(&mut self.app);
        self.tcp.flush(&mut self.app, &mut tx);
        self.tcp.solicit(&mut tx);
        let sent = self.stats.tx_frames.get() - sent_before;
        self.app.leaving(sent, || clock.now());
        self.device.doorbell();

        self.burst = burst;
        self.tcp.maintain(&mut self.pages);
        let activity = Activity { received: received + taken, timers, sent };
        self.stats.polls.increment();
        if !activity.is_idle() {
            self.stats.polls_busy.increment();
        }
        activity
    }

    /// Steps 3 and 4: what each frame means, and its flow on the way into the cache.
    fn parse_and_prefetch(&mut self, burst: &[D::Frame], arrivals: &mut [Arrival]) {
        let usual = self.rules.usual();
        // With one worker nothing of the others is to cost anything
        let alone = self.tcp.exchange.is_none();
        let mut octets = 0;
        burst.iter().take(FRAMES_AHEAD).for_each(prefetch_headers);
        for (at, (frame, arrival)) in burst.iter().zip(arrivals.iter_mut()).enumerate() {
            if let Some(ahead) = burst.get(at + FRAMES_AHEAD) {
                prefetch_headers(ahead);
            }
            let bytes = frame.bytes();
            octets += bytes.len() as u64;
            match usual.and_then(|rules| parse_usual(bytes, &rules)) {
                Some(segment) => {
                    let hash = self.tcp.hash_segment(&segment);
                    arrival.home = Some(self.tcp.table.prefetch(hash));
                    arrival.lookup = Lookup { hash, candidate: None };
                    // Into its place at once: a descriptor is too long to be moved about
                    arrival.parsed = Some(Parsed::Tcp(segment));
                    if !alone {
                        self.hand_over(arrival, bytes);
                    }
                }
                None => {
                    *arrival = self.parse_other(at, burst);
                    self.hand_over(arrival, frame.bytes());
                }
            }
        }
        for arrival in &mut arrivals[..burst.len()] {
            if let Some(home) = arrival.home {
                arrival.lookup.candidate = self.tcp.prefetch(arrival.lookup.hash, home);
            }
        }
        self.stats.rx_frames.add(burst.len() as u64);
        self.stats.rx_bytes.add(octets);
    }

    /// Gives the other workers what is theirs, if there are others.
    #[inline(never)]
    fn hand_over(&mut self, arrival: &mut Arrival, frame: &[u8]) {
        match &arrival.parsed {
            Some(Parsed::Tcp(segment)) if self.tcp.hand_over(segment, frame) => *arrival = Arrival::NOTHING,
            Some(Parsed::Tcp(_)) | None => {}
            Some(other) => self.tcp.tell_others(other, frame),
        }
    }

    /// What a frame is that is not of the usual kind.
    #[inline(never)]
    fn parse_other(&mut self, at: usize, burst: &[D::Frame]) -> Arrival {
        let bytes = burst.get(at).map_or(&[][..], Frame::bytes);
        match parse(bytes, &self.rules) {
            Ok(Parsed::Tcp(segment)) => {
                let hash = self.tcp.hash_segment(&segment);
                let home = Some(self.tcp.table.prefetch(hash));
                Arrival { parsed: Some(Parsed::Tcp(segment)), lookup: Lookup { hash, candidate: None }, home }
            }
            Ok(other) => Arrival { parsed: Some(other), ..Arrival::NOTHING },
            Err(DropReason::Fragment) => {
                self.take_fragment(at, burst);
                Arrival::NOTHING
            }
            Err(reason) => {
                self.stats.dropped.count(reason);
                self.object(bytes, reason);
                Arrival::NOTHING
            }
        }
    }

    /// A fragment goes to the others of its packet, if it is for us.
    #[cold]
    fn take_fragment(&mut self, at: usize, burst: &[D::Frame]) {
        let fragment = burst.get(at).and_then(|frame| Fragment::read(frame.bytes()));
        let mut given_up = 0;
        let ours = fragment.filter(|fragment| self.tcp.takes_fragments_to(fragment.key.destination));
        let taken = match ours {
            Some(fragment) => match Objection::to_fragment(&fragment) {
                Some(objection) => {
                    self.tell(&objection);
                    Taken::Refused
                }
                None => self.reassembly.take(&fragment, self.tcp.now, &mut given_up),
            },
            None => Taken::Refused,
        };
        match taken {
            Taken::Whole => self.stats.packets_reassembled.increment(),
            Taken::Refused => given_up += 1,
            Taken::Kept => {}
        }
        (0..given_up).for_each(|_| self.stats.dropped.count(DropReason::Fragment));
    }

    /// Gives up packets whose fragments did not all come in time. Their senders are told if the first one came.
    //= RFC 1122 3.3.2-MUST-2
    //= RFC 8200 4.5-SHOULD-1
    #[cold]
    fn give_up_fragments(&mut self) {
        let mut tx = Tx {
            device: &mut self.device,
            mac: self.mac,
            vlan: self.vlan,
            head: &self.head,
            stats: &self.stats,
            spare: None,
        };
        while let Some(overdue) = self.reassembly.overdue(self.tcp.now) {
            self.stats.dropped.count(DropReason::Fragment);
            if !overdue.first.is_empty() {
                self.tcp.object(&mut tx, &Objection::overdue(&overdue.key, overdue.station, overdue.first));
            }
        }
    }

    /// Tells the sender of a packet what is wrong with it, if that is to be told.
    #[cold]
    fn object(&mut self, frame: &[u8], reason: DropReason) {
        if let Some(objection) = Objection::to(frame, reason, &self.rules) {
            self.tell(&objection);
        }
    }

    fn tell(&mut self, objection: &Objection<'_>) {
        let mut tx = Tx {
            device: &mut self.device,
            mac: self.mac,
            vlan: self.vlan,
            head: &self.head,
            stats: &self.stats,
            spare: None,
        };
        self.tcp.object(&mut tx, objection);
    }

    /// When there will next be something to do if no frame comes: the driver may sleep until then. `None`: never.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let own = self.tcp.next_deadline();
        [own, self.app.next_deadline(), self.reassembly.deadline()].into_iter().flatten().min()
    }

    /// The worker's counters; may be read from any thread.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, to ask for its health or to step a simulation.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The application.
    pub fn app(&self) -> &A {
        &self.app
    }

    /// The application, between two passes.
    pub fn app_mut(&mut self) -> &mut A {
        &mut self.app
    }

    /// The connections, as the application sees them, between two passes.
    pub fn net(&mut self) -> Net<'_> {
        Net { tcp: &mut self.tcp }
    }

    /// The application and the connections at once, between two passes.
    pub fn app_and_net(&mut self) -> (&mut A, Net<'_>) {
        (&mut self.app, Net { tcp: &mut self.tcp })
    }

    /// Records in use, between two passes.
    pub fn held(&self) -> Held {
        self.tcp.held()
    }

    /// Checks what must hold of every connection between two passes. For simulations: takes time in proportion to what is
    /// held.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.tcp.check_invariants()
    }

    /// What the connections' state comes to, in one number that does not depend on the time of day. For explorers of the
    /// state space: takes time in proportion to what is held.
    pub fn digest(&self, hasher: &mut impl core::hash::Hasher) {
        self.tcp.digest(hasher);
    }

    /// Octets of index, blocks, records and buffers now held.
    pub fn table_bytes(&self) -> u64 {
        self.tcp.bytes()
    }
}

impl<D: Device, A: App, P: PageSource> Drop for Worker<D, A, P> {
    fn drop(&mut self) {
        self.tcp.release(&mut self.pages);
    }
}

/// Step 5: one frame. Its buffer serves for the reply if nothing in it is needed any more.
#[inline(always)]
fn dispatch<D: Device, A: App>(
    tcp: &mut Tcp,
    app: &mut A,
    tx: &mut Tx<'_, D>,
    frame: D::Frame,
    parsed: &Parsed,
    lookup: &Lookup,
) {
    let Parsed::Tcp(segment) = parsed else {
        return dispatch_other(tcp, app, tx, frame, parsed);
    };
    if segment.payload_len > 0 {
        tcp.segment_arrives(app, tx, segment, lookup, segment.payload(frame.bytes()));
        return tx.device.release(frame);
    }
    tx.spare = Some(frame);
    tcp.segment_arrives(app, tx, segment, lookup, &[]);
    if let Some(frame) = tx.spare.take() {
        tx.device.release(frame);
    }
}

/// [`dispatch`], of what is no segment.
#[inline(never)]
fn dispatch_other<D: Device, A: App>(tcp: &mut Tcp, app: &mut A, tx: &mut Tx<'_, D>, frame: D::Frame, parsed: &Parsed) {
    match parsed {
        Parsed::Tcp(_) => {}
        Parsed::Arp(packet) => tcp.arp(tx, packet),
        Parsed::Echo(request) => tcp.echo(tx, request, frame.bytes()),
        Parsed::IcmpError(error) => tcp.icmp_error(app, error),
        Parsed::NeighborSolicitation(asked) => tcp.neighbor_solicitation(tx, asked),
        Parsed::NeighborAdvertisement(told) => tcp.neighbor_advertisement(told),
    }
    tx.device.release(frame);
}

/// Works on frames that other workers handed over, up to a burst of them.
fn take_parcels<D: Device, A: App>(
    tcp: &mut Tcp,
    app: &mut A,
    tx: &mut Tx<'_, D>,
    rules: &ParseRules,
    parcel: &mut [u8],
) -> usize {
    let mut taken = 0;
    while taken < BURST {
        let Some(len) = tcp.exchange.as_ref().and_then(|exchange| exchange.take(parcel)) else { break };
        let frame = &parcel[..len];
        taken += 1;
        match parse(frame, rules) {
            Ok(Parsed::Tcp(segment)) => {
                let hash = tcp.hash_segment(&segment);
                tcp.segment_arrives(app, tx, &segment, &Lookup { hash, candidate: None }, segment.payload(frame));
            }
            Ok(Parsed::Arp(packet)) => tcp.learn_arp(&packet),
            Ok(Parsed::NeighborAdvertisement(told)) => tcp.neighbor_advertisement(&told),
            Ok(Parsed::IcmpError(error)) => tcp.icmp_error(app, &error),
            Ok(_) | Err(_) => {}
        }
    }
    taken
}

/// Works on packets whose last fragment has come.
fn take_whole<D: Device, A: App>(
    tcp: &mut Tcp,
    app: &mut A,
    tx: &mut Tx<'_, D>,
    rules: &ParseRules,
    reassembly: &mut Reassembly,
) -> usize {
    let mut taken = 0;
    while let Some(frame) = reassembly.whole(tx.mac, tx.vlan) {
        taken += 1;
        match parse(frame, rules) {
            Ok(Parsed::Tcp(segment)) => {
                let hash = tcp.hash_segment(&segment);
                if !tcp.hand_over(&segment, frame) {
                    tcp.segment_arrives(app, tx, &segment, &Lookup { hash, candidate: None }, segment.payload(frame));
                }
            }
            Ok(Parsed::Echo(request)) => tcp.echo(tx, &request, frame),
            Ok(Parsed::IcmpError(error)) => {
                tcp.tell_others(&Parsed::IcmpError(error), frame);
                tcp.icmp_error(app, &error);
            }
            // RFC 6980 §5: neighbour discovery that came in fragments is none
            Ok(_) => tx.stats.dropped.count(DropReason::BadNdp),
            Err(reason) => tx.stats.dropped.count(reason),
        }
    }
    taken
}

/// Asks for a frame's headers and first payload, which some other core wrote.
#[inline(always)]
fn prefetch_headers<F: Frame>(frame: &F) {
    let bytes = frame.bytes();
    for line in [0, 64, 128] {
        if let Some(octet) = bytes.get(line) {
            prefetch_read(octet);
        }
    }
}
