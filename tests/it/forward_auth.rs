//! `/auth/verify`: responses to the auth requests of front proxies.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use sekisho::client_info::ClientInfo;
use sekisho::models::session::EndReason;
use sekisho::models::user::Role;
use sekisho::server::Peer;
use serde_json::Value;
use tower::ServiceExt;

use crate::support::app::{ACCESS_TTL, ORIGIN, PAST_GRACE, TestApp, send_from};
use crate::support::browser::Browser;
use crate::support::db;
use crate::support::http::{TestResponse, bare, with};

/// Each `verify.source`, and the auth requests of such a front proxy.
const FRONT_PROXIES: [(&str, AuthRequestFn); 3] =
    [("x-original", x_original), ("x-forwarded", x_forwarded), ("envoy", envoy)];

/// Builds the auth request about a request with this method and target.
type AuthRequestFn = fn(&str, &str) -> Request<Body>;

#[tokio::test]
async fn user_is_identified() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        let user = ann.get("/auth/session").await.json()["user"]["id"].as_str().unwrap().to_owned();
        let mut request =
            with(auth_request("GET", "/app?x=%20"), "cookie", &format!("a=1; {}", ann.cookies()));
        request = with(request, "cookie", "b=2; c=3");
        let response = send(&app, request).await;
        assert_eq!(response.status, 200, "{source} {response:?}");
        assert_eq!(response.header("x-forwarded-user"), Some(&*user));
        assert_eq!(response.header("x-forwarded-email"), Some("ann@example.com"));
        assert_eq!(response.header("x-forwarded-groups"), Some("user"));
        assert_eq!(response.header("cookie"), Some("a=1; b=2; c=3"), "session cookies are removed");
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
        assert_eq!((response.event(), response.body.len(), cookies(&response).len()), (None, 0, 0));

        let response = send(&app, with_cookies(&ann, auth_request("GET", "/"))).await;
        assert_eq!(response.header("cookie"), Some(""), "replaces the browser's header");

        let response = send(&app, auth_request("GET", "/")).await;
        response.problem(401, "missing");
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!((response.event(), response.header("location")), (Some("missing"), None));
    }
}

/// The headers of a navigation.
const NAVIGATION: [(&str, &str); 3] =
    [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("accept", "text/html,*/*;q=0.8")];

/// Sends the auth request about a request with these headers.
async fn send_with(app: &TestApp, request: Request<Body>, headers: &[(&'static str, &str)]) -> TestResponse {
    let add = |request, (name, value): &(&'static str, &str)| with(request, name, value);
    send(app, headers.iter().fold(request, add)).await
}

const SIGN_IN: &str = "https://app.example.com/auth/sign-in";

#[tokio::test]
async fn navigation_without_session_is_sent_to_sign_in() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let location = format!("{SIGN_IN}?next=%2Ffilms%3Fpage%3D2%26title%3D%2520");
        let response = send_with(&app, auth_request("GET", "/films?page=2&title=%20"), &NAVIGATION).await;
        assert_eq!(response.event(), Some("missing"), "{source}");
        let vary = response.header("vary").unwrap().to_lowercase();
        assert!(vary.contains("sec-fetch-dest") && vary.contains("cookie"), "{vary}");
        if source == "x-original" {
            response.problem(401, "missing");
            assert_eq!(response.header("x-sign-in-url"), Some(&*location));
            assert_eq!(
                (response.json()["sign_in_url"].as_str(), response.header("location")),
                (Some(SIGN_IN), None)
            );
        } else {
            assert_eq!((response.status.as_u16(), response.header("location")), (303, Some(&*location)));
            assert_eq!((response.header("x-sign-in-url"), response.body.len()), (None, 0));
        }

        let fetch = [("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
        for (method, headers) in [("GET", &fetch[..]), ("GET", &[]), ("POST", &fetch)] {
            let response = send_with(&app, auth_request(method, "/films"), headers).await;
            response.problem(401, "missing");
            assert_eq!(response.json()["sign_in_url"], SIGN_IN);
            assert_eq!((response.header("location"), response.header("x-sign-in-url")), (None, None));
        }
        let form = send_with(&app, auth_request("POST", "/films"), &NAVIGATION).await;
        assert_eq!((form.status.as_u16(), form.header("location")), (401, None), "{source}");
        assert_eq!(form.header("x-sign-in-url"), None, "{source}: nothing is replayed");
    }
}

#[tokio::test]
async fn redirects_can_be_turned_off() {
    for (source, auth_request) in FRONT_PROXIES {
        let mut settings = verify_settings(source);
        settings.push(("verify.redirect", "false".to_owned()));
        let flags: Vec<_> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
        let app = TestApp::with(db::sqlite().await.unwrap(), &flags).await;
        let response = send_with(&app, auth_request("GET", "/films"), &NAVIGATION).await;
        response.problem(401, "missing");
        assert_eq!((response.header("location"), response.header("x-sign-in-url")), (None, None));
    }
}

/// Some front proxies read only one `Set-Cookie`, so each cookie also has a header of its own (P-27).
#[tokio::test]
async fn refresh_sends_each_cookie_in_its_own_header() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        for _ in 0..3 {
            let before = ann.cookies();
            app.expire();
            let response = send(&app, with_cookies(&ann, auth_request("POST", "/"))).await;
            assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")), "{source}");
            assert_eq!(cookies(&response), single_cookie_headers(&response));
            assert_eq!(response.header("cache-control"), Some("private, no-store"));
            ann.store_cookies(&response);
            assert_ne!(ann.cookies(), before);
        }
    }
}

/// B2: a shorter `tokens.access_ttl` also applies to tokens that were issued before.
#[tokio::test]
async fn shorter_lifetime_applies_to_issued_tokens() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        app.user("ann@example.com").await;
        let [mut live, mut ended] = [app.browser(), app.browser()];
        live.sign_in("ann@example.com").await;
        let session = ended.sign_in("ann@example.com").await;
        let terminated = app.app.tokens.end(session, EndReason::Revoked, &ClientInfo::default()).await;
        assert!(terminated.unwrap());
        app.clock.advance(Duration::from_secs(300));
        let replica = app.replica_with(|config| config.tokens.access_ttl = Duration::from_secs(120)).await;
        replica.tokens.revocations().load().await.unwrap();
        let send = async |browser: &Browser| {
            let request = with_cookies(browser, auth_request("GET", "/"));
            send_from(FRONT_PROXY, replica.forward_auth.clone().unwrap(), request).await
        };
        send(&ended).await.problem(401, "revoked");
        let response = send(&live).await;
        assert_eq!((response.status.as_u16(), response.event()), (200, Some("rotated")), "{source}");
        assert_eq!(cookies(&response), single_cookie_headers(&response));
    }
}

#[tokio::test]
async fn cookies_of_an_ended_session_are_cleared() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let mut ann = app.signed_in("ann@example.com").await;
        let copy = ann.clone();
        assert_eq!(ann.post("/auth/logout", &Value::Null).await.status, 204);
        let response = send(&app, with_cookies(&copy, auth_request("GET", "/"))).await;
        response.problem(401, "logged_out");
        assert_eq!(cookies(&response).len(), 0, "not cleared within the grace period");
        app.clock.advance(ACCESS_TTL + PAST_GRACE);
        let response = send(&app, with_cookies(&copy, auth_request("GET", "/"))).await;
        response.problem(401, "logged_out");
        assert!(response.set_cookies().iter().all(|cookie| cookie.clears()));
        assert_eq!((cookies(&response).len(), cookies(&response)), (2, single_cookie_headers(&response)));
    }
}

#[tokio::test]
async fn unavailable_store_is_503() {
    let app = start_app("x-original").await;
    let ann = app.signed_in("ann@example.com").await;
    app.break_store().await;
    assert_eq!(
        send(&app, with_cookies(&ann, x_original("GET", "/"))).await.status,
        200,
        "the access token is valid"
    );
    app.expire();
    let response = send(&app, with_cookies(&ann, x_original("GET", "/"))).await;
    response.problem(503, "store_unavailable");
    assert_eq!((response.header("retry-after"), cookies(&response).len()), (Some("1"), 0));
    app.repair_store().await;
    assert_eq!(send(&app, with_cookies(&ann, x_original("GET", "/"))).await.event(), Some("rotated"));
}

/// The method of the auth request decides whether the response has a body, not the method of the original
/// request.
#[tokio::test]
async fn rejected_head_request_has_its_body() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let response = send(&app, auth_request("HEAD", "/")).await;
        assert_eq!(response.status, 401);
        if source != "envoy" {
            response.problem(401, "missing");
        }
    }
}

#[tokio::test]
async fn only_trusted_proxies_may_send_auth_requests() {
    let app = start_app("x-original").await;
    let ann = app.signed_in("ann@example.com").await;
    for (address, trusted) in [(FRONT_PROXY, true), ([192, 0, 2, 7], false), ([127, 0, 0, 1], false)] {
        // Forwarding headers of untrusted peers are ignored.
        let request = with(with_cookies(&ann, x_original("GET", "/")), "x-forwarded-for", "10.0.0.1");
        let response = send_from(address, app.app.forward_auth.clone().unwrap(), request).await;
        if trusted {
            assert_eq!(response.status, 200);
        } else {
            response.problem(403, "forbidden");
            assert_eq!((response.header("x-forwarded-user"), cookies(&response).len()), (None, 0));
        }
    }
    let without_peer = app
        .app
        .forward_auth
        .clone()
        .unwrap()
        .oneshot(with_cookies(&ann, x_original("GET", "/")))
        .await
        .unwrap();
    assert_eq!(without_peer.status(), 403, "no peer address");
    let mapped: SocketAddr = "[::ffff:10.0.0.1]:1".parse().unwrap();
    let mut request = with_cookies(&ann, x_original("GET", "/"));
    request.extensions_mut().insert(Peer(mapped));
    let response = app.app.forward_auth.clone().unwrap().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200, "an IPv4 peer of an IPv6 listener");
}

#[tokio::test]
async fn client_address_is_the_browser() {
    let app = start_app("x-forwarded").await;
    app.user("ann@example.com").await;
    let mut ann = app.browser();
    let session = ann.sign_in("ann@example.com").await;
    app.expire();
    let request = with(with_cookies(&ann, x_forwarded("GET", "/")), "x-forwarded-for", "198.51.100.9");
    assert_eq!(send(&app, request).await.event(), Some("rotated"));
    let client = app.row(session).await.client;
    assert_eq!(client.address, Some([198, 51, 100, 9].into()));
}

#[tokio::test]
async fn original_request_must_be_given_once_by_the_configured_headers() {
    let (original, forwarded) =
        (["x-original-method", "x-original-uri"], ["x-forwarded-method", "x-forwarded-uri"]);
    for (source, own, others) in [("x-original", original, forwarded), ("x-forwarded", forwarded, original)] {
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let auth_request = |lines: &[(&'static str, &str)]| {
            let request = with(with_cookies(&ann, bare("GET", "/auth/verify")), "host", HOST);
            lines.iter().fold(request, |request, (name, value)| with(request, name, value))
        };
        let [method, uri] = own;
        assert_eq!(send(&app, auth_request(&[(method, "GET"), (uri, "/")])).await.status, 200);
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
            send(&app, auth_request(lines)).await.problem(400, "invalid_request");
        }
        for path in ["/a/../b", "/a/%2e%2e/b", "/a//b", "/a\\b", "/a%5cb", "/a%00", "/a%", "/a%2f..%2fb"] {
            send(&app, auth_request(&[(method, "GET"), (uri, path)])).await.problem(400, "bad_path");
        }
        assert_eq!(send(&app, auth_request(&[(method, "GET"), (uri, "/a%2fb?..//\\")])).await.status, 200);
        // Headers of the other sources are ignored.
        let forged = auth_request(&[(method, "GET"), (uri, "/"), (others[0], "POST"), (others[1], "//")]);
        assert_eq!(send(&app, forged).await.status, 200);
    }
}

#[tokio::test]
async fn envoy_auth_request_is_the_original_request() {
    let app = start_app("envoy").await;
    let ann = app.signed_in("ann@example.com").await;
    let send_envoy = async |method: &str, path: &str| {
        send(&app, with(with_cookies(&ann, bare(method, path)), "host", HOST)).await
    };
    for path in
        ["/auth/verify", "/auth/verify/", "/auth/verify?x", "/auth/verify/a/b?c=d", "/auth/verify/a%2fb"]
    {
        for method in ["GET", "HEAD", "POST", "DELETE", "PURGE"] {
            assert_eq!(send_envoy(method, path).await.status, 200, "{method} {path}");
        }
    }
    for path in ["/auth/verify//", "/auth/verify/a/../b", "/auth/verify/%2e%2e/b"] {
        send_envoy("GET", path).await.problem(400, "bad_path");
    }
    // Envoy may forward such headers of the browser, which are ignored.
    let forged = with(with_cookies(&ann, envoy("GET", "/")), "x-original-uri", "//");
    assert_eq!(send(&app, with(forged, "x-forwarded-uri", "//")).await.status, 200);
}

#[tokio::test]
async fn roles_come_from_the_front_proxy() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
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
                let response =
                    send(&app, with_roles(source, with_cookies(browser, auth_request("GET", "/")), roles))
                        .await;
                assert_eq!(response.status, expected, "{source} {roles} {response:?}");
            }
        }
        // A rejection carries the cookies of its refresh too.
        app.expire();
        let response =
            send(&app, with_roles(source, with_cookies(&bob, auth_request("GET", "/")), "admin")).await;
        response.problem(403, "forbidden");
        assert_eq!(
            (response.event(), cookies(&response)),
            (Some("rotated"), single_cookie_headers(&response))
        );
        assert_eq!((cookies(&response).len(), response.header("x-forwarded-user")), (2, None));
        bob.store_cookies(&response);
        assert_eq!(send(&app, with_cookies(&bob, auth_request("GET", "/"))).await.status, 200);
    }
}

/// Caddy forwards the browser's query by default, and Envoy always does.
#[tokio::test]
async fn browser_query_does_not_set_roles() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        for query in ["?roles=admin", "?roles=", "?roles=user&roles=admin", "?roles%5B%5D=x"] {
            let response = send(&app, with_cookies(&ann, auth_request("GET", &format!("/app{query}")))).await;
            assert_eq!(response.status, 200, "{source} {query} {response:?}");
        }
        if source == "envoy" {
            continue;
        }
        for query in ["?x=1", "?roles=user&x=1", "?roles=user&roles=admin", "?roles=user&roles=user"] {
            let mut request = with_cookies(&ann, auth_request("GET", "/"));
            *request.uri_mut() = format!("/auth/verify{query}").parse().unwrap();
            send(&app, request).await.problem(400, "invalid_request");
        }
        // Only Envoy sets roles in a header.
        assert_eq!(
            send(&app, with(with_cookies(&ann, auth_request("GET", "/")), "x-sekisho-roles", "admin"))
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn cross_site_requests_are_rejected() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let sent = |method: &str, origin: Option<&str>, site: Option<&str>| {
            let mut request = with(auth_request(method, "/"), "cookie", &ann.cookies());
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                request = value.into_iter().fold(request, |request, value| with(request, name, value));
            }
            request
        };
        for (origin, site, allowed) in [
            (Some(ORIGIN), Some("same-origin"), true),
            (Some(ORIGIN), None, true),
            (Some(PAGE), Some("cross-site"), true),
            (Some(APP), Some("cross-site"), true),
            (Some(APP), None, true),
            (None, None, true),
            (Some(ELSEWHERE), Some("cross-site"), false),
            (Some(ELSEWHERE), None, false),
            (Some("null"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
        ] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "get"] {
                let response = send(&app, sent(method, origin, site)).await;
                assert_eq!(
                    response.status,
                    if allowed { 200 } else { 403 },
                    "{source} {method} {origin:?} {site:?}"
                );
            }
            assert_eq!(send(&app, sent("GET", origin, site)).await.status, 200);
        }
        send(&app, sent("POST", Some(ELSEWHERE), None)).await.problem(403, "cross_site");
        app.expire();
        let response = send(&app, sent("POST", Some(ELSEWHERE), None)).await;
        assert_eq!(
            (response.event(), cookies(&response).len()),
            (None, 0),
            "rejected before the session is checked"
        );
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
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        let auth_request = FRONT_PROXIES.iter().find(|(name, _)| *name == source).unwrap().1;
        let mut request = with(with_cookies(&ann, auth_request("POST", "/")), "origin", same);
        request.headers_mut().remove("x-forwarded-host");
        request.headers_mut().insert("host", HeaderValue::from_str(host).unwrap());
        if let Some(forwarded) = forwarded {
            request = with(request, "x-forwarded-host", forwarded);
        }
        let response = send(&app, request).await;
        assert_eq!(response.status, if allowed { 200 } else { 403 }, "{source} {host} {forwarded:?}");
    }
    let app = start_app("x-forwarded").await;
    let twice = with(x_forwarded("POST", "/"), "x-forwarded-host", "other.example.com");
    send(&app, twice).await.problem(400, "invalid_request");
    // C20: the host was not checked.
    for host in ["localhost:x", "a:99999", "[]", "u@a", "a/b"] {
        let mut request = x_forwarded("GET", "/");
        request.headers_mut().insert("x-forwarded-host", HeaderValue::from_str(host).unwrap());
        send(&app, request).await.problem(400, "invalid_request");
    }
}

/// A WebSocket handshake is a `GET`, and a matching host is not sufficient (B-6).
#[tokio::test]
async fn websocket_requires_a_trusted_origin() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        for (name, value) in [
            ("upgrade", "websocket"),
            ("upgrade", "h2c, WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ] {
            let opened_by = |origin: Option<&str>| {
                let request = with(with_cookies(&ann, auth_request("GET", "/chat")), name, value);
                origin.into_iter().fold(request, |request, origin| with(request, "origin", origin))
            };
            for origin in [ORIGIN, PAGE] {
                assert_eq!(send(&app, opened_by(Some(origin))).await.status, 200, "{source} {name} {origin}");
            }
            for origin in [Some(ELSEWHERE), Some("null"), Some("https://other.example.com"), None] {
                let mut request = opened_by(origin);
                request.headers_mut().insert("host", HeaderValue::from_static("other.example.com"));
                send(&app, request).await.problem(403, "cross_site");
            }
        }
        // Without session cookies the handshake has no session to abuse.
        send(&app, with(auth_request("GET", "/chat"), "upgrade", "websocket")).await.problem(401, "missing");
    }
}

#[tokio::test]
async fn preflight_is_anonymous_and_not_refreshed() {
    for (source, auth_request) in FRONT_PROXIES {
        let app = start_app(source).await;
        let ann = app.signed_in("ann@example.com").await;
        app.expire();
        let preflight =
            with(with_cookies(&ann, auth_request("OPTIONS", "/")), "access-control-request-method", "PUT");
        let response = send(&app, with(preflight, "origin", PAGE)).await;
        response.problem(401, "missing");
        assert_eq!(cookies(&response).len(), 0, "{source}");
    }
}

#[tokio::test]
async fn verify_is_only_on_its_own_listener() {
    let app = start_app("x-original").await;
    let mut ann = app.signed_in("ann@example.com").await;
    for path in ["/auth/verify", "/auth/verify/", "/auth/verify/app"] {
        let request = with(with(bare("GET", path), "x-original-method", "GET"), "x-original-uri", "/");
        ann.send(request).await.problem(404, "not_found");
    }
    for path in ["/", "/auth", "/auth/session", "/auth/login", "/auth/verifyx", "/auth//verify", "/healthz"] {
        let request = with(with(bare("GET", path), "x-original-method", "GET"), "x-original-uri", "/");
        send(&app, with_cookies(&ann, request)).await.problem(404, "not_found");
    }
    // Disabled by default.
    assert!(TestApp::with_database(db::sqlite().await.unwrap()).await.app.forward_auth.is_none());
}

#[tokio::test]
async fn verify_path_follows_the_auth_prefix() {
    let settings = verify_settings("envoy");
    let mut flags: Vec<_> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
    flags.push(("server.auth_prefix", "/account/auth"));
    let app = TestApp::with(db::sqlite().await.unwrap(), &flags).await;
    send(&app, with(bare("GET", "/account/auth/verify/x"), "host", HOST)).await.problem(401, "missing");
    send(&app, with(bare("GET", "/auth/verify/x"), "host", HOST)).await.problem(404, "not_found");
}

async fn start_app(source: &str) -> TestApp {
    let settings = verify_settings(source);
    let flags: Vec<_> = settings.iter().map(|(key, value)| (*key, &**value)).collect();
    TestApp::with(db::sqlite().await.unwrap(), &flags).await
}

fn verify_settings(source: &str) -> Vec<(&'static str, String)> {
    vec![
        ("server.trusted_proxies", "[\"10.0.0.0/8\"]".to_owned()),
        ("server.allowed_origins", format!("[\"{PAGE}\", \"{APP}\"]")),
        ("verify.listen", "127.0.0.1:9091".to_owned()),
        ("verify.source", source.to_owned()),
    ]
}

fn x_original(method: &str, target: &str) -> Request<Body> {
    let request = with(bare("GET", "/auth/verify"), "x-original-method", method);
    with(with(request, "x-original-uri", target), "host", HOST)
}

fn x_forwarded(method: &str, target: &str) -> Request<Body> {
    let request = with(bare("GET", "/auth/verify"), "x-forwarded-method", method);
    let request = with(with(request, "x-forwarded-uri", target), "x-forwarded-host", HOST);
    with(request, "host", "127.0.0.1:9091")
}

fn envoy(method: &str, target: &str) -> Request<Body> {
    with(bare(method, &format!("/auth/verify{target}")), "host", HOST)
}

/// Adds required roles to an auth request, as the front proxy's configuration does.
fn with_roles(source: &str, mut request: Request<Body>, roles: &str) -> Request<Body> {
    if source == "envoy" {
        return with(request, "x-sekisho-roles", roles);
    }
    *request.uri_mut() = format!("/auth/verify?roles={roles}").parse().unwrap();
    request
}

/// Adds the browser's cookies, and no other header of it.
fn with_cookies(browser: &Browser, request: Request<Body>) -> Request<Body> {
    with(request, "cookie", &browser.cookies())
}

async fn send(app: &TestApp, request: Request<Body>) -> TestResponse {
    send_from(FRONT_PROXY, app.app.forward_auth.clone().unwrap(), request).await
}

fn cookies(response: &TestResponse) -> Vec<&HeaderValue> {
    response.headers.get_all("set-cookie").iter().collect()
}

/// Returns the cookies in the single-cookie headers.
fn single_cookie_headers(response: &TestResponse) -> Vec<&HeaderValue> {
    let headers = ["x-set-access-cookie", "x-set-refresh-cookie"];
    headers.iter().flat_map(|name| response.headers.get_all(*name)).collect()
}

const FRONT_PROXY: [u8; 4] = [10, 0, 0, 1];
const HOST: &str = "app.example.com";
const PAGE: &str = "https://page.example.com";
/// An app in a web view.
const APP: &str = "capacitor://localhost";
const ELSEWHERE: &str = "https://evil.example";
