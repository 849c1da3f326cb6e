//! Reads TOML, remembering the line of every key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ValueSource};
use super::settings::{RawValue, SourcedValue};
use super::{KEYS, TABLE_KEYS};

/// What a file says: values by dotted key, and one table for each route.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) settings: BTreeMap<String, SourcedValue>,
    pub(super) routes: Vec<BTreeMap<String, SourcedValue>>,
}

/// Parses `text`; `place` makes a place of a line.
pub(super) fn parse(text: &str, place: impl Fn(usize) -> ValueSource) -> Result<Parsed, ConfigError> {
    let at = |span: Range<usize>| place(line_of(text, span.start));
    let root = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: PathBuf::new(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        problem: error.message().to_owned(),
    })?;
    let mut parsed = Parsed::default();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("routes", DeValue::Array(tables)) => {
                for table in tables {
                    let DeValue::Table(table) = table.get_ref() else {
                        return Err(not_routes(at(key.span())));
                    };
                    let mut route = BTreeMap::new();
                    flatten("routes", table, &at, &mut route);
                    parsed.routes.push(route);
                }
            }
            ("routes", _) => return Err(not_routes(at(key.span()))),
            (section, DeValue::Table(table)) if is_section(section) || !table.is_empty() => {
                flatten(section, table, &at, &mut parsed.settings);
            }
            (name, value) => {
                parsed
                    .settings
                    .insert(name.to_owned(), SourcedValue { value: raw(value), place: at(key.span()) });
            }
        }
    }
    Ok(parsed)
}

/// The strings of a TOML array, as an environment variable holds it.
pub(super) fn parse_list(text: &str) -> Option<Vec<RawValue>> {
    let document = format!("list = {text}");
    let root = DeTable::parse(&document).ok()?;
    let (_, list) = root.get_ref().iter().next().filter(|_| root.get_ref().len() == 1)?;
    match raw(list.get_ref()) {
        RawValue::List(items) => Some(items),
        _ => None,
    }
}

/// Tables within a section are no keys of ours, but for a few; the others' own keys are named, so that
/// they can be found.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    at: &impl Fn(Range<usize>) -> ValueSource,
    into: &mut BTreeMap<String, SourcedValue>,
) {
    for (key, value) in table {
        let name = format!("{prefix}.{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner)
                if !inner.is_empty() && ![KEYS, TABLE_KEYS].concat().contains(&name.as_str()) =>
            {
                flatten(&name, inner, at, into);
            }
            value => {
                into.insert(name, SourcedValue { value: raw(value), place: at(key.span()) });
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(number) => {
            // As decimal digits, whatever it was; one beyond 128 bits stays as it is, and is refused.
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            RawValue::Integer(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
        }
        DeValue::Float(number) => RawValue::Other(number.to_string()),
        DeValue::Boolean(value) => RawValue::Boolean(*value),
        DeValue::Datetime(time) => RawValue::Other(time.to_string()),
        DeValue::Array(items) => RawValue::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref().to_string(), raw(value.get_ref())));
            RawValue::Table(pairs.collect())
        }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.split_once('.').is_some_and(|(section, _)| section == name))
}

fn not_routes(place: ValueSource) -> ConfigError {
    ConfigError::Invalid {
        key: "routes".to_owned(),
        value: None,
        place,
        problem: "expected one table for each route, headed [[routes]]".to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
