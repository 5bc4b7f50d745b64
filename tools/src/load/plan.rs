//! What a load generator is to do.

use core::time::Duration;
use std::net::SocketAddr;

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
        let octets = |response| Exchange::Octets { request: 64, response };
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
                }),
                ..plan
            },
        }
    }

    /// Whether connections are opened once and stay.
    pub fn keeps(&self) -> bool {
        matches!(self.load, Load::Held { .. })
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
        if let Exchange::Http(request) = &self.exchange {
            let parts = [&request.method, &request.path].into_iter().chain(&request.host);
            let fields = request.fields.iter().flat_map(|(name, value)| [name, value]);
            if let Some(part) = parts.chain(fields).find(|part| part.contains(['\r', '\n', '\0'])) {
                return fail(format!("{part:?} would break the request: remove the line break"));
            }
            if self.bitrate.is_some() {
                return fail("a bit rate paces octets, not HTTP requests: use a request rate".into());
            }
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
