//! The HTTP server against requests as they may come: cut anywhere, pipelined, chunked, wrong.

use core::time::Duration;
use std::net::SocketAddr;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use syncline::apps::{ServeApp, Server, payload};
use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::device::link::{Link, LinkConfig};
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::NextHop;
use syncline_engine::time::Instant;
use syncline_tests::host::{Host, config, secrets};
use syncline_tests::sim::Sim;

/// Says its parts one after the other, each in a segment of its own, closes after the last, and listens to the end.
struct Script {
    parts: Vec<Vec<u8>>,
    said: usize,
    id: Option<ConnId>,
    due: Instant,
    heard: Vec<u8>,
    end: Option<End>,
}

const SERVER: &str = "10.0.0.2";
const GAP: Duration = Duration::from_millis(1);

impl App for Script {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        conn.abort();
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.id = Some(conn.id());
    }

    fn received(&mut self, _: &mut Conn<'_>, data: &[u8]) -> usize {
        self.heard.extend_from_slice(data);
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        conn.close();
    }

    fn closed(&mut self, _: ConnId, _: u64, end: End, _: Instant) {
        self.end = Some(end);
    }

    fn fill(&self, _: u32, _: u32, _: &mut [u8]) {}

    fn poll(&mut self, net: &mut Net<'_>) {
        let now = net.now();
        if now < self.due || self.end.is_some() {
            return;
        }
        self.due = now + GAP;
        let remote = SocketAddr::new(SERVER.parse().unwrap(), 80);
        let Some(id) = self.id else {
            if net.connections() == 0 && net.resolve(remote.ip()) == NextHop::Ready {
                net.connect(remote, 0).unwrap();
            }
            return;
        };
        let Some(mut conn) = net.conn(id) else { return };
        match self.parts.get(self.said) {
            Some(part) => {
                let part = part.clone();
                let written = conn.write(&part);
                self.parts[self.said].drain(..written);
                if self.parts[self.said].is_empty() {
                    self.said += 1;
                }
            }
            None => conn.close(),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.end.is_none().then_some(self.due)
    }
}

fn say(parts: Vec<Vec<u8>>) -> String {
    let (link, device_a, device_b) = Link::pair(LinkConfig::default(), 3);
    let script = Script { parts, said: 0, id: None, due: Instant::ZERO, heard: Vec::new(), end: None };
    let server = Server::new(&[ServeApp::Http { response_bytes: 5 }], SystemTime::UNIX_EPOCH).unwrap();
    let mut a = Host::new(&config("10.0.0.1", &[]), &secrets(1), device_a, script, HeapPages::new()).unwrap();
    let mut b = Host::new(&config(SERVER, &[80]), &secrets(2), device_b, server, HeapPages::new()).unwrap();
    let mut sim = Sim::new(link, 1_000_000, Duration::from_secs(60));
    let ended = sim.run(&mut a, &mut b, |a, _| a.app().end.is_some());
    assert_eq!((ended, a.app().end), (Ok(()), Some(End::Closed)), "{}", a.app().heard.escape_ascii());
    a.app().heard.iter().map(|&octet| octet as char).collect()
}

fn body(len: usize) -> String {
    let mut octets = vec![0; len];
    payload::fill(0, &mut octets);
    octets.into_iter().map(|octet| octet as char).collect()
}

fn ok(length: usize, connection: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nServer: syncline\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
}

fn digest(upload: &[u8], connection: &str) -> String {
    let hex: String = Sha256::digest(upload).iter().map(|octet| format!("{octet:02x}")).collect();
    let text = format!("{} {hex}\n", upload.len());
    ok(text.len(), connection, &text).replace("application/octet-stream", "text/plain")
}

#[test]
fn requests_cut_anywhere_are_answered_in_order() {
    let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
        HEAD /bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x=y\r\nf\r\n0\r\n\r\n\
        GET /bytes/3000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = [
        ok(5, "keep-alive", &body(5)),
        ok(9, "keep-alive", ""),
        digest(b"abc", "keep-alive"),
        digest(b"def", "keep-alive"),
        ok(3_000, "close", &body(3_000)),
    ]
    .concat();
    for cut in 0..requests.len() {
        let parts = [&requests[..cut], &requests[cut..]];
        let parts = parts.into_iter().filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
        assert_eq!(say(parts), answers, "cut at {cut}");
    }
    assert_eq!(say(requests.chunks(1).map(<[u8]>::to_vec).collect()), answers);
}

#[test]
fn many_pipelined_requests_wait_for_room() {
    let requests = b"GET /bytes/20000 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50);
    let answers = [ok(20_000, "keep-alive", &body(20_000)), ok(5, "keep-alive", &body(5))].concat().repeat(50);
    // The half-close must not cost an answer.
    assert_eq!(say(vec![requests]).len(), answers.len());
}

#[test]
fn a_client_that_expects_to_be_told_is_told() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    let heard = say(vec![head.to_vec(), b"abcd".to_vec()]);
    assert_eq!(heard, ["HTTP/1.1 100 Continue\r\n\r\n", &digest(b"abcd", "close")].concat());
}

#[test]
fn errors_are_said_and_the_connection_closed() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
        ("GET /bytes/x HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", "413"),
        (&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000)), "431"),
    ] {
        let heard = say(vec![request.as_bytes().to_vec()]);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
        assert!(heard.contains("Connection: close\r\n"));
    }
}

#[test]
fn a_client_that_leaves_mid_request_is_let_go() {
    assert_eq!(say(vec![b"GET / HT".to_vec()]), "");
    assert_eq!(say(vec![b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab".to_vec()]), "");
}
