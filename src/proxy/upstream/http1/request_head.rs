//! Writing request heads (RFC 9112, sections 3 and 5).

use http::Method;
use http::header::{HeaderName, HeaderValue};

use crate::proxy::content_length::BodyLength;
use crate::proxy::header_writer::HeaderWriter;
use crate::proxy::request_head::{ConnectionReuse, ControlData, RequestHead};

/// Writes a request head. `default_host` is used if the request names no host.
pub(super) fn write_head(head: &impl RequestHead, length: BodyLength, default_host: &str, to: &mut Vec<u8>) {
    let ControlData { method, target, host, upgrade, accepts_trailers, reuse } = head.control_data();
    push(to, &[method.as_str().as_bytes(), b" ", target.as_str().as_bytes(), b" HTTP/1.1\r\n"]);
    let host = host.map_or(default_host.as_bytes(), HeaderValue::as_bytes);
    push(to, &[b"host: ", host, b"\r\n"]);
    head.write_headers(to);
    match length {
        BodyLength::Known(length) => push_length(to, length),
        BodyLength::Unknown => to.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110, section 8.6: methods that anticipate a body announce its absence.
        BodyLength::Empty if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
            push_length(to, 0);
        }
        BodyLength::Empty => {}
    }
    if let Some(protocols) = upgrade {
        push(to, &[b"connection: upgrade\r\nupgrade: ", protocols.as_bytes(), b"\r\n"]);
    } else {
        let closes = reuse != ConnectionReuse::Any;
        to.extend_from_slice(match (closes, accepts_trailers) {
            (false, false) => b"",
            (false, true) => b"connection: te\r\nte: trailers\r\n",
            (true, false) => b"connection: close\r\n",
            (true, true) => b"connection: close, te\r\nte: trailers\r\n",
        });
    }
    to.extend_from_slice(b"\r\n");
}

fn push_length(to: &mut Vec<u8>, length: u64) {
    push(to, &[b"content-length: ", length.to_string().as_bytes(), b"\r\n"]);
}

/// Writes header fields as HTTP/1.1 field lines.
impl HeaderWriter for Vec<u8> {
    fn add(&mut self, name: &HeaderName, value: &[u8]) {
        push(self, &[name.as_str().as_bytes(), b": ", value, b"\r\n"]);
    }
}

fn push(to: &mut Vec<u8>, pieces: &[&[u8]]) {
    to.reserve(pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        to.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::test_support::TestHead;

    #[test]
    fn request_head_announces_body_length_upgrade_and_trailers() {
        let written = |head: &TestHead, length| {
            let mut bytes = Vec::new();
            write_head(head, length, "a.example:80", &mut bytes);
            String::from_utf8(bytes).expect("text")
        };
        let get = TestHead::get;
        let start = "GET /a?b HTTP/1.1\r\nhost: a.example:80\r\nx-one: 1\r\n";
        for (head, length, end) in [
            (get(None, false), BodyLength::Empty, "\r\n"),
            (get(None, false), BodyLength::Known(12), "content-length: 12\r\n\r\n"),
            (get(None, false), BodyLength::Unknown, "transfer-encoding: chunked\r\n\r\n"),
            (get(None, true), BodyLength::Empty, "connection: te\r\nte: trailers\r\n\r\n"),
            (get(Some("echo"), true), BodyLength::Empty, "connection: upgrade\r\nupgrade: echo\r\n\r\n"),
        ] {
            assert_eq!(written(&head, length), format!("{start}{end}"));
        }
        for (accepts_trailers, end) in
            [(false, "connection: close\r\n\r\n"), (true, "connection: close, te\r\nte: trailers\r\n\r\n")]
        {
            let once = TestHead { reuse: ConnectionReuse::Http2, ..get(None, accepts_trailers) };
            assert_eq!(written(&once, BodyLength::Empty), format!("{start}{end}"));
        }
        let post = TestHead { method: Method::POST, ..get(None, false) };
        assert!(written(&post, BodyLength::Empty).ends_with("\r\ncontent-length: 0\r\n\r\n"));
    }
}
