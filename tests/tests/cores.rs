//! Several workers of one device: who gets which frame, and what becomes of those that come to the wrong one.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use syncline_engine::app::End;
use syncline_engine::device::Device;
use syncline_engine::device::link::{Link, LinkConfig, LinkDevice};
use syncline_engine::device::path::PathConfig;
use syncline_engine::device::toeplitz::{DEFAULT_KEY, KEY_BYTES, Rss};
use syncline_engine::handover::Exchange;
use syncline_engine::page::HeapPages;
use syncline_engine::stats::Stats;
use syncline_engine::time::Instant;
use syncline_engine::wire::DropReason;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::services::{BYE, PORTS, Services, open};
use syncline_tests::sim::{Node, Sim};

/// The workers of one end, polled in turn.
struct Crew(Vec<Host<LinkDevice, Services>>);

impl Node for Crew {
    fn poll(&mut self, now: &Instant) {
        self.0.iter_mut().for_each(|worker| Node::poll(worker, now));
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        self.0.iter_mut().filter_map(Node::next_deadline).min()
    }
}

impl Crew {
    /// A worker on each device, with room for `parcels` frames on the way to each; what they know of the device's hash
    /// is `rss`.
    fn new(address: &str, devices: Vec<LinkDevice>, rss: Option<Arc<Rss>>, parcels: usize) -> Self {
        let frame_bytes = usize::from(devices[0].capabilities().frame_bytes_max);
        let places = Exchange::among(devices.len(), parcels, frame_bytes, rss.as_ref());
        let workers = devices.into_iter().zip(places).map(|(device, place)| {
            let config = config(address, &PORTS);
            let mut worker =
                Host::new(&config, &secrets(5), device, Services::default(), HeapPages::new()).expect("a worker");
            worker.join(place);
            worker
        });
        Self(workers.collect())
    }

    fn sum(&self, count: fn(&Stats) -> u64) -> u64 {
        self.0.iter().map(|worker| count(worker.stats())).sum()
    }

    fn lost(&self) -> u64 {
        self.sum(|stats| stats.dropped.get(DropReason::HandoverFull))
    }
}

/// What came of 400 connections between two ends of `workers` each.
struct Outcome {
    client: Crew,
    server: Crew,
}

impl Outcome {
    fn wrong_core(&self) -> [u64; 2] {
        [&self.client, &self.server].map(|crew| crew.sum(|stats| stats.wrong_core.get()))
    }
}

const CONNECTIONS: usize = 400;

/// Every worker of the client opens its share; each connection is opened, talked on both ways and closed by both.
/// `known` gives what an end's workers know of its device's hash, which is that of `rss`.
fn run(v6: bool, rss: &Rss, known: fn(&LinkDevice) -> Option<Arc<Rss>>, parcels: usize) -> Outcome {
    let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let path = PathConfig { delay: Duration::from_micros(100), ..PathConfig::default() };
    let link = LinkConfig { frames: 1 << 15, ..LinkConfig::symmetric(path) };
    let (link, to_a, to_b) = Link::with_queues(link, 3, rss.clone(), rss.clone());
    let workers = to_a.len();
    let mut outcome = Outcome {
        client: {
            let rss = known(&to_a[0]);
            Crew::new(a, to_a, rss, parcels)
        },
        server: {
            let rss = known(&to_b[0]);
            Crew::new(b, to_b, rss, parcels)
        },
    };
    let remote = SocketAddr::new(b.parse().unwrap(), BYE);
    let mut sim = Sim::new(link, 1_000_000, Duration::from_secs(300));
    let mut opened = 0;
    sim.run(&mut outcome.client, &mut outcome.server, |client, _| {
        // A few at a time, and each worker its share.
        for worker in &mut client.0 {
            for _ in 0..4 {
                if opened < CONNECTIONS && worker.net().room() > 0 {
                    open(&mut worker.net(), remote);
                    opened += 1;
                }
            }
        }
        client.0.iter().map(|worker| worker.app().ended.len()).sum::<usize>() == CONNECTIONS
    })
    .unwrap();
    for worker in &outcome.client.0 {
        let app = worker.app();
        assert!(app.ended.iter().all(|(_, end)| *end == End::Closed), "{:?}", app.ended);
        assert!(app.ended.len() >= CONNECTIONS / workers / 2, "every worker opens its share");
    }
    outcome
}

/// The published key and a table that deals the queues out in turn; and a card with a key and a table of its own.
fn cards(queues: u16) -> [Rss; 2] {
    let key: [u8; KEY_BYTES] = core::array::from_fn(|at| DEFAULT_KEY[at].rotate_left(3) ^ 0x35 ^ at as u8);
    let table: Vec<_> = (0..512u32).map(|entry| (entry * entry / 3) as u16 % queues).collect();
    [Rss::new(queues), Rss::with(key, &table).unwrap()]
}

#[test]
fn where_the_hash_is_known_every_frame_arrives_at_its_owner() {
    for v6 in [false, true] {
        for queues in [2, 3] {
            for rss in cards(queues) {
                let outcome = run(v6, &rss, |device| device.capabilities().rss.clone(), 64);
                assert_eq!(outcome.wrong_core(), [0, 0], "IPv6: {v6}, {queues} queues");
            }
        }
    }
}

#[test]
fn where_it_is_not_known_frames_are_handed_over_and_none_is_lost() {
    for rss in cards(2) {
        let outcome = run(false, &rss, |_| None, 4096);
        assert!(outcome.wrong_core().iter().all(|&frames| frames > 500), "{:?}", outcome.wrong_core());
        for crew in [&outcome.client, &outcome.server] {
            assert_eq!(crew.sum(|stats| stats.handed_over.get()), crew.sum(|stats| stats.wrong_core.get()));
            assert_eq!((crew.lost(), crew.sum(|stats| stats.segments_retransmitted.get())), (0, 0));
        }
    }
}

/// A card whose key changed behind the engine's back: slower, and nothing else.
#[test]
fn a_hash_that_is_wrong_costs_handovers_only() {
    let outcome = run(false, &cards(2)[1], |_| Some(Arc::new(Rss::new(2))), 4096);
    assert!(outcome.wrong_core().iter().all(|&frames| frames > 500), "{:?}", outcome.wrong_core());
    assert_eq!((outcome.client.lost(), outcome.server.lost()), (0, 0));
}

/// Room for forty frames on the way, four hundred under way: what finds none is counted, and sent again by whoever sent it.
#[test]
fn what_finds_no_room_is_counted_and_sent_again() {
    let outcome = run(false, &cards(2)[0], |_| None, 40);
    for crew in [&outcome.client, &outcome.server] {
        let (wrong, handed) = (crew.sum(|stats| stats.wrong_core.get()), crew.sum(|stats| stats.handed_over.get()));
        assert!(handed > 0 && handed < wrong, "{handed} of {wrong}");
        assert!(crew.lost() >= wrong - handed, "{} lost, {wrong} elsewhere, {handed} handed over", crew.lost());
    }
}
