//! The command line.
//!
//! Every argument is parsed into the type that carries its meaning; what follows from several together is checked
//! before anything is opened. The argument structures are the settings of a run, and go into its report as `config`.

pub mod bench;
pub mod device;
pub mod generate;
pub mod load;
pub mod report;
pub mod scenario;
pub mod serve;
pub mod sim;
pub mod talk;
pub mod trace;
pub mod veth;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

pub use bench::{BenchArgs, DemoArgs};
pub use device::DeviceArgs;
pub use load::LoadArgs;
pub use report::ReportArgs;
pub use serve::ServeArgs;
pub use sim::SimArgs;
pub use trace::TraceArgs;

use self::report::Format;
use crate::net::{IfName, MetricsAddr};

/// A kernel-bypass TCP engine and the load tester on it.
#[derive(Debug, Parser)]
#[command(name = "syncline", version, about, max_term_width = 100, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  syncline doctor                           what this host can do
  syncline demo                             a first run, on a bed of its own
  syncline veth up --kernel-b 10.9.0.2/24   a bed; its end b is a Linux host

Exit codes: 0 valid or done, 1 fault of ours, 2 usage, 3 host lacks something,
  4 failed, 5 limited by the generator, 6 interrupted";

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process")]
pub enum Command {
    /// Show what this machine can do: server and load on a veth pair of their own
    Demo(DemoArgs),
    /// Measure the engine and the path below it
    Bench(BenchArgs),
    /// Load targets: connections, requests, held connections, bulk data, HTTP
    Load(LoadArgs),
    /// Serve TCP on the engine: echo, discard, daytime, chargen, respond, http
    Serve(ServeArgs),
    /// Two engines on a simulated link in virtual time, from a seed
    Sim(SimArgs),
    /// Make, remove or show a test bed of network namespaces
    Veth(veth::VethArgs),
    /// Tell what this host, and a device of it, can do
    Doctor(DoctorArgs),
    /// Show each connection of a capture as a ladder, with the states of both ends
    Trace(TraceArgs),
    /// Read JSON reports: show, add up, compare them
    Report(ReportArgs),
    /// Print completions for a shell
    Completions(generate::CompletionsArgs),
    /// Write manual pages
    #[command(hide = true)]
    Man(generate::ManArgs),
}

/// Where results go.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputArgs {
    /// Write the JSON report there; `-` is stdout
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Other forms of the report.
    #[command(flatten)]
    pub export: ExportArgs,
    /// Print a line a second to stderr, whether or not it is a terminal
    #[arg(long, help_heading = "Results", hide_short_help = true)]
    pub progress: bool,
    /// Serve metrics for Prometheus: docs/metrics.md
    #[arg(long, value_name = "[IP:]PORT", help_heading = "Results")]
    pub metrics: Option<MetricsAddr>,
    /// On a terminal: a line a second instead of the live view
    #[arg(long, help_heading = "Results", hide_short_help = true)]
    pub plain: bool,
}

impl OutputArgs {
    /// Whether stdout belongs to a form of the report that is no text for people.
    pub fn stdout_is_taken(&self) -> bool {
        let json = self.json.as_deref().into_iter();
        json.chain(self.export.files().map(|(.., path)| path)).any(|path| path.as_os_str() == "-")
    }
}

/// Forms of a report beside text and JSON, each in a file.
#[derive(Clone, Debug, Default, Args)]
pub struct ExportArgs {
    /// Write the report as one page of HTML there
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub html: Option<PathBuf>,
    /// Write the verdict and each threshold as test results there, in JUnit's XML
    #[arg(long, value_name = "FILE", help_heading = "Results", hide_short_help = true)]
    pub junit: Option<PathBuf>,
    /// Write the course of the run there, a row a second
    #[arg(long, value_name = "FILE", help_heading = "Results", hide_short_help = true)]
    pub csv: Option<PathBuf>,
}

impl ExportArgs {
    /// The files asked for: flag, form and path.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, Format, &Path)> {
        let files = [
            ("--html", Format::Html, &self.html),
            ("--junit", Format::Junit, &self.junit),
            ("--csv", Format::Csv, &self.csv),
        ];
        files.into_iter().filter_map(|(flag, format, path)| Some((flag, format, path.as_deref()?)))
    }
}

/// `syncline doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  syncline doctor                                    this host
  syncline doctor --netns syn-a --dev syn-a0         and a device in a namespace
Exits with 3 if something is missing without which nothing works.")]
pub struct DoctorArgs {
    /// Look at this interface too
    #[arg(long, value_name = "IF")]
    pub dev: Option<IfName>,
    /// Enter this network namespace first
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Write the findings as JSON there; `-` is stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// `-h` of every command. `--help` is the reference: it has an example.
    #[test]
    fn help_fits_a_screen_of_80_by_50() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let sized = command.clone().term_width(80);
            let short = sized.clone().render_help().to_string();
            assert!(short.lines().count() <= 50, "{path} -h:\n{short}");
            assert!(short.lines().all(|line| line.chars().count() <= 80), "{path} -h:\n{short}");
            let long = sized.clone().render_long_help().to_string();
            let leaf = command.get_subcommands().next().is_none();
            assert!(!leaf || long.contains("Example"), "{path} --help has no example");
            command.get_subcommands_mut().for_each(|command| check(command, &path));
        }
        let mut cli = Cli::command();
        cli.build();
        let help = cli.clone().term_width(80).render_help().to_string();
        assert!(help.lines().count() <= 32, "{help}");
        check(&mut cli, "");
    }
}
