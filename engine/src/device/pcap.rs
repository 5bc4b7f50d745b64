//! A device that writes down what passes, as pcap with nanoseconds.
//!
//! The engine opens no file: the sink is given. Records are collected in a buffer of fixed size and handed to the sink
//! whole, so that several queues can share one behind a lock.
//!
//! Format: draft-ietf-opsawg-pcap, sections 4 and 5.

use super::{Capabilities, Device, DeviceCounters, DeviceError, Frame};
use crate::time::{Clock, Instant};
use core::time::Duration;
use std::io::{self, Write};

/// Magic number of a file whose timestamps have nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const LINK_TYPE: u32 = 1;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;

/// How to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcapConfig {
    /// Octets kept of each frame; the rest is cut off, its length still told.
    pub snap_bytes: u32,
    /// Octets collected before the sink is called. A record that is longer than this is not captured.
    pub buffer_bytes: usize,
    /// What to add to the clock for the record's time: the Unix time of the clock's origin.
    pub origin: Duration,
    /// Whether to begin with the file header. False for all but the first of several writers to one sink.
    pub file_header: bool,
}

impl Default for PcapConfig {
    /// Whole frames, 256 KiB, the clock as it is, with a header.
    fn default() -> Self {
        Self { snap_bytes: 65_535, buffer_bytes: 256 * 1024, origin: Duration::ZERO, file_header: true }
    }
}

/// Writes pcap records to a sink.
pub struct PcapWriter<W: Write> {
    config: PcapConfig,
    sink: W,
    buffer: Vec<u8>,
    records: u64,
    lost: u64,
    error: Option<io::Error>,
}

impl<W: Write> PcapWriter<W> {
    /// A writer to `sink`. Nothing is written before the first [`flush`](Self::flush) or a full buffer.
    pub fn new(sink: W, config: PcapConfig) -> Self {
        let capacity = config.buffer_bytes.max(FILE_HEADER_BYTES);
        let mut buffer = Vec::with_capacity(capacity);
        if config.file_header {
            let (major, minor): (u16, u16) = (2, 4);
            buffer.extend(MAGIC_NANOSECONDS.to_le_bytes());
            buffer.extend(major.to_le_bytes());
            buffer.extend(minor.to_le_bytes());
            buffer.extend([0; 8]);
            buffer.extend(config.snap_bytes.to_le_bytes());
            buffer.extend(LINK_TYPE.to_le_bytes());
        }
        Self { config, sink, buffer, records: 0, lost: 0, error: None }
    }

    /// Writes down that `frame` passed at `at`. Calls the sink only if the buffer is full.
    pub fn record(&mut self, at: Instant, frame: &[u8]) {
        self.append(at, frame, frame.len());
    }

    /// The same of a frame of `len` octets, of which only `kept` are there.
    pub fn record_cut(&mut self, at: Instant, kept: &[u8], len: u32) {
        self.append(at, kept, len as usize);
    }

    /// The length of the record, zero if it was lost.
    fn append(&mut self, at: Instant, frame: &[u8], on_wire: usize) -> usize {
        let kept = &frame[..frame.len().min(self.config.snap_bytes as usize)];
        let len = RECORD_HEADER_BYTES + kept.len();
        if self.buffer.len() + len > self.buffer.capacity() {
            self.flush();
        }
        if self.error.is_some() || len > self.buffer.capacity() {
            self.lost += 1;
            return 0;
        }
        let time = Duration::from_nanos(at.nanos()).saturating_add(self.config.origin);
        for word in [time.as_secs() as u32, time.subsec_nanos(), kept.len() as u32, on_wire as u32] {
            self.buffer.extend(word.to_le_bytes());
        }
        self.buffer.extend(kept);
        self.records += 1;
        len
    }

    /// Takes the record just appended back.
    fn retract(&mut self, len: usize) {
        if len == 0 {
            self.lost -= 1;
        } else {
            self.records -= 1;
            self.buffer.truncate(self.buffer.len() - len);
        }
    }

    /// Hands what was collected to the sink. After an error nothing more is captured.
    pub fn flush(&mut self) {
        if self.error.is_none()
            && let Err(error) = self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush())
        {
            self.error = Some(error);
        }
        self.buffer.clear();
    }

    /// Frames written down.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Frames that could not be written down: the sink failed, or they did not fit the buffer.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Why the sink failed, if it did.
    pub fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }
}

impl<W: Write> Drop for PcapWriter<W> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A device with a capture of every frame the engine receives and transmits.
///
/// A failing sink stops the capture, never the traffic: see [`PcapWriter::error`].
pub struct PcapTap<D: Device, C: Clock, W: Write> {
    device: D,
    clock: C,
    writer: PcapWriter<W>,
}

impl<D: Device, C: Clock, W: Write> PcapTap<D, C, W> {
    /// Captures what passes `device`, stamped by `clock`, to `sink`.
    pub fn new(device: D, clock: C, sink: W, config: PcapConfig) -> Self {
        Self { device, clock, writer: PcapWriter::new(sink, config) }
    }

    /// The capture.
    pub fn writer(&self) -> &PcapWriter<W> {
        &self.writer
    }

    /// The device below.
    pub fn device(&self) -> &D {
        &self.device
    }
}

impl<D: Device, C: Clock, W: Write> Device for PcapTap<D, C, W> {
    type Frame = D::Frame;

    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn reap(&mut self) {
        self.device.reap();
    }

    fn receive(&mut self, burst: &mut Vec<D::Frame>) -> usize {
        let before = burst.len();
        let count = self.device.receive(burst);
        if count > 0 {
            let now = self.clock.now();
            burst[before..].iter().for_each(|frame| self.writer.record(now, frame.bytes()));
        }
        count
    }

    fn allocate(&mut self) -> Option<D::Frame> {
        self.device.allocate()
    }

    fn transmit(&mut self, frame: D::Frame) -> Result<(), D::Frame> {
        // The device takes the frame away, so it is written down first.
        let record = self.writer.append(self.clock.now(), frame.bytes(), frame.bytes().len());
        self.device.transmit(frame).inspect_err(|_| self.writer.retract(record))
    }

    fn release(&mut self, frame: D::Frame) {
        self.device.release(frame);
    }

    fn doorbell(&mut self) {
        self.device.doorbell();
    }

    fn counters(&self) -> DeviceCounters {
        self.device.counters()
    }

    /// Also brings the file up to date: this is not the data path.
    fn health(&mut self) -> Result<(), DeviceError> {
        self.writer.flush();
        self.device.health()
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Link, LinkConfig};
    use super::super::ring;
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A file in memory that stays readable while it is written.
    #[derive(Clone, Default)]
    struct Sink {
        bytes: Rc<RefCell<Vec<u8>>>,
        calls: Rc<RefCell<usize>>,
        room: Option<usize>,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room.is_some_and(|room| self.bytes.borrow().len() + bytes.len() > room) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *self.calls.borrow_mut() += 1;
            self.bytes.borrow_mut().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn the_file_is_what_the_format_says() {
        let sink = Sink::default();
        let (link, mut a, b) = Link::pair(LinkConfig::default(), 1);
        let config = PcapConfig { snap_bytes: 64, origin: Duration::new(1_700_000_000, 5), ..PcapConfig::default() };
        let mut tap = PcapTap::new(b, link.clone(), sink.clone(), config);
        link.set_now(Instant::from_nanos(2_000_000_007));
        let mut frame = a.allocate().unwrap();
        frame.resize(100).fill(0xaa);
        a.transmit(frame).ok().unwrap();
        let mut burst = Vec::with_capacity(4);
        assert_eq!(tap.receive(&mut burst), 1);
        let mut reply = burst.pop().unwrap();
        reply.resize(60);
        tap.transmit(reply).ok().unwrap();
        assert_eq!(tap.writer().records(), 2);
        assert!(sink.bytes.borrow().is_empty(), "nothing is written on the data path while there is room");
        drop(tap);

        let file = sink.bytes.borrow();
        assert_eq!(words(&file[..24]), [0xa1b2_3c4d, 0x0004_0002, 0, 0, 64, 1]);
        assert_eq!(words(&file[24..40]), [1_700_000_002, 12, 64, 100]);
        assert_eq!(file[40..104], [0xaa; 64]);
        assert_eq!(words(&file[104..120]), [1_700_000_002, 12, 60, 60]);
        assert_eq!(file[120..], [0xaa; 60]);
    }

    #[test]
    fn the_sink_gets_whole_records_and_the_buffer_never_grows() {
        let sink = Sink::default();
        let config = PcapConfig { buffer_bytes: 1000, file_header: false, ..PcapConfig::default() };
        let mut writer = PcapWriter::new(sink.clone(), config);
        let capacity = writer.buffer.capacity();
        for _ in 0..100 {
            writer.record(Instant::ZERO, &[1; 84]);
            assert_eq!(sink.bytes.borrow().len() % 100, 0);
        }
        writer.record(Instant::ZERO, &[1; 2000]);
        assert_eq!((writer.records(), writer.lost()), (100, 1));
        assert_eq!(writer.buffer.capacity(), capacity);
        drop(writer);
        assert_eq!(sink.bytes.borrow().len(), 100 * 100);
        assert!(*sink.calls.borrow() <= 11);
    }

    #[test]
    fn a_failing_sink_is_reported_and_losses_are_counted() {
        let sink = Sink { room: Some(0), ..Sink::default() };
        let mut writer = PcapWriter::new(sink, PcapConfig::default());
        writer.record(Instant::ZERO, &[0; 60]);
        writer.flush();
        assert_eq!(writer.error().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        writer.record(Instant::ZERO, &[0; 60]);
        assert_eq!((writer.records(), writer.lost()), (1, 1));
    }

    #[test]
    fn a_refused_frame_is_not_in_the_capture() {
        let (a, _b) = ring::pair(256, 1522).unwrap();
        let mut tap = PcapTap::new(a, Instant::ZERO, Sink::default(), PcapConfig::default());
        let mut refused = 0;
        while let Some(mut frame) = tap.allocate() {
            frame.resize(60);
            if let Err(frame) = tap.transmit(frame) {
                tap.release(frame);
                refused += 1;
                if refused == 3 {
                    break;
                }
            }
            tap.doorbell();
        }
        assert_eq!(refused, 3);
        assert_eq!(tap.writer().records(), tap.counters().tx_frames);
    }
}
