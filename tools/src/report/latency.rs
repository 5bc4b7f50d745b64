//! One stage's times as the report carries them: percentiles, and the histogram itself so that runs can be merged.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::measure::Latency;

/// Microseconds, from a histogram of three digits. All `None` but `count` where nothing was recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of percentiles say it all")]
pub struct LatencySummary {
    pub count: Option<u64>,
    pub min: Option<u64>,
    pub p50: Option<u64>,
    pub p90: Option<u64>,
    pub p95: Option<u64>,
    pub p99: Option<u64>,
    pub p99_9: Option<u64>,
    pub max: Option<u64>,
    pub mean: Option<f64>,
    /// The histogram: HdrHistogram V2, compressed with DEFLATE, in base64.
    pub hdr: Option<String>,
}

impl LatencySummary {
    /// Percentiles only.
    pub fn summarise(latency: &Latency) -> Self {
        let histogram = latency.histogram();
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

    /// Percentiles and the histogram.
    pub fn encode(latency: &Latency) -> Self {
        let mut octets = Vec::new();
        let encoded = V2DeflateSerializer::new().serialize(latency.histogram(), &mut octets);
        let hdr = encoded.ok().filter(|_| !latency.histogram().is_empty()).map(|_| BASE64_STANDARD.encode(&octets));
        Self { hdr, ..Self::summarise(latency) }
    }

    /// The histogram, if there is one and it can be read.
    pub fn histogram(&self) -> Option<Histogram<u64>> {
        let octets = BASE64_STANDARD.decode(self.hdr.as_deref()?).ok()?;
        Deserializer::new().deserialize(&mut octets.as_slice()).ok()
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
}
