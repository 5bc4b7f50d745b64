//! Writes down frames, as pcap with nanoseconds.
//!
//! The engine opens no file: the sink is given. Records are collected in a buffer of fixed size and handed to the sink
//! whole, so that several queues can share one behind a lock.
//!
//! Format: draft-ietf-opsawg-pcap, sections 4 and 5.

use crate::time::Instant;
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

    fn append(&mut self, at: Instant, frame: &[u8], on_wire: usize) {
        let kept = &frame[..frame.len().min(self.config.snap_bytes as usize)];
        let len = RECORD_HEADER_BYTES + kept.len();
        if self.buffer.len() + len > self.buffer.capacity() {
            self.flush();
        }
        if self.error.is_some() || len > self.buffer.capacity() {
            self.lost += 1;
            return;
        }
        let time = Duration::from_nanos(at.nanos()).saturating_add(self.config.origin);
        for word in [time.as_secs() as u32, time.subsec_nanos(), kept.len() as u32, on_wire as u32] {
            self.buffer.extend(word.to_le_bytes());
        }
        self.buffer.extend(kept);
        self.records += 1;
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

#[cfg(test)]
mod tests {
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
        let config = PcapConfig { snap_bytes: 64, origin: Duration::new(1_700_000_000, 5), ..PcapConfig::default() };
        let mut writer = PcapWriter::new(sink.clone(), config);
        let at = Instant::from_nanos(2_000_000_007);
        writer.record(at, &[0xaa; 100]);
        writer.record(at, &[0xaa; 60]);
        writer.record_cut(at, &[0xbb; 20], 1_500);
        assert_eq!(writer.records(), 3);
        assert!(sink.bytes.borrow().is_empty(), "nothing is written on the data path while there is room");
        drop(writer);

        let file = sink.bytes.borrow();
        assert_eq!(words(&file[..24]), [0xa1b2_3c4d, 0x0004_0002, 0, 0, 64, 1]);
        assert_eq!(words(&file[24..40]), [1_700_000_002, 12, 64, 100]);
        assert_eq!(file[40..104], [0xaa; 64]);
        assert_eq!(words(&file[104..120]), [1_700_000_002, 12, 60, 60]);
        assert_eq!(file[120..180], [0xaa; 60]);
        assert_eq!(words(&file[180..196]), [1_700_000_002, 12, 20, 1_500]);
        assert_eq!(file[196..], [0xbb; 20]);
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
}
