//! Authorization of WebSocket upgrades, through the whole gateway.

use sekisho::models::user::Role;
use sekisho::server::ServerLimits;

use crate::support::gateway::{NAMES, SessionCookies, TestGateway, TestGatewayBuilder, route};
use crate::support::http::TestResponse;
use crate::support::websocket::{EchoUpstream, assert_echoes, line, open, refused, until_closed};

const OWN: &str = "http://127.0.0.1:8080";
const PAGE: &str = "https://page.example.com";

async fn start_gateway(upstream: &EchoUpstream, more: &str) -> TestGateway {
    let routes = route("/", &upstream.url(), more);
    TestGatewayBuilder::new(format!("[server]\nallowed_origins = [\"{PAGE}\"]\n{routes}")).start().await
}

fn to_response(refused: http::Response<Option<Vec<u8>>>) -> TestResponse {
    let (parts, body) = refused.into_parts();
    TestResponse { status: parts.status, headers: parts.headers, body: body.unwrap_or_default() }
}

/// B-6.
#[tokio::test]
async fn upgrade_without_session_is_401() {
    let mut upstream = EchoUpstream::start().await;
    let server = start_gateway(&upstream, "").await.listen(ServerLimits::default()).await;
    for (lines, event) in [
        (vec![("origin", OWN)], "missing"),
        (vec![("origin", OWN), ("cookie", "__Host-access_token=x")], "malformed"),
        (vec![("authorization", "Bearer x.y.z")], "malformed"),
    ] {
        let response = to_response(refused(server, "/chat", &lines).await);
        response.problem(401, event);
        assert!(response.set_cookies().is_empty());
    }
    assert!(upstream.has_no_more_requests());
}

/// Browsers send cookies with WebSocket handshakes of any page, so the origin decides (B-6).
#[tokio::test]
async fn upgrade_with_cookies_requires_a_trusted_origin() {
    let mut upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let cookies = gateway.signed_in(Role::User).await.line();
    let host = format!("http://{server}");
    for origins in [
        &[][..],
        &["null"],
        &["https://evil.example"],
        &["https://evil.example.com"],
        &["https://page.example.com.evil.example"],
        &["http://page.example.com"],
        &["https://page.example.com:8443"],
        &["https://page.example.com/"],
        &["http://127.0.0.1:8080.evil.example"],
        &["nonsense"],
        &[""],
        // An origin that matches the `Host` header, which the client chooses.
        &[host.as_str()],
        &[OWN, "https://evil.example"],
        &["https://evil.example", OWN],
    ] {
        let mut lines: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        lines.push(("cookie", &cookies));
        let response = to_response(refused(server, "/chat", &lines).await);
        response.problem(403, "cross_site");
    }
    assert!(upstream.has_no_more_requests());
    for origin in [OWN, PAGE] {
        let (mut socket, _) =
            open(server, "/chat", &[("origin", origin), ("cookie", &cookies)]).await.unwrap();
        assert_echoes(&mut socket).await;
        let head = upstream.head().await;
        assert_eq!(line(&head, "x-forwarded-email"), Some("taro@example.jp"));
        assert_eq!((line(&head, "cookie"), line(&head, "origin")), (None, Some(origin)));
    }
}

#[tokio::test]
async fn upgrade_without_cookies_needs_no_origin() {
    let upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let bearer = format!("Bearer {}", gateway.signed_in(Role::User).await.access);
    for lines in
        [&[("authorization", bearer.as_str())][..], &[("authorization", &bearer), ("origin", "app://x")]]
    {
        let (mut socket, _) = open(server, "/chat", lines).await.unwrap();
        assert_echoes(&mut socket).await;
    }
}

#[tokio::test]
async fn open_route_ignores_the_origin() {
    let mut upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "auth = \"none\"").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let cookies = gateway.signed_in(Role::User).await.line();
    let (mut socket, _) =
        open(server, "/", &[("cookie", &cookies), ("origin", "https://evil.example")]).await.unwrap();
    assert_echoes(&mut socket).await;
    let head = upstream.head().await;
    assert_eq!((line(&head, "cookie"), line(&head, "x-forwarded-user")), (None, None));
}

#[tokio::test]
async fn optional_route_allows_cookieless_upgrades() {
    let mut upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "auth = \"optional\"").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let cookies = gateway.signed_in(Role::User).await.line();
    let foreign = ("origin", "https://evil.example");
    let (mut socket, _) = open(server, "/", &[foreign]).await.unwrap();
    assert_echoes(&mut socket).await;
    assert_eq!(line(&upstream.head().await, "x-forwarded-user"), None);
    to_response(refused(server, "/", &[foreign, ("cookie", &cookies)]).await).problem(403, "cross_site");
}

#[tokio::test]
async fn refresh_during_upgrade_sets_cookies_with_101() {
    let upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let (mut socket, response) =
        open(server, "/", &[("origin", OWN), ("cookie", &session_cookies.line())]).await.unwrap();
    let refreshed = to_response(response);
    assert_eq!((refreshed.status.as_u16(), refreshed.event()), (101, Some("rotated")));
    let fresh = SessionCookies::of(&refreshed).unwrap();
    assert_ne!(fresh.refresh, session_cookies.refresh);
    assert_echoes(&mut socket).await;

    let tokens = &gateway.app.tokens;
    let session = tokens.identify_session(Some(&fresh.refresh), None).unwrap();
    let by = sekisho::client_info::ClientInfo::default();
    tokens.end(session, sekisho::models::session::EndReason::Revoked, &by).await.unwrap();
    assert_eq!(until_closed(&mut socket).await, Some((4401, "revoked".to_owned())));
    let line = format!("{}={}", NAMES[0], fresh.access);
    let ended = to_response(refused(server, "/", &[("origin", OWN), ("cookie", &line)]).await);
    ended.problem(401, "revoked");
}

///
#[tokio::test]
async fn rejected_upgrade_is_not_refreshed() {
    let upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let session_cookies = gateway.signed_in(Role::User).await;
    gateway.expire();
    let lines = [("origin", "https://evil.example"), ("cookie", &session_cookies.line())];
    let response = to_response(refused(server, "/", &lines).await);
    response.problem(403, "cross_site");
    assert_eq!((response.event(), SessionCookies::of(&response)), (None, None));
    let session = gateway.app.tokens.identify_session(Some(&session_cookies.refresh), None).unwrap();
    assert_eq!(gateway.app.tokens.find(session).await.unwrap().unwrap().generation, 1);
}

#[tokio::test]
async fn role_is_checked_before_the_upgrade() {
    let mut upstream = EchoUpstream::start().await;
    let gateway = start_gateway(&upstream, "roles = [\"admin\"]").await;
    let server = gateway.listen(ServerLimits::default()).await;
    let cookies = gateway.signed_in(Role::User).await.line();
    let response = to_response(refused(server, "/", &[("origin", OWN), ("cookie", &cookies)]).await);
    response.problem(403, "forbidden");
    assert!(upstream.has_no_more_requests());
}
