//! Closing: both sides, every state of it, TIME-WAIT (RFC 9293 §3.6, §3.10.7.4).

use crate::prelude::*;

/// A connection whose engine has greeted and sent its FIN, nothing of it acknowledged: FIN-WAIT-1.
#[track_caller]
fn fin_wait_1(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = bed.open(BYE, offer);
    c.read_fin();
    c
}

#[track_caller]
fn fin_wait_2(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = fin_wait_1(bed, offer);
    c.ack();
    c.settle();
    c
}

#[track_caller]
fn closing(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = fin_wait_1(bed, offer);
    c.send(Out::new(FIN | ACK).ack(c.irs + 1));
    c.wait_ack(c.snd_nxt, 500, "our FIN");
    c.drain();
    c
}

#[track_caller]
fn time_wait(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = fin_wait_1(bed, offer);
    c.fin();
    c.wait_ack(c.snd_nxt, 500, "our FIN");
    c.settle();
    c
}

#[track_caller]
fn close_wait(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = bed.open(SINK, offer);
    c.fin();
    c.wait_ack(c.snd_nxt, 500, "our FIN");
    c.settle();
    c
}

#[track_caller]
fn last_ack(bed: &Bed, offer: &Offer) -> Peer {
    let mut c = close_wait(bed, offer);
    c.tell(|conn| conn.close());
    c.read_fin();
    c.drain();
    c
}

type Make = fn(&Bed, &Offer) -> Peer;

const CLOSING_STATES: [(State, Make); 6] = [
    (State::FinWait1, fin_wait_1),
    (State::FinWait2, fin_wait_2),
    (State::Closing, closing),
    (State::TimeWait, time_wait),
    (State::CloseWait, close_wait),
    (State::LastAck, last_ack),
];

checks! {
    /// Each maker makes what it says.
    fn makers(bed) {
        for (state, make) in CLOSING_STATES {
            for offer in [Offer::plain(), Offer::full()] {
                let bed = Bed::new(bed.is_v6());
                let c = make(&bed, &offer);
                c.need(c.state() == state, &format!("{:?}, not {state:?}", c.state()));
            }
        }
    }

    /// Text and FIN in one segment, and an application that closes when it reads the text: the FIN was here before that,
    /// so that the close is passive and ends without TIME-WAIT.
    fn closed_for_the_text_before_a_fin(bed) {
        for apart in [false, true] {
            let bed = Bed::new(bed.is_v6());
            let mut c = bed.open(CURT, &Offer::full());
            if apart {
                // the FIN first: it waits for the text
                c.send(Out::new(FIN | ACK).seq(c.snd_nxt + 5));
                c.data(b"hello");
                c.snd_nxt += 1;
            } else {
                c.send(Out::new(PSH | FIN | ACK).data(b"hello"));
            }
            c.read_fin();
            c.need(c.acked == Some(c.snd_nxt), "our FIN was not acknowledged with theirs");
            c.need(c.state() == State::LastAck, &format!("{:?}, not LAST-ACK", c.state()));
            c.ack();
            c.timestamps = false;
            c.gone("after LAST-ACK");
            c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Closed), "closed in order");
        }
    }

    /// At the limit of TIME-WAIT records connections are opened and closed as before; those that find no room skip it.
    fn time_wait_full(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.max_time_wait = 3);
        for _ in 0..8 {
            let mut c = bed.open(BYE, &Offer::full());
            c.read_fin();
            c.fin();
            c.wait_ack(c.snd_nxt, 500, "our FIN");
        }
        bed.engine(|host| assert_eq!(host.held().time_waits, 3));
    }

    /// Text that was sent beyond the FIN is let go of when the FIN is taken: it is not reported any more, and holds nothing.
    fn text_beyond_a_fin(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        let fin = c.snd_nxt;
        c.data_at(fin + 1, b"never");
        c.data_at(fin + 100, b"ever");
        c.drain();
        c.send(Out::new(FIN | ACK).seq(fin));
        let ack = c.expect(500, "an ACK of the FIN", |seg| seg.ack == fin + 1);
        c.need(ack.options.sack.is_empty(), "text beyond the FIN is reported");
        c.need(c.state() == State::CloseWait, "not CLOSE-WAIT");
        c.settle();
        bed.engine(|host| assert_eq!((host.held().busy_blocks, host.held().chunks), (0, 0)));
    }

    /// Four-way close begun by the peer.
    //= RFC 9293 MUST-12
    fn passive_close(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"hello");
        c.fin();
        c.read_fin();
        c.need(c.acked == Some(c.snd_nxt), "our FIN was not acknowledged");
        c.ack();
        c.timestamps = false;
        c.gone("after LAST-ACK");
        c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Closed), "closed in order");
    }

    /// FIN with text, and FIN alone after text.
    fn fin_with_text(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        c.send(Out::new(FIN | ACK | PSH).data(b"last words"));
        c.reads(b"last words");
        c.read_fin();
        c.ack();
        c.gone("after LAST-ACK");
    }

    /// Text that the engine owes is sent before its FIN, through a window that opens late.
    fn fin_after_all_text(bed) {
        let mut c = bed.open(ECHO, &Offer::plain().window(0));
        c.data(b"pending");
        c.fin();
        c.wait_ack(c.snd_nxt, 1000, "FIN");
        c.never(100, "the window is shut", |s| s.data.len() > 1 || s.flags.fin());
        c.window = 100;
        c.ack();
        c.reads(b"pending");
        c.read_fin();
        c.ack();
        c.gone("after LAST-ACK");
    }

    /// §3.10.7.4 eighth: a FIN again is acknowledged again, in every state after the first.
    fn duplicate_fin(bed) {
        for make in [close_wait as Make, closing, last_ack, time_wait] {
            let mut c = make(bed, &Offer::plain());
            let ack = if c.fin_at.is_some() { c.irs + 1 } else { c.rcv_nxt };
            c.send(Out::new(FIN | ACK).seq(c.snd_nxt - 1).ack(ack));
            let s = c.expect(5, "ACK of the duplicate FIN", |s| s.kind() == ACK);
            c.need(s.ack == c.snd_nxt, "of all");
        }
    }

    /// In FIN-WAIT-1 the FIN is sent again, with growing gaps.
    fn fin_retransmitted(bed) {
        for (state, make) in [(State::FinWait1, fin_wait_1 as Make), (State::Closing, closing), (State::LastAck, last_ack)] {
            let mut c = make(bed, &Offer::plain());
            let mut times = Vec::new();
            while times.len() < 4 {
                let s = c.expect(16_000, "FIN again", |s| s.flags.fin());
                c.need(s.end() == c.rcv_nxt && s.ack == c.snd_nxt, "the same FIN");
                times.push(s.at);
            }
            let gaps: Vec<_> = times.windows(2).map(|t| t[1].since(t[0]).as_millis()).collect();
            c.need(gaps.windows(2).all(|g| g[1] >= g[0] * 3 / 2), &format!("{state:?}: gaps {gaps:?}"));
            c.ack();
            c.drain();
            c.never(3000, "the FIN is acknowledged", |s| s.flags.fin());
        }
    }

    /// An ACK of text but not of the FIN leaves FIN-WAIT-1 as it is.
    fn partial_ack_in_fin_wait_1(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = fin_wait_1(&bed, &Offer::plain());
        c.send(Out::new(ACK).ack(c.rcv_nxt - 1));
        c.drain();
        c.need(c.state() == State::FinWait1, "FIN-WAIT-1");
        c.expect(3000, "FIN again", |s| s.flags.fin() && s.data.is_empty());
        c.ack();
        c.drain();
        c.need(c.state() == State::FinWait2, "FIN-WAIT-2");
    }

    /// A FIN that acknowledges the engine's FIN: straight to TIME-WAIT.
    fn fin_acknowledges_fin(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = fin_wait_1(&bed, &Offer::full());
        c.fin();
        c.expect_ack(500, "ACK of our FIN");
        c.never(1500, "its FIN is acknowledged", |s| s.flags.fin());
        c.need(c.state() == State::TimeWait, "TIME-WAIT");
    }

    /// Text in FIN-WAIT-1 and FIN-WAIT-2 is taken.
    fn text_in_fin_wait(bed) {
        for make in [fin_wait_1 as Make, fin_wait_2] {
            let mut c = make(bed, &Offer::full());
            c.data(&[9; 1000]);
            c.wait_ack(c.snd_nxt, 500, "text");
            c.data(&[9; 1000]);
            c.fin();
            c.wait_ack(c.snd_nxt, 500, "text and FIN");
        }
    }

    /// Simultaneous close (§3.6 figure 13): CLOSING, then TIME-WAIT.
    fn simultaneous_close(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = closing(&bed, &Offer::plain());
        c.need(c.state() == State::Closing, "CLOSING");
        c.ack();
        c.drain();
        c.need(c.state() == State::TimeWait, "TIME-WAIT");
        c.send(Out::new(FIN | ACK).seq(c.snd_nxt - 1));
        c.expect_ack(500, "ACK of the FIN again");
    }

    /// Text after the peer's FIN is not taken, in any state.
    fn text_after_fin(bed) {
        for (state, make) in CLOSING_STATES {
            if matches!(state, State::FinWait1 | State::FinWait2) {
                continue;
            }
            let mut c = make(bed, &Offer::plain());
            let before = bed.services().read.len();
            c.send(Out::new(ACK | PSH).data(b"after FIN").seq(c.snd_nxt).ack(c.irs + 1));
            let segs = c.collect(20);
            c.need(segs.iter().all(|s| s.ack == c.snd_nxt && !s.flags.rst()), &format!("{state:?}: acknowledged"));
            c.need(bed.services().read.len() == before, &format!("{state:?}: delivered"));
        }
    }

    /// §3.10.7.4 first: outside the window, in every state.
    fn out_of_window_in_every_state(bed) {
        for (state, make) in CLOSING_STATES {
            for offer in [Offer::plain(), Offer::full()] {
                let mut c = make(bed, &offer);
                for seq in [c.snd_nxt - 30_000, c.snd_nxt + 0x4000_0000] {
                    c.send(Out::new(ACK).seq(seq).data(b"?").ack(c.irs + 1));
                    let s = c.expect(20, &format!("{state:?}: ACK"), |s| s.kind() == ACK);
                    c.need(s.ack == c.snd_nxt, &format!("{state:?}: of RCV.NXT"));
                }
                c.need(bed.services().read.is_empty(), "delivered");
            }
        }
    }

    /// RFC 5961 §3.2, §4.2 in every state: RST at RCV.NXT ends it, in the window it is challenged, as a SYN is.
    //= RFC 5961 3.2-MUST-1, 3.2-MUST-2, 3.2-MUST-3, 4.2-MUST-1
    fn rst_and_syn_in_every_state(bed) {
        for (state, make) in CLOSING_STATES {
            if state == State::TimeWait {
                continue;
            }
            let mut c = make(bed, &Offer::plain());
            c.send(Out::new(RST).seq(c.snd_nxt + 7));
            let s = c.expect(20, &format!("{state:?}: challenge ACK for RST"), |s| s.kind() == ACK);
            c.need(s.ack == c.snd_nxt, "a challenge ACK");
            c.send(Out::new(SYN).seq(c.snd_nxt + 7));
            let s = c.expect(20, &format!("{state:?}: challenge ACK for SYN"), |s| s.kind() == ACK);
            c.need(s.ack == c.snd_nxt, "a challenge ACK");
            c.send(Out::new(RST).seq(c.snd_nxt + 0x2000_0000));
            c.never(20, "RST outside the window", |s| s.is_pure_ack());
            c.send(Out::new(RST).seq(c.snd_nxt));
            c.silent(20, "a RST is not answered");
            c.gone(&format!("{state:?}: after RST"));
        }
    }

    /// §3.10.5: an abort sends RST while the peer may have something to send, and none after that.
    fn abort_in_every_state(bed) {
        let makers = [
            (State::Established, (|bed: &Bed, offer: &Offer| bed.open(SINK, offer)) as Make, true),
            (State::FinWait1, fin_wait_1, true),
            (State::FinWait2, fin_wait_2, true),
            (State::CloseWait, close_wait, true),
            (State::Closing, closing, false),
            (State::LastAck, last_ack, false),
        ];
        for (state, make, reset) in makers {
            let mut c = make(bed, &Offer::plain());
            c.settle();
            c.tell(|conn| conn.abort());
            let segs = c.collect(5);
            let sent = segs.iter().find(|s| s.flags.rst());
            c.need(sent.is_some() == reset, &format!("{state:?}: RST"));
            if let Some(s) = sent {
                c.need(s.seq.at_or_before(c.rcv_nxt) && s.ack == c.snd_nxt, "a RST the peer believes");
            }
            c.gone(&format!("{state:?}: after abort"));
        }
    }

    /// RFC 7323 §3.2: a RST of a connection with timestamps has them.
    //= RFC 7323 3.2-SHOULD-1
    fn abort_is_stamped(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.tell(|conn| conn.abort());
        let s = c.any(5, "RST");
        c.need(s.flags.rst() && s.options.timestamps.is_some(), "a RST with timestamps");
    }

    /// TIME-WAIT: an old SYN draws an ACK of the old connection.
    //= RFC 9293 MAY-2
    //= RFC 6191 2-SHOULD-2
    fn time_wait_old_syn(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = time_wait(bed, &offer);
            let old = c.tsval().wrapping_sub(100_000);
            c.send(Out::new(SYN).seq(c.iss - 5000).timestamp(old));
            let s = c.any(500, "ACK for an old SYN");
            c.need(s.kind() == ACK && s.ack == c.snd_nxt && s.seq == c.rcv_nxt, "of the old connection");
        }
    }

    /// RFC 9293 MAY-2, RFC 6191: a SYN above the old numbers, or with a later timestamp, opens a new connection above.
    //= RFC 9293 MAY-2, SHLD-4
    //= RFC 6191 2-SHOULD-1
    fn time_wait_new_syn(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            for advance in [1u32, 100_000, 0x7000_0000] {
                let mut c = time_wait(bed, &offer);
                let old_end = c.rcv_nxt;
                c.iss = c.snd_nxt + advance;
                c.timestamps = false;
                let r = c.syn(&offer);
                c.need(r.seq.after(old_end), "an ISS above the old numbers");
                c.fin_at = None;
                c.ack();
                c.read_fin();
                c.fin();
                c.wait_ack(c.snd_nxt, 500, "FIN of the second incarnation");
            }
        }
        // with timestamps a lower sequence number will do
        let mut c = time_wait(bed, &Offer::full());
        c.iss -= 1_000_000;
        c.timestamps = false;
        c.clock += 10_000;
        c.syn(&Offer::full());
    }

    /// TIME-WAIT answers old text, FINs and strange SYNs, and nothing ends it.
    fn time_wait_answers(bed) {
        let mut c = time_wait(bed, &Offer::plain());
        for out in [
            Out::new(ACK | PSH).data(b"old").seq(c.iss + 1),
            Out::new(ACK | PSH).data(b"new").seq(c.snd_nxt),
            Out::new(FIN | ACK).seq(c.snd_nxt - 1),
            Out::new(SYN | ACK).seq(c.snd_nxt - 1),
        ] {
            c.send(out);
            c.expect_ack(500, "ACK in TIME-WAIT");
        }
        c.ack();
        c.silent(200, "the last ACK again needs no answer");
    }

    /// RFC 1337: a RST that may be old does not end TIME-WAIT; one at exactly the next number does (RFC 9293
    /// §3.10.7.4, RFC 5961 §3.2). Neither is answered.
    //= RFC 9293 MUST-13
    //= RFC 1337 3-SHOULD-1
    fn time_wait_rst(bed) {
        let mut c = time_wait(bed, &Offer::plain());
        for seq in [c.snd_nxt - 1, c.snd_nxt + 5, c.snd_nxt + 0x4000_0000] {
            c.send(Out::new(RST).seq(seq));
        }
        c.silent(300, "a RST must not be answered");
        c.send(Out::new(FIN | ACK).seq(c.snd_nxt - 1));
        c.expect_ack(500, "TIME-WAIT goes on");
        c.send(Out::new(RST).seq(c.snd_nxt));
        c.silent(300, "a RST must not be answered");
        c.need(c.state() == State::Closed, "over");
    }

    /// 2 MSL, begun anew by a FIN; then nothing is left.
    //= RFC 9293 MUST-13
    fn time_wait_lasts(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = time_wait(&bed, &Offer::plain());
        bed.run(50_000);
        c.send(Out::new(FIN | ACK).seq(c.snd_nxt - 1));
        c.expect_ack(500, "ACK after 50 s");
        bed.run(55_000);
        c.need(c.state() == State::TimeWait, "begun anew");
        bed.run(10_000);
        c.need(c.state() == State::Closed, "over");
        c.gone("after TIME-WAIT");
    }

    /// FIN-WAIT-2 without a word from the peer comes to an end.
    fn fin_wait_2_ends(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = fin_wait_2(&bed, &Offer::plain());
        bed.run(50_000);
        c.need(c.state() == State::FinWait2, "FIN-WAIT-2");
        bed.run(20_000);
        c.need(c.state() == State::Closed, "over");
        c.gone("after FIN-WAIT-2");
    }

    /// Everything is given back: connections, records, buffers.
    fn memory_returned(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.time_wait = std::time::Duration::from_secs(1));
        for make in CLOSING_STATES.map(|(_, make)| make) {
            let mut c = make(&bed, &Offer::full());
            c.ack();
            c.settle();
            if c.id().is_some() {
                c.tell(|conn| conn.abort());
            }
        }
        bed.run(300_000);
        let left = bed.engine(|e| {
            let s = e.stats();
            (s.connections.get(), s.time_wait_now.get(), s.syn_received_now.get())
        });
        assert_eq!(left, (0, 0, 0));
        assert!(bed.services().live.is_empty());
    }
}
