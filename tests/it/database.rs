//! Opening, migrating and closing databases.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sekisho::backend::db::{self, DatabaseOptions, DbError, PendingMigration};
use sekisho::database_url::DatabaseUrlError;
use sekisho::models::audit::AuditEntry;
use sekisho::models::session::{EndReason, SessionEnd, SessionId};
use sekisho::services::store::{EndedSince, SessionFilter, StoreError, TokenUse};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

use crate::store_contract::races::race;
use crate::store_contract::{
    NOW, any_session, ending, found, known_session, known_user, replays, session, token, user,
};
use crate::support::db::{self as support, DatabaseLocation, TestDatabase};

/// Defines each test for each database.
macro_rules! each_database {
    ($($name:ident;)*) => {
        mod sqlite {
            $(each_database!(@one $name(sqlite_location));)*
        }
        mod postgres {
            $(each_database!(@one $name(postgres_location));)*
        }
    };
    (@one $name:ident($location:ident)) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            if let Some(location) = crate::support::db::$location().await {
                super::$name(location).await;
            }
        }
    };
}

each_database! {
    new_database_is_migrated;
    migrations_are_idempotent;
    concurrent_migrations_succeed;
    newer_schema_is_rejected;
    audit_rows_cannot_be_updated;
    changed_migration_is_rejected;
    data_survives_a_restart;
    corrupt_values_name_their_column;
    closed_database_is_unavailable;
}

async fn new_database_is_migrated(location: DatabaseLocation) {
    let stores = location.open().await;
    assert_eq!(stores.is_embedded(), location.url.starts_with("sqlite"));
    let pending = stores.pending().await.unwrap();
    let words: Vec<String> = pending.iter().map(PendingMigration::to_string).collect();
    assert_eq!(
        words,
        [
            "0001 users",
            "0002 sessions",
            "0003 movies",
            "0004 settings",
            "0005 audit",
            "0006 password origin",
            "0007 end recorded at",
            "0008 subjects and claims"
        ]
    );
    assert_eq!(stores.pending().await.unwrap(), pending, "listing migrations changes nothing");

    assert_eq!(stores.migrate().await.unwrap(), pending);
    assert_eq!(stores.pending().await.unwrap(), []);
    assert!(stores.users.list_users().await.unwrap().is_empty());
}

async fn migrations_are_idempotent(location: DatabaseLocation) {
    let database = location.fresh().await;
    let stored = any_session(&database.stores).await;
    assert_eq!(database.stores.migrate().await.unwrap(), []);
    let database = database.reopen().await;
    assert_eq!(database.stores.migrate().await.unwrap(), []);
    assert_eq!(found(&database.stores, stored.id).await, stored);
}

async fn concurrent_migrations_succeed(location: DatabaseLocation) {
    let processes: Vec<_> = (0..8)
        .map(|_| {
            let url = location.url.clone();
            tokio::spawn(async move {
                let stores = db::open(&url, &DatabaseOptions::default()).await.unwrap();
                stores.migrate().await.unwrap();
                any_session(&stores).await;
                stores.close().await;
            })
        })
        .collect();
    for process in processes {
        process.await.unwrap();
    }
    let stores = location.open().await;
    assert_eq!(stores.pending().await.unwrap(), []);
    assert_eq!(stores.sessions.list_sessions(&SessionFilter::All, None, 100).await.unwrap().len(), 8);
}

async fn audit_rows_cannot_be_updated(location: DatabaseLocation) {
    let database = location.fresh().await;
    let session = any_session(&database.stores).await;
    let error = try_change(&database, "UPDATE audit SET event = 'logged_out'").await.unwrap_err();
    assert!(error.to_string().contains("rows of the audit are never changed"), "{error}");
    let entries = database.stores.sessions.session_audit(session.id, 10).await.unwrap();
    assert_eq!(entries, [AuditEntry::login(&session)]);
}

async fn newer_schema_is_rejected(location: DatabaseLocation) {
    let database = location.fresh().await;
    change(&database, "INSERT INTO _sqlx_migrations VALUES (9999, 'later', '2030-01-01', true, 'x', 0)")
        .await;
    for response in [database.stores.pending().await, database.stores.migrate().await] {
        let error = response.unwrap_err();
        assert!(matches!(error, DbError::Newer { found: 9999, known: 8 }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "the database was migrated by a newer sekisho (migration 9999); this one supports up to 8: upgrade the program"
        );
    }
}

async fn changed_migration_is_rejected(location: DatabaseLocation) {
    let database = location.fresh().await;
    change(&database, "UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 2").await;
    let error = database.stores.migrate().await.unwrap_err();
    assert!(matches!(error, DbError::Changed(2)), "{error:?}");
}

async fn data_survives_a_restart(location: DatabaseLocation) {
    let database = location.fresh().await;
    let owner = known_user(&database.stores, "owner@example.com").await;
    let ended = known_session(&database.stores, session(&owner)).await;
    let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
    assert!(database.stores.sessions.end_session(ended.id, &ending(end)).await.unwrap());
    let live = known_session(&database.stores, session(&owner)).await;
    database.stores.settings.get_or_insert_setting("tokens.issuer", "sekisho").await.unwrap();

    let database = database.reopen().await;
    assert_eq!(database.stores.users.find_user(owner.id).await.unwrap().expect("kept").email, owner.email);
    assert_eq!(found(&database.stores, ended.id).await.end, Some(end));
    assert_eq!(found(&database.stores, live.id).await, live);
    let issuer = database.stores.settings.get_or_insert_setting("tokens.issuer", "other").await.unwrap();
    assert_eq!(issuer, "sekisho");
}

async fn corrupt_values_name_their_column(location: DatabaseLocation) {
    let database = location.fresh().await;
    let owner = known_user(&database.stores, "owner@example.com").await;
    let stored = known_session(&database.stores, session(&owner)).await;
    for (column, value, good) in [
        ("kind", "'teapot'", "'browser'"),
        ("roles", "'a,,b'", "'user'"),
        ("generation", "4294967296", "1"),
        ("generation", "-1", "1"),
        ("key_number", "256", "1"),
        ("rotations", "-1", "0"),
        ("replays", "-1", "0"),
        ("address", "'nowhere'", "NULL"),
        ("user_id", "'two words'", &format!("'{}'", owner.id)),
        ("user_id", "''", &format!("'{}'", owner.id)),
        ("claims", "'[]'", "NULL"),
        ("claims", "'{'", "NULL"),
    ] {
        change(&database, &format!("UPDATE sessions SET {column} = {value}")).await;
        let error = database.stores.sessions.find_session(stored.id).await.unwrap_err();
        let named = matches!(error, StoreError::Corrupt { table: "sessions", column: c } if c == column);
        assert!(named, "{column}: {error:?}");
        change(&database, &format!("UPDATE sessions SET {column} = {good}")).await;
    }
    assert_eq!(found(&database.stores, stored.id).await, stored);

    let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
    database.stores.sessions.end_session(stored.id, &ending(end)).await.unwrap();
    change(&database, "UPDATE sessions SET end_reason = NULL").await;
    let error = database.stores.sessions.find_session(stored.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { column: "end_reason", .. }), "{error:?}");
    change(&database, "UPDATE sessions SET end_reason = 'of_a_newer_program'").await;
    assert_eq!(found(&database.stores, stored.id).await.end, Some(end), "ended in any case");
    let ended_since = EndedSince::time(time::OffsetDateTime::UNIX_EPOCH);
    let ended_since = database.stores.sessions.ended_since(ended_since).await.unwrap();
    assert_eq!(ended_since.sessions, [(stored.id, end)]);
    change(&database, "UPDATE users SET role = 'root'").await;
    let error = database.stores.users.find_user(owner.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { table: "users", column: "role" }), "{error:?}");
}

async fn closed_database_is_unavailable(location: DatabaseLocation) {
    let database = location.fresh().await;
    let stored = any_session(&database.stores).await;
    database.stores.close().await;
    let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
    let read = database.stores.sessions.find_session(stored.id).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    let written = database.stores.sessions.end_session(stored.id, &ending(end)).await;
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
}

#[tokio::test]
async fn unreachable_server_is_named() {
    // A bound port that does not listen.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let url = format!("postgres://someone:hunter2@127.0.0.1:{port}/sekisho");
    let error = db::open(&url, &DatabaseOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}/sekisho")), "{error}");
    assert!(error.contains("refused"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn server_errors_are_reported_with_a_remedy() {
    let Some(location) = support::postgres_location().await else { return };
    let url: PgConnectOptions = location.url.parse().unwrap();
    let url = url.database("no_such_database").to_url_lossy();
    let error = db::open(url.as_str(), &DatabaseOptions::default()).await.unwrap_err().to_string();
    assert!(
        error.contains(r#"/no_such_database: database "no_such_database" does not exist: create it"#),
        "{error}"
    );
}

#[tokio::test]
async fn unsupported_database_url_is_rejected() {
    let open = async |url: &str| db::open(url, &DatabaseOptions::default()).await.unwrap_err();
    for url in ["", "mysql://localhost/x", "data/sekisho.db", "SQLITE"] {
        assert!(matches!(open(url).await, DbError::Url(DatabaseUrlError::Scheme)), "{url}");
    }
    for url in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite://:memory:", "sqlite://x.db?mode=memory"] {
        assert!(matches!(open(url).await, DbError::Url(_)), "{url}");
    }
    let error = open("postgres://someone:hunter2@host:port/x").await;
    assert!(matches!(error, DbError::Url(DatabaseUrlError::Postgres)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn server_role_needs_no_ddl_rights() {
    let Some(database) = support::postgres().await else { return };
    let role = format!("sekisho_server_{}", std::process::id());
    let (owner, url) = (database.url(), url_of(&role, database.url()));
    support::run(owner, &format!("DROP ROLE IF EXISTS {role}")).await;
    support::run(owner, &format!("CREATE ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'")).await;
    let grants = "GRANT USAGE ON SCHEMA myapi TO {role}; \
        GRANT SELECT, INSERT, UPDATE, DELETE ON myapi.users, myapi.sessions, myapi.movies, myapi.settings \
        TO {role}; GRANT SELECT, INSERT ON myapi.audit TO {role}; \
        GRANT SELECT ON myapi._sqlx_migrations TO {role}";
    support::run(owner, &grants.replace("{role}", &role)).await;

    let stores = db::open(&url, &DatabaseOptions::default()).await.unwrap();
    assert_eq!(stores.pending().await.unwrap(), []);
    assert_eq!(stores.migrate().await.unwrap(), [], "no rights needed without pending migrations");
    let owner_row = known_user(&stores, "owner@example.com").await;
    let stored = known_session(&stores, session(&owner_row)).await;
    let end = SessionEnd { at: NOW, reason: EndReason::UserDeleted };
    assert_eq!(stores.users.delete_user(owner_row.id, &ending(end)).await.unwrap(), Some(vec![stored.id]));
    assert_eq!(stores.sessions.session_audit(stored.id, 10).await.unwrap().len(), 2);
    let purged = stores.sessions.purge_audit(NOW, 10).await;
    assert!(purged.is_err(), "audit rows can only be inserted: {purged:?}");
    stores.settings.get_or_insert_setting("tokens.issuer", "sekisho").await.unwrap();
    let details = sekisho::models::movie::MovieDetails {
        title: "x".to_owned(),
        year: 2000,
        director: "y".to_owned(),
        runtime_minutes: None,
        rating: None,
    };
    stores.movies.insert_movies(&[details]).await.unwrap();
    stores.close().await;
    support::run(owner, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Returns the URL of the same database for another role.
fn url_of(role: &str, url: &str) -> String {
    let owner: PgConnectOptions = url.parse().unwrap();
    owner.username(role).password(ROLE_PASSWORD).to_url_lossy().to_string()
}

const ROLE_PASSWORD: &str = "lantern";

#[tokio::test]
async fn existing_schema_is_used() {
    let Some(location) = support::postgres_location().await else { return };
    let role = format!("sekisho_migrator_{}", std::process::id());
    support::run(&location.url, &format!("DROP ROLE IF EXISTS {role}")).await;
    let prepare = format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{ROLE_PASSWORD}'; CREATE SCHEMA myapi AUTHORIZATION {role}"
    );
    support::run(&location.url, &prepare).await;
    let url = url_of(&role, &location.url);
    let stores = db::open(&url, &DatabaseOptions::default()).await.unwrap();
    assert_eq!(stores.migrate().await.unwrap().len(), 8);
    stores.close().await;
    support::run(&location.url, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn row_locks_are_taken_in_a_fixed_order() {
    let Some(database) = support::postgres().await else { return };
    // Enough rows that the query planner would visit a batch in the batch's order.
    let model = any_session(&database.stores).await;
    let copies = "INSERT INTO myapi.sessions SELECT gen_random_uuid(), user_id, kind, email, roles, \
        generation, key_number, created_at, rotated_at, asked_by, asked_by_issued_at, settled_by, \
        rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason, address, \
        user_agent FROM myapi.sessions, generate_series(1, 5000); ANALYZE myapi.sessions";
    support::run(database.url(), copies).await;
    let few = database.stores.sessions.list_sessions(&SessionFilter::All, None, 8).await.unwrap();
    let few: Vec<SessionId> = few.into_iter().map(|session| session.id).collect();
    for round in 0..15 {
        race(10, |nth| {
            let (sessions, mut ids) = (database.stores.sessions.clone(), few.clone());
            let all = SessionFilter::User(model.subject.clone());
            ids.rotate_left(nth % 8);
            if nth % 2 == 0 {
                ids.reverse();
            }
            let used: Vec<TokenUse> =
                ids.iter().map(|id| TokenUse { session: *id, generation: 1, token: token() }).collect();
            async move {
                let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
                match (round % 5, nth) {
                    (4, 0) => drop(sessions.end_sessions(&all, &ending(end)).await.unwrap()),
                    (_, 0..5) => {
                        let uses: Vec<_> = ids.iter().map(|id| replays(*id, 1)).collect();
                        sessions.record_uses(&uses, NOW).await.unwrap();
                    }
                    _ => drop(sessions.confirm_generation(&used).await.unwrap()),
                }
            }
        })
        .await;
        let again = "UPDATE myapi.sessions SET settled_by = NULL, ended_at = NULL, end_reason = NULL \
            WHERE settled_by IS NOT NULL OR ended_at IS NOT NULL";
        support::run(database.url(), again).await;
    }
}

#[tokio::test]
async fn all_tables_are_in_the_schema() {
    let Some(database) = support::postgres().await else { return };
    let mut connection = sqlx::PgConnection::connect(database.url()).await.unwrap();
    let elsewhere: Vec<String> = sqlx::query_scalar(
        "SELECT schemaname || '.' || tablename FROM pg_tables \
         WHERE schemaname NOT IN ('myapi', 'pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[tokio::test]
async fn database_file_is_private_to_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/sekisho.db");
    let url = format!("sqlite://{}", path.display());
    let stores = db::open(&url, &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    any_session(&stores).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("not")), 0o700);
    assert_eq!(mode(&directory.path().join("not/there")), 0o700);
    for file in ["sekisho.db", "sekisho.db-wal", "sekisho.db-shm"] {
        assert_eq!(mode(&path.with_file_name(file)), 0o600, "{file}");
    }
    // A graceful close leaves a single file without a write-ahead log.
    stores.close().await;
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(db::sqlite_path(&url), Some(path));
}

#[tokio::test]
async fn non_database_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "not a database, but long enough to be looked at as one. ".repeat(100)).unwrap();
    for (path, cause) in
        [(path.clone(), "not a database"), (path.join("sekisho.db"), "cannot create the directory")]
    {
        let url = format!("sqlite://{}", path.display());
        let error = db::open(&url, &DatabaseOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains(cause), "{error}");
    }
}

#[test]
fn only_the_file_owner_may_open_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sekisho.db");
    db::check_owner(&path).expect("no file yet");
    std::fs::write(&path, "").unwrap();
    db::check_owner(&path).expect("own file");

    let us = std::fs::metadata(&path).unwrap().uid();
    if us != 0 {
        // A directory of root.
        let error = db::check_owner(Path::new("/etc/passwd")).unwrap_err().to_string();
        assert!(error.contains("belongs to root") && error.contains("sudo -u root"), "{error}");
        return;
    }
    std::os::unix::fs::chown(&path, Some(54_321), None).unwrap();
    let error = db::check_owner(&path).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains("sudo -u '#54321'") && error.contains("--user 54321"), "{error}");
}

#[tokio::test]
async fn second_process_can_write() {
    let Some(database) = support::sqlite().await else { return };
    let other = db::open(database.url(), &DatabaseOptions::default()).await.unwrap();
    for nth in 0..10 {
        let owner = known_user(&database.stores, &format!("{nth}@example.com")).await;
        assert!(other.users.find_user(owner.id).await.unwrap().is_some(), "reads see the last write");
        let other_owner = user(&format!("other-{nth}@example.com"));
        let (ours, theirs) = tokio::join!(
            database.stores.users.enable_user(owner.id),
            other.users.insert_users(std::slice::from_ref(&other_owner)),
        );
        assert!(ours.unwrap());
        theirs.unwrap();
    }
    other.close().await;
}

#[test]
fn migrations_exist_for_both_databases() {
    let names = |folder: &str| -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names("sqlite"), names("postgres"));
}

/// Runs a statement with SQLite's table names on either database.
async fn change(database: &TestDatabase, sql: &str) {
    try_change(database, sql).await.unwrap();
}

/// Runs a statement on the database as its owner.
pub(crate) async fn try_change(database: &TestDatabase, sql: &str) -> Result<(), sqlx::Error> {
    if let Some(path) = db::sqlite_path(database.url()) {
        let url = format!("sqlite://{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await?;
        connection.execute(AssertSqlSafe(sql.replace("'x'", "x'00'"))).await?;
        return connection.close().await;
    }
    let mut connection = sqlx::PgConnection::connect(database.url()).await?;
    connection.execute(AssertSqlSafe(format!("SET search_path = myapi; {sql}"))).await?;
    connection.close().await
}

/// B5: a position of a state of the database that a restored backup does not have.
#[tokio::test]
async fn lost_position_is_replaced_by_that_of_earlier_terminations() {
    let Some(database) = support::sqlite().await else { return };
    let sessions = &database.stores.sessions;
    let first = any_session(&database.stores).await;
    let long_ago = SessionEnd { at: NOW - Duration::from_secs(86_400), reason: EndReason::Revoked };
    assert!(sessions.end_session(first.id, &ending(long_ago)).await.unwrap());
    let position = sessions.ended_since(EndedSince::time(NOW)).await.unwrap().position;
    let ended_after = async |position| {
        sessions.ended_since(EndedSince { position, ..EndedSince::time(NOW) }).await.unwrap().sessions.len()
    };
    assert_eq!(ended_after(position).await, 0);
    assert_eq!(ended_after(position.map(|position| position + 1)).await, 1);
    assert_eq!(ended_after(None).await, 1);
}

/// B5: sessions ended while the server's clock was set back, and a replica starts after its correction.
#[tokio::test]
async fn terminations_that_were_recorded_at_a_wrong_time_are_listed() {
    let Some(database) = support::postgres().await else { return };
    let sessions = &database.stores.sessions;
    let ended = any_session(&database.stores).await;
    let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
    assert!(sessions.end_session(ended.id, &ending(end)).await.unwrap());
    let set_back = "UPDATE myapi.sessions SET end_recorded_at = ended_at - interval '1 day'";
    support::run(database.url(), set_back).await;
    let listed = async |time| {
        let since = EndedSince { session_time: Some(time), ..EndedSince::time(time) };
        sessions.ended_since(since).await.unwrap().sessions
    };
    assert_eq!(listed(NOW).await, [(ended.id, end)]);
    assert_eq!(listed(NOW + Duration::from_secs(1)).await, []);
    let expired = "UPDATE myapi.sessions SET end_recorded_at = NULL, end_reason = 'idle_expired'";
    support::run(database.url(), expired).await;
    assert_eq!(listed(NOW).await, []);
}
