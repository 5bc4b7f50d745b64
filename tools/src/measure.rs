//! What a run counts and times, in bounded memory.
//!
//! A worker writes into one [`Measures`] without allocating or sharing; whoever drives it swaps that for an empty one
//! at the end of an interval or a phase and adds the full one to the totals.

use std::time::Duration;

use hdrhistogram::Histogram;

/// A span of a connection's life that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// From the time a launch was scheduled to its SYN: the generator's own lateness.
    ScheduleDelay,
    /// From the time a launch was scheduled to its SYN-ACK.
    ConnectFromSchedule,
    /// From the SYN's going to the device to the SYN-ACK.
    Connect,
    /// From the request's going to the device to the answer's first octet.
    FirstByte,
    /// From the time a request was scheduled to the answer's last octet.
    TransactionFromSchedule,
    /// From the request's going to the device to the answer's last octet.
    Transaction,
    /// From our FIN, or the peer's if that came first, until both are acknowledged.
    Close,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// Every stage, in the order of a connection's life.
    pub const ALL: [Self; Self::COUNT] = [
        Self::ScheduleDelay,
        Self::ConnectFromSchedule,
        Self::Connect,
        Self::FirstByte,
        Self::TransactionFromSchedule,
        Self::Transaction,
        Self::Close,
    ];
}

/// Why a connection failed. The last five but one are this generator's own doing, not the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Failure {
    /// RST in answer to SYN.
    Refused,
    /// RST after the connection was established.
    Reset,
    /// No SYN-ACK before the connect timeout.
    SynTimeout,
    /// No answer, or no acknowledgment, before the timeout.
    DataTimeout,
    /// A hard error reported by ICMP.
    Icmp,
    /// FIN before the answer was complete.
    EarlyFin,
    /// An answer that is not what was asked for.
    BadResponse,
    /// No local address and port was free.
    LocalPorts,
    /// No memory for another connection.
    LocalMemory,
    /// A launch was due before the end, and the generator was too late to make it.
    LaunchDropped,
    /// Anything else.
    Other,
}

impl Failure {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// Every cause, in the order of the report.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Refused,
        Self::Reset,
        Self::SynTimeout,
        Self::DataTimeout,
        Self::Icmp,
        Self::EarlyFin,
        Self::BadResponse,
        Self::LocalPorts,
        Self::LocalMemory,
        Self::LaunchDropped,
        Self::Other,
    ];

    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::SynTimeout => "syn_timeout",
            Self::DataTimeout => "data_timeout",
            Self::Icmp => "icmp",
            Self::EarlyFin => "early_fin",
            Self::BadResponse => "bad_response",
            Self::LocalPorts => "local_ports",
            Self::LocalMemory => "local_memory",
            Self::LaunchDropped => "launch_dropped",
            Self::Other => "other",
        }
    }

    /// Whether the generator, not the target, is the cause.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::LocalPorts | Self::LocalMemory | Self::LaunchDropped)
    }
}

/// Counts of what became of connections and requests within a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections launched, or due to be launched but refused by ourselves. Of a server: SYNs that led to one.
    pub attempted: u64,
    /// Handshakes completed.
    pub established: u64,
    /// Connections that did all they were asked to and closed cleanly.
    pub completed: u64,
    /// Requests answered in full.
    pub requests: u64,
    /// Connections that needed their SYN more than once.
    pub syn_retransmitted: u64,
    /// Failures by cause, indexed by [`Failure`].
    pub failed: [u64; Failure::COUNT],
}

impl Tally {
    /// Counts one failure.
    pub fn fail(&mut self, cause: Failure) {
        self.failed[cause as usize] += 1;
    }

    /// Failures of all causes.
    pub fn failed_total(&self) -> u64 {
        self.failed.iter().sum()
    }

    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.established += other.established;
        self.completed += other.completed;
        self.requests += other.requests;
        self.syn_retransmitted += other.syn_retransmitted;
        for (sum, more) in self.failed.iter_mut().zip(other.failed) {
            *sum += more;
        }
    }
}

/// Longest time told apart, microseconds: ten minutes. What takes longer is counted as this.
pub const LATENCY_MAX_US: u64 = 600_000_000;

/// Decimal digits of a recorded time that are kept.
pub const LATENCY_DIGITS: u8 = 3;

/// A histogram of times in microseconds, from 1 µs to [`LATENCY_MAX_US`], of fixed size (about 170 KiB).
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    histogram: Histogram<u64>,
    /// The last of [`record_micros`](Self::record_micros), microseconds, and how often it came in a row: not in the
    /// histogram yet.
    last_us: u32,
    times: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// An empty histogram.
    pub fn new() -> Self {
        let mut histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS)
            .expect("1 µs to 10 minutes at 3 digits are bounds that the histogram takes");
        histogram.auto(false);
        Self { histogram, last_us: 0, times: 0 }
    }

    /// Counts one span of time. What took less than a microsecond counts as 0, and more than the maximum as the maximum.
    pub fn record(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(micros);
    }

    /// [`record`](Self::record) for a worker's loop: what a burst brings took the same time, more often than not, and a row
    /// of equal times goes into the histogram at once. [`settle`](Self::settle) before it is read.
    #[inline]
    pub fn record_micros(&mut self, micros: u32) {
        if micros != self.last_us {
            self.settle();
            self.last_us = micros;
        }
        self.times += 1;
    }

    /// Puts what [`record_micros`](Self::record_micros) has put off into the histogram.
    pub fn settle(&mut self) {
        if self.times > 0 {
            self.histogram.saturating_record_n(self.last_us.into(), self.times);
        }
        (self.last_us, self.times) = (0, 0);
    }

    /// Adds the counts of `other`, exactly.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(other.histogram()).expect("every latency histogram has the same bounds");
    }

    /// Adds the counts of a histogram that came from elsewhere. False if it has times beyond the bounds: then some of
    /// it may be added.
    pub fn add_histogram(&mut self, other: &Histogram<u64>) -> bool {
        self.histogram.add(other).is_ok()
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        (self.last_us, self.times) = (0, 0);
        if !self.histogram.is_empty() {
            self.histogram.reset();
        }
    }

    /// The histogram itself, in microseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        debug_assert_eq!(self.times, 0, "read before it was settled");
        &self.histogram
    }
}

/// Everything one worker measures within one interval or phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measures {
    /// Counts.
    pub tally: Tally,
    /// Times, indexed by [`Stage`].
    pub latency: [Latency; Stage::COUNT],
}

impl Measures {
    /// Counts one span of time under `stage`.
    pub fn record(&mut self, stage: Stage, span: Duration) {
        self.latency[stage as usize].record(span);
    }

    /// The same for a worker's loop: see [`Latency::record_micros`].
    #[inline]
    pub fn record_micros(&mut self, stage: Stage, micros: u32) {
        self.latency[stage as usize].record_micros(micros);
    }

    /// To be called before what [`record_micros`](Self::record_micros) counted is read.
    pub fn settle(&mut self) {
        self.latency.iter_mut().for_each(Latency::settle);
    }

    /// The times recorded under `stage`.
    pub fn stage(&self, stage: Stage) -> &Latency {
        &self.latency[stage as usize]
    }

    /// Adds what `other` measured, exactly.
    pub fn add(&mut self, other: &Self) {
        self.tally.add(&other.tally);
        for (sum, more) in self.latency.iter_mut().zip(&other.latency) {
            if !more.histogram().is_empty() {
                sum.add(more);
            }
        }
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.tally = Tally::default();
        self.latency.iter_mut().for_each(Latency::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_lists() {
        assert!(Stage::ALL.iter().enumerate().all(|(index, stage)| *stage as usize == index));
        assert!(Failure::ALL.iter().enumerate().all(|(index, cause)| *cause as usize == index));
    }

    #[test]
    fn adding_parts_gives_the_whole() {
        let (mut whole, mut left, mut right) = (Measures::default(), Measures::default(), Measures::default());
        for i in 0..10_000u64 {
            let span = Duration::from_micros(i * i % 700_001);
            let part = if i % 3 == 0 { &mut left } else { &mut right };
            for measures in [&mut whole, part] {
                measures.record(Stage::Connect, span);
                measures.tally.attempted += 1;
                measures.tally.fail(Failure::ALL[i as usize % Failure::COUNT]);
            }
        }
        left.add(&right);
        assert_eq!(left, whole);
        assert_eq!(whole.tally.failed_total(), 10_000);
    }

    #[test]
    fn rows_of_equal_times_count_as_often_as_they_came() {
        let (mut rows, mut single) = (Latency::new(), Latency::new());
        for micros in [7, 7, 7, 0, 0, 9, 7, u32::MAX, u32::MAX, 0] {
            rows.record_micros(micros);
            single.record(Duration::from_micros(micros.into()));
        }
        rows.settle();
        assert_eq!(rows, single);
        assert_eq!(rows.histogram().len(), 10);
    }

    #[test]
    fn times_beyond_the_bounds_are_clamped_without_growing() {
        let mut latency = Latency::new();
        let cells = latency.histogram().distinct_values();
        latency.record(Duration::MAX);
        latency.record(Duration::ZERO);
        assert_eq!(latency.histogram().len(), 2);
        assert_eq!(latency.histogram().distinct_values(), cells);
        assert!(latency.histogram().max() >= LATENCY_MAX_US);
        latency.clear();
        assert_eq!(latency, Latency::new());
    }
}
