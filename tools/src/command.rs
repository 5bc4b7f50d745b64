//! Programs of the host that do set-up work, such as `ip`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};

/// Runs `program` to its end and returns what it printed.
///
/// It gets a process group of its own, so that a Ctrl-C meant for us does not end a clean-up half-way.
///
/// # Errors
/// Exit 3 if the program is missing or fails; its own last line says why.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    let line = describe(&command);
    match command.output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(Error::environment(format!("`{line}` failed"), reason(&output), "")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mend = format!("install it with `apt-get install {}`", package(program));
            Err(Error::environment(format!("cannot run `{line}`"), "the program is not installed", mend))
        }
        Err(error) => Err(Error::environment(format!("cannot run `{line}`"), error, "")),
    }
}

fn package(program: &str) -> &str {
    if program == "ip" { "iproute2" } else { program }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_command_and_its_own_reason() {
        let error = run("sh", ["-c", "echo first >&2; echo 'the reason' >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().ends_with("failed: the reason"), "{error}");
        let error = run("there-is-no-such-program", ["x"]).unwrap_err();
        assert!(error.to_string().contains("apt-get install there-is-no-such-program"), "{error}");
    }
}
