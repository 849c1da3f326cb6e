//! Framing of response bodies (RFC 9112, sections 6 and 7).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use httparse::Status;

use super::error::Http1Error;
use super::field_lines::repair;

/// Decodes a response body. The variant is its framing, and holds what remains.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyDecoder {
    Chunked(ChunkedState),
    /// Number of remaining bytes.
    Length(u64),
    UntilClose,
}

/// The next part of a body.
pub(super) enum Decoded {
    Data(Bytes),
    End,
    /// The buffer does not hold a complete part.
    Incomplete,
    Trailers(HeaderMap),
}

impl BodyDecoder {
    pub(super) fn is_finished(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(ChunkedState::End))
    }

    /// Number of remaining bytes, if known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(remaining) => Some(*remaining),
            Self::Chunked(ChunkedState::End) => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next part off the buffer.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Http1Error> {
        match self {
            Self::Chunked(state) => state.decode(buffer),
            Self::Length(0) => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::Incomplete),
            Self::Length(remaining) => Ok(Decoded::Data(take_data(buffer, remaining))),
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
        }
    }
}

fn take_data(buffer: &mut BytesMut, remaining: &mut u64) -> Bytes {
    let length = usize::try_from(*remaining).map_or(buffer.len(), |remaining| remaining.min(buffer.len()));
    *remaining -= length as u64;
    buffer.split_to(length).freeze()
}

/// Position within a chunked body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum ChunkedState {
    /// Before the size of a chunk.
    #[default]
    Size,
    /// Within a chunk, with the number of its remaining bytes.
    Data(u64),
    /// Before the line end that follows a chunk.
    DataEnd,
    Trailers,
    End,
}

impl ChunkedState {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Http1Error> {
        loop {
            match self {
                Self::Size => {
                    let Some(size) = take_chunk_size(buffer)? else { return Ok(Decoded::Incomplete) };
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(_) if buffer.is_empty() => return Ok(Decoded::Incomplete),
                Self::Data(remaining) => return Ok(Decoded::Data(take_data(buffer, remaining))),
                Self::DataEnd => match &**buffer {
                    [b'\r', b'\n', ..] => {
                        drop(buffer.split_to(2));
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::Incomplete),
                    _ => return Err(Http1Error::Chunk),
                },
                Self::Trailers => {
                    let Some(trailers) = take_trailers(buffer)? else { return Ok(Decoded::Incomplete) };
                    *self = Self::End;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
                Self::End => return Ok(Decoded::End),
            }
        }
    }
}

fn take_chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, Http1Error> {
    let start = &buffer[..buffer.len().min(MAX_CHUNK_SIZE_LINE)];
    let Some(end) = memchr::memchr(b'\n', start) else {
        return if start.len() == MAX_CHUNK_SIZE_LINE { Err(Http1Error::Chunk) } else { Ok(None) };
    };
    parse_chunk_size(&buffer.split_to(end + 1)).ok_or(Http1Error::Chunk).map(Some)
}

/// Parses the size of a chunk and drops its extensions (RFC 9112, section 7.1.1).
///
/// httparse's parser is not used because it accepts a line without digits as the last chunk.
fn parse_chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let first = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    let is_extension = first.is_none_or(|byte| *byte == b';') && !rest.contains(&b'\r');
    // Fails if there are no digits, or more than 64 bits.
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    is_extension.then_some(size)
}

fn take_trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Http1Error> {
    if buffer.starts_with(b"\r\n") {
        drop(buffer.split_to(2));
        return Ok(Some(HeaderMap::new()));
    }
    let parsed = match parse_trailers(buffer) {
        Err(Http1Error::Head(httparse::Error::HeaderName)) => repair_trailers(buffer)?,
        parsed => parsed?,
    };
    let Some((trailers, length)) = parsed.filter(|(_, length)| *length <= MAX_TRAILERS_SIZE) else {
        return if buffer.len() >= MAX_TRAILERS_SIZE { Err(Http1Error::TooLarge) } else { Ok(None) };
    };
    let section = buffer.split_to(length);
    // httparse accepts a bare LF as a line end.
    let mut line_feeds = memchr::memchr_iter(b'\n', &section);
    if line_feeds.any(|at| at == 0 || section[at - 1] != b'\r') {
        return Err(Http1Error::Chunk);
    }
    Ok(Some(trailers))
}

/// Parses trailers with field lines that are malformed, but tolerable.
fn repair_trailers(buffer: &[u8]) -> Result<Option<(HeaderMap, usize)>, Http1Error> {
    let Some(repaired) = repair(buffer, false) else { return Ok(None) };
    let parsed = parse_trailers(&repaired.bytes)?;
    Ok(parsed.map(|(trailers, _)| (trailers, repaired.length)))
}

/// Returns the trailers at the start of the buffer and their length.
fn parse_trailers(buffer: &[u8]) -> Result<Option<(HeaderMap, usize)>, Http1Error> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Status::Complete((length, fields)) = httparse::parse_headers(buffer, &mut fields)? else {
        return Ok(None);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| httparse::Error::HeaderValue)?;
        trailers.append(name, value);
    }
    Ok(Some((trailers, length)))
}

/// Maximum length of a line with a chunk's size and its extensions, in bytes.
const MAX_CHUNK_SIZE_LINE: usize = 4 * 1024;
/// Maximum size of all trailers, in bytes.
const MAX_TRAILERS_SIZE: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    struct DecodedBody {
        data: Vec<u8>,
        trailers: Option<HeaderMap>,
        rest: Vec<u8>,
    }

    /// Decodes a chunked body that is received in two parts.
    fn decode(text: &[u8], split: usize) -> Result<DecodedBody, Http1Error> {
        let mut decoder = BodyDecoder::Chunked(ChunkedState::default());
        let mut buffer = BytesMut::from(&text[..split]);
        let mut second_part = Some(&text[split..]);
        let mut body = DecodedBody { data: Vec::new(), trailers: None, rest: Vec::new() };
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => body.data.extend_from_slice(&data),
                Decoded::Trailers(trailers) => body.trailers = Some(trailers),
                Decoded::End => break,
                Decoded::Incomplete => {
                    buffer.extend_from_slice(second_part.take().ok_or(Http1Error::Closed)?);
                }
            }
        }
        assert!(decoder.is_finished());
        body.rest = [&buffer, second_part.unwrap_or_default()].concat();
        Ok(body)
    }

    #[test]
    fn chunks_are_decoded_at_any_split() {
        let text = b"4;name=\"v\"\r\nwiki\r\n0A\r\npedia in \n\r\n00\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\nHTTP/1.1";
        for split in 0..=text.len() {
            let body = decode(text, split).unwrap();
            assert_eq!(body.data, b"wikipedia in \n", "{split}");
            let sums: Vec<_> = body.trailers.iter().flatten().map(|(_, value)| value.as_bytes()).collect();
            assert_eq!(sums, [b"7", b"8"], "{split}");
            assert_eq!(body.rest, b"HTTP/1.1", "{split}");
        }
        assert!(decode(b"0\r\n\r\n", 3).unwrap().trailers.is_none());
    }

    #[test]
    fn malformed_chunk_is_an_error() {
        let sizes = ["\r\n", "zz\r\n", "-1\r\n", "+1\r\nx\r\n", "0x1\r\nx\r\n", " 1\r\nx\r\n", " \r\n"];
        let size_lines = [
            "1\nx\r\n",
            "1\rx\r\n",
            "1 x\r\nx\r\n",
            "10000000000000000\r\nx\r\n",
            "1\x0c\r\nx\r\n",
            "1 \x0c;a\r\nx\r\n",
        ];
        let extensions = [";x\r\n", "1;\r;\r\nx\r\n"];
        let chunk_ends = ["1\r\nxx\r\n", "1\r\nx\n0\r\n\r\n", "1\r\nx0\r\n\r\n"];
        let trailers = [
            "0\r\nX(a): 1\n\r\n",
            "0\r\nX(a): \0\r\n\r\n",
            "0\r\n\n",
            "0\r\nX-Sum: 7\n\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\n folded: 1\r\n\r\n",
        ];
        for text in [&sizes[..], &size_lines, &extensions, &chunk_ends, &trailers].concat() {
            for split in 0..=text.len() {
                let result = decode(text.as_bytes(), split);
                let error = result.err().unwrap_or_else(|| panic!("{text:?} at {split}"));
                assert!(!matches!(error, Http1Error::Closed), "{text:?}: {error}");
            }
        }
        for truncated in ["", "1", "1\r\n", "1\r\nx", "1\r\nx\r\n", "0\r\n", "0\r\nX-Sum: 7\r\n"] {
            assert!(matches!(decode(truncated.as_bytes(), 0), Err(Http1Error::Closed)), "{truncated:?}");
        }
        let endless = [b"1;".as_slice(), &[b'x'; MAX_CHUNK_SIZE_LINE]].concat();
        assert!(matches!(decode(&endless, 1), Err(Http1Error::Chunk)));
    }

    #[test]
    fn limits_do_not_depend_on_how_bytes_arrive() {
        let size_line = |length: usize| format!("0;{}\r\n\r\n", "x".repeat(length - 4));
        let trailers = |length: usize| format!("0\r\nA: {}\r\n\r\n", "x".repeat(length - 7));
        for (body, limit) in
            [(&size_line as &dyn Fn(usize) -> String, MAX_CHUNK_SIZE_LINE), (&trailers, MAX_TRAILERS_SIZE)]
        {
            let longest = body(limit);
            let too_long = body(limit + 1);
            for split in [0, 1, longest.len() - 3, longest.len()] {
                assert!(decode(longest.as_bytes(), split).is_ok(), "{split}");
                assert!(decode(too_long.as_bytes(), split).is_err(), "{split}");
            }
        }
    }

    #[test]
    fn length_leaves_the_following_bytes() {
        let mut decoder = BodyDecoder::Length(5);
        let mut buffer = BytesMut::from("hel");
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "hel"));
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Incomplete)));
        buffer.extend_from_slice(b"loHTTP");
        assert_eq!(decoder.remaining(), Some(2));
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(data)) if data == "lo"));
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::End)) && decoder.is_finished());
        assert_eq!(&buffer[..], b"HTTP");
    }
}
