//! Programs of the system as clients of the servers on the engine.

use std::time::Duration;

use crate::stage::{End, GIB, Stage, sha256_of_gib, sha256_of_pattern, stage, towards_a_kernel, write_pattern};

fn download(stage: &Stage, octets: u64) -> String {
    let line = format!("curl -sS --fail http://10.9.0.1/bytes/{octets} | sha256sum");
    stage.shell(End::B, &line).split_whitespace().next().unwrap().to_owned()
}

#[test]
fn curl_downloads_and_uploads() {
    let Some(stage) = stage(&towards_a_kernel(), &["curl", "sha256sum"]) else { return };
    let server = stage.serve("--port 80 --app http");

    for octets in [1, 1 << 20] {
        assert_eq!(download(&stage, octets), sha256_of_pattern(octets), "{octets} octets");
    }
    assert_eq!(download(&stage, GIB), sha256_of_gib());

    let file = stage.file("upload");
    write_pattern(&file, GIB);
    let line = format!("curl -sS --fail -X POST -H Expect: -T {} http://10.9.0.1/", file.display());
    let answer = stage.shell(End::B, &line);
    assert!(answer.contains(sha256_of_gib()), "{answer}");
    assert!(answer.contains(&GIB.to_string()), "{answer}");

    let report = server.interrupt().expect(6);
    assert_eq!(report.number("/connections/attempted"), 4.0, "{report}");
    assert_eq!(report.number("/connections/open_at_end"), 0.0, "{report}");
    assert!(report.number("/packets/partial_checksum") > 0.0, "a kernel peer leaves checksums to the device");
    let dropped = &report.report["packets"]["dropped"];
    assert!(dropped.get("frame_too_long").is_none() && dropped.get("device_rx").is_none(), "{dropped}");
}

#[test]
fn wrk_finds_no_error() {
    let Some(stage) = stage(&towards_a_kernel(), &["wrk"]) else { return };
    let server = stage.serve("--port 80 --app http --response-bytes 128");
    for header in ["", "-H 'Connection: close'"] {
        let out = stage.shell(End::B, &format!("wrk -c 200 -t 2 -d 10s --timeout 10s {header} http://10.9.0.1/"));
        assert!(!out.contains("Socket errors") && !out.contains("Non-2xx"), "{header}: {out}");
        let requests = out.lines().find_map(|line| line.trim().split_once(" requests in"));
        let requests: u64 = requests.unwrap_or_else(|| panic!("{out}")).0.parse().unwrap();
        assert!(requests > 1_000, "{header}: {out}");
    }
    let report = server.interrupt().expect(6);
    assert_eq!(report.number("/connections/open_at_end"), 0.0, "{report}");
}

#[test]
fn a_half_closed_connection_still_delivers() {
    let Some(stage) = stage(&towards_a_kernel(), &["python3"]) else { return };
    let server = stage.serve("--port 7 --app echo --port 13 --app daytime");
    // The client sends everything and its FIN before it reads anything: 4 MiB do not fit the buffers on the way, so
    // that most of the echo comes after the FIN.
    stage.python(
        End::B,
        "
import hashlib, os, socket, threading
s = socket.create_connection(('10.9.0.1', 7), 60)
data = os.urandom(4 << 20)
def send():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
sender.join(0.3)
back = bytearray()
while piece := s.recv(1 << 16):
    back += piece
sender.join()
assert back == data, len(back)

# The server closes first; what we say after its FIN is still taken, and our FIN ends it.
s = socket.create_connection(('10.9.0.1', 13), 60)
line = b''
while piece := s.recv(100):
    line += piece
assert line.endswith(b'\\r\\n'), line
s.sendall(b'thanks')
s.shutdown(socket.SHUT_WR)
",
    );
    std::thread::sleep(Duration::from_millis(200));
    let report = server.interrupt().expect(6);
    assert_eq!(report.number("/connections/completed"), 2.0, "{report}");
    assert_eq!(report.failed(), 0.0, "{report}");
}

/// Processor time of a process, all threads together, as a share of the time that passed.
fn processor_share(pid: nix::unistd::Pid, span: Duration) -> f64 {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        // proc_pid_stat(5): utime and stime are fields 14 and 15, and what follows the name begins with field 3.
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum::<f64>()
    };
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
    let before = ticks();
    std::thread::sleep(span);
    (ticks() - before) / per_second / span.as_secs_f64()
}

#[test]
fn a_server_without_work_sleeps_unless_told_not_to() {
    let Some(stage) = stage(&towards_a_kernel(), &["curl"]) else { return };
    for (flag, least, most) in [("", 0.0, 0.05), ("--busy-poll", 0.2, f64::INFINITY)] {
        let server = stage.serve(&format!("--port 80 --app http {flag}"));
        assert_eq!(stage.shell(End::B, "curl -sS --fail http://10.9.0.1/bytes/100000 | wc -c").trim(), "100000");
        std::thread::sleep(Duration::from_millis(100));
        let share = processor_share(server.pid(), Duration::from_secs(2));
        assert!((least..most).contains(&share), "`{flag}` takes {share} of a core");
        server.interrupt().expect(6);
    }
}
