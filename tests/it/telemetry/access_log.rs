//! The access log: one entry for each request.

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{TARO, completed_requests, line_of, new_deployment};
use crate::support::process::until;
use crate::support::socket_browser::SocketBrowser;
use crate::support::upstream::{GatedUpstream, Upstream, listen, raw_upstream, serve_any};

#[tokio::test]
async fn access_log_entry_describes_the_request() {
    let upstream = Upstream::responding_with(|_| Response::new(Body::from("seven films"))).await;
    let deployment = new_deployment().await;
    deployment.forward_to(upstream.url());
    let server = deployment.serve().await;
    let mut browser = SocketBrowser::signed_in(server.public, TARO).await;
    let session_response = browser.get(server.public, "/auth/session").await;
    let user = session_response.json();
    let own = line_of(&server, session_response.header("x-request-id").unwrap()).await;
    assert_eq!((&own["user"], &own["session"]), (&user["user"]["id"], &user["session_id"]));
    let response = browser.get(server.public, "/films?of=1954").await;
    let mut line = line_of(&server, response.header("x-request-id").unwrap()).await;

    let line = line.as_object_mut().unwrap();
    assert!(line["duration"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 30.0), "{line:?}");
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    let (request, trace) = (line["request_id"].as_str().unwrap(), line["trace_id"].as_str().unwrap());
    assert_eq!(request.replace('-', ""), trace, "a new trace has the request ID");
    for varies in ["duration", "time", "request_id", "trace_id"] {
        line.remove(varies);
    }
    let expected = json!({
        "level": "INFO", "message": "request completed", "method": "GET", "path": "/films", "status": 200, "bytes": 11,
        "client": "127.0.0.1", "route": "/", "upstream": upstream.address().to_string(),
        "user": user["user"]["id"], "session": user["session_id"], "protocol": "HTTP/1.1",
    });
    assert_eq!(json!(line), expected);

    let long = format!("/{}", "x".repeat(9_000));
    for (path, route, status, event) in [
        ("/auth/session", "builtin:auth", 401, json!("missing")),
        ("/a/../b", "none", 400, json!(null)),
        // Rejected by the server.
        (&long, "none", 414, json!(null)),
    ] {
        let response = SocketBrowser::default().get(server.public, path).await;
        let line = line_of(&server, response.header("x-request-id").unwrap()).await;
        assert_eq!(
            (&line["route"], &line["status"], &line["session_event"]),
            (&json!(route), &json!(status), &event)
        );
        assert_eq!((&line["path"], &line["bytes"]), (&json!(path), &json!(response.body.len())));
        assert!(line["user"].is_null() && line["upstream"].is_null(), "{line}");
    }
    server.stop().await;
}

#[tokio::test]
async fn each_request_has_one_access_log_entry() {
    let mut gated = GatedUpstream::start().await;
    let deployment = new_deployment().await;
    let cut = raw_upstream(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst").await;
    let route = |path: &str, upstream: &str| {
        format!("[[routes]]\npath = \"{path}\"\nauth = \"none\"\nupstreams = [\"{upstream}\"]\n")
    };
    let config = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    deployment.write("sekisho.toml", &(config + &route("/held", &gated.url()) + &route("/cut", &cut)));
    let server = deployment.serve().await;
    for _ in 0..20 {
        SocketBrowser::default().get(server.public, "/auth/session").await;
    }
    // A client that disconnects, and an upstream that truncates its response.
    let mut disconnecting = TcpStream::connect(server.public).await.unwrap();
    disconnecting.write_all(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    gated.arrived(1).await;
    drop(disconnecting);
    let mut cut = TcpStream::connect(server.public).await.unwrap();
    cut.write_all(b"GET /cut HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let _ = cut.read_to_end(&mut Vec::new()).await;

    let lines = until("all access log entries", async || {
        Some(completed_requests(&server)).filter(|lines| lines.len() >= 22)
    })
    .await;
    let entries = |path: &str| lines.iter().filter(|line| line["path"] == path).collect::<Vec<_>>();
    assert_eq!(entries("/auth/session").len(), 20);
    let [disconnected] = entries("/held")[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&disconnected["status"], &disconnected["bytes"], &disconnected["incomplete"]),
        (&json!(499), &json!(0), &json!("true"))
    );
    let [broken] = entries("/cut")[..] else { panic!("{lines:?}") };
    assert_eq!((&broken["status"], &broken["bytes"]), (&json!(200), &json!(5)));
    assert_eq!(broken["incomplete"], "true");
    // Log lines of a request contain its request ID.
    let log = server.log();
    let line_text = log.lines().find(|line| line.contains("response aborted")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(line_text).unwrap()["request_id"],
        broken["request_id"]
    );
    server.stop().await;
}

#[tokio::test]
async fn every_access_log_line_is_valid_json() {
    let mut deployment = new_deployment().await;
    deployment.set_env("RUST_LOG", "trace");
    let server = deployment.serve().await;
    let agents: [&[u8]; 5] =
        [b"\x1b[2J", b"\"}{\"level\":\"ERROR\"", "\u{2028}\u{202e}".as_bytes(), b"\xff\xfe", b"\t"];
    let paths: [&[u8]; 8] = [
        b"/%0d%0aERROR%20forged",
        b"/%1b[31m",
        b"/\"quoted\"",
        b"/{\"json\":1}",
        "/\u{2028}\u{2029}/\u{85}\u{feff}".as_bytes(),
        "/関所".as_bytes(),
        b"/\\\\",
        b"/\xff",
    ];
    let mut responses = 0;
    for path in paths {
        for agent in agents {
            let mut socket = TcpStream::connect(server.public).await.unwrap();
            let request = [
                b"GET ",
                path,
                b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\nuser-agent: ",
                agent,
                b"\r\n\r\n",
            ];
            socket.write_all(&request.concat()).await.unwrap();
            let mut response = Vec::new();
            let _ = socket.read_to_end(&mut response).await;
            // hyper rejects malformed requests before the service is called.
            responses += usize::from(response.windows(12).any(|name| name == b"x-request-id"));
        }
    }
    assert!(responses >= 4 * agents.len(), "{responses}");
    until("all access log entries", async || {
        Some(completed_requests(&server)).filter(|lines| lines.len() == responses)
    })
    .await;
    let is_printable =
        |character: char| !character.is_control() && !"\u{2028}\u{2029}\u{202e}\u{feff}".contains(character);
    for line in server.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.is_object()), "{line}");
        assert!(line.chars().all(is_printable), "{line:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn text_format_is_readable() {
    let mut deployment = new_deployment().await;
    deployment.set("log.format", "text");
    let server = deployment.serve().await;
    let mut socket = TcpStream::connect(server.public).await.unwrap();
    let request = "GET /\u{2028}x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let _ = socket.read_to_end(&mut Vec::new()).await;
    let line = until("the line", async || {
        let log = server.log();
        log.lines().find(|line| line.contains("  INFO request completed ")).map(str::to_owned)
    })
    .await;
    assert!(line.contains(r#" method=GET path="/\u2028x" status=4"#), "{line}");
    assert!(line.contains(" client=127.0.0.1 route=none "), "{line}");
    server.stop().await;
}

#[tokio::test]
async fn disabled_access_log_writes_no_entries() {
    let mut deployment = new_deployment().await;
    deployment.set("log.access", "false");
    let server = deployment.serve().await;
    SocketBrowser::default().get(server.public, "/auth/session").await;
    server.terminate();
    let stopped = || server.log().contains("\"message\":\"stopped\"").then_some(());
    until("the last line", async || stopped()).await;
    assert!(completed_requests(&server).is_empty());
}

/// C5: responses that end with trailers, or with the data of their last frame, were logged as incomplete.
#[tokio::test]
async fn responses_without_a_length_are_complete() {
    let with_trailers =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n";
    let with_trailers = raw_upstream(with_trailers).await;
    let http2 = listen(|socket| {
        serve_any(socket, |request| async move {
            let frames = match request.uri().path() {
                "/http2/trailers" => vec![Frame::data(Bytes::from("ok")), Frame::trailers(HeaderMap::new())],
                _ => vec![Frame::data(Bytes::from("ok"))],
            };
            let frames = frames.into_iter().map(Ok::<_, Infallible>);
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
        })
    })
    .await;
    let deployment = new_deployment().await;
    let route = |path: &str, upstream: &str, more: &str| {
        format!("[[routes]]\npath = \"{path}\"\nauth = \"none\"\nupstreams = [\"{upstream}\"]\n{more}\n")
    };
    let config = std::fs::read_to_string(deployment.path("sekisho.toml")).unwrap();
    let routes = route("/http1", &with_trailers, "")
        + &route("/http2", &format!("http://{http2}"), "upstream_http = \"2\"");
    deployment.write("sekisho.toml", &(config + &routes));
    let server = deployment.serve().await;
    for path in ["/http1", "/http2/trailers", "/http2/data"] {
        for te in ["", "te: trailers\r\n"] {
            let mut socket = TcpStream::connect(server.public).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{te}\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            socket.read_to_end(&mut Vec::new()).await.unwrap();
        }
        let socket = TcpStream::connect(server.public).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
        let mut body = client.send_request(request, true).unwrap().0.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "ok");
        while let Some(data) = body.data().await {
            assert!(data.unwrap().is_empty());
        }
        assert!(body.trailers().await.is_ok());
    }
    let lines = until("all access log entries", async || {
        Some(completed_requests(&server)).filter(|lines| lines.len() >= 9)
    })
    .await;
    for line in lines {
        assert!(line["incomplete"].is_null(), "{line}");
        assert_eq!(line["bytes"], 2, "{line}");
    }
    server.stop().await;
}
