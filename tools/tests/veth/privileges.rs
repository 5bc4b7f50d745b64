//! What a running engine may still do, and who may start one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stage::{End, PATIENCE, Running, SYNCLINE, Stage, stage, towards_a_kernel};
use syncline::bed::BedSpec;
use syncline::netns;

const SERVE: &str = "--addr 10.9.0.1/24 --port 80 --app http";

/// Memory that a user may lock: less than the frame buffers take, and all.
const LITTLE: &str = "--memlock=65536:65536";
const UNLIMITED: &str = "--memlock=unlimited:unlimited";

/// A user that has nothing.
const NOBODY: &str = "65534";

/// `/proc/PID/task/TID/status` of every thread.
fn threads(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name}: {status}")).trim()
}

/// What a thread still could do; `None`: nothing, and there is no way to get it.
fn power(status: &str) -> Option<String> {
    let set = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
        .into_iter()
        .find(|set| u64::from_str_radix(field(status, set), 16) != Ok(0))
        .or((field(status, "NoNewPrivs") != "1").then_some("NoNewPrivs"))?;
    Some(format!("{} has {set} {}", field(status, "Name"), field(status, set)))
}

/// Waits until `program` has so many threads, and none of them can do anything that takes a privilege.
fn assert_harmless(program: &Running, threads_min: usize) {
    let begun = Instant::now();
    loop {
        let threads = threads(program.pid());
        let powers: Vec<_> = threads.iter().filter_map(|status| power(status)).collect();
        if threads.len() >= threads_min && powers.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{} threads: {powers:?}", threads.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_thread_keeps_a_capability() {
    let Some(stage) = stage(&towards_a_kernel(), &["curl"]) else { return };
    let server = stage.serve("--port 80 --app http");
    // The worker, the one that waits for signals, and the first.
    assert_harmless(&server, 3);
    assert_eq!(stage.shell(End::B, "curl -sS --fail http://10.9.0.1/bytes/100000 | wc -c").trim(), "100000");
    let report = server.interrupt();
    assert!(matches!(report.code(), Some(0 | 6)), "{report}");
    assert_eq!(report.number("/connections/completed"), 1.0, "the report was written: {report}");

    let peer =
        "import socket, time; s = socket.create_server(('10.9.0.2', 9)); print('ready', flush=True); time.sleep(60)";
    let mut peer = stage.spawn_in(End::B, "peer", &["python3", "-c", peer]);
    peer.wait_ready();
    for profile in
        ["hold --connections 10 --hold 60s --request-bytes 1 --response-bytes 0", "syn-flood --rate 100 --duration 60s"]
    {
        let words = format!("--addr 10.9.0.1/24 --target 10.9.0.2:9 --profile {profile} --progress");
        let mut load = stage.engine(End::A, "load", &words);
        load.wait_until_said("runs", |said| said.contains(" s "));
        assert_harmless(&load, 3);
        load.interrupt();
    }
}

#[test]
fn a_demo_leaves_its_bed_to_another_process() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    for command in ["demo --seconds 60", "bench raw --name fresh --duration 60s"] {
        let mut program = Command::new(SYNCLINE);
        program.args(command.split_ascii_whitespace());
        let program = stage.start("demo", program, None);
        // A bed's name begins with its maker's process id.
        let namespace = format!("s{:x}x0-a", program.pid().as_raw());
        assert_harmless(&program, 3);
        assert!(netns::exists(&namespace), "{command} has no {namespace}");
        // Not even a kill leaves it: the keeper sees that its pipe has ended.
        kill(program.pid(), Signal::SIGKILL).unwrap();
        program.finish(PATIENCE);
        let begun = Instant::now();
        while netns::exists(&namespace) {
            assert!(begun.elapsed() < PATIENCE, "{command} left {namespace}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A copy of the program that others may start, with `capabilities` as `setcap` writes them.
struct Granted(PathBuf);

impl Granted {
    fn new(stage: &Stage, capabilities: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("syncline-granted-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let granted = Self(dir);
        fs::set_permissions(&granted.0, Permissions::from_mode(0o755)).unwrap();
        fs::copy(SYNCLINE, granted.program()).unwrap();
        fs::set_permissions(granted.program(), Permissions::from_mode(0o755)).unwrap();
        stage.shell(End::A, &format!("setcap {capabilities}=ep {}", granted.program()));
        granted
    }

    fn program(&self) -> String {
        self.0.join("syncline").display().to_string()
    }

    /// Runs it in the namespace of end a as a user without any privilege, whose limit on memory is `memlock`.
    fn run(&self, stage: &Stage, name: &str, memlock: &str, words: &str) -> Running {
        let program = self.program();
        let mut line =
            vec!["prlimit", memlock, "setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", &program];
        line.extend(words.split_ascii_whitespace());
        stage.spawn_in(End::A, name, &line)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // Where it locked its queues, if it did; empty by now.
        let _ = fs::remove_dir(format!("/tmp/syncline-{NOBODY}"));
    }
}

#[test]
fn a_user_without_privilege_serves_and_loads_with_what_setcap_grants() {
    let programs = ["setcap", "setpriv", "prlimit", "curl"];
    let Some(stage) = stage(&towards_a_kernel(), &programs) else { return };
    let dev = stage.dev(End::A);
    stage.shell(End::B, "ip route add 198.18.0.0/15 via 10.9.0.1");
    // By the capability to lock memory, and by a limit that allows it, where this host's root may raise it.
    let raised = Command::new("prlimit").args([UNLIMITED, "true"]).status().unwrap().success();
    let by_limit = raised.then_some(("cap_net_raw,cap_net_admin,cap_bpf", UNLIMITED));
    let by_capability = ("cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock", LITTLE);
    for (capabilities, memlock) in [Some(by_capability), by_limit].into_iter().flatten() {
        let granted = Granted::new(&stage, capabilities);
        let mut server = granted.run(&stage, "serve", memlock, &format!("serve --dev {dev} {SERVE}"));
        server.wait_ready();
        let threads = threads(server.pid());
        assert!(threads.iter().all(|status| field(status, "Uid").starts_with(NOBODY)), "{threads:?}");
        assert_harmless(&server, 3);
        assert_eq!(stage.shell(End::B, "curl -sS --fail http://10.9.0.1/bytes/100000 | wc -c").trim(), "100000");
        let report = server.interrupt();
        assert!(matches!(report.code(), Some(0 | 6)), "{report}");

        let words = format!("load --dev {dev} --addr 10.9.0.1/24 --target 10.9.0.2:9 --profile syn-flood --count 100");
        let flood = granted.run(&stage, "flood", memlock, &words).finish(PATIENCE).expect(0);
        assert!(flood.stdout.contains("100 RST"), "a kernel without a listener refuses each: {flood}");
    }
}

#[test]
fn what_a_user_lacks_is_named() {
    let Some(stage) = stage(&towards_a_kernel(), &["setcap", "setpriv", "prlimit"]) else { return };
    let dev = stage.dev(End::A);
    let granted = Granted::new(&stage, "cap_net_raw,cap_net_admin");
    let serve = format!("serve --dev {dev} {SERVE}");
    let done = granted.run(&stage, "no-bpf", LITTLE, &serve).finish(PATIENCE).expect(3);
    done.says(&["missing CAP_BPF", "setcap"]);
    let done = granted.run(&stage, "doctor", LITTLE, "doctor").finish(PATIENCE).expect(3);
    assert!(done.stdout.contains("CAP_BPF") && done.stdout.contains("setcap cap_net_raw,"), "{done}");
    assert!(done.stdout.contains("ulimit -l unlimited, or CAP_IPC_LOCK"), "{done}");
    drop(granted);
    let granted = Granted::new(&stage, "cap_net_raw,cap_net_admin,cap_bpf");
    let done = granted.run(&stage, "unlocked", LITTLE, &serve).finish(PATIENCE).expect(3);
    done.says(&["locked memory", "CAP_IPC_LOCK"]);
    let netns = stage.netns(End::A);
    let entering = format!("{serve} --netns {netns}");
    let done = granted.run(&stage, "entering", LITTLE, &entering).finish(PATIENCE).expect(3);
    done.says(&[&netns, "CAP_SYS_ADMIN"]);
}
