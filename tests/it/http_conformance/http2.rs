//! Requests over HTTP/2 that have no valid equivalent in HTTP/1.1, or end in a way of their own.

use bytes::Bytes;
use h2::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{RawServer, StrictUpstream};
use crate::support::gateway::route;
use crate::support::process::PROCESS_TIMEOUT;
use crate::support::raw_http2::{
    DATA, END_STREAM, Outcome, RST_STREAM, RawHttp2, frame, headers, is_rejection,
};
use crate::support::upstream::listen;

/// Returns the head of a request.
fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "app.example")];
    [&head[..], more].concat()
}

/// Sends these frames on a new connection, and returns the reaction.
async fn send(server: &RawServer, frames: &[u8]) -> Outcome {
    let mut client = RawHttp2::connect(server.address).await;
    client.send(frames).await;
    client.outcome().await
}

/// C19: uploads that were reset with `NO_ERROR` looked complete to an HTTP/1.1 upstream.
#[tokio::test]
async fn upload_reset_without_error_does_not_look_complete() {
    let (record, mut received) = mpsc::unbounded_channel();
    let upstream = listen(move |mut socket| {
        let record = record.clone();
        async move {
            let mut text = Vec::new();
            while socket.read_buf(&mut text).await.is_ok_and(|length| length > 0) {
                record.send(String::from_utf8(text.clone()).unwrap()).unwrap();
            }
            record.send(String::from_utf8(text).unwrap() + "<end>").unwrap();
        }
    })
    .await;
    let server = RawServer::with_upstream(&format!("http://{upstream}")).await;
    for code in [0, 8] {
        for _ in 0..5 {
            let mut client = RawHttp2::connect(server.address).await;
            client.send(&headers(1, 0, &request("POST", "/", &[]))).await;
            client.send(&frame(DATA, 0, 1, b"half")).await;
            let half = "\r\n\r\n4\r\nhalf\r\n";
            while !received.recv().await.unwrap().ends_with(half) {}
            client.send(&frame(RST_STREAM, 0, 1, &u32::to_be_bytes(code))).await;
            let mut last = String::new();
            while !last.ends_with("<end>") {
                last = timeout(PROCESS_TIMEOUT, received.recv()).await.expect("an end").unwrap();
            }
            assert!(last.ends_with(&format!("{half}<end>")), "{last:?}");
        }
    }
}

/// C19: the same with an HTTP/2 upstream.
#[tokio::test]
async fn upload_reset_without_error_is_an_error_for_an_http2_upstream() {
    let (record, mut received) = mpsc::unbounded_channel();
    let upstream = listen(move |socket: TcpStream| {
        let record = record.clone();
        async move {
            let mut http = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, respond))) = http.accept().await {
                let record = record.clone();
                tokio::spawn(async move {
                    let _respond = respond;
                    let mut body = request.into_body();
                    loop {
                        let data = body.data().await;
                        let is_last = !matches!(data, Some(Ok(_)));
                        let data = data.map(|data| data.map_err(|error| error.reason()));
                        record.send(data).unwrap();
                        if is_last {
                            return;
                        }
                    }
                });
            }
        }
    })
    .await;
    let server =
        RawServer::start(route("/", &format!("http://{upstream}"), "auth = \"none\"\nupstream_http = \"2\""))
            .await;
    for _ in 0..5 {
        let mut client = RawHttp2::connect(server.address).await;
        client.send(&headers(1, 0, &request("POST", "/", &[]))).await;
        client.send(&frame(DATA, 0, 1, b"half")).await;
        assert_eq!(received.recv().await.unwrap(), Some(Ok(Bytes::from("half"))));
        client.send(&frame(RST_STREAM, 0, 1, &[0; 4])).await;
        let end = timeout(PROCESS_TIMEOUT, received.recv()).await.expect("an end").unwrap();
        assert!(matches!(end, Some(Err(Some(Reason::CANCEL | Reason::INTERNAL_ERROR)))), "{end:?}");
    }
}

/// C20: names that http accepts from HTTP/2 alone became malformed HTTP/1.1 field lines.
#[tokio::test]
async fn names_that_are_no_tokens_are_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for name in [
        "x\"a", "\"", "x-a\"", "x(a", "x[a]", "x/a", "x a", "x{a}", "x@a", "x,a", "x;a", "x=a", "x?a", "x\\a",
    ] {
        for value in ["1", ""] {
            let head = headers(1, END_STREAM, &request("GET", "/", &[(name, value)]));
            let outcome = send(&server, &head).await;
            assert!(is_rejection(&outcome), "{name}: {outcome:?}");
            assert!(upstream.seen().is_empty(), "{name}");
        }
    }
    let mut client = RawHttp2::connect(server.address).await;
    client.send(&headers(1, 0, &request("POST", "/", &[]))).await;
    client.send(&frame(DATA, 0, 1, b"body")).await;
    client.send(&headers(1, END_STREAM, &[("x\"a", "1"), ("x-b", "2")])).await;
    client.outcome().await;
    assert_eq!(upstream.seen()[0].body, b"body", "trailers with such names are dropped");
}

/// C20: an announced length of 0 with data gave the upstream an empty `POST`.
#[tokio::test]
async fn data_beyond_a_length_of_zero_reaches_no_upstream() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for method in ["POST", "PUT", "GET", "DELETE", "PROPFIND"] {
        for pieces in [&["x"][..], &["", "x"], &["x", "y"]] {
            let head = headers(1, 0, &request(method, "/", &[("content-length", "0")]));
            let mut client = RawHttp2::connect(server.address).await;
            client.send(&head).await;
            for (index, piece) in pieces.iter().enumerate() {
                // The head arrives alone.
                tokio::task::yield_now().await;
                let flags = if index + 1 == pieces.len() { END_STREAM } else { 0 };
                client.send(&frame(DATA, flags, 1, piece.as_bytes())).await;
            }
            let outcome = client.outcome().await;
            assert!(is_rejection(&outcome), "{method} {pieces:?}: {outcome:?}");
            assert!(upstream.seen().is_empty(), "{method} {pieces:?}");
        }
        let head = headers(1, 0, &request(method, "/", &[("content-length", "0")]));
        let outcome = send(&server, &[head, frame(DATA, END_STREAM, 1, &[])].concat()).await;
        assert_eq!(outcome, Outcome::Response(0x88), "{method}");
        let seen = upstream.seen();
        let framing = matches!(method, "POST" | "PUT").then(|| "length 0".to_owned());
        assert_eq!((seen.len(), seen[0].framing()), (1, framing), "{method}");
    }
}

/// C14: a body that ends with an empty frame was forwarded as a chunked one.
#[tokio::test]
async fn empty_body_is_forwarded_as_none() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for pieces in [&[&[][..]][..], &[&[], &[]]] {
            let mut frames = headers(1, 0, &request(method, "/", &[]));
            for (index, piece) in pieces.iter().enumerate() {
                let flags = if index + 1 == pieces.len() { END_STREAM } else { 0 };
                frames.extend(frame(DATA, flags, 1, piece));
            }
            assert_eq!(send(&server, &frames).await, Outcome::Response(0x88), "{method}");
            let seen = upstream.seen();
            assert_eq!((seen[0].framing(), seen[0].all("connection")), (None, vec![]), "{method}");
        }
    }
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        assert_eq!(server.send(request).await.status(), 200, "{method}");
        assert_eq!(upstream.seen()[0].framing(), None, "{method}");
    }
}

/// C20: hosts that RFC 3986 does not allow were forwarded.
#[tokio::test]
async fn invalid_authority_is_rejected() {
    let mut upstream = StrictUpstream::start().await;
    let server = RawServer::with_upstream(&upstream.url()).await;
    for (host, is_valid) in super::targets::HOSTS {
        for name in [":authority", "host"] {
            let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (name, host)];
            let outcome = send(&server, &headers(1, END_STREAM, &fields)).await;
            assert_eq!(outcome == Outcome::Response(0x88), is_valid, "{name} {host}: {outcome:?}");
            assert!(is_valid || is_rejection(&outcome), "{name} {host}: {outcome:?}");
            let seen = upstream.seen();
            let hosts: Vec<_> = seen.iter().flat_map(|request| request.all("host")).collect();
            assert_eq!(hosts, Vec::from_iter(is_valid.then_some(host)), "{name}");
        }
    }
}
