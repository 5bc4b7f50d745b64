//! `syncline load`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};

use super::talk::{Profile, TalkArgs};
use super::{DeviceArgs, OutputArgs};
use crate::error::{Error, Result};
use crate::flood::guard;
use crate::net::Cidr;
use crate::report::{Criterion, Threshold};
use crate::target::Resolved;
use crate::units::{BitRate, Count, OfferedRate, Rate, Span};

/// A stage of an open loop, as it is written: `10s:50k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageArg {
    /// How long it takes.
    pub length: Span,
    /// The rate at its end; `None` is none at all.
    pub rate: Option<Rate>,
}

impl FromStr for StageArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (length, rate) = text.split_once(':').ok_or("no colon; write for example 10s:50k")?;
        let rate = match rate {
            "0" => None,
            rate => Some(rate.parse().map_err(|error| format!("{error}"))?),
        };
        Ok(Self { length: length.parse().map_err(|error| format!("{error}"))?, rate })
    }
}

impl Serialize for StageArg {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let rate = self.rate.map_or(0.0, Rate::as_f64);
        serializer.collect_str(&format_args!("{}s:{rate}", self.length.0.as_secs_f64()))
    }
}

/// How launches follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ArrivalsArg {
    /// Evenly spaced
    #[default]
    Constant,
    /// At random, as independent users come
    Poisson,
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SearchFor {
    /// The highest rate of new connections
    Rate,
    /// The most connections at a time
    Connections,
}

impl fmt::Display for SearchFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "rate",
            Self::Connections => "connections",
        })
    }
}

/// A test of RFC 9411: its settings, and what it has to fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
pub enum Preset {
    /// TCP connections per second with HTTP traffic (RFC 9411 §7.2)
    #[value(name = "rfc9411-7.2")]
    #[serde(rename = "rfc9411-7.2")]
    ConnectionsPerSecond,
    /// Concurrent TCP connection capacity with HTTP traffic (RFC 9411 §7.5)
    #[value(name = "rfc9411-7.5")]
    #[serde(rename = "rfc9411-7.5")]
    ConcurrentConnections,
}

fn as_written<T: fmt::Display, S: Serializer>(list: &[T], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(T::to_string))
}

/// One kind of connection of a mix.
#[derive(Clone, Debug, Args, Serialize)]
pub struct PartArgs {
    /// Share of the launches, together with the other parts' weights
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub weight: u32,
    /// What its connections do.
    #[command(flatten)]
    #[serde(flatten)]
    pub talk: TalkArgs,
}

/// `syncline load`.
#[derive(Clone, Debug, Args, Serialize)]
#[command(
    next_help_heading = "Load",
    override_usage = "syncline load [OPTIONS] --target <TARGET> --profile <PROFILE> --dev <IF>
       syncline load [OPTIONS] <SCENARIO>",
    after_help = "\
Examples:
  syncline load --netns syn-a --dev syn-a0 --addr 10.9.0.1/24 \\
    --target http://10.9.0.2/ --profile http --rate 10k --duration 30s \\
    --threshold 'latency_us.transaction.p99<2000'
  syncline load … --profile hold --connections 1M --rate 50k --hold 60s
  syncline load … --profile crr --search rate --duration 5s
  syncline load scenario.toml --rate 20k      flags come before the file
-h is short, --help has every flag; docs/load.md and docs/scenario.md tell more."
)]
pub struct LoadArgs {
    /// Settings from this TOML file (docs/scenario.md)
    #[arg(value_name = "SCENARIO", help_heading = None)]
    pub scenario: Option<PathBuf>,
    /// New connections per second (an open loop), or `max`
    ///
    /// They are launched when they are due, whether or not the target keeps up. `max` launches as many as go through --max-in-flight, and its verdict is `ceiling` at best.
    #[arg(long, value_name = "N", conflicts_with = "concurrency")]
    pub rate: Option<OfferedRate>,
    /// Connections at a time (a closed loop)
    ///
    /// Each that ends makes room for the next.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<Count>,
    /// How many to hold (hold, rr, bulk)
    #[arg(long, value_name = "N")]
    pub connections: Option<Count>,
    /// How long to hold them once all are open (hold)
    #[arg(long, value_name = "S")]
    #[serde(rename = "hold_s")]
    pub hold: Option<Span>,
    /// Stop after so many connections
    #[arg(long, value_name = "N")]
    pub count: Option<Count>,
    /// Raise the load from nothing over this time first
    ///
    /// --duration begins after it. Connections that come and go are not measured in the ramp. Connections that stay are opened within this time,
    /// unless --rate says how fast.
    #[arg(long, value_name = "S")]
    #[serde(rename = "ramp_s")]
    pub ramp: Option<Span>,
    /// Within this time, go to this rate: 10s:50k (repeatable)
    ///
    /// It goes there in a straight line. One stage begins where the last one ended, the first at --rate or at 0. `0s` jumps. Stages take the place of
    /// --duration; all of them are measured, and each for itself as well.
    #[arg(long, value_name = "S:N", conflicts_with_all = ["concurrency", "ramp", "duration", "count"])]
    pub stage: Vec<StageArg>,
    /// How launches, and requests of --request-rate, follow each other
    #[arg(long, value_enum, default_value_t, hide_short_help = true)]
    pub arrivals: ArrivalsArg,
    /// Most connections in flight [default with a rate: 4096 a core; with --rate max: 1024 a core]
    ///
    /// Launches that come due beyond it wait until a connection ends. They are counted as `held_back`, and timed from
    /// when they were due. `launch_dropped` counts what was due, had room, and was never launched: the generator was
    /// too late.
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub max_in_flight: Option<Count>,
    /// Requests per second over all connections, timed from when they were due (rr, http)
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub request_rate: Option<Rate>,
    /// How long a connection rests between an answer and its next request (rr, http, hold)
    #[arg(long, value_name = "S", hide_short_help = true)]
    #[serde(rename = "think_time_s")]
    pub think_time: Option<Span>,
    /// Bits per second over all connections (bulk)
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub bitrate: Option<BitRate>,
    /// Put the request on the handshake's ACK
    #[arg(long, hide_short_help = true)]
    pub piggyback: bool,
    /// Give up a connection that is not open after this long
    #[arg(long, value_name = "S", default_value = "5s", hide_short_help = true)]
    #[serde(rename = "connect_timeout_s")]
    pub connect_timeout: Span,
    /// Give up a request that is not answered in full, or a close that is not done, after this long [default: 30s;
    /// bulk: never]
    #[arg(long, value_name = "S", hide_short_help = true)]
    #[serde(rename = "timeout_s")]
    pub timeout: Option<Span>,
    /// What connections do.
    #[command(flatten)]
    #[serde(flatten)]
    pub talk: TalkArgs,
    /// Where the sources of a flood come from, at most one range of each family [default: 198.18.0.0/15, 2001:2::/48]
    /// (syn-flood)
    #[arg(long, value_name = "CIDR", help_heading = "Flood", hide_short_help = true)]
    pub spoof: Vec<Cidr>,
    /// Flood targets, or in the name of sources, that may be somebody else's (syn-flood)
    #[arg(long, help_heading = "Flood", hide_short_help = true)]
    pub allow_public_target: bool,
    /// Find the highest `rate` or `connections` that holds
    ///
    /// It runs again and again, with more or fewer new connections a second or connections at a time, until it knows
    /// the highest value with which all thresholds hold. --duration is that of one step. Every step is shown; the best is repeated.
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true, help_heading = "Results", conflicts_with_all = ["stage", "count"])]
    pub search: Option<SearchFor>,
    /// Where a search begins [default: 1000 a second; 100 connections]
    #[arg(long, value_name = "N", help_heading = "Results", requires = "search", hide_short_help = true)]
    pub search_from: Option<Count>,
    /// The highest value that a search tries [default: what addresses and ports allow, at most 16M]
    #[arg(long, value_name = "N", help_heading = "Results", requires = "search", hide_short_help = true)]
    pub search_to: Option<Count>,
    /// A search ends when it knows the value to so many percent
    #[arg(long, value_name = "N", help_heading = "Results", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50), hide_short_help = true)]
    pub search_percent: u32,
    /// Settings and criteria of a test of RFC 9411; flags and scenario come before it (docs/rfc9411.md)
    #[arg(long, value_enum, help_heading = "Results", hide_short_help = true)]
    pub preset: Option<Preset>,
    /// Limit of a criterion of RFC 9411, whether or not there is a preset: rate_deviation<0.05 (repeatable)
    #[arg(long, value_name = "NAME<LIMIT", help_heading = "Results", hide_short_help = true)]
    #[serde(serialize_with = "as_written")]
    pub criterion: Vec<Criterion>,
    /// Condition on the report, or exit 4 (repeatable)
    ///
    /// A number of the JSON report by its path, < <= > >= or ==, and a value: 'latency_us.connect.p99<2000'. Unless one
    /// is about it, connections.failed_ratio<0.01 is a condition, too.
    #[arg(long, value_name = "EXPR", help_heading = "Results")]
    #[serde(serialize_with = "as_written")]
    pub threshold: Vec<Threshold>,
    /// Report the SHA-256 of what was received, for the first answers
    #[arg(long, help_heading = "Results", hide_short_help = true)]
    pub digest: bool,
    /// Keep the frames of the first K failed connections and of the K slowest (docs/insight.md)
    #[arg(long, value_name = "K", help_heading = "Results", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub flight_recorder: Option<u32>,
    /// The capture to keep them in
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Results",
        hide_short_help = true,
        default_value = "flight.pcap",
        requires = "flight_recorder"
    )]
    pub flight_file: PathBuf,
    /// Hold every connection against what `serve --server-report` tells of it (docs/insight.md)
    #[arg(long, value_name = "SOCKET|FILE", help_heading = "Results", hide_short_help = true)]
    pub server_report: Option<PathBuf>,
    /// Where results go.
    #[command(flatten)]
    #[serde(skip)]
    pub output: OutputArgs,
    /// The device.
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceArgs,
    /// Several kinds of connections: `[[mix]]` of a scenario.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<PartArgs>,
}

impl LoadArgs {
    /// The kinds of connections: the parts of the mix, or the one that all are.
    pub fn parts(&self) -> Vec<&TalkArgs> {
        if self.mix.is_empty() { vec![&self.talk] } else { self.mix.iter().map(|part| &part.talk).collect() }
    }

    /// Checks what follows from several arguments together, and finds the targets of each part.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self) -> Result<Vec<Vec<Resolved>>> {
        self.device.check()?;
        let resolved = self.parts().into_iter().map(|talk| talk.check(&self.device)).collect::<Result<Vec<_>>>()?;
        for (flag, value) in [
            ("--concurrency", self.concurrency),
            ("--max-in-flight", self.max_in_flight),
            ("--count", self.count),
            ("--connections", self.connections),
            ("--search-from", self.search_from),
            ("--search-to", self.search_to),
        ] {
            if value == Some(Count(0)) {
                return Err(Error::usage(flag, "is 0, so nothing would happen", "give at least 1"));
            }
        }
        for talk in self.parts() {
            self.check_profile(talk)?;
        }
        if self.talk.profile == Profile::SynFlood {
            self.check_flood(&resolved)?;
        }
        self.check_end()?;
        Ok(resolved)
    }

    fn check_flood(&self, resolved: &[Vec<Resolved>]) -> Result<()> {
        for (flag, given) in [
            ("--trace", self.device.trace > 0),
            ("--flight-recorder", self.flight_recorder.is_some()),
            ("--server-report", self.server_report.is_some()),
        ] {
            if given {
                let why = "says nothing to --profile syn-flood, which makes no connections";
                return Err(Error::usage(flag, why, "leave it out; --pcap has the frames"));
            }
        }
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
        let targets: Vec<_> = resolved.iter().flatten().map(|target| target.addr).collect();
        if self.allow_public_target { Ok(()) } else { guard::check(&targets, &self.spoof) }
    }

    /// The range that sources towards `target` are drawn from.
    pub fn spoof_for(&self, target: IpAddr) -> Option<Cidr> {
        let default = || guard::SPOOF_DEFAULT.iter().filter_map(|range| range.parse().ok());
        self.spoof.iter().copied().chain(default()).find(|range| range.addr().is_ipv4() == target.is_ipv4())
    }

    fn check_profile(&self, talk: &TalkArgs) -> Result<()> {
        use Profile::{Bulk, Connect, Crr, Hold, Http, Rr, SynFlood};
        const ALL: [Profile; 6] = [Connect, Crr, Rr, Hold, Bulk, Http];
        let only = |flag: &str, given: bool, profiles: &[Profile]| {
            if !given || profiles.contains(&talk.profile) {
                return Ok(());
            }
            let names: Vec<_> = profiles.iter().map(|profile| profile.name()).collect();
            let why = format!("says nothing to --profile {}", talk.profile.name());
            Err(Error::usage(flag, why, format!("it goes with {}", names.join(", "))))
        };
        only("--connections", self.connections.is_some(), &[Hold, Rr, Bulk])?;
        only("--hold", self.hold.is_some(), &[Hold])?;
        only("--bitrate", self.bitrate.is_some(), &[Bulk])?;
        only("--request-rate", self.request_rate.is_some(), &[Rr, Http])?;
        only("--think-time", self.think_time.is_some(), &[Rr, Http, Hold])?;
        for (flag, given) in [
            ("--concurrency", self.concurrency.is_some()),
            ("--max-in-flight", self.max_in_flight.is_some()),
            ("--ramp", self.ramp.is_some()),
            ("--stage", !self.stage.is_empty()),
            ("--arrivals", self.arrivals != ArrivalsArg::Constant),
            ("--search", self.search.is_some()),
            ("--preset", self.preset.is_some()),
            ("--request-bytes", talk.request_bytes.is_some()),
            ("--request-file", talk.request_file.is_some()),
            ("--response-bytes", talk.response_bytes.is_some()),
            ("--piggyback", self.piggyback),
            ("--first-close", talk.first_close.is_some()),
            ("--digest", self.digest),
            ("[[mix]]", !self.mix.is_empty()),
        ] {
            only(flag, given, &ALL)?;
        }
        only("--spoof", !self.spoof.is_empty(), &[SynFlood])?;
        only("--allow-public-target", self.allow_public_target, &[SynFlood])?;
        let stays =
            matches!(talk.profile, Hold) || matches!(talk.profile, Rr | Bulk) && talk.requests_per_connection.is_none();
        if stays && (!self.stage.is_empty() || self.rate == Some(OfferedRate::Max)) {
            let flag = if self.stage.is_empty() { "--rate max" } else { "--stage" };
            let why = format!("connections of --profile {} are opened once and stay", talk.profile.name());
            return Err(Error::usage(flag, why, "give --connections, and --rate N for how fast they are opened"));
        }
        if stays && !self.mix.is_empty() {
            let why = format!("connections of profile {} stay", talk.profile.name());
            return Err(Error::usage("[[mix]]", why, "give requests_per_connection, or another profile"));
        }
        let searched = self.search == Some(SearchFor::Connections);
        if talk.profile == Hold && self.connections.is_none() && !searched {
            return Err(Error::usage("--profile hold", "does not know how many", "give --connections N"));
        }
        if self.search == Some(SearchFor::Rate) && stays {
            let why = format!("connections of --profile {} are opened once and stay", talk.profile.name());
            return Err(Error::usage("--search rate", why, "use --search connections, or another profile"));
        }
        Ok(())
    }

    fn check_end(&self) -> Result<()> {
        let held = self.mix.is_empty() && self.talk.profile == Profile::Hold;
        if !held && self.count.is_none() && self.device.duration.is_none() && self.stage.is_empty() {
            return Err(Error::usage("the run would not end", "it has no limit", "give --duration S or --count N"));
        }
        if !self.stage.is_empty() && self.stage.iter().all(|stage| stage.rate.is_none()) {
            return Err(Error::usage(
                "--stage",
                "no stage has a rate, so nothing would happen",
                "write for example 10s:50k",
            ));
        }
        if !self.stage.is_empty() && self.stage.iter().all(|stage| stage.length.0.is_zero()) {
            return Err(Error::usage("--stage", "the stages take no time", "write for example 10s:50k"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Exit;
    use crate::cli::ServeArgs;
    use crate::cli::serve::ServerApp;
    use crate::cli::talk::ResponseLength;

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
        assert!(args.check().is_ok());
        assert_eq!(args.rate, Some("200k".parse().unwrap()));
        assert_eq!(args.talk.response_bytes, Some(ResponseLength::UntilFin));
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
            ("--target http://10.0.0.2/ --profile crr --count 1", "it goes with http, hold"),
            ("--target 10.0.0.2:80 --profile crr --count 1 --method PUT", "speaks no HTTP"),
            ("--target 10.0.0.2:80 --profile hold --connections 5 --header a:b", "with hold and --path"),
            ("--target 10.0.0.2:80 --profile http --count 1 --method P/T", "method's name"),
            ("--target 10.0.0.2:80 --profile rr --rate max --duration 1", "opened once and stay"),
            ("--target 10.0.0.2:80 --profile rr --stage 1s:5 --connections 3", "opened once and stay"),
            ("--target 10.0.0.2:80 --profile crr --stage 1s:0", "no stage has a rate"),
            ("--target 10.0.0.2:80 --profile crr --stage 0s:5", "take no time"),
            ("--target 10.0.0.2:80 --profile hold --search rate --connections 3", "--search connections"),
            ("--target nowhere.invalid:80 --profile crr --count 1", "nowhere.invalid"),
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
        assert!(args.check().is_ok());
        let range = |target: &str| args.spoof_for(target.parse().unwrap()).unwrap().to_string();
        assert_eq!((range("10.0.0.2"), range("fd00::1")), ("10.64.0.0/10".into(), "2001:2::/48".into()));
        let words = "--target 8.8.8.8:53 --gateway 10.0.0.254 --profile syn-flood --count 1 --allow-public-target";
        assert!(load(words).check().is_ok());
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
