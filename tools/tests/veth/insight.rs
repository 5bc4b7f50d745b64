//! Single connections: ladders, the flight recorder, the two ends' accounts held against each other.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use syncline::bed::BedSpec;
use syncline::trace;

use crate::stage::{End, Finished, PATIENCE, Running, Stage, stage, towards_a_kernel};

const RESPOND: &str = "--port 80 --app respond --request-bytes 64 --response-bytes 64 --server-report there.sock";

/// A server on end b that tells its account, directly or behind something.
fn server(stage: &Stage, via: bool) -> Running {
    let place = if via { "--addr 10.77.2.1/24 --gateway 10.77.2.254" } else { "--addr 10.9.0.2/24" };
    let mut server = stage.engine(End::B, "serve", &format!("{place} {RESPOND}"));
    server.wait_ready();
    server
}

fn load(stage: &Stage, via: bool, words: &str) -> Running {
    let place = if via {
        "--addr 10.77.1.1/24 --gateway 10.77.1.254 --target 10.77.2.1:80"
    } else {
        "--addr 10.9.0.1/24 --target 10.9.0.2:80"
    };
    stage.engine(End::A, "load", &format!("{place} --profile crr --server-report there.sock {words}"))
}

/// Numbers of a part of the reconciliation, all of which must be there.
fn numbers<const N: usize>(run: &Finished, part: &str, names: [&str; N]) -> [u64; N] {
    names.map(|name| run.number(&format!("/reconciliation{part}/{name}")) as u64)
}

const PLACES: [&str; 5] = ["generator", "bed", "device_under_test", "server", "unknown"];

fn via() -> BedSpec {
    BedSpec { via: true, ..BedSpec::default() }
}

fn nft(stage: &Stage, rules: &str) {
    stage.shell(End::A, &format!("ip netns exec {} nft '{rules}'", stage.bed.name().netns_dut()));
}

#[test]
fn a_clean_run_reconciles_to_nothing() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let _server = server(&stage, false);
    let run = load(&stage, false, "--count 3000 --concurrency 20 --trace 1").finish(PATIENCE).expect_success();
    let names = ["connections_here", "connections_there", "matched", "matched_by_token", "only_here", "only_there"];
    assert_eq!(numbers(&run, "", names), [3000, 3000, 3000, 3000, 0, 0], "{run}");
    assert_eq!((numbers(&run, "/failed", PLACES), numbers(&run, "/lost", PLACES)), ([0; 5], [0; 5]), "{run}");
    assert_eq!(run.report["reconciliation"]["something_between"], false);
    // The ladder of the first connection, with the engine's own states.
    for word in ["connection 1: 10.9.0.1:", "closed", "SYN-SENT", "ESTABLISHED", "states of 10.9.0.1:"] {
        assert!(run.stderr.contains(word), "{word}: {run}");
    }
}

#[test]
fn lost_syns_are_put_down_to_what_loses_them() {
    let Some(stage) = stage(&via(), &["nft"]) else { return };
    nft(
        &stage,
        "add table ip mean; add chain ip mean loss { type filter hook forward priority 0; }; \
         add rule ip mean loss tcp flags & (syn|ack) == syn numgen random mod 100 == 0 counter drop",
    );
    let _server = server(&stage, true);
    let run = load(&stage, true, "--count 3000 --rate 1500").finish(PATIENCE).expect_success();
    let dut = stage.bed.name().netns_dut();
    let rules = stage.shell(End::A, &format!("ip netns exec {dut} nft list table ip mean"));
    let dropped = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let dropped: u64 = dropped.parse().unwrap();
    assert!(dropped > 0, "{rules}");
    assert_eq!(numbers(&run, "/lost", PLACES), [0, 0, dropped, 0, 0], "{run}");
    assert_eq!(numbers(&run, "/lost_out", ["syn", "data", "ack", "fin"]), [dropped, 0, 0, 0], "{run}");
    assert_eq!(numbers(&run, "", ["matched", "translated"]), [3000, 0], "{run}");
}

#[test]
fn a_translator_does_not_hide_who_is_who() {
    let Some(stage) = stage(&via(), &["nft"]) else { return };
    nft(
        &stage,
        &format!(
            "add table ip nat; add chain ip nat post {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip nat post oifname \"{}\" masquerade",
            stage.bed.name().dut_dev_b()
        ),
    );
    let _server = server(&stage, true);
    let run = load(&stage, true, "--count 2000 --concurrency 20").finish(PATIENCE).expect_success();
    assert_eq!(numbers(&run, "", ["matched", "matched_by_token", "translated"]), [2000, 2000, 2000], "{run}");
    assert_eq!((numbers(&run, "/failed", PLACES), numbers(&run, "/lost", PLACES)), ([0; 5], [0; 5]), "{run}");
}

#[test]
fn a_server_that_dies_is_the_servers_fault() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let server = server(&stage, false);
    let words = "--rate 200 --duration 4s --connect-timeout 1s --timeout 1s --flight-recorder 3";
    let run = load(&stage, false, words);
    thread::sleep(Duration::from_secs(3));
    server.signal(Signal::SIGKILL);
    let run = run.finish(PATIENCE);
    assert!(matches!(run.code(), Some(4 | 5)), "{run}");
    assert_eq!(run.report["reconciliation"]["server_gone"], true, "{run}");
    let [generator, bed, device, server, unknown] = numbers(&run, "/failed", PLACES);
    assert!(server > 0 && (generator, bed, device, unknown) == (0, 0, 0, 0), "{run}");
    // The frames of the first that failed are in the capture: a SYN that nobody answered, or more.
    let capture = std::fs::read(stage.file("flight.pcap")).unwrap();
    let trace = trace::read("flight.pcap", &capture[..], None, 100).unwrap();
    let told = run.report["flight"]["connections"].as_array().unwrap();
    assert_eq!(told.iter().filter(|connection| !connection["failed"].is_null()).count(), 3, "{run}");
    for connection in told {
        let left = |ladder: &&trace::Ladder| ladder.left.as_str() == connection["local"];
        let ladder = trace.connections.iter().find(left).unwrap_or_else(|| panic!("{connection} {run}"));
        assert_eq!(ladder.rows.len() as u64, connection["frames"].as_u64().unwrap(), "{connection} {run}");
        assert_eq!((ladder.rows[0].seq, ladder.rows[0].flags.syn()), (0, true));
    }
}

#[test]
fn the_flight_recorder_keeps_what_was_refused_and_other_programs_read_it() {
    let Some(stage) = stage(&towards_a_kernel(), &["tcpdump"]) else { return };
    let words = "--target 10.9.0.2:81 --profile crr --count 20 --concurrency 2 --flight-recorder 5 --pcap all.pcap";
    let run = stage.load(words).expect(4);
    let told = run.report["flight"]["connections"].as_array().unwrap();
    assert_eq!(told.iter().filter(|connection| connection["failed"] == "refused").count(), 5, "{run}");
    assert_eq!(run.number("/flight/failed"), 20.0);
    for (file, least) in [("flight.pcap", 10), ("all.pcap", 40)] {
        let lines = stage.shell(End::A, &format!("tcpdump -nr {} tcp", stage.file(file).display()));
        assert!(
            lines.lines().count() >= least && lines.contains("Flags [S]") && lines.contains("Flags [R.]"),
            "{lines}"
        );
    }
}
