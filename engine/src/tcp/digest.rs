//! All that a worker remembers of its connections, as one number: explorers of the state space know by it that they have
//! been in a state before.
//!
//! Times count from now, so that equal states at different times are equal. The buckets of the rate limits are left out:
//! they fill by themselves.

use core::fmt::{self, Write};
use core::hash::Hasher;

use crate::flow::Place;
use crate::timer_wheel::Link;

use super::Tcp;
use super::block::{Busy, NONE, Phase};
use super::check::live;

/// Passes what is written on to a hasher.
struct Into<'a, H>(&'a mut H);

impl<H: Hasher> Write for Into<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Tcp {
    /// Feeds everything that says how connections will go on to `hasher`.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        let mut out = Into(hasher);
        // Writing to a hasher does not fail
        let _ = self.write_state(&mut out);
    }

    fn write_state(&self, out: &mut impl Write) -> fmt::Result {
        for id in live(&self.conns) {
            let mut c = self.conns[id];
            c.heard_ms = self.now_ms.wrapping_sub(c.heard_ms);
            let slot = core::mem::replace(&mut c.busy, NONE);
            write!(out, "{c:?}")?;
            if slot != NONE {
                let b = &self.busies[slot];
                write!(out, "{:?}", self.timeless(b))?;
                let mut cursor = self.flights.front(b);
                while let Some(at) = cursor {
                    let mut sent = *self.flights.get(b, at);
                    sent.sent_us = self.now_us.wrapping_sub(sent.sent_us);
                    write!(out, "{sent:?}")?;
                    cursor = self.flights.next(at);
                }
                for head in [b.write_head, b.read_head, b.ahead_head] {
                    self.write_chain(out, head)?;
                }
            }
        }
        for record in self.syns.live() {
            let mut record = *record;
            record.sent_us = self.now_us.wrapping_sub(record.sent_us);
            write!(out, "{record:?}")?;
        }
        for record in self.time_waits.live() {
            let mut record = *record;
            record.since_ms = self.now_ms.wrapping_sub(record.since_ms);
            record.place = Place::default();
            write!(out, "{record:?}")?;
        }
        Ok(())
    }

    /// The block with its times counted from now, and without what only says where things lie.
    fn timeless(&self, b: &Busy) -> Busy {
        let due = |bit: u8, at: u32| if b.timers & bit != 0 { at.wrapping_sub(self.now_ms) } else { 0 };
        let age_us = |at: u32| if at == 0 { 0 } else { self.now_us.wrapping_sub(at) };
        let age_ms = |at: u32| if at == 0 { 0 } else { self.now_ms.wrapping_sub(at) };
        let in_flight = !b.flight.is_empty();
        Busy {
            link: Link::default(),
            conn: 0,
            place: Place::default(),
            rtx_at: due(1, b.rtx_at),
            ack_at: due(2, b.ack_at),
            misc_at: due(4, b.misc_at),
            oldest_ms: if in_flight { age_ms(b.oldest_ms) } else { 0 },
            pace_us: if b.pace_us == 0 { 0 } else { b.pace_us.wrapping_sub(self.now_us) },
            rack_sent_us: age_us(b.rack_sent_us),
            cubic_epoch_ms: age_ms(b.cubic_epoch_ms),
            undo_ts: if b.phase == Phase::Open { 0 } else { age_ms(b.undo_ts) },
            neighbor: None,
            ..b.without_chains()
        }
    }

    fn write_chain(&self, out: &mut impl Write, head: u32) -> fmt::Result {
        let mut at = head;
        while at != NONE {
            let chunk = self.buffers.get(at);
            write!(out, "{:?}{:?}", chunk.seq, chunk.bytes())?;
            at = chunk.next;
        }
        out.write_char(';')
    }
}
