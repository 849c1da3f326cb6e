//! The byte stream of an HTTP/2 connection to an upstream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1::MaybeTlsStream;
use crate::http2_frames::{FrameScanner, Peer, StreamEnds};

/// A byte stream that marks truncated responses, which h2 would take for complete.
pub(super) struct Http2Io {
    io: MaybeTlsStream,
    scanner: FrameScanner,
    stream_ends: StreamEnds,
}

impl Http2Io {
    pub(super) fn new(io: MaybeTlsStream) -> Self {
        Self { io, scanner: FrameScanner::new(0), stream_ends: StreamEnds::new(Peer::Server) }
    }
}

impl AsyncRead for Http2Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, scanner, stream_ends } = self.get_mut();
        let len_before = buf.filled().len();
        ready!(Pin::new(io).poll_read(cx, buf))?;
        scanner.scan(&mut buf.filled_mut()[len_before..], stream_ends);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
