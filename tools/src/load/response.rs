//! Reads the answers of HTTP/1.1 servers (RFC 9112), however they are cut into segments.

use std::mem::MaybeUninit;

use crate::apps::http::chunked::ChunkReader;

/// Octets of an answer's head at most.
const HEAD_MAX: usize = 32 << 10;
/// Header fields of an answer at most.
const FIELDS_MAX: usize = 100;

/// How much of a body there is to come (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked(ChunkReader),
    UntilFin,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    keep_alive: bool,
    body: Body,
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More has to come.
    More,
    /// It is complete, and ended after so many octets of what was offered.
    Whole {
        taken: usize,
        /// The server keeps the connection.
        keep_alive: bool,
    },
    /// It is no answer, or its status says that the request failed.
    Bad,
}

/// What an answer is read as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    /// It is the answer to a HEAD request.
    pub(super) head_only: bool,
    /// Statuses that are good; empty takes 200 to 399.
    pub(super) statuses: &'a [u16],
}

impl Expected<'_> {
    fn takes(&self, status: u16) -> bool {
        if self.statuses.is_empty() { (200..=399).contains(&status) } else { self.statuses.contains(&status) }
    }
}

/// Reads one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The head as far as it came, if it did not come at once.
    pending: Vec<u8>,
    head: Option<Head>,
}

enum Parsed {
    Whole(Head, usize),
    Part,
    Bad,
}

impl Reader {
    /// Forgets the last answer, keeps the memory.
    pub(super) fn reset(&mut self) {
        self.pending.clear();
        self.head = None;
    }

    /// Reads the next `data` and hands the octets of the body to `body`.
    pub(super) fn feed(&mut self, data: &[u8], expected: Expected<'_>, mut body: impl FnMut(&[u8])) -> Progress {
        let mut pos = 0;
        let mut head = match self.head {
            Some(head) => head,
            None => match self.find_head(data, expected, &mut pos) {
                Ok(head) => head,
                Err(progress) => return progress,
            },
        };
        let rest = &data[pos..];
        let ended = match &mut head.body {
            Body::Length(left) => {
                let len = (*left).min(rest.len() as u64) as usize;
                body(&rest[..len]);
                *left -= len as u64;
                Ok((len, *left == 0))
            }
            Body::Chunked(reader) => reader.feed(rest, body),
            Body::UntilFin => {
                body(rest);
                Ok((rest.len(), false))
            }
        };
        self.head = Some(head);
        match ended {
            Ok((taken, true)) => Progress::Whole { taken: pos + taken, keep_alive: head.keep_alive },
            Ok((_, false)) => Progress::More,
            Err(_) => Progress::Bad,
        }
    }

    /// Whether the answer is complete now that the peer has closed.
    pub(super) fn ends_with_fin(&self) -> bool {
        matches!(self.head, Some(Head { body: Body::UntilFin, .. }))
    }

    /// Finds the head, of interim answers (1xx) the last; `pos` moves past it.
    fn find_head(&mut self, data: &[u8], expected: Expected<'_>, pos: &mut usize) -> Result<Head, Progress> {
        loop {
            let before = self.pending.len();
            let rest = &data[*pos..];
            let parsed = if before == 0 {
                parse(rest, expected.head_only)
            } else {
                self.pending.extend_from_slice(&rest[..rest.len().min(HEAD_MAX - before)]);
                parse(&self.pending, expected.head_only)
            };
            match parsed {
                Parsed::Whole(head, len) => {
                    self.pending.clear();
                    *pos += len - before;
                    match head.status {
                        100..=199 => continue,
                        status if expected.takes(status) => return Ok(head),
                        _ => return Err(Progress::Bad),
                    }
                }
                Parsed::Part => {
                    if before == 0 {
                        self.pending.extend_from_slice(rest);
                    }
                    return Err(Progress::More);
                }
                Parsed::Bad => return Err(Progress::Bad),
            }
        }
    }
}

fn parse(data: &[u8], head_only: bool) -> Parsed {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, data, &mut fields) {
        Ok(httparse::Status::Complete(len)) => {
            understand(&response, head_only).map_or(Parsed::Bad, |head| Parsed::Whole(head, len))
        }
        Ok(httparse::Status::Partial) if data.len() < HEAD_MAX => Parsed::Part,
        _ => Parsed::Bad,
    }
}

fn understand(response: &httparse::Response<'_, '_>, head_only: bool) -> Option<Head> {
    let status = response.code?;
    let mut keep_alive = response.version? == 1;
    let (mut length, mut chunked) = (None, false);
    for field in response.headers.iter() {
        let (name, value) = (field.name, field.value);
        if name.eq_ignore_ascii_case("content-length") {
            let octets = core::str::from_utf8(value).ok()?.parse::<u64>().ok()?;
            if length.is_some_and(|before| before != octets) {
                return None;
            }
            length = Some(octets);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case(b"chunked");
            if !chunked {
                return None;
            }
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive = (keep_alive || has(value, b"keep-alive")) && !has(value, b"close");
        }
    }
    let body = match (chunked, length) {
        _ if head_only || status == 204 || status == 304 || status < 200 => Body::Length(0),
        (true, _) => Body::Chunked(ChunkReader::default()),
        (false, Some(length)) => Body::Length(length),
        (false, None) => Body::UntilFin,
    };
    Some(Head { status, keep_alive: keep_alive && body != Body::UntilFin, body })
}

/// Whether a comma-separated list has this word.
fn has(list: &[u8], word: &[u8]) -> bool {
    list.split(|&octet| octet == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Expected<'static> = Expected { head_only: false, statuses: &[] };

    #[test]
    fn statuses_are_good_or_bad_as_asked() {
        for (statuses, status, good) in [
            (&[][..], 200, true),
            (&[], 399, true),
            (&[], 404, false),
            (&[404], 404, true),
            (&[404], 200, false),
            (&[200, 201], 201, true),
        ] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            let progress = Reader::default().feed(answer.as_bytes(), Expected { statuses, ..ANY }, |_| {});
            assert_eq!(progress != Progress::Bad, good, "{status} of {statuses:?}");
        }
    }

    fn read(parts: &[&[u8]]) -> (Progress, Vec<u8>) {
        let (mut reader, mut body, mut progress) = (Reader::default(), Vec::new(), Progress::More);
        for part in parts {
            progress = reader.feed(part, ANY, |octets| body.extend_from_slice(octets));
            if progress != Progress::More {
                break;
            }
        }
        (progress, body)
    }

    #[test]
    fn every_split_of_every_framing_reads_the_same() {
        for (answer, keep) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello"[..], true),
            (b"HTTP/1.1 206 Partial\r\ntransfer-encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        ] {
            for cut in 0..answer.len() {
                let (progress, body) = read(&[&answer[..cut], &answer[cut..]]);
                assert_eq!(body, b"hello", "{cut}");
                assert!(matches!(progress, Progress::Whole { keep_alive, .. } if keep_alive == keep), "{cut} {progress:?}");
            }
            let octets: Vec<_> = answer.chunks(1).collect();
            assert_eq!(read(&octets).1, b"hello");
        }
    }

    #[test]
    fn a_body_without_length_ends_with_the_fin() {
        let mut reader = Reader::default();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nany", ANY, |_| {}), Progress::More);
        assert!(reader.ends_with_fin());
        reader.reset();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nany", ANY, |_| {}), Progress::More);
        assert!(!reader.ends_with_fin());
    }

    #[test]
    fn what_is_no_good_answer() {
        for answer in [
            &b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..],
            b"HTTP/1.1 500 Oops\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert_eq!(read(&[answer]).0, Progress::Bad, "{}", answer.escape_ascii());
        }
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nX: ", &vec![b'x'; HEAD_MAX]]).0, Progress::Bad);
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
        let progress = Reader::default().feed(answer, Expected { head_only: true, ..ANY }, |_| {});
        assert_eq!(progress, Progress::Whole { taken: answer.len(), keep_alive: true });
    }
}
