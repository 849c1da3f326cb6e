//! The request body in transit to an upstream.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum_core::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{oneshot, watch};

use super::header_policy::RequestHeaderPolicy;
use super::idle_timer::IdleTimer;
use super::routes::Route;
use super::session_use::{UploadReporter, UseReporter};
use super::stream_error::{FramePoll, UploadError};
use super::trailers;
use super::upload_progress::{UploadProgress, UploadState};

/// Streams a request body within the limits of its route.
///
/// It reads from the client only when the upstream accepts more data, and reports its progress to an
/// [`UploadProgress`].
pub(super) struct UpstreamRequestBody {
    inner: Body,
    /// Number of bytes still allowed; `None` without a limit.
    bytes_left: Option<u64>,
    idle_timer: IdleTimer,
    state: watch::Sender<UploadState>,
    /// Completes when the observer is dropped.
    abandoned: oneshot::Receiver<Infallible>,
    headers: Arc<RequestHeaderPolicy>,
    /// Reports the use of the session; `None` without a session.
    session_use: Option<UploadReporter>,
}

impl UpstreamRequestBody {
    /// Wraps a body and returns the observer of its progress.
    pub(super) fn new(inner: Body, route: &Route, session: Option<UseReporter>) -> (Self, UploadProgress) {
        let (state, state_receiver) = watch::channel(UploadState::Sending);
        let (wanted, abandoned) = oneshot::channel();
        let body = Self {
            inner,
            bytes_left: route.spec.max_body,
            idle_timer: IdleTimer::new(route.spec.idle_timeout),
            state,
            abandoned,
            headers: Arc::clone(&route.request_headers),
            session_use: session.map(UploadReporter::new),
        };
        (body, UploadProgress::new(state_receiver, wanted))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> FramePoll<UploadError> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            self.state.send_if_modified(|state| {
                std::mem::replace(state, UploadState::AwaitingClient) == UploadState::Sending
            });
            if Pin::new(&mut self.abandoned).poll(cx).is_ready() {
                return Poll::Ready(Some(Err(UploadError::Abandoned)));
            }
            ready!(self.idle_timer.poll_expired(cx));
            return Poll::Ready(Some(Err(UploadError::Idle)));
        };
        self.idle_timer.stop();
        self.state.send_replace(UploadState::Sending);
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(|error| UploadError::from_client(error.into()))?;
        if let Some(trailers) = frame.trailers_mut() {
            trailers::sanitize(trailers, &self.headers.reserved);
            self.headers.edits.remove_from(trailers);
        }
        check_limit(&mut self.bytes_left, &frame)?;
        if let Some(session_use) = &mut self.session_use
            && frame.data_ref().is_some_and(|data| !data.is_empty())
        {
            session_use.record_data();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl http_body::Body for UpstreamRequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<UploadError> {
        let frame = ready!(self.poll_inner(cx));
        if let Some(Err(error)) = &frame {
            self.state.send_replace(UploadState::Failed(error.kind()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn check_limit(bytes_left: &mut Option<u64>, frame: &Frame<Bytes>) -> Result<(), UploadError> {
    if let (Some(bytes_left), Some(data)) = (bytes_left, frame.data_ref()) {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        *bytes_left = bytes_left.checked_sub(length).ok_or(UploadError::TooLarge)?;
    }
    Ok(())
}
