//! Slow request bodies over HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::super::Load;
use super::super::client::connect_from;
use super::super::settings::Attack;

/// Sends request bodies slowly, one on each connection, again and again.
pub(super) async fn send_slow_bodies(load: Arc<Load>, client: usize) {
    let address = load.settings.hostile_address(client);
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n",
        slow_body_path(client),
        load.gateway
    );
    loop {
        if let Ok(socket) = connect_from(address, load.gateway).await {
            load.stats.count(Attack::SlowHttp1, |record| {
                record.connections += 1;
                record.requests += 1;
            });
            let status = exchange(socket, &head, load.settings.byte_interval).await;
            load.stats.count_end(Attack::SlowHttp1, status);
        } else {
            load.stats.count(Attack::SlowHttp1, |record| record.failed_connections += 1);
        }
        sleep(load.settings.retry_interval).await;
    }
}

/// Returns the path of a slow request: every tenth is a sign-in.
pub(super) fn slow_body_path(number: usize) -> &'static str {
    if number % 10 == 9 { "/auth/login" } else { "/app/upload" }
}

/// Sends a byte at a time until the server responds or closes the connection. Returns the status.
async fn exchange(mut socket: TcpStream, head: &str, byte_interval: Duration) -> Option<u16> {
    socket.write_all(head.as_bytes()).await.ok()?;
    let mut response = [0; 64];
    loop {
        match timeout(byte_interval, socket.read(&mut response)).await {
            Ok(read) => return parse_status(response.get(..read.ok()?)?),
            Err(_) => socket.write_all(b"x").await.ok()?,
        }
    }
}

fn parse_status(response: &[u8]) -> Option<u16> {
    std::str::from_utf8(response.get(9..12)?).ok()?.parse().ok()
}
