//! The timer wheel under the operations a connection makes of it.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use syncline_engine::timer_wheel::{Link, Links, TimerWheel};

/// A million connections, each link in a cache line of its own as in a connection's block.
const RECORDS: u32 = 1 << 20;
const OPERATIONS: u32 = 1024;

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Record(Link);

struct Records(Vec<Record>);

impl Links for Records {
    fn link(&self, id: u32) -> &Link {
        &self.0[id as usize].0
    }

    fn link_mut(&mut self, id: u32) -> &mut Link {
        &mut self.0[id as usize].0
    }
}

/// The identity of operation `turn`: jumps about, and comes back to each record.
fn id(turn: u32) -> u32 {
    turn.wrapping_mul(0x9E37_79B1) % RECORDS
}

fn timers(c: &mut Criterion) {
    let mut group = c.benchmark_group("timer wheel");
    group.throughput(Throughput::Elements(OPERATIONS.into()));

    let mut records = Records(vec![Record::default(); RECORDS as usize]);
    let mut wheel = TimerWheel::new(0);
    for id in 0..RECORDS {
        wheel.schedule(&mut records, id, 200 + id % 800);
    }
    let mut turn = 0;
    group.bench_function("put off (an acknowledgment)", |b| {
        b.iter(|| {
            for _ in 0..OPERATIONS {
                turn += 1;
                wheel.schedule(&mut records, id(turn), 2_000 + turn % 256);
            }
        });
    });
    group.bench_function("cancel and schedule", |b| {
        b.iter(|| {
            for _ in 0..OPERATIONS {
                turn += 1;
                wheel.cancel(&mut records, id(turn));
                wheel.schedule(&mut records, id(turn), 200 + turn % 800);
            }
        });
    });

    let mut now_ms = 0;
    group.bench_function("fire and schedule again", |b| {
        b.iter(|| {
            let mut fired = 0;
            while fired < OPERATIONS {
                let mut budget = 64;
                while let Some(id) = wheel.pop_expired(&mut records, now_ms, &mut budget) {
                    wheel.schedule(&mut records, id, now_ms.wrapping_add(200 + id % 800));
                    fired += 1;
                }
                if budget > 0 {
                    now_ms = now_ms.wrapping_add(1);
                }
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = timers
}
criterion_main!(benches);
