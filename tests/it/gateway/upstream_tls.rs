//! Names and certificates of `https` upstreams.

use std::os::unix::fs::PermissionsExt;

use crate::support::authority::Authority;
use crate::support::gateway::{TestGateway, TestGatewayBuilder, get, route};
use crate::support::upstream::Upstream;

/// The files of an authority and of a client.
struct Files(tempfile::TempDir);

impl Files {
    fn new(authority: &Authority, client: &Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = client.client("gateway");
        for (name, text) in [("ca.pem", authority.pem()), ("client.pem", certificate), ("client.key", key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::fs::set_permissions(dir.path().join("client.key"), PermissionsExt::from_mode(0o600)).unwrap();
        Self(dir)
    }

    /// Returns the keys of a route, where a path is written as `DIR/name`.
    fn keys(&self, keys: &str) -> String {
        format!("auth = \"none\"\nupstream_ca = \"DIR/ca.pem\"\n{keys}")
            .replace("DIR", self.0.path().to_str().unwrap())
    }
}

async fn start(upstream: &Upstream, keys: &str) -> TestGateway {
    let url = format!("https://127.0.0.1:{}", upstream.address().port());
    TestGatewayBuilder::new(route("/", &url, keys)).start().await
}

/// `routes.upstream_server_name`: the name replaces the host in the URL, also in SNI, but not `Host`.
#[tokio::test]
async fn upstream_server_name_is_verified_instead_of_the_host() {
    let authority = Authority::new();
    let files = Files::new(&authority, &authority);
    let mut upstream = Upstream::with_tls(authority.server("app.internal", &[])).await;
    for (keys, status) in [
        ("", 502),
        ("upstream_server_name = \"other.internal\"", 502),
        ("upstream_server_name = \"app.internal\"", 200),
    ] {
        let gateway = start(&upstream, &files.keys(keys)).await;
        assert_eq!(gateway.ask(get("/")).await.status, status, "{keys}");
    }
    assert_eq!(upstream.seen().await.all("host"), ["app.example"]);
    assert!(upstream.has_no_more_requests());
}

/// `routes.upstream_client_certificate` and `routes.upstream_client_key`.
#[tokio::test]
async fn upstream_client_certificate_is_presented() {
    let authority = Authority::new();
    let client = "upstream_client_certificate = \"DIR/client.pem\"\nupstream_client_key = \"DIR/client.key\"";
    let mut upstream = Upstream::with_tls(authority.server_for_known_clients("127.0.0.1")).await;
    for (issuer, keys, status) in
        [(&authority, client, 200), (&authority, "", 502), (&Authority::new(), client, 502)]
    {
        let gateway = start(&upstream, &Files::new(&authority, issuer).keys(keys)).await;
        assert_eq!(gateway.ask(get("/")).await.status, status, "{keys}");
    }
    upstream.seen().await;
    assert!(upstream.has_no_more_requests());
}
