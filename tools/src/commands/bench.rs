//! `syncline bench`.

use std::net::{IpAddr, SocketAddr};

use syncline_engine::config::{AddressRange, Config};
use syncline_engine::device::ring;

use super::output::Output;
use super::pair::{self, PORT};
use super::watch::Watch;
use super::{demo, raw};
use crate::cli::bench::{BenchWhat, RingArgs, RingProfile};
use crate::error::{Error, Exit, Result};
use crate::load::Load;
use crate::privilege;
use crate::run::Idling;
use crate::setup::{self, Seed};
use crate::signals::StopFlag;

/// The server's address.
const SERVER: [u8; 4] = [10, 0, 0, 1];

/// The load generator's addresses. A ring carries a million connections a second, and TIME-WAIT keeps each for a minute.
const CLIENTS: ([u8; 4], [u8; 4]) = ([10, 1, 0, 1], [10, 1, 16, 0]);

/// Bits of the prefix that all of them are in.
const PREFIX_LEN: u8 = 8;

/// Frames of each end.
const FRAMES: usize = 8_192;

/// Octets of a frame: an Ethernet frame with two tags.
const FRAME_BYTES: u16 = 1_522;

/// Measures.
///
/// # Errors
/// Exit 2 for arguments that cannot be.
pub(super) fn run(what: &BenchWhat) -> Result<Exit> {
    match what {
        BenchWhat::Ring(args) => ring(args),
        BenchWhat::Raw(args) => raw::run(args),
    }
}

fn ring(args: &RingArgs) -> Result<Exit> {
    let stop = StopFlag::on_signals()?;
    let output = Output::open(&args.output)?;
    let cores = match args.cores.as_ref().map(|cores| cores.as_slice()) {
        None => demo::cores(),
        Some(&[server, load]) => [Some(server), Some(load)],
        Some(_) => return Err(Error::usage("--cores", "a ring has two ends", "name two, as in --cores 0,1")),
    };
    let (server, load) = ring::pair(FRAMES, FRAME_BYTES).map_err(|error| Error::unexpected("the ring", error))?;
    let seed = Seed::new(None);
    let mut server_plan = pair::server_plan(config(SERVER.into(), SERVER.into()), seed);
    let mut client_config = config(CLIENTS.0.into(), CLIENTS.1.into());
    client_config.tcp.piggyback = args.piggyback;
    let target = SocketAddr::from((SERVER, PORT));
    let mut load_plan = pair::load_plan(client_config, target, args.concurrency, args.duration.0, seed);
    if args.profile == RingProfile::Connect {
        load_plan.plan.requests = Some(0);
    }
    if let Some(rate) = args.rate {
        load_plan.plan.load = Load::Rate { per_second: rate.as_f64(), in_flight_max: None };
        load_plan.maximum_asked = false;
        load_plan.title = format!("bench ring: {} connections/s", rate.as_f64());
    }
    (server_plan.idling, load_plan.idling) = (idling(cores), idling(cores));
    let mut watch = Watch::new(&args.output, &cores, "bench")?;
    privilege::give_up()?;
    let mut report = pair::run((server, &server_plan), (load, &load_plan), cores, None, &stop, &mut watch)?;
    drop(watch);
    report.host = setup::host_facts(None, "ring", &[cores[1]]);
    let profile = if args.profile == RingProfile::Connect { "connect" } else { "crr" };
    report.config = pair::settings(profile, args.concurrency, args.duration.0, args.piggyback);
    if let Some(rate) = args.rate {
        (report.config["rate"], report.config["concurrency"]) = (rate.as_f64().into(), serde_json::Value::Null);
    }
    output.publish(&report)
}

/// Ends with a core each poll: a ring has nothing to wake a sleeper by, and a millisecond that the host takes from either
/// would have the other sleep.
fn idling(cores: [Option<usize>; 2]) -> Idling {
    match cores {
        [Some(server), Some(load)] if server != load => Idling::Poll,
        _ => Idling::Sleep,
    }
}

fn config(first: IpAddr, last: IpAddr) -> Config {
    Config {
        addresses: vec![AddressRange { first, last, prefix_len: PREFIX_LEN }],
        max_connections: 1 << 20,
        ..Config::default()
    }
}
