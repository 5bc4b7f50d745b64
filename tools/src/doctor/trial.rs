//! A trial of all that a test bed needs: what a list of features says, and what a container's rules let pass, are two
//! things.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use syncline_xdp::{Claim, Interface, Options};

use super::Finding;
use crate::command;

const NAME: &str = "test bed";

/// Makes a namespace, a veth pair in it and a device on that, and lets all of it go again.
pub(super) fn test_bed() -> Finding {
    // A thread's namespaces are its own, and what is in one that nobody is in goes with it.
    match thread::spawn(trial).join() {
        Ok(finding) => finding,
        Err(_) => Finding::missing(NAME, "the trial of one panicked", "report it, with what is printed above"),
    }
}

fn trial() -> Finding {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        let mend = "run as root; a container needs --privileged, or --cap-add SYS_ADMIN and no seccomp rule against it";
        return Finding::warn(NAME, format!("no network namespace can be made: {error}"), mend);
    }
    for line in ["link add trial0 type veth peer name trial1", "link set trial0 up", "link set trial1 up"] {
        if let Err(error) = command::run("ip", line.split(' ')) {
            return Finding::missing(NAME, format!("no veth pair can be made: {error}"), "modprobe veth");
        }
    }
    let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    let options = Options::new("trial0", Claim::Owned(vec![address.into()]));
    match Interface::open(options).and_then(|mut interface| interface.queue(0).map(drop)) {
        Ok(()) => Finding::ok(NAME, "a namespace, a veth pair and an AF_XDP socket on it: tried, and it works"),
        Err(error) => {
            let mend = "where it is refused in a container, --privileged or an allowed bpf(2) lets it pass";
            Finding::missing(NAME, format!("a veth pair takes no AF_XDP socket: {error}"), mend)
        }
    }
}
