//! A request on its way out: the head, and the body in the framing that the head announces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum_core::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::head::Http1HeaderWriter;
use crate::proxy::content_length::BodyLength;
use crate::proxy::header_writer::HeaderWriter;

/// What is left of a request. It belongs to no connection: what has not begun can go out on another.
pub(in crate::proxy::upstream) struct RequestWriter {
    /// Until its end has come.
    body: Option<Body>,
    length: BodyLength,
    /// How much of the announced length is still to come.
    left: u64,
    head: Vec<u8>,
    /// What goes before the data: the size of a chunk, or all that ends the body.
    before: Vec<u8>,
    data: Bytes,
    after: &'static [u8],
    /// How much of the four has been written.
    written: usize,
    has_begun: bool,
    /// Whether what was written may wait in a buffer, as with TLS.
    is_to_be_flushed: bool,
}

/// Why a request can't be sent to its end.
pub(super) enum SendError {
    /// Its body broke off, or was not as long as announced.
    Body,
    Io(io::Error),
}

impl RequestWriter {
    pub(in crate::proxy::upstream) fn new(body: Body) -> Self {
        let length = BodyLength::of(&body);
        Self {
            body: (length != BodyLength::NoBody).then_some(body),
            left: if let BodyLength::Known(length) = length { length } else { 0 },
            length,
            head: Vec::new(),
            before: Vec::new(),
            data: Bytes::new(),
            after: b"",
            written: 0,
            has_begun: false,
            is_to_be_flushed: false,
        }
    }

    /// How long the whole body is.
    pub(super) fn length(&self) -> BodyLength {
        self.length
    }

    /// The body, to be sent in another way. `None` if it has been begun.
    pub(in crate::proxy::upstream) fn take_body(&mut self) -> Option<(Body, BodyLength)> {
        let is_untouched = !self.has_begun && self.before.is_empty() && self.data.is_empty();
        is_untouched.then(|| (self.body.take().unwrap_or_default(), self.length))
    }

    /// Takes back a body of which nothing was sent.
    pub(in crate::proxy::upstream) fn put_back(&mut self, body: Body) {
        self.body = (self.length != BodyLength::NoBody).then_some(body);
    }

    /// Whether any of it has been written.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(super) fn is_sent(&self) -> bool {
        self.body.is_none() && self.unwritten() == 0 && !self.is_to_be_flushed
    }

    /// Begins with this head, perhaps after a connection that took nothing.
    pub(super) fn begin(&mut self, head: Vec<u8>) {
        self.head = head;
        self.written = 0;
    }

    /// What has not been sent, if anything.
    pub(super) fn take_rest(&mut self) -> Option<Self> {
        (!self.is_sent()).then(|| std::mem::replace(self, Self::new(Body::empty())))
    }

    /// The head's buffer, once it is sent.
    pub(super) fn take_head_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    /// Sends as much as the upstream takes and the body has.
    pub(super) fn poll_send<W: AsyncWrite + Unpin>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            // The first piece goes out together with the head.
            let waits_for_body = self.poll_more(cx)?.is_pending();
            ready!(self.poll_write(io, cx)).map_err(SendError::Io)?;
            if waits_for_body || self.body.is_none() {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(SendError::Io)?;
                self.is_to_be_flushed = false;
                return if waits_for_body { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    /// Takes the next piece of the body, if there is room for it.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        while let (Some(body), true) = (&mut self.body, self.data.is_empty()) {
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.add(data)?,
                    Err(frame) => self.end(frame.into_trailers().ok())?,
                },
                Some(Err(_)) => return Poll::Ready(Err(SendError::Body)),
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn add(&mut self, data: Bytes) -> Result<(), SendError> {
        if let BodyLength::Known(_) = self.length {
            self.left = self.left.checked_sub(data.len() as u64).ok_or(SendError::Body)?;
        }
        // An empty chunk would be the last.
        if !data.is_empty() {
            self.data = data;
            self.add_chunk_size();
        }
        // Of a known length the end is known, too.
        if self.length != BodyLength::Unknown && self.left == 0 {
            self.body = None;
        }
        Ok(())
    }

    fn add_chunk_size(&mut self) {
        if self.length == BodyLength::Unknown {
            self.before.extend_from_slice(format!("{:x}\r\n", self.data.len()).as_bytes());
            self.after = b"\r\n";
        }
    }

    /// Dropping the body tells who watches its progress.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), SendError> {
        self.body = None;
        match self.length {
            BodyLength::Unknown => {
                self.before.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    Http1HeaderWriter(&mut self.before).copy(name, value);
                }
                self.before.extend_from_slice(b"\r\n");
                Ok(())
            }
            _ if self.left > 0 => Err(SendError::Body),
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
                // Most requests are a head alone, which needs no list.
                ready!(Pin::new(&mut *io).poll_write(cx, &self.head[self.written..]))?
            } else {
                let pieces = [&*self.head, &*self.before, &*self.data, self.after];
                let mut slices = &mut pieces.map(IoSlice::new)[..];
                IoSlice::advance_slices(&mut slices, self.written);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_begun = true;
            self.is_to_be_flushed = true;
            self.written += written;
        }
        self.head.clear();
        self.before.clear();
        self.data = Bytes::new();
        self.after = b"";
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn unwritten(&self) -> usize {
        self.head.len() + self.payload_len() - self.written
    }

    /// How long what follows the head is.
    fn payload_len(&self) -> usize {
        self.before.len() + self.data.len() + self.after.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::AsyncReadExt;

    use super::*;

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    fn data(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn unknown(pieces: Vec<Piece>) -> Body {
        Body::new(StreamBody::new(futures_util::stream::iter(pieces)))
    }

    /// What arrives, through a pipe that takes `room` bytes at a time.
    async fn sent(body: Body, room: usize) -> (String, bool) {
        let (mut here, mut there) = tokio::io::duplex(room);
        let mut sending = RequestWriter::new(body);
        sending.begin(b"head ".to_vec());
        let sender = async move {
            let sent = std::future::poll_fn(|cx| sending.poll_send(&mut here, cx)).await.is_ok();
            assert_eq!(sent, sending.is_sent() && sending.take_rest().is_none());
            sent
        };
        let mut said = String::new();
        let (sent, read) = tokio::join!(sender, there.read_to_string(&mut said));
        read.expect("text");
        (said, sent)
    }

    #[tokio::test]
    async fn bodies_are_framed_however_little_is_taken_at_once() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("7"))]);
        for room in [1, 3, 4096] {
            assert_eq!(sent(Body::empty(), room).await, ("head ".to_owned(), true));
            assert_eq!(sent(Body::from("body"), room).await, ("head body".to_owned(), true));
            let pieces = vec![data("one"), data(""), data("and a second one")];
            let framed = "head 3\r\none\r\n10\r\nand a second one\r\n0\r\n\r\n".to_owned();
            assert_eq!(sent(unknown(pieces), room).await, (framed, true));
            let pieces = vec![data("one"), Ok(Frame::trailers(trailers.clone()))];
            let framed = "head 3\r\none\r\n0\r\netag: 7\r\n\r\n".to_owned();
            assert_eq!(sent(unknown(pieces), room).await, (framed, true));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_look_whole() {
        let pieces = vec![data("one"), Err(std::io::ErrorKind::BrokenPipe.into())];
        assert_eq!(sent(unknown(pieces), 4096).await, ("head 3\r\none\r\n".to_owned(), false));
    }

    /// Takes nothing, or all at once, and holds it back until it is flushed, which takes a while.
    #[derive(Default)]
    struct Buffered {
        is_broken: bool,
        held: Vec<u8>,
        flushes: usize,
        sent: Vec<u8>,
    }

    impl AsyncWrite for Buffered {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.held.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes % 2 == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let held = std::mem::take(&mut self.held);
            self.sent.extend(held);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_held_back_is_not_sent() {
        let (mut io, mut sending) = (Buffered::default(), RequestWriter::new(Body::from("body")));
        sending.begin(b"head ".to_vec());
        let mut polls = 0;
        while !sending.is_sent() {
            polls += 1;
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = sending.poll_send(&mut io, &mut cx);
        }
        assert_eq!((polls, &*io.sent), (2, &b"head body"[..]));
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_costs_no_byte() {
        let end = unknown(vec![]);
        for (body, framed) in [
            (Body::empty(), ""),
            (Body::from("body"), "body"),
            (end, "0\r\n\r\n"),
            (unknown(vec![data("one"), data("two")]), "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        ] {
            let mut sending = RequestWriter::new(body);
            let mut broken = Buffered { is_broken: true, ..Buffered::default() };
            for _ in 0..2 {
                sending.begin(b"a longer head ".to_vec());
                let sent = std::future::poll_fn(|cx| sending.poll_send(&mut broken, cx)).await;
                assert!(sent.is_err() && !sending.has_begun());
            }
            let mut io = Buffered::default();
            sending.begin(b"head ".to_vec());
            assert!(std::future::poll_fn(|cx| sending.poll_send(&mut io, cx)).await.is_ok());
            assert_eq!(io.sent, format!("head {framed}").as_bytes());
        }
    }

    #[tokio::test]
    async fn a_length_is_kept_to() {
        for (announced, body, sent) in [(3, "abc", true), (4, "abc", false), (2, "abc", false)] {
            let mut sending = RequestWriter::new(unknown(vec![data(body)]));
            (sending.length, sending.left) = (BodyLength::Known(announced), announced);
            sending.begin(b"head ".to_vec());
            let mut io = Buffered::default();
            let whole = std::future::poll_fn(|cx| sending.poll_send(&mut io, cx)).await.is_ok();
            assert_eq!(whole, sent, "{announced}");
        }
    }

    #[test]
    fn what_has_not_begun_can_go_another_way() {
        let mut sending = RequestWriter::new(Body::from("body"));
        sending.begin(b"head".to_vec());
        let (body, length) = sending.take_body().expect("untouched");
        assert_eq!(length, BodyLength::Known(4));
        sending.put_back(body);
        assert!(!sending.is_sent() && !sending.has_begun());
    }
}
