//! Retransmission, congestion control and loss recovery of what the engine sends.

use crate::prelude::*;

/// A connection with `n` full segments in flight, none acknowledged, and those segments in order.
#[track_caller]
fn flight(bed: &Bed, n: u32, offer: &Offer) -> (Peer, Vec<Seg>) {
    let mut c = bed.open(SINK, offer);
    c.settle();
    let options = if c.timestamps { 12 } else { 0 };
    let size = u32::from(offer.mss.unwrap_or(536)) - options;
    c.tell(|conn| Services::tell_to_send(conn, n * size));
    let segs = c.collect(2);
    c.need(segs.len() == n as usize, &format!("{} of {n} segments in flight", segs.len()));
    c.need(segs.iter().all(|s| s.data.len() == size as usize), "full segments");
    (c, segs)
}

/// Has the engine send so much that windows of any size fill, with the window grown by `rounds` of acknowledgements.
#[track_caller]
fn grown(bed: &Bed, rounds: usize, offer: &Offer) -> (Peer, Vec<Seg>) {
    let mut c = bed.open(SINK, offer);
    c.settle();
    c.tell(|conn| Services::tell_to_send(conn, 4_000_000));
    let mut segs = c.collect(10);
    for _ in 0..rounds {
        for s in segs {
            c.rcv_nxt = s.end();
            c.ack();
        }
        segs = c.collect(10);
    }
    (c, segs)
}

fn small() -> Offer {
    Offer::plain().mss(536)
}

fn small_sack() -> Offer {
    Offer::sack().mss(536)
}

fn small_full() -> Offer {
    Offer::full().mss(536)
}

fn newreno(config: &mut syncline_engine::config::Config) {
    config.tcp.congestion = syncline_engine::config::CongestionControl::NewReno;
}

checks! {
    /// RFC 6298 §2, §5: the same octets again, each gap about twice the one before, never too soon.
    fn back_off(bed) {
        for offer in [Offer::plain(), Offer::full()] {
            let mut c = bed.open(ECHO, &offer);
            c.data(&[5; 100]);
            let first = c.expect(1000, "echo", |s| !s.data.is_empty());
            let mut times = vec![first.at];
            while times.len() < 6 {
                let s = c.expect(30_000, "retransmission", |s| !s.data.is_empty());
                c.need(s.seq == first.seq && s.data == first.data, "the same again");
                times.push(s.at);
            }
            let gaps: Vec<_> = times.windows(2).map(|t| t[1].since(t[0]).as_millis()).collect();
            c.need(gaps[0] >= 150 && gaps[0] <= 1500, &format!("gaps {gaps:?}"));
            let from = usize::from(c.sack);
            c.need(gaps[from..].windows(2).all(|g| g[1] * 2 >= g[0] * 3 && g[1] <= g[0] * 3), &format!("gaps {gaps:?}"));
            c.rcv_nxt = first.end();
            c.ack();
            c.never(1000, "everything is acknowledged", |s| !s.data.is_empty());
            c.still_open("after retransmissions");
        }
    }

    /// RFC 6298 §5.3, Karn: after an answer to a retransmission the back-off stays until something new is measured.
    fn karn(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        c.data(&[1; 100]);
        let s = c.expect(1000, "echo", |s| !s.data.is_empty());
        for _ in 0..3 {
            c.expect(10_000, "retransmission", |s| !s.data.is_empty());
        }
        c.rcv_nxt = s.end();
        c.ack();
        c.settle();
        c.data(&[2; 100]);
        let s = c.expect(1000, "echo", |s| !s.data.is_empty());
        let again = c.expect(10_000, "retransmission", |s| !s.data.is_empty());
        c.need(again.at.since(s.at).as_millis() >= 150, "not from a retransmitted segment's time");
    }

    /// RFC 5681 §3.1: after a timeout one segment, until it is acknowledged.
    fn timeout_collapses_the_window(bed) {
        for offer in [small(), small_full()] {
            let (mut c, segs) = flight(bed, 8, &offer);
            c.expect(5000, "retransmission", |s| s.seq == segs[0].seq);
            let b = c.expect(10_000, "retransmission", |s| !s.data.is_empty());
            c.need(b.seq == segs[0].seq, "the oldest again");
            c.rcv_nxt = segs[0].seq;
            let all: usize = segs.iter().map(|s| s.data.len()).sum();
            c.read_within(all, 20_000);
        }
    }

    /// RFC 5681 §3.1, RFC 6298 §5: a whole flight is lost; slow start sends all of it again.
    fn a_whole_flight_lost(bed) {
        for offer in [small(), small_full()] {
            let (mut c, segs) = flight(bed, 10, &offer);
            c.expect(5000, "retransmission", |s| s.seq == segs[0].seq);
            c.drain();
            c.rcv_nxt = segs[0].end();
            c.ack();
            let second = c.collect(5);
            c.need((1..=3).contains(&second.len()), &format!("{} segments after the first ACK", second.len()));
            for s in second {
                c.need(s.seq == c.rcv_nxt, "in order");
                c.rcv_nxt = s.end();
                c.ack();
            }
            let left = segs[9].end() - c.rcv_nxt;
            c.read_within(left as usize, 3000);
        }
    }

    /// RFC 6928, RFC 5681 §3.1: two to ten segments before the first ACK.
    fn initial_window(bed) {
        for mss in [536, 1000, 1400] {
            let mut c = bed.open(SINK, &Offer::plain().mss(mss));
            c.tell(|conn| Services::tell_to_send(conn, 50_000));
            let sent: usize = c.collect(5).iter().map(|s| s.data.len()).sum();
            let limit = (10 * usize::from(mss)).min(14_600);
            c.need(sent <= limit && sent >= 2 * usize::from(mss), &format!("{sent} octets at an MSS of {mss}"));
        }
    }

    /// RFC 5681 §3.1: a lost SYN-ACK leaves one segment of initial window.
    fn initial_window_after_lost_syn_ack(bed) {
        let mut c = bed.peer(ECHO);
        c.syn(&small());
        c.any(2000, "SYN-ACK again");
        for _ in 0..4 {
            c.data(&[1; 536]);
        }
        let sent: usize = c.collect(5).iter().map(|s| s.data.len()).sum();
        c.need(sent == 536, &format!("{sent} octets"));
    }

    /// RFC 5681 §3.1: slow start doubles the window in a round trip.
    fn slow_start(bed) {
        let mut c = bed.open(SINK, &small_full());
        c.tell(|conn| Services::tell_to_send(conn, 1_000_000));
        let first = c.collect(5);
        for s in &first {
            c.rcv_nxt = s.end();
            c.ack();
        }
        let second = c.collect(5);
        let (a, b) = (first.len(), second.len());
        c.need(b > a && b <= 2 * a, &format!("{a}, then {b} segments"));
    }

    /// RFC 5681 §3.1, RFC 3465: ACKs of single octets do not inflate the window.
    fn ack_division(bed) {
        let (mut c, segs) = flight(bed, 2, &small());
        c.tell(|conn| Services::tell_to_send(conn, 200_000));
        let before = c.collect(5).len();
        for i in 1..=100 {
            c.send(Out::new(ACK).ack(segs[0].seq + i));
        }
        let after = c.collect(5).len();
        c.need(after <= 2, &format!("{after} segments for 100 octets ({before} before)"));
    }

    /// RFC 5681 §3.2: the third duplicate ACK, not the second, sends the missing segment at once.
    fn fast_retransmit(bed) {
        let (mut c, segs) = flight(bed, 8, &small());
        c.ack();
        c.ack();
        c.never(10, "two duplicate ACKs", |s| s.seq == segs[0].seq);
        c.ack();
        c.expect(5, "fast retransmit", |s| s.seq == segs[0].seq);
        c.rcv_nxt = segs[7].end();
        c.ack();
        c.never(1000, "all is there", |s| !s.data.is_empty());
        c.still_acknowledges();
    }

    /// RFC 5681 §2: what is no duplicate ACK does not count.
    fn not_duplicate_acks(bed) {
        let (mut c, segs) = flight(bed, 8, &small());
        for window in [50_000, 51_000, 52_000, 53_000] {
            c.send(Out::new(ACK).window(window));
        }
        c.never(100, "window updates", |s| s.seq == segs[0].seq);
        let (mut c, segs) = flight(bed, 8, &small());
        for _ in 0..5 {
            c.data(b"text");
        }
        c.never(100, "segments with text", |s| s.seq == segs[0].seq);
        let mut c = bed.open(SINK, &small());
        for _ in 0..6 {
            c.ack();
        }
        c.silent(200, "nothing is in flight");
    }

    /// RFC 3042: the first two duplicate ACKs send a new segment each.
    fn limited_transmit(bed) {
        let (mut c, segs) = flight(bed, 10, &small());
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        c.silent(5, "the window is full");
        for i in 1..=2 {
            c.ack();
            let new = c.collect(5);
            c.need(new.len() == 1 && new[0].seq.at_or_after(segs[9].end()), &format!("ACK {i}: {}", new.len()));
        }
    }

    /// RFC 6582 §3.2: a partial ACK sends the next hole at once.
    fn newreno_partial_ack(bed) {
        let (mut c, segs) = flight(bed, 9, &small());
        for _ in 0..4 {
            c.ack();
        }
        c.expect(5, "fast retransmit", |s| s.seq == segs[0].seq);
        c.rcv_nxt = segs[3].seq;
        c.ack();
        c.expect(5, "the next hole", |s| s.seq == segs[3].seq);
        c.rcv_nxt = segs[6].seq;
        c.ack();
        c.expect(5, "the third hole", |s| s.seq == segs[6].seq);
        c.rcv_nxt = segs[8].end();
        c.ack();
        c.never(1000, "all is there", |s| !s.data.is_empty());
    }

    /// RFC 5681 §3.2 (6), RFC 6582: after recovery the window is about half of what was in flight.
    fn window_after_fast_recovery(bed) {
        let bed = Bed::with(bed.is_v6(), newreno);
        let (mut c, segs) = grown(&bed, 1, &small());
        let flight = segs.len();
        c.need(flight >= 12, &format!("{flight} segments"));
        for _ in 0..flight - 1 {
            c.ack();
        }
        let during = c.collect(5);
        c.need(during.iter().any(|s| s.seq == segs[0].seq), "fast retransmit");
        let highest = during.iter().map(Seg::end).fold(segs[flight - 1].end(), Seq::latest);
        c.rcv_nxt = highest;
        c.ack();
        let after = c.collect(5).len();
        c.need(after >= 2 && after <= flight / 2 + 3, &format!("{after} segments after losing one of {flight}, {} during", during.len()));
    }

    /// RFC 6675, RFC 8985: three segments above a hole selectively acknowledged, full-sized or not.
    fn sack_retransmit(bed) {
        for offer in [small_sack(), small_full()] {
            let (mut c, segs) = flight(bed, 8, &offer);
            let (base, size) = (segs[0].seq, segs[0].data.len() as u32);
            c.sack_at(base, &[(size, 2 * size)]);
            c.sack_at(base, &[(size, 4 * size)]);
            c.expect(20, "the hole", |s| s.seq == base);
            // a second hole, known by SACK alone
            c.sack_at(base, &[(5 * size, 8 * size), (size, 4 * size)]);
            c.expect(20, "the second hole", |s| s.seq == base + 4 * size);
            c.never(100, "nothing else is missing", |s| !s.data.is_empty());
            c.rcv_nxt = segs[7].end();
            c.ack();
            c.never(1000, "all is there", |s| !s.data.is_empty());
        }
    }

    /// RFC 8985 §6.2, RFC 6675 §4: small segments count, too.
    fn sack_of_small_segments(bed) {
        let mut c = bed.open(SINK, &small_sack());
        c.settle();
        let mut segs = Vec::new();
        for _ in 0..4 {
            c.tell(|conn| Services::tell_to_send(conn, 50));
            segs.push(c.any(5, "a small segment"));
        }
        c.sack_at(segs[0].seq, &[(50, 200)]);
        c.expect(20, "the hole", |s| s.seq == segs[0].seq);
    }

    /// RFC 2018 §8: what was selectively acknowledged is kept until it is acknowledged in full.
    fn sack_reneging(bed) {
        let (mut c, segs) = flight(bed, 6, &small_sack());
        let base = segs[0].seq;
        c.sack_at(base, &[(536, 536 * 6)]);
        c.expect(50, "the hole", |s| s.seq == base);
        // the hole is filled, and the rest was dropped after all
        c.rcv_nxt = segs[0].end();
        c.ack();
        let mut read = 0;
        while read < 5 {
            let s = c.expect(5000, "what the peer dropped", |s| s.seq == c_nxt(&segs, read));
            read += 1;
            c.rcv_nxt = s.end();
            c.ack();
        }
    }

    /// RFC 2018 §5, RFC 5681: blocks of nonsense are ignored.
    fn sack_nonsense(bed) {
        let (mut c, segs) = flight(bed, 6, &small_sack());
        let base = segs[0].seq;
        for block in [(0u32, 0u32), (536, 500), (1 << 20, (1 << 20) + 536), (u32::MAX - 5000, u32::MAX - 4000), (0, 1 << 31)] {
            c.sack_at(base, &[block]);
        }
        let last = segs[5].seq;
        c.never(100, "nothing is known to be missing", |s| s.seq.after(base) && s.seq.before(last));
        c.rcv_nxt = segs[5].end();
        c.ack();
        c.still_acknowledges();
    }

    /// RFC 9937 §6: an ACK that does not advance SND.UNA lets as much leave as it delivers; one that does, and tells of no
    /// further loss, a segment more.
    fn recovery_by_safe_acks(bed) {
        let (mut c, segs) = flight(bed, 10, &small_sack());
        let base = segs[0].seq;
        // the second to the fourth arrived: the first is lost
        c.sack_at(base, &[(536, 4 * 536)]);
        let entering = c.collect(1);
        c.need(entering.len() == 1 && entering[0].seq == base, &format!("{} segments on entering", entering.len()));
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        let held = c.collect(1).len();
        let mut out = Vec::new();
        for i in 5..8 {
            c.sack_at(base, &[(536, i * 536)]);
            out.push(c.collect(1).len());
        }
        c.need(held == 0 && out.iter().all(|&n| n <= 1), &format!("{held} unasked, {out:?} for one each"));
        c.rcv_nxt = base + 7 * 536;
        c.ack();
        let n = c.collect(1).len();
        c.need(n > 1, &format!("{n} segments at the end of recovery"));
    }

    /// A FIN is no octet: it goes though the congestion window is full, as do none of the octets before it.
    fn fin_beyond_the_window(bed) {
        let (mut c, segs) = flight(bed, 10, &small());
        c.tell(|conn| conn.close());
        let s = c.any(5, "FIN");
        c.need(s.flags.fin() && s.data.is_empty() && s.seq == segs[9].end(), "a FIN alone");
        let (mut c, _) = flight(bed, 10, &small());
        c.tell(|conn| {
            Services::tell_to_send(conn, 536);
            conn.close();
        });
        c.silent(5, "octets before the FIN wait for the window");
    }

    /// What was selectively acknowledged before does not open the window again when it is acknowledged.
    fn reordering_makes_no_burst(bed) {
        let mut c = bed.open(SINK, &small_sack());
        c.settle();
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        // before a tail loss probe goes out
        let segs = c.collect(1);
        let base = segs[0].seq;
        c.need(segs.len() == 10, &format!("{} segments in the first flight", segs.len()));
        // all three before the reordering timer of RFC 8985 §6.3
        c.sack_at(base, &[(536, 2 * 536)]);
        c.sack_at(base, &[(536, 3 * 536)]);
        c.rcv_nxt = base + 3 * 536;
        c.ack();
        let n = c.collect(1).len();
        c.need(n == 4, &format!("{n} segments: one for each duplicate (RFC 3042), two for the ACK of a segment"));
    }

    /// During recovery as many segments leave as arrive, not a burst.
    fn recovery_does_not_burst(bed) {
        let (mut c, segs) = grown(bed, 1, &small_sack());
        let (base, n) = (segs[0].seq, segs.len() as u32);
        let mut out = 0;
        for i in 1..n {
            c.sack_at(base, &[(536, 536 * (i + 1))]);
            let now = c.collect(1).len();
            c.need(now <= 3, &format!("{now} segments for one ACK"));
            out += now;
        }
        c.need(out <= n as usize, &format!("{out} segments while {n} arrived"));
    }

    /// RFC 4015, RFC 3522: a timestamp older than the retransmission shows that it was spurious: the window is back.
    fn spurious_timeout_undone(bed) {
        let (mut c, segs) = flight(bed, 8, &small_full());
        c.tell(|conn| Services::tell_to_send(conn, 60_000));
        let more = c.collect(2);
        let echo = segs[0].options.timestamps.map_or(0, |ts| ts.value);
        c.expect(3000, "timeout", |s| s.seq == segs[0].seq);
        c.drain();
        let _ = more;
        // the originals' ACKs arrive at last
        for s in &segs {
            c.rcv_nxt = s.end();
            c.ts_recent = echo;
            c.ack();
        }
        let after = c.collect(2).iter().filter(|s| s.seq.at_or_after(segs[7].end())).count();
        c.need(after >= 8, &format!("{after} new segments: the window was not restored"));
        c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) > 0, "counted");
    }

    /// RFC 2883, RFC 3708: a duplicate reported for every retransmission shows that a fast recovery was spurious.
    fn spurious_recovery_by_dsack(bed) {
        let before = bed.engine(|e| e.stats().spurious_recoveries.get());
        let (mut c, segs) = flight(bed, 10, &small_sack());
        c.tell(|conn| Services::tell_to_send(conn, 100_000));
        let base = segs[0].seq;
        c.sack_at(base, &[(536, 536 * 5)]);
        c.expect(50, "fast retransmit", |s| s.seq == base);
        // the original was late, the retransmission a duplicate
        c.rcv_nxt = segs[4].end();
        c.ack();
        c.sack_at(base, &[(0, 536)]);
        c.drain();
        c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) > before, "undone");
    }

    /// RFC 8985 §7: a lost tail is found by a probe, before the timeout.
    fn tail_loss_probe(bed) {
        let (mut c, segs) = flight(bed, 4, &small_full());
        c.rcv_nxt = segs[1].end();
        c.ack();
        let asked = bed.now();
        let s = c.expect(1000, "tail loss probe", |s| !s.data.is_empty());
        c.need(s.seq == segs[3].seq, "the last segment");
        c.need(s.at.since(asked).as_millis() < 150, "before the timeout");
        c.need(bed.engine(|e| e.stats().tail_loss_probes.get()) == 1, "counted");
        c.sack_at(segs[2].seq, &[(segs[2].data.len() as u32, 2 * segs[2].data.len() as u32)]);
        c.expect(150, "the hole", |s| s.seq == segs[2].seq);
        c.rcv_nxt = segs[3].end();
        c.ack();
        c.still_acknowledges();
    }

    /// RFC 8985 §7.3: a probe sends new text if there is some; §7.2: one in flight waits for a delayed ACK.
    fn tail_loss_probe_of_one(bed) {
        let mut c = bed.open(SINK, &Offer::full());
        c.settle();
        c.tell(|conn| Services::tell_to_send(conn, 100));
        let first = c.any(5, "text");
        let probe = c.expect(2000, "probe", |s| !s.data.is_empty());
        let waited = probe.at.since(first.at).as_millis();
        c.need(waited >= 150, &format!("after {waited} ms, within a delayed ACK's time"));
        c.rcv_nxt = first.end();
        c.ack();
        c.still_acknowledges();
    }

    /// RFC 3168 §6.1.2: ECE halves the window once in a round trip, and CWR says so.
    fn ecn_echo_answered(bed) {
        let bed = Bed::with(bed.is_v6(), newreno);
        let (mut c, segs) = grown(&bed, 2, &Offer { ecn: true, ..small_full() });
        let before = segs.len();
        c.need(segs.iter().all(|s| s.ecn == Ecn::Capable0), "text is ECT");
        let mut new = Vec::new();
        for s in &segs {
            c.rcv_nxt = s.end();
            c.send(Out::new(ACK | ECE));
            new.extend(c.drain());
        }
        let cwr = new.iter().filter(|s| s.flags.contains(CWR)).count();
        c.need(cwr == 1, &format!("{cwr} segments with CWR"));
        c.need(new.len() <= before / 2 + 4 && new.len() >= before / 3, &format!("{} after {before}", new.len()));
        c.need(new.iter().all(|s| s.seq.at_or_after(segs[before - 1].end())), "nothing is sent again");
    }

    /// ECE means nothing where ECN was not agreed on.
    fn ecn_echo_without_ecn(bed) {
        let (mut c, segs) = grown(bed, 1, &small_full());
        for s in &segs {
            c.rcv_nxt = s.end();
            c.send(Out::new(ACK | ECE));
        }
        let after = c.collect(5);
        c.need(after.len() > segs.len() && after.iter().all(|s| !s.flags.contains(CWR)), "ignored");
    }

    /// RFC 5681 §4.1: after an idle time longer than the RTO the window is the initial one again.
    fn restart_after_idle(bed) {
        let mut c = bed.open(SINK, &small_full());
        c.tell(|conn| Services::tell_to_send(conn, 200_000));
        let base = c.rcv_nxt;
        while c.rcv_nxt - base < 200_000 {
            let at = c.rcv_nxt;
            let s = c.expect(500, "text", |s| s.seq == at);
            c.rcv_nxt = s.end();
            c.ack();
        }
        bed.run(5000);
        c.drain();
        c.tell(|conn| Services::tell_to_send(conn, 200_000));
        let burst = c.collect(2).len();
        c.need(burst <= 10, &format!("{burst} segments after an idle time"));
    }

    /// RFC 4821: full-sized segments vanish again and again, smaller ones pass.
    fn black_hole(bed) {
        let mut c = bed.open(SINK, &Offer::full().mss(1440));
        c.settle();
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        let base = c.rcv_nxt;
        let limit = 1300;
        while c.rcv_nxt - base < 20_000 {
            let s = c.expect(60_000, "text", |s| !s.data.is_empty());
            let room = s.frame.len() - 14;
            if room <= limit && s.seq.at_or_before(c.rcv_nxt) && s.end().after(c.rcv_nxt) {
                c.rcv_nxt = s.end();
                c.ack();
            }
        }
    }
}

/// Where segment number `n` after the first begins.
fn c_nxt(segs: &[Seg], n: usize) -> Seq {
    segs[n + 1].seq
}

trait Alive {
    fn still_acknowledges(&mut self);
}

impl Alive for Peer {
    /// The connection takes text, as a sink has nothing to echo.
    #[track_caller]
    fn still_acknowledges(&mut self) {
        self.drain();
        self.data(b"still there?");
        let upto = self.snd_nxt;
        self.wait_ack(upto, 500, "text");
    }
}
