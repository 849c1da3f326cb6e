//! A connection's bytes, in the clear or through TLS, and where its [`ConnectionState`] is noted and its
//! orders are followed.
//!
//! hyper closes an idle connection that is told to finish although a request may already wait in the
//! socket, or be read in part. So it isn't told: instead this end of the connection says that the client
//! has closed, and only after a last look at the socket and, by taking HTTP/1.1 apart, at hyper's buffer, when
//! nothing of a request has come.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::ConnectionContext;
use super::connection_state::{CloseMode, ConnectionState, Phase};

/// What a connection reads from and writes to.
pub(super) struct MonitoredIo {
    stream: MaybeTlsStream,
    client: Arc<ConnectionContext>,
    /// Whom an order wakes.
    waits: Option<Waker>,
    /// What was read already, and is to be read again.
    unread: Bytes,
    /// Whether nobody above has a buffer in which the beginning of a request may be.
    rests: bool,
    /// How much may come after our last word.
    lingers_for: usize,
}

pub(super) enum MaybeTlsStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl MonitoredIo {
    pub(super) fn new(stream: MaybeTlsStream, client: Arc<ConnectionContext>) -> Self {
        Self { stream, client, waits: None, unread: Bytes::new(), rests: false, lingers_for: LINGERS_FOR }
    }

    /// Whether the client begins as HTTP/2 does where nothing was agreed on before (RFC 9113, section
    /// 3.3). Nothing is lost of what it said.
    pub(super) async fn detect_http2_preface(&mut self) -> io::Result<bool> {
        let mut sniffed = [0; PREFACE.len()];
        let mut len = 0;
        while len < PREFACE.len() && PREFACE.starts_with(&sniffed[..len]) {
            match self.read(&mut sniffed[len..]).await? {
                0 => break,
                read => len += read,
            }
        }
        self.unread = Bytes::copy_from_slice(&sniffed[..len]);
        Ok(sniffed == PREFACE)
    }

    /// Whether another request begins, for which it waits. In the meantime there is no buffer.
    pub(super) async fn wait_for_next_request(&mut self) -> io::Result<bool> {
        if !self.unread.is_empty() {
            self.rests = false;
            return Ok(true);
        }
        let begun = poll_fn(|cx| {
            let mut begin = [0; BEGIN];
            let mut buffer = ReadBuf::new(&mut begin);
            ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer))?;
            Poll::Ready(io::Result::Ok(Bytes::copy_from_slice(buffer.filled())))
        });
        self.unread = begun.await?;
        self.rests = false;
        Ok(!self.unread.is_empty())
    }

    /// From now on this is read before anything else.
    pub(super) fn unread(&mut self, unread: &[u8]) {
        self.rests = true;
        self.unread = Bytes::copy_from_slice(unread);
    }

    fn activity(&self) -> &ConnectionState {
        &self.client.activity
    }

    fn check(&self) -> io::Result<()> {
        if self.activity().close_requested(CloseMode::Abort) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Whether this is to end now: nothing of a request has been read, nothing of an answer is left, and
    /// nothing waits in the socket.
    fn should_close(&self) -> bool {
        let activity = self.activity();
        activity.close_requested(CloseMode::CloseWhenIdle)
            && matches!(activity.phase(), Phase::New | Phase::Idle)
            && !activity.is_write_waiting()
            && self.stream.has_nothing_to_read()
    }

    /// Whether hyper may have read the beginning of another request together with the last one.
    fn may_be_read_ahead(&self) -> bool {
        let activity = self.activity();
        let can_rest = !activity.is_multiplexed() && !activity.is_upgradeable() && !activity.has_a_body();
        can_rest && !self.rests && activity.phase() == Phase::Idle
    }

    /// Notes whether the client takes what is written.
    fn record_write<T>(&mut self, cx: &Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity().waits_to_write(written.is_pending());
        if written.is_pending() {
            self.register_waker(cx);
            // An order that came before the waker was there.
            self.check()?;
        }
        written
    }

    /// Whether a request of HTTP/1.1 has been read to its end, and nothing more is read before its answer.
    fn waits_for_answer(&self) -> bool {
        let activity = self.activity();
        activity.phase() == Phase::Request && !activity.has_a_body() && !activity.is_multiplexed()
    }

    /// Fails if the client has left: nobody waits for the answer.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.register_waker(cx);
        self.check()?;
        let socket = self.stream.socket();
        while socket.poll_read_ready(cx)?.is_ready() {
            let looked = socket.try_io(Interest::READABLE, || {
                let (_, read) = recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
                Ok(read)
            });
            match looked {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                // The next request.
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Has orders wake who waits here: nearly always the task that they wake already.
    fn register_waker(&mut self, cx: &Context<'_>) {
        if !self.waits.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waits = Some(cx.waker().clone());
            self.activity().register_waker(cx.waker());
        }
    }
}

impl Drop for MonitoredIo {
    /// What a client hasn't taken that is sent away, or whose tunnel breaks off, isn't kept for it by the
    /// system either: there it would cost memory for as long as the client likes.
    fn drop(&mut self) {
        let activity = self.activity();
        let is_cut = activity.close_requested(CloseMode::Abort) || activity.phase() == Phase::Tunnel;
        if activity.close_requested(CloseMode::Reset) || is_cut && activity.is_write_waiting() {
            let _ = self.stream.socket().set_zero_linger();
        }
    }
}

impl AsyncRead for MonitoredIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        wire.check()?;
        if !wire.unread.is_empty() {
            let len = wire.unread.len().min(buffer.remaining());
            buffer.put_slice(&wire.unread.split_to(len));
            wire.activity().received();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if wire.stream.poll_read(cx, buffer)?.is_ready() {
            if buffer.filled().len() > before {
                wire.activity().received();
            } else {
                // The client has said its last word, too.
                wire.lingers_for = 0;
            }
            return Poll::Ready(Ok(()));
        }
        wire.register_waker(cx);
        wire.check()?;
        if wire.should_close() {
            if wire.may_be_read_ahead() {
                // Taken apart, it shows.
                wire.activity().may_rest_now();
                return Poll::Pending;
            }
            wire.lingers_for = 0;
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for MonitoredIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = match &mut wire.stream {
            MaybeTlsStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            MaybeTlsStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        wire.record_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        // For the system a list costs more than it costs us to copy a little.
        let mut whole = [0; SMALL];
        if let Some(whole) = coalesce(slices, &mut whole) {
            return Pin::new(wire).poll_write(cx, whole);
        }
        let written = match &mut wire.stream {
            MaybeTlsStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            MaybeTlsStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        wire.record_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            MaybeTlsStream::Plain(stream) => stream.is_write_vectored(),
            MaybeTlsStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if let MaybeTlsStream::Tls(stream) = &mut wire.stream {
            let flushed = Pin::new(stream).poll_flush(cx);
            return wire.record_write(cx, flushed);
        }
        // There is nothing to flush: what `poll_write` has taken is the system's. But hyper comes by
        // whenever it has nothing else to do.
        if wire.waits_for_answer() { wire.watch_client(cx) } else { Poll::Ready(wire.check()) }
    }

    /// Closing a socket with something unread in it resets the connection, and the client may lose an
    /// answer that it hasn't read yet, such as why its body was refused. So that is read and dropped
    /// first, within reason.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        wire.check()?;
        let shut = match &mut wire.stream {
            MaybeTlsStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            MaybeTlsStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        ready!(wire.record_write(cx, shut))?;
        match wire.activity().phase() {
            // The other direction may go on.
            Phase::Tunnel => Poll::Ready(Ok(())),
            _ => wire.poll_linger(cx),
        }
    }
}

impl MonitoredIo {
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.activity().closes();
        let mut dropped = [0; 4096];
        while self.lingers_for > 0 {
            let mut buffer = ReadBuf::new(&mut dropped);
            let read = self.stream.poll_read(cx, &mut buffer);
            if read.is_pending() {
                self.register_waker(cx);
                self.check()?;
                return Poll::Pending;
            }
            self.lingers_for = match (read, buffer.filled().len()) {
                (Poll::Ready(Ok(())), read) if read > 0 => self.lingers_for.saturating_sub(read),
                _ => 0,
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl MaybeTlsStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Asks the system, not what it told us last: bytes may have come in since.
    fn has_nothing_to_read(&self) -> bool {
        let mut byte = [0];
        let read = recv(self.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(read, Ok((_, read)) if read > 0)
    }
}

/// All slices as one, if that is small.
fn coalesce<'a>(slices: &[IoSlice<'_>], whole: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut len = 0;
    for slice in slices {
        whole.get_mut(len..len + slice.len())?.copy_from_slice(slice);
        len += slice.len();
    }
    Some(&whole[..len])
}

/// What is written at once without a list, in bytes: most small answers with their heads.
const SMALL: usize = 1024;

/// RFC 9113, section 3.4.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a request is read first of a connection that has rested, in bytes: all of most.
const BEGIN: usize = 2048;

/// How many bytes are read and dropped at the end of a connection.
const LINGERS_FOR: usize = 1024 * 1024;
