//! ESTABLISHED: delivery, reassembly, acknowledgement, SACK, timestamps.

use crate::prelude::*;

/// Blocks as offsets from `base`.
fn blocks(seg: &Seg, base: Seq) -> Vec<(u32, u32)> {
    seg.options.sack.as_slice().iter().map(|b| (b.start - base, b.end - base)).collect()
}

checks! {
    /// A transfer in both directions, of any size, through any window.
    fn echo_of_all_sizes(bed) {
        for offer in [Offer::plain(), Offer::full(), Offer::sack()] {
            let mut c = bed.open(ECHO, &offer);
            for len in [1, 2, 535, 536, 1460, 1461, 4000, 20_000] {
                c.echo(&pattern(len));
            }
        }
    }

    /// 300 segments of one octet.
    fn tiny_segments(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let data = pattern(300);
        for octet in data.chunks(1) {
            c.data(octet);
        }
        c.reads(data);
    }

    /// §3.9.1.2: without PSH text is delivered all the same.
    fn no_push(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        c.send(Out::new(ACK).data(b"no push here"));
        c.reads(b"no push here");
    }

    /// §3.8.5, RFC 6093: urgent text is text, wherever the pointer points.
    //= RFC 9293 MUST-30
    fn urgent_text_is_text(bed) {
        for pointer in [0, 1, 4, 8, 500, 65_535] {
            let mut c = bed.open(ECHO, &Offer::plain());
            c.send(Out::new(ACK | PSH | URG).data(b"urgent!!").urgent(pointer));
            c.reads(b"urgent!!");
            c.send(Out::new(ACK | URG).urgent(pointer));
            c.send(Out::new(ACK | PSH).data(b"pointer without URG").urgent(pointer));
            c.reads(b"pointer without URG");
        }
    }

    /// Pure ACKs in the window are not answered.
    fn pure_acks_not_answered(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"hello");
        c.settle();
        for window in [60_000, 59_000, 60_000, 60_000, 60_000, 60_000] {
            c.send(Out::new(ACK).window(window));
        }
        c.silent(300, "pure ACKs need no answer");
        c.still_open("after pure ACKs");
    }

    /// Out of order in every way.
    //= RFC 9293 SHLD-31
    fn reassembly(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let data = pattern(4000);
        let base = c.snd_nxt;
        for i in (0..20).map(|i| i * 7 % 20) {
            c.data_at(base + i * 200, &data[i as usize * 200..][..200]);
        }
        c.snd_nxt = base + 4000;
        c.reads(data);
    }

    /// Overlaps on the left, on the right, inside and around.
    fn overlaps(bed) {
        let orders: [&[(usize, usize)]; 6] = [
            &[(0, 150), (100, 250), (200, 400), (400, 500)],
            &[(300, 500), (100, 350), (0, 120)],
            &[(100, 200), (300, 400), (50, 450), (0, 60), (440, 500)],
            &[(100, 400), (200, 300), (0, 500)],
            &[(450, 500), (449, 451), (1, 450), (0, 2)],
            &[(100, 200), (100, 200), (200, 300), (150, 250), (0, 100), (0, 300), (300, 500)],
        ];
        for order in orders {
            let mut c = bed.open(ECHO, &Offer::full());
            let (data, base) = (pattern(500), c.snd_nxt);
            for &(from, to) in order {
                c.data_at(base + from as u32, &data[from..to]);
            }
            c.snd_nxt = base + 500;
            c.reads(data);
            c.never(100, "each octet once", |s| !s.data.is_empty());
        }
    }

    /// Text that was received is acknowledged and not delivered again; a new half of it is.
    fn duplicates_and_halves(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let base = c.snd_nxt;
        c.echo(b"abcdefghij");
        c.settle();
        c.data_at(base, b"abcdefghij");
        c.expect_ack(100, "ACK of a duplicate");
        c.data_at(base + 5, b"fghijKLMNO");
        c.snd_nxt = base + 15;
        c.reads(b"KLMNO");
        c.never(200, "nothing more is due", |s| !s.data.is_empty());
    }

    /// RFC 9293 §3.10.7.4: text beyond the window is cut off, what is inside it counts.
    fn text_beyond_the_window(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.receive_window = 4096;
            config.tcp.receive_buffer = 4096;
        });
        let mut c = bed.open(STUCK, &Offer::plain());
        let (data, base) = (pattern(6000), c.snd_nxt);
        for at in (0..6000).step_by(1000) {
            c.data_at(base + at, &data[at as usize..][..1000]);
        }
        c.collect(300);
        c.need(c.acked == Some(base + 4096), &format!("acknowledged {:?}", c.acked.map(|a| a - base)));
        c.send(Out::new(FIN | ACK).seq(base + 4096 + 1000));
        c.settle();
        c.snd_nxt = base + 4096;
        c.need(c.state() == State::Established, "a FIN beyond the window");
    }

    /// RFC 5681 §4.2: out of order, and filling a hole, is acknowledged at once.
    //= RFC 5681 3.2-SHOULD-1, 3.2-SHOULD-2
    fn out_of_order_acknowledged_at_once(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.data(b"one");
        c.settle();
        let base = c.snd_nxt;
        for i in 1..=3 {
            c.data_at(base + 100 * i, &[0; 100]);
            let s = c.any(5, "duplicate ACK at once");
            c.need(s.is_pure_ack() && s.ack == base, "ACK of the left edge");
        }
        c.data_at(base, &[0; 50]);
        let s = c.any(5, "ACK of half a hole at once");
        c.need(s.ack == base + 50, "ACK of the first half");
        c.data_at(base + 50, &[0; 50]);
        let s = c.any(5, "ACK of a filled hole at once");
        c.need(s.ack == base + 400, "ACK of all");
    }

    /// A burst of segments behind a hole draws a duplicate ACK each: the sender counts them.
    //= RFC 9293 MUST-59, MAY-13
    //= RFC 5681 3.2-SHOULD-1, 4.2-MUST-2
    //= RFC 2018 4-SHOULD-2
    fn a_duplicate_ack_each(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        let base = c.snd_nxt;
        for i in 1..=8 {
            c.data_at(base + 100 * i, &[0; 100]);
        }
        let acks = c.collect(5);
        c.need(acks.len() == 8, &format!("{} duplicate ACKs for 8 segments", acks.len()));
        c.need(acks.windows(2).all(|w| w[0].window == w[1].window), "the window moved: no duplicate ACKs");
    }

    /// A FIN out of order is acknowledged at once and waits for its place.
    fn fin_out_of_order(bed) {
        let mut c = bed.open(ECHO, &Offer::sack());
        c.settle();
        let base = c.snd_nxt;
        c.send(Out::new(FIN | ACK).seq(base + 10));
        let s = c.any(5, "duplicate ACK for a FIN ahead");
        c.need(s.is_pure_ack() && s.ack == base, "ACK of the left edge");
        c.data_at(base, b"0123456789");
        c.snd_nxt = base + 11;
        c.reads(b"0123456789");
        c.read_fin();
        c.wait_ack(c.snd_nxt, 1000, "our FIN");
    }

    /// RFC 2018 §3, §4: the newest segment's block first, adjacent ones merged, none without a hole.
    //= RFC 2018 4-SHOULD-1, 4-MUST-2, 4-SHOULD-3, 4-SHOULD-4
    fn sack_blocks(bed) {
        for offer in [Offer::full(), Offer::sack()] {
            let mut c = bed.open(SINK, &offer);
            c.data(b"one");
            c.settle();
            let base = c.snd_nxt;
            let steps: [(u32, &[(u32, u32)]); 5] = [
                (2, &[(200, 300)]),
                (4, &[(400, 500), (200, 300)]),
                (6, &[(600, 700), (400, 500), (200, 300)]),
                (3, &[(200, 500), (600, 700)]),
                (1, &[(100, 500), (600, 700)]),
            ];
            for (i, want) in steps {
                c.data_at(base + 100 * i, &[0; 100]);
                let s = c.any(5, "duplicate ACK");
                let got = blocks(&s, base);
                c.need(s.ack == base && got == want, &format!("after segment {i}: {got:?}, not {want:?}"));
            }
            c.data_at(base, &[0; 100]);
            let s = c.any(5, "ACK");
            c.need(s.ack == base + 500 && blocks(&s, base) == [(600, 700)], "one hole left");
            c.data_at(base + 500, &[0; 100]);
            let s = c.any(5, "ACK");
            c.need(s.ack == base + 700 && s.options.sack.is_empty(), "no hole, no block");
        }
    }

    /// RFC 2018 §4: a segment of text reports what is beyond a hole, too, as far as it has room; RFC 2883 §4: and a duplicate.
    //= RFC 2018 4-SHOULD-1
    //= RFC 2883 4-SHOULD-1
    fn sack_beside_text(bed) {
        for offer in [Offer::full(), Offer::sack()] {
            let mut c = bed.open(ECHO, &offer.mss(536));
            c.settle();
            let base = c.snd_nxt;
            c.data_at(base + 700, &[0; 100]);
            c.drain();
            c.data(&[1; 600]);
            let mut segs = c.collect(2);
            segs.retain(|s| !s.data.is_empty());
            c.need(segs.len() == 2, "the echo in two segments");
            let room = segs.iter().all(|s| s.data.len() + s.option_bytes <= 536);
            c.need(room, "no segment grows by its options");
            c.need(segs[0].options.sack.is_empty(), "no room beside a full segment");
            c.need(blocks(&segs[1], base) == [(700, 800)], &format!("{:?}", blocks(&segs[1], base)));
            c.rcv_nxt = segs[1].end();
            c.ack();
            c.data_at(base + 560, &[1; 80]);
            c.snd_nxt = base + 640;
            let s = c.expect(5, "the echo of the new half", |s| s.ack == base + 640);
            c.need(blocks(&s, base) == [(560, 600), (700, 800)], &format!("{:?}", blocks(&s, base)));
        }
    }

    /// More holes than a header has room for: the newest are told.
    //= RFC 2018 4-MUST-2, 4-SHOULD-3
    fn many_holes(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        let base = c.snd_nxt;
        for i in 1..=6 {
            c.data_at(base + 200 * i, &[0; 100]);
            let s = c.any(5, "duplicate ACK");
            let got = blocks(&s, base);
            c.need(got[0] == (200 * i, 200 * i + 100), "the newest block first");
            c.need(got.len() == (i as usize).min(3), "as many as fit beside timestamps");
        }
    }

    /// RFC 2883 §4: a duplicate is reported first, at or below the ACK.
    //= RFC 2883 4-SHOULD-1
    fn dsack(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        let base = c.snd_nxt;
        c.data(&[1; 100]);
        c.settle();
        c.data_at(base, &[1; 100]);
        let s = c.any(5, "ACK of a duplicate");
        c.need(blocks(&s, base) == [(0, 100)], &format!("{:?}", blocks(&s, base)));
        c.data(&[2; 100]);
        c.settle();
        c.data_at(base + 50, &[1; 200]);
        let s = c.any(5, "ACK of a half duplicate");
        c.need(blocks(&s, base) == [(50, 200)] && s.ack == base + 250, &format!("{:?}", blocks(&s, base)));
    }

    /// RFC 2883 §4.2: a duplicate beyond the hole, then the block that holds it.
    //= RFC 2883 4-SHOULD-1, 4-SHOULD-2, 4-SHOULD-3
    fn dsack_beyond_a_hole(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.settle();
        let base = c.snd_nxt;
        c.data_at(base + 100, &[0; 200]);
        c.data_at(base + 500, &[0; 100]);
        c.drain();
        c.data_at(base + 150, &[0; 50]);
        let s = c.any(5, "ACK of a duplicate");
        let got = blocks(&s, base);
        c.need(got == [(150, 200), (100, 300), (500, 600)], &format!("{got:?}"));
    }

    /// RFC 9293 SHLD-18: at least every second full-sized segment is acknowledged at once.
    //= RFC 9293 SHLD-19, SHLD-18
    //= RFC 5681 4.2-SHOULD-1
    fn every_second_segment(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.settle();
        for _ in 0..6 {
            c.data(&[0; 1400]);
            c.silent(2, "the first of two may wait");
            c.data(&[0; 1400]);
            c.expect_ack(5, "ACK of the second");
        }
    }

    /// RFC 9293 §3.8.6.3: an acknowledgement waits less than half a second.
    //= RFC 9293 SHLD-18, MUST-40
    //= RFC 5681 4.2-MUST-1
    fn delayed_acknowledgement(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        c.settle();
        c.data(b"alone");
        let sent = bed.now();
        let s = c.expect_ack(500, "delayed ACK");
        let waited = s.at.since(sent).as_millis();
        c.need((20..200).contains(&waited), &format!("after {waited} ms"));
    }

    /// §3.10.7.4 fifth: without ACK a segment is dropped.
    fn no_ack_flag(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        for out in [
            Out::new(PSH).data(b"no ack flag"),
            Out::new(FIN),
            Out::new(NULL),
            Out::new(FIN | PSH | URG).urgent(1),
        ] {
            c.send(out.seq(c.snd_nxt));
        }
        c.never(300, "no ACK, no effect", |s| !s.data.is_empty() || s.flags.intersects(FIN | RST));
        c.still_open("after segments without ACK");
    }

    /// RFC 7323 §3.2: on every segment, echoing a value that was sent.
    //= RFC 7323 3.2-MUST-2, 3.2-MUST-4
    fn timestamps_everywhere(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        for i in 0..5 {
            let (data, base) = (pattern(3000 + i), c.rcv_nxt);
            for piece in data.chunks(1000) {
                c.data(piece);
            }
            let now = c.tsval();
            while c.rcv_nxt - base < data.len() as u32 {
                let s = c.expect(1000, "echo", |_| true);
                let Some(ts) = s.options.timestamps else { c.fail("a segment without timestamps") };
                c.need(now.wrapping_sub(ts.echo) < 1000 || ts.echo.wrapping_sub(now) < 1000, "TSecr was never sent");
                c.rcv_nxt = c.rcv_nxt.latest(s.end());
                c.ack();
            }
        }
    }

    /// RFC 2883 §4.2: what fills a hole and had come before in part has that part reported, the first of several.
    fn duplicate_part_reported(bed) {
        let mut c = bed.open(SINK, &Offer::sack());
        let base = c.snd_nxt;
        for from in [100, 200, 400, 700] {
            c.data_at(base + from, &[1; 100]);
        }
        c.settle();
        let blocks = |s: &Seg| -> Vec<_> {
            s.options.sack.as_slice().iter().map(|b| (b.start - base, b.end - base)).collect()
        };
        c.data_at(base, &[1; 600]);
        let s = c.any(5, "ACK");
        c.need(s.ack == base + 600 && blocks(&s) == [(100, 300), (700, 800)], &format!("{:?}", blocks(&s)));
        c.data_at(base + 600, &[1; 200]);
        let s = c.any(5, "ACK");
        c.need(s.ack == base + 800 && blocks(&s) == [(700, 800)], &format!("{:?}", blocks(&s)));
    }

    /// RFC 7323 §4.3: TS.Recent comes from the segment at the left edge, not from one beyond a hole.
    //= RFC 7323 4.3-MUST-1, 4.3-SHOULD-2, 4.3-MUST-2
    fn ts_recent_from_the_left_edge(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.data(b"one");
        c.settle();
        let (base, now) = (c.snd_nxt, c.tsval());
        c.send(Out::new(ACK).data(&[0; 100]).seq(base + 100).timestamp(now + 50));
        let s = c.any(5, "duplicate ACK");
        c.need(s.options.timestamps.is_some_and(|ts| ts.echo < now + 50), "TSecr of a segment beyond a hole");
        c.send(Out::new(ACK).data(&[0; 100]).seq(base).timestamp(now + 60));
        let s = c.any(5, "ACK");
        c.need(s.options.timestamps.is_some_and(|ts| ts.echo == now + 60), "TSecr of the segment that fills it");
    }

    /// RFC 7323 §4.3 (2): of two segments acknowledged together, the first is echoed.
    //= RFC 7323 4.3-MUST-1, 4.3-SHOULD-1
    fn ts_recent_with_delayed_ack(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.data(b"one");
        c.settle();
        let now = c.tsval();
        c.send(Out::new(ACK).data(&[0; 1000]).timestamp(now + 10));
        c.send(Out::new(ACK).data(&[0; 1000]).timestamp(now + 20));
        let s = c.any(5, "ACK of two");
        c.need(s.options.timestamps.is_some_and(|ts| ts.echo == now + 10), "TSecr of the earlier one");
    }

    /// TS.Recent is not taken from a segment whose ACK field is no good: a forged one would make PAWS drop what follows.
    fn ts_recent_not_from_a_bad_ack(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"fresh");
        c.settle();
        let far = c.tsval().wrapping_add(1 << 20);
        c.send(Out::new(ACK | PSH).data(b"forged").seq(c.snd_nxt).ack(c.rcv_nxt + 99_999).timestamp(far));
        c.expect_ack(5, "ACK of something not yet sent");
        c.data(b"genuine");
        c.reads(b"genuine");
    }

    /// RFC 7323 §5.3: older than TS.Recent is dropped and acknowledged.
    //= RFC 7323 5.3-MUST-1
    fn paws(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"fresh");
        c.settle();
        let old = c.tsval().wrapping_sub(100_000);
        c.send(Out::new(ACK | PSH).data(b"stale").seq(c.snd_nxt).timestamp(old));
        c.expect_ack(100, "ACK of a segment that fails PAWS");
        c.never(200, "stale text", |s| !s.data.is_empty());
        c.send(Out::new(FIN | ACK).seq(c.snd_nxt).timestamp(old));
        c.settle();
        c.data(b"valid");
        c.reads(b"valid");
    }

    /// RFC 7323 §5.2 R1: a RST is not tested by its timestamp.
    //= RFC 7323 5.2-MUST-1
    fn paws_spares_rst(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"fresh");
        c.settle();
        c.send(Out::new(RST).timestamp(c.tsval().wrapping_sub(100_000)));
        c.silent(100, "a RST");
        c.need(c.state() == State::Closed, "reset");
    }

    /// RFC 7323 §5.5: after 24 days of silence TS.Recent is not believed.
    //= RFC 7323 5.5-MUST-1
    fn paws_forgets(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"fresh");
        c.settle();
        bed.run(25 * 24 * 3600 * 1000);
        c.clock = c.clock.wrapping_sub(u32::MAX / 2);
        c.data(b"after a month");
        c.reads(b"after a month");
    }

    /// RFC 7323 §3.2: once agreed on, a segment without timestamps is dropped.
    //= RFC 7323 3.2-SHOULD-2, 3.2-MUST-3
    fn missing_timestamps(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"stamped");
        c.settle();
        c.send(Out::new(ACK | PSH).data(b"naked").seq(c.snd_nxt).options(Vec::new()));
        c.never(300, "dropped", |s| !s.data.is_empty());
        c.send(Out::new(RST).seq(c.snd_nxt).options(Vec::new()));
        c.silent(100, "a RST needs no timestamp");
        c.need(c.state() == State::Closed, "reset");
    }

    /// RFC 7323 §3.2: where they were not agreed on timestamps mean nothing.
    //= RFC 7323 3.2-MUST-5
    fn timestamps_not_agreed_on(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        for value in [5_000, 1_000] {
            c.send(Out::new(ACK | PSH).data(b"stamped").timestamp(value));
            let s = c.expect(500, "echo", |s| !s.data.is_empty());
            c.need(s.options.timestamps.is_none(), "an answer without timestamps");
            c.rcv_nxt = s.end();
            c.ack();
        }
    }

    /// RFC 7323 §5.4: between 1 ms and 1 s a tick, never back.
    //= RFC 7323 5.4-MUST-1, 4.1-MUST-1
    fn timestamp_clock(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        let mut seen = Vec::new();
        for _ in 0..7 {
            c.data(b"tick");
            let s = c.expect(500, "echo", |s| !s.data.is_empty());
            c.rcv_nxt = s.end();
            c.ack();
            seen.push((s.at, s.options.timestamps.map_or(0, |ts| ts.value)));
            bed.run(200);
        }
        for pair in seen.windows(2) {
            let (ms, ticks) = (pair[1].0.since(pair[0].0).as_millis() as u32, pair[1].1.wrapping_sub(pair[0].1));
            c.need(ticks >= 1 && ticks <= ms + 2, &format!("{ticks} ticks in {ms} ms"));
        }
    }

    /// RFC 9293 §3.4: our numbers wrap, in the SYN, in text, out of order, in SACK blocks.
    fn peer_sequence_wraps(bed) {
        for iss in [u32::MAX, u32::MAX - 1, u32::MAX - 255, 0x7fff_ff80, u32::MAX - 700] {
            for offer in [Offer::plain(), Offer::full()] {
                let mut c = bed.peer(ECHO);
                c.iss = Seq(iss);
                c.snd_nxt = c.iss;
                c.open(&offer);
                c.echo(&pattern(1000));
                c.settle();
                let (data, base) = (pattern(600), c.snd_nxt);
                c.data_at(base + 100, &data[100..300]);
                let s = c.any(5, "duplicate ACK");
                c.need(!c.sack || blocks(&s, base) == [(100, 300)], "block");
                c.data_at(base + 400, &data[400..]);
                c.data_at(base + 300, &data[300..400]);
                c.data_at(base, &data[..100]);
                c.snd_nxt = base + 600;
                c.reads(data);
            }
        }
    }

    /// RFC 9293 §3.4: the engine's numbers wrap under 400 KiB of text.
    fn engine_sequence_wraps(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            for listener in &mut config.listeners {
                listener.syn_cookies = syncline_engine::config::SynCookies::Never;
            }
        });
        // The clock moves an initial sequence number on by one every 4 µs: wait until it is just below the wrap
        let mut c = bed.peer(ECHO);
        let now = c.syn(&Offer::full()).seq;
        c.send(Out::new(RST));
        bed.run(u64::from(u32::MAX - 200_000 - now.0) * 4 / 1000);
        c.drain();
        c.syn(&Offer::full());
        c.ack();
        for _ in 0..50 {
            c.echo(&pattern(8192));
        }
        c.need(c.rcv_nxt.0 < 1 << 20, "the numbers wrapped");
        c.fin();
        c.read_fin();
    }

    /// RFC 3168 §6.1.3: CE is echoed until CWR; text is ECT, pure ACKs and retransmissions are not.
    //= RFC 3168 6.1.3-MUST-1, 6.1.5-MUST-1
    fn ecn_echo(bed) {
        let mut c = bed.open(ECHO, &Offer { ecn: true, ..Offer::full() });
        let with = |ecn| Ip { ecn, ..Ip::default() };
        let mut exchange = |flags, ecn: u8| {
            c.send(Out::new(flags).data(&[7; 300]).ip(with(ecn)));
            let s = c.expect(1000, "echo", |s| !s.data.is_empty());
            c.rcv_nxt = s.end();
            c.ack();
            c.need(matches!(s.ecn, Ecn::Capable0 | Ecn::Capable1), "text is ECT");
            s.flags.contains(ECE)
        };
        assert!(!exchange(ACK | PSH, 2), "no mark, no echo");
        assert!(exchange(ACK | PSH, 3), "a mark is echoed");
        assert!(exchange(ACK | PSH, 2), "until CWR");
        assert!(!exchange(ACK | PSH | CWR, 2), "CWR ends it");
        assert!(!exchange(ACK | PSH, 2), "for good");
        assert!(exchange(ACK | PSH | CWR, 3), "CWR and a new mark at once");
        c.settle();
        c.data(b"x");
        let s = c.expect(1000, "echo", |s| !s.data.is_empty());
        let again = c.expect(2000, "retransmission", |t| t.seq == s.seq && !t.data.is_empty());
        c.need(again.ecn == Ecn::NotCapable, "a retransmission is not ECT (§6.1.5)");
    }

    /// RFC 3168 §6.1.4 to §6.1.6: pure ACKs and window probes are not ECT; a mark on what is outside the window is none.
    //= RFC 3168 6.1.4-MUST-1, 6.1.6-MUST-1, 6.1.5-SHOULD-1
    fn ecn_of_acks(bed) {
        let mut c = bed.open(SINK, &Offer { ecn: true, ..Offer::full() });
        c.settle();
        c.data(b"text");
        let s = c.expect_ack(500, "ACK");
        c.need(s.ecn == Ecn::NotCapable, "a pure ACK is ECT");
        c.send(Out::new(ACK | PSH).data(b"old").seq(c.snd_nxt - 3).ip(Ip { ecn: 3, ..Ip::default() }));
        let s = c.expect_ack(500, "ACK of old text");
        c.need(!s.flags.contains(ECE), "a mark on old text was echoed");
        c.window = 0;
        c.ack();
        c.drain();
        c.tell(|conn| Services::tell_to_send(conn, 100));
        let s = c.any(2000, "window probe");
        c.need(s.data.is_empty(), "a probe");
        c.need(s.ecn == Ecn::NotCapable && !s.flags.contains(CWR), "a window probe is ECT");
    }

    /// RFC 7323 §2.2, RFC 2018 §2: options that belong on a SYN mean nothing elsewhere.
    //= RFC 7323 2.2-MUST-2
    //= RFC 2018 4-MUST-1
    fn options_of_a_syn_elsewhere(bed) {
        let mut c = bed.open(SINK, &Offer::plain());
        let mut options = option::mss(100);
        options.extend([1, 3, 3, 5]);
        options.extend(option::sack_permitted());
        c.send(Out::new(ACK).window(2800).options(options));
        let base = c.rcv_nxt;
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        let segs = c.collect(50);
        c.need(segs.iter().map(|s| s.end() - base).max() == Some(2800), "the window of 2800");
        c.need(segs[0].data.len() == 1400, "the MSS of 1400");
        c.data_at(c.snd_nxt + 100, b"ahead");
        let s = c.expect(5, "duplicate ACK", |s| s.is_pure_ack());
        c.need(s.options.sack.is_empty(), "SACK that was not agreed on");
    }

    /// A half-closed peer gets the rest.
    fn half_close_by_the_peer(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.send(Out::new(ACK | PSH | FIN).data(b"request"));
        c.wait_ack(c.snd_nxt, 1000, "FIN");
        c.need(c.state() == State::CloseWait, "CLOSE-WAIT");
        c.tell(|conn| Services::tell_to_send(conn, 50_000));
        c.reads(pattern(50_000));
        c.tell(|conn| conn.close());
        c.read_fin();
        c.ack();
        c.gone("after LAST-ACK");
    }

    /// The engine closes its half and goes on reading, for hours if it takes that long.
    fn half_close_by_the_engine(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.tell(|conn| conn.close());
        c.read_fin();
        c.ack();
        for _ in 0..30 {
            c.data(&[1; 1000]);
            c.wait_ack(c.snd_nxt, 500, "text in FIN-WAIT-2");
            c.need(c.state() == State::FinWait2, "FIN-WAIT-2");
            bed.run(20_000);
        }
        c.need(bed.services().read.len() == 30_000, "all was read");
        c.fin();
        c.wait_ack(c.snd_nxt, 500, "FIN");
    }
}
