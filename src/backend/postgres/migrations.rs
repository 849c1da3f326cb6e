//! Migrations in PostgreSQL, recorded in a table like that of sqlx's migrator.
//!
//! That migrator takes a session-level lock and prepares statements by name, which behind a pooler would stay
//! on a server connection that others use next. Here all pending migrations are one transaction.

use std::collections::HashMap;
use std::time::Instant;

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, SqlSafeStr};

use super::PostgresStore;
use crate::backend::migrations::{Migrate, library_migrator};
use crate::backend::namespace::Tables;
use crate::backend::sql::Sql;

#[async_trait]
impl Migrate for PostgresStore {
    fn migrator(&self) -> Migrator {
        let prefix = self.tables.postgres_prefix();
        match &self.tables {
            #[cfg(feature = "server")]
            Tables::Gateway => {
                let mut migrator = sqlx::migrate!("migrations/postgres");
                migrator.dangerous_set_table_name(format!("{prefix}_sqlx_migrations"));
                migrator
            }
            Tables::Library(_) => library_migrator(LIBRARY, &prefix, format!("{prefix}sekisho_migrations")),
        }
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        let history = History::new(&self.migrator());
        let has_table: bool =
            sqlx::query_scalar(HAS_TABLE).bind(history.table()).fetch_one(&self.pool).await?;
        if !has_table {
            return Ok(Vec::new());
        }
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(&history.sql(LIST)).fetch_all(&self.pool).await?;
        let migration =
            |(version, checksum): (i64, Vec<u8>)| AppliedMigration { version, checksum: checksum.into() };
        Ok(rows.into_iter().map(migration).collect())
    }

    /// Applies the pending migrations in one transaction. It has no timeout, since the creation of an index may
    /// take long.
    async fn apply_migrations(&self) -> Result<(), MigrateError> {
        let migrator = self.migrator();
        let history = History::new(&migrator);
        let mut connection = self.pool.address().connect().await?;
        // If a migration fails, the connection is dropped, which rolls all of them back.
        connection.execute(BEGIN).await?;
        self.create_table(&mut connection, &history).await?;
        let query = sqlx::query_as(&history.sql(LIST)).persistent(false);
        let rows: Vec<(i64, Vec<u8>)> = query.fetch_all(&mut connection).await?;
        let mut applied: HashMap<_, _> = rows.into_iter().collect();
        for migration in migrator.iter() {
            match applied.remove(&migration.version) {
                None => history.apply(&mut connection, migration).await?,
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

    fn describe(&self, error: &sqlx::Error) -> String {
        self.pool.address().describe(error)
    }
}

impl PostgresStore {
    async fn create_table(
        &self,
        connection: &mut PgConnection,
        history: &History,
    ) -> Result<(), MigrateError> {
        // Only if the schema is missing: CREATE SCHEMA IF NOT EXISTS requires the privilege to create one even
        // when it exists.
        let schema = self.tables.schema();
        let has_schema = sqlx::query_scalar(HAS_SCHEMA).bind(schema).persistent(false);
        if !has_schema.fetch_one(&mut *connection).await? {
            connection.execute((&Sql::new(CREATE_SCHEMA, schema)).into_sql_str()).await?;
        }
        connection.execute((&history.sql(CREATE_TABLE)).into_sql_str()).await?;
        Ok(())
    }
}

/// The table that records the applied migrations.
struct History(String);

impl History {
    fn new(migrator: &Migrator) -> Self {
        Self(migrator.table_name.clone().into_owned())
    }

    fn table(&self) -> &str {
        &self.0
    }

    /// Returns a statement about the table.
    fn sql(&self, template: &'static str) -> Sql {
        Sql::new(template, &self.0)
    }

    async fn apply(&self, connection: &mut PgConnection, migration: &Migration) -> Result<(), MigrateError> {
        let started = Instant::now();
        let applied = connection.execute(migration.sql.clone()).await;
        applied.map_err(|error| MigrateError::ExecuteMigration(error, migration.version))?;
        let record = sqlx::query(&self.sql(RECORD))
            .bind(migration.version)
            .bind(&*migration.description)
            .bind(&*migration.checksum)
            .bind(i64::try_from(started.elapsed().as_nanos()).unwrap_or(-1));
        record.persistent(false).execute(connection).await?;
        Ok(())
    }
}

/// The migrations of a store without users.
const LIBRARY: &[(i64, &str, &str)] =
    &[(1, "sessions", include_str!("../../../migrations/library/postgres/0001_sessions.sql"))];

/// Serializes the processes that migrate. The number is arbitrary.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(7235412098125743)";

const HAS_TABLE: &str = "SELECT to_regclass($1) IS NOT NULL";

const HAS_SCHEMA: &str = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)";

const CREATE_SCHEMA: &str = "CREATE SCHEMA \"{namespace}\"";

/// As sqlx's migrator creates it.
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS {namespace} (\
    version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), \
    success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)";

const LIST: &str = "SELECT version, checksum FROM {namespace} ORDER BY version";

const RECORD: &str = "INSERT INTO {namespace} (version, description, success, checksum, execution_time) \
    VALUES ($1, $2, TRUE, $3, $4)";
