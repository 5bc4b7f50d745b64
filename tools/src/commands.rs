//! The commands: what each does with its arguments.

mod bench;
mod demo;
mod flood;
mod generate;
mod ladders;
mod load;
mod output;
mod pair;
mod raw;
mod report;
mod sampler;
mod serve;
mod sim;
mod trace;
mod watch;

use std::io;
use std::path::Path;

use crate::bed;
use crate::cli::veth::VethAction;
use crate::cli::{Command, DoctorArgs};
use crate::doctor;
use crate::error::{Exit, Result};
use crate::netns;

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
        Command::Report(args) => report::run(&args.action),
        Command::Completions(args) => generate::completions(args.shell),
        Command::Man(args) => generate::man(&args.dir),
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
