//! From the arguments to what the workers do.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use syncline_engine::config::Config;

use crate::cli::LoadArgs;
use crate::cli::load::{ArrivalsArg, SearchFor};
use crate::cli::talk::{CloseMode, FirstClose, Profile as ProfileName, ResponseLength, TalkArgs};
use crate::error::{Error, Result};
use crate::load::{
    self, Arrivals, Checks, Exchange, FirstCloser, Flow, Load, Plan, Profile, Response, Shortage, Site, Supply,
};
use crate::report::Threshold;
use crate::report::criteria::{self, Criterion};
use crate::run::Idling;
use crate::setup::{self, Seed};
use crate::target::Resolved;
use crate::units::{Octets, OfferedRate, Rate};

/// Connections of a closed loop that was given no size.
const CONCURRENCY_DEFAULT: u64 = 64;

/// Connections in flight on each worker when as many as possible are asked for: more only fill the device's rings.
const IN_FLIGHT_AT_MAX: u64 = 1_024;

/// Connections in flight on each worker of an open loop that was given no limit: about as many as the device's rings
/// have places. Beyond that a path that is too slow for the rate loses frames, and what it carries collapses.
const IN_FLIGHT_DEFAULT: u64 = 4_096;

/// Octets of a file that is sent as a request.
const REQUEST_FILE_MAX: u64 = 64 << 20;

/// What a load generator needs to know beside its devices.
#[derive(Clone, Debug)]
pub(in crate::commands) struct LoadPlan {
    /// The engine's configuration.
    pub(in crate::commands) config: Config,
    /// What to do.
    pub(in crate::commands) plan: Plan,
    /// Conditions on the report.
    pub(in crate::commands) thresholds: Vec<Threshold>,
    /// Criteria of RFC 9411.
    pub(in crate::commands) criteria: Vec<Criterion>,
    /// Whether as much as possible is asked for.
    pub(in crate::commands) maximum_asked: bool,
    /// Seed of the keys.
    pub(in crate::commands) seed: Seed,
    /// What a worker does without work.
    pub(in crate::commands) idling: Idling,
    /// What the live view is headed with.
    pub(in crate::commands) title: String,
    /// The command, as the report names it.
    pub(in crate::commands) command: &'static str,
}

/// The plan that the arguments ask for, with the targets of each part as they were found.
///
/// # Errors
/// Exit 2 if it cannot be carried out.
pub(super) fn plan(args: &LoadArgs, resolved: &[Vec<Resolved>], workers: u64) -> Result<LoadPlan> {
    let targets: Vec<&Resolved> = resolved.iter().flatten().collect();
    let talk = &args.talk;
    if args.parts().iter().any(|talk| talk.profile == ProfileName::SynFlood) {
        let mend = "flood by itself, beside another load";
        return Err(Error::usage("profile syn-flood", "makes no connections, and goes into no mix", mend));
    }
    let mut plan = Plan::new(profile(talk.profile), targets.iter().map(|target| target.addr).collect());
    let parts = args.parts();
    let mut flows = Vec::new();
    let mut first = 0;
    for (part, resolved) in parts.iter().zip(resolved) {
        let end = first + resolved.len() as u32;
        flows.push(flow(part, (first, end))?);
        first = end;
    }
    if args.mix.is_empty() {
        let Flow { exchange, close, first_closer, checks, .. } = flows.remove(0);
        (plan.exchange, plan.close, plan.first_closer, plan.checks) = (exchange, close, first_closer, checks);
        if let Some(requests) = talk.requests_per_connection {
            plan.requests = Some(u32::try_from(requests.0).unwrap_or(u32::MAX));
        } else if talk.profile == ProfileName::Bulk && talk.request_bytes.is_some() | talk.response_bytes.is_some() {
            plan.requests = Some(1);
        }
    } else {
        flows.iter_mut().zip(&args.mix).for_each(|(flow, part)| flow.weight = part.weight);
        plan = Plan { mix: flows, requests: Some(1), hold: None, ..plan };
    }
    let site = |target: &&Resolved| Site { host: target.host.clone(), path: target.path.clone() };
    plan.sites = targets.iter().map(site).collect();
    if talk.path.is_some() && args.mix.is_empty() {
        plan.sites.iter_mut().for_each(|site| site.path = None);
    }
    plan.stages = args.stage.iter().map(|stage| (stage.length.0, stage.rate.map_or(0.0, Rate::as_f64))).collect();
    plan.load = shape(args, &plan, workers);
    plan.count = args.count.map(|count| count.0);
    plan.ramp = args.ramp.unwrap_or_default().0;
    plan.duration = args.device.duration.map(|span| span.0);
    if !plan.stages.is_empty() {
        plan.duration = Some(plan.stages.iter().map(|(length, _)| *length).sum());
    }
    plan.arrivals = match args.arrivals {
        ArrivalsArg::Constant => Arrivals::Constant,
        ArrivalsArg::Poisson => Arrivals::Poisson,
    };
    plan.hold = args.hold.map(|span| span.0).or(plan.hold);
    plan.think = args.think_time.map(|span| span.0);
    plan.request_rate = args.request_rate.map(Rate::as_f64);
    plan.bitrate = args.bitrate.map(|rate| rate.0);
    plan.digest = args.digest;
    plan.connect_timeout = args.connect_timeout.0;
    plan.timeout = args.timeout.map(|span| span.0).or(plan.timeout);
    let seed = Seed::new(args.device.seed);
    plan.seed = seed.value();
    plan.check(workers as u32).map_err(|error| Error::usage("cannot generate this load", error, ""))?;

    let mut config = setup::engine_config(&args.device);
    config.tcp.piggyback = args.piggyback;
    let expected = args.connections.map_or(0, |held| held.0.div_ceil(workers));
    config.expected_connections = u32::try_from(expected).unwrap_or(u32::MAX);
    config.max_connections = config.max_connections.max(config.expected_connections);
    Ok(LoadPlan {
        config,
        plan,
        thresholds: args.threshold.clone(),
        criteria: criteria::of(args.preset, &args.criterion),
        maximum_asked: args.rate == Some(OfferedRate::Max),
        seed,
        idling: setup::idling(&args.device),
        title: title(args),
        command: "load",
    })
}

/// Launches or requests a second on a core up to which arrivals are stamped. What they cost
/// is of no account up to here; at their limit two engines on veth make half as many connections with them.
const STAMPED_RATE_MAX: f64 = 10_000.0;

/// Whether frames are to be stamped as they arrive: where a schedule says that they are not too many.
pub(super) fn stamps(args: &LoadArgs, plan: &Plan, workers: usize) -> bool {
    if args.search.is_some() || plan.bitrate.is_some() {
        return false;
    }
    let rate = match (plan.request_rate, plan.load) {
        (Some(requests), _) => requests,
        (None, Load::Rate { per_second, .. }) => {
            let most = plan.stages.iter().map(|(_, rate)| *rate).fold(per_second, f64::max);
            most * plan.requests.map_or(f64::INFINITY, |requests| f64::from(requests.max(1)))
        }
        (None, Load::Held { per_second: Some(rate), .. }) if plan.hold.is_some() => rate,
        (None, _) => return false,
    };
    rate <= STAMPED_RATE_MAX * workers as f64
}

/// What runs, for whoever watches.
fn title(args: &LoadArgs) -> String {
    let mut talks = args.parts().into_iter();
    let targets: Vec<_> = args.parts().into_iter().flat_map(|talk| &talk.target).map(ToString::to_string).collect();
    let more = match targets.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let profile = if args.mix.is_empty() { talks.next().map_or("", |talk| talk.profile.name()) } else { "mix" };
    format!("load {profile} → {}{more}", targets.first().map_or("", String::as_str))
}

fn profile(name: ProfileName) -> Profile {
    match name {
        // A flood is refused before: it makes no connections.
        ProfileName::Connect | ProfileName::SynFlood => Profile::Connect,
        ProfileName::Crr => Profile::Crr,
        ProfileName::Rr => Profile::Rr,
        ProfileName::Hold => Profile::Hold,
        ProfileName::Bulk => Profile::Bulk,
        ProfileName::Http => Profile::Http,
    }
}

fn shape(args: &LoadArgs, plan: &Plan, workers: u64) -> Load {
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let per_second = match args.rate {
        Some(OfferedRate::PerSecond(rate)) => Some(rate.as_f64()),
        Some(OfferedRate::Max) | None => None,
    };
    let in_flight_max = args.max_in_flight.map(|limit| small(limit.0));
    let profile = args.talk.profile;
    let comes_and_goes = args.talk.requests_per_connection.is_some() && profile != ProfileName::Hold;
    let stays = plan.keeps() && !comes_and_goes && plan.mix.is_empty();
    if stays && !(profile == ProfileName::Bulk && args.count.is_some()) {
        let connections = args.connections.or(args.concurrency).map_or(1, |count| count.0);
        return Load::Held { connections, per_second };
    }
    if per_second.is_some() || !plan.stages.is_empty() || args.search == Some(SearchFor::Rate) {
        let limit = in_flight_max.unwrap_or_else(|| small(IN_FLIGHT_DEFAULT * workers));
        // A search puts its own rate in the place of this one.
        let default = if args.search.is_some() { 1.0 } else { 0.0 };
        return Load::Rate { per_second: per_second.unwrap_or(default), in_flight_max: Some(limit) };
    }
    if args.rate == Some(OfferedRate::Max) {
        return Load::Concurrency(in_flight_max.unwrap_or_else(|| small(IN_FLIGHT_AT_MAX * workers)));
    }
    let at_once = args.concurrency.map_or(CONCURRENCY_DEFAULT.max(workers), |count| count.0);
    Load::Concurrency(small(at_once.min(args.count.map_or(u64::MAX, |count| count.0.max(workers)))))
}

/// What connections of one kind do with the targets of these numbers.
fn flow(talk: &TalkArgs, targets: (u32, u32)) -> Result<Flow> {
    let defaults = Plan::new(profile(talk.profile), Vec::new());
    let exchange = if talk.speaks_http() { Plan::new(Profile::Http, Vec::new()).exchange } else { defaults.exchange };
    let requests = talk.requests_per_connection.map(|requests| u32::try_from(requests.0).unwrap_or(u32::MAX));
    Ok(Flow {
        weight: 1,
        targets,
        exchange: exchange_of(talk, exchange)?,
        requests: requests.or(defaults.requests).unwrap_or(1),
        close: match talk.close {
            CloseMode::Fin => load::Close::Fin,
            CloseMode::Rst => load::Close::Rst,
        },
        first_closer: match talk.first_close {
            Some(FirstClose::Server) => FirstCloser::Server,
            Some(FirstClose::Client) | None => FirstCloser::Client,
        },
        checks: Checks {
            statuses: talk.expect_status.clone(),
            octets: talk.expect_bytes.map(|octets| octets.0),
            sha256: talk.expect_sha256.map(|hash| hash.0),
            pattern: talk.expect_pattern,
        },
    })
}

fn read_request(file: &Path) -> Result<Arc<[u8]>> {
    let what = || format!("--request-file {}", file.display());
    let mend = "check the file's name";
    let length = fs::metadata(file).map_err(|error| Error::usage(what(), error, mend))?.len();
    if length == 0 || length > REQUEST_FILE_MAX {
        let why = format!("has {length} octets, not 1 to {REQUEST_FILE_MAX}");
        return Err(Error::usage(what(), why, "send more with --request-bytes"));
    }
    Ok(fs::read(file).map_err(|error| Error::usage(what(), error, mend))?.into())
}

fn exchange_of(talk: &TalkArgs, default: Exchange) -> Result<Exchange> {
    let response = talk.response_bytes.map(|length| match length {
        ResponseLength::Octets(0) => Response::None,
        ResponseLength::Octets(octets) => Response::Octets(octets),
        ResponseLength::UntilFin => Response::UntilFin,
    });
    let content = talk.request_file.as_deref().map(read_request).transpose()?;
    let given = talk.request_bytes.map(|Octets(octets)| octets);
    let request = content.as_ref().map(|content| content.len() as u64).or(given);
    Ok(match default {
        Exchange::Http(mut http) => {
            http.path = talk.path.clone().unwrap_or(http.path);
            http.body = request.unwrap_or(0);
            if http.body > REQUEST_FILE_MAX && talk.chunked {
                let why = format!("is above {REQUEST_FILE_MAX}, the most that goes in chunks");
                return Err(Error::usage("--request-bytes", why, "send it with its length"));
            }
            if http.body > 0 || talk.chunked {
                http.method = "POST".into();
            }
            http.method = talk.method.clone().unwrap_or(http.method);
            http.fields = talk.header.iter().map(|field| (field.name.clone(), field.value.clone())).collect();
            (http.content, http.chunked) = (content, talk.chunked);
            Exchange::Http(http)
        }
        Exchange::Octets { .. } if talk.profile == ProfileName::Bulk => match (request, response) {
            (None, None) => Exchange::Octets { request: u64::MAX, response: Response::None, content },
            (request, response) => Exchange::Octets {
                request: request.unwrap_or(0),
                response: response.unwrap_or(Response::None),
                content,
            },
        },
        Exchange::Octets { request: octets, response: length, .. } => {
            Exchange::Octets { request: request.unwrap_or(octets), response: response.unwrap_or(length), content }
        }
    })
}

/// Local ports of an address.
pub(super) fn ports(plan: &LoadPlan) -> u64 {
    let ports = &plan.config.tcp.local_ports;
    u64::from(ports.last) - u64::from(ports.first) + 1
}

/// The names of connections that the addresses and ports given make.
pub(super) fn supply(args: &LoadArgs, plan: &LoadPlan) -> Supply {
    let own = args.device.addr.iter().map(|addrs| (addrs.first(), addrs.count()));
    let own: Vec<_> = own.chain(args.device.shared_addr.map(|cidr| (cidr.addr(), 1))).collect();
    let first_close_given = args.talk.first_close == Some(FirstClose::Client);
    Supply::new(&own, ports(plan), args.device.time_wait.0, &plan.plan, first_close_given)
}

/// # Errors
/// Exit 2 if the addresses and ports cannot suffice.
pub(super) fn check_supply(supply: &Supply, plan: &LoadPlan) -> Result<()> {
    let refused = |shortage: Shortage| Error::usage(shortage.what, shortage.why, shortage.mend);
    supply.check(&plan.plan, ports(plan)).map_err(refused)
}
