//! The decision table row by row through [`Tokens`](crate::services::token::Tokens), then interactions
//! between requests.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::models::session::TokenId;
use crate::services::memory::MemoryStore;
use crate::services::single_flight::RESULT_TTL;
use crate::services::store::SessionFilter;
use crate::services::test_support::{
    ACCESS_TTL, BEYOND_GRACE, TestClient, TokensFixture, USER, foreign_keys, poll_once, rejected,
    rejected_and_cleared,
};
use crate::services::token::SessionSettings;
use crate::session_event::SessionUseRecorder as _;

mod honest_browser;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

/// Runs other tasks until `done` returns `true`.
async fn until(done: impl AsyncFn() -> bool) {
    for _ in 0..1_000 {
        if done().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition did not hold in time");
}

// The decision table, in its order.

#[tokio::test]
async fn unknown_session_is_rejected_without_clearing_cookies() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.store.replace(MemoryStore::default());
    fixture.advance(ACCESS_TTL);
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::UnknownSession));
    fixture.advance(10 * MINUTE);
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::UnknownSession), "at any later time");
}

#[tokio::test]
async fn cookies_of_terminated_session_are_cleared_after_the_grace() {
    for reason in EndReason::ALL {
        let (fixture, client) = TokensFixture::with_expired_access_token().await;
        assert!(fixture.terminate(&client, reason).await);
        fixture.advance(MINUTE);
        // A late response could clear a new sign-in.
        assert_eq!(fixture.rejection(&client).await, rejected(reason.event()));
        fixture.advance(Duration::from_millis(1));
        assert_eq!(fixture.rejection(&client).await, rejected_and_cleared(reason.event()));
    }
}

#[tokio::test]
async fn idle_session_expires_access_and_idle_ttl_after_its_last_refresh() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let idle = ACCESS_TTL + fixture.tokens.settings().idle_ttl;
    fixture.advance(idle - SECOND);
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    fixture.advance(idle - SECOND);
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    fixture.advance(idle);
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::IdleExpired));
    fixture.advance(2 * MINUTE);
    assert_eq!(fixture.rejection(&client).await, rejected_and_cleared(SessionEvent::IdleExpired));
}

#[tokio::test]
async fn refresh_does_not_postpone_the_absolute_expiry() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let end = fixture.row(&client).await.absolute_expires_at;
    while fixture.now() + 14 * 1_440 * MINUTE < end {
        fixture.advance(14 * 1_440 * MINUTE);
        fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    }
    fixture.clock.set(end - 2 * MINUTE);
    let last = fixture.refresh(&client).await.expect("the session is live");
    assert_eq!(last.tokens.identity.expires_at, end, "no access token outlives its session");
    assert_eq!(last.tokens.max_age, 2 * MINUTE + DAY);
    fixture.clock.set(end);
    assert_eq!(fixture.rejection(&TestClient::new(&last)).await, rejected(SessionEvent::AbsoluteExpired));
}

#[tokio::test]
async fn session_rotated_within_the_grace_is_replayed() {
    let (fixture, mut client) = TokensFixture::with_expired_access_token().await;
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    fixture.advance(MINUTE - SECOND);
    let before = client.without_access();
    let again = TestClient::new(&fixture.refresh(&before).await.expect("a replay"));
    assert_eq!(again.refresh, before.refresh, "the refresh token is the same");
    assert_ne!(fixture.id(&again), fixture.id(&client), "the access token is another one");
    assert_eq!(fixture.row(&client).await.generation, 2);
    fixture.advance(SECOND);
    fixture.expect_refresh(&mut client.without_access(), SessionEvent::Rotated).await;
}

#[tokio::test]
async fn access_token_within_the_grace_is_replayed_without_an_update() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    fixture.advance(MINUTE - SECOND);
    fixture.expect_refresh(&mut client, SessionEvent::Replayed).await;
    fixture.store.take_calls();
    // The row is older than the grace period; the accompanying access token is not.
    fixture.advance(MINUTE);
    let refresh = client.refresh.clone();
    fixture.expect_refresh(&mut client, SessionEvent::Replayed).await;
    assert_eq!(fixture.store.take_calls(), ["find_session"]);
    assert_eq!(client.refresh, refresh);
    fixture.advance(BEYOND_GRACE);
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
    assert_eq!(fixture.store.take_calls(), ["rotate"], "a refresh takes one statement");
}

/// A refresh at the end of the grace period is replayed. A request with the older access token that was sent
/// before the response arrived is no confirmed use, or the new token would be that of a second client.
#[tokio::test]
async fn request_in_flight_during_a_replay_confirms_no_generation() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let older = client.clone();
    fixture.advance(MINUTE + SECOND);
    fixture.expect_refresh(&mut client, SessionEvent::Replayed).await;
    let use_and_flush = async |client: &TestClient| {
        crate::layer::TokenService::verify(&fixture.tokens, client.access.as_deref().unwrap())
            .expect("valid");
        fixture.tokens.flush_deferred().await.expect("the store responds");
        fixture.row(client).await
    };
    // A sixth of the grace period until the response is sent, a quarter in flight, a quarter for clocks.
    fixture.advance(MINUTE / 6 + MINUTE / 4 + MINUTE / 4);
    assert_eq!(use_and_flush(&older).await.settled_by, None);
    fixture.advance(BEYOND_GRACE);
    let row = use_and_flush(&client).await;
    assert_eq!((row.settled_by, row.end), (Some(fixture.id(&client)), None));
}

#[tokio::test]
async fn lost_response_is_replayed_on_every_retry() {
    let (fixture, mut client) = TokensFixture::with_expired_access_token().await;
    let lost = fixture.refresh(&client).await.expect("a rotation");
    for wait in [SECOND, MINUTE, 1_440 * MINUTE] {
        fixture.advance(wait);
        let again = fixture.refresh(&client).await.expect("a replay");
        assert_eq!(again.tokens.event, SessionEvent::Replayed);
        assert_eq!(again.tokens.refresh_token, lost.tokens.refresh_token);
        assert_ne!(again.tokens.access_token, lost.tokens.access_token);
    }
    fixture.expect_refresh(&mut client, SessionEvent::Replayed).await;
    fixture.rotate(&mut client).await;
}

#[tokio::test]
async fn divergent_client_terminates_the_session() {
    let fixture = TokensFixture::new();
    let (mut owner, mut thief) = two_clients_of_one_session(&fixture).await;
    fixture.expect_refresh(&mut owner, SessionEvent::Rotated).await;
    fixture.advance(10 * SECOND);
    assert_eq!(fixture.rejection(&thief).await, rejected(SessionEvent::ReuseDetected));
    assert_eq!(fixture.rejection(&owner).await, rejected(SessionEvent::ReuseDetected));
    thief.access = None;
    assert_eq!(fixture.rejection(&thief).await, rejected(SessionEvent::ReuseDetected));
    let end = fixture.row(&owner).await.end.expect("the session was terminated");
    assert_eq!(end.reason, EndReason::ReuseDetected);
}

/// Two clients of one session, each with an old access token of its own.
async fn two_clients_of_one_session(fixture: &TokensFixture) -> (TestClient, TestClient) {
    let owner = fixture.browser().await;
    fixture.advance(SECOND);
    let thief = TestClient::new(&fixture.refresh(&owner).await.expect("a replay"));
    fixture.advance(ACCESS_TTL);
    fixture.store.take_calls();
    (owner, thief)
}

#[tokio::test]
async fn absent_access_token_differs_from_a_present_one() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    fixture.refresh(&client).await.expect("a rotation");
    let replica = fixture.replica();
    assert_eq!(replica.rejection(&client.without_access()).await, rejected(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn unreadable_access_token_counts_as_absent() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let rotated = fixture.refresh(&client.without_access()).await.expect("a rotation");
    fixture.advance(MINUTE);
    let unreadable = TestClient { access: Some("not.a.token".into()), ..client.clone() };
    let again = fixture.refresh(&unreadable).await.expect("absent equals absent");
    assert_eq!(again.tokens.refresh_token, rotated.tokens.refresh_token);

    let with_foreign_access = TestClient { access: fixture.browser().await.access, ..client };
    fixture.refresh(&with_foreign_access).await.expect("an access token of another session counts as absent");
}

#[tokio::test]
async fn divergent_clients_are_allowed_in_client_sessions() {
    let fixture = TokensFixture::new();
    let client = fixture.sign_in(SessionKind::Client).await;
    fixture.advance(ACCESS_TTL);
    fixture.refresh(&client).await.expect("a rotation");
    fixture.advance(10 * SECOND);
    let again = fixture.refresh(&client.without_access()).await.expect("a replay");
    assert_eq!(again.tokens.event, SessionEvent::Replayed);
}

#[tokio::test]
async fn late_response_is_not_a_divergent_client() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.advance(MINUTE);
    let mut late =
        TestClient::new(&fixture.refresh(&client).await.expect("a replay within the grace period"));
    fixture.advance(2 * SECOND);
    fixture.expect_refresh(&mut client.clone(), SessionEvent::Rotated).await;
    // The replay's response arrives after the rotation's and restores the previous cookies.
    fixture.advance(ACCESS_TTL);
    fixture.expect_refresh(&mut late, SessionEvent::Replayed).await;
    fixture.rotate(&mut late).await;
}

#[tokio::test]
async fn token_one_behind_is_reuse_once_its_successor_is_confirmed() {
    let (fixture, old) = TokensFixture::with_expired_access_token().await;
    let mut new = old.clone();
    fixture.expect_refresh(&mut new, SessionEvent::Rotated).await;
    fixture.advance(BEYOND_GRACE);
    crate::layer::TokenService::verify(&fixture.tokens, new.access.as_deref().unwrap()).expect("valid");
    fixture.refresh(&old).await.expect("the use is not yet written");
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert_eq!(fixture.row(&new).await.settled_by, Some(fixture.id(&new)));
    fixture.advance(RESULT_TTL + SECOND);
    assert_eq!(fixture.rejection(&old).await, rejected(SessionEvent::ReuseDetected));
    assert_eq!(fixture.rejection(&new).await, rejected(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn token_further_behind_is_reuse_in_any_kind_of_session() {
    for kind in [SessionKind::Browser, SessionKind::Client] {
        let fixture = TokensFixture::new();
        let old = fixture.sign_in(kind).await;
        let mut new = old.clone();
        for _ in 0..2 {
            fixture.rotate(&mut new).await;
        }
        assert_eq!(fixture.rejection(&old).await, rejected(SessionEvent::ReuseDetected));
        assert_eq!(fixture.rejection(&new).await, rejected(SessionEvent::ReuseDetected));
    }
}

#[tokio::test]
async fn store_that_lost_rotations_catches_up() {
    for lost in [1, 2, 20] {
        let (fixture, mut client) = TokensFixture::with_browser().await;
        let backup = fixture.row(&client).await;
        for _ in 0..lost {
            fixture.rotate(&mut client).await;
        }
        fixture.restore(&backup).await;
        fixture.advance(ACCESS_TTL);
        fixture.expect_refresh(&mut client, SessionEvent::CaughtUp).await;
        assert_eq!(fixture.row(&client).await.generation, lost + 2);
        fixture.rotate(&mut client).await;
    }
}

#[tokio::test]
async fn terminated_session_of_a_restored_store_does_not_catch_up() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let mut backup = fixture.row(&client).await;
    backup.end = Some(fixture.tokens.termination(EndReason::Revoked, &ClientInfo::default()).end());
    fixture.rotate(&mut client).await;
    fixture.restore(&backup).await;
    fixture.advance(BEYOND_GRACE);
    assert_eq!(fixture.rejection(&client).await, rejected_and_cleared(SessionEvent::Revoked));
}

#[tokio::test]
async fn concurrent_replicas_catch_up_once() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let backup = fixture.row(&client).await;
    fixture.rotate(&mut client).await;
    fixture.restore(&backup).await;
    fixture.advance(ACCESS_TTL);
    let other = fixture.replica();
    let (one, two) = tokio::join!(fixture.refresh(&client), other.refresh(&client));
    let (one, two) = (one.expect("a refresh").tokens, two.expect("a refresh").tokens);
    assert_eq!(one.refresh_token, two.refresh_token);
    let events = HashSet::from([one.event.as_str(), two.event.as_str()]);
    assert_eq!(events, HashSet::from(["caught_up", "replayed"]));
}

#[tokio::test]
async fn last_generation_terminates_the_session() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let mut row = fixture.row(&client).await;
    row.generation = u32::MAX - 1;
    fixture.restore(&row).await;
    let refresh = |generation| {
        refresh_token::mint(fixture.tokens.keys().load().by_number(1).unwrap(), row.id, generation)
    };
    let mut client = TestClient { refresh: refresh(u32::MAX - 1), access: None, ..client };
    fixture.rotate(&mut client).await;
    assert_eq!(client.refresh, refresh(u32::MAX));
    fixture.advance(ACCESS_TTL);
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::Exhausted));
    assert_eq!(fixture.row(&client).await.end.map(|end| end.reason), Some(EndReason::Exhausted));
}

// Rejected without a store call.

#[tokio::test]
async fn malformed_refresh_token_makes_no_store_call() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let last = if client.refresh.ends_with('A') { 'B' } else { 'A' };
    let forged_mac = format!("{}{last}", &client.refresh[..71]);
    for refresh in [String::new(), "x".repeat(72), forged_mac] {
        let forged = TestClient { refresh, ..client.clone() };
        assert_eq!(fixture.rejection(&forged).await, rejected(SessionEvent::Malformed));
    }
    assert!(fixture.store.take_calls().is_empty());
}

#[tokio::test]
async fn refresh_token_of_another_session_than_the_access_token_is_rejected() {
    let fixture = TokensFixture::new();
    let (one, other) = (fixture.browser().await, fixture.browser().await);
    fixture.advance(ACCESS_TTL);
    let request = RefreshRequest { expected_session: Some(one.session), ..other.request() };
    let error = fixture.tokens.refresh_session(request, SessionKind::Browser).await.expect_err("rejected");
    assert_eq!(error, rejected(SessionEvent::Malformed));
    assert!(fixture.store.take_calls().is_empty());
    assert_eq!(fixture.row(&other).await.generation, 1);
}

#[tokio::test]
async fn unknown_key_is_noticed_without_clearing_cookies() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let keys = foreign_keys(9, &fixture.clock);
    let elsewhere = refresh_token::mint(keys.by_number(9).unwrap(), client.session, 1);
    let client = TestClient { refresh: elsewhere, ..client };
    let mut noticed = Box::pin(fixture.tokens.keys().unknown_key());
    assert!(poll_once(noticed.as_mut()).is_pending());
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::UnknownKey));
    assert!(poll_once(noticed.as_mut()).is_ready());
    assert!(fixture.store.take_calls().is_empty());
}

// Interactions between requests.

#[tokio::test]
async fn refresh_completes_when_the_client_disconnects() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let blocked = fixture.store.block().await;
    let mut refresh = Box::pin(fixture.refresh(&client));
    assert!(poll_once(refresh.as_mut()).is_pending());
    drop(refresh);
    drop(blocked);
    until(async || fixture.row(&client).await.generation == 2).await;
    assert_eq!(fixture.store.take_calls(), ["rotate"], "a single call");
    fixture.expect_refresh(&mut client.clone(), SessionEvent::Replayed).await;
}

#[tokio::test]
async fn concurrent_requests_share_one_store_call() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let responses = join_all((0..200).map(|_| fixture.refresh(&client))).await;
    assert_eq!(fixture.store.take_calls(), ["rotate"]);
    let responses: Vec<_> =
        responses.into_iter().map(|response| response.expect("a refresh").tokens).collect();
    let rotated = responses.iter().filter(|response| response.event == SessionEvent::Rotated).count();
    assert_eq!(rotated, 1);
    let refresh: HashSet<_> = responses.iter().map(|response| &response.refresh_token).collect();
    assert_eq!(refresh.len(), 1, "all get one refresh token");
    let ids: HashSet<TokenId> =
        responses.iter().map(|response| fixture.read(Some(&response.access_token)).id).collect();
    assert_eq!(ids.len(), 200, "each gets its own access token");
}

#[tokio::test]
async fn result_is_shared_for_five_seconds() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let first = fixture.refresh(&client).await.expect("a rotation");
    fixture.advance(RESULT_TTL);
    let shared = fixture.refresh(&client).await.expect("a replay");
    assert_eq!(fixture.store.take_calls(), ["rotate"]);
    fixture.advance(Duration::from_millis(1));
    let unshared = fixture.refresh(&client).await.expect("a replay");
    assert_eq!(fixture.store.take_calls(), ["rotate", "find_session"]);
    for replay in [shared, unshared] {
        assert_eq!(replay.tokens.event, SessionEvent::Replayed);
        assert_eq!(replay.tokens.refresh_token, first.tokens.refresh_token);
    }
}

#[tokio::test]
async fn divergent_follower_is_detected() {
    let fixture = TokensFixture::new();
    let (owner, thief) = two_clients_of_one_session(&fixture).await;
    let (first, second) = tokio::join!(fixture.refresh(&owner), fixture.refresh(&thief));
    let first = TestClient::new(&first.expect("the owner is the leader"));
    assert_eq!(second.map(drop), Err(rejected(SessionEvent::ReuseDetected)));
    assert_eq!(fixture.store.take_calls(), ["rotate", "end_session"]);
    assert_eq!(fixture.rejection(&first).await, rejected(SessionEvent::ReuseDetected));
    assert_eq!(fixture.rejection(&owner).await, rejected(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn divergent_follower_gets_the_reason_of_another_replicas_termination() {
    let fixture = TokensFixture::new();
    let (owner, thief) = two_clients_of_one_session(&fixture).await;
    fixture.refresh(&owner).await.expect("a rotation, whose result is kept");
    let elsewhere = fixture.replica();
    elsewhere.terminate(&owner, EndReason::LoggedOut).await;
    assert_eq!(fixture.rejection(&thief).await, rejected(SessionEvent::LoggedOut));
}

#[tokio::test]
async fn shared_replay_does_not_prevent_a_due_rotation() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    // Another tab has just refreshed, and this one did not get the response.
    let held = TestClient {
        access: fixture.refresh(&client).await.ok().map(|issued| issued.tokens.access_token),
        ..client
    };
    let mut row = fixture.row(&held).await;
    row.rotated_at -= ACCESS_TTL;
    fixture.restore(&row).await;
    let key = fixture.tokens.keys().load();
    let current = TestClient { refresh: refresh_token::mint(key.by_number(1).unwrap(), row.id, 2), ..held };
    fixture.expect_refresh(&mut current.clone(), SessionEvent::Replayed).await;
    fixture.expect_refresh(&mut current.without_access(), SessionEvent::Rotated).await;
}

#[tokio::test]
async fn wrong_kind_is_rejected_and_does_not_affect_the_right_one() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let elsewhere = TestClient { kind: SessionKind::Client, ..client.clone() };
    assert_eq!(fixture.rejection(&elsewhere).await, rejected(SessionEvent::Malformed));
    fixture.expect_refresh(&mut client.clone(), SessionEvent::Rotated).await;
    assert_eq!(fixture.rejection(&elsewhere).await, rejected(SessionEvent::Malformed));
    assert!(fixture.row(&client).await.end.is_none());
}

#[tokio::test]
async fn shared_results_of_terminated_sessions_are_dropped() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let first = fixture.refresh(&client).await.expect("a rotation");
    fixture.terminate(&client, EndReason::LoggedOut).await;
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::LoggedOut));
    assert_eq!(fixture.rejection(&TestClient::new(&first)).await, rejected(SessionEvent::LoggedOut));

    let (one, two) = (fixture.browser().await, fixture.browser().await);
    fixture.advance(ACCESS_TTL);
    fixture.refresh(&one).await.expect("a rotation");
    fixture.refresh(&two).await.expect("a rotation");
    assert_eq!(fixture.revoke(SessionFilter::User(USER.into())).await, 2);
    for client in [one, two] {
        assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::Revoked));
    }
}

#[tokio::test]
async fn replicas_return_the_same_refresh_token() {
    let fixture = TokensFixture::new();
    let replicas = [fixture.replica(), fixture.replica(), fixture.replica()];
    let mut client = fixture.browser().await;
    for generation in 2..20 {
        fixture.advance(ACCESS_TTL);
        let responses =
            join_all(replicas.iter().chain([&fixture]).map(|replica| replica.refresh(&client))).await;
        let responses: Vec<_> = responses.into_iter().map(|response| response.expect("a refresh")).collect();
        let refresh: HashSet<_> = responses.iter().map(|response| &response.tokens.refresh_token).collect();
        assert_eq!(refresh.len(), 1);
        assert_eq!(fixture.row(&client).await.generation, generation);
        client = TestClient::new(&responses[generation as usize % 4]);
    }
}

#[tokio::test]
async fn failing_store_decides_nothing() {
    let (fixture, mut client) = TokensFixture::with_expired_access_token().await;
    fixture.store.set_unavailable(true);
    assert_eq!(fixture.rejection(&client).await, RefreshError::Unavailable);
    assert_eq!(fixture.store.take_calls(), ["rotate"], "a failed call is not repeated");
    let together = join_all((0..20).map(|_| fixture.refresh(&client))).await;
    assert!(together.into_iter().all(|response| response.map(drop) == Err(RefreshError::Unavailable)));
    assert_eq!(fixture.store.take_calls(), ["rotate"], "followers share the failure");
    fixture.store.set_unavailable(false);
    fixture.expect_refresh(&mut client, SessionEvent::Rotated).await;
}

#[tokio::test]
async fn follower_gets_unavailable_if_it_cannot_terminate() {
    let fixture = TokensFixture::new();
    let (owner, thief) = two_clients_of_one_session(&fixture).await;
    fixture.refresh(&owner).await.expect("a rotation");
    fixture.store.set_unavailable(true);
    assert_eq!(fixture.rejection(&thief).await, RefreshError::Unavailable);
    fixture.store.set_unavailable(false);
    assert_eq!(fixture.rejection(&thief).await, rejected(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn sessions_survive_a_key_rotation() {
    let (fixture, mut client) = TokensFixture::with_browser().await;
    let with_old_key = client.clone();
    fixture.rotate_keys();
    fixture.rotate(&mut client).await;
    let keys = fixture.tokens.keys().load();
    assert_eq!(refresh_token::parse(&keys, &client.refresh).map(|token| token.key_number), Ok(2));
    assert_eq!(fixture.row(&client).await.key_number, 2);
    let again = fixture.refresh(&with_old_key).await.expect("the replaced token is replayed");
    assert_eq!(again.tokens.refresh_token, client.refresh);
    fixture.rotate(&mut client).await;
}

#[tokio::test]
async fn replay_is_signed_with_the_key_of_its_generation() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let first = fixture.refresh(&client).await.expect("a rotation");
    fixture.rotate_keys();
    fixture.advance(10 * SECOND);
    let again = fixture.refresh(&client).await.expect("a replay");
    assert_eq!(again.tokens.refresh_token, first.tokens.refresh_token);
}

#[tokio::test]
async fn replays_are_counted() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    for _ in 0..4 {
        fixture.refresh(&client).await.expect("a refresh");
    }
    fixture.tokens.flush_deferred().await.expect("the store responds");
    let row = fixture.row(&client).await;
    assert_eq!((row.rotations, row.replays), (1, 3));
}

/// B10: a client whose responses are all lost or too late uses its session all the same.
#[tokio::test]
async fn replays_postpone_the_idle_expiry_up_to_the_absolute_one() {
    let (fixture, client) = TokensFixture::with_expired_access_token().await;
    let replica = fixture.replica();
    fixture.refresh(&client).await.expect("a rotation");
    let absolute_expires_at = fixture.row(&client).await.absolute_expires_at;
    let pause = 10 * DAY;
    while fixture.now() + pause < absolute_expires_at {
        fixture.advance(pause);
        for replica in [&replica, &fixture] {
            let issued = replica.refresh(&client).await.expect("a replay");
            assert_eq!(issued.tokens.event, SessionEvent::Replayed);
            replica.tokens.flush_deferred().await.expect("the store responds");
        }
        let used = fixture.tokens.settings().idle_expiry(fixture.now());
        assert_eq!(fixture.row(&client).await.idle_expires_at, used.min(absolute_expires_at));
    }
    fixture.advance(pause);
    assert_eq!(fixture.rejection(&client).await, rejected_and_cleared(SessionEvent::AbsoluteExpired));
}

/// B10: a use that is written late counts from its time, and revives no session.
#[tokio::test]
async fn late_write_of_a_use_does_not_revive_the_session() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let expiry = fixture.row(&client).await.idle_expires_at;
    fixture.clock.set(expiry - 2 * DAY);
    fixture.tokens.record_use(client.session);
    fixture.store.set_unavailable(true);
    assert!(fixture.tokens.flush_deferred().await.is_err());
    fixture.store.set_unavailable(false);
    fixture.advance(DAY);
    fixture.tokens.flush_deferred().await.expect("the store responds");
    let postponed = fixture.tokens.settings().idle_expiry(expiry - 2 * DAY);
    assert_eq!(fixture.row(&client).await.idle_expires_at, postponed);

    let (fixture, client) = TokensFixture::with_browser().await;
    let expiry = fixture.row(&client).await.idle_expires_at;
    fixture.clock.set(expiry - SECOND);
    fixture.tokens.record_use(client.session);
    fixture.advance(SECOND);
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert_eq!(fixture.row(&client).await.idle_expires_at, expiry);
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::IdleExpired));

    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.advance(DAY);
    fixture.tokens.record_use(client.session);
    fixture.terminate(&client, EndReason::LoggedOut).await;
    fixture.tokens.flush_deferred().await.expect("the store responds");
    assert_eq!(fixture.rejection(&client).await, rejected(SessionEvent::LoggedOut));
}

#[tokio::test]
async fn idle_expiry_is_limited_to_the_absolute_expiry() {
    let settings = SessionSettings { absolute_ttl: 60 * MINUTE, ..SessionSettings::default() };
    let fixture = TokensFixture::with_settings(settings);
    let client = fixture.browser().await;
    fixture.advance(ACCESS_TTL);
    let issued = fixture.refresh(&client).await.expect("a rotation");
    assert_eq!(issued.tokens.max_age, 45 * MINUTE + DAY);
    assert_eq!(issued.session.idle_expires_at, issued.session.absolute_expires_at);
}
