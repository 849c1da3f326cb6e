//! Errors by the kind of request: redirects to sign-in and pages for people, problem details for programs.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use sekisho::models::user::Role;
use url::Url;

use crate::support::gateway::{TestGateway, TestGatewayBuilder, get, route};
use crate::support::http::TestResponse;
use crate::support::upstream::Upstream;

mod rejected_requests;
mod restored_tabs;

/// The request headers of a navigation in current browsers.
pub(crate) const NAVIGATION: [(&str, &str); 4] = [
    ("sec-fetch-site", "none"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
    ("accept", HTML),
];

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const DEEP_LINK: &str = "/app/films?title=%E9%96%A2&page=2";
const SIGN_IN: &str = "/auth/sign-in?next=%2Fapp%2Ffilms%3Ftitle%3D%25E9%2596%25A2%26page%3D2";

/// Every other request that browsers make: method, name, and the values of `Sec-Fetch-Mode` and `Sec-Fetch-Dest`.
const REQUESTS_OF_PAGES: [(&str, &str, &str, &str); 17] = [
    ("GET", "fetch", "cors", "empty"),
    ("POST", "fetch with a body", "cors", "empty"),
    ("GET", "XHR", "cors", "empty"),
    ("GET", "EventSource", "cors", "empty"),
    ("GET", "WebSocket", "websocket", "empty"),
    ("GET", "image", "no-cors", "image"),
    ("GET", "script", "no-cors", "script"),
    ("GET", "module", "cors", "script"),
    ("GET", "style", "no-cors", "style"),
    ("GET", "font", "cors", "font"),
    ("GET", "manifest", "cors", "manifest"),
    ("GET", "service worker", "same-origin", "serviceworker"),
    ("GET", "worker", "same-origin", "worker"),
    ("GET", "iframe", "navigate", "iframe"),
    ("GET", "object", "navigate", "object"),
    ("POST", "form in an iframe", "navigate", "iframe"),
    ("HEAD", "HEAD by fetch", "cors", "empty"),
];

async fn start(more: &str) -> (TestGateway, Upstream) {
    let upstream = Upstream::start().await;
    let routes = [
        route("/app", &upstream.url(), ""),
        route("/admin", &upstream.url(), "roles = [\"admin\"]"),
        route("/open", &upstream.url(), "auth = \"optional\""),
        route("/down", "http://127.0.0.1:1", "auth = \"none\""),
    ];
    let builtin = "[server]\nbuiltin = [\"auth\", \"movies\"]\n";
    let gateway = TestGatewayBuilder::new([more, builtin, &routes.concat()].concat()).start().await;
    (gateway, upstream)
}

fn with_headers(mut request: http::request::Builder, headers: &[(&str, &str)]) -> http::request::Builder {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    with_headers(Request::builder().method(method).uri(target).header("host", "app.example"), headers)
}

fn navigation(target: &str) -> http::request::Builder {
    request("GET", target, &NAVIGATION)
}

#[track_caller]
fn assert_redirected(response: &TestResponse, location: &str) {
    assert_eq!(response.status, 303, "{response:?}");
    assert_eq!(response.header("location"), Some(location));
    assert_never_stored(response);
    assert!(response.body.is_empty() && response.header("www-authenticate").is_none());
}

#[track_caller]
fn assert_never_stored(response: &TestResponse) {
    let cache_control = response.header("cache-control").unwrap();
    assert!(cache_control.contains("no-store"), "{cache_control}");
    let vary: BTreeSet<_> = response.header("vary").unwrap().split(", ").map(str::to_lowercase).collect();
    for name in ["cookie", "sec-fetch-mode", "sec-fetch-dest", "accept"] {
        assert!(vary.contains(name), "{vary:?}");
    }
}

#[track_caller]
fn assert_page(response: &TestResponse, status: u16) {
    let text = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, status, "{text}");
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"), "{text}");
    assert!(text.starts_with("<!doctype html>"), "{text}");
    assert!(response.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(response.header("location"), None);
    assert_never_stored(response);
    let request_id = response.header("x-request-id").unwrap();
    assert!(text.contains(request_id), "{request_id}: {text}");
}

#[tokio::test]
async fn navigation_without_session_leads_to_sign_in_and_back() {
    let (gateway, mut upstream) = start("").await;
    let response = gateway.ask(navigation(DEEP_LINK)).await;
    assert_redirected(&response, SIGN_IN);
    assert_eq!(response.event(), Some("missing"));
    let head = gateway.ask(request("HEAD", DEEP_LINK, &NAVIGATION)).await;
    assert_redirected(&head, SIGN_IN);
    let old_browser = gateway.ask(get(DEEP_LINK).header("accept", HTML)).await;
    assert_redirected(&old_browser, SIGN_IN);
    // The built-in routes of the API follow the same rule.
    assert_redirected(&gateway.ask(navigation("/movies")).await, "/auth/sign-in?next=%2Fmovies");
    assert_redirected(
        &gateway.ask(navigation("/auth/session")).await,
        "/auth/sign-in?next=%2Fauth%2Fsession",
    );
    assert!(upstream.has_no_more_requests());

    let cookies = gateway.signed_in(Role::User).await.line();
    assert_eq!(gateway.ask(navigation(DEEP_LINK).header("cookie", cookies)).await.status, 200);
    assert_eq!(upstream.seen().await.target, DEEP_LINK);
}

#[tokio::test]
async fn other_requests_without_session_are_never_redirected() {
    let (gateway, mut upstream) = start("").await;
    for (method, name, mode, dest) in REQUESTS_OF_PAGES {
        for target in
            [DEEP_LINK, "/auth/session"].into_iter().filter(|target| method == "GET" || *target == DEEP_LINK)
        {
            let metadata =
                [("sec-fetch-site", "same-origin"), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
            let response = gateway.ask(request(method, target, &metadata).header("accept", HTML)).await;
            assert_problem_with_sign_in(&response, name);
        }
    }
    for (name, headers) in [
        ("curl", &[("accept", "*/*")][..]),
        ("no headers", &[]),
        ("XHR of an old browser", &[("accept", "text/html"), ("x-requested-with", "XMLHttpRequest")]),
        ("WebSocket of an old browser", &[("accept", "text/html"), ("upgrade", "websocket")]),
        ("prefetch", &[&NAVIGATION[..], &[("sec-purpose", "prefetch;prerender")]].concat()),
        ("old prefetch", &[&NAVIGATION[..], &[("purpose", "prefetch")]].concat()),
    ] {
        assert_problem_with_sign_in(&gateway.ask(request("GET", DEEP_LINK, headers)).await, name);
    }
    assert!(upstream.has_no_more_requests());
}

#[track_caller]
fn assert_problem_with_sign_in(response: &TestResponse, name: &str) {
    assert_eq!(response.header("location"), None, "{name}");
    assert_eq!(response.header("www-authenticate"), Some("Bearer"), "{name}");
    assert_never_stored(response);
    response.problem(401, "missing");
    let members: Vec<_> = response.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 6, "{members:?}");
    assert_eq!(response.json()["sign_in_url"], "http://127.0.0.1:8080/auth/sign-in", "{name}");
}

/// Nothing is replayed after sign-in, so a form gets a page that says so.
#[tokio::test]
async fn form_without_session_gets_a_page() {
    let (gateway, mut upstream) = start("").await;
    for headers in [&NAVIGATION[..], &[("accept", HTML)]] {
        let response = gateway.ask(request("POST", DEEP_LINK, headers)).await;
        assert_page(&response, 401);
        assert_eq!(
            (response.event(), response.header("www-authenticate")),
            (Some("missing"), Some("Bearer"))
        );
    }
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn errors_are_pages_for_people_and_problems_for_programs() {
    let (gateway, _upstream) = start("").await;
    let cookies = gateway.signed_in(Role::User).await.line();
    for (target, status, code) in [
        ("/nothing", 404, "no_route"),
        ("/movies/nothing", 404, "not_found"),
        ("/auth/nothing", 404, "not_found"),
        ("/admin", 403, "forbidden"),
        ("/app/../x", 400, "bad_path"),
        ("/auth/login", 405, "method_not_allowed"),
        ("/down", 502, "upstream_unreachable"),
    ] {
        let page = gateway.ask(navigation(target).header("cookie", &cookies)).await;
        assert_page(&page, status);
        let problem = gateway.ask(get(target).header("cookie", &cookies)).await;
        problem.problem(status, code);
        assert_eq!(problem.json().get("sign_in_url"), None, "{target}");
        assert_eq!(page.header("allow"), problem.header("allow"), "{target}");
        assert_eq!(page.header("retry-after"), problem.header("retry-after"), "{target}");
    }
    let form = gateway.ask(request("POST", "/down", &NAVIGATION)).await;
    assert_page(&form, 502);
}

#[tokio::test]
async fn page_is_in_the_language_of_the_request() {
    let (gateway, _upstream) = start("").await;
    for (accept_language, language) in [("ja,en;q=0.5", "ja"), ("de", "en")] {
        let response = gateway.ask(navigation("/nothing").header("accept-language", accept_language)).await;
        assert_page(&response, 404);
        assert_eq!(response.header("content-language"), Some(language));
    }
}

#[tokio::test]
async fn optional_routes_and_upstream_responses_are_unchanged() {
    let upstream = Upstream::responding_with(|_| {
        let problem = r#"{"status":401,"code":"of_the_upstream"}"#;
        let response = Response::builder().status(401).header("content-type", "application/problem+json");
        response.body(axum_core::body::Body::from(problem)).unwrap()
    })
    .await;
    let routes = route("/open", &upstream.url(), "auth = \"optional\"") + &route("/app", &upstream.url(), "");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    let cookies = gateway.signed_in(Role::User).await.line();
    for request in [navigation("/open"), navigation("/app").header("cookie", cookies)] {
        let response = gateway.ask(request).await;
        assert_eq!((response.status, response.header("location")), (StatusCode::UNAUTHORIZED, None));
        assert_eq!(response.body, br#"{"status":401,"code":"of_the_upstream"}"#);
    }
}

/// Rule 3 of rotation holds for redirects too: the cookies of an ended session are cleared after the grace period.
#[tokio::test]
async fn redirect_keeps_the_event_and_clears_cookies_like_a_401() {
    let (gateway, _upstream) = start("").await;
    let cookies = gateway.signed_in(Role::User).await.line();
    let logout = crate::support::gateway::post("/auth/logout").header("cookie", &cookies);
    assert_eq!(gateway.ask(logout).await.status, 204);
    let response = gateway.ask(navigation(DEEP_LINK).header("cookie", &cookies)).await;
    assert_redirected(&response, SIGN_IN);
    assert_eq!((response.event(), response.set_cookies().len()), (Some("logged_out"), 0));
    gateway.expire();
    let response = gateway.ask(navigation(DEEP_LINK).header("cookie", &cookies)).await;
    assert_redirected(&response, SIGN_IN);
    assert_eq!(response.event(), Some("logged_out"));
    assert!(response.set_cookies().iter().all(|cookie| cookie.clears()));
    assert_eq!(response.set_cookies().len(), 2);
}

#[tokio::test]
async fn wrong_credentials_are_no_reason_to_sign_in_elsewhere() {
    let (gateway, _upstream) = start("").await;
    let form = request("POST", "/auth/login", &NAVIGATION[1..])
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from("email=a%40b.example&password=wrong"));
    let response = gateway.send(form.unwrap()).await;
    response.problem(401, "invalid_credentials");
    assert_eq!(response.json().get("sign_in_url"), None);
}

#[tokio::test]
async fn sign_in_page_can_be_another_one_or_none() {
    let absolute = "https://login.example/start?app=1&next=http%3A%2F%2F127.0.0.1%3A8080%2Fapp%2Fx%3Fy";
    for (sign_in, url, location) in [
        ("/login", "http://127.0.0.1:8080/login", "/login?next=%2Fapp%2Fx%3Fy"),
        ("http://127.0.0.1:8080/login", "http://127.0.0.1:8080/login", "/login?next=%2Fapp%2Fx%3Fy"),
        ("https://login.example/start?app=1", "https://login.example/start?app=1", absolute),
    ] {
        let (gateway, _upstream) = start(&format!("[pages]\nsign_in = \"{sign_in}\"\n")).await;
        assert_redirected(&gateway.ask(navigation("/app/x?y")).await, location);
        assert_eq!(gateway.ask(get("/app/x?y")).await.json()["sign_in_url"], url);
    }
    let (gateway, _upstream) = start("[pages]\nsign_in = \"off\"\n").await;
    let response = gateway.ask(navigation("/app/x")).await;
    assert_page(&response, 401);
    let problem = gateway.ask(get("/app/x")).await;
    problem.problem(401, "missing");
    assert_eq!(problem.json().get("sign_in_url"), None);
}

/// A sign-in page behind a route that requires a session would be redirected to itself.
#[tokio::test]
async fn sign_in_page_is_not_redirected_to_itself() {
    let (gateway, _upstream) = start("[pages]\nsign_in = \"/app/login\"\n").await;
    assert_page(&gateway.ask(navigation("/app/login?next=%2F")).await, 401);
}

/// The path of a request can be no value of `next` either: it may lead back to sign-in, or be too long.
#[tokio::test]
async fn path_that_is_no_next_counts_as_root() {
    let (gateway, _upstream) = start("").await;
    let long = format!("/app?{}", "x".repeat(3_000));
    for target in ["/app/%2f%2fevil.example", &long] {
        let upstream = route("/app", "http://127.0.0.1:1", "encoded_slash = \"pass\"");
        let gateway = TestGatewayBuilder::new(upstream).start().await;
        let response = gateway.ask(navigation(target)).await;
        assert_redirected(&response, "/auth/sign-in?next=%2F");
    }
    let location = gateway.ask(navigation("/app?back=//evil.example")).await;
    let location = location.header("location").unwrap();
    let origin = Url::parse("http://127.0.0.1:8080").unwrap();
    assert_eq!(origin.join(location).unwrap().origin(), origin.origin());
}
