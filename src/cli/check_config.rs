//! `sekisho check-config`.

use clap::Args;

use super::error::CliError;
use super::plural::counted;
use super::{bootstrap, output};
use crate::config::{Config, LoadedConfig};

/// Arguments of `sekisho check-config`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CheckConfigArgs {
    /// Connect to the database too
    #[arg(long)]
    pub connect: bool,
}

/// Checks the routes, the pages, the certificate and the keys too, and prints the file and the warnings.
pub(super) async fn run(args: CheckConfigArgs, loaded: &LoadedConfig) -> Result<(), CliError> {
    bootstrap::check(&loaded.config)?;
    let mut lines = vec![match &loaded.file {
        Some(file) => format!("configuration file: {}", file.display()),
        None => "configuration file: none, using defaults and environment".to_owned(),
    }];
    let key_warnings = bootstrap::key_warnings(&loaded.config)?;
    lines.extend(loaded.warnings.iter().chain(&key_warnings).map(|warning| format!("warning: {warning}")));
    if args.connect {
        lines.push(check_database(&loaded.config).await?);
        lines.push("configuration is valid".to_owned());
    } else {
        lines.push(
            "configuration is valid (nothing was connected to: --connect tries the database)".to_owned(),
        );
    }
    output::print_lines(&lines)
}

/// Connects to the database, and returns its state. Neither creates it nor changes its tables.
async fn check_database(config: &Config) -> Result<String, CliError> {
    if let Some(file) = bootstrap::missing_file(config) {
        return Ok(format!("database: {} does not exist yet, `sekisho serve` creates it", file.display()));
    }
    let stores = bootstrap::open(config).await?;
    let pending = stores.pending().await;
    stores.close().await;
    Ok(match pending?.len() {
        0 => "database: connected, its tables are up to date".to_owned(),
        count => format!(
            "database: connected, `sekisho serve` and `sekisho migrate` apply {} to its tables",
            counted(count, "migration")
        ),
    })
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho check-config
  sekisho check-config --config /etc/sekisho/sekisho.toml
  sekisho check-config --connect          tries the database too

Exit code 78 means that the configuration is invalid; standard error names each error on a line of its own.";
