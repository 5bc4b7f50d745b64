//! `syncline sim`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

/// `syncline sim`.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "\
Examples:
  syncline sim --seed 7                      one run; the same seed gives the same run
  syncline sim --minutes 10 --json sim.json
  syncline sim --attack list")]
pub struct SimArgs {
    /// The first seed: it decides the link, its faults, and what every connection does
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Seeds to play, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "minutes")]
    pub seeds: u64,
    /// Play seed after seed for so long
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,
    /// Most connections of a run; the seed picks how many
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub connections: u32,
    /// Most virtual time in which connections are opened and the link misbehaves
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Play this attack on a server instead, or `list` them; odd seeds are IPv6
    #[arg(long, value_name = "NAME|list", conflicts_with_all = ["minutes", "connections", "seconds"])]
    pub attack: Option<String>,
    /// Write what the runs came to as JSON there; `-` is stdout, and then nothing else goes there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
