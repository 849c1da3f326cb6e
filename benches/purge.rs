//! Measures the latency of refreshes during a purge.
//!
//! `cargo bench --bench purge` fills a database with 1,000,000 sessions (`-- 100000` for fewer) that were
//! terminated more than a year ago, and an audit entry for each. Eight clients refresh their sessions,
//! first without a purge, then while all of these rows are purged. If `SEKISHO_TEST_POSTGRES` is set, it
//! also measures a new database on that server.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::clock::{Clock, SystemClock};
use sekisho::layer::RefreshRequest;
use sekisho::models::session::SessionKind;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::purge::{Purge, PurgeStats, RetentionPolicy};
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

const CLIENTS: u128 = 8;
const BASELINE_TIME: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() {
    let rows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    // Not in /tmp, which may be in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let url = format!("sqlite://{}/sekisho.db", directory.path().display());
    let stores = migrated(&url).await;
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    connection.execute(AssertSqlSafe(FILL_SQLITE.replace("{rows}", &rows.to_string()))).await.unwrap();
    connection.close().await.unwrap();
    measure("SQLite", &stores, rows).await;

    let Ok(server) = std::env::var("SEKISHO_TEST_POSTGRES") else {
        println!("PostgreSQL: skipped, SEKISHO_TEST_POSTGRES is not set");
        return;
    };
    run(&server, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await;
    run(&server, &format!("CREATE DATABASE {DATABASE} TEMPLATE template0")).await;
    let (host, _) = server.rsplit_once('/').expect("the URL has a database name");
    let url = format!("{host}/{DATABASE}");
    let stores = migrated(&url).await;
    run(&url, &FILL_POSTGRES.replace("{rows}", &rows.to_string())).await;
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
    let (_, baseline) = refresh_during(stores, tokio::time::sleep(BASELINE_TIME)).await;
    let retention =
        RetentionPolicy { ended: 30 * DAY, audit: Some(365 * DAY), grace: Duration::from_secs(60) };
    let purge = Purge::new(Arc::clone(&stores.sessions), Arc::new(SystemClock), retention);
    let began = Instant::now();
    let (purged, during) = refresh_during(stores, async { purge.run_once().await.unwrap() }).await;
    assert_eq!(purged, PurgeStats { sessions: rows, entries: rows });
    println!("{name}, {CLIENTS} clients that refresh         p50        p99    longest  refreshes");
    line("no purge", baseline);
    line(&format!("while {rows} + {rows} rows are purged, {:.0?}", began.elapsed()), during);
}

/// Refreshes sessions until `work` completes. Returns its result and the sorted latencies.
async fn refresh_during<T>(stores: &Stores, work: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let tokens = tokens(stores);
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for nth in 0..CLIENTS {
        let (tokens, stop) = (tokens.clone(), Arc::clone(&stop));
        let sign_in = SessionRequest::new(Uuid::from_u128(nth), "someone@example.com");
        let mut refresh_token = tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token;
        clients.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let request = RefreshRequest { refresh_token, ..RefreshRequest::default() };
                refresh_token =
                    tokens.refresh_session(request, SessionKind::Browser).await.unwrap().tokens.refresh_token;
                latencies.push(began.elapsed());
                // Leave time for the purge, as requests to a server do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            latencies
        }));
    }
    let result = work.await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.unwrap());
    }
    latencies.sort_unstable();
    (result, latencies)
}

/// Creates tokens without a grace period, so that every refresh rotates.
fn tokens(stores: &Stores) -> Tokens {
    let material = KeyMaterial::generate(1, Algorithm::Hs256, SystemClock.now()).unwrap();
    let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&material).unwrap()));
    let settings = SessionSettings { grace: Duration::ZERO, ..SessionSettings::default() };
    Tokens::new(stores.sessions.clone(), keys, AccessTokens::default(), settings, Arc::new(SystemClock))
}

fn line(label: &str, latencies: Vec<Duration>) {
    let quantile = |permille: usize| latencies[(latencies.len() * permille / 1_000).min(latencies.len() - 1)];
    println!(
        "  {label:<45} {:>9.2?}  {:>9.2?}  {:>9.2?}  {}",
        quantile(500),
        quantile(990),
        quantile(1_000),
        latencies.len()
    );
}

async fn run(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in sql.split(';') {
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    connection.close().await.unwrap();
}

const DATABASE: &str = "sekisho_bench_purge";

const FILL_SQLITE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}), \
    t(at) AS (SELECT (unixepoch() - 400 * 86400) * 1000000) \
    INSERT INTO sessions (id, user_id, kind, email, roles, generation, key_number, created_at, rotated_at, \
    rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason) \
    SELECT randomblob(16), lower(hex(randomblob(16))), 'browser', 'someone@example.com', '', 1, 1, at, at, 0, 0, at, at, \
    at, 'logged_out' FROM n, t; \
    INSERT INTO audit (at, event, user_id, session_id) SELECT ended_at, end_reason, user_id, id FROM sessions";

const FILL_POSTGRES: &str = "INSERT INTO myapi.sessions (id, user_id, kind, email, roles, generation, key_number, \
    created_at, rotated_at, rotations, replays, idle_expires_at, absolute_expires_at, ended_at, end_reason) \
    SELECT gen_random_uuid(), gen_random_uuid(), 'browser', 'someone@example.com', '', 1, 1, at, at, 0, 0, at, \
    at, at, 'logged_out' FROM generate_series(1, {rows}), (SELECT now() - interval '400 days' AS at) AS t; \
    INSERT INTO myapi.audit (at, event, user_id, session_id) \
    SELECT ended_at, end_reason, user_id, id FROM myapi.sessions; ANALYZE";
