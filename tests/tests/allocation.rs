//! After a warm-up the data path allocates nothing: open, text both ways with loss and reordering, close, the end of
//! TIME-WAIT. Both ends are counted, over a simulated link and over the ring.

use core::time::Duration;
use std::net::SocketAddr;

use allocation_counter::measure;
use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::Config;
use syncline_engine::device::fault::{Faults, Probability};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::device::{Device, ring};
use syncline_engine::page::HeapPages;
use syncline_engine::time::Instant;
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
    round(&mut a, &mut b, &mut advance);
    round(&mut a, &mut b, &mut advance);
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
