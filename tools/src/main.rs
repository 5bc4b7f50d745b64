//! The `syncline` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::ErrorKind;
use syncline::cli::scenario::{self, Refusal};
use syncline::say::say;
use syncline::{Exit, commands};

const HELP_INSTEAD: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

fn main() -> ExitCode {
    let cli = match scenario::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        // Asking for help or the version is no error; a command without its subcommand gets help, too.
        Err(Refusal::Words(error)) if !error.use_stderr() || error.kind() == HELP_INSTEAD => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
        Err(Refusal::Words(error)) => {
            say(format_args!("syncline: {}; --help tells more", scenario::one_line(&error.to_string())));
            return Exit::Usage.into();
        }
        Err(Refusal::Scenario(error)) => {
            say(format_args!("syncline: {error}"));
            return Exit::Usage.into();
        }
    };
    commands::run(cli.command)
        .unwrap_or_else(|error| {
            say(format_args!("syncline: {error}"));
            error.exit()
        })
        .into()
}
