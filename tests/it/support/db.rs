//! A fresh database for every test, gone when the test is over.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;

/// A fresh database, its tables made. It is dropped with this.
pub(crate) struct TestDatabase {
    pub(crate) stores: Stores,
    place: DatabaseLocation,
}

impl TestDatabase {
    /// What `database.url` would say; none for the store in memory.
    pub(crate) fn url(&self) -> &str {
        &self.place.url
    }

    /// The same database, with connections of its own, as another process has it.
    pub(crate) async fn open_again(&self) -> Stores {
        self.place.open().await
    }

    /// Closes the database and opens it again, as a restart would.
    pub(crate) async fn reopen(mut self) -> Self {
        self.stores.close().await;
        self.stores = self.place.open().await;
        self
    }
}

/// Where a database is, or will be. It is dropped with this.
pub(crate) struct DatabaseLocation {
    pub(crate) url: String,
    _guard: Option<Guard>,
}

impl DatabaseLocation {
    /// A database that somebody else takes care of.
    pub(crate) fn at(url: &str) -> Self {
        Self { url: url.to_owned(), _guard: None }
    }

    /// Opens the database as it is, without making its tables.
    pub(crate) async fn open(&self) -> Stores {
        db::open(&self.url, &DatabaseOptions::default()).await.unwrap()
    }

    /// Opens the database and makes its tables.
    pub(crate) async fn fresh(self) -> TestDatabase {
        let stores = self.open().await;
        stores.migrate().await.unwrap();
        TestDatabase { stores, place: self }
    }
}

#[expect(dead_code, reason = "held until they are dropped")]
enum Guard {
    Directory(TempDir),
    Database(DropDatabase),
}

/// Stores in memory.
pub(crate) async fn memory() -> Option<TestDatabase> {
    let place = DatabaseLocation { url: String::new(), _guard: None };
    Some(TestDatabase { stores: Stores::in_memory(), place })
}

/// A SQLite file in a directory of its own.
pub(crate) async fn sqlite() -> Option<TestDatabase> {
    Some(sqlite_place().await?.fresh().await)
}

/// A PostgreSQL database on the server that `SEKISHO_TEST_POSTGRES` names; `None` if it names none.
pub(crate) async fn postgres() -> Option<TestDatabase> {
    Some(postgres_place().await?.fresh().await)
}

/// Where a SQLite file may be made.
pub(crate) async fn sqlite_place() -> Option<DatabaseLocation> {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/sekisho.db", directory.path().display());
    Some(DatabaseLocation { url, _guard: Some(Guard::Directory(directory)) })
}

/// Says that this test is left out for want of something.
///
/// # Panics
///
/// In CI, where leaving it out would go unnoticed.
pub(crate) fn skip_test(needs: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none(), "{test} needs {needs}");
    // Not by `eprintln!`, which is shown for failing tests alone.
    let _ = writeln!(std::io::stderr(), "left out: {test} needs {needs}");
}

/// An empty PostgreSQL database; `None`, with a word on standard error, if the environment names no
/// server to make it on.
///
/// # Panics
///
/// In CI, where leaving these tests out would go unnoticed.
pub(crate) async fn postgres_place() -> Option<DatabaseLocation> {
    let server = std::env::var("SEKISHO_TEST_POSTGRES").unwrap_or_default();
    if server.is_empty() {
        skip_test("a server that SEKISHO_TEST_POSTGRES names");
        return None;
    }
    static MADE: AtomicU32 = AtomicU32::new(0);
    let nth = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("sekisho_test_{}_{nth}", std::process::id());
    run(&server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
    run(&server, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
    let options: PgConnectOptions = server.parse().unwrap();
    let url = options.database(&name).to_url_lossy().to_string();
    Some(DatabaseLocation { url, _guard: Some(Guard::Database(DropDatabase { server, name })) })
}

struct DropDatabase {
    server: String,
    name: String,
}

impl Drop for DropDatabase {
    fn drop(&mut self) {
        // On a thread of its own: a test's runtime can't be waited for from within.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
                runtime.block_on(run(&self.server, &sql));
            });
        });
    }
}

/// Runs a statement of the tests' own making on the PostgreSQL database at `url`.
pub(crate) async fn run(url: &str, sql: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

/// Runs a statement of the tests' own making on the SQLite database at `url`.
pub(crate) async fn run_sqlite(url: &str, sql: &str) {
    let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}
