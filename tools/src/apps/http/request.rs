//! The head of a request (RFC 9112 §2 to §6): what it asks for, or the error that it deserves.

use std::mem::MaybeUninit;

/// Octets of a request's head at most; more is answered by 431.
pub(super) const HEAD_MAX: usize = 16 << 10;

/// Header fields of a request at most; more is answered by 431.
const FIELDS_MAX: usize = 64;

/// Octets of a generated body at most.
pub(super) const BODY_MAX: u64 = super::super::RESPONSE_MAX;

/// Errors that this server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    ContentTooLarge,
    FieldsTooLarge,
    Unavailable,
}

impl Status {
    /// Every one, in order of declaration.
    pub(super) const ALL: [Self; 6] = [
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::ContentTooLarge,
        Self::FieldsTooLarge,
        Self::Unavailable,
    ];

    /// Code and reason phrase.
    pub(super) const fn line(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::FieldsTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The listener's default body.
    Default,
    /// A body of so many octets.
    Bytes(u64),
    /// What became of the upload.
    Digest,
    /// Something that gets this error instead.
    Nothing(Status),
}

/// How the request's own body is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// A request's head, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) asked: Asked,
    /// Only the answer's head is wanted.
    pub(super) head_only: bool,
    /// The connection stays open after the answer.
    pub(super) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub(super) expects: bool,
    pub(super) framing: Framing,
}

/// What was found at the start of some octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A whole head, and its length.
    Whole(Request, usize),
    /// The beginning of one.
    Part,
    /// None: answer this and close.
    Bad(Status),
}

/// Reads a head from the start of `data`.
pub(super) fn parse(data: &[u8]) -> Parsed {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(data, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_MAX => match understand(&request) {
            Ok(request) => Parsed::Whole(request, len),
            Err(status) => Parsed::Bad(status),
        },
        Ok(httparse::Status::Partial) if data.len() < HEAD_MAX => Parsed::Part,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Parsed::Bad(Status::FieldsTooLarge),
        Err(_) => Parsed::Bad(Status::BadRequest),
    }
}

fn understand(request: &httparse::Request<'_, '_>) -> Result<Request, Status> {
    let newer = request.version == Some(1);
    let (mut keep_alive, mut expects, mut hosts) = (newer, false, 0);
    let (mut length, mut chunked) = (None, false);
    for field in request.headers.iter() {
        let name = field.name;
        if name.eq_ignore_ascii_case("content-length") {
            let value = number(field.value).ok_or(Status::BadRequest)?;
            if length.is_some_and(|before| before != value) {
                return Err(Status::BadRequest);
            }
            length = Some(value);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // Nothing but a lone `chunked` is understood (RFC 9112 §6.1).
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Status::BadRequest);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in field.value.split(|&octet| octet == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    keep_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && !newer {
                    keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("expect") {
            expects = newer && field.value.eq_ignore_ascii_case(b"100-continue");
        } else if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        }
    }
    // RFC 9112 §3.2 for Host; §6.1: a message with both delimiters is how requests are smuggled.
    if (newer && hosts != 1) || (chunked && (length.is_some() || !newer)) {
        return Err(Status::BadRequest);
    }
    let length = length.unwrap_or(0);
    if length > 1 << 62 {
        return Err(Status::ContentTooLarge);
    }
    let (asked, head_only) = match request.method {
        Some("GET") => (route(request.path.unwrap_or("/")), false),
        Some("HEAD") => (route(request.path.unwrap_or("/")), true),
        Some("POST" | "PUT") => (Asked::Digest, false),
        _ => (Asked::Nothing(Status::MethodNotAllowed), false),
    };
    let framing = if chunked { Framing::Chunked } else { Framing::Length(length) };
    Ok(Request { asked, head_only, keep_alive, expects, framing })
}

/// The body behind a path; the query does not matter.
fn route(path: &str) -> Asked {
    let path = path.split('?').next().unwrap_or(path);
    match path.strip_prefix("/bytes/") {
        None => Asked::Default,
        Some(count) => match number(count.as_bytes()) {
            Some(octets) if octets <= BODY_MAX => Asked::Bytes(octets),
            _ => Asked::Nothing(Status::NotFound),
        },
    }
}

/// A number of decimal digits, nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(head: &str) -> Request {
        match parse(head.as_bytes()) {
            Parsed::Whole(request, len) if len == head.len() => request,
            other => panic!("{head}: {other:?}"),
        }
    }

    #[test]
    fn what_a_head_asks_for() {
        let get = whole("GET /bytes/1048576?x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(get.asked, Asked::Bytes(1 << 20));
        assert!(get.keep_alive && !get.head_only && get.framing == Framing::Length(0));
        assert!(!whole("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(whole("HEAD / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n").keep_alive);
        let post = whole("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((post.asked, post.expects, post.framing), (Asked::Digest, true, Framing::Length(5)));
        let put = whole("PUT /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(put.framing, Framing::Chunked);
        let missing = whole("GET /bytes/1x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(missing.asked, Asked::Nothing(Status::NotFound));
        let delete = whole("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(delete.asked, Asked::Nothing(Status::MethodNotAllowed));
    }

    #[test]
    fn what_deserves_an_error() {
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Status::BadRequest),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Status::BadRequest),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", Status::BadRequest),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Status::BadRequest,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", Status::ContentTooLarge),
            ("\u{1}\r\n\r\n", Status::BadRequest),
        ] {
            assert_eq!(parse(head.as_bytes()), Parsed::Bad(status), "{head}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(HEAD_MAX));
        assert_eq!(parse(long.as_bytes()), Parsed::Bad(Status::FieldsTooLarge));
        assert_eq!(parse(&long.as_bytes()[..HEAD_MAX]), Parsed::Bad(Status::FieldsTooLarge));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(FIELDS_MAX));
        assert_eq!(parse(many.as_bytes()), Parsed::Bad(Status::FieldsTooLarge));
    }

    #[test]
    fn every_prefix_is_a_part() {
        let head = b"GET /bytes/1 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
        assert!((0..head.len()).all(|cut| parse(&head[..cut]) == Parsed::Part));
    }
}
