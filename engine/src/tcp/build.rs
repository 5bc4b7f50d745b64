//! One segment, from a connection's blocks to a frame (RFC 9293 §3.1).

use std::net::{IpAddr, Ipv4Addr};

use crate::app::App;
use crate::device::{Device, Frame};
use crate::wire::checksum::Sum;
use crate::wire::emit::{TcpFields, UsualSegment};
use crate::wire::{Ecn, Flags, OutSegment, Seq, TcpOptions, Timestamps};

use super::block::{Busy, NONE, Span, busy, flag};
use super::buffer::{Buffers, Chain};
use super::lookup::remote_of;
use super::receive::{advertise, sack_blocks};
use super::send::Sender;

/// A segment that is about to be built.
#[derive(Clone, Copy)]
pub(super) struct Next {
    pub(super) seq: Seq,
    pub(super) payload: u32,
    pub(super) flags: Flags,
    /// New data: ECN-capable (RFC 3168 §6.1.5 forbids that for retransmissions).
    pub(super) data: bool,
}

impl<A: App, D: Device> Sender<'_, '_, A, D> {
    /// Builds a segment and hands it to the device. Every segment acknowledges.
    #[inline(never)]
    pub(super) fn build(&mut self, next: Next) -> bool {
        let built = if self.is_usual() && !next.flags.syn() {
            self.build_usual(next.seq, next.payload, next.flags)
        } else {
            self.build_unusual(next.seq, next.payload, next.flags, next.data)
        };
        if built {
            self.tx.stats.segments_sent.increment();
        }
        built
    }

    /// A segment over IPv4 with timestamps and nothing else: what [`build_other`](Self::build_other) comes to for it.
    #[inline(always)]
    pub(super) fn build_usual(&mut self, seq: Seq, payload_len: u32, flags: Flags) -> bool {
        //= RFC 9293 MUST-45
        //= RFC 1122 3.2.1.3-MUST-3
        let Some(source) = self.locals.address_v4(self.c.local) else { return false };
        let len = UsualSegment::STAMPED_LEN + payload_len as usize;
        let Some(mut frame) = self.tx.blank(len) else { return false };
        let octets = frame.resize(len).split_first_chunk_mut();
        let (headers, payload) = octets.expect("a frame is as long as it was made");
        // First, so that nothing of the headers has to be kept over what the application does
        let mut payload_sum = Sum::ZERO;
        if payload_len > 0 {
            fill(self.b, self.app, self.buffers, seq, payload);
            payload_sum = Sum::of(payload);
        }
        let destination = Ipv4Addr::from_bits(self.c.remote);
        //= RFC 7323 3.2-MUST-2, 3.2-MUST-4
        let timestamps = self.timestamps(IpAddr::V4(source), IpAddr::V4(destination));
        let tcp = TcpFields {
            source_port: self.c.local_port,
            destination_port: self.c.remote_port,
            seq,
            ack: self.c.rcv_nxt,
            flags,
            window: advertise(self.c, self.b, self.config),
            urgent_pointer: 0,
        };
        let segment = UsualSegment { station: self.mac, source, destination, tcp };
        segment.emit_stamped(headers, self.tx.head, timestamps, (payload_len as u16, payload_sum));
        let sent = self.tx.send(frame, len);
        if sent {
            self.acknowledged();
        }
        sent
    }

    /// Our SYN, or a segment of a kind that is not usual.
    #[inline(never)]
    fn build_unusual(&mut self, seq: Seq, payload: u32, flags: Flags, data: bool) -> bool {
        if self.is_usual_syn() {
            return self.build_usual_syn(seq);
        }
        self.build_other(Next { seq, payload, flags, data })
    }

    /// What was to be acknowledged has been.
    #[inline]
    fn acknowledged(&mut self) {
        self.b.flags &= !busy::ACK_NOW;
        self.b.unacked_segments = 0;
        self.b.timers &= !2;
    }

    /// Whether there is something for SACK blocks to report.
    #[inline]
    pub(super) fn has_blocks(&self) -> bool {
        (self.b.ahead_head != NONE || self.b.duplicate) && self.c.has(flag::SACK)
    }

    /// A segment of any kind.
    #[inline(never)]
    pub(super) fn build_other(&mut self, next: Next) -> bool {
        let syn = next.flags.syn();
        //= RFC 9293 MUST-45
        //= RFC 1122 3.2.1.3-MUST-3
        let source = self.locals.address(self.c.local);
        let destination = remote_of(self.remotes, self.c.remote, self.c.flags);
        let mut flags = next.flags;
        let (window, options) = if syn {
            flags |= self.ecn_setup(flags);
            (self.config.syn_window, self.syn_options(source, destination))
        } else {
            (advertise(self.c, self.b, self.config), self.segment_options(source, destination, &next))
        };
        let mut ecn = Ecn::NotCapable;
        //= RFC 3168 6.1.1-MUST-3
        if self.c.has(flag::ECN) && !syn {
            if self.b.flags & busy::ECE != 0 {
                flags |= Flags::ECE;
            }
            if next.data && next.payload > 0 {
                //= RFC 3168 5-SHOULD-1, 6.1.1-MUST-2, 6.1.4-MUST-1, 6.1.5-MUST-1, 6.1.6-MUST-1
                ecn = Ecn::Capable0;
            }
        }
        let segment = OutSegment {
            link: self.tx.link(self.mac),
            source,
            destination,
            source_port: self.c.local_port,
            destination_port: self.c.remote_port,
            seq: next.seq,
            ack: if flags.ack() { self.c.rcv_nxt } else { Seq(0) },
            flags,
            window,
            urgent_pointer: 0,
            //= RFC 9293 MUST-48, MUST-49
            hop_limit: self.config.hop_limit,
            dscp: self.config.dscp,
            ecn,
            options,
        };
        let (b, app, buffers) = (&*self.b, self.app, self.buffers);
        let built = self.tx.frame(segment.header_len() + next.payload as usize, |out| {
            segment.emit_with(out, next.payload as usize, |payload| fill(b, app, buffers, next.seq, payload)).ok()
        });
        if built && flags.ack() {
            self.acknowledged();
        }
        built
    }

    /// TSval and TSecr: milliseconds, from an offset that depends on the pair of addresses (RFC 7323 §5.4).
    #[inline]
    pub(super) fn timestamps(&self, source: IpAddr, destination: IpAddr) -> Timestamps {
        //= RFC 7323 3.2-SHOULD-3, 3.2-MUST-4, 5.4-MUST-1, 4.1-MUST-1
        let value = self.isn_key.timestamp(source, destination);
        Timestamps { value, echo: self.c.ts_recent }
    }

    #[inline]
    fn segment_options(&mut self, source: IpAddr, destination: IpAddr, next: &Next) -> TcpOptions {
        //= RFC 9293 MUST-65
        let mut options = TcpOptions::NONE;
        if self.c.has(flag::TIMESTAMPS) {
            //= RFC 7323 3.2-MUST-2, 3.2-MUST-4
            options.timestamps = Some(self.timestamps(source, destination));
        }
        //= RFC 2018 4-MUST-1, 4-SHOULD-1
        if self.has_blocks() {
            // data keeps its room: a full-sized segment reports nothing
            let left = self.c.payload_max().saturating_sub(next.payload).saturating_sub(4) / 8;
            let room = (left as usize).min(if options.timestamps.is_some() { 3 } else { 4 });
            options.sack = sack_blocks(self.buffers, self.b, room);
        }
        options
    }
}

/// Writes the payload from `seq` on: what was written by the application, or what it writes again.
#[inline(always)]
fn fill<A: App>(b: &Busy, app: &A, buffers: &Buffers, seq: Seq, out: &mut [u8]) {
    if out.is_empty() {
        return;
    }
    if b.flags & busy::BUFFERED != 0 {
        let chain = Chain { head: b.write_head, tail: b.write_tail };
        return buffers.copy(&chain, seq, out);
    }
    let spans = &b.span[..usize::from(b.spans)];
    debug_assert!(out.len() <= (b.snd_end - seq) as usize, "what is sent has been queued");
    let within = |next: &Span| (seq + out.len() as u32).at_or_before(next.start);
    if let [span, rest @ ..] = spans
        && rest.first().is_none_or(within)
    {
        // as mostly
        return app.fill(span.tag, seq - span.start, out);
    }
    fill_by_parts(spans, b.snd_end, app, seq, out);
}

/// The same where several messages are queued.
#[inline(never)]
fn fill_by_parts<A: App>(spans: &[Span], end: Seq, app: &A, mut seq: Seq, mut out: &mut [u8]) {
    for (i, span) in spans.iter().enumerate() {
        let end = spans.get(i + 1).map_or(end, |next| next.start);
        if seq.before(end) && !out.is_empty() {
            let n = ((end - seq) as usize).min(out.len());
            let (piece, rest) = out.split_at_mut(n);
            app.fill(span.tag, seq - span.start, piece);
            out = rest;
            seq += n as u32;
        }
    }
}
