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
pub(crate) async fn refusal(tokens: &Tokens, access_token: &str) -> VerifyError {
    let began = FairInstant::now();
    loop {
        if let Err(error) = tokens.verify(access_token) {
            return error;
        }
        assert!(began.elapsed() < Duration::from_secs(1), "refused within a second");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn check_revocation_reaches_the_other_replica(stores: &Stores) {
    let [here, there] = replicas(stores);
    let (one, two) = (sign_in(&here).await, sign_in(&here).await);
    there.revocations().load().await.unwrap();
    let poller = tokio::spawn(there.revocations().clone().run_poller());
    for issued in [&one, &two] {
        assert!(there.verify(&issued.tokens.access_token).is_ok());
    }

    assert!(here.terminate(one.session.id, EndReason::LoggedOut, &ClientInfo::default()).await.unwrap());
    let here_too = here.verify(&one.tokens.access_token).map(|_| ());
    assert_eq!(here_too, Err(VerifyError::Ended(SessionEvent::LoggedOut)), "here at once");
    let refused = refusal(&there, &one.tokens.access_token).await;
    assert_eq!(refused, VerifyError::Ended(SessionEvent::LoggedOut));
    assert!(there.verify(&two.tokens.access_token).is_ok(), "no other session");

    assert_eq!(
        here.terminate_matching(&SessionFilter::User(USER), EndReason::Revoked, &ClientInfo::default())
            .await
            .unwrap(),
        [two.session.id]
    );
    let refused = refusal(&there, &two.tokens.access_token).await;
    assert_eq!(refused, VerifyError::Ended(SessionEvent::Revoked));
    poller.abort();
}

async fn check_revocations_are_loaded_at_start(stores: &Stores) {
    let [here, there] = replicas(stores);
    let issued = sign_in(&here).await;
    here.terminate(issued.session.id, EndReason::Revoked, &ClientInfo::default()).await.unwrap();
    there.revocations().load().await.unwrap();
    let refused = there.verify(&issued.tokens.access_token).map(|_| ());
    assert_eq!(refused, Err(VerifyError::Ended(SessionEvent::Revoked)));
}

#[tokio::test]
async fn revocations_are_followed_on_sqlite() {
    let Some(fresh) = db::sqlite().await else { return };
    check_revocation_reaches_the_other_replica(&fresh.stores).await;
    check_revocations_are_loaded_at_start(&fresh.stores).await;
}

#[tokio::test]
async fn revocations_are_followed_on_postgresql() {
    let Some(fresh) = db::postgres().await else { return };
    check_revocation_reaches_the_other_replica(&fresh.stores).await;
    check_revocations_are_loaded_at_start(&fresh.stores).await;
}
