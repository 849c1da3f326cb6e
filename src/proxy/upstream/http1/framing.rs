//! Where an answer's body ends (RFC 9112, sections 6 and 7).

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use httparse::Status;

use super::Http1Error;

/// How much of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked(Chunks),
    Length(u64),
    UntilClose,
}

/// What is next in what was read.
pub(super) enum Next {
    Data(Bytes),
    End,
    More,
    Trailers(HeaderMap),
}

impl Framing {
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Over))
    }

    /// How many bytes are left, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(Chunks::Over) => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Next, Http1Error> {
        match self {
            Self::Chunked(chunks) => chunks.next(read),
            Self::Length(0) => Ok(Next::End),
            _ if read.is_empty() => Ok(Next::More),
            Self::Length(left) => Ok(Next::Data(take(read, left))),
            Self::UntilClose => Ok(Next::Data(read.split().freeze())),
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
pub(super) enum Chunks {
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

impl Chunks {
    fn next(&mut self, read: &mut BytesMut) -> Result<Next, Http1Error> {
        loop {
            match self {
                Self::Size => {
                    let Some(size) = take_size(read)? else { return Ok(Next::More) };
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(_) if read.is_empty() => return Ok(Next::More),
                Self::Data(left) => return Ok(Next::Data(take(read, left))),
                Self::DataEnd => match &**read {
                    [b'\r', b'\n', ..] => {
                        drop(read.split_to(2));
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Next::More),
                    _ => return Err(Http1Error::Chunk),
                },
                Self::Trailers => {
                    let Some(trailers) = take_trailers(read)? else { return Ok(Next::More) };
                    *self = Self::Over;
                    return Ok(if trailers.is_empty() { Next::End } else { Next::Trailers(trailers) });
                }
                Self::Over => return Ok(Next::End),
            }
        }
    }
}

/// Extensions are dropped (RFC 9112, section 7.1.1).
fn take_size(read: &mut BytesMut) -> Result<Option<u64>, Http1Error> {
    let Some(end) = memchr::memchr(b'\n', read) else {
        return if read.len() > LONGEST_LINE { Err(Http1Error::Chunk) } else { Ok(None) };
    };
    let line = read.split_to(end + 1);
    match httparse::parse_chunk_size(&line) {
        Ok(Status::Complete((length, size))) if length == line.len() => Ok(Some(size)),
        _ => Err(Http1Error::Chunk),
    }
}

fn take_trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, Http1Error> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let Status::Complete((length, fields)) = httparse::parse_headers(read, &mut fields)? else {
        return if read.len() > LONGEST_TRAILERS { Err(Http1Error::TooLong) } else { Ok(None) };
    };
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
const MOST_TRAILERS: usize = 32;
