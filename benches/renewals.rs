//! How many renewals a second the service does, beside the limit of the database under it.
//!
//! `cargo bench --bench renewals` measures over SQLite; with `SEKISHO_TEST_POSTGRES` set, over a new
//! database on that server too, beside pgbench with the same statement, prepared, at the same
//! `synchronous_commit`. No HTTP: 64 callers, each with a session of its own, renew it one time after
//! another through `Tokens::refresh_session`, tokens and all. Every figure is the median of three rounds, taken in
//! turn, so that a busy machine is busy for all. `-- sqlite` or `-- postgres` measures one of them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a measurement that can't go on has failed")]

use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::client_info::ClientInfo;
use sekisho::clock::{Clock, SystemClock};
use sekisho::identity::Roles;
use sekisho::layer::RefreshRequest;
use sekisho::models::session::SessionKind;
use sekisho::models::user::UserId;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use uuid::Uuid;

const CALLERS: usize = 64;
const ROUNDS: usize = 3;
const SECONDS: u64 = 4;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |database| only.as_deref().is_none_or(|only| only == database);
    if wanted("sqlite") {
        sqlite().await;
    }
    if !wanted("postgres") {
        return;
    }
    match std::env::var("SEKISHO_TEST_POSTGRES") {
        Ok(server) => postgres(&server).await,
        Err(_) => println!("PostgreSQL: left out, SEKISHO_TEST_POSTGRES names no server"),
    }
}

async fn sqlite() {
    // Not in /tmp, which may be memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("sekisho.db");
    let stores =
        db::open(&format!("sqlite://{}", path.display()), &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    let (mut ours, mut bare, mut flushed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(renewals(&stores).await);
        bare.push(loop_on_sqlite(&path, SqliteSynchronous::Normal).await);
        flushed.push(loop_on_sqlite(&path, SqliteSynchronous::Full).await);
    }
    let (ours, bare, flushed) = (median(ours), median(bare), median(flushed));
    println!("SQLite, {CALLERS} callers                            per second");
    line("one connection, one flushed commit each", flushed, "");
    line("one connection, one relaxed commit each", bare, times(bare, flushed));
    line("Tokens::refresh_session", ours, times(ours, flushed));
    println!("a flush (4 KiB appended, fdatasync): {:?}", flush(directory.path()));
    stores.close().await;

    let path = directory.path().join("one.db");
    let stores =
        db::open(&format!("sqlite://{}", path.display()), &DatabaseOptions::default()).await.unwrap();
    stores.migrate().await.unwrap();
    let size = |when: &str| {
        let bytes = ["one.db", "one.db-wal"]
            .map(|name| std::fs::metadata(directory.path().join(name)).map_or(0, |file| file.len()));
        println!("{when}: a file of {} bytes, a write-ahead log of {}", bytes[0], bytes[1]);
    };
    renew_one(&stores, 1).await;
    size("after 1 renewal of one session");
    renew_one(&stores, 100_000).await;
    size("after 100,000 of another");
    let all = sekisho::services::store::SessionFilter::All;
    println!("rows: {}\n", stores.sessions.list_sessions(&all, None, 1000).await.unwrap().len());
    stores.close().await;
}

async fn postgres(server: &str) {
    let url = fresh_database(server).await;
    let options = DatabaseOptions::default();
    let relaxed = options.max_connections / 2;
    let stores = db::open(&url, &options).await.unwrap();
    stores.migrate().await.unwrap();
    run(&url, ROWS_FOR_PGBENCH).await;
    let (mut ours, mut few, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        many.push(pgbench(&url, CALLERS));
        ours.push(renewals(&stores).await);
        few.push(pgbench(&url, relaxed as usize));
    }
    let (ours, few, many) = (median(ours), median(few), median(many));
    println!("PostgreSQL, {CALLERS} callers, {relaxed} connections        per second");
    line(format_args!("pgbench -c {CALLERS}"), many, "");
    line(format_args!("pgbench -c {relaxed}"), few, times(few, many));
    line(
        "Tokens::refresh_session",
        ours,
        format!("{}, {} of -c {relaxed}", times(ours, many), times(ours, few)),
    );
    run(&url, "DELETE FROM myapi.sessions; VACUUM FULL myapi.sessions").await;
    renew_one(&stores, 100_000).await;
    stores.close().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let size = "SELECT pg_table_size('myapi.sessions')";
    let size: i64 = sqlx::query_scalar(size).fetch_one(&mut connection).await.unwrap();
    let dead = "SELECT count(*) FROM myapi.sessions";
    let rows: i64 = sqlx::query_scalar(dead).fetch_one(&mut connection).await.unwrap();
    println!("after 100,000 renewals of one session: {rows} row, a table of {size} bytes");
    connection.close().await.unwrap();
    run(server, &format!("DROP DATABASE {DATABASE} WITH (FORCE)")).await;
}

/// Renewals per second of [`CALLERS`] callers, each with a session of its own.
async fn renewals(stores: &Stores) -> f64 {
    let tokens = tokens(stores);
    let mut tasks = Vec::new();
    for _ in 0..CALLERS {
        let (tokens, first) = (tokens.clone(), sign_in(&tokens).await);
        tasks.push((tokens, first));
    }
    let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs(SECONDS));
    let tasks: Vec<_> = tasks
        .into_iter()
        .map(|(tokens, mut token)| {
            tokio::spawn(async move {
                let mut done = 0_u32;
                while Instant::now() < end {
                    token = renew(&tokens, token).await;
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

async fn renew_one(stores: &Stores, times: usize) {
    let tokens = tokens(stores);
    let mut token = sign_in(&tokens).await;
    for _ in 0..times {
        token = renew(&tokens, token).await;
    }
}

/// Renews and returns the next refresh token. Without an access token beside it, and with no grace,
/// a renewal is always due.
async fn renew(tokens: &Tokens, refresh_token: String) -> String {
    let request =
        RefreshRequest { refresh_token, access_token: None, of: None, client: ClientInfo::default() };
    let renewal = tokens.refresh_session(request, SessionKind::Browser).await.unwrap().tokens;
    assert_eq!(renewal.event, SessionEvent::Rotated);
    renewal.refresh_token
}

async fn sign_in(tokens: &Tokens) -> String {
    let sign_in = SessionRequest {
        user: UserId(Uuid::from_u128(1)),
        email: "someone@example.com",
        roles: Roles::default(),
        kind: SessionKind::Browser,
        client: ClientInfo::default(),
        hashed_password: None,
        replaces: None,
    };
    tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token
}

fn tokens(stores: &Stores) -> Tokens {
    let material = KeyMaterial::generate(1, Algorithm::Hs256, SystemClock.now()).unwrap();
    let keys = Arc::new(SharedKeys::new(KeyRing::of_one(&material).unwrap()));
    let settings =
        SessionSettings { grace: Duration::ZERO, max_per_user: 1_000_000, ..SessionSettings::default() };
    Tokens::new(stores.sessions.clone(), keys, AccessTokens::default(), settings, Arc::new(SystemClock))
}

/// The statement of a renewal on one connection of sqlx, one commit each.
async fn loop_on_sqlite(path: &Path, synchronous: SqliteSynchronous) -> f64 {
    let options = SqliteConnectOptions::new().filename(path).synchronous(synchronous);
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let id: Uuid =
        sqlx::query_scalar("SELECT id FROM sessions LIMIT 1").fetch_one(&mut connection).await.unwrap();
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let changed = sqlx::query(ON_SQLITE).bind(id).fetch_all(&mut connection).await.unwrap();
        assert_eq!(changed.len(), 1);
        done += 1;
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    connection.close().await.unwrap();
    rate
}

const ON_SQLITE: &str = "UPDATE sessions SET generation = generation + 1, settled_by = NULL, \
    rotated_at = rotated_at + 1, asked_by = NULL, asked_by_issued_at = NULL, key_number = 1, \
    rotations = rotations + 1, idle_expires_at = min(idle_expires_at + 1, absolute_expires_at), \
    address = NULL, user_agent = NULL \
    WHERE id = $1 AND kind = 'browser' AND ended_at IS NULL AND idle_expires_at > 0 \
    AND absolute_expires_at > 0 AND generation > 0 AND rotated_at > 0 RETURNING *";

/// What it costs to have something on this disk.
fn flush(directory: &Path) -> Duration {
    let mut file = std::fs::File::create(directory.join("flush")).unwrap();
    let mut costs: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[0; 4096]).unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// Transactions per second of pgbench, each client with a row of its own.
fn pgbench(url: &str, clients: usize) -> f64 {
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("renewal.pgbench");
    std::fs::write(&script, ON_POSTGRES).unwrap();
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

const ON_POSTGRES: &str = "UPDATE myapi.sessions SET generation = generation + 1, settled_by = NULL, \
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
    let (server, _) = server.rsplit_once('/').expect("the address of a server names a database");
    format!("{server}/{DATABASE}")
}

async fn run(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in sql.split(';') {
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    connection.close().await.unwrap();
}

fn line(what: impl Display, rate: f64, compared: impl Display) {
    println!("  {:<42} {rate:>10.0}   {compared}", what.to_string());
}

fn times(rate: f64, than: f64) -> String {
    format!("{:.2} x", rate / than)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
