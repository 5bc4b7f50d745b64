//! A scripted peer: a test says what it sends, segment by segment, and what it expects, in virtual time.
//!
//! A [`Bed`] is a link with the engine at one end. A [`Peer`] is one 4-tuple at the other: nothing is automatic but
//! book-keeping. The bed answers ARP and neighbour solicitations for every invented host, and checks every frame of the
//! engine for what no frame may have.

use std::cell::{Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use syncline_engine::app::{Conn, ConnId, Net};
use syncline_engine::config::Config;
use syncline_engine::device::link::{End, Link, LinkConfig, LinkDevice};
use syncline_engine::device::path::PathConfig;
use syncline_engine::device::{Device, Frame};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::State;
use syncline_engine::time::Instant;
use syncline_engine::wire::{Ecn, Flags, ParseRules, Parsed, Seq, TcpOptions, parse};

use crate::host::{Host, config, secrets};
use crate::raw::{self, Flaw, Ip, Mac, option};
use crate::services::{PORTS, Services};

/// The control bits by their names.
#[allow(missing_docs)]
pub mod flags {
    use syncline_engine::wire::Flags;
    pub const FIN: Flags = Flags::FIN;
    pub const SYN: Flags = Flags::SYN;
    pub const RST: Flags = Flags::RST;
    pub const PSH: Flags = Flags::PSH;
    pub const ACK: Flags = Flags::ACK;
    pub const URG: Flags = Flags::URG;
    pub const ECE: Flags = Flags::ECE;
    pub const CWR: Flags = Flags::CWR;
    pub const NULL: Flags = Flags::NONE;
}

use flags::{ACK, FIN, PSH, RST, SYN};

/// One way over the link.
pub const DELAY: Duration = Duration::from_micros(50);

/// The engine's hardware address.
pub const ENGINE_MAC: Mac = End::A.mac();
/// The hardware address of every invented host.
pub const PEER_MAC: Mac = End::B.mac();

/// A segment of the engine.
#[derive(Clone, Debug)]
pub struct Seg {
    /// When it arrived.
    pub at: Instant,
    /// The control bits.
    pub flags: Flags,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// SEG.WND, as it is in the header.
    pub window: u16,
    /// The options.
    pub options: TcpOptions,
    /// Octets of options.
    pub option_bytes: usize,
    /// The ECN field.
    pub ecn: Ecn,
    /// The text.
    pub data: Vec<u8>,
    /// The frame.
    pub frame: Vec<u8>,
}

impl Seg {
    /// The sequence number after the last octet of text or FIN.
    pub fn end(&self) -> Seq {
        self.seq + self.data.len() as u32 + u32::from(self.flags.fin()) + u32::from(self.flags.syn())
    }

    /// SYN, FIN, RST and ACK of the control bits.
    pub fn kind(&self) -> Flags {
        Flags::from_bits(self.flags.bits() & (FIN | SYN | RST | ACK).bits())
    }

    /// Whether it is an ACK and nothing else.
    pub fn is_pure_ack(&self) -> bool {
        self.kind() == ACK && self.data.is_empty()
    }
}

/// A segment to be sent: what is not said is what the connection would send by itself.
#[derive(Clone, Debug, Default)]
pub struct Out<'a> {
    flags: Flags,
    data: &'a [u8],
    seq: Option<Seq>,
    ack: Option<Seq>,
    window: Option<u16>,
    options: Option<Vec<u8>>,
    timestamp: Option<u32>,
    urgent: u16,
    reserved: u8,
    flaw: Option<Flaw>,
    ip: Ip,
    to: Option<Mac>,
    padding: usize,
}

macro_rules! setters {
    ($($(#[$doc:meta])+ $name:ident($field:ident: $type:ty) = $value:expr;)+) => {
        $($(#[$doc])+
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $value;
            self
        })+
    };
}

impl<'a> Out<'a> {
    /// A segment with these control bits.
    pub fn new(flags: Flags) -> Self {
        Self { flags, ..Self::default() }
    }

    setters! {
        /// Its text.
        data(data: &'a [u8]) = data;
        /// SEG.SEQ. The connection's own numbers then do not move.
        seq(seq: Seq) = Some(seq);
        /// SEG.ACK.
        ack(ack: Seq) = Some(ack);
        /// SEG.WND, unscaled.
        window(window: u16) = Some(window);
        /// Options instead of the connection's.
        options(options: Vec<u8>) = Some(options);
        /// TSval instead of the connection's.
        timestamp(timestamp: u32) = Some(timestamp);
        /// The urgent pointer.
        urgent(urgent: u16) = urgent;
        /// The reserved bits.
        reserved(reserved: u8) = reserved;
        /// A flaw.
        flaw(flaw: Flaw) = Some(flaw);
        /// What the IP header says.
        ip(ip: Ip) = ip;
        /// The station it goes to, instead of the engine's.
        to(to: Mac) = Some(to);
        /// Octets of Ethernet padding after the packet.
        padding(padding: usize) = padding;
    }
}

/// What a peer offers in its SYN or agrees to in its SYN-ACK.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
    /// The window in the SYN.
    pub window: u16,
    /// ECN-setup (RFC 3168 §6.1.1).
    pub ecn: bool,
}

impl Offer {
    /// An MSS and nothing else.
    pub fn plain() -> Self {
        Self { mss: Some(1400), scale: None, sack: false, timestamps: false, window: 60_000, ecn: false }
    }

    /// Everything but ECN.
    pub fn full() -> Self {
        Self { scale: Some(7), sack: true, timestamps: true, ..Self::plain() }
    }

    /// SACK without timestamps.
    pub fn sack() -> Self {
        Self { sack: true, ..Self::plain() }
    }

    /// With another MSS.
    pub fn mss(self, mss: u16) -> Self {
        Self { mss: Some(mss), ..self }
    }

    /// With another window in the SYN.
    pub fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }
}

struct Inner {
    v6: bool,
    link: Link,
    device: LinkDevice,
    engine: Host<LinkDevice, Services>,
    now: Instant,
    flows: HashMap<(IpAddr, u16, u16), VecDeque<Seg>>,
    others: VecDeque<(Instant, Vec<u8>)>,
    syns: VecDeque<(SocketAddr, u16, Seg)>,
    silent_hosts: Vec<IpAddr>,
    next_host: u16,
    next_port: u16,
    log: String,
}

/// The engine and the link, in the hands of the test. Clones are the same bed.
#[derive(Clone)]
pub struct Bed(Rc<RefCell<Inner>>);

/// The peers' port that the engine opens to.
pub const SERVER: u16 = 9000;

impl Bed {
    /// A bed of one family.
    pub fn new(v6: bool) -> Self {
        Self::with(v6, |_| {})
    }

    /// A bed whose engine is configured by `adjust`.
    pub fn with(v6: bool, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::seeded(v6, 1, adjust)
    }

    /// A bed whose engine has secrets of its own.
    pub fn seeded(v6: bool, seed: u64, adjust: impl FnOnce(&mut Config)) -> Self {
        let path = PathConfig { delay: DELAY, ..PathConfig::default() };
        let (link, a, b) = Link::pair(LinkConfig::symmetric(path), seed);
        let mut config = config(if v6 { "fd66::1" } else { "10.66.0.1" }, &PORTS);
        adjust(&mut config);
        let engine = Host::new(&config, &secrets(seed), a, Services::default(), HeapPages::new()).expect("a worker");
        let start = Instant::from_millis(1000);
        Self(Rc::new(RefCell::new(Inner {
            v6,
            link,
            device: b,
            engine,
            now: start,
            flows: HashMap::new(),
            others: VecDeque::new(),
            syns: VecDeque::new(),
            silent_hosts: Vec::new(),
            next_host: 1,
            next_port: 20_000,
            log: String::new(),
        })))
    }

    /// Whether the bed is IPv6.
    pub fn is_v6(&self) -> bool {
        self.0.borrow().v6
    }

    /// The engine's address.
    pub fn address(&self) -> IpAddr {
        if self.is_v6() { "fd66::1".parse().unwrap() } else { IpAddr::V4(Ipv4Addr::new(10, 66, 0, 1)) }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.0.borrow().now
    }

    /// An address that no one had before.
    pub fn fresh_host(&self) -> IpAddr {
        let mut inner = self.0.borrow_mut();
        inner.next_host += 1;
        let n = inner.next_host;
        if inner.v6 {
            IpAddr::V6(Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 1, n))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(0x0a42_1000 + u32::from(n)))
        }
    }

    /// A host that does not answer ARP or neighbour solicitations.
    pub fn silence(&self, host: IpAddr) {
        self.0.borrow_mut().silent_hosts.push(host);
    }

    /// A connection from a fresh host and port to `port` of the engine, not open yet.
    pub fn peer(&self, port: u16) -> Peer {
        let host = self.fresh_host();
        self.peer_at(host, port)
    }

    /// A connection from a fresh port of `host`.
    pub fn peer_at(&self, host: IpAddr, port: u16) -> Peer {
        let mut inner = self.0.borrow_mut();
        inner.next_port += 1;
        let own = inner.next_port;
        drop(inner);
        self.peer_between(host, own, port)
    }

    fn peer_between(&self, host: IpAddr, own: u16, port: u16) -> Peer {
        let iss = Seq(0x5eed_0000 ^ u32::from(own).wrapping_mul(0x0101_3579));
        Peer {
            bed: self.clone(),
            host,
            ports: (own, port),
            iss,
            irs: Seq(0),
            snd_nxt: iss,
            rcv_nxt: Seq(0),
            window: 60_000,
            scale: 0,
            engine_scale: 0,
            timestamps: false,
            sack: false,
            clock: 0x1000 + u32::from(own),
            ts_recent: 0,
            acked: None,
            fin_at: None,
            reset: false,
            syn_ack: None,
            syn: None,
        }
    }

    /// An open connection to `port` of the engine.
    #[track_caller]
    pub fn open(&self, port: u16, offer: &Offer) -> Peer {
        let mut peer = self.peer(port);
        peer.open(offer);
        peer
    }

    /// Has the engine open a connection to [`SERVER`] of a fresh host, and returns our end: its SYN has arrived.
    #[track_caller]
    pub fn dialled(&self) -> Peer {
        self.dialled_by(crate::services::open)
    }

    /// [`dialled`](Self::dialled), by whatever `open` does.
    #[track_caller]
    pub fn dialled_by(&self, open: impl FnOnce(&mut Net<'_>, SocketAddr) -> ConnId) -> Peer {
        let host = self.fresh_host();
        let remote = SocketAddr::new(host, SERVER);
        self.engine(|engine| {
            let id = open(&mut engine.net(), remote);
            let port = engine.net().conn(id).expect("a connection").endpoints().local.port();
            engine.app_mut().live.insert((remote, port), id);
        });
        self.run_while(3000, |inner| inner.syns.is_empty());
        let (remote, engine_port, syn) = self.0.borrow_mut().syns.pop_front().expect("a SYN of the engine");
        let mut peer = self.peer_between(host, remote.port(), engine_port);
        peer.irs = syn.seq;
        peer.rcv_nxt = syn.seq + 1;
        peer.ts_recent = syn.options.timestamps.map_or(0, |ts| ts.value);
        peer.syn = Some(syn);
        peer
    }

    /// Acts on the engine between two passes.
    pub fn engine<R>(&self, act: impl FnOnce(&mut Host<LinkDevice, Services>) -> R) -> R {
        act(&mut self.0.borrow_mut().engine)
    }

    /// What the services saw.
    pub fn services(&self) -> Ref<'_, Services> {
        Ref::map(self.0.borrow(), |inner| inner.engine.app())
    }

    /// Lets `ms` milliseconds pass.
    pub fn run(&self, ms: u64) {
        self.run_while(ms, |_| true);
    }

    /// Lets time pass while `busy` holds, at most `limit_ms` milliseconds.
    fn run_while(&self, limit_ms: u64, busy: impl Fn(&Inner) -> bool) {
        let mut inner = self.0.borrow_mut();
        let until = inner.now + Duration::from_millis(limit_ms);
        inner.step();
        let mut steps = 0;
        while busy(&inner) {
            let next = [inner.link.next_event(), inner.engine.next_deadline()].into_iter().flatten().min();
            let soonest = inner.now + Duration::from_micros(1);
            let next = next.map_or(until, |at| at.max(soonest)).min(until);
            if next >= until && inner.now >= until {
                return;
            }
            inner.now = next;
            inner.step();
            steps += 1;
            assert!(steps < 3_000_000, "the engine never rests: {}", inner.log);
        }
    }

    /// Puts a frame on the wire.
    pub fn inject(&self, frame: &[u8]) {
        self.0.borrow_mut().transmit(frame);
    }

    /// Sends an IP packet to the engine's station.
    pub fn inject_ip(&self, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        self.inject(&raw::ethernet(ENGINE_MAC, PEER_MAC, kind, packet));
    }

    /// The next frame of the engine that is not TCP and for which `wanted` holds, within `limit_ms`.
    pub fn other(&self, limit_ms: u64, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.run_while(limit_ms, |inner| !inner.others.iter().any(|(_, frame)| wanted(frame)));
        let mut inner = self.0.borrow_mut();
        let at = inner.others.iter().position(|(_, frame)| wanted(frame))?;
        inner.others.remove(at).map(|(_, frame)| frame)
    }

    /// TCP frames of the engine to `host` that no [`Peer`] took: how many there are.
    pub fn frames_to(&self, host: IpAddr) -> usize {
        self.run(20);
        self.0.borrow().flows.iter().filter(|((to, ..), _)| *to == host).map(|(_, queue)| queue.len()).sum()
    }

    /// What has passed over the wire, for a failure's message.
    pub fn log(&self) -> String {
        let log = self.0.borrow().log.clone();
        let from = log.len().saturating_sub(6000);
        let from = (from..log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(0);
        log[from..].to_owned()
    }

    /// Sees that a fresh connection is served.
    #[track_caller]
    pub fn alive(&self) {
        self.open(crate::services::ECHO, &Offer::plain()).still_open("fresh connection");
    }
}

impl Inner {
    fn transmit(&mut self, octets: &[u8]) {
        self.link.set_now(self.now);
        let mut frame = self.device.allocate().expect("a frame of the link");
        frame.resize(octets.len()).copy_from_slice(octets);
        let sent = self.device.transmit(frame);
        assert!(sent.is_ok(), "the link takes every frame");
    }

    fn step(&mut self) {
        self.link.set_now(self.now);
        self.engine.poll(&self.now);
        let mut burst = Vec::with_capacity(64);
        while self.device.receive(&mut burst) > 0 {
            for frame in burst.drain(..) {
                let octets = frame.bytes().to_vec();
                self.device.release(frame);
                self.arrived(octets);
            }
        }
    }

    fn arrived(&mut self, octets: Vec<u8>) {
        self.sanity(&octets);
        match parse(&octets, &ParseRules::default()) {
            Ok(Parsed::Tcp(segment)) => {
                let header = raw_tcp(&octets);
                let seg = Seg {
                    at: self.now,
                    flags: segment.flags,
                    seq: segment.seq,
                    ack: segment.ack,
                    window: segment.window,
                    options: segment.options,
                    option_bytes: usize::from(header[12] >> 4) * 4 - 20,
                    ecn: segment.ecn,
                    data: segment.payload(&octets).to_vec(),
                    frame: octets,
                };
                self.note('<', segment.destination_port, &seg);
                let key = (segment.destination, segment.destination_port, segment.source_port);
                if segment.destination_port == SERVER && seg.kind() == SYN && !self.flows.contains_key(&key) {
                    let host = SocketAddr::new(segment.destination, segment.destination_port);
                    self.flows.insert(key, VecDeque::new());
                    self.syns.push_back((host, segment.source_port, seg));
                } else {
                    self.flows.entry(key).or_default().push_back(seg);
                }
            }
            Ok(Parsed::Arp(asked)) if octets[21] == 1 => {
                let target = IpAddr::V4(asked.target);
                if !self.silent_hosts.contains(&target) {
                    let answer = raw::arp(2, PEER_MAC, target, asked.sender_mac.0, IpAddr::V4(asked.sender));
                    self.transmit(&raw::ethernet(ENGINE_MAC, PEER_MAC, 0x0806, &answer));
                }
                self.others.push_back((self.now, octets));
            }
            Ok(Parsed::NeighborSolicitation(asked)) => {
                let (target, source) = (IpAddr::V6(asked.target), IpAddr::V6(asked.source));
                if !self.silent_hosts.contains(&target) {
                    let body = [&raw::address(target)[..], &[2, 1], &PEER_MAC].concat();
                    let message = raw::icmp(target, source, 136, 0, [0x60, 0, 0, 0], &body);
                    let packet = raw::ip(target, source, 58, Ip { ttl: 255, ..Ip::default() }, &message);
                    self.transmit(&raw::ethernet(ENGINE_MAC, PEER_MAC, 0x86dd, &packet));
                }
                self.others.push_back((self.now, octets));
            }
            _ => self.others.push_back((self.now, octets)),
        }
    }

    /// What no frame of the engine may have, whatever the test.
    fn sanity(&self, octets: &[u8]) {
        assert_eq!(octets[6..12], ENGINE_MAC, "source station");
        assert!(octets.len() <= 1514, "frame of {} octets", octets.len());
        let (packet, v4) = (&octets[14..], octets[12..14] == [8, 0]);
        if !v4 && octets[12..14] != [0x86, 0xdd] {
            return;
        }
        let protocol = if v4 { packet[9] } else { packet[6] };
        if protocol != 6 {
            return;
        }
        let ttl = if v4 { packet[8] } else { packet[7] };
        //= RFC 1122 3.2.1.7-MUST-1
        assert!(ttl >= 32, "time to live {ttl}");
        if v4 {
            assert_eq!(raw::checksum(None, &packet[..20]), 0, "IPv4 header checksum");
            //= RFC 1191 3-MUST-3
            //= RFC 4821 3-SHOULD-1
            assert_eq!(packet[6] & 0xe0, 0x40, "DF and no fragment (RFC 1191)");
        }
        let tcp = raw_tcp(octets);
        let (source, destination) = addresses(packet);
        //= RFC 9293 MUST-2
        assert_eq!(raw::checksum(Some((source, destination, 6)), tcp), 0, "TCP checksum");
        let (flags, text) = (tcp[13], tcp.len() - usize::from(tcp[12] >> 4) * 4);
        assert_eq!(tcp[12] & 15, 0, "reserved bits");
        assert!(flags & 0x16 != 0, "neither SYN nor RST nor ACK");
        assert!(flags & 2 == 0 || flags & 5 == 0, "SYN with FIN or RST");
        assert!(flags & 4 == 0 || text == 0, "RST with text");
        assert!(flags & 0x20 != 0 || tcp[18..20] == [0, 0], "urgent pointer without URG");
        let seg = parse(octets, &ParseRules::default());
        let Ok(Parsed::Tcp(seg)) = seg else { panic!("the engine's own parser refuses its frame: {seg:?}") };
        let syn_only = seg.options.mss.is_some() || seg.options.window_scale.is_some() || seg.options.sack_permitted;
        //= RFC 9293 MUST-65
        //= RFC 2018 2-MUST-1
        assert!(flags & 2 != 0 || !syn_only, "an option of a SYN on another segment");
        assert!(!seg.options.malformed, "malformed options");
    }

    fn note(&mut self, way: char, port: u16, seg: &Seg) {
        let us = self.now.micros();
        let (flags, len) = (seg.flags, seg.data.len());
        let (seq, ack, window) = (seg.seq, seg.ack, seg.window);
        let mut line = format!("{us:>12} {way} {port} {flags} seq {seq} ack {ack} win {window} len {len}");
        if let Some(ts) = seg.options.timestamps {
            let _ = write!(line, " ts {}/{}", ts.value, ts.echo);
        }
        for block in seg.options.sack.as_slice() {
            let _ = write!(line, " sack {}-{}", block.start, block.end);
        }
        line.push('\n');
        self.log.push_str(&line);
    }
}

fn raw_tcp(octets: &[u8]) -> &[u8] {
    let v4 = octets[12..14] == [8, 0];
    let total = if v4 {
        usize::from(u16::from_be_bytes([octets[16], octets[17]]))
    } else {
        40 + usize::from(u16::from_be_bytes([octets[18], octets[19]]))
    };
    &octets[14 + if v4 { 20 } else { 40 }..14 + total]
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// One 4-tuple at the far end of the link.
pub struct Peer {
    /// The bed it belongs to.
    pub bed: Bed,
    /// Our address.
    pub host: IpAddr,
    /// Our port, and the engine's.
    pub ports: (u16, u16),
    /// Our initial sequence number.
    pub iss: Seq,
    /// The engine's.
    pub irs: Seq,
    /// The next octet we send.
    pub snd_nxt: Seq,
    /// The next octet we expect.
    pub rcv_nxt: Seq,
    /// The window we announce, unscaled.
    pub window: u16,
    /// Shift of our windows.
    pub scale: u8,
    /// Shift of the engine's windows.
    pub engine_scale: u8,
    /// Whether segments carry timestamps.
    pub timestamps: bool,
    /// Whether SACK was agreed on.
    pub sack: bool,
    /// Where our timestamp clock began.
    pub clock: u32,
    /// The timestamp to echo.
    pub ts_recent: u32,
    /// The highest acknowledgement of the engine.
    pub acked: Option<Seq>,
    /// Where the engine's FIN is.
    pub fin_at: Option<Seq>,
    /// Whether the engine sent a RST.
    pub reset: bool,
    /// The engine's SYN-ACK.
    pub syn_ack: Option<Seg>,
    /// The engine's SYN.
    pub syn: Option<Seg>,
}

impl Peer {
    /// Our timestamp clock: milliseconds.
    pub fn tsval(&self) -> u32 {
        self.clock.wrapping_add(self.bed.now().millis32())
    }

    /// Fails with what has passed over the wire.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.bed.log())
    }

    /// Fails unless `holds`.
    #[track_caller]
    pub fn need(&self, holds: bool, why: &str) {
        if !holds {
            self.fail(why);
        }
    }

    // ---- sending

    /// Sends a segment.
    pub fn send(&mut self, out: Out<'_>) {
        let seq = out.seq.unwrap_or(self.snd_nxt);
        let ack = out.ack.unwrap_or(if out.flags.ack() { self.rcv_nxt } else { Seq(0) });
        let options = match out.options {
            Some(options) => options,
            None if self.timestamps => option::timestamps(out.timestamp.unwrap_or(self.tsval()), self.ts_recent),
            None => Vec::new(),
        };
        if out.seq.is_none() {
            self.snd_nxt += out.data.len() as u32 + out.flags.seq_len();
        }
        let engine = self.bed.address();
        let segment = raw::Tcp {
            ports: self.ports,
            seq: seq.0,
            ack: ack.0,
            flags: out.flags.bits(),
            reserved: out.reserved,
            window: out.window.unwrap_or(self.window),
            urgent: out.urgent,
            options: &options,
            data: out.data,
            flaw: out.flaw,
        };
        let packet = raw::ip(self.host, engine, 6, out.ip, &raw::tcp(self.host, engine, &segment));
        let mac = out.to.unwrap_or(ENGINE_MAC);
        let mut frame = raw::ethernet(mac, PEER_MAC, raw::ether_type(self.host), &packet);
        frame.resize(frame.len() + out.padding, 0xaa);
        let mut inner = self.bed.0.borrow_mut();
        let seg = Seg {
            at: inner.now,
            flags: out.flags,
            seq,
            ack,
            window: segment.window,
            options: TcpOptions::parse(&options),
            option_bytes: options.len(),
            ecn: Ecn::NotCapable,
            data: out.data.to_vec(),
            frame: Vec::new(),
        };
        inner.note('>', self.ports.0, &seg);
        inner.transmit(&frame);
    }

    /// Sends an ACK.
    pub fn ack(&mut self) {
        self.send(Out::new(ACK));
    }

    /// Sends text.
    pub fn data(&mut self, data: &[u8]) {
        self.send(Out::new(ACK | PSH).data(data));
    }

    /// Sends text at a place of its own.
    pub fn data_at(&mut self, seq: Seq, data: &[u8]) {
        self.send(Out::new(ACK | PSH).data(data).seq(seq));
    }

    /// Sends a FIN.
    pub fn fin(&mut self) {
        self.send(Out::new(FIN | ACK));
    }

    /// Sends an ACK with SACK blocks, `offsets` from `base`.
    pub fn sack_at(&mut self, base: Seq, offsets: &[(u32, u32)]) {
        let blocks: Vec<_> = offsets.iter().map(|&(a, b)| ((base + a).0, (base + b).0)).collect();
        let mut options = if self.timestamps { option::timestamps(self.tsval(), self.ts_recent) } else { Vec::new() };
        options.extend(option::sack(&blocks));
        self.send(Out::new(ACK).options(options));
    }

    // ---- receiving

    fn take(&mut self) -> Option<Seg> {
        let key = (self.host, self.ports.0, self.ports.1);
        let seg = self.bed.0.borrow_mut().flows.get_mut(&key)?.pop_front()?;
        if seg.flags.rst() {
            self.reset = true;
            return Some(seg);
        }
        if seg.flags.ack() && self.acked.is_none_or(|acked| seg.ack.after(acked)) {
            self.acked = Some(seg.ack);
        }
        if let Some(ts) = seg.options.timestamps
            && seg.seq.at_or_before(self.rcv_nxt)
        {
            self.ts_recent = ts.value;
        }
        if seg.flags.fin() {
            self.fin_at = Some(seg.seq + seg.data.len() as u32);
        }
        Some(seg)
    }

    /// The next segment for which `wanted` holds, within `limit_ms`.
    pub fn next(&mut self, limit_ms: u64, wanted: impl Fn(&Seg) -> bool) -> Option<Seg> {
        let key = (self.host, self.ports.0, self.ports.1);
        let until = self.bed.now() + Duration::from_millis(limit_ms);
        loop {
            while let Some(seg) = self.take() {
                if wanted(&seg) {
                    return Some(seg);
                }
            }
            let left = until.since(self.bed.now());
            if left.is_zero() {
                return None;
            }
            let left = left.as_micros().div_ceil(1000) as u64;
            self.bed.run_while(left, |inner| inner.flows.get(&key).is_none_or(VecDeque::is_empty));
        }
    }

    /// As [`next`](Peer::next), and fails if there is none.
    #[track_caller]
    pub fn expect(&mut self, limit_ms: u64, what: &str, wanted: impl Fn(&Seg) -> bool) -> Seg {
        match self.next(limit_ms, wanted) {
            Some(seg) => seg,
            None => self.fail(&format!("no {what} within {limit_ms} ms")),
        }
    }

    /// The next segment, whatever it is.
    #[track_caller]
    pub fn any(&mut self, limit_ms: u64, what: &str) -> Seg {
        self.expect(limit_ms, what, |_| true)
    }

    /// Fails if a segment for which `unwanted` holds comes within `ms`.
    #[track_caller]
    pub fn never(&mut self, ms: u64, why: &str, unwanted: impl Fn(&Seg) -> bool) {
        if let Some(seg) = self.next(ms, unwanted) {
            self.fail(&format!("{why}, but the engine sent {} with {} octets", seg.flags, seg.data.len()));
        }
    }

    /// Fails if anything comes within `ms`.
    #[track_caller]
    pub fn silent(&mut self, ms: u64, why: &str) {
        self.never(ms, why, |_| true);
    }

    /// Everything that comes within `ms`.
    pub fn collect(&mut self, ms: u64) -> Vec<Seg> {
        let until = self.bed.now() + Duration::from_millis(ms);
        let mut all = Vec::new();
        while let Some(seg) = self.next((until.since(self.bed.now()).as_micros() as u64).div_ceil(1000), |_| true) {
            all.push(seg);
        }
        all
    }

    /// Expects an ACK with these numbers and nothing else in it.
    #[track_caller]
    pub fn expect_ack(&mut self, limit_ms: u64, what: &str) -> Seg {
        let seg = self.any(limit_ms, what);
        let right = seg.is_pure_ack() && seg.seq == self.rcv_nxt && seg.ack == self.snd_nxt;
        self.need(right, &format!("{what}: wanted an ACK of {} from {}", self.snd_nxt, self.rcv_nxt));
        seg
    }

    /// Expects a RST without ACK whose number is `seq`.
    #[track_caller]
    pub fn expect_reset(&mut self, seq: Seq, what: &str) {
        let seg = self.any(1000, what);
        self.need(seg.kind() == RST && seg.seq == seq, &format!("{what}: wanted RST with SEQ {seq}"));
        self.reset = false;
    }

    // ---- opening

    /// Options of our SYN or SYN-ACK.
    pub fn syn_options(&self, offer: &Offer) -> Vec<u8> {
        let mut options = offer.mss.map_or(Vec::new(), option::mss);
        if offer.sack {
            options.extend(option::sack_permitted());
        }
        if offer.timestamps {
            options.extend(option::timestamps(self.tsval(), self.ts_recent));
        }
        options.extend(offer.scale.map_or(Vec::new(), option::window_scale));
        options
    }

    /// Sends a SYN.
    pub fn send_syn(&mut self, offer: &Offer) {
        let options = self.syn_options(offer);
        let flags = if offer.ecn { SYN | Flags::ECE | Flags::CWR } else { SYN };
        self.send(Out::new(flags).seq(self.iss).window(offer.window).options(options));
        self.snd_nxt = self.iss + 1;
    }

    /// Sends a SYN and takes the SYN-ACK, without acknowledging it.
    #[track_caller]
    pub fn syn(&mut self, offer: &Offer) -> Seg {
        self.send_syn(offer);
        let answer = self.any(3000, "SYN-ACK");
        self.take_syn_ack(offer, answer.clone());
        answer
    }

    /// Takes a SYN-ACK for what it says.
    #[track_caller]
    pub fn take_syn_ack(&mut self, offer: &Offer, answer: Seg) {
        self.need(answer.kind() == SYN | ACK, "wanted a SYN-ACK");
        self.need(answer.ack == self.iss + 1, "the SYN-ACK does not acknowledge our SYN");
        self.irs = answer.seq;
        self.rcv_nxt = answer.seq + 1;
        self.timestamps = offer.timestamps && answer.options.timestamps.is_some();
        self.ts_recent = answer.options.timestamps.map_or(0, |ts| ts.value);
        self.sack = offer.sack && answer.options.sack_permitted;
        if let (Some(own), Some(theirs)) = (offer.scale, answer.options.window_scale) {
            (self.scale, self.engine_scale) = (own, theirs);
        }
        self.window = (u32::from(offer.window) >> self.scale) as u16;
        self.syn_ack = Some(answer);
    }

    /// Opens the connection.
    #[track_caller]
    pub fn open(&mut self, offer: &Offer) {
        self.syn(offer);
        self.ack();
    }

    /// Answers the engine's SYN.
    pub fn answer_syn(&mut self, offer: &Offer) {
        let options = self.syn_options(offer);
        let their = self.syn.as_ref().map(|syn| syn.options).unwrap_or_default();
        self.send(Out::new(SYN | ACK).seq(self.iss).options(options).window(offer.window));
        self.snd_nxt = self.iss + 1;
        self.timestamps = offer.timestamps && their.timestamps.is_some();
        self.sack = offer.sack && their.sack_permitted;
        if let (Some(own), Some(theirs)) = (offer.scale, their.window_scale) {
            (self.scale, self.engine_scale) = (own, theirs);
        }
        self.window = (u32::from(offer.window) >> self.scale) as u16;
    }

    // ---- conversations

    /// Reads `len` octets in order, acknowledging each segment.
    #[track_caller]
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        self.read_within(len, 4000)
    }

    /// Reads `len` octets in order within `limit_ms`.
    #[track_caller]
    pub fn read_within(&mut self, len: usize, limit_ms: u64) -> Vec<u8> {
        let until = self.bed.now() + Duration::from_millis(limit_ms);
        let mut read = Vec::new();
        let mut ahead: Vec<(Seq, Vec<u8>)> = Vec::new();
        while read.len() < len {
            let left = until.since(self.bed.now()).as_millis() as u64;
            let Some(seg) = self.next(left, |_| true) else {
                self.fail(&format!("{} of {len} octets within {limit_ms} ms", read.len()));
            };
            self.need(!seg.flags.rst(), "reset while reading");
            if seg.data.is_empty() {
                continue;
            }
            ahead.push((seg.seq, seg.data));
            while let Some(at) = ahead.iter().position(|(seq, data)| seq.at_or_before(self.rcv_nxt) && !data.is_empty())
            {
                let (seq, data) = ahead.swap_remove(at);
                let known = (self.rcv_nxt - seq) as usize;
                if known < data.len() {
                    read.extend_from_slice(&data[known..]);
                    self.rcv_nxt += (data.len() - known) as u32;
                }
            }
            self.ack();
        }
        self.need(read.len() == len, "more octets than expected");
        read
    }

    /// Reads exactly `wanted`, acknowledging each segment.
    #[track_caller]
    pub fn reads(&mut self, wanted: impl AsRef<[u8]>) {
        self.reads_within(wanted, 4000);
    }

    /// Reads exactly `wanted` within `limit_ms`.
    #[track_caller]
    pub fn reads_within(&mut self, wanted: impl AsRef<[u8]>, limit_ms: u64) {
        let read = self.read_within(wanted.as_ref().len(), limit_ms);
        self.need(read == wanted.as_ref(), "other octets than expected");
    }

    /// Sends `data` to the echo service and reads it back.
    #[track_caller]
    pub fn echo(&mut self, data: &[u8]) {
        for piece in data.chunks(1300) {
            self.data(piece);
        }
        let back = self.read(data.len());
        self.need(back == data, "the echo differs");
    }

    /// Sees that the connection survived: a token comes back.
    #[track_caller]
    pub fn still_open(&mut self, what: &str) {
        let token = format!("are you there, {what}?");
        self.drain();
        self.echo(token.as_bytes());
    }

    /// Takes what is on its way.
    pub fn drain(&mut self) -> Vec<Seg> {
        self.collect(1)
    }

    /// Takes what comes until the delayed acknowledgement has gone, too.
    pub fn settle(&mut self) -> Vec<Seg> {
        self.collect(150)
    }

    /// Waits until the engine has acknowledged `upto`.
    #[track_caller]
    pub fn wait_ack(&mut self, upto: Seq, limit_ms: u64, what: &str) {
        while self.acked.is_none_or(|acked| acked.before(upto)) {
            let seg = self.next(limit_ms, |_| true);
            self.need(seg.is_some(), &format!("{what} not acknowledged within {limit_ms} ms"));
            self.need(!self.reset, &format!("reset instead of an acknowledgement of {what}"));
        }
    }

    /// Reads to the engine's FIN, not acknowledging it.
    #[track_caller]
    pub fn read_fin(&mut self) {
        while self.fin_at.is_none_or(|fin| fin.after(self.rcv_nxt)) {
            let Some(seg) = self.next(3000, |_| true) else { self.fail("no FIN") };
            self.need(!seg.flags.rst(), "RST instead of FIN");
            if seg.seq == self.rcv_nxt {
                self.rcv_nxt += seg.data.len() as u32;
            }
        }
        self.rcv_nxt += 1;
    }

    /// Sees that the engine has forgotten the connection: an ACK draws a RST.
    #[track_caller]
    pub fn gone(&mut self, what: &str) {
        self.drain();
        let ack = self.rcv_nxt + 0x1234_5677;
        self.send(Out::new(ACK).ack(ack));
        self.expect_reset(ack, what);
    }

    /// The connection's name in the engine.
    pub fn id(&self) -> Option<ConnId> {
        let remote = SocketAddr::new(self.host, self.ports.0);
        self.bed.services().live.get(&(remote, self.ports.1)).copied()
    }

    /// Acts on the engine's end; what it is told is sent at once.
    #[track_caller]
    pub fn tell<R>(&mut self, act: impl FnOnce(&mut Conn<'_>) -> R) -> R {
        if self.id().is_none() {
            // the handshake's last segment may be on its way
            self.bed.run(1);
        }
        let Some(id) = self.id() else { self.fail("the engine has no such connection") };
        self.bed.engine(|engine| act(&mut engine.net().conn(id).expect("a live connection")))
    }

    /// The state that the engine's end is in: [`State::Closed`] if there is no trace of it. TIME-WAIT and SYN-RECEIVED
    /// are told by the engine's counts, so the bed should have no other connection.
    pub fn state(&self) -> State {
        let id = self.id();
        self.bed.engine(|engine| {
            if let Some(state) = id.and_then(|id| engine.net().conn(id).map(|conn| conn.state())) {
                return state;
            }
            let stats = engine.stats();
            match () {
                () if stats.time_wait_now.get() > 0 => State::TimeWait,
                () if stats.syn_received_now.get() > 0 => State::SynReceived,
                () if stats.connections.get() > 0 => State::SynSent,
                () => State::Closed,
            }
        })
    }
}
