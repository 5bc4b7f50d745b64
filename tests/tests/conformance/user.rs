//! What an application may ask for, and what it is told (RFC 9293 §3.9.1, §3.9.2).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use syncline_engine::app::ConnectError;
use syncline_engine::config::{Listener, SynCookies};

use crate::loss::{Alive, begins_afresh_after_idle};
use crate::prelude::*;

/// The address that a frame comes from.
fn source(seg: &Seg) -> IpAddr {
    let octets = &seg.frame[14..];
    if octets[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&octets[12..16]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&octets[8..24]).unwrap())
    }
}

/// Type of service or traffic class, and time to live or hop limit.
fn service(seg: &Seg) -> (u8, u8) {
    let octets = &seg.frame[14..];
    if octets[0] >> 4 == 4 { (octets[1], octets[8]) } else { (octets[0] << 4 | octets[1] >> 4, octets[7]) }
}

/// A bed whose engine owns eight addresses.
fn eight(v6: bool) -> Bed {
    let last = if v6 { "fd66::8" } else { "10.66.0.8" }.parse().unwrap();
    Bed::with(v6, |config| config.addresses[0].last = last)
}

/// Has a connection send, and nobody answer, for `ms`; how it ended.
fn unanswered(c: &mut Peer, ms: u64) -> Option<End> {
    c.tell(|conn| Services::tell_to_send(conn, 100));
    c.collect(ms);
    c.bed.services().ended.last().map(|e| e.1)
}

checks! {
    /// §3.9.1.1 MUST-43, MUST-45: the local address may be given, and it is that of every segment.
    //= RFC 9293 MUST-43, MUST-45
    fn local_address_given(bed) {
        let bed = eight(bed.is_v6());
        let local = bed.address();
        for _ in 0..16 {
            let mut c = bed.dialled_by(|net, remote| net.connect_from(local, remote, 0).expect("an open"));
            c.need(c.syn.as_ref().is_some_and(|syn| source(syn) == local), "the SYN comes from elsewhere");
            c.answer_syn(&Offer::plain());
            for s in c.collect(50) {
                c.need(source(&s) == local, "a segment comes from elsewhere");
            }
        }
        let remote = SocketAddr::new(bed.fresh_host(), 80);
        for other in ["10.66.0.9", "fd66::9", "224.0.0.1", if bed.is_v6() { "10.66.0.1" } else { "fd66::1" }] {
            let opened = bed.engine(|engine| engine.net().connect_from(other.parse().unwrap(), remote, 0));
            assert_eq!(opened, Err(ConnectError::InvalidAddress), "{other}");
        }
    }

    /// MUST-44: if it is not given, an owned one is found before the SYN leaves.
    //= RFC 9293 MUST-44
    //= RFC 1122 3.2.1.3-MUST-3
    fn local_address_found(bed) {
        let bed = eight(bed.is_v6());
        let mut sources = std::collections::HashSet::new();
        for _ in 0..32 {
            let c = bed.dialled();
            sources.insert(c.syn.as_ref().map(source));
        }
        assert!((4..=8).contains(&sources.len()), "{sources:?}");
    }

    /// MUST-46: an open to what is no other host is refused, and nothing is sent.
    //= RFC 9293 MUST-46
    fn opens_to_no_host(bed) {
        let remotes: &[&str] = if bed.is_v6() {
            &["[ff02::1]:80", "[::]:80", "[::1]:80", "[::ffff:10.66.0.9]:80", "[fd66::9]:0"]
        } else {
            &["224.0.0.1:80", "255.255.255.255:80", "10.66.255.255:80", "0.0.0.0:80", "127.0.0.1:80", "10.66.0.9:0"]
        };
        for remote in remotes {
            let opened = bed.engine(|engine| engine.net().connect(remote.parse().unwrap(), 0));
            assert_eq!(opened, Err(ConnectError::InvalidAddress), "{remote}");
        }
        let own = SocketAddr::new(bed.address(), 80);
        let opened = bed.engine(|engine| engine.net().connect(own, 0));
        assert_eq!(opened, Err(ConnectError::InvalidAddress), "{own}");
        bed.run(100);
        assert!(bed.other(10, |_| true).is_none(), "somebody was asked for");
        bed.alive();
    }

    /// RFC 1122 §3.3.1.1: what is not on the link is sent to the gateway.
    //= RFC 1122 3.3.1.1-MUST-1
    fn beyond_the_link(bed) {
        let v6 = bed.is_v6();
        let gateway: IpAddr = if v6 { "fd66::fe" } else { "10.66.0.254" }.parse().unwrap();
        let bed = Bed::with(v6, |config| (config.gateway_v4, config.gateway_v6) = (Some(gateway), Some(gateway)));
        let far = if v6 { "[2001:db8::7]:80" } else { "198.51.100.7:80" }.parse().unwrap();
        bed.engine(|engine| engine.net().connect(far, 0).expect("an open"));
        let target = match gateway {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let at = if v6 { 62 } else { 38 };
        let asked = bed.other(100, |frame| frame.get(at..at + target.len()) == Some(&target));
        assert!(asked.is_some(), "the gateway was not asked for");
    }

    /// RFC 6191 §2, RFC 7323 §5.4: one clock for all connections of two hosts.
    //= RFC 6191 2-SHOULD-3
    fn timestamps_go_on(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            for listener in &mut config.listeners {
                listener.syn_cookies = SynCookies::Never;
            }
        });
        let host = bed.fresh_host();
        let stamp = || bed.peer_at(host, ECHO).syn(&Offer::full()).options.timestamps.expect("timestamps").value;
        let first = stamp();
        bed.run(20);
        let passed = stamp().wrapping_sub(first);
        assert!((20..=30).contains(&passed), "{passed} ms");
    }

    /// MUST-41, MUST-42: a port may be listened on while a connection of it is being opened; twice it may not, and the
    /// first listener stays.
    //= RFC 9293 MUST-41, MUST-42
    fn listening_beside_an_open(bed) {
        let mut c = bed.dialled();
        c.need(c.state() == State::SynSent, "SYN-SENT");
        let port = c.ports.1;
        let listener = Listener { first_port: port, last_port: port, syn_cookies: SynCookies::Auto };
        let listen = || bed.engine(|engine| engine.net().listen(listener.clone()));
        assert!(listen().is_some(), "the port is in use");
        assert_eq!(listen(), None, "two listeners on one port");
        let mut other = bed.peer(port);
        other.open(&Offer::plain());
        other.echo(b"hello");
        c.answer_syn(&Offer::plain());
        c.any(500, "third ACK");
        c.read(REQUEST_BYTES as usize);
        other.still_open("beside the other");
    }

    /// MUST-48, MUST-49: code point and hop limit are those configured, on every kind of segment.
    //= RFC 9293 MUST-48, MUST-49, SHLD-22
    //= RFC 1122 3.2.1.6-MUST-1, 3.2.1.7-MUST-3
    fn service_of_ip(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.hop_limit = 77;
            config.tcp.dscp = 46;
        });
        let mut c = bed.peer(ECHO);
        let mut segs = vec![c.syn(&Offer::full())];
        c.data(b"hello");
        segs.extend(c.collect(50));
        let mut shut = bed.peer(SHUT);
        shut.send(Out::new(SYN).seq(shut.iss));
        segs.push(shut.any(500, "RST"));
        segs.extend(bed.dialled().syn.clone());
        assert!(segs.len() >= 4);
        for s in segs {
            assert_eq!((service(&s).0 >> 2, service(&s).1), (46, 77), "{:?}", s.flags);
        }
        let mut c = bed.open(ECHO, &Offer { ecn: true, ..Offer::full() });
        c.data(b"marked");
        let s = c.expect(500, "echo", |s| !s.data.is_empty());
        c.need(service(&s).0 == 46 << 2 | 2, "code point and ECT(0)");
    }

    /// MUST-21: a connection may have a patience of its own, shorter than that of all or longer.
    //= RFC 9293 MUST-21
    fn user_timeout_of_one(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::full());
        c.tell(|conn| conn.set_user_timeout(Some(Duration::from_secs(10))));
        c.settle();
        let end = unanswered(&mut c, 9_000);
        c.need(end.is_none(), "too soon");
        c.collect(12_000);
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Timeout), "ten seconds and a back-off are over");

        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| conn.set_user_timeout(Some(Duration::from_secs(24 * 3600))));
        c.settle();
        let end = unanswered(&mut c, 12 * 3_600_000);
        c.need(end.is_none(), "given up all the same");
        c.collect(13 * 3_600_000);
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Timeout), "a day is over");

        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| conn.set_user_timeout(Some(Duration::from_secs(10))));
        c.tell(|conn| conn.set_user_timeout(None));
        c.settle();
        let end = unanswered(&mut c, 60_000);
        c.need(end.is_none(), "taken back");
    }

    /// MUST-21, MUST-22: and so may one that is being opened.
    //= RFC 9293 MUST-21, MUST-22
    fn user_timeout_of_a_syn(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled_by(|net, remote| {
            let id = net.connect(remote, 0).expect("an open");
            net.conn(id).expect("it is there").set_user_timeout(Some(Duration::from_secs(5)));
            id
        });
        c.collect(10_000);
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::SynTimeout), "given up");
    }

    /// MUST-17: where Nagle's algorithm is on, a connection may do without; small text then goes at once.
    //= RFC 9293 MUST-17
    fn nagle_of_one(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.nagle = true);
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.any(5, "the first small segment");
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.silent(20, "small text waits");
        c.tell(|conn| conn.set_nagle(false));
        c.any(5, "and goes when it may");
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.any(5, "as does what follows");
    }

    /// MUST-24, MUST-28: a connection may be probed where others are not, after two hours; or not where others are.
    //= RFC 9293 MUST-24, MUST-28
    fn keep_alive_of_one(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut silent = bed.open(ECHO, &Offer::plain());
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| conn.set_keep_alive(true));
        c.settle();
        let asked = bed.now();
        let s = c.any(7_300_000, "keep-alive probe");
        let idle = s.at.since(asked).as_secs();
        c.need((7_195..=7_205).contains(&idle) && s.seq == c.rcv_nxt - 1, &format!("after {idle} s"));
        c.ack();
        c.tell(|conn| conn.set_keep_alive(false));
        c.silent(10_000_000, "it was taken back");
        silent.silent(10, "nobody asked for it here");

        let bed = Bed::with(bed.is_v6(), |config| config.tcp.keepalive = Some(Duration::from_secs(100)));
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| conn.set_keep_alive(false));
        c.silent(1_000_000, "it asked for none");
        c.still_acknowledges();
    }

    /// What is set for a connection keeps its block, not its congestion window over idle time (RFC 5681 §4.1).
    //= RFC 5681 4.1-SHOULD-1
    fn settings_do_not_keep_the_window(bed) {
        let mut c = bed.open(SINK, &Offer::full().mss(536));
        c.tell(|conn| conn.set_nagle(true));
        begins_afresh_after_idle(bed, &mut c);
    }

    /// MUST-47, SHLD-9, SHLD-10: the third retransmission in a row is reported, once, of data and of a SYN.
    //= RFC 9293 MUST-22, MUST-47, SHLD-9, SHLD-10
    fn delivery_problem_reported(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::plain());
        c.settle();
        c.tell(|conn| Services::tell_to_send(conn, 100));
        let mut sent = 0;
        while bed.services().reports.is_empty() && sent < 20 {
            c.any(60_000, "text, again and again");
            sent += 1;
        }
        c.need(sent >= 4, &format!("reported after {sent} transmissions"));
        c.collect(100_000);
        let reports = bed.services().reports.clone();
        c.need(reports.len() == 1 && reports[0].1 == Report::Retransmitting, &format!("{reports:?}"));

        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled();
        c.collect(60_000);
        c.need(bed.services().reports.iter().any(|r| r.1 == Report::Retransmitting), "of a SYN");
    }

    /// §3.8.5 MUST-31, MUST-32, MUST-33: an urgent pointer is reported with how much is left up to it, however much that
    /// is; no pointer, and one that was passed, is not.
    //= RFC 9293 MUST-30, MUST-31, MUST-32, MUST-33, MUST-62
    fn urgent_pointer_reported(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::plain());
        let urgent = || bed.services().reports.iter().map(|r| r.1).collect::<Vec<_>>();
        c.send(Out::new(ACK).data(b"plain").urgent(3));
        c.settle();
        c.need(urgent().is_empty(), "without URG");
        c.send(Out::new(ACK | URG).data(&[1; 1000]).urgent(50_000));
        c.settle();
        c.need(urgent() == [Report::Urgent(50_000)], &format!("{:?}", urgent()));
        c.send(Out::new(ACK | URG).data(&[1; 1000]).urgent(49_000));
        c.settle();
        c.need(urgent().last() == Some(&Report::Urgent(49_000)), "what is left");
        c.send(Out::new(ACK | URG).urgent(0));
        c.settle();
        c.need(urgent().len() == 2, "a pointer that was passed");
        c.need(bed.services().read.len() == 2005, "it is data");
    }
}
