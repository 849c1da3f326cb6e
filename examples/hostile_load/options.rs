//! Command-line options.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::load::{Attack, Bounds, LoadError, Settings};

/// Runs a gateway under hostile clients and counts the responses of honest ones.
#[derive(Clone, Debug, Parser)]
#[command(name = "hostile_load", after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Options {
    /// Duration of the attack, in seconds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Number of addresses of the hostile clients
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=250))]
    addresses: u8,
    /// Attacks to run at the same time, separated by commas [default: all]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    attacks: Vec<Attack>,
    /// Number of hostile clients, as a part of the full number
    #[arg(long, value_name = "PART", default_value_t = 1.0)]
    scale: f64,
    /// Number of requests on each connection that does not read
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    unread: u8,
    /// Run a short form with lower limits; other sizes are ignored
    #[arg(long)]
    short: bool,
    /// The sekisho program [default: the one of the same build]
    #[arg(long, value_name = "PATH")]
    sekisho: Option<PathBuf>,
}

impl Options {
    /// Returns the sizes of the run.
    pub(crate) fn settings(&self) -> Settings {
        if self.short {
            return Settings::short();
        }
        let mut settings = Settings::full(Duration::from_secs(self.seconds.into()));
        settings.addresses = self.addresses;
        settings.unread_streams = self.unread.into();
        settings.scale_attacks(self.scale);
        if !self.attacks.is_empty() {
            settings.attacks.clone_from(&self.attacks);
        }
        settings
    }

    pub(crate) fn bounds(&self) -> Bounds {
        if self.short { Bounds::short() } else { Bounds::full() }
    }

    /// Returns the absolute path of the `sekisho` program.
    pub(crate) fn program(&self) -> Result<PathBuf, LoadError> {
        let same_build = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("sekisho"));
        let program = self.sekisho.clone().or_else(same_build).unwrap_or_default();
        // It is started in another directory.
        program.canonicalize().map_err(|_| LoadError::NoProgram(program))
    }
}

const EXAMPLES: &str = "\
Examples:
  scripts/hostile-load
  scripts/hostile-load --addresses 200
  scripts/hostile-load --debug --seconds 10 --scale 0.1
  scripts/hostile-load --attacks slow-http2,wrong-sign-ins

The full load needs about 20,000 open files in each process; scripts/hostile-load raises the limit.

Exit codes: 0 all bounds were kept, 1 otherwise, 2 wrong usage.";
