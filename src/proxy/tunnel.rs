//! Passing bytes both ways once the protocol has changed, until either side closes, nothing has come
//! for long, or the tunnel must end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep_until, timeout};

use super::long_lived::StreamKind;
use super::websocket::{self, FrameTracker};
use crate::session_event::SessionEvent;

/// Why a tunnel ends although neither side has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// Nothing came from either side for too long.
    Idle,
    /// The session in whose name it is has ended.
    Session(SessionEvent),
    /// The program is about to stop.
    Stopping,
}

/// Passes bytes both ways, at the pace of whoever takes them, until both sides have closed or `close_signal`
/// is ready. Says why it ended if not by them.
///
/// A WebSocket that must end is closed between two frames. Any other tunnel breaks off.
pub(super) async fn run<C, U>(
    client: C,
    upstream: U,
    kind: StreamKind,
    idle: Duration,
    over: impl Future<Output = CloseReason>,
) -> Option<CloseReason>
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let activity = IdleTracker::new();
    let (from_client, to_client) = split(client);
    let (from_upstream, to_upstream) = split(upstream);
    let mut up = Direction::new(from_client, to_upstream, kind, &activity);
    let mut down = Direction::new(from_upstream, to_client, kind, &activity);
    let over = tokio::select! {
        biased;
        over = over => over,
        () = join_directions(up.pass(), down.pass(), kind) => return None,
        () = activity.idle_for(idle) => CloseReason::Idle,
    };
    if kind == StreamKind::WebSocket {
        close_websocket(&mut up, &mut down, over).await;
    }
    Some(over)
}

/// Waits for both directions to end. One that has ended leaves the other open, as in TCP. But where
/// one side of a WebSocket is gone, there is nothing left to be said for long.
async fn join_directions(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<()>>,
    kind: StreamKind,
) {
    let patience = if kind == StreamKind::WebSocket { HALF_CLOSED } else { Duration::MAX };
    match select(pin!(up), pin!(down)).await {
        Either::Left((Ok(()), down)) => _ = timeout(patience, down).await,
        Either::Right((Ok(()), up)) => _ = timeout(patience, up).await,
        // Broken: the side that is left must hear of it.
        Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => {}
    }
}

/// Closes a WebSocket. Each side gets what is left of the frame that is under way, and a Close in
/// place of what would follow. What it says until its own Close goes nowhere.
async fn close_websocket<C, U>(
    up: &mut Direction<'_, C, U>,
    down: &mut Direction<'_, U, C>,
    over: CloseReason,
) where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let to_client = match over {
        CloseReason::Session(event) => websocket::close(websocket::SESSION_OVER, event.as_str()),
        CloseReason::Idle | CloseReason::Stopping => websocket::close(websocket::GOING_AWAY, ""),
    };
    let to_upstream = websocket::masked_close(websocket::GOING_AWAY);
    let (client, upstream) = tokio::join!(
        timeout(TAIL_WITHIN, down.finish_frame_and_close(&to_client)),
        timeout(TAIL_WITHIN, up.finish_frame_and_close(&to_upstream)),
    );
    let (client, upstream) = (matches!(client, Ok(Ok(()))), matches!(upstream, Ok(Ok(()))));
    let answers = async {
        let client = async {
            if client {
                up.await_close().await
            }
        };
        let upstream = async {
            if upstream {
                down.await_close().await
            }
        };
        tokio::join!(client, upstream)
    };
    let _ = timeout(ANSWERED_WITHIN, answers).await;
}

/// One direction of a tunnel. Its work can be dropped at any point and taken up again: what was read
/// and is not written yet is kept here.
struct Direction<'a, A, B> {
    from: ReadHalf<A>,
    to: WriteHalf<B>,
    piece: Vec<u8>,
    written: usize,
    /// Of a WebSocket: how far what was written has come.
    frames: Option<FrameTracker>,
    activity: &'a IdleTracker,
}

impl<'a, A: AsyncRead, B: AsyncWrite> Direction<'a, A, B> {
    fn new(from: ReadHalf<A>, to: WriteHalf<B>, kind: StreamKind, activity: &'a IdleTracker) -> Self {
        let frames = (kind == StreamKind::WebSocket).then(FrameTracker::default);
        Self { from, to, piece: Vec::with_capacity(PIECE), written: 0, frames, activity }
    }

    /// Passes on whatever comes, and last that no more comes.
    async fn pass(&mut self) -> io::Result<()> {
        loop {
            while !self.unwritten().is_empty() {
                self.write(self.unwritten().len()).await?;
            }
            self.to.flush().await?;
            if !self.read().await? {
                return self.to.shutdown().await;
            }
        }
    }

    /// Passes on the rest of the frame that is under way, and then `close`, unless a Close has passed.
    async fn finish_frame_and_close(&mut self, close: &[u8]) -> io::Result<()> {
        loop {
            let frames = self.frames.get_or_insert_default();
            if frames.at_boundary() {
                if !frames.closed() {
                    self.to.write_all(close).await?;
                }
                return self.to.flush().await;
            }
            if self.unwritten().is_empty() && !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let rest = self.frames.get_or_insert_default().rest_of_frame(&self.piece[self.written..]);
            self.write(rest).await?;
        }
    }

    /// Reads, and passes nothing on, until there is a Close or nothing more.
    async fn await_close(&mut self) {
        loop {
            let unheard = self.piece.split_off(self.written);
            let frames = self.frames.get_or_insert_default();
            frames.advance(&unheard);
            if frames.closed() || !matches!(self.read().await, Ok(true)) {
                return;
            }
        }
    }

    fn unwritten(&self) -> &[u8] {
        &self.piece[self.written..]
    }

    /// Reads the next piece; `false` if there is none.
    async fn read(&mut self) -> io::Result<bool> {
        self.piece.clear();
        self.written = 0;
        let read = self.from.read_buf(&mut self.piece).await?;
        self.activity.note();
        Ok(read > 0)
    }

    /// Writes some of the next so many bytes.
    async fn write(&mut self, at_most: usize) -> io::Result<()> {
        let part = &self.piece[self.written..][..at_most];
        let written = self.to.write(part).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if let Some(frames) = &mut self.frames {
            frames.advance(&part[..written]);
        }
        self.written += written;
        Ok(())
    }
}

/// When something came last, from either side.
struct IdleTracker {
    began: Instant,
    /// In milliseconds after that.
    last: AtomicU64,
}

impl IdleTracker {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let last = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(last, Ordering::Relaxed);
    }

    /// Waits until nothing has come for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let Some(due) = self.began.checked_add(last + limit) else { return std::future::pending().await };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// How long the rest of a frame may take. The news of a session's end takes up to half a second, and
/// a second after it no byte may pass.
const TAIL_WITHIN: Duration = Duration::from_millis(400);

/// How long a side may take to answer a Close.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// How long a WebSocket of which one side is gone may go on.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// How much is read at a time, in bytes.
const PIECE: usize = 8 * 1024;

#[cfg(test)]
mod tests;
