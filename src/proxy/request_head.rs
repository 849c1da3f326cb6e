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
    fn write_headers(&self, to: &mut impl HeaderWriter);
}

#[cfg(test)]
pub(super) mod test_support {
    use http::HeaderName;

    use super::*;

    /// A request for `/a?b` without a host.
    pub(in crate::proxy) struct TestHead {
        pub(in crate::proxy) method: Method,
        pub(in crate::proxy) upgrade: Option<HeaderValue>,
        pub(in crate::proxy) accepts_trailers: bool,
    }

    impl TestHead {
        /// A `GET` request.
        pub(in crate::proxy) fn get(upgrade: Option<&'static str>, accepts_trailers: bool) -> Self {
            Self { method: Method::GET, upgrade: upgrade.map(HeaderValue::from_static), accepts_trailers }
        }
    }

    impl RequestHead for TestHead {
        fn method(&self) -> &Method {
            &self.method
        }

        fn target(&self) -> &PathAndQuery {
            static TARGET: PathAndQuery = PathAndQuery::from_static("/a?b");
            &TARGET
        }

        fn upgrade(&self) -> Option<&HeaderValue> {
            self.upgrade.as_ref()
        }

        fn accepts_trailers(&self) -> bool {
            self.accepts_trailers
        }

        fn write_headers(&self, to: &mut impl HeaderWriter) {
            to.add(&HeaderName::from_static("x-one"), b"1");
        }
    }
}
