//! Guards, the extractor outside of the layer, and roles.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response};
use sekisho::identity::InvalidRole;
use sekisho::layer::{
    CookiePolicy, CurrentUser, Forbidden, RejectedRequest, RequireRole, RequireUser, SilentRefreshLayer,
};

use super::{capture_log, fixture, render, send, summary};

fn app() -> Router {
    let any = RequireRole::any(["admin", "owner"]).unwrap();
    let all = RequireRole::all(["admin", "owner"]).unwrap();
    let both = RequireRole::all(["editor", "admin"]).unwrap();
    let done = || get(async || "done");
    let guarded = Router::new().route("/user", done()).route_layer(RequireUser);
    guarded
        .merge(Router::new().route("/any", done()).route_layer(any))
        .merge(Router::new().route("/all", done()).route_layer(all))
        .merge(Router::new().route("/both", done()).route_layer(both))
        .route("/handler", get(handler))
        .route("/may", get(async |user: Option<CurrentUser>| user.map_or("anonymous", |_| "user")))
}

async fn handler(user: CurrentUser) -> Result<&'static str, Forbidden> {
    user.require_role("editor")?;
    Ok("done")
}

async fn ask(path: &str, cookies: &str) -> Response<String> {
    let request = Request::get(path).header("cookie", cookies).body(Body::empty()).unwrap();
    send(app().layer(fixture().layer()), request).await
}

/// An outer layer has accepted the request with cookies of its own, in which the inner one finds no session.
#[tokio::test]
async fn user_of_an_outer_layer_does_not_pass_the_guards_of_an_inner_one() {
    let inner = SilentRefreshLayer::new(fixture().tokens, CookiePolicy::default());
    let app = app().layer(inner).layer(fixture().layer());
    for path in ["/user", "/any", "/handler"] {
        let request = Request::get(path).header("cookie", "access_token=admin").body(Body::empty()).unwrap();
        assert_eq!(send(app.clone(), request).await.status(), 401, "{path}");
    }
}

/// The application's own handling of rejected requests may let them continue.
#[tokio::test]
async fn session_that_cannot_be_checked_is_not_anonymous() {
    let layer = fixture().layer().with_on_reject(|_: &RejectedRequest<'_>| None::<Response<Body>>);
    let request = Request::get("/may").header("cookie", "refresh_token=store-down").body(Body::empty());
    let response = send(app().layer(layer), request.unwrap()).await;
    assert_eq!(summary(&response), r#"503 "problem" store_unavailable untouched"#);
}

#[tokio::test]
async fn guards_decide_by_user_and_roles() {
    for (path, cookies, expected) in [
        ("/user", "", r#"401 "problem" missing untouched"#),
        ("/user", "refresh_token=logged-out", r#"401 "problem" logged_out cleared"#),
        ("/user", "access_token=valid", r#"200 "done" - untouched"#),
        ("/user", "refresh_token=good", r#"200 "done" rotated set"#),
        ("/any", "", r#"401 "problem" missing untouched"#),
        ("/any", "access_token=valid", r#"403 "problem" - untouched"#),
        ("/any", "refresh_token=good", r#"403 "problem" rotated set"#),
        ("/any", "access_token=admin", r#"200 "done" - untouched"#),
        ("/all", "access_token=admin", r#"403 "problem" - untouched"#),
        ("/both", "access_token=admin", r#"200 "done" - untouched"#),
        ("/handler", "", r#"401 "problem" missing untouched"#),
        ("/handler", "access_token=valid", r#"403 "problem" - untouched"#),
        ("/handler", "access_token=admin", r#"200 "done" - untouched"#),
        // A guard is for its own routes alone.
        ("/may", "", r#"200 "anonymous" missing untouched"#),
        ("/may", "refresh_token=logged-out", r#"200 "anonymous" logged_out untouched"#),
        ("/elsewhere", "", r#"404 "" missing untouched"#),
    ] {
        assert_eq!(summary(&ask(path, cookies).await), expected, "{path} {cookies}");
    }
}

#[tokio::test]
async fn forbidden_response_is_a_problem() {
    for path in ["/any", "/handler"] {
        let mut response = ask(path, "access_token=valid").await;
        response.headers_mut().remove("content-length");
        insta::allow_duplicates! {
            insta::assert_snapshot!(render(&response), @r#"
            403 Forbidden
            cache-control: private, no-store
            content-type: application/problem+json
            vary: Cookie

            {"type":"about:blank","title":"Forbidden","status":403,"detail":"Your account does not have access to this path.","code":"forbidden"}
            "#);
        }
    }
}

#[tokio::test]
async fn missing_layer_is_500_and_named_in_the_log() {
    for path in ["/user", "/any", "/handler", "/may"] {
        let (log, guard) = capture_log();
        let request = Request::get(path).header("cookie", "access_token=valid").body(Body::empty()).unwrap();
        let response = send(app(), request).await;
        drop(guard);
        assert_eq!(response.status(), 500, "{path}");
        assert!(response.body().contains(r#""code":"internal""#), "{}", response.body());
        let log = io::read_to_string(log).unwrap();
        assert!(log.contains("ERROR") && log.contains("SilentRefreshLayer is missing"), "{log}");
        assert!(log.contains(path), "{log}");
    }
}

#[tokio::test]
async fn preflight_and_bearer_requests_have_passed_the_layer() {
    let preflight = Request::options("/may")
        .header("origin", "https://example.org")
        .header("access-control-request-method", "PUT");
    let bearer = Request::get("/may").header("authorization", "Bearer valid");
    for (request, body) in [(preflight, "anonymous"), (bearer, "user")] {
        let may = axum::routing::any(async |user: Option<CurrentUser>| user.map_or("anonymous", |_| "user"));
        let app = Router::new().route("/may", may).layer(fixture().layer());
        let response = send(app, request.body(Body::empty()).unwrap()).await;
        assert_eq!((response.status().as_u16(), response.body().as_str()), (200, body));
    }
}

#[test]
fn illegal_roles_are_named_with_the_rule() {
    let error = RequireRole::any(["admin", "a,b"]).unwrap_err();
    let text = r#""a,b" is not a role name: use visible ASCII without commas, quotes and backslashes"#;
    assert_eq!(error.to_string(), text);
    assert_eq!(RequireRole::all([""]).unwrap_err(), InvalidRole::Name(String::new()));
    let none: [&str; 0] = [];
    assert_eq!(RequireRole::any(none).unwrap_err(), InvalidRole::Empty);
    assert_eq!(RequireRole::all(none).unwrap_err().to_string(), "no role is named: name at least one");
}
