//! Responses to requests whose body the service does not read: the connection stays open, or the response announces its
//! end (RFC 9112 sections 9.3 and 9.6).

use rustls::version::TLS13;
use sekisho::server::ServerLimits;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::gateway::{TestGatewayBuilder, route};
use crate::support::test_server::{Files, GET, TestServer, answer, read_until_closed, send_and_read};
use crate::support::upstream::{listen, read_head};

const CLOSE: &str = "connection: close\r\n";

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: app.example\r\n{headers}\r\n\r\n{body}")
}

fn length(bytes: usize) -> String {
    format!("Content-Length: {bytes}")
}

/// Sends a request that is refused, with as much of its body as is given, and returns the response.
async fn refused<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S, request: &str) -> String {
    let response = send_and_read(client, request).await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    response
}

async fn check_arrived_bodies<S: AsyncRead + AsyncWrite + Unpin>(client: &mut S) {
    let chunks = "3\r\nabc\r\n".repeat(10);
    for request in [
        post("/refused", &length(10), "0123456789"),
        post("/refused", &length(10_000), &"x".repeat(10_000)),
        post("/refused", "Transfer-Encoding: chunked", "0\r\n\r\n"),
        post("/refused", "Transfer-Encoding: chunked", &format!("{chunks}0\r\n\r\n")),
        post("/refused", "Transfer-Encoding: chunked", &format!("{chunks}0\r\nX-Sum: 1\r\n\r\n")),
    ] {
        let response = refused(client, &request).await;
        assert!(!response.contains(CLOSE), "{request}: {response}");
        let next = send_and_read(client, GET).await;
        assert!(next.starts_with("HTTP/1.1 200 "), "{request}: {next}");
    }
}

#[tokio::test]
async fn body_that_has_arrived_keeps_the_connection_open() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    check_arrived_bodies(&mut server.connect().await).await;
}

#[tokio::test]
async fn body_that_has_arrived_keeps_a_tls_connection_open() {
    let files = Files::good();
    let (server, _seen) = TestServer::with(1, ServerLimits::default(), Some(files.load().unwrap()));
    let mut client = files.connect(server.address, &["http/1.1"], &[&TLS13]).await.unwrap();
    check_arrived_bodies(&mut client).await;
}

/// The connection was closed without notice, so that the next request of a client such as Python's was lost.
#[tokio::test]
async fn response_before_the_rest_of_the_body_announces_the_close() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    for request in [
        post("/refused", &length(10), ""),
        post("/refused", &length(10), "01234"),
        post("/refused", &length(1_000_000), &"x".repeat(10_000)),
        post("/refused", "Transfer-Encoding: chunked", ""),
        post("/refused", "Transfer-Encoding: chunked", "3\r\nabc\r\n"),
    ] {
        let mut client = server.connect().await;
        let response = refused(&mut client, &request).await;
        assert!(response.contains(CLOSE), "{request}: {response}");
        client.shutdown().await.unwrap();
        assert_eq!(read_until_closed(&mut client).await, "", "{request}");
    }
}

/// No 100 response makes the client send a body that is discarded (RFC 9110 section 10.1.1).
#[tokio::test]
async fn expected_body_is_not_discarded() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.connect().await;
    let response =
        refused(&mut client, &post("/refused", "Expect: 100-continue\r\nContent-Length: 3", "")).await;
    assert!(response.contains(CLOSE), "{response}");
}

/// The request does not reach the service.
#[tokio::test]
async fn rejected_request_announces_the_close_as_well() {
    let limits = ServerLimits { uri_bytes: 100, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let path = format!("/{}", "x".repeat(100));
    let mut client = server.connect().await;
    let response = send_and_read(&mut client, &post(&path, &length(3), "abc")).await;
    assert!(response.starts_with("HTTP/1.1 414 ") && !response.contains(CLOSE), "{response}");
    let response = send_and_read(&mut client, &post(&path, &length(3), "")).await;
    assert!(response.starts_with("HTTP/1.1 414 ") && response.contains(CLOSE), "{response}");
}

/// The upstream responds before it has the body, and the client has not sent all of it.
#[tokio::test]
async fn early_response_of_an_upstream_announces_the_close() {
    let upstream = listen(|mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        // The end of the connection.
        let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
    })
    .await;
    let route = route("/", &format!("http://{upstream}"), "auth = \"none\"");
    let gateway = TestGatewayBuilder::new(route).start().await;
    let mut client = TcpStream::connect(gateway.listen(ServerLimits::default()).await).await.unwrap();
    client.write_all(post("/", &length(10), "01234").as_bytes()).await.unwrap();
    let response = answer(&mut client).await;
    assert!(response.starts_with("HTTP/1.1 403 ") && response.contains(CLOSE), "{response}");
}
