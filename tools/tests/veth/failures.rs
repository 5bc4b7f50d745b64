//! What goes wrong, and what is said about it: one line, with the mend, and the exit code that scripts rely on.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use syncline::bed::BedSpec;

use crate::stage::{End, Finished, PATIENCE, SYNCLINE, Stage, stage, towards_a_kernel};

const LOAD: &str = "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile connect --count 1";

/// Runs a load generator that is to fail soon.
fn refused(stage: &Stage, words: &str) -> Finished {
    stage.engine(End::A, "load", words).finish(Duration::from_secs(30))
}

/// No program of ours is on the device, and no lock keeps the next engine out.
fn assert_clean(stage: &Stage, end: End) {
    // The kernel takes the program off when the last descriptor of its link goes, in work of its own.
    let begun = Instant::now();
    while stage.link(end).contains("xdp") {
        assert!(begun.elapsed() < Duration::from_secs(5), "a program stays attached: {}", stage.link(end));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_kill_leaves_nothing_and_the_next_start_works() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(
        End::A,
        "serve",
        "--addr 10.9.0.1/24 --port 80 --app respond --request-bytes 1 --response-bytes 1",
    );
    server.wait_ready();
    let words = "--addr 10.9.0.2-10.9.0.9/24 --target 10.9.0.1:80 --profile crr --duration 60s --concurrency 64 \
                 --request-bytes 1 --response-bytes 1";
    let load = stage.engine(End::B, "load", words);
    std::thread::sleep(Duration::from_secs(2));
    assert!(stage.link(End::B).contains("xdp"), "{}", stage.link(End::B));
    load.signal(Signal::SIGKILL);
    assert_eq!(load.finish(PATIENCE).code(), None);
    assert_clean(&stage, End::B);

    let again = words.replace("--duration 60s", "--count 1000");
    let done = stage.engine(End::B, "load", &again).finish(PATIENCE).expect_success();
    assert_eq!(done.number("/connections/completed"), 1_000.0, "{done}");

    server.signal(Signal::SIGKILL);
    assert_eq!(server.finish(PATIENCE).code(), None);
    assert_clean(&stage, End::A);
    stage
        .engine(End::A, "serve", "--addr 10.9.0.1/24 --port 80 --app respond --duration 1s")
        .finish(PATIENCE)
        .expect(0);
}

#[test]
fn a_device_that_goes_away_is_noticed_within_a_second() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::A, "serve", "--addr 10.9.0.1/24 --port 80 --app echo");
    server.wait_ready();
    stage.shell(End::B, &format!("ip link del {}", stage.dev(End::B)));
    let begun = Instant::now();
    let done = server.finish(PATIENCE).expect(3);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    done.says(&[&stage.dev(End::A), "removed", "again"]);
}

#[test]
fn a_queue_has_one_engine() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let server = stage.serve("--port 80 --app echo");
    let second = refused(&stage, LOAD).expect(3);
    second.says(&["queue 0", &stage.dev(End::A), &server.pid().to_string(), "stop"]);
}

#[test]
fn without_privilege_it_names_what_is_missing() {
    let Some(stage) = stage(&BedSpec::default(), &["capsh"]) else { return };
    let line = format!("'{SYNCLINE}' load --dev {} {LOAD}", stage.dev(End::A));
    let words = ["capsh", "--drop=cap_net_admin,cap_net_raw,cap_bpf,cap_sys_admin", "--", "-c", &line];
    let done = stage.spawn_in(End::A, "unprivileged", &words).finish(PATIENCE).expect(3);
    done.says(&["CAP_NET_ADMIN", "run as root"]);

    let mut nobody = Command::new(SYNCLINE);
    nobody.args(["load", "--netns", &stage.netns(End::A), "--dev", "x"]).args(LOAD.split_whitespace()).uid(65_534);
    // A build in a private directory cannot be started by others: then this half has nothing to say.
    let there = Command::new("test").args(["-x", SYNCLINE]).uid(65_534).status();
    if there.is_ok_and(|status| status.success()) {
        stage.start("nobody", nobody, None).finish(PATIENCE).expect(3).says(&["run as root"]);
    }
}

#[test]
fn devices_that_cannot_be_used() {
    let Some(stage) = stage(&BedSpec { mtu: 9_000, ..BedSpec::default() }, &[]) else { return };
    let netns = stage.netns(End::A);
    let mut elsewhere = Command::new(SYNCLINE);
    elsewhere.args(["load", "--netns", &netns, "--dev", "eth9"]).args(LOAD.split_whitespace());
    let done = stage.start("elsewhere", elsewhere, None).finish(PATIENCE).expect(3);
    done.says(&["no device eth9", &stage.dev(End::A)]);

    refused(&stage, LOAD).expect(3).says(&["MTU 9000", "ip link set", "mtu"]);

    stage.shell(End::A, &format!("ip link set {} mtu 1500 down", stage.dev(End::A)));
    refused(&stage, LOAD).expect(3).says(&["is down", "ip link set", "up"]);

    let mut nowhere = Command::new(SYNCLINE);
    nowhere.args(["load", "--netns", "there-is-none", "--dev", "x"]).args(LOAD.split_whitespace());
    stage.start("nowhere", nowhere, None).finish(PATIENCE).expect(2).says(&["there-is-none", "ip netns"]);
}

#[test]
fn addresses_and_ports_are_counted_before_the_start() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let done = refused(&stage, "--addr 10.9.0.1/24 --target 10.8.0.2:9 --profile connect --count 1").expect(2);
    done.says(&["10.8.0.2", "on no link", "--gateway"]);
    let done = refused(&stage, "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile hold --connections 1M").expect(2);
    done.says(&["1000000", "addresses"]);
    // 64,512 ports, each in TIME-WAIT for a minute.
    let words = "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile connect --rate 2k --duration 60s";
    refused(&stage, words).expect(2).says(&["120000 connections", "64512", "1075 a second", "2 addresses"]);
    let done = refused(&stage, LOAD).expect(3);
    done.says(&["10.9.0.2", "neighbour", "check"]);
}

#[test]
fn ports_that_run_out_are_counted_by_their_name() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 9 --app discard");
    server.wait_ready();
    // Every port is in TIME-WAIT after 100 connections: what fails then is the generator's fault, not the target's.
    let words = LOAD.replace("--count 1", "--local-ports 50000-50099 --count 1000 --concurrency 10");
    let done = refused(&stage, &words).expect(5);
    assert_eq!(done.number("/connections/completed"), 100.0, "{done}");
    assert_eq!(done.number("/connections/failed/local_ports"), 900.0, "{done}");
    let reasons = done.report["reasons"].to_string();
    assert!(reasons.contains("port") && reasons.contains("addr"), "{reasons}");
}

#[test]
fn memory_that_is_not_there() {
    let Some(stage) = stage(&BedSpec::default(), &["prlimit", "capsh"]) else { return };
    let dev = stage.dev(End::A);
    let limited = |limit: &str, words: &str| {
        let line = format!("prlimit {limit} '{SYNCLINE}' {words}");
        stage.spawn_in(End::A, "limited", &["sh", "-c", &line]).finish(Duration::from_secs(30))
    };
    let serve = format!("serve --dev {dev} --addr 10.9.0.1/24 --port 9 --app discard --duration 1s");
    limited("--as=100000000", &serve).expect(3).says(&["memory", "MiB", "ulimit -v"]);
    let words = "--addr 10.0.0.1-10.255.255.1/8 --target 10.255.255.9:9 --profile hold --connections 1G";
    let done = limited("--as=4000000000", &format!("load --dev {dev} {words}")).expect(3);
    done.says(&["1000000000 connections", "MiB", "--connections"]);

    let line = format!("ulimit -l 64; '{SYNCLINE}' {serve}");
    let words = ["capsh", "--drop=cap_ipc_lock,cap_sys_resource", "--", "-c", &line];
    let done = stage.spawn_in(End::A, "unlocked", &words).finish(PATIENCE).expect(3);
    done.says(&["locked memory", "ulimit -l"]);
}

#[test]
fn memory_that_runs_out_under_way_is_counted_by_its_name() {
    let Some(stage) = stage(&BedSpec::default(), &["prlimit"]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 9 --app echo");
    server.wait_ready();
    const COUNT: f64 = 200_000.0;
    let words =
        "--addr 10.9.0.10-10.9.0.20/24 --target 10.9.0.2:9 --profile hold --connections 200k --rate 20k --hold 1s";
    let load = stage.engine(End::A, "load", words);
    std::thread::sleep(Duration::from_secs(2));
    // The tables grow by 2 MiB at a time, for which they need twice that while it is aligned. Nothing else needs as much.
    let status = std::fs::read_to_string(format!("/proc/{}/status", load.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let octets: u64 = size.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024 + (3 << 20);
    let limit = Command::new("prlimit").args([format!("--pid={}", load.pid()), format!("--as={octets}")]).status();
    assert!(limit.unwrap().success());
    let done = load.finish(PATIENCE).expect(5);
    assert_eq!(done.number("/connections/attempted"), COUNT, "{done}");
    let (failed, completed) = (done.number("/connections/failed/local_memory"), done.number("/connections/completed"));
    assert!(failed > 0.0 && failed == done.failed() && failed + completed == COUNT, "{done}");
    let reasons = done.report["reasons"].to_string();
    assert!(reasons.contains("memory") && reasons.contains("fewer connections"), "{reasons}");
}

#[test]
fn ctrl_c_drains_and_reports() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3"]) else { return };
    // The peer tells how each connection ended: by FIN (b'') or by a reset.
    let peer = "
import asyncio
ends = {'fin': 0, 'reset': 0}
async def talk(reader, writer):
    try:
        while await reader.read(4096): pass
        ends['fin'] += 1
    except ConnectionError:
        ends['reset'] += 1
    writer.close()
async def main():
    server = await asyncio.start_server(talk, '10.9.0.2', 9, backlog=1000)
    print('ready', flush=True)
    while not ends['fin'] + ends['reset']: await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    print(ends['fin'], ends['reset'], flush=True)
asyncio.run(main())
";
    let mut peer = stage.spawn_in(End::B, "peer", &["python3", "-c", peer]);
    peer.wait_ready();
    let words = "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile hold --connections 100 --hold 60s --request-bytes 1 \
                 --response-bytes 0";
    let load = stage.engine(End::A, "load", words);
    std::thread::sleep(Duration::from_secs(2));
    let done = load.interrupt().expect_interrupted();
    assert_eq!(done.report["partial"], true, "{done}");
    assert_eq!(done.number("/connections/held_max"), 100.0, "{done}");
    assert!(done.stdout.contains("connections"), "{done}");
    assert_eq!(peer.finish(PATIENCE).stdout, "ready\n100 0\n");
    assert_clean(&stage, End::A);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let namespaces = || stage.shell(End::A, "ip netns list");
    let before = namespaces();
    for (seconds, code) in [("60", 6), ("1", 0)] {
        let mut demo = Command::new(SYNCLINE);
        demo.args(["demo", "--seconds", seconds]);
        let demo = stage.start("demo", demo, None);
        std::thread::sleep(Duration::from_secs(3));
        if code == 6 {
            assert_ne!(namespaces(), before, "a demo has namespaces of its own");
            demo.signal(Signal::SIGINT);
        }
        let done = demo.finish(PATIENCE).expect(code);
        assert!(done.stdout.contains("connections"), "{done}");
        assert_eq!(namespaces(), before, "{done}");
    }
}
