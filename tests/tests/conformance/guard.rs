//! Blind attacks and unacceptable segments (RFC 5961, RFC 9293 §3.10.7.4), floods.

use crate::prelude::*;

fn idle(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = bed.open(ECHO, offer);
    c.echo(b"hello");
    c.settle();
    c
}

checks! {
    /// RFC 5961 §3.2: at RCV.NXT it ends the connection, whatever its ACK says.
    //= RFC 9293 SHLD-2
    //= RFC 5961 3.2-MUST-2
    fn exact_rst(bed) {
        for out in [Out::new(RST), Out::new(RST | ACK), Out::new(RST | ACK).ack(Seq(0x1234)), Out::new(RST | PSH).data(b"why")] {
            for offer in [Offer::plain(), Offer::full()] {
                let mut c = idle(bed, &offer);
                c.send(out.clone());
                c.silent(100, "a RST is not answered");
                c.timestamps = false;
                c.gone("after RST");
            }
        }
    }

    /// RFC 5961 §3.2: elsewhere in the window it is challenged; outside it is dropped.
    //= RFC 5961 3.2-MUST-1, 3.2-MUST-3
    fn inexact_rst(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = idle(bed, &offer);
            for offset in [1, 100, 60_000] {
                c.send(Out::new(RST).seq(c.snd_nxt + offset));
                c.expect_ack(20, "challenge ACK");
            }
            for seq in [c.snd_nxt - 1, c.snd_nxt + 0x1000_0000, c.snd_nxt + 0x9000_0000] {
                c.send(Out::new(RST).seq(seq));
            }
            c.silent(100, "a RST outside the window");
            c.still_open("after RSTs");
        }
    }

    /// RFC 5961 §4.2: any SYN on an open connection draws a challenge ACK, with timestamps or without.
    //= RFC 5961 4.2-MUST-1
    fn syn_on_an_open_connection(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = idle(bed, &offer);
            for seq in [c.iss, c.snd_nxt, c.snd_nxt + 5, c.iss - 99_999, c.snd_nxt + 0x6000_0000] {
                c.send(Out::new(SYN).seq(seq).options(option::mss(1460)));
                c.expect_ack(20, "challenge ACK for a SYN");
            }
            c.send(Out::new(SYN | ACK).seq(c.iss).options(option::mss(1460)));
            c.expect_ack(20, "challenge ACK for a SYN-ACK");
            c.still_open("after SYNs");
        }
    }

    /// RFC 5961 §5.2: an ACK of what was never sent, or far too old, draws a challenge and its text is dropped.
    //= RFC 9293 MAY-12
    //= RFC 5961 5.2-MUST-1
    fn ack_out_of_range(bed) {
        for offset in [1, 1000, 0x1000_0000, -70_000, -0x4000_0000, i32::MIN] {
            let mut c = idle(bed, &Offer::plain());
            c.send(Out::new(ACK | PSH).data(b"blind").seq(c.snd_nxt).ack(c.rcv_nxt + offset as u32));
            c.expect_ack(20, "challenge ACK");
            c.never(200, "blindly injected", |s| !s.data.is_empty());
            c.still_open("after a wrong ACK");
        }
    }

    /// An ACK that is old but plausible is ignored, its text is not.
    fn slightly_old_ack(bed) {
        let mut c = idle(bed, &Offer::plain());
        c.echo(&pattern(1000));
        c.send(Out::new(ACK | PSH).data(b"old ack, new data").ack(c.rcv_nxt - 900));
        c.reads(b"old ack, new data");
    }

    /// A FIN outside the window does nothing.
    fn fin_out_of_window(bed) {
        let mut c = idle(bed, &Offer::plain());
        for seq in [c.snd_nxt - 2, c.snd_nxt + 0x0100_0000, c.snd_nxt + 0x6000_0000] {
            c.send(Out::new(FIN | ACK).seq(seq));
            c.expect_ack(20, "ACK of a FIN outside the window");
        }
        c.still_open("after FINs");
    }

    /// Text outside the window, on either side and around it.
    fn text_out_of_window(bed) {
        let mut c = idle(bed, &Offer::sack());
        for seq in [c.snd_nxt - 5, c.snd_nxt + 0x0100_0000, c.snd_nxt + 0x7fff_ffff, c.snd_nxt - 0x7000_0000] {
            c.send(Out::new(ACK | PSH).data(b"xyzzy").seq(seq));
            c.expect_ack(20, "ACK of text outside the window");
        }
        c.still_open("after text");
    }

    /// RFC 9293 §3.8.4: a keep-alive probe of either kind is answered.
    fn keep_alive_probe(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            for data in [&b""[..], b"\0"] {
                let mut c = idle(bed, &offer);
                for _ in 0..3 {
                    c.send(Out::new(ACK).data(data).seq(c.snd_nxt - 1));
                    c.expect_ack(20, "answer to a keep-alive");
                    bed.run(2000);
                }
                c.still_open("after keep-alives");
            }
        }
    }

    /// RFC 5961 §7, §10: bad segments draw challenges up to a limit of the connection, which then still works.
    //= RFC 5961 7-SHOULD-1
    fn challenges_are_limited(bed) {
        let mut c = idle(bed, &Offer::plain());
        for i in 0..200 {
            c.send(Out::new(SYN).seq(c.snd_nxt + i));
            c.send(Out::new(RST).seq(c.snd_nxt + 1 + i));
            c.send(Out::new(ACK).seq(c.snd_nxt).ack(c.rcv_nxt + 5000 + i));
        }
        let answers = c.collect(300);
        c.need((1..=10).contains(&answers.len()), &format!("{} answers to 600 bad segments", answers.len()));
        c.need(answers.iter().all(Seg::is_pure_ack), "only ACKs");
        // other connections have limits of their own
        let mut other = idle(bed, &Offer::plain());
        other.send(Out::new(SYN).seq(other.snd_nxt));
        other.expect_ack(20, "challenge ACK on another connection");
        c.still_open("after bad segments");
        bed.run(6000);
        c.drain();
        c.send(Out::new(SYN).seq(c.snd_nxt));
        c.expect_ack(20, "challenge ACK after a while");
    }

    /// Two ends that disagree do not answer each other for ever.
    fn no_ack_loop(bed) {
        let mut c = idle(bed, &Offer::plain());
        let mut answers = 0;
        let mut bad = c.snd_nxt - 5000;
        c.send(Out::new(ACK).seq(bad));
        for _ in 0..1000 {
            let Some(_) = c.next(10, |_| true) else { break };
            answers += 1;
            bad -= 1;
            c.send(Out::new(ACK).seq(bad));
        }
        c.need(answers < 500, "an endless exchange of ACKs");
        c.still_open("after it");
    }

    /// ACKs with guessed numbers open nothing.
    fn forged_acks(bed) {
        let mut resets = 0;
        for i in 0..128u32 {
            let mut c = bed.peer(ECHO);
            c.send(Out::new(ACK | PSH).data(b"guess").ack(Seq(i.wrapping_mul(0x9e37_79b9))));
            for s in c.drain() {
                c.need(s.flags.rst(), "a forged ACK was answered");
                resets += 1;
            }
        }
        assert!(resets > 0);
        assert!(bed.services().live.is_empty());
    }

    /// The right answer from the wrong port opens nothing.
    fn answer_of_another(bed) {
        let mut a = bed.peer(ECHO);
        a.syn(&Offer::plain());
        let mut b = bed.peer_at(a.host, ECHO);
        b.send(Out::new(ACK | PSH).data(b"guess").seq(a.snd_nxt).ack(a.rcv_nxt));
        b.expect_reset(a.rcv_nxt, "another 4-tuple");
        a.ack();
        a.still_open("after the guess");
    }

    /// RFC 4987: with thousands of half-open connections honest clients are served, and agreements kept.
    fn syn_flood(bed) {
        let hosts: Vec<_> = (0..6).map(|_| bed.fresh_host()).collect();
        for i in 0..6000 {
            let mut c = bed.peer_at(hosts[i % 6], ECHO);
            c.send_syn(&Offer::full());
            if i % 256 == 0 {
                bed.run(1);
            }
        }
        for i in 0..20 {
            let mut c = bed.open(ECHO, &if i % 2 == 0 { Offer::full() } else { Offer::plain() });
            c.echo(&pattern(5000));
        }
        bed.run(70_000);
        assert_eq!(bed.engine(|e| e.stats().syn_received_now.get()), 0, "the flood is forgotten");
    }

    /// A SYN that claims to come from the engine itself.
    fn land(bed) {
        let own = bed.address();
        for port in [ECHO, SHUT] {
            let segment = raw::Tcp {
                ports: (port, port),
                seq: 7,
                ack: 0,
                flags: 2,
                reserved: 0,
                window: 1000,
                urgent: 0,
                options: &[],
                data: b"",
                flaw: None,
            };
            bed.inject_ip(&raw::ip(own, own, 6, Ip::default(), &raw::tcp(own, own, &segment)));
        }
        assert_eq!(bed.frames_to(own), 0, "answered itself");
        bed.alive();
    }

    /// One more connection than there may be is refused without harm, and room is found again.
    fn table_full(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.max_connections = 4;
        });
        let mut open: Vec<_> = (0..4).map(|_| idle(&bed, &Offer::plain())).collect();
        let mut late = bed.peer(ECHO);
        late.send_syn(&Offer::plain());
        late.collect(100);
        for c in &mut open {
            c.still_open("a full table");
            c.send(Out::new(RST));
        }
        bed.run(2000);
        bed.alive();
    }
}
