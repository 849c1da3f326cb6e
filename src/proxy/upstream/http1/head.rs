//! The heads of messages: a request's is written, an answer's is read (RFC 9112, sections 2 to 6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use super::body::Http1Body;
use super::framing::{BodyDecoder, ChunkedState};
use super::request_writer::RequestWriter;
use super::{Http1Connection, Http1Error};
use crate::proxy::content_length::{self, BodyLength};
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::hop_by_hop;
use crate::proxy::request_head::RequestHead;

/// Writes a request's head. Where the request names no host it is `own_host`, the upstream's.
pub(super) fn write(head: &impl RequestHead, length: BodyLength, own_host: &str, to: &mut Vec<u8>) {
    let target = head.target().as_str();
    push(to, &[head.method().as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    let host = head.host().map_or(own_host.as_bytes(), HeaderValue::as_bytes);
    push(to, &[b"host: ", host, b"\r\n"]);
    head.write_headers(&mut Http1HeaderWriter(to));
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

/// FieldSink, each in a line.
pub(super) struct Http1HeaderWriter<'a>(pub(super) &'a mut Vec<u8>);

impl HeaderWriter for Http1HeaderWriter<'_> {
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
pub(in crate::proxy::upstream) struct ResponseHead {
    pub(super) response: Response<()>,
    pub(super) framing: BodyDecoder,
    /// Whether another request may follow on the connection.
    pub(super) persists: bool,
}

impl ResponseHead {
    /// The answer, whose body comes on this connection while the rest of the request goes out.
    pub(in crate::proxy::upstream) fn into_response(
        self,
        connection: Box<Http1Connection>,
        sending: &mut RequestWriter,
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
pub(super) fn parse_response_head(
    read: &mut BytesMut,
    method: &Method,
) -> Result<Option<ResponseHead>, Http1Error> {
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
    let mut said = FramingHeaders::default();
    // Where the values are, which are to share the buffer's memory.
    let start = read.as_ptr().addr();
    let mut kept = Vec::with_capacity(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        // What is switched to, and that it is, is read by who has asked for it.
        if said.note(name.as_str(), field.value)? == HeaderScope::EndToEnd || switches {
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
    let framing = said.framing(method, status, is_http10)?;
    let persists = said.persists(is_http10) && framing != BodyDecoder::UntilClose;
    if !switches {
        said.normalize(&mut headers);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = if is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = headers;
    Ok(Some(ResponseHead { response, framing, persists }))
}

/// What an answer's head says of its connection and its body.
#[derive(Default)]
struct FramingHeaders {
    close: bool,
    keep_alive: bool,
    /// FieldSink that concern the connection besides those that always do.
    named: Vec<HeaderName>,
    is_chunked: bool,
    length: Option<u64>,
    /// Whether the length is there more than once, or in another form than it should be.
    length_in_disorder: bool,
}

/// Whom a field concerns.
#[derive(PartialEq, Eq)]
enum HeaderScope {
    /// Whoever the answer is for.
    EndToEnd,
    /// This connection alone.
    HopByHop,
}

impl FramingHeaders {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<HeaderScope, Http1Error> {
        match name {
            "connection" => self.connection(value),
            "content-length" => return self.content_length(value),
            "transfer-encoding" if !self.is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                self.is_chunked = true;
            }
            "transfer-encoding" => return Err(Http1Error::Coding),
            name if hop_by_hop::is_hop_by_hop(name) => {}
            _ => return Ok(HeaderScope::EndToEnd),
        }
        Ok(HeaderScope::HopByHop)
    }

    fn connection(&mut self, list: &[u8]) {
        for option in hop_by_hop::tokens(list) {
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
    fn content_length(&mut self, list: &[u8]) -> Result<HeaderScope, Http1Error> {
        let is_first = self.length.is_none();
        for number in hop_by_hop::tokens(list) {
            let length = content_length::length(number).ok_or(Http1Error::Length)?;
            if *self.length.get_or_insert(length) != length {
                return Err(Http1Error::Length);
            }
        }
        if is_first && content_length::is_canonical(list) {
            return Ok(HeaderScope::EndToEnd);
        }
        self.length_in_disorder = true;
        Ok(HeaderScope::HopByHop)
    }

    /// RFC 9112, section 6.3.
    fn framing(
        &self,
        method: &Method,
        status: StatusCode,
        is_http10: bool,
    ) -> Result<BodyDecoder, Http1Error> {
        let without_body = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD;
        Ok(match self.length {
            // Who speaks HTTP/1.0 can't mean it.
            _ if self.is_chunked && is_http10 => return Err(Http1Error::Coding),
            _ if without_body => BodyDecoder::Length(0),
            _ if self.is_chunked => BodyDecoder::Chunked(ChunkedState::default()),
            Some(length) => BodyDecoder::Length(length),
            None => BodyDecoder::UntilClose,
        })
    }

    /// RFC 9112, section 9.3. Who names a length beside chunks may not mean what we think.
    fn persists(&self, is_http10: bool) -> bool {
        let is_wanted = !self.close && (self.keep_alive || !is_http10);
        let contradicts_itself = self.is_chunked && self.length.is_some();
        is_wanted && !contradicts_itself
    }

    /// Leaves one thing that says how long the body is, and nothing that concerns the connection.
    fn normalize(self, headers: &mut HeaderMap) {
        for name in self.named {
            headers.remove(name);
        }
        match self.length {
            Some(_) if self.is_chunked => _ = headers.remove(CONTENT_LENGTH),
            Some(length) if self.length_in_disorder => _ = headers.insert(CONTENT_LENGTH, length.into()),
            _ => {}
        }
    }
}

/// In an answer.
const MOST_FIELDS: usize = 100;
/// Of an answer's head, in bytes.
const LONGEST: usize = 64 * 1024;
/// For what the answer gets on its way out.
const ROOM: usize = 4;

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    fn parse(fields: &str) -> Result<ResponseHead, Http1Error> {
        let mut read = BytesMut::from(&*format!("HTTP/1.1 200 OK\r\n{fields}\r\nrest"));
        let head = parse_response_head(&mut read, &Method::GET)?.expect("a whole head");
        assert_eq!(&read[..], b"rest");
        Ok(head)
    }

    fn to(method: Method, head: &str) -> ResponseHead {
        parse_response_head(&mut BytesMut::from(head), &method).expect("sound").expect("whole")
    }

    #[test]
    fn one_thing_says_how_long_the_body_is() {
        let chunked = || BodyDecoder::Chunked(ChunkedState::default());
        for (fields, framing, length, persists) in [
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
            assert_eq!((head.framing, head.persists), (framing, persists), "{fields}");
            let headers = head.response.headers();
            let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(lengths, Vec::from_iter(length), "{fields}");
            assert!(!headers.contains_key("transfer-encoding"), "{fields}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_an_error() {
        for fields in [
            "Content-Length: 7\r\nContent-Length: 8\r\n",
            "Content-Length: 7, 8\r\n",
            "Content-Length: 7,\r\n",
            "Content-Length: +7\r\n",
            "Content-Length: -7\r\n",
            "Content-Length: 0x7\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
        ] {
            assert!(matches!(parse(fields), Err(Http1Error::Length)), "{fields}");
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
        let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(
            parse_response_head(&mut BytesMut::from(old), &Method::GET),
            Err(Http1Error::Coding)
        ));
        for fields in
            ["no field\r\n", " folded: 1\r\n", "A : 1\r\n", "A: 1\r\n b\r\n", "A: \0\r\n", ": 1\r\n"]
        {
            assert!(matches!(parse(fields), Err(Http1Error::Head(_))), "{fields:?}");
        }
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let says = "Content-Length: 7\r\n\r\n";
        for (method, status) in
            [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 101)]
        {
            let head = to(method, &format!("HTTP/1.1 {status} X\r\n{says}"));
            assert_eq!(head.framing, BodyDecoder::Length(0), "{status}");
        }
        assert!(to(Method::GET, "HTTP/1.1 103 Early Hints\r\n\r\n").is_interim());
        assert!(!to(Method::GET, "HTTP/1.1 101 Switching Protocols\r\n\r\n").is_interim());
    }

    #[test]
    fn a_connection_persists_as_both_want() {
        for (head, persists) in [
            ("HTTP/1.1 204 X\r\n\r\n", true),
            ("HTTP/1.1 204 X\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.1 204 X\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.0 204 X\r\n\r\n", false),
            ("HTTP/1.0 204 X\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("HTTP/1.0 204 X\r\nConnection: keep-alive, close\r\n\r\n", false),
        ] {
            assert_eq!(to(Method::GET, head).persists, persists, "{head}");
        }
    }

    #[test]
    fn what_concerns_the_connection_stays_here() {
        let fields = "Connection: X-One, close\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: x\r\nUpgrade: h2c\r\n";
        let head = parse(fields).unwrap();
        assert_eq!(head.response.headers().keys().collect::<Vec<_>>(), ["x-two"]);
        let switching = "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        assert_eq!(to(Method::GET, switching).response.headers()["upgrade"], "echo");
    }

    #[test]
    fn a_head_is_waited_for_but_not_for_ever() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for end in 0..head.len() {
            let mut read = BytesMut::from(&head[..end]);
            assert!(parse_response_head(&mut read, &Method::GET).unwrap().is_none(), "{end}");
            assert_eq!(read, head[..end]);
        }
        let mut endless = BytesMut::from("HTTP/1.1 200 OK\r\nA: ");
        endless.resize(LONGEST, b'x');
        assert!(matches!(parse_response_head(&mut endless, &Method::GET), Err(Http1Error::TooLong)));
        let many = "A: 1\r\n".repeat(MOST_FIELDS + 1);
        assert!(matches!(parse(&many), Err(Http1Error::Head(httparse::Error::TooManyHeaders))));
    }

    struct Plain(Method, Option<HeaderValue>, bool);

    impl RequestHead for Plain {
        fn method(&self) -> &Method {
            &self.0
        }

        fn target(&self) -> &PathAndQuery {
            static TARGET: PathAndQuery = PathAndQuery::from_static("/a?b");
            &TARGET
        }

        fn host(&self) -> Option<&HeaderValue> {
            None
        }

        fn upgrade(&self) -> Option<&HeaderValue> {
            self.1.as_ref()
        }

        fn accepts_trailers(&self) -> bool {
            self.2
        }

        fn write_headers(&self, to: &mut impl HeaderWriter) {
            to.add(&HeaderName::from_static("x-one"), b"1");
        }
    }

    #[test]
    fn a_request_says_how_long_it_is_and_what_it_wants() {
        let written = |head: &Plain, length| {
            let mut bytes = Vec::new();
            write(head, length, "a.example:80", &mut bytes);
            String::from_utf8(bytes).expect("text")
        };
        let get = |upgrade: Option<&'static str>, trailers| {
            Plain(Method::GET, upgrade.map(HeaderValue::from_static), trailers)
        };
        let begin = "GET /a?b HTTP/1.1\r\nhost: a.example:80\r\nx-one: 1\r\n";
        for (head, length, end) in [
            (get(None, false), BodyLength::NoBody, "\r\n"),
            (get(None, false), BodyLength::Known(12), "content-length: 12\r\n\r\n"),
            (get(None, false), BodyLength::Unknown, "transfer-encoding: chunked\r\n\r\n"),
            (get(None, true), BodyLength::NoBody, "connection: te\r\nte: trailers\r\n\r\n"),
            (get(Some("echo"), true), BodyLength::NoBody, "connection: upgrade\r\nupgrade: echo\r\n\r\n"),
        ] {
            assert_eq!(written(&head, length), format!("{begin}{end}"));
        }
        let post = Plain(Method::POST, None, false);
        assert!(written(&post, BodyLength::NoBody).ends_with("\r\ncontent-length: 0\r\n\r\n"));
    }
}
