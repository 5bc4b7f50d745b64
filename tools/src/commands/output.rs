//! Where results go.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// Writes `text` to stdout. A reader that went away is no error.
///
/// # Errors
/// Exit 3 if it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::environment("cannot write to stdout", error, ""))
        }
        _ => Ok(()),
    }
}

/// Writes `value` as JSON to `file`, or to stdout if that is `-`.
///
/// # Errors
/// Exit 3 if it cannot be written.
pub fn write_json(file: &Path, value: &impl Serialize) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| Error::unexpected("cannot write JSON", error))?;
    text.push('\n');
    if file == Path::new("-") {
        return print(&text);
    }
    fs::write(file, text)
        .map_err(|error| Error::environment(format!("cannot write {}", file.display()), error, "check --json"))
}
