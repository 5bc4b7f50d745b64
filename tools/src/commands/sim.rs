//! `syncline sim`: two engines on a simulated link in virtual time, from a seed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncline_sim::{Outcome, Size, run as play};

use super::{print, write_json};
use crate::cli::SimArgs;
use crate::error::{Exit, Result};

/// Plays seeds until one fails, all are played or the time is over. Exit 4 if one fails.
pub(super) fn run(args: &SimArgs) -> Result<Exit> {
    let size = Size { connections: args.connections, seconds: args.seconds };
    let end = args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    let mut runs = Vec::new();
    let mut failure = None;
    let mut seed = args.seed;
    let is_last = |played: u64| end.map_or(played >= args.seeds, |end| Instant::now() >= end);
    loop {
        match play(seed, size) {
            Ok(outcome) => {
                if !quiet {
                    print(&line(seed, &outcome))?;
                }
                // a soak would keep millions
                if end.is_none() {
                    runs.push(as_json(seed, &outcome));
                }
            }
            Err(found) => {
                failure = Some(found);
                break;
            }
        }
        seed += 1;
        if is_last(seed - args.seed) {
            break;
        }
    }
    if let Some(file) = &args.json {
        let failed = failure.as_ref().map(|found| json!({ "seed": found.seed, "what": found.what }));
        let played = seed - args.seed;
        write_json(file, &json!({ "config": args, "played": played, "runs": runs, "failure": failed }))?;
    }
    let Some(found) = failure else { return Ok(Exit::Success) };
    if !quiet {
        print(&format!("{found}\n"))?;
    }
    Ok(Exit::Failed)
}

fn line(seed: u64, outcome: &Outcome) -> String {
    format!(
        "seed {seed}: {} connections in {:.3} s: {} ends closed, {} reset, {} timed out, {} gone; {} octets, {} segments \
         sent again; digest {:016x}\n",
        outcome.connections,
        outcome.micros as f64 / 1e6,
        outcome.closed,
        outcome.reset,
        outcome.timed_out,
        outcome.gone,
        outcome.octets,
        outcome.retransmitted,
        outcome.digest
    )
}

fn as_json(seed: u64, outcome: &Outcome) -> Value {
    json!({
        "seed": seed,
        "digest": format!("{:016x}", outcome.digest),
        "virtual_us": outcome.micros,
        "steps": outcome.steps,
        "frame_events": outcome.frame_events,
        "connections": outcome.connections,
        "ends_closed": outcome.closed,
        "ends_reset": outcome.reset,
        "ends_timed_out": outcome.timed_out,
        "ends_gone": outcome.gone,
        "octets": outcome.octets,
        "retransmitted": outcome.retransmitted,
    })
}
