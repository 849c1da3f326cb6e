//! Measures refreshes per second, compared with the limit of the database.
//!
//! `cargo bench --bench renewals` measures SQLite. If `SEKISHO_TEST_POSTGRES` is set, it also measures a
//! new database on that server, and pgbench with the same prepared statement and `synchronous_commit`.
//! `-- sqlite` or `-- postgres` selects one database.
//!
//! There is no HTTP: 64 clients, each with its own session, call `Tokens::refresh_session` in a loop.
//! Every figure is the median of three rounds. The rounds of all figures alternate, so that other load
//! on the machine affects all of them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::clock::{Clock, SystemClock};
use sekisho::layer::RefreshRequest;
use sekisho::models::session::SessionKind;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use uuid::Uuid;

const CLIENTS: usize = 64;
const ROUNDS: usize = 3;
const SECONDS: u64 = 4;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_selected = |database| only.as_deref().is_none_or(|only| only == database);
    if is_selected("sqlite") {
        sqlite().await;
    }
    if !is_selected("postgres") {
        return;
    }
    match std::env::var("SEKISHO_TEST_POSTGRES") {
        Ok(server) => postgres(&server).await,
        Err(_) => println!("PostgreSQL: skipped, SEKISHO_TEST_POSTGRES is not set"),
    }
}

async fn sqlite() {
    // Not in /tmp, which may be in memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("sekisho.db");
    let stores =
        db::open(&format!("sqlite://{}", path.display()), &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    let mut service = Vec::new();
    let mut relaxed = Vec::new();
    let mut flushed = Vec::new();
    for _ in 0..ROUNDS {
        service.push(refreshes(&stores).await);
        relaxed.push(loop_on_sqlite(&path, SqliteSynchronous::Normal).await);
        flushed.push(loop_on_sqlite(&path, SqliteSynchronous::Full).await);
    }
    let service = median(service);
    let relaxed = median(relaxed);
    let flushed = median(flushed);
    println!("SQLite, {CLIENTS} clients                            per second");
    line("one connection, one flushed commit each", flushed, "");
    line("one connection, one relaxed commit each", relaxed, times(relaxed, flushed));
    line("Tokens::refresh_session", service, times(service, flushed));
    println!("a flush (4 KiB appended, fdatasync): {:?}", flush(directory.path()));
    stores.close().await;

    let path = directory.path().join("one.db");
    let stores =
        db::open(&format!("sqlite://{}", path.display()), &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    let print_size = |when: &str| {
        let bytes = ["one.db", "one.db-wal"]
            .map(|name| std::fs::metadata(directory.path().join(name)).map_or(0, |file| file.len()));
        println!("{when}: a file of {} bytes, a write-ahead log of {}", bytes[0], bytes[1]);
    };
    refresh_one(&stores, 1).await;
    print_size("after 1 refresh of one session");
    refresh_one(&stores, 100_000).await;
    print_size("after 100,000 of another");
    let all = sekisho::services::store::SessionFilter::All;
    println!("rows: {}\n", stores.sessions.list_sessions(&all, None, 1000).await.unwrap().len());
    stores.close().await;
}

async fn postgres(server: &str) {
    let url = fresh_database(server).await;
    let options = DatabaseOptions::default();
    let connections = options.max_connections / 2;
    let stores = db::open(&url, &options).await.unwrap();
    stores.migrate().await.unwrap();
    run(&url, ROWS_FOR_PGBENCH).await;
    let mut service = Vec::new();
    let mut few = Vec::new();
    let mut many = Vec::new();
    for _ in 0..ROUNDS {
        many.push(pgbench(&url, CLIENTS));
        service.push(refreshes(&stores).await);
        few.push(pgbench(&url, connections as usize));
    }
    let service = median(service);
    let few = median(few);
    let many = median(many);
    println!("PostgreSQL, {CLIENTS} clients, {connections} connections        per second");
    line(format_args!("pgbench -c {CLIENTS}"), many, "");
    line(format_args!("pgbench -c {connections}"), few, times(few, many));
    let compared = format!("{}, {} of -c {connections}", times(service, many), times(service, few));
    line("Tokens::refresh_session", service, compared);
    run(&url, "DELETE FROM myapi.sessions; VACUUM FULL myapi.sessions").await;
    refresh_one(&stores, 100_000).await;
    stores.close().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let size = "SELECT pg_table_size('myapi.sessions')";
    let size: i64 = sqlx::query_scalar(size).fetch_one(&mut connection).await.unwrap();
    let count = "SELECT count(*) FROM myapi.sessions";
    let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap();
    println!("after 100,000 refreshes of one session: {rows} row, a table of {size} bytes");
    connection.close().await.unwrap();
    run(server, &format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await;
}

/// Returns the refreshes per second of [`CLIENTS`] clients, each with a session of its own.
async fn refreshes(stores: &Stores) -> f64 {
    let tokens = tokens(stores);
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let refresh_token = sign_in(&tokens).await;
        tasks.push((tokens.clone(), refresh_token));
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(SECONDS);
    let tasks: Vec<_> = tasks
        .into_iter()
        .map(|(tokens, mut token)| {
            tokio::spawn(async move {
                let mut done = 0_u32;
                while Instant::now() < end {
                    token = refresh(&tokens, token).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

async fn refresh_one(stores: &Stores, times: usize) {
    let tokens = tokens(stores);
    let mut token = sign_in(&tokens).await;
    for _ in 0..times {
        token = refresh(&tokens, token).await;
    }
}

/// Refreshes, and returns the new refresh token. Without an access token and a grace period, every
/// refresh rotates.
async fn refresh(tokens: &Tokens, refresh_token: String) -> String {
    let request = RefreshRequest { refresh_token, ..RefreshRequest::default() };
    let refreshed = tokens.refresh_session(request, SessionKind::Browser).await.unwrap().tokens;
    assert_eq!(refreshed.event, SessionEvent::Rotated);
    refreshed.refresh_token
}

async fn sign_in(tokens: &Tokens) -> String {
    let sign_in = SessionRequest::new(Uuid::from_u128(1), "someone@example.com");
    tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token
}

fn tokens(stores: &Stores) -> Tokens {
    let material = KeyMaterial::generate(1, Algorithm::Hs256, SystemClock.now()).unwrap();
    let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&material).unwrap()));
    let settings =
        SessionSettings { grace: Duration::ZERO, max_per_user: 1_000_000, ..SessionSettings::default() };
    Tokens::new(stores.sessions.clone(), keys, AccessTokens::default(), settings, Arc::new(SystemClock))
}

/// Runs the statement of a refresh on one sqlx connection, with one commit each. Returns the rate.
async fn loop_on_sqlite(path: &Path, synchronous: SqliteSynchronous) -> f64 {
    let options = SqliteConnectOptions::new().filename(path).synchronous(synchronous);
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let id: Uuid =
        sqlx::query_scalar("SELECT id FROM sessions LIMIT 1").fetch_one(&mut connection).await.unwrap();
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let changed = sqlx::query(ROTATE_SQLITE).bind(id).fetch_all(&mut connection).await.unwrap();
        assert_eq!(changed.len(), 1);
        done += 1;
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    connection.close().await.unwrap();
    rate
}

const ROTATE_SQLITE: &str = "UPDATE sessions SET generation = generation + 1, settled_by = NULL, \
    rotated_at = rotated_at + 1, asked_by = NULL, asked_by_issued_at = NULL, key_number = 1, \
    rotations = rotations + 1, idle_expires_at = min(idle_expires_at + 1, absolute_expires_at), \
    address = NULL, user_agent = NULL \
    WHERE id = $1 AND kind = 'browser' AND ended_at IS NULL AND idle_expires_at > 0 \
    AND absolute_expires_at > 0 AND generation > 0 AND rotated_at > 0 RETURNING *";

/// Returns the median time of a 4 KiB write with fdatasync.
fn flush(directory: &Path) -> Duration {
    let mut file = std::fs::File::create(directory.join("flush")).unwrap();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[0; 4096]).unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Returns the transactions per second of pgbench. Each client updates a row of its own.
fn pgbench(url: &str, clients: usize) -> f64 {
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("refresh.pgbench");
    std::fs::write(&script, ROTATE_POSTGRES).unwrap();
    let output = Command::new("pgbench")
        .env("PGOPTIONS", "-c synchronous_commit=off")
        .args(["-n", "-M", "prepared", "-j", "2", "-T", &SECONDS.to_string(), "-c", &clients.to_string()])
        .arg("-f")
        .args([&script, Path::new(url)])
        .output()
        .expect("pgbench is installed");
    let report = String::from_utf8(output.stdout).unwrap();
    let rate = report.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("{report}{}", String::from_utf8_lossy(&output.stderr)))
}

const ROTATE_POSTGRES: &str = "UPDATE myapi.sessions SET generation = generation + 1, settled_by = NULL, \
    rotated_at = now(), asked_by = NULL, asked_by_issued_at = NULL, key_number = 1, \
    rotations = rotations + 1, idle_expires_at = least(now() + interval '14 days', absolute_expires_at), \
    address = NULL, user_agent = NULL \
    WHERE id = lpad((:client_id)::text, 32, '0')::uuid AND kind = 'browser' AND ended_at IS NULL \
    AND idle_expires_at > now() AND absolute_expires_at > now() AND generation > 0 \
    AND rotated_at <= now() RETURNING *;\n";

const ROWS_FOR_PGBENCH: &str = "INSERT INTO myapi.sessions (id, user_id, kind, email, roles, generation, \
    key_number, created_at, rotated_at, rotations, replays, idle_expires_at, absolute_expires_at) \
    SELECT lpad(n::text, 32, '0')::uuid, gen_random_uuid(), 'browser', 'someone@example.com', '', 1, 1, \
    now(), now(), 0, 0, now() + interval '14 days', now() + interval '90 days' \
    FROM generate_series(0, 63) AS n";

const DATABASE: &str = "sekisho_bench_renewals";

async fn fresh_database(server: &str) -> String {
    run(server, &format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await;
    run(server, &format!("CREATE DATABASE {DATABASE} TEMPLATE template0")).await;
    let (server, _) = server.rsplit_once('/').expect("the URL has a database name");
    format!("{server}/{DATABASE}")
}

async fn run(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in sql.split(';') {
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    connection.close().await.unwrap();
}

fn line(label: impl Display, rate: f64, comparison: impl Display) {
    println!("  {:<42} {rate:>10.0}   {comparison}", label.to_string());
}

fn times(rate: f64, base: f64) -> String {
    format!("{:.2} x", rate / base)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
