//! The chunked transfer coding (RFC 9112 §7.1), read piece by piece.

/// Octets of chunk extensions and trailers that are put up with, in all.
const OVERHEAD_MAX: u32 = 16 << 10;

/// Why a body is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk;

/// How far into a chunked body the reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// In a chunk's size, of which so many digits have been read.
    #[default]
    Size,
    /// After the size, in an extension or white space.
    Extension,
    /// After the CR of the size's line.
    SizeEnd,
    /// In the data.
    Data,
    /// After the data.
    DataEnd,
    /// After the CR that follows the data.
    DataEndLf,
    /// At the first octet of a trailer line.
    Trailer,
    /// Within a trailer line.
    TrailerLine,
    /// After the CR of the empty line that ends it all.
    LastLf,
    Done,
}

/// Reads a chunked body. Holds no data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChunkReader {
    at: At,
    digits: u8,
    overhead: u32,
    left: u64,
}

impl ChunkReader {
    /// Reads from `data`, hands the octets of the body to `body`, and returns how many octets of `data` belong to the
    /// coding and whether it ended there.
    pub(crate) fn feed(&mut self, data: &[u8], mut body: impl FnMut(&[u8])) -> Result<(usize, bool), BadChunk> {
        let mut pos = 0;
        while pos < data.len() && self.at != At::Done {
            if self.at == At::Data {
                let len = self.left.min((data.len() - pos) as u64) as usize;
                body(&data[pos..pos + len]);
                pos += len;
                self.left -= len as u64;
                if self.left == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            self.framing(data[pos])?;
            pos += 1;
        }
        Ok((pos, self.at == At::Done))
    }

    fn framing(&mut self, octet: u8) -> Result<(), BadChunk> {
        if matches!(self.at, At::Extension | At::TrailerLine | At::Trailer) {
            self.overhead += 1;
            if self.overhead > OVERHEAD_MAX {
                return Err(BadChunk);
            }
        }
        self.at = match (self.at, octet) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.digits < 15 => {
                let digit = (octet as char).to_digit(16).ok_or(BadChunk)?;
                self.left = self.left << 4 | u64::from(digit);
                self.digits += 1;
                At::Size
            }
            (At::Size, b';' | b' ' | b'\t') if self.digits > 0 => At::Extension,
            (At::Size, b'\r') if self.digits > 0 => At::SizeEnd,
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, octet) if octet != b'\n' => At::Extension,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::Trailer } else { At::Data }
            }
            (At::DataEnd, b'\r') => At::DataEndLf,
            (At::DataEndLf, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::LastLf,
            (At::Trailer, octet) if octet != b'\n' => At::TrailerLine,
            (At::TrailerLine, b'\n') => At::Trailer,
            (At::TrailerLine, _) => At::TrailerLine,
            (At::LastLf, b'\n') => At::Done,
            _ => return Err(BadChunk),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut reader, mut body, mut total, mut done) = (ChunkReader::default(), Vec::new(), 0, false);
        for part in parts {
            let (taken, ended) = reader.feed(part, |octets| body.extend_from_slice(octets))?;
            (total, done) = (total + taken, ended);
        }
        Ok((body, total, done))
    }

    #[test]
    fn every_split_reads_the_same() {
        let wire = b"4\r\nWiki\r\n6;a=\"b\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\nGET";
        let end = wire.len() - 3;
        for cut in 0..=wire.len() {
            let (body, total, done) = read(&[&wire[..cut], &wire[cut..]]).unwrap();
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.", "{cut}");
            assert!(done && total <= end);
        }
        assert_eq!(read(&[wire]).unwrap().1, end);
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wire in [&b"\r\n"[..], b"g\r\n", b"4\nWiki", b"4\r\nWikix", b"1000000000000000\r\n", b"0\r\n\n", b"-1\r\n"]
        {
            assert_eq!(read(&[wire]), Err(BadChunk), "{}", wire.escape_ascii());
        }
        let endless = [b"1;".as_slice(), &[b'x'; 17 << 10]].concat();
        assert_eq!(read(&[&endless]), Err(BadChunk));
    }
}
