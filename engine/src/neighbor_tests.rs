use std::net::Ipv4Addr;

use super::*;

const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

fn table(capacity: usize) -> NeighborTable {
    NeighborTable::new(NeighborConfig { capacity, ..NeighborConfig::default() }, [1, 2])
}

fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

fn arp(operation: ArpOperation, sender: Ipv4Addr, sender_mac: MacAddr) -> ArpPacket {
    ArpPacket { operation, sender_mac, sender, target_mac: MacAddr::ZERO, target: US }
}

fn reply(n: u8, mac: MacAddr) -> ArpPacket {
    arp(ArpOperation::Reply, host(n), mac)
}

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

fn solicit(n: u8, station: Option<MacAddr>) -> Option<NeighborEvent> {
    Some(NeighborEvent::Solicit { address: host(n).into(), station })
}

fn resolve(table: &mut NeighborTable, n: u8, now: Instant) -> Resolution {
    table.resolve(host(n).into(), now).unwrap().1
}

#[test]
//= RFC 4861 7.2.2-MUST-1
//= RFC 1122 2.3.2.1-MUST-2
fn asks_three_times_a_second_apart_then_holds_down() {
    let mut table = table(8);
    let (index, resolution) = table.resolve(host(2).into(), at(0)).unwrap();
    assert_eq!(resolution, Resolution::Pending);
    for second in 0..3 {
        assert_eq!(table.poll(at(second)), solicit(2, None));
        assert_eq!(table.poll(at(second)), None);
        assert_eq!(table.poll(at(second) + Duration::from_millis(999)), None);
        assert_eq!(resolve(&mut table, 2, at(second)), Resolution::Pending);
    }
    assert_eq!(table.poll(at(3)), Some(NeighborEvent::Failed { index, address: host(2).into() }));
    assert_eq!(table.poll(at(3)), None);
    assert_eq!(table.resolution(index, at(5)), Some(Resolution::Failed));
    assert_eq!(table.poll(at(5)), None);
    assert_eq!(table.resolution(index, at(6)), Some(Resolution::Pending));
    assert_eq!(table.poll(at(6)), solicit(2, None));
    assert_eq!(table.counters(), NeighborCounters { solicitations: 4, failed: 1, ..Default::default() });
}

#[test]
//= RFC 1122 2.3.2.1-MUST-1
fn an_answer_is_used_probed_when_old_and_replaced_when_gone() {
    let mut table = table(8);
    let (index, _) = table.resolve(host(2).into(), at(0)).unwrap();
    assert_eq!(table.poll(at(0)), solicit(2, None));
    assert_eq!(table.on_arp(&reply(2, MAC), at(0)), Some(index));
    assert_eq!(table.resolution(index, at(29)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(29)), None);
    assert_eq!(table.resolution(index, at(30)), Some(Resolution::Ready(MAC)));
    for second in 30..33 {
        assert_eq!(table.poll(at(second)), solicit(2, Some(MAC)));
        assert_eq!(table.resolution(index, at(second)), Some(Resolution::Ready(MAC)));
    }
    assert_eq!(table.poll(at(33)), solicit(2, None));
    assert_eq!(table.resolution(index, at(33)), Some(Resolution::Pending));
    assert_eq!(table.on_arp(&reply(2, OTHER), at(33)), Some(index));
    assert_eq!(table.resolution(index, at(33)), Some(Resolution::Ready(OTHER)));
}

#[test]
fn a_confirmed_neighbor_is_not_asked() {
    let mut table = table(8);
    let index = table.learn_from_handshake(host(2).into(), MAC, at(0)).unwrap();
    table.confirm(index, at(20));
    assert_eq!(table.resolution(index, at(49)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(49)), None);
    assert_eq!(table.resolution(index, at(50)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(50)), solicit(2, Some(MAC)));
}

#[test]
//= RFC 4861 7.2.5-SHOULD-1
fn what_nobody_asked_for_is_not_believed() {
    let mut table = table(8);
    assert_eq!(table.on_arp(&reply(2, OTHER), at(0)), None);
    assert!(table.is_empty());
    let index = table.learn_from_handshake(host(2).into(), MAC, at(0)).unwrap();
    assert_eq!(table.on_arp(&reply(2, OTHER), at(1)), None);
    table.learn_from_handshake(host(2).into(), OTHER, at(1));
    assert_eq!(table.resolution(index, at(1)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.counters().unsolicited, 2);
}

#[test]
//= RFC 4861 7.2.3-MUST-1
fn a_request_for_us_tells_where_its_sender_is() {
    let mut table = table(8);
    let request = |mac| arp(ArpOperation::Request, host(2), mac);
    let index = table.on_arp(&request(MAC), at(0)).unwrap();
    assert_eq!(table.resolution(index, at(0)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(0)), solicit(2, Some(MAC)), "believed, and asked when used");
    assert_eq!(table.on_arp(&request(OTHER), at(0)), None, "nothing waited");
    assert_eq!(table.resolution(index, at(0)), Some(Resolution::Ready(MAC)), "another has it");
    assert_eq!(table.on_arp(&arp(ArpOperation::Request, Ipv4Addr::UNSPECIFIED, MAC), at(0)), None);
    assert_eq!(table.len(), 1);
    let (waiting, _) = table.resolve(host(3).into(), at(0)).unwrap();
    assert_eq!(table.on_arp(&arp(ArpOperation::Request, host(3), MAC), at(0)), Some(waiting));
}

#[test]
//= RFC 4861 7.2.5-MUST-1, 7.2.5-SHOULD-2, 7.3.1-MUST-1
fn advertisements_follow_their_flags() {
    let address: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let advertisement = |mac, solicited, overrides| NeighborAdvertisement {
        source: address,
        target: address,
        target_link_layer: mac,
        router: false,
        solicited,
        overrides,
    };
    let mut table = table(8);
    let (index, _) = table.resolve(address.into(), at(0)).unwrap();
    assert_eq!(table.on_advertisement(&advertisement(Some(OTHER), false, true), at(0)), None);
    assert_eq!(table.on_advertisement(&advertisement(None, true, true), at(0)), None);
    assert_eq!(table.on_advertisement(&advertisement(Some(MAC), true, false), at(0)), Some(index));
    assert_eq!(table.resolution(index, at(30)), Some(Resolution::Ready(MAC)));
    table.on_advertisement(&advertisement(Some(OTHER), true, false), at(30));
    table.on_advertisement(&advertisement(Some(OTHER), true, true), at(30));
    assert_eq!(table.resolution(index, at(30)), Some(Resolution::Ready(MAC)), "another was asked");
    table.on_advertisement(&advertisement(None, true, false), at(30));
    assert_eq!(table.resolution(index, at(59)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(59)), None, "confirmed without an address");
}

#[test]
fn the_longest_unused_gives_way_and_its_index_dies() {
    let mut table = table(3);
    let indices: Vec<_> =
        (0..3).map(|n| table.learn_from_handshake(host(n).into(), MAC, at(u64::from(n))).unwrap()).collect();
    assert_eq!(table.resolution(indices[0], at(4)), Some(Resolution::Ready(MAC)));
    table.learn_from_handshake(host(9).into(), OTHER, at(5)).unwrap();
    assert_eq!(table.len(), 3);
    assert_eq!(table.resolution(indices[1], at(5)), None);
    assert_eq!(table.lookup(host(1).into()), None);
    assert_eq!(table.lookup(host(0).into()), Some(indices[0]));
    assert_eq!(table.counters().evicted, 1);
}

#[test]
fn permanent_entries_stay() {
    let mut table = table(1);
    let index = table.set_permanent(host(2).into(), MAC, at(0)).unwrap();
    assert_eq!(table.resolve(host(3).into(), at(1)), None);
    table.on_arp(&arp(ArpOperation::Request, host(2), OTHER), at(1));
    assert_eq!(table.resolution(index, at(1000)), Some(Resolution::Ready(MAC)));
    assert_eq!(table.poll(at(1000)), None);
}

#[test]
fn who_claims_an_address_of_another_is_not_believed_while_that_one_answers() {
    let mut table = table(8);
    let index = table.learn_from_handshake(host(2).into(), MAC, at(0)).unwrap();
    let claim = arp(ArpOperation::Request, host(2), OTHER);
    for second in 1..4 {
        assert_eq!(table.on_arp(&claim, at(second)), None);
        assert_eq!(table.poll(at(second)), solicit(2, Some(MAC)), "who has it is asked");
        assert_eq!(table.on_arp(&reply(2, OTHER), at(second)), None, "and nobody else answers for it");
        assert_eq!(table.resolution(index, at(second)), Some(Resolution::Ready(MAC)));
        table.on_arp(&reply(2, MAC), at(second));
    }
    // the station is gone: everyone is asked, and who answers has it
    table.on_arp(&claim, at(10));
    assert_eq!(table.poll(at(10)), solicit(2, Some(MAC)));
    assert_eq!(table.poll(at(11)), solicit(2, None));
    assert_eq!(table.on_arp(&reply(2, OTHER), at(11)), Some(index));
    assert_eq!(table.resolution(index, at(11)), Some(Resolution::Ready(OTHER)));
    // a reply that nobody asked for, and a claim that is no question for us, are doubts as well
    assert_eq!(table.on_arp(&reply(2, MAC), at(12)), None);
    assert_eq!(table.poll(at(12)), solicit(2, Some(OTHER)));
    assert_eq!(table.on_arp(&reply(2, OTHER), at(12)), None);
    table.doubt(host(2).into(), Some(OTHER), at(13));
    assert_eq!(table.poll(at(13)), None, "it is where it was");
    table.doubt(host(3).into(), Some(OTHER), at(13));
    assert_eq!(table.lookup(host(3).into()), None, "no entry comes of it");
}

#[test]
fn a_flood_of_requests_drives_out_nobody_who_is_talked_to() {
    let mut table = table(512);
    let friends: Vec<_> = (0..200u32).map(Ipv4Addr::from).collect();
    let indices: Vec<_> =
        friends.iter().map(|&friend| table.learn_from_handshake(friend.into(), MAC, at(1)).unwrap()).collect();
    for n in 1000..100_000u32 {
        table.on_arp(&arp(ArpOperation::Request, Ipv4Addr::from(n), OTHER), at(2));
    }
    assert_eq!(table.len(), 512);
    for index in indices {
        assert_eq!(table.resolution(index, at(3)), Some(Resolution::Ready(MAC)));
    }
}

#[test]
fn a_flood_of_addresses_stays_within_bounds() {
    let mut table = table(64);
    let (room, entries, asked) = (table.slots.capacity(), table.entries.capacity(), table.asked.capacity());
    let friends: Vec<_> = (0..32).map(|n| table.learn_from_handshake(host(n).into(), MAC, at(1)).unwrap()).collect();
    let mut requests = 0;
    for n in 0..100_000u32 {
        let now = Instant::from_micros(1_000_000 + u64::from(n) * 100);
        table.resolve(Ipv4Addr::from(n).into(), now);
        while let Some(event) = table.poll(now) {
            requests += u32::from(matches!(event, NeighborEvent::Solicit { .. }));
        }
        if n % 100 == 0 {
            friends.iter().for_each(|&friend| assert!(table.resolution(friend, now).is_some(), "driven out"));
        }
        assert!(table.len() <= 64 && table.incomplete <= 32);
    }
    assert_eq!((table.slots.capacity(), table.entries.capacity(), table.asked.capacity()), (room, entries, asked));
    assert!(requests <= 400 + 32 * 4, "{requests} requests in ten seconds");
    assert!(table.counters().refused > 99_000, "{:?}", table.counters());
}
