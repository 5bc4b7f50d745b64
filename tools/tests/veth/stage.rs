//! A test bed, and programs on its ends that end with the test.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fmt, thread};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use syncline::apps::payload;
use syncline::bed::{Bed, BedSpec};

/// The program under test.
pub(crate) const SYNCLINE: &str = env!("CARGO_BIN_EXE_syncline");

/// Longest that anything may take; a busy machine is many times slower than an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Octets of the large transfers.
pub(crate) const GIB: u64 = 1 << 30;

/// Network of the beds without a middle: end a is `.1`, end b is `.2`.
pub(crate) const KERNEL_B: &str = "10.9.0.2/24";

/// One end of a bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    A,
    B,
}

/// A bed, a directory for what is written, and this test's turn on the machine.
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// Says that a test cannot run here. Where `CI` is set, that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "{why}, and CI is to have it");
    eprintln!("SKIPPED: {why}");
}

/// A stage with a bed for `spec`, if this host has root and `programs`.
pub(crate) fn stage(spec: &BedSpec, programs: &[&str]) -> Option<Stage> {
    static TURN: Mutex<()> = Mutex::new(());
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        skip("test beds need root");
        return None;
    }
    if let Some(missing) = programs.iter().find(|program| !installed(program)) {
        skip(&format!("{missing} is not installed (`make setup` installs it)"));
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("veth-{}-{serial}", process::id()));
    fs::create_dir_all(&dir).unwrap();
    let bed = Bed::fresh(spec).unwrap();
    Some(Stage { bed, dir, _turn: turn })
}

/// A bed whose end b is an ordinary Linux host at 10.9.0.2, and end a is for the engine.
pub(crate) fn towards_a_kernel() -> BedSpec {
    BedSpec { kernel_b: vec![KERNEL_B.parse().unwrap()], ..BedSpec::default() }
}

fn installed(program: &str) -> bool {
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(sbin).any(|dir| dir.join(program).is_file())
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Stage {
    pub(crate) fn netns(&self, end: End) -> String {
        match end {
            End::A => self.bed.name().netns_a(),
            End::B => self.bed.name().netns_b(),
        }
    }

    pub(crate) fn dev(&self, end: End) -> String {
        match end {
            End::A => self.bed.name().dev_a(),
            End::B => self.bed.name().dev_b(),
        }
    }

    /// Starts `command` (`serve` or `load`) of the program on `end` with the flags in `words`.
    pub(crate) fn engine(&self, end: End, command: &str, words: &str) -> Running {
        let (netns, dev) = (self.netns(end), self.dev(end));
        let mut program = Command::new(SYNCLINE);
        program.args([command, "--netns", &netns, "--dev", &dev]).args(words.split_ascii_whitespace());
        let json = self.file(&format!("{command}-{end:?}.json"));
        program.arg("--json").arg(&json);
        self.start(&format!("{command}-{end:?}"), program, Some(json))
    }

    /// A server on end a, at 10.9.0.1, that answers already.
    pub(crate) fn serve(&self, words: &str) -> Running {
        let mut server = self.engine(End::A, "serve", &format!("--addr 10.9.0.1/24 {words}"));
        server.wait_ready();
        server
    }

    /// A load generator on end a, at 10.9.0.1, from its start to its end.
    pub(crate) fn load(&self, words: &str) -> Finished {
        self.engine(End::A, "load", &format!("--addr 10.9.0.1/24 {words}")).finish(PATIENCE)
    }

    /// Starts a program of the system in the namespace of `end`.
    pub(crate) fn spawn_in(&self, end: End, name: &str, arguments: &[&str]) -> Running {
        let netns = self.netns(end);
        let mut program = Command::new("ip");
        program.args(["netns", "exec", &netns]).args(arguments);
        self.start(name, program, None)
    }

    /// Runs a line of shell in the namespace of `end` and returns what it printed; it must succeed.
    pub(crate) fn shell(&self, end: End, line: &str) -> String {
        let done = self.spawn_in(end, "shell", &["sh", "-ec", line]).finish(PATIENCE);
        assert!(done.status.success(), "`{line}` failed: {done}");
        done.stdout
    }

    /// Runs `code` as a Python program in the namespace of `end`; it must succeed.
    pub(crate) fn python(&self, end: End, code: &str) -> String {
        let done = self.spawn_in(end, "python", &["python3", "-c", code]).finish(PATIENCE);
        assert!(done.status.success(), "Python failed: {done}");
        done.stdout
    }

    /// Starts `program`, its output in files.
    pub(crate) fn start(&self, name: &str, mut program: Command, json: Option<PathBuf>) -> Running {
        let (out, err) = (self.file(&format!("{name}.out")), self.file(&format!("{name}.err")));
        let child = program
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Running { name: name.into(), child, out, err, json }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What `ip -d link` says of the device of `end`.
    pub(crate) fn link(&self, end: End) -> String {
        self.shell(end, &format!("ip -d link show dev {}", self.dev(end)))
    }
}

/// A program that is killed, with what it started, when this value goes.
pub(crate) struct Running {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    json: Option<PathBuf>,
}

/// A program that has ended.
pub(crate) struct Finished {
    name: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Its JSON report; null if it wrote none.
    pub(crate) report: Value,
}

impl Running {
    /// Waits for the line `ready` of a server.
    pub(crate) fn wait_ready(&mut self) {
        self.wait_until("says that it is ready", |out| out.lines().any(|line| line == "ready"));
    }

    /// Waits until what the program printed passes `test`.
    pub(crate) fn wait_until(&mut self, what: &str, test: impl Fn(&str) -> bool) {
        self.wait_for(&self.out.clone(), what, test);
    }

    /// Waits until what the program said on stderr passes `test`.
    pub(crate) fn wait_until_said(&mut self, what: &str, test: impl Fn(&str) -> bool) {
        self.wait_for(&self.err.clone(), what, test);
    }

    fn wait_for(&mut self, file: &Path, what: &str, test: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !test(&fs::read_to_string(file).unwrap_or_default()) {
            let ended = self.child.try_wait().unwrap();
            let err = fs::read_to_string(&self.err).unwrap_or_default();
            assert!(ended.is_none(), "{} ended before it {what}: {ended:?} {err}", self.name);
            assert!(begun.elapsed() < PATIENCE, "{} never {what}: {err}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// The process itself.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Ctrl-C, and then its end.
    pub(crate) fn interrupt(self) -> Finished {
        self.signal(Signal::SIGINT);
        self.finish(PATIENCE)
    }

    /// Ends it, also where whoever started the tests has SIGINT ignored.
    pub(crate) fn terminate(self) -> Finished {
        self.signal(Signal::SIGTERM);
        self.finish(PATIENCE)
    }

    /// Waits for its end, which must come within `patience`.
    pub(crate) fn finish(mut self, patience: Duration) -> Finished {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > patience {
                let err = fs::read_to_string(&self.err).unwrap_or_default();
                panic!("{} did not end within {patience:?}: {err}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let report = self.json.as_ref().and_then(|path| serde_json::from_str(&read(path)).ok());
        let (stdout, stderr) = (read(&self.out), read(&self.err));
        Finished { name: self.name.clone(), status, stdout, stderr, report: report.unwrap_or_default() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its group first, so that what it started goes with it; that it is gone already is no error.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Finished {
    /// The exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics with everything there is unless the exit code is `code`.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Panics with everything there is unless the run was interrupted and drained. Lateness of a busy machine comes
    /// before the interruption in what the exit code says.
    pub(crate) fn expect_interrupted(self) -> Self {
        assert!(matches!(self.code(), Some(5 | 6)), "{self}");
        self
    }

    /// Panics unless every connection was a success. A busy machine may launch late, so that the figures tell about
    /// it (exit 5); the connections are to succeed nevertheless.
    pub(crate) fn expect_success(self) -> Self {
        assert!(matches!(self.code(), Some(0 | 5)), "{self}");
        assert_eq!(self.failed(), 0.0, "{self}");
        self
    }

    /// The number at `path` (JSON pointer) of the report.
    pub(crate) fn number(&self, path: &str) -> f64 {
        let value = self.report.pointer(path).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no number at {path}: {self}"))
    }

    /// Connections that failed, for any reason.
    pub(crate) fn failed(&self) -> f64 {
        let causes = self.report.pointer("/connections/failed").and_then(Value::as_object);
        let causes = causes.unwrap_or_else(|| panic!("no causes: {self}"));
        causes.values().filter_map(Value::as_f64).sum()
    }

    /// Asserts that it said why it failed in one line that holds all of `words`.
    pub(crate) fn says(&self, words: &[&str]) {
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "an error is one line: {self}");
        let absent: Vec<_> = words.iter().filter(|word| !self.stderr.contains(**word)).collect();
        assert!(absent.is_empty(), "the error lacks {absent:?}: {self}");
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, status, stdout, stderr, .. } = self;
        let signal = status.signal().map(|signal| format!(" (signal {signal})")).unwrap_or_default();
        write!(f, "{name}: {status}{signal}\n--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}

/// SHA-256, in hexadecimal, of the first `len` octets that servers and generators send.
pub(crate) fn sha256_of_pattern(len: u64) -> String {
    let mut hash = Sha256::new();
    each_block(len, |block| hash.update(block));
    hash.finalize().iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The same, of the large transfers.
pub(crate) fn sha256_of_gib() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| sha256_of_pattern(GIB))
}

/// Writes the first `len` octets of the pattern into a file.
pub(crate) fn write_pattern(path: &Path, len: u64) {
    use std::io::Write as _;
    let mut file = File::create(path).unwrap();
    each_block(len, |block| file.write_all(block).unwrap());
}

fn each_block(len: u64, mut work: impl FnMut(&[u8])) {
    let mut block = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let now = (len - at).min(block.len() as u64) as usize;
        payload::fill(at, &mut block[..now]);
        work(&block[..now]);
        at += now as u64;
    }
}
