//! What a report says of single connections: what the flight recorder kept, and how the two ends' accounts compare.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::thousands;

/// Connections whose frames were kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlightReport {
    /// The capture that they are in; of several generators their captures, separated by commas, in the order of the
    /// connections.
    pub file: String,
    /// Connections that failed, of those that were launched.
    pub failed: u64,
    /// Connections that were not recorded because there were too many at a time.
    pub unrecorded: u64,
    /// Of these, those that failed while there was room for another failed one.
    pub failed_unrecorded: u64,
    /// The connections in the capture: those that failed first, then the slowest.
    pub connections: Vec<FlightConnection>,
}

/// A connection whose frames were kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlightConnection {
    /// This end.
    pub local: String,
    /// The other.
    pub remote: String,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// What was slow about it: `connect`, `transaction` or `close`.
    pub slow: Option<String>,
    /// How long that took.
    pub micros: Option<u64>,
    /// Frames in the capture.
    pub frames: u64,
    /// Frames in its midst that were not kept.
    pub frames_missed: u64,
}

/// Counts by where it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Places {
    /// The load generator: no port, no memory, too late, or a segment that never left.
    pub generator: u64,
    /// The links and rings between, which have counted so many.
    pub bed: u64,
    /// What stands in the middle.
    pub device_under_test: u64,
    /// The server: it did not answer, reset, or was gone.
    pub server: u64,
    /// What is known does not tell.
    pub unknown: u64,
}

impl FlightReport {
    /// What several generators kept, each in its own capture. `None` of none.
    pub fn sum<'a>(reports: impl Iterator<Item = &'a Self>) -> Option<Self> {
        reports.cloned().reduce(|mut sum, next| {
            sum.file = format!("{}, {}", sum.file, next.file);
            sum.failed += next.failed;
            sum.unrecorded += next.unrecorded;
            sum.failed_unrecorded += next.failed_unrecorded;
            sum.connections.extend(next.connections);
            sum
        })
    }
}

impl Places {
    fn add(&mut self, other: &Self) {
        self.generator += other.generator;
        self.bed += other.bed;
        self.device_under_test += other.device_under_test;
        self.server += other.server;
        self.unknown += other.unknown;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.generator + self.bed + self.device_under_test + self.server + self.unknown
    }
}

/// Segments by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostSegments {
    /// SYNs.
    pub syn: u64,
    /// SYN-ACKs.
    pub syn_ack: u64,
    /// Segments with text.
    pub data: u64,
    /// Acknowledgements and nothing else.
    pub ack: u64,
    /// FINs.
    pub fin: u64,
    /// Resets.
    pub rst: u64,
}

impl LostSegments {
    fn add(&mut self, other: &Self) {
        self.syn += other.syn;
        self.syn_ack += other.syn_ack;
        self.data += other.data;
        self.ack += other.ack;
        self.fin += other.fin;
        self.rst += other.rst;
    }
}

/// A connection that failed, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Example {
    /// Its ends as the generator sees them.
    pub here: String,
    /// Its ends as the server sees them, if it does.
    pub there: Option<String>,
    /// A field of [`Places`].
    pub place: String,
    /// Why it is put down to that.
    pub why: String,
}

/// The generator's account of every connection, held against the server's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reconciliation {
    /// Connections whose SYN left the generator.
    pub connections_here: u64,
    /// Connections whose SYN reached the server during the run (in its life, if it keeps but a sample); `null` if its
    /// account is not known, and in a sum of several generators, which may share it.
    pub connections_there: Option<u64>,
    /// Of the connections that ended well, one in so many was compared; all that did not.
    pub sampled_one_in: u64,
    /// Connections that were compared.
    pub matched: u64,
    /// Of these, those known by the token in their request.
    pub matched_by_token: u64,
    /// Those known by addresses, ports and ISS.
    pub matched_by_addresses: u64,
    /// Those known by their ISS alone.
    pub matched_by_sequence: u64,
    /// Connections that the server knows by another client's address.
    pub translated: u64,
    /// Connections that reached another address or port than they were sent to.
    pub redirected: u64,
    /// Connections that something in the middle ended and opened anew: only their ends were compared.
    pub terminated: u64,
    /// Connections that the server does not know.
    pub only_here: u64,
    /// Connections that the generator does not know; `null` in a sum of several generators, each of which does not know
    /// the others'.
    pub only_there: Option<u64>,
    /// Connections that were left out of the comparison by sampling.
    pub outside_sample: u64,
    /// Connections that found no room in the generator's account.
    pub untracked_here: u64,
    /// Connections that found no room in the server's account; in a sum of several, the most of any.
    pub untracked_there: u64,
    /// Whether there is anything in the middle: an end sends to a hardware address that is not the other's.
    pub something_between: bool,
    /// Whether the server went away during the run.
    pub server_gone: bool,
    /// Connections that failed, by where.
    pub failed: Places,
    /// Segments that were lost, by where, whether or not their connection failed.
    pub lost: Places,
    /// Segments that were lost on their way to the server.
    pub lost_out: LostSegments,
    /// Segments that were lost on their way back.
    pub lost_back: LostSegments,
    /// The first connections that failed.
    pub examples: Vec<Example>,
}

/// Examples in a sum of several accounts at most.
const EXAMPLES_MAX: usize = 100;

impl Reconciliation {
    /// What several generators found, each against the account of its server. Whether they had one server is not known:
    /// what a server counts for itself is left out. `None` of none.
    pub fn sum<'a>(reports: impl Iterator<Item = &'a Self>) -> Option<Self> {
        reports.cloned().reduce(|mut sum, next| {
            sum.connections_here += next.connections_here;
            (sum.connections_there, sum.only_there) = (None, None);
            sum.sampled_one_in = sum.sampled_one_in.max(next.sampled_one_in);
            sum.matched += next.matched;
            sum.matched_by_token += next.matched_by_token;
            sum.matched_by_addresses += next.matched_by_addresses;
            sum.matched_by_sequence += next.matched_by_sequence;
            sum.translated += next.translated;
            sum.redirected += next.redirected;
            sum.terminated += next.terminated;
            sum.only_here += next.only_here;
            sum.outside_sample += next.outside_sample;
            sum.untracked_here += next.untracked_here;
            sum.untracked_there = sum.untracked_there.max(next.untracked_there);
            sum.something_between |= next.something_between;
            sum.server_gone |= next.server_gone;
            sum.failed.add(&next.failed);
            sum.lost.add(&next.lost);
            sum.lost_out.add(&next.lost_out);
            sum.lost_back.add(&next.lost_back);
            let room = EXAMPLES_MAX.saturating_sub(sum.examples.len());
            sum.examples.extend(next.examples.into_iter().take(room));
            sum
        })
    }
}

fn places(places: &Places) -> String {
    let named = [
        (places.generator, "generator"),
        (places.bed, "bed"),
        (places.device_under_test, "device under test"),
        (places.server, "server"),
        (places.unknown, "unknown"),
    ];
    let parts: Vec<_> =
        named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{name} {count}")).collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

fn kinds(lost: &LostSegments) -> String {
    let LostSegments { syn, syn_ack, data, ack, fin, rst } = *lost;
    let named = [(syn, "SYN"), (syn_ack, "SYN+ACK"), (data, "data"), (ack, "ACK"), (fin, "FIN"), (rst, "RST")];
    let parts: Vec<_> =
        named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    if parts.is_empty() { "none".into() } else { parts.join(" ") }
}

/// The reconciliation as lines for people, without their heading.
pub fn reconciliation_lines(report: &Reconciliation) -> Vec<String> {
    let Reconciliation { connections_here, matched, translated, redirected, terminated, .. } = report;
    let there = report.connections_there.map_or_else(|| "an unknown number".into(), thousands);
    let (here, matched) = (thousands(*connections_here), thousands(*matched));
    let mut out = vec![format!("{here} connections here, {there} at the server, {matched} compared")];
    let mut more = String::new();
    // Writing to a String cannot fail.
    for (count, what) in [
        (*translated, "translated"),
        (*redirected, "redirected"),
        (*terminated, "opened anew on the way"),
        (report.only_here, "not known to the server"),
        (report.only_there.unwrap_or(0), "known to the server alone"),
        (report.untracked_here + report.untracked_there, "found no room in an account"),
    ] {
        if count > 0 {
            let _ = write!(more, "{}{} {what}", if more.is_empty() { "" } else { ", " }, thousands(count));
        }
    }
    if report.sampled_one_in > 1 {
        let _ = write!(
            more,
            "{}of those that ended well one in {}",
            if more.is_empty() { "" } else { ", " },
            report.sampled_one_in
        );
    }
    if !more.is_empty() {
        out.push(more);
    }
    if report.server_gone {
        out.push("the server went away during the run".into());
    }
    out.push(format!("failed connections: {}", places(&report.failed)));
    let lost = if report.lost.total() == 0 {
        "none".into()
    } else {
        format!("{}; out {}, back {}", places(&report.lost), kinds(&report.lost_out), kinds(&report.lost_back))
    };
    out.push(format!("lost segments: {lost}"));
    for example in &report.examples {
        let there = example.there.as_ref().map_or_else(String::new, |there| format!(" (there {there})"));
        out.push(format!("- {}{there}: {}: {}", example.here, example.place.replace('_', " "), example.why));
    }
    out
}

/// What the flight recorder kept, as lines for people, without their heading.
pub fn flight_lines(report: &FlightReport) -> Vec<String> {
    let failed = report.connections.iter().filter(|connection| connection.failed.is_some()).count();
    let slow = report.connections.len() - failed;
    let mut out =
        vec![format!("{failed} of {} failed connections and the {slow} slowest in {}", report.failed, report.file)];
    if report.unrecorded > 0 {
        let failed = report.failed_unrecorded;
        out.push(format!("{} connections were not recorded, {failed} that failed among them", report.unrecorded));
    }
    for connection in &report.connections {
        let FlightConnection { local, remote, frames, frames_missed, .. } = connection;
        let why = connection.failed.clone().unwrap_or_else(|| {
            format!("{} took {} µs", connection.slow.as_deref().unwrap_or("-"), connection.micros.unwrap_or(0))
        });
        let missed =
            if *frames_missed > 0 { format!(", {frames_missed} in their midst missed") } else { String::new() };
        out.push(format!("- {local} to {remote}: {why}, {frames} frames{missed}"));
    }
    out
}
