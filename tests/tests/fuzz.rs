//! A whole worker fed frames that nobody in his right mind would send: seeded, so that a failure can be repeated.
//!
//! Frames of real conversations are repeated, changed, cut and mixed at arbitrary times. Nothing may panic, and when
//! the noise is over all memory is given back and a fresh connection is served.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use syncline_tests::fuzz;
use syncline_tests::peer::{Bed, Offer, PEER_MAC};
use syncline_tests::raw::{self, Ip, Tcp, option};
use syncline_tests::services::{BYE, ECHO, SHUT, SINK};

/// Frames fed in one run.
const FRAMES: u32 = 150_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A segment near what a conversation between few hosts and ports could hold.
fn segment(random: &mut Random, source: IpAddr, engine: IpAddr, anchor: (u32, u32)) -> Vec<u8> {
    let near = |random: &mut Random, n: u32| {
        let jitter = random.of(&[0, 0, 0, 1, u32::MAX, 10, 500, 1400, 65_535, 1 << 20, 1 << 31]);
        n.wrapping_add(jitter).wrapping_sub(random.below(3) as u32)
    };
    let blocks = [(near(random, anchor.1), near(random, anchor.1)), (near(random, anchor.1), near(random, anchor.1))];
    let options = match random.below(6) {
        0 => option::mss(random.next() as u16),
        1 => option::timestamps(random.next() as u32, random.next() as u32),
        2 => option::sack(&blocks),
        3 => [option::mss(1400), option::sack_permitted(), option::window_scale(random.next() as u8)].concat(),
        4 => (0..random.below(40)).map(|_| random.next() as u8).collect(),
        _ => Vec::new(),
    };
    let data = vec![random.next() as u8; random.of(&[0, 0, 0, 1, 10, 536, 1300])];
    let flags =
        if random.below(4) == 0 { random.next() as u8 } else { random.of(&[0x02, 0x10, 0x18, 0x11, 0x04, 0x14]) };
    let segment = Tcp {
        ports: (1000 + random.below(8) as u16, random.of(&[ECHO, BYE, SINK, SHUT])),
        seq: near(random, anchor.0),
        ack: near(random, anchor.1),
        flags,
        reserved: random.next() as u8 & 14,
        window: random.next() as u16,
        urgent: random.next() as u16,
        options: &options,
        data: &data,
        flaw: None,
    };
    let packet = raw::ip(
        source,
        engine,
        6,
        Ip { ecn: random.next() as u8 & 3, ..Ip::default() },
        &raw::tcp(source, engine, &segment),
    );
    raw::ethernet(syncline_tests::peer::ENGINE_MAC, PEER_MAC, raw::ether_type(engine), &packet)
}

fn damage(random: &mut Random, frame: &mut Vec<u8>) {
    match random.below(4) {
        0 => frame.truncate(random.below(frame.len() as u64 + 1) as usize),
        1 => frame.extend((0..random.below(20)).map(|i| i as u8)),
        _ => {
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len().max(1) as u64) as usize;
                if let Some(octet) = frame.get_mut(at) {
                    *octet = random.next() as u8;
                }
            }
        }
    }
}

fn run(v6: bool, seed: u64) {
    let bed = Bed::seeded(v6, seed, |config| {
        config.tcp.time_wait = Duration::from_secs(1);
        config.tcp.fin_wait_2 = Duration::from_secs(2);
        config.tcp.keepalive = Some(Duration::from_secs(5));
        config.tcp.keepalive_interval = Duration::from_secs(1);
        config.tcp.keepalive_probes = 2;
        config.tcp.data_retries = 4;
    });
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let hosts: Vec<_> = (0..4).map(|_| bed.fresh_host()).collect();
    let engine = bed.address();
    let mut anchor = (1u32, 1u32);
    for i in 0..FRAMES {
        if i % 1000 == 0 {
            // a real conversation in the middle of it, whose numbers the noise then sticks to
            let mut c = bed.peer_at(hosts[0], ECHO);
            c.open(&Offer::full());
            c.data(b"hello");
            c.drain();
            anchor = (c.snd_nxt.0, c.rcv_nxt.0);
        }
        let source = random.of(&hosts);
        let mut frame = segment(&mut random, source, engine, anchor);
        if random.below(5) == 0 {
            damage(&mut random, &mut frame);
        }
        frame.truncate(1514);
        bed.inject(&frame);
        if random.below(16) == 0 {
            bed.run(random.of(&[0, 0, 0, 1, 1, 5, 300]));
        }
    }
    bed.run(20 * 60 * 1000);
    let left = bed.engine(|engine| {
        let stats = engine.stats();
        (stats.connections.get(), stats.syn_received_now.get(), stats.time_wait_now.get())
    });
    assert_eq!(left, (0, 0, 0), "connections, half-open ones and TIME-WAITs left, seed {seed}");
    bed.alive();
}

/// Inputs that coverage-guided fuzzing kept, because each goes where no other does.
#[test]
fn what_the_fuzzer_found_worth_keeping() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in [("frame", fuzz::frame as fn(&[u8])), ("worker", fuzz::worker)] {
        let inputs: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(inputs.len() > 50, "{} inputs for {name}", inputs.len());
        for input in inputs {
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
    }
}

#[test]
fn noise_over_ipv4() {
    run(false, 1);
    run(false, 2);
}

#[test]
fn noise_over_ipv6() {
    run(true, 3);
    run(true, 4);
}
