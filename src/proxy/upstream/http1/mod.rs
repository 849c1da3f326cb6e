//! HTTP/1.1 towards upstreams (RFC 9112): one connection, one request at a time.
//!
//! No task drives a connection. Whoever sends a request drives it until the answer's head is there, and
//! whoever reads the answer's body after that, so a request wakes nobody but its own task, and a
//! connection that waits for its next request costs its buffers alone. There is one exception: where an
//! answer begins before all of the request has been sent, a task sends the rest, for the client may not
//! read before it has sent everything.
//!
//! What comes from an upstream is held to the letter where another reading could hide a second message:
//! framing that contradicts itself, a coding besides chunks, a chunk without its line ends. After the end
//! of an answer nothing may come; if something does, the connection is closed and not used again.

mod body;
mod framing;
mod head;
mod io;
mod request_writer;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::task::unconstrained;

pub(in crate::proxy) use self::body::Http1Body;
pub(super) use self::io::MaybeTlsStream;
pub(in crate::proxy) use self::io::UpgradedIo;
pub(super) use self::request_writer::RequestWriter;

use self::head::ResponseHead;
use self::request_writer::SendError;
use super::connect::PeerAddr;
use crate::proxy::request_head::RequestHead;

/// A connection.
pub(in crate::proxy) struct Http1Connection {
    io: MaybeTlsStream,
    /// What has come and is not used yet.
    read: BytesMut,
    /// How much is read at once.
    read_size: usize,
    /// Kept for the next request's head.
    head_buffer: Vec<u8>,
    /// Whether a byte has come since the last request began.
    has_answered: bool,
    pub(super) peer: PeerAddr,
}

/// What is wrong with a request's way out, or with its answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum Http1Error {
    #[error("the request's body broke off")]
    Body,
    #[error("a chunk of the answer is malformed")]
    Chunk,
    #[error("the connection was closed in the middle of an answer, or before it")]
    Closed,
    #[error("the answer is in an unknown transfer coding")]
    Coding,
    #[error("the answer's head is malformed")]
    Head(#[from] httparse::Error),
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    #[error("the answer's length is no number, or several")]
    Length,
    #[error("the answer's head or trailers are too long")]
    TooLong,
    /// Nothing has been sent.
    #[error("the connection took nothing")]
    Unsent(#[source] std::io::Error),
}

impl Http1Connection {
    pub(super) fn new(io: MaybeTlsStream, peer: PeerAddr) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            read_size: READ_SIZE,
            head_buffer: Vec::new(),
            has_answered: false,
            peer,
        }
    }

    /// Sends a request, and waits for the answer's head.
    ///
    /// The answer may come before the request is sent; then the rest of it is left in `sending`.
    pub(super) async fn send_request(
        &mut self,
        head: &impl RequestHead,
        sending: &mut RequestWriter,
        own_host: &str,
    ) -> Result<ResponseHead, Http1Error> {
        let mut buffer = std::mem::take(&mut self.head_buffer);
        buffer.clear();
        head::write(head, sending.length(), own_host, &mut buffer);
        sending.begin(buffer);
        self.has_answered = false;
        let mut broken = None;
        let answer = poll_fn(|cx| {
            if broken.is_none() && !sending.is_sent() {
                match sending.poll_send(&mut self.io, cx) {
                    Poll::Ready(Err(SendError::Body)) => return Poll::Ready(Err(Http1Error::Body)),
                    // Through TLS a part may be gone although none of it seems to be.
                    Poll::Ready(Err(SendError::Io(error))) if !sending.has_begun() && !self.io.is_tls() => {
                        return Poll::Ready(Err(Http1Error::Unsent(error)));
                    }
                    // An upstream that wants no more may have said why.
                    Poll::Ready(Err(SendError::Io(error))) => broken = Some(error),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let answer = ready!(self.poll_head(head.method(), cx));
            Poll::Ready(match broken.take() {
                Some(error) if !self.has_answered => Err(Http1Error::Io(error)),
                broken => answer
                    .map(|answer| ResponseHead { persists: answer.persists && broken.is_none(), ..answer }),
            })
        });
        let answer = answer.await?;
        if sending.is_sent() {
            self.head_buffer = sending.take_head_buffer();
        }
        Ok(answer)
    }

    /// The head of the answer to a request of this method. Interim answers are passed over (RFC 9110,
    /// section 15.2).
    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Http1Error>> {
        loop {
            while !self.read.is_empty() {
                match head::parse_response_head(&mut self.read, method)? {
                    Some(answer) if answer.is_interim() => {}
                    Some(answer) => return Poll::Ready(Ok(answer)),
                    None => break,
                }
            }
            if !ready!(self.poll_read(cx))? {
                return Poll::Ready(Err(Http1Error::Closed));
            }
        }
    }

    /// Reads more. `false` if no more comes.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Http1Error>> {
        if self.read.capacity() - self.read.len() < self.read_size / 4 {
            self.read.reserve(self.read_size);
        }
        let free = self.read.capacity() - self.read.len();
        let read = pin!(self.io.read_buf(&mut self.read)).poll(cx);
        let read = ready!(read).map_err(Http1Error::Io)?;
        self.has_answered |= read > 0;
        if read == free {
            self.read_size = (self.read_size * 2).min(MOST_READ_SIZE);
        }
        Poll::Ready(Ok(read > 0))
    }

    /// Whether a byte of an answer has come since the last request began.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Whether a request may be sent. What comes unasked, a byte or the end, shows that none may.
    ///
    /// It costs a call of the system only if something has come.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // A task that has done much would be told that nothing has come, whatever has.
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buffer));
        let is_silent = pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        is_silent && self.read.is_empty()
    }

    /// Gives back the memory that a large request or answer needed.
    pub(super) fn shrink(&mut self) {
        if self.read_size > READ_SIZE {
            self.read_size = READ_SIZE;
            self.read = BytesMut::new();
        }
        self.head_buffer.clear();
        self.head_buffer.shrink_to(READ_SIZE);
    }
}

/// How much is read at once, in bytes: most answers are smaller. It grows with those that aren't.
const READ_SIZE: usize = 8 * 1024;
const MOST_READ_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test]
    async fn what_has_come_unasked_is_seen_by_who_has_done_much() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (upstream, _) = listener.accept().await.unwrap();
        let mut connection =
            Http1Connection::new(MaybeTlsStream::Plain(stream), PeerAddr { address, generation: 0 });
        assert!(connection.is_usable());
        drop(upstream);
        let MaybeTlsStream::Plain(stream) = &connection.io else { unreachable!() };
        stream.readable().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        while pin!(consume_budget()).poll(&mut cx).is_ready() {}
        assert!(!connection.is_usable());
    }
}
