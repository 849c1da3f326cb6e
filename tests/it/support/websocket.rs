//! WebSockets: an upstream that says everything back, and clients.

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

/// A Close's code and reason; none if it had none, or the connection ended without one.
pub(crate) type Closed = Option<(u16, String)>;

/// An upstream that says everything back, to `/quiet` nothing. To anything but a WebSocket it tells
/// events without end.
pub(crate) struct EchoUpstream {
    address: SocketAddr,
    heads: mpsc::UnboundedReceiver<String>,
    closed: mpsc::UnboundedReceiver<Closed>,
}

impl EchoUpstream {
    pub(crate) async fn start() -> Self {
        let (tell_head, heads) = mpsc::unbounded_channel();
        let (tell_closed, closed) = mpsc::unbounded_channel();
        let address = listen(move |mut socket| {
            let (tell_head, tell_closed) = (tell_head.clone(), tell_closed.clone());
            async move {
                let head = String::from_utf8(read_head(&mut socket).await).unwrap();
                let key = line(&head, "sec-websocket-key").map(str::to_owned);
                let _ = tell_head.send(head);
                match key {
                    Some(key) => {
                        agree(&mut socket, &key).await;
                        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
                        let _ = tell_closed.send(echo(socket).await);
                    }
                    None => tell_events(socket).await,
                }
            }
        })
        .await;
        Self { address, heads, closed }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The head of the next request.
    pub(crate) async fn head(&mut self) -> String {
        self.heads.recv().await.unwrap()
    }

    /// Whether no request came that was not asked for.
    pub(crate) fn has_seen_no_more(&mut self) -> bool {
        self.heads.try_recv().is_err()
    }

    /// How the next WebSocket was closed that was.
    pub(crate) async fn closed(&mut self) -> Closed {
        self.closed.recv().await.unwrap()
    }
}

/// The value of a header line in a message's head.
pub(crate) fn line<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Agrees to a handshake of this key.
pub(crate) async fn agree(socket: &mut TcpStream, key: &str) {
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nX-Answer: yes\r\n\r\n"
    );
    socket.write_all(answer.as_bytes()).await.unwrap();
}

/// Says everything back until the Close, or says it if it is asked to by a text such as
/// `close 4000 because`.
async fn echo(mut socket: Socket) -> Closed {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(close) => {
                // Its answer goes out with the next step.
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

/// An event every fifth of a second, until nobody listens.
async fn tell_events(mut socket: TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: begun\n\n";
    let mut said = socket.write_all(head.as_bytes()).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    while said.is_ok() {
        ticks.tick().await;
        said = socket.write_all(b"data: tick\n\n").await;
    }
}

/// Opens a WebSocket with these header lines besides those of every handshake.
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

/// Opens a WebSocket that must be refused, and returns the answer.
pub(crate) async fn refused(
    server: SocketAddr,
    target: &str,
    lines: &[(&str, &str)],
) -> Response<Option<Vec<u8>>> {
    match open(server, target, lines).await {
        Err(Error::Http(answer)) => *answer,
        Err(error) => panic!("{error}"),
        Ok((_, answer)) => panic!("{answer:?}"),
    }
}

/// Reads to the end, and says how it was closed.
pub(crate) async fn until_closed(socket: &mut Socket) -> Closed {
    let mut closed = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            closed = Some((frame.code.into(), frame.reason.to_string()));
        }
    }
    closed
}

/// Says a text and hears it said back.
pub(crate) async fn is_heard<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
}
