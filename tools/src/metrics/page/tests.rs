use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::load::Snapshot;
use crate::measure::{Failure, Stage};
use crate::metrics::Metrics;
use crate::run::Member;

fn metrics() -> Metrics {
    let metrics = Metrics::serve("127.0.0.1:0".parse().unwrap(), "load", Vec::new()).unwrap();
    let member = Member { core: Some(3), stats: Arc::default(), gauges: Arc::default() };
    member.stats.rx_bytes.add(1_234);
    member.stats.connections.set(5);
    member.stats.dropped.count(syncline_engine::wire::DropReason::ALL[0]);
    member.gauges.busy(Duration::from_millis(250));
    metrics.follow(&[member]);
    metrics.follow_load(Some(2_500.0));
    let mut snapshot = Snapshot { open: 9, ..Snapshot::default() };
    snapshot.sustain.tally.attempted = 40;
    snapshot.sustain.tally.fail(Failure::Reset);
    snapshot.sustain.record(Stage::Connect, Duration::from_micros(120));
    metrics.add(0, &snapshot);
    metrics
}

fn ask(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that has answered already need not take the rest.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(addr: SocketAddr, accept: &str) -> String {
    ask(addr, format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n").as_bytes())
}

#[test]
fn the_page_has_what_was_counted_in_both_formats() {
    let addr = metrics().addr();
    let samples = [
        "syncline_engine_rx_bytes_total{worker=\"0\"} 1234\n",
        "syncline_engine_connections{worker=\"0\"} 5",
        "syncline_worker_busy_seconds_total{worker=\"0\",core=\"3\"} 0.25\n",
        "syncline_load_connections_attempted_total 40\n",
        "syncline_load_connections_failed_total{cause=\"reset\"} 1\n",
        "syncline_load_latency_seconds_bucket{le=\"0.00025\",stage=\"connect\"} 1\n",
        "syncline_load_latency_seconds_bucket{le=\"+Inf\",stage=\"connect\"} 1\n",
        "syncline_load_latency_seconds_count{stage=\"connect\"} 1\n",
        "syncline_load_offered_connections_per_second 2500",
        "syncline_load_open_connections 9",
        "syncline_load_phase{phase=\"init\"} 1",
    ];
    let open = get(addr, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    assert!(open.starts_with("HTTP/1.1 200 OK\r\n"), "{open}");
    assert!(open.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{open}");
    assert!(open.contains("# UNIT syncline_engine_rx_bytes bytes\n") && open.ends_with("\n# EOF\n"), "{open}");
    assert!(open.contains("# TYPE syncline_load_connections_attempted counter\n"), "{open}");
    let asked_for_nothing = get(addr, "");
    assert!(asked_for_nothing.contains("Content-Type: application/openmetrics-text;"), "{asked_for_nothing}");
    let plain = get(addr, "text/plain");
    assert!(plain.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    assert!(plain.contains("# TYPE syncline_load_connections_attempted_total counter\n"), "{plain}");
    assert!(plain.contains("# HELP syncline_load_connections_attempted_total Connections launched.\n"), "{plain}");
    assert!(!plain.contains("# UNIT") && !plain.contains("# EOF"), "{plain}");
    for sample in samples {
        let sample = |page: &str| page.lines().any(|line| line.starts_with(sample.trim_end()));
        assert!(sample(&open) && sample(&plain), "{plain}");
    }
}

#[test]
fn a_bad_request_gets_an_answer_and_does_no_harm() {
    let addr = metrics().addr();
    let long = [b"GET /".as_slice(), &vec![b'x'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    let many = [b"GET / HTTP/1.1\r\n".as_slice(), "a: b\r\n".repeat(500).as_bytes(), b"\r\n"].concat();
    for (request, status) in [
        (&b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"[..], "405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (b"GET / HTTP/1.1\r\n\r\n", "200"),
        (b"GET /metrics?x=y HTTP/1.0\r\n\r\n", "200"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"\xff\xfe\r\n\r\n", "400"),
        (&long, "400"),
        (&many, "400"),
    ] {
        let answer = ask(addr, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {answer}", request.escape_ascii());
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    let head = ask(addr, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(get(addr, "").contains("syncline_build_info"));
}

#[test]
fn clients_that_say_nothing_are_few_and_leave_soon() {
    let addr = metrics().addr();
    let silent: Vec<_> = (0..8).map(|_| TcpStream::connect(addr).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let refused = ask(addr, b"");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let mut answers = silent.into_iter().map(|mut stream| {
        let mut answer = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert!(answers.all(|answer| answer.starts_with("HTTP/1.1 400 ")), "they are told after five seconds");
    assert!(get(addr, "").starts_with("HTTP/1.1 200 "));
}

fn in_docs(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)
}

fn kind_name(kind: MetricType) -> &'static str {
    match kind {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        MetricType::Unknown => "unknown",
    }
}

/// docs/metrics.md up to its table is prose, and the table is this.
fn table() -> String {
    let mut table = "| name | kind | labels | what |\n|---|---|---|---|\n".to_owned();
    for family in catalog::catalog() {
        let name = match family.kind {
            MetricType::Histogram => family.name(),
            _ => family.sample_names().remove(0),
        };
        let labels = family.labels.join(", ");
        writeln!(table, "| `{name}` | {} | {labels} | {} |", kind_name(family.kind), family.help).unwrap();
    }
    table
}

#[test]
fn the_documented_metrics_are_those_there_are() {
    assert!(catalog::levels_are_known());
    let file = in_docs("metrics.md");
    let text = fs::read_to_string(&file).unwrap();
    let (prose, documented) = text.split_at(text.find("| name | kind |").unwrap());
    if env::var_os("METRICS").is_some_and(|value| value == "write") {
        fs::write(&file, format!("{prose}{}", table())).unwrap();
    } else {
        let mend = "write it anew with `METRICS=write cargo test -p syncline --lib documented_metrics`";
        assert!(documented == table(), "docs/metrics.md does not have what there is; {mend}");
    }
}

/// The words of `text` that may be names of metrics.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| word.starts_with("syncline_") || word.starts_with("process_"))
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let known: BTreeSet<_> = catalog::catalog().iter().flat_map(Family::sample_names).collect();
    let text = fs::read_to_string(in_docs("grafana/syncline.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = 0;
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let expression = target["expr"].as_str().unwrap();
        let used: Vec<_> = names(expression).collect();
        assert!(!used.is_empty(), "{expression} asks for no metric of ours");
        for name in used {
            assert!(known.contains(name), "{expression} asks for {name}, which there is not");
        }
        expressions += 1;
    }
    assert!(expressions >= 10);
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = variable["query"].to_string();
        assert!(names(&query).all(|name| known.contains(name)), "{query}");
    }
}
