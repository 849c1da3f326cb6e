//! Errors of the lab itself.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::Output;

/// An error that ends the lab.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabError {
    #[error("{source}; the faults before it:\n{before}")]
    AfterFaults { source: Box<Self>, before: String },
    #[error("{what} failed: {output}")]
    Command { what: String, output: String },
    #[error("interrupted before the start")]
    Interrupted,
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("cannot find {}: build it with `cargo build --bin sekisho` in the lab's profile, or pass --sekisho", .0.display())]
    NoProgram(PathBuf),
    #[error("cannot find libfaketimeMT.so.1: install Debian's package libfaketime, or pass --libfaketime")]
    NoFaketime,
    #[error(
        "cannot find initdb in the PATH or in /usr/lib/postgresql: install PostgreSQL, or pass --postgres or --database sqlite"
    )]
    NoServer,
    #[error("database error: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Usage(String),
    #[error("timed out waiting for {0}")]
    Timeout(String),
}

impl LabError {
    /// Returns a conversion of I/O errors for `map_err`.
    pub(crate) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }

    /// Adds the faults that were injected before the error.
    pub(crate) fn after(self, faults: &[String]) -> Self {
        Self::AfterFaults { source: Box::new(self), before: faults.join("\n") }
    }

    /// Returns the standard output of a successful command.
    pub(crate) fn stdout(what: &str, output: &Output) -> Result<String, Self> {
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let failure = format!("{} {}", text(&output.stdout), text(&output.stderr));
        Err(Self::Command { what: what.to_owned(), output: failure.trim().to_owned() })
    }
}
