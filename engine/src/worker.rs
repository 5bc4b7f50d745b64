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
use crate::device::{BURST, Device, Frame};
use crate::handover::Exchange;
use crate::page::PageSource;
use crate::prefetch::prefetch_write;
use crate::reassembly::{Reassembly, Taken};
use crate::stats::Stats;
use crate::tcp::{Held, Lookup, Net, Origin, Secrets, Tcp, Tx};
use crate::time::{Clock, Instant};
use crate::wire::emit::UsualHead;
use crate::wire::fragment::Fragment;
use crate::wire::ip::tos;
use crate::wire::objection::Objection;
use crate::wire::usual_syn::UsualSyn;
use crate::wire::{
    DropReason, Ecn, MacAddr, ParseRules, Parsed, TcpSegment, UsualRules, VlanId, parse, parse_each, parse_usual,
};

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
    what: What,
    /// Where the index may have its flow, if it is a segment.
    lookup: Lookup,
    /// What it says, if it is a segment.
    segment: TcpSegment,
    /// The number of the address of ours that it is for.
    local: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Segment,
    /// The next of [`Worker::others`].
    Other,
    /// Nothing is left to be done.
    Nothing,
}

impl Arrival {
    const NOTHING: Self = Self { what: What::Nothing, lookup: Lookup::NONE, segment: TcpSegment::NONE, local: 0 };
}

/// One engine on one core: a device queue, a shard of the flow table, a timer wheel, an application.
pub struct Worker<D: Device, A: App, P: PageSource> {
    device: D,
    app: A,
    pages: P,
    tcp: Tcp,
    stats: Arc<Stats>,
    rules: ParseRules,
    /// What they leave to be asked of frames of the usual kind, if frames may be.
    usual: Option<UsualRules>,
    origin: Origin,
    burst: Vec<D::Frame>,
    /// What the frames of the burst are, one for each that it has room for: written over, not pushed.
    arrivals: Vec<Arrival>,
    /// Those that are no segments, in their order.
    others: Vec<Parsed>,
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
        let tunables = &tcp.config;
        let offer = (tcp.mss_of_link(false), tunables.receive_scale);
        let syn = UsualSyn::new(mac, (tunables.hop_limit, tunables.dscp), tunables.syn_window, offer);
        let usual = rules.usual(tcp.locals.first_hosts());
        let burst = Vec::with_capacity(BURST);
        Ok(Self {
            device,
            app,
            pages,
            tcp,
            stats,
            rules,
            usual,
            origin: Origin {
                mac,
                vlan,
                //= RFC 9293 MUST-48, MUST-49
                head: UsualHead::new(mac, config.tcp.hop_limit, tos(config.tcp.dscp, Ecn::NotCapable)),
                syn,
            },
            // a device may fill a burst to its capacity
            arrivals: vec![Arrival::NOTHING; burst.capacity()],
            others: Vec::with_capacity(burst.capacity()),
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
        let received = self.device.receive(&mut self.burst);
        self.tcp.set_now(clock.now());
        let sent_before = self.stats.tx_frames.get();
        if self.reassembly.is_due(self.tcp.now) {
            self.give_up_fragments();
        }

        if received > 0 {
            self.parse_and_prefetch();
            self.segments_arrive(clock);
        }
        let mut tx = Tx::new(&mut self.device, &self.origin, &self.stats);
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

        self.tcp.maintain(&mut self.pages);
        let activity = Activity { received: received + taken, timers, sent };
        self.stats.polls.increment();
        if !activity.is_idle() {
            self.stats.polls_busy.increment();
        }
        activity
    }

    /// Steps 3 and 4: what each frame means, and its flow on the way into the cache.
    // Functions of their own, with all registers for themselves
    #[inline(never)]
    fn parse_and_prefetch(&mut self) {
        let burst = core::mem::take(&mut self.burst);
        let mut arrivals = core::mem::take(&mut self.arrivals);
        // With one worker nothing of the others is to cost anything
        let octets = match self.tcp.exchange {
            None => self.parse_burst::<false>(&burst, &mut arrivals),
            Some(_) => self.parse_burst::<true>(&burst, &mut arrivals),
        };
        prefetch_buckets(&self.tcp, &mut arrivals[..burst.len()]);
        prefetch_records(&self.tcp, &mut arrivals[..burst.len()]);
        self.stats.rx_frames.add(burst.len() as u64);
        self.stats.rx_bytes.add(octets);
        (self.burst, self.arrivals) = (burst, arrivals);
    }

    /// Parses a burst, and hashes its flows. Returns its octets.
    #[inline(never)]
    fn parse_burst<const SHARED: bool>(&mut self, burst: &[D::Frame], arrivals: &mut [Arrival]) -> u64 {
        let usual = self.usual;
        let mut octets = 0;
        burst.iter().take(FRAMES_AHEAD).for_each(prefetch_headers);
        for (at, (frame, arrival)) in burst.iter().zip(arrivals).enumerate() {
            if let Some(ahead) = burst.get(at + FRAMES_AHEAD) {
                prefetch_headers(ahead);
            }
            let bytes = frame.bytes();
            octets += bytes.len() as u64;
            match usual.as_ref().and_then(|rules| {
                let further = |address| self.tcp.locals.number_of_host(address);
                parse_usual(bytes, rules, further, &mut arrival.segment)
            }) {
                Some(ends) => {
                    arrival.what = What::Segment;
                    arrival.local = ends.local;
                    arrival.lookup = Lookup::of(self.tcp.hash_ends(ends));
                    if SHARED && !self.tcp.surely_owns(ends) {
                        self.hand_over(arrival, bytes);
                    }
                }
                None => {
                    self.parse_other(bytes, arrival);
                    if SHARED {
                        self.hand_over(arrival, bytes);
                    }
                }
            }
        }
        octets
    }

    /// Step 5.
    #[inline(never)]
    fn segments_arrive(&mut self, clock: &impl Clock) {
        let Self { tcp, app, burst, .. } = self;
        let mut tx = Tx::new(&mut self.device, &self.origin, &self.stats);
        let mut others = self.others.drain(..);
        for (frame, arrival) in burst.iter_mut().zip(&self.arrivals) {
            match arrival.what {
                What::Segment => {
                    let Arrival { segment, lookup, local, .. } = arrival;
                    tcp.set_arrived(frame.stamp().and_then(|nanos| clock.at(nanos)));
                    // A connection answers at the end of the pass, everybody else at once
                    if segment.payload_len == 0 && !lookup.is_connection() {
                        tx.answer_in(frame);
                    }
                    tcp.segment_arrives(app, &mut tx, segment, (*local, lookup), || segment.payload(frame.bytes()));
                    tx.answered();
                }
                What::Other => other(tcp, app, &mut tx, frame.bytes(), others.next()),
                What::Nothing => {}
            }
        }
        tcp.set_arrived(None);
        self.device.release_all(burst);
    }

    /// Gives the other workers what is theirs.
    #[inline(never)]
    fn hand_over(&mut self, arrival: &mut Arrival, frame: &[u8]) {
        match (arrival.what, self.others.last()) {
            (What::Segment, _) if self.tcp.hand_over(&arrival.segment, frame) => arrival.what = What::Nothing,
            (What::Other, Some(other)) => self.tcp.tell_others(other, frame),
            _ => {}
        }
    }

    /// What a frame is that is not of the usual kind.
    #[inline(never)]
    fn parse_other(&mut self, frame: &[u8], arrival: &mut Arrival) {
        arrival.what = match parse_each(frame, &self.rules) {
            Ok(Parsed::Tcp(segment)) => match self.tcp.admit(&segment) {
                Some(local) => {
                    arrival.lookup = Lookup::of(self.tcp.hash_segment(&segment));
                    (arrival.segment, arrival.local) = (segment, local);
                    What::Segment
                }
                None => What::Nothing,
            },
            Ok(other) => {
                self.others.push(other);
                What::Other
            }
            Err(DropReason::Fragment) => {
                self.take_fragment(frame);
                What::Nothing
            }
            Err(reason) => {
                self.stats.dropped.count(reason);
                self.object(frame, reason);
                What::Nothing
            }
        };
    }

    /// A fragment goes to the others of its packet, if it is for us.
    #[cold]
    fn take_fragment(&mut self, frame: &[u8]) {
        let mut given_up = 0;
        let ours = Fragment::read(frame).filter(|fragment| self.tcp.takes_fragments_to(fragment.key.destination));
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
        let mut tx = Tx::new(&mut self.device, &self.origin, &self.stats);
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
        let mut tx = Tx::new(&mut self.device, &self.origin, &self.stats);
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

/// The first look into the index: the line of each flow. In a loop that does nothing else, because a prefetch waits for its
/// address to be translated, and only in a short loop do several of them wait at a time.
#[inline(never)]
fn prefetch_buckets(tcp: &Tcp, arrivals: &mut [Arrival]) {
    for arrival in arrivals {
        if arrival.what == What::Segment {
            tcp.look_up(&mut arrival.lookup);
        }
    }
}

/// The second look into the index: the block of each flow.
#[inline(never)]
fn prefetch_records(tcp: &Tcp, arrivals: &mut [Arrival]) {
    for arrival in arrivals {
        if arrival.what == What::Segment {
            arrival.lookup.candidate = tcp.prefetch(&arrival.lookup);
        }
    }
}

/// Step 5, of what is no segment.
#[inline(never)]
fn other<D: Device, A: App>(tcp: &mut Tcp, app: &mut A, tx: &mut Tx<'_, D>, frame: &[u8], parsed: Option<Parsed>) {
    match parsed {
        None | Some(Parsed::Tcp(_)) => {}
        Some(Parsed::Arp(packet)) => tcp.arp(tx, &packet),
        Some(Parsed::Echo(request)) => tcp.echo(tx, &request, frame),
        Some(Parsed::IcmpError(error)) => tcp.icmp_error(app, &error),
        Some(Parsed::NeighborSolicitation(asked)) => tcp.neighbor_solicitation(tx, &asked),
        Some(Parsed::NeighborAdvertisement(told)) => tcp.neighbor_advertisement(&told),
    }
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
                tcp.segment_arrives_alone(app, tx, &segment, segment.payload(frame));
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
                if !tcp.hand_over(&segment, frame) {
                    tcp.segment_arrives_alone(app, tx, &segment, segment.payload(frame));
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

/// Asks for a frame's headers and first payload, which some other core wrote. An answer is written over them soon: at once, or in
/// the frame that is allocated next, which is the one that was released last. It may be longer than what is there.
#[inline(always)]
fn prefetch_headers<F: Frame>(frame: &F) {
    prefetch_write::<3, _>(frame.bytes().as_ptr());
}
