//! WebSocket frame boundaries and Close frames (RFC 6455).
//!
//! A tunnel follows the frames only to close the WebSocket between two of them. Frames are never changed,
//! merged or delayed.

/// Tracks the frame boundaries of one direction (RFC 6455, section 5.2).
#[derive(Clone, Debug, Default)]
pub(super) struct FrameTracker {
    header: [u8; MAX_HEADER_LENGTH],
    /// Number of header bytes received.
    header_filled: usize,
    /// Number of payload bytes still to come.
    payload_left: u64,
    /// True once a Close frame has passed. No frame may follow it.
    closed: bool,
}

impl FrameTracker {
    /// Processes bytes that pass through the tunnel. Returns `true` if any belong to a data frame whose header is
    /// complete.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) -> bool {
        let mut is_data = false;
        while !bytes.is_empty() {
            bytes = &bytes[self.advance_frame(bytes)..];
            is_data |= self.header_filled == 0 && self.header[0] & CONTROL == 0;
        }
        is_data
    }

    /// Returns how many of these bytes belong to the current frame.
    pub(super) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        if self.at_boundary() { 0 } else { self.clone().advance_frame(bytes) }
    }

    /// Returns `true` between two frames.
    pub(super) fn at_boundary(&self) -> bool {
        self.header_filled == 0 && self.payload_left == 0
    }

    /// Returns `true` once a Close frame has passed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Processes bytes up to the end of the current frame and returns their number.
    fn advance_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            if self.payload_left > 0 {
                let rest = bytes.len() - passed;
                let part = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(rest);
                self.payload_left -= part as u64;
                passed += part;
            } else {
                self.header[self.header_filled] = bytes[passed];
                self.header_filled += 1;
                passed += 1;
                if self.header_filled < self.header_length() {
                    continue;
                }
                self.payload_left = self.payload_length();
                self.header_filled = 0;
            }
            if self.payload_left == 0 {
                self.closed |= self.header[0] & OPCODE_MASK == CLOSE;
                break;
            }
        }
        passed
    }

    /// Length of the header, at least 2. It is known once the first two bytes are there.
    fn header_length(&self) -> usize {
        if self.header_filled < 2 {
            return 2;
        }
        let extended_length = match self.header[1] & LENGTH_MASK {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended_length + if self.header[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let extended = |bytes: &[u8]| bytes.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
        match self.header[1] & LENGTH_MASK {
            126 => extended(&self.header[2..4]),
            127 => extended(&self.header[2..10]),
            short => u64::from(short),
        }
    }
}

/// Builds a Close frame for a client (RFC 6455, section 5.5.1). A long reason is truncated.
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(MAX_REASON_LENGTH)];
    let mut frame = vec![FIN | CLOSE, 2 + reason.len() as u8];
    frame.extend(code.to_be_bytes());
    frame.extend(reason);
    frame
}

/// Builds a Close frame for an upstream. As a client, the gateway must mask it (RFC 6455, section 5.3).
pub(super) fn masked_close(code: u16) -> Vec<u8> {
    let mask = fastrand::u32(..).to_be_bytes();
    let [high, low] = code.to_be_bytes();
    let mut frame = vec![FIN | CLOSE, MASKED | 2];
    frame.extend(mask);
    frame.extend([high ^ mask[0], low ^ mask[1]]);
    frame
}

/// Close code "going away" (RFC 6455, section 7.4.1).
pub(super) const GOING_AWAY: u16 = 1001;

/// Close code for the end of the session, after HTTP status 401. Codes from 4000 on are private to
/// applications (RFC 6455, section 7.4.2).
pub(super) const SESSION_ENDED: u16 = 4401;

const MAX_HEADER_LENGTH: usize = 14;
/// A control frame has a payload of at most 125 bytes, two of which are the close code.
const MAX_REASON_LENGTH: usize = 123;

const FIN: u8 = 0x80;
const OPCODE_MASK: u8 = 0x0f;
const CLOSE: u8 = 0x08;
/// The bit that the opcodes of control frames have in common (RFC 6455, section 5.5).
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH_MASK: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    /// Builds a frame of any kind and length.
    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([7; 4]);
        }
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![Just(0), 0..300_usize, Just(125), Just(126), 65_530..65_540_usize];
        let fields = (0..8_u8, any::<bool>(), any::<bool>(), length);
        let frame = fields
            .prop_map(|(opcode, last, masked, length)| frame(opcode | u8::from(last) << 7, masked, length));
        vec(frame, 0..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..proptest_config() })]

        #[test]
        fn boundaries_do_not_depend_on_how_bytes_are_split(
            frames in frames(),
            pieces in vec(1..5_000_usize, 1..20),
        ) {
            let bytes = frames.concat();
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let mut tracker = FrameTracker::default();
            let mut position = 0;
            for piece in pieces.into_iter().cycle() {
                if position == bytes.len() {
                    break;
                }
                let part = &bytes[position..(position + piece).min(bytes.len())];
                let end = ends.iter().copied().find(|&end| end > position).unwrap_or(position);
                let at_boundary = position == 0 || ends.contains(&position);
                let rest = if at_boundary { 0 } else { part.len().min(end - position) };
                prop_assert_eq!(tracker.rest_of_frame(part), rest);
                tracker.advance(part);
                position += part.len();
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&position), "at {} of {:?}", position, ends);
                prop_assert!(!tracker.closed());
            }
        }

        #[test]
        fn any_bytes_are_accepted(bytes in vec(any::<u8>(), 0..200), split in 0..200_usize) {
            let mut whole = FrameTracker::default();
            let mut parts = FrameTracker::default();
            whole.advance(&bytes);
            let (head, tail) = bytes.split_at(split.min(bytes.len()));
            parts.advance(head);
            parts.advance(tail);
            prop_assert_eq!((whole.at_boundary(), whole.closed()), (parts.at_boundary(), parts.closed()));
        }
    }

    #[test]
    fn close_frame_is_recorded_once_complete() {
        for (close_frame, masked) in
            [(close(SESSION_ENDED, "revoked"), false), (masked_close(GOING_AWAY), true)]
        {
            let mut frames = FrameTracker::default();
            frames.advance(&frame(0x82, masked, 200));
            frames.advance(&close_frame[..close_frame.len() - 1]);
            assert!(!frames.closed() && !frames.at_boundary());
            frames.advance(&close_frame[close_frame.len() - 1..]);
            assert!(frames.closed() && frames.at_boundary());
        }
        assert_eq!(close(SESSION_ENDED, "revoked"), *b"\x88\x09\x11\x31revoked");
        assert_eq!(close(GOING_AWAY, &"x".repeat(200)).len(), 127);
    }

    #[test]
    fn masked_close_unmasks_to_its_code() {
        let frame = masked_close(GOING_AWAY);
        assert_eq!(frame[..2], [0x88, 0x82]);
        let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
        assert_eq!(u16::from_be_bytes(code), GOING_AWAY);
    }

    #[test]
    fn maximum_payload_length_never_reaches_a_boundary() {
        let mut frames = FrameTracker::default();
        frames.advance(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.advance(&[0; 100_000]);
        assert!(!frames.at_boundary());
    }
}
