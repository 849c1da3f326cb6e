//! The request body, as the service reads it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::HttpBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::body_pace::BodyPace;
use super::request_place::RequestPlace;

/// Request body that enforces its minimum rate and suspends the place of its request while it is awaited.
///
/// It records whether it may still be read, which can be after the response. If it is dropped before, the place
/// receives what the service did not read.
pub(super) struct RequestBody {
    /// `None` once it has ended or failed.
    body: Option<Incoming>,
    place: Arc<RequestPlace>,
    pace: Option<BodyPace>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, place: Arc<RequestPlace>, pace: Option<BodyPace>) -> Self {
        place.context.state.set_body_pending(true);
        Self { body: Some(body), place, pace }
    }

    /// Fails once the body is too slow. The minimum rate applies until the response begins.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<BoxError> {
        let Some(pace) = self.pace.as_mut().filter(|_| !self.place.is_released()) else {
            return Poll::Pending;
        };
        pace.poll_too_slow(cx).map(|()| {
            metrics::counter!("sekisho_connections_timed_out_total", "waiting_for" => "body").increment(1);
            io::Error::new(io::ErrorKind::TimedOut, "request body arrived too slowly").into()
        })
    }

    fn end(&mut self) {
        self.body = None;
        self.place.context.state.set_body_pending(false);
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.place.resume();
        if let Some(unread) = self.body.take() {
            self.place.set_unread(unread);
        }
        self.place.context.state.set_body_pending(false);
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            this.place.suspend();
            return this.poll_pace(cx).map(|error| Some(Err(error)));
        };
        this.place.resume();
        if let (Some(pace), Some(Ok(frame))) = (&mut this.pace, &frame) {
            pace.record(frame.data_ref().map_or(0, Bytes::len));
        }
        let may_continue = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !may_continue || this.is_end_stream() {
            this.end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
