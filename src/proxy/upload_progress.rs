//! Progress of a request body, observed while its response is awaited or streamed.

use std::convert::Infallible;

use tokio::sync::{oneshot, watch};

use super::stream_error::UploadErrorKind;

/// The observer's half of a request body in transit.
///
/// Dropping it stops the upload: an upstream that has sent its response may never read the rest.
pub(super) struct UploadProgress(Option<ProgressReceiver>);

struct ProgressReceiver {
    state: watch::Receiver<UploadState>,
    has_ended: bool,
    _wanted: oneshot::Sender<Infallible>,
}

/// The party whose action the upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadState {
    /// The client: the upstream is ready for more data.
    AwaitingClient,
    /// Neither: the upload has failed.
    Failed(UploadErrorKind),
    /// The upstream: it has not taken the last data yet.
    Sending,
    /// The upstream: it has the whole body, or has stopped reading it.
    Sent,
}

impl UploadProgress {
    /// Observes `state`. The upload stops when `wanted` is dropped, together with the observer.
    pub(super) fn new(state: watch::Receiver<UploadState>, wanted: oneshot::Sender<Infallible>) -> Self {
        Self(Some(ProgressReceiver { state, has_ended: false, _wanted: wanted }))
    }

    /// Progress of a request without a body.
    pub(super) fn without_body() -> Self {
        Self(None)
    }

    pub(super) fn is_without_body(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn state(&self) -> UploadState {
        self.0.as_ref().map_or(UploadState::Sent, |receiver| match *receiver.state.borrow() {
            UploadState::Failed(kind) => UploadState::Failed(kind),
            _ if receiver.has_ended => UploadState::Sent,
            state => state,
        })
    }

    /// Returns the error that stopped the upload, if any.
    pub(super) fn error(&self) -> Option<UploadErrorKind> {
        if let UploadState::Failed(kind) = self.state() { Some(kind) } else { None }
    }

    /// Returns `true` if nothing more of the body will be sent.
    pub(super) fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(|receiver| receiver.state.has_changed().is_err())
    }

    /// Waits until the state changes. The last change is the drop of the body.
    pub(super) async fn changed(&mut self) {
        let Some(receiver) = self.0.as_mut().filter(|receiver| !receiver.has_ended) else {
            return std::future::pending().await;
        };
        receiver.has_ended = receiver.state.changed().await.is_err();
    }

    /// Returns `true` if the state has changed since the last call.
    pub(super) fn has_advanced(&mut self) -> bool {
        let Some(ProgressReceiver { state, .. }) = &mut self.0 else { return false };
        let has_changed = state.has_changed();
        state.mark_unchanged();
        has_changed.unwrap_or(false)
    }
}
