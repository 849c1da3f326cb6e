//! An upstream that parses requests strictly by RFC 9112 and records them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::upstream::listen;

/// A request as received.
#[derive(Debug)]
pub(super) struct RawRequest {
    /// Request line and header lines, without line terminators.
    lines: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl RawRequest {
    /// Returns method and target.
    pub(super) fn request_line(&self) -> &str {
        self.lines[0].strip_suffix(" HTTP/1.1").expect("HTTP/1.1")
    }

    /// Returns the values of a header, in order.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.lines[1..].iter().map(|line| line.split_once(':').expect("a colon"));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    /// Returns the names of all headers in lower case, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.lines[1..].iter().map(|line| line.split(':').next().unwrap_or_default().to_lowercase()).collect()
    }

    /// Returns the header that frames the body, and panics if there are two.
    pub(super) fn framing(&self) -> Option<String> {
        let lengths = self.all("content-length").into_iter().map(|length| format!("length {length}"));
        let codings = self.all("transfer-encoding").into_iter().map(str::to_owned);
        let mut all: Vec<_> = lengths.chain(codings).collect();
        assert!(all.len() <= 1, "two framings: {self:?}");
        all.pop()
    }
}

/// An upstream that records requests, with an error in place of each malformed one.
pub(super) struct StrictUpstream {
    pub(super) address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Result<RawRequest, String>>,
}

impl StrictUpstream {
    /// Starts an upstream that responds 200 without a body.
    pub(super) async fn start() -> Self {
        Self::responding("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
    }

    /// Starts an upstream that sends these bytes as each response. It closes the connection if they contain
    /// `Connection: close`.
    pub(super) async fn responding(raw_response: &'static str) -> Self {
        let (record, requests) = mpsc::unbounded_channel();
        let address = listen(move |socket| {
            let record = record.clone();
            async move {
                let mut socket = BufReader::new(socket);
                while let Some(request) = read_request(&mut socket).await {
                    let broken = request.is_err();
                    let _ = record.send(request);
                    let closes = socket.write_all(raw_response.as_bytes()).await.is_err();
                    if broken || closes || raw_response.contains("Connection: close") {
                        break;
                    }
                }
            }
        })
        .await;
        Self { address, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the complete requests received so far, and skips malformed and incomplete ones.
    pub(super) fn complete(&mut self) -> Vec<RawRequest> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).flatten().collect()
    }

    /// Returns all requests received so far, and panics if one of them is malformed.
    pub(super) fn seen(&mut self) -> Vec<RawRequest> {
        let seen = std::iter::from_fn(|| self.requests.try_recv().ok());
        seen.map(|request| request.unwrap_or_else(|fault| panic!("malformed request: {fault}"))).collect()
    }
}

/// Reads a request: `None` at the end of the connection, an error if it is not valid HTTP/1.1.
async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<Result<RawRequest, String>> {
    let mut lines = Vec::new();
    loop {
        match read_line(socket).await {
            Err(_) if lines.is_empty() => return None,
            Err(fault) => return Some(Err(format!("{fault} after {lines:?}"))),
            Ok(line) if line.is_empty() => break,
            Ok(line) => lines.push(line),
        }
    }
    let token = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let is_field = |line: &String| line.split_once(':').is_some_and(|(name, _)| token(name));
    let is_request = |line: &String| line.matches(' ').count() == 2 && line.ends_with(" HTTP/1.1");
    if !lines.first().is_some_and(is_request) || !lines[1..].iter().all(is_field) {
        return Some(Err(format!("{lines:?}")));
    }
    let mut request = RawRequest { lines, body: Vec::new() };
    let body = read_body(socket, request.framing()).await;
    Some(body.map(|body| {
        request.body = body;
        request
    }))
}

async fn read_body(socket: &mut BufReader<TcpStream>, framing: Option<String>) -> Result<Vec<u8>, String> {
    let Some(framing) = framing else { return Ok(Vec::new()) };
    let mut body = Vec::new();
    if let Some(length) = framing.strip_prefix("length ") {
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        body.resize(length.parse().ok().filter(|_| digits).ok_or(framing)?, 0);
        socket.read_exact(&mut body).await.map_err(|error| error.to_string())?;
        return Ok(body);
    }
    if framing != "chunked" {
        return Err(framing);
    }
    loop {
        let line = read_line(socket).await?;
        let hex = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size =
            usize::from_str_radix(&line, 16).ok().filter(|_| hex).ok_or_else(|| format!("chunk {line}"))?;
        if size == 0 {
            break;
        }
        let begin = body.len();
        body.resize(begin + size, 0);
        socket.read_exact(&mut body[begin..]).await.map_err(|error| error.to_string())?;
        if !read_line(socket).await?.is_empty() {
            return Err("a chunk longer than its size".to_owned());
        }
    }
    while !read_line(socket).await?.is_empty() {}
    Ok(body)
}

/// Reads a line that ends in CRLF and contains no other control character than tabs.
async fn read_line(socket: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(socket.read_u8().await.map_err(|error| format!("{error} in {line:?}"))?);
    }
    line.truncate(line.len() - 2);
    let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if line.iter().any(control) {
        return Err(format!("a control character in {}", String::from_utf8_lossy(&line).escape_debug()));
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
