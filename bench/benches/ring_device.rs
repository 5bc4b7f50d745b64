//! Frames per second over the in-process ring: two threads, 64-byte frames whose headers are written and read.
//!
//! `cargo bench -p syncline-bench --bench ring_device [-- SECONDS]`. Needs two idle cores to mean anything.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use syncline_engine::device::ring::{self, RingDevice};
use syncline_engine::device::{BURST, Device, Frame};

const FRAMES: usize = 2048;

/// What an end does in each loop.
#[derive(Clone, Copy)]
enum Role {
    /// Sends this many new frames, drops what it receives.
    Source(usize),
    /// Drops what it receives.
    Sink,
    /// Sends what it receives back in the same frames.
    Mirror,
}

fn run(mut device: RingDevice, role: Role, stop: &AtomicBool) -> u64 {
    let mut burst = Vec::with_capacity(BURST);
    while !stop.load(Ordering::Relaxed) {
        device.reap();
        device.receive(&mut burst);
        for frame in burst.drain(..) {
            black_box(frame.bytes()[12]);
            match role {
                Role::Mirror => {
                    if let Err(frame) = device.transmit(frame) {
                        device.release(frame);
                    }
                }
                Role::Source(_) | Role::Sink => device.release(frame),
            }
        }
        if let Role::Source(count) = role {
            for _ in 0..count {
                let Some(mut frame) = device.allocate() else { break };
                frame.resize(64)[12..14].copy_from_slice(&[0x08, 0x00]);
                if let Err(frame) = device.transmit(frame) {
                    device.release(frame);
                    break;
                }
            }
        }
        device.doorbell();
    }
    device.counters().rx_frames
}

fn measure(name: &str, a: Role, b: Role, span: Duration) {
    let (end_a, end_b) = ring::pair(FRAMES, 1522).expect("the sizes are in range");
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (rx_a, rx_b) = thread::scope(|scope| {
        let a = scope.spawn(|| run(end_a, a, &stop));
        let b = scope.spawn(|| run(end_b, b, &stop));
        thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        (a.join().expect("an end panicked"), b.join().expect("an end panicked"))
    });
    let seconds = start.elapsed().as_secs_f64();
    let millions = |frames: u64| frames as f64 / seconds / 1e6;
    println!("{name:<34} A receives {:6.1} M/s, B receives {:6.1} M/s", millions(rx_a), millions(rx_b));
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1.0);
    let span = Duration::from_secs_f64(seconds);
    for burst in [1, 8, 32, 64] {
        measure(&format!("one way, bursts of {burst}"), Role::Source(burst), Role::Sink, span);
    }
    for burst in [1, 8, 32, 64] {
        measure(&format!("both ways, bursts of {burst}"), Role::Source(burst), Role::Source(burst), span);
    }
    measure("sent back in place, bursts of 32", Role::Source(32), Role::Mirror, span);
}
