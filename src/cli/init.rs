//! `sekisho init`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use super::error::CliError;
use super::output;

/// Writes a configuration to `file`, which must not exist, or to `./sekisho.toml`.
pub(super) fn run(file: Option<PathBuf>) -> Result<(), CliError> {
    let file = file.unwrap_or_else(|| PathBuf::from("sekisho.toml"));
    let path = file.display();
    let created = OpenOptions::new().write(true).create_new(true).open(&file);
    let written = created.and_then(|mut created| created.write_all(CONFIG.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            CliError::Refused(format!("{path} exists already: remove it, or name another file with --config"))
        }
        _ => CliError::failed(format!("cannot write {path}"), error),
    })?;
    output::print_lines(&[
        format!("wrote {path}: set the addresses of your API and your page in it, then run"),
        format!("  sekisho check-config --config {path}"),
    ])
}

/// A configuration for an API and a page.
const CONFIG: &str = include_str!("../../config/init.toml");

pub(super) const EXAMPLES: &str = "\
Examples:
  sekisho init                            writes ./sekisho.toml
  sekisho init --config gateway.toml

The file is for an API below /api and a page at /, on this machine. An existing file is never overwritten.";
