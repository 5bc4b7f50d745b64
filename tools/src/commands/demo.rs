//! `syncline demo`.

use std::net::{IpAddr, SocketAddr};

use syncline_engine::config::{AddressRange, Config};
use syncline_xdp::{Claim, Interface, Options, XdpDevice};

use super::output::Output;
use super::pair::{self, PORT};
use super::print;
use super::watch::Watch;
use crate::bed::{Bed, BedSpec};
use crate::cli::DemoArgs;
use crate::error::{Exit, Result};
use crate::setup::Seed;
use crate::signals::StopFlag;
use crate::{host, setup};

/// The server's address.
const SERVER: [u8; 4] = [10, 0, 0, 1];

/// The load generator's addresses: enough ports for a minute of TIME-WAIT at any rate a core can reach.
const CLIENTS: ([u8; 4], [u8; 4]) = ([10, 0, 1, 1], [10, 0, 1, 254]);

/// Bits of the prefix that all of them are in.
const PREFIX_LEN: u8 = 16;

/// Connections at a time: enough to keep both cores busy, few enough for their latency to be their own.
const AT_ONCE: u32 = 512;

/// A bed, both ends, one figure, and nothing left behind.
///
/// # Errors
/// Exit 3 if the host lacks something.
pub(super) fn run(args: &DemoArgs) -> Result<Exit> {
    let stop = StopFlag::on_signals()?;
    let output = Output::open(&args.output)?;
    let bed = Bed::fresh(&BedSpec::default())?.in_care()?;
    let name = bed.name();
    let quiet = args.output.stdout_is_taken();
    if !quiet {
        print(&format!(
            "test bed {name}: server on {}, load on {}, {} s of connections with one request each\n",
            name.dev_a(),
            name.dev_b(),
            args.seconds.0.as_secs_f64()
        ))?;
    }
    let (_server_end, server) = open(&name.netns_a(), &name.dev_a(), SERVER.into(), SERVER.into())?;
    let (load_end, load) = open(&name.netns_b(), &name.dev_b(), CLIENTS.0.into(), CLIENTS.1.into())?;

    let seed = Seed::new(None);
    let server_plan = pair::server_plan(config(SERVER.into(), SERVER.into()), seed);
    let target = SocketAddr::from((SERVER, PORT));
    let client_config = config(CLIENTS.0.into(), CLIENTS.1.into());
    let mut load_plan = pair::load_plan(client_config, target, AT_ONCE, args.seconds.0, seed);
    load_plan.command = "demo";
    load_plan.title = format!("demo: {AT_ONCE} connections at a time, a request each");
    let cores = cores();
    let namespaces = [name.netns_a(), name.netns_b()];
    let mut watch = Watch::new(&args.output, &cores, "demo")?;
    let report = pair::run((server, &server_plan), (load, &load_plan), cores, Some(namespaces), &stop, &mut watch);
    drop(watch);
    drop(bed);
    let mut report = report?;
    report.host = setup::host_facts(Some(&load_end), load_end.name(), &[cores[1]]);
    report.config = pair::settings("crr", AT_ONCE, args.seconds.0, false);
    output.publish(&report)
}

/// The server's core and the load's: apart where there are two.
pub(super) fn cores() -> [Option<usize>; 2] {
    match host::cores() {
        Some(cores) if cores >= 2 => [Some(1), Some(0)],
        _ => [None, None],
    }
}

fn open(netns: &str, dev: &str, first: IpAddr, last: IpAddr) -> Result<(Interface, XdpDevice)> {
    let range = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => syncline_xdp::AddressRange::V4(first, last),
        (first, _) => syncline_xdp::AddressRange::from(first),
    };
    let claim = Claim::Owned(vec![range]);
    setup::open_within(netns, Options { peer_is_engine: true, ..Options::new(dev, claim) })
}

fn config(first: IpAddr, last: IpAddr) -> Config {
    Config {
        addresses: vec![AddressRange { first, last, prefix_len: PREFIX_LEN }],
        max_connections: 1 << 20,
        ..Config::default()
    }
}
