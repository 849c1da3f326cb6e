//! Request framing: the proxy and the upstream agree on the end of each request (RFC 9112, sections 5 and 6).

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{LAST, RawServer, StrictUpstream};
use crate::support::gateway::route;
use crate::support::upstream::{listen, read_head};

/// The expected outcome of a request.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// 400, and the connection closes.
    Rejected,
    /// 501, and the connection closes (RFC 9112, section 6.1).
    NotImplemented,
    /// Forwarded with this body and this framing.
    Forwarded(&'static str, &'static str),
}
use Outcome::{Forwarded, NotImplemented, Rejected};

/// Sends a `POST` with these header lines and this body, followed by a second request.
async fn check_request(
    server: &RawServer,
    upstream: &mut StrictUpstream,
    lines: &str,
    body: &str,
    outcome: Outcome,
) {
    let case = format!("{lines:?} {body:?}");
    let head = format!("POST /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let response = server.send(format!("{head}{body}{LAST}")).await;
    let seen = upstream.seen();
    match outcome {
        Rejected | NotImplemented => {
            let status = if matches!(outcome, Rejected) { 400 } else { 501 };
            assert_eq!(response.status(), status, "{case}: {response:?}");
            assert!(seen.is_empty(), "{case}: {seen:?}");
        }
        Forwarded(expected, framing) => {
            assert!(response.0.starts_with("HTTP/1.1 200 "), "{case}: {response:?}");
            assert_eq!(seen[0].request_line(), "POST /first", "{case}");
            assert_eq!(String::from_utf8_lossy(&seen[0].body), expected, "{case}");
            assert_eq!(seen[0].framing().as_deref(), Some(framing), "{case}");
            let behind: Vec<_> = seen[1..].iter().map(super::recorder::RawRequest::request_line).collect();
            // Closing the connection is allowed too; forwarding anything but the second request is not.
            assert!(behind == ["GET /last"] || behind.is_empty(), "{case}: {behind:?}");
        }
    }
}

async fn check_all(cases: &[(&str, &str, Outcome)]) {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for (lines, body, outcome) in cases {
        check_request(&server, &mut upstream, lines, body, *outcome).await;
    }
}

// Transfer-Encoding (P-5).
#[tokio::test]
async fn request_has_at_most_one_framing() {
    check_all(&[
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", Forwarded("abc", "chunked")),
        ("Transfer-Encoding: CHUNKED", "3\r\nabc\r\n0\r\n\r\n", Forwarded("abc", "chunked")),
        // RFC 9112, section 6.3: hyper drops the Content-Length.
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "3\r\nabc\r\n0\r\n\r\n",
            Forwarded("abc", "chunked"),
        ),
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
            Forwarded("abc", "chunked"),
        ),
        ("Content-Length: 60\r\nTransfer-Encoding: chunked", "0\r\n\r\n", Forwarded("", "chunked")),
        // The only transfer coding that the gateway implements is `chunked`.
        ("Transfer-Encoding: gzip, chunked", "3\r\nabc\r\n0\r\n\r\n", NotImplemented),
        ("Transfer-Encoding: chunked, chunked", "3\r\nabc\r\n0\r\n\r\n", NotImplemented),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", NotImplemented),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n", NotImplemented),
        ("Transfer-Encoding: , chunked", "0\r\n\r\n", NotImplemented),
        ("Transfer-Encoding: chunked,", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: identity", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked, gzip", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: \"chunked\"", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked;q=1", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked chunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding : chunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding\t: chunked", "0\r\n\r\n", Rejected),
        (" Transfer-Encoding: chunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: \x0bchunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: chunked\x0b", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: \x00chunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding:\r\n chunked", "0\r\n\r\n", Rejected),
        ("Transfer-Encoding: ", "0\r\n\r\n", Rejected),
        ("X: y\rTransfer-Encoding: chunked", "0\r\n\r\n", Rejected),
        ("X: y\r\n\x00Transfer-Encoding: chunked", "0\r\n\r\n", Rejected),
    ])
    .await;
}

// Transfer-Encoding in HTTP/1.0 (P-5).
#[tokio::test]
async fn http10_chunked_request_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for lines in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: x",
    ] {
        for connection in ["", "Connection: keep-alive\r\n"] {
            let request = format!("POST / HTTP/1.0\r\nHost: a\r\n{connection}{lines}\r\n\r\n0\r\n\r\n{LAST}");
            let response = server.send(request).await;
            assert!(
                response.0.starts_with("HTTP/1.0 400 ") || response.0.starts_with("HTTP/1.1 400 "),
                "{response:?}"
            );
            assert_eq!(response.0.matches("HTTP/1.").count(), 1, "{response:?}");
            assert!(upstream.seen().is_empty(), "{lines}");
        }
    }
}

// Content-Length (P-6).
#[tokio::test]
async fn invalid_content_length_is_rejected() {
    check_all(&[
        ("Content-Length: 3", "abc", Forwarded("abc", "length 3")),
        ("content-length: 003", "abc", Forwarded("abc", "length 3")),
        ("Content-Length:\t3 ", "abc", Forwarded("abc", "length 3")),
        ("Content-Length: 3\r\nContent-Length: 3", "abc", Forwarded("abc", "length 3")),
        ("Content-Length: 0", "", Forwarded("", "length 0")),
        ("Content-Length: +3", "abc", Rejected),
        ("Content-Length: -3", "abc", Rejected),
        ("Content-Length: 0x3", "abc", Rejected),
        ("Content-Length: 3.0", "abc", Rejected),
        ("Content-Length: 3e0", "abc", Rejected),
        ("Content-Length: 1_0", "abc", Rejected),
        ("Content-Length:", "abc", Rejected),
        ("Content-Length: 3 3", "abc", Rejected),
        ("Content-Length: 3, 3", "abc", Rejected),
        ("Content-Length: 3,", "abc", Rejected),
        ("Content-Length: \"3\"", "abc", Rejected),
        ("Content-Length: \x0b3", "abc", Rejected),
        ("Content-Length: 3\x00", "abc", Rejected),
        ("Content-Length: \u{ff13}", "abc", Rejected),
        ("Content-Length: 18446744073709551616", "abc", Rejected),
        ("Content-Length: 18446744073709551619", "abc", Rejected),
        ("Content-Length: 99999999999999999999999999", "abc", Rejected),
        ("Content-Length: 3\r\nContent-Length: 4", "abc", Rejected),
        ("Content-Length: 4\r\nContent-Length: 3", "abc", Rejected),
        ("Content-Length: 3\r\nContent-Length: +3", "abc", Rejected),
        ("Content-Length : 3", "abc", Rejected),
    ])
    .await;
}

// Chunked encoding (P-5).
#[tokio::test]
async fn malformed_chunks_are_not_forwarded() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    let head = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "-1\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "3;ext\nabc\r\n0\r\n\r\n",
        "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ] {
        let response = server.send(format!("{head}{body}{LAST}")).await;
        assert_eq!(response.status(), 400, "{body:?}: {response:?}");
        assert!(upstream.complete().is_empty(), "{body:?}");
    }
    // Chunk extensions are dropped.
    for body in
        ["3;ext\r\nabc\r\n0\r\n\r\n", "3 ;a=\"b;\"\r\nabc\r\n0;x\r\n\r\n", "0003\r\nabc\r\n000\r\n\r\n"]
    {
        check_request(
            &server,
            &mut upstream,
            "Transfer-Encoding: chunked",
            body,
            Forwarded("abc", "chunked"),
        )
        .await;
    }
}

// Field lines (P-7).
#[tokio::test]
async fn malformed_header_lines_are_rejected() {
    check_all(&[
        ("X : y\r\nContent-Length: 0", "", Rejected),
        ("X\t: y\r\nContent-Length: 0", "", Rejected),
        (" X: y\r\nContent-Length: 0", "", Rejected),
        ("X: y\r\n folded\r\nContent-Length: 0", "", Rejected),
        ("X: y\r\n\tfolded\r\nContent-Length: 0", "", Rejected),
        ("X: y\r\n \r\nContent-Length: 0", "", Rejected),
        ("X: y\rz\r\nContent-Length: 0", "", Rejected),
        ("X: y\x00z\r\nContent-Length: 0", "", Rejected),
        ("X: y\x7fz\r\nContent-Length: 0", "", Rejected),
        ("X\x00: y\r\nContent-Length: 0", "", Rejected),
        ("X y: z\r\nContent-Length: 0", "", Rejected),
        ("X\r\nContent-Length: 0", "", Rejected),
        (": y\r\nContent-Length: 0", "", Rejected),
        ("(X): y\r\nContent-Length: 0", "", Rejected),
        ("X\u{e9}: y\r\nContent-Length: 0", "", Rejected),
    ])
    .await;
}

/// hyper accepts a bare LF as line terminator; forwarded lines end in CRLF, which `StrictUpstream` requires
/// (P-7).
#[tokio::test]
async fn bare_line_feeds_are_normalized() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    let request = "POST /first HTTP/1.1\nHost: a\nContent-Length: 3\nX: y\n\nabc";
    let response = server.send(format!("{request}{LAST}")).await;
    assert!(response.0.starts_with("HTTP/1.1 200 "), "{response:?}");
    let seen = upstream.seen();
    assert_eq!(
        seen.iter().map(super::recorder::RawRequest::request_line).collect::<Vec<_>>(),
        ["POST /first", "GET /last"]
    );
    assert_eq!((seen[0].all("x"), &*seen[0].body), (vec!["y"], &b"abc"[..]));
}

/// C20: other spellings of framing and hop-by-hop headers, which CGI-like applications read as these.
#[tokio::test]
async fn other_spellings_of_framing_headers_are_not_forwarded() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    let names = [
        "Transfer_Encoding",
        "transfer.encoding",
        "Content_Length",
        "content.length",
        "CONTENT!LENGTH",
        "Keep_Alive",
        "Proxy_Connection",
        "Proxy_Authorization",
    ];
    for name in names {
        let lines = format!("{name}: chunked\r\nX: y\r\nContent-Length: 3");
        check_request(&server, &mut upstream, &lines, "abc", Forwarded("abc", "length 3")).await;
        server.get("/", &format!("{name}: 5\r\nContent_Type: a\r\n")).await;
        let seen = upstream.seen();
        assert!(seen[0].all(name).is_empty(), "{name}");
        assert_eq!(seen[0].all("content_type"), ["a"], "{name}");
    }
}

/// Starts an upstream that ignores bodies: it reads what follows a head as the next request. It records the heads.
async fn start_ignorant_upstream() -> (String, mpsc::UnboundedReceiver<String>) {
    let (record, heads) = mpsc::unbounded_channel();
    let address = listen(move |mut socket| {
        let record = record.clone();
        async move {
            loop {
                let head = String::from_utf8(read_head(&mut socket).await).unwrap();
                if head.is_empty() {
                    return;
                }
                let closes = head.to_lowercase().contains("\r\nconnection: close");
                record.send(head).unwrap();
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                if closes {
                    return;
                }
            }
        }
    })
    .await;
    (format!("http://{address}"), heads)
}

/// C14: an upstream that ignores the body of a `GET` took it for a second request, with a forged user.
#[tokio::test]
async fn body_without_meaning_is_not_read_as_a_request() {
    let (upstream, mut heads) = start_ignorant_upstream().await;
    let server = RawServer::with_upstream(&upstream).await;
    let forged = "GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-User: root\r\n\r\n";
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let length = forged.len();
        for (framing, body) in [
            (format!("Content-Length: {length}"), forged.to_owned()),
            ("Transfer-Encoding: chunked".to_owned(), format!("{length:x}\r\n{forged}\r\n0\r\n\r\n")),
        ] {
            let head = format!("{method} /first HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
            server.send(format!("{head}{body}{LAST}")).await;
            let head = heads.recv().await.unwrap();
            assert!(head.starts_with(&format!("{method} /first ")), "{head}");
            let head = heads.recv().await.unwrap();
            assert!(head.starts_with("GET /last "), "{method}: {head}");
        }
    }
    assert!(heads.try_recv().is_err());
}

/// C14: `routes.get_body = "refuse"`.
#[tokio::test]
async fn routes_get_body_refuses_bodies() {
    let mut upstream = StrictUpstream::start().await;
    let server =
        RawServer::start(route("/", &upstream.url(), "auth = \"none\"\nget_body = \"refuse\"")).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for framing in
            ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
        {
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}");
            let response = server.send(request).await;
            assert_eq!(response.status(), 400, "{method} {framing}: {response:?}");
            assert!(
                method == "HEAD" || response.body().contains("\"code\":\"body_not_allowed\""),
                "{response:?}"
            );
            assert!(upstream.seen().is_empty(), "{method} {framing}");
        }
        let empty =
            format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(server.send(empty).await.status(), 200, "{method}");
        assert_eq!(upstream.seen().len(), 1, "{method}");
    }
    check_request(&server, &mut upstream, "Content-Length: 3", "abc", Forwarded("abc", "length 3")).await;
}
