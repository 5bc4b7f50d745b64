//! What names a flow, and how it is found: from a segment's addresses and ports to its record, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::app::Endpoints;
use crate::flow::{Candidate, FlowKey, Home, Kind};
use crate::wire::TcpSegment;

use super::block::{OfFlow, Sockets, flag};
use super::{Remotes, Tcp};

/// The peer's address as a block holds it, and the rest of what names a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowId {
    pub(crate) remote: IpAddr,
    pub(crate) local: u16,
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
}

/// What is known of a segment's flow before the segment is worked on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lookup {
    pub(crate) hash: u64,
    /// What the index held for it when the burst arrived.
    pub(crate) candidate: Option<Candidate>,
}

impl Tcp {
    /// Hash of a segment's flow in the table.
    #[inline(always)]
    pub(crate) fn hash_segment(&self, segment: &TcpSegment) -> u64 {
        self.hash_key.hash(&segment.flow_key())
    }

    /// Hash of addresses and ports in the table.
    #[inline]
    pub(crate) fn hash_key(&self, key: &FlowKey) -> u64 {
        self.hash_key.hash(key)
    }

    /// Hash of a flow in the table.
    #[inline]
    pub(crate) fn hash(&self, id: &FlowId) -> u64 {
        self.hash_key.hash(&self.flow_key(id))
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

    /// Brings what the next steps will touch into the cache: the block of the likely match in the bucket `home`, which is
    /// returned.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64, home: Home) -> Option<Candidate> {
        let candidate = self.table.candidate(hash, home)?;
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
        if self.table.is_absent(hash) { None } else { self.search(hash, id) }
    }

    #[inline(never)]
    fn search(&self, hash: u64, id: &FlowId) -> Option<(Kind, u32)> {
        self.table.find(hash, |kind, handle| self.is_flow(kind, handle, id))
    }

    /// Finds a flow that a prefetch has looked for: `candidate` is what that came upon.
    #[inline(always)]
    pub(crate) fn find_from(&self, candidate: Option<Candidate>, hash: u64, id: &FlowId) -> Option<(Kind, u32)> {
        match candidate {
            Some(c) if self.table.still_holds(&c) && self.is_flow(c.kind(), c.handle(), id) => {
                Some((c.kind(), c.handle()))
            }
            _ => self.find(hash, id),
        }
    }

    /// Whether a record is that of a flow.
    #[inline(always)]
    fn is_flow(&self, kind: Kind, handle: u32, id: &FlowId) -> bool {
        let sockets = match kind {
            Kind::Connection => self.conns.get(handle).map(OfFlow::sockets),
            Kind::SynReceived => self.syn_record(handle).map(OfFlow::sockets),
            Kind::TimeWait => self.time_waits.get(handle).map(OfFlow::sockets),
        };
        sockets.is_some_and(|ends| {
            ends.remote_port == id.remote_port
                && ends.local_port == id.local_port
                && ends.local == id.local
                && self.same_remote(ends.remote, ends.flags, id.remote)
        })
    }

    #[inline]
    fn same_remote(&self, remote: u32, flags: u8, address: IpAddr) -> bool {
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
            IpAddr::V6(address) => self.remotes.insert(address.octets()).map(|slot| (slot, flag::IPV6)),
        }
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
