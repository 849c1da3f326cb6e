//! An HTTP/1.1 client with one connection for each request, which can break at any point.
//!
//! A client library could not drop the connection in the middle of a response head.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequest {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    /// The JSON body.
    pub(crate) body: Option<String>,
}

/// The point at which the client breaks the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionFault {
    /// Nowhere: the whole response is read.
    Nowhere,
    /// This time after the request was sent.
    AfterSending(Duration),
    /// After the first bytes of the response head.
    InHead,
    /// After the head, with little of the body.
    InBody,
}

/// The reason for a missing response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// The connection was refused.
    Unreachable,
    /// The gateway closed the connection.
    Broken,
    /// The client closed the connection as planned.
    Injected,
}

/// A response head, and the connection with the body.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
    read: Vec<u8>,
    rest: Option<TcpStream>,
}

impl HttpRequest {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    pub(crate) fn post(path: &str, body: &serde_json::Value) -> Self {
        Self { method: "POST", path: path.to_owned(), body: Some(body.to_string()) }
    }

    /// Sends the request with these cookies and reads the response head.
    pub(crate) async fn send(
        &self,
        to: SocketAddr,
        cookies: &str,
        agent: &str,
        fault: ConnectionFault,
    ) -> Result<HttpResponse, RequestError> {
        let mut stream = TcpStream::connect(to).await.map_err(|_| RequestError::Unreachable)?;
        let sent = stream.write_all(self.bytes(to, cookies, agent).as_bytes()).await;
        sent.map_err(|_| RequestError::Broken)?;
        match fault {
            ConnectionFault::Nowhere => read_head(stream).await,
            ConnectionFault::AfterSending(after) => {
                tokio::time::sleep(after).await;
                Err(RequestError::Injected)
            }
            ConnectionFault::InHead => {
                let mut few = [0; 20];
                stream.read_exact(&mut few).await.map_err(|_| RequestError::Broken)?;
                Err(RequestError::Injected)
            }
            ConnectionFault::InBody => Ok(HttpResponse { rest: None, ..read_head(stream).await? }),
        }
    }

    fn bytes(&self, to: SocketAddr, cookies: &str, agent: &str) -> String {
        let Self { method, path, body } = self;
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\nuser-agent: {agent}\r\n");
        if !cookies.is_empty() {
            text.push_str(&format!("cookie: {cookies}\r\n"));
        }
        let body = body.as_deref().unwrap_or_default();
        if *method != "GET" {
            text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        text + "\r\n" + body
    }
}

impl HttpResponse {
    /// Returns the values of a header.
    pub(crate) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(line, _)| line == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of `X-Session-Event`, or an empty string.
    pub(crate) fn event(&self) -> &str {
        self.header("x-session-event").next().unwrap_or_default()
    }

    /// Reads the body until its end or an error.
    pub(crate) async fn body(mut self) -> String {
        if let Some(rest) = &mut self.rest {
            // An incomplete body does not concern the session.
            let _ = rest.read_to_end(&mut self.read).await;
        }
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

async fn read_head(mut stream: TcpStream) -> Result<HttpResponse, RequestError> {
    let mut read = Vec::with_capacity(2_048);
    loop {
        let came = stream.read_buf(&mut read).await.map_err(|_| RequestError::Broken)?;
        if came == 0 {
            return Err(RequestError::Broken);
        }
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            let (status, lines) = parse_head(&read).ok_or(RequestError::Broken)?;
            return Ok(HttpResponse { status, lines, read: body, rest: Some(stream) });
        }
    }
}

fn parse_head(head: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let fields = lines.filter_map(|line| line.split_once(": "));
    Some((status, fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()))
}
