//! Requests as octets, written once and sent again and again.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::plan::{Exchange, HttpRequest, Plan, Site};
use crate::apps::payload;
use crate::watch::ledger::TOKEN_BYTES;

/// Octets of a body in chunks: one chunk each.
const CHUNK_BYTES: usize = 16 << 10;

/// A request: its head, if it has one, then `body` octets of [`payload`].
#[derive(Debug)]
pub(super) struct Template {
    pub(super) head: Box<[u8]>,
    body: u64,
    /// Where a token goes, if there is to be one and there is room.
    pub(super) token_at: Option<u64>,
}

impl Template {
    /// The requests of a plan: one if all are the same octets, else two for each target, the second with
    /// `Connection: close`.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let flows = plan.flows();
        if let ([flow], Exchange::Octets { .. }) = (&flows[..], &flows[0].exchange) {
            return vec![Self::of(&flow.exchange, plan, 0, false)];
        }
        let mut templates = Vec::new();
        for flow in &flows {
            for target in flow.targets.0 as usize..flow.targets.1 as usize {
                templates.extend([false, true].map(|last| Self::of(&flow.exchange, plan, target, last)));
            }
        }
        templates
    }

    fn of(exchange: &Exchange, plan: &Plan, target: usize, last: bool) -> Self {
        match exchange {
            Exchange::Octets { request, content: Some(content), .. } => {
                debug_assert_eq!(*request, content.len() as u64);
                Self { head: content.as_ref().into(), body: 0, token_at: None }
            }
            Exchange::Octets { request, .. } => {
                let room = plan.tokens && *request >= TOKEN_BYTES as u64;
                Self { head: Box::default(), body: *request, token_at: room.then_some(0) }
            }
            Exchange::Http(request) => {
                let site = plan.sites.get(target).cloned().unwrap_or_default();
                Self::http(request, plan.targets[target], &site, last, plan.tokens)
            }
        }
    }

    fn http(request: &HttpRequest, target: SocketAddr, site: &Site, last: bool, token: bool) -> Self {
        let HttpRequest { method, path, host, fields, body, content, chunked } = request;
        let path = site.path.as_ref().unwrap_or(path);
        let host = host.as_ref().or(site.host.as_ref()).cloned().unwrap_or_else(|| target.to_string());
        let given = |name: &str| fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let mut token_at = None;
        if token {
            head += "Syncline-Connection: ";
            token_at = Some(head.len() as u64);
            head += &"-".repeat(TOKEN_BYTES);
            head += "\r\n";
        }
        // Writing to a String cannot fail.
        if !given("host") {
            let _ = write!(head, "Host: {host}\r\n");
        }
        if !given("user-agent") {
            head += "User-Agent: syncline\r\n";
        }
        let length = content.as_ref().map_or(*body, |content| content.len() as u64);
        if *chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if (length > 0 || method == "POST" || method == "PUT") && !given("content-length") {
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        if last {
            head += "Connection: close\r\n";
        }
        fields.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        head += "\r\n";
        let mut head = head.into_bytes();
        if *chunked {
            let pattern = || {
                let mut octets = vec![0; *body as usize];
                payload::fill(0, &mut octets);
                octets
            };
            head.extend(in_chunks(&content.as_ref().map_or_else(pattern, |content| content.to_vec())));
            return Self { head: head.into(), body: 0, token_at };
        }
        head.extend(content.iter().flat_map(|content| content.iter()));
        Self { head: head.into(), body: if content.is_some() { 0 } else { *body }, token_at }
    }

    /// Whether it is [`payload`] and nothing else.
    pub(super) fn is_pattern(&self) -> bool {
        self.head.is_empty() && self.token_at.is_none()
    }

    pub(super) fn total(&self) -> u64 {
        self.body.saturating_add(self.head.len() as u64)
    }
}

/// `body` as RFC 9112 §7.1 has it.
fn in_chunks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / CHUNK_BYTES * 8 + 16);
    for chunk in body.chunks(CHUNK_BYTES) {
        out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::plan::Profile;
    use super::*;

    fn template(change: impl FnOnce(&mut HttpRequest, &mut Plan)) -> String {
        let mut plan = Plan::new(Profile::Http, vec![SocketAddr::from(([10, 0, 0, 1], 80))]);
        let Exchange::Http(mut request) = plan.exchange.clone() else { unreachable!() };
        change(&mut request, &mut plan);
        plan.exchange = Exchange::Http(request);
        String::from_utf8(Template::all(&plan)[0].head.to_vec()).unwrap()
    }

    #[test]
    fn a_request_names_its_host_once() {
        assert_eq!(template(|_, _| ()), "GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\nUser-Agent: syncline\r\n\r\n");
        let named = template(|_, plan| {
            plan.sites = vec![Site { host: Some("a.test".into()), path: Some("/x?y=1".into()) }];
        });
        assert!(named.starts_with("GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\n"), "{named}");
        let given = template(|request, _| request.fields = vec![("host".into(), "b.test".into())]);
        assert_eq!(given, "GET / HTTP/1.1\r\nUser-Agent: syncline\r\nhost: b.test\r\n\r\n");
    }

    #[test]
    fn a_body_has_its_length_or_its_chunks() {
        let content = Some(b"abc".as_slice().into());
        let with_length = template(|request, _| {
            (request.method, request.content) = ("POST".into(), content.clone());
        });
        assert!(with_length.ends_with("Content-Length: 3\r\n\r\nabc"), "{with_length}");
        let chunked = template(|request, _| (request.content, request.chunked) = (content.clone(), true));
        assert!(chunked.ends_with("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{chunked}");
        assert!(!chunked.contains("Content-Length"));
        assert_eq!(in_chunks(&vec![b'x'; CHUNK_BYTES + 1]).len(), CHUNK_BYTES + 6 + 2 + 1 + 3 + 2 + 5);
    }
}
