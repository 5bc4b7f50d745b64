//! What the kernel knows about the network: devices, addresses, routes, neighbours. Read by netlink (RFC 3549), in the
//! network namespace of the calling thread.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; `None` if it has none of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The kind of virtual device (`veth`, `tun`, …); `None` for hardware.
    pub kind: Option<String>,
    /// Receive queues it was made with.
    pub rx_queues: u32,
}

/// An address on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The device's number.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix that is on the link, bits.
    pub prefix_len: u8,
}

/// A route that leaves by a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The device's number.
    pub interface: u32,
    /// Where to; `None` is the default route.
    pub destination: Option<IpAddr>,
    /// Length of the destination's prefix, bits.
    pub prefix_len: u8,
    /// The next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preference among routes to the same prefix, lower first.
    pub metric: u32,
}

/// The devices of this network namespace.
pub fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            links.push(link_of(&link));
        }
    })?;
    Ok(links)
}

/// The addresses the kernel itself has on the device `interface`.
pub fn interface_addresses(interface: u32) -> io::Result<Vec<InterfaceAddress>> {
    let mut addresses = Vec::new();
    dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
        let RouteNetlinkMessage::NewAddress(message) = message else { return };
        if message.header.index != interface {
            return;
        }
        // On a point-to-point link `Address` is the peer's, and only `Local` is ours.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        if let Some(address) = address {
            addresses.push(InterfaceAddress { interface, address, prefix_len: message.header.prefix_len });
        }
    })?;
    Ok(addresses)
}

/// The unicast routes of the kernel's main table.
pub fn routes() -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        dump(RouteNetlinkMessage::GetRoute(request), |message| {
            let RouteNetlinkMessage::NewRoute(message) = message else { return };
            if message.header.table == RouteHeader::RT_TABLE_MAIN && message.header.kind == RouteType::Unicast {
                routes.extend(routes_of(&message));
            }
        })?;
    }
    Ok(routes)
}

/// The devices a default route leaves by: those that carry the operator's own session, most likely.
pub fn default_route_devices() -> io::Result<Vec<u32>> {
    let mut devices: Vec<u32> =
        routes()?.iter().filter(|route| route.prefix_len == 0).map(|route| route.interface).collect();
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}

/// The next hop on the device `interface` towards `destination` by the kernel's routes: the destination itself if it
/// is on the link; `None` if there is no route.
pub fn next_hop(interface: u32, destination: IpAddr) -> io::Result<Option<IpAddr>> {
    let best = routes()?
        .into_iter()
        .filter(|route| route.interface == interface && covers(route, destination))
        .min_by_key(|route| (u8::MAX - route.prefix_len, route.metric));
    Ok(best.map(|route| route.gateway.unwrap_or(destination)))
}

/// The hardware address the kernel has for the neighbour `address` on the device `interface`, if it is one that it
/// would use itself.
pub fn kernel_neighbor(interface: u32, address: IpAddr) -> io::Result<Option<[u8; 6]>> {
    let mut mac = None;
    dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), |message| {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { return };
        let unusable = matches!(
            message.header.state,
            NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::Noarp
        );
        if message.header.ifindex != interface || unusable {
            return;
        }
        let is_it = message.attributes.iter().any(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address == IpAddr::V4(*v4),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address == IpAddr::V6(*v6),
            _ => false,
        });
        if is_it {
            mac = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(octets) => octets.as_slice().try_into().ok(),
                _ => None,
            });
        }
    })?;
    Ok(mac)
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: None,
        rx_queues: 1,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(octets) => link.mac = octets.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = *queues,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// One route per next hop.
fn routes_of(message: &RouteMessage) -> Vec<Route> {
    let mut route = Route {
        interface: 0,
        destination: None,
        prefix_len: message.header.destination_prefix_length,
        gateway: None,
        metric: 0,
    };
    let mut routes = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Destination(address) => route.destination = ip_of(address),
            RouteAttribute::Gateway(address) => route.gateway = ip_of(address),
            _ => {}
        }
    }
    for attribute in &message.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            routes.extend(hops.iter().map(|hop| Route {
                interface: hop.interface_index,
                gateway: hop.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Gateway(address) => ip_of(address),
                    _ => None,
                }),
                ..route
            }));
        }
    }
    if routes.is_empty() && route.interface != 0 {
        routes.push(route);
    }
    routes
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn covers(route: &Route, address: IpAddr) -> bool {
    let shift = |bits: u32| bits.saturating_sub(u32::from(route.prefix_len));
    match (route.destination, route.gateway, address) {
        (Some(IpAddr::V4(prefix)), _, IpAddr::V4(address)) => {
            (prefix.to_bits() ^ address.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (Some(IpAddr::V6(prefix)), _, IpAddr::V6(address)) => {
            (prefix.to_bits() ^ address.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0
        }
        (None, Some(gateway), address) => gateway.is_ipv4() == address.is_ipv4(),
        (None, None, _) => true,
        _ => false,
    }
}

/// Sends a dump request and hands every answer to `each`.
fn dump(request: RouteNetlinkMessage, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    socket.send(&request, 0)?;

    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while let Some(octets) = rest.first_chunk::<4>() {
            let length = u32::from_ne_bytes(*octets) as usize;
            if length < 16 || length > rest.len() {
                break;
            }
            // A message with an attribute newer than this decoder is skipped, not an error.
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    _ => {}
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_links() {
        let links = links().unwrap();
        assert!(links.iter().any(|link| link.name == "lo" && link.mtu > 0), "{links:?}");
    }

    #[test]
    fn a_prefix_covers_its_addresses_only() {
        let route = |destination: Option<&str>, prefix_len, gateway: Option<&str>| Route {
            interface: 1,
            destination: destination.map(|text| text.parse().unwrap()),
            prefix_len,
            gateway: gateway.map(|text| text.parse().unwrap()),
            metric: 0,
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(&route(Some("10.1.0.0"), 16, None), ip("10.1.255.255")));
        assert!(!covers(&route(Some("10.1.0.0"), 16, None), ip("10.2.0.0")));
        assert!(covers(&route(Some("10.1.2.3"), 32, None), ip("10.1.2.3")));
        assert!(!covers(&route(Some("10.1.2.3"), 32, None), ip("10.1.2.2")));
        assert!(covers(&route(None, 0, Some("10.0.0.1")), ip("192.0.2.1")));
        assert!(!covers(&route(None, 0, Some("10.0.0.1")), ip("2001:db8::1")));
        assert!(covers(&route(Some("2001:db8::"), 32, None), ip("2001:db8:1::1")));
    }
}
