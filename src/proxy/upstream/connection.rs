//! A connection to an upstream, of either HTTP version.

use axum_core::BoxError;
use axum_core::body::Body;
use http::header::{CONTENT_LENGTH, TE};
use http::uri::{Authority, Parts};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::dns::PeerAddr;
use super::http1::{Http1Body, Http1Connection, Http1Error, RequestWriter};
use super::http2::{Http2Stream, StreamSlot};
use super::origin::Origin;
use crate::proxy::content_length::BodyLength;
use crate::proxy::request_head::{ControlData, RequestHead};
use crate::proxy::stream_error::UploadErrorKind;

/// A connection that can carry one HTTP/1.1 request, or one stream of a shared HTTP/2 connection.
pub(super) enum Connection {
    Http1(Box<Http1Connection>, PeerAddr),
    Http2(Http2Stream),
}

/// The reason why a request got no response.
pub(super) enum SendError {
    /// The connection failed before the response head was complete, or the head is malformed.
    Connection {
        error: BoxError,
        /// True if a byte of the response may have been received.
        has_response_bytes: bool,
    },
    /// The request was not sent. It can be sent again on another connection.
    NotSent,
    /// The response, or the upstream's reading of the request body, took too long.
    Timeout,
    /// The request body could not be sent to its end.
    Upload(UploadErrorKind),
}

impl SendError {
    fn without_response_bytes(error: impl Into<BoxError>) -> Self {
        Self::Connection { error: error.into(), has_response_bytes: false }
    }
}

impl Connection {
    /// Sends a request and waits for the response head.
    pub(super) async fn send(
        self,
        head: &impl RequestHead,
        writer: &mut RequestWriter,
        origin: &Origin,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self {
            Self::Http1(mut http1, _) => {
                match http1.send_request(head, writer, origin.authority.as_str()).await {
                    Ok(head) => Ok(Http1Body::response(head, http1, writer).map(Either::Left)),
                    Err(Http1Error::NotSent(_)) => Err(SendError::NotSent),
                    Err(error) => {
                        let has_response_bytes = http1.has_response_bytes;
                        Err(SendError::Connection { error: error.into(), has_response_bytes })
                    }
                }
            }
            // Boxed: the future is larger than that of HTTP/1.1.
            Self::Http2(stream) => Box::pin(send_http2(stream.sender, head, writer, origin)).await,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(..))
    }

    pub(super) fn peer(&self) -> PeerAddr {
        match self {
            Self::Http1(_, peer) => *peer,
            Self::Http2(stream) => stream.peer,
        }
    }

    /// Takes what counts the stream of an HTTP/2 connection as open.
    pub(super) fn take_slot(&mut self) -> Option<StreamSlot> {
        match self {
            Self::Http1(..) => None,
            Self::Http2(stream) => stream.slot.take(),
        }
    }
}

async fn send_http2(
    mut http2: http2::SendRequest<Body>,
    head: &impl RequestHead,
    writer: &mut RequestWriter,
    origin: &Origin,
) -> Result<Response<UpstreamBody>, SendError> {
    let Some((body, length)) = writer.take_body() else {
        return Err(SendError::without_response_bytes("the upstream has switched from HTTP/1.1 to HTTP/2"));
    };
    match http2.try_send_request(http2_request(head, body, length, origin)).await {
        Ok(response) => Ok(response.map(Either::Right)),
        Err(mut error) => Err(match error.take_message() {
            Some(request) => {
                writer.restore_body(request.into_body());
                SendError::NotSent
            }
            // A stream's response begins with its head, which would not be an error. Other bytes on the
            // connection belong to other streams.
            None => SendError::without_response_bytes(error.into_error()),
        }),
    }
}

/// Builds an HTTP/2 request (RFC 9113, sections 8.2.2 and 8.3.1): `:authority` replaces `Host`, and there are
/// no connection-specific fields.
fn http2_request(head: &impl RequestHead, body: Body, length: BodyLength, origin: &Origin) -> Request<Body> {
    let ControlData { method, target, host, accepts_trailers, .. } = head.control_data();
    let host = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = Parts::default();
    uri.scheme = Some(origin.scheme.clone());
    uri.authority = Some(host.unwrap_or_else(|| origin.authority.clone()));
    uri.path_and_query = Some(target.clone());
    let mut headers = HeaderMap::new();
    head.write_headers(&mut headers);
    if accepts_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let BodyLength::Known(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    request
}

/// The body of an upstream's response: left over HTTP/1.1, right over HTTP/2.
pub(in crate::proxy) type UpstreamBody = Either<Http1Body, Incoming>;
