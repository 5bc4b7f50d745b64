//! Every state by every kind of segment (RFC 9293 §3.10.7): the answer and the state that follows, as a table.
//!
//! A row is a segment, a column a state. What the RFC leaves open (a MAY, a limit) is settled by what the engine
//! documents: RFC 5961 for RST and SYN, RFC 9293 §3.10.7.4 for RST at RCV.NXT in TIME-WAIT and RFC 1337 for any
//! other, RFC 6191 for SYN in TIME-WAIT.

use syncline_engine::tcp::STATES;

use crate::prelude::*;

/// What the engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing.
    Nothing,
    /// An ACK: SEQ is SND.NXT, ACK is RCV.NXT.
    Ack,
    /// SYN and ACK.
    SynAck,
    /// `<SEQ=SEG.ACK><CTL=RST>`
    Rst,
    /// `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>`
    RstAck,
}

/// A segment made of what the peer knows.
type Make = fn(&Peer) -> Out<'static>;

/// The segments, as offsets from what each side expects.
const SEGMENTS: [(&str, Make); 23] = [
    ("null", |_| Out::new(NULL)),
    ("SYN new", |c| Out::new(SYN).seq(c.snd_nxt + 5)),
    ("SYN again", |c| Out::new(SYN).seq(c.iss)),
    ("SYN far", |c| Out::new(SYN).seq(c.snd_nxt + 0x6000_0000)),
    ("SYN,ACK new", |c| Out::new(SYN | ACK).seq(c.snd_nxt + 5)),
    ("ACK", |_| Out::new(ACK)),
    ("ACK old", |c| Out::new(ACK).ack(c.irs)),
    ("ACK future", |c| Out::new(ACK).ack(c.rcv_nxt + 1000)),
    ("ACK far", |c| Out::new(ACK).ack(c.rcv_nxt + 0x7000_0000)),
    ("ACK before window", |c| Out::new(ACK).seq(c.snd_nxt - 10)),
    ("ACK beyond window", |c| Out::new(ACK).seq(c.snd_nxt + 0x2000_0000)),
    ("text", |_| Out::new(ACK | PSH).data(b"text")),
    ("text ahead", |c| Out::new(ACK | PSH).data(b"text").seq(c.snd_nxt + 100)),
    ("text old", |c| Out::new(ACK | PSH).data(b"text").seq(c.snd_nxt - 4)),
    ("text far", |c| Out::new(ACK | PSH).data(b"text").seq(c.snd_nxt + 0x2000_0000)),
    ("text without ACK", |_| Out::new(PSH).data(b"text")),
    ("FIN", |_| Out::new(FIN | ACK)),
    ("FIN far", |c| Out::new(FIN | ACK).seq(c.snd_nxt + 0x2000_0000)),
    ("FIN without ACK", |_| Out::new(FIN)),
    ("RST", |_| Out::new(RST)),
    ("RST in window", |c| Out::new(RST).seq(c.snd_nxt + 10)),
    ("RST far", |c| Out::new(RST).seq(c.snd_nxt + 0x2000_0000)),
    ("RST,ACK", |_| Out::new(RST | ACK)),
];

/// The table. `-` nothing, `a` ACK, `s` SYN-ACK, `r` RST, `R` RST with ACK; then the state that follows if it is
/// another: `E`STABLISHED, `1` and `2` FIN-WAIT, `W` CLOSE-WAIT, `C`LOSING, `L`AST-ACK, `T`IME-WAIT, `0` CLOSED,
/// `Y` SYN-RECEIVED.
///
/// ACK here acknowledges everything the engine sent, FIN included, and comes from SND.NXT of the peer; in SYN-SENT the
/// peer's numbers are those of a SYN that it has not sent.
#[rustfmt::skip]
const TABLE: [[&str; 11]; 23] = [
    // CLOSED LISTEN SYN-S SYN-R ESTAB FIN-1 FIN-2 CLO-W CLOSG LAST  TIME-W
    ["R",    "-",   "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-"  ], // null
    ["R",    "sY",  "sY", "a",  "a",  "a",  "a",  "a",  "a",  "a",  "sY" ], // SYN new
    ["R",    "sY",  "sY", "s",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // SYN again
    ["R",    "sY",  "sY", "a",  "a",  "a",  "a",  "a",  "a",  "a",  "sY" ], // SYN far
    ["r",    "r",   "aE", "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // SYN,ACK new
    ["r",    "r",   "-",  "-E", "-",  "-2", "-",  "-",  "-T", "-0", "-"  ], // ACK
    ["r",    "r",   "r",  "r",  "-",  "-",  "-",  "-",  "-",  "-",  "-"  ], // ACK old
    ["r",    "r",   "r",  "r",  "a",  "a",  "a",  "a",  "a",  "a",  "-"  ], // ACK future
    ["r",    "r",   "r",  "r",  "a",  "a",  "a",  "a",  "a",  "a",  "-"  ], // ACK far
    ["r",    "r",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // ACK before window
    ["r",    "r",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // ACK beyond window
    ["r",    "r",   "-",  "aE", "a",  "a2", "a",  "a",  "aT", "-0", "a"  ], // text
    ["r",    "r",   "-",  "aE", "a",  "a2", "a",  "a",  "aT", "-0", "a"  ], // text ahead
    ["r",    "r",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // text old
    ["r",    "r",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // text far
    ["R",    "-",   "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-",  "a"  ], // text without ACK
    ["r",    "r",   "-",  "aW", "aW", "aT", "aT", "a",  "aT", "-0", "a"  ], // FIN
    ["r",    "r",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "a"  ], // FIN far
    ["R",    "-",   "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-",  "a"  ], // FIN without ACK
    ["-",    "-",   "-",  "-0", "-0", "-0", "-0", "-0", "-0", "-0", "-0" ], // RST
    ["-",    "-",   "-",  "a",  "a",  "a",  "a",  "a",  "a",  "a",  "-"  ], // RST in window
    ["-",    "-",   "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-",  "-"  ], // RST far
    ["-",    "-",   "-0", "-0", "-0", "-0", "-0", "-0", "-0", "-0", "-0" ], // RST,ACK
];

fn expected(entry: &str, state: State) -> (Answer, State) {
    let (answer, after) = entry.split_at(1);
    let answer = match answer {
        "-" => Answer::Nothing,
        "a" => Answer::Ack,
        "s" => Answer::SynAck,
        "r" => Answer::Rst,
        "R" => Answer::RstAck,
        other => panic!("{other} is no answer"),
    };
    let after = match after {
        "" => state,
        "E" => State::Established,
        "1" => State::FinWait1,
        "2" => State::FinWait2,
        "W" => State::CloseWait,
        "C" => State::Closing,
        "L" => State::LastAck,
        "T" => State::TimeWait,
        "0" => State::Closed,
        "Y" => State::SynReceived,
        other => panic!("{other} is no state"),
    };
    (answer, after)
}

/// A connection in `state`, the only one of its bed.
fn brought_to(bed: &Bed, state: State) -> Peer {
    let mut c = match state {
        State::Closed => bed.peer(SHUT),
        State::Listen => bed.peer(SINK),
        State::SynSent => bed.dialled(),
        State::SynReceived => {
            let mut c = bed.peer(SINK);
            c.syn(&Offer::plain());
            c
        }
        _ => bed.open(SINK, &Offer::plain()),
    };
    if matches!(state, State::CloseWait | State::LastAck) {
        c.fin();
        c.settle();
    }
    if matches!(state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck | State::TimeWait) {
        c.settle();
        c.tell(|conn| conn.close());
        c.read_fin();
    }
    match state {
        State::FinWait2 => c.ack(),
        State::Closing => c.send(Out::new(FIN | ACK).ack(c.rcv_nxt - 1)),
        State::TimeWait => c.fin(),
        _ => {}
    }
    c.drain();
    c
}

fn answer_of(c: &mut Peer, state: State, sent: &Out<'static>, what: &str) -> Answer {
    let _ = sent;
    // A request is no answer, nor is our SYN, which goes again once an old connection that met it is reset
    let is_answer = |s: &Seg| state != State::SynSent || s.data.is_empty() && s.kind() != SYN;
    let segs: Vec<_> = c.collect(60).into_iter().filter(is_answer).collect();
    c.need(segs.len() <= 1, &format!("{what}: {} answers", segs.len()));
    let Some(s) = segs.first() else { return Answer::Nothing };
    match s.kind() {
        k if k == ACK => Answer::Ack,
        k if k == SYN | ACK => Answer::SynAck,
        k if k == RST => Answer::Rst,
        k if k == RST | ACK => Answer::RstAck,
        _ => c.fail(&format!("{what}: {}", s.flags)),
    }
}

checks! {
    /// Each of the 253 places of the table.
    fn table(bed) {
        let mut wrong = Vec::new();
        for ((name, segment), row) in SEGMENTS.iter().zip(TABLE) {
            for (&state, entry) in STATES.iter().zip(row) {
                let bed = Bed::new(bed.is_v6());
                let mut c = brought_to(&bed, state);
                let before = if state == State::Listen { State::Closed } else { state };
                let what = format!("{name} in {}", state.name());
                c.need(c.state() == before, &format!("{what}: in {} instead", c.state().name()));
                let (answer, after) = expected(entry, before);
                let out = segment(&c);
                c.send(out.clone());
                let got = (answer_of(&mut c, state, &out, &what), c.state());
                if got != (answer, after) {
                    wrong.push(format!("{what}: {got:?}, not {:?}", (answer, after)));
                }
            }
        }
        assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// The diagram in the documentation is the engine's own.
#[test]
fn the_documented_diagram_is_the_table() {
    let page = include_str!("../../../docs/states.md");
    let begin = page.find("```mermaid\n").expect("a diagram") + "```mermaid\n".len();
    let end = begin + page[begin..].find("```").expect("its end");
    assert_eq!(&page[begin..end], syncline_engine::tcp::mermaid(), "docs/states.md is out of date");
}
