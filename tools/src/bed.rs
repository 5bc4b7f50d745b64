//! The test bed: veth pairs between fresh network namespaces.
//!
//! ```text
//!   <name>-a                     <name>-b            <name>-a          <name>-dut          <name>-b
//!   ┌───────────┐          ┌───────────┐             ┌──────┐        ┌───────────┐        ┌──────┐
//!   │ <name>-a0 ├──────────┤ <name>-b0 │    --via    │  -a0 ├────────┤-da0   -db0├────────┤ -b0  │
//!   └───────────┘          └───────────┘             └──────┘        └───────────┘        └──────┘
//! ```
//!
//! An end that the kernel has an address on is an ordinary Linux host. An end without one is silent: no address, no
//! IPv6 of its own, so that every frame on the wire is the engine's.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{self, Child, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::command;
use crate::error::{Error, Result};
use crate::net::Cidr;
use crate::netns;
use crate::say::say;

/// The networks of a bed with something in the middle: the prefix of an end, and the middle's address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The middle's IPv4 address, with the prefix.
    pub v4: &'static str,
    /// The middle's IPv6 address, with the prefix.
    pub v6: &'static str,
}

/// End a's network of a bed with `--via`.
pub const LEG_A: Leg = Leg { v4: "10.77.1.254/24", v6: "fd77:0:0:1::fe/64" };

/// End b's network of a bed with `--via`.
pub const LEG_B: Leg = Leg { v4: "10.77.2.254/24", v6: "fd77:0:0:2::fe/64" };

/// How long the devices of a new bed may take to come up.
const CARRIER_MAX: Duration = Duration::from_secs(2);

/// Longest name of a bed: `<name>-da0` must be an interface name.
const NAME_MAX: usize = 11;

/// The name of a bed: 1 to 11 letters, digits or underscores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BedName(String);

impl BedName {
    /// Namespace of end a.
    pub fn netns_a(&self) -> String {
        format!("{}-a", self.0)
    }

    /// Namespace of end b.
    pub fn netns_b(&self) -> String {
        format!("{}-b", self.0)
    }

    /// Namespace in the middle.
    pub fn netns_dut(&self) -> String {
        format!("{}-dut", self.0)
    }

    /// Device of end a.
    pub fn dev_a(&self) -> String {
        format!("{}-a0", self.0)
    }

    /// Device of end b.
    pub fn dev_b(&self) -> String {
        format!("{}-b0", self.0)
    }

    /// The middle's device towards end a.
    pub fn dut_dev_a(&self) -> String {
        format!("{}-da0", self.0)
    }

    /// The middle's device towards end b.
    pub fn dut_dev_b(&self) -> String {
        format!("{}-db0", self.0)
    }

    fn namespaces(&self) -> [String; 3] {
        [self.netns_a(), self.netns_dut(), self.netns_b()]
    }

    /// A name that no other process uses: from the process id and a serial number.
    fn fresh() -> Self {
        static SERIAL: AtomicU8 = AtomicU8::new(0);
        // Process ids have at most 22 bits (PID_MAX_LIMIT): six digits of base 16, so nine octets in all.
        Self(format!("s{:x}x{:x}", process::id() & 0x3f_ffff, SERIAL.fetch_add(1, Ordering::Relaxed)))
    }
}

impl FromStr for BedName {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(good) {
            return Err(format!("a bed's name has 1 to {NAME_MAX} letters, digits or underscores"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Display for BedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a bed is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BedSpec {
    /// Queues of each device, both directions. 1 to 64.
    pub queues: u16,
    /// Largest IP packet, octets.
    pub mtu: u16,
    /// Addresses of the kernel on end a.
    pub kernel_a: Vec<Cidr>,
    /// Addresses of the kernel on end b.
    pub kernel_b: Vec<Cidr>,
    /// Whether a third namespace stands between the ends and forwards.
    pub via: bool,
}

impl Default for BedSpec {
    fn default() -> Self {
        Self { queues: 1, mtu: 1_500, kernel_a: Vec::new(), kernel_b: Vec::new(), via: false }
    }
}

/// Most queues of a bed's device.
const QUEUES_MAX: u16 = 64;

/// Smallest MTU of a bed: what IPv6 asks of a link (RFC 8200 §5).
const MTU_MIN: u16 = 1_280;

impl BedSpec {
    fn check(&self) -> Result<()> {
        if self.queues == 0 || self.queues > QUEUES_MAX {
            return Err(Error::usage(
                "--queues",
                format!("is not 1 to {QUEUES_MAX}"),
                "one queue per worker is enough",
            ));
        }
        if self.mtu < MTU_MIN {
            return Err(Error::usage("--mtu", format!("is below {MTU_MIN}"), "leave it at 1500"));
        }
        for (flag, addresses, leg) in [("--kernel-a", &self.kernel_a, LEG_A), ("--kernel-b", &self.kernel_b, LEG_B)] {
            for address in addresses.iter().filter(|_| self.via) {
                let network = leg.network(address.addr());
                if !network.contains(address.addr()) || network.addr() == address.addr() {
                    let mend = format!("with --via use another address of that network than {}", network.addr());
                    return Err(Error::usage(format!("{flag} {address}"), format!("is not in {network}"), mend));
                }
            }
        }
        Ok(())
    }
}

impl Leg {
    /// The middle's address of the family of `peer`.
    fn network(self, peer: IpAddr) -> Cidr {
        let text = if peer.is_ipv4() { self.v4 } else { self.v6 };
        text.parse().expect("the networks of the legs are constants that parse")
    }
}

fn ip(words: &str) -> Result<String> {
    command::run("ip", words.split_ascii_whitespace())
}

/// Makes the bed `name`. What was made before a step that fails is removed.
///
/// # Errors
/// Exit 2 if it exists or cannot be as asked, 3 if the host lacks something.
pub fn up(name: &BedName, spec: &BedSpec) -> Result<()> {
    spec.check()?;
    if name.namespaces().iter().any(|netns| netns::exists(netns)) {
        let mend = format!("remove it with `syncline veth down --name {name}`, or use another --name");
        return Err(Error::usage(format!("cannot make test bed {name}"), "it exists already", mend));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::environment(format!("cannot make test bed {name}"), "this needs root", "run it with sudo"));
    }
    build(name, spec).and_then(|()| wait_until_up(name, spec)).inspect_err(|_| {
        // The first failure is the one to tell about.
        let _ = down(name);
    })
}

/// Waits until the kernel has noticed that both ends of each pair are up: it does so in work of its own. An end that
/// takes longer comes up later; nothing depends on it.
fn wait_until_up(name: &BedName, spec: &BedSpec) -> Result<()> {
    let middle = [(name.netns_dut(), name.dut_dev_a()), (name.netns_dut(), name.dut_dev_b())];
    let ends = [(name.netns_a(), name.dev_a()), (name.netns_b(), name.dev_b())];
    let begun = Instant::now();
    for (netns, dev) in ends.into_iter().chain(middle.into_iter().filter(|_| spec.via)) {
        while !ip(&format!("-br -n {netns} link show dev {dev}"))?.contains(" UP ") && begun.elapsed() < CARRIER_MAX {
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn build(name: &BedName, spec: &BedSpec) -> Result<()> {
    let (a, b, dut) = (name.netns_a(), name.netns_b(), name.netns_dut());
    for netns in [Some(&a), spec.via.then_some(&dut), Some(&b)].into_iter().flatten() {
        ip(&format!("netns add {netns}"))?;
        ip(&format!("-n {netns} link set lo up"))?;
        // New namespaces may ask for addresses by themselves; reverse path checks would drop the engine's many sources.
        netns::within(netns, || {
            netns::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            netns::sysctl("net/ipv4/conf/default/rp_filter", "0")
        })?;
    }
    if spec.via {
        pair(spec, (&a, &name.dev_a()), (&dut, &name.dut_dev_a()))?;
        pair(spec, (&dut, &name.dut_dev_b()), (&b, &name.dev_b()))?;
        middle(name)?;
    } else {
        pair(spec, (&a, &name.dev_a()), (&b, &name.dev_b()))?;
    }
    for (netns, dev, addresses, leg) in
        [(&a, name.dev_a(), &spec.kernel_a, LEG_A), (&b, name.dev_b(), &spec.kernel_b, LEG_B)]
    {
        end(netns, &dev, addresses)?;
        for address in addresses.iter().filter(|_| spec.via) {
            let family = if address.addr().is_ipv4() { "-4" } else { "-6" };
            ip(&format!("{family} -n {netns} route replace default via {}", leg.network(address.addr()).addr()))?;
        }
    }
    Ok(())
}

fn pair(spec: &BedSpec, (netns, dev): (&str, &str), (peer_netns, peer): (&str, &str)) -> Result<()> {
    let BedSpec { queues, mtu, .. } = spec;
    let shape = format!("numtxqueues {queues} numrxqueues {queues} mtu {mtu}");
    ip(&format!("-n {netns} link add {dev} {shape} type veth peer name {peer} {shape} netns {peer_netns}")).map(drop)
}

/// Forwarding in both families, and an address on each leg.
fn middle(name: &BedName) -> Result<()> {
    let netns = name.netns_dut();
    netns::within(&netns, || {
        netns::sysctl("net/ipv4/ip_forward", "1")?;
        if has_ipv6() { netns::sysctl("net/ipv6/conf/all/forwarding", "1") } else { Ok(()) }
    })?;
    for (dev, leg) in [(name.dut_dev_a(), LEG_A), (name.dut_dev_b(), LEG_B)] {
        let mut addresses = vec![leg.network(IpAddr::V4([0, 0, 0, 0].into()))];
        if has_ipv6() {
            addresses.push(leg.network(IpAddr::V6(0.into())));
        }
        end(&netns, &dev, &addresses)?;
    }
    Ok(())
}

/// Gives an end its addresses and sets it up; without IPv6 addresses the kernel's IPv6 stays off it.
fn end(netns: &str, dev: &str, addresses: &[Cidr]) -> Result<()> {
    let v6 = addresses.iter().any(|address| address.addr().is_ipv6());
    if has_ipv6() {
        netns::within(netns, || {
            netns::sysctl(&format!("net/ipv6/conf/{dev}/accept_ra"), "0")?;
            netns::sysctl(&format!("net/ipv6/conf/{dev}/disable_ipv6"), if v6 { "0" } else { "1" })
        })?;
    }
    for address in addresses {
        // Without duplicate address detection the address works at once: nobody else is on this wire.
        let flags = if address.addr().is_ipv4() { "brd +" } else { "nodad" };
        ip(&format!("-n {netns} addr add {address} {flags} dev {dev}"))?;
    }
    ip(&format!("-n {netns} link set {dev} up")).map(drop)
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// Removes the bed `name`, and says whether there was one.
///
/// # Errors
/// Exit 3 if a part of it cannot be removed; the other parts are.
pub fn down(name: &BedName) -> Result<bool> {
    let there: Vec<_> = name.namespaces().into_iter().filter(|netns| netns::exists(netns)).collect();
    // A process that still runs in a namespace keeps it, but must not keep the devices.
    for (netns, dev) in [
        (name.netns_a(), name.dev_a()),
        (name.netns_b(), name.dev_b()),
        (name.netns_dut(), name.dut_dev_a()),
        (name.netns_dut(), name.dut_dev_b()),
    ] {
        if there.contains(&netns) {
            // The other end's removal has taken it already, most of the time.
            let _ = ip(&format!("-n {netns} link del {dev}"));
        }
    }
    let removed: Vec<_> = there.iter().map(|netns| ip(&format!("netns del {netns}"))).collect();
    removed.into_iter().collect::<Result<Vec<_>>>().map(|_| !there.is_empty())
}

/// What there is of the bed `name`, for people; `None` if there is nothing.
///
/// # Errors
/// Exit 3 if `ip` cannot tell.
pub fn status(name: &BedName) -> Result<Option<String>> {
    let there: Vec<_> = name.namespaces().into_iter().filter(|netns| netns::exists(netns)).collect();
    if there.is_empty() {
        return Ok(None);
    }
    let mut out = String::new();
    for netns in &there {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "namespace {netns}");
        for line in ip(&format!("-br -n {netns} addr show"))?.lines().filter(|line| !line.starts_with("lo ")) {
            let _ = writeln!(out, "  {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    if there.contains(&name.netns_dut()) {
        let _ = writeln!(out, "end a's network: gateway {} and {}", LEG_A.v4, LEG_A.v6);
        let _ = writeln!(out, "end b's network: gateway {} and {}", LEG_B.v4, LEG_B.v6);
    }
    Ok(Some(out))
}

/// A bed that lives as long as this value, also when a panic ends it.
#[derive(Debug)]
pub struct Bed {
    name: BedName,
}

impl Bed {
    /// A bed with a name of its own.
    ///
    /// # Errors
    /// Those of [`up`].
    pub fn fresh(spec: &BedSpec) -> Result<Self> {
        let name = BedName::fresh();
        up(&name, spec)?;
        Ok(Self { name })
    }

    /// The bed's name, from which follow those of its namespaces and devices.
    pub fn name(&self) -> &BedName {
        &self.name
    }
}

/// A bed that a process of its own takes away when this value goes, or when this process does, however it ends: so that
/// it need not keep the privilege to do it.
#[derive(Debug)]
pub struct BedInCare {
    name: BedName,
    keeper: Child,
}

impl Bed {
    /// Leaves the removal to another process of this program. Tests cannot: they are another program.
    ///
    /// # Errors
    /// Exit 3 if it cannot be started; the bed is then removed.
    pub fn in_care(self) -> Result<BedInCare> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["veth", "down", "--name", &self.name.0, "--after-stdin"]);
        // A Ctrl-C is not meant for it. It has nothing to say unless it fails.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
        let what = "cannot start the process that removes the bed";
        let keeper = child.map_err(|error| Error::environment(what, error, "raise `ulimit -u`"))?;
        let name = self.name.clone();
        // From here on it is the other's.
        std::mem::forget(self);
        Ok(BedInCare { name, keeper })
    }
}

impl BedInCare {
    /// The bed's name, from which follow those of its namespaces and devices.
    pub fn name(&self) -> &BedName {
        &self.name
    }
}

impl Drop for BedInCare {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        match self.keeper.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => say(format_args!("syncline: cannot remove test bed {}: {status}", self.name)),
            Err(error) => say(format_args!("syncline: cannot remove test bed {}: {error}", self.name)),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = down(&self.name) {
            say(format_args!("syncline: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_their_suffixes() {
        let longest: BedName = "elevenchars".parse().unwrap();
        assert!(longest.dut_dev_a().len() <= 15);
        for name in ["", "twelve_chars", "a-b", "a/b", "ä"] {
            assert!(name.parse::<BedName>().is_err(), "{name}");
        }
        assert!(BedName::fresh().to_string().parse::<BedName>().is_ok());
        assert_ne!(BedName::fresh(), BedName::fresh());
    }

    #[test]
    fn impossible_beds_are_refused() {
        let via =
            |kernel_a: &str| BedSpec { via: true, kernel_a: vec![kernel_a.parse().unwrap()], ..BedSpec::default() };
        for spec in [
            BedSpec { queues: 0, ..BedSpec::default() },
            BedSpec { mtu: 576, ..BedSpec::default() },
            via("10.0.0.1/24"),
            via("10.77.1.254/24"),
            via("fd77:0:0:2::1/64"),
        ] {
            assert_eq!(spec.check().unwrap_err().exit(), crate::Exit::Usage, "{spec:?}");
        }
        assert_eq!(via("10.77.1.1/24").check(), Ok(()));
    }
}
