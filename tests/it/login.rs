//! Sign-in with cookies, registration, password change, and session list.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use secrecy::ExposeSecret;
use sekisho::client_info::ClientInfo;
use sekisho::models::session::EndReason;
use serde_json::{Value, json};

use crate::support::app::{ABSOLUTE_TTL, PASSWORD, TestApp, on_each_database};
use crate::support::browser::{ACCESS, REFRESH};
use crate::support::db::TestDatabase;
use crate::support::http::{TestResponse, bare, form, get, post, with, with_body};

on_each_database! {
    sign_in_sets_two_cookies_and_returns_no_token
    failed_sign_ins_are_indistinguishable
    invalid_field_is_named
    body_must_be_json_or_a_form
    long_password_and_large_body_are_rejected
    sign_in_always_creates_new_ids
    sign_in_terminates_the_previous_session_of_the_browser
    oldest_session_beyond_the_limit_is_displaced
    registration_is_closed_by_default
    open_registration_creates_a_user
    password_change_terminates_other_sessions_only
    password_change_requires_a_strong_and_the_current_password
    imported_password_is_rehashed_on_sign_in
    password_of_72_bytes_is_not_a_beginning
    truncated_import_keeps_its_hash
    session_endpoint_returns_user_and_expiry
    session_list_contains_own_sessions_only
    only_own_sessions_can_be_revoked
    store_loss_is_not_a_wrong_password
}

const NEW_PASSWORD: &str = "seven quiet ferries cross the strait";

async fn sign_in_sets_two_cookies_and_returns_no_token(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let user = app.user("ann@example.com").await;
    for request in [login("Ann@Example.com", PASSWORD), login_form("ann@example.com", PASSWORD)] {
        let response = app.send(request).await;
        assert_eq!(response.status, 200);
        let expected = json!({
            "user": {"id": user.id.to_string(), "email": "ann@example.com", "name": null, "roles": ["user"]},
            "session_id": response.json()["session_id"],
            "access_expires_at": "2026-01-01T00:15:00Z",
            "session_expires_at": "2026-01-15T00:15:00Z",
        });
        assert_eq!(response.json(), expected);
        let cookies = both_cookies(&response);
        let lifetime = ABSOLUTE_TTL.as_secs() + 86_400;
        for (name, value, attributes) in &cookies {
            assert_eq!(attributes, &format!(" HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age={lifetime}"));
            assert!(name.len() + value.len() < 4_096);
        }
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
        assert_eq!(response.header("vary"), Some("Cookie"));
        assert_eq!(response.event(), None);
        assert_contains_no_token(&response, &cookies.map(|(_, value, _)| value));
    }
}

async fn failed_sign_ins_are_indistinguishable(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let bob = app.user("bob@example.com").await;
    app.app.users.disable(&bob, &ClientInfo::default()).await.unwrap();
    let mut responses = Vec::new();
    for (email, password) in [
        ("ann@example.com", "not her password at all"),
        ("ann@example.com", ""),
        ("nobody@example.com", PASSWORD),
        ("bob@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("ann@example.com\0", PASSWORD),
    ] {
        let mut response = app.send(login(email, password)).await;
        response.problem(401, "invalid_credentials");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert!(response.headers.remove("x-request-id").is_some());
        responses.push((response.headers, response.body));
    }
    assert!(responses.windows(2).all(|pair| pair[0] == pair[1]), "{responses:?}");
}

async fn invalid_field_is_named(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    for (body, field) in [
        (r#"{"email":"a@b.jp"}"#, "password"),
        (r#"{"password":"x"}"#, "email"),
        (r#"{"email":"a@b.jp","email":"c@d.jp","password":"x"}"#, "email"),
        (r#"{"email":"a@b.jp","password":"x","remember":true}"#, "remember"),
        (r#"{"email":"a@b.jp","password":7}"#, "password"),
        (r#"{"email":null,"password":"x"}"#, "email"),
    ] {
        let request = with_body("POST", "/auth/login", "application/json", body);
        let detail = app.send(request).await.problem(400, "invalid_request");
        assert!(detail.starts_with(&format!("`{field}` ")), "{body}: {detail}");
    }
    for (fields, field) in [
        (&[("email", "a@b.jp")][..], "password"),
        (&[("email", "a@b.jp"), ("password", "")], "password"),
        (&[("password", "x")], "email"),
        (&[("email", "a@b.jp"), ("password", "x"), ("password", "x")], "password"),
    ] {
        let detail = app.send(form("/auth/login", fields)).await.problem(400, "invalid_request");
        assert!(detail.starts_with(&format!("`{field}` ")), "{fields:?}: {detail}");
    }
    for body in ["", "{", "null", "[]", r#"["a@b.jp","x"]"#] {
        let request = with_body("POST", "/auth/login", "application/json", body);
        app.send(request).await.problem(400, "invalid_request");
    }
}

async fn body_must_be_json_or_a_form(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let body = json!({"email": "ann@example.com", "password": PASSWORD}).to_string();
    for content_type in ["text/plain", "multipart/form-data; boundary=x", "application/jsonp", ""] {
        let request = with_body("POST", "/auth/login", content_type, &body);
        app.send(request).await.problem(415, "unsupported_media_type");
    }
    let untyped = Request::post("/auth/login").body(Body::from(body.clone())).unwrap();
    app.send(untyped).await.problem(415, "unsupported_media_type");
    let request = with_body("POST", "/auth/login", "Application/JSON ; charset=utf-8", &body);
    assert_eq!(app.send(request).await.status, 200);

    let response = app.send(get("/auth/login")).await;
    response.problem(405, "method_not_allowed");
    assert_eq!(response.header("allow"), Some("POST"));
}

async fn long_password_and_large_body_are_rejected(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let longest = "x".repeat(1_024);
    app.send(login("ann@example.com", &longest)).await.problem(401, "invalid_credentials");
    for build_request in [login, login_form] {
        let request = build_request("ann@example.com", &format!("{longest}x"));
        app.send(request).await.problem(400, "invalid_request");
        let large = with_body("POST", "/auth/login", "application/json", &" ".repeat(16 * 1_024 + 1));
        app.send(large).await.problem(413, "too_large");
    }
    let large = with_body("POST", "/auth/login", "application/x-www-form-urlencoded", &"&".repeat(16_385));
    app.send(large).await.problem(413, "too_large");
}

async fn sign_in_always_creates_new_ids(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let mut known = Vec::new();
    for _ in 0..3 {
        let before = [ann.token(ACCESS), ann.token(REFRESH)];
        let session = ann.sign_in("ann@example.com").await;
        assert!(!known.contains(&session), "an id was used again");
        assert!(!before.contains(&ann.token(ACCESS)) && !before.contains(&ann.token(REFRESH)));
        known.push(session);
    }
    let planted = format!("{ACCESS}=planted; {REFRESH}=planted");
    let response = app.send(with(login("ann@example.com", PASSWORD), "cookie", &planted)).await;
    assert_eq!(response.status, 200);
    assert!(response.set_cookies().iter().all(|cookie| cookie.value != "planted"));
}

async fn sign_in_terminates_the_previous_session_of_the_browser(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    app.user("bob@example.com").await;
    let mut browser = app.browser();
    let first = browser.sign_in("ann@example.com").await;
    let elsewhere = app.browser().sign_in("ann@example.com").await;
    let second = browser.sign_in("bob@example.com").await;
    assert_eq!(app.row(first).await.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    assert_eq!(app.row(elsewhere).await.end, None);

    let wrong = browser.send(login("ann@example.com", "not her password at all")).await;
    wrong.problem(401, "invalid_credentials");
    assert!(wrong.set_cookies().is_empty());
    assert_eq!(app.row(second).await.end, None, "a failed sign-in ended a session");

    browser.jar.remove(REFRESH);
    let third = browser.sign_in("bob@example.com").await;
    assert_ne!(app.row(second).await.end, None, "the access token alone identifies the session");
    assert_eq!(app.row(third).await.end, None);
}

async fn oldest_session_beyond_the_limit_is_displaced(database: TestDatabase) {
    let app = TestApp::with(database, &[("session.max_per_user", "2")]).await;
    let mut oldest = app.signed_in("ann@example.com").await;
    let mut others = Vec::new();
    for _ in 0..2 {
        app.clock.advance(Duration::from_secs(1));
        let mut browser = app.browser();
        browser.sign_in("ann@example.com").await;
        others.push(browser);
    }
    app.expire();
    let response = oldest.get("/auth/session").await;
    response.problem(401, "displaced");
    assert_eq!(response.event(), Some("displaced"));
    for other in &mut others {
        assert_eq!(other.get("/auth/session").await.status, 200);
    }
}

async fn registration_is_closed_by_default(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.send(register("ann@example.com", PASSWORD)).await.problem(403, "registration_closed");
    assert!(app.app.users.list().await.unwrap().is_empty());
}

async fn open_registration_creates_a_user(database: TestDatabase) {
    let app = TestApp::with(database, &[("login.registration", "open")]).await;
    let response = app.send(register("Ann@Example.com", PASSWORD)).await;
    assert_eq!(response.status, 201);
    assert!(response.set_cookies().is_empty(), "registration does not sign in");
    let user = response.json();
    assert_eq!((&user["email"], &user["roles"]), (&json!("ann@example.com"), &json!(["user"])));
    app.browser().sign_in("ann@example.com").await;

    app.send(register("ANN@example.com", NEW_PASSWORD)).await.problem(409, "conflict");
    for weak in ["short", "aaaaaaaaaaaaaaaaaaaa", "bob@example.com sekisho", "password12345678"] {
        app.send(register("bob@example.com", weak)).await.problem(400, "invalid_request");
    }
    app.send(register("no address", PASSWORD)).await.problem(400, "invalid_request");
    let role = json!({"email": "bob@example.com", "password": PASSWORD, "role": "admin"});
    let detail = app.send(post("/auth/register", &role)).await.problem(400, "invalid_request");
    assert!(detail.starts_with("`role` is unknown"), "{detail}");
    assert_eq!(app.app.users.list().await.unwrap().len(), 1);
}

async fn password_change_terminates_other_sessions_only(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut here = app.signed_in("ann@example.com").await;
    let (mut there, mut bob) = (app.browser(), app.signed_in("bob@example.com").await);
    let other = there.sign_in("ann@example.com").await;

    let response = here.post("/auth/password", &change(PASSWORD, NEW_PASSWORD)).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.json()["user"]["email"], "ann@example.com");
    assert_eq!(app.row(other).await.end.map(|end| end.reason), Some(EndReason::PasswordChanged));
    app.expire();
    there.get("/auth/session").await.problem(401, "password_changed");
    assert_eq!(here.get("/auth/session").await.status, 200);
    assert_eq!(bob.get("/auth/session").await.status, 200);

    app.send(login("ann@example.com", PASSWORD)).await.problem(401, "invalid_credentials");
    assert_eq!(app.send(login("ann@example.com", NEW_PASSWORD)).await.status, 200);
}

async fn password_change_requires_a_strong_and_the_current_password(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let response = ann.post("/auth/password", &change("not her password at all", NEW_PASSWORD)).await;
    response.problem(403, "wrong_password");
    ann.post("/auth/password", &change(PASSWORD, "too short")).await.problem(400, "invalid_request");
    ann.post("/auth/password", &json!({"new_password": NEW_PASSWORD})).await.problem(400, "invalid_request");
    let anonymous = app.browser().post("/auth/password", &change(PASSWORD, NEW_PASSWORD)).await;
    anonymous.problem(401, "missing");
    assert_eq!(app.send(login("ann@example.com", PASSWORD)).await.status, 200, "nothing was changed");
}

async fn imported_password_is_rehashed_on_sign_in(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let long = format!("{}tail", "y".repeat(72));
    // A hash created by passlib.
    let cut = "$2b$04$Q/zmKapvDl588sbDXd7XF.5PE8KjyRD4TuUnehC4F30yZ5ns22WIW";
    let whole = "$bcrypt-sha256$v=2,t=2b,r=4$oTp0sBwlh8Sw060r.6EBxu$e2fFAk/HQq2wFQn7JZ1u4B9Fd4Y9G/2";
    app.import("whole@example.com", whole).await;
    app.import("cut@example.com", cut).await;
    let stored = async |email: &str| {
        let user = app.app.users.find_by_email(email).await.unwrap();
        user.hashed_password.expose_secret().to_owned()
    };
    for email in ["whole@example.com", "cut@example.com"] {
        app.send(login(email, "y")).await.problem(401, "invalid_credentials");
        for _ in 0..2 {
            assert_eq!(app.send(login(email, &long)).await.status, 200, "{email}");
        }
    }
    assert_eq!(stored("whole@example.com").await, whole, "the password was not rehashed");
    assert_eq!(stored("cut@example.com").await, cut, "which password is the user's is unknown");
    // passlib's hash of cost 6, where the sign-in lowers the cost.
    let costly = "$2b$06$z0l/tths5SkeMBLArsIcGe/0I/x.loBgCrmf0zoOhvZbxpgYFpzL6";
    app.import("costly@example.com", costly).await;
    for _ in 0..2 {
        let response = app.send(login("costly@example.com", "correct horse battery staple")).await;
        assert_eq!(response.status, 200);
    }
    assert!(stored("costly@example.com").await.starts_with("$2b$04$"));
}

/// B13: a password of 72 bytes and another byte does not sign in, and replaces nothing.
async fn password_of_72_bytes_is_not_a_beginning(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    let mut ann = app.signed_in("ann@example.com").await;
    let password = "correct kettle sings under seven mountains while umbrellas wait at noon!";
    assert_eq!(password.len(), 72);
    let response = ann.post("/auth/password", &change(PASSWORD, password)).await;
    assert_eq!(response.status, 200, "{response:?}");
    for wrong in [format!("{password}x"), format!("{password}\0"), password[..71].to_owned()] {
        app.send(login("ann@example.com", &wrong)).await.problem(401, "invalid_credentials");
        ann.post("/auth/password", &change(&wrong, NEW_PASSWORD)).await.problem(403, "wrong_password");
    }
    assert_eq!(app.send(login("ann@example.com", password)).await.status, 200);
}

/// B13: an imported hash of the first 72 bytes is never replaced.
async fn truncated_import_keeps_its_hash(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    // passlib's hash of 72 times `y` and `tail`.
    let cut = "$2b$04$Q/zmKapvDl588sbDXd7XF.5PE8KjyRD4TuUnehC4F30yZ5ns22WIW";
    app.import("cut@example.com", cut).await;
    for end in ["", "talk", "tail"] {
        let password = format!("{}{end}", "y".repeat(72));
        assert_eq!(app.send(login("cut@example.com", &password)).await.status, 200, "as passlib: {end}");
    }
    let user = app.app.users.find_by_email("cut@example.com").await.unwrap();
    assert_eq!(user.hashed_password.expose_secret(), cut);
}

async fn session_endpoint_returns_user_and_expiry(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let signed_in = ann.send(login("ann@example.com", PASSWORD)).await.json();
    let response = ann.get("/auth/session").await;
    assert_eq!((response.json(), response.event()), (signed_in, None));
    assert_contains_no_token(&response, &[ann.token(ACCESS), ann.token(REFRESH)]);
    let response = app.send(get("/auth/session")).await;
    response.problem(401, "missing");
    assert_eq!(response.event(), Some("missing"));
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert!(response.set_cookies().is_empty());
}

async fn session_list_contains_own_sessions_only(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    let (mut desk, mut phone) = (app.browser(), app.browser().with_client([198, 51, 100, 3], "Phone/2.0"));
    let first = desk.sign_in("ann@example.com").await;
    app.clock.advance(Duration::from_secs(90));
    let second = phone.sign_in("ann@example.com").await;
    app.signed_in("bob@example.com").await;
    let expected = json!([
        {
            "id": second.to_string(), "current": false,
            "created_at": "2026-01-01T00:01:30Z", "last_seen_at": "2026-01-01T00:01:30Z",
            "address": "198.51.100.3", "user_agent": "Phone/2.0",
        },
        {
            "id": first.to_string(), "current": true,
            "created_at": "2026-01-01T00:00:00Z", "last_seen_at": "2026-01-01T00:00:00Z",
            "address": "192.0.2.7", "user_agent": "Browser/1.0",
        },
    ]);
    assert_eq!(desk.get("/auth/sessions").await.json(), expected);

    app.expire();
    phone.get("/auth/session").await;
    let sessions = desk.with_client([203, 0, 113, 9], "Browser/1.1").get("/auth/sessions").await.json();
    let of = |id: &str| sessions.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
    let moved = of(&first.to_string());
    assert_eq!((&moved["address"], &moved["user_agent"]), (&json!("203.0.113.9"), &json!("Browser/1.1")));
    assert_eq!(moved["last_seen_at"], "2026-01-01T00:16:35Z");
    assert_eq!(moved["created_at"], "2026-01-01T00:00:00Z");
}

async fn only_own_sessions_can_be_revoked(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    app.user("bob@example.com").await;
    let (mut ann, mut phone, mut bob) = (app.browser(), app.browser(), app.browser());
    let own = ann.sign_in("ann@example.com").await;
    let other = phone.sign_in("ann@example.com").await;
    let of_bob = bob.sign_in("bob@example.com").await;
    for id in [of_bob.to_string(), "00000000-0000-0000-0000-000000000000".to_owned(), "nonsense".to_owned()] {
        let response = ann.send(bare("DELETE", &format!("/auth/sessions/{id}"))).await;
        response.problem(404, "not_found");
    }
    assert_eq!(app.row(of_bob).await.end, None);

    let path = format!("/auth/sessions/{other}");
    assert_eq!(ann.send(bare("DELETE", &path)).await.status, 204);
    assert_eq!(app.row(other).await.end.map(|end| end.reason), Some(EndReason::LoggedOut));
    ann.send(bare("DELETE", &path)).await.problem(404, "not_found");
    let ids: Vec<Value> = ann.get("/auth/sessions").await.json().as_array().unwrap().clone();
    assert_eq!(ids.len(), 1);
    assert_eq!(ids[0]["id"], own.to_string());
}

async fn store_loss_is_not_a_wrong_password(database: TestDatabase) {
    let app = TestApp::with_database(database).await;
    app.user("ann@example.com").await;
    app.break_store().await;
    let response = app.send(login("ann@example.com", PASSWORD)).await;
    response.problem(503, "store_unavailable");
    assert!(response.header("retry-after").is_some());
    assert!(response.set_cookies().is_empty());
    app.repair_store().await;
    assert_eq!(app.send(login("ann@example.com", PASSWORD)).await.status, 200);
}

fn login(email: &str, password: &str) -> Request<Body> {
    post("/auth/login", &json!({"email": email, "password": password}))
}

fn login_form(email: &str, password: &str) -> Request<Body> {
    form("/auth/login", &[("email", email), ("password", password)])
}

fn register(email: &str, password: &str) -> Request<Body> {
    post("/auth/register", &json!({"email": email, "password": password}))
}

fn change(current: &str, new: &str) -> Value {
    json!({"current_password": current, "new_password": new})
}

/// Returns name, value and attributes of both cookies as sent.
fn both_cookies(response: &TestResponse) -> [(String, String, String); 2] {
    let lines = response.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
    let mut cookies: Vec<_> = lines
        .map(|line| {
            let (pair, attributes) = line.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned(), attributes.to_owned())
        })
        .collect();
    cookies.sort();
    let cookies: [_; 2] = cookies.try_into().expect("two cookies");
    assert_eq!([cookies[0].0.as_str(), cookies[1].0.as_str()], [ACCESS, REFRESH]);
    cookies
}

fn assert_contains_no_token(response: &TestResponse, tokens: &[String]) {
    let body = String::from_utf8(response.body.clone()).unwrap();
    assert!(!tokens.iter().any(|token| body.contains(token)), "the body contains a token: {body}");
}
