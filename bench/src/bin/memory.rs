//! Connections a second between two ends in one thread and in memory, without a kernel: the engine over its ring, and
//! smoltcp over a queue of frames. The transaction is the same: open, 64 octets each way, the server's FIN with its
//! response, the client's after that.
//!
//! ```text
//!  memory engine|smoltcp --seconds 5 --connections 256
//! ```
//!
//! Writes one line of JSON. The time is the thread's own: what else goes on on the machine does not count.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use syncline_bench::exchange;

/// Octets of a request and of a response.
const OCTETS: usize = 64;
const PORT: u16 = 80;

#[derive(Parser)]
#[command(about = "Connections a second in one thread and in memory")]
struct Arguments {
    stack: Stack,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many at a time.
    #[arg(long, default_value_t = 256)]
    connections: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stack {
    Engine,
    Smoltcp,
}

/// Time that this thread was at work, seconds.
fn thread_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// The line that is written.
#[derive(Serialize)]
struct Report {
    rate: f64,
    done: u64,
    packets_per_connection: f64,
}

fn engine(arguments: &Arguments) -> Report {
    const ROUND: u64 = 10_000;
    let mut pair = exchange::connections(arguments.connections);
    exchange::run_connections(&mut pair, ROUND);
    let frames =
        |pair: &exchange::Pair<_, _>| pair.client.stats().tx_frames.get() + pair.server.stats().tx_frames.get();
    let (start, before) = (thread_seconds(), (pair.client.app().done, frames(&pair)));
    while thread_seconds() - start < arguments.seconds {
        exchange::run_connections(&mut pair, ROUND);
    }
    let done = pair.client.app().done - before.0;
    Report {
        rate: done as f64 / (thread_seconds() - start),
        done,
        packets_per_connection: (frames(&pair) - before.1) as f64 / done as f64,
    }
}

type Frames = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of two queues of frames. Their buffers go round.
struct Wire {
    into: Frames,
    out: Frames,
    spare: Frames,
    sent: u64,
}

struct Received {
    frame: Vec<u8>,
    spare: Frames,
}

struct Sending<'a> {
    out: &'a Frames,
    spare: &'a Frames,
    sent: &'a mut u64,
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.frame);
        self.spare.borrow_mut().push_back(self.frame);
        result
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.spare.borrow_mut().pop_back().unwrap_or_default();
        frame.resize(len, 0);
        let result = f(&mut frame);
        self.out.borrow_mut().push_back(frame);
        *self.sent += 1;
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.into.borrow_mut().pop_front()?;
        let received = Received { frame, spare: Rc::clone(&self.spare) };
        Some((received, Sending { out: &self.out, spare: &self.spare, sent: &mut self.sent }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending { out: &self.out, spare: &self.spare, sent: &mut self.sent })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1_514;
        capabilities
    }
}

/// A host of smoltcp's.
struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
}

impl Host {
    fn new(mut wire: Wire, last_octet: u8, sockets: u32) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, last_octet]);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = u64::from(last_octet);
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(IpAddress::v4(10, 0, 0, last_octet), 24);
            addresses.push(address).expect("room for one address");
        });
        let mut set = SocketSet::new(Vec::new());
        let buffer = || tcp::SocketBuffer::new(vec![0; 2 * OCTETS]);
        let handles = (0..sockets).map(|_| set.add(tcp::Socket::new(buffer(), buffer()))).collect();
        Self { wire, interface, sockets: set, handles }
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }
}

/// Virtual time of a step, as that of the engine's exchange.
const STEP: Duration = Duration::from_micros(20);

fn smoltcp(arguments: &Arguments) -> anyhow::Result<Report> {
    let queue = || Frames::default();
    let (there, back, spare) = (queue(), queue(), queue());
    let wire = |into: &Frames, out: &Frames| Wire {
        into: Rc::clone(into),
        out: Rc::clone(out),
        spare: Rc::clone(&spare),
        sent: 0,
    };
    let mut client = Host::new(wire(&back, &there), 2, arguments.connections);
    // Some more than the client has: one that is still waiting for its last ACK does not listen yet.
    let mut server = Host::new(wire(&there, &back), 1, 2 * arguments.connections);
    let mut talking = vec![false; client.handles.len()];
    let mut port = 0u16;
    let (mut done, mut before, mut began) = (0u64, (0, 0), None);
    let mut now = Instant::ZERO;
    let opening = thread_seconds();
    loop {
        now += STEP.into();
        for handle in &server.handles {
            let socket = server.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait) {
                // It would keep its TIME-WAIT for 10 s, and the socket with it.
                socket.abort();
                socket.listen(PORT)?;
            } else if socket.recv_queue() == OCTETS {
                socket.recv(|octets| (octets.len(), ()))?;
                socket.send_slice(&[b'x'; OCTETS])?;
                socket.close();
            }
        }
        for (handle, talking) in client.handles.iter().zip(&mut talking) {
            let socket = client.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            // Whoever closes first has TIME-WAIT, and that is the server; the client's sockets are free as soon as both FINs are acknowledged.
            if !socket.is_open() {
                done += u64::from(*talking);
                *talking = false;
                port = (port + 1) % 60_000;
                socket.connect(client.interface.context(), (IpAddress::v4(10, 0, 0, 1), PORT), 2_000 + port)?;
                // Sent with the handshake's ACK.
                socket.set_ack_delay(Some(Duration::from_millis(10).into()));
                socket.set_nagle_enabled(false);
            } else if !*talking && socket.may_send() {
                socket.send_slice(&[b'q'; OCTETS])?;
                *talking = true;
            } else if *talking && socket.recv_queue() == OCTETS {
                socket.recv(|octets| (octets.len(), ()))?;
                socket.close();
            }
        }
        client.poll(now);
        server.poll(now);
        // The first second is not counted: tables and buffers come to their sizes.
        let start = match began {
            Some(start) => start,
            None if thread_seconds() - opening < 1.0 => continue,
            None => {
                before = (done, client.wire.sent + server.wire.sent);
                *began.insert(thread_seconds())
            }
        };
        if thread_seconds() - start < arguments.seconds {
            continue;
        }
        let count = done - before.0;
        ensure!(count > 0, "smoltcp opened nothing");
        return Ok(Report {
            rate: count as f64 / (thread_seconds() - start),
            done: count,
            packets_per_connection: (client.wire.sent + server.wire.sent - before.1) as f64 / count as f64,
        });
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let report = match arguments.stack {
        Stack::Engine => engine(&arguments),
        Stack::Smoltcp => smoltcp(&arguments)?,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
