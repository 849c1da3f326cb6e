//! Pending migrations of a database, and their application.

use std::fmt;

use async_trait::async_trait;
use sqlx::SqlSafeStr;
use sqlx::migrate::{AppliedMigration, MigrateError, Migration, MigrationType, Migrator};

use super::sql::Sql;

/// A migration not yet applied to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingMigration {
    /// Version number.
    pub number: i64,
    /// Short description.
    pub name: String,
}

impl fmt::Display for PendingMigration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04} {}", self.number, self.name)
    }
}

/// Error of the migrations of a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The tables were migrated by a newer version of the crate.
    #[error(
        "the tables were migrated by a newer version of sekisho (migration {found}); this one supports up to \
         {known}: upgrade the crate"
    )]
    Newer {
        /// The unknown migration.
        found: i64,
        /// The last known migration.
        known: i64,
    },
    /// A migration was changed after it was applied.
    #[error(
        "migration {0} differs from the applied one: use the version of sekisho that migrated the tables"
    )]
    Changed(i64),
    /// The database is unavailable, or refuses a migration.
    #[error("cannot migrate the database: {0}")]
    Failed(String),
}

/// A database whose migrations are recorded in a table.
#[async_trait]
pub(super) trait Migrate: Send + Sync {
    /// Returns the migrations compiled into this program.
    fn migrator(&self) -> Migrator;

    /// Returns the migrations already applied to the database. Read-only.
    async fn applied(&self) -> Result<Vec<AppliedMigration>, MigrateError>;

    /// Applies the pending migrations. Concurrent calls by several processes are safe.
    async fn apply_migrations(&self) -> Result<(), MigrateError>;

    /// Describes an error of the database, with the remedy if there is one.
    fn describe(&self, error: &sqlx::Error) -> String {
        error.to_string()
    }
}

/// Creates the migrations of a library store from their versions, names and texts. `table` records them.
pub(super) fn library_migrator(
    migrations: &[(i64, &'static str, &'static str)],
    prefix: &str,
    table: String,
) -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            (&Sql::new(sql, prefix)).into_sql_str(),
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(migrations.iter().map(migration).collect());
    migrator.dangerous_set_table_name(table);
    migrator
}

/// Returns the migrations not yet applied to `database`.
pub(super) async fn pending(
    database: &(impl Migrate + ?Sized),
) -> Result<Vec<PendingMigration>, MigrationError> {
    let applied = database.applied().await.map_err(|error| migration_error(database, error))?;
    let known = database.migrator();
    for applied in &applied {
        let found = known.iter().find(|migration| migration.version == applied.version);
        let migration = found.ok_or_else(|| newer(&known, applied.version))?;
        if migration.checksum != applied.checksum {
            return Err(MigrationError::Changed(applied.version));
        }
    }
    let is_applied = |number| applied.iter().any(|migration| migration.version == number);
    let pending = known.iter().filter(|migration| !is_applied(migration.version));
    Ok(pending
        .map(|migration| PendingMigration {
            number: migration.version,
            name: migration.description.to_string(),
        })
        .collect())
}

/// Applies the pending migrations to `database` and returns them.
pub(super) async fn migrate(
    database: &(impl Migrate + ?Sized),
) -> Result<Vec<PendingMigration>, MigrationError> {
    let pending = pending(database).await?;
    if !pending.is_empty() {
        database.apply_migrations().await.map_err(|error| migration_error(database, error))?;
    }
    Ok(pending)
}

fn migration_error(database: &(impl Migrate + ?Sized), error: MigrateError) -> MigrationError {
    match error {
        // Another process with a newer version has migrated the database in the meantime.
        MigrateError::VersionMissing(found) => newer(&database.migrator(), found),
        MigrateError::VersionMismatch(number) => MigrationError::Changed(number),
        MigrateError::Execute(error) => MigrationError::Failed(database.describe(&error)),
        MigrateError::ExecuteMigration(error, number) => {
            MigrationError::Failed(format!("migration {number}: {}", database.describe(&error)))
        }
        error => MigrationError::Failed(error.to_string()),
    }
}

fn newer(known: &Migrator, found: i64) -> MigrationError {
    let known = known.iter().map(|migration| migration.version).max().unwrap_or(0);
    MigrationError::Newer { found, known }
}
