//! Values as they were given, and how a section takes them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret, SecretString};

use super::TABLE_KEYS;
use super::error::{ConfigError, ValueSource, nearest};
use super::file;
use crate::secret;

/// A value, not yet understood.
#[derive(Clone)]
pub(super) enum RawValue {
    /// From the environment or a flag: whatever its key wants.
    Untyped(String),
    Text(String),
    Integer(String),
    Boolean(bool),
    List(Vec<RawValue>),
    Table(BTreeMap<String, RawValue>),
    /// A float or a date.
    Other(String),
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct SourcedValue {
    pub(super) value: RawValue,
    pub(super) place: ValueSource,
}

/// Everything that was given: by key, the value that wins.
pub(super) struct Settings(BTreeMap<String, SourcedValue>);

impl Settings {
    pub(super) fn new(given: BTreeMap<String, SourcedValue>) -> Self {
        Self(given)
    }

    /// Refuses keys that aren't among `from_static`.
    pub(super) fn deny_unknown(&self, known: &[&str]) -> Result<(), ConfigError> {
        let unknown = self.0.iter().find(|(key, _)| !known.contains(&key.as_str()));
        let Some((key, given)) = unknown else { return Ok(()) };
        // A key without a section may be a mistyped section.
        let sections = known.iter().filter_map(|name| name.split('.').next()).chain(["routes"]);
        let sections = sections.filter(|_| !key.contains('.'));
        Err(ConfigError::UnknownKey {
            key: key.clone(),
            place: given.place.clone(),
            nearest: nearest(key, known.iter().copied().chain(sections)).map(str::to_owned),
        })
    }

    /// Whether somebody said it: it isn't just the default.
    pub(super) fn is_explicit(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|given| given.place != ValueSource::BuiltIn)
    }

    /// Where the value of `key` came from.
    pub(super) fn place(&self, key: &str) -> ValueSource {
        self.0.get(key).map_or(ValueSource::BuiltIn, |given| given.place.clone())
    }

    /// Where the first of all values stands.
    pub(super) fn any_place(&self) -> Option<&ValueSource> {
        self.0.values().map(|given| &given.place).min_by_key(|place| match place {
            ValueSource::File { line, .. } => *line,
            _ => usize::MAX,
        })
    }

    /// The error that says what is wrong with the value of `key`.
    pub(super) fn invalid(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            key: key.to_owned(),
            value: self.0.get(key).and_then(|given| display_value(key, &given.value)),
            place: self.place(key),
            problem: problem.into(),
        }
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &self,
        key: &str,
        value: Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        value?.ok_or_else(|| {
            let remedy = "it has no default".to_owned();
            ConfigError::Missing { key: key.to_owned(), remedy }
        })
    }

    /// A value that may be of more than one kind.
    pub(super) fn raw(&self, key: &str) -> Option<&RawValue> {
        self.0.get(key).map(|given| &given.value)
    }

    /// Text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        match self.0.get(key).map(|given| &given.value) {
            None => Ok(None),
            Some(RawValue::Untyped(text) | RawValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(key, "expected text, in quotes")),
        }
    }

    /// Text that says how it is to be read.
    pub(super) fn parsed<T>(&self, key: &str) -> Result<Option<T>, ConfigError>
    where
        T: std::str::FromStr<Err: fmt::Display>,
    {
        let parse = |text: &str| text.parse().map_err(|error: T::Err| self.invalid(key, error.to_string()));
        self.text(key)?.map(parse).transpose()
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let choose = |text: &str| parse_choice(text, words).map_err(|problem| self.invalid(key, problem));
        self.text(key)?.map(choose).transpose()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.0.get(key).map(|given| &given.value) {
            None => Ok(None),
            Some(RawValue::Boolean(value)) => Ok(Some(*value)),
            Some(RawValue::Untyped(text)) if text == "true" => Ok(Some(true)),
            Some(RawValue::Untyped(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(self.invalid(key, "expected true or false, without quotes")),
        }
    }

    /// A whole number of this range.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ConfigError> {
        let number = match self.0.get(key).map(|given| &given.value) {
            None => return Ok(None),
            Some(RawValue::Integer(digits) | RawValue::Untyped(digits)) => digits.parse().ok(),
            Some(_) => None,
        };
        let problem = || format!("expected a whole number from {} to {}", range.start(), range.end());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(key, problem())),
        }
    }

    /// A number of this range.
    pub(super) fn fraction(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ConfigError> {
        let number = match self.0.get(key).map(|given| &given.value) {
            None => return Ok(None),
            Some(RawValue::Integer(digits) | RawValue::Untyped(digits) | RawValue::Other(digits)) => {
                digits.parse().ok()
            }
            Some(_) => None,
        };
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                Err(self.invalid(key, format!("expected a number from {} to {}", range.start(), range.end())))
            }
        }
    }

    /// A duration of at least `min` and at most [`LONGEST`].
    pub(super) fn duration(&self, key: &str, min: Duration) -> Result<Option<Duration>, ConfigError> {
        let expected = || {
            let (min, max) = (humantime::format_duration(min), humantime::format_duration(LONGEST));
            format!("expected a duration such as 90s, 15m or 14d, from {min} to {max}")
        };
        let text = match self.0.get(key).map(|given| &given.value) {
            None => return Ok(None),
            Some(RawValue::Untyped(text) | RawValue::Text(text)) => text,
            Some(_) => return Err(self.invalid(key, expected())),
        };
        match humantime::parse_duration(text).ok().filter(|value| (min..=LONGEST).contains(value)) {
            Some(value) => Ok(Some(value)),
            None => Err(self.invalid(key, expected())),
        }
    }

    /// A size in bytes, not 0.
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let size = match self.0.get(key).map(|given| &given.value) {
            None => return Ok(None),
            Some(RawValue::Untyped(text) | RawValue::Text(text) | RawValue::Integer(text)) => {
                text.parse::<ByteSize>().ok()
            }
            Some(_) => None,
        };
        // Beyond what 63 bits hold, `bytesize` saturates.
        match size.map(|size| size.as_u64()).filter(|size| (1..=i64::MAX.unsigned_abs()).contains(size)) {
            Some(size) => Ok(Some(size)),
            None => {
                Err(self.invalid(key, "expected a size such as 512KiB or 2MiB; leave it out for no limit"))
            }
        }
    }

    /// A list of texts, each parsed by `item`, which says what is wrong with one.
    pub(super) fn list<T>(
        &self,
        key: &str,
        item: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let not_a_list = || self.invalid(key, r#"expected a list of texts such as ["one", "two"]"#);
        let items = match self.0.get(key).map(|given| &given.value) {
            None => return Ok(None),
            Some(RawValue::List(items)) => items.clone(),
            Some(RawValue::Untyped(text)) => file::parse_list(text).ok_or_else(not_a_list)?,
            Some(_) => return Err(not_a_list()),
        };
        let parse = |raw: &RawValue| match raw {
            RawValue::Text(text) => {
                item(text).map_err(|problem| self.invalid(key, format!("{}: {problem}", quoted(text))))
            }
            _ => Err(not_a_list()),
        };
        items.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    /// A list of values that say how they are to be read.
    pub(super) fn parsed_list<T>(&self, key: &str) -> Result<Option<Vec<T>>, ConfigError>
    where
        T: std::str::FromStr<Err: fmt::Display>,
    {
        self.list(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// A secret, given as such or in a file.
    pub(super) fn secret(&self, key: &str) -> Result<Option<SecretString>, ConfigError> {
        let in_file = format!("{key}_file");
        let given = self.text(key)?;
        let Some(path) = self.text(&in_file)?.map(PathBuf::from) else {
            return Ok(given.map(SecretString::from));
        };
        if self.is_explicit(key) {
            let problem = format!("{key} is given too, {}: keep one of them", self.place(key));
            return Err(self.invalid(&in_file, problem));
        }
        let secret = secret::read_file(&path).map_err(|source| ConfigError::Unreadable {
            path,
            key: Some(in_file.clone()),
            source,
        })?;
        if secret.expose_secret().is_empty() {
            return Err(self.invalid(&in_file, "the file is empty"));
        }
        Ok(Some(secret))
    }
}

/// The value of this word, or what is expected instead.
pub(super) fn parse_choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| {
        let list: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(text, list.iter().copied()).map(|word| format!(" (did you mean {word}?)"));
        format!("expected one of {}{}", list.join(", "), hint.unwrap_or_default())
    })
}

fn display_value(key: &str, value: &RawValue) -> Option<String> {
    if SECRETS.contains(&key) {
        return None;
    }
    match value {
        RawValue::Untyped(text) | RawValue::Text(text) => Some(quoted(text)),
        RawValue::Integer(text) | RawValue::Other(text) => Some(text.clone()),
        RawValue::Boolean(value) => Some(value.to_string()),
        RawValue::Table(_) if !TABLE_KEYS.contains(&key) => Some("a table".to_owned()),
        RawValue::List(_) | RawValue::Table(_) => None,
    }
}

/// `text` in quotes, without line ends or a terminal's commands, and not endless. What looks like a
/// URL with a password isn't shown.
fn quoted(text: &str) -> String {
    if text.contains("://") && text.contains('@') {
        return "(not shown: it may hold a password)".to_owned();
    }
    let short: String = text.chars().take(SHOWN).collect();
    let rest = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{rest}\"", short.escape_debug())
}

/// Keys whose value is never shown.
const SECRETS: [&str; 4] =
    ["database.url", "tokens.secret", "routes.set_request_headers", "routes.set_response_headers"];

/// How much of a value is shown, in characters.
const SHOWN: usize = 100;

/// Ten years: longer than any session, and nowhere near the end of the calendar.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
