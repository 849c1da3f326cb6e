//! Requests that the server rejects before the gateway looks at them: pages for people, problem details for programs.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use sekisho::server::{Listener, ServerLimits, WorkerThreads};
use tokio::net::TcpStream;

use super::{HTML, NAVIGATION};
use crate::support::gateway::{TestGateway, TestGatewayBuilder, get, route};
use crate::support::proxy_server::exchange;
use crate::support::test_server::{GET, answer, ask, get1, read_until_closed, send_and_read};
use crate::support::upstream::{GatedUpstream, Upstream};

/// A gateway on worker threads, as the program runs it.
struct Server {
    address: SocketAddr,
    _gateway: TestGateway,
    _threads: WorkerThreads,
}

impl Server {
    /// Starts a gateway with a route to `upstream` that needs no session.
    async fn start(upstream: &str, limits: ServerLimits) -> Self {
        let gateway = TestGatewayBuilder::new(route("/", upstream, "auth = \"none\"")).start().await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let threads = WorkerThreads::start(1, limits).unwrap();
        let public = gateway.app.public.clone();
        let listener = Listener::from(listener).with_rejections();
        threads.serve(listener, None, move || public.for_thread()).unwrap();
        Self { address, _gateway: gateway, _threads: threads }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(self.connect().await).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

/// The header lines of a navigation.
fn navigation_lines() -> String {
    NAVIGATION.map(|(name, value)| format!("{name}: {value}\r\n")).concat()
}

/// Returns the head of a request on a connection of its own.
fn head(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{lines}\r\n")
}

/// Splits a response of HTTP/1.1 into status, headers and body.
fn parse(response: &str) -> (u16, HeaderMap, String) {
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    (status, headers, body.to_owned())
}

#[track_caller]
fn assert_page((status, headers, text): &(u16, HeaderMap, String), expected: u16) {
    assert_eq!(*status, expected, "{text}");
    assert_eq!(headers["content-type"], "text/html; charset=utf-8", "{text}");
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    assert!(headers["cache-control"].to_str().unwrap().contains("no-store"));
    let id = headers["x-request-id"].to_str().unwrap();
    assert!(text.starts_with("<!doctype html>") && text.contains(id), "{text}");
    assert_eq!(headers.contains_key("retry-after"), expected == 503);
}

#[track_caller]
fn assert_problem((status, headers, text): &(u16, HeaderMap, String), expected: u16, code: &str) {
    assert_eq!(*status, expected, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json", "{text}");
    assert!(headers.contains_key("x-request-id"));
    assert_eq!(headers.contains_key("retry-after"), expected == 503);
    assert!(text.contains(&format!(r#""code":"{code}""#)), "{text}");
}

#[tokio::test]
async fn invalid_requests_get_pages_and_problems() {
    let mut upstream = Upstream::start().await;
    let limits = ServerLimits { uri_bytes: 1024, header_fields: 20, ..ServerLimits::default() };
    let server = Server::start(&upstream.url(), limits).await;
    let long = format!("/{}", "x".repeat(1024));
    for (target, lines, status, code) in [
        (&*long, "", 414, "uri_too_long"),
        ("/", "Host: other.example\r\n", 400, "bad_host"),
        ("/", "Accept-Language: ja\r\nHost: other.example\r\n", 400, "bad_host"),
    ] {
        let request = head(target, &format!("{}{lines}", navigation_lines()));
        let page = parse(&exchange(server.address, request).await);
        assert_page(&page, status);
        assert_eq!(page.1["content-language"] == "ja", lines.contains("ja"));
        assert_problem(&parse(&exchange(server.address, head(target, lines)).await), status, code);
        let old_browser = head(target, &format!("Accept: {HTML}\r\n{lines}"));
        assert_page(&parse(&exchange(server.address, old_browser).await), status);
    }
    let mut client = server.http2().await;
    let with_fields = |headers: &[(&'static str, &'static str)]| {
        let mut request = Request::get("http://app.example/").body(()).unwrap();
        let many = (0..25).map(|number| (format!("x-{number}").parse().unwrap(), "1"));
        let given = headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), *value));
        request.headers_mut().extend(many.chain(given).map(|(name, value)| (name, value.parse().unwrap())));
        request
    };
    assert_page(&ask(&mut client, with_fields(&NAVIGATION)).await.unwrap(), 431);
    let problem = ask(&mut client, with_fields(&[])).await.unwrap();
    assert_problem(&problem, 431, "too_many_header_fields");
    assert!(upstream.has_no_more_requests());
}

#[tokio::test]
async fn overload_has_a_page() {
    let mut upstream = GatedUpstream::start().await;
    let limits = ServerLimits { in_flight: 1, ..ServerLimits::default() };
    let server = Server::start(&upstream.url(), limits).await;
    let mut waiting = server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut waiting, get1("/slow").as_bytes()).await.unwrap();
    upstream.arrived(1).await;
    let page = parse(&exchange(server.address, head("/", &navigation_lines())).await);
    assert_page(&page, 503);
    let problem = parse(&exchange(server.address, head("/", "Accept: */*\r\n")).await);
    assert_problem(&problem, 503, "overloaded");
    // A body is not read, and no upstream sees the request.
    let post = format!(
        "POST / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\nContent-Length: 5\r\n{}\r\nhello",
        navigation_lines()
    );
    assert_page(&parse(&exchange(server.address, post).await), 503);
    upstream.release(1);
    assert!(answer(&mut waiting).await.ends_with(GatedUpstream::ANSWER));
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn connection_beyond_the_limit_gets_a_page() {
    let upstream = Upstream::start().await;
    let limits = ServerLimits { connections: 2, ..ServerLimits::default() };
    let server = Server::start(&upstream.url(), limits).await;
    let mut held = [server.connect().await, server.connect().await];
    for socket in &mut held {
        assert!(send_and_read(socket, GET).await.starts_with("HTTP/1.1 200"));
    }
    let page = parse(&exchange(server.address, head("/", &navigation_lines())).await);
    assert_page(&page, 503);
    let problem = parse(&exchange(server.address, head("/", "")).await);
    assert_problem(&problem, 503, "overloaded");
    // Without a request, the response is sent after a moment.
    let silent = read_until_closed(&mut server.connect().await).await;
    assert!(silent.starts_with("HTTP/1.1 503") && silent.contains(r#""code":"overloaded""#), "{silent}");
}

#[tokio::test]
async fn busy_client_gets_a_page() {
    let mut upstream = GatedUpstream::start().await;
    let config = "[server]\nmax_in_flight_per_client = 1\n".to_owned();
    let gateway = TestGatewayBuilder::new(config + &route("/", &upstream.url(), "auth = \"none\""));
    let gateway = gateway.start().await;
    let waiting = gateway.ask(get("/slow"));
    let others = async {
        upstream.arrived(1).await;
        let page = gateway.ask(super::navigation("/")).await;
        super::assert_page(&page, 429);
        assert_eq!(page.header("retry-after"), Some("1"));
        gateway.ask(get("/")).await.problem(429, "client_busy");
        upstream.release(1);
    };
    let (waiting, ()) = tokio::join!(waiting, others);
    assert_eq!(waiting.status, 200);
}
