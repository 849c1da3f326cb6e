//! Why the lab itself could not go on.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::Output;

/// Why the lab itself could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    #[error("{what} failed: {said}")]
    Command { what: String, said: String },
    #[error("interrupted before it had begun")]
    Interrupted,
    #[error("can't {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("there is no program {}: build it with `cargo build --bin sekisho`, with --release if the lab was, or name it by --sekisho", .0.display())]
    NoProgram(PathBuf),
    #[error(
        "there is no initdb, neither in the PATH nor in /usr/lib/postgresql: install PostgreSQL, name a server by --postgres, or say --database sqlite"
    )]
    NoServer,
    #[error("the database did not do as it was told: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Usage(String),
    #[error("waited in vain for {0}")]
    Vain(String),
}

impl LabError {
    /// What could not be done, for `map_err`.
    pub(crate) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }

    /// The command's standard output, if it did what it was told.
    pub(crate) fn said(what: &str, output: &Output) -> Result<String, Self> {
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = format!("{} {}", text(&output.stdout), text(&output.stderr));
        Err(Self::Command { what: what.to_owned(), said: said.trim().to_owned() })
    }
}
