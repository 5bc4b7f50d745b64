//! The XDP program on an interface: loaded, told what is the engine's, and attached by a link that ends with the
//! process.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};

use crate::error::{OpenError, chain, os_error};
use crate::live::{LIVE_FRAMES, LiveMaps};
use crate::options::{AddressRange, Claim};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/syncline.bpf.o"));

/// The program that receives, and the one that sends as well.
const RECEIVE: &str = "syncline";
const LIVE: &str = "syncline_live";

/// Ranges of each family that the program looks through; the C source has the same number.
pub(crate) const RANGES_MAX: usize = 64;
/// Queues the program knows sockets for.
pub(crate) const QUEUES_MAX: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Range4 {
    first: u32,
    last: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Range6 {
    first_high: u64,
    first_low: u64,
    last_high: u64,
    last_low: u64,
}

/// `struct config` of the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramConfig {
    live_key: u64,
    stamp_key: u64,
    shared: u32,
    port_first: u32,
    port_last: u32,
    vlan_id: u32,
    range4_count: u32,
    range6_count: u32,
    range4: [Range4; RANGES_MAX],
    range6: [Range6; RANGES_MAX],
}

const _: () = assert!(size_of::<ProgramConfig>() == 40 + RANGES_MAX * (8 + 32), "no padding");

// SAFETY: `repr(C)`, integers only, no padding (asserted above), so any octets are a value and all of them are
// initialised.
unsafe impl Pod for ProgramConfig {}

impl ProgramConfig {
    /// What the program is told for `claim`.
    pub(crate) fn new(claim: &Claim, vlan_id: Option<u16>) -> Result<Self, OpenError> {
        if vlan_id.is_some_and(|id| !(1..=4094).contains(&id)) {
            return Err(OpenError::Options("a VLAN identifier is between 1 and 4094 (IEEE 802.1Q)".to_owned()));
        }
        let (ranges, ports) = match claim {
            Claim::Owned(ranges) => (ranges.clone(), None),
            Claim::Shared { addresses, port_first, port_last } => {
                if port_first > port_last {
                    return Err(OpenError::Options(format!("local ports {port_first}-{port_last} are no range")));
                }
                (addresses.iter().map(|&address| address.into()).collect(), Some((*port_first, *port_last)))
            }
        };
        let mut config = Self {
            live_key: 0,
            stamp_key: 0,
            shared: u32::from(ports.is_some()),
            port_first: ports.map_or(0, |ports| ports.0.into()),
            port_last: ports.map_or(0, |ports| ports.1.into()),
            vlan_id: vlan_id.unwrap_or(0).into(),
            range4_count: 0,
            range6_count: 0,
            range4: [Range4::default(); RANGES_MAX],
            range6: [Range6::default(); RANGES_MAX],
        };
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for range in ranges {
            match range {
                AddressRange::V4(first, last) => v4.push((u128::from(first.to_bits()), u128::from(last.to_bits()))),
                AddressRange::V6(first, last) => v6.push((first.to_bits(), last.to_bits())),
            }
        }
        let v4 = merged(v4, |bits| Ipv4Addr::from_bits(bits as u32).to_string())?;
        let v6 = merged(v6, |bits| Ipv6Addr::from_bits(bits).to_string())?;
        for (slot, (first, last)) in config.range4.iter_mut().zip(&v4) {
            *slot = Range4 { first: *first as u32, last: *last as u32 };
        }
        for (slot, (first, last)) in config.range6.iter_mut().zip(&v6) {
            *slot = Range6 {
                first_high: (*first >> 64) as u64,
                first_low: *first as u64,
                last_high: (*last >> 64) as u64,
                last_low: *last as u64,
            };
        }
        config.range4_count = v4.len() as u32;
        config.range6_count = v6.len() as u32;
        Ok(config)
    }

    /// The same; with `stamps`, frames for a socket are stamped with their arrival.
    pub(crate) fn with_stamps(self, stamps: bool) -> Self {
        Self { stamp_key: if stamps { new_key() } else { 0 }, ..self }
    }

    /// What stands before the time in a stamp; 0: there are none.
    pub(crate) fn stamp_key(&self) -> u64 {
        self.stamp_key
    }
}

/// The same addresses in as few ranges as possible, in order.
fn merged(mut ranges: Vec<(u128, u128)>, show: impl Fn(u128) -> String) -> Result<Vec<(u128, u128)>, OpenError> {
    if let Some((first, last)) = ranges.iter().find(|(first, last)| first > last) {
        return Err(OpenError::Options(format!("{}-{} is no address range", show(*first), show(*last))));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    if merged.len() > RANGES_MAX {
        return Err(OpenError::Options(format!(
            "{} separate address ranges, at most {RANGES_MAX} per family: use fewer, larger ranges",
            merged.len()
        )));
    }
    Ok(merged)
}

/// Frames the program has seen, all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramCounters {
    /// Frames left to the kernel because they are not the engine's.
    pub passed: u64,
    /// Frames given to the engine.
    pub redirected: u64,
    /// Frames for the engine that came on a queue without a socket, and went to the kernel.
    pub no_socket: u64,
}

/// The program, loaded and attached. Detached when dropped, by the kernel if need be.
pub(crate) struct Program {
    sockets: Mutex<XskMap<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    live: Option<LiveMaps>,
    _link: FdLink,
    ebpf: Ebpf,
}

/// Why the program is not on the interface.
pub(crate) enum AttachError {
    /// The kernel said no to attaching.
    Refused(io::Error),
    /// Any other reason.
    Open(OpenError),
}

impl Program {
    /// Loads the program and attaches it to the device `index` in `mode`. With `live_queues` it also sends frames, from as
    /// many queues, if the kernel can do that.
    pub(crate) fn attach(
        config: &ProgramConfig,
        index: u32,
        mode: XdpMode,
        name: &str,
        live_queues: Option<u32>,
    ) -> Result<Self, AttachError> {
        let too_old = OpenError::KernelTooOld { release: release(), feature: "bpf_link for XDP programs" };
        // Without such links (Linux 5.9) aya attaches by netlink, and that would outlive a killed process.
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(5, 9, 0)) {
            return Err(AttachError::Open(too_old));
        }
        let mut loaded = match live_queues.and_then(|queues| Loaded::load_live(config, name, queues)) {
            Some(loaded) => loaded,
            None => Loaded::load(config, name).map_err(AttachError::Open)?,
        };
        let xdp = loaded.xdp(name).map_err(AttachError::Open)?;
        let id = xdp.attach_to_if_index(index, mode).map_err(|error| {
            AttachError::Refused(os_error(&error).unwrap_or_else(|| io::Error::other(chain(&error))))
        })?;
        let link = xdp.take_link(id).map_err(|error| AttachError::Open(program_error(name, error)))?;
        let link = FdLink::try_from(link).map_err(|_| AttachError::Open(too_old))?;
        let Loaded { ebpf, sockets, counters, live, .. } = loaded;
        Ok(Self { sockets: Mutex::new(sockets), counters, live, _link: link, ebpf })
    }

    /// What it sends frames from, if it does.
    pub(crate) fn live(&self) -> Option<&LiveMaps> {
        self.live.as_ref()
    }

    /// Runs the program that sends.
    pub(crate) fn run(&self, options: TestRunOptions<'_>) -> io::Result<()> {
        let program = self.ebpf.program(LIVE).ok_or(io::ErrorKind::NotFound)?;
        let xdp: &Xdp = program.try_into().map_err(io::Error::other)?;
        let run = xdp.test_run(options);
        run.map(drop).map_err(|error| os_error(&error).unwrap_or_else(|| io::Error::other(chain(&error))))
    }

    /// Gives the frames of `queue` to `socket`.
    pub(crate) fn bind(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.set(queue, socket.as_raw_fd(), 0).map_err(io::Error::other)
    }

    pub(crate) fn counters(&self) -> ProgramCounters {
        read_counters(&self.counters)
    }
}

/// The program in the kernel, with its configuration, on no interface yet.
struct Loaded {
    ebpf: Ebpf,
    program: &'static str,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    live: Option<LiveMaps>,
}

impl Loaded {
    /// The program that only receives.
    fn load(config: &ProgramConfig, name: &str) -> Result<Self, OpenError> {
        Self::load_program(RECEIVE, config, name, 0)
    }

    /// The program that sends as well, or nothing where the kernel cannot do that: then the rings serve alone.
    fn load_live(config: &ProgramConfig, name: &str, queues: u32) -> Option<Self> {
        let key = new_key();
        let mut loaded = Self::load_program(LIVE, &ProgramConfig { live_key: key, ..*config }, name, queues).ok()?;
        let mut take = |name| match loaded.ebpf.take_map(name) {
            Some(Map::Array(map)) => Some(map),
            _ => None,
        };
        let (frames, cursors) = (take("live_frames")?, take("live_cursors")?);
        loaded.live = LiveMaps::new(frames.fd().as_fd(), cursors.fd().as_fd(), queues, key).ok();
        loaded.live.is_some().then_some(loaded)
    }

    fn load_program(
        program: &'static str,
        config: &ProgramConfig,
        name: &str,
        live_queues: u32,
    ) -> Result<Self, OpenError> {
        let mut loader = EbpfLoader::new();
        // Memory for frames only where they are sent from it; a map has an entry at least.
        loader.map_max_entries("live_frames", (live_queues * LIVE_FRAMES as u32).max(1));
        loader.map_max_entries("live_cursors", live_queues.max(1));
        let mut ebpf = loader.load(OBJECT).map_err(|error| load_error(name, error))?;
        let map_error = |error: MapError| rejected(chain(&error));
        let mut take = |map| ebpf.take_map(map).ok_or_else(|| rejected(format!("the object lacks the map {map}")));
        let mut config_map: Array<MapData, ProgramConfig> = Array::try_from(take("config")?).map_err(map_error)?;
        config_map.set(0, config, 0).map_err(map_error)?;
        let sockets = XskMap::try_from(take("sockets")?).map_err(map_error)?;
        let counters = PerCpuArray::try_from(take("counters")?).map_err(map_error)?;
        let mut loaded = Self { ebpf, program, sockets, counters, live: None };
        loaded.xdp(name)?.load().map_err(|error| program_error(name, error))?;
        Ok(loaded)
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp, OpenError> {
        let program = self.ebpf.program_mut(self.program);
        let program = program.ok_or_else(|| rejected("the object lacks the program".to_owned()))?;
        program.try_into().map_err(|error: ProgramError| program_error(name, error))
    }
}

/// A word that nothing else is likely to hold. Never zero: that turns off what it is the key to.
fn new_key() -> u64 {
    RandomState::new().hash_one(0u8) | 1
}

fn read_counters(counters: &PerCpuArray<MapData, u64>) -> ProgramCounters {
    let sum = |index| counters.get(&index, 0).map_or(0, |values| values.iter().sum());
    ProgramCounters { passed: sum(0), redirected: sum(1), no_socket: sum(2) }
}

/// The running kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn rejected(reason: String) -> OpenError {
    OpenError::ProgramRejected { release: release(), reason }
}

fn load_error(name: &str, error: EbpfError) -> OpenError {
    match error {
        EbpfError::ProgramError(error) => program_error(name, error),
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            no_privilege(name)
        }
        error => rejected(chain(&error)),
    }
}

fn program_error(name: &str, error: ProgramError) -> OpenError {
    match &error {
        ProgramError::LoadError { io_error, .. } if io_error.kind() == io::ErrorKind::PermissionDenied => {
            // The verifier says EACCES with a log, a missing capability EPERM without one.
            if io_error.raw_os_error() == Some(libc::EPERM) {
                return no_privilege(name);
            }
            rejected(verdict_of(&error))
        }
        _ => rejected(verdict_of(&error)),
    }
}

/// What the verifier's log says last, its statistics left out: why it refused. The log begins with the program.
fn verdict_of(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let figures = ["processed ", "verification ", "stack depth "];
    let said = |line: &&str| !line.is_empty() && !figures.iter().any(|figure| line.starts_with(figure));
    let last = log.lines().map(str::trim).rfind(said).unwrap_or("the verifier says no more");
    format!("{io_error}: {}", last.chars().take(200).collect::<String>())
}

fn no_privilege(name: &str) -> OpenError {
    OpenError::NoPrivilege { interface: name.to_owned(), missing: "CAP_BPF or CAP_NET_ADMIN".to_owned() }
}

#[cfg(test)]
mod tests;
