//! What happens when nobody answers: keep-alive, giving up, user timeout (RFC 9293 §3.8.3, §3.8.4, RFC 5482).

use std::time::Duration;

use crate::prelude::*;

fn ended(bed: &Bed) -> Option<End> {
    bed.services().ended.last().map(|e| e.1)
}

checks! {
    /// RFC 9293 MUST-20, MUST-21: retransmission gives up in the end, not before 100 s.
    //= RFC 9293 MUST-20, SHLD-11
    fn retransmission_gives_up(bed) {
        let bed = Bed::new(bed.is_v6());
        let mut c = bed.open(ECHO, &Offer::plain());
        c.data(b"anyone?");
        let begin = bed.now();
        let mut last = begin;
        while let Some(s) = c.next(400_000, |_| true) {
            last = s.at;
        }
        c.need(last.since(begin) >= Duration::from_secs(100), "R2 is at least 100 s");
        c.need(ended(&bed) == Some(End::Timeout) && c.state() == State::Closed, "given up");
        c.gone("after giving up");
    }

    /// The user timeout ends a connection whose text is not acknowledged, in every state that sends.
    fn user_timeout(bed) {
        for close in [false, true] {
            let bed = Bed::with(bed.is_v6(), |config| config.tcp.user_timeout = Some(Duration::from_secs(10)));
            let mut c = bed.open(SINK, &Offer::full());
            c.settle();
            if close {
                c.tell(|conn| conn.close());
            } else {
                c.tell(|conn| Services::tell_to_send(conn, 100));
            }
            c.collect(9000);
            c.need(ended(&bed).is_none(), "too soon");
            c.collect(12_000);
            c.need(ended(&bed) == Some(End::Timeout), "ten seconds and a back-off are over");
        }
    }

    /// The user timeout spares a connection whose window is shut but which answers.
    fn user_timeout_spares_a_shut_window(bed) {
        let bed = Bed::with(bed.is_v6(), |config| config.tcp.user_timeout = Some(Duration::from_secs(10)));
        let mut c = bed.open(ECHO, &Offer::plain().window(0));
        c.data(b"wait");
        for _ in 0..8 {
            c.any(60_000, "probe");
            c.ack();
        }
        c.window = 100;
        c.ack();
        c.reads(b"wait");
    }

    /// RFC 9293 MUST-24, MUST-25: keep-alive is off unless asked for.
    //= RFC 9293 MUST-25
    fn keepalive_is_off(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"hello");
        c.settle();
        c.silent(10 * 24 * 3600 * 1000, "an idle connection says nothing");
        c.still_open("after ten days");
    }

    /// RFC 9293 §3.8.4: probes after idle time, of what the peer has acknowledged; an answer is enough.
    //= RFC 9293 MAY-5, MUST-26, MUST-27, SHLD-12
    fn keepalive_probes(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.keepalive = Some(Duration::from_secs(100));
            config.tcp.keepalive_interval = Duration::from_secs(10);
            config.tcp.keepalive_probes = 3;
        });
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = bed.open(ECHO, &offer);
            c.echo(b"hello");
            c.settle();
            let mut heard = bed.now();
            for _ in 0..3 {
                let s = c.any(150_000, "keep-alive probe");
                let idle = s.at.since(heard).as_secs();
                c.need((95..=125).contains(&idle), &format!("after {idle} s"));
                c.need(s.seq == c.rcv_nxt - 1 && s.data.is_empty() && s.ack == c.snd_nxt, "SEQ is SND.NXT-1");
                c.ack();
                heard = bed.now();
                c.silent(50_000, "it was answered");
            }
            c.still_open("after probes");
            c.send(Out::new(RST));
        }
    }

    /// Unanswered probes end the connection, at the interval asked for.
    //= RFC 9293 MUST-29
    fn keepalive_gives_up(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.keepalive = Some(Duration::from_secs(100));
            config.tcp.keepalive_interval = Duration::from_secs(10);
            config.tcp.keepalive_probes = 3;
        });
        let mut c = bed.open(ECHO, &Offer::full());
        c.echo(b"hello");
        c.settle();
        let probes: Vec<_> = c.collect(200_000).into_iter().filter(|s| !s.flags.rst()).map(|s| s.at).collect();
        c.need(probes.len() == 3, &format!("{} probes", probes.len()));
        let gaps: Vec<_> = probes.windows(2).map(|p| p[1].since(p[0]).as_secs()).collect();
        c.need(gaps.iter().all(|gap| (8..=15).contains(gap)), &format!("gaps {gaps:?}"));
        c.need(ended(&bed) == Some(End::Timeout), "given up");
    }

    /// A half-closed connection is kept alive as well, and a peer that has gone is found out.
    //= RFC 9293 MUST-12
    fn keepalive_when_half_closed(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.keepalive = Some(Duration::from_secs(100));
            config.tcp.keepalive_interval = Duration::from_secs(10);
            config.tcp.keepalive_probes = 2;
        });
        let mut c = bed.open(SINK, &Offer::full());
        c.fin();
        c.wait_ack(c.snd_nxt, 500, "FIN");
        c.settle();
        let s = c.any(150_000, "keep-alive probe");
        c.need(s.seq == c.rcv_nxt - 1, "SEQ is SND.NXT-1");
        let seq = c.snd_nxt;
        c.send(Out::new(RST).seq(seq));
        bed.run(100);
        c.need(ended(&bed) == Some(End::Reset), "the peer has gone");
    }

    /// Each by its own time, wherever it lies among the others: opened later, or heard again meanwhile.
    fn keepalive_of_each(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.keepalive = Some(Duration::from_secs(60));
            config.tcp.keepalive_interval = Duration::from_secs(600);
        });
        let host = bed.fresh_host();
        let mut peers: Vec<_> = (0..11)
            .map(|_| {
                let mut c = bed.peer_at(host, ECHO);
                c.open(&Offer::plain());
                let heard = bed.now();
                bed.run(5_000);
                (c, heard)
            })
            .collect();
        for at in [0, 6] {
            peers[at].0.echo(b"again");
            peers[at].1 = bed.now();
        }
        for (mut c, heard) in peers {
            let next = c.rcv_nxt;
            let s = c.expect(70_000, "keep-alive probe", |s| s.seq == next - 1);
            let idle = s.at.since(heard).as_millis();
            c.need((59_900..=61_100).contains(&idle), &format!("after {idle} ms"));
        }
    }

    /// Thousands of idle connections are all probed, none too late.
    fn keepalive_of_many(bed) {
        let bed = Bed::with(bed.is_v6(), |config| {
            config.tcp.keepalive = Some(Duration::from_secs(60));
            config.tcp.keepalive_interval = Duration::from_secs(10);
            config.tcp.keepalive_probes = 2;
        });
        let host = bed.fresh_host();
        for _ in 0..5000 {
            let mut c = bed.peer_at(host, ECHO);
            c.open(&Offer::plain());
        }
        bed.run(1000);
        assert_eq!(bed.engine(|e| e.stats().connections.get()), 5000);
        bed.run(120_000);
        assert_eq!(bed.engine(|e| e.stats().keepalive_probes.get()), 10_000);
        assert_eq!(bed.engine(|e| e.stats().connections.get()), 0, "nobody answered");
    }
}
