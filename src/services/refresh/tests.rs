//! The table of decisions row by row through [`Tokens`](crate::services::token::Tokens), then what
//! holds between requests.

use std::collections::HashSet;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::models::session::TokenId;
use crate::services::memory::MemoryStore;
use crate::services::single_flight::RESULT_TTL;
use crate::services::store::SessionFilter;
use crate::services::test_support::{ACCESS_TTL, BEYOND_GRACE, TestClient, TokensFixture, foreign_keys};
use crate::services::token::SessionSettings;

mod honest_browser;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn over(event: SessionEvent) -> RefreshError {
    RefreshError::Over { event, clear: false }
}

fn over_long_ago(event: SessionEvent) -> RefreshError {
    RefreshError::Over { event, clear: true }
}

async fn refused(scene: &TokensFixture, jar: &TestClient) -> RefreshError {
    scene.renew(jar).await.map(|issued| issued.tokens.event).expect_err("the session is not renewed")
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets other tasks run until `done`.
async fn until(done: impl AsyncFn() -> bool) {
    for _ in 0..1_000 {
        if done().await {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came");
}

// The table, in its order.

#[tokio::test]
async fn no_such_row_is_unknown_and_keeps_the_cookies() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.store.replace(MemoryStore::default());
    scene.advance(ACCESS_TTL);
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::UnknownSession));
    scene.advance(10 * MINUTE);
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::UnknownSession), "however late");
}

#[tokio::test]
async fn an_ended_session_says_why_and_clears_the_cookies_only_after_the_grace() {
    for reason in EndReason::ALL {
        let scene = TokensFixture::new();
        let jar = scene.browser().await;
        scene.advance(ACCESS_TTL);
        assert!(
            scene.tokens.terminate(jar.session, reason, &ClientInfo::default()).await.expect("an answer")
        );
        scene.advance(MINUTE);
        assert_eq!(refused(&scene, &jar).await, over(reason.event()), "a late answer could wipe a sign-in");
        scene.advance(Duration::from_millis(1));
        assert_eq!(refused(&scene, &jar).await, over_long_ago(reason.event()));
    }
}

#[tokio::test]
async fn an_idle_session_ends_access_and_idle_lifetime_after_its_last_renewal() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    let idle = ACCESS_TTL + scene.tokens.settings().idle_ttl;
    scene.advance(idle - SECOND);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.advance(idle - SECOND);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.advance(idle);
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::IdleExpired));
    scene.advance(2 * MINUTE);
    assert_eq!(refused(&scene, &jar).await, over_long_ago(SessionEvent::IdleExpired));
}

#[tokio::test]
async fn no_renewal_moves_the_absolute_end() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    let end = scene.row(&jar).await.absolute_expires_at;
    while scene.now() + 14 * 1_440 * MINUTE < end {
        scene.advance(14 * 1_440 * MINUTE);
        scene.renewed(&mut jar, SessionEvent::Rotated).await;
    }
    scene.clock.set(end - 2 * MINUTE);
    let last = scene.renew(&jar).await.expect("it still lives");
    assert_eq!(last.tokens.identity.expires_at, end, "no access token outlives its session");
    assert_eq!(last.tokens.max_age, 2 * MINUTE);
    scene.clock.set(end);
    assert_eq!(refused(&scene, &TestClient::of(&last)).await, over(SessionEvent::AbsoluteExpired));
}

#[tokio::test]
async fn a_session_rotated_within_the_grace_is_replayed() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.advance(MINUTE - SECOND);
    let before = jar.without_access();
    let again = TestClient::of(&scene.renew(&before).await.expect("a replay"));
    assert_eq!(again.refresh, before.refresh, "the same refresh token");
    assert_ne!(scene.id(&again), scene.id(&jar), "an access token of its own");
    assert_eq!(scene.row(&jar).await.generation, 2);
    scene.advance(SECOND);
    scene.renewed(&mut jar.without_access(), SessionEvent::Rotated).await;
}

#[tokio::test]
async fn a_young_access_token_is_replayed_before_any_update_is_tried() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    scene.advance(MINUTE - SECOND);
    scene.renewed(&mut jar, SessionEvent::Replayed).await;
    scene.store.calls();
    // The row was made long ago by now; the access token beside was not.
    scene.advance(MINUTE);
    let refresh = jar.refresh.clone();
    scene.renewed(&mut jar, SessionEvent::Replayed).await;
    assert_eq!(scene.store.calls(), ["find_session"]);
    assert_eq!(jar.refresh, refresh);
    scene.advance(BEYOND_GRACE);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    assert_eq!(scene.store.calls(), ["rotate"], "one statement is all that a renewal costs");
}

#[tokio::test]
async fn a_lost_answer_is_given_again_whenever_it_is_asked_for() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let lost = scene.renew(&jar).await.expect("a rotation");
    for wait in [SECOND, MINUTE, 1_440 * MINUTE] {
        scene.advance(wait);
        let again = scene.renew(&jar).await.expect("a replay");
        assert_eq!(again.tokens.event, SessionEvent::Replayed);
        assert_eq!(again.tokens.refresh_token, lost.tokens.refresh_token);
        assert_ne!(again.tokens.access_token, lost.tokens.access_token);
    }
    scene.renewed(&mut jar, SessionEvent::Replayed).await;
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
}

#[tokio::test]
async fn a_second_jar_is_reuse_and_puts_both_out() {
    let scene = TokensFixture::new();
    let (mut owner, mut thief) = two_jars(&scene).await;
    scene.renewed(&mut owner, SessionEvent::Rotated).await;
    scene.advance(10 * SECOND);
    assert_eq!(refused(&scene, &thief).await, over(SessionEvent::ReuseDetected));
    assert_eq!(refused(&scene, &owner).await, over(SessionEvent::ReuseDetected));
    thief.access = None;
    assert_eq!(refused(&scene, &thief).await, over(SessionEvent::ReuseDetected));
    let end = scene.row(&owner).await.end.expect("it was ended");
    assert_eq!(end.reason, EndReason::ReuseDetected);
}

/// One session in two jars with an access token of each, both of them old.
async fn two_jars(scene: &TokensFixture) -> (TestClient, TestClient) {
    let owner = scene.browser().await;
    scene.advance(SECOND);
    let thief = TestClient::of(&scene.renew(&owner).await.expect("a replay"));
    scene.advance(ACCESS_TTL);
    scene.store.calls();
    (owner, thief)
}

#[tokio::test]
async fn an_absent_access_token_differs_from_the_one_that_asked() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    scene.renew(&jar).await.expect("a rotation");
    let replica = scene.replica();
    assert_eq!(refused(&replica, &jar.without_access()).await, over(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn an_unreadable_access_token_counts_as_absent() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let asked = scene.renew(&jar.without_access()).await.expect("a rotation");
    scene.advance(MINUTE);
    let unreadable = TestClient { access: Some("not.a.token".into()), ..jar.clone() };
    let again = scene.renew(&unreadable).await.expect("absent equals absent");
    assert_eq!(again.tokens.refresh_token, asked.tokens.refresh_token);

    let of_another_session = TestClient { access: scene.browser().await.access, ..jar };
    scene.renew(&of_another_session).await.expect("another session's counts as absent too");
}

#[tokio::test]
async fn two_jars_are_no_matter_for_clients() {
    let scene = TokensFixture::new();
    let jar = scene.sign_in(SessionKind::Client).await;
    scene.advance(ACCESS_TTL);
    scene.renew(&jar).await.expect("a rotation");
    scene.advance(10 * SECOND);
    let again = scene.renew(&jar.without_access()).await.expect("a replay");
    assert_eq!(again.tokens.event, SessionEvent::Replayed);
}

#[tokio::test]
async fn an_answer_that_comes_late_makes_no_second_jar() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(MINUTE);
    let mut late = TestClient::of(&scene.renew(&jar).await.expect("a replay, still young"));
    scene.advance(2 * SECOND);
    scene.renewed(&mut jar.clone(), SessionEvent::Rotated).await;
    // The replay's answer comes after the rotation's and puts the cookies back to where they were.
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut late, SessionEvent::Replayed).await;
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut late, SessionEvent::Rotated).await;
}

#[tokio::test]
async fn one_behind_is_reuse_once_its_successor_has_settled() {
    let scene = TokensFixture::new();
    let old = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let mut new = old.clone();
    scene.renewed(&mut new, SessionEvent::Rotated).await;
    scene.advance(BEYOND_GRACE);
    crate::layer::TokenService::verify(&scene.tokens, new.access.as_deref().unwrap()).expect("valid");
    scene.renew(&old).await.expect("it has not been written yet");
    scene.tokens.flush_deferred().await.expect("an answer");
    assert_eq!(scene.row(&new).await.settled_by, Some(scene.id(&new)));
    scene.advance(RESULT_TTL + SECOND);
    assert_eq!(refused(&scene, &old).await, over(SessionEvent::ReuseDetected));
    assert_eq!(refused(&scene, &new).await, over(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn further_behind_is_reuse_in_any_kind_of_session() {
    for kind in [SessionKind::Browser, SessionKind::Client] {
        let scene = TokensFixture::new();
        let old = scene.sign_in(kind).await;
        let mut new = old.clone();
        for _ in 0..2 {
            scene.advance(ACCESS_TTL);
            scene.renewed(&mut new, SessionEvent::Rotated).await;
        }
        assert_eq!(refused(&scene, &old).await, over(SessionEvent::ReuseDetected));
        assert_eq!(refused(&scene, &new).await, over(SessionEvent::ReuseDetected));
    }
}

#[tokio::test]
async fn a_store_that_lost_rotations_is_caught_up_with() {
    for lost in [1, 2, 20] {
        let scene = TokensFixture::new();
        let mut jar = scene.browser().await;
        let backup = scene.row(&jar).await;
        for _ in 0..lost {
            scene.advance(ACCESS_TTL);
            scene.renewed(&mut jar, SessionEvent::Rotated).await;
        }
        scene.restore(&backup).await;
        scene.advance(ACCESS_TTL);
        scene.renewed(&mut jar, SessionEvent::CaughtUp).await;
        assert_eq!(scene.row(&jar).await.generation, lost + 2);
        scene.advance(ACCESS_TTL);
        scene.renewed(&mut jar, SessionEvent::Rotated).await;
    }
}

#[tokio::test]
async fn a_session_that_a_restored_store_shows_as_ended_is_not_caught_up_with() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    let mut backup = scene.row(&jar).await;
    backup.end = Some(scene.tokens.termination(EndReason::Revoked, &ClientInfo::default()).end());
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.restore(&backup).await;
    scene.advance(BEYOND_GRACE);
    assert_eq!(refused(&scene, &jar).await, over_long_ago(SessionEvent::Revoked));
}

#[tokio::test]
async fn racers_of_two_replicas_catch_up_once() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    let backup = scene.row(&jar).await;
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    scene.restore(&backup).await;
    scene.advance(ACCESS_TTL);
    let other = scene.replica();
    let (one, two) = tokio::join!(scene.renew(&jar), other.renew(&jar));
    let (one, two) = (one.expect("a renewal").tokens, two.expect("a renewal").tokens);
    assert_eq!(one.refresh_token, two.refresh_token);
    let events = HashSet::from([one.event.as_str(), two.event.as_str()]);
    assert_eq!(events, HashSet::from(["caught_up", "replayed"]));
}

#[tokio::test]
async fn the_last_generation_ends_the_session() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let mut row = scene.row(&jar).await;
    row.generation = u32::MAX - 1;
    scene.restore(&row).await;
    let refresh = |generation| {
        refresh_token::mint(scene.tokens.keys().load().by_number(1).unwrap(), row.id, generation)
    };
    let mut jar = TestClient { refresh: refresh(u32::MAX - 1), access: None, ..jar };
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    assert_eq!(jar.refresh, refresh(u32::MAX));
    scene.advance(ACCESS_TTL);
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::Exhausted));
    assert_eq!(scene.row(&jar).await.end.map(|end| end.reason), Some(EndReason::Exhausted));
}

// What is refused before the store is asked.

#[tokio::test]
async fn a_text_that_is_no_token_costs_no_store_call() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    for refresh in [String::new(), "x".repeat(72), jar.refresh.replace(&jar.refresh[70..], "AA")] {
        let forged = TestClient { refresh, ..jar.clone() };
        assert_eq!(refused(&scene, &forged).await, over(SessionEvent::Malformed));
    }
    assert!(scene.store.calls().is_empty());
}

#[tokio::test]
async fn another_session_than_that_of_the_valid_access_token_is_left_alone() {
    let scene = TokensFixture::new();
    let (one, other) = (scene.browser().await, scene.browser().await);
    scene.advance(ACCESS_TTL);
    let request = RefreshRequest { of: Some(one.session), ..other.request() };
    let error = scene.tokens.refresh_session(request, SessionKind::Browser).await.expect_err("refused");
    assert_eq!(error, over(SessionEvent::Malformed));
    assert!(scene.store.calls().is_empty());
    assert_eq!(scene.row(&other).await.generation, 1);
}

#[tokio::test]
async fn an_unknown_key_is_noticed_and_keeps_the_cookies() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let keys = foreign_keys(9, &scene.clock);
    let elsewhere = refresh_token::mint(keys.by_number(9).unwrap(), jar.session, 1);
    let jar = TestClient { refresh: elsewhere, ..jar };
    let mut noticed = Box::pin(scene.tokens.keys().unknown_noticed());
    assert!(poll_once(noticed.as_mut()).is_pending());
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::UnknownKey));
    assert!(poll_once(noticed.as_mut()).is_ready());
    assert!(scene.store.calls().is_empty());
}

// Between requests.

#[tokio::test]
async fn rule_1_a_renewal_runs_to_its_end_when_the_client_hangs_up() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let held = scene.store.hold().await;
    let mut renewal = Box::pin(scene.renew(&jar));
    assert!(poll_once(renewal.as_mut()).is_pending());
    drop(renewal);
    drop(held);
    until(async || scene.row(&jar).await.generation == 2).await;
    assert_eq!(scene.store.calls(), ["rotate"], "nobody else asked");
    scene.renewed(&mut jar.clone(), SessionEvent::Replayed).await;
}

#[tokio::test]
async fn rule_2_requests_sent_together_share_one_store_call() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let answers = join_all((0..200).map(|_| scene.renew(&jar))).await;
    assert_eq!(scene.store.calls(), ["rotate"]);
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("a renewal").tokens).collect();
    let rotated = answers.iter().filter(|answer| answer.event == SessionEvent::Rotated).count();
    assert_eq!(rotated, 1);
    let refresh: HashSet<_> = answers.iter().map(|answer| &answer.refresh_token).collect();
    assert_eq!(refresh.len(), 1, "one refresh token for all");
    let ids: HashSet<TokenId> =
        answers.iter().map(|answer| scene.read(Some(&answer.access_token)).id).collect();
    assert_eq!(ids.len(), 200, "an access token for each");
}

#[tokio::test]
async fn rule_2_a_renewal_is_shared_for_five_seconds() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let first = scene.renew(&jar).await.expect("a rotation");
    scene.advance(RESULT_TTL);
    let shared = scene.renew(&jar).await.expect("a replay");
    assert_eq!(scene.store.calls(), ["rotate"]);
    scene.advance(Duration::from_millis(1));
    let asked = scene.renew(&jar).await.expect("a replay");
    assert_eq!(scene.store.calls(), ["rotate", "find_session"]);
    for replay in [shared, asked] {
        assert_eq!(replay.tokens.event, SessionEvent::Replayed);
        assert_eq!(replay.tokens.refresh_token, first.tokens.refresh_token);
    }
}

#[tokio::test]
async fn rule_2_a_second_jar_among_those_that_share_is_caught() {
    let scene = TokensFixture::new();
    let (owner, thief) = two_jars(&scene).await;
    let (first, second) = tokio::join!(scene.renew(&owner), scene.renew(&thief));
    let first = TestClient::of(&first.expect("the owner came first"));
    assert_eq!(second.map(drop), Err(over(SessionEvent::ReuseDetected)));
    assert_eq!(scene.store.calls(), ["rotate", "end_session"]);
    assert_eq!(refused(&scene, &first).await, over(SessionEvent::ReuseDetected));
    assert_eq!(refused(&scene, &owner).await, over(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn rule_2_a_second_jar_is_told_how_another_replica_has_ended_the_session() {
    let scene = TokensFixture::new();
    let (owner, thief) = two_jars(&scene).await;
    scene.renew(&owner).await.expect("a rotation, which is remembered");
    let elsewhere = scene.replica();
    elsewhere
        .tokens
        .terminate(owner.session, EndReason::LoggedOut, &ClientInfo::default())
        .await
        .expect("an answer");
    assert_eq!(refused(&scene, &thief).await, over(SessionEvent::LoggedOut));
}

#[tokio::test]
async fn one_that_is_due_is_not_held_back_by_one_that_was_not() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    // A tab that renewed a moment ago, its answer lost on the way to the others.
    let held =
        TestClient { access: scene.renew(&jar).await.ok().map(|issued| issued.tokens.access_token), ..jar };
    let mut row = scene.row(&held).await;
    row.rotated_at -= ACCESS_TTL;
    scene.restore(&row).await;
    let key = scene.tokens.keys().load();
    let current = TestClient { refresh: refresh_token::mint(key.by_number(1).unwrap(), row.id, 2), ..held };
    scene.renewed(&mut current.clone(), SessionEvent::Replayed).await;
    scene.renewed(&mut current.without_access(), SessionEvent::Rotated).await;
}

#[tokio::test]
async fn a_wrong_kind_is_refused_and_does_not_stand_in_the_way_of_the_right_one() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let elsewhere = TestClient { kind: SessionKind::Client, ..jar.clone() };
    assert_eq!(refused(&scene, &elsewhere).await, over(SessionEvent::Malformed));
    scene.renewed(&mut jar.clone(), SessionEvent::Rotated).await;
    assert_eq!(refused(&scene, &elsewhere).await, over(SessionEvent::Malformed));
    assert!(scene.row(&jar).await.end.is_none());
}

#[tokio::test]
async fn an_ended_session_is_not_served_from_memory() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let first = scene.renew(&jar).await.expect("a rotation");
    scene
        .tokens
        .terminate(jar.session, EndReason::LoggedOut, &ClientInfo::default())
        .await
        .expect("an answer");
    assert_eq!(refused(&scene, &jar).await, over(SessionEvent::LoggedOut));
    assert_eq!(refused(&scene, &TestClient::of(&first)).await, over(SessionEvent::LoggedOut));

    let (one, two) = (scene.browser().await, scene.browser().await);
    scene.advance(ACCESS_TTL);
    scene.renew(&one).await.expect("a rotation");
    scene.renew(&two).await.expect("a rotation");
    let all = SessionFilter::User(crate::services::test_support::USER);
    assert_eq!(
        scene
            .tokens
            .terminate_matching(&all, EndReason::Revoked, &ClientInfo::default())
            .await
            .expect("an answer")
            .len(),
        2
    );
    for jar in [one, two] {
        assert_eq!(refused(&scene, &jar).await, over(SessionEvent::Revoked));
    }
}

#[tokio::test]
async fn replicas_behave_as_one() {
    let scene = TokensFixture::new();
    let replicas = [scene.replica(), scene.replica(), scene.replica()];
    let mut jar = scene.browser().await;
    for generation in 2..20 {
        scene.advance(ACCESS_TTL);
        let answers = join_all(replicas.iter().chain([&scene]).map(|replica| replica.renew(&jar))).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("a renewal")).collect();
        let refresh: HashSet<_> = answers.iter().map(|answer| &answer.tokens.refresh_token).collect();
        assert_eq!(refresh.len(), 1);
        assert_eq!(scene.row(&jar).await.generation, generation);
        jar = TestClient::of(&answers[generation as usize % 4]);
    }
}

#[tokio::test]
async fn rule_4_a_failing_store_decides_nothing() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    scene.store.set_down(true);
    assert_eq!(refused(&scene, &jar).await, RefreshError::Unavailable);
    assert_eq!(scene.store.calls(), ["rotate"], "one that is down is not asked over and over");
    let together = join_all((0..20).map(|_| scene.renew(&jar))).await;
    assert!(together.into_iter().all(|answer| answer.map(drop) == Err(RefreshError::Unavailable)));
    assert_eq!(scene.store.calls(), ["rotate"], "the failure is shared by those who wait");
    scene.store.set_down(false);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
}

#[tokio::test]
async fn rule_4_a_follower_that_can_end_nothing_is_told_that_nothing_is_known() {
    let scene = TokensFixture::new();
    let (owner, thief) = two_jars(&scene).await;
    scene.renew(&owner).await.expect("a rotation");
    scene.store.set_down(true);
    assert_eq!(refused(&scene, &thief).await, RefreshError::Unavailable);
    scene.store.set_down(false);
    assert_eq!(refused(&scene, &thief).await, over(SessionEvent::ReuseDetected));
}

#[tokio::test]
async fn a_key_rotation_signs_nobody_out() {
    let scene = TokensFixture::new();
    let mut jar = scene.browser().await;
    let of_the_old_key = jar.clone();
    scene.rotate_keys();
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
    let keys = scene.tokens.keys().load();
    assert_eq!(refresh_token::parse(&keys, &jar.refresh).map(|token| token.key_number), Ok(2));
    assert_eq!(scene.row(&jar).await.key_number, 2);
    let again = scene.renew(&of_the_old_key).await.expect("the old one is replayed");
    assert_eq!(again.tokens.refresh_token, jar.refresh);
    scene.advance(ACCESS_TTL);
    scene.renewed(&mut jar, SessionEvent::Rotated).await;
}

#[tokio::test]
async fn a_replay_is_signed_with_the_key_of_its_generation() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let first = scene.renew(&jar).await.expect("a rotation");
    scene.rotate_keys();
    scene.advance(10 * SECOND);
    let again = scene.renew(&jar).await.expect("a replay");
    assert_eq!(again.tokens.refresh_token, first.tokens.refresh_token);
}

#[tokio::test]
async fn replays_are_counted() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    for _ in 0..4 {
        scene.renew(&jar).await.expect("a renewal");
    }
    scene.tokens.flush_deferred().await.expect("an answer");
    let row = scene.row(&jar).await;
    assert_eq!((row.rotations, row.replays), (1, 3));
}

#[tokio::test]
async fn the_idle_end_is_never_beyond_the_absolute_one() {
    let settings = SessionSettings { absolute_ttl: 60 * MINUTE, ..SessionSettings::default() };
    let scene = TokensFixture::with(settings);
    let jar = scene.browser().await;
    scene.advance(ACCESS_TTL);
    let issued = scene.renew(&jar).await.expect("a rotation");
    assert_eq!(issued.tokens.max_age, 45 * MINUTE);
    assert_eq!(issued.session.idle_expires_at, issued.session.absolute_expires_at);
}
