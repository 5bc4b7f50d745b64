//! A device whose frames somebody else moves: what the engine sends is taken away, what arrives is put in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use syncline_engine::device::{Capabilities, Device, DeviceCounters, Frame};

/// Largest frame, octets.
const FRAME_BYTES: usize = 1514;

/// A frame.
pub struct Octets {
    octets: Vec<u8>,
    stamp: Option<u64>,
}

impl Frame for Octets {
    fn bytes(&self) -> &[u8] {
        &self.octets
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }

    fn capacity(&self) -> usize {
        FRAME_BYTES
    }

    fn resize(&mut self, len: usize) -> &mut [u8] {
        self.octets.resize(len, 0);
        &mut self.octets
    }

    fn stamp(&self) -> Option<u64> {
        self.stamp
    }
}

/// What lies between the device and whoever moves its frames.
#[derive(Default)]
pub struct Port {
    /// What the engine is to receive, in this order.
    pub arriving: VecDeque<Vec<u8>>,
    /// When that arrived, if its frames are to say so.
    pub stamp: Option<u64>,
    /// What it has sent.
    pub sent: Vec<Vec<u8>>,
}

/// The engine's end.
pub struct Handmoved {
    capabilities: Capabilities,
    port: Rc<RefCell<Port>>,
}

impl Handmoved {
    /// A device whose hardware address ends in `last_octet`.
    pub fn new(last_octet: u8, port: Rc<RefCell<Port>>) -> Self {
        let mac = [2, 0, 0, 0, 0, last_octet];
        let capabilities =
            Capabilities { mac, mtu: 1500, frame_bytes_max: FRAME_BYTES as u16, partial_checksum: false, rss: None };
        Self { capabilities, port }
    }
}

impl Device for Handmoved {
    type Frame = Octets;

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn reap(&mut self) {}

    fn receive(&mut self, burst: &mut Vec<Octets>) -> usize {
        let mut port = self.port.borrow_mut();
        let count = port.arriving.len().min(burst.capacity() - burst.len());
        let stamp = port.stamp;
        burst.extend(port.arriving.drain(..count).map(|octets| Octets { octets, stamp }));
        count
    }

    fn allocate(&mut self) -> Option<Octets> {
        Some(Octets { octets: Vec::with_capacity(128), stamp: None })
    }

    fn transmit(&mut self, frame: Octets) -> Result<(), Octets> {
        self.port.borrow_mut().sent.push(frame.octets);
        Ok(())
    }

    fn release(&mut self, _: Octets) {}

    fn doorbell(&mut self) {}

    fn counters(&self) -> DeviceCounters {
        DeviceCounters::default()
    }
}
