//! `sekisho migrate`.

use super::error::CliError;
use super::{bootstrap, output};
use crate::config::Config;

pub(super) const EXAMPLES: &str = "\
Example:
  sekisho migrate --config /etc/sekisho/sekisho.toml

`sekisho serve` does so by itself at its start. This is for doing it beforehand, for instance as a
database user who may change tables. It can be repeated, and several at once are safe.";

/// Brings the tables up to date, and says what that took.
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
