//! The kernel's own TCP, driven as well as one thread can drive it: non-blocking sockets and epoll, for comparison.
//!
//! ```text
//!  kernel serve --listen 10.66.0.1:80 respond|echo
//!  kernel load --target 10.66.0.1:80 --from 10.66.1.1 --addresses 8 --seconds 10 --connections 512 crr|rr
//!  kernel times --target 10.66.0.1:80 --rate 1000 --seconds 10
//! ```
//!
//! `crr` with `respond` is the transaction of `syncline load --profile crr --piggyback`: the request goes on the
//! handshake's ACK (both ends delay acknowledgements), the server's FIN on the response, the client's FIN acknowledges
//! both. A connection costs the client eight system calls and the server four, and no more than a bundle of them one
//! `epoll_wait`. Local addresses and ports are taken in turn, so that the kernel need not look for one. `load` writes a
//! line of JSON.
//!
//! `times` tells how long a connect() and the first octet of an answer to HTTP take a program that does nothing else: one
//! connection after another, each when it is due, with a core that never sleeps. It writes a line of JSON, too.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use hdrhistogram::Histogram;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, listen, recv, send,
    socket_with, sockopt,
};
use serde::Serialize;

/// Octets of a request and of a response.
const OCTETS: usize = 64;
/// What the server's socket is called among its connections.
const LISTENER: u64 = u64::MAX;
/// Events taken at a time.
const EVENTS: usize = 1_024;
/// Ports taken in turn on each address.
const PORTS: std::ops::RangeInclusive<u16> = 2_048..=65_000;
/// How many may wait to be accepted; the system's limit comes first.
const BACKLOG: i32 = 1 << 16;

#[derive(Parser)]
#[command(about = "The kernel's own TCP behind epoll, for comparison")]
struct Arguments {
    #[command(subcommand)]
    end: EndArguments,
}

#[derive(Subcommand)]
enum EndArguments {
    /// Answer until killed; writes `ready` first.
    Serve {
        #[arg(long)]
        listen: SocketAddrV4,
        what: Serve,
    },
    /// Load a server, and say what came of it.
    Load {
        #[arg(long)]
        target: SocketAddrV4,
        /// The first local address.
        #[arg(long)]
        from: Ipv4Addr,
        /// How many local addresses there are, from that one on.
        #[arg(long, default_value_t = 1)]
        addresses: u32,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// How many at a time.
        #[arg(long, default_value_t = 512)]
        connections: usize,
        what: Load,
    },
    /// Open one connection after another, and tell the time of each.
    Times {
        #[arg(long)]
        target: SocketAddrV4,
        /// Connections a second.
        #[arg(long)]
        rate: f64,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
}

/// Microseconds that each connection took.
#[derive(Default, Serialize)]
struct Times {
    connect: Vec<f64>,
    first_byte: Vec<f64>,
}

fn times(target: SocketAddrV4, rate: f64, seconds: f64) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let mut answer = [0; 4096];
    let begin = Instant::now();
    for number in 0..(rate * seconds) as u32 {
        let due = begin + Duration::from_secs_f64(f64::from(number) / rate);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let asked = Instant::now();
        connect(&socket, &target).with_context(|| format!("connecting to {target}"))?;
        let connected = Instant::now();
        send(&socket, request.as_bytes(), SendFlags::NOSIGNAL)?;
        while let Err(error) = recv(&socket, &mut answer, RecvFlags::DONTWAIT) {
            if error != Errno::AGAIN {
                return Err(error).context("waiting for the answer");
            }
        }
        times.first_byte.push(connected.elapsed().as_secs_f64() * 1e6);
        times.connect.push((connected - asked).as_secs_f64() * 1e6);
    }
    Ok(times)
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Serve {
    /// Read a request, answer and close.
    Respond,
    /// Send back what comes.
    Echo,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Load {
    /// A request on each connection.
    Crr,
    /// Requests on connections that stay.
    Rr,
}

fn tcp_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Sockets by number, for as long as they are open.
#[derive(Default)]
struct Sockets<T> {
    open: Vec<Option<(OwnedFd, T)>>,
    free: Vec<usize>,
}

impl<T> Sockets<T> {
    fn insert(&mut self, socket: OwnedFd, state: T) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.open.push(None);
            self.open.len() - 1
        });
        self.open[slot] = Some((socket, state));
        slot
    }

    /// Closes a socket.
    fn remove(&mut self, slot: usize) {
        self.open[slot] = None;
        self.free.push(slot);
    }
}

fn serve(address: SocketAddrV4, what: Serve) -> anyhow::Result<()> {
    let listener = tcp_socket()?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    bind(&listener, &address).with_context(|| format!("binding {address}"))?;
    listen(&listener, BACKLOG)?;
    let queue = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&queue, &listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ET)?;
    println!("ready");

    let mut sockets = Sockets::<()>::default();
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&queue, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data.u64();
            if data != LISTENER {
                let slot = data as usize;
                let Some((socket, ())) = &sockets.open[slot] else { continue };
                if !work(socket, what) {
                    sockets.remove(slot);
                }
                continue;
            }
            loop {
                let socket = match accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    Ok(socket) => socket,
                    Err(Errno::AGAIN) => break,
                    Err(Errno::INTR | Errno::CONNABORTED) => continue,
                    Err(error) => return Err(error).context("accepting"),
                };
                // The request came with the handshake: most need not be waited for. Its acknowledgement goes with the
                // response.
                sockopt::set_tcp_quickack(&socket, false)?;
                if work(&socket, what) {
                    let slot = sockets.insert(socket, ());
                    let (socket, ()) = sockets.open[slot].as_ref().context("just inserted")?;
                    let interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
                    epoll::add(&queue, socket, EventData::new_u64(slot as u64), interest)?;
                }
            }
        }
    }
}

/// Reads what there is and answers. False once the connection is to be closed.
fn work(socket: &OwnedFd, what: Serve) -> bool {
    let mut octets = [0; 4 * OCTETS];
    loop {
        match recv(socket, &mut octets[..], RecvFlags::empty()) {
            Ok((_, 0)) => return false,
            Ok((_, len)) => {
                // Kept back until the FIN is there to go with it.
                let flags = if what == Serve::Respond { SendFlags::MORE } else { SendFlags::empty() };
                if send(socket, &octets[..len], flags | SendFlags::NOSIGNAL).is_err() || what == Serve::Respond {
                    return false;
                }
            }
            Err(Errno::AGAIN) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// A connection of the client's.
struct Talk {
    began: Instant,
    sent: bool,
    received: usize,
}

/// The line that is written. Times are in microseconds, from the call of `connect`, or of `send` on connections that stay.
#[derive(Serialize)]
struct Report {
    rate: f64,
    done: u64,
    failed: u64,
    p50_us: f64,
    p99_us: f64,
}

struct Client {
    target: SocketAddrV4,
    from: Ipv4Addr,
    addresses: u32,
    what: Load,
    queue: OwnedFd,
    sockets: Sockets<Talk>,
    /// Local addresses and ports taken so far.
    taken: u64,
    done: u64,
    failed: u64,
    times: Histogram<u64>,
}

impl Client {
    fn open(&mut self) -> anyhow::Result<()> {
        let socket = tcp_socket().context("a socket")?;
        match self.what {
            // The handshake's ACK waits for the request.
            Load::Crr => sockopt::set_tcp_quickack(&socket, false)?,
            Load::Rr => sockopt::set_tcp_nodelay(&socket, true)?,
        }
        sockopt::set_socket_reuseaddr(&socket, true)?;
        loop {
            let address = self.from.to_bits() + (self.taken % u64::from(self.addresses)) as u32;
            let port = self.taken / u64::from(self.addresses) % PORTS.len() as u64;
            self.taken += 1;
            let local = SocketAddrV4::new(address.into(), PORTS.start() + port as u16);
            match bind(&socket, &SocketAddr::V4(local)) {
                Ok(()) => break,
                Err(Errno::ADDRINUSE) => {}
                Err(error) => return Err(error).with_context(|| format!("binding {local}")),
            }
        }
        let began = Instant::now();
        match connect(&socket, &SocketAddr::V4(self.target)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).with_context(|| format!("connecting to {}", self.target)),
        }
        let slot = self.sockets.insert(socket, Talk { began, sent: false, received: 0 });
        let (socket, _) = self.sockets.open[slot].as_ref().context("just inserted")?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.queue, socket, EventData::new_u64(slot as u64), interest)?;
        Ok(())
    }

    /// Works on what happened to a connection. False once it is over.
    fn work(&mut self, slot: usize, flags: EventFlags) -> bool {
        let Some((socket, talk)) = &mut self.sockets.open[slot] else { return true };
        if flags.intersects(EventFlags::ERR) {
            self.failed += 1;
            return false;
        }
        if !talk.sent && flags.contains(EventFlags::OUT) {
            if send(&*socket, &[b'q'; OCTETS], SendFlags::NOSIGNAL) != Ok(OCTETS) {
                self.failed += 1;
                return false;
            }
            talk.sent = true;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            return true;
        }
        let mut octets = [0; 4 * OCTETS];
        match recv(&*socket, &mut octets[..], RecvFlags::empty()) {
            Ok((_, len)) => talk.received += len,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.failed += 1;
                return false;
            }
        }
        let closed = flags.contains(EventFlags::RDHUP);
        if talk.received == OCTETS && (closed || self.what == Load::Rr) {
            self.times.saturating_record(talk.began.elapsed().as_nanos() as u64);
            self.done += 1;
            if self.what == Load::Crr {
                return false;
            }
            (talk.began, talk.received) = (Instant::now(), 0);
            talk.sent = send(&*socket, &[b'q'; OCTETS], SendFlags::NOSIGNAL) == Ok(OCTETS);
        }
        if closed || !talk.sent {
            self.failed += 1;
        }
        !closed && talk.sent
    }

    fn run(mut self, connections: usize, seconds: f64) -> anyhow::Result<Report> {
        for _ in 0..connections {
            self.open()?;
        }
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(seconds);
        let timeout = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        while Instant::now() < end {
            events.clear();
            match epoll::wait(&self.queue, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let slot = event.data.u64() as usize;
                if !self.work(slot, event.flags) {
                    self.sockets.remove(slot);
                    self.open()?;
                }
            }
        }
        if self.done == 0 {
            bail!("nothing was answered, {} failed", self.failed);
        }
        let us = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        let rate = self.done as f64 / start.elapsed().as_secs_f64();
        Ok(Report { rate, done: self.done, failed: self.failed, p50_us: us(0.5), p99_us: us(0.99) })
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().end {
        EndArguments::Serve { listen, what } => serve(listen, what),
        EndArguments::Load { target, from, addresses, seconds, connections, what } => {
            let client = Client {
                target,
                from,
                addresses: addresses.max(1),
                what,
                queue: epoll::create(CreateFlags::CLOEXEC)?,
                sockets: Sockets { open: Vec::new(), free: Vec::new() },
                taken: 0,
                done: 0,
                failed: 0,
                times: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            };
            println!("{}", serde_json::to_string(&client.run(connections, seconds)?)?);
            Ok(())
        }
        EndArguments::Times { target, rate, seconds } => {
            println!("{}", serde_json::to_string(&times(target, rate, seconds)?)?);
            Ok(())
        }
    }
}
