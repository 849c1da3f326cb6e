//! Reading the first frames of a body before the rest of it is forwarded.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::Error;
use axum_core::body::Body;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::error::ProxyError;
use super::stream_error::{FramePoll, UploadError, UploadErrorKind};

/// Reads the next frame of a client's body. Returns `None` at its end.
pub(super) async fn next_frame(
    body: &mut Body,
    idle_timeout: Duration,
) -> Result<Option<Frame<Bytes>>, ProxyError> {
    let frame = timeout(idle_timeout, body.frame()).await.map_err(|_| ProxyError::BodyTimeout)?;
    frame.transpose().map_err(|error| body_error(UploadError::from_client(error.into())))
}

fn body_error(error: UploadError) -> ProxyError {
    match error.kind() {
        UploadErrorKind::Client => ProxyError::BodyIncomplete(error.into()),
        UploadErrorKind::Idle => ProxyError::BodyTimeout,
        UploadErrorKind::TooLarge => ProxyError::BodyTooLarge,
    }
}

/// Yields frames that were read before, then the rest of their body.
pub(super) struct PrefixedBody {
    /// In reverse order.
    frames: Vec<Frame<Bytes>>,
    /// `None` after its end.
    rest: Option<Body>,
}

impl PrefixedBody {
    pub(super) fn new(mut frames: Vec<Frame<Bytes>>, rest: Option<Body>) -> Self {
        frames.reverse();
        Self { frames, rest }
    }
}

impl http_body::Body for PrefixedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<Error> {
        if let Some(frame) = self.frames.pop() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
