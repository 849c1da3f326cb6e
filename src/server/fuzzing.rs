//! Properties of parsing the PROXY protocol.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, ReadBuf};

use super::proxy_protocol::{ProxyHeaderError, read_any_version};
use crate::fuzzing::divisions::divisions;

/// Checks the parser of the PROXY protocol with a connection that begins with `input`.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_proxy_protocol(input: &[u8]) {
    let (parsed, length) = read(vec![input]);
    for pieces in divisions(input) {
        let (parsed_in_pieces, length_in_pieces) = read(pieces);
        assert_eq!(parsed_in_pieces, parsed, "in pieces");
        assert!(length_in_pieces == length || parsed == Parsed::Invalid);
    }
    let Parsed::Address(address) = parsed else { return };
    let header = &input[..length];
    assert_eq!(Some(length), header_length(input));
    assert_eq!(read(vec![header]), (Parsed::Address(address), length), "without the bytes after it");
    for end in (0..length).step_by(length / 64 + 1) {
        assert_eq!(read(vec![&header[..end]]), (Parsed::Incomplete, end), "{end}");
    }
    if let Some(address) = address {
        assert!(names_source(header, address), "{address}");
        let line = header_of(address).into_bytes();
        assert_eq!(read(vec![&line]), (Parsed::Address(Some(address)), line.len()));
    }
}

/// The result of reading a header.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Parsed {
    Address(Option<SocketAddr>),
    Incomplete,
    Invalid,
}

/// Reads a header that is received in pieces. Returns the number of bytes that were read too.
fn read(pieces: Vec<&[u8]>) -> (Parsed, usize) {
    let mut connection = Connection { pieces, position: 0 };
    let parsed = match read_any_version(&mut connection).now_or_never() {
        Some(Ok(address)) => Parsed::Address(address),
        Some(Err(ProxyHeaderError::Io(_))) => Parsed::Incomplete,
        Some(Err(ProxyHeaderError::Malformed | ProxyHeaderError::Missing)) => Parsed::Invalid,
        Some(Err(ProxyHeaderError::TimedOut(_))) | None => panic!("all bytes have arrived"),
    };
    (parsed, connection.position)
}

/// A connection of which one piece is received at a time.
struct Connection<'i> {
    pieces: Vec<&'i [u8]>,
    /// Number of bytes that were read.
    position: usize,
}

impl AsyncRead for Connection<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { pieces, position } = self.get_mut();
        if let Some(piece) = pieces.first_mut() {
            let (read, rest) = piece.split_at(piece.len().min(buffer.remaining()));
            buffer.put_slice(read);
            *position += read.len();
            *piece = rest;
        }
        pieces.retain(|piece| !piece.is_empty());
        Poll::Ready(Ok(()))
    }
}

/// Returns the length of the header at the start of `input`: that of a line, or the one that version 2 declares.
fn header_length(input: &[u8]) -> Option<usize> {
    if input.starts_with(b"PROXY ") {
        let line_end = input.windows(2).position(|bytes| bytes == b"\r\n")?;
        return Some(line_end + 2).filter(|length| *length <= 107);
    }
    let length = input.get(14..16)?;
    Some(16 + usize::from(length[0]) * 256 + usize::from(length[1]))
}

/// Returns `true` if the header has this address as that of the source.
fn names_source(header: &[u8], address: SocketAddr) -> bool {
    if let Some(line) = header.strip_prefix(b"PROXY ") {
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        return words[1].parse() == Ok(address.ip()) && words[3].parse() == Ok(address.port());
    }
    let (source, ports) = match address.ip() {
        IpAddr::V4(address) => (address.octets().to_vec(), 16 + 8),
        IpAddr::V6(address) => (address.octets().to_vec(), 16 + 32),
    };
    header[16..].starts_with(&source) && header[ports..].starts_with(&address.port().to_be_bytes())
}

/// Returns a header of version 1.
fn header_of(address: SocketAddr) -> String {
    let (family, destination) = if address.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {destination} {} 443\r\n", address.ip(), address.port())
}
