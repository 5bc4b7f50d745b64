//! Flow control in both directions (RFC 9293 §3.8.6), Nagle's algorithm (§3.7.4).

use crate::prelude::*;

/// The highest octet of the engine's text within `ms`, from `base`.
fn reach(c: &mut Peer, base: Seq, ms: u64) -> u32 {
    c.collect(ms).iter().filter(|s| !s.data.is_empty()).map(|s| s.end() - base).max().unwrap_or(0)
}

checks! {
    /// Never more in flight than the window, whatever its size.
    fn window_respected(bed) {
        for window in [1, 10, 500, 1399, 1400, 5000, 14_000] {
            let mut c = bed.open(SINK, &Offer::plain().window(window));
            c.tell(|conn| Services::tell_to_send(conn, 50_000));
            let base = c.rcv_nxt;
            let sent = reach(&mut c, base, 1500);
            c.need(sent > 0 && sent <= u32::from(window), &format!("{sent} octets into a window of {window}"));
        }
    }

    /// §3.8.6.1 MUST-35, MUST-36: a shut window is probed, ever more slowly, with one octet at most; then all flows.
    //= RFC 9293 MUST-1, MUST-35, MUST-36, SHLD-29, SHLD-30
    fn zero_window_probed(bed) {
        let mut c = bed.open(ECHO, &Offer::plain().window(0));
        c.data(b"to be echoed");
        let queued = bed.now();
        c.wait_ack(c.snd_nxt, 500, "text");
        let mut times = Vec::new();
        while times.len() < 5 {
            let s = c.any(20_000, "probe");
            c.need(s.data.len() <= 1 && !s.flags.intersects(RST | FIN), "a probe");
            times.push(s.at);
            c.ack();
        }
        let first = times[0].since(queued).as_millis();
        c.need((200..=1000).contains(&first), &format!("the first probe after {first} ms, not the RTO"));
        let gaps: Vec<_> = times.windows(2).map(|t| t[1].since(t[0]).as_millis()).collect();
        c.need(gaps.windows(2).all(|g| g[1] >= g[0] * 3 / 2), &format!("gaps {gaps:?}"));
        c.window = 60_000;
        c.ack();
        c.reads(b"to be echoed");
    }

    /// MUST-37: as long as probes are answered the connection stays, for hours.
    //= RFC 9293 MUST-37
    fn answered_probes_keep_it_open(bed) {
        let mut c = bed.open(ECHO, &Offer::full().window(0));
        c.data(b"patience");
        for _ in 0..60 {
            c.any(130_000, "probe");
            c.ack();
        }
        c.window = 500;
        c.ack();
        c.reads(b"patience");
    }

    /// Probes that nobody answers come to an end.
    fn unanswered_probes_end_it(bed) {
        let mut c = bed.open(ECHO, &Offer::plain().window(0));
        c.data(b"anyone?");
        c.collect(3_000_000);
        c.need(bed.services().ended.first().is_some_and(|e| e.1 == End::Timeout), "given up");
    }

    /// The update that opens a window is lost: the probe finds out.
    //= RFC 9293 MUST-36
    fn lost_window_update(bed) {
        let mut c = bed.open(ECHO, &Offer::plain().window(0));
        c.data(b"stuck");
        c.any(2000, "ACK");
        c.expect(2000, "probe", |_| true);
        c.window = 1000;
        c.ack();
        c.reads(b"stuck");
    }

    /// MUST-38: no small segment into a window of ten octets, and yet not never.
    //= RFC 9293 MUST-38
    fn sender_avoids_silly_windows(bed) {
        let mut c = bed.open(SINK, &Offer::plain().mss(536).window(2680));
        c.tell(|conn| Services::tell_to_send(conn, 8040));
        let mut got = c.collect(20).len();
        c.need(got == 5, "the window filled");
        c.rcv_nxt += 2680;
        c.send(Out::new(ACK).window(10));
        c.silent(90, "ten octets are no segment");
        let s = c.any(2000, "the override");
        c.need(s.data.len() <= 10, "into the window");
        c.rcv_nxt += s.data.len() as u32;
        c.window = 20_000;
        c.ack();
        got = c.read(8040 - 2680 - s.data.len()).len();
        c.need(got > 0, "the rest");
    }

    /// MUST-34: a window that shrinks under what is in flight: nothing new beyond it, and no end.
    //= RFC 9293 MUST-34, SHLD-15, SHLD-16
    //= RFC 7323 2.4-MUST-1, 2.4-MUST-3
    fn peer_shrinks_its_window(bed) {
        let mut c = bed.open(SINK, &Offer::plain().mss(1000).window(5000));
        c.tell(|conn| Services::tell_to_send(conn, 9000));
        let base = c.rcv_nxt;
        let sent = reach(&mut c, base, 20);
        c.need(sent == 5000, "the window filled");
        c.send(Out::new(ACK).window(500));
        let after = reach(&mut c, base, 800);
        c.need(after <= sent && !c.reset && c.fin_at.is_none(), "nothing new");
        c.window = 30_000;
        c.ack();
        c.reads_within(pattern(9000), 8000);
    }

    /// The window shrinks to nothing under what is in flight, and stays shut for hours: answered all the time.
    //= RFC 9293 MUST-34, MUST-37, SHLD-16, SHLD-17
    fn window_shut_under_flight(bed) {
        let mut c = bed.open(SINK, &Offer::plain().mss(1000).window(5000));
        c.tell(|conn| Services::tell_to_send(conn, 9000));
        c.collect(20);
        c.window = 0;
        for _ in 0..40 {
            c.ack();
            c.next(130_000, |_| true);
        }
        c.window = 30_000;
        c.ack();
        c.reads_within(pattern(9000), 200_000);
    }

    /// MUST-34, MUST-39: the right edge never moves back; what was promised is taken; it opens again in one piece.
    //= RFC 9293 SHLD-14, MAY-8
    //= RFC 7323 2.3-MUST-2, 2.4-MUST-1, 2.4-MUST-2, 2.4-SHOULD-1
    fn receive_window(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.receive_window = 40_000);
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = bed.open(STUCK, &offer);
            let base = c.snd_nxt;
            let mut edge = u32::from(c.syn_ack.as_ref().map_or(0, |s| s.window));
            let (mut sent, data) = (0, pattern(60_000));
            loop {
                while sent + 1000 <= edge && sent < 60_000 {
                    c.data(&data[sent as usize..][..1000]);
                    sent += 1000;
                }
                let Some(s) = c.next(300, |_| true) else { break };
                let fresh = (s.ack - base) + (u32::from(s.window) << c.engine_scale);
                c.need(fresh >= edge, &format!("the right edge moved back from {edge} to {fresh}"));
                edge = fresh;
            }
            c.need((40_000..41_500).contains(&edge), &format!("an edge of {edge}"));
            c.data(&data[sent as usize..edge as usize]);
            c.wait_ack(c.snd_nxt, 1500, "the last octets of the window");
            // beyond it: refused, but answered
            c.data_at(base + edge, b"?");
            let s = c.any(500, "ACK of a probe");
            c.need(s.ack == base + edge && s.window == 0, "the window is shut");
            c.tell(|conn| {
                conn.set_word(u64::from(SINK));
                conn.resume();
            });
            let s = c.any(500, "window update");
            c.need(u32::from(s.window) << c.engine_scale >= 39_000, "a whole window");
            c.need(bed.services().read.len() as u32 == edge, "all was kept");
            bed.engine(|e| e.app_mut().read.clear());
        }
    }

    /// MUST-66: with the window shut text is refused, RST and urgent pointer are heard.
    //= RFC 9293 MUST-66, SHLD-2
    fn shut_window_hears_rst_and_urg(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.receive_window = 4096);
        for last_words in [&b""[..], b"why"] {
            let mut c = bed.open(STUCK, &Offer::plain());
            for _ in 0..4 {
                c.data(&[1; 1024]);
            }
            c.settle();
            c.send(Out::new(ACK | URG).data(b"!").seq(c.snd_nxt).urgent(1));
            let s = c.any(500, "ACK of text at a shut window");
            c.need(s.window == 0 && s.ack == c.snd_nxt, "the window is shut");
            c.need(bed.services().reports.last().is_some_and(|r| r.1 == Report::Urgent(4097)), "urgent");
            c.send(Out::new(RST).data(last_words).seq(c.snd_nxt));
            c.silent(100, "a RST is not answered");
            c.need(bed.services().ended.last().is_some_and(|e| e.1 == End::Reset), "reset");
        }
    }

    /// §3.10.7.4, first step: with the window shut the ACK of a probe is heard, its text and a FIN are not.
    fn shut_window_hears_ack(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.receive_window = 4096);
        let mut c = bed.open(STUCK, &Offer::plain());
        for _ in 0..4 {
            c.data(&[1; 1024]);
        }
        c.settle();
        c.tell(|conn| Services::tell_to_send(conn, 1000));
        let s = c.expect(100, "text", |s| !s.data.is_empty());
        c.send(Out::new(ACK | PSH).data(b"!").seq(c.snd_nxt).ack(s.end()));
        let s = c.any(100, "ACK of a probe");
        c.need(s.is_pure_ack() && s.ack == c.snd_nxt && s.window == 0, "nothing is taken");
        c.silent(5000, "what is acknowledged comes no more");
        c.send(Out::new(FIN | ACK).seq(c.snd_nxt));
        let s = c.any(100, "ACK");
        c.need(s.ack == c.snd_nxt && c.state() == State::Established, "a FIN outside the window");
    }

    /// A burst of segments in order draws one ACK (MUST-58).
    //= RFC 9293 MUST-58
    fn a_burst_draws_one_ack(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.settle();
        for _ in 0..10 {
            c.data(&[1; 1400]);
        }
        let acks = c.collect(5);
        c.need(acks.len() == 1 && acks[0].ack == c.snd_nxt, &format!("{} ACKs of one burst", acks.len()));
    }

    /// A connection whose reader paused once has, when all is read and sent, no more than an idle one has.
    fn a_paused_reader_costs_nothing_afterwards(bed) {
        let mut c = bed.open(ECHO, &Offer::plain().window(4000));
        c.window = 0;
        // more than the echo may keep to send: it stops reading
        let text = pattern(300_000);
        for piece in text.chunks(1300) {
            c.data(piece);
            c.drain();
        }
        let unread = bed.engine(|engine| engine.held().chunks);
        c.need(unread > 140, "nothing is unread");
        c.window = 60_000;
        c.ack();
        c.reads_within(&text, 20_000);
        bed.run(5_000);
        let held = bed.engine(|engine| engine.held());
        c.need((held.connections, held.busy_blocks, held.chunks) == (1, 0, 0), &format!("{held:?}"));
        c.still_open("after the pause");
    }

    /// §3.8.6.2.2 SWS at the receiver: a window that opens by an octet is not announced.
    //= RFC 9293 MUST-39
    fn receiver_avoids_silly_windows(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.receive_window = 20_000);
        let mut c = bed.open(STUCK, &Offer::plain());
        let base = c.snd_nxt;
        for _ in 0..20 {
            c.data(&[1; 1000]);
        }
        c.settle();
        let mut last = 0;
        for _ in 0..5 {
            c.data_at(base + 20_000, b"x");
            let s = c.any(500, "ACK of a probe");
            c.need(s.window == 0 || s.window >= 1400, &format!("a window of {}", s.window));
            last = s.window;
        }
        c.need(last == 0, "shut");
    }

    /// Nagle's algorithm, when it is switched on: small text waits while something is unacknowledged.
    //= RFC 9293 SHLD-7, SHLD-27, MAY-16, MUST-60
    fn nagle(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.nagle = true);
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| Services::tell_to_send(conn, 10));
        let s = c.any(5, "the first small segment");
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.silent(100, "small text waits");
        c.rcv_nxt = s.end();
        c.ack();
        let s = c.any(5, "what has waited");
        c.need(s.data.len() == 20, "in one segment");
        c.rcv_nxt = s.end();
        c.ack();
        c.tell(|conn| Services::tell_to_send(conn, 1450));
        let s = c.any(5, "a full segment");
        c.need(s.data.len() == 1400, "full segments go");
        c.silent(50, "the small rest waits");
        c.tell(|conn| conn.close());
        let s = c.any(5, "FIN");
        c.need(s.flags.fin() && s.data.len() == 50, "a FIN takes the rest along");
    }

    /// A connection may have Nagle's algorithm where others have not, and may hold small segments back altogether.
    fn nagle_and_cork_of_a_connection(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| {
            conn.set_nagle(true);
            Services::tell_to_send(conn, 10)
        });
        c.any(5, "the first small segment");
        c.tell(|conn| Services::tell_to_send(conn, 10));
        c.silent(50, "small text waits");
        c.tell(|conn| conn.set_nagle(false));
        let s = c.any(5, "what has waited");
        c.rcv_nxt = s.end();
        c.ack();
        c.tell(|conn| {
            conn.set_cork(true);
            Services::tell_to_send(conn, 1410)
        });
        let s = c.any(5, "a full segment");
        c.need(s.data.len() == 1400, "full segments go");
        c.silent(50, "the rest is held");
        c.tell(|conn| conn.set_cork(false));
        let s = c.any(5, "the rest");
        c.need(s.data.len() == 10, "at once");
    }

    /// PSH on the last segment of a burst of several, where that is configured; on the last of all in any case.
    fn bursts_pushed(bed) {
        for on in [false, true] {
            let bed = Bed::with(bed.is_v6(), |config| config.tcp.push_bursts = on);
            let mut c = bed.open(SINK, &Offer::plain().mss(1000));
            c.tell(|conn| Services::tell_to_send(conn, 10_500));
            let first = c.collect(5);
            let pushed: Vec<_> = first.iter().map(|s| s.flags.contains(PSH)).collect();
            c.need(first.len() == 10 && !pushed[..9].contains(&true) && pushed[9] == on, &format!("{pushed:?}"));
            c.rcv_nxt = first[9].end();
            c.ack();
            let last = c.any(5, "the last");
            c.need(last.flags.contains(PSH), "PSH on the last");
        }
    }

    /// RFC 7323 §2.2: the shift that is configured, if one is.
    fn configured_scale(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.window_scale = Some(9));
        let mut c = bed.peer(ECHO);
        let syn_ack = c.syn(&Offer::full());
        c.need(syn_ack.options.window_scale == Some(9), "a shift of 9");
        c.take_syn_ack(&Offer::full(), syn_ack);
        c.ack();
        c.echo(b"scaled");
    }

    /// Without Nagle each piece goes at once.
    //= RFC 9293 MUST-60
    fn no_nagle(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        for _ in 0..3 {
            c.tell(|conn| Services::tell_to_send(conn, 10));
            let s = c.any(5, "a small segment");
            c.need(s.data.len() == 10, "at once");
        }
    }

    /// PSH is set on the last segment of what was queued (MUST-60, MUST-61).
    //= RFC 9293 MUST-60, MUST-61, SHLD-28
    fn push(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.tell(|conn| Services::tell_to_send(conn, 3000));
        let segs = c.collect(5);
        c.need(segs.len() == 3 && segs[2].flags.contains(PSH), "PSH on the last");
    }
}
