//! Whether the addresses and ports there are can carry what is asked for: arithmetic, before anything is opened.
//!
//! A connection is named by its two addresses and ports (RFC 9293 §3.3.1). Towards one target each of our addresses
//! has as many names as there are local ports, and a name that ended in our TIME-WAIT is free again only after that
//! time (§3.6.1).

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};

use super::plan::{Close, Exchange, FirstCloser, Load, Plan, Response};

/// Names of connections that there are, and for how long each is used up by a connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supply {
    /// Connections that can be open at once, towards all targets together, when they take turns.
    pub connections_max: u64,
    /// How long a name rests; zero if none does as far as is known.
    pub rest: Duration,
}

/// More was asked for than there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What was asked for.
    pub what: String,
    /// Why it cannot be.
    pub why: String,
    /// What would do.
    pub mend: String,
}

/// Whether it is certain that connections end in a TIME-WAIT of ours: what a server decides is not known here.
fn we_close_first(plan: &Plan, first_close_given: bool) -> bool {
    if plan.close == Close::Rst || plan.first_closer == FirstCloser::Server {
        return false;
    }
    match &plan.exchange {
        _ if first_close_given || plan.requests == Some(0) => true,
        Exchange::Http(_) => true,
        // A server of a simple protocol often closes with its answer.
        Exchange::Octets { response: Response::None, .. } => true,
        Exchange::Octets { .. } => false,
    }
}

impl Supply {
    /// What `own` addresses, each range by an address of its family and its number, and `ports` local ports make
    /// towards the targets of `plan`. `first_close_given`: we are to close first because the user says so.
    pub fn new(own: &[(IpAddr, u64)], ports: u64, time_wait: Duration, plan: &Plan, first_close_given: bool) -> Self {
        let towards = |target: &SocketAddr| {
            let family = own.iter().filter(|(addr, _)| addr.is_ipv4() == target.is_ipv4());
            family.map(|(_, count)| count).sum::<u64>().saturating_mul(ports)
        };
        // Targets take turns: the one with the fewest names is the first to run out.
        let fewest = plan.targets.iter().map(towards).min().unwrap_or(0);
        let rest = if we_close_first(plan, first_close_given) { time_wait } else { Duration::ZERO };
        Self { connections_max: fewest.saturating_mul(plan.targets.len() as u64), rest }
    }

    /// The highest rate that can go on for ever; `None` if names do not rest.
    pub fn rate_max_cps(&self) -> Option<f64> {
        (!self.rest.is_zero()).then(|| self.connections_max as f64 / self.rest.as_secs_f64())
    }

    /// Checks that there is enough for `plan`.
    ///
    /// # Errors
    /// What is too much, why, and what would do.
    pub fn check(&self, plan: &Plan, ports: u64) -> Result<(), Shortage> {
        let per_address = ports.max(1) * plan.targets.len() as u64;
        let addresses = |names: f64| (names / per_address as f64).ceil().max(1.0);
        let most = self.connections_max;
        let at_once = match plan.load {
            Load::Held { connections, .. } => connections,
            Load::Concurrency(at_once) => at_once.into(),
            Load::Rate { .. } => 0,
        };
        if at_once > most {
            return Err(Shortage {
                what: format!("cannot have {at_once} connections at once"),
                why: format!("the addresses and ports given make {most}"),
                mend: format!("give {} addresses of the target's family, or more targets", addresses(at_once as f64)),
            });
        }
        let (Load::Rate { .. }, Some(shape), false) = (plan.load, plan.shape(), self.rest.is_zero()) else {
            return Ok(());
        };
        let rest_s = self.rest.as_secs_f64();
        let run_s = plan.duration.map_or(f64::INFINITY, |duration| (plan.ramp + duration).as_secs_f64());
        let count = plan.count.map_or(f64::INFINITY, |count| count as f64);
        let needed = match run_s.is_finite() {
            true => shape.most_within(rest_s, run_s),
            false => shape.events_in(plan.ramp.as_secs_f64() + rest_s) - shape.events_in(plan.ramp.as_secs_f64()),
        };
        let needed = needed.min(count);
        if needed <= most as f64 {
            return Ok(());
        }
        let highest = self.rate_max_cps().unwrap_or(f64::INFINITY);
        Err(Shortage {
            what: format!("cannot open {needed:.0} connections within {rest_s} s"),
            why: format!(
                "the addresses and ports given make {most}, each in TIME-WAIT for {rest_s} s after its connection: \
                 {highest:.0} a second"
            ),
            mend: format!(
                "give {} addresses or more targets, --first-close server, or a --time-wait of {:.3} s",
                addresses(needed),
                (rest_s * most as f64 / needed * 1e3).floor() / 1e3
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Profile;
    use super::*;

    const PORTS: u64 = 64_512;

    fn plan(profile: Profile, per_second: f64, seconds: u64) -> Plan {
        Plan {
            load: Load::Rate { per_second, in_flight_max: None },
            duration: Some(Duration::from_secs(seconds)),
            ..Plan::new(profile, vec![SocketAddr::from(([10, 0, 0, 1], 80))])
        }
    }

    fn check(plan: &Plan, addresses: u64) -> Result<(), Shortage> {
        let own = [(IpAddr::from([10, 0, 1, 1]), addresses), (IpAddr::from([0; 16]), 1_000)];
        Supply::new(&own, PORTS, Duration::from_secs(60), plan, false).check(plan, PORTS)
    }

    #[test]
    fn a_rate_needs_names_for_the_length_of_time_wait() {
        // One address: 1075 a second for ever, 64,512 at once.
        assert_eq!(check(&plan(Profile::Connect, 1_075.0, 600), 1), Ok(()));
        let shortage = check(&plan(Profile::Connect, 1_076.0, 600), 1).unwrap_err();
        assert!(shortage.why.contains("1075 a second") && shortage.mend.contains("give 2 addresses"), "{shortage:?}");
        // A short run may spend what there is.
        assert_eq!(check(&plan(Profile::Connect, 6_451.0, 10), 1), Ok(()));
        assert!(check(&plan(Profile::Connect, 6_452.0, 10), 1).is_err());
        assert_eq!(check(&Plan { count: Some(60_000), ..plan(Profile::Http, 50_000.0, 600) }, 1), Ok(()));
        assert_eq!(check(&plan(Profile::Http, 100_000.0, 600), 94), Ok(()));
        assert!(check(&plan(Profile::Http, 100_000.0, 600), 93).is_err());
    }

    #[test]
    fn what_would_do_does() {
        let mut plan = plan(Profile::Connect, 10_000.0, 60);
        let shortage = check(&plan, 1).unwrap_err();
        assert!(shortage.mend.contains("a --time-wait of 6.451 s"), "{shortage:?}");
        let own = [(IpAddr::from([10, 0, 1, 1]), 1)];
        let supply = |plan: &Plan, millis| Supply::new(&own, PORTS, Duration::from_millis(millis), plan, false);
        assert_eq!(supply(&plan, 6_451).check(&plan, PORTS), Ok(()));
        assert!(supply(&plan, 6_452).check(&plan, PORTS).is_err());
        assert_eq!(check(&plan, 10), Ok(()));
        plan.first_closer = FirstCloser::Server;
        assert_eq!(check(&plan, 1), Ok(()));
    }

    #[test]
    fn where_the_server_may_close_first_nothing_is_certain() {
        assert_eq!(check(&plan(Profile::Crr, 100_000.0, 600), 1), Ok(()));
        let own = [(IpAddr::from([10, 0, 1, 1]), 1)];
        let crr = plan(Profile::Crr, 100_000.0, 600);
        assert!(Supply::new(&own, PORTS, Duration::from_secs(60), &crr, true).check(&crr, PORTS).is_err());
        let reset = Plan { close: Close::Rst, ..plan(Profile::Connect, 100_000.0, 600) };
        assert_eq!(check(&reset, 1), Ok(()));
    }

    #[test]
    fn stages_and_ramps_are_added_up() {
        let stages = vec![(Duration::from_secs(30), 2_000.0), (Duration::from_secs(30), 0.0)];
        let up_and_down = Plan { stages: stages.clone(), ..plan(Profile::Connect, 0.0, 60) };
        assert_eq!(check(&up_and_down, 1), Ok(()), "60,000 in all");
        let longer = [stages.clone(), stages].concat();
        let again = Plan { stages: longer, ..plan(Profile::Connect, 0.0, 120) };
        assert_eq!(check(&again, 1), Ok(()), "60,000 in any minute");
        let ramp = Plan { ramp: Duration::from_secs(20), ..plan(Profile::Connect, 5_000.0, 10) };
        assert!(check(&ramp, 1).is_err(), "100,000 in all");
    }

    #[test]
    fn each_family_has_its_own() {
        let mut held = plan(Profile::Hold, 1.0, 1);
        held.load = Load::Held { connections: 2 * PORTS, per_second: None };
        assert!(check(&held, 1).is_err());
        assert_eq!(check(&held, 2), Ok(()));
        held.targets.push("[fd00::1]:80".parse().unwrap());
        assert_eq!(check(&held, 1), Ok(()), "half of them go to each target");
    }
}
