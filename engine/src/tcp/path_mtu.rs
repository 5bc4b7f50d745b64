//! What ICMP errors ask of a connection, and the MTU of its path (RFC 1191, RFC 5927, RFC 8201).

use crate::wire::Seq;

use super::block::{NONE, flag};
use super::{Tcp, scoreboard};

/// Sizes of packets that links commonly carry, octets (RFC 1191 §7).
//= RFC 1191 5-MAY-1, 3-MUST-6
const PLATEAUS: [u32; 8] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508];

impl Tcp {
    /// Whether a sequence number that an ICMP error quotes is in flight (RFC 5927 §4.1).
    //= RFC 5927 4.1-SHOULD-1
    //= RFC 8201 4-SHOULD-1
    pub(crate) fn quotes_flight(&self, id: u32, seq: Seq) -> bool {
        let c = &self.conns[id];
        seq.at_or_after(c.snd_una) && seq.before(c.snd_nxt)
    }

    /// Whether the connection is still being opened by us.
    pub(crate) fn opening(&self, id: u32) -> bool {
        self.conns[id].state.is_opening()
    }

    /// Packets of this path may not exceed `mtu` octets, 0 if that is not told (RFC 1191, RFC 8201): segments become smaller, and those in
    /// flight that are larger go again.
    pub(crate) fn packet_too_big(&mut self, id: u32, mtu: u32) {
        let c = &mut self.conns[id];
        //= RFC 8200 5-SHOULD-1
        let (headers, floor) = if c.has(flag::IPV6) { (60, 1280 - 60) } else { (40, 552 - 40) };
        // RFC 1191 §5: a router that does not tell its MTU leaves it to be searched for among the common ones
        let packet = u32::from(c.mss) + headers;
        let next_plateau = || PLATEAUS.into_iter().find(|&plateau| plateau < packet).unwrap_or(0);
        let mtu = if mtu == 0 { next_plateau() } else { mtu };
        //= RFC 1191 3-MUST-1, 3-MUST-4, 3-MUST-7
        //= RFC 7323 5.7-MUST-1
        //= RFC 8201 4-MUST-1, 3-MUST-1, 4-MUST-4
        let mss = mtu.saturating_sub(headers).max(floor);
        //= RFC 1191 3-MUST-2, 6.4-MUST-1
        //= RFC 8201 4-MUST-3
        if mss >= u32::from(c.mss) {
            return;
        }
        c.mss = mss as u16;
        let slot = c.busy;
        if slot != NONE {
            let limit = c.payload_max();
            scoreboard::mark_oversized(&mut self.flights, &mut self.busies[slot], limit);
            self.mark_dirty(id);
        }
    }
}
