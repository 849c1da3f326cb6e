//! Parsing response heads (RFC 9112, sections 4 to 6).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::error::Http1Error;
use super::field_lines::{Repaired, repair};
use super::framing::{BodyDecoder, ChunkedState};
use crate::http_headers::split_list;
use crate::proxy::content_length;
use crate::proxy::hop_by_hop;

/// A response head, without the hop-by-hop fields.
pub(crate) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) decoder: BodyDecoder,
    /// True if the connection can carry another request.
    pub(super) keep_alive: bool,
}

impl ResponseHead {
    /// Returns `true` for a 1xx response, which precedes the final one (RFC 9110, section 15.2). 101 is
    /// final.
    pub(super) fn is_interim(&self) -> bool {
        let status = self.response.status();
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// A field that was dropped from a response, because its name is no token. An extension of the response.
#[derive(Clone, Debug)]
pub(crate) struct DroppedField(pub(crate) String);

/// Takes the head of a response to `method` off the buffer. Returns `None` if it is incomplete.
pub(super) fn parse_response_head(
    buffer: &mut BytesMut,
    method: &Method,
) -> Result<Option<ResponseHead>, Http1Error> {
    match parse_strictly(buffer, method) {
        Err(Http1Error::Head(httparse::Error::HeaderName)) => parse_repaired(buffer, method),
        result => result,
    }
}

/// Parses a head with field lines that are malformed, but tolerable.
fn parse_repaired(buffer: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Http1Error> {
    let repaired = repair(buffer, true).filter(|repaired| repaired.length <= MAX_HEAD_SIZE);
    let Some(Repaired { bytes, length, dropped }) = repaired else {
        return if buffer.len() >= MAX_HEAD_SIZE { Err(Http1Error::TooLarge) } else { Ok(None) };
    };
    drop(buffer.split_to(length));
    let mut head = parse_strictly(&mut BytesMut::from(&*bytes), method)?;
    if let (Some(head), Some(name)) = (&mut head, dropped) {
        head.response.extensions_mut().insert(DroppedField(name));
    }
    Ok(head)
}

fn parse_strictly(buffer: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, Http1Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields)? {
        Status::Complete(length) if length <= MAX_HEAD_SIZE => length,
        _ if buffer.len() >= MAX_HEAD_SIZE => return Err(Http1Error::TooLarge),
        _ => return Ok(None),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    let status = status.map_err(|_| httparse::Error::Status)?;
    let is_http10 = parsed.version == Some(0);
    let is_switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let has_own_reason = parsed.reason != status.canonical_reason();
    let mut framing = FramingHeaders::default();
    // The values are slices of the buffer, so that they share its memory.
    let start = buffer.as_ptr().addr();
    let mut kept = Vec::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let scope = framing.add(name.as_str(), field.value)?;
        // The upgrade code checks `Connection` and `Upgrade` of a 101 response.
        if scope == HeaderScope::EndToEnd || is_switching {
            let offset = field.value.as_ptr().addr() - start;
            kept.push((name, offset..offset + field.value.len()));
        }
    }
    let head = buffer.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(kept.len() + EXTRA_FIELDS);
    for (name, range) in kept {
        let value = HeaderValue::from_maybe_shared(head.slice(range));
        headers.append(name, value.map_err(|_| httparse::Error::HeaderValue)?);
    }
    let decoder = framing.decoder(method, status, is_http10)?;
    // The connection has another protocol after a 101 response (RFC 9110, section 15.2.2).
    let ends_connection = is_switching || decoder == BodyDecoder::UntilClose;
    let keep_alive = framing.keep_alive(is_http10) && !ends_connection;
    if !is_switching {
        framing.normalize(&mut headers);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = headers;
    if has_own_reason {
        response.extensions_mut().insert(reason_phrase(&head));
    }
    Ok(Some(ResponseHead { response, decoder, keep_alive }))
}

/// Returns the reason phrase of a head, which may be empty (RFC 9112, section 4).
fn reason_phrase(head: &Bytes) -> ReasonPhrase {
    let mut lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let status_line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut parts = status_line.splitn(3, |&byte| byte == b' ');
    let phrase = parts.nth(2).unwrap_or_default();
    // The parser has accepted the phrase, so it is valid.
    ReasonPhrase::try_from(phrase).unwrap_or(EMPTY_REASON)
}

/// The reason phrase of a status that has none.
pub(crate) const EMPTY_REASON: ReasonPhrase = ReasonPhrase::from_static(b"");

/// The fields of a response head that concern the connection and the body's framing.
#[derive(Default)]
struct FramingHeaders {
    has_close: bool,
    has_keep_alive: bool,
    /// Fields that `Connection` names, besides the standard hop-by-hop fields.
    connection_fields: Vec<HeaderName>,
    is_chunked: bool,
    /// True if there is a transfer coding besides `chunked`, or more than one.
    has_other_coding: bool,
    content_length: Option<u64>,
    /// True if `Content-Length` is repeated, or not in canonical form.
    needs_canonical_length: bool,
}

/// The recipient of a header field (RFC 9110, section 7.6.1).
#[derive(PartialEq, Eq)]
enum HeaderScope {
    EndToEnd,
    HopByHop,
}

impl FramingHeaders {
    fn add(&mut self, name: &str, value: &[u8]) -> Result<HeaderScope, Http1Error> {
        match name {
            "connection" => self.add_connection(value),
            "content-length" => return self.add_content_length(value),
            "transfer-encoding" if !self.is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                self.is_chunked = true;
            }
            "transfer-encoding" => self.has_other_coding = true,
            name if hop_by_hop::is_framing(name) => {}
            _ => return Ok(HeaderScope::EndToEnd),
        }
        Ok(HeaderScope::HopByHop)
    }

    fn add_connection(&mut self, list: &[u8]) {
        for option in split_list(list) {
            if option.eq_ignore_ascii_case(b"close") {
                self.has_close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.has_keep_alive = true;
            } else {
                self.connection_fields.extend(HeaderName::from_bytes(option));
            }
        }
    }

    /// Accepts repeated equal lengths as one (RFC 9112, section 6.3).
    fn add_content_length(&mut self, list: &[u8]) -> Result<HeaderScope, Http1Error> {
        let is_first = self.content_length.is_none();
        for number in split_list(list) {
            let length = content_length::parse_length(number).ok_or(Http1Error::Length)?;
            if *self.content_length.get_or_insert(length) != length {
                return Err(Http1Error::Length);
            }
        }
        if is_first && content_length::is_canonical(list) {
            return Ok(HeaderScope::EndToEnd);
        }
        self.needs_canonical_length = true;
        Ok(HeaderScope::HopByHop)
    }

    /// Determines the framing of the body (RFC 9112, section 6.3).
    fn decoder(
        &self,
        method: &Method,
        status: StatusCode,
        is_http10: bool,
    ) -> Result<BodyDecoder, Http1Error> {
        let is_bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        Ok(match self.content_length {
            // Regardless of its fields.
            _ if is_bodiless => BodyDecoder::Length(0),
            _ if self.has_faulty_coding(is_http10) => return Err(Http1Error::Coding),
            _ if self.is_chunked => BodyDecoder::Chunked(ChunkedState::default()),
            Some(length) => BodyDecoder::Length(length),
            None => BodyDecoder::UntilClose,
        })
    }

    /// Decides whether the connection persists (RFC 9112, section 9.3).
    ///
    /// It does not after a response with both `Content-Length` and `Transfer-Encoding`, which may be an
    /// attempt at response splitting (RFC 9112, section 6.3).
    fn keep_alive(&self, is_http10: bool) -> bool {
        let is_requested = !self.has_close && (self.has_keep_alive || !is_http10);
        let is_ambiguous = self.has_coding() && self.content_length.is_some();
        is_requested && !is_ambiguous && !self.has_faulty_coding(is_http10)
    }

    fn has_coding(&self) -> bool {
        self.is_chunked || self.has_other_coding
    }

    /// Returns `true` for codings other than `chunked`, and for those of HTTP/1.0, which has none (RFC 9112,
    /// section 6.1).
    fn has_faulty_coding(&self, is_http10: bool) -> bool {
        self.has_other_coding || self.is_chunked && is_http10
    }

    /// Removes the fields that `Connection` names, and leaves at most one canonical `Content-Length`.
    fn normalize(self, headers: &mut HeaderMap) {
        for name in &self.connection_fields {
            headers.remove(name);
        }
        match self.content_length {
            Some(_) if self.has_coding() => _ = headers.remove(CONTENT_LENGTH),
            Some(length) if self.needs_canonical_length => _ = headers.insert(CONTENT_LENGTH, length.into()),
            _ => {}
        }
    }
}

/// Maximum number of fields in a response head.
const MAX_FIELDS: usize = 256;
/// Maximum size of a response head, in bytes.
const MAX_HEAD_SIZE: usize = 64 * 1024;
/// Spare capacity for the fields that the gateway adds.
const EXTRA_FIELDS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<ResponseHead, Http1Error> {
        let mut buffer = BytesMut::from(&*format!("HTTP/1.1 200 OK\r\n{fields}\r\nrest"));
        let head = parse_response_head(&mut buffer, &Method::GET)?.expect("complete head");
        assert_eq!(&buffer[..], b"rest");
        Ok(head)
    }

    fn response_to(method: Method, head: &str) -> ResponseHead {
        parse_response_head(&mut BytesMut::from(head), &method).expect("valid head").expect("complete head")
    }

    #[test]
    fn body_framing_is_unambiguous() {
        let chunked = || BodyDecoder::Chunked(ChunkedState::default());
        for (fields, decoder, length, keep_alive) in [
            ("", BodyDecoder::UntilClose, None, false),
            ("Content-Length: 7\r\n", BodyDecoder::Length(7), Some("7"), true),
            ("Content-Length: 007\r\n", BodyDecoder::Length(7), Some("7"), true),
            ("Content-Length: 7\r\nContent-Length: 7\r\n", BodyDecoder::Length(7), Some("7"), true),
            ("Content-Length: 7, 07\r\n", BodyDecoder::Length(7), Some("7"), true),
            ("Transfer-Encoding: Chunked\r\n", chunked(), None, true),
            ("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", chunked(), None, false),
            ("Transfer-Encoding: chunked\r\nContent-Length: 7\r\n", chunked(), None, false),
        ] {
            let head = parse(fields).unwrap();
            assert_eq!((head.decoder, head.keep_alive), (decoder, keep_alive), "{fields}");
            let headers = head.response.headers();
            let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, Vec::from_iter(length), "{fields}");
            assert!(!headers.contains_key("transfer-encoding"), "{fields}");
        }
    }

    #[test]
    fn contradictory_framing_is_an_error() {
        let twice = "7\r\nContent-Length: 8";
        for value in [twice, "7, 8", "7,", "+7", "-7", "0x7", "", "18446744073709551616"] {
            let result = parse(&format!("Content-Length: {value}\r\n"));
            assert!(matches!(result, Err(Http1Error::Length)), "{value}");
        }
        for fields in [
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
        ] {
            assert!(matches!(parse(fields), Err(Http1Error::Coding)), "{fields}");
        }
        let mut http10 = BytesMut::from("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(matches!(parse_response_head(&mut http10, &Method::GET), Err(Http1Error::Coding)));
        for fields in
            ["no field\r\n", " folded: 1\r\n", "A b: 1\r\n", "A: 1\r\n b\r\n", "A: \0\r\n", ": 1\r\n"]
        {
            assert!(matches!(parse(fields), Err(Http1Error::Head(_))), "{fields:?}");
        }
    }

    #[test]
    fn bodiless_responses_ignore_content_length() {
        let length = "Content-Length: 7\r\n\r\n";
        for (method, status) in
            [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 101)]
        {
            let head = response_to(method, &format!("HTTP/1.1 {status} X\r\n{length}"));
            assert_eq!(head.decoder, BodyDecoder::Length(0), "{status}");
        }
        for coding in ["gzip, chunked", "chunked\r\nTransfer-Encoding: chunked", "identity", ""] {
            let fields = format!("Transfer-Encoding: {coding}\r\nContent-Length: 7\r\n\r\n");
            for (method, status) in [(Method::HEAD, "HTTP/1.1 200"), (Method::GET, "HTTP/1.0 304")] {
                let head = response_to(method, &format!("{status} X\r\n{fields}"));
                assert_eq!((head.decoder, head.keep_alive), (BodyDecoder::Length(0), false), "{coding}");
                assert!(head.response.headers().is_empty(), "{coding}");
            }
        }
        assert!(response_to(Method::GET, "HTTP/1.1 103 Early Hints\r\n\r\n").is_interim());
        assert!(!response_to(Method::GET, "HTTP/1.1 101 Switching Protocols\r\n\r\n").is_interim());
    }

    #[test]
    fn connection_persists_if_both_sides_allow_it() {
        for (head, keep_alive) in [
            ("HTTP/1.1 204 X\r\n\r\n", true),
            ("HTTP/1.1 204 X\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.1 204 X\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.0 204 X\r\n\r\n", false),
            ("HTTP/1.0 204 X\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("HTTP/1.0 204 X\r\nConnection: keep-alive, close\r\n\r\n", false),
            ("HTTP/1.0 304 X\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", false),
        ] {
            assert_eq!(response_to(Method::GET, head).keep_alive, keep_alive, "{head}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        let fields = "Connection: X-One, close\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: x\r\nUpgrade: h2c\r\n";
        let head = parse(fields).unwrap();
        assert_eq!(head.response.headers().keys().collect::<Vec<_>>(), ["x-two"]);
        let switching = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        assert_eq!(response_to(Method::GET, switching).response.headers()["upgrade"], "echo");
    }

    #[test]
    fn incomplete_head_is_awaited_up_to_the_size_limit() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for end in 0..head.len() {
            let mut buffer = BytesMut::from(&head[..end]);
            assert!(parse_response_head(&mut buffer, &Method::GET).unwrap().is_none(), "{end}");
            assert_eq!(buffer, head[..end]);
        }
        let mut endless = BytesMut::from("HTTP/1.1 200 OK\r\nA: ");
        endless.resize(MAX_HEAD_SIZE, b'x');
        assert!(matches!(parse_response_head(&mut endless, &Method::GET), Err(Http1Error::TooLarge)));
        // A head that arrives at once has the same limit.
        for name in ["A:", "A :"] {
            for (length, is_accepted) in [(MAX_HEAD_SIZE, true), (MAX_HEAD_SIZE + 1, false)] {
                let start = format!("HTTP/1.1 200 OK\r\n{name}");
                let head = format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4));
                let parsed = parse_response_head(&mut BytesMut::from(&*head), &Method::GET);
                assert_eq!(parsed.is_ok(), is_accepted, "{name} {length}");
            }
        }
        let many = "A: 1\r\n".repeat(MAX_FIELDS + 1);
        assert!(matches!(parse(&many), Err(Http1Error::Head(httparse::Error::TooManyHeaders))));
    }
}
