//! Tail loss probes (RFC 8985 §7): where the last segments of a flight are lost nothing tells of it, so one more is sent
//! well before the retransmission timeout.

use crate::app::App;
use crate::device::Device;

use super::block::{Busy, Connection, Phase, busy, flag};
use super::recovery::{Acked, Env};
use super::send::Sender;
use super::tunables::Tunables;
use super::{congestion, rtt};

/// What a probe waits beyond two round trips if a prompt acknowledgement is due, microseconds: the ticks of both clocks.
const PROBE_SLACK_US: u32 = 2_000;

/// TLP_calc_PTO() of RFC 8985 §7.2, milliseconds; `None` if no probe may be scheduled: without SACK, during recovery,
/// while another is out or has not been followed by a measurement, or where RACK's own timer serves. `alone`: whether no more
/// than one segment is in flight.
#[inline(always)]
pub(crate) fn timeout_ms(
    c: &Connection,
    b: &Busy,
    config: &Tunables,
    alone: impl FnOnce(&Busy) -> bool,
) -> Option<u32> {
    let opening = c.state.is_opening();
    //= RFC 8985 7.3-MUST-4
    let probed = b.flags & (busy::PROBE_OUT | busy::PROBE_RESENT) != 0;
    let busy = probed || b.phase != Phase::Open || b.sacked > 0 || b.backoff > 0;
    if opening || busy || !c.has(flag::SACK) || b.srtt == 0 {
        return None;
    }
    // A lone segment may meet a delayed acknowledgement; others, a tick of either end's clock
    let patience = if alone(b) { config.rto_min_us } else { PROBE_SLACK_US };
    //= RFC 8985 7.2-SHOULD-1, 7.2-SHOULD-2
    let timeout = (u64::from(b.srtt) * 2 + u64::from(patience)).min(u64::from(rtt::rto_us(b, config)));
    Some((timeout as u32).div_ceil(1000))
}

impl<A: App, D: Device> Sender<'_, '_, A, D> {
    /// Sends the tail loss probe that is due (TLP_send_probe(), RFC 8985 §7.3): new data if there is any and the peer's
    /// window takes it, or else the newest segment again. False if the device has no room.
    #[cold]
    pub(super) fn probe_tail(&mut self) -> bool {
        self.b.flags &= !busy::PROBE_TAIL;
        //= RFC 8985 7.3-MUST-2
        let probed = self.b.flags & (busy::PROBE_OUT | busy::PROBE_RESENT) != 0;
        let in_time = self.b.phase == Phase::Open && !probed;
        let Some(newest) = self.flights.back(self.b).filter(|_| in_time) else { return true };
        // The congestion window does not hold a probe back
        let window = core::mem::replace(&mut self.b.cwnd, u32::MAX);
        let new = self.next_new();
        self.b.cwnd = window;
        //= RFC 8985 7.3-SHOULD-1
        let sent = match new {
            Some((payload, fin)) => self.send_one(payload, fin, false),
            None => {
                let newest = self.fit(newest);
                self.resend(newest)
            }
        };
        if !sent {
            self.b.flags |= busy::PROBE_TAIL;
            return false;
        }
        self.b.flags |= busy::PROBE_OUT | if new.is_none() { busy::PROBE_RESENT } else { 0 };
        self.b.recover = self.c.snd_nxt;
        self.tx.stats.tail_loss_probes.increment();
        true
    }
}

/// The end of a tail loss probe's episode (RFC 8985 §7.4): all that was out with it is acknowledged. If the probe was a
/// retransmission and no duplicate is reported, it repaired a loss, and the window answers for it.
//= RFC 8985 7.4-MUST-1
pub(super) fn end(c: &Connection, b: &mut Busy, acked: &Acked, env: &Env<'_>) {
    if b.flags & busy::PROBE_OUT == 0 || b.phase != Phase::Open || c.snd_una.before(b.recover) {
        return;
    }
    if b.flags & busy::PROBE_RESENT != 0 && !acked.dsack {
        if c.snd_una.after(b.recover) {
            let window = b.cwnd;
            congestion::on_loss(b, c.payload_max(), window, env.config);
            b.cwnd = b.ssthresh;
        } else if acked.octets > 0 {
            // a duplicate may yet be reported
            return;
        }
    }
    b.flags &= !busy::PROBE_OUT;
}
