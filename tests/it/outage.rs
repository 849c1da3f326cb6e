//! Database outages: no sign-out, no hanging request, and recovery without a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::clock::{Clock, SystemClock};
use sekisho::layer::{RefreshError, RefreshRequest};
use sekisho::models::session::SessionKind;
use sekisho::models::user::Role;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::token::{SessionRequest, SessionSettings, Tokens};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::store_contract::{any_session, found};
use crate::support::chaos_proxy::TcpChaosProxy;
use crate::support::db::{TestDatabase, postgres};
use crate::support::fair_clock::FairInstant;
use crate::support::gateway::{SessionCookies, TestGateway, TestGatewayBuilder, get, route};
use crate::support::http::TestResponse;
use crate::support::process::until;
use crate::support::upstream::Upstream;

mod restarts;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_retried() {
    check_outage_and_recovery(TcpChaosProxy::refuse).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_database_is_retried() {
    check_outage_and_recovery(TcpChaosProxy::silence).await;
}

async fn check_outage_and_recovery(lose: fn(&TcpChaosProxy)) {
    let Some(remote) = RemoteDatabase::open().await else { return };
    let upstream = Upstream::start().await;
    let gateway = remote.gateway(&route("/", &upstream.url(), "")).await;
    let cookies = gateway.signed_in(Role::User).await;
    lose(&remote.network);
    let response = send(&gateway, &cookies).await;
    assert_eq!((response.status.as_u16(), response.event()), (200, None), "a valid token needs no database");

    // Within the last tenth of the token's lifetime, where a refresh is attempted.
    gateway.clock.advance(Duration::from_secs(840));
    let sent_at = FairInstant::now();
    assert_eq!(send(&gateway, &cookies).await.status, 200);
    assert!(sent_at.elapsed() < Duration::from_secs(1), "{:?}", sent_at.elapsed());

    gateway.expire();
    for _ in 0..2 {
        assert_unavailable(&send(&gateway, &cookies).await);
    }
    remote.network.heal();
    let healed = FairInstant::now();
    let refreshed = until("a refresh", async || {
        let response = send(&gateway, &cookies).await;
        if response.status != 200 {
            assert_unavailable(&response);
            return None;
        }
        Some(response)
    })
    .await;
    println!("refreshed {:?} after the outage", healed.elapsed());
    assert!(healed.elapsed() < Duration::from_secs(8), "{:?}", healed.elapsed());
    assert_eq!(refreshed.event(), Some("rotated"));
    assert!(SessionCookies::of(&refreshed).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_store_loss_refuse_rejects_tokens_while_revocations_are_stale() {
    let Some(remote) = RemoteDatabase::open().await else { return };
    let upstream = Upstream::start().await;
    let setting = "session.on_store_loss = \"refuse\"\n".to_owned();
    let gateway = remote.gateway(&(setting + &route("/", &upstream.url(), ""))).await;
    let cookies = gateway.signed_in(Role::User).await;
    gateway.app.tokens.revocations().load().await.unwrap();
    let poller = tokio::spawn(gateway.app.tokens.revocations().clone().run_poller());
    assert_eq!(send(&gateway, &cookies).await.status, 200);
    remote.network.refuse();
    let response = until("a rejection", async || {
        let response = send(&gateway, &cookies).await;
        (response.status != 200).then_some(response)
    })
    .await;
    assert_unavailable(&response);
    remote.network.heal();
    until("a successful response", async || (send(&gateway, &cookies).await.status == 200).then_some(()))
        .await;
    poller.abort();
}

/// A cancelled statement on a dead connection frees its slot in the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cut_in_use_is_replaced_in_the_pool() {
    let Some(remote) = RemoteDatabase::open().await else { return };
    let row = any_session(&remote.stores).await;
    let mut locking = sqlx::PgConnection::connect(remote.database.url()).await.unwrap();
    locking.execute("BEGIN; LOCK TABLE myapi.sessions").await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let sessions = remote.stores.sessions.clone();
        tasks.spawn(async move { drop(sessions.find_session(row.id).await) });
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock'";
    // Autocommit: inside a transaction the view would not change.
    let mut watching = sqlx::PgConnection::connect(remote.database.url()).await.unwrap();
    until("statements to wait for the lock", async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut watching).await.unwrap();
        (waiting >= 6).then_some(())
    })
    .await;
    remote.network.silence_existing();
    tasks.shutdown().await;
    locking.execute("ROLLBACK").await.unwrap();
    assert_eq!(found(&remote.stores, row.id).await, row);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_fail_fast_while_the_database_is_silent() {
    let Some(remote) = RemoteDatabase::open().await else { return };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).unwrap();
    let tokens_on = |stores: &Stores| {
        let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&key).unwrap()));
        let (access, settings) = (AccessTokens::default(), SessionSettings::default());
        Tokens::new(stores.sessions.clone(), keys, access, settings, Arc::clone(&clock))
    };
    // Refresh tokens are valid without their rows in this database.
    let (tokens, elsewhere) = (tokens_on(&remote.stores), tokens_on(&Stores::in_memory()));
    let honest = refresh_token(&tokens).await;
    let mut tokens_of_others = Vec::new();
    for _ in 0..CROWD {
        tokens_of_others.push(refresh_token(&elsewhere).await);
    }
    remote.network.silence();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (nth, refresh_token) in tokens_of_others.into_iter().enumerate() {
        let tokens = tokens.clone();
        tasks.spawn(async move {
            // The requests are spread over two seconds.
            tokio::time::sleep(Duration::from_secs(2) * u32::try_from(nth).unwrap() / CROWD).await;
            let sent_at = FairInstant::now();
            (refresh(&tokens, refresh_token).await.map(drop), sent_at.elapsed())
        });
    }
    let responses = tasks.join_all().await;
    assert!(responses.iter().all(|(response, _)| *response == Err(RefreshError::Unavailable)));
    let at_once = responses.iter().filter(|(_, took)| *took < Duration::from_millis(500)).count();
    println!("{CROWD} requests in {:?}, {at_once} failed fast", start.elapsed());
    assert!(at_once > CROWD as usize / 5, "{at_once}");

    remote.network.heal();
    let healed = FairInstant::now();
    until("a refresh", async || refresh(&tokens, honest.clone()).await.ok()).await;
    assert!(healed.elapsed() < Duration::from_secs(8), "{:?}", healed.elapsed());
}

async fn refresh_token(tokens: &Tokens) -> String {
    let sign_in = SessionRequest::new(Uuid::from_u128(7), "taro@example.jp");
    tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token
}

async fn refresh(tokens: &Tokens, refresh_token: String) -> Result<(), RefreshError> {
    let request = RefreshRequest { refresh_token, ..RefreshRequest::default() };
    tokens.refresh_session(request, SessionKind::Browser).await.map(drop)
}

/// A database behind a [`TcpChaosProxy`].
struct RemoteDatabase {
    database: TestDatabase,
    network: TcpChaosProxy,
    stores: Stores,
}

impl RemoteDatabase {
    async fn open() -> Option<Self> {
        let database = postgres().await?;
        let network = TcpChaosProxy::to(database.url()).await;
        let stores = db::open(&network.url, &DatabaseOptions::default()).await.unwrap();
        Some(Self { database, network, stores })
    }

    async fn gateway(&self, toml: &str) -> TestGateway {
        let stores = self.stores.clone();
        TestGatewayBuilder::new(toml).with_stores(|_| stores).start().await
    }
}

async fn send(gateway: &TestGateway, cookies: &SessionCookies) -> TestResponse {
    gateway.ask(get("/").header("cookie", cookies.line())).await
}

/// Checks for a 503 that leaves the session untouched.
fn assert_unavailable(response: &TestResponse) {
    response.problem(503, "store_unavailable");
    assert_eq!(response.event(), Some("store_unavailable"));
    assert!(response.header("retry-after").is_some());
    assert!(response.set_cookies().is_empty());
}

const CROWD: u32 = 2_000;
