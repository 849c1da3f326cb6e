//! Admission: clients and upstreams that hang leave places for all other requests.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::db::sqlite_location;
use crate::support::process::{ServerProcess, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;
use crate::support::test_server::{answer, get1, send_and_read};
use crate::support::upstream::{Upstream, listen};

/// Starts a gateway that allows 40 requests in flight, with `/` for signed-in users and `/hung`, whose two
/// upstreams never respond. `limits` are further lines of that route.
async fn start_with_hung_route(limits: &str) -> (TestDeployment, ServerProcess, Upstream) {
    let healthy = Upstream::start().await;
    let mut deployment = TestDeployment::new(sqlite_location().await.unwrap()).await;
    deployment.forward_to(healthy.url());
    let config = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    let (first, second) = (hung_upstream().await, hung_upstream().await);
    let hung = format!(
        "[[routes]]\npath = \"/hung\"\nupstreams = [\"{first}\", \"{second}\"]\nauth = \"none\"\n{limits}\n"
    );
    deployment.write("sekisho.toml", &format!("{config}\n{hung}"));
    deployment.set("server.max_in_flight", "40");
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

/// Sends more requests for `/hung` than the server allows in flight.
async fn request_hung_route(server: SocketAddr) -> Vec<TcpStream> {
    let mut waiting = Vec::new();
    for _ in 0..60 {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(get1("/hung").as_bytes()).await.unwrap();
        waiting.push(socket);
    }
    waiting
}

/// A4: a route whose upstreams hang made every other request 503, sign-in too.
#[tokio::test]
async fn hung_route_leaves_places_for_others() {
    let (_deployment, server, _healthy) = start_with_hung_route("").await;
    let _waiting = request_hung_route(server.public).await;
    until("the route to be full", async || {
        let mut socket = TcpStream::connect(server.public).await.unwrap();
        // A request that finds a free place waits for the upstream.
        let response =
            timeout(Duration::from_secs(5), send_and_read(&mut socket, &get1("/hung"))).await.ok()?;
        response.contains(r#""code":"upstream_busy""#).then_some(())
    })
    .await;
    for _ in 0..5 {
        let mut browser = SocketBrowser::signed_in(server.public, "ann@example.com").await;
        assert_eq!(browser.status(server.public, "/").await, StatusCode::OK);
    }
}

/// A1: sign-in had no places of its own.
#[tokio::test]
async fn built_in_routes_have_a_reserve() {
    let (_deployment, server, _healthy) = start_with_hung_route("max_in_flight = 1000").await;
    let _waiting = request_hung_route(server.public).await;
    until("the server to be full", async || {
        let mut socket = TcpStream::connect(server.public).await.unwrap();
        // A request that finds a free place waits for the upstream.
        let response =
            timeout(Duration::from_secs(5), send_and_read(&mut socket, &get1("/hung"))).await.ok()?;
        response.contains(r#""code":"overloaded""#).then_some(())
    })
    .await;
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
