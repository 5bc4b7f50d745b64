//! The octets on the wire, read and written.
//!
//! Each protocol has a view, which is validated once when it is made and whose accessors cannot fail, or a meaning,
//! a small `Copy` value without a borrow. [`frame::parse`] takes a frame from its first octet to a meaning and is
//! what the loop calls; [`emit`] goes the other way. Nothing here panics, whatever the input.
//!
//! Numbers are in host order in every signature; addresses are those of `std::net`.

pub mod addr;
pub mod arp;
pub mod checksum;
pub mod drop_reason;
pub mod emit;
pub mod ethernet;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod objection;
pub mod seq;
pub mod tcp;
pub mod tcp_options;
mod usual;
pub(crate) mod usual_syn;
pub mod vlan;

#[cfg(test)]
pub(crate) mod samples;

pub use addr::MacAddr;
pub use drop_reason::DropReason;
pub use emit::OutSegment;
pub(crate) use frame::parse_each;
pub use frame::{ParseRules, Parsed, parse};
pub use ip::Ecn;
pub use seq::Seq;
pub use tcp::{Flags, TcpSegment};
pub use tcp_options::{SackBlock, SackBlocks, TcpOptions, Timestamps};
pub(crate) use usual::{Ends, Hosts, UsualRules, parse_usual};
pub use vlan::VlanId;
