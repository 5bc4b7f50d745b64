//! A flood of SYNs from addresses that are not ours, for one's own test bed: what a firewall's or a server's flood
//! protection is measured with.
//!
//! There is no engine in it. A [`Template`] is a whole frame in which three numbers and two checksums are replaced, a
//! [`Flooder`] puts a burst of them on its device and rings the doorbell once; it counts the answers that come back and
//! sends none, so that every half-open connection stays half open.
//!
//! The only other frames are what finding the next hop takes ([`hops`]): ARP and neighbour discovery, for addresses of
//! our own alone. Nobody is told that a spoofed address lives here, lest a real owner's traffic come this way: whoever
//! wants the answers back routes the spoofed range to an address of ours.

pub mod guard;
pub mod hops;
mod sender;
mod template;

pub use sender::{Answers, Flooder, Order};
pub use template::{Sources, Template};
