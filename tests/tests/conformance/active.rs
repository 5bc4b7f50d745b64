//! The active opener: SYN-SENT (RFC 9293 §3.10.7.3), simultaneous open, and what follows.

use crate::prelude::*;

/// An accepted connection of the engine whose request is read.
#[track_caller]
fn accepted(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = bed.dialled();
    c.answer_syn(offer);
    let s = c.any(500, "third ACK");
    c.need(s.is_pure_ack() && s.ack == c.snd_nxt && s.seq == c.rcv_nxt, "the third ACK");
    c
}

#[track_caller]
fn request(c: &mut Peer) {
    let read = c.read(REQUEST_BYTES as usize);
    c.need(read == pattern(REQUEST_BYTES), "the request");
}

checks! {
    /// §3.5, §3.7.1, RFC 6056: nothing but SYN, an MSS, a window, a port of the range; TSecr 0.
    //= RFC 9293 MUST-14, MUST-67, SHLD-5, MAY-3
    //= RFC 7323 3.2-SHOULD-3
    //= RFC 6056 3.2-SHOULD-1
    fn syn_well_formed(bed) {
        let mut ports = std::collections::HashSet::new();
        for _ in 0..10 {
            let c = bed.dialled();
            let Some(syn) = &c.syn else { c.fail("no SYN") };
            c.need(syn.flags == SYN && syn.ack == Seq(0) && syn.data.is_empty(), "SYN and nothing else");
            c.need(syn.window > 0, "a window");
            let o = syn.options;
            c.need(o.mss == Some(if bed.is_v6() { 1440 } else { 1460 }), "MSS of the link");
            c.need(o.window_scale.is_some_and(|scale| scale <= 14) && o.sack_permitted, "options");
            c.need(o.timestamps.is_some_and(|ts| ts.echo == 0), "TSecr of a SYN is 0");
            c.need(c.ports.1 >= 1024, "a port of the range");
            ports.insert(c.ports.1);
        }
        assert!(ports.len() >= 9, "ports {ports:?}");
    }

    /// The whole course, with each option agreed to or not.
    fn open_and_close(bed) {
        for bits in 0..8 {
            let mut c = accepted(bed, &Offer {
                scale: (bits & 1 != 0).then_some(7),
                sack: bits & 2 != 0,
                timestamps: bits & 4 != 0,
                ..Offer::plain()
            });
            request(&mut c);
            c.fin();
            c.read_fin();
            c.need(c.acked == Some(c.snd_nxt), "our FIN was not acknowledged");
            c.ack();
            c.timestamps = false;
            c.gone("after LAST-ACK");
        }
    }

    /// RFC 7323 §3.2: agreed timestamps on every segment.
    //= RFC 7323 3.2-MUST-1, 3.2-MUST-2
    fn timestamps(bed) {
        let mut c = accepted(bed, &Offer::full());
        for s in c.collect(20) {
            c.need(s.options.timestamps.is_some(), "a segment without timestamps");
        }
        let mut c = accepted(bed, &Offer::plain());
        for s in c.collect(20) {
            c.need(s.options.timestamps.is_none(), "timestamps that were not agreed on");
        }
    }

    /// §3.7.1: the MSS of the SYN-ACK counts, options included.
    //= RFC 9293 MUST-14, MUST-15, MUST-16
    //= RFC 6691 2-MUST-1
    fn mss(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = accepted(bed, &offer.mss(600));
            let largest = c.collect(20).iter().map(|s| s.data.len() + s.option_bytes).max();
            c.need(largest == Some(600), &format!("{largest:?} octets of options and text"));
        }
        let mut c = accepted(bed, &Offer { mss: None, ..Offer::plain() });
        let largest = c.collect(20).iter().map(|s| s.data.len()).max();
        c.need(largest == Some(if bed.is_v6() { 1220 } else { 536 }), &format!("{largest:?} octets without an MSS"));
    }

    /// §3.8.6: the window of the SYN-ACK, not scaled (RFC 7323 §2.2).
    //= RFC 7323 2.2-MUST-3
    fn window(bed) {
        let mut c = accepted(bed, &Offer::plain().window(0));
        c.never(100, "a shut window", |s| s.data.len() > 1);
        c.window = 500;
        c.ack();
        let base = c.rcv_nxt;
        let sent = c.collect(50).iter().map(|s| s.end() - base).max();
        c.need(sent == Some(500), &format!("{sent:?} octets into a window of 500"));
        c.window = 30_000;
        c.ack();
        request(&mut c);

        let mut c = accepted(bed, &Offer::full().window(1000));
        let base = c.rcv_nxt;
        let sent = c.collect(50).iter().map(|s| s.end() - base).max().unwrap_or(0);
        c.need(sent > 0 && sent <= 1000, &format!("{sent} octets into an unscaled window of 1000"));

        // less than a unit of its scale: asked for at once what it is
        let mut c = accepted(bed, &Offer { scale: Some(14), ..Offer::full().window(1000) });
        let s = c.any(20, "a probe");
        c.need(s.data.is_empty(), "a probe is an ACK");
        c.window = 1;
        c.ack();
        request(&mut c);
    }

    /// RFC 6298 §2.1, §5: the same SYN again, later each time; then it is given up.
    //= RFC 9293 MUST-22, MUST-23
    //= RFC 6298 2-SHOULD-1, 5-MUST-3
    fn syn_retransmitted(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled();
        let first = c.syn.clone().unwrap();
        let mut times = vec![first.at];
        while let Some(s) = c.next(200_000, |_| true) {
            c.need(s.kind() == SYN && s.seq == first.seq && s.options.mss == first.options.mss, "the same SYN");
            times.push(s.at);
        }
        let gaps: Vec<_> = times.windows(2).map(|t| t[1].since(t[0]).as_millis()).collect();
        c.need(gaps.len() == 6 && (900..1300).contains(&gaps[0]), &format!("gaps {gaps:?}"));
        c.need(gaps.windows(2).all(|g| g[1] * 2 >= g[0] * 3), &format!("gaps {gaps:?}"));
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::SynTimeout), "given up");
    }

    /// An answer to the second SYN opens the connection.
    fn second_syn_answered(bed) {
        let mut c = bed.dialled();
        c.any(3000, "SYN again");
        c.answer_syn(&Offer::full());
        request_after_third_ack(&mut c);
    }

    /// §3.10.7.3 second: RST with an acceptable ACK refuses; without, or with another, it is dropped.
    //= RFC 9293 MUST-12
    //= RFC 5961 3.2-MUST-4
    fn refused(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled();
        for out in [
            Out::new(RST).seq(Seq(0)),
            Out::new(RST | ACK).seq(Seq(0)).ack(c.irs),
            Out::new(RST | ACK).seq(Seq(0)).ack(c.irs + 2),
            Out::new(RST | ACK).seq(Seq(0)).ack(c.irs - 7000),
        ] {
            c.send(out);
        }
        c.silent(200, "no answer to a RST");
        c.need(c.state() == State::SynSent, "still asking");
        c.send(Out::new(RST | ACK).seq(Seq(0)).ack(c.irs + 1));
        c.silent(4000, "the attempt was refused");
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Refused), "refused");
    }

    /// §3.10.7.3 first: a wrong ACK draws RST from it, on SYN-ACK, ACK or FIN; the right one still opens.
    fn wrong_ack(bed) {
        for flags in [SYN | ACK, ACK, FIN | ACK] {
            for offset in [0, 2, 77, 0x1000_0000, u32::MAX] {
                let mut c = bed.dialled();
                let bad = c.irs + offset;
                c.send(Out::new(flags).seq(c.iss).ack(bad));
                c.expect_reset(bad, "RST for an unacceptable ACK");
                c.answer_syn(&Offer::plain());
                request_after_third_ack(&mut c);
            }
        }
    }

    /// An old connection answers our SYN: it is reset, and the SYN goes again at once, once. RFC 9293 figure 9.
    fn old_connection_answers(bed) {
        for flags in [ACK, SYN | ACK] {
            let mut c = bed.dialled();
            let first = c.syn.clone().unwrap();
            let (bad, before) = (c.irs - 7000, bed.engine(|host| host.stats().syn_met_old.get()));
            c.send(Out::new(flags).seq(c.iss).ack(bad));
            c.expect_reset(bad, "RST for an unacceptable ACK");
            let again = c.any(10, "SYN again, after a tick");
            c.need(again.kind() == SYN && again.seq == first.seq, "the same SYN");
            c.need(again.options.mss == first.options.mss, "with the same options");

            // whoever goes on like this is answered, and that is all
            for offset in [3, 9000] {
                c.send(Out::new(flags).seq(c.iss).ack(c.irs + offset));
                c.expect_reset(c.irs + offset, "RST again");
            }
            let third = c.any(1300, "SYN after the RTO");
            let waited = third.at.since(again.at).as_millis();
            c.need(third.kind() == SYN && waited >= 900, &format!("after {waited} ms"));
            assert_eq!(bed.engine(|host| host.stats().syn_met_old.get()), before + 1, "once for the connection");
            c.answer_syn(&Offer::full());
            request_after_third_ack(&mut c);
        }
        // Not after a SYN was lost; and what answers the SYN before it goes again, opens
        let mut c = bed.dialled();
        c.any(3000, "SYN again");
        c.send(Out::new(ACK).seq(c.iss).ack(c.irs + 77));
        c.expect_reset(c.irs + 77, "RST");
        c.silent(800, "the RTO is waited for");
        c.answer_syn(&Offer::full());
        request_after_third_ack(&mut c);

        let mut c = bed.dialled();
        c.send(Out::new(ACK).seq(c.iss).ack(c.irs + 77));
        c.answer_syn(&Offer::full());
        c.expect_reset(c.irs + 77, "RST");
        request_after_third_ack(&mut c);
        let rest = c.collect(1500);
        c.need(rest.iter().all(|s| !s.flags.contains(SYN)), "no SYN after the handshake");
    }

    /// Without retries a SYN still goes twice where the first was answered; then it is given up.
    fn old_connection_answers_the_only_syn(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.syn_retries = 0);
        let mut c = bed.dialled();
        c.send(Out::new(ACK).seq(c.iss).ack(c.irs + 77));
        c.expect_reset(c.irs + 77, "RST");
        let again = c.any(10, "SYN again");
        c.need(again.kind() == SYN, "SYN again");
        c.silent(4000, "given up");
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::SynTimeout), "given up");
    }

    /// §3.10.7.3 fifth: without SYN and RST a segment is dropped, its ACK acceptable or not there.
    fn no_syn(bed) {
        let mut c = bed.dialled();
        for out in [
            Out::new(ACK).ack(c.irs + 1),
            Out::new(ACK | FIN).ack(c.irs + 1),
            Out::new(ACK | PSH).ack(c.irs + 1).data(b"hello"),
            Out::new(NULL),
            Out::new(FIN),
            Out::new(PSH).data(b"hello"),
        ] {
            c.send(out.seq(c.iss));
        }
        c.silent(200, "dropped");
        c.answer_syn(&Offer::plain());
        request_after_third_ack(&mut c);
    }

    /// §3.5 figure 7: SYNs cross. SYN-ACK with the same ISS; ours, or a mere ACK, completes it.
    //= RFC 9293 MUST-10
    fn simultaneous_open(bed) {
        for (answer, offer) in [
            (SYN | ACK, Offer::plain()),
            (SYN | ACK, Offer::full()),
            (ACK, Offer::plain()),
            (ACK, Offer::full()),
        ] {
            let mut c = bed.dialled();
            let options = c.syn_options(&offer);
            c.send(Out::new(SYN).seq(c.iss).options(options.clone()).window(1000));
            c.snd_nxt = c.iss + 1;
            let s = c.any(500, "SYN-ACK");
            c.need(s.kind() == SYN | ACK && s.seq == c.irs && s.ack == c.snd_nxt, "SYN-ACK with the same ISS");
            c.need(s.options.timestamps.is_some() == offer.timestamps, "options agreed to");
            c.need(c.state() == State::SynReceived, "SYN-RECEIVED");
            c.timestamps = offer.timestamps;
            c.ts_recent = s.options.timestamps.map_or(0, |ts| ts.value);
            if answer == ACK {
                c.window = 1000 >> offer.scale.unwrap_or(0);
                c.ack();
            } else {
                c.send(Out::new(SYN | ACK).seq(c.iss).options(options).window(1000));
            }
            let base = c.rcv_nxt;
            let segs = c.collect(20);
            let sent = segs.iter().map(|s| s.end() - base).max().unwrap_or(0);
            c.need(sent > 0 && sent <= 1000, &format!("{sent} octets into a window of 1000"));
            c.window = 60_000 >> offer.scale.unwrap_or(0);
            c.ack();
            request(&mut c);
            c.fin();
            c.read_fin();
        }
    }

    /// The SYN-ACK of a simultaneous open is sent again if nothing answers it.
    //= RFC 9293 MUST-10
    fn simultaneous_open_lost(bed) {
        let mut c = bed.dialled();
        c.send(Out::new(SYN).seq(c.iss).options(option::mss(1400)));
        c.snd_nxt = c.iss + 1;
        c.any(500, "SYN-ACK");
        let s = c.any(3000, "SYN-ACK again");
        c.need(s.kind() == SYN | ACK && s.seq == c.irs && s.ack == c.snd_nxt, "the same SYN-ACK");
        c.send(Out::new(SYN).seq(c.iss).options(option::mss(1400)));
        let s = c.any(500, "answer to the SYN again");
        c.need(s.flags.ack() && s.ack == c.snd_nxt, "acknowledged");
        c.ack();
        c.drain();
        request(&mut c);
    }

    /// RST in a simultaneous open: exact, it refuses; else it is challenged.
    //= RFC 9293 MUST-11
    fn simultaneous_open_reset(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled();
        c.send(Out::new(SYN).seq(c.iss).options(option::mss(1400)));
        c.snd_nxt = c.iss + 1;
        c.any(500, "SYN-ACK");
        c.send(Out::new(RST).seq(c.snd_nxt + 9));
        c.any(500, "challenge");
        c.send(Out::new(RST));
        c.drain();
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Refused), "refused");
    }

    /// The third ACK and the request are lost: the SYN-ACK again is acknowledged, the request comes again.
    fn third_ack_lost(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = accepted(bed, &offer);
            c.collect(30);
            let options = c.syn_options(&offer);
            c.send(Out::new(SYN | ACK).seq(c.iss).options(options));
            let s = c.any(500, "ACK of the SYN-ACK again");
            c.need(s.kind() == ACK && s.ack == c.snd_nxt, "an ACK");
            c.reads_within(pattern(REQUEST_BYTES), 8000);
        }
    }

    /// Text, and FIN, in the SYN-ACK.
    fn text_in_the_syn_ack(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.dialled();
        c.send(Out::new(SYN | ACK).seq(c.iss).options(option::mss(1400)).data(b"welcome"));
        let s = c.any(500, "third ACK");
        let taken = s.ack - c.iss;
        c.need(s.kind() == ACK && (taken == 1 || taken == 8), "an ACK");
        c.snd_nxt = c.iss + 1;
        if taken == 1 {
            c.data(b"welcome");
        }
        c.snd_nxt = c.iss + 8;
        request(&mut c);
        c.wait_ack(c.snd_nxt, 500, "text");
        c.need(bed.services().read == b"welcome", "delivered once");

        let mut c = bed.dialled();
        c.send(Out::new(SYN | ACK | FIN).seq(c.iss).options(option::mss(1400)));
        c.snd_nxt = c.iss + 2;
        c.drain();
        if c.acked != Some(c.snd_nxt) {
            c.send(Out::new(FIN | ACK).seq(c.iss + 1));
        }
        request(&mut c);
        c.read_fin();
        c.wait_ack(c.snd_nxt, 500, "FIN");
    }

    /// RFC 5961 on a connection that the engine opened.
    fn challenges(bed) {
        let mut c = accepted(bed, &Offer::plain());
        request(&mut c);
        c.settle();
        c.send(Out::new(RST).seq(c.snd_nxt + 20));
        c.expect_ack(100, "challenge ACK");
        c.send(Out::new(SYN).seq(c.snd_nxt + 20));
        c.expect_ack(100, "challenge ACK");
        c.fin();
        c.read_fin();
    }

    /// RFC 3168 §6.1.1 as the opener: asked for, and used only if agreed to.
    //= RFC 9293 SHLD-8
    //= RFC 3168 6.1.1-MUST-2, 6.1.1-MUST-4
    fn ecn(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.ecn = syncline_engine::config::Ecn::On);
        for (flags, agreed) in [
            (SYN | ACK | ECE, true),
            (SYN | ACK, false),
            (SYN | ACK | ECE | CWR, false),
            (SYN | ACK | CWR, false),
        ] {
            let mut c = bed.dialled();
            c.need(c.syn.as_ref().is_some_and(|s| s.flags == SYN | ECE | CWR), "ECN-setup SYN");
            c.send(Out::new(flags).seq(c.iss).options(option::mss(1400)));
            c.snd_nxt = c.iss + 1;
            let text: Vec<_> = c.collect(20).into_iter().filter(|s| !s.data.is_empty()).collect();
            c.need(!text.is_empty() && text.iter().all(|s| (s.ecn == Ecn::Capable0) == agreed), "ECT");
        }
    }

    /// RFC 5681 §3.1: a lost SYN leaves one segment of initial window.
    //= RFC 5681 3.1-MUST-1
    //= RFC 6928 2-MUST-1
    fn initial_window_after_lost_syn(bed) {
        let mut c = bed.dialled();
        c.any(3000, "SYN again");
        c.answer_syn(&Offer::plain().mss(536));
        let sent: usize = c.collect(20).iter().map(|s| s.data.len()).sum();
        c.need(sent == 536, &format!("{sent} octets"));
    }

    /// A host that does not answer on the link.
    //= RFC 4861 7.2.2-MUST-2
    fn no_such_host(bed) {
        let bed = Bed::new(bed.is_v6());
        let host = bed.fresh_host();
        bed.silence(host);
        let remote = std::net::SocketAddr::new(host, 9000);
        bed.engine(|e| open(&mut e.net(), remote));
        bed.run(200_000);
        let end = bed.services().ended.last().map(|e| e.1);
        assert!(matches!(end, Some(End::Unreachable | End::SynTimeout)), "{end:?}");
    }
}

#[track_caller]
fn request_after_third_ack(c: &mut Peer) {
    let s = c.any(500, "third ACK");
    c.need(s.is_pure_ack() && s.ack == c.snd_nxt, "the third ACK");
    request(c);
}
