//! What can be wrong with a configuration, and how it is said.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a configuration can't be used: one line that names the key, what was said, where, and what
/// to do. The value of a secret is never among it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key that is given twice in one place, in two spellings.
    #[error("{key} is given twice, {first} and {second}: keep one of them")]
    GivenTwice {
        /// The key.
        key: String,
        /// Where first.
        first: ValueSource,
        /// Where again.
        second: ValueSource,
    },
    /// A value that can't be understood, or that doesn't go with another one.
    #[error("{key}{} {place}: {problem}", shown(value.as_deref()))]
    Invalid {
        /// The key.
        key: String,
        /// What was said; `None` for secrets.
        value: Option<String>,
        /// Where.
        place: ValueSource,
        /// What is wrong with it and what is expected.
        problem: String,
    },
    /// A value without a default.
    #[error("{key} is required: {remedy}")]
    Missing {
        /// The key.
        key: String,
        /// What to say.
        remedy: String,
    },
    /// A variable that isn't text.
    #[error("{name} in the environment isn't UTF-8")]
    NotText {
        /// The variable's name.
        name: String,
    },
    /// A route that comes from elsewhere than the file.
    #[error("{key} {place}: routes come from the file alone, as [[routes]]")]
    RoutesOutsideFile {
        /// The key.
        key: String,
        /// Where.
        place: ValueSource,
    },
    /// A file that isn't TOML, or a `.env` that isn't one.
    #[error("{path}, line {line}: {problem}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A key that doesn't exist.
    #[error("unknown key {key} {place}{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where.
        place: ValueSource,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A file that can't be read.
    #[error("can't read {}{}", path.display(), named_by(key.as_deref()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The key that names the file.
        key: Option<String>,
        /// Why.
        source: io::Error,
    },
}

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueSource {
    /// Nowhere: it is the default.
    BuiltIn,
    /// In a `.env` file.
    DotEnv {
        /// The file.
        path: Arc<Path>,
        /// The variable's name.
        name: Box<str>,
    },
    /// In the environment, under this name.
    Environment(String),
    /// In the configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// On the command line.
    Flag,
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

/// The candidate that `one_of` was probably meant to be, if one is near enough. Of a dotted candidate
/// the last part counts too.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        if word.strip_prefix(candidate).is_some_and(|rest| rest.starts_with('.')) {
            return 0;
        }
        let whole = strsim::damerau_levenshtein(word, candidate);
        // A key in the wrong section is nearer than one with several letters wrong.
        let part = strsim::damerau_levenshtein(&last(word), &last(candidate)) + 1;
        whole.min(part)
    };
    let limit = (word.rsplit('.').next().unwrap_or_default().chars().count() / 3).clamp(1, 4);
    let (distance, candidate) =
        candidates.into_iter().map(|candidate| (distance(candidate), candidate)).min_by_key(|pair| pair.0)?;
    (distance <= limit).then_some(candidate)
}

fn shown(value: Option<&str>) -> String {
    value.map(|value| format!(" = {value}")).unwrap_or_default()
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean {name}?")).unwrap_or_default()
}

fn named_by(key: Option<&str>) -> String {
    key.map(|key| format!(", which {key} names")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["server.listen", "admin.listen", "session.grace", "tokens.access_ttl"];

    #[test]
    fn the_nearest_name_is_found() {
        assert_eq!(nearest("server.lisen", NAMES), Some("server.listen"));
        assert_eq!(nearest("sever.listen", NAMES), Some("server.listen"));
        assert_eq!(nearest("listen", NAMES), Some("server.listen"));
        assert_eq!(nearest("session.access_ttl", NAMES), Some("tokens.access_ttl"));
        assert_eq!(nearest("session.acces_tll", NAMES), Some("tokens.access_ttl"));
        assert_eq!(nearest("server.colour", NAMES), None);
        assert_eq!(nearest("", NAMES), None);
    }
}
