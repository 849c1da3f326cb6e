//! Hop-by-hop headers, headers that the gateway adds, loops, `Expect`, and `WWW-Authenticate`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sekisho::models::user::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{RawServer, StrictUpstream};
use crate::support::gateway::{EMAIL, route};
use crate::support::upstream::{listen, raw_upstream, read_head};

/// Hop-by-hop headers (RFC 9110, section 7.6.1), and two headers that `Connection` names.
const HOP_BY_HOP: &str = "Connection: X-One, keep-alive\r\nconnection:,,x-TWO ,\r\nX-One: 1\r\nx-two: 2\r\nX-Two: 2\r\n\
                          Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c, websocket\r\n\
                          Proxy-Authorization: Basic x\r\nProxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\n\
                          X-Three: 3\r\n";

// Hop-by-hop headers (P-2).
#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    server.get("/", HOP_BY_HOP).await;
    let seen = upstream.seen();
    let mut names = seen[0].names();
    names.retain(|name| !name.starts_with("x-forwarded-"));
    names.sort_unstable();
    assert_eq!(names, ["forwarded", "host", "traceparent", "via", "x-real-ip", "x-request-id", "x-three"]);

    let raw_response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{HOP_BY_HOP}\r\n").into_bytes();
    let response =
        RawServer::with_upstream(&raw_upstream(raw_response.leak()).await).await.get("/", "").await;
    assert_eq!(response.all("x-three"), ["3"]);
    for removed in [
        "x-one",
        "x-two",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "proxy-authorization",
        "proxy-authenticate",
        "proxy-authentication-info",
    ] {
        assert!(response.all(removed).is_empty(), "{removed}: {response:?}");
    }
    // `TE: trailers` of the client is replaced by the gateway's own.
    server.get("/", "TE: gzip, trailers;q=0.5\r\nTE: trailers\r\n").await;
    let seen = upstream.seen();
    assert_eq!((seen[0].all("te"), seen[0].all("connection")), (vec!["trailers"], vec!["te"]));
}

// `Connection` options that name the gateway's own headers (P-3).
#[tokio::test]
async fn connection_header_cannot_remove_gateway_headers() {
    let mut upstream = StrictUpstream::start().await;
    let more = "set_request_headers = { X-Api-Key = \"k\" }";
    let server = RawServer::start(route("/", &upstream.url(), more)).await;
    let cookies = server.gateway.signed_in(Role::User).await;
    let connection_options = "cookie, authorization, host, via, te, content-length, transfer-encoding, x-request-id, x-api-key, \
                 x-forwarded-user, x-forwarded-email, x-forwarded-groups, x-forwarded-for, x-forwarded-proto, \
                 x-forwarded-host, x-real-ip, forwarded, traceparent, set-cookie, x-session-event";
    let cookie = cookies.line();
    for body in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: app.example\r\nConnection: close, {connection_options}\r\nCookie: {cookie}; theme=dark\r\n"
        );
        assert_eq!(server.send(format!("{head}{body}")).await.status(), 200);
        let seen = upstream.seen();
        assert_eq!((&*seen[0].body, seen[0].framing().is_some()), (&b"abc"[..], true));
        assert_eq!(seen[0].all("x-forwarded-email"), [EMAIL]);
        assert_eq!(seen[0].all("x-forwarded-groups"), ["user"]);
        assert_eq!(seen[0].all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!((seen[0].all("x-api-key"), seen[0].all("host")), (vec!["k"], vec!["app.example"]));
        for once in [
            "x-forwarded-user",
            "x-forwarded-proto",
            "x-real-ip",
            "forwarded",
            "via",
            "x-request-id",
            "traceparent",
        ] {
            assert_eq!(seen[0].all(once).len(), 1, "{once}");
        }
        assert!(seen[0].all("cookie").is_empty() && seen[0].all("connection").is_empty());
    }
}

// Trailers (P-4).
#[tokio::test]
async fn trailers_cannot_set_identity_headers() {
    let mut upstream = crate::support::upstream::Upstream::start().await;
    let more = "auth = \"none\"\nset_request_headers = { X-Api-Key = \"k\" }\nremove_request_headers = [\"X-Debug\"]\n\
                identity = { user = \"X-Shop-User\" }";
    let server = RawServer::start(route("/", &upstream.url(), more)).await;
    let trailers = "X-Sum: 7\r\nHost: b\r\nContent-Length: 7\r\nContent_Type: a/b\r\nExpect: x\r\nVia: 1.1 x\r\nX-Request-Id: x\r\nX-Shop-User: root\r\nx_shop_user: root\r\nRemote-User: root\r\nX_Forwarded_User: root\r\n\
                    X-Auth-Request-Email: root\r\nX-Api-Key: theirs\r\nx_api_key: theirs\r\nX-Debug: 1\r\n\
                    Authorization: Bearer x\r\nCookie: a=1\r\nForwarded: for=x\r\nX-Real-IP: x\r\n";
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, te\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n";
    let trailer_header = "Trailer: x-sum, x-shop-user, x_shop_user, remote-user, x_forwarded_user, x-auth-request-email, x-api-key, \
                 x_api_key, x-debug, authorization, cookie, forwarded, x-real-ip\r\n";
    let response = server.send(format!("{head}{trailer_header}\r\n1\r\nx\r\n0\r\n{trailers}\r\n")).await;
    assert_eq!(response.status(), 200);
    let seen = upstream.seen().await;
    assert_eq!(seen.trailers.keys().collect::<Vec<_>>(), ["x-sum"]);

    let more = "auth = \"none\"\nremove_response_headers = [\"X-Debug\"]";
    let raw_response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-debug, x_debug, set-cookie\r\n\r\n\
                   1\r\nx\r\n0\r\nX-Sum: 7\r\nX-Debug: 1\r\nx_debug: 1\r\nSet-Cookie: a=1\r\n\r\n";
    let server = RawServer::start(route("/", &raw_upstream(raw_response).await, more)).await;
    let response = server.get("/", "TE: trailers\r\n").await;
    assert!(response.0.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{response:?}");
}

/// Forwards TCP connections to an address that is set later, and counts them.
async fn relay() -> (SocketAddr, watch::Sender<Option<SocketAddr>>, Arc<AtomicUsize>) {
    let (target, target_set) = watch::channel(None);
    let laps = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&laps);
    let address = listen(move |mut socket| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut target = target_set.clone();
        async move {
            let address = *target.wait_for(Option::is_some).await.unwrap();
            let mut upstream = TcpStream::connect(address.unwrap()).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut socket, &mut upstream).await;
        }
    })
    .await;
    (address, target, laps)
}

// Loops (P-9).
#[tokio::test]
async fn proxy_loop_is_detected() {
    let (relay_address, target, laps) = relay().await;
    let server = RawServer::with_upstream(&format!("http://{relay_address}")).await;
    target.send(Some(server.address)).unwrap();
    for via in ["", "Via: 1.1 sekisho-0000000000000000, 1.0 sekisho\r\n"] {
        let response = server.get("/", via).await;
        assert_eq!(response.status(), 508, "{response:?}");
        assert!(response.body().contains("\"code\":\"loop_detected\""), "{response:?}");
    }
    assert!(laps.load(Ordering::SeqCst) <= 2, "one lap for each request");

    // Two gateways, each with the other as its upstream.
    let (relay_address, target, laps) = relay().await;
    let first = RawServer::with_upstream(&format!("http://{relay_address}")).await;
    let second = RawServer::with_upstream(&format!("http://{}", first.address)).await;
    target.send(Some(second.address)).unwrap();
    assert_eq!(first.get("/", "").await.status(), 508);
    assert_eq!(laps.load(Ordering::SeqCst), 1);
}

// `Expect: 100-continue` (P-20).
#[tokio::test]
async fn session_is_checked_before_100_continue() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::start(route("/", &upstream.url(), "max_body = \"4KiB\"")).await;
    let cookies = server.gateway.signed_in(Role::User).await;
    let request_head = |more: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n{more}\r\n")
    };
    let response = server.send(request_head("Content-Length: 3\r\n")).await;
    assert_eq!(response.status(), 401, "no 100 before the 401: {response:?}");
    let response =
        server.send(request_head(&format!("Content-Length: 5000\r\nCookie: {}\r\n", cookies.line()))).await;
    assert_eq!(response.status(), 413, "{response:?}");
    assert!(upstream.seen().is_empty());

    for expect in ["100-continue", "100-Continue"] {
        let head = request_head(&format!("Content-Length: 3\r\nCookie: {}\r\n", cookies.line()));
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(head.replace("100-continue", expect).as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut socket).await, b"HTTP/1.1 100 Continue\r\n\r\n");
        socket.write_all(b"abc").await.unwrap();
        let mut response = String::new();
        socket.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        let seen = upstream.seen();
        assert_eq!((&*seen[0].body, seen[0].all("expect").len()), (&b"abc"[..], 0));
    }
}

// Challenges of 401 responses (P-24).
#[tokio::test]
async fn every_401_has_www_authenticate() {
    let upstream = raw_upstream(
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nWWW-Authenticate: Digest realm=\"x\"\r\n\
                            WWW-Authenticate: Basic realm=\"y\"\r\n\r\n",
    )
    .await;
    let toml = "[server]\nbuiltin = [\"auth\", \"token\", \"movies\"]\n".to_owned()
        + &route("/", &upstream, "")
        + &route("/may", &upstream, "auth = \"optional\"");
    let server = RawServer::start(toml).await;
    let form = |target: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n")
    };
    for request in [
        get("/x", ""),
        get("/x", "Authorization: Bearer nonsense\r\n"),
        get("/x", "Authorization: Basic cm9vdDpyb290\r\n"),
        get("/x", "Cookie: __Host-access_token=x\r\n"),
        get("/x", "Cookie: __Host-access_token=x; __Host-access_token=y\r\n"),
        get("/auth/session", ""),
        get("/auth/sessions", ""),
        get("/movies", ""),
        form("/auth/refresh", ""),
        form("/auth/login", "email=nobody@example.org&password=not-the-one"),
        form("/token", "username=closed_address@example.org&password=not-the-one"),
        form("/token", "grant_type=refresh_token&refresh_token=x"),
    ] {
        let response = server.send(&request).await;
        assert_eq!(response.status(), 401, "{request} {response:?}");
        assert!(response.all("www-authenticate").concat().starts_with("Bearer"), "{request} {response:?}");
    }
    // Challenges of upstreams are forwarded unchanged.
    let response = server.get("/may", "").await;
    assert_eq!(response.all("www-authenticate"), ["Digest realm=\"x\"", "Basic realm=\"y\""]);
}
