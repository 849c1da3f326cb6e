//! `sekisho healthcheck`, for container health checks.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::error::CliError;
use crate::config::{Config, ListenAddr};

/// Requests `/readyz` on `admin.listen`. Any response but 200 is an error.
pub(super) fn run(config: &Config) -> Result<(), CliError> {
    let listen = &config.admin.listen;
    if listen.port() == 0 {
        return Err(CliError::Refused(
            "admin.listen has port 0, so its port is unknown: set a port".to_owned(),
        ));
    }
    let status = request_status(listen)
        .map_err(|error| CliError::failed(format!("no response from admin.listen = {listen}"), error))?;
    if status.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(CliError::Refused(format!("not ready: /readyz on admin.listen = {listen} returned \"{status}\"")))
}

/// Returns the status line of the response.
fn request_status(listen: &ListenAddr) -> io::Result<String> {
    let mut stream = connect(listen)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned())
}

/// Connects to the listener, over loopback if it listens on all addresses.
fn connect(listen: &ListenAddr) -> io::Result<TcpStream> {
    let host = match listen.ip() {
        Some(ip) if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1",
        Some(ip) if ip.is_unspecified() => "::1",
        _ => listen.host(),
    };
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, listen.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

pub(super) const EXAMPLES: &str = "\
Example, in a Dockerfile:
  HEALTHCHECK CMD [\"sekisho\", \"healthcheck\"]";

/// Timeout for connecting, and for each read and write.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

const MAX_RESPONSE_BYTES: u64 = 64 * 1024;
