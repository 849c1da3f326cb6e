//! The proxy with sessions and upstreams, through the whole gateway.

mod bearer;
mod header_case;
mod paths;
mod rules;
mod secrets;
mod upstream_headers;
mod upstream_tls;
mod wire;
mod wsgi;

use axum::body::Body;
use http::Response;
use sekisho::models::user::Role;

use crate::support::gateway::{SessionCookies, TestGatewayBuilder, get, post, route};
use crate::support::upstream::{RecordedRequest, Upstream};

/// Checks that a request contains no identity and no token.
fn assert_anonymous(seen: &RecordedRequest) {
    for name in ["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "authorization", "cookie"] {
        assert!(seen.all(name).is_empty(), "{name}: {:?}", seen.all(name));
    }
}

#[tokio::test]
async fn required_route_responds_401_without_upstream() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    for (cookies, event) in [
        ("", "missing"),
        ("__Host-access_token=x", "malformed"),
        ("__Host-refresh_token=x", "malformed"),
        ("__Host-access_token=x; __Host-access_token=y", "malformed"),
    ] {
        let response = gateway.ask(get("/api?x=1").header("cookie", cookies)).await;
        response.problem(401, event);
        assert_eq!(response.header("x-session-event"), Some(event));
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert_eq!(response.header("cache-control"), Some("private, no-store"));
        assert_eq!(SessionCookies::of(&response), None);
    }
    let response = gateway.ask(get("/").header("authorization", "Bearer x.y.z")).await;
    response.problem(401, "malformed");
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn identity_headers_override_the_client() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let session_cookies = gateway.signed_in(Role::Admin).await;
    let mut request = get("/films?page=2").header("cookie", session_cookies.line());
    for name in ["X-Forwarded-User", "X_Forwarded_User", "x-forwarded_user", "X.Forwarded.User"] {
        request = request.header(name, "root").header(name, "root again");
    }
    for name in ["X-Forwarded-Email", "X_FORWARDED_EMAIL", "X-Forwarded-Groups", "x_forwarded_groups"] {
        request = request.header(name, "forged");
    }
    let request = request.header("connection", "x-forwarded-user, x-forwarded-groups, x-forwarded-email");
    let response = gateway.ask(request).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, None));

    let seen = upstream.seen().await;
    let user = gateway.app.users.find_by_email("taro@example.jp").await.unwrap();
    assert_eq!(seen.all("x-forwarded-user"), [user.id.to_string()]);
    assert_eq!(seen.all("x-forwarded-email"), ["taro@example.jp"]);
    assert_eq!(seen.all("x-forwarded-groups"), ["admin"]);
    assert!(seen.headers.keys().all(|name| !name.as_str().contains(['_', '.'])), "{:?}", seen.headers);
    assert!(seen.all("cookie").is_empty() && seen.all("authorization").is_empty());
}

#[tokio::test]
async fn optional_route_continues_anonymously_with_event() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"optional\"")).start().await;
    for (cookies, authorization, event) in [
        ("theirs=1", "Basic YTpi", "missing"),
        ("theirs=1", "Bearer x", "malformed"),
        ("__Host-access_token=x; __Host-refresh_token=y", "Bearer x", "malformed"),
    ] {
        let request = get("/").header("cookie", cookies).header("x-forwarded-user", "root");
        let response = gateway.ask(request.header("authorization", authorization)).await;
        assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, Some(event)));
        let mut seen = upstream.seen().await;
        if cookies == "theirs=1" {
            assert_eq!(seen.all("cookie"), ["theirs=1"]);
            seen.headers.remove("cookie");
        }
        assert_anonymous(&seen);
    }
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.ask(get("/").header("cookie", session_cookies.line())).await;
    assert_eq!(upstream.seen().await.all("x-forwarded-groups"), ["user"]);
}

#[tokio::test]
async fn open_route_ignores_the_session() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let session_cookies = gateway.signed_in(Role::Admin).await;
    gateway.expire();
    for cookies in [session_cookies.line(), "__Host-refresh_token=x; __Host-refresh_token=y".to_owned()] {
        let bearer = format!("Bearer {}", session_cookies.access);
        let response = gateway.ask(get("/").header("cookie", cookies).header("authorization", bearer)).await;
        assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, None));
        assert_eq!(SessionCookies::of(&response), None);
        assert_anonymous(&upstream.seen().await);
    }
}

#[tokio::test]
async fn unavailable_database_is_503_and_keeps_sessions() {
    let mut upstream = Upstream::start().await;
    let routes = [("/must", ""), ("/may", "auth = \"optional\""), ("/open", "auth = \"none\"")];
    let routes: String = routes.iter().map(|(path, more)| route(path, &upstream.url(), more)).collect();
    let gateway = TestGatewayBuilder::new(routes).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.database.stores.close().await;

    // A valid access token is verified without the database.
    let response = gateway.ask(get("/must").header("cookie", session_cookies.line())).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, None));
    upstream.seen().await;
    gateway.expire();
    for path in ["/must", "/may"] {
        let response = gateway.ask(get(path).header("cookie", session_cookies.line())).await;
        response.problem(503, "store_unavailable");
        assert_eq!(response.header("x-session-event"), Some("store_unavailable"));
        assert!(response.header("retry-after").is_some());
        assert_eq!(SessionCookies::of(&response), None);
    }
    assert!(upstream.has_no_more_requests());
    assert_eq!(gateway.ask(get("/open").header("cookie", session_cookies.line())).await.status, 200);
}

#[tokio::test]
async fn valid_token_without_database_follows_on_store_loss() {
    for (setting, status) in [("serve", 200), ("refuse", 503)] {
        let mut upstream = Upstream::start().await;
        let setting = format!("session.on_store_loss = \"{setting}\"\n");
        let gateway = TestGatewayBuilder::new(setting + &route("/", &upstream.url(), "")).start().await;
        let session_cookies = gateway.signed_in(Role::User).await;
        gateway.database.stores.close().await;
        // Within the last tenth of the token's lifetime, with any jitter.
        gateway.clock.advance(std::time::Duration::from_secs(840));
        let response = gateway.ask(get("/").header("cookie", session_cookies.line())).await;
        assert_eq!(response.status.as_u16(), status);
        assert_eq!(response.header("x-session-event"), Some("store_unavailable"));
        assert_eq!(upstream.has_no_more_requests(), status == 503);
    }
}

#[tokio::test]
async fn missing_role_is_403_with_fresh_cookies() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "roles = [\"admin\"]")).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let response = gateway.ask(get("/").header("cookie", session_cookies.line())).await;
    response.problem(403, "forbidden");
    assert_eq!(response.header("x-session-event"), Some("rotated"));
    let fresh = SessionCookies::of(&response).unwrap();
    assert_ne!(fresh, session_cookies);
    gateway.ask(get("/").header("cookie", fresh.line())).await.problem(403, "forbidden");
    gateway.ask(get("/")).await.problem(401, "missing");
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn post_is_refreshed_first_and_forwarded_once() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let request = post("/orders").header("cookie", session_cookies.line());
    let response = gateway.send(request.body(Body::from("one book")).unwrap()).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, Some("rotated")));
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
    assert_eq!(response.header("vary"), Some("Cookie"));
    let seen = upstream.seen().await;
    assert_eq!((seen.method.as_str(), seen.length), ("POST", 8));
    assert_eq!(seen.all("x-forwarded-email"), ["taro@example.jp"]);
    assert!(upstream.has_no_more_requests());

    let fresh = SessionCookies::of(&response).unwrap();
    let response = gateway.ask(get("/").header("cookie", fresh.line())).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, None));
}

#[tokio::test]
async fn fresh_cookies_are_sent_when_the_upstream_fails() {
    let gateway = TestGatewayBuilder::new(route("/", "http://127.0.0.1:1", "")).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let response = gateway.ask(get("/").header("cookie", session_cookies.line())).await;
    response.problem(502, "upstream_unreachable");
    assert!(SessionCookies::of(&response).is_some());
}

#[tokio::test]
async fn stalled_body_does_not_hold_a_handler() {
    let gateway = TestGatewayBuilder::new("").start().await;
    tokio::time::pause();
    for (path, kind) in [("/auth/login", "application/json"), ("/token", "application/x-www-form-urlencoded")]
    {
        let stuck =
            Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let request = post(path).header("content-type", kind).body(stuck).unwrap();
        assert_eq!(gateway.send(request).await.status, 408);
    }
}

#[tokio::test]
async fn session_and_upstream_cookies_never_mix() {
    let mut upstream = Upstream::responding_with(|_| {
        let response = Response::builder()
            .header("set-cookie", "theirs=1; Path=/")
            .header("set-cookie", "__Host-access_token=stolen; Path=/; Secure")
            .header("set-cookie", "=__Host-refresh_token=stolen")
            .header("set-cookie", "b=\"x y\"; Expires=Thu, 01 Jan 2099 00:00:00 GMT")
            .header("x-session-event", "forged")
            .header("x-set-access-cookie", "forged");
        response.body(Body::empty()).unwrap()
    })
    .await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    let request = get("/").header("cookie", format!("a=1;b = 2 ; {};; c", session_cookies.line()));
    let response =
        gateway.ask(request.header("cookie", "d=\"4\"; e").header("cookie", &*session_cookies.line())).await;
    assert_eq!(response.status, 401, "each session cookie was sent twice");

    let request = get("/").header("cookie", format!("a=1;b = 2 ; {};; c", session_cookies.line()));
    let response = gateway.ask(request.header("cookie", "d=\"4\"; e")).await;
    assert_eq!(upstream.seen().await.all("cookie"), ["a=1;b = 2 ;; c", "d=\"4\"; e"]);
    let set: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
    assert_eq!(set, ["theirs=1; Path=/", "b=\"x y\"; Expires=Thu, 01 Jan 2099 00:00:00 GMT"]);
    assert_eq!((response.header("x-session-event"), response.header("x-set-access-cookie")), (None, None));

    gateway.expire();
    let response = gateway.ask(get("/").header("cookie", session_cookies.line())).await;
    assert_eq!(response.header("x-session-event"), Some("rotated"));
    assert_eq!(response.headers.get_all("set-cookie").iter().count(), 4);
    assert!(SessionCookies::of(&response).is_some());
}

#[tokio::test]
async fn cacheable_and_not_modified_responses_carry_no_cookies() {
    let mut upstream = Upstream::responding_with(|seen| {
        let response = Response::builder().header("etag", "\"1\"");
        let response = match seen.target.as_str() {
            "/public" => response.header("cache-control", "public, max-age=60"),
            "/cdn" => response.header("cdn-cache-control", "max-age=60").header("x-accel-expires", "60"),
            _ if seen.headers.contains_key("if-none-match") => response.status(304),
            _ => response,
        };
        response.body(Body::empty()).unwrap()
    })
    .await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "")).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    let ask = async |path: &str, session_cookies: &SessionCookies| {
        gateway.ask(get(path).header("cookie", session_cookies.line()).header("if-none-match", "\"1\"")).await
    };
    // Refresh due, token still valid: the validator is forwarded, and the 304 carries no cookies.
    gateway.clock.advance(std::time::Duration::from_secs(840));
    let response = ask("/", &session_cookies).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (304, Some("rotated")));
    assert_eq!(SessionCookies::of(&response), None);
    assert_eq!(response.header("cache-control"), None);
    upstream.seen().await;
    // Token expired: the validator is removed, so that the response can carry cookies. The second refresh
    // replays the same generation.
    gateway.expire();
    let response = ask("/public", &session_cookies).await;
    assert_eq!((response.status.as_u16(), response.header("x-session-event")), (200, Some("replayed")));
    assert_eq!(
        (SessionCookies::of(&response), response.header("cache-control")),
        (None, Some("public, max-age=60"))
    );
    assert!(upstream.seen().await.all("if-none-match").is_empty());
    let response = ask("/cdn", &session_cookies).await;
    assert!(SessionCookies::of(&response).is_some());
    assert_eq!((response.header("cdn-cache-control"), response.header("x-accel-expires")), (None, None));
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
}
