//! Packets in fragments (RFC 791 §3.2, RFC 8200 §4.5).

use std::ops::Range;

use super::link::{is_error, ping};
use crate::prelude::*;

/// The octets of the next segment of `c` with some text.
fn segment_of(c: &Peer, text: &[u8]) -> Vec<u8> {
    let segment = raw::Tcp {
        ports: c.ports,
        seq: c.snd_nxt.0,
        ack: c.rcv_nxt.0,
        flags: 0x18,
        reserved: 0,
        window: 60_000,
        urgent: 0,
        options: b"",
        data: text,
        flaw: None,
    };
    raw::tcp(c.host, c.bed.address(), &segment)
}

/// A part of a segment from the host of `c`, as an IP packet.
fn piece(c: &Peer, identification: u32, segment: &[u8], part: Range<usize>, more: bool) -> Vec<u8> {
    let place = (identification, part.start as u16, more);
    raw::fragment(c.host, c.bed.address(), 6, place, &segment[part])
}

checks! {
    /// Fragments that never become whole, that contradict each other, or are too many do no harm.
    //= RFC 8200 4.5-MUST-2
    fn broken_fragments(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let segment = segment_of(&c, &[0xab; 100]);
        // of one packet: an end before the middle, an overlap, the rest
        for (at, end, more) in [(40, 80, true), (0, 24, false), (24, 48, true), (80, 120, false)] {
            bed.inject_ip(&piece(&c, 7, &segment, at..end, more));
        }
        for identification in 100..200 {
            bed.inject_ip(&piece(&c, identification, &segment, 0..24, true));
            bed.inject_ip(&piece(&c, identification, &segment, 32..120, false));
        }
        bed.inject_ip(&piece(&c, 300, &segment, 0..0, true));
        c.silent(100, "fragments");
        c.still_open("after fragments");
        for identification in [400, 401] {
            // beyond what is kept of a packet, and beyond what a packet can be
            let offset = if identification == 400 { 16_384 } else { 65_528 };
            bed.inject_ip(&raw::fragment(c.host, bed.address(), 6, (identification, offset, false), &[1; 64]));
        }
        c.silent(100, "fragments");
        c.still_open("after fragments");
    }

    /// RFC 1122 §3.3.2, RFC 8200 §4.5: a segment in fragments is put together, in whatever order they come.
    //= RFC 1122 3.3.2-MUST-1
    //= RFC 8200 4.5-MUST-1, 4.5-MUST-3
    fn fragments(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let cuts = [0, 24, 400, 408, 1000];
        for (n, order) in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]].into_iter().enumerate() {
            let text = vec![n as u8 + 1; 980];
            let segment = segment_of(&c, &text);
            for i in order {
                bed.inject_ip(&piece(&c, n as u32, &segment, cuts[i]..cuts[i + 1], i < 3));
                bed.inject_ip(&piece(&c, n as u32, &segment, cuts[i]..cuts[i + 1], i < 3));
            }
            c.snd_nxt += 980;
            c.reads(&text);
        }
        if bed.is_v6() {
            // a fragment that is all of its packet (RFC 6946)
            let segment = segment_of(&c, b"atom");
            bed.inject_ip(&piece(&c, 99, &segment, 0..segment.len(), false));
            c.snd_nxt += 4;
            c.reads(b"atom");
        }
    }

    /// RFC 1122 §3.2.2.6, RFC 4443 §4.2: an echo request in fragments is answered in fragments.
    //= RFC 1122 3.2.2.6-MUST-1
    fn echo_in_fragments(bed) {
        let host = bed.fresh_host();
        let message = ping(bed, host, 3000);
        let protocol = raw::icmp_protocol(host);
        for (at, end) in [(1400, 2800), (0, 1400), (2800, 3008)] {
            let place = (5, at as u16, end < 3008);
            bed.inject_ip(&raw::fragment(host, bed.address(), protocol, place, &message[at..end]));
        }
        let mut reply = vec![0; 3008];
        let (mut pieces, mut octets) = (0, 0);
        let (at, header) = if bed.is_v6() { (62, 44) } else { (34, 1) };
        let protocol_at = if bed.is_v6() { 20 } else { 23 };
        while let Some(frame) = bed.other(20, |frame| frame[protocol_at] == header) {
            assert!(frame.len() <= 1514, "a frame of {}", frame.len());
            let word = |i: usize| u16::from_be_bytes([frame[i], frame[i + 1]]);
            let offset = usize::from(if bed.is_v6() { word(56) & !7 } else { (word(20) & 0x1fff) * 8 });
            reply[offset..offset + frame.len() - at].copy_from_slice(&frame[at..]);
            octets += frame.len() - at;
            pieces += 1;
        }
        assert_eq!((pieces, octets), (3, 3008));
        assert_eq!(reply[4..], message[4..], "identifier, number and data");
        let (kind, pseudo) = if bed.is_v6() { (129, Some((bed.address(), host, 58))) } else { (0, None) };
        assert_eq!((reply[0], raw::checksum(pseudo, &reply)), (kind, 0), "type and checksum");
    }

    /// A packet of which something is missing after a minute: its sender is told, if the first fragment came.
    //= RFC 1122 3.3.2-MUST-2
    //= RFC 8200 4.5-SHOULD-1
    fn fragments_that_stay_alone(bed) {
        let c = bed.open(ECHO, &Offer::plain());
        let segment = segment_of(&c, &[0xab; 100]);
        let first = piece(&c, 7, &segment, 0..48, true);
        bed.inject_ip(&first);
        bed.run(10_000);
        bed.inject_ip(&piece(&c, 7, &segment, 96..120, false));
        bed.inject_ip(&piece(&c, 8, &segment, 48..120, false));
        // these contradict each other
        bed.inject_ip(&piece(&c, 9, &segment, 0..48, true));
        bed.inject_ip(&piece(&c, 9, &segment, 40..80, true));
        assert!(bed.other(49_900, |frame| is_error(frame).is_some()).is_none(), "before the time is over");
        let told = bed.other(200, |frame| is_error(frame).is_some()).expect("Time Exceeded");
        assert_eq!(is_error(&told), Some(if bed.is_v6() { (3, 1) } else { (11, 1) }));
        assert_eq!(told[if bed.is_v6() { 62 } else { 42 }..], first, "it quotes the first fragment");
        assert!(bed.other(30_000, |frame| is_error(frame).is_some()).is_none(), "nobody is told of the others");
    }

    /// Fragments of IPv6 that can be of no packet: a length that is no multiple of eight octets, an end beyond the largest
    /// packet, a first one without all headers.
    //= RFC 8200 4.5-SHOULD-2, 4.5-MUST-4
    fn fragments_of_no_packet(bed) {
        if !bed.is_v6() {
            return;
        }
        let mut c = bed.open(ECHO, &Offer::plain());
        let segment = segment_of(&c, &[0xab; 100]);
        let beyond = raw::fragment(c.host, bed.address(), 6, (3, 65_528, false), &[1; 64]);
        let options = raw::fragment(c.host, bed.address(), 60, (4, 0, true), &[6, 1, 1, 4, 0, 0, 0, 0]);
        for (packet, place) in [
            (piece(&c, 1, &segment, 0..45, true), (0, 4)),
            (piece(&c, 2, &segment, 0..16, true), (3, 0)),
            (beyond, (0, 42)),
            (options, (3, 0)),
        ] {
            bed.inject_ip(&packet);
            let told = bed.other(5, |frame| is_error(frame).is_some()).expect("a parameter problem");
            assert_eq!((told[54], told[55], u32::from(told[61])), (4, place.0, place.1));
            assert_eq!(told[62..], packet, "it quotes the fragment");
        }
        c.still_open("after fragments of no packet");
    }
}
