//! The JSON report, `syncline.report/1`: the field names are a promise.
//!
//! Units are in the names. What was not measured is `None`, written as `null`, never 0.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::insight::{FlightReport, Reconciliation};
use super::latency::LatencySummary;
use crate::error::Exit;

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "syncline.report/1";

/// What the figures of a run are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The figures tell about the target, and every threshold holds.
    Valid,
    /// A maximum was asked for, and this is it.
    Ceiling,
    /// A threshold is broken, or every connection failed.
    Failed,
    /// The generator was the limit: the figures tell about it, not about the target.
    GeneratorLimited,
    /// Nothing can be said.
    #[default]
    Inconclusive,
}

impl Verdict {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Ceiling => "ceiling",
            Self::Failed => "failed",
            Self::GeneratorLimited => "generator_limited",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The exit code of a run with this verdict that was, or was not, cut short.
    pub const fn exit(self, partial: bool) -> Exit {
        match self {
            Self::GeneratorLimited | Self::Inconclusive => Exit::Limited,
            Self::Failed => Exit::Failed,
            Self::Valid | Self::Ceiling if partial => Exit::Interrupted,
            Self::Valid | Self::Ceiling => Exit::Success,
        }
    }
}

/// A whole report. The flattened [`Blocks`] cover the sustain phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of this program.
    pub version: String,
    /// When the run began, RFC 3339, UTC.
    pub started_at: Option<String>,
    /// The command line.
    pub command: String,
    /// Every effective setting.
    pub config: serde_json::Value,
    /// The seed that every random choice came from.
    pub seed: Option<u64>,
    /// Whether the run was interrupted.
    pub partial: bool,
    /// Where it ran.
    pub host: Host,
    /// What the figures are worth.
    pub verdict: Verdict,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// What to know about the cores it ran on, a sentence each.
    #[serde(default)]
    pub advice: Vec<String>,
    /// The thresholds and whether they hold.
    pub thresholds: Vec<ThresholdResult>,
    /// The figures of the sustain phase.
    #[serde(flatten)]
    pub blocks: Blocks,
    /// Cookies sent and taken back (a server's).
    pub syn_cookies: Option<SynCookies>,
    /// The SYN cache (a server's).
    pub syn_cache: Option<SynCache>,
    /// The figures phase by phase.
    pub phases: Vec<PhaseReport>,
    /// The figures second by second.
    pub intervals: Vec<IntervalReport>,
    /// The figures target by target.
    pub targets: Vec<TargetReport>,
    /// Launches that came due while as many connections as allowed were in flight, and requests that came due while
    /// every connection was busy. They were made as soon as there was room, or never if the run ended before.
    #[serde(default)]
    pub held_back: Option<u64>,
    /// Requests answered in the sustain phase.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Requests that came due in it by the schedule of `--request-rate`.
    #[serde(default)]
    pub requests_due: Option<u64>,
    /// The criteria of RFC 9411 that were asked for.
    #[serde(default)]
    pub criteria: Vec<CriterionResult>,
    /// The search that this run is the best of.
    #[serde(default)]
    pub search: Option<SearchReport>,
    /// The figures stage by stage, of an open loop with stages: of what happened while the stage lasted.
    #[serde(default)]
    pub stages: Vec<StageReport>,
    /// What the addresses and ports given allow at all.
    #[serde(default)]
    pub supply: Option<SupplyReport>,
    /// What was received, where it was hashed.
    #[serde(default)]
    pub transfers: Vec<TransferReport>,
    /// The other end's report, where this process ran it too.
    pub server: Option<Box<Self>>,
    /// The bare device path (`bench raw`).
    pub raw: Option<Raw>,
    /// Every counter of the engine, by its name in `syncline_engine::stats`, all workers together.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// What the flight recorder kept.
    #[serde(default)]
    pub flight: Option<FlightReport>,
    /// The two ends' accounts of their connections, held against each other.
    #[serde(default)]
    pub reconciliation: Option<Reconciliation>,
    /// What a SYN flood sent, and what came back (`load --profile syn-flood`).
    #[serde(default)]
    pub syn_flood: SynFlood,
    /// The reports that this one is the sum of (`report merge`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged_from: Vec<Shard>,
}

/// One of the reports that a merged one is the sum of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Shard {
    /// Its file.
    pub file: String,
    /// When it began, RFC 3339, UTC.
    pub started_at: Option<String>,
    /// What its figures were worth.
    pub verdict: Verdict,
    /// Its seed.
    pub seed: Option<u64>,
    /// Where it ran.
    pub host: Host,
    /// Connections completed per second.
    pub achieved_cps: Option<f64>,
}

impl Report {
    /// A report without figures, of this program's version.
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            schema: SCHEMA.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            command: command.into(),
            ..Self::default()
        }
    }

    /// The exit code that says what the report says.
    pub fn exit(&self) -> Exit {
        self.verdict.exit(self.partial)
    }
}

/// Where a run took place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Kernel release.
    pub kernel: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Cores this process may run on.
    pub cores: Option<u32>,
    /// Interface, or `ring`, or `link`.
    pub device: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// `native` or `skb`.
    pub xdp_mode: Option<String>,
    /// Whether frames are not copied between kernel and engine.
    pub zerocopy: Option<bool>,
    /// Which worker runs on which core.
    pub placement: Option<String>,
}

/// One threshold after the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThresholdResult {
    /// The expression.
    pub expr: String,
    /// What was measured.
    pub value: Option<f64>,
    /// Whether it holds; `null` if the value was not measured.
    pub pass: Option<bool>,
}

/// The figures of one span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Blocks {
    /// Connections and what became of them.
    pub connections: Connections,
    /// Events per second.
    pub rate: Rates,
    /// Times, in microseconds.
    pub latency_us: Latencies,
    /// Frames on the wire.
    pub packets: Packets,
    /// Calls of the operating system on the data path.
    pub syscalls: Syscalls,
    /// Octets of memory.
    pub memory: Memory,
    /// Each worker for itself.
    pub workers: Vec<WorkerReport>,
}

/// Connections within the span. Gauges (`*_at_end`) are of its end; at the top level, of the end of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Connections {
    /// Launched, or due to be launched but refused by ourselves.
    pub attempted: Option<u64>,
    /// Handshakes completed.
    pub established: Option<u64>,
    /// Did all they were asked to and closed cleanly.
    pub completed: Option<u64>,
    /// Still open at the end.
    pub open_at_end: Option<u64>,
    /// Most open at once.
    pub held_max: Option<u64>,
    /// In TIME-WAIT at the end.
    pub time_wait_at_end: Option<u64>,
    /// Needed their SYN more than once.
    pub syn_retransmitted: Option<u64>,
    /// Failed ÷ attempted.
    pub failed_ratio: Option<f64>,
    /// Failures by cause.
    pub failed: Failures,
}

/// Failures by cause; see [`Failure`](crate::measure::Failure).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failures {
    /// RST in answer to SYN.
    pub refused: Option<u64>,
    /// RST after the connection was established.
    pub reset: Option<u64>,
    /// No SYN-ACK before the connect timeout.
    pub syn_timeout: Option<u64>,
    /// No answer, or no acknowledgment, before the timeout.
    pub data_timeout: Option<u64>,
    /// A hard error reported by ICMP.
    pub icmp: Option<u64>,
    /// FIN before the answer was complete.
    pub early_fin: Option<u64>,
    /// An answer that is not what was asked for.
    pub bad_response: Option<u64>,
    /// No local address and port was free.
    pub local_ports: Option<u64>,
    /// No memory for another connection.
    pub local_memory: Option<u64>,
    /// A launch was due before the end, and the generator was too late to make it.
    pub launch_dropped: Option<u64>,
    /// Anything else.
    pub other: Option<u64>,
}

/// Events per second within the span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Connections per second that were asked for.
    pub offered_cps: Option<f64>,
    /// Most launches in one pass of the loop, of the whole run: 1 is the smoothest. At the top level only.
    #[serde(default)]
    pub burst_max: Option<u32>,
    /// Connections completed per second.
    pub achieved_cps: Option<f64>,
    /// Requests answered per second.
    pub requests_per_s: Option<f64>,
    /// Bits of frames sent per second.
    pub tx_bits_per_s: Option<f64>,
    /// Bits of frames received per second.
    pub rx_bits_per_s: Option<f64>,
}

/// Times by stage; see [`Stage`](crate::measure::Stage). `*_from_schedule` counts from when the event was due: the
/// figure to quote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latencies {
    /// From the time a launch was scheduled to its SYN: the generator's own lateness.
    pub schedule_delay: LatencySummary,
    /// From the time a launch was scheduled to its SYN-ACK.
    pub connect_from_schedule: LatencySummary,
    /// From SYN to SYN-ACK.
    pub connect: LatencySummary,
    /// From the request's first octet to the answer's.
    pub first_byte: LatencySummary,
    /// From the time a request was scheduled to the answer's last octet.
    pub transaction_from_schedule: LatencySummary,
    /// From the request's first octet to the answer's last.
    pub transaction: LatencySummary,
    /// From our FIN, or the peer's if that came first, until both are acknowledged.
    pub close: LatencySummary,
}

impl Latencies {
    /// Every stage with its name, in the order of a connection's life.
    pub fn by_stage(&self) -> [(&'static str, &LatencySummary); 7] {
        [
            ("schedule_delay", &self.schedule_delay),
            ("connect_from_schedule", &self.connect_from_schedule),
            ("connect", &self.connect),
            ("first_byte", &self.first_byte),
            ("transaction_from_schedule", &self.transaction_from_schedule),
            ("transaction", &self.transaction),
            ("close", &self.close),
        ]
    }
}

/// Frames within the span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Packets {
    /// Sent.
    pub tx: Option<u64>,
    /// Received.
    pub rx: Option<u64>,
    /// Sent per connection completed.
    pub tx_per_connection: Option<f64>,
    /// Received per connection completed.
    pub rx_per_connection: Option<f64>,
    /// Segments sent again.
    pub retransmitted: Option<u64>,
    /// Received with just the pseudo-header sum for a checksum, from a kernel on the same machine.
    pub partial_checksum: Option<u64>,
    /// Received and not used, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// Calls of the operating system on the data path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Syscalls {
    /// Calls that asked the kernel to move frames.
    pub doorbells: Option<u64>,
    /// Doorbells per frame sent or received.
    pub per_packet: Option<f64>,
}

/// Octets of memory at the end of the span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// The block and the share of the index of one idle connection.
    pub bytes_per_idle_connection: Option<f64>,
    /// The flow table of all workers.
    pub flow_table_bytes: Option<u64>,
    /// Resident set of the process, huge pages that it has reserved included.
    pub rss_bytes: Option<u64>,
    /// Growth of the resident set since before the first connection ÷ connections open, at the time when most were; `null`
    /// below 10,000, as it is all that the process has grown by.
    pub bytes_per_connection_rss: Option<f64>,
}

/// One worker within the span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReport {
    /// Its core.
    pub core: Option<u32>,
    /// Share of its time spent in loops that moved a frame or fired a timer.
    pub busy_ratio: Option<f64>,
    /// Share of its core's time that the kernel spent in softirqs.
    pub softirq_ratio: Option<f64>,
    /// Length of one loop, 99.9th percentile.
    pub poll_p99_9_us: Option<f64>,
    /// Length of the longest loop.
    pub poll_max_us: Option<f64>,
    /// Frames received.
    pub rx: Option<u64>,
    /// Frames sent.
    pub tx: Option<u64>,
    /// Frames handed to the worker that owns their flow.
    pub handed_over: Option<u64>,
    /// Frames that came to a worker that does not own their flow.
    pub wrong_core: Option<u64>,
}

/// The figures of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseReport {
    /// `init`, `ramp`, `sustain` or `drain`.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Its figures.
    #[serde(flatten)]
    pub blocks: Blocks,
}

/// The figures of a second, or of several in a long run: a report has at most 300 of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IntervalReport {
    /// When it began, seconds since the start of the run.
    pub at_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// The phase it belongs to.
    pub phase: String,
    /// Its figures.
    #[serde(flatten)]
    pub blocks: Blocks,
    /// The extremes of the seconds in it, if it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// The extremes of the seconds within an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// The lowest rate of connections completed, per second.
    pub achieved_cps_min: Option<f64>,
    /// The highest.
    pub achieved_cps_max: Option<f64>,
    /// The fewest connections open at the end of a second.
    pub open_min: Option<u64>,
    /// The most.
    pub open_max: Option<u64>,
}

/// The figures of a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetReport {
    /// Address and port; in a mix, with the profile before it.
    pub target: String,
    /// Connections to it, where they were counted apart.
    pub connections: Connections,
}

/// A criterion of RFC 9411 after the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CriterionResult {
    /// `failed_transactions`, `unexpected_resets`, `rate_deviation` or `held_deviation`.
    pub name: String,
    /// It passes below this share.
    pub limit: f64,
    /// What was measured.
    pub value: Option<f64>,
    /// Whether it is fulfilled; `null` if it was not measured: a sustain phase of less than two seconds.
    pub pass: Option<bool>,
}

/// A search for the highest value whose thresholds hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchReport {
    /// `rate` (connections per second) or `connections` (at a time).
    pub what: String,
    /// The highest value that held, twice; `null` if none did.
    pub best: Option<u64>,
    /// The lowest value above it that did not hold; `null` if the end of the range was reached.
    pub above: Option<u64>,
    /// What ended the search: `target`, `generator`, `range` (the highest value allowed held) or `interrupted`.
    pub ended_by: String,
    /// Every run, in order.
    pub steps: Vec<SearchStep>,
}

/// One run of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchStep {
    /// The value tried.
    pub value: u64,
    /// Whether it held.
    pub pass: bool,
    /// Whether it is the repetition of one that held.
    pub repeat: bool,
    /// The verdict of the run.
    pub verdict: Verdict,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// Connections completed per second.
    pub achieved_cps: Option<f64>,
    /// Most connections open at once.
    pub held_max: Option<u64>,
    /// The 99th percentile from SYN, or from when it was due, to SYN-ACK, microseconds.
    pub connect_p99_us: Option<u64>,
}

/// The figures of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageReport {
    /// Its number, from 1.
    pub stage: u32,
    /// How long it took.
    pub seconds: f64,
    /// The rate at its beginning, per second.
    pub from_cps: f64,
    /// The rate at its end.
    pub to_cps: f64,
    /// Its figures.
    #[serde(flatten)]
    pub blocks: Blocks,
}

/// What a generator's addresses and ports allow, whatever the target does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SupplyReport {
    /// Connections at once: pairs of address and port towards each target.
    pub connections_max: u64,
    /// How long a pair rests after its connection; 0 if it does not, or if that is up to the target.
    pub time_wait_s: f64,
    /// Connections per second that can go on for ever; `null` if pairs do not rest.
    pub rate_max_cps: Option<f64>,
}

/// An answer that was hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransferReport {
    /// Address and port.
    pub target: String,
    /// Octets of the answer's body.
    pub octets: u64,
    /// Their SHA-256, hexadecimal.
    pub sha256: String,
}

/// Cookies of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SynCookies {
    /// SYN-ACKs with a cookie.
    pub sent: Option<u64>,
    /// ACKs that brought a good one back.
    pub accepted: Option<u64>,
    /// ACKs that brought a bad or stale one.
    pub rejected: Option<u64>,
}

/// The SYN cache of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SynCache {
    /// Records at the end.
    pub entries: Option<u64>,
    /// Most records it may have.
    pub limit: Option<u64>,
    /// Records given up for lack of room.
    pub evicted: Option<u64>,
    /// Records that no ACK came for in time.
    pub expired: Option<u64>,
}

/// A SYN flood, all targets together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SynFlood {
    /// SYNs per second that were asked for; `null` if it was as many as go.
    pub offered_per_s: Option<f64>,
    /// SYNs per second that the device took.
    pub sent_per_s: Option<f64>,
    /// SYNs that the device took.
    pub syns: Option<u64>,
    /// Addresses that sources were drawn from, at most 2⁶⁴ − 1.
    pub sources: Option<u64>,
    /// SYN-ACKs that came back.
    pub syn_acks: Option<u64>,
    /// RSTs that came back.
    pub resets: Option<u64>,
    /// ICMP errors that came back.
    pub icmp_errors: Option<u64>,
    /// Other segments that came back from a target.
    pub others: Option<u64>,
    /// SYN-ACKs and RSTs ÷ SYNs.
    pub answered_ratio: Option<f64>,
}

/// The bare device path of a test bed, counted at the receivers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Raw {
    /// Frames per second, both directions together.
    pub frames_per_s: Option<f64>,
    /// Frames per second, the mean of the directions.
    pub one_way_frames_per_s: Option<f64>,
    /// Bits of frames per second, both directions together.
    pub bits_per_s: Option<f64>,
    /// Octets of one frame.
    pub frame_bytes: Option<u32>,
    /// `native` or `skb`.
    pub mode: Option<String>,
    /// Calls that asked the kernel to move frames.
    pub doorbells: Option<u64>,
}
