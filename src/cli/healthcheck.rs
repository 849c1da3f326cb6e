//! `sekisho healthcheck`: what a container asks to learn whether it is well.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::error::CliError;
use crate::config::{Config, ListenAddr};

/// Asks `/readyz` on `admin.listen`; an error unless the answer is 200.
pub(super) fn run(config: &Config) -> Result<(), CliError> {
    let listen = &config.admin.listen;
    if listen.port() == 0 {
        return Err(CliError::Refused(
            "admin.listen has port 0, so nobody knows where to ask: set one".to_owned(),
        ));
    }
    let status = request_status(listen)
        .map_err(|error| CliError::failed(format!("no answer from admin.listen = {listen}"), error))?;
    if status.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(CliError::Refused(format!("not ready: /readyz on admin.listen = {listen} answered \"{status}\"")))
}

/// The first line of the answer.
fn request_status(listen: &ListenAddr) -> io::Result<String> {
    let mut stream = connect(listen)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    Ok(line)
}

/// Connects to the listener from this machine: one that listens everywhere is on loopback too.
fn connect(listen: &ListenAddr) -> io::Result<TcpStream> {
    let host = match listen.ip() {
        Some(ip) if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1",
        Some(ip) if ip.is_unspecified() => "::1",
        _ => listen.host(),
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, listen.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub(super) const EXAMPLES: &str = "\
Example, in a Dockerfile:
  HEALTHCHECK CMD [\"sekisho\", \"healthcheck\"]";

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How much of an answer is read, in bytes.
const LONGEST_ANSWER: u64 = 64 * 1024;
