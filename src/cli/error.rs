//! Errors of commands, and their output.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use clap::error::ErrorKind;

use super::plural::counted;
use crate::backend::db::DbError;
use crate::config::ConfigError;
use crate::printable::to_printable;
use crate::services::store::StoreError;

/// The exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Success.
    Done = 0,
    /// Failure.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Invalid configuration: `EX_CONFIG` of `sysexits.h`.
    Config = 78,
}

impl ExitStatus {
    /// Returns the exit code of the process.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        self.code().into()
    }
}

/// An error of a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file with lines that cannot be imported.
    #[error("{}: {}, nothing was imported", file.display(), counted(lines.len(), "invalid line"))]
    BadImport {
        /// The file.
        file: PathBuf,
        /// The invalid lines.
        lines: Vec<ImportError>,
    },
    /// An invalid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Several errors in the configuration.
    #[error("{}", .0.iter().map(|error| display_chain(error)).collect::<Vec<_>>().join("; "))]
    Several(Vec<CliError>),
    /// An error of the database.
    #[error(transparent)]
    Database(DbError),
    /// A query of the database failed.
    #[error("cannot query the database")]
    Store(#[from] StoreError),
    /// A failed operation.
    #[error("{doing}")]
    Failed {
        /// The operation, such as "cannot open the database".
        doing: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A well-formed setting that cannot be used.
    #[error("{0}")]
    Misconfigured(#[source] Box<dyn Error + Send + Sync>),
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A request that cannot be fulfilled, with the reason and the remedy.
    #[error("{0}")]
    Refused(String),
    /// Wrong usage, with the remedy.
    #[error("{0}")]
    Usage(String),
}

/// A line that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ImportError {
    /// The line, from 1.
    pub line: u64,
    /// The problem.
    pub reason: String,
}

impl CliError {
    /// Creates the error of a failed operation.
    pub fn failed(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    /// Creates the error of a setting that cannot be used.
    pub fn misconfigured(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Misconfigured(error.into())
    }

    /// Returns the errors as one, if there is any.
    ///
    /// # Errors
    ///
    /// [`Several`](Self::Several), or the only one.
    pub fn check_none(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.pop() {
            None => Ok(()),
            Some(only) if errors.is_empty() => Err(only),
            Some(last) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }

    /// Returns the exit status for this error.
    #[must_use]
    pub fn exit(&self) -> ExitStatus {
        match self {
            Self::Config(_) | Self::Misconfigured(_) | Self::Several(_) => ExitStatus::Config,
            Self::Usage(_) => ExitStatus::Usage,
            // The reader closed the pipe, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
            _ => ExitStatus::Failed,
        }
    }
}

/// Prints an error and returns its exit status.
pub(super) fn report(error: &CliError) -> ExitStatus {
    let exit = error.exit();
    if exit == ExitStatus::Done {
        return exit;
    }
    if let CliError::BadImport { file, lines } = error {
        for bad in lines {
            print_line(&format!("{}, line {}: {}", file.display(), bad.line, bad.reason));
        }
    }
    for line in lines(error) {
        print_line(&line);
    }
    exit
}

/// Returns the lines that describe an error.
fn lines(error: &CliError) -> Vec<String> {
    match error {
        CliError::Several(errors) => errors.iter().flat_map(lines).collect(),
        CliError::Config(errors) => errors.all().iter().map(|error| display_chain(error)).collect(),
        error => vec![display_chain(error)],
    }
}

/// Prints an error of argument parsing, or the requested help or version.
pub(super) fn report_usage(error: &clap::Error) -> ExitStatus {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed pipe, as in `--help | head`, is not a failure.
            let _ = error.print();
        }
        _ => print_line(&usage_line(&error.render().to_string())),
    }
    // Requested help and version go to standard output.
    if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Done }
}

/// Formats an error and its causes, separated by colons.
pub(super) fn display_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some errors include the message of their cause.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// Joins the paragraphs of a clap error into one line and drops the usage.
fn usage_line(text: &str) -> String {
    let text = text.split("\n\nUsage:").next().unwrap_or_default();
    let text = text.split("\n\nFor more information").next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(if line.ends_with(':') { " " } else { "; " });
        }
        line.push_str(part.strip_prefix("tip: ").unwrap_or(part));
    }
    line + " (more with --help)"
}

/// Prints one line on standard error. Characters that alter a terminal may come from a file or an argument, and are
/// escaped.
fn print_line(text: &str) {
    let text = to_printable(&text.replace(['\n', '\r', '\t'], " "));
    let mut stderr = io::stderr().lock();
    let coloured = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let name = if coloured { "\x1b[1;31msekisho:\x1b[0m" } else { "sekisho:" };
    // There is no other place for an error if standard error is closed.
    let _ = writeln!(stderr, "{name} {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_chain_joins_causes() {
        let error = CliError::failed("cannot open the database", io::Error::other("disk on fire"));
        assert_eq!(display_chain(&error), "cannot open the database: disk on fire");
    }

    #[test]
    fn usage_line_joins_paragraphs() {
        let text = "error: unexpected argument '--x' found\n\n  tip: a similar argument exists: '--y'\n\n\
                    Usage: sekisho [OPTIONS]\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage_line(text),
            "unexpected argument '--x' found; a similar argument exists: '--y' (more with --help)"
        );
        let text = "error: the following required arguments were not provided:\n  --email <E>\n\nUsage: x\n";
        assert_eq!(
            usage_line(text),
            "the following required arguments were not provided: --email <E> (more with --help)"
        );
    }
}
