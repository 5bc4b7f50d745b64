//! A veth pair between two fresh network namespaces, removed when dropped.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use syncline_engine::device::{Device, Frame};
use syncline_xdp::{Claim, Interface, OpenError, Options, XdpDevice, XdpFrame, netns};

/// The engines' own addresses.
pub(crate) const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Addresses of the kernels on either end.
pub(crate) const KERNEL_A: &str = "10.77.1.1/24";
pub(crate) const KERNEL_B: &str = "10.77.1.2/24";

static BEDS: AtomicU32 = AtomicU32::new(0);

/// Whether the test can run here; says so if not. In CI it must.
pub(crate) fn privileged() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    let effective = u64::from_str_radix(mask, 16).unwrap();
    let (net_admin, sys_admin) = (12, 21);
    let can = effective >> net_admin & 1 == 1 && effective >> sys_admin & 1 == 1;
    if !can {
        assert!(std::env::var_os("CI").is_none(), "CI must run the veth tests as root");
        eprintln!("SKIPPED: a veth pair needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)");
    }
    can
}

pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) struct Bed {
    name: String,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with_queues(1)
    }

    pub(crate) fn with_queues(queues: u32) -> Self {
        let name = format!("xt{}-{}", std::process::id(), BEDS.fetch_add(1, Ordering::Relaxed));
        let bed = Self { name };
        let (a, b) = (bed.netns(0), bed.netns(1));
        sh(&format!("ip netns add {a} && ip netns add {b}"));
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        sh(&format!("ip link add a0 netns {a} {count} type veth peer name b0 netns {b} {count}"));
        for (netns, device, address) in [(&a, "a0", KERNEL_A), (&b, "b0", KERNEL_B)] {
            sh(&format!("ip -n {netns} addr add {address} dev {device} && ip -n {netns} link set {device} up"));
        }
        bed
    }

    pub(crate) fn netns(&self, end: usize) -> String {
        format!("{}-{}", self.name, ["a", "b"][end])
    }

    pub(crate) fn device_name(end: usize) -> &'static str {
        ["a0", "b0"][end]
    }

    /// Runs `command` in the namespace of `end`.
    pub(crate) fn run(&self, end: usize, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.netns(end)))
    }

    /// Runs `work` on a thread in the namespace of `end`.
    pub(crate) fn within<T: Send>(&self, end: usize, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                netns::enter(&self.netns(end)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    pub(crate) fn options(end: usize) -> Options {
        let owned = IpAddr::V4([A, B][end]);
        Options::new(Self::device_name(end), Claim::Owned(vec![owned.into()]))
    }

    pub(crate) fn open(&self, options: Options, end: usize) -> Result<(Interface, XdpDevice), OpenError> {
        self.within(end, || {
            let mut interface = Interface::open(options)?;
            let device = interface.queue(0)?;
            Ok((interface, device))
        })
    }

    /// What is attached to the device of `end`, by `ip`.
    pub(crate) fn attached(&self, end: usize) -> bool {
        self.run(end, &format!("ip -d link show dev {}", Self::device_name(end))).contains("prog/xdp")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for end in [0, 1] {
            let _ = Command::new("ip").args(["netns", "del", &self.netns(end)]).status();
        }
    }
}

/// An IPv4 packet in an Ethernet frame, protocol 253 (RFC 3692), padded with `fill` to `len` octets.
pub(crate) fn write_packet(
    frame: &mut XdpFrame,
    from: &XdpDevice,
    to: [u8; 6],
    addresses: [Ipv4Addr; 2],
    fill: u8,
    len: usize,
) {
    let octets = frame.resize(len);
    octets.fill(fill);
    octets[..6].copy_from_slice(&to);
    octets[6..12].copy_from_slice(&from.capabilities().mac);
    octets[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut octets[14..34];
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&addresses[0].octets());
    ip[16..20].copy_from_slice(&addresses[1].octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}

/// Receives on `device` until `count` frames came or two seconds have passed.
pub(crate) fn receive(device: &mut XdpDevice, count: usize) -> Vec<XdpFrame> {
    let mut frames = Vec::with_capacity(count.max(1));
    let until = Instant::now() + Duration::from_secs(2);
    while frames.len() < count && Instant::now() < until {
        device.reap();
        device.receive(&mut frames);
        device.doorbell();
    }
    frames
}
