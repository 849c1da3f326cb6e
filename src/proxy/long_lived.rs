//! Long-lived streams: tunnels and event streams that outlive the check of their session.
//!
//! They are counted, and end when their session ends ([`SessionEndWatcher`]).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::body::Body as AxumBody;
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, SizeHint};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::response_body::DownstreamResponseBody;
use super::stream_error::{DownloadError, FramePoll};
use crate::identity::SessionId;
use crate::request_context::with_current_context;
use crate::response_abort::ResponseAbortHandle;
use crate::session_event::{SessionEndFuture, SessionEndWatcher, SessionEvent};

/// Registry of the long-lived streams of a proxy: WebSockets, other upgrades and event streams.
///
/// Clones are cheap and refer to the same registry.
#[derive(Clone, Default)]
pub struct LongLivedStreams(Arc<Inner>);

#[derive(Default)]
struct Inner {
    session_ends: Option<Arc<dyn SessionEndWatcher>>,
    shutdown: watch::Sender<bool>,
}

impl LongLivedStreams {
    /// Creates a registry whose streams end with their session.
    ///
    /// The streams of a default registry end only when one of their sides closes them.
    #[must_use]
    pub fn new(session_ends: Arc<dyn SessionEndWatcher>) -> Self {
        Self(Arc::new(Inner { session_ends: Some(session_ends), ..Inner::default() }))
    }

    /// Closes every present and future WebSocket with code 1001 (going away), for a graceful shutdown.
    ///
    /// Other tunnels and event streams have no such message. They are drained like requests.
    pub fn close_all(&self) {
        self.0.shutdown.send_replace(true);
    }

    /// Waits for the end of the session. Without a session the future is never ready.
    pub(super) fn session_ended(&self, session: Option<SessionId>) -> SessionEndFuture {
        self.watch(session).unwrap_or_else(|| Box::pin(std::future::pending()))
    }

    /// Returns the end of the session, or `None` if the stream is not bound to a session.
    fn watch(&self, session: Option<SessionId>) -> Option<SessionEndFuture> {
        self.0.session_ends.as_ref().zip(session).map(|(watcher, session)| watcher.watch(session))
    }

    /// Waits for [`close_all`](Self::close_all).
    pub(super) async fn shutdown(&self) {
        // This cannot fail while `self` holds the sender.
        let _ = self.0.shutdown.subscribe().wait_for(|requested| *requested).await;
    }
}

impl fmt::Debug for LongLivedStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongLivedStreams")
            .field("watches_sessions", &self.0.session_ends.is_some())
            .finish_non_exhaustive()
    }
}

/// Kind of a long-lived stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// A `text/event-stream` response.
    Events,
    /// A tunnel of another protocol.
    Upgrade,
    /// A WebSocket.
    WebSocket,
}

impl StreamKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Upgrade => "upgrade",
            Self::WebSocket => "websocket",
        }
    }

    /// Records that a stream is closed because of its session.
    pub(super) fn record_close(self, event: SessionEvent) {
        let kind = self.as_str();
        metrics::counter!("sekisho_streams_closed_total", "kind" => kind, "event" => event.as_str())
            .increment(1);
        tracing::info!(session_event = %event, kind, "stream closed with its session");
    }
}

/// Counts a stream as open until it is dropped.
pub(super) struct StreamGauge(StreamKind);

impl StreamGauge {
    pub(super) fn new(kind: StreamKind) -> Self {
        metrics::gauge!("sekisho_streams", "kind" => kind.as_str()).increment(1.0);
        Self(kind)
    }
}

impl Drop for StreamGauge {
    fn drop(&mut self) {
        metrics::gauge!("sekisho_streams", "kind" => self.0.as_str()).decrement(1.0);
    }
}

/// Returns `true` for the headers of an event stream (HTML, section 9.2).
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return false };
    let essence = content_type.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Body of an event stream.
///
/// It fails when the session ends. A clean end would mark the stream as complete. A browser's `EventSource`
/// reconnects in either case and stops at the 401 response.
///
/// A body is not polled while the client does not read. In that state the abort handle makes the server close
/// the connection.
struct EventStream {
    body: DownstreamResponseBody,
    session_end: mpsc::Receiver<SessionEvent>,
    abort_handle: ResponseAbortHandle,
    _gauge: StreamGauge,
}

/// Makes an event stream end with its session.
pub(super) fn bind_event_stream(
    mut response: Response<DownstreamResponseBody>,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> Response<AxumBody> {
    let (sender, session_end) = mpsc::channel(1);
    let abort_handle = ResponseAbortHandle::default();
    if let Some(end) = streams.watch(session) {
        response.extensions_mut().insert(abort_handle.clone());
        tokio::spawn(with_current_context(abort_on_session_end(end, sender, abort_handle.clone())));
    }
    let _gauge = StreamGauge::new(StreamKind::Events);
    response.map(|body| AxumBody::new(EventStream { body, session_end, abort_handle, _gauge }))
}

/// Ends the stream when the session ends. Returns early when the stream ends first.
async fn abort_on_session_end(
    session_end: SessionEndFuture,
    sender: mpsc::Sender<SessionEvent>,
    abort_handle: ResponseAbortHandle,
) {
    let event = tokio::select! {
        event = session_end => event,
        () = sender.closed() => return,
    };
    StreamKind::Events.record_close(event);
    // The channel has room: this is its only message.
    let _ = sender.try_send(event);
    if timeout(END_TIMEOUT, sender.closed()).await.is_err() {
        abort_handle.abort();
    }
}

/// Timeout for a client to read the end of its event stream.
const END_TIMEOUT: Duration = Duration::from_millis(500);

impl Body for EventStream {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<DownloadError> {
        // The channel of a stream without a session is closed and yields `None`.
        if let Poll::Ready(Some(event)) = self.session_end.poll_recv(cx) {
            // Data already passed to the server may still be unsent.
            self.abort_handle.abort();
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
    use http::HeaderValue;

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
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_event_stream(&headers), expected, "{content_type}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
    }
}
