//! Timeouts and probes of a tail, and what shows that they were needless (RFC 6298, RFC 8985 §7, RFC 4015).

use crate::loss::{Alive, flight, newreno, small, small_full, small_sack};
use crate::prelude::*;

/// Has the engine's echo go out four times; the answer is to the last of them. Then how long text that follows waits to go
/// again, in ms.
#[track_caller]
fn after_three_timeouts(c: &mut Peer) -> u128 {
    c.data(&[1; 100]);
    let s = c.expect(1000, "echo", |s| !s.data.is_empty());
    let mut again = 0;
    // a probe may come before the timeouts
    while again < 3 + usize::from(c.sack) {
        c.expect(10_000, "retransmission", |s| !s.data.is_empty());
        again += 1;
    }
    c.rcv_nxt = s.end();
    c.ack();
    c.settle();
    c.data(&[2; 100]);
    let s = c.expect(1000, "echo", |s| !s.data.is_empty());
    let again = c.expect(10_000, "retransmission", |s| !s.data.is_empty());
    c.rcv_nxt = s.end();
    c.ack();
    c.settle();
    again.at.since(s.at).as_millis()
}

/// Ten segments in flight, more text queued, and the timeout's retransmission of the first. The last is where all that is
/// out ends: a tail loss probe may have gone before.
#[track_caller]
fn timed_out(bed: &Bed, offer: &Offer) -> (Peer, Vec<Seg>, Seq) {
    let (mut c, segs) = flight(bed, 10, offer);
    c.tell(|conn| Services::tell_to_send(conn, 100_000));
    let mut end = segs[9].end();
    loop {
        let s = c.expect(3000, "timeout", |s| !s.data.is_empty());
        if s.seq == segs[0].seq {
            break;
        }
        end = s.end();
    }
    c.drain();
    (c, segs, end)
}

checks! {
    /// RFC 6298 §2, §5: the same octets again, each gap about twice the one before, never too soon.
    //= RFC 9293 MUST-18, MUST-19
    //= RFC 6298 5-MUST-1, 5-SHOULD-3, 5-MUST-3, 5-SHOULD-1, 1-MUST-1
    //= RFC 6928 9-MUST-1
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

    /// RFC 6298 §5, Karn: after an answer to a retransmission the back-off stays until something new is measured.
    //= RFC 9293 MUST-18
    //= RFC 6298 3-MUST-1, 5-SHOULD-2
    fn karn(bed) {
        let mut c = bed.open(ECHO, &Offer::plain());
        let waited = after_three_timeouts(&mut c);
        c.need(waited >= 1600, &format!("again after {waited} ms: the back-off is gone, and nothing was measured"));
        c.data(&[3; 100]);
        let s = c.expect(1000, "echo", |s| !s.data.is_empty());
        c.rcv_nxt = s.end();
        c.ack();
        c.data(&[4; 100]);
        let s = c.expect(1000, "echo", |s| !s.data.is_empty());
        let again = c.expect(10_000, "retransmission", |s| !s.data.is_empty());
        let waited = again.at.since(s.at).as_millis();
        c.need(waited < 600, &format!("again after {waited} ms: the back-off outlives a measurement"));
    }

    /// RFC 6298 §3, RFC 7323 §4.1: a timestamp tells which transmission was answered, so that the back-off ends.
    //= RFC 6298 3-MUST-1, 5-SHOULD-2
    fn timestamps_end_the_back_off(bed) {
        let mut c = bed.open(ECHO, &Offer::full());
        let waited = after_three_timeouts(&mut c);
        c.need((150..600).contains(&waited), &format!("again after {waited} ms"));
    }

    /// RFC 5681 §3.1: after a timeout one segment, until it is acknowledged.
    //= RFC 9293 MUST-19
    //= RFC 5681 3.1-MUST-5
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
    //= RFC 5681 3.1-MUST-5
    //= RFC 8985 6.3-SHOULD-1
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

    /// RFC 6298 §5.7: after a SYN or SYN-ACK that was lost the RTO is 3 s until something has been measured.
    //= RFC 6298 5-MUST-4
    fn timeout_after_lost_syn(bed) {
        let mut active = bed.dialled();
        active.any(3000, "SYN again");
        active.answer_syn(&small_sack());
        let mut passive = bed.peer(SINK);
        passive.syn(&small_sack());
        passive.any(2000, "SYN-ACK again");
        passive.ack();
        passive.tell(|conn| Services::tell_to_send(conn, 100));
        for c in [&mut passive, &mut active] {
            let first = c.expect(100, "text", |s| !s.data.is_empty());
            let again = c.expect(5000, "text again", |s| s.seq == first.seq && !s.data.is_empty());
            let waited = again.at.since(first.at).as_millis();
            c.need((2990..3100).contains(&waited), &format!("after {waited} ms"));
            c.rcv_nxt = first.end();
            c.ack();
        }
    }

    /// RFC 4015, RFC 3522: a timestamp older than the retransmission shows that it was spurious: the window is back.
    //= RFC 9438 4.9-MAY-1
    //= RFC 4015 2-MUST-1, 3.2-MUST-2, 3.2-MUST-1
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

    /// RFC 5682 §2.1, §3.1: without timestamps, what the second ACK is for shows that nothing was lost: the window is
    /// back, and only the first segment went twice.
    //= RFC 5682 2-SHOULD-1, 2.1-MUST-1, 2.1-MUST-3, 2.1-MUST-4
    fn frto_finds_a_spurious_timeout(bed) {
        for offer in [small(), small_sack()] {
            let before = bed.engine(|e| e.stats().spurious_recoveries.get());
            let (mut c, segs, end) = timed_out(bed, &offer);
            c.rcv_nxt = segs[0].end();
            c.ack();
            let new = c.collect(2);
            c.need(new.len() == 2 && new[0].seq == end, "two new segments, and nothing again");
            for s in &segs[1..] {
                c.rcv_nxt = s.end();
                c.ack();
            }
            let after = c.collect(2);
            c.need(after.iter().all(|s| s.seq.at_or_after(end)), "nothing else went again");
            c.need(after.len() >= 8, &format!("{} new segments: the window was not restored", after.len()));
            c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) > before, "counted");
        }
    }

    /// RFC 5682 §3.1 step 3: what was sent in place of retransmissions arrives, and nothing of what was out before.
    //= RFC 5682 2.1-MUST-2, 2.1-MUST-3
    fn frto_finds_a_real_loss(bed) {
        for offer in [small(), small_sack()] {
            let before = bed.engine(|e| e.stats().spurious_recoveries.get());
            let (mut c, segs, end) = timed_out(bed, &offer);
            c.rcv_nxt = segs[0].end();
            c.ack();
            let new = c.collect(2);
            c.need(new.len() == 2 && new[0].seq == end, "two new segments");
            if c.sack {
                let from = new[0].seq - segs[0].seq;
                c.sack_at(segs[0].seq, &[(from, from + 536)]);
            } else {
                c.ack();
            }
            let again = c.collect(2);
            c.need(again.first().is_some_and(|s| s.seq == segs[1].seq), "the next of those that were lost");
            c.need(again.len() <= 3, &format!("{} segments at once", again.len()));
            c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) == before, "undone");
        }
    }

    /// RFC 5682 §2.1, §3.1: a second timeout before any ACK begins with step 1 again.
    //= RFC 5682 2.1-MUST-5
    fn frto_after_two_timeouts(bed) {
        for offer in [small(), small_sack()] {
            let (mut c, segs, end) = timed_out(bed, &offer);
            c.expect(10_000, "the second timeout", |s| s.seq == segs[0].seq);
            c.drain();
            c.rcv_nxt = segs[0].end();
            c.ack();
            let new = c.collect(2);
            c.need(new.len() == 2 && new[0].seq == end, "two new segments, and nothing again");
        }
    }

    /// RFC 5682 §2.1 step 2: all is acknowledged, or there is nothing new to send: recovery as ever.
    //= RFC 5682 2.1-MUST-2
    fn frto_needs_new_text(bed) {
        for offer in [small(), small_sack()] {
            let (mut c, segs) = flight(bed, 10, &offer);
            c.expect(3000, "timeout", |s| s.seq == segs[0].seq);
            c.drain();
            c.rcv_nxt = segs[0].end();
            c.ack();
            let again = c.collect(2);
            c.need(again.first().is_some_and(|s| s.seq == segs[1].seq), "the next one again");
            let (mut c, _, end) = timed_out(bed, &offer);
            c.rcv_nxt = end;
            c.ack();
            let next = c.collect(2).len();
            c.need(next <= 7, &format!("{next} segments: more than the threshold of 0.7 x 10"));
        }
        bed.engine(|e| assert_eq!(e.stats().spurious_recoveries.get(), 0, "undone"));
    }

    /// RFC 2883, RFC 3708: a duplicate reported for every retransmission shows that a fast recovery was spurious.
    //= RFC 4015 2-MUST-1
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

    /// RFC 4015 §3.4: with ECE the timeout counts, spurious or not.
    //= RFC 4015 3.2-MUST-3
    fn ecn_echo_forbids_undo(bed) {
        let bed = Bed::with(bed.is_v6(), newreno);
        let (mut c, segs) = flight(&bed, 8, &Offer { ecn: true, ..small_full() });
        let echo = segs[0].options.timestamps.map_or(0, |ts| ts.value);
        c.expect(3000, "timeout", |s| s.seq == segs[0].seq);
        c.drain();
        c.ts_recent = echo;
        c.rcv_nxt = segs[0].end();
        c.send(Out::new(ACK | ECE));
        c.drain();
        c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) == 0, "undone");
    }

    /// RFC 2883 §5: an ACK that comes late reports what is acknowledged since: no duplicate.
    //= RFC 2883 5-MUST-1
    fn late_ack_is_no_dsack(bed) {
        let (mut c, segs) = flight(bed, 10, &small_sack());
        let base = segs[0].seq;
        c.sack_at(base, &[(536, 536 * 5)]);
        c.expect(50, "fast retransmit", |s| s.seq == base);
        c.rcv_nxt = segs[4].end();
        c.ack();
        c.drain();
        c.rcv_nxt = base;
        c.sack_at(base, &[(536, 1072)]);
        c.drain();
        c.need(bed.engine(|e| e.stats().spurious_recoveries.get()) == 0, "undone by an old ACK");
    }

    /// RFC 5681 §3.1, RFC 6582 §3.2: after a timeout duplicate ACKs send nothing.
    //= RFC 6582 3.2-MUST-4
    fn duplicate_acks_after_a_timeout(bed) {
        let (mut c, segs) = flight(bed, 8, &small());
        c.expect(5000, "retransmission", |s| s.seq == segs[0].seq);
        for _ in 0..6 {
            c.ack();
        }
        c.never(100, "ACKs of the old flight", |s| !s.data.is_empty());
    }

    /// RFC 6675 §5.1: what is selectively acknowledged after a timeout is not sent again, and no other recovery begins.
    //= RFC 6675 5.1-MUST-1, 5.1-SHOULD-1
    fn sack_after_a_timeout(bed) {
        let before = bed.engine(|e| e.stats().fast_retransmits.get());
        let (mut c, segs) = flight(bed, 10, &small_sack());
        c.expect(5000, "timeout", |s| s.seq == segs[0].seq);
        c.drain();
        c.sack_at(segs[0].seq, &[(3 * 536, 9 * 536)]);
        c.sack_at(segs[0].seq, &[(536, 2 * 536), (3 * 536, 9 * 536)]);
        let mut again = c.collect(100);
        c.rcv_nxt = segs[1].end();
        c.ack();
        again.extend(c.collect(100));
        c.need(again.iter().any(|s| s.seq == segs[2].seq), "what is missing goes again");
        c.need(!again.iter().any(|s| s.seq.at_or_after(segs[3].seq) && s.seq.before(segs[9].seq)), "what arrived does not");
        c.need(bed.engine(|e| e.stats().fast_retransmits.get()) == before, "one recovery");
    }

    /// RFC 5681 §3.1: another timeout of the same segment leaves the threshold as it is.
    //= RFC 5681 3.1-MUST-4
    fn second_timeout_keeps_the_threshold(bed) {
        let (mut c, segs) = flight(bed, 10, &small());
        for _ in 0..2 {
            c.expect(5000, "retransmission", |s| s.seq == segs[0].seq);
        }
        c.drain();
        c.rcv_nxt = segs[9].end();
        c.ack();
        c.tell(|conn| Services::tell_to_send(conn, 100_000));
        let window = c.collect(2).len();
        c.need((6..=8).contains(&window), &format!("{window} segments after two timeouts of ten"));
    }

    /// RFC 8985 §7.3: a probe is new text, whatever the congestion window; one at a time; §8: then comes the timeout.
    //= RFC 8985 7.3-SHOULD-1, 7.3-MUST-2, 7.3-MUST-3
    fn tail_loss_probe_of_new_text(bed) {
        let (mut c, segs) = flight(bed, 10, &small_full());
        c.tell(|conn| Services::tell_to_send(conn, 5000));
        let probe = c.expect(150, "probe", |s| !s.data.is_empty());
        c.need(probe.seq == segs[9].end(), "new text");
        let s = c.expect(1000, "timeout", |s| !s.data.is_empty());
        c.need(s.seq == segs[0].seq, "the oldest");
        c.need(bed.engine(|e| e.stats().tail_loss_probes.get()) == 1, "one probe");
    }

    /// RFC 8985 §7.4: a probe that repaired a loss reduces the window.
    //= RFC 8985 7.4-MUST-1
    fn tail_loss_probe_repaired_a_loss(bed) {
        let bed = Bed::with(bed.is_v6(), newreno);
        let (mut c, segs) = flight(&bed, 10, &small_full());
        c.rcv_nxt = segs[8].end();
        c.ack();
        c.expect(1000, "probe", |s| s.seq == segs[9].seq);
        c.rcv_nxt = segs[9].end();
        c.ack();
        c.tell(|conn| Services::tell_to_send(conn, 100));
        let s = c.any(5, "text");
        c.rcv_nxt = s.end();
        c.ack();
        c.drain();
        c.tell(|conn| Services::tell_to_send(conn, 100_000));
        let window = c.collect(1).len();
        c.need((4..=12).contains(&window), &format!("{window} segments after a loss"));
    }

    /// RFC 8985 §7.3: what a probe that was a retransmission measures is nothing; the next tail has to wait for the timeout.
    //= RFC 8985 7.3-MUST-4
    fn tail_loss_probe_after_a_measurement(bed) {
        let (mut c, segs) = flight(bed, 2, &small_sack());
        c.rcv_nxt = segs[0].end();
        c.ack();
        c.expect(1000, "probe", |s| s.seq == segs[1].seq);
        c.rcv_nxt = segs[1].end();
        c.sack_at(segs[1].seq, &[(0, segs[1].data.len() as u32)]);
        for (probes, timeouts) in [(1, 1), (2, 1)] {
            c.tell(|conn| Services::tell_to_send(conn, 100));
            let text = c.any(5, "text");
            c.expect(1000, "again", |s| s.seq == text.seq);
            let sent = bed.engine(|e| (e.stats().tail_loss_probes.get(), e.stats().retransmission_timeouts.get()));
            c.need(sent == (probes, timeouts), &format!("{sent:?} probes and timeouts"));
            c.rcv_nxt = text.end();
            c.ack();
            c.tell(|conn| Services::tell_to_send(conn, 100));
            // this one is a measurement
            c.rcv_nxt = c.any(5, "text").end();
            c.ack();
        }
    }

    /// RFC 8985 §7: a lost tail is found by a probe, before the timeout.
    //= RFC 6298 3-MUST-2
    //= RFC 8985 7.2-SHOULD-1, 7.2-SHOULD-2, 7.3-SHOULD-1
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
    //= RFC 6298 3-MUST-2
    //= RFC 8985 7.2-SHOULD-1
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

    /// RFC 4821: full-sized segments vanish again and again, smaller ones pass.
    //= RFC 4821 7.7-SHOULD-1
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
