//! Clients of other sites, over sockets: apps in web views, browser extensions, and embedded applications.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::Request;
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;

use crate::support::gateway::{EMAIL, PASSWORD, TestGateway, TestGatewayBuilder, route};
use crate::support::http::TestResponse;
use crate::support::socket_browser::SocketBrowser;
use crate::support::websocket::{EchoUpstream, assert_echoes, open, refused};

/// The origins of an app by Capacitor, Ionic and Tauri, and of an extension.
const APPS: [&str; 4] = [
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
];

/// Origins that resemble those of [`APPS`].
const OTHERS: [&str; 8] = [
    "capacitor://localhost.evil.example",
    "capacitor://localhost:80",
    "Capacitor://localhost",
    "app://localhost",
    "http://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnoo",
    "file://",
    "null",
];

async fn start(settings: &str) -> (EchoUpstream, TestGateway, SocketAddr) {
    let upstream = EchoUpstream::start().await;
    let toml = format!("{settings}{}", route("/", &upstream.url(), ""));
    let gateway = TestGatewayBuilder::new(toml).start().await;
    let server = gateway.listen(ServerLimits::default()).await;
    gateway.signed_in(Role::User).await;
    (upstream, gateway, server)
}

async fn start_with_apps() -> (EchoUpstream, TestGateway, SocketAddr) {
    let settings = format!("[server]\nallowed_origins = {APPS:?}\n[cookies]\nsame_site = \"none\"\n");
    start(&settings).await
}

/// Sends a request of a page of `origin`, with or without `Sec-Fetch-Site`, which older web views lack.
async fn send(
    browser: &mut SocketBrowser,
    server: SocketAddr,
    (method, path): (&str, &str),
    origin: &str,
    sends_metadata: bool,
) -> TestResponse {
    let mut request = Request::builder().method(method).uri(path).header("origin", origin);
    if sends_metadata {
        request = request.header("sec-fetch-site", "cross-site");
    }
    if method == "OPTIONS" {
        request = request.header("access-control-request-method", "POST");
    }
    let mut body = String::new();
    if path == "/auth/login" && method == "POST" {
        request = request.header("content-type", "application/json");
        body = serde_json::json!({"email": EMAIL, "password": PASSWORD}).to_string();
    }
    browser.send(server, request.body(Body::from(body)).unwrap()).await.unwrap()
}

#[tokio::test]
async fn server_allowed_origins_admit_apps_and_extensions() {
    let (mut upstream, _gateway, server) = start_with_apps().await;
    for (origin, sends_metadata) in APPS.into_iter().flat_map(|origin| [(origin, true), (origin, false)]) {
        let mut browser = SocketBrowser::default();
        for call in [
            ("OPTIONS", "/auth/login"),
            ("POST", "/auth/login"),
            ("GET", "/auth/session"),
            ("POST", "/auth/refresh"),
        ] {
            let response = send(&mut browser, server, call, origin, sends_metadata).await;
            assert_eq!(response.status, 200, "{origin} {call:?}: {response:?}");
            assert_eq!(response.header("access-control-allow-origin"), Some(origin), "{call:?}");
            assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
        }
        let cookies = browser.cookie_header();
        let (mut socket, _) =
            open(server, "/chat", &[("origin", origin), ("cookie", &cookies)]).await.unwrap();
        assert_echoes(&mut socket).await;
        assert!(upstream.head().await.contains(origin));
        let response = send(&mut browser, server, ("POST", "/auth/logout"), origin, sends_metadata).await;
        assert_eq!(response.status, 204);
    }
}

#[tokio::test]
async fn server_allowed_origins_reject_similar_origins() {
    let (mut upstream, _gateway, server) = start_with_apps().await;
    let mut browser = SocketBrowser::default();
    browser.sign_in(server, EMAIL, PASSWORD).await;
    for (origin, sends_metadata) in OTHERS.into_iter().flat_map(|origin| [(origin, true), (origin, false)]) {
        for call in [("POST", "/auth/login"), ("POST", "/auth/refresh"), ("POST", "/anything")] {
            let response = send(&mut browser, server, call, origin, sends_metadata).await;
            response.problem(403, "cross_site");
            assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
        }
        let response = send(&mut browser, server, ("GET", "/auth/session"), origin, sends_metadata).await;
        assert_eq!(response.header("access-control-allow-origin"), None, "{origin}");
        let cookies = browser.cookie_header();
        let response = refused(server, "/chat", &[("origin", origin), ("cookie", &cookies)]).await;
        assert_eq!(response.status(), 403, "{origin}");
    }
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn cookies_partitioned_is_set_on_all_cookies() {
    let (_upstream, gateway, server) = start("[cookies]\nsame_site = \"none\"\npartitioned = true\n").await;
    let mut browser = SocketBrowser::default();
    let signed_in = browser.sign_in(server, EMAIL, PASSWORD).await;
    gateway.expire();
    let refreshed = browser.get(server, "/auth/session").await;
    assert_eq!(refreshed.event(), Some("rotated"));
    let mut copy = browser.clone();
    let sign_out = Request::post("/auth/sign-out").body(Body::empty()).unwrap();
    let signed_out = browser.send(server, sign_out).await.unwrap();
    gateway.expire();
    let ended = copy.get(server, "/auth/session").await;
    assert_eq!((ended.status.as_u16(), ended.event()), (401, Some("logged_out")));
    for (response, clears) in [(signed_in, false), (refreshed, false), (signed_out, true), (ended, true)] {
        let cookies = response.set_cookies();
        assert_eq!(cookies.len(), 2, "{response:?}");
        for cookie in cookies {
            assert_eq!(cookie.clears(), clears);
            let expected = ["httponly", "partitioned", "path=/", "samesite=none", "secure"];
            assert_eq!(cookie.attributes, expected, "{}", cookie.name);
        }
    }
}
