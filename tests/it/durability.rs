//! Flushing of writes to disk, and recovery of sessions after the loss of the last writes.

use std::sync::Arc;
use std::time::Duration;

use sekisho::backend::db::{self, DatabaseOptions, Stores, sqlite_path};
use sekisho::client_info::ClientInfo;
use sekisho::clock::{Clock, ManualClock};
use sekisho::layer::{RefreshError, RefreshRequest};
use sekisho::models::movie::{Movie, MovieDetails};
use sekisho::models::session::{EndReason, SessionEnd, SessionKind};
use sekisho::models::user::Role;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::store::{PasswordChange, Rotation, SessionFilter, StoreError, TokenUse};
use sekisho::services::token::{IssuedSession, SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::store_contract::races::race;
use crate::store_contract::{
    NOW, any_session, ending, found, known_session, known_user, replays, session, token, user,
};
use crate::support::db::{self as support, TestDatabase};
use crate::support::log::Log;

#[tokio::test]
async fn only_self_healing_writes_are_unflushed_on_sqlite() {
    check_unflushed_writes(&support::sqlite().await.unwrap()).await;
}

#[tokio::test]
async fn only_self_healing_writes_are_unflushed_on_postgres() {
    let Some(database) = support::postgres().await else { return };
    check_unflushed_writes(&database).await;
}

#[tokio::test]
async fn synchronous_commit_is_forced_where_it_matters() {
    let Some(mut database) = support::postgres().await else { return };
    database.stores.close().await;
    let (_, name) = server_and_name(&database);
    support::run(database.url(), &format!("ALTER DATABASE {name} SET synchronous_commit = off")).await;
    database.stores = db::open(database.url(), &DatabaseOptions::default()).await.unwrap();
    check_unflushed_writes(&database).await;
}

pub(crate) async fn check_unflushed_writes(database: &TestDatabase) {
    check_session_writes(database).await;
    check_user_writes(database).await;
    check_movie_and_setting_writes(database).await;
}

async fn check_session_writes(database: &TestDatabase) {
    let sessions = &database.stores.sessions;
    let log = CommitLog::start(database).await;
    let row = any_session(&database.stores).await;
    log.expect("insert_session", FLUSHED).await;

    let client = ClientInfo::default();
    let step = Rotation {
        id: row.id,
        kind: row.kind,
        from_generation: 1,
        now: NOW,
        max_rotated_at: NOW,
        asked_by: None,
        key_number: 1,
        idle_expires_at: row.idle_expires_at,
        client: &client,
    };
    sessions.rotate(&step).await.unwrap().unwrap();
    log.expect("rotate", RELAXED).await;
    sessions.catch_up(&Rotation { from_generation: 5, ..step }).await.unwrap().unwrap();
    log.expect("catch_up", RELAXED).await;
    sessions
        .confirm_generation(&[TokenUse { session: row.id, generation: 6, token: token() }])
        .await
        .unwrap();
    log.expect("settle", RELAXED).await;
    sessions.record_uses(&[replays(row.id, 1)], NOW).await.unwrap();
    log.expect("record_uses", RELAXED).await;

    assert!(sessions.end_session(row.id, &ending(end())).await.unwrap());
    log.expect("end_session", FLUSHED).await;
    any_session(&database.stores).await;
    log.clear().await;
    assert_eq!(sessions.end_sessions(&SessionFilter::All, &ending(end())).await.unwrap().len(), 1);
    log.expect("end_sessions", FLUSHED).await;
    let row = any_session(&database.stores).await;
    log.clear().await;
    assert_eq!(sessions.end_session_list(&[row.id], &ending(end())).await.unwrap(), [row.id]);
    log.expect("end_session_list", FLUSHED).await;
}

async fn check_user_writes(database: &TestDatabase) {
    let users = &database.stores.users;
    let log = CommitLog::start(database).await;
    let owner = known_user(&database.stores, "owner@example.com").await;
    log.expect("insert_users", FLUSHED).await;
    known_session(&database.stores, session(&owner)).await;
    log.clear().await;
    let change = PasswordChange {
        user: owner.id,
        old: None,
        new: &"$2b$12$new".into(),
        keep: None,
        termination: &ending(end()),
    };
    assert_eq!(users.change_password(&change).await.unwrap().unwrap().len(), 1);
    log.expect("change_password", FLUSHED).await;
    assert!(users.rehash(owner.id, change.new, &"$2b$13$new".into()).await.unwrap());
    log.expect("rehash", FLUSHED).await;
    users.set_role(owner.id, Role::Admin, &ending(end())).await.unwrap().unwrap();
    log.expect("set_role", FLUSHED).await;
    users.disable_user(owner.id, &ending(end())).await.unwrap().unwrap();
    log.expect("disable_user", FLUSHED).await;
    assert!(users.enable_user(owner.id).await.unwrap());
    log.expect("enable_user", FLUSHED).await;
    users.delete_user(owner.id, &ending(end())).await.unwrap().unwrap();
    log.expect("delete_user", FLUSHED).await;
}

async fn check_movie_and_setting_writes(database: &TestDatabase) {
    let movies = &database.stores.movies;
    let log = CommitLog::start(database).await;
    let details = MovieDetails {
        title: "x".to_owned(),
        year: 2000,
        director: "y".to_owned(),
        runtime_minutes: None,
        rating: None,
    };
    let id = movies.insert_movies(std::slice::from_ref(&details)).await.unwrap()[0].id;
    log.expect("insert_movies", FLUSHED).await;
    assert!(movies.update_movie(&Movie { id, details }).await.unwrap());
    log.expect("update_movie", FLUSHED).await;
    assert!(movies.delete_movie(id).await.unwrap());
    log.expect("delete_movie", FLUSHED).await;
    database.stores.settings.get_or_insert_setting("tokens.issuer", "sekisho").await.unwrap();
    log.expect("settle_setting", FLUSHED).await;
    assert!(database.stores.settings.replace_setting("tokens.issuer", "sekisho", "other").await.unwrap());
    log.expect("replace_setting", RELAXED).await;
}

#[tokio::test]
async fn restored_backup_causes_no_sign_out_on_sqlite() {
    check_restored_backup(support::sqlite().await.unwrap()).await;
}

#[tokio::test]
async fn restored_backup_causes_no_sign_out_on_postgres() {
    let Some(database) = support::postgres().await else { return };
    check_restored_backup(database).await;
}

async fn check_restored_backup(mut database: TestDatabase) {
    let keys = generate_keys();
    let clock = Arc::new(ManualClock::new(NOW));
    let tokens = tokens_on(&database.stores, &keys, &clock);
    let mut browsers = Vec::new();
    for _ in 0..3 {
        browsers.push(Browser::sign_in(&tokens, &clock).await);
    }
    let [far_behind, one_behind, left] = &mut browsers[..] else { unreachable!() };
    for browser in [&mut *far_behind, &mut *one_behind, &mut *left] {
        browser.expect(&tokens, SessionEvent::Rotated).await;
    }
    assert!(tokens.end(left.session(), EndReason::LoggedOut, &ClientInfo::default()).await.unwrap());

    back_up(&mut database).await;
    let tokens = tokens_on(&database.stores, &keys, &clock);
    for _ in 0..3 {
        far_behind.expect(&tokens, SessionEvent::Rotated).await;
    }
    one_behind.expect(&tokens, SessionEvent::Rotated).await;
    restore(&mut database).await;

    let tokens = tokens_on(&database.stores, &keys, &clock);
    assert_eq!(found(&database.stores, far_behind.session()).await.generation, 2, "three rotations are lost");
    let log = Log::default();
    let capturing = log.capture();
    far_behind.expect(&tokens, SessionEvent::CaughtUp).await;
    one_behind.expect(&tokens, SessionEvent::CaughtUp).await;
    drop(capturing);
    assert_eq!(found(&database.stores, far_behind.session()).await.generation, 6);
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "only gaps of more than one are logged: {lines:?}");
    let session = format!("session={}", far_behind.session());
    assert!(lines[0].contains("WARN") && lines[0].contains("lost=3"), "{lines:?}");
    assert!(lines[0].contains(&session), "{lines:?}");

    for browser in [far_behind, one_behind] {
        browser.expect(&tokens, SessionEvent::Rotated).await;
    }
    let error = left.refresh(&tokens).await.unwrap_err();
    assert!(matches!(error, RefreshError::SessionEnded { event: SessionEvent::LoggedOut, .. }), "{error:?}");
}

#[tokio::test]
async fn lost_connection_fails_at_most_one_request() {
    let Some(database) = support::postgres().await else { return };
    let row = any_session(&database.stores).await;
    for round in 1..=3 {
        use_all_connections(&database).await;
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        support::run(database.url(), others).await;
        if let Err(error) = database.stores.sessions.record_uses(&[replays(row.id, 1)], NOW).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            database.stores.sessions.record_uses(&[replays(row.id, 1)], NOW).await.unwrap();
        }
        assert_eq!(found(&database.stores, row.id).await.replays, round);
    }
}

async fn use_all_connections(database: &TestDatabase) {
    race(20, |_| {
        let sessions = database.stores.sessions.clone();
        async move { sessions.record_uses(&[], NOW).await.unwrap() }
    })
    .await;
}

#[tokio::test]
async fn failed_statement_is_unavailable_and_the_next_succeeds() {
    let Some(database) = support::postgres().await else { return };
    let row = any_session(&database.stores).await;
    support::run(database.url(), "ALTER TABLE myapi.sessions RENAME TO hidden").await;
    let response = database.stores.sessions.record_uses(&[replays(row.id, 1)], NOW).await;
    assert!(matches!(response, Err(StoreError::Unavailable(_))), "{response:?}");
    support::run(database.url(), "ALTER TABLE myapi.hidden RENAME TO sessions").await;
    database.stores.sessions.record_uses(&[replays(row.id, 1)], NOW).await.unwrap();
    assert_eq!(found(&database.stores, row.id).await.replays, 1);
}

/// A table in which triggers record the commit mode of each write.
struct CommitLog<'a> {
    database: &'a TestDatabase,
}

const FLUSHED: &str = "flushed";
const RELAXED: &str = "relaxed";

impl<'a> CommitLog<'a> {
    async fn start(database: &'a TestDatabase) -> Self {
        let log = Self { database };
        if sqlite_path(database.url()).is_some() {
            log.run("CREATE TABLE IF NOT EXISTS commits (how TEXT)").await;
        } else {
            log.run(NOTE_ON_POSTGRES).await;
        }
        for table in ["sessions", "users", "movies", "settings"] {
            for event in ["INSERT", "UPDATE", "DELETE"] {
                log.run(&log.trigger(table, event)).await;
            }
        }
        log
    }

    fn trigger(&self, table: &str, event: &str) -> String {
        if sqlite_path(self.database.url()).is_some() {
            return format!(
                "CREATE TRIGGER IF NOT EXISTS note_{table}_{event} AFTER {event} ON {table} BEGIN \
                 INSERT INTO commits SELECT CASE synchronous WHEN 1 THEN 'relaxed' WHEN 2 THEN 'flushed' END \
                 FROM pragma_synchronous; END"
            );
        }
        format!(
            "CREATE OR REPLACE TRIGGER note_{event} AFTER {event} ON myapi.{table} \
             FOR EACH ROW EXECUTE FUNCTION note_commit()"
        )
    }

    /// Checks that writes happened since the last call, and that all used this commit mode.
    async fn expect(&self, what: &str, how: &str) {
        assert_eq!(self.read().await, [how], "{what}");
        self.clear().await;
    }

    async fn read(&self) -> Vec<String> {
        let sql = "SELECT DISTINCT how FROM commits";
        if let Some(path) = sqlite_path(self.database.url()) {
            let url = format!("sqlite://{}", path.display());
            let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
            return sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        }
        let mut connection = sqlx::PgConnection::connect(self.database.url()).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    }

    async fn clear(&self) {
        self.run("DELETE FROM commits").await;
    }

    async fn run(&self, sql: &str) {
        run(self.database, sql).await;
    }
}

const NOTE_ON_POSTGRES: &str = "CREATE TABLE IF NOT EXISTS commits (how TEXT); \
    CREATE OR REPLACE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
    INSERT INTO commits VALUES \
    (CASE current_setting('synchronous_commit') WHEN 'off' THEN 'relaxed' WHEN 'on' THEN 'flushed' END); \
    RETURN NULL; END $$";

async fn run(database: &TestDatabase, sql: &str) {
    if let Some(path) = sqlite_path(database.url()) {
        let url = format!("sqlite://{}", path.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection.close().await.unwrap();
        return;
    }
    support::run(database.url(), sql).await;
}

/// Copies the database, for SQLite while it is open, as a backup does.
async fn back_up(database: &mut TestDatabase) {
    if let Some(path) = sqlite_path(database.url()) {
        let copy = path.with_extension("copy");
        run(database, &format!("VACUUM INTO '{}'", copy.display())).await;
        return;
    }
    // PostgreSQL copies a database only without open connections.
    database.stores.close().await;
    let (server, name) = server_and_name(database);
    support::run(&server, &format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).await;
    database.stores = db::open(database.url(), &DatabaseOptions::default()).await.unwrap();
}

/// Replaces the database with the copy.
async fn restore(database: &mut TestDatabase) {
    database.stores.close().await;
    if let Some(path) = sqlite_path(database.url()) {
        std::fs::rename(path.with_extension("copy"), path).unwrap();
    } else {
        let (server, name) = server_and_name(database);
        support::run(&server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        support::run(&server, &format!("ALTER DATABASE {name}_copy RENAME TO {name}")).await;
    }
    database.stores = db::open(database.url(), &DatabaseOptions::default()).await.unwrap();
}

fn server_and_name(database: &TestDatabase) -> (String, String) {
    let options: PgConnectOptions = database.url().parse().unwrap();
    (std::env::var("SEKISHO_TEST_POSTGRES").unwrap(), options.get_database().unwrap().to_owned())
}

/// A browser with one session that refreshes on expiry.
struct Browser {
    issued: IssuedSession,
    clock: Arc<ManualClock>,
}

impl Browser {
    async fn sign_in(tokens: &Tokens, clock: &Arc<ManualClock>) -> Self {
        let owner = user("owner@example.com");
        let sign_in =
            SessionRequest { roles: owner.role.roles(), ..SessionRequest::new(owner.id, &owner.email) };
        Self { issued: tokens.sign_in(sign_in).await.unwrap(), clock: clock.clone() }
    }

    async fn refresh(&mut self, tokens: &Tokens) -> Result<SessionEvent, RefreshError> {
        self.clock.advance(Duration::from_secs(16 * 60));
        let request = RefreshRequest {
            refresh_token: self.issued.tokens.refresh_token.clone(),
            access_token: Some(self.issued.tokens.access_token.clone()),
            ..RefreshRequest::default()
        };
        self.issued = tokens.refresh_session(request, SessionKind::Browser).await?;
        Ok(self.issued.tokens.event)
    }

    async fn expect(&mut self, tokens: &Tokens, event: SessionEvent) {
        assert_eq!(self.refresh(tokens).await, Ok(event));
    }

    fn session(&self) -> sekisho::identity::SessionId {
        self.issued.session.id
    }
}

fn generate_keys() -> Arc<SharedKeys> {
    let material = KeyMaterial::generate(1, Algorithm::Hs256, NOW).unwrap();
    Arc::new(SharedKeys::new(KeyRing::from_material(&material).unwrap()))
}

fn tokens_on(stores: &Stores, keys: &Arc<SharedKeys>, clock: &Arc<ManualClock>) -> Tokens {
    let clock: Arc<dyn Clock> = clock.clone();
    let (access, settings) = (AccessTokens::default(), SessionSettings::default());
    Tokens::new(stores.sessions.clone(), keys.clone(), access, settings, clock)
}

fn end() -> SessionEnd {
    SessionEnd { at: NOW, reason: EndReason::Revoked }
}
