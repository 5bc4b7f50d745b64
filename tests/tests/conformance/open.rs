//! CLOSED, LISTEN and SYN-RECEIVED (RFC 9293 §3.10.7.1, §3.10.7.2, §3.10.7.4), and what a handshake agrees on.

use std::collections::HashSet;

use crate::prelude::*;

/// A segment that LISTEN drops, and an open on the same 4-tuple after it.
#[track_caller]
fn ignored_by_listen(bed: &Bed, out: Out<'_>, what: &str) {
    let mut c = bed.peer(ECHO);
    c.send(out.seq(c.iss));
    c.silent(300, what);
    c.open(&Offer::plain());
    c.echo(b"and then a SYN");
}

checks! {
    /// §3.10.7.1: a SYN to a closed port draws RST, SEQ 0, ACK of it, of its text and of its FIN.
    fn closed_port(bed) {
        for (out, len) in [
            (Out::new(SYN), 1),
            (Out::new(SYN).data(b"text"), 5),
            (Out::new(SYN | FIN), 2),
            (Out::new(FIN), 1),
            (Out::new(PSH).data(b"abc"), 3),
            (Out::new(NULL), 0),
        ] {
            let mut c = bed.peer(SHUT);
            c.send(out.seq(c.iss));
            let r = c.any(1000, "RST");
            c.need(r.kind() == RST | ACK && r.seq == Seq(0) && r.ack == c.iss + len, "wanted RST of SEG.SEQ+SEG.LEN");
            c.silent(100, "one RST is enough");
        }
    }

    /// §3.10.7.1: with ACK, the RST takes its number from there.
    fn closed_port_ack(bed) {
        for flags in [ACK, SYN | ACK, FIN | ACK, ACK | PSH | URG] {
            let mut c = bed.peer(SHUT);
            c.send(Out::new(flags).seq(c.iss).ack(Seq(0xdead_beef)));
            c.expect_reset(Seq(0xdead_beef), "RST from CLOSED");
        }
    }

    /// §3.10.7.1: a RST is never answered.
    fn closed_port_rst(bed) {
        let mut c = bed.peer(SHUT);
        c.send(Out::new(RST).seq(c.iss));
        c.send(Out::new(RST | ACK).seq(c.iss).ack(Seq(1)));
        c.silent(300, "a RST is never answered");
    }

    /// §3.10.7.2, first to fourth.
    fn listen_drops(bed) {
        ignored_by_listen(bed, Out::new(RST), "RST in LISTEN");
        ignored_by_listen(bed, Out::new(RST | ACK).ack(Seq(77)), "RST with ACK in LISTEN");
        ignored_by_listen(bed, Out::new(RST | SYN), "RST with SYN in LISTEN");
        ignored_by_listen(bed, Out::new(NULL), "no flag in LISTEN");
        ignored_by_listen(bed, Out::new(NULL).data(b"data"), "text without a flag in LISTEN");
        ignored_by_listen(bed, Out::new(FIN), "FIN in LISTEN");
        ignored_by_listen(bed, Out::new(PSH).data(b"data"), "PSH in LISTEN");
        ignored_by_listen(bed, Out::new(FIN | PSH | URG).urgent(1), "FIN, PSH and URG in LISTEN");
    }

    /// §3.10.7.2, second: any ACK draws a RST from it.
    fn listen_resets_acks(bed) {
        for flags in [ACK, SYN | ACK, FIN | ACK, ACK | PSH] {
            let mut c = bed.peer(ECHO);
            c.send(Out::new(flags).seq(c.iss).ack(Seq(4711)));
            c.expect_reset(Seq(4711), "RST from LISTEN");
        }
    }

    /// RFC 9293 §3.5, and no option that was not offered (RFC 7323 §2.2, §3.2; RFC 2018 §2).
    //= RFC 7323 2.2-MUST-1, 3.2-MUST-1
    fn handshake_without_options(bed) {
        let mut c = bed.peer(ECHO);
        let r = c.syn(&Offer { mss: None, ..Offer::plain() });
        c.need(r.window > 0 && r.data.is_empty(), "a window and no text");
        let o = r.options;
        c.need(o.window_scale.is_none() && o.timestamps.is_none() && !o.sack_permitted, "options nobody offered");
        c.ack();
        c.silent(250, "the third ACK needs no answer");
        c.echo(b"first data");
    }

    /// RFC 9293 §3.7.1 MUST-14, RFC 6691: the MSS announced is the MTU without fixed headers.
    //= RFC 9293 MUST-14, MUST-67, SHLD-5
    //= RFC 6691 2-SHOULD-1
    //= RFC 1191 3.1-SHOULD-1
    //= RFC 8200 8.3-MUST-1
    fn syn_ack_mss(bed) {
        let r = bed.peer(ECHO).syn(&Offer::plain());
        assert_eq!(r.options.mss, Some(if bed.is_v6() { 1440 } else { 1460 }));
    }

    /// Each option is agreed to if, and only if, it is offered.
    //= RFC 7323 2.2-MUST-1, 3.2-MUST-1, 2.2-SHOULD-1
    fn options_one_by_one(bed) {
        for bits in 0..8 {
            let offer = Offer {
                scale: (bits & 1 != 0).then_some(3),
                sack: bits & 2 != 0,
                timestamps: bits & 4 != 0,
                ..Offer::plain()
            };
            let mut c = bed.peer(ECHO);
            let o = c.syn(&offer).options;
            c.need(o.window_scale.is_some() == offer.scale.is_some(), "window scale");
            c.need(o.window_scale.unwrap_or(0) <= 14, "a shift above 14");
            c.need(o.sack_permitted == offer.sack, "SACK permitted");
            c.need(o.timestamps.is_some() == offer.timestamps, "timestamps");
            if let Some(ts) = o.timestamps {
                c.need(ts.echo != 0, "TSecr is the SYN's TSval");
            }
            c.ack();
            c.echo(&pattern(5000));
        }
    }

    /// RFC 7323 §2.3: a shift above 14 is taken for 14.
    //= RFC 7323 2.3-MUST-3
    fn window_scale_above_14(bed) {
        let mut c = bed.peer(ECHO);
        c.open(&Offer { scale: Some(15), ..Offer::full() });
        c.scale = 14;
        c.window = 1;
        c.data(&pattern(1000));
        c.read(1000);
    }

    /// RFC 7323 §2.2: the window of a SYN is not scaled, later ones are.
    //= RFC 7323 2.2-MUST-3, 2.3-MUST-1
    fn window_of_a_syn_is_not_scaled(bed) {
        let mut c = bed.peer(ECHO);
        let r = c.syn(&Offer { scale: Some(7), window: 1000, ..Offer::plain() });
        c.need(r.window > 1000, "the engine's own window");
        c.send(Out::new(ACK).window(10));
        for piece in pattern(5000).chunks(1000) {
            c.data(piece);
        }
        let first = c.rcv_nxt;
        let sent = c.collect(100).iter().map(|s| s.end() - first).filter(|n| *n < 1 << 30).max().unwrap_or(0);
        c.need(sent <= 1280, "more than the window of 10 << 7");
        c.need(sent > 10, "the scale was forgotten");
    }

    /// RFC 9293 MUST-6, MUST-7: options are stepped over by their length; what is broken ends the reading.
    //= RFC 9293 MUST-4, MUST-5, MUST-6, MUST-7
    fn odd_options(bed) {
        let junk = b"\xfd\x06ABCD\x63\x02".to_vec();
        let mut c = bed.peer(ECHO);
        let mut options = junk.clone();
        options.extend(option::mss(1200));
        options.extend(option::sack_permitted());
        c.send(Out::new(SYN).seq(c.iss).options(options));
        c.snd_nxt = c.iss + 1;
        let r = c.any(1000, "SYN-ACK");
        c.need(r.options.sack_permitted, "an option after unknown ones was lost");
        c.take_syn_ack(&Offer::sack(), r);
        c.ack();
        c.send(Out::new(ACK | PSH).data(b"payload!").options(junk));
        c.reads(b"payload!");

        for broken in [&[3u8][..], &[2, 0], &[2, 1, 0, 0], &[2, 200, 5, 180], &[8, 3, 0], &[0, 2, 4, 5], &[1; 40]] {
            let mut c = bed.peer(ECHO);
            c.send(Out::new(SYN).seq(c.iss).options(broken.to_vec()));
            c.snd_nxt = c.iss + 1;
            let r = c.any(1000, "SYN-ACK to a SYN with broken options");
            c.take_syn_ack(&Offer::plain(), r);
            c.ack();
            c.echo(b"broken options do no harm");
        }
    }

    /// An MSS that is absurdly small, zero or large.
    //= RFC 9293 MUST-16
    fn odd_mss(bed) {
        for mss in [0, 1, 40, 65_535] {
            let mut c = bed.open(ECHO, &Offer::plain().mss(mss));
            c.echo(&pattern(3000));
        }
    }

    /// RFC 9293 §3.7.1 MUST-15: without the option segments are no larger than 536 (1220).
    //= RFC 9293 MUST-15
    //= RFC 6691 7.2-MUST-1
    fn default_mss(bed) {
        let mut c = bed.open(ECHO, &Offer { mss: None, ..Offer::plain() });
        let limit = if bed.is_v6() { 1220 } else { 536 };
        for piece in pattern(6000).chunks(500) {
            c.data(piece);
        }
        let mut largest = 0;
        while largest < limit {
            let Some(s) = c.next(500, |s| !s.data.is_empty()) else { break };
            largest = largest.max(s.data.len());
            c.rcv_nxt = c.rcv_nxt.latest(s.end());
            c.ack();
        }
        c.need(largest == limit, &format!("segments of {largest} octets"));
    }

    /// RFC 9293 §3.7.1, RFC 6691 §3: the peer's MSS counts options.
    //= RFC 9293 MUST-14, MUST-16
    //= RFC 1191 6.4-MUST-2
    //= RFC 8201 5.4-MUST-2
    //= RFC 6691 2-MUST-1
    fn peer_mss_counts_options(bed) {
        for offer in [Offer::plain().mss(700), Offer::full().mss(700)] {
            let mut c = bed.open(ECHO, &offer);
            let data = pattern(7000);
            for piece in data.chunks(650) {
                c.data(piece);
            }
            let mut largest = 0;
            while (c.rcv_nxt - c.irs) < 7001 {
                let s = c.expect(2000, "echo", |s| !s.data.is_empty());
                largest = largest.max(s.data.len() + s.option_bytes);
                c.rcv_nxt = c.rcv_nxt.latest(s.end());
                c.ack();
            }
            c.need(largest == 700, &format!("{largest} octets of options and text"));
        }
    }

    /// RFC 9293 §3.10.7.4: the SYN again draws the same SYN-ACK again.
    fn duplicate_syn(bed) {
        let mut c = bed.peer(ECHO);
        let offer = Offer::full();
        let first = c.syn(&offer);
        c.send_syn(&offer);
        let second = c.any(1000, "answer to a SYN that came twice");
        c.need(second.kind() == SYN | ACK && second.seq == first.seq && second.ack == first.ack, "another SYN-ACK");
        c.ack();
        c.echo(b"after two SYNs");
    }

    /// A SYN with another number in SYN-RECEIVED: an ACK of what is known, and the handshake goes on.
    fn other_syn_in_syn_received(bed) {
        for offset in [5, 0x1000_0000, 0x9000_0000] {
            let mut c = bed.peer(ECHO);
            c.syn(&Offer::plain());
            c.send(Out::new(SYN).seq(c.iss + offset).options(option::mss(1460)));
            let r = c.any(1000, "answer to another SYN");
            c.need(r.flags.ack() && !r.flags.rst() && r.ack == c.iss + 1, "ACK of the first SYN");
            c.ack();
            c.echo(b"the first SYN counts");
        }
    }

    /// RFC 6298 §2, §5.5: the SYN-ACK comes again, later each time, at most so many times; then all is forgotten.
    fn syn_ack_retransmitted(bed) {
        let mut c = bed.peer(ECHO);
        let first = c.syn(&Offer::plain());
        let mut times = vec![first.at];
        while let Some(s) = c.next(40_000, |_| true) {
            c.need(s.kind() == SYN | ACK && s.seq == first.seq && s.ack == first.ack, "the same SYN-ACK again");
            times.push(s.at);
        }
        c.need(times.len() == 6, &format!("{} SYN-ACKs", times.len()));
        let gaps: Vec<_> = times.windows(2).map(|t| t[1].since(t[0]).as_millis()).collect();
        c.need((900..1200).contains(&gaps[0]), "the first gap is the initial RTO");
        c.need(gaps.windows(2).all(|g| g[1] >= g[0] * 3 / 2 && g[1] <= g[0] * 3), &format!("gaps {gaps:?}"));
        c.need(c.state() == State::Closed, "forgotten");
        let ack = c.rcv_nxt;
        c.ack();
        c.expect_reset(ack, "the third ACK long after");
    }

    /// The third ACK late, after retransmissions of the SYN-ACK.
    fn late_third_ack(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = bed.peer(ECHO);
            c.syn(&offer);
            c.collect(2500);
            c.ack();
            c.still_open("after a late third ACK");
        }
    }

    /// Text, and FIN, on the third ACK.
    fn text_in_the_third_ack(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = bed.peer(ECHO);
            c.syn(&offer);
            c.data(b"early bird");
            c.reads(b"early bird");

            let mut c = bed.peer(ECHO);
            c.syn(&offer);
            c.send(Out::new(ACK | PSH | FIN).data(b"one shot"));
            c.reads(b"one shot");
            c.read_fin();
            c.need(c.acked == Some(c.snd_nxt), "our FIN was not acknowledged");
            c.ack();
            c.gone("after LAST-ACK");
        }
    }

    /// The third ACK is lost and text comes instead, out of order even.
    fn third_ack_lost(bed) {
        let mut c = bed.peer(ECHO);
        c.syn(&Offer::full());
        let base = c.snd_nxt;
        c.data_at(base + 5, b"world");
        c.data_at(base, b"hello");
        c.snd_nxt = base + 10;
        c.reads(b"helloworld");
    }

    /// RFC 7323 §3.2 lets a segment without timestamps be dropped, but some peers leave them out of the third ACK.
    //= RFC 7323 3.2-MUST-3
    fn third_ack_without_timestamps(bed) {
        let mut c = bed.peer(ECHO);
        c.syn(&Offer::full());
        c.send(Out::new(ACK).options(Vec::new()));
        c.echo(b"stamped again");
    }

    /// §3.10.7.4 fifth: an ACK that is none of our SYN draws RST, and does not end the handshake.
    fn bad_third_ack(bed) {
        for offset in [-1i32, 1, 2, 256, 1 << 24, i32::MIN, 123_456] {
            let mut c = bed.peer(ECHO);
            c.syn(&Offer::plain());
            let bad = c.rcv_nxt + offset as u32;
            c.send(Out::new(ACK | PSH).data(b"guess").seq(c.snd_nxt).ack(bad));
            c.expect_reset(bad, "RST for an unacceptable ACK in SYN-RECEIVED");
            c.ack();
            c.still_open("after a wrong ACK");
        }
    }

    /// §3.10.7.4 first: outside the window in SYN-RECEIVED.
    fn syn_received_out_of_window(bed) {
        for seq in [-100_000i32, 1 << 29] {
            let mut c = bed.peer(ECHO);
            c.syn(&Offer::plain());
            c.send(Out::new(ACK).seq(c.snd_nxt + seq as u32).data(b"x"));
            c.expect_ack(1000, "ACK of a segment outside the window");
            c.ack();
            c.still_open("after a segment outside the window");
        }
    }

    /// RFC 5961 §3.2 in SYN-RECEIVED: at RCV.NXT it is believed, in the window challenged, else ignored.
    //= RFC 9293 MUST-11
    //= RFC 5961 3.2-MUST-1, 3.2-MUST-2, 3.2-MUST-3
    fn rst_in_syn_received(bed) {
        let mut c = bed.peer(ECHO);
        c.syn(&Offer::plain());
        c.send(Out::new(RST).seq(c.snd_nxt + 0x2000_0000));
        c.send(Out::new(RST).seq(c.snd_nxt - 100));
        c.silent(150, "a RST outside the window");
        c.send(Out::new(RST).seq(c.snd_nxt + 10));
        c.expect_ack(500, "challenge ACK");
        c.ack();
        c.still_open("after RSTs that were none");

        // the window of the challenge is scaled, that of the SYN-ACK was not: rounded up, it does not shrink
        let mut c = bed.peer(ECHO);
        let answer = c.syn(&Offer::full());
        let scale = answer.options.window_scale.expect("scaled");
        c.send(Out::new(RST).seq(c.snd_nxt + 10));
        let challenge = c.any(500, "challenge ACK");
        let (told, before) = (u32::from(challenge.window) << scale, u32::from(answer.window));
        c.need(told >= before, &format!("{told} octets of window after {before}"));

        let mut c = bed.peer(ECHO);
        c.syn(&Offer::plain());
        c.send(Out::new(RST));
        c.silent(3000, "the handshake was reset");
        let ack = c.rcv_nxt;
        c.ack();
        c.expect_reset(ack, "LISTEN again");
    }

    /// A FIN that follows the third ACK at once, and one that comes without it.
    fn fin_in_syn_received(bed) {
        let mut c = bed.peer(BYE);
        c.syn(&Offer::plain());
        c.fin();
        c.read_fin();
        c.wait_ack(c.snd_nxt, 1000, "our FIN");
    }

    /// §3.10.7.2 third: text of a SYN is acknowledged or not, and delivered once.
    fn syn_with_text(bed) {
        let mut c = bed.peer(ECHO);
        c.send(Out::new(SYN).data(b"syn-data").seq(c.iss).options(option::mss(1460)));
        let r = c.any(1000, "SYN-ACK");
        c.need(r.ack - c.iss == 1 || r.ack - c.iss == 9, "ACK of the SYN or of all");
        (c.irs, c.rcv_nxt, c.snd_nxt) = (r.seq, r.seq + 1, r.ack);
        if r.ack == c.iss + 1 {
            c.data(b"syn-data");
        }
        c.data(b"-and-more");
        c.reads(b"syn-data-and-more");
        c.never(200, "it came back once", |s| !s.data.is_empty());
    }

    /// RFC 3168 §6.1.1: ECN-setup is answered by ECE without CWR, and only it; control segments are not ECT.
    //= RFC 9293 SHLD-8
    //= RFC 3168 6.1.1-MUST-1, 6.1.1-MUST-2, 6.1.1-MUST-3, 6.1.1-MUST-4, 6.1.1-SHOULD-1
    fn ecn_setup(bed) {
        let mut c = bed.peer(ECHO);
        let r = c.syn(&Offer { ecn: true, ..Offer::full() });
        c.need(r.flags.contains(ECE) && !r.flags.contains(CWR), "ECE without CWR");
        c.need(r.ecn == Ecn::NotCapable, "a SYN-ACK is not ECN-capable");
        for flags in [SYN, SYN | ECE, SYN | CWR] {
            let mut c = bed.peer(ECHO);
            c.send(Out::new(flags).seq(c.iss).options(option::mss(1460)));
            c.snd_nxt = c.iss + 1;
            let r = c.any(1000, "SYN-ACK");
            c.need(!r.flags.intersects(ECE | CWR), "ECN that was not asked for");
            c.take_syn_ack(&Offer::plain(), r);
            c.ack();
            c.data(&pattern(1000));
            let s = c.expect(1000, "echo", |s| !s.data.is_empty());
            c.need(s.ecn == Ecn::NotCapable && !s.flags.intersects(ECE | CWR), "ECN on a connection without");
        }
    }

    /// RFC 9293 §3.1 MUST: reserved bits are ignored.
    fn reserved_bits(bed) {
        let mut c = bed.peer(ECHO);
        c.send(Out::new(SYN).seq(c.iss).reserved(0b1110).options(option::mss(1460)));
        c.snd_nxt = c.iss + 1;
        let r = c.any(1000, "SYN-ACK");
        c.take_syn_ack(&Offer::plain(), r);
        c.send(Out::new(ACK).reserved(0b1110));
        c.send(Out::new(ACK | PSH).data(b"reserved").reserved(0b1110));
        c.reads(b"reserved");
    }

    /// RFC 6528 §3, RFC 9293 MUST-8: initial sequence numbers of different 4-tuples look random.
    //= RFC 9293 MUST-9, SHLD-1
    //= RFC 6528 3-MUST-1, 3-SHOULD-1
    fn isn_unpredictable(bed) {
        let host = bed.fresh_host();
        let mut isns = Vec::new();
        for _ in 0..64 {
            let mut c = bed.peer_at(host, ECHO);
            isns.push(c.syn(&Offer::plain()).seq);
            c.send(Out::new(RST));
        }
        let distinct = |it: &mut dyn Iterator<Item = u32>| it.collect::<HashSet<_>>().len();
        assert_eq!(distinct(&mut isns.iter().map(|s| s.0)), 64);
        assert!(distinct(&mut isns.iter().map(|s| s.0 >> 24)) >= 40, "top octets");
        assert!(distinct(&mut isns.iter().map(|s| s.0 & 0xfff)) >= 40, "low bits");
        assert!(distinct(&mut isns.windows(2).map(|w| (w[1] - w[0]) >> 24)) >= 35, "differences");
        let bits: u32 = isns.windows(2).map(|w| (w[0].0 ^ w[1].0).count_ones()).sum();
        assert!((12 * 63..=20 * 63).contains(&bits), "{bits} bits differ");
    }

    /// RFC 9293 §3.4.1: on one 4-tuple the numbers move on with the clock.
    //= RFC 9293 MUST-8, SHLD-1
    //= RFC 6528 3-SHOULD-1
    fn isn_of_one_tuple_grows(bed) {
        let mut c = bed.peer(ECHO);
        let first = c.syn(&Offer::plain()).seq;
        c.send(Out::new(RST));
        bed.run(1000);
        c.drain();
        let second = c.syn(&Offer::plain()).seq;
        c.need((200_000..300_000).contains(&(second - first)), "a quarter of a million a second");
    }

    /// Listeners come and go while the worker runs.
    fn listeners_come_and_go(bed) {
        let ports = |port| syncline_engine::config::Listener {
            first_port: port,
            last_port: port,
            syn_cookies: syncline_engine::config::SynCookies::Auto,
        };
        let taken = bed.engine(|e| e.net().listen(ports(ECHO)));
        assert_eq!(taken, None, "the port has a listener");
        let mut c = bed.peer(SHUT);
        c.send_syn(&Offer::plain());
        c.expect(1000, "RST", |s| s.flags.rst());
        bed.engine(|e| e.net().stop_listening(0));
        let mut c = bed.peer(ECHO);
        c.send_syn(&Offer::plain());
        c.expect(1000, "RST of a port that is closed now", |s| s.flags.rst());
        let again = bed.engine(|e| e.net().listen(ports(ECHO)));
        assert_eq!(again, Some(PORTS.len()), "a listener of its own");
    }

    /// Many at once from one host, opened in another order than they came.
    fn interleaved_opens(bed) {
        let host = bed.fresh_host();
        let mut peers: Vec<_> = (0..40).map(|_| bed.peer_at(host, ECHO)).collect();
        for c in &mut peers {
            c.send_syn(&Offer::full());
        }
        for c in peers.iter_mut().rev() {
            let r = c.any(1000, "SYN-ACK");
            c.take_syn_ack(&Offer::full(), r);
            c.ack();
        }
        for c in &mut peers {
            c.echo(b"one of many");
        }
    }
}
