//! Connections that outlive their request: counted, and bound to the session in whose name they are.
//!
//! The session was checked when the request came. What stays open after that, a tunnel or an event
//! stream, ends with the session: [`SessionEndWatcher`] tells when.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::body::Body as AnyBody;
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::stream_error::DownloadError;
use crate::identity::SessionId;
use crate::request_context::with_current_context;
use crate::response_abort::ResponseAbortHandle;
use crate::session_event::{SessionEndFuture, SessionEndWatcher, SessionEvent};

/// The long-lived connections through a proxy: WebSockets, other upgrades, and event streams.
///
/// Cheap to clone; clones are one.
#[derive(Clone, Default)]
pub struct LongLivedStreams(Arc<Inner>);

#[derive(Default)]
struct Inner {
    ends: Option<Arc<dyn SessionEndWatcher>>,
    stopping: watch::Sender<bool>,
}

impl LongLivedStreams {
    /// Streams that end with their sessions, of which `ends` tells. (Those of the default end when
    /// either side wants it.)
    #[must_use]
    pub fn new(ends: Arc<dyn SessionEndWatcher>) -> Self {
        Self(Arc::new(Inner { ends: Some(ends), ..Inner::default() }))
    }

    /// Closes every WebSocket, now and from now on, for the program is about to stop: both sides are
    /// told that it goes away (1001). Other tunnels and event streams may go on as requests may: they
    /// can't be told.
    pub fn close_all(&self) {
        self.0.stopping.send_replace(true);
    }

    /// Waits for the end of the session; for ever without one.
    pub(super) fn ended(&self, session: Option<SessionId>) -> SessionEndFuture {
        self.watch(session).unwrap_or_else(|| Box::pin(std::future::pending()))
    }

    /// The end of the session, if there is anything to wait for.
    fn watch(&self, session: Option<SessionId>) -> Option<SessionEndFuture> {
        self.0.ends.as_ref().zip(session).map(|(ends, session)| ends.watch(session))
    }

    /// Waits until the program is about to stop.
    pub(super) async fn shutdown(&self) {
        // It can't fail, for the sender is here.
        let _ = self.0.stopping.subscribe().wait_for(|stop| *stop).await;
    }
}

impl fmt::Debug for LongLivedStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("bound", &self.0.ends.is_some()).finish_non_exhaustive()
    }
}

/// What kind of connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// An answer that goes on and on, as `text/event-stream`.
    Events,
    /// A protocol of which nothing is known.
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

    /// Notes that one closes because of its session.
    fn closed_by(self, event: SessionEvent) {
        let kind = self.as_str();
        metrics::counter!("sekisho_streams_closed_total", "kind" => kind, "event" => event.as_str())
            .increment(1);
        tracing::info!(session_event = %event, kind, "a connection was closed with its session");
    }
}

/// One that is open, and counted as such until this is dropped.
pub(super) struct StreamGauge(StreamKind);

impl StreamGauge {
    pub(super) fn new(kind: StreamKind) -> Self {
        metrics::gauge!("sekisho_streams", "kind" => kind.as_str()).increment(1.0);
        Self(kind)
    }

    /// Notes that it closes because of its session.
    pub(super) fn closed_by(&self, event: SessionEvent) {
        self.0.closed_by(event);
    }
}

impl Drop for StreamGauge {
    fn drop(&mut self) {
        metrics::gauge!("sekisho_streams", "kind" => self.0.as_str()).decrement(1.0);
    }
}

/// Whether an answer's body is an event stream (HTML, section 9.2).
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let essence = kind.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

pin_project! {
    /// The body of an event stream.
    ///
    /// When the session ends it breaks off, as if the upstream had done so: a clean end would say
    /// that all has been told. A browser's `EventSource` comes back by itself either way, and is then
    /// answered with 401, which it takes for the end.
    ///
    /// A body is asked only when the client takes something. Under one that doesn't, the server hangs up.
    pub(super) struct EventStream<B> {
        #[pin]
        body: B,
        ended: mpsc::Receiver<SessionEvent>,
        // What was handed over may still be on its way.
        hang_up: ResponseAbortHandle,
        open: StreamGauge,
    }
}

/// An answer that ends no later than its session.
pub(super) fn bind_event_stream<B>(
    mut response: Response<B>,
    session: Option<SessionId>,
    streams: &LongLivedStreams,
) -> Response<AnyBody>
where
    B: Body<Data = Bytes, Error = DownloadError> + Send + 'static,
{
    let (tell, ended) = mpsc::channel(1);
    let hang_up = ResponseAbortHandle::default();
    if let Some(end) = streams.watch(session) {
        response.extensions_mut().insert(hang_up.clone());
        tokio::spawn(with_current_context(abort_on_session_end(end, tell, hang_up.clone())));
    }
    response.map(|body| {
        AnyBody::new(EventStream { body, ended, hang_up, open: StreamGauge::new(StreamKind::Events) })
    })
}

/// Waits for the session's end or the stream's, which is when nobody hears of the other any more.
async fn abort_on_session_end(
    end: SessionEndFuture,
    tell: mpsc::Sender<SessionEvent>,
    hang_up: ResponseAbortHandle,
) {
    let event = tokio::select! {
        event = end => event,
        () = tell.closed() => return,
    };
    StreamKind::Events.closed_by(event);
    // There is room for it, for it is the only one.
    let _ = tell.try_send(event);
    if timeout(TAKEN_WITHIN, tell.closed()).await.is_err() {
        hang_up.abort();
    }
}

/// How long a client may take to hear that its event stream is over.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);

impl<B: Body<Data = Bytes, Error = DownloadError>> Body for EventStream<B> {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = self.project();
        // Nothing will be said of the end of a stream that is nobody's.
        if let Poll::Ready(Some(event)) = this.ended.poll_recv(cx) {
            this.hang_up.abort();
            return Poll::Ready(Some(Err(DownloadError::SessionEnded(event))));
        }
        this.body.poll_frame(cx)
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
    fn event_streams_are_known_by_their_content_type() {
        for (kind, is) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            (" text/event-stream ;x", true),
            ("text/event-streams", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_event_stream(&headers), is, "{kind}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
    }
}
