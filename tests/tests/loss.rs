//! Transfers over a link that loses, reorders, duplicates and corrupts: all octets arrive, all connections end.
//!
//! The long form: `SYNCLINE_LOSS=200x1000 cargo test --release -p syncline-tests --test loss -- --nocapture` plays 200
//! seeds of 1,000 connections.

use core::time::Duration;

use syncline_engine::app::End;
use syncline_engine::config::Config;
use syncline_engine::device::fault::{Faults, Probability};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::Sim;
use syncline_tests::transfer::Transfer;

const MIB: u32 = 1 << 20;
/// Frame buffers of the link.
const FRAMES: u32 = 65_536;

/// 5% loss, 5% reordering, 2% duplication, 1% single-bit corruption, 1 ms each way.
fn bad_path() -> PathConfig {
    PathConfig {
        delay: Duration::from_millis(1),
        reorder_delay: Duration::from_micros(500),
        faults: Faults {
            loss: Probability::percent(5),
            reorder: Probability::percent(5),
            duplicate: Probability::percent(2),
            corrupt: Probability::percent(1),
            ..Faults::default()
        },
        ..PathConfig::default()
    }
}

fn run(path: PathConfig, connections: u32, octets: u32, seed: u64, v6: bool) -> String {
    let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let link = LinkConfig { frames: FRAMES as usize, a_to_b: path.clone(), b_to_a: path, ..LinkConfig::default() };
    let (link, device_a, device_b) = Link::pair(link, seed);
    let remote = std::net::SocketAddr::new(b.parse().unwrap(), 7);
    // What all connections may have in flight both ways fits the link's frames, with as many to spare
    let window = (FRAMES / connections / 4 * 1448).clamp(4096, MIB);
    let windowed = |mut config: Config| {
        (config.tcp.receive_window, config.tcp.receive_buffer) = (window, window);
        config
    };
    let mut a = Host::new(
        &windowed(config(a, &[])),
        &secrets(seed),
        device_a,
        Transfer::opener(connections, remote, octets, octets),
        HeapPages::new(),
    )
    .unwrap();
    let mut b = Host::new(
        &windowed(config(b, &[7])),
        &secrets(seed ^ 77),
        device_b,
        Transfer::listener(octets, octets),
        HeapPages::new(),
    )
    .unwrap();
    let mut sim = Sim::new(link, 50_000_000, Duration::from_secs(3600));
    let outcome = sim.run(&mut a, &mut b, |a, b| {
        a.app().fault.is_some()
            || b.app().fault.is_some()
            || (a.app().ended.len() as u32 == connections && b.app().ended.len() as u32 == connections)
    });
    let summary = format!(
        "seed {seed}: {outcome:?} at {} ms after {} steps; a {:?} whole {} ended {}; b {:?} whole {} established {} ended {}",
        sim.now().micros() / 1000,
        sim.steps(),
        a.app().fault,
        a.app().whole,
        a.app().ended.len(),
        b.app().fault,
        b.app().whole,
        b.app().established,
        b.app().ended.len()
    );
    assert!(outcome.is_ok(), "{summary}");
    for host in [a.app(), b.app()] {
        assert_eq!(host.fault, None, "{summary}");
        assert_eq!(host.whole, connections, "{summary}");
        assert!(host.ended.iter().all(|&end| end == End::Closed), "{summary} {:?}", host.ended);
    }
    summary
}

#[test]
//= RFC 9293 SHLD-20
fn a_clean_link_carries_ten_connections() {
    println!("{}", run(PathConfig::default(), 10, MIB, 1, false));
    println!("{}", run(PathConfig::default(), 10, MIB, 2, true));
}

/// Seeds and connections: those of every day, or what `SYNCLINE_LOSS=SEEDSxCONNECTIONS` asks for.
fn extent() -> (u64, u32) {
    let Ok(asked) = std::env::var("SYNCLINE_LOSS") else { return (20, 100) };
    let parsed = asked.split_once('x').and_then(|(seeds, each)| Some((seeds.parse().ok()?, each.parse().ok()?)));
    parsed.unwrap_or_else(|| panic!("SYNCLINE_LOSS={asked}: write SEEDSxCONNECTIONS, as in 200x1000"))
}

#[test]
fn a_bad_link_loses_no_octet() {
    let (seeds, connections) = extent();
    for seed in 1..=seeds {
        println!("{}", run(bad_path(), connections, MIB, seed, seed % 2 == 0));
    }
}
