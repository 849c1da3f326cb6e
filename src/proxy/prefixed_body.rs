//! A body of which the first frames have been read before.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum_core::Error;
use axum_core::body::Body;
use bytes::Bytes;
use http_body::Frame;

use super::stream_error::FramePoll;

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
