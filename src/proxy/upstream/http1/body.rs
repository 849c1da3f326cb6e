//! The body of a response, read from its connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinSet;

use super::connection::Http1Connection;
use super::error::Http1Error;
use super::framing::{BodyDecoder, Decoded};
use super::io::UpgradedConnection;
use super::request_writer::RequestWriter;
use super::response_head::ResponseHead;
use crate::proxy::stream_error::FramePoll;
use crate::request_context::with_current_context;

/// A response body, which owns its connection.
pub(crate) struct Http1Body {
    connection: Box<Http1Connection>,
    decoder: BodyDecoder,
    keep_alive: bool,
    /// The task that sends the rest of the request. Aborted when the response ends.
    _upload: Option<JoinSet<()>>,
}

impl Http1Body {
    /// Builds the response whose body follows `head` on `connection`.
    ///
    /// If the request is not sent completely, a task sends the rest, and the connection cannot be reused.
    pub(crate) fn response(
        head: ResponseHead,
        connection: Box<Http1Connection>,
        writer: &mut RequestWriter,
    ) -> Response<Self> {
        let ResponseHead { response, decoder, keep_alive } = head;
        let body = match writer.take_unsent() {
            None => Self { connection, decoder, keep_alive, _upload: None },
            Some(unsent) => Self::with_upload(*connection, decoder, unsent),
        };
        response.map(|()| body)
    }

    fn with_upload(connection: Http1Connection, decoder: BodyDecoder, mut unsent: RequestWriter) -> Self {
        let (connection, mut write_half) = connection.split();
        let upload = async move { _ = poll_fn(|cx| unsent.poll_send(&mut write_half, cx)).await };
        let mut tasks = JoinSet::new();
        tasks.spawn(with_current_context(upload));
        Self { connection: Box::new(connection), decoder, keep_alive: false, _upload: Some(tasks) }
    }

    /// Returns the whole body if it has been received already.
    pub(crate) fn take_buffered(&mut self) -> Option<Bytes> {
        let buffer = &mut self.connection.buffer;
        let length = usize::try_from(self.decoder.remaining()?).ok()?;
        if length > buffer.len() {
            return None;
        }
        let data = buffer.split_to(length).freeze();
        self.decoder = BodyDecoder::Length(0);
        Some(data)
    }

    /// Returns the connection if it can carry another request.
    ///
    /// The body must have ended, and no byte may follow it.
    pub(crate) fn into_connection(self) -> Option<Box<Http1Connection>> {
        let is_clean = self.decoder.is_finished() && self.connection.buffer.is_empty();
        (self.keep_alive && is_clean).then_some(self.connection)
    }

    /// Returns the connection after a 101 response.
    pub(crate) fn into_upgraded(self) -> UpgradedConnection {
        self.connection.into_upgraded()
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = Http1Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> FramePoll<Http1Error> {
        let Self { connection, decoder, .. } = self.get_mut();
        loop {
            match decoder.decode(&mut connection.buffer)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Decoded::End => return Poll::Ready(None),
                Decoded::Incomplete => {}
            }
            if !ready!(connection.poll_read(cx))? {
                if *decoder != BodyDecoder::UntilClose {
                    return Poll::Ready(Some(Err(Http1Error::Closed)));
                }
                *decoder = BodyDecoder::Length(0);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_finished()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
