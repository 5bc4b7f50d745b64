//! A connection that grew from a cookie, as a Linux client sees it.

use crate::stage::{End, stage, towards_a_kernel};

/// What the client's kernel says it agreed on (TCP_INFO of Linux): timestamps, SACK and window scaling as bits 0 to 2 of
/// the options, then both shifts, then the segment it may send.
const AGREED: &str = "
import socket, struct
s = socket.create_connection(('10.9.0.1', 7), 10)
s.sendall(b'x' * 100000)
s.shutdown(socket.SHUT_WR)
back = 0
while piece := s.recv(1 << 16):
    back += len(piece)
info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
print(back, info[5] & 7, info[6] & 15, info[6] >> 4, struct.unpack_from('I', info, 16)[0])
";

#[test]
fn a_cookie_keeps_all_that_was_agreed_with_a_linux_client() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3"]) else { return };
    let mut agreed = Vec::new();
    for cookies in ["never", "always"] {
        let server = stage.serve(&format!("--port 7 --app echo --syn-cookies {cookies}"));
        agreed.push(stage.python(End::B, AGREED));
        let report = server.interrupt();
        assert_eq!(report.number("/connections/completed"), 1.0, "{report}");
        let accepted = report.number("/syn_cookies/accepted");
        assert_eq!(accepted, if cookies == "always" { 1.0 } else { 0.0 }, "{report}");
    }
    assert!(agreed[0].starts_with("100000 7 "), "timestamps, SACK and window scaling: {}", agreed[0]);
    assert_eq!(agreed[0], agreed[1], "without a cookie, and with one");
}
