//! A raw HTTP/2 client for frames that no library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::process::PROCESS_TIMEOUT;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// An HTTP/2 client that sends arbitrary frames.
pub(super) struct RawHttp2Client {
    socket: TcpStream,
}

/// The server's reaction to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A response with this first byte of its HPACK block: 0x88 is `:status: 200`, 0x8c is 400.
    Response(u8),
    Reset(u32),
    GoAway(u32),
    Closed,
}

impl RawHttp2Client {
    pub(super) async fn connect(server: SocketAddr) -> Self {
        let mut raw = Self { socket: TcpStream::connect(server).await.unwrap() };
        raw.send(PREFACE).await;
        raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        // A closed connection is detected by the next read.
        let _ = self.socket.write_all(bytes).await;
    }

    /// Returns the reaction to the first request.
    pub(super) async fn outcome(&mut self) -> Outcome {
        timeout(PROCESS_TIMEOUT, async {
            loop {
                let Some((kind, payload)) = self.frame().await else { return Outcome::Closed };
                match kind {
                    HEADERS => return Outcome::Response(payload[0]),
                    RST_STREAM => return Outcome::Reset(code(&payload)),
                    GOAWAY => return Outcome::GoAway(code(&payload[4..])),
                    _ => {}
                }
            }
        })
        .await
        .expect("an outcome")
    }

    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some((head[3], payload))
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns a HEADERS frame with these fields as uncompressed literals.
pub(super) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, flags | END_HEADERS, stream, &block)
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
