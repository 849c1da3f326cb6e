//! The URL of a database, as `database.url` and the backends accept it.
//!
//! Both read it with [`DatabaseUrl::parse`], so that the check of a configuration accepts what the program opens. No
//! error contains a value of the URL, which may be a password.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// The URL of a database.
#[derive(Clone, Debug)]
pub enum DatabaseUrl {
    /// `sqlite://PATH`: the path of the file.
    Sqlite(PathBuf),
    /// `postgres://…`.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database, which may contain a password.
#[derive(Clone, Debug)]
pub struct PostgresUrl {
    /// The URL without the parameters that have no effect.
    url: SecretString,
    ignored: Vec<String>,
}

/// Reason for which a URL is refused. The text is the problem and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseUrlError {
    /// Neither `sqlite:` nor `postgres:`.
    #[error(
        "expected sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE, with # and @ in a password written as \
         %23 and %40"
    )]
    Scheme,
    /// A SQLite URL without a plain path.
    #[error("expected the path of a file, as in sqlite://data/sekisho.db, without ?, # or %")]
    SqlitePath,
    /// A database in memory.
    #[error(
        "a database in memory ends with the process: expected the path of a file, as in sqlite://data/sekisho.db"
    )]
    InMemory,
    /// A PostgreSQL URL that cannot be read.
    #[error(
        "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters in a password percent-encoded \
         (# is %23, @ is %40, % is %25)"
    )]
    Postgres,
    /// Several hosts.
    #[error("expected one host: the addresses of several servers are not supported")]
    Hosts,
    /// A misspelt parameter, or one for a protection that the driver does not have.
    #[error("the parameter {name} is not supported: {remedy}")]
    Parameter {
        /// The parameter.
        name: String,
        /// The remedy.
        remedy: String,
    },
    /// A parameter with a value that it cannot have.
    #[error("the parameter {name} is invalid: expected {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// The valid values.
        expected: &'static str,
    },
}

impl DatabaseUrl {
    /// Parses a URL.
    ///
    /// ```
    /// use sekisho::database_url::DatabaseUrl;
    ///
    /// assert!(DatabaseUrl::parse("sqlite://data/sekisho.db").is_ok());
    /// assert!(DatabaseUrl::parse("postgres://ann@db/x?sslmode=verify-full").is_ok());
    /// assert!(DatabaseUrl::parse("postgres://ann@db/x?sslmode=bogus").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseUrlError`], which contains no value of the URL.
    pub fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        match text.split_once(':') {
            Some(("sqlite", rest)) => sqlite_path(rest).map(Self::Sqlite),
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                PostgresUrl::parse(text).map(Self::Postgres)
            }
            Some(("postgres" | "postgresql", _)) => Err(DatabaseUrlError::Postgres),
            _ => Err(DatabaseUrlError::Scheme),
        }
    }

    /// Returns the file of a SQLite database.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// Returns the URL of a PostgreSQL database.
    #[must_use]
    pub fn as_postgres(&self) -> Option<&PostgresUrl> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(url) => Some(url),
        }
    }
}

impl PostgresUrl {
    /// Returns the URL without the parameters that have no effect, which the driver would log with their values.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.url
    }

    /// Returns the parameters that were given, but have no effect.
    #[must_use]
    pub fn ignored_parameters(&self) -> &[String] {
        &self.ignored
    }

    /// Returns `true` if the URL contains a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        let has =
            |url: &Url| url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password");
        self.parsed().is_some_and(|url| has(&url)) || self.ignored.iter().any(|name| name == "sslpassword")
    }

    /// Returns the password.
    #[must_use]
    pub fn password(&self) -> Option<SecretString> {
        let url = self.parsed()?;
        let parameter = url.query_pairs().filter(|(name, _)| name == "password").last();
        if let Some((_, password)) = parameter {
            return Some(SecretString::from(&*password));
        }
        let password = percent_encoding::percent_decode_str(url.password()?).decode_utf8().ok()?;
        Some(SecretString::from(&*password))
    }

    /// Returns the files that the URL names, each with the parameter: certificates, and the private key.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(url) = self.parsed() else { return Vec::new() };
        let file = |(name, value): (Cow<'_, str>, Cow<'_, str>)| {
            FILES.iter().find(|known| **known == name).map(|name| (*name, PathBuf::from(&*value)))
        };
        url.query_pairs().filter_map(file).collect()
    }

    fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        let mut url = Url::parse(text).map_err(|_| DatabaseUrlError::Postgres)?;
        if url.fragment().is_some() || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(DatabaseUrlError::Postgres);
        }
        for part in [url.username(), url.password().unwrap_or_default(), url.path()] {
            if !is_encoded_text(part) {
                return Err(DatabaseUrlError::Postgres);
            }
        }
        if url.host_str().is_some_and(|host| host.contains(',')) {
            return Err(DatabaseUrlError::Hosts);
        }
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let mut ignored = Vec::new();
        let mut used = Vec::new();
        for (name, value) in pairs {
            if check_parameter(&name, &value)? {
                used.push((name, value));
            } else {
                ignored.push(shown(&name));
            }
        }
        if !ignored.is_empty() {
            url.set_query(None);
            if !used.is_empty() {
                url.query_pairs_mut().extend_pairs(used);
            }
        }
        Ok(Self { url: url.as_str().into(), ignored })
    }

    fn parsed(&self) -> Option<Url> {
        Url::parse(self.url.expose_secret()).ok()
    }
}

fn sqlite_path(rest: &str) -> Result<PathBuf, DatabaseUrlError> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.starts_with(":memory:") || path.contains("mode=memory") {
        return Err(DatabaseUrlError::InMemory);
    }
    let is_file = !path.is_empty() && !path.starts_with(':') && !path.ends_with('/');
    if !is_file || path.chars().any(|c| matches!(c, '?' | '#' | '%') || c.is_control()) {
        return Err(DatabaseUrlError::SqlitePath);
    }
    Ok(path.into())
}

/// Returns `true` if percent-encoded `text` decodes to UTF-8.
fn is_encoded_text(text: &str) -> bool {
    percent_encoding::percent_decode_str(text).decode_utf8().is_ok_and(|text| !text.contains('\0'))
}

/// Checks a parameter. Returns `true` if the driver has it.
fn check_parameter(name: &str, value: &str) -> Result<bool, DatabaseUrlError> {
    let check = |is_valid: bool, name, expected| {
        if is_valid { Ok(true) } else { Err(DatabaseUrlError::Value { name, expected }) }
    };
    match name {
        "sslmode" | "ssl-mode" => check(SSL_MODES.contains(&value), "sslmode", SSL_MODES_TEXT),
        "hostaddr" => check(value.parse::<IpAddr>().is_ok(), "hostaddr", "an IP address"),
        "port" => check(value.parse::<u16>().is_ok(), "port", "a port number"),
        "statement-cache-capacity" => {
            check(value.parse::<usize>().is_ok(), "statement-cache-capacity", "a whole number")
        }
        "host" if value.contains(',') => Err(DatabaseUrlError::Hosts),
        name if SUPPORTED.contains(&name) || FILES.contains(&name) => Ok(true),
        name if name.starts_with("options[") && name.ends_with(']') => Ok(true),
        name if PROTECTIONS.contains(&name) => Err(unsupported(name, "remove it".to_owned())),
        name => match similar(name) {
            Some(known) => Err(unsupported(name, format!("did you mean {known}?"))),
            None => Ok(false),
        },
    }
}

fn unsupported(name: &str, remedy: String) -> DatabaseUrlError {
    DatabaseUrlError::Parameter { name: shown(name), remedy }
}

/// Returns the parameter of the driver that `name` is a misspelling of.
fn similar(name: &str) -> Option<&'static str> {
    if LIBPQ.contains(&name) {
        return None;
    }
    let known = SUPPORTED.iter().chain(&FILES).chain(&["sslmode", "hostaddr", "port"]);
    let near = known.map(|known| (strsim::damerau_levenshtein(known, &name.to_lowercase()), *known)).min();
    near.filter(|(distance, _)| *distance <= MAX_DISTANCE).map(|(_, known)| known)
}

/// Returns the name of a parameter for a message. It may be a part of a password with an `&`, so anything but a name is
/// left out.
fn shown(name: &str) -> String {
    let is_name = name.len() <= 30 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
    if is_name && !name.is_empty() { name.to_owned() } else { "(not shown)".to_owned() }
}

/// Parameters without values to check.
const SUPPORTED: [&str; 6] = ["host", "dbname", "user", "password", "application_name", "options"];

/// Parameters that name files.
const FILES: [&str; 7] =
    ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const SSL_MODES_TEXT: &str = "disable, allow, prefer, require, verify-ca or verify-full";

/// Parameters of libpq that ask for a protection, which the driver does not have.
const PROTECTIONS: [&str; 9] = [
    "channel_binding",
    "require_auth",
    "requirepeer",
    "requiressl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
];

/// Parameters of libpq without effect that resemble others.
const LIBPQ: [&str; 2] = ["passfile", "sslsni"];

/// Maximum number of wrong letters in a name that is recognised.
const MAX_DISTANCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// D5: one parser decides about the URL.
    #[test]
    fn urls_that_cannot_be_opened_are_refused() {
        for url in [
            "sqlite://data/sekisho.db",
            "sqlite:data.db",
            "sqlite:///abs.db",
            "postgres://u:p@h/db",
            "postgresql:///db?host=/run/postgresql",
            "postgres://%2Frun%2Fpostgresql/db",
            "postgres://u:p%40%23@h:5432/db?sslmode=verify-full&sslrootcert=/ca.pem&options[search_path]=x",
            "postgres://h/db?connect_timeout=10&target_session_attrs=read-write&pgbouncer=true",
            "postgres://h/db?hostaddr=::1&port=5433&statement-cache-capacity=10",
        ] {
            assert!(DatabaseUrl::parse(url).is_ok(), "{url}: {:?}", DatabaseUrl::parse(url));
        }
        for url in [
            "",
            "data.db",
            "mysql://h/db",
            "sqlite:",
            "sqlite://",
            "sqlite://data/",
            "sqlite://a.db?mode=rwc",
            "sqlite://a%20b.db",
            "sqlite://a.db#x",
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite:file:x?mode=memory",
            "postgres:h",
            "postgres://u:p@h:port/db",
            "postgres://u:p@h/db#x",
            "postgres://u:%ff@h/db",
            "postgres://a,b/db",
            "postgres:///db?host=a,b",
            "postgres://h/db?sslmode=bogus",
            "postgres://h/db?ssl-mode=Require",
            "postgres://h/db?sslmod=require",
            "postgres://h/db?hostaddr=h",
            "postgres://h/db?port=x",
            "postgres://h/db?statement-cache-capacity=-1",
            "postgres://h/db?channel_binding=require",
        ] {
            assert!(DatabaseUrl::parse(url).is_err(), "{url}");
        }
    }

    /// D7: the driver logs unknown parameters with their values.
    #[test]
    fn parameters_without_effect_are_removed() {
        let url =
            DatabaseUrl::parse("postgres://u@h/db?sslpassword=hunter2&user=a%26b&connect_timeout=1").unwrap();
        let url = url.as_postgres().unwrap();
        assert_eq!(url.ignored_parameters(), ["sslpassword", "connect_timeout"]);
        assert_eq!(url.secret().expose_secret(), "postgres://u@h/db?user=a%26b");
        assert!(url.has_password() && !format!("{url:?}").contains("hunter2"));
        let url = DatabaseUrl::parse("postgres://u@h/db?sslpassword=hunter2").unwrap();
        assert_eq!(url.as_postgres().unwrap().secret().expose_secret(), "postgres://u@h/db");
    }

    #[test]
    fn messages_contain_no_value() {
        for url in
            ["postgres://h/db?sslmode=hunter2", "postgres://u:hunter2@h:x", "postgres://u:hunter2#@h/db"]
        {
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        // A password with an unescaped `&`.
        let url = DatabaseUrl::parse("postgres://h/db?password=a&Hunter2").unwrap();
        assert_eq!(url.as_postgres().unwrap().ignored_parameters(), ["(not shown)"]);
        let error = DatabaseUrl::parse("postgres://h/db?sslmod=require").unwrap_err();
        assert_eq!(error.to_string(), "the parameter sslmod is not supported: did you mean sslmode?");
    }
}
