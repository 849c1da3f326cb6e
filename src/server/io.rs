//! Socket IO of a connection, plain or over TLS.
//!
//! [`MonitoredIo`] records progress in the [`ConnectionState`] and carries out close requests.
//!
//! hyper's own graceful shutdown closes an idle connection even if a request is already waiting in the
//! socket or has been read in part. An idle HTTP/1.1 connection is therefore closed from below: the read
//! side reports end of stream, but only after a last look at the socket and, by taking hyper's
//! connection apart, at its read buffer.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::admission::{self, Limit};
use super::connection_context::ConnectionContext;
use super::connection_state::{CloseMode, ConnectionState, Phase};
use super::http2_input::Http2Input;
use super::malformed_head;
use super::socket::Socket;

/// Stream of a connection that records its progress and carries out close requests.
pub(super) struct MonitoredIo {
    stream: MaybeTlsStream,
    context: Arc<ConnectionContext>,
    /// Waker registered for close requests.
    waker: Option<Waker>,
    /// Bytes that were read before, to be returned by the next reads.
    unread: Bytes,
    /// True while no hyper connection uses the stream, so that no buffer above can hold part of a request.
    is_detached: bool,
    /// Number of bytes received of a head that is not complete.
    head_len: usize,
    /// The start of these bytes, and what came with them.
    head: Vec<u8>,
    /// Bytes that were written and may be hyper's response to a head that it cannot parse.
    withheld: Vec<u8>,
    http2_input: Http2Input,
    /// Number of bytes that may still be read and discarded before the socket is closed.
    linger_budget: usize,
}

pub(super) enum MaybeTlsStream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl MonitoredIo {
    pub(super) fn new(stream: MaybeTlsStream, context: Arc<ConnectionContext>) -> Self {
        Self {
            stream,
            context,
            waker: None,
            unread: Bytes::new(),
            is_detached: false,
            head_len: 0,
            head: Vec::new(),
            withheld: Vec::new(),
            http2_input: Http2Input::new(HTTP2_PREFACE.len()),
            linger_budget: MAX_LINGER_BYTES,
        }
    }

    /// Returns `true` if the client starts with the HTTP/2 preface (prior knowledge, RFC 9113 section 3.3).
    ///
    /// The bytes read for that purpose are returned again by the next read.
    pub(super) async fn detect_http2_preface(&mut self) -> io::Result<bool> {
        let mut start = [0; HTTP2_PREFACE.len()];
        let mut len = 0;
        while len < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&start[..len]) {
            match self.read(&mut start[len..]).await? {
                0 => break,
                read => len += read,
            }
        }
        self.replay(Bytes::copy_from_slice(&start[..len]));
        Ok(start == HTTP2_PREFACE)
    }

    /// Waits for the first bytes of another request, without holding a buffer.
    ///
    /// Returns `false` if the connection ends first.
    pub(super) async fn wait_for_next_request(&mut self) -> io::Result<bool> {
        if self.unread.is_empty() {
            let bytes = poll_fn(|cx| self.poll_first_bytes(cx)).await?;
            self.replay(bytes);
        }
        self.is_detached = false;
        Ok(!self.unread.is_empty())
    }

    fn poll_first_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut bytes = [0; FIRST_READ_SIZE];
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
    }

    /// Returns bytes that were read again by the next reads, which record them again.
    fn replay(&mut self, bytes: Bytes) {
        self.unread = bytes;
        self.head_len = 0;
        self.head.clear();
    }

    /// Detaches the stream from a hyper connection whose read buffer held `unread`.
    pub(super) fn unread(&mut self, unread: &[u8]) {
        self.is_detached = true;
        self.head = Vec::new();
        self.replay(Bytes::copy_from_slice(unread));
    }

    /// Returns the head that hyper could not parse, as far as it was kept. hyper's read buffer held `rest`.
    pub(super) fn last_head<'b>(&'b self, rest: &'b [u8]) -> &'b [u8] {
        let parsed = self.head_len.saturating_sub(rest.len());
        let is_unparsed = rest.split(|&byte| byte == b'\n').next().is_some_and(is_request_line);
        if parsed == 0 || is_unparsed {
            return rest;
        }
        // hyper found the error when it had removed the head from its buffer.
        let parsed = &self.head[..parsed.min(self.head.len())];
        let end = parsed.trim_ascii_end().len();
        let start = memchr::memmem::rfind(&parsed[..end], b"\r\n\r\n").map_or(0, |blank| blank + 4);
        &parsed[start..]
    }

    /// Reads the rest of a head, as far as it has arrived: hyper may reject a head by its first line.
    pub(super) async fn read_rest_of_head(&mut self, head: &mut Vec<u8>) {
        poll_fn(|cx| {
            self.poll_rest_of_head(cx, head);
            Poll::Ready(())
        })
        .await;
    }

    fn poll_rest_of_head(&mut self, cx: &mut Context<'_>, head: &mut Vec<u8>) {
        let mut bytes = [0; FIRST_READ_SIZE];
        while head.len() < MAX_KEPT_HEAD && memchr::memmem::find(head, b"\r\n\r\n").is_none() {
            let mut buffer = ReadBuf::new(&mut bytes);
            let result = self.stream.poll_read(cx, &mut buffer);
            if !matches!(result, Poll::Ready(Ok(()))) || buffer.filled().is_empty() {
                return;
            }
            head.extend_from_slice(buffer.filled());
        }
    }

    /// Returns the bytes that were withheld from the client, if there are any.
    pub(super) fn take_withheld(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.withheld)).filter(|withheld| !withheld.is_empty())
    }

    /// Withholds a write that may be hyper's response to a head that it cannot parse.
    ///
    /// Such a response is written while no request is in flight. Then hyper shuts down the stream, and
    /// `serve_http1` decides what is sent. If hyper does anything else, the response is that of a service.
    fn withhold(&mut self, bytes: &[u8]) -> bool {
        let is_withheld = malformed_head::is_error_response(bytes)
            && matches!(self.state().phase(), Phase::Head | Phase::Idle)
            && !self.state().is_http2()
            && !self.state().is_upgrade_enabled();
        if is_withheld {
            self.withheld.extend_from_slice(bytes);
        }
        is_withheld
    }

    /// Writes these bytes and shuts the stream down.
    pub(super) async fn finish(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.withheld = bytes;
        poll_fn(|cx| self.poll_withheld(cx)).await?;
        self.shutdown().await
    }

    /// Writes the bytes that were withheld.
    fn poll_withheld(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.withheld.is_empty() {
            let result = self.stream.poll_write(cx, &self.withheld);
            let written = ready!(self.record_written(cx, result))?;
            self.withheld.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Records that bytes were read. Fails if they are part of a head, and too many heads are unfinished.
    fn record_read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if self.state().is_http2() {
            return self.record_http2_read(bytes);
        }
        if self.state().phase() != Phase::Head {
            self.head_len = 0;
            self.head.clear();
        }
        self.state().bytes_received();
        if self.state().phase() != Phase::Head {
            return Ok(());
        }
        self.head_len += bytes.len();
        let kept = bytes.len().min(MAX_KEPT_HEAD - self.head.len());
        self.head.extend_from_slice(&bytes[..kept]);
        self.reserve_head(self.head_len)
    }

    fn record_http2_read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let block_len = self.http2_input.record(bytes);
        if block_len == 0 {
            self.context.release_head();
            return Ok(());
        }
        self.reserve_head(block_len)
    }

    /// Reserves memory for an unfinished head of this size, or aborts the connection.
    fn reserve_head(&self, size: usize) -> io::Result<()> {
        if self.context.reserve_head(size) {
            return Ok(());
        }
        admission::record(Limit::Heads);
        self.state().request_close(CloseMode::Abort);
        self.check_abort()
    }

    fn state(&self) -> &ConnectionState {
        &self.context.state
    }

    /// Fails if the connection is to be aborted.
    fn check_abort(&self) -> io::Result<()> {
        if self.state().is_close_requested(CloseMode::Abort) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Returns `true` if the connection is to be closed when idle, and is: no part of a request has been
    /// read or waits in the socket, and no part of a response is left to write.
    fn should_close(&self) -> bool {
        let state = self.state();
        state.is_close_requested(CloseMode::CloseWhenIdle)
            && matches!(state.phase(), Phase::New | Phase::Idle)
            && !state.is_write_blocked()
            && self.stream.is_socket_empty()
    }

    /// Returns `true` if hyper's read buffer may hold the start of a pipelined request.
    fn may_be_pipelined(&self) -> bool {
        let state = self.state();
        let can_detach = !state.is_http2() && !state.is_upgrade_enabled() && !state.is_body_pending();
        can_detach && !self.is_detached && state.phase() == Phase::Idle
    }

    /// Records the bytes of a write, and whether it is blocked on the client.
    fn record_written(
        &mut self,
        cx: &Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = result {
            self.state().bytes_written(count);
        }
        self.record_write(cx, result)
    }

    /// Records whether a write is blocked on the client.
    fn record_write<T>(&mut self, cx: &Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.state().set_write_blocked(result.is_pending());
        if result.is_pending() {
            self.register_waker(cx);
            // A request to abort may have come before the waker was registered.
            self.check_abort()?;
        }
        result
    }

    /// Returns `true` if an HTTP/1.1 request was read completely and its response has not been sent.
    fn is_awaiting_response(&self) -> bool {
        let state = self.state();
        state.phase() == Phase::Request && !state.is_body_pending() && !state.is_http2()
    }

    /// Fails if the client has closed the connection, so that the request is cancelled.
    fn check_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.register_waker(cx);
        self.check_abort()?;
        let socket = self.stream.socket();
        while socket.poll_read_ready(cx)?.is_ready() {
            let peeked = socket.try_io(Interest::READABLE, || {
                let (_, len) = recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
                Ok(len)
            });
            match peeked {
                Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
                // A pipelined request.
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Registers the current task to be woken by close requests. Usually it is registered already.
    fn register_waker(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.state().register_waker(cx.waker());
        }
    }

    /// Reads and discards what the client still sends, until its end of stream or the limit.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().shutdown_started();
        let mut discarded = [0; 4096];
        while self.linger_budget > 0 {
            let mut buffer = ReadBuf::new(&mut discarded);
            let result = self.stream.poll_read(cx, &mut buffer);
            if result.is_pending() {
                self.register_waker(cx);
                self.check_abort()?;
                return Poll::Pending;
            }
            let len = buffer.filled().len();
            let is_end = matches!(result, Poll::Ready(Err(_))) || len == 0;
            self.linger_budget = if is_end { 0 } else { self.linger_budget.saturating_sub(len) };
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for MonitoredIo {
    /// Discards unsent data with `SO_LINGER` 0 when the connection is reset, or is aborted during a write.
    ///
    /// Otherwise the kernel would keep buffering it for a client that never reads.
    fn drop(&mut self) {
        let state = self.state();
        let is_cut = state.is_close_requested(CloseMode::Abort) || state.phase() == Phase::Tunnel;
        if state.is_close_requested(CloseMode::Reset) || is_cut && state.is_write_blocked() {
            self.stream.socket().set_zero_linger();
        }
    }
}

impl AsyncRead for MonitoredIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_abort()?;
        ready!(this.poll_withheld(cx))?;
        let len_before = buffer.filled().len();
        if !this.unread.is_empty() {
            let len = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread.split_to(len));
            return Poll::Ready(this.record_read(&mut buffer.filled_mut()[len_before..]));
        }
        if this.stream.poll_read(cx, buffer)?.is_ready() {
            let received = &mut buffer.filled_mut()[len_before..];
            if !received.is_empty() {
                return Poll::Ready(this.record_read(received));
            }
            // End of stream: there is nothing to discard before the close.
            this.linger_budget = 0;
            return Poll::Ready(Ok(()));
        }
        this.register_waker(cx);
        this.check_abort()?;
        if !this.should_close() {
            return Poll::Pending;
        }
        if this.may_be_pipelined() {
            // `serve_http1` takes hyper's connection apart and polls again with the rest of its buffer.
            this.state().release_buffers();
            return Poll::Pending;
        }
        this.linger_budget = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MonitoredIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_withheld(cx))?;
        if this.withhold(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = this.stream.poll_write(cx, bytes);
        this.record_written(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A vectored system call costs more than a copy of this size.
        let mut buffer = [0; COALESCE_LIMIT];
        if let Some(bytes) = coalesce(slices, &mut buffer) {
            return Pin::new(this).poll_write(cx, bytes);
        }
        ready!(this.poll_withheld(cx))?;
        let result = match &mut this.stream {
            MaybeTlsStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            MaybeTlsStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.record_written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let MaybeTlsStream::Tls(stream) = &mut this.stream {
            let result = Pin::new(stream).poll_flush(cx);
            return this.record_write(cx, result);
        }
        // A socket has nothing to flush, but hyper flushes on every poll while it waits for the response.
        Poll::Ready(if this.is_awaiting_response() { this.check_client(cx) } else { this.check_abort() })
    }

    /// Shuts down the server's side, then discards what the client still sends, up to a limit.
    ///
    /// Closing a socket with unread data resets the connection, and the reset can make the client lose a
    /// response that it has not read yet, such as the rejection of its body.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_abort()?;
        if !this.withheld.is_empty() {
            // `serve_http1` shuts the stream down later.
            return Poll::Ready(Ok(()));
        }
        let result = match &mut this.stream {
            MaybeTlsStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTlsStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        ready!(this.record_write(cx, result))?;
        match this.state().phase() {
            // The client's direction of the tunnel stays open.
            Phase::Tunnel => Poll::Ready(Ok(())),
            _ => this.poll_linger(cx),
        }
    }
}

impl MaybeTlsStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Returns `true` if no byte waits in the socket's receive buffer.
    ///
    /// Peeks instead of using tokio's readiness, which may be out of date.
    fn is_socket_empty(&self) -> bool {
        let mut byte = [0];
        let peeked = recv(self.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Ok((_, len)) if len > 0)
    }
}

/// Copies all slices into `buffer`, or returns `None` if they do not fit.
fn coalesce<'a>(slices: &[IoSlice<'_>], buffer: &'a mut [u8; COALESCE_LIMIT]) -> Option<&'a [u8]> {
    let mut len = 0;
    for slice in slices {
        buffer.get_mut(len..len + slice.len())?.copy_from_slice(slice);
        len += slice.len();
    }
    Some(&buffer[..len])
}

/// Largest vectored write that is copied into one buffer, in bytes: most small responses with their heads.
const COALESCE_LIMIT: usize = 1024;

fn is_request_line(line: &[u8]) -> bool {
    memchr::memmem::find(line, b" HTTP/").is_some()
}

/// Number of bytes of a head that are kept for the response to one that hyper cannot parse.
const MAX_KEPT_HEAD: usize = 8 * 1024;

/// Connection preface of an HTTP/2 client (RFC 9113 section 3.4).
const HTTP2_PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Size of the first read after a connection was idle, in bytes. Most requests fit.
const FIRST_READ_SIZE: usize = 2048;

/// Largest number of bytes that are read and discarded before a socket is closed.
const MAX_LINGER_BYTES: usize = 1024 * 1024;
