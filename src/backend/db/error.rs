//! Errors of opening and migrating a database.

use std::path::{Path, PathBuf};

use crate::backend::migrations::MigrationError;
use crate::backend::open_error::OpenError;
use crate::database_url::DatabaseUrlError;

/// Error of opening or migrating a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// The URL cannot be used.
    #[error("database.url: {0}")]
    Url(#[source] DatabaseUrlError),
    /// The URL for notifications cannot be used.
    #[error("database.listen_url: {0}")]
    ListenUrl(#[source] DatabaseUrlError),
    /// The program was built without support for the database.
    #[error("database.url: this program was built without the feature {0}")]
    NotBuilt(&'static str),
    /// A pooler pools transactions, but the options do not say so.
    #[error(
        "the connection pooler at {0} pools transactions: set database.pooling to \"transaction\", or let the \
         pooler pool sessions"
    )]
    TransactionPooling(String),
    /// The address for notifications leads to a pooler that pools transactions.
    #[error(
        "database.listen_url leads to a connection pooler that pools transactions: set it to the address of the \
         server, or remove it"
    )]
    ListenPooling,
    /// The file or server cannot be opened.
    #[error("cannot open the database {place}: {source}")]
    Open {
        /// The path of the file, or the host, port and database name.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// True if the server cannot be reached, or does not accept connections at the moment.
        is_unreachable: bool,
    },
    /// The file belongs to another user.
    #[error("{path} belongs to {}: run this command as that user, with {}", owner(.uid, .name), remedy(.uid, .name))]
    Owner {
        /// The path of the file.
        path: PathBuf,
        /// The id of the owner.
        uid: u32,
        /// The name of the owner, if known.
        name: Option<String>,
    },
    /// The database was migrated by a newer version of the program.
    #[error(
        "the database was migrated by a newer sekisho (migration {found}); this one supports up to {known}: \
         upgrade the program"
    )]
    Newer {
        /// The unknown migration.
        found: i64,
        /// The last known migration.
        known: i64,
    },
    /// A migration was changed after it was applied.
    #[error(
        "migration {0} differs from the applied one: use the version of sekisho that migrated the database"
    )]
    Changed(i64),
    /// A migration failed.
    #[error("cannot migrate the database: {0}")]
    Migrate(String),
}

impl DbError {
    /// Returns `true` if the server cannot be reached, or does not accept connections at the moment. It may be starting.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Open { is_unreachable: true, .. })
    }

    pub(super) fn open(
        place: impl AsRef<Path>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        OpenError::file(place.as_ref(), source).into()
    }
}

impl From<OpenError> for DbError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InMemory => Self::Url(DatabaseUrlError::InMemory),
            OpenError::SqliteUrl => Self::Url(DatabaseUrlError::SqlitePath),
            OpenError::Url => Self::Url(DatabaseUrlError::Postgres),
            OpenError::Open { place, source, is_unreachable } => Self::Open { place, source, is_unreachable },
            OpenError::TransactionPooling(place) => Self::TransactionPooling(place),
            OpenError::ListenPooling => Self::ListenPooling,
        }
    }
}

impl From<MigrationError> for DbError {
    fn from(error: MigrationError) -> Self {
        match error {
            MigrationError::Newer { found, known } => Self::Newer { found, known },
            MigrationError::Changed(number) => Self::Changed(number),
            MigrationError::Failed(message) => Self::Migrate(message),
        }
    }
}

fn owner(uid: &u32, name: &Option<String>) -> String {
    name.clone().unwrap_or_else(|| format!("the user with the id {uid}"))
}

fn remedy(uid: &u32, name: &Option<String>) -> String {
    let user = name.clone().unwrap_or_else(|| format!("'#{uid}'"));
    format!("`sudo -u {user} …` (in a container, `--user {uid}`)")
}
