//! `syncline completions` and `syncline man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// `syncline completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  source <(syncline completions bash)                 for this shell
  syncline completions fish > ~/.config/fish/completions/syncline.fish
`make install` puts them, and the manual pages, in their places.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// `syncline man`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  syncline man /usr/local/share/man/man1 && man syncline-load")]
pub struct ManArgs {
    /// The directory; it is made if there is none
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
