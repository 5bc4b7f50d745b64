//! Where an attack is played: a server, its honest clients, the hostile host, and the time.

use core::cell::RefCell;
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::fault::SplitMix64;
use syncline_engine::device::link::{End, Link, LinkConfig, LinkDevice, WireEvent};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::{Held, Secrets};
use syncline_engine::time::Instant;
use syncline_engine::wire::{ParseRules, Parsed, TcpSegment, parse};
use syncline_engine::worker::Worker;

use super::field::{Field, Hostile, STATION, TURN, Victim};
use super::honest::{Clients, Got, PAGES, PORTS, Service};
use super::{Attack, Noted, Outcome, nonzero};

/// Called with each pass of the server, which it must have run; `true` in the second half of the attack.
pub type Around<'a> = &'a mut dyn FnMut(bool, &mut dyn FnMut());

/// One way over the link.
const DELAY: Duration = Duration::from_micros(100);
/// How much the time moves at least when a host asks to be polled again at once.
const LOOP_TIME: Duration = Duration::from_micros(1);
/// When the hostile host begins.
const BEGIN: Duration = Duration::from_millis(100);
/// Passes between two checks of everything the server holds.
const CHECK_EVERY: u64 = 2_000;

/// Plays an attack, and the same without it; the second run's passes of the server go through `around`. IPv6 if the seed is
/// odd.
pub fn play(attack: &Attack, seed: u64, around: Around<'_>) -> Outcome {
    let quiet = Arena::new(attack, seed, None).run(&mut |_, pass| pass());
    let hostile = (attack.hostile)();
    let mut outcome = Arena::new(attack, seed, Some(hostile)).run(around);
    outcome.sent_quiet = quiet.sent;
    outcome.bytes_max_quiet = quiet.bytes_max;
    outcome.answers_quiet = quiet.answers;
    outcome.pages_quiet = quiet.pages;
    outcome.scoreboard_steps = outcome.scoreboard_steps.saturating_sub(quiet.scoreboard_steps);
    let inconsistent = core::mem::take(&mut outcome.broken);
    outcome.judge(attack);
    outcome.broken.extend(inconsistent);
    outcome
}

struct Arena {
    link: Link,
    server: Worker<LinkDevice, Service, HeapPages>,
    clients: Worker<LinkDevice, Clients, HeapPages>,
    got: Rc<RefCell<Got>>,
    hostile: Option<Box<dyn Hostile>>,
    field: Field,
    /// Segments of the server that are not for the honest clients, and where it is with those.
    overheard: Rc<RefCell<Overheard>>,
    span: Duration,
    outcome: Outcome,
}

/// Has room for all that is overheard in a turn: the server is not to be charged with allocations of the spy.
struct Overheard {
    segments: Vec<TcpSegment>,
    victims: Vec<Victim>,
}

const EARS: usize = 1 << 14;

fn range(address: IpAddr) -> AddressRange {
    AddressRange { first: address, last: address, prefix_len: if address.is_ipv4() { 16 } else { 64 } }
}

/// The configuration under attack: everything small enough to be exhausted.
fn server_config(own: IpAddr, gateway: IpAddr) -> Config {
    let listener = |&port| Listener { first_port: port, last_port: port, syn_cookies: SynCookies::Auto };
    Config {
        addresses: vec![range(own)],
        gateway_v4: Some(gateway).filter(IpAddr::is_ipv4),
        gateway_v6: Some(gateway).filter(IpAddr::is_ipv6),
        neighbors: vec![(gateway, STATION)],
        listeners: PORTS.iter().map(listener).collect(),
        max_connections: 2_000,
        max_syn_received: 4_096,
        max_syn_received_per_prefix: 1_024,
        syn_flood_per_second: 20_000,
        buffer_bytes: 16 << 20,
        out_of_order_bytes: 4 << 20,
        resets_per_second: 10_000,
        max_neighbors: 256,
        ..Config::default()
    }
}

impl Arena {
    fn new(attack: &Attack, seed: u64, hostile: Option<Box<dyn Hostile>>) -> Self {
        let path = PathConfig { delay: DELAY, ..PathConfig::default() };
        let config = LinkConfig { frames: 1 << 14, ..LinkConfig::symmetric(path) };
        let (link, a, b) = Link::pair(config, seed);
        let addresses = if seed.is_multiple_of(2) {
            ["10.0.0.1", "10.0.0.2", "10.0.0.254"]
        } else {
            ["fd00::1", "fd00::2", "fd00::254"]
        };
        let [own, honest, gateway] = addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
        let mut words = SplitMix64::new(seed, 300);
        let mut secrets = || {
            let mut pair = || [words.next_u64(), words.next_u64()];
            Secrets::new(pair(), pair(), pair())
        };
        let mut config = server_config(own, gateway);
        (attack.config)(&mut config);
        let server = Worker::new(&config, &secrets(), a, Service, HeapPages::new()).expect("a server");
        let got = Rc::new(RefCell::new(Got::default()));
        let app = Clients::new(SocketAddr::new(own, PAGES), Rc::clone(&got));
        let mut config = Config { addresses: vec![range(honest)], ..Config::default() };
        config.tcp.time_wait = Duration::from_secs(1);
        let clients = Worker::new(&config, &secrets(), b, app, HeapPages::new()).expect("clients");
        let field = Field {
            device: link.device(End::B, 0),
            chance: SplitMix64::new(seed, 301),
            now: Instant::ZERO,
            server: own,
            honest,
            sent: 0,
            noted: Noted::default(),
            victims: Vec::new(),
        };
        let overheard = Overheard { segments: Vec::with_capacity(EARS), victims: Vec::with_capacity(EARS) };
        let overheard = Rc::new(RefCell::new(overheard));
        if hostile.is_some() {
            let ears = Rc::clone(&overheard);
            link.set_tap(move |_: Instant, from: End, event: WireEvent, frame: &[u8]| {
                if from == End::A && event == WireEvent::Sent {
                    ears.borrow_mut().hear(frame, honest);
                }
            });
        }
        let outcome = Outcome { name: attack.name.into(), seed, ..Outcome::default() };
        Self { link, server, clients, got, hostile, field, overheard, span: attack.span, outcome }
    }

    fn run(mut self, around: Around<'_>) -> Outcome {
        let (end, mut turn_at) = (Instant::ZERO + self.span, Instant::ZERO + BEGIN);
        let half = Instant::ZERO + BEGIN + (self.span - BEGIN) / 2;
        let (mut now, mut passes) = (Instant::ZERO, 0u64);
        while now < end {
            self.link.set_now(now);
            if turn_at <= now {
                self.turn(now);
                turn_at = turn_at + TURN;
            }
            let server = &mut self.server;
            around(now >= half, &mut || _ = server.poll(&now));
            self.clients.poll(&now);
            passes += 1;
            if passes.is_multiple_of(CHECK_EVERY)
                && let Err(what) = self.server.check_invariants()
            {
                self.outcome.broken.push(what);
                break;
            }
            self.look();
            let frame = self.link.next_event();
            if frame.is_some_and(|at| at <= now) {
                continue;
            }
            let deadlines = [self.server.next_deadline(), self.clients.next_deadline()].into_iter().flatten().min();
            let deadline = deadlines.map(|at| at.max(now + LOOP_TIME));
            let turn = self.hostile.is_some().then_some(turn_at);
            now = [frame, deadline, turn, Some(end)].into_iter().flatten().min().unwrap_or(end);
        }
        self.settle()
    }

    fn turn(&mut self, now: Instant) {
        let Some(hostile) = &mut self.hostile else { return };
        self.field.now = now;
        let mut overheard = self.overheard.borrow_mut();
        let segments = core::mem::replace(&mut overheard.segments, Vec::with_capacity(EARS));
        self.field.victims.clone_from(&overheard.victims);
        drop(overheard);
        for seg in &segments {
            hostile.heard(&mut self.field, seg);
        }
        hostile.turn(&mut self.field);
    }

    /// The most that was held at any time.
    fn look(&mut self) {
        let (held, most) = (self.server.held(), &mut self.outcome.held_max);
        *most = Held {
            connections: most.connections.max(held.connections),
            busy_blocks: most.busy_blocks.max(held.busy_blocks),
            flight_nodes: most.flight_nodes.max(held.flight_nodes),
            chunks: most.chunks.max(held.chunks),
            syn_received: most.syn_received.max(held.syn_received),
            time_waits: most.time_waits.max(held.time_waits),
            indexed: most.indexed.max(held.indexed),
            remotes: most.remotes.max(held.remotes),
        };
        self.outcome.bytes_max = self.outcome.bytes_max.max(self.server.table_bytes());
    }

    fn settle(mut self) -> Outcome {
        if let Err(what) = self.server.check_invariants() {
            self.outcome.broken.push(what);
        }
        let stats = self.server.stats();
        let got = *self.got.borrow();
        Outcome {
            hostile_frames: self.field.sent,
            sent: stats.tx_frames.get(),
            held_end: self.server.held(),
            scoreboard_steps: stats.scoreboard_steps.get(),
            answers: got.answers,
            pages: got.pages,
            failed: got.failed,
            noted: self.field.noted,
            counters: nonzero(stats),
            ..self.outcome
        }
    }
}

impl Overheard {
    fn hear(&mut self, frame: &[u8], honest: IpAddr) {
        let Ok(Parsed::Tcp(seg)) = parse(frame, &ParseRules::default()) else { return };
        if seg.destination != honest {
            return self.segments.push(seg);
        }
        let port = seg.destination_port;
        self.victims.retain(|victim| victim.port != port);
        if seg.flags.ack() && !seg.flags.fin() && !seg.flags.rst() {
            let snd_nxt = seg.seq + seg.seq_len();
            let stamp = seg.options.timestamps.map_or(0, |ts| ts.echo);
            self.victims.push(Victim { port, snd_nxt, rcv_nxt: seg.ack, stamp });
        }
    }
}
