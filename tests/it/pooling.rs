//! PgBouncer between the gateway and PostgreSQL, with a second application in the same pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use sekisho::backend::db::{self as backend, DatabaseOptions, DbError, Stores};
use sekisho::client_info::ClientInfo;
use sekisho::models::session::{EndReason, SessionEnd};
use sekisho::services::store::Rotation;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor, Row};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::durability::check_unflushed_writes;
use crate::revocations::check_revocation_reaches_the_other_replica;
use crate::store_contract::{NOW, any_session, ending};
use crate::support::db::{self, DatabaseLocation};
use crate::support::pgbouncer::{PgBouncer, open_in_transaction_pool, transaction_pool};
use crate::support::postgres::Server;
use crate::support::process::{PASSWORD, PROCESS_TIMEOUT, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

/// B7: a pooler that pools transactions is recognised at the start, of the server and of commands.
#[tokio::test]
async fn transaction_pool_is_refused_unless_configured() {
    let Some(location) = db::postgres_location().await else { return };
    let Some(pooler) = PgBouncer::start(&location.url, "transaction", 4).await else { return };
    let direct = location.url.clone();
    let url = pooler.url.clone();
    let mut deployment = TestDeployment::without_keys(location.behind(&url, pooler));
    for ran in [deployment.start().await.err().unwrap(), deployment.run(&["user", "list"]).await] {
        let line = ran.fails(78);
        assert!(line.contains("set database.pooling to \"transaction\""), "{line}");
    }
    deployment.set("database.pooling", "transaction");
    deployment.run(&["key", "init"]).await.done();
    deployment.serve().await.stop().await;

    deployment.set("database.listen_url", &url);
    let line = deployment.start().await.err().unwrap();
    assert!(line.fails(78).contains("database.listen_url"), "{}", line.err);
    deployment.set("database.listen_url", &direct);
    deployment.serve().await.stop().await;
}

/// B7: also if other clients use the pool, and if it assigns its connections in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_transaction_pool_is_recognised() {
    let Some(location) = db::postgres_location().await else { return };
    let Some(pooler) = PgBouncer::start(&location.url, "transaction", 3).await else { return };
    let mut others = JoinSet::new();
    let url = pooler.url.clone();
    for _ in 0..6 {
        let mut connection = neighbour(&url).await;
        others.spawn(async move {
            loop {
                connection.execute("SELECT 1").await.unwrap();
            }
        });
    }
    for _ in 0..10 {
        let error = backend::open(&url, &DatabaseOptions::default()).await.unwrap_err();
        assert!(matches!(error, DbError::TransactionPooling(_)), "{error:?}");
    }
    others.shutdown().await;
}

/// B7: without a pooler, and with one that pools sessions.
#[tokio::test]
async fn session_pool_is_accepted() {
    let Some(location) = db::postgres_location().await else { return };
    let Some(pooler) = PgBouncer::start(&location.url, "session", 40).await else { return };
    for url in [&location.url, &pooler.url] {
        let stores = backend::open(url, &DatabaseOptions::default()).await.unwrap();
        stores.migrate().await.unwrap();
        check_revocation_reaches_the_other_replica(&stores).await;
        stores.close().await;
    }
}

/// B7: no setting, prepared statement, lock or LISTEN of the gateway stays on a connection of the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_pool_keeps_nothing_of_the_gateway() {
    check_neighbour("transaction", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_pool_keeps_nothing_of_the_gateway() {
    check_neighbour("session", 40).await;
}

async fn check_neighbour(pool_mode: &str, connections: usize) {
    let Some(location) = db::postgres_location().await else { return };
    let Some(pooler) = PgBouncer::start(&location.url, pool_mode, connections).await else { return };
    let expected = connection_state(&mut neighbour(&location.url).await).await;
    let url = pooler.url.clone();
    let mut deployment = TestDeployment::without_keys(location.behind(&url, pooler));
    deployment.set("database.pooling", pool_mode);
    deployment.run(&["key", "init"]).await.done();
    deployment.user("ann@example.com", "admin").await;
    let replicas = [deployment.serve().await, deployment.serve().await];
    let enough = Arc::new(Notify::new());
    let watching = tokio::spawn(watch_neighbour(url.clone(), expected.clone(), Arc::clone(&enough)));

    let [one, other] = replicas.each_ref().map(|replica| replica.public);
    for _ in 0..3 {
        let mut ann = SocketBrowser::signed_in(one, "ann@example.com").await;
        ann.cookies.remove("__Host-access_token");
        assert_eq!(ann.status(other, "/auth/session").await, 200);
        let mut bob = SocketBrowser::default();
        assert_eq!(bob.sign_in(other, "ann@example.com", PASSWORD).await.status, 200);
        let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
        assert_eq!(ann.clone().send(one, request).await.unwrap().status, 204);
        until("the other replica to reject the token", async || {
            (ann.status(other, "/auth/session").await == 401).then_some(())
        })
        .await;
        deployment.run(&["session", "revoke", "--all"]).await.done();
        until("both replicas to reject the token", async || {
            (bob.status(one, "/auth/session").await == 401).then_some(())
        })
        .await;
    }
    for replica in &replicas {
        assert_eq!(SocketBrowser::default().status(replica.admin, "/readyz").await, 200);
    }
    check_every_connection(&url, connections.min(8), &expected).await;
    enough.notify_one();
    watching.await.unwrap();
    for replica in replicas {
        replica.stop().await;
    }
    check_every_connection(&url, connections.min(8), &expected).await;
}

/// Checks the state of connections until there is enough.
async fn watch_neighbour(url: String, expected: BTreeMap<String, String>, enough: Arc<Notify>) {
    let mut connection = neighbour(&url).await;
    let checking = async {
        loop {
            assert_eq!(connection_state(&mut connection).await, expected);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = checking => unreachable!("the loop does not end"),
        () = enough.notified() => {}
    }
}

/// Checks the state of as many connections of the pool, in concurrent transactions.
async fn check_every_connection(url: &str, connections: usize, expected: &BTreeMap<String, String>) {
    let mut neighbours = Vec::new();
    for _ in 0..connections {
        let mut connection = neighbour(url).await;
        // The replicas may use all of them in between.
        timeout(PROCESS_TIMEOUT, connection.execute("BEGIN")).await.unwrap().unwrap();
        neighbours.push(connection);
    }
    for connection in &mut neighbours {
        assert_eq!(connection_state(connection).await, *expected);
        connection.execute("COMMIT").await.unwrap();
    }
}

/// Connects as an application that makes no settings.
async fn neighbour(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().unwrap();
    options.extra_float_digits(None).application_name("neighbour").connect().await.unwrap()
}

/// Returns all settings that a client can make, and what else a session can hold. Those of extensions appear
/// once an extension is loaded, as by a trigger.
async fn connection_state(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let rows = connection.fetch_all(CONNECTION_STATE).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

const CONNECTION_STATE: &str = "SELECT name, setting FROM pg_settings WHERE context IN ('user', 'superuser') \
    AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
    AND name NOT LIKE '%.%' \
    UNION ALL SELECT 'prepared statements', string_agg(statement, ', ') FROM pg_prepared_statements HAVING count(*) > 0 \
    UNION ALL SELECT 'channels', string_agg(channel, ', ') FROM pg_listening_channels() AS channel HAVING count(*) > 0 \
    UNION ALL SELECT 'advisory locks', count(*)::text FROM pg_locks \
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() HAVING count(*) > 0 \
    UNION ALL SELECT 'role', current_user::text";

/// B7: sign-ins, sign-outs and the like wait for the disk, although another application has turned that off
/// for the connections of the pool.
#[tokio::test]
async fn writes_are_flushed_in_a_pool_with_relaxed_connections() {
    let Some(mut database) = db::postgres().await else { return };
    let Some(pooler) = PgBouncer::start(database.url(), "transaction", 3).await else { return };
    let mut neighbours = Vec::new();
    for _ in 0..3 {
        let mut connection = neighbour(&pooler.url).await;
        connection.execute("BEGIN").await.unwrap();
        neighbours.push(connection);
    }
    for connection in &mut neighbours {
        connection.execute("SET synchronous_commit = off; COMMIT").await.unwrap();
    }
    database.stores.close().await;
    database.stores = open_in_transaction_pool(&pooler.url, None).await.unwrap();
    check_unflushed_writes(&database).await;
    database.stores.close().await;
}

/// B7: by polling, and sooner by notifications from the server itself.
#[tokio::test]
async fn terminations_are_followed_in_a_transaction_pool() {
    let Some(database) = transaction_pool().await else { return };
    check_revocation_reaches_the_other_replica(&database.stores).await;
    // Without a URL to listen at, there is nothing to do.
    let listening = database.stores.listen_for_revocations(|| {});
    timeout(PROCESS_TIMEOUT, listening).await.expect("no listener");
}

#[tokio::test]
async fn listen_url_bypasses_a_transaction_pool() {
    let Some(database) = db::postgres().await else { return };
    let Some(pooler) = PgBouncer::start(database.url(), "transaction", 3).await else { return };
    let stores = open_in_transaction_pool(&pooler.url, Some(database.url())).await.unwrap();
    let (wake, mut wakes) = mpsc::unbounded_channel();
    let listener = stores.clone();
    let listener = tokio::spawn(async move {
        listener.listen_for_revocations(move || wake.send(()).unwrap_or_default()).await;
    });
    timeout(PROCESS_TIMEOUT, wakes.recv()).await.expect("the listener has connected").unwrap();
    let row = any_session(&stores).await;
    assert!(stores.sessions.end_session(row.id, &ending(END)).await.unwrap());
    timeout(PROCESS_TIMEOUT, wakes.recv()).await.expect("woken").unwrap();
    listener.abort();
    stores.close().await;
}

/// B7: one round trip and one transaction, as before. In a pool of transactions, BEGIN and COMMIT, and the
/// statement is parsed each time.
#[tokio::test]
async fn refresh_takes_one_round_trip() {
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let database = DatabaseLocation::at(&server.url).fresh().await;
    assert_eq!(messages_of_a_refresh(&server, &database.stores).await, ["bind", "execute"]);
    let pooled = open_in_transaction_pool(&server.url, None).await.unwrap();
    let messages = messages_of_a_refresh(&server, &pooled).await;
    assert_eq!(messages, ["statement", "parse", "bind", "execute", "statement"]);
}

/// Refreshes a session twice, and returns the messages of the second time from the server's log.
async fn messages_of_a_refresh(server: &Server, stores: &Stores) -> Vec<String> {
    let row = any_session(stores).await;
    let client = ClientInfo::default();
    let rotate = async |from_generation| {
        let rotation = Rotation {
            id: row.id,
            kind: row.kind,
            from_generation,
            now: NOW,
            max_rotated_at: NOW,
            asked_by: None,
            key_number: 1,
            idle_expires_at: row.idle_expires_at,
            client: &client,
        };
        stores.sessions.rotate(&rotation).await.unwrap().unwrap();
    };
    server.alter("log_min_duration_statement", "0").await;
    rotate(1).await;
    let before = server.log().len();
    rotate(2).await;
    let log = server.log();
    server.alter("log_min_duration_statement", "-1").await;
    let messages =
        log[before..].lines().filter_map(|line| line.split_once("duration: ")?.1.split_whitespace().nth(2));
    messages.map(|message| message.trim_end_matches(':').to_owned()).collect()
}

const END: SessionEnd = SessionEnd { at: NOW, reason: EndReason::Revoked };
