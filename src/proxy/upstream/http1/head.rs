//! The heads of messages: a request's is written, an answer's is read (RFC 9112, sections 2 to 6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use super::body::Http1Body;
use super::framing::{Chunks, Framing};
use super::sending::Sending;
use super::{Http1, Http1Error};
use crate::proxy::framing::{self, BodyLength};
use crate::proxy::hop_by_hop;
use crate::proxy::request::{Fields, RequestHead};

/// Writes a request's head. Where the request names no host it is `own_host`, the upstream's.
pub(super) fn write(head: &impl RequestHead, length: BodyLength, own_host: &str, to: &mut Vec<u8>) {
    let target = head.target().as_str();
    push(to, &[head.method().as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    let host = head.host().map_or(own_host.as_bytes(), HeaderValue::as_bytes);
    push(to, &[b"host: ", host, b"\r\n"]);
    head.fields(&mut Lines(to));
    match length {
        BodyLength::Known(length) => push_length(to, length),
        BodyLength::Unknown => to.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110, section 8.6: where a body would mean something, it is said that there is none.
        BodyLength::NoBody if matches!(*head.method(), Method::POST | Method::PUT | Method::PATCH) => {
            push_length(to, 0);
        }
        BodyLength::NoBody => {}
    }
    if let Some(protocols) = head.upgrade() {
        push(to, &[b"connection: upgrade\r\nupgrade: ", protocols.as_bytes(), b"\r\n"]);
    } else if head.accepts_trailers() {
        to.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

fn push_length(to: &mut Vec<u8>, length: u64) {
    push(to, &[b"content-length: ", length.to_string().as_bytes(), b"\r\n"]);
}

/// Fields, each in a line.
pub(super) struct Lines<'a>(pub(super) &'a mut Vec<u8>);

impl Fields for Lines<'_> {
    fn add(&mut self, name: &HeaderName, value: &[u8]) {
        push(self.0, &[name.as_str().as_bytes(), b": ", value, b"\r\n"]);
    }
}

fn push(to: &mut Vec<u8>, pieces: &[&[u8]]) {
    to.reserve(pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        to.extend_from_slice(piece);
    }
}

/// An answer's head, without what it says of the connection.
pub(in crate::proxy::upstream) struct AnswerHead {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Whether another request may follow on the connection.
    pub(super) persists: bool,
}

impl AnswerHead {
    /// The answer, whose body comes on this connection while the rest of the request goes out.
    pub(in crate::proxy::upstream) fn on(
        self,
        connection: Box<Http1>,
        sending: &mut Sending,
    ) -> Response<Http1Body> {
        let Self { response, framing, persists } = self;
        response.map(|()| Http1Body::new(connection, framing, persists, sending.take_rest()))
    }

    /// Whether another one follows (RFC 9110, section 15.2).
    pub(super) fn is_interim(&self) -> bool {
        let status = self.response.status();
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Takes the head of the answer to a request of this method off what was read. `None` if it is not all
/// there yet.
pub(super) fn take(read: &mut BytesMut, method: &Method) -> Result<Option<AnswerHead>, Http1Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut fields)? {
        Status::Complete(length) => length,
        Status::Partial if read.len() >= LONGEST => return Err(Http1Error::TooLong),
        Status::Partial => return Ok(None),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default());
    let status = status.map_err(|_| httparse::Error::Status)?;
    let is_http10 = parsed.version == Some(0);
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut said = Said::default();
    // Where the values are, which are to share the buffer's memory.
    let start = read.as_ptr().addr();
    let mut kept = Vec::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        // What is switched to, and that it is, is read by who has asked for it.
        if said.heard(name.as_str(), field.value)? == Heard::There || switches {
            let begin = field.value.as_ptr().addr() - start;
            kept.push((name, begin..begin + field.value.len()));
        }
    }
    let head = read.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(kept.len() + ROOM);
    for (name, place) in kept {
        let value = HeaderValue::from_maybe_shared(head.slice(place));
        headers.append(name, value.map_err(|_| httparse::Error::HeaderValue)?);
    }
    let framing = said.framing(method, status);
    let persists = said.persists(is_http10) && framing != Framing::UntilClose;
    if !switches {
        said.tidy(&mut headers, is_http10)?;
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = headers;
    Ok(Some(AnswerHead { response, framing, persists }))
}

/// What an answer's head says of its connection and its body.
#[derive(Default)]
struct Said {
    close: bool,
    keep_alive: bool,
    /// Fields that concern the connection besides those that always do.
    named: Vec<HeaderName>,
    is_chunked: bool,
    length: Option<u64>,
    /// Whether the length is there more than once, or in another form than it should be.
    length_in_disorder: bool,
}

/// Whom a field concerns.
#[derive(PartialEq, Eq)]
enum Heard {
    /// This connection alone.
    Here,
    /// Whoever the answer is for.
    There,
}

impl Said {
    fn heard(&mut self, name: &str, value: &[u8]) -> Result<Heard, Http1Error> {
        match name {
            "connection" => self.connection(value),
            "content-length" => return self.content_length(value),
            "transfer-encoding" if !self.is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                self.is_chunked = true;
            }
            "transfer-encoding" => return Err(Http1Error::Coding),
            name if hop_by_hop::is_standing(name) => {}
            _ => return Ok(Heard::There),
        }
        Ok(Heard::Here)
    }

    fn connection(&mut self, list: &[u8]) {
        for option in list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.named.extend(HeaderName::from_bytes(option));
            }
        }
    }

    /// A list of one number, however often, is that number (RFC 9112, section 6.3).
    fn content_length(&mut self, list: &[u8]) -> Result<Heard, Http1Error> {
        let is_first = self.length.is_none();
        for number in list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let length = framing::length(number).ok_or(Http1Error::Length)?;
            if *self.length.get_or_insert(length) != length {
                return Err(Http1Error::Length);
            }
        }
        if is_first && framing::is_plain(list) {
            return Ok(Heard::There);
        }
        self.length_in_disorder = true;
        Ok(Heard::Here)
    }

    /// RFC 9112, section 6.3.
    fn framing(&self, method: &Method, status: StatusCode) -> Framing {
        let without_body = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        match self.length {
            _ if without_body => Framing::Length(0),
            _ if self.is_chunked => Framing::Chunked(Chunks::default()),
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }

    /// RFC 9112, section 9.3. Who names a length beside chunks may not mean what we think.
    fn persists(&self, is_http10: bool) -> bool {
        let is_wanted = !self.close && (self.keep_alive || !is_http10);
        let contradicts_itself = self.is_chunked && self.length.is_some();
        is_wanted && !contradicts_itself
    }

    /// Leaves one thing that says how long the body is, and nothing that concerns the connection.
    fn tidy(self, headers: &mut HeaderMap, is_http10: bool) -> Result<(), Http1Error> {
        if self.is_chunked && is_http10 {
            return Err(Http1Error::Coding);
        }
        for name in self.named {
            headers.remove(name);
        }
        match self.length {
            Some(_) if self.is_chunked => _ = headers.remove(CONTENT_LENGTH),
            Some(length) if self.length_in_disorder => _ = headers.insert(CONTENT_LENGTH, length.into()),
            _ => {}
        }
        Ok(())
    }
}

/// In an answer.
const MOST_FIELDS: usize = 100;
/// Of an answer's head, in bytes.
const LONGEST: usize = 64 * 1024;
/// For what the answer gets on its way out.
const ROOM: usize = 4;
