//! Network namespaces by name, as `ip netns` keeps them: a file under `/run/netns`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns};

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
    let what = format!("cannot enter network namespace {name}");
    if name.is_empty() || name.contains('/') || !exists(name) {
        return Err(Error::usage(what, "there is none of that name", "list them with `ip netns`"));
    }
    let file = File::open(path(name)).map_err(|error| Error::environment(&what, error, "run as root"))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::environment(what, errno.desc(), "run as root"))
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
