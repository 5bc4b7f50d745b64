//! The flow table beside hashbrown, and the flow hash beside SipHash.
//!
//! `FLOWS` in the environment sets the number of flows (8,000,000 by default: 512 MB of records and far out of any
//! cache). Before the timed groups a report of pauses while growing from nothing is printed: wall time of a
//! burst of insertions and the maintenance after them, as a poll would do.

use std::hash::Hasher;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hashbrown::HashMap;
use siphasher::sip::{SipHasher13, SipHasher24};
use syncline_engine::device::BURST;
use syncline_engine::flow::{FlowKey, FlowTable, HashKey, Kind, Slab};
use syncline_engine::page::HeapPages;

/// The size of a connection's block; holds the key as one would.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Record {
    remote: u32,
    remote_port: u16,
    local_port: u16,
    touched: u64,
}

type Records = Slab<Record, 1024>;

fn flows() -> u32 {
    std::env::var("FLOWS").ok().and_then(|flows| flows.parse().ok()).unwrap_or(8_000_000)
}

/// Flow `id`: clients in 10/8 towards one server.
fn key(id: u32) -> FlowKey {
    FlowKey {
        local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        remote: IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + id / 28_000)),
        local_port: 80,
        remote_port: 32_000 + (id % 28_000) as u16,
    }
}

fn is_record(record: &Record, key: &FlowKey) -> bool {
    let IpAddr::V4(remote) = key.remote else { return false };
    record.remote == remote.to_bits() && record.remote_port == key.remote_port && record.local_port == key.local_port
}

fn record(key: &FlowKey) -> Record {
    let IpAddr::V4(remote) = key.remote else { return Record::default() };
    Record { remote: remote.to_bits(), remote_port: key.remote_port, local_port: key.local_port, touched: 0 }
}

/// Pseudo-random flow identities, cheap enough not to show.
struct Ids(u64);

impl Ids {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (((self.0 >> 32) * u64::from(end)) >> 32) as u32
    }
}

/// Hash functions over a burst of keys: throughput, as the look-up stage uses them.
fn hash(c: &mut Criterion) {
    let keys: Vec<FlowKey> = (0..BURST as u32).map(|id| key(id * 7919)).collect();
    let v6: Vec<FlowKey> = keys
        .iter()
        .map(|key| FlowKey { local: "2001:db8::1".parse().unwrap(), remote: v6_of(key.remote), ..*key })
        .collect();
    let secret = HashKey::new([1, 2]);
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("folded v4", |b| {
        b.iter(|| keys.iter().fold(0, |sum, key| sum ^ secret.index_hash(black_box(key))))
    });
    group.bench_function("folded v6", |b| {
        b.iter(|| v6.iter().fold(0, |sum, key| sum ^ secret.index_hash(black_box(key))))
    });
    group.bench_function("siphash-1-3 v4", |b| {
        b.iter(|| keys.iter().fold(0, |sum, key| sum ^ sip(SipHasher13::new_with_keys(1, 2), black_box(key))));
    });
    group.bench_function("siphash-2-4 v4", |b| {
        b.iter(|| keys.iter().fold(0, |sum, key| sum ^ sip(SipHasher24::new_with_keys(1, 2), black_box(key))));
    });
    group.finish();
}

fn v6_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        v6 => v6,
    }
}

/// SipHash over the same two words that the folded hash takes for IPv4.
fn sip(mut hasher: impl Hasher, key: &FlowKey) -> u64 {
    if let (IpAddr::V4(local), IpAddr::V4(remote)) = (key.local, key.remote) {
        hasher.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
        hasher.write_u32(u32::from(key.local_port) << 16 | u32::from(key.remote_port));
    }
    hasher.finish()
}

/// Finds a burst of flows and writes to their records; `burst` keys are announced before the first is used.
fn touch(table: &FlowTable, records: &mut Records, secret: &HashKey, keys: &[FlowKey]) -> usize {
    let mut hashes = [0; BURST];
    let mut homes = [None; BURST];
    for ((hash, home), key) in hashes.iter_mut().zip(&mut homes).zip(keys) {
        *hash = secret.index_hash(key);
        *home = Some(table.prefetch(*hash));
    }
    for (hash, home) in hashes.iter().zip(homes.into_iter().flatten()) {
        if let Some(candidate) = table.candidate(*hash, home) {
            records.prefetch(candidate.handle());
        }
    }
    let mut found = 0;
    for (hash, key) in hashes.iter().zip(keys) {
        let is_it = |_, handle| records.get(handle).is_some_and(|record| is_record(record, key));
        if let Some((_, handle)) = table.find(*hash, is_it)
            && let Some(record) = records.get_mut(handle)
        {
            record.touched += 1;
            found += 1;
        }
    }
    found
}

fn lookup(c: &mut Criterion) {
    let flows = flows();
    let mut pages = HeapPages::new();
    let secret = HashKey::new([3, 4]);
    let mut table = FlowTable::with_capacity(&mut pages, flows as usize).unwrap();
    let mut records = Records::with_limit(flows);
    records.reserve(&mut pages, flows).unwrap();
    for id in 0..flows {
        let handle = records.insert(record(&key(id))).unwrap();
        table.insert(secret.index_hash(&key(id)), Kind::Connection, handle).unwrap();
    }

    let mut group = c.benchmark_group("lookup and update");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut ids = Ids(1);
    for burst in [1, 16, BURST] {
        group.bench_function(format!("flow table, bursts of {burst}"), |b| {
            b.iter_batched_ref(
                || -> Vec<FlowKey> { (0..BURST).map(|_| key(ids.below(flows))).collect() },
                |keys| {
                    let found: usize = keys.chunks(burst).map(|keys| touch(&table, &mut records, &secret, keys)).sum();
                    assert_eq!(found, BURST);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function(format!("flow table, misses in bursts of {BURST}"), |b| {
        b.iter_batched_ref(
            || -> Vec<FlowKey> { (0..BURST).map(|_| FlowKey { local_port: 81, ..key(ids.below(flows)) }).collect() },
            |keys| assert_eq!(touch(&table, &mut records, &secret, keys), 0),
            BatchSize::SmallInput,
        );
    });
    group.bench_function(format!("flow table, remove and insert in bursts of {BURST}"), |b| {
        b.iter(|| {
            let hashes: [u64; BURST] = std::array::from_fn(|_| secret.index_hash(&key(ids.below(flows))));
            for &hash in &hashes {
                table.prefetch(hash);
            }
            for hash in hashes {
                let (kind, handle) = table.find(hash, |_, _| true).unwrap();
                assert!(table.remove(hash, kind, handle));
                table.insert(hash, kind, handle).unwrap();
            }
        });
    });

    let mut map: HashMap<(u32, u32), u32> = HashMap::with_capacity(flows as usize);
    map.extend((0..flows).map(|id| (words(&key(id)), id)));
    group.bench_function("hashbrown", |b| {
        b.iter_batched_ref(
            || -> Vec<FlowKey> { (0..BURST).map(|_| key(ids.below(flows))).collect() },
            |keys| {
                for key in keys {
                    let handle = *map.get(&words(key)).unwrap();
                    records.get_mut(handle).unwrap().touched += 1;
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    table.release(&mut pages);
    records.release(&mut pages);
}

/// What tells these flows apart, in the smallest key there can be.
fn words(key: &FlowKey) -> (u32, u32) {
    let IpAddr::V4(remote) = key.remote else { return (0, 0) };
    (remote.to_bits(), u32::from(key.local_port) << 16 | u32::from(key.remote_port))
}

/// Pauses while growing from nothing, printed.
fn growth(_: &mut Criterion) {
    let flows = flows();
    let secret = HashKey::new([5, 6]);
    let mut pages = HeapPages::new();
    let mut table = FlowTable::with_capacity(&mut pages, 0).unwrap();
    let mut records = Records::with_limit(flows);
    let mut pauses = Vec::new();
    let mut bytes_worst: f64 = 0.0;
    for first in (0..flows).step_by(BURST) {
        let start = Instant::now();
        records.reserve(&mut pages, BURST as u32).unwrap();
        table.maintain(&mut pages);
        for id in first..(first + BURST as u32).min(flows) {
            let handle = records.alloc().unwrap();
            table.insert(secret.index_hash(&key(id)), Kind::Connection, handle).unwrap();
        }
        pauses.push(start.elapsed().as_nanos() as u64);
        if first > 100_000 {
            bytes_worst = bytes_worst.max(table.bytes() as f64 / table.len() as f64);
        }
    }
    report("flow table and slab", &mut pauses);
    println!("  {:?}, {bytes_worst:.1} octets of index a flow at worst", table.stats());
    table.release(&mut pages);
    records.release(&mut pages);

    let mut map: HashMap<(u32, u32), u32> = HashMap::new();
    pauses.clear();
    for first in (0..flows).step_by(BURST) {
        let start = Instant::now();
        map.extend((first..(first + BURST as u32).min(flows)).map(|id| (words(&key(id)), id)));
        pauses.push(start.elapsed().as_nanos() as u64);
    }
    report("hashbrown", &mut pauses);
    black_box(map.len());
}

fn report(what: &str, pauses: &mut [u64]) {
    let total = pauses.iter().sum::<u64>();
    pauses.sort_unstable();
    let at = |share: f64| pauses[((pauses.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!(
        "growth of {what} in bursts of {BURST}: mean {:.1} us, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, max {:.1}",
        total as f64 / pauses.len() as f64 / 1e3,
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = hash, growth, lookup
}
criterion_main!(benches);
