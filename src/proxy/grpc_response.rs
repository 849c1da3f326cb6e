//! Responses to gRPC calls, which end with their session.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::body::Body as AxumBody;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::event_stream::watch_session;
use super::idle_timer::IdleTimer;
use super::response_body::DownstreamResponseBody;
use super::stream_error::{DownloadError, FramePoll};
use crate::identity::SessionId;
use crate::long_lived_streams::{LongLivedStreams, StreamEnd, StreamKind};
use crate::session_event::SessionEvent;

/// Returns `true` for the content type of a gRPC message over HTTP/2, as opposed to gRPC-Web.
pub(super) fn is_grpc_response(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Body of the response to a gRPC call.
///
/// A call that lasts is taken for a stream, and bound to its session. It ends with the status `UNAUTHENTICATED` when
/// the session ends. To watch the session of every call would cost much of a short one.
struct GrpcResponse {
    /// `None` after the end of the session.
    body: Option<DownstreamResponseBody>,
    session: SessionId,
    streams: LongLivedStreams,
    bind_timer: IdleTimer,
    end: Option<StreamEnd<SessionEvent>>,
}

/// Makes a call end with its session.
pub(super) fn bind_grpc(
    mut body: DownstreamResponseBody,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> AxumBody {
    let Some(session) = session.filter(|_| !body.is_end_stream()) else { return body.into_body() };
    body.start_streaming();
    let bind_timer = IdleTimer::new(BIND_DELAY);
    AxumBody::new(GrpcResponse { body: Some(body), session, streams: streams.clone(), bind_timer, end: None })
}

impl GrpcResponse {
    /// Binds a call to its session once it has lasted for long enough, from the first wait for the upstream.
    fn bind_long_call(&mut self, cx: &mut Context<'_>) {
        if self.end.is_none() && self.bind_timer.poll_expired(cx).is_ready() {
            self.end = Some(watch_session(StreamKind::Grpc, Some(self.session), &self.streams));
            // The next poll registers for the end.
            cx.waker().wake_by_ref();
        }
    }

    fn poll_session_end(&mut self, cx: &mut Context<'_>) -> Poll<SessionEvent> {
        match self.end.as_mut().map(|end| end.poll(cx)) {
            Some(Poll::Ready(Some(event))) => Poll::Ready(event),
            _ => Poll::Pending,
        }
    }
}

impl Body for GrpcResponse {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<DownloadError> {
        let session_end = self.poll_session_end(cx);
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(event) = session_end {
            // The call to the upstream is cancelled.
            self.body = None;
            return Poll::Ready(Some(Ok(Frame::trailers(end_trailers(event)))));
        }
        let frame = Pin::new(body).poll_frame(cx);
        if frame.is_pending() {
            self.bind_long_call(cx);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Returns the trailers of a call whose session has ended, or can no longer be checked.
fn end_trailers(event: SessionEvent) -> HeaderMap {
    let status = if event == SessionEvent::StoreUnavailable { UNAVAILABLE } else { UNAUTHENTICATED };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(event.as_str()));
    trailers
}

/// Time after which a call is taken for a stream.
const BIND_DELAY: Duration = Duration::from_secs(1);

// Status codes of gRPC.
const UNAVAILABLE: &str = "14";
const UNAUTHENTICATED: &str = "16";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_detected_by_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc_response(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn status_depends_on_the_event() {
        assert_eq!(end_trailers(SessionEvent::Revoked)["grpc-status"], "16");
        assert_eq!(end_trailers(SessionEvent::StoreUnavailable)["grpc-status"], "14");
    }
}
