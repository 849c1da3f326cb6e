//! Network faults between a replica and the database. The replica rejects tokens of ended sessions within a
//! second or `/readyz` reports 503; after the fault it catches up.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use sekisho::app::App;
use sekisho::backend::db::{self, DatabaseOptions, Stores};
use sekisho::client_info::ClientInfo;
use sekisho::layer::{TokenService, VerifyError};
use sekisho::models::session::EndReason;
use sekisho::services::store::SessionFilter;
use tokio::task::JoinSet;

use crate::store_contract::races::race;
use crate::support::app::{TestApp, send_from};
use crate::support::browser::ACCESS;
use crate::support::chaos_proxy::TcpChaosProxy;
use crate::support::db::postgres;
use crate::support::fair_clock::FairInstant;
use crate::support::http::get;
use crate::support::process::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silently_cut_connections_are_replaced() {
    check_cut_is_detected(TcpChaosProxy::silence_existing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_network_is_detected() {
    check_cut_is_detected(TcpChaosProxy::silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_connections_are_replaced() {
    check_cut_is_detected(TcpChaosProxy::reset_existing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_server_is_detected() {
    check_cut_is_detected(TcpChaosProxy::refuse).await;
}

async fn check_cut_is_detected(cut: fn(&TcpChaosProxy)) {
    let Some(database) = postgres().await else { return };
    let local = TestApp::with_database(database).await;
    let replica = RemoteReplica::start(&local).await;
    let ann = local.signed_in("ann@example.com").await.token(ACCESS);
    assert!(replica.app.tokens.verify(&ann).is_ok());
    assert_eq!(replica.readiness().await, StatusCode::OK);
    replica.use_all_connections().await;

    cut(&replica.network);
    assert_eq!(
        local
            .app
            .tokens
            .end_matching(&SessionFilter::All, EndReason::Revoked, &ClientInfo::default())
            .await
            .unwrap()
            .len(),
        1
    );
    let ended = Instant::now();
    while ended.elapsed() < 2 * DEADLINE {
        replica.assert_rejects_or_is_unready(&ann, ended).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bob = local.signed_in("bob@example.com").await.token(ACCESS);
    assert_eq!(
        local
            .app
            .tokens
            .end_matching(&SessionFilter::All, EndReason::LoggedOut, &ClientInfo::default())
            .await
            .unwrap()
            .len(),
        1
    );

    replica.network.heal();
    let healed = FairInstant::now();
    until("the replica to catch up and be ready", async || {
        replica.assert_rejects_or_is_unready(&ann, ended).await;
        let is_refused =
            |token: &&str| matches!(replica.app.tokens.verify(token), Err(VerifyError::Ended(_)));
        let has_caught_up = [&*ann, &*bob].iter().all(is_refused);
        (has_caught_up && replica.readiness().await == StatusCode::OK).then_some(())
    })
    .await;
    let took = healed.elapsed();
    println!("ready {took:?} after the fault");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

/// A replica that reaches the database through a [`TcpChaosProxy`].
struct RemoteReplica {
    app: App,
    stores: Stores,
    network: TcpChaosProxy,
    _tasks: JoinSet<()>,
}

impl RemoteReplica {
    async fn start(other: &TestApp) -> Self {
        let network = TcpChaosProxy::to(other.fresh.url()).await;
        let stores = db::open(&network.url, &DatabaseOptions::default()).await.unwrap();
        let app = other.replica_over(&stores);
        app.tokens.revocations().load().await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(app.tokens.revocations().clone().run_poller());
        let (listener, tokens) = (stores.clone(), app.tokens.clone());
        tasks.spawn(
            async move { listener.listen_for_revocations(move || tokens.revocations().poll_now()).await },
        );
        Self { app, stores, network, _tasks: tasks }
    }

    async fn readiness(&self) -> StatusCode {
        send_from([127, 0, 0, 1], self.app.admin.clone(), get("/readyz")).await.status
    }

    /// Checks that more than a second after the end of the session, the replica rejects its token or is not
    /// ready.
    async fn assert_rejects_or_is_unready(&self, token: &str, ended: Instant) {
        let must_know = ended.elapsed() > DEADLINE;
        let readiness = self.readiness().await;
        let verified = self.app.tokens.verify(token);
        assert!(
            !must_know || readiness == StatusCode::SERVICE_UNAVAILABLE || verified.is_err(),
            "{:?} after the end it is {readiness} and {verified:?}",
            ended.elapsed()
        );
    }

    /// Opens all connections of the pool, so that the fault hits many.
    async fn use_all_connections(&self) {
        race(20, |_| {
            let sessions = self.stores.sessions.clone();
            async move { sessions.database_time().await.unwrap() }
        })
        .await;
    }
}

const DEADLINE: Duration = Duration::from_secs(1);
