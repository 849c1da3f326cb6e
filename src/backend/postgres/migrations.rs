//! Migrations in PostgreSQL, recorded in the table of sqlx's migrator.
//!
//! That migrator takes a session-level lock and prepares statements by name, which behind a pooler would stay
//! on a server connection that others use next. Here all pending migrations are one transaction.

use std::collections::HashMap;
use std::time::Instant;

use sqlx::migrate::{AppliedMigration, MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use super::address::Address;
use super::pool::Pool;

/// Returns the migrations already applied.
pub(super) async fn applied(pool: &Pool) -> Result<Vec<AppliedMigration>, MigrateError> {
    let has_table: bool = sqlx::query_scalar(HAS_TABLE).fetch_one(pool).await?;
    if !has_table {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(LIST).fetch_all(pool).await?;
    let migration =
        |(version, checksum): (i64, Vec<u8>)| AppliedMigration { version, checksum: checksum.into() };
    Ok(rows.into_iter().map(migration).collect())
}

/// Applies the pending migrations in one transaction. It has no timeout, since the creation of an index may
/// take long.
pub(super) async fn run(address: &Address, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut connection = address.connect().await?;
    // If a migration fails, the connection is dropped, which rolls all of them back.
    connection.execute(BEGIN).await?;
    create_table(&mut connection).await?;
    let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(LIST).persistent(false).fetch_all(&mut connection).await?;
    let mut applied: HashMap<_, _> = rows.into_iter().collect();
    for migration in migrator.iter() {
        match applied.remove(&migration.version) {
            None => apply(&mut connection, migration).await?,
            Some(checksum) if *checksum == *migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version)),
        }
    }
    if let Some(unknown) = applied.into_keys().max() {
        return Err(MigrateError::VersionMissing(unknown));
    }
    connection.execute("COMMIT").await?;
    Ok(connection.close().await?)
}

async fn create_table(connection: &mut PgConnection) -> Result<(), MigrateError> {
    // Only if the schema is missing: CREATE SCHEMA IF NOT EXISTS requires the privilege to create one even
    // when it exists.
    let has_schema = sqlx::query_scalar(HAS_SCHEMA).persistent(false);
    if !has_schema.fetch_one(&mut *connection).await? {
        connection.execute("CREATE SCHEMA myapi").await?;
    }
    connection.execute(CREATE_TABLE).await?;
    Ok(())
}

async fn apply(connection: &mut PgConnection, migration: &Migration) -> Result<(), MigrateError> {
    let started = Instant::now();
    let applied = connection.execute(migration.sql.clone()).await;
    applied.map_err(|error| MigrateError::ExecuteMigration(error, migration.version))?;
    let record = sqlx::query(RECORD)
        .bind(migration.version)
        .bind(&*migration.description)
        .bind(&*migration.checksum)
        .bind(i64::try_from(started.elapsed().as_nanos()).unwrap_or(-1));
    record.persistent(false).execute(connection).await?;
    Ok(())
}

/// The table in which sqlx records applied migrations.
pub(super) const TABLE: &str = "myapi._sqlx_migrations";

/// Serializes the processes that migrate. The number is arbitrary.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(7235412098125743)";

const HAS_TABLE: &str = "SELECT to_regclass('myapi._sqlx_migrations') IS NOT NULL";

const HAS_SCHEMA: &str = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'myapi')";

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS myapi._sqlx_migrations (\
    version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), \
    success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)";

const LIST: &str = "SELECT version, checksum FROM myapi._sqlx_migrations ORDER BY version";

const RECORD: &str = "INSERT INTO myapi._sqlx_migrations (version, description, success, checksum, execution_time) \
    VALUES ($1, $2, TRUE, $3, $4)";
