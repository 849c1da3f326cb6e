//! Migrations in SQLite, recorded in a table of sqlx's migrator.

use async_trait::async_trait;
use sqlx::migrate::{AppliedMigration, Migrate as _, MigrateError, Migrator};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};

use super::{SETUP_TIMEOUT, SqliteStore};
use crate::backend::migrations::{Migrate, library_migrator};
use crate::backend::namespace::Tables;

#[async_trait]
impl Migrate for SqliteStore {
    fn migrator(&self) -> Migrator {
        match &self.tables {
            #[cfg(feature = "server")]
            Tables::Gateway => sqlx::migrate!("migrations/sqlite"),
            Tables::Library(_) => {
                let prefix = self.tables.sqlite_prefix();
                library_migrator(LIBRARY, &prefix, format!("{prefix}migrations"))
            }
        }
    }

    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError> {
        let table_name = self.migrator().table_name;
        let mut reader = self.readers.acquire().await?;
        let has_table = sqlx::query_scalar::<_, i64>(HAS_TABLE).bind(&*table_name);
        if has_table.fetch_one(&mut *reader).await? == 0 {
            return Ok(Vec::new());
        }
        reader.list_applied_migrations(&table_name).await
    }

    /// Applies all pending migrations in one transaction.
    async fn apply_migrations(&self) -> Result<(), MigrateError> {
        let mut connection = self.options.clone().busy_timeout(SETUP_TIMEOUT).connect().await?;
        // sqlx takes no migration lock on SQLite. The immediate transaction serializes processes that
        // migrate at the same time; the second one then finds nothing to do.
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        apply(&mut tx, &self.migrator()).await?;
        tx.commit().await?;
        Ok(connection.close().await?)
    }
}

async fn apply(tx: &mut SqliteConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    tx.ensure_migrations_table(&migrator.table_name).await?;
    let applied = tx.list_applied_migrations(&migrator.table_name).await?;
    if let Some(unknown) = applied.iter().find(|known| !migrator.version_exists(known.version)) {
        return Err(MigrateError::VersionMissing(unknown.version));
    }
    for migration in migrator.iter() {
        if !applied.iter().any(|applied| applied.version == migration.version) {
            tx.apply(&migrator.table_name, migration).await?;
        }
    }
    Ok(())
}

const HAS_TABLE: &str = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = $1";

/// The migrations of a store without users.
const LIBRARY: &[(i64, &str, &str)] =
    &[(1, "sessions", include_str!("../../../migrations/library/sqlite/0001_sessions.sql"))];
