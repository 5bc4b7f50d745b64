//! What a fuzzer's octets are made into: a frame for the parser, or a life of frames, times and wishes for a worker.
//!
//! Called by the fuzz targets in `tests/fuzz`, and by a test that goes through what they have found worth keeping.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{Config, PortRange};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Held;
use syncline_engine::time::Instant;
use syncline_engine::wire::tcp_options::OPTIONS_LEN_MAX;
use syncline_engine::wire::{MacAddr, ParseRules, Parsed, VlanId, parse};
use syncline_engine::worker::Worker;

use crate::handmoved::{Handmoved, Port};
use crate::host::{config, secrets};
use crate::raw::{self, Ip, Tcp};

const ENGINE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ENGINE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The port that the engine listens on, and the one it opens from.
const PORTS: [u16; 2] = [80, 1000];

/// Parses a frame by several rules. What is read must lie within it, and can be written again.
///
/// # Panics
/// If not.
pub fn frame(octets: &[u8]) {
    let strict = ParseRules { mac: Some(MacAddr(ENGINE_MAC)), vlan: VlanId::new(7), ..ParseRules::default() };
    let lenient = ParseRules { verify_ip: false, verify_tcp: false, verify_icmp: false, ..ParseRules::default() };
    for rules in [ParseRules::default(), strict, ParseRules { vlan: VlanId::new(7), ..lenient }, lenient] {
        if let Ok(Parsed::Tcp(segment)) = parse(octets, &rules) {
            let end = usize::from(segment.payload_offset) + usize::from(segment.payload_len);
            assert!(end <= octets.len(), "a payload that ends at {end} of {}", octets.len());
            assert_eq!(segment.payload(octets).len(), usize::from(segment.payload_len));
            assert!(segment.options.emit(&mut [0; OPTIONS_LEN_MAX]).is_some(), "options that cannot be written");
        }
    }
}

/// Octets to be read off, zeros after their end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A sequence number at, near or far from `around`.
    fn near(&mut self, around: u32) -> u32 {
        let kind = self.octet();
        let offset = match kind & 7 {
            0..=3 => 0,
            4 => i32::from(self.octet() as i8),
            5 => i32::from(self.u16() as i16),
            6 => i32::from(self.u16() as i16) << 8,
            _ => i32::from(self.u16() as i16) << 16,
        };
        around.wrapping_add_signed(offset)
    }
}

/// Does as it is told, and writes down what it must never see.
#[derive(Default)]
struct Told {
    live: Vec<ConnId>,
    wish: Option<(u8, u8)>,
    /// Whether to take what is read.
    reads: bool,
}

impl App for Told {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        self.live.push(conn.id());
    }

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        assert!(self.live.contains(&conn.id()), "text for a connection that is over");
        if self.reads { data.len() } else { data.len() / 2 }
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        assert!(self.live.contains(&conn.id()), "a FIN for a connection that is over");
    }

    fn closed(&mut self, id: ConnId, _: u64, _: End, _: Instant) {
        let before = self.live.len();
        self.live.retain(|&live| live != id);
        assert_eq!(self.live.len() + 1, before, "a connection ended twice");
    }

    fn fill(&self, tag: u32, _: u32, out: &mut [u8]) {
        out.fill(tag as u8);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let Some((what, which)) = self.wish.take() else { return };
        if what == 0 {
            if let Ok(id) = net.connect(SocketAddr::new(PEER, 2000 + u16::from(which % 4)), 0) {
                self.live.push(id);
            }
            return;
        }
        let Some(&id) = self.live.get(usize::from(which) % self.live.len().max(1)) else { return };
        let Some(mut conn) = net.conn(id) else { return };
        match what {
            1 => {
                conn.send(u32::from(which), u32::from(which) * 97);
            }
            2 => {
                conn.write(&[which; 500][..usize::from(which)]);
            }
            3 => conn.close(),
            4 => conn.abort(),
            _ => conn.resume(),
        }
    }
}

struct Life {
    worker: Worker<Handmoved, Told, HeapPages>,
    port: Rc<RefCell<Port>>,
    now: Instant,
    /// What the engine said last to each of our ports: the octet it sends next, the one it expects, its port.
    heard: Vec<(u16, u32, u32, u16)>,
}

impl Life {
    fn new(flags: u8) -> Self {
        let mut config = Config { neighbors: vec![(PEER, MacAddr(PEER_MAC))], ..config("10.0.0.1", &[PORTS[0]]) };
        config.max_connections = 64;
        config.max_time_wait = 64;
        config.buffer_bytes = 1 << 18;
        config.tcp.local_ports = PortRange { first: PORTS[1], last: PORTS[1] };
        config.tcp.timestamps = flags & 1 == 0;
        config.tcp.sack = flags & 2 == 0;
        config.tcp.nagle = flags & 4 != 0;
        config.tcp.receive_window = if flags & 8 == 0 { 1 << 20 } else { 4096 };
        config.tcp.keepalive = (flags & 16 != 0).then_some(Duration::from_secs(5));
        config.tcp.keepalive_interval = Duration::from_secs(1);
        config.tcp.keepalive_probes = 2;
        config.tcp.data_retries = 4;
        config.tcp.time_wait = Duration::from_secs(2);
        config.tcp.fin_wait_2 = Duration::from_secs(3);
        let port = Rc::new(RefCell::new(Port::default()));
        let device = Handmoved::new(ENGINE_MAC[5], Rc::clone(&port));
        let app = Told { reads: flags & 32 == 0, ..Told::default() };
        let worker = Worker::new(&config, &secrets(1), device, app, HeapPages::new()).expect("a good configuration");
        Self { worker, port, now: Instant::from_millis(1), heard: Vec::new() }
    }

    fn arrive(&mut self, frame: Vec<u8>) {
        self.port.borrow_mut().arriving.push_back(frame);
        self.run();
    }

    fn run(&mut self) {
        for _ in 0..4 {
            if self.worker.poll(&self.now).is_idle() {
                break;
            }
        }
        let sent = std::mem::take(&mut self.port.borrow_mut().sent);
        for frame in sent {
            let Ok(Parsed::Tcp(segment)) = parse(&frame, &ParseRules::default()) else { continue };
            let next = segment.seq.0.wrapping_add(segment.seq_len());
            self.heard.retain(|heard| heard.0 != segment.destination_port);
            self.heard.push((segment.destination_port, next, segment.ack.0, segment.source_port));
        }
        if let Err(what) = self.worker.check_invariants() {
            panic!("{what}");
        }
    }

    /// A segment of which everything may be odd but the checksum.
    fn segment(&mut self, script: &mut Script<'_>) {
        let shape = script.octet();
        let port = 2000 + u16::from(shape & 3);
        let heard = self.heard.iter().find(|heard| heard.0 == port).copied();
        let (_, ack, seq, to) = heard.unwrap_or((port, 0, 1_000_000, PORTS[usize::from(shape >> 2 & 1)]));
        let flags = match shape >> 3 & 7 {
            0 => 0x02,
            1 => 0x12,
            2 | 3 => 0x10,
            4 => 0x18,
            5 => 0x11,
            6 => 0x14,
            _ => script.octet(),
        };
        let options = match shape >> 6 {
            0 => Vec::new(),
            1 => {
                let value = (self.now.millis32()).wrapping_add(u32::from(script.octet()));
                [raw::option::mss(script.u16()), raw::option::timestamps(value, 0)].concat()
            }
            2 => [raw::option::mss(1460), raw::option::sack_permitted(), raw::option::window_scale(script.octet())]
                .concat(),
            _ => {
                let len = usize::from(script.octet() % 41);
                script.take(len).to_vec()
            }
        };
        let (seq, ack) = (script.near(seq), script.near(ack));
        let window = script.u16();
        let len = match script.octet() {
            octet @ 0..=200 => usize::from(octet),
            octet => usize::from(octet - 200) * 25,
        };
        let segment = Tcp {
            ports: (port, to),
            seq,
            ack,
            flags,
            reserved: 0,
            window,
            urgent: 0,
            options: &options,
            data: &vec![0x5a; len],
            flaw: None,
        };
        let packet = raw::ip(PEER, ENGINE, 6, Ip::default(), &raw::tcp(PEER, ENGINE, &segment));
        self.arrive(raw::ethernet(ENGINE_MAC, PEER_MAC, raw::ether_type(ENGINE), &packet));
    }
}

/// A worker's life: frames, times and an application's wishes as the octets say. What the engine promises of its records
/// holds after each of them, and when all is over nothing is held any more.
///
/// # Panics
/// If not.
pub fn worker(octets: &[u8]) {
    let mut script = Script(octets);
    let mut life = Life::new(script.octet());
    for _ in 0..256 {
        if script.0.is_empty() {
            break;
        }
        match script.octet() % 8 {
            0 => {
                let len = usize::from(script.u16() % 1515);
                life.arrive(script.take(len).to_vec());
            }
            1 => {
                let ms = [0, 1, 5, 39, 41, 200, 1000, 7000][usize::from(script.octet() % 8)];
                life.now = life.now + Duration::from_millis(ms);
                life.run();
            }
            2 | 3 => {
                life.worker.app_mut().wish = Some((script.octet() % 6, script.octet()));
                life.run();
            }
            _ => life.segment(&mut script),
        }
    }
    wind_up(&mut life);
}

/// The peer is silent from now on, and the application wants nothing any more.
fn wind_up(life: &mut Life) {
    for _ in 0..10_000 {
        let live = life.worker.app().live.len();
        for number in 0..live {
            life.worker.app_mut().wish = Some((4, number as u8));
            life.run();
        }
        if life.worker.held() == Held::default() {
            return;
        }
        let Some(next) = life.worker.next_deadline() else { break };
        life.now = next.max(life.now + Duration::from_millis(1));
        life.run();
    }
    panic!("still held when all is over: {:?}", life.worker.held());
}
