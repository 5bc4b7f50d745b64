//! A small HTTP server: one page, few clients, nothing that a client can do to the run.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use super::page::{Format, page};
use crate::privilege;
use crate::run::aside::step_aside;

/// Clients at a time; the next is told to come back.
const CLIENTS_MAX: usize = 8;

/// How long a client may take for its request, and for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Octets of a request.
const REQUEST_MAX: usize = 8 << 10;

/// Fields of a request.
const FIELDS_MAX: usize = 64;

/// How long to wait after an accept that failed: for descriptors, most likely.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Answers on `listener` as long as the process lives.
pub(super) fn start(listener: TcpListener, registry: Registry, cores: Vec<usize>) -> io::Result<()> {
    let registry = Arc::new(registry);
    let body = move || {
        // Answering takes no privilege. Where it cannot be given up, the threads at work say so.
        let _ = privilege::give_up();
        step_aside(cores);
        let clients = Arc::new(AtomicUsize::new(0));
        loop {
            match listener.accept() {
                Ok((stream, _)) => admit(stream, &registry, &clients),
                Err(_) => thread::sleep(AGAIN_AFTER),
            }
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(body).map(drop)
}

/// A client's place among those at a time.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit(stream: TcpStream, registry: &Arc<Registry>, clients: &Arc<AtomicUsize>) {
    if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
        drop(Place(Arc::clone(clients)));
        let answer = Answer::refusal("503 Service Unavailable", "too many clients; try again");
        // It need not take it, and nobody waits for it to.
        let _ = stream.set_nonblocking(true).and_then(|()| (&stream).write_all(&answer.octets(true)));
        return;
    }
    let place = Place(Arc::clone(clients));
    let registry = Arc::clone(registry);
    let body = move || {
        let _place = place;
        // A client that went away has no use for an error.
        let _ = serve(stream, &registry);
    };
    // Without a thread there is no answer; the next client may have more luck.
    let _ = thread::Builder::new().name("metrics-client".into()).spawn(body);
}

/// What a client is told.
struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// Other fields of the head, each ended.
    fields: &'static str,
    body: String,
}

impl Answer {
    fn refusal(status: &'static str, why: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", fields: "", body: format!("{why}\n") }
    }

    fn octets(&self, with_body: bool) -> Vec<u8> {
        let Self { status, content_type, fields, body } = self;
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n"
        );
        if with_body { [head.as_bytes(), body.as_bytes()].concat() } else { head.into_bytes() }
    }
}

fn serve(mut stream: TcpStream, registry: &Registry) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let (answer, with_body) = match read_request(&mut stream, end)? {
        Some(request) => (answer(&request, registry), !request.head_only),
        None => (Answer::refusal("400 Bad Request", "this is no request for metrics; GET /metrics"), true),
    };
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&answer.octets(with_body))?;
    // What is left of a request would make the close a reset, which may overtake the answer.
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 1024];
    for _ in 0..REQUEST_MAX / rest.len() {
        if read_until(&mut stream, &mut rest, end)? == 0 {
            break;
        }
    }
    Ok(())
}

/// What matters of a request.
struct Request {
    good_method: bool,
    head_only: bool,
    path: String,
    accept: String,
}

/// Reads the head of a request; `None` if it is none, too long or too slow.
fn read_request(stream: &mut TcpStream, end: Instant) -> io::Result<Option<Request>> {
    let mut octets = [0; REQUEST_MAX];
    let mut filled = 0;
    while filled < octets.len() {
        let count = match read_until(stream, &mut octets[filled..], end) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        filled += count;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&octets[..filled]) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) => return Ok(Some(Request::of(&request))),
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

impl Request {
    fn of(request: &httparse::Request<'_, '_>) -> Self {
        let accept = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("accept"));
        let accept: Vec<_> = accept.map(|field| String::from_utf8_lossy(field.value)).collect();
        let path = request.path.unwrap_or_default();
        Self {
            good_method: matches!(request.method, Some("GET" | "HEAD")),
            head_only: request.method == Some("HEAD"),
            path: path.split('?').next().unwrap_or_default().to_owned(),
            accept: accept.join(",").to_ascii_lowercase(),
        }
    }
}

fn answer(request: &Request, registry: &Registry) -> Answer {
    match request.path.as_str() {
        _ if !request.good_method => {
            Answer { fields: "Allow: GET, HEAD\r\n", ..Answer::refusal("405 Method Not Allowed", "only GET and HEAD") }
        }
        "/metrics" => {
            let format = Format::accepted(&request.accept);
            match page(registry, format) {
                Ok(body) => Answer { status: "200 OK", content_type: format.content_type(), fields: "", body },
                Err(_) => Answer::refusal("500 Internal Server Error", "the page cannot be written"),
            }
        }
        "/" => Answer { status: "200 OK", ..Answer::refusal("", "metrics are at /metrics") },
        _ => Answer::refusal("404 Not Found", "metrics are at /metrics"),
    }
}

/// Reads what there is, waiting for it no longer than `end`.
fn read_until(stream: &mut TcpStream, into: &mut [u8], end: Instant) -> io::Result<usize> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.read(into)
}
