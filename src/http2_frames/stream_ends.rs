//! Streams that end without `END_STREAM`.
//!
//! A stream that is reset with `NO_ERROR` is complete only if `END_STREAM` was received before (RFC 9113,
//! section 8.1). h2 keeps just the reset, and hyper takes each `NO_ERROR` for the end of the body, so that a
//! truncated message would look complete. Here the error code of such a reset is changed to `CANCEL` before h2
//! reads it. The same holds for a GOAWAY, which ends all streams above its last one.

use std::collections::VecDeque;

use super::{DATA, END_STREAM, FrameHeader, FrameVisitor, GOAWAY, HEADERS, RST_STREAM};

/// Follows the streams of a connection, and marks truncated ones as cancelled.
pub(crate) struct StreamEnds {
    peer: Peer,
    /// The last streams on which a message began or ended, in this order.
    streams: VecDeque<Stream>,
    /// Last stream that the current GOAWAY allows.
    last_stream: u32,
    /// True while the error code of the current frame may be `NO_ERROR` and is to be changed.
    is_truncation: bool,
}

/// The sender of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

#[derive(Clone, Copy)]
struct Stream {
    id: u32,
    has_ended: bool,
}

impl StreamEnds {
    pub(crate) fn new(peer: Peer) -> Self {
        Self { peer, streams: VecDeque::new(), last_stream: 0, is_truncation: false }
    }

    fn record(&mut self, frame: FrameHeader) {
        let has_ended = frame.has_flag(END_STREAM);
        if frame.kind == DATA && !has_ended {
            return;
        }
        if let Some(stream) = self.find(frame.stream) {
            stream.has_ended |= has_ended;
            return;
        }
        if self.streams.len() == MAX_STREAMS {
            self.streams.pop_front();
        }
        self.streams.push_back(Stream { id: frame.stream, has_ended });
    }

    /// Finds a stream. Most frames belong to one of the last.
    fn find(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams.iter_mut().rev().find(|stream| stream.id == id)
    }

    fn is_any_truncated(&self) -> bool {
        self.streams.iter().any(|stream| !stream.has_ended && stream.id > self.last_stream)
    }

    /// Changes the error code in a payload from `NO_ERROR` to `CANCEL`, which differ in the last byte.
    fn mark_truncation(&mut self, code_offset: usize, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            let position = offset + index;
            if position < code_offset || position >= code_offset + CODE_LEN {
                continue;
            }
            self.is_truncation &= *byte == 0;
            if self.is_truncation && position == code_offset + CODE_LEN - 1 {
                *byte = CANCEL;
            }
        }
    }

    fn goaway_payload(&mut self, offset: usize, bytes: &mut [u8]) {
        for (position, byte) in (offset..LAST_STREAM_LEN).zip(bytes.iter()) {
            // The first bit is reserved.
            let byte = if position == 0 { byte & 0x7f } else { *byte };
            self.last_stream = self.last_stream << 8 | u32::from(byte);
        }
        if offset + bytes.len() >= LAST_STREAM_LEN && offset < LAST_STREAM_LEN {
            self.is_truncation = self.is_any_truncated();
        }
        self.mark_truncation(LAST_STREAM_LEN, offset, bytes);
    }
}

impl FrameVisitor for StreamEnds {
    fn begin(&mut self, frame: FrameHeader) {
        match frame.kind {
            DATA | HEADERS => self.record(frame),
            RST_STREAM => {
                self.is_truncation = self.find(frame.stream).is_none_or(|stream| !stream.has_ended);
            }
            GOAWAY => {
                self.last_stream = 0;
                self.is_truncation = false;
            }
            _ => {}
        }
    }

    fn payload(&mut self, frame: FrameHeader, offset: usize, bytes: &mut [u8]) {
        match frame.kind {
            RST_STREAM => self.mark_truncation(0, offset, bytes),
            // The GOAWAY of a client concerns the streams of the server, which opens none.
            GOAWAY if self.peer == Peer::Server => self.goaway_payload(offset, bytes),
            _ => {}
        }
    }
}

/// Number of streams to remember. A reset follows the end of its stream closely; that of a forgotten stream
/// counts as a truncation.
const MAX_STREAMS: usize = 128;
/// Length of an error code, and of the last stream in a GOAWAY.
const CODE_LEN: usize = 4;
const LAST_STREAM_LEN: usize = 4;
/// The last byte of the error code `CANCEL` (RFC 9113, section 7).
const CANCEL: u8 = 8;

#[cfg(test)]
mod tests {
    use super::super::{FrameScanner, frame};
    use super::*;

    fn reset(stream: u32, code: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    fn goaway(last: u32, code: u32) -> Vec<u8> {
        frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &code.to_be_bytes(), b"\0\0 why"].concat())
    }

    /// C19: streams that end with `NO_ERROR` but without `END_STREAM`.
    #[test]
    fn truncated_streams_are_marked() {
        let begin = |stream| frame(HEADERS, 4, stream, b"block");
        let data = |stream, flags| frame(DATA, flags, stream, &[0; 20]);
        let whole = |stream| [begin(stream), data(stream, 0), data(stream, END_STREAM)].concat();
        let half = |stream| [begin(stream), data(stream, 0)].concat();
        let bodiless = |stream| frame(HEADERS, 4 | END_STREAM, stream, b"block");
        let with_trailers = |stream| [half(stream), bodiless(stream)].concat();
        let server = Peer::Server;
        for (peer, before, last, expected) in [
            (server, half(1), reset(1, 0), reset(1, 8)),
            (server, half(1), reset(1, 2), reset(1, 2)),
            (server, half(1), reset(1, 0x0100_0000), reset(1, 0x0100_0000)),
            (server, whole(1), reset(1, 0), reset(1, 0)),
            (server, bodiless(1), reset(1, 0), reset(1, 0)),
            (server, with_trailers(1), reset(1, 0), reset(1, 0)),
            (server, [whole(1), half(3)].concat(), reset(3, 0), reset(3, 8)),
            (server, [whole(1), half(3)].concat(), reset(1, 0), reset(1, 0)),
            (server, Vec::new(), reset(1, 0), reset(1, 8)),
            (server, half(3), goaway(1, 0), goaway(1, 8)),
            (server, half(3), goaway(1, 2), goaway(1, 2)),
            (server, half(3), goaway(3, 0), goaway(3, 0)),
            (server, half(3), goaway(u32::MAX, 0), goaway(u32::MAX, 0)),
            (server, whole(3), goaway(0, 0), goaway(0, 0)),
            (Peer::Client, half(3), goaway(0, 0), goaway(0, 0)),
            (Peer::Client, half(3), reset(3, 0), reset(3, 8)),
            (Peer::Client, whole(3), reset(3, 0), reset(3, 0)),
        ] {
            let sent = [before.clone(), last.clone()].concat();
            for size in [1, 3, 9, 10, 1_000] {
                let mut scanner = FrameScanner::new(0);
                let mut ends = StreamEnds::new(peer);
                let mut bytes = sent.clone();
                bytes.chunks_mut(size).for_each(|piece| scanner.scan(piece, &mut ends));
                assert_eq!(bytes, [&before[..], &expected[..]].concat(), "{last:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut scanner = FrameScanner::new(0);
        let mut ends = StreamEnds::new(Peer::Client);
        for stream in (1..10_000).step_by(2) {
            scanner.scan(&mut frame(HEADERS, 4, stream, b"block"), &mut ends);
        }
        assert_eq!(ends.streams.len(), MAX_STREAMS);
    }
}
