//! ARP, neighbour discovery, IP, ICMP and path MTU; segments that are malformed.

use std::net::IpAddr;

use syncline_tests::peer::{ENGINE_MAC, PEER_MAC};

use crate::prelude::*;

pub(super) const BROADCAST: raw::Mac = [0xff; 6];

fn other_of_ours(bed: &Bed) -> IpAddr {
    if bed.is_v6() { "fd66::77" } else { "10.66.0.77" }.parse().unwrap()
}

/// Asks for `target` as a fresh host, by broadcast or multicast or to a station.
fn solicit(bed: &Bed, source: IpAddr, target: IpAddr, station: Option<raw::Mac>) {
    if let (IpAddr::V6(target), IpAddr::V6(asker)) = (target, source) {
        let (group, mac) = raw::solicited_node(target);
        let to = if station.is_some() { IpAddr::V6(target) } else { group };
        let mut body = raw::address(IpAddr::V6(target));
        if !asker.is_unspecified() {
            body.extend([1, 1]);
            body.extend(PEER_MAC);
        }
        let message = raw::icmp(source, to, 135, 0, [0; 4], &body);
        let packet = raw::ip(source, to, 58, Ip { ttl: 255, ..Ip::default() }, &message);
        bed.inject(&raw::ethernet(station.unwrap_or(mac), PEER_MAC, 0x86dd, &packet));
    } else {
        let packet = raw::arp(1, PEER_MAC, source, [0; 6], target);
        bed.inject(&raw::ethernet(station.unwrap_or(BROADCAST), PEER_MAC, 0x0806, &packet));
    }
}

/// Whether a frame is an ARP reply or a neighbour advertisement.
fn is_answer(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 6] => frame[21] == 2,
        [0x86, 0xdd] => frame[20] == 58 && frame[54] == 136,
        _ => false,
    }
}

fn is_echo_reply(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => frame[23] == 1 && frame[34] == 0,
        [0x86, 0xdd] => frame[20] == 58 && frame[54] == 129,
        _ => false,
    }
}

/// Type and code of an ICMP error.
pub(super) fn is_error(frame: &[u8]) -> Option<(u8, u8)> {
    match frame[12..14] {
        [8, 0] if frame[23] == 1 && matches!(frame[34], 3 | 11) => Some((frame[34], frame[35])),
        [0x86, 0xdd] if frame[20] == 58 && frame[54] < 128 => Some((frame[54], frame[55])),
        _ => None,
    }
}

pub(super) fn ping(bed: &Bed, host: IpAddr, len: usize) -> Vec<u8> {
    let kind = if bed.is_v6() { 128 } else { 8 };
    raw::icmp(host, bed.address(), kind, 0, *b"abcd", &vec![0x55; len])
}

fn inject_icmp(bed: &Bed, host: IpAddr, message: &[u8]) {
    bed.inject_ip(&raw::ip(host, bed.address(), raw::icmp_protocol(host), Ip::default(), message));
}

/// The ICMP error of a router about `seg`: type and code of IPv4 and of IPv6.
fn icmp_error(bed: &Bed, (v4, v6): ((u8, u8), (u8, u8)), word: u32, seg: &Seg) {
    let router = bed.fresh_host();
    let (kind, code) = if bed.is_v6() { v6 } else { v4 };
    let quote = if bed.is_v6() { &seg.frame[14..74] } else { &seg.frame[14..42] };
    inject_icmp(bed, router, &raw::icmp(router, bed.address(), kind, code, word.to_be_bytes(), quote));
}

const UNREACHABLE: [((u8, u8), (u8, u8)); 6] =
    [((3, 0), (1, 0)), ((3, 1), (1, 3)), ((3, 2), (4, 1)), ((3, 3), (1, 4)), ((3, 13), (1, 1)), ((11, 0), (3, 0))];
/// Soft errors of RFC 9293 §3.9.2.2, and hard ones.
const SOFT: [((u8, u8), (u8, u8)); 6] =
    [((3, 0), (1, 0)), ((3, 1), (1, 3)), ((3, 5), (4, 0)), ((11, 0), (3, 0)), ((11, 1), (4, 1)), ((12, 0), (4, 2))];
const HARD: [((u8, u8), (u8, u8)); 3] = [((3, 2), (1, 4)), ((3, 3), (1, 4)), ((3, 13), (1, 1))];
const TOO_BIG: ((u8, u8), (u8, u8)) = ((3, 4), (2, 0));

/// An open connection with several full-sized segments in flight.
#[track_caller]
fn in_flight(bed: &Bed, offer: &Offer) -> (Peer, Vec<Seg>) {
    let mut c = bed.open(SINK, offer);
    c.settle();
    c.tell(|conn| Services::tell_to_send(conn, 6000));
    let segs = c.collect(2);
    c.need(segs.len() >= 4, "segments in flight");
    (c, segs)
}

/// The damaged SYN draws nothing; the same undamaged is answered.
#[track_caller]
fn dropped_syn(bed: &Bed, out: Out<'_>, why: &str) {
    let mut c = bed.peer(ECHO);
    c.send(out.seq(c.iss));
    c.silent(300, why);
    c.open(&Offer::plain());
    c.echo(b"undamaged");
}

checks! {
    /// RFC 826, RFC 4861 §7.2.4: asked for an owned address, one answer to who asked.
    //= RFC 4861 7.2.4-MUST-1
    fn resolution_answered(bed) {
        for station in [None, Some(ENGINE_MAC)] {
            let host = bed.fresh_host();
            solicit(bed, host, bed.address(), station);
            let r = bed.other(100, is_answer).expect("an answer");
            assert_eq!(r[..6], PEER_MAC, "to who asked");
            if bed.is_v6() {
                assert_eq!(r[21], 255, "hop limit");
                assert_eq!(r[58] & 0x60, 0x60, "solicited, override");
                assert_eq!(r[78..86], [&[2, 1][..], &ENGINE_MAC].concat(), "target link-layer address");
            } else {
                assert_eq!(r[22..28], ENGINE_MAC, "sender hardware address");
                assert_eq!(r[32..38], PEER_MAC, "target hardware address");
            }
            assert!(bed.other(100, is_answer).is_none(), "one answer");
        }
    }

    /// Asked for an address that is not owned: nothing.
    //= RFC 1122 3.2.1.3-MUST-1
    fn resolution_of_others(bed) {
        solicit(bed, bed.fresh_host(), other_of_ours(bed), None);
        assert!(bed.other(300, is_answer).is_none());
        bed.alive();
    }

    /// RFC 5227 §2.1.1, RFC 4862 §5.4.3: duplicate address detection for an owned address is answered.
    //= RFC 4861 7.2.4-MUST-2
    fn duplicate_address_detection(bed) {
        let nobody: IpAddr = if bed.is_v6() { "::" } else { "0.0.0.0" }.parse().unwrap();
        solicit(bed, nobody, bed.address(), None);
        let r = bed.other(100, is_answer).expect("an answer");
        if bed.is_v6() {
            assert_eq!(r[..6], [0x33, 0x33, 0, 0, 0, 1], "to all nodes");
            assert_eq!(r[58] & 0x40, 0, "not solicited");
        }
    }

    /// Neither a wrong length nor a hop limit below 255 (RFC 4861 §7.1.1) is believed.
    //= RFC 4861 7.1.1-MUST-1
    fn bad_resolution(bed) {
        if bed.is_v6() {
            let (source, target) = (bed.fresh_host(), bed.address());
            let IpAddr::V6(v6) = target else { return };
            let (group, mac) = raw::solicited_node(v6);
            let body = [&raw::address(target)[..], &[1, 1], &PEER_MAC].concat();
            let good = raw::icmp(source, group, 135, 0, [0; 4], &body);
            let mut broken = good.clone();
            broken[3] ^= 1;
            let zero_option = raw::icmp(source, group, 135, 0, [0; 4], &[&raw::address(target)[..], &[1, 0]].concat());
            for (ttl, message) in [(254, &good), (255, &broken), (255, &good[..20].to_vec()), (255, &zero_option)] {
                let packet = raw::ip(source, group, 58, Ip { ttl, ..Ip::default() }, message);
                bed.inject(&raw::ethernet(mac, PEER_MAC, 0x86dd, &packet));
            }
        } else {
            let good = raw::arp(1, PEER_MAC, bed.fresh_host(), [0; 6], bed.address());
            for (at, value) in [(0, 9), (2, 9), (4, 9), (5, 16), (7, 9)] {
                let mut bad = good.clone();
                bad[at] = value;
                bed.inject(&raw::ethernet(BROADCAST, PEER_MAC, 0x0806, &bad));
            }
            bed.inject(&raw::ethernet(BROADCAST, PEER_MAC, 0x0806, &good[..20]));
        }
        assert!(bed.other(300, is_answer).is_none());
        bed.alive();
    }

    /// RFC 4861 §7.1.1: an option that nobody knows, and bits in the reserved field, change nothing.
    //= RFC 4861 7.1.1-MUST-2
    fn resolution_with_an_unknown_option(bed) {
        let (source, target) = (bed.fresh_host(), bed.address());
        let IpAddr::V6(v6) = target else { return };
        let (group, mac) = raw::solicited_node(v6);
        let body = [&raw::address(target)[..], &[200, 1, 2, 3, 4, 5, 6, 7], &[1, 1], &PEER_MAC].concat();
        let message = raw::icmp(source, group, 135, 0, [0xff; 4], &body);
        let packet = raw::ip(source, group, 58, Ip { ttl: 255, ..Ip::default() }, &message);
        bed.inject(&raw::ethernet(mac, PEER_MAC, 0x86dd, &packet));
        assert!(bed.other(100, is_answer).is_some(), "an answer");
    }

    /// A host that never asked is answered all the same, SYN-ACK again included.
    //= RFC 1122 2.3.2.2-SHOULD-1
    //= RFC 4861 7.2.2-MUST-3
    fn unknown_host(bed) {
        let mut c = bed.peer(ECHO);
        c.syn(&Offer::plain());
        c.expect(1600, "SYN-ACK again", |s| s.kind() == SYN | ACK);
        c.ack();
        c.echo(b"hello");
    }

    /// RFC 792, RFC 4443 §4.2: echo requests of all sizes, and none with a wrong checksum.
    //= RFC 1122 3.2.2.6-MUST-1
    fn echo(bed) {
        let host = bed.fresh_host();
        for len in [0, 1, 56, 1000, 1400] {
            let message = ping(bed, host, len);
            inject_icmp(bed, host, &message);
            let r = bed.other(100, is_echo_reply).expect("a reply");
            let at = if bed.is_v6() { 54 } else { 34 };
            assert_eq!(r[at + 4..at + message.len()], message[4..], "identifier, number and data");
        }
        let mut bad = ping(bed, host, 40);
        bad[3] ^= 1;
        inject_icmp(bed, host, &bad);
        assert!(bed.other(100, is_echo_reply).is_none(), "a wrong checksum");
    }

    /// RFC 9293 MUST-2, MUST-3: a wrong checksum, or none, is dropped in silence.
    //= RFC 9293 MUST-3
    //= RFC 8200 8.1-MUST-1
    fn tcp_checksum(bed) {
        for flaw in [Flaw::Checksum, Flaw::ZeroChecksum] {
            dropped_syn(bed, Out::new(SYN).flaw(flaw), "a wrong checksum");
            let mut c = bed.open(ECHO, &Offer::plain());
            c.send(Out::new(ACK | PSH).data(b"corrupt").seq(c.snd_nxt).flaw(flaw));
            c.send(Out::new(RST).seq(c.snd_nxt).flaw(flaw));
            c.silent(300, "a wrong checksum");
            c.echo(b"correct");
        }
    }

    /// RFC 9293 §3.1: a data offset below five words or beyond the segment, and a header cut short.
    fn data_offset(bed) {
        for words in [0, 4] {
            dropped_syn(bed, Out::new(SYN).flaw(Flaw::DataOffset(words)), "a data offset too small");
        }
        let mut c = bed.open(ECHO, &Offer::plain());
        for words in [0, 1, 4, 15] {
            c.send(Out::new(ACK | PSH).data(&[1; 16]).seq(c.snd_nxt).flaw(Flaw::DataOffset(words)));
        }
        for len in [0, 1, 8, 19] {
            c.send(Out::new(ACK | PSH).seq(c.snd_nxt).flaw(Flaw::Cut(len)));
        }
        c.silent(300, "a broken header");
        c.still_open("after broken headers");
    }

    /// Padding after the packet is not text; a packet longer than its frame is dropped.
    fn lengths(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        c.send(Out::new(ACK | PSH).data(b"padded").padding(18));
        c.reads(b"padded");
        let engine = bed.address();
        let message = ping(bed, c.host, 40);
        let packet = raw::ip(c.host, engine, raw::icmp_protocol(engine), Ip::default(), &message);
        for len in [0, 1, 19, 20, 27, 39, packet.len() - 1] {
            bed.inject(&raw::ethernet(ENGINE_MAC, PEER_MAC, raw::ether_type(engine), &packet[..len]));
        }
        assert!(bed.other(100, is_echo_reply).is_none(), "a truncated packet");
        c.still_open("after truncated packets");
    }

    /// RFC 9293 MUST-57, MUST-63, RFC 1122 §3.2.1.3: from or to what is no host.
    //= RFC 9293 MUST-57, MUST-63
    //= RFC 1122 3.2.1.3-MUST-2, 3.2.1.3-MUST-1
    fn invalid_addresses(bed) {
        let sources: &[&str] = if bed.is_v6() {
            &["ff02::1", "::", "::1"]
        } else {
            &["255.255.255.255", "224.0.0.9", "127.0.0.1", "0.0.0.0", "10.66.255.255"]
        };
        let destinations: &[&str] =
            if bed.is_v6() { &["ff02::1"] } else { &["255.255.255.255", "224.0.0.1", "10.66.255.255"] };
        let host = bed.fresh_host();
        let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
        pairs.extend(sources.iter().map(|s| (s.parse().unwrap(), bed.address())));
        pairs.extend(destinations.iter().map(|d| (host, d.parse().unwrap())));
        for (source, destination) in pairs {
            for port in [ECHO, SHUT] {
                let segment = raw::Tcp {
                    ports: (4321, port),
                    seq: 7,
                    ack: 0,
                    flags: 2,
                    reserved: 0,
                    window: 6000,
                    urgent: 0,
                    options: &option::mss(1460),
                    data: b"",
                    flaw: None,
                };
                let tcp = raw::tcp(source, destination, &segment);
                for mac in [ENGINE_MAC, BROADCAST] {
                    let packet = raw::ip(source, destination, 6, Ip::default(), &tcp);
                    bed.inject(&raw::ethernet(mac, PEER_MAC, raw::ether_type(source), &packet));
                }
            }
            assert_eq!(bed.frames_to(source), 0, "answered {source} to {destination}");
        }
        bed.alive();
    }

    /// RFC 1122 §3.3.6: TCP in a broadcast frame, or for another station.
    //= RFC 1122 3.3.6-SHOULD-1
    fn wrong_station(bed) {
        let other = [2, 0, 0, 0, 0, 0x99];
        for station in [BROADCAST, [1, 0, 0x5e, 0, 0, 1], other] {
            dropped_syn(bed, Out::new(SYN).to(station), "a frame that is not for this host");
        }
    }

    /// An IPv4 header checksum that is wrong, a hop limit of one, a type of service.
    //= RFC 1122 3.2.1.2-MUST-1, 3.2.1.7-MUST-2
    //= RFC 8200 3-SHOULD-1
    fn ip_header(bed) {
        if !bed.is_v6() {
            dropped_syn(bed, Out::new(SYN).ip(Ip { bad_checksum: true, ..Ip::default() }), "a wrong header checksum");
        }
        for ttl in [1, 0] {
            let mut c = bed.peer(ECHO);
            c.send(Out::new(SYN).seq(c.iss).ip(Ip { ttl, fragment: 0, ..Ip::default() }));
            let r = c.any(500, "SYN-ACK to a SYN with a hop limit of next to nothing");
            c.need(r.kind() == SYN | ACK, "SYN-ACK");
        }
    }

    /// RFC 1122 §3.2.2.1, RFC 8200 §4: other protocols are answered by an ICMP error, what is no IP is not.
    //= RFC 1122 3.2.2.1-SHOULD-1
    //= RFC 1122 4.1.3.4-MUST-1
    //= RFC 8200 4-SHOULD-1
    fn other_protocols(bed) {
        let host = bed.fresh_host();
        let mut datagram = [17; 64];
        datagram[4..8].copy_from_slice(&[0, 64, 0, 0]);
        let sum = raw::checksum(Some((host, bed.address(), 17)), &datagram);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        for (protocol, v4, v6) in [(2u8, (3, 2), (4, 1)), (17, (3, 3), (1, 4)), (47, (3, 2), (4, 1)), (255, (3, 2), (4, 1))] {
            let payload = if protocol == 17 { datagram } else { [protocol; 64] };
            let packet = raw::ip(host, bed.address(), protocol, Ip::default(), &payload);
            bed.inject_ip(&packet);
            let told = bed.other(5, |frame| is_error(frame).is_some()).expect("an ICMP error");
            assert_eq!(is_error(&told), Some(if bed.is_v6() { v6 } else { v4 }), "protocol {protocol}");
            assert_eq!(told[if bed.is_v6() { 62 } else { 42 }..], packet, "it quotes the packet");
        }
        bed.inject(&raw::ethernet(ENGINE_MAC, PEER_MAC, 0x88cc, &[7; 100]));
        let other = raw::ip(host, other_of_ours(bed), 17, Ip::default(), &datagram);
        bed.inject_ip(&other);
        assert!(bed.other(50, |_| true).is_none(), "not for us");
        datagram[40] ^= 1;
        bed.inject_ip(&raw::ip(host, bed.address(), 17, Ip::default(), &datagram));
        assert!(bed.other(50, |_| true).is_none(), "not as it was sent");
        bed.alive();
    }

    /// RFC 8200 §4.2, §4.4: options and routing headers that ask for it draw a parameter problem that points at them.
    //= RFC 8200 4.2-MUST-2, 4.4-MUST-2
    fn parameter_problems(bed) {
        if !bed.is_v6() {
            return;
        }
        let host = bed.fresh_host();
        for (next, header, want) in [
            (60, [6, 0, 0x9e, 4, 0, 0, 0, 0], Some((2, 42))),
            (60, [6, 0, 1, 1, 0, 0xde, 0, 0], Some((2, 45))),
            (60, [6, 0, 0x5e, 4, 0, 0, 0, 0], None),
            (43, [6, 0, 9, 1, 0, 0, 0, 0], Some((0, 42))),
        ] {
            bed.inject_ip(&raw::ip(host, bed.address(), next, Ip::default(), &[&header[..], &[0; 20]].concat()));
            let told = bed.other(5, |frame| is_error(frame).is_some());
            let place = told.as_ref().map(|frame| (frame[55], u32::from(frame[61])));
            assert_eq!(place, want, "{header:?}");
            assert!(told.is_none_or(|frame| is_error(&frame).is_some_and(|kind| kind.0 == 4)));
        }
    }

    /// RFC 5927 §5.2, RFC 5461: no ICMP error ends an open connection, in flight or idle.
    //= RFC 9293 MUST-47, MUST-54, MUST-56, SHLD-25, SHLD-26
    //= RFC 1122 3.2.2.1-MUST-1
    //= RFC 5927 5.2-SHOULD-1
    fn errors_do_not_end_connections(bed) {
        let (mut c, segs) = in_flight(bed, &Offer::full());
        for error in UNREACHABLE {
            icmp_error(bed, error, 0, &segs[1]);
        }
        c.rcv_nxt = segs[segs.len() - 1].end();
        c.ack();
        c.drain();
        let told = bed.services().reports.clone();
        c.need(told.len() == 6 && told.iter().all(|r| matches!(r.1, Report::Icmp(_))), &format!("reports {told:?}"));
        for error in UNREACHABLE {
            icmp_error(bed, error, 0, &segs[1]);
        }
        c.drain();
        c.need(bed.services().reports.len() == 6, "of a segment that is not in flight");
        c.data(b"still there?");
        c.wait_ack(c.snd_nxt, 500, "text");
    }

    /// RFC 9293 §3.9.2.2: in SYN-SENT a hard error ends the attempt, a soft one does not; nor does one that quotes something
    /// else.
    //= RFC 9293 MUST-54, MUST-56, SHLD-26
    //= RFC 5927 4.1-SHOULD-1
    fn errors_while_opening(bed) {
        for error in HARD {
            let bed = Bed::new(bed.is_v6());
            let mut c = bed.dialled();
            let syn = c.syn.clone().unwrap();
            let other = Seg { frame: {
                let mut frame = syn.frame.clone();
                let at = if bed.is_v6() { 58 } else { 38 };
                frame[at] ^= 0x40;
                frame
            }, ..syn.clone() };
            icmp_error(&bed, error, 0, &other);
            c.drain();
            c.need(c.state() == State::SynSent, "a quote of something that was never sent");
            icmp_error(&bed, error, 0, &syn);
            c.silent(3000, "unreachable");
            c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Unreachable), "told so");
        }
        let mut c = bed.dialled();
        let syn = c.syn.clone().unwrap();
        for error in SOFT {
            icmp_error(bed, error, 0, &syn);
        }
        c.drain();
        let told = bed.services().reports.len();
        c.need(told == SOFT.len(), &format!("{told} reports"));
        icmp_error(bed, ((4, 0), (200, 0)), 0, &syn);
        c.answer_syn(&Offer::plain());
        c.read(REQUEST_BYTES as usize);
    }

    /// Source quench (RFC 6633) and redirects are ignored.
    //= RFC 9293 MUST-55
    //= RFC 1122 3.2.2-MUST-1
    //= RFC 5927 6-SHOULD-1
    fn deprecated_errors(bed) {
        let (mut c, segs) = in_flight(bed, &Offer::plain());
        for error in [((4, 0), (0, 0)), ((5, 1), (137, 0)), ((6, 0), (255, 0)), ((12, 0), (4, 0))] {
            icmp_error(bed, error, 0x0a42_0105, &segs[0]);
        }
        c.silent(20, "nothing to answer");
        c.rcv_nxt = segs[segs.len() - 1].end();
        c.ack();
        c.data(b"still there?");
        c.wait_ack(c.snd_nxt, 500, "text");
    }

    /// RFC 1191, RFC 8201: what is in flight goes again in segments that fit, and so does what follows.
    //= RFC 9293 MUST-16, MUST-54
    //= RFC 1191 3-MUST-1, 6.4-SHOULD-1, 3-MUST-4
    //= RFC 8201 4-MUST-1, 5.4-SHOULD-1, 3-MUST-1, 4-MUST-4, 5.4-MUST-1
    //= RFC 4821 7.1-SHOULD-1
    //= RFC 7323 5.7-MUST-1
    //= RFC 8200 5-SHOULD-1
    fn path_mtu(bed) {
        for offer in [Offer::plain().mss(1440), Offer::full().mss(1440)] {
            let (mut c, segs) = in_flight(bed, &offer);
            icmp_error(bed, TOO_BIG, 1300, &segs[0]);
            let base = c.rcv_nxt;
            let again = c.expect(150, "smaller segments at once", |s| s.seq == segs[0].seq);
            c.need(again.frame.len() <= 1314, &format!("a frame of {}", again.frame.len()));
            let mut all = vec![again];
            loop {
                for s in &all {
                    c.need(s.frame.len() <= 1314, "a packet beyond the MTU");
                    if s.seq.at_or_before(c.rcv_nxt) {
                        c.rcv_nxt = c.rcv_nxt.latest(s.end());
                    }
                }
                c.ack();
                if c.rcv_nxt - base == 6000 {
                    break;
                }
                all = c.collect(50);
                if all.is_empty() {
                    all = c.collect(2000);
                }
                c.need(!all.is_empty(), "the rest");
            }
            c.tell(|conn| Services::tell_to_send(conn, 5000));
            let later = c.collect(5);
            c.need(later.iter().all(|s| s.frame.len() <= 1314), "later segments");
        }
    }

    /// RFC 5927 §7: an error that quotes nothing in flight, or asks for more, changes nothing.
    //= RFC 1191 3-MUST-2, 6.4-MUST-1
    //= RFC 8201 4-MUST-3, 4-SHOULD-1
    //= RFC 5927 4.1-SHOULD-1
    fn forged_path_mtu(bed) {
        let (mut c, segs) = in_flight(bed, &Offer::plain().mss(1400));
        icmp_error(bed, TOO_BIG, 1500, &segs[0]);
        icmp_error(bed, TOO_BIG, 9000, &segs[0]);
        c.silent(50, "nothing is too big");
        c.rcv_nxt = segs[segs.len() - 1].end();
        c.ack();
        c.drain();
        icmp_error(bed, TOO_BIG, 1290, &segs[0]);
        c.drain();
        c.tell(|conn| Services::tell_to_send(conn, 3000));
        let s = c.any(5, "text");
        c.need(s.data.len() == 1400, "an acknowledged segment was quoted");
    }

    /// RFC 1191 §5: a router that does not tell its MTU: the next plateau. RFC 8201 §4: below 1280 it is none on IPv6.
    //= RFC 1191 5-MAY-1, 3-MUST-6
    //= RFC 8201 4-MUST-2
    fn path_mtu_not_told(bed) {
        let (mut c, segs) = in_flight(bed, &Offer::plain().mss(1440));
        icmp_error(bed, TOO_BIG, 0, &segs[0]);
        if bed.is_v6() {
            return c.silent(50, "no MTU of an IPv6 link");
        }
        let s = c.expect(150, "smaller segments", |s| s.seq == segs[0].seq);
        let packet = s.frame.len() - 14;
        c.need((1006..=1492).contains(&packet), &format!("{packet}"));
    }

    /// A ridiculous MTU does not reduce the engine to segments of an octet; below 1280 it is none on IPv6 (RFC 8201 §4).
    //= RFC 1191 3-MUST-1, 3-MUST-7
    //= RFC 8201 4-MUST-2
    //= RFC 8200 5-SHOULD-1
    fn tiny_path_mtu(bed) {
        for mtu in [1, 21, 68, 100] {
            let (mut c, segs) = in_flight(bed, &Offer::plain().mss(1400));
            icmp_error(bed, TOO_BIG, mtu, &segs[0]);
            if bed.is_v6() {
                c.silent(50, "no MTU of an IPv6 link");
                continue;
            }
            let s = c.expect(150, "smaller segments", |s| s.seq == segs[0].seq);
            c.need(s.data.len() >= 500, &format!("{} octets", s.data.len()));
        }
    }

    /// An oversized segment that is lost for its size is no congestion (RFC 1191 §6.4).
    //= RFC 1191 6.4-SHOULD-1, 6.4-SHOULD-2
    fn path_mtu_is_no_congestion(bed) {
        let (mut c, segs) = in_flight(bed, &Offer::full().mss(1440));
        icmp_error(bed, TOO_BIG, 1300, &segs[0]);
        let all = c.collect(20);
        let sent: usize = all.iter().map(|s| s.data.len()).sum();
        c.need(sent >= 5000, &format!("{sent} octets sent again at once"));
    }
}
