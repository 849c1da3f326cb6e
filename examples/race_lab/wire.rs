//! One request on a connection of its own, which can break at any point.
//!
//! By hand, because a client library would not let go in the middle of an answer's head.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    /// JSON, if anything.
    pub(crate) body: Option<String>,
}

/// Where the browser's end of the connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nowhere: the answer is read to its end.
    Nowhere,
    /// So long after the request was sent, whatever has come by then.
    AfterSending(Duration),
    /// When some bytes of the answer have come, but no header line.
    InHead,
    /// With all of the head, and little of the body.
    InBody,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nobody listens.
    Unreachable,
    /// The other end broke off.
    Broken,
    /// This end did, as planned.
    Cut,
}

/// An answer's head, and the connection on which its body may come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    lines: Vec<(String, String)>,
    read: Vec<u8>,
    rest: Option<TcpStream>,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    pub(crate) fn post(path: &str, body: &serde_json::Value) -> Self {
        Self { method: "POST", path: path.to_owned(), body: Some(body.to_string()) }
    }

    /// Sends this, with these cookies, and returns when the answer's head is here.
    pub(crate) async fn send(
        &self,
        to: SocketAddr,
        cookies: &str,
        agent: &str,
        cut: Cut,
    ) -> Result<Answer, NoAnswer> {
        let mut stream = TcpStream::connect(to).await.map_err(|_| NoAnswer::Unreachable)?;
        let sent = stream.write_all(self.bytes(to, cookies, agent).as_bytes()).await;
        sent.map_err(|_| NoAnswer::Broken)?;
        match cut {
            Cut::Nowhere => read_head(stream).await,
            Cut::AfterSending(after) => {
                tokio::time::sleep(after).await;
                Err(NoAnswer::Cut)
            }
            Cut::InHead => {
                let mut few = [0; 20];
                stream.read_exact(&mut few).await.map_err(|_| NoAnswer::Broken)?;
                Err(NoAnswer::Cut)
            }
            Cut::InBody => Ok(Answer { rest: None, ..read_head(stream).await? }),
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

impl Answer {
    /// The values of this header.
    pub(crate) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(line, _)| line == name).map(|(_, value)| value.as_str())
    }

    /// What the session machinery did, if it says so.
    pub(crate) fn event(&self) -> &str {
        self.header("x-session-event").next().unwrap_or_default()
    }

    /// Reads to the end, or to where it breaks.
    pub(crate) async fn body(mut self) -> String {
        if let Some(rest) = &mut self.rest {
            // A body that breaks off is no news of the session.
            let _ = rest.read_to_end(&mut self.read).await;
        }
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

async fn read_head(mut stream: TcpStream) -> Result<Answer, NoAnswer> {
    let mut read = Vec::with_capacity(2_048);
    loop {
        let came = stream.read_buf(&mut read).await.map_err(|_| NoAnswer::Broken)?;
        if came == 0 {
            return Err(NoAnswer::Broken);
        }
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = read.split_off(end + 4);
            let (status, lines) = parse_head(&read).ok_or(NoAnswer::Broken)?;
            return Ok(Answer { status, lines, read: body, rest: Some(stream) });
        }
    }
}

fn parse_head(head: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let fields = lines.filter_map(|line| line.split_once(": "));
    Some((status, fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()))
}
