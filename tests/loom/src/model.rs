//! The models: what must hold in whatever order the threads take their steps.

use core::time::Duration;

use loom::model::Builder;
use loom::thread;
use syncline_engine::device::{BURST, Device, Frame};
use syncline_engine::time::Instant;

use crate::flag::{Stop, StopFlag};
use crate::handover::Exchange;
use crate::ring::{self, RingDevice, RingFrame};
use crate::snapshot::{Control, Phase, Recorder};
use crate::stats::Counter;
use crate::sync::Arc;

/// Walks through all orders, or through those in which threads are interrupted `preemptions` times at most.
fn walk(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// A count that one thread writes: no increment is lost, and a reader never sees it go back. Nor does a reader that was
/// told of the last increment by other means miss one.
pub fn counters() {
    walk(None, || {
        let counter = Arc::new(Counter::default());
        let writer = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || {
                counter.increment();
                counter.add(2);
                counter.increment();
            })
        };
        let (early, late) = (counter.get(), counter.get());
        assert!(early <= late && [0, 1, 3, 4].contains(&late), "{early}, {late}");
        writer.join().unwrap();
        assert_eq!(counter.get(), 4);
    });
}

/// Two workers hand frames to a third, which takes them meanwhile: each arrives once, whole, and in its sender's order.
pub fn parcels() {
    // Three threads over four queues: three interruptions, all orders are too many.
    walk(Some(3), || {
        let [first, second, taker]: [Exchange; 3] = Exchange::among(3, 2, 8, None).try_into().ok().unwrap();
        let senders = [(first, 1), (second, 2)].map(|(place, from)| {
            thread::spawn(move || (0..2).filter(|&number| place.hand_over(2, &[from, number])).count())
        });
        let mut taken = Vec::new();
        take(&taker, 2, &mut taken);
        let handed: usize = senders.map(|sender| sender.join().unwrap()).into_iter().sum();
        take(&taker, 5, &mut taken);
        assert_eq!(taken.len(), handed, "none is lost, none comes twice");
        for from in [1, 2] {
            let numbers: Vec<_> = taken.iter().filter(|frame| frame[0] == from).map(|frame| frame[1]).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        }
        assert!(handed >= 2, "there is room for two in any case");
    });
}

/// Two workers hand frames to each other and there are fewer parcels than frames: what is refused is said to be, no parcel
/// is lost, and afterwards there is room for as many as at the start.
pub fn parcels_run_out() {
    walk(Some(3), || {
        let [here, there]: [Exchange; 2] = Exchange::among(2, 1, 8, None).try_into().ok().unwrap();
        let other = thread::spawn(move || {
            let handed = (0..2).filter(|&number| there.hand_over(0, &[number])).count();
            let mut taken = Vec::new();
            take(&there, 2, &mut taken);
            (there, handed, taken.len())
        });
        let handed = (0..2).filter(|&number| here.hand_over(1, &[number])).count();
        let mut taken = Vec::new();
        take(&here, 2, &mut taken);
        let (there, handed_back, mut taken_there) = other.join().unwrap();
        let mut rest = Vec::new();
        take(&there, 2, &mut rest);
        taken_there += rest.len();
        take(&here, 2, &mut taken);
        assert_eq!((taken.len(), taken_there), (handed_back, handed));
        assert!(here.hand_over(1, &[7]) && there.hand_over(0, &[7]), "both parcels are still there");
    });
}

fn take(place: &Exchange, times: usize, taken: &mut Vec<Vec<u8>>) {
    for _ in 0..times {
        let mut frame = [0; 8];
        if let Some(len) = place.take(&mut frame) {
            taken.push(frame[..len].to_vec());
        }
    }
}

/// Frames at each end of a ring: the fewest there can be.
const FRAMES: usize = BURST;

/// One end sends bursts, the other takes them, answers and sends home what it has too many of. Frames arrive once and in
/// order, and in the end every buffer is in a pool.
pub fn ring() {
    // A pass of a loop asks four queues: two interruptions.
    walk(Some(2), || {
        let (mut a, mut b) = ring::pair(FRAMES, 60).unwrap();
        let other = thread::spawn(move || {
            let mut seen = Vec::new();
            for _ in 0..2 {
                b.reap();
                receive(&mut b, &mut seen);
                b.doorbell();
            }
            (b, seen)
        });
        for number in 0..FRAMES as u8 {
            send(&mut a, number);
        }
        a.doorbell();
        a.reap();
        send(&mut a, FRAMES as u8);
        a.doorbell();
        let (mut b, mut seen) = other.join().unwrap();
        // What is under way comes home within two passes of either end.
        for _ in 0..2 {
            b.reap();
            receive(&mut b, &mut seen);
            a.reap();
            a.doorbell();
        }
        assert!(seen.len() >= FRAMES && seen.iter().copied().eq(0..seen.len() as u8), "{seen:?}");
        assert_eq!(a.free_frames() + b.free_frames(), 2 * FRAMES);
    });
}

fn send(device: &mut RingDevice, number: u8) -> bool {
    let Some(mut frame) = device.allocate() else { return false };
    frame.resize(60)[0] = number;
    device.transmit(frame).map_err(|frame: RingFrame| device.release(frame)).is_ok()
}

fn receive(device: &mut RingDevice, seen: &mut Vec<u8>) {
    let mut burst = Vec::with_capacity(FRAMES);
    device.receive(&mut burst);
    for frame in burst {
        seen.push(frame.bytes()[0]);
        device.release(frame);
    }
}

/// An end whose other end is gone is told so, and not before.
pub fn ring_end_is_missed() {
    walk(None, || {
        let (mut a, b) = ring::pair(FRAMES, 60).unwrap();
        let gone = thread::spawn(move || drop(b));
        let _ = a.health();
        gone.join().unwrap();
        assert!(a.health().is_err());
    });
}

/// The last worker to find its way sets the start: one start, the same for all, after everybody was ready.
pub fn start_of_a_run() {
    walk(None, || {
        let control = Arc::new(Control::new(2));
        let ready = Arc::new([Counter::default(), Counter::default()]);
        let worker = |number: usize, at: u64| {
            let (control, ready) = (Arc::clone(&control), Arc::clone(&ready));
            move || {
                ready[number].increment();
                control.arrive(Instant::from_millis(at));
                let started = control.started_at();
                if started.is_some() {
                    // Seen with the start: all that the others did before they were ready.
                    assert_eq!([ready[0].get(), ready[1].get()], [1, 1]);
                }
                started
            }
        };
        let other = thread::spawn(worker(1, 9));
        let mine = worker(0, 5)();
        let others = other.join().unwrap();
        let start = control.started_at().expect("both are there");
        assert!([mine, others].iter().flatten().all(|&seen| seen == start));
        assert!([Instant::from_millis(6), Instant::from_millis(10)].contains(&start), "{start:?}");
    });
}

/// Whoever sees that all are through sees all that they counted.
pub fn end_of_a_run() {
    walk(None, || {
        let control = Arc::new(Control::new(2));
        let counters = Arc::new([Counter::default(), Counter::default()]);
        let workers = [0, 1].map(|number: usize| {
            let (control, counters) = (Arc::clone(&control), Arc::clone(&counters));
            thread::spawn(move || {
                counters[number].add(3);
                control.leave();
            })
        });
        control.stop();
        assert!(control.stopped());
        if control.is_done() {
            assert_eq!([counters[0].get(), counters[1].get()], [3, 3]);
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(control.is_done());
    });
}

/// A worker sends snapshots while another thread reads them: in the end each launch was counted once, in spans that
/// follow on each other.
pub fn snapshots() {
    walk(Some(3), || {
        let mut recorder = Recorder::new(1, 1);
        recorder.begin(Instant::from_millis(10), Phase::Sustain);
        let mailbox = recorder.mailbox();
        let worker = thread::spawn(move || {
            for second in 1..=2u64 {
                recorder.current.sustain.tally.attempted += 1;
                recorder.send(Instant::from_millis(10 + 1_000 * second), Phase::Sustain);
            }
            recorder
        });
        let (mut attempted, mut end) = (0, Instant::from_millis(10));
        let mut read = || {
            mailbox.read(|snapshot| {
                assert_eq!(snapshot.from, end);
                attempted += snapshot.sustain.tally.attempted;
                end = snapshot.to;
            })
        };
        read();
        read();
        let mut recorder = worker.join().unwrap();
        while read() {}
        // With everything read there is a box for the last one.
        recorder.current.sustain.tally.attempted += 1;
        assert!(recorder.send(Instant::from_millis(5_000), Phase::Done));
        while read() {}
        assert_eq!((attempted, end), (3, Instant::from_millis(5_000)));
        assert_eq!(end.since(Instant::from_millis(10)), Duration::from_millis(4_990));
    });
}

/// Signals and others raise the wish to stop at the same time: it only grows, and nobody's wish is lost.
pub fn stop() {
    walk(None, || {
        let flag = StopFlag::new();
        let signals = {
            let flag = flag.clone();
            thread::spawn(move || {
                flag.escalate();
                flag.escalate();
            })
        };
        let other = {
            let flag = flag.clone();
            thread::spawn(move || {
                flag.raise(Stop::Drain);
                assert!(flag.get() >= Stop::Drain);
            })
        };
        let (early, late) = (flag.get(), flag.get());
        assert!(early <= late);
        signals.join().unwrap();
        assert_eq!(flag.get(), Stop::Now, "two signals");
        other.join().unwrap();
        assert_eq!(flag.get(), Stop::Now);
    });
}
