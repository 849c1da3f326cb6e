//! `/readyz` of a server that has lost its database in part.

use std::path::{Path, PathBuf};
use std::time::Instant;

use sekisho::backend::db as backend;
use sekisho::clock::{Clock, SystemClock};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::support::db;
use crate::support::db::DatabaseLocation;
use crate::support::process::{PASSWORD, ServerProcess, TestDeployment, on_both, replace_refresh_key, until};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    server_with_a_replaced_key_is_not_ready;
    server_behind_a_held_write_lock_is_not_ready;
    server_with_an_uncertain_session_time_is_ready_and_says_so;
}

const ANN: &str = "ann@example.com";

/// Waits until `/readyz` has this text.
async fn wait_for_readiness(server: &ServerProcess, text: &str) {
    until(&format!("/readyz to report {text:?}"), async || {
        let response = SocketBrowser::default().get(server.admin, "/readyz").await;
        assert_eq!(response.status == 200, response.body == b"ready\n", "{response:?}");
        (response.body == text.as_bytes()).then_some(())
    })
    .await;
}

/// Moves the file of a database and the files that SQLite keeps beside it.
fn move_database(from: &Path, to: &Path) {
    for (from, to) in with_companions(from).into_iter().zip(with_companions(to)) {
        // A database that is closed has only one file.
        if from.exists() {
            std::fs::rename(from, to).unwrap();
        }
    }
}

/// Returns the files of a SQLite database.
fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())))
}

/// B8: the server notices that its SQLite file was removed or replaced, and accepts no write that would be
/// lost.
#[tokio::test]
async fn server_without_its_database_file_is_not_ready() {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("tokens.access_ttl", "15m");
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    let path = backend::sqlite_path(deployment.database()).unwrap();
    let away = path.with_extension("away");
    wait_for_readiness(&server, "ready\n").await;
    let started = Instant::now();

    move_database(&path, &away);
    wait_for_readiness(&server, "database file was replaced or removed\n").await;
    assert!(server.log().contains(path.to_str().unwrap()), "{}", server.log());
    assert_eq!(ann.status(server.public, "/auth/session").await, 200, "the token is still valid");
    let refused = SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await;
    refused.problem(503, "store_unavailable");

    // The command creates another file and terminates no session of the server.
    deployment.run(&["session", "revoke", "--all"]).await.done();
    assert!(path.exists());
    wait_for_readiness(&server, "database file was replaced or removed\n").await;

    std::fs::remove_file(&path).unwrap();
    move_database(&away, &path);
    wait_for_readiness(&server, "ready\n").await;
    assert_rarely_logged(&server, "not ready: database file", started);
    assert_eq!(SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await.status, 200);
    server.stop().await;
}

/// B8: the files that SQLite keeps beside the database hold the last commits and the locks.
#[tokio::test]
async fn server_without_its_write_ahead_log_is_not_ready() {
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    let path = backend::sqlite_path(deployment.database()).unwrap();
    let [_, log, index] = with_companions(&path);
    for file in [log, index] {
        wait_for_readiness(&server, "ready\n").await;
        let away = path.with_extension("away");
        std::fs::rename(&file, &away).unwrap();
        wait_for_readiness(&server, "database file was replaced or removed\n").await;
        let refused = SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await;
        refused.problem(503, "store_unavailable");
        std::fs::rename(&away, &file).unwrap();
    }
    wait_for_readiness(&server, "ready\n").await;
    SocketBrowser::signed_in(server.public, ANN).await;
    server.stop().await;
}

/// B9: a write lock that another process holds.
async fn server_behind_a_held_write_lock_is_not_ready(location: DatabaseLocation) {
    let deployment = deployment_with_debug_log(location).await;
    let server = deployment.serve().await;
    SocketBrowser::signed_in(server.public, ANN).await;
    wait_for_readiness(&server, "ready\n").await;
    let started = Instant::now();

    if deployment.is_embedded() {
        check_lock(
            SqliteConnection::connect(deployment.database()).await.unwrap(),
            "BEGIN IMMEDIATE",
            &server,
        )
        .await;
    } else {
        let lock = "BEGIN; LOCK TABLE myapi.sessions IN SHARE MODE";
        check_lock(PgConnection::connect(deployment.database()).await.unwrap(), lock, &server).await;
    }
    check_recovery(server, started).await;
}

/// Checks that writes fail while `connection` holds a lock, which its end releases.
async fn check_lock<C: Connection>(mut connection: C, lock: &'static str, server: &ServerProcess)
where
    for<'c> &'c mut C: Executor<'c>,
{
    connection.execute(lock).await.unwrap();
    check_failing_writes(server).await;
    connection.close().await.unwrap();
}

/// B1: a server starts an hour after the last one, on another machine.
async fn server_with_an_uncertain_session_time_is_ready_and_says_so(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("tokens.access_ttl", "15m");
    deployment.set("session.grace", "60s");
    let server = deployment.serve().await;
    wait_for_readiness(&server, "ready\n").await;
    server.stop().await;
    let an_hour_ago = SystemClock.now().unix_timestamp() * 1_000_000 - 3_600_000_000;
    let set_floor = format!(
        "UPDATE settings SET value = '{an_hour_ago} {} 0 another-machine' WHERE name = 'session_time'",
        i64::MIN
    );
    if deployment.is_embedded() {
        db::run_sqlite(deployment.database(), &set_floor).await;
    } else {
        db::run(deployment.database(), &format!("SET search_path = myapi; {set_floor}")).await;
    }

    let server = deployment.serve().await;
    let started = Instant::now();
    until("the log to name session time", async || {
        server.log().contains("session time is uncertain").then_some(())
    })
    .await;
    let response = SocketBrowser::default().get(server.admin, "/readyz").await;
    assert_eq!(
        (response.status.as_u16(), &*response.body),
        (200, &b"ready, session time is uncertain\n"[..])
    );
    assert_rarely_logged(&server, "session time is uncertain", started);
    server.stop().await;

    // Uncertain for a tenth of the time.
    deployment.set("session.grace", "1s");
    let server = deployment.serve().await;
    until("/readyz to report ready", async || {
        let response = SocketBrowser::default().get(server.admin, "/readyz").await;
        (response.body == b"ready\n").then_some(())
    })
    .await;
    server.stop().await;
}

/// B9: a full disk, where space that is already allocated can still be written.
#[tokio::test]
async fn server_on_a_full_disk_is_not_ready() {
    let deployment = deployment_with_debug_log(db::sqlite_location().await.unwrap()).await;
    let server = deployment.serve_without_file_size_signal().await;
    SocketBrowser::signed_in(server.public, ANN).await;
    wait_for_readiness(&server, "ready\n").await;
    let started = Instant::now();

    let path = backend::sqlite_path(deployment.database()).unwrap();
    let sizes = with_companions(&path).map(|file| std::fs::metadata(file).unwrap().len());
    server.limit_file_size(sizes.into_iter().max());
    check_failing_writes(&server).await;
    server.limit_file_size(None);
    check_recovery(server, started).await;
}

/// B9: a database that can be read but not written, as a demoted primary.
#[tokio::test]
async fn server_on_a_read_only_database_is_not_ready() {
    let Some(location) = db::postgres_location().await else { return };
    let deployment = deployment_with_debug_log(location).await;
    let server = deployment.serve().await;
    SocketBrowser::signed_in(server.public, ANN).await;
    wait_for_readiness(&server, "ready\n").await;
    let started = Instant::now();

    let options: PgConnectOptions = deployment.database().parse().unwrap();
    let name = options.get_database().unwrap();
    let admin = std::env::var("SEKISHO_TEST_POSTGRES").unwrap();
    db::run(&admin, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ";
    db::run(&admin, &format!("{disconnect}'{name}'")).await;
    check_failing_writes(&server).await;
    db::run(&admin, &format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    check_recovery(server, started).await;
}

async fn deployment_with_debug_log(location: DatabaseLocation) -> TestDeployment {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set_env("RUST_LOG", "sekisho=debug");
    deployment.user(ANN, "user").await;
    deployment
}

/// Checks that sign-ins fail, and that the server stays unready without further requests.
async fn check_failing_writes(server: &ServerProcess) {
    until("a refused sign-in", async || {
        let response = SocketBrowser::default().sign_in(server.public, ANN, PASSWORD).await;
        (response.status == 503).then_some(())
    })
    .await;
    wait_for_readiness(server, "database writes fail\n").await;
    let checks = server.log().matches("write check failed").count();
    server.wait_for_log("write check failed", checks + 2).await;
    wait_for_readiness(server, "database writes fail\n").await;
}

/// Checks that the server becomes ready without a request, and has logged the failure at most once a minute.
async fn check_recovery(server: ServerProcess, started: Instant) {
    wait_for_readiness(&server, "ready\n").await;
    SocketBrowser::signed_in(server.public, ANN).await;
    assert_rarely_logged(&server, "not ready: database writes fail", started);
    server.stop().await;
}

/// Checks that a problem which may have begun at `started` was logged, at most once a minute.
#[track_caller]
fn assert_rarely_logged(server: &ServerProcess, text: &str, started: Instant) {
    let count = server.log().matches(text).count() as u64;
    let limit = 1 + started.elapsed().as_secs() / 60;
    assert!((1..=limit).contains(&count), "{count} times: {}", server.log());
}

/// B3: a key file is replaced under its number while the server runs, then by a new key.
async fn server_with_a_replaced_key_is_not_ready(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("tokens.access_ttl", "15m");
    deployment.user(ANN, "user").await;
    let server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    wait_for_readiness(&server, "ready\n").await;
    let file = deployment.path("data/keys/1.toml");
    let former = std::fs::read_to_string(&file).unwrap();

    replace_refresh_key(&file);
    wait_for_readiness(&server, "signing key differs from the recorded one\n").await;
    assert!(server.log().contains("signing key was replaced under its number"), "{}", server.log());
    std::fs::write(&file, former).unwrap();
    wait_for_readiness(&server, "ready\n").await;
    assert_eq!(ann.status(server.public, "/auth/session").await, 200);

    std::fs::remove_file(&file).unwrap();
    let created = deployment.run(&["key", "init"]).await.done();
    assert!(created.starts_with("created key 2 (HS256)"), "{created}");
    until("tokens of the removed key to be rejected", async || {
        (ann.status(server.public, "/auth/session").await == 401).then_some(())
    })
    .await;
    wait_for_readiness(&server, "ready\n").await;
    server.stop().await;
}
