//! The commands: what each does with its arguments.

mod bench;
mod demo;
mod flood;
mod load;
mod output;
mod pair;
mod progress;
mod raw;
mod serve;
mod sim;
mod trace;

use std::fs;
use std::io;
use std::path::Path;

use crate::bed;
use crate::cli::veth::VethAction;
use crate::cli::{Command, DoctorArgs, ReportAction};
use crate::doctor;
use crate::error::{Error, Exit, Result};
use crate::netns;
use crate::report::{self, Report};

pub use output::{print, write_json};

/// Does what `command` says, and returns what the process ends with.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Veth(args) => veth(args.action),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args.what),
        Command::Load(args) => load::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Doctor(args) => run_doctor(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Report(args) => match args.action {
            ReportAction::Render { file } => render(&file),
        },
    }
}

fn veth(action: VethAction) -> Result<Exit> {
    match action {
        VethAction::Up { bed, spec } => {
            bed::up(&bed.name, &spec.into())?;
            print(&bed::status(&bed.name)?.unwrap_or_default())?;
        }
        VethAction::Down { bed, after_stdin } => {
            if after_stdin {
                // Whatever ends it: that the other process is gone is all that matters.
                let _ = io::copy(&mut io::stdin(), &mut io::sink());
            }
            let there = bed::down(&bed.name)?;
            print(&if there { format!("{} removed\n", bed.name) } else { format!("there is no {}\n", bed.name) })?;
        }
        VethAction::Status(bed) => match bed::status(&bed.name)? {
            Some(text) => print(&text)?,
            None => print(&format!("there is no {}; `syncline veth up --name {0}` makes it\n", bed.name))?,
        },
    }
    Ok(Exit::Success)
}

fn run_doctor(args: &DoctorArgs) -> Result<Exit> {
    if let Some(netns) = &args.netns {
        netns::enter(netns)?;
    }
    let findings = doctor::examine(args.dev.as_ref())?;
    if let Some(file) = &args.json {
        write_json(file, &findings)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        print(&findings.render())?;
    }
    Ok(findings.exit())
}

fn render(file: &Path) -> Result<Exit> {
    let what = || format!("cannot read the report {}", file.display());
    let text = if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text.map_err(|error| Error::usage(what(), error, "give a file that --json wrote"))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| Error::usage(what(), error, "give a file that --json wrote"))?;
    if report.schema != report::SCHEMA {
        let why = format!("its schema is `{}`", report.schema);
        return Err(Error::usage(what(), why, format!("this version reads {}", report::SCHEMA)));
    }
    print(&report::text::render(&report))?;
    Ok(report.exit())
}
