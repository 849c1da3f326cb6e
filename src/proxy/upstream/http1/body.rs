//! An answer's body.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::framing::{BodyDecoder, Decoded};
use super::io::UpgradedIo;
use super::request_writer::RequestWriter;
use super::{Http1Connection, Http1Error};
use crate::request_context::with_current_context;

/// Reads from its connection what belongs to the answer, and no more.
pub(in crate::proxy) struct Http1Body {
    connection: Box<Http1Connection>,
    framing: BodyDecoder,
    persists: bool,
    _uploading: Option<UploadTask>,
}

/// The task that sends the rest of the request. Once the answer has ended nobody wants that.
struct UploadTask(AbortHandle);

impl Drop for UploadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Http1Body {
    /// The body that follows a head. What is left of the request goes out at its own pace; then the
    /// connection is of no further use.
    pub(super) fn new(
        connection: Box<Http1Connection>,
        framing: BodyDecoder,
        persists: bool,
        rest: Option<RequestWriter>,
    ) -> Self {
        let Some(mut rest) = rest else {
            return Self { connection, framing, persists, _uploading: None };
        };
        let Http1Connection { io, read, peer, .. } = *connection;
        let (reading, mut writing) = io.split();
        let connection = Box::new(Http1Connection { read, ..Http1Connection::new(reading, peer) });
        let upload = async move { _ = poll_fn(|cx| rest.poll_send(&mut writing, cx)).await };
        let uploading = tokio::spawn(with_current_context(upload)).abort_handle();
        Self { connection, framing, persists: false, _uploading: Some(UploadTask(uploading)) }
    }

    /// All of the body, if it has come already.
    pub(in crate::proxy) fn take_whole(&mut self) -> Option<Bytes> {
        let read = &mut self.connection.read;
        let length = self.framing.left().and_then(|left| usize::try_from(left).ok())?;
        let whole = (length <= read.len()).then(|| read.split_to(length).freeze())?;
        self.framing = BodyDecoder::Length(0);
        Some(whole)
    }

    /// The connection, if the body has ended as it should, with nothing behind it, and another request may
    /// follow.
    pub(in crate::proxy) fn into_connection(self) -> Option<Box<Http1Connection>> {
        let is_clean = self.framing.is_over() && self.connection.read.is_empty();
        (self.persists && is_clean).then_some(self.connection)
    }

    /// The connection, for the protocol that it was switched to.
    pub(in crate::proxy) fn into_switched(self) -> UpgradedIo {
        let Http1Connection { io, read, .. } = *self.connection;
        UpgradedIo { unread: read, io }
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = Http1Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        let Self { connection, framing, .. } = self.get_mut();
        loop {
            match framing.next(&mut connection.read)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::More => {}
            }
            if !ready!(connection.poll_read(cx))? {
                if *framing != BodyDecoder::UntilClose {
                    return Poll::Ready(Some(Err(Http1Error::Closed)));
                }
                *framing = BodyDecoder::Length(0);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.framing.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.framing.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
