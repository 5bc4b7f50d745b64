//! RACK's parts, one by one (RFC 8985 §6.2).

use super::*;
use crate::config::TcpConfig;
use crate::page::HeapPages;
use crate::tcp::block::Sent;
use crate::tcp::scoreboard::{take_cumulative, take_sack};
use crate::wire::{SackBlock, Seq};

/// A sender with five segments of 100 octets in flight from 100 on, sent at 10,000 µs on a path of 8,000 µs.
struct Sender {
    flights: Flights,
    c: Connection,
    b: Busy,
    config: Tunables,
    stats: Stats,
}

impl Sender {
    fn new() -> Self {
        let mut flights = Flights::new(4, 256);
        flights.reserve(&mut HeapPages::new(), 4).expect("memory");
        let (una, nxt) = (Seq(100), Seq(600));
        let c = Connection { flags: flag::SACK, mss: 100, snd_una: una, snd_nxt: nxt, ..Connection::default() };
        let mut b = Busy {
            srtt: 8_000,
            rtt_min: 8_000,
            rack_rtt: 8_000,
            rack_sent_us: 1_000,
            rack_end: una,
            pipe: 500,
            cwnd: 1_000,
            ssthresh: 1_000,
            ..Busy::default()
        };
        for i in 0..5 {
            let sent = Sent { start: una + 100 * i, len: 100, flags: 0, resent: 0, sent_us: 10_000 };
            assert!(flights.push(&mut b, sent));
        }
        Self { flights, c, b, config: Tunables::from(TcpConfig::default()), stats: Stats::default() }
    }

    /// Runs `act` at a time.
    fn at<R>(&mut self, now_us: u32, act: impl FnOnce(&mut Flights, &mut Busy, &Connection, &Env<'_>) -> R) -> R {
        let env = Env { now_us, now_ms: now_us / 1000, age_us: 0, config: &self.config, stats: &self.stats };
        act(&mut self.flights, &mut self.b, &self.c, &env)
    }

    /// SACK of `from` to `to` at a time; when to look for losses again.
    fn sack(&mut self, now_us: u32, from: u32, to: u32) -> Option<u32> {
        self.at(now_us, |flights, b, c, env| {
            let blocks = [SackBlock { start: Seq(from), end: Seq(to) }];
            take_sack(flights, b, (c.snd_una, c.snd_una, c.snd_nxt), &blocks, env, &mut Acked::default());
            detect_losses(flights, c, b, env)
        })
    }

    fn acknowledge(&mut self, now_us: u32, upto: u32) {
        self.at(now_us, |flights, b, _, env| {
            take_cumulative(flights, b, Seq(upto), env, &mut Acked::default());
        });
    }
}

#[test]
fn a_round_trip_ends_when_the_acknowledgement_arrives() {
    // sent at 10,000 and read at 50,000; before it was sent nothing can have answered it
    for (age_us, rtt_us) in [(0, 40_000), (5_000, 35_000), (60_000, 0)] {
        let mut s = Sender::new();
        let mut acked = Acked::default();
        s.at(50_000, |flights, b, _, env| {
            take_cumulative(flights, b, Seq(200), &Env { age_us, ..*env }, &mut acked);
        });
        assert_eq!((acked.rtt_us, s.b.rack_rtt), (Some(rtt_us), rtt_us.max(1)));
    }
}

#[test]
//= RFC 8985 6.2-MUST-1
fn an_answer_sooner_than_the_least_rtt_is_not_the_retransmissions() {
    for (answered_us, moved) in [(22_000, false), (29_000, true)] {
        let mut s = Sender::new();
        let first = s.flights.front(&s.b).expect("a segment");
        let record = s.flights.get_mut(&mut s.b, first);
        (record.flags, record.sent_us) = (sent::RESENT, 20_000);
        s.acknowledge(answered_us, 200);
        assert_eq!(s.b.rack_sent_us == 20_000, moved, "answered at {answered_us}");
    }
}

#[test]
//= RFC 8985 6.2-SHOULD-1
fn what_arrives_after_a_later_one_is_reordered() {
    let mut s = Sender::new();
    s.sack(18_000, 200, 300);
    assert_eq!(s.b.flags & busy::REORDERING, 0);
    s.acknowledge(18_500, 200);
    assert_ne!(s.b.flags & busy::REORDERING, 0);
}

#[test]
//= RFC 8985 6.2-MUST-3, 6.2-SHOULD-5
fn a_segment_is_lost_after_a_round_trip_and_the_window_and_a_timer_asks_until_then() {
    let mut s = Sender::new();
    s.b.flags |= busy::REORDERING;
    // a quarter of the least RTT is 2,000 µs
    assert_eq!(s.sack(18_000, 300, 400), Some(2_000));
    assert_eq!(s.b.lost, 0);
    let wait = s.at(20_001, |flights, b, c, env| detect_losses(flights, c, b, env));
    assert_eq!((wait, s.b.lost), (None, 200), "the two before the one that arrived");
}

#[test]
//= RFC 8985 6.2-SHOULD-2
fn without_reordering_three_segments_are_enough() {
    let mut s = Sender::new();
    assert_eq!(s.sack(18_000, 200, 500), None);
    assert_eq!(s.b.lost, 100);
}

#[test]
//= RFC 8985 6.2-MUST-2, 6.2-SHOULD-3, 6.2-SHOULD-4
fn the_window_is_widened_once_in_a_round_trip_and_stays_so_for_sixteen_recoveries() {
    let mut s = Sender::new();
    s.b.flags |= busy::REORDERING;
    s.b.srtt = 5_000;
    let window = |s: &Sender| reordering_window(&s.b, &s.c);
    assert_eq!(window(&s), 2_000);
    widen_reordering_window(&s.c, &mut s.b);
    assert_eq!(window(&s), 4_000);
    widen_reordering_window(&s.c, &mut s.b);
    assert_eq!(window(&s), 4_000, "the same round trip");
    s.c.snd_una = s.c.snd_nxt;
    widen_reordering_window(&s.c, &mut s.b);
    assert_eq!(window(&s), 5_000, "SRTT bounds it");
    for _ in 0..15 {
        leave(&mut s.b, 100);
    }
    assert_eq!(s.b.reo_quarters, 3);
    leave(&mut s.b, 100);
    assert_eq!(s.b.reo_quarters, 1);
}

#[test]
//= RFC 9438 5.8-MUST-1
fn a_window_that_is_not_used_does_not_grow() {
    for (before, grows) in [(300, false), (950, true)] {
        let mut s = Sender::new();
        s.b.ssthresh = u32::MAX;
        s.c.snd_una = Seq(200);
        let acked = Acked { octets: 100, delivered: 100, ..Acked::default() };
        s.at(18_000, |flights, b, c, env| after_ack(flights, c, b, &acked, before, env));
        assert_eq!(s.b.cwnd > 1_000, grows, "{before} of 1000 octets in use");
    }
}

#[test]
//= RFC 9438 5.8-MUST-1
fn acks_of_one_burst_count_alike() {
    let mut s = Sender::new();
    s.b.full_until = Seq(400);
    for (una, pipe) in [(200, 500), (300, 400), (400, 300), (500, 200)] {
        s.c.snd_una = Seq(una);
        let (acked, before) = (Acked { octets: 100, delivered: 100, ..Acked::default() }, s.b.cwnd_count);
        s.at(18_000, |flights, b, c, env| after_ack(flights, c, b, &acked, pipe, env));
        assert_eq!(s.b.cwnd_count > before, una <= 400, "{una}");
    }
}

#[test]
//= RFC 6298 3-MUST-1
fn an_answer_to_a_duplicate_is_no_measurement() {
    for (dsack, measured) in [(false, Some(40_000_000)), (true, None)] {
        let mut s = Sender::new();
        s.b.backoff = 7;
        let mut acked = Acked { octets: 100, dsack, ..Acked::default() };
        s.at(42_000_000, |flights, b, _, env| undo::take_echo(flights, b, 2_000, &mut acked, env));
        assert_eq!(acked.rtt_us, measured);
    }
}
