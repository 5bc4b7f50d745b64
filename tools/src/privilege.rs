//! Giving up what set-up needed.
//!
//! Everything privileged happens before the first frame: entering a namespace, loading the program and attaching it,
//! opening and binding the sockets, locking their memory. What runs afterwards works on descriptors that are open and
//! needs no capability at all: [`give_up`] drops them all, from every set, and forbids that an `execve` brings any back.
//!
//! Capabilities belong to threads. A thread inherits those of the one that starts it, so this is called before the
//! workers are started; the one that waits for signals is older, and calls it by itself.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::error::{Error, Result};

/// Takes every capability from the calling thread, and from those it starts from now on, for good.
///
/// # Errors
/// Exit 1 if the kernel refuses what it must not refuse: nobody is to run with privileges believed to be gone.
pub fn give_up() -> Result<()> {
    drop_all().map_err(|error| Error::unexpected("cannot give up privileges", error))
}

fn drop_all() -> io::Result<()> {
    set_no_new_privs(true)?;
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            // The kernel knows fewer than 64, and refuses the others.
            let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
        }
    }
    match clear_ambient_capability_set() {
        // Linux before 4.3 has no such set.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;
    use crate::host::field;

    #[test]
    fn a_thread_and_its_children_have_nothing_left_and_get_nothing_back() {
        let before = fs::read_to_string("/proc/thread-self/status").unwrap();
        let status = thread::spawn(|| {
            give_up().unwrap();
            give_up().unwrap();
            thread::spawn(|| fs::read_to_string("/proc/thread-self/status").unwrap()).join().unwrap()
        });
        let status = status.join().unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(&status, set), Some("0000000000000000"), "{status}");
        }
        if field(&before, "CapEff").is_some_and(|mask| u64::from_str_radix(mask, 16).unwrap() >> 8 & 1 == 1) {
            assert_eq!(field(&status, "CapBnd"), Some("0000000000000000"), "{status}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), Some("1"), "{status}");
        let unchanged = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert_eq!(field(&unchanged, "CapEff"), field(&before, "CapEff"), "other threads are their own business");
    }
}
