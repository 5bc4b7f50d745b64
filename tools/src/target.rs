//! Where connections go, as it is written: `192.0.2.1:80`, `[2001:db8::1]:80`, `www.example.test:80` or a URL.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::net::{ParseError, check_unicast};

/// A target as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: String,
    host: Host,
    port: u16,
    path: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Addr(IpAddr),
    Name(String),
}

/// A target with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where connections go.
    pub addr: SocketAddr,
    /// The Host field, where it was given a name or a URL.
    pub host: Option<String>,
    /// Path and query of a URL.
    pub path: Option<String>,
}

/// Longest host name (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

fn wrong<T>(why: impl Into<String>) -> std::result::Result<T, ParseError> {
    Err(ParseError(why.into()))
}

fn name(text: &str) -> std::result::Result<Host, ParseError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    // What ends in a number is an address gone wrong (RFC 1123 §2.1).
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(good) || last.bytes().all(|b| b.is_ascii_digit()) {
        return wrong(format!("`{text}` is no address and no host name"));
    }
    Ok(Host::Name(text.to_owned()))
}

/// Host and port of `text`; without a port, `default`.
fn authority(text: &str, default: Option<u16>) -> std::result::Result<(Host, u16), ParseError> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok((Host::Addr(addr.ip()), addr.port()));
    }
    let missing = || ParseError("no port; write 192.0.2.1:80, [2001:db8::1]:80, name:80 or http://name/path".into());
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(addr) = bare.parse::<IpAddr>() {
        return Ok((Host::Addr(addr), default.ok_or_else(missing)?));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => {
            let port = port.parse().map_err(|_| ParseError(format!("`{port}` is not a port from 1 to 65535")))?;
            Ok((name(host)?, port))
        }
        None => Ok((name(text)?, default.ok_or_else(missing)?)),
    }
}

impl FromStr for Target {
    type Err = ParseError;

    fn from_str(text: &str) -> std::result::Result<Self, ParseError> {
        if text.starts_with("https://") {
            return wrong("there is no TLS here; write http://");
        }
        let (host, port, path) = match text.strip_prefix("http://") {
            Some(rest) => {
                let rest = rest.split('#').next().unwrap_or_default();
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (host, port) = authority(&rest[..end], Some(80))?;
                let path = if rest[end..].starts_with('/') { rest[end..].into() } else { format!("/{}", &rest[end..]) };
                if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return wrong("a URL has no space in it; write %20");
                }
                (host, port, Some(path))
            }
            None => {
                let (host, port) = authority(text, None)?;
                (host, port, None)
            }
        };
        if port == 0 {
            return wrong("port 0 cannot be connected to");
        }
        if let Host::Addr(addr) = host {
            check_unicast(addr)?;
        }
        Ok(Self { text: text.to_owned(), host, port, path })
    }
}

impl Target {
    /// Whether it is a URL, and so HTTP.
    pub fn is_url(&self) -> bool {
        self.path.is_some()
    }

    /// Finds its address, by the resolver of this host if it has a name: the first of a family that `usable` takes.
    ///
    /// # Errors
    /// Exit 2 if the name has no such address.
    pub fn resolve(&self, usable: impl Fn(IpAddr) -> bool) -> Result<Resolved> {
        let what = || format!("--target {self}");
        let default_port = if self.port == 80 { String::new() } else { format!(":{}", self.port) };
        let (ip, host) = match &self.host {
            Host::Addr(ip) if self.is_url() => {
                let bare = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
                (*ip, Some(bare + &default_port))
            }
            Host::Addr(ip) => (*ip, None),
            Host::Name(name) => {
                let mend = "check the name, or give its address";
                let found = (name.as_str(), self.port).to_socket_addrs();
                let found: Vec<_> = found.map_err(|error| Error::usage(what(), error, mend))?.collect();
                let Some(addr) = found.iter().find(|addr| usable(addr.ip())).or(found.first()) else {
                    return Err(Error::usage(what(), "the name has no address", mend));
                };
                (addr.ip(), Some(format!("{name}{default_port}")))
            }
        };
        check_unicast(ip).map_err(|error| Error::usage(what(), error, "give the address of one host"))?;
        Ok(Resolved { addr: SocketAddr::new(ip, self.port), host, path: self.path.clone() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Resolved {
        text.parse::<Target>().unwrap().resolve(|_| true).unwrap()
    }

    #[test]
    fn addresses_names_and_urls() {
        assert_eq!(resolved("10.0.0.1:80").addr.to_string(), "10.0.0.1:80");
        assert_eq!(resolved("10.0.0.1:80").host, None);
        assert_eq!(resolved("[fd00::1]:8080").addr.to_string(), "[fd00::1]:8080");
        let url = resolved("http://10.0.0.1/a/b?c=d#e");
        assert_eq!(
            (url.addr.port(), url.host.as_deref(), url.path.as_deref()),
            (80, Some("10.0.0.1"), Some("/a/b?c=d"))
        );
        let url = resolved("http://[fd00::1]:81?x");
        assert_eq!((url.host.as_deref(), url.path.as_deref()), (Some("[fd00::1]:81"), Some("/?x")));
        assert_eq!(resolved("http://[fd00::1]").addr.to_string(), "[fd00::1]:80");
        let named = "localhost:8080".parse::<Target>().unwrap().resolve(|addr| addr.is_ipv4()).unwrap();
        assert_eq!(
            (named.addr.to_string().as_str(), named.host.as_deref()),
            ("127.0.0.1:8080", Some("localhost:8080"))
        );
    }

    #[test]
    fn what_is_no_target() {
        for text in [
            "10.0.0.1",
            "10.0.0.1:0",
            "fd00::1:80:",
            "host",
            "host:",
            "host:x",
            "239.1.1.1:80",
            "10.0.0.256:80",
            ":80",
            "",
            "https://a.test/",
            "http://",
            "http://a.test/x y",
            "a b:80",
            "http://a.test:99999/",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let error = "no-such-host.invalid:80".parse::<Target>().unwrap().resolve(|_| true).unwrap_err();
        assert_eq!(error.exit(), crate::Exit::Usage, "{error}");
    }
}
