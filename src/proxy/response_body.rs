//! The response body in transit to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum_core::BoxError;
use axum_core::body::Body as AxumBody;
use bytes::Bytes;
use http_body::{Body, SizeHint};
use http_body_util::Either;

use super::header_edits::HeaderEdits;
use super::idle_timer::IdleTimer;
use super::reserved_headers::ReservedHeaders;
use super::routes::Route;
use super::stream_error::{DownloadError, FramePoll};
use super::trailers;
use super::upload_progress::UploadProgress;
use super::upstream::{Lease, UpstreamBody};

/// Streams a response body within the idle timeout of its route.
///
/// It reads from the upstream only when the client accepts more data.
pub(super) struct DownstreamResponseBody {
    /// The upstream's body; `None` after its end.
    in_progress: Option<InProgress>,
    idle_timer: IdleTimer,
    edits: Option<Arc<HeaderEdits>>,
    /// Error of the upstream's body, to be returned by the next poll.
    pending_error: Option<BoxError>,
}

/// A response body and the resources that it holds until its end.
struct InProgress {
    body: UpstreamBody,
    lease: Lease,
    upload: UploadProgress,
}

impl DownstreamResponseBody {
    /// Wraps a body.
    ///
    /// Progress of `upload` restarts the idle timeout, since some upstreams respond long before they have
    /// read the whole request.
    pub(super) fn new(body: UpstreamBody, route: &Route, lease: Lease, upload: UploadProgress) -> Self {
        let mut body = Self {
            in_progress: Some(InProgress { body, lease, upload }),
            idle_timer: IdleTimer::new(route.spec.idle_timeout),
            edits: route.response_headers.edits.clone(),
            pending_error: None,
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Converts a body that was received along with its head, as most small ones are, into a buffer.
    pub(super) fn into_body(mut self) -> AxumBody {
        let Some(in_progress) = &mut self.in_progress else { return AxumBody::empty() };
        let buffered = match &mut in_progress.body {
            Either::Left(http1) => http1.take_buffered(),
            Either::Right(_) => None,
        };
        let Some(buffered) = buffered else {
            self.start_streaming();
            return AxumBody::new(self);
        };
        self.finish();
        AxumBody::from(buffered)
    }

    /// Counts the request outside the upstream's limit until the body ends.
    pub(super) fn start_streaming(&mut self) {
        if let Some(in_progress) = &mut self.in_progress {
            in_progress.lease.start_streaming();
        }
    }

    /// Returns the connection to the pool if the request has been sent in full.
    ///
    /// Otherwise the connection is closed: the upstream would read the rest of this request as the start of
    /// the next one.
    fn finish(&mut self) {
        if let Some(InProgress { body, lease, upload }) = self.in_progress.take()
            && upload.is_finished()
        {
            lease.finish(body);
        }
    }
}

impl Body for DownstreamResponseBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<DownloadError> {
        if let Some(error) = self.pending_error.take() {
            return Poll::Ready(Some(Err(log_abort(DownloadError::Upstream(error)))));
        }
        let Self { in_progress, idle_timer, .. } = &mut *self;
        let Some(InProgress { body, upload, .. }) = in_progress else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            loop {
                ready!(idle_timer.poll_expired(cx));
                if !upload.has_advanced() {
                    return Poll::Ready(Some(Err(log_abort(DownloadError::Idle))));
                }
                idle_timer.stop();
            }
        };
        idle_timer.stop();
        // The server may not poll again after the last frame.
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_last {
            self.finish();
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                // When a body fails, hyper discards what it has not written yet, perhaps even the head. It
                // flushes while the body is pending.
                self.pending_error = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        if let Some(trailers) = frame.trailers_mut() {
            trailers::sanitize(trailers, &ReservedHeaders::default());
            if let Some(edits) = &self.edits {
                edits.remove_from(trailers);
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.in_progress.as_ref().is_none_or(|in_progress| in_progress.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.in_progress {
            Some(in_progress) => in_progress.body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// Logs the error. The response head has been sent, so the status cannot report it.
fn log_abort(error: DownloadError) -> DownloadError {
    tracing::warn!(error = &error as &dyn std::error::Error, "response aborted");
    error
}
