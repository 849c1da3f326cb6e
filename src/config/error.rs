//! Errors of the configuration.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An error in the configuration.
///
/// The message is one line with the key, its value, its source and the remedy. Values of secrets are
/// left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that one source sets twice, in two spellings.
    #[error("{key} is set twice, {first} and {second}: keep one of them")]
    Duplicate {
        /// The key.
        key: String,
        /// The first source.
        first: ValueSource,
        /// The second source.
        second: ValueSource,
    },
    /// A value that cannot be parsed, or that conflicts with another one.
    #[error("{key}{} {place}: {problem}", optional(" = ", value.as_deref(), ""))]
    Invalid {
        /// The key.
        key: String,
        /// The value; `None` for secrets.
        value: Option<String>,
        /// The source of the value.
        place: ValueSource,
        /// Description of the error and the expected form.
        problem: String,
    },
    /// A required key without a value.
    #[error("{key} is required: {remedy}")]
    Missing {
        /// The key.
        key: String,
        /// The reason or the remedy.
        remedy: String,
    },
    /// An environment variable that is not UTF-8.
    #[error("{name} in the environment is not UTF-8{}", secret_remedy(name))]
    NotUtf8 {
        /// The variable.
        name: String,
    },
    /// A route key in the environment or on the command line.
    #[error("{key} {place}: routes can only be set in the configuration file, as [[routes]]")]
    RoutesOutsideFile {
        /// The key.
        key: String,
        /// The source of the value.
        place: ValueSource,
    },
    /// Several errors, in the order of their lines.
    #[error("{}", join(.0))]
    Several(Vec<ConfigError>),
    /// A file that is not valid TOML, or an invalid `.env` file.
    #[error("{path}, line {line}: {problem}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem on that line.
        problem: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key} {place}{}", optional(": did you mean ", nearest.as_deref(), "?"))]
    UnknownKey {
        /// The key.
        key: String,
        /// The source of the value.
        place: ValueSource,
        /// The most similar key.
        nearest: Option<String>,
    },
    /// A file that cannot be read.
    #[error("cannot read {}{}", path.display(), optional(" (", key.as_deref(), ")"))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The key that names the file.
        key: Option<String>,
        /// The cause.
        source: io::Error,
    },
}

impl ConfigError {
    /// Returns the errors that this one consists of.
    #[must_use]
    pub fn all(&self) -> &[Self] {
        match self {
            Self::Several(errors) => errors,
            error => std::slice::from_ref(error),
        }
    }

    /// Returns the only one of `errors`, or all of them as one, in the order of their lines.
    pub(super) fn from_list(mut errors: Vec<Self>) -> Self {
        errors.sort_by_key(Self::line);
        match errors.pop() {
            Some(only) if errors.is_empty() => only,
            last => {
                errors.extend(last);
                Self::Several(errors)
            }
        }
    }

    /// Returns the line in a file, if the error has one.
    fn line(&self) -> Option<usize> {
        match self {
            Self::Syntax { line, .. } => Some(*line),
            Self::Duplicate { second: place, .. }
            | Self::Invalid { place, .. }
            | Self::RoutesOutsideFile { place, .. }
            | Self::UnknownKey { place, .. } => place.line(),
            Self::Missing { .. } | Self::NotUtf8 { .. } | Self::Several(_) | Self::Unreadable { .. } => None,
        }
    }
}

/// Returns the remedy for a secret that consists of random bytes.
fn secret_remedy(name: &str) -> &'static str {
    if name.ends_with("SECRET") { ": encode random bytes, as `openssl rand -base64 32` does" } else { "" }
}

/// Joins errors and their causes to one line.
fn join(errors: &[ConfigError]) -> String {
    let text = |error: &ConfigError| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    errors.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueSource {
    /// The built-in defaults.
    BuiltIn,
    /// A `.env` file.
    DotEnv {
        /// The file.
        path: Arc<Path>,
        /// The variable.
        name: Box<str>,
    },
    /// An environment variable of this name.
    Environment(String),
    /// The configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// The command line.
    Flag,
}

impl ValueSource {
    fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("(the default)"),
            Self::DotEnv { path, name } => write!(f, "from {name} in {}", path.display()),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::File { path, line } => write!(f, "in {}, line {line}", path.display()),
            Self::Flag => f.write_str("on the command line"),
        }
    }
}

/// The error of [`FromStr`](std::str::FromStr) for configuration types. The message is what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(super) Cow<'static, str>);

impl ParseError {
    pub(super) fn new(expected: impl Into<Cow<'static, str>>) -> Self {
        Self(expected.into())
    }
}

/// Formats `text` between `before` and `after`. Returns the empty string without a text.
fn optional(before: &str, text: Option<&str>, after: &str) -> String {
    text.map(|text| format!("{before}{text}{after}")).unwrap_or_default()
}
