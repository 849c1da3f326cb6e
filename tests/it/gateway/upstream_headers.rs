//! Headers that the gateway adds to upstream requests: client address, request ID, and tokens.

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, Version};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sekisho::models::user::Role;
use sekisho::services::keys::Algorithm;

use crate::support::gateway::{EMAIL, TestGatewayBuilder, get, route};
use crate::support::upstream::Upstream;

#[tokio::test]
async fn upstream_token_has_the_audience_of_the_route() {
    let mut upstream = Upstream::start().await;
    let toml =
        "[tokens]\nalgorithm = \"ES256\"\n".to_owned() + &route("/", &upstream.url(), "bearer = \"films\"");
    let gateway = TestGatewayBuilder::new(toml).signing(Algorithm::Es256).start().await;
    let cookies = gateway.signed_in(Role::User).await;
    gateway.ask(get("/").header("cookie", cookies.line()).header("authorization", "Basic YTpi")).await;
    let seen = upstream.seen().await;
    let [authorization] = seen.all("authorization")[..] else { panic!("{:?}", seen.headers) };
    let token = authorization.strip_prefix("Bearer ").unwrap();

    let keys = gateway.ask(get("/.well-known/jwks.json")).await.json();
    let claims = verified_claims(token, &keys["keys"][0]);
    let user = gateway.app.users.find_by_email(EMAIL).await.unwrap();
    assert_eq!(claims["aud"], "films");
    assert_eq!(claims["iss"], "sekisho");
    assert_eq!(claims["sub"], user.id.to_string());
    assert_eq!(claims["roles"], serde_json::json!(["user"]));
    assert!(claims["exp"].as_i64() > claims["iat"].as_i64());

    // The gateway does not accept an upstream token as its own, in either header.
    gateway.ask(get("/").header("authorization", authorization)).await.problem(401, "malformed");
    let cookie = format!("__Host-access_token={token}");
    gateway.ask(get("/auth/session").header("cookie", cookie)).await.problem(401, "malformed");
    assert!(upstream.has_no_more_requests());
}

/// Verifies the token's signature with a published key, and returns its claims.
fn verified_claims(token: &str, key: &serde_json::Value) -> serde_json::Value {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let point = [vec![4], decode(key["x"].as_str().unwrap()), decode(key["y"].as_str().unwrap())].concat();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    public.verify(signed.as_bytes(), &decode(signature)).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: serde_json::Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!((&header["alg"], &header["kid"]), (&"ES256".into(), &key["kid"]));
    serde_json::from_slice(&decode(claims)).unwrap()
}

#[tokio::test]
async fn shared_key_issues_no_upstream_tokens() {
    let mut upstream = Upstream::start().await;
    let toml =
        "[tokens]\nalgorithm = \"ES256\"\n".to_owned() + &route("/", &upstream.url(), "bearer = \"films\"");
    // The newest key in the key directory can predate a change of the algorithm.
    let gateway = TestGatewayBuilder::new(toml).signing(Algorithm::Hs256).start().await;
    let cookies = gateway.signed_in(Role::User).await;
    gateway.ask(get("/").header("cookie", cookies.line()).header("authorization", "Bearer x")).await;
    let seen = upstream.seen().await;
    assert!(seen.all("authorization").is_empty());
    assert_eq!(seen.all("x-forwarded-email"), [EMAIL]);
}

#[tokio::test]
async fn client_authorization_is_forwarded_only_if_configured() {
    let mut upstream = Upstream::start().await;
    let routes = route("/kept", &upstream.url(), "auth = \"none\"\npass_authorization = true")
        + &route("/", &upstream.url(), "auth = \"none\"");
    let gateway = TestGatewayBuilder::new(routes).start().await;
    for (path, expected) in [("/kept", &["Basic YTpi"][..]), ("/other", &[])] {
        gateway.ask(get(path).header("authorization", "Basic YTpi")).await;
        assert_eq!(upstream.seen().await.all("authorization"), expected);
    }
}

const FORGED_HEADERS: [(&str, &str); 6] = [
    ("x-forwarded-for", "10.0.0.9"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-real-ip", "10.0.0.9"),
    ("forwarded", "for=10.0.0.9;proto=https;host=evil.example"),
    ("x_forwarded_for", "10.0.0.9"),
];

async fn forwarded_headers(trusted: &str, more: &[(&str, &str)]) -> Vec<String> {
    let mut upstream = Upstream::start().await;
    let toml = format!("[server]\ntrusted_proxies = [{trusted}]\n");
    let gateway =
        TestGatewayBuilder::new(toml + &route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let request = more.iter().fold(get("/"), |request, (name, value)| request.header(*name, *value));
    gateway.ask(request).await;
    let seen = upstream.seen().await;
    assert!(seen.all("x_forwarded_for").is_empty());
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];
    names.map(|name| seen.all(name).join("|")).to_vec()
}

#[tokio::test]
async fn forwarded_headers_are_set_by_trusted_proxies_only() {
    let direct =
        ["192.0.2.7", "http", "app.example", "192.0.2.7", "for=192.0.2.7;host=\"app.example\";proto=http"];
    assert_eq!(forwarded_headers("", &[]).await, direct);
    assert_eq!(forwarded_headers("", &FORGED_HEADERS).await, direct);
    assert_eq!(forwarded_headers("\"10.0.0.0/8\"", &FORGED_HEADERS).await, direct);
    let genuine = [
        ("x-forwarded-for", "203.0.113.5, 198.51.100.4"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
    ];
    let expected = [
        "198.51.100.4",
        "https",
        "shop.example",
        "198.51.100.4",
        "for=198.51.100.4;host=\"shop.example\";proto=https",
    ];
    assert_eq!(forwarded_headers("\"192.0.2.0/24\"", &genuine).await, expected);
}

#[tokio::test]
async fn request_without_host_is_forwarded_with_its_address() {
    let mut upstream = Upstream::start().await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let request = Request::get("/").version(Version::HTTP_10);
    assert_eq!(gateway.ask(request).await.status, 200);
    let seen = upstream.seen().await;
    assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
}

#[tokio::test]
async fn request_id_is_set_by_the_gateway() {
    let mut upstream = Upstream::responding_with(|_| {
        Response::builder().header("x-request-id", "theirs").body(Body::empty()).unwrap()
    })
    .await;
    let gateway = TestGatewayBuilder::new(route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let request = get("/").header("x-request-id", "forged").header("X_Request_Id", "forged");
    let response = gateway.ask(request.header("connection", "x-request-id")).await;
    let seen = upstream.seen().await;
    let id = response.header("x-request-id").unwrap();
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(seen.all("x-request-id"), [id]);
    assert!(seen.all("x_request_id").is_empty());
}
