//! Log output that blocks or fails does not affect requests, and lost lines are counted.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::new_deployment;
use crate::support::process::{PROCESS_TIMEOUT, TestDeployment, until};
use crate::support::socket_browser::SocketBrowser;

/// Starts a server on free ports, since its log, which names them, cannot be read.
async fn serve_with_stderr(
    deployment: &mut TestDeployment,
    stderr: impl Into<Stdio>,
) -> (SocketAddr, SocketAddr, Child) {
    let [public, admin] = free_ports();
    deployment.set("server.listen", &public.to_string());
    deployment.set("admin.listen", &admin.to_string());
    let child = deployment.command(&["serve"]).stderr(stderr).stdout(Stdio::null()).spawn().unwrap();
    until("the server to be ready", async || {
        tokio::net::TcpStream::connect(admin).await.ok()?;
        (SocketBrowser::default().status(admin, "/readyz").await == 200).then_some(())
    })
    .await;
    (public, admin, child)
}

/// Returns two free ports. Both sockets are bound at the same time, so that the ports differ.
fn free_ports() -> [SocketAddr; 2] {
    let listeners = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap())
}

async fn lost_lines(admin: SocketAddr) -> u64 {
    let metrics = String::from_utf8(SocketBrowser::default().get(admin, "/metrics").await.body).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("sekisho_log_lines_lost_total "));
    line.map_or(0, |count| count.parse().unwrap())
}

async fn stop(mut child: Child) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
    let status =
        tokio::time::timeout(PROCESS_TIMEOUT, child.wait()).await.expect("the server did not stop").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn full_disk_does_not_block_requests() {
    let mut deployment = new_deployment().await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (public, admin, child) = serve_with_stderr(&mut deployment, full).await;
    let before = lost_lines(admin).await;
    for _ in 0..20 {
        assert_eq!(SocketBrowser::default().status(public, "/auth/session").await, 401);
    }
    until("lost lines to be counted", async || (lost_lines(admin).await >= before + 20).then_some(())).await;
    stop(child).await;
}

#[tokio::test]
async fn stalled_log_reader_does_not_block_requests() {
    let mut deployment = new_deployment().await;
    // Enough lines to fill the queue.
    deployment.set_env("RUST_LOG", "trace");
    let (public, admin, mut child) = serve_with_stderr(&mut deployment, Stdio::piped()).await;
    // Limited by their number, since the queue fills slowly on a busy machine.
    let mut requests = 0;
    while lost_lines(admin).await == 0 {
        assert!(requests < 20_000, "no line is lost");
        for _ in 0..20 {
            assert_eq!(SocketBrowser::default().status(public, "/auth/session").await, 401);
            requests += 1;
        }
    }
    assert_eq!(SocketBrowser::default().status(public, "/auth/session").await, 401);
    // The reader resumes and receives complete lines only.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reading = tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.unwrap() {
            assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
        }
    });
    stop(child).await;
    reading.await.unwrap();
}

#[tokio::test]
async fn last_log_line_is_written_before_exit() {
    let deployment = new_deployment().await;
    let server = deployment.serve().await;
    let response = SocketBrowser::default().get(server.public, "/auth/session").await;
    let id = response.header("x-request-id").unwrap().to_owned();
    server.terminate();
    until("the last line", async || server.log().contains("\"message\":\"stopped\"").then_some(())).await;
    assert!(server.log().contains(&id));
}
