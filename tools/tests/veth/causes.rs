//! Every way in which a connection can fail has a bucket of its own, and the exit code follows.

use std::time::Duration;

use serde_json::Value;
use syncline::bed::BedSpec;

use crate::stage::{End, Finished, PATIENCE, Stage, stage, towards_a_kernel};

/// A host that misbehaves, a port for each way.
const PEER: &str = "
import asyncio, socket, struct
async def reset(r, w):
    await r.read(100)
    w.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    w.close()
async def silent(r, w):
    try: await r.read(100); await r.read(100)
    except ConnectionError: pass
    w.close()
async def short(r, w):
    await r.read(100); w.write(b'x' * 63); w.close()
async def long(r, w):
    await r.read(100); w.write(b'x' * 65); w.close()
async def good(r, w):
    try:
        while data := await r.read(100): w.write(data)
    except ConnectionError: pass
    w.close()
async def main():
    for port, talk in ((11, reset), (12, silent), (13, short), (14, long), (7, good)):
        await asyncio.start_server(talk, '10.9.0.2', port, backlog=1000)
    print('ready', flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
";

const COUNT: f64 = 20.0;

fn crr(stage: &Stage, port: u16, more: &str) -> Finished {
    stage.load(&format!("--target 10.9.0.2:{port} --profile crr --count 20 --concurrency 5 {more}"))
}

/// All connections failed, and all for this cause.
fn assert_cause(done: &Finished, cause: &str) {
    assert_eq!(done.code(), Some(4), "all failed is exit 4: {done}");
    assert_eq!(done.number(&format!("/connections/failed/{cause}")), COUNT, "{cause}: {done}");
    assert_eq!(done.failed(), COUNT, "{cause}: {done}");
    let reasons = done.report["reasons"].to_string();
    assert!(reasons.contains("every one of 20") && reasons.contains(cause), "{reasons}");
}

#[test]
fn what_a_target_does_lands_in_its_own_bucket() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3", "nft"]) else { return };
    let mut peer = stage.spawn_in(End::B, "peer", &["python3", "-c", PEER]);
    peer.wait_ready();
    stage.shell(
        End::B,
        // The kernel says such things once a second to each host unless it is told otherwise.
        "sysctl -qw net.ipv4.icmp_ratelimit=0; nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; \
         add rule ip f in tcp dport 21 drop; \
         add rule ip f in tcp dport 22 reject with icmp type port-unreachable'",
    );
    assert_cause(&crr(&stage, 9, ""), "refused");
    assert_cause(&crr(&stage, 11, ""), "reset");
    assert_cause(&crr(&stage, 12, "--timeout 300ms"), "data_timeout");
    assert_cause(&crr(&stage, 13, ""), "early_fin");
    assert_cause(&crr(&stage, 14, ""), "bad_response");
    assert_cause(
        &crr(
            &stage,
            7,
            "--request-bytes 10 --response-bytes 10 --expect-sha256 \
        0000000000000000000000000000000000000000000000000000000000000000",
        ),
        "bad_response",
    );
    assert_cause(&crr(&stage, 21, "--connect-timeout 300ms"), "syn_timeout");
    assert_cause(&crr(&stage, 22, ""), "icmp");

    // Well answered, but not as many as the threshold wants.
    let done = crr(&stage, 7, "--expect-pattern --first-close client --threshold connections.completed>20").expect(4);
    assert_eq!((done.failed(), done.number("/connections/completed")), (0.0, COUNT), "{done}");
    assert_eq!(done.report["thresholds"][0]["pass"], false, "{done}");
}

#[test]
fn a_generator_that_cannot_keep_its_rate_says_so() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 9 --app discard");
    server.wait_ready();
    // No core launches a hundred million a second.
    let words = "--addr 10.9.0.10-10.9.0.250/24 --target 10.9.0.2:9 --profile connect --close rst --rate 100M \
                 --max-in-flight 100M --duration 1s --connect-timeout 1s --timeout 1s";
    let done = stage.engine(End::A, "load", words).finish(PATIENCE).expect(5);
    assert_eq!(done.report["verdict"], "generator_limited", "{done}");
    assert!(done.number("/connections/failed/launch_dropped") > 1e6, "{done}");
    assert_eq!(done.number("/rate/offered_cps"), 1e8, "{done}");
}

#[test]
fn a_limit_in_flight_holds_launches_back_and_loses_none() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3"]) else { return };
    let slow = "
import asyncio
async def talk(r, w):
    data = await r.read(100)
    await asyncio.sleep(0.05)
    w.write(data); w.close()
async def main():
    await asyncio.start_server(talk, '10.9.0.2', 7, backlog=1000)
    print('ready', flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
";
    let mut peer = stage.spawn_in(End::B, "peer", &["python3", "-c", slow]);
    peer.wait_ready();
    // Ten at a time, 50 ms each: 200 a second at most, of 1000.
    let words = "--target 10.9.0.2:7 --profile crr --rate 1k --max-in-flight 10 --duration 2s";
    let done = stage.load(words);
    assert!(matches!(done.code(), Some(4 | 5)), "{done}");
    assert!(done.number("/held_back") > 1_000.0, "{done}");
    assert_eq!(done.number("/connections/failed/launch_dropped"), 0.0, "{done}");
    assert!(done.number("/connections/held_max") <= 10.0, "{done}");
    let p99 = done.number("/latency_us/transaction_from_schedule/p99");
    assert!(p99 > 1e6, "the wait counts: {done}");
}

#[test]
fn a_scenario_with_stages_and_a_mix() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let serve = "--addr 10.9.0.2/24 --port 80 --app http --port 9 --app respond";
    let mut server = stage.engine(End::B, "serve", serve);
    server.wait_ready();
    let file = stage.file("scenario.toml");
    let text = "
addr = ['10.9.0.1/24']
target = ['http://10.9.0.2/bytes/3000']
profile = 'http'
stage = ['1s:200', '1s:200']
arrivals = 'poisson'
seed = 7
expect_pattern = true
expect_bytes = 3000
[[mix]]
weight = 3
[[mix]]
profile = 'crr'
target = '10.9.0.2:9'
expect_bytes = 64
";
    std::fs::write(&file, text).unwrap();
    let done = stage.engine(End::A, "load", &format!("{} --rate 100", file.display())).finish(PATIENCE);
    let done = done.expect_success();
    // 100 to 200 a second, then 200: 350 in all, give or take what chance does.
    let attempted = done.number("/connections/attempted");
    assert!((attempted - 350.0).abs() < 4.0 * 350f64.sqrt(), "{done}");
    let parts = ["/targets/0", "/targets/1"].map(|part| done.number(&format!("{part}/connections/completed")));
    assert!((parts[0] - 3.0 * parts[1]).abs() <= 3.0, "{parts:?}");
    assert_eq!(done.report["stages"].as_array().map(Vec::len), Some(2), "{done}");
    assert_eq!((done.number("/stages/0/from_cps"), done.number("/stages/1/to_cps")), (100.0, 200.0));
}

#[test]
fn a_search_ends_at_what_holds() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 9 --app respond");
    server.wait_ready();
    // The threshold breaks above 600 a second, whatever the machine does.
    let words = "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile crr --search rate --search-from 200 \
                 --search-percent 50 --duration 1s --threshold connections.attempted<=600 --threshold search.best>=200";
    let done = stage.engine(End::A, "load", words).finish(Duration::from_secs(60));
    let steps = done.report["search"]["steps"].as_array().cloned().unwrap_or_default();
    assert!(steps.len() >= 3, "{done}");
    assert!(steps.iter().all(|step| step["value"].as_f64() <= Some(800.0)), "{done}");
    if was_held_up(&done, &steps) {
        return;
    }
    if done.code() == Some(0) {
        let best = done.number("/search/best");
        assert!((400.0..=600.0).contains(&best), "{done}");
        let last = steps.last().unwrap();
        assert_eq!((&last["repeat"], &last["pass"]), (&true.into(), &true.into()), "{done}");
        assert_eq!(done.report["search"]["ended_by"], "target", "{done}");
    }
}

/// Whether others had this machine's cores during one of a search's steps. It goes down from there: what it ends at holds
/// twice, and it says whose limit came last.
fn was_held_up(done: &Finished, steps: &[Value]) -> bool {
    if !steps.iter().any(|step| step["verdict"] == "generator_limited") {
        return false;
    }
    let lost = steps.iter().rfind(|step| step["pass"] == false);
    let whose = if lost.is_some_and(|step| step["verdict"] == "failed") { "target" } else { "generator" };
    assert_eq!(done.report["search"]["ended_by"], whose, "{done}");
    if done.code() == Some(0) {
        let last = steps.last().unwrap();
        assert_eq!((&last["repeat"], &last["pass"]), (&true.into(), &true.into()), "{done}");
        assert_eq!(done.report["search"]["best"], last["value"], "{done}");
    }
    true
}

#[test]
fn a_search_for_connections_ends_at_what_holds() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 9 --app echo");
    server.wait_ready();
    // The threshold breaks above 1500 at a time.
    let words = "--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile hold --search connections --search-from 500 --ramp 500ms \
                 --search-percent 50 --hold 200ms --threshold connections.held_max<=1500 --threshold search.best>=500";
    let done = stage.engine(End::A, "load", words).finish(Duration::from_secs(60));
    let steps = done.report["search"]["steps"].as_array().cloned().unwrap_or_default();
    let values: Vec<_> = steps.iter().filter_map(|step| step["value"].as_u64()).collect();
    assert_eq!(values[0], 500, "{done}");
    if was_held_up(&done, &steps) {
        return;
    }
    assert_eq!(values[..3], [500, 1_000, 2_000], "{done}");
    assert_eq!((&steps[2]["pass"], &steps[2]["held_max"]), (&false.into(), &2_000.into()), "{done}");
    if done.code() == Some(0) {
        assert_eq!(values[3..], [1_500, 1_500], "{done}");
        assert_eq!((done.number("/search/best"), done.number("/connections/held_max")), (1_500.0, 1_500.0), "{done}");
        assert_eq!(done.report["search"]["what"], "connections", "{done}");
        assert_eq!(done.report["search"]["ended_by"], "target", "{done}");
    }
}

#[test]
fn a_weighted_mix_takes_requests_by_the_rate() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", "--addr 10.9.0.2/24 --port 80 --app http --port 7 --app echo");
    server.wait_ready();
    let file = stage.file("mix.toml");
    let text = "
addr = ['10.9.0.1/24']
concurrency = 40
request_rate = 500
requests_per_connection = 10
duration = '2s'
[[mix]]
weight = 3
target = 'http://10.9.0.2/bytes/3000'
profile = 'http'
expect_bytes = 3000
[[mix]]
profile = 'rr'
target = '10.9.0.2:7'
expect_pattern = true
";
    std::fs::write(&file, text).unwrap();
    let done = stage.engine(End::A, "load", &file.display().to_string()).finish(PATIENCE).expect_success();
    let parts = ["/targets/0", "/targets/1"].map(|part| done.number(&format!("{part}/connections/established")));
    assert!(parts[1] > 10.0 && (parts[0] - 3.0 * parts[1]).abs() <= 3.0, "by weight: {parts:?} {done}");
    // 500 a second come due from when the first connection is open; a busy machine may owe some at the end.
    let (due, answered) = (done.number("/requests_due"), done.number("/requests"));
    assert!((900.0..=1_010.0).contains(&due) && answered <= due && answered > 0.9 * due, "{due} {answered} {done}");
    assert_eq!(done.number("/latency_us/transaction_from_schedule/count"), answered, "{done}");
}
