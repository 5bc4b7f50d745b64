//! Floods from a host on the link, while an honest client of the kernel goes on.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::stage::{End, Running, Stage, stage, towards_a_kernel};

/// Frames of one kind, made beforehand, sent over and over as fast as Python can. Says so when each was sent once.
const FLOOD: &str = r#"
import random, socket, struct, sys
device, station, kind, count = sys.argv[1], bytes.fromhex(sys.argv[2].replace(':', '')), sys.argv[3], int(sys.argv[4])
random.seed(1)
server = socket.inet_aton('10.9.0.1')

def checksum(octets):
    total = sum(struct.unpack('!%dH' % (len(octets) // 2), octets))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff

def packet(tcp):
    source = struct.pack('!I', 0xc6120000 | random.getrandbits(17))     # 198.18.0.0/15
    sum_ = checksum(source + server + struct.pack('!HH', 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack('!H', sum_) + tcp[18:]
    ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + source + server
    return ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:] + tcp

def frame():
    ethernet = station + b'\2\0\0\0\0\7' + b'\x08\0'
    if kind == 'junk':
        whole = packet(random.randbytes(40))
        cut = random.choice([whole, whole[:random.randrange(40)], random.randbytes(random.randrange(400))])
        return ethernet + cut
    flags, options = {'syn': (2, b'\2\4\5\xb4'), 'ack': (16, b''), 'rst': (4, b'')}[kind]
    words = 5 + len(options) // 4
    head = struct.pack('!HHIIBBHHH', random.randrange(1024, 65536), 80, random.getrandbits(32), random.getrandbits(32),
                       words << 4, flags, 1000, 0, 0)
    return ethernet + packet(head + options)

frames = [frame() for _ in range(count)]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((device, 0))
first = True
while True:
    for one in frames:
        try:
            wire.send(one)
        except OSError:
            pass
    if first:
        print('sent', len(frames), flush=True)
        first = False
"#;

/// What one honest client does during a flood.
const REQUESTS: u32 = 40;

fn rss_kib(server: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The same, when it has not changed for longer than a second: at the start a thread readies memory ahead of use, and the
/// first second's figures are put together when it is over.
fn settled_rss_kib(server: &Running) -> u64 {
    let mut last = rss_kib(server);
    loop {
        thread::sleep(Duration::from_millis(1_500));
        let now = rss_kib(server);
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Serves under a flood of `count` frames of `kind`, and returns the server's report. Each request of a client must succeed,
/// and the server's memory stays within `more_kib`.
fn under(kind: &str, count: u32, more_kib: u64) -> Option<crate::stage::Finished> {
    let stage = stage(&towards_a_kernel(), &["python3", "curl"])?;
    let server = stage.serve("--port 80 --app http --gateway 10.9.0.2");
    let requests = |stage: &Stage| {
        let line = format!(
            "for n in $(seq {REQUESTS}); do curl -sS --fail --max-time 60 -o got http://10.9.0.1/bytes/20000; \
             test $(stat -c %s got) = 20000; done"
        );
        stage.shell(End::B, &line);
    };
    requests(&stage);
    let before = settled_rss_kib(&server);
    let station = stage.shell(End::A, &format!("cat /sys/class/net/{}/address", stage.dev(End::A)));
    let (device, count) = (stage.dev(End::B), count.to_string());
    let arguments = ["python3", "-c", FLOOD, &device, station.trim(), kind, &count];
    let mut flood = stage.spawn_in(End::B, "flood", &arguments);
    flood.wait_until("the first round of the flood", |out| out.contains("sent"));
    requests(&stage);
    drop(flood);
    let after = rss_kib(&server);
    assert!(after <= before + more_kib, "{before} KiB before the flood, {after} KiB after it");
    requests(&stage);
    let report = server.interrupt();
    let completed = report.number("/connections/completed");
    assert_eq!(completed, f64::from(3 * REQUESTS), "{report}");
    Some(report)
}

#[test]
fn a_syn_flood_gets_cookies_and_clients_are_served() {
    // more SYNs than there are records for
    let Some(report) = under("syn", 60_000, 12 << 10) else { return };
    assert!(report.number("/counters/syn_floods") >= 1.0, "{report}");
    assert!(report.number("/syn_cookies/sent") > 1_000.0, "{report}");
    assert!(report.number("/syn_cache/entries") <= 49_152.0, "{report}");
}

#[test]
fn an_ack_flood_draws_resets_within_their_limit_and_clients_are_served() {
    let Some(report) = under("ack", 20_000, 1 << 10) else { return };
    let answered = report.number("/counters/resets_sent") + report.number("/counters/resets_limited");
    assert!(answered >= 15_000.0, "{report}");
    assert_eq!(report.number("/counters/syn_cookies_accepted"), 0.0, "{report}");
}

#[test]
fn a_rst_flood_is_dropped_and_clients_are_served() {
    let Some(report) = under("rst", 20_000, 1 << 10) else { return };
    assert!(report.number("/packets/dropped/no_flow") >= 15_000.0, "{report}");
    assert_eq!(report.number("/counters/resets_sent"), 0.0, "a RST is not answered: {report}");
}

#[test]
fn junk_is_dropped_by_reason_and_clients_are_served() {
    let Some(report) = under("junk", 20_000, 1 << 10) else { return };
    let dropped = report.report["packets"]["dropped"].as_object().unwrap();
    let damaged: f64 = dropped.values().filter_map(serde_json::Value::as_f64).sum();
    assert!(damaged >= 10_000.0 && dropped.len() >= 3, "{report}");
}
