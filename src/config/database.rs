//! `[database]`.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::ConfigError;
use super::raw::RawSettings;

/// The database: `[database]`.
#[derive(Clone, Debug)]
pub struct Database {
    /// The URL, which may contain a password.
    pub url: SecretString,
    /// The kind of database, by the scheme of the URL.
    pub kind: DatabaseKind,
    /// Maximum number of connections to PostgreSQL.
    pub max_connections: u32,
}

/// The supported databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// PostgreSQL, shared by any number of replicas.
    Postgres,
    /// SQLite, on one machine.
    Sqlite,
}

impl Database {
    pub(super) fn read(settings: &RawSettings) -> Result<Self, ConfigError> {
        let url = settings.required(URL, settings.secret(URL))?;
        let kind = kind(url.expose_secret()).ok_or_else(|| {
            let expected = "expected sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE, with # and @ in a \
                            password written as %23 and %40 (the value is not shown)";
            let key = if settings.is_explicit(URL_FILE) { URL_FILE } else { URL };
            settings.invalid(key, expected)
        })?;
        let max_connections =
            settings.required(MAX_CONNECTIONS, settings.integer(MAX_CONNECTIONS, 2..=10_000))?;
        Ok(Self { url, kind, max_connections })
    }
}

fn kind(url: &str) -> Option<DatabaseKind> {
    match url.split_once(':')? {
        ("sqlite", rest) => {
            let path = rest.trim_start_matches('/').split('?').next()?;
            (!path.is_empty()).then_some(DatabaseKind::Sqlite)
        }
        ("postgres" | "postgresql", rest) => {
            let is_valid = rest.starts_with("//") && Url::parse(url).is_ok();
            is_valid.then_some(DatabaseKind::Postgres)
        }
        _ => None,
    }
}

const URL: &str = "database.url";
const URL_FILE: &str = "database.url_file";
const MAX_CONNECTIONS: &str = "database.max_connections";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_follows_the_url_scheme() {
        for url in
            ["sqlite://data/sekisho.db", "sqlite:data.db", "sqlite:///abs.db?mode=ro", "sqlite::memory:"]
        {
            assert_eq!(kind(url), Some(DatabaseKind::Sqlite), "{url}");
        }
        for url in ["postgres://u:p@h/db", "postgresql:///db?host=/run/postgresql"] {
            assert_eq!(kind(url), Some(DatabaseKind::Postgres), "{url}");
        }
        for url in
            ["", "data.db", "mysql://h/db", "sqlite:", "sqlite://", "postgres:h", "postgres://u:p@h:port/db"]
        {
            assert_eq!(kind(url), None, "{url}");
        }
    }
}
