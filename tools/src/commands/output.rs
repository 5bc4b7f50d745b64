//! Where results go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::OutputArgs;
use crate::error::{Error, Exit, Result};
use crate::report::{Report, text};

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
    let text = to_json(value)?;
    if file == Path::new("-") {
        return print(&text);
    }
    fs::write(file, text).map_err(|error| cannot_write(file, error))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::unexpected("cannot write JSON", error))?;
    Ok(text + "\n")
}

fn cannot_write(file: &Path, error: io::Error) -> Error {
    Error::environment(format!("cannot write {}", file.display()), error, "check --json")
}

/// Where the report of a run goes. Its file is opened before the run: afterwards the privilege may be gone that its
/// directory asks for, and a path that cannot be is better told before than after.
#[derive(Debug)]
pub(super) struct Output {
    json_on_stdout: bool,
    file: Option<JsonFile>,
}

#[derive(Debug)]
struct JsonFile {
    path: PathBuf,
    file: File,
    /// Whether it is to be removed if nothing is written.
    fresh: bool,
}

impl Output {
    /// Opens what `args` ask for.
    ///
    /// # Errors
    /// Exit 3 if the file cannot be written.
    pub(super) fn open(args: &OutputArgs) -> Result<Self> {
        let json_on_stdout = args.json_on_stdout();
        let file = args.json.as_deref().filter(|_| !json_on_stdout).map(JsonFile::open).transpose()?;
        Ok(Self { json_on_stdout, file })
    }

    /// Writes the report where it belongs, and returns what the process ends with.
    ///
    /// # Errors
    /// Exit 3 if it cannot be written.
    pub(super) fn publish(mut self, report: &Report) -> Result<Exit> {
        if let Some(file) = &mut self.file {
            file.write(report)?;
        }
        print(&if self.json_on_stdout { to_json(report)? } else { text::render(report) })?;
        Ok(report.exit())
    }
}

impl JsonFile {
    fn open(path: &Path) -> Result<Self> {
        let fresh = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_write(path, error))?;
        Ok(Self { path: path.to_owned(), file, fresh })
    }

    fn write(&mut self, report: &Report) -> Result<()> {
        let text = to_json(report)?;
        // A pipe has no length.
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        self.fresh = false;
        emptied.and_then(|()| self.file.write_all(text.as_bytes())).map_err(|error| cannot_write(&self.path, error))
    }
}

impl Drop for JsonFile {
    fn drop(&mut self) {
        if self.fresh {
            // An empty file is no report; if it cannot be removed it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_report_leaves_no_file_and_one_with_it_replaces_what_was_there() {
        let path = std::env::temp_dir().join(format!("syncline-output-{}.json", std::process::id()));
        let args = OutputArgs { json: Some(path.clone()), progress: false };
        drop(Output::open(&args).unwrap());
        assert!(!path.exists());
        fs::write(&path, "x".repeat(1 << 20)).unwrap();
        drop(Output::open(&args).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 20, "what was there stays until there is something new");
        let exit = Output::open(&args).unwrap().publish(&Report::new("test")).unwrap();
        assert_eq!(exit, Report::new("test").exit());
        let report: Report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(report.command, "test");
        fs::remove_file(&path).unwrap();
        let nowhere = OutputArgs { json: Some("/no/such/directory/file".into()), progress: false };
        assert_eq!(Output::open(&nowhere).unwrap_err().exit(), Exit::Environment);
    }
}
