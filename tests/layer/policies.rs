//! Layers with different cookie policies around one handler.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use sekisho::layer::{CookiePolicy, Reject401, SilentRefreshLayer};

use super::{ScriptedTokens, capture_log, fixture, send};

/// Returns the log of requests with these cookies to a route within two layers.
async fn log_of(inner: SilentRefreshLayer<ScriptedTokens>, cookies: &[&str]) -> String {
    let (log, guard) = capture_log();
    let outer = SilentRefreshLayer::new(fixture().tokens, CookiePolicy::insecure_for_loopback());
    let app =
        Router::new().route("/", get(async || "done")).layer(inner).layer(outer.with_on_reject(Reject401));
    for cookies in cookies {
        let request = Request::get("/").header("cookie", *cookies).body(Body::empty()).unwrap();
        send(app.clone(), request).await;
    }
    drop(guard);
    let log = io::read_to_string(log).unwrap();
    log.lines().filter(|line| line.contains("ERROR")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn different_cookies_are_logged_once() {
    let inner = || SilentRefreshLayer::new(fixture().tokens, CookiePolicy::default());
    let both = "access_token=valid; __Host-access_token=valid";
    for cookies in [["access_token=valid"; 2], ["refresh_token=good"; 2], [both; 2]] {
        let log = log_of(inner(), &cookies).await;
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("different cookies"), "{log}");
        for name in [
            r#"outer_access="access_token""#,
            r#"outer_refresh="refresh_token""#,
            "\"__Host-access_token\"",
            "\"__Host-refresh_token\"",
        ] {
            assert!(log.contains(name), "{log}");
        }
    }
}

#[tokio::test]
async fn same_cookies_are_not_logged() {
    // Equal, but not the same object.
    let inner = SilentRefreshLayer::new(fixture().tokens, CookiePolicy::insecure_for_loopback());
    let cookies = ["access_token=valid", "refresh_token=good", "access_token=due; refresh_token=stuck"];
    assert_eq!(log_of(inner, &cookies).await, "");
}
