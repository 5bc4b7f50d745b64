//! Where results go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::report::Format;
use crate::cli::{ExportArgs, OutputArgs};
use crate::error::{Error, Exit, Result};
use crate::report::{Report, csv, html, junit, text};

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
    fs::write(file, text).map_err(|error| cannot_write(file, "--json", error))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::unexpected("cannot write JSON", error))?;
    Ok(text + "\n")
}

fn cannot_write(file: &Path, flag: &str, error: io::Error) -> Error {
    Error::environment(format!("cannot write {}", file.display()), error, format!("check {flag}"))
}

/// The report in one of its forms.
fn render(report: &Report, format: Format) -> Result<String> {
    match format {
        Format::Text => Ok(text::render(report)),
        Format::Json => to_json(report),
        Format::Csv => Ok(csv::render(report)),
        Format::Junit => Ok(junit::render(report)),
        Format::Html => Ok(html::render(report)),
    }
}

/// Where the report of a run goes. Its files are opened before the run: afterwards the privilege may be gone that their
/// directories ask for, and a path that cannot be is better told before than after.
#[derive(Debug)]
pub(super) struct Output {
    /// What goes to stdout.
    stdout: Format,
    files: Vec<OutputFile>,
}

#[derive(Debug)]
struct OutputFile {
    format: Format,
    flag: &'static str,
    path: PathBuf,
    file: File,
    /// Whether it is to be removed if nothing is written.
    fresh: bool,
}

impl Output {
    /// Opens what `args` ask for.
    ///
    /// # Errors
    /// Exit 2 if two forms are for stdout, 3 if a file cannot be written.
    pub(super) fn open(args: &OutputArgs) -> Result<Self> {
        Self::to(&args.export, args.json.as_deref())
    }

    /// Opens these files; `-` is stdout, which has text otherwise.
    ///
    /// # Errors
    /// Those of [`Output::open`].
    pub(super) fn to(export: &ExportArgs, json: Option<&Path>) -> Result<Self> {
        let mut output = Self { stdout: Format::Text, files: Vec::new() };
        let json = json.map(|path| ("--json", Format::Json, path));
        for (flag, format, path) in json.into_iter().chain(export.files()) {
            if path != Path::new("-") {
                output.files.push(OutputFile::open(flag, format, path)?);
            } else if output.stdout == Format::Text {
                output.stdout = format;
            } else {
                return Err(Error::usage(format!("{flag} -"), "stdout has another form already", "name a file"));
            }
        }
        Ok(output)
    }

    /// Prints `format` unless a file is stdout.
    pub(super) fn printing(mut self, format: Format) -> Self {
        if self.stdout == Format::Text {
            self.stdout = format;
        }
        self
    }

    /// Writes the report where it belongs, and returns what the process ends with.
    ///
    /// # Errors
    /// Exit 3 if it cannot be written.
    pub(super) fn publish(mut self, report: &Report) -> Result<Exit> {
        for file in &mut self.files {
            file.write(&render(report, file.format)?)?;
        }
        print(&render(report, self.stdout)?)?;
        Ok(report.exit())
    }
}

impl OutputFile {
    fn open(flag: &'static str, format: Format, path: &Path) -> Result<Self> {
        let fresh = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_write(path, flag, error))?;
        Ok(Self { format, flag, path: path.to_owned(), file, fresh })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        // A pipe has no length.
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        self.fresh = false;
        let written = emptied.and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| cannot_write(&self.path, self.flag, error))
    }
}

impl Drop for OutputFile {
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

    fn json(path: &Path) -> OutputArgs {
        OutputArgs { json: Some(path.to_owned()), ..OutputArgs::default() }
    }

    #[test]
    fn a_run_without_a_report_leaves_no_file_and_one_with_it_replaces_what_was_there() {
        let path = std::env::temp_dir().join(format!("syncline-output-{}.json", std::process::id()));
        let args = json(&path);
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
        let nowhere = json(Path::new("/no/such/directory/file"));
        assert_eq!(Output::open(&nowhere).unwrap_err().exit(), Exit::Environment);
    }
}
