//! Frames out of capture files: classic pcap and pcapng, either byte order, any resolution of time.

use std::fmt;
use std::io::Read;

use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

/// Longest block of a file that is read, octets: a frame of 64 KiB fits many times.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Interfaces of a section that are remembered.
const INTERFACES_MAX: usize = 4_096;

/// LINKTYPE_ETHERNET, what a block is taken for whose interface is not described.
const ETHERNET: i32 = 1;

/// A frame as it was captured.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Unix time, nanoseconds.
    pub at_ns: u64,
    /// The link's type, a number of the registry of draft-ietf-opsawg-pcaplinktype.
    pub link_type: i32,
    /// What was kept of the frame.
    pub octets: &'a [u8],
    /// How long it was on the wire.
    pub len: u32,
}

/// Why a file is no capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureError(String);

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CaptureError {}

/// How an interface of a pcapng section counts time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    link_type: i32,
    /// `if_tsresol` (draft-ietf-opsawg-pcapng §4.2): a power of ten, or of two if the highest bit is set.
    resolution: u8,
    offset_s: i64,
}

impl Clock {
    /// Unix nanoseconds of a timestamp.
    fn nanos(self, stamp: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 == 0 { 10 } else { 2 };
        let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
        let nanos =
            (u128::from(stamp) * 1_000_000_000 / per_second) as i128 + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(nanos).unwrap_or(0)
    }
}

/// Hands every frame of `file` to `take`. Returns what is wrong with the file beyond the last of them, if anything.
///
/// # Errors
/// If it is no capture at all.
pub fn read(file: impl Read + Send, mut take: impl FnMut(Packet<'_>)) -> Result<Option<String>, CaptureError> {
    let mut reader = match create_reader(BLOCK_BYTES_MAX, file) {
        Ok(reader) => reader,
        Err(PcapError::Eof) => return Err(CaptureError("it is empty".into())),
        Err(PcapError::ReadError) => return Err(CaptureError("it cannot be read".into())),
        Err(_) => return Err(CaptureError("it is neither pcap nor pcapng".into())),
    };
    let (mut link_type, mut nanoseconds) = (ETHERNET, false);
    let mut interfaces: Vec<Clock> = Vec::new();
    let (mut blocks, mut stuck_at) = (0u64, None);
    loop {
        match reader.next() {
            Ok((used, block)) => {
                blocks += 1;
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        (link_type, nanoseconds) = (header.network.0 & 0xffff, header.is_nanosecond_precision());
                    }
                    PcapBlockOwned::Legacy(frame) => {
                        let fraction = u64::from(frame.ts_usec) * if nanoseconds { 1 } else { 1_000 };
                        let kept = frame.data.len().min(frame.caplen as usize);
                        take(Packet {
                            at_ns: u64::from(frame.ts_sec) * 1_000_000_000 + fraction,
                            link_type,
                            octets: &frame.data[..kept],
                            len: frame.origlen,
                        });
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => interfaces.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) if interfaces.len() < INTERFACES_MAX => {
                        interfaces.push(Clock {
                            link_type: interface.linktype.0,
                            resolution: interface.if_tsresol,
                            offset_s: interface.if_tsoffset,
                        });
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                        let unknown = Clock { link_type: ETHERNET, resolution: 6, offset_s: 0 };
                        let clock = interfaces.get(frame.if_id as usize).copied().unwrap_or(unknown);
                        take(Packet {
                            at_ns: clock.nanos(u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low)),
                            link_type: clock.link_type,
                            octets: frame.packet_data(),
                            len: frame.origlen,
                        });
                    }
                    // A simple packet block has no time: it cannot stand in a ladder.
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return Ok(None),
            Err(PcapError::Incomplete(_)) if stuck_at != Some(blocks) => {
                stuck_at = Some(blocks);
                if reader.refill().is_err() {
                    return Ok(Some(format!("it cannot be read on after {blocks} blocks")));
                }
            }
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => {
                return Ok(Some(format!("it ends in the midst of a block, after {blocks}")));
            }
            Err(_) => return Ok(Some(format!("it is damaged after {blocks} blocks"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_any_resolution() {
        let clock = |resolution, offset_s| Clock { link_type: 1, resolution, offset_s };
        assert_eq!(clock(6, 0).nanos(1_500_000), 1_500_000_000);
        assert_eq!(clock(9, 10).nanos(7), 10_000_000_007);
        assert_eq!(clock(0x80 | 10, 0).nanos(512), 500_000_000);
        assert_eq!(clock(127, i64::MIN).nanos(u64::MAX), 0);
    }
}
