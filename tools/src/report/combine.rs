//! Adding figures up: of spans of time that follow each other, or of generators that ran side by side.

use std::collections::BTreeMap;

use super::blocks::ratio;
use super::latency::LatencySummary;
use super::model::{Blocks, Connections, Failures, Latencies, Memory, Packets, Rates, Syscalls, WorkerReport};
use super::verdict::causes;

/// How the spans that are added lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// One after the other, of the same workers: levels are those of the last, rates are the mean.
    Then,
    /// At the same time, of different generators: levels and rates add up.
    Beside,
}

/// One span: its length in seconds and its figures.
pub type Part<'a> = (f64, &'a Blocks);

/// The figures of all `parts`, counts and histograms exactly. Of what cannot be added it takes the worst: the most
/// connections held at once side by side is the sum of each part's most, the longest loop that of all.
pub fn combine(relation: Relation, parts: &[Part<'_>]) -> Blocks {
    let sum = Sum { relation, parts };
    let connections = sum.connections();
    let packets = sum.packets(connections.completed);
    let syscalls = sum.syscalls(&packets);
    Blocks {
        rate: sum.rates(),
        latency_us: sum.latencies(),
        memory: sum.memory(),
        workers: sum.workers(),
        connections,
        packets,
        syscalls,
    }
}

struct Sum<'a> {
    relation: Relation,
    parts: &'a [Part<'a>],
}

impl Sum<'_> {
    fn values<T>(&self, figure: impl Fn(&Blocks) -> Option<T>) -> impl Iterator<Item = T> {
        self.parts.iter().filter_map(move |(_, blocks)| figure(blocks))
    }

    /// The sum of what was measured; `None` if nothing was.
    fn count(&self, figure: impl Fn(&Blocks) -> Option<u64>) -> Option<u64> {
        self.values(figure).reduce(|sum, value| sum + value)
    }

    /// A level at the end.
    fn level(&self, figure: impl Fn(&Blocks) -> Option<u64>) -> Option<u64> {
        match self.relation {
            Relation::Then => self.values(figure).last(),
            Relation::Beside => self.count(figure),
        }
    }

    /// Events per second.
    fn rate(&self, figure: impl Fn(&Blocks) -> Option<f64>) -> Option<f64> {
        match self.relation {
            Relation::Then => mean(self.parts.iter().map(|(seconds, blocks)| (*seconds, figure(blocks)))),
            Relation::Beside => self.values(figure).reduce(|sum, value| sum + value),
        }
    }

    /// A figure of one connection, weighted by how many there were.
    fn per_connection(&self, figure: impl Fn(&Blocks) -> Option<f64>) -> Option<f64> {
        match self.relation {
            Relation::Then => self.values(figure).last(),
            Relation::Beside => mean(self.parts.iter().map(|(_, blocks)| {
                let held = blocks.connections.held_max.unwrap_or(0);
                (held as f64, figure(blocks))
            })),
        }
    }

    fn connections(&self) -> Connections {
        let failed = |figure: fn(&Failures) -> Option<u64>| self.count(|blocks| figure(&blocks.connections.failed));
        let failed = Failures {
            refused: failed(|failed| failed.refused),
            reset: failed(|failed| failed.reset),
            syn_timeout: failed(|failed| failed.syn_timeout),
            data_timeout: failed(|failed| failed.data_timeout),
            icmp: failed(|failed| failed.icmp),
            early_fin: failed(|failed| failed.early_fin),
            bad_response: failed(|failed| failed.bad_response),
            local_ports: failed(|failed| failed.local_ports),
            local_memory: failed(|failed| failed.local_memory),
            launch_dropped: failed(|failed| failed.launch_dropped),
            other: failed(|failed| failed.other),
        };
        let attempted = self.count(|blocks| blocks.connections.attempted);
        let failed_total = causes(&failed).iter().map(|(_, count)| count).sum();
        Connections {
            attempted,
            established: self.count(|blocks| blocks.connections.established),
            completed: self.count(|blocks| blocks.connections.completed),
            open_at_end: self.level(|blocks| blocks.connections.open_at_end),
            held_max: match self.relation {
                Relation::Then => self.values(|blocks| blocks.connections.held_max).max(),
                Relation::Beside => self.count(|blocks| blocks.connections.held_max),
            },
            time_wait_at_end: self.level(|blocks| blocks.connections.time_wait_at_end),
            syn_retransmitted: self.count(|blocks| blocks.connections.syn_retransmitted),
            failed_ratio: ratio(failed_total, attempted.unwrap_or(0)),
            failed,
        }
    }

    fn rates(&self) -> Rates {
        Rates {
            offered_cps: self.rate(|blocks| blocks.rate.offered_cps),
            burst_max: self.values(|blocks| blocks.rate.burst_max).max(),
            achieved_cps: self.rate(|blocks| blocks.rate.achieved_cps),
            requests_per_s: self.rate(|blocks| blocks.rate.requests_per_s),
            tx_bits_per_s: self.rate(|blocks| blocks.rate.tx_bits_per_s),
            rx_bits_per_s: self.rate(|blocks| blocks.rate.rx_bits_per_s),
        }
    }

    fn latencies(&self) -> Latencies {
        let merged = |stage: fn(&Latencies) -> &LatencySummary| {
            LatencySummary::merged(self.parts.iter().map(|(_, blocks)| stage(&blocks.latency_us)))
        };
        Latencies {
            schedule_delay: merged(|latencies| &latencies.schedule_delay),
            connect_from_schedule: merged(|latencies| &latencies.connect_from_schedule),
            connect: merged(|latencies| &latencies.connect),
            first_byte: merged(|latencies| &latencies.first_byte),
            transaction_from_schedule: merged(|latencies| &latencies.transaction_from_schedule),
            transaction: merged(|latencies| &latencies.transaction),
            close: merged(|latencies| &latencies.close),
        }
    }

    fn packets(&self, completed: Option<u64>) -> Packets {
        let (tx, rx) = (self.count(|blocks| blocks.packets.tx), self.count(|blocks| blocks.packets.rx));
        let mut dropped = BTreeMap::new();
        for (_, blocks) in self.parts {
            for (reason, count) in &blocks.packets.dropped {
                *dropped.entry(reason.clone()).or_default() += count;
            }
        }
        let per_connection = |frames: Option<u64>| frames.and_then(|frames| ratio(frames, completed.unwrap_or(0)));
        Packets {
            tx,
            rx,
            tx_per_connection: per_connection(tx),
            rx_per_connection: per_connection(rx),
            retransmitted: self.count(|blocks| blocks.packets.retransmitted),
            partial_checksum: self.count(|blocks| blocks.packets.partial_checksum),
            dropped,
        }
    }

    fn syscalls(&self, packets: &Packets) -> Syscalls {
        let doorbells = self.count(|blocks| blocks.syscalls.doorbells);
        let moved = packets.tx.unwrap_or(0) + packets.rx.unwrap_or(0);
        Syscalls { doorbells, per_packet: doorbells.and_then(|doorbells| ratio(doorbells, moved)) }
    }

    fn memory(&self) -> Memory {
        Memory {
            bytes_per_idle_connection: self.per_connection(|blocks| blocks.memory.bytes_per_idle_connection),
            flow_table_bytes: self.level(|blocks| blocks.memory.flow_table_bytes),
            rss_bytes: self.level(|blocks| blocks.memory.rss_bytes),
            bytes_per_connection_rss: self.per_connection(|blocks| blocks.memory.bytes_per_connection_rss),
        }
    }

    fn workers(&self) -> Vec<WorkerReport> {
        if self.relation == Relation::Beside {
            return self.parts.iter().flat_map(|(_, blocks)| blocks.workers.iter().cloned()).collect();
        }
        let most = self.parts.iter().map(|(_, blocks)| blocks.workers.len()).max().unwrap_or(0);
        (0..most).map(|index| self.worker(index)).collect()
    }

    /// One worker in spans that follow each other.
    fn worker(&self, index: usize) -> WorkerReport {
        let parts = || {
            self.parts.iter().filter_map(|(seconds, blocks)| blocks.workers.get(index).map(|worker| (*seconds, worker)))
        };
        let count = |figure: fn(&WorkerReport) -> Option<u64>| {
            parts().filter_map(|(_, worker)| figure(worker)).reduce(|a, b| a + b)
        };
        let share =
            |figure: fn(&WorkerReport) -> Option<f64>| mean(parts().map(|(seconds, worker)| (seconds, figure(worker))));
        let most = |figure: fn(&WorkerReport) -> Option<f64>| {
            parts().filter_map(|(_, worker)| figure(worker)).reduce(f64::max)
        };
        WorkerReport {
            core: parts().find_map(|(_, worker)| worker.core),
            busy_ratio: share(|worker| worker.busy_ratio),
            softirq_ratio: share(|worker| worker.softirq_ratio),
            poll_p99_9_us: most(|worker| worker.poll_p99_9_us),
            poll_max_us: most(|worker| worker.poll_max_us),
            rx: count(|worker| worker.rx),
            tx: count(|worker| worker.tx),
            handed_over: count(|worker| worker.handed_over),
            wrong_core: count(|worker| worker.wrong_core),
        }
    }
}

/// The mean of what was measured, by weight.
fn mean(values: impl Iterator<Item = (f64, Option<f64>)>) -> Option<f64> {
    let known = values.filter_map(|(weight, value)| Some((weight, weight * value?)));
    let (weight, total) = known.fold((0.0, 0.0), |(weights, total), (weight, value)| (weights + weight, total + value));
    (weight > 0.0).then(|| total / weight)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::{Failure, Stage};
    use crate::report::blocks::{Detail, Levels, Span, Traffic};

    /// A span of which part `index` of `of` happened, one second long.
    fn span(index: u64, of: u64, seconds: u64) -> Span {
        let mut span = Span { length: Duration::from_secs(seconds), ..Span::default() };
        for i in (index..6_000).step_by(of as usize) {
            span.measures.tally.attempted += 1;
            span.measures.record(Stage::Connect, Duration::from_micros(i * i % 90_001));
            if i % 60 == 0 {
                span.measures.tally.fail(Failure::Reset);
            } else {
                span.measures.tally.completed += 1;
                span.traffic.add(&Traffic { tx_frames: 4, rx_frames: 3, tx_bytes: 500, ..Traffic::default() });
            }
        }
        span.levels = Levels { open: 10 * (index + 1), held_max: 20, ..Levels::default() };
        span.workers = vec![WorkerReport { busy_ratio: Some(0.25 * (index + 1) as f64), ..WorkerReport::default() }];
        span
    }

    #[test]
    fn spans_in_a_row_are_the_whole_span() {
        let whole = span(0, 1, 3).blocks(Detail::Full);
        let parts = [0, 1, 2].map(|index| span(index, 3, 1).blocks(Detail::Full));
        let sum = combine(Relation::Then, &parts.each_ref().map(|blocks| (1.0, blocks)));
        assert_eq!(sum.latency_us, whole.latency_us);
        assert_eq!(sum.connections.failed, whole.connections.failed);
        assert_eq!(sum.connections.failed_ratio, whole.connections.failed_ratio);
        assert_eq!(sum.packets, whole.packets);
        assert!((sum.rate.achieved_cps.unwrap() - whole.rate.achieved_cps.unwrap()).abs() < 1e-6);
        assert_eq!((sum.connections.open_at_end, sum.connections.held_max), (Some(30), Some(20)));
        assert_eq!(sum.workers.len(), 1);
        assert!((sum.workers[0].busy_ratio.unwrap() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn generators_side_by_side_add_up() {
        let whole = span(0, 1, 1).blocks(Detail::Full);
        let parts = [0, 1, 2, 3].map(|index| span(index, 4, 1).blocks(Detail::Full));
        let sum = combine(Relation::Beside, &parts.each_ref().map(|blocks| (1.0, blocks)));
        assert_eq!(sum.latency_us, whole.latency_us);
        assert_eq!(sum.connections.attempted, whole.connections.attempted);
        assert_eq!(sum.packets, whole.packets);
        assert!((sum.rate.tx_bits_per_s.unwrap() - whole.rate.tx_bits_per_s.unwrap()).abs() < 1e-6);
        assert_eq!((sum.connections.open_at_end, sum.connections.held_max), (Some(100), Some(80)));
        assert_eq!(sum.workers.len(), 4);
    }

    #[test]
    fn what_nobody_measured_stays_unknown() {
        let blank = Blocks::default();
        assert_eq!(combine(Relation::Then, &[(1.0, &blank), (1.0, &blank)]), blank);
        assert_eq!(combine(Relation::Beside, &[(1.0, &blank), (1.0, &blank)]), blank);
    }
}
