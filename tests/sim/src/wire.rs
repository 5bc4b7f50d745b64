//! What the wire shows: the digest of all octets, and whether both ends keep to the windows.

use core::fmt;
use core::fmt::Write;
use std::collections::BTreeMap;

use syncline_engine::device::link::{End, WireEvent, WireTap};
use syncline_engine::time::Instant;
use syncline_engine::wire::{Flags, ParseRules, Parsed, Seq, TcpSegment, parse};

/// Lines of a ladder that are kept.
const LADDER_LINES: usize = 120;

/// What one end of a flow has said, as far as the wire shows.
#[derive(Clone, Copy, Debug, Default)]
struct Half {
    /// Initial sequence number.
    iss: Option<Seq>,
    /// Window scale option of its SYN.
    scale: Option<u8>,
    /// After the last octet it sent.
    sent: Seq,
    /// The largest acknowledgement it sent, and the largest right edge it advertised.
    acked: Option<Seq>,
    edge: Option<Seq>,
    /// The largest right edge that arrived at it.
    edge_known: Option<Seq>,
}

/// Both ends of a flow: that of A, that of B.
type Flow = [Half; 2];

/// Ports of a flow: A's and B's.
pub(crate) type Ports = (u16, u16);

/// Watches the wire.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) digest: u64,
    pub(crate) frames: u64,
    flows: BTreeMap<Ports, Flow>,
    /// The first thing that was wrong.
    pub(crate) fault: Option<(Ports, String)>,
    /// The flow whose segments are kept.
    follow: Option<Ports>,
    ladder: std::collections::VecDeque<String>,
}

impl Watch {
    pub(crate) fn new(follow: Option<Ports>) -> Self {
        Self { follow, ..Self::default() }
    }

    /// The segments that were kept, one a line.
    pub(crate) fn ladder(&self) -> String {
        self.ladder.iter().fold(String::new(), |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        })
    }

    fn fold(&mut self, word: u64) {
        self.digest = (self.digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.digest ^= self.digest >> 29;
    }

    fn judge(&mut self, from: End, event: WireEvent, seg: &TcpSegment) {
        let ports = match from {
            End::A => (seg.source_port, seg.destination_port),
            End::B => (seg.destination_port, seg.source_port),
        };
        let own = usize::from(from == End::B);
        let flow = self.flows.entry(ports).or_default();
        let verdict = match event {
            WireEvent::Sent => sent(flow, own, seg),
            WireEvent::Arrived => {
                arrived(flow, own, seg);
                Ok(())
            }
            WireEvent::Lost(_) => Ok(()),
        };
        if let Err(what) = verdict {
            self.fault.get_or_insert((ports, format!("{from:?} {what}")));
        }
    }

    fn record(&mut self, at: Instant, from: End, event: WireEvent, seg: &TcpSegment) {
        let ports = match from {
            End::A => (seg.source_port, seg.destination_port),
            End::B => (seg.destination_port, seg.source_port),
        };
        if self.follow != Some(ports) {
            return;
        }
        let flow = self.flows.get(&ports).copied().unwrap_or_default();
        let own = usize::from(from == End::B);
        let relative = |seq: Seq, half: &Half| seq - half.iss.unwrap_or(seq);
        let mut line = format!("{:>12} µs ", at.micros());
        let what = match event {
            WireEvent::Sent => "sends".to_owned(),
            WireEvent::Arrived => "'s arrives:".to_owned(),
            WireEvent::Lost(why) => format!("'s is lost ({why:?}):"),
        };
        let ack = if seg.flags.ack() { relative(seg.ack, &flow[1 - own]) } else { 0 };
        let seq = relative(seg.seq, &flow[own]);
        let _ = write!(
            line,
            "{from:?} {what} {} seq {seq} +{} ack {ack} window {}",
            Named(seg.flags),
            seg.payload_len,
            seg.window
        );
        for block in seg.options.sack.as_slice() {
            let (start, end) = (relative(block.start, &flow[1 - own]), relative(block.end, &flow[1 - own]));
            let _ = write!(line, " [{start}, {end})");
        }
        if self.ladder.len() == LADDER_LINES {
            self.ladder.pop_front();
        }
        self.ladder.push_back(line);
    }
}

/// A segment leaves: does it keep to the peer's window, and do its own acknowledgement and window make sense?
fn sent(flow: &mut Flow, own: usize, seg: &TcpSegment) -> Result<(), String> {
    if seg.flags.rst() {
        return Ok(());
    }
    let end = seg.seq + seg.seq_len();
    if seg.flags.syn() && flow[own].iss != Some(seg.seq) {
        if !seg.flags.ack() {
            flow[1 - own] = Half::default();
        }
        flow[own] = Half { iss: Some(seg.seq), scale: seg.options.window_scale, sent: end, ..Half::default() };
    }
    let Some(_) = flow[own].iss else { return Ok(()) };
    if end.after(flow[own].sent) {
        flow[own].sent = end;
    }
    if seg.seq_len() > 0
        && !seg.flags.syn()
        && let Some(edge) = flow[own].edge_known
        && end.after(edge)
    {
        return Err(format!("sends {} octets beyond the window", end - edge));
    }
    if !seg.flags.ack() || flow[1 - own].iss.is_none() {
        return Ok(());
    }
    if seg.ack.after(flow[1 - own].sent) {
        return Err("acknowledges what was not sent".into());
    }
    if flow[own].acked.is_some_and(|acked| seg.ack.before(acked)) {
        return Err("takes an acknowledgement back".into());
    }
    flow[own].acked = Some(seg.ack);
    let edge = right_edge(flow, own, seg);
    if flow[own].edge.is_some_and(|known| edge.before(known)) {
        return Err("shrinks its window".into());
    }
    flow[own].edge = Some(edge);
    Ok(())
}

fn arrived(flow: &mut Flow, own: usize, seg: &TcpSegment) {
    if !seg.flags.ack() || seg.flags.rst() || flow[own].iss.is_none() {
        return;
    }
    let edge = right_edge(flow, own, seg);
    let known = &mut flow[1 - own].edge_known;
    *known = Some(known.map_or(edge, |known| known.latest(edge)));
}

/// The right edge of the window that a segment of `own` advertises.
fn right_edge(flow: &Flow, own: usize, seg: &TcpSegment) -> Seq {
    let shift = match (flow[0].scale, flow[1].scale) {
        (Some(_), Some(_)) if !seg.flags.syn() => flow[own].scale.unwrap_or(0),
        _ => 0,
    };
    seg.ack + (u32::from(seg.window) << shift)
}

impl WireTap for Watch {
    fn observe(&mut self, at: Instant, from: End, event: WireEvent, frame: &[u8]) {
        self.frames += 1;
        let kind = match event {
            WireEvent::Sent => 1,
            WireEvent::Lost(_) => 2,
            WireEvent::Arrived => 3,
        };
        self.fold(at.nanos() << 3 | kind << 1 | u64::from(from == End::B));
        if event == WireEvent::Sent {
            for octets in frame.chunks(8) {
                let mut word = [0; 8];
                word[..octets.len()].copy_from_slice(octets);
                self.fold(u64::from_le_bytes(word));
            }
        }
        if let Ok(Parsed::Tcp(seg)) = parse(frame, &ParseRules::default()) {
            self.judge(from, event, &seg);
            if self.follow.is_some() {
                self.record(at, from, event, &seg);
            }
        }
    }
}

/// Flags by their names.
struct Named(Flags);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Flags::SYN, "SYN "),
            (Flags::FIN, "FIN "),
            (Flags::RST, "RST "),
            (Flags::PSH, "PSH "),
            (Flags::ACK, "ACK "),
            (Flags::ECE, "ECE "),
            (Flags::CWR, "CWR "),
        ];
        names.into_iter().filter(|(flag, _)| self.0.contains(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}
