//! `syncline load`.

mod insight;
mod plan;
mod report;
mod search;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use syncline_engine::time::Clock as _;
use syncline_engine::worker::Worker;

use super::flood;
use super::output::Output;
use super::watch::Watch;
use crate::cli::LoadArgs;
use crate::cli::talk::Profile;
use crate::error::{Error, Exit, Result};
use crate::load::{Client, Control};
use crate::privilege;
use crate::report::model::{Report, SupplyReport};
use crate::report::placement;
use crate::run::aside::step_aside;
use crate::run::{Collector, Crew, MonotonicClock, Outcome, Waitable, collect};
use crate::setup::{self, Pages};
use crate::signals::{Stop, StopFlag};
use crate::watch::SharedWatch;

pub(super) use plan::LoadPlan;

/// Loads the targets and says what came of it.
///
/// # Errors
/// Exit 2 or 3 before the start, 3 if the device fails.
pub(super) fn run(args: &LoadArgs) -> Result<Exit> {
    // Names are looked up here, before the namespace of the device is entered.
    let resolved = args.check()?;
    if args.talk.profile == Profile::SynFlood {
        return flood::run(args, &resolved.iter().flatten().map(|target| target.addr).collect::<Vec<_>>());
    }
    let stop = StopFlag::on_signals()?;
    let clock = MonotonicClock::start();
    let cores = setup::cores(&args.device);
    let mut plan = plan::plan(args, &resolved, cores.len() as u64)?;
    let supply = plan::supply(args, &plan);
    if args.search.is_none() {
        plan::check_supply(&supply, &plan)?;
    }
    setup::check_memory(cores.len(), args.connections.map_or(0, |held| held.0))?;
    let output = Output::open(&args.output)?;
    let watch = Watch::new(&args.output, &cores, "load")?;
    let (interface, devices) = setup::open(&args.device, cores.len(), plan::stamps(args, &plan.plan, cores.len()))?;
    if args.device.shared_addr.is_some() {
        let remotes: HashSet<_> = plan.plan.targets.iter().map(std::net::SocketAddr::ip).collect();
        plan.config.neighbors = setup::kernel_neighbors(&interface, &Vec::from_iter(remotes))?;
    }
    let insight = insight::Insight::open(args, cores.len())?;
    plan.plan.tokens = args.server_report.is_some() && !args.parts().iter().any(|talk| talk.expect_pattern);
    let watches = insight.as_ref().map_or(&[][..], insight::Insight::watches);
    let mut generator = Generator { plan: &plan, cores: &cores, clock, stop: &stop, watch, watches };
    let search = args.search.map(|what| search::Search::new(args, what, &supply));
    let mut report = if insight.is_some() || args.device.pcap.is_some() {
        generator.generate(setup::watch(devices, args.device.pcap.as_deref(), watches, clock)?, search)?
    } else {
        generator.generate(devices, search)?
    };
    drop(generator);
    if let Some(insight) = insight {
        insight.finish(&mut report)?;
    }
    report.host = setup::host_facts(Some(&interface), interface.name(), &cores);
    report.advice = placement::advice(&report);
    report.config = serde_json::to_value(args).unwrap_or_default();
    report.supply = Some(SupplyReport {
        connections_max: supply.connections_max,
        time_wait_s: supply.rest.as_secs_f64(),
        rate_max_cps: supply.rate_max_cps(),
    });
    output.publish(&report)
}

/// Everything a run needs but its devices.
struct Generator<'a> {
    plan: &'a LoadPlan,
    cores: &'a [Option<usize>],
    clock: MonotonicClock,
    stop: &'a StopFlag,
    watch: Watch,
    /// Who watches each worker's connections, if anybody.
    watches: &'a [SharedWatch],
}

impl Generator<'_> {
    fn generate<D: Waitable + Send + 'static>(
        &mut self,
        devices: Vec<D>,
        search: Option<search::Search>,
    ) -> Result<Report>
    where
        Worker<D, Client, Pages>: Send,
    {
        match search {
            Some(search) => search::run(devices, self, search),
            None => self.run(devices),
        }
    }

    fn run<D: Waitable + Send + 'static>(&mut self, devices: Vec<D>) -> Result<Report>
    where
        Worker<D, Client, Pages>: Send,
    {
        privilege::give_up()?;
        let generating = Generating::start(devices, self.plan, self.cores, self.clock, self.stop, self.watches)?;
        Ok(generating.finish(self.plan, self.stop, &mut self.watch)?.report)
    }
}

/// A running load generator.
pub(super) struct Generating<D: Waitable> {
    crew: Crew<D, Client, Pages>,
    collector: Collector,
    control: Arc<Control>,
    clock: MonotonicClock,
    started_at: SystemTime,
}

impl<D: Waitable + Send + 'static> Generating<D>
where
    Worker<D, Client, Pages>: Send,
{
    /// Starts a client on each device.
    ///
    /// # Errors
    /// Exit 2 if the plan or the configuration cannot be.
    pub(super) fn start(
        devices: Vec<D>,
        plan: &LoadPlan,
        cores: &[Option<usize>],
        clock: MonotonicClock,
        stop: &StopFlag,
        watches: &[SharedWatch],
    ) -> Result<Self> {
        let secrets = plan.seed.secrets(clock);
        let (control, clients) = clients(plan, devices.len(), watches)?;
        let mut workers = Vec::new();
        for ((device, client), core) in devices.into_iter().zip(clients).zip(cores) {
            let worker = Worker::new(&plan.config, &secrets, device, client, Pages::with_thread());
            workers.push((worker.map_err(|error| refused(&error))?, *core));
        }
        setup::join(&mut workers);
        Self::crew(workers, control, plan, clock, stop)
    }

    /// Starts another run on workers that have ended one: their addresses and ports in TIME-WAIT stay in it.
    ///
    /// # Errors
    /// Exit 2 if the plan cannot be.
    fn again(workers: Vec<Worker<D, Client, Pages>>, generator: &Generator<'_>, plan: &LoadPlan) -> Result<Self> {
        let (control, clients) = clients(plan, workers.len(), generator.watches)?;
        let workers = workers.into_iter().zip(clients).zip(generator.cores).map(|((mut worker, client), core)| {
            *worker.app_mut() = client;
            (worker, *core)
        });
        Self::crew(workers.collect(), control, plan, generator.clock, generator.stop)
    }

    fn crew(
        workers: Vec<(Worker<D, Client, Pages>, Option<usize>)>,
        control: Arc<Control>,
        plan: &LoadPlan,
        clock: MonotonicClock,
        stop: &StopFlag,
    ) -> Result<Self> {
        let mailboxes = workers.iter().map(|(worker, _)| worker.app().mailbox()).collect();
        let started_at = SystemTime::now();
        let crew = Crew::start(workers, clock, stop, plan.idling)?;
        let collector = Collector::new(crew.members(), mailboxes, plan.plan.offered_cps());
        Ok(Self { crew, collector, control, clock, started_at })
    }

    /// Follows the run to its end, and reports.
    ///
    /// # Errors
    /// Exit 3 if a device fails or a target's neighbour does not answer.
    pub(super) fn finish(mut self, plan: &LoadPlan, stop: &StopFlag, watch: &mut Watch) -> Result<Generated<D>> {
        watch.begin(report::facts(plan));
        if let Some(metrics) = watch.metrics() {
            metrics.follow(self.crew.members());
            metrics.follow_load(plan.plan.offered_cps());
            self.collector.tell(metrics.clone());
        }
        let over = AtomicBool::new(false);
        let (crew, collector) = (&mut self.crew, &mut self.collector);
        let follower = Follower { plan, stop, clock: self.clock, control: &self.control, over: &over };
        thread::scope(|scope| {
            // This thread may start workers again, which would inherit what keeps another out of their way.
            let body = || follower.follow(collector, watch);
            let thread = thread::Builder::new().name("collector".into()).spawn_scoped(scope, body);
            let thread = thread.map_err(|error| {
                stop.raise(Stop::Now);
                Error::environment("cannot start a thread", error, "raise `ulimit -u`")
            })?;
            while !crew.wait(WAIT) {}
            over.store(true, Ordering::Release);
            thread.thread().unpark();
            thread.join().map_err(|_| Error::unexpected("the collector", "panicked"))
        })?;
        let partial = stop.get() != Stop::No;
        let members = self.crew.members().to_vec();
        let workers = self.crew.finish()?;
        if let Some(remote) = self.control.unreachable() {
            let mend = "check that it is up and on this link, and --gateway";
            return Err(Error::environment(format!("cannot reach {remote}"), "no neighbour answered for it", mend));
        }
        let mut report = report::report(self.collector.finish(), plan, partial, self.started_at);
        report.counters = collect::counters(&members);
        Ok(Generated { report, workers })
    }
}

/// How long the thread that started a run sleeps at a time: it is told of the end.
const WAIT: Duration = Duration::from_secs(10);

/// How often the collector looks for what workers have measured, and the view for keys.
const TURN: Duration = Duration::from_millis(50);

/// Follows a run from aside.
struct Follower<'a> {
    plan: &'a LoadPlan,
    stop: &'a StopFlag,
    clock: MonotonicClock,
    control: &'a Control,
    over: &'a AtomicBool,
}

impl Follower<'_> {
    fn follow(&self, collector: &mut Collector, watch: &mut Watch) {
        step_aside(watch.cores());
        loop {
            let over = self.over.load(Ordering::Acquire);
            let fresh = collector.gather().iter().map(|interval| watch.interval(interval)).count();
            if over {
                return;
            }
            if fresh > 0 && watch.wants_verdict() {
                watch.so_far(report::so_far(collector, self.plan));
            }
            let elapsed = self.control.started_at().map(|start| self.clock.now().since(start));
            watch.turn(elapsed, self.stop, TURN);
        }
    }
}

/// What came of a load generator. Its devices stay open until this is dropped: the other end of a ring needs them.
pub(super) struct Generated<D: Waitable> {
    /// The report.
    pub(super) report: Report,
    workers: Outcome<D, Client, Pages>,
}

impl<D: Waitable> Generated<D> {
    /// The report, and the workers for another run.
    fn into_parts(self) -> (Report, Vec<Worker<D, Client, Pages>>) {
        (self.report, self.workers.into_iter().flatten().collect())
    }
}

fn refused(error: &dyn std::fmt::Display) -> Error {
    Error::usage("cannot generate this load", error, "")
}

/// A client for each of `workers`, and what they have in common.
fn clients(plan: &LoadPlan, workers: usize, watches: &[SharedWatch]) -> Result<(Arc<Control>, Vec<Client>)> {
    let control = Arc::new(Control::new(workers as u32));
    let client = |index| {
        let client = Client::new(plan.plan.clone(), index, Arc::clone(&control));
        let mut client = client.map_err(|error| refused(&error))?;
        if let Some(watch) = watches.get(index as usize) {
            client.set_watch(watch.clone());
        }
        Ok(client)
    };
    let clients = (0..workers as u32).map(client).collect::<Result<_>>()?;
    Ok((control, clients))
}
