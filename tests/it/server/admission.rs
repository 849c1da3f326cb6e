//! Admission: clients and upstreams that hang leave places for all other requests.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::support::db::sqlite_location;
use crate::support::process::{PROCESS_TIMEOUT, ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::test_server::{answer, get1, send_and_read};
use crate::support::upstream::{GatedUpstream, Upstream, listen};

/// Starts a gateway with this limit on requests in flight, with `/` for signed-in users and other routes for all, each
/// with its path and upstreams.
async fn start_with_routes(
    max_in_flight: &str,
    routes: &[(String, Vec<String>)],
) -> (TestDeployment, ServerProcess, Upstream) {
    let healthy = Upstream::start().await;
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to(healthy.url());
    let mut config = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    for (path, upstreams) in routes {
        // The timeout is longer than the tests take on a slow machine.
        config.push_str(&format!(
            "[[routes]]\npath = \"{path}\"\nupstreams = {upstreams:?}\nauth = \"none\"\nfirst_byte_timeout = \"10m\"\n"
        ));
    }
    deployment.write("sekisho.toml", &config);
    deployment.set("server.max_in_flight", max_in_flight);
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    (deployment, server, healthy)
}

/// Starts an upstream that accepts connections and neither reads nor responds.
async fn hung_upstream() -> String {
    let address = listen(|socket| async move {
        let _socket = socket;
        std::future::pending().await
    })
    .await;
    format!("http://{address}")
}

/// Sends a request from the address 127.0.1.`last`.
async fn request_from(last: u8, server: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 1, last], 0))).unwrap();
    let mut socket = socket.connect(server).await.unwrap();
    socket.write_all(get1(path).as_bytes()).await.unwrap();
    socket
}

/// Waits until requests for a path get a response with this code.
async fn until_code(server: SocketAddr, path: &str, code: &str) {
    until(code, async || {
        let mut socket = TcpStream::connect(server).await.unwrap();
        // A request that finds a free place waits for the upstream.
        let response = timeout(Duration::from_secs(5), send_and_read(&mut socket, &get1(path))).await.ok()?;
        response.contains(&format!(r#""code":"{code}""#)).then_some(())
    })
    .await;
}

/// A4: a route whose upstreams hang made every other request 503, sign-in too.
#[tokio::test]
async fn hung_route_leaves_places_for_others() {
    let upstreams = vec![hung_upstream().await, hung_upstream().await];
    let (_deployment, server, _healthy) = start_with_routes("40", &[("/hung".to_owned(), upstreams)]).await;
    let mut waiting = Vec::new();
    for last in 0..60 {
        waiting.push(request_from(last, server.public, "/hung").await);
    }
    until_code(server.public, "/hung", "upstream_busy").await;
    for _ in 0..5 {
        let mut browser = SocketBrowser::signed_in(server.public, "ann@example.com").await;
        assert_eq!(browser.status(server.public, "/").await, StatusCode::OK);
    }
}

/// A1: sign-in had no places of its own.
#[tokio::test]
async fn built_in_routes_have_a_reserve() {
    // Each route may have one request, however few places are free, and 2 of the 20 are the reserve. The next request
    // is sent when the one before has its place.
    let mut held = GatedUpstream::start().await;
    let routes: Vec<_> = (0..18).map(|number| (format!("/held{number}"), vec![held.url()])).collect();
    let (_deployment, server, _healthy) = start_with_routes("20", &routes).await;
    let mut waiting = Vec::new();
    for (last, (path, _)) in (0..).zip(&routes) {
        waiting.push(request_from(last, server.public, path).await);
        timeout(PROCESS_TIMEOUT, held.arrived(1)).await.expect("the request at the upstream");
    }
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let refusal =
        timeout(PROCESS_TIMEOUT, send_and_read(&mut socket, &get1("/held0"))).await.expect("a refusal");
    assert!(refusal.contains(r#""code":"overloaded""#), "{refusal}");
    for _ in 0..5 {
        let mut browser = SocketBrowser::signed_in(server.public, "ann@example.com").await;
        assert_eq!(browser.status(server.public, "/auth/session").await, StatusCode::OK);
        assert_eq!(browser.status(server.public, "/").await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// Sends a body of one byte a second, and returns the response and the time until then.
async fn drip(server: SocketAddr, path: &str, content_type: &str) -> (String, Duration) {
    let start = Instant::now();
    let (mut read, mut write) = TcpStream::connect(server).await.unwrap().into_split();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await.unwrap();
    let dripping = async {
        while write.write_all(b" ").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        response = answer(&mut read) => (response, start.elapsed()),
        () = dripping => unreachable!(),
    }
}

/// A1: a body was read for as long as a byte came now and then.
#[tokio::test]
async fn dripping_body_is_rejected() {
    let upstream = Upstream::start().await;
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(upstream.url());
    deployment.set("server.builtin", r#"["auth", "token"]"#);
    let server = deployment.serve().await;
    let (login, token, proxied, grpc) = tokio::join!(
        drip(server.public, "/auth/login", "application/json"),
        drip(server.public, "/token", "application/x-www-form-urlencoded"),
        drip(server.public, "/upload", "application/octet-stream"),
        timeout(Duration::from_secs(13), drip(server.public, "/stream", "application/grpc")),
    );
    for ((response, elapsed), status, code) in
        [(login, "408", "body_timeout"), (token, "408", "invalid_request"), (proxied, "408", "body_timeout")]
    {
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
        assert!(response.contains(code), "{response}");
        assert!(elapsed >= Duration::from_secs(10), "{elapsed:?}");
    }
    assert!(grpc.is_err(), "{grpc:?}");
}
