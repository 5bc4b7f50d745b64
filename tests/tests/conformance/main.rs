//! What a peer may rely on: the engine against segments written by hand, in virtual time, over IPv4 and IPv6.
//!
//! | module   | what belongs there                                                                     |
//! |----------|----------------------------------------------------------------------------------------|
//! | `open`   | CLOSED, LISTEN and SYN-RECEIVED; the handshake's options; initial sequence numbers      |
//! | `data`   | ESTABLISHED: delivery, reassembly, acknowledgement, SACK, timestamps                     |
//! | `window` | flow control in both directions: silly windows, probes, delayed acknowledgements, Nagle |
//! | `close`  | both sides closing, every state of it, TIME-WAIT                                         |
//! | `guard`  | blind attacks, segments out of the window, floods                                        |
//! | `loss`   | retransmission, congestion control, loss recovery, ECN at the sender                     |
//! | `timeout`| retransmission timeouts, tail loss probes, what is undone of them                       |
//! | `timer`  | keep-alive, giving up, user timeout, tail loss probes                                    |
//! | `active` | the active opener                                                                        |
//! | `link`   | ARP, neighbour discovery, IP, ICMP, path MTU, malformed segments                         |
//! | `fragment`| packets in fragments                                                                    |
//! | `neighbor`| neighbours that move, and who claims to be one                                          |
//! | `user`   | what an application may ask for, and what it is told (§3.9.1)                             |
//! | `states` | every state by every kind of segment, as a table                                         |

/// A check is a function of a bed, run over IPv4 and IPv6.
macro_rules! checks {
    ($($(#[$doc:meta])* fn $name:ident($bed:ident) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($bed: &Bed) $body

            #[test]
            fn v4() {
                check(&Bed::new(false));
            }

            #[test]
            fn v6() {
                check(&Bed::new(true));
            }
        }
    )+};
}

mod active;
mod close;
mod data;
mod fragment;
mod guard;
mod link;
mod loss;
mod neighbor;
mod open;
mod states;
mod timeout;
mod timer;
mod user;
mod window;

/// What every module needs.
mod prelude {
    pub(crate) use syncline_engine::app::{End, Report};
    pub(crate) use syncline_engine::tcp::State;
    pub(crate) use syncline_engine::wire::{Ecn, Seq};
    pub(crate) use syncline_tests::peer::flags::*;
    pub(crate) use syncline_tests::peer::{Bed, Offer, Out, Peer, Seg};
    pub(crate) use syncline_tests::raw::{self, Flaw, Ip, option};
    pub(crate) use syncline_tests::services::*;
}
