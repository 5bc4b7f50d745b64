//! `syncline sim`: two engines on a simulated link in virtual time, from a seed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use syncline_sim::attack::{self, ATTACKS, Attack};
use syncline_sim::{Outcome, Size, run as play};

use super::{print, write_json};
use crate::cli::SimArgs;
use crate::error::{Error, Exit, Result};

/// Plays seeds until one fails, all are played or the time is over. Exit 4 if one fails.
pub(super) fn run(args: &SimArgs) -> Result<Exit> {
    match args.attack.as_deref() {
        Some("list") => {
            let lines: Vec<_> = ATTACKS.iter().map(|attack| format!("{:16} {}\n", attack.name, attack.about)).collect();
            print(&lines.concat())?;
            return Ok(Exit::Success);
        }
        Some(name) => {
            let unknown =
                || Error::usage(format!("--attack {name}"), "no attack has that name", "`--attack list` lists them");
            return attacks(args, attack::find(name).ok_or_else(unknown)?);
        }
        None => {}
    }
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

/// Plays an attack from each seed. Exit 4 if one breaks a bound.
fn attacks(args: &SimArgs, attack: &Attack) -> Result<Exit> {
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    let mut runs = Vec::new();
    let mut failed = false;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let outcome = attack::play(attack, seed, &mut |_, pass| pass());
        failed |= !outcome.broken.is_empty();
        if !quiet {
            print(&format!("{outcome}\n"))?;
        }
        runs.push(attack_as_json(&outcome));
    }
    if let Some(file) = &args.json {
        write_json(file, &json!({ "config": args, "runs": runs }))?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Success })
}

fn attack_as_json(outcome: &attack::Outcome) -> Value {
    let counters: serde_json::Map<_, _> =
        outcome.counters.iter().map(|&(name, count)| (name.to_owned(), Value::from(count))).collect();
    let held = &outcome.held_max;
    json!({
        "attack": outcome.name,
        "seed": outcome.seed,
        "hostile_frames": outcome.hostile_frames,
        "frames_sent": outcome.sent,
        "frames_sent_quiet": outcome.sent_quiet,
        "bytes_max": outcome.bytes_max,
        "bytes_max_quiet": outcome.bytes_max_quiet,
        "held_max": {
            "connections": held.connections,
            "busy_blocks": held.busy_blocks,
            "flight_nodes": held.flight_nodes,
            "chunks": held.chunks,
            "syn_received": held.syn_received,
        },
        "scoreboard_steps": outcome.scoreboard_steps,
        "answers": outcome.answers,
        "answers_quiet": outcome.answers_quiet,
        "pages": outcome.pages,
        "pages_quiet": outcome.pages_quiet,
        "honest_failed": outcome.failed,
        "counters": counters,
        "broken": outcome.broken,
    })
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
