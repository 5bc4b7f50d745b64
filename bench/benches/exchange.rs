//! Whole exchanges between two engines in one thread: both ends, without a kernel, a clock or another core.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use syncline_bench::exchange;

const CONNECTIONS: u64 = 1000;
const SEGMENTS: u64 = 1000;

fn exchanges(c: &mut Criterion) {
    let mut group = c.benchmark_group("both ends");

    group.throughput(Throughput::Elements(CONNECTIONS));
    let mut pair = exchange::connections(256);
    group.bench_function("connection: handshake, request, response, close", |b| {
        b.iter(|| exchange::run_connections(&mut pair, CONNECTIONS));
    });

    group.throughput(Throughput::Elements(SEGMENTS));
    let mut pair = exchange::bulk();
    group.bench_function("data segment", |b| b.iter(|| exchange::run_segments(&mut pair, SEGMENTS)));
}

criterion_group!(benches, exchanges);
criterion_main!(benches);
