//! Connections per second with no kernel in the way: two workers, one core each, joined by a ring.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::config::{AddressRange, Config, Listener, SynCookies};
use syncline_engine::device::ring;
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::{Clock, Instant};
use syncline_engine::worker::Worker;

struct Mono(std::time::Instant);
impl Clock for Mono {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

struct Server;
impl App for Server {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}
    fn connected(&mut self, _: &mut Conn<'_>) {}
    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        conn.send(1, 64);
        conn.close();
        data.len()
    }
    fn finished(&mut self, _: &mut Conn<'_>) {}
    fn closed(&mut self, _: ConnId, _: u64, _: End, _: Instant) {}
    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'x');
    }
}

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);

struct Client {
    inflight: u32,
    target: u32,
    done: u64,
    failed: u64,
}
impl App for Client {
    fn accepted(&mut self, _: &mut Conn<'_>, _: usize) {}
    fn connected(&mut self, conn: &mut Conn<'_>) {
        conn.send(1, 64);
    }
    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        data.len()
    }
    fn finished(&mut self, conn: &mut Conn<'_>) {
        conn.close();
    }
    fn closed(&mut self, _: ConnId, _: u64, end: End, _: Instant) {
        self.inflight -= 1;
        if end == End::Closed {
            self.done += 1;
        } else {
            self.failed += 1;
        }
    }
    fn fill(&self, _: u32, _: u32, out: &mut [u8]) {
        out.fill(b'q');
    }
    fn poll(&mut self, net: &mut Net<'_>) {
        let mut n = 64.min(self.target - self.inflight);
        while n > 0 && net.room() > 0 {
            if net.connect(SERVER, 0).is_err() {
                break;
            }
            self.inflight += 1;
            n -= 1;
        }
    }
}

fn config(first: [u8; 4], last: [u8; 4]) -> Config {
    let mut c = Config {
        addresses: vec![AddressRange { first: first.into(), last: last.into(), prefix_len: 8 }],
        ..Config::default()
    };
    c.tcp.piggyback = true;
    c.tcp.time_wait = Duration::from_secs(std::env::var("TW").ok().and_then(|s| s.parse().ok()).unwrap_or(60));
    c
}

fn main() {
    let seconds: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(5);
    let target: u32 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1000);
    let (a, b) = ring::pair(8192, 2048).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let secrets = Secrets { table: [1, 2], isn: [3, 4], ports: [5, 6] };
    let cores = core_affinity::get_core_ids().unwrap();
    let start = std::time::Instant::now();
    if std::env::var("SINGLE").is_ok() {
        core_affinity::set_for_current(cores[0]);
        let mut sc = config([10, 0, 0, 1], [10, 0, 0, 1]);
        sc.listeners = vec![Listener { first_port: 80, last_port: 80, syn_cookies: SynCookies::Never }];
        let mut server = Worker::new(&sc, &secrets, a, Server, HeapPages::new()).unwrap();
        let mut client = Worker::new(
            &config([10, 1, 0, 1], [10, 1, 8, 255]),
            &secrets,
            b,
            Client { inflight: 0, target, done: 0, failed: 0 },
            HeapPages::new(),
        )
        .unwrap();
        let clock = Mono(start);
        let cpu = || {
            let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
            t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
        };
        let (mut at, mut done) = (cpu(), 0);
        let n: u64 = seconds * std::env::var("UNIT").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000_000);
        while client.app().done < n {
            for _ in 0..100 {
                client.poll(&clock);
                server.poll(&clock);
            }
            if client.app().done - done >= 500_000 {
                let d = client.app().done - done;
                let t = cpu();
                println!("{:.0} ns of CPU per connection, both sides", (t - at) * 1e9 / d as f64);
                at = t;
                done = client.app().done;
            }
        }
        report("client", client.stats());
        report("server", server.stats());
        return;
    }
    let server = {
        let stop = stop.clone();
        let core = cores[0];
        std::thread::spawn(move || {
            core_affinity::set_for_current(core);
            let mut config = config([10, 0, 0, 1], [10, 0, 0, 1]);
            config.listeners = vec![Listener { first_port: 80, last_port: 80, syn_cookies: SynCookies::Never }];
            let mut worker = Worker::new(&config, &secrets, a, Server, HeapPages::new()).unwrap();
            let clock = Mono(start);
            while !stop.load(Ordering::Relaxed) {
                worker.poll(&clock);
            }
            report("server", worker.stats());
        })
    };
    core_affinity::set_for_current(cores[1]);
    let config = config([10, 1, 0, 1], [10, 1, 8, 255]);
    let mut worker =
        Worker::new(&config, &secrets, b, Client { inflight: 0, target, done: 0, failed: 0 }, HeapPages::new())
            .unwrap();
    let clock = Mono(start);
    let mut last = (0, start);
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..1000 {
            worker.poll(&clock);
        }
        if last.1.elapsed() > Duration::from_secs(1) {
            let done = worker.app().done;
            println!("{:.0}/s", (done - last.0) as f64 / last.1.elapsed().as_secs_f64());
            last = (done, std::time::Instant::now());
        }
    }
    println!("done {} failed {}", worker.app().done, worker.app().failed);
    report("client", worker.stats());
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}

fn report(who: &str, stats: &syncline_engine::stats::Stats) {
    print!("{who}:");
    for (name, _, value) in stats.entries() {
        if value > 0 {
            print!(" {name}={value}");
        }
    }
    for (reason, n) in stats.dropped.nonzero() {
        print!(" drop.{reason}={n}");
    }
    println!();
}
