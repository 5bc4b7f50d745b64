//! A worker as a host of a simulation.

use std::net::IpAddr;

use syncline_engine::app::App;
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::Device;
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::Instant;
use syncline_engine::worker::Worker;

use crate::sim::Node;

/// A worker with memory from the heap.
pub type Host<D, A> = Worker<D, A, HeapPages>;

impl<D: Device, A: App> Node for Host<D, A> {
    fn poll(&mut self, now: &Instant) {
        Worker::poll(self, now);
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        Worker::next_deadline(self)
    }
}

/// Secrets from a seed.
pub fn secrets(seed: u64) -> Secrets {
    let word = |n: u64| (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x5851_f42d_4c95_7f2d;
    Secrets::new([word(1), word(2)], [word(3), word(4)], [word(5), word(6)])
}

/// A configuration with one address on a /16 or /64, listening on `ports`.
pub fn config(address: &str, ports: &[u16]) -> Config {
    let address: IpAddr = address.parse().expect("an address");
    Config {
        addresses: vec![AddressRange {
            first: address,
            last: address,
            prefix_len: if address.is_ipv4() { 16 } else { 64 },
        }],
        listeners: ports
            .iter()
            .map(|&port| Listener { first_port: port, last_port: port, syn_cookies: SynCookies::Auto })
            .collect(),
        ..Config::default()
    }
}
