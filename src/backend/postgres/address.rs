//! The address of the database, whose password may change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::database_url::{DatabaseUrl, DatabaseUrlError, PostgresUrl};
use crate::secret::read_file;

/// An address with a user and a password. If the server refuses them, they are read anew from the file of the URL.
/// Clones share them.
#[derive(Clone)]
pub struct Address {
    shared: Arc<Shared>,
}

struct Shared {
    file: Option<PathBuf>,
    current: Mutex<Credentials>,
}

#[derive(Clone)]
struct Credentials {
    options: PgConnectOptions,
    /// The URL that the user and the password are from.
    url: SecretString,
}

impl Address {
    /// Creates the address of a URL, which comes from `file` if there is one.
    ///
    /// # Errors
    ///
    /// If the URL cannot be used.
    pub fn new(url: &PostgresUrl, file: Option<PathBuf>) -> Result<Self, DatabaseUrlError> {
        let options =
            url.secret().expose_secret().parse().map_err(|_: sqlx::Error| DatabaseUrlError::Postgres)?;
        let current = Mutex::new(Credentials { options, url: url.secret().clone() });
        Ok(Self { shared: Arc::new(Shared { file, current }) })
    }

    /// Returns this address with changed options.
    pub(super) fn with_options(self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        let Credentials { options, url } = self.credentials();
        let current = Mutex::new(Credentials { options: change(options), url });
        Self { shared: Arc::new(Shared { file: self.shared.file.clone(), current }) }
    }

    /// Returns the options to connect with.
    pub fn options(&self) -> PgConnectOptions {
        self.credentials().options
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let used = self.credentials();
        match used.options.connect().await {
            Err(error) => match self.renewed(&used, &error).await {
                Some(options) => options.connect().await,
                None => Err(error),
            },
            connected => connected,
        }
    }

    /// Reads the password anew if `error` is a refusal of the present one.
    pub(super) async fn renew_after(&self, error: &sqlx::Error) {
        self.renewed(&self.credentials(), error).await;
    }

    /// Returns options with another password than `used`, if `error` is its refusal and the file has another one.
    async fn renewed(&self, used: &Credentials, error: &sqlx::Error) -> Option<PgConnectOptions> {
        if !is_refusal(error) {
            return None;
        }
        let url = self.read_url().await?;
        if url.secret().expose_secret() == used.url.expose_secret() {
            return None;
        }
        let found: PgConnectOptions = url.secret().expose_secret().parse().ok()?;
        // Another server would not have the sessions of this process.
        let options = used.options.clone().username(found.get_username());
        let options = match url.password() {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        };
        tracing::info!("database password refused, another one was read from the file of the URL");
        let renewed = Credentials { options: options.clone(), url: url.secret().clone() };
        *self.shared.current.lock() = renewed;
        Some(options)
    }

    async fn read_url(&self) -> Option<PostgresUrl> {
        let file = self.shared.file.clone()?;
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

    fn credentials(&self) -> Credentials {
        self.shared.current.lock().clone()
    }
}

/// Omits the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

/// Returns `true` if the server refuses the user or the password (class 28 of SQLSTATE).
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("28"))
}
