//! The eleven states of RFC 9293 §3.3.2 and the one table that says how they follow each other.
//!
//! The engine changes a connection's state only through [`State::after`]; the tests walk every state and event, and
//! the diagram in the documentation is printed from [`TRANSITIONS`].

/// The state of a connection (RFC 9293 §3.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// No connection.
    #[default]
    Closed,
    /// Waiting for a connection request: a listener, never a block of its own.
    Listen,
    /// Our SYN is out.
    SynSent,
    /// SYNs have crossed or a SYN was answered; our SYN awaits its acknowledgement.
    SynReceived,
    /// Open in both directions.
    Established,
    /// We closed; our FIN awaits its acknowledgement.
    FinWait1,
    /// We closed, our FIN is acknowledged; the peer may still send.
    FinWait2,
    /// The peer closed; we may still send.
    CloseWait,
    /// Both closed at once; our FIN awaits its acknowledgement.
    Closing,
    /// The peer closed, then we; our FIN awaits its acknowledgement.
    LastAck,
    /// Both FINs are acknowledged; old segments are given time to die (2 MSL).
    TimeWait,
}

/// What makes a connection change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The user opens passively.
    PassiveOpen,
    /// The user opens actively: SYN is sent.
    ActiveOpen,
    /// The user closes: FIN is sent, after all data.
    Close,
    /// The user aborts: RST is sent where the peer may know of the connection.
    Abort,
    /// A SYN without an acceptable ACK.
    ReceiveSyn,
    /// A SYN that acknowledges ours.
    ReceiveSynAck,
    /// An ACK of our SYN.
    ReceiveAckOfSyn,
    /// The peer's FIN, all data before it having arrived.
    ReceiveFin,
    /// An ACK of our FIN.
    ReceiveAckOfFin,
    /// An acceptable RST.
    ReceiveRst,
    /// Retransmission, probing or the user's patience came to its end.
    GiveUp,
    /// 2 MSL have passed in TIME-WAIT, or FIN-WAIT-2 has lasted too long.
    Expire,
}

/// Every state, in the order of RFC 9293 §3.3.2 (CLOSED first).
pub const STATES: [State; 11] = [
    State::Closed,
    State::Listen,
    State::SynSent,
    State::SynReceived,
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];

/// Every event.
pub const EVENTS: [Event; 12] = [
    Event::PassiveOpen,
    Event::ActiveOpen,
    Event::Close,
    Event::Abort,
    Event::ReceiveSyn,
    Event::ReceiveSynAck,
    Event::ReceiveAckOfSyn,
    Event::ReceiveFin,
    Event::ReceiveAckOfFin,
    Event::ReceiveRst,
    Event::GiveUp,
    Event::Expire,
];

/// RFC 9293 §3.3.2, figure 5, with the arcs its text adds (§3.10). An event that is not listed for a state leaves it
/// as it is.
pub const TRANSITIONS: &[(State, Event, State)] = {
    use Event::*;
    use State::*;
    &[
        (Closed, PassiveOpen, Listen),
        (Closed, ActiveOpen, SynSent),
        (Listen, ActiveOpen, SynSent),
        (Listen, Close, Closed),
        (Listen, Abort, Closed),
        (Listen, ReceiveSyn, SynReceived),
        (SynSent, Close, Closed),
        (SynSent, Abort, Closed),
        (SynSent, ReceiveSyn, SynReceived),
        (SynSent, ReceiveSynAck, Established),
        (SynSent, ReceiveRst, Closed),
        (SynSent, GiveUp, Closed),
        (SynReceived, Close, FinWait1),
        (SynReceived, Abort, Closed),
        (SynReceived, ReceiveAckOfSyn, Established),
        (SynReceived, ReceiveFin, CloseWait),
        (SynReceived, ReceiveRst, Closed),
        (SynReceived, GiveUp, Closed),
        (Established, Close, FinWait1),
        (Established, Abort, Closed),
        (Established, ReceiveFin, CloseWait),
        (Established, ReceiveRst, Closed),
        (Established, GiveUp, Closed),
        (FinWait1, Abort, Closed),
        (FinWait1, ReceiveFin, Closing),
        (FinWait1, ReceiveAckOfFin, FinWait2),
        (FinWait1, ReceiveRst, Closed),
        (FinWait1, GiveUp, Closed),
        (FinWait2, Abort, Closed),
        (FinWait2, ReceiveFin, TimeWait),
        (FinWait2, ReceiveRst, Closed),
        (FinWait2, GiveUp, Closed),
        (FinWait2, Expire, Closed),
        (CloseWait, Close, LastAck),
        (CloseWait, Abort, Closed),
        (CloseWait, ReceiveRst, Closed),
        (CloseWait, GiveUp, Closed),
        (Closing, Abort, Closed),
        (Closing, ReceiveAckOfFin, TimeWait),
        (Closing, ReceiveRst, Closed),
        (Closing, GiveUp, Closed),
        (LastAck, Abort, Closed),
        (LastAck, ReceiveAckOfFin, Closed),
        (LastAck, ReceiveRst, Closed),
        (LastAck, GiveUp, Closed),
        (TimeWait, Abort, Closed),
        (TimeWait, ReceiveRst, Closed),
        (TimeWait, Expire, Closed),
    ]
};

/// A static: a constant is copied to where it is indexed.
static NEXT: [[State; EVENTS.len()]; STATES.len()] = {
    let mut table = [[State::Closed; EVENTS.len()]; STATES.len()];
    let mut s = 0;
    while s < STATES.len() {
        table[s] = [STATES[s]; EVENTS.len()];
        s += 1;
    }
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let (from, event, to) = TRANSITIONS[i];
        table[from as usize][event as usize] = to;
        i += 1;
    }
    table
};

impl State {
    /// The state that follows `event`.
    #[inline]
    pub const fn after(self, event: Event) -> Self {
        NEXT[self as usize][event as usize]
    }

    /// The name RFC 9293 gives the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        }
    }

    /// Whether the peer's FIN has not arrived yet on an open connection: text is still taken (RFC 9293 §3.10.7.4,
    /// seventh step).
    #[inline]
    pub const fn takes_text(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// Whether the user may still queue data.
    #[inline]
    pub const fn may_send(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived | Self::Established | Self::CloseWait)
    }

    /// Whether our FIN is queued or sent and not yet acknowledged.
    #[inline]
    pub const fn fin_outstanding(self) -> bool {
        matches!(self, Self::FinWait1 | Self::Closing | Self::LastAck)
    }

    /// Whether our SYN is out and not acknowledged yet.
    #[inline]
    pub(crate) const fn is_opening(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }

    /// Whether SYNs have been exchanged, so that sequence numbers of both sides are known.
    #[inline]
    pub const fn synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::Listen | Self::SynSent | Self::SynReceived)
    }
}

/// The transitions as a Mermaid state diagram.
pub fn mermaid() -> String {
    let mut out = String::from("stateDiagram-v2\n    [*] --> CLOSED\n");
    for (from, event, to) in TRANSITIONS {
        out.push_str(&format!(
            "    {} --> {} : {event:?}\n",
            from.name().replace('-', "_"),
            to.name().replace('-', "_")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_meets_every_event() {
        for state in STATES {
            for event in EVENTS {
                let listed: Vec<_> = TRANSITIONS.iter().filter(|t| t.0 == state && t.1 == event).collect();
                assert!(listed.len() <= 1, "{state:?} on {event:?} is listed twice");
                let expected = listed.first().map_or(state, |t| t.2);
                assert_eq!(state.after(event), expected, "{state:?} on {event:?}");
            }
        }
    }

    #[test]
    fn the_two_ways_to_close_meet_in_closed() {
        use Event::*;
        let walk = |events: &[Event]| events.iter().fold(State::Established, |s, &e| s.after(e));
        assert_eq!(walk(&[Close, ReceiveAckOfFin, ReceiveFin]), State::TimeWait);
        assert_eq!(walk(&[Close, ReceiveFin, ReceiveAckOfFin]), State::TimeWait);
        assert_eq!(walk(&[ReceiveFin, Close, ReceiveAckOfFin]), State::Closed);
        assert_eq!(walk(&[Close, ReceiveAckOfFin, ReceiveFin, Expire]), State::Closed);
    }

    #[test]
    fn every_state_can_be_left_and_reached() {
        for state in STATES {
            assert!(TRANSITIONS.iter().any(|t| t.0 == state), "{state:?} is a dead end");
            assert!(TRANSITIONS.iter().any(|t| t.2 == state), "{state:?} is never reached");
        }
    }
}
