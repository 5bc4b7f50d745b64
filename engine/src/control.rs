//! What is not TCP: ARP, neighbour discovery, ICMP (RFC 826, RFC 4861, RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::app::{App, End, Report};
use crate::device::Device;
use crate::flow::{FlowKey, Kind};
use crate::neighbor::NeighborEvent;
use crate::tcp::{FlowId, Tcp, Tx};
use crate::wire::arp::{ArpOperation, ArpPacket};
use crate::wire::fragment::Piece;
use crate::wire::icmp::{
    ECHO_REPLY, EchoRequest, IcmpError, IcmpErrorKind, V6_ECHO_REPLY, icmp_protocol, pseudo_header,
};
use crate::wire::ip::header_len;
use crate::wire::ndp::{NeighborAdvertisement, NeighborSolicitation};
use crate::wire::objection::Objection;
use crate::wire::{DropReason, Ends, MacAddr, Parsed, TcpSegment, emit, ipv6};

/// Largest ARP or neighbour discovery frame, octets, tag included.
const FRAME_MAX: usize = 128;

impl Tcp {
    /// An ARP packet: a request for one of our addresses is answered, a reply may end somebody's wait.
    pub(crate) fn arp<D: Device>(&mut self, tx: &mut Tx<'_, D>, packet: &ArpPacket) {
        if self.shared {
            return;
        }
        let owned = self.locals.number(IpAddr::V4(packet.target)).is_some();
        let sender = IpAddr::V4(packet.sender);
        if self.locals.number(sender).is_some() || !owned {
            // somebody else's, or our own request that came back
            self.stats.dropped.count(DropReason::NotOurAddress);
            return self.learn_arp(packet);
        }
        if packet.operation == ArpOperation::Request {
            let reply = ArpPacket {
                operation: ArpOperation::Reply,
                sender_mac: tx.mac,
                sender: packet.target,
                target_mac: packet.sender_mac,
                target: packet.sender,
            };
            let link = tx.link(packet.sender_mac);
            if tx.frame(FRAME_MAX, |out| emit::arp(out, &link, &reply).ok()) {
                self.stats.neighbor_replies.increment();
            }
        }
        self.learn_arp(packet);
    }

    /// Takes in who an ARP packet comes from. One that is not for us makes no entry (RFC 826): it may show that a
    /// neighbour has moved.
    pub(crate) fn learn_arp(&mut self, packet: &ArpPacket) {
        let sender = IpAddr::V4(packet.sender);
        let on_link = packet.sender.is_unspecified() || self.locals.on_link(sender);
        if self.locals.number(IpAddr::V4(packet.target)).is_none() {
            if on_link && self.locals.number(sender).is_none() {
                self.neighbors.doubt(sender, Some(packet.sender_mac), self.now);
            }
        } else if on_link && self.neighbors.on_arp(packet, self.now).is_some() {
            self.wake_unresolved();
        }
    }

    /// Hands a segment's frame to the worker that owns its flow. False if that is this one.
    #[inline]
    pub(crate) fn hand_over(&mut self, segment: &TcpSegment, frame: &[u8]) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        let owner = exchange.owner(&segment.flow_key());
        if owner == exchange.index() {
            return false;
        }
        self.stats.wrong_core.increment();
        if exchange.hand_over(owner, frame) {
            self.stats.handed_over.increment();
        } else {
            self.stats.dropped.count(DropReason::HandoverFull);
        }
        true
    }

    /// Whether this worker owns the flow of a segment of the usual kind. False if it takes more to know.
    #[inline(always)]
    pub(crate) fn surely_owns(&self, ends: Ends) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.surely_owns(ends.addresses, ends.ports))
    }

    /// Shows the other workers what concerns all of them: where a neighbour is, what a router reports.
    pub(crate) fn tell_others(&mut self, parsed: &Parsed, frame: &[u8]) {
        let Some(exchange) = &self.exchange else { return };
        if matches!(parsed, Parsed::Arp(_) | Parsed::NeighborAdvertisement(_) | Parsed::IcmpError(_)) {
            for _ in 0..exchange.hand_to_all(frame) {
                self.stats.dropped.count(DropReason::HandoverFull);
            }
        }
    }

    /// A neighbour solicitation for one of our addresses, duplicate address detection included (RFC 4862 §5.4.3).
    //= RFC 4861 7.2.4-MUST-1
    pub(crate) fn neighbor_solicitation<D: Device>(&mut self, tx: &mut Tx<'_, D>, asked: &NeighborSolicitation) {
        if self.shared || self.locals.number(IpAddr::V6(asked.target)).is_none() {
            return self.stats.dropped.count(DropReason::NotOurAddress);
        }
        let detection = asked.source.is_unspecified();
        let answer = NeighborAdvertisement {
            source: asked.target,
            target: asked.target,
            router: false,
            solicited: !detection,
            overrides: true,
            target_link_layer: Some(tx.mac),
        };
        //= RFC 4861 7.2.4-MUST-2
        let (to, mac) = if detection {
            (ipv6::ALL_NODES, MacAddr([0x33, 0x33, 0, 0, 0, 1]))
        } else {
            (asked.source, asked.source_link_layer.unwrap_or(asked.source_mac))
        };
        let link = tx.link(mac);
        if tx.frame(FRAME_MAX, |out| emit::neighbor_advertisement(out, &link, to, &answer).ok()) {
            self.stats.neighbor_replies.increment();
        }
        if self.locals.on_link(IpAddr::V6(asked.source)) && self.neighbors.on_solicitation(asked, self.now).is_some() {
            self.wake_unresolved();
        }
    }

    /// A neighbour advertisement.
    pub(crate) fn neighbor_advertisement(&mut self, told: &NeighborAdvertisement) {
        if self.neighbors.on_advertisement(told, self.now).is_some() {
            self.wake_unresolved();
        }
    }

    /// An echo request is answered, within the limit.
    //= RFC 1122 3.2.2.6-MUST-1, 3.2.2.6-MAY-1
    pub(crate) fn echo<D: Device>(&mut self, tx: &mut Tx<'_, D>, request: &EchoRequest, frame: &[u8]) {
        if self.shared || self.locals.number(request.destination).is_none() {
            return self.stats.dropped.count(DropReason::NotOurAddress);
        }
        if !self.is_one_other_host(request.source) {
            return self.stats.dropped.count(DropReason::InvalidSource);
        }
        if !self.icmp.allow(self.now) {
            self.stats.icmp_limited.increment();
            return self.stats.dropped.count(DropReason::IcmpRateLimited);
        }
        let start = usize::from(request.message_offset);
        let Some(message) = frame.get(start..start + usize::from(request.message_len)) else { return };
        let (link, hop_limit) = (tx.link(request.source_mac), self.config.hop_limit);
        if message.len() + header_len(request.source) > usize::from(self.mtu) {
            return self.echo_in_fragments(tx, request, message);
        }
        let sent = tx.frame(frame.len(), |out| {
            emit::echo_reply(out, &link, request.destination, request.source, hop_limit, message).ok()
        });
        if sent {
            self.stats.echo_replies.increment();
        }
    }

    /// The answer to an echo request that was itself put together from fragments (RFC 1122 §3.2.2.6).
    fn echo_in_fragments<D: Device>(&mut self, tx: &mut Tx<'_, D>, request: &EchoRequest, message: &[u8]) {
        let (source, destination) = (request.destination, request.source);
        let Some((head, body)) = message.split_first_chunk::<4>() else { return };
        let kind = if source.is_ipv6() { V6_ECHO_REPLY } else { ECHO_REPLY };
        let pseudo = pseudo_header(source, destination, message.len());
        let sum = pseudo.add_u16(u16::from_be_bytes([kind, head[1]])).add_octets(body);
        let Some(local) = self.locals.number(source) else { return };
        let offset = self.timestamp_offset(local, destination);
        let mut piece = Piece {
            source,
            destination,
            identification: offset.wrapping_add(self.stats.echo_replies.get() as u32),
            protocol: icmp_protocol(source),
            hop_limit: self.config.hop_limit,
            offset: 0,
            more: true,
            octets: &[],
        };
        let room = usize::from(self.mtu).saturating_sub(piece.headers_len()) & !7;
        let link = tx.link(request.source_mac);
        for octets in message.chunks(room.max(8)) {
            (piece.octets, piece.more) = (octets, piece.offset + octets.len() < message.len());
            let sent = tx.frame(usize::from(self.mtu) + link.header_len(), |out| {
                let len = piece.emit(out, &link).ok()?;
                if piece.offset == 0 {
                    let [a, b] = sum.checksum().to_be_bytes();
                    let start = link.header_len() + piece.headers_len();
                    out.get_mut(start..start + 4)?.copy_from_slice(&[kind, head[1], a, b]);
                }
                Some(len)
            });
            if !sent {
                return;
            }
            piece.offset += octets.len();
        }
        self.stats.echo_replies.increment();
    }

    /// Whether an address is that of one host, and not ours: nobody else is answered (RFC 1122 §3.2.1.3, §3.2.2).
    fn is_one_other_host(&self, address: IpAddr) -> bool {
        !self.locals.is_broadcast(address) && self.locals.number(address).is_none()
    }

    /// Sends an ICMP error, within the limit.
    pub(crate) fn object<D: Device>(&mut self, tx: &mut Tx<'_, D>, objection: &Objection<'_>) {
        let told = self.locals.number(objection.source).is_some() && self.is_one_other_host(objection.destination);
        if self.shared || !told {
            return;
        }
        if !self.icmp.allow(self.now) {
            return self.stats.icmp_limited.increment();
        }
        let (link, hop_limit) = (tx.link(objection.station), self.config.hop_limit);
        if tx.frame(objection.frame_len(&link), |out| objection.emit(out, &link, hop_limit).ok()) {
            self.stats.icmp_errors_sent.increment();
        }
    }

    /// Whether fragments to `address` are ours to put together.
    pub(crate) fn takes_fragments_to(&self, address: IpAddr) -> bool {
        !self.shared && self.locals.number(address).is_some()
    }

    /// An ICMP error about a segment of ours. Believed only if it quotes what is in flight (RFC 5927 §4.1); an open
    /// connection is never ended by one (RFC 5927 §5.2, RFC 9293 §3.9.2.2).
    //= RFC 9293 MUST-54
    //= RFC 1122 3.2.2.1-MUST-1
    pub(crate) fn icmp_error<A: App>(&mut self, app: &mut A, error: &IcmpError) {
        let quoted = &error.quoted;
        let Some(local) = self.locals.number(quoted.source) else {
            return self.stats.dropped.count(DropReason::NotOurAddress);
        };
        let hash = self.hash_key(&FlowKey {
            local: quoted.source,
            remote: quoted.destination,
            local_port: quoted.source_port,
            remote_port: quoted.destination_port,
        });
        let flow = FlowId {
            remote: quoted.destination,
            local,
            remote_port: quoted.destination_port,
            local_port: quoted.source_port,
        };
        let Some((Kind::Connection, id)) = self.find(hash, &flow) else {
            return self.stats.dropped.count(DropReason::NoFlow);
        };
        if !self.quotes_flight(id, quoted.seq) {
            return self.stats.dropped.count(DropReason::IgnoredIcmp);
        }
        self.stats.icmp_errors.increment();
        match error.kind {
            IcmpErrorKind::Unreachable(what) if self.opening(id) && !what.is_soft() => {
                self.remove(app, id, End::Unreachable)
            }
            // RFC 8201 §4: every IPv6 link carries 1280, so that a smaller figure is none
            //= RFC 8201 4-MUST-2
            IcmpErrorKind::PacketTooBig { mtu } if quoted.destination.is_ipv6() && mtu < ipv6::MTU_MIN => {
                self.stats.dropped.count(DropReason::IgnoredIcmp);
            }
            IcmpErrorKind::PacketTooBig { mtu } => self.packet_too_big(id, mtu),
            //= RFC 9293 MUST-47, MUST-56, SHLD-25, SHLD-26
            //= RFC 5927 5.2-SHOULD-1
            soft => self.report(app, id, Report::Icmp(soft)),
        }
    }

    /// Sends what the neighbour table asks for.
    pub(crate) fn solicit<D: Device>(&mut self, tx: &mut Tx<'_, D>) {
        while let Some(event) = self.neighbors.poll(self.now) {
            match event {
                NeighborEvent::Solicit { address: IpAddr::V4(address), station } => {
                    self.request_arp(tx, address, station);
                }
                NeighborEvent::Solicit { address: IpAddr::V6(address), station } => {
                    self.request_ndp(tx, address, station);
                }
                NeighborEvent::Failed { .. } => self.wake_unresolved(),
            }
        }
    }

    fn request_arp<D: Device>(&mut self, tx: &mut Tx<'_, D>, target: Ipv4Addr, station: Option<MacAddr>) {
        let Some(IpAddr::V4(sender)) = self.locals.source_for(IpAddr::V4(target)) else { return };
        let request = ArpPacket {
            operation: ArpOperation::Request,
            sender_mac: tx.mac,
            sender,
            target_mac: MacAddr::ZERO,
            target,
        };
        let link = tx.link(station.unwrap_or(MacAddr::BROADCAST));
        if tx.frame(FRAME_MAX, |out| emit::arp(out, &link, &request).ok()) {
            self.stats.neighbor_requests.increment();
        }
    }

    fn request_ndp<D: Device>(&mut self, tx: &mut Tx<'_, D>, target: Ipv6Addr, station: Option<MacAddr>) {
        let Some(IpAddr::V6(source)) = self.locals.source_for(IpAddr::V6(target)) else { return };
        let solicitation = NeighborSolicitation { source_mac: tx.mac, source, target, source_link_layer: Some(tx.mac) };
        let group = ipv6::solicited_node(target);
        let [.., a, b, c, d] = group.octets();
        let (to, mac) = match station {
            Some(mac) => (target, mac),
            None => (group, MacAddr([0x33, 0x33, a, b, c, d])),
        };
        let link = tx.link(mac);
        if tx.frame(FRAME_MAX, |out| emit::neighbor_solicitation(out, &link, to, &solicitation).ok()) {
            self.stats.neighbor_requests.increment();
        }
    }
}
