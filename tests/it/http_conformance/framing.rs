//! Request framing: the proxy and the upstream agree on the end of each request (RFC 9112, sections 5 and 6).

use super::{LAST, RawServer, StrictUpstream};

/// The expected outcome of a request.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// 400, and the connection closes.
    Refused,
    /// 501, and the connection closes (RFC 9112, section 6.1).
    Unknown,
    /// Forwarded with this body and this framing.
    Passes(&'static str, &'static str),
}
use Expected::{Passes, Refused, Unknown};

/// Sends a `POST` with these header lines and this body, followed by a second request.
async fn check_request(
    program: &RawServer,
    upstream: &mut StrictUpstream,
    lines: &str,
    body: &str,
    fate: Expected,
) {
    let case = format!("{lines:?} {body:?}");
    let head = format!("POST /first HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    let said = program.say(format!("{head}{body}{LAST}")).await;
    let seen = upstream.seen();
    match fate {
        Refused | Unknown => {
            let status = if matches!(fate, Refused) { 400 } else { 501 };
            assert_eq!(said.status(), status, "{case}: {said:?}");
            assert!(seen.is_empty(), "{case}: {seen:?}");
        }
        Passes(expected, framing) => {
            assert!(said.0.starts_with("HTTP/1.1 200 "), "{case}: {said:?}");
            assert_eq!(seen[0].asked(), "POST /first", "{case}");
            assert_eq!(String::from_utf8_lossy(&seen[0].body), expected, "{case}");
            assert_eq!(seen[0].framing().as_deref(), Some(framing), "{case}");
            let behind: Vec<_> = seen[1..].iter().map(super::recorder::Recorded::asked).collect();
            // Closing the connection is allowed too; forwarding anything but the second request is not.
            assert!(behind == ["GET /last"] || behind.is_empty(), "{case}: {behind:?}");
        }
    }
}

async fn check_all(cases: &[(&str, &str, Expected)]) {
    let mut upstream = StrictUpstream::start().await;
    let program = RawServer::open(&upstream.url()).await;
    for (lines, body, fate) in cases {
        check_request(&program, &mut upstream, lines, body, *fate).await;
    }
}

// Transfer-Encoding (P-5).
#[tokio::test]
async fn request_has_at_most_one_framing() {
    check_all(&[
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", Passes("abc", "chunked")),
        ("Transfer-Encoding: CHUNKED", "3\r\nabc\r\n0\r\n\r\n", Passes("abc", "chunked")),
        // RFC 9112, section 6.3: hyper drops the Content-Length.
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "3\r\nabc\r\n0\r\n\r\n",
            Passes("abc", "chunked"),
        ),
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
            Passes("abc", "chunked"),
        ),
        ("Content-Length: 60\r\nTransfer-Encoding: chunked", "0\r\n\r\n", Passes("", "chunked")),
        // The only transfer coding that the gateway implements is `chunked`.
        ("Transfer-Encoding: gzip, chunked", "3\r\nabc\r\n0\r\n\r\n", Unknown),
        ("Transfer-Encoding: chunked, chunked", "3\r\nabc\r\n0\r\n\r\n", Unknown),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n", Unknown),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n", Unknown),
        ("Transfer-Encoding: , chunked", "0\r\n\r\n", Unknown),
        ("Transfer-Encoding: chunked,", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: identity", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked, gzip", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: \"chunked\"", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked;q=1", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked chunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "0\r\n\r\n", Refused),
        ("Transfer-Encoding : chunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding\t: chunked", "0\r\n\r\n", Refused),
        (" Transfer-Encoding: chunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: \x0bchunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: chunked\x0b", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: \x00chunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding:\r\n chunked", "0\r\n\r\n", Refused),
        ("Transfer-Encoding: ", "0\r\n\r\n", Refused),
        ("X: y\rTransfer-Encoding: chunked", "0\r\n\r\n", Refused),
        ("X: y\r\n\x00Transfer-Encoding: chunked", "0\r\n\r\n", Refused),
    ])
    .await;
}

// Transfer-Encoding in HTTP/1.0 (P-5).
#[tokio::test]
async fn http10_chunked_request_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let program = RawServer::open(&upstream.url()).await;
    for lines in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: x",
    ] {
        for connection in ["", "Connection: keep-alive\r\n"] {
            let request = format!("POST / HTTP/1.0\r\nHost: a\r\n{connection}{lines}\r\n\r\n0\r\n\r\n{LAST}");
            let said = program.say(request).await;
            assert!(said.0.starts_with("HTTP/1.0 400 ") || said.0.starts_with("HTTP/1.1 400 "), "{said:?}");
            assert_eq!(said.0.matches("HTTP/1.").count(), 1, "{said:?}");
            assert!(upstream.seen().is_empty(), "{lines}");
        }
    }
}

// Content-Length (P-6).
#[tokio::test]
async fn invalid_content_length_is_rejected() {
    check_all(&[
        ("Content-Length: 3", "abc", Passes("abc", "length 3")),
        ("content-length: 003", "abc", Passes("abc", "length 3")),
        ("Content-Length:\t3 ", "abc", Passes("abc", "length 3")),
        ("Content-Length: 3\r\nContent-Length: 3", "abc", Passes("abc", "length 3")),
        ("Content-Length: 0", "", Passes("", "length 0")),
        ("Content-Length: +3", "abc", Refused),
        ("Content-Length: -3", "abc", Refused),
        ("Content-Length: 0x3", "abc", Refused),
        ("Content-Length: 3.0", "abc", Refused),
        ("Content-Length: 3e0", "abc", Refused),
        ("Content-Length: 1_0", "abc", Refused),
        ("Content-Length:", "abc", Refused),
        ("Content-Length: 3 3", "abc", Refused),
        ("Content-Length: 3, 3", "abc", Refused),
        ("Content-Length: 3,", "abc", Refused),
        ("Content-Length: \"3\"", "abc", Refused),
        ("Content-Length: \x0b3", "abc", Refused),
        ("Content-Length: 3\x00", "abc", Refused),
        ("Content-Length: \u{ff13}", "abc", Refused),
        ("Content-Length: 18446744073709551616", "abc", Refused),
        ("Content-Length: 18446744073709551619", "abc", Refused),
        ("Content-Length: 99999999999999999999999999", "abc", Refused),
        ("Content-Length: 3\r\nContent-Length: 4", "abc", Refused),
        ("Content-Length: 4\r\nContent-Length: 3", "abc", Refused),
        ("Content-Length: 3\r\nContent-Length: +3", "abc", Refused),
        ("Content-Length : 3", "abc", Refused),
    ])
    .await;
}

// Chunked encoding (P-5).
#[tokio::test]
async fn malformed_chunks_are_not_forwarded() {
    let mut upstream = StrictUpstream::start().await;
    let program = RawServer::open(&upstream.url()).await;
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
        let said = program.say(format!("{head}{body}{LAST}")).await;
        assert_eq!(said.status(), 400, "{body:?}: {said:?}");
        assert!(upstream.whole().is_empty(), "{body:?}");
    }
    // Chunk extensions are dropped.
    for body in
        ["3;ext\r\nabc\r\n0\r\n\r\n", "3 ;a=\"b;\"\r\nabc\r\n0;x\r\n\r\n", "0003\r\nabc\r\n000\r\n\r\n"]
    {
        check_request(&program, &mut upstream, "Transfer-Encoding: chunked", body, Passes("abc", "chunked"))
            .await;
    }
}

// Field lines (P-7).
#[tokio::test]
async fn malformed_header_lines_are_rejected() {
    check_all(&[
        ("X : y\r\nContent-Length: 0", "", Refused),
        ("X\t: y\r\nContent-Length: 0", "", Refused),
        (" X: y\r\nContent-Length: 0", "", Refused),
        ("X: y\r\n folded\r\nContent-Length: 0", "", Refused),
        ("X: y\r\n\tfolded\r\nContent-Length: 0", "", Refused),
        ("X: y\r\n \r\nContent-Length: 0", "", Refused),
        ("X: y\rz\r\nContent-Length: 0", "", Refused),
        ("X: y\x00z\r\nContent-Length: 0", "", Refused),
        ("X: y\x7fz\r\nContent-Length: 0", "", Refused),
        ("X\x00: y\r\nContent-Length: 0", "", Refused),
        ("X y: z\r\nContent-Length: 0", "", Refused),
        ("X\r\nContent-Length: 0", "", Refused),
        (": y\r\nContent-Length: 0", "", Refused),
        ("(X): y\r\nContent-Length: 0", "", Refused),
        ("X\u{e9}: y\r\nContent-Length: 0", "", Refused),
    ])
    .await;
}

/// hyper accepts a bare LF as line terminator; forwarded lines end in CRLF, which `StrictUpstream` requires
/// (P-7).
#[tokio::test]
async fn bare_line_feeds_are_normalized() {
    let mut upstream = StrictUpstream::start().await;
    let program = RawServer::open(&upstream.url()).await;
    let request = "POST /first HTTP/1.1\nHost: a\nContent-Length: 3\nX: y\n\nabc";
    let said = program.say(format!("{request}{LAST}")).await;
    assert!(said.0.starts_with("HTTP/1.1 200 "), "{said:?}");
    let seen = upstream.seen();
    assert_eq!(
        seen.iter().map(super::recorder::Recorded::asked).collect::<Vec<_>>(),
        ["POST /first", "GET /last"]
    );
    assert_eq!((seen[0].all("x"), &*seen[0].body), (vec!["y"], &b"abc"[..]));
}
