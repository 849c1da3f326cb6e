//! `/auth/verify`: responses to the auth requests of front proxies.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use sekisho::models::user::Role;
use sekisho::server::Peer;
use serde_json::Value;
use tower::ServiceExt;

use crate::support::app::{ACCESS_TTL, ORIGIN, PAST_GRACE, TestApp, send_from};
use crate::support::browser::Browser;
use crate::support::db;
use crate::support::http::{Answer, bare, with};

/// Each `verify.source`, and the auth requests of such a front proxy.
const FRONTS: [(&str, AuthRequestFn); 3] =
    [("x-original", x_original), ("x-forwarded", x_forwarded), ("envoy", envoy)];

/// Builds the auth request about a request with this method and target.
type AuthRequestFn = fn(&str, &str) -> Request<Body>;

#[tokio::test]
async fn user_is_identified() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        let user = ann.get("/auth/session").await.json()["user"]["id"].as_str().unwrap().to_owned();
        let mut question = with(about("GET", "/app?x=%20"), "cookie", &format!("a=1; {}", ann.cookies()));
        question = with(question, "cookie", "b=2; c=3");
        let answer = ask(&app, question).await;
        assert_eq!(answer.status, 200, "{source} {answer:?}");
        assert_eq!(answer.header("x-forwarded-user"), Some(&*user));
        assert_eq!(answer.header("x-forwarded-email"), Some("ann@example.com"));
        assert_eq!(answer.header("x-forwarded-groups"), Some("user"));
        assert_eq!(answer.header("cookie"), Some("a=1; b=2; c=3"), "ours are not for the application");
        assert_eq!(answer.header("cache-control"), Some("private, no-store"));
        assert_eq!((answer.event(), answer.body.len(), cookies(&answer).len()), (None, 0, 0));

        let answer = ask(&app, of(&ann, about("GET", "/"))).await;
        assert_eq!(answer.header("cookie"), Some(""), "it replaces what the browser sent");

        let answer = ask(&app, about("GET", "/")).await;
        answer.problem(401, "missing");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!((answer.event(), answer.header("location")), (Some("missing"), None));
    }
}

/// Some front proxies read only one `Set-Cookie`, so each cookie also has a header of its own (P-27).
#[tokio::test]
async fn refresh_sends_each_cookie_in_its_own_header() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        for _ in 0..3 {
            let before = ann.cookies();
            app.expire();
            let answer = ask(&app, of(&ann, about("POST", "/"))).await;
            assert_eq!((answer.status.as_u16(), answer.event()), (200, Some("rotated")), "{source}");
            assert_eq!(cookies(&answer), spelled(&answer));
            assert_eq!(answer.header("cache-control"), Some("private, no-store"));
            ann.store_cookies(&answer);
            assert_ne!(ann.cookies(), before);
        }
    }
}

#[tokio::test]
async fn cookies_of_an_ended_session_are_cleared() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        let copy = ann.clone();
        assert_eq!(ann.post("/auth/logout", &Value::Null).await.status, 204);
        let answer = ask(&app, of(&copy, about("GET", "/"))).await;
        answer.problem(401, "logged_out");
        assert_eq!(cookies(&answer).len(), 0, "it ended just now");
        app.clock.advance(ACCESS_TTL + PAST_GRACE);
        let answer = ask(&app, of(&copy, about("GET", "/"))).await;
        answer.problem(401, "logged_out");
        assert!(answer.set_cookies().iter().all(|cookie| cookie.clears()));
        assert_eq!((cookies(&answer).len(), cookies(&answer)), (2, spelled(&answer)));
    }
}

#[tokio::test]
async fn unavailable_store_is_503() {
    let app = app("x-original").await;
    let ann = app.signed_in("ann@example.com").await;
    app.break_store().await;
    assert_eq!(ask(&app, of(&ann, x_original("GET", "/"))).await.status, 200, "its token is good");
    app.expire();
    let answer = ask(&app, of(&ann, x_original("GET", "/"))).await;
    answer.problem(503, "store_unavailable");
    assert_eq!((answer.header("retry-after"), cookies(&answer).len()), (Some("1"), 0));
    app.repair_store().await;
    assert_eq!(ask(&app, of(&ann, x_original("GET", "/"))).await.event(), Some("rotated"));
}

/// The method of the auth request decides whether the response has a body, not the method of the original
/// request.
#[tokio::test]
async fn rejected_head_request_has_its_body() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let answer = ask(&app, about("HEAD", "/")).await;
        assert_eq!(answer.status, 401);
        if source != "envoy" {
            answer.problem(401, "missing");
        }
    }
}

#[tokio::test]
async fn only_trusted_proxies_may_send_auth_requests() {
    let app = app("x-original").await;
    let ann = app.signed_in("ann@example.com").await;
    for (address, trusted) in [(FRONT, true), ([192, 0, 2, 7], false), ([127, 0, 0, 1], false)] {
        // Forwarding headers of untrusted peers are ignored.
        let question = with(of(&ann, x_original("GET", "/")), "x-forwarded-for", "10.0.0.1");
        let answer = send_from(address, app.app.forward_auth.clone().unwrap(), question).await;
        if trusted {
            assert_eq!(answer.status, 200);
        } else {
            answer.problem(403, "forbidden");
            assert_eq!((answer.header("x-forwarded-user"), cookies(&answer).len()), (None, 0));
        }
    }
    let nobody =
        app.app.forward_auth.clone().unwrap().oneshot(of(&ann, x_original("GET", "/"))).await.unwrap();
    assert_eq!(nobody.status(), 403, "a connection that nobody vouches for");
    let mapped: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
    let mut question = of(&ann, x_original("GET", "/"));
    question.extensions_mut().insert(Peer(mapped));
    let answer = app.app.forward_auth.clone().unwrap().oneshot(question).await.unwrap();
    assert_eq!(answer.status(), 200, "an IPv4 peer of an IPv6 listener");
}

#[tokio::test]
async fn client_address_is_the_browser() {
    let app = app("x-forwarded").await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    app.expire();
    let question = with(of(&ann, x_forwarded("GET", "/")), "x-forwarded-for", "198.51.100.9");
    assert_eq!(ask(&app, question).await.event(), Some("rotated"));
    let client = app.row(session).await.client;
    assert_eq!(client.address, Some([198, 51, 100, 9].into()));
}

#[tokio::test]
async fn original_request_must_be_given_once_by_the_configured_headers() {
    let (original, forwarded) =
        (["x-original-method", "x-original-uri"], ["x-forwarded-method", "x-forwarded-uri"]);
    for (source, ours, others) in [("x-original", original, forwarded), ("x-forwarded", forwarded, original)]
    {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let about = |lines: &[(&'static str, &str)]| {
            let question = with(of(&ann, bare("GET", "/auth/verify")), "host", HOST);
            lines.iter().fold(question, |question, (name, value)| with(question, name, value))
        };
        let [method, uri] = ours;
        assert_eq!(ask(&app, about(&[(method, "GET"), (uri, "/")])).await.status, 200);
        for lines in [
            &[][..],
            &[(method, "GET")],
            &[(uri, "/")],
            &[(method, "GET"), (others[1], "/")],
            &[(others[0], "GET"), (others[1], "/")],
            &[(method, "GET"), (uri, "/"), (uri, "/")],
            &[(method, "GET"), (method, "GET"), (uri, "/")],
            &[(method, "GET, POST"), (uri, "/")],
            &[(method, ""), (uri, "/")],
            &[(method, "GET"), (uri, "")],
            &[(method, "GET"), (uri, "app")],
            &[(method, "GET"), (uri, "*")],
            &[(method, "GET"), (uri, "http://app.example.com/")],
            &[(method, "GET"), (uri, "/a b")],
        ] {
            ask(&app, about(lines)).await.problem(400, "invalid_request");
        }
        for path in ["/a/../b", "/a/%2e%2e/b", "/a//b", "/a\\b", "/a%5cb", "/a%00", "/a%", "/a%2f..%2fb"] {
            ask(&app, about(&[(method, "GET"), (uri, path)])).await.problem(400, "bad_path");
        }
        assert_eq!(ask(&app, about(&[(method, "GET"), (uri, "/a%2fb?..//\\")])).await.status, 200);
        // Headers of the other sources are ignored.
        let lie = about(&[(method, "GET"), (uri, "/"), (others[0], "POST"), (others[1], "//")]);
        assert_eq!(ask(&app, lie).await.status, 200);
    }
}

#[tokio::test]
async fn envoy_auth_request_is_the_original_request() {
    let app = app("envoy").await;
    let ann = app.signed_in("ann@example.com").await;
    let asked =
        async |method: &str, path: &str| ask(&app, with(of(&ann, bare(method, path)), "host", HOST)).await;
    for path in
        ["/auth/verify", "/auth/verify/", "/auth/verify?x", "/auth/verify/a/b?c=d", "/auth/verify/a%2fb"]
    {
        for method in ["GET", "HEAD", "POST", "DELETE", "PURGE"] {
            assert_eq!(asked(method, path).await.status, 200, "{method} {path}");
        }
    }
    for path in ["/auth/verify//", "/auth/verify/a/../b", "/auth/verify/%2e%2e/b"] {
        asked("GET", path).await.problem(400, "bad_path");
    }
    // Envoy may forward such headers of the browser, which are ignored.
    let lie = with(of(&ann, envoy("GET", "/")), "x-original-uri", "//");
    assert_eq!(ask(&app, with(lie, "x-forwarded-uri", "//")).await.status, 200);
}

#[tokio::test]
async fn roles_come_from_the_front_proxy() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        app.user_as("ann@example.com", Role::Admin).await;
        let mut ann = app.browser();
        ann.sign_in("ann@example.com").await;
        let mut bob = app.signed_in("bob@example.com").await;
        for (roles, admin, user) in [
            ("admin", 200, 403),
            ("user", 403, 200),
            ("user,admin", 200, 200),
            ("owner", 403, 403),
            ("", 400, 400),
            (",", 400, 400),
            ("admin,,user", 400, 400),
        ] {
            for (browser, expected) in [(&ann, admin), (&bob, user)] {
                let answer = ask(&app, demanding(source, of(browser, about("GET", "/")), roles)).await;
                assert_eq!(answer.status, expected, "{source} {roles} {answer:?}");
            }
        }
        // A rejection carries the cookies of its refresh too.
        app.expire();
        let answer = ask(&app, demanding(source, of(&bob, about("GET", "/")), "admin")).await;
        answer.problem(403, "forbidden");
        assert_eq!((answer.event(), cookies(&answer)), (Some("rotated"), spelled(&answer)));
        assert_eq!((cookies(&answer).len(), answer.header("x-forwarded-user")), (2, None));
        bob.store_cookies(&answer);
        assert_eq!(ask(&app, of(&bob, about("GET", "/"))).await.status, 200);
    }
}

/// Caddy forwards the browser's query by default, and Envoy always does.
#[tokio::test]
async fn browser_query_does_not_set_roles() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        for query in ["?roles=admin", "?roles=", "?roles=user&roles=admin", "?roles%5B%5D=x"] {
            let answer = ask(&app, of(&ann, about("GET", &format!("/app{query}")))).await;
            assert_eq!(answer.status, 200, "{source} {query} {answer:?}");
        }
        if source == "envoy" {
            continue;
        }
        for query in ["?x=1", "?roles=user&x=1", "?roles=user&roles=admin", "?roles=user&roles=user"] {
            let mut question = of(&ann, about("GET", "/"));
            *question.uri_mut() = format!("/auth/verify{query}").parse().unwrap();
            ask(&app, question).await.problem(400, "invalid_request");
        }
        // Only Envoy sets roles in a header.
        assert_eq!(
            ask(&app, with(of(&ann, about("GET", "/")), "x-sekisho-roles", "admin")).await.status,
            200
        );
    }
}

#[tokio::test]
async fn cross_site_requests_are_rejected() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let sent = |method: &str, origin: Option<&str>, site: Option<&str>| {
            let mut question = with(about(method, "/"), "cookie", &ann.cookies());
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                question = value.into_iter().fold(question, |question, value| with(question, name, value));
            }
            question
        };
        for (origin, site, allowed) in [
            (Some(ORIGIN), Some("same-origin"), true),
            (Some(ORIGIN), None, true),
            (Some(PAGE), Some("cross-site"), true),
            (None, None, true),
            (Some(ELSEWHERE), Some("cross-site"), false),
            (Some(ELSEWHERE), None, false),
            (Some("null"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
        ] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "get"] {
                let answer = ask(&app, sent(method, origin, site)).await;
                assert_eq!(
                    answer.status,
                    if allowed { 200 } else { 403 },
                    "{source} {method} {origin:?} {site:?}"
                );
            }
            assert_eq!(ask(&app, sent("GET", origin, site)).await.status, 200);
        }
        ask(&app, sent("POST", Some(ELSEWHERE), None)).await.problem(403, "cross_site");
        app.expire();
        let answer = ask(&app, sent("POST", Some(ELSEWHERE), None)).await;
        assert_eq!((answer.event(), cookies(&answer).len()), (None, 0), "no session is looked at");
    }
}

/// Browsers without `Sec-Fetch-Site` are checked by comparing `Origin` with the host.
#[tokio::test]
async fn host_comes_from_the_configured_headers() {
    let same = "https://other.example.com";
    for (source, host, forwarded, allowed) in [
        ("x-original", "other.example.com", None, true),
        ("x-original", HOST, None, false),
        ("x-original", HOST, Some("other.example.com"), false),
        ("envoy", "other.example.com", None, true),
        ("envoy", HOST, Some("other.example.com"), false),
        ("x-forwarded", HOST, Some("other.example.com"), true),
        ("x-forwarded", "other.example.com", Some(HOST), false),
        ("x-forwarded", "other.example.com", None, false),
    ] {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let about = FRONTS.iter().find(|(name, _)| *name == source).unwrap().1;
        let mut question = with(of(&ann, about("POST", "/")), "origin", same);
        question.headers_mut().remove("x-forwarded-host");
        question.headers_mut().insert("host", HeaderValue::from_str(host).unwrap());
        if let Some(forwarded) = forwarded {
            question = with(question, "x-forwarded-host", forwarded);
        }
        let answer = ask(&app, question).await;
        assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{source} {host} {forwarded:?}");
    }
    let app = app("x-forwarded").await;
    let twice = with(x_forwarded("POST", "/"), "x-forwarded-host", "other.example.com");
    ask(&app, twice).await.problem(400, "invalid_request");
}

/// A WebSocket handshake is a `GET`, and a matching host is not sufficient (B-6).
#[tokio::test]
async fn websocket_requires_a_trusted_origin() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        for (name, value) in [
            ("upgrade", "websocket"),
            ("upgrade", "h2c, WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            let opened_by = |origin: Option<&str>| {
                let question = with(of(&ann, about("GET", "/chat")), name, value);
                origin.into_iter().fold(question, |question, origin| with(question, "origin", origin))
            };
            for origin in [ORIGIN, PAGE] {
                assert_eq!(ask(&app, opened_by(Some(origin))).await.status, 200, "{source} {name} {origin}");
            }
            for origin in [Some(ELSEWHERE), Some("null"), Some("https://other.example.com"), None] {
                let mut question = opened_by(origin);
                question.headers_mut().insert("host", HeaderValue::from_static("other.example.com"));
                ask(&app, question).await.problem(403, "cross_site");
            }
        }
        // Without session cookies the handshake has no session to abuse.
        ask(&app, with(about("GET", "/chat"), "upgrade", "websocket")).await.problem(401, "missing");
    }
}

#[tokio::test]
async fn preflight_is_anonymous_and_not_refreshed() {
    for (source, about) in FRONTS {
        let app = app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        app.expire();
        let preflight = with(of(&ann, about("OPTIONS", "/")), "access-control-request-method", "PUT");
        let answer = ask(&app, with(preflight, "origin", PAGE)).await;
        answer.problem(401, "missing");
        assert_eq!(cookies(&answer).len(), 0, "{source}");
    }
}

#[tokio::test]
async fn verify_is_only_on_its_own_listener() {
    let app = app("x-original").await;
    let mut ann = app.signed_in("ann@example.com").await;
    for path in ["/auth/verify", "/auth/verify/", "/auth/verify/app"] {
        let question = with(with(bare("GET", path), "x-original-method", "GET"), "x-original-uri", "/");
        ann.send(question).await.problem(404, "not_found");
    }
    for path in ["/", "/auth", "/auth/session", "/auth/login", "/auth/verifyx", "/auth//verify", "/healthz"] {
        let question = with(with(bare("GET", path), "x-original-method", "GET"), "x-original-uri", "/");
        ask(&app, of(&ann, question)).await.problem(404, "not_found");
    }
    // Disabled by default.
    assert!(TestApp::with_database(db::sqlite().await.unwrap()).await.app.forward_auth.is_none());
}

#[tokio::test]
async fn verify_path_follows_the_auth_prefix() {
    let settings = settings("envoy");
    let mut flags: Vec<_> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
    flags.push(("server.auth_prefix", "/account/auth"));
    let app = TestApp::with(db::sqlite().await.unwrap(), &flags).await;
    ask(&app, with(bare("GET", "/account/auth/verify/x"), "host", HOST)).await.problem(401, "missing");
    ask(&app, with(bare("GET", "/auth/verify/x"), "host", HOST)).await.problem(404, "not_found");
}

async fn app(source: &str) -> TestApp {
    let settings = settings(source);
    let flags: Vec<_> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
    TestApp::with(db::sqlite().await.unwrap(), &flags).await
}

fn settings(source: &str) -> Vec<(&'static str, String)> {
    vec![
        ("server.trusted_proxies", "[\"10.0.0.0/8\"]".to_owned()),
        ("server.allowed_origins", format!("[\"{PAGE}\"]")),
        ("verify.listen", "127.0.0.1:9091".to_owned()),
        ("verify.source", source.to_owned()),
    ]
}

fn x_original(method: &str, target: &str) -> Request<Body> {
    let question = with(bare("GET", "/auth/verify"), "x-original-method", method);
    with(with(question, "x-original-uri", target), "host", HOST)
}

fn x_forwarded(method: &str, target: &str) -> Request<Body> {
    let question = with(bare("GET", "/auth/verify"), "x-forwarded-method", method);
    let question = with(with(question, "x-forwarded-uri", target), "x-forwarded-host", HOST);
    with(question, "host", "127.0.0.1:9091")
}

fn envoy(method: &str, target: &str) -> Request<Body> {
    with(bare(method, &format!("/auth/verify{target}")), "host", HOST)
}

/// Adds required roles to an auth request, as the front proxy's configuration does.
fn demanding(source: &str, mut question: Request<Body>, roles: &str) -> Request<Body> {
    if source == "envoy" {
        return with(question, "x-sekisho-roles", roles);
    }
    *question.uri_mut() = format!("/auth/verify?roles={roles}").parse().unwrap();
    question
}

/// Adds the browser's cookies, and no other header of it.
fn of(browser: &Browser, question: Request<Body>) -> Request<Body> {
    with(question, "cookie", &browser.cookies())
}

async fn ask(app: &TestApp, question: Request<Body>) -> Answer {
    send_from(FRONT, app.app.forward_auth.clone().unwrap(), question).await
}

fn cookies(answer: &Answer) -> Vec<&HeaderValue> {
    answer.headers.get_all("set-cookie").iter().collect()
}

/// Returns the cookies in the single-cookie headers.
fn spelled(answer: &Answer) -> Vec<&HeaderValue> {
    let headers = ["x-set-access-cookie", "x-set-refresh-cookie"];
    headers.iter().flat_map(|name| answer.headers.get_all(*name)).collect()
}

const FRONT: [u8; 4] = [10, 0, 0, 1];
const HOST: &str = "app.example.com";
const PAGE: &str = "https://page.example.com";
const ELSEWHERE: &str = "https://evil.example";
