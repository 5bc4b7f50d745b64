//! What a run leaves behind at the server, and the run after it on the same addresses and ports.

use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::Signal;
use syncline::bed::BedSpec;

use crate::stage::{End, Finished, KERNEL_B, PATIENCE, Stage, stage, towards_a_kernel};

/// Answers and closes first, so that its kernel keeps the connections' TIME-WAIT.
const SERVER: &str = "
import asyncio, socket
async def talk(r, w):
    w.write(await r.read(100)); w.close()
async def idle(r, w):
    await asyncio.sleep(600)
async def main():
    await asyncio.start_server(talk, '10.9.0.2', 7, backlog=1000)
    await asyncio.start_server(idle, '10.9.0.2', 9, backlog=1000)
    print('ready', flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
";

/// Connections of a run, each from a port of its own: all that there are.
const COUNT: f64 = 20.0;

/// A run over all ports; `seed` makes its other keys, which are to make no difference.
fn run(stage: &Stage, seed: &str) -> Finished {
    let words =
        "--local-ports 40000-40019 --target 10.9.0.2:7 --profile crr --first-close server --count 20 --concurrency 5";
    let done = stage.load(&format!("{words} {seed}")).expect_success();
    assert_eq!(done.number("/connections/completed"), COUNT, "{done}");
    done
}

/// None of its SYNs had to go twice.
fn assert_let_in(done: &Finished) {
    for counter in ["syn_retransmitted", "syn_met_old", "resets_sent"] {
        assert_eq!(done.number(&format!("/counters/{counter}")), 0.0, "{counter}: {done}");
    }
}

#[test]
fn a_run_follows_another_on_the_ports_that_a_kernel_has_in_time_wait() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3", "ss"]) else { return };
    let mut server = stage.spawn_in(End::B, "server", &["python3", "-c", SERVER]);
    server.wait_ready();
    for seed in ["", "", "--seed 7", "--seed 7"] {
        assert_let_in(&run(&stage, seed));
        let waiting = stage.shell(End::B, "ss -Htn state time-wait sport = :7 | wc -l");
        assert_eq!(waiting.trim(), "20", "all ports are in the server's TIME-WAIT");
    }
}

#[test]
fn a_run_follows_another_on_the_ports_that_our_server_has_in_time_wait() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let mut server = stage.engine(End::B, "serve", &format!("--addr {KERNEL_B} --port 7 --app respond"));
    server.wait_ready();
    for seed in ["", "", "--seed 7", "--seed 7"] {
        assert_let_in(&run(&stage, seed));
    }
    let served = server.interrupt();
    assert_eq!(served.number("/counters/time_waits_reused"), 3.0 * COUNT, "{served}");
}

#[test]
fn connections_that_a_killed_run_left_open_hold_nobody_up() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3", "ss"]) else { return };
    let mut server = stage.spawn_in(End::B, "server", &["python3", "-c", SERVER]);
    server.wait_ready();
    let words =
        "--addr 10.9.0.1/24 --local-ports 40000-40019 --target 10.9.0.2:9 --profile hold --connections 20 --hold 60s";
    let killed = stage.engine(End::A, "load", words);
    let open = || stage.shell(End::B, "ss -Htn state established sport = :9 | wc -l");
    while open().trim() != "20" {
        thread::sleep(Duration::from_millis(50));
    }
    killed.signal(Signal::SIGKILL);
    drop(killed);
    fs::remove_file(stage.file("load-A.json")).ok();

    // The kernel answers each SYN out of the old connection, which our RST ends; none waits for an RTO of a second.
    let words = "--addr 10.9.0.1/24 --local-ports 40000-40019 --target 10.9.0.2:9 --profile connect --close rst --count 20 --concurrency 5";
    let done = stage.engine(End::A, "load", words).finish(PATIENCE).expect_success();
    for counter in ["/counters/syn_met_old", "/counters/syn_retransmitted", "/connections/syn_retransmitted"] {
        assert_eq!(done.number(counter), COUNT, "{counter}: {done}");
    }
    assert_eq!(done.number("/counters/retransmission_timeouts"), 0.0, "{done}");
    let slowest = done.number("/latency_us/connect/max");
    assert!(slowest < 900_000.0, "{slowest} µs: {done}");
}
