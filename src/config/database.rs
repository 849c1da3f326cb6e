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
    /// True if a connection pooler assigns a server connection for each transaction.
    pub transaction_pooling: bool,
    /// URL at which to listen for notifications, which may contain a password.
    pub listen_url: Option<SecretString>,
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
        let pooling = settings.one_of(POOLING, &[("session", false), ("transaction", true)]);
        let transaction_pooling = settings.required(POOLING, pooling)?;
        let listen_url = settings.secret(LISTEN_URL)?;
        if listen_url.as_ref().is_some_and(|url| !is_postgres(url))
            || listen_url.is_some() && !is_postgres(&url)
        {
            let expected = "expected postgres://USER:PASSWORD@HOST/DATABASE, as in database.url (the value is not \
                            shown)";
            let key = if settings.is_explicit(LISTEN_URL_FILE) { LISTEN_URL_FILE } else { LISTEN_URL };
            return Err(settings.invalid(key, expected));
        }
        Ok(Self { url, kind, max_connections, transaction_pooling, listen_url })
    }
}

fn is_postgres(url: &SecretString) -> bool {
    kind(url.expose_secret()) == Some(DatabaseKind::Postgres)
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
const POOLING: &str = "database.pooling";
const LISTEN_URL: &str = "database.listen_url";
const LISTEN_URL_FILE: &str = "database.listen_url_file";

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
