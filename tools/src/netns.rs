//! Network namespaces by name, as `ip netns` keeps them: a file under `/run/netns`.

use std::fs;
use std::path::PathBuf;
use std::thread;

use syncline_xdp::netns::NetnsError;

use crate::error::{Error, Result};

/// The file that keeps the namespace `name` alive.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Whether a namespace of that name exists.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Moves the calling thread, and the threads it starts from now on, into the namespace `name`.
///
/// # Errors
/// Exit 2 if there is no such namespace, 3 without the privilege.
pub fn enter(name: &str) -> Result<()> {
    syncline_xdp::netns::enter(name).map_err(|error| match error {
        NetnsError::NoPrivilege(_) => Error::environment("cannot use --netns", error, ""),
        NetnsError::NoSuchNamespace { .. } | NetnsError::Io { .. } => Error::usage("cannot use --netns", error, ""),
    })
}

/// Runs `work` in the namespace `name`, on a thread of its own.
///
/// # Errors
/// Those of [`enter`] and of `work`.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let joined = thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(name)?;
                work()
            })
            .join()
    });
    joined.map_err(|_| Error::unexpected(format!("the thread in namespace {name}"), "panicked"))?
}

/// Writes `value` to the sysctl `name` (as `net/ipv4/ip_forward`) of the calling thread's namespace.
///
/// # Errors
/// Exit 3 if the kernel has no such setting or refuses.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(PathBuf::from("/proc/sys").join(name), value)
        .map_err(|error| Error::environment(format!("cannot set sysctl {name} to {value}"), error, "run as root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_a_usage_error() {
        for name in ["there-is-none-of-this-name", "", "../net"] {
            let error = enter(name).unwrap_err();
            assert_eq!(error.exit(), crate::Exit::Usage, "{error}");
        }
    }
}
