//! Instructions per connection and per data segment, counted by callgrind, held against what was recorded.
//!
//! ```text
//!  instructions check     counts, compares with bench/instructions.json, fails if one grew by more than 3%
//!  instructions record    counts, and writes what it found there
//!  instructions run connection|segment COUNT    the exchange itself: what callgrind is given
//! ```
//!
//! Each exchange is run at two lengths. The difference of the counts, divided by the difference of the lengths, is free
//! of what starting costs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use syncline_bench::exchange;

/// Growth that passes: more than the layout of code and data changes the count by.
const GROWTH_MAX_PERCENT: f64 = 3.0;

/// Connections open at once.
const IN_FLIGHT: u32 = 256;

#[derive(Parser)]
#[command(about = "Instructions per connection and per data segment, both ends together")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Fail if a count has grown by more than 3% since it was recorded.
    Check,
    /// Write the counts of now to bench/instructions.json.
    Record,
    /// Run an exchange.
    Run { exchange: Exchange, count: u64 },
}

#[derive(Clone, Copy, ValueEnum)]
enum Exchange {
    /// Open, one request, one response, close: three packets each way.
    Connection,
    /// Full segments on one connection, and what acknowledges them.
    Segment,
}

impl Exchange {
    const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Segment => "segment",
        }
    }

    fn run(self, count: u64) {
        match self {
            Self::Connection => exchange::run_connections(&mut exchange::connections(IN_FLIGHT), count),
            Self::Segment => exchange::run_segments(&mut exchange::bulk(), count),
        }
    }

    /// Instructions for one connection or segment, both ends together.
    fn count(self) -> anyhow::Result<f64> {
        const SHORT: u64 = 10_000;
        const LONG: u64 = 30_000;
        let (short, long) = (callgrind(self, SHORT)?, callgrind(self, LONG)?);
        Ok(long.saturating_sub(short) as f64 / (LONG - SHORT) as f64)
    }
}

/// What was counted, and by which compiler's code.
#[derive(Serialize, Deserialize)]
struct Baseline {
    rustc: String,
    /// Instructions per connection.
    connection: f64,
    /// Instructions per data segment.
    segment: f64,
}

impl Baseline {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
    }

    fn read() -> anyhow::Result<Self> {
        let path = Self::path();
        let text = std::fs::read(&path).with_context(|| format!("reading {}: record one first", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", path.display()))
    }

    fn count() -> anyhow::Result<Self> {
        let version = Command::new("rustc").arg("--version").output().context("running rustc: is it in PATH?")?;
        let rustc = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        Ok(Self { rustc, connection: Exchange::Connection.count()?, segment: Exchange::Segment.count()? })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().action {
        Action::Run { exchange, count } => exchange.run(count),
        Action::Record => {
            let counted = Baseline::count()?;
            std::fs::write(Baseline::path(), serde_json::to_string_pretty(&counted)? + "\n")?;
            println!("{:.0} a connection, {:.0} a segment: recorded", counted.connection, counted.segment);
        }
        Action::Check => return check(),
    }
    Ok(ExitCode::SUCCESS)
}

fn check() -> anyhow::Result<ExitCode> {
    let (recorded, counted) = (Baseline::read()?, Baseline::count()?);
    if recorded.rustc != counted.rustc {
        println!("recorded with {}, counted with {}", recorded.rustc, counted.rustc);
    }
    let mut grown = false;
    for (exchange, before, now) in [
        (Exchange::Connection, recorded.connection, counted.connection),
        (Exchange::Segment, recorded.segment, counted.segment),
    ] {
        let percent = (now / before - 1.0) * 100.0;
        println!("instructions per {}: {before:.0} recorded, {now:.0} now ({percent:+.1}%)", exchange.name());
        grown |= percent > GROWTH_MAX_PERCENT;
    }
    if grown {
        println!(
            "more than {GROWTH_MAX_PERCENT}%: find the cause, or say why it is worth it and run `make instructions-record`"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Instructions of one run of this program under callgrind.
fn callgrind(exchange: Exchange, count: u64) -> anyhow::Result<u64> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["run", exchange.name(), &count.to_string()])
        .output()
        .context("running valgrind: install it with `make setup`")?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed:\n{report}");
    match report.lines().find_map(|line| line.split_once("Collected : ")) {
        Some((_, instructions)) => Ok(instructions.trim().parse()?),
        None => bail!("no count in what valgrind said:\n{report}"),
    }
}
