//! The PROXY protocol, versions 1 and 2: the address of a client before the first byte of its connection.
//!
//! The specification is <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. This is no crate's parser,
//! since exactly the header must be read from the socket: the TLS handshake follows it. Those of crates (`ppp`,
//! `proxy-header`) parse a buffer that may hold more, and would need a second reader in front of TLS.
//!
//! Parsing is strict: any deviation refuses the connection. Type-length-value fields (TLVs) are skipped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Reason why a connection has no valid header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    #[error("header ended early")]
    Io(#[from] io::Error),
    #[error("malformed header")]
    Malformed,
    #[error("no header: the proxy does not send one")]
    Missing,
    #[error("header did not arrive in time")]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

/// Reads the header, and not a byte more. Returns the address of the client, or `None` if the proxy connects for
/// itself (`LOCAL`), or for a client without an IP address (`UNKNOWN`).
pub(super) async fn read_header<R: AsyncRead + Unpin>(
    socket: &mut R,
    time_limit: Duration,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    timeout(time_limit, read_any_version(socket)).await?
}

pub(super) async fn read_any_version<R: AsyncRead + Unpin>(
    socket: &mut R,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    // Both versions have at least as many bytes.
    let mut start = [0; V2_SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        read_v2(socket).await
    } else if let Some(start) = start.strip_prefix(V1_SIGNATURE) {
        read_v1(socket, start).await
    } else {
        Err(ProxyHeaderError::Missing)
    }
}

/// Reads the rest of a line of version 1, byte by byte: its length is unknown.
async fn read_v1<R: AsyncRead + Unpin>(
    socket: &mut R,
    start: &[u8],
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if V1_SIGNATURE.len() + line.len() >= MAX_V1_LEN {
            return Err(ProxyHeaderError::Malformed);
        }
        line.push(socket.read_u8().await?);
    }
    line.truncate(line.len() - 2);
    parse_v1(&line)
}

/// Parses a line of version 1, without `PROXY ` and its line end.
fn parse_v1(line: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let line = str::from_utf8(line).map_err(|_| ProxyHeaderError::Malformed)?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let parts: Vec<_> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = parts[..] else {
        return Err(ProxyHeaderError::Malformed);
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None,
    };
    let source = address(source).zip(port(source_port));
    let destination = address(destination).zip(port(destination_port));
    destination.ok_or(ProxyHeaderError::Malformed)?;
    source.map(|source| Some(SocketAddr::from(source))).ok_or(ProxyHeaderError::Malformed)
}

/// Parses a port: digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_canonical = text == "0" || !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_canonical)
}

async fn read_v2<R: AsyncRead + Unpin>(socket: &mut R) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let [version_and_command, family, length @ ..] = head;
    let length = usize::from(u16::from_be_bytes(length));
    let address_len = match (version_and_command, family) {
        (LOCAL, _) | (PROXY, UNSPECIFIED) => 0,
        (PROXY, TCP_OVER_IPV4) => 12,
        (PROXY, TCP_OVER_IPV6) => 36,
        (PROXY, UNIX_STREAM) => 216,
        _ => return Err(ProxyHeaderError::Malformed),
    };
    if length < address_len {
        return Err(ProxyHeaderError::Malformed);
    }
    let mut addresses = [0; 216];
    let addresses = &mut addresses[..address_len];
    socket.read_exact(addresses).await?;
    skip(socket, length - address_len).await?;
    Ok(parse_source(addresses))
}

/// Returns the source of an address block: both addresses, then both ports.
fn parse_source(block: &[u8]) -> Option<SocketAddr> {
    let (address, port): (IpAddr, _) = match block.len() {
        12 => (<[u8; 4]>::try_from(&block[..4]).ok()?.into(), &block[8..10]),
        36 => (<[u8; 16]>::try_from(&block[..16]).ok()?.into(), &block[32..34]),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

async fn skip<R: AsyncRead + Unpin>(socket: &mut R, mut length: usize) -> io::Result<()> {
    let mut skipped = [0; 256];
    while length > 0 {
        let piece = length.min(skipped.len());
        socket.read_exact(&mut skipped[..piece]).await?;
        length -= piece;
    }
    Ok(())
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// Length of the longest line of version 1, with its end.
const MAX_V1_LEN: usize = 107;

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_seed::proptest_config;

    /// Reads a header, and returns the bytes after it too.
    async fn read(mut bytes: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyHeaderError> {
        let address = read_header(&mut bytes, Duration::from_secs(1)).await?;
        Ok((address, bytes.to_vec()))
    }

    fn v2(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [&V2_SIGNATURE[..], &[command, family], &length.to_be_bytes(), rest].concat()
    }

    #[tokio::test]
    async fn valid_headers_name_the_client() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let mut v6 = [0; 36];
        v6[0] = 0x20;
        v6[15] = 7;
        v6[33] = 9;
        let with_tlv = [&v4[..], &[0x04, 0, 1, b'x']].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n".to_vec(), Some("192.0.2.7:4660")),
            (b"PROXY TCP6 2000::7 ::1 9 0\r\n".to_vec(), Some("[2000::7]:9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN a b c\r\n".to_vec(), None),
            (v2(PROXY, TCP_OVER_IPV4, 12, &v4), Some("192.0.2.7:4660")),
            (v2(PROXY, TCP_OVER_IPV4, 16, &with_tlv), Some("192.0.2.7:4660")),
            (v2(PROXY, TCP_OVER_IPV6, 36, &v6), Some("[2000::7]:9")),
            (v2(PROXY, UNIX_STREAM, 216, &[b'x'; 216]), None),
            (v2(PROXY, UNSPECIFIED, 0, &[]), None),
            (v2(LOCAL, UNSPECIFIED, 0, &[]), None),
            (v2(LOCAL, TCP_OVER_IPV4, 12, &v4), None),
            (v2(LOCAL, UNSPECIFIED, 1000, &[0; 1000]), None),
        ] {
            let rest = b"GET / HTTP/1.1\r\n";
            let found = read(&[&header[..], rest].concat()).await.expect("a valid header");
            let expected = expected.map(|address| address.parse().expect("an address"));
            assert_eq!(found, (expected, rest.to_vec()), "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn invalid_headers_are_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        for header in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"proxy TCP4 192.0.2.7 10.0.0.1 1 80\r\n",
            b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 80\r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 1 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80 \r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 01 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n",
            b"PROXY TCP4 192.0.2.07 10.0.0.1 1 80\r\n",
            b"PROXY TCP4 ::1 10.0.0.1 1 80\r\n",
            b"PROXY TCP4 192.0.2.7 a 1 80\r\n",
            b"PROXY TCP6 192.0.2.7 10.0.0.1 1 80\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 80\r\n",
            b"PROXY UNKNOWNS a b\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\n\n\n\r\n",
            b"PROXY TCP4 \xff 10.0.0.1 1 80\r\n",
            long.as_bytes(),
            &v2(PROXY, TCP_OVER_IPV4, 11, &[0; 12]),
            &v2(PROXY, 0x12, 12, &[0; 12]),
            &v2(PROXY, 0x41, 12, &[0; 12]),
            &v2(0x22, TCP_OVER_IPV4, 12, &[0; 12]),
            &v2(0x11, TCP_OVER_IPV4, 12, &[0; 12]),
        ] {
            let error = read(header).await.expect_err("an invalid header");
            let is_refused = matches!(error, ProxyHeaderError::Malformed | ProxyHeaderError::Missing);
            assert!(is_refused, "{}: {error}", header.escape_ascii());
        }
        for header in
            [&b""[..], b"PROXY TCP4", b"PROXY TCP4 192.0.2.7", &v2(PROXY, TCP_OVER_IPV4, 12, &[0; 11])]
        {
            assert!(matches!(read(header).await, Err(ProxyHeaderError::Io(_))), "{}", header.escape_ascii());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn header_has_a_time_limit() {
        let (mut socket, _client) = tokio::io::duplex(64);
        let result = read_header(&mut socket, Duration::from_secs(15)).await;
        assert!(matches!(result, Err(ProxyHeaderError::TimedOut(_))));
    }

    proptest::proptest! {
        #![proptest_config(proptest_config())]

        #[test]
        fn any_bytes_are_parsed_without_panic(
            start in proptest::sample::select(vec![&b""[..], V1_SIGNATURE, b"PROXY TCP4 ", &V2_SIGNATURE]),
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            let bytes = [start, &rest].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let _ = runtime.block_on(read(&bytes));
        }
    }
}
