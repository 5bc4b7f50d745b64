//! What the engine asks of a network device: bursts of frames in, bursts of frames out.
//!
//! A device is one queue, owned by one worker. Frames are buffers with one owner: what [`Device::receive`] hands out
//! comes back through [`Device::transmit`] (a reply built in the frame that asked for it), [`Device::release`] or
//! [`Device::release_all`].

pub mod fault;
pub mod link;
pub mod path;
pub mod pcap;
pub mod ring;
pub mod toeplitz;

use std::sync::Arc;

/// Most frames of a burst. A pass of the loop goes once through more code than an instruction cache holds, however many
/// frames there are: with bursts of 64 a ring carries 4% fewer connections, a veth 7%.
pub const BURST: usize = 128;

/// A frame buffer with one owner, holding an Ethernet frame without its FCS.
///
/// Not `Copy` and not `Clone`: a frame is received, allocated, transmitted or released, each once. Dropping one instead
/// is not unsafe, but loses the buffer until the device is closed.
pub trait Frame {
    /// The frame's octets, from the destination address on.
    fn bytes(&self) -> &[u8];

    /// The same, writable.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// The most octets this buffer can hold.
    fn capacity(&self) -> usize;

    /// Makes the frame `len` octets long, from the same first octet on, and returns all of it to be written.
    /// What was there before stays where it was; octets beyond the former length are unspecified but initialised.
    ///
    /// # Panics
    /// If `len` exceeds [`capacity`](Frame::capacity): the engine checks frame sizes against
    /// [`Capabilities::frame_bytes_max`] when it is built.
    fn resize(&mut self, len: usize) -> &mut [u8];

    /// When the frame arrived, if whoever received it stamped it: nanoseconds of the system's monotonic clock, which
    /// [`Clock::at`](crate::time::Clock::at) makes the engine's. `None`: it counts as arrived when its burst is received.
    #[inline]
    fn stamp(&self) -> Option<u64> {
        None
    }
}

/// What a device can do. Fixed while the device is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The device's own hardware address.
    pub mac: [u8; 6],
    /// Largest IP packet the link carries, octets.
    pub mtu: u16,
    /// Largest frame a buffer of this device holds, octets.
    pub frame_bytes_max: u16,
    /// Whether a received frame may carry just the pseudo-header sum in its TCP checksum field, because its sender
    /// is a kernel on the same machine (veth, tap, virtio). Never true of a physical NIC.
    pub partial_checksum: bool,
    /// How the device spreads flows over its queues, if it does so by a hash that is known: then worker `n`, on queue
    /// `n`, owns the flows that arrive there. `None`: nobody knows (veth: the queue of the sender's core).
    pub rss: Option<Arc<toeplitz::Rss>>,
}

/// Counters of a device queue, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Frames handed to the engine.
    pub rx_frames: u64,
    /// Octets handed to the engine.
    pub rx_bytes: u64,
    /// Frames accepted from the engine for transmission.
    pub tx_frames: u64,
    /// Octets accepted from the engine for transmission.
    pub tx_bytes: u64,
    /// Frames that came for this queue and were lost before the engine saw them (no buffer, ring full, too long).
    pub rx_dropped: u64,
    /// Frames that the link refused after the device had accepted them.
    pub tx_dropped: u64,
    /// Times the engine found no buffer or no room for a frame it wanted to send.
    pub tx_full: u64,
    /// Times the operating system was called to have frames moved.
    pub doorbells: u64,
}

/// Why a device stopped working. One line, names the device and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceError(pub String);

impl core::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for DeviceError {}

/// One queue of a network device.
pub trait Device {
    /// The buffers this device hands out.
    type Frame: Frame;

    /// What the device can do.
    fn capabilities(&self) -> &Capabilities;

    /// Step 1 of the loop: takes completed transmissions back, refills the receive ring. Never blocks.
    fn reap(&mut self);

    /// Step 2 of the loop: appends received frames to `burst` up to its capacity, never reallocating it, and returns
    /// how many were appended. Never blocks.
    fn receive(&mut self, burst: &mut Vec<Self::Frame>) -> usize;

    /// An empty buffer to build a frame in, or `None` if there is none just now.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Queues `frame` for transmission; it leaves at the next [`doorbell`](Device::doorbell) at the latest. Hands the
    /// frame back if there is no room.
    fn transmit(&mut self, frame: Self::Frame) -> Result<(), Self::Frame>;

    /// Takes back a frame that is not needed any more.
    fn release(&mut self, frame: Self::Frame);

    /// Takes back all the frames of a burst, which is empty afterwards.
    #[inline]
    fn release_all(&mut self, burst: &mut Vec<Self::Frame>) {
        burst.drain(..).for_each(|frame| self.release(frame));
    }

    /// Step 9 of the loop: makes sure that what was queued moves, with at most one system call, and only if the device
    /// asks for it.
    fn doorbell(&mut self);

    /// The queue's counters.
    fn counters(&self) -> DeviceCounters;

    /// Whether the device is still there. Called now and then by whoever drives the worker, never on the data path.
    fn health(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Where the IP header of an Ethernet frame starts, past VLAN tags, and its version, 4 or 6.
/// Devices look this far to hash, to mark and to corrupt; parsing proper is the engine's business.
fn ip_offset(frame: &[u8]) -> Option<(usize, u8)> {
    let mut at = 12;
    for _ in 0..3 {
        let ether_type = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        at += 2;
        match ether_type {
            0x0800 => return Some((at, 4)),
            0x86dd => return Some((at, 6)),
            0x8100 | 0x88a8 => at += 2,
            _ => return None,
        }
    }
    None
}
