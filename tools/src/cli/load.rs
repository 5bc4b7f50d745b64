//! `syncline load`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::{DeviceArgs, OutputArgs};
use crate::error::{Error, Result};
use crate::flood::guard;
use crate::net::{Cidr, Target};
use crate::report::Threshold;
use crate::units::{self, BitRate, Count, Octets, OfferedRate, Rate, Span};

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

fn as_written<S: Serializer>(thresholds: &[Threshold], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(thresholds.iter().map(Threshold::to_string))
}

/// `syncline load`.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "\
Examples:
  syncline load --netns syn-a --dev syn-a0 --addr 10.9.0.1/24 --target 10.9.0.2:80 \\
      --profile http --rate 10k --duration 30s --threshold 'latency_us.transaction.p99<2000'
  syncline load --netns syn-a --dev syn-a0 --addr 10.9.0.1-10.9.0.50/24 --target 10.9.0.2:80 \\
      --profile hold --connections 1M --rate 50k --hold 60s --json report.json
  syncline load --netns syn-a --dev syn-a0 --addr 10.9.0.1/24 --target 10.9.0.2:80 \\
      --profile syn-flood --spoof 198.18.0.0/15 --rate 100k --duration 30s")]
pub struct LoadArgs {
    /// The device.
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceArgs,
    /// Where connections go (repeatable)
    #[arg(long, value_name = "IP:PORT", required = true)]
    pub target: Vec<Target>,
    /// What each connection does
    #[arg(long, value_enum)]
    pub profile: Profile,
    /// New connections per second, whatever the target answers; or `max`: as many as go through --max-in-flight
    #[arg(long, value_name = "N", conflicts_with = "concurrency")]
    pub rate: Option<OfferedRate>,
    /// Keep so many open: each that ends makes room for the next
    #[arg(long, value_name = "N")]
    pub concurrency: Option<Count>,
    /// Most connections in flight; launches that come due beyond it wait, counted as held_back and timed from when
    /// they were due [default with --rate: 4096 a core; with --rate max: 1024 a core]
    #[arg(long, value_name = "N")]
    pub max_in_flight: Option<Count>,
    /// Stop after so many connections
    #[arg(long, value_name = "N")]
    pub count: Option<Count>,
    /// How many to hold (hold)
    #[arg(long, value_name = "N")]
    pub connections: Option<Count>,
    /// How long to hold them once all are open (hold)
    #[arg(long, value_name = "S")]
    #[serde(rename = "hold_s")]
    pub hold: Option<Span>,
    /// Requests per second over all connections (rr, http)
    #[arg(long, value_name = "N")]
    pub request_rate: Option<Rate>,
    /// Bits per second over all connections (bulk)
    #[arg(long, value_name = "N")]
    pub bitrate: Option<BitRate>,
    /// Raise the rate from 0 over this time; not measured
    #[arg(long, value_name = "S")]
    #[serde(rename = "ramp_s")]
    pub ramp: Option<Span>,
    /// Octets of a request [default: 64; http: no body; bulk: without end, unless --response-bytes is given]
    #[arg(long, value_name = "N")]
    pub request_bytes: Option<Octets>,
    /// Octets of a response, or `eof`: up to the peer's FIN [default: 64; bulk: none]
    #[arg(long, value_name = "N|eof")]
    pub response_bytes: Option<ResponseLength>,
    /// Requests on each connection (rr, http)
    #[arg(long, value_name = "N")]
    pub requests_per_connection: Option<Count>,
    /// Put the request on the handshake's ACK
    #[arg(long)]
    pub piggyback: bool,
    /// How connections are closed
    #[arg(long, value_enum, default_value_t)]
    pub close: CloseMode,
    /// Who closes first
    #[arg(long, value_enum)]
    pub first_close: Option<FirstClose>,
    /// Give up a connection that is not open after this long
    #[arg(long, value_name = "S", default_value = "5s")]
    #[serde(rename = "connect_timeout_s")]
    pub connect_timeout: Span,
    /// Give up a request that is not answered, or a close that is not done, after this long
    #[arg(long, value_name = "S", default_value = "30s")]
    #[serde(rename = "timeout_s")]
    pub timeout: Span,
    /// Path of the request [default: /; hold: no HTTP unless it is given] (http, hold)
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Report the SHA-256 of what was received, for the first answers
    #[arg(long)]
    pub digest: bool,
    /// Where the sources of a flood come from, at most one range of each family
    /// [default: 198.18.0.0/15, 2001:2::/48] (syn-flood)
    #[arg(long, value_name = "CIDR")]
    pub spoof: Vec<Cidr>,
    /// Flood targets, or in the name of sources, that may be somebody else's (syn-flood)
    #[arg(long)]
    pub allow_public_target: bool,
    /// Condition on the report: `latency_us.connect.p99<2000` (repeatable)
    #[arg(long, value_name = "EXPR")]
    #[serde(serialize_with = "as_written")]
    pub threshold: Vec<Threshold>,
    /// Where results go.
    #[command(flatten)]
    #[serde(skip)]
    pub output: OutputArgs,
}

impl LoadArgs {
    /// Checks what follows from several arguments together.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self) -> Result<()> {
        self.device.check()?;
        for target in &self.target {
            if self.device.addr.iter().any(|addrs| addrs.contains(target.0.ip())) {
                let mend = "a target is another host; check --addr";
                return Err(Error::usage(format!("--target {target}"), "is one of our own addresses", mend));
            }
            self.device.check_reachable(target.0.ip())?;
        }
        for (flag, value) in [
            ("--concurrency", self.concurrency),
            ("--max-in-flight", self.max_in_flight),
            ("--count", self.count),
            ("--connections", self.connections),
            ("--requests-per-connection", self.requests_per_connection),
        ] {
            if value == Some(Count(0)) {
                return Err(Error::usage(flag, "is 0, so nothing would happen", "give at least 1"));
            }
        }
        let wrong = |path: &str| !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control());
        if self.path.as_deref().is_some_and(wrong) {
            return Err(Error::usage(
                "--path",
                "must begin with / and have no space",
                "for example --path /index.html",
            ));
        }
        self.check_profile()
    }

    fn check_profile(&self) -> Result<()> {
        use Profile::{Bulk, Connect, Crr, Hold, Http, Rr, SynFlood};
        const ALL: [Profile; 6] = [Connect, Crr, Rr, Hold, Bulk, Http];
        let only = |flag: &str, given: bool, profiles: &[Profile]| {
            if !given || profiles.contains(&self.profile) {
                return Ok(());
            }
            let names: Vec<_> = profiles.iter().map(|profile| profile.name()).collect();
            let why = format!("says nothing to --profile {}", self.profile.name());
            Err(Error::usage(flag, why, format!("it goes with {}", names.join(", "))))
        };
        only("--connections", self.connections.is_some(), &[Hold])?;
        only("--hold", self.hold.is_some(), &[Hold])?;
        only("--path", self.path.is_some(), &[Http, Hold])?;
        only("--bitrate", self.bitrate.is_some(), &[Bulk])?;
        only("--request-rate", self.request_rate.is_some(), &[Rr, Http])?;
        only("--requests-per-connection", self.requests_per_connection.is_some(), &[Rr, Http])?;
        only("--concurrency", self.concurrency.is_some(), &ALL)?;
        only("--max-in-flight", self.max_in_flight.is_some(), &ALL)?;
        only("--ramp", self.ramp.is_some(), &ALL)?;
        only("--request-bytes", self.request_bytes.is_some(), &ALL)?;
        only("--response-bytes", self.response_bytes.is_some(), &ALL)?;
        only("--piggyback", self.piggyback, &ALL)?;
        only("--first-close", self.first_close.is_some(), &ALL)?;
        only("--digest", self.digest, &ALL)?;
        only("--spoof", !self.spoof.is_empty(), &[SynFlood])?;
        only("--allow-public-target", self.allow_public_target, &[SynFlood])?;
        if self.profile == SynFlood {
            self.check_flood()?;
        }
        if self.profile == Hold && self.connections.is_none() {
            return Err(Error::usage("--profile hold", "does not know how many", "give --connections N"));
        }
        if self.profile != Hold && self.count.is_none() && self.device.duration.is_none() {
            return Err(Error::usage("the run would not end", "it has no limit", "give --duration S or --count N"));
        }
        Ok(())
    }
}

impl LoadArgs {
    fn check_flood(&self) -> Result<()> {
        if self.device.shared_addr.is_some() || self.device.local_ports.is_some() {
            let flag = if self.device.shared_addr.is_some() { "--shared-addr" } else { "--local-ports" };
            let why = "says nothing to --profile syn-flood";
            return Err(Error::usage(flag, why, "give --addr: an address to ask for the next hop with"));
        }
        for (index, range) in self.spoof.iter().enumerate() {
            if self.spoof[..index].iter().any(|other| other.addr().is_ipv4() == range.addr().is_ipv4()) {
                let why = "is the second of its family";
                return Err(Error::usage(format!("--spoof {range}"), why, "name one range of each family"));
            }
        }
        if self.allow_public_target { Ok(()) } else { guard::check(&self.target, &self.spoof) }
    }

    /// The range that sources towards `target` are drawn from.
    pub fn spoof_for(&self, target: IpAddr) -> Option<Cidr> {
        let default = || guard::SPOOF_DEFAULT.iter().filter_map(|range| range.parse().ok());
        self.spoof.iter().copied().chain(default()).find(|range| range.addr().is_ipv4() == target.is_ipv4())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Exit;
    use crate::cli::ServeArgs;
    use crate::cli::serve::ServerApp;

    #[derive(Parser)]
    struct Load {
        #[command(flatten)]
        args: LoadArgs,
    }

    #[derive(Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn load(words: &str) -> LoadArgs {
        let base = "load --dev x --addr 10.0.0.1/24";
        Load::try_parse_from(base.split(' ').chain(words.split_whitespace())).unwrap_or_else(|e| panic!("{e}")).args
    }

    #[test]
    fn a_full_line_is_understood() {
        let args =
            load("--target 10.0.0.2:80 --profile crr --rate 200k --duration 30s --response-bytes eof --piggyback");
        assert_eq!(args.check(), Ok(()));
        assert_eq!(args.rate, Some("200k".parse().unwrap()));
        assert_eq!(args.response_bytes, Some(ResponseLength::UntilFin));
        let config = serde_json::to_value(&args).unwrap();
        assert_eq!(config["rate"], 200_000.0);
        assert_eq!(config["duration_s"], 30.0);
        assert_eq!((&config["time_wait_s"], &config["response_bytes"]), (&60.0.into(), &"eof".into()));
        assert_eq!(config["target"][0], "10.0.0.2:80");
    }

    #[test]
    fn the_impossible_is_refused_before_the_start() {
        for (words, why) in [
            ("--target 10.0.0.2:80 --profile crr", "would not end"),
            ("--target 10.0.0.2:80 --profile hold", "--connections N"),
            ("--target 10.0.0.1:80 --profile crr --count 1", "our own addresses"),
            ("--target 10.1.0.2:80 --profile crr --count 1", "--gateway"),
            ("--target [fd00::1]:80 --profile crr --count 1", "an IPv6 --addr"),
            ("--target 10.0.0.2:80 --profile crr --count 0", "is 0"),
            ("--target 10.0.0.2:80 --profile crr --count 1 --bitrate 1G", "it goes with bulk"),
            ("--target 10.0.0.2:80 --profile http --count 1 --path x", "begin with /"),
            ("--target 10.0.0.2:80 --profile crr --count 1 --gateway 10.2.0.1", "none of the addresses"),
            ("--target 10.0.0.2:80 --profile crr --count 1 --addr 10.0.0.1-10.0.0.9/24", "overlaps"),
            ("--target 10.0.0.2:80 --profile crr --count 1 --spoof 10.1.0.0/16", "it goes with syn-flood"),
            ("--target 10.0.0.2:80 --profile syn-flood", "would not end"),
            ("--target 10.0.0.2:80 --profile syn-flood --count 1 --concurrency 2", "says nothing to"),
            ("--target 10.0.0.2:80 --profile syn-flood --count 1 --spoof 8.0.0.0/8", "never asked"),
            ("--target 10.0.0.2:80 --profile syn-flood --count 1 --spoof 10.1.0.0/16 --spoof 10.2.0.0/16", "second"),
            ("--target 8.8.8.8:53 --gateway 10.0.0.254 --profile syn-flood --count 1", "an attack"),
        ] {
            let error = load(words).check().unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
            assert!(error.to_string().contains(why), "{words}: {error}");
        }
    }

    #[test]
    fn a_flood_has_sources_of_its_targets_family() {
        let args = load("--target 10.0.0.2:80 --profile syn-flood --count 1 --spoof 10.64.0.0/10");
        assert_eq!(args.check(), Ok(()));
        let range = |target: &str| args.spoof_for(target.parse().unwrap()).unwrap().to_string();
        assert_eq!((range("10.0.0.2"), range("fd00::1")), ("10.64.0.0/10".into(), "2001:2::/48".into()));
        let words = "--target 8.8.8.8:53 --gateway 10.0.0.254 --profile syn-flood --count 1 --allow-public-target";
        assert_eq!(load(words).check(), Ok(()));
    }

    #[test]
    fn ports_and_apps_pair_up() {
        let serve = |words: &str| {
            let line = format!("serve --dev x --addr 10.0.0.1/24 {words}");
            Serve::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{e}")).args.listeners()
        };
        assert_eq!(serve("--port 7 --app echo --port 80 --app http").unwrap()[1].1, ServerApp::Http);
        assert_eq!(serve("--port 7 --port 9-10 --app echo").unwrap().len(), 2);
        assert!(serve("--port 7 --port 8 --port 9 --app echo --app echo").is_err());
        assert!(serve("--port 7-9 --port 8 --app echo").unwrap_err().to_string().contains("overlaps"));
    }
}
