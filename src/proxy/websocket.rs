//! What must be known of WebSocket to end it between two frames, and no more: where frames begin and
//! end (RFC 6455, section 5.2). Frames are never changed, joined or held back.

/// The frames of one direction, as their bytes pass by.
#[derive(Clone, Debug, Default)]
pub(super) struct FrameTracker {
    header: [u8; HEADER_MAX],
    /// How much of the header has passed.
    filled: usize,
    /// How much of the payload has not passed yet.
    payload: u64,
    /// Whether a Close has passed, after which no frame may follow.
    closed: bool,
}

impl FrameTracker {
    /// Takes note of bytes that pass.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.advance_frame(bytes)..];
        }
    }

    /// How many of these bytes belong to the frame that is under way.
    pub(super) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        if self.at_boundary() { 0 } else { self.clone().advance_frame(bytes) }
    }

    /// Whether no frame is under way.
    pub(super) fn at_boundary(&self) -> bool {
        self.filled == 0 && self.payload == 0
    }

    /// Whether a Close has passed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Takes note of bytes up to the end of a frame, and says how many those are.
    fn advance_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            if self.payload > 0 {
                let rest = bytes.len() - passed;
                let part = usize::try_from(self.payload).unwrap_or(usize::MAX).min(rest);
                self.payload -= part as u64;
                passed += part;
            } else {
                self.header[self.filled] = bytes[passed];
                self.filled += 1;
                passed += 1;
                if self.filled < self.header_length() {
                    continue;
                }
                self.payload = self.payload_length();
                self.filled = 0;
            }
            if self.payload == 0 {
                self.closed |= self.header[0] & OPCODE == CLOSE;
                break;
            }
        }
        passed
    }

    /// How long the header is, as far as its first two bytes tell.
    fn header_length(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let length = match self.header[1] & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & MASKED == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let long = |bytes: &[u8]| bytes.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
        match self.header[1] & LENGTH {
            126 => long(&self.header[2..4]),
            127 => long(&self.header[2..10]),
            short => u64::from(short),
        }
    }
}

/// A Close for a client (RFC 6455, section 5.5.1).
pub(super) fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason.as_bytes()[..reason.len().min(REASON_MAX)];
    let mut frame = vec![FINAL | CLOSE, 2 + reason.len() as u8];
    frame.extend(code.to_be_bytes());
    frame.extend(reason);
    frame
}

/// A Close for an upstream, to whom we are the client: it is masked (section 5.3).
pub(super) fn masked_close(code: u16) -> Vec<u8> {
    let mask = fastrand::u32(..).to_be_bytes();
    let [high, low] = code.to_be_bytes();
    let mut frame = vec![FINAL | CLOSE, MASKED | 2];
    frame.extend(mask);
    frame.extend([high ^ mask[0], low ^ mask[1]]);
    frame
}

/// An endpoint goes away (RFC 6455, section 7.4.1).
pub(super) const GOING_AWAY: u16 = 1001;

/// The session is over. Codes from 4000 on are for applications; this one is 401's like.
pub(super) const SESSION_OVER: u16 = 4401;

const HEADER_MAX: usize = 14;
/// A control frame has at most 125 bytes, two of which are the code.
const REASON_MAX: usize = 123;

const FINAL: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::test_seed::proptest_config;

    /// A frame as anyone may send it.
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
        let one = (0..8_u8, any::<bool>(), any::<bool>(), length);
        vec(
            one.prop_map(|(opcode, last, masked, length)| {
                frame(opcode | u8::from(last) << 7, masked, length)
            }),
            0..8,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..proptest_config() })]

        #[test]
        fn boundaries_are_where_frames_end_however_the_bytes_are_split(
            frames in frames(),
            pieces in vec(1..5_000_usize, 1..20),
        ) {
            let bytes = frames.concat();
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let (mut seen, mut at) = (FrameTracker::default(), 0);
            for piece in pieces.into_iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let part = &bytes[at..(at + piece).min(bytes.len())];
                let end = ends.iter().copied().find(|&end| end > at).unwrap_or(at);
                let rest = if at == 0 || ends.contains(&at) { 0 } else { part.len().min(end - at) };
                prop_assert_eq!(seen.rest_of_frame(part), rest);
                seen.advance(part);
                at += part.len();
                prop_assert_eq!(seen.at_boundary(), ends.contains(&at), "at {} of {:?}", at, ends);
                prop_assert!(!seen.closed());
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in vec(any::<u8>(), 0..200), split in 0..200_usize) {
            let (mut whole, mut parts) = (FrameTracker::default(), FrameTracker::default());
            whole.advance(&bytes);
            let (head, tail) = bytes.split_at(split.min(bytes.len()));
            parts.advance(head);
            parts.advance(tail);
            prop_assert_eq!((whole.at_boundary(), whole.closed()), (parts.at_boundary(), parts.closed()));
        }
    }

    #[test]
    fn a_close_is_known_once_it_has_passed() {
        for (end, masked) in [(close(SESSION_OVER, "revoked"), false), (masked_close(GOING_AWAY), true)] {
            let mut frames = FrameTracker::default();
            frames.advance(&frame(0x82, masked, 200));
            frames.advance(&end[..end.len() - 1]);
            assert!(!frames.closed() && !frames.at_boundary());
            frames.advance(&end[end.len() - 1..]);
            assert!(frames.closed() && frames.at_boundary());
        }
        assert_eq!(close(SESSION_OVER, "revoked"), *b"\x88\x09\x11\x31revoked");
        assert_eq!(close(GOING_AWAY, &"x".repeat(200)).len(), 127);
    }

    #[test]
    fn a_masked_close_reads_as_its_code() {
        let frame = masked_close(GOING_AWAY);
        assert_eq!(frame[..2], [0x88, 0x82]);
        let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
        assert_eq!(u16::from_be_bytes(code), GOING_AWAY);
    }

    #[test]
    fn an_absurd_length_is_never_at_its_end() {
        let mut frames = FrameTracker::default();
        frames.advance(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.advance(&[0; 100_000]);
        assert!(!frames.at_boundary());
    }
}
