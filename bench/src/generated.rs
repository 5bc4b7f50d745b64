//! A device whose other end does not exist: whatever the engine sends is answered at once, from what the segment itself
//! says. So there may be as many peers as one likes, and they take no memory.
//!
//! A SYN is answered by a SYN-ACK, text by as much text and with `closes` a FIN, a FIN by a FIN. The answers are proper
//! segments with good checksums, options and timestamps; the engine parses each as it would any other.

use std::collections::VecDeque;

use syncline_engine::device::{Capabilities, Device, DeviceCounters, Frame};
use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::{
    Ecn, Flags, MacAddr, OutSegment, ParseRules, Parsed, Seq, TcpOptions, TcpSegment, Timestamps, parse,
};

/// The engine's hardware address.
pub const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// That of every peer.
pub const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Buffers of a device.
const BUFFERS: usize = 2_048;
/// Octets of a buffer: requests and answers are short.
const BUFFER_BYTES: usize = 256;

/// A buffer.
pub struct Buffer {
    octets: Box<[u8; BUFFER_BYTES]>,
    len: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { octets: Box::new([0; BUFFER_BYTES]), len: 0 }
    }
}

impl Frame for Buffer {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..self.len]
    }

    #[inline]
    fn capacity(&self) -> usize {
        BUFFER_BYTES
    }

    #[inline]
    fn resize(&mut self, len: usize) -> &mut [u8] {
        self.len = len;
        &mut self.octets[..len]
    }
}

/// The device.
pub struct Generated {
    capabilities: Capabilities,
    counters: DeviceCounters,
    rules: ParseRules,
    /// Whether peers close with their answer.
    closes: bool,
    /// Whether whatever acknowledges without text is a probe.
    probed: bool,
    free: Vec<Buffer>,
    answers: VecDeque<Buffer>,
}

impl Generated {
    /// Peers that answer text with as much text, and with their FIN as well if they are to close.
    pub fn new(closes: bool) -> Self {
        let buffer = Buffer::default;
        Self {
            capabilities: Capabilities {
                mac: OURS.octets(),
                mtu: 1_500,
                frame_bytes_max: 1_522,
                partial_checksum: false,
                rss: None,
            },
            counters: DeviceCounters::default(),
            rules: ParseRules { mac: Some(THEIRS), ..ParseRules::default() },
            closes,
            probed: false,
            free: (0..BUFFERS).map(|_| buffer()).collect(),
            answers: VecDeque::with_capacity(BUFFERS),
        }
    }

    /// From now on peers take segments without text for keep-alive probes (RFC 9293 §3.8.4) and answer them. While nothing
    /// else is under way they are nothing else.
    pub fn answer_probes(&mut self, yes: bool) {
        self.probed = yes;
    }

    /// Turns a frame of the engine's into its answer. False if it asks for none.
    fn answer(&self, frame: &mut Buffer) -> bool {
        let Ok(Parsed::Tcp(segment)) = parse(frame.bytes(), &self.rules) else { return false };
        let Some(answer) = self.segment(&segment) else { return false };
        let payload = usize::from(segment.payload_len);
        let len = answer.emit_with(&mut frame.octets[..], payload, |octets| octets.fill(b'x'));
        len.map(|len| frame.len = len).is_ok()
    }

    #[inline]
    fn segment(&self, segment: &TcpSegment) -> Option<OutSegment> {
        let flags = segment.flags;
        let asks = flags.syn() || flags.fin() || segment.payload_len > 0;
        if flags.rst() || !asks && !self.probed {
            return None;
        }
        let timestamps = segment.options.timestamps.map(|theirs| Timestamps { value: 1, echo: theirs.value });
        let (seq, flags, options) = if flags.syn() {
            // A sequence number that the segment's own gives: it need not be remembered.
            let seq = Seq(segment.seq.0.wrapping_mul(0x9e37_79b1));
            let options = TcpOptions {
                mss: Some(1_460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps,
                ..TcpOptions::NONE
            };
            (seq, Flags::SYN_ACK, options)
        } else {
            let closes = flags.fin() && !self.closes || segment.payload_len > 0 && self.closes;
            let flags = if closes { Flags::FIN_ACK } else { Flags::ACK };
            (segment.ack, flags, TcpOptions { timestamps, ..TcpOptions::NONE })
        };
        Some(OutSegment {
            link: Link { source: THEIRS, destination: OURS, vlan: None },
            source: segment.destination,
            destination: segment.source,
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            seq,
            // A probe is one before what is expected
            ack: segment.seq + segment.seq_len().max(1),
            flags,
            window: 64_240,
            urgent_pointer: 0,
            hop_limit: 64,
            dscp: 0,
            ecn: Ecn::NotCapable,
            options,
        })
    }
}

impl Device for Generated {
    type Frame = Buffer;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {}

    #[inline]
    fn receive(&mut self, burst: &mut Vec<Buffer>) -> usize {
        let count = self.answers.len().min(burst.capacity() - burst.len());
        burst.extend(self.answers.drain(..count));
        self.counters.rx_frames += count as u64;
        count
    }

    #[inline]
    fn allocate(&mut self) -> Option<Buffer> {
        let buffer = self.free.pop();
        self.counters.tx_full += u64::from(buffer.is_none());
        buffer
    }

    #[inline]
    fn transmit(&mut self, mut frame: Buffer) -> Result<(), Buffer> {
        self.counters.tx_frames += 1;
        if self.answer(&mut frame) {
            self.answers.push_back(frame);
        } else {
            self.free.push(frame);
        }
        Ok(())
    }

    #[inline]
    fn release(&mut self, frame: Buffer) {
        self.free.push(frame);
    }

    fn doorbell(&mut self) {}

    fn counters(&self) -> DeviceCounters {
        self.counters
    }
}
