//! The command as scripts see it: exit codes, one-line errors, JSON. What needs a test bed needs root: without it these
//! say SKIPPED, and fail where `CI` is set.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn syncline(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncline")).args(words.split_whitespace()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "test beds need root, and CI is to have it");
        eprintln!("SKIPPED: test beds need root");
    }
    root
}

/// Nobody reads what is said: the exit code says it still.
#[test]
fn a_stderr_that_is_full_or_closed_changes_no_exit_code() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for stderr in [std::process::Stdio::from(full), std::process::Stdio::from(closed)] {
        let status = Command::new(env!("CARGO_BIN_EXE_syncline")).arg("frobnicate").stderr(stderr).status().unwrap();
        assert_eq!(status.code(), Some(2), "{status}");
    }
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let load = "load --dev no0 --addr 10.0.0.1/24 --target 10.0.0.2:80 --profile crr";
    for words in [
        "frobnicate".to_owned(),
        format!("{load} --rate 0 --count 1"),
        format!("{load} --count 1 --threshold connections.fialed<1"),
        format!("{load} --duration 5parsecs"),
        load.to_owned(),
        "veth up --kernel-a 10.0.0.1".to_owned(),
        "bench ring --cores 0".to_owned(),
        "bench raw --frame-bytes 1GiB".to_owned(),
        "report render /no/such/file".to_owned(),
        "serve --netns no-such-netns --dev no0 --addr 10.0.0.1/24 --port 1 --app echo".to_owned(),
    ] {
        let output = syncline(&words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {text}");
        assert_eq!(text.lines().count(), 1, "{words}: {text}");
        assert!(text.starts_with("syncline: ") && output.stdout.is_empty(), "{words}: {text}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for words in ["--help", "-h", "--version", "load --help", "serve -h", "veth up --help"] {
        let output = syncline(words);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{words}");
    }
}

#[test]
fn a_missing_device_is_exit_3() {
    if !root() {
        return;
    }
    let output = syncline("serve --dev no-such0 --addr 10.0.0.1/24 --port 1 --app echo");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("no-such0") && text.lines().count() == 1, "{text}");
}

#[test]
fn the_ring_completes_what_it_begins() {
    let output = syncline("bench ring --duration 1 --concurrency 64 --piggyback --json -");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!((&report["schema"], &report["verdict"]), (&"syncline.report/1".into(), &"ceiling".into()));
    let connections = &report["connections"];
    assert!(connections["completed"].as_u64().unwrap() > 1_000, "{connections}");
    assert_eq!(connections["completed"], connections["attempted"]);
    assert_eq!(connections["failed_ratio"], 0.0);
    assert_eq!(report["server"]["connections"]["established"], connections["established"]);
    assert_eq!(report["syscalls"]["doorbells"], 0);
    assert!(report["latency_us"]["connect"]["hdr"].is_string());
    assert!(report["latency_us"]["connect_from_schedule"]["p50"].is_null(), "a closed loop has no schedule");
}

#[test]
fn the_demo_reports_and_leaves_nothing() {
    if !root() {
        return;
    }
    let output = syncline("demo --seconds 1 --json -");
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["verdict"], "ceiling");
    assert!(report["connections"]["completed"].as_u64().unwrap() > 100, "{}", report["connections"]);
    assert_eq!(report["host"]["driver"], "veth");
    let device = report["host"]["device"].as_str().unwrap();
    let netns = device.strip_suffix('0').unwrap();
    assert!(!Path::new("/run/netns").join(netns).exists(), "{netns} is still there");
}

/// The page of metrics, or nothing while nobody answers.
fn scrape(port: u16) -> String {
    use std::io::{Read as _, Write as _};
    let mut page = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let _ = stream.read_to_string(&mut page);
    }
    page
}

#[test]
fn metrics_can_be_read_while_a_run_lasts() {
    // A port that is free now, and most likely still is in a moment.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let words = format!("bench ring --duration 600 --concurrency 8 --metrics {port} --json /dev/null");
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    let mut run = command.args(words.split(' ')).stdout(std::process::Stdio::null()).spawn().unwrap();
    let completed = |page: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix("syncline_load_connections_completed_total "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let grown_beyond = |count: u64| loop {
        let page = scrape(port);
        if completed(&page) > count {
            return page;
        }
        assert!(std::time::Instant::now() < end, "{page}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let first = completed(&grown_beyond(0));
    let later = grown_beyond(first);
    assert!(later.contains("syncline_load_phase{phase=\"sustain\"} 1"), "{later}");
    assert!(later.contains("syncline_build_info{version=") && later.ends_with("# EOF\n"), "{later}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(6));
    assert!(scrape(port).is_empty(), "nobody answers after the end");
}
