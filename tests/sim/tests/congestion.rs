//! Bulk transfers through a bottleneck: how full it is, how often segments go again, how flows share it.

use core::cell::RefCell;
use core::time::Duration;
use std::net::SocketAddr;
use std::rc::Rc;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{AddressRange, Config, CongestionControl, Listener, SynCookies, TcpConfig};
use syncline_engine::device::fault::{Faults, Probability};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::{Bottleneck, PathConfig};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::Instant;
use syncline_engine::worker::Worker;

const BITS_PER_S: u64 = 50_000_000;
const RTT: Duration = Duration::from_millis(40);
/// Octets that fill the path: 250,000.
const BDP: u64 = BITS_PER_S / 8 * 40 / 1000;
const SPAN: Duration = Duration::from_secs(30);
/// Octets of payload in a full segment, and of the frame around it.
const MSS: f64 = 1448.0;
const FRAME: f64 = 1514.0;
/// Messages are so long.
const MESSAGE: u32 = 1 << 20;

/// Sends without end on each connection, or counts what arrives on each.
struct Bulk {
    remote: Option<SocketAddr>,
    starts: Vec<Instant>,
    received: Rc<RefCell<Vec<u64>>>,
}

impl App for Bulk {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        let mut received = self.received.borrow_mut();
        conn.set_word(received.len() as u64);
        received.push(0);
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.sent(conn);
    }

    fn sent(&mut self, conn: &mut Conn<'_>) {
        if self.remote.is_some() {
            while conn.send(0, MESSAGE) {}
        }
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        self.received.borrow_mut()[conn.word() as usize] += data.len() as u64;
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, _: u64, end: End, _: Instant) {
        panic!("nobody closes here, but a connection ended: {end:?}");
    }

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(0x5a);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        while let (Some(remote), Some(&at)) = (self.remote, self.starts.last()) {
            if at > net.now() {
                return;
            }
            self.starts.pop();
            net.connect(remote, 0).expect("a port is free");
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.starts.last().copied()
    }
}

/// What a run showed.
#[derive(Debug)]
struct Shown {
    /// Octets each flow delivered in the whole span.
    flows: Vec<u64>,
    /// Their share of the bottleneck, headers included.
    filled: f64,
    retransmitted: u64,
    lost: u64,
    timeouts: u64,
}

fn host(
    address: &str,
    app: Bulk,
    device: syncline_engine::device::link::LinkDevice,
    tcp: TcpConfig,
    seed: u64,
) -> Host {
    let own = address.parse().unwrap();
    let config = Config {
        addresses: vec![AddressRange { first: own, last: own, prefix_len: 24 }],
        listeners: vec![Listener { first_port: 7, last_port: 7, syn_cookies: SynCookies::Never }],
        tcp,
        ..Config::default()
    };
    let secrets = Secrets { table: [seed, 1], isn: [seed, 2], ports: [seed, 3] };
    Worker::new(&config, &secrets, device, app, HeapPages::new()).unwrap()
}

type Host = Worker<syncline_engine::device::link::LinkDevice, Bulk, HeapPages>;

fn transfer(flows: usize, loss_ppm: u32, congestion: CongestionControl, seed: u64) -> Shown {
    let bottleneck = Bottleneck { bits_per_s: BITS_PER_S, queue_bytes: BDP, ecn_mark_bytes: None };
    // jitter: without it the same flow meets the full queue every time, as no real one does
    let jitter = Duration::from_millis(1);
    let way = PathConfig { delay: RTT / 2, jitter, bottleneck: Some(bottleneck), ..PathConfig::default() };
    let faults = Faults { loss: Probability::ppm(loss_ppm), ..Faults::default() };
    let link = LinkConfig { a_to_b: PathConfig { faults, ..way.clone() }, b_to_a: way, ..LinkConfig::default() };
    let (link, a, b) = Link::pair(link, seed);
    let tcp = TcpConfig { receive_window: 8 << 20, receive_buffer: 8 << 20, congestion, ..TcpConfig::default() };
    let received = Rc::new(RefCell::new(Vec::new()));
    let remote = Some("10.0.0.2:7".parse().unwrap());
    // one after the other, as flows do
    let starts = (0..flows as u64).rev().map(|n| Instant::from_millis(500 * n)).collect();
    let mut a = host("10.0.0.1", Bulk { remote, starts, received: Rc::default() }, a, tcp.clone(), seed);
    let sink = Bulk { remote: None, starts: Vec::new(), received: Rc::clone(&received) };
    let mut b = host("10.0.0.2", sink, b, tcp, seed ^ 1);
    let mut now = Instant::ZERO;
    while now < Instant::ZERO + SPAN {
        link.set_now(now);
        a.poll(&now);
        b.poll(&now);
        let frame = link.next_event();
        let deadline = [a.next_deadline(), b.next_deadline()].into_iter().flatten().min();
        let deadline = deadline.map(|at| at.max(now + Duration::from_micros(1)));
        now = [frame.map(|at| at.max(now)), deadline].into_iter().flatten().min().expect("bulk never ends");
    }
    let flows = received.borrow().clone();
    let octets: u64 = flows.iter().sum();
    let capacity = BITS_PER_S as f64 / 8.0 * SPAN.as_secs_f64();
    let shown = Shown {
        filled: octets as f64 / MSS * FRAME / capacity,
        flows,
        retransmitted: a.stats().segments_retransmitted.get(),
        lost: link.path_counters(syncline_engine::device::link::End::A).lost(),
        timeouts: a.stats().retransmission_timeouts.get(),
    };
    println!("{congestion:?}, {loss_ppm} ppm: {shown:?}");
    shown
}

#[test]
fn one_flow_fills_the_bottleneck() {
    let shown = transfer(1, 0, CongestionControl::Cubic, 1);
    assert!(shown.filled >= 0.9, "{shown:?}");
    assert_eq!(shown.timeouts, 0, "{shown:?}");
}

/// Slow start overshoots by at most a path and a queue; what goes again is what was lost.
#[test]
fn what_is_sent_again_was_lost() {
    for loss_ppm in [0, 1_000, 10_000, 30_000] {
        let shown = transfer(1, loss_ppm, CongestionControl::Cubic, 2);
        assert!(shown.retransmitted <= shown.lost + shown.lost / 20 + 10, "{shown:?}");
    }
}

/// The response functions at random loss p, in segments of window: CUBIC's (RFC 9438 §5.1), or Reno's sqrt(3/2 / p) where
/// that is more (Mathis et al. 1997; RFC 9438 §4.3 is never slower). Seven tenths of it are asked for: a window of some
/// segments is rounded down with each loss.
#[test]
//= RFC 9438 4.3-SHOULD-1, 4.2-MUST-1
fn random_loss_costs_what_the_formulas_say() {
    for (loss_ppm, seed) in [(1_000, 3), (10_000, 4), (30_000, 5)] {
        let p = f64::from(loss_ppm) / 1e6;
        let rtt = RTT.as_secs_f64();
        // average window: 1.054 (RTT / p)^(3/4) for C = 0.4, beta = 0.7; AIMD's is sqrt(1.5 / p)
        let window = (1.054 * (rtt / p).powf(0.75)).max((1.5 / p).sqrt());
        let expected = (window * FRAME * 8.0 / rtt / BITS_PER_S as f64).min(1.0);
        let shown = transfer(1, loss_ppm, CongestionControl::Cubic, seed);
        assert!(shown.filled >= 0.7 * expected, "{expected:.3} expected at {p}: {shown:?}");
        assert_eq!(shown.timeouts, 0, "RACK recovers what is lost: {shown:?}");
    }
}

/// Over 30 s from the start, with half a second between the two. The first to come has the whole path while it is in slow
/// start, and its overshoot is what the second has to catch up with: single runs differ, so the mean of several counts.
#[test]
fn two_flows_share_the_bottleneck() {
    for (congestion, least) in [(CongestionControl::Cubic, 0.85), (CongestionControl::NewReno, 0.9)] {
        let seeds = 10..14;
        let mut sum = 0.0;
        for seed in seeds.clone() {
            let shown = transfer(2, 0, congestion, seed);
            let [a, b] = shown.flows[..] else { panic!("two flows: {shown:?}") };
            let (a, b) = (a as f64, b as f64);
            sum += (a + b) * (a + b) / (2.0 * (a * a + b * b));
            assert!(shown.filled >= 0.9, "{shown:?}");
        }
        let jain = sum / seeds.count() as f64;
        assert!(jain >= least, "Jain's index is {jain:.3} on average with {congestion:?}");
    }
}
