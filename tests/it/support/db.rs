//! A new database for each test, deleted afterwards.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;

/// A migrated database, deleted when dropped.
pub(crate) struct TestDatabase {
    pub(crate) stores: Stores,
    location: DatabaseLocation,
}

impl TestDatabase {
    /// Returns a database that was opened and migrated by the caller.
    pub(crate) fn new(stores: Stores, location: DatabaseLocation) -> Self {
        Self { stores, location }
    }

    /// The `database.url`, empty for the in-memory store.
    pub(crate) fn url(&self) -> &str {
        &self.location.url
    }

    /// Opens new connections to the same database, as another process would.
    pub(crate) async fn open_again(&self) -> Stores {
        self.location.open().await
    }

    /// Closes and reopens the database, as a restart would.
    pub(crate) async fn reopen(mut self) -> Self {
        self.stores.close().await;
        self.stores = self.location.open().await;
        self
    }
}

/// The location of a database, which need not exist yet. The database is deleted when this is dropped.
pub(crate) struct DatabaseLocation {
    pub(crate) url: String,
    // Before the guard, which deletes the database.
    _pooler: Option<Box<dyn Send>>,
    _guard: Option<Guard>,
}

impl DatabaseLocation {
    /// Returns the location of the same database at another URL, for as long as `pooler` is there.
    pub(crate) fn behind(self, url: &str, pooler: impl Send + 'static) -> Self {
        Self { url: url.to_owned(), _pooler: Some(Box::new(pooler)), _guard: self._guard }
    }

    /// Returns the location of a database that is not deleted.
    pub(crate) fn at(url: &str) -> Self {
        Self { url: url.to_owned(), _pooler: None, _guard: None }
    }

    /// Opens the database without migrating it.
    pub(crate) async fn open(&self) -> Stores {
        db::open(&self.url, &DatabaseOptions::default()).await.unwrap()
    }

    /// Opens and migrates the database.
    pub(crate) async fn fresh(self) -> TestDatabase {
        let stores = self.open().await;
        stores.migrate().await.unwrap();
        TestDatabase { stores, location: self }
    }
}

#[expect(dead_code, reason = "fields are held for their `Drop`")]
enum Guard {
    Directory(TempDir),
    Database(DropDatabase),
}

/// Returns the in-memory store.
pub(crate) async fn memory() -> Option<TestDatabase> {
    let location = DatabaseLocation::at("");
    Some(TestDatabase { stores: Stores::in_memory(), location })
}

/// Returns a SQLite database in a temporary directory.
pub(crate) async fn sqlite() -> Option<TestDatabase> {
    Some(sqlite_location().await?.fresh().await)
}

/// Returns a PostgreSQL database on the server of `SEKISHO_TEST_POSTGRES`, or `None` if that is not set.
pub(crate) async fn postgres() -> Option<TestDatabase> {
    Some(postgres_location().await?.fresh().await)
}

/// Returns the location of a SQLite file that does not exist yet.
pub(crate) async fn sqlite_location() -> Option<DatabaseLocation> {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/sekisho.db", directory.path().display());
    Some(DatabaseLocation { url, _pooler: None, _guard: Some(Guard::Directory(directory)) })
}

/// Reports on standard error that the current test is skipped.
///
/// # Panics
///
/// In CI, where a skipped test would go unnoticed.
pub(crate) fn skip_test(needs: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none(), "{test} needs {needs}");
    // The test harness captures `eprintln!` of tests that pass.
    let _ = writeln!(std::io::stderr(), "skipped: {test} needs {needs}");
}

/// Creates an empty PostgreSQL database. Without a server, reports a skipped test and returns `None`.
///
/// # Panics
///
/// In CI, where a skipped test would go unnoticed.
pub(crate) async fn postgres_location() -> Option<DatabaseLocation> {
    let server = std::env::var("SEKISHO_TEST_POSTGRES").unwrap_or_default();
    if server.is_empty() {
        skip_test("a PostgreSQL server in SEKISHO_TEST_POSTGRES");
        return None;
    }
    static CREATED: AtomicU32 = AtomicU32::new(0);
    let number = CREATED.fetch_add(1, Ordering::Relaxed);
    let name = format!("sekisho_test_{}_{number}", std::process::id());
    run(&server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    run(&server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let options: PgConnectOptions = server.parse().unwrap();
    let url = options.database(&name).to_url_lossy().to_string();
    Some(DatabaseLocation {
        url,
        _pooler: None,
        _guard: Some(Guard::Database(DropDatabase { server, name })),
    })
}

struct DropDatabase {
    server: String,
    name: String,
}

impl Drop for DropDatabase {
    fn drop(&mut self) {
        // A separate thread, because a runtime's own thread cannot block on a future.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
                runtime.block_on(run(&self.server, &sql));
            });
        });
    }
}

/// Runs a statement on the PostgreSQL database at `url`.
pub(crate) async fn run(url: &str, sql: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

/// Runs a statement on the SQLite database at `url`.
pub(crate) async fn run_sqlite(url: &str, sql: &str) {
    let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}
