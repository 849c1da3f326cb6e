//! Raw HTTP/2 connections, for frames that no library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::process::PROCESS_TIMEOUT;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One end of an HTTP/2 connection, which sends arbitrary frames.
pub(crate) struct RawHttp2 {
    socket: TcpStream,
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The server's reaction to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response with this first byte of its HPACK block: 0x88 is `:status: 200`, 0x8c is 400.
    Response(u8),
    Reset(u32),
    GoAway(u32),
    Closed,
}

impl RawHttp2 {
    pub(crate) async fn connect(server: SocketAddr) -> Self {
        let mut raw = Self { socket: TcpStream::connect(server).await.unwrap() };
        raw.send(PREFACE).await;
        raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// Serves a connection whose client sends the preface.
    pub(crate) async fn accept(socket: TcpStream) -> Self {
        let mut raw = Self { socket };
        let mut preface = [0; PREFACE.len()];
        raw.socket.read_exact(&mut preface).await.unwrap();
        assert_eq!(preface, PREFACE);
        raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // A closed connection is detected by the next read.
        let _ = self.socket.write_all(bytes).await;
    }

    /// Returns the reaction to the first request.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        timeout(PROCESS_TIMEOUT, async {
            loop {
                let Some(frame) = self.frame().await else { return Outcome::Closed };
                match frame.kind {
                    HEADERS => return Outcome::Response(frame.payload[0]),
                    RST_STREAM => return Outcome::Reset(code(&frame.payload)),
                    GOAWAY => return Outcome::GoAway(code(&frame.payload[4..])),
                    _ => {}
                }
            }
        })
        .await
        .expect("an outcome")
    }

    /// Returns the next frame, or `None` at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        let stream = code(&head[5..]);
        Some(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Waits for the end of the next request and returns its stream.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.frame().await?;
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Some(frame.stream);
            }
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns a HEADERS frame with these fields as uncompressed literals.
pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
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

/// The HPACK block of a response with status 200 and no fields.
pub(crate) const STATUS_200: &[u8] = &[0x88];

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// Returns `true` if the server has rejected a request: with 400, or because HTTP/2 does not allow it.
pub(crate) fn is_rejection(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Response(0x8c) | Outcome::Reset(_) | Outcome::GoAway(_))
}
