//! The user and the password of PostgreSQL in a file with its URL.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;

use crate::backend::postgres::{Address, CredentialSource, Credentials, Wording};
use crate::database_url::{DatabaseUrl, DatabaseUrlError, PostgresUrl};
use crate::secret::read_file;

/// Creates the address of a URL, which comes from `file` if there is one.
pub(super) fn address(url: &PostgresUrl, file: Option<PathBuf>) -> Result<Address, DatabaseUrlError> {
    let options =
        url.secret().expose_secret().parse().map_err(|_: sqlx::Error| DatabaseUrlError::Postgres)?;
    let address = Address::new(options, Wording::gateway());
    Ok(match file {
        Some(file) => address.with_source(Arc::new(UrlFile(file)), Some(url.secret().clone())),
        None => address,
    })
}

/// A file that contains the URL.
struct UrlFile(PathBuf);

#[async_trait]
impl CredentialSource for UrlFile {
    async fn read(&self) -> Option<Credentials> {
        let url = self.url().await?;
        let options: PgConnectOptions = url.secret().expose_secret().parse().ok()?;
        Some(Credentials {
            username: options.get_username().to_owned(),
            password: url.password(),
            version: url.secret().clone(),
        })
    }
}

impl UrlFile {
    async fn url(&self) -> Option<PostgresUrl> {
        let file = self.0.clone();
        let read = tokio::task::spawn_blocking(move || read_file(&file)).await.ok()?;
        let text = read
            .inspect_err(|error| {
                let error: &dyn std::error::Error = error;
                tracing::debug!(error, "cannot read the file of the database URL");
            })
            .ok()?;
        match DatabaseUrl::parse(text.expose_secret()) {
            Ok(DatabaseUrl::Postgres(url)) => Some(url),
            _ => {
                tracing::debug!("the file of the database URL contains no URL of PostgreSQL");
                None
            }
        }
    }
}
