//! Clients that disconnect before the response: their requests are cancelled.

use rustls::version::TLS13;
use sekisho::server::ServerLimits;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::support::process::until;
use crate::support::test_server::{Files, GET, TestServer, answer, get1, send_and_read};

/// Allows one request in flight, so that a second one succeeds only after the first is cancelled.
fn one_at_a_time() -> ServerLimits {
    ServerLimits { in_flight: 1, ..ServerLimits::default() }
}

async fn check_disconnect_is_detected<S: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> S) {
    let served = async || send_and_read(&mut connect().await, GET).await.starts_with("HTTP/1.1 200");
    let mut client = connect().await;
    client.write_all(get1("/slow").as_bytes()).await.unwrap();
    until("the request to be in flight", async || (!served().await).then_some(())).await;
    drop(client);
    until("the request to be cancelled", async || served().await.then_some(())).await;
}

#[tokio::test]
async fn client_disconnect_is_detected() {
    let (server, _seen) = TestServer::start(1, one_at_a_time());
    check_disconnect_is_detected(async || server.connect().await).await;
}

#[tokio::test]
async fn client_disconnect_is_detected_through_tls() {
    let files = Files::good();
    let (server, _seen) = TestServer::with(1, one_at_a_time(), Some(files.load().unwrap()));
    check_disconnect_is_detected(async || {
        files.connect(server.address, &["http/1.1"], &[&TLS13]).await.unwrap()
    })
    .await;
}

/// Readable bytes are not an end of stream.
#[tokio::test]
async fn pipelined_request_is_not_a_disconnect() {
    let (server, mut seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.connect().await;
    client.write_all(get1("/slow").as_bytes()).await.unwrap();
    assert_eq!(seen.recv().await.as_deref(), Some("/slow"));
    client.write_all(get1("/next").as_bytes()).await.unwrap();
    // A round trip on another connection, by which the worker thread has polled this one.
    assert!(send_and_read(&mut server.connect().await, GET).await.starts_with("HTTP/1.1 200"));
    server.script.release();
    assert!(answer(&mut client).await.ends_with("at last"));
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
}
