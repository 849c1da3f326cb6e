//! The size of an unfinished HTTP/2 header block.

/// Follows the frames that a client sends, and measures the header block that is not complete.
///
/// A header block is a HEADERS frame and the CONTINUATION frames that follow it (RFC 9113 section 4.3). Its connection
/// keeps it in memory until its end, and there is one at a time.
pub(super) struct HeaderBlockMeter {
    /// Number of bytes before the next frame that belong to no frame header: the preface, or a payload.
    payload_left: usize,
    frame_header: [u8; FRAME_HEADER_LEN],
    frame_header_len: usize,
    /// True while the payload is part of a header block.
    is_header_payload: bool,
    /// True if the block ends with the payload.
    is_last_payload: bool,
    block_len: usize,
}

impl HeaderBlockMeter {
    /// Creates the state at the start of a connection, whose client first sends a preface of this length.
    pub(super) fn new(preface_len: usize) -> Self {
        Self {
            payload_left: preface_len,
            frame_header: [0; FRAME_HEADER_LEN],
            frame_header_len: 0,
            is_header_payload: false,
            is_last_payload: false,
            block_len: 0,
        }
    }

    /// Records received bytes, and returns the size of the header block that is not complete after them.
    pub(super) fn record(&mut self, mut bytes: &[u8]) -> usize {
        while !bytes.is_empty() {
            bytes = if self.payload_left > 0 { self.skip_payload(bytes) } else { self.read_header(bytes) };
        }
        self.block_len
    }

    /// Counts the payload at the start of `bytes`, and returns the rest.
    fn skip_payload<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let len = bytes.len().min(self.payload_left);
        self.payload_left -= len;
        if self.is_header_payload {
            self.block_len += len;
            self.end_block_with_payload();
        }
        &bytes[len..]
    }

    /// Reads the frame header at the start of `bytes`, or a part of it, and returns the rest.
    fn read_header<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let len = bytes.len().min(FRAME_HEADER_LEN - self.frame_header_len);
        let end = self.frame_header_len + len;
        self.frame_header[self.frame_header_len..end].copy_from_slice(&bytes[..len]);
        self.frame_header_len = end;
        if end == FRAME_HEADER_LEN {
            self.frame_header_len = 0;
            self.begin_payload();
        }
        &bytes[len..]
    }

    fn begin_payload(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.frame_header;
        self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.is_header_payload = matches!(kind, HEADERS | CONTINUATION);
        self.is_last_payload = flags & END_HEADERS != 0;
        if self.is_header_payload {
            self.end_block_with_payload();
        }
    }

    fn end_block_with_payload(&mut self) {
        if self.payload_left == 0 && self.is_last_payload {
            self.block_len = 0;
        }
    }
}

const FRAME_HEADER_LEN: usize = 9;

// RFC 9113 sections 6.2 and 6.10.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(len).expect("a short frame").to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER_LEN + len, 0);
        frame
    }

    fn connection() -> Vec<u8> {
        let settings = frame(4, 0, 12);
        let data = frame(0, 4, 20_000);
        let headers = [frame(HEADERS, 0, 16_000), frame(CONTINUATION, 0, 16_000)].concat();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, data, headers].concat()
    }

    /// A9: heads with HTTP/2 had no budget.
    #[test]
    fn unfinished_block_is_measured_in_pieces_of_any_size() {
        for size in [1, 7, 9, 1_000, 100_000] {
            let mut meter = HeaderBlockMeter::new(24);
            let received = connection();
            let sizes = received.chunks(size).map(|piece| meter.record(piece));
            assert_eq!(sizes.last(), Some(32_000), "{size}");
            let end = frame(CONTINUATION, END_HEADERS, 100);
            let (most, last) = end.split_at(end.len() - 1);
            assert_eq!(meter.record(most), 32_099, "{size}");
            assert_eq!(meter.record(last), 0, "{size}");
            assert_eq!(meter.record(&frame(HEADERS, 0, 10)), 10, "{size}");
            assert_eq!(meter.record(&frame(CONTINUATION, END_HEADERS, 0)), 0, "{size}");
            assert_eq!(meter.record(&frame(HEADERS, END_HEADERS | 1, 50)), 0, "{size}");
        }
    }
}
