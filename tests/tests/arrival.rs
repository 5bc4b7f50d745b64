//! Answers are timed by when they arrived, however late the loop comes to them.

use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use syncline::apps::{ServeApp, Server};
use syncline::load::{Client, Control, Load, Plan, Profile};
use syncline::measure::{Measures, Stage};
use syncline_engine::page::HeapPages;
use syncline_engine::time::{Clock, Instant};
use syncline_tests::handmoved::{Handmoved, Port};
use syncline_tests::host::{Host, config, secrets};

/// From one end to the other.
const WAY: Duration = Duration::from_micros(100);
/// From one pass of the client's loop to the next.
const HELD_UP: Duration = Duration::from_millis(5);

/// A clock that stands still and that the stamps go by.
struct Stamped(Instant);

impl Clock for Stamped {
    fn now(&self) -> Instant {
        self.0
    }

    fn at(&self, nanos: u64) -> Option<Instant> {
        Some(Instant::from_nanos(nanos))
    }
}

/// Twenty transactions of a client whose loop is held up between any two passes.
fn run(stamped: bool) -> Measures {
    let (near, far): (Rc<RefCell<Port>>, Rc<RefCell<Port>>) = Default::default();
    let control = Arc::new(Control::new(1));
    let load = Load::Rate { per_second: 20.0, in_flight_max: None };
    let plan = Plan { load, count: Some(20), ..Plan::new(Profile::Crr, vec!["10.0.0.2:100".parse().unwrap()]) };
    let client = Client::new(plan, 0, Arc::clone(&control)).unwrap();
    let mailbox = client.mailbox();
    let app = ServeApp::Respond { request_bytes: 64, response_bytes: 64 };
    let server = Server::new(&[app], SystemTime::UNIX_EPOCH).unwrap();
    let devices = [Handmoved::new(1, Rc::clone(&near)), Handmoved::new(2, Rc::clone(&far))];
    let [near_end, far_end] = devices;
    let mut client = Host::new(&config("10.0.0.1", &[]), &secrets(1), near_end, client, HeapPages::new()).unwrap();
    let mut server = Host::new(&config("10.0.0.2", &[100]), &secrets(2), far_end, server, HeapPages::new()).unwrap();
    let (mut measures, mut now) = (Measures::default(), Instant::from_millis(1));
    while !control.is_done() {
        assert!(now < Instant::from_millis(60_000));
        client.poll(&Stamped(now));
        far.borrow_mut().arriving.extend(near.borrow_mut().sent.drain(..));
        server.poll(&(now + WAY));
        let mut near = near.borrow_mut();
        near.arriving.extend(far.borrow_mut().sent.drain(..));
        near.stamp = stamped.then_some((now + WAY + WAY).nanos());
        now = now + HELD_UP;
        while mailbox.read(|snapshot| measures.add(&snapshot.sustain)) {}
    }
    while mailbox.read(|snapshot| measures.add(&snapshot.sustain)) {}
    assert_eq!((measures.tally.completed, measures.tally.failed_total()), (20, 0));
    measures
}

fn least_and_most(measures: &Measures, stage: Stage) -> (u64, u64) {
    let times = measures.stage(stage).histogram();
    (times.min(), times.max())
}

#[test]
fn an_answer_that_was_stamped_took_as_long_as_it_did() {
    let measures = run(true);
    let round_trip = 2 * WAY.as_micros() as u64;
    for stage in [Stage::Connect, Stage::FirstByte, Stage::Transaction, Stage::Close] {
        assert_eq!(least_and_most(&measures, stage), (round_trip, round_trip), "{stage:?}");
    }
    // What we waste is in the times from the schedule: a pass until the request, and one more until it leaves.
    let (least, _) = least_and_most(&measures, Stage::TransactionFromSchedule);
    assert!(least >= 2 * HELD_UP.as_micros() as u64 + round_trip, "{least} us");
}

#[test]
fn an_answer_without_a_stamp_arrives_when_it_is_found() {
    let measures = run(false);
    let pass = HELD_UP.as_micros() as u64;
    for stage in [Stage::Connect, Stage::FirstByte, Stage::Transaction] {
        let (least, most) = least_and_most(&measures, stage);
        assert!(least.abs_diff(pass) <= 10 && most.abs_diff(pass) <= 10, "{stage:?}: {least} to {most} us");
    }
}
