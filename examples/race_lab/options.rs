//! Command-line options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use sekisho::clock::{Clock, SystemClock};

use crate::error::LabError;
use crate::machine;

/// Runs gateways under browsers, thieves and faults, and counts false sign-outs and undetected thefts.
#[derive(Clone, Debug, Parser)]
#[command(name = "race_lab", after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Options {
    /// Duration of the run
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub(crate) length: Duration,
    /// Databases to run on, at the same time
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    pub(crate) database: Databases,
    /// PostgreSQL server to use, which is never restarted [default: a temporary one]
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
    /// Number of gateways on PostgreSQL (SQLite has one)
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) replicas: u8,
    /// Number of honest browsers on each database
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) browsers: usize,
    /// Number of further browsers whose cookies are stolen
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) victims: usize,
    /// Number of tabs of a browser
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) tabs: u8,
    /// tokens.access_ttl
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub(crate) access_ttl: Duration,
    /// session.grace; the intervals of disk writes and the response timeout depend on it
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,
    /// Mean time between kills of a gateway
    #[arg(long, value_name = "TIME", default_value = "7s", value_parser = humantime::parse_duration)]
    pub(crate) kill_every: Duration,
    /// Mean time between restarts of the temporary PostgreSQL server
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) restart_every: Duration,
    /// Mean time between steps of a wall clock, of gateways or the temporary PostgreSQL server [default: no steps]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) clock_steps: Option<Duration>,
    /// libfaketimeMT.so.1, for --clock-steps [default: the one of Debian's package libfaketime]
    #[arg(long, value_name = "PATH", requires = "clock_steps")]
    pub(crate) libfaketime: Option<PathBuf>,
    /// Seed of the plans; timing also depends on the machine [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The sekisho program [default: the one of the same build]
    #[arg(long, value_name = "PATH")]
    pub(crate) sekisho: Option<PathBuf>,
}

/// The databases to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Databases {
    Both,
    Sqlite,
    Postgres,
}

impl Options {
    /// Checks values that the gateway would reject, before anything is started.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        if self.grace > self.access_ttl / 2 || self.grace < Duration::from_secs(1) {
            return Err(LabError::Usage("--grace: expected 1s to half of --access-ttl".to_owned()));
        }
        Ok(())
    }

    /// Returns the given seed or a random one.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| (SystemClock.now().unix_timestamp_nanos() / 1_000 % 1_000_000) as u64)
    }

    /// Returns libfaketime, if clocks step.
    pub(crate) fn faketime_library(&self) -> Result<Option<PathBuf>, LabError> {
        if self.clock_steps.is_none() {
            return Ok(None);
        }
        let library = self.libfaketime.clone().or_else(machine::find_library);
        library.filter(|library| library.exists()).map(Some).ok_or(LabError::NoFaketime)
    }

    /// Returns the absolute path of the `sekisho` program.
    pub(crate) fn program(&self) -> Result<PathBuf, LabError> {
        let same_build = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("sekisho"));
        let program = self.sekisho.clone().or_else(same_build).unwrap_or_default();
        // It is started in another directory.
        program.canonicalize().map_err(|_| LabError::NoProgram(program))
    }
}

const EXAMPLES: &str = "\
Examples:
  cargo build --release --bin sekisho --example race_lab
  target/release/examples/race_lab --for 10m
  target/release/examples/race_lab --for 10m --clock-steps 5s
  target/debug/examples/race_lab --for 30s --database sqlite --seed 7
  target/debug/examples/race_lab --postgres postgres://postgres@127.0.0.1:5432/postgres

The temporary PostgreSQL server is started with initdb and pg_ctl from the PATH or /usr/lib/postgresql;
as root, they are run as the user postgres or daemon.

Exit codes: 0 no false sign-out and no undetected theft, 1 otherwise, 2 record_error usage.";
