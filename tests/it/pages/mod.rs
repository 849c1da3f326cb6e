//! The pages for people: sign-in, sign-out, the account, errors.

mod account;
mod content;
mod settings;
mod sign_in;
mod sign_out;

use axum::body::Body;
use axum::http::Request;

use crate::support::app::{PASSWORD, TestApp};
use crate::support::browser::Browser;
use crate::support::db;
use crate::support::http::{TestResponse, form, get, with};

const ANN: &str = "ann@example.com";
const BOB: &str = "bob@example.com";

/// Starts a gateway with these settings.
async fn start(flags: &[(&str, &str)]) -> TestApp {
    TestApp::with(db::sqlite().await.expect("SQLite needs no server"), flags).await
}

/// Returns the text of a page, after a check of the headers that every page has.
#[track_caller]
fn page(response: &TestResponse, status: u16) -> String {
    let text = String::from_utf8(response.body.clone()).expect("UTF-8");
    assert_eq!(response.status, status, "{text}");
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
    let policy = response.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    // With `no-referrer`, browsers would send `Origin: null` with the forms.
    assert_eq!(response.header("referrer-policy"), Some("same-origin"));
    text
}

/// Returns the `Location` of a redirect with the status 303 that no cache may store.
#[track_caller]
fn location(response: &TestResponse) -> &str {
    assert_eq!(response.status, 303, "{}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
    response.header("location").expect("a location")
}

/// Sends the sign-in form.
async fn submit(browser: &mut Browser, path: &str, email: &str, password: &str) -> TestResponse {
    browser.send(form(path, &[("email", email), ("password", password)])).await
}

/// Creates a user and signs in by the form.
async fn signed_in(app: &TestApp, email: &str) -> Browser {
    app.user(email).await;
    let mut browser = app.browser();
    let response = submit(&mut browser, "/auth/sign-in", email, PASSWORD).await;
    assert!(location(&response).starts_with("/auth/continue?t="), "{response:?}");
    browser
}

fn in_japanese(request: Request<Body>) -> Request<Body> {
    with(request, "accept-language", "ja,en;q=0.5")
}

/// Requests a page in Japanese.
async fn get_in_japanese(browser: &mut Browser, path: &str) -> TestResponse {
    browser.send(in_japanese(get(path))).await
}
