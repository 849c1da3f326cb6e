//! `sekisho migrate`.

use super::error::CliError;
use super::{output, start};
use crate::backend::config::Config;

/// Brings the tables up to date, and says what that took.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    let stores = start::open(config).await?;
    let applied = stores.migrate().await;
    stores.close().await;
    let applied: Vec<_> = applied?.iter().map(|migration| format!("applied {migration}")).collect();
    if applied.is_empty() {
        return output::print_lines(&["the database is up to date"]);
    }
    output::print_lines(&applied)
}
