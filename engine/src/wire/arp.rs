//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::addr::MacAddr;
use super::drop_reason::DropReason;

/// Octets of a packet.
pub const PACKET_LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const PREAMBLE: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet asks or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: ArpOperation,
    /// Hardware address of whoever sent it: one station's, else the packet is refused.
    pub sender_mac: MacAddr,
    /// IP address of whoever sent it; unspecified in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// Hardware address that is asked for (zero) or told to.
    pub target_mac: MacAddr,
    /// IP address that is asked for or told to.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads a packet. Octets after it are the frame's padding.
    ///
    /// # Errors
    /// [`DropReason::BadArp`].
    pub fn parse(octets: &[u8]) -> Result<Self, DropReason> {
        let packet = octets.first_chunk::<PACKET_LEN>().ok_or(DropReason::BadArp)?;
        if packet[..6] != PREAMBLE {
            return Err(DropReason::BadArp);
        }
        let operation = match packet[6..8] {
            [0, 1] => ArpOperation::Request,
            [0, 2] => ArpOperation::Reply,
            _ => return Err(DropReason::BadArp),
        };
        let mac = |at: usize| MacAddr(core::array::from_fn(|i| packet[at + i]));
        let ip = |at: usize| Ipv4Addr::from(core::array::from_fn::<u8, 4, _>(|i| packet[at + i]));
        let sender_mac = mac(8);
        let sender = ip(14);
        if !sender_mac.is_unicast() || sender.is_multicast() || sender.is_broadcast() {
            return Err(DropReason::BadArp);
        }
        Ok(Self { operation, sender_mac, sender, target_mac: mac(18), target: ip(24) })
    }

    /// The packet's octets.
    pub fn to_octets(&self) -> [u8; PACKET_LEN] {
        let mut packet = [0; PACKET_LEN];
        packet[..6].copy_from_slice(&PREAMBLE);
        packet[7] = match self.operation {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
        };
        packet[8..14].copy_from_slice(&self.sender_mac.0);
        packet[14..18].copy_from_slice(&self.sender.octets());
        packet[18..24].copy_from_slice(&self.target_mac.0);
        packet[24..].copy_from_slice(&self.target.octets());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: ArpPacket = ArpPacket {
        operation: ArpOperation::Request,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender: Ipv4Addr::new(192, 0, 2, 1),
        target_mac: MacAddr::ZERO,
        target: Ipv4Addr::new(192, 0, 2, 2),
    };

    #[test]
    fn round_trip_and_every_prefix() {
        for operation in [ArpOperation::Request, ArpOperation::Reply] {
            let packet = ArpPacket { operation, ..REQUEST };
            let octets = packet.to_octets();
            assert_eq!(ArpPacket::parse(&octets), Ok(packet));
            for len in 0..octets.len() {
                assert_eq!(ArpPacket::parse(&octets[..len]), Err(DropReason::BadArp));
            }
        }
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_is_refused() {
        for at in 0..8 {
            let mut octets = REQUEST.to_octets();
            octets[at] ^= 0x40;
            assert_eq!(ArpPacket::parse(&octets), Err(DropReason::BadArp), "octet {at}");
        }
    }

    #[test]
    fn no_group_speaks() {
        for sender_mac in [MacAddr::BROADCAST, MacAddr::ZERO] {
            assert_eq!(ArpPacket::parse(&ArpPacket { sender_mac, ..REQUEST }.to_octets()), Err(DropReason::BadArp));
        }
        for sender in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
            assert_eq!(ArpPacket::parse(&ArpPacket { sender, ..REQUEST }.to_octets()), Err(DropReason::BadArp));
        }
    }
}
