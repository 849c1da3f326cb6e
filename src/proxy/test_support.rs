//! Fixtures of the proxy's unit tests.

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use super::header_writer::HeaderWriter;
use super::request_head::{ControlData, RequestHead};

/// Builds headers from their lines, in this order.
pub(super) fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// Builds the lines of one field.
pub(super) fn lines(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
    values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
}

/// A request for `/a?b` without a host.
pub(super) struct TestHead {
    pub(super) method: Method,
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) accepts_trailers: bool,
}

impl TestHead {
    /// A `GET` request.
    pub(super) fn get(upgrade: Option<&'static str>, accepts_trailers: bool) -> Self {
        Self { method: Method::GET, upgrade: upgrade.map(HeaderValue::from_static), accepts_trailers }
    }
}

impl RequestHead for TestHead {
    fn control_data(&self) -> ControlData<'_> {
        static TARGET: PathAndQuery = PathAndQuery::from_static("/a?b");
        ControlData {
            method: &self.method,
            target: &TARGET,
            host: None,
            upgrade: self.upgrade.as_ref(),
            accepts_trailers: self.accepts_trailers,
        }
    }

    fn write_headers(&self, writer: &mut impl HeaderWriter) {
        writer.add(&HeaderName::from_static("x-one"), b"1");
    }
}
