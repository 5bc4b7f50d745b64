//! The device on real veth pairs, in namespaces of their own.

mod stamps;
mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use support::{A, B, Bed, privileged, receive, sh, write_packet};
use syncline_engine::device::{Device, Frame};
use syncline_xdp::{Mode, ModeChoice, OpenError, Options, TransmitChoice, XdpDevice, ZerocopyChoice};

fn frames_cross_both_ways(mode: ModeChoice, expected: Mode) {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let open = |end| {
        let mut options = Bed::options(end);
        options.mode = mode;
        bed.open(options, end).unwrap()
    };
    let (a_interface, mut a) = open(0);
    let (b_interface, mut b) = open(1);
    assert_eq!((a_interface.mode(), b_interface.mode()), (expected, expected));
    assert_eq!(a_interface.driver(), "veth");
    assert!(a.capabilities().partial_checksum);

    for round in 0..200u8 {
        for addresses in [[A, B], [B, A]] {
            let (from, to) = if addresses[0] == A { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let to_mac = to.capabilities().mac;
            for index in 0..16 {
                let mut frame = from.allocate().unwrap();
                let len = [60, 61, 590, 1514][index % 4];
                write_packet(&mut frame, from, to_mac, addresses, round ^ index as u8, len);
                from.transmit(frame).unwrap();
            }
            from.doorbell();
            let frames = receive(to, 16);
            assert_eq!(frames.len(), 16, "round {round}");
            for (index, frame) in frames.into_iter().enumerate() {
                let octets = frame.bytes();
                assert_eq!(octets.len(), [60, 61, 590, 1514][index % 4]);
                assert_eq!(octets[..6], to_mac);
                assert!(octets[34..].iter().all(|&octet| octet == round ^ index as u8), "content of frame {index}");
                to.release(frame);
            }
        }
    }
    for device in [&a, &b] {
        let counters = device.counters();
        assert_eq!((counters.tx_frames, counters.rx_frames), (3200, 3200));
        assert_eq!((counters.rx_dropped, counters.tx_dropped, counters.tx_full), (0, 0, 0));
        assert_eq!(counters.tx_bytes, 800 * (60 + 61 + 590 + 1514));
    }
    assert_eq!(a_interface.program_counters().no_socket, 0);
}

#[test]
fn frames_cross_both_ways_in_native_mode() {
    frames_cross_both_ways(ModeChoice::Native, Mode::Native);
}

#[test]
fn frames_cross_both_ways_in_generic_mode() {
    frames_cross_both_ways(ModeChoice::Skb, Mode::Skb);
}

#[test]
fn a_received_frame_becomes_its_reply() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_a_interface, mut a) = bed.open(Bed::options(0), 0).unwrap();
    let (_b_interface, mut b) = bed.open(Bed::options(1), 1).unwrap();
    // More round trips than there are buffers: each comes back to the free list, at both ends.
    for round in 0..20_000u32 {
        let mut frame = a.allocate().expect("a buffer was lost");
        write_packet(&mut frame, &a, b.capabilities().mac, [A, B], 0, 60);
        frame.bytes_mut()[34..38].copy_from_slice(&round.to_be_bytes());
        a.transmit(frame).unwrap();
        a.doorbell();
        let mut request = receive(&mut b, 1).pop().expect("the request came");
        assert_eq!(request.bytes()[34..38], round.to_be_bytes());
        let (destination, source) = request.bytes_mut()[..12].split_at_mut(6);
        destination.swap_with_slice(source);
        request.bytes_mut()[26..34].rotate_left(4);
        b.transmit(request).unwrap();
        b.doorbell();
        let reply = receive(&mut a, 1).pop().expect("the reply came");
        assert_eq!(reply.bytes()[34..38], round.to_be_bytes());
        a.release(reply);
    }
}

#[test]
fn other_traffic_stays_the_kernels() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (interface, mut a) = bed.open(Bed::options(0), 0).unwrap();
    let receiver = bed.within(0, || UdpSocket::bind("10.77.1.1:9000").unwrap());
    let sender = bed.within(1, || UdpSocket::bind("10.77.1.2:0").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    sender.send_to(b"hello", "10.77.1.1:9000").unwrap();
    let mut octets = [0; 16];
    assert_eq!(receiver.recv(&mut octets).unwrap(), 5, "the kernel's own traffic came through");
    assert!(receive_now(&mut a).is_empty(), "the kernel's traffic came to the engine");
    assert!(interface.program_counters().passed >= 2);

    // Towards the engine's own address the kernel asks who has it, and the engine gets the question.
    bed.run(1, "ip route add 10.77.0.1/32 dev b0 src 10.77.1.2");
    sender.send_to(b"hello", "10.77.0.1:9000").unwrap();
    let question = receive(&mut a, 1).pop().expect("an ARP request for the owned address");
    assert_eq!(question.bytes()[12..14], [8, 6]);
    assert_eq!(question.bytes()[38..42], A.octets());
    a.release(question);
}

fn receive_now(device: &mut XdpDevice) -> Vec<syncline_xdp::XdpFrame> {
    let mut frames = Vec::with_capacity(64);
    device.receive(&mut frames);
    frames
}

#[test]
fn a_full_burst_costs_one_doorbell() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_a_interface, mut a) = bed.open(Bed::options(0), 0).unwrap();
    let (_b_interface, mut b) = bed.open(Bed::options(1), 1).unwrap();
    let to = b.capabilities().mac;
    for _ in 0..100 {
        for _ in 0..64 {
            let mut frame = a.allocate().unwrap();
            write_packet(&mut frame, &a, to, [A, B], 1, 60);
            a.transmit(frame).unwrap();
        }
        a.doorbell();
        a.reap();
        for frame in receive(&mut b, 64) {
            b.release(frame);
        }
    }
    // Kernels without a transmit budget send 32 per call, and the rest at the next loop's doorbell.
    while a.counters().doorbells < 200 && b.counters().rx_frames < 6400 {
        a.doorbell();
        receive(&mut b, 64).into_iter().for_each(|frame| b.release(frame));
    }
    let counters = a.counters();
    assert_eq!(counters.tx_frames, 6400);
    assert!(counters.doorbells * 8 < counters.tx_frames, "{} doorbells", counters.doorbells);
    assert_eq!(b.counters().rx_frames, 6400);
    assert!(b.counters().doorbells == 0, "receiving needs no doorbell in copy mode");
}

/// Frames of these lengths in turn, each with its number in every octet of its payload.
const LENGTHS: [usize; 4] = [60, 61, 590, 1514];

fn send_numbered(from: &mut XdpDevice, to: [u8; 6], numbers: std::ops::Range<usize>) {
    for number in numbers {
        let mut frame = from.allocate().unwrap();
        write_packet(&mut frame, from, to, [A, B], number as u8, LENGTHS[number % 4]);
        from.transmit(frame).unwrap();
    }
    from.doorbell();
    from.reap();
}

fn receive_numbered(to: &mut XdpDevice, numbers: std::ops::Range<usize>) {
    let frames = receive(to, numbers.len());
    assert_eq!(frames.len(), numbers.len(), "{numbers:?}");
    for (number, frame) in numbers.clone().zip(frames) {
        assert_eq!(frame.bytes().len(), LENGTHS[number % 4], "frame {number} of {numbers:?}");
        assert!(frame.bytes()[34..].iter().all(|&octet| octet == number as u8), "content of frame {number}");
        to.release(frame);
    }
}

#[test]
fn a_burst_leaves_in_one_call_where_the_peer_takes_xdp_frames() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let native = |end| Options { mode: ModeChoice::Native, ..Bed::options(end) };
    let (_a_interface, mut a) = bed.open(native(0), 0).unwrap();
    let (b_interface, mut b) = bed.open(native(1), 1).unwrap();
    let to = b.capabilities().mac;
    bed.within(0, || {
        assert!(!a.sends_live(), "before it has looked");
        a.health().unwrap();
        assert!(a.sends_live(), "Linux 6.3 is needed");
        for round in 0..100 {
            // A few go over the ring, in order with the others
            for numbers in [0..8, 8..208, 208..213, 213..300] {
                send_numbered(&mut a, to, numbers.clone());
                receive_numbered(&mut b, numbers);
            }
            assert_eq!(a.counters().tx_frames, (round + 1) * 300);
            assert_eq!(a.counters().doorbells, (round + 1) * 4);
        }
        let (sent, received) = (a.counters(), b.counters());
        assert_eq!((received.rx_frames, received.rx_bytes), (30_000, sent.tx_bytes));
        assert_eq!((received.rx_dropped, sent.tx_dropped, sent.tx_full), (0, 0, 0));
        // Every chunk came back
        let mut held = Vec::new();
        held.extend(std::iter::from_fn(|| a.allocate()));
        assert!(held.len() >= 8_192, "{} chunks are left", held.len());
        held.into_iter().for_each(|frame| a.release(frame));
    });
    drop((b_interface, b));

    let generic = Options { mode: ModeChoice::Skb, ..Bed::options(1) };
    let (_b_interface, mut b) = bed.open(generic, 1).unwrap();
    bed.within(0, || {
        // It looks once a second
        let changed = Instant::now();
        while a.sends_live() && changed.elapsed() < Duration::from_secs(3) {
            a.health().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!a.sends_live(), "a peer in generic mode takes no XDP frames");
        send_numbered(&mut a, to, 0..200);
        receive_numbered(&mut b, 0..200);
    });
}

#[test]
fn a_burst_does_not_leave_from_another_namespace_nor_where_it_is_not_wanted() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let options = |end, transmit| Options { mode: ModeChoice::Native, transmit, ..Bed::options(end) };
    let (_a_interface, mut a) = bed.open(options(0, TransmitChoice::Auto), 0).unwrap();
    let (_b_interface, mut b) = bed.open(options(1, TransmitChoice::Ring), 1).unwrap();
    // There, the device's number may be another one's.
    a.health().unwrap();
    assert!(!a.sends_live());
    let to = b.capabilities().mac;
    send_numbered(&mut a, to, 0..200);
    receive_numbered(&mut b, 0..200);
    bed.within(1, || b.health().unwrap());
    assert!(!b.sends_live());
}

#[test]
fn frames_outlive_their_device_and_the_queue_is_free_again() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (interface, mut device) = bed.open(Bed::options(0), 0).unwrap();
    let mut frame = device.allocate().unwrap();
    frame.resize(100).fill(7);
    drop((interface, device));
    assert!(frame.bytes().iter().all(|&octet| octet == 7));
    let (_interface, mut device) = bed.open(Bed::options(0), 0).expect("the queue is free again");
    // A frame of another device is not taken.
    assert!(device.transmit(frame).is_err());
}

#[test]
fn a_second_opener_is_told_who_has_the_queue() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let held = bed.open(Bed::options(0), 0).unwrap();
    let Err(error) = bed.open(Bed::options(0), 0) else { panic!("opened twice") };
    assert!(matches!(error, OpenError::QueueBusy { .. }), "{error}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    assert_eq!(error.exit_code(), 3);
    drop(held);
    assert!(!bed.attached(0));
    bed.open(Bed::options(0), 0).expect("free after the holder is gone");
}

#[test]
fn every_refusal_names_the_mend() {
    if !privileged() {
        return;
    }
    let bed = Bed::with_queues(2);
    let refused = |options| match bed.open(options, 0) {
        Ok(_) => panic!("opened"),
        Err(error) => (error.to_string(), error.exit_code()),
    };
    let mut options = Bed::options(0);
    options.interface = "nonesuch0".to_owned();
    let (text, code) = refused(options);
    assert!(text.contains("nonesuch0") && text.contains("a0") && code == 3, "{text}");

    let (text, code) = refused(Bed::options(0));
    assert!(text.contains("2 queues") && text.contains("ethtool -L a0") && code == 3, "{text}");

    let mut two = Bed::options(0);
    two.queues = 2;
    let mut three = two.clone();
    three.queues = 3;
    let (text, code) = refused(three);
    assert!(text.contains("2 receive queues") && code == 3, "{text}");

    let mut zerocopy = two.clone();
    zerocopy.zerocopy = ZerocopyChoice::On;
    let (text, code) = refused(zerocopy);
    assert!(text.contains("zero-copy") && text.contains("--zerocopy auto") && code == 3, "{text}");

    let mut small = two.clone();
    small.chunk_bytes = Some(2048);
    bed.run(0, "ip link set a0 mtu 3000");
    let (text, code) = refused(small);
    assert!(text.contains("mtu 1774") && code == 3, "{text}");
    bed.run(0, "ip link set a0 mtu 9000");
    let (text, code) = refused(two.clone());
    assert!(text.contains("mtu 3822") && code == 3, "{text}");
    bed.run(0, "ip link set a0 mtu 1500");

    bed.run(0, "ip route add default dev a0");
    let (text, code) = refused(two.clone());
    assert!(text.contains("default route") && text.contains("--allow-default-route") && code == 2, "{text}");
    let mut allowed = two.clone();
    allowed.allow_default_route = true;
    drop(bed.open(allowed, 0).unwrap());
    bed.run(0, "ip route del default dev a0");

    bed.run(0, "ip link set a0 down");
    let (text, code) = refused(two);
    assert!(text.contains("ip link set a0 up") && code == 3, "{text}");
}

#[test]
fn every_queue_gets_its_frames() {
    if !privileged() {
        return;
    }
    let bed = Bed::with_queues(2);
    let open = |end| {
        let mut options = Bed::options(end);
        options.queues = 2;
        bed.within(end, || {
            let mut interface = syncline_xdp::Interface::open(options).unwrap();
            let devices = [interface.queue(0).unwrap(), interface.queue(1).unwrap()];
            assert!(interface.queue(1).is_err(), "a queue is handed out once");
            (interface, devices)
        })
    };
    let (_a_interface, mut a) = open(0);
    let (_b_interface, mut b) = open(1);
    for queue in [0, 1] {
        let to = b[queue].capabilities().mac;
        for _ in 0..10 {
            let mut frame = a[queue].allocate().unwrap();
            write_packet(&mut frame, &a[queue], to, [A, B], queue as u8, 60);
            a[queue].transmit(frame).unwrap();
        }
        a[queue].doorbell();
        // A veth delivers to the sender's queue.
        let frames = receive(&mut b[queue], 10);
        assert_eq!(frames.len(), 10, "queue {queue}");
        assert!(frames.iter().all(|frame| frame.bytes()[34] == queue as u8));
        frames.into_iter().for_each(|frame| b[queue].release(frame));
    }
}

#[test]
fn a_removed_device_is_noticed_within_a_second() {
    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let (_interface, mut device) = bed.open(Bed::options(0), 0).unwrap();
    device.health().unwrap();
    bed.run(0, "ip link set a0 down");
    assert!(device.health().unwrap_err().0.contains("a0 went down"));
    bed.run(0, "ip link set a0 up");
    device.health().unwrap();

    bed.run(1, "ip link del b0");
    let removed = Instant::now();
    let error = loop {
        let mut burst = Vec::with_capacity(64);
        device.reap();
        device.receive(&mut burst);
        if let Some(mut frame) = device.allocate() {
            frame.resize(60).fill(0);
            if let Err(frame) = device.transmit(frame) {
                device.release(frame);
            }
        }
        device.doorbell();
        if let Err(error) = device.health() {
            break error;
        }
        assert!(removed.elapsed() < Duration::from_secs(1), "not noticed");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(error.0.contains("a0 was removed"), "{error}");
}

/// Run as a process of its own by the next test: holds an interface until it is killed.
#[test]
fn hold_an_interface() {
    let Ok(netns) = std::env::var("SYNCLINE_TEST_HOLD_NETNS") else { return };
    syncline_xdp::netns::enter(&netns).unwrap();
    let mut interface = syncline_xdp::Interface::open(Bed::options(0)).unwrap();
    let _device = interface.queue(0).unwrap();
    println!("\nholding");
    std::thread::sleep(Duration::from_secs(30));
}

#[test]
fn sigkill_leaves_nothing_behind() {
    use std::io::{BufRead, BufReader};

    if !privileged() {
        return;
    }
    let bed = Bed::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_an_interface", "--nocapture"])
        .env("SYNCLINE_TEST_HOLD_NETNS", bed.netns(0))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"), "the child did not open the interface");
    assert!(bed.attached(0));
    let Err(error) = bed.open(Bed::options(0), 0) else { panic!("opened while held") };
    assert!(error.to_string().contains(&format!("pid {}", child.id())), "{error}");

    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel takes a socket apart after the process is reaped, in its own time.
    let killed = Instant::now();
    while bed.attached(0) && killed.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!bed.attached(0), "{}", sh(&format!("ip -n {} -d link show", bed.netns(0))));
    let opened = loop {
        match bed.open(Bed::options(0), 0) {
            Ok(opened) => break opened,
            Err(error) => assert!(killed.elapsed() < Duration::from_secs(3), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(opened);
}

#[test]
fn the_bare_path_counts_what_arrives() {
    use syncline_xdp::raw::{Directions, RawOptions, run};

    if !privileged() {
        return;
    }
    let bed = Bed::new();
    for mode in [ModeChoice::Native, ModeChoice::Skb] {
        let open = |end| {
            let mut options = Bed::options(end);
            options.mode = mode;
            bed.open(options, end).unwrap()
        };
        let (_a_interface, mut a) = open(0);
        let (_b_interface, mut b) = open(1);
        let seconds: f64 = std::env::var("SYNCLINE_TEST_RAW_SECONDS").map_or(0.2, |text| text.parse().unwrap());
        for directions in [Directions::Both, Directions::OneWay] {
            for frame_bytes in [64, 1514] {
                let duration = Duration::from_secs_f64(seconds);
                let options = RawOptions { duration, frame_bytes, directions, addresses: [A, B] };
                let cores = core_affinity::get_core_ids().unwrap_or_default();
                let pin = |end: usize| {
                    if let Some(&core) = cores.get(end) {
                        core_affinity::set_for_current(core);
                    }
                };
                let report = run([&mut a, &mut b], &options, pin).unwrap();
                println!("{mode:?} {directions:?} {report:?}");
                assert!(report.frames_per_s > 0.0);
                assert_eq!(report.one_way_frames_per_s[1] > 0.0, directions == Directions::Both);
                // 64 and more of one where the machine has nothing else to do.
                assert!(report.doorbells * 2 < report.sent, "{report:?}");
            }
        }
    }
}

#[test]
fn a_kernel_peer_sends_no_frame_too_large_in_native_mode() {
    use std::io::Write;
    use std::net::TcpStream;

    if !privileged() {
        return;
    }
    // The kernel's own TCP in both namespaces, the program between them: all of it passes.
    let bed = Bed::new();
    let (interface, device) = bed.open(Bed::options(0), 0).unwrap();
    assert_eq!(interface.mode(), Mode::Native, "automatic towards a kernel");
    let listener = bed.within(0, || std::net::TcpListener::bind("10.77.1.1:9000").unwrap());
    let mut sender = bed.within(1, || TcpStream::connect("10.77.1.1:9000").unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let before = interface.program_counters().passed;
    sender.write_all(&[7; 1 << 20]).unwrap();
    drop(sender);
    assert_eq!(receiver.join().unwrap(), 1 << 20);
    // With segmentation left to the receiver a megabyte would be some twenty frames of up to 64 KiB.
    let frames = interface.program_counters().passed - before;
    assert!(frames >= (1 << 20) / 1460, "{frames} frames: larger than the MTU");
    drop(device);
}

#[test]
fn lacking_privilege_and_memory_are_named() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    if !privileged() {
        return;
    }
    let bed = Bed::new();
    // Capabilities are the thread's, and `open` works on a thread of its own.
    let without = |dropped: CapabilitySet| {
        bed.within(0, || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(dropped);
            set_capabilities(None, sets).unwrap();
            let mut interface = syncline_xdp::Interface::open(Bed::options(0))?;
            interface.queue(0).map(drop)
        })
        .unwrap_err()
    };
    let error = without(CapabilitySet::NET_RAW | CapabilitySet::BPF | CapabilitySet::SYS_ADMIN);
    assert!(error.to_string().contains("missing CAP_NET_RAW, CAP_BPF;"), "{error}");
    assert_eq!(error.exit_code(), 3);

    // The limit holds for the whole process, but only for threads without CAP_IPC_LOCK.
    let limit = Some(1 << 20);
    setrlimit(Resource::Memlock, Rlimit { current: limit, maximum: limit }).unwrap();
    let error = without(CapabilitySet::IPC_LOCK | CapabilitySet::SYS_RESOURCE);
    assert!(matches!(error, OpenError::MemoryLock { need_bytes: 33_554_432, limit_bytes: 1_048_576 }), "{error}");
    assert!(error.to_string().contains("ulimit -l") && error.exit_code() == 3, "{error}");
    assert!(!bed.attached(0));
}

#[test]
fn the_kernels_neighbours_and_routes_can_be_asked_for() {
    use std::net::IpAddr;
    use syncline_xdp::netlink;

    if !privileged() {
        return;
    }
    let bed = Bed::new();
    bed.run(0, "ip route add default via 10.77.1.2");
    bed.run(0, "ip route add 198.51.100.0/24 via 10.77.1.3 dev a0");
    bed.run(0, "ip neigh replace 10.77.1.2 lladdr 02:00:00:00:00:09 dev a0");
    bed.run(0, "ip addr add 2001:db8::1/64 dev a0 nodad");
    bed.within(0, || {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let link = netlink::links().unwrap().into_iter().find(|link| link.name == "a0").unwrap();
        assert!(link.up && link.mtu == 1500 && link.kind.as_deref() == Some("veth"), "{link:?}");
        assert_eq!(netlink::default_route_devices().unwrap(), [link.index]);
        for (destination, expected) in [
            ("10.77.1.9", Some("10.77.1.9")),
            ("198.51.100.7", Some("10.77.1.3")),
            ("203.0.113.1", Some("10.77.1.2")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("2001:db8:1::1", None),
        ] {
            assert_eq!(netlink::next_hop(link.index, ip(destination)).unwrap(), expected.map(ip), "{destination}");
        }
        let neighbor = |address| netlink::kernel_neighbor(link.index, ip(address)).unwrap();
        assert_eq!(neighbor("10.77.1.2"), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(neighbor("10.77.1.3"), None);
        let addresses = netlink::interface_addresses(link.index).unwrap();
        for (address, prefix_len) in [("10.77.1.1", 24), ("2001:db8::1", 64)] {
            assert!(addresses.iter().any(|own| own.address == ip(address) && own.prefix_len == prefix_len));
        }
    });
}
