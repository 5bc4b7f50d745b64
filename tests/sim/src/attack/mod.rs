//! Attacks on a server, each by name, in virtual time and from a seed: what each may cost at most, and what honest
//! clients must still get.
//!
//! Every attack is played twice on the same link with the same honest clients, once without the hostile host. The
//! difference is what the attack achieved; [`Outcome::broken`] says which bounds it broke. Work is counted, not timed:
//! frames the server sent for each hostile one, records it held, segments it looked at.

mod arena;
mod craft;
mod field;
mod floods;
mod honest;
mod peers;

use core::fmt;
use core::time::Duration;

use syncline_engine::config::{Config, SynCookies};
use syncline_engine::stats::Stats;
use syncline_engine::tcp::Held;

pub use arena::{Around, play};
use field::Hostile;

/// An attack: what the hostile host does, and what that may lead to.
pub struct Attack {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How long it is played, virtual time.
    span: Duration,
    /// Changes to the server's configuration.
    config: fn(&mut Config),
    /// The hostile host.
    hostile: fn() -> Box<dyn Hostile>,
    /// Most frames of the server for each hostile one, in hundredths.
    replies_percent: u64,
    /// Most octets held beyond those of the quiet run.
    bytes_more: u64,
    /// Most segments in flight looked at for each hostile frame.
    steps_each: u64,
    /// Least of the quiet run's goodput, in hundredths.
    goodput_percent: u64,
    /// What else must hold.
    also: fn(&Outcome) -> Result<(), String>,
}

impl Attack {
    /// Frames that answer each other, a MiB of memory, and nine tenths of the goodput.
    const DEFAULT: Self = Self {
        name: "",
        about: "",
        span: Duration::from_secs(2),
        config: |_| {},
        hostile: || Box::new(floods::Junk),
        replies_percent: 110,
        bytes_more: 1 << 20,
        steps_each: 8,
        goodput_percent: 90,
        also: |_| Ok(()),
    };
}

/// What an attack came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// What decided its details.
    pub seed: u64,
    /// Hostile frames that reached the server.
    pub hostile_frames: u64,
    /// Frames that the server sent, and that it sent in the quiet run.
    pub sent: u64,
    /// See `sent`.
    pub sent_quiet: u64,
    /// Most octets of tables and buffers, and in the quiet run.
    pub bytes_max: u64,
    /// See `bytes_max`.
    pub bytes_max_quiet: u64,
    /// Most records of each kind at a time.
    pub held_max: Held,
    /// Records at the end.
    pub held_end: Held,
    /// Segments in flight looked at for SACK blocks and losses, beyond those of the quiet run.
    pub scoreboard_steps: u64,
    /// Requests answered on the long connections of honest clients, and in the quiet run.
    pub answers: u64,
    /// See `answers`.
    pub answers_quiet: u64,
    /// Connections that honest clients opened, used and closed, and in the quiet run.
    pub pages: u64,
    /// See `pages`.
    pub pages_quiet: u64,
    /// Connections of honest clients that ended otherwise.
    pub failed: u64,
    /// What the hostile host noted: octets it acknowledged in earnest, octets it was sent, connections it opened.
    pub noted: Noted,
    /// The server's counters that are not zero.
    pub counters: Vec<(&'static str, u64)>,
    /// The bounds that were broken.
    pub broken: Vec<String>,
}

/// What a hostile host knows of its own doings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Octets acknowledged after they had arrived, all connections together.
    pub acknowledged: u64,
    /// Octets the server sent, retransmissions included.
    pub received: u64,
    /// Connections it opened.
    pub opened: u64,
    /// The least text of a segment that was followed by more.
    pub least_text: u64,
    /// The most that a connection was sent beyond twice what it had acknowledged, octets.
    pub excess: i64,
}

impl Outcome {
    /// A counter of the server.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|counter| counter.0 == name).map_or(0, |counter| counter.1)
    }

    fn judge(&mut self, attack: &Attack) {
        let mut broken = Vec::new();
        let mut most = |what: &str, is: u64, limit: u64| {
            if is > limit {
                broken.push(format!("{what}: {is}, at most {limit} may be"));
            }
        };
        let replies = self.sent.saturating_sub(self.sent_quiet);
        most("frames sent beyond the quiet run", replies, self.hostile_frames * attack.replies_percent / 100 + 100);
        most("octets held", self.bytes_max, self.bytes_max_quiet + attack.bytes_more);
        most("segments looked at", self.scoreboard_steps, self.hostile_frames * attack.steps_each + 10_000);
        let mut least = |what: &str, is: u64, quiet: u64| {
            let limit = quiet * attack.goodput_percent / 100;
            if is < limit || quiet == 0 {
                broken.push(format!("{what}: {is}, at least {limit} must be ({quiet} without the attack)"));
            }
        };
        least("requests answered", self.answers, self.answers_quiet);
        if attack.name != "table-full" {
            least("connections of honest clients", self.pages, self.pages_quiet);
        }
        if self.hostile_frames < 100 {
            broken.push(format!("{} hostile frames are no attack", self.hostile_frames));
        }
        if let Err(what) = (attack.also)(self) {
            broken.push(what);
        }
        self.broken = broken;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replies = self.sent.saturating_sub(self.sent_quiet);
        let each = |count: u64| count as f64 / self.hostile_frames.max(1) as f64;
        writeln!(f, "{} (seed {}): {} hostile frames", self.name, self.seed, self.hostile_frames)?;
        writeln!(f, "  frames sent   {replies} more than without it, {:.3} for each hostile one", each(replies))?;
        writeln!(
            f,
            "  memory        {} KiB at most, {} KiB without it; {:?}",
            self.bytes_max >> 10,
            self.bytes_max_quiet >> 10,
            self.held_max
        )?;
        writeln!(f, "  scoreboard    {:.1} segments looked at for each hostile frame", each(self.scoreboard_steps))?;
        writeln!(
            f,
            "  honest        {} of {} requests answered, {} of {} connections served, {} failed",
            self.answers, self.answers_quiet, self.pages, self.pages_quiet, self.failed
        )?;
        for (name, count) in &self.counters {
            writeln!(f, "  {name:28} {count}")?;
        }
        match self.broken.as_slice() {
            [] => write!(f, "  every bound holds"),
            broken => write!(f, "  BROKEN: {}", broken.join("; ")),
        }
    }
}

fn need(holds: bool, what: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// `counter` must have counted.
fn counted(outcome: &Outcome, counter: &str) -> Result<(), String> {
    need(outcome.counter(counter) > 0, format!("{counter} counted nothing"))
}

/// Challenge ACKs were sent up to the limit, and no connection ended.
fn challenged_at_most(outcome: &Outcome) -> Result<(), String> {
    counted(outcome, "challenge_acks_limited")?;
    need(outcome.failed == 0, "a connection was reset or spoilt")
}

fn nonzero(stats: &Stats) -> Vec<(&'static str, u64)> {
    let drops = stats.dropped.nonzero().map(|(reason, count)| (reason.name(), count));
    stats.entries().map(|(name, _, count)| (name, count)).filter(|entry| entry.1 > 0).chain(drops).collect()
}

/// A sender that began with ten segments and doubled its window with each round trip has sent no more than twice what was
/// acknowledged, those ten, and a tail loss probe.
fn slow_start(outcome: &Outcome) -> Result<(), String> {
    slow_start_and(outcome, 0)
}

fn slow_start_and(outcome: &Outcome, more: i64) -> Result<(), String> {
    let Noted { acknowledged, excess, opened, .. } = outcome.noted;
    need(acknowledged > 100_000 && opened == 4, format!("only {acknowledged} octets were acknowledged"))?;
    need(excess <= 11 * 1460 + more, format!("{excess} octets were sent beyond twice what was acknowledged"))
}

/// Every attack.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "syn-flood",
        about: "SYNs from invented sources all over the network",
        hostile: || Box::new(floods::Syns::spread(100)),
        also: |it| {
            counted(it, "syn_floods")?;
            counted(it, "syn_cookies_sent")?;
            need(it.held_max.syn_received <= 4096, "more half-open connections than there may be")
        },
        // SYN-ACKs, and those sent again for the records made before the flood was known
        replies_percent: 120,
        ..Attack::DEFAULT
    },
    Attack {
        name: "syn-prefix",
        about: "half-open connections from one prefix at a slow rate, at a listener without cookies",
        hostile: || Box::new(floods::Syns::one_prefix(3)),
        config: |config| config.listeners.iter_mut().for_each(|listener| listener.syn_cookies = SynCookies::Never),
        also: |it| {
            counted(it, "syn_prefix_limited")?;
            need(it.held_max.syn_received <= 1024 + 64, "one prefix took the room of others")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "syn-on-link",
        about: "SYNs from invented neighbours: their SYN-ACKs are sent again, and nobody answers for them",
        hostile: || Box::new(floods::Syns::on_link(5)),
        span: Duration::from_secs(4),
        replies_percent: 200,
        also: |it| {
            counted(it, "neighbors_refused")?;
            need(it.counter("neighbors_now") <= 256, "more neighbours than there may be")?;
            need(it.counter("neighbor_requests") <= 128 * 3 * 4, "a flood of requests for invented neighbours")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "ack-flood",
        about: "ACKs with invented numbers, while cookies are outstanding",
        hostile: || Box::new(floods::Acks),
        also: |it| {
            counted(it, "syn_cookies_rejected")?;
            counted(it, "resets_limited")?;
            // honest clients: the long connections, the short ones, and what is under way
            let honest = it.pages + it.failed + 8 + 8;
            need(it.counter("established") <= honest, "guesses were taken for cookies")?;
            need(it.counter("resets_sent") <= 10_000 * 22 / 10, "more resets than the limit")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "rst-flood",
        about: "RSTs with invented numbers, for the connections of honest clients and for none",
        hostile: || Box::new(floods::Resets),
        replies_percent: 10,
        also: |it| need(it.failed == 0, "a connection was reset"),
        ..Attack::DEFAULT
    },
    Attack {
        name: "junk-flood",
        about: "frames of noise, and damaged ones",
        hostile: || Box::new(floods::Junk),
        replies_percent: 2,
        ..Attack::DEFAULT
    },
    Attack {
        name: "blind-rst",
        about: "RSTs within the window of honest connections, but not at its edge (RFC 5961 section 3)",
        hostile: || Box::new(floods::Blind::Reset),
        replies_percent: 10,
        also: challenged_at_most,
        ..Attack::DEFAULT
    },
    Attack {
        name: "blind-syn",
        about: "SYNs on honest connections (RFC 5961 section 4)",
        hostile: || Box::new(floods::Blind::Syn),
        replies_percent: 10,
        also: challenged_at_most,
        ..Attack::DEFAULT
    },
    Attack {
        name: "blind-data",
        about: "text within the window that acknowledges what was never sent (RFC 5961 section 5)",
        hostile: || Box::new(floods::Blind::Data),
        replies_percent: 10,
        also: challenged_at_most,
        ..Attack::DEFAULT
    },
    Attack {
        name: "icmp",
        about: "forged unreachables and too-bigs about honest connections, and a flood of echo requests (RFC 5927)",
        hostile: || Box::new(floods::Icmp),
        replies_percent: 5,
        also: |it| {
            counted(it, "ignored_icmp")?;
            counted(it, "icmp_limited")?;
            need(it.counter("icmp_errors") <= 3, "an error was believed that quoted nothing in flight")?;
            need(it.failed == 0, "a connection was ended")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "neighbor-flood",
        about: "ARP or neighbour discovery from invented neighbours, answers that nobody asked for, and false claims",
        hostile: || Box::new(floods::Neighbors),
        also: |it| {
            counted(it, "neighbors_evicted")?;
            need(it.counter("neighbors_now") <= 256, "more neighbours than there may be")?;
            need(it.failed == 0, "a connection was led astray")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "zero-window",
        about: "sockstress: connections that ask for much and never open their window",
        hostile: || Box::new(peers::Sockstress::new(0)),
        span: Duration::from_secs(8),
        config: |config| config.tcp.stall_timeout = Some(Duration::from_secs(2)),
        replies_percent: 200,
        bytes_more: 24 << 20,
        also: |it| {
            counted(it, "stalled")?;
            need(it.noted.opened >= 100, "too few connections")?;
            need(it.held_end.chunks <= 200, "buffers are kept for peers that do not read")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "tiny-window",
        about: "sockstress: windows of a few octets, acknowledged one after the other",
        hostile: || Box::new(peers::Sockstress::new(3)),
        span: Duration::from_secs(8),
        config: |config| config.tcp.stall_timeout = Some(Duration::from_secs(2)),
        replies_percent: 200,
        bytes_more: 24 << 20,
        also: |it| {
            counted(it, "stalled")?;
            need(it.noted.opened >= 100, "too few connections")?;
            need(it.held_end.chunks <= 200, "buffers are kept for peers that hardly read")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "never-reading",
        about: "connections that read a little, and then nothing, under pressure of memory and without a tunable",
        hostile: || Box::new(peers::Sockstress::new(4_000)),
        span: Duration::from_secs(8),
        config: |config| config.tcp.stall_timeout_under_pressure = Duration::from_secs(2),
        replies_percent: 200,
        bytes_more: 24 << 20,
        also: |it| {
            counted(it, "stalled")?;
            need(it.held_end.chunks <= 16 * 512 * 3 / 4 + 200, "buffers are short for longer than they need be")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "optimistic-ack",
        about: "acknowledgements of what was not sent yet (RFC 5681 section 3, RFC 5961 section 5)",
        hostile: || Box::new(peers::Acker::new(peers::Trick::Optimistic)),
        // data draws more data, as it does from an honest peer
        replies_percent: 300,
        bytes_more: 4 << 20,
        also: |it| {
            counted(it, "challenge_acks_limited")?;
            slow_start(it)
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "ack-division",
        about: "each segment acknowledged in twenty pieces (RFC 3465)",
        hostile: || Box::new(peers::Acker::new(peers::Trick::Division)),
        replies_percent: 300,
        bytes_more: 4 << 20,
        also: slow_start,
        ..Attack::DEFAULT
    },
    Attack {
        name: "duplicate-ack",
        about: "duplicate ACKs without end: no more than were out may count (RFC 5681 section 3.2)",
        hostile: || Box::new(peers::Acker::new(peers::Trick::Duplicates)),
        replies_percent: 100,
        bytes_more: 4 << 20,
        // in recovery as much again as was out at its beginning
        also: |it| slow_start_and(it, 11 * 1460),
        ..Attack::DEFAULT
    },
    Attack {
        name: "sack-bomb",
        about: "a long flight, and SACK blocks all over it, never the front (CVE-2019-11478)",
        hostile: || Box::new(peers::SackBomb::default()),
        replies_percent: 300,
        bytes_more: 8 << 20,
        // as many as a pass may look at, and the last two walks that it finishes, over the frames of half a full pass
        steps_each: (65_536 + 3 * 8_192) / 64 + 1,
        also: |it| {
            counted(it, "sack_limited")?;
            need(it.held_max.flight_nodes <= 4 * 600, "a flight longer than it may be")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "reassembly-bomb",
        about: "single octets with gaps between them, on many connections (CVE-2018-5390)",
        hostile: || Box::new(peers::Gaps::default()),
        bytes_more: 6 << 20,
        also: |it| {
            counted(it, "out_of_order_refused")?;
            need(it.noted.opened >= 20, "too few connections")?;
            need(it.held_max.chunks <= 2048 + 200, "more buffers beyond holes than there may be")
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "small-mss",
        about: "an MSS of one octet: a segment with headers for each (CVE-2019-11479)",
        hostile: || Box::new(peers::Acker::new(peers::Trick::SmallMss)),
        replies_percent: 300,
        bytes_more: 4 << 20,
        also: |it| {
            counted(it, "mss_raised")?;
            need(it.noted.least_text >= 52, format!("segments of {} octets", it.noted.least_text))
        },
        ..Attack::DEFAULT
    },
    Attack {
        name: "table-full",
        about: "as many idle connections as there may be: the long connections of honest clients go on, new ones are refused",
        hostile: || Box::new(peers::Squatters::default()),
        bytes_more: 2 << 20,
        also: |it| {
            counted(it, "refused_table_full")?;
            need(it.held_max.connections <= 2000, "more connections than there may be")
        },
        ..Attack::DEFAULT
    },
];

/// The attack called `name`.
pub fn find(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}
