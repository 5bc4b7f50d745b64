//! An address that stays the kernel's but for a range of ports.

use crate::stage::{End, PATIENCE, stage, towards_a_kernel};
use syncline::bed::BedSpec;

/// Both ends are ordinary Linux hosts: 10.9.0.1 on end a, 10.9.0.2 on end b.
fn two_hosts() -> BedSpec {
    BedSpec { kernel_a: vec!["10.9.0.1/24".parse().unwrap()], ..towards_a_kernel() }
}

const SHARED: &str = "--shared-addr 10.9.0.1/24 --local-ports 40000-40999";

#[test]
fn the_kernel_keeps_every_other_port() {
    let Some(stage) = stage(&two_hosts(), &["curl", "python3"]) else { return };
    // The kernel's own server on the same address, and one on the other end for the load
    let listener = |address: &str| {
        format!(
            "
import http.server
class Hello(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '6')
        self.end_headers()
        self.wfile.write(b'hello\\n')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('{address}', 80), Hello).serve_forever()
"
        )
    };
    let kernels = [(End::A, "10.9.0.1"), (End::B, "10.9.0.2")]
        .map(|(end, address)| stage.spawn_in(end, &format!("http-{end:?}"), &["python3", "-c", &listener(address)]));
    let ready = |from: End, address: &str| {
        let fetch = format!("curl -s -o /dev/null http://{address}/");
        stage.shell(from, &format!("for i in $(seq 50); do {fetch} && exit 0; sleep 0.1; done; exit 1"));
    };
    ready(End::B, "10.9.0.1");
    ready(End::A, "10.9.0.2");

    let mut server = stage.engine(End::A, "serve", &format!("{SHARED} --port 40080 --app http"));
    server.wait_ready();
    let kernel = || stage.shell(End::B, "curl -sS --fail http://10.9.0.1/");
    assert_eq!(kernel(), "hello\n");
    assert_eq!(stage.shell(End::B, "curl -sS --fail http://10.9.0.1:40080/bytes/100000 | wc -c").trim(), "100000");
    assert_eq!(kernel(), "hello\n");
    // What the kernel opens itself, from any port that is not ours, is not disturbed either
    assert_eq!(stage.shell(End::A, "curl -sS --fail --local-port 30000-39999 http://10.9.0.2/"), "hello\n");
    let report = server.interrupt();
    assert!(matches!(report.code(), Some(0 | 6)), "{report}");
    assert_eq!(report.number("/connections/completed"), 1.0, "{report}");

    let words = format!("{SHARED} --target 10.9.0.2:80 --profile http --path / --count 200 --concurrency 8");
    let report = stage.engine(End::A, "load", &words).finish(PATIENCE).expect_success();
    assert_eq!(report.number("/connections/completed"), 200.0, "{report}");
    assert_eq!(report.failed(), 0.0, "{report}");
    assert_eq!(kernel(), "hello\n");
    for kernel in kernels {
        kernel.terminate();
    }
}
