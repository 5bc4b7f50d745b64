//! Transfers over a link that loses, reorders, duplicates and corrupts: all octets arrive, all connections end.

use core::time::Duration;

use syncline_engine::app::End;
use syncline_engine::device::fault::{Faults, Probability};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::Sim;
use syncline_tests::transfer::Transfer;

const MIB: u32 = 1 << 20;

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
    let link = LinkConfig { frames: 65_536, a_to_b: path.clone(), b_to_a: path, ..LinkConfig::default() };
    let (link, device_a, device_b) = Link::pair(link, seed);
    let remote = std::net::SocketAddr::new(b.parse().unwrap(), 7);
    let mut a = Host::new(
        &config(a, &[]),
        &secrets(seed),
        device_a,
        Transfer::opener(connections, remote, octets, octets),
        HeapPages::new(),
    )
    .unwrap();
    let mut b = Host::new(
        &config(b, &[7]),
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
fn a_clean_link_carries_ten_connections() {
    println!("{}", run(PathConfig::default(), 10, MIB, 1, false));
    println!("{}", run(PathConfig::default(), 10, MIB, 2, true));
}

#[test]
fn a_bad_link_loses_no_octet() {
    for seed in 1..=20 {
        println!("{}", run(bad_path(), 100, MIB, seed, seed % 2 == 0));
    }
}
