//! Ladders of what two engines said to each other in virtual time, by `syncline trace`, held against ladders that are
//! kept as text. `SYNCLINE_BLESS=1` writes those anew.

mod damaged;

use core::time::Duration;
use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use syncline::trace::ladder::{self, Style};
use syncline::trace::{self, Trace};
use syncline_engine::app::ConnId;
use syncline_engine::config::PortRange;
use syncline_engine::device::link::{End, Link, LinkConfig, LinkDevice, WireEvent};
use syncline_engine::device::path::PathConfig;
use syncline_engine::device::pcap::{PcapConfig, PcapWriter};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::State;
use syncline_engine::time::Instant;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::services::{BYE, ECHO, PORTS, SHUT, SINK, Services, open};
use syncline_tests::sim::{Sim, Stuck};

const OPENERS_PORT: u16 = 40_000;
const DELAY: Duration = Duration::from_micros(50);

/// A file in memory that can be read while it is written.
#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Engine = Host<LinkDevice, Services>;

/// Two engines, 10.0.0.1 and 10.0.0.2, and a capture of what leaves them.
pub(crate) struct Scene {
    sim: Sim,
    a: Engine,
    b: Engine,
    pcap: Rc<RefCell<PcapWriter<Sink>>>,
    file: Sink,
    link: Link,
}

impl Scene {
    pub(crate) fn new(v6: bool) -> Self {
        let (a, b) = if v6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        let path = PathConfig { delay: DELAY, ..PathConfig::default() };
        let (link, device_a, device_b) = Link::pair(LinkConfig::symmetric(path), 1);
        let host = |address, listens: &[u16], device, seed| {
            let mut config = config(address, listens);
            config.tcp.local_ports = PortRange { first: OPENERS_PORT, last: OPENERS_PORT };
            config.tcp.time_wait = Duration::from_secs(10);
            Host::new(&config, &secrets(seed), device, Services::default(), HeapPages::new()).unwrap()
        };
        let (a, b) = (host(a, &[], device_a, 1), host(b, &PORTS, device_b, 2));
        let file = Sink::default();
        let pcap = Rc::new(RefCell::new(PcapWriter::new(file.clone(), PcapConfig::default())));
        let tap = Rc::clone(&pcap);
        link.set_tap(move |at: Instant, _: End, event: WireEvent, frame: &[u8]| {
            if event == WireEvent::Sent {
                tap.borrow_mut().record(at, frame);
            }
        });
        Self { sim: Sim::new(link.clone(), 100_000, Duration::from_secs(3600)), a, b, pcap, file, link }
    }

    fn address(host: &str, port: u16) -> SocketAddr {
        SocketAddr::new(host.parse().unwrap(), port)
    }

    /// Opens from a to `port` of b.
    fn open(&mut self, port: u16) -> ConnId {
        open(&mut self.a.net(), Self::address("10.0.0.2", port))
    }

    /// Goes on until `goal` holds or nothing more happens; says which.
    fn until(&mut self, mut goal: impl FnMut(&mut Engine, &mut Engine) -> bool) -> bool {
        match self.sim.run(&mut self.a, &mut self.b, &mut goal) {
            Ok(()) => true,
            Err(Stuck::Silent { .. }) => false,
            Err(stuck) => panic!("{stuck}"),
        }
    }

    /// Lets two seconds pass, or the time until nothing more happens.
    fn rest(&mut self) {
        let until = self.sim.now() + Duration::from_secs(2);
        self.until(|a, _| a.net().now() >= until);
    }

    /// The states of the only connection of each engine; `None` where it is a record of TIME-WAIT or gone.
    fn states(&mut self) -> [Option<State>; 2] {
        [&mut self.a, &mut self.b].map(|engine| {
            let id = engine.app().live.values().next().copied()?;
            engine.net().conn(id).map(|conn| conn.state())
        })
    }

    pub(crate) fn pcap(&self) -> Vec<u8> {
        self.pcap.borrow_mut().flush();
        self.file.0.borrow().clone()
    }

    fn trace(&self) -> Trace {
        let pcap = self.pcap();
        trace::read("test", &pcap[..], None, 10).unwrap()
    }

    /// The last states of the trace's only connection are those of the engines, where they still have them.
    fn agree(&mut self) {
        let trace = self.trace();
        let last = trace.connections[0].rows.last().unwrap();
        for (engine, derived) in self.states().into_iter().zip([last.left, last.right]) {
            assert!(engine.is_none() || engine == derived, "{engine:?} {derived:?}");
        }
    }

    /// Compares the ladders with those kept as `name`.
    fn golden(&self, name: &str) {
        let text = ladder::render(&self.trace(), Style { ascii: false, segments_max: 200 });
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace/golden").join(name).with_extension("txt");
        if std::env::var_os("SYNCLINE_BLESS").is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert!(text == kept, "{name} is now\n{text}\nand was\n{kept}");
    }
}

/// A connection that its opener closes, with data in both directions.
pub(crate) fn ordinary() -> Scene {
    let mut scene = Scene::new(false);
    let id = scene.open(ECHO);
    assert!(scene.until(|a, _| a.app().read.len() == 2000));
    scene.agree();
    scene.a.net().conn(id).unwrap().close();
    scene.rest();
    scene
}

#[test]
fn the_opener_closes_and_stays_in_time_wait() {
    ordinary().golden("ordinary");
}

#[test]
fn the_listener_closes_first_and_the_opener_goes_on() {
    let mut scene = Scene::new(false);
    let id = scene.a.net().connect(Scene::address("10.0.0.2", BYE), SINK.into()).unwrap();
    assert!(scene.until(|a, _| a.app().finished == 1));
    scene.rest();
    scene.agree();
    // It was half closed all the while: the opener still has something to say.
    assert!(Services::tell_to_send(&mut scene.a.net().conn(id).unwrap(), 300));
    scene.rest();
    scene.a.net().conn(id).unwrap().close();
    scene.rest();
    scene.golden("half-close");
}

#[test]
fn both_open_at_once() {
    let mut scene = Scene::new(false);
    // Once before, so that neither has to ask for the other's hardware address when it matters.
    scene.open(SHUT);
    scene.rest();
    let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|host| Scene::address(host, OPENERS_PORT));
    scene.a.net().connect(b, 0).unwrap();
    scene.b.net().connect(a, 0).unwrap();
    assert!(scene.until(|a, b| a.app().connected.len() == 1 && b.app().connected.len() == 1));
    scene.rest();
    scene.golden("both-open");
}

#[test]
fn both_close_at_once() {
    let mut scene = Scene::new(false);
    let id = scene.open(ECHO);
    assert!(scene.until(|a, _| a.app().read.len() == 2000));
    scene.rest();
    let other = *scene.b.app().live.values().next().unwrap();
    scene.a.net().conn(id).unwrap().close();
    scene.b.net().conn(other).unwrap().close();
    scene.rest();
    scene.golden("both-close");
}

#[test]
fn resets_refuse_and_abort() {
    let mut scene = Scene::new(false);
    scene.open(SHUT);
    scene.rest();
    let id = scene.open(ECHO);
    assert!(scene.until(|a, _| a.app().read.len() == 2000));
    scene.rest();
    scene.a.net().conn(id).unwrap().abort();
    scene.rest();
    scene.golden("resets");
}

#[test]
fn what_is_lost_is_sent_again() {
    let mut scene = Scene::new(false);
    scene.open(SHUT);
    scene.rest();
    let hole = PathConfig {
        delay: DELAY,
        black_holes: vec![scene.sim.now()..scene.sim.now() + Duration::from_millis(1)],
        ..PathConfig::default()
    };
    scene.link.set_path(End::A, hole);
    let id = scene.open(ECHO);
    assert!(scene.until(|a, _| a.app().read.len() == 2000));
    scene.rest();
    // The FIN is lost once.
    let hole = |from: Instant| PathConfig {
        delay: DELAY,
        black_holes: vec![from..from + Duration::from_nanos(1)],
        ..PathConfig::default()
    };
    scene.link.set_path(End::A, hole(scene.sim.now()));
    scene.a.net().conn(id).unwrap().close();
    scene.rest();
    scene.golden("lost");
    let trace = scene.trace();
    let again = |row: &&trace::Row| row.notes.contains(&trace::follow::Note::SentAgain);
    assert!(trace.connections[1].rows.iter().filter(again).count() >= 2);
}

#[test]
fn ipv6_and_json() {
    let mut scene = Scene::new(true);
    open(&mut scene.a.net(), Scene::address("fd00::2", ECHO));
    assert!(scene.until(|a, _| a.app().read.len() == 2000));
    let json = serde_json::to_value(scene.trace()).unwrap();
    let connection = &json["connections"][0];
    assert_eq!(connection["left"], "[fd00::1]:40000");
    assert_eq!((&connection["outcome"], &connection["rows"][0]["flags"]), (&"open".into(), &"SYN".into()));
    assert_eq!(connection["rows"][0]["left"], "SYN-SENT");
    assert_eq!(connection["rows"][1]["options"]["mss"], 1440);
}
