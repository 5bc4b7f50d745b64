//! SYN cookies: connections that a listener makes without having kept anything for their SYN.

use core::time::Duration;
use std::net::SocketAddr;

use syncline_engine::config::SynCookies;
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::Sim;
use syncline_tests::transfer::Transfer;

/// Runs transfers against a listener in `mode` with room for `half_open` half-open connections.
fn run(
    mode: SynCookies,
    half_open: u32,
    v6: bool,
    timestamps: bool,
) -> Host<syncline_engine::device::link::LinkDevice, Transfer> {
    let path = PathConfig { delay: Duration::from_millis(1), ..PathConfig::default() };
    let (link, device_a, device_b) =
        Link::pair(LinkConfig { a_to_b: path.clone(), b_to_a: path, ..LinkConfig::default() }, 5);
    let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let remote = SocketAddr::new(b.parse().unwrap(), 7);
    let mut client = config(a, &[]);
    client.tcp.timestamps = timestamps;
    let mut server = config(b, &[7]);
    server.listeners[0].syn_cookies = mode;
    server.max_syn_received = half_open;
    let opener = Transfer::opener(200, remote, 100_000, 100_000);
    let mut a = Host::new(&client, &secrets(1), device_a, opener, HeapPages::new()).unwrap();
    let listener = Transfer::listener(100_000, 100_000);
    let mut b = Host::new(&server, &secrets(2), device_b, listener, HeapPages::new()).unwrap();
    let mut sim = Sim::new(link, 1_000_000, Duration::from_secs(300));
    sim.run(&mut a, &mut b, |a, b| a.app().ended.len() == 200 && b.app().ended.len() == 200).unwrap();
    for host in [a.app(), b.app()] {
        assert_eq!((host.fault.as_deref(), host.whole), (None, 200));
    }
    b
}

#[test]
fn always_keeps_nothing_and_loses_nothing() {
    for (v6, timestamps) in [(false, true), (false, false), (true, true), (true, false)] {
        let server = run(SynCookies::Always, 65_536, v6, timestamps);
        let stats = server.stats();
        assert_eq!(stats.syn_cookies_accepted.get(), 200);
        assert_eq!(stats.syn_cookies_sent.get(), 200);
        assert_eq!(stats.passive_opens.get(), 0, "no half-open connection was kept");
        assert_eq!(stats.syn_cookies_rejected.get(), 0);
    }
}

#[test]
fn auto_keeps_what_it_has_room_for_and_the_rest_completes_all_the_same() {
    let server = run(SynCookies::Auto, 40, false, true);
    let stats = server.stats();
    assert!(stats.syn_cookies_accepted.get() > 100, "{}", stats.syn_cookies_accepted.get());
    assert!(stats.passive_opens.get() >= 30);
    assert_eq!(stats.syn_cookies_accepted.get() + stats.passive_opens.get(), 200);
}

#[test]
fn never_sends_no_cookie_and_peers_try_again() {
    let server = run(SynCookies::Never, 40, false, true);
    let stats = server.stats();
    assert_eq!((stats.syn_cookies_sent.get(), stats.syn_cookies_accepted.get()), (0, 0));
    assert!(stats.refused_table_full.get() > 0, "the limit was met");
}
