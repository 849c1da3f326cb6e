use tokio::task::JoinHandle;

use super::*;
use crate::models::session::{EndReason, SessionEnd};
use crate::services::store::SessionFilter;
use crate::services::test_support::{TestClient, TokensFixture};
use crate::services::token::SessionSettings;
use crate::session_event::{SessionEndWatcher as _, SessionUseRecorder as _};

const DAY: Duration = Duration::from_secs(86_400);

/// Advances both clocks, step by step so that waiting tasks run.
async fn advance(fixture: &TokensFixture, time: Duration) {
    let step = Duration::from_secs(60);
    for _ in 0..time.as_secs() / 60 {
        fixture.advance(step);
        tokio::time::sleep(step).await;
    }
}

/// Starts to watch the session.
async fn watch(fixture: &TokensFixture, client: &TestClient) -> JoinHandle<SessionEvent> {
    let watch = tokio::spawn(fixture.tokens.watch(client.session));
    tokio::time::sleep(Duration::from_millis(1)).await;
    watch
}

fn watched_sessions(fixture: &TokensFixture) -> usize {
    fixture.tokens.revocations().watchers().senders.lock().len()
}

#[tokio::test(start_paused = true)]
async fn termination_notifies_all_watchers_of_the_session_only() {
    let fixture = TokensFixture::new();
    let (client, other) = (fixture.browser().await, fixture.browser().await);
    let watches = [watch(&fixture, &client).await, watch(&fixture, &client).await];
    let other_watch = watch(&fixture, &other).await;
    fixture.terminate(&client, EndReason::Revoked).await;
    for watch in watches {
        assert_eq!(watch.await.expect("notified"), SessionEvent::Revoked);
    }
    assert!(!other_watch.is_finished());
}

#[tokio::test(start_paused = true)]
async fn termination_by_another_replica_notifies_within_a_second() {
    let fixture = TokensFixture::new();
    let replica = fixture.replica();
    let poller = tokio::spawn(replica.tokens.revocations().clone().run_poller());
    let client = fixture.browser().await;
    let watch = watch(&replica, &client).await;
    fixture.terminate(&client, EndReason::UserDisabled).await;
    let notified = tokio::time::timeout(Duration::from_secs(1), watch).await.expect("in time");
    assert_eq!(notified.expect("notified"), SessionEvent::UserDisabled);
    poller.abort();
}

#[tokio::test(start_paused = true)]
async fn earlier_termination_notifies_at_once() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.terminate(&client, EndReason::LoggedOut).await;
    assert_eq!(fixture.tokens.watch(client.session).await, SessionEvent::LoggedOut);
    // A revocation list that does not include it: the row is read.
    assert_eq!(fixture.replica().tokens.watch(client.session).await, SessionEvent::LoggedOut);
    let unknown = SessionId(uuid::Uuid::nil());
    assert_eq!(fixture.tokens.watch(unknown).await, SessionEvent::UnknownSession);
}

/// There is no gap between the lookup and the subscription.
#[tokio::test(start_paused = true)]
async fn termination_before_the_first_poll_notifies() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let watch = fixture.tokens.watch(client.session);
    fixture.store.set_unavailable(true);
    let end = SessionEnd { at: fixture.now(), reason: EndReason::PasswordChanged };
    fixture.tokens.revocations().mark_terminated(&[client.session], end);
    assert_eq!(watch.await, SessionEvent::PasswordChanged);
}

#[tokio::test(start_paused = true)]
async fn absolute_expiry_notifies_with_jitter() {
    let settings = SessionSettings { idle_ttl: 2 * DAY, absolute_ttl: DAY, ..SessionSettings::default() };
    let fixture = TokensFixture::with_settings(settings);
    let client = fixture.browser().await;
    let watch = watch(&fixture, &client).await;
    advance(&fixture, DAY - Duration::from_secs(60)).await;
    assert!(!watch.is_finished());
    advance(&fixture, Duration::from_secs(60)).await;
    assert_eq!(watch.await.expect("notified"), SessionEvent::AbsoluteExpired);

    for _ in 0..20 {
        let client = fixture.browser().await;
        let early = expiry_jitter(&fixture.row(&client).await, fixture.now());
        assert!(early < MAX_EXPIRY_JITTER);
        let late = fixture.now() + DAY - Duration::from_secs(1);
        assert!(
            expiry_jitter(&fixture.row(&client).await, late) < Duration::from_millis(100),
            "little remaining time has little jitter"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn idle_expiry_notifies_unless_the_session_is_refreshed() {
    let (fixture, idle) = TokensFixture::with_browser().await;
    let mut refreshed = fixture.browser().await;
    let idle_watch = watch(&fixture, &idle).await;
    let refreshed_watch = watch(&fixture, &refreshed).await;
    advance(&fixture, 13 * DAY).await;
    fixture.expect_refresh(&mut refreshed, SessionEvent::Rotated).await;
    fixture.store.take_calls();
    advance(&fixture, 2 * DAY).await;
    assert_eq!(idle_watch.await.expect("notified"), SessionEvent::IdleExpired);
    assert!(!refreshed_watch.is_finished());
    assert_eq!(fixture.store.take_calls(), ["find_session"; 2], "each row is read once");
}

/// B10: a busy connection keeps the others of its session open, on any replica, until the client is silent.
#[tokio::test(start_paused = true)]
async fn use_of_a_connection_postpones_the_idle_expiry() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let (other, idle) = (fixture.replica(), fixture.browser().await);
    let watches = [watch(&fixture, &client).await, watch(&other, &client).await];
    let idle_watch = watch(&fixture, &idle).await;
    for _ in 0..20 {
        fixture.tokens.record_use(client.session);
        advance(&fixture, DAY).await;
    }
    assert_eq!(idle_watch.await.expect("notified"), SessionEvent::IdleExpired);
    assert!(watches.iter().all(|watch| !watch.is_finished()));
    let last_use = fixture.now() - DAY;
    assert_eq!(fixture.row(&client).await.idle_expires_at, fixture.tokens.settings().idle_expiry(last_use));
    advance(&fixture, 14 * DAY).await;
    for watch in watches {
        assert_eq!(watch.await.expect("notified"), SessionEvent::IdleExpired);
    }
}

/// B10: the absolute expiry closes a busy connection.
#[tokio::test(start_paused = true)]
async fn use_of_a_connection_does_not_postpone_the_absolute_expiry() {
    let settings = SessionSettings { absolute_ttl: 20 * DAY, ..SessionSettings::default() };
    let fixture = TokensFixture::with_settings(settings);
    let client = fixture.browser().await;
    let watch = watch(&fixture, &client).await;
    for day in 0..21 {
        assert_eq!(watch.is_finished(), day == 20);
        fixture.tokens.record_use(client.session);
        advance(&fixture, DAY).await;
    }
    assert_eq!(watch.await.expect("notified"), SessionEvent::AbsoluteExpired);
}

#[tokio::test(start_paused = true)]
async fn failed_reads_are_retried() {
    let (fixture, client) = TokensFixture::with_browser().await;
    fixture.store.set_unavailable(true);
    let watch = watch(&fixture, &client).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!watch.is_finished(), "the stream stays open");
    assert!(fixture.store.take_calls().len() < 40, "retries back off");
    fixture.advance(15 * DAY);
    fixture.store.set_unavailable(false);
    assert_eq!(watch.await.expect("notified"), SessionEvent::IdleExpired);
}

#[tokio::test(start_paused = true)]
async fn stale_list_notifies_if_configured() {
    for refuses in [true, false] {
        let settings = SessionSettings { refuse_on_store_loss: refuses, ..SessionSettings::default() };
        let fixture = TokensFixture::with_settings(settings);
        let poller = tokio::spawn(fixture.tokens.revocations().clone().run_poller());
        let client = fixture.browser().await;
        let watch = watch(&fixture, &client).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!watch.is_finished());
        fixture.store.set_unavailable(true);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(watch.is_finished(), refuses);
        if refuses {
            assert_eq!(watch.await.expect("notified"), SessionEvent::StoreUnavailable);
        }
        poller.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_watchers_are_removed() {
    let (fixture, client) = TokensFixture::with_browser().await;
    let (one, other) = (fixture.tokens.watch(client.session), fixture.tokens.watch(client.session));
    drop(one);
    assert_eq!(watched_sessions(&fixture), 1);
    drop(other);
    assert_eq!(watched_sessions(&fixture), 0);
    let watch = watch(&fixture, &client).await;
    fixture.terminate(&client, EndReason::Revoked).await;
    watch.await.expect("notified");
    assert_eq!(watched_sessions(&fixture), 0);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_watchers_are_notified_at_once() {
    let fixture = TokensFixture::new();
    let mut watches = Vec::new();
    for _ in 0..20 {
        let client = fixture.browser().await;
        let watches_of_one = (0..250).map(|_| tokio::spawn(fixture.tokens.watch(client.session)));
        watches.extend(watches_of_one);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.revoke(SessionFilter::All).await;
    let began = tokio::time::Instant::now();
    for watch in watches {
        assert_eq!(watch.await.expect("notified"), SessionEvent::Revoked);
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "no timer is involved");
}
