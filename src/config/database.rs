//! `[database]`.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::error::ConfigError;
use super::raw::RawSettings;
use crate::database_url::{DatabaseUrl, PostgresUrl};

/// The database: `[database]`.
#[derive(Clone, Debug)]
pub struct Database {
    /// The URL, which may contain a password.
    pub url: SecretString,
    /// The file that contains the URL, if it comes from one.
    pub url_file: Option<PathBuf>,
    /// The kind of database, by the scheme of the URL.
    pub kind: DatabaseKind,
    /// Time to wait for a database that cannot be reached at startup.
    pub wait: Duration,
    /// Maximum number of connections to PostgreSQL.
    pub max_connections: u32,
    /// True if a connection pooler assigns a server connection for each transaction.
    pub transaction_pooling: bool,
    /// URL at which to listen for notifications, which may contain a password.
    pub listen_url: Option<SecretString>,
    /// The file that contains that URL, if it comes from one.
    pub listen_url_file: Option<PathBuf>,
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
    pub(super) fn read(settings: &RawSettings, warnings: &mut Vec<String>) -> Result<Self, ConfigError> {
        let url = settings.required(URL, settings.secret(URL))?;
        let parsed = parse(settings, URL, &url)?;
        let kind = match &parsed {
            DatabaseUrl::Sqlite(_) => DatabaseKind::Sqlite,
            DatabaseUrl::Postgres(_) => DatabaseKind::Postgres,
        };
        warnings.extend(parsed.as_postgres().into_iter().flat_map(|url| ignored_parameters(URL, url)));
        let max_connections =
            settings.required(MAX_CONNECTIONS, settings.integer(MAX_CONNECTIONS, 2..=10_000))?;
        let pooling = settings.one_of(POOLING, &[("session", false), ("transaction", true)]);
        Ok(Self {
            kind,
            url_file: settings.text(URL_FILE)?.map(PathBuf::from),
            wait: settings.required(WAIT, settings.duration(WAIT, Duration::ZERO))?,
            max_connections,
            transaction_pooling: settings.required(POOLING, pooling)?,
            listen_url: listen_url(settings, kind, warnings)?,
            listen_url_file: settings.text(LISTEN_URL_FILE)?.map(PathBuf::from),
            url,
        })
    }

    /// Returns `true` if `other` has the same URL, or one from the same file that differs in nothing but the password.
    pub(super) fn has_url_of(&self, other: &Self) -> bool {
        let is_read_anew = self.url_file.is_some() && self.url_file == other.url_file;
        is_same(&self.url, &other.url, is_read_anew)
    }

    /// Returns `true` if `other` has the same URL for notifications, as [`has_url_of`](Self::has_url_of) does.
    pub(super) fn has_listen_url_of(&self, other: &Self) -> bool {
        let is_read_anew = self.listen_url_file.is_some() && self.listen_url_file == other.listen_url_file;
        match (&self.listen_url, &other.listen_url) {
            (Some(url), Some(other)) => is_same(url, other, is_read_anew),
            (url, other) => url.is_none() && other.is_none(),
        }
    }
}

fn is_same(url: &SecretString, other: &SecretString, is_read_anew: bool) -> bool {
    url.expose_secret() == other.expose_secret()
        || is_read_anew && without_password(url) == without_password(other)
}

fn listen_url(
    settings: &RawSettings,
    kind: DatabaseKind,
    warnings: &mut Vec<String>,
) -> Result<Option<SecretString>, ConfigError> {
    let Some(url) = settings.secret(LISTEN_URL)? else { return Ok(None) };
    let parsed = parse(settings, LISTEN_URL, &url)?;
    let Some(postgres) = parsed.as_postgres().filter(|_| kind == DatabaseKind::Postgres) else {
        let problem = "expected postgres://USER:PASSWORD@HOST/DATABASE, as in database.url";
        return Err(settings.invalid(source_key(settings, LISTEN_URL), problem));
    };
    warnings.extend(ignored_parameters(LISTEN_URL, postgres));
    Ok(Some(url))
}

/// Parses the URL of `key`, and opens the files that it names.
fn parse(settings: &RawSettings, key: &str, url: &SecretString) -> Result<DatabaseUrl, ConfigError> {
    let invalid = |problem: String| settings.invalid(source_key(settings, key), problem);
    let url = DatabaseUrl::parse(url.expose_secret()).map_err(|error| invalid(error.to_string()))?;
    for (name, path) in url.as_postgres().map(PostgresUrl::files).unwrap_or_default() {
        std::fs::File::open(&path).map_err(|error| {
            invalid(format!("cannot read {} of the parameter {name}: {error}", path.display()))
        })?;
    }
    Ok(url)
}

/// Returns the key that has the URL of `key`: itself, or that of its file.
fn source_key<'k>(settings: &RawSettings, key: &'k str) -> &'k str {
    let file_key = if key == URL { URL_FILE } else { LISTEN_URL_FILE };
    if settings.is_explicit(file_key) { file_key } else { key }
}

fn ignored_parameters<'u>(key: &'static str, url: &'u PostgresUrl) -> impl Iterator<Item = String> + use<'u> {
    url.ignored_parameters().iter().map(move |name| format!("{key}: the parameter {name} has no effect"))
}

fn without_password(url: &SecretString) -> Option<url::Url> {
    let mut url = url::Url::parse(url.expose_secret()).ok()?;
    url.set_password(None).ok()?;
    Some(url)
}

const URL: &str = "database.url";
const URL_FILE: &str = "database.url_file";
const WAIT: &str = "database.wait";
const MAX_CONNECTIONS: &str = "database.max_connections";
const POOLING: &str = "database.pooling";
const LISTEN_URL: &str = "database.listen_url";
const LISTEN_URL_FILE: &str = "database.listen_url_file";
