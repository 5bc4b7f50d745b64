//! The short roads, of segments that come and of turns to speak, and the whole ones are given the same; what becomes of the
//! connections is compared.

use core::cell::Cell;
use core::hash::Hasher;
use core::time::Duration;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::app::{App, Conn, ConnId, End, Net};
use crate::config::{AddressRange, Config, Ecn, Listener, SynCookies, TcpConfig};
use crate::device::fault::{Faults, Probability, SplitMix64};
use crate::device::link::{End as Side, Link, LinkConfig, LinkDevice, WireEvent};
use crate::device::path::PathConfig;
use crate::device::{Device, Frame};
use crate::page::HeapPages;
use crate::tcp::Secrets;
use crate::time::Instant;
use crate::wire::ethernet;
use crate::wire::{Flags, MacAddr, OutSegment, ParseRules, Parsed, parse};
use crate::worker::Worker;

thread_local! {
    /// Whether the short road may be taken, and how often it could be.
    static SHORT: Cell<(bool, u64)> = const { Cell::new((true, 0)) };
}

/// Whether a segment that could take the short road may.
pub(super) fn may_be_predicted() -> bool {
    let (allowed, count) = SHORT.get();
    SHORT.set((allowed, count + 1));
    allowed
}

/// Whether a turn to speak that could take its short road may.
pub(in crate::tcp) fn may_be_short() -> bool {
    SHORT.get().0
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Passes of either end in one world.
const STEPS: u64 = 1_000;

/// Does anything an application may do, as it pleases, and writes down what it is told.
struct Fickle {
    random: SplitMix64,
    told: DefaultHasher,
    open: Vec<ConnId>,
    opens: bool,
    /// How many in a hundred of its deeds are unusual ones.
    fickle: u64,
}

impl Fickle {
    fn new(seed: u64, opens: bool) -> Self {
        let mut random = SplitMix64::new(seed, 2 + u64::from(opens));
        let fickle = [0, 5, 40][random.below(3) as usize];
        Self { random, told: DefaultHasher::new(), open: Vec::new(), opens, fickle }
    }

    fn note(&mut self, what: u32, conn: &Conn<'_>, n: usize) {
        self.told.write_u32(what);
        self.told.write_u32(conn.id().0);
        self.told.write_usize(n);
        self.told.write_u32(conn.queued());
        self.told.write_u8(conn.state() as u8);
    }

    fn is_fickle(&mut self) -> bool {
        self.random.below(100) < self.fickle
    }

    fn act(&mut self, conn: &mut Conn<'_>) {
        let r = &mut self.random;
        let (tag, len) = (r.below(250) as u32, [1, 64, 700, 5_000, 30_000][r.below(5) as usize]);
        conn.send(tag, len);
        if !self.is_fickle() {
            return;
        }
        match self.random.below(8) {
            0 => conn.close(),
            1 => drop(conn.write(&vec![tag as u8; len as usize])),
            2 => conn.resume(),
            3 => drop(conn.acknowledge()),
            4 => conn.set_nagle(tag & 1 == 0),
            5 => conn.set_cork(tag & 3 == 0),
            6 if tag < 40 => conn.abort(),
            _ => conn.set_user_timeout((tag & 1 == 0).then_some(Duration::from_secs(3))),
        }
    }
}

impl App for Fickle {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        self.note(1, conn, 0);
        self.open.push(conn.id());
        if self.is_fickle() {
            self.act(conn);
        }
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.note(2, conn, 0);
        self.open.push(conn.id());
        self.act(conn);
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        self.note(3, conn, data.len());
        self.told.write(data);
        if self.random.below(4) == 0 {
            self.act(conn);
        }
        if self.random.below(6) == 0 {
            conn.close();
        }
        if self.is_fickle() { self.random.below(data.len() as u64 + 1) as usize } else { data.len() }
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        self.note(4, conn, 0);
        if self.random.below(5) > 0 {
            conn.close();
        }
    }

    fn sent(&mut self, conn: &mut Conn<'_>) {
        self.note(5, conn, 0);
        match self.random.below(5) {
            0 => self.act(conn),
            1 => conn.close(),
            _ => {}
        }
    }

    fn closed(&mut self, id: ConnId, word: u64, end: End, _: Instant) {
        self.told.write_u64(word);
        self.told.write_u8(end as u8);
        self.open.retain(|&open| open != id);
    }

    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        for (octet, at) in out.iter_mut().zip(offset..) {
            *octet = (tag ^ at) as u8;
        }
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        if self.opens && self.open.len() < 6 && self.random.below(4) == 0 {
            let _ = net.connect(SocketAddr::new(SERVER.into(), 80), 0);
        }
        if !self.open.is_empty() && self.random.below(8) == 0 {
            let id = self.open[self.random.below(self.open.len() as u64) as usize];
            if let Some(mut conn) = net.conn(id) {
                conn.resume();
                self.act(&mut conn);
            }
        }
    }
}

/// A path that is perfect, or is not.
fn path(random: &mut SplitMix64) -> PathConfig {
    let rough = random.below(3) as u32;
    PathConfig {
        delay: Duration::from_micros([50, 800, 6_000][random.below(3) as usize]),
        jitter: Duration::from_micros(random.below(300)),
        reorder_delay: Duration::from_micros(2_000),
        faults: Faults {
            loss: Probability::percent(rough * 2),
            duplicate: Probability::percent(rough),
            reorder: Probability::percent(rough * 2),
            ..Faults::default()
        },
        ..PathConfig::default()
    }
}

fn config(random: &mut SplitMix64, address: Ipv4Addr) -> Config {
    let address = IpAddr::from(address);
    let mut config =
        Config { addresses: vec![AddressRange { first: address, last: address, prefix_len: 24 }], ..Config::default() };
    (config.max_connections, config.max_syn_received, config.max_time_wait) = (64, 64, 64);
    config.listeners = vec![Listener { first_port: 80, last_port: 80, syn_cookies: SynCookies::Never }];
    let mut often = |of| random.below(of) > 0;
    config.tcp = TcpConfig {
        timestamps: often(8),
        sack: often(8),
        window_scaling: often(6),
        ecn: if often(8) { Ecn::Accept } else { Ecn::On },
        nagle: !often(3),
        piggyback: often(2),
        push_bursts: often(2),
        ack_delay: if often(4) { Duration::from_millis(40) } else { Duration::ZERO },
        receive_window: if often(3) { 80_000 } else { 6_000 },
        send_buffer: 20_000,
        time_wait: Duration::from_millis(200),
        fin_wait_2: Duration::from_secs(2),
        keepalive: (!often(3)).then_some(Duration::from_millis(150)),
        keepalive_interval: Duration::from_millis(100),
        stall_timeout: (!often(3)).then_some(Duration::from_secs(1)),
        ..TcpConfig::default()
    };
    config
}

/// A segment that was sent, again, and not quite as it was.
fn forge(random: &mut SplitMix64, device: &mut LinkDevice, bytes: &[u8]) {
    let Ok(Parsed::Tcp(seg)) = parse(bytes, &ParseRules::default()) else { return };
    let payload = seg.payload(bytes).to_vec();
    let mut near = |octets: u64| random.below(2 * octets + 1).wrapping_sub(octets) as u32;
    let mut forged = OutSegment {
        link: ethernet::Link { source: seg.source_mac, destination: MacAddr(device.end().peer().mac()), vlan: None },
        source: seg.source,
        destination: seg.destination,
        source_port: seg.source_port,
        destination_port: seg.destination_port,
        seq: seg.seq + near(1),
        ack: seg.ack + near(3).wrapping_mul(near(700)),
        flags: seg.flags,
        window: seg.window,
        urgent_pointer: 0,
        hop_limit: 64,
        dscp: 0,
        ecn: seg.ecn,
        options: seg.options,
    };
    let flag = Flags::from_bits(1 << random.below(8));
    match random.below(10) {
        0 => forged.flags = forged.flags.without(flag),
        1 if random.below(4) == 0 => forged.flags |= flag,
        2 => forged.window = random.below(1 << 16) as u16,
        3 => forged.window = 0,
        4 => forged.options.timestamps = None,
        _ => {}
    }
    let Some(mut frame) = device.allocate() else { return };
    let out = frame.resize(forged.header_len() + payload.len());
    forged.emit_with(out, payload.len(), |room| room.copy_from_slice(&payload)).expect("a frame as long as it needs");
    let _ = device.transmit(frame);
}

/// What a world comes to after every fifth step, and how many segments could take the short road.
fn world(seed: u64, short: bool) -> (Vec<u64>, u64) {
    SHORT.set((short, 0));
    let mut random = SplitMix64::new(seed, 1);
    let paths = LinkConfig { a_to_b: path(&mut random), b_to_a: path(&mut random), ..LinkConfig::default() };
    let (link, a, b) = Link::pair(paths, seed);
    let sent = Arc::new(Mutex::new(VecDeque::new()));
    let watched = Arc::clone(&sent);
    link.set_tap(move |_: Instant, from: Side, event: WireEvent, frame: &[u8]| {
        if event == WireEvent::Sent {
            let mut sent = watched.lock().expect("one thread");
            sent.push_back((from, frame.to_vec()));
            if sent.len() > 40 {
                sent.pop_front();
            }
        }
    });
    let secrets = Secrets::new([1, 2], [3, seed], [5, 6]);
    let worker = |config: &Config, device, app| Worker::new(config, &secrets, device, app, HeapPages::new());
    let client = worker(&config(&mut random, CLIENT), a, Fickle::new(seed, true));
    let server = worker(&config(&mut random, SERVER), b, Fickle::new(seed, false));
    let (mut client, mut server) = (client.expect("a valid configuration"), server.expect("a valid configuration"));
    let forgeries = random.below(2) * 6;
    let mut now = Instant::from_millis(1);
    let mut course = Vec::new();
    for step in 0..STEPS {
        let pause = if random.below(40) == 0 { 300_000 } else { 900 };
        now = now + Duration::from_micros(1 + random.below(pause));
        link.set_now(now);
        client.poll(&link);
        server.poll(&link);
        if random.below(100) < forgeries {
            let sample = {
                let sent = sent.lock().expect("one thread");
                sent.get(random.below(sent.len() as u64) as usize).cloned()
            };
            if let Some((from, frame)) = sample {
                forge(&mut random, &mut link.device(from, 0), &frame);
            }
        }
        // it takes far longer to look at everything than to do it
        if step % 5 != 0 {
            continue;
        }
        let mut sum = DefaultHasher::new();
        for end in [&client, &server] {
            end.check_invariants().unwrap_or_else(|what| panic!("seed {seed}: {what}"));
            end.digest(&mut sum);
            end.stats().entries().for_each(|(_, _, count)| sum.write_u64(count));
            end.stats().dropped.nonzero().for_each(|(reason, count)| sum.write_u64(count << 8 | reason as u64));
            sum.write_u64(end.app().told.finish());
        }
        course.push(sum.finish());
    }
    (course, SHORT.replace((true, 0)).1)
}

#[test]
fn the_short_road_leads_where_the_whole_one_does() {
    let (mut predicted, mut steps) = (0, 0);
    for seed in 0..16 {
        let ((short, could), (whole, _)) = (world(seed, true), world(seed, false));
        let parted = short.iter().zip(&whole).position(|(a, b)| a != b);
        assert_eq!(parted, None, "world {seed}: in fives of steps, where they part");
        (predicted, steps) = (predicted + could, steps + STEPS);
    }
    assert!(predicted > steps / 4, "{predicted} of the segments of {steps} steps could take the short road");
}
