//! One stage's times as the report carries them: percentiles, and the histogram itself so that runs can be merged.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::Latency;

/// Microseconds, from a histogram of three digits. All `null` but `count` where nothing was recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencySummary {
    /// Times recorded.
    pub count: Option<u64>,
    /// The shortest, µs.
    pub min: Option<u64>,
    /// The median, µs.
    pub p50: Option<u64>,
    /// The 90th percentile, µs.
    pub p90: Option<u64>,
    /// The 95th percentile, µs.
    pub p95: Option<u64>,
    /// The 99th percentile, µs.
    pub p99: Option<u64>,
    /// The 99.9th percentile, µs.
    pub p99_9: Option<u64>,
    /// The longest, µs.
    pub max: Option<u64>,
    /// The mean, µs.
    pub mean: Option<f64>,
    /// The histogram: HdrHistogram V2, compressed with DEFLATE, in base64.
    pub hdr: Option<String>,
}

impl LatencySummary {
    /// Percentiles only.
    pub fn summarise(latency: &Latency) -> Self {
        Self::of(latency.histogram())
    }

    /// Percentiles and the histogram.
    pub fn encode(latency: &Latency) -> Self {
        Self::with_histogram(latency.histogram())
    }

    fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self { count: Some(0), ..Self::default() };
        }
        let at = |quantile| Some(histogram.value_at_quantile(quantile));
        Self {
            count: Some(histogram.len()),
            min: Some(histogram.min()),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Some(histogram.max()),
            mean: Some(histogram.mean()),
            hdr: None,
        }
    }

    fn with_histogram(histogram: &Histogram<u64>) -> Self {
        let mut octets = Vec::new();
        let encoded = V2DeflateSerializer::new().serialize(histogram, &mut octets);
        let hdr = encoded.ok().filter(|_| !histogram.is_empty()).map(|_| BASE64_STANDARD.encode(&octets));
        Self { hdr, ..Self::of(histogram) }
    }

    /// The histogram, if there is one and it can be read.
    pub fn histogram(&self) -> Option<Histogram<u64>> {
        let octets = BASE64_STANDARD.decode(self.hdr.as_deref()?).ok()?;
        Deserializer::new().deserialize(&mut octets.as_slice()).ok()
    }

    /// Whether times were recorded that cannot be added to others: their histogram is missing or damaged.
    pub fn is_opaque(&self) -> bool {
        self.count.unwrap_or(0) > 0 && self.histogram().is_none()
    }

    /// The times of all `parts` together, exactly. Where the histogram of a part is missing, what follows from the
    /// summaries alone: no percentiles.
    pub fn merged<'a>(parts: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let recorded = || parts.clone().filter(|part| part.count.unwrap_or(0) > 0);
        let mut others = recorded();
        match (others.next(), others.next()) {
            (None, _) => return Self { count: parts.filter_map(|part| part.count).max(), ..Self::default() },
            (Some(only), None) => return only.clone(),
            _ => {}
        }
        let mut sum = Latency::new();
        if recorded().all(|part| part.histogram().is_some_and(|histogram| sum.add_histogram(&histogram))) {
            return Self::encode(&sum);
        }
        let count = recorded().filter_map(|part| part.count).sum();
        let total = recorded().map(|part| Some(part.mean? * part.count? as f64)).sum::<Option<f64>>();
        Self {
            count: Some(count),
            min: recorded().filter_map(|part| part.min).min(),
            max: recorded().filter_map(|part| part.max).max(),
            mean: total.map(|total| total / count as f64),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|micros| latency.record(Duration::from_micros(micros)));
        let summary = LatencySummary::encode(&latency);
        assert_eq!((summary.count, summary.min, summary.max), (Some(1_000), Some(1), Some(1_000)));
        assert_eq!((summary.p50, summary.p99, summary.p99_9), (Some(500), Some(990), Some(999)));
        assert!((summary.mean.unwrap() - 500.5).abs() < 0.01);
        assert_eq!(summary.histogram().as_ref(), Some(latency.histogram()));
    }

    #[test]
    fn nothing_recorded_is_null_not_zero() {
        let json = serde_json::to_value(LatencySummary::encode(&Latency::new())).unwrap();
        assert_eq!(json["count"], 0);
        assert!(json["p50"].is_null() && json["mean"].is_null() && json["hdr"].is_null());
        let unmeasured = serde_json::to_value(LatencySummary::default()).unwrap();
        assert!(unmeasured["count"].is_null());
    }

    #[test]
    fn a_damaged_histogram_is_none() {
        for hdr in ["", "not base64!", "AAAA"] {
            let summary = LatencySummary { hdr: Some(hdr.into()), ..LatencySummary::default() };
            assert!(summary.histogram().is_none());
        }
    }

    #[test]
    fn parts_add_to_the_whole_exactly() {
        let (mut whole, mut parts) = (Latency::new(), [(); 3].map(|()| Latency::new()));
        for i in 0..30_000u64 {
            let span = Duration::from_micros(i * i % 1_000_003);
            whole.record(span);
            parts[i as usize % 3].record(span);
        }
        let encoded = parts.each_ref().map(LatencySummary::encode);
        let nothing = LatencySummary::encode(&Latency::new());
        let merged = LatencySummary::merged(encoded.iter().chain([&nothing]));
        assert_eq!(merged, LatencySummary::encode(&whole));
    }

    #[test]
    fn without_histograms_there_are_no_percentiles() {
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(10));
        let (whole, summary) = (LatencySummary::encode(&latency), LatencySummary::summarise(&latency));
        assert!(summary.is_opaque() && !whole.is_opaque());
        let merged = LatencySummary::merged([&whole, &summary].into_iter());
        assert_eq!((merged.count, merged.p50, merged.mean), (Some(2), None, Some(10.0)));
        assert_eq!(LatencySummary::merged([].into_iter()), LatencySummary::default());
    }
}
