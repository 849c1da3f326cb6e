//! Request targets: the path alone selects the route, and is forwarded unchanged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::recorder::RawRequest;
use super::{RawServer, StrictUpstream};
use crate::support::gateway::{PUBLIC_HOST, route};
use crate::support::http::decode_leniently;
use crate::support::iterations::rng_for;
use crate::support::upstream::listen;

// Request targets and hosts that name another server (P-1).
#[tokio::test]
async fn request_cannot_choose_the_upstream() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let evil = listen(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for (target, host, seen) in [
        ("/x", format!("{evil}"), Some("/x")),
        (&*format!("http://{evil}/x"), "app.example".to_owned(), Some("/x")),
        (&*format!("https://{evil}/x"), "app.example".to_owned(), Some("/x")),
        (&*format!("http://{evil}"), "app.example".to_owned(), Some("/")),
        (&*format!("http://u:p@{evil}/x"), "app.example".to_owned(), None),
        (&*format!("http://app.example@{evil}/x"), "app.example".to_owned(), None),
        (&*format!("//{evil}/x"), "app.example".to_owned(), None),
        (&*format!("/http://{evil}/x"), "app.example".to_owned(), None),
        (&*format!("@{evil}/x"), "app.example".to_owned(), None),
        (&*format!("{evil}"), "app.example".to_owned(), None),
        (&*format!("/@{evil}/x"), "app.example".to_owned(), Some("*")),
        (&*format!("/x?url=http://{evil}/"), "app.example".to_owned(), Some("*")),
        ("/x", format!("app.example@{evil}"), None),
        ("/x", format!("{evil}/x"), None),
    ] {
        let forged = format!(
            "X-Forwarded-Host: {evil}\r\nForwarded: host={evil}\r\nX-Host: {evil}\r\nX-Original-Host: {evil}"
        );
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{forged}\r\n\r\n");
        let response = server.send(request).await;
        let expected = seen.map(|seen| format!("GET {}", if seen == "*" { target } else { seen }));
        assert_eq!(
            response.status(),
            if expected.is_some() { 200 } else { 400 },
            "{target} {host}: {response:?}"
        );
        let seen = upstream.seen();
        assert_eq!(
            seen.iter().map(RawRequest::request_line).collect::<Vec<_>>(),
            Vec::from_iter(expected.as_deref())
        );
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0, "the other server received a connection");
}

// Host and absolute-form (P-8).
#[tokio::test]
async fn absolute_target_host_wins_over_host_header() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for (target, hosts, expected) in [
        ("/", "Host: a\r\n", Some("a")),
        ("/", "Host: [::1]:80\r\n", Some("[::1]:80")),
        ("http://b/", "Host: a\r\n", Some("b")),
        ("http://b:81/", "Host: a\r\n", Some("b:81")),
        ("http://b/", "Host: a\r\nHost: b\r\n", None),
        ("/", "", None),
        ("/", "Host:\r\n", None),
        ("/", "Host: a\r\nHost: a\r\n", None),
        ("/", "Host: a\r\nhost: b\r\n", None),
        ("/", "Host: a, b\r\n", None),
        ("/", "Host: a b\r\n", None),
        ("/", "Host: a\tb\r\n", None),
        ("/", "Host: a/b\r\n", None),
        ("/", "Host: a?b\r\n", None),
        ("/", "Host: a#b\r\n", None),
        ("/", "Host: http://a\r\n", None),
        ("/", "Host: u@a\r\n", None),
        ("/", "Host: a:80:80\r\n", None),
        ("/", "Host: \"a\"\r\n", None),
        ("/", "Host: a\\b\r\n", None),
        ("/", "Host: \u{e9}\r\n", None),
    ] {
        let response =
            server.send(format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!(
            response.status(),
            if expected.is_some() { 200 } else { 400 },
            "{target} {hosts}: {response:?}"
        );
        let seen = upstream.seen();
        assert_eq!(seen.len(), usize::from(expected.is_some()), "{target} {hosts}");
        for request in seen {
            assert_eq!(request.all("host"), Vec::from_iter(expected), "{target} {hosts}");
            assert_eq!(request.all("x-forwarded-host"), [PUBLIC_HOST], "{target} {hosts}");
        }
    }
}

/// Starts a gateway whose paths are open, except for `/admin` and the paths below it.
async fn start_with_admin_route(upstream: &StrictUpstream) -> RawServer {
    let routes = route("/", &upstream.url(), "auth = \"none\"") + &route("/admin", &upstream.url(), "");
    RawServer::start(routes).await
}

// Headers that claim another path, method or client (P-11).
#[tokio::test]
async fn only_the_path_selects_the_route() {
    let mut upstream = StrictUpstream::start().await;
    let server = start_with_admin_route(&upstream).await;
    for forged in [
        "X-Original-URL: /public",
        "X-Rewrite-URL: /public",
        "X-Forwarded-Uri: /public",
        "X-Forwarded-Path: /public",
        "X-Forwarded-Prefix: /public",
        "X-Original-Uri: /public",
        "X-HTTP-Method-Override: OPTIONS",
        "X-Forwarded-Method: OPTIONS",
        "User-Agent: kube-probe/1.30",
        "User-Agent: GoogleHC/1.0",
        "User-Agent: ELB-HealthChecker/2.0",
        "Referer: http://app.example/public",
        "Origin: null",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-User: root",
        "X_Forwarded_User: root",
        "X-Auth-Request-User: root",
        "Remote-User: root",
        "Authorization: Basic cm9vdDpyb290",
        "Authorization: Bearer",
        "Cookie: __Host-access_token=",
        "Cookie: access_token=x; Path=/",
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13",
        "Sec-Fetch-Mode: cors",
    ] {
        for target in ["/admin", "/admin/x?/public", "/admin?x=/public/", "/admin?"] {
            let response = server.get(target, &format!("{forged}\r\n")).await;
            assert_eq!(response.status(), 401, "{target} {forged}: {response:?}");
        }
    }
    assert!(upstream.seen().is_empty());
    // The upstream does not receive headers that claim another path.
    for forged in [
        "X-Original-URL",
        "X_Original_URL",
        "X-Rewrite-Url",
        "X-Forwarded-Uri",
        "X-Forwarded-Path",
        "x.forwarded.prefix",
    ] {
        assert_eq!(server.get("/public", &format!("{forged}: /admin\r\n")).await.status(), 200);
        let seen = upstream.seen();
        assert_eq!(seen[0].request_line(), "GET /public");
        assert!(!seen[0].names().contains(&forged.to_lowercase()), "{forged}: {:?}", seen[0]);
    }
}

// Spellings of `/admin` (P-11).
#[tokio::test]
async fn ambiguous_path_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = start_with_admin_route(&upstream).await;
    let slashes =
        ["/", "//", "/./", "%2f", "%2F", "%5c", "\\", "/;/", "/;x/", "/%2e/", "/%00/", ";/", "%3b/"];
    let ups =
        ["..", "%2e%2e", "%2E.", ".%2e", "..;", "..;x=1", "%2e%2e;", "..%00", "..%0d", "..\\", ".%252e"];
    let names = [
        "admin",
        "%61dmin",
        "adm%69n;x",
        "admin%00",
        "admin%2f",
        "admin;/x",
        "admin..",
        "admin%3f",
        "%2561dmin",
    ];
    let mut targets: Vec<String> = Vec::new();
    for slash in slashes {
        targets.extend(names.map(|name| format!("{slash}{name}")));
        targets.extend(names.map(|name| format!("/public{slash}{name}")));
        for up in ups {
            targets.extend(names.map(|name| format!("/public{slash}{up}/{name}")));
            targets.push(format!("/public/{up}{slash}admin"));
        }
    }
    let (mut refused, mut passed) = (0, 0);
    for target in targets {
        let response = server.get(&target, "").await;
        let seen = upstream.seen();
        match response.status() {
            200 => {
                let path = seen[0].request_line().strip_prefix("GET ").unwrap();
                assert_eq!(path, target, "forwarded byte for byte");
                let read = decode_leniently(path);
                let admin = read == "/admin" || read.starts_with("/admin/");
                assert!(!admin, "{target} is read as {read}");
                passed += 1;
            }
            status => {
                assert!(matches!(status, 400 | 401), "{target}: {response:?}");
                assert!(seen.is_empty(), "{target}");
                refused += 1;
            }
        }
    }
    assert!(refused > 1_000 && passed > 10, "{refused} refused, {passed} passed");
}

// Paths and queries (P-12).
#[tokio::test]
async fn five_hundred_targets_are_forwarded_byte_for_byte() {
    let mut upstream = StrictUpstream::start().await;
    let routes = route("/", &upstream.url(), "auth = \"none\"")
        + &route("/cut", &upstream.url(), "auth = \"none\"\nstrip_prefix = true");
    let server = RawServer::start(routes).await;
    let in_path = [
        "a", "Z", "0", "-", ".x", "_", "~", "!", "$", "&", "'", "(", ")", "*", "+", ",", ";", "=", ":", "@",
        "%20", "%41", "%7E", "%7e", "%25", "%252F", "%C3%A9", "%c3%a9", "%ff", "%26", "%3B", "%3D", "%3F",
        "%23", "{", "}", "|", "\"", "/a",
    ];
    let in_query = [
        "?",
        "/",
        "//",
        "..",
        "%2e%2e",
        "\\",
        "%",
        "%zz",
        "%00",
        "&&",
        "=",
        "+",
        "[",
        "]",
        "^",
        "`",
        "http://x/",
        ";",
        "%0D%0A",
        "\u{e9}",
    ];
    let mut random = rng_for("targets");
    let mut random_text = |pieces: &[&str], most| {
        let count = random.usize(0..=most);
        (0..count).map(|_| pieces[random.usize(..pieces.len())]).collect::<String>()
    };
    for number in 0..500 {
        let (path, query) = (format!("/x{}", random_text(&in_path, 8)), random_text(&in_query, 6));
        let query = if number % 3 == 0 { String::new() } else { format!("?{query}") };
        let prefix = if number % 5 == 0 { "/cut" } else { "" };
        let response = server.get(&format!("{prefix}{path}{query}"), "").await;
        assert_eq!(response.status(), 200, "{prefix}{path}{query}: {response:?}");
        let seen = upstream.seen();
        assert_eq!(seen[0].request_line(), format!("GET {path}{query}"), "{prefix}");
    }
}

/// Hosts with an optional port, and `true` if RFC 3986 allows them.
pub(super) const HOSTS: [(&str, bool); 26] = [
    ("a", true),
    ("app.example:8443", true),
    ("APP.example.", true),
    ("a_b", true),
    ("a~b", true),
    ("a:", true),
    ("127.0.0.1:65535", true),
    ("[::1]", true),
    ("[2001:db8::1]:80", true),
    ("localhost:x", false),
    ("localhost:99999", false),
    ("localhost:65536", false),
    ("localhost:-1", false),
    ("localhost:80:80", false),
    (":80", false),
    (":99999", false),
    (":", false),
    ("[zz]", false),
    ("[]", false),
    ("[]:80", false),
    ("[::1", false),
    ("::1", false),
    ("[::1]x", false),
    ("[127.0.0.1]", false),
    ("user@a", false),
    ("a%zz", false),
];

/// C20: hosts that RFC 3986 does not allow were forwarded.
#[tokio::test]
async fn invalid_host_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for (host, is_valid) in HOSTS {
        for request in [
            format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"),
        ] {
            let response = server.send(&request).await;
            let status = response.0.get(9..12).unwrap_or_default();
            assert_eq!(status, if is_valid { "200" } else { "400" }, "{request:?}: {response:?}");
            let seen = upstream.seen();
            let hosts: Vec<_> = seen.iter().flat_map(|request| request.all("host")).collect();
            assert_eq!(hosts, Vec::from_iter(is_valid.then_some(host)), "{request:?}");
        }
    }
}

/// C20: paths with characters outside of ASCII were forwarded (RFC 3986, section 3.3).
#[tokio::test]
async fn path_with_raw_utf8_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for path in ["/caf\u{e9}", "/a/\u{95a2}\u{6240}/b", "/\u{ff0e}\u{ff0e}/a", "/\u{2028}?a"] {
        let response = server.get(path, "").await;
        assert_eq!(response.status(), 400, "{path}: {response:?}");
        assert!(upstream.seen().is_empty(), "{path}");
    }
    assert_eq!(server.get("/caf%C3%A9", "").await.status(), 200);
}
