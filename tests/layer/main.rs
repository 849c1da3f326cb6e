//! The layer through its public interface, with a scripted [`TokenService`].
//!
//! A test binary of its own, since it needs no feature of the crate.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a test fails")]

mod claims;
mod guards;
mod policies;
mod redirect;
mod sessions;
#[path = "../../src/test_seed.rs"]
mod test_seed;

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, COOKIE, HeaderMap, HeaderValue, SET_COOKIE, VARY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use sekisho::client_info::{ClientAddress, ClientInfo};
use sekisho::identity::{Claims, Identity, Roles, SessionId};
use sekisho::layer::{
    ContinueAnonymous, CookiePolicy, CurrentUser, OnReject, OnStoreLoss, RefreshError, RefreshRequest,
    RefreshedSession, Reject401, RejectedRequest, Rejection, SESSION_EVENT_HEADER, SessionActiveFuture,
    SilentRefresh, SilentRefreshLayer, TokenService, Verified, VerifyError,
};
use sekisho::session_event::SessionEvent;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::Level;
use uuid::Uuid;

use crate::test_seed::proptest_config;

const SESSION: SessionId = SessionId(Uuid::from_u128(1));

/// A token service whose tokens name their result.
#[derive(Default)]
struct ScriptedTokens {
    verified: AtomicUsize,
    refreshed: Mutex<Vec<RefreshRequest>>,
    /// Result of `is_session_active`.
    session_check: SessionCheck,
    session_checks: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
enum SessionCheck {
    #[default]
    Active,
    Ended,
    Pending,
}

impl TokenService for ScriptedTokens {
    type Refresh = BoxFuture<'static, Result<RefreshedSession, RefreshError>>;

    fn verify(&self, access_token: &str) -> Result<Verified, VerifyError> {
        self.verified.fetch_add(1, SeqCst);
        match access_token {
            "admin" => Ok(Verified { identity: admin(), refresh_due: false }),
            "valid" => Ok(Verified { identity: user("old"), refresh_due: false }),
            "due" => Ok(Verified { identity: user("old"), refresh_due: true }),
            "expired" => Err(VerifyError::Expired),
            "old-key" => Err(VerifyError::UnknownKey),
            "revoked" => Err(VerifyError::Ended(SessionEvent::Revoked)),
            _ => Err(VerifyError::Malformed),
        }
    }

    fn is_session_active(&self, session: SessionId) -> SessionActiveFuture {
        assert_eq!(session, SESSION);
        self.session_checks.fetch_add(1, SeqCst);
        let session_check = self.session_check;
        Box::pin(async move {
            match session_check {
                SessionCheck::Active => true,
                SessionCheck::Ended => false,
                SessionCheck::Pending => std::future::pending().await,
            }
        })
    }

    fn refresh(&self, request: RefreshRequest) -> Self::Refresh {
        let token = request.refresh_token.clone();
        let expected_session = request.expected_session;
        self.refreshed.lock().unwrap().push(request);
        Box::pin(async move {
            let ended = |event, clear_cookies| Err(RefreshError::SessionEnded { event, clear_cookies });
            match token.as_str() {
                "good" => Ok(refreshed_session(SessionEvent::Rotated)),
                "replayed" => Ok(refreshed_session(SessionEvent::Replayed)),
                "of-another-session" if expected_session.is_some() => ended(SessionEvent::Malformed, false),
                "of-another-session" => Ok(refreshed_session(SessionEvent::Rotated)),
                "logged-out-now" => ended(SessionEvent::LoggedOut, false),
                "logged-out" => ended(SessionEvent::LoggedOut, true),
                "unknown-key" => ended(SessionEvent::UnknownKey, true),
                "unknown-session" => ended(SessionEvent::UnknownSession, true),
                "store-down" => Err(RefreshError::Unavailable),
                "slow" => {
                    tokio::time::sleep(Duration::from_millis(99)).await;
                    Ok(refreshed_session(SessionEvent::Rotated))
                }
                "stuck" => std::future::pending().await,
                _ => ended(SessionEvent::Malformed, true),
            }
        })
    }
}

fn user(subject: &str) -> Identity {
    Identity {
        subject: subject.parse().unwrap(),
        session: SESSION,
        email: "ann@example.org".into(),
        roles: Roles::default(),
        claims: Claims::default(),
        expires_at: time::macros::datetime!(2026-01-01 00:15 UTC),
    }
}

/// A user with the roles `admin` and `editor`.
fn admin() -> Identity {
    Identity { roles: Roles::new(["admin", "editor"]).unwrap(), ..user("admin") }
}

fn refreshed_session(event: SessionEvent) -> RefreshedSession {
    RefreshedSession {
        identity: user("new"),
        access_token: "a2".to_owned(),
        refresh_token: "r2".to_owned(),
        max_age: Duration::from_secs(60),
        delivery_timeout: Duration::from_secs(15),
        event,
    }
}

const SET: [&str; 2] = [
    "access_token=a2; HttpOnly; SameSite=Lax; Path=/; Max-Age=60",
    "refresh_token=r2; HttpOnly; SameSite=Lax; Path=/; Max-Age=60",
];
const CLEARED: [&str; 2] = [
    "access_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
    "refresh_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
];

/// Responds with the user's id or the rejection, and with the headers named by `want-*` headers.
async fn echo(request: Request<String>) -> Result<Response<String>, Infallible> {
    let extensions = request.extensions();
    let user = extensions.get::<Identity>().map(|user| user.subject.to_string());
    let reason = extensions.get::<Rejection>().map(|rejection| format!("anonymous: {}", rejection.event));
    let mut response = Response::new(user.or(reason).unwrap_or_else(|| "no layer".to_owned()));
    let wanted = |name: String| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    if let Some(status) = wanted("want-status".to_owned()) {
        *response.status_mut() = status.parse().unwrap();
    }
    for field in [CACHE_CONTROL.as_str(), "vary", "set-cookie", "x-session-event", "cdn-cache-control"] {
        if let Some(value) = wanted(format!("want-{field}")) {
            let name = http::HeaderName::from_bytes(field.as_bytes()).unwrap();
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    Ok(response)
}

struct Fixture<R = ContinueAnonymous> {
    tokens: Arc<ScriptedTokens>,
    on_reject: R,
}

fn fixture() -> Fixture {
    Fixture { tokens: Arc::default(), on_reject: ContinueAnonymous }
}

fn rejecting_fixture() -> Fixture<Reject401> {
    Fixture { tokens: Arc::default(), on_reject: Reject401 }
}

impl<R: OnReject<String> + Clone> Fixture<R> {
    fn layer(&self) -> SilentRefreshLayer<ScriptedTokens, R> {
        SilentRefreshLayer::new(Arc::clone(&self.tokens), CookiePolicy::insecure_for_loopback())
            .with_on_reject(self.on_reject.clone())
    }

    fn service<S>(&self, inner: S) -> SilentRefresh<S, ScriptedTokens, R> {
        self.layer().layer(inner)
    }

    async fn send(&self, fields: &[(&str, &str)]) -> Response<String> {
        let request =
            fields.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        self.call(request.body(String::new()).unwrap()).await
    }

    async fn call(&self, request: Request<String>) -> Response<String> {
        self.service(service_fn(echo)).oneshot(request).await.unwrap()
    }

    /// Refreshes an expired session in a request whose response takes `delay`.
    async fn slow_response(&self, delay: Duration) -> Response<String> {
        let slow = service_fn(move |_: Request<String>| async move {
            tokio::time::sleep(delay).await;
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        self.service(slow).oneshot(get_request(EXPIRED.1)).await.unwrap()
    }

    async fn cookies(&self, cookies: &str) -> Response<String> {
        self.send(&[("cookie", cookies)]).await
    }

    fn refreshes(&self) -> usize {
        self.tokens.refreshed.lock().unwrap().len()
    }
}

fn get_request(cookies: &str) -> Request<String> {
    Request::get("/").header(COOKIE, cookies).body(String::new()).unwrap()
}

fn event(response: &Response<String>) -> Option<&str> {
    response.headers().get(SESSION_EVENT_HEADER).map(|value| value.to_str().unwrap())
}

fn all<'r>(headers: &'r HeaderMap, name: &http::HeaderName) -> Vec<&'r str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

fn set_cookies<B>(response: &Response<B>) -> Vec<&str> {
    all(response.headers(), &SET_COOKIE)
}

/// Summarises a response: status, body, event, and whether cookies were set or cleared.
fn summary(response: &Response<String>) -> String {
    let cookies = match set_cookies(response).as_slice() {
        [] => "untouched",
        cookies if *cookies == SET => "set",
        cookies if *cookies == CLEARED => "cleared",
        other => panic!("unexpected cookies: {other:?}"),
    };
    let body = if response.body().starts_with('{') { "problem" } else { response.body() };
    format!("{} {body:?} {} {cookies}", response.status().as_u16(), event(response).unwrap_or("-"))
}

// --- The decision table.

#[tokio::test(start_paused = true)]
async fn decision_table_accepts() {
    for (cookies, expected) in [
        // A valid access token decides alone.
        ("access_token=valid", r#"200 "old" - untouched"#),
        ("access_token=valid; refresh_token=good", r#"200 "old" - untouched"#),
        ("access_token=valid; refresh_token=logged-out", r#"200 "old" - untouched"#),
        ("access_token=due", r#"200 "old" - untouched"#),
        // It is due.
        ("access_token=due; refresh_token=good", r#"200 "new" rotated set"#),
        ("access_token=due; refresh_token=replayed", r#"200 "new" replayed set"#),
        ("access_token=due; refresh_token=slow", r#"200 "new" rotated set"#),
        ("access_token=due; refresh_token=stuck", r#"200 "old" - untouched"#),
        ("access_token=due; refresh_token=store-down", r#"200 "old" store_unavailable untouched"#),
        ("access_token=due; refresh_token=garbage", r#"200 "old" - untouched"#),
        ("access_token=due; refresh_token=\"good\"", r#"200 "old" - untouched"#),
        ("access_token=due; refresh_token=unknown-key", r#"200 "old" - untouched"#),
        ("access_token=due; refresh_token=unknown-session", r#"200 "old" - untouched"#),
        ("access_token=due; refresh_token=of-another-session", r#"200 "old" - untouched"#),
        // The refresh token decides alone.
        ("access_token=expired; refresh_token=good", r#"200 "new" rotated set"#),
        ("access_token=garbage; refresh_token=good", r#"200 "new" rotated set"#),
        ("access_token=; refresh_token=good", r#"200 "new" rotated set"#),
        ("access_token=old-key; refresh_token=replayed", r#"200 "new" replayed set"#),
        ("refresh_token=good", r#"200 "new" rotated set"#),
        ("refresh_token=of-another-session", r#"200 "new" rotated set"#),
    ] {
        assert_eq!(summary(&fixture().cookies(cookies).await), expected, "{cookies}");
        assert_eq!(summary(&rejecting_fixture().cookies(cookies).await), expected, "{cookies}");
    }
}

#[tokio::test]
async fn decision_table_rejects() {
    for (cookies, expected) in [
        ("", "401 \"problem\" missing untouched"),
        ("theme=dark", "401 \"problem\" missing untouched"),
        ("access_token=expired", "401 \"problem\" missing untouched"),
        ("access_token=garbage", "401 \"problem\" malformed untouched"),
        ("access_token=old-key", "401 \"problem\" unknown_key untouched"),
        ("access_token=revoked", "401 \"problem\" revoked untouched"),
        ("access_token=revoked; refresh_token=logged-out", "401 \"problem\" revoked untouched"),
        ("access_token=due; refresh_token=logged-out", "401 \"problem\" logged_out cleared"),
        ("access_token=due; refresh_token=logged-out-now", "401 \"problem\" logged_out untouched"),
        ("access_token=expired; refresh_token=logged-out", "401 \"problem\" logged_out cleared"),
        ("access_token=expired; refresh_token=logged-out-now", "401 \"problem\" logged_out untouched"),
        // Not the end of a session: never cleared, even if the service sets `clear`.
        ("access_token=expired; refresh_token=garbage", "401 \"problem\" malformed untouched"),
        ("access_token=expired; refresh_token=unknown-key", "401 \"problem\" unknown_key untouched"),
        ("access_token=expired; refresh_token=unknown-session", "401 \"problem\" unknown_session untouched"),
        ("access_token=expired; refresh_token=", "401 \"problem\" malformed untouched"),
        ("refresh_token=store-down", "503 \"problem\" store_unavailable untouched"),
        ("access_token=expired; refresh_token=store-down", "503 \"problem\" store_unavailable untouched"),
        ("access_token=valid; access_token=valid", "401 \"problem\" malformed untouched"),
        ("access_token=valid; refresh_token=good; refresh_token=good", "401 \"problem\" malformed untouched"),
    ] {
        assert_eq!(summary(&rejecting_fixture().cookies(cookies).await), expected, "{cookies}");
    }
}

#[tokio::test]
async fn rejected_request_continues_as_anonymous_by_default() {
    for (cookies, expected) in [
        ("", r#"200 "anonymous: missing" missing untouched"#),
        ("access_token=revoked", r#"200 "anonymous: revoked" revoked untouched"#),
        ("access_token=valid; access_token=valid", r#"200 "anonymous: malformed" malformed untouched"#),
        ("refresh_token=logged-out", r#"200 "anonymous: logged_out" logged_out untouched"#),
        ("refresh_token=store-down", r#"503 "" store_unavailable untouched"#),
    ] {
        assert_eq!(summary(&fixture().cookies(cookies).await), expected, "{cookies}");
    }
}

#[tokio::test]
async fn anonymous_401_clears_cookies() {
    let anonymous_401 = [("cookie", "refresh_token=logged-out"), ("want-status", "401")];
    let response = fixture().send(&anonymous_401).await;
    assert_eq!(summary(&response), r#"401 "anonymous: logged_out" logged_out cleared"#);
    assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");
}

#[tokio::test]
async fn cookies_are_read_from_all_lines() {
    let split = [("cookie", "refresh_token=good; x=1"), ("cookie", "access_token=expired")];
    assert_eq!(summary(&fixture().send(&split).await), r#"200 "new" rotated set"#);
    let twice = [("cookie", "access_token=valid"), ("cookie", "access_token=valid")];
    assert_eq!(event(&fixture().send(&twice).await), Some("malformed"));
}

#[tokio::test]
async fn bearer_token_is_verified_and_never_refreshed() {
    for (authorization, expected) in [
        ("Bearer valid", r#"200 "old" - untouched"#),
        ("bEARER due", r#"200 "old" - untouched"#),
        ("Bearer expired", r#"401 "problem" missing untouched"#),
        ("Bearer old-key", r#"401 "problem" unknown_key untouched"#),
        ("Bearer revoked", r#"401 "problem" revoked untouched"#),
        ("Bearer", r#"401 "problem" malformed untouched"#),
        ("Basic dmFsaWQ=", r#"401 "problem" missing untouched"#),
    ] {
        let fixture = rejecting_fixture();
        let response = fixture.send(&[("authorization", authorization)]).await;
        assert_eq!(summary(&response), expected, "{authorization}");
        if response.status() == StatusCode::UNAUTHORIZED && authorization.starts_with("Bearer") {
            assert_eq!(response.headers()["www-authenticate"], r#"Bearer error="invalid_token""#);
        }
        assert_eq!(fixture.refreshes(), 0);
    }
}

#[tokio::test]
async fn session_cookie_takes_precedence_over_authorization() {
    let both = [("cookie", "access_token=garbage"), ("authorization", "Bearer valid")];
    let response = rejecting_fixture().send(&both).await;
    assert_eq!(summary(&response), r#"401 "problem" malformed untouched"#);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn preflight_is_anonymous_and_not_refreshed() {
    let fixture = rejecting_fixture();
    let preflight = Request::options("/")
        .header("origin", "https://example.org")
        .header("access-control-request-method", "PUT")
        .header("cookie", "access_token=expired; refresh_token=good");
    let response = fixture.call(preflight.body(String::new()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(!response.headers().contains_key(SET_COOKIE));
    assert_eq!((fixture.refreshes(), fixture.tokens.verified.load(SeqCst)), (0, 0));

    // Any other OPTIONS request is handled as usual.
    let plain = Request::options("/").header("cookie", "access_token=expired; refresh_token=good");
    assert_eq!(summary(&fixture.call(plain.body(String::new()).unwrap()).await), r#"200 "new" rotated set"#);
}

// --- Calls of the token service.

#[tokio::test]
async fn valid_token_is_verified_once_and_leaves_response_unchanged() {
    let fixture = fixture();
    let response = fixture.cookies("access_token=valid; refresh_token=good").await;
    assert!(response.headers().is_empty());
    assert_eq!((fixture.tokens.verified.load(SeqCst), fixture.refreshes()), (1, 0));
}

#[tokio::test]
async fn refresh_request_has_tokens_session_and_client() {
    let fixture = fixture();
    fixture.send(&[("cookie", "access_token=due; refresh_token=good"), ("user-agent", "Browser/1")]).await;
    fixture.cookies("access_token=\"expired\"; refresh_token=good").await;
    let address = ClientAddress([192, 0, 2, 1].into());
    let request = Request::get("/").header(COOKIE, "access_token=expired; refresh_token=good");
    fixture.call(request.extension(address).body(String::new()).unwrap()).await;

    let requests = fixture.tokens.refreshed.lock().unwrap();
    let early = &requests[0];
    assert_eq!((early.access_token.as_deref(), early.expected_session), (Some("due"), Some(SESSION)));
    assert_eq!(early.client, ClientInfo::new(None, Some("Browser/1")));
    assert_eq!((requests[1].access_token.as_deref(), requests[1].expected_session), (None, None));
    assert_eq!(requests[1].client, ClientInfo::default());
    assert_eq!(
        (requests[2].access_token.as_deref(), &requests[2].client),
        (Some("expired"), &ClientInfo::new(Some(address.0), None))
    );
}

#[tokio::test(start_paused = true)]
async fn early_refresh_times_out_after_100_ms_by_default() {
    let start = tokio::time::Instant::now();
    let stuck = "access_token=due; refresh_token=stuck";
    let response = fixture().cookies(stuck).await;
    assert_eq!(summary(&response), r#"200 "old" - untouched"#);
    assert_eq!(start.elapsed(), Duration::from_millis(100));

    let start = tokio::time::Instant::now();
    let layer = fixture().layer().with_refresh_timeout(Duration::from_secs(3));
    layer.layer(service_fn(echo)).oneshot(get_request(stuck)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn on_store_loss_refuse_rejects_valid_token() {
    let ask = async |refresh_token: &str| {
        let layer = rejecting_fixture().layer().with_on_store_loss(OnStoreLoss::Refuse);
        let request = get_request(&format!("access_token=due; refresh_token={refresh_token}"));
        summary(&layer.layer(service_fn(echo)).oneshot(request).await.unwrap())
    };
    assert_eq!(ask("store-down").await, "503 \"problem\" store_unavailable untouched");
    // A timeout does not count as an unavailable store.
    assert_eq!(ask("stuck").await, r#"200 "old" - untouched"#);
    assert_eq!(ask("garbage").await, r#"200 "old" - untouched"#);
}

#[tokio::test(start_paused = true)]
async fn refresh_without_valid_token_has_no_timeout() {
    let response = tokio::time::timeout(Duration::from_secs(3600), async {
        rejecting_fixture().cookies("access_token=expired; refresh_token=stuck").await
    });
    assert!(response.await.is_err());
}

/// The browser may already have confirmed newer cookies. Late ones would replace them, and their use would
/// look like token reuse.
#[tokio::test(start_paused = true)]
async fn late_response_has_no_cookies() {
    for (seconds, cookies) in [(0, 2), (15, 2), (16, 0)] {
        let response = fixture().slow_response(Duration::from_secs(seconds)).await;
        assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), cookies, "after {seconds} s");
        assert_eq!(response.headers()[SESSION_EVENT_HEADER], "rotated");
    }
}

/// Another replica may have terminated the session without this one having learned of it.
#[tokio::test(start_paused = true)]
async fn slow_response_has_cookies_only_if_session_is_active() {
    for (millis, session_check, checks, cookies, elapsed) in [
        (0, SessionCheck::Ended, 0, 2, 0),
        (50, SessionCheck::Ended, 0, 2, 50),
        (51, SessionCheck::Ended, 1, 0, 51),
        (51, SessionCheck::Active, 1, 2, 51),
        (51, SessionCheck::Pending, 1, 0, 1_051),
        (20_000, SessionCheck::Active, 0, 0, 20_000),
    ] {
        let fixture = Fixture {
            tokens: Arc::new(ScriptedTokens { session_check, ..ScriptedTokens::default() }),
            ..fixture()
        };
        let began = tokio::time::Instant::now();
        let response = fixture.slow_response(Duration::from_millis(millis)).await;
        let case = format!("{millis} ms, {session_check:?}");
        assert_eq!(began.elapsed(), Duration::from_millis(elapsed), "{case}");
        assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), cookies, "{case}");
        assert_eq!(fixture.tokens.session_checks.load(SeqCst), checks, "{case}");
        assert_eq!(response.headers()[SESSION_EVENT_HEADER], "rotated");
    }
}

// --- The inner service.

/// Panics if it is called without having been polled for readiness.
#[derive(Default)]
struct ReadinessCheckedService {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for ReadinessCheckedService {
    fn clone(&self) -> Self {
        Self { ready: false, calls: Arc::clone(&self.calls) }
    }
}

impl Service<Request<String>> for ReadinessCheckedService {
    type Response = Response<String>;
    type Error = &'static str;
    type Future = std::future::Ready<Result<Response<String>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called before it was ready");
        self.calls.fetch_add(1, SeqCst);
        std::future::ready(match request.headers().get("want-error") {
            Some(_) => Err("inner"),
            None => Ok(Response::new(request.into_body())),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn called_service_is_the_ready_one() {
    let inner = ReadinessCheckedService::default();
    let mut service = fixture().service(inner.clone());
    for cookies in [
        "",
        "access_token=valid",
        "access_token=due; refresh_token=slow",
        "access_token=due; refresh_token=stuck",
        "refresh_token=good",
        "refresh_token=logged-out",
    ] {
        let request = Request::post("/").header(COOKIE, cookies).body("once".to_owned()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.body(), "once", "{cookies}");
    }
    assert_eq!(inner.calls.load(SeqCst), 6);
}

#[tokio::test]
async fn rejected_request_does_not_reach_inner_service() {
    let inner = ReadinessCheckedService::default();
    let service = rejecting_fixture().service(inner.clone());
    for cookies in ["", "refresh_token=logged-out", "refresh_token=store-down"] {
        assert!(service.clone().oneshot(get_request(cookies)).await.is_ok());
    }
    assert_eq!(inner.calls.load(SeqCst), 0);
}

#[tokio::test]
async fn inner_error_is_returned() {
    for cookies in ["access_token=valid", "refresh_token=good", ""] {
        let service = fixture().service(ReadinessCheckedService::default());
        let request = Request::get("/").header(COOKIE, cookies).header("want-error", "");
        let result = service.oneshot(request.body(String::new()).unwrap()).await;
        assert_eq!(result.err(), Some("inner"), "{cookies}");
    }
}

#[tokio::test]
async fn streamed_body_is_not_buffered() {
    let (frames, body) = tokio::sync::mpsc::channel::<Result<&'static str, Infallible>>(1);
    let stream = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let stream = Arc::new(Mutex::new(Some(Body::from_stream(stream))));
    let inner = service_fn(move |_: Request<Body>| {
        let body = stream.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let request = Request::get("/").header(COOKIE, "refresh_token=good").body(Body::empty()).unwrap();
    // The response arrives before the first frame.
    let mut response = fixture().service(inner).oneshot(request).await.unwrap();
    assert_eq!(set_cookies(&response), SET);
    for frame in ["one", "two"] {
        frames.send(Ok(frame)).await.unwrap();
        let received = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(received.into_data().unwrap(), frame);
    }
    drop(frames);
    assert!(response.body_mut().frame().await.is_none());
}

// --- The response.

const EXPIRED: (&str, &str) = ("cookie", "access_token=expired; refresh_token=good");
const DUE: (&str, &str) = ("cookie", "access_token=due; refresh_token=good");

#[tokio::test]
async fn new_cookies_follow_handler_cookies_and_make_response_private() {
    let response = fixture()
        .send(&[
            EXPIRED,
            ("want-set-cookie", "theme=dark"),
            ("want-cache-control", "max-age=60"),
            ("want-cdn-cache-control", "max-age=600"),
            ("want-vary", "Accept-Encoding"),
            ("want-x-session-event", "spoofed"),
        ])
        .await;
    assert_eq!(set_cookies(&response), ["theme=dark", SET[0], SET[1]]);
    let headers = response.headers();
    assert_eq!(all(headers, &CACHE_CONTROL), ["private, no-store"]);
    assert_eq!(all(headers, &VARY), ["Accept-Encoding", "Cookie"]);
    assert_eq!(all(headers, &SESSION_EVENT_HEADER), ["rotated"]);
    assert!(!headers.contains_key("cdn-cache-control"));
}

#[tokio::test]
async fn vary_has_cookie_once() {
    for vary in ["accept, COOKIE", "*"] {
        let response = fixture().send(&[EXPIRED, ("want-vary", vary)]).await;
        assert_eq!(all(response.headers(), &VARY), [vary]);
    }
}

#[tokio::test]
async fn error_responses_have_new_cookies() {
    for status in ["301", "401", "404", "500", "503"] {
        let response = fixture().send(&[EXPIRED, ("want-status", status)]).await;
        assert_eq!(summary(&response), format!(r#"{status} "new" rotated set"#));
    }
}

#[tokio::test]
async fn not_modified_and_public_responses_have_no_cookies() {
    for want in [("want-status", "304"), ("want-cache-control", "max-age=60, Public")] {
        let response = fixture().send(&[DUE, want]).await;
        assert_eq!((set_cookies(&response), event(&response)), (vec![], Some("rotated")), "{want:?}");
        assert!(!response.headers().contains_key(VARY));
        let caching = response.headers().get(CACHE_CONTROL).map(HeaderValue::as_bytes);
        assert_ne!(caching, Some(b"private, no-store".as_slice()));
    }
}

#[tokio::test]
async fn handler_session_cookies_take_precedence() {
    let cleared = "refresh_token=; Max-Age=0";
    let response = fixture().send(&[EXPIRED, ("want-set-cookie", cleared)]).await;
    assert_eq!((set_cookies(&response), event(&response)), (vec![cleared], Some("rotated")));
    assert_eq!(response.headers()[CACHE_CONTROL], "private, no-store");

    let named = [EXPIRED, ("want-set-cookie", cleared), ("want-x-session-event", "logged_out")];
    assert_eq!(event(&fixture().send(&named).await), Some("logged_out"));

    let set = "access_token=mine";
    let fields = [("cookie", "refresh_token=logged-out"), ("want-status", "401"), ("want-set-cookie", set)];
    assert_eq!(set_cookies(&fixture().send(&fields).await), [set]);
}

#[tokio::test]
async fn conditional_headers_are_removed_only_from_expired_get() {
    async fn remaining_headers(method: Method, cookies: &str) -> Vec<String> {
        let inner = service_fn(|request: Request<String>| async move {
            let names = request.headers().keys().map(|name| name.to_string());
            let mut names: Vec<_> = names.filter(|name| name.starts_with("if-")).collect();
            names.sort();
            Ok::<_, Infallible>(Response::new(names))
        });
        let request = Request::builder()
            .method(method)
            .header(COOKIE, cookies)
            .header("if-none-match", "\"1\"")
            .header("if-modified-since", "x")
            .header("if-range", "\"1\"");
        let request = request.body(String::new()).unwrap();
        fixture().service(inner).oneshot(request).await.unwrap().into_body()
    }
    let whole = ["if-modified-since", "if-none-match", "if-range"];
    assert_eq!(remaining_headers(Method::GET, EXPIRED.1).await, ["if-range"]);
    assert_eq!(remaining_headers(Method::HEAD, "refresh_token=replayed").await, ["if-range"]);
    assert_eq!(remaining_headers(Method::PUT, EXPIRED.1).await, whole);
    assert_eq!(remaining_headers(Method::GET, DUE.1).await, whole);
    assert_eq!(remaining_headers(Method::GET, "access_token=valid; refresh_token=good").await, whole);
    assert_eq!(remaining_headers(Method::GET, "refresh_token=logged-out").await, whole);
}

#[tokio::test]
async fn rejection_responses_have_all_headers() {
    let response = rejecting_fixture().cookies("refresh_token=logged-out-now").await;
    insta::assert_snapshot!(render(&response), @r#"
    401 Unauthorized
    cache-control: private, no-store
    content-type: application/problem+json
    vary: Cookie
    www-authenticate: Bearer
    x-session-event: logged_out

    {"type":"about:blank","title":"Unauthorized","status":401,"detail":"The session has ended. Sign in again.","code":"logged_out"}
    "#);
    let response = rejecting_fixture().cookies("refresh_token=store-down").await;
    insta::assert_snapshot!(render(&response), @r#"
    503 Service Unavailable
    cache-control: private, no-store
    content-type: application/problem+json
    retry-after: 1
    vary: Cookie
    x-session-event: store_unavailable

    {"type":"about:blank","title":"Service Unavailable","status":503,"detail":"The session cannot be checked at the moment. Try again shortly.","code":"store_unavailable"}
    "#);
}

fn render(response: &Response<String>) -> String {
    let mut lines: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    format!("{}\n{}\n\n{}", response.status(), lines.join("\n"), response.body())
}

#[tokio::test]
async fn closure_decides_by_the_request() {
    let reject_api = |rejected: &RejectedRequest<'_>| {
        assert_eq!(*rejected.method, Method::PUT);
        assert_eq!(rejected.headers["x-own"], "hush");
        assert_eq!(rejected.extensions.get(), Some(&7_u8));
        assert!(!format!("{rejected:?}").contains("hush"));
        rejected.uri.path().starts_with("/api/").then(|| rejected.rejection.problem())
    };
    let fixture = Fixture { tokens: Arc::default(), on_reject: reject_api };
    for (path, expected) in [
        ("/api/a?key=hush", r#"401 "problem" missing untouched"#),
        ("/page", r#"200 "anonymous: missing" missing untouched"#),
    ] {
        let request = Request::put(path).header("x-own", "hush").extension(7_u8);
        assert_eq!(summary(&fixture.call(request.body(String::new()).unwrap()).await), expected);
    }
}

#[tokio::test]
async fn closure_response_gets_session_headers() {
    let redirect = |rejected: &RejectedRequest<'_>| {
        assert!(rejected.rejection.clear_cookies);
        let mut response = Response::new("elsewhere".to_owned());
        *response.status_mut() = StatusCode::SEE_OTHER;
        Some(response)
    };
    let fixture = Fixture { tokens: Arc::default(), on_reject: redirect };
    let response = fixture.cookies("refresh_token=logged-out").await;
    assert_eq!(summary(&response), r#"303 "elsewhere" logged_out untouched"#);
    assert!(!response.headers().contains_key("www-authenticate"));

    let own_challenge = |_: &RejectedRequest<'_>| {
        let response = Response::builder().status(401).header("www-authenticate", "Own");
        Some(response.body(String::new()).unwrap())
    };
    let fixture = Fixture { tokens: Arc::default(), on_reject: own_challenge };
    let response = fixture.cookies("").await;
    assert_eq!(all(response.headers(), &http::header::WWW_AUTHENTICATE), ["Own"]);
}

// --- The log.

/// Captures the log of this thread until the guard is dropped.
fn capture_log() -> (io::PipeReader, impl Sized) {
    // With a single subscriber, tracing caches the interest of the thread that reaches a callsite first,
    // which may be one of another test without subscriber. A second subscriber prevents that.
    let format = || tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false).without_time();
    let second = tracing::Dispatch::new(format().with_writer(io::sink).finish());
    let (log, writer) = io::pipe().unwrap();
    let guard = tracing::subscriber::set_default(format().with_writer(Arc::new(writer)).finish());
    (log, (guard, second))
}

#[tokio::test]
async fn refreshes_and_rejections_are_logged_once() {
    let (log, guard) = capture_log();
    for cookies in [
        "access_token=valid; refresh_token=good",
        "access_token=expired; refresh_token=good",
        "access_token=due; refresh_token=store-down",
        "refresh_token=logged-out",
        "refresh_token=store-down",
        "access_token=hush",
        "",
    ] {
        fixture().cookies(cookies).await;
    }
    drop(guard);
    insta::assert_snapshot!(io::read_to_string(log).unwrap(), @"
     INFO sekisho::layer::future: session refreshed session_event=rotated session=00000000-0000-0000-0000-000000000001 user=new
     WARN sekisho::layer::future: session refresh postponed session_event=store_unavailable session=00000000-0000-0000-0000-000000000001
     INFO sekisho::layer::future: session rejected session_event=logged_out bearer=false
     WARN sekisho::layer::future: session check failed session_event=store_unavailable bearer=false
    DEBUG sekisho::layer::future: no session session_event=malformed bearer=false
    DEBUG sekisho::layer::future: no session session_event=missing bearer=false
    ");
}

// --- The extractor.

async fn extracted<R>(path: &str, cookies: &str, on_reject: R) -> Response<String>
where
    R: OnReject<Body> + Clone + Send + Sync + 'static,
{
    let app = axum::Router::new()
        .route("/must", get(|user: CurrentUser| async move { user.subject.to_string() }))
        .route(
            "/may",
            get(|user: Option<CurrentUser>| async move {
                user.map_or("anonymous".to_owned(), |user| user.subject.to_string())
            }),
        );
    let layer = fixture().layer().with_on_reject(on_reject);
    let request = Request::get(path).header(COOKIE, cookies).body(Body::empty()).unwrap();
    send(app.layer(layer), request).await
}

/// Sends a request to an application, and reads the whole response.
async fn send(app: axum::Router, request: Request<Body>) -> Response<String> {
    let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn extractor_returns_user_or_rejection() {
    let ask =
        async |path, cookies| summary(&extracted(path, cookies, ContinueAnonymous).await).replace('"', "");
    assert_eq!(ask("/must", "access_token=valid").await, "200 old - untouched");
    assert_eq!(ask("/must", "refresh_token=good").await, "200 new rotated set");
    assert_eq!(ask("/must", "").await, "401 problem missing untouched");
    assert_eq!(ask("/must", "refresh_token=logged-out").await, "401 problem logged_out cleared");
    assert_eq!(ask("/may", "access_token=valid").await, "200 old - untouched");
    assert_eq!(ask("/may", "refresh_token=logged-out").await, "200 anonymous logged_out untouched");
}

#[tokio::test]
async fn extractor_responds_503_if_store_is_unavailable() {
    let response = extracted("/must", "refresh_token=store-down", |_: &RejectedRequest<'_>| None).await;
    assert_eq!(summary(&response), r#"503 "problem" store_unavailable untouched"#);
    assert_eq!(response.headers()["retry-after"], "1");
}

// --- Arbitrary input.

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn arbitrary_cookie_headers_are_rejected(lines in proptest::collection::vec(cookie_line(), 0..4)) {
        let mut request = Request::new(String::new());
        for line in lines {
            request.headers_mut().append(COOKIE, line);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let response = runtime.block_on(rejecting_fixture().call(request));
        prop_assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        prop_assert!(set_cookies(&response).is_empty());
    }
}

/// Cookie lines similar to session cookies, without the token names of `ScriptedTokens`.
fn cookie_line() -> impl Strategy<Value = HeaderValue> {
    let name = prop_oneof!["access_token", "refresh_token", "[a-z_]{0,8}"];
    let octet = prop_oneof![Just(b'\t'), b' '..b'a', b'{'..=b'~', 0x80..=0xff_u8];
    let value = prop_oneof![8 => proptest::collection::vec(octet, 0..40), 1 => Just(vec![b'A'; 4097])];
    let pair = (name, "[ \t]{0,2}=?=?[ \t]{0,2}", value)
        .prop_map(|(name, equals, value)| [name.as_bytes(), equals.as_bytes(), &value].concat());
    proptest::collection::vec(pair, 0..4)
        .prop_map(|pairs| HeaderValue::from_bytes(&pairs.join(b"; ".as_slice())).unwrap())
}
