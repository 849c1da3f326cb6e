//! Failover of PostgreSQL: a streaming standby is promoted under load, while replicas are connected to the
//! former primary.
//!
//! Each replica rejects the tokens of sessions that end on the new primary within a second, or its `/readyz`
//! responds 503. Commits wait for the standby, as docs/postgresql.md recommends, so no flushed write is lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use sekisho::clock::{Clock, SystemClock};
use sekisho::models::session::{EndReason, Session, SessionEnd};
use sekisho::services::store::{EndedSince, SessionFilter, StoreError};
use sqlx::Connection;
use tokio::task::{JoinSet, spawn_blocking};
use uuid::Uuid;

use crate::store_contract::{NOW, any_session, ending, known_session, session, user};
use crate::support::chaos_proxy::TcpChaosProxy;
use crate::support::db::{DatabaseLocation, TestDatabase};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Server, Stop};
use crate::support::process::{PASSWORD, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

/// B6: the primary is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_primary_is_replaced() {
    let Some(failover) = Failover::start().await else { return };
    failover.stop_primary().await;
    failover.expect_unready().await;
    failover.promote().await;
    failover.name.move_to(&failover.standby.url);
    failover.check_recovery().await;
}

/// B6: the primary is up and accepts no writes, with the clients' connections intact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fenced_primary_is_replaced() {
    let Some(failover) = Failover::start().await else { return };
    failover.primary.alter("default_transaction_read_only", "on").await;
    failover.expect_unready().await;
    failover.promote().await;
    failover.name.move_to(&failover.standby.url);
    failover.check_recovery().await;
}

/// B6: the primary is up and accepts writes, but the host name has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_host_name_is_noticed() {
    let Some(failover) = Failover::start().await else { return };
    failover.promote().await;
    failover.name.move_to(&failover.standby.url);
    failover.check_recovery().await;
}

/// B6: the former primary becomes a standby of the new one, under the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_is_not_taken_for_the_primary() {
    let Some(failover) = Failover::start().await else { return };
    failover.name.move_to(&failover.standby.url);
    failover.expect_unready().await;
    failover.promote().await;
    failover.check_recovery().await;
}

/// B6, B7: the same behind PgBouncer, which pools transactions and keeps its connections to the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fenced_primary_is_replaced_behind_a_transaction_pool() {
    let Some(failover) = Failover::start_behind_a_transaction_pool().await else { return };
    failover.primary.alter("default_transaction_read_only", "on").await;
    failover.expect_unready().await;
    failover.promote().await;
    failover.name.move_to(&failover.standby.url);
    failover.stop_primary().await;
    failover.check_recovery().await;
}

/// B6: with `session.on_store_loss = "refuse"`, valid tokens are refused while the primary is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_store_loss_refuse_holds_on_a_fenced_primary() {
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let deployment = TestDeployment::new(DatabaseLocation::at(&server.url)).await;
    check_refusal_on_a_fenced_primary(&server, deployment).await;
}

/// B6, B7: also behind PgBouncer, which pools transactions. No write is tried that would fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_store_loss_refuse_holds_behind_a_transaction_pool() {
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let Some(pooler) = PgBouncer::start(&server.url, "transaction", 8).await else { return };
    check_refusal_on_a_fenced_primary(&server, deployment_behind(&pooler).await).await;
}

async fn check_refusal_on_a_fenced_primary(server: &Server, mut deployment: TestDeployment) {
    deployment.set("tokens.access_ttl", "15m");
    deployment.set("session.on_store_loss", "refuse");
    deployment.user(VICTIM, "user").await;
    let replica = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(replica.public, VICTIM).await;
    assert_eq!(ann.status(replica.public, "/auth/session").await, 200);

    server.alter("default_transaction_read_only", "on").await;
    until("valid tokens to be refused", async || {
        (ann.status(replica.public, "/auth/session").await == 503).then_some(())
    })
    .await;
    assert_eq!(readiness(&replica).await, 503);
    server.alter("default_transaction_read_only", "off").await;
    until("valid tokens to be accepted", async || {
        (ann.status(replica.public, "/auth/session").await == 200).then_some(())
    })
    .await;
    until("/readyz", async || (readiness(&replica).await == 200).then_some(())).await;
    replica.stop().await;
}

/// B6: a commit that gives up the wait for its standby is not acknowledged, for a failover would undo it.
#[tokio::test]
async fn commit_without_its_standby_is_not_acknowledged() {
    let Some(server) = spawn_blocking(Server::start).await.unwrap() else { return };
    let database = DatabaseLocation::at(&server.url).fresh().await;
    let row = any_session(&database.stores).await;
    server.alter("synchronous_standby_names", "absent").await;
    let end = SessionEnd { at: NOW, reason: EndReason::Revoked };
    let ended = database.stores.sessions.end_session(row.id, &ending(end)).await;
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
}

/// B6: a session that began on the new primary is missing on the former one, to which a connection may still lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_session_is_doubted_until_the_primary_is_known() {
    let Some(moved) = MovedDatabase::start().await else { return };
    let sessions = &moved.database.stores.sessions;
    let found = sessions.find_session(moved.newer.id).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
    assert_eq!(sessions.find_session(moved.newer.id).await.unwrap(), Some(moved.newer));
    assert_eq!(sessions.find_session(moved.older.id).await.unwrap(), Some(moved.older));
}

/// B6: a sign-out of a session that the server does not know is acknowledged by the primary alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_out_is_not_acknowledged_by_the_former_primary() {
    let Some(moved) = MovedDatabase::start().await else { return };
    let sessions = &moved.database.stores.sessions;
    let end = ending(SessionEnd { at: NOW, reason: EndReason::LoggedOut });
    let ended = sessions.end_session(moved.newer.id, &end).await;
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    assert!(sessions.end_session(moved.newer.id, &end).await.unwrap());
    assert!(!sessions.end_session(moved.newer.id, &end).await.unwrap());
}

/// A database whose host name has moved to a promoted standby, with connections to the former primary.
struct MovedDatabase {
    database: TestDatabase,
    /// A session of both servers.
    older: Session,
    /// A session of the new primary alone.
    newer: Session,
    _servers: [Arc<Server>; 2],
    _name: TcpChaosProxy,
}

impl MovedDatabase {
    async fn start() -> Option<Self> {
        let (primary, standby, name) = start_servers().await?;
        let database = DatabaseLocation::at(&name.url).fresh().await;
        let older = any_session(&database.stores).await;
        database.stores.sessions.ended_since(EndedSince::time(NOW)).await.unwrap();
        let promoted = Arc::clone(&standby);
        spawn_blocking(move || promoted.promote()).await.unwrap();
        name.move_to(&standby.url);
        let stores = DatabaseLocation::at(&standby.url).open().await;
        let newer = known_session(&stores, session(&user(OTHER))).await;
        Some(Self { database, older, newer, _servers: [primary, standby], _name: name })
    }
}

/// Two replicas on a primary with a synchronous standby, under load.
struct Failover {
    primary: Arc<Server>,
    standby: Arc<Server>,
    /// The host name of the primary.
    name: TcpChaosProxy,
    replicas: [ServerProcess; 2],
    /// Browsers whose sessions end on the new primary.
    victims: [SocketBrowser; 2],
    load: Load,
    _deployment: TestDeployment,
    _pooler: Option<PgBouncer>,
}

impl Failover {
    async fn start() -> Option<Self> {
        let (primary, standby, name) = start_servers().await?;
        let deployment = TestDeployment::new(DatabaseLocation::at(&name.url)).await;
        Some(Self::serve(primary, standby, name, deployment, None).await)
    }

    async fn start_behind_a_transaction_pool() -> Option<Self> {
        let (primary, standby, name) = start_servers().await?;
        let pooler = PgBouncer::start(&name.url, "transaction", 8).await?;
        let deployment = deployment_behind(&pooler).await;
        Some(Self::serve(primary, standby, name, deployment, Some(pooler)).await)
    }

    async fn serve(
        primary: Arc<Server>,
        standby: Arc<Server>,
        name: TcpChaosProxy,
        mut deployment: TestDeployment,
        pooler: Option<PgBouncer>,
    ) -> Self {
        // The tokens of the victims need no refresh during the test.
        deployment.set("tokens.access_ttl", "15m");
        deployment.user(VICTIM, "user").await;
        deployment.user(OTHER, "user").await;
        deployment.user(PAGE_USER, "user").await;
        let replicas = [deployment.serve().await, deployment.serve().await];
        let mut victims = [SocketBrowser::default(), SocketBrowser::default()];
        for (victim, replica) in victims.iter_mut().zip(&replicas) {
            *victim = SocketBrowser::signed_in(replica.public, VICTIM).await;
        }
        let load = Load::start([replicas[0].public, replicas[1].public]).await;
        Self { primary, standby, name, replicas, victims, load, _deployment: deployment, _pooler: pooler }
    }

    async fn stop_primary(&self) {
        let primary = Arc::clone(&self.primary);
        spawn_blocking(move || primary.stop(Stop::Immediate)).await.unwrap();
    }

    async fn promote(&self) {
        let standby = Arc::clone(&self.standby);
        spawn_blocking(move || standby.promote()).await.unwrap();
    }

    async fn expect_unready(&self) {
        for replica in &self.replicas {
            until("/readyz to report the lost primary", async || {
                (readiness(replica).await == 503).then_some(())
            })
            .await;
        }
    }

    /// Ends sessions on the new primary, and checks that each replica rejects their tokens or is not ready, and
    /// recovers. Then checks the writes of the load.
    async fn check_recovery(mut self) {
        let stores = DatabaseLocation::at(&self.standby.url).open().await;
        let victim = stores.users.find_user_by_email(VICTIM).await.unwrap().unwrap();
        let end = SessionEnd { at: SystemClock.now(), reason: EndReason::Revoked };
        let filter = SessionFilter::User(victim.id.into());
        assert_eq!(stores.sessions.end_sessions(&filter, &ending(end)).await.unwrap().len(), 2);
        let ended = Instant::now();
        for (replica, victim) in self.replicas.iter().zip(&mut self.victims) {
            let recovered = until("the replica to reject the token and to be ready", async || {
                let must_know = ended.elapsed() > Duration::from_secs(1);
                let readiness = readiness(replica).await;
                let status = victim.clone().status(replica.public, "/auth/session").await;
                assert!(
                    !must_know || readiness == 503 || status == 401,
                    "{:?} after the end, readiness {readiness} and status {status}: {}",
                    ended.elapsed(),
                    replica.log()
                );
                (readiness == 200 && status == 401).then(|| ended.elapsed())
            })
            .await;
            println!("ready {recovered:?} after the end");
        }
        self.load.wait_for_more().await;
        self.load.check(&self.standby.url).await;
        for replica in self.replicas {
            replica.stop().await;
        }
    }
}

/// Returns a deployment with keys behind a PgBouncer that pools transactions.
async fn deployment_behind(pooler: &PgBouncer) -> TestDeployment {
    let mut deployment = TestDeployment::without_keys(DatabaseLocation::at(&pooler.url));
    deployment.set("database.pooling", "transaction");
    deployment.run(&["key", "init"]).await.done();
    deployment
}

/// Starts a primary with a synchronous standby, and a name that leads to the primary.
async fn start_servers() -> Option<(Arc<Server>, Arc<Server>, TcpChaosProxy)> {
    let servers = spawn_blocking(|| {
        let primary = Server::start()?;
        let standby = primary.standby();
        Some((Arc::new(primary), Arc::new(standby)))
    });
    let (primary, standby) = servers.await.unwrap()?;
    primary.alter("synchronous_standby_names", "*").await;
    let mut connection = sqlx::PgConnection::connect(&primary.url).await.unwrap();
    until("the standby", async || {
        let attached = "SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync')";
        sqlx::query_scalar::<_, bool>(attached).fetch_one(&mut connection).await.unwrap().then_some(())
    })
    .await;
    let name = TcpChaosProxy::to(&primary.url).await;
    Some((primary, standby, name))
}

async fn readiness(replica: &ServerProcess) -> u16 {
    SocketBrowser::default().status(replica.admin, "/readyz").await.as_u16()
}

/// Browsers that refresh, sign in and sign out all the time.
struct Load {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

/// The writes that were acknowledged.
#[derive(Default)]
struct Counts {
    refreshed: Mutex<[u64; PAGES]>,
    signed_in: Mutex<Vec<Uuid>>,
    signed_out: Mutex<Vec<Uuid>>,
    stopped: AtomicBool,
}

impl Load {
    async fn start(replicas: [SocketAddr; 2]) -> Self {
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        for nth in 0..PAGES {
            let browser = SocketBrowser::signed_in(replicas[nth % 2], PAGE_USER).await;
            tasks.spawn(refresh_all_the_time(nth, browser, replicas, Arc::clone(&counts)));
        }
        for replica in replicas {
            tasks.spawn(sign_in_and_out(replica, Arc::clone(&counts)));
        }
        let mut load = Self { counts, tasks };
        load.wait_for_more().await;
        load
    }

    /// Waits until each page has refreshed again, and more sessions were signed out.
    async fn wait_for_more(&mut self) {
        let counts = &self.counts;
        let refreshed = *counts.refreshed.lock().unwrap();
        let signed_out = counts.signed_out.lock().unwrap().len();
        until("more refreshes and sign-outs", async || {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.unwrap();
            }
            let pages = *counts.refreshed.lock().unwrap();
            let all = pages.iter().zip(refreshed).all(|(now, before)| *now > before);
            (all && counts.signed_out.lock().unwrap().len() > signed_out).then_some(())
        })
        .await;
    }

    /// Stops, and checks the acknowledged writes in the database at `url`.
    async fn check(self, url: &str) {
        self.counts.stopped.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        let signed_in = self.counts.signed_in.lock().unwrap().clone();
        let signed_out = self.counts.signed_out.lock().unwrap().clone();
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        for (ids, condition) in [(&signed_in, "TRUE"), (&signed_out, "ended_at IS NOT NULL")] {
            let kept = format!("SELECT count(*) FROM myapi.sessions WHERE id = ANY($1) AND {condition}");
            let kept = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(kept)).bind(ids);
            let kept = kept.fetch_one(&mut connection).await.unwrap();
            assert_eq!(usize::try_from(kept).unwrap(), ids.len(), "acknowledged writes with {condition}");
        }
        println!("{} sign-ins and {} sign-outs are kept", signed_in.len(), signed_out.len());
    }
}

/// A page with the refresh token alone, which polls both replicas in turn. It is never signed out.
async fn refresh_all_the_time(
    nth: usize,
    mut browser: SocketBrowser,
    replicas: [SocketAddr; 2],
    counts: Arc<Counts>,
) {
    for tick in 0.. {
        if counts.stopped.load(Ordering::Relaxed) {
            return;
        }
        browser.cookies.remove("__Host-access_token");
        let response = browser.get(replicas[tick % 2], "/auth/session").await;
        match response.status.as_u16() {
            200 => counts.refreshed.lock().unwrap()[nth] += 1,
            503 => assert!(browser.cookies.contains_key("__Host-refresh_token"), "{response:?}"),
            _ => panic!("page {nth}: {response:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Signs in and out. A response other than 503 means that the write is kept.
async fn sign_in_and_out(replica: SocketAddr, counts: Arc<Counts>) {
    while !counts.stopped.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut browser = SocketBrowser::default();
        let response = browser.sign_in(replica, OTHER, PASSWORD).await;
        if response.status == 503 {
            continue;
        }
        assert_eq!(response.status, 200, "{response:?}");
        let session: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        let id: Uuid = session["session_id"].as_str().unwrap().parse().unwrap();
        counts.signed_in.lock().unwrap().push(id);
        let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
        let response = browser.send(replica, request).await.unwrap();
        match response.status.as_u16() {
            204 => counts.signed_out.lock().unwrap().push(id),
            503 => {}
            _ => panic!("{response:?}"),
        }
    }
}

const VICTIM: &str = "ann@example.com";
const OTHER: &str = "bob@example.com";
const PAGE_USER: &str = "cleo@example.com";
const PAGES: usize = 4;
