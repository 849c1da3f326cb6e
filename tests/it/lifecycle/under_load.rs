//! Shutdown, handover and reload at 500 requests a second.

use futures_util::StreamExt;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::load::{LoadGenerator, PathEcho, Tally};
use super::{config, open_route};
use crate::support::db;
use crate::support::iterations::rounds;
use crate::support::process::TestDeployment;
use crate::support::test_server::{Files, get1, trusting};
use crate::support::websocket::{EchoUpstream, assert_echoes};

/// Every request that the server has read is completed.
///
/// A client cannot see which requests were read, so each request has a unique path. A request was cut if its
/// response is incomplete or not a 200, or if it got no response although the server's log or the upstream
/// contains its path. The remaining requests were sent while the connection closed and were never read; they
/// are sent again and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_completes_every_request_read() {
    let (upstream, url) = PathEcho::start().await;
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.write("sekisho.toml", &config("drain_delay = '50ms'", &open_route("/", &url)));
    let mut all = Tally::default();
    for _ in 0..rounds("SEKISHO_TEST_STOPS", 3) {
        let server = deployment.serve().await;
        let load = LoadGenerator::start(server.public, None);
        load.wait_for_responses(200).await;
        server.terminate();
        let (status, log) = server.wait_with_log().await;
        let tally = load.end().await;
        assert_eq!(status.code(), Some(0), "{log}");
        check(&tally, &log, &upstream);
        assert!(log.contains("path=/c0-0 ") && tally.refused > 0 && tally.closed > 0, "{tally:?}");
        all.answered += tally.answered;
        all.unanswered.extend(tally.unanswered);
        upstream.forget();
    }
    eprintln!("{} completed, {} on a closing connection", all.answered, all.unanswered.len());
}

/// A second process takes over the ports (`SO_REUSEPORT`) before the first one shuts down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handover_loses_no_request() {
    let (upstream, url) = PathEcho::start().await;
    let mut deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    deployment.write("sekisho.toml", &config("reuse_port = true", &open_route("/", &url)));
    let mut server = deployment.serve().await;
    deployment.set("server.listen", &server.public.to_string());
    deployment.set("admin.listen", &server.admin.to_string());
    let load = LoadGenerator::start(server.public, None);
    let mut logs = String::new();
    for _ in 0..rounds("SEKISHO_TEST_STOPS", 2) {
        load.wait_for_responses(100).await;
        let next = deployment.serve().await;
        load.wait_for_responses(100).await;
        server.terminate();
        let (status, log) = server.wait_with_log().await;
        assert_eq!(status.code(), Some(0), "{log}");
        logs.push_str(&log);
        server = next;
    }
    load.wait_for_responses(100).await;
    let tally = load.end().await;
    server.terminate();
    logs.push_str(&server.wait_with_log().await.1);
    check(&tally, &logs, &upstream);
    assert_eq!(tally.refused, 0, "a process always listens");
    eprintln!("{} completed, {} on a closing connection", tally.answered, tally.unanswered.len());
}

/// Reloads with changed routes, limits and certificates, and with invalid files in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_interrupts_no_request() {
    let (upstream, url) = PathEcho::start().await;
    let (echo, files) = (EchoUpstream::start().await, [Files::good(), Files::good()]);
    let deployment = TestDeployment::without_keys(db::sqlite_location().await.unwrap());
    let version = |round: usize| {
        let (limit, files) = (100 + round % 3, &files[round / 2 % 2]);
        let (certificate, key) = (files.certificate(), files.key());
        let server = format!(
            "max_uri = '{limit}KiB'\nmax_header_bytes = '200KiB'\ntls_certificate = '{}'\ntls_key = '{}'",
            certificate.display(),
            key.display()
        );
        let more = format!("max_in_flight = {}\n{}", 1000 + round, open_route("/live", &echo.url()));
        let new = if round % 2 == 1 { open_route(&format!("/new-{round}"), &url) } else { String::new() };
        config(&server, &format!("{}{more}{new}", open_route("/", &url)))
    };
    deployment.write("sekisho.toml", &version(0));
    let server = deployment.serve().await;
    let mut events = files[0].connect(server.public, &[], &[&TLS13]).await.unwrap();
    events.write_all(get1("/live/events").as_bytes()).await.unwrap();
    read_until(&mut events, "data: begun").await;
    let socket = files[0].connect(server.public, &[], &[&TLS13]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://app.example/live/ws", socket).await.unwrap();
    assert_echoes(&mut socket).await;

    let load = LoadGenerator::start(server.public, Some(trusting(&[&files[0], &files[1]], &[&TLS13])));
    let (mut good, mut bad) = (0, 0);
    for round in 1..=rounds("SEKISHO_TEST_RELOADS", 5) {
        if round % 3 == 0 {
            deployment.write("sekisho.toml", &version(round).replace("auth = 'none'", "auth = 'invalid'"));
            server.hang_up();
            bad += 1;
            server.wait_for_log("configuration reload failed", bad).await;
        }
        deployment.write("sekisho.toml", &version(round));
        server.hang_up();
        good += 1;
        server.wait_for_log("configuration reloaded", good).await;
        load.wait_for_responses(40).await;
    }
    let tally = load.end().await;
    assert_eq!((&tally.cut[..], &tally.unanswered[..], tally.refused), (&[][..], &[][..], 0));
    assert_eq!(tally.closed, 0, "no connection is lost");
    assert!(upstream.has_seen("/c0-0"));
    assert_echoes(&mut socket).await;
    read_until(&mut events, "data: tick").await;
    drop(socket.close(None).await);
    while socket.next().await.is_some() {}
    drop(events);
    server.stop().await;
    eprintln!("{} completed, {good} reloads, {bad} invalid files", tally.answered);
}

/// Checks that no request was cut, as defined by the first test.
fn check(tally: &Tally, log: &str, upstream: &PathEcho) {
    assert_eq!(tally.cut, [""; 0]);
    for path in &tally.unanswered {
        assert!(!log.contains(&format!("path={path} ")), "{path} was read and got no response");
        assert!(!upstream.has_seen(path), "{path} was forwarded and got no response");
    }
}

/// Reads until the text has arrived.
async fn read_until(socket: &mut TlsStream<TcpStream>, words: &str) {
    let mut received = String::new();
    while !received.contains(words) {
        let mut piece = [0; 1024];
        let read = socket.read(&mut piece).await.unwrap();
        assert!(read > 0, "it ended: {received}");
        received.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}
