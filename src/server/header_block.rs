//! The size of an unfinished HTTP/2 header block.

use crate::http2_frames::{CONTINUATION, END_HEADERS, FrameHeader, FrameVisitor, HEADERS};

/// Measures the header block that is not complete.
///
/// A header block is a HEADERS frame and the CONTINUATION frames that follow it (RFC 9113 section 4.3). Its connection
/// keeps it in memory until its end, and there is one at a time.
#[derive(Default)]
pub(super) struct HeaderBlockMeter {
    block_len: usize,
}

impl HeaderBlockMeter {
    /// Returns the size of the block that is not complete.
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    /// Counts bytes of a frame, of which `end` have been received then.
    fn record(&mut self, frame: FrameHeader, len: usize, end: usize) {
        if !matches!(frame.kind, HEADERS | CONTINUATION) {
            return;
        }
        self.block_len += len;
        if end == frame.length && frame.has_flag(END_HEADERS) {
            self.block_len = 0;
        }
    }
}

impl FrameVisitor for HeaderBlockMeter {
    fn begin(&mut self, frame: FrameHeader) {
        self.record(frame, 0, 0);
    }

    fn payload(&mut self, frame: FrameHeader, offset: usize, bytes: &mut [u8]) {
        self.record(frame, bytes.len(), offset + bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2_frames::{FrameScanner, frame};

    fn connection() -> Vec<u8> {
        let settings = frame(4, 0, 0, &[0; 12]);
        let data = frame(0, 4, 1, &[0; 20_000]);
        let headers = [frame(HEADERS, 0, 1, &[0; 16_000]), frame(CONTINUATION, 0, 1, &[0; 16_000])].concat();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, data, headers].concat()
    }

    /// A9: heads with HTTP/2 had no budget.
    #[test]
    fn unfinished_block_is_measured_in_pieces_of_any_size() {
        for size in [1, 7, 9, 1_000, 100_000] {
            let mut scanner = FrameScanner::new(24);
            let mut meter = HeaderBlockMeter::default();
            let mut record = |bytes: &[u8]| {
                scanner.scan(&mut bytes.to_vec(), &mut meter);
                meter.block_len()
            };
            let received = connection();
            let sizes = received.chunks(size).map(&mut record);
            assert_eq!(sizes.last(), Some(32_000), "{size}");
            let end = frame(CONTINUATION, END_HEADERS, 1, &[0; 100]);
            let (most, last) = end.split_at(end.len() - 1);
            assert_eq!(record(most), 32_099, "{size}");
            assert_eq!(record(last), 0, "{size}");
            assert_eq!(record(&frame(HEADERS, 0, 1, &[0; 10])), 10, "{size}");
            assert_eq!(record(&frame(CONTINUATION, END_HEADERS, 1, &[])), 0, "{size}");
            assert_eq!(record(&frame(HEADERS, END_HEADERS | 1, 1, &[0; 50])), 0, "{size}");
        }
    }
}
