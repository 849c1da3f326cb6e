//! Databases of applications that keep their sessions in a store of this crate.

use std::sync::Arc;

use sekisho::backend::Namespace;
use sekisho::backend::db::Stores;
use sekisho::backend::postgres::{PostgresOptions, PostgresStore};
use sekisho::backend::sqlite::{SqliteOptions, SqliteStore};
use sekisho::services::store::PersistentStore;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{PgPool, SqlSafeStr, SqlitePool};

use super::db::{DatabaseLocation, TestDatabase, postgres_location, sqlite_location};

/// The prefix of the tables, or their schema.
pub(crate) fn auth() -> Namespace {
    Namespace::new("auth").unwrap()
}

/// The migrations of the application, which has tables of the same names.
pub(crate) fn application_migrator() -> Migrator {
    let sql = "CREATE TABLE users (id BIGINT PRIMARY KEY, email TEXT NOT NULL); \
               CREATE TABLE sessions (id BIGINT PRIMARY KEY); INSERT INTO sessions VALUES (1)";
    let migration = Migration::new(1, "users".into(), MigrationType::Simple, sql.into_sql_str(), false);
    Migrator::with_migrations(vec![migration])
}

/// Returns a pool of an application in a new SQLite file.
pub(crate) async fn sqlite_pool() -> Option<(SqlitePool, DatabaseLocation)> {
    let location = sqlite_location().await?;
    let options: SqliteConnectOptions = location.url.parse().unwrap();
    let pool = SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
    application_migrator().run(&pool).await.unwrap();
    Some((pool, location))
}

/// Returns a pool of an application in a new PostgreSQL database.
pub(crate) async fn postgres_pool() -> Option<(PgPool, DatabaseLocation)> {
    let location = postgres_location().await?;
    let pool = PgPool::connect(&location.url).await.unwrap();
    application_migrator().run(&pool).await.unwrap();
    Some((pool, location))
}

/// Returns a store with a prefix of its own in the SQLite file of an application.
pub(crate) async fn application_sqlite() -> Option<TestDatabase> {
    let (pool, location) = sqlite_pool().await?;
    let store = SqliteStore::open(SqliteOptions::from(&pool).with_namespace(auth())).await.unwrap();
    assert_eq!(store.migrate().await.unwrap().len(), 1);
    assert_eq!(store.migrate().await.unwrap(), []);
    Some(TestDatabase::new(stores(store), location))
}

/// Returns a store with a schema of its own in the PostgreSQL database of an application.
pub(crate) async fn application_postgres() -> Option<TestDatabase> {
    let (pool, location) = postgres_pool().await?;
    let store = PostgresStore::open(PostgresOptions::from(&pool).with_namespace(auth())).await.unwrap();
    pool.close().await;
    assert_eq!(store.migrate().await.unwrap().len(), 1);
    assert_eq!(store.migrate().await.unwrap(), []);
    Some(TestDatabase::new(stores(store), location))
}

/// Returns stores whose sessions and settings are in `store`. The users are in memory.
pub(crate) fn stores(store: impl PersistentStore) -> Stores {
    let store = Arc::new(store);
    let mut stores = Stores::in_memory();
    stores.sessions = store.clone();
    stores.settings = store;
    stores
}
