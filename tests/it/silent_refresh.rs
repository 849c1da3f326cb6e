//! Refresh of an expired access token within the request that carries it.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::SecretString;
use sekisho::client_info::ClientInfo;
use sekisho::clock::{Clock, ManualClock};
use sekisho::models::session::EndReason;
use sekisho::models::user::Role;
use sekisho::services::store::SessionFilter;
use serde_json::{Value, json};

use crate::support::app::{
    ABSOLUTE_TTL, ACCESS_TTL, GRACE, IDLE_TTL, PASSWORD, PAST_GRACE, TestApp, on_each_database, send,
};
use crate::support::browser::{ACCESS, CookieJar, REFRESH};
use crate::support::db::{self, TestDatabase};
use crate::support::http::{TestResponse, bare, form, get, with};
use crate::support::upstream::Upstream;

on_each_database! {
    expired_token_is_refreshed_in_the_same_response
    refreshed_request_reaches_the_handler_once
    refresh_starts_at_nine_tenths_of_the_lifetime
    valid_token_makes_no_store_call
    responses_of_any_status_carry_fresh_cookies
    conditional_headers_are_removed_on_refresh
    explicit_refresh_rotates_and_replays
    idle_session_expires
    refresh_does_not_extend_the_absolute_expiry
    bearer_tokens_are_not_refreshed
    shorter_lifetime_applies_to_issued_tokens
    refresh_token_is_bound_to_its_session_kind
    invalid_tokens_terminate_no_session
    tokens_of_another_key_terminate_no_session
    valid_access_token_takes_precedence
    refresh_token_identifies_the_user_after_expiry
    store_loss_keeps_sessions_and_cookies
    session_survives_a_restart
    preflight_is_not_refreshed
    each_termination_cause_has_its_event
}

const DAY: Duration = Duration::from_secs(86_400);

const NEW_PASSWORD: &str = "seven quiet ferries cross the strait";

async fn expired_token_is_refreshed_in_the_same_response(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let before = [ann.token(ACCESS), ann.token(REFRESH)];
    app.expire();
    let response = ann.get("/auth/session").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")));
    assert_eq!(response.json()["user"]["email"], "ann@example.com");
    assert_eq!(response.json()["access_expires_at"], "2026-01-01T00:30:05Z");
    assert_eq!(response.json()["session_expires_at"], "2026-01-15T00:30:05Z");
    assert_sets_both(&response, &app);
    assert!(!before.contains(&ann.token(ACCESS)) && !before.contains(&ann.token(REFRESH)));

    let response = ann.get("/auth/session").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, None));
    assert!(response.set_cookies().is_empty());
}

async fn refreshed_request_reaches_the_handler_once(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user_as("ann@example.com", Role::Admin).await;
    let mut ann = app.browser();
    ann.sign_in("ann@example.com").await;
    app.expire();
    let ran = json!({"title": "Ran", "year": 1985, "director": "Akira Kurosawa"});
    let response = ann.post("/movies", &ran).await;
    assert_eq!((response.status.as_u16(), response.event()), (201, Some("rotated")));
    assert_sets_both(&response, &app);
    let movies = ann.get("/movies").await.json();
    assert_eq!((&movies["total"], &movies["items"][0]["title"]), (&json!(1), &json!("Ran")));
}

async fn refresh_starts_at_nine_tenths_of_the_lifetime(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.browser();
    app.user("ann@example.com").await;
    let session = ann.sign_in("ann@example.com").await;
    app.clock.advance(ACCESS_TTL * 9 / 10 - Duration::from_secs(1));
    let response = ann.get("/auth/session").await;
    assert_eq!((response.event(), app.row(session).await.generation), (None, 1));
    app.clock.advance(Duration::from_secs(1));
    let response = ann.get("/auth/session").await;
    assert_eq!((response.event(), app.row(session).await.generation), (Some("rotated"), 2));
    assert_sets_both(&response, &app);
}

async fn valid_token_makes_no_store_call(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.break_store().await;
    for _ in 0..3 {
        app.clock.advance(PAST_GRACE);
        let response = ann.get("/movies").await;
        assert_eq!((response.status.as_u16(), response.event()), (200, None));
        assert!(response.set_cookies().is_empty());
    }
    // The identity needs no database.
    app.fresh.stores.close().await;
    let response = ann.post("/movies", &json!({})).await;
    response.problem(403, "forbidden");
    assert_eq!(response.event(), None);
}

async fn responses_of_any_status_carry_fresh_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    for (method, path, status) in [
        ("GET", "/movies/7", 404),
        ("GET", "/movies?limit=0", 400),
        ("HEAD", "/movies", 200),
        ("DELETE", "/movies/7", 403),
        ("POST", "/auth/password", 415),
    ] {
        app.expire();
        let response = ann.send(bare(method, path)).await;
        assert_eq!(
            (response.status.as_u16(), response.event()),
            (status, Some("rotated")),
            "{method} {path}"
        );
        assert_sets_both(&response, &app);
    }
}

async fn conditional_headers_are_removed_on_refresh(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    let response = ann.send(with(get("/auth/session"), "if-none-match", "*")).await;
    assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")));
}

async fn explicit_refresh_rotates_and_replays(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    for (advance, event) in [(PAST_GRACE, "rotated"), (Duration::from_secs(1), "replayed")] {
        app.clock.advance(advance);
        let response = ann.post("/auth/refresh", &Value::Null).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some(event)), "{response:?}");
        assert_eq!(response.json()["user"]["email"], "ann@example.com");
        assert!(response.json().get("refresh_token").is_none());
        assert_eq!(response.set_cookies().len(), 2);
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
    }
    app.browser().post("/auth/refresh", &Value::Null).await.problem(401, "missing");
    app.expire();
    app.break_store().await;
    let response = ann.post("/auth/refresh", &Value::Null).await;
    response.problem(503, "store_unavailable");
    assert_eq!(response.event(), Some("store_unavailable"));
    assert!(response.set_cookies().is_empty() && response.header("retry-after").is_some());
}

/// D11: the browser still has its cookies, and receives the reason.
async fn idle_session_expires(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.clock.advance(ACCESS_TTL + IDLE_TTL);
    assert_terminated(&ann.get("/auth/session").await, "idle_expired", false);
    app.clock.advance(GRACE);
    assert_terminated(&ann.get("/auth/session").await, "idle_expired", false);
    app.clock.advance(Duration::from_secs(1));
    assert_terminated(&ann.get("/auth/session").await, "idle_expired", true);
    assert!(ann.jar.is_empty());
}

async fn refresh_does_not_extend_the_absolute_expiry(database: TestDatabase) {
    let flags = [("session.idle_ttl", "1h"), ("session.absolute_ttl", "100m")];
    let app = TestApp::with(database, &flags).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let end = app.clock.now() + Duration::from_secs(100 * 60);
    let mut refreshes = 0;
    while app.clock.now() < end {
        let response = ann.get("/auth/session").await;
        assert_eq!(response.status, 200, "at {}", app.clock.now());
        refreshes += usize::from(response.event().is_some());
        let claims = decode_claims(&ann.token(ACCESS));
        assert!(claims["exp"].as_i64().unwrap() <= end.unix_timestamp(), "{claims}");
        for cookie in response.set_cookies() {
            let until = app.clock.now().unix_timestamp() + cookie.max_age.unwrap();
            assert_eq!(until, (end + DAY).unix_timestamp(), "a day longer than the session");
        }
        app.clock.advance(Duration::from_secs(70));
    }
    assert!(refreshes > 6, "{refreshes}");
    let cookies = ann.send_and_drop(get("/")).await;
    assert!(cookies.set_cookies().is_empty());
    let jar = format!("{ACCESS}={}; {REFRESH}={}", ann.token(ACCESS), ann.token(REFRESH));
    app.clock.advance(Duration::from_secs(6));
    assert_terminated(&app.send(with(get("/auth/session"), "cookie", &jar)).await, "absolute_expired", false);
    app.clock.advance(ABSOLUTE_TTL);
    assert_terminated(&app.send(with(get("/auth/session"), "cookie", &jar)).await, "absolute_expired", true);
}

async fn bearer_tokens_are_not_refreshed(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let tokens = client(&app, "ann@example.com").await;
    let bearer = format!("bearer {}", tokens["access_token"].as_str().unwrap());
    let send = async || app.send(with(get("/auth/session"), "authorization", &bearer)).await;
    for advance in [Duration::ZERO, ACCESS_TTL - Duration::from_secs(1)] {
        app.clock.advance(advance);
        let response = send().await;
        assert_eq!((response.status.as_u16(), response.event()), (200, None), "not refreshed");
        assert!(response.set_cookies().is_empty());
    }
    app.expire();
    let response = send().await;
    assert_eq!(response.status, 401);
    assert_eq!(response.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
    assert!(response.set_cookies().is_empty());

    for other in ["Basic YW5uOnB3", "Bearer", "Bearer x y", "Token abc"] {
        let response = app.send(with(get("/auth/session"), "authorization", other)).await;
        assert_eq!(response.status, 401, "{other}");
    }
    let query = app.send(get(&format!("/auth/session?access_token={}", &bearer[7..]))).await;
    query.problem(401, "missing");
}

/// B2: after `tokens.access_ttl` was lowered, a token of the former lifetime is expired, and it is refreshed if its
/// session lives. Otherwise it would outlive the record that its session has ended.
async fn shorter_lifetime_applies_to_issued_tokens(database: TestDatabase) {
    let upstream = Upstream::start().await;
    let app = TestApp::with_upstream(&upstream.url(), database).await;
    app.user("ann@example.com").await;
    let mut browsers = Vec::new();
    for path in ["/auth/session", "/forwarded"] {
        let [mut live, mut ended] = [app.browser(), app.browser()];
        live.sign_in("ann@example.com").await;
        let session = ended.sign_in("ann@example.com").await;
        let terminated = app.app.tokens.end(session, EndReason::Revoked, &ClientInfo::default()).await;
        assert!(terminated.unwrap());
        browsers.push((path, live, ended));
    }
    // Longer than a replica with the new lifetime remembers ended sessions, and before the tokens' `exp`.
    app.clock.advance(Duration::from_secs(300));
    let replica = app.replica_with(|config| config.tokens.access_ttl = Duration::from_secs(120)).await;
    replica.tokens.revocations().load().await.unwrap();
    for (path, live, ended) in browsers {
        let bearer = with(get(path), "authorization", &format!("Bearer {}", live.token(ACCESS)));
        assert_eq!(send(&replica, bearer).await.status, 401, "{path}: not refreshed");
        let response = ended.with_service(replica.public.clone()).get(path).await;
        response.problem(401, "revoked");
        let response = live.with_service(replica.public.clone()).get(path).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")), "{path}");
    }
}

async fn refresh_token_is_bound_to_its_session_kind(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let tokens = client(&app, "ann@example.com").await;
    app.expire();
    let browser_token = ann.token(REFRESH);
    let response = app.send(refresh_grant(&browser_token)).await;
    assert_eq!((response.status.as_u16(), &response.json()["error"]), (401, &json!("invalid_grant")));

    let client_token = tokens["refresh_token"].as_str().unwrap();
    let cookie = format!("{REFRESH}={client_token}");
    let response = app.send(with(get("/auth/session"), "cookie", &cookie)).await;
    assert_terminated(&response, "malformed", false);

    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"), "no session was terminated");
    assert_eq!(app.send(refresh_grant(client_token)).await.status, 200, "no session was terminated");
}

async fn invalid_tokens_terminate_no_session(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    let (access, refresh) = (ann.token(ACCESS), ann.token(REFRESH));
    let flipped = format!("{}{}", if refresh.starts_with('A') { 'B' } else { 'A' }, &refresh[1..]);
    let forged = format!("{}{}", &refresh[..60], "A".repeat(12));
    let long = "A".repeat(5_000);
    for (cookies, event) in [
        (format!("{ACCESS}={access}; {REFRESH}={refresh}; {REFRESH}={refresh}"), "malformed"),
        (format!("{REFRESH}={refresh}; {REFRESH}={forged}"), "malformed"),
        (format!("{ACCESS}=; {ACCESS}={access}; {REFRESH}={refresh}"), "malformed"),
        (format!("{ACCESS}={access}; {REFRESH}={flipped}"), "malformed"),
        (format!("{ACCESS}={access}; {REFRESH}={forged}"), "malformed"),
        (format!("{REFRESH}={}", &refresh[..71]), "malformed"),
        (format!("{REFRESH}={refresh}A"), "malformed"),
        (format!("{REFRESH}=\"{refresh}\""), "malformed"),
        (format!("{REFRESH}="), "malformed"),
        (format!("{REFRESH}={access}"), "malformed"),
        (format!("{REFRESH}={long}"), "malformed"),
        (format!("{ACCESS}={long}"), "malformed"),
        (format!("{ACCESS}={refresh}"), "malformed"),
        (format!("{ACCESS}={access}"), "missing"),
        (format!("access_token={access}; refresh_token={refresh}"), "missing"),
        (format!("__host-refresh_token={refresh}"), "missing"),
    ] {
        let response = app.send(with(get("/auth/session"), "cookie", &cookies)).await;
        assert_terminated(&response, event, false);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{cookies}");
    }
    let two_lines =
        with(with(get("/auth/session"), "cookie", &format!("{REFRESH}=x")), "cookie", &ann.cookies());
    assert_terminated(&app.send(two_lines).await, "malformed", false);
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"), "no session was terminated");

    app.expire();
    let split = with(get("/auth/session"), "cookie", &format!("theme=dark; {ACCESS}={}", ann.token(ACCESS)));
    let split = with(split, "cookie", &format!("{REFRESH}={}; lang=ja", ann.token(REFRESH)));
    let response = app.send(split).await;
    assert_eq!(response.event(), Some("rotated"), "one header line per cookie is accepted, as in HTTP/2");
}

async fn valid_access_token_takes_precedence(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    app.user("bob@example.com").await;
    let (mut ann, mut bob) = (app.browser(), app.browser());
    ann.sign_in("ann@example.com").await;
    let bob_session = bob.sign_in("bob@example.com").await;
    app.clock.advance(ACCESS_TTL - Duration::from_secs(10));
    let mut mixed = ann.clone();
    mixed.jar = CookieJar::of(&ann, &bob);
    let response = mixed.get("/auth/session").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, None));
    assert_eq!(response.json()["user"]["email"], "ann@example.com");
    assert!(response.set_cookies().is_empty());
    assert_eq!(app.row(bob_session).await.generation, 1, "the other session was rotated");

    let mut half = ann.clone();
    half.jar.remove(REFRESH);
    assert_eq!(half.get("/auth/session").await.status, 200);
    // Cookies take precedence over a bearer token.
    let both = with(get("/auth/session"), "authorization", "Bearer nonsense");
    assert_eq!(ann.send(both).await.status, 200);
}

async fn refresh_token_identifies_the_user_after_expiry(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let bob = app.signed_in("bob@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    app.expire();
    ann.jar = CookieJar::of(&bob, &ann);
    let response = ann.get("/auth/session").await;
    assert_eq!(
        response.json()["user"]["email"],
        "ann@example.com",
        "an expired access token identifies no user"
    );
    assert_eq!(app.row(session).await.generation, 2);
    app.expire();
    ann.jar.remove(ACCESS);
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
}

async fn store_loss_keeps_sessions_and_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.break_store().await;
    assert_eq!(ann.get("/movies").await.status, 200);
    app.clock.advance(ACCESS_TTL - Duration::from_secs(1));
    let due = ann.get("/movies").await;
    assert_eq!((due.status.as_u16(), due.event()), (200, Some("store_unavailable")));
    assert!(due.set_cookies().is_empty());

    app.expire();
    for path in ["/movies", "/auth/session"] {
        let response = ann.get(path).await;
        response.problem(503, "store_unavailable");
        assert_eq!(response.event(), Some("store_unavailable"));
        assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        assert!(response.set_cookies().is_empty(), "{path}");
    }
    app.repair_store().await;
    let response = ann.get("/movies").await;
    assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")));
}

async fn session_survives_a_restart(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let ann = app.signed_in("ann@example.com").await;
    let app = app.restart().await;
    let mut ann = ann.with_service(app.app.public.clone());
    assert_eq!(ann.get("/auth/session").await.event(), None);
    app.expire();
    assert_eq!(ann.get("/auth/session").await.event(), Some("rotated"));
}

async fn preflight_is_not_refreshed(database: TestDatabase) {
    let page = "https://page.example.com";
    let allowed = format!("[\"{page}\"]");
    let app = TestApp::with(database, &[("server.allowed_origins", &allowed)]).await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    app.expire();
    for (origin, path) in [
        (page, "/auth/session"),
        ("https://other.example", "/auth/session"),
        ("https://other.example", "/movies"),
    ] {
        let preflight = with(bare("OPTIONS", path), "origin", origin);
        let preflight = with(preflight, "access-control-request-method", "GET");
        let response = ann.send(preflight).await;
        assert!(response.set_cookies().is_empty(), "{origin} {path}");
        let header = response.header("access-control-allow-origin");
        assert_eq!(header, (origin == page).then_some(page));
    }
    assert_eq!(app.row(session).await.generation, 1);
}

async fn each_termination_cause_has_its_event(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut browsers = Vec::new();
    for event in ["user_disabled", "user_deleted", "role_changed", "revoked", "password_changed"] {
        let email = format!("{event}@example.com");
        let browser = app.signed_in(&email).await;
        let user = app.app.users.find_by_email(&email).await.unwrap();
        let by = &ClientInfo::default();
        match event {
            "user_disabled" => app.app.users.disable(&user, by).await.unwrap(),
            "user_deleted" => app.app.users.delete(&user, by).await.unwrap(),
            "role_changed" => app.app.users.set_role(&user, Role::Admin, by).await.unwrap(),
            "revoked" => app
                .app
                .tokens
                .end_matching(&SessionFilter::User(user.id.into()), EndReason::Revoked, by)
                .await
                .unwrap()
                .len(),
            _ => app.app.users.set_password(&user, &SecretString::from(NEW_PASSWORD), by).await.unwrap(),
        };
        browsers.push((browser, event));
    }
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    for (browser, event) in &mut browsers {
        assert_terminated(&browser.get("/auth/session").await, event, true);
        assert!(browser.jar.is_empty());
        browser.get("/auth/session").await.problem(401, "missing");
    }
    assert_eq!(ann.get("/auth/session").await.status, 200);
}

async fn tokens_of_another_key_terminate_no_session(database: TestDatabase) {
    let elsewhere = db::sqlite().await.expect("SQLite needs no server");
    let secret = ("tokens.secret", "another one of more than 32 bytes, for another program");
    let elsewhere = TestApp::with(elsewhere, &[secret]).await;
    let (foreign, app) =
        (elsewhere.signed_in("ann@example.com").await, TestApp::with_database(database).await);
    let mut ann = app.signed_in("ann@example.com").await;
    let mut mixed = ann.clone();
    for event in [None, Some("rotated")] {
        let response = app.send(with(get("/auth/session"), "cookie", &foreign.cookies())).await;
        assert_terminated(&response, "malformed", false);
        let bearer = format!("Bearer {}", foreign.token(ACCESS));
        let response = app.send(with(get("/auth/session"), "authorization", &bearer)).await;
        assert_eq!(response.status, 401);

        mixed.jar = CookieJar::of(&ann, &foreign);
        let response = mixed.get("/auth/session").await;
        assert_eq!(response.status == 200, event.is_none(), "a valid access token takes precedence");
        assert_eq!(ann.get("/auth/session").await.event(), event, "no session was terminated");
        app.expire();
    }
}

#[track_caller]
fn assert_sets_both(response: &TestResponse, app: &TestApp) {
    // The session began at the start of the clock.
    let lifetime = ManualClock::default().now() + ABSOLUTE_TTL + DAY - app.clock.now();
    let cookies = response.set_cookies();
    assert_eq!(cookies.len(), 2, "{response:?}");
    for (cookie, name) in cookies.iter().zip([ACCESS, REFRESH]) {
        assert_eq!(cookie.name, name);
        assert!(!cookie.value.is_empty());
        assert_eq!(cookie.attributes, ["httponly", "path=/", "samesite=lax", "secure"]);
        assert_eq!(cookie.max_age, Some(lifetime.whole_seconds()));
    }
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
    assert_eq!(response.header("vary"), Some("Cookie"));
}

/// Checks for a 401 with this event, and whether the cookies are cleared.
#[track_caller]
fn assert_terminated(response: &TestResponse, event: &str, cleared: bool) {
    response.problem(401, event);
    assert_eq!(response.event(), Some(event));
    let names: Vec<_> =
        response.set_cookies().into_iter().filter(|one| one.clears()).map(|one| one.name).collect();
    assert_eq!(names, if cleared { vec![ACCESS, REFRESH] } else { vec![] }, "{event}");
    assert_eq!(response.set_cookies().len(), names.len());
}

/// Signs in at `/token` and returns its tokens.
async fn client(app: &TestApp, email: &str) -> Value {
    let response = app.send(form("/token", &[("username", email), ("password", PASSWORD)])).await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn refresh_grant(token: &str) -> Request<Body> {
    form("/token", &[("grant_type", "refresh_token"), ("refresh_token", token)])
}

fn decode_claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}
