//! Long-lived streams: tunnels, event streams and gRPC streams that outlive the check of their session.
//!
//! They are counted, and end when their session ends ([`SessionEndWatcher`]).

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::identity::SessionId;
use crate::request_context::with_current_context;
use crate::response_abort::ResponseAbortHandle;
use crate::session_event::{SessionEndFuture, SessionEndWatcher, SessionEvent};

/// Registry of the long-lived streams of the gateway: WebSockets, other upgrades, event streams and gRPC streams.
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

    /// Closes every present and future WebSocket with code 1001 (going away) and ends those event streams that the
    /// gateway itself sends, for a graceful shutdown.
    ///
    /// Other tunnels and the streams of upstreams have no such message. They are drained like requests.
    pub fn close_all(&self) {
        self.0.shutdown.send_replace(true);
    }

    /// Waits for the end of the session. Without a session the future is never ready.
    pub(crate) fn session_ended(&self, session: Option<SessionId>) -> SessionEndFuture {
        self.watch(session).unwrap_or_else(|| Box::pin(std::future::pending()))
    }

    /// Returns the end of the session, or `None` if the stream is not bound to a session.
    pub(crate) fn watch(&self, session: Option<SessionId>) -> Option<SessionEndFuture> {
        self.0.session_ends.as_ref().zip(session).map(|(watcher, session)| watcher.watch(session))
    }

    /// Waits for [`close_all`](Self::close_all).
    pub(crate) async fn shutdown(&self) {
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
pub(crate) enum StreamKind {
    /// A `text/event-stream` response of an upstream.
    Events,
    /// A gRPC call that lasts.
    Grpc,
    /// A response to `GET /auth/events`.
    SessionEvents,
    /// A tunnel of another protocol.
    Upgrade,
    /// A WebSocket.
    WebSocket,
}

impl StreamKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Grpc => "grpc",
            Self::SessionEvents => "session_events",
            Self::Upgrade => "upgrade",
            Self::WebSocket => "websocket",
        }
    }

    /// Records that a stream is closed because of its session.
    pub(crate) fn record_close(self, event: SessionEvent) {
        let kind = self.as_str();
        metrics::counter!("sekisho_streams_closed_total", "kind" => kind, "event" => event.as_str())
            .increment(1);
        tracing::info!(session_event = %event, kind, "stream closed with its session");
    }
}

/// Counts a stream as open until it is dropped.
pub(crate) struct StreamGauge(StreamKind);

impl StreamGauge {
    pub(crate) fn new(kind: StreamKind) -> Self {
        metrics::gauge!("sekisho_streams", "kind" => kind.as_str()).increment(1.0);
        Self(kind)
    }
}

impl Drop for StreamGauge {
    fn drop(&mut self) {
        metrics::gauge!("sekisho_streams", "kind" => self.0.as_str()).decrement(1.0);
    }
}

/// The end of a stream, as the body of its response receives it.
///
/// A body is not polled while its client does not read. In that state the abort handle makes the server close the
/// connection.
pub(crate) struct StreamEnd<T> {
    receiver: mpsc::Receiver<T>,
    abort_handle: ResponseAbortHandle,
    _gauge: StreamGauge,
}

impl<T: Send + 'static> StreamEnd<T> {
    /// Waits for `end` in a task of its own. Without one the stream ends by itself.
    ///
    /// The response needs the [`abort_handle`](Self::abort_handle) in its extensions.
    pub(crate) fn new(kind: StreamKind, end: Option<impl Future<Output = T> + Send + 'static>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let abort_handle = ResponseAbortHandle::default();
        if let Some(end) = end {
            tokio::spawn(with_current_context(abort_on_end(end, sender, abort_handle.clone())));
        }
        Self { receiver, abort_handle, _gauge: StreamGauge::new(kind) }
    }

    /// Returns the handle that aborts the response.
    pub(crate) fn abort_handle(&self) -> ResponseAbortHandle {
        self.abort_handle.clone()
    }

    /// Polls for the end. Yields `None` for a stream that ends by itself.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.receiver.poll_recv(cx)
    }

    /// Waits for the end, as [`poll`](Self::poll) does.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        self.receiver.recv().await
    }
}

/// Passes the end to the body. Returns early when the body is dropped first.
async fn abort_on_end<T>(
    end: impl Future<Output = T>,
    sender: mpsc::Sender<T>,
    abort_handle: ResponseAbortHandle,
) {
    let end = tokio::select! {
        end = end => end,
        () = sender.closed() => return,
    };
    // The channel has room: this is its only message.
    let _ = sender.try_send(end);
    if timeout(END_TIMEOUT, sender.closed()).await.is_err() {
        abort_handle.abort();
    }
}

/// Timeout for a client to read the end of its event stream.
const END_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    /// Returns an ended stream, and the receiver of its abort.
    fn ended_stream() -> (StreamEnd<u8>, std_mpsc::Receiver<()>) {
        let end = StreamEnd::new(StreamKind::SessionEvents, Some(std::future::ready(7)));
        let (sender, aborted) = std_mpsc::channel();
        end.abort_handle().on_abort(move || _ = sender.send(()));
        (end, aborted)
    }

    #[tokio::test(start_paused = true)]
    async fn stream_whose_end_is_not_read_is_aborted() {
        let (mut end, aborted) = ended_stream();
        tokio::time::sleep(2 * END_TIMEOUT).await;
        assert_eq!(aborted.try_recv(), Ok(()));
        assert_eq!(end.recv().await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn stream_whose_end_is_read_is_not_aborted() {
        let (mut end, aborted) = ended_stream();
        assert_eq!(end.recv().await, Some(7));
        drop(end);
        tokio::time::sleep(2 * END_TIMEOUT).await;
        assert!(aborted.try_recv().is_err());
    }
}
