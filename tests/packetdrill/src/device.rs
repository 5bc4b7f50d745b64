//! The network device: a queue of IP packets each way. The Ethernet header that the engine works with is put on and
//! taken off here.

use std::collections::VecDeque;

use syncline_engine::device::{Capabilities, Device, DeviceCounters, Frame};
use syncline_engine::time::{Clock, Instant};

use crate::stack::Wall;

/// The engine's hardware address.
const OURS: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// The gateway's, which everything goes to.
pub(crate) const GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
/// Octets of an Ethernet header.
const HEADER: usize = 14;

/// A packet that the engine sent.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) octets: Vec<u8>,
    pub(crate) at: Instant,
}

/// A frame in a buffer of its own.
#[derive(Debug)]
pub(crate) struct TapFrame {
    octets: Vec<u8>,
    len: usize,
}

impl Frame for TapFrame {
    fn bytes(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..self.len]
    }

    fn capacity(&self) -> usize {
        self.octets.len()
    }

    fn resize(&mut self, len: usize) -> &mut [u8] {
        self.len = len;
        &mut self.octets[..len]
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct Tap {
    capabilities: Capabilities,
    clock: Wall,
    arrived: VecDeque<TapFrame>,
    sent: VecDeque<Packet>,
    counters: DeviceCounters,
}

impl Tap {
    /// A device for packets of up to `mtu` octets.
    pub(crate) fn new(mtu: u16, clock: Wall) -> Self {
        let capabilities =
            Capabilities { mac: OURS, mtu, frame_bytes_max: u16::MAX, partial_checksum: false, rss: None };
        let counters = DeviceCounters::default();
        Self { capabilities, clock, arrived: VecDeque::new(), sent: VecDeque::new(), counters }
    }

    /// Puts an IP packet of the peer's before the engine.
    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        let ether_type: [u8; 2] =
            if packet.first().is_some_and(|octet| octet >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        let len = HEADER + packet.len();
        let mut octets = Vec::with_capacity(len.max(self.buffer_bytes()));
        octets.extend(OURS);
        octets.extend(GATEWAY);
        octets.extend(ether_type);
        octets.extend(packet);
        // the frame may serve for the reply, which may be longer
        octets.resize(len.max(self.buffer_bytes()), 0);
        self.arrived.push_back(TapFrame { octets, len });
    }

    /// The oldest packet that the engine sent and nobody has taken yet.
    pub(crate) fn take_sent(&mut self) -> Option<Packet> {
        self.sent.pop_front()
    }

    fn buffer_bytes(&self) -> usize {
        usize::from(self.capabilities.mtu) + HEADER
    }
}

impl Device for Tap {
    type Frame = TapFrame;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {}

    fn receive(&mut self, burst: &mut Vec<TapFrame>) -> usize {
        let n = self.arrived.len().min(burst.capacity() - burst.len());
        for frame in self.arrived.drain(..n) {
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += frame.len as u64;
            burst.push(frame);
        }
        n
    }

    fn allocate(&mut self) -> Option<TapFrame> {
        let capacity = self.buffer_bytes();
        Some(TapFrame { octets: vec![0; capacity], len: capacity })
    }

    fn transmit(&mut self, frame: TapFrame) -> Result<(), TapFrame> {
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += frame.len as u64;
        let octets = frame.bytes().get(HEADER..).unwrap_or_default().to_vec();
        self.sent.push_back(Packet { octets, at: self.clock.now() });
        Ok(())
    }

    fn release(&mut self, _frame: TapFrame) {}

    fn doorbell(&mut self) {}

    fn counters(&self) -> DeviceCounters {
        self.counters
    }
}
