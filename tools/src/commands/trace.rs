//! `syncline trace`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{print, write_json};
use crate::cli::TraceArgs;
use crate::error::{Error, Exit, Result};
use crate::say::say;
use crate::trace::ladder::{self, Style};
use crate::trace::{self, Trace};

/// Shows the connections of a capture.
///
/// # Errors
/// Exit 2 if the file cannot be read as a capture, 3 if the result cannot be written.
pub(super) fn run(args: &TraceArgs) -> Result<Exit> {
    let what = || format!("cannot read the capture {}", args.file.display());
    let refused = |error: &dyn std::fmt::Display| Error::usage(what(), error, "give a file of --pcap or tcpdump -w");
    let file: Box<dyn Read + Send> = match args.file.as_path() {
        stdin if stdin == Path::new("-") => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(|error| refused(&error))?),
    };
    let connections_max = usize::try_from(args.count.0).unwrap_or(usize::MAX);
    let trace = trace::read(&args.file.display().to_string(), file, args.flow, connections_max);
    let trace = trace.map_err(|error| refused(&error))?;
    show(&trace, args)?;
    Ok(Exit::Success)
}

fn show(trace: &Trace, args: &TraceArgs) -> Result<()> {
    if let Some(damage) = &trace.damage {
        say(format_args!("syncline: {}: {damage}; what came before it is shown", trace.source));
    }
    if let Some(file) = &args.json {
        write_json(file, trace)?;
        if file == Path::new("-") {
            return Ok(());
        }
    }
    let segments_max = usize::try_from(args.segments.0).unwrap_or(usize::MAX);
    print(&ladder::render(trace, Style { ascii: args.ascii || !Style::locale_is_utf8(), segments_max }))
}
