//! What a driver tells about its worker: one writer, readable by anyone.

use std::time::Duration;

use syncline_engine::device::DeviceCounters;
use syncline_engine::stats::Counter;

/// Buckets per power of two: a length is known to an eighth.
const SUB_BUCKETS: usize = 8;

/// Powers of two of nanoseconds told apart: up to 2³⁵ ns, half a minute.
const OCTAVES: usize = 36;

const BUCKETS: usize = OCTAVES * SUB_BUCKETS;

/// Counters of a worker's driver.
#[derive(Debug)]
#[repr(align(128))]
pub struct Gauges {
    busy_nanos: Counter,
    loop_max_nanos: Counter,
    loops: Box<[Counter; BUCKETS]>,
    device: [Counter; 8],
    table_bytes: Counter,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            busy_nanos: Counter::default(),
            loop_max_nanos: Counter::default(),
            loops: Box::new(std::array::from_fn(|_| Counter::default())),
            device: Default::default(),
            table_bytes: Counter::default(),
        }
    }
}

/// The bucket of a length, by its three bits below the highest.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(SUB_BUCKETS as u64);
    let octave = nanos.ilog2() as usize;
    let sub = (nanos >> (octave - 3)) as usize & (SUB_BUCKETS - 1);
    (octave * SUB_BUCKETS + sub).min(BUCKETS - 1)
}

/// The shortest length that belongs to the bucket after `bucket`.
fn bucket_end(bucket: usize) -> u64 {
    let (octave, sub) = (bucket / SUB_BUCKETS, bucket % SUB_BUCKETS);
    ((SUB_BUCKETS + sub + 1) as u64) << octave >> 3
}

impl Gauges {
    /// Counts one pass of the loop that did something.
    #[inline]
    pub fn busy(&self, length: Duration) {
        let nanos = length.as_nanos() as u64;
        self.busy_nanos.add(nanos);
        self.loops[bucket(nanos)].increment();
        if nanos > self.loop_max_nanos.get() {
            self.loop_max_nanos.set(nanos);
        }
    }

    /// Publishes the device's counters and the octets of the worker's tables.
    pub fn publish(&self, counters: &DeviceCounters, table_bytes: u64) {
        self.table_bytes.set(table_bytes);
        for (gauge, value) in self.device.iter().zip(to_array(counters)) {
            gauge.set(value);
        }
    }

    /// Octets of the worker's tables, as last published.
    pub fn table_bytes(&self) -> u64 {
        self.table_bytes.get()
    }

    /// Everything as it is now.
    pub fn read(&self) -> Reading {
        Reading {
            busy_nanos: self.busy_nanos.get(),
            loop_max_nanos: self.loop_max_nanos.get(),
            loops: self.loops.iter().map(Counter::get).collect(),
            device: from_array(std::array::from_fn(|index| self.device[index].get())),
        }
    }
}

/// What the gauges showed at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    busy_nanos: u64,
    loop_max_nanos: u64,
    loops: Vec<u64>,
    /// The device's counters since it was opened.
    pub device: DeviceCounters,
}

impl Reading {
    /// Time in busy loops since the start.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_nanos)
    }

    /// Time in busy loops since `earlier`.
    pub fn busy_since(&self, earlier: &Self) -> Duration {
        Duration::from_nanos(self.busy_nanos.saturating_sub(earlier.busy_nanos))
    }

    /// Length of the longest busy loop since the start.
    pub fn loop_max(&self) -> Option<Duration> {
        (self.loop_max_nanos > 0).then(|| Duration::from_nanos(self.loop_max_nanos))
    }

    /// The length that a share `quantile` of the busy loops since `earlier` did not exceed, to an eighth.
    pub fn loop_quantile_since(&self, earlier: &Self, quantile: f64) -> Option<Duration> {
        let before = |index: usize| earlier.loops.get(index).copied().unwrap_or(0);
        let counts: Vec<_> = self.loops.iter().enumerate().map(|(i, n)| n.saturating_sub(before(i))).collect();
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(bucket_end(found)))
    }
}

fn to_array(counters: &DeviceCounters) -> [u64; 8] {
    let DeviceCounters { rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped, tx_full, doorbells } =
        *counters;
    [rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped, tx_full, doorbells]
}

fn from_array(values: [u64; 8]) -> DeviceCounters {
    let [rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped, tx_full, doorbells] = values;
    DeviceCounters { rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped, tx_full, doorbells }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for nanos in (8..20_000).chain([1 << 20, (1 << 34) + 12_345]) {
            let bucket = bucket(nanos);
            assert!(nanos < bucket_end(bucket), "{nanos}");
            assert!(bucket_end(bucket - 1) <= nanos, "{nanos}");
            assert!(bucket_end(bucket) as f64 <= nanos as f64 * 1.13 + 1.0, "{nanos}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(0), bucket(8));
    }

    #[test]
    fn quantiles_of_a_span() {
        let gauges = Gauges::default();
        gauges.busy(Duration::from_millis(50));
        let early = gauges.read();
        (0..998).for_each(|_| gauges.busy(Duration::from_micros(10)));
        (0..2).for_each(|_| gauges.busy(Duration::from_millis(1)));
        let late = gauges.read();
        let median = late.loop_quantile_since(&early, 0.5).unwrap();
        assert!(median >= Duration::from_micros(10) && median < Duration::from_micros(12), "{median:?}");
        assert!(late.loop_quantile_since(&early, 0.999).unwrap() >= Duration::from_millis(1));
        assert_eq!(late.busy_since(&early), Duration::from_micros(9_980 + 2_000));
        assert_eq!(late.loop_max(), Some(Duration::from_millis(50)));
        assert_eq!(late.loop_quantile_since(&late, 0.5), None);
    }

    #[test]
    fn device_counters_pass_through() {
        let counters = DeviceCounters { rx_frames: 1, tx_full: 2, doorbells: 3, ..DeviceCounters::default() };
        let gauges = Gauges::default();
        gauges.publish(&counters, 4);
        assert_eq!((gauges.read().device, gauges.table_bytes()), (counters, 4));
    }
}
