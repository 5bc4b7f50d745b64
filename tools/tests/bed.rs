//! Test beds on the real kernel. They need root: without it they say SKIPPED, and fail where `CI` is set.

use std::panic;

use syncline::bed::{self, Bed, BedName, BedSpec};
use syncline::{Exit, command, netns};

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "test beds need root, and CI is to have it");
        eprintln!("SKIPPED: test beds need root");
    }
    root
}

fn ip_in(netns: &str, words: &str) -> String {
    command::run("ip", format!("-n {netns} {words}").split_whitespace()).unwrap()
}

#[test]
fn up_status_down() {
    if !root() {
        return;
    }
    let name: BedName = "tbud".parse().unwrap();
    let spec = BedSpec { queues: 2, kernel_b: vec!["10.9.0.2/24".parse().unwrap()], ..BedSpec::default() };
    bed::up(&name, &spec).unwrap();
    let again = bed::up(&name, &spec).unwrap_err();
    let (status, silent) = (bed::status(&name).unwrap().unwrap(), ip_in("tbud-a", "addr show dev tbud-a0"));
    let link = ip_in("tbud-a", "-d link show dev tbud-a0");
    assert!(bed::down(&name).unwrap());

    assert_eq!(again.exit(), Exit::Usage);
    assert!(again.to_string().contains("syncline veth down --name tbud"), "{again}");
    assert!(status.contains("10.9.0.2/24"), "{status}");
    assert!(!status.contains("DOWN") && status.matches(" UP").count() == 2, "{status}");
    assert!(!silent.contains("inet"), "an end without the kernel has no address: {silent}");
    assert!(link.contains("numtxqueues 2 ") && link.contains("LOWER_UP"), "{link}");
    assert!(!bed::down(&name).unwrap(), "a second removal finds nothing");
    assert_eq!(bed::status(&name).unwrap(), None);
}

#[test]
fn the_middle_forwards_both_families() {
    if !root() {
        return;
    }
    let bed = Bed::fresh(&BedSpec {
        via: true,
        kernel_a: vec!["10.77.1.1/24".parse().unwrap(), "fd77:0:0:1::1/64".parse().unwrap()],
        kernel_b: vec!["10.77.2.1/24".parse().unwrap(), "fd77:0:0:2::1/64".parse().unwrap()],
        ..BedSpec::default()
    })
    .unwrap();
    for to in ["10.77.2.1:9", "[fd77:0:0:2::1]:9"] {
        let result = netns::within(&bed.name().netns_a(), || {
            Ok(std::net::TcpStream::connect_timeout(&to.parse().unwrap(), std::time::Duration::from_secs(3)))
        });
        // Nobody listens: the refusal came from end b, through the middle.
        let error = result.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}: {error}");
    }
}

#[test]
fn a_panic_removes_the_bed() {
    if !root() {
        return;
    }
    let bed = Bed::fresh(&BedSpec::default()).unwrap();
    let name = bed.name().clone();
    assert!(netns::exists(&name.netns_a()));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(move || {
        let _bed = bed;
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(!netns::exists(&name.netns_a()) && !netns::exists(&name.netns_b()));
}

#[test]
fn a_bed_that_cannot_be_finished_leaves_nothing() {
    if !root() {
        return;
    }
    // The same address twice: the second is refused by the kernel after the namespaces were made.
    let twice = vec!["10.9.0.2/24".parse().unwrap(); 2];
    let name: BedName = "tbfail".parse().unwrap();
    let error = bed::up(&name, &BedSpec { kernel_b: twice, ..BedSpec::default() }).unwrap_err();
    assert_eq!(error.exit(), Exit::Environment, "{error}");
    assert!(!netns::exists("tbfail-a") && !netns::exists("tbfail-b"));
}
