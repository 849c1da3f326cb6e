//! Requests that are rejected before they are routed (C4).

use serde_json::json;

use super::{completed_requests, line_of, metrics_of, new_deployment};
use crate::support::process::{ServerProcess, until};
use crate::support::proxy_server::exchange;
use crate::support::raw_http2::{END_STREAM, RawHttp2, frame, headers};
use crate::support::socket_browser::SocketBrowser;
use crate::support::test_server::ask;
use crate::support::upstream::Upstream;

const PAGE: &str = "https://page.example.com";
const OTHER: &str = "https://evil.example";

/// Starts a server that allows [`PAGE`].
async fn start(upstream: &Upstream) -> (crate::support::process::TestDeployment, ServerProcess) {
    let mut deployment = new_deployment().await;
    deployment.set("server.allowed_origins", &format!("[{PAGE:?}]"));
    deployment.set("server.trusted_proxies", "[\"127.0.0.1\"]");
    deployment.set("server.forwarded_headers", "[\"x-forwarded-for\"]");
    deployment.forward_to_without_auth(upstream.url());
    let server = deployment.serve().await;
    (deployment, server)
}

fn header<'r>(response: &'r str, name: &str) -> Option<&'r str> {
    let head = response.split("\r\n\r\n").next().unwrap();
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Checks the CORS headers of a response.
fn assert_cors(case: &str, origin: &str, header: impl Fn(&str) -> Option<String>) {
    let is_allowed = origin == PAGE;
    let allowed = header("access-control-allow-origin");
    assert_eq!(allowed.is_some_and(|allowed| allowed == PAGE), is_allowed, "{case}");
    assert_eq!(header("access-control-allow-credentials").is_some_and(|value| value == "true"), is_allowed);
    let exposed = header("access-control-expose-headers").unwrap_or_default();
    assert_eq!(exposed.contains("x-request-id"), is_allowed, "{exposed}");
    assert!(header("vary").is_some_and(|vary| vary.to_lowercase().contains("origin")));
}

/// A head without its last line, and the expected status, code, and fields of the access log: method and path.
type Case<'a> = (String, u16, &'a str, &'a str, &'a str);

async fn assert_rejection_is_recorded(server: &ServerProcess, origin: &str, case: &Case<'_>) {
    let (head, status, code, method, path) = case;
    let fields = format!("Origin: {origin}\r\nX-Forwarded-For: 192.0.2.9\r\nConnection: close\r\n");
    let request = if head.contains("<ORIGIN>") {
        head.replace("<ORIGIN>", &fields)
    } else {
        // Before what is malformed, which may hide the rest.
        head.replacen("\r\n", &format!("\r\n{fields}"), 1)
    };
    let response = exchange(server.public, format!("{request}\r\n")).await;
    let case = format!("{method} {status} {code}: {response}");
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{case}");
    assert!(response.contains(&format!("\"code\":\"{code}\"")), "{case}");
    assert!(header(&response, "date").is_some(), "{case}");
    assert_cors(&case, origin, |name| header(&response, name).map(str::to_owned));
    let line = line_of(server, header(&response, "x-request-id").expect("a request id")).await;
    assert_eq!((&line["status"], &line["method"]), (&json!(status), &json!(method)), "{case}");
    assert_eq!((&line["path"], &line["route"]), (&json!(path), &json!("none")), "{case}");
    assert_eq!(line["client"], "192.0.2.9", "{case}");
}

/// C4: a request that HTTP/1.1 or the limits do not allow left no trace.
#[tokio::test]
async fn http1_rejections_are_recorded() {
    let mut upstream = Upstream::start().await;
    let (_deployment, server) = start(&upstream).await;
    let long = format!("/{}", "x".repeat(9_000));
    let many: String = (0..101).map(|number| format!("X-{number}: 1\r\n")).collect();
    let large = format!("X: {}\r\n", "x".repeat(70_000));
    let malformed = "malformed_request";
    let cases = [
        // Rejected by the gateway.
        (format!("GET {long} HTTP/1.1\r\nHost: a\r\n"), 414, "uri_too_long", "GET", &*long),
        ("GET /a HTTP/1.1\r\n".to_owned(), 400, "bad_host", "GET", "/a"),
        ("GET /a HTTP/1.1\r\nHost: a b\r\n".to_owned(), 400, "bad_host", "GET", "/a"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n".to_owned(), 400, "bad_host", "GET", "/a"),
        (
            "OPTIONS /a HTTP/1.1\r\nAccess-Control-Request-Method: PUT\r\n".to_owned(),
            400,
            "bad_host",
            "OPTIONS",
            "/a",
        ),
        // Rejected by the parser, before and after it has seen the whole head.
        ("G@T /a HTTP/1.1\r\nHost: a\r\n".to_owned(), 400, malformed, "-", "/a"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX : 1\r\n".to_owned(), 400, malformed, "GET", "/a"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nno colon\r\n".to_owned(), 400, malformed, "GET", "/a"),
        ("GET /a HTTP/9.9\r\nHost: a\r\n".to_owned(), 400, malformed, "GET", "/a"),
        ("GET /a<b HTTP/1.1\r\nHost: a\r\n".to_owned(), 400, malformed, "GET", "/a%3Cb"),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n".to_owned(), 400, malformed, "POST", "/a"),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n".to_owned(),
            400,
            malformed,
            "POST",
            "/a",
        ),
        (format!("PUT /a HTTP/1.1\r\nHost: a\r\n{many}"), 431, "header_too_large", "PUT", "/a"),
        (
            format!("PUT /a HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n<ORIGIN>{large}"),
            431,
            "header_too_large",
            "PUT",
            "/a",
        ),
    ];
    for case in &cases {
        for origin in [PAGE, OTHER] {
            assert_rejection_is_recorded(&server, origin, case).await;
        }
    }
    assert!(upstream.has_no_more_requests());
    let count = |status: u16| 2 * cases.iter().filter(|case| case.1 == status).count();
    let text = until("all counts", async || {
        Some(metrics_of(&server).await).filter(|text| text.contains("sekisho_requests_in_flight 0"))
    })
    .await;
    for status in [400, 414, 431] {
        let line = format!(
            "sekisho_requests_total{{route=\"none\",status=\"{status}\",event=\"\"}} {}",
            count(status)
        );
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    server.stop().await;
}

/// C4: the request before a malformed one on the same connection is served.
#[tokio::test]
async fn rejection_follows_the_response_to_an_earlier_request() {
    let mut upstream = Upstream::start().await;
    let (_deployment, server) = start(&upstream).await;
    let first = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
    for second in [
        "GET /second HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        "POST /second HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\nbody",
    ] {
        let responses = exchange(server.public, format!("{first}{second}")).await;
        let (served, rejected) = responses.split_at(responses.rfind("HTTP/1.1 ").unwrap());
        assert!(served.starts_with("HTTP/1.1 200") && rejected.starts_with("HTTP/1.1 400"), "{responses}");
        let line = line_of(&server, header(rejected, "x-request-id").unwrap()).await;
        assert_eq!((&line["path"], &line["status"]), (&json!("/second"), &json!(400)));
        assert_eq!(upstream.seen().await.target, "/first");
    }
    // Garbage, such as TLS on the plain port.
    for garbage in ["\u{16}\u{3}\u{1}\u{2}\r\n\r\n", "\r\n\r\n?\r\n\r\n"] {
        let response = exchange(server.public, garbage).await;
        assert!(response.starts_with("HTTP/1.1 400"), "{response}");
        let line = line_of(&server, header(&response, "x-request-id").unwrap()).await;
        assert_eq!((&line["method"], &line["path"]), (&json!("-"), &json!("/")));
    }
    let response = exchange(server.public, "HEAD /a HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n").await;
    assert!(response.ends_with("\r\n\r\n") && response.starts_with("HTTP/1.1 400"), "{response}");
    server.stop().await;
}

/// C4: the same with HTTP/2.
#[tokio::test]
async fn http2_rejections_are_recorded() {
    let mut upstream = Upstream::start().await;
    let (_deployment, server) = start(&upstream).await;
    let long = format!("/{}", "x".repeat(9_000));
    let large = "x".repeat(70_000);
    for (path, fields, status, code) in [
        (&*long, vec![], 414, "uri_too_long"),
        ("/a", vec![("host", "b")], 400, "bad_host"),
        ("/a", vec![("x-large", &*large)], 431, "header_too_large"),
        ("/a", vec![("x-many", "1"); 101], 431, "too_many_header_fields"),
    ] {
        for origin in [PAGE, OTHER] {
            let socket = tokio::net::TcpStream::connect(server.public).await.unwrap();
            let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            let mut request =
                http::Request::get(format!("http://app.example{path}")).header("origin", origin);
            for (name, value) in &fields {
                request = request.header(*name, *value);
            }
            let (received, headers, body) = ask(&mut client, request.body(()).unwrap()).await.unwrap();
            assert_eq!(received, status, "{code}");
            assert!(body.contains(&format!("\"code\":\"{code}\"")), "{body}");
            let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_cors(code, origin, header);
            let line = line_of(&server, &header("x-request-id").unwrap()).await;
            assert_eq!((&line["path"], &line["protocol"]), (&json!(path), &json!("HTTP/2")));
            assert_eq!(line["status"], status);
        }
    }
    let quoted =
        [(":method", "GET"), (":scheme", "http"), (":path", "/q"), (":authority", "a"), ("x\"a", "1")];
    let mut client = RawHttp2::connect(server.public).await;
    client.send(&headers(1, END_STREAM, &quoted)).await;
    client.send(&frame(6, 0, 0, &[0; 8])).await;
    client.outcome().await;
    until("the access log entry", async || {
        completed_requests(&server).into_iter().find(|line| line["path"] == "/q" && line["status"] == 400)
    })
    .await;
    assert!(upstream.has_no_more_requests());
    server.stop().await;
}

/// C4: a person who opens a page gets a page.
#[tokio::test]
async fn rejected_navigation_gets_a_page() {
    let upstream = Upstream::start().await;
    let (_deployment, server) = start(&upstream).await;
    let navigation = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nConnection: close\r\n";
    for head in [
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "x".repeat(9_000)),
        "GET / HTTP/1.1\r\nX : 1\r\n".to_owned(),
    ] {
        let head = head.replacen("\r\n", &format!("\r\n{navigation}"), 1);
        let response = exchange(server.public, format!("{head}\r\n")).await;
        assert_eq!(header(&response, "content-type"), Some("text/html; charset=utf-8"), "{response}");
        let id = header(&response, "x-request-id").unwrap();
        assert!(response.ends_with("</html>") && response.matches(id).count() == 2, "{response}");
    }
    server.stop().await;
}

/// C4: the same on `verify.listen`.
#[tokio::test]
async fn rejected_auth_requests_are_recorded() {
    let mut deployment = new_deployment().await;
    deployment.set("server.trusted_proxies", "[\"127.0.0.1\"]");
    deployment.set("server.forwarded_headers", "[\"x-forwarded-for\"]");
    deployment.set("verify.listen", "127.0.0.1:0");
    deployment.set("verify.source", "x-original");
    let server = deployment.serve().await;
    let log = server.log();
    let (_, address) = log.split_once("\"verify\":\"").expect("the listener's address");
    let verify: std::net::SocketAddr = address.split('"').next().unwrap().parse().unwrap();
    let original = "X-Original-Method: GET\r\nX-Original-URI: ";
    for (head, status) in [
        ("GET /auth/verify HTTP/1.1\r\nHost: a\r\n".to_owned(), 400),
        ("GET /elsewhere HTTP/1.1\r\nHost: a\r\n".to_owned(), 404),
        (format!("GET /auth/verify HTTP/1.1\r\nHost: a\r\n{original}/a/../b\r\n"), 400),
        (format!("GET /auth/verify HTTP/1.1\r\nHost: a\r\n{original}/caf\u{e9}\r\n"), 400),
    ] {
        let response = exchange(verify, format!("{head}Connection: close\r\n\r\n")).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {response}");
        let line = line_of(&server, header(&response, "x-request-id").unwrap()).await;
        assert_eq!((&line["route"], &line["status"]), (&json!("builtin:verify"), &json!(status)), "{head}");
    }
    assert_eq!(SocketBrowser::default().get(server.public, "/auth/session").await.status, 401);
    server.stop().await;
}
