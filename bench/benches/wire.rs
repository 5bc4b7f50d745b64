//! Frames: read, summed, written. What every packet costs before TCP looks at it and after.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use syncline_engine::wire::checksum::Sum;
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::{Ecn, Flags, MacAddr, OutSegment, ParseRules, Seq, TcpOptions, Timestamps, parse};

const PAYLOADS: [usize; 3] = [0, 64, 1448];

fn segment() -> OutSegment {
    OutSegment {
        link: Link { source: MacAddr([2, 0, 0, 0, 0, 1]), destination: MacAddr([2, 0, 0, 0, 0, 2]), vlan: None },
        source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        destination: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
        source_port: 80,
        destination_port: 40_000,
        seq: Seq(1_000_000),
        ack: Seq(2_000_000),
        flags: Flags::PSH_ACK,
        window: 512,
        urgent_pointer: 0,
        hop_limit: 64,
        dscp: 0,
        ecn: Ecn::NotCapable,
        options: TcpOptions::with_timestamps(Timestamps { value: 1234, echo: 5678 }),
    }
}

fn frames(c: &mut Criterion) {
    let segment = segment();
    let mut frame = vec![0; 2048];
    for payload in PAYLOADS {
        let len = segment.emit(&mut frame, payload).expect("the frame has room");
        let octets = frame[..len].to_vec();
        let mut group = c.benchmark_group(format!("frame with {payload} octets"));
        group.throughput(Throughput::Elements(1));
        let rules = ParseRules::default();
        group.bench_function("parse", |b| b.iter(|| parse(black_box(&octets), &rules).is_ok()));
        group.bench_function("emit", |b| {
            b.iter(|| black_box(&segment).emit_with(&mut frame, payload, |out| out.fill(7)).is_ok());
        });
        group.finish();
    }
}

fn checksum(c: &mut Criterion) {
    let octets = vec![0x5a; 1460];
    let mut group = c.benchmark_group("checksum");
    for len in [20, 64, 1460] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} octets"), |b| b.iter(|| Sum::of(black_box(&octets[..len])).checksum()));
    }
}

criterion_group!(benches, frames, checksum);
criterion_main!(benches);
