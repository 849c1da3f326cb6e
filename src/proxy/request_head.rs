//! The head of a request to an upstream, independent of the HTTP version.

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::header_writer::HeaderWriter;

/// The head of a request to an upstream.
///
/// The HTTP client writes the fields that belong to the connection and to the body's framing itself.
pub(super) trait RequestHead {
    /// Returns everything but the header fields.
    fn control_data(&self) -> ControlData<'_>;

    /// Returns `true` if the response is expected to be a long-lived stream.
    fn expects_stream(&self) -> bool {
        false
    }

    /// Writes every field except those for the host, the body's length and the connection.
    fn write_headers(&self, writer: &mut impl HeaderWriter);
}

/// The control data of a request (RFC 9110, section 6.2), and its options for the connection.
pub(super) struct ControlData<'a> {
    pub(super) method: &'a Method,
    pub(super) target: &'a PathAndQuery,
    /// Value of `Host` or `:authority`. `None` selects the upstream's own authority.
    pub(super) host: Option<&'a HeaderValue>,
    /// Value of `Upgrade`, if the request offers to change the protocol.
    pub(super) upgrade: Option<&'a HeaderValue>,
    /// True if the client accepts trailers after the response body (`TE: trailers`).
    pub(super) accepts_trailers: bool,
    pub(super) reuse: ConnectionReuse,
}

/// The connections that a request may share with other requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionReuse {
    Any,
    /// HTTP/2 connections, where the end of a request is certain.
    Http2,
    None,
}
