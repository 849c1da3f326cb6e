//! An HTTP/1.1 connection: sending a request and receiving the response head.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, WriteHalf};
use tokio::task::unconstrained;

use super::error::Http1Error;
use super::header_case::capitalize_names;
use super::io::{MaybeTlsStream, UpgradedConnection};
use super::request_head::write_head;
use super::request_writer::RequestWriter;
use super::response_head::{ResponseHead, parse_response_head};
use crate::proxy::request_head::RequestHead;
use crate::proxy::upstream::settings::HeaderCase;

/// An HTTP/1.1 connection, which carries one request at a time.
pub(crate) struct Http1Connection {
    io: MaybeTlsStream,
    header_case: HeaderCase,
    /// Received bytes that are not parsed yet.
    pub(super) buffer: BytesMut,
    /// Size of the next read.
    read_size: usize,
    /// Reused for the head of the next request.
    head_buffer: Vec<u8>,
    /// True if a byte has been received since the last request was started.
    pub(crate) has_response_bytes: bool,
}

impl Http1Connection {
    pub(crate) fn new(io: MaybeTlsStream, header_case: HeaderCase) -> Self {
        Self {
            io,
            header_case,
            buffer: BytesMut::new(),
            read_size: MIN_READ_SIZE,
            head_buffer: Vec::new(),
            has_response_bytes: false,
        }
    }

    /// Sends a request and waits for the response head.
    ///
    /// If the response arrives before the request is sent, the rest of the request stays in `writer`.
    pub(crate) async fn send_request(
        &mut self,
        head: &impl RequestHead,
        writer: &mut RequestWriter,
        default_host: &str,
    ) -> Result<ResponseHead, Http1Error> {
        let mut head_buffer = std::mem::take(&mut self.head_buffer);
        head_buffer.clear();
        write_head(head, writer.length, default_host, &mut head_buffer);
        if self.header_case == HeaderCase::Title {
            capitalize_names(&mut head_buffer);
        }
        writer.header_case = self.header_case;
        writer.start(head_buffer);
        self.has_response_bytes = false;
        let mut write_error = None;
        let response = poll_fn(|cx| {
            if write_error.is_none() && !writer.is_sent() {
                match writer.poll_send(&mut self.io, cx) {
                    // TLS may have sent a part of the request although the write failed.
                    Poll::Ready(Err(Http1Error::Io(error))) if !writer.has_begun && !self.io.is_tls() => {
                        return Poll::Ready(Err(Http1Error::NotSent(error)));
                    }
                    // The upstream may have sent a response before it closed the connection.
                    Poll::Ready(Err(Http1Error::Io(error))) => write_error = Some(error),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let response = ready!(self.poll_head(head.control_data().method, cx));
            Poll::Ready(match write_error.take() {
                None => response,
                Some(error) if !self.has_response_bytes => Err(Http1Error::Io(error)),
                Some(_) => response.map(|head| ResponseHead { keep_alive: false, ..head }),
            })
        })
        .await?;
        if writer.is_sent() {
            self.head_buffer = std::mem::take(&mut writer.head);
        }
        Ok(response)
    }

    /// Receives the head of the final response to `method`. Interim responses are dropped (RFC 9110,
    /// section 15.2).
    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Http1Error>> {
        loop {
            while !self.buffer.is_empty() {
                match parse_response_head(&mut self.buffer, method)? {
                    Some(head) if head.is_interim() => {}
                    Some(head) => return Poll::Ready(Ok(head)),
                    None => break,
                }
            }
            if !ready!(self.poll_read(cx))? {
                return Poll::Ready(Err(Http1Error::Closed));
            }
        }
    }

    /// Reads into the buffer. Returns `false` at the end of the stream.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Http1Error>> {
        if self.buffer.capacity() - self.buffer.len() < self.read_size / 4 {
            self.buffer.reserve(self.read_size);
        }
        let free = self.buffer.capacity() - self.buffer.len();
        let read = pin!(self.io.read_buf(&mut self.buffer)).poll(cx);
        let length = ready!(read)?;
        self.has_response_bytes |= length > 0;
        if length == free {
            self.read_size = (self.read_size * 2).min(MAX_READ_SIZE);
        }
        Poll::Ready(Ok(length > 0))
    }

    /// Returns `true` if a request can be sent: the upstream has neither closed the connection nor sent
    /// unsolicited data.
    ///
    /// It makes a system call only if the runtime has seen the socket become readable.
    pub(crate) fn is_usable(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // A task whose cooperative budget is used up would always see a pending read.
        let read = unconstrained(poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut buffer)));
        let is_silent = pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        is_silent && self.buffer.is_empty()
    }

    /// Releases the memory that a large request or response needed.
    pub(crate) fn shrink(&mut self) {
        if self.read_size > MIN_READ_SIZE {
            self.read_size = MIN_READ_SIZE;
            self.buffer = BytesMut::new();
        }
        self.head_buffer.clear();
        self.head_buffer.shrink_to(MIN_READ_SIZE);
    }

    /// Splits off the write half. The connection can still be read.
    pub(super) fn split(self) -> (Self, WriteHalf<Box<MaybeTlsStream>>) {
        let (read_half, write_half) = self.io.split();
        (Self { buffer: self.buffer, ..Self::new(read_half, self.header_case) }, write_half)
    }

    /// Returns the connection after a 101 response.
    pub(super) fn into_upgraded(self) -> UpgradedConnection {
        UpgradedConnection { unread: self.buffer, io: self.io }
    }
}

/// Initial size of a read, in bytes. Most responses are smaller. Each read that fills the buffer doubles it.
const MIN_READ_SIZE: usize = 8 * 1024;
const MAX_READ_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::coop::consume_budget;

    use super::*;

    #[tokio::test]
    async fn unsolicited_data_is_seen_without_cooperative_budget() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (upstream, _) = listener.accept().await.unwrap();
        let mut connection = Http1Connection::new(MaybeTlsStream::Plain(stream), HeaderCase::Lower);
        assert!(connection.is_usable());
        drop(upstream);
        let MaybeTlsStream::Plain(stream) = &connection.io else { unreachable!() };
        stream.readable().await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        while pin!(consume_budget()).poll(&mut cx).is_ready() {}
        assert!(!connection.is_usable());
    }
}
