//! Claims of the application's own, as handlers read them.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, StatusCode};
use sekisho::identity::{Claims, NoClaims};
use sekisho::layer::{CookiePolicy, NotSignedIn};
use sekisho::{CurrentUser, SessionRequest, Sessions, Tokens};
use serde::Deserialize;

use super::{capture_log, send};

#[derive(Deserialize)]
struct Plan {
    seats: u32,
}

async fn required(user: CurrentUser<Plan>) -> String {
    format!("{} {}", user.subject, user.claims.seats)
}

async fn optional(user: Option<CurrentUser<Option<Plan>>>) -> String {
    let seats = |user: CurrentUser<Option<Plan>>| user.claims.map(|plan| plan.seats);
    format!("{:?}", user.map(seats))
}

async fn ignored(user: CurrentUser) -> String {
    let NoClaims = user.claims;
    user.identity.claims.as_json().unwrap_or("none").to_owned()
}

async fn explained(user: Result<CurrentUser<Plan>, NotSignedIn>) -> String {
    user.map_or_else(|error| error.to_string(), |user| user.claims.seats.to_string())
}

/// Returns the status and body of the response to a user with these claims, or to an anonymous request.
async fn response(path: &str, claims: Option<Claims>) -> (StatusCode, String) {
    let tokens = Tokens::in_memory().unwrap();
    let mut request = Request::get(path);
    if let Some(claims) = claims {
        let sign_in = SessionRequest { claims, ..SessionRequest::new(42, "ann@example.org") };
        let access_token = tokens.sign_in(sign_in).await.unwrap().tokens.access_token;
        request = request.header("cookie", format!("__Host-access_token={access_token}"));
    }
    let app = Router::new()
        .route("/required", get(required))
        .route("/optional", get(optional))
        .route("/ignored", get(ignored))
        .route("/explained", get(explained))
        .layer(Sessions::new(tokens, CookiePolicy::default()).layer());
    let response = send(app, request.body(Body::empty()).unwrap()).await;
    (response.status(), response.into_body())
}

fn seats(seats: impl serde::Serialize) -> Option<Claims> {
    Some(Claims::new(&serde_json::json!({"seats": seats})).unwrap())
}

#[tokio::test]
async fn claims_are_read_as_the_type_of_the_handler() {
    let ok = async |path, claims| {
        let (status, body) = response(path, claims).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    };
    let none = || Some(Claims::default());
    assert_eq!(ok("/required", seats(5)).await, "42 5");
    assert_eq!(ok("/optional", seats(5)).await, "Some(Some(5))");
    assert_eq!(ok("/optional", none()).await, "Some(None)");
    assert_eq!(ok("/optional", None).await, "None");
    assert_eq!(ok("/ignored", seats("many")).await, r#"{"seats":"many"}"#);
    assert_eq!(ok("/ignored", none()).await, "none");
    assert_eq!(response("/required", None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn claims_of_another_type_are_an_error_that_names_it() {
    for (path, claims) in
        [("/required", seats("many")), ("/required", Some(Claims::default())), ("/optional", seats(-1))]
    {
        let (log, guard) = capture_log();
        let (status, body) = response(path, claims).await;
        drop(guard);
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("internal") && !body.contains("seats"), "{body}");
        let log = io::read_to_string(log).unwrap();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        let [line] = lines[..] else { panic!("expected one error: {log}") };
        assert!(line.contains("claims::Plan") && line.contains(&format!("path={path:?}")), "{line}");
    }
    let (status, body) = response("/explained", seats("many")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body, "the claims of the session are not of the type that the handler reads");
}
