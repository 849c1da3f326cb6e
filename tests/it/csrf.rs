//! CSRF protection and CORS.

use axum::body::Body;
use axum::http::{Request, Response};
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;
use serde_json::json;

use crate::support::app::{ORIGIN, PASSWORD, TestApp, on_each_database, send_from};
use crate::support::browser::Browser;
use crate::support::db::TestDatabase;
use crate::support::gateway::{TestGatewayBuilder, route};
use crate::support::http::{TestResponse, bare, get, post, with};
use crate::support::proxy_server::exchange;
use crate::support::upstream::Upstream;

on_each_database! {
    state_changes_require_a_trusted_origin
    paths_of_authentication_need_a_trusted_origin_without_cookies
    safe_requests_ignore_the_origin
    rejected_request_changes_nothing
    allowed_origins_get_cors_headers_on_every_response
    preflight_succeeds_for_allowed_origins_only
    lookalike_origins_are_rejected
}

const PAGE: &str = "https://page.example.com";
const SIBLING: &str = "https://evil.example.com";
const OTHER: &str = "https://evil.example";

/// `Origin`, `Sec-Fetch-Site`, and whether a state-changing request is allowed.
const FROM: [(Option<&str>, Option<&str>, bool); 24] = [
    (Some(ORIGIN), Some("same-origin"), true),
    (Some(ORIGIN), None, true),
    (None, Some("same-origin"), true),
    (None, Some("none"), true),
    (None, None, true),
    // An allowed origin, cross-site and same-site.
    (Some(PAGE), Some("cross-site"), true),
    (Some(PAGE), Some("same-site"), true),
    (Some(PAGE), None, true),
    (Some(SIBLING), Some("same-site"), false),
    (Some(SIBLING), None, false),
    (Some(OTHER), Some("cross-site"), false),
    (Some(OTHER), Some("same-site"), false),
    (Some(OTHER), None, false),
    (Some("null"), Some("cross-site"), false),
    (Some("null"), Some("same-site"), false),
    (Some("null"), None, false),
    (None, Some("cross-site"), false),
    (None, Some("same-site"), false),
    (None, Some("SAME-ORIGIN"), false),
    (None, Some("nonsense"), false),
    (Some("http://app.example.com.evil.example"), None, false),
    (Some("https://app.example.com:8443"), None, false),
    (Some("nonsense"), None, false),
    (Some("file://"), None, false),
];

async fn state_changes_require_a_trusted_origin(database: TestDatabase) {
    let app = start(database).await;
    let mut ann = app.browser();
    for (origin, site, allowed) in FROM {
        for act in [login, logout, create] {
            ann.sign_in("ann@example.com").await;
            let response = send(&app, Some(&ann), act(), origin, site).await;
            assert_eq!(is_rejected(&response), !allowed, "{origin:?} {site:?} {response:?}");
            assert!(!allowed || response.status.is_success(), "{response:?}");
        }
    }
}

async fn paths_of_authentication_need_a_trusted_origin_without_cookies(database: TestDatabase) {
    let app = start(database).await;
    for (origin, site, allowed) in FROM {
        let response = send(&app, None, login(), origin, site).await;
        assert_eq!(is_rejected(&response), !allowed, "{origin:?} {site:?} {response:?}");
        let register = post("/auth/register", &json!({"email": "eve@example.com", "password": PASSWORD}));
        let response = send(&app, None, register, origin, site).await;
        response.problem(403, if allowed { "registration_closed" } else { "cross_site" });
        let response = send(&app, None, logout(), origin, site).await;
        assert_eq!(response.status, if allowed { 204 } else { 403 }, "{origin:?} {site:?} {response:?}");
        let response = send(&app, None, bare("POST", "/token"), origin, site).await;
        assert_eq!(response.status, if allowed { 400 } else { 403 }, "{origin:?} {site:?} {response:?}");
        // Without cookies this request has no session to abuse.
        send(&app, None, create(), origin, site).await.problem(401, "missing");
    }
}

async fn safe_requests_ignore_the_origin(database: TestDatabase) {
    let app = start(database).await;
    let mut ann = app.browser();
    ann.sign_in("ann@example.com").await;
    for (origin, site, _) in FROM {
        let response = send(&app, Some(&ann), get("/auth/session"), origin, site).await;
        assert_eq!(response.status, 200, "{origin:?} {site:?}");
    }
}

async fn rejected_request_changes_nothing(database: TestDatabase) {
    let app = start(database).await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    app.expire();
    for act in [login, logout, create] {
        let response = send(&app, Some(&ann), act(), Some(OTHER), Some("cross-site")).await;
        response.problem(403, "cross_site");
        assert!(response.set_cookies().is_empty());
        assert_eq!(response.event(), None, "rejected before the session is checked");
    }
    let row = app.row(session).await;
    assert_eq!((row.generation, row.end), (1, None));
    assert_eq!(ann.get("/movies").await.json()["total"], 0);
}

async fn allowed_origins_get_cors_headers_on_every_response(database: TestDatabase) {
    let app = start(database).await;
    let mut ann = app.browser();
    ann.sign_in("ann@example.com").await;
    let of_page = |response: &TestResponse| {
        assert_eq!(response.header("access-control-allow-origin"), Some(PAGE), "{response:?}");
        assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
        let exposed = response.header("access-control-expose-headers").unwrap_or_default().to_owned();
        assert!(exposed.contains("x-session-event"), "{exposed}");
        assert!(varies_by_origin(response), "{response:?}");
    };
    let page = async |browser: Option<&Browser>, request| {
        send(&app, browser, request, Some(PAGE), Some("cross-site")).await
    };
    let response = page(Some(&ann), get("/auth/session")).await;
    assert_eq!(response.status, 200);
    of_page(&response);
    let response = page(None, get("/auth/session")).await;
    response.problem(401, "missing");
    of_page(&response);
    let response =
        page(None, post("/auth/register", &json!({"email": "e@x.jp", "password": PASSWORD}))).await;
    response.problem(403, "registration_closed");
    of_page(&response);
    let response = page(Some(&ann), get("/nowhere")).await;
    assert_eq!(response.status, 404);
    of_page(&response);
    app.expire();
    let response = page(Some(&ann), get("/auth/session")).await;
    assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")));
    of_page(&response);
    assert!(response.headers.get_all("vary").iter().any(|line| line == "Cookie"));
}

/// C6: what an upstream or a route exposes to pages of allowed origins was replaced.
#[tokio::test]
async fn exposed_headers_of_upstreams_and_routes_are_kept() {
    let upstream = Upstream::responding_with(|seen| {
        let mut response = Response::builder();
        for line in seen.all("x-expose") {
            response = response.header("access-control-expose-headers", line);
        }
        response.body(Body::empty()).unwrap()
    })
    .await;
    let set = "set_response_headers = { Access-Control-Expose-Headers = \"X-Of-Route\" }";
    let toml = format!("[server]\nallowed_origins = [\"{PAGE}\"]\n")
        + &route("/", &upstream.url(), "auth = \"none\"")
        + &route("/set", &upstream.url(), &format!("auth = \"none\"\n{set}"));
    let gateway = TestGatewayBuilder::new(toml).start().await;
    let address = gateway.listen(ServerLimits::default()).await;
    let own = "x-session-event, x-request-id";
    for (path, sent, exposed) in [
        ("/", &[][..], own.to_owned()),
        ("/", &["X-Total"], format!("X-Total, {own}")),
        ("/", &["X-Total, ETag", "X-More"], format!("X-Total, ETag, X-More, {own}")),
        ("/", &["X-Request-Id,, X-Total"], format!("X-Total, {own}")),
        // With credentials it is the name of a header.
        ("/", &["*"], format!("*, {own}")),
        ("/set", &["X-Total"], format!("X-Of-Route, {own}")),
    ] {
        let fields: String = sent.iter().map(|line| format!("X-Expose: {line}\r\n")).collect();
        for origin in [PAGE, OTHER] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nOrigin: {origin}\r\n{fields}\r\n"
            );
            let response = exchange(address, request).await;
            let lines =
                response.lines().filter_map(|line| line.strip_prefix("access-control-expose-headers: "));
            let lines: Vec<_> = lines.collect();
            if origin == PAGE {
                assert_eq!(lines, [&*exposed], "{path} {sent:?}");
            } else {
                assert!(!lines.iter().any(|line| line.contains("x-session-event")), "{lines:?}");
            }
        }
    }
}

async fn preflight_succeeds_for_allowed_origins_only(database: TestDatabase) {
    let app = start(database).await;
    for (origin, allowed) in [(PAGE, true), (SIBLING, false), (OTHER, false), ("null", false)] {
        let preflight = with(bare("OPTIONS", "/movies"), "access-control-request-method", "DELETE");
        let preflight = with(preflight, "access-control-request-headers", "content-type");
        let response = send(&app, None, preflight, Some(origin), Some("cross-site")).await;
        assert_eq!(response.status.is_success(), allowed, "{origin}");
        assert_eq!(response.header("access-control-allow-origin"), allowed.then_some(PAGE));
        assert_eq!(response.header("access-control-allow-methods"), allowed.then_some("DELETE"));
        assert_eq!(response.header("access-control-allow-headers"), allowed.then_some("content-type"));
    }
}

async fn lookalike_origins_are_rejected(database: TestDatabase) {
    let app = start(database).await;
    let mut ann = app.browser();
    ann.sign_in("ann@example.com").await;
    for origin in [
        "http://page.example.com",
        "https://page.example.com:443",
        "https://page.example.com:8443",
        "https://page.example.com.",
        "https://page.example.com/",
        "https://page.example.com.evil.example",
        "https://page.example.comevil.example",
        "https://evilpage.example.com",
        "https://evil.page.example.com",
        "https://page-example.com",
        "https://pageXexample.com",
        "https://page.example.co",
        "https://page.example.com@evil.example",
        "https://evil.example?https://page.example.com",
        "https://evil.example#https://page.example.com",
        "https://PAGE.example.com",
        "HTTPS://page.example.com",
        "https:page.example.com",
        "page.example.com",
        "https://page.example.com https://evil.example",
        "https://page.example.com, https://evil.example",
        "null",
        "*",
    ] {
        let response = send(&app, Some(&ann), get("/auth/session"), Some(origin), Some("cross-site")).await;
        assert_eq!(response.status, 200, "{origin}");
        for header in ["access-control-allow-origin", "access-control-allow-credentials"] {
            assert_eq!(response.header(header), None, "{origin}");
        }
        assert!(varies_by_origin(&response), "a cache must not reuse this response for {PAGE}");
        for site in [Some("cross-site"), None] {
            let response = send(&app, Some(&ann), create(), Some(origin), site).await;
            assert!(is_rejected(&response), "{origin} {response:?}");
        }
    }
}

async fn start(database: TestDatabase) -> TestApp {
    let app = TestApp::with(database, &[("server.allowed_origins", &format!("[\"{PAGE}\"]"))]).await;
    app.user_as("ann@example.com", Role::Admin).await;
    app
}

fn login() -> Request<Body> {
    post("/auth/login", &json!({"email": "ann@example.com", "password": PASSWORD}))
}

fn logout() -> Request<Body> {
    bare("POST", "/auth/logout")
}

fn create() -> Request<Body> {
    post("/movies", &json!({"title": "Ran", "year": 1985, "director": "Akira Kurosawa"}))
}

/// Sends a request with these origin headers and no others.
async fn send(
    app: &TestApp,
    browser: Option<&Browser>,
    request: Request<Body>,
    origin: Option<&str>,
    site: Option<&str>,
) -> TestResponse {
    let mut request = with(request, "host", "app.example.com");
    for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
        if let Some(value) = value {
            request = with(request, name, value);
        }
    }
    if let Some(browser) = browser {
        request = with(request, "cookie", &browser.cookies());
    }
    send_from([192, 0, 2, 7], app.app.public.clone(), request).await
}

fn is_rejected(response: &TestResponse) -> bool {
    response.status == 403 && response.json()["code"] == "cross_site"
}

fn varies_by_origin(response: &TestResponse) -> bool {
    let lines =
        response.headers.get_all("vary").iter().map(|line| line.to_str().unwrap().to_ascii_lowercase());
    lines
        .flat_map(|line| line.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>())
        .any(|name| name == "origin")
}
