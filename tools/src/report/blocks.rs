//! From counts and histograms to the figures of a span of time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::latency::LatencySummary;
use super::model::{
    Blocks, Connections, Failures, Latencies, Memory, Packets, Rates, Syscalls, TargetReport, WorkerReport,
};
use crate::measure::{Failure, Latency, Measures, Stage, Tally};

/// What the engine and its devices counted within a span, all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames sent.
    pub tx_frames: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Octets sent.
    pub tx_bytes: u64,
    /// Octets received.
    pub rx_bytes: u64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// SYNs that old connections answered.
    pub syn_met_old: u64,
    /// Segments with just the pseudo-header sum.
    pub partial_checksum: u64,
    /// Calls of the operating system.
    pub doorbells: u64,
    /// Frames dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Frames that found no buffer or no room.
    pub tx_full: u64,
    /// Frames lost before the engine saw them.
    pub rx_dropped: u64,
}

impl Traffic {
    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.tx_frames += other.tx_frames;
        self.rx_frames += other.rx_frames;
        self.tx_bytes += other.tx_bytes;
        self.rx_bytes += other.rx_bytes;
        self.retransmitted += other.retransmitted;
        self.syn_met_old += other.syn_met_old;
        self.partial_checksum += other.partial_checksum;
        self.doorbells += other.doorbells;
        self.tx_full += other.tx_full;
        self.rx_dropped += other.rx_dropped;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += count;
        }
    }

    /// What was counted since `earlier`, a former reading of the same counters.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |reason: &String| earlier.dropped.get(reason).copied().unwrap_or(0);
        let dropped = self.dropped.iter().map(|(reason, count)| (reason.clone(), count.saturating_sub(before(reason))));
        Self {
            tx_frames: self.tx_frames.saturating_sub(earlier.tx_frames),
            rx_frames: self.rx_frames.saturating_sub(earlier.rx_frames),
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            retransmitted: self.retransmitted.saturating_sub(earlier.retransmitted),
            syn_met_old: self.syn_met_old.saturating_sub(earlier.syn_met_old),
            partial_checksum: self.partial_checksum.saturating_sub(earlier.partial_checksum),
            doorbells: self.doorbells.saturating_sub(earlier.doorbells),
            tx_full: self.tx_full.saturating_sub(earlier.tx_full),
            rx_dropped: self.rx_dropped.saturating_sub(earlier.rx_dropped),
            dropped: dropped.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// Levels at the end of a span, all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Levels {
    /// Connections open.
    pub open: u64,
    /// Most connections open at once within the span.
    pub held_max: u64,
    /// Connections in TIME-WAIT.
    pub time_wait: u64,
    /// Octets of the flow tables.
    pub flow_table_bytes: u64,
    /// Octets of an idle connection, if known.
    pub bytes_per_idle_connection: Option<f64>,
    /// Resident set of the process, if known.
    pub rss_bytes: Option<u64>,
    /// What the resident set had grown by for each connection when most were open, if known.
    pub bytes_per_connection_rss: Option<f64>,
}

/// All that was measured within a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// How long it was.
    pub length: Duration,
    /// Connections per second that were asked for within it, if a rate was.
    pub offered_cps: Option<f64>,
    /// Counts and times.
    pub measures: Measures,
    /// Frames.
    pub traffic: Traffic,
    /// Frames after the span of connections that were launched within it: they count as packets, not towards rates.
    pub after: Traffic,
    /// Levels at its end.
    pub levels: Levels,
    /// Each worker for itself.
    pub workers: Vec<WorkerReport>,
}

/// Whether histograms are encoded into the figures, or only summarised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// With the encoded histograms: what a merge needs.
    Full,
    /// Percentiles only: for the many short intervals.
    Summary,
}

impl Span {
    /// The figures of the span.
    pub fn blocks(&self, detail: Detail) -> Blocks {
        let tally = &self.measures.tally;
        let seconds = self.length.as_secs_f64();
        let mut moved = self.traffic.clone();
        moved.add(&self.after);
        let per_second = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        Blocks {
            connections: connections(tally, &self.levels),
            rate: Rates {
                offered_cps: self.offered_cps,
                burst_max: None,
                achieved_cps: per_second(tally.completed),
                requests_per_s: per_second(tally.requests),
                tx_bits_per_s: per_second(self.traffic.tx_bytes * 8),
                rx_bits_per_s: per_second(self.traffic.rx_bytes * 8),
            },
            latency_us: latencies(&self.measures, detail),
            packets: packets(&moved, tally.completed),
            syscalls: Syscalls {
                doorbells: Some(moved.doorbells),
                per_packet: ratio(moved.doorbells, moved.tx_frames + moved.rx_frames),
            },
            memory: memory(&self.levels),
            workers: self.workers.clone(),
        }
    }
}

/// `part / whole`, or `None` of nothing.
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl TargetReport {
    /// What was counted of connections to `target`.
    pub fn new(target: String, tally: &Tally) -> Self {
        let connections = connections(tally, &Levels::default());
        let unknown = Connections { open_at_end: None, held_max: None, time_wait_at_end: None, ..connections };
        Self { target, connections: unknown }
    }
}

fn connections(tally: &Tally, levels: &Levels) -> Connections {
    let failed = |cause: Failure| Some(tally.failed[cause as usize]);
    Connections {
        attempted: Some(tally.attempted),
        established: Some(tally.established),
        completed: Some(tally.completed),
        open_at_end: Some(levels.open),
        held_max: Some(levels.held_max),
        time_wait_at_end: Some(levels.time_wait),
        syn_retransmitted: Some(tally.syn_retransmitted),
        failed_ratio: ratio(tally.failed_total(), tally.attempted),
        failed: Failures {
            refused: failed(Failure::Refused),
            reset: failed(Failure::Reset),
            syn_timeout: failed(Failure::SynTimeout),
            data_timeout: failed(Failure::DataTimeout),
            icmp: failed(Failure::Icmp),
            early_fin: failed(Failure::EarlyFin),
            bad_response: failed(Failure::BadResponse),
            local_ports: failed(Failure::LocalPorts),
            local_memory: failed(Failure::LocalMemory),
            launch_dropped: failed(Failure::LaunchDropped),
            other: failed(Failure::Other),
        },
    }
}

fn latencies(measures: &Measures, detail: Detail) -> Latencies {
    let summary = |stage: Stage| summarise(measures.stage(stage), detail);
    Latencies {
        schedule_delay: summary(Stage::ScheduleDelay),
        connect_from_schedule: summary(Stage::ConnectFromSchedule),
        connect: summary(Stage::Connect),
        first_byte: summary(Stage::FirstByte),
        transaction_from_schedule: summary(Stage::TransactionFromSchedule),
        transaction: summary(Stage::Transaction),
        close: summary(Stage::Close),
    }
}

fn summarise(latency: &Latency, detail: Detail) -> LatencySummary {
    match detail {
        Detail::Full => LatencySummary::encode(latency),
        Detail::Summary => LatencySummary::summarise(latency),
    }
}

fn packets(traffic: &Traffic, completed: u64) -> Packets {
    Packets {
        tx: Some(traffic.tx_frames),
        rx: Some(traffic.rx_frames),
        tx_per_connection: ratio(traffic.tx_frames, completed),
        rx_per_connection: ratio(traffic.rx_frames, completed),
        retransmitted: Some(traffic.retransmitted),
        partial_checksum: Some(traffic.partial_checksum),
        dropped: dropped(traffic),
    }
}

/// The engine's drops by reason, and `device_rx`: frames that were too long for a buffer or found none.
fn dropped(traffic: &Traffic) -> BTreeMap<String, u64> {
    let mut dropped = traffic.dropped.clone();
    if traffic.rx_dropped > 0 {
        dropped.insert("device_rx".into(), traffic.rx_dropped);
    }
    dropped
}

fn memory(levels: &Levels) -> Memory {
    Memory {
        bytes_per_idle_connection: levels.bytes_per_idle_connection,
        flow_table_bytes: Some(levels.flow_table_bytes),
        rss_bytes: levels.rss_bytes,
        bytes_per_connection_rss: levels.bytes_per_connection_rss,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_counts() {
        let mut span = Span { length: Duration::from_secs(2), ..Span::default() };
        span.measures.tally = Tally { attempted: 100, established: 99, completed: 96, ..Tally::default() };
        span.measures.tally.fail(Failure::Refused);
        span.traffic = Traffic { tx_frames: 288, rx_frames: 288, tx_bytes: 1_000, doorbells: 72, ..Traffic::default() };
        let blocks = span.blocks(Detail::Full);
        assert_eq!(blocks.connections.failed_ratio, Some(0.01));
        assert_eq!(blocks.connections.failed.refused, Some(1));
        assert_eq!(blocks.rate.achieved_cps, Some(48.0));
        assert_eq!(blocks.rate.tx_bits_per_s, Some(4_000.0));
        assert_eq!((blocks.packets.tx_per_connection, blocks.syscalls.per_packet), (Some(3.0), Some(0.125)));
    }

    #[test]
    fn nothing_divides_by_nothing() {
        let blocks = Span::default().blocks(Detail::Summary);
        assert_eq!(blocks.connections.failed_ratio, None);
        assert_eq!(blocks.rate.achieved_cps, None);
        assert_eq!(blocks.packets.tx_per_connection, None);
    }

    #[test]
    fn readings_subtract_to_spans() {
        let early = Traffic { tx_frames: 5, dropped: [("short".into(), 2)].into(), ..Traffic::default() };
        let more = Traffic { tx_frames: 3, dropped: [("long".into(), 1)].into(), ..Traffic::default() };
        let mut late = early.clone();
        late.add(&more);
        assert_eq!(late.since(&early), more);
    }
}
