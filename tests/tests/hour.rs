//! An hour's load in virtual time: what generator, server and collector hold after a third of it is what they hold at its
//! end.
//!
//! By itself in its program, since it looks at the memory of the process.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use syncline::apps::{ServeApp, Server};
use syncline::host::rss_bytes;
use syncline::load::{Client, Control, Load, Plan, Profile};
use syncline::run::collect::Collector;
use syncline::run::drive::Member;
use syncline::run::gauges::Gauges;
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_engine::time::Instant;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::Sim;

const HOUR: Duration = Duration::from_secs(3_600);
const RATE: u64 = 50;

/// By now the series of intervals is as long as it may become, and every record that outlives its connection has done so.
const SETTLED: Duration = Duration::from_secs(1_200);

#[test]
fn an_hour_takes_no_more_memory_than_twenty_minutes() {
    let path = PathConfig { delay: Duration::from_micros(20), ..PathConfig::default() };
    let (link, device_a, device_b) = Link::pair(LinkConfig::symmetric(path), 7);
    let load = Load::Rate { per_second: RATE as f64, in_flight_max: None };
    let target = SocketAddr::new("10.0.0.2".parse().unwrap(), 100);
    let plan = Plan { load, duration: Some(HOUR), ..Plan::new(Profile::Crr, vec![target]) };
    let client = Client::new(plan, 0, Arc::new(Control::new(1))).unwrap();
    let mailbox = client.mailbox();
    let respond = ServeApp::Respond { request_bytes: 64, response_bytes: 64 };
    let server = Server::new(&[respond], SystemTime::UNIX_EPOCH).unwrap();
    let mut a = Host::new(&config("10.0.0.1", &[]), &secrets(1), device_a, client, HeapPages::new()).unwrap();
    let mut b = Host::new(&config("10.0.0.2", &[100]), &secrets(2), device_b, server, HeapPages::new()).unwrap();

    let member = Member { core: None, stats: Arc::clone(a.stats()), gauges: Arc::new(Gauges::default()) };
    let mut collector = Collector::new(&[member], vec![mailbox], Some(RATE as f64));
    let (mut gather_at, mut settled) = (Instant::ZERO, None);
    let mut sim = Sim::new(link, u64::MAX, 2 * HOUR);
    let ended = sim.run(&mut a, &mut b, |a, _| {
        let now = a.net().now();
        if now >= gather_at {
            gather_at = now + Duration::from_millis(100);
            collector.gather();
            if settled.is_none() && now >= Instant::ZERO + SETTLED {
                settled = rss_bytes();
            }
        }
        now >= Instant::ZERO + HOUR
    });
    ended.unwrap_or_else(|stuck| panic!("{stuck}"));
    let (settled, at_end) = (settled.expect("a process has memory"), rss_bytes().unwrap());
    let grown = at_end.saturating_sub(settled);
    assert!(grown <= 1 << 20, "{grown} octets more after an hour than after {SETTLED:?}, when it was {settled}");
    let collected = collector.finish();
    let tally = collected.sustain.measures.tally;
    assert!(tally.attempted >= RATE * 3_590 && tally.failed_total() == 0, "{tally:?}");
    assert!(collected.intervals.len() <= 300, "{}", collected.intervals.len());
}
