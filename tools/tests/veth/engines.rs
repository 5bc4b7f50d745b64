//! The engine at both ends: every frame on the wire is its own.

use syncline::bed::BedSpec;

use crate::stage::{End, PATIENCE, SYNCLINE, Stage, stage};

/// A server on end a and a load generator on end b, from its start to its end.
fn engine_to_engine(stage: &Stage, serve: &str, load: &str) -> [crate::stage::Finished; 2] {
    let mut server = stage.engine(End::A, "serve", &format!("--addr 10.8.0.1/16 --port 80 --cores 0 {serve}"));
    server.wait_ready();
    let core = std::thread::available_parallelism().map_or(0, |cores| cores.get().min(2) - 1);
    let words = format!("--addr 10.8.1.1-10.8.1.50/16 --target 10.8.0.1:80 --cores {core} {load}");
    let load = stage.engine(End::B, "load", &words).finish(PATIENCE).expect_success();
    [server.interrupt().expect(6), load]
}

#[test]
fn a_connection_is_three_packets_each_way() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    const COUNT: f64 = 300_000.0;
    let [server, load] = engine_to_engine(
        &stage,
        "--app respond --request-bytes 64 --response-bytes 64",
        "--profile crr --piggyback --count 300k --concurrency 1000 --request-bytes 64 --response-bytes 64 \
         --threshold connections.failed_ratio<=0",
    );
    assert_eq!(load.number("/connections/completed"), COUNT, "{load}");
    assert_eq!(server.number("/connections/completed"), COUNT, "{server}");
    assert_eq!(server.number("/connections/open_at_end"), 0.0, "{server}");

    // Exactly three each way, but for what had to be sent again and the question who has the address.
    let again = load.number("/packets/retransmitted") + server.number("/packets/retransmitted");
    for (end, report) in [("load", &load), ("server", &server)] {
        for path in ["/packets/tx", "/packets/rx"] {
            let extra = report.number(path) - 3.0 * COUNT;
            assert!(extra >= 0.0 && extra <= 2.0 * again + 8.0, "{end} {path}: {extra} beyond 3 each: {report}");
        }
    }
    assert!(again < COUNT / 100.0, "{again} sent again: {load}");
    for report in [&load, &server] {
        let doorbells = report.number("/syscalls/per_packet");
        assert!(doorbells < 1.0 / 8.0, "{doorbells} doorbells a packet: {report}");
    }
}

#[test]
fn held_connections_close_cleanly() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    const COUNT: f64 = 200_000.0;
    let [server, load] = engine_to_engine(
        &stage,
        "--app respond --request-bytes 64 --response-bytes 64",
        "--profile hold --connections 200k --rate 40k --hold 1s --request-bytes 64 --response-bytes 64 \
         --threshold connections.failed_ratio<=0",
    );
    assert_eq!(load.number("/connections/held_max"), COUNT, "{load}");
    assert_eq!(load.number("/connections/completed"), COUNT, "both FINs are acknowledged: {load}");
    assert_eq!(load.number("/connections/open_at_end"), 0.0, "{load}");
    assert_eq!(server.number("/connections/completed"), COUNT, "{server}");
    let octets = load.number("/memory/bytes_per_idle_connection");
    eprintln!("{octets} octets per idle connection");
    assert!((64.0..256.0).contains(&octets), "{octets} octets per idle connection: {load}");
    // Measured when all were open: afterwards the table gives its memory back.
    let resident = load.number("/memory/bytes_per_connection_rss");
    assert!((octets..1_024.0).contains(&resident), "{resident} resident octets per connection: {load}");
}

#[test]
fn an_answer_without_an_end_is_cut_short() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let begun = std::time::Instant::now();
    let [_, load] = engine_to_engine(
        &stage,
        "--app chargen",
        "--profile bulk --response-bytes eof --request-bytes 0 --connections 3 --duration 1s",
    );
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(30), "the drain has a bound of 10 s: {took:?}");
    assert_eq!(load.failed(), 0.0, "{load}");
    assert!(load.number("/rate/rx_bits_per_s") > 1e6, "{load}");
    let reasons = load.report["reasons"].to_string();
    assert!(reasons.contains("3 connections were cut short"), "{reasons}");
}

#[test]
fn the_ring_has_no_kernel_in_the_way() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let json = stage.file("ring.json");
    let mut ring = std::process::Command::new(SYNCLINE);
    ring.args(["bench", "ring", "--duration", "2s", "--json"]).arg(&json);
    let done = stage.start("ring", ring, Some(json)).finish(PATIENCE).expect(0);
    assert_eq!(done.failed(), 0.0, "{done}");
    assert!(done.number("/rate/achieved_cps") > 10_000.0, "{done}");
}
