//! Errors of the load itself.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

use super::client::RequestError;

/// An error that ends the load.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{what} failed: {output}")]
    Command { what: String, output: String },
    #[error("interrupted")]
    Interrupted,
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("cannot find {}: build it with `cargo build --bin sekisho` in the profile of the load, or pass --sekisho", .0.display())]
    NoProgram(PathBuf),
    #[error("cannot sign in before the attack: {0}")]
    SignIn(#[from] RequestError),
    #[error("timed out waiting for {0}")]
    Timeout(String),
}

impl LoadError {
    /// Returns a conversion of I/O errors for `map_err`.
    pub(crate) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }
}
