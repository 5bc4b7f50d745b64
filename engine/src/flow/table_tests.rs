use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::flow::bucket::is_empty;
use crate::flow::{FlowKey, HashKey};
use crate::page::HeapPages;
use hashbrown::HashMap;

/// SplitMix64: seeded, so that a failure repeats.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

const KINDS: [Kind; 3] = [Kind::Connection, Kind::SynReceived, Kind::TimeWait];

/// The hash of flow `id`, which is its handle too.
fn mix(id: u32) -> u64 {
    Random(u64::from(id)).next()
}

/// Random operations against hashbrown. `hash` may be as weak as it likes; `flows` bounds the identities in play.
fn agree(seed: u64, steps: u64, flows: u64, hash: fn(u32) -> u64) -> TableStats {
    let mut pages = HeapPages::new();
    let mut table = FlowTable::with_capacity(&mut pages, 0).unwrap();
    let mut model: HashMap<u32, Kind> = HashMap::new();
    // Where entries were put; they may have moved since.
    let mut places: HashMap<u32, Place> = HashMap::new();
    let mut random = Random(seed);
    for step in 0..steps {
        let id = random.below(flows) as u32;
        let kind = KINDS[random.below(3) as usize];
        let growing = (step * 6 / steps).is_multiple_of(2);
        let expected = model.get(&id).map(|&kind| (kind, id));
        assert_eq!(table.find(hash(id), |_, handle| handle == id), expected, "step {step}");
        match (expected, random.below(10)) {
            (None, 0..8) if growing => {
                if let Ok(place) = table.insert(hash(id), kind, id) {
                    places.insert(id, place);
                    model.insert(id, kind);
                }
            }
            (Some(old), 0..3) => {
                let new = (kind, id);
                let at = random.below(2) == 0 && table.replace_at(places[&id], old, new);
                if !at {
                    places.insert(id, table.replace(hash(id), old, new).unwrap());
                }
                assert!(table.is_at(places[&id], kind, id));
                model.insert(id, kind);
            }
            (Some((kind, _)), 3..9) if !growing => {
                let at = random.below(2) == 0 && table.remove_at(places[&id], kind, id);
                assert!(at || table.remove(hash(id), kind, id));
                assert!(!table.remove(hash(id), kind, id), "removed twice");
                assert!(!table.remove_at(places[&id], kind, id), "removed twice");
                model.remove(&id);
            }
            (None, 8) => assert_eq!(table.replace(hash(id), (kind, id), (kind, id)), None),
            _ => {}
        }
        if step % 7 == 0 {
            table.maintain(&mut pages);
        }
        assert_eq!(table.len(), model.len());
    }
    verify(&table, &model, hash);
    let stats = table.stats();
    table.release(&mut pages);
    assert_eq!(pages.bytes_taken(), 0);
    stats
}

/// Every flow is found, a scan sees each once, and the counts of each bucket are what its entries make them.
fn verify(table: &FlowTable, model: &HashMap<u32, Kind>, hash: fn(u32) -> u64) {
    let mut seen = HashMap::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = table.scan(at, |kind, handle| assert_eq!(seen.insert(handle, kind), None, "seen twice"));
    }
    assert_eq!(&seen, model);
    for (&id, &kind) in model {
        assert_eq!(table.find(hash(id), |_, handle| handle == id), Some((kind, id)));
    }
    for (number, page) in table.pages.iter().enumerate().filter_map(|(n, page)| Some((n, page.as_deref()?))) {
        let mut passed = [0; BUCKETS];
        let mut used = 0;
        for (index, bucket) in page.iter().enumerate() {
            for entry in bucket.0.iter().filter(|&&entry| !is_empty(entry)) {
                let tag = entry >> TAG_SHIFT;
                assert_eq!(table.segment_of(tag), number, "an entry outside its segment");
                used += 1;
                (0..distance_of(tag, index)).for_each(|distance| passed[probe(tag, distance)] += 1);
            }
        }
        assert_eq!(used, table.segments[number].used);
        assert!(page.iter().zip(passed).all(|(bucket, passed)| bucket.passed() == passed));
    }
}

#[test]
fn random_operations_agree_with_hashbrown() {
    let stats = agree(1, 3_000_000, 60_000, mix);
    assert!(stats.splits > 20 && stats.merges > 10 && stats.doublings >= 4, "{stats:?}");
    assert_eq!(stats.full, 0);
}

#[test]
fn a_weak_hash_costs_room_and_never_truth() {
    // All tags equal.
    assert!(agree(2, 200_000, 1_000, |_| u64::MAX).full > 0);
    assert!(agree(3, 200_000, 1_000, |_| 0).full > 0);
    // 64 tags.
    assert!(agree(4, 400_000, 20_000, |id| (mix(id) & 63).wrapping_sub(32) << TAG_SHIFT).full > 0);
    // Few homes, many segments.
    assert!(agree(5, 400_000, 30_000, |id| mix(id) & !(0x1F0 << TAG_SHIFT)).full > 0);
    // Many homes in one corner of the hash space: splits that separate nothing, up to the directory's limit.
    let stats = agree(6, 400_000, 20_000, |id| mix(id) >> 20);
    assert!(stats.refused > 0 && 1 << stats.doublings == DIRECTORY_MAX, "{stats:?}");
}

#[test]
fn presized_costs_eleven_octets_and_does_not_split() {
    for expected in [3_000, 50_000, 777_777] {
        let mut pages = HeapPages::new();
        let mut table = FlowTable::with_capacity(&mut pages, expected).unwrap();
        for id in 0..expected as u32 {
            table.insert(mix(id), Kind::Connection, id).unwrap();
            table.maintain(&mut pages);
        }
        assert_eq!(table.stats(), TableStats::default(), "{expected}");
        let per_flow = table.bytes() as f64 / expected as f64;
        assert!(per_flow < if expected < 10_000 { 22.0 } else { 11.0 }, "{per_flow} octets for {expected}");
        table.release(&mut pages);
    }
}

#[test]
fn growth_from_nothing_stays_under_twenty_octets() {
    let mut pages = HeapPages::new();
    let mut table = FlowTable::with_capacity(&mut pages, 0).unwrap();
    let mut worst: f64 = 0.0;
    for id in 0..2_000_000 {
        table.insert(mix(id), Kind::Connection, id).unwrap();
        if id % 64 == 0 {
            table.maintain(&mut pages);
        }
        if id > 20_000 {
            worst = worst.max(table.bytes() as f64 / f64::from(id));
        }
    }
    assert!(worst < 20.0, "{worst} octets for each flow");
    let candidate = |hash| table.candidate(hash, table.prefetch(hash));
    let at_home = (0..2_000_000).filter(|&id| candidate(mix(id)).is_some()).count();
    assert!(at_home > 1_700_000, "{at_home}");
    assert!((0..2_000_000).all(|id| table.find(mix(id), |_, handle| handle == id).is_some()));
    table.release(&mut pages);
}

#[test]
fn most_lookups_need_one_line() {
    let mut pages = HeapPages::new();
    let flows = 1_000_000;
    let mut table = FlowTable::with_capacity(&mut pages, flows).unwrap();
    for id in 0..flows as u32 {
        table.insert(mix(id), Kind::Connection, id).unwrap();
    }
    let buckets = || table.pages.iter().flatten().flat_map(|page| page.iter());
    let passed = buckets().filter(|bucket| bucket.is_passed()).count() as f64 / buckets().count() as f64;
    let displaced = buckets().map(|bucket| bucket.passed()).sum::<u32>() as f64 / flows as f64;
    assert!(passed < 0.3, "{passed} of the buckets need a second line for a miss");
    assert!(displaced < 0.15, "{displaced} lines more for a hit");
    table.release(&mut pages);
}

/// A flow between the hosts with these numbers, over IPv4 or IPv6.
fn flow(v6: bool, local: u32, remote: u32, remote_port: u16) -> FlowKey {
    let host = |number: u32| match v6 {
        true => IpAddr::V6(Ipv6Addr::from(0xFD00 << 112 | u128::from(number))),
        false => IpAddr::V4(Ipv4Addr::from(0x0A42_0000 | number)),
    };
    FlowKey { local: host(local), remote: host(remote), local_port: 80, remote_port }
}

#[test]
fn neighbours_have_buckets_of_their_own_on_one_page() {
    let key = HashKey::new([1, 2]);
    let table = FlowTable::with_capacity(&mut HeapPages::new(), 100_000).unwrap();
    let mut random = Random(3);
    for round in 0..10_000 {
        let (local, remote, port) =
            (random.next() as u32 & 0xFFFC, random.next() as u32 & 0xFFFC, random.next() as u16);
        let home = |local, remote| table.home(key.index_hash(&flow(round % 2 == 0, local, remote, port))).0;
        let mut homes: Vec<u32> = (0..16).map(|n| home(local + n / 4, remote + n % 4)).collect();
        homes.sort_unstable();
        homes.dedup();
        assert_eq!(homes.len(), 16);
        let page = |home: u32| home as usize * size_of::<Bucket>() / 4096;
        assert_eq!(page(homes[0]), page(homes[15]));
        // and no pair of lines, of which an entry tries both, holds two of them
        assert!(homes.windows(2).all(|two| two[0] / 2 != two[1] / 2));
    }
}

/// How many of a million insertions go past their home, and how many segments are split.
fn crowding(presized: usize, hash: impl Fn(u32) -> u64) -> (u32, u64) {
    let mut pages = HeapPages::new();
    let mut table = FlowTable::with_capacity(&mut pages, presized).unwrap();
    let mut away = 0;
    for id in 0..1_000_000 {
        let place = table.insert(hash(id), Kind::Connection, id).expect("room near home");
        away += u32::from(place.bucket() != home_of(hash(id) >> TAG_SHIFT));
        if id % 128 == 0 {
            table.maintain(&mut pages);
        }
    }
    assert!((0..1_000_000).all(|id| table.find(hash(id), |_, handle| handle == id).is_some()));
    table.release(&mut pages);
    (away, table.stats().splits)
}

/// From each address in turn, then from the next port of each, as a load generator opens them.
#[test]
fn flows_with_their_neighbours_crowd_no_more_than_others() {
    let key = HashKey::new([5, 6]);
    let near = |id: u32| key.index_hash(&flow(false, 0, id % 4096, (id / 4096) as u16));
    let (away, splits) = crowding(1_000_000, near);
    let (away_alone, 0) = crowding(1_000_000, mix) else { panic!("split") };
    assert!(f64::from(away) < 1.05 * f64::from(away_alone), "presized: {away}, {away_alone}");
    assert!(splits <= 5, "{splits} of 310");
    let ((away, _), (away_alone, _)) = (crowding(0, near), crowding(0, mix));
    assert!(f64::from(away) < 1.05 * f64::from(away_alone), "grown: {away}, {away_alone}");
}

#[test]
fn without_memory_the_table_fills_and_refuses() {
    let mut pages = HeapPages::with_limit(4 * size_of::<Page>() as u64);
    let mut table = FlowTable::with_capacity(&mut pages, 0).unwrap();
    let mut held = Vec::new();
    for id in 0..40_000 {
        if table.insert(mix(id), Kind::SynReceived, id).is_ok() {
            held.push(id);
        }
        table.maintain(&mut pages);
    }
    let stats = table.stats();
    assert_eq!(stats.splits, 3);
    assert!(stats.refused > 0);
    assert_eq!(stats.full as usize, 40_000 - held.len());
    let load = held.len() as f64 / (4 * SEGMENT_ENTRIES) as f64;
    assert!(load > 0.97, "gave up at a load of {load}");
    assert_eq!(pages.bytes_taken(), 4 * size_of::<Page>() as u64);
    let model = held.iter().map(|&id| (id, Kind::SynReceived)).collect();
    verify(&table, &model, mix);
    for id in held {
        assert!(table.remove(mix(id), Kind::SynReceived, id));
    }
    assert!(table.is_empty());
    for _ in 0..10 {
        table.maintain(&mut pages);
    }
    assert_eq!(pages.bytes_taken(), size_of::<Page>() as u64, "empty segments merge");
    table.release(&mut pages);
}

#[test]
fn refusals_change_nothing() {
    let mut pages = HeapPages::with_limit(100_000);
    assert!(FlowTable::with_capacity(&mut pages, 1_000_000).is_err());
    assert_eq!(pages.bytes_taken(), 0);
    assert!(FlowTable::with_capacity(&mut pages, usize::MAX / 2).is_err());

    let mut table = FlowTable::with_capacity(&mut pages, 10).unwrap();
    assert_eq!(table.insert(1, Kind::Connection, HANDLE_SPAN), Err(Full));
    table.insert(1, Kind::Connection, 5).unwrap();
    assert_eq!(table.replace(1, (Kind::Connection, 5), (Kind::TimeWait, HANDLE_SPAN)), None);
    assert!(!table.remove(1, Kind::TimeWait, 5));
    assert_eq!(table.find(1, |_, _| true), Some((Kind::Connection, 5)));

    table.release(&mut pages);
    assert_eq!(table.insert(1, Kind::Connection, 5), Err(Full));
    assert_eq!(table.find(1, |_, _| true), None);
    assert_eq!(pages.bytes_taken(), 0);
}

#[test]
fn an_entry_is_found_again_where_it_was_put() {
    let mut pages = HeapPages::new();
    let mut table = FlowTable::with_capacity(&mut pages, 3_000).unwrap();
    let places: Vec<Place> = (0..3_000).map(|id| table.insert(mix(id), Kind::Connection, id).unwrap()).collect();
    let of = |id| places[id as usize];
    for id in 0..3_000 {
        assert!(!table.replace_at(of(id), (Kind::SynReceived, id), (Kind::TimeWait, id)), "of another kind");
        assert!(!table.replace_at(of(id), (Kind::Connection, id + 1), (Kind::TimeWait, id)), "of another flow");
        assert!(!table.replace_at(of(id), (Kind::Connection, id), (Kind::TimeWait, HANDLE_SPAN)), "no such handle");
        assert!(table.replace_at(of(id), (Kind::Connection, id), (Kind::TimeWait, id)));
    }
    for id in 0..3_000 {
        assert!(table.is_at(of(id), Kind::TimeWait, id) && table.remove_at(of(id), Kind::TimeWait, id));
        assert!(!table.is_at(of(id), Kind::TimeWait, id) && !table.remove_at(of(id), Kind::TimeWait, id));
    }
    verify(&table, &HashMap::new(), mix);
    table.release(&mut pages);
}
