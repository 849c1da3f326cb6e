use tokio::task::JoinHandle;

use super::*;
use crate::client_info::ClientInfo;
use crate::models::session::{EndReason, SessionEnd};
use crate::services::test_support::{TestClient, TokensFixture};
use crate::services::token::SessionSettings;
use crate::session_event::SessionEndWatcher as _;

const DAY: Duration = Duration::from_secs(86_400);

/// Moves both clocks, step by step, so that whoever waits is heard.
async fn pass(scene: &TokensFixture, time: Duration) {
    let step = Duration::from_secs(60);
    for _ in 0..time.as_secs() / 60 {
        scene.advance(step);
        tokio::time::sleep(step).await;
    }
}

/// What a watch comes to, and one that has begun by now.
async fn watch(scene: &TokensFixture, jar: &TestClient) -> JoinHandle<SessionEvent> {
    let watch = tokio::spawn(scene.tokens.watch(jar.session));
    tokio::time::sleep(Duration::from_millis(1)).await;
    watch
}

fn number_watched(scene: &TokensFixture) -> usize {
    scene.tokens.revocations().watchers().lock().len()
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_to_all_who_watch_the_session_and_to_nobody_else() {
    let scene = TokensFixture::new();
    let (jar, other) = (scene.browser().await, scene.browser().await);
    let watches = [watch(&scene, &jar).await, watch(&scene, &jar).await];
    let spared = watch(&scene, &other).await;
    scene.tokens.terminate(jar.session, EndReason::Revoked, &ClientInfo::default()).await.expect("an answer");
    for watch in watches {
        assert_eq!(watch.await.expect("told"), SessionEvent::Revoked);
    }
    assert!(!spared.is_finished());
}

#[tokio::test(start_paused = true)]
async fn an_end_at_another_replica_is_told_within_a_second() {
    let scene = TokensFixture::new();
    let replica = scene.replica();
    let feed = tokio::spawn(replica.tokens.revocations().clone().run_poller());
    let jar = scene.browser().await;
    let watch = watch(&replica, &jar).await;
    scene
        .tokens
        .terminate(jar.session, EndReason::UserDisabled, &ClientInfo::default())
        .await
        .expect("an answer");
    let told = tokio::time::timeout(Duration::from_secs(1), watch).await.expect("in time");
    assert_eq!(told.expect("told"), SessionEvent::UserDisabled);
    feed.abort();
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_before_is_told_at_once() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene
        .tokens
        .terminate(jar.session, EndReason::LoggedOut, &ClientInfo::default())
        .await
        .expect("an answer");
    assert_eq!(scene.tokens.watch(jar.session).await, SessionEvent::LoggedOut);
    // Where the feed begins later than that, the row tells.
    assert_eq!(scene.replica().tokens.watch(jar.session).await, SessionEvent::LoggedOut);
    let nobody = SessionId(uuid::Uuid::nil());
    assert_eq!(scene.tokens.watch(nobody).await, SessionEvent::UnknownSession);
}

/// Between the question of what is known and the watch there must be no gap.
#[tokio::test(start_paused = true)]
async fn an_end_before_the_first_poll_is_told() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let watch = scene.tokens.watch(jar.session);
    scene.store.set_down(true);
    let end = SessionEnd { at: scene.now(), reason: EndReason::PasswordChanged };
    scene.tokens.revocations().mark_terminated(&[jar.session], end);
    assert_eq!(watch.await, SessionEvent::PasswordChanged);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_over_at_its_absolute_expiry_or_a_little_sooner() {
    let settings = SessionSettings { idle_ttl: 2 * DAY, absolute_ttl: DAY, ..SessionSettings::default() };
    let scene = TokensFixture::with(settings);
    let jar = scene.browser().await;
    let watch = watch(&scene, &jar).await;
    pass(&scene, DAY - Duration::from_secs(60)).await;
    assert!(!watch.is_finished());
    pass(&scene, Duration::from_secs(60)).await;
    assert_eq!(watch.await.expect("told"), SessionEvent::AbsoluteExpired);

    for _ in 0..20 {
        let jar = scene.browser().await;
        let early = expiry_jitter(&scene.row(&jar).await, scene.now());
        assert!(early < MAX_EXPIRY_JITTER);
        let late = scene.now() + DAY - Duration::from_secs(1);
        assert!(
            expiry_jitter(&scene.row(&jar).await, late) < Duration::from_millis(100),
            "who comes late stays"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_renews_is_over_and_one_that_is_renewed_goes_on() {
    let scene = TokensFixture::new();
    let idle = scene.browser().await;
    let mut renewed = scene.browser().await;
    let (of_idle, of_renewed) = (watch(&scene, &idle).await, watch(&scene, &renewed).await);
    pass(&scene, 13 * DAY).await;
    scene.renewed(&mut renewed, SessionEvent::Rotated).await;
    scene.store.calls();
    pass(&scene, 2 * DAY).await;
    assert_eq!(of_idle.await.expect("told"), SessionEvent::IdleExpired);
    assert!(!of_renewed.is_finished());
    assert_eq!(scene.store.calls(), ["find_session"; 2], "each row once");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_asked_again() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    scene.store.set_down(true);
    let watch = watch(&scene, &jar).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!watch.is_finished(), "the stream goes on");
    assert!(scene.store.calls().len() < 40, "and the store is left in peace");
    scene.advance(15 * DAY);
    scene.store.set_down(false);
    assert_eq!(watch.await.expect("told"), SessionEvent::IdleExpired);
}

#[tokio::test(start_paused = true)]
async fn who_must_refuse_while_the_feed_is_lost_is_told_so() {
    let settings =
        |refuse_on_store_loss| SessionSettings { refuse_on_store_loss, ..SessionSettings::default() };
    for (refuses, scene) in [true, false].map(|refuse| (refuse, TokensFixture::with(settings(refuse)))) {
        let feed = tokio::spawn(scene.tokens.revocations().clone().run_poller());
        let jar = scene.browser().await;
        let watch = watch(&scene, &jar).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!watch.is_finished());
        scene.store.set_down(true);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(watch.is_finished(), refuses);
        if refuses {
            assert_eq!(watch.await.expect("told"), SessionEvent::StoreUnavailable);
        }
        feed.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_given_up_leave_nothing_behind() {
    let scene = TokensFixture::new();
    let jar = scene.browser().await;
    let (one, other) = (scene.tokens.watch(jar.session), scene.tokens.watch(jar.session));
    drop(one);
    assert_eq!(number_watched(&scene), 1);
    drop(other);
    assert_eq!(number_watched(&scene), 0);
    let told = watch(&scene, &jar).await;
    scene.tokens.terminate(jar.session, EndReason::Revoked, &ClientInfo::default()).await.expect("an answer");
    told.await.expect("told");
    assert_eq!(number_watched(&scene), 0);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_watches_of_many_sessions_are_told_at_once() {
    let scene = TokensFixture::new();
    let mut watches = Vec::new();
    for _ in 0..20 {
        let jar = scene.browser().await;
        let of_one = (0..250).map(|_| tokio::spawn(scene.tokens.watch(jar.session)));
        watches.extend(of_one);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let which = crate::services::store::SessionFilter::All;
    scene
        .tokens
        .terminate_matching(&which, EndReason::Revoked, &ClientInfo::default())
        .await
        .expect("an answer");
    let began = tokio::time::Instant::now();
    for watch in watches {
        assert_eq!(watch.await.expect("told"), SessionEvent::Revoked);
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "no timer is waited for");
}
