//! One engine per queue: a locked file per network namespace, interface and queue that names its holder.
//!
//! The lock is the kernel's (`flock`), so it ends with the process however that ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Where the files are: the first that can be written. Users who cannot write the first have directories of their own;
/// that two of them do not take one device is then the kernel's to see to, which lets it have one program.
fn directories() -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("syncline"));
    let last = format!("/tmp/syncline-{}", rustix::process::geteuid().as_raw());
    [Some("/run/syncline".into()), own, Some(last.into())].into_iter().flatten()
}

/// How often, and how far apart, a held lock is tried again.
const ATTEMPTS_MAX: u32 = 5;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(10);

/// Why a queue could not be locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody has it; who, as the file says.
    Held(String),
    /// The file could not be made.
    Io(PathBuf, io::Error),
}

/// A queue is ours while this lives.
#[derive(Debug)]
pub(crate) struct QueueLock {
    path: PathBuf,
    _file: File,
}

impl QueueLock {
    /// Locks queue `queue` of the device with the number `interface` in the namespace `netns`.
    pub(crate) fn take(netns: u64, interface: u32, name: &str, queue: u32) -> Result<Self, LockError> {
        let mut failure = None;
        for directory in directories() {
            match Self::take_in(&directory, netns, interface, name, queue) {
                Err(LockError::Io(path, error)) => failure = failure.or(Some(LockError::Io(path, error))),
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| LockError::Io(PathBuf::new(), io::ErrorKind::NotFound.into())))
    }

    fn take_in(directory: &Path, netns: u64, interface: u32, name: &str, queue: u32) -> Result<Self, LockError> {
        let path = directory.join(format!("{netns}-{interface}-{queue}.lock"));
        let io_error = |error| LockError::Io(path.clone(), error);
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io_error)?;
        sweep(directory);
        let mut attempts = 0;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(&path)
                .map_err(io_error)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // Perhaps only by somebody's sweep.
                Err(rustix::io::Errno::WOULDBLOCK) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    std::thread::sleep(ATTEMPT_INTERVAL);
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder).map_err(io_error)?;
                    let holder = holder.lines().next().unwrap_or_default();
                    return Err(LockError::Held(if holder.is_empty() { "another process" } else { holder }.to_owned()));
                }
                Err(errno) => return Err(io_error(errno.into())),
            }
            // The former holder removes its file before it lets go: what was locked here may be that one.
            let locked = file.metadata().map_err(io_error)?.ino();
            if std::fs::metadata(&path).is_ok_and(|present| present.ino() == locked) {
                file.set_len(0).map_err(io_error)?;
                file.rewind().map_err(io_error)?;
                writeln!(file, "pid {} ({}) on {name} queue {queue}", std::process::id(), command())
                    .map_err(io_error)?;
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for QueueLock {
    fn drop(&mut self) {
        // Fails only if somebody else tidied up; the lock itself goes with the file descriptor.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes the files of processes that were killed before they could.
fn sweep(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // Locked and still the file of that name: it is nobody's, and whoever opened it meanwhile will look again.
        let locked = file.metadata().map(|metadata| metadata.ino()).ok();
        if locked.is_some() && std::fs::metadata(&path).map(|metadata| metadata.ino()).ok() == locked {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// This process's command line, on one line.
fn command() -> String {
    let octets = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let text = String::from_utf8_lossy(&octets);
    let line = text.trim_end_matches('\0').replace(|c: char| c == '\0' || c.is_control(), " ");
    line.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("syncline-lock-{}-{test}", std::process::id()))
    }

    #[test]
    fn a_second_taker_is_told_the_holder() {
        let directory = directory("second");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("7-7-7.lock"), "pid 1 (killed)").unwrap();
        let first = QueueLock::take_in(&directory, 1, 2, "veth9", 3).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "the file of a killed process was left");
        let Err(LockError::Held(holder)) = QueueLock::take_in(&directory, 1, 2, "veth9", 3) else {
            panic!("taken twice")
        };
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
        assert!(holder.contains("veth9 queue 3"), "{holder}");
        drop(QueueLock::take_in(&directory, 1, 2, "veth9", 4).unwrap());
        drop(first);
        drop(QueueLock::take_in(&directory, 1, 2, "veth9", 3).unwrap());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "a lock file was left behind");
        std::fs::remove_dir(&directory).unwrap();
    }
}
