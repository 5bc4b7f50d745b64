use super::*;
use crate::wire::samples::{LINK, XorShift};
use crate::wire::{ParseRules, parse};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn key(v6: bool, identification: u32) -> FragmentKey {
    let address = |v4: &str, v6_text: &str| -> IpAddr { if v6 { v6_text } else { v4 }.parse().unwrap() };
    FragmentKey {
        source: address("192.0.2.1", "2001:db8::1"),
        destination: address("192.0.2.2", "2001:db8::2"),
        identification,
        protocol: 1,
    }
}

fn fragment(key: FragmentKey, whole: &[u8], at: usize, end: usize) -> Fragment<'_> {
    Fragment {
        key,
        offset: at as u16,
        more: end < whole.len(),
        source_mac: LINK.source,
        hop_limit: 63,
        traffic_class: 0,
        octets: &whole[at..end],
        packet: whole,
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// Takes a fragment in; nothing gives way to it.
fn take(table: &mut Reassembly, fragment: &Fragment<'_>) -> Taken {
    let mut given_up = 0;
    let taken = table.take(fragment, Instant::from_millis(5), &mut given_up);
    assert_eq!(given_up, 0);
    taken
}

/// What follows the IP header of the packet that is whole.
fn whole(table: &mut Reassembly, v6: bool) -> Option<Vec<u8>> {
    let frame = table.whole(OURS, None)?;
    assert_eq!(frame[..6], OURS.0);
    assert_eq!(frame[6..12], LINK.source.0);
    Some(frame[if v6 { 54 } else { 34 }..].to_vec())
}

#[test]
//= RFC 1122 3.3.2-MUST-1
//= RFC 8200 4.5-MUST-1
fn in_any_order_and_any_pieces() {
    let mut random = XorShift::new(815);
    for round in 0..500 {
        let v6 = round % 2 == 0;
        let mut table = Reassembly::new();
        let sent = payload(9 + (random.next() as usize % 4000));
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < sent.len() {
            let end = (at + 8 * (1 + random.next() as usize % 60)).min(sent.len());
            pieces.push((at, end));
            at = end;
        }
        for i in (1..pieces.len()).rev() {
            pieces.swap(i, random.next() as usize % (i + 1));
        }
        if pieces.len() < 2 {
            continue;
        }
        let (last, first) = pieces.split_last().unwrap();
        for &(at, end) in first {
            for _ in 0..=random.next() % 2 {
                assert_eq!(take(&mut table, &fragment(key(v6, 5), &sent, at, end)), Taken::Kept);
            }
            assert_eq!(table.whole(OURS, None), None);
        }
        assert_eq!(take(&mut table, &fragment(key(v6, 5), &sent, last.0, last.1)), Taken::Whole);
        assert_eq!(whole(&mut table, v6), Some(sent));
        assert_eq!(table.whole(OURS, None), None);
    }
}

#[test]
fn the_headers_are_right() {
    let sent = payload(64);
    for vlan in [None, VlanId::new(7)] {
        for (v6, protocol) in [(false, 1), (true, 58)] {
            let mut table = Reassembly::new();
            let key = FragmentKey { protocol, ..key(v6, 1) };
            take(&mut table, &fragment(key, &sent, 0, 32));
            take(&mut table, &fragment(key, &sent, 32, 64));
            let frame = table.whole(OURS, vlan).unwrap();
            // what is left to be wrong is the ICMP message
            let read = parse(frame, &ParseRules { vlan, mac: Some(OURS), ..ParseRules::default() });
            assert_eq!(read, Err(crate::wire::DropReason::BadIcmpChecksum));
        }
    }
}

#[test]
//= RFC 8200 4.5-MUST-2
fn what_overlaps_spoils_its_packet() {
    let sent = payload(400);
    for (at, end) in [(0, 96), (64, 128), (96, 200), (104, 112)] {
        let mut table = Reassembly::new();
        take(&mut table, &fragment(key(true, 1), &sent, 80, 160));
        let mut other = sent.clone();
        other.iter_mut().for_each(|octet| *octet ^= 1);
        assert_eq!(take(&mut table, &fragment(key(true, 1), &other, at, end)), Taken::Refused, "{at} to {end}");
        for (at, end) in [(0, 80), (80, 160), (160, 400)] {
            assert_eq!(take(&mut table, &fragment(key(true, 1), &sent, at, end)), Taken::Refused);
        }
        assert_eq!(table.whole(OURS, None), None);
    }
}

#[test]
fn lengths_must_agree() {
    let sent = payload(400);
    let mut table = Reassembly::new();
    let mut refused = |first: (usize, usize), total: usize, second: (usize, usize), identification| {
        assert_eq!(take(&mut table, &fragment(key(false, identification), &sent, first.0, first.1)), Taken::Kept);
        let second = fragment(key(false, identification), &sent[..total], second.0, second.1);
        assert_eq!(take(&mut table, &second), Taken::Refused);
        table.packets.iter_mut().for_each(|packet| packet.state = State::Free);
    };
    refused((200, 400), 160, (80, 160), 1);
    refused((160, 240), 160, (80, 160), 2);
    refused((0, 80), 400, (80, 81), 3);
    refused((0, 80), 80, (80, 80), 4);
    let long = payload(PAYLOAD_MAX + 8);
    let beyond = fragment(key(false, 5), &long, PAYLOAD_MAX - 8, PAYLOAD_MAX + 8);
    assert_eq!(take(&mut table, &beyond), Taken::Refused);
    let last = fragment(key(false, 6), &long[..PAYLOAD_MAX], PAYLOAD_MAX - 8, PAYLOAD_MAX);
    assert_eq!(take(&mut table, &last), Taken::Kept);
}

#[test]
//= RFC 8200 4.5-MUST-3
fn a_packet_in_one_fragment_is_alone() {
    let (sent, other) = (payload(200), payload(48));
    let mut table = Reassembly::new();
    take(&mut table, &fragment(key(true, 9), &sent, 0, 80));
    assert_eq!(take(&mut table, &fragment(key(true, 9), &other, 0, 48)), Taken::Whole);
    assert_eq!(whole(&mut table, true), Some(other));
    assert_eq!(take(&mut table, &fragment(key(true, 9), &sent, 80, 200)), Taken::Whole);
    assert_eq!(whole(&mut table, true), Some(sent));
}

#[test]
fn who_waited_longest_gives_way() {
    let sent = payload(160);
    let mut table = Reassembly::new();
    let mut given_up = 0;
    for n in 0..PACKETS as u32 + 3 {
        let piece = fragment(key(false, n), &sent, 0, 80);
        table.take(&piece, Instant::from_millis(u64::from(n)), &mut given_up);
    }
    assert_eq!(given_up, 3);
    let rest = |table: &mut Reassembly, n| table.take(&fragment(key(false, n), &sent, 80, 160), Instant::ZERO, &mut 0);
    assert_eq!(rest(&mut table, 3), Taken::Whole);
    assert_eq!(whole(&mut table, false), Some(sent.clone()));
    assert_eq!(rest(&mut table, 2), Taken::Kept, "it had given way");
}

#[test]
//= RFC 1122 3.3.2-SHOULD-1
fn nobody_waits_for_ever() {
    let sent = payload(160);
    let at = |ms: u64| Instant::from_millis(ms);
    for (v6, begin, quoted) in [(false, 0, &sent[..]), (true, 0, &sent[..]), (true, 80, &[])] {
        let mut table = Reassembly::new();
        assert_eq!((table.deadline(), table.is_due(at(1_000_000))), (None, false));
        take(&mut table, &fragment(key(v6, 1), &sent, begin, begin + 80));
        assert_eq!((table.is_due(at(60_004)), table.is_due(at(60_005))), (false, true));
        assert_eq!(table.overdue(at(60_004)), None);
        let overdue = table.overdue(at(60_005)).expect("a packet that waited");
        assert_eq!((overdue.key, overdue.first), (key(v6, 1), quoted));
        assert_eq!(table.overdue(at(60_005)), None);
        assert_eq!(table.deadline(), None);
        let other = fragment(key(v6, 1), &sent, 80 - begin, 160 - begin);
        assert_eq!(table.take(&other, at(60_006), &mut 0), Taken::Kept, "the first is gone");
    }
}

/// Fragments that contradict each other are forgotten in silence (RFC 8200 §4.5).
#[test]
fn nobody_is_told_of_what_was_spoilt() {
    let sent = payload(160);
    let mut table = Reassembly::new();
    take(&mut table, &fragment(key(true, 1), &sent, 0, 80));
    assert_eq!(take(&mut table, &fragment(key(true, 1), &sent, 40, 120)), Taken::Refused);
    assert_eq!(table.overdue(Instant::from_millis(60_005)), None);
    assert_eq!(table.deadline(), None);
}

#[test]
//= RFC 3168 5.3-MUST-1
fn congestion_of_a_fragment_is_that_of_the_packet() {
    let sent = payload(160);
    for (first, second, merged) in [(2, 2, Some(2)), (2, 3, Some(3)), (3, 2, Some(3)), (0, 3, None), (0, 0, Some(0))] {
        let mut table = Reassembly::new();
        take(&mut table, &Fragment { traffic_class: first, ..fragment(key(false, 1), &sent, 0, 80) });
        let last = Fragment { traffic_class: second, ..fragment(key(false, 1), &sent, 80, 160) };
        assert_eq!(take(&mut table, &last), if merged.is_some() { Taken::Whole } else { Taken::Refused });
        assert_eq!(table.whole(OURS, None).map(|frame| frame[15]), merged);
    }
}
