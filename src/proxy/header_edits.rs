//! Header changes configured by the operator.

use std::fmt;

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

use super::reserved_headers::{eq_cgi_name, remove_matching};

/// Headers to remove from a message and headers to set afterwards.
///
/// A name matches every spelling that a CGI-like application reads as the same header: any case, `_` for
/// `-`. Names in [`set`](Self::set) are removed first too, so that a client cannot add a second value.
#[derive(Clone, Default)]
pub struct HeaderEdits {
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
    /// Headers to set, replacing all values of that name.
    ///
    /// Secret values such as API keys should be marked [sensitive](HeaderValue::set_sensitive).
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Removes and sets the headers.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        self.remove_from(headers);
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }

    /// Removes every affected header without setting any.
    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        if !self.is_empty() {
            remove_matching(headers, |name| self.affects(name));
        }
    }

    /// Returns `true` if a header of this name is removed or replaced.
    pub(super) fn affects(&self, name: &HeaderName) -> bool {
        self.names().any(|affected| eq_cgi_name(affected.as_str(), name.as_str()))
    }

    /// Returns the value that is set for exactly this name.
    pub(super) fn value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.set.iter().find(|(set, _)| set == name).map(|(_, value)| value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Returns all names that are removed or set.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.set_names())
    }

    pub(super) fn set_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().map(|(name, _)| name)
    }
}

/// Omits the values, which may be secret.
impl fmt::Debug for HeaderEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<_> = self.set_names().collect();
        f.debug_struct("HeaderEdits").field("remove", &self.remove).field("set", &set).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_remove_every_spelling_before_setting() {
        let edits = HeaderEdits {
            remove: vec![HeaderName::from_static("x-debug")],
            set: vec![(HeaderName::from_static("x-api-key"), HeaderValue::from_static("hunter2"))],
        };
        let mut headers = HeaderMap::new();
        for name in ["x_debug", "x-debug", "x-api_key", "x-api-key", "x-api-key", "x-debugger"] {
            headers.append(name, HeaderValue::from_static("theirs"));
        }
        edits.apply(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["x-debugger"], "theirs");
        assert_eq!(headers["x-api-key"], "hunter2");
        edits.remove_from(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(!format!("{edits:?}").contains("hunter2"));
    }
}
