//! What is asked of the lab on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use sekisho::clock::{Clock, SystemClock};

use crate::error::LabError;

/// Real browsers' troubles, real thieves, real processes: counts who is signed out, and who is caught.
#[derive(Clone, Debug, Parser)]
#[command(name = "race_lab", after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Options {
    /// For how long
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub(crate) length: Duration,
    /// On which databases; both means at the same time
    #[arg(long, value_enum, default_value_t = Databases::Both)]
    pub(crate) database: Databases,
    /// A PostgreSQL server to use, which is then never restarted [default: one of the lab's own]
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
    /// How many gateways over PostgreSQL (SQLite has one)
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) replicas: u8,
    /// How many honest browsers on each database
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) browsers: usize,
    /// How many browsers besides that are stolen from
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) victims: usize,
    /// How many tabs a browser has
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) tabs: u8,
    /// tokens.access_ttl
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = humantime::parse_duration)]
    pub(crate) access_ttl: Duration,
    /// session.grace; what a browser has for its disk and its answers is measured by it
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,
    /// How often some gateway is killed, on average
    #[arg(long, value_name = "TIME", default_value = "7s", value_parser = humantime::parse_duration)]
    pub(crate) kill_every: Duration,
    /// How often the lab's own PostgreSQL is restarted, on average
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) restart_every: Duration,
    /// Who does what, and in which order; when also depends on the machine [default: another each time]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The program under test [default: `sekisho` beside the folder that this example is in]
    #[arg(long, value_name = "PATH")]
    pub(crate) sekisho: Option<PathBuf>,
}

/// On which databases it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Databases {
    Both,
    Sqlite,
    Postgres,
}

impl Options {
    /// What the program itself would refuse is refused here, before anything is started.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        if self.grace > self.access_ttl / 2 || self.grace < Duration::from_secs(1) {
            return Err(LabError::Usage("--grace: expected 1s to half of --access-ttl".to_owned()));
        }
        Ok(())
    }

    /// The seed that was given, or one by chance.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| (SystemClock.now().unix_timestamp_nanos() / 1_000 % 1_000_000) as u64)
    }

    /// The program under test.
    pub(crate) fn program(&self) -> Result<PathBuf, LabError> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("sekisho"));
        let program = self.sekisho.clone().or_else(beside).unwrap_or_default();
        // Absolute, for it is started in another directory.
        program.canonicalize().map_err(|_| LabError::NoProgram(program))
    }
}

const EXAMPLES: &str = "\
Examples:
  cargo build --release --bin sekisho --example race_lab
  target/release/examples/race_lab --for 10m
  target/debug/examples/race_lab --for 30s --database sqlite --seed 7
  target/debug/examples/race_lab --postgres postgres://postgres@127.0.0.1:5432/postgres

The PostgreSQL server that it restarts is its own, made by initdb and pg_ctl from the PATH or
/usr/lib/postgresql; as root it runs them as the user postgres, or nobody.

Exit codes: 0 nobody was signed out and no thief missed, 1 otherwise, 2 wrong usage.";
