//! Ends of sessions at other processes, and the end of a process.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use super::EventStream;
use crate::support::db::{self, DatabaseLocation};
use crate::support::fair_clock::FairInstant;
use crate::support::process::{PASSWORD, ServerProcess, TestDeployment, on_both};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    ends_at_other_processes_arrive_within_a_second;
}

/// Two servers share each database, and commands run beside them.
async fn ends_at_other_processes_arrive_within_a_second(location: DatabaseLocation) {
    let mut deployment = TestDeployment::new(location).await;
    deployment.set("tokens.access_ttl", "10m");
    let (one, other) = tokio::join!(deployment.serve(), deployment.serve());
    for email in ["ann@example.com", "bob@example.com", "eve@example.com"] {
        deployment.user(email, "user").await;
    }

    let ann = SocketBrowser::signed_in(one.public, "ann@example.com").await;
    let mut stream = EventStream::of(other.public, &ann).await;
    let start = FairInstant::now();
    deployment.run(&["session", "revoke", "--user", "ann@example.com"]).await.done();
    check_end(&mut stream, "revoked", start).await;

    let bob = SocketBrowser::signed_in(one.public, "bob@example.com").await;
    let mut stream = EventStream::of(one.public, &bob).await;
    let start = FairInstant::now();
    deployment.run(&["user", "disable", "bob@example.com"]).await.done();
    check_end(&mut stream, "user_disabled", start).await;

    let mut eve = SocketBrowser::signed_in(one.public, "eve@example.com").await;
    let eve_elsewhere = SocketBrowser::signed_in(one.public, "eve@example.com").await;
    let mut stream = EventStream::of(other.public, &eve_elsewhere).await;
    let mut kept = EventStream::of(other.public, &eve).await;
    let change = json!({"current_password": PASSWORD, "new_password": "another-lantern-over-hakone"});
    let request = Request::post("/auth/password").header("content-type", "application/json");
    let start = FairInstant::now();
    let response = eve.send(one.public, request.body(Body::from(change.to_string())).unwrap()).await.unwrap();
    assert_eq!(response.status, 200);
    check_end(&mut stream, "password_changed", start).await;
    check_shutdown(other, &mut kept).await;
    one.stop().await;
}

/// The time includes that of the command or request which ends the session.
async fn check_end(stream: &mut EventStream, reason: &str, start: FairInstant) {
    let done = start.elapsed();
    assert_eq!(stream.ended().await.as_deref(), Some(reason));
    assert!(start.elapsed() < done + Duration::from_secs(1), "{reason}: {:?}", start.elapsed());
}

/// A process that shuts down completes its streams, so that pages reconnect to another one.
async fn check_shutdown(server: ServerProcess, stream: &mut EventStream) {
    let start = FairInstant::now();
    server.terminate();
    assert_eq!(stream.ended().await, None);
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Prints the memory that the server needs for a stream. Run with `--ignored --nocapture`, in a release build.
#[tokio::test]
#[ignore = "a measurement"]
async fn memory_of_a_stream() {
    const SESSIONS: usize = 500;
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.set("tokens.access_ttl", "1h");
    deployment.set("server.max_connections_per_client", "5000");
    deployment.set("server.max_open_per_client", "5000");
    deployment.set("session.max_per_user", "1000");
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let mut browsers = Vec::new();
    for _ in 0..SESSIONS {
        browsers.push(SocketBrowser::signed_in(server.public, "ann@example.com").await);
    }
    let mut streams = Vec::new();
    let mut before = server.memory();
    for _ in 0..4 {
        for browser in &browsers {
            streams.push(EventStream::of(server.public, browser).await);
        }
        let after = server.memory();
        println!("{} streams: {} bytes each", streams.len(), (after - before) * 1_024 / SESSIONS);
        before = after;
    }
    server.stop().await;
}
