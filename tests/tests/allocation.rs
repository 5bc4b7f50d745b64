//! After a warm-up the data path allocates nothing: open, text both ways with loss and reordering, close, the end of
//! TIME-WAIT. Both ends are counted, over a simulated link and over the ring. A flood of SYNs takes no memory at all.

use core::time::Duration;
use std::net::SocketAddr;

use allocation_counter::measure;
use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{Config, SynCookies};
use syncline_engine::device::fault::{Faults, Probability};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::device::{Device, Frame as _, ring};
use syncline_engine::page::HeapPages;
use syncline_engine::time::Instant;
use syncline_engine::wire::ethernet::Link as Stations;
use syncline_engine::wire::{Ecn, Flags, MacAddr, OutSegment, Seq, TcpOptions, Timestamps};
use syncline_tests::host::{Host, config, secrets};

const OCTETS: u32 = 20_000;
const CONNECTIONS: u32 = 200;

/// Sends [`OCTETS`] on every connection and closes it; opens as many as it is told.
#[derive(Default)]
struct Pulse {
    open: u32,
    remote: Option<SocketAddr>,
    received: u64,
    ended: u32,
}

impl App for Pulse {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        self.connected(conn);
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        conn.send(1, OCTETS);
        conn.close();
    }

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        self.received += data.len() as u64;
        data.len()
    }

    fn finished(&mut self, _: &mut Conn<'_>) {}

    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {
        self.ended += 1;
    }

    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(7);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let Some(remote) = self.remote else { return };
        while self.open > 0 && net.room() > 0 && net.connect(remote, 0).is_ok() {
            self.open -= 1;
        }
    }
}

fn hosts<D: Device>(a: D, b: D) -> (Host<D, Pulse>, Host<D, Pulse>) {
    let brief = |config: Config| {
        let mut config = config;
        config.tcp.time_wait = Duration::from_secs(1);
        config
    };
    let remote = Some("10.0.0.2:7".parse().expect("a socket"));
    let opener = Pulse { remote, ..Pulse::default() };
    let a = Host::new(&brief(config("10.0.0.1", &[])), &secrets(1), a, opener, HeapPages::new());
    let b = Host::new(&brief(config("10.0.0.2", &[7])), &secrets(2), b, Pulse::default(), HeapPages::new());
    (a.expect("a worker"), b.expect("a worker"))
}

/// Opens connections and lets both ends work until nothing is left of them. `advance` moves the time on.
fn round<D: Device>(a: &mut Host<D, Pulse>, b: &mut Host<D, Pulse>, mut advance: impl FnMut() -> Instant) {
    let goal = (a.app().ended + CONNECTIONS, b.app().ended + CONNECTIONS);
    a.app_mut().open = CONNECTIONS;
    for _ in 0..2_000_000 {
        let now = advance();
        a.poll(&now);
        b.poll(&now);
        let over = (a.app().ended, b.app().ended) == goal;
        if over && a.stats().time_wait_now.get() + b.stats().time_wait_now.get() == 0 {
            return;
        }
    }
    panic!("the connections did not come to an end");
}

#[test]
fn nothing_is_allocated_over_a_bad_link() {
    let faults = Faults {
        loss: Probability::percent(2),
        reorder: Probability::percent(2),
        duplicate: Probability::percent(1),
        ..Faults::default()
    };
    let delay = Duration::from_millis(1);
    let path = PathConfig { delay, reorder_delay: Duration::from_micros(500), faults, ..PathConfig::default() };
    let (link, a, b) = Link::pair(LinkConfig { frames: 16_384, ..LinkConfig::symmetric(path) }, 5);
    let (mut a, mut b) = hosts(a, b);
    let mut now = Instant::ZERO;
    let mut advance = || {
        now = now + Duration::from_micros(200);
        link.set_now(now);
        now
    };
    // What arrives out of order takes buffers in pages of 128: how many there are at the most differs from round to round
    for _ in 0..4 {
        round(&mut a, &mut b, &mut advance);
    }
    let received = a.app().received;
    let counted = measure(|| round(&mut a, &mut b, &mut advance));
    assert_eq!(a.app().received - received, u64::from(CONNECTIONS * OCTETS));
    assert!(a.stats().segments_retransmitted.get() > 0 && a.stats().out_of_order.get() > 0, "a link without faults");
    assert_eq!(counted.count_total, 0, "allocations of both ends");
}

#[test]
fn nothing_is_allocated_over_the_ring() {
    let (a, b) = ring::pair(8192, 1536).expect("a ring");
    let (mut a, mut b) = hosts(a, b);
    let mut now = Instant::ZERO;
    let mut advance = || {
        now = now + Duration::from_micros(20);
        now
    };
    round(&mut a, &mut b, &mut advance);
    round(&mut a, &mut b, &mut advance);
    let counted = measure(|| round(&mut a, &mut b, &mut advance));
    assert_eq!(counted.count_total, 0, "allocations of both ends");
}

/// The SYN of client number `client`, who is at 172.16.0.0 plus as much.
fn syn(stations: Stations, client: u32) -> OutSegment {
    OutSegment {
        link: stations,
        source: std::net::IpAddr::V4((0xac10_0000 + client).into()),
        destination: "10.0.0.2".parse().expect("an address"),
        source_port: 40_000,
        destination_port: 7,
        seq: Seq(client),
        ack: Seq(0),
        flags: Flags::SYN,
        window: 64_240,
        urgent_pointer: 0,
        hop_limit: 64,
        dscp: 0,
        ecn: Ecn::NotCapable,
        options: TcpOptions {
            mss: Some(1_460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 1, echo: 0 }),
            ..TcpOptions::NONE
        },
    }
}

#[test]
fn a_syn_that_a_cookie_answers_takes_no_memory() {
    const SYNS: u32 = 1 << 20;
    const BURST: u32 = 64;
    let (mut flood, device) = ring::pair(1024, 1536).expect("a ring");
    let mut listening = config("10.0.0.2", &[7]);
    listening.listeners[0].syn_cookies = SynCookies::Always;
    let server = Host::new(&listening, &secrets(2), device, Pulse::default(), HeapPages::new());
    let mut server = server.expect("a worker");
    let stations = Stations {
        source: MacAddr(flood.capabilities().mac),
        destination: MacAddr(server.device().capabilities().mac),
        vlan: None,
    };
    let mut answers = Vec::with_capacity(BURST as usize);
    let mut now = Instant::from_millis(1);
    let mut answered = 0;
    let mut burst = |first: u32| {
        for client in first..first + BURST {
            let mut frame = flood.allocate().expect("the answers came back");
            let syn = syn(stations, client);
            syn.emit(frame.resize(syn.header_len()), 0).expect("a SYN fits");
            assert!(flood.transmit(frame).is_ok(), "the ring has room");
        }
        flood.doorbell();
        now = now + Duration::from_micros(8);
        server.poll(&now);
        flood.reap();
        answered += flood.receive(&mut answers) as u32;
        answers.drain(..).for_each(|frame| flood.release(frame));
        server.table_bytes()
    };
    let before = burst(0);
    let mut after = 0;
    let counted = measure(|| after = (1..SYNS / BURST).map(|index| burst(index * BURST)).last().unwrap_or(0));
    assert_eq!((answered, server.stats().syn_cookies_sent.get()), (SYNS, u64::from(SYNS)));
    assert_eq!(counted.count_total, 0, "allocations for {SYNS} SYNs");
    assert_eq!(after, before, "octets of tables");
}
