//! `syncline report`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::output::{Output, print, write_json};
use crate::cli::report::{DiffArgs, MergeArgs, RenderArgs, ReportAction};
use crate::error::{Error, Exit, Result};
use crate::report::diff::{self, Finding, Options};
use crate::report::merge::{self, Named};
use crate::report::{Report, SCHEMA, schema};

/// Reads reports, and makes something else of them.
///
/// # Errors
/// Exit 2 for what is no report, 3 for what cannot be written.
pub(super) fn run(action: &ReportAction) -> Result<Exit> {
    match action {
        ReportAction::Render(args) => render(args),
        ReportAction::Merge(args) => merge(args),
        ReportAction::Schema => print(&schema::json()).map(|()| Exit::Success),
        ReportAction::Diff(args) => diff(args),
    }
}

fn render(args: &RenderArgs) -> Result<Exit> {
    let report = read(&args.file)?;
    Output::to(&args.export, None)?.printing(args.format).publish(&report)
}

fn merge(args: &MergeArgs) -> Result<Exit> {
    let shards = read_all(&args.files)?;
    let merged = merge::merge(&shards, args.allow_different).map_err(|refusal| {
        let mend = if refusal.can_be_allowed { "--allow-different adds them all the same" } else { "" };
        Error::usage("cannot add these reports", refusal.why, mend)
    })?;
    Output::to(&args.export, args.json.as_deref())?.publish(&merged)
}

fn diff(args: &DiffArgs) -> Result<Exit> {
    let (before, after) = match &args.files[..] {
        [before, after] => (read_all(std::slice::from_ref(before))?, read_all(std::slice::from_ref(after))?),
        _ => (read_all(&args.before)?, read_all(&args.after)?),
    };
    let options = Options {
        tolerance: args.tolerance,
        measures: args.measure.clone(),
        allow_different: args.allow_different,
        ..Options::default()
    };
    let comparison = diff::compare(&before, &after, &options).map_err(|why| {
        Error::usage("cannot compare these reports", why, "--allow-different compares other settings all the same")
    })?;
    if let Some(file) = &args.json {
        write_json(file, &comparison)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        print(&diff::render(&comparison))?;
    }
    Ok(if comparison.finding == Finding::Worse { Exit::Failed } else { Exit::Success })
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Named>> {
    files.iter().map(|file| Ok((file.display().to_string(), read(file)?))).collect()
}

/// Reads a report of this version's schema.
fn read(file: &Path) -> Result<Report> {
    let what = || format!("cannot read the report {}", file.display());
    let text = if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text.map_err(|error| Error::usage(what(), error, "give a file that --json wrote"))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| Error::usage(what(), error, "give a file that --json wrote"))?;
    if report.schema != SCHEMA {
        let why = format!("its schema is `{}`", report.schema);
        return Err(Error::usage(what(), why, format!("this version reads {SCHEMA}")));
    }
    Ok(report)
}
