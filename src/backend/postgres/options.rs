//! Options of [`PostgresStore::open`](super::PostgresStore::open).

use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use super::address::{Address, CredentialSource};
use super::remedy::Wording;
use crate::backend::namespace::{Namespace, Tables};
use crate::backend::open_error::OpenError;

/// Options of [`PostgresStore::open`](super::PostgresStore::open): the server, and the schema of the tables.
///
/// A pool of the application gives the options of its connections:
///
/// ```
/// # use sekisho::backend::postgres::PostgresStore;
/// # async fn doc(pool: sqlx::PgPool) -> Result<(), sekisho::backend::OpenError> {
/// let store = PostgresStore::open(&pool).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(super) database: Address,
    /// The address to listen at for notifications, if it is another one.
    pub(super) listen: Option<Address>,
    pub(super) transaction_pooling: bool,
    pub(super) max_connections: u32,
    pub(super) tables: Tables,
}

impl PostgresOptions {
    /// Creates options for the database at `url`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Url`], which contains no part of the URL.
    pub fn from_url(url: &str) -> Result<Self, OpenError> {
        parse(url).map(Self::from)
    }

    /// Sets the schema of the tables, by default `sekisho`. [`migrate`](super::PostgresStore::migrate) creates it if
    /// it is missing. Choose one that has no other tables.
    #[must_use]
    pub fn with_namespace(self, namespace: Namespace) -> Self {
        Self { tables: Tables::Library(namespace), ..self }
    }

    /// Sets the maximum number of connections, by default 12. At least two are used.
    ///
    /// Half of them are for writes that do not wait for the disk. Two more poll and listen for terminated sessions.
    #[must_use]
    pub fn with_max_connections(self, max_connections: u32) -> Self {
        Self { max_connections, ..self }
    }

    /// Sets if a connection pooler assigns a server connection for each transaction.
    ///
    /// Each statement then runs in a transaction of its own, and terminations by other processes are found by polling
    /// alone, unless there is an [address for notifications](Self::with_listen_url).
    #[must_use]
    pub fn with_transaction_pooling(self, transaction_pooling: bool) -> Self {
        Self { transaction_pooling, ..self }
    }

    /// Sets the URL at which to listen for notifications, past a pooler that pools transactions.
    ///
    /// # Errors
    ///
    /// [`OpenError::Url`], which contains no part of the URL.
    pub fn with_listen_url(self, url: &str) -> Result<Self, OpenError> {
        Ok(Self { listen: Some(library_address(parse(url)?)), ..self })
    }

    /// Sets the source of a user and a password that change while the program runs.
    #[must_use]
    pub fn with_credentials(self, source: Arc<dyn CredentialSource>) -> Self {
        let with_source = |address: Address| address.with_source(Arc::clone(&source), None);
        Self { database: with_source(self.database), listen: self.listen.map(with_source), ..self }
    }

    /// Creates options for the database of the gateway.
    #[cfg(feature = "server")]
    pub(crate) fn gateway(database: Address, listen: Option<Address>) -> Self {
        Self { listen, tables: Tables::Gateway, ..Self::at(database) }
    }

    fn at(database: Address) -> Self {
        Self {
            database,
            listen: None,
            transaction_pooling: false,
            max_connections: MAX_CONNECTIONS,
            tables: Tables::default(),
        }
    }
}

impl From<PgConnectOptions> for PostgresOptions {
    fn from(options: PgConnectOptions) -> Self {
        Self::at(library_address(options))
    }
}

/// Takes the options of its connections. The store has connections of its own.
impl From<&PgPool> for PostgresOptions {
    fn from(pool: &PgPool) -> Self {
        Self::from(pool.connect_options().as_ref().clone())
    }
}

fn library_address(options: PgConnectOptions) -> Address {
    Address::new(options, Wording::library(&Namespace::default()))
}

fn parse(url: &str) -> Result<PgConnectOptions, OpenError> {
    let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
    is_postgres.then(|| url.parse().ok()).flatten().ok_or(OpenError::Url)
}

const MAX_CONNECTIONS: u32 = 12;
