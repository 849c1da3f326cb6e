//! `sekisho key …`: the keys that sign tokens.

use clap::{Args, Subcommand};

/// What to do with keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make the first key, in tokens.key_dir
    Init,
    /// List the keys, without their secrets
    List(KeyList),
    /// Add a key: accepted at once, and signing after tokens.key_activation
    Rotate,
    /// Drop a key now; tells how many sessions end with it
    Retire(KeyRetire),
}

/// Arguments of `sekisho key list`.
#[derive(Args, Clone, Debug)]
pub struct KeyList {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sekisho key retire`.
#[derive(Args, Clone, Debug)]
pub struct KeyRetire {
    /// The key's number, as `sekisho key list` shows it
    #[arg(value_name = "N")]
    pub number: u8,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho key init          before the first start, with PostgreSQL
  sekisho key rotate        nobody is signed out
  sekisho key list --json
  sekisho key retire 1      ends the sessions that it signed last";
