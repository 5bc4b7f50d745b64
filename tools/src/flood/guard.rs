//! Whom a flood may be sent to, and in whose name.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::net::Cidr;

/// Ranges that belong to nobody on the Internet.
const OWN_RANGES: [(&str, &str); 14] = [
    ("10.0.0.0/8", "private, RFC 1918"),
    ("172.16.0.0/12", "private, RFC 1918"),
    ("192.168.0.0/16", "private, RFC 1918"),
    ("127.0.0.0/8", "loopback, RFC 1122"),
    ("169.254.0.0/16", "link-local, RFC 3927"),
    ("198.18.0.0/15", "benchmarking, RFC 2544"),
    ("192.0.2.0/24", "documentation, RFC 5737"),
    ("198.51.100.0/24", "documentation, RFC 5737"),
    ("203.0.113.0/24", "documentation, RFC 5737"),
    ("fc00::/7", "private, RFC 4193"),
    ("::1/128", "loopback, RFC 4291"),
    ("fe80::/10", "link-local, RFC 4291"),
    ("2001:2::/48", "benchmarking, RFC 5180"),
    ("2001:db8::/32", "documentation, RFC 3849"),
];

/// Where spoofed sources come from if no range is named: the benchmarking ranges (RFC 2544 appendix C.2.2, RFC 5180 §8).
pub const SPOOF_DEFAULT: [&str; 2] = ["198.18.0.0/15", "2001:2::/48"];

/// Whether nobody on the Internet can have an address of `net`.
pub fn is_nobodys(net: IpNet) -> bool {
    OWN_RANGES.iter().any(|(range, _)| range.parse::<IpNet>().is_ok_and(|range| range.contains(&net)))
}

/// Refuses targets, and sources to speak in the name of, that may be somebody else's.
///
/// # Errors
/// Exit 2, with the reason and what allows it.
pub fn check(targets: &[SocketAddr], spoof: &[Cidr]) -> Result<()> {
    const RANGES: &str = "private, loopback, link-local, benchmarking and documentation ranges";
    const MEND: &str = "if it is yours, say so with --allow-public-target";
    for target in targets {
        if !is_nobodys(IpNet::from(target.ip())) {
            let why = format!("is outside the {RANGES}: a SYN flood on somebody else's host is an attack");
            return Err(Error::usage(format!("--target {target}"), why, MEND));
        }
    }
    for range in spoof {
        if !is_nobodys(range.network()) {
            let why = format!("is outside the {RANGES}: the target would answer hosts that never asked");
            return Err(Error::usage(format!("--spoof {range}"), why, MEND));
        }
    }
    Ok(())
}

/// Refuses spoofed sources among the addresses that the kernel has in this network namespace: what comes for them would
/// not reach it any more.
///
/// # Errors
/// Exit 2; 3 if the kernel does not tell its addresses.
pub fn check_not_the_kernels(spoof: &[Cidr]) -> Result<()> {
    let addresses = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Error::environment("cannot list the kernel's addresses", errno.desc(), ""))?;
    for address in addresses.filter_map(|interface| interface.address) {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let Some(own) = v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))) else {
            continue;
        };
        if let Some(range) = spoof.iter().find(|range| range.contains(own)) {
            let why = format!("holds {own}, which is the kernel's here and would be cut off");
            return Err(Error::usage(format!("--spoof {range}"), why, "name a range without it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_parses_and_holds_itself() {
        for (range, _) in OWN_RANGES {
            let range: IpNet = range.parse().unwrap();
            assert_eq!(range, range.trunc());
            assert!(is_nobodys(range));
        }
        assert!(SPOOF_DEFAULT.iter().all(|range| is_nobodys(range.parse().unwrap())));
    }

    #[test]
    fn what_may_be_somebodys_is_refused_with_the_reason() {
        let target = |text: &str| [text.parse::<SocketAddr>().unwrap()];
        for good in ["10.9.0.2:80", "172.31.255.1:1", "192.168.0.1:1", "127.0.0.1:1", "[fd00::1]:1", "[fe80::1]:1"] {
            assert_eq!(check(&target(good), &[]), Ok(()), "{good}");
        }
        for bad in ["8.8.8.8:53", "172.32.0.1:1", "192.0.3.1:1", "100.64.0.1:1", "198.20.0.1:1", "[2606:4700::1]:1"] {
            let error = check(&target(bad), &[]).unwrap_err();
            assert_eq!(error.exit(), crate::Exit::Usage);
            let text = error.to_string();
            assert!(text.contains("attack") && text.contains("--allow-public-target"), "{text}");
        }
        let spoof = |text: &str| [text.parse::<Cidr>().unwrap()];
        for good in ["10.0.0.0/8", "198.18.0.0/15", "2001:2::/48", "10.128.0.0/9"] {
            assert_eq!(check(&[], &spoof(good)), Ok(()), "{good}");
        }
        for bad in ["10.0.0.0/7", "198.18.0.0/14", "8.8.8.0/24", "2001::/16"] {
            let text = check(&[], &spoof(bad)).unwrap_err().to_string();
            assert!(text.contains("never asked"), "{text}");
        }
    }

    #[test]
    fn the_kernels_own_addresses_are_not_spoofed() {
        let error = check_not_the_kernels(&["127.0.0.0/8".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!(check_not_the_kernels(&["198.51.100.0/24".parse().unwrap()]), Ok(()));
    }
}
