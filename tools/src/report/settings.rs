//! Whether runs can be held against each other, or added up: what they were asked to do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::model::Report;

/// Settings that say where a run took place and what is asked of its report, not what it does.
const PLACE: [&str; 20] = [
    "scenario",
    "netns",
    "dev",
    "addr",
    "shared_addr",
    "local_ports",
    "gateway",
    "vlan",
    "allow_default_route",
    "allow_public_target",
    "cores",
    "seed",
    "pcap",
    "target",
    "threshold",
    "criterion",
    "digest",
    "search_from",
    "search_to",
    "search_percent",
];

/// Settings that say how much a run does: shards of one load may differ in them.
const AMOUNT: [&str; 10] = [
    "rate",
    "concurrency",
    "connections",
    "count",
    "max_in_flight",
    "request_rate",
    "bitrate",
    "stage",
    "receive_ring",
    "time_wait_s",
];

/// What two runs must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be compared: everything but the place.
    Compare,
    /// To be added up: the same kind of load, of whatever amount.
    Add,
}

/// What `b` was asked to do otherwise than `a`, each as `name: its value in a, in b`.
pub fn differences(a: &Report, b: &Report, purpose: Purpose) -> Vec<String> {
    let mut found = Vec::new();
    if a.command != b.command {
        found.push(format!("command: {}, {}", a.command, b.command));
    }
    let matters = |key: &str| {
        let amount = purpose == Purpose::Add && AMOUNT.contains(&key);
        !PLACE.contains(&key) && !amount
    };
    let keys = |report: &Report| -> BTreeSet<String> {
        report.config.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    };
    for key in keys(a).union(&keys(b)).filter(|key| matters(key)) {
        let value = |report: &Report| essential(report.config.get(key).cloned().unwrap_or_default());
        let (left, right) = (value(a), value(b));
        if !same(&left, &right) {
            found.push(format!("{key}: {}, {}", shown(&left), shown(&right)));
        }
    }
    // Which cores does not matter; how many does.
    let (left, right) = (a.blocks.workers.len(), b.blocks.workers.len());
    if purpose == Purpose::Compare && left != right {
        found.push(format!("workers: {left}, {right}"));
    }
    found
}

/// Where runs took place that are not alike there, as `name: value in a, in b`: comparable, but not for this reason.
pub fn places(a: &Report, b: &Report) -> Vec<String> {
    let facts = |report: &Report| serde_json::to_value(&report.host).unwrap_or_default();
    let (left, right) = (facts(a), facts(b));
    let names = ["cpu_model", "cores", "kernel", "driver", "xdp_mode", "zerocopy"];
    let differs = names.into_iter().filter(|name| left.get(name) != right.get(name));
    differs.map(|name| format!("{name}: {}, {}", shown(&left[name]), shown(&right[name]))).collect()
}

/// Parts of a mix without their places.
fn essential(mut value: Value) -> Value {
    for part in value.as_array_mut().into_iter().flatten() {
        if let Some(fields) = part.as_object_mut() {
            fields.retain(|key, _| !PLACE.contains(&key.as_str()));
        }
    }
    value
}

/// An option that was not given is as good as an empty list or `false`.
fn same(a: &Value, b: &Value) -> bool {
    let nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    a == b || nothing(a) && nothing(b)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(config: Value) -> Report {
        Report { config, ..Report::new("load") }
    }

    #[test]
    fn what_matters_is_named_and_the_rest_is_not() {
        let a = with(json!({"profile": "crr", "rate": 1000.0, "seed": 1, "dev": "a0", "piggyback": false}));
        let b = with(json!({"profile": "crr", "rate": 2000.0, "seed": 2, "dev": "b0"}));
        assert_eq!(differences(&a, &b, Purpose::Compare), ["rate: 1000.0, 2000.0"]);
        assert!(differences(&a, &b, Purpose::Add).is_empty());
        let c = with(json!({"profile": "http", "rate": 1000.0}));
        assert_eq!(differences(&a, &c, Purpose::Add), ["profile: crr, http"]);
        let mix = |target: &str, weight: u32| with(json!({"mix": [{"target": [target], "weight": weight}]}));
        assert!(differences(&mix("10.0.0.1:80", 1), &mix("10.0.0.2:80", 1), Purpose::Compare).is_empty());
        assert_eq!(
            differences(&mix("a", 1), &mix("a", 2), Purpose::Compare),
            [r#"mix: [{"weight":1}], [{"weight":2}]"#]
        );
        assert_eq!(differences(&a, &Report::new("bench"), Purpose::Add)[0], "command: load, bench");
    }

    #[test]
    fn other_machines_are_told() {
        let (mut a, b) = (Report::new("load"), Report::new("load"));
        a.host.kernel = Some("6.1".into());
        assert_eq!(places(&a, &b), ["kernel: 6.1, none"]);
    }
}
