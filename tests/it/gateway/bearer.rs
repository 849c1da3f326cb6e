//! Upstream tokens: one for each access token and audience.

use std::time::Duration;

use sekisho::clock::Clock;
use sekisho::models::user::Role;
use sekisho::services::keys::{Algorithm, KeyMaterial, KeyRing, SigningKey};

use crate::support::gateway::{SessionCookies, TestGateway, TestGatewayBuilder, get, route};
use crate::support::upstream::Upstream;

async fn issuing_gateway(upstreams: &[&Upstream]) -> TestGateway {
    let mut toml = "[tokens]\nalgorithm = \"ES256\"\n".to_owned();
    for (number, upstream) in upstreams.iter().enumerate() {
        toml += &route(&format!("/{number}"), &upstream.url(), &format!("bearer = \"audience-{number}\""));
    }
    TestGatewayBuilder::new(toml).signing(Algorithm::Es256).start().await
}

/// Returns the bearer token that the upstream of `path` receives, and the cookies set by the response.
async fn bearer(
    gateway: &TestGateway,
    upstream: &mut Upstream,
    path: &str,
    cookies: &SessionCookies,
) -> (String, Option<SessionCookies>) {
    let response = gateway.ask(get(path).header("cookie", cookies.line())).await;
    assert_eq!(response.status, 200);
    let seen = upstream.seen().await;
    let [bearer] = seen.all("authorization")[..] else { panic!("{:?}", seen.headers) };
    assert!(bearer.starts_with("Bearer ey"), "{bearer}");
    (bearer.to_owned(), SessionCookies::of(&response))
}

#[tokio::test]
async fn upstream_token_is_cached_per_access_token() {
    let (mut films, mut books) = (Upstream::start().await, Upstream::start().await);
    let gateway = issuing_gateway(&[&films, &books]).await;
    let cookies = gateway.signed_in(Role::User).await;
    let (first, _) = bearer(&gateway, &mut films, "/0", &cookies).await;
    gateway.clock.advance(Duration::from_secs(60));
    assert_eq!(bearer(&gateway, &mut films, "/0/x", &cookies).await.0, first);
    assert_ne!(bearer(&gateway, &mut books, "/1", &cookies).await.0, first, "tokens differ by audience");

    gateway.expire();
    let (refreshed, fresh) = bearer(&gateway, &mut films, "/0", &cookies).await;
    assert_ne!(refreshed, first);
    let fresh = fresh.unwrap();
    assert_eq!(bearer(&gateway, &mut films, "/0", &fresh).await.0, refreshed);
}

#[tokio::test]
async fn key_change_issues_a_new_upstream_token() {
    let mut upstream = Upstream::start().await;
    let gateway = issuing_gateway(&[&upstream]).await;
    let cookies = gateway.signed_in(Role::User).await;
    let (first, _) = bearer(&gateway, &mut upstream, "/0", &cookies).await;
    let next = KeyMaterial::generate(2, Algorithm::Es256, gateway.clock.now()).unwrap();
    let keys = [&gateway.key, &next].map(|key| SigningKey::new(key).unwrap()).into();
    gateway.app.tokens.keys().replace(KeyRing::new(keys, Duration::ZERO).unwrap());
    let (second, _) = bearer(&gateway, &mut upstream, "/0", &cookies).await;
    assert_ne!(second, first);
    let header = |bearer: &str| bearer.split('.').next().unwrap().to_owned();
    assert_ne!(header(&second), header(&first), "signed by the new key");
    assert_eq!(bearer(&gateway, &mut upstream, "/0", &cookies).await.0, second);
}

#[tokio::test]
async fn sessions_do_not_share_upstream_tokens() {
    let mut upstream = Upstream::start().await;
    let gateway = issuing_gateway(&[&upstream]).await;
    let first = gateway.signed_in(Role::User).await;
    // Another session of the same user.
    let form =
        format!("email={}&password={}", crate::support::gateway::EMAIL, crate::support::gateway::PASSWORD);
    let request = crate::support::gateway::post("/auth/login");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let second = gateway.send(request.body(axum::body::Body::from(form)).unwrap()).await;
    let second = SessionCookies::of(&second).unwrap();
    let (one, _) = bearer(&gateway, &mut upstream, "/0", &first).await;
    let (other, _) = bearer(&gateway, &mut upstream, "/0", &second).await;
    assert_ne!(one, other);
    assert_eq!(bearer(&gateway, &mut upstream, "/0", &first).await.0, one);
}
