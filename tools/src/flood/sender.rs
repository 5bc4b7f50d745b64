//! The loop of a flood: a burst of SYNs, one doorbell, and what came back meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_engine::device::{BURST, Device, Frame};
use syncline_engine::stats::{Counter, Stats};
use syncline_engine::wire::{DropReason, Flags, ParseRules, Parsed, TcpSegment, parse};

use super::hops::Station;
use super::template::{Sources, Template};
use crate::error::{Error, Result};
use crate::net::Cidr;
use crate::run::{Gauges, Waitable};
use crate::signals::{Stop, StopFlag};

/// Bursts taken in per loop at most: there may be an answer to every SYN.
const RECEIVE_BURSTS_MAX: usize = 2;

/// How often the device is asked for its health and its counters are published.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// How long answers are waited for after the last SYN.
const DRAIN: Duration = Duration::from_millis(300);

/// Waits shorter than this are polled through.
const WAKE_UP: Duration = Duration::from_micros(60);

/// The longest sleep: what a stop may wait.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// What came back. One writer, readable by anyone.
#[derive(Debug, Default)]
pub struct Answers {
    /// SYNs sent.
    pub syns: Counter,
    /// SYN-ACKs from a target.
    pub syn_acks: Counter,
    /// RSTs from a target.
    pub resets: Counter,
    /// ICMP errors about a SYN.
    pub icmp_errors: Counter,
    /// Other segments from a target.
    pub others: Counter,
    /// How long SYNs have been sent, microseconds.
    pub sending_us: Counter,
}

/// What one worker is to send.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where to, in turn: a template each, and whose address its SYNs bear.
    pub targets: Vec<(SocketAddr, Template, Cidr)>,
    /// SYNs per second; `None`: as many as go.
    pub per_second: Option<f64>,
    /// At most so many SYNs.
    pub count: Option<u64>,
    /// For so long.
    pub duration: Option<Duration>,
    /// Seed of addresses, ports and sequence numbers.
    pub seed: u64,
}

/// One worker of a flood, on its device.
pub struct Flooder<D: Device> {
    device: D,
    order: Order,
    sources: Vec<Sources>,
    next_target: usize,
    station: Station,
    rules: ParseRules,
    stats: Arc<Stats>,
    answers: Arc<Answers>,
    gauges: Arc<Gauges>,
    burst: Vec<D::Frame>,
    sent: u64,
}

impl<D: Waitable> Flooder<D> {
    /// A flood of `order` by `device`.
    pub fn new(device: D, order: Order, station: Station) -> Self {
        let rules = station.rules(device.capabilities().partial_checksum);
        let seeds = (0..).map(|index: u64| order.seed.wrapping_add(index << 32));
        let sources = order.targets.iter().zip(seeds).map(|((.., range), seed)| Sources::new(*range, seed)).collect();
        Self {
            device,
            order,
            sources,
            next_target: 0,
            station,
            rules,
            stats: Arc::default(),
            answers: Arc::default(),
            gauges: Arc::default(),
            burst: Vec::with_capacity(BURST),
            sent: 0,
        }
    }

    /// What it counts, as an engine's worker does.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// What it sent and what came back.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// What its device counts, and how busy it is.
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }

    /// Floods until the order is carried out or a stop is wished for, then waits a little for answers.
    ///
    /// # Errors
    /// Exit 3 if the device fails.
    pub fn run(mut self, stop: &StopFlag) -> Result<D> {
        let start = Instant::now();
        let (mut now, mut check_at) = (start, start);
        let mut over: Option<Instant> = None;
        loop {
            if now >= check_at {
                check_at = now + CHECK_EVERY;
                self.check()?;
            }
            let elapsed = now - start;
            let ended = stop.get() != Stop::No
                || self.order.duration.is_some_and(|duration| elapsed >= duration)
                || self.order.count.is_some_and(|count| self.sent >= count);
            if ended && (stop.get() == Stop::Now || now - *over.get_or_insert(now) >= DRAIN) {
                self.check()?;
                return Ok(self.device);
            }
            let due = if over.is_some() { 0 } else { self.due(elapsed) };
            if over.is_none() {
                self.answers.sending_us.set(elapsed.as_micros() as u64);
            }
            let moved = self.pass(due);
            let after = Instant::now();
            if moved > 0 {
                self.gauges.busy(after - now);
            } else if let Some(wait) = self.idle_for(after - start, over.is_some()) {
                self.device.wait(wait);
            }
            now = Instant::now();
        }
    }

    /// Takes in what came, sends `due` SYNs, rings. Returns the frames moved.
    pub fn pass(&mut self, due: usize) -> usize {
        self.device.reap();
        let mut burst = std::mem::take(&mut self.burst);
        let mut moved = 0;
        for _ in 0..RECEIVE_BURSTS_MAX {
            let count = self.device.receive(&mut burst);
            moved += count;
            for frame in burst.drain(..) {
                self.stats.rx_frames.increment();
                self.stats.rx_bytes.add(frame.bytes().len() as u64);
                let parsed = parse(frame.bytes(), &self.rules);
                self.device.release(frame);
                match parsed {
                    Ok(Parsed::Tcp(segment)) => self.count_answer(&segment),
                    Ok(Parsed::IcmpError(error)) if self.is_spoofed(error.quoted.source) => {
                        self.answers.icmp_errors.increment();
                    }
                    Ok(other) => self.station.answer(&mut self.device, &self.stats, &other),
                    Err(reason) => self.stats.dropped.count(reason),
                }
            }
            if count < BURST {
                break;
            }
        }
        self.burst = burst;
        moved += self.send(due);
        self.device.doorbell();
        moved
    }

    fn is_spoofed(&self, address: IpAddr) -> bool {
        self.order.targets.iter().any(|(.., range)| range.contains(address))
    }

    fn count_answer(&self, segment: &TcpSegment) {
        self.stats.segments_received.increment();
        if segment.partial_checksum {
            self.stats.partial_checksum.increment();
        }
        let from = SocketAddr::new(segment.source, segment.source_port);
        if !self.order.targets.iter().any(|(target, ..)| *target == from) || !self.is_spoofed(segment.destination) {
            return self.stats.dropped.count(DropReason::NotOurAddress);
        }
        let counter = if segment.flags.rst() {
            &self.answers.resets
        } else if segment.flags.contains(Flags::SYN_ACK) {
            &self.answers.syn_acks
        } else {
            &self.answers.others
        };
        counter.increment();
    }

    /// SYNs that are due `elapsed` after the start, at most a burst.
    fn due(&self, elapsed: Duration) -> usize {
        let by_rate = self.order.per_second.map_or(u64::MAX, |rate| (rate * elapsed.as_secs_f64()) as u64 + 1);
        let due = by_rate.min(self.order.count.unwrap_or(u64::MAX)).saturating_sub(self.sent);
        usize::try_from(due).unwrap_or(usize::MAX).min(BURST)
    }

    fn send(&mut self, due: usize) -> usize {
        for done in 0..due {
            let Some(mut frame) = self.device.allocate() else {
                self.stats.tx_full.increment();
                return done;
            };
            let (_, template, _) = &self.order.targets[self.next_target];
            let (source, port, seq) = self.sources[self.next_target].draw();
            template.write(frame.resize(template.len()), source, port, seq);
            let len = template.len() as u64;
            if let Err(frame) = self.device.transmit(frame) {
                self.device.release(frame);
                self.stats.tx_full.increment();
                return done;
            }
            self.next_target = (self.next_target + 1) % self.sources.len();
            self.sent += 1;
            self.answers.syns.increment();
            self.stats.segments_sent.increment();
            self.stats.tx_frames.increment();
            self.stats.tx_bytes.add(len);
        }
        due
    }

    /// How long there is nothing to do; `None` if that is too short to sleep.
    fn idle_for(&self, elapsed: Duration, over: bool) -> Option<Duration> {
        let next = match self.order.per_second {
            _ if over => SLEEP_MAX,
            Some(rate) => Duration::from_secs_f64(self.sent as f64 / rate).saturating_sub(elapsed),
            None => return None,
        };
        next.checked_sub(WAKE_UP).filter(|wait| !wait.is_zero()).map(|wait| wait.min(SLEEP_MAX))
    }

    fn check(&mut self) -> Result<()> {
        let health = self.device.health();
        self.gauges.publish(&self.device.counters(), 0);
        health.map_err(|error| Error::environment("the device failed", error, ""))
    }
}
