//! The live view on a terminal: the program, or a part of it, on a pseudo-terminal, and what can be seen there.

use std::io::{Read as _, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use syncline::live::{Facts, Model, Screen};

/// A busy machine is many times slower than an idle one.
const PATIENCE: Duration = Duration::from_secs(120);

const SIZE: PtySize = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };

/// Where lines are put together and erased characters go back, <termios.h>.
const ICANON_AND_ECHO: u32 = 0o2 | 0o10;

fn size(cells: u16) -> NonZero<u16> {
    NonZero::new(cells).unwrap()
}

/// A program on a terminal.
struct Watched {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    seen: Arc<Mutex<vt100::Parser>>,
    /// Everything that was written, for what has scrolled away.
    said: Arc<Mutex<Vec<u8>>>,
}

impl Watched {
    fn start(program: &Path, words: &str, environment: &[(&str, &str)]) -> Self {
        let pair = native_pty_system().openpty(SIZE).unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(words.split_whitespace());
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).unwrap();
        let seen = Arc::new(Mutex::new(vt100::Parser::new(size(SIZE.rows), size(SIZE.cols), 0)));
        let said = Arc::new(Mutex::new(Vec::new()));
        let (mut output, parser, all) = (pair.master.try_clone_reader().unwrap(), Arc::clone(&seen), Arc::clone(&said));
        thread::spawn(move || {
            let mut octets = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut octets) {
                parser.lock().unwrap().process(&octets[..count]);
                all.lock().unwrap().extend_from_slice(&octets[..count]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { child, master: pair.master, keyboard, seen, said }
    }

    fn load(more: &str, environment: &[(&str, &str)]) -> Self {
        let words = format!("bench ring --duration 600 --concurrency 8 {more}");
        Self::start(Path::new(env!("CARGO_BIN_EXE_syncline")), &words, environment)
    }

    fn contents(&self) -> String {
        self.seen.lock().unwrap().screen().contents()
    }

    fn on_alternate_screen(&self) -> bool {
        self.seen.lock().unwrap().screen().alternate_screen()
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "{what} does not come:\n{}", self.contents());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for_text(&self, text: &str) {
        self.wait_for(text, |watched| watched.contents().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.process_id().unwrap().try_into().unwrap())
    }

    /// Waits for the end, checks that the terminal is as it was, and returns what was said after the view.
    fn end(mut self, exit: u32) -> String {
        let status = self.child.wait().unwrap();
        self.wait_for("the terminal", |watched| !watched.on_alternate_screen());
        let contents = self.contents();
        assert_eq!(status.exit_code(), exit, "{contents}");
        assert!(!self.seen.lock().unwrap().screen().hide_cursor(), "{contents}");
        let flags = self.master.get_termios().unwrap().local_flags.bits();
        assert_eq!(flags & ICANON_AND_ECHO, ICANON_AND_ECHO, "{contents}");
        let said = String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned();
        // The sequence that leaves the alternate screen.
        said.rsplit("\x1b[?1049l").next().unwrap_or_default().to_owned()
    }
}

#[test]
fn q_ends_a_run_with_its_report() {
    let mut run = Watched::load("", &[]);
    run.wait_for_text("q ends the run");
    run.wait_for_text("so far CEILING");
    let colour = |watched: &Watched| {
        let parser = watched.seen.lock().unwrap();
        let cells = (0..SIZE.rows).flat_map(|row| (0..SIZE.cols).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| parser.screen().cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default)
    };
    assert!(run.on_alternate_screen() && colour(&run));
    run.press("x");
    thread::sleep(Duration::from_millis(200));
    assert!(run.on_alternate_screen(), "other keys do nothing");
    run.press("q");
    let report = run.end(6);
    assert!(report.contains("interrupted before the end") && report.contains("conn"), "{report}");

    let mut run = Watched::load("", &[("NO_COLOR", "1")]);
    run.wait_for_text("so far CEILING");
    assert!(!colour(&run));
    // Ctrl-C is a key here.
    run.press("\u{3}");
    run.end(6);
}

#[test]
fn a_terminal_may_shrink() {
    let mut run = Watched::load("", &[]);
    run.wait_for_text("q ends the run");
    for (rows, cols) in [(12, 40), (3, 10), (50, 132)] {
        run.seen.lock().unwrap().screen_mut().set_size(size(rows), size(cols));
        run.master.resize(PtySize { rows, cols, ..SIZE }).unwrap();
        thread::sleep(Duration::from_millis(600));
        assert!(run.on_alternate_screen(), "{}", run.contents());
    }
    run.wait_for_text("so far CEILING");
    run.press("q");
    run.end(6);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let run = Watched::load("", &[]);
    run.wait_for_text("q ends the run");
    kill(run.pid(), Signal::SIGTERM).unwrap();
    let report = run.end(6);
    assert!(report.contains("interrupted before the end"), "{report}");
}

#[test]
fn lines_where_a_view_is_not_wanted_or_not_possible() {
    for (flag, environment) in [("--plain", &[][..]), ("--progress", &[]), ("", &[("TERM", "dumb")])] {
        let mut run = Watched::load(flag, environment);
        run.wait_for_text("conn/s");
        assert!(!run.on_alternate_screen(), "{flag}: {}", run.contents());
        run.press("\u{3}");
        run.end(6);
    }
}

/// What only looks on must not take a worker's time: it runs on another core, or comes last.
#[test]
fn the_view_keeps_out_of_the_workers_way() {
    let mut run = Watched::load("", &[]);
    run.wait_for_text("so far CEILING");
    let tasks = format!("/proc/{}/task", run.pid());
    let mut seen = Vec::new();
    for task in fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path()) {
        let stat = fs::read_to_string(task.join("stat")).unwrap();
        let (name, fields) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        // proc_pid_stat(5): nice is field 19, and the state, after the name, is field 3.
        let nice: i32 = fields.split_whitespace().nth(16).unwrap().parse().unwrap();
        seen.push((name.to_owned(), nice));
    }
    let nice = |name: &str| seen.iter().filter(|(task, _)| task.starts_with(name)).map(|(_, nice)| *nice).collect();
    let (workers, collectors, signals): (Vec<i32>, Vec<i32>, Vec<i32>) =
        (nice("worker-"), nice("collector"), nice("signals"));
    // The workers have the priority that the program was started with.
    assert_eq!((workers, collectors), (vec![signals[0]; 2], vec![19]), "{seen:?}");
    run.press("q");
    run.end(6);
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    let run = Watched::start(&env::current_exe().unwrap(), "--exact screen_taken_and_panic --ignored --nocapture", &[]);
    run.wait_for_text("of some thread");
    let contents = run.end(0);
    assert!(contents.contains("panicked at"), "{contents}");
}

/// The program of the test above.
#[test]
#[ignore = "needs a terminal of its own"]
fn screen_taken_and_panic() {
    let mut screen = Screen::take().unwrap();
    let model = Model::new(Facts { title: "a run".into(), ..Facts::default() });
    screen.draw(&model).unwrap();
    thread::sleep(Duration::from_millis(200));
    let panicked = thread::spawn(|| panic!("of some thread")).join();
    assert!(panicked.is_err());
    // Drawing goes on, and must not be seen.
    screen.draw(&model).unwrap();
}
