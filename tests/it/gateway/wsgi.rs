//! WSGI applications behind a worker that serves one request at a time: gunicorn's sync worker, and uWSGI.

use std::net::SocketAddr;

use sekisho::server::ServerLimits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::gateway::{TestGatewayBuilder, route};
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::proxy_server::exchange;
use crate::support::wsgi_server::WsgiServer;

/// Starts a gateway that buffers request bodies, except below `/streamed`.
async fn start(wsgi: &WsgiServer) -> SocketAddr {
    let routes = route("/", &wsgi.url(), "auth = \"none\"\nbuffer_request = \"64KiB\"")
        + &route("/streamed", &wsgi.url(), "auth = \"none\"");
    TestGatewayBuilder::new(routes).start().await.listen(ServerLimits::default()).await
}

/// Returns the application's report in a response.
fn report(response: &str) -> Value {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{response}");
    serde_json::from_str(body).unwrap()
}

async fn ask(server: SocketAddr, request: &str) -> Value {
    report(&timeout(PROCESS_TIMEOUT, exchange(server, request)).await.expect("a response"))
}

/// `routes.buffer_request`: a slow upload does not hold the only worker.
#[tokio::test]
async fn buffer_request_keeps_the_worker_free_during_a_slow_upload() {
    for wsgi in [WsgiServer::gunicorn().await, WsgiServer::uwsgi().await].into_iter().flatten() {
        upload_slowly(start(&wsgi).await).await;
    }
}

async fn upload_slowly(server: SocketAddr) {
    let mut upload = TcpStream::connect(server).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nExpect: 100-continue\r\n\
                Content-Length: 10\r\n\r\n";
    upload.write_all(head.as_bytes()).await.unwrap();
    // The gateway sends it once it reads the body.
    let mut interim = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    upload.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 "));
    upload.write_all(b"01234").await.unwrap();
    let other = ask(server, "GET /other HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n").await;
    let expected = json!({
        "path": "/other", "host": "app.example", "client": "127.0.0.1", "length": null, "read": 0, "coding": null,
    });
    assert_eq!(other, expected);
    upload.write_all(b"56789").await.unwrap();
    let mut response = String::new();
    upload.read_to_string(&mut response).await.unwrap();
    let upload = report(&response);
    assert_eq!((&upload["length"], &upload["read"]), (&json!("10"), &json!(10)));
}

/// `routes.buffer_request`: WSGI has no body without a length.
#[tokio::test]
async fn buffer_request_gives_a_chunked_upload_its_length() {
    for wsgi in [WsgiServer::gunicorn().await, WsgiServer::uwsgi().await].into_iter().flatten() {
        upload_in_chunks(start(&wsgi).await).await;
    }
}

async fn upload_in_chunks(server: SocketAddr) {
    let upload = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n");
        let size = body.len();
        format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n")
    };
    for (path, size, length) in [
        ("/", 10, json!("10")),
        ("/", 65_536, json!("65536")),
        ("/", 65_537, json!(null)),
        ("/streamed", 10, json!(null)),
    ] {
        let found = ask(server, &upload(path, &"x".repeat(size))).await;
        assert_eq!(found["length"], length, "{path} {size}");
        let is_chunked = found["coding"] == json!("chunked");
        assert_eq!(is_chunked, length == json!(null), "{path} {size}");
    }
    let size = 1_000_000;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    );
    let found = ask(server, &(head + &"x".repeat(size))).await;
    assert_eq!((&found["length"], &found["read"]), (&json!("1000000"), &json!(1_000_000)));
}
