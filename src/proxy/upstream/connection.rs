//! A connection to an upstream, and what becomes of it when an answer has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::BoxError;
use axum_core::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TE};
use http::uri::{Authority, Parts};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;

use super::concurrency::Permit;
use super::connect::PeerAddr;
use super::deadline_timer::DeadlineTimer;
use super::http1::{Http1Body, Http1Connection, Http1Error, RequestWriter, UpgradedIo};
use super::origin::Origin;
use super::pool::Pool;
use crate::proxy::content_length::BodyLength;
use crate::proxy::request_head::RequestHead;
use crate::proxy::stream_error::UploadErrorKind;

/// Sends requests to an upstream: one after the other, or side by side.
pub(super) enum Connection {
    Http1(Box<Http1Connection>),
    Http2(http2::SendRequest<Body>, PeerAddr),
}

/// Why a request has no answer.
pub(super) enum SendError {
    /// The connection ended before the answer began, or what began was none.
    Broken {
        error: BoxError,
        /// Whether a byte of an answer may have come.
        has_answered: bool,
    },
    /// It took too long.
    Late,
    /// It was not sent, and what there is to send is untouched.
    Unsent,
    /// Its body could not be sent to the end.
    Uploading(UploadErrorKind),
}

impl SendError {
    fn without_a_byte(error: impl Into<BoxError>) -> Self {
        Self::Broken { error: error.into(), has_answered: false }
    }
}

impl Connection {
    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(
        self,
        head: &impl RequestHead,
        sending: &mut RequestWriter,
        origin: &Origin,
    ) -> Result<Response<UpstreamBody>, SendError> {
        match self {
            Self::Http1(mut http1) => {
                match http1.send_request(head, sending, origin.authority.as_str()).await {
                    Ok(answer) => Ok(answer.into_response(http1, sending).map(UpstreamBody::Http1)),
                    Err(Http1Error::Unsent(_)) => Err(SendError::Unsent),
                    Err(error) => {
                        Err(SendError::Broken { error: error.into(), has_answered: http1.has_answered() })
                    }
                }
            }
            // In a box: it is larger.
            Self::Http2(http2, _) => Box::pin(send_by_http2(http2, head, sending, origin)).await,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(..))
    }
}

async fn send_by_http2(
    mut http2: http2::SendRequest<Body>,
    head: &impl RequestHead,
    sending: &mut RequestWriter,
    origin: &Origin,
) -> Result<Response<UpstreamBody>, SendError> {
    let Some((body, length)) = sending.take_body() else {
        return Err(SendError::without_a_byte("the upstream has changed its protocol"));
    };
    let answer = http2.try_send_request(http2_request(head, body, length, origin)).await;
    answer.map(|answer| answer.map(UpstreamBody::Http2)).map_err(|mut error| match error.take_message() {
        Some(unsent) => {
            sending.put_back(unsent.into_body());
            SendError::Unsent
        }
        // Others' answers come on the same connection. Ours begins with its head, which would have been
        // no error.
        None => SendError::without_a_byte(error.into_error()),
    })
}

/// RFC 9113, sections 8.2.2 and 8.3.1: `:authority` takes the place of `Host`, and no header
/// concerns the connection.
fn http2_request(head: &impl RequestHead, body: Body, length: BodyLength, origin: &Origin) -> Request<Body> {
    let asked_for = head.host().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut target = Parts::default();
    target.scheme = Some(origin.scheme.clone());
    target.authority = Some(asked_for.unwrap_or_else(|| origin.authority.clone()));
    target.path_and_query = Some(head.target().clone());
    let mut headers = HeaderMap::new();
    head.write_headers(&mut headers);
    if head.accepts_trailers() {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let BodyLength::Known(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    let mut request = Request::new(body);
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    request
}

/// An answer's body.
pub(in crate::proxy) enum UpstreamBody {
    Http1(Http1Body),
    Http2(Incoming),
}

impl UpstreamBody {
    /// All of it, if it has come already.
    pub(in crate::proxy) fn take_buffered(&mut self) -> Option<Bytes> {
        match self {
            Self::Http1(body) => body.take_whole(),
            Self::Http2(_) => None,
        }
    }

    /// The connection, for the protocol that it was switched to.
    pub(in crate::proxy) fn into_upgraded(self) -> Option<UpgradedIo> {
        match self {
            Self::Http1(body) => Some(body.into_switched()),
            Self::Http2(_) => None,
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// What an answer holds on to until it has ended: its place among the requests under way, and where its
/// connection goes.
pub(in crate::proxy) struct Lease {
    pool: Option<Arc<Pool>>,
    permit: Permit,
    /// The connection's timer.
    patience: DeadlineTimer,
}

impl Lease {
    pub(super) fn new(pool: Option<&Arc<Pool>>, permit: Permit, patience: DeadlineTimer) -> Self {
        Self { pool: pool.cloned(), permit, patience }
    }

    /// The answer has ended as it should, and so had the request: the next one may have the
    /// connection. Dropped in any other way it is closed.
    pub(in crate::proxy) fn finish(self, body: UpstreamBody) {
        let connection = match body {
            UpstreamBody::Http1(body) => body.into_connection(),
            UpstreamBody::Http2(_) => None,
        };
        if let (Some(connection), Some(pool)) = (connection, self.pool) {
            pool.put(&self.permit.upstream, connection, self.patience);
        }
    }
}
