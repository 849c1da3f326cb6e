//! Whether a purge lets renewals through.
//!
//! `cargo bench --bench purge` fills a database with 1,000,000 sessions (`-- 100000` for fewer) that ended
//! more than a year ago, and an entry of the audit for each. Eight callers renew their sessions, first
//! alone, then while all of that is purged. With `SEKISHO_TEST_POSTGRES` set, on a new database on that
//! server too.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a measurement that can't go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::client_info::ClientInfo;
use sekisho::clock::{Clock, SystemClock};
use sekisho::layer::RefreshRequest;
use sekisho::models::session::SessionKind;
use sekisho::models::user::UserId;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::purge::{Purge, PurgeStats, RetentionPolicy};
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

const CALLERS: u128 = 8;
const ALONE: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() {
    let rows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    // Not in /tmp, which may be memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let url = format!("sqlite://{}/sekisho.db", directory.path().display());
    let stores = migrated(&url).await;
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    connection.execute(AssertSqlSafe(ON_SQLITE.replace("{rows}", &rows.to_string()))).await.unwrap();
    connection.close().await.unwrap();
    measure("SQLite", &stores, rows).await;

    let Ok(server) = std::env::var("SEKISHO_TEST_POSTGRES") else {
        println!("PostgreSQL: left out, SEKISHO_TEST_POSTGRES names no server");
        return;
    };
    run(&server, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await;
    run(&server, &format!("CREATE DATABASE {DATABASE} TEMPLATE template0")).await;
    let (host, _) = server.rsplit_once('/').expect("the address of a server names a database");
    let url = format!("{host}/{DATABASE}");
    let stores = migrated(&url).await;
    run(&url, &ON_POSTGRES.replace("{rows}", &rows.to_string())).await;
    measure("PostgreSQL", &stores, rows).await;
    stores.close().await;
    run(&server, &format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await;
}

async fn migrated(url: &str) -> Stores {
    let stores = db::open(url, &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    stores
}

async fn measure(name: &str, stores: &Stores, rows: u64) {
    let (_, alone) = renewed_beside(stores, tokio::time::sleep(ALONE)).await;
    let keep = RetentionPolicy { ended: 30 * DAY, audit: Some(365 * DAY), grace: Duration::from_secs(60) };
    let purge = Purge::new(Arc::clone(&stores.sessions), Arc::new(SystemClock), keep);
    let began = Instant::now();
    let (purged, beside) = renewed_beside(stores, async { purge.run_once().await.unwrap() }).await;
    assert_eq!(purged, PurgeStats { sessions: rows, entries: rows });
    println!("{name}, {CALLERS} callers that renew           p50        p99    longest  renewals");
    line("alone", alone);
    line(&format!("while {rows} + {rows} rows are purged, {:.0?}", began.elapsed()), beside);
}

/// Renews until `work` is done. Returns what that came to, and how long each renewal took.
async fn renewed_beside<T>(stores: &Stores, work: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let tokens = tokens(stores);
    let enough = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for nth in 0..CALLERS {
        let (tokens, enough) = (tokens.clone(), Arc::clone(&enough));
        let sign_in = SessionRequest::new(UserId(Uuid::from_u128(nth)), "someone@example.com");
        let mut refresh_token = tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token;
        callers.push(tokio::spawn(async move {
            let mut took = Vec::new();
            while !enough.load(Ordering::Relaxed) {
                let began = Instant::now();
                let request = RefreshRequest {
                    refresh_token,
                    access_token: None,
                    of: None,
                    client: ClientInfo::default(),
                };
                refresh_token =
                    tokens.refresh_session(request, SessionKind::Browser).await.unwrap().tokens.refresh_token;
                took.push(began.elapsed());
                // A server has other things to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took
        }));
    }
    let done = work.await;
    enough.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.unwrap());
    }
    all.sort_unstable();
    (done, all)
}

/// With no grace, a renewal is always due.
fn tokens(stores: &Stores) -> Tokens {
    let material = KeyMaterial::generate(1, Algorithm::Hs256, SystemClock.now()).unwrap();
    let keys = Arc::new(SharedKeys::new(KeyRing::of_one(&material).unwrap()));
    let settings = SessionSettings { grace: Duration::ZERO, ..SessionSettings::default() };
    Tokens::new(stores.sessions.clone(), keys, AccessTokens::default(), settings, Arc::new(SystemClock))
}

fn line(what: &str, took: Vec<Duration>) {
    let at = |share: usize| took[(took.len() * share / 1_000).min(took.len() - 1)];
    println!("  {what:<45} {:>9.2?}  {:>9.2?}  {:>9.2?}  {}", at(500), at(990), at(1_000), took.len());
}

async fn run(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in sql.split(';') {
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    connection.close().await.unwrap();
}

const DATABASE: &str = "sekisho_bench_purge";

const ON_SQLITE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}), \
    t(at) AS (SELECT (unixepoch() - 400 * 86400) * 1000000) \
    INSERT INTO sessions (id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, \
    rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason) \
    SELECT randomblob(16), randomblob(16), 'browser', 'someone@example.com', '', 1, 1, at, at, 0, 0, at, at, \
    at, 'logged_out' FROM n, t; \
    INSERT INTO audit (at, event, user_id, session_id) SELECT ended_at, end_reason, user_id, id FROM sessions";

const ON_POSTGRES: &str = "INSERT INTO myapi.sessions (id, user_id, kind, email, roles, generation, key_number, \
    created_at, rotated_at, rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason) \
    SELECT gen_random_uuid(), gen_random_uuid(), 'browser', 'someone@example.com', '', 1, 1, at, at, 0, 0, at, \
    at, at, 'logged_out' FROM generate_series(1, {rows}), (SELECT now() - interval '400 days' AS at) AS t; \
    INSERT INTO myapi.audit (at, event, user_id, session_id) \
    SELECT ended_at, end_reason, user_id, id FROM myapi.sessions; ANALYZE";
