//! Addresses, ports, cores and names as they are written on the command line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// Why a word is not an address, a port range, a list of cores or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(pub(crate) String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseError {}

fn wrong<T>(why: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(why.into()))
}

/// An address and the length of its on-link prefix: `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// `addr` with an on-link prefix of `prefix_len` bits; `None` if that is more than an address has.
    pub fn new(addr: IpAddr, prefix_len: u8) -> Option<Self> {
        IpNet::new(addr, prefix_len).ok().map(Self)
    }

    /// The address.
    pub fn addr(self) -> IpAddr {
        self.0.addr()
    }

    /// Bits of the on-link prefix.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// The network alone, without the host's bits.
    pub fn network(self) -> IpNet {
        self.0.trunc()
    }

    /// Whether `addr` is on the same link.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((addr, len)) = text.split_once('/') else {
            return wrong(format!("no prefix length; write for example {text}/24"));
        };
        let addr: IpAddr = addr.parse().map_err(|_| ParseError(format!("`{addr}` is no IP address")))?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let len = len.parse().ok().filter(|len| *len <= most);
        let Some(net) = len.and_then(|len| IpNet::new(addr, len).ok()) else {
            return wrong(format!("the prefix length is not 0 to {most}"));
        };
        check_unicast(addr)?;
        Ok(Self(net))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether `addr` is the address of one host.
pub(crate) fn check_unicast(addr: IpAddr) -> Result<(), ParseError> {
    let broadcast = addr == IpAddr::V4(Ipv4Addr::BROADCAST);
    if addr.is_multicast() || addr.is_unspecified() || broadcast {
        return wrong(format!("{addr} is not a unicast address"));
    }
    Ok(())
}

/// Addresses the engine owns: one (`10.0.0.1/24`) or a range (`10.0.0.1-10.0.3.254/16`), with their on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedAddrs {
    first: IpAddr,
    last: IpAddr,
    prefix_len: u8,
}

impl OwnedAddrs {
    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Bits of the on-link prefix.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// How many addresses, at most `u64::MAX`.
    pub fn count(&self) -> u64 {
        let span = to_bits(self.last) - to_bits(self.first);
        u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Every address, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.first.is_ipv4();
        (to_bits(self.first)..=to_bits(self.last)).map(move |bits| from_bits(bits, v4))
    }

    /// Whether `addr` is one of them.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.first.is_ipv4() && (to_bits(self.first)..=to_bits(self.last)).contains(&to_bits(addr))
    }

    /// Whether `addr` is on the link of these addresses.
    pub fn on_link(&self, addr: IpAddr) -> bool {
        Cidr::new(self.first, self.prefix_len).is_some_and(|cidr| cidr.contains(addr))
    }
}

fn to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) }
}

impl From<Cidr> for OwnedAddrs {
    fn from(cidr: Cidr) -> Self {
        Self { first: cidr.addr(), last: cidr.addr(), prefix_len: cidr.prefix_len() }
    }
}

impl FromStr for OwnedAddrs {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let Some((first, rest)) = text.split_once('-') else {
            return text.parse::<Cidr>().map(Self::from);
        };
        let last: Cidr = rest.parse()?;
        let prefix_len = last.prefix_len();
        let first: Cidr = format!("{first}/{prefix_len}").parse()?;
        if first.addr().is_ipv4() != last.addr().is_ipv4() {
            return wrong("one end of the range is IPv4, the other IPv6");
        }
        if first.addr() > last.addr() {
            return wrong(format!("{} comes after {}; the lower address goes first", first.addr(), last.addr()));
        }
        if !first.contains(last.addr()) {
            return wrong(format!("{} and {} are not in one /{prefix_len}", first.addr(), last.addr()));
        }
        Ok(Self { first: first.addr(), last: last.addr(), prefix_len })
    }
}

impl fmt::Display for OwnedAddrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}/{}", self.first, self.prefix_len);
        }
        write!(f, "{}-{}/{}", self.first, self.last, self.prefix_len)
    }
}

/// A range of ports, both ends included: `80` or `8000-8999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The lowest port, at least 1.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl FromStr for Ports {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => wrong(format!("`{text}` is not a port from 1 to 65535")),
        };
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.first > ports.last {
            return wrong(format!("{first} comes after {last}; the lower port goes first"));
        }
        Ok(ports)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Processor cores, each named once, in the order given: `0,2-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

/// More cores than any machine this runs on has.
const CORE_MAX: usize = 4_095;

impl Cores {
    /// The cores, at least one.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for Cores {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let core = |text: &str| match text.parse::<usize>() {
            Ok(core) if core <= CORE_MAX => Ok(core),
            _ => wrong(format!("`{text}` is not a core; write for example 0,2-3")),
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (core(first)?, core(last)?);
            if first > last {
                return wrong(format!("{first} comes after {last}; the lower core goes first"));
            }
            for core in first..=last {
                if cores.contains(&core) {
                    return wrong(format!("core {core} is named twice"));
                }
                cores.push(core);
            }
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<_> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

/// Longest interface name: IFNAMSIZ less its final NUL.
const IF_NAME_MAX: usize = 15;

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfName(String);

impl IfName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > IF_NAME_MAX || text == "." || text == ".." || text.contains(bad) {
            return wrong(format!(
                "no interface can be called that: 1 to {IF_NAME_MAX} octets without space, `/` and `:`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! serialize_as_written {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })+
    };
}

serialize_as_written!(Cidr, OwnedAddrs, Ports, Cores, IfName);

/// Where metrics are served, as it is written: `9464`, `0.0.0.0:9464`, `[::1]:9464`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddr(pub SocketAddr);

impl FromStr for MetricsAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse() {
            return Ok(Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        let wrong = |_| "neither a port nor an address with a port; write for example 9464 or 0.0.0.0:9464".into();
        text.parse().map(Self).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(text: &str) -> Result<OwnedAddrs, ParseError> {
        text.parse()
    }

    #[test]
    fn one_address_with_its_prefix() {
        let addrs = owned("10.0.0.5/24").unwrap();
        assert_eq!((addrs.count(), addrs.prefix_len()), (1, 24));
        assert!(addrs.on_link("10.0.0.77".parse().unwrap()) && !addrs.on_link("10.0.1.1".parse().unwrap()));
        assert_eq!(addrs.to_string(), "10.0.0.5/24");
    }

    #[test]
    fn a_range_of_addresses() {
        let addrs = owned("10.0.0.250-10.0.1.5/16").unwrap();
        assert_eq!(addrs.count(), 12);
        let all: Vec<_> = addrs.iter().collect();
        assert_eq!((all.len(), all[6].to_string().as_str()), (12, "10.0.1.0"));
        assert!(addrs.contains("10.0.1.5".parse().unwrap()) && !addrs.contains("10.0.1.6".parse().unwrap()));
        assert_eq!(owned("fd00::1-fd00::1:0/64").unwrap().count(), 0x1_0000);
    }

    #[test]
    fn impossible_addresses_are_refused_with_the_reason() {
        for (text, why) in [
            ("10.0.0.1", "10.0.0.1/24"),
            ("10.0.0.1/33", "0 to 32"),
            ("10.0.0/24", "no IP address"),
            ("224.0.0.1/24", "unicast"),
            ("0.0.0.0/8", "unicast"),
            ("10.0.0.9-10.0.0.1/24", "lower address goes first"),
            ("10.0.0.9-10.0.1.1/24", "not in one /24"),
            ("10.0.0.9-fd00::1/24", "IPv6"),
            ("10.0.0.1-10.0.0.9", "no prefix length"),
        ] {
            let error = owned(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!("80".parse::<Ports>().unwrap().count(), 1);
        assert_eq!("1-65535".parse::<Ports>().unwrap().count(), 65_535);
        for text in ["0", "65536", "9-8", "-", "", "80-"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn cores_keep_their_order() {
        assert_eq!("3,0-1".parse::<Cores>().unwrap().as_slice(), [3, 0, 1]);
        for text in ["", "a", "1-0", "0,0", "0-99999999"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn interface_names() {
        assert!("syn-a0".parse::<IfName>().is_ok());
        for text in ["", "a/b", "..", "sixteen-octets-x", "a b"] {
            assert!(text.parse::<IfName>().is_err(), "{text}");
        }
    }
}
