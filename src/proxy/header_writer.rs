//! Writing header fields in the wire format of the outgoing message.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// A destination for header fields: an HTTP/1.1 head buffer or a [`HeaderMap`].
///
/// Fields are written one at a time, so a request sent over HTTP/1.1 needs no intermediate map.
pub(super) trait HeaderWriter {
    /// Adds a field. `value` must be a valid field value.
    fn add(&mut self, name: &HeaderName, value: &[u8]);

    /// Adds a copy of a field.
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.add(name, value.as_bytes());
    }
}

impl HeaderWriter for HeaderMap {
    fn add(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.append(name, value);
        }
    }

    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }
}
