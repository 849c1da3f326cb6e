//! `GET /auth/events`: pages learn of the end of their session.

mod processes;

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use sekisho::models::session::SessionId;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::app::{self, ORIGIN, TestApp, on_each_database};
use crate::support::browser::{ACCESS, REFRESH};
use crate::support::db::{self, TestDatabase};
use crate::support::fair_clock::FairInstant;
use crate::support::http::{get, with};
use crate::support::paused_clock::PausedClock;
use crate::support::process::{PROCESS_TIMEOUT, until};
use crate::support::socket_browser::SocketBrowser;

on_each_database! {
    sign_out_ends_the_stream_with_its_reason
    expired_access_token_opens_a_stream_without_a_refresh
    superseded_refresh_token_opens_no_stream
    stream_does_not_postpone_the_idle_expiry
    lost_feed_closes_the_stream_without_a_reason
}

/// An open event stream.
struct EventStream {
    socket: TcpStream,
    received: String,
}

impl EventStream {
    /// Sends a request with these header lines, and reads the head of the response and the first event.
    async fn open(server: SocketAddr, method: &str, headers: &str) -> Self {
        let mut socket = TcpStream::connect(server).await.unwrap();
        let request = format!(
            "{method} /auth/events HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
            &ORIGIN["https://".len()..]
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Self { socket, received: String::new() };
        stream.read_until("\r\n\r\n").await;
        stream
    }

    /// Opens a stream with the cookies of a browser.
    async fn of(server: SocketAddr, browser: &SocketBrowser) -> Self {
        let mut stream = Self::open(server, "GET", &format!("Cookie: {}\r\n", browser.cookie_header())).await;
        assert_eq!(stream.status(), 200, "{}", stream.received);
        stream.read_until("retry: ").await;
        stream
    }

    fn status(&self) -> u16 {
        self.received.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn read_until(&mut self, text: &str) {
        while !self.received.contains(text) {
            assert!(self.read().await, "no {text:?} in {}", self.received);
        }
    }

    /// Reads more; returns `false` at the end.
    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        let read = timeout(PROCESS_TIMEOUT, self.socket.read(&mut buffer)).await.expect("data or the end");
        let bytes = &buffer[..read.unwrap_or(0)];
        self.received.push_str(str::from_utf8(bytes).unwrap());
        !bytes.is_empty()
    }

    /// Reads to the end of the response, which is complete, and returns the reason in its last event.
    async fn ended(&mut self) -> Option<String> {
        self.read_until("0\r\n\r\n").await;
        let (_, data) = self.received.split_once("event: ended\ndata: ")?;
        let (data, _) = data.split_once("\n\n").unwrap();
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data, json!({"event": data["event"]}));
        Some(data["event"].as_str().unwrap().to_owned())
    }
}

/// Signs a new user in at a gateway in this process.
async fn sign_in(app: &TestApp, server: SocketAddr, email: &str) -> (SocketBrowser, SessionId) {
    app.user(email).await;
    let mut browser = SocketBrowser::default();
    let response = browser.sign_in(server, email, app::PASSWORD).await;
    (browser, response.json()["session_id"].as_str().unwrap().parse().unwrap())
}

async fn sign_out_ends_the_stream_with_its_reason(fresh: TestDatabase) {
    let app = TestApp::with_database(fresh).await;
    let server = app.listen().await;
    let (mut ann, _) = sign_in(&app, server, "ann@example.com").await;
    let (bob, _) = sign_in(&app, server, "bob@example.com").await;
    let mut streams = [EventStream::of(server, &ann).await, EventStream::of(server, &ann).await];
    let mut unaffected = EventStream::of(server, &bob).await;
    let head = streams[0].received.to_lowercase();
    for line in [
        "content-type: text/event-stream\r\n",
        "cache-control: private, no-store\r\n",
        "vary: cookie\r\n",
        "x-accel-buffering: no\r\n",
    ] {
        assert_eq!(head.matches(line).count(), 1, "{line} {head}");
    }

    let former = ann.clone();
    let start = FairInstant::now();
    let request = Request::post("/auth/logout").body(Body::empty()).unwrap();
    assert_eq!(ann.send(server, request).await.unwrap().status, 204);
    for stream in &mut streams {
        assert_eq!(stream.ended().await.as_deref(), Some("logged_out"));
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    let rejected = former.clone().get(server, "/auth/events").await;
    rejected.problem(401, "logged_out");
    assert_eq!(rejected.event(), Some("logged_out"));
    SocketBrowser::default().get(server, "/auth/events").await.problem(401, "missing");
    app.app.streams.close_all();
    assert_eq!(unaffected.ended().await, None, "another session");
}

async fn expired_access_token_opens_a_stream_without_a_refresh(fresh: TestDatabase) {
    let app = TestApp::with_database(fresh).await;
    let server = app.listen().await;
    let (mut ann, session) = sign_in(&app, server, "ann@example.com").await;
    app.expire();
    let before = app.row(session).await;
    let mut stream = EventStream::of(server, &ann).await;
    assert!(!stream.received.to_lowercase().contains("set-cookie"), "{}", stream.received);
    assert_eq!(app.row(session).await, before);
    // The next request refreshes.
    assert_eq!(ann.get(server, "/auth/session").await.event(), Some("rotated"));
    ann.get(server, "/auth/session").await;
    let request = Request::post("/auth/logout-all").body(Body::empty()).unwrap();
    assert_eq!(ann.send(server, request).await.unwrap().status, 204);
    assert_eq!(stream.ended().await.as_deref(), Some("logged_out"));
}

/// The token would end the session elsewhere, as used twice. A request for events changes nothing.
async fn superseded_refresh_token_opens_no_stream(fresh: TestDatabase) {
    let app = TestApp::with_database(fresh).await;
    let server = app.listen().await;
    let (mut ann, _) = sign_in(&app, server, "ann@example.com").await;
    let mut copy = ann.clone();
    for _ in 0..2 {
        app.expire();
        assert_eq!(ann.get(server, "/auth/session").await.event(), Some("rotated"));
    }
    copy.get(server, "/auth/events").await.problem(401, "missing");
    assert_eq!(ann.status(server, "/auth/session").await, 200);
    // A refresh token alone suffices, an access token of another service does not harm.
    for access in [None, Some("x.y.z")] {
        ann.cookies.remove(ACCESS);
        ann.cookies.extend(access.map(|token| (ACCESS.to_owned(), token.to_owned())));
        EventStream::of(server, &ann).await;
    }
    ann.cookies.insert(REFRESH.to_owned(), "forged".to_owned());
    ann.get(server, "/auth/events").await.problem(401, "malformed");
}

async fn stream_does_not_postpone_the_idle_expiry(fresh: TestDatabase) {
    let app = TestApp::with_database(fresh).await;
    let server = app.listen().await;
    let (ann, session) = sign_in(&app, server, "ann@example.com").await;
    let before = app.row(session).await.idle_expires_at;
    let _stream = EventStream::of(server, &ann).await;
    app.clock.advance(app::IDLE_TTL);
    // Reconnects do not count as a use either.
    let _reconnected = EventStream::of(server, &ann).await;
    app.app.tokens.flush_deferred().await.unwrap();
    assert_eq!(app.row(session).await.idle_expires_at, before);
    app.clock.advance(app::ACCESS_TTL);
    let mut late = EventStream::open(server, "GET", &format!("Cookie: {}\r\n", ann.cookie_header())).await;
    assert_eq!(late.status(), 401);
    late.read_until("idle_expired").await;
}

/// Without the feed of ended sessions the stream would be silent about an end elsewhere.
async fn lost_feed_closes_the_stream_without_a_reason(fresh: TestDatabase) {
    let app = TestApp::with_database(fresh).await;
    let server = app.listen().await;
    let (ann, _) = sign_in(&app, server, "ann@example.com").await;
    let revocations = app.app.tokens.revocations();
    revocations.load().await.unwrap();
    let poller = tokio::spawn(revocations.clone().run_poller());
    let mut stream = EventStream::of(server, &ann).await;
    app.break_store().await;
    assert_eq!(stream.ended().await, None);
    ann.clone().get(server, "/auth/events").await.problem(503, "store_unavailable");
    app.repair_store().await;
    until("the feed", async || (!revocations.is_stale()).then_some(())).await;
    EventStream::of(server, &ann).await;
    poller.abort();
}

async fn new_app(flags: &[(&str, &str)]) -> TestApp {
    TestApp::with(db::sqlite().await.expect("SQLite needs no server"), flags).await
}

#[tokio::test]
async fn fifth_stream_of_a_session_displaces_the_oldest() {
    let app = new_app(&[]).await;
    let server = app.listen().await;
    let (ann, _) = sign_in(&app, server, "ann@example.com").await;
    let (bob, _) = sign_in(&app, server, "bob@example.com").await;
    let mut others = EventStream::of(server, &bob).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(EventStream::of(server, &ann).await);
        // No stream, so it displaces none.
        let head = EventStream::open(server, "HEAD", &format!("Cookie: {}\r\n", ann.cookie_header())).await;
        assert_eq!(head.status(), 200, "{}", head.received);
        assert!(head.received.to_lowercase().contains("content-type: text/event-stream\r\n"));
    }
    assert_eq!(streams[0].ended().await, None);
    assert!(streams[0].received.contains("retry: 300000\n"), "{}", streams[0].received);
    app.app.streams.close_all();
    for stream in streams[1..].iter_mut().chain([&mut others]) {
        assert_eq!(stream.ended().await, None);
        assert!(!stream.received.contains("retry: 300000\n"), "{}", stream.received);
    }
}

/// Users behind one address each have their own share, and a stream counts in it until it is closed.
#[tokio::test]
async fn streams_count_for_their_user() {
    let app = new_app(&[("server.max_open_per_client", "2")]).await;
    let server = app.listen().await;
    let (mut ann, _) = sign_in(&app, server, "ann@example.com").await;
    let (bob, _) = sign_in(&app, server, "bob@example.com").await;
    let streams = [EventStream::of(server, &ann).await, EventStream::of(server, &ann).await];
    let _others = [EventStream::of(server, &bob).await, EventStream::of(server, &bob).await];
    ann.get(server, "/auth/events").await.problem(429, "client_busy");
    ann.get(server, "/auth/session").await.problem(429, "client_busy");
    drop(streams);
    until("a free place", async || (ann.get(server, "/auth/session").await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn allowed_origins_and_bearer_tokens_open_streams() {
    let app = new_app(&[("server.allowed_origins", r#"["https://spa.example"]"#)]).await;
    let server = app.listen().await;
    let (ann, _) = sign_in(&app, server, "ann@example.com").await;
    let headers = format!("Cookie: {}\r\nOrigin: https://spa.example\r\n", ann.cookie_header());
    let stream = EventStream::open(server, "GET", &headers).await;
    assert_eq!(stream.status(), 200);
    let head = stream.received.to_lowercase();
    assert!(head.contains("access-control-allow-origin: https://spa.example\r\n"), "{head}");
    assert!(head.contains("access-control-allow-credentials: true\r\n"), "{head}");
    let rejected = app.send(with(get("/auth/events"), "origin", "https://spa.example")).await;
    rejected.problem(401, "missing");
    assert_eq!(rejected.header("access-control-allow-origin"), Some("https://spa.example"));

    let bearer = format!("Authorization: Bearer {}\r\n", ann.cookies[ACCESS]);
    assert_eq!(EventStream::open(server, "GET", &bearer).await.status(), 200);
    app.send(with(get("/auth/events"), "authorization", "Bearer x")).await.problem(401, "malformed");
}

#[tokio::test]
async fn silent_stream_is_kept_alive_by_comments() {
    let app = new_app(&[]).await;
    let server = app.listen().await;
    let (ann, _) = sign_in(&app, server, "ann@example.com").await;
    let mut stream = EventStream::of(server, &ann).await;
    let clock = PausedClock::new();
    clock.advance(16).await;
    stream.read_until("\n\n\r\n3\r\n:\n\n\r\n").await;
}
