//! `[database]`.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::ConfigError;
use super::settings::Settings;

/// The database: `[database]`.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where it is; it may hold a password.
    pub url: SecretString,
    /// Which one it is, by the URL's scheme.
    pub kind: DatabaseKind,
    /// How many connections to PostgreSQL at most.
    pub max_connections: u32,
}

/// The databases that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// PostgreSQL, for any number of replicas.
    Postgres,
    /// SQLite, for one machine.
    Sqlite,
}

impl Database {
    pub(super) fn read(settings: &Settings) -> Result<Self, ConfigError> {
        let url = settings.required(URL, settings.secret(URL))?;
        let kind = kind(url.expose_secret()).ok_or_else(|| {
            let expected = "expected sqlite://PATH or postgres://USER:PASSWORD@HOST/DATABASE, with # and @ in a \
                            password written %23 and %40 (the value isn't shown)";
            let in_file = settings.is_explicit("database.url_file");
            settings.invalid(if in_file { "database.url_file" } else { URL }, expected)
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
            let legal = rest.starts_with("//") && Url::parse(url).is_ok();
            legal.then_some(DatabaseKind::Postgres)
        }
        _ => None,
    }
}

const URL: &str = "database.url";
const MAX_CONNECTIONS: &str = "database.max_connections";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides() {
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
