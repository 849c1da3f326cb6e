//! WebSocket clients and an echo upstream.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::upstream::{listen, read_head};

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Code and reason of a Close frame, or `None` without a code or without a Close frame.
pub(crate) type Closed = Option<(u16, String)>;

/// An upstream that echoes WebSocket messages. To other requests it sends endless server-sent events.
pub(crate) struct EchoUpstream {
    address: SocketAddr,
    heads: mpsc::UnboundedReceiver<String>,
    closed: mpsc::UnboundedReceiver<Closed>,
}

impl EchoUpstream {
    pub(crate) async fn start() -> Self {
        let (send_head, heads) = mpsc::unbounded_channel();
        let (send_closed, closed) = mpsc::unbounded_channel();
        let address = listen(move |mut socket| {
            let send_head = send_head.clone();
            let send_closed = send_closed.clone();
            async move {
                let head = String::from_utf8(read_head(&mut socket).await).unwrap();
                let key = line(&head, "sec-websocket-key").map(str::to_owned);
                let _ = send_head.send(head);
                match key {
                    Some(key) => {
                        accept_handshake(&mut socket, &key).await;
                        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
                        let _ = send_closed.send(echo(socket).await);
                    }
                    None => send_events(socket).await,
                }
            }
        })
        .await;
        Self { address, heads, closed }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for the head of the next request.
    pub(crate) async fn head(&mut self) -> String {
        self.heads.recv().await.unwrap()
    }

    /// Returns `true` if no further request has arrived.
    pub(crate) fn has_no_more_requests(&mut self) -> bool {
        self.heads.try_recv().is_err()
    }

    /// Waits until the next WebSocket is closed.
    pub(crate) async fn closed(&mut self) -> Closed {
        self.closed.recv().await.unwrap()
    }
}

/// Returns the value of a header in the head of a message.
pub(crate) fn line<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Completes the handshake with this `Sec-WebSocket-Key`.
pub(crate) async fn accept_handshake(socket: &mut TcpStream, key: &str) {
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nX-Answer: yes\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
}

/// Echoes messages until the client closes. A text such as `close 4000 because` makes it close instead.
async fn echo(mut socket: Socket) -> Closed {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(close) => {
                // tungstenite sends its Close frame with the next read.
                while socket.next().await.is_some_and(|next| next.is_ok()) {}
                return close.map(|frame| (frame.code.into(), frame.reason.to_string()));
            }
            Message::Text(text) if text.starts_with("close ") => {
                let mut words = text.splitn(3, ' ').skip(1);
                let code: u16 = words.next().unwrap().parse().unwrap();
                let frame = CloseFrame { code: code.into(), reason: words.next().unwrap().into() };
                socket.close(Some(frame)).await.unwrap();
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.unwrap(),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    None
}

/// Sends an event every 200 ms until the connection is closed.
async fn send_events(mut socket: TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: begun\n\n";
    let mut result = socket.write_all(head.as_bytes()).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while result.is_ok() {
        ticks.tick().await;
        result = socket.write_all(b"data: tick\n\n").await;
    }
}

/// Opens a WebSocket with further headers in the handshake.
pub(crate) async fn open(
    server: SocketAddr,
    target: &str,
    lines: &[(&str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), Error> {
    let mut request = format!("ws://{server}{target}").into_client_request()?;
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        if name == "connection" {
            request.headers_mut().remove(&name);
        }
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    let socket = TcpStream::connect(server).await.unwrap();
    tokio_tungstenite::client_async(request, socket).await
}

/// Sends a WebSocket handshake that must be rejected, and returns the response.
pub(crate) async fn refused(
    server: SocketAddr,
    target: &str,
    lines: &[(&str, &str)],
) -> Response<Option<Vec<u8>>> {
    match open(server, target, lines).await {
        Err(Error::Http(response)) => *response,
        Err(error) => panic!("{error}"),
        Ok((_, response)) => panic!("{response:?}"),
    }
}

/// Reads until the connection closes, and returns the last Close frame.
pub(crate) async fn until_closed(socket: &mut Socket) -> Closed {
    let mut closed = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            closed = Some((frame.code.into(), frame.reason.to_string()));
        }
    }
    closed
}

/// Sends a text and asserts that it is echoed.
pub(crate) async fn assert_echoes<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}
