//! Languages of pages, and the choice among them.

use std::sync::Arc;

use http::HeaderValue;
use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::catalogue::{Catalogue, fill_in};
use super::date::format_time;
use super::error::PagesError;
use super::files::OperatorFiles;

/// A language of the pages, with its texts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Language(Arc<Catalogue>);

impl Language {
    pub(super) fn load(tag: &str, files: OperatorFiles<'_>) -> Result<Self, PagesError> {
        Catalogue::load(tag, files).map(|catalogue| Self(Arc::new(catalogue)))
    }

    /// Returns the language tag (BCP 47), such as `en`.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.0.tag
    }

    /// Returns the function `t` of templates: a text by its key, with the values of its placeholders.
    pub(super) fn text_function(&self) -> Value {
        let catalogue = Arc::clone(&self.0);
        Value::from_function(move |key: String, values: Kwargs| {
            let text = catalogue
                .find(&key)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("there is no text {key}")))?;
            Ok(fill_in(text, |name| values.get::<Value>(name).ok().map(|value| value.to_string())))
        })
    }

    /// Returns the function `date` of templates: a time of RFC 3339 as people write it.
    pub(super) fn date_function(&self) -> Value {
        let catalogue = Arc::clone(&self.0);
        Value::from_function(move |time: String| {
            let time = OffsetDateTime::parse(&time, &Rfc3339)
                .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
            Ok::<_, Error>(format_time(&catalogue, time))
        })
    }
}

/// Returns the language that `Accept-Language` prefers, or the first one (RFC 4647 section 3.4, "lookup").
///
/// # Panics
///
/// If `languages` is empty.
pub(super) fn choose<'a>(languages: &'a [Language], accept_language: Option<&HeaderValue>) -> &'a Language {
    let header = accept_language.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut ranges: Vec<_> = header.split(',').filter_map(parse_range).collect();
    // Stable: of equal weights, the first range takes precedence.
    ranges.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let find = |range: &str| languages.iter().find(|language| matches(language.tag(), range));
    ranges.iter().find_map(|(range, _)| find(range)).unwrap_or(&languages[0])
}

/// Parses a range with its weight in thousandths. Returns `None` for a weight of 0.
fn parse_range(element: &str) -> Option<(&str, u16)> {
    let mut parts = element.split(';').map(str::trim);
    let range = parts.next().filter(|range| !range.is_empty())?;
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let weight = weight.map_or(Some(1_000), parse_weight)?;
    (weight > 0).then_some((range, weight))
}

/// Parses a weight of at most three decimals (RFC 9110 section 12.4.2).
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if !matches!(whole, "0" | "1")
        || decimals.len() > 3
        || !decimals.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    format!("{whole}{decimals:0<3}").parse().ok().filter(|weight| *weight <= 1_000)
}

/// Returns `true` if a language is in the range, or is a more general form of it: `ja` for `ja-JP`.
fn matches(tag: &str, range: &str) -> bool {
    let is_prefix = |short: &str, long: &str| {
        let (head, rest) = long.split_at_checked(short.len()).unwrap_or_default();
        head.eq_ignore_ascii_case(short) && (rest.is_empty() || rest.starts_with('-'))
    };
    range == "*" || is_prefix(tag, range) || is_prefix(range, tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages() -> Vec<Language> {
        ["en", "ja"].map(|tag| Language::load(tag, OperatorFiles(None)).unwrap()).to_vec()
    }

    #[test]
    fn preferred_language_is_chosen() {
        let languages = languages();
        for (header, expected) in [
            ("ja", "ja"),
            ("JA-jp", "ja"),
            ("ja-Hira-JP, en;q=0.9", "ja"),
            ("fr-CH, fr;q=0.9, ja;q=0.8, en;q=0.7", "ja"),
            ("en;q=0.1, ja;q=0.101", "ja"),
            ("en;q=0.5,ja;q=0.5", "en"),
            ("de, *;q=0.5", "en"),
            ("ja;q=0, *", "en"),
            ("ja;q=0", "en"),
            ("ja;q=NaN, en;q=0.1", "en"),
            ("ja;q=1.1", "en"),
            ("jav", "en"),
            ("de", "en"),
            ("", "en"),
            (",;,q=1;;", "en"),
            ("ja ; q=0.3", "ja"),
        ] {
            let value = HeaderValue::try_from(header).unwrap();
            assert_eq!(choose(&languages, Some(&value)).tag(), expected, "{header}");
        }
        assert_eq!(choose(&languages, None).tag(), "en");
        assert_eq!(choose(&languages, Some(&HeaderValue::from_bytes(b"ja\xff").unwrap())).tag(), "en");
    }

    #[test]
    fn general_range_finds_a_regional_language() {
        assert!(matches("pt-BR", "pt"));
        assert!(!matches("pt-BR", "pt-PT"));
        assert!(!matches("en", "e"));
    }

    #[test]
    fn dates_follow_the_language() {
        let time = time::macros::datetime!(2026-11-09 05:07:59 +09:00);
        let dates: Vec<_> = languages().iter().map(|language| format_time(&language.0, time)).collect();
        assert_eq!(dates, ["8 November 2026, 20:07 UTC", "2026年11月8日 20:07（UTC）"]);
    }
}
