//! Floods against the kernel's own stack and against the engine.

use crate::stage::{End, PATIENCE, stage, towards_a_kernel};
use syncline::bed::BedSpec;

const LISTEN: &str = "
import socket, sys, time
sockets = [socket.create_server(('10.9.0.2', 9), backlog=100),
           socket.create_server(('fd09::2', 9), family=socket.AF_INET6, backlog=100)]
print('ready', flush=True)
time.sleep(300)
";

#[test]
fn a_kernel_answers_every_syn_and_the_answers_are_counted() {
    let mut spec = towards_a_kernel();
    spec.kernel_b.push("fd09::2/64".parse().unwrap());
    let Some(stage) = stage(&spec, &["python3"]) else { return };
    stage.shell(
        End::B,
        "ip route add 198.18.0.0/15 via 10.9.0.1; ip -6 route add 2001:2::/48 via fd09::1; \
         sysctl -qw net.ipv4.tcp_syncookies=1 net.ipv4.tcp_synack_retries=0",
    );
    let mut listener = stage.spawn_in(End::B, "listener", &["python3", "-c", LISTEN]);
    listener.wait_ready();
    let words = "--addr 10.9.0.1/24 --addr fd09::1/64 --target 10.9.0.2:9 --target [fd09::2]:9 --target 10.9.0.2:10 \
                 --profile syn-flood --rate 10k --count 30000";
    let done = stage.engine(End::A, "load", words).finish(PATIENCE);
    assert!(matches!(done.code(), Some(0 | 5)), "{done}");
    let number = |name: &str| done.number(&format!("/syn_flood/{name}"));
    assert_eq!(number("syns"), 30_000.0, "{done}");
    // Of each target a third. What is lost is the machine's: a ring that overran while its core was away.
    let (syn_acks, resets) = (number("syn_acks"), number("resets"));
    assert!((19_000.0..=20_000.0).contains(&syn_acks), "{done}");
    assert!((9_500.0..=10_000.0).contains(&resets), "{done}");
    assert_eq!((number("others"), number("icmp_errors")), (0.0, 0.0), "{done}");
    // Frames beside the SYNs: asking for two next hops, answering for our own two addresses.
    assert!(done.number("/packets/tx") < 30_100.0, "an answer was answered: {done}");
    assert!(done.report["connections"]["attempted"].is_null(), "there are no connections: {done}");
}

#[test]
fn an_engine_under_a_flood_counts_its_cookies() {
    let Some(stage) = stage(&BedSpec::default(), &[]) else { return };
    let words = "--addr 10.9.0.1/24 --addr fd09::1/64 --gateway 10.9.0.2 --gateway fd09::2 --port 80 --app respond \
                 --syn-cookies always";
    for (own, target, spoof) in
        [("10.9.0.2/24", "10.9.0.1:80", "10.128.0.0/9"), ("fd09::2/64", "[fd09::1]:80", "2001:2::/48")]
    {
        let mut server = stage.engine(End::A, "serve", words);
        server.wait_ready();
        let flood =
            format!("--addr {own} --target {target} --profile syn-flood --spoof {spoof} --rate 20k --count 40k");
        let done = stage.engine(End::B, "load", &flood).finish(PATIENCE);
        assert!(matches!(done.code(), Some(0 | 5)), "{done}");
        let honest = format!("--addr {own} --target {target} --profile crr --count 1000 --concurrency 50");
        let honest = stage.engine(End::B, "load", &honest).finish(PATIENCE);
        assert_eq!(honest.number("/connections/completed"), 1_000.0, "{honest}");
        let served = server.interrupt();
        let sent = served.number("/syn_cookies/sent");
        assert!((39_000.0..=41_000.0).contains(&sent), "{served}");
        assert_eq!(served.number("/syn_cookies/accepted"), 1_000.0, "{served}");
        assert_eq!(served.number("/connections/established"), 1_000.0, "{served}");
        let syn_acks = done.number("/syn_flood/syn_acks");
        assert!(syn_acks <= sent && syn_acks > (sent - 1_000.0) * 0.95, "{done}\n{served}");
    }
}

#[test]
fn somebody_elses_host_is_refused() {
    let Some(stage) = stage(&towards_a_kernel(), &[]) else { return };
    let flood = |words: &str| {
        let words = format!("--addr 10.9.0.1/24 --gateway 10.9.0.2 --profile syn-flood --count 1 {words}");
        stage.engine(End::A, "load", &words).finish(PATIENCE)
    };
    flood("--target 8.8.8.8:53").expect(2).says(&["8.8.8.8", "attack", "--allow-public-target"]);
    flood("--target 10.9.0.2:9 --spoof 1.0.0.0/8").expect(2).says(&["1.0.0.0/8", "never asked"]);
    // Told otherwise it goes out, within the bed.
    let done = flood("--target 8.8.8.8:53 --allow-public-target").expect(0);
    assert_eq!(done.number("/syn_flood/syns"), 1.0, "{done}");
    // The kernel's own address on this end would be cut off.
    stage.shell(End::A, &format!("ip addr add 198.18.0.5/32 dev {}", stage.dev(End::A)));
    flood("--target 10.9.0.2:9").expect(2).says(&["198.18.0.5", "kernel's"]);
}
