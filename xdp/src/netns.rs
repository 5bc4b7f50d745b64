//! Network namespaces by name, as `ip netns` keeps them: files under `/run/netns`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

const DIRECTORY: &str = "/run/netns";

/// Why a namespace could not be entered.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// There is no namespace of that name.
    #[error("there is no network namespace {name} (there are: {present}): create it with `ip netns add {name}`")]
    NoSuchNamespace {
        /// The name asked for.
        name: String,
        /// The names that exist, for the message.
        present: String,
    },
    /// The process may not enter it.
    #[error("no privilege to enter the network namespace {0}: run as root, or grant CAP_SYS_ADMIN")]
    NoPrivilege(String),
    /// The name is not one, or the file is not a namespace.
    #[error("cannot enter the network namespace {name}: {source}")]
    Io {
        /// The name asked for.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Moves the calling thread, and the threads it starts from now on, into the network namespace `name`.
///
/// `/sys` keeps showing the devices of the namespace it was mounted in; nothing in this crate reads it.
///
/// # Errors
/// [`NetnsError`], with the mend.
pub fn enter(name: &str) -> Result<(), NetnsError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => NetnsError::NoSuchNamespace { name: name.to_owned(), present: present() },
        io::ErrorKind::PermissionDenied => NetnsError::NoPrivilege(name.to_owned()),
        _ => NetnsError::Io { name: name.to_owned(), source },
    };
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(NetnsError::Io { name: name.to_owned(), source: io::ErrorKind::InvalidInput.into() });
    }
    let file = File::open(Path::new(DIRECTORY).join(name)).map_err(io_error)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| io_error(errno.into()))
}

/// The identity of the calling thread's network namespace: its inode number.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn current() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn present() -> String {
    let mut names: Vec<String> = std::fs::read_dir(DIRECTORY)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_named_with_the_mend() {
        let error = enter("no-such-namespace").unwrap_err().to_string();
        assert!(error.contains("no-such-namespace") && error.contains("ip netns add"), "{error}");
    }

    #[test]
    fn a_path_is_no_name() {
        assert!(matches!(enter("../../proc/self/ns/net"), Err(NetnsError::Io { .. })));
    }
}
