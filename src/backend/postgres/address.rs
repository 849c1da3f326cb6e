//! The address of the database, whose password may change.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::remedy::{self, Wording};

/// An address with a user and a password. If the server refuses them, they are read anew from their source. Clones
/// share them.
#[derive(Clone)]
pub(crate) struct Address {
    shared: Arc<Shared>,
}

struct Shared {
    source: Option<Arc<dyn CredentialSource>>,
    wording: Wording,
    current: Mutex<CurrentCredentials>,
}

#[derive(Clone)]
struct CurrentCredentials {
    options: PgConnectOptions,
    /// See [`Credentials::version`].
    version: Option<SecretString>,
}

/// The source of a user and a password that change while the program runs, such as a file that a secret manager
/// rewrites.
///
/// It is asked when the server has refused the present ones.
///
/// ```
/// use async_trait::async_trait;
/// use sekisho::backend::postgres::{CredentialSource, Credentials};
///
/// struct PasswordFile(std::path::PathBuf);
///
/// #[async_trait]
/// impl CredentialSource for PasswordFile {
///     async fn read(&self) -> Option<Credentials> {
///         let password = tokio::fs::read_to_string(&self.0).await.ok()?;
///         Some(Credentials::new("app", Some(password.trim_end().into())))
///     }
/// }
/// ```
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// Returns the user and the password as they are now, or `None` if they cannot be read.
    async fn read(&self) -> Option<Credentials>;
}

/// A user and a password, from a [`CredentialSource`].
#[derive(Clone)]
pub struct Credentials {
    /// The name of the user.
    pub(crate) username: String,
    /// The password. `None` keeps the present one.
    pub(crate) password: Option<SecretString>,
    /// A value that changes with them. Those of a version that was refused are not tried again.
    pub(crate) version: SecretString,
}

impl Credentials {
    /// Creates credentials. Without a password the present one is kept.
    #[must_use]
    pub fn new(username: impl Into<String>, password: Option<SecretString>) -> Self {
        let username = username.into();
        let secret = password.as_ref().map_or("", |password| password.expose_secret());
        let version = SecretString::from(format!("{username}\0{secret}"));
        Self { username, password, version }
    }
}

/// Omits the password.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Address {
    /// Creates an address. `wording` is that of errors.
    pub(crate) fn new(options: PgConnectOptions, wording: Wording) -> Self {
        let current = Mutex::new(CurrentCredentials { options, version: None });
        Self { shared: Arc::new(Shared { source: None, wording, current }) }
    }

    /// Returns this address with a source of its user and password. `version` is that of the present ones, if they
    /// are from the source.
    pub(crate) fn with_source(
        self,
        source: Arc<dyn CredentialSource>,
        version: Option<SecretString>,
    ) -> Self {
        let current = Mutex::new(CurrentCredentials { version, ..self.credentials() });
        let wording = self.shared.wording.clone();
        Self { shared: Arc::new(Shared { source: Some(source), wording, current }) }
    }

    /// Returns this address with other words in its errors.
    pub(super) fn with_wording(self, wording: Wording) -> Self {
        let current = Mutex::new(self.credentials());
        Self { shared: Arc::new(Shared { source: self.shared.source.clone(), wording, current }) }
    }

    /// Returns this address with changed options.
    pub(super) fn with_options(self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        let CurrentCredentials { options, version } = self.credentials();
        let current = Mutex::new(CurrentCredentials { options: change(options), version });
        let Shared { source, wording, .. } = &*self.shared;
        Self { shared: Arc::new(Shared { source: source.clone(), wording: wording.clone(), current }) }
    }

    /// Returns `true` if the user and the password can be read anew.
    pub(super) fn has_source(&self) -> bool {
        self.shared.source.is_some()
    }

    /// Returns the options to connect with.
    pub(super) fn options(&self) -> PgConnectOptions {
        self.credentials().options
    }

    /// Returns the host, the port and the name of the database.
    pub(super) fn place(&self) -> String {
        let options = self.options();
        let database = options.get_database().unwrap_or_default();
        format!("{}:{}/{database}", options.get_host(), options.get_port())
    }

    /// Describes an error of a connection, and its remedy.
    pub(super) fn describe(&self, error: &sqlx::Error) -> String {
        remedy::describe(error, &self.options(), &self.shared.wording)
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

    /// Returns options with another password than `used`, if `error` is its refusal and the source has another one.
    async fn renewed(&self, used: &CurrentCredentials, error: &sqlx::Error) -> Option<PgConnectOptions> {
        if !is_refusal(error) {
            return None;
        }
        let Credentials { username, password, version } = self.shared.source.as_ref()?.read().await?;
        if used.version.as_ref().is_some_and(|used| used.expose_secret() == version.expose_secret()) {
            return None;
        }
        // Another server would not have the sessions of this process.
        let options = used.options.clone().username(&username);
        let options = match password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        };
        tracing::info!("database password refused, another one was read from its source");
        let renewed = CurrentCredentials { options: options.clone(), version: Some(version) };
        *self.shared.current.lock() = renewed;
        Some(options)
    }

    fn credentials(&self) -> CurrentCredentials {
        self.shared.current.lock().clone()
    }
}

/// Omits the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("has_source", &self.has_source()).finish_non_exhaustive()
    }
}

/// Returns `true` if the server refuses the user or the password (class 28 of SQLSTATE).
fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("28"))
}
