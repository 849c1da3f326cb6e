//! The case of header names in upstream requests (`routes.header_case`).

use sekisho::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::gateway::{TestGatewayBuilder, route};
use crate::support::proxy_server::exchange;
use crate::support::upstream::listen;

const REQUEST: &str = "POST /a:b HTTP/1.1\r\nHost: app.example\r\nConnection: close, TE\r\nTE: trailers\r\n\
    if-none-match: \"a:b\"\r\nDNT: 1\r\nx-xss-protection: 0\r\nX_Odd: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
    3\r\nabc\r\n0\r\nx-checksum: 7\r\n\r\n";

/// Starts an upstream that reports each request with its body and trailers.
async fn recording_upstream() -> (String, mpsc::UnboundedReceiver<String>) {
    let (record, requests) = mpsc::unbounded_channel();
    let address = listen(move |mut socket| {
        let record = record.clone();
        async move {
            let mut request = Vec::new();
            while !request.ends_with(b": 7\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let _ = record.send(String::from_utf8(request).unwrap());
            let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        }
    })
    .await;
    (format!("http://{address}"), requests)
}

#[tokio::test]
async fn header_case_applies_to_all_names() {
    let (upstream, mut requests) = recording_upstream().await;
    let routes = route("/a:b", &upstream, "auth = \"none\"\nheader_case = \"title\"")
        + &route("/lower", &upstream, "auth = \"none\"");
    let server = TestGatewayBuilder::new(routes).start().await.listen(ServerLimits::default()).await;
    assert!(exchange(server, REQUEST).await.starts_with("HTTP/1.1 204"));
    let title = requests.recv().await.unwrap();
    assert!(exchange(server, REQUEST.replace("/a:b", "/lower")).await.starts_with("HTTP/1.1 204"));
    let lower = requests.recv().await.unwrap();
    assert!(title.starts_with("POST /a:b HTTP/1.1\r\nHost: app.example\r\n"), "{title}");
    for line in [
        "If-None-Match: \"a:b\"",
        "DNT: 1",
        "X-XSS-Protection: 0",
        "X_odd: 1",
        "Transfer-Encoding: chunked",
        "Connection: te",
        "TE: trailers",
        "X-Forwarded-For: 127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "X-Checksum: 7",
    ] {
        assert!(title.lines().any(|found| found == line), "{line}: {title}");
        let (name, value) = line.split_once(": ").unwrap();
        let line = format!("{}: {value}", name.to_lowercase());
        assert!(lower.lines().any(|found| found == line), "{line}: {lower}");
    }
    let (head, _) = title.split_once("\r\n\r\n").unwrap();
    let is_lower = |line: &str| line.starts_with(|first: char| first.is_ascii_lowercase());
    assert!(!head.lines().any(is_lower), "{title}");
}
