//! The load generator against programs of the system.

use std::time::Duration;
use std::{fs, thread};

use crate::stage::{End, GIB, PATIENCE, Running, Stage, sha256_of_gib, stage, towards_a_kernel, write_pattern};

/// An nginx as its package installs it, with the limits that the test needs and nothing shared with the system's own.
fn nginx(stage: &Stage, workers: u32, connections: u32) -> Running {
    let dir = stage.dir.join("nginx");
    fs::create_dir_all(dir.join("html")).unwrap();
    fs::write(dir.join("html/index.html"), "hello\n").unwrap();
    // Workers give up root otherwise, and this directory may not be theirs to read.
    let conf = format!(
        "user root;
daemon off;
worker_processes {workers};
worker_rlimit_nofile {};
pid nginx.pid;
error_log error.log;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{ listen 80 backlog=16384 reuseport; root html; }}
}}
",
        connections + 100
    );
    fs::write(dir.join("nginx.conf"), conf).unwrap();
    let (dir, conf) = (format!("{}/", dir.display()), format!("{}/nginx.conf", dir.display()));
    // The longest queue of connections that wait to be accepted is the namespace's.
    stage.shell(End::B, "sysctl -qw net.core.somaxconn=16384 net.ipv4.tcp_max_syn_backlog=65536");
    let server = stage.spawn_in(End::B, "nginx", &["nginx", "-p", &dir, "-c", &conf, "-e", "error.log"]);
    stage.shell(
        End::B,
        "for i in $(seq 500); do curl -s -o /dev/null http://10.9.0.2/ && exit 0; sleep 0.02; done; exit 1",
    );
    server
}

#[test]
fn nginx_answers_a_hundred_thousand_connections() {
    let Some(stage) = stage(&towards_a_kernel(), &["nginx", "curl"]) else { return };
    let _nginx = nginx(&stage, 2, 4_096);
    let done = stage.load(
        "--addr 10.9.0.10-10.9.0.11/24 --target 10.9.0.2:80 --profile http --path /index.html --count 100000 --concurrency 100 \
         --requests-per-connection 1",
    );
    let done = done.expect_success();
    assert_eq!(done.number("/connections/attempted"), 100_000.0, "{done}");
    assert_eq!(done.number("/connections/completed"), 100_000.0, "{done}");
}

#[test]
fn nginx_holds_fifty_thousand_connections() {
    let Some(stage) = stage(&towards_a_kernel(), &["nginx", "curl"]) else { return };
    let _nginx = nginx(&stage, 4, 30_000);
    let done = stage.engine(
        End::A,
        "load",
        "--addr 10.9.0.1/24 --addr 10.9.0.10-10.9.0.11/24 --target 10.9.0.2:80 --profile hold --path /index.html --connections 50000 \
         --rate 5k --hold 2s --threshold connections.failed_ratio<=0",
    );
    let done = done.finish(PATIENCE).expect_success();
    assert_eq!(done.number("/connections/held_max"), 50_000.0, "{done}");
    assert_eq!(done.number("/connections/completed"), 50_000.0, "{done}");
}

#[test]
fn a_gibibyte_to_a_sink_and_from_nginx() {
    let Some(stage) = stage(&towards_a_kernel(), &["nginx", "curl", "python3", "ethtool"]) else { return };
    let sink = "
import hashlib, socket
l = socket.create_server(('10.9.0.2', 9))
print('ready', flush=True)
s, _ = l.accept()
h = hashlib.sha256()
n = 0
buffer = bytearray(1 << 20)
while k := s.recv_into(buffer):
    h.update(memoryview(buffer)[:k])
    n += k
print(n, h.hexdigest(), flush=True)
";
    let mut sink = stage.spawn_in(End::B, "sink", &["python3", "-c", sink]);
    sink.wait_ready();
    let up = stage.load("--target 10.9.0.2:9 --profile bulk --request-bytes 1GiB --count 1").expect_success();
    assert_eq!(up.number("/connections/completed"), 1.0, "{up}");
    let sink = sink.finish(PATIENCE).expect(0);
    assert!(sink.stdout.contains(&format!("{GIB} {}", sha256_of_gib())), "{sink}");

    let _nginx = nginx(&stage, 1, 512);
    let features = stage.shell(End::B, &format!("ethtool -k {}", stage.dev(End::B)));
    assert!(features.contains("tcp-segmentation-offload: on"), "nginx's kernel is to have TSO on: {features}");
    write_pattern(&stage.file("nginx/html/pattern"), GIB);
    let down = stage
        .load("--target 10.9.0.2:80 --profile http --path /pattern --count 1 --requests-per-connection 1 --timeout 300s --digest")
        .expect_success();
    assert_eq!(down.report["transfers"][0]["octets"], GIB, "{down}");
    assert_eq!(down.report["transfers"][0]["sha256"], sha256_of_gib(), "{down}");
    // A frame too long for its buffer would be lost each time it is sent again; a ring that overran while the core was
    // away loses a few.
    let dropped = down.report["packets"]["dropped"].as_object().unwrap();
    assert!(dropped.keys().all(|reason| reason == "device_rx"), "{down}");
    let lost = dropped.get("device_rx").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    assert!(lost < down.number("/packets/rx") / 50.0, "{lost} frames lost: {down}");
}

/// Processor time of a process so far, in ticks of a hundredth of a second.
fn ticks(run: &Running) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", run.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_generator_with_nothing_to_do_leaves_its_core_alone() {
    let Some(stage) = stage(&towards_a_kernel(), &["nft", "python3"]) else { return };
    let rules =
        "add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in tcp dport 21 drop";
    stage.shell(End::B, &format!("nft '{rules}'"));
    let echo = "
import asyncio
async def talk(r, w):
    while data := await r.read(100): w.write(data)
    w.close()
async def main():
    await asyncio.start_server(talk, '10.9.0.2', 7)
    print('ready', flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
";
    let mut server = stage.spawn_in(End::B, "echo", &["python3", "-c", echo]);
    server.wait_ready();
    // Connections that are held, and one that waits for an answer that does not come.
    for words in [
        "--target 10.9.0.2:7 --profile hold --connections 10 --hold 3s",
        "--target 10.9.0.2:21 --profile connect --count 1 --concurrency 1 --connect-timeout 3s",
    ] {
        let load = stage.engine(End::A, "load", &format!("--addr 10.9.0.1/24 {words}"));
        thread::sleep(Duration::from_millis(1_500));
        let before = ticks(&load);
        thread::sleep(Duration::from_secs(1));
        let took = ticks(&load) - before;
        assert!(took <= 15, "{took} hundredths of a second of processor time within one: {words}");
        load.finish(PATIENCE);
    }
}
