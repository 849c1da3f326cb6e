//! The frames of an HTTP/2 client, before hyper reads them.

use super::header_block::HeaderBlockMeter;
use crate::http2_frames::{FrameHeader, FrameScanner, FrameVisitor, Peer, StreamEnds};

/// Follows the frames that a client sends: measures unfinished heads, and marks truncated bodies.
pub(super) struct Http2Input {
    scanner: FrameScanner,
    visitors: Visitors,
}

struct Visitors {
    header_block: HeaderBlockMeter,
    stream_ends: StreamEnds,
}

impl Http2Input {
    /// Creates the state at the start of a connection, whose client first sends a preface of this length.
    pub(super) fn new(preface_len: usize) -> Self {
        let header_block = HeaderBlockMeter::default();
        let stream_ends = StreamEnds::new(Peer::Client);
        Self { scanner: FrameScanner::new(preface_len), visitors: Visitors { header_block, stream_ends } }
    }

    /// Records received bytes, and returns the size of the header block that is not complete after them.
    pub(super) fn record(&mut self, bytes: &mut [u8]) -> usize {
        self.scanner.scan(bytes, &mut self.visitors);
        self.visitors.header_block.block_len()
    }
}

impl FrameVisitor for Visitors {
    fn begin(&mut self, frame: FrameHeader) {
        self.header_block.begin(frame);
        self.stream_ends.begin(frame);
    }

    fn payload(&mut self, frame: FrameHeader, offset: usize, bytes: &mut [u8]) {
        self.header_block.payload(frame, offset, bytes);
        self.stream_ends.payload(frame, offset, bytes);
    }
}
