//! Headers that an operator wants taken off messages, or set in them.

use std::fmt;

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

use super::reserved_headers::{eq_cgi_name, remove_matching};

/// What is removed from the headers of a message, and what is then set.
///
/// Names are removed in every spelling that an application may take for the same (any case, `_` for
/// `-`), also those that are set: a client can't add a value of its own beside ours.
#[derive(Clone, Default)]
pub struct HeaderEdits {
    /// What goes.
    pub remove: Vec<HeaderName>,
    /// What takes the place of all that came under that name. A value that is secret, such as the key
    /// of an API, should be marked [sensitive](HeaderValue::set_sensitive).
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        self.remove_from(headers);
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }

    /// Takes off what is to go, and what is to be set elsewhere.
    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        if !self.is_empty() {
            remove_matching(headers, |name| self.affects(name));
        }
    }

    /// Whether a header of this name is to go, or to be set.
    pub(super) fn affects(&self, name: &HeaderName) -> bool {
        self.names().any(|edited| eq_cgi_name(edited.as_str(), name.as_str()))
    }

    /// What a header of exactly this name is set to.
    pub(super) fn value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.set.iter().find(|(set, _)| set == name).map(|(_, value)| value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// All names that are removed or set.
    pub(super) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.remove.iter().chain(self.set_names())
    }

    pub(super) fn set_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.set.iter().map(|(name, _)| name)
    }
}

/// Without the values, which may be secret.
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
    fn removal_is_first_and_in_every_spelling() {
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
        assert_eq!(
            (&headers["x-debugger"], &headers["x-api-key"]),
            (&"theirs".parse().unwrap(), &"hunter2".parse().unwrap())
        );
        edits.remove_from(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(!format!("{edits:?}").contains("hunter2"));
    }
}
