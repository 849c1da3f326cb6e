//! Errors of request and response bodies in transit.

use std::error::Error as StdError;
use std::io;
use std::task::Poll;

use axum_core::BoxError;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::LengthLimitError;

use crate::session_event::SessionEvent;

/// The next frame of a body, if it has arrived.
pub(super) type FramePoll<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

/// The reason why a request body cannot be forwarded to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("response ended before the request body")]
    Abandoned,
    #[error("client aborted the request body")]
    Client(#[source] BoxError),
    #[error("timeout waiting for the request body")]
    Idle,
    #[error("request body exceeds the route's limit")]
    TooLarge,
}

impl UploadError {
    /// Converts an error of the client's body.
    ///
    /// [`LengthLimitError`] anywhere in its chain of sources becomes [`TooLarge`](Self::TooLarge), and a timeout
    /// [`Idle`](Self::Idle).
    pub(super) fn from_client(error: BoxError) -> Self {
        let causes = || std::iter::successors(Some(&*error as &dyn StdError), |&error| error.source());
        if causes().any(|cause| cause.is::<LengthLimitError>()) {
            Self::TooLarge
        } else if causes().any(is_timeout) {
            Self::Idle
        } else {
            Self::Client(error)
        }
    }

    pub(super) fn kind(&self) -> UploadErrorKind {
        match self {
            Self::Abandoned | Self::Client(_) => UploadErrorKind::Client,
            Self::Idle => UploadErrorKind::Idle,
            Self::TooLarge => UploadErrorKind::TooLarge,
        }
    }
}

fn is_timeout(cause: &(dyn StdError + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// The kind of an [`UploadError`], which decides the response's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadErrorKind {
    /// The client aborted the request.
    Client,
    /// The client sent no data within the idle timeout.
    Idle,
    /// The body exceeds the route's limit.
    TooLarge,
}

/// The reason why a response body ends early.
///
/// The client's connection is closed in the middle of the message, so that the client cannot mistake the
/// response for a complete one.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("timeout waiting for the response body")]
    Idle,
    #[error("session ended: {0}")]
    SessionEnded(SessionEvent),
    #[error("upstream aborted the response body")]
    Upstream(#[source] BoxError),
}
