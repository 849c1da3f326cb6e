//! Stores that applications open for themselves: their options, their migrations, and the tokens over them.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sekisho::backend::postgres::{CredentialSource, Credentials, PostgresOptions, PostgresStore};
use sekisho::backend::sqlite::{SqliteOptions, SqliteStore};
use sekisho::backend::{MigrationError, Namespace, OpenError};
use sekisho::client_info::ClientInfo;
use sekisho::layer::{TokenService, VerifyError};
use sekisho::models::session::EndReason;
use sekisho::services::store::PersistentStore;
use sekisho::services::token::{OpenTokensError, SessionRequest, Tokens};
use sekisho::session_event::SessionEvent;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use crate::store_contract::races::race;
use crate::store_contract::{any_session, found};
use crate::support::db::run;
use crate::support::library::{application_migrator, auth, postgres_pool, sqlite_pool, stores};

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

#[tokio::test]
async fn sqlite_migrations_of_the_application_are_independent() {
    let Some((pool, _location)) = sqlite_pool().await else { return };
    let store = SqliteStore::open(SqliteOptions::from(&pool).with_namespace(auth())).await.unwrap();
    let pending: Vec<_> = store.pending().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(pending, ["0001 sessions"]);
    store.migrate().await.unwrap();
    application_migrator().run(&pool).await.unwrap();
    let count = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        let pool = pool.clone();
        async move { sqlx::query(AssertSqlSafe(sql)).fetch_one(&pool).await.unwrap().get::<i64, _>(0) }
    };
    assert_eq!(count("_sqlx_migrations").await, 1);
    assert_eq!(count("auth_migrations").await, 1);
    any_session(&stores(store.clone())).await;
    assert_eq!(count("auth_sessions").await, 1);
    assert_eq!(count("sessions").await, 1, "the row of the application");
    let tables =
        "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'auth\\_%' ESCAPE '\\'";
    let others: Vec<String> = sqlx::query_scalar(tables).fetch_all(&pool).await.unwrap();
    assert_eq!(others, ["_sqlx_migrations", "users", "sessions"]);
    store.close().await;
}

#[tokio::test]
async fn postgres_migrations_of_the_application_are_independent() {
    let Some((pool, _location)) = postgres_pool().await else { return };
    let store = PostgresStore::open(PostgresOptions::from(&pool).with_namespace(auth())).await.unwrap();
    assert_eq!(store.pending().await.unwrap().len(), 1);
    store.migrate().await.unwrap();
    application_migrator().run(&pool).await.unwrap();
    any_session(&stores(store.clone())).await;
    let counts = "SELECT (SELECT count(*) FROM _sqlx_migrations), (SELECT count(*) FROM auth.sekisho_migrations), \
                  (SELECT count(*) FROM auth.sessions), (SELECT count(*) FROM public.sessions)";
    let counts: (i64, i64, i64, i64) = sqlx::query_as(counts).fetch_one(&pool).await.unwrap();
    assert_eq!(counts, (1, 1, 1, 1));
    store.close().await;
}

/// A keyword as the schema.
#[tokio::test]
async fn namespaces_share_nothing() {
    if let Some((pool, _location)) = postgres_pool().await {
        let open = |name| PostgresStore::open(PostgresOptions::from(&pool).with_namespace(namespace(name)));
        let [one, other] = [open("user").await.unwrap(), open("auth_2").await.unwrap()];
        one.migrate().await.unwrap();
        other.migrate().await.unwrap();
        check_apart(one, other).await;
    }
    let Some((pool, _location)) = sqlite_pool().await else { return };
    let open = |name| SqliteStore::open(SqliteOptions::from(&pool).with_namespace(namespace(name)));
    let [one, other] = [open("user").await.unwrap(), open("auth_2").await.unwrap()];
    one.migrate().await.unwrap();
    other.migrate().await.unwrap();
    check_apart(one, other).await;
}

async fn check_apart(one: impl PersistentStore, other: impl PersistentStore) {
    let [one, other] = [stores(one), stores(other)];
    let session = any_session(&one).await;
    one.settings.set_setting("tokens.issuer", "one").await.unwrap();
    assert_eq!(found(&one, session.id).await, session);
    assert_eq!(other.sessions.find_session(session.id).await.unwrap(), None);
    assert_eq!(other.sessions.session_audit(session.id, 10).await.unwrap(), []);
    assert_eq!(other.settings.list_settings("").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_migrations_are_applied_once() {
    let Some((pool, _location)) = sqlite_pool().await else { return };
    race(6, |_| {
        let options = SqliteOptions::from(&pool);
        async move {
            let store = SqliteStore::open(options).await.unwrap();
            store.migrate().await.unwrap();
            assert_eq!(store.pending().await.unwrap(), []);
        }
    })
    .await;
    let Some((pool, _location)) = postgres_pool().await else { return };
    race(6, |_| {
        let options = PostgresOptions::from(&pool);
        async move {
            let store = PostgresStore::open(options).await.unwrap();
            store.migrate().await.unwrap();
            assert_eq!(store.pending().await.unwrap(), []);
        }
    })
    .await;
}

#[tokio::test]
async fn migrations_of_another_version_are_refused() {
    let Some((pool, _location)) = sqlite_pool().await else { return };
    let store = SqliteStore::open(SqliteOptions::from(&pool)).await.unwrap();
    store.migrate().await.unwrap();
    sqlx::query("UPDATE sekisho_migrations SET checksum = x'00'").execute(&pool).await.unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, MigrationError::Changed(1)), "{error}");
    sqlx::query("UPDATE sekisho_migrations SET version = 7").execute(&pool).await.unwrap();
    let error = store.pending().await.unwrap_err();
    assert!(matches!(error, MigrationError::Newer { found: 7, known: 1 }), "{error}");
    assert!(error.to_string().ends_with("upgrade the crate"), "{error}");
}

#[tokio::test]
async fn schema_of_another_application_is_named() {
    let Some((pool, _location)) = postgres_pool().await else { return };
    let options = PostgresOptions::from(&pool).with_namespace(namespace("public"));
    let store = PostgresStore::open(options).await.unwrap();
    let error = store.migrate().await.unwrap_err().to_string();
    assert!(error.contains("the schema public belongs to another application"), "{error}");
    assert!(error.ends_with("choose another namespace"), "{error}");
}

#[tokio::test]
async fn databases_that_cannot_be_opened_have_a_remedy() {
    let memory = SqlitePool::connect("sqlite::memory:").await.unwrap();
    for options in [SqliteOptions::from(&memory), SqliteOptions::from(SqliteConnectOptions::new())] {
        let error = SqliteStore::open(options).await.unwrap_err();
        assert!(matches!(error, OpenError::InMemory), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let error = SqliteStore::open(SqliteOptions::new(directory.path())).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot open the database {}", directory.path().display())),
        "{error}"
    );

    for url in ["sqlite://app.db", "postgres://ann:p#ss@db/app", "db/app"] {
        let error = PostgresOptions::from_url(url).unwrap_err();
        assert!(matches!(error, OpenError::Url), "{url}: {error}");
    }
    let options = PostgresOptions::from_url("postgres://ann:secret@127.0.0.1:1/app").unwrap();
    let error = PostgresStore::open(options.clone()).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert!(error.to_string().contains("start PostgreSQL"), "{error}");
    assert!(!error.to_string().contains("database."), "{error}");
    assert!(!format!("{options:?}{error:?}").contains("secret"));
}

/// A directory named `sqlite:` was created in the working directory.
#[tokio::test]
async fn sqlite_url_in_place_of_a_path_creates_nothing() {
    for url in ["sqlite://sqlite_url_in_place/app.db?key=hush", "sqlite:sqlite_url_in_place.db"] {
        let error = SqliteStore::open(SqliteOptions::new(url)).await.unwrap_err();
        assert!(matches!(error, OpenError::SqliteUrl), "{error}");
        assert!(error.to_string().contains("pass the path alone"), "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(!Path::new(url).exists() && !Path::new("sqlite:").exists(), "{url}");
    }
}

/// SQLCipher takes the key of a file from a pragma, which SQLite without it ignores.
#[tokio::test]
async fn debug_of_sqlite_shows_no_pragma() {
    let directory = tempfile::tempdir().unwrap();
    let connect = SqliteConnectOptions::new().filename(directory.path().join("app.db"));
    let options = SqliteOptions::from(connect.pragma("key", "hush")).with_namespace(auth());
    let store = SqliteStore::open(options.clone()).await.unwrap();
    for debug in [format!("{options:?}"), format!("{store:?}")] {
        assert!(debug.contains("app.db") && debug.contains("auth"), "{debug}");
        assert!(!debug.contains("hush"), "{debug}");
    }
    store.close().await;
}

/// The pool of the application is unaffected.
#[tokio::test]
async fn database_is_created_for_a_path_and_switched_to_write_ahead_logging() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/app.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    store.migrate().await.unwrap();
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
    assert_eq!(mode, "wal");
    sqlx::query("CREATE TABLE notes (id INTEGER PRIMARY KEY)").execute(&pool).await.unwrap();
    let session = any_session(&stores(store.clone())).await;
    store.close().await;
    let store = SqliteStore::open(SqliteOptions::from(&pool)).await.unwrap();
    assert_eq!(store.pending().await.unwrap(), []);
    assert_eq!(found(&stores(store), session.id).await, session);
}

/// A source of credentials that changes.
struct NewPassword;

#[async_trait]
impl CredentialSource for NewPassword {
    async fn read(&self) -> Option<Credentials> {
        Some(Credentials::new("sekisho_renewed", Some("second".to_owned().into())))
    }
}

#[tokio::test]
async fn refused_password_is_read_anew() {
    let Some((pool, location)) = postgres_pool().await else { return };
    let role =
        "DROP ROLE IF EXISTS sekisho_renewed; CREATE ROLE sekisho_renewed SUPERUSER LOGIN PASSWORD 'second'";
    run(&location.url, role).await;
    let refused = pool.connect_options().as_ref().clone().username("sekisho_renewed").password("first");
    let options = PostgresOptions::from(refused);
    if PostgresStore::open(options.clone()).await.is_ok() {
        crate::support::db::skip_test("a PostgreSQL server that checks passwords");
        return;
    }
    let store = PostgresStore::open(options.with_credentials(Arc::new(NewPassword))).await.unwrap();
    assert_eq!(store.pending().await.unwrap().len(), 1);
    store.close().await;
    run(&location.url, "DROP ROLE sekisho_renewed").await;
}

const SECRET: &str = "PF3V1b1zYcXcJ8mS0dWqkN6tRhLxGuEa4o7yKZ2QwTs";

/// Starts a process of the application.
async fn start(store: Arc<dyn PersistentStore>) -> Tokens {
    Tokens::builder().secret(SECRET).open(store).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_ended_by_one_process_is_ended_at_the_other() {
    if let Some((pool, _location)) = postgres_pool().await {
        let open = || PostgresStore::open(PostgresOptions::from(&pool).with_namespace(auth()));
        let [one, other] = [open().await.unwrap(), open().await.unwrap()];
        one.migrate().await.unwrap();
        check_end(Arc::new(one), Arc::new(other)).await;
    }
    let Some((pool, _location)) = sqlite_pool().await else { return };
    let open = || SqliteStore::open(SqliteOptions::from(&pool).with_namespace(auth()));
    let [one, other] = [open().await.unwrap(), open().await.unwrap()];
    one.migrate().await.unwrap();
    check_end(Arc::new(one), Arc::new(other)).await;
}

async fn check_end(one: Arc<dyn PersistentStore>, other: Arc<dyn PersistentStore>) {
    let [one, other] = [start(one).await, start(other).await];
    let request = SessionRequest::new(42_i64, "ann@example.com");
    let issued = one.sign_in(request).await.unwrap();
    let token = &issued.tokens.access_token;
    assert_eq!(other.verify(token).unwrap().identity.session, issued.session.id);
    assert!(one.end(issued.session.id, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap());
    assert!(!other.is_session_active(issued.session.id).await, "after the next poll");
    assert_eq!(other.verify(token).map(drop), Err(VerifyError::Ended(SessionEvent::LoggedOut)));
    one.stop().await.unwrap();
    other.stop().await.unwrap();
}

#[tokio::test]
async fn store_without_tables_names_the_migrations() {
    let Some((pool, _location)) = sqlite_pool().await else { return };
    let store = Arc::new(SqliteStore::open(SqliteOptions::from(&pool)).await.unwrap());
    let error = Tokens::builder().secret(SECRET).open(store).await.unwrap_err();
    assert!(matches!(error, OpenTokensError::Store { .. }), "{error}");
    assert!(error.to_string().ends_with("have its migrations been applied?"), "{error}");
}
