//! Both ends' states, followed from what passed between them.
//!
//! A capture shows what was sent past one place. Whether, and when, a segment arrived at its end is told by what that
//! end says next: a FIN counts as arrived at once if the receiver's next segment acknowledges it, or if there is none;
//! else with the first that does. A SYN or FIN that its sender has to repeat before it is answered was not received, an
//! acknowledgment of a SYN or FIN that is then sent again neither. So SYNs and FINs that cross on the wire lead to
//! SYN-RECEIVED and CLOSING, as they did at the ends.
//!
//! An end that was never heard of has no state here, and one that is captured from the middle on is taken for open.

use serde::{Serialize, Serializer};
use syncline_engine::tcp::{Event, State};
use syncline_engine::wire::{Flags, Seq};

use super::flows::{Connection, Passed};

/// Ranges of octets seen that are remembered of each direction; with more holes at a time than this, a segment sent
/// again may be taken for one out of order.
const RANGES_MAX: usize = 64;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one that opened the connection.
    Left,
    /// The other.
    Right,
}

/// What is remarkable about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// All of it had been sent before.
    SentAgain,
    /// It fills a hole that later segments had left.
    OutOfOrder,
    /// What comes before it was not seen.
    Hole,
    /// It acknowledges what was acknowledged before while more is out (RFC 5681 §2).
    DuplicateAck,
    /// It shuts the sender's window.
    ZeroWindow,
    /// It tells of a new window and nothing else.
    WindowUpdate,
    /// One octet, or none, into a window that is shut (RFC 9293 §3.8.6.1).
    WindowProbe,
    /// It repeats the last octet, or none, to draw an answer (RFC 9293 §3.8.4).
    KeepAlive,
    /// A RST that is not where the receiver would take it (RFC 5961 §3).
    ResetIgnored,
    /// A SYN on an open connection: its sender has begun anew.
    BeginsAnew,
    /// It acknowledges what was not seen.
    AcksUnseen,
}

impl Note {
    /// The note for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::SentAgain => "sent again",
            Self::OutOfOrder => "out of order",
            Self::Hole => "hole before it",
            Self::DuplicateAck => "duplicate ACK",
            Self::ZeroWindow => "zero window",
            Self::WindowUpdate => "window update",
            Self::WindowProbe => "window probe",
            Self::KeepAlive => "keep-alive",
            Self::ResetIgnored => "outside the window, ignored",
            Self::BeginsAnew => "sender begins anew",
            Self::AcksUnseen => "acknowledges what was not captured",
        }
    }
}

fn state_name<S: Serializer>(state: &Option<State>, serializer: S) -> Result<S::Ok, S::Error> {
    state.map(State::name).serialize(serializer)
}

fn flag_names<S: Serializer>(flags: &Flags, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(flags)
}

/// The options of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SynOptions {
    /// Largest segment that may be sent back, octets.
    pub mss: Option<u16>,
    /// Shift of the windows to come.
    pub window_scale: Option<u8>,
    /// Whether SACK may be sent.
    pub sack_permitted: bool,
    /// Whether there are timestamps.
    pub timestamps: bool,
}

/// A segment and what it led to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Microseconds since the connection's first segment.
    pub at_us: f64,
    /// Who sent it.
    pub from: Side,
    /// The control bits.
    #[serde(serialize_with = "flag_names")]
    pub flags: Flags,
    /// Its sequence number, from the sender's ISS on.
    pub seq: u32,
    /// What it acknowledges, from the receiver's ISS on.
    pub ack: Option<u32>,
    /// Octets of text.
    pub len: u32,
    /// The sender's window in octets, if its scale was captured; else as it is in the header.
    pub window: u32,
    /// The options, of a SYN.
    pub options: Option<SynOptions>,
    /// SACK blocks, from the receiver's ISS on: from, to.
    pub sack: Vec<(u32, u32)>,
    /// What is remarkable.
    pub notes: Vec<Note>,
    /// State of the left end after it.
    #[serde(serialize_with = "state_name")]
    pub left: Option<State>,
    /// State of the right end after it.
    #[serde(serialize_with = "state_name")]
    pub right: Option<State>,
}

/// What has passed but perhaps not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Syn { end: Seq },
    Fin { end: Seq },
}

impl Pending {
    fn end(self) -> Seq {
        match self {
            Self::Syn { end } | Self::Fin { end } => end,
        }
    }
}

/// One end, as far as the wire tells.
#[derive(Clone, Debug, Default)]
struct End {
    state: Option<State>,
    /// What relative numbers count from.
    base: Option<Seq>,
    /// One beyond the highest sequence number it sent.
    sent_to: Option<Seq>,
    /// The last it acknowledged.
    acked: Option<Seq>,
    window: u32,
    scale: Option<u8>,
    /// Sequence number of its SYN and of its FIN.
    syn: Option<Seq>,
    fin: Option<Seq>,
    /// Whether it has sent a SYN+ACK.
    answered: bool,
    ranges: Vec<(Seq, Seq)>,
    arriving: Vec<Pending>,
}

impl End {
    fn on(&mut self, event: Event) {
        self.state = self.state.map(|state| state.after(event));
    }

    /// Remembers the octets from `start` to `end`. Whether all of them were known.
    fn remember(&mut self, start: Seq, end: Seq) -> bool {
        if self.ranges.iter().any(|(from, to)| from.at_or_before(start) && to.at_or_after(end)) {
            return true;
        }
        let (mut from, mut to) = (start, end);
        self.ranges.retain(|(a, b)| {
            let apart = b.before(from) || a.after(to);
            if !apart {
                (from, to) = (from.earliest(*a), to.latest(*b));
            }
            apart
        });
        if self.ranges.len() == RANGES_MAX {
            self.ranges.remove(0);
        }
        self.ranges.push((from, to));
        false
    }
}

/// What each end says later, by the number of a segment.
struct Future<'a> {
    segments: &'a [Passed],
    /// The next segment after this one, of the left end and of the right.
    next: Vec<[Option<u32>; 2]>,
}

impl<'a> Future<'a> {
    fn of(segments: &'a [Passed]) -> Self {
        let mut next = vec![[None; 2]; segments.len()];
        let mut after = [None; 2];
        for (index, segment) in segments.iter().enumerate().rev() {
            next[index] = after;
            after[usize::from(!segment.from_left)] = Some(index as u32);
        }
        Self { segments, next }
    }

    fn next(&self, side: usize, after: usize) -> Option<&Passed> {
        self.next[after][side].map(|index| &self.segments[index as usize])
    }

    /// Whether `side`, when segment `now` has passed, has received everything up to `end`.
    fn has_received(&self, side: usize, end: Seq, now: usize) -> bool {
        match self.next(side, now) {
            None => true,
            Some(next) if next.flags.ack() => next.ack.at_or_after(end),
            Some(next) => next.flags.rst(),
        }
    }

    /// Whether `side` sends a segment with `flag` at `seq` again after segment `now`, and before the other side's next
    /// segment if `unanswered`.
    fn repeats(&self, side: usize, flag: Flags, end: Seq, now: usize, unanswered: bool) -> bool {
        let mut at = now;
        let limit = if unanswered { self.next[now][1 - side] } else { None };
        // What is sent again is sent soon: this keeps long captures linear.
        for _ in 0..256 {
            let Some(index) = self.next[at][side] else { return false };
            if limit.is_some_and(|limit| index > limit) {
                return false;
            }
            at = index as usize;
            let segment = &self.segments[at];
            if segment.flags.contains(flag) && segment.end() == end {
                return true;
            }
        }
        false
    }
}

/// The segments of `connection` with the states that they led to, and how it stands at the end.
pub fn follow(connection: &Connection) -> (Vec<Row>, &'static str) {
    let segments = &connection.segments[..];
    let future = Future::of(segments);
    let mut ends = [End::default(), End::default()];
    begin(segments, &mut ends);
    let began = segments.first().map_or(0, |first| first.at_ns);
    let mut rows = Vec::with_capacity(segments.len());
    for (index, segment) in segments.iter().enumerate() {
        let from = usize::from(!segment.from_left);
        let mut notes = Vec::new();
        sends(&mut ends, from, segment, &mut notes);
        arrives(&mut ends, from, segment, index, &future, &mut notes);
        for (side, end) in ends.iter_mut().enumerate() {
            settle(end, side, index, &future);
        }
        let relative = |end: &End, seq: Seq| seq - end.base.unwrap_or(seq);
        let (sender, receiver) = (&ends[from], &ends[1 - from]);
        let scale =
            if segment.flags.syn() { 0 } else { sender.scale.and(receiver.scale).and(sender.scale).unwrap_or(0) };
        let options = &segment.options;
        rows.push(Row {
            at_us: segment.at_ns.saturating_sub(began) as f64 / 1e3,
            from: if segment.from_left { Side::Left } else { Side::Right },
            flags: segment.flags,
            seq: relative(sender, segment.seq),
            ack: segment.flags.ack().then(|| relative(receiver, segment.ack)),
            len: segment.len,
            window: u32::from(segment.window) << scale,
            options: segment.flags.syn().then_some(SynOptions {
                mss: options.mss,
                window_scale: options.window_scale,
                sack_permitted: options.sack_permitted,
                timestamps: options.timestamps.is_some(),
            }),
            sack: options
                .sack
                .as_slice()
                .iter()
                .map(|b| (relative(receiver, b.start), relative(receiver, b.end)))
                .collect(),
            notes,
            left: ends[0].state,
            right: ends[1].state,
        });
    }
    (rows, outcome(segments, &ends))
}

/// What is known of the ends before the first segment: what they say first tells.
fn begin(segments: &[Passed], ends: &mut [End; 2]) {
    let from_the_middle = segments.first().is_some_and(|first| !first.flags.syn() && !first.flags.rst());
    for (side, end) in ends.iter_mut().enumerate() {
        let mut own = segments.iter().filter(|segment| usize::from(!segment.from_left) == side);
        let first = own.clone().next();
        end.state = match first {
            _ if from_the_middle => Some(State::Established),
            Some(first) if first.flags.contains(Flags::SYN_ACK) => Some(State::Listen),
            Some(_) => Some(State::Closed),
            None => None,
        };
        end.base = own
            .find(|segment| segment.flags.syn())
            .map(|syn| syn.seq)
            .or_else(|| first.filter(|first| !first.flags.rst()).map(|first| first.seq - 1))
            .or_else(|| {
                let to = segments.iter().find(|s| usize::from(s.from_left) == side && s.flags.ack());
                to.map(|segment| segment.ack - 1)
            });
    }
    // A SYN+ACK answers a SYN, whether or not that was captured.
    if let Some(first) = segments.first().filter(|first| first.flags.contains(Flags::SYN_ACK) && !first.flags.rst()) {
        let (own, other) = (usize::from(!first.from_left), usize::from(first.from_left));
        ends[own].on(Event::ReceiveSyn);
        ends[other].state = Some(State::SynSent);
        ends[other].base = Some(first.ack - 1);
        (ends[other].syn, ends[other].sent_to) = (Some(first.ack - 1), Some(first.ack));
    }
}

/// What a segment says about its sender.
fn sends(ends: &mut [End; 2], from: usize, segment: &Passed, notes: &mut Vec<Note>) {
    let peer_window = ends[1 - from].window;
    let peer_sent_to = ends[1 - from].sent_to;
    let end = &mut ends[from];
    let (flags, end_seq) = (segment.flags, segment.end());
    if flags.rst() {
        // A reply to something impossible takes its number from that; an abort has the next one (RFC 9293 §3.10.7.1).
        let aborts = end.sent_to.is_none_or(|sent_to| segment.seq == sent_to) || end.acked == Some(segment.ack);
        if aborts && !matches!(end.state, Some(State::SynSent | State::Listen)) {
            end.on(Event::Abort);
        }
        return;
    }
    if flags.syn() {
        if end.syn != Some(segment.seq) {
            let open = end.state.is_some_and(State::synchronized) && end.syn.is_some();
            if open {
                notes.push(Note::BeginsAnew);
                (end.ranges, end.sent_to, end.fin) = (Vec::new(), None, None);
                end.on(Event::Abort);
            }
            if end.state == Some(State::Closed) {
                end.on(if flags.ack() { Event::PassiveOpen } else { Event::ActiveOpen });
                if flags.ack() {
                    end.on(Event::ReceiveSyn);
                }
            }
            (end.syn, end.base) = (Some(segment.seq), Some(segment.seq));
        }
        end.scale = segment.options.window_scale;
    } else if end.state == Some(State::SynSent) && flags.ack() {
        // It answers what it must have received.
        end.on(Event::ReceiveSynAck);
    }
    let sent_to = end.sent_to.unwrap_or(segment.seq);
    let shut = peer_window == 0 && ends[1 - from].acked.is_some();
    let end = &mut ends[from];
    let takes_room = segment.len > 0 || flags.syn() || flags.fin();
    if !flags.syn() && segment.len <= 1 && !flags.fin() && segment.seq + 1 == sent_to && end.acked.is_some() {
        notes.push(if shut { Note::WindowProbe } else { Note::KeepAlive });
    } else if takes_room {
        let known = end.remember(segment.seq, end_seq);
        // Where SYNs cross, each end sends its own again to answer the other's.
        if known && flags.contains(Flags::SYN_ACK) && !end.answered {
            end.answered = true;
        } else if known {
            notes.push(Note::SentAgain);
        } else if segment.seq.after(sent_to) {
            notes.push(Note::Hole);
        } else if segment.seq.before(sent_to) {
            notes.push(if end_seq.after(sent_to) { Note::SentAgain } else { Note::OutOfOrder });
        } else if shut && segment.len == 1 {
            notes.push(Note::WindowProbe);
        }
    }
    end.answered |= flags.contains(Flags::SYN_ACK);
    if takes_room {
        end.sent_to = Some(sent_to.latest(end_seq));
    }
    if flags.fin() && end.fin != Some(end_seq) {
        end.fin = Some(end_seq);
        end.on(Event::Close);
    }
    if flags.ack() {
        let scale = if flags.syn() { 0 } else { end.scale.unwrap_or(0) };
        let window = u32::from(segment.window) << scale;
        if window == 0 && !flags.syn() {
            notes.push(Note::ZeroWindow);
        }
        let same = end.acked == Some(segment.ack) && !takes_room && notes.is_empty();
        if same && window != end.window {
            notes.push(Note::WindowUpdate);
        } else if same && peer_sent_to.is_some_and(|sent_to| sent_to.after(segment.ack)) {
            notes.push(Note::DuplicateAck);
        }
        if peer_sent_to.is_some_and(|sent_to| segment.ack.after(sent_to)) {
            notes.push(Note::AcksUnseen);
        }
        end.window = window;
        end.acked = Some(end.acked.map_or(segment.ack, |acked| acked.latest(segment.ack)));
        if flags.syn() {
            end.acked = Some(segment.ack);
        }
    }
}

/// What a segment brings about at its receiver, in the order of RFC 9293 §3.10.7.4.
fn arrives(
    ends: &mut [End; 2],
    from: usize,
    segment: &Passed,
    index: usize,
    future: &Future<'_>,
    notes: &mut Vec<Note>,
) {
    let to = 1 - from;
    let sent_to = ends[from].sent_to;
    let end = &mut ends[to];
    let flags = segment.flags;
    if flags.rst() {
        let taken = match end.state {
            Some(State::SynSent) => flags.ack() && end.sent_to == Some(segment.ack),
            Some(State::Closed | State::Listen) | None => true,
            Some(_) => {
                let from_here = end.acked.is_none_or(|acked| segment.seq.at_or_after(acked));
                from_here && sent_to.is_none_or(|sent_to| segment.seq.at_or_before(sent_to))
            }
        };
        if taken && end.state != Some(State::Listen) {
            end.on(Event::ReceiveRst);
        } else if !taken {
            notes.push(Note::ResetIgnored);
        }
        return;
    }
    if flags.syn() && !future.repeats(from, Flags::SYN, segment.end(), index, true) {
        let syn_ack = flags.ack() && end.state == Some(State::SynSent);
        if syn_ack && end.sent_to == Some(segment.ack) {
            end.on(Event::ReceiveSynAck);
        } else if !syn_ack {
            end.arriving.push(Pending::Syn { end: segment.seq + 1 });
        }
    }
    if flags.ack() {
        let acks = |at: Option<Seq>| at.is_some_and(|at| segment.ack.at_or_after(at));
        let syn = end.syn.map(|syn| syn + 1);
        if end.state == Some(State::SynReceived)
            && acks(syn)
            && syn.is_some_and(|syn| !future.repeats(to, Flags::SYN, syn, index, false))
        {
            end.on(Event::ReceiveAckOfSyn);
        }
        if acks(end.fin) && end.fin.is_some_and(|fin| !future.repeats(to, Flags::FIN, fin, index, false)) {
            end.on(Event::ReceiveAckOfFin);
        }
    }
    if flags.fin() && !future.repeats(from, Flags::FIN, segment.end(), index, true) {
        end.arriving.push(Pending::Fin { end: segment.end() });
    }
}

/// Takes in what has arrived by now.
fn settle(end: &mut End, side: usize, index: usize, future: &Future<'_>) {
    let mut arriving = std::mem::take(&mut end.arriving);
    arriving.retain(|pending| {
        if !future.has_received(side, pending.end(), index) {
            return true;
        }
        end.on(match pending {
            Pending::Syn { .. } => Event::ReceiveSyn,
            Pending::Fin { .. } => Event::ReceiveFin,
        });
        false
    });
    end.arriving = arriving;
}

fn outcome(segments: &[Passed], ends: &[End; 2]) -> &'static str {
    use State::{Closed, TimeWait};
    let reset = segments.iter().rev().find(|segment| segment.flags.rst());
    match (ends[0].state, ends[1].state) {
        (_, None) | (None, _) => "unanswered",
        (Some(Closed), Some(Closed)) if reset.is_some() && ends.iter().any(|end| end.sent_to.is_none()) => "refused",
        (Some(Closed), Some(_)) | (Some(_), Some(Closed)) if reset.is_some() => "reset",
        (Some(Closed | TimeWait), Some(Closed | TimeWait)) => "closed",
        (Some(left), Some(right)) if left.synchronized() || right.synchronized() => {
            if ends.iter().any(|end| end.fin.is_some()) { "closing" } else { "open" }
        }
        _ => "opening",
    }
}
