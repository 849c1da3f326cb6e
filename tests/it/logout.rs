//! Sign-out from one session and from all sessions.

use axum::body::Body;
use axum::http::Request;
use sekisho::models::session::EndReason;
use serde_json::{Value, json};

use crate::support::app::{PAST_GRACE, TestApp, on_each_database};
use crate::support::browser::{ACCESS, Browser, REFRESH};
use crate::support::db::{self, TestDatabase};
use crate::support::http::{TestResponse, bare, form, get, post, with};
use crate::support::process::{ServerProcess, TestDeployment};
use crate::support::socket_browser::SocketBrowser;

on_each_database! {
    logout_terminates_the_session_and_clears_cookies
    logout_accepts_invalid_cookies
    logout_terminates_every_session_in_the_cookies
    logout_without_store_is_503
    logout_all_terminates_all_sessions_of_the_user
    logout_all_requires_a_session
    no_response_both_sets_and_clears_cookies
    late_response_does_not_clear_a_new_sign_in
    safe_methods_never_sign_out
}

async fn logout_terminates_the_session_and_clears_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    let copy = ann.clone();
    let response = ann.post("/auth/logout", &Value::Null).await;
    assert_eq!((response.status.as_u16(), response.body.len()), (204, 0));
    assert_clears(&response);
    assert!(ann.jar.is_empty());
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    ann.get("/auth/session").await.problem(401, "missing");

    let mut refresh_alone = copy.clone();
    refresh_alone.jar.remove(ACCESS);
    let response = refresh_alone.get("/auth/session").await;
    response.problem(401, "logged_out");
    assert!(response.set_cookies().is_empty(), "not cleared within the grace period");
    app.clock.advance(PAST_GRACE);
    assert_clears(&refresh_alone.get("/auth/session").await);
    refresh_alone.jar = copy.jar.clone();
    app.expire();
    copy.send_and_drop(get("/auth/session")).await.problem(401, "logged_out");
    refresh_alone.post("/auth/refresh", &Value::Null).await.problem(401, "logged_out");
}

async fn logout_accepts_invalid_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let bob = app.signed_in("bob@example.com").await;
    for cookies in [
        String::new(),
        format!("{ACCESS}=nonsense; {REFRESH}=nonsense"),
        format!("{ACCESS}=; {REFRESH}=\"\""),
        format!("{REFRESH}={}", "A".repeat(72)),
        format!("{REFRESH}={}", "x".repeat(5_000)),
        "theme=dark".to_owned(),
    ] {
        let response = app.send(with(bare("POST", "/auth/logout"), "cookie", &cookies)).await;
        assert_eq!(response.status, 204, "{cookies}");
        assert_clears(&response);
    }
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    let response = ann.post("/auth/logout", &Value::Null).await;
    assert_eq!(
        (response.status.as_u16(), response.event()),
        (204, Some("logged_out")),
        "logout does not refresh first"
    );
    assert_clears(&response);
    assert_eq!(bob.send_and_drop(get("/auth/session")).await.status, 200, "other sessions are unaffected");
}

async fn logout_terminates_every_session_in_the_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let (mut one, mut other) = (app.browser(), app.browser());
    let sessions = [one.sign_in("ann@example.com").await, other.sign_in("ann@example.com").await];
    let twice = format!("{REFRESH}={}; {REFRESH}={}", one.token(REFRESH), other.token(REFRESH));
    let response = app.send(with(bare("POST", "/auth/logout"), "cookie", &twice)).await;
    assert_eq!(response.status, 204);
    assert_clears(&response);
    for session in sessions {
        assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    }
}

async fn logout_without_store_is_503(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.break_store().await;
    for path in ["/auth/logout", "/auth/logout-all"] {
        let response = ann.post(path, &Value::Null).await;
        response.problem(503, "store_unavailable");
        assert!(response.set_cookies().is_empty(), "{path}");
        assert!(response.header("retry-after").is_some());
    }
    app.repair_store().await;
    assert_eq!(ann.get("/auth/session").await.status, 200);
    assert_eq!(ann.post("/auth/logout", &Value::Null).await.status, 204);
}

async fn logout_all_terminates_all_sessions_of_the_user(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let (mut first, mut second) = (app.browser(), app.browser());
    let sessions = [first.sign_in("ann@example.com").await, second.sign_in("ann@example.com").await];
    let fields = [("username", "ann@example.com"), ("password", crate::support::app::PASSWORD)];
    let client = app.send(form("/token", &fields)).await.json();
    let mut bob = app.signed_in("bob@example.com").await;

    let response = first.post("/auth/logout-all", &Value::Null).await;
    assert_eq!((response.status.as_u16(), response.body.len()), (204, 0));
    assert_clears(&response);
    for session in sessions {
        assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    }
    app.expire();
    second.get("/auth/session").await.problem(401, "logged_out");
    let refresh = client["refresh_token"].as_str().unwrap();
    let again = form("/token", &[("grant_type", "refresh_token"), ("refresh_token", refresh)]);
    assert_eq!(app.send(again).await.status, 401);
    assert_eq!(bob.get("/auth/session").await.status, 200);
}

async fn logout_all_requires_a_session(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let response = app.send(bare("POST", "/auth/logout-all")).await;
    response.problem(401, "missing");
    assert!(response.set_cookies().is_empty());
}

/// These handlers replace or clear the cookies that the refresh before them would set.
async fn no_response_both_sets_and_clears_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    let response = ann.post("/auth/logout-all", &Value::Null).await;
    assert_eq!((response.status.as_u16(), response.event()), (204, Some("logged_out")));
    assert_clears(&response);
    assert!(ann.jar.is_empty());

    let requests: [fn(&Browser) -> Request<Body>; 4] = [
        |_| {
            post(
                "/auth/login",
                &json!({"email": "ann@example.com", "password": crate::support::app::PASSWORD}),
            )
        },
        |_| bare("POST", "/auth/logout"),
        |_| bare("POST", "/auth/refresh"),
        |_| get("/auth/session"),
    ];
    for request in requests {
        let mut ann = app.browser();
        ann.sign_in("ann@example.com").await;
        app.expire();
        for ended in [false, true] {
            let response = ann.send_and_drop(request(&ann)).await;
            let cleared = response.set_cookies().iter().filter(|cookie| cookie.clears()).count();
            let names: Vec<_> = response.set_cookies().into_iter().map(|cookie| cookie.name).collect();
            assert!(names.is_empty() || names.len() == 2, "{names:?}");
            assert!(cleared == 0 || cleared == names.len(), "{response:?}");
            if !ended {
                ann.send_and_drop(bare("POST", "/auth/logout")).await;
                app.clock.advance(PAST_GRACE);
            }
        }
    }
}

async fn late_response_does_not_clear_a_new_sign_in(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    app.expire();
    let mut slow_tab = ann.clone();
    ann.post("/auth/logout", &Value::Null).await;
    ann.sign_in("ann@example.com").await;
    let late = slow_tab.get("/auth/session").await;
    late.problem(401, "logged_out");
    ann.store_cookies(&late);
    assert_eq!(ann.get("/auth/session").await.status, 200);
}

async fn safe_methods_never_sign_out(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    for path in ["/auth/logout", "/auth/logout-all", "/auth/refresh", "/auth/login", "/auth/password"] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let response = ann.send(bare(method, path)).await;
            assert_eq!(response.status, 405, "{method} {path}");
            assert!(response.set_cookies().is_empty());
        }
    }
    assert_eq!(ann.get("/auth/session").await.event(), None);
}

/// A8: one request with hundreds of cookies, alternately of two sessions.
#[tokio::test]
async fn logout_with_many_cookies_calls_the_store_a_few_times() {
    let deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let mut one = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let mut other = SocketBrowser::signed_in(server.public, "ann@example.com").await;
    let pair = |browser: &SocketBrowser| format!("{REFRESH}={}", browser.cookies[REFRESH]);
    let both = format!("{}; {}", pair(&one), pair(&other));
    let cookies = vec![both.as_str(); 150].join("; ");
    let before = store_calls(&server).await;
    let request = with(bare("POST", "/auth/logout"), "cookie", &cookies);
    let response = SocketBrowser::default().send(server.public, request).await.unwrap();
    assert_eq!(response.status, 204);
    let calls = store_calls(&server).await - before;
    assert!((1..=5).contains(&calls), "{calls}");
    for browser in [&mut one, &mut other] {
        assert_eq!(browser.status(server.public, "/auth/session").await, 401);
    }
    server.stop().await;
}

/// Returns the number of store calls so far that a sign-out makes.
async fn store_calls(server: &ServerProcess) -> u64 {
    let metrics = SocketBrowser::default().get(server.admin, "/metrics").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    let is_counted = |line: &&str| {
        let operations = ["end_session", "end_session_list", "end_sessions", "find_session"];
        line.starts_with("sekisho_store_duration_seconds_count")
            && operations.iter().any(|name| line.contains(&format!("operation=\"{name}\"")))
    };
    let counts = metrics.lines().filter(is_counted).map(|line| line.rsplit(' ').next().unwrap());
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Checks that both cookies are cleared with their original attributes, and that none is set.
#[track_caller]
fn assert_clears(response: &TestResponse) {
    let mut cookies = response.set_cookies();
    cookies.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = cookies.iter().map(|cookie| cookie.name.as_str()).collect();
    assert_eq!(names, [ACCESS, REFRESH], "{response:?}");
    for cookie in &cookies {
        assert_eq!((cookie.value.as_str(), cookie.max_age), ("", Some(0)));
        assert_eq!(cookie.attributes, ["httponly", "path=/", "samesite=lax", "secure"]);
    }
    for line in response.headers.get_all("set-cookie") {
        assert!(line.to_str().unwrap().contains("Expires=Thu, 01 Jan 1970 00:00:00 GMT"), "{line:?}");
    }
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
    // A 401 response also varies by the kind of the request.
    assert!(response.header("vary").is_some_and(|vary| vary.starts_with("Cookie")), "{response:?}");
}
