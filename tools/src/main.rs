//! The `syncline` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use syncline::cli::Cli;
use syncline::{Exit, commands};

const HELP_INSTEAD: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Asking for help or the version is no error; a command without its subcommand gets help, too.
        Err(error) if !error.use_stderr() || error.kind() == HELP_INSTEAD => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
        Err(error) => {
            eprintln!("syncline: {}", one_line(&error.to_string()));
            return Exit::Usage.into();
        }
    };
    commands::run(cli.command)
        .unwrap_or_else(|error| {
            eprintln!("syncline: {error}");
            error.exit()
        })
        .into()
}

/// What clap says in several paragraphs: the first, and the way to the rest.
fn one_line(text: &str) -> String {
    let first = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more").next().unwrap_or(text);
    let words = first.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{}; --help tells more", words.trim_start_matches("error: "))
}
