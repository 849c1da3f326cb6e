//! Sign-out with requests in flight: their late responses must not restore the cookies, on any replica.

use std::time::{Duration, Instant};

use sekisho::app::App;
use sekisho::layer::{RefreshError, RefreshRequest, TokenService, VerifyError};
use sekisho::models::session::{EndReason, SessionId};
use sekisho::session_event::SessionEvent;
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;

use crate::revocations::wait_for_rejection;
use crate::support::app::{PAST_GRACE, TestApp, on_each_database};
use crate::support::browser::{ACCESS, Browser, REFRESH};
use crate::support::db::{self, TestDatabase};
use crate::support::http::{TestResponse, get, post};
use crate::support::process::until;
use crate::support::upstream::GatedUpstream;

on_each_database! {
    late_responses_set_no_cookies_after_sign_out
    stale_replica_checks_the_session_before_setting_cookies
    session_that_only_late_responses_use_stays_signed_in
}

async fn late_responses_set_no_cookies_after_sign_out(database: TestDatabase) {
    let mut fixture = LateResponseFixture::new(database).await;
    for replica in &fixture.replicas {
        start_poller(replica).await;
    }
    let other_tab = fixture.copy_with_fresh_cookies(1).await;
    fixture.sign_out().await;
    for replica in &fixture.replicas {
        let error = wait_for_rejection(&replica.tokens, &other_tab.token(ACCESS)).await;
        assert_eq!(error, VerifyError::Ended(SessionEvent::LoggedOut));
        fixture.assert_rejects_refresh(replica, &other_tab).await;
    }

    for (replica, response) in fixture.late_responses().await {
        assert!(response.set_cookies().is_empty(), "at {replica}: {response:?}");
        fixture.ann.store_cookies(&response);
    }
    assert!(fixture.ann.jar.is_empty());
    for replica in &fixture.replicas {
        let mut ann = fixture.ann.clone().with_service(replica.public.clone());
        ann.get("/auth/session").await.problem(401, "missing");
    }
    fixture.assert_stays_ended().await;
}

/// Also on a replica whose revocation list is stale: before a late response sets cookies, the replica checks
/// the session.
async fn stale_replica_checks_the_session_before_setting_cookies(database: TestDatabase) {
    let mut fixture = LateResponseFixture::new(database).await;
    for replica in &fixture.replicas {
        start_poller(replica).await;
    }
    let other_tab = fixture.copy_with_fresh_cookies(1).await;
    fixture.sign_out().await;
    // A new sign-in in the same browser survives too.
    let mut ann = fixture.ann.clone();
    ann.sign_in("ann@example.com").await;
    wait_in_real_time(Duration::from_millis(100)).await;
    for (replica, response) in fixture.late_responses().await {
        assert!(response.set_cookies().is_empty(), "at {replica}: {response:?}");
        ann.store_cookies(&response);
    }
    for replica in &fixture.replicas {
        assert_eq!(ann.clone().with_service(replica.public.clone()).get("/auth/session").await.status, 200);
    }

    let [first, second] = &fixture.replicas;
    let error = first.tokens.verify(&other_tab.token(ACCESS)).map(|_| ());
    assert_eq!(
        error,
        Err(VerifyError::Ended(SessionEvent::LoggedOut)),
        "rejected at once at the same replica"
    );
    fixture.assert_rejects_refresh(first, &other_tab).await;
    fixture.assert_rejects_refresh(second, &other_tab).await;
    let error = wait_for_rejection(&second.tokens, &other_tab.token(ACCESS)).await;
    assert_eq!(error, VerifyError::Ended(SessionEvent::LoggedOut));
    fixture.assert_stays_ended().await;

    // If a browser had kept such cookies, the first response after the grace period would clear them.
    fixture.app.clock.advance(PAST_GRACE);
    for replica in &fixture.replicas {
        let mut ann = other_tab.clone().with_service(replica.public.clone());
        ann.jar.remove(ACCESS);
        ann.get("/auth/session").await.problem(401, "logged_out");
        assert!(ann.jar.is_empty());
    }
}

/// B10: no response is early enough to carry cookies, for longer than the idle lifetime, at two replicas. The first
/// quick response then has them.
async fn session_that_only_late_responses_use_stays_signed_in(database: TestDatabase) {
    let mut upstream = GatedUpstream::start().await;
    // Responses after a sixth of the grace period carry no cookies.
    let flags = [("session.grace", "3s")];
    let app = TestApp::with_upstream_and_flags(&upstream.url(), database, &flags).await;
    let replicas = [app.app.clone(), app.replica().await];
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    for (nth, event) in ["rotated", "replayed", "replayed", "replayed"].into_iter().enumerate() {
        app.clock.advance(TEN_DAYS);
        let tab = ann.clone().with_service(replicas[nth % 2].public.clone());
        let response = tokio::spawn(async move { tab.send_and_drop(get("/slow")).await });
        upstream.arrived(1).await;
        wait_in_real_time(Duration::from_millis(550)).await;
        upstream.release(1);
        let response = response.await.unwrap();
        assert_eq!((response.status.as_u16(), response.event()), (200, Some(event)));
        assert!(response.set_cookies().is_empty(), "too late");
        replicas[nth % 2].tokens.flush_deferred().await.unwrap();
    }
    let row = app.flush_until(session, |row| row.replays == 3).await;
    assert_eq!(row.generation, 2);

    app.clock.advance(TEN_DAYS);
    until("a response that is quick enough", async || {
        let response = ann.get("/auth/session").await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some("replayed")));
        (!response.set_cookies().is_empty()).then_some(())
    })
    .await;
    let response = ann.get("/auth/session").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, None), "with the fresh access token");
}

/// Waits in real time, by which the gateway measures the age of a response.
async fn wait_in_real_time(time: Duration) {
    let start = Instant::now();
    until("the time to pass", async || (start.elapsed() > time).then_some(())).await;
}

/// `/auth/refresh` is outside the session layer and sets its cookies itself. A lock on the users table delays
/// its response after the refresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_explicit_refresh_sets_no_cookies_after_sign_out() {
    let Some(database) = db::postgres().await else { return };
    let app = TestApp::with_database(database).await;
    let replicas = [app.app.clone(), app.replica().await];
    app.user("ann@example.com").await;
    for replica in &replicas {
        let mut ann = app.browser();
        let session = ann.sign_in("ann@example.com").await;
        app.expire();
        let mut busy = PgConnection::connect(app.fresh.url()).await.unwrap();
        busy.execute("BEGIN; LOCK TABLE myapi.users IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let tab = ann.clone().with_service(replica.public.clone());
        let slow = tokio::spawn(async move { tab.send_and_drop(post("/auth/refresh", &Value::Null)).await });
        until("the refresh", async || (app.row(session).await.generation == 2).then_some(())).await;
        assert_eq!(ann.post("/auth/logout", &Value::Null).await.status, 204);
        busy.execute("COMMIT").await.unwrap();
        busy.close().await.unwrap();

        let response = slow.await.unwrap();
        response.problem(401, "logged_out");
        assert!(response.set_cookies().is_empty(), "{response:?}");
    }
}

/// Two replicas in front of a slow upstream, and a browser with an expired access token. Eight requests, four
/// at each replica, have refreshed the session and wait for the upstream.
struct LateResponseFixture {
    app: TestApp,
    replicas: [App; 2],
    upstream: GatedUpstream,
    ann: Browser,
    session: SessionId,
    in_flight: JoinSet<(usize, TestResponse)>,
}

impl LateResponseFixture {
    async fn new(database: TestDatabase) -> Self {
        let mut upstream = GatedUpstream::start().await;
        let app = TestApp::with_upstream(&upstream.url(), database).await;
        let replicas = [app.app.clone(), app.replica().await];
        app.user("ann@example.com").await;
        let mut ann = app.browser();
        let session = ann.sign_in("ann@example.com").await;
        app.expire();
        let mut in_flight = JoinSet::new();
        for nth in 0..REQUESTS {
            let tab = ann.clone().with_service(replicas[nth % 2].public.clone());
            in_flight.spawn(async move { (nth % 2, tab.send_and_drop(get("/slow")).await) });
        }
        upstream.arrived(REQUESTS).await;
        assert_eq!(app.row(session).await.generation, 2);
        Self { app, replicas, upstream, ann, session, in_flight }
    }

    /// Returns the browser with the cookies of a fast response of this replica.
    async fn copy_with_fresh_cookies(&self, replica: usize) -> Browser {
        let mut copy = self.ann.clone().with_service(self.replicas[replica].public.clone());
        assert_eq!(copy.get("/auth/session").await.event(), Some("replayed"));
        copy
    }

    /// Signs out at the first replica.
    async fn sign_out(&mut self) {
        assert_eq!(self.ann.post("/auth/logout", &Value::Null).await.status, 204);
        assert!(self.ann.jar.is_empty());
    }

    /// Releases the upstream, and returns each response with its replica.
    async fn late_responses(&mut self) -> Vec<(usize, TestResponse)> {
        self.upstream.release(REQUESTS);
        let in_flight = std::mem::take(&mut self.in_flight);
        let responses = in_flight.join_all().await;
        for (_, response) in &responses {
            assert_eq!(
                (response.status.as_u16(), response.body.as_slice()),
                (200, GatedUpstream::ANSWER.as_bytes())
            );
        }
        responses
    }

    /// Checks both with and without the access token.
    async fn assert_rejects_refresh(&self, replica: &App, other_tab: &Browser) {
        for access_token in [Some(other_tab.token(ACCESS)), None] {
            let refresh_token = other_tab.token(REFRESH);
            let request = RefreshRequest { refresh_token, access_token, ..RefreshRequest::default() };
            let error = replica.tokens.refresh(request).await.map(|_| ());
            let logged_out =
                RefreshError::SessionEnded { event: SessionEvent::LoggedOut, clear_cookies: false };
            assert_eq!(error, Err(logged_out));
        }
    }

    async fn assert_stays_ended(&self) {
        let row = self.app.row(self.session).await;
        assert_eq!((row.generation, row.rotations), (2, 1));
        assert_eq!(row.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    }
}

/// Loads the revocation list, as a replica does before it is ready, and polls from then on.
async fn start_poller(replica: &App) {
    replica.tokens.revocations().load().await.unwrap();
    tokio::spawn(replica.tokens.revocations().clone().run_poller());
}

const REQUESTS: usize = 8;

/// Less than the idle lifetime.
const TEN_DAYS: Duration = Duration::from_secs(10 * 86_400);
