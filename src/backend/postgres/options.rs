//! Options of [`PostgresStore::open`](super::PostgresStore::open).

use std::fmt;
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
#[derive(Clone)]
pub struct PostgresOptions {
    database: Address,
    /// The address to listen at for notifications, if it is another one.
    listen: Option<Address>,
    /// The source of the user and the password at both addresses. `None` keeps those of the addresses.
    credentials: Option<Arc<dyn CredentialSource>>,
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

    /// Sets the source of a user and a password that change while the program runs, also for the
    /// [address for notifications](Self::with_listen_url).
    #[must_use]
    pub fn with_credentials(self, source: Arc<dyn CredentialSource>) -> Self {
        Self { credentials: Some(source), ..self }
    }

    /// Returns the address of the database.
    pub(super) fn database(&self) -> Address {
        self.complete(&self.database)
    }

    /// Returns the address to listen at for notifications, if it is another one.
    pub(super) fn listen(&self) -> Option<Address> {
        self.listen.as_ref().map(|listen| self.complete(listen))
    }

    /// Returns an address with the source of its credentials, and with errors that name the schema.
    fn complete(&self, address: &Address) -> Address {
        let address = match &self.tables {
            #[cfg(feature = "server")]
            Tables::Gateway => address.clone(),
            Tables::Library(namespace) => address.clone().with_wording(Wording::library(namespace)),
        };
        match &self.credentials {
            Some(source) => address.with_source(Arc::clone(source), None),
            None => address,
        }
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
            credentials: None,
            transaction_pooling: false,
            max_connections: MAX_CONNECTIONS,
            tables: Tables::default(),
        }
    }
}

/// Omits the passwords.
impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("database", &self.database())
            .field("listen", &self.listen())
            .field("transaction_pooling", &self.transaction_pooling)
            .field("max_connections", &self.max_connections)
            .field("tables", &self.tables)
            .finish()
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::backend::postgres::Credentials;

    struct Unreadable;

    #[async_trait]
    impl CredentialSource for Unreadable {
        async fn read(&self) -> Option<Credentials> {
            None
        }
    }

    #[test]
    fn both_addresses_have_the_source_of_credentials_in_any_order() {
        let options = || PostgresOptions::from_url("postgres://ann:secret@pooler/app").unwrap();
        let listen_url = "postgres://ann:secret@db/app";
        let namespace = Namespace::new("auth").unwrap();
        for options in [
            options().with_credentials(Arc::new(Unreadable)).with_listen_url(listen_url).unwrap(),
            options().with_listen_url(listen_url).unwrap().with_credentials(Arc::new(Unreadable)),
        ] {
            let options = options.with_namespace(namespace.clone());
            let [database, listen] = [options.database(), options.listen().unwrap()];
            assert_eq!([database.place(), listen.place()], ["pooler:5432/app", "db:5432/app"]);
            assert!(database.has_source() && listen.has_source(), "{options:?}");
            assert!(!format!("{options:?}").contains("secret"), "{options:?}");
        }
        let unchanged = options().with_listen_url(listen_url).unwrap();
        assert!(!unchanged.database().has_source() && !unchanged.listen().unwrap().has_source());
    }
}
