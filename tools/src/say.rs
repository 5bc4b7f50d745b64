//! Words to whoever watches.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to stderr. If that is closed or full, nobody reads it, and the run goes on all the same.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
