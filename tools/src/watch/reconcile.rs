//! Two accounts of the same connections held against each other: what was lost, and where.
//!
//! A connection is known at both ends by its token, else by its addresses and ISS, else by its ISS alone. Where both ends
//! know it, what one sent and the other did not get was lost between them: in the bed (links and rings, which count what
//! they drop) or, if there is something in the middle, in that. Nothing is in the middle if both ends send to each other's
//! hardware addresses. A device that ends connections and opens its own has another ISS on its far side: then only the
//! connections are compared, not their segments.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::account::{Account, Heard};
use super::ledger::{Entry, Kind, Passed};
use crate::measure::Failure;
use crate::report::insight::{Example, LostSegments, Places, Reconciliation};

/// Failed connections that are told one by one.
const EXAMPLES_MAX: usize = 10;

/// Where something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This end.
    Generator,
    /// Links and rings.
    Bed,
    /// What stands in the middle.
    DeviceUnderTest,
    /// The other end.
    Server,
    /// What is known does not tell.
    Unknown,
}

impl Place {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Bed => "bed",
            Self::DeviceUnderTest => "device_under_test",
            Self::Server => "server",
            Self::Unknown => "unknown",
        }
    }

    fn count(self, places: &mut Places, more: u64) {
        *match self {
            Self::Generator => &mut places.generator,
            Self::Bed => &mut places.bed,
            Self::DeviceUnderTest => &mut places.device_under_test,
            Self::Server => &mut places.server,
            Self::Unknown => &mut places.unknown,
        } += more;
    }
}

/// The direction of what was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

/// What lies between the two ends.
#[derive(Debug)]
struct Between {
    something: bool,
    /// Losses that links and rings have counted and that are not accounted for yet, of connections and of segments.
    bed: [[u64; 2]; 2],
}

impl Between {
    fn of(here: &Account, there: &Account) -> Self {
        let (here, there) = (&here.header, &there.header);
        let meets = |hops: &HashSet<[u8; 6]>, macs: &HashSet<[u8; 6]>| hops.iter().all(|hop| macs.contains(hop));
        let direct = meets(&here.next_hops, &there.own_macs) && meets(&there.next_hops, &here.own_macs);
        let (out, back) = (here.tx_dropped + there.rx_dropped, there.tx_dropped + here.rx_dropped);
        Self { something: !direct, bed: [[out, back]; 2] }
    }

    /// Where one of what got lost on its `way` was lost.
    fn place(&mut self, way: Way, of: usize) -> Place {
        if !self.something {
            return Place::Bed;
        }
        let counted = &mut self.bed[of][way as usize];
        if *counted > 0 {
            *counted -= 1;
            return Place::Bed;
        }
        Place::DeviceUnderTest
    }
}

/// How far the two ends' clocks may be apart: both are this host's, but each was read once and then counted on.
const CLOCKS_APART_US: u64 = 100_000;

const CONNECTIONS: usize = 0;
const SEGMENTS: usize = 1;

/// The other end's connections, by what they may be known by.
struct Index<'a> {
    entries: &'a [Entry],
    tokens: HashMap<u64, usize>,
    addresses: HashMap<(SocketAddr, SocketAddr, u32), usize>,
    /// By ISS, where it is unique.
    sequences: HashMap<u32, Option<usize>>,
}

/// How a connection was found at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Token,
    Addresses,
    Sequence,
}

impl<'a> Index<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut index = Self {
            entries,
            tokens: HashMap::with_capacity(entries.len()),
            addresses: HashMap::with_capacity(entries.len()),
            sequences: HashMap::with_capacity(entries.len()),
        };
        for (number, entry) in entries.iter().enumerate() {
            if entry.token != 0 {
                index.tokens.insert(entry.token, number);
            }
            index.addresses.insert((entry.ends.remote, entry.ends.local, entry.iss), number);
            index.sequences.entry(entry.iss).and_modify(|found| *found = None).or_insert(Some(number));
        }
        index
    }

    fn find(&self, entry: &Entry) -> Option<(usize, By)> {
        let token = (entry.token != 0).then(|| self.tokens.get(&entry.token)).flatten();
        let addresses = || self.addresses.get(&(entry.ends.local, entry.ends.remote, entry.iss));
        let sequence = || {
            self.sequences.get(&entry.iss).copied().flatten().filter(|found| {
                // With both tokens known, they would have met.
                entry.token == 0 || self.entries[*found].token == 0
            })
        };
        token
            .map(|found| (*found, By::Token))
            .or_else(|| addresses().map(|found| (*found, By::Addresses)))
            .or_else(|| sequence().map(|found| (found, By::Sequence)))
    }
}

/// Holds the generator's account against what was heard of the server. `local` are connections that failed here before
/// anything left.
pub fn reconcile(here: &Account, heard: &Heard, local: u64) -> Reconciliation {
    let mut out = Reconciliation { connections_here: here.header.seen, sampled_one_in: 1, ..Reconciliation::default() };
    out.untracked_here = here.header.untracked;
    out.failed.generator = local;
    let there = match heard {
        Heard::Account(there) => there,
        Heard::Gone(at_us) => {
            out.server_gone = true;
            without(here, *at_us, &mut out);
            return out;
        }
    };
    let began_us = here.entries.iter().map(|entry| entry.first_us).min().unwrap_or(0).saturating_sub(CLOCKS_APART_US);
    let of_this_run = |entry: &&Entry| entry.first_us >= began_us;
    out.connections_there = Some(match there.header.thinned {
        0 => there.entries.iter().filter(of_this_run).count() as u64 + there.header.untracked,
        _ => there.header.seen,
    });
    out.untracked_there = there.header.untracked;
    out.server_gone = there.header.last && here.entries.iter().any(|entry| entry.last_us > there.header.at_us);
    let thinned = here.header.thinned.max(there.header.thinned);
    out.sampled_one_in = 1 << thinned;
    let mask = (1u64 << thinned) - 1;
    let mut between = Between::of(here, there);
    out.something_between = between.something;
    let index = Index::of(&there.entries);
    let mut found = vec![false; there.entries.len()];
    for entry in &here.entries {
        let outside = entry.lot() & mask != 0;
        match index.find(entry) {
            // Perhaps it ended well at the other end and was thinned out there.
            None if outside && entry.came.total() > 0 => {
                out.outside_sample += 1;
                if entry.failure != 0 {
                    fail(&mut out, entry, None, Place::Unknown, "not in the server's sample");
                }
            }
            None => missing(entry, there, &mut between, &mut out),
            Some((number, by)) => {
                found[number] = true;
                matched(entry, &there.entries[number], by, there, &mut between, &mut out);
            }
        }
    }
    let alone = |(number, entry): &(usize, &Entry)| !found[*number] && of_this_run(entry) && entry.lot() & mask == 0;
    out.only_there = Some(there.entries.iter().enumerate().filter(alone).count() as u64);
    out
}

fn example(out: &mut Reconciliation, entry: &Entry, there: Option<&Entry>, place: Place, why: &str) {
    if out.examples.len() < EXAMPLES_MAX {
        out.examples.push(Example {
            here: format!("{} to {}", entry.ends.local, entry.ends.remote),
            there: there.map(|entry| format!("{} to {}", entry.ends.remote, entry.ends.local)),
            place: place.name().into(),
            why: why.into(),
        });
    }
}

fn fail(out: &mut Reconciliation, entry: &Entry, there: Option<&Entry>, place: Place, why: &str) {
    place.count(&mut out.failed, 1);
    example(out, entry, there, place, why);
}

/// The server went away and left no account.
fn without(here: &Account, at_us: u64, out: &mut Reconciliation) {
    for entry in here.entries.iter().filter(|entry| entry.failure != 0) {
        if entry.last_us >= at_us {
            fail(out, entry, None, Place::Server, "the server was gone");
        } else {
            fail(out, entry, None, Place::Unknown, "the server's account went with it");
        }
    }
}

/// The server knows nothing of it.
fn missing(entry: &Entry, there: &Account, between: &mut Between, out: &mut Reconciliation) {
    out.only_here += 1;
    if there.header.last && entry.last_us >= there.header.at_us {
        out.lost.server += entry.sent.total();
        if entry.failure != 0 {
            fail(out, entry, None, Place::Server, "the server was gone");
        }
        return;
    }
    if there.header.untracked > 0 {
        if entry.failure != 0 {
            fail(out, entry, None, Place::Unknown, "the server's account was full");
        }
        return;
    }
    lose(&entry.sent, &Passed::default(), Way::Out, between, out);
    if entry.failure != 0 {
        let reset = entry.came.count(Kind::Rst) > 0;
        let place =
            if reset && between.something { Place::DeviceUnderTest } else { between.place(Way::Out, CONNECTIONS) };
        let why = if reset { "reset, and not by the server" } else { "nothing of it reached the server" };
        fail(out, entry, None, place, why);
    }
}

/// Counts what was sent and did not come.
fn lose(sent: &Passed, came: &Passed, way: Way, between: &mut Between, out: &mut Reconciliation) {
    let whole = sent.text == sent.text_end && sent.text_end == came.text_end;
    for kind in Kind::ALL {
        let lost = sent.count(kind).saturating_sub(came.count(kind));
        // Text that arrived although none was sent twice may have been put together on its way.
        if lost == 0 || kind == Kind::Data && whole {
            continue;
        }
        let by_kind: &mut LostSegments = if way == Way::Out { &mut out.lost_out } else { &mut out.lost_back };
        *match kind {
            Kind::Syn => &mut by_kind.syn,
            Kind::SynAck => &mut by_kind.syn_ack,
            Kind::Data => &mut by_kind.data,
            Kind::Ack => &mut by_kind.ack,
            Kind::Fin => &mut by_kind.fin,
            Kind::Rst => &mut by_kind.rst,
        } += u64::from(lost);
        for _ in 0..lost {
            between.place(way, SEGMENTS).count(&mut out.lost, 1);
        }
    }
}

fn matched(entry: &Entry, other: &Entry, by: By, there: &Account, between: &mut Between, out: &mut Reconciliation) {
    out.matched += 1;
    *match by {
        By::Token => &mut out.matched_by_token,
        By::Addresses => &mut out.matched_by_addresses,
        By::Sequence => &mut out.matched_by_sequence,
    } += 1;
    out.translated += u64::from(entry.ends.local != other.ends.remote);
    out.redirected += u64::from(entry.ends.remote != other.ends.local);
    let terminated = entry.iss != other.iss;
    out.terminated += u64::from(terminated);
    let gone = there.header.last && entry.last_us >= there.header.at_us;
    if !terminated {
        if gone {
            out.lost.server += entry.sent.total().saturating_sub(other.came.total());
        } else {
            lose(&entry.sent, &other.came, Way::Out, between, out);
        }
        lose(&other.sent, &entry.came, Way::Back, between, out);
    }
    if entry.failure != 0 {
        let (place, why) = cause(entry, other, gone, terminated, between);
        fail(out, entry, Some(other), place, why);
    }
}

/// Why a connection failed that both ends know of.
fn cause(entry: &Entry, other: &Entry, gone: bool, terminated: bool, between: &mut Between) -> (Place, &'static str) {
    let is = |failure: Failure| entry.failure == failure as u8 + 1;
    let middle = |between: &Between| if between.something { Place::DeviceUnderTest } else { Place::Unknown };
    let mut lost = |way| between.place(way, CONNECTIONS);
    if entry.came.count(Kind::Rst) > 0 {
        return match other.sent.count(Kind::Rst) {
            0 => (middle(between), "reset, and not by the server"),
            _ => (Place::Server, "the server reset it"),
        };
    }
    if terminated {
        return (middle(between), "opened anew on the way");
    }
    if other.sent.count(Kind::SynAck) == 0 {
        return (Place::Server, "the server did not answer the SYN");
    }
    if entry.came.count(Kind::SynAck) == 0 {
        return (lost(Way::Back), "no SYN+ACK came back");
    }
    if other.came.total() <= u64::from(other.came.count(Kind::Syn)) {
        return if gone {
            (Place::Server, "the server was gone")
        } else {
            (lost(Way::Out), "nothing came after the SYN")
        };
    }
    if entry.sent.text_end > other.came.text_end {
        return if gone { (Place::Server, "the server was gone") } else { (lost(Way::Out), "the request was lost") };
    }
    if other.sent.text_end > entry.came.text_end {
        return (lost(Way::Back), "the answer was lost");
    }
    if is(Failure::Icmp) {
        return (middle(between), "an ICMP error came");
    }
    if entry.sent.count(Kind::Fin) > 0 && other.came.count(Kind::Fin) == 0 && !gone {
        return (lost(Way::Out), "the FIN was lost");
    }
    if other.sent.count(Kind::Fin) > 0 && entry.came.count(Kind::Fin) == 0 {
        return (lost(Way::Back), "the FIN was lost");
    }
    if is(Failure::DataTimeout) || is(Failure::EarlyFin) {
        return (Place::Server, "the server had the request and did not answer it in full");
    }
    if is(Failure::BadResponse) && !between.something {
        return (Place::Server, "the server answered otherwise");
    }
    (Place::Unknown, "both ends agree on what passed")
}

#[cfg(test)]
mod tests {
    use syncline_engine::app::Endpoints;

    use super::super::account::Header;
    use super::*;

    fn passed(segments: [u16; Kind::COUNT], text: u32) -> Passed {
        Passed { segments, text_end: text, text }
    }

    /// A connection of request and response, as its two ends see it.
    fn pair(number: u16) -> (Entry, Entry) {
        let (local, remote) = (SocketAddr::from(([10, 0, 0, 1], number)), SocketAddr::from(([10, 0, 0, 2], 80)));
        let (out, back) = (passed([1, 0, 1, 2, 1, 0], 64), passed([0, 1, 0, 1, 1, 0], 64));
        let (token, iss) = (u64::from(number), u32::from(number));
        let here = Entry { token, iss, sent: out, came: back, ..Entry::begin(Endpoints { local, remote }, 5) };
        let there = Endpoints { local: remote, remote: local };
        (here, Entry { sent: back, came: out, ends: there, ..here })
    }

    fn accounts(count: u16, routed: bool) -> (Account, Account) {
        let (here, there): (Vec<_>, Vec<_>) = (1..=count).map(pair).unzip();
        let header = |own: u8, hop: u8| Header {
            at_us: 1_000,
            seen: u64::from(count),
            own_macs: [[own; 6]].into(),
            next_hops: [[hop; 6]].into(),
            ..Header::default()
        };
        let hops = if routed { (3, 4) } else { (2, 1) };
        (Account { header: header(1, hops.0), entries: here }, Account { header: header(2, hops.1), entries: there })
    }

    fn of(here: &Account, there: &Account) -> Reconciliation {
        reconcile(here, &Heard::Account(Box::new(there.clone())), 0)
    }

    #[test]
    fn what_agrees_comes_to_nothing() {
        let (here, there) = accounts(100, true);
        let out = of(&here, &there);
        assert_eq!((out.matched, out.matched_by_token, out.only_here, out.only_there), (100, 100, 0, Some(0)));
        assert_eq!((out.failed, out.lost), (Places::default(), Places::default()));
        assert!(out.something_between && !of(&accounts(1, false).0, &accounts(1, false).1).something_between);
    }

    #[test]
    fn translation_hides_nothing_and_is_counted() {
        let (mut here, mut there) = accounts(10, true);
        for entry in &mut there.entries {
            entry.ends.remote.set_ip([192, 0, 2, 1].into());
        }
        assert_eq!(of(&here, &there).translated, 10);
        // Without a token the ISS tells, if it is nobody else's.
        here.entries[0].token = 0;
        there.entries[0].token = 0;
        assert_eq!(of(&here, &there).matched_by_sequence, 1);
    }

    #[test]
    fn lost_segments_are_the_beds_as_far_as_it_counted_them() {
        let (mut here, mut there) = accounts(10, true);
        for entry in &mut here.entries {
            entry.sent.segments[Kind::Syn as usize] = 2;
        }
        there.header.rx_dropped = 3;
        let out = of(&here, &there);
        assert_eq!((out.lost.bed, out.lost.device_under_test, out.lost_out.syn), (3, 7, 10));
        assert_eq!(out.failed, Places::default());
    }

    #[test]
    fn a_failure_is_where_the_thread_breaks() {
        let failure = Failure::SynTimeout as u8 + 1;
        let place = |change: fn(&mut Entry, &mut Entry)| {
            let (mut here, mut there) = accounts(1, true);
            here.entries[0].failure = failure;
            change(&mut here.entries[0], &mut there.entries[0]);
            let out = of(&here, &there);
            (out.examples[0].place.clone(), out.examples[0].why.clone())
        };
        let told = |place: &str, why: &str| (place.to_owned(), why.to_owned());
        let none = Passed::default();
        assert_eq!(
            place(|here, there| (there.sent, here.came) = (Passed::default(), Passed::default())),
            told("server", "the server did not answer the SYN")
        );
        assert_eq!(place(|here, _| here.came = Passed::default()), told("device_under_test", "no SYN+ACK came back"));
        assert_eq!(place(|_, there| there.came.text_end = 0), told("device_under_test", "the request was lost"));
        assert_eq!(
            place(|here, there| {
                here.came.segments[Kind::Rst as usize] = 1;
                there.sent.segments[Kind::Rst as usize] = 1;
            }),
            told("server", "the server reset it")
        );
        assert_eq!(
            place(|here, there| (here.failure, there.sent.text_end, here.came.text_end) =
                (Failure::DataTimeout as u8 + 1, 0, 0)),
            told("server", "the server had the request and did not answer it in full")
        );
        let (mut here, mut there) = accounts(1, true);
        (here.entries[0].failure, here.entries[0].came) = (failure, none);
        there.entries.clear();
        assert_eq!(of(&here, &there).failed.device_under_test, 1);
        let out = reconcile(&here, &Heard::Gone(5), 7);
        assert_eq!((out.failed.server, out.failed.generator, out.server_gone), (1, 7, true));
        assert_eq!(reconcile(&here, &Heard::Gone(6), 0).failed.unknown, 1);
    }

    #[test]
    fn another_runs_connections_are_not_this_ones() {
        let (mut here, mut there) = accounts(5, true);
        let mut earlier = pair(77).1;
        here.entries.iter_mut().chain(&mut there.entries).for_each(|entry| entry.first_us += 1_000_000);
        there.entries.push(earlier);
        assert_eq!((of(&here, &there).connections_there, of(&here, &there).only_there), (Some(5), Some(0)));
        earlier.first_us += 1_000_000;
        there.entries.push(Entry { token: 78, ..earlier });
        assert_eq!((of(&here, &there).connections_there, of(&here, &there).only_there), (Some(6), Some(1)));
    }

    #[test]
    fn a_sample_is_the_same_at_both_ends() {
        let (mut here, mut there) = accounts(1_000, true);
        here.header.thinned = 3;
        here.entries.retain(|entry| entry.lot() & 7 == 0);
        assert_eq!((of(&here, &there).only_there, of(&here, &there).sampled_one_in), (Some(0), 8));
        there.entries.retain(|entry| entry.lot() & 1 == 0);
        there.header.thinned = 1;
        let out = of(&here, &there);
        assert_eq!((out.only_here, out.only_there, out.matched), (0, Some(0), here.entries.len() as u64));
    }
}
