//! `sekisho check-config`.

use std::sync::Arc;

use super::error::CliError;
use super::{bootstrap, output};
use crate::app;
use crate::clock::{Clock, SystemClock};
use crate::config::LoadedConfig;

/// Checks the routes, the pages, the certificate and the keys too, and prints the file and the warnings.
pub(super) fn run(loaded: &LoadedConfig) -> Result<(), CliError> {
    app::check_routes(&loaded.config).map_err(CliError::misconfigured)?;
    app::check_pages(&loaded.config).map_err(CliError::misconfigured)?;
    bootstrap::certificate(&loaded.config, Arc::new(SystemClock))?;
    bootstrap::check_keys(&loaded.config, SystemClock.now())?;
    let mut lines = vec![match &loaded.file {
        Some(file) => format!("configuration file: {}", file.display()),
        None => "configuration file: none, using defaults and environment".to_owned(),
    }];
    let key_warnings = bootstrap::key_warnings(&loaded.config)?;
    lines.extend(loaded.warnings.iter().chain(&key_warnings).map(|warning| format!("warning: {warning}")));
    lines.push("configuration is valid".to_owned());
    output::print_lines(&lines)
}

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho check-config
  sekisho check-config --config /etc/sekisho/sekisho.toml

Exit code 78 means that the configuration is invalid; standard error names the first error.";
