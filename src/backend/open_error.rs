//! Errors of opening a store.

#[cfg(any(feature = "server", feature = "sqlite"))]
use std::path::Path;

/// Error of opening a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database is kept in memory.
    #[error("a database in memory ends with the process: open one in a file, or use MemoryStore")]
    InMemory,
    /// The path of a SQLite file is a URL.
    #[error(
        "the path of the SQLite file begins with sqlite: as a URL does: pass the path alone, as in data/app.db"
    )]
    SqliteUrl,
    /// The URL cannot be used.
    #[error(
        "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters in a password percent-encoded \
         (# is %23, @ is %40, % is %25)"
    )]
    Url,
    /// The file or server cannot be opened.
    #[error("cannot open the database {place}: {source}")]
    Open {
        /// The path of the file, or the host, port and database name.
        place: String,
        /// The cause, with the remedy.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// True if the server cannot be reached, or does not accept connections at the moment.
        is_unreachable: bool,
    },
    /// A pooler pools transactions, but the options do not say so.
    #[error(
        "the connection pooler at {0} pools transactions: call with_transaction_pooling(true), or let the pooler \
         pool sessions"
    )]
    TransactionPooling(String),
    /// The address for notifications leads to a pooler that pools transactions.
    #[error(
        "the address for notifications leads to a connection pooler that pools transactions: use that of the server, \
         or none"
    )]
    ListenPooling,
}

impl OpenError {
    /// Returns `true` if the server cannot be reached, or does not accept connections at the moment. It may be
    /// starting.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Open { is_unreachable: true, .. })
    }

    /// Returns the error of a file.
    #[cfg(any(feature = "server", feature = "sqlite"))]
    pub(super) fn file(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let place = path.display().to_string();
        Self::Open { place, source: Box::new(source), is_unreachable: false }
    }
}
