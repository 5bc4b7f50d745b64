//! Why a frame was dropped: one name for the verdict, its counter and its label in reports.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident => $name:literal,)+) => {
        /// Why the engine dropped a frame, or did not send one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of [`index`](DropReason::index).
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in reports, in snake case. Stable.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends within its Ethernet header or its tag.
    TruncatedEthernet => "truncated_ethernet",
    /// The frame has a tag and none is expected, has none and one is, or has that of another VLAN.
    BadVlan => "bad_vlan",
    /// The frame is for another station's hardware address.
    NotForUsMac => "not_for_us_mac",
    /// A TCP segment or an IPv4 packet to one host in a frame to a group of stations (RFC 1122 §3.3.6), or a frame from
    /// one.
    GroupMac => "group_mac",
    /// The frame carries neither IPv4, IPv6 nor ARP.
    UnknownEthertype => "unknown_ethertype",
    /// The frame ends within the IP header.
    TruncatedIp => "truncated_ip",
    /// The IP version is not the one that the EtherType announces.
    BadIpVersion => "bad_ip_version",
    /// The IPv4 header length is below 20 octets or beyond the packet.
    BadIpHeaderLength => "bad_ip_header_length",
    /// The IP packet claims more octets than the frame has, or fewer than its header.
    BadIpTotalLength => "bad_ip_total_length",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum => "bad_ip_checksum",
    /// An IPv6 extension header is malformed, out of place, or says that who does not know it must discard.
    BadIpExtension => "bad_ip_extension",
    /// A fragment that does not fit the others of its packet, or a packet given up before all of it had come.
    Fragment => "fragment",
    /// The packet carries neither TCP nor ICMP.
    UnknownProtocol => "unknown_protocol",
    /// The source address is a group, loopback, or unspecified (RFC 9293 MUST-63).
    InvalidSource => "invalid_source",
    /// The destination address is a group, loopback or unspecified (RFC 9293 MUST-57).
    InvalidDestination => "invalid_destination",
    /// The packet ends within the TCP header.
    TruncatedTcp => "truncated_tcp",
    /// The TCP data offset is below 20 octets or beyond the segment.
    BadTcpDataOffset => "bad_tcp_data_offset",
    /// The TCP checksum is wrong.
    BadTcpChecksum => "bad_tcp_checksum",
    /// The packet ends within the ICMP header.
    TruncatedIcmp => "truncated_icmp",
    /// The ICMP checksum is wrong.
    BadIcmpChecksum => "bad_icmp_checksum",
    /// An ICMP error whose quoted packet cannot be told to belong to a TCP connection.
    BadIcmpQuote => "bad_icmp_quote",
    /// An ICMP message that the engine has no use for.
    IgnoredIcmp => "ignored_icmp",
    /// The ARP packet is truncated, not for IPv4 over Ethernet, or neither request nor reply.
    BadArp => "bad_arp",
    /// A neighbour discovery message that fails the checks of RFC 4861 §7.1.
    BadNdp => "bad_ndp",
    /// The destination is none of the engine's addresses.
    NotOurAddress => "not_our_address",
    /// A segment for a connection that does not exist, at a port where nobody listens.
    NoListener => "no_listener",
    /// A segment that no connection and no listener has a use for.
    NoFlow => "no_flow",
    /// A segment of a connection without the ACK bit (RFC 9293 §3.10.7.4, fifth step).
    NoAck => "no_ack",
    /// A segment without timestamps of a connection that agreed on them (RFC 7323 §3.2).
    NoTimestamp => "no_timestamp",
    /// There is no room for another connection.
    TableFull => "table_full",
    /// A SYN of a prefix of sources that has too many half-open connections.
    PrefixLimited => "prefix_limited",
    /// A frame to send whose next hop did not resolve.
    NeighborUnresolved => "neighbor_unresolved",
    /// A frame to send for which the device had no buffer or no room.
    TxFull => "tx_full",
    /// A frame for another worker, which had no room for it.
    HandoverFull => "handover_full",
    /// A reset that was not sent because too many were.
    RstRateLimited => "rst_rate_limited",
    /// An ICMP reply that was not sent because too many were.
    IcmpRateLimited => "icmp_rate_limited",
}

impl DropReason {
    /// The reason's place in a table of [`COUNT`](DropReason::COUNT) counters.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

const _: () = assert!(DropReason::COUNT <= 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_variants_in_snake_case() {
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            let mut snake = String::new();
            for c in format!("{reason:?}").chars() {
                if c.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            assert_eq!(reason.name(), snake);
            assert_eq!(reason.index(), index);
        }
    }
}
