//! Options of [`SqliteStore::open`](super::SqliteStore::open).

use std::fmt;
use std::path::{Path, PathBuf};

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

use crate::backend::namespace::{Namespace, Tables};
use crate::backend::open_error::OpenError;

/// Options of [`SqliteStore::open`](super::SqliteStore::open): the file, and the prefix of the tables.
///
/// ```
/// use sekisho::backend::sqlite::SqliteOptions;
///
/// let options = SqliteOptions::new("data/app.db");
/// ```
///
/// A pool of the application gives the options of its connections:
///
/// ```
/// # use sekisho::backend::sqlite::SqliteStore;
/// # async fn doc(pool: sqlx::SqlitePool) -> Result<(), sekisho::backend::OpenError> {
/// let store = SqliteStore::open(&pool).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteOptions {
    pub(super) connect: SqliteConnectOptions,
    pub(super) tables: Tables,
}

impl SqliteOptions {
    /// Creates options for the file at `path`, which is no URL.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { connect: SqliteConnectOptions::new().filename(path), tables: Tables::default() }
    }

    /// Sets the prefix of the tables, by default `sekisho`.
    #[must_use]
    pub fn with_namespace(self, namespace: Namespace) -> Self {
        Self { tables: Tables::Library(namespace), ..self }
    }

    /// Creates options for the database of the gateway.
    #[cfg(feature = "server")]
    pub(crate) fn gateway(path: &Path) -> Self {
        Self { tables: Tables::Gateway, ..Self::new(path) }
    }

    /// Returns the path of the file.
    pub(super) fn file(&self) -> Result<PathBuf, OpenError> {
        let path = self.connect.get_filename();
        if path.to_string_lossy().starts_with("sqlite:") {
            return Err(OpenError::SqliteUrl);
        }
        let is_file = !path.to_string_lossy().starts_with("file:") && path != Path::new(":memory:");
        if is_file { Ok(path.to_owned()) } else { Err(OpenError::InMemory) }
    }
}

/// Omits the pragmas, one of which may be the key of an encrypted file.
impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SqliteOptions");
        debug.field("path", &self.connect.get_filename()).field("tables", &self.tables);
        debug.finish_non_exhaustive()
    }
}

impl From<SqliteConnectOptions> for SqliteOptions {
    fn from(options: SqliteConnectOptions) -> Self {
        let connect = options
            // Another mode would be set again by each connection.
            .journal_mode(SqliteJournalMode::Wal)
            // The connections must neither share a cache, whose locks have no timeout, nor be unable to write.
            .shared_cache(false)
            .read_only(false);
        Self { connect, tables: Tables::default() }
    }
}

/// Takes the options of its connections. The store has connections of its own.
impl From<&SqlitePool> for SqliteOptions {
    fn from(pool: &SqlitePool) -> Self {
        Self::from(pool.connect_options().as_ref().clone())
    }
}
