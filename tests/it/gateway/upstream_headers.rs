//! Headers that the gateway adds to upstream requests: client address, request ID, and tokens.

use std::net::SocketAddr;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, Version};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sekisho::models::user::Role;
use sekisho::server::ServerLimits;
use sekisho::services::keys::Algorithm;

use crate::support::db;
use crate::support::gateway::{EMAIL, PUBLIC_HOST, TestGateway, TestGatewayBuilder, get, route};
use crate::support::process::TestDeployment;
use crate::support::proxy_server::exchange;
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

/// Names of the headers about the client.
const FORWARDED_HEADERS: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded"];

/// Returns the headers about the client that the upstream receives with a configuration of `[server]`.
async fn forwarded_headers(server: &str, more: &[(&str, &str)]) -> Vec<String> {
    let mut upstream = Upstream::start().await;
    let toml = format!("[server]\n{server}\n");
    let gateway =
        TestGatewayBuilder::new(toml + &route("/", &upstream.url(), "auth = \"none\"")).start().await;
    let request = more.iter().fold(get("/"), |request, (name, value)| request.header(*name, *value));
    gateway.ask(request).await;
    let seen = upstream.seen().await;
    assert!(seen.all("x_forwarded_for").is_empty());
    FORWARDED_HEADERS.map(|name| seen.all(name).join("|")).to_vec()
}

/// The headers about a client without a trusted proxy.
const DIRECT: [&str; 5] =
    ["192.0.2.7", "http", PUBLIC_HOST, "192.0.2.7", "for=192.0.2.7;host=\"127.0.0.1:8080\";proto=http"];

#[tokio::test]
async fn forwarded_headers_are_set_by_trusted_proxies_only() {
    assert_eq!(forwarded_headers("", &[]).await, DIRECT);
    assert_eq!(forwarded_headers("", &FORGED_HEADERS).await, DIRECT);
    let all = "forwarded_headers = [\"x-forwarded-for\", \"x-forwarded-proto\", \"x-forwarded-host\"]";
    let untrusted = format!("trusted_proxies = [\"10.0.0.0/8\"]\n{all}");
    assert_eq!(forwarded_headers(&untrusted, &FORGED_HEADERS).await, DIRECT);
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
    let trusted = format!("trusted_proxies = [\"192.0.2.0/24\"]\n{all}");
    assert_eq!(forwarded_headers(&trusted, &genuine).await, expected);
}

/// C9: headers of a browser were believed where the proxy adds `X-Forwarded-For` alone.
#[tokio::test]
async fn only_configured_headers_of_trusted_proxies_are_believed() {
    let browser = [
        ("x-forwarded-for", "203.0.113.5, 198.51.100.4"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "203.0.113.5"),
        ("forwarded", "for=203.0.113.5;proto=https;host=evil.example"),
    ];
    let client = "198.51.100.4";
    let by_default =
        [client, "http", PUBLIC_HOST, client, &format!("for={client};host=\"{PUBLIC_HOST}\";proto=http")];
    let trusted = "trusted_proxies = [\"192.0.2.7\"]";
    assert_eq!(forwarded_headers(trusted, &browser).await, by_default);
    let named = |names: &[&str]| format!("{trusted}\nforwarded_headers = {names:?}");
    assert_eq!(forwarded_headers(&named(&["X-Forwarded-For"]), &browser).await, by_default);
    let told = forwarded_headers(&named(&["forwarded"]), &browser).await;
    assert_eq!(told[..3], ["203.0.113.5", "https", "evil.example"]);
    // Two that name different clients.
    for names in
        [&["x-forwarded-for", "forwarded"][..], &["x-forwarded-for", "x-real-ip", "x-forwarded-host"]]
    {
        assert_eq!(forwarded_headers(&named(names), &browser).await, DIRECT, "{names:?}");
    }
    assert_eq!(forwarded_headers(&named(&[]), &browser).await, DIRECT);
}

/// C9: upstreams were told `http` and the client's `Host` behind a proxy that terminates TLS.
#[tokio::test]
async fn upstream_is_told_the_public_origin() {
    let mut upstream = Upstream::start().await;
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("server.public_origin", "https://app.example");
    deployment.forward_to_without_auth(upstream.url());
    let server = deployment.serve().await;
    for (host, told) in [
        ("app.example", "app.example"),
        ("APP.example", "APP.example"),
        ("app.example:443", "app.example:443"),
        ("app.example:80", "app.example"),
        ("app.example.", "app.example"),
        ("evil.example", "app.example"),
        ("127.0.0.1", "app.example"),
    ] {
        for target in ["/".to_owned(), format!("http://{host}/")] {
            let forged = "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\nForwarded: host=evil.example\r\n";
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{forged}\r\n");
            let response = exchange(server.public, request).await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            let seen = upstream.seen().await;
            assert_eq!(
                (seen.all("x-forwarded-proto"), seen.all("x-forwarded-host")),
                (vec!["https"], vec![told])
            );
            assert_eq!(seen.all("forwarded"), [format!("for=127.0.0.1;host=\"{told}\";proto=https")]);
            assert_eq!(seen.all("host"), [host]);
        }
    }
    server.stop().await;
}

/// C20: `X-Forwarded-Host` and `Forwarded` of a trusted proxy were passed on unchecked.
#[tokio::test]
async fn invalid_host_of_a_trusted_proxy_is_ignored() {
    let named =
        "trusted_proxies = [\"192.0.2.7\"]\nforwarded_headers = [\"x-forwarded-host\", \"forwarded\"]";
    for host in ["localhost:x", "a:99999", ":80", "[]", "[zz]", "u@a", "a b", "a/b", "a?b", "<script>", ""] {
        let forwarded = format!("host=\"{host}\"");
        for header in [("x-forwarded-host", host), ("forwarded", &forwarded)] {
            assert_eq!(forwarded_headers(named, &[header]).await, DIRECT, "{header:?}");
        }
    }
    let told = forwarded_headers(named, &[("x-forwarded-host", "shop.example:8443")]).await;
    assert_eq!(told[2], "shop.example:8443");
}

/// A gateway on a socket in front of one upstream.
struct HeaderProbe {
    _gateway: TestGateway,
    address: SocketAddr,
    upstream: Upstream,
}

impl HeaderProbe {
    /// Starts a gateway with these routes. `UPSTREAM` stands for the URL of the upstream.
    async fn start(toml: &str) -> Self {
        let upstream = Upstream::start().await;
        let gateway = TestGatewayBuilder::new(toml.replace("UPSTREAM", &upstream.url())).start().await;
        let address = gateway.listen(ServerLimits::default()).await;
        Self { _gateway: gateway, address, upstream }
    }

    /// Returns the values of a header that the upstream receives from a client that sends these fields.
    async fn received(&mut self, path: &str, name: &str, sent: &[(&str, &str)]) -> Vec<String> {
        let fields: String = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{fields}\r\n");
        let response = exchange(self.address, request).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        self.upstream.seen().await.all(name).into_iter().map(str::to_owned).collect()
    }
}

/// A route that is open to all.
const OPEN_ROUTE: &str = "[[routes]]\npath = \"/\"\nupstreams = [\"UPSTREAM\"]\nauth = \"none\"\n";

/// C8: the prefix that `strip_prefix` removes was not told, and that of a trusted proxy was dropped.
#[tokio::test]
async fn stripped_prefix_is_forwarded() {
    let strip = |path: &str| OPEN_ROUTE.replace("\"/\"", &format!("\"{path}\"")) + "strip_prefix = true\n";
    let routes = strip("/api") + &strip("/a/b%20c") + OPEN_ROUTE;
    let server = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let named = "forwarded_headers = [\"x-forwarded-for\", \"x-forwarded-prefix\"]\n";
    let mut untrusted = HeaderProbe::start(&routes).await;
    let mut unnamed = HeaderProbe::start(&format!("{server}{routes}")).await;
    let mut trusted = HeaderProbe::start(&format!("{server}{named}{routes}")).await;
    for (path, own) in
        [("/api", "/api"), ("/api/x", "/api"), ("/%61pi;v=1", "/api"), ("/a/b%20c/d", "/a/b%20c"), ("/x", "")]
    {
        for (sent, outer) in [
            (&[][..], ""),
            (&["/outer"], "/outer"),
            (&["/outer/"], "/outer"),
            (&["/outer, /inner"], "/outer/inner"),
            (&["/outer", "/inner"], "/outer/inner"),
            (&["//evil.example"], ""),
            (&["https://evil.example"], ""),
            (&["/\\evil.example"], ""),
            (&["/a/../b"], ""),
            (&["/"], ""),
        ] {
            let sent: Vec<_> = sent.iter().map(|value| ("X-Forwarded-Prefix", *value)).collect();
            for (probe, outer) in [(&mut untrusted, ""), (&mut unnamed, ""), (&mut trusted, outer)] {
                let told = probe.received(path, "x-forwarded-prefix", &sent).await.join("|");
                assert_eq!(told, format!("{outer}{own}"), "{path} {sent:?}");
            }
        }
    }
    for spelling in ["X_Forwarded_Prefix", "x.forwarded.prefix"] {
        let values = trusted.received("/x", &spelling.to_lowercase(), &[(spelling, "/evil")]).await;
        assert!(values.is_empty(), "{spelling}: {values:?}");
    }
}

/// C8: headers of the family that the gateway does not send could not be set.
#[tokio::test]
async fn operator_may_set_forwarded_headers_that_are_not_sent() {
    let set = "set_request_headers = { X-Forwarded-Port = \"443\", X-Forwarded-Ssl = \"on\", X_Forwarded_Scheme = \
               \"https\", X-Forwarded-Prefix = \"/app\" }\n";
    let mut probe = HeaderProbe::start(&format!("{OPEN_ROUTE}{set}")).await;
    for (name, value) in [
        ("x-forwarded-port", "443"),
        ("x-forwarded-ssl", "on"),
        ("x_forwarded_scheme", "https"),
        ("x-forwarded-prefix", "/app"),
    ] {
        for sent in [name.to_owned(), name.replace('-', "_")] {
            assert_eq!(probe.received("/", name, &[(&sent, "forged")]).await, [value], "{sent}");
        }
    }
}

/// C11: no key took `Via` off, with which nginx does not compress.
#[tokio::test]
async fn via_can_be_removed() {
    let sent = [("Via", "1.1 front")];
    assert_eq!(HeaderProbe::start(OPEN_ROUTE).await.received("/", "via", &sent).await.len(), 2);
    for spelling in ["Via", "via", "VIA"] {
        let removed = format!("{OPEN_ROUTE}remove_request_headers = [\"{spelling}\"]\n");
        assert!(HeaderProbe::start(&removed).await.received("/", "via", &sent).await.is_empty());
    }
    let upstream = Upstream::start().await;
    for (more, count) in [("", 1), ("remove_response_headers = [\"Via\"]", 0)] {
        let routes = route("/", &upstream.url(), &format!("auth = \"none\"\n{more}"));
        let gateway = TestGatewayBuilder::new(routes).start().await;
        let response = gateway.ask(get("/")).await;
        assert_eq!(response.headers.get_all("via").iter().count(), count, "{more}");
    }
}

/// C16: the methods of a route were bypassed by headers that override the method.
#[tokio::test]
async fn method_overrides_do_not_reach_routes_with_methods() {
    let mut all = HeaderProbe::start(OPEN_ROUTE).await;
    let mut limited = HeaderProbe::start(&format!("{OPEN_ROUTE}methods = [\"GET\", \"POST\"]\n")).await;
    for name in
        ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Method", "HTTP-Method-Override"]
    {
        for spelling in
            [name.to_owned(), name.to_lowercase(), name.replace('-', "_"), name.replacen('-', "_", 1)]
        {
            let (lower, sent) = (spelling.to_lowercase(), [(&*spelling, "DELETE")]);
            assert!(limited.received("/", &lower, &sent).await.is_empty(), "{spelling}");
            assert_eq!(all.received("/", &lower, &sent).await, ["DELETE"], "{spelling}");
        }
    }
    for name in ["X-Original-URL", "X-Original-URI", "X-Original-Host", "X-Original-Method", "X-Rewrite-URL"]
    {
        for spelling in [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', ".")]
        {
            for probe in [&mut all, &mut limited] {
                let values = probe.received("/", &spelling.to_lowercase(), &[(&spelling, "/admin")]).await;
                assert!(values.is_empty(), "{spelling}");
            }
        }
    }
}

/// C15: the gateway's own tokens were handed to upstreams, which could use them elsewhere.
#[tokio::test]
async fn own_tokens_are_not_forwarded() {
    let mut upstream = Upstream::start().await;
    let kept = "pass_authorization = true";
    let routes = "[tokens]\nalgorithm = \"ES256\"\n".to_owned()
        + &route("/open", &upstream.url(), &format!("auth = \"none\"\n{kept}"))
        + &route("/maybe", &upstream.url(), &format!("auth = \"optional\"\n{kept}"))
        + &route("/bearer", &upstream.url(), "bearer = \"films\"")
        + &route("/", &upstream.url(), kept);
    for algorithm in [Algorithm::Es256, Algorithm::Hs256] {
        let gateway = TestGatewayBuilder::new(&routes).signing(algorithm).start().await;
        let cookies = gateway.signed_in(Role::User).await;
        let address = gateway.listen(ServerLimits::default()).await;
        let access = &cookies.access;
        let mut own = vec![access.clone(), cookies.refresh.clone()];
        if algorithm == Algorithm::Es256 {
            gateway.ask(get("/bearer").header("cookie", cookies.line())).await;
            let minted = upstream.seen().await.all("authorization")[0].to_owned();
            own.push(minted.strip_prefix("Bearer ").unwrap().to_owned());
        }
        let send = async |path: &str, fields: &[String]| {
            let fields: String = fields.iter().map(|value| format!("Authorization: {value}\r\n")).collect();
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
            exchange(address, request).await
        };
        // A client with an access token is signed in, without the upstream's help.
        assert!(send("/", &[format!("Bearer {access}")]).await.starts_with("HTTP/1.1 200"));
        let seen = upstream.seen().await;
        assert_eq!((seen.all("authorization"), seen.all("x-forwarded-email")), (vec![], vec![EMAIL]));
        for expired in [false, true] {
            for token in &own {
                for (path, fields) in [
                    ("/open", vec![format!("Bearer {token}")]),
                    ("/maybe", vec![format!("bearer   {token}")]),
                    ("/open", vec![format!("BEARER\t{token} ")]),
                    ("/open", vec![format!("Token {token}")]),
                    ("/open", vec![token.clone()]),
                    ("/open", vec![format!("Bearer token=\"{token}\"")]),
                    ("/open", vec!["Basic YTpi".to_owned(), format!("Bearer {token}")]),
                    ("/open", vec![format!("Basic YTpi, Bearer {token}")]),
                ] {
                    assert!(send(path, &fields).await.starts_with("HTTP/1.1 200"), "{path} {fields:?}");
                    let seen = upstream.seen().await;
                    assert!(seen.all("authorization").is_empty(), "{path} {fields:?} {expired}");
                }
            }
            gateway.expire();
        }
        // Tokens of others are forwarded as they are.
        let [header, claims, signature] = access.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let altered = format!("{header}.{claims}.{}", signature.chars().rev().collect::<String>());
        for theirs in ["Basic YTpi", "Bearer opaque", "Bearer a.b.c", &format!("Bearer {altered}")] {
            assert!(send("/open", &[theirs.to_owned()]).await.starts_with("HTTP/1.1 200"));
            assert_eq!(upstream.seen().await.all("authorization"), [theirs]);
        }
    }
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
