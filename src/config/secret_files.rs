//! Owner and mode of the files that contain secrets.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::database::Database;
use super::error::{ConfigError, ValueSource};
use super::raw::RawSettings;
use super::value::RawValue;
use crate::database_url::DatabaseUrl;
use crate::secret::check_access;

/// Checks all files that contain secrets, except those in `tokens.key_dir`. Adds a warning for each one that other
/// users can read, unless `allow_readable`.
pub(super) fn check(
    settings: &RawSettings,
    routes: &[RawSettings],
    database: &Database,
    allow_readable: bool,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let mut files = SecretFiles { readable: Vec::new() };
    files.check_named(settings, &NAMED_FILES)?;
    files.check_source(settings, "tokens.secret")?;
    files.check_database(settings, "database.url", &database.url)?;
    if let Some(url) = &database.listen_url {
        files.check_database(settings, "database.listen_url", url)?;
    }
    for table in routes {
        files.check_headers(table)?;
        files.check_named(table, &["routes.upstream_client_key"])?;
    }
    if !allow_readable {
        warnings.append(&mut files.readable);
    }
    Ok(())
}

/// The files that were checked.
struct SecretFiles {
    /// Warnings about those that other users can read.
    readable: Vec<String>,
}

impl SecretFiles {
    /// Checks the files that these keys name.
    fn check_named(&mut self, settings: &RawSettings, keys: &[&str]) -> Result<(), ConfigError> {
        for key in keys {
            if let Some(path) = settings.text(key)? {
                self.check(settings, key, Path::new(path))?;
            }
        }
        Ok(())
    }

    /// Checks the configuration file or `.env` that contains the secret `key`.
    fn check_source(&mut self, settings: &RawSettings, key: &str) -> Result<(), ConfigError> {
        match settings.place(key) {
            ValueSource::File { path, .. } | ValueSource::DotEnv { path, .. } => {
                self.check(settings, key, &path)
            }
            _ => Ok(()),
        }
    }

    /// Checks the file with the URL `key`, if it has a password, and the private key that the URL of PostgreSQL names.
    fn check_database(
        &mut self,
        settings: &RawSettings,
        key: &str,
        url: &SecretString,
    ) -> Result<(), ConfigError> {
        let url = DatabaseUrl::parse(url.expose_secret()).ok();
        let Some(url) = url.as_ref().and_then(DatabaseUrl::as_postgres) else { return Ok(()) };
        for (name, path) in url.files() {
            if matches!(name, "sslkey" | "ssl-key") {
                self.check(settings, key, &path)?;
            }
        }
        if url.has_password() { self.check_source(settings, key) } else { Ok(()) }
    }

    /// Checks the files that contain values of headers.
    fn check_headers(&mut self, table: &RawSettings) -> Result<(), ConfigError> {
        for key in ["routes.set_request_headers", "routes.set_response_headers"] {
            let Some(RawValue::Table(headers)) = table.raw(key) else { continue };
            for value in headers.values() {
                let RawValue::Table(value) = value else { continue };
                if let Some(path) = value.get("file").and_then(RawValue::as_text) {
                    self.check(table, key, Path::new(path))?;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, settings: &RawSettings, key: &str, path: &Path) -> Result<(), ConfigError> {
        let readable = check_access(path).map_err(|error| settings.invalid(key, error.to_string()))?;
        self.readable.extend(readable.map(|secret| format!("{key}: {secret}")));
        Ok(())
    }
}

/// Keys that name files with secrets, besides those of routes.
const NAMED_FILES: [&str; 4] =
    ["server.tls_key", "database.url_file", "database.listen_url_file", "tokens.secret_file"];
