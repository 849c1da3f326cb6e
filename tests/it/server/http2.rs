//! HTTP/2 over cleartext TCP with prior knowledge.

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};
use sekisho::server::ServerLimits;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::process::PROCESS_TIMEOUT;
use crate::support::raw_http2::{
    DATA, END_STREAM, Outcome, PREFACE, RST_STREAM, RawHttp2, SETTINGS, frame, headers,
};
use crate::support::test_server::{TestServer, ask, get2, read_until_closed, send_and_read};

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "app.example")];

#[tokio::test]
async fn protocol_is_detected_for_any_split_of_the_first_bytes() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    for split in [0, 1, 3, 23] {
        let mut socket = server.connect().await;
        socket.set_nodelay(true).unwrap();
        socket.write_all(&PREFACE[..split]).await.unwrap();
        tokio::task::yield_now().await;
        socket.write_all(&PREFACE[split..]).await.unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        socket.write_all(&headers(1, END_STREAM, &GET)).await.unwrap();
        let mut first = [0; 9];
        tokio::io::AsyncReadExt::read_exact(&mut socket, &mut first).await.unwrap();
        assert_eq!(first[3], SETTINGS);
    }
    for method in ["GET", "POST", "PUT", "PRI", "P"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let response = send_and_read(&mut server.connect().await, &request).await;
        assert!(response.contains(&format!("version=HTTP/1.1 method={method}")), "{response}");
    }
    let mut almost = server.connect().await;
    almost.write_all(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await.unwrap();
    assert!(read_until_closed(&mut almost).await.starts_with("HTTP/1.1 400 Bad Request"));
}

#[tokio::test]
async fn http2_authority_becomes_host() {
    let (server, mut seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.http2().await;
    let (status, headers, body) = ask(&mut client, get2("/")).await.unwrap();
    assert_eq!(status, 200);
    assert!(body.contains(r#"version=HTTP/2.0 method=GET host=["app.example"]"#), "{body}");
    assert!(body.contains("secured=false") && !headers.contains_key("strict-transport-security"), "{body}");
    let with_host = |host: &str| {
        let mut request = get2("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        request
    };
    assert_eq!(ask(&mut client, with_host("App.Example")).await.unwrap().0, 200);
    seen.try_recv().unwrap();
    seen.try_recv().unwrap();

    let mut twice = with_host("app.example");
    twice.headers_mut().append("host", "app.example".parse().unwrap());
    for request in [with_host("other.example"), with_host("app.example:80"), with_host(""), twice] {
        let (status, _, body) = ask(&mut client, request).await.unwrap();
        assert!(status == 400 && body.contains(r#""code":"bad_host""#), "{status} {body}");
    }
    let without = [GET[0], GET[1], GET[2]];
    let user = [GET[0], GET[1], GET[2], (":authority", "user@app.example")];
    let bad_host = [GET[0], GET[1], GET[2], ("host", "a b")];
    for fields in [&without[..], &user, &bad_host] {
        let mut raw = RawHttp2::connect(server.address).await;
        raw.send(&headers_of(fields)).await;
        let outcome = raw.outcome().await;
        let rejected = matches!(outcome, Outcome::Response(0x8c) | Outcome::Reset(PROTOCOL_ERROR));
        assert!(rejected, "{fields:?}: {outcome:?}");
    }
    assert!(seen.try_recv().is_err());
    // RFC 9113, section 8.3.1: `Host` is sufficient without `:authority`.
    let mut raw = RawHttp2::connect(server.address).await;
    raw.send(&headers_of(&[GET[0], GET[1], GET[2], ("host", "app.example")])).await;
    assert_eq!(raw.outcome().await, Outcome::Response(0x88));
}

/// P-23: hyper drops the body for HTTP/1.1 only.
#[tokio::test]
async fn http2_response_to_head_has_no_body() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.http2().await;
    let mut request = get2("/");
    *request.method_mut() = Method::HEAD;
    let (status, headers, body) = ask(&mut client, request).await.unwrap();
    assert_eq!((status, &*body), (200, ""));
    assert!(headers["content-length"].to_str().unwrap().parse::<u32>().unwrap() > 0);
}

#[tokio::test]
async fn http2_cookie_fields_are_joined() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.http2().await;
    let mut request = get2("/");
    for crumb in ["a=1", "b=2; c=3", "d=4"] {
        request.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    let (_, _, body) = ask(&mut client, request).await.unwrap();
    assert!(body.contains(r#"cookie=["a=1; b=2; c=3; d=4"]"#), "{body}");
}

/// C3: each cookie of a browser counted as a header field, so that 85 cookies were too many.
#[tokio::test]
async fn cookie_fields_count_once() {
    let limits = ServerLimits::default();
    let (server, _seen) = TestServer::start(1, limits);
    for (others, status) in [(10, 200), (limits.header_fields - 2, 200), (limits.header_fields, 431)] {
        let mut client = server.http2().await;
        let mut request = get2("/");
        for number in 0..300 {
            request.headers_mut().append("cookie", format!("c{number}=1").parse().unwrap());
        }
        for _ in 0..others {
            request.headers_mut().append("x", "1".parse().unwrap());
        }
        let (seen, _, body) = ask(&mut client, request).await.unwrap();
        assert_eq!(seen, status, "{others}: {body}");
        assert!(status != 200 || body.contains("c0=1; c1=1; ") && body.contains("; c299=1\""), "{body}");
    }
}

#[tokio::test]
async fn http2_headers_invalid_in_http1_are_rejected() {
    let (server, mut seen) = TestServer::start(1, ServerLimits::default());
    let with = |field: (&'static str, &'static str)| [GET.to_vec(), vec![field]].concat();
    let without = |name: &str| GET.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let mut cases = vec![
        // Connection-specific headers.
        with(("connection", "close")),
        with(("transfer-encoding", "chunked")),
        with(("keep-alive", "timeout=5")),
        with(("proxy-connection", "keep-alive")),
        with(("upgrade", "h2c")),
        with(("te", "gzip")),
        // Values and names that would become further lines in HTTP/1.1.
        with(("x", "a\r\ny: b")),
        with(("x", "a\nb")),
        with(("x", "a\rb")),
        with(("x", "a\0b")),
        with(("x\r\ny", "a")),
        with(("X-Upper", "a")),
        with(("x y", "a")),
        with(("x:", "a")),
        with(("", "a")),
        // Pseudo-headers.
        without(":method"),
        without(":path"),
        without(":scheme"),
        with((":path", "/other")),
        with((":method", "POST")),
        with((":authority", "other.example")),
        with((":status", "200")),
        with((":protocol", "websocket")),
        with((":unknown", "a")),
        [vec![("x", "a")], GET.to_vec()].concat(),
        [without(":path"), vec![(":path", "")]].concat(),
        [without(":path"), vec![(":path", "/ HTTP/1.1\r\nx: y")]].concat(),
        [without(":method"), vec![(":method", "GET /")]].concat(),
        [without(":method"), vec![(":method", "")]].concat(),
        // Lengths that contradict the body, or are invalid.
        with(("content-length", "5")),
        with(("content-length", "+0")),
        with(("content-length", "0x0")),
    ];
    cases.push([GET.to_vec(), vec![("content-length", "0"), ("content-length", "1")]].concat());
    for fields in cases {
        let mut raw = RawHttp2::connect(server.address).await;
        raw.send(&headers_of(&fields)).await;
        let outcome = raw.outcome().await;
        let rejected = matches!(outcome, Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Response(0x8c));
        assert!(rejected, "{fields:?}: {outcome:?}");
        assert!(seen.try_recv().is_err(), "{fields:?}");
    }
    for field in [("te", "trailers"), ("content-length", "0"), ("x", "a b\tc")] {
        let mut raw = RawHttp2::connect(server.address).await;
        raw.send(&headers_of(&with(field))).await;
        assert_eq!(raw.outcome().await, Outcome::Response(0x88), "{field:?}");
    }
}

/// The header is valid and forwarded; the mismatch appears in the body.
#[tokio::test]
async fn http2_content_length_mismatch_is_an_error() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    for (length, sent) in [("4", "12345"), ("6", "12345"), ("0", "12345")] {
        let mut raw = RawHttp2::connect(server.address).await;
        let post = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/length"),
            (":authority", "a"),
            ("content-length", length),
        ];
        raw.send(&headers(1, 0, &post)).await;
        raw.send(&frame(DATA, END_STREAM, 1, sent.as_bytes())).await;
        assert_eq!(raw.outcome().await, Outcome::Reset(PROTOCOL_ERROR), "{length}");
    }
    let mut client = server.http2().await;
    let request = Request::post("http://a/length").header("content-length", "5").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"12345"), true).unwrap();
    let mut response = response.await.unwrap().into_body();
    assert_eq!(response.data().await.unwrap().unwrap(), "Ok(5)");
}

#[tokio::test]
async fn http2_offers_no_connect_protocol_and_limits_streams() {
    let limits = ServerLimits { streams: 7, ..ServerLimits::default() };
    let (server, _seen) = TestServer::start(1, limits);
    let (client, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    let mut client: h2::client::SendRequest<Bytes> = client;
    let driven = tokio::spawn(connection);
    assert_eq!(ask(&mut client, get2("/")).await.unwrap().0, 200);
    assert!(!client.is_extended_connect_protocol_enabled());
    assert_eq!(client.current_max_send_streams(), 7);
    driven.abort();
    // One stream beyond the limit is refused, and the others continue.
    let mut raw = RawHttp2::connect(server.address).await;
    let slow = [GET[0], GET[1], (":path", "/slow"), GET[3]];
    for number in 0..8 {
        raw.send(&headers(2 * number + 1, END_STREAM, &slow)).await;
    }
    let outcome = raw.outcome().await;
    assert!(matches!(outcome, Outcome::Reset(7) | Outcome::GoAway(_)), "{outcome:?}");
    server.script.release();
}

/// Streams that the client resets at once (rapid reset, CVE-2023-44487).
#[tokio::test]
async fn rapid_reset_closes_the_connection() {
    let (server, _seen) = TestServer::start(1, ServerLimits::default());
    let mut raw = RawHttp2::connect(server.address).await;
    let mut flood = Vec::new();
    for number in 0..500 {
        let stream = 2 * number + 1;
        flood.extend(headers(stream, END_STREAM, &GET));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    raw.send(&flood).await;
    assert_eq!(raw.outcome().await, Outcome::GoAway(ENHANCE_YOUR_CALM));
    // Other connections are unaffected.
    assert_eq!(ask(&mut server.http2().await, get2("/")).await.unwrap().0, 200);
}

/// A3: two uploads that the service did not read stopped all others of the connection.
#[tokio::test]
async fn unread_uploads_do_not_block_others_of_the_connection() {
    let (server, mut seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.http2().await;
    let data = Bytes::from(vec![b'x'; 1024 * 1024]);
    let mut stuck = Vec::new();
    for _ in 0..99 {
        let (response, mut upload) = post(&mut client, "/slow").await;
        upload.send_data(data.clone(), true).unwrap();
        timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
        stuck.push((response, upload));
    }
    let (response, mut upload) = post(&mut client, "/length").await;
    upload.send_data(data, true).unwrap();
    assert_eq!(text(response).await, "Ok(1048576)");
}

/// A3: unread frames of a few bytes, of a single upload, closed the connection of all others.
#[tokio::test]
async fn unread_small_frames_do_not_close_the_connection() {
    let (server, mut seen) = TestServer::start(1, ServerLimits::default());
    let mut client = server.http2().await;
    let (_stuck, mut upload) = post(&mut client, "/slow").await;
    timeout(PROCESS_TIMEOUT, seen.recv()).await.expect("a request");
    for _ in 0..2_000 {
        upload.send_data(Bytes::from_static(b"x"), false).unwrap();
    }
    for _ in 0..3 {
        let (response, mut upload) = post(&mut client, "/length").await;
        upload.send_data(Bytes::from_static(b"body"), true).unwrap();
        assert_eq!(text(response).await, "Ok(4)");
    }
}

async fn post(client: &mut SendRequest<Bytes>, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let mut ready = client.clone().ready().await.unwrap();
    let request = Request::post(format!("http://app.example{path}")).body(()).unwrap();
    ready.send_request(request, false).unwrap()
}

async fn text(response: ResponseFuture) -> String {
    let read = async {
        let mut body = response.await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(chunk) = body.data().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    };
    timeout(PROCESS_TIMEOUT, read).await.expect("a response")
}

fn headers_of(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, END_STREAM, fields)
}
