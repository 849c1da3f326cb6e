//! Settings by key, and the accessors by which sections read them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};

use super::error::{ConfigError, ValueSource};
use super::suggest::nearest;
use super::toml;
use super::value::{RawValue, SourcedValue, quoted};
use crate::duration_format::format_duration;
use crate::secret;
use crate::services::tokens_builder;

/// The value in force for each key, not yet parsed.
#[derive(Clone, Default)]
pub(super) struct RawSettings(BTreeMap<String, SourcedValue>);

impl RawSettings {
    pub(super) fn new(values: BTreeMap<String, SourcedValue>) -> Self {
        Self(values)
    }

    /// Sets the value of `key`, or removes it.
    pub(super) fn set(&mut self, key: &str, value: Option<SourcedValue>) {
        match value {
            Some(value) => _ = self.0.insert(key.to_owned(), value),
            None => _ = self.0.remove(key),
        }
    }

    /// Returns the value of `key` with its source.
    pub(super) fn get(&self, key: &str) -> Option<&SourcedValue> {
        self.0.get(key)
    }

    /// Returns an error for the first key that is not in `known`.
    pub(super) fn deny_unknown(&self, known: &[&str]) -> Result<(), ConfigError> {
        let unknown = self.0.iter().find(|(key, _)| !known.contains(&key.as_str()));
        let Some((key, value)) = unknown else { return Ok(()) };
        // A key without a section may be a misspelt section.
        let sections = known.iter().filter_map(|name| name.split('.').next()).chain(["routes"]);
        let sections = sections.filter(|_| !key.contains('.'));
        Err(ConfigError::UnknownKey {
            key: key.clone(),
            place: value.place.clone(),
            nearest: nearest(key, known.iter().copied().chain(sections)).map(str::to_owned),
        })
    }

    /// Returns `true` if `key` has a value other than the built-in default.
    pub(super) fn is_explicit(&self, key: &str) -> bool {
        self.place(key) != ValueSource::BuiltIn
    }

    /// Returns the source of the value of `key`.
    pub(super) fn place(&self, key: &str) -> ValueSource {
        self.0.get(key).map_or(ValueSource::BuiltIn, |value| value.place.clone())
    }

    /// Returns the source of the first value in the file.
    pub(super) fn first_place(&self) -> Option<&ValueSource> {
        self.0.values().map(|value| &value.place).min_by_key(|place| match place {
            ValueSource::File { line, .. } => *line,
            _ => usize::MAX,
        })
    }

    /// Returns the error for an invalid value of `key`.
    pub(super) fn invalid(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            key: key.to_owned(),
            value: self.raw(key).and_then(|value| value.display(key)),
            place: self.place(key),
            problem: problem.into(),
        }
    }

    /// Returns `value`, or the error for a missing key.
    pub(super) fn required<T>(
        &self,
        key: &str,
        value: Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        value?.ok_or_else(|| {
            let remedy = match self.first_place() {
                Some(place) if key.starts_with("routes.") => format!("the route {place} has none"),
                None => "a route is empty".to_owned(),
                Some(_) => "it has no default".to_owned(),
            };
            ConfigError::Missing { key: key.to_owned(), remedy }
        })
    }

    /// Returns the unparsed value, for keys that accept more than one type.
    pub(super) fn raw(&self, key: &str) -> Option<&RawValue> {
        self.0.get(key).map(|value| &value.value)
    }

    /// Returns the value as text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        self.convert(key, RawValue::as_text, || "expected text, in quotes".to_owned())
    }

    /// Parses text with [`FromStr`].
    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let parse = |text: &str| text.parse().map_err(|error: T::Err| self.invalid(key, error.to_string()));
        self.text(key)?.map(parse).transpose()
    }

    /// Parses one of `words`.
    pub(super) fn one_of<T: Clone>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let choose = |text: &str| parse_choice(text, words).map_err(|problem| self.invalid(key, problem));
        self.text(key)?.map(choose).transpose()
    }

    /// Parses `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let convert = |value: &RawValue| match value {
            RawValue::Boolean(value) => Some(*value),
            RawValue::Untyped(text) => text.parse().ok(),
            _ => None,
        };
        self.convert(key, convert, || "expected true or false, without quotes".to_owned())
    }

    /// Parses a whole number in `range`.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        self.number(key, range, "a whole number")
    }

    /// Parses a number in `range`.
    pub(super) fn fraction(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ConfigError> {
        self.number(key, range, "a number")
    }

    fn number<T: FromStr + PartialOrd + fmt::Display>(
        &self,
        key: &str,
        range: RangeInclusive<T>,
        kind: &str,
    ) -> Result<Option<T>, ConfigError> {
        let convert = |value: &RawValue| match value {
            RawValue::Integer(digits) | RawValue::Untyped(digits) | RawValue::Other(digits) => {
                digits.parse().ok().filter(|number| range.contains(number))
            }
            _ => None,
        };
        self.convert(key, convert, || format!("expected {kind} from {} to {}", range.start(), range.end()))
    }

    /// Parses a duration from `min` to [`MAX_DURATION`].
    pub(super) fn duration(&self, key: &str, min: Duration) -> Result<Option<Duration>, ConfigError> {
        let convert = |value: &RawValue| {
            let duration = humantime::parse_duration(value.as_text()?).ok()?;
            (min..=MAX_DURATION).contains(&duration).then_some(duration)
        };
        let expected = || {
            let min = format_duration(min);
            format!("expected a duration such as 90s, 15m or 14d, from {min} to 10 years")
        };
        self.convert(key, convert, expected)
    }

    /// Parses a duration from one millisecond on. Returns `default` if there is none.
    pub(super) fn duration_or(&self, key: &str, default: Duration) -> Result<Duration, ConfigError> {
        Ok(self.duration(key, Duration::from_millis(1))?.unwrap_or(default))
    }

    /// Parses a size in bytes in `range`.
    pub(super) fn size(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        expected: &str,
    ) -> Result<Option<u64>, ConfigError> {
        let convert = |value: &RawValue| match value {
            RawValue::Untyped(text) | RawValue::Text(text) | RawValue::Integer(text) => {
                let size = text.parse::<ByteSize>().ok()?.as_u64();
                range.contains(&size).then_some(size)
            }
            _ => None,
        };
        self.convert(key, convert, || expected.to_owned())
    }

    /// Parses a list of texts with `parse_item`, whose error is the problem of the item.
    pub(super) fn list<T>(
        &self,
        key: &str,
        parse_item: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let not_a_list = || self.invalid(key, self.expected_list(key));
        let items = match self.raw(key) {
            None => return Ok(None),
            Some(RawValue::List(items)) => items.clone(),
            Some(RawValue::Untyped(text)) => toml::parse_list(text).ok_or_else(not_a_list)?,
            Some(_) => return Err(not_a_list()),
        };
        let parse = |item: &RawValue| match item {
            RawValue::Text(text) => {
                parse_item(text).map_err(|problem| self.invalid(key, format!("{}: {problem}", quoted(text))))
            }
            _ => Err(not_a_list()),
        };
        items.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    /// Returns a secret: the value of `key`, or the contents of the file that `{key}_file` names. Both are
    /// trimmed the same way.
    pub(super) fn secret(&self, key: &str) -> Result<Option<SecretString>, ConfigError> {
        let file_key = format!("{key}_file");
        let value = self.text(key)?;
        let Some(path) = self.text(&file_key)?.map(PathBuf::from) else {
            return Ok(value.map(|text| secret::trimmed(text).into()));
        };
        if self.is_explicit(key) {
            let problem = format!("{key} is set too, {}: keep one of them", self.place(key));
            return Err(self.invalid(&file_key, problem));
        }
        let secret = read_secret(path, &file_key)?;
        if secret.expose_secret().is_empty() {
            return Err(self.invalid(&file_key, "the file is empty"));
        }
        Ok(Some(secret))
    }

    /// Returns what is expected of a list, in the form that its source needs.
    fn expected_list(&self, key: &str) -> &'static str {
        match self.place(key) {
            ValueSource::Environment(_) | ValueSource::DotEnv { .. } => {
                r#"expected a list of texts, in single quotes in a shell: '["one", "two"]'"#
            }
            _ => r#"expected a list of texts such as ["one", "two"]"#,
        }
    }

    fn convert<'a, T>(
        &'a self,
        key: &str,
        convert: impl FnOnce(&'a RawValue) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.invalid(key, expected()))
    }
}

/// Returns the value of the word `text`; the error lists the words and suggests the nearest.
pub(super) fn parse_choice<T: Clone>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let hint = nearest(text, words.iter().copied()).map(|word| format!(" (did you mean {word}?)"));
    Err(format!("expected one of {}{}", words.join(", "), hint.unwrap_or_default()))
}

/// Reads a secret from the file that `key` names.
pub(super) fn read_secret(path: PathBuf, key: &str) -> Result<SecretString, ConfigError> {
    let key = Some(key.to_owned());
    secret::read_file(&path).map_err(|source| {
        let source = if source.kind() == io::ErrorKind::InvalidData {
            io::Error::new(source.kind(), NOT_TEXT)
        } else {
            source
        };
        ConfigError::Unreadable { path, key, source }
    })
}

/// Returns the first item that equals an earlier one.
pub(super) fn first_duplicate<T: PartialEq>(items: &[T]) -> Option<&T> {
    let (_, item) = items.iter().enumerate().find(|(index, item)| items[..*index].contains(item))?;
    Some(item)
}

const NOT_TEXT: &str = "it is not text in UTF-8: encode random bytes, as `openssl rand -base64 32` does";

/// Ten years as they are parsed, longer than any useful session and far from the end of the calendar.
const MAX_DURATION: Duration = tokens_builder::MAX_LIFETIME;
