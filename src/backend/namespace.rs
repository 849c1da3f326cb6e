//! Names of the tables of a store.

use std::fmt;
use std::str::FromStr;

/// The names under which a store keeps its tables: a schema of PostgreSQL, or a prefix of the tables of SQLite.
///
/// Stores of different namespaces in one database share no rows. Their tokens are told apart by secret, issuer or audience
/// alone: see [`TokensBuilder::secret`](crate::services::token::TokensBuilder::secret). The default is `sekisho`: the table of sessions
/// is `sekisho.sessions` in PostgreSQL and `sekisho_sessions` in SQLite.
///
/// ```
/// use sekisho::backend::Namespace;
///
/// assert_eq!(Namespace::new("auth")?.as_str(), "auth");
/// assert!(Namespace::new("Auth tables").is_err());
/// # Ok::<(), sekisho::backend::NamespaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(Box<str>);

/// Error of [`Namespace::new`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// Empty, too long, or with another character.
    #[error(
        "{0:?} is no namespace: expected a lower-case letter, then up to {max} lower-case letters, digits and \
         underscores",
        max = MAX_LEN - 1
    )]
    Name(String),
    /// A name that a database keeps for itself.
    #[error(
        "{0:?} is reserved by the database: choose a namespace that begins neither with pg_ nor with sqlite"
    )]
    Reserved(String),
}

impl Namespace {
    /// Creates a namespace: a lower-case letter, then up to 30 lower-case letters, digits and underscores.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`], which names the rule.
    pub fn new(name: impl Into<String>) -> Result<Self, NamespaceError> {
        let name = name.into();
        let is_first = |c: char| c.is_ascii_lowercase();
        let is_next = |c: char| is_first(c) || c.is_ascii_digit() || c == '_';
        if name.len() > MAX_LEN || !name.starts_with(is_first) || !name.chars().all(is_next) {
            return Err(NamespaceError::Name(name));
        }
        if name.starts_with("pg_") || name.starts_with("sqlite") || name == "information_schema" {
            return Err(NamespaceError::Reserved(name));
        }
        Ok(Self(name.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Namespace {
    type Err = NamespaceError;

    fn from_str(name: &str) -> Result<Self, NamespaceError> {
        Self::new(name)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The owner of the tables of a store, which decides their names and migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tables {
    /// The tables of the gateway, with its users.
    #[cfg(feature = "server")]
    Gateway,
    /// The tables of a program that has users of its own.
    Library(Namespace),
}

impl Tables {
    /// Returns `true` if there are users, whose password is checked by a sign-in.
    pub(super) fn has_users(&self) -> bool {
        !matches!(self, Self::Library(_))
    }

    /// Returns the channel of notifications in PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(super) fn channel(&self) -> String {
        match self {
            #[cfg(feature = "server")]
            Self::Gateway => "sekisho_session_ended".to_owned(),
            Self::Library(namespace) => format!("{namespace}_session_ended"),
        }
    }

    /// Returns the schema of the tables in PostgreSQL.
    #[cfg(feature = "postgres")]
    pub(super) fn schema(&self) -> &str {
        match self {
            #[cfg(feature = "server")]
            Self::Gateway => "myapi",
            Self::Library(namespace) => namespace.as_str(),
        }
    }

    /// Returns what precedes the names of tables in PostgreSQL: the schema, quoted, since it may be a keyword.
    #[cfg(feature = "postgres")]
    pub(super) fn postgres_prefix(&self) -> String {
        format!("\"{}\".", self.schema())
    }

    /// Returns what precedes the names of tables in SQLite.
    #[cfg(feature = "sqlite")]
    pub(super) fn sqlite_prefix(&self) -> String {
        match self {
            #[cfg(feature = "server")]
            Self::Gateway => String::new(),
            Self::Library(namespace) => format!("{namespace}_"),
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::Library(Namespace::default())
    }
}

const DEFAULT: &str = "sekisho";

/// Maximum length. PostgreSQL truncates names of more than 63 bytes, and those of indexes begin with it.
const MAX_LEN: usize = 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_database_would_refuse_or_change_are_errors() {
        let longest = format!("a{}", "b".repeat(MAX_LEN - 1));
        for name in ["a", "auth", "auth_2", "user", &longest] {
            assert_eq!(Namespace::new(name).expect("a namespace").as_str(), name);
        }
        let too_long = format!("{longest}c");
        for name in ["", "_auth", "2auth", "Auth", "au-th", "auth;", "aüth", "a\"b", &too_long] {
            let error = Namespace::new(name).expect_err(name);
            assert_eq!(error, NamespaceError::Name(name.to_owned()));
            assert!(error.to_string().contains("up to 30 lower-case letters"), "{error}");
        }
        for name in ["pg_auth", "sqlite", "sqlite_auth", "information_schema"] {
            assert_eq!(Namespace::new(name), Err(NamespaceError::Reserved(name.to_owned())));
        }
        assert_eq!("auth".parse(), Namespace::new("auth"));
        assert_eq!(Namespace::default().to_string(), "sekisho");
    }
}
