//! Sending a request: the head, then the body in the framing that the head announces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum_core::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::error::Http1Error;
use super::header_case::capitalize_names;
use crate::proxy::content_length::BodyLength;
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::upstream::settings::HeaderCase;

/// The unsent part of a request.
///
/// It is independent of the connection: until the first byte is written, the request can be sent on another
/// one.
pub(crate) struct RequestWriter {
    /// `None` after the end of the body.
    body: Option<Body>,
    /// Length of the whole body.
    pub(super) length: BodyLength,
    /// Remaining bytes of the announced length.
    remaining: u64,
    /// Case of the names of trailers.
    pub(super) header_case: HeaderCase,
    /// The request head. Its buffer is reused once it is sent.
    pub(super) head: Vec<u8>,
    /// Written before `data`: the size of a chunk, or the last chunk with the trailers.
    prefix: Vec<u8>,
    data: Bytes,
    /// Written after `data`: the line end of a chunk.
    suffix: &'static [u8],
    /// Number of bytes written of `head`, `prefix`, `data` and `suffix` together.
    written: usize,
    /// True if a byte has been written.
    pub(super) has_begun: bool,
    /// True if written bytes may still be in a buffer, as with TLS.
    needs_flush: bool,
}

impl RequestWriter {
    pub(crate) fn new(body: Body) -> Self {
        let length = BodyLength::from_body(&body);
        Self {
            body: (length != BodyLength::Empty).then_some(body),
            remaining: if let BodyLength::Known(length) = length { length } else { 0 },
            length,
            header_case: HeaderCase::default(),
            head: Vec::new(),
            prefix: Vec::new(),
            data: Bytes::new(),
            suffix: b"",
            written: 0,
            has_begun: false,
            needs_flush: false,
        }
    }

    /// Takes the body, to send it over HTTP/2. Returns `None` if a part of it has been read.
    pub(crate) fn take_body(&mut self) -> Option<(Body, BodyLength)> {
        let is_unread = !self.has_begun && self.prefix.is_empty() && self.data.is_empty();
        is_unread.then(|| (self.body.take().unwrap_or_default(), self.length))
    }

    /// Restores a body of which nothing has been sent.
    pub(crate) fn restore_body(&mut self, body: Body) {
        self.body = (self.length != BodyLength::Empty).then_some(body);
    }

    pub(super) fn is_sent(&self) -> bool {
        self.body.is_none() && self.unwritten() == 0 && !self.needs_flush
    }

    /// Starts with this head. May be called again if a connection failed before a byte was written.
    pub(super) fn start(&mut self, head: Vec<u8>) {
        self.head = head;
        self.written = 0;
    }

    /// Takes the unsent part of the request, if there is one.
    pub(super) fn take_unsent(&mut self) -> Option<Self> {
        (!self.is_sent()).then(|| std::mem::replace(self, Self::new(Body::empty())))
    }

    /// Sends as much as the body provides and the connection accepts.
    ///
    /// Fails with [`Http1Error::Body`] or [`Http1Error::Io`].
    pub(super) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Http1Error>> {
        loop {
            // The first part of the body is written together with the head.
            let awaits_body = self.poll_body(cx)?.is_pending();
            ready!(self.poll_write(io, cx))?;
            if awaits_body || self.body.is_none() {
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                self.needs_flush = false;
                return if awaits_body { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    /// Reads the next part of the body, unless one is waiting to be written.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        while self.data.is_empty() {
            let Some(body) = &mut self.body else { break };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.add_data(data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
                Some(Err(_)) => return Poll::Ready(Err(Http1Error::Body)),
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn add_data(&mut self, data: Bytes) -> Result<(), Http1Error> {
        if let BodyLength::Known(_) = self.length {
            self.remaining = self.remaining.checked_sub(data.len() as u64).ok_or(Http1Error::Body)?;
        }
        // An empty chunk would end the body.
        if !data.is_empty() {
            if self.length == BodyLength::Unknown {
                self.prefix.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.suffix = b"\r\n";
            }
            self.data = data;
        }
        // A known length also determines the end.
        if self.length != BodyLength::Unknown && self.remaining == 0 {
            self.body = None;
        }
        Ok(())
    }

    /// Ends the body. Dropping it notifies the observer of its progress.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Http1Error> {
        self.body = None;
        match self.length {
            BodyLength::Unknown => {
                let start = self.prefix.len();
                self.prefix.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    HeaderWriter::copy(&mut self.prefix, name, value);
                }
                if self.header_case == HeaderCase::Title {
                    capitalize_names(&mut self.prefix[start..]);
                }
                self.prefix.extend_from_slice(b"\r\n");
                Ok(())
            }
            _ if self.remaining > 0 => Err(Http1Error::Body),
            _ => Ok(()),
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unwritten() > 0 {
            let written = if self.payload_len() == 0 {
                // Most requests have no body and need no vectored write.
                ready!(Pin::new(&mut *io).poll_write(cx, &self.head[self.written..]))?
            } else {
                let pieces = [&*self.head, &*self.prefix, &*self.data, self.suffix];
                let mut slices = &mut pieces.map(IoSlice::new)[..];
                IoSlice::advance_slices(&mut slices, self.written);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
            self.needs_flush = true;
            self.written += written;
        }
        self.head.clear();
        self.prefix.clear();
        self.data = Bytes::new();
        self.suffix = b"";
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn unwritten(&self) -> usize {
        self.head.len() + self.payload_len() - self.written
    }

    /// Number of buffered bytes after the head.
    fn payload_len(&self) -> usize {
        self.prefix.len() + self.data.len() + self.suffix.len()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::{AsyncReadExt, BufWriter};

    use super::*;

    type FrameResult = Result<Frame<Bytes>, std::io::Error>;

    fn data(text: &'static str) -> FrameResult {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn streamed(frames: Vec<FrameResult>) -> Body {
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    /// Sends a request through a pipe of `capacity` bytes. Returns what was received, and whether all was sent.
    async fn send(body: Body, capacity: usize) -> (String, bool) {
        let (mut client, mut server) = tokio::io::duplex(capacity);
        let mut writer = RequestWriter::new(body);
        writer.start(b"head ".to_vec());
        let sender = async move {
            let sent = std::future::poll_fn(|cx| writer.poll_send(&mut client, cx)).await.is_ok();
            assert_eq!(sent, writer.is_sent() && writer.take_unsent().is_none());
            sent
        };
        let mut received = String::new();
        let (sent, read) = tokio::join!(sender, server.read_to_string(&mut received));
        read.expect("text");
        (received, sent)
    }

    #[tokio::test]
    async fn bodies_are_framed_with_any_pipe_capacity() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("7"))]);
        for capacity in [1, 3, 4096] {
            assert_eq!(send(Body::empty(), capacity).await, ("head ".to_owned(), true));
            assert_eq!(send(Body::from("body"), capacity).await, ("head body".to_owned(), true));
            let frames = vec![data("one"), data(""), data("and a second one")];
            let framed = "head 3\r\none\r\n10\r\nand a second one\r\n0\r\n\r\n".to_owned();
            assert_eq!(send(streamed(frames), capacity).await, (framed, true));
            let frames = vec![data("one"), Ok(Frame::trailers(trailers.clone()))];
            let framed = "head 3\r\none\r\n0\r\netag: 7\r\n\r\n".to_owned();
            assert_eq!(send(streamed(frames), capacity).await, (framed, true));
        }
    }

    #[tokio::test]
    async fn aborted_chunked_body_has_no_last_chunk() {
        let frames = vec![data("one"), Err(std::io::ErrorKind::BrokenPipe.into())];
        assert_eq!(send(streamed(frames), 4096).await, ("head 3\r\none\r\n".to_owned(), false));
    }

    #[tokio::test]
    async fn request_is_not_sent_until_flushed() {
        // The pipe holds the request without its last byte.
        let (client, mut server) = tokio::io::duplex(8);
        let mut io = BufWriter::new(client);
        let mut writer = RequestWriter::new(Body::from("body"));
        writer.start(b"head ".to_vec());
        let mut cx = Context::from_waker(Waker::noop());
        let mut received = [0; 9];
        assert!(writer.poll_send(&mut io, &mut cx).is_pending() && !writer.is_sent());
        server.read_exact(&mut received[..8]).await.unwrap();
        assert!(writer.poll_send(&mut io, &mut cx).is_ready() && writer.is_sent());
        server.read_exact(&mut received[8..]).await.unwrap();
        assert_eq!(received, *b"head body");
    }

    #[tokio::test]
    async fn request_is_resent_after_a_connection_accepts_nothing() {
        let end = streamed(vec![]);
        for (body, framed) in [
            (Body::empty(), ""),
            (Body::from("body"), "body"),
            (end, "0\r\n\r\n"),
            (streamed(vec![data("one"), data("two")]), "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        ] {
            let mut writer = RequestWriter::new(body);
            let mut broken = tokio::io::duplex(1).0;
            for _ in 0..2 {
                writer.start(b"a longer head ".to_vec());
                let sent = std::future::poll_fn(|cx| writer.poll_send(&mut broken, cx)).await;
                assert!(sent.is_err() && !writer.has_begun);
            }
            let mut io = Vec::new();
            writer.start(b"head ".to_vec());
            assert!(std::future::poll_fn(|cx| writer.poll_send(&mut io, cx)).await.is_ok());
            assert_eq!(io, format!("head {framed}").as_bytes());
        }
    }

    #[tokio::test]
    async fn body_length_must_be_as_announced() {
        for (announced, body, is_complete) in [(3, "abc", true), (4, "abc", false), (2, "abc", false)] {
            let mut writer = RequestWriter::new(streamed(vec![data(body)]));
            writer.length = BodyLength::Known(announced);
            writer.remaining = announced;
            writer.start(b"head ".to_vec());
            let mut io = Vec::new();
            let sent = std::future::poll_fn(|cx| writer.poll_send(&mut io, cx)).await.is_ok();
            assert_eq!(sent, is_complete, "{announced}");
        }
    }

    #[test]
    fn unsent_body_can_be_taken_and_restored() {
        let mut writer = RequestWriter::new(Body::from("body"));
        writer.start(b"head".to_vec());
        let (body, length) = writer.take_body().expect("unread");
        assert_eq!(length, BodyLength::Known(4));
        writer.restore_body(body);
        assert!(!writer.is_sent() && !writer.has_begun);
    }
}
