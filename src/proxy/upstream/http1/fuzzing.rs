//! Properties of parsing response heads and of decoding chunked bodies.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{Method, Response, StatusCode, Version};
use httparse::Status;
use hyper::ext::ReasonPhrase;

use super::framing::{BodyDecoder, ChunkedState, Decoded};
use super::response_head::{ResponseHead, parse_response_head};
use crate::fuzzing::divisions::divisions;
use crate::http_headers::split_list;
use crate::proxy::content_length;
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::hop_by_hop;

/// Checks the parser of response heads with `input` as the response to a `GET` and to a `HEAD`.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_response_head(input: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let parsed = parse(&[input], &method);
        for pieces in divisions(input) {
            assert_eq!(parse(&pieces, &method), parsed, "in pieces");
        }
        let Parsed::Head(head) = parsed else { continue };
        assert_eq!(Some(head.length), head_length(input));
        head.check_fields(input);
        head.check_framing(&method);
        head.check_written(&method);
    }
}

/// The result of parsing a response head.
#[derive(Debug, PartialEq)]
enum Parsed {
    Head(Box<Head>),
    Incomplete,
    Invalid,
}

#[derive(Debug, PartialEq)]
struct Head {
    version: Version,
    status: StatusCode,
    reason: Vec<u8>,
    headers: HeaderMap,
    decoder: BodyDecoder,
    keep_alive: bool,
    /// Number of bytes taken off the input.
    length: usize,
}

/// Parses a head that is received in pieces.
fn parse(pieces: &[&[u8]], method: &Method) -> Parsed {
    let mut buffer = BytesMut::new();
    let mut received = 0;
    for piece in pieces {
        buffer.extend_from_slice(piece);
        received += piece.len();
        let available = buffer.len();
        match parse_response_head(&mut buffer, method) {
            Ok(Some(head)) => return Parsed::Head(Box::new(Head::new(head, received - buffer.len()))),
            Ok(None) => assert_eq!(buffer.len(), available, "an incomplete head stays in the buffer"),
            Err(_) => return Parsed::Invalid,
        }
    }
    Parsed::Incomplete
}

impl Head {
    fn new(head: ResponseHead, length: usize) -> Self {
        let ResponseHead { response, decoder, keep_alive } = head;
        let reason = reason_of(&response);
        let (parts, ()) = response.into_parts();
        Self {
            version: parts.version,
            status: parts.status,
            reason,
            headers: parts.headers,
            decoder,
            keep_alive,
            length,
        }
    }

    /// The status line and the fields are those that httparse finds, without those of the connection. Heads that are
    /// repaired before httparse accepts them are left out.
    fn check_fields(&self, input: &[u8]) {
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let mut parsed = httparse::Response::new(&mut fields);
        let Ok(Status::Complete(length)) = parsed.parse(input) else { return };
        assert_eq!(length, self.length);
        assert_eq!(parsed.code, Some(self.status.as_u16()));
        assert_eq!(parsed.version == Some(1), self.version == Version::HTTP_11);
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            assert_eq!(self.headers.len(), parsed.headers.len());
            return;
        }
        let options = values_of(parsed.headers, "connection").flat_map(split_list);
        let named: Vec<&[u8]> = options.filter(|option| !option.eq_ignore_ascii_case(b"close")).collect();
        for field in &*parsed.headers {
            let kept: Vec<&[u8]> =
                self.headers.get_all(field.name).iter().map(|value| value.as_bytes()).collect();
            // All spellings of `Content-Length` are framing, which is checked separately.
            if field.name.eq_ignore_ascii_case("content-length") {
                continue;
            }
            let is_dropped = hop_by_hop::is_framing(&field.name.to_ascii_lowercase())
                || named.iter().any(|named| named.eq_ignore_ascii_case(field.name.as_bytes()));
            let sent: Vec<&[u8]> = values_of(parsed.headers, field.name).collect();
            assert_eq!(kept, if is_dropped { Vec::new() } else { sent }, "{}", field.name);
        }
        for name in self.headers.keys() {
            assert!(parsed.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name.as_str())));
        }
    }

    /// The fields agree with the framing (RFC 9112, section 6.3).
    fn check_framing(&self, method: &Method) {
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            assert_eq!(self.decoder, BodyDecoder::Length(0));
            return;
        }
        for name in hop_by_hop::HOP_BY_HOP {
            assert!(!self.headers.contains_key(name), "{name}");
        }
        let lengths: Vec<&[u8]> =
            self.headers.get_all(CONTENT_LENGTH).iter().map(|value| value.as_bytes()).collect();
        assert!(lengths.len() <= 1 && lengths.iter().all(|length| content_length::is_canonical(length)));
        let is_bodiless = self.is_bodiless(method);
        match self.decoder {
            BodyDecoder::Length(0) if is_bodiless => {}
            BodyDecoder::Length(length) => {
                let is_named = lengths.iter().all(|value| **value == *length.to_string().as_bytes());
                assert!(!is_bodiless && is_named);
            }
            BodyDecoder::Chunked(_) => assert!(!is_bodiless && lengths.is_empty()),
            BodyDecoder::UntilClose => assert!(!is_bodiless && lengths.is_empty() && !self.keep_alive),
        }
    }

    /// Returns `true` if the length of the body stood in a field that `Connection` named.
    fn hides_length(&self, method: &Method) -> bool {
        let has_length = matches!(self.decoder, BodyDecoder::Length(_)) && !self.is_bodiless(method);
        has_length && !self.headers.contains_key(CONTENT_LENGTH)
    }

    fn is_bodiless(&self, method: &Method) -> bool {
        let is_bodiless_status = self.status.is_informational() || matches!(self.status.as_u16(), 204 | 304);
        is_bodiless_status || *method == Method::HEAD
    }

    /// The head in canonical form is parsed to the same head.
    fn check_written(&self, method: &Method) {
        let mut written = format!("{:?} {} ", self.version, self.status.as_u16()).into_bytes();
        written.extend_from_slice(&self.reason);
        written.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            HeaderWriter::copy(&mut written, name, value);
        }
        if matches!(self.decoder, BodyDecoder::Chunked(_)) {
            written.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if self.status != StatusCode::SWITCHING_PROTOCOLS {
            let option = if self.keep_alive { "keep-alive" } else { "close" };
            written.extend_from_slice(format!("connection: {option}\r\n").as_bytes());
        }
        written.extend_from_slice(b"\r\n");
        // The head may be longer than that which was sent, and so exceed a limit.
        let is_near_limit = written.len() > 60 * 1024 || self.headers.len() > 250;
        if is_near_limit || self.hides_length(method) {
            return;
        }
        let Parsed::Head(again) = parse(&[&written], method) else {
            panic!("{} is not parsed", written.escape_ascii());
        };
        assert_eq!(again.length, written.len());
        assert_eq!(Self { length: self.length, ..*again }, *self);
    }
}

fn reason_of(response: &Response<()>) -> Vec<u8> {
    let canonical = response.status().canonical_reason().unwrap_or_default().as_bytes();
    response.extensions().get::<ReasonPhrase>().map_or(canonical, ReasonPhrase::as_bytes).to_vec()
}

fn values_of<'h>(fields: &[httparse::Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Returns the length of the head at the start of `input`, which ends with the first empty line after its status line.
fn head_length(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    let mut has_status_line = false;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        length += line.len();
        let is_empty = matches!(line, b"\n" | b"\r\n");
        if is_empty && has_status_line {
            return Some(length);
        }
        has_status_line |= !is_empty;
    }
    None
}

/// Checks the decoder of chunked bodies, and that of bodies with a length.
///
/// # Panics
///
/// If a property does not hold.
pub fn check_chunked_framing(input: &[u8]) {
    let body = decode(chunked(), &[input]);
    for pieces in divisions(input) {
        assert_eq!(decode(chunked(), &pieces), body, "in pieces");
        check_length(input, &pieces);
    }
    let BodyEnd::Complete { trailers, length } = body.end else { return };
    let (data, start_of_trailers) = chunks_of(input).unwrap_or_else(|| panic!("accepted an invalid chunk"));
    assert_eq!(body.data, data);
    let section = &input[start_of_trailers..length];
    assert!(section == b"\r\n" || section.ends_with(b"\r\n\r\n"));
    assert!(trailers.len() <= memchr::memchr_iter(b'\n', section).count());
    check_reencoded(&data, trailers);
}

/// The result of decoding a body.
#[derive(Debug, PartialEq)]
struct DecodedBody {
    data: Vec<u8>,
    end: BodyEnd,
}

#[derive(Debug, PartialEq)]
enum BodyEnd {
    /// The trailers, and the number of bytes that were taken off the input.
    Complete {
        trailers: HeaderMap,
        length: usize,
    },
    Incomplete,
    Invalid,
}

/// Decodes a body that is received in pieces.
fn decode(mut decoder: BodyDecoder, pieces: &[&[u8]]) -> DecodedBody {
    let mut body = DecodedBody { data: Vec::new(), end: BodyEnd::Incomplete };
    let mut buffer = BytesMut::new();
    let mut trailers = HeaderMap::new();
    let mut received = 0;
    // The end of an empty body is found without a byte.
    for piece in pieces.iter().copied().chain([&b""[..]]) {
        buffer.extend_from_slice(piece);
        received += piece.len();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Data(data)) => {
                    assert!(!data.is_empty());
                    body.data.extend_from_slice(&data);
                }
                Ok(Decoded::Trailers(decoded)) => trailers = decoded,
                Ok(Decoded::End) => {
                    assert!(decoder.is_finished() && decoder.remaining() == Some(0));
                    body.end = BodyEnd::Complete { trailers, length: received - buffer.len() };
                    return body;
                }
                Ok(Decoded::Incomplete) => break,
                Err(_) => return DecodedBody { end: BodyEnd::Invalid, ..body },
            }
        }
        assert!(!decoder.is_finished());
    }
    body
}

/// A body with a length ends after as many bytes.
fn check_length(input: &[u8], pieces: &[&[u8]]) {
    let length = input.len() / 2;
    let body = decode(BodyDecoder::Length(length as u64), pieces);
    assert_eq!(body.data, input[..length]);
    assert_eq!(body.end, BodyEnd::Complete { trailers: HeaderMap::new(), length });
    let body = decode(BodyDecoder::Length(input.len() as u64 + 1), pieces);
    assert_eq!(body, DecodedBody { data: input.to_vec(), end: BodyEnd::Incomplete });
}

/// Decodes the chunks of a whole body with httparse. Returns the data, and the length up to the trailers.
fn chunks_of(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data = Vec::new();
    let mut rest = input;
    loop {
        // httparse accepts 16 digits only.
        let zeros = rest.iter().take_while(|byte| **byte == b'0').count();
        rest = &rest[zeros.saturating_sub(1)..];
        let has_digit = rest.first()?.is_ascii_hexdigit();
        let Ok(Status::Complete((length, size))) = httparse::parse_chunk_size(rest) else { return None };
        rest = rest.get(length..).filter(|_| has_digit)?;
        if size == 0 {
            return Some((data, input.len() - rest.len()));
        }
        let (chunk, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
        data.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n")?;
    }
}

/// A body in canonical form is decoded to the same body.
fn check_reencoded(data: &[u8], trailers: HeaderMap) {
    let mut encoded = Vec::new();
    if !data.is_empty() {
        encoded = [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
    }
    encoded.extend_from_slice(b"0\r\n");
    let start_of_trailers = encoded.len();
    for (name, value) in &trailers {
        HeaderWriter::copy(&mut encoded, name, value);
    }
    encoded.extend_from_slice(b"\r\n");
    // The trailers may be longer than those that were sent, and so exceed their limit.
    if encoded.len() - start_of_trailers > 15 * 1024 {
        return;
    }
    let end = BodyEnd::Complete { trailers, length: encoded.len() };
    let expected = DecodedBody { data: data.to_vec(), end };
    assert_eq!(decode(chunked(), &[&encoded]), expected);
}

fn chunked() -> BodyDecoder {
    BodyDecoder::Chunked(ChunkedState::default())
}
