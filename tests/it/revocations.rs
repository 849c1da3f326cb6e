//! Sessions ended at one replica are rejected by another within a second, access tokens included.

use std::sync::Arc;
use std::time::Duration;

use sekisho::backend::db::Stores;
use sekisho::client_info::ClientInfo;
use sekisho::clock::SystemClock;
use sekisho::layer::{TokenService, VerifyError};
use sekisho::models::session::EndReason;
use sekisho::models::user::UserId;
use sekisho::services::jwt::AccessTokens;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SharedKeys};
use sekisho::services::store::SessionFilter;
use sekisho::services::token::{IssuedSession, SessionRequest, SessionSettings, Tokens};
use sekisho::session_event::SessionEvent;
use uuid::Uuid;

use crate::support::db;
use crate::support::fair_clock::FairInstant;

mod network_faults;
mod notifications;

const USER: UserId = UserId(Uuid::from_u128(7));

/// Creates two replicas with the same keys on one database.
fn replicas(stores: &Stores) -> [Tokens; 2] {
    replicas_on([stores, stores])
}

/// Creates two replicas with separate connections to the database.
fn replicas_on(stores: [&Stores; 2]) -> [Tokens; 2] {
    let now = sekisho::clock::Clock::now(&SystemClock);
    let material = KeyMaterial::generate(1, Algorithm::Hs256, now).unwrap();
    stores.map(|stores| {
        let keys = Arc::new(SharedKeys::new(KeyRing::from_material(&material).unwrap()));
        let settings = SessionSettings::default();
        let store = Arc::clone(&stores.sessions);
        Tokens::new(store, keys, AccessTokens::default(), settings, Arc::new(SystemClock))
    })
}

async fn sign_in(tokens: &Tokens) -> IssuedSession {
    let sign_in = SessionRequest::new(USER, "taro@example.jp");
    tokens.sign_in(sign_in).await.unwrap()
}

/// Waits up to a second until `tokens` rejects the access token.
pub(crate) async fn wait_for_rejection(tokens: &Tokens, access_token: &str) -> VerifyError {
    let start = FairInstant::now();
    loop {
        if let Err(error) = tokens.verify(access_token) {
            return error;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "not rejected within a second");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn check_revocation_reaches_the_other_replica(stores: &Stores) {
    let [local, remote] = replicas(stores);
    let (first, second) = (sign_in(&local).await, sign_in(&local).await);
    remote.revocations().load().await.unwrap();
    let poller = tokio::spawn(remote.revocations().clone().run_poller());
    for issued in [&first, &second] {
        assert!(remote.verify(&issued.tokens.access_token).is_ok());
    }

    assert!(local.end(first.session.id, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap());
    let error = local.verify(&first.tokens.access_token).map(|_| ());
    assert_eq!(
        error,
        Err(VerifyError::Ended(SessionEvent::LoggedOut)),
        "rejected at once at the same replica"
    );
    let error = wait_for_rejection(&remote, &first.tokens.access_token).await;
    assert_eq!(error, VerifyError::Ended(SessionEvent::LoggedOut));
    assert!(remote.verify(&second.tokens.access_token).is_ok(), "other sessions are unaffected");

    assert_eq!(
        local
            .end_matching(&SessionFilter::User(USER.into()), EndReason::Revoked, &ClientInfo::default())
            .await
            .unwrap(),
        [second.session.id]
    );
    let error = wait_for_rejection(&remote, &second.tokens.access_token).await;
    assert_eq!(error, VerifyError::Ended(SessionEvent::Revoked));
    poller.abort();
}

async fn check_revocations_are_loaded_at_start(stores: &Stores) {
    let [local, remote] = replicas(stores);
    let issued = sign_in(&local).await;
    local.end(issued.session.id, EndReason::Revoked, &ClientInfo::default()).await.unwrap();
    remote.revocations().load().await.unwrap();
    let error = remote.verify(&issued.tokens.access_token).map(|_| ());
    assert_eq!(error, Err(VerifyError::Ended(SessionEvent::Revoked)));
}

/// B1: a replica that starts after the clock of PostgreSQL was set ahead loads the terminations from before.
#[tokio::test]
async fn revocations_from_before_a_step_of_the_database_clock_are_loaded() {
    let Some(database) = db::postgres().await else { return };
    let [local, remote] = replicas(&database.stores);
    let issued = sign_in(&local).await;
    local.end(issued.session.id, EndReason::Revoked, &ClientInfo::default()).await.unwrap();
    // As if the clock had been set ahead by a day since.
    db::run(database.url(), "UPDATE myapi.sessions SET end_recorded_at = end_recorded_at - interval '1 day'")
        .await;
    remote.revocations().load().await.unwrap();
    let error = remote.verify(&issued.tokens.access_token).map(|_| ());
    assert_eq!(error, Err(VerifyError::Ended(SessionEvent::Revoked)));
}

#[tokio::test]
async fn revocations_are_followed_on_sqlite() {
    let Some(database) = db::sqlite().await else { return };
    check_revocation_reaches_the_other_replica(&database.stores).await;
    check_revocations_are_loaded_at_start(&database.stores).await;
}

#[tokio::test]
async fn revocations_are_followed_on_postgresql() {
    let Some(database) = db::postgres().await else { return };
    check_revocation_reaches_the_other_replica(&database.stores).await;
    check_revocations_are_loaded_at_start(&database.stores).await;
}
