//! B1: the wall clock of a server is set while it runs, and while it is stopped. libfaketime sets it.

use std::path::Path;
use std::time::Duration;

use sekisho::clock::{Clock, SystemClock};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::support::db::DatabaseLocation;
use crate::support::process::{FAKETIME, ServerProcess, TestDeployment, on_both, program, until};
use crate::support::socket_browser::SocketBrowser;

on_both! {
    steps_of_the_wall_clock_end_no_session;
}

/// The lifetime of an access token is 2 s, and the grace period 1 s.
async fn steps_of_the_wall_clock_end_no_session(location: DatabaseLocation) {
    let Some(library) = program("SEKISHO_TEST_FAKETIME", FAKETIME) else { return };
    let mut deployment = TestDeployment::new(location).await;
    deployment.user(ANN, "user").await;
    let offset = deployment.write("offset", "+0");
    for (name, value) in [
        ("LD_PRELOAD", library.with_file_name("libfaketimeMT.so.1").to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ] {
        deployment.set_env(name, value);
    }
    let mut server = deployment.serve().await;
    let mut ann = SocketBrowser::signed_in(server.public, ANN).await;
    for seconds in [-9, 60, -3_600, 30 * DAY, -30 * DAY] {
        set_wall_clock(&offset, seconds, &mut ann, &server).await;
        browse(&mut ann, &server, seconds).await;
    }
    for seconds in [3_600, -DAY, 30 * DAY, -9] {
        server.stop().await;
        std::fs::write(&offset, format!("{seconds:+}")).unwrap();
        server = deployment.serve().await;
        browse(&mut ann, &server, seconds).await;
    }
    server.stop().await;
}

/// Sets the server's wall clock, and waits until the server uses it.
async fn set_wall_clock(offset: &Path, seconds: i64, ann: &mut SocketBrowser, server: &ServerProcess) {
    std::fs::write(offset, format!("{seconds:+}")).unwrap();
    until("the wall clock of the server", async || {
        let response = ann.get(server.public, "/auth/session").await;
        assert_eq!(response.status, 200, "after {seconds} s: {response:?}");
        let expected = SystemClock.now() + time::Duration::seconds(seconds);
        let logged = last_log_time(&server.log())?;
        ((logged - expected).unsigned_abs() < Duration::from_secs(5)).then_some(())
    })
    .await;
}

/// Returns the time of the last log entry. The `Date` header would not do: hyper caches it until the wall clock
/// has passed the next second.
fn last_log_time(log: &str) -> Option<OffsetDateTime> {
    log.lines().rev().find_map(|line| OffsetDateTime::parse(line.split(' ').next()?, &Rfc3339).ok())
}

/// Sends requests for two lifetimes of an access token. Each must be accepted.
async fn browse(ann: &mut SocketBrowser, server: &ServerProcess, seconds: i64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let response = ann.get(server.public, "/auth/session").await;
        assert_eq!(response.status, 200, "after {seconds} s: {response:?}, log: {}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const ANN: &str = "ann@example.com";

const DAY: i64 = 86_400;
