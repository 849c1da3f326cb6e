//! The rest of an HTTP/1.1 request body that the service did not read.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::Incoming;

/// Discards the rest of a request body before the response, as far as it has arrived.
///
/// A connection can only be used again if the whole body was read (RFC 9112 section 9.3). Otherwise hyper closes it,
/// and the response has to announce that (section 9.6), because the next request of the client would be lost.
pub(super) struct UnreadBody {
    body: Incoming,
    /// Number of bytes that may still be discarded.
    budget: usize,
    was_pending: bool,
}

impl UnreadBody {
    /// Discards nothing if the client waits for a 100 response, which hyper sends when the body is read.
    pub(super) fn new(body: Incoming, expects_continue: bool) -> Self {
        let budget = if expects_continue { 0 } else { MAX_DISCARDED_BYTES };
        Self { body, budget, was_pending: false }
    }

    /// Returns `true` at the end of the body, and `false` if the rest has not arrived or is too long.
    ///
    /// hyper reads from the socket between two polls, so the rest has not arrived when two in a row find nothing.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while self.budget > 0 {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.was_pending = false;
                    self.budget = self.budget.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                    if self.body.is_end_stream() {
                        return Poll::Ready(true);
                    }
                }
                Poll::Ready(end) => return Poll::Ready(end.is_none()),
                Poll::Pending if self.was_pending => break,
                Poll::Pending => {
                    self.was_pending = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(false)
    }
}

/// Largest number of bytes that are discarded to keep a connection open.
const MAX_DISCARDED_BYTES: usize = 256 * 1024;
