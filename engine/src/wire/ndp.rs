//! Neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4).

use std::net::Ipv6Addr;

use super::addr::MacAddr;
use super::drop_reason::DropReason;
use super::ipv6;

/// Octets of either message without options.
const FIXED_LEN: usize = 24;
/// Octets of either message with the one option that is sent.
pub const MESSAGE_LEN: usize = FIXED_LEN + 8;

/// The hop limit of every neighbour discovery packet: proof that no router has passed it on (RFC 4861 §7.1).
pub const HOP_LIMIT: u8 = 255;

pub(crate) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(crate) const NEIGHBOR_ADVERTISEMENT: u8 = 136;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Who has the target address?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// The station that sent the frame.
    pub source_mac: MacAddr,
    /// Who asks; unspecified if it asks whether the address is free (RFC 4862 §5.4).
    pub source: Ipv6Addr,
    /// The address that is asked for.
    pub target: Ipv6Addr,
    /// The hardware address of who asks, if it is told.
    pub source_link_layer: Option<MacAddr>,
}

/// The sender has the target address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// Who tells.
    pub source: Ipv6Addr,
    /// The address it has.
    pub target: Ipv6Addr,
    /// The hardware address of it, if it is told.
    pub target_link_layer: Option<MacAddr>,
    /// Whether the sender is a router.
    pub router: bool,
    /// Whether this answers a solicitation.
    pub solicited: bool,
    /// Whether it overrides what is cached.
    pub overrides: bool,
}

/// The addresses and hop limit of the packet around a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    pub(crate) source_mac: MacAddr,
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) hop_limit: u8,
}

impl NeighborSolicitation {
    /// Reads a solicitation whose checksum is right, with the checks of RFC 4861 §7.1.1.
    pub(crate) fn parse(message: &[u8], envelope: &Envelope) -> Result<Self, DropReason> {
        let (_, target, options) = fixed_part(message, envelope)?;
        let source_link_layer = link_layer_option(options, SOURCE_LINK_LAYER)?;
        let probes = envelope.source.is_unspecified();
        if probes && (source_link_layer.is_some() || envelope.destination != ipv6::solicited_node(target)) {
            return Err(DropReason::BadNdp);
        }
        if !probes && !ipv6::is_valid_source(envelope.source) {
            return Err(DropReason::InvalidSource);
        }
        Ok(Self { source_mac: envelope.source_mac, source: envelope.source, target, source_link_layer })
    }

    /// The message's octets, its checksum field zero. An unspecified source sends no address of its own.
    pub(crate) fn emit<'m>(&self, message: &'m mut [u8; MESSAGE_LEN]) -> &'m [u8] {
        message[..8].copy_from_slice(&[NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0]);
        emit_target(message, self.target, SOURCE_LINK_LAYER, self.source_link_layer)
    }
}

impl NeighborAdvertisement {
    /// Reads an advertisement whose checksum is right, with the checks of RFC 4861 §7.1.2.
    pub(crate) fn parse(message: &[u8], envelope: &Envelope) -> Result<Self, DropReason> {
        let (flags, target, options) = fixed_part(message, envelope)?;
        if !ipv6::is_valid_source(envelope.source) {
            return Err(DropReason::InvalidSource);
        }
        let solicited = flags & SOLICITED != 0;
        if solicited && envelope.destination.is_multicast() {
            return Err(DropReason::BadNdp);
        }
        Ok(Self {
            source: envelope.source,
            target,
            target_link_layer: link_layer_option(options, TARGET_LINK_LAYER)?,
            router: flags & ROUTER != 0,
            solicited,
            overrides: flags & OVERRIDE != 0,
        })
    }

    /// The message's octets, its checksum field zero.
    pub(crate) fn emit<'m>(&self, message: &'m mut [u8; MESSAGE_LEN]) -> &'m [u8] {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = bit(self.router, ROUTER) | bit(self.solicited, SOLICITED) | bit(self.overrides, OVERRIDE);
        message[..8].copy_from_slice(&[NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        emit_target(message, self.target, TARGET_LINK_LAYER, self.target_link_layer)
    }
}

/// The octet of flags, the target and the options, after the checks that both messages share.
fn fixed_part<'m>(message: &'m [u8], envelope: &Envelope) -> Result<(u8, Ipv6Addr, &'m [u8]), DropReason> {
    let (fixed, options) = message.split_first_chunk::<FIXED_LEN>().ok_or(DropReason::TruncatedIcmp)?;
    let target = Ipv6Addr::from(core::array::from_fn::<u8, 16, _>(|i| fixed[8 + i]));
    //= RFC 4861 7.1.1-MUST-1, 7.1.2-MUST-1
    if envelope.hop_limit != HOP_LIMIT || fixed[1] != 0 || !ipv6::is_valid_destination(target) {
        return Err(DropReason::BadNdp);
    }
    Ok((fixed[4], target, options))
}

/// The station that the option of this kind names. Every option must have a length, and lie within the message.
//= RFC 4861 7.1.1-MUST-2
fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        let option = options.get(..len).filter(|option| !option.is_empty()).ok_or(DropReason::BadNdp)?;
        if let [_, _, a, b, c, d, e, f] = *option
            && kind == wanted
        {
            let mac = MacAddr([a, b, c, d, e, f]);
            if !mac.is_unicast() {
                return Err(DropReason::BadNdp);
            }
            found = Some(mac);
        }
        options = &options[len..];
    }
    if options.is_empty() { Ok(found) } else { Err(DropReason::BadNdp) }
}

fn emit_target(message: &mut [u8; MESSAGE_LEN], target: Ipv6Addr, option: u8, mac: Option<MacAddr>) -> &[u8] {
    message[8..FIXED_LEN].copy_from_slice(&target.octets());
    let Some(mac) = mac else { return &message[..FIXED_LEN] };
    message[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&[option, 1]);
    message[FIXED_LEN + 2..].copy_from_slice(&mac.0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const THEM: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn envelope() -> Envelope {
        Envelope { source_mac: MAC, source: THEM, destination: US, hop_limit: HOP_LIMIT }
    }

    fn solicitation() -> NeighborSolicitation {
        NeighborSolicitation { source_mac: MAC, source: THEM, target: US, source_link_layer: Some(MAC) }
    }

    fn advertisement() -> NeighborAdvertisement {
        NeighborAdvertisement {
            source: THEM,
            target: THEM,
            target_link_layer: Some(MAC),
            router: false,
            solicited: true,
            overrides: true,
        }
    }

    #[test]
    fn round_trips_and_every_prefix() {
        let mut octets = [0; MESSAGE_LEN];
        let message = solicitation().emit(&mut octets);
        assert_eq!(NeighborSolicitation::parse(message, &envelope()), Ok(solicitation()));
        for len in (0..message.len()).filter(|&len| len != FIXED_LEN) {
            assert!(NeighborSolicitation::parse(&message[..len], &envelope()).is_err(), "{len}");
        }
        let mut octets = [0; MESSAGE_LEN];
        let message = advertisement().emit(&mut octets);
        assert_eq!(NeighborAdvertisement::parse(message, &envelope()), Ok(advertisement()));
        for len in (0..message.len()).filter(|&len| len != FIXED_LEN) {
            assert!(NeighborAdvertisement::parse(&message[..len], &envelope()).is_err(), "{len}");
        }
        let bare = NeighborAdvertisement { target_link_layer: None, ..advertisement() };
        assert_eq!(NeighborAdvertisement::parse(&message[..FIXED_LEN], &envelope()), Ok(bare));
    }

    #[test]
    fn a_probe_for_a_free_address_names_no_station() {
        let probe = NeighborSolicitation { source: Ipv6Addr::UNSPECIFIED, source_link_layer: None, ..solicitation() };
        let to_group = Envelope { source: Ipv6Addr::UNSPECIFIED, destination: ipv6::solicited_node(US), ..envelope() };
        let mut octets = [0; MESSAGE_LEN];
        assert_eq!(NeighborSolicitation::parse(probe.emit(&mut octets), &to_group), Ok(probe));
        let to_us = Envelope { destination: US, ..to_group };
        assert_eq!(NeighborSolicitation::parse(probe.emit(&mut octets), &to_us), Err(DropReason::BadNdp));
        assert_eq!(NeighborSolicitation::parse(solicitation().emit(&mut octets), &to_group), Err(DropReason::BadNdp));
    }

    #[test]
    fn what_a_router_passed_on_is_refused() {
        let mut octets = [0; MESSAGE_LEN];
        //= RFC 4861 7.1.1-MUST-1, 7.1.2-MUST-1
        let from_afar = Envelope { hop_limit: 254, ..envelope() };
        assert_eq!(NeighborSolicitation::parse(solicitation().emit(&mut octets), &from_afar), Err(DropReason::BadNdp));
        assert_eq!(
            NeighborAdvertisement::parse(advertisement().emit(&mut octets), &from_afar),
            Err(DropReason::BadNdp)
        );
        let to_group = Envelope { destination: "ff02::1".parse().unwrap(), ..envelope() };
        assert_eq!(NeighborAdvertisement::parse(advertisement().emit(&mut octets), &to_group), Err(DropReason::BadNdp));
    }

    #[test]
    fn options_must_have_a_length() {
        let mut octets = [0; MESSAGE_LEN];
        solicitation().emit(&mut octets);
        octets[FIXED_LEN + 1] = 0;
        assert_eq!(NeighborSolicitation::parse(&octets, &envelope()), Err(DropReason::BadNdp));
        octets[FIXED_LEN + 1] = 2;
        assert_eq!(NeighborSolicitation::parse(&octets, &envelope()), Err(DropReason::BadNdp));
    }
}
