//! A flood against an engine, over the ring and in one thread: every SYN is a good one, and every answer is counted.

use std::net::SocketAddr;

use syncline::apps::{ServeApp, Server};
use syncline::flood::hops::{Station, resolve};
use syncline::flood::{Flooder, Order, Template};
use syncline::net::Cidr;
use syncline::run::MonotonicClock;
use syncline::setup::{Pages, Seed};
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::{BURST, Device, ring};
use syncline_engine::stats::Stats;
use syncline_engine::wire::MacAddr;
use syncline_engine::worker::Worker;

const SYNS: u64 = 20_000;

/// Floods `port` of a server that listens on 80, and returns what it answered by SYN-ACK and by RST.
fn flood(v6: bool, port: u16, syn_cookies: SynCookies) -> (u64, u64, u64) {
    let (server, device) = ring::pair(4_096, 1_522).unwrap();
    let (own, ours, spoof) =
        if v6 { ("fd00::2", "fd00::1/64", "2001:2::/48") } else { ("10.9.0.2", "10.9.0.1/24", "198.18.0.0/15") };
    let target = SocketAddr::new(own.parse().unwrap(), port);
    let config = Config {
        addresses: vec![AddressRange { first: target.ip(), last: target.ip(), prefix_len: if v6 { 64 } else { 24 } }],
        listeners: vec![Listener { first_port: 80, last_port: 80, syn_cookies }],
        ..Config::default()
    };
    let clock = MonotonicClock::start();
    let app = Server::new(&[ServeApp::Discard], clock.wall_at_origin()).unwrap();
    let mut worker = Worker::new(&config, &Seed::Given(1).secrets(clock), server, app, Pages::new()).unwrap();

    let mac = MacAddr(worker.device().capabilities().mac);
    let station = Station { mac: MacAddr(device.capabilities().mac), vlan: None, own: vec![ours.parse().unwrap()] };
    let range: Cidr = spoof.parse().unwrap();
    let template = Template::new(station.link(mac), target, 1_500);
    let order = Order {
        targets: vec![(target, template, range)],
        per_second: None,
        count: Some(SYNS),
        duration: None,
        seed: 7,
    };
    let mut flooder = Flooder::new(device, order, station);
    for _ in 0..SYNS / 50 {
        flooder.pass(50);
        worker.poll(&clock);
    }
    flooder.pass(0);
    flooder.pass(0);

    let (stats, answers) = (worker.stats(), flooder.answers());
    let refused =
        stats.dropped.nonzero().filter(|(reason, _)| !matches!(reason.name(), "no_listener" | "rst_rate_limited"));
    assert_eq!(refused.collect::<Vec<_>>(), []);
    assert_eq!((answers.syns.get(), stats.rx_frames.get()), (SYNS, SYNS));
    assert_eq!(answers.syn_acks.get(), stats.syn_cookies_sent.get() + stats.passive_opens.get());
    assert_eq!((answers.others.get(), answers.icmp_errors.get()), (0, 0));
    assert_eq!(flooder.stats().dropped.nonzero().count(), 0);
    assert_eq!(flooder.stats().tx_frames.get(), SYNS, "an answer was answered");
    (answers.syn_acks.get(), answers.resets.get(), stats.resets_limited.get())
}

#[test]
fn every_syn_is_good_and_every_answer_is_counted() {
    for v6 in [false, true] {
        assert_eq!(flood(v6, 80, SynCookies::Always), (SYNS, 0, 0));
        assert_eq!(flood(v6, 80, SynCookies::Auto), (SYNS, 0, 0));
    }
}

#[test]
fn resets_are_counted_apart() {
    let (syn_acks, resets, limited) = flood(false, 81, SynCookies::Always);
    assert_eq!((syn_acks, resets + limited), (0, SYNS));
    assert!(resets > 0);
}

#[test]
fn a_hop_that_does_not_answer_is_named() {
    let (_silent, device) = ring::pair(BURST, 1_522).unwrap();
    let station =
        Station { mac: MacAddr(device.capabilities().mac), vlan: None, own: vec!["10.9.0.1/24".parse().unwrap()] };
    let stats = Stats::default();
    let error = resolve(&mut [device], &station, &stats, &["10.9.0.9".parse().unwrap()]).unwrap_err();
    assert_eq!(error.exit(), syncline::Exit::Environment);
    assert!(error.to_string().contains("10.9.0.9"), "{error}");
    assert_eq!(stats.neighbor_requests.get(), 3);
}
