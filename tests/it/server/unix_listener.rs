//! The public listener on a Unix socket (`server.listen = "unix:…"`).

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::db;
use crate::support::process::{PASSWORD, TestDeployment};
use crate::support::upstream::Upstream;

/// A deployment whose server listens on a Unix socket and forwards to an upstream.
async fn deployment(upstream: &Upstream) -> (TestDeployment, PathBuf) {
    let mut deployment = TestDeployment::new(db::sqlite_location().await.unwrap()).await;
    deployment.forward_to_without_auth(upstream.url());
    let path = deployment.path("sekisho.sock");
    deployment.set("server.listen", &format!("unix:{}", path.display()));
    deployment.set("server.public_origin", "http://localhost");
    (deployment, path)
}

/// Sends a request with these header lines, and reads the response.
async fn exchange(path: &PathBuf, head: &str) -> String {
    let mut socket = UnixStream::connect(path).await.unwrap();
    socket.write_all(format!("{head}Host: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    response
}

/// The peer has no address and is trusted: a forwarded header names the client.
#[tokio::test]
async fn unix_listener_trusts_forwarded_headers() {
    let mut upstream = Upstream::start().await;
    let (mut deployment, path) = deployment(&upstream).await;
    deployment.set("server.socket_mode", "0600");
    deployment.user("ann@example.com", "user").await;
    let server = deployment.serve().await;
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let response = exchange(&path, "GET /a HTTP/1.1\r\nX-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let seen = upstream.seen().await;
    assert_eq!((seen.all("x-forwarded-for"), seen.all("x-real-ip")), (vec!["192.0.2.7"], vec!["192.0.2.7"]));

    let response = exchange(&path, "GET /b HTTP/1.1\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let seen = upstream.seen().await;
    assert!(seen.all("x-forwarded-for").is_empty() && seen.all("x-real-ip").is_empty(), "{seen:?}");
    assert_eq!(seen.all("x-forwarded-host"), ["localhost"]);
    assert!(seen.all("forwarded")[0].starts_with("for=unknown;"), "{seen:?}");

    // An upload, and a session of a client without an address.
    let form = format!("email=ann@example.com&password={PASSWORD}");
    let mut socket = UnixStream::connect(&path).await.unwrap();
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.contains("set-cookie: "), "{response}");
    server.wait_for_log("path=/b", 1).await;
    let log = server.log();
    let line = |path: &str| log.lines().find(|line| line.contains(path)).unwrap().to_owned();
    assert!(line("path=/a").contains("client=192.0.2.7") && !line("path=/b").contains("client="), "{log}");
    server.stop().await;
}

#[tokio::test]
async fn unix_listener_removes_its_file_and_replaces_one_left_over() {
    let mut upstream = Upstream::start().await;
    let (deployment, path) = deployment(&upstream).await;
    let server = deployment.serve().await;
    let refused = deployment.start().await.err().unwrap();
    assert!(refused.fails(1).contains("another program listens on it"), "{}", refused.err);
    assert!(exchange(&path, "GET /first HTTP/1.1\r\n").await.starts_with("HTTP/1.1 200"));
    server.stop().await;
    assert!(!path.exists(), "removed at shutdown");

    deployment.serve().await.kill().await;
    assert!(path.exists(), "left over");
    let server = deployment.serve().await;
    server.wait_for_log("socket of a killed process removed", 1).await;
    assert!(exchange(&path, "GET /second HTTP/1.1\r\n").await.starts_with("HTTP/1.1 200"));
    // The file of another process stays.
    std::fs::remove_file(&path).unwrap();
    let other = deployment.serve().await;
    let inode = std::fs::symlink_metadata(&path).unwrap().ino();
    server.stop().await;
    assert_eq!(std::fs::symlink_metadata(&path).unwrap().ino(), inode);
    other.stop().await;

    std::fs::write(&path, "precious").unwrap();
    let refused = deployment.start().await.err().unwrap();
    assert!(refused.fails(1).contains("there is a file that is no socket"), "{}", refused.err);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert_eq!(upstream.seen().await.target, "/first");
}

/// Two processes that start at the same time take a file that is left over for one only once.
#[tokio::test]
async fn unix_listener_is_bound_by_one_of_two_processes() {
    let mut upstream = Upstream::start().await;
    let (deployment, path) = deployment(&upstream).await;
    deployment.serve().await.kill().await;
    let (one, other) = join(deployment.start(), deployment.start()).await;
    assert_ne!(one.is_ok(), other.is_ok(), "one of them serves");
    assert!(exchange(&path, "GET /x HTTP/1.1\r\n").await.starts_with("HTTP/1.1 200"));
    assert_eq!(upstream.seen().await.target, "/x");
}
