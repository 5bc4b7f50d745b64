//! Opening an interface: what is checked, in which order, and what of it is held.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use aya::programs::XdpMode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use syncline_engine::device::Capabilities;
use syncline_engine::device::toeplitz::Rss;
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{Socket, Umem};

use crate::chunks::Chunks;
use crate::device::{Parts, Rings, XdpDevice};
use crate::error::{OpenError, chain, os_error};
use crate::live::{LIVE_OCTETS, LiveQueue};
use crate::lock::{LockError, QueueLock};
use crate::netlink::{self, Link};
use crate::netns;
use crate::options::{ModeChoice, Options, TransmitChoice, ZerocopyChoice};
use crate::pages::HUGE_PAGE_BYTES;
use crate::program::{AttachError, Program, ProgramConfig, ProgramCounters, QUEUES_MAX, release};
use crate::sys::{self, InterfaceQuery, ReceiveQueues};

/// Octets at the head of a chunk that the kernel keeps for XDP programs (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;
/// Ethernet's header and one 802.1Q tag.
const LINK_HEADER_BYTES_MAX: u32 = 18;
/// Frames per doorbell, where the kernel lets a socket raise its own 32.
const TRANSMIT_BUDGET_FRAMES: u32 = 256;
/// Octets on their way at once in copy mode; the usual default holds fewer than a hundred full frames.
const SEND_BUFFER_BYTES: u32 = 4 << 20;
/// Drivers whose peer may be a kernel on the same machine that leaves TCP checksums to the receiver.
const PARTIAL_CHECKSUM_DRIVERS: [&str; 3] = ["veth", "tun", "virtio_net"];

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack (generic XDP).
    Skb,
}

impl Mode {
    /// Its name in reports: `native` or `skb`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Skb => "skb",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An interface with the engine's program on it. The program stays until this and all its queues are dropped.
pub struct Interface {
    program: Arc<Program>,
    options: Options,
    link: Link,
    driver: String,
    mode: Mode,
    chunk_bytes: u32,
    stamp_key: u64,
    locks: Vec<Option<QueueLock>>,
    zerocopy: Option<bool>,
    rss: Option<Arc<Rss>>,
    /// The network namespace that the device is in.
    namespace: u64,
}

impl Interface {
    /// Checks everything that can be checked, locks the queues and attaches the program. Until the queues are taken
    /// with [`queue`](Self::queue) all traffic still goes to the kernel.
    ///
    /// The device is looked for in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`OpenError`], with the mend; nothing is left behind.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        sys::silence_libraries();
        check_sizes(&options)?;
        let config = ProgramConfig::new(&options.claim, options.vlan_id)?.with_stamps(options.stamps);
        let link = find_link(&options.interface)?;
        check_privilege(&link.name)?;
        if !link.up {
            return Err(OpenError::Down(link.name));
        }
        if link.mac.is_none() {
            return Err(OpenError::NotEthernet(link.name));
        }
        let system = |doing| {
            let interface = link.name.clone();
            move |source| OpenError::System { interface, doing, source }
        };
        let default_route = netlink::default_route_devices().map_err(system("reading the routes"))?;
        if default_route.contains(&link.index) && !options.allow_default_route {
            return Err(OpenError::DefaultRoute(link.name));
        }
        let chunk_bytes = chunk_bytes_for(&options, &link)?;
        let query = InterfaceQuery::open().map_err(system("opening a socket"))?;
        let driver =
            query.driver(&link.name).ok().or_else(|| link.kind.clone()).unwrap_or_else(|| "unknown".to_owned());
        check_queues(&options, &link, &query)?;

        let namespace = netns::current().map_err(system("identifying the network namespace"))?;
        let mut locks = Vec::new();
        for queue in 0..options.queues {
            locks.push(Some(lock(namespace, &link, queue)?));
        }
        let (program, mode) = attach(&options, &config, &link, &driver)?;
        // Once the program is there: attaching may make a driver set up its queues anew.
        let rss = if options.queues > 1 { query.rss(&link.name).map(Arc::new) } else { None };
        let program = Arc::new(program);
        let stamp_key = config.stamp_key();
        Ok(Self { program, options, link, driver, mode, chunk_bytes, stamp_key, locks, zerocopy: None, rss, namespace })
    }

    /// Binds queue `queue` and sends its share of the engine's traffic to it. Each queue once, from a thread in the
    /// same network namespace as [`open`](Self::open); the device may then move to its worker's thread.
    ///
    /// # Errors
    /// [`OpenError`], with the mend.
    pub fn queue(&mut self, queue: u32) -> Result<XdpDevice, OpenError> {
        let lock = self.locks.get_mut(queue as usize).and_then(Option::take);
        let lock = lock.ok_or_else(|| {
            OpenError::Options(format!("queue {queue} of {} was not asked for, or is taken already", self.link.name))
        })?;
        let interface = self.link.name.clone();
        let system = |doing| {
            let interface = interface.clone();
            move |source| OpenError::System { interface, doing, source }
        };
        let need_bytes = u64::from(self.options.frames) * u64::from(self.chunk_bytes);
        raise_memory_lock_limit(need_bytes);

        let (umem, descs) = self.umem(need_bytes)?;
        let rings = self.bind(queue, &umem)?;
        let socket = rings.rx.fd().as_raw_fd();
        let zerocopy = sys::is_zerocopy(socket).unwrap_or(false);
        // Both only make copy mode faster; older kernels and lesser privileges go without.
        let _ = sys::set_transmit_budget(socket, TRANSMIT_BUDGET_FRAMES.min(self.options.transmit_ring));
        let _ = sys::set_send_buffer(socket, SEND_BUFFER_BYTES);
        // SAFETY: `rings` keeps the socket open for longer than this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket) };
        self.program.bind(queue, borrowed).map_err(system("giving the program its socket"))?;
        self.zerocopy = Some(self.zerocopy.unwrap_or(true) && zerocopy);

        Ok(XdpDevice::new(Parts {
            rings,
            chunks: Chunks::new(umem, descs, self.chunk_bytes, self.stamp_key),
            transmit_ring: self.options.transmit_ring,
            capabilities: self.capabilities(),
            zerocopy,
            interface: interface.clone(),
            interface_index: self.link.index,
            query: InterfaceQuery::open().map_err(system("opening a socket"))?,
            live: LiveQueue::new(&self.program, queue, self.link.index, self.namespace).filter(|_| !zerocopy),
            program: Arc::clone(&self.program),
            lock,
        }))
    }

    /// Where the program runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether all queues taken so far go without a copy; `None` before the first.
    pub fn zerocopy(&self) -> Option<bool> {
        self.zerocopy
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.link.index
    }

    /// The device's hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.link.mac.unwrap_or_default()
    }

    /// The device's MTU, octets.
    pub fn mtu(&self) -> u32 {
        self.link.mtu
    }

    /// Queues bound or to be bound.
    pub fn queues(&self) -> u32 {
        self.options.queues
    }

    /// The running kernel's release.
    pub fn kernel_release(&self) -> String {
        release()
    }

    /// What the program saw, all queues together. System calls: not for the data path.
    pub fn program_counters(&self) -> ProgramCounters {
        self.program.counters()
    }

    /// What every queue of this interface can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            mac: self.mac(),
            mtu: u16::try_from(self.link.mtu).unwrap_or(u16::MAX),
            frame_bytes_max: (self.chunk_bytes - KERNEL_HEADROOM) as u16,
            partial_checksum: PARTIAL_CHECKSUM_DRIVERS.contains(&self.driver.as_str()),
            rss: self.rss.clone(),
        }
    }

    fn umem(&self, need_bytes: u64) -> Result<(Umem, Vec<xsk_rs::FrameDesc>), OpenError> {
        let options = |error: &dyn std::error::Error| OpenError::Options(chain(error));
        let ring = |entries| QueueSize::new(entries).map_err(|error| options(&error));
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(self.chunk_bytes).map_err(|error| options(&error))?)
            .fill_queue_size(ring(self.options.receive_ring)?)
            .comp_queue_size(ring(self.options.transmit_ring)?)
            .build()
            .map_err(|error| options(&error))?;
        let frames = NonZeroU32::new(self.options.frames).unwrap_or(NonZeroU32::MIN);
        let umem = |in_huge_pages| Umem::new(config, frames, in_huge_pages);
        // A huge page is one entry of the TLB where ordinary ones are 512; these do where none are reserved.
        let in_huge_pages = need_bytes.is_multiple_of(HUGE_PAGE_BYTES as u64);
        umem(in_huge_pages).or_else(|_| umem(false)).map_err(|error| {
            let source = os_error(&error).unwrap_or_else(|| io::Error::other(chain(&error)));
            match source.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
                    OpenError::MemoryLock { need_bytes, limit_bytes: limit }
                }
                Some(libc::ENOMEM) => OpenError::NoMemory { need_bytes, source },
                Some(libc::EAFNOSUPPORT) => {
                    OpenError::KernelTooOld { release: release(), feature: "AF_XDP (CONFIG_XDP_SOCKETS)" }
                }
                Some(libc::EPERM) => no_privilege(&self.link.name, "CAP_NET_RAW"),
                _ => OpenError::System { interface: self.link.name.clone(), doing: "registering the buffers", source },
            }
        })
    }

    fn bind(&self, queue: u32, umem: &Umem) -> Result<Rings, OpenError> {
        let interface = &self.link.name;
        let ring = |entries| QueueSize::new(entries).map_err(|error| OpenError::Options(chain(&error)));
        // Generic mode has nothing to do with what a driver could do without a copy.
        let copy = match (self.mode, self.options.zerocopy) {
            (Mode::Skb, _) | (_, ZerocopyChoice::Off) => BindFlags::XDP_COPY,
            (Mode::Native, ZerocopyChoice::On) => BindFlags::XDP_ZEROCOPY,
            (Mode::Native, ZerocopyChoice::Auto) => BindFlags::empty(),
        };
        let config = SocketConfig::builder()
            .rx_queue_size(ring(self.options.receive_ring)?)
            .tx_queue_size(ring(self.options.transmit_ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | copy)
            .build();
        let name = interface.parse().map_err(|_| OpenError::Options(format!("{interface:?} is no device's name")))?;
        // SAFETY: the UMEM has no other socket, so the queue is not bound twice from it; and no program is loaded.
        let created = unsafe { Socket::new(config, umem, &name, queue) };
        let (tx, rx, rings) = created.map_err(|error| {
            let source = os_error(&error).unwrap_or_else(|| io::Error::other(chain(&error)));
            match (source.raw_os_error(), self.options.zerocopy) {
                (Some(libc::EBUSY), _) => OpenError::QueueBusy {
                    interface: interface.clone(),
                    queue,
                    holder: "another program's AF_XDP socket".to_owned(),
                },
                (_, ZerocopyChoice::On) => OpenError::ModeRefused {
                    interface: interface.clone(),
                    driver: self.driver.clone(),
                    what: "zero-copy",
                    source,
                    mend: "--zerocopy auto",
                },
                _ => OpenError::System { interface: interface.clone(), doing: "binding the AF_XDP socket", source },
            }
        })?;
        let (fill, completion) = rings.ok_or_else(|| OpenError::System {
            interface: interface.clone(),
            doing: "mapping the fill and completion rings",
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(Rings { rx, tx, fill, completion })
    }
}

fn check_sizes(options: &Options) -> Result<(), OpenError> {
    let refuse = |text: String| Err(OpenError::Options(text));
    if options.queues == 0 || options.queues > QUEUES_MAX {
        return refuse(format!("{} queues: between 1 and {QUEUES_MAX} can be bound", options.queues));
    }
    for ring in [options.receive_ring, options.transmit_ring] {
        if !ring.is_power_of_two() || !(64..=32_768).contains(&ring) {
            return refuse(format!("rings of {ring} frames: a power of two from 64 to 32768 is needed"));
        }
    }
    // Those under way, and as many again for the engine to work on
    let (least, most) = (options.receive_ring + 4 * options.transmit_ring, 1 << 20);
    if !options.frames.is_power_of_two() || !(least..=most).contains(&options.frames) {
        return refuse(format!("{} buffers: a power of two from {least} to {most} is needed", options.frames));
    }
    if options.chunk_bytes.is_some_and(|bytes| bytes != 2048 && bytes != 4096) {
        return refuse("buffers have 2048 or 4096 octets".to_owned());
    }
    if options.mode == ModeChoice::Skb && options.zerocopy == ZerocopyChoice::On {
        return refuse("zero-copy needs native mode: use --mode native, or --zerocopy auto".to_owned());
    }
    Ok(())
}

fn find_link(name: &str) -> Result<Link, OpenError> {
    let links = netlink::links().map_err(|source| OpenError::System {
        interface: name.to_owned(),
        doing: "listing the devices",
        source,
    })?;
    let present: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    links
        .into_iter()
        .find(|link| link.name == name)
        .ok_or_else(|| OpenError::NoSuchDevice { interface: name.to_owned(), present: present.join(", ") })
}

/// The buffer size that holds a frame of the device's MTU.
fn chunk_bytes_for(options: &Options, link: &Link) -> Result<u32, OpenError> {
    let fits = |chunk: u32| link.mtu + LINK_HEADER_BYTES_MAX + KERNEL_HEADROOM <= chunk;
    let chosen = options.chunk_bytes.unwrap_or(if fits(2048) { 2048 } else { 4096 });
    if fits(chosen) {
        return Ok(chosen);
    }
    Err(OpenError::MtuTooLarge {
        interface: link.name.clone(),
        mtu: link.mtu,
        mtu_max: chosen - KERNEL_HEADROOM - LINK_HEADER_BYTES_MAX,
        chunk_bytes: chosen,
        alternative: if chosen < 4096 { ", or use buffers of 4096 octets" } else { "" },
    })
}

/// Every queue that can receive the engine's flows is bound, or they would be lost to the kernel.
fn check_queues(options: &Options, link: &Link, query: &InterfaceQuery) -> Result<(), OpenError> {
    // Devices without channels (tap) have the queues they were made with.
    let present = query
        .receive_queues(&link.name)
        .ok()
        .filter(|queues| queues.count > 0)
        .unwrap_or(ReceiveQueues { count: link.rx_queues, ethtool_name: "combined" });
    let interface = link.name.clone();
    if options.queues > present.count {
        return Err(OpenError::TooFewQueues { interface, present: present.count, wanted: options.queues });
    }
    if options.queues < present.count && !options.steered {
        return Err(OpenError::UnboundQueues {
            interface,
            present: present.count,
            bound: options.queues,
            channels: present.ethtool_name,
        });
    }
    Ok(())
}

fn lock(namespace: u64, link: &Link, queue: u32) -> Result<QueueLock, OpenError> {
    QueueLock::take(namespace, link.index, &link.name, queue).map_err(|error| match error {
        LockError::Held(holder) => OpenError::QueueBusy { interface: link.name.clone(), queue, holder },
        LockError::Io(path, source) => OpenError::Lock { path, source },
    })
}

/// Attaches the program in the first mode that the choice allows and the driver has.
fn attach(options: &Options, config: &ProgramConfig, link: &Link, driver: &str) -> Result<(Program, Mode), OpenError> {
    let longest = link.mtu + LINK_HEADER_BYTES_MAX;
    let live = options.transmit == TransmitChoice::Auto && driver == "veth" && longest as usize <= LIVE_OCTETS;
    let to_engine = options.mode == ModeChoice::Auto && driver == "veth" && options.peer_is_engine;
    let modes: &[Mode] = match options.mode {
        // Native is the faster there if the program sends, too; or else generic.
        _ if to_engine && live => &[Mode::Native, Mode::Skb],
        _ if to_engine => &[Mode::Skb],
        ModeChoice::Native => &[Mode::Native],
        ModeChoice::Skb => &[Mode::Skb],
        ModeChoice::Auto if options.zerocopy == ZerocopyChoice::On => &[Mode::Native],
        ModeChoice::Auto => &[Mode::Native, Mode::Skb],
    };
    let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
    for &mode in modes {
        let flag = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Skb => XdpMode::Skb,
        };
        match Program::attach(config, link.index, flag, &link.name, live.then_some(options.queues)) {
            Ok(program) if to_engine && mode == Mode::Native && program.live().is_none() => drop(program),
            Ok(program) => return Ok((program, mode)),
            Err(AttachError::Open(error)) => return Err(error),
            Err(AttachError::Refused(source)) => match source.raw_os_error() {
                // EEXIST: a program is there in the other mode.
                Some(libc::EBUSY | libc::EEXIST) => return Err(OpenError::ProgramBusy(link.name.clone())),
                Some(libc::EPERM | libc::EACCES) => return Err(no_privilege(&link.name, "CAP_NET_ADMIN")),
                _ => refusal = source,
            },
        }
    }
    Err(OpenError::ModeRefused {
        interface: link.name.clone(),
        driver: driver.to_owned(),
        what: if options.mode == ModeChoice::Skb { "generic XDP" } else { "native XDP" },
        source: refusal,
        mend: "--mode auto, or a smaller MTU on both ends",
    })
}

/// Raises the soft limit, and the hard one where allowed. Whether it was enough shows when the buffers are registered:
/// with CAP_IPC_LOCK no limit applies.
fn raise_memory_lock_limit(need_bytes: u64) {
    let limit = getrlimit(Resource::Memlock);
    if limit.current.is_none_or(|current| current >= need_bytes) {
        return;
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        // The most that is allowed without privilege; a failure shows as said above.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Which of the needed capabilities the process lacks, before the kernel says a bare "not permitted".
fn check_privilege(interface: &str) -> Result<(), OpenError> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_NET_RAW: u32 = 13;
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_BPF: u32 = 39;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Without /proc the kernel's own refusals have to do.
    let Some(effective) = effective else { return Ok(()) };
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(CAP_NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if missing.is_empty() { Ok(()) } else { Err(no_privilege(interface, &missing.join(", "))) }
}

fn no_privilege(interface: &str, missing: &str) -> OpenError {
    OpenError::NoPrivilege { interface: interface.to_owned(), missing: missing.to_owned() }
}
