//! Precedence of built-in paths over routes, and the forwarding of paths.

use http::Request;
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;

use crate::support::gateway::{PUBLIC_HOST, TestGatewayBuilder, get, route};
use crate::support::proxy_server::exchange;
use crate::support::upstream::Upstream;

#[tokio::test]
async fn builtin_paths_win_over_a_parent_route() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"none\"")).start().await;
    gateway.ask(get("/auth/unknown")).await.problem(404, "not_found");
    gateway.ask(get("/auth")).await.problem(404, "not_found");
    for refused in ["/auth/unknown", "/auth/login"] {
        let response = gateway.ask(get(refused)).await;
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{refused}");
        assert_eq!(response.header("cache-control"), Some("private, no-store"), "{refused}");
    }
    gateway.ask(get("/auth/session")).await.problem(401, "missing");
    let keys = gateway.ask(get("/.well-known/jwks.json")).await;
    assert_eq!(keys.json(), serde_json::json!({ "keys": [] }));
    assert!(upstream.has_no_more_requests());
    // A configuration with routes enables only the built-in `auth` routes by default.
    for path in ["/.well-known/other", "/authors", "/AUTH/session", "/movies", "/token", "/docs", "/readyz"] {
        assert_eq!(gateway.ask(get(path)).await.status, 200, "{path}");
        assert_eq!(upstream.seen().await.target, path);
    }
}

#[tokio::test]
async fn builtin_list_selects_builtin_paths() {
    let mut upstream = Upstream::start().await;
    let setup = "[server]\nbuiltin = [\"token\", \"movies\"]\nauth_prefix = \"/members\"\n[pages]\nsign_in = \"off\"\n";
    let gateway = TestGatewayBuilder::new(setup.to_owned() + &route("/", &upstream.url(), "auth = \"none\""))
        .start()
        .await;
    gateway.ask(get("/movies")).await.problem(401, "missing");
    assert_eq!(gateway.ask(get("/token")).await.status, 405);
    assert!(upstream.has_no_more_requests());
    for path in ["/auth/session", "/members/session", "/.well-known/jwks.json", "/docs"] {
        assert_eq!(gateway.ask(get(path)).await.status, 200, "{path}");
        assert_eq!(upstream.seen().await.target, path);
    }
    let setup = "[server]\nauth_prefix = \"/members\"\n";
    let gateway = TestGatewayBuilder::new(setup.to_owned() + &route("/", &upstream.url(), "auth = \"none\""))
        .start()
        .await;
    gateway.ask(get("/members/session")).await.problem(401, "missing");
    assert_eq!(gateway.ask(get("/auth/session")).await.status, 200);
}

#[tokio::test]
async fn path_without_route_is_404() {
    let upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/api", &upstream.url(), "")).start().await;
    for path in ["/", "/apis", "/API", "/favicon.svg"] {
        gateway.ask(get(path)).await.problem(404, "no_route");
    }
    gateway.ask(get("/api")).await.problem(401, "missing");
}

#[tokio::test]
async fn path_spellings_follow_the_rules_of_their_route() {
    let mut upstream = Upstream::start().await;
    let routes = route("/", &upstream.url(), "auth = \"none\"\nencoded_slash = \"pass\"")
        + &route("/admin", &upstream.url(), "");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    for path in [
        "/admin",
        "/admin/",
        "/admin?x",
        "/%61dmin/x",
        "/adm%69n",
        "/admin;x=1/y",
        "/admin;x",
        "/%61%64%6d%69%6e;/x",
    ] {
        gateway.ask(get(path)).await.problem(401, "missing");
    }
    for path in [
        "/admin%2fx",
        "/%2fadmin",
        "/x%2f..%2fadmin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/..;/admin",
        "//admin",
        "/;/admin",
        "/./admin",
        "/\\admin",
        "/x%5c..%5cadmin",
        "/admin%00",
        "/admin%",
    ] {
        let Ok(request) = get(path).body(axum::body::Body::empty()) else { continue };
        gateway.send(request).await.problem(400, "bad_path");
    }
    assert!(upstream.has_no_more_requests());
    // Other paths, which are forwarded unchanged.
    for path in ["/administrator", "/%2561dmin", "/x%2fadmin", "/ADMIN", "/x;/admin"] {
        assert_eq!(gateway.ask(get(path)).await.status, 200, "{path}");
        assert_eq!(upstream.seen().await.target, path);
    }
}

#[tokio::test]
async fn bad_path_is_400_everywhere() {
    let upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/api", &upstream.url(), "auth = \"none\"")).start().await;
    let cookies = gateway.signed_in(Role::User).await;
    for path in [
        "/auth/%2e%2e/api",
        "/auth/../api",
        "/auth//session",
        "/auth%2fsession",
        "/auth/session%00",
        "/auth/session/%",
        "/api/..",
        "/api%5cx",
        "/elsewhere/.",
    ] {
        gateway.ask(get(path).header("cookie", cookies.line())).await.problem(400, "bad_path");
    }
    let star = Request::options("*").header("host", "app.example");
    gateway.ask(star).await.problem(400, "bad_path");
}

#[tokio::test]
async fn strip_prefix_and_encoded_slash_follow_the_route() {
    let mut upstream = Upstream::start().await;
    let strip = "auth = \"none\"\nstrip_prefix = true\nencoded_slash = \"pass\"";
    let gateway = TestGatewayBuilder::new(route("/git", &upstream.url(), strip)).start().await;
    for (path, target) in [
        ("/git", "/"),
        ("/git?x=%2F", "/?x=%2F"),
        ("/git/a%2Fb?x=/../y", "/a%2Fb?x=/../y"),
        ("/git/auth/session", "/auth/session"),
    ] {
        assert_eq!(gateway.ask(get(path)).await.status, 200);
        assert_eq!(upstream.seen().await.target, target);
    }
    gateway.ask(get("/git%2fx")).await.problem(400, "bad_path");
    gateway.ask(get("/git/a%2f..%2fb")).await.problem(400, "bad_path");
}

#[tokio::test]
async fn absolute_target_path_decides_and_its_host_is_forwarded() {
    let mut upstream = Upstream::start().await;
    let routes = route("/", &upstream.url(), "") + &route("/open", &upstream.url(), "auth = \"none\"");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    gateway.ask(get("http://evil.example/admin")).await.problem(401, "missing");
    gateway.ask(get("http://evil.example/auth/unknown")).await.problem(404, "not_found");
    assert!(upstream.has_no_more_requests());
    assert_eq!(gateway.ask(get("http://evil.example/open")).await.status, 200);
    let seen = upstream.seen().await;
    assert_eq!((seen.target.as_str(), seen.all("host")), ("/open", vec!["evil.example"]));
    assert_eq!(seen.all("x-forwarded-host"), [PUBLIC_HOST]);
}

/// C17: other spellings of built-in paths reached the upstream.
#[tokio::test]
async fn builtin_paths_win_in_any_spelling() {
    let mut upstream = Upstream::start().await;
    let setup = "[server]\nbuiltin = [\"auth\", \"token\", \"movies\", \"docs\"]\n";
    let open = "auth = \"none\"\nencoded_slash = \"pass\"";
    let gateway =
        TestGatewayBuilder::new(setup.to_owned() + &route("/", &upstream.url(), open)).start().await;
    let address = gateway.listen(ServerLimits::default()).await;
    for (own, status) in [
        ("/%74oken", "404"),
        ("/toke%6E", "404"),
        ("/token;a=b", "404"),
        ("/token;/x", "404"),
        ("/token%3Bx", "404"),
        ("/auth;a/login", "404"),
        ("/%61uth/session", "404"),
        ("/auth/%73ession", "404"),
        ("/a%75th;x=1/se%73sion", "404"),
        ("/auth%2fsession", "400"),
        ("/%2fauth/session", "400"),
        ("/auth%2Flogin", "400"),
        ("/%6dovies", "404"),
        ("/movies;x/1", "404"),
        ("/movies%2f1", "400"),
        ("/%64ocs", "404"),
        ("/docs;jsessionid=1", "404"),
        ("/openapi%2ejson", "404"),
        ("/openapi.json;a", "404"),
        ("/%2ewell-known/jwks.json", "404"),
        ("/.well-known;x/jwks.json", "404"),
        ("/.well-known/jwks%2Ejson", "404"),
        ("/.well%2dknown/change-password", "404"),
        ("/.well-known%2fjwks.json", "400"),
    ] {
        let response = exchange(address, raw_get(own)).await;
        assert_eq!(response.get(9..12), Some(status), "{own}: {response}");
        assert!(upstream.has_no_more_requests(), "{own}");
    }
    // Other paths are the upstream's.
    for path in ["/%2574oken", "/tokens", "/x/%74oken", "/TOKEN", "/%54oken", "/a%2fauth", "/x;/auth"] {
        assert!(exchange(address, raw_get(path)).await.starts_with("HTTP/1.1 200"), "{path}");
        assert_eq!(upstream.seen().await.target, path);
    }
    // A cross-site request is rejected with every spelling.
    let forged = "POST /%61uth;x/login HTTP/1.1\r\nHost: app.example\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: \
                  cross-site\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let response = exchange(address, forged).await;
    assert!(response.starts_with("HTTP/1.1 403") && response.contains("cross_site"), "{response}");
    assert!(upstream.has_no_more_requests());
}

/// C17: overlong UTF-8, which lenient decoders read as `/` or `.`, was forwarded.
#[tokio::test]
async fn overlong_utf8_is_400() {
    let mut upstream = Upstream::start().await;
    let open = "auth = \"none\"\nencoded_slash = \"pass\"";
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), open)).start().await;
    let address = gateway.listen(ServerLimits::default()).await;
    for path in [
        "/%c0%af",
        "/a%C0%AFb",
        "/x/%c0%ae%c0%ae/y",
        "/%c1%9c",
        "/%e0%80%af",
        "/%f0%80%80%af",
        "/%f8%80%80%80%af",
        "/%fc%80%80%80%80%af",
        "/%c0%80",
        "/auth%c0%afsession",
        "/a;%c0%af/b",
    ] {
        let response = exchange(address, raw_get(path)).await;
        assert!(response.starts_with("HTTP/1.1 400") && response.contains("bad_path"), "{path}: {response}");
        assert!(upstream.has_no_more_requests(), "{path}");
    }
    for path in ["/caf%c3%a9", "/%e0%a0%80", "/%f0%9f%98%80", "/%ff", "/%C0propos", "/?%c0%af"] {
        assert!(exchange(address, raw_get(path)).await.starts_with("HTTP/1.1 200"), "{path}");
        assert_eq!(upstream.seen().await.target, path);
    }
}

fn raw_get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
}
