//! Configuration values before they are parsed into the type of their key.

use std::collections::BTreeMap;

use super::error::ValueSource;
use super::keys::TABLE_KEYS;

/// A value as the source gave it.
#[derive(Clone)]
pub(super) enum RawValue {
    /// Text from the environment or a flag. The key decides how it is parsed.
    Untyped(String),
    Text(String),
    /// Decimal digits.
    Integer(String),
    Boolean(bool),
    List(Vec<RawValue>),
    Table(BTreeMap<String, RawValue>),
    /// A float or a date.
    Other(String),
}

/// A value and its source.
#[derive(Clone)]
pub(super) struct SourcedValue {
    pub(super) value: RawValue,
    pub(super) place: ValueSource,
}

impl RawValue {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns `true` if the value is `text`, or contains it as a part.
    pub(super) fn contains(&self, text: &str) -> bool {
        match self {
            Self::Untyped(value) | Self::Text(value) => value == text,
            Self::List(items) => items.iter().any(|item| item.contains(text)),
            Self::Table(values) => values.values().any(|value| value.contains(text)),
            Self::Integer(_) | Self::Boolean(_) | Self::Other(_) => false,
        }
    }

    /// Returns the value of `key` for an error message; `None` if it may be secret or is a list.
    pub(super) fn display(&self, key: &str) -> Option<String> {
        if SECRET_KEYS.contains(&key) {
            return None;
        }
        match self {
            Self::Untyped(text) | Self::Text(text) => Some(quoted(text)),
            Self::Integer(text) | Self::Other(text) => Some(text.clone()),
            Self::Boolean(value) => Some(value.to_string()),
            Self::Table(_) if !TABLE_KEYS.contains(&key) => Some("a table".to_owned()),
            Self::List(_) | Self::Table(_) => None,
        }
    }
}

/// Quotes `text` for an error message, escaped and cut to [`MAX_SHOWN_CHARS`].
///
/// A URL with user information is replaced by a note, for it may hold a password.
pub(super) fn quoted(text: &str) -> String {
    if text.contains("://") && text.contains('@') {
        return "(not shown: it may hold a password)".to_owned();
    }
    let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    let ellipsis = if shown.len() < text.len() { "…" } else { "" };
    format!("\"{}{ellipsis}\"", shown.escape_debug())
}

/// Keys whose values never appear in messages.
const SECRET_KEYS: [&str; 5] = [
    "database.url",
    "database.listen_url",
    "tokens.secret",
    "routes.set_request_headers",
    "routes.set_response_headers",
];

const MAX_SHOWN_CHARS: usize = 100;
