//! A connection to an upstream, and what becomes of it when an answer has ended.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum_core::body::Body;
use futures_util::future::Either;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::connect::Peer;
use super::load::Permit;
use super::origin::Origin;
use super::pool::Pool;

/// Sends requests to an upstream: one after the other, or side by side.
pub(super) enum Connection {
    Http1(Http1),
    Http2(http2::SendRequest<Body>, Peer),
}

/// A connection of HTTP/1.1. hyper drives it in a task, and closes it once this is dropped.
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) peer: Peer,
    /// Whether a byte has come since the last request.
    pub(super) answered: Arc<AtomicBool>,
}

impl Connection {
    /// Sends a request. What has certainly not been sent comes back in the error.
    pub(super) fn send(
        &mut self,
        mut request: Request<Body>,
        origin: &Origin,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + use<> {
        match self {
            Self::Http1(http1) => {
                write_for_http1(&mut request, origin);
                http1.answered.store(false, Ordering::Relaxed);
                Either::Left(http1.sender.try_send_request(request))
            }
            Self::Http2(sender, _) => {
                write_for_http2(&mut request, origin);
                Either::Right(sender.try_send_request(request))
            }
        }
    }

    /// Whether a byte of an answer may have come since the last request.
    pub(super) fn has_answered(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.answered.load(Ordering::Relaxed),
            // Others' answers come on the same connection. Ours begins with its head, which would
            // have been no error.
            Self::Http2(..) => false,
        }
    }
}

/// RFC 9112, section 3.2.1: the path and query, and `Host`.
fn write_for_http1(request: &mut Request<Body>, origin: &Origin) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).ok();
        request.headers_mut().extend(host.map(|host| (HOST, host)));
        *request.uri_mut() = request.uri().path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    }
    if !request.headers().contains_key(HOST) {
        // An old client named none.
        let host = HeaderValue::from_str(origin.authority.as_str());
        request.headers_mut().extend(host.ok().map(|host| (HOST, host)));
    }
}

/// RFC 9113, sections 8.2.2 and 8.3.1: `:authority` takes the place of `Host`, and no header
/// concerns the connection.
fn write_for_http2(request: &mut Request<Body>, origin: &Origin) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    if request.uri().authority().is_some() {
        return;
    }
    let host = request.headers_mut().remove(HOST);
    let asked_for = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = asked_for.unwrap_or_else(|| origin.authority.clone());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(origin.scheme.clone());
    parts.authority = Some(authority);
    let target = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// What an answer holds on to until it has ended: its connection, and its place among the requests
/// under way.
pub(in crate::proxy) struct Lease {
    connection: Option<Http1>,
    /// Where the connection may go.
    pool: Option<Arc<Pool>>,
    permit: Permit,
}

impl Lease {
    pub(super) fn new(connection: Connection, pool: Option<&Arc<Pool>>, permit: Permit) -> Self {
        let connection = match connection {
            Connection::Http1(connection) => Some(connection),
            Connection::Http2(..) => None,
        };
        Self { connection, pool: pool.cloned(), permit }
    }

    /// The answer has ended as it should, and so had the request: the next one may have the
    /// connection. Dropped in any other way it is closed.
    pub(in crate::proxy) fn finish(self) {
        if let (Some(connection), Some(pool)) = (self.connection, self.pool) {
            pool.put(&self.permit.upstream, connection);
        }
    }
}
