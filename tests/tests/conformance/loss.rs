//! Retransmission, congestion control and loss recovery of what the engine sends.

use crate::prelude::*;

/// A connection with `n` full segments in flight, none acknowledged, and those segments in order.
#[track_caller]
pub(crate) fn flight(bed: &Bed, n: u32, offer: &Offer) -> (Peer, Vec<Seg>) {
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

pub(crate) fn small() -> Offer {
    Offer::plain().mss(536)
}

pub(crate) fn small_sack() -> Offer {
    Offer::sack().mss(536)
}

/// Has a connection that widened its window rest for longer than an RTO: it begins with the initial one again.
pub(crate) fn begins_afresh_after_idle(bed: &Bed, c: &mut Peer) {
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

pub(crate) fn small_full() -> Offer {
    Offer::full().mss(536)
}

pub(crate) fn newreno(config: &mut syncline_engine::config::Config) {
    config.tcp.congestion = syncline_engine::config::CongestionControl::NewReno;
}

checks! {
    /// RFC 6928, RFC 5681 §3.1: two to ten segments before the first ACK.
    //= RFC 5681 3-MUST-1, 3.1-MUST-7
    //= RFC 6928 2-MAY-1
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
    //= RFC 5681 3.1-MUST-1
    //= RFC 6928 2-MUST-1
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
    //= RFC 9293 MUST-19
    //= RFC 5681 3-MUST-1, 3.1-SHOULD-2, 3.1-SHOULD-1
    //= RFC 9438 4.10-MUST-1
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
    //= RFC 5681 3.1-SHOULD-2
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
    //= RFC 5681 3.2-SHOULD-3
    //= RFC 9937 6-MUST-2
    //= RFC 6582 3.2-MUST-1
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
    //= RFC 5681 3.2-SHOULD-3
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
    //= RFC 3042 2-SHOULD-1, 2-MUST-1
    //= RFC 5681 3.2-SHOULD-4, 3.2-MUST-3
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
    //= RFC 6582 3.2-MUST-2
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
    //= RFC 5681 3.2-MUST-1, 3.2-MUST-2, 3.2-MUST-5, 3.1-MUST-3
    //= RFC 6582 3.2-MUST-3
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
        c.need(after >= 2 && after <= flight / 2 + 1, &format!("{after} segments after losing one of {flight}, {} during", during.len()));
    }

    /// RFC 6675, RFC 8985: three segments above a hole selectively acknowledged, full-sized or not.
    //= RFC 2018 5-SHOULD-1
    //= RFC 6675 3-MUST-1, 5-MUST-2
    //= RFC 8985 4-MUST-1, 4-MUST-2, 6.2-MUST-3
    fn sack_retransmit(bed) {
        for (recoveries, offer) in [(1, small_sack()), (2, small_full())] {
            let (mut c, segs) = flight(bed, 8, &offer);
            let (base, size) = (segs[0].seq, segs[0].data.len() as u32);
            c.sack_at(base, &[(size, 2 * size)]);
            c.sack_at(base, &[(size, 4 * size)]);
            c.expect(20, "the hole", |s| s.seq == base);
            // a second hole, known by SACK alone
            c.sack_at(base, &[(5 * size, 8 * size), (size, 4 * size)]);
            c.expect(20, "the second hole", |s| s.seq == base + 4 * size);
            c.never(100, "nothing else is missing", |s| !s.data.is_empty());
            c.need(bed.engine(|e| e.stats().fast_retransmits.get()) == recoveries, "one recovery for both holes");
            c.rcv_nxt = segs[7].end();
            c.ack();
            c.never(1000, "all is there", |s| !s.data.is_empty());
        }
    }

    /// RFC 6675 §4: a hole goes before new text, which follows as far as the windows allow.
    //= RFC 6675 4-MUST-3
    //= RFC 5681 3.2-SHOULD-5
    fn holes_before_new_text(bed) {
        let (mut c, segs) = flight(bed, 10, &small_sack());
        c.tell(|conn| Services::tell_to_send(conn, 50_000));
        let base = segs[0].seq;
        c.sack_at(base, &[(536, 4 * 536)]);
        let first = c.collect(2);
        c.need(first.first().is_some_and(|s| s.seq == base), "the hole first");
        c.sack_at(base, &[(536, 10 * 536)]);
        let next = c.collect(2);
        c.need(!next.is_empty() && next.iter().all(|s| s.seq.at_or_after(segs[9].end())), "new text");
    }

    /// RFC 8985 §6.2, RFC 6675 §4: small segments count, too.
    //= RFC 6675 2-MUST-1
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
    //= RFC 2018 5-MUST-1, 8-MUST-1, 5.1-MUST-2
    //= RFC 6675 4-MUST-2
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
    //= RFC 6675 3-MUST-1
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
    //= RFC 9937 6-MUST-1
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
    //= RFC 2018 5.1-MUST-1
    //= RFC 6675 4-MUST-1, 5-MUST-1
    //= RFC 9937 6-SHOULD-1, 6-MUST-1
    //= RFC 8985 9.3-MUST-1, 9.3-SHOULD-1
    //= RFC 9438 4.6-MUST-1
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

    /// RFC 3042 §2: with SACK, duplicate ACKs that report nothing new send nothing.
    //= RFC 3042 2-MUST-2
    //= RFC 5681 3.2-MUST-4
    fn empty_duplicate_acks_with_sack(bed) {
        let (mut c, segs) = flight(bed, 10, &small_sack());
        c.tell(|conn| Services::tell_to_send(conn, 20_000));
        for _ in 0..3 {
            c.ack();
        }
        c.never(1, "nothing is known to have arrived", |s| s.seq.at_or_after(segs[0].seq));
        c.sack_at(segs[0].seq, &[(536, 1072)]);
        c.expect(1, "limited transmit", |s| s.seq == segs[9].end());
    }

    /// RFC 3168 §6.1.2: ECE halves the window once in a round trip, and CWR says so.
    //= RFC 3168 5-MUST-1, 6.1.2-SHOULD-1, 6.1.2-SHOULD-2, 5-SHOULD-1
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

    /// RFC 3168 §6.1.2: CWR is on the first new text after the reduction, however long the connection rests before it.
    //= RFC 3168 6.1.2-SHOULD-2
    fn ecn_answer_after_a_rest(bed) {
        let (mut c, segs) = flight(bed, 10, &Offer { ecn: true, ..small_full() });
        c.rcv_nxt = segs[9].end();
        c.send(Out::new(ACK | ECE));
        bed.run(2_000);
        c.drain();
        for cwr in [true, false] {
            c.tell(|conn| Services::tell_to_send(conn, 100));
            let s = c.any(5, "text");
            c.need(s.flags.contains(CWR) == cwr, "CWR, once");
            c.rcv_nxt = s.end();
            c.ack();
            c.drain();
        }
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
    //= RFC 5681 4.1-SHOULD-1
    //= RFC 6928 2-MAY-2
    fn restart_after_idle(bed) {
        let mut c = bed.open(SINK, &small_full());
        begins_afresh_after_idle(bed, &mut c);
    }

    /// RFC 5681 §4.1: a window below the initial one does not become that by rest, of a moment or longer than an RTO.
    //= RFC 5681 4.1-SHOULD-1
    fn restart_below_the_initial_window(bed) {
        for rest_ms in [100, 1_000] {
            let bed = Bed::with(bed.is_v6(), newreno);
            let (mut c, segs) = flight(&bed, 10, &small());
            for _ in 0..3 {
                c.ack();
            }
            c.expect(1, "fast retransmit", |s| s.seq == segs[0].seq);
            c.rcv_nxt = segs[9].end();
            c.ack();
            bed.run(rest_ms);
            c.drain();
            c.tell(|conn| Services::tell_to_send(conn, 20_000));
            let n = c.collect(2).len();
            c.need((4..=6).contains(&n), &format!("{n} segments, half of ten, after {rest_ms} ms"));
        }
    }
}

/// Where segment number `n` after the first begins.
fn c_nxt(segs: &[Seg], n: usize) -> Seq {
    segs[n + 1].seq
}

pub(crate) trait Alive {
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
