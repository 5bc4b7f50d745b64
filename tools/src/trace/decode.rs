//! From a captured frame, perhaps cut short, to a TCP segment.
//!
//! Reads headers only, and trusts the lengths they tell over what was captured. Never panics, whatever the octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;
use syncline_engine::wire::tcp::TcpHeader;
use syncline_engine::wire::{Flags, Seq, TcpOptions};

use super::capture::Packet;

/// A TCP segment, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Unix time, nanoseconds.
    pub at_ns: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as it is in the header.
    pub window: u16,
    /// Octets of text.
    pub len: u32,
    /// The options, as far as they were captured.
    pub options: TcpOptions,
}

impl Segment {
    /// The sequence number after the last octet of text or FIN.
    pub fn end(&self) -> Seq {
        self.seq + self.len.wrapping_add(self.flags.seq_len())
    }
}

/// Why a frame has no segment to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It carries something else than TCP over IP.
    NotTcp,
    /// It is a fragment that has no TCP header.
    Fragment,
    /// Too little of it was captured, or it was too short on the wire.
    CutShort,
    /// Its link type is not known here.
    LinkType,
}

/// Frames without a segment to show, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Something else than TCP over IP.
    pub not_tcp: u64,
    /// Fragments without a TCP header.
    pub fragments: u64,
    /// Captured, or sent, without a whole TCP header.
    pub cut_short: u64,
    /// On a link of a type that is not known here.
    pub link_type: u64,
}

impl Skipped {
    /// Counts one.
    pub fn count(&mut self, why: Decoded) {
        *match why {
            Decoded::NotTcp => &mut self.not_tcp,
            Decoded::Fragment => &mut self.fragments,
            Decoded::CutShort => &mut self.cut_short,
            Decoded::LinkType => &mut self.link_type,
        } += 1;
    }
}

const TCP: u8 = 6;

fn u16_at(octets: &[u8], at: usize) -> Result<u16, Decoded> {
    octets.get(at..).and_then(|rest| rest.first_chunk()).map(|pair| u16::from_be_bytes(*pair)).ok_or(Decoded::CutShort)
}

/// Reads a frame.
///
/// # Errors
/// Why it has no segment to show.
pub fn decode(packet: Packet<'_>) -> Result<Segment, Decoded> {
    let octets = packet.octets;
    // Where the IP header begins, by the link's type: Ethernet, raw IP, Linux "cooked" in both versions.
    let (at, kind) = match packet.link_type {
        1 => ethernet(octets)?,
        12 | 14 | 101 | 228 | 229 => (0, None),
        113 => (16, Some(u16_at(octets, 14)?)),
        276 => (20, Some(u16_at(octets, 0)?)),
        _ => return Err(Decoded::LinkType),
    };
    if !matches!(kind, None | Some(0x0800 | 0x86dd)) {
        return Err(Decoded::NotTcp);
    }
    let ip = octets.get(at..).ok_or(Decoded::CutShort)?;
    let on_wire = (packet.len as usize).max(octets.len()).saturating_sub(at);
    let (source, destination, header_len, total_len) = match ip.first().ok_or(Decoded::CutShort)? >> 4 {
        4 => v4(ip, on_wire)?,
        6 => v6(ip, on_wire)?,
        _ => return Err(Decoded::NotTcp),
    };
    let tcp = ip.get(header_len..).ok_or(Decoded::CutShort)?;
    segment(packet.at_ns, source, destination, tcp, total_len.saturating_sub(header_len))
}

fn ethernet(octets: &[u8]) -> Result<(usize, Option<u16>), Decoded> {
    let (mut at, mut kind) = (14, u16_at(octets, 12)?);
    // A provider's tag, a customer's, and one to spare.
    for _ in 0..3 {
        if !matches!(kind, 0x8100 | 0x88a8 | 0x9100) {
            break;
        }
        kind = u16_at(octets, at + 2)?;
        at += 4;
    }
    Ok((at, Some(kind)))
}

type Ip = (IpAddr, IpAddr, usize, usize);

fn v4(ip: &[u8], on_wire: usize) -> Result<Ip, Decoded> {
    let fixed: &[u8; 20] = ip.first_chunk().ok_or(Decoded::CutShort)?;
    let header_len = usize::from(fixed[0] & 15) * 4;
    if fixed[9] != TCP {
        return Err(Decoded::NotTcp);
    }
    if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0 {
        return Err(Decoded::Fragment);
    }
    if header_len < 20 {
        return Err(Decoded::CutShort);
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]));
    let total = match usize::from(u16::from_be_bytes([fixed[2], fixed[3]])) {
        // What a kernel captures before its device has cut it up.
        0 => on_wire,
        total => total,
    };
    Ok((address(12), address(16), header_len, total))
}

fn v6(ip: &[u8], on_wire: usize) -> Result<Ip, Decoded> {
    let fixed: &[u8; 40] = ip.first_chunk().ok_or(Decoded::CutShort)?;
    let address = |octets: &[u8]| <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
    let (Ok(source), Ok(destination)) = (address(&fixed[8..24]), address(&fixed[24..40])) else {
        return Err(Decoded::CutShort);
    };
    let total = match usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) {
        0 => on_wire,
        payload => payload + 40,
    };
    let (mut next, mut at) = (fixed[6], 40);
    // Extension headers (RFC 8200 §4.1); more of them than there are kinds is no packet of anybody's.
    for _ in 0..8 {
        match next {
            TCP => return Ok((source, destination, at, total)),
            0 | 43 | 60 => {
                let [after, len] = *ip.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Decoded::CutShort)?;
                (next, at) = (after, at + 8 + usize::from(len) * 8);
            }
            44 => {
                if u16_at(ip, at + 2)? & 0xfff8 != 0 {
                    return Err(Decoded::Fragment);
                }
                (next, at) = (ip[at], at + 8);
            }
            _ => return Err(Decoded::NotTcp),
        }
    }
    Err(Decoded::NotTcp)
}

fn segment(at_ns: u64, source: IpAddr, destination: IpAddr, tcp: &[u8], len: usize) -> Result<Segment, Decoded> {
    let header_len = usize::from(tcp.get(12).ok_or(Decoded::CutShort)? >> 4) * 4;
    if header_len < 20 || header_len > len {
        return Err(Decoded::CutShort);
    }
    let kept = tcp.len().min(header_len);
    let mut fixed: [u8; 20] = *tcp.first_chunk().ok_or(Decoded::CutShort)?;
    // The options are read for themselves: an option that was cut off ends them.
    fixed[12] = 5 << 4;
    let header = TcpHeader::parse(&fixed).map_err(|_| Decoded::CutShort)?;
    Ok(Segment {
        at_ns,
        from: SocketAddr::new(source, header.source_port()),
        to: SocketAddr::new(destination, header.destination_port()),
        seq: header.seq(),
        ack: header.ack(),
        flags: header.flags(),
        window: header.window(),
        len: u32::try_from(len - header_len).unwrap_or(0),
        options: TcpOptions::parse(&tcp[20..kept]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(octets: &[u8]) -> Packet<'_> {
        Packet { at_ns: 7, link_type: 1, octets, len: octets.len() as u32 }
    }

    /// A SYN in a frame with two VLAN tags.
    fn syn() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x08, 0]);
        frame.extend([0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        frame.extend([1, 2, 3, 4]);
        frame
    }

    #[test]
    fn a_frame_cut_anywhere_is_read_as_far_as_it_goes() {
        let whole = syn();
        let full = decode(packet(&whole)).unwrap();
        assert_eq!((full.from.to_string(), full.to.port()), ("10.0.0.1:40000".into(), 80));
        assert_eq!((full.seq, full.len, full.options.mss), (Seq(9), 4, Some(1460)));
        for kept in 0..whole.len() {
            let cut = decode(Packet { len: whole.len() as u32, ..packet(&whole[..kept]) });
            match kept {
                0..62 => assert_eq!(cut, Err(Decoded::CutShort), "{kept}"),
                62..66 => {
                    let options = TcpOptions { malformed: kept > 62, ..TcpOptions::NONE };
                    assert_eq!(cut, Ok(Segment { options, ..full }), "{kept}");
                }
                _ => assert_eq!(cut.unwrap(), full, "{kept}"),
            }
        }
    }

    #[test]
    fn what_is_no_tcp_is_told_apart() {
        let mut frame = syn();
        frame[31] = 17;
        assert_eq!(decode(packet(&frame)), Err(Decoded::NotTcp));
        let mut frame = syn();
        frame[29] = 1;
        assert_eq!(decode(packet(&frame)), Err(Decoded::Fragment));
        assert_eq!(decode(Packet { link_type: 147, ..packet(&syn()) }), Err(Decoded::LinkType));
        assert_eq!(decode(Packet { link_type: 101, ..packet(&syn()[22..]) }).map(|s| s.len), Ok(4));
    }
}
