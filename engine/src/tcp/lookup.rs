//! What names a flow, and how it is found: from a segment's addresses and ports to its record, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::app::Endpoints;
use crate::flow::{Candidate, FlowKey, Home, Kind, Place};
use crate::wire::{Ends, TcpSegment};

use super::block::{Connection, OfFlow, Sockets, flag};
use super::{Remotes, State, Tcp};

/// The peer's address as a block holds it, and the rest of what names a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowId {
    pub(crate) remote: IpAddr,
    pub(crate) local: u16,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
}

impl FlowId {
    /// Of a segment to our address `local`.
    #[inline]
    pub(crate) fn of(seg: &TcpSegment, local: u16) -> Self {
        Self { remote: seg.source, local, remote_port: seg.source_port, local_port: seg.destination_port }
    }
}

/// What is known of a segment's flow before the segment is worked on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup {
    pub(crate) hash: u64,
    /// Where the index has it, if it has.
    pub(crate) home: Home,
    /// What the index held for it when the burst arrived.
    pub(crate) candidate: Option<Candidate>,
}

impl Lookup {
    /// Of what is no segment.
    pub(crate) const NONE: Self = Self::of(0);

    /// Of a flow with this hash, before the first look into the index.
    #[inline(always)]
    pub(crate) const fn of(hash: u64) -> Self {
        Self { hash, home: Home::ANY, candidate: None }
    }

    /// Whether there probably is a connection.
    #[inline(always)]
    pub(crate) fn is_connection(&self) -> bool {
        self.candidate.is_some_and(|candidate| candidate.kind() == Kind::Connection)
    }
}

impl Tcp {
    /// Hash of a segment's flow in the table.
    #[inline(always)]
    pub(crate) fn hash_segment(&self, segment: &TcpSegment) -> u64 {
        self.hash_key.index_hash(&segment.flow_key())
    }

    /// [`hash_segment`](Self::hash_segment), of a segment of the usual kind.
    #[inline(always)]
    pub(crate) fn hash_ends(&self, ends: Ends) -> u64 {
        self.hash_key.index_hash_v4(ends.addresses, ends.ports)
    }

    /// Hash of addresses and ports in the table.
    #[inline]
    pub(crate) fn hash_key(&self, key: &FlowKey) -> u64 {
        self.hash_key.index_hash(key)
    }

    /// Hash of a flow in the table.
    #[inline]
    pub(crate) fn hash(&self, id: &FlowId) -> u64 {
        self.hash_key.index_hash(&self.flow_key(id))
    }

    /// A flow's addresses and ports.
    #[inline]
    pub(crate) fn flow_key(&self, id: &FlowId) -> FlowKey {
        FlowKey {
            local: self.locals.address(id.local),
            remote: id.remote,
            local_port: id.local_port,
            remote_port: id.remote_port,
        }
    }

    /// The first look into the index: the line for the hash is asked for.
    #[inline(always)]
    pub(crate) fn look_up(&self, lookup: &mut Lookup) {
        lookup.home = self.table.prefetch(lookup.hash);
    }

    /// Brings what the next steps will touch into the cache: the block of the likely match in the home bucket, which is
    /// returned.
    #[inline(always)]
    pub(crate) fn prefetch(&self, lookup: &Lookup) -> Option<Candidate> {
        let candidate = self.table.candidate(lookup.hash, lookup.home)?;
        let handle = candidate.handle();
        match candidate.kind() {
            Kind::Connection => self.conns.prefetch(handle),
            Kind::SynReceived => self.syns.prefetch(handle),
            Kind::TimeWait => self.time_waits.prefetch(handle),
        }
        Some(candidate)
    }

    /// Finds a flow.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, id: &FlowId) -> Option<(Kind, u32)> {
        if self.table.is_absent(hash) { None } else { self.search(hash, *id) }
    }

    #[inline(never)]
    fn search(&self, hash: u64, id: FlowId) -> Option<(Kind, u32)> {
        let (remote, ports) = (&id.remote, (id.remote_port, id.local_port));
        self.table.find(hash, |kind, handle| self.is_flow(kind, handle, remote, id.local, ports))
    }

    /// Finds the flow of a segment to our address `local`, which a prefetch may have looked for.
    #[inline(always)]
    pub(crate) fn find_from(&self, lookup: &Lookup, seg: &TcpSegment, local: u16) -> Option<(Kind, u32)> {
        let ports = (seg.source_port, seg.destination_port);
        match &lookup.candidate {
            Some(c) if self.is_found(c, &seg.source, local, ports) => {
                let found = Some((c.kind(), c.handle()));
                debug_assert_eq!(self.search(lookup.hash, FlowId::of(seg, local)), found);
                found
            }
            _ if self.table.is_absent_at(lookup.hash, lookup.home) => None,
            _ => self.search(lookup.hash, FlowId::of(seg, local)),
        }
    }

    /// Whether a candidate is a flow's still: other segments of its burst may have removed or replaced it. A block that is not
    /// CLOSED is in the index, which need not be asked; what is freed is CLOSED.
    #[inline(always)]
    fn is_found(&self, candidate: &Candidate, remote: &IpAddr, local: u16, ports: (u16, u16)) -> bool {
        let (kind, handle) = (candidate.kind(), candidate.handle());
        match kind {
            Kind::Connection => {
                let c = self.conns.get(handle).filter(|c| c.state != State::Closed);
                self.is_between(c, remote, local, ports)
            }
            _ => self.table.still_holds(candidate) && self.is_flow(kind, handle, remote, local, ports),
        }
    }

    /// Whether a record is that of a flow. `ports`: the peer's and ours.
    // A comparison for each kind: what they have in common would first be gathered from wherever it lies
    #[inline(always)]
    fn is_flow(&self, kind: Kind, handle: u32, remote: &IpAddr, local: u16, ports: (u16, u16)) -> bool {
        match kind {
            Kind::Connection => self.is_between(self.conns.get(handle), remote, local, ports),
            Kind::SynReceived => self.is_between(self.syn_record(handle), remote, local, ports),
            Kind::TimeWait => self.is_between(self.time_waits.get(handle), remote, local, ports),
        }
    }

    #[inline(always)]
    fn is_between(&self, record: Option<&impl OfFlow>, remote: &IpAddr, local: u16, ports: (u16, u16)) -> bool {
        record.map(OfFlow::sockets).is_some_and(|ends| {
            (ends.remote_port, ends.local_port) == ports
                && ends.local == local
                && self.same_remote(ends.remote, ends.flags, remote)
        })
    }

    #[inline]
    fn same_remote(&self, remote: u32, flags: u8, address: &IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => flags & flag::IPV6 == 0 && remote == address.to_bits(),
            IpAddr::V6(address) => {
                flags & flag::IPV6 != 0 && self.remotes.get(remote).is_some_and(|r| *r == address.octets())
            }
        }
    }

    /// The word that stands for a peer's address in a block, and the flag that says which family. `None` if there is
    /// no room.
    #[inline]
    pub(super) fn intern(&mut self, address: IpAddr) -> Option<(u32, u8)> {
        match address {
            IpAddr::V4(address) => Some((address.to_bits(), 0)),
            IpAddr::V6(address) => self.intern_v6(address),
        }
    }

    #[inline(never)]
    fn intern_v6(&mut self, address: Ipv6Addr) -> Option<(u32, u8)> {
        self.remotes.insert(address.octets()).map(|slot| (slot, flag::IPV6))
    }

    /// Gives the record of a peer's address back.
    #[inline]
    pub(super) fn forget_remote(&mut self, remote: u32, flags: u8) {
        if flags & flag::IPV6 != 0 {
            self.remotes.free(remote);
        }
    }

    #[inline]
    pub(crate) fn remote(&self, remote: u32, flags: u8) -> IpAddr {
        remote_of(&self.remotes, remote, flags)
    }

    /// What names the flow of a record.
    #[inline]
    pub(crate) fn flow_of(&self, record: &impl OfFlow) -> FlowId {
        let Sockets { remote, remote_port, local_port, local, flags } = record.sockets();
        FlowId { remote: self.remote(remote, flags), local, remote_port, local_port }
    }

    /// Where the index probably has a connection.
    #[inline]
    pub(super) fn place_of(&self, c: &Connection) -> Place {
        self.busies.get(c.busy).map_or(Place::default(), |b| b.place)
    }

    /// The index's entry of a flow, which probably is at `place` and refers to `old`, refers to `new` from now on. Returns where
    /// it is.
    #[inline(always)]
    pub(super) fn refer(&mut self, of: &impl OfFlow, place: Place, old: (Kind, u32), new: (Kind, u32)) -> Place {
        if self.table.replace_at(place, old, new) {
            return place;
        }
        let hash = self.hash(&self.flow_of(of));
        self.table.replace(hash, old, new).unwrap_or_default()
    }

    /// Forgets a flow: the index's entry, which probably is at `place`, and the peer's address.
    #[inline(always)]
    pub(super) fn forget_flow(&mut self, of: Sockets, place: Place, kind: Kind, handle: u32) {
        if !self.table.remove_at(place, kind, handle) {
            let hash = self.hash(&self.flow_of(&of));
            self.table.remove(hash, kind, handle);
        }
        self.forget_remote(of.remote, of.flags);
    }

    /// What names a connection.
    #[inline]
    pub(crate) fn flow_id(&self, id: u32) -> FlowId {
        self.flow_of(&self.conns[id])
    }

    pub(crate) fn endpoints(&self, id: u32) -> Endpoints {
        let flow = self.flow_id(id);
        Endpoints {
            local: SocketAddr::new(self.locals.address(flow.local), flow.local_port),
            remote: SocketAddr::new(flow.remote, flow.remote_port),
        }
    }
}

/// The peer's address that a block's word stands for.
#[inline]
pub(super) fn remote_of(remotes: &Remotes, remote: u32, flags: u8) -> IpAddr {
    if flags & flag::IPV6 == 0 {
        IpAddr::V4(Ipv4Addr::from_bits(remote))
    } else {
        IpAddr::V6(remotes.get(remote).map_or(Ipv6Addr::UNSPECIFIED, |r| Ipv6Addr::from(*r)))
    }
}
