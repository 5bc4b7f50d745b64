//! The thread of a worker: poll, look around now and then, sleep when there is nothing to do.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use core_affinity::CoreId;
use syncline_engine::app::{App, Net};
use syncline_engine::page::PageSource;
use syncline_engine::stats::Stats;
use syncline_engine::time::{Clock as _, Instant};
use syncline_engine::worker::Worker;

use super::lanes::DrainWalk;
use super::{Gauges, MonotonicClock, Waitable};
use crate::error::{Error, Result};
use crate::signals::{Stop, StopFlag};

/// An application that can be brought to an end.
pub trait Lane: App {
    /// Called about once a millisecond. `stop` is what the user wants. True when there is nothing left to do; an
    /// application that was told to [`Drain`](Stop::Drain) closes what is open first.
    fn look_around(&mut self, net: &mut Net<'_>, stop: Stop, drain: &mut DrainWalk) -> bool;

    /// Whether it times an answer that is still to come: then a wake-up would be part of what it reports.
    fn times_an_answer(&self) -> bool {
        false
    }

    /// When a launch or a request is next due: a core that has just slept would be slow to send it.
    fn next_due(&self) -> Option<Instant> {
        None
    }
}

/// How often the driver looks beyond the loop: stop flag, application's end.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How often it asks for the device's health and publishes its counters: system calls, if short ones.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// How long a worker with nothing to do goes on polling before it sleeps. Traffic at more than a few thousand frames a
/// second never lets it sleep; below that a wake-up costs less than the core.
const SPIN: Duration = Duration::from_micros(200);

/// The same while an answer is timed. A wake-up takes some 50 µs, now and then 200: less than half a percent of this.
const SPIN_FOR_ANSWER: Duration = Duration::from_millis(50);

/// A deadline nearer than this is waited for by polling: the kernel's wake-up takes about as long.
const WAKE_UP: Duration = Duration::from_micros(60);

/// What a schedule wants within this is waited for by polling: what a core sends first after a sleep takes longer, by 10 to
/// 30 µs, as caches have gone cold. At 50 a second and more there is no sleep between two launches.
const NEAR: Duration = Duration::from_millis(20);

/// So long before a schedule wants something a worker is awake: long enough for a late wake-up, too.
const WARM_UP: Duration = Duration::from_micros(300);

/// A pass that had nothing to do and took longer than this: somebody else was on the core, and used up its turn. An engine at
/// the other end of a link gives the core back earlier.
const TAKEN_AWAY: Duration = Duration::from_millis(2);

/// A core that is taken away twice within this is one that others want, and not just one that its host stops now and then.
const AGAIN_WITHIN: Duration = Duration::from_millis(100);

/// How long a worker polls at a time before it offers its core to others. More often it would only be slower itself.
const OFFER_EVERY: Duration = Duration::from_micros(50);

/// An offer that took longer was accepted; otherwise it is a system call of less than a microsecond.
const ACCEPTED: Duration = Duration::from_micros(5);

/// How long a worker then does without polling. Whoever polls uses up its share of a core that it does not have for itself,
/// and then waits for its turn; whoever wakes up is let in at once.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// The longest sleep: what a stop may wait.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idling {
    /// It sleeps until a frame arrives or something is due.
    #[default]
    Sleep,
    /// It goes on polling.
    Poll,
}

/// Whether a worker has its core for itself.
struct Core {
    /// When it was last away.
    taken_away: Option<Instant>,
    /// Before this the worker does not poll.
    poll_from: Instant,
    /// When it is next offered to others: at once while they take it, as whoever is to answer may be among them.
    offer_at: Instant,
}

impl Core {
    /// From `began` to `now` there was nothing to do, which is no work: if it took long, somebody else was on the core.
    fn was_idle(&mut self, began: Instant, now: Instant) {
        if now.since(began) > TAKEN_AWAY
            && self.taken_away.replace(now).is_some_and(|before| now.since(before) < AGAIN_WITHIN)
        {
            self.poll_from = now + GIVE_WAY;
        }
    }

    /// Lets others run, if it is time to. The time afterwards.
    fn offer(&mut self, now: Instant, clock: &MonotonicClock) -> Instant {
        if now < self.offer_at {
            return now;
        }
        thread::yield_now();
        let after = clock.now();
        self.offer_at = if after.since(now) > ACCEPTED { after } else { after + OFFER_EVERY };
        after
    }
}

/// A worker ready to run: its parts go to its thread.
struct Driver<D: Waitable, A: Lane, P: PageSource> {
    worker: Worker<D, A, P>,
    clock: MonotonicClock,
    gauges: Arc<Gauges>,
    stop: StopFlag,
    drain: DrainWalk,
    idling: Idling,
    /// This process has one core, which whoever is to answer may need.
    alone: bool,
}

impl<D: Waitable, A: Lane, P: PageSource> Driver<D, A, P> {
    fn run(mut self) -> Result<Worker<D, A, P>> {
        let mut began = self.clock.now();
        let (mut look_at, mut check_at, mut quiet_since) = (began, began, began);
        let mut core = Core { taken_away: None, poll_from: began, offer_at: began };
        loop {
            let activity = self.worker.poll(&self.clock);
            self.tell_states();
            // A pass that found nothing is over when it began, as near as makes no difference to whoever only goes on polling:
            // to read the clock again would take about as long as the pass.
            let now = if activity.is_idle() && self.idling == Idling::Poll {
                self.worker.net().now()
            } else {
                self.clock.now()
            };
            if !activity.is_idle() {
                self.gauges.busy(now.since(began));
                quiet_since = now;
            } else {
                core.was_idle(began, now);
            }
            began = now;
            // After a pass that sent something its answer may be there already: it comes first.
            if now >= look_at && (activity.is_idle() || now >= look_at + LOOK_EVERY) {
                look_at = now + LOOK_EVERY;
                if now >= check_at {
                    check_at = now + CHECK_EVERY;
                    self.check()?;
                }
                if self.is_over() {
                    self.check()?;
                    return Ok(self.worker);
                }
            }
            let quiet = now.since(quiet_since);
            let own_core = now >= core.poll_from;
            let spin = if own_core { SPIN } else { Duration::ZERO };
            if activity.is_idle() && self.idling == Idling::Sleep {
                let polls = own_core && !self.alone;
                let for_answer = polls && quiet < SPIN_FOR_ANSWER && self.worker.app().times_an_answer();
                if quiet > spin && !for_answer && self.sleep(now, polls) {
                    began = self.clock.now();
                } else {
                    began = core.offer(now, &self.clock);
                    core.was_idle(now, began);
                }
            }
        }
    }

    #[inline]
    fn tell_states(&mut self) {
        let asked = self.worker.device_mut().asks_for_states();
        if asked.is_empty() {
            return;
        }
        for (number, ends) in asked.to_vec().iter().enumerate() {
            let state = self.worker.net().state_of(ends);
            self.worker.device_mut().tell_state(number, state);
        }
    }

    fn check(&mut self) -> Result<()> {
        let health = self.worker.device_mut().health();
        self.gauges.publish(&self.worker.device().counters(), self.worker.table_bytes());
        health.map_err(|error| Error::environment("the device failed", error, ""))
    }

    fn is_over(&mut self) -> bool {
        let stop = self.stop.get();
        let (app, mut net) = self.worker.app_and_net();
        app.look_around(&mut net, stop, &mut self.drain) || stop == Stop::Now
    }

    /// Sleeps until there may be something to do. False if that is near and waited for by polling.
    fn sleep(&mut self, now: Instant, polls: bool) -> bool {
        let until_deadline = self.worker.next_deadline().map_or(SLEEP_MAX, |deadline| deadline.since(now));
        let until_due = self.worker.app().next_due().filter(|_| polls).map(|due| due.since(now));
        if until_due.is_some_and(|until| until < NEAR) {
            return false;
        }
        let early = until_due.map_or(SLEEP_MAX, |until| until - WARM_UP);
        let timeout = until_deadline.saturating_sub(WAKE_UP).min(early).min(SLEEP_MAX);
        if !timeout.is_zero() {
            self.worker.device().wait(timeout);
        }
        !timeout.is_zero()
    }
}

/// What can be read of a worker from outside.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its core, if it is bound to one.
    pub core: Option<usize>,
    /// What the engine counts.
    pub stats: Arc<Stats>,
    /// What the driver counts.
    pub gauges: Arc<Gauges>,
}

/// Running workers of one kind, each on its thread.
pub struct Crew<D: Waitable, A: Lane, P: PageSource> {
    members: Vec<Member>,
    threads: Vec<JoinHandle<Option<Worker<D, A, P>>>>,
    ended: Receiver<Result<()>>,
    running: usize,
    stop: StopFlag,
    failure: Option<Error>,
}

/// The workers after their end, in the order they were started in; `None` for one that failed.
pub type Outcome<D, A, P> = Vec<Option<Worker<D, A, P>>>;

impl<D, A, P> Crew<D, A, P>
where
    D: Waitable + Send + 'static,
    A: Lane + Send + 'static,
    P: PageSource + Send + 'static,
    Worker<D, A, P>: Send,
{
    /// Starts a thread for each worker and binds it to its core, if one is named.
    ///
    /// # Errors
    /// Exit 3 if no thread can be started, 2 if a core does not exist.
    pub fn start(
        workers: Vec<(Worker<D, A, P>, Option<usize>)>,
        clock: MonotonicClock,
        stop: &StopFlag,
        idling: Idling,
    ) -> Result<Self> {
        check_cores(workers.iter().filter_map(|(_, core)| *core))?;
        let (report, ended) = mpsc::channel();
        let running = workers.len();
        let alone = thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let mut crew =
            Self { members: Vec::new(), threads: Vec::new(), ended, running, stop: stop.clone(), failure: None };
        for (index, (worker, core)) in workers.into_iter().enumerate() {
            let gauges = Arc::new(Gauges::default());
            // A worker may have run before: what its device counted then is not counted again.
            gauges.publish(&worker.device().counters(), worker.table_bytes());
            crew.members.push(Member { core, stats: Arc::clone(worker.stats()), gauges: Arc::clone(&gauges) });
            let (gauges, stop, drain) = (gauges, stop.clone(), DrainWalk::default());
            let driver = Driver { worker, clock, gauges, stop, drain, idling, alone };
            let report = report.clone();
            let body = move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(CoreId { id });
                }
                // A sleep is to end when its deadline comes, not 50 µs later; where that is refused, it does.
                let _ = nix::sys::prctl::set_timerslack(1);
                let (worker, end) = match driver.run() {
                    Ok(worker) => (Some(worker), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Nobody listens any more only if the crew was given up.
                let _ = report.send(end);
                worker
            };
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(body);
            match thread {
                Ok(thread) => crew.threads.push(thread),
                Err(error) => {
                    crew.stop.raise(Stop::Now);
                    return Err(Error::environment(
                        "cannot start a worker's thread",
                        error,
                        "raise `ulimit -u`, `ulimit -v` or the memory of this process",
                    ));
                }
            }
        }
        Ok(crew)
    }

    /// What can be read of the workers while they run.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Waits at most `timeout` for the end of all workers. True when it has come. If one fails, the others are
    /// stopped at once.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let deadline = std::time::Instant::now() + timeout;
        while self.running > 0 {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.ended.recv_timeout(left) {
                Ok(end) => {
                    self.running -= 1;
                    if let Err(error) = end {
                        self.failure.get_or_insert(error);
                        self.stop.raise(Stop::Now);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return false,
                // A worker's thread panicked: `finish` will say so.
                Err(mpsc::RecvTimeoutError::Disconnected) => self.running = 0,
            }
        }
        true
    }

    /// Waits for the end of all workers and returns them.
    ///
    /// # Errors
    /// The first failure: exit 3 of a device, 1 of a panic.
    pub fn finish(mut self) -> Result<Outcome<D, A, P>> {
        while !self.wait(Duration::from_secs(1)) {}
        let joined: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let joined: std::result::Result<Vec<_>, _> = joined.into_iter().collect();
        joined.map_err(|_| Error::unexpected("a worker", "panicked"))
    }
}

/// Checks that this process may run on `cores`.
///
/// # Errors
/// Exit 2.
pub fn check_cores(mut cores: impl Iterator<Item = usize>) -> Result<()> {
    let available: Vec<_> = core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    match cores.find(|core| !available.is_empty() && !available.contains(core)) {
        None => Ok(()),
        Some(core) => {
            let list: Vec<_> = available.iter().map(usize::to_string).collect();
            let mend = format!("use some of {}", list.join(","));
            Err(Error::usage(format!("--cores {core}"), "this process may not run there", mend))
        }
    }
}
