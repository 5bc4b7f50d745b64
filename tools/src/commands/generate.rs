//! `syncline completions` and `syncline man`: what is made from the command line's definition.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::print;
use crate::cli::Cli;
use crate::error::{Error, Exit, Result};

/// Prints the completions for `shell`.
///
/// # Errors
/// Exit 3 if stdout does not take them.
pub(super) fn completions(shell: Shell) -> Result<Exit> {
    print(&completion_script(shell))?;
    Ok(Exit::Success)
}

fn completion_script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "syncline", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a manual page for each command into `dir`.
///
/// # Errors
/// Exit 3 if they cannot be written.
pub(super) fn man(dir: &Path) -> Result<Exit> {
    let failed = |error| Error::environment(format!("cannot write to {}", dir.display()), error, "name another DIR");
    fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_of_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = completion_script(shell);
            for word in ["load", "serve", "doctor", "threshold", "busy-poll"] {
                assert!(script.contains(word), "{shell} is not told of {word}");
            }
        }
    }

    #[test]
    fn there_is_a_page_for_each_command_and_those_within() {
        let dir = std::env::temp_dir().join(format!("syncline-man-{}", std::process::id()));
        man(&dir).unwrap();
        for page in ["syncline.1", "syncline-load.1", "syncline-bench-ring.1", "syncline-veth-up.1"] {
            let text = fs::read_to_string(dir.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        let load = fs::read_to_string(dir.join("syncline-load.1")).unwrap();
        assert!(load.contains("\\-\\-threshold") && load.contains("Examples:"), "{load}");
        fs::remove_dir_all(dir).unwrap();
        let error = man(Path::new("/proc/no/such")).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
    }
}
