//! Socket addresses as octets: `struct sockaddr_in` and `sockaddr_in6` of Linux.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;

/// Octets of the longer of the two.
pub const BYTES_MAX: usize = 28;

/// Reads a `struct sockaddr`. An IPv4 address mapped to IPv6 is an IPv4 address.
///
/// # Errors
/// EINVAL if it is too short, EAFNOSUPPORT for another family.
pub fn decode(octets: &[u8]) -> Result<SocketAddr, Errno> {
    let field = |at: usize, len: usize| octets.get(at..at + len).ok_or(Errno::INVAL);
    let family = u16::from_ne_bytes(field(0, 2)?.try_into().map_err(|_| Errno::INVAL)?);
    let port = || Ok(u16::from_be_bytes(field(2, 2)?.try_into().map_err(|_| Errno::INVAL)?));
    match i32::from(family) {
        libc::AF_INET => {
            let address: [u8; 4] = field(4, 4)?.try_into().map_err(|_| Errno::INVAL)?;
            Ok(SocketAddr::new(Ipv4Addr::from(address).into(), port()?))
        }
        libc::AF_INET6 => {
            let address: [u8; 16] = field(8, 16)?.try_into().map_err(|_| Errno::INVAL)?;
            Ok(SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port()?))
        }
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// Writes a `struct sockaddr` for a socket of the family `domain`: an IPv4 address in an IPv6 socket is mapped.
pub fn encode(address: SocketAddr, domain: i32) -> Vec<u8> {
    let mut octets = Vec::with_capacity(BYTES_MAX);
    octets.extend((domain as u16).to_ne_bytes());
    octets.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) if domain == libc::AF_INET => {
            octets.extend(v4.ip().octets());
            octets.resize(16, 0);
        }
        _ => {
            let ip = match address {
                SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
                SocketAddr::V6(v6) => *v6.ip(),
            };
            octets.extend([0; 4]);
            octets.extend(ip.octets());
            octets.resize(BYTES_MAX, 0);
        }
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for (text, domain) in [("192.0.2.1:80", libc::AF_INET), ("[fd00::7]:8080", libc::AF_INET6)] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address, domain)), Ok(address));
        }
        let v4: SocketAddr = "192.0.2.1:80".parse().unwrap();
        assert_eq!(decode(&encode(v4, libc::AF_INET6)), Ok(v4), "mapped");
    }

    #[test]
    fn other_families_and_short_ones_are_refused() {
        assert_eq!(decode(&[1, 0, 0, 0, 0, 0, 0, 0]), Err(Errno::AFNOSUPPORT));
        assert_eq!(decode(&[2]), Err(Errno::INVAL));
        assert_eq!(decode(&[2, 0, 0, 80]), Err(Errno::INVAL));
    }
}
