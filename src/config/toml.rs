//! TOML parsing that keeps the line of every key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ValueSource};
use super::keys::{KEYS, TABLE_KEYS};
use super::value::{RawValue, SourcedValue};

/// The contents of a file: values by dotted key, and one map for each `[[routes]]` table.
#[derive(Default)]
pub(super) struct ParsedFile {
    pub(super) settings: BTreeMap<String, SourcedValue>,
    pub(super) routes: Vec<BTreeMap<String, SourcedValue>>,
}

/// Parses `text`, the contents of the file `path`; `place_of_line` makes the source of a value from its line.
pub(super) fn parse(
    path: &Path,
    text: &str,
    place_of_line: impl Fn(usize) -> ValueSource,
) -> Result<ParsedFile, ConfigError> {
    let place = |span: Range<usize>| place_of_line(line_of(text, span.start));
    let root = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        problem: error.message().to_owned(),
    })?;
    let mut file = ParsedFile::default();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("routes", DeValue::Array(tables)) => {
                for table in tables {
                    let DeValue::Table(table) = table.get_ref() else {
                        return Err(not_routes(place(key.span())));
                    };
                    let mut route = BTreeMap::new();
                    flatten("routes", table, &place, &mut route);
                    file.routes.push(route);
                }
            }
            ("routes", _) => return Err(not_routes(place(key.span()))),
            (section, DeValue::Table(table)) if is_section(section) || !table.is_empty() => {
                flatten(section, table, &place, &mut file.settings);
            }
            (name, value) => {
                let value = SourcedValue { value: raw_value(value), place: place(key.span()) };
                file.settings.insert(name.to_owned(), value);
            }
        }
    }
    Ok(file)
}

/// Parses the items of a TOML array that stands in an environment variable.
pub(super) fn parse_list(text: &str) -> Option<Vec<RawValue>> {
    let document = format!("list = {text}");
    let root = DeTable::parse(&document).ok()?;
    let (_, list) = root.get_ref().iter().next().filter(|_| root.get_ref().len() == 1)?;
    match raw_value(list.get_ref()) {
        RawValue::List(items) => Some(items),
        _ => None,
    }
}

/// Inserts the values of `table` under dotted keys. A nested table is flattened too, unless its key
/// accepts a table, so that an unknown key is reported by its full name.
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    place: &impl Fn(Range<usize>) -> ValueSource,
    values: &mut BTreeMap<String, SourcedValue>,
) {
    for (key, value) in table {
        let name = format!("{prefix}.{}", key.get_ref());
        let is_key = KEYS.contains(&name.as_str()) || TABLE_KEYS.contains(&name.as_str());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() && !is_key => flatten(&name, inner, place, values),
            value => {
                values.insert(name, SourcedValue { value: raw_value(value), place: place(key.span()) });
            }
        }
    }
}

fn raw_value(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(number) => {
            // Converts other radixes to decimal. A number beyond 128 bits stays as written, and no key
            // accepts it.
            let decimal = i128::from_str_radix(number.as_str(), number.radix());
            RawValue::Integer(decimal.map_or_else(|_| number.to_string(), |number| number.to_string()))
        }
        DeValue::Float(number) => RawValue::Other(number.to_string()),
        DeValue::Boolean(value) => RawValue::Boolean(*value),
        DeValue::Datetime(time) => RawValue::Other(time.to_string()),
        DeValue::Array(items) => RawValue::List(items.iter().map(|item| raw_value(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let pairs = table.iter();
            RawValue::Table(
                pairs.map(|(key, value)| (key.get_ref().to_string(), raw_value(value.get_ref()))).collect(),
            )
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
