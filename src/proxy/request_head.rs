//! The head of a request to an upstream, independent of the HTTP version.

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::header_writer::HeaderWriter;

/// The head of a request to an upstream.
///
/// The HTTP client writes the fields that belong to the connection and to the body's framing itself.
pub(super) trait RequestHead {
    fn method(&self) -> &Method;

    fn target(&self) -> &PathAndQuery;

    /// Value of `Host` or `:authority`. `None` selects the upstream's own authority.
    fn host(&self) -> Option<&HeaderValue> {
        None
    }

    /// Value of `Upgrade`, if the request offers to change the protocol.
    fn upgrade(&self) -> Option<&HeaderValue> {
        None
    }

    /// Returns `true` if the client accepts trailers after the response body (`TE: trailers`).
    fn accepts_trailers(&self) -> bool {
        false
    }

    /// Writes every field except those for the host, the body's length and the connection.
    fn write_headers(&self, writer: &mut impl HeaderWriter);
}
