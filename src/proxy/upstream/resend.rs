//! Request bodies that can be sent again while an HTTP/2 upstream may refuse the request.
//!
//! A refused request has certainly not been processed, but part of its body may have been sent
//! (RFC 9113, section 8.7). What has been sent is therefore kept until the response begins, up to a limit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum_core::Error;
use axum_core::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use parking_lot::Mutex;

use crate::proxy::prefixed_body::PrefixedBody;
use crate::proxy::stream_error::FramePoll;

/// The body of one attempt. It records the frames that it yields.
pub(super) struct RecordedBody(Arc<Mutex<Recording>>);

/// Takes the body back after a refusal. Recording stops when it is dropped.
pub(super) struct ResendHandle(Arc<Mutex<Recording>>);

struct Recording {
    /// The rest of the body; `None` after its end, or once it was taken back.
    body: Option<Body>,
    /// All frames that `body` has yielded; `None` if they are too many, or no longer needed.
    frames: Option<Vec<Frame<Bytes>>>,
    /// Number of bytes in `frames`.
    size: usize,
    is_taken: bool,
}

/// Records a body while it is sent.
pub(super) fn record(body: Body) -> (RecordedBody, ResendHandle) {
    let recording = Recording { body: Some(body), frames: Some(Vec::new()), size: 0, is_taken: false };
    let recording = Arc::new(Mutex::new(recording));
    (RecordedBody(Arc::clone(&recording)), ResendHandle(recording))
}

impl ResendHandle {
    /// Takes the whole body back. Returns `None` if it exceeds the limit.
    pub(super) fn take_body(self) -> Option<Body> {
        let mut recording = self.0.lock();
        recording.is_taken = true;
        let body = recording.body.take();
        let frames = recording.frames.take()?;
        Some(Body::new(PrefixedBody::new(frames, body)))
    }
}

impl Drop for ResendHandle {
    fn drop(&mut self) {
        self.0.lock().frames = None;
    }
}

impl Recording {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> FramePoll<Error> {
        let Some(body) = &mut self.body else {
            // The upstream has refused the stream, and does not see how its body ends.
            return Poll::Ready(self.is_taken.then(|| Err(Error::new("the request is sent again"))));
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        // Dropping the body at its end notifies the observer of its progress.
        if frame.is_none() || body.is_end_stream() {
            self.body = None;
        }
        if let Some(Ok(frame)) = &frame {
            self.record(frame);
        }
        Poll::Ready(frame)
    }

    fn record(&mut self, frame: &Frame<Bytes>) {
        self.size += frame.data_ref().map_or(0, Bytes::len);
        let is_full = self.size > MAX_RECORDED_BYTES
            || self.frames.as_ref().is_some_and(|frames| frames.len() >= MAX_RECORDED_FRAMES);
        if is_full {
            self.frames = None;
        }
        if let Some(frames) = &mut self.frames {
            frames.extend(copy(frame));
        }
    }
}

fn copy(frame: &Frame<Bytes>) -> Option<Frame<Bytes>> {
    let data = frame.data_ref().cloned().map(Frame::data);
    data.or_else(|| frame.trailers_ref().cloned().map(Frame::trailers))
}

impl http_body::Body for RecordedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<Error> {
        self.0.lock().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        let recording = self.0.lock();
        recording.body.is_none() && !recording.is_taken
    }
}

/// Maximum number of bytes that are kept of a body: the initial window of a stream (RFC 9113, section 6.9.2).
const MAX_RECORDED_BYTES: usize = 64 * 1024;
/// Maximum number of frames that are kept, for a body of many small ones.
const MAX_RECORDED_FRAMES: usize = 1024;
