//! The page of all metrics, as OpenMetrics 1.0 and as the older text format of Prometheus.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::Source;
use super::catalog::{self, Family, Value};
use super::totals::BOUNDS_S;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What a client takes that sends this `Accept`. OpenMetrics is what it gets unless it asks for the other alone.
    pub(super) fn accepted(accept: &str) -> Self {
        let plain = accept.contains("text/plain") && !accept.contains("application/openmetrics-text");
        if plain { Self::Prometheus } else { Self::OpenMetrics }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The page of now.
pub(super) fn page(registry: &Registry, format: Format) -> Result<String, fmt::Error> {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry)?;
    if format == Format::OpenMetrics { Ok(page) } else { to_prometheus(&page) }
}

/// The older format has no units and no end, and names a family of counters as it names its samples.
fn to_prometheus(page: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(page.len());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                // The type is on the next line.
                let kind = lines.peek().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
                writeln!(out, "# HELP {name}{} {help}", suffix(kind))?;
            }
            ["#", "TYPE", name, "info"] => writeln!(out, "# TYPE {name}_info gauge")?,
            ["#", "TYPE", name, kind] => writeln!(out, "# TYPE {name}{} {kind}", suffix(kind))?,
            ["#", ..] => {}
            _ => writeln!(out, "{line}")?,
        }
    }
    Ok(out)
}

fn suffix(kind: &str) -> &'static str {
    match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in catalog::families(self).iter().filter(|family| !family.samples.is_empty()) {
            let Family { stem, help, unit, kind, .. } = family;
            let metric = encoder.encode_descriptor(stem, &format!("{help}."), unit.as_ref(), *kind)?;
            encode(family, metric)?;
        }
        Ok(())
    }
}

fn encode(family: &Family, mut metric: MetricEncoder<'_>) -> fmt::Result {
    for sample in &family.samples {
        let labels: Vec<(&str, &str)> =
            family.labels.iter().copied().zip(sample.labels.iter().map(String::as_str)).collect();
        if matches!(family.kind, MetricType::Info) {
            metric.encode_info(&labels)?;
        } else if labels.is_empty() {
            value(&mut metric, family.kind, &sample.value)?;
        } else {
            value(&mut metric.encode_family(&labels)?, family.kind, &sample.value)?;
        }
    }
    Ok(())
}

/// The labels of an exemplar, of which there are none.
type NoLabels = [(&'static str, &'static str); 0];

fn value(metric: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> fmt::Result {
    match (value, matches!(kind, MetricType::Counter)) {
        (Value::Whole(count), true) => metric.encode_counter(count, None::<&Exemplar<NoLabels, f64>>),
        (Value::Real(sum), true) => metric.encode_counter(sum, None::<&Exemplar<NoLabels, f64>>),
        (Value::Whole(level), false) => metric.encode_gauge(&(*level as f64)),
        (Value::Real(level), false) => metric.encode_gauge(level),
        (Value::Times(times), _) => {
            let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(times.counts).collect();
            metric.encode_histogram::<NoLabels>(times.sum_s, times.count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests;
