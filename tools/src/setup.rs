//! From the arguments of `serve` and `load` to an engine's configuration and an open device.

use std::fs::{self, File, OpenOptions};
use std::net::IpAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use syncline_engine::app::App;
use syncline_engine::config::{AddressRange, Config, PortRange, TcpConfig};
use syncline_engine::device::Device;
use syncline_engine::device::pcap::{PcapConfig, PcapWriter};
use syncline_engine::handover::Exchange;
use syncline_engine::tcp::{Secrets, TimestampClock};
use syncline_engine::wire::MacAddr;
use syncline_engine::worker::Worker;
use syncline_xdp::{Claim, Interface, OpenError, Options, XdpDevice, netlink};

use crate::cli::DeviceArgs;
use crate::error::{Error, Result};
use crate::host;
use crate::net::OwnedAddrs;
use crate::report::model::Host;
use crate::run::{Idling, MonotonicClock};
use crate::watch::{SharedWatch, Watched};

/// Connections that a worker's table may grow to where nobody says how many. Growth is by need.
const CONNECTIONS_MAX: u32 = 1 << 24;

/// The cores of the workers, `None` for one that is bound to none.
pub fn cores(args: &DeviceArgs) -> Vec<Option<usize>> {
    args.cores.as_ref().map_or_else(|| vec![None], |cores| cores.as_slice().iter().map(|core| Some(*core)).collect())
}

/// What the workers do without work.
pub fn idling(args: &DeviceArgs) -> Idling {
    if args.busy_poll { Idling::Poll } else { Idling::Sleep }
}

/// The configuration of one worker's engine that the device's arguments ask for.
pub fn engine_config(args: &DeviceArgs) -> Config {
    let range =
        |addrs: &OwnedAddrs| AddressRange { first: addrs.first(), last: addrs.last(), prefix_len: addrs.prefix_len() };
    let own = args.addr.iter().copied().chain(args.shared_addr.map(OwnedAddrs::from));
    let ports = args.local_ports.map(|ports| PortRange { first: ports.first(), last: ports.last() });
    let gateway = |v4: bool| args.gateway.iter().copied().find(|gateway| gateway.is_ipv4() == v4);
    let tcp = TcpConfig { time_wait: args.time_wait.0, ..TcpConfig::default() };
    let local_ports = ports.unwrap_or(tcp.local_ports);
    Config {
        addresses: own.map(|addrs| range(&addrs)).collect(),
        gateway_v4: gateway(true),
        gateway_v6: gateway(false),
        vlan: args.vlan,
        shared: args.shared_addr.and(ports),
        tcp: TcpConfig { local_ports, ..tcp },
        max_connections: CONNECTIONS_MAX,
        ..Config::default()
    }
}

/// Memory of a worker with few connections, octets: frame buffers, its tables' first pages, its thread.
const WORKER_BYTES: u64 = 192 << 20;

/// Memory of a connection, octets: a block and its share of an index that has just grown.
const CONNECTION_BYTES: u64 = 84;

/// Octets that `workers` with `connections` in all need at most.
pub fn memory_bytes(workers: usize, connections: u64) -> u64 {
    (workers as u64 * WORKER_BYTES).saturating_add(connections.saturating_mul(CONNECTION_BYTES))
}

/// Checks that there is memory for `workers` with `connections` in all.
///
/// # Errors
/// Exit 3: later, a lack of memory could only be met by an abort.
pub fn check_memory(workers: usize, connections: u64) -> Result<()> {
    let needed = memory_bytes(workers, connections);
    match host::memory_left_bytes() {
        Some(left) if left < needed => Err(Error::environment(
            format!("no memory for {workers} workers and {connections} connections"),
            format!("about {} MiB are needed, {} MiB are left", needed >> 20, left >> 20),
            "free some, raise `ulimit -v`, or use fewer --cores or --connections",
        )),
        _ => Ok(()),
    }
}

/// Opens the interface, entering its network namespace first. With `stamps`, frames are stamped as they arrive.
///
/// # Errors
/// Exit 2 or 3, as the device says.
pub fn open(args: &DeviceArgs, queues: usize, stamps: bool) -> Result<(Interface, Vec<XdpDevice>)> {
    open_with(args, queues, stamps, &[])
}

/// The same; what comes for the addresses in `more` is ours, too, though nobody is told that they are here.
///
/// # Errors
/// Those of [`open`].
pub fn open_with(
    args: &DeviceArgs,
    queues: usize,
    stamps: bool,
    more: &[syncline_xdp::AddressRange],
) -> Result<(Interface, Vec<XdpDevice>)> {
    if let Some(netns) = &args.netns {
        crate::netns::enter(netns)?;
    }
    let range = |addrs: &OwnedAddrs| match (addrs.first(), addrs.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => syncline_xdp::AddressRange::V4(first, last),
        (IpAddr::V6(first), IpAddr::V6(last)) => syncline_xdp::AddressRange::V6(first, last),
        (first, _) => syncline_xdp::AddressRange::from(first),
    };
    let claim = match args.shared_addr.zip(args.local_ports) {
        Some((shared, ports)) => {
            Claim::Shared { addresses: vec![shared.addr()], port_first: ports.first(), port_last: ports.last() }
        }
        None => Claim::Owned(args.addr.iter().map(range).chain(more.iter().copied()).collect()),
    };
    let options = Options {
        vlan_id: args.vlan,
        mode: args.mode.into(),
        stamps,
        zerocopy: args.zerocopy.into(),
        transmit: args.transmit.into(),
        queues: u32::try_from(queues).unwrap_or(u32::MAX),
        allow_default_route: args.allow_default_route,
        receive_ring: args.receive_ring,
        ..Options::new(args.dev.as_str(), claim)
    };
    let mut interface = Interface::open(options)?;
    let devices = (0..queues).map(|queue| interface.queue(queue as u32)).collect::<std::result::Result<_, _>>()?;
    Ok((interface, devices))
}

/// Opens one queue of an interface in the namespace `netns`.
///
/// # Errors
/// Those of [`open`].
pub fn open_within(netns: &str, options: Options) -> Result<(Interface, XdpDevice)> {
    crate::netns::within(netns, || {
        let mut interface = Interface::open(options)?;
        let device = interface.queue(0)?;
        Ok((interface, device))
    })
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error.exit_code() {
            2 => Self::usage("cannot open the device", error, ""),
            _ => Self::environment("cannot open the device", error, ""),
        }
    }
}

/// The next hops to `remotes` that the kernel knows: on a shared address it is the kernel that resolves.
///
/// # Errors
/// Exit 3 if the kernel does not know one.
pub fn kernel_neighbors(interface: &Interface, remotes: &[IpAddr]) -> Result<Vec<(IpAddr, MacAddr)>> {
    let mut neighbors = Vec::new();
    for &remote in remotes {
        let what = || format!("no way to {remote} by {}", interface.name());
        let index = interface.index();
        let mend = "check `ip route get` and `ip neigh`; a ping makes the kernel look";
        let hop = netlink::next_hop(index, remote).map_err(|error| Error::environment(what(), error, mend))?;
        let hop = hop.unwrap_or(remote);
        let mac = netlink::kernel_neighbor(index, hop).map_err(|error| Error::environment(what(), error, mend))?;
        let mac = mac.ok_or_else(|| Error::environment(what(), format!("the kernel does not know {hop}"), mend))?;
        if !neighbors.contains(&(hop, MacAddr(mac))) {
            neighbors.push((hop, MacAddr(mac)));
        }
    }
    Ok(neighbors)
}

/// Puts a watch around each device, and a capture of all of them into `pcap` if one is asked for.
///
/// # Errors
/// Exit 3 if the file cannot be written.
pub fn watch(
    devices: Vec<XdpDevice>,
    pcap: Option<&Path>,
    watches: &[SharedWatch],
    clock: MonotonicClock,
) -> Result<Vec<Watched<XdpDevice>>> {
    let sink = pcap.map(capture).transpose()?;
    let failed = |error| Error::environment("cannot capture", error, "check --pcap");
    let watched = devices.into_iter().enumerate().map(|(index, device)| {
        let sink = sink.as_ref().map(File::try_clone).transpose().map_err(failed)?;
        let writer = sink.map(|sink| PcapWriter::new(sink, capture_config(clock)));
        Ok(Watched::new(device, clock, writer, watches.get(index).cloned()))
    });
    watched.collect()
}

/// A capture file that several writers may append to.
fn capture(file: &Path) -> Result<File> {
    let failed = |error| Error::environment(format!("cannot capture to {}", file.display()), error, "check --pcap");
    // Each writer appends whole records with one system call, so that several may share the file.
    let sink = OpenOptions::new().create(true).append(true).open(file).map_err(failed)?;
    sink.set_len(0).map_err(failed)?;
    PcapWriter::new(sink.try_clone().map_err(failed)?, PcapConfig::default()).flush();
    Ok(sink)
}

fn capture_config(clock: MonotonicClock) -> PcapConfig {
    let origin = clock.wall_at_origin().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    PcapConfig { origin, file_header: false, ..PcapConfig::default() }
}

/// What a run's choices come from: which ends a connection has, when Poisson's next arrival is due, the keys.
#[derive(Clone, Copy, Debug)]
pub enum Seed {
    /// The user's: what it decides can be repeated, the keys as well.
    Given(u64),
    /// Drawn for this run, and the keys beside it, which have nothing to do with it: it stands in the report.
    Drawn(u64, Keys),
}

/// Keys of the flow table, of initial sequence numbers and of ports.
type Keys = [[u64; 2]; 3];

impl Seed {
    /// The seed that was given, or one from the operating system.
    pub fn new(given: Option<u64>) -> Self {
        let key = || [drawn(), drawn()];
        given.map_or_else(|| Self::Drawn(drawn(), [key(), key(), key()]), Self::Given)
    }

    /// The number.
    pub const fn value(self) -> u64 {
        match self {
            Self::Given(seed) | Self::Drawn(seed, _) => seed,
        }
    }

    /// The secrets of the run's workers, whose time is `clock`'s. Workers share them, as a frame may reach any of them first,
    /// and so do the steps of a search: the sequence numbers of a pair of ends go on from one to the next. What was not given
    /// is random in all its bits (RFC 6528 §4). Timestamps follow neither the seed nor the run: they go on from one run to
    /// the next, until the machine starts anew.
    //= RFC 6191 2-SHOULD-3
    pub fn secrets(self, clock: MonotonicClock) -> Secrets {
        let [table, isn, ports] = self.keys();
        let timestamps = TimestampClock { key: timestamp_key(), origin_ms: clock.origin_ms() };
        Secrets { table, isn, ports, timestamps }
    }

    /// The keys, the same each time.
    //= RFC 6528 4-MUST-1
    fn keys(self) -> Keys {
        let mut state = match self {
            Self::Drawn(_, keys) => return keys,
            Self::Given(seed) => seed,
        };
        // SplitMix64 (Steele, Lea, Flood 2014): what a seed is spread out with.
        let mut spread = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        let mut key = || [spread(), spread()];
        [key(), key(), key()]
    }
}

/// What keys the offsets of timestamps: one number for as long as the machine is up, that nobody beyond it knows. The
/// kernel names each boot at random, and tells everyone on the machine; what is made of it does not lead back to the name.
/// Where there is no /proc, the process has a key for itself.
//= RFC 7323 7.1-SHOULD-1
fn timestamp_key() -> [u64; 2] {
    static KEY: LazyLock<[u64; 2]> = LazyLock::new(|| {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok().filter(|name| !name.is_empty());
        boot.map_or_else(|| [drawn(), drawn()], |name| key_of_boot(&name))
    });
    *KEY
}

fn key_of_boot(name: &[u8]) -> [u64; 2] {
    let digest = Sha256::new().chain_update("syncline timestamps\0").chain_update(name).finalize();
    let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|octet| digest[at + octet]));
    [word(0), word(8)]
}

/// A number from the operating system's random source.
fn drawn() -> u64 {
    getrandom::u64().expect("the operating system has random numbers")
}

/// What the report says of the host and the device.
pub fn host_facts(interface: Option<&Interface>, device: &str, cores: &[Option<usize>]) -> Host {
    let placement: Vec<_> = cores
        .iter()
        .enumerate()
        .map(|(worker, core)| match core {
            Some(core) => format!("worker {worker} on core {core}"),
            None => format!("worker {worker} on any core"),
        })
        .collect();
    Host {
        kernel: host::kernel_release(),
        cpu_model: host::cpu_model(),
        cores: host::cores(),
        device: Some(device.to_owned()),
        driver: interface.map(|interface| interface.driver().to_owned()),
        xdp_mode: interface.map(|interface| interface.mode().name().to_owned()),
        zerocopy: interface.and_then(Interface::zerocopy),
        placement: Some(placement.join(", ")),
    }
}

/// Where workers of this program have their memory from.
pub type Pages = syncline_xdp::pages::MappedPages;

/// Frames that may be on the way from one worker to another.
const PARCELS: usize = 4096;

/// Lets several workers of one interface hand each other what arrives on the wrong one.
pub fn join<D: Device, A: App, T>(workers: &mut [(Worker<D, A, Pages>, T)]) {
    if workers.len() < 2 {
        return;
    }
    let capabilities = workers[0].0.device().capabilities();
    let frame_bytes = usize::from(capabilities.frame_bytes_max);
    let places = Exchange::among(workers.len(), PARCELS, frame_bytes, capabilities.rss.as_ref());
    for ((worker, _), place) in workers.iter_mut().zip(places) {
        worker.join(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    //= RFC 6528 4-MUST-1
    fn keys_follow_a_given_seed_alone() {
        let keys = |seed: Seed| seed.keys().concat();
        assert_eq!(keys(Seed::Given(7)), keys(Seed::Given(7)));
        assert_ne!(keys(Seed::Given(7)), keys(Seed::Given(8)));
        let (a, b) = (Seed::new(None), Seed::new(None));
        for words in [keys(Seed::Given(7)), [keys(a), keys(b), vec![a.value(), b.value()]].concat()] {
            let different: std::collections::HashSet<_> = words.iter().collect();
            assert_eq!(different.len(), words.len(), "no word twice");
        }
        assert_eq!(keys(a), keys(a), "of one run, whoever asks");
        assert_eq!(Seed::new(Some(7)).value(), 7);
    }

    #[test]
    //= RFC 6191 2-SHOULD-3
    fn timestamps_go_on_from_one_run_to_the_next() {
        let runs = [Seed::new(None), Seed::Given(7), Seed::Given(8)];
        let clocks = runs.map(|seed| seed.secrets(MonotonicClock::start()).timestamps);
        for two in clocks.windows(2) {
            assert_eq!(two[0].key, two[1].key, "whatever the seed");
            assert!(two[1].origin_ms.wrapping_sub(two[0].origin_ms) < 60_000, "later, by little: {clocks:?}");
        }
        let one = "7f0c4a0e-8a34-4f0e-9f0b-3c1f6f3f9d11\n";
        let other = "7f0c4a0e-8a34-4f0e-9f0b-3c1f6f3f9d12\n";
        assert_eq!(key_of_boot(one.as_bytes()), key_of_boot(one.as_bytes()));
        assert_ne!(key_of_boot(one.as_bytes()), key_of_boot(other.as_bytes()));
    }
}
