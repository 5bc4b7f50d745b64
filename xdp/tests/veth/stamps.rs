//! The time that the XDP program puts before each frame, on real veth pairs.

use std::thread;
use std::time::Duration;

use crate::support::{A, B, Bed, privileged, receive, write_packet};
use rustix::time::{ClockId, clock_gettime};
use syncline_engine::device::{Device, Frame};
use syncline_xdp::{Mode, ModeChoice, Options, XdpDevice};

/// The system's monotonic clock, nanoseconds.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn options(end: usize, mode: ModeChoice, stamps: bool) -> Options {
    // Few buffers: each serves many times.
    Options { mode, stamps, frames: 512, receive_ring: 64, transmit_ring: 64, ..Bed::options(end) }
}

/// Sends `count` frames and rings. When that began, and when it was over.
fn send(from: &mut XdpDevice, to: [u8; 6], count: usize) -> (u64, u64) {
    let begin = now();
    from.reap();
    for _ in 0..count {
        let mut frame = from.allocate().unwrap();
        write_packet(&mut frame, from, to, [A, B], 1, 60);
        from.transmit(frame).unwrap();
    }
    from.doorbell();
    (begin, now())
}

fn stamps_lie_between_the_sending_and_the_reading(mode: ModeChoice, expected: Mode) {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_a_interface, mut a) = bed.open(options(0, mode, false), 0).unwrap();
    let (b_interface, mut b) = bed.open(options(1, mode, true), 1).unwrap();
    assert_eq!(b_interface.mode(), expected);
    bed.within(0, || {
        // Where it can, a burst leaves by the program.
        a.health().unwrap();
        assert_eq!(a.sends_live(), expected == Mode::Native);
        let mut last = 0;
        for round in 0..1_000 {
            let count = if round % 10 == 0 { 48 } else { 1 };
            let (begin, _) = send(&mut a, b.capabilities().mac, count);
            let frames = receive(&mut b, count);
            let end = now();
            assert_eq!(frames.len(), count, "round {round}");
            for frame in frames {
                let stamp = frame.stamp().expect("there is room before a frame of a veth");
                assert!(begin.max(last) <= stamp && stamp <= end, "round {round}: {begin} {last} {stamp} {end}");
                last = stamp;
                b.release(frame);
            }
        }
    });
}

#[test]
fn stamps_lie_between_the_sending_and_the_reading_in_native_mode() {
    stamps_lie_between_the_sending_and_the_reading(ModeChoice::Native, Mode::Native);
}

#[test]
fn stamps_lie_between_the_sending_and_the_reading_in_generic_mode() {
    stamps_lie_between_the_sending_and_the_reading(ModeChoice::Skb, Mode::Skb);
}

#[test]
fn what_is_read_late_still_has_the_stamp_of_its_arrival() {
    const LATE: Duration = Duration::from_millis(50);
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    for mode in [ModeChoice::Native, ModeChoice::Skb] {
        let (_a_interface, mut a) = bed.open(options(0, mode, false), 0).unwrap();
        let (_b_interface, mut b) = bed.open(options(1, mode, true), 1).unwrap();
        let (begin, sent) = send(&mut a, b.capabilities().mac, 3);
        thread::sleep(LATE);
        for frame in receive(&mut b, 3) {
            let stamp = frame.stamp().unwrap();
            // The kernel may put the delivery off a little.
            assert!(begin <= stamp && stamp < sent + 40_000_000, "{mode:?}: {begin} {sent} {stamp}");
            b.release(frame);
        }
        assert!(now() >= sent + LATE.as_nanos() as u64);
    }
}

#[test]
fn what_a_kernel_sends_is_stamped_as_well() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_interface, mut a) = bed.open(options(0, ModeChoice::Native, true), 0).unwrap();
    let mac = a.capabilities().mac.map(|octet| format!("{octet:02x}")).join(":");
    let device = Bed::device_name(1);
    bed.run(1, &format!("ip addr add 10.77.0.2/24 dev {device}"));
    bed.run(1, &format!("ip neigh replace {A} lladdr {mac} dev {device}"));
    let begin = now();
    bed.within(1, || std::net::UdpSocket::bind("10.77.0.2:9").unwrap().send_to(&[7; 900], (A, 9))).unwrap();
    let frames = receive(&mut a, 1);
    let end = now();
    let frame = frames.into_iter().next().expect("the datagram came");
    assert!(frame.bytes().ends_with(&[7; 900]), "the stamp is no part of the frame");
    let stamp = frame.stamp().unwrap();
    assert!(begin <= stamp && stamp <= end, "{begin} {stamp} {end}");
    a.release(frame);
}

#[test]
fn nobody_is_told_what_was_not_asked_for() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_a_interface, mut a) = bed.open(options(0, ModeChoice::Auto, true), 0).unwrap();
    let (_b_interface, mut b) = bed.open(options(1, ModeChoice::Auto, false), 1).unwrap();
    send(&mut a, b.capabilities().mac, 8);
    for frame in receive(&mut b, 8) {
        assert_eq!(frame.stamp(), None);
        b.release(frame);
    }
    assert_eq!(a.allocate().unwrap().stamp(), None, "an empty buffer did not arrive");
}
