//! Both ends ours, in one process: a server and a load generator that share a bed or a ring.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use syncline_engine::config::{Config, Listener, SynCookies};
use syncline_engine::worker::Worker;

use super::load::{Generating, LoadPlan};
use super::serve::{ServerPlan, Serving};
use super::watch::Watch;
use crate::apps::{ServeApp, Server};
use crate::error::{Error, Result};
use crate::load::{Client, Load, Plan, Profile};
use crate::report::Report;
use crate::run::aside::step_aside;
use crate::run::{Idling, MonotonicClock, Waitable};
use crate::setup::{Pages, Seed};
use crate::signals::{Stop, StopFlag};
use crate::{netns, privilege};

/// The port that the server answers on.
pub(super) const PORT: u16 = 80;

/// Octets each way on a connection: what a short question and its answer take.
pub(super) const OCTETS: u64 = 64;

/// How long a server may take to end after the load has: its peers have closed by then.
const SERVER_END: Duration = Duration::from_secs(5);

/// A server's plan: `respond` on [`PORT`].
pub(super) fn server_plan(config: Config, seed: Seed) -> ServerPlan {
    let listener = Listener { first_port: PORT, last_port: PORT, syn_cookies: SynCookies::Auto };
    let respond = ServeApp::Respond { request_bytes: OCTETS, response_bytes: OCTETS };
    let config = Config { listeners: vec![listener], ..config };
    ServerPlan { config, apps: vec![respond], delay: None, seed, idling: Idling::Sleep }
}

/// A load generator's plan: one request on each connection, as many connections as go through `at_once` at a time.
pub(super) fn load_plan(config: Config, server: SocketAddr, at_once: u32, duration: Duration, seed: Seed) -> LoadPlan {
    let mut plan = Plan::new(Profile::Crr, vec![server]);
    plan.load = Load::Concurrency(at_once);
    plan.duration = Some(duration);
    LoadPlan {
        config,
        plan,
        thresholds: Vec::new(),
        criteria: Vec::new(),
        maximum_asked: true,
        seed,
        idling: Idling::Sleep,
        command: "bench",
        title: format!("bench ring: {at_once} connections at a time"),
    }
}

/// The settings of [`load_plan`] for the report, by the names that `load` has for them.
pub(super) fn settings(profile: &str, at_once: u32, duration: Duration, piggyback: bool) -> serde_json::Value {
    let octets = if profile == "crr" { OCTETS } else { 0 };
    serde_json::json!({
        "profile": profile,
        "concurrency": at_once,
        "duration_s": duration.as_secs_f64(),
        "request_bytes": octets,
        "response_bytes": octets,
        "piggyback": piggyback,
        "close": "fin",
        "first_close": "client",
    })
}

/// Runs both ends to the end of the load, and reports the load with the server's report inside. With `namespaces` each
/// end's threads are in its own: what leaves by the XDP program leaves from there. Gives up all privileges.
///
/// # Errors
/// Those of either end.
pub(super) fn run<S, L>(
    (server_device, server_plan): (S, &ServerPlan),
    (load_device, load_plan): (L, &LoadPlan),
    cores: [Option<usize>; 2],
    namespaces: Option<[String; 2]>,
    stop: &StopFlag,
    watch: &mut Watch,
) -> Result<Report>
where
    S: Waitable + Send + 'static,
    L: Waitable + Send + 'static,
    Worker<S, Server, Pages>: Send,
    Worker<L, Client, Pages>: Send,
{
    let clock = MonotonicClock::start();
    // The server outlives the load: it has a flag of its own.
    let server_stop = StopFlag::new();
    let [server_netns, load_netns] = namespaces.map_or([None, None], |names| names.map(Some));
    let mut serving =
        inside(server_netns, || Serving::start(vec![server_device], server_plan, &cores[..1], clock, &server_stop))?;
    let generating =
        inside(load_netns, || Generating::start(vec![load_device], load_plan, &cores[1..], clock, stop, &[]))?;
    privilege::give_up()?;
    // Every worker runs: whatever is started from here on only looks on.
    step_aside(cores.into_iter().flatten());
    let loaded = thread::scope(|scope| {
        let load = scope.spawn(|| generating.finish(load_plan, stop, watch));
        while !load.is_finished() {
            if serving.wait(Duration::from_millis(20)) {
                // Nobody asked it to: its device failed. What the load says after that is of no interest.
                stop.raise(Stop::Now);
                break;
            }
        }
        load.join()
    });
    server_stop.raise(Stop::Drain);
    if !serving.wait(SERVER_END) {
        server_stop.raise(Stop::Now);
    }
    let served = serving.finish("serve")?;
    let loaded = loaded.map_err(|_| Error::unexpected("the load generator", "panicked"))??;
    let mut report = loaded.report;
    report.server = Some(Box::new(served));
    Ok(report)
}

/// Does `work` without privileges, in the namespace `netns` if one is given.
fn inside<T: Send>(netns: Option<String>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(netns) = netns else { return work() };
    netns::within(&netns, || {
        privilege::give_up()?;
        work()
    })
}
