//! What connections of `syncline load` do: the part of its flags that a mix has once for each kind.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::DeviceArgs;
use crate::error::{Error, Result};
use crate::target::{Resolved, Target};
use crate::units::{self, Count, Octets};

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Open, close
    Connect,
    /// Open, one request, one response, close
    Crr,
    /// Requests on connections that stay
    Rr,
    /// Open many, keep them, one request each before the end, close
    Hold,
    /// Move many octets
    Bulk,
    /// HTTP/1.1
    Http,
    /// SYNs from addresses that are not ours, never completed
    SynFlood,
}

impl Profile {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Crr => "crr",
            Self::Rr => "rr",
            Self::Hold => "hold",
            Self::Bulk => "bulk",
            Self::Http => "http",
            Self::SynFlood => "syn-flood",
        }
    }
}

/// How we end a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CloseMode {
    /// By FIN, acknowledged both ways
    #[default]
    Fin,
    /// By RST
    Rst,
}

/// Who closes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FirstClose {
    /// We do
    Client,
    /// The target does
    Server,
}

/// How long a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseLength {
    /// That many octets.
    Octets(u64),
    /// Up to the peer's FIN.
    UntilFin,
}

impl FromStr for ResponseLength {
    type Err = units::ParseError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text {
            "eof" => Ok(Self::UntilFin),
            _ => text.parse().map(|Octets(octets)| Self::Octets(octets)),
        }
    }
}

impl fmt::Display for ResponseLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octets(octets) => octets.fmt(f),
            Self::UntilFin => f.write_str("eof"),
        }
    }
}

impl Serialize for ResponseLength {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Octets(octets) => serializer.serialize_u64(*octets),
            Self::UntilFin => serializer.serialize_str("eof"),
        }
    }
}

/// A field of an HTTP request, as it is written: `Accept: text/html`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl FromStr for HeaderField {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let example = "write for example 'Accept: text/html'";
        let (name, value) = text.split_once(':').ok_or_else(|| format!("no colon; {example}"))?;
        // RFC 9110 §5.6.2: the characters of a token.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Err(format!("`{name}` is no field name; {example}"));
        }
        if value.contains(['\r', '\n', '\0']) {
            return Err("a line break would break the request".into());
        }
        Ok(Self { name: name.into(), value: value.trim().into() })
    }
}

impl Serialize for HeaderField {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}: {}", self.name, self.value))
    }
}

/// A SHA-256 in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Hex(pub [u8; 32]);

impl FromStr for Sha256Hex {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "not 64 hexadecimal digits".to_owned();
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let octets: Vec<u8> = digits.ok_or_else(wrong)?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        octets.try_into().ok().filter(|_| text.len() == 64).map(Self).ok_or_else(wrong)
    }
}

impl Serialize for Sha256Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|octet| format!("{octet:02x}")).collect::<String>())
    }
}

/// What connections do.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Connections")]
pub struct TalkArgs {
    /// IP:PORT, NAME:PORT or URL (repeatable, in turn)
    #[arg(long, value_name = "TARGET", required = true)]
    pub target: Vec<Target>,
    /// What each connection does
    #[arg(long, value_enum)]
    pub profile: Profile,
    /// Requests on each connection (rr, http, hold)
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub requests_per_connection: Option<Count>,
    /// How connections are closed
    #[arg(long, value_enum, default_value_t, hide_short_help = true)]
    pub close: CloseMode,
    /// Who closes first
    #[arg(long, value_enum, hide_short_help = true)]
    pub first_close: Option<FirstClose>,
    /// Octets of a request [default: 64; http: no body; bulk: without end]
    ///
    /// With bulk and --response-bytes, the default is 0.
    #[arg(long, value_name = "N", help_heading = "Requests", hide_short_help = true)]
    pub request_bytes: Option<Octets>,
    /// Octets of a response, or `eof`: until FIN [default: 64; bulk: none]
    #[arg(long, value_name = "N|eof", help_heading = "Requests", hide_short_help = true)]
    pub response_bytes: Option<ResponseLength>,
    /// The request, or the body of the HTTP request, is what this file holds
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Requests",
        conflicts_with = "request_bytes",
        hide_short_help = true
    )]
    pub request_file: Option<PathBuf>,
    /// Path of the request [default: that of the URL, or /] (http, hold)
    ///
    /// hold speaks HTTP if it is given a path or a URL.
    #[arg(long, value_name = "PATH", help_heading = "Requests", hide_short_help = true)]
    pub path: Option<String>,
    /// Method of the request [default: GET; POST with a body] (http, hold)
    #[arg(long, value_name = "NAME", help_heading = "Requests", hide_short_help = true)]
    pub method: Option<String>,
    /// Field of the request: 'Accept: text/html' (repeatable) (http, hold)
    #[arg(long, value_name = "FIELD", help_heading = "Requests", hide_short_help = true)]
    pub header: Vec<HeaderField>,
    /// Send the body in chunks instead of with its length (http)
    #[arg(long, help_heading = "Requests", hide_short_help = true)]
    pub chunked: bool,
    /// Good statuses [default: 200 to 399] (repeatable) (http, hold)
    #[arg(long, value_name = "N", help_heading = "Checks", value_parser = clap::value_parser!(u16).range(200..=599), hide_short_help = true)]
    pub expect_status: Vec<u16>,
    /// Every response, or its body, must have so many octets
    #[arg(long, value_name = "N", help_heading = "Checks", hide_short_help = true)]
    pub expect_bytes: Option<Octets>,
    /// Every response, or its body, must have this SHA-256
    #[arg(long, value_name = "HEX", help_heading = "Checks", hide_short_help = true)]
    pub expect_sha256: Option<Sha256Hex>,
    /// Every octet of a response must be that of the pattern which we send: what `serve` answers with, and an echo of
    /// it
    #[arg(long, help_heading = "Checks", hide_short_help = true)]
    pub expect_pattern: bool,
}

impl TalkArgs {
    /// Whether HTTP is spoken.
    pub fn speaks_http(&self) -> bool {
        self.profile == Profile::Http || self.profile == Profile::Hold && (self.path.is_some() || self.has_urls())
    }

    fn has_urls(&self) -> bool {
        self.target.iter().any(Target::is_url)
    }

    /// Checks what follows from several arguments together, and finds the targets.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self, device: &DeviceArgs) -> Result<Vec<Resolved>> {
        let mut resolved = Vec::new();
        for target in &self.target {
            let found = target.resolve(|ip| device.check_reachable(ip).is_ok())?;
            if device.addr.iter().any(|addrs| addrs.contains(found.addr.ip())) {
                let mend = "a target is another host; check --addr";
                return Err(Error::usage(format!("--target {target}"), "is one of our own addresses", mend));
            }
            device.check_reachable(found.addr.ip())?;
            resolved.push(found);
        }
        let wrong = |path: &str| !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control());
        if self.path.as_deref().is_some_and(wrong) {
            let mend = "for example --path /index.html";
            return Err(Error::usage("--path", "must begin with / and have no space", mend));
        }
        let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
        if self.method.as_deref().is_some_and(|method| !token(method)) {
            return Err(Error::usage("--method", "is not a method's name", "for example --method PUT"));
        }
        self.check_profile()?;
        Ok(resolved)
    }

    fn check_profile(&self) -> Result<()> {
        use Profile::{Hold, Http, Rr};
        let name = self.profile.name();
        let only = |flag: &str, given: bool, profiles: &[Profile]| {
            if !given || profiles.contains(&self.profile) {
                return Ok(());
            }
            let names: Vec<_> = profiles.iter().map(|profile| profile.name()).collect();
            let why = format!("says nothing to --profile {name}");
            Err(Error::usage(flag, why, format!("it goes with {}", names.join(", "))))
        };
        only("--path", self.path.is_some(), &[Http, Hold])?;
        only("--target with a URL", self.has_urls(), &[Http, Hold])?;
        only("--requests-per-connection", self.requests_per_connection.is_some(), &[Rr, Http, Hold])?;
        if self.requests_per_connection == Some(Count(0)) {
            return Err(Error::usage("--requests-per-connection", "is 0, so nothing would happen", "give at least 1"));
        }
        for (flag, given) in [
            ("--method", self.method.is_some()),
            ("--header", !self.header.is_empty()),
            ("--chunked", self.chunked),
            ("--expect-status", !self.expect_status.is_empty()),
        ] {
            if given && !self.speaks_http() {
                let why = format!("says nothing to --profile {name}, which speaks no HTTP here");
                return Err(Error::usage(flag, why, "it goes with http, and with hold and --path"));
            }
        }
        let expects = self.expect_bytes.is_some() || self.expect_sha256.is_some() || self.expect_pattern;
        if expects && self.profile == Profile::Connect {
            return Err(Error::usage("--expect", "says nothing to --profile connect", "it has no response"));
        }
        Ok(())
    }
}
