//! Bidirectional byte copying after a protocol upgrade.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, OptionFuture, join, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep_until, timeout};

use super::idle_timer::to_millis;
use super::session_use::UseReporter;
use super::websocket::{self, FrameTracker};
use crate::long_lived_streams::StreamKind;
use crate::session_event::SessionEvent;

/// Reason for which the gateway closes a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// Neither side sent anything within the idle timeout.
    Idle,
    /// The session that opened the tunnel has ended.
    Session(SessionEvent),
    /// The gateway is shutting down.
    Shutdown,
}

/// The settings of a tunnel.
pub(super) struct Tunnel {
    pub(super) kind: StreamKind,
    pub(super) idle_timeout: Duration,
    /// Reports the use of the session by data of the client. The control frames of a WebSocket are none:
    /// browsers send them by themselves.
    pub(super) reporter: Option<UseReporter>,
}

impl Tunnel {
    /// Copies bytes both ways until both sides have closed, the tunnel is idle, or `close_signal` is ready.
    ///
    /// Each direction reads only what the other side accepts. A WebSocket is closed between two frames, any
    /// other tunnel at once. Returns the reason, or `None` if both sides have closed.
    ///
    /// `unread` was received from the upstream before the tunnel started.
    pub(super) async fn run<C, U>(
        self,
        client: C,
        upstream: U,
        unread: &[u8],
        close_signal: impl Future<Output = CloseReason>,
    ) -> Option<CloseReason>
    where
        C: AsyncRead + AsyncWrite,
        U: AsyncRead + AsyncWrite,
    {
        let Self { kind, idle_timeout, reporter } = self;
        let activity = IdleTracker::new();
        let client_data = AtomicBool::new(false);
        let (from_client, to_client) = split(client);
        let (from_upstream, to_upstream) = split(upstream);
        let mut up = Direction::new(from_client, to_upstream, kind, &activity, Some(&client_data));
        let mut down = Direction::new(from_upstream, to_client, kind, &activity, None);
        down.buffer.extend_from_slice(unread);
        let reason = tokio::select! {
            biased;
            reason = close_signal => reason,
            () = join_directions(up.copy(), down.copy(), kind) => return None,
            // After the directions, which set the flag.
            never = UseReporter::run(reporter, &client_data) => match never {},
            () = activity.idle_for(idle_timeout) => CloseReason::Idle,
        };
        if kind == StreamKind::WebSocket {
            close_websocket(&mut up, &mut down, reason).await;
        }
        Some(reason)
    }
}

/// Waits for both directions to end.
///
/// As in TCP, the end of one direction leaves the other open. A WebSocket has no half-closed state, so its
/// other direction ends after [`HALF_CLOSED_TIMEOUT`].
async fn join_directions(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    kind: StreamKind,
) {
    let limit = if kind == StreamKind::WebSocket { HALF_CLOSED_TIMEOUT } else { Duration::MAX };
    match select(pin!(up), pin!(down)).await {
        Either::Left((Ok(()), down)) => _ = timeout(limit, down).await,
        Either::Right((Ok(()), up)) => _ = timeout(limit, up).await,
        // After an error, returning closes the other side.
        Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => {}
    }
}

/// Closes a WebSocket (RFC 6455, section 7.1.2).
///
/// Each side receives the rest of the current frame and a Close. What it sends before its own Close is
/// discarded.
async fn close_websocket<C, U>(
    up: &mut Direction<'_, C, U>,
    down: &mut Direction<'_, U, C>,
    reason: CloseReason,
) where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let client_close = match reason {
        CloseReason::Session(event) => websocket::close(websocket::SESSION_ENDED, event.as_str()),
        CloseReason::Idle | CloseReason::Shutdown => websocket::close(websocket::GOING_AWAY, ""),
    };
    let upstream_close = websocket::masked_close(websocket::GOING_AWAY);
    let (client_sent, upstream_sent) = tokio::join!(
        timeout(FRAME_END_TIMEOUT, down.finish_frame_and_close(&client_close)),
        timeout(FRAME_END_TIMEOUT, up.finish_frame_and_close(&upstream_close)),
    );
    let client_reply = OptionFuture::from(matches!(client_sent, Ok(Ok(()))).then(|| up.await_close()));
    let upstream_reply = OptionFuture::from(matches!(upstream_sent, Ok(Ok(()))).then(|| down.await_close()));
    let _ = timeout(CLOSE_REPLY_TIMEOUT, join(client_reply, upstream_reply)).await;
}

/// One direction of a tunnel.
///
/// Its futures are cancel safe: bytes that were read but not written stay in the buffer.
struct Direction<'a, R, W> {
    reader: ReadHalf<R>,
    writer: WriteHalf<W>,
    buffer: Vec<u8>,
    /// Number of bytes of the buffer that were written.
    written: usize,
    /// Frame boundaries of the written bytes; `None` if this is no WebSocket.
    frames: Option<FrameTracker>,
    activity: &'a IdleTracker,
    /// Set when data passes; `None` in the direction from the upstream.
    data_flag: Option<&'a AtomicBool>,
}

impl<'a, R: AsyncRead, W: AsyncWrite> Direction<'a, R, W> {
    fn new(
        reader: ReadHalf<R>,
        writer: WriteHalf<W>,
        kind: StreamKind,
        activity: &'a IdleTracker,
        data_flag: Option<&'a AtomicBool>,
    ) -> Self {
        let frames = (kind == StreamKind::WebSocket).then(FrameTracker::default);
        let buffer = Vec::with_capacity(BUFFER_CAPACITY);
        Self { reader, writer, buffer, written: 0, frames, activity, data_flag }
    }

    /// Copies until the reader ends, then shuts the writer down.
    async fn copy(&mut self) -> io::Result<()> {
        loop {
            while !self.unwritten().is_empty() {
                self.write(self.unwritten().len()).await?;
            }
            self.writer.flush().await?;
            if !self.read().await? {
                return self.writer.shutdown().await;
            }
        }
    }

    /// Copies the rest of the current frame, then writes `close` unless a Close has passed already.
    async fn finish_frame_and_close(&mut self, close: &[u8]) -> io::Result<()> {
        loop {
            let frames = self.frames.get_or_insert_default();
            if frames.at_boundary() {
                if !frames.closed() {
                    self.writer.write_all(close).await?;
                }
                return self.writer.flush().await;
            }
            if self.unwritten().is_empty() && !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let rest = self.frames.get_or_insert_default().rest_of_frame(&self.buffer[self.written..]);
            self.write(rest).await?;
        }
    }

    /// Reads and discards until a Close frame or the end.
    async fn await_close(&mut self) {
        loop {
            let unread = self.buffer.split_off(self.written);
            let frames = self.frames.get_or_insert_default();
            frames.advance(&unread);
            if frames.closed() || !matches!(self.read().await, Ok(true)) {
                return;
            }
        }
    }

    fn unwritten(&self) -> &[u8] {
        &self.buffer[self.written..]
    }

    /// Fills the buffer. Returns `false` at the end.
    async fn read(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        self.written = 0;
        let read = self.reader.read_buf(&mut self.buffer).await?;
        self.activity.record();
        Ok(read > 0)
    }

    /// Writes at least one, and at most `limit`, of the unwritten bytes.
    async fn write(&mut self, limit: usize) -> io::Result<()> {
        let part = &self.buffer[self.written..][..limit];
        let written = self.writer.write(part).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let is_data = match &mut self.frames {
            Some(frames) => frames.advance(&part[..written]),
            None => true,
        };
        if let Some(data_flag) = self.data_flag.filter(|_| is_data) {
            data_flag.store(true, Ordering::Relaxed);
        }
        self.written += written;
        Ok(())
    }
}

/// Time of the last read, of either direction.
struct IdleTracker {
    start: Instant,
    /// Last read, in milliseconds after `start`.
    last_read: AtomicU64,
}

impl IdleTracker {
    fn new() -> Self {
        Self { start: Instant::now(), last_read: AtomicU64::new(0) }
    }

    fn record(&self) {
        self.last_read.store(to_millis(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Waits until there was no read for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let last_read = Duration::from_millis(self.last_read.load(Ordering::Relaxed));
            let Some(deadline) = self.start.checked_add(last_read + limit) else {
                return std::future::pending().await;
            };
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// Timeout for the rest of the current frame.
///
/// The gateway learns of a session's end within half a second, and no byte may pass a second after the end.
const FRAME_END_TIMEOUT: Duration = Duration::from_millis(400);

/// Timeout for the Close that replies to the gateway's.
const CLOSE_REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Timeout for a WebSocket after one side has closed its connection.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

/// Read buffer of each direction, in bytes.
const BUFFER_CAPACITY: usize = 8 * 1024;

#[cfg(test)]
mod tests;
