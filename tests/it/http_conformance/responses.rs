//! Upstream responses: one response per request, with one framing, and without the gateway's own headers.

use sekisho::models::user::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{RawResponse, RawServer, StrictUpstream};
use crate::support::gateway::route;
use crate::support::log::Log;
use crate::support::upstream::raw_upstream;

/// Returns the response to the client when the upstream sends these bytes and closes.
async fn proxied_response(raw_response: impl Into<Vec<u8>>) -> RawResponse {
    proxied_response_to("GET", raw_response).await
}

async fn proxied_response_to(method: &str, raw_response: impl Into<Vec<u8>>) -> RawResponse {
    let server = RawServer::with_upstream(&raw_upstream(raw_response.into().leak()).await).await;
    server.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

/// Returns the headers that frame the body.
fn framing(response: &RawResponse) -> Vec<String> {
    let lengths = response.all("content-length").into_iter().map(|length| format!("length {length}"));
    lengths.chain(response.all("transfer-encoding").into_iter().map(str::to_owned)).collect()
}

// Invalid field lines and status lines of upstreams (P-7).
#[tokio::test]
async fn ambiguous_response_is_502() {
    for lines in [
        " X: y",
        "X: y\r\n folded",
        "X: y\r\n\tfolded",
        "X: y\rz",
        "X: y\0z",
        "X: y\x7fz",
        "X\0: y",
        "X y: z",
        "X",
        ": y",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 3",
        "Content-Length: -2",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length:",
        "Content-Length: 18446744073709551618",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \x0bchunked",
    ] {
        let response = proxied_response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nok")).await;
        assert_eq!(response.status(), 502, "{lines:?}: {response:?}");
        assert!(response.body().contains("\"code\":\"upstream_error\""), "{response:?}");
    }
    for raw_response in [
        "HTTP/1.1 200 OK\rX: y\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>ok</html>",
        "HTTP/1.1 200 OK\r\nX: y",
        "",
    ] {
        let response = proxied_response(raw_response).await;
        assert_eq!(response.status(), 502, "{raw_response:?}: {response:?}");
    }
}

// P-5 and P-7.
#[tokio::test]
async fn response_has_one_framing() {
    for (lines, body, framed, expected) in [
        ("Content-Length: 2", "ok", "length 2", "ok"),
        ("Content-Length: 002", "ok", "length 2", "ok"),
        ("Content-Length: 2\r\nContent-Length: 2", "ok", "length 2", "ok"),
        ("Content-Length: 2, 2", "ok", "length 2", "ok"),
        ("Transfer-Encoding: chunked", "2\r\nok\r\n0\r\n\r\n", "chunked", "2\r\nok\r\n0\r\n\r\n"),
        (
            "Content-Length: 9\r\nTransfer-Encoding: chunked",
            "2\r\nok\r\n0\r\n\r\n",
            "chunked",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "2;x\r\nok\r\n0\r\n\r\n",
            "chunked",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        ("X: y", "until the end", "chunked", "D\r\nuntil the end\r\n0\r\n\r\n"),
    ] {
        let response = proxied_response(format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}")).await;
        assert_eq!(response.status(), 200, "{lines}");
        assert_eq!((framing(&response), response.body()), (vec![framed.to_owned()], expected), "{lines}");
    }
    // RFC 9112, section 2.2: hyper accepts a bare LF as line terminator. Forwarded lines end in CRLF.
    let response = proxied_response("HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok").await;
    assert_eq!((response.status(), response.all("x"), response.body()), (200, vec!["y"], "ok"));
    assert!(response.head().lines().count() == response.head().matches("\r\n").count() + 1, "{response:?}");
}

// Response splitting (P-15).
#[tokio::test]
async fn header_values_cannot_inject_lines() {
    let stolen = "__Host-access_token=stolen; Path=/; Secure";
    for value in ["x\rSet-Cookie: ", "x\0\r\nX : y\r\nSet-Cookie: ", "x\r\n Set-Cookie: "] {
        let response =
            proxied_response(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {value}{stolen}\r\n\r\n"))
                .await;
        assert_eq!(response.status(), 502, "{value:?}");
        assert!(!response.0.contains("stolen"), "{value:?}");
    }
    // After a line feed it is a header line of its own, and session cookies of upstreams are removed.
    let response = proxied_response(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: x\nSet-Cookie: {stolen}\r\n\r\n"
    ))
    .await;
    assert_eq!((response.status(), response.all("x")), (200, vec!["x"]));
    assert!(!response.0.contains("stolen"), "{response:?}");
    // Request values are neither reflected in a response header nor decoded into an upstream header.
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    let response =
        server.get("/x?a=%0d%0aSet-Cookie:%20b=1", "X: %0d%0aY: z\r\nOrigin: http://a%0d%0ab\r\n").await;
    assert_eq!(response.status(), 200);
    assert!(response.all("set-cookie").is_empty(), "{response:?}");
    let seen = upstream.seen();
    assert_eq!(
        (seen[0].request_line(), seen[0].all("x")),
        ("GET /x?a=%0d%0aSet-Cookie:%20b=1", vec!["%0d%0aY: z"])
    );
}

// Truncated responses (P-16).
#[tokio::test]
async fn truncated_response_is_not_complete() {
    for (raw_response, whole_length) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Some(10)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Sum: 7\r\n", None),
    ] {
        let response = proxied_response(raw_response).await;
        assert_eq!(response.status(), 200, "{raw_response:?}");
        match whole_length {
            Some(length) => {
                assert_eq!(response.all("content-length"), [length.to_string()]);
                assert!(response.body().len() < length, "{response:?}");
            }
            None => assert!(
                !response.0.ends_with("0\r\n\r\n") && framing(&response) == ["chunked"],
                "{response:?}"
            ),
        }
    }
}

// P-14 and P-23.
#[tokio::test]
async fn bodiless_responses_have_no_framing() {
    for (method, raw_response, expected, framed) in [
        ("GET", "204 No Content\r\nX: y", 204, &[][..]),
        ("GET", "204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, &[]),
        ("GET", "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0", 204, &[]),
        ("DELETE", "204 No Content\r\nContent-Length: 0", 204, &[]),
        ("GET", "304 Not Modified\r\nETag: \"1\"", 304, &[]),
        ("GET", "304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0", 304, &[]),
        ("HEAD", "200 OK\r\nContent-Length: 5", 200, &["length 5"]),
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, &["length 5"]),
        ("HEAD", "404 Not Found\r\nContent-Length: 0", 404, &["length 0"]),
    ] {
        let response = proxied_response_to(method, format!("HTTP/1.1 {raw_response}\r\n\r\n")).await;
        assert_eq!(response.status(), expected, "{method} {raw_response:?}: {response:?}");
        assert_eq!(
            (framing(&response), response.body()),
            (framed.iter().map(ToString::to_string).collect(), ""),
            "{raw_response:?}"
        );
    }
    // A body that follows a bodiless response must not be read as the response to the next request.
    let poisoned =
        "HTTP/1.1 204 No Content\r\nContent-Length: 36\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let upstream = StrictUpstream::responding(poisoned).await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let head = crate::support::upstream::read_head(&mut socket).await;
        assert!(head.starts_with(b"HTTP/1.1 204 "), "{}", String::from_utf8_lossy(&head));
    }
    drop(socket.shutdown().await);
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Interim responses are dropped (P-23). hyper sends its own 100 when the request body is polled.
#[tokio::test]
async fn early_hints_are_dropped() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for early in [
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nSet-Cookie: __Host-access_token=x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
    ] {
        let response = proxied_response(format!("{early}{last}")).await;
        assert_eq!((response.status(), response.body()), (200, "ok"));
        assert!(!response.0.contains("Link") && !response.0.contains("__Host"), "{response:?}");
    }
}

// C-6.
#[tokio::test]
async fn upstream_cannot_set_session_cookies_in_any_spelling() {
    let names = crate::support::gateway::NAMES;
    let mut lines = String::new();
    for name in names {
        for cookie in [
            format!("{name}=x"),
            format!("{name}=x; Path=/; Secure; HttpOnly"),
            format!(" \t{name} \t= x"),
            name.to_owned(),
            format!("={name}=x"),
            format!("= {name}=x"),
            format!("=={name}=x"),
            format!("={name}"),
            format!("{name}=;Max-Age=0"),
            format!("{name}=x=y"),
        ] {
            lines += &format!("Set-Cookie: {cookie}\r\nset-cookie:{cookie}\r\n");
        }
    }
    // Other cookies, which are forwarded unchanged and in order.
    let others = [
        "a=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT",
        "b=__Host-access_token=x",
        "a=2, __Host-access_token=x",
        "__Host-access_token2=x",
        "__host-access_token=x",
        "c=\"q; r\"",
        "a=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT",
        "d",
        "=e",
    ];
    for other in others {
        lines += &format!("Set-Cookie: {other}\r\n");
    }
    lines += "Set-Cookie2: __Host-access_token=x\r\nClear-Site-Data: \"*\"\r\nX-Session-Event: rotated\r\n";
    let raw_response = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{lines}\r\n").into_bytes();
    let upstream = raw_upstream(raw_response.leak()).await;
    let response = RawServer::with_upstream(&upstream).await.get("/", "").await;
    assert_eq!(response.all("set-cookie"), others);
    assert!(response.all("x-session-event").is_empty());
    assert!(!response.all("clear-site-data").concat().contains('*'));

    // The session cookies follow the upstream's cookies, one of each.
    let server = RawServer::start(route("/", &upstream, "")).await;
    let cookies = server.gateway.signed_in(Role::User).await;
    server.gateway.expire();
    let response = server.get("/", &format!("Cookie: {}\r\n", cookies.line())).await;
    let ours = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}=")));
    let set = response.all("set-cookie");
    assert_eq!((set.iter().filter(|line| ours(line)).count(), set.len()), (2, others.len() + 2));
    assert_eq!(response.all("x-session-event"), ["rotated"]);
}

/// C18: reason phrases were replaced, and a status without a registered one got `<none>`.
#[tokio::test]
async fn reason_phrases_are_forwarded() {
    for (line, expected) in [
        ("200 OK", "200 OK"),
        ("200 Fine by me", "200 Fine by me"),
        ("302 Moved Temporarily", "302 Moved Temporarily"),
        ("404 Non trouv\u{e9}", "404 Non trouv\u{e9}"),
        ("200 ", "200 "),
        ("200", "200 "),
        ("599 Odd", "599 Odd"),
        ("599 ", "599 "),
        ("599", "599 "),
        ("999 Blocked", "999 Blocked"),
    ] {
        let response = proxied_response(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok")).await;
        let status_line = response.0.split("\r\n").next().unwrap();
        assert_eq!(status_line, format!("HTTP/1.1 {expected}"), "{line:?}");
        assert_eq!(response.body(), "ok", "{line:?}");
    }
}

/// C18: a response with one odd field name was rejected as a whole.
#[tokio::test]
async fn response_fields_with_odd_names_are_dropped() {
    let log = Log::default();
    let _capture = log.capture();
    for line in ["X(a): 1", "[X]: 1", "X\"a\": 1", "X\u{e9}: 1", "X/a : 1", "<X>: a: b", "@: 1"] {
        let raw_response =
            format!("HTTP/1.1 200 OK\r\nA: 1\r\n{line}\r\nContent-Length: 2\r\nB: 2\r\n\r\nok");
        let response = proxied_response(raw_response).await;
        assert_eq!((response.status(), response.body()), (200, "ok"), "{line}: {response:?}");
        assert_eq!((response.all("a"), response.all("b")), (vec!["1"], vec!["2"]), "{line}");
        let name = line.split(':').next().unwrap().trim().to_lowercase();
        assert!(!response.head().to_lowercase().contains(&name), "{line}: {response:?}");
    }
    let dropped =
        || log.lines().into_iter().filter(|line| line.contains("invalid name dropped")).collect::<Vec<_>>();
    assert_eq!(dropped().len(), 7, "{:?}", log.lines());
    assert!(dropped()[0].contains("X(a)"), "{:?}", log.lines());

    let upstream =
        StrictUpstream::responding("HTTP/1.1 200 OK\r\nX(a): 1\r\nContent-Length: 2\r\n\r\nok").await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for _ in 0..3 {
        assert_eq!(server.get("/", "").await.body(), "ok");
    }
    assert_eq!(dropped().len(), 8, "one line a minute for an upstream: {:?}", log.lines());
    // In trailers too.
    let response = proxied_response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX(a): 1\r\nX-Sum : 7\r\n\r\n",
    )
    .await;
    assert!(response.0.contains("\r\n0\r\n") && !response.0.contains("X(a)"), "{response:?}");
}

/// C18: whitespace before the colon is removed from responses (RFC 9112, section 5.1).
#[tokio::test]
async fn whitespace_before_the_colon_is_removed() {
    for line in ["X : y", "X\t: y", "X \t : y"] {
        let response =
            proxied_response(format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nok")).await;
        assert_eq!(
            (response.status(), response.all("x"), response.body()),
            (200, vec!["y"], "ok"),
            "{line:?}"
        );
    }
    for (line, body, framed) in [
        ("Content-Length : 2", "ok", "length 2"),
        ("Transfer-Encoding : chunked", "2\r\nok\r\n0\r\n\r\n", "chunked"),
    ] {
        let response = proxied_response(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n{body}")).await;
        assert_eq!((response.status(), framing(&response)), (200, vec![framed.to_owned()]), "{line}");
    }
    let contradictory = "HTTP/1.1 200 OK\r\nContent-Length : 2\r\nContent-Length: 3\r\n\r\nok";
    assert_eq!(proxied_response(contradictory).await.status(), 502);
}

/// C18: responses with more than 100 fields were rejected.
#[tokio::test]
async fn responses_have_up_to_256_fields() {
    for (number, status) in [(101, 200), (255, 200), (256, 502)] {
        let lines: String = (0..number).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let response =
            proxied_response(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok")).await;
        assert_eq!(response.status(), status, "{number}");
        assert_eq!(response.0.matches("\r\nx-").count() >= number, status == 200, "{number}");
    }
}

/// C13: with `Alt-Svc` browsers would send the gateway's cookies past the gateway.
#[tokio::test]
async fn alt_svc_is_not_forwarded() {
    let response = proxied_response(
        "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nalt-svc: clear\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!((response.status(), response.all("alt-svc")), (200, vec![]));
    let response = proxied_response(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nAlt-Svc: h3=\":443\"\r\n\r\n",
    )
    .await;
    assert!(!response.0.to_lowercase().contains("alt-svc"), "{response:?}");
    let upstream =
        raw_upstream(b"HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 0\r\n\r\n").await;
    let set = "auth = \"none\"\nset_response_headers = { \"Alt-Svc\" = \"clear\" }";
    let response = RawServer::start(route("/", &upstream, set)).await.get("/", "").await;
    assert_eq!(response.all("alt-svc"), ["clear"], "the operator's");
}

/// C7: `Connection: keep-alive` was promised for a response that ends with its connection.
#[tokio::test]
async fn http10_response_of_unknown_length_closes_the_connection() {
    for (raw_response, keeps) in [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"[..], false),
        (b"HTTP/1.1 200 OK\r\n\r\nok", false),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        (b"HTTP/1.1 204 No Content\r\n\r\n", true),
    ] {
        let server = RawServer::with_upstream(&raw_upstream(raw_response).await).await;
        let last = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
        let response =
            server.send(format!("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n{last}")).await;
        let expected = if keeps { ["keep-alive"] } else { ["close"] };
        assert_eq!(response.all("connection"), expected, "{response:?}");
        assert_eq!(response.0.matches("HTTP/1.0 2").count(), if keeps { 2 } else { 1 }, "{response:?}");
        assert!(keeps || response.body() == "ok", "{response:?}");
    }
}
