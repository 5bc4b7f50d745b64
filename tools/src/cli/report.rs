//! `syncline report`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::ExportArgs;

/// `syncline report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  syncline report render run.json --html run.html
  syncline report merge one.json two.json --json both.json
  syncline report diff before.json after.json")]
pub struct ReportArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub action: ReportAction,
}

/// What can be done with reports.
#[derive(Debug, Subcommand)]
pub enum ReportAction {
    /// Print a JSON report as text, or write it in other forms; exits as the run did
    Render(RenderArgs),
    /// Add up reports of generators that ran at the same time; exits as their sum would
    Merge(MergeArgs),
    /// Print the JSON Schema of reports
    #[command(after_help = "Example:\n  syncline report schema > result.schema.json")]
    Schema,
    /// Tell whether runs became better or worse; exits with 4 if worse
    Diff(DiffArgs),
}

/// A form that a report is printed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// As --json writes it
    Json,
    /// The course of the run, a row for each interval
    Csv,
    /// Test results for CI: one for the verdict, one for each threshold and criterion
    Junit,
    /// A page that needs no network
    Html,
}

/// `syncline report render`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  syncline load scenario.toml --json - | syncline report render -")]
pub struct RenderArgs {
    /// The report; `-` is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What to print to stdout
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Other forms, into files.
    #[command(flatten)]
    pub export: ExportArgs,
}

/// `syncline report merge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Counts are added, histograms exactly; rates and levels add up; seconds are aligned by the wall clock, which the machines
must agree on. Thresholds are looked at anew.

Example:
  syncline report merge one.json two.json three.json --json all.json")]
pub struct MergeArgs {
    /// The reports, two or more
    #[arg(value_name = "FILE", required = true, num_args = 2..)]
    pub files: Vec<PathBuf>,
    /// Add reports of different kinds of load, or of different times, too
    #[arg(long)]
    pub allow_different: bool,
    /// Write the sum as JSON there; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Other forms, into files.
    #[command(flatten)]
    pub export: ExportArgs,
}

/// `syncline report diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
A measure is worse if its whole interval is on the bad side of 1 and reaches the tolerance: worse for certain, and by the
tolerance for all that can be told. All intervals of judged measures hold together at 95%.

Examples:
  syncline report diff before.json after.json
  syncline report diff --before before-*.json --after after-*.json --tolerance 3%")]
pub struct DiffArgs {
    /// The run before, and the run after
    #[arg(value_name = "FILE", num_args = 2, conflicts_with_all = ["before", "after"], required_unless_present = "before")]
    pub files: Vec<PathBuf>,
    /// The runs before; six or more on each side tell most
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "after")]
    pub before: Vec<PathBuf>,
    /// The runs after
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "before")]
    pub after: Vec<PathBuf>,
    /// How much worse a figure may be: 5%
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = share)]
    pub tolerance: f64,
    /// Judge this measure, and no other that is not named (repeatable)
    #[arg(long, value_name = "PATH")]
    pub measure: Vec<String>,
    /// Compare runs whose settings differ, too
    #[arg(long)]
    pub allow_different: bool,
    /// Write the comparison as JSON there; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value / unit < 10.0 => Ok(value / unit),
        _ => Err("is not a positive share; write for example 0.05 or 5%".into()),
    }
}
