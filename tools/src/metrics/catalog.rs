//! Every metric there is: its name, what it counts, its labels, and where its values come from.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use syncline_engine::stats::Stats;

use super::totals::{BOUNDS_S, Buckets};
use super::{Source, locked};
use crate::host;
use crate::load::Phase;
use crate::measure::Failure;

/// A metric, under one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without the suffix that unit and kind add.
    pub(super) stem: String,
    /// What it counts.
    pub help: String,
    /// What kind of number it is.
    pub kind: MetricType,
    /// Its unit.
    pub unit: Option<Unit>,
    /// Its labels.
    pub labels: &'static [&'static str],
    pub(super) samples: Vec<Sample>,
}

/// One value of a family.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// As many as the family has labels.
    pub(super) labels: Vec<String>,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
    Times(Box<Buckets>),
}

/// Counters of the engine that are levels: they go down, too.
const LEVELS: [&str; 6] =
    ["syn_flood_now", "neighbors_now", "connections", "syn_received_now", "time_wait_now", "table_bytes"];

/// Stages of a connection, as the report names them, in the order of [`Stage`](crate::measure::Stage).
const STAGES: [&str; 7] = [
    "schedule_delay",
    "connect_from_schedule",
    "connect",
    "first_byte",
    "transaction_from_schedule",
    "transaction",
    "close",
];

const PHASES: [Phase; 5] = [Phase::Init, Phase::Ramp, Phase::Sustain, Phase::Drain, Phase::Done];

impl Family {
    fn new(kind: MetricType, stem: &str, labels: &'static [&'static str], help: &str) -> Self {
        let units = [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds)];
        let unit = units.into_iter().find_map(|(suffix, unit)| Some((stem.strip_suffix(suffix)?, unit)));
        let (stem, unit) = unit.map_or((stem, None), |(stem, unit)| (stem, Some(unit)));
        // Help is one line: what follows the first sentence of a longer text is for the sources.
        let help = help.trim_end_matches('.').replace('\n', "");
        Self { stem: stem.into(), help, kind, unit, labels, samples: Vec::new() }
    }

    fn with(mut self, samples: impl IntoIterator<Item = (Vec<String>, Value)>) -> Self {
        self.samples = samples.into_iter().map(|(labels, value)| Sample { labels, value }).collect();
        self
    }

    /// Its name with its unit.
    pub fn name(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{}_{}", self.stem, unit.as_str()),
            None => self.stem.clone(),
        }
    }

    /// The names that its samples have.
    pub fn sample_names(&self) -> Vec<String> {
        let name = self.name();
        match self.kind {
            MetricType::Counter => vec![name + "_total"],
            MetricType::Info => vec![name + "_info"],
            MetricType::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).into(),
            MetricType::Gauge | MetricType::Unknown => vec![name],
        }
    }
}

/// Every metric that this program can have, without a value.
pub fn catalog() -> Vec<Family> {
    let source = Source { command: "load", ..Source::default() };
    families(&source)
}

/// Every metric, with the values of now. One without a value is not shown.
pub(super) fn families(source: &Source) -> Vec<Family> {
    let version = vec![env!("CARGO_PKG_VERSION").to_owned(), source.command.to_owned()];
    let rss = host::rss_bytes().map(|bytes| (Vec::new(), Value::Whole(bytes)));
    let mut families = vec![
        Family::new(MetricType::Info, "syncline_build", &["version", "command"], "The program and what it does")
            .with([(version, Value::Whole(1))]),
        Family::new(MetricType::Gauge, "process_resident_memory_bytes", &[], "Resident set of the process").with(rss),
    ];
    families.extend(load(source));
    families.extend(servers(source));
    families.extend(workers(source));
    families.extend(engine(source));
    families
}

fn load(source: &Source) -> Vec<Family> {
    let totals = locked(&source.load).clone();
    let counter = |name: &str, help: &str, count: Option<u64>| {
        let sample = count.map(|count| (Vec::new(), Value::Whole(count)));
        Family::new(MetricType::Counter, &format!("syncline_load_{name}"), &[], help).with(sample)
    };
    let of = |count: fn(&crate::measure::Tally) -> u64| totals.as_ref().map(|totals| count(&totals.tally));
    let gauge = |name: &str, help: &str, value: Option<Value>| {
        let sample = value.map(|value| (Vec::new(), value));
        Family::new(MetricType::Gauge, &format!("syncline_load_{name}"), &[], help).with(sample)
    };
    let offered = totals.as_ref().and_then(|totals| totals.offered_cps).map(Value::Real);
    let phases = totals.iter().flat_map(|totals| {
        PHASES.map(|phase| (vec![phase.name().to_owned()], Value::Whole(u64::from(phase == totals.phase))))
    });
    let failed = totals.iter().flat_map(|totals| {
        Failure::ALL.map(|cause| (vec![cause.name().to_owned()], Value::Whole(totals.tally.failed[cause as usize])))
    });
    let latency = totals.iter().flat_map(|totals| {
        let stages = STAGES.into_iter().zip(&totals.latency);
        stages.map(|(stage, buckets)| (vec![stage.to_owned()], Value::Times(Box::new(buckets.clone()))))
    });
    let bounds = format!("{} buckets from 10 µs to a minute", BOUNDS_S.len());
    vec![
        gauge("offered_connections_per_second", "Rate that is asked for, the mean of all stages", offered),
        Family::new(MetricType::Gauge, "syncline_load_phase", &["phase"], "1 for the phase that the run is in")
            .with(phases),
        gauge("open_connections", "Connections open", totals.as_ref().map(|totals| Value::Whole(totals.open()))),
        counter("connections_attempted", "Connections launched", of(|tally| tally.attempted)),
        counter("connections_established", "Handshakes completed", of(|tally| tally.established)),
        counter(
            "connections_completed",
            "Connections that did all they were to do and closed cleanly",
            of(|tally| tally.completed),
        ),
        Family::new(
            MetricType::Counter,
            "syncline_load_connections_failed",
            &["cause"],
            "Connections that failed, by cause; local_ports, local_memory and launch_dropped are the generator's own",
        )
        .with(failed),
        counter(
            "connections_syn_retransmitted",
            "Connections that needed their SYN more than once",
            of(|tally| tally.syn_retransmitted),
        ),
        counter("requests", "Requests answered in full", of(|tally| tally.requests)),
        counter(
            "held_back",
            "Launches and requests that waited for room among the connections in flight",
            totals.as_ref().map(|totals| totals.held_back),
        ),
        Family::new(
            MetricType::Histogram,
            "syncline_load_latency_seconds",
            &["stage"],
            &format!("Times by stage of a connection, {bounds}; those from_schedule count from when it was due"),
        )
        .with(latency),
    ]
}

fn servers(source: &Source) -> Vec<Family> {
    let servers = locked(&source.servers).clone();
    let sum = |count: fn(&crate::apps::ServerCounters) -> u64| {
        let sum: u64 = servers.iter().map(|counters| count(counters)).sum();
        (!servers.is_empty()).then_some((Vec::new(), Value::Whole(sum)))
    };
    vec![
        Family::new(
            MetricType::Counter,
            "syncline_serve_connections_completed",
            &[],
            "Connections served to their end",
        )
        .with(sum(|counters| counters.completed.get())),
        Family::new(MetricType::Counter, "syncline_serve_requests", &[], "Requests answered")
            .with(sum(|counters| counters.requests.get())),
    ]
}

fn workers(source: &Source) -> Vec<Family> {
    let members = locked(&source.members).clone();
    let readings: Vec<_> = members.iter().map(|member| (member.core, member.gauges.read())).collect();
    type Read = fn(&crate::run::Reading) -> u64;
    let device: [(&str, &str, Read); 8] = [
        ("rx_frames", "Frames that the device received", |reading| reading.device.rx_frames),
        ("rx_bytes", "Octets that the device received", |reading| reading.device.rx_bytes),
        ("tx_frames", "Frames that the device sent", |reading| reading.device.tx_frames),
        ("tx_bytes", "Octets that the device sent", |reading| reading.device.tx_bytes),
        ("rx_dropped_frames", "Frames lost before the engine saw them", |reading| reading.device.rx_dropped),
        ("tx_dropped_frames", "Frames that the device did not send", |reading| reading.device.tx_dropped),
        ("tx_full", "Times that the transmit ring was full", |reading| reading.device.tx_full),
        ("doorbells", "Calls that asked the kernel to move frames", |reading| reading.device.doorbells),
    ];
    let by_worker = |value: &dyn Fn(&crate::run::Reading) -> Value| -> Vec<(Vec<String>, Value)> {
        let sample =
            |(index, (_, reading)): (usize, &(_, crate::run::Reading))| (vec![index.to_string()], value(reading));
        readings.iter().enumerate().map(sample).collect()
    };
    let mut families: Vec<_> = device
        .into_iter()
        .map(|(name, help, read)| {
            let name = format!("syncline_device_{name}");
            let samples = by_worker(&|reading| Value::Whole(read(reading)));
            Family::new(MetricType::Counter, &name, &["worker"], help).with(samples)
        })
        .collect();
    let busy = readings.iter().enumerate().map(|(index, (core, reading))| {
        let core = core.map_or_else(|| "any".to_owned(), |core| core.to_string());
        (vec![index.to_string(), core], Value::Real(reading.busy().as_secs_f64()))
    });
    let longest = by_worker(&|reading| Value::Real(reading.loop_max().unwrap_or_default().as_secs_f64()));
    families.extend([
        Family::new(
            MetricType::Counter,
            "syncline_worker_busy_seconds",
            &["worker", "core"],
            "Time in passes of the loop that moved a frame or fired a timer",
        )
        .with(busy),
        Family::new(
            MetricType::Gauge,
            "syncline_worker_longest_loop_seconds",
            &["worker"],
            "Length of the longest pass of the loop",
        )
        .with(longest),
    ]);
    families
}

fn engine(source: &Source) -> Vec<Family> {
    let members = locked(&source.members).clone();
    // The names are those of any set of counters.
    let names: Vec<_> = Stats::default().entries().map(|(name, help, _)| (name, help)).collect();
    let values: Vec<Vec<u64>> =
        members.iter().map(|member| member.stats.entries().map(|(_, _, value)| value).collect()).collect();
    let family = |(entry, (name, help)): (usize, (&str, &str))| {
        let kind = if LEVELS.contains(&name) { MetricType::Gauge } else { MetricType::Counter };
        let samples = values.iter().enumerate().map(|(index, row)| (vec![index.to_string()], Value::Whole(row[entry])));
        Family::new(kind, &format!("syncline_engine_{name}"), &["worker"], help).with(samples)
    };
    let mut families: Vec<_> = names.into_iter().enumerate().map(family).collect();
    let dropped = members.iter().enumerate().flat_map(|(index, member)| {
        let sample = move |(reason, count): (syncline_engine::wire::DropReason, u64)| {
            (vec![index.to_string(), reason.name().to_owned()], Value::Whole(count))
        };
        member.stats.dropped.nonzero().map(sample).collect::<Vec<_>>()
    });
    families.push(
        Family::new(
            MetricType::Counter,
            "syncline_engine_dropped_frames",
            &["worker", "reason"],
            "Frames received and not used, by reason",
        )
        .with(dropped),
    );
    families
}

/// The names of all levels are names of counters.
#[cfg(test)]
pub(super) fn levels_are_known() -> bool {
    let stats = Stats::default();
    LEVELS.iter().all(|level| stats.entries().any(|(name, ..)| name == *level))
}
