use super::super::fault::{Faults, GilbertElliott, Probability};
use super::*;
use core::time::Duration;

/// A TCP frame over IPv4 with the ports `source` and 80, whose payload is `number`. The sequence numbers are its complement, so
/// that no single bit makes one frame another.
fn tcp_frame(source: u16, number: u64) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(source.to_be_bytes());
    frame.extend([0, 80]);
    frame.extend((!number).to_be_bytes());
    frame.resize(54, 0);
    frame.extend(number.to_be_bytes());
    frame
}

fn number_of(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[54..62].try_into().unwrap())
}

fn send(device: &mut LinkDevice, bytes: &[u8]) {
    let mut frame = device.allocate().unwrap();
    frame.resize(bytes.len()).copy_from_slice(bytes);
    device.transmit(frame).unwrap();
}

/// Takes and releases all that has arrived, and returns it.
fn take(device: &mut LinkDevice) -> Vec<Vec<u8>> {
    let mut burst = Vec::with_capacity(8);
    let mut out = Vec::new();
    while device.receive(&mut burst) > 0 {
        for frame in burst.drain(..) {
            out.push(frame.bytes().to_vec());
            device.release(frame);
        }
    }
    out
}

/// Sends `count` frames from A, one a microsecond, lets all arrive and returns what did.
fn run(config: LinkConfig, seed: u64, count: u64) -> (Link, Vec<(Instant, Vec<u8>)>) {
    let (link, mut a, mut b) = Link::pair(config, seed);
    let mut arrived = Vec::new();
    for number in 0..count {
        let now = Instant::from_micros(number);
        link.set_now(now);
        send(&mut a, &tcp_frame(1, number));
        arrived.extend(take(&mut b).into_iter().map(|frame| (now, frame)));
    }
    while let Some(at) = link.next_event() {
        link.set_now(at);
        arrived.extend(take(&mut b).into_iter().map(|frame| (link.now(), frame)));
    }
    (link, arrived)
}

fn rough() -> LinkConfig {
    LinkConfig::symmetric(PathConfig {
        delay: Duration::from_micros(300),
        jitter: Duration::from_micros(50),
        reorder_delay: Duration::from_micros(20),
        faults: Faults {
            loss: Probability::percent(5),
            burst_loss: Some(GilbertElliott {
                enter: Probability::percent(1),
                leave: Probability::percent(20),
                loss_good: Probability::NEVER,
                loss_bad: Probability::ALWAYS,
            }),
            duplicate: Probability::percent(2),
            corrupt: Probability::percent(1),
            reorder: Probability::percent(5),
            frame_bytes_max: None,
        },
        ..PathConfig::default()
    })
}

#[test]
fn a_perfect_link_delivers_everything_in_order_and_at_once() {
    let (link, mut a, mut b) = Link::pair(LinkConfig::default(), 1);
    for number in 0..20 {
        send(&mut a, &tcp_frame(1, number));
    }
    assert_eq!(link.next_event(), Some(Instant::ZERO));
    let numbers: Vec<u64> = take(&mut b).iter().map(|frame| number_of(frame)).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert_eq!(take(&mut a), Vec::<Vec<u8>>::new(), "nothing comes back");
    assert_eq!(a.counters().tx_frames, 20);
    assert_eq!(a.counters().tx_bytes, 20 * 62);
    assert_eq!(b.counters().rx_frames, 20);
    assert_eq!(b.counters().rx_bytes, 20 * 62);
    assert_eq!(link.free_frames(), LinkConfig::default().frames);
}

#[test]
fn a_frame_is_not_seen_before_its_time() {
    let path = PathConfig { delay: Duration::from_millis(3), ..PathConfig::default() };
    let (link, mut a, mut b) = Link::pair(LinkConfig::symmetric(path), 1);
    send(&mut a, &tcp_frame(1, 0));
    link.set_now(Instant::from_nanos(2_999_999));
    assert!(take(&mut b).is_empty());
    assert_eq!(link.next_event(), Some(Instant::from_millis(3)));
    link.set_now(Instant::from_millis(3));
    assert_eq!(take(&mut b).len(), 1);
    assert_eq!(link.next_event(), None);
}

#[test]
fn a_reply_is_built_in_the_frame_that_asked() {
    let (_link, mut a, mut b) = Link::pair(LinkConfig { frames: 1, ..LinkConfig::default() }, 1);
    send(&mut a, &tcp_frame(1, 7));
    assert!(a.allocate().is_none(), "the only frame is on the way");
    assert_eq!(a.counters().tx_full, 1);
    let mut burst = Vec::with_capacity(4);
    assert_eq!(b.receive(&mut burst), 1);
    b.transmit(burst.pop().unwrap()).unwrap();
    assert_eq!(number_of(&take(&mut a)[0]), 7);
}

#[test]
fn a_full_burst_leaves_the_rest_for_the_next() {
    let (_link, mut a, mut b) = Link::pair(LinkConfig::default(), 1);
    (0..5).for_each(|number| send(&mut a, &tcp_frame(1, number)));
    let mut burst = Vec::with_capacity(3);
    let capacity = burst.capacity();
    assert_eq!(b.receive(&mut burst), capacity.min(5));
    assert_eq!(b.receive(&mut burst), 0);
    assert_eq!(burst.capacity(), capacity);
}

#[test]
fn one_seed_gives_one_transcript() {
    let (_, first) = run(rough(), 42, 20_000);
    let (_, second) = run(rough(), 42, 20_000);
    assert!(first == second);
    let (_, other) = run(rough(), 43, 20_000);
    assert!(first != other);
}

#[test]
fn every_frame_is_accounted_for() {
    let (link, arrived) = run(rough(), 3, 50_000);
    let path = link.path_counters(End::A);
    assert_eq!(path.sent, 50_000);
    assert_eq!(path.arrived, arrived.len() as u64);
    assert_eq!(path.in_flight(), 0);
    assert_eq!(path.sent + path.duplicated, path.arrived + path.lost());
    assert_eq!(path.duplicated, path.faults.duplicated);
    assert_eq!(link.free_frames(), rough().frames);

    let intact: Vec<u64> = arrived
        .iter()
        .filter(|(_, frame)| *frame == tcp_frame(1, number_of(frame)))
        .map(|(_, f)| number_of(f))
        .collect();
    let mut distinct = intact.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() < intact.len(), "some arrived twice");
    assert!(!intact.is_sorted(), "some overtook others");
    let damaged = arrived.len() - intact.len();
    // A corrupted frame that is also duplicated arrives damaged twice.
    assert!((path.faults.corrupted..path.faults.corrupted + 50).contains(&(damaged as u64)), "{damaged} damaged");
    for (_, frame) in &arrived {
        assert_eq!(frame[..14], tcp_frame(1, 0)[..14], "the Ethernet header is never damaged");
    }
}

#[test]
fn the_tap_sees_what_was_sent_lost_and_taken() {
    let seen = Rc::new(RefCell::new([0u64; 3]));
    let (link, mut a, mut b) = Link::pair(rough(), 9);
    let counts = Rc::clone(&seen);
    link.set_tap(move |_at: Instant, from: End, event: WireEvent, frame: &[u8]| {
        assert_eq!((from, frame.len()), (End::A, 62));
        let slot = match event {
            WireEvent::Sent => 0,
            WireEvent::Lost(_) => 1,
            WireEvent::Arrived => 2,
        };
        counts.borrow_mut()[slot] += 1;
    });
    (0..1000).for_each(|number| send(&mut a, &tcp_frame(1, number)));
    while let Some(at) = link.next_event() {
        link.set_now(at);
        take(&mut b);
    }
    let path = link.path_counters(End::A);
    assert_eq!(*seen.borrow(), [path.sent, path.lost(), path.arrived]);
    assert!(path.lost() > 0);
}

#[test]
fn flows_spread_over_hashed_queues_and_stay_there() {
    let rss = Rss::new(4);
    let (_link, mut a, mut b) = Link::with_queues(LinkConfig::default(), 1, Rss::new(1), rss.clone());
    assert_eq!((a.len(), b.len()), (1, 4));
    for port in 0..400 {
        send(&mut a[0], &tcp_frame(port, 0));
        send(&mut a[0], &tcp_frame(port, 1));
    }
    for (queue, device) in b.iter_mut().enumerate() {
        let frames = take(device);
        assert!(frames.len() > 100, "queue {queue} got {}", frames.len());
        for frame in frames {
            assert_eq!(usize::from(rss.queue_of_frame(&frame)), queue);
        }
    }
}
