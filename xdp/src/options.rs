//! What an interface is opened for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address, address),
            IpAddr::V6(address) => Self::V6(address, address),
        }
    }
}

/// Which of the interface's traffic is the engine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Everything to these addresses, and the address resolution for them: the kernel does not have them.
    Owned(Vec<AddressRange>),
    /// TCP to a range of local ports of addresses that stay the kernel's, and the ICMP errors about it.
    Shared {
        /// The kernel's addresses.
        addresses: Vec<IpAddr>,
        /// First local port.
        port_first: u16,
        /// Last local port, included.
        port_last: u16,
    },
}

/// Where the XDP program is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// Native, or generic where the driver has no native mode; on a veth with an engine at the other end generic as well,
    /// where the program cannot send ([`TransmitChoice`]): it is the faster then.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the network stack, before anything else (generic XDP).
    Skb,
}

/// Whether frames go between device and memory without a copy by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZerocopyChoice {
    /// If the driver can.
    #[default]
    Auto,
    /// Or fail.
    On,
    /// Never.
    Off,
}

/// How frames leave in copy mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransmitChoice {
    /// On a veth whose other end takes XDP frames, bursts by the XDP program (Linux 6.3); all else over the ring.
    #[default]
    Auto,
    /// Over the socket's TX ring alone.
    Ring,
}

/// How to open an interface.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device's name.
    pub interface: String,
    /// Which of its traffic is the engine's.
    pub claim: Claim,
    /// 802.1Q VLAN the engine's frames are tagged with; `None` for untagged ones.
    pub vlan_id: Option<u16>,
    /// Where the program runs.
    pub mode: ModeChoice,
    /// Whether an engine of ours is at the other end, not a kernel: only then is generic mode safe on a veth, where it
    /// leaves the peer's segmentation offload on.
    pub peer_is_engine: bool,
    /// Zero-copy or not.
    pub zerocopy: ZerocopyChoice,
    /// How frames leave in copy mode.
    pub transmit: TransmitChoice,
    /// Whether the XDP program stamps each frame with the time of its arrival ([`Frame::stamp`]), where the driver has room
    /// for that. It takes the kernel some time for every frame.
    ///
    /// [`Frame::stamp`]: syncline_engine::device::Frame::stamp
    pub stamps: bool,
    /// Queues to bind, from 0 on. Default 1.
    pub queues: u32,
    /// Whether the device steers the engine's flows to the bound queues by itself, so that others may stay unbound.
    pub steered: bool,
    /// Whether a device that carries a default route may be taken.
    pub allow_default_route: bool,
    /// Buffers per queue. Default 16384; a power of two, at least `receive_ring` and four times `transmit_ring` together.
    pub frames: u32,
    /// Entries of a queue's RX and fill rings: what may arrive while the engine's core is away. More of them are more
    /// memory to go around in, which the caches feel. Default 2048; a power of two.
    pub receive_ring: u32,
    /// Entries of a queue's TX and completion rings. Default 2048; a power of two.
    pub transmit_ring: u32,
    /// Octets per buffer, 2048 or 4096, 256 of which are the kernel's headroom. Default: what the MTU asks for.
    pub chunk_bytes: Option<u32>,
}

impl Options {
    /// Defaults for `interface`.
    pub fn new(interface: impl Into<String>, claim: Claim) -> Self {
        Self {
            interface: interface.into(),
            claim,
            vlan_id: None,
            mode: ModeChoice::Auto,
            peer_is_engine: false,
            zerocopy: ZerocopyChoice::Auto,
            transmit: TransmitChoice::Auto,
            stamps: false,
            queues: 1,
            steered: false,
            allow_default_route: false,
            frames: 16_384,
            receive_ring: 2_048,
            transmit_ring: 2_048,
            chunk_bytes: None,
        }
    }
}
