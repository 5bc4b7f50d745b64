//! The run: time that jumps from event to event, and what must hold after each.

use core::cell::RefCell;
use core::fmt;
use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use syncline_engine::app::End as Ended;
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::fault::SplitMix64;
use syncline_engine::device::link::{End, Link, LinkConfig, LinkDevice, WireEvent, WireTap};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::{Held, Secrets};
use syncline_engine::time::Instant;
use syncline_engine::worker::Worker;

use crate::plan::{Plan, Size};
use crate::side::{Book, PORT, Side};
use crate::wire::{Ports, Watch};

/// How much the time moves at least when a host asks to be polled again at once.
const LOOP_TIME: Duration = Duration::from_micros(1);
/// How long after the link has calmed down the last connection may end.
const PATIENCE: Duration = Duration::from_secs(900);
/// TIME-WAIT that outlasts the retransmissions of a plan's worst moments.
const TIME_WAIT_ENOUGH: Duration = Duration::from_secs(60);
/// Steps between two checks of everything the engines hold, if they hold much.
const CHECK_EVERY: u64 = 64;
/// Connections up to which everything is checked after every step.
const CHECK_ALWAYS: u32 = 32;
/// Steps without an end are no run: hosts that keep each other busy.
const STEPS_MAX: u64 = 20_000_000;

type Host = Worker<LinkDevice, Side, HeapPages>;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of every octet on the wire, every time and every callback.
    pub digest: u64,
    /// Virtual time, microseconds.
    pub micros: u64,
    /// Polls of both hosts.
    pub steps: u64,
    /// What happened to frames: sent, lost, arrived.
    pub frame_events: u64,
    /// Connections of the plan.
    pub connections: u32,
    /// Ends of connections that closed in order.
    pub closed: u32,
    /// Ends that were reset, refused or aborted.
    pub reset: u32,
    /// Ends that timed out.
    pub timed_out: u32,
    /// Ends whose host started again under them.
    pub gone: u32,
    /// Octets delivered to applications.
    pub octets: u64,
    /// Segments sent again.
    pub retransmitted: u64,
}

/// What was wrong, where, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The size the run had.
    pub size: Size,
    /// When.
    pub at: Instant,
    /// What was wrong.
    pub what: String,
    /// The plan, the connection's two ends, and its segments.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { connections, seconds } = self.size;
        writeln!(f, "{}seed {} fails at {} µs: {}", self.detail, self.seed, self.at.micros(), self.what)?;
        write!(f, "again: syncline sim --seed {} --connections {connections} --seconds {seconds}", self.seed)
    }
}

impl core::error::Error for Failure {}

/// Plays the plan of a seed.
///
/// # Errors
/// The first thing that was wrong.
pub fn run(seed: u64, size: Size) -> Result<Outcome, Box<Failure>> {
    let plan = Rc::new(Plan::new(seed, size));
    let fault = match World::new(&plan, None).run() {
        Ok(outcome) => return Ok(outcome),
        Err(fault) => fault,
    };
    // Once more, with an eye on the connection concerned
    let mut again = World::new(&plan, fault.ports);
    let _ = again.run();
    let detail = format!("{plan}{}{}", again.states(&fault), again.watch.borrow().ladder());
    Err(Box::new(Failure { seed, size, at: again.now, what: fault.what, detail }))
}

/// Something that was wrong.
struct Fault {
    what: String,
    number: Option<u32>,
    ports: Option<Ports>,
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self { what, number: None, ports: None }
    }
}

struct World {
    plan: Rc<Plan>,
    link: Link,
    hosts: [Host; 2],
    book: Rc<RefCell<Book>>,
    watch: Rc<RefCell<Watch>>,
    now: Instant,
    steps: u64,
    phase: usize,
    restarts: Vec<(Instant, End)>,
    generation: u64,
    last_resort: bool,
    retransmitted: u64,
}

impl World {
    fn new(plan: &Rc<Plan>, follow: Option<Ports>) -> Self {
        let first = &plan.phases[0].paths;
        let config =
            LinkConfig { mtu: plan.mtu, frames: plan.frames, a_to_b: first[0].clone(), b_to_a: first[1].clone() };
        let (link, a, b) = Link::pair(config, plan.seed);
        let watch = Rc::new(RefCell::new(Watch::new(follow)));
        let tap = Rc::clone(&watch);
        link.set_tap(move |at: Instant, from: End, event: WireEvent, frame: &[u8]| {
            tap.borrow_mut().observe(at, from, event, frame);
        });
        let book = Rc::new(RefCell::new(Book::new(plan.connections)));
        let side = |end: End| Side::new(Rc::clone(plan), end, remote(plan, end), Rc::clone(&book));
        let hosts = [host(plan, End::A, a, side(End::A), 0), host(plan, End::B, b, side(End::B), 0)];
        let mut restarts = plan.restarts.clone();
        restarts.sort_by_key(|restart| core::cmp::Reverse(restart.0));
        Self {
            plan: Rc::clone(plan),
            link,
            hosts,
            book,
            watch,
            now: Instant::ZERO,
            steps: 0,
            phase: 0,
            restarts,
            generation: 0,
            last_resort: false,
            retransmitted: 0,
        }
    }

    fn run(&mut self) -> Result<Outcome, Fault> {
        loop {
            self.change();
            self.step()?;
            let done = self.hosts.iter().all(|host| host.app().is_done());
            if done && self.is_over() {
                return self.settle();
            }
            if self.steps >= STEPS_MAX {
                return Err(self.stuck("the hosts keep each other busy and get nowhere"));
            }
            let next = self.next_event();
            let end = self.plan.calm() + PATIENCE;
            if !done && next.is_none_or(|next| next > end) && !self.last_resort {
                if self.plan.restarts.is_empty() && !self.plan.aborts {
                    return Err(self.stuck("nothing more happens, or not for long, and not every connection is over"));
                }
                // A RST may be lost, and is not sent again: a host that waits for one that aborted or started again, and
                // has nothing to say, cannot know
                self.last_resort = true;
                for host in &mut self.hosts {
                    host.app_mut().abort_all();
                }
                self.now = self.now + LOOP_TIME;
                continue;
            }
            let Some(next) = next.filter(|&next| next <= end + PATIENCE) else {
                return Err(self.stuck("it does not come to an end"));
            };
            self.now = next;
        }
    }

    /// The link's phases and the hosts' restarts, as their time comes.
    fn change(&mut self) {
        while let Some(phase) = self.plan.phases.get(self.phase).filter(|phase| phase.from <= self.now) {
            self.link.set_path(End::A, phase.paths[0].clone());
            self.link.set_path(End::B, phase.paths[1].clone());
            self.phase += 1;
        }
        while let Some(&(_, end)) = self.restarts.last().filter(|restart| restart.0 <= self.now) {
            self.restarts.pop();
            self.generation += 1;
            let index = usize::from(end == End::B);
            self.retransmitted += self.hosts[index].stats().segments_retransmitted.get();
            let side = self.hosts[index].app().again();
            let device = self.link.device(end, 0);
            self.hosts[index] = host(&self.plan, end, device, side, self.generation);
        }
    }

    fn step(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        self.link.set_now(self.now);
        for host in &mut self.hosts {
            host.poll(&self.now);
        }
        if let Some((number, what)) = self.book.borrow().fault.clone() {
            return Err(self.about(number, what));
        }
        if let Some((ports, what)) = self.watch.borrow().fault.clone() {
            return Err(Fault { what, number: None, ports: Some(ports) });
        }
        for (host, end) in self.hosts.iter().zip([End::A, End::B]) {
            if self.steps.is_multiple_of(CHECK_EVERY) || host.held().connections <= CHECK_ALWAYS {
                host.check_invariants().map_err(|what| format!("{end:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<Instant> {
        let frame = self.link.next_event();
        if frame.is_some_and(|at| at <= self.now) {
            return Some(self.now);
        }
        let deadline = self.hosts.iter_mut().filter_map(Host::next_deadline).min();
        let deadline = deadline.map(|at| at.max(self.now + LOOP_TIME));
        let phase = self.plan.phases.get(self.phase).map(|phase| phase.from);
        let restart = self.restarts.last().map(|restart| restart.0);
        [frame, deadline, phase, restart].into_iter().flatten().min()
    }

    /// Whether nothing is on the way and the hosts hold nothing any more.
    fn is_over(&self) -> bool {
        self.restarts.is_empty()
            && self.link.next_event().is_none()
            && self.hosts.iter().all(|host| host.held() == Held::default())
    }

    /// The last checks: all frames back, every end accounted for.
    fn settle(&mut self) -> Result<Outcome, Fault> {
        let free = self.link.free_frames();
        if free != self.plan.frames {
            return Err(format!("{free} of {} frames came back", self.plan.frames).into());
        }
        let mut outcome = Outcome {
            micros: self.now.micros(),
            steps: self.steps,
            connections: self.plan.connections,
            retransmitted: self.retransmitted,
            ..Outcome::default()
        };
        for host in &self.hosts {
            outcome.retransmitted += host.stats().segments_retransmitted.get();
        }
        let book = self.book.borrow();
        for (number, halves) in (0..).zip(&book.halves) {
            let aborted = halves.iter().any(|half| half.aborted);
            for half in halves {
                outcome.octets += u64::from(half.received);
                outcome.gone += u32::from(half.gone);
                match half.ended {
                    Some(Ended::Closed) => outcome.closed += 1,
                    Some(Ended::SynTimeout | Ended::Timeout) => outcome.timed_out += 1,
                    Some(_) => outcome.reset += 1,
                    None => {}
                }
                // after a short TIME-WAIT a FIN that comes again finds nobody
                let waits = self.plan.tcp.iter().all(|tcp| tcp.time_wait >= TIME_WAIT_ENOUGH);
                let clean = self.plan.restarts.is_empty() && !aborted && waits;
                let odd = matches!(half.ended, Some(Ended::Reset | Ended::Refused | Ended::Aborted | Ended::Memory));
                if clean && odd {
                    return Err(self.about(Some(number), format!("it ended with {:?} for no reason", half.ended)));
                }
                if half.begun && half.ended.is_none() && !half.gone {
                    return Err(self.about(Some(number), "an end of it was never told that it is over".into()));
                }
            }
        }
        let watch = self.watch.borrow();
        outcome.digest = watch.digest ^ book.digest;
        outcome.frame_events = watch.frames;
        Ok(outcome)
    }

    fn about(&self, number: Option<u32>, what: String) -> Fault {
        let ports = number.map(|number| self.ports(number));
        let what = number.map_or(what.clone(), |number| format!("connection {number}: {what}"));
        Fault { what, number, ports }
    }

    fn ports(&self, number: u32) -> Ports {
        let port = self.book.borrow().ports.get(number as usize).copied().unwrap_or(0);
        match crate::side::opener(number) {
            End::A => (port, PORT),
            End::B => (PORT, port),
        }
    }

    fn stuck(&self, what: &str) -> Fault {
        let number = self.hosts.iter().find_map(|host| host.app().numbers().next()).map(|(number, _)| number);
        let held = [self.hosts[0].held(), self.hosts[1].held()];
        self.about(number, format!("{what}; held {held:?}"))
    }

    /// Both ends of the connection concerned.
    fn states(&mut self, fault: &Fault) -> String {
        let number = fault.number.or_else(|| {
            let ports = fault.ports?;
            (0..self.plan.connections).find(|&number| self.ports(number) == ports)
        });
        let Some(number) = number else { return String::new() };
        let mut text = format!("connection {number}, {:?}\n", self.book.borrow().halves[number as usize]);
        for (host, end) in self.hosts.iter_mut().zip([End::A, End::B]) {
            let id = host.app().numbers().find(|live| live.0 == number).map(|live| live.1);
            let mut net = host.net();
            if let Some(conn) = id.and_then(|id| net.conn(id)) {
                text += &format!("  {end:?}: {:?}, {} octets queued\n", conn.state(), conn.queued());
            }
        }
        text
    }
}

fn address(plan: &Plan, end: End) -> IpAddr {
    let last = if end == End::A { 1 } else { 2 };
    if plan.v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
    } else {
        Ipv4Addr::new(10, 0, 0, last as u8).into()
    }
}

fn remote(plan: &Plan, end: End) -> SocketAddr {
    SocketAddr::new(address(plan, end.peer()), PORT)
}

fn host(plan: &Plan, end: End, device: LinkDevice, side: Side, generation: u64) -> Host {
    let own = address(plan, end);
    let config = Config {
        addresses: vec![AddressRange { first: own, last: own, prefix_len: if plan.v6 { 64 } else { 24 } }],
        listeners: vec![Listener { first_port: PORT, last_port: PORT, syn_cookies: SynCookies::Auto }],
        tcp: plan.tcp[usize::from(end == End::B)].clone(),
        buffer_bytes: plan.buffer_bytes,
        ..Config::default()
    };
    let mut words = SplitMix64::new(plan.seed, 200 + 2 * generation + u64::from(end == End::B));
    let mut pair = || [words.next_u64(), words.next_u64()];
    let secrets = Secrets::new(pair(), pair(), pair());
    Worker::new(&config, &secrets, device, side, HeapPages::new()).expect("the plan's tunables are within their ranges")
}
