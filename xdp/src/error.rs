//! Why an interface could not be opened.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an interface or a queue of it could not be opened: one line each, with the mend.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The process lacks capabilities.
    #[error("no privilege for AF_XDP on {interface}: missing {missing}; run as root, or grant it with `setcap`")]
    NoPrivilege {
        /// The device.
        interface: String,
        /// The capabilities that are missing.
        missing: String,
    },
    /// There is no such device in this network namespace.
    #[error("no device {interface} in this network namespace; there are: {present}")]
    NoSuchDevice {
        /// The name asked for.
        interface: String,
        /// The names there are.
        present: String,
    },
    /// The device is not Ethernet.
    #[error("{0} has no Ethernet address; use a veth, tap or Ethernet device")]
    NotEthernet(String),
    /// The device is down.
    #[error("{0} is down: `ip link set {0} up`")]
    Down(String),
    /// A frame of the device's MTU does not fit a buffer.
    #[error(
        "the MTU {mtu} of {interface} is too large for buffers of {chunk_bytes} octets: `ip link set {interface} mtu {mtu_max}`{alternative}"
    )]
    MtuTooLarge {
        /// The device.
        interface: String,
        /// Its MTU, octets.
        mtu: u32,
        /// The largest that fits, octets.
        mtu_max: u32,
        /// The buffers' size, octets.
        chunk_bytes: u32,
        /// Another way out, if there is one.
        alternative: &'static str,
    },
    /// The device carries a default route.
    #[error(
        "{0} carries a default route, and very likely your session: use another device, or allow it with --allow-default-route"
    )]
    DefaultRoute(String),
    /// Another engine, or another program, has the queue.
    #[error("queue {queue} of {interface} is held by {holder}: stop that first, or use another queue or device")]
    QueueBusy {
        /// The device.
        interface: String,
        /// The queue.
        queue: u32,
        /// Who has it, as far as known.
        holder: String,
    },
    /// Another XDP program is attached.
    #[error(
        "{0} has an XDP program already: stop its owner (`bpftool net show dev {0}`), or `ip link set {0} xdp off`"
    )]
    ProgramBusy(String),
    /// The device spreads its traffic over more queues than are bound.
    #[error(
        "{interface} receives on {present} queues but {bound} would be bound: give {present} cores, or `ethtool -L {interface} {channels} {bound}`"
    )]
    UnboundQueues {
        /// The device.
        interface: String,
        /// Queues it receives on.
        present: u32,
        /// Queues asked for.
        bound: u32,
        /// What `ethtool -L` calls its channels.
        channels: &'static str,
    },
    /// The device has fewer queues than were asked for.
    #[error(
        "{interface} has {present} receive queues, {wanted} are needed: use fewer cores, or make more with `ethtool -L {interface}` (a veth: `ip link add … numrxqueues {wanted} numtxqueues {wanted}`)"
    )]
    TooFewQueues {
        /// The device.
        interface: String,
        /// Queues it has.
        present: u32,
        /// Queues asked for.
        wanted: u32,
    },
    /// The kernel lacks something.
    #[error("the kernel {release} lacks {feature}: Linux 5.15 or newer is needed")]
    KernelTooOld {
        /// The running kernel's release.
        release: String,
        /// What it lacks.
        feature: &'static str,
    },
    /// The process may not pin enough memory.
    #[error(
        "{need_bytes} octets of locked memory are needed, the limit is {limit_bytes}: `ulimit -l unlimited`, grant CAP_IPC_LOCK, or use fewer queues"
    )]
    MemoryLock {
        /// What the buffers need.
        need_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// There is no memory for the buffers.
    #[error("no memory for {need_bytes} octets of frame buffers ({source}): free some, or use fewer queues")]
    NoMemory {
        /// What the buffers need.
        need_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The verifier refused the program.
    #[error("kernel {release} rejected the XDP program: {reason}; please report this with the kernel's release")]
    ProgramRejected {
        /// The running kernel's release.
        release: String,
        /// The verifier's first words.
        reason: String,
    },
    /// The driver cannot do what was asked for.
    #[error("{driver} on {interface} refuses {what} ({source}): use {mend}")]
    ModeRefused {
        /// The device.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What to do instead.
        mend: &'static str,
    },
    /// The options contradict themselves or exceed a limit.
    #[error("{0}")]
    Options(String),
    /// The lock file could not be made.
    #[error("cannot make the lock file {path}: {source}; make the directory writable")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed in a way that has no name of its own.
    #[error("{doing} on {interface} failed: {source}; `dmesg` may say more")]
    System {
        /// The device.
        interface: String,
        /// What was being tried.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    /// The exit code a command ends with: 2 if the command line is to be mended, 3 if the environment is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) | Self::DefaultRoute(_) => 2,
            _ => 3,
        }
    }
}

/// The operating system's own error under `error`.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(code));
        }
        next = error.source();
    }
    None
}

/// The error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
    lines.join(" ").chars().take(300).collect()
}
