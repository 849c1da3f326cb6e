//! `POST /token`, for FastAPI and OAuth clients.

use axum::body::Body;
use axum::http::Request;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sekisho::client_info::ClientInfo;
use sekisho::models::session::{EndReason, SessionKind};
use serde_json::{Value, json};

use crate::support::app::{PASSWORD, PAST_GRACE, TestApp, on_each_database};
use crate::support::db::TestDatabase;
use crate::support::http::{TestResponse, bare, form, get, with, with_body};

on_each_database! {
    password_grant_returns_both_tokens
    grant_type_is_optional
    wrong_credentials_have_an_oauth_and_a_fastapi_error
    other_grants_and_scopes_are_rejected
    missing_or_repeated_field_is_rejected
    body_must_be_a_form
    other_methods_are_405
    refresh_grant_rotates
    refresh_token_of_an_ended_session_is_an_invalid_grant
    client_may_use_several_access_tokens
    replaced_refresh_token_of_a_client_is_reuse
    token_endpoint_ignores_cookies
    store_loss_is_503_with_retry_after
}

/// D12: with `"scope": ""` oauthlib raised an error.
async fn password_grant_returns_both_tokens(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let user = app.user("ann@example.com").await;
    let response = app.send(sign_in("Ann@Example.com", PASSWORD)).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert!(response.set_cookies().is_empty());
    let body = response.json();
    let mut keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["access_token", "expires_at", "expires_in", "refresh_token", "token_type"]);
    assert_eq!(body["token_type"], "bearer");
    assert_eq!((&body["expires_in"], &body["expires_at"]), (&json!(900), &json!(1_767_226_500)));
    assert_eq!(body["refresh_token"].as_str().unwrap().len(), 72);

    let (header, claims) = parts(body["access_token"].as_str().unwrap());
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("HS256")));
    assert!(header["kid"].is_string());
    assert_eq!(claims["exp"], body["expires_at"]);
    assert_eq!(claims["sub"], user.id.to_string());
    assert_eq!((&claims["email"], &claims["roles"]), (&json!("ann@example.com"), &json!(["user"])));
    for claim in ["iss", "aud", "client_id", "iat", "jti", "sid", "gen"] {
        assert!(!claims[claim].is_null(), "{claim}");
    }
    let session = claims["sid"].as_str().unwrap().parse().unwrap();
    assert_eq!(app.row(session).await.kind, SessionKind::Client);
}

async fn grant_type_is_optional(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let user = [("username", "ann@example.com"), ("password", PASSWORD)];
    for more in [
        &[][..],
        &[("grant_type", "")],
        &[("grant_type", "password")],
        &[("scope", "")],
        &[("client_id", "mobile"), ("client_secret", "not checked")],
        &[("audience", "other")],
    ] {
        let response = app.send(form("/token", &[&user, more].concat())).await;
        assert_eq!(response.status, 200, "{more:?}: {response:?}");
        assert!(response.json().get("scope").is_none());
    }
    let basic = with(form("/token", &user), "authorization", "Basic bW9iaWxlOnNlY3JldA==");
    assert_eq!(app.send(basic).await.status, 200);
}

async fn wrong_credentials_have_an_oauth_and_a_fastapi_error(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let bob = app.user("bob@example.com").await;
    app.app.users.disable(&bob, &ClientInfo::default()).await.unwrap();
    let mut responses = Vec::new();
    for (username, password) in [
        ("ann@example.com", "not her password at all"),
        ("nobody@example.com", PASSWORD),
        ("bob@example.com", PASSWORD),
        ("ann@example.com\0", PASSWORD),
        ("ann@example.com", "tall umbrellas sing at noon "),
    ] {
        let mut response = app.send(sign_in(username, password)).await;
        assert_eq!(response.status, 401, "{username}");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let expected = json!({
            "detail": "Incorrect username or password",
            "error": "invalid_grant",
            "error_description": "Incorrect username or password",
        });
        assert_eq!(response.json(), expected);
        response.headers.remove("x-request-id");
        responses.push((response.headers, response.body));
    }
    assert!(responses.windows(2).all(|pair| pair[0] == pair[1]), "{responses:?}");
    for body in ["username=%ff%fe&password=x", "username=%zz&password=%"] {
        let malformed = with_body("POST", "/token", "application/x-www-form-urlencoded", body);
        assert_error(&app.send(malformed).await, 401, "invalid_grant");
    }
}

async fn other_grants_and_scopes_are_rejected(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let user = [("username", "ann@example.com"), ("password", PASSWORD)];
    for grant in ["client_credentials", "authorization_code", "Password", "password ", "refresh"] {
        let response = app.send(form("/token", &[&user[..], &[("grant_type", grant)]].concat())).await;
        assert_error(&response, 400, "unsupported_grant_type");
    }
    for scope in ["movies", "openid profile", " "] {
        let response = app.send(form("/token", &[&user[..], &[("scope", scope)]].concat())).await;
        assert_error(&response, 400, "invalid_scope");
    }
    assert_eq!(app.app.users.list().await.unwrap().len(), 1);
}

async fn missing_or_repeated_field_is_rejected(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let (name, password) = (("username", "ann@example.com"), ("password", PASSWORD));
    let refresh = ("grant_type", "refresh_token");
    for (fields, field) in [
        (&[][..], "username"),
        (&[name], "password"),
        (&[password], "username"),
        (&[name, ("password", "")], "password"),
        (&[("username", ""), password], "username"),
        (&[refresh], "refresh_token"),
        (&[refresh, ("refresh_token", "")], "refresh_token"),
        (&[name, name, password], "username"),
        (&[name, password, password], "password"),
        (&[name, password, ("grant_type", "password"), refresh], "grant_type"),
        (&[name, password, ("scope", ""), ("scope", "")], "scope"),
        (&[name, password, ("client_id", "a"), ("client_id", "b")], "client_id"),
    ] {
        let response = app.send(form("/token", fields)).await;
        assert_error(&response, 400, "invalid_request");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("`{field}`")), "{fields:?}: {detail}");
    }
    let long = "x".repeat(1_025);
    assert_error(&app.send(sign_in("ann@example.com", &long)).await, 400, "invalid_request");
}

async fn body_must_be_a_form(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let fields = json!({"username": "ann@example.com", "password": PASSWORD}).to_string();
    let encoded = "username=ann%40example.com&password=tall+umbrellas+sing+at+noon";
    for (content_type, body) in [
        ("application/json", fields.as_str()),
        ("text/plain", encoded),
        ("multipart/form-data; boundary=x", encoded),
        ("", encoded),
    ] {
        let response = app.send(with_body("POST", "/token", content_type, body)).await;
        assert_error(&response, 400, "invalid_request");
    }
    let untyped = Request::post("/token").body(Body::from(encoded)).unwrap();
    assert_error(&app.send(untyped).await, 400, "invalid_request");
    assert_error(&app.send(bare("POST", &format!("/token?{encoded}"))).await, 400, "invalid_request");
    let in_query = with_body("POST", &format!("/token?{encoded}"), "application/x-www-form-urlencoded", "");
    assert_error(&app.send(in_query).await, 400, "invalid_request");
    let large = with_body("POST", "/token", "application/x-www-form-urlencoded", &"a".repeat(16_385));
    assert_error(&app.send(large).await, 400, "invalid_request");
    let good = with_body("POST", "/token", "application/x-www-form-urlencoded; charset=UTF-8", encoded);
    assert_eq!(app.send(good).await.status, 200);
}

async fn other_methods_are_405(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response = app.send(bare(method, "/token")).await;
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("POST"));
    }
    app.send(bare("POST", "/token/")).await.problem(404, "not_found");
}

async fn refresh_grant_rotates(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut tokens = app.send(sign_in("ann@example.com", PASSWORD)).await.json();
    let session = parts(tokens["access_token"].as_str().unwrap()).1["sid"].clone();
    for generation in 2..6 {
        app.expire();
        let response = app.send(refresh(&tokens)).await;
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert!(response.set_cookies().is_empty());
        let refreshed = response.json();
        assert_ne!(refreshed["refresh_token"], tokens["refresh_token"]);
        let claims = parts(refreshed["access_token"].as_str().unwrap()).1;
        assert_eq!((&claims["sid"], &claims["gen"]), (&session, &json!(generation)));
        assert_eq!((&claims["exp"], &refreshed["expires_in"]), (&refreshed["expires_at"], &json!(900)));
        tokens = refreshed;
    }
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
    assert_eq!(app.send(with(get("/movies"), "authorization", &bearer)).await.status, 200);
}

async fn refresh_token_of_an_ended_session_is_an_invalid_grant(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let user = app.user("ann@example.com").await;
    let tokens = app.send(sign_in("ann@example.com", PASSWORD)).await.json();
    for nonsense in ["nonsense", &"A".repeat(72), tokens["access_token"].as_str().unwrap()] {
        let response = app.send(refresh(&json!({"refresh_token": nonsense}))).await;
        assert_error(&response, 401, "invalid_grant");
        assert_eq!(response.event(), Some("malformed"));
    }
    app.app.users.disable(&user, &ClientInfo::default()).await.unwrap();
    app.expire();
    let response = app.send(refresh(&tokens)).await;
    assert_error(&response, 401, "invalid_grant");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert_eq!(response.event(), Some("user_disabled"));
}

/// Confirmed use by several clients is detected for browser sessions only.
async fn client_may_use_several_access_tokens(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let first = app.send(sign_in("ann@example.com", PASSWORD)).await.json();
    app.expire();
    let (one, other) = (app.send(refresh(&first)).await.json(), app.send(refresh(&first)).await.json());
    assert_eq!(one["refresh_token"], other["refresh_token"]);
    assert_ne!(one["access_token"], other["access_token"]);
    app.clock.advance(PAST_GRACE);
    let claims = parts(one["access_token"].as_str().unwrap()).1;
    let session = claims["sid"].as_str().unwrap().parse().unwrap();
    for tokens in [&one, &other] {
        let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
        assert_eq!(app.send(with(get("/movies"), "authorization", &bearer)).await.status, 200);
        app.flush_until(session, |row| row.settled_by.is_some()).await;
    }
    assert_eq!(app.row(session).await.end, None);
}

async fn replaced_refresh_token_of_a_client_is_reuse(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let first = app.send(sign_in("ann@example.com", PASSWORD)).await.json();
    app.expire();
    let second = app.send(refresh(&first)).await.json();
    app.clock.advance(PAST_GRACE);
    let bearer = format!("Bearer {}", second["access_token"].as_str().unwrap());
    assert_eq!(app.send(with(get("/movies"), "authorization", &bearer)).await.status, 200);
    let session = parts(&bearer).1["sid"].as_str().unwrap().parse().unwrap();
    app.flush_until(session, |row| row.settled_by.is_some()).await;
    let response = app.send(refresh(&first)).await;
    assert_error(&response, 401, "invalid_grant");
    assert_eq!(response.event(), Some("reuse_detected"));
    assert_eq!(app.row(session).await.end.map(|end| end.reason), Some(EndReason::ReuseDetected));
    app.expire();
    assert_error(&app.send(refresh(&second)).await, 401, "invalid_grant");
}

async fn token_endpoint_ignores_cookies(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut browser = app.browser();
    let session = browser.sign_in("ann@example.com").await;
    let response = browser.send(sign_in("ann@example.com", PASSWORD)).await;
    assert_eq!(response.status, 200);
    assert!(response.set_cookies().is_empty());
    assert_eq!(app.row(session).await.end, None, "the browser's session continues");
}

async fn store_loss_is_503_with_retry_after(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let tokens = app.send(sign_in("ann@example.com", PASSWORD)).await.json();
    app.expire();
    app.break_store().await;
    for request in [sign_in("ann@example.com", PASSWORD), refresh(&tokens)] {
        let response = app.send(request).await;
        assert_error(&response, 503, "temporarily_unavailable");
        assert!(response.header("retry-after").is_some());
        assert_eq!(response.event(), Some("store_unavailable"));
    }
    app.repair_store().await;
    assert_eq!(app.send(refresh(&tokens)).await.status, 200);
}

fn sign_in(username: &str, password: &str) -> Request<Body> {
    form("/token", &[("username", username), ("password", password)])
}

fn refresh(tokens: &Value) -> Request<Body> {
    let token = tokens["refresh_token"].as_str().unwrap();
    form("/token", &[("grant_type", "refresh_token"), ("refresh_token", token)])
}

/// Checks for an error of RFC 6749, section 5.2, with FastAPI's `detail`.
#[track_caller]
fn assert_error(response: &TestResponse, status: u16, error: &str) {
    assert_eq!(response.status, status, "{}", String::from_utf8_lossy(&response.body));
    let body = response.json();
    assert_eq!(body["error"], error);
    assert!(body["detail"].is_string() && body["detail"] == body["error_description"], "{body}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(response.header("content-type"), Some("application/json"));
}

/// Returns header and claims of an access token.
fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.trim_start_matches("Bearer ").split('.').map(|part| {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).unwrap_or_default()
    });
    (parts.next().unwrap(), parts.next().unwrap())
}
