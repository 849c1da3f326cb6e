//! `sekisho migrate`.

use super::error::CliError;
use super::{bootstrap, output};
use crate::config::Config;

pub(super) const EXAMPLES: &str = "\
Example:
  sekisho migrate --config /etc/sekisho/sekisho.toml

`sekisho serve` migrates on startup too. Run this command to migrate beforehand, for instance as a database \
user with more privileges. Repeated and concurrent runs are safe.";

/// Applies pending migrations and prints them.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let stores = bootstrap::open(config).await?;
    let applied = stores.migrate().await;
    stores.close().await;
    let applied: Vec<_> = applied?.iter().map(|migration| format!("applied {migration}")).collect();
    if applied.is_empty() {
        return output::print_lines(&["the database is up to date"]);
    }
    output::print_lines(&applied)
}
