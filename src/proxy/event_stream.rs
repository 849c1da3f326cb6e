//! Event streams of upstreams (`text/event-stream`), which end with their session.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum_core::body::Body as AxumBody;
use bytes::Bytes;
use http::Response;
use http_body::{Body, SizeHint};

use super::response_body::DownstreamResponseBody;
use super::stream_error::{DownloadError, FramePoll};
use crate::http_headers::media_type;
use crate::identity::SessionId;
use crate::long_lived_streams::{LongLivedStreams, StreamEnd, StreamKind};
use crate::session_event::SessionEvent;

/// Returns `true` for the content type of an event stream (HTML, section 9.2).
pub(super) fn is_event_stream(content_type: &[u8]) -> bool {
    media_type(content_type).eq_ignore_ascii_case(b"text/event-stream")
}

/// Body of an event stream.
///
/// It fails when the session ends. A clean end would mark the stream as complete. A browser's `EventSource`
/// reconnects in either case and stops at the 401 response.
struct EventStream {
    body: DownstreamResponseBody,
    end: StreamEnd<SessionEvent>,
}

/// Makes an event stream end with its session.
pub(super) fn bind_event_stream(
    mut response: Response<DownstreamResponseBody>,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> Response<AxumBody> {
    let end = watch_session(StreamKind::Events, session, streams);
    response.extensions_mut().insert(end.abort_handle());
    response.map(|body| AxumBody::new(EventStream { body, end }))
}

/// Waits for the end of the session, and records that a stream of this kind is closed by it.
pub(super) fn watch_session(
    kind: StreamKind,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> StreamEnd<SessionEvent> {
    let session_end = streams.watch(session).map(|end| async move {
        let event = end.await;
        kind.record_close(event);
        event
    });
    StreamEnd::new(kind, session_end)
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<DownloadError> {
        if let Poll::Ready(Some(event)) = self.end.poll(cx) {
            // Data already passed to the server may still be unsent.
            self.end.abort_handle().abort();
            return Poll::Ready(Some(Err(DownloadError::SessionEnded(event))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_streams_are_detected_by_content_type() {
        for (content_type, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            (" text/event-stream ;x", true),
            ("text/event-streams", false),
            ("application/json", false),
        ] {
            assert_eq!(is_event_stream(content_type.as_bytes()), expected, "{content_type}");
        }
    }
}
