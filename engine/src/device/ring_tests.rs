use super::*;
use std::thread;

fn filled(device: &mut RingDevice, number: u64) -> Option<RingFrame> {
    let mut frame = device.allocate()?;
    frame.resize(64)[..8].copy_from_slice(&number.to_be_bytes());
    Some(frame)
}

fn number_of(frame: &RingFrame) -> u64 {
    u64::from_be_bytes(frame.bytes()[..8].try_into().unwrap())
}

/// Frames at an end, wherever they are, but for those the engine holds.
fn frames_of(device: &RingDevice) -> usize {
    device.pool.len() + device.incoming.len() + device.outgoing.len()
}

#[test]
fn sizes_out_of_range_are_refused() {
    assert_eq!(pair(BURST - 1, 1522).err(), Some(RingError::TooFewFrames { frames: BURST - 1 }));
    assert_eq!(pair(BURST, 59).err(), Some(RingError::FrameBytes { frame_bytes: 59 }));
    assert_eq!(pair(BURST, 2049).err(), Some(RingError::FrameBytes { frame_bytes: 2049 }));
    assert_eq!(pair(BURST, 1522).unwrap().0.capabilities().mtu, 1500);
}

#[test]
fn nothing_leaves_before_the_doorbell_or_a_full_burst() {
    let (mut a, mut b) = pair(256, 1522).unwrap();
    let mut burst = Vec::with_capacity(BURST);
    let full = BURST as u64;
    for number in 0..full {
        let frame = filled(&mut a, number).unwrap();
        a.transmit(frame).ok().unwrap();
    }
    assert_eq!(b.receive(&mut burst), 0);
    let frame = filled(&mut a, full).unwrap();
    a.transmit(frame).ok().unwrap();
    assert_eq!(b.receive(&mut burst), BURST);
    assert!(burst.iter().map(number_of).eq(0..full));
    burst.drain(..).for_each(|frame| b.release(frame));
    a.doorbell();
    assert_eq!(b.receive(&mut burst), 1);
    assert_eq!(number_of(&burst[0]), full);
    assert_eq!((a.counters().tx_frames, a.counters().tx_bytes), (full + 1, (full + 1) * 64));
    assert_eq!((b.counters().rx_frames, b.counters().rx_bytes), (full + 1, (full + 1) * 64));
    assert_eq!(a.counters().doorbells, 0);
}

#[test]
fn bursts_are_cut_and_joined_to_the_receivers_room_in_order() {
    let (mut a, mut b) = pair(1024, 1522).unwrap();
    let mut sent = 0;
    for size in [5, 1, 40, 64, 3, 64, 17] {
        for _ in 0..size {
            let frame = filled(&mut a, sent).unwrap();
            a.transmit(frame).ok().unwrap();
            sent += 1;
        }
        a.doorbell();
    }
    let mut burst = Vec::with_capacity(10);
    let room = burst.capacity();
    let mut seen = 0;
    while b.receive(&mut burst) > 0 {
        assert!(burst.len() == room || seen + burst.len() as u64 == sent, "small bursts are joined");
        for frame in burst.drain(..) {
            assert_eq!(number_of(&frame), seen);
            seen += 1;
            b.release(frame);
        }
        assert_eq!(burst.capacity(), room);
    }
    assert_eq!(seen, sent);
}

#[test]
fn a_full_ring_refuses_and_loses_nothing() {
    let (mut a, mut b) = pair(256, 1522).unwrap();
    // One frame in each crate: the slots run out, then the burst being collected is full.
    let mut accepted = 0;
    let refused = loop {
        let frame = filled(&mut a, accepted).expect("the ring is full before the pool is empty");
        if let Err(frame) = a.transmit(frame) {
            break frame;
        }
        accepted += 1;
        a.doorbell();
    };
    assert_eq!(accepted, 16 + BURST as u64);
    assert_eq!((a.counters().tx_frames, a.counters().tx_full), (accepted, 1));
    a.release(refused);
    let mut burst = Vec::with_capacity(accepted as usize);
    while b.receive(&mut burst) > 0 {
        a.doorbell();
    }
    assert!(burst.iter().map(number_of).eq(0..accepted));
    assert_eq!(frames_of(&a) + frames_of(&b) + burst.len(), 512);
}

#[test]
fn an_exhausted_pool_is_counted() {
    let (mut a, _b) = pair(BURST, 1522).unwrap();
    let held: Vec<_> = (0..BURST).map(|_| a.allocate().unwrap()).collect();
    assert!(a.allocate().is_none());
    assert_eq!(a.counters().tx_full, 1);
    held.into_iter().for_each(|frame| a.release(frame));
    assert!(a.allocate().is_some());
}

#[test]
fn one_way_traffic_does_not_starve_the_sender() {
    let (mut a, mut b) = pair(2 * BURST, 1522).unwrap();
    let mut burst = Vec::with_capacity(64);
    let (mut sent, mut seen) = (0, 0);
    for round in 0..10_000u64 {
        a.reap();
        for _ in 0..1 + round % 64 {
            let Some(frame) = filled(&mut a, sent) else { break };
            match a.transmit(frame) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    a.release(frame);
                    break;
                }
            }
        }
        a.doorbell();
        b.reap();
        b.receive(&mut burst);
        for frame in burst.drain(..) {
            assert_eq!(number_of(&frame), seen);
            seen += 1;
            b.release(frame);
        }
    }
    assert!(sent > 250_000, "{sent} frames in 10,000 rounds");
    while b.receive(&mut burst) > 0 {}
    a.reap();
    let surplus: usize = core::iter::from_fn(|| b.out.surplus.pop()).map(|load| load.len()).sum();
    assert_eq!(frames_of(&a) + frames_of(&b) + burst.len() + surplus, 4 * BURST);
    assert_eq!([a.pool.capacity(), b.pool.capacity()], [4 * BURST; 2], "no pool had to grow");
}

#[test]
fn a_lonely_end_says_so() {
    let (mut a, b) = pair(BURST, 1522).unwrap();
    assert_eq!(a.health(), Ok(()));
    drop(b);
    assert!(a.health().unwrap_err().0.contains("other end"));
}

/// Sends numbered requests and checks that each is answered once, in order, with its number doubled.
fn client(mut device: RingDevice, count: u64) -> RingDevice {
    let mut burst = Vec::with_capacity(64);
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        device.reap();
        device.receive(&mut burst);
        let idle = burst.is_empty();
        for frame in burst.drain(..) {
            assert_eq!(number_of(&frame), 2 * answered);
            assert_eq!(frame.bytes().len(), 60 + (answered % 1000) as usize);
            answered += 1;
            device.release(frame);
        }
        for _ in 0..1 + sent % 100 {
            if sent == count {
                break;
            }
            let Some(frame) = filled(&mut device, sent) else { break };
            match device.transmit(frame) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    device.release(frame);
                    break;
                }
            }
        }
        device.doorbell();
        if idle {
            thread::yield_now();
        }
    }
    device
}

/// Answers `count` requests, each in the frame it came in.
fn server(mut device: RingDevice, count: u64) -> RingDevice {
    let mut burst = Vec::with_capacity(64);
    let mut pending: Vec<RingFrame> = Vec::with_capacity(64);
    let mut answered = 0;
    while answered < count || !device.outgoing.is_empty() {
        device.reap();
        if pending.is_empty() {
            device.receive(&mut burst);
            pending.extend(burst.drain(..).rev());
        }
        let idle = pending.is_empty();
        while let Some(mut frame) = pending.pop() {
            let number = number_of(&frame);
            assert_eq!(number, answered);
            let reply = frame.resize(60 + (number % 1000) as usize);
            reply[..8].copy_from_slice(&(2 * number).to_be_bytes());
            if let Err(mut frame) = device.transmit(frame) {
                frame.resize(64)[..8].copy_from_slice(&number.to_be_bytes());
                pending.push(frame);
                break;
            }
            answered += 1;
        }
        device.doorbell();
        if idle {
            thread::yield_now();
        }
    }
    device
}

#[test]
fn two_threads_exchange_a_million_frames_and_keep_every_buffer() {
    const COUNT: u64 = 1_000_000;
    let (a, b) = pair(512, 1522).unwrap();
    let (mut a, mut b) = thread::scope(|scope| {
        let client = scope.spawn(|| client(a, COUNT));
        let server = scope.spawn(|| server(b, COUNT));
        (client.join().unwrap(), server.join().unwrap())
    });
    for device in [&mut a, &mut b] {
        device.reap();
        device.doorbell();
    }
    a.reap();
    assert_eq!(a.counters().tx_frames, COUNT);
    assert_eq!(b.counters().rx_frames, COUNT);
    assert_eq!(b.counters().tx_bytes, a.counters().rx_bytes);
    let surplus: usize = core::iter::from_fn(|| a.out.surplus.pop()).map(|load| load.len()).sum();
    assert_eq!(frames_of(&a) + frames_of(&b) + surplus, 1024);
}
