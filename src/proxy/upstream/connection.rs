//! A connection to an upstream, of either HTTP version.

use std::error::Error as _;

use axum_core::BoxError;
use axum_core::body::Body;
use http::header::{CONTENT_LENGTH, TE};
use http::uri::{Authority, Parts};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::dns::PeerAddr;
use super::http1::{DroppedField, Http1Body, Http1Connection, Http1Error, RequestWriter};
use super::http2::{Http2Stream, StreamSlot};
use super::origin::Origin;
use super::resend::{ResendHandle, record};
use crate::http_headers::is_token;
use crate::proxy::content_length::BodyLength;
use crate::proxy::request_head::{ControlData, RequestHead};
use crate::proxy::reserved_headers::remove_matching;
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
    /// The request was not sent over HTTP/1.1. It can be sent again on another connection.
    NotSent,
    /// An HTTP/2 upstream has certainly not processed the request (RFC 9113, section 8.7).
    Refused {
        error: BoxError,
        /// True if the connection has ended, so that the request needs another one.
        is_connection: bool,
        /// True if the request can be sent again. Otherwise its body is too large to have been kept.
        is_resendable: bool,
    },
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
    let (body, resend) = if length == BodyLength::Empty {
        (body, None)
    } else {
        let (body, resend) = record(body);
        (Body::new(body), Some(resend))
    };
    match http2.try_send_request(http2_request(head, body, length, origin)).await {
        Ok(response) => Ok(without_invalid_fields(response).map(Either::Right)),
        Err(error) => {
            let is_unsent = error.message().is_some();
            let error = error.into_error();
            let cause = error.source().and_then(|source| source.downcast_ref());
            let is_connection = is_unsent || cause.is_some_and(is_goaway);
            if !is_connection && !cause.is_some_and(is_refused_stream) {
                // A stream's response begins with its head, which would not be an error. Other bytes on the
                // connection belong to other streams.
                return Err(SendError::without_response_bytes(error));
            }
            let body = resend.map_or_else(|| Some(Body::empty()), ResendHandle::take_body);
            let is_resendable = body.is_some();
            writer.restore_body(body.unwrap_or_default());
            Err(SendError::Refused { error: error.into(), is_connection, is_resendable })
        }
    }
}

/// Drops the fields whose names are no tokens, as the HTTP/1.1 client does.
fn without_invalid_fields<B>(mut response: Response<B>) -> Response<B> {
    if let Some(name) = response.headers().keys().find(|name| !is_token(name)).cloned() {
        remove_matching(response.headers_mut(), |name| !is_token(name));
        response.extensions_mut().insert(DroppedField(name.to_string()));
    }
    response
}

/// Returns `true` if a GOAWAY of the upstream excludes the request.
///
/// h2 reports a GOAWAY only to the streams above the last one that the upstream will process, and to
/// requests for which no stream was opened.
fn is_goaway(error: &h2::Error) -> bool {
    error.is_remote() && error.is_go_away()
}

fn is_refused_stream(error: &h2::Error) -> bool {
    error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
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
