//! How a command fails, and how that is said.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use clap::error::ErrorKind;

use super::import::ImportError;
use crate::backend::db::DbError;
use crate::config::ConfigError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done: 0.
    Done,
    /// Failed while running: 1.
    Failed,
    /// Wrong usage: 2.
    Usage,
    /// Bad configuration: 78, as `EX_CONFIG` in BSD's `sysexits.h`.
    Config,
}

impl ExitStatus {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 78,
        }
    }
}

impl Termination for ExitStatus {
    fn report(self) -> ExitCode {
        self.code().into()
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// A file to import has lines that can't be imported.
    #[error("{}: {} bad lines, nothing was imported", file.display(), lines.len())]
    BadImport {
        /// The file.
        file: PathBuf,
        /// Each bad line.
        lines: Vec<ImportError>,
    },
    /// The configuration is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database can't be used.
    #[error(transparent)]
    Database(DbError),
    /// Something that was tried failed.
    #[error("{doing}")]
    Failed {
        /// What failed: "can't open the database".
        doing: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A setting is of no use, although it is well formed.
    #[error("{0}")]
    Misconfigured(#[source] Box<dyn Error + Send + Sync>),
    /// Standard output can't be written to.
    #[error("can't write to standard output")]
    Output(#[source] io::Error),
    /// What was asked for can't be done; says why, and what can.
    #[error("{0}")]
    Refused(String),
    /// The command was called in a way that can't work; says how it can.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// That `doing` failed because of `source`.
    pub fn failed(doing: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { doing: doing.into(), source: source.into() }
    }

    /// That a setting is of no use, as `error` says.
    pub fn misconfigured(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Misconfigured(error.into())
    }

    /// How the program ends with it.
    #[must_use]
    pub fn exit(&self) -> ExitStatus {
        match self {
            Self::Config(_) | Self::Misconfigured(_) => ExitStatus::Config,
            Self::Usage(_) => ExitStatus::Usage,
            // Whoever read our output has seen enough, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
            _ => ExitStatus::Failed,
        }
    }
}

/// Prints an error of a command.
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
    print_line(&display_chain(error));
    exit
}

/// Prints an error of the command line itself; or what was asked for, if that was help.
pub(super) fn report_usage(error: &clap::Error) -> ExitStatus {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Into a closed pipe, as with `--help | head`, is no failure.
            let _ = error.print();
            ExitStatus::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitStatus::Usage
        }
        _ => {
            print_line(&usage_line(&error.render().to_string()));
            ExitStatus::Usage
        }
    }
}

/// The error and its causes, each after a colon.
pub(super) fn display_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors tell their cause themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// clap's paragraphs as one line, without the usage at their end.
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

/// The one place that writes to standard error. Control characters, which may come from a file or an
/// argument, become spaces, so that it is one line and can't command a terminal.
fn print_line(text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut stderr = io::stderr().lock();
    let coloured = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let name = if coloured { "\x1b[1;31msekisho:\x1b[0m" } else { "sekisho:" };
    // With standard error gone there is nobody left to tell.
    let _ = writeln!(stderr, "{name} {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_with_its_causes() {
        let error = CliError::failed("can't open the database", io::Error::other("disk on fire"));
        assert_eq!(display_chain(&error), "can't open the database: disk on fire");
    }

    #[test]
    fn clap_s_paragraphs_become_a_line() {
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
