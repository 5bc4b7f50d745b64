//! Conditions on the report: `latency_us.connect.p99<2000`, `rate.achieved_cps>=100000`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::model::{Report, ThresholdResult};
use crate::units::parse_value;

/// The condition that holds where no threshold names its path.
pub const DEFAULT: &str = "connections.failed_ratio<0.01";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
}

/// Longer signs first: `<=` is not `<` followed by `=`.
const COMPARISONS: [(&str, Comparison); 5] = [
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// A condition on one number of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    expr: String,
    path: String,
    comparison: Comparison,
    bound: f64,
}

/// Why an expression is no threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

impl Threshold {
    /// The path it looks at, as `connections.failed_ratio`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Looks at `report`, as JSON.
    pub fn evaluate(&self, report: &Value) -> ThresholdResult {
        let value = look_up(report, &self.path).and_then(Value::as_f64);
        let pass = value.map(|value| {
            let order = value.partial_cmp(&self.bound);
            match self.comparison {
                Comparison::Less => order == Some(Ordering::Less),
                Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                Comparison::Greater => order == Some(Ordering::Greater),
                Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                Comparison::Equal => order == Some(Ordering::Equal),
            }
        });
        ThresholdResult { expr: self.expr.clone(), value, pass }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expr)
    }
}

fn look_up<'a>(report: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(report, |value, key| match value {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => value.get(key),
    })
}

/// Whether the report can have a number at `path`. What stands in lists and under `packets.dropped` depends on the
/// run, so any such path will do.
fn check_path(path: &str) -> Result<(), ParseError> {
    let blank = serde_json::to_value(Report::default()).unwrap_or_default();
    let mut value = &blank;
    let mut walked = String::new();
    for key in path.split('.') {
        match value {
            Value::Array(_) => return Ok(()),
            Value::Object(_) if walked == "packets.dropped" => return Ok(()),
            Value::Object(fields) => {
                value = fields.get(key).ok_or_else(|| unknown_key(&walked, key, fields.keys()))?;
            }
            _ if walked == "config" || walked == "server" || walked == "raw" || walked == "search" => return Ok(()),
            _ => return Err(ParseError(format!("`{walked}` has no parts"))),
        }
        walked = if walked.is_empty() { key.into() } else { format!("{walked}.{key}") };
    }
    match value {
        Value::Object(fields) => {
            let keys: Vec<_> = fields.keys().map(String::as_str).collect();
            Err(ParseError(format!("`{path}` is a group; say which of {}", keys.join(" "))))
        }
        Value::String(_) | Value::Array(_) | Value::Bool(_) => Err(ParseError(format!("`{path}` is not a number"))),
        _ => Ok(()),
    }
}

fn unknown_key<'a>(walked: &str, key: &str, known: impl Iterator<Item = &'a String>) -> ParseError {
    let known: Vec<_> = known.map(String::as_str).collect();
    let group = if walked.is_empty() { "the report" } else { walked };
    ParseError(format!("{group} has no `{key}`, only {}", known.join(" ")))
}

impl FromStr for Threshold {
    type Err = ParseError;

    fn from_str(expr: &str) -> Result<Self, ParseError> {
        let example = "write for example latency_us.connect.p99<2000";
        let Some(at) = expr.find(['<', '>', '=']) else {
            return Err(ParseError(format!("no comparison (< <= > >= ==); {example}")));
        };
        let (path, rest) = (expr[..at].trim(), &expr[at..]);
        let found = COMPARISONS.iter().find_map(|(sign, comparison)| Some((*comparison, rest.strip_prefix(sign)?)));
        let Some((comparison, bound)) = found else {
            return Err(ParseError(format!("a comparison is one of < <= > >= ==; {example}")));
        };
        let bound = parse_value(bound.trim()).map_err(|error| ParseError(format!("`{}`: {error}", bound.trim())))?;
        check_path(path)?;
        Ok(Self { expr: expr.to_owned(), path: path.to_owned(), comparison, bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(expr: &str, report: &Report) -> Option<bool> {
        expr.parse::<Threshold>().unwrap().evaluate(&serde_json::to_value(report).unwrap()).pass
    }

    #[test]
    fn compares_with_what_was_measured() {
        let mut report = Report::new("test");
        report.blocks.latency_us.connect.p99 = Some(2_000);
        report.blocks.rate.achieved_cps = Some(100_000.0);
        for (expr, pass) in [
            ("latency_us.connect.p99<2000", false),
            ("latency_us.connect.p99 <= 2000", true),
            ("latency_us.connect.p99==2k", true),
            ("latency_us.connect.p99>1999.5", true),
            ("rate.achieved_cps>=100k", true),
            ("rate.achieved_cps>100k", false),
        ] {
            assert_eq!(evaluate(expr, &report), Some(pass), "{expr}");
        }
    }

    #[test]
    fn what_was_not_measured_neither_passes_nor_fails() {
        assert_eq!(evaluate("latency_us.connect.p99<2000", &Report::default()), None);
        assert_eq!(evaluate("workers.0.busy_ratio<0.9", &Report::default()), None);
        assert_eq!(evaluate("packets.dropped.bad_checksum==0", &Report::default()), None);
    }

    #[test]
    fn wrong_expressions_are_told_at_the_start() {
        for (expr, why) in [
            ("", "no comparison"),
            ("connections.failed_ratio", "no comparison"),
            ("connections.failed_ratio<x", "not a number"),
            ("connections.failed_ratio<", "not a number"),
            ("connections.failed_ratio<NaN", "not a finite number"),
            ("connections.failed_ratio=1", "a comparison is one of"),
            ("connections.fialed<1", "connections has no `fialed`, only"),
            ("latency_us.connect<1", "say which of"),
            ("verdict==1", "not a number"),
            ("rate.achieved_cps.x<1", "has no parts"),
        ] {
            let error = expr.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains(why), "{expr}: {error}");
        }
    }

    #[test]
    fn the_default_is_a_threshold() {
        assert_eq!(DEFAULT.parse::<Threshold>().unwrap().path(), "connections.failed_ratio");
    }
}
