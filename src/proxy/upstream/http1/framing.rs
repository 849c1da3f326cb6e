//! Where an answer's body ends (RFC 9112, sections 6 and 7).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use httparse::Status;

use super::Http1Error;

/// How much of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyDecoder {
    Chunked(ChunkedState),
    Length(u64),
    UntilClose,
}

/// What is next in what was read.
pub(super) enum Decoded {
    Data(Bytes),
    End,
    More,
    Trailers(HeaderMap),
}

impl BodyDecoder {
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(ChunkedState::Over))
    }

    /// How many bytes are left, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(ChunkedState::Over) => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Decoded, Http1Error> {
        match self {
            Self::Chunked(chunks) => chunks.next(read),
            Self::Length(0) => Ok(Decoded::End),
            _ if read.is_empty() => Ok(Decoded::More),
            Self::Length(left) => Ok(Decoded::Data(take(read, left))),
            Self::UntilClose => Ok(Decoded::Data(read.split().freeze())),
        }
    }
}

fn take(read: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    read.split_to(length).freeze()
}

/// How far a body in chunks has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum ChunkedState {
    /// A chunk's size is next.
    #[default]
    Size,
    /// So much is left of a chunk.
    Data(u64),
    /// The line that ends a chunk.
    DataEnd,
    Trailers,
    Over,
}

impl ChunkedState {
    fn next(&mut self, read: &mut BytesMut) -> Result<Decoded, Http1Error> {
        loop {
            match self {
                Self::Size => {
                    let Some(size) = take_size(read)? else { return Ok(Decoded::More) };
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(_) if read.is_empty() => return Ok(Decoded::More),
                Self::Data(left) => return Ok(Decoded::Data(take(read, left))),
                Self::DataEnd => match &**read {
                    [b'\r', b'\n', ..] => {
                        drop(read.split_to(2));
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More),
                    _ => return Err(Http1Error::Chunk),
                },
                Self::Trailers => {
                    let Some(trailers) = take_trailers(read)? else { return Ok(Decoded::More) };
                    *self = Self::Over;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
                Self::Over => return Ok(Decoded::End),
            }
        }
    }
}

fn take_size(read: &mut BytesMut) -> Result<Option<u64>, Http1Error> {
    let Some(end) = memchr::memchr(b'\n', read) else {
        return if read.len() > LONGEST_LINE { Err(Http1Error::Chunk) } else { Ok(None) };
    };
    size(&read.split_to(end + 1)).ok_or(Http1Error::Chunk).map(Some)
}

/// A chunk's size. Extensions are dropped (RFC 9112, section 7.1.1). httparse takes a line without any
/// digits for the last chunk.
fn size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let is_extension = matches!(rest.trim_ascii_start(), [] | [b';', ..]) && !rest.contains(&b'\r');
    // Neither empty nor too large.
    let size = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    is_extension.then_some(size)
}

fn take_trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, Http1Error> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let Status::Complete((length, fields)) = httparse::parse_headers(read, &mut fields)? else {
        return if read.len() > LONGEST_TRAILERS { Err(Http1Error::TooLong) } else { Ok(None) };
    };
    // A line feed alone ends a line for the parser.
    let mut line_feeds = memchr::memchr_iter(b'\n', &read[..length]);
    if line_feeds.any(|at| at == 0 || read[at - 1] != b'\r') {
        return Err(Http1Error::Chunk);
    }
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| httparse::Error::HeaderValue)?;
        trailers.append(name, value);
    }
    drop(read.split_to(length));
    Ok(Some(trailers))
}

/// Of a chunk's size with its extensions, in bytes.
const LONGEST_LINE: usize = 4 * 1024;
const LONGEST_TRAILERS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// A body in chunks that is read in two pieces, its trailers, and what comes after.
    fn read(text: &[u8], split: usize) -> Result<Parts, Http1Error> {
        let (mut chunks, mut read) =
            (BodyDecoder::Chunked(ChunkedState::default()), BytesMut::from(&text[..split]));
        let (mut body, mut trailers, mut rest) = (Vec::new(), None, Some(&text[split..]));
        loop {
            match chunks.next(&mut read)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::End => break,
                Decoded::More => read.extend_from_slice(rest.take().ok_or(Http1Error::Closed)?),
            }
        }
        assert!(chunks.is_over());
        Ok((body, trailers, [&read, rest.unwrap_or_default()].concat()))
    }

    #[test]
    fn chunks_are_read_however_they_are_split() {
        let text = b"4;name=\"v\"\r\nwiki\r\n0A\r\npedia in \n\r\n00\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\nHTTP/1.1";
        for split in 0..=text.len() {
            let (body, trailers, rest) = read(text, split).unwrap();
            assert_eq!(body, b"wikipedia in \n", "{split}");
            let sums: Vec<_> = trailers.iter().flatten().map(|(_, value)| value.as_bytes()).collect();
            assert_eq!(sums, [b"7", b"8"], "{split}");
            assert_eq!(rest, b"HTTP/1.1", "{split}");
        }
        assert!(read(b"0\r\n\r\n", 3).unwrap().1.is_none());
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for text in [
            "\r\n",
            "zz\r\n",
            "-1\r\n",
            "+1\r\nx\r\n",
            "0x1\r\nx\r\n",
            " 1\r\nx\r\n",
            "1\nx\r\n",
            "1\rx\r\n",
            " \r\n",
            ";x\r\n",
            "1;\r;\r\nx\r\n",
            "1 x\r\nx\r\n",
            "1\r\nxx\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx0\r\n\r\n",
            "10000000000000000\r\nx\r\n",
            "0\r\n\n",
            "0\r\nX-Sum: 7\n\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\n folded: 1\r\n\r\n",
        ] {
            for split in 0..=text.len() {
                let error = read(text.as_bytes(), split).expect_err(text);
                assert!(!matches!(error, Http1Error::Closed), "{text:?}: {error}");
            }
        }
        for half in ["", "1", "1\r\n", "1\r\nx", "1\r\nx\r\n", "0\r\n", "0\r\nX-Sum: 7\r\n"] {
            assert!(matches!(read(half.as_bytes(), 0), Err(Http1Error::Closed)), "{half:?}");
        }
        let endless = [b"1;".as_slice(), &[b'x'; LONGEST_LINE]].concat();
        assert!(matches!(read(&endless, 1), Err(Http1Error::Chunk)));
    }

    #[test]
    fn a_length_leaves_what_comes_after() {
        let (mut framing, mut read) = (BodyDecoder::Length(5), BytesMut::from("hel"));
        assert!(matches!(framing.next(&mut read), Ok(Decoded::Data(data)) if data == "hel"));
        assert!(matches!(framing.next(&mut read), Ok(Decoded::More)));
        read.extend_from_slice(b"loHTTP");
        assert_eq!(framing.left(), Some(2));
        assert!(matches!(framing.next(&mut read), Ok(Decoded::Data(data)) if data == "lo"));
        assert!(matches!(framing.next(&mut read), Ok(Decoded::End)) && framing.is_over());
        assert_eq!(&read[..], b"HTTP");
    }
}
