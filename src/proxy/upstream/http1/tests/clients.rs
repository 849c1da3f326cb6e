//! Both clients, each with a server that sends a given response.

use std::time::Duration;

use axum_core::body::Body as RequestBody;
use bytes::Bytes;
use futures_util::future::join;
use http::header::{HOST, HeaderMap};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::generator::GeneratedResponse;
use crate::proxy::hop_by_hop;
use crate::proxy::test_support::TestHead;
use crate::proxy::upstream::http1::{Http1Body, Http1Connection, Http1Error, MaybeTlsStream, RequestWriter};
use crate::proxy::upstream::settings::HeaderCase;

/// The result of an exchange.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// No valid head, with the error of the client under test.
    Rejected(Option<Http1ErrorKind>),
    Received(Received),
    /// The head is not complete, and the connection open.
    Waiting,
}

/// The errors that matter to a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Http1ErrorKind {
    Coding,
    Length,
    TooLarge,
    Other,
}

#[derive(Debug, PartialEq)]
pub(super) struct Received {
    pub(super) version: Version,
    pub(super) status: StatusCode,
    pub(super) reason: String,
    /// The end-to-end fields, sorted by name.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
    pub(super) end: BodyEnd,
    /// True if another request can be sent.
    pub(super) is_reusable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum BodyEnd {
    Complete,
    Failed,
    /// The body is not complete, and the connection open.
    Waiting,
}

/// An aspect in which two outcomes differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Difference {
    /// The head is accepted by one client only.
    Head,
    Status,
    Reason,
    Fields,
    Body,
    Trailers,
    End,
    Reuse,
}

impl Outcome {
    pub(super) fn received(&self) -> Option<&Received> {
        if let Self::Received(received) = self { Some(received) } else { None }
    }

    /// Returns the aspects in which the outcomes differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<Difference> {
        match (self, other) {
            (Self::Received(own), Self::Received(other)) => own.differences(other),
            (Self::Rejected(_), Self::Rejected(_)) | (Self::Waiting, Self::Waiting) => Vec::new(),
            _ => vec![Difference::Head],
        }
    }
}

impl Received {
    fn differences(&self, other: &Self) -> Vec<Difference> {
        let aspects = [
            (Difference::Status, (self.version, self.status) == (other.version, other.status)),
            (Difference::Reason, self.reason == other.reason),
            (Difference::Fields, self.fields == other.fields),
            (Difference::Body, self.body == other.body),
            (Difference::Trailers, self.trailers == other.trailers),
            (Difference::End, self.end == other.end),
            (Difference::Reuse, self.is_reusable == other.is_reusable),
        ];
        aspects.into_iter().filter(|(_, is_equal)| !is_equal).map(|(difference, _)| difference).collect()
    }
}

/// Sends the response to the client under test.
pub(super) async fn exchange(response: &GeneratedResponse) -> Outcome {
    let (socket, server) = UnixStream::pair().expect("a pair of sockets");
    let (sent, all_sent) = oneshot::channel();
    let received = receive(socket, response.method.clone(), all_sent);
    join(received, send(response, server, sent)).await.0
}

/// Sends the response to hyper's client, with its default settings.
pub(super) async fn exchange_with_hyper(response: &GeneratedResponse) -> Outcome {
    exchange_with(response, &Builder::new()).await
}

/// Sends the response to hyper's client, which tolerates the same faults of field lines and as many fields as the
/// client under test.
pub(super) async fn exchange_with_lenient_hyper(response: &GeneratedResponse) -> Outcome {
    let mut builder = Builder::new();
    builder.allow_spaces_after_header_name_in_responses(true);
    builder.ignore_invalid_headers_in_responses(true);
    builder.max_headers(256);
    exchange_with(response, &builder).await
}

async fn exchange_with(response: &GeneratedResponse, builder: &Builder) -> Outcome {
    let (socket, server) = tokio::io::duplex(1024 * 1024);
    let (sent, all_sent) = oneshot::channel();
    let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.expect("a connection");
    let received = receive_by_hyper(sender, response.method.clone(), all_sent);
    join(join(received, connection), send(response, server, sent)).await.0.0
}

/// Reads the request and sends the response in its pieces.
async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    response: &GeneratedResponse,
    mut socket: S,
    sent: oneshot::Sender<Option<S>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(socket.read_buf(&mut request).await.expect("a request"), 0);
    }
    for piece in response.pieces() {
        // The client may have closed the connection.
        _ = socket.write_all(piece).await;
        yield_now().await;
    }
    // The connection stays open as long as the receiver keeps the socket.
    drop(sent.send((!response.closes).then_some(socket)));
}

async fn receive<S>(socket: UnixStream, method: Method, all_sent: oneshot::Receiver<Option<S>>) -> Outcome {
    let mut connection = Box::new(Http1Connection::new(MaybeTlsStream::Unix(socket), HeaderCase::Lower));
    let request = TestHead { method, ..TestHead::get(None, true) };
    let mut writer = RequestWriter::new(RequestBody::empty());
    let head = match timeout(TIMEOUT, connection.send_request(&request, &mut writer, "a.example")).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => return Outcome::Rejected(Some(kind_of(&error))),
        Err(_) => return Outcome::Waiting,
    };
    let (parts, mut body) = Http1Body::response(head, connection, &mut writer).into_parts();
    let mut received = Received::new(Response::from_parts(parts, ()));
    received.read_body(&mut body).await;
    let socket = timeout(TIMEOUT, all_sent).await;
    yield_now().await;
    received.is_reusable = received.end == BodyEnd::Complete
        && body.into_connection().is_some_and(|mut connection| connection.is_usable());
    drop(socket);
    Outcome::Received(received)
}

async fn receive_by_hyper<S>(
    mut sender: SendRequest<Empty<Bytes>>,
    method: Method,
    all_sent: oneshot::Receiver<Option<S>>,
) -> Outcome {
    let request = Request::builder().method(method).uri("/a?b").header(HOST, "a.example");
    let request = request.body(Empty::new()).expect("a request");
    let response = match timeout(TIMEOUT, sender.send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return Outcome::Rejected(None),
        Err(_) => return Outcome::Waiting,
    };
    let (mut parts, mut body) = response.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        hop_by_hop::remove(&mut parts.headers);
    }
    let mut received = Received::new(Response::from_parts(parts, ()));
    received.read_body(&mut body).await;
    let socket = timeout(TIMEOUT, all_sent).await;
    // The task of the connection has seen the last bytes then.
    yield_now().await;
    yield_now().await;
    let is_ready = matches!(timeout(TIMEOUT, sender.ready()).await, Ok(Ok(())));
    received.is_reusable = received.end == BodyEnd::Complete && is_ready && !sender.is_closed();
    drop(socket);
    Outcome::Received(received)
}

impl Received {
    fn new(response: Response<()>) -> Self {
        let canonical = response.status().canonical_reason().unwrap_or_default().as_bytes();
        let reason = response.extensions().get().map_or(canonical, ReasonPhrase::as_bytes);
        Self {
            version: response.version(),
            status: response.status(),
            reason: reason.escape_ascii().to_string(),
            fields: sorted(response.headers()),
            body: Vec::new(),
            trailers: Vec::new(),
            end: BodyEnd::Waiting,
            is_reusable: false,
        }
    }

    async fn read_body<B: Body<Data = Bytes> + Unpin>(&mut self, body: &mut B) {
        loop {
            self.end = match timeout(TIMEOUT, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    match frame.into_data() {
                        Ok(data) => self.body.extend_from_slice(&data),
                        Err(frame) => self.trailers = frame.trailers_ref().map(sorted).unwrap_or_default(),
                    }
                    continue;
                }
                Ok(Some(Err(_))) => BodyEnd::Failed,
                Ok(None) => BodyEnd::Complete,
                Err(_) => BodyEnd::Waiting,
            };
            return;
        }
    }
}

fn sorted(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|(name, _), (other, _)| name.cmp(other));
    fields
}

fn kind_of(error: &Http1Error) -> Http1ErrorKind {
    match error {
        Http1Error::Coding => Http1ErrorKind::Coding,
        Http1Error::Length => Http1ErrorKind::Length,
        Http1Error::TooLarge => Http1ErrorKind::TooLarge,
        _ => Http1ErrorKind::Other,
    }
}

/// Time after which nothing more can arrive. The clock is paused: it advances as soon as nothing else happens.
const TIMEOUT: Duration = Duration::from_secs(60);
