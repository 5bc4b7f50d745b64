//! Neighbours that move to another station, and who claims to be one (RFC 826, RFC 5227 §2.4, RFC 4861 §7.2.5).

use std::net::IpAddr;

use syncline_tests::peer::{ENGINE_MAC, PEER_MAC};

use super::link::BROADCAST;
use crate::prelude::*;

const ELSEWHERE: raw::Mac = [2, 0, 0, 0, 0, 0x66];

/// How a station says unasked that it has an address.
#[derive(Clone, Copy)]
enum Claim {
    /// A gratuitous request, or an advertisement that overrides.
    ToAll,
    /// A reply, or a solicited advertisement, that nobody asked for.
    Answer,
}

fn claim(bed: &Bed, host: IpAddr, mac: raw::Mac, how: Claim) {
    if host.is_ipv6() {
        let all: IpAddr = "ff02::1".parse().unwrap();
        let (to, station, flags) = match how {
            Claim::ToAll => (all, [0x33, 0x33, 0, 0, 0, 1], 0x20),
            Claim::Answer => (bed.address(), ENGINE_MAC, 0x60),
        };
        let body = [&raw::address(host)[..], &[2, 1], &mac].concat();
        let message = raw::icmp(host, to, 136, 0, [flags, 0, 0, 0], &body);
        let packet = raw::ip(host, to, 58, Ip { ttl: 255, ..Ip::default() }, &message);
        bed.inject(&raw::ethernet(station, mac, 0x86dd, &packet));
    } else {
        let (operation, target, station) = match how {
            Claim::ToAll => (1, host, BROADCAST),
            Claim::Answer => (2, bed.address(), ENGINE_MAC),
        };
        bed.inject(&raw::ethernet(station, mac, 0x0806, &raw::arp(operation, mac, host, ENGINE_MAC, target)));
    }
}

/// Whether a frame asks a station, or everyone, where `host` is.
fn asks(frame: &[u8]) -> Option<raw::Mac> {
    let asks = match frame[12..14] {
        [8, 6] => frame[21] == 1,
        [0x86, 0xdd] => frame[20] == 58 && frame[54] == 135,
        _ => false,
    };
    asks.then(|| frame[..6].try_into().expect("six octets"))
}

checks! {
    /// While the station that is known answers, a claim moves nothing.
    fn forged_claim(bed) {
        for how in [Claim::ToAll, Claim::Answer] {
            let mut c = bed.open(ECHO, &Offer::plain());
            c.echo(b"here");
            claim(bed, c.host, ELSEWHERE, how);
            let asked = bed.other(100, |frame| asks(frame).is_some()).expect("the known station is asked");
            assert_eq!(asks(&asked), Some(PEER_MAC));
            bed.run(5000);
            c.echo(b"still here");
        }
    }

    /// What is not answered in three transmissions may have moved without a word: the known station is asked, then everyone.
    //= RFC 9293 MUST-20
    fn silent(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(SINK, &Offer::plain());
        c.settle();
        bed.silence(c.host);
        c.tell(|conn| Services::tell_to_send(conn, 100));
        bed.other(10_000, |frame| asks(frame) == Some(PEER_MAC)).expect("the known station is asked");
        bed.other(10_000, |frame| asks(frame).is_some_and(|station| station[0] & 1 == 1)).expect("everyone is asked");
        claim(&bed, c.host, ELSEWHERE, Claim::Answer);
        let s = c.expect(60_000, "text again", |s| !s.data.is_empty() && s.frame[..6] == ELSEWHERE);
        c.need(s.data.len() == 100, "whole");
    }

    /// A neighbour that says it has moved, and is silent where it was, is found within seconds.
    //= RFC 4861 7.2.5-MUST-1
    fn moved(bed) {
        for how in [Claim::ToAll, Claim::Answer] {
            let mut c = bed.open(ECHO, &Offer::plain());
            c.echo(b"here");
            c.settle();
            bed.silence(c.host);
            claim(bed, c.host, ELSEWHERE, how);
            bed.other(100, |frame| asks(frame) == Some(PEER_MAC)).expect("the known station is asked");
            let asked = bed.other(1100, |frame| asks(frame).is_some()).expect("everyone is asked");
            assert_eq!(asked[0] & 1, 1, "a group");
            claim(bed, c.host, ELSEWHERE, Claim::Answer);
            c.send(Out::new(ACK | PSH).data(b"there"));
            let s = c.expect(1500, "text", |s| !s.data.is_empty());
            assert_eq!(s.frame[..6], ELSEWHERE, "to where it is now");
        }
    }
}
