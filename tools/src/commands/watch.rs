//! Whoever watches a run: a view on the terminal, a line a second on stderr, or nobody.

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::OutputArgs;
use crate::error::Result;
use crate::live::{Facts, Key, Model, Screen, SoFar};
use crate::metrics::Metrics;
use crate::net::MetricsAddr;
use crate::report::blocks::Span;
use crate::report::model::{IntervalReport, SearchStep};
use crate::report::text::si;
use crate::report::verdict::causes;
use crate::say::say;
use crate::signals::StopFlag;

/// How often the view is drawn: its clock is to run evenly, its figures come once a second.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// Shows a run to whoever watches it.
pub(super) struct Watch {
    lines: bool,
    wanted: bool,
    view: Option<View>,
    cores: Vec<usize>,
    metrics: Option<Metrics>,
}

/// The view of a run, or of one run of a search after the other.
struct View {
    screen: Screen,
    model: Model,
    drawn_at: Option<Instant>,
}

impl Watch {
    /// The view if stdin, stdout and stderr are a terminal, lines if stderr is one; as `output` says otherwise.
    ///
    /// Metrics are served in the network namespace that this is called in.
    ///
    /// # Errors
    /// Exit 3 if the address for metrics cannot be had.
    pub(super) fn new(output: &OutputArgs, cores: &[Option<usize>], command: &'static str) -> Result<Self> {
        let cores: Vec<_> = cores.iter().flatten().copied().collect();
        let serve = |addr: MetricsAddr| Metrics::serve(addr.0, command, cores.clone());
        let metrics = output.metrics.map(serve).transpose()?;
        let wanted = !output.plain && !output.progress && Screen::is_possible();
        Ok(Self { lines: output.progress || io::stderr().is_terminal(), wanted, view: None, cores, metrics })
    }

    /// Lines only: for what has no view.
    pub(super) fn without_view(self) -> Self {
        Self { wanted: false, ..self }
    }

    /// Lines only if `output` asks for them: a server is quiet by itself.
    pub(super) fn lines_if_asked(self, output: &OutputArgs) -> Self {
        Self { lines: output.progress, ..self }
    }

    /// The metrics, if they are served.
    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// The cores of the workers: where not to be.
    pub(super) fn cores(&self) -> Vec<usize> {
        self.cores.clone()
    }

    /// A run begins.
    pub(super) fn begin(&mut self, facts: Facts) {
        match &mut self.view {
            Some(view) => {
                let steps = std::mem::take(&mut view.model.steps);
                view.model = Model { steps, ..Model::new(facts) };
            }
            None if self.wanted => {
                // Without a screen there are lines.
                let view = |screen| View { screen, model: Model::new(facts), drawn_at: None };
                self.view = Screen::take().ok().map(view);
            }
            None => {}
        }
    }

    /// A second of it is over.
    pub(super) fn interval(&mut self, interval: &IntervalReport) {
        match &mut self.view {
            Some(view) => view.model.add(interval),
            None if self.lines => line(interval),
            None => {}
        }
    }

    /// Whether a verdict so far would be shown.
    pub(super) fn wants_verdict(&self) -> bool {
        self.view.is_some()
    }

    /// What could be said if the run ended now.
    pub(super) fn so_far(&mut self, so_far: Option<SoFar>) {
        if let Some(view) = &mut self.view {
            view.model.so_far = so_far;
        }
    }

    /// Draws if it is time to, and waits at most `timeout` for a key that raises `stop`; without a view just waits,
    /// or until this thread is unparked.
    pub(super) fn turn(&mut self, elapsed: Option<Duration>, stop: &StopFlag, timeout: Duration) {
        let Some(view) = &mut self.view else { return thread::park_timeout(timeout) };
        if view.turn(elapsed, stop, timeout).is_err() {
            // The terminal went away; the run has other readers.
            self.view = None;
        }
    }

    /// A step of a search is over.
    pub(super) fn step(&mut self, step: &SearchStep) {
        if let Some(view) = &mut self.view {
            view.model.steps.push(step.clone());
        } else if self.lines {
            let state = if step.pass { "holds" } else { step.verdict.name() };
            let repeat = if step.repeat { ", again" } else { "" };
            say(format_args!("search{repeat}: {} {state} ({} conn/s)", step.value, si(step.achieved_cps)));
        }
    }

    /// Prints a line about a flood.
    pub(super) fn flood(&self, at: Duration, span: &Span) {
        if !self.lines {
            return;
        }
        let per_second = |count: u64| si(Some(count as f64 / span.length.as_secs_f64()));
        let (sent, received) = (per_second(span.traffic.tx_frames), per_second(span.traffic.rx_frames));
        say(format_args!("{:>4.0} s {sent:>10} frames/s sent {received:>10} received", at.as_secs_f64()));
    }
}

impl View {
    fn turn(&mut self, elapsed: Option<Duration>, stop: &StopFlag, timeout: Duration) -> io::Result<()> {
        self.model.elapsed = elapsed;
        self.model.stopping = stop.is_raised();
        if self.drawn_at.is_none_or(|at| at.elapsed() >= DRAW_EVERY) {
            self.screen.draw(&self.model)?;
            self.drawn_at = Some(Instant::now());
        }
        if let Some(Key::End) = self.screen.key(timeout)? {
            stop.escalate();
            self.drawn_at = None;
        }
        Ok(())
    }
}

fn line(interval: &IntervalReport) {
    let blocks = &interval.blocks;
    let failed: u64 = causes(&blocks.connections.failed).iter().map(|(_, count)| count).sum();
    say(format_args!(
        "{:>4.0} s {:8} {:>10} conn/s {:>10} req/s {:>9} open {:>7} failed  connect p99 {} µs",
        interval.at_s + interval.seconds,
        interval.phase,
        si(blocks.rate.achieved_cps),
        si(blocks.rate.requests_per_s),
        blocks.connections.open_at_end.unwrap_or(0),
        failed,
        blocks.latency_us.connect.p99.map_or_else(|| "-".into(), |p99| p99.to_string())
    ));
}
