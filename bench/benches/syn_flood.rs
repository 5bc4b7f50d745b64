//! What a SYN costs a server: SYNs of ever new sources into one worker, in one thread, with no kernel and no other end.
//!
//! `cargo bench -p syncline-bench --bench syn_flood [-- RUNS WORD…]`, of the cases whose names have all the words. The device hands out frames that were made before and
//! takes the answers back. What that costs by itself, the copy included, is measured beside and is in every figure.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant as SystemInstant};

use syncline_bench::generated::Buffer;
use syncline_engine::app::{App, Conn, ConnId, End};
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::{BURST, Capabilities, Device, DeviceCounters, Frame};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::Instant;
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::{Ecn, Flags, MacAddr, OutSegment, Seq, TcpOptions, Timestamps};
use syncline_engine::worker::Worker;

/// Sources, each with one SYN. With records kept, as many of these.
const SOURCES: usize = 1 << 20;
/// Octets from one SYN to the next.
const STRIDE: usize = 128;
/// Buffers of the device.
const BUFFERS: usize = 4 * BURST;
/// Virtual time of a pass: a burst at eight million a second.
const STEP: Duration = Duration::from_micros(8);

/// As random as any.
const SECRETS: Secrets = Secrets::new(
    [0x9ae1_6a3b_2f90_404f, 0xc2b2_ae3d_27d4_eb4f],
    [0x1656_67b1_9e37_79f9, 0x27d4_eb2f_1656_67c5],
    [0x9e37_79b1_85eb_ca77, 0xc2b2_ae3d_27d4_eb4f],
);

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Hands out SYNs, takes answers.
struct Flood {
    capabilities: Capabilities,
    syns: Rc<Syns>,
    next: usize,
    free: Vec<Buffer>,
    answers: u64,
}

/// The SYNs, one behind the other.
struct Syns {
    octets: Vec<u8>,
    len: usize,
}

impl Syns {
    fn new(v6: bool, timestamps: bool) -> Self {
        let (target, base) = target(v6);
        let mut octets = vec![0; SOURCES * STRIDE];
        let mut len = 0;
        for (index, frame) in octets.chunks_mut(STRIDE).enumerate() {
            // Scattered over the range, as a flood's are; each odd factor makes every source occur once.
            let host = (index as u32).wrapping_mul(0x9e37_79b1) & (SOURCES as u32 - 1);
            let source = match base {
                IpAddr::V4(base) => IpAddr::V4((base.to_bits() | host).into()),
                IpAddr::V6(base) => IpAddr::V6((base.to_bits() | u128::from(host) << 80).into()),
            };
            let segment = OutSegment {
                link: Link { source: THEIRS, destination: OURS, vlan: None },
                source,
                destination: target.ip(),
                source_port: 1_024 + (host.wrapping_mul(0x85eb_ca6b) >> 17) as u16,
                destination_port: target.port(),
                seq: Seq(host.wrapping_mul(0xc2b2_ae35)),
                ack: Seq(0),
                flags: Flags::SYN,
                window: 64_240,
                urgent_pointer: 0,
                hop_limit: 64,
                dscp: 0,
                ecn: Ecn::NotCapable,
                options: TcpOptions {
                    mss: Some(1_440),
                    window_scale: Some(7),
                    sack_permitted: true,
                    timestamps: timestamps.then_some(Timestamps { value: 1, echo: 0 }),
                    ..TcpOptions::NONE
                },
            };
            len = segment.emit(frame, 0).expect("a SYN fits");
        }
        Self { octets, len }
    }
}

fn target(v6: bool) -> (SocketAddr, IpAddr) {
    let (own, base) = if v6 { ("[fd00::1]:80", "fd01::1") } else { ("172.16.0.1:80", "10.16.0.0") };
    (own.parse().expect("an address"), base.parse().expect("an address"))
}

impl Flood {
    fn new(syns: &Rc<Syns>) -> Self {
        let buffer = Buffer::default;
        Self {
            capabilities: Capabilities {
                mac: OURS.octets(),
                mtu: 1_500,
                frame_bytes_max: 1_522,
                partial_checksum: false,
                rss: None,
            },
            syns: Rc::clone(syns),
            next: 0,
            free: (0..BUFFERS).map(|_| buffer()).collect(),
            answers: 0,
        }
    }
}

impl Device for Flood {
    type Frame = Buffer;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {}

    #[inline]
    fn receive(&mut self, burst: &mut Vec<Buffer>) -> usize {
        let len = self.syns.len;
        for _ in 0..BURST {
            let Some(mut buffer) = self.free.pop() else { break };
            let at = self.next * STRIDE;
            self.next = (self.next + 1) % SOURCES;
            buffer.resize(len).copy_from_slice(&self.syns.octets[at..at + len]);
            burst.push(buffer);
        }
        burst.len()
    }

    #[inline]
    fn allocate(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    #[inline]
    fn transmit(&mut self, frame: Buffer) -> Result<(), Buffer> {
        self.answers += 1;
        self.free.push(frame);
        Ok(())
    }

    #[inline]
    fn release(&mut self, frame: Buffer) {
        self.free.push(frame);
    }

    fn doorbell(&mut self) {}

    fn counters(&self) -> DeviceCounters {
        DeviceCounters::default()
    }
}

/// Nothing ever opens.
struct Nobody;

impl App for Nobody {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}

    fn fill(&self, _: u32, _: u32, _: &mut [u8]) {}
}

/// Answers every source once. Returns the time, and the octets of table that were taken for it.
fn serve(syns: &Rc<Syns>, v6: bool, syn_cookies: SynCookies) -> (Duration, u64) {
    let own = target(v6).0.ip();
    let config = Config {
        addresses: vec![AddressRange { first: own, last: own, prefix_len: if v6 { 64 } else { 24 } }],
        gateway_v4: None,
        listeners: vec![Listener { first_port: 80, last_port: 80, syn_cookies }],
        max_syn_received: 2 * SOURCES as u32,
        ..Config::default()
    };
    let mut worker =
        Worker::new(&config, &SECRETS, Flood::new(syns), Nobody, HeapPages::new()).expect("the configuration is fixed");
    let mut now = Instant::from_millis(1);
    let before = worker.table_bytes();
    let start = SystemInstant::now();
    for _ in 0..SOURCES / BURST {
        worker.poll(&now);
        now = now + STEP;
    }
    let took = start.elapsed();
    assert_eq!(worker.device().answers, SOURCES as u64, "every SYN is answered");
    let stats = worker.stats();
    let kept = stats.passive_opens.get();
    match syn_cookies {
        SynCookies::Always => assert_eq!((stats.syn_cookies_sent.get(), kept), (SOURCES as u64, 0)),
        SynCookies::Never => assert_eq!(kept, SOURCES as u64),
        SynCookies::Auto => assert!(kept < SOURCES as u64 / 2, "a flood is not kept: {kept}"),
    }
    (took, worker.table_bytes() - before)
}

/// The device by itself.
fn idle(syns: &Rc<Syns>) -> Duration {
    let mut device = Flood::new(syns);
    let mut burst = Vec::with_capacity(BURST);
    let start = SystemInstant::now();
    for _ in 0..SOURCES / BURST {
        device.receive(&mut burst);
        burst.drain(..).for_each(|frame| drop(device.transmit(std::hint::black_box(frame))));
    }
    start.elapsed()
}

/// A case: its name, its SYNs, how they are answered; `None`: not at all.
type Case = (String, Rc<Syns>, bool, Option<SynCookies>);

fn cases(wanted: &[String]) -> Vec<Case> {
    let modes = [
        ("device", None),
        ("always", Some(SynCookies::Always)),
        ("auto", Some(SynCookies::Auto)),
        ("never", Some(SynCookies::Never)),
    ];
    let mut cases = Vec::new();
    for (v6, timestamps) in [(false, true), (false, false), (true, true), (true, false)] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let options = if timestamps { "timestamps" } else { "plain" };
        let named = modes.map(|(mode, cookies)| (format!("{family} {options} {mode}"), cookies));
        let chosen: Vec<_> =
            named.into_iter().filter(|(name, _)| wanted.iter().all(|word| name.contains(word))).collect();
        if chosen.is_empty() {
            continue;
        }
        let syns = Rc::new(Syns::new(v6, timestamps));
        cases.extend(chosen.into_iter().map(|(name, cookies)| (name, Rc::clone(&syns), v6, cookies)));
    }
    cases
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let (runs, wanted): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.parse::<usize>().is_ok());
    let runs = runs.first().and_then(|runs| runs.parse().ok()).unwrap_or(7usize).max(1);
    let cases = cases(&wanted);
    let mut measured: Vec<(Vec<f64>, u64)> = cases.iter().map(|_| (Vec::new(), 0)).collect();
    // In turns, so that what disturbs the machine disturbs all alike.
    for _ in 0..runs {
        for ((_, syns, v6, cookies), (times, bytes)) in cases.iter().zip(&mut measured) {
            let (time, table) = match cookies {
                Some(cookies) => serve(syns, *v6, *cookies),
                None => (idle(syns), 0),
            };
            times.push(time.as_secs_f64() * 1e9 / SOURCES as f64);
            *bytes = table;
        }
    }
    for ((name, ..), (mut times, bytes)) in cases.iter().zip(measured) {
        times.sort_unstable_by(f64::total_cmp);
        let (median, least, greatest) = (times[runs / 2], times[0], times[runs - 1]);
        let rate = 1e3 / median;
        println!(
            "{name:24} {rate:6.2} M/s  {median:6.1} ns a SYN ({least:.1} to {greatest:.1})  {bytes} octets of table"
        );
    }
}
