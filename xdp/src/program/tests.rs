//! What the program takes and what it leaves, asked of the kernel, which runs it on one frame (`BPF_PROG_TEST_RUN`).

use aya::programs::{TestRun, TestRunOptions};

use super::*;

fn v4(first: &str, last: &str) -> AddressRange {
    AddressRange::V4(first.parse().unwrap(), last.parse().unwrap())
}

#[test]
fn neighbouring_and_overlapping_ranges_become_one() {
    let claim = Claim::Owned(vec![
        v4("10.0.1.0", "10.0.1.255"),
        v4("10.0.0.0", "10.0.0.255"),
        v4("10.0.1.128", "10.1.255.255"),
        v4("192.0.2.1", "192.0.2.1"),
    ]);
    let config = ProgramConfig::new(&claim, Some(7)).unwrap();
    assert_eq!((config.range4_count, config.range6_count, config.vlan_id, config.shared), (2, 0, 7, 0));
    assert_eq!((config.range4[0].first, config.range4[0].last), (0x0a00_0000, 0x0a01_ffff));
}

#[test]
fn the_whole_of_ipv6_is_one_range() {
    let all = AddressRange::V6(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX));
    let config = ProgramConfig::new(&Claim::Owned(vec![all, all]), None).unwrap();
    assert_eq!(config.range6_count, 1);
    assert_eq!((config.range6[0].last_high, config.range6[0].last_low), (u64::MAX, u64::MAX));
}

#[test]
fn more_ranges_than_the_program_holds_are_refused() {
    let every_other = |count: u32| {
        Claim::Owned((0..count).map(|i| std::net::IpAddr::V4(Ipv4Addr::from_bits(i * 2)).into()).collect())
    };
    assert!(ProgramConfig::new(&every_other(RANGES_MAX as u32), None).is_ok());
    let error = ProgramConfig::new(&every_other(RANGES_MAX as u32 + 1), None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn nonsense_is_refused_as_usage() {
    let shared = |port_first, port_last| Claim::Shared { addresses: Vec::new(), port_first, port_last };
    for error in [
        ProgramConfig::new(&shared(2, 1), None),
        ProgramConfig::new(&shared(1, 2), Some(0)),
        ProgramConfig::new(&shared(1, 2), Some(4095)),
        ProgramConfig::new(&Claim::Owned(vec![v4("10.0.0.2", "10.0.0.1")]), None),
    ] {
        assert_eq!(error.unwrap_err().exit_code(), 2);
    }
}

/// The program in the kernel, asked about one frame after the other; with the one that also sends, where there is one:
/// what arrives is the same to it.
struct Verdicts(Loaded, Option<Loaded>);

impl Verdicts {
    /// `None` without the privilege to load a program; in CI there must be.
    fn new(claim: &Claim, vlan_id: Option<u16>) -> Option<Self> {
        let config = ProgramConfig::new(claim, vlan_id).unwrap();
        match Loaded::load(&config, "none") {
            Ok(loaded) => Some(Self(loaded, Loaded::load_live(&config, "none", 1))),
            Err(OpenError::NoPrivilege { .. }) if std::env::var_os("CI").is_none() => {
                eprintln!("SKIPPED: loading the XDP program needs root (CAP_BPF and CAP_NET_ADMIN)");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether the program takes `frame` for the engine. There are no sockets, so either way the kernel would get it,
    /// and what differs is the counter.
    fn ours(&mut self, frame: &[u8]) -> bool {
        let ours = Self::taken(&mut self.0, frame);
        if let Some(live) = &mut self.1 {
            assert_eq!(Self::taken(live, frame), ours);
        }
        ours
    }

    fn taken(loaded: &mut Loaded, frame: &[u8]) -> bool {
        const XDP_PASS: u32 = 2;
        // The kernel runs programs on no less than an Ethernet header.
        let mut padded = frame.to_vec();
        padded.resize(frame.len().max(14), 0);
        let before = read_counters(&loaded.counters);
        let options = TestRunOptions { data_in: Some(&padded), ..TestRunOptions::default() };
        let result = loaded.xdp("none").unwrap().test_run(options).unwrap();
        assert_eq!(result.return_value, XDP_PASS);
        let after = read_counters(&loaded.counters);
        assert_eq!(after.passed + after.no_socket, before.passed + before.no_socket + 1);
        after.no_socket > before.no_socket
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

fn ethernet(protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&[0u8; 12][..], &protocol.to_be_bytes(), payload].concat()
}

fn tagged(vlan_id: u16, frame: &[u8]) -> Vec<u8> {
    // Priority 5 in the upper bits is not part of the identifier.
    [&frame[..12], &[0x81, 0], &(0xa000 | vlan_id).to_be_bytes(), &frame[12..]].concat()
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let ihl = 5 + options as u8;
    let mut packet = vec![0x40 | ihl, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    [&packet[..], &from, &to, &vec![1; options * 4], payload].concat()
}

fn ipv6(next_header: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let fixed = [0x60, 0, 0, 0, 0, payload.len() as u8, next_header, 255];
    [&fixed[..], &from.octets(), &to.octets(), payload].concat()
}

fn tcp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat()
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &[0; 6], &sender, &[0; 6], &target].concat();
    ethernet(0x0806, &payload)
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

const OTHER: [u8; 4] = [192, 0, 2, 1];

#[test]
fn owned_addresses_are_the_engines_with_all_that_concerns_them() {
    let range6 = AddressRange::V6(v6("2001:db8::1:ffff:ffff:ffff:fff0"), v6("2001:db8:0:2::f"));
    let claim = Claim::Owned(vec![v4("10.1.0.0", "10.3.255.255"), v4("192.0.2.77", "192.0.2.77"), range6]);
    let Some(mut program) = Verdicts::new(&claim, None) else { return };
    let four = |to| ethernet(0x0800, &ipv4(TCP, OTHER, to, 0, 0, &tcp(1, 2)));
    for (to, expected) in [
        ([10, 0, 255, 255], false),
        ([10, 1, 0, 0], true),
        ([10, 2, 7, 9], true),
        ([10, 3, 255, 255], true),
        ([10, 4, 0, 0], false),
        ([192, 0, 2, 76], false),
        ([192, 0, 2, 77], true),
        ([192, 0, 2, 78], false),
    ] {
        assert_eq!(program.ours(&four(to)), expected, "{to:?}");
    }
    let owned = [10, 1, 0, 1];
    for (protocol, fragment) in [(ICMP, 0), (UDP, 0), (TCP, 0x2000), (TCP, 100)] {
        let packet = ipv4(protocol, OTHER, owned, fragment, 0, &[0; 8]);
        assert!(program.ours(&ethernet(0x0800, &packet)), "protocol {protocol}, fragment {fragment:#x}");
    }
    assert!(program.ours(&arp(1, OTHER, owned)), "somebody asks for us");
    assert!(program.ours(&arp(2, OTHER, owned)), "somebody answers us");
    assert!(program.ours(&arp(2, owned, OTHER)), "somebody else says it is us");
    assert!(!program.ours(&arp(1, OTHER, OTHER)));
    assert!(!program.ours(&tagged(7, &four(owned))), "tagged frames are not ours");

    let six = |to: &str| ethernet(0x86dd, &ipv6(TCP, v6("2001:db8::99"), v6(to), &tcp(1, 2)));
    for (to, expected) in [
        ("2001:db8::1:ffff:ffff:ffff:ffef", false),
        ("2001:db8::1:ffff:ffff:ffff:fff0", true),
        ("2001:db8:0:2::", true),
        ("2001:db8:0:2::f", true),
        ("2001:db8:0:2::10", false),
        ("2001:db8:0:3::", false),
    ] {
        assert_eq!(program.ours(&six(to)), expected, "{to}");
    }
    let neighbor = |kind: u8, to: &str, target: &str| {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &v6(target).octets()].concat();
        ethernet(0x86dd, &ipv6(ICMPV6, v6("fe80::1"), v6(to), &message))
    };
    assert!(program.ours(&neighbor(135, "ff02::1:ff00:1", "2001:db8:0:2::1")), "somebody solicits us");
    assert!(!program.ours(&neighbor(135, "ff02::1:ff00:1", "2001:db8::1")));
    assert!(program.ours(&neighbor(136, "ff02::1", "2001:db8:0:2::1")), "somebody else says it is us");
    assert!(program.ours(&neighbor(136, "2001:db8:0:2::1", "fe80::1")), "somebody answers us");
    assert!(!program.ours(&neighbor(134, "ff02::1", "2001:db8:0:2::1")), "router advertisements are the kernel's");
}

#[test]
fn of_a_shared_address_only_the_ports_are_the_engines() {
    let (ours4, ours6) = ([192, 0, 2, 10], v6("2001:db8::10"));
    let addresses = vec![Ipv4Addr::from(ours4).into(), ours6.into()];
    let claim = Claim::Shared { addresses, port_first: 40_000, port_last: 40_999 };
    let Some(mut program) = Verdicts::new(&claim, None) else { return };
    let peer6 = v6("2001:db8::99");
    for (port, expected) in [(22, false), (39_999, false), (40_000, true), (40_999, true), (41_000, false)] {
        let segment = tcp(80, port);
        for options in [0, 1, 10] {
            let packet = ipv4(TCP, OTHER, ours4, 0, options, &segment);
            assert_eq!(program.ours(&ethernet(0x0800, &packet)), expected, "port {port}, {options} words of options");
            let quoted = ipv4(TCP, ours4, OTHER, 0, options, &tcp(port, 80)[..8]);
            for (kind, is_error) in [(3u8, true), (11, true), (12, true), (0, false), (8, false)] {
                let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
                let packet = ipv4(ICMP, [203, 0, 113, 1], ours4, 0, 0, &message);
                let ours = program.ours(&ethernet(0x0800, &packet));
                assert_eq!(ours, expected && is_error, "ICMP type {kind} about port {port}");
            }
        }
        assert!(!program.ours(&ethernet(0x0800, &ipv4(TCP, OTHER, OTHER, 0, 0, &segment))), "another address");
        assert!(!program.ours(&ethernet(0x0800, &ipv4(UDP, OTHER, ours4, 0, 0, &segment))), "UDP");
        assert!(!program.ours(&ethernet(0x0800, &ipv4(TCP, OTHER, ours4, 0x2000, 0, &segment))), "a fragment");
        let packet = ipv6(TCP, peer6, ours6, &segment);
        assert_eq!(program.ours(&ethernet(0x86dd, &packet)), expected, "port {port} of IPv6");
        let quoted = ipv6(TCP, ours6, peer6, &tcp(port, 80));
        for (kind, is_error) in [(0u8, false), (1, true), (4, true), (5, false), (128, false)] {
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
            let ours = program.ours(&ethernet(0x86dd, &ipv6(ICMPV6, peer6, ours6, &message)));
            assert_eq!(ours, expected && is_error, "ICMPv6 type {kind} about port {port}");
        }
    }
    assert!(!program.ours(&arp(1, OTHER, ours4)), "the address stays the kernel's");
}

#[test]
fn with_a_vlan_only_its_frames_are_the_engines() {
    let claim = Claim::Owned(vec![v4("10.1.0.1", "10.1.0.1")]);
    let Some(mut program) = Verdicts::new(&claim, Some(7)) else { return };
    let frame = ethernet(0x0800, &ipv4(TCP, OTHER, [10, 1, 0, 1], 0, 0, &tcp(1, 2)));
    assert!(program.ours(&tagged(7, &frame)));
    assert!(!program.ours(&tagged(8, &frame)));
    assert!(!program.ours(&frame));
    assert!(!program.ours(&tagged(0, &frame)));
    assert!(program.ours(&tagged(7, &arp(1, OTHER, [10, 1, 0, 1]))));
}

#[test]
fn a_tag_that_carries_only_a_priority_is_no_vlan() {
    let claim = Claim::Owned(vec![v4("10.1.0.1", "10.1.0.1")]);
    let Some(mut program) = Verdicts::new(&claim, None) else { return };
    let frame = ethernet(0x0800, &ipv4(TCP, OTHER, [10, 1, 0, 1], 0, 0, &tcp(1, 2)));
    assert!(program.ours(&frame));
    assert!(program.ours(&tagged(0, &frame)));
    assert!(!program.ours(&tagged(7, &frame)));
    for len in 0..18 {
        assert!(!program.ours(&tagged(0, &frame)[..len]), "{len} octets");
    }
}

#[test]
fn a_frame_cut_off_anywhere_is_the_kernels_until_it_can_be_told() {
    let address = [192, 0, 2, 10];
    let claim = Claim::Shared { addresses: vec![Ipv4Addr::from(address).into()], port_first: 1, port_last: u16::MAX };
    let Some(mut program) = Verdicts::new(&claim, None) else { return };
    let whole = ethernet(0x0800, &ipv4(TCP, OTHER, address, 0, 10, &tcp(80, 40_000)));
    for len in 0..=whole.len() {
        assert_eq!(program.ours(&whole[..len]), len == whole.len(), "{len} octets");
    }
}

#[test]
fn only_frames_with_the_key_are_sent() {
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    const XDP_TX: u32 = 3;
    let claim = Claim::Owned(vec![v4("10.0.0.1", "10.0.0.1")]);
    let Some(_) = Verdicts::new(&claim, None) else { return };
    let config = ProgramConfig::new(&claim, None).unwrap();
    // Not on kernels before 5.18.
    let Some(mut loaded) = Loaded::load_live(&config, "none", 2) else { return };
    let live = loaded.live.take().unwrap();
    let mut verdict = |ticket: [u8; 16]| {
        let frame = [&ticket[..], &[0; 64]].concat();
        let context: Vec<u8> = [16u32, 80, 0, 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::default() };
        loaded.xdp("none").unwrap().test_run(options).unwrap().return_value
    };
    let mut forged = live.ticket(0);
    forged[0] ^= 1;
    assert_eq!(verdict(forged), XDP_PASS, "it arrived, and is nobody's");
    assert_eq!(verdict([0; 16]), XDP_PASS);
    assert_eq!(verdict(live.ticket(1)), XDP_DROP, "a place without a frame");
    live.put_first(1, &[7; 100]);
    assert_eq!(verdict(live.ticket(0)), XDP_DROP, "the other queue has none");
    assert_eq!(verdict(live.ticket(1)), XDP_TX);
    assert_eq!(verdict(live.ticket(1)), XDP_DROP, "the next place has none");
    assert_eq!(verdict(live.ticket(2)), XDP_DROP, "there is no such queue");
}
