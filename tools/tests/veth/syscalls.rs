//! What the data path asks of the kernel.

use std::process::Command;

use crate::stage::{End, PATIENCE, SYNCLINE, skip, stage};
use syncline::bed::BedSpec;

/// Lines of strace's table: calls, by name.
fn calls(table: &str, name: &str) -> u64 {
    let row =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row.last() == Some(&name));
    row.map_or(0, |row| row[0].parse().unwrap_or_else(|_| panic!("no count in {row:?}: {table}")))
}

#[test]
fn doorbells_are_the_system_calls() {
    let Some(stage) = stage(&BedSpec::default(), &["strace"]) else { return };
    if stage.start("probe", strace(&["true"]), None).finish(PATIENCE).code() != Some(0) {
        return skip("strace may not trace here");
    }
    let words = "--addr 10.8.0.1/24 --port 80 --app respond --request-bytes 1 --response-bytes 1";
    let mut server = stage.engine(End::A, "serve", words);
    server.wait_ready();

    let (netns, dev, json) = (stage.netns(End::B), stage.dev(End::B), stage.file("traced.json"));
    let mut traced = strace(&[SYNCLINE, "load", "--netns", &netns, "--dev", &dev]);
    let words = "--addr 10.8.0.2-10.8.0.9/24 --target 10.8.0.1:80 --profile crr --count 50k --concurrency 256 \
                 --request-bytes 1 --response-bytes 1 --connect-timeout 60s --timeout 60s --json";
    traced.args(words.split_ascii_whitespace()).arg(&json);
    let done = stage.start("traced", traced, Some(json)).finish(PATIENCE).expect_success();
    let table = std::fs::read_to_string(stage.file("strace.out")).unwrap();

    // The report's own figures leave out what came before and after the measured phase.
    let doorbells: f64 = ["init", "ramp", "sustain", "drain"]
        .iter()
        .filter_map(|name| done.report["phases"].as_array()?.iter().find(|phase| phase["name"] == *name))
        .filter_map(|phase| phase["syscalls"]["doorbells"].as_f64())
        .sum();
    // Over the ring, or a burst by the XDP program; to load that takes some hundred calls
    let sent = calls(&table, "sendto") + calls(&table, "sendmsg") + calls(&table, "bpf");
    assert!(doorbells > 100.0, "{done}");
    assert!((sent as f64 - doorbells).abs() <= doorbells * 0.02 + 250.0, "{doorbells} doorbells: {table}");

    // Beside them there is what is done when nothing is to do (to sleep, or to offer the core to others, which on a busy machine
    // take it often), and what does not grow with the traffic.
    let packets = done.number("/packets/tx") + done.number("/packets/rx");
    let total = calls(&table, "total");
    let idle: u64 =
        ["ppoll", "poll", "futex", "clock_nanosleep", "sched_yield"].iter().map(|name| calls(&table, name)).sum();
    let other = total - sent - idle;
    assert!((other as f64) < packets / 50.0 + 6_000.0, "{other} other calls for {packets} packets: {table}");
}

fn strace(words: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-U", "calls,name", "-o", "strace.out"]);
    command.args(words);
    command
}
