//! SYN cookies: connections that a listener makes without having kept anything for their SYN.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use syncline_engine::config::{Config, SynCookies};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::device::path::PathConfig;
use syncline_engine::page::HeapPages;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::peer::flags::{ACK, PSH, RST};
use syncline_tests::peer::{Bed, ENGINE_MAC, Offer, Out, PEER_MAC, Peer};
use syncline_tests::raw::{self, Ip};
use syncline_tests::services::ECHO;
use syncline_tests::sim::Sim;
use syncline_tests::transfer::Transfer;

/// Runs transfers against a listener in `mode` with room for `half_open` half-open connections.
fn run(
    mode: SynCookies,
    half_open: u32,
    v6: bool,
    timestamps: bool,
) -> Host<syncline_engine::device::link::LinkDevice, Transfer> {
    let path = PathConfig { delay: Duration::from_millis(1), ..PathConfig::default() };
    let (link, device_a, device_b) =
        Link::pair(LinkConfig { a_to_b: path.clone(), b_to_a: path, ..LinkConfig::default() }, 5);
    let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
    let remote = SocketAddr::new(b.parse().unwrap(), 7);
    let mut client = config(a, &[]);
    client.tcp.timestamps = timestamps;
    let mut server = config(b, &[7]);
    server.listeners[0].syn_cookies = mode;
    server.max_syn_received = half_open;
    let opener = Transfer::opener(200, remote, 100_000, 100_000);
    let mut a = Host::new(&client, &secrets(1), device_a, opener, HeapPages::new()).unwrap();
    let listener = Transfer::listener(100_000, 100_000);
    let mut b = Host::new(&server, &secrets(2), device_b, listener, HeapPages::new()).unwrap();
    let mut sim = Sim::new(link, 1_000_000, Duration::from_secs(300));
    sim.run(&mut a, &mut b, |a, b| a.app().ended.len() == 200 && b.app().ended.len() == 200).unwrap();
    for host in [a.app(), b.app()] {
        assert_eq!((host.fault.as_deref(), host.whole), (None, 200));
    }
    b
}

#[test]
fn always_keeps_nothing_and_loses_nothing() {
    for (v6, timestamps) in [(false, true), (false, false), (true, true), (true, false)] {
        let server = run(SynCookies::Always, 65_536, v6, timestamps);
        let stats = server.stats();
        assert_eq!(stats.syn_cookies_accepted.get(), 200);
        assert_eq!(stats.syn_cookies_sent.get(), 200);
        assert_eq!(stats.passive_opens.get(), 0, "no half-open connection was kept");
        assert_eq!(stats.syn_cookies_rejected.get(), 0);
    }
}

#[test]
fn auto_keeps_what_it_has_room_for_and_the_rest_completes_all_the_same() {
    let server = run(SynCookies::Auto, 40, false, true);
    let stats = server.stats();
    assert!(stats.syn_cookies_accepted.get() > 100, "{}", stats.syn_cookies_accepted.get());
    assert!(stats.passive_opens.get() >= 30);
    assert_eq!(stats.syn_cookies_accepted.get() + stats.passive_opens.get(), 200);
}

#[test]
fn never_sends_no_cookie_and_peers_try_again() {
    let server = run(SynCookies::Never, 40, false, true);
    let stats = server.stats();
    assert_eq!((stats.syn_cookies_sent.get(), stats.syn_cookies_accepted.get()), (0, 0));
    assert!(stats.refused_table_full.get() > 0, "the limit was met");
}

/// A bed whose listeners are in `mode`.
fn bed(v6: bool, mode: SynCookies) -> Bed {
    Bed::with(v6, |config| cookies(config, mode))
}

fn cookies(config: &mut Config, mode: SynCookies) {
    config.listeners.iter_mut().for_each(|listener| listener.syn_cookies = mode);
}

fn count(bed: &Bed, name: &str) -> u64 {
    bed.engine(|engine| {
        let found = engine.stats().entries().find(|entry| entry.0 == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).2
    })
}

/// The ways a cookie is made: everything in the ISN, or options in the timestamp, and both families.
fn ways() -> impl Iterator<Item = (bool, Offer)> {
    let narrow = Offer { timestamps: false, ..Offer::full() };
    [false, true].into_iter().flat_map(move |v6| [(v6, Offer::full()), (v6, narrow.clone())])
}

/// A peer at `host` that says the same as `other`.
fn like(bed: &Bed, host: IpAddr, other: &Peer) -> Peer {
    let mut peer = bed.peer_at(host, ECHO);
    (peer.ports, peer.snd_nxt, peer.rcv_nxt) = (other.ports, other.snd_nxt, other.rcv_nxt);
    (peer.timestamps, peer.ts_recent, peer.clock) = (other.timestamps, other.ts_recent, other.clock);
    peer
}

/// A cookie is good for who got it, with every bit as it was, and in its time.
#[test]
fn a_changed_cookie_is_refused() {
    for (v6, offer) in ways() {
        let bed = bed(v6, SynCookies::Always);
        let mut c = bed.peer(ECHO);
        c.syn(&offer);
        let (seq, ack, echo) = (c.snd_nxt, c.rcv_nxt, c.ts_recent);

        like(&bed, bed.fresh_host(), &c).ack();
        let mut port = like(&bed, c.host, &c);
        port.ports.0 += 1;
        port.ack();
        for offset in [1, 2, 3, 4, 1 << 8, 1 << 31, u32::MAX] {
            c.send(Out::new(ACK).seq(seq + offset).ack(ack));
        }
        for bit in 0..32 {
            // MAC, epoch and, without timestamps, MSS, scale and SACK
            c.send(Out::new(ACK).seq(seq).ack(syncline_engine::wire::Seq(ack.0 ^ 1 << bit)));
        }
        if c.timestamps {
            for bit in 0..9 {
                c.ts_recent = echo ^ 1 << bit;
                c.send(Out::new(ACK).seq(seq).ack(ack));
            }
            c.ts_recent = echo;
        }
        bed.run(10);
        assert_eq!(count(&bed, "syn_cookies_accepted"), 0, "IPv6 {v6}, {offer:?}");
        assert!(count(&bed, "syn_cookies_rejected") >= 40);
        assert!(bed.services().live.is_empty());

        c.ack();
        c.still_open("the cookie as it was");
        assert_eq!(count(&bed, "syn_cookies_accepted"), 1);
    }
}

/// Keys change every 32.768 s, and a cookie is good in its own epoch and the next.
#[test]
fn an_old_cookie_is_refused_and_so_is_its_replay() {
    for (v6, offer) in ways() {
        let bed = bed(v6, SynCookies::Always);
        let mut prompt = bed.peer(ECHO);
        prompt.syn(&offer);
        let mut replayed = bed.peer(ECHO);
        replayed.syn(&offer);
        replayed.ack();
        replayed.still_open("in time");
        let (seq, ack) = (replayed.iss + 1, replayed.irs + 1);
        replayed.send(Out::new(RST));
        bed.run(30_000);
        prompt.ack();
        prompt.still_open("thirty seconds later");
        assert_eq!(count(&bed, "syn_cookies_accepted"), 2);
        let mut late = bed.peer(ECHO);
        late.syn(&offer);
        // two rotations later, while others are outstanding
        bed.run(66_000);
        bed.peer(ECHO).send_syn(&offer);
        bed.run(1);
        late.ack();
        replayed.send(Out::new(ACK).seq(seq).ack(ack));
        bed.run(10);
        assert_eq!(count(&bed, "syn_cookies_accepted"), 2, "IPv6 {v6}, {offer:?}");
        assert_eq!(count(&bed, "syn_cookies_rejected"), 2);
    }
}

/// The ACK is lost, and the first three octets behind it. Where the peer's ISN is added to the cookie, and not hashed, the
/// next segment has a valid sum with another MSS, and the connection opens without those octets.
#[test]
fn no_octet_is_lost_with_a_lost_ack() {
    for (v6, offer) in ways() {
        for lost in 1..=8 {
            let bed = bed(v6, SynCookies::Always);
            let mut c = bed.peer(ECHO);
            c.syn(&offer);
            // "abc" and its ACK are lost, "defg" arrives
            c.send(Out::new(ACK | PSH).seq(c.snd_nxt + lost).data(b"defg"));
            c.expect_reset(c.rcv_nxt, "a segment that is not the first");
            assert_eq!((count(&bed, "established"), count(&bed, "syn_cookies_rejected")), (0, 1));

            // with a record beside the cookie the octets are waited for
            let bed = self::bed(v6, SynCookies::Auto);
            let mut c = bed.peer(ECHO);
            c.syn(&offer);
            let text = &b"abcdefghijkl"[..lost as usize + 4];
            c.send(Out::new(ACK | PSH).seq(c.snd_nxt + lost).data(&text[lost as usize..]));
            c.never(100, "text out of order is not delivered", |seg| !seg.data.is_empty());
            c.data(&text[..lost as usize]);
            c.snd_nxt += 4;
            c.reads(text);
        }
    }
}

/// ACKs with random numbers, through the worker. All 2^24 are tried on the jar itself, in its own tests.
#[test]
fn guesses_open_nothing() {
    const GUESSES: u64 = 1 << 17;
    let bed = bed(false, SynCookies::Always);
    bed.peer(ECHO).send_syn(&Offer::full());
    bed.run(1);
    let engine = bed.address();
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    for n in 0..GUESSES {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let host = IpAddr::V4(Ipv4Addr::from_bits(0x0a42_8000 | (x >> 48) as u32 & 0x3fff));
        let segment = raw::Tcp {
            ports: (1024 + (x >> 36) as u16 % 60_000, ECHO),
            seq: (x >> 24) as u32,
            ack: x as u32 ^ (x >> 40) as u32,
            flags: 0x10,
            reserved: 0,
            window: 1000,
            urgent: 0,
            options: &[],
            data: b"",
            flaw: None,
        };
        let packet = raw::ip(host, engine, 6, Ip::default(), &raw::tcp(host, engine, &segment));
        bed.inject(&raw::ethernet(ENGINE_MAC, PEER_MAC, 0x0800, &packet));
        if n % 512 == 0 {
            bed.run(1);
        }
    }
    bed.run(1);
    // a chance of 2^-24 each: one of 2^17 in a hundred and thirty runs, two in sixteen thousand
    assert!(count(&bed, "established") <= 1, "{} guesses were taken", count(&bed, "established"));
    let tried = count(&bed, "syn_cookies_rejected") + count(&bed, "syn_cookies_accepted");
    assert_eq!(tried, GUESSES, "all of them were tried");
}

/// An ACK is tried as a cookie only while one may be out.
#[test]
fn acks_are_tried_only_while_cookies_are_out() {
    let bed = Bed::with(false, |config| config.max_syn_received = 8);
    let guess = |bed: &Bed| {
        bed.peer(ECHO).ack();
        bed.run(1);
        count(bed, "syn_cookies_rejected")
    };
    bed.open(ECHO, &Offer::full()).still_open("with a record");
    assert_eq!(guess(&bed), 0, "every SYN has a record");
    (0..8).for_each(|_| bed.peer(ECHO).send_syn(&Offer::full()));
    bed.run(1);
    assert_eq!(count(&bed, "syn_cookies_sent"), 2);
    assert_eq!(guess(&bed), 1);
    bed.run(70_000);
    assert_eq!(guess(&bed), 1, "two epochs later");
}

/// A rate of SYNs that lead to nothing turns records off, and they come back when half of it is left.
#[test]
fn a_flood_is_met_with_cookies_until_it_is_over() {
    for v6 in [false, true] {
        let bed = Bed::with(v6, |config| config.syn_flood_per_second = 1_000);
        let syns = |each: u32, ms: u64| {
            for _ in 0..ms / 10 {
                (0..each / 100).for_each(|_| bed.peer(ECHO).send_syn(&Offer::full()));
                bed.run(10);
            }
        };
        syns(2_000, 500);
        let kept = count(&bed, "passive_opens");
        assert!((50..=120).contains(&kept), "{kept} records of 1000 SYNs");
        assert_eq!((count(&bed, "syn_floods"), count(&bed, "syn_flood_now")), (1, 1));
        bed.open(ECHO, &Offer::full()).still_open("in a flood");
        assert_eq!(count(&bed, "syn_cookies_accepted"), 1);
        // three quarters of the rate: not over yet
        syns(700, 500);
        assert_eq!(count(&bed, "passive_opens"), kept);
        syns(300, 500);
        assert!(count(&bed, "passive_opens") > kept + 50, "records are made again");
        assert_eq!((count(&bed, "syn_floods"), count(&bed, "syn_flood_now")), (1, 0));
    }
}

/// One prefix takes no more than its share of the records. Its connections complete by cookies, those of others by records.
#[test]
fn a_prefix_has_its_share_of_the_records() {
    let bed = Bed::with(false, |config| config.max_syn_received_per_prefix = 20);
    let host = |net: u8, n: u8| IpAddr::V4(Ipv4Addr::new(10, 66, net, n));
    for n in 0..100 {
        bed.peer_at(host(100, n), ECHO).send_syn(&Offer::full());
    }
    bed.run(1);
    assert_eq!((count(&bed, "passive_opens"), count(&bed, "syn_prefix_limited")), (20, 80));
    let mut same = bed.peer_at(host(100, 200), ECHO);
    same.open(&Offer::full());
    same.still_open("of the prefix");
    assert_eq!((count(&bed, "passive_opens"), count(&bed, "syn_cookies_accepted")), (20, 1));
    let mut other = bed.peer_at(host(101, 200), ECHO);
    other.open(&Offer::full());
    other.still_open("of another prefix");
    assert_eq!((count(&bed, "passive_opens"), count(&bed, "syn_cookies_accepted")), (21, 1));
    // what is forgotten makes room
    bed.run(70_000);
    bed.peer_at(host(100, 7), ECHO).send_syn(&Offer::full());
    bed.run(1);
    assert_eq!(count(&bed, "passive_opens"), 22);
}

/// A connection made from a cookie sends the same segments as one made from a record.
#[test]
fn a_connection_from_a_cookie_is_as_good_as_another() {
    for (v6, offer) in ways() {
        let segments = |mode| {
            let bed = bed(v6, mode);
            let mut c = bed.peer(ECHO);
            let syn_ack = c.syn(&offer);
            c.window = 9;
            c.ack();
            // out of order first: SACK is spoken, and RTT is known in both cases
            c.data_at(c.snd_nxt + 1, b"ehind a hole");
            let sack = c.any(100, "an acknowledgement").options.sack.as_slice().len();
            c.data(b"b");
            c.snd_nxt += 12;
            c.reads(b"behind a hole");
            c.window = 500;
            c.echo(&[7; 60_000]);
            c.data(&[8; 1300]);
            let seg = c.expect(100, "text", |seg| !seg.data.is_empty());
            let options = syn_ack.options;
            let offered = (options.mss, options.window_scale, options.sack_permitted, options.timestamps.is_some());
            let spoken = (seg.data.len(), seg.window, seg.options.timestamps.is_some(), sack);
            (offered, spoken, syn_ack.window)
        };
        assert_eq!(segments(SynCookies::Always), segments(SynCookies::Never), "IPv6 {v6}, {offer:?}");
    }
}
