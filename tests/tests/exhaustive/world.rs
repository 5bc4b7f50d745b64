//! Two engines, the packets between them, and the steps that can be taken from where they are.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use syncline_engine::app::End;
use syncline_engine::config::{AddressRange, Config, Listener, PortRange, SynCookies};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Held;
use syncline_engine::time::Instant;
use syncline_engine::wire::{MacAddr, ParseRules, Parsed, parse};
use syncline_engine::worker::Worker;
use syncline_tests::handmoved::{Handmoved, Port};
use syncline_tests::host::secrets;

use crate::party::{Act, Party};

/// Maximum segment lifetime: half of TIME-WAIT. No packet outlives it.
const MSL: Duration = Duration::from_secs(1);

/// Steps of a network that works after which everything must be over.
const PATIENCE: usize = 400;

/// Packets on their way at most: what is sent beyond that is lost.
const NET_MAX: usize = 6;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The application of a side does something.
    Act(usize, Act),
    /// The packet of that number arrives.
    Deliver(usize),
    /// It arrives, and a copy of it stays on its way.
    Duplicate(usize),
    /// It never arrives.
    Lose(usize),
    /// Time passes until a timer of either side is due.
    Wait,
}

/// How often things may happen on one path through the state space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) opens: [u8; 2],
    pub(crate) sends: [u8; 2],
    pub(crate) closes: [u8; 2],
    pub(crate) aborts: u8,
    pub(crate) duplicates: u8,
    pub(crate) losses: u8,
    pub(crate) waits: u8,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) budget: Budget,
    /// Whether side b listens. Otherwise both know each other's port and open.
    pub(crate) listens: bool,
    pub(crate) cookies: SynCookies,
}

struct Packet {
    to: usize,
    frame: Vec<u8>,
    sent: Instant,
}

type Engine = Worker<Handmoved, Party, HeapPages>;

pub(crate) struct World {
    engines: [Engine; 2],
    ports: [Rc<RefCell<Port>>; 2],
    net: Vec<Packet>,
    now: Instant,
    left: Budget,
    fault: Option<String>,
    log: Option<String>,
}

const PORT: [u16; 2] = [1000, 2000];

fn address(side: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1 + side as u8).into()
}

fn mac(side: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, side as u8]
}

fn config(scenario: &Scenario, side: usize) -> Config {
    let own = address(side);
    let mut config = Config {
        addresses: vec![AddressRange { first: own, last: own, prefix_len: 24 }],
        neighbors: vec![(address(1 - side), MacAddr(mac(1 - side)))],
        max_connections: 4,
        max_syn_received: 64,
        max_time_wait: 64,
        buffer_bytes: 1 << 16,
        ..Config::default()
    };
    if scenario.listens && side == 1 {
        config.listeners = vec![Listener { first_port: PORT[1], last_port: PORT[1], syn_cookies: scenario.cookies }];
    }
    // One pair of sockets, so that a new connection has the name of the one before. No timestamps: what keeps
    // incarnations apart is then TIME-WAIT and the choice of the ISS alone.
    config.tcp.local_ports = PortRange { first: PORT[side], last: PORT[side] };
    config.tcp.timestamps = false;
    config.tcp.time_wait = 2 * MSL;
    config.tcp.fin_wait_2 = Duration::from_secs(5);
    config.tcp.syn_retries = 3;
    config.tcp.syn_ack_retries = 3;
    config.tcp.data_retries = 5;
    config
}

impl World {
    pub(crate) fn new(scenario: &Scenario, with_log: bool) -> Self {
        let ports: [Rc<RefCell<Port>>; 2] = Default::default();
        let engine = |side: usize| {
            let device = Handmoved::new(side as u8, Rc::clone(&ports[side]));
            let party = Party::new(0x40 * side as u8 + 1, SocketAddr::new(address(1 - side), PORT[1 - side]));
            Worker::new(&config(scenario, side), &secrets(side as u64), device, party, HeapPages::new())
                .expect("a configuration that can be")
        };
        Self {
            engines: [engine(0), engine(1)],
            ports: ports.clone(),
            net: Vec::new(),
            now: Instant::from_millis(1),
            left: scenario.budget,
            fault: None,
            log: with_log.then(String::new),
        }
    }

    /// The world after `steps`, from the beginning.
    pub(crate) fn after(scenario: &Scenario, steps: &[Step]) -> Self {
        let mut world = Self::new(scenario, false);
        for &step in steps {
            world.take(step);
        }
        world
    }

    pub(crate) fn log(&self) -> &str {
        self.log.as_deref().unwrap_or_default()
    }

    /// What is wrong, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let parties = self.engines.iter().find_map(|engine| engine.app().fault.clone());
        self.fault.clone().or(parties).or_else(|| self.mixed_up())
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{:>9} µs  {}", self.now.micros(), line());
        }
    }

    /// What can happen now.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let left = &self.left;
        for side in 0..2 {
            let live = self.engines[side].app().live.is_some();
            let mut offer = |act, count: u8, possible: bool| {
                if count > 0 && possible {
                    steps.push(Step::Act(side, act));
                }
            };
            offer(Act::Open, left.opens[side], !live);
            offer(Act::Send, left.sends[side], live);
            offer(Act::Close, left.closes[side], live);
            offer(Act::Abort, left.aborts, live);
        }
        for number in 0..self.net.len() {
            // Equal packets make equal steps
            let same = |other: &Packet| other.to == self.net[number].to && other.frame == self.net[number].frame;
            if self.net[..number].iter().any(same) {
                continue;
            }
            steps.push(Step::Deliver(number));
            if left.duplicates > 0 {
                steps.push(Step::Duplicate(number));
            }
            if left.losses > 0 {
                steps.push(Step::Lose(number));
            }
        }
        if left.waits > 0 && self.fault.is_none() {
            steps.push(Step::Wait);
        }
        steps
    }

    /// Takes a step that was possible.
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Act(side, act) => {
                let left = &mut self.left;
                let count = match act {
                    Act::Open => &mut left.opens[side],
                    Act::Send => &mut left.sends[side],
                    Act::Close => &mut left.closes[side],
                    Act::Abort => &mut left.aborts,
                };
                *count = count.saturating_sub(1);
                self.act(side, act);
            }
            Step::Deliver(number) => {
                let packet = self.net.remove(number);
                self.arrive(packet.to, packet.frame);
            }
            Step::Duplicate(number) => {
                self.left.duplicates -= 1;
                let packet = &self.net[number];
                let (to, frame) = (packet.to, packet.frame.clone());
                self.arrive(to, frame);
            }
            Step::Lose(number) => {
                self.left.losses -= 1;
                self.lose(number);
            }
            Step::Wait => {
                self.left.waits -= 1;
                self.wait();
            }
        }
    }

    fn act(&mut self, side: usize, act: Act) {
        self.note(|| format!("{}: {act:?}", ["a", "b"][side]));
        self.engines[side].app_mut().tell(act);
        self.run(side);
    }

    fn arrive(&mut self, to: usize, frame: Vec<u8>) {
        self.note(|| format!("{} <- {}", ["a", "b"][to], describe(&frame)));
        self.ports[to].borrow_mut().arriving.push_back(frame);
        self.run(to);
    }

    fn lose(&mut self, number: usize) {
        let packet = self.net.remove(number);
        self.note(|| format!("lost: {}", describe(&packet.frame)));
    }

    /// Runs a side until it has nothing more to do at this time.
    fn run(&mut self, side: usize) {
        for _ in 0..8 {
            if self.engines[side].poll(&self.now).is_idle() {
                break;
            }
        }
        let sent = std::mem::take(&mut self.ports[side].borrow_mut().sent);
        for frame in sent {
            self.note(|| format!("{} -> {}", ["a", "b"][side], describe(&frame)));
            if self.net.len() < NET_MAX {
                self.net.push(Packet { to: 1 - side, frame, sent: self.now });
            }
        }
        if let Err(what) = self.engines[side].check_invariants() {
            self.fault.get_or_insert(what);
        }
    }

    /// Time passes until a timer is due. Packets grow old and die. False if no timer runs.
    fn wait(&mut self) -> bool {
        let deadlines = self.engines.each_mut().map(Worker::next_deadline);
        let Some(next) = deadlines.into_iter().flatten().min() else { return false };
        self.now = next.max(self.now + Duration::from_millis(1));
        let now = self.now;
        self.net.retain(|packet| now.since(packet.sent) < MSL);
        self.note(|| "time passes".to_owned());
        self.run(0);
        self.run(1);
        true
    }

    /// From here on the network works and both applications close: everything must come to its end. `lost` says
    /// whether what is on its way now still arrives.
    pub(crate) fn wind_up(&mut self, lost: bool) {
        if lost {
            self.net.clear();
            self.note(|| "all on the way is lost".to_owned());
        }
        for _ in 0..PATIENCE {
            for side in 0..2 {
                if self.engines[side].app().live.is_some() {
                    self.act(side, Act::Close);
                }
            }
            if !self.net.is_empty() {
                let packet = self.net.remove(0);
                self.arrive(packet.to, packet.frame);
            } else if self.is_over() {
                return;
            } else if !self.wait() {
                break;
            }
            if self.fault().is_some() {
                return;
            }
        }
        let held = self.engines.each_ref().map(Worker::held);
        self.fault = Some(format!("not over when it should be: {held:?}"));
    }

    fn is_over(&self) -> bool {
        self.engines.iter().all(|engine| engine.held() == Held::default())
    }

    /// Whether text of one connection came out of another, or not as it was sent.
    fn mixed_up(&self) -> Option<String> {
        for side in 0..2 {
            let (own, peer) = (self.engines[side].app(), self.engines[1 - side].app());
            for (number, story) in own.stories.iter().enumerate() {
                let Some(&first) = story.got.first() else { continue };
                let Some(from) = peer.story_of(first) else { return Some("text that nobody sent".to_owned()) };
                let source = &peer.stories[from];
                if !source.sent.starts_with(&story.got) {
                    return Some(format!(
                        "connection {number} of side {side} read {:?} of {:?}",
                        story.got, source.sent
                    ));
                }
                // Both have read from the other: then they are each other's
                if let Some(&back) = source.got.first()
                    && own.story_of(back) != Some(number)
                {
                    return Some(format!("connection {number} of side {side} reads from one that reads from another"));
                }
                if (story.end, source.end) == (Some(End::Closed), Some(End::Closed)) && story.got != source.sent {
                    return Some(format!("closed in order, but {:?} of {:?} were read", story.got, source.sent));
                }
            }
        }
        None
    }

    /// The state as one number. Paths that lead to equal ones go on alike.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for engine in &self.engines {
            engine.digest(&mut hasher);
            let party = engine.app();
            (&party.stories, party.live.is_some(), &party.fault).hash(&mut hasher);
        }
        let mut packets: Vec<_> =
            self.net.iter().map(|packet| (packet.to, &packet.frame, self.now.since(packet.sent))).collect();
        packets.sort();
        (packets, self.left, &self.fault).hash(&mut hasher);
        hasher.finish()
    }
}

fn describe(frame: &[u8]) -> String {
    match parse(frame, &ParseRules::default()) {
        Ok(Parsed::Tcp(seg)) => {
            format!("{} seq {} ack {} len {}", seg.flags, seg.seq.0, seg.ack.0, seg.payload_len)
        }
        other => format!("{other:?}"),
    }
}
