//! What a load generator is to do.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use super::deadlines::TIMEOUT_MAX;
use super::schedule::{Arrivals, Shape};

/// The profiles of the command line: each is a [`Plan`] with its own defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Open, close.
    Connect,
    /// Open, one request, one response, close.
    Crr,
    /// Requests on connections that stay.
    Rr,
    /// Open many, keep them, one request each before the end.
    Hold,
    /// As many octets as go through.
    Bulk,
    /// HTTP/1.1.
    Http,
}

/// What makes connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Open loop: so many a second, all workers together.
    Rate {
        /// New connections per second.
        per_second: f64,
        /// A launch that comes due while so many are open is held back until one ends. Counted apart.
        in_flight_max: Option<u32>,
    },
    /// Closed loop: so many at any time, all workers together.
    Concurrency(u32),
    /// So many are opened once, and stay.
    Held {
        /// How many, all workers together.
        connections: u64,
        /// New connections per second; `None` opens them as fast as the handshakes go.
        per_second: Option<f64>,
    },
}

/// What is said on a connection, once for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Octets of [`payload`](crate::apps::payload).
    Octets {
        /// Octets of a request; `u64::MAX` goes on until the run ends.
        request: u64,
        /// What is expected.
        response: Response,
        /// The request is these octets instead; `request` is their number.
        content: Option<Arc<[u8]>>,
    },
    /// An HTTP/1.1 request and its answer.
    Http(HttpRequest),
}

/// What answers a request of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Nothing: the request is done when it has been acknowledged.
    None,
    /// So many octets; `u64::MAX` reads until the run ends.
    Octets(u64),
    /// Whatever comes until the peer's FIN.
    UntilFin,
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET` and so on.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The Host field; the target's address and port if `None`.
    pub host: Option<String>,
    /// Further fields.
    pub fields: Vec<(String, String)>,
    /// Octets of [`payload`](crate::apps::payload) in the body; a Content-Length goes with it if it is not 0 or if the
    /// method is `POST` or `PUT`.
    pub body: u64,
    /// The body is these octets instead.
    pub content: Option<Arc<[u8]>>,
    /// The body goes in chunks (RFC 9112 §7.1) instead of with its length.
    pub chunked: bool,
}

/// What an answer must be, beside complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// HTTP: its status is one of these; empty takes 200 to 399.
    pub statuses: Vec<u16>,
    /// It, or its body, has so many octets.
    pub octets: Option<u64>,
    /// It, or its body, has this SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// It, or its body, is [`payload`](crate::apps::payload).
    pub pattern: bool,
}

/// One kind of connection among several in a [`Plan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Its share of the launches, together with the others' weights. At least 1.
    pub weight: u32,
    /// Numbers of its targets in the plan, from and up to but without; it takes them in turn.
    pub targets: (u32, u32),
    /// What is said.
    pub exchange: Exchange,
    /// Requests on a connection.
    pub requests: u32,
    /// How connections are ended.
    pub close: Close,
    /// Who closes first.
    pub first_closer: FirstCloser,
    /// What the answers must be.
    pub checks: Checks,
}

impl Flow {
    /// Whether its requests draw no answer: that they are acknowledged is all there is to wait for.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self.exchange, Exchange::Octets { response: Response::None, .. })
    }
}

/// What an HTTP target is called: takes the place of the address in the Host field, and of the request's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The Host field.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
}

/// How a connection is ended by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Close {
    /// By FIN.
    #[default]
    Fin,
    /// By RST.
    Rst,
}

/// Who is to close first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstCloser {
    /// We, as soon as the last answer is complete.
    #[default]
    Client,
    /// The server: we wait for its FIN. HTTP asks for it with `Connection: close`.
    Server,
}

/// Weights of a mix together, at most: launches repeat their order after so many.
pub(super) const WEIGHTS_MAX: u32 = 10_000;

/// What a load generator is to do, all workers together.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where connections go, in turn.
    pub targets: Vec<SocketAddr>,
    /// What makes connections.
    pub load: Load,
    /// No more connections than this are launched, and the run ends with the last of them.
    pub count: Option<u64>,
    /// Time until the load is at its height.
    pub ramp: Duration,
    /// How launches follow each other at a rate.
    pub arrivals: Arrivals,
    /// The rate goes in a straight line to that of each stage within its time, one after the other, starting from the
    /// load's own. Only with [`Load::Rate`].
    pub stages: Vec<(Duration, f64)>,
    /// What a Poisson process is made from.
    pub seed: u64,
    /// Length of the sustain phase; without one the run ends with the last connection, or when it is interrupted.
    pub duration: Option<Duration>,
    /// Keep connections idle for so long once all are open, then make their last request.
    pub hold: Option<Duration>,
    /// What is said.
    pub exchange: Exchange,
    /// Requests on a connection; `None` makes them until the run ends.
    pub requests: Option<u32>,
    /// Requests per second on the open connections, all workers together; `None` makes the next one at once.
    pub request_rate: Option<f64>,
    /// Bits per second to send, all workers and connections together, of requests of octets.
    pub bitrate: Option<u64>,
    /// How connections are ended.
    pub close: Close,
    /// Who closes first.
    pub first_closer: FirstCloser,
    /// A handshake that takes longer has failed.
    pub connect_timeout: Duration,
    /// An answer, or a close, that takes longer has failed; `None` waits as long as the transport does.
    pub timeout: Option<Duration>,
    /// At the end, connections that do not close are given up after so long without a single one closing.
    pub drain_timeout: Duration,
    /// Hash every answer (SHA-256), and report the first few.
    pub digest: bool,
    /// How long a connection rests between an answer and its next request.
    pub think: Option<Duration>,
    /// What the answers must be.
    pub checks: Checks,
    /// What HTTP targets are called, in the order of `targets`; those beyond its end by their address.
    pub sites: Vec<Site>,
    /// Connections of several kinds: these take the place of `exchange`, `requests`, `close`, `first_closer` and
    /// `checks`. Empty if all are alike.
    pub mix: Vec<Flow>,
    /// Put a token into every request that has room for it, by which both ends know the connection
    /// ([`ledger`](crate::watch::ledger)).
    pub tokens: bool,
}

/// A plan that cannot be carried out: what is wrong and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(pub String);

impl core::fmt::Display for PlanError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for PlanError {}

impl Plan {
    /// The defaults of `profile`: 64 octets each way, one request, one connection at a time.
    pub fn new(profile: Profile, targets: Vec<SocketAddr>) -> Self {
        let octets = |response| Exchange::Octets { request: 64, response, content: None };
        let plan = Self {
            targets,
            load: Load::Concurrency(1),
            count: None,
            ramp: Duration::ZERO,
            arrivals: Arrivals::Constant,
            stages: Vec::new(),
            seed: 0,
            duration: None,
            hold: None,
            exchange: octets(Response::Octets(64)),
            requests: Some(1),
            request_rate: None,
            bitrate: None,
            close: Close::Fin,
            first_closer: FirstCloser::Client,
            connect_timeout: Duration::from_secs(10),
            timeout: Some(Duration::from_secs(30)),
            drain_timeout: Duration::from_secs(10),
            digest: false,
            think: None,
            checks: Checks::default(),
            sites: Vec::new(),
            mix: Vec::new(),
            tokens: false,
        };
        let held = Load::Held { connections: 1, per_second: None };
        match profile {
            Profile::Connect => Self { requests: Some(0), ..plan },
            Profile::Crr => plan,
            Profile::Rr => Self { load: held, requests: None, ..plan },
            Profile::Hold => Self { load: held, hold: Some(Duration::ZERO), ..plan },
            Profile::Bulk => Self { load: held, timeout: None, ..plan },
            Profile::Http => Self {
                exchange: Exchange::Http(HttpRequest {
                    method: "GET".into(),
                    path: "/".into(),
                    host: None,
                    fields: Vec::new(),
                    body: 0,
                    content: None,
                    chunked: false,
                }),
                ..plan
            },
        }
    }

    /// The kinds of connections: those of the mix, or the one that all are.
    pub fn flows(&self) -> Vec<Flow> {
        if !self.mix.is_empty() {
            return self.mix.clone();
        }
        vec![Flow {
            weight: 1,
            targets: (0, self.targets.len() as u32),
            exchange: self.exchange.clone(),
            requests: self.requests.map_or(u32::MAX, |requests| requests.min(u32::MAX - 1)),
            close: self.close,
            first_closer: self.first_closer,
            checks: self.checks.clone(),
        }]
    }

    /// Checks what the kinds of connections of a mix ask for.
    fn check_mix(&self) -> Result<(), PlanError> {
        let fail = |message: &str| Err(PlanError(message.to_owned()));
        if self.mix.is_empty() {
            return Ok(());
        }
        if self.keeps() || self.bitrate.is_some() || self.hold.is_some() {
            return fail("a mix is of connections that come and go: give it a rate or a concurrency");
        }
        let whole = self.mix.iter().map(|flow| u64::from(flow.weight)).sum::<u64>();
        if self.mix.iter().any(|flow| flow.weight == 0) || whole > u64::from(WEIGHTS_MAX) {
            return fail("the weights of a mix are at least 1 each and at most 10,000 together");
        }
        let end = self.targets.len() as u32;
        if self.mix.iter().any(|flow| flow.targets.0 >= flow.targets.1 || flow.targets.1 > end) {
            return fail("every part of a mix has at least one of the targets");
        }
        if self.mix.iter().any(|flow| matches!(flow.exchange, Exchange::Octets { request: u64::MAX, .. })) {
            return fail("a request without end does not go into a mix: give it a length");
        }
        Ok(())
    }

    /// Whether connections are opened once and stay.
    pub fn keeps(&self) -> bool {
        matches!(self.load, Load::Held { .. })
    }

    /// Connections per second at the start of an open loop; 0 of others.
    pub fn start_cps(&self) -> f64 {
        if let Load::Rate { per_second, .. } = self.load { per_second } else { 0.0 }
    }

    /// How launches come, if at a rate.
    pub fn shape(&self) -> Option<Shape> {
        match self.load {
            Load::Rate { per_second, .. } if !self.stages.is_empty() => Some(Shape::stages(per_second, &self.stages)),
            Load::Rate { per_second, .. } => Some(Shape::ramp(per_second, self.ramp)),
            Load::Concurrency(_) => None,
            Load::Held { connections, per_second } => {
                let ramp_s = self.ramp.as_secs_f64();
                let spread = (ramp_s > 0.0).then(|| connections as f64 / ramp_s);
                per_second.or(spread).map(Shape::steady)
            }
        }
    }

    /// Connections per second that the sustain phase asks for, if it has a rate: the mean over the stages.
    pub fn offered_cps(&self) -> Option<f64> {
        let Load::Rate { per_second, .. } = self.load else { return None };
        let shape = self.shape().filter(|_| !self.stages.is_empty());
        let (Some(shape), Some(duration)) = (shape, self.duration) else { return Some(per_second) };
        Some(shape.events_in(duration.as_secs_f64()) / duration.as_secs_f64())
    }

    /// Checks what the parts of a plan ask of each other.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check(&self, workers: u32) -> Result<(), PlanError> {
        let fail = |message: String| Err(PlanError(message));
        let positive = |rate: f64| rate.is_finite() && rate > 0.0;
        if self.targets.is_empty() || self.targets.len() > 1 << 11 {
            return fail(format!("{} targets are not within 1 to 2048", self.targets.len()));
        }
        let staged = matches!(self.load, Load::Rate { per_second, .. } if !self.stages.is_empty() && per_second >= 0.0);
        if self.stages.iter().any(|(_, rate)| !rate.is_finite() || *rate < 0.0)
            || staged && (self.duration.is_none() || !self.ramp.is_zero())
            || !staged && !self.stages.is_empty()
        {
            return fail("stages go with a rate and a duration, without a ramp".into());
        }
        let rates = match self.load {
            Load::Rate { .. } if staged => [None, self.request_rate],
            Load::Rate { per_second, .. } => [Some(per_second), self.request_rate],
            Load::Held { per_second, .. } => [per_second, self.request_rate],
            Load::Concurrency(_) => [None, self.request_rate],
        };
        if let Some(rate) = rates.into_iter().flatten().find(|&rate| !positive(rate)) {
            return fail(format!("a rate of {rate} a second is not a positive number"));
        }
        match self.load {
            Load::Rate { in_flight_max: Some(limit), .. } | Load::Concurrency(limit) if limit < workers => {
                return fail(format!(
                    "{limit} connections at a time are fewer than the {workers} workers: use fewer cores"
                ));
            }
            Load::Held { connections: 0, .. } => return fail("no connection to hold: ask for at least one".into()),
            _ => {}
        }
        for timeout in [Some(self.connect_timeout), self.timeout].into_iter().flatten() {
            if timeout.is_zero() || timeout > TIMEOUT_MAX {
                return fail(format!("a timeout of {timeout:?} is not within 1 µs to {} s", TIMEOUT_MAX.as_secs()));
            }
        }
        for flow in self.flows() {
            let Exchange::Http(request) = &flow.exchange else { continue };
            let sites = self.sites.iter().flat_map(|site| site.host.iter().chain(&site.path));
            let parts = [&request.method, &request.path].into_iter().chain(&request.host).chain(sites);
            let fields = request.fields.iter().flat_map(|(name, value)| [name, value]);
            if let Some(part) = parts.chain(fields).find(|part| part.contains(['\r', '\n', '\0'])) {
                return fail(format!("{part:?} would break the request: remove the line break"));
            }
            if self.bitrate.is_some() {
                return fail("a bit rate paces octets, not HTTP requests: use a request rate".into());
            }
        }
        self.check_mix()?;
        if self.think.is_some_and(|think| think.is_zero() || think > TIMEOUT_MAX) {
            return fail(format!("a time to think is within 1 µs to {} s", TIMEOUT_MAX.as_secs()));
        }
        if self.think.is_some() && self.request_rate.is_some() {
            return fail("a request rate leaves no time to think: give one of the two".into());
        }
        if self.bitrate.is_some_and(|bits| bits < 8) || (self.bitrate.is_some() && self.request_rate.is_some()) {
            return fail("a bit rate is at least 8 a second, and does not go with a request rate".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(profile: Profile) -> Plan {
        Plan::new(profile, vec![SocketAddr::from(([10, 0, 0, 1], 80))])
    }

    #[test]
    fn the_defaults_of_every_profile_are_sound() {
        for profile in [Profile::Connect, Profile::Crr, Profile::Rr, Profile::Hold, Profile::Bulk, Profile::Http] {
            assert_eq!(plan(profile).check(1), Ok(()));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Plan);
        let changes: [(&str, Change); 8] = [
            ("targets", |plan| plan.targets.clear()),
            ("rate", |plan| plan.load = Load::Rate { per_second: 0.0, in_flight_max: None }),
            ("rate", |plan| plan.request_rate = Some(f64::NAN)),
            ("workers", |plan| plan.load = Load::Concurrency(1)),
            ("hold", |plan| plan.load = Load::Held { connections: 0, per_second: None }),
            ("timeout", |plan| plan.timeout = Some(Duration::ZERO)),
            ("timeout", |plan| plan.connect_timeout = Duration::from_secs(100_000)),
            ("bit rate", |plan| plan.bitrate = Some(1)),
        ];
        for (word, change) in changes {
            let mut plan = plan(Profile::Rr);
            change(&mut plan);
            let error = plan.check(2).unwrap_err();
            assert!(error.0.contains(word), "{error}");
        }
        let mut http = plan(Profile::Http);
        let Exchange::Http(request) = &mut http.exchange else { unreachable!() };
        request.path = "/\r\nX: y".into();
        assert!(http.check(1).is_err());
    }
}
