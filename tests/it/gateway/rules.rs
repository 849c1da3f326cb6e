//! Methods, header edits and identity headers of a route.

use axum::body::Body;
use http::{Request, Response};
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;

use super::assert_anonymous;
use crate::support::gateway::{EMAIL, PUBLIC_HOST, TestGateway, TestGatewayBuilder, get, route};
use crate::support::http::TestResponse;
use crate::support::proxy_server::exchange;
use crate::support::upstream::{RecordedRequest, Upstream};

async fn ask(gateway: &TestGateway, method: &str, path: &str) -> TestResponse {
    gateway.ask(get(path).method(method)).await
}

// P-22.
#[tokio::test]
async fn route_allows_only_its_methods() {
    let mut upstream = Upstream::start().await;
    let routes = route("/", &upstream.url(), "auth = \"none\"")
        + &route("/read", &upstream.url(), "auth = \"none\"\nmethods = [\"GET\", \"HEAD\"]")
        + &route("/read/dav", &upstream.url(), "auth = \"none\"\nmethods = [\"PROPFIND\", \"OPTIONS\"]");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    for (method, path) in [
        ("GET", "/read"),
        ("HEAD", "/read/x"),
        ("PROPFIND", "/read/dav"),
        ("OPTIONS", "/read/dav/x"),
        ("POST", "/readme"),
        ("DELETE", "/"),
    ] {
        assert_eq!(ask(&gateway, method, path).await.status, 200, "{method} {path}");
        assert_eq!(upstream.seen().await.method, method);
    }
    for (method, path, allow) in [
        ("POST", "/read", "GET, HEAD"),
        ("OPTIONS", "/read", "GET, HEAD"),
        ("get", "/read", "GET, HEAD"),
        ("POST", "/%72ead;x", "GET, HEAD"),
        ("GET", "/read/dav", "PROPFIND, OPTIONS"),
        ("TRACE", "/read/dav", "PROPFIND, OPTIONS"),
        ("TRACE", "/", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("CONNECT", "/", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ] {
        let response = ask(&gateway, method, path).await;
        response.problem(405, "method_not_allowed");
        assert_eq!(response.header("allow"), Some(allow), "{method} {path}");
    }
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn allowed_preflight_is_answered_before_the_method_check() {
    let mut upstream = Upstream::start().await;
    let toml = "[server]\nallowed_origins = [\"https://pages.example\"]\n".to_owned()
        + &route("/", &upstream.url(), "methods = [\"GET\"]");
    let gateway = TestGatewayBuilder::new(toml).start().await;
    let preflight = |origin: &str| {
        let request = Request::options("/").header("host", "app.example").header("origin", origin);
        request.header("access-control-request-method", "GET")
    };
    let response = gateway.ask(preflight("https://pages.example")).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("access-control-allow-origin"), Some("https://pages.example"));
    // Preflights of other origins are ordinary requests: they need a session and an allowed method.
    assert_eq!(gateway.ask(preflight("https://evil.example")).await.status, 401);
    let session_cookies = gateway.signed_in(Role::User).await;
    let response =
        gateway.ask(Request::options("/").header("host", "a").header("cookie", session_cookies.line())).await;
    response.problem(405, "method_not_allowed");
    assert!(upstream.has_no_more_requests());
}

/// `routes.preflight`.
#[tokio::test]
async fn preflight_passes_without_a_session() {
    let mut upstream = Upstream::start().await;
    let more = "preflight = \"pass\"\nroles = [\"admin\"]\nmethods = [\"PUT\"]\npass_authorization = true";
    let routes = route("/pass", &upstream.url(), more)
        + &route("/session", &upstream.url(), "preflight = \"session\"");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    let preflight = |method: &str, path: &str, lines: &[(&str, &str)]| {
        let request = get(path).method(method).header("cookie", session_cookies.line());
        lines.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let origin = ("origin", "https://pages.example");
    let method = ("access-control-request-method", "PUT");
    let response = gateway.ask(preflight("OPTIONS", "/pass/x", &[origin, method])).await;
    assert_eq!(response.status, 200);
    let seen = upstream.seen().await;
    assert_eq!((seen.method.as_str(), &*seen.target), ("OPTIONS", "/pass/x"));
    assert_eq!(
        (seen.all("origin"), seen.all("access-control-request-method")),
        (vec![origin.1], vec![method.1])
    );
    assert_anonymous(&seen);
    for (verb, path, lines, status) in [
        ("OPTIONS", "/pass", &[origin][..], 405),
        ("OPTIONS", "/pass", &[method], 405),
        ("OPTIONS", "/pass", &[origin, method, ("x_http_method_override", "PUT")], 401),
        ("OPTIONS", "/pass", &[origin, method, ("upgrade", "websocket")], 401),
        ("PUT", "/pass", &[origin, method, ("sec-fetch-site", "same-origin")], 403),
        ("OPTIONS", "/session", &[origin, method], 401),
    ] {
        let response = gateway.ask(preflight(verb, path, lines)).await;
        assert_eq!(response.status, status, "{verb} {path} {lines:?}");
    }
    let request = get("/pass").method("OPTIONS").header(origin.0, origin.1).header(method.0, method.1);
    let response = gateway.send(request.body(Body::from("a body")).unwrap()).await;
    response.problem(401, "missing");
    assert!(upstream.has_no_more_requests());
    let server = gateway.listen(ServerLimits::default()).await;
    let lines = format!("{}: {}\r\n{}: {}\r\n", origin.0, origin.1, method.0, method.1);
    let request = format!("OPTIONS /pass HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{lines}\r\n");
    assert!(exchange(server, request).await.starts_with("HTTP/1.1 200"));
    assert_anonymous(&upstream.seen().await);
}

// P-4.
#[tokio::test]
async fn headers_are_removed_in_every_spelling_before_set() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    std::fs::write(&key, "hunter2\n").unwrap();
    let mut upstream = Upstream::responding_with(|_| {
        let response = Response::builder().header("server", "theirs").header("x-powered-by", "PHP");
        response
            .header("x-frame-options", "ALLOWALL")
            .header("set-cookie", "t=1")
            .body(Body::empty())
            .unwrap()
    })
    .await;
    let more = format!(
        "auth = \"none\"\nset_request_headers = {{ \"X-Api-Key\" = {{ file = '{}' }}, Host = \"app.internal\" }}\n\
         remove_request_headers = [\"X-Debug\", \"User-Agent\"]\n\
         set_response_headers = {{ X-Frame-Options = \"DENY\", X-New = \"1\" }}\n\
         remove_response_headers = [\"Server\", \"X-Powered-By\", \"Set-Cookie\"]\n",
        key.display()
    );
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), &more)).start().await;
    let request = get("/").header("x-api-key", "theirs").header("X_Api_Key", "theirs").header("x-debug", "1");
    let request = request.header("X_DEBUG", "1").header("x.debug", "1").header("user-agent", "curl");
    let response = gateway.ask(request.header("connection", "x-api-key").header("x-debugger", "1")).await;

    let seen = upstream.seen().await;
    assert_eq!((seen.all("x-api-key"), seen.all("x-debugger")), (vec!["hunter2"], vec!["1"]));
    assert_eq!(seen.all("host"), ["app.internal"]);
    assert_eq!(seen.all("x-forwarded-host"), [PUBLIC_HOST]);
    for removed in ["x_api_key", "x-debug", "x_debug", "x.debug", "user-agent"] {
        assert!(seen.all(removed).is_empty(), "{removed}");
    }
    assert_eq!((response.header("x-frame-options"), response.header("x-new")), (Some("DENY"), Some("1")));
    for removed in ["server", "x-powered-by", "set-cookie"] {
        assert_eq!(response.header(removed), None);
    }
}

#[tokio::test]
async fn session_cookies_survive_removal_of_set_cookie() {
    let upstream = Upstream::responding_with(|_| {
        Response::builder().header("set-cookie", "theirs=1").body(Body::empty()).unwrap()
    })
    .await;
    let more = "remove_response_headers = [\"Set-Cookie\", \"Cache-Control\"]";
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), more)).start().await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let response = gateway.ask(get("/").header("cookie", session_cookies.line())).await;
    assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
    assert!(crate::support::gateway::SessionCookies::of(&response).is_some());
    assert_eq!(response.header("cache-control"), Some("private, no-store"));
}

/// All identity headers of the routes below.
const IDENTITY_HEADERS: [&str; 12] = [
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "remote-user",
    "remote-email",
    "remote-groups",
    "x-shop-user",
    "x-shop-roles",
    "authorization",
];

fn identity_headers(seen: &RecordedRequest) -> Vec<(&'static str, String)> {
    let values = |name: &'static str| seen.all(name).into_iter().map(move |value| (name, value.to_owned()));
    IDENTITY_HEADERS.into_iter().flat_map(values).collect()
}

// P-4.
#[tokio::test]
async fn identity_headers_follow_the_route_and_never_the_client() {
    let mut upstream = Upstream::start().await;
    let custom = "identity = { user = \"X-Shop-User\", groups = \"X-Shop-Roles\" }";
    let gateway = TestGatewayBuilder::new(
        [
            ("/default", ""),
            ("/forwarded", "identity = \"x-forwarded\""),
            ("/request", "identity = \"x-auth-request\""),
            ("/remote", "identity = \"remote\""),
            ("/none", "identity = \"none\""),
            ("/shop", custom),
            ("/open", "auth = \"none\""),
            ("/may", "auth = \"optional\""),
        ]
        .map(|(path, more)| route(path, &upstream.url(), more))
        .concat(),
    )
    .start()
    .await;
    let session_cookies = gateway.signed_in(Role::Admin).await;
    let user = gateway.app.users.find_by_email(EMAIL).await.unwrap().id.to_string();
    let all = |names: [&'static str; 3]| {
        vec![(names[0], user.clone()), (names[1], EMAIL.to_owned()), (names[2], "admin".to_owned())]
    };
    let forwarded = all(["x-forwarded-user", "x-forwarded-email", "x-forwarded-groups"]);
    for (path, cookie, expected) in [
        ("/default", true, forwarded.clone()),
        ("/forwarded", true, forwarded.clone()),
        ("/request", true, all(["x-auth-request-user", "x-auth-request-email", "x-auth-request-groups"])),
        ("/remote", true, all(["remote-user", "remote-email", "remote-groups"])),
        ("/none", true, vec![]),
        ("/shop", true, vec![("x-shop-user", user.clone()), ("x-shop-roles", "admin".to_owned())]),
        ("/open", true, vec![]),
        ("/may", true, forwarded),
        ("/may", false, vec![]),
    ] {
        let mut request = get(path);
        if cookie {
            request = request.header("cookie", session_cookies.line());
        }
        for name in IDENTITY_HEADERS {
            let spellings =
                [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replacen('-', ".", 1)];
            for spelling in spellings.iter().filter(|_| name != "authorization") {
                request = request.header(spelling, "root");
            }
        }
        let request = request.header("connection", IDENTITY_HEADERS.join(", "));
        assert_eq!(gateway.ask(request).await.status, 200, "{path}");
        let seen = upstream.seen().await;
        assert_eq!(identity_headers(&seen), expected, "{path}");
        assert!(seen.headers.values().all(|value| value != "root"), "{path}: {:?}", seen.headers);
    }
}

#[tokio::test]
async fn invalid_route_headers_are_rejected_at_start() {
    let valid = route("/", "http://h", "");
    for (more, part) in [
        (
            "set_request_headers = { Connection = \"close\" }",
            "set_request_headers cannot contain `connection`",
        ),
        ("set_request_headers = { X-Forwarded-User = \"root\" }", "set_request_headers cannot contain"),
        ("set_request_headers = { X-A = \"1\", x_a = \"2\" }", "it is repeated"),
        ("remove_request_headers = [\"Host\"]", "every request needs it"),
        ("remove_response_headers = [\"X-Session-Event\"]", "only the gateway may set it"),
        ("set_response_headers = { Set-Cookie = \"a=1\" }", "cookies are set by applications"),
        ("identity = { user = \"Authorization\" }", "identity cannot contain `authorization`"),
    ] {
        let Err(error) =
            TestGatewayBuilder::new(valid.clone() + &route("/a", "http://h", more)).build().await
        else {
            panic!("{more}")
        };
        let error = error.to_string();
        // The first route takes four lines.
        assert!(error.contains("route `/a`") && error.contains("sekisho.toml, line 6"), "{error}");
        assert!(error.contains(part), "{more}: {error}");
    }
    let twice = route("/a", "http://h", "") + &route("/%61", "http://h", "");
    let Err(error) = TestGatewayBuilder::new(twice).build().await else {
        panic!("one path in two spellings")
    };
    assert!(error.to_string().contains("route `/%61` is defined twice"), "{error}");
}
