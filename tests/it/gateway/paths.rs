//! Precedence of built-in paths over routes, and the forwarding of paths.

use http::Request;
use sekisho::models::user::Role;

use crate::support::gateway::{TestGatewayBuilder, get, route};
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
    assert_eq!(seen.all("x-forwarded-host"), ["evil.example"]);
}
