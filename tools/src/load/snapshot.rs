//! What leaves a worker while it runs: a snapshot a second, by exchange of full boxes for empty ones.

use std::net::IpAddr;

use core::time::Duration;
use syncline_engine::stats::Stats;
use syncline_engine::time::Instant;

use crate::measure::{Measures, Tally};
use crate::sync::{Arc, ArrayQueue, AtomicBool, AtomicU32, AtomicU64, OnceLock, Ordering};

/// Snapshots that are under way at most: one being filled, the others with the reader.
const BOXES: usize = 4;

/// Transfers that a snapshot can report.
pub(super) const TRANSFERS_MAX: usize = 64;

/// The phases of a run (RFC 9411 §4.3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Finding the way to the targets.
    #[default]
    Init,
    /// The load grows.
    Ramp,
    /// The measured window.
    Sustain,
    /// Nothing new; what is open is closed.
    Drain,
    /// Over.
    Done,
}

impl Phase {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Ramp => "ramp",
            Self::Sustain => "sustain",
            Self::Drain => "drain",
            Self::Done => "done",
        }
    }
}

/// What all workers of a run, and whoever drives them, have in common.
#[derive(Debug)]
pub struct Control {
    workers: u32,
    ready: AtomicU32,
    /// Nanoseconds; 0 while it is not set.
    start: AtomicU64,
    stop: AtomicBool,
    done: AtomicU32,
    unreachable: OnceLock<IpAddr>,
}

/// How long after the last worker is ready all start: more than a pass of the loop takes.
const START_AFTER: Duration = Duration::from_millis(1);

impl Control {
    /// For a run of `workers` workers, whose clocks agree.
    pub fn new(workers: u32) -> Self {
        Self {
            workers,
            ready: AtomicU32::new(0),
            start: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            done: AtomicU32::new(0),
            unreachable: OnceLock::new(),
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Asks for the end: nothing new, close what is open, report. May be called from anywhere, as often as one likes.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the end has been asked for.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// When the run began: the end of init.
    pub fn started_at(&self) -> Option<Instant> {
        match self.start.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }

    /// Whether every worker is through.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) >= self.workers
    }

    /// The target, or its gateway, that did not answer while the way to it was looked for.
    pub fn unreachable(&self) -> Option<IpAddr> {
        self.unreachable.get().copied()
    }

    /// A worker has found its way; the last to do so sets the start.
    pub(super) fn arrive(&self, now: Instant) {
        if self.ready.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
            self.start.store((now + START_AFTER).nanos(), Ordering::Release);
        }
    }

    pub(super) fn leave(&self) {
        self.done.fetch_add(1, Ordering::Release);
    }

    pub(super) fn lost(&self, remote: IpAddr) {
        // The first to be lost is the one that is reported.
        let _ = self.unreachable.set(remote);
        self.stop();
    }
}

/// The worker's own counters at some time, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in `Stats`, where they are documented")]
pub struct EngineCounts {
    pub rx_frames: u64,
    pub tx_frames: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub segments_retransmitted: u64,
    pub partial_checksum: u64,
    pub polls: u64,
    pub polls_busy: u64,
}

impl EngineCounts {
    pub(super) fn of(stats: &Stats) -> Self {
        Self {
            rx_frames: stats.rx_frames.get(),
            tx_frames: stats.tx_frames.get(),
            rx_bytes: stats.rx_bytes.get(),
            tx_bytes: stats.tx_bytes.get(),
            segments_retransmitted: stats.segments_retransmitted.get(),
            partial_checksum: stats.partial_checksum.get(),
            polls: stats.polls.get(),
            polls_busy: stats.polls_busy.get(),
        }
    }
}

/// An answer that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Number of the target in the plan.
    pub target: u32,
    /// Octets of the answer's body.
    pub octets: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

/// What one worker measured within a span that ends with a second or a phase.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Number of the worker.
    pub worker: u32,
    /// The phase that the span belongs to.
    pub phase: Phase,
    /// Number of the stage that it belongs to, from 0, if there are stages.
    pub stage: u16,
    /// Requests that came due by their schedule, known at the end of the sustain phase.
    pub requests_due: u64,
    /// When the span began.
    pub from: Instant,
    /// When it ended.
    pub to: Instant,
    /// Of connections that were launched in the ramp and are not kept beyond it.
    pub ramp: Measures,
    /// Of all other connections: those of the measured window.
    pub sustain: Measures,
    /// Launches and requests that were due but held back, by the limit on connections in flight or because every
    /// connection was busy.
    pub held_back: u64,
    /// Largest number of launches in one pass of the loop.
    pub burst_max: u32,
    /// Connections open at the end of the span.
    pub open: u32,
    /// Most connections open at once since the start of the run.
    pub open_max: u32,
    /// Connections whose answer had not ended at the end of the drain, since the start of the run.
    pub cut_short: u64,
    /// The engine's counters at the end of the span, since the start of the worker.
    pub engine: EngineCounts,
    /// By target, since the start of the run; empty if there is but one.
    pub targets: Vec<Tally>,
    /// Answers that were hashed, as far as there was room.
    pub transfers: Vec<Transfer>,
    /// The worker's last.
    pub last: bool,
}

impl Snapshot {
    /// Makes it ready to be filled again.
    fn clear(&mut self) {
        self.ramp.clear();
        self.sustain.clear();
        (self.held_back, self.burst_max, self.requests_due) = (0, 0, 0);
        self.targets.clear();
        self.transfers.clear();
    }
}

/// Where a worker leaves full snapshots and finds empty ones. Neither side ever waits.
#[derive(Debug)]
pub struct Mailbox {
    full: ArrayQueue<Box<Snapshot>>,
    empty: ArrayQueue<Box<Snapshot>>,
}

impl Mailbox {
    fn new(targets: usize) -> Self {
        let mailbox = Self { full: ArrayQueue::new(BOXES), empty: ArrayQueue::new(BOXES) };
        for _ in 0..BOXES {
            let snapshot = Snapshot {
                targets: Vec::with_capacity(targets),
                transfers: Vec::with_capacity(TRANSFERS_MAX),
                ..Snapshot::default()
            };
            // One more box than places cannot be: there are as many.
            let _ = mailbox.empty.push(Box::new(snapshot));
        }
        mailbox
    }

    /// Hands the oldest full snapshot to `read`, then takes it back. False if there is none.
    pub fn read(&self, read: impl FnOnce(&Snapshot)) -> bool {
        let Some(mut snapshot) = self.full.pop() else { return false };
        read(&snapshot);
        snapshot.clear();
        self.empty.push(snapshot).is_ok()
    }
}

/// Fills snapshots and sends them off.
#[derive(Debug)]
pub(super) struct Recorder {
    mailbox: Arc<Mailbox>,
    pub(super) current: Box<Snapshot>,
    start: Instant,
    /// When the present second ends.
    due: Instant,
}

const SECOND: Duration = Duration::from_secs(1);

impl Recorder {
    pub(super) fn new(worker: u32, targets: usize) -> Self {
        let mailbox = Arc::new(Mailbox::new(targets));
        let mut current = mailbox.empty.pop().unwrap_or_default();
        current.worker = worker;
        Self { mailbox, current, start: Instant::ZERO, due: Instant::ZERO }
    }

    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.mailbox)
    }

    pub(super) fn begin(&mut self, start: Instant, phase: Phase) {
        (self.start, self.due) = (start, start + SECOND);
        (self.current.from, self.current.phase) = (start, phase);
    }

    /// When the present second ends.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Sends the snapshot off at `now`, and begins one in `phase`. False if the reader has not given back a box:
    /// then the span of the present one goes on, and nothing is lost.
    pub(super) fn send(&mut self, now: Instant, phase: Phase) -> bool {
        let seconds = now.since(self.start).as_secs() + 1;
        self.due = self.start + SECOND * u32::try_from(seconds).unwrap_or(u32::MAX);
        let Some(empty) = self.mailbox.empty.pop() else { return false };
        self.current.to = now;
        let mut full = core::mem::replace(&mut self.current, empty);
        (self.current.worker, self.current.from, self.current.phase) = (full.worker, now, phase);
        self.current.stage = full.stage;
        (self.current.open_max, self.current.cut_short) = (full.open_max, full.cut_short);
        full.last = phase == Phase::Done;
        full.ramp.settle();
        full.sustain.settle();
        // There are as many places as boxes.
        self.mailbox.full.push(full).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_sleeps_loses_nothing() {
        let mut recorder = Recorder::new(3, 1);
        recorder.begin(Instant::from_millis(10), Phase::Sustain);
        for second in 1..=20u64 {
            recorder.current.sustain.tally.attempted += 1;
            recorder.send(Instant::from_millis(10 + 1_000 * second), Phase::Sustain);
        }
        let mailbox = recorder.mailbox();
        let (mut attempted, mut end) = (0, Instant::from_millis(10));
        while mailbox.read(|snapshot| {
            attempted += snapshot.sustain.tally.attempted;
            assert_eq!((snapshot.worker, snapshot.from), (3, end));
            end = snapshot.to;
        }) {}
        assert!(attempted < 20);
        assert!(recorder.send(Instant::from_millis(20_011), Phase::Done));
        assert!(mailbox.read(|snapshot| {
            assert!(snapshot.last && snapshot.from == end);
            attempted += snapshot.sustain.tally.attempted;
        }));
        assert_eq!(attempted, 20);
        assert!(recorder.current.sustain.tally.attempted == 0);
    }

    #[test]
    fn the_last_worker_to_arrive_sets_the_start() {
        let control = Control::new(2);
        control.arrive(Instant::from_millis(5));
        assert_eq!(control.started_at(), None);
        control.arrive(Instant::from_millis(9));
        assert_eq!(control.started_at(), Some(Instant::from_millis(10)));
        control.leave();
        assert!(!control.is_done());
        control.leave();
        assert!(control.is_done());
    }
}
