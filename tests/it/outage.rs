//! Database outages: no sign-out, no hanging request, and recovery without a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::clock::{Clock, SystemClock};
use sekisho::layer::{RefreshError, RefreshRequest};
use sekisho::models::session::SessionKind;
use sekisho::models::user::{Role, UserId};
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
use crate::support::http::Answer;
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
    let Some(far) = RemoteDatabase::open().await else { return };
    let upstream = Upstream::start().await;
    let gateway = far.gateway(&route("/", &upstream.url(), "")).await;
    let jar = gateway.signed_in(Role::User).await;
    lose(&far.wire);
    let answer = ask(&gateway, &jar).await;
    assert_eq!((answer.status.as_u16(), answer.event()), (200, None), "a good token asks nobody");

    // Within the last tenth of the token's lifetime, where a refresh is attempted.
    gateway.clock.advance(Duration::from_secs(840));
    let asked = FairInstant::now();
    assert_eq!(ask(&gateway, &jar).await.status, 200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());

    gateway.expire();
    for _ in 0..2 {
        assert_unavailable(&ask(&gateway, &jar).await);
    }
    far.wire.heal();
    let healed = FairInstant::now();
    let renewed = until("a renewal", async || {
        let answer = ask(&gateway, &jar).await;
        if answer.status != 200 {
            assert_unavailable(&answer);
            return None;
        }
        Some(answer)
    })
    .await;
    println!("renewed {:?} after the database was back", healed.elapsed());
    assert!(healed.elapsed() < Duration::from_secs(8), "{:?}", healed.elapsed());
    assert_eq!(renewed.event(), Some("rotated"));
    assert!(SessionCookies::of(&renewed).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_store_loss_refuse_rejects_tokens_while_revocations_are_stale() {
    let Some(far) = RemoteDatabase::open().await else { return };
    let upstream = Upstream::start().await;
    let setting = "session.on_store_loss = \"refuse\"\n".to_owned();
    let gateway = far.gateway(&(setting + &route("/", &upstream.url(), ""))).await;
    let jar = gateway.signed_in(Role::User).await;
    gateway.app.tokens.revocations().load().await.unwrap();
    let feed = tokio::spawn(gateway.app.tokens.revocations().clone().run_poller());
    assert_eq!(ask(&gateway, &jar).await.status, 200);
    far.wire.refuse();
    let refused = until("a refusal", async || {
        let answer = ask(&gateway, &jar).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_unavailable(&refused);
    far.wire.heal();
    until("an answer", async || (ask(&gateway, &jar).await.status == 200).then_some(())).await;
    feed.abort();
}

/// A cancelled statement on a dead connection frees its slot in the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cut_in_use_is_replaced_in_the_pool() {
    let Some(far) = RemoteDatabase::open().await else { return };
    let row = any_session(&far.stores).await;
    let mut locking = sqlx::PgConnection::connect(far.fresh.url()).await.unwrap();
    locking.execute("BEGIN; LOCK TABLE myapi.sessions").await.unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let sessions = far.stores.sessions.clone();
        asking.spawn(async move { drop(sessions.find_session(row.id).await) });
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock'";
    // Autocommit: inside a transaction the view would not change.
    let mut watching = sqlx::PgConnection::connect(far.fresh.url()).await.unwrap();
    until("statements that wait", async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut watching).await.unwrap();
        (waiting >= 6).then_some(())
    })
    .await;
    far.wire.silence_existing();
    asking.shutdown().await;
    locking.execute("ROLLBACK").await.unwrap();
    assert_eq!(found(&far.stores, row.id).await, row);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_fail_fast_while_the_database_is_silent() {
    let Some(far) = RemoteDatabase::open().await else { return };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let key = KeyMaterial::generate(1, Algorithm::Hs256, clock.now()).unwrap();
    let over = |stores: &Stores| {
        let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&key).unwrap()));
        let (access, settings) = (AccessTokens::default(), SessionSettings::default());
        Tokens::new(stores.sessions.clone(), keys, access, settings, Arc::clone(&clock))
    };
    // Refresh tokens are valid without their rows in this database.
    let (tokens, elsewhere) = (over(&far.stores), over(&Stores::in_memory()));
    let honest = refresh_token(&tokens).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(refresh_token(&elsewhere).await);
    }
    far.wire.silence();
    let began = Instant::now();
    let mut renewing = JoinSet::new();
    for (nth, refresh_token) in crowd.into_iter().enumerate() {
        let tokens = tokens.clone();
        renewing.spawn(async move {
            // The requests are spread over two seconds.
            tokio::time::sleep(Duration::from_secs(2) * u32::try_from(nth).unwrap() / CROWD).await;
            let asked = FairInstant::now();
            (renew(&tokens, refresh_token).await.map(drop), asked.elapsed())
        });
    }
    let answers = renewing.join_all().await;
    assert!(answers.iter().all(|(answer, _)| *answer == Err(RefreshError::Unavailable)));
    let at_once = answers.iter().filter(|(_, took)| *took < Duration::from_millis(500)).count();
    println!("{CROWD} in {:?}, {at_once} of them at once", began.elapsed());
    assert!(at_once > CROWD as usize / 5, "{at_once}");

    far.wire.heal();
    let healed = FairInstant::now();
    until("a renewal", async || renew(&tokens, honest.clone()).await.ok()).await;
    assert!(healed.elapsed() < Duration::from_secs(8), "{:?}", healed.elapsed());
}

async fn refresh_token(tokens: &Tokens) -> String {
    let sign_in = SessionRequest::new(UserId(Uuid::from_u128(7)), "taro@example.jp");
    tokens.sign_in(sign_in).await.unwrap().tokens.refresh_token
}

async fn renew(tokens: &Tokens, refresh_token: String) -> Result<(), RefreshError> {
    let request = RefreshRequest { refresh_token, ..RefreshRequest::default() };
    tokens.refresh_session(request, SessionKind::Browser).await.map(drop)
}

/// A database behind a [`TcpChaosProxy`].
struct RemoteDatabase {
    fresh: TestDatabase,
    wire: TcpChaosProxy,
    stores: Stores,
}

impl RemoteDatabase {
    async fn open() -> Option<Self> {
        let fresh = postgres().await?;
        let wire = TcpChaosProxy::to(fresh.url()).await;
        let stores = db::open(&wire.url, &DatabaseOptions::default()).await.unwrap();
        Some(Self { fresh, wire, stores })
    }

    async fn gateway(&self, toml: &str) -> TestGateway {
        let stores = self.stores.clone();
        TestGatewayBuilder::new(toml).with_stores(|_| stores).start().await
    }
}

async fn ask(gateway: &TestGateway, jar: &SessionCookies) -> Answer {
    gateway.ask(get("/").header("cookie", jar.line())).await
}

/// Checks for a 503 that leaves the session untouched.
fn assert_unavailable(answer: &Answer) {
    answer.problem(503, "store_unavailable");
    assert_eq!(answer.event(), Some("store_unavailable"));
    assert!(answer.header("retry-after").is_some());
    assert!(answer.set_cookies().is_empty());
}

const CROWD: u32 = 2_000;
