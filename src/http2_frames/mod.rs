//! HTTP/2 frames as they are received, before h2 reads them (RFC 9113, section 4.1).

mod stream_ends;

pub(crate) use self::stream_ends::{Peer, StreamEnds};

/// Splits received bytes into frames, which reads may divide anywhere.
pub(crate) struct FrameScanner {
    /// Number of bytes of the client's preface that are still to come.
    preface_left: usize,
    header: [u8; FRAME_HEADER_LEN],
    header_len: usize,
    frame: FrameHeader,
    /// Number of payload bytes of `frame` received before.
    offset: usize,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// Receives the frames of a [`FrameScanner`].
pub(crate) trait FrameVisitor {
    /// Called for each frame, once its header is complete.
    fn begin(&mut self, frame: FrameHeader);

    /// Called for each received part of a payload, which begins at this offset.
    fn payload(&mut self, frame: FrameHeader, offset: usize, bytes: &mut [u8]);
}

impl FrameScanner {
    /// Creates the state at the start of a connection, whose peer first sends a preface of this length.
    pub(crate) fn new(preface_len: usize) -> Self {
        Self {
            preface_left: preface_len,
            header: [0; FRAME_HEADER_LEN],
            header_len: 0,
            frame: FrameHeader::default(),
            offset: 0,
        }
    }

    /// Passes received bytes to `visitor`, which may change payloads.
    pub(crate) fn scan(&mut self, bytes: &mut [u8], visitor: &mut impl FrameVisitor) {
        let preface_len = self.preface_left.min(bytes.len());
        self.preface_left -= preface_len;
        let mut rest = &mut bytes[preface_len..];
        while !rest.is_empty() {
            let payload_left = self.frame.length - self.offset;
            let taken = if payload_left == 0 {
                self.read_header(rest, visitor)
            } else {
                let len = payload_left.min(rest.len());
                visitor.payload(self.frame, self.offset, &mut rest[..len]);
                self.offset += len;
                len
            };
            rest = &mut rest[taken..];
        }
    }

    /// Reads the frame header at the start of `bytes`, or a part of it, and returns its length.
    fn read_header(&mut self, bytes: &[u8], visitor: &mut impl FrameVisitor) -> usize {
        let len = bytes.len().min(FRAME_HEADER_LEN - self.header_len);
        self.header[self.header_len..self.header_len + len].copy_from_slice(&bytes[..len]);
        self.header_len += len;
        if self.header_len == FRAME_HEADER_LEN {
            self.header_len = 0;
            self.frame = FrameHeader::parse(self.header);
            self.offset = 0;
            visitor.begin(self.frame);
        }
        len
    }
}

impl FrameHeader {
    fn parse(bytes: [u8; FRAME_HEADER_LEN]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, high, middle, low]) as usize,
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes(stream) & MAX_STREAM,
        }
    }

    pub(crate) fn has_flag(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

const FRAME_HEADER_LEN: usize = 9;
const MAX_STREAM: u32 = u32::MAX >> 1;

// The types and flags of RFC 9113, section 6.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Builds frames for the tests of visitors.
#[cfg(test)]
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = vec![high, middle, low, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(u8, u32, Vec<u8>)>);

    impl FrameVisitor for Recorder {
        fn begin(&mut self, frame: FrameHeader) {
            self.0.push((frame.kind, frame.stream, Vec::new()));
        }

        fn payload(&mut self, _: FrameHeader, offset: usize, bytes: &mut [u8]) {
            let (_, _, payload) = self.0.last_mut().expect("a frame");
            assert_eq!(payload.len(), offset);
            payload.extend_from_slice(bytes);
        }
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let long = vec![7; 70_000];
        let frames =
            [(4, 0, &[1, 2, 3][..]), (HEADERS, 5, &[]), (DATA, MAX_STREAM, &long), (GOAWAY, 0, &[9])];
        let mut sent = b"preface".to_vec();
        for (kind, stream, payload) in frames {
            // With the reserved bit set.
            sent.extend(frame(kind, 0, stream | 1 << 31, payload));
        }
        for size in [1, 2, 8, 9, 10, 1_000, 100_000] {
            let mut scanner = FrameScanner::new(7);
            let mut recorder = Recorder::default();
            for piece in sent.clone().chunks_mut(size) {
                scanner.scan(piece, &mut recorder);
            }
            let expected = frames.map(|(kind, stream, payload)| (kind, stream, payload.to_vec()));
            assert_eq!(recorder.0, expected, "{size}");
        }
    }
}
