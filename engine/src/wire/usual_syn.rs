//! The SYN with which nearly every connection begins, written over one that was made before.

use std::net::{IpAddr, Ipv4Addr};

use super::addr::MacAddr;
use super::checksum::Sum;
use super::emit::OutSegment;
use super::ethernet::Link;
use super::ip::{Ecn, protocol};
use super::seq::Seq;
use super::tcp::Flags;
use super::tcp_options::{OFFER_LEN, Offer, TcpOptions, Timestamps};
use super::usual::{USUAL_IP, USUAL_LEN, USUAL_TCP};

/// Where the value of its timestamp option begins, after MSS and the heads of two options.
const TIMESTAMPS: usize = USUAL_LEN + 8;
const IP_CHECKSUM: usize = USUAL_IP + 10;
const TCP_CHECKSUM: usize = USUAL_TCP + 16;

/// A SYN or SYN-ACK of a worker that offers everything, over IPv4 on a link without VLAN. What differs from one to the next is
/// zero in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsualSyn {
    octets: [u8; Self::LEN],
    /// The sum of the IPv4 header in it, and that of the TCP header with the rest of the pseudo-header.
    ip_sum: Sum,
    tcp_sum: Sum,
}

/// What differs from one to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SynFields {
    /// The station it goes to.
    pub(crate) station: MacAddr,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) timestamps: Timestamps,
}

impl UsualSyn {
    /// Octets of the frame.
    pub(crate) const LEN: usize = USUAL_LEN + OFFER_LEN;

    /// From the station `source`, with all that is always the same. MSS in octets; `window` is not scaled.
    pub(crate) fn new(
        source: MacAddr,
        (hop_limit, dscp): (u8, u8),
        window: u16,
        (mss, window_scale): (u16, u8),
    ) -> Self {
        let segment = OutSegment {
            link: Link { source, destination: MacAddr([0; 6]), vlan: None },
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            source_port: 0,
            destination_port: 0,
            seq: Seq(0),
            ack: Seq(0),
            flags: Flags::NONE,
            window,
            urgent_pointer: 0,
            hop_limit,
            dscp,
            ecn: Ecn::NotCapable,
            options: TcpOptions::offering(Offer { mss, window_scale, timestamps: Timestamps::default() }),
        };
        let mut octets = [0; Self::LEN];
        let len = segment.emit(&mut octets, 0);
        debug_assert_eq!(len, Ok(Self::LEN));
        octets[IP_CHECKSUM..IP_CHECKSUM + 2].fill(0);
        octets[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        let pseudo = Sum::ZERO.add_u16(protocol::TCP.into()).add_u16((Self::LEN - USUAL_TCP) as u16);
        Self { ip_sum: Sum::of(&octets[USUAL_IP..USUAL_TCP]), tcp_sum: pseudo.add_octets(&octets[USUAL_TCP..]), octets }
    }

    /// Writes one. The sums are taken over the fields: reading back octets just written would stall.
    #[inline(always)]
    pub(crate) fn emit(&self, frame: &mut [u8; Self::LEN], fields: &SynFields) {
        let SynFields { station, source, destination, source_port, destination_port, seq, ack, flags, timestamps } =
            *fields;
        let ports = u32::from(source_port) << 16 | u32::from(destination_port);
        let addresses = Sum::ZERO.add_u32(source.to_bits()).add_u32(destination.to_bits());
        let ip_checksum = self.ip_sum.plus(addresses).checksum();
        //= RFC 9293 MUST-2
        let tcp_checksum = self
            .tcp_sum
            .plus(addresses)
            .add_u32(ports)
            .add_u32(seq.0)
            .add_u32(ack.0)
            .add_u16(flags.bits().into())
            .add_u32(timestamps.value)
            .add_u32(timestamps.echo)
            .checksum();
        *frame = self.octets;
        frame[..6].copy_from_slice(&station.0);
        frame[IP_CHECKSUM..IP_CHECKSUM + 2].copy_from_slice(&ip_checksum.to_be_bytes());
        frame[USUAL_IP + 12..USUAL_IP + 16].copy_from_slice(&source.octets());
        frame[USUAL_IP + 16..USUAL_TCP].copy_from_slice(&destination.octets());
        frame[USUAL_TCP..USUAL_TCP + 4].copy_from_slice(&ports.to_be_bytes());
        frame[USUAL_TCP + 4..USUAL_TCP + 8].copy_from_slice(&seq.0.to_be_bytes());
        frame[USUAL_TCP + 8..USUAL_TCP + 12].copy_from_slice(&ack.0.to_be_bytes());
        frame[USUAL_TCP + 13] = flags.bits();
        frame[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&tcp_checksum.to_be_bytes());
        frame[TIMESTAMPS..TIMESTAMPS + 4].copy_from_slice(&timestamps.value.to_be_bytes());
        frame[TIMESTAMPS + 4..TIMESTAMPS + 8].copy_from_slice(&timestamps.echo.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples::{self, LINK, XorShift};

    #[test]
    fn it_is_octet_for_octet_that_of_the_general_road() {
        let mut random = XorShift::new(9293);
        let mut word = samples::words(&mut random);
        for _ in 0..20_000 {
            let (timestamps, mss) = (Timestamps { value: word(), echo: word() }, word() as u16);
            let window_scale = (word() % 15) as u8;
            let offer = Offer { mss, window_scale, timestamps };
            let segment = samples::any_segment_v4(&mut word, TcpOptions::offering(offer));
            let (IpAddr::V4(source), IpAddr::V4(destination)) = (segment.source, segment.destination) else { panic!() };
            let fields = SynFields {
                station: LINK.destination,
                source,
                destination,
                source_port: segment.source_port,
                destination_port: segment.destination_port,
                seq: segment.seq,
                ack: segment.ack,
                flags: segment.flags,
                timestamps,
            };
            let worker = (segment.hop_limit, segment.dscp);
            let syn = UsualSyn::new(LINK.source, worker, segment.window, (mss, window_scale));
            let mut frame = [0xee; UsualSyn::LEN];
            syn.emit(&mut frame, &fields);
            assert_eq!(frame[..], samples::build(&segment, b"")[..], "{segment:?}");
        }
    }
}
