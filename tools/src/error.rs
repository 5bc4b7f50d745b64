//! Why a command could not do what it was asked, and the exit code that says so.

use std::fmt;
use std::process::ExitCode;

/// The exit codes scripts rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The verdict is `valid` or `ceiling`, or the command did what it was asked.
    Success = 0,
    /// Something happened that should not: a fault of ours.
    Unexpected = 1,
    /// The command line or the configuration is wrong or asks for the impossible.
    Usage = 2,
    /// The host lacks something: privilege, device, memory, kernel feature.
    Environment = 3,
    /// The verdict is `failed`.
    Failed = 4,
    /// The verdict is `generator_limited` or `inconclusive`.
    Limited = 5,
    /// Interrupted; drained and reported.
    Interrupted = 6,
}

impl Exit {
    /// The number the process ends with.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failure in three parts: what was tried, why it did not work, what mends it. Prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    exit: Exit,
    what: String,
    why: String,
    mend: String,
}

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The user asked for something that cannot be (exit 2).
    pub fn usage(what: impl Into<String>, why: impl fmt::Display, mend: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, why, mend)
    }

    /// The host lacks something (exit 3).
    pub fn environment(what: impl Into<String>, why: impl fmt::Display, mend: impl Into<String>) -> Self {
        Self::new(Exit::Environment, what, why, mend)
    }

    /// A fault of ours (exit 1).
    pub fn unexpected(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(Exit::Unexpected, what, why, "please report this with the command that led to it")
    }

    fn new(exit: Exit, what: impl Into<String>, why: impl fmt::Display, mend: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.to_string(), mend: mend.into() }
    }

    /// The code the process ends with because of this.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line =
            [&self.what, &self.why, &self.mend].map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        match line {
            [what, why, mend] if mend.is_empty() => write!(f, "{what}: {why}"),
            [what, why, mend] => write!(f, "{what}: {why}; {mend}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_one_line_with_the_mend() {
        let error = Error::environment("cannot open eth9", "no such device\n", "list devices with `ip link`");
        assert_eq!(error.to_string(), "cannot open eth9: no such device; list devices with `ip link`");
        assert_eq!(error.exit().code(), 3);
    }

    #[test]
    fn leaves_out_an_empty_mend() {
        assert_eq!(Error::usage("--rate", "is zero", "").to_string(), "--rate: is zero");
    }
}
