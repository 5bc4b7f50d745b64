//! The load generator against the servers, each on an engine, over a link in virtual time.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use syncline::apps::{Delay, ServeApp, Server, payload};
use syncline::load::{
    Arrivals, Checks, Client, Close, Control, Exchange, FirstCloser, HttpRequest, Load, Phase, Plan, Profile, Response,
};
use syncline::load::{Snapshot, Transfer};
use syncline::measure::{Failure, Measures, Stage, Tally};
use syncline_engine::device::link::{Link, LinkConfig, LinkDevice};
use syncline_engine::device::path::{Bottleneck, PathConfig};
use syncline_engine::page::HeapPages;
use syncline_engine::time::Instant;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::{Sim, Stuck};

const SERVER: &str = "10.0.0.2";

/// What a run came to.
#[derive(Default)]
struct Outcome {
    ramp: Measures,
    sustain: Measures,
    held_back: u64,
    open_max: u32,
    cut_short: u64,
    burst_max: u32,
    requests_due: u64,
    phases: Vec<Phase>,
    /// Connections attempted while each stage lasted.
    stages: Vec<u64>,
    transfers: Vec<Transfer>,
    targets: Vec<Tally>,
    last: bool,
}

impl Outcome {
    fn add(&mut self, snapshot: &Snapshot) {
        self.ramp.add(&snapshot.ramp);
        self.sustain.add(&snapshot.sustain);
        self.held_back += snapshot.held_back;
        self.requests_due += snapshot.requests_due;
        self.stages.resize(self.stages.len().max(usize::from(snapshot.stage) + 1), 0);
        self.stages[usize::from(snapshot.stage)] += snapshot.sustain.tally.attempted;
        self.burst_max = self.burst_max.max(snapshot.burst_max);
        (self.open_max, self.cut_short) = (snapshot.open_max, snapshot.cut_short);
        self.transfers.extend(&snapshot.transfers);
        self.targets.clone_from(&snapshot.targets);
        if self.phases.last() != Some(&snapshot.phase) {
            self.phases.push(snapshot.phase);
        }
        self.last |= snapshot.last;
    }

    fn tally(&self) -> Tally {
        let mut tally = self.ramp.tally;
        tally.add(&self.sustain.tally);
        tally
    }

    fn count(&self, stage: Stage) -> u64 {
        self.ramp.stage(stage).histogram().len() + self.sustain.stage(stage).histogram().len()
    }

    fn failed(&self, cause: Failure) -> u64 {
        self.tally().failed[cause as usize]
    }
}

/// A run in the making, and its two ends when it is over.
struct Bed {
    link: LinkConfig,
    piggyback: bool,
    /// How long the server's answers are put off.
    delay: Option<Delay>,
    /// What happens between two steps.
    meddle: fn(Instant, &Control),
    /// When the generator was through.
    ended: Instant,
    client: Option<Host<LinkDevice, Client>>,
    server: Option<Host<LinkDevice, Server>>,
}

impl Bed {
    fn new() -> Self {
        let path = PathConfig { delay: Duration::from_micros(20), ..PathConfig::default() };
        Self {
            link: LinkConfig { frames: 65_536, ..LinkConfig::symmetric(path) },
            piggyback: false,
            delay: None,
            meddle: |_, _| {},
            ended: Instant::ZERO,
            client: None,
            server: None,
        }
    }

    fn run(&mut self, apps: &[ServeApp], plan: Plan) -> Outcome {
        let (link, device_a, device_b) = Link::pair(self.link.clone(), 7);
        let control = Arc::new(Control::new(1));
        let client = Client::new(plan, 0, Arc::clone(&control)).unwrap();
        let mailbox = client.mailbox();
        let ports: Vec<u16> = (0..apps.len() as u16).map(|index| 100 + index).collect();
        let mut client_config = config("10.0.0.1", &[]);
        client_config.tcp.piggyback = self.piggyback;
        let mut server = Server::new(apps, SystemTime::UNIX_EPOCH).unwrap();
        if let Some(delay) = self.delay {
            server = server.with_delay(delay, 3);
        }
        let mut a = Host::new(&client_config, &secrets(1), device_a, client, HeapPages::new()).unwrap();
        let mut b = Host::new(&config(SERVER, &ports), &secrets(2), device_b, server, HeapPages::new()).unwrap();
        let mut outcome = Outcome::default();
        let mut sim = Sim::new(link, 20_000_000, Duration::from_secs(600));
        let ended: Result<(), Stuck> = sim.run(&mut a, &mut b, |a, _| {
            (self.meddle)(a.net().now(), &control);
            while mailbox.read(|snapshot| outcome.add(snapshot)) {}
            control.is_done()
        });
        ended.unwrap_or_else(|stuck| panic!("{stuck}: {:?} with {} in flight", a.app().phase(), a.app().in_flight()));
        while mailbox.read(|snapshot| outcome.add(snapshot)) {}
        self.ended = sim.now();
        // What is still on its way to the server: the last acknowledgement.
        let until = sim.now() + Duration::from_millis(100);
        let _ = sim.run(&mut a, &mut b, |a, _| a.net().now() >= until);
        assert!(outcome.last);
        let tally = outcome.tally();
        assert_eq!(tally.attempted, tally.completed + tally.failed_total() + outcome.cut_short, "{tally:?}");
        (self.client, self.server) = (Some(a), Some(b));
        outcome
    }

    fn client(&self) -> &Host<LinkDevice, Client> {
        self.client.as_ref().unwrap()
    }

    fn server(&self) -> &Host<LinkDevice, Server> {
        self.server.as_ref().unwrap()
    }

    /// Segments sent and received by the client.
    fn segments(&self) -> (u64, u64) {
        let stats = self.client().stats();
        (stats.segments_sent.get(), stats.segments_received.get())
    }
}

fn target(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER.parse().unwrap(), port)
}

fn plan(profile: Profile) -> Plan {
    Plan::new(profile, vec![target(100)])
}

fn octets(request: u64, response: Response) -> Exchange {
    Exchange::Octets { request, response, content: None }
}

fn http(method: &str, path: &str, body: u64) -> Exchange {
    Exchange::Http(HttpRequest {
        method: method.into(),
        path: path.into(),
        host: None,
        fields: Vec::new(),
        body,
        content: None,
        chunked: false,
    })
}

fn sha256_of_payload(len: usize) -> [u8; 32] {
    let mut octets = vec![0; len];
    payload::fill(0, &mut octets);
    Sha256::digest(&octets).into()
}

const RESPOND: ServeApp = ServeApp::Respond { request_bytes: 64, response_bytes: 64 };

fn clean(outcome: &Outcome, connections: u64) {
    let tally = outcome.tally();
    assert_eq!((tally.attempted, tally.established, tally.completed), (connections, connections, connections));
    assert_eq!(tally.failed_total() + outcome.cut_short, 0);
}

#[test]
fn a_piggybacked_transaction_takes_three_packets_each_way() {
    let mut bed = Bed { piggyback: true, ..Bed::new() };
    let load = Load::Rate { per_second: 10_000.0, in_flight_max: None };
    let outcome = bed.run(&[RESPOND], Plan { load, count: Some(5_000), ..plan(Profile::Crr) });
    clean(&outcome, 5_000);
    assert_eq!(bed.segments(), (3 * 5_000, 3 * 5_000));
    for stage in Stage::ALL {
        assert_eq!(outcome.count(stage), 5_000, "{stage:?}");
    }
    assert_eq!(outcome.burst_max, 1, "10,000 a second are spread out");
    let connect = outcome.sustain.stage(Stage::Connect).histogram();
    assert!(connect.min() >= 40 && connect.max() < 60, "{} {}", connect.min(), connect.max());
    assert_eq!(bed.server().stats().time_wait_now.get(), 5_000, "the server closes first");
}

#[test]
fn a_plain_transaction_takes_four_and_three() {
    let mut bed = Bed::new();
    let outcome = bed.run(&[RESPOND], Plan { load: Load::Concurrency(50), count: Some(5_000), ..plan(Profile::Crr) });
    clean(&outcome, 5_000);
    assert_eq!(bed.segments(), (4 * 5_000, 3 * 5_000));
    assert_eq!(outcome.count(Stage::ScheduleDelay), 0, "a closed loop has no schedule");
    assert_eq!(outcome.open_max, 50);
}

/// The server's delays are even from 5 to 20 ms: so are the times that are measured.
#[test]
fn answers_that_are_put_off_are_measured_as_such() {
    let delay = Delay { from: Duration::from_millis(5), to: Duration::from_millis(20) };
    let mut bed = Bed { piggyback: true, delay: Some(delay), ..Bed::new() };
    let load = Load::Rate { per_second: 5_000.0, in_flight_max: None };
    let outcome = bed.run(&[RESPOND], Plan { load, count: Some(20_000), ..plan(Profile::Crr) });
    clean(&outcome, 20_000);
    let measured = outcome.sustain.stage(Stage::FirstByte).histogram();
    for (quantile, wanted) in [(0.0, 5_040), (0.25, 8_790), (0.5, 12_540), (0.75, 16_290), (0.99, 19_890)] {
        let value = measured.value_at_quantile(quantile);
        assert!(value.abs_diff(wanted) <= wanted / 50 + 10, "{quantile}: {value} us instead of {wanted}");
    }
    assert!(measured.max() <= 20_100, "{} us", measured.max());
}

#[test]
fn connect_opens_and_closes() {
    let plan = Plan { load: Load::Concurrency(10), count: Some(1_000), ..plan(Profile::Connect) };
    let outcome = Bed::new().run(&[ServeApp::Discard], plan);
    clean(&outcome, 1_000);
    assert_eq!((outcome.tally().requests, outcome.count(Stage::Close)), (0, 1_000));
}

#[test]
fn connections_are_reset_on_demand() {
    let mut bed = Bed::new();
    let load = Load::Concurrency(10);
    let plan = Plan { load, count: Some(500), close: Close::Rst, ..plan(Profile::Crr) };
    clean(&bed.run(&[ServeApp::Echo], plan), 500);
    assert_eq!(bed.server().stats().resets_received.get(), 500);
}

#[test]
fn requests_go_on_until_the_end_of_the_run() {
    let load = Load::Held { connections: 20, per_second: None };
    let plan = Plan { load, duration: Some(Duration::from_secs(1)), ..plan(Profile::Rr) };
    let outcome = Bed::new().run(&[ServeApp::Echo], plan);
    clean(&outcome, 20);
    // A round trip is 40 µs.
    let requests = outcome.tally().requests;
    assert!((450_000..=500_020).contains(&requests), "{requests}");
}

#[test]
fn a_request_rate_is_kept_and_timed_from_its_schedule() {
    let load = Load::Held { connections: 10, per_second: Some(1_000.0) };
    let duration = Some(Duration::from_secs(4));
    let plan = Plan { load, duration, request_rate: Some(5_000.0), ..plan(Profile::Rr) };
    let outcome = Bed::new().run(&[ServeApp::Echo], plan);
    clean(&outcome, 10);
    let requests = outcome.tally().requests;
    assert!((19_900..=20_001).contains(&requests), "{requests}");
    assert_eq!(outcome.count(Stage::TransactionFromSchedule), requests);
    assert_eq!(outcome.held_back, 0);
    assert!(outcome.requests_due.abs_diff(requests) <= 1, "{} of {requests}", outcome.requests_due);
}

#[test]
fn requests_that_find_every_connection_busy_are_due_nevertheless() {
    // A round trip is 40 µs: one connection makes 25,000 requests a second, not 50,000.
    let load = Load::Held { connections: 1, per_second: None };
    let duration = Some(Duration::from_secs(1));
    let plan = Plan { load, duration, request_rate: Some(50_000.0), ..plan(Profile::Rr) };
    let outcome = Bed::new().run(&[ServeApp::Echo], plan);
    let requests = outcome.tally().requests;
    assert!((49_990..=50_001).contains(&outcome.requests_due), "{}", outcome.requests_due);
    assert!(requests < 26_000 && outcome.held_back > 24_000, "{requests} {}", outcome.held_back);
    let from_schedule = outcome.sustain.stage(Stage::TransactionFromSchedule).histogram();
    assert!(from_schedule.max() > 400_000, "the wait counts: {}", from_schedule.max());
}

#[test]
fn stages_are_followed_and_counted_apart() {
    let load = Load::Rate { per_second: 0.0, in_flight_max: None };
    let second = Duration::from_secs(1);
    let stages = vec![(second, 2_000.0), (second, 2_000.0), (Duration::ZERO, 500.0), (second, 500.0)];
    let duration = Some(3 * second);
    for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
        let plan = Plan { load, stages: stages.clone(), duration, arrivals, seed: 3, ..plan(Profile::Crr) };
        let outcome = Bed::new().run(&[RESPOND], plan);
        clean(&outcome, outcome.tally().attempted);
        // Of a Poisson process four standard deviations.
        let off = |count: u64, wanted: u64| {
            if arrivals == Arrivals::Constant { 2 } else { 4 * wanted.isqrt().max(count.isqrt()) }
        };
        for (stage, wanted) in [1_000, 2_000, 0, 500].into_iter().enumerate() {
            let count = outcome.stages[stage];
            assert!(count.abs_diff(wanted) <= off(count, wanted), "{arrivals:?} {stage}: {count}");
        }
    }
}

#[test]
fn connections_think_between_their_requests() {
    let (load, think) = (Load::Concurrency(10), Some(Duration::from_millis(20)));
    let plan = Plan { load, think, requests: Some(5), count: Some(100), ..plan(Profile::Rr) };
    let mut bed = Bed::new();
    let outcome = bed.run(&[ServeApp::Echo], plan);
    clean(&outcome, 100);
    assert_eq!(outcome.tally().requests, 500);
    // Ten at a time, ten times over, each four times 20 ms and five round trips of 40 µs.
    let took = bed.client().app().control().started_at().map(|start| bed.ended.since(start)).unwrap();
    assert!(took > Duration::from_millis(800) && took < Duration::from_millis(830), "{took:?}");
}

#[test]
fn a_mix_keeps_its_weights_and_its_targets() {
    let kind = |exchange: Exchange, requests, weight, targets| {
        let plan = Plan { exchange, requests: Some(requests), ..plan(Profile::Crr) };
        syncline::load::Flow { weight, targets, ..plan.flows().remove(0) }
    };
    let mix = vec![
        kind(octets(64, Response::Octets(64)), 1, 5, (0, 1)),
        kind(http("GET", "/bytes/5000", 0), 3, 3, (1, 2)),
        kind(http("PUT", "/", 700), 2, 2, (2, 3)),
    ];
    let targets = vec![target(100), target(101), target(101)];
    let app = [RESPOND, ServeApp::Http { response_bytes: 10 }];
    let plan = Plan { targets, mix, load: Load::Concurrency(9), count: Some(1_000), ..plan(Profile::Crr) };
    let outcome = Bed::new().run(&app, plan);
    clean(&outcome, 1_000);
    let counts: Vec<_> = outcome.targets.iter().map(|tally| (tally.completed, tally.requests)).collect();
    assert_eq!(counts, [(500, 500), (300, 900), (200, 400)]);
}

#[test]
fn answers_are_checked() {
    let sha256 = Some(sha256_of_payload(5_000));
    let get = |checks| Plan {
        load: Load::Concurrency(5),
        count: Some(50),
        exchange: http("GET", "/bytes/5000", 0),
        checks,
        ..plan(Profile::Http)
    };
    let app = [ServeApp::Http { response_bytes: 1 }];
    let all = Checks { statuses: vec![200], octets: Some(5_000), sha256, pattern: true };
    clean(&Bed::new().run(&app, get(all)), 50);
    for checks in [
        Checks { statuses: vec![201], ..Checks::default() },
        Checks { octets: Some(4_999), ..Checks::default() },
        Checks { sha256: Some([0; 32]), ..Checks::default() },
    ] {
        let outcome = Bed::new().run(&app, get(checks.clone()));
        assert_eq!(outcome.failed(Failure::BadResponse), 50, "{checks:?}");
    }
    // An upload's answer is text, not the pattern; an echo is what was sent.
    let pattern = Checks { pattern: true, ..Checks::default() };
    let put = Plan { exchange: http("PUT", "/", 10), ..get(pattern.clone()) };
    assert_eq!(Bed::new().run(&app, put).failed(Failure::BadResponse), 50);
    for (content, good) in [(None, 50), (Some(vec![7; 3_000].into()), 0)] {
        let exchange = Exchange::Octets { request: 3_000, response: Response::Octets(3_000), content };
        let echo = Plan { exchange, requests: Some(4), ..get(pattern.clone()) };
        let outcome = Bed::new().run(&[ServeApp::Echo], echo);
        assert_eq!((outcome.tally().completed, outcome.failed(Failure::BadResponse)), (good, 50 - good));
    }
}

#[test]
fn a_body_of_ones_own_arrives_whole_or_in_chunks() {
    let content: Arc<[u8]> = (0..40_000u32).map(|i| (i * i) as u8).collect();
    let hex: String = Sha256::digest(&content).iter().map(|octet| format!("{octet:02x}")).collect();
    let answer = <[u8; 32]>::from(Sha256::digest(format!("40000 {hex}\n").as_bytes()));
    for chunked in [false, true] {
        let Exchange::Http(request) = http("POST", "/", 40_000) else { unreachable!() };
        let request = HttpRequest { content: Some(content.clone()), chunked, ..request };
        let checks = Checks { sha256: Some(answer), ..Checks::default() };
        let plan = Plan {
            exchange: Exchange::Http(request),
            checks,
            count: Some(3),
            requests: Some(2),
            ..plan(Profile::Http)
        };
        let outcome = Bed::new().run(&[ServeApp::Http { response_bytes: 1 }], plan);
        clean(&outcome, 3);
        assert_eq!(outcome.tally().requests, 6, "chunked: {chunked}");
    }
}

#[test]
fn held_connections_make_their_last_request_before_the_end() {
    let load = Load::Held { connections: 20_000, per_second: None };
    for requests in [1, 2] {
        let hold = Some(Duration::from_secs(3));
        let plan = Plan { load, hold, requests: Some(requests), ..plan(Profile::Hold) };
        let mut bed = Bed::new();
        let outcome = bed.run(&[ServeApp::Echo], plan);
        clean(&outcome, 20_000);
        assert_eq!((outcome.open_max, outcome.tally().requests), (20_000, 20_000 * u64::from(requests)));
        assert_eq!(outcome.phases, [Phase::Sustain, Phase::Drain]);
        assert!(bed.client().app().in_flight() == 0 && bed.server().stats().connections.get() == 0);
    }
}

#[test]
fn a_ramp_is_counted_apart() {
    let load = Load::Rate { per_second: 2_000.0, in_flight_max: None };
    let (ramp, duration) = (Duration::from_secs(2), Some(Duration::from_secs(3)));
    let outcome = Bed::new().run(&[RESPOND], Plan { load, ramp, duration, ..plan(Profile::Crr) });
    clean(&outcome, 8_000);
    assert_eq!((outcome.ramp.tally.completed, outcome.sustain.tally.completed), (2_000, 6_000));
    assert_eq!(outcome.phases, [Phase::Ramp, Phase::Sustain, Phase::Drain]);
}

#[test]
fn launches_beyond_the_limit_are_held_back_not_lost() {
    let load = Load::Rate { per_second: 100_000.0, in_flight_max: Some(1) };
    let outcome = Bed::new().run(&[RESPOND], Plan { load, count: Some(1_000), ..plan(Profile::Crr) });
    clean(&outcome, 1_000);
    assert!(outcome.held_back > 900, "{}", outcome.held_back);
    let from_schedule = outcome.sustain.stage(Stage::TransactionFromSchedule).histogram();
    assert!(from_schedule.max() > 10_000, "the wait counts: {}", from_schedule.max());
}

#[test]
fn every_server_meets_its_client() {
    let once = |exchange| Plan { exchange, digest: true, ..plan(Profile::Bulk) };

    let outcome = Bed::new().run(&[ServeApp::Echo], once(octets(3_000_000, Response::Octets(3_000_000))));
    clean(&outcome, 1);
    let sha256 = sha256_of_payload(3_000_000);
    assert_eq!(outcome.transfers, [Transfer { target: 0, octets: 3_000_000, sha256 }]);

    let outcome = Bed::new().run(&[ServeApp::Discard], once(octets(5_000_000, Response::None)));
    clean(&outcome, 1);
    assert_eq!(outcome.tally().requests, 1);

    let outcome = Bed::new().run(&[ServeApp::Daytime], once(octets(0, Response::UntilFin)));
    clean(&outcome, 1);
    let sha256 = Sha256::digest(b"1970-01-01T00:00:00Z\r\n").into();
    assert_eq!(outcome.transfers, [Transfer { target: 0, octets: 22, sha256 }]);

    let long = ServeApp::Respond { request_bytes: 3_000, response_bytes: 150_000_000 };
    let outcome = Bed::new().run(&[long], once(octets(3_000, Response::UntilFin)));
    clean(&outcome, 1);
    let sha256 = sha256_of_payload(150_000_000);
    assert_eq!(outcome.transfers, [Transfer { target: 0, octets: 150_000_000, sha256 }]);

    let mut bed = Bed::new();
    let exchange = octets(0, Response::Octets(u64::MAX));
    let plan = Plan { exchange, duration: Some(Duration::from_millis(200)), ..plan(Profile::Bulk) };
    clean(&bed.run(&[ServeApp::Chargen], plan), 1);
    let received = bed.client().stats().payload_received.get();
    assert!(received > 10_000_000, "{received}");
}

#[test]
fn a_bit_rate_is_kept() {
    let mut bed = Bed::new();
    let plan = Plan {
        exchange: octets(u64::MAX, Response::None),
        bitrate: Some(80_000_000),
        duration: Some(Duration::from_secs(2)),
        load: Load::Held { connections: 4, per_second: None },
        ..plan(Profile::Bulk)
    };
    clean(&bed.run(&[ServeApp::Discard], plan), 4);
    let received = bed.server().stats().payload_received.get();
    assert!((19_900_000..=20_010_000).contains(&received), "{received}");
}

#[test]
fn http_in_all_sizes() {
    let app = ServeApp::Http { response_bytes: 1 };
    for (path, requests) in [("/", 1), ("/", 40), ("/bytes/0", 3), ("/bytes/100000", 7)] {
        let plan = Plan {
            load: Load::Concurrency(20),
            count: Some(200),
            requests: Some(requests),
            exchange: http("GET", path, 0),
            ..plan(Profile::Http)
        };
        let outcome = Bed::new().run(&[app], plan);
        clean(&outcome, 200);
        assert_eq!(outcome.tally().requests, 200 * u64::from(requests), "{path}");
    }
    let sha256 = sha256_of_payload(150_000_000);
    let get =
        Plan { exchange: http("GET", "/bytes/150000000", 0), count: Some(1), digest: true, ..plan(Profile::Http) };
    let outcome = Bed::new().run(&[app], get.clone());
    assert_eq!(outcome.transfers, [Transfer { target: 0, octets: 150_000_000, sha256 }]);

    // An upload is answered by its digest.
    let outcome = Bed::new().run(&[app], Plan { exchange: http("PUT", "/", 150_000_000), ..get });
    let hex: String = sha256.iter().map(|octet| format!("{octet:02x}")).collect();
    let text = format!("150000000 {hex}\n");
    assert_eq!(outcome.transfers[0].sha256, <[u8; 32]>::from(Sha256::digest(text.as_bytes())));
}

#[test]
fn who_closes_first_keeps_time_wait() {
    for (first_closer, ours, theirs) in [(FirstCloser::Client, 100, 0), (FirstCloser::Server, 0, 100)] {
        let mut bed = Bed::new();
        let load = Load::Concurrency(10);
        let plan = Plan { load, count: Some(100), first_closer, requests: Some(2), ..plan(Profile::Http) };
        clean(&bed.run(&[ServeApp::Http { response_bytes: 100 }], plan), 100);
        assert_eq!(bed.client().stats().time_wait_now.get(), ours);
        assert_eq!(bed.server().stats().time_wait_now.get(), theirs);
    }
}

#[test]
fn every_failure_has_its_cause() {
    let crr = |exchange| Plan { load: Load::Concurrency(10), count: Some(100), exchange, ..plan(Profile::Crr) };
    let good = || octets(64, Response::Octets(64));
    let quick = Some(Duration::from_millis(50));
    let respond = |response_bytes| ServeApp::Respond { request_bytes: 64, response_bytes };
    let cases = [
        (Failure::Refused, RESPOND, Plan { targets: vec![target(99)], ..crr(good()) }),
        (Failure::EarlyFin, respond(63), crr(good())),
        (Failure::BadResponse, respond(65), crr(good())),
        (Failure::BadResponse, ServeApp::Echo, crr(http("GET", "/", 0))),
        (Failure::BadResponse, ServeApp::Http { response_bytes: 1 }, crr(http("GET", "/bytes/x", 0))),
        (Failure::BadResponse, ServeApp::Http { response_bytes: 1 }, crr(http("DELETE", "/", 0))),
        (Failure::DataTimeout, ServeApp::Discard, Plan { timeout: quick, ..crr(good()) }),
    ];
    for (cause, app, plan) in cases {
        let outcome = Bed::new().run(&[app], plan);
        assert_eq!(outcome.failed(cause), 100, "{cause:?}: {:?}", outcome.tally());
        assert_eq!(outcome.tally().completed, 0);
    }
}

#[test]
fn a_handshake_that_takes_too_long_has_failed() {
    let path = PathConfig { delay: Duration::from_millis(50), ..PathConfig::default() };
    let mut bed = Bed { link: LinkConfig { frames: 65_536, ..LinkConfig::symmetric(path) }, ..Bed::new() };
    let (load, connect_timeout) = (Load::Concurrency(10), Duration::from_millis(70));
    let outcome = bed.run(&[RESPOND], Plan { load, connect_timeout, count: Some(100), ..plan(Profile::Crr) });
    assert_eq!(outcome.failed(Failure::SynTimeout), 100, "{:?}", outcome.tally());
}

#[test]
fn ports_run_out_and_are_counted() {
    let load = Load::Held { connections: 70_000, per_second: None };
    let outcome = Bed::new().run(&[ServeApp::Echo], Plan { load, ..plan(Profile::Hold) });
    let tally = outcome.tally();
    assert_eq!(tally.attempted, 70_000);
    assert_eq!(tally.completed, 64_512, "one address, ports 1024 to 65535");
    assert_eq!(outcome.failed(Failure::LocalPorts), 70_000 - 64_512);
}

#[test]
fn nobody_at_the_target_is_found_out_before_the_start() {
    let targets = vec![SocketAddr::from(([10, 0, 0, 3], 100))];
    let mut bed = Bed::new();
    let outcome = bed.run(&[RESPOND], Plan { targets, ..plan(Profile::Crr) });
    assert_eq!((outcome.tally().attempted, bed.client().stats().active_opens.get()), (0, 0));
}

#[test]
fn an_interrupted_run_closes_what_is_open() {
    for profile in [Profile::Crr, Profile::Rr, Profile::Hold, Profile::Bulk] {
        let load = match profile {
            Profile::Crr => Load::Rate { per_second: 5_000.0, in_flight_max: None },
            Profile::Bulk => Load::Held { connections: 2, per_second: None },
            _ => Load::Held { connections: 300, per_second: Some(1_000.0) },
        };
        let meddle = |now: Instant, control: &Control| {
            if now > Instant::from_millis(200) {
                control.stop();
            }
        };
        let mut bed = Bed { meddle, ..Bed::new() };
        let minute = Some(Duration::from_secs(60));
        let mut plan = Plan { load, duration: minute, ..plan(profile) };
        plan.hold = minute.filter(|_| profile == Profile::Hold);
        if profile == Profile::Bulk {
            plan.exchange = octets(u64::MAX, Response::None);
        }
        let app = if profile == Profile::Crr { RESPOND } else { ServeApp::Discard };
        let app = if profile == Profile::Rr { ServeApp::Echo } else { app };
        let outcome = bed.run(&[app], plan);
        let tally = outcome.tally();
        assert!((2..1_100).contains(&tally.attempted), "{profile:?}: {tally:?}");
        assert_eq!((tally.failed_total(), outcome.cut_short), (0, 0), "{profile:?}: {tally:?}");
    }
}

#[test]
fn what_does_not_end_is_given_up_once_and_for_all() {
    // More than are looked at in one pass, so that giving up takes several.
    let plan = |exchange| Plan {
        load: Load::Held { connections: 100, per_second: None },
        duration: Some(Duration::from_millis(50)),
        drain_timeout: Duration::from_millis(500),
        exchange,
        ..plan(Profile::Bulk)
    };
    for (app, exchange, cut_short) in [
        (ServeApp::Chargen, octets(0, Response::UntilFin), 100),
        (ServeApp::Discard, octets(64, Response::UntilFin), 0),
        (ServeApp::Discard, octets(64, Response::Octets(64)), 0),
    ] {
        let bottleneck = Bottleneck { bits_per_s: 200_000_000, queue_bytes: 1 << 23, ecn_mark_bytes: None };
        let path = PathConfig { bottleneck: Some(bottleneck), ..PathConfig::default() };
        let mut bed = Bed { link: LinkConfig { frames: 65_536, ..LinkConfig::symmetric(path) }, ..Bed::new() };
        let outcome = bed.run(&[app], plan(exchange));
        assert_eq!(outcome.cut_short, cut_short, "{:?}", outcome.tally());
        assert_eq!(outcome.failed(Failure::DataTimeout), 100 - cut_short, "{:?}", outcome.tally());
        assert!(bed.ended < Instant::from_millis(700), "the drain is as long as it may be, once: {:?}", bed.ended);
    }
}

#[test]
fn targets_take_turns_and_are_counted_apart() {
    let targets = vec![target(100), target(101), target(99)];
    let plan = Plan { targets, load: Load::Concurrency(9), count: Some(300), ..plan(Profile::Crr) };
    let outcome = Bed::new().run(&[RESPOND, RESPOND], plan);
    let completed: Vec<_> = outcome.targets.iter().map(|tally| (tally.attempted, tally.completed)).collect();
    assert_eq!(completed, [(100, 100), (100, 100), (100, 0)]);
    assert_eq!(outcome.failed(Failure::Refused), 100);
}
